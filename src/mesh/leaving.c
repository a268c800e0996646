/* Keys that may have left the mesh, until that is certain.
 *
 * Happy path: a key's last place goes because its owner said so → leaving_add → MESH_GONE_HOLD_MS pass without another
 * place (leaving_cancel) → ops->gone.
 * While a peer is unheard (its link is lost or its set not yet complete) the key may live there: the question is put
 * off until its keys count as gone too, for at most MESH_LINK_DEAD_MS.  A client that is told PeerGone does not learn that peer again on its connection,
 * so one too many does harm and one late does not.
 * How it fails: without memory no gone is said. */
#include "mesh/leaving.h"

#include <stdlib.h>

#include "mesh/ours.h"
#include "mesh/places.h"

/* A key that may have left: when that is certain, and when it is in spite of peers of whom we hear nothing. */
struct leaving {
    uint64_t at, give_up;
};

int leaving_init(struct mesh *m, uint64_t seed)
{
    m->leaving = keymap_new(sizeof(struct leaving), seed);
    return m->leaving ? 0 : -1;
}

void leaving_deinit(struct mesh *m)
{
    keymap_free(m->leaving);
    free(m->leave_queue.e);
}

bool leaving_has(const struct mesh *m, const struct derp_key *key)
{
    return keymap_get(m->leaving, key) != NULL;
}

void leaving_cancel(struct mesh *m, const struct derp_key *key)
{
    if (keymap_count(m->leaving))
        keymap_del(m->leaving, key);
}

void leaving_add(struct mesh *m, const struct derp_key *key)
{
    if (ours_local(m, key) || places_held(m, key))
        return;
    struct leaving *v = keymap_put(m->leaving, key, NULL);
    if (!v)
        return;
    v->at = m->now + MESH_GONE_HOLD_MS;
    v->give_up = m->now + MESH_LINK_DEAD_MS;
    if (key_queue_push(&m->leave_queue, key, v->at, NODE_NONE) != 0)
        keymap_del(m->leaving, key);
}

/* Whether a peer may serve keys that we do not know of at the moment: it is away, or silent just now, or has not told all. */
static bool in_the_dark(const struct mesh *m)
{
    for (uint32_t i = 1; i < m->n_peers; i++) {
        const struct peer *p = m->peers[i];
        bool unheard = p->path.grade != GRADE_NONE || p->gone_at != NEVER; /* not at all, or over another */
        if (p->node && !p->derper_link && (p->link ? !p->synced || p->link->suspect : unheard))
            return true;
    }
    return false;
}

static void leaving_due(struct mesh *m, const struct key_timer *t, bool dark)
{
    struct leaving *v = keymap_get(m->leaving, &t->key);
    if (!v || v->at != t->at)
        return; /* it came back, or left again later */
    if (dark && m->now < v->give_up) {
        v->at = m->now + MESH_GONE_HOLD_MS;
        if (key_queue_push(&m->leave_queue, &t->key, v->at, NODE_NONE) == 0)
            return;
    }
    keymap_del(m->leaving, &t->key);
    if (places_held(m, &t->key))
        return; /* its node can be reached again */
    m->count.gone++;
    m->ops->gone(m->ctx, &t->key);
}

void leaving_tick(struct mesh *m)
{
    struct key_queue *q = &m->leave_queue;
    bool dark = key_queue_due(q, m->now) && in_the_dark(m);
    while (key_queue_due(q, m->now)) {
        struct key_timer t = key_queue_head(q);
        key_queue_pop(q);
        leaving_due(m, &t, dark);
    }
}

uint64_t leaving_next(const struct mesh *m)
{
    return m->leave_queue.n ? key_queue_head(&m->leave_queue).at : NEVER;
}

size_t leaving_bytes(const struct mesh *m)
{
    return keymap_bytes(m->leaving) + m->leave_queue.cap * sizeof(struct key_timer);
}
