/* Our clients in their slots, and what each peer has been told of them.
 *
 * All slots that were ever used hang in one list ordered by their last change (seq).  What a link still has to tell
 * is the part of that list behind its ann_cursor: a slot that changes again moves to the end, so the backlog of a
 * slow link is never longer than the number of slots and always in order.  A full sync is a second cursor, from the
 * list's head up to the seq at which it began; changes after that go as ANN meanwhile.
 * Happy path: announce_up → touch → (tick) announce_flush → ANN.
 * How it fails: a link whose window is full keeps its cursors where they are until a PONG comes; a link that is lost
 * loses its cursors, the next one begins with a sync. */
#include "mesh/announce.h"

#include <stdlib.h>
#include <string.h>

#include "mesh/leaving.h"
#include "mesh/link.h"
#include "mesh/places.h"

int announce_init(struct mesh *m, uint64_t seed)
{
    m->local = keymap_new(sizeof(uint32_t), seed);
    m->free_first = m->free_last = m->oldest = m->newest = SLOT_NONE;
    return m->local ? 0 : -1;
}

void announce_deinit(struct mesh *m)
{
    keymap_free(m->local);
    free(m->slot);
}

static struct local_slot *local_find(const struct mesh *m, const struct derp_key *key)
{
    const uint32_t *slot = keymap_get(m->local, key);
    return slot ? &m->slot[*slot] : NULL;
}

const struct local_slot *announce_local(const struct mesh *m, const struct derp_key *key)
{
    const struct local_slot *s = local_find(m, key);
    return s && !s->derper ? s : NULL;
}

/* ---- slots and their list ---- */

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
    m->slot[m->n_slots] = (struct local_slot){.older = SLOT_NONE, .newer = SLOT_NONE};
    m->n_slots++;
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

static void list_unlink(struct mesh *m, uint32_t slot)
{
    struct local_slot *s = &m->slot[slot];
    if (s->seq == 0)
        return; /* never was in the list */
    if (s->older == SLOT_NONE)
        m->oldest = s->newer;
    else
        m->slot[s->older].newer = s->newer;
    if (s->newer == SLOT_NONE)
        m->newest = s->older;
    else
        m->slot[s->newer].older = s->older;
}

/* A slot has changed: it is the newest now, and each link has it still to tell. */
static void touch(struct mesh *m, uint32_t slot, bool up)
{
    struct local_slot *s = &m->slot[slot];
    for (size_t i = 0; i < m->n_links; i++) {
        struct link *l = m->links[i];
        if (l->ann_cursor == slot)
            l->ann_cursor = s->newer;
        if (l->sync_cursor == slot)
            l->sync_cursor = s->newer;
    }
    list_unlink(m, slot);
    s->seq = ++m->seq;
    s->older = m->newest;
    s->newer = SLOT_NONE;
    if (m->newest == SLOT_NONE)
        m->oldest = slot;
    else
        m->slot[m->newest].newer = slot;
    m->newest = slot;
    uint64_t due = m->now + (up ? ANN_COALESCE_MS : MESH_PING_MS);
    for (size_t i = 0; i < m->n_links; i++) {
        struct link *l = m->links[i];
        if (!l->telling)
            continue;
        if (l->ann_cursor == SLOT_NONE)
            l->ann_cursor = slot;
        if (due < l->flush_at)
            l->flush_at = due;
    }
}

/* One above the highest age seen of a key: among homes, or among visits, the latest wins everywhere. */
static uint32_t age_above(const struct mesh *m, const struct derp_key *key)
{
    uint32_t highest = places_highest_age(m, key);
    const struct local_slot *s = local_find(m, key);
    if (s && s->age > highest)
        highest = s->age;
    return highest == UINT32_MAX ? highest : highest + 1;
}

/* A slot for the key; NULL without memory. */
static struct local_slot *slot_new(struct mesh *m, const struct derp_key *key)
{
    uint32_t slot = slot_take(m);
    if (slot == SLOT_NONE)
        return NULL;
    uint32_t *at = keymap_put(m->local, key, NULL);
    if (!at) {
        slot_give_back(m, slot);
        return NULL;
    }
    *at = slot;
    struct local_slot *s = &m->slot[slot];
    s->key = *key;
    s->age = 0;
    s->home = s->derper = s->lost = false;
    s->used = true;
    return s;
}

static void slot_drop(struct mesh *m, struct local_slot *s)
{
    uint32_t slot = (uint32_t)(s - m->slot);
    keymap_del(m->local, &s->key);
    s->used = false;
    slot_give_back(m, slot);
    touch(m, slot, false);
}

int announce_up(struct mesh *m, const struct derp_key *key, bool home)
{
    struct local_slot *s = local_find(m, key);
    if (s && !s->derper) {
        announce_home(m, key, home);
        return 0;
    }
    if (!s)
        s = slot_new(m, key);
    if (!s)
        return -1;
    s->age = age_above(m, key);
    s->home = home;
    s->derper = s->lost = false;
    leaving_cancel(m, key);
    touch(m, (uint32_t)(s - m->slot), true);
    return 0;
}

void announce_derper(struct mesh *m, const struct derp_key *key)
{
    struct local_slot *s = local_find(m, key);
    enum places_derper at = places_derper(m, key);
    if (s && !s->derper)
        return; /* a client of ours */
    if (at == PLACES_DERPER_NONE) {
        if (s)
            slot_drop(m, s);
        return;
    }
    if (s && s->lost == (at == PLACES_DERPER_LOST))
        return;
    if (!s)
        s = slot_new(m, key);
    if (!s)
        return; /* our own clients reach it nevertheless */
    s->derper = true;
    s->lost = at == PLACES_DERPER_LOST;
    touch(m, (uint32_t)(s - m->slot), true);
}

void announce_home(struct mesh *m, const struct derp_key *key, bool home)
{
    struct local_slot *s = local_find(m, key);
    if (!s || s->derper || s->home == home)
        return;
    if (home)
        s->age = age_above(m, key);
    s->home = home;
    touch(m, (uint32_t)(s - m->slot), true);
}

void announce_down(struct mesh *m, const struct derp_key *key)
{
    struct local_slot *s = local_find(m, key);
    if (!s || s->derper)
        return;
    struct derp_key left = *key;
    slot_drop(m, s);
    leaving_add(m, &left);
    announce_derper(m, &left);
}

/* ---- telling ---- */

void announce_sync(struct mesh *m, struct link *l)
{
    l->sync_wanted = true;
    uint64_t due = l->sync_last + SYNC_MIN_MS;
    if (!l->telling || due < m->now)
        due = m->now;
    if (due < l->flush_at)
        l->flush_at = due;
}

static void sync_begin(struct mesh *m, struct link *l)
{
    l->sync_wanted = false;
    l->sync_running = l->telling = true;
    l->sync_last = m->now;
    l->sync_target = l->told = m->seq;
    l->sync_cursor = m->oldest;
    l->ann_cursor = SLOT_NONE;
    meshmsg_sync_begin(&m->out, m->boot, m->seq, keymap_count(m->local));
    link_send(m, l);
    m->count.sync_sent++;
}

static void entry_of(struct meshmsg_entry *e, uint32_t slot, const struct local_slot *s)
{
    *e = (struct meshmsg_entry){.slot = slot, .up = s->used};
    if (s->used) {
        e->key = s->key;
        e->flags =
            (s->home ? MESHMSG_HOME : 0) | (s->derper ? MESHMSG_DERPER : 0) | (s->lost ? MESHMSG_LOST : 0);
        e->age = s->age;
    }
}

static void ann_send(struct mesh *m, struct link *l)
{
    struct meshmsg_entry e[MESHMSG_ENTRIES_MAX];
    uint32_t n = 0, slot = l->ann_cursor;
    uint64_t prev = l->told;
    for (; slot != SLOT_NONE && n < MESHMSG_ENTRIES_MAX; slot = m->slot[slot].newer) {
        entry_of(&e[n++], slot, &m->slot[slot]);
        l->told = m->slot[slot].seq;
    }
    l->ann_cursor = slot;
    meshmsg_ann(&m->out, prev, l->told, e, n);
    link_send(m, l);
    m->count.ann_sent++;
}

/* One message of a sync, or its end. */
static void sync_send(struct mesh *m, struct link *l)
{
    struct meshmsg_entry e[MESHMSG_ENTRIES_MAX];
    uint32_t n = 0, slot = l->sync_cursor;
    for (; slot != SLOT_NONE && m->slot[slot].seq <= l->sync_target && n < MESHMSG_ENTRIES_MAX;
         slot = m->slot[slot].newer)
        if (m->slot[slot].used)
            entry_of(&e[n++], slot, &m->slot[slot]);
    l->sync_cursor = slot;
    if (n) {
        meshmsg_sync_data(&m->out, e, n);
        link_send(m, l);
        return;
    }
    l->sync_running = false;
    l->sync_cursor = SLOT_NONE;
    meshmsg_sync_end(&m->out, m->boot, l->sync_target);
    link_send(m, l);
}

bool announce_pending(const struct link *l)
{
    return l->telling && (l->sync_running || l->ann_cursor != SLOT_NONE);
}

void announce_flush(struct mesh *m, struct link *l)
{
    l->flush_at = NEVER;
    if (l->sync_wanted) {
        if (!l->telling || m->now - l->sync_last >= SYNC_MIN_MS)
            sync_begin(m, l);
        else
            l->flush_at = l->sync_last + SYNC_MIN_MS;
    }
    while (announce_pending(l) && l->sent - l->acked < LINK_WINDOW) {
        if (l->ann_cursor != SLOT_NONE)
            ann_send(m, l);
        else
            sync_send(m, l);
        if (l->sent - l->marked >= LINK_MARK_EVERY)
            link_mark(m, l);
    }
    /* The window is full: the answer to a mark goes on.  There has to be one under way. */
    if (announce_pending(l) && l->n_marks == 0)
        link_mark(m, l);
}
