/* Who heard from whom: entries (peer, client) in a hash table, chained by client (newest first) and by peer.
 *
 * Happy path: heard_note finds the entry at the head of the client's list, or by one look-up.  Without memory, or beyond
 * HEARD_MAX, nothing is noted: that client then learns of the peer's leaving by its own time-outs, as without a relay's help. */
#include "node/heard.h"

#include <stdlib.h>
#include <string.h>

struct heard_peer {
    struct derp_key key;
    struct heard_peer *chain;
    struct heard_entry *clients;
};

struct heard_entry {
    struct heard_peer *peer;
    struct conn *conn;
    struct heard_entry *chain;                 /* same bucket */
    struct heard_entry *conn_prev, *conn_next; /* same client, newest first */
    struct heard_entry *peer_prev, *peer_next; /* same peer */
};

struct heard {
    uint64_t seed;
    struct heard_entry **entries; /* by peer and client */
    struct heard_peer **peers;    /* by peer */
    size_t n_buckets;             /* of both, a power of two */
    size_t n_entries, n_peers;
};

enum { FIRST_BUCKETS = 256 };

static uint64_t mix(uint64_t a, uint64_t b)
{
    unsigned __int128 m = (unsigned __int128)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

/* Keyed, so that nobody outside can choose keys that collide. */
static uint64_t peer_hash(const struct heard *h, const struct derp_key *key)
{
    uint64_t w[4];
    memcpy(w, key->b, sizeof(w));
    return mix(w[0] ^ h->seed, w[1] ^ 0x9e3779b97f4a7c15u) ^ mix(w[2] ^ h->seed, w[3] ^ 0xbf58476d1ce4e5b9u);
}

static size_t entry_bucket(const struct heard *h, uint64_t peer, const struct conn *c)
{
    return (size_t)mix(peer ^ c->gen, 0x9e3779b97f4a7c15u ^ h->seed) & (h->n_buckets - 1);
}

struct heard *heard_new(uint64_t seed)
{
    struct heard *h = calloc(1, sizeof(*h));
    if (!h)
        return NULL;
    h->seed = seed | 1;
    h->n_buckets = FIRST_BUCKETS;
    h->entries = calloc(h->n_buckets, sizeof(*h->entries));
    h->peers = calloc(h->n_buckets, sizeof(*h->peers));
    if (!h->entries || !h->peers) {
        heard_free(h);
        return NULL;
    }
    return h;
}

void heard_free(struct heard *h)
{
    if (!h)
        return;
    for (size_t i = 0; h->entries && h->peers && i < h->n_buckets; i++) {
        for (struct heard_entry *e = h->entries[i], *next; e; e = next) {
            next = e->chain;
            free(e);
        }
        for (struct heard_peer *p = h->peers[i], *next; p; p = next) {
            next = p->chain;
            free(p);
        }
    }
    free(h->entries);
    free(h->peers);
    free(h);
}

static void grow(struct heard *h)
{
    size_t n = h->n_buckets * 2, old = h->n_buckets;
    struct heard_entry **entries = calloc(n, sizeof(*entries));
    struct heard_peer **peers = calloc(n, sizeof(*peers));
    if (!entries || !peers) { /* stay as we are, only slower */
        free(entries);
        free(peers);
        return;
    }
    h->n_buckets = n;
    for (size_t i = 0; i < old; i++) {
        for (struct heard_entry *e = h->entries[i], *next; e; e = next) {
            next = e->chain;
            size_t b = entry_bucket(h, peer_hash(h, &e->peer->key), e->conn);
            e->chain = entries[b];
            entries[b] = e;
        }
        for (struct heard_peer *p = h->peers[i], *next; p; p = next) {
            next = p->chain;
            size_t b = (size_t)peer_hash(h, &p->key) & (n - 1);
            p->chain = peers[b];
            peers[b] = p;
        }
    }
    free(h->entries);
    free(h->peers);
    h->entries = entries;
    h->peers = peers;
}

static struct heard_peer **peer_at(const struct heard *h, const struct derp_key *key)
{
    struct heard_peer **at = &h->peers[peer_hash(h, key) & (h->n_buckets - 1)];
    while (*at && !key_equal(&(*at)->key, key))
        at = &(*at)->chain;
    return at;
}

static void conn_list_unlink(struct heard_entry *e)
{
    if (e->conn_prev)
        e->conn_prev->conn_next = e->conn_next;
    else
        e->conn->heard = e->conn_next;
    if (e->conn_next)
        e->conn_next->conn_prev = e->conn_prev;
}

static void conn_list_front(struct heard_entry *e)
{
    e->conn_prev = NULL;
    e->conn_next = e->conn->heard;
    if (e->conn_next)
        e->conn_next->conn_prev = e;
    e->conn->heard = e;
}

static void entry_free(struct heard *h, struct heard_entry *e)
{
    struct heard_peer *p = e->peer;
    struct heard_entry **at = &h->entries[entry_bucket(h, peer_hash(h, &p->key), e->conn)];
    while (*at != e)
        at = &(*at)->chain;
    *at = e->chain;
    conn_list_unlink(e);
    e->conn->n_heard--;
    if (e->peer_prev)
        e->peer_prev->peer_next = e->peer_next;
    else
        p->clients = e->peer_next;
    if (e->peer_next)
        e->peer_next->peer_prev = e->peer_prev;
    free(e);
    h->n_entries--;
    if (!p->clients) {
        struct heard_peer **pat = peer_at(h, &p->key);
        *pat = p->chain;
        free(p);
        h->n_peers--;
    }
}

static void drop_oldest(struct heard *h, struct conn *c)
{
    struct heard_entry *last = c->heard;
    while (last->conn_next)
        last = last->conn_next;
    entry_free(h, last);
}

static void note_new(struct heard *h, struct conn *c, const struct derp_key *key)
{
    if (h->n_entries >= HEARD_MAX)
        return;
    if (c->n_heard >= HEARD_PER_CLIENT)
        drop_oldest(h, c);
    if (h->n_entries >= h->n_buckets)
        grow(h);
    struct heard_peer **pat = peer_at(h, key), *p = *pat;
    struct heard_entry *e = calloc(1, sizeof(*e));
    if (e && !p) {
        p = calloc(1, sizeof(*p));
        if (p) {
            p->key = *key;
            *pat = p;
            h->n_peers++;
        }
    }
    if (!e || !p) {
        free(e);
        return;
    }
    e->peer = p;
    e->conn = c;
    size_t b = entry_bucket(h, peer_hash(h, key), c);
    e->chain = h->entries[b];
    h->entries[b] = e;
    conn_list_front(e);
    c->n_heard++;
    e->peer_next = p->clients;
    if (p->clients)
        p->clients->peer_prev = e;
    p->clients = e;
    h->n_entries++;
}

void heard_note(struct heard *h, struct conn *c, const struct derp_key *peer)
{
    if (c->heard && key_equal(&c->heard->peer->key, peer))
        return;
    struct heard_entry *e = h->entries[entry_bucket(h, peer_hash(h, peer), c)];
    while (e && !(e->conn == c && key_equal(&e->peer->key, peer)))
        e = e->chain;
    if (!e) {
        note_new(h, c, peer);
        return;
    }
    conn_list_unlink(e);
    conn_list_front(e);
}

void heard_gone(struct heard *h, const struct derp_key *peer, void (*tell)(void *ctx, struct conn *c),
                void *ctx)
{
    struct heard_peer *p = *peer_at(h, peer);
    while (p) {
        struct heard_entry *e = p->clients;
        bool last = !e->peer_next; /* entry_free of the last one frees p */
        tell(ctx, e->conn);
        entry_free(h, e);
        if (last)
            break;
    }
}

void heard_drop(struct heard *h, struct conn *c)
{
    while (c->heard)
        entry_free(h, c->heard);
}

size_t heard_bytes(const struct heard *h)
{
    return h->n_entries * sizeof(struct heard_entry) + h->n_peers * sizeof(struct heard_peer) +
           h->n_buckets * 2 * sizeof(void *);
}
