/* A connection from accept to login: TLS, HTTP head, pages or upgrade, then the DERP login or a mesh link.
 *
 * Source: derpserver (accept, recvClientKey, sendServerInfo), cmd/derper; limits of docs/limits.md.
 * Thread: the worker's. */
#ifndef DERPMESH_NODE_SESSION_H
#define DERPMESH_NODE_SESSION_H

#include "node/worker.h"

enum { SESSION_DUE_MS = 2000 }; /* how often session_due is called for each connection */

/* Takes one pending connection of a listener. */
void session_accept(struct worker *w, struct worker_listener *l);
/* A client whose key has become at home at another node: pinged, and closed if its TCP does not answer. */
void session_doubt(struct worker *w, struct conn *c);
/* A deadline of a connection before login or of a client has come: keep-alive, time-outs. */
void session_due(struct worker *w, struct conn *c, uint64_t now);
/* A frame came from a connection that is not its key's active one: it is from now on. */
void session_make_active(struct conn *c);
/* The site's rate for clients is another one: c, if it is a client, has a full bucket of it and is read at once. */
void session_rate_changed(struct conn *c);
/* A login goes on or is closed; a client that is no longer welcome is closed.  Not from within any input. */
void session_admission(struct worker *w, const struct worker_answer *a);
/* Closes any connection of the worker, counted and logged. */
void session_close(struct conn *c, enum stat_id why, const char *text);

/* stream_ops.closed of all connections but links. */
void session_stream_closed(struct stream *s, enum stream_end end, const char *detail);

#endif
