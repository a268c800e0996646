/* What peers tell of their sets, into the places.
 *
 * Happy path: learn_start asks with SYNC_REQ, naming the moment of the peer's set that we hold; SYNC_BEGIN says how it
 * is answered: ANN from there on, or SYNC_DATA that replace the former set at SYNC_END.  From then on ANN change it, each
 * naming the seq before it, and DIGEST says what it should add up to.
 * How it fails: an ANN that does not follow the last one is not taken; one SYNC_REQ (at most one a second) asks for what
 * is missing and until its BEGIN further ANN are ignored.  A digest that does not add up is answered with the hashes of our
 * buckets, a second one in a row by asking for everything.  A malformed message or a lack of memory closes the link. */
#include "mesh/learn.h"

#include "mesh/link.h"
#include "mesh/places.h"

static const char MALFORMED[] = "malformed message";
static const char TOO_MANY[] = "more keys than the limit told in HELLO";

static struct meshmsg_moment held_of(const struct peer *p)
{
    /* What a broken-off sync has left is no moment of the set. */
    if (p->syncing)
        return (struct meshmsg_moment){0};
    return (struct meshmsg_moment){.boot = p->set_boot, .seq = p->in_seq, .scope = p->set_scope};
}

static void ask(struct mesh *m, struct link *l, bool all)
{
    struct meshmsg_moment held = all ? (struct meshmsg_moment){0} : held_of(l->peer);
    l->sync_asked = true;
    l->sync_missed = l->buckets_asked = false;
    l->asked_at = m->now;
    meshmsg_sync_req(&m->out, &held);
    link_send(m, l);
}

void learn_start(struct mesh *m, struct link *l)
{
    l->peer->synced = false;
    peer_heard(m, l->peer);
    if (l->sync_asked)
        l->sync_missed = true; /* in use again before that was answered: two answers would be confused */
    else
        ask(m, l, false);
}

void learn_tick(struct mesh *m, struct link *l)
{
    if (l->sync_missed && !l->sync_asked && m->now >= l->asked_at + SYNC_MIN_MS)
        ask(m, l, false);
}

/* Something is missing: asks, if not just now then as soon as that may be. */
static void missed(struct mesh *m, struct link *l)
{
    l->sync_missed = true;
    learn_tick(m, l);
}

static const char *take_entries(struct mesh *m, struct peer *p, struct meshmsg_entries *entries)
{
    struct meshmsg_entry e;
    int r;
    while ((r = meshmsg_entry_next(entries, &e)) > 0) {
        if (!e.up) {
            place_down(m, p, e.slot);
            continue;
        }
        int err = place_up(m, p, e.slot, &e.key, e.flags, e.age);
        if (err == -2)
            return TOO_MANY;
        if (err != 0)
            return "out of memory";
    }
    return r < 0 ? MALFORMED : NULL;
}

/* ---- syncs ---- */

/* Slots of the buckets that the peer does not even have. */
static void forget_above(struct mesh *m, struct peer *p, const struct meshmsg_sync_begin *b)
{
    for (uint32_t i = b->slots; i < p->n_slots; i++)
        if (meshmsg_bit(b->bitmap, i))
            place_down(m, p, i);
}

static const char *begin_full(struct mesh *m, struct link *l, const struct meshmsg_sync_begin *b)
{
    struct peer *p = l->peer;
    /* Setting a former set aside costs as much as the set is large: once for each question. */
    if (!l->sync_asked)
        return "a sync that was not asked for";
    places_sync_begin(m, p, b->at.boot);
    p->set_scope = b->at.scope;
    p->in_seq = b->at.seq;
    return NULL;
}

static const char *on_begin(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct meshmsg_sync_begin b;
    struct peer *p = l->peer;
    const char *why = NULL;
    if (meshmsg_read_sync_begin(in, &b) != 0 || b.at.boot != l->theirs.boot)
        return MALFORMED;
    if (b.count > PEER_KEYS_MAX)
        return TOO_MANY;
    bool same = !p->syncing && b.at.boot == p->set_boot && b.at.scope == p->set_scope;
    if (b.mode == MESHMSG_SYNC_FULL) {
        why = begin_full(m, l, &b);
    } else if (b.mode == MESHMSG_SYNC_CHANGES) {
        if (l->sync_asked && l->sync_missed && (!same || b.since != p->in_seq)) {
            l->sync_run = (int)b.mode; /* since what we held then, and do not hold any more: void */
            l->sync_asked = false;
            return NULL;
        }
        if (!l->sync_asked || !same || b.since != p->in_seq)
            why = "a sync that was not asked for";
    } else if (b.mode == MESHMSG_SYNC_BUCKETS) {
        if (!l->buckets_asked || !same)
            why = "a sync that was not asked for";
        else
            forget_above(m, p, &b);
    } else {
        why = MALFORMED;
    }
    if (why)
        return why;
    l->sync_run = (int)b.mode;
    if (b.mode != MESHMSG_SYNC_BUCKETS) {
        l->sync_asked = l->sync_missed = false;
        p->synced = false;
        peer_heard(m, p);
    }
    m->count.sync_received++;
    return NULL;
}

static const char *on_data(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct meshmsg_entries entries;
    if (meshmsg_read_sync_data(in, &entries) != 0)
        return MALFORMED;
    if (l->sync_run != MESHMSG_SYNC_FULL && l->sync_run != MESHMSG_SYNC_BUCKETS)
        return "entries of a sync that did not begin";
    /* What comes before the BEGIN that was asked for belongs to a sync that is void. */
    return l->sync_asked ? NULL : take_entries(m, l->peer, &entries);
}

static const char *on_end(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct peer *p = l->peer;
    uint64_t boot, seq;
    if (l->sync_run < 0 || meshmsg_read_sync_end(in, &boot, &seq) != 0 || boot != l->theirs.boot)
        return MALFORMED;
    int run = l->sync_run;
    l->sync_run = -1;
    l->buckets_asked = false;
    if (l->sync_asked || l->sync_missed || run == MESHMSG_SYNC_BUCKETS)
        return NULL;
    if (run == MESHMSG_SYNC_FULL)
        places_sync_end(m, p);
    p->synced = true;
    peer_heard(m, p);
    mesh_log(m, MESH_LOG_DEBUG, "peer's keys are known peer=%s keys=%u", p->name, p->n_keys);
    return NULL;
}

/* ---- changes ---- */

static const char *on_ann(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct peer *p = l->peer;
    struct meshmsg_entries entries;
    uint64_t prev, seq;
    if (meshmsg_read_ann(in, &prev, &seq, &entries) != 0)
        return MALFORMED;
    m->count.ann_received++;
    if (l->sync_asked || l->sync_missed)
        return NULL;
    if (prev != p->in_seq) {
        m->count.resyncs_asked++;
        mesh_log(m, MESH_LOG_DEBUG, "announcements are missing, asking for them peer=%s", p->name);
        missed(m, l);
        return NULL;
    }
    m->count.entries_received += entries.left;
    const char *why = take_entries(m, p, &entries);
    if (!why) /* what was taken in part is asked for again */
        p->in_seq = seq;
    return why;
}

static void ask_buckets(struct mesh *m, struct link *l)
{
    uint64_t bucket[MESHMSG_BUCKETS_N];
    struct meshmsg_moment held = held_of(l->peer);
    places_buckets(m, l->peer, bucket);
    l->buckets_asked = true;
    meshmsg_buckets(&m->out, &held, bucket);
    link_send(m, l);
}

/* Our copy of the peer's set is not what it should be though nothing is missing: a fault of one of the two programs. */
static void heal(struct mesh *m, struct link *l, const struct meshmsg_digest *d)
{
    struct peer *p = l->peer;
    m->count.digests_bad++;
    p->digest_bad++;
    mesh_log(m, MESH_LOG_WARN,
             "peer's keys do not add up, asking for %s peer=%s seq=%llu keys=%u expected=%llu",
             p->digest_bad > 1 ? "all of them" : "those that differ", p->name, (unsigned long long)d->at.seq,
             p->n_keys, (unsigned long long)d->count);
    if (p->digest_bad > 1) {
        ask(m, l, true);
        return;
    }
    ask_buckets(m, l);
}

static const char *on_digest(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct peer *p = l->peer;
    struct meshmsg_digest d;
    if (meshmsg_read_digest(in, &d) != 0 || d.at.boot != l->theirs.boot)
        return MALFORMED;
    if (l->sync_asked || l->sync_missed)
        return NULL;
    if (d.at.scope != p->set_scope || (p->synced && d.at.seq != p->in_seq)) {
        m->count.resyncs_asked++;
        missed(m, l);
        return NULL;
    }
    if (!p->synced || l->buckets_asked)
        return NULL;
    if (d.count == p->n_keys && d.root == p->root) {
        m->count.digests_good++;
        p->digest_bad = 0;
        return NULL;
    }
    heal(m, l, &d);
    return NULL;
}

/* ---- one key ---- */

const char *learn_not_here(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct peer *p = l->peer;
    struct meshmsg_moment at;
    struct derp_key key;
    if (meshmsg_read_not_here(in, &at, &key) != 0)
        return MALFORMED;
    m->count.not_here_received++;
    if (place_unglean(m, p, &key) || !place_announced(m, p, &key))
        return NULL;
    /* It was told of the key, or will be told that it has left: what the two say of different moments is no contradiction. */
    if (!p->synced || l->sync_asked || l->sync_missed || l->buckets_asked || at.boot != p->set_boot ||
        at.scope != p->set_scope || at.seq != p->in_seq || m->now - l->asked_at < SYNC_MIN_MS)
        return NULL;
    m->count.not_here_disagreed++;
    mesh_log(m, MESH_LOG_WARN, "a key is not where its node says it is, asking for those that differ peer=%s",
             p->name);
    l->asked_at = m->now;
    ask_buckets(m, l);
    return NULL;
}

const char *learn_input(struct mesh *m, struct link *l, uint32_t type, const struct meshmsg_in *in)
{
    switch (type) {
    case MESHMSG_SYNC_BEGIN:
        return on_begin(m, l, in);
    case MESHMSG_SYNC_DATA:
        return on_data(m, l, in);
    case MESHMSG_SYNC_END:
        return on_end(m, l, in);
    case MESHMSG_DIGEST:
        return on_digest(m, l, in);
    default:
        return on_ann(m, l, in);
    }
}

const char *learn_unused(struct link *l, uint32_t type, const struct meshmsg_in *in)
{
    struct meshmsg_sync_begin b;
    if (type == MESHMSG_SYNC_END)
        l->sync_run = -1;
    if (type != MESHMSG_SYNC_BEGIN)
        return NULL;
    if (meshmsg_read_sync_begin(in, &b) != 0)
        return MALFORMED;
    l->sync_run = (int)b.mode;
    if (b.mode == MESHMSG_SYNC_BUCKETS)
        l->buckets_asked = false;
    else
        l->sync_asked = false;
    return NULL;
}
