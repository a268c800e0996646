/* tailscaled's LocalAPI over its Unix socket: does the machine's own tailnet know this node key?
 *
 * Source: client/local WhoIsNodeKey, ipn/localapi serveWhoIs; derpserver's verifyClient.  200 is a yes, 404 a no.  A
 * fresh connection for each question: the socket is another one after tailscaled has restarted.
 * Owner: admit_io.c.  Thread: its loop. */
#ifndef DERPMESH_NODE_VERIFY_SOCKET_H
#define DERPMESH_NODE_VERIFY_SOCKET_H

#include <stdint.h>
#include <uv.h>

#include "node/verify_url.h"

enum { VERIFY_SOCKET_MS = 5000 };

struct socket_question;

struct verify_socket {
    uv_loop_t *loop;
    verify_heard heard;
    void *ctx;
    char *path;                      /* NULL: off */
    struct socket_question *running; /* not answered yet */
};

/* Asks there from now on; NULL: nowhere.  What is under way is given up, unanswered.  0, or -1 without memory. */
int verify_socket_set(struct verify_socket *v, const char *path);
/* 0: heard follows, from the loop; -1: no memory. */
int verify_socket_ask(struct verify_socket *v, uint64_t question, const struct derp_key *key);
void verify_socket_close(struct verify_socket *v); /* gives up */

#endif
