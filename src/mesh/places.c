/* Places: per key the list of peers that serve it.
 *
 * A key's first place lies in the key map itself (16 bytes), others in a pool; each announced place is named by its
 * peer's slot table, which holds the key's position in the map in four bytes.  A deletion in the map moves its last
 * entry, so the slot tables of that entry's places are set anew (entry_moved).
 * Happy path: learn.c calls place_up and place_down, places_sets.c does whole sets; place_route compares the best place with the one that was last
 * told (PLACE_ROUTED) and calls ops->route when it is another.
 * How it fails: without memory place_up returns -1 and the link that brought it is closed, so that a sync repeats it. */
#include "mesh/places.h"

#include <stdlib.h>
#include <string.h>

#include "mesh/leaving.h"
#include "mesh/ours.h"
#include "mesh/places_parts.h"

int places_init(struct mesh *m, uint64_t seed)
{
    m->places.keys = keymap_new(sizeof(struct place), seed);
    return m->places.keys ? 0 : -1;
}

void places_deinit(struct mesh *m)
{
    keymap_free(m->places.keys);
    free(m->places.pool);
    free(m->places.glean_queue.e);
}

/* ---- lists of places ---- */

struct place *place_next(const struct mesh *m, const struct place *l)
{
    return l->next ? &m->places.pool[l->next - 1] : NULL;
}

struct place *place_find(const struct mesh *m, struct place *first, uint32_t node)
{
    if (!(first->flags & PLACE_USED))
        return NULL;
    struct place *l = first;
    while (l && l->node != node)
        l = place_next(m, l);
    return l;
}

/* A new place behind first's others; NULL without memory. */
static struct place *place_add(struct mesh *m, struct place *first)
{
    struct places *ps = &m->places;
    if (!(first->flags & PLACE_USED))
        return first;
    if (!ps->pool_free) {
        if (ps->pool_n == ps->pool_cap) {
            uint32_t cap = ps->pool_cap ? ps->pool_cap + ps->pool_cap / 2 : 64;
            struct place *p = realloc(ps->pool, cap * sizeof *p);
            if (!p)
                return NULL;
            ps->pool = p;
            ps->pool_cap = cap;
        }
        ps->pool[ps->pool_n].next = 0;
        ps->pool_free = ++ps->pool_n;
    }
    uint32_t at = ps->pool_free;
    struct place *l = &ps->pool[at - 1];
    ps->pool_free = l->next;
    *l = (struct place){.next = first->next};
    first->next = at;
    return l;
}

static void pool_release(struct mesh *m, uint32_t at)
{
    m->places.pool[at - 1].next = m->places.pool_free;
    m->places.pool_free = at;
}

/* Where the slot table of a place's peer names it. */
static uint32_t *slot_of(const struct mesh *m, const struct place *l)
{
    struct peer *p = m->peers[l->node];
    bool parity = l->flags & PLACE_PARITY;
    return parity == p->parity ? &p->slots[l->slot] : &p->old_slots[l->slot];
}

/* An entry of the key map has moved to pos. */
static void entry_moved(struct mesh *m, size_t pos)
{
    void *v;
    if (!keymap_at(m->places.keys, pos, &v))
        return;
    for (const struct place *l = v; l; l = place_next(m, l))
        if (!(l->flags & PLACE_GLEANED))
            *slot_of(m, l) = (uint32_t)pos + 1;
}

/* ---- the best place ---- */

/* At home there; at a derper that we are connected to; visiting; at a derper that the peer is connected to. */
static int place_worth(const struct mesh *m, const struct place *l)
{
    if (l->flags & PLACE_DERPER)
        return 0;
    if (m->peers[l->node]->derper)
        return 2;
    return l->flags & PLACE_HOME ? 3 : 1;
}

/* Announced before gleaned, a healthy link before a suspect one, home before visited, then the newest. */
static bool place_better(const struct mesh *m, const struct place *a, const struct place *b)
{
    const struct peer *pa = m->peers[a->node], *pb = m->peers[b->node];
    bool ga = a->flags & PLACE_GLEANED, gb = b->flags & PLACE_GLEANED;
    if (ga != gb)
        return gb;
    if (peer_rank(pa) != peer_rank(pb))
        return peer_rank(pa) > peer_rank(pb);
    int wa = place_worth(m, a), wb = place_worth(m, b);
    if (wa != wb)
        return wa > wb;
    if (a->age != b->age)
        return a->age > b->age;
    return memcmp(pa->id.b, pb->id.b, sizeof pa->id.b) < 0;
}

bool place_reachable(const struct mesh *m, const struct place *l)
{
    return peer_rank(m->peers[l->node]) > 0 && !(l->flags & PLACE_LOST);
}

/* Tells the route of the entry at pos if the best place is another than the one told: was, a node or NODE_NONE. */
static void route_tell(struct mesh *m, size_t pos, uint32_t was)
{
    void *v;
    const struct derp_key *key = keymap_at(m->places.keys, pos, &v);
    struct place *best = NULL;
    for (struct place *l = v; l; l = place_next(m, l)) {
        l->flags &= (uint16_t)~PLACE_ROUTED;
        if (place_reachable(m, l) && (!best || place_better(m, l, best)))
            best = l;
    }
    if (best)
        best->flags |= PLACE_ROUTED;
    uint32_t node = best ? best->node : (uint32_t)NODE_NONE;
    if (node != was)
        m->ops->route(m->ctx, key, node);
}

void place_route(struct mesh *m, size_t pos)
{
    void *v;
    uint32_t was = NODE_NONE;
    keymap_at(m->places.keys, pos, &v);
    for (struct place *l = v; l; l = place_next(m, l))
        if (l->flags & PLACE_ROUTED)
            was = l->node;
    route_tell(m, pos, was);
}

/* ---- coming and going ---- */

/* The flags of the entry that a place was made from. */
uint32_t place_flags(const struct place *l)
{
    return (l->flags & PLACE_HOME ? MESHMSG_HOME : 0) | (l->flags & PLACE_DERPER ? MESHMSG_DERPER : 0) |
           (l->flags & PLACE_LOST ? MESHMSG_LOST : 0);
}

/* An announced place enters its peer's digest, or leaves it. */
void place_sum(struct peer *p, const struct place *l, const struct derp_key *key)
{
    p->root ^= meshmsg_entry_hash(l->slot, key, place_flags(l), l->age);
}

/* May have left already, or a peer that was lost has it: when another place goes, the wait begins anew. */
static bool in_doubt(const struct mesh *m, const struct derp_key *key)
{
    if (leaving_has(m, key))
        return true;
    for (const struct place *l = keymap_get(m->places.keys, key); l; l = place_next(m, l))
        if (m->peers[l->node]->gone_at != NEVER)
            return true;
    return false;
}

/* Takes a peer's place out of the entry at pos.  announced: its owner said so. */
void place_remove(struct mesh *m, size_t pos, struct peer *p, bool announced)
{
    struct places *ps = &m->places;
    void *v;
    const struct derp_key *at = keymap_at(ps->keys, pos, &v);
    struct place *first = v, *l = place_find(m, first, p->index);
    if (!l)
        return;
    struct derp_key key = *at;
    struct place gone = *l;
    if (gone.flags & PLACE_GLEANED) {
        ps->n_gleaned--;
    } else {
        *slot_of(m, l) = 0;
        place_sum(p, l, &key);
        p->n_keys--;
    }
    bool last = l == first && !first->next;
    if (l == first && first->next) {
        uint32_t second = first->next;
        *first = ps->pool[second - 1];
        pool_release(m, second);
    } else if (last) {
        keymap_del(ps->keys, &key);
        entry_moved(m, pos);
        if (gone.flags & PLACE_ROUTED)
            m->ops->route(m->ctx, &key, NODE_NONE);
    } else {
        struct place *before = first;
        while (place_next(m, before) != l)
            before = place_next(m, before);
        uint32_t index = before->next;
        before->next = l->next;
        pool_release(m, index);
    }
    if (!last && gone.flags & PLACE_ROUTED)
        route_tell(m, pos, p->index);
    if (announced || in_doubt(m, &key))
        leaving_add(m, &key);
    if (p->derper)
        ours_derper(m, &key);
    if (gone.flags & PLACE_HOME)
        ours_elsewhere(m, &key);
}

static int slots_reserve(struct peer *p, uint32_t slot)
{
    if (slot < p->n_slots)
        return 0;
    uint32_t n = p->n_slots ? p->n_slots : 64;
    while (n <= slot)
        n *= 2;
    uint32_t *s = realloc(p->slots, n * sizeof *s);
    if (!s)
        return -1;
    memset(s + p->n_slots, 0, (n - p->n_slots) * sizeof *s);
    p->slots = s;
    p->n_slots = n;
    return 0;
}

int place_up(struct mesh *m, struct peer *p, uint32_t slot, const struct derp_key *key, uint32_t flags,
             uint32_t age)
{
    if (slot >= PEER_KEYS_MAX)
        return -2;
    if (slots_reserve(p, slot) != 0)
        return -1;
    if (p->slots[slot]) {
        size_t held = p->slots[slot] - 1;
        if (!key_equal(keymap_at(m->places.keys, held, NULL), key))
            place_remove(m, held, p, true);
    }
    size_t pos;
    struct place *first = keymap_put_at(m->places.keys, key, NULL, &pos);
    if (!first)
        return -1;
    struct place *l = place_find(m, first, p->index);
    bool was_home = l && l->flags & PLACE_HOME;
    uint32_t was_age = l ? l->age : 0;
    if (l && l->flags & PLACE_GLEANED) {
        m->places.n_gleaned--;
        p->n_keys++;
    } else if (l) {
        *slot_of(m, l) = 0;
        place_sum(p, l, key);
    } else {
        l = place_add(m, first);
        if (!l)
            return -1; /* only where the entry had a place before: it stays as it was */
        l->flags = 0;
        p->n_keys++;
    }
    l->node = (uint16_t)p->index;
    l->flags = (uint16_t)((l->flags & PLACE_ROUTED) | PLACE_USED | (flags & MESHMSG_HOME ? PLACE_HOME : 0) |
                          (flags & MESHMSG_DERPER ? PLACE_DERPER : 0) |
                          (flags & MESHMSG_LOST ? PLACE_LOST : 0) | (p->parity ? PLACE_PARITY : 0));
    l->slot = slot;
    l->age = age;
    p->slots[slot] = (uint32_t)pos + 1;
    place_sum(p, l, key);
    leaving_cancel(m, key);
    place_route(m, pos);
    if (p->derper)
        ours_derper(m, key);
    if (was_home != ((flags & MESHMSG_HOME) != 0))
        ours_elsewhere(m, key);
    if (flags & MESHMSG_HOME && !(was_home && was_age == age))
        ours_newer_home(m, key, age);
    return 0;
}

void place_down(struct mesh *m, struct peer *p, uint32_t slot)
{
    if (slot < p->n_slots && p->slots[slot])
        place_remove(m, p->slots[slot] - 1, p, true);
}

static struct place *place_of(const struct mesh *m, const struct peer *p, const struct derp_key *key)
{
    struct place *first = keymap_get(m->places.keys, key);
    struct place *l = first ? place_find(m, first, p->index) : NULL;
    return l && !(l->flags & PLACE_GLEANED) ? l : NULL;
}

void place_leave(struct mesh *m, struct peer *p, const struct derp_key *key)
{
    if (place_of(m, p, key))
        place_remove(m, keymap_find(m->places.keys, key), p, true);
}

bool place_confirmed(const struct mesh *m, const struct peer *p, const struct derp_key *key)
{
    const struct place *l = place_of(m, p, key);
    return l && !(l->flags & PLACE_PARITY) == !p->parity;
}

enum places_derper places_derper(const struct mesh *m, const struct derp_key *key)
{
    enum places_derper at = PLACES_DERPER_NONE;
    for (const struct place *l = keymap_get(m->places.keys, key); l; l = place_next(m, l)) {
        const struct peer *p = m->peers[l->node];
        if (!p->derper || l->flags & PLACE_GLEANED)
            continue;
        if (p->derper_link)
            return PLACES_DERPER_UP;
        at = PLACES_DERPER_LOST;
    }
    return at;
}

/* ---- gleaning ---- */

void place_glean(struct mesh *m, struct peer *p, const struct derp_key *key)
{
    enum { REFRESH_S = 10 }; /* a busy key costs one timer in so long */
    struct places *ps = &m->places;
    uint32_t end = (uint32_t)((m->now + MESH_GLEAN_MS) / 1000 + 1);
    /* A frame may come behind the announcement that its sender has left. */
    if (leaving_has(m, key))
        return;
    size_t pos;
    struct place *first = keymap_get(ps->keys, key), *l = first ? place_find(m, first, p->index) : NULL;
    if (l && (!(l->flags & PLACE_GLEANED) || end - l->slot < REFRESH_S))
        return;
    if (!l && ps->n_gleaned >= GLEANED_MAX)
        return;
    if (key_queue_push(&ps->glean_queue, key, (uint64_t)end * 1000, p->index) != 0)
        return;
    if (l) {
        l->slot = end;
        return;
    }
    first = keymap_put_at(ps->keys, key, NULL, &pos);
    l = first ? place_add(m, first) : NULL;
    if (!l)
        return; /* its timer finds nothing */
    l->node = (uint16_t)p->index;
    l->flags = PLACE_USED | PLACE_GLEANED;
    l->slot = end;
    l->age = 0;
    ps->n_gleaned++;
    m->count.gleaned++;
    place_route(m, pos);
}

bool place_unglean(struct mesh *m, struct peer *p, const struct derp_key *key)
{
    struct place *first = keymap_get(m->places.keys, key);
    const struct place *l = first ? place_find(m, first, p->index) : NULL;
    if (!l || !(l->flags & PLACE_GLEANED))
        return false;
    place_remove(m, keymap_find(m->places.keys, key), p, false); /* its timer finds nothing */
    return true;
}

bool place_announced(const struct mesh *m, const struct peer *p, const struct derp_key *key)
{
    return place_of(m, p, key) != NULL;
}

static void glean_expire(struct mesh *m, const struct key_timer *t)
{
    size_t pos = keymap_find(m->places.keys, &t->key);
    void *v;
    if (pos == KEYMAP_NONE || !keymap_at(m->places.keys, pos, &v))
        return;
    const struct place *l = place_find(m, v, t->node);
    if (l && l->flags & PLACE_GLEANED && (uint64_t)l->slot * 1000 == t->at)
        place_remove(m, pos, m->peers[t->node], false);
}

void places_tick(struct mesh *m)
{
    struct key_queue *q = &m->places.glean_queue;
    while (key_queue_due(q, m->now)) {
        struct key_timer t = key_queue_head(q);
        key_queue_pop(q);
        glean_expire(m, &t);
    }
}

uint64_t places_next(const struct mesh *m)
{
    const struct key_queue *q = &m->places.glean_queue;
    return q->n ? key_queue_head(q).at : NEVER;
}

void places_unglean(struct mesh *m, struct peer *p)
{
    const struct key_queue *q = &m->places.glean_queue;
    for (size_t i = 0; i < q->n; i++) {
        const struct key_timer *t = &q->e[(q->head + i) % q->cap];
        size_t pos = t->node == p->index ? keymap_find(m->places.keys, &t->key) : KEYMAP_NONE;
        void *v;
        if (pos == KEYMAP_NONE || !keymap_at(m->places.keys, pos, &v))
            continue;
        const struct place *l = place_find(m, v, p->index);
        if (l && l->flags & PLACE_GLEANED)
            place_remove(m, pos, p, false);
    }
}

/* ---- looking ---- */

bool places_held(const struct mesh *m, const struct derp_key *key)
{
    for (const struct place *l = keymap_get(m->places.keys, key); l; l = place_next(m, l))
        if (peer_rank(m->peers[l->node]) > 0)
            return true;
    return false;
}

void mesh_each_route(const struct mesh *m, void (*one)(void *ctx, const struct derp_key *key, uint32_t node),
                     void *ctx)
{
    const struct derp_key *key;
    void *v;
    for (size_t i = 0; (key = keymap_at(m->places.keys, i, &v)); i++)
        for (const struct place *l = v; l; l = place_next(m, l))
            if (l->flags & PLACE_ROUTED)
                one(ctx, key, l->node);
}

bool places_home(const struct mesh *m, const struct derp_key *key)
{
    for (const struct place *l = keymap_get(m->places.keys, key); l; l = place_next(m, l))
        if (l->flags & PLACE_HOME && m->peers[l->node]->heard)
            return true;
    return false;
}

uint32_t places_highest_age(const struct mesh *m, const struct derp_key *key)
{
    uint32_t highest = 0;
    for (const struct place *l = keymap_get(m->places.keys, key); l; l = place_next(m, l))
        if (l->age > highest)
            highest = l->age;
    return highest;
}

size_t places_where(const struct mesh *m, const struct derp_key *key, struct mesh_location *out, size_t max)
{
    enum { SORTED_MAX = 64 };
    const struct place *sorted[SORTED_MAX];
    size_t n = 0, total = 0, local = 0;
    const struct local_slot *s = ours_local(m, key);
    if (s) {
        local = 1;
        if (max)
            out[0] = (struct mesh_location){.node = NODE_NONE, .home = s->home};
    }
    for (const struct place *l = keymap_get(m->places.keys, key); l; l = place_next(m, l)) {
        total++;
        if (n == SORTED_MAX)
            continue;
        size_t i = n++;
        for (; i > 0 && place_better(m, l, sorted[i - 1]); i--)
            sorted[i] = sorted[i - 1];
        sorted[i] = l;
    }
    for (size_t i = 0; i < n && local + i < max; i++)
        out[local + i] = (struct mesh_location){.node = sorted[i]->node,
                                                .home = sorted[i]->flags & PLACE_HOME,
                                                .gleaned = sorted[i]->flags & PLACE_GLEANED,
                                                .derper = sorted[i]->flags & PLACE_DERPER};
    return local + total;
}

size_t places_bytes(const struct mesh *m)
{
    const struct places *ps = &m->places;
    size_t n = keymap_bytes(ps->keys) + ps->pool_cap * sizeof *ps->pool;
    n += ps->glean_queue.cap * sizeof(struct key_timer);
    for (uint32_t i = 0; i < m->n_peers; i++)
        n += (m->peers[i]->n_slots + (size_t)m->peers[i]->n_old) * sizeof(uint32_t);
    return n;
}
