/* A real derper that has dialled us as its mesh peer (its -mesh-with): it is told which keys are reached through this node,
 * and sends packets for them.
 *
 *   session.c: login with the derpers' mesh key → derper_watch_adopt → WatchConns in → PeerPresent, PeerGone out
 *   ForwardPacket in → relay_derper.c; ClosePeer in → the control thread
 *
 * Told are our own clients and those beyond us, but not those that are at a derper that we are connected to: it knows them
 * from that one.  A key is gone when it has left for certain, as for clients, or has been nowhere for GHOST_MS.
 * Source: tailscale.com/derp/derpserver (addWatcher, handleFrameForwardPacket).  Thread: the worker's. */
#ifndef DERPMESH_NODE_DERPER_WATCH_H
#define DERPMESH_NODE_DERPER_WATCH_H

#include "node/worker.h"

/* The login has shown the right key and is over.  0 or -1 no memory. */
int derper_watch_adopt(struct conn *c);
/* c closes. */
void derper_watch_end(struct conn *c);
/* Where the key is has changed; it has left for certain.  Cheap without watchers. */
void derper_watch_touch(struct worker *w, const struct derp_key *key);
void derper_watch_gone(struct worker *w, const struct derp_key *key);
/* Much has changed at once. */
void derper_watch_touch_all(struct worker *w);
/* The end of a turn: tells what has changed, as far as the queues take it. */
void derper_watch_flush(struct worker *w);
void derper_watch_due(struct conn *c, uint64_t now);
/* Another site: who has shown a key that is no longer ours is closed. */
void derper_watch_site(struct worker *w, const struct site *old);

#endif
