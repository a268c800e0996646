/* Telling each peer of our set.
 *
 * ours.c keeps the set in lists by last change, one for each scope.  A link remembers its place in its scope's list
 * (ann_cursor) and the seq up to which all was told.
 * Happy path: the peer asks (SYNC_REQ) → SYNC_BEGIN says how it is answered: with the changes since what it holds (an
 * ANN from there on), else with everything (a second cursor, from the list's head up to the seq at which it began;
 * changes after that go as ANN meanwhile) → SYNC_END.  From then on changes go as ANN, and a DIGEST twice a minute says
 * what they should add up to; a peer whose copy does not sends its bucket hashes and gets the buckets that differ.
 * How it fails: a link whose window is full keeps its cursors where they are until a PONG comes; a link that is lost
 * loses its cursors, on the next one the peer asks for what it missed. */
#include "mesh/announce.h"

#include <string.h>

#include "mesh/link.h"
#include "mesh/ours.h"

/* ---- the list moves under the cursors ---- */

void announce_moves(struct mesh *m, int scope, uint32_t slot, uint32_t newer)
{
    for (size_t i = 0; i < m->n_links; i++) {
        struct link *l = m->links[i];
        if (l->scope != scope)
            continue;
        if (l->ann_cursor == slot)
            l->ann_cursor = newer;
        if (l->sync_running == RUN_FULL && l->sync_cursor == slot)
            l->sync_cursor = newer;
    }
}

void announce_changed(struct mesh *m, int scope, uint32_t slot, bool up)
{
    uint64_t due = m->now + (up ? ANN_COALESCE_MS : MESH_PING_MS);
    for (size_t i = 0; i < m->n_links; i++) {
        struct link *l = m->links[i];
        if (!l->telling || l->scope != scope)
            continue;
        if (l->ann_cursor == SLOT_NONE)
            l->ann_cursor = slot;
        if (due < l->flush_at)
            l->flush_at = due;
    }
}

/* ---- what the peer asks for ---- */

void announce_stop(struct link *l)
{
    l->telling = l->sync_wanted = l->buckets_wanted = false;
    l->sync_running = RUN_NONE;
    l->ann_cursor = l->sync_cursor = SLOT_NONE;
    l->flush_at = l->digest_at = NEVER;
}

static void due_for_sync(struct mesh *m, struct link *l)
{
    uint64_t due = l->sync_last + SYNC_MIN_MS;
    if (!l->telling || due < m->now)
        due = m->now;
    if (due < l->flush_at)
        l->flush_at = due;
}

void announce_sync(struct mesh *m, struct link *l, const struct meshmsg_moment *held)
{
    l->sync_wanted = true;
    l->held = *held;
    due_for_sync(m, l);
}

/* Whether the peer holds a moment of this very part of our set, so that a difference can be told. */
static bool known(const struct mesh *m, const struct link *l, const struct meshmsg_moment *held)
{
    return held->boot == m->boot && held->scope == (uint32_t)l->scope && held->seq <= m->scope[l->scope].seq;
}

void announce_buckets(struct mesh *m, struct link *l, const struct meshmsg_moment *held,
                      const uint64_t bucket[static MESHMSG_BUCKETS_N])
{
    uint64_t ours[MESHMSG_BUCKETS_N];
    if (!known(m, l, held) || l->buckets_wanted || l->sync_wanted || l->sync_running != RUN_NONE)
        return; /* its copy will be another soon; the next digest tells whether it is right */
    ours_buckets(m, l->scope, ours);
    memset(l->bitmap, 0, sizeof l->bitmap);
    for (uint32_t i = 0; i < MESHMSG_BUCKETS_N; i++)
        if (ours[i] != bucket[i])
            l->bitmap[i / 8] |= (uint8_t)(1 << i % 8);
    l->buckets_wanted = true;
    due_for_sync(m, l);
}

void announce_scope(struct mesh *m, struct link *l)
{
    const struct derpmap_node *n = l->peer->node;
    int scope = n && n->region_id == m->self->region_id ? SCOPE_NEAR : SCOPE_FAR;
    if (scope == l->scope)
        return;
    bool told = l->telling;
    bool wanted = l->sync_wanted;
    announce_stop(l);
    l->scope = scope;
    l->sync_wanted = wanted;
    if (told)
        l->digest_at = m->now; /* it sees the other scope and asks */
    if (wanted)
        due_for_sync(m, l);
}

/* ---- one key ---- */

void mesh_not_here(struct mesh *m, const struct derp_key *key, const struct node_id *entry, uint64_t now)
{
    struct peer *p = peer_by_id(m, entry);
    m->now = now;
    struct link *l = p ? p->link : NULL;
    if (!l || l->state != LINK_UP || ours_told(m, l->scope, key))
        return; /* told: it has come meanwhile, or its leaving is held back */
    if (now - l->not_here_at >= NOT_HERE_MS) {
        l->not_here_at = now;
        l->not_here_n = 0;
    }
    if (++l->not_here_n > NOT_HERE_MAX)
        return;
    struct meshmsg_moment at = {.boot = m->boot, .seq = m->scope[l->scope].seq, .scope = (uint32_t)l->scope};
    meshmsg_not_here(&m->out, &at, key);
    link_send(m, l);
    m->count.not_here_sent++;
}

/* ---- telling ---- */

static void sync_begin(struct mesh *m, struct link *l)
{
    const struct scope *sc = &m->scope[l->scope];
    struct meshmsg_sync_begin b = {.at = {.boot = m->boot, .seq = sc->seq, .scope = (uint32_t)l->scope},
                                   .count = sc->count};
    bool changes = l->sync_wanted && known(m, l, &l->held);
    l->sync_last = m->now;
    l->sync_target = sc->seq;
    if (l->sync_wanted && changes) {
        l->sync_running = RUN_CHANGES;
        b.mode = MESHMSG_SYNC_CHANGES;
        b.since = l->told = l->held.seq;
        l->ann_cursor = ours_since(m, l->scope, l->told);
        m->count.sync_changes_sent++;
    } else if (l->sync_wanted) {
        l->sync_running = RUN_FULL;
        b.mode = MESHMSG_SYNC_FULL;
        l->told = sc->seq;
        l->sync_cursor = sc->oldest;
        l->ann_cursor = SLOT_NONE;
    } else {
        l->sync_running = RUN_BUCKETS;
        b.mode = MESHMSG_SYNC_BUCKETS;
        b.slots = m->n_slots;
        memcpy(b.bitmap, l->bitmap, sizeof b.bitmap);
        l->sync_cursor = 0;
        m->count.sync_buckets_sent++;
    }
    if (!l->telling)
        l->digest_at = m->now + DIGEST_MS / 2 + mesh_random(m, DIGEST_MS / 2);
    l->telling = true;
    l->sync_wanted = l->buckets_wanted = false;
    meshmsg_sync_begin(&m->out, &b);
    link_send(m, l);
    m->count.sync_sent++;
}

static void ann_send(struct mesh *m, struct link *l)
{
    struct meshmsg_entry e[MESHMSG_ENTRIES_MAX];
    uint32_t n = 0, slot = l->ann_cursor;
    uint64_t prev = l->told;
    for (; slot != SLOT_NONE && n < MESHMSG_ENTRIES_MAX; slot = m->slot[slot].in[l->scope].newer) {
        ours_entry(m, l->scope, slot, &e[n++]);
        l->told = m->slot[slot].in[l->scope].seq;
    }
    l->ann_cursor = slot;
    meshmsg_ann(&m->out, prev, l->told, e, n);
    link_send(m, l);
    m->count.ann_sent++;
    m->count.entries_sent += n;
}

static void sync_end(struct mesh *m, struct link *l)
{
    l->sync_running = RUN_NONE;
    l->sync_cursor = SLOT_NONE;
    meshmsg_sync_end(&m->out, m->boot, l->sync_target);
    link_send(m, l);
}

/* The next entries of a full sync, in the order of their last change. */
static uint32_t full_take(struct mesh *m, struct link *l, struct meshmsg_entry *e)
{
    uint32_t n = 0, slot = l->sync_cursor;
    const int sc = l->scope;
    for (; slot != SLOT_NONE && m->slot[slot].in[sc].seq <= l->sync_target && n < MESHMSG_ENTRIES_MAX;
         slot = m->slot[slot].in[sc].newer)
        if (m->slot[slot].in[sc].up)
            ours_entry(m, sc, slot, &e[n++]);
    l->sync_cursor = slot;
    return n;
}

/* The next slots of the buckets that differ. */
static uint32_t buckets_take(struct mesh *m, struct link *l, struct meshmsg_entry *e)
{
    uint32_t n = 0, slot = l->sync_cursor;
    for (; slot < m->n_slots && n < MESHMSG_ENTRIES_MAX; slot++)
        if (meshmsg_bit(l->bitmap, slot))
            ours_entry(m, l->scope, slot, &e[n++]);
    l->sync_cursor = slot;
    return n;
}

/* One message of a sync, or its end. */
static void sync_send(struct mesh *m, struct link *l)
{
    struct meshmsg_entry e[MESHMSG_ENTRIES_MAX];
    uint32_t n = 0;
    if (l->sync_running == RUN_FULL)
        n = full_take(m, l, e);
    else if (l->sync_running == RUN_BUCKETS)
        n = buckets_take(m, l, e);
    if (n == 0) {
        sync_end(m, l);
        return;
    }
    meshmsg_sync_data(&m->out, e, n);
    link_send(m, l);
    m->count.entries_sent += n;
}

bool announce_pending(const struct link *l)
{
    return l->telling && (l->sync_running != RUN_NONE || l->ann_cursor != SLOT_NONE);
}

void announce_flush(struct mesh *m, struct link *l)
{
    l->flush_at = NEVER;
    if (l->sync_wanted || l->buckets_wanted) {
        if (!l->telling || m->now - l->sync_last >= SYNC_MIN_MS)
            sync_begin(m, l);
        else
            l->flush_at = l->sync_last + SYNC_MIN_MS;
    }
    while (announce_pending(l) &&
           l->sent - l->acked < (l->is_tunnel ? (uint64_t)TUNNEL_WINDOW : LINK_WINDOW)) {
        if (l->sync_running == RUN_CHANGES && l->told >= l->sync_target)
            sync_end(m, l);
        else if (l->ann_cursor != SLOT_NONE)
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

void announce_digest(struct mesh *m, struct link *l)
{
    const struct scope *sc = &m->scope[l->scope];
    if (m->now < l->digest_at || announce_pending(l))
        return; /* as long as something is on its way nothing adds up */
    l->digest_at = m->now + DIGEST_MS;
    struct meshmsg_digest d = {.at = {.boot = m->boot, .seq = sc->seq, .scope = (uint32_t)l->scope},
                               .count = sc->count,
                               .root = sc->root};
    meshmsg_digest(&m->out, &d);
    link_send(m, l);
}
