/* The connection table of a worker: slots reused first in first out, generations never. */
#include "node/conn.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int conn_table_init(struct conn_table *t, uint32_t worker)
{
    memset(t, 0, sizeof(*t));
    t->next_gen = ((uint64_t)worker << 48) + 1;
    return 0;
}

void conn_table_deinit(struct conn_table *t)
{
    free(t->slot);
    free(t->free_ring);
    memset(t, 0, sizeof(*t));
}

static int table_grow(struct conn_table *t)
{
    uint32_t cap = t->cap ? t->cap * 2 : 64;
    struct conn **slot = realloc(t->slot, cap * sizeof(*slot));
    if (!slot)
        return -1;
    t->slot = slot;
    /* only called when no slot is free, so the ring is empty and may move */
    uint32_t *ring = realloc(t->free_ring, cap * sizeof(*ring));
    if (!ring)
        return -1;
    t->free_ring = ring;
    t->free_head = 0;
    t->cap = cap;
    return 0;
}

int conn_add(struct conn_table *t, struct conn *c)
{
    uint32_t slot;
    if (t->n_free > 0) {
        slot = t->free_ring[t->free_head];
        t->free_head = (t->free_head + 1) % t->cap;
        t->n_free--;
    } else {
        if (t->n_slots == t->cap && table_grow(t) < 0)
            return -1;
        slot = t->n_slots++;
    }
    t->slot[slot] = c;
    c->slot = slot;
    c->gen = t->next_gen++;
    c->node = NODE_NONE;
    t->n_conns++;
    return 0;
}

void conn_remove(struct conn_table *t, struct conn *c)
{
    t->slot[c->slot] = NULL;
    t->free_ring[(t->free_head + t->n_free) % t->cap] = c->slot;
    t->n_free++;
    t->n_conns--;
}

void conn_addr_set(struct conn_addr *a, const struct sockaddr *sa)
{
    memset(a, 0, sizeof(*a));
    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;
        a->ip[10] = a->ip[11] = 0xff;
        memcpy(a->ip + 12, &in->sin_addr, 4);
        a->port = ntohs(in->sin_port);
    } else if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;
        memcpy(a->ip, &in6->sin6_addr, 16);
        a->port = ntohs(in6->sin6_port);
    }
}

const char *conn_addr_text(char buf[static CONN_ADDR_TEXT], const struct conn_addr *a)
{
    static const uint8_t v4[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    char ip[INET6_ADDRSTRLEN] = "?";
    if (memcmp(a->ip, v4, 12) == 0) {
        inet_ntop(AF_INET, a->ip + 12, ip, sizeof(ip));
        snprintf(buf, CONN_ADDR_TEXT, "%s:%u", ip, a->port);
    } else {
        inet_ntop(AF_INET6, a->ip, ip, sizeof(ip));
        snprintf(buf, CONN_ADDR_TEXT, "[%s]:%u", ip, a->port);
    }
    return buf;
}
