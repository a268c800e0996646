/* What peers tell of their sets, into the places.
 *
 * Happy path: learn_start sends SYNC_REQ; SYNC_BEGIN, SYNC_DATA … and SYNC_END replace the former set; ANN changes it,
 * each naming the seq before it.
 * How it fails: an ANN that does not follow the last one is not taken; one SYNC_REQ (at most one a second) asks for everything again
 * and until its BEGIN further ANN are ignored.  A malformed message or a lack of memory closes the link. */
#include "mesh/learn.h"

#include "mesh/link.h"
#include "mesh/places.h"

static const char MALFORMED[] = "malformed message";

static void ask(struct mesh *m, struct link *l)
{
    struct peer *p = l->peer;
    l->sync_asked = true;
    l->sync_missed = false;
    l->asked_at = m->now;
    meshmsg_sync_req(&m->out, p->syncing ? 0 : p->set_boot, p->syncing ? 0 : p->in_seq);
    link_send(m, l);
}

void learn_start(struct mesh *m, struct link *l)
{
    l->peer->synced = false;
    ask(m, l);
}

void learn_tick(struct mesh *m, struct link *l)
{
    if (l->sync_missed && m->now >= l->asked_at + SYNC_MIN_MS)
        ask(m, l);
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
            return "more keys than the limit told in HELLO";
        if (err != 0)
            return "out of memory";
    }
    return r < 0 ? MALFORMED : NULL;
}

static const char *on_begin(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    uint64_t boot, seq, count;
    if (meshmsg_read_sync_begin(in, &boot, &seq, &count) != 0 || boot != l->theirs.boot)
        return MALFORMED;
    /* Setting a former set aside costs as much as the set is large: once for each question. */
    if (!l->sync_asked)
        return "a sync that was not asked for";
    if (count > PEER_KEYS_MAX)
        return "more keys than the limit told in HELLO";
    places_sync_begin(m, l->peer, boot);
    l->peer->in_seq = seq;
    l->peer->synced = false;
    l->sync_asked = false;
    m->count.sync_received++;
    return NULL;
}

static const char *on_data(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct meshmsg_entries entries;
    if (!l->peer->syncing || meshmsg_read_sync_data(in, &entries) != 0)
        return MALFORMED;
    /* What comes before the BEGIN that was asked for belongs to a sync that is void. */
    return l->sync_asked ? NULL : take_entries(m, l->peer, &entries);
}

static const char *on_end(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct peer *p = l->peer;
    uint64_t boot, seq;
    if (!p->syncing || meshmsg_read_sync_req(in, &boot, &seq) != 0 || boot != p->set_boot)
        return MALFORMED;
    if (l->sync_asked)
        return NULL;
    places_sync_end(m, p);
    p->synced = true;
    mesh_log(m, MESH_LOG_DEBUG, "peer's keys are known peer=%s keys=%u", p->name, p->n_keys);
    return NULL;
}

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
        mesh_log(m, MESH_LOG_DEBUG, "announcements are missing, asking for all keys anew peer=%s", p->name);
        l->sync_missed = true;
        learn_tick(m, l);
        return NULL;
    }
    p->in_seq = seq;
    return take_entries(m, p, &entries);
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
    default:
        return on_ann(m, l, in);
    }
}
