/* A DERP client on a stream: what probe (and whatever else must see a relay as clients do) talks through.
 *
 * new → resolve → TCP → TLS as the map says → Upgrade: DERP → ServerKey/ClientInfo/ServerInfo → open() → packets.
 * Source: tailscale.com/derp/derphttp (connect), derp/derp_client.go.
 * Owner: the caller; thread: the loop's.  Exactly one closed(), after which the client is freed by itself. */
#ifndef DERPMESH_NODE_DERP_CLIENT_H
#define DERPMESH_NODE_DERP_CLIENT_H

#include <stdint.h>

#include "node/stream.h"
#include "proto/derpmap.h"
#include "proto/key.h"

struct derp_client;

struct derp_client_ops {
    void (*open)(void *ctx, struct derp_client *c); /* logged in */
    void (*packet)(void *ctx, struct derp_client *c, const struct derp_key *src, const uint8_t *payload,
                   size_t len);
    void (*peer_gone)(void *ctx, struct derp_client *c, const struct derp_key *peer,
                      uint8_t reason);                                            /* may be NULL */
    void (*pong)(void *ctx, struct derp_client *c, const uint8_t data[static 8]); /* may be NULL */
    /* why: "node NAME (HOST): …", for a person; "" if derp_client_close was called. */
    void (*closed)(void *ctx, struct derp_client *c, const char *why);
};

struct derp_client_params {
    struct stream_io *io;
    SSL_CTX *tls;                    /* tls_client_ctx_new's; NULL: plain HTTP, to a node with tls off */
    const struct derpmap_node *node; /* lives as long as the client */
    struct key_pair key;
    bool prober;
    const struct derp_client_ops *ops;
    void *ctx;
};

/* NULL without memory (closed is not called then). */
struct derp_client *derp_client_new(const struct derp_client_params *p);
void derp_client_send(struct derp_client *c, const struct derp_key *dst, const uint8_t *payload, size_t len);
void derp_client_ping(struct derp_client *c, const uint8_t data[static 8]);
void derp_client_prefer(struct derp_client *c, bool home);
void derp_client_close(struct derp_client *c);
/* ms since the connection began until TLS stood and until the login was answered; < 0 while not there. */
struct derp_client_times {
    double tls_ms, login_ms;
};
struct derp_client_times derp_client_times(const struct derp_client *c);

#endif
