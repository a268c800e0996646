/* What a person asks a running node: how it is, what is wrong, where a client is.
 *
 * Thread: the control loop's.  JSON values are the caller's to json_decref; NULL without memory. */
#ifndef DERPMESH_NODE_STATUS_H
#define DERPMESH_NODE_STATUS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "node/control.h"

/* Said at every start and in every status of a node without admission. */
#define STATUS_OPEN                                                                                          \
    "anyone may use this relay; close it with --allow FILE, --verify-url URL or --verify-socket PATH"

json_t *status_json(const struct control *c);
/* key is "nodekey:<64 hex>"; else the answer is {"error": …}. */
json_t *status_where(const struct control *c, const char *key);
/* {"error": text} */
json_t *status_error(const char *text);

/* Calls say once for each thing that a person should do something about. */
void status_problems(const struct control *c, void (*say)(void *ctx, const char *sentence), void *ctx);
/* Of these, what concerns certificates: those served, and files that are not taken over. */
void status_certificate_problems(const struct control *c, void (*say)(void *ctx, const char *sentence),
                                 void *ctx);
/* Whether there is a fault of this kind. */
bool status_certificate_fault(const struct control *c, enum tls_fault fault, time_t now);
/* Calls out for each counter of the mesh. */
void status_mesh_counters(const struct control *c,
                          void (*out)(void *ctx, const char *name, const char *help, int gauge, uint64_t v),
                          void *ctx);
const char *status_peer_state(enum mesh_peer_state s);
/* Whether connections are taken: "open", "draining" or "full". */
const char *status_gate(const struct control *c);
/* "2036-01-01T00:00:00Z" */
enum { STATUS_TIME = 32 };
const char *status_time(char buf[static STATUS_TIME], time_t t);

#endif
