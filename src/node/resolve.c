/* Addresses of a node: literal fields first, DNS where there are none.  uv_getaddrinfo runs in libuv's thread pool. */
#include "node/resolve.h"

#include <stdio.h>
#include <string.h>

static void add_literal(struct resolve *r, const char *ip)
{
    struct sockaddr_storage *a = &r->addr[r->n];
    if (!ip || strcmp(ip, "none") == 0)
        return;
    if (uv_ip4_addr(ip, r->port, (struct sockaddr_in *)a) == 0 ||
        uv_ip6_addr(ip, r->port, (struct sockaddr_in6 *)a) == 0)
        r->n++;
}

static bool disabled(const char *ip)
{
    return ip && strcmp(ip, "none") == 0;
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
    struct resolve *r = req->data;
    for (struct addrinfo *a = list; status == 0 && a && r->n < RESOLVE_MAX; a = a->ai_next) {
        if (a->ai_addrlen > sizeof(r->addr[0]) ||
            disabled(a->ai_family == AF_INET ? r->node->ipv4 : r->node->ipv6))
            continue;
        memcpy(&r->addr[r->n++], a->ai_addr, a->ai_addrlen);
    }
    uv_freeaddrinfo(list);
    r->done(r, r->n > 0 ? 0 : status ? status : UV_EAI_NONAME);
}

int resolve_start(struct resolve *r, uv_loop_t *loop, const struct derpmap_node *node, int port,
                  void (*done)(struct resolve *r, int err), void *ctx)
{
    memset(r, 0, sizeof(*r));
    r->node = node;
    r->port = (uint16_t)port;
    r->done = done;
    r->ctx = ctx;
    r->req.data = r;
    add_literal(r, node->ipv4);
    add_literal(r, node->ipv6);
    if (r->n == 0)
        add_literal(r, node->host_name);
    if (r->n > 0) {
        done(r, 0);
        return 0;
    }
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    char service[8];
    snprintf(service, sizeof(service), "%u", r->port);
    return uv_getaddrinfo(loop, &r->req, on_resolved, node->host_name, service, &hints);
}
