/* The pages of a DERP port that are made at the moment: /debug/varz and /bootstrap-dns under the name derper;
 * otherwise /derp/peer?q=NAME: whether this node hears that node of the mesh, which `derpmesh follow` asks several of before
 * it believes that one is dead.  It tells nothing to who does not know the name.
 *
 * Thread: the worker's. */
#ifndef DERPMESH_NODE_PAGES_H
#define DERPMESH_NODE_PAGES_H

#include <stdbool.h>

#include "node/http.h"
#include "node/worker.h"

/* Whether this client may see /debug: tsweb.AllowDebugAccess.  Loopback, the tailnet, what the operator trusts; nobody
 * who comes by a proxy that says so. */
bool pages_debug(const struct conn *c, const struct http1_head *head);
/* A certificate authority's question (http-01, RFC 8555 8.3): the file that uacme's hook has put there for its token.  Read
 * here and now: it is short, and only there while a certificate is being got.  False if it is no such question, or nobody
 * asks for certificates here. */
bool pages_challenge(struct conn *c, const struct http1_head *head);
/* Sends what reply->action asks for: HTTP_VARZ, HTTP_BOOTSTRAP, HTTP_PEER. */
void pages_send(struct conn *c, struct http_reply *reply, const struct http1_head *head);

#endif
