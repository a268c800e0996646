/* Paths: direct, or over one other node.
 *
 * Happy path: each node tells its neighbours how its own links are (LINKS); paths_update takes, for each node, the best
 * of the direct connection and the neighbours that say they reach it.  Better is first the grade (all links on the way
 * work, one is suspect, one is down), then the cost (windowed minimum RTT).
 * How it fails: a path that is worse in grade than another is left at once; one that is only slower, when the other was
 * clearly faster for BETTER_MS.  A direct connection that comes back is trusted after FLAP_MS, twice as long each time.
 * Of transits that are about as fast, each pair takes another one (a hash), so a fault does not move all traffic to one.
 * A sole path is used whatever its grade; nobody is asked to carry who says that he does not.
 *
 * No loop, whatever neighbours say: a transit hands a packet to its destination directly or not at all, and hops fall.
 * A liar wins what passes him anyway: packets that he drops.  His words are kept per node of our own map, so they take
 * no more memory than that map. */
#include "mesh/paths.h"

#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "mesh/lanes.h"
#include "mesh/link.h"
#include "mesh/places.h"
#include "proto/meshmsg_paths.h"

enum {
    LINKS_EVERY_MS = 10000,
    LINKS_COALESCE_MS = 50,
    LINKS_SPACING_MS = 200,
    LINKS_STALE_MS = 3 * LINKS_EVERY_MS + 5000,
    TAKE_MS = 5,         /* what neighbours say is looked at this much later, all of it at once, … */
    TAKE_EVERY_MS = 100, /* … and so far apart: a liar costs no more than that */
    LOG_EVERY_MS = 1000,
    BETTER_MS = 5000,
    BETTER_JITTER_MS = 2000,
    FLAP_MS = 2000,
    FLAPS_MAX = 5, /* 32 s */
    FLAP_FORGET_MS = 60000,
    AVOID_S = 10, /* after an UNREACH, and up to half as long again */
    GRACE_MS = 3000,
    BYE_SETTLE_MS = 1000, /* neighbours have noticed by then that a node has stopped */
    RTT_UNKNOWN_MS = 1000,
    TRANSIT_COST_MS = 1
};

struct way {
    uint32_t via;
    enum grade grade;
    uint32_t cost;
};

static uint32_t cost_of(const struct link *l)
{
    uint64_t rtt = l ? link_rtt(l) : 0; /* a derper's connection is no link */
    return rtt == NEVER ? RTT_UNKNOWN_MS : rtt > UINT16_MAX ? UINT16_MAX : (uint32_t)rtt;
}

enum grade paths_direct(const struct mesh *m, const struct peer *p)
{
    if (p->derper)
        return p->derper_link ? GRADE_UP : GRADE_NONE;
    if (!p->direct || !lanes_carry(m, p))
        return GRADE_NONE;
    if (p->direct->down)
        return GRADE_DOWN;
    return p->direct->suspect || m->now < p->trust_at ? GRADE_SUSPECT : GRADE_UP;
}

/* ---- damping ---- */

void paths_flapped(struct mesh *m, struct peer *p)
{
    uint64_t calm = (m->now - p->flap_at) / FLAP_FORGET_MS;
    p->flaps = calm < p->flaps ? p->flaps - (unsigned)calm : 0;
    if (p->flaps < FLAPS_MAX)
        p->flaps++;
    p->flap_at = m->now;
}

void paths_recovered(struct mesh *m, struct peer *p)
{
    uint64_t hold = p->flaps ? (uint64_t)FLAP_MS << (p->flaps - 1) : 0;
    /* Not all at the same moment: a recovered line would be flooded and lost again. */
    p->trust_at = m->now - p->flap_at < FLAP_FORGET_MS ? m->now + hold + mesh_random(m, hold / 8) : 0;
}

/* ---- what is there ---- */

static void wake(struct mesh *m, uint64_t at)
{
    if (at > m->now && at < m->paths_at)
        m->paths_at = at;
}

static const struct neighbour *neighbour_of(const struct mesh *m, const struct peer *transit,
                                            const struct peer *p)
{
    if (p->derper || p->index >= transit->n_neighbours || transit->neighbour_flags || !transit->direct ||
        !transit->node || m->now - transit->neighbours_at >= LINKS_STALE_MS)
        return NULL;
    const struct neighbour *n = &transit->neighbours[p->index];
    if (!n->told || n->avoid_until_s > m->now / 1000)
        return NULL;
    /* It said that it stops; neighbours may not have noticed yet. */
    if (p->stopped && transit->neighbours_at < p->lost_at + BYE_SETTLE_MS)
        return NULL;
    return n;
}

bool paths_passes(const struct mesh *m, const struct peer *transit, const struct peer *p)
{
    return transit != p && neighbour_of(m, transit, p) && paths_direct(m, transit) >= GRADE_SUSPECT;
}

/* The way to p over via (p itself: direct).  False if there is none. */
static bool way_over(struct mesh *m, const struct peer *p, const struct peer *via, struct way *w)
{
    enum grade first = paths_direct(m, via);
    if (first == GRADE_NONE || !p->node)
        return false;
    wake(m, via->trust_at);
    *w = (struct way){.via = via->index, .grade = first, .cost = cost_of(via->direct)};
    if (via == p)
        return true;
    const struct neighbour *n = neighbour_of(m, via, p);
    if (!n) {
        if (p->index < via->n_neighbours)
            wake(m, (uint64_t)via->neighbours[p->index].avoid_until_s * 1000);
        return false;
    }
    wake(m, via->neighbours_at + LINKS_STALE_MS);
    enum grade second = n->state == MESHMSG_NEIGHBOUR_UP        ? GRADE_UP
                        : n->state == MESHMSG_NEIGHBOUR_SUSPECT ? GRADE_SUSPECT
                                                                : GRADE_DOWN;
    w->grade = second < first ? second : first;
    w->cost += n->rtt_ms + TRANSIT_COST_MS;
    return true;
}

/* By 20 % and 10 ms. */
static bool clearly_faster(const struct way *a, const struct way *b)
{
    return a->cost * 5 < b->cost * 4 && a->cost + 10 < b->cost;
}

/* Spreads pairs of nodes over transits that are about as good. */
static uint64_t spread(const struct mesh *m, const struct peer *p, uint32_t via)
{
    uint8_t ids[3 * sizeof(struct node_id)];
    uint64_t hash;
    memcpy(ids, &m->peers[0]->id, sizeof(struct node_id));
    memcpy(ids + sizeof(struct node_id), &p->id, sizeof(struct node_id));
    memcpy(ids + 2 * sizeof(struct node_id), &m->peers[via]->id, sizeof(struct node_id));
    crypto_shorthash((uint8_t *)&hash, ids, sizeof ids, (const uint8_t[crypto_shorthash_KEYBYTES]){0});
    return hash;
}

/* The one to take of all ways to p, if nothing were in use; current: about as good, it stays.  False: no way. */
static bool best_way(struct mesh *m, const struct peer *p, uint32_t current, struct way *best)
{
    struct way fastest = {.via = NODE_NONE}, w, direct;
    for (uint32_t i = 1; i < m->n_peers; i++)
        if (way_over(m, p, m->peers[i], &w) &&
            (w.grade > fastest.grade || (w.grade == fastest.grade && w.cost < fastest.cost)))
            fastest = w;
    *best = fastest;
    if (fastest.via == NODE_NONE)
        return false;
    if (way_over(m, p, p, &direct) && direct.grade == fastest.grade && !clearly_faster(&fastest, &direct)) {
        *best = direct;
        return true;
    }
    if (fastest.via == p->index)
        return true;
    uint64_t lowest = UINT64_MAX;
    for (uint32_t i = 1; i < m->n_peers; i++) {
        if (!way_over(m, p, m->peers[i], &w) || w.grade < fastest.grade || clearly_faster(&fastest, &w))
            continue;
        uint64_t hash = i == current ? 0 : spread(m, p, i);
        if (hash < lowest) {
            lowest = hash;
            *best = w;
        }
    }
    return true;
}

/* ---- choosing ---- */

void paths_tell_node(struct mesh *m, struct peer *p)
{
    struct mesh_path path = {.via = p->path.via};
    lanes_fill(m, p, &path);
    if (path.via == p->index && path.n == 0 && paths_direct(m, p) == GRADE_NONE) {
        paths_update(m); /* the last connection that may carry data has gone: another way, or none */
        return;
    }
    if (path.via == p->path_told.via && path.n == p->path_told.n &&
        memcmp(path.link, p->path_told.link, sizeof path.link) == 0)
        return;
    p->path_told = path;
    m->ops->node_path(m->ctx, p->index, &path);
}

/* A node that cannot be reached is not gone yet: its connection may be made anew at once. */
static void reach_changed(struct mesh *m, struct peer *p, bool reached)
{
    p->gone_at = p->grace_at = NEVER;
    if (reached || !p->node)
        return;
    p->gone_at =
        m->now + (p->stopped ? MESH_STOPPED_MS : MESH_UNREACHABLE_MS) + mesh_random(m, PEER_GONE_JITTER_MS);
    p->gone_cursor = 0;
    p->grace_at = p->lost_at == m->now && !p->stopped ? m->now + GRACE_MS : NEVER;
}

/* Whether it is gone: nobody reached it, and a neighbour has spoken since we lost it, or too much time has passed. */
static bool grace_is_over(const struct mesh *m, const struct peer *p)
{
    if (m->now >= p->grace_at)
        return true;
    for (uint32_t i = 1; i < m->n_peers; i++)
        if (m->peers[i]->direct && m->peers[i]->neighbours_at > p->lost_at)
            return true;
    return false;
}

/* INFO; DEBUG for what changes all the time. */
static enum mesh_log_level path_log_level(const struct mesh *m, struct peer *p)
{
    bool soon = p->path_logged && m->now - p->path_logged < LOG_EVERY_MS;
    p->path_logged = m->now;
    return soon ? MESH_LOG_DEBUG : MESH_LOG_INFO;
}

static void path_set(struct mesh *m, struct peer *p, const struct way *w)
{
    enum grade grade = p->path.grade;
    int rank = p->path_rank;
    if (w->via != p->path.via) {
        p->path.better = NODE_NONE;
        m->count.path_changes += p->path.via != NODE_NONE && w->via != NODE_NONE;
        if (w->via != NODE_NONE && (w->via != p->index || p->path.via != NODE_NONE))
            mesh_log(m, path_log_level(m, p), "path peer=%s via=%s cost_ms=%u", p->name,
                     m->peers[w->via]->name, w->cost);
    }
    p->path.via = w->via;
    p->path.grade = w->grade;
    p->path.cost = w->cost;
    paths_tell_node(m, p);
    if ((grade == GRADE_NONE) != (w->grade == GRADE_NONE))
        reach_changed(m, p, w->grade != GRADE_NONE);
    if (p->grace_at != NEVER && grace_is_over(m, p))
        p->grace_at = NEVER;
    wake(m, p->grace_at);
    p->path_rank = peer_rank(p);
    if (rank != p->path_rank)
        places_rank_changed(m, p);
}

/* Whether the other way, better but not in grade, has been so for long enough. */
static bool better_for_long(struct mesh *m, struct peer *p, uint32_t via)
{
    if (p->path.better != via) {
        p->path.better = via;
        p->path.better_at = m->now + BETTER_MS + mesh_random(m, BETTER_JITTER_MS);
    }
    wake(m, p->path.better_at);
    return m->now >= p->path.better_at;
}

static void path_choose(struct mesh *m, struct peer *p)
{
    struct way best, now;
    if (!best_way(m, p, p->path.via, &best)) {
        path_set(m, p, &best);
        return;
    }
    bool have = p->path.via != NODE_NONE && way_over(m, p, m->peers[p->path.via], &now);
    if (!have || best.via == p->path.via || now.grade < best.grade) {
        p->path.faster = p->path.faster && best.via == p->path.via;
        p->path.better = NODE_NONE;
        path_set(m, p, &best);
        return;
    }
    /* Back to the direct one at once, unless it was left only for being slower. */
    bool back = best.via == p->index && !p->path.faster;
    if (back || ((best.via == p->index || clearly_faster(&best, &now)) && better_for_long(m, p, best.via))) {
        p->path.faster = best.via != p->index && paths_direct(m, p) == best.grade;
        path_set(m, p, &best);
        return;
    }
    if (best.via != p->index && !clearly_faster(&best, &now))
        p->path.better = NODE_NONE;
    path_set(m, p, &now);
}

void paths_update(struct mesh *m)
{
    m->paths_at = NEVER;
    for (uint32_t i = 1; i < m->n_peers; i++)
        path_choose(m, m->peers[i]);
    for (uint32_t i = 1; i < m->n_peers; i++) {
        const struct peer *p = m->peers[i];
        if (!p->derper && paths_direct(m, p) != p->direct_told)
            paths_tell_soon(m);
    }
}

enum mesh_why paths_why(const struct mesh *m, const struct peer *p)
{
    if (p->path.via == NODE_NONE)
        return MESH_WHY_NONE;
    if (p->path.via == p->index)
        return MESH_WHY_DIRECT;
    if (!p->direct)
        return MESH_WHY_NO_LINK;
    if (p->direct->suspect || p->direct->down)
        return MESH_WHY_SILENT;
    return m->now < p->trust_at ? MESH_WHY_HELD : MESH_WHY_FASTER;
}

/* ---- telling ---- */

void paths_tell_soon(struct mesh *m)
{
    uint64_t at = m->now + LINKS_COALESCE_MS, spaced = m->links_sent + LINKS_SPACING_MS;
    at = at < spaced ? spaced : at;
    if (at < m->links_at)
        m->links_at = at;
}

static void links_send(struct mesh *m)
{
    struct meshmsg_neighbour e[MESHMSG_NEIGHBOURS_MAX];
    uint32_t n = 0;
    m->links_sent = m->now;
    m->links_at = m->now + LINKS_EVERY_MS;
    for (uint32_t i = 1; i < m->n_peers; i++) {
        struct peer *p = m->peers[i];
        p->direct_told = paths_direct(m, p);
        if (p->direct_told == GRADE_NONE || p->derper || n == MESHMSG_NEIGHBOURS_MAX)
            continue;
        e[n++] =
            (struct meshmsg_neighbour){.node = p->id,
                                       .state = p->direct_told == GRADE_UP        ? MESHMSG_NEIGHBOUR_UP
                                                : p->direct_told == GRADE_SUSPECT ? MESHMSG_NEIGHBOUR_SUSPECT
                                                                                  : MESHMSG_NEIGHBOUR_DOWN,
                                       .rtt_ms = cost_of(p->direct)};
    }
    for (uint32_t i = 1; i < m->n_peers; i++) {
        if (!m->peers[i]->direct)
            continue;
        meshmsg_links(&m->out, m->flags, e, n);
        link_send(m, m->peers[i]->direct);
    }
}

/* ---- hearing ---- */

static int neighbours_reserve(const struct mesh *m, struct peer *p)
{
    if (p->n_neighbours >= m->n_peers)
        return 0;
    struct neighbour *n = realloc(p->neighbours, m->n_peers * sizeof *n);
    if (!n)
        return -1;
    memset(n + p->n_neighbours, 0, (m->n_peers - p->n_neighbours) * sizeof *n);
    p->neighbours = n;
    p->n_neighbours = m->n_peers;
    return 0;
}

const char *paths_links(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct peer *p = l->peer;
    struct meshmsg_neighbours list;
    struct meshmsg_neighbour e;
    uint32_t flags;
    int r;
    if (meshmsg_read_links(in, &flags, &list) != 0 || list.left > MESHMSG_NEIGHBOURS_MAX)
        return "malformed message";
    if (l != p->direct)
        return NULL;
    if (neighbours_reserve(m, p) != 0)
        return "out of memory";
    for (uint32_t i = 0; i < p->n_neighbours; i++)
        p->neighbours[i].told = false;
    while ((r = meshmsg_neighbour_next(&list, &e)) > 0) {
        const struct peer *other = peer_by_id(m, &e.node);
        if (!other || other->self || other == p)
            continue;
        struct neighbour *n = &p->neighbours[other->index];
        n->told = true;
        n->state = e.state > MESHMSG_NEIGHBOUR_DOWN ? MESHMSG_NEIGHBOUR_DOWN : (uint8_t)e.state;
        n->rtt_ms = e.rtt_ms > UINT16_MAX ? UINT16_MAX : (uint16_t)e.rtt_ms;
    }
    p->neighbour_flags = flags;
    p->neighbours_at = m->now;
    uint64_t at = m->now + TAKE_MS, spaced = m->paths_taken + TAKE_EVERY_MS;
    at = at < spaced ? spaced : at;
    if (at < m->paths_at)
        m->paths_at = at;
    return r < 0 ? "malformed message" : NULL;
}

const char *paths_unreach(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct peer *p = l->peer;
    struct node_id id;
    if (meshmsg_read_unreach(in, &id) != 0)
        return "malformed message";
    m->count.unreach_received++;
    const struct peer *other = peer_by_id(m, &id);
    if (!other || other->self || other == p || l != p->direct)
        return NULL;
    if (neighbours_reserve(m, p) != 0)
        return "out of memory";
    p->neighbours[other->index].avoid_until_s =
        (uint32_t)(m->now / 1000 + AVOID_S + mesh_random(m, AVOID_S / 2));
    if (other->path.via == p->index)
        paths_update(m);
    return NULL;
}

void mesh_unreach(struct mesh *m, uint64_t id, const struct node_id *node, uint64_t now)
{
    struct link *l = link_find(m, id);
    m->now = now;
    if (!l || !l->peer || l != l->peer->direct ||
        (l->unreach_at && now - l->unreach_at < MESH_UNREACH_EVERY_MS))
        return;
    l->unreach_at = now;
    m->count.unreach_sent++;
    meshmsg_unreach(&m->out, node);
    link_send(m, l);
}

/* ---- what we say of ourselves ---- */

void mesh_set_carrying(struct mesh *m, const struct mesh_carrying *c, uint64_t now)
{
    uint32_t flags = (c->draining ? (uint32_t)MESHMSG_DRAINING : 0) |
                     (c->transit_off ? (uint32_t)MESHMSG_NO_TRANSIT : 0) |
                     (c->overloaded ? (uint32_t)MESHMSG_OVERLOADED : 0);
    m->now = now;
    if (flags == m->flags)
        return;
    m->flags = flags;
    paths_tell_soon(m);
}

/* ---- time ---- */

void paths_tick(struct mesh *m)
{
    if (m->now >= m->paths_at) {
        m->paths_taken = m->now;
        paths_update(m);
    }
    if (m->now >= m->links_at)
        links_send(m);
}

uint64_t paths_next(const struct mesh *m)
{
    return m->paths_at < m->links_at ? m->paths_at : m->links_at;
}
