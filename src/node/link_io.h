/* The connection under a mesh link: dialling, the upgrade, bytes to and from the relay and the control thread.
 *
 *   dial:   IN_DIAL → resolve → TCP → TLS (verified as the map says) → GET, Upgrade: derpmesh/1 → 101 ┐
 *   accept: session.c found the upgrade, answered 101 ────────────────────────────────────────────────┴→ IN_LINK_OPEN
 *   then control frames go to the control thread; IN_LINK_READY lets data pass.
 *
 * Thread: the worker's.  One IN_LINK_CLOSED for each IN_LINK_OPEN unless control closed it; one answer for each IN_DIAL. */
#ifndef DERPMESH_NODE_LINK_IO_H
#define DERPMESH_NODE_LINK_IO_H

#include "node/worker.h"

/* A login asked for the upgrade and got its 101: the connection is a link from now on. 0 or -1 no memory. */
int link_io_adopt(struct conn *c);
/* derper: logs in to a real one, as derper_peer.h tells. */
void link_io_dial(struct worker *w, uint64_t dial, struct site *site, const struct derpmap_node *node,
                  bool derper);
void link_io_dial_cancel(struct worker *w, uint64_t dial);
void link_io_send(struct worker *w, const struct conn_ref *ref, const uint8_t *frames, size_t len);
void link_io_ready(struct worker *w, const struct conn_ref *ref, uint32_t node);
void link_io_close(struct worker *w, const struct conn_ref *ref, const char *why);
void link_io_due(struct worker *w, struct conn *c, uint64_t now);
/* More of what was sent on this link has been acknowledged. */
void link_io_acked(struct conn *c, uint64_t bytes);
/* The worker stops: ends dials that are still resolving. */
void link_io_stop(struct worker *w);
/* The worker stops and control has ended this link: what control said last (BYE) leaves, queued data does not.  False: c is
 * nothing of that kind, and has to be closed. */
bool link_io_stop_one(struct conn *c);

#endif
