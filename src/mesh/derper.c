/* Real derpers of our region: peers that speak DERP with us and nothing of this protocol.
 *
 * The node is connected to each of them as its mesh peer (node/derper_peer.c) and says here which clients are there.  They
 * are places of that peer like any other's, so routes, moves and PeerGone work as for those; their slots are numbered
 * here.  And we announce them: other nodes reach them by us.  An announced client of a derper (MESHMSG_DERPER) is what any
 * other location is preferred to; while we do not reach the derper, the announcement says so (MESHMSG_LOST) and counts
 * for nothing but that the key has not left for certain.
 *
 * Happy path: peer_schedule → ops->dial_derper → mesh_derper_open → mesh_derper_key for each client → derper_tick: what
 * was there before and has not been named again is forgotten.
 * How it fails: mesh_derper_closed, dialled again with backoff; its keys count as gone after MESH_UNREACHABLE_MS and are
 * then forgotten and no longer announced.  A node that proves a link of ours is no derper, whatever the settings say. */
#include "mesh/derper.h"

#include "mesh/ours.h"
#include "mesh/link.h"
#include "mesh/paths.h"
#include "mesh/places.h"

static struct peer *derper_by_link(const struct mesh *m, uint64_t link)
{
    for (uint32_t i = 1; link && i < m->n_peers; i++)
        if (m->peers[i]->derper_link == link)
            return m->peers[i];
    return NULL;
}

void derper_set(struct mesh *m, struct peer *p, bool derper)
{
    if (p->derper == derper)
        return;
    if (p->dial) {
        uint64_t dial = p->dial;
        p->dial = 0;
        m->ops->dial_cancel(m->ctx, dial);
    }
    p->derper = derper;
    p->dial_at = p->settle_at = NEVER;
    if (!p->derper_link) {
        places_announce(m, p);
        return;
    }
    m->ops->close(m->ctx, p->derper_link, "this node is no derper to us any more");
    p->derper_link = 0;
    places_announce(m, p);
    if (!p->link)
        peer_lost(m, p, true);
}

static void settle(const struct mesh *m, struct peer *p)
{
    uint64_t last = p->derper_since + DERPER_SETTLE_MAX_MS;
    p->settle_at = m->now + DERPER_SETTLE_MS < last ? m->now + DERPER_SETTLE_MS : last;
}

void mesh_derper_open(struct mesh *m, uint64_t dial, uint64_t link, uint64_t now)
{
    struct peer *p = peer_by_dial(m, dial);
    m->now = now;
    if (p)
        p->dial = 0;
    if (!p || !p->derper || !p->node) {
        m->ops->close(m->ctx, link, "the dial was given up");
        if (p)
            peer_schedule(m, p);
        return;
    }
    p->derper_link = link;
    p->derper_since = m->now;
    settle(m, p);
    p->down_at = NEVER;
    p->dropping = p->certain = false;
    p->last_error[0] = 0;
    places_sync_begin(m, p,
                      p->set_boot + 1); /* never the same one: what is missing may be on its way to us */
    mesh_log(m, MESH_LOG_INFO, "connected to a derper peer=%s", p->name);
    m->ops->link_ready(m->ctx, link, p->index);
    paths_update(m);
    peer_schedule(m, p);
    peer_note(m, p);
}

/* A slot that names no client. */
static uint32_t slot_free(struct peer *p)
{
    if (p->n_keys >= p->n_slots - p->n_slots / 4)
        return p->n_slots;
    for (uint32_t i = 0; i < p->n_slots; i++) {
        uint32_t slot = p->slot_cursor++ % p->n_slots;
        if (!p->slots[slot])
            return slot;
    }
    return p->n_slots;
}

void mesh_derper_key(struct mesh *m, uint64_t link, const struct derp_key *key, bool present, uint64_t now)
{
    struct peer *p = derper_by_link(m, link);
    m->now = now;
    if (!p)
        return;
    if (!present) {
        place_leave(m, p, key);
        return;
    }
    if (p->syncing)
        settle(m, p);
    if (place_confirmed(m, p, key))
        return; /* another connection of the same client */
    if (place_up(m, p, slot_free(p), key, 0, 0) != 0)
        mesh_log(m, MESH_LOG_ERROR, "out of memory: a client of a derper cannot be reached peer=%s", p->name);
}

void mesh_derper_closed(struct mesh *m, uint64_t link, const char *why, uint64_t now)
{
    struct peer *p = derper_by_link(m, link);
    m->now = now;
    if (!p)
        return;
    mesh_log(m, peer_error_level(p, why), "lost a derper peer=%s why=\"%s\"", p->name, why);
    peer_error(p, "%s", why);
    p->derper_link = 0;
    p->settle_at = NEVER;
    peer_lost(m, p, m->now - p->derper_since >= LINK_GOOD_MS);
    peer_schedule(m, p);
    peer_note(m, p);
}

void derper_tick(struct mesh *m, struct peer *p)
{
    if (m->now < p->settle_at)
        return;
    if (p->derper_link && p->syncing) {
        places_sync_end(m, p);
        mesh_log(m, MESH_LOG_INFO, "a derper's clients are known peer=%s clients=%u", p->name, p->n_keys);
    }
    p->settle_at = NEVER;
}
