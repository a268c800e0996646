/* Questions to the node on this machine, over its admin socket, and values out of its answers.
 *
 * One question a connection: a line of JSON there, a JSON object back until the end of the stream. */
#ifndef DERPMESH_CLI_ADMIN_H
#define DERPMESH_CLI_ADMIN_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "proto/key.h"

enum { ADMIN_REPLY_MAX = 64 << 20, ADMIN_TIMEOUT_MS = 20000 };

/* Asks the node at this socket.  0 with the answer in *reply (json_decref it); else a sentence in err: -1 nobody answers, or no
 * JSON comes back; ADMIN_REFUSED the node says {"error": …}. */
enum { ADMIN_REFUSED = -2 };
int admin_ask(const char *socket_path, const char *question, json_t **reply, char *err, size_t err_len);

/* Members of an object, or what stands in for one that is missing or of another type (an older or newer node). */
const char *admin_str(const json_t *object, const char *key, const char *none);
double admin_num(const json_t *object, const char *key, double none);
bool admin_bool(const json_t *object, const char *key);

/* A client's key as a person writes it, with or without "nodekey:", in the node's spelling.  False if it is none. */
bool admin_client_key(char key[static KEY_TEXT_MAX], const char *text);

/* Prints text from a node with everything that could fool a terminal replaced by '?'. */
void admin_print(const char *text);
/* A time span of s seconds: "12 s", "3 min", "5 h 12 min", "8 d 3 h".  Into buf, which is returned. */
const char *admin_span(char buf[static 32], double s);

#endif
