/* Our clients in their slots.
 *
 * Each scope orders all slots that were ever told in it in one list by their last change (seq).  What a link still has
 * to tell is the part of its scope's list behind its ann_cursor: a slot that changes again moves to the end, so the
 * backlog of a slow link is never longer than the number of slots and always in order.  Nothing ever leaves the list,
 * an emptied slot stays in it as a down: so for any seq of this boot the changes since are the list's end.
 * A scope also keeps its digest, the XOR of the hashes of its entries, which a change updates in constant time.
 * The slot of a client that has left stays its own for a minute: so hold.c knows one that comes and goes.
 * Happy path: ours_up → hold_back (not yet) or settle → touch → announce.c sends.
 * How it fails: without memory for a new client ours_up says so and nothing has changed. */
#include "mesh/ours.h"

#include <stdlib.h>
#include <string.h>

#include "mesh/announce.h"
#include "mesh/hold.h"
#include "mesh/leaving.h"
#include "mesh/places.h"

int ours_init(struct mesh *m, uint64_t seed)
{
    m->local = keymap_new(sizeof(uint32_t), seed);
    m->free_first = m->free_last = SLOT_NONE;
    for (int i = 0; i < SCOPES; i++)
        m->scope[i].oldest = m->scope[i].newest = SLOT_NONE;
    return m->local ? 0 : -1;
}

void ours_deinit(struct mesh *m)
{
    keymap_free(m->local);
    free(m->slot);
    hold_deinit(m);
}

static struct local_slot *local_find(const struct mesh *m, const struct derp_key *key)
{
    const uint32_t *slot = keymap_get(m->local, key);
    return slot ? &m->slot[*slot] : NULL;
}

const struct local_slot *ours_local(const struct mesh *m, const struct derp_key *key)
{
    const struct local_slot *s = local_find(m, key);
    return s && s->used && !s->derper ? s : NULL;
}

/* ---- slots ---- */

static int slot_grow(struct mesh *m)
{
    if (m->n_slots == m->cap_slots) {
        uint32_t cap = m->cap_slots ? m->cap_slots * 2 : 64;
        struct local_slot *s = cap <= PEER_KEYS_MAX ? realloc(m->slot, cap * sizeof *s) : NULL;
        if (!s)
            return -1;
        m->slot = s;
        m->cap_slots = cap;
    }
    m->slot[m->n_slots++] = (struct local_slot){0};
    return 0;
}

/* The slot that has been free for the longest, else a new one. */
static uint32_t slot_take(struct mesh *m)
{
    if (m->free_first == SLOT_NONE)
        return slot_grow(m) == 0 ? m->n_slots - 1 : SLOT_NONE;
    uint32_t slot = m->free_first;
    m->free_first = m->slot[slot].free_next;
    if (m->free_first == SLOT_NONE)
        m->free_last = SLOT_NONE;
    return slot;
}

static void slot_give_back(struct mesh *m, uint32_t slot)
{
    m->slot[slot].free_next = SLOT_NONE;
    if (m->free_last == SLOT_NONE)
        m->free_first = slot;
    else
        m->slot[m->free_last].free_next = slot;
    m->free_last = slot;
}

/* ---- scopes ---- */

static void list_unlink(struct mesh *m, int scope, uint32_t slot)
{
    struct scope *sc = &m->scope[scope];
    const struct told *t = &m->slot[slot].in[scope];
    if (t->seq == 0)
        return; /* never was in the list */
    if (t->older == SLOT_NONE)
        sc->oldest = t->newer;
    else
        m->slot[t->older].in[scope].newer = t->newer;
    if (t->newer == SLOT_NONE)
        sc->newest = t->older;
    else
        m->slot[t->newer].in[scope].older = t->older;
}

/* A slot has changed in a scope: it is the newest there now, and each link of that scope has it still to tell. */
static void touch(struct mesh *m, int scope, uint32_t slot)
{
    struct scope *sc = &m->scope[scope];
    struct told *t = &m->slot[slot].in[scope];
    announce_moves(m, scope, slot, t->newer);
    list_unlink(m, scope, slot);
    t->seq = ++sc->seq;
    t->older = sc->newest;
    t->newer = SLOT_NONE;
    if (sc->newest == SLOT_NONE)
        sc->oldest = slot;
    else
        m->slot[sc->newest].in[scope].newer = slot;
    sc->newest = slot;
    announce_changed(m, scope, slot, t->up);
}

/* Whether a client is told of in a scope.  Other regions hear of homes, and of keys that are at home nowhere that can be
 * reached: clients that never say where they are at home, and those whose home has just died. */
static bool visible(const struct mesh *m, const struct local_slot *s, int scope)
{
    return s->used && (scope == SCOPE_NEAR || s->home || !places_home(m, &s->key));
}

static uint32_t flags_of(const struct local_slot *s)
{
    return (s->home ? MESHMSG_HOME : 0) | (s->derper ? MESHMSG_DERPER : 0) | (s->lost ? MESHMSG_LOST : 0);
}

/* Brings what the scopes say of a slot up to date.  changed: the client itself is another than before. */
static void settle(struct mesh *m, uint32_t slot, bool changed)
{
    struct local_slot *s = &m->slot[slot];
    if (s->held_until)
        return;
    s->told_flags = (uint8_t)flags_of(s);
    s->told_age = s->age;
    for (int i = 0; i < SCOPES; i++) {
        struct told *t = &s->in[i];
        bool up = visible(m, s, i);
        if (up == t->up && !(up && changed))
            continue;
        if (t->up) {
            m->scope[i].root ^= t->hash;
            m->scope[i].count--;
        }
        t->up = up;
        if (up) {
            t->hash = meshmsg_entry_hash(slot, &s->key, s->told_flags, s->told_age);
            m->scope[i].root ^= t->hash;
            m->scope[i].count++;
        }
        touch(m, i, slot);
    }
}

/* ---- clients ---- */

/* One above the highest age seen of a key: among homes, or among visits, the latest wins everywhere. */
static uint32_t age_above(const struct mesh *m, const struct derp_key *key)
{
    uint32_t highest = places_highest_age(m, key);
    const struct local_slot *s = local_find(m, key);
    if (s && s->age > highest)
        highest = s->age;
    return highest == UINT32_MAX ? highest : highest + 1;
}

/* A slot for the key: the one that it had when it left a short while ago, else another.  NULL without memory. */
static struct local_slot *slot_for(struct mesh *m, const struct derp_key *key)
{
    struct local_slot *s = local_find(m, key);
    if (!s) {
        uint32_t slot = slot_take(m);
        if (slot == SLOT_NONE)
            return NULL;
        uint32_t *at = keymap_put(m->local, key, NULL);
        if (!at) {
            slot_give_back(m, slot);
            return NULL;
        }
        *at = slot;
        s = &m->slot[slot];
        s->key = *key;
        s->age = 0;
        s->heat = 0;
        s->held_until = s->lingers_until = 0;
    }
    s->home = s->derper = s->lost = false;
    s->used = true;
    return s;
}

static void changed(struct mesh *m, const struct local_slot *s)
{
    uint32_t slot = (uint32_t)(s - m->slot);
    if (!hold_back(m, slot))
        settle(m, slot, true);
}

static void slot_drop(struct mesh *m, struct local_slot *s)
{
    uint32_t slot = (uint32_t)(s - m->slot);
    s->used = false;
    changed(m, s);
    if (!hold_linger(m, slot))
        ours_forget(m, slot);
}

void ours_forget(struct mesh *m, uint32_t slot)
{
    keymap_del(m->local, &m->slot[slot].key);
    slot_give_back(m, slot);
}

void ours_release(struct mesh *m, uint32_t slot)
{
    settle(m, slot, true);
    if (!m->slot[slot].used && !m->slot[slot].lingers_until)
        ours_forget(m, slot);
}

int ours_up(struct mesh *m, const struct derp_key *key, bool home)
{
    if (ours_local(m, key)) {
        ours_home(m, key, home);
        return 0;
    }
    uint32_t age = age_above(m, key);
    struct local_slot *s = slot_for(m, key);
    if (!s)
        return -1;
    s->age = age;
    s->home = home;
    leaving_cancel(m, key);
    changed(m, s);
    return 0;
}

void ours_derper(struct mesh *m, const struct derp_key *key)
{
    struct local_slot *s = local_find(m, key);
    enum places_derper at = places_derper(m, key);
    bool told = s && s->used && s->derper, lost = at == PLACES_DERPER_LOST;
    if (s && s->used && !s->derper)
        return; /* a client of ours */
    if (at == PLACES_DERPER_NONE) {
        if (told)
            slot_drop(m, s);
        return;
    }
    if (told && s->lost == lost)
        return;
    if (!told)
        s = slot_for(m, key);
    if (!s)
        return; /* our own clients reach it nevertheless */
    s->age = 0;
    s->derper = true;
    s->lost = lost;
    changed(m, s);
}

void ours_home(struct mesh *m, const struct derp_key *key, bool home)
{
    struct local_slot *s = local_find(m, key);
    if (!s || !s->used || s->derper || s->home == home)
        return;
    if (home)
        s->age = age_above(m, key);
    s->home = home;
    changed(m, s);
}

void ours_down(struct mesh *m, const struct derp_key *key)
{
    struct local_slot *s = local_find(m, key);
    if (!s || !s->used || s->derper)
        return;
    struct derp_key left = *key;
    slot_drop(m, s);
    leaving_add(m, &left);
    ours_derper(m, &left);
}

void ours_elsewhere(struct mesh *m, const struct derp_key *key)
{
    const struct local_slot *s = keymap_count(m->local) ? local_find(m, key) : NULL;
    if (s)
        settle(m, (uint32_t)(s - m->slot), false);
}

void ours_newer_home(struct mesh *m, const struct derp_key *key, uint32_t age)
{
    const struct local_slot *s = m->ops->moved && keymap_count(m->local) ? ours_local(m, key) : NULL;
    if (s && (!s->home || age > s->age))
        m->ops->moved(m->ctx, key);
}

void ours_elsewhere_all(struct mesh *m)
{
    for (uint32_t i = 0; i < m->n_slots; i++)
        if (m->slot[i].used && !m->slot[i].home)
            settle(m, i, false);
}

/* ---- looking ---- */

void ours_entry(const struct mesh *m, int scope, uint32_t slot, struct meshmsg_entry *e)
{
    const struct local_slot *s = &m->slot[slot];
    *e = (struct meshmsg_entry){.slot = slot, .up = s->in[scope].up};
    if (e->up) {
        e->key = s->key;
        e->flags = s->told_flags;
        e->age = s->told_age;
    }
}

bool ours_told(const struct mesh *m, int scope, const struct derp_key *key)
{
    const struct local_slot *s = local_find(m, key);
    return s && s->in[scope].up;
}

uint32_t ours_since(const struct mesh *m, int scope, uint64_t seq)
{
    uint32_t found = SLOT_NONE;
    for (uint32_t i = m->scope[scope].newest; i != SLOT_NONE && m->slot[i].in[scope].seq > seq;
         i = m->slot[i].in[scope].older)
        found = i;
    return found;
}

void ours_buckets(const struct mesh *m, int scope, uint64_t bucket[static MESHMSG_BUCKETS_N])
{
    memset(bucket, 0, MESHMSG_BUCKETS_N * sizeof *bucket);
    for (uint32_t i = 0; i < m->n_slots; i++)
        if (m->slot[i].in[scope].up)
            bucket[i % MESHMSG_BUCKETS_N] ^= m->slot[i].in[scope].hash;
}

size_t ours_bytes(const struct mesh *m)
{
    return keymap_bytes(m->local) + (size_t)m->cap_slots * sizeof *m->slot + hold_bytes(m);
}
