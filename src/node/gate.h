/* A worker's listening sockets: open, or closed while the node is full or draining; and sending its clients away.
 *
 *   OPEN ── full (max_clients) or draining ──> SHUT ── at 90 %, or undrain ──> OPEN
 *
 * Clients go on to the next node of a region only when TCP does not connect, and to another region when STUN is silent.  So a
 * node that wants no more of them closes its listeners and answers no STUN.  Connections that stand, links among them,
 * go on; links are dialled from here then.  The sockets stay bound, so that nobody else takes the port.
 * Owner and thread: the worker. */
#ifndef DERPMESH_NODE_GATE_H
#define DERPMESH_NODE_GATE_H

#include "node/http.h"
#include "node/worker.h"

/* Serves a bound socket, which is the worker's from now on, also on failure.  0 or a libuv error. */
int gate_listen(struct worker *w, int fd, enum http_port kind);
/* Looks whether the listeners are to be open; closes clients whose time has come.  At each tick and login. */
void gate_turn(struct worker *w);
/* Sends all clients away within so many ms, in batches, each told before (Restarting). */
void gate_drain(struct worker *w, uint64_t ms);
/* Those that are still here stay. */
void gate_undrain(struct worker *w);
/* A client has just logged in: if the node drains, it goes too. */
void gate_client(struct conn *c);
/* Tries again to accept where that was put off. */
void gate_accept_pending(struct worker *w);
/* The worker stops. */
void gate_stop(struct worker *w);

#endif
