/* A connection to a real derper as its mesh peer (Tailscale's derper -mesh-with): we watch who is connected there and
 * forward packets to them; what it sends us comes by the connection that it dials itself (derper_watch.h).
 *
 *   link_io.c: TCP, TLS, Upgrade: DERP → ServerKey in → ClientInfo with the derpers' mesh key out → ServerInfo in
 *   → WatchConns out → PeerPresent, PeerGone in (to the control thread), ForwardPacket out (relay_derper.c)
 *
 * Source: tailscale.com/cmd/derper/mesh.go, derp/derpserver.  Owner: its conn.  Thread: the worker's. */
#ifndef DERPMESH_NODE_DERPER_PEER_H
#define DERPMESH_NODE_DERPER_PEER_H

#include "node/worker.h"

/* c is to be a connection to a derper.  0 or -1 no memory. */
int derper_peer_new(struct conn *c);
void derper_peer_free(struct conn *c);
/* The 101 has come: login frames follow. */
void derper_peer_upgraded(struct conn *c);
bool derper_peer_is_upgraded(const struct conn *c);
/* Plaintext before the login is done: bytes done with, 0 for more, -1 with *why (static).  *done: logged in, clients are watched
 * from now on. */
ssize_t derper_peer_login(struct conn *c, uint8_t *buf, size_t n, bool *done, const char **why);
/* Plaintext after it.  As relay_link_input. */
ssize_t derper_peer_input(struct conn *c, uint8_t *buf, size_t n);
/* Once a second: asks a silent derper whether it lives.  False: it does not. */
bool derper_peer_due(struct conn *c, uint64_t now);

#endif
