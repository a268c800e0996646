/* Places by whole sets: a peer's set told anew, forgotten, said to be gone; and what its link's state does to it.
 *
 * Happy path: places_sync_begin sets the slots of the former set aside (old_slots), place_up moves each confirmed place
 * back, places_sync_end forgets the others.
 * How it fails: a sync that is cut off leaves both as the former set of the next one (sync_merge). */
#include <stdlib.h>
#include <string.h>

#include "mesh/leaving.h"
#include "mesh/ours.h"
#include "mesh/places_parts.h"

static void slots_clear(uint32_t **slots, uint32_t *n)
{
    free(*slots);
    *slots = NULL;
    *n = 0;
}

/* A sync begins where the last one was cut off: what it confirmed, and what it did not, are both the former set now.
 * The latter get made-up slots behind the former's.  -1 without memory or if the peer holds too much that way. */
static int sync_merge(struct mesh *m, struct peer *p)
{
    uint32_t extra = 0;
    for (uint32_t i = 0; i < p->n_old; i++)
        extra += p->old_slots[i] != 0;
    if (p->n_slots + extra > 2 * PEER_KEYS_MAX)
        return -1;
    uint32_t *all = realloc(p->slots, (p->n_slots + extra + 1) * sizeof *all);
    if (!all)
        return -1;
    p->slots = all;
    uint32_t at = p->n_slots;
    for (uint32_t i = 0; i < p->n_old; i++) {
        void *v;
        const struct derp_key *key =
            p->old_slots[i] ? keymap_at(m->places.keys, p->old_slots[i] - 1, &v) : NULL;
        if (!key)
            continue;
        struct place *l = place_find(m, v, p->index);
        place_sum(p, l, key);
        all[at] = p->old_slots[i];
        l->slot = at++;
        place_sum(p, l, key);
        l->flags ^= PLACE_PARITY;
    }
    p->n_slots = at;
    slots_clear(&p->old_slots, &p->n_old);
    return 0;
}

static void old_forget(struct mesh *m, struct peer *p, bool announced)
{
    for (uint32_t i = 0; i < p->n_old; i++)
        if (p->old_slots[i])
            place_remove(m, p->old_slots[i] - 1, p, announced);
    slots_clear(&p->old_slots, &p->n_old);
}

void places_sync_begin(struct mesh *m, struct peer *p, uint64_t boot)
{
    bool same = p->set_boot == boot && (!p->syncing || p->same_boot);
    if (p->syncing && sync_merge(m, p) != 0)
        old_forget(m, p, false);
    p->old_slots = p->slots;
    p->n_old = p->n_slots;
    p->slots = NULL;
    p->n_slots = 0;
    p->parity = !p->parity;
    p->syncing = true;
    p->same_boot = same;
    p->set_boot = boot;
}

void places_sync_end(struct mesh *m, struct peer *p)
{
    /* A node that was restarted lost all connections at once: its clients are on their way to somewhere. */
    old_forget(m, p, p->same_boot);
    p->syncing = false;
}

void places_buckets(const struct mesh *m, const struct peer *p, uint64_t bucket[static MESHMSG_BUCKETS_N])
{
    memset(bucket, 0, MESHMSG_BUCKETS_N * sizeof *bucket);
    for (uint32_t i = 0; i < p->n_slots; i++) {
        void *v;
        const struct derp_key *key = p->slots[i] ? keymap_at(m->places.keys, p->slots[i] - 1, &v) : NULL;
        const struct place *l = key ? place_find(m, v, p->index) : NULL;
        if (l)
            bucket[i % MESHMSG_BUCKETS_N] ^= meshmsg_entry_hash(i, key, place_flags(l), l->age);
    }
}

bool places_drop(struct mesh *m, struct peer *p, uint32_t max, bool certain)
{
    old_forget(m, p, certain);
    p->syncing = false;
    p->set_boot = 0; /* what is left is no moment of its set */
    for (; p->n_slots && max; max--) {
        uint32_t slot = --p->n_slots;
        if (p->slots[slot])
            place_remove(m, p->slots[slot] - 1, p, certain);
    }
    if (p->n_slots)
        return false;
    slots_clear(&p->slots, &p->n_slots);
    return true;
}

/* Whether a key of a peer that was lost may be at another one, which was lost later and will be judged in its turn. */
static bool pending(const struct mesh *m, const struct place *first, const struct peer *p)
{
    for (const struct place *l = first; l; l = place_next(m, l)) {
        const struct peer *other = m->peers[l->node];
        if (other != p && other->gone_at != NEVER && other->gone_cursor == 0)
            return true;
    }
    return false;
}

bool places_gone(struct mesh *m, const struct peer *p, uint32_t *cursor, uint32_t max)
{
    uint32_t end = p->n_slots + p->n_old;
    for (; *cursor < end && max; (*cursor)++, max--) {
        uint32_t at = *cursor < p->n_slots ? p->slots[*cursor] : p->old_slots[*cursor - p->n_slots];
        if (!at)
            continue;
        void *v;
        struct derp_key key = *keymap_at(m->places.keys, at - 1, &v);
        if (ours_local(m, &key) || places_held(m, &key) || leaving_has(m, &key) || pending(m, v, p))
            continue;
        m->count.gone++;
        m->ops->gone(m->ctx, &key);
    }
    return *cursor >= end;
}

/* The entry at at - 1: another way is the best one now, and a derper's client is or is not within reach. */
static void rank_changed(struct mesh *m, const struct peer *p, uint32_t at, bool back)
{
    if (!at)
        return;
    place_route(m, at - 1);
    struct derp_key key = *keymap_at(m->places.keys, at - 1, NULL);
    if (back)
        leaving_cancel(m, &key);
    if (p->derper)
        ours_derper(m, &key);
}

void places_announce(struct mesh *m, const struct peer *p)
{
    for (uint32_t i = 0; i < p->n_slots + p->n_old; i++) {
        uint32_t at = i < p->n_slots ? p->slots[i] : p->old_slots[i - p->n_slots];
        if (!at)
            continue;
        struct derp_key key = *keymap_at(m->places.keys, at - 1, NULL);
        ours_derper(m, &key);
    }
}

void places_rank_changed(struct mesh *m, struct peer *p)
{
    bool back = peer_rank(p) > 0;
    for (uint32_t i = 0; i < p->n_slots; i++)
        rank_changed(m, p, p->slots[i], back);
    for (uint32_t i = 0; i < p->n_old; i++)
        rank_changed(m, p, p->old_slots[i], back);
    if (peer_rank(p) == 0)
        places_unglean(m, p);
}
