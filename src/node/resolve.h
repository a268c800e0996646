/* The addresses under which a node of the map can be reached: its IPv4 and IPv6 fields, else its HostName by DNS.
 *
 * Source: tailscale.com/derp/derphttp dialNode ("none" switches a family off).
 * Thread: the loop's. */
#ifndef DERPMESH_NODE_RESOLVE_H
#define DERPMESH_NODE_RESOLVE_H

#include <stdbool.h>
#include <uv.h>

#include "proto/derpmap.h"

enum { RESOLVE_MAX = 8 };

struct resolve {
    uv_getaddrinfo_t req;
    struct sockaddr_storage addr[RESOLVE_MAX];
    int n, next;
    uint16_t port;
    const struct derpmap_node *node;
    /* n > 0: addresses stand in addr; else err is a libuv error. */
    void (*done)(struct resolve *r, int err);
    void *ctx;
};

/* done follows, maybe before this returns.  port: of the addresses.  r and node live until done.
 * 0, or a libuv error (done is not called then). */
int resolve_start(struct resolve *r, uv_loop_t *loop, const struct derpmap_node *node, int port,
                  void (*done)(struct resolve *r, int err), void *ctx);

#endif
