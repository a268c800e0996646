/* Peers: who is in the map, and when to dial whom.
 *
 * Happy path: peers_take_map makes a peer of each node of the map; peer_tick asks the node to dial when dial_at has
 * come; a proven link ends that.  The preferred dialer of a pair (a hash of both names says which) dials at once, the
 * other one after MESH_SECOND_DIALER_MS without a link, for firewalls that let only one direction pass.
 * How it fails: each failure doubles the backoff, of which a random part is waited (not much of it for a peer that was
 * there a short while ago: a cut that heals shall be over soon); FORGET_MS after its last
 * link was lost a peer's places are dropped. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "mesh/derper.h"
#include "mesh/lanes.h"
#include "mesh/link.h"
#include "mesh/ours.h"
#include "mesh/paths.h"
#include "mesh/places.h"
#include "mesh/state.h"

struct peer *peer_by_id(const struct mesh *m, const struct node_id *id)
{
    for (uint32_t i = 0; i < m->n_peers; i++)
        if (memcmp(&m->peers[i]->id, id, sizeof *id) == 0)
            return m->peers[i];
    return NULL;
}

struct peer *peer_by_name(const struct mesh *m, const char *name)
{
    struct node_id id;
    node_id_of(&id, name);
    struct peer *p = peer_by_id(m, &id);
    return p && strcmp(p->name, name) == 0 ? p : NULL;
}

struct peer *peer_by_dial(const struct mesh *m, uint64_t dial)
{
    for (uint32_t i = 1; dial && i < m->n_peers; i++)
        if (m->peers[i]->dial == dial)
            return m->peers[i];
    return NULL;
}

int peer_rank(const struct peer *p)
{
    if (p->path.grade == GRADE_NONE)
        return p->grace_at != NEVER;
    return p->path.grade == GRADE_UP ? 3 : 2;
}

static enum mesh_peer_state state_of(const struct peer *p)
{
    if (!p->node)
        return MESH_PEER_REMOVED;
    if (p->direct)
        return p->direct->down ? MESH_PEER_SILENT : p->direct->suspect ? MESH_PEER_SUSPECT : MESH_PEER_UP;
    if (p->link)
        return MESH_PEER_TUNNEL;
    if (p->derper_link)
        return MESH_PEER_UP;
    if (p->dialing)
        return MESH_PEER_AUTH;
    return p->dial ? MESH_PEER_DIALING : MESH_PEER_DOWN;
}

void peer_heard(struct mesh *m, struct peer *p)
{
    bool heard = p->derper_link || (p->link && !p->link->suspect && p->synced);
    if (heard == p->heard)
        return;
    p->heard = heard;
    ours_elsewhere_all(m);
}

void peer_note(struct mesh *m, struct peer *p)
{
    peer_heard(m, p);
    enum mesh_peer_state now = state_of(p);
    if (now == p->state)
        return;
    p->state = now;
    p->since = m->now;
}

void peer_error(struct peer *p, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p->last_error, sizeof p->last_error, fmt, ap);
    va_end(ap);
}

enum mesh_log_level peer_error_level(const struct peer *p, const char *why)
{
    bool again = strncmp(p->last_error, why, sizeof p->last_error - 1) == 0 && p->attempts % 16 != 0;
    return again ? MESH_LOG_DEBUG : MESH_LOG_WARN;
}

/* ---- pins ---- */

static const struct derp_key *given_find(const struct mesh_pin *pins, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(pins[i].name, name) == 0)
            return &pins[i].key;
    return NULL;
}

const struct derp_key *pin_find(const struct mesh *m, const char *name, bool *given)
{
    const struct derp_key *named = given_find(m->given, m->n_given, name);
    if (given)
        *given = named != NULL;
    if (named)
        return named;
    for (size_t i = 0; i < m->n_pins; i++)
        if (strcmp(m->pins[i].name, name) == 0)
            return &m->pins[i].key;
    return NULL;
}

int pin_add(struct mesh *m, const char *name, const struct derp_key *key)
{
    struct pin *p = realloc(m->pins, (m->n_pins + 1) * sizeof *p);
    if (!p)
        return -1;
    m->pins = p;
    p[m->n_pins].name = strdup(name);
    p[m->n_pins].key = *key;
    if (!p[m->n_pins].name)
        return -1;
    m->n_pins++;
    return 0;
}

static void pin_lost(struct mesh *m, struct peer *p, const char *why)
{
    mesh_log(m, MESH_LOG_WARN, "links are closed: %s peer=%s", why, p->name);
    p->has_key = false;
    lanes_close(m, p);
    for (size_t i = 0; i < m->n_links;) {
        if (m->links[i]->peer == p) {
            link_end(m, m->links[i], LINK_END_CLOSE, MESHMSG_BYE_STOP, why);
            i = 0;
        } else {
            i++;
        }
    }
}

void mesh_set_pins(struct mesh *m, const struct mesh_pin *pins, size_t n, uint64_t now)
{
    const struct mesh_pin *old = m->given;
    size_t n_old = m->n_given;
    m->now = now;
    m->given = pins;
    m->n_given = n;
    for (uint32_t i = 1; i < m->n_peers; i++) {
        struct peer *p = m->peers[i];
        const struct derp_key *is = given_find(pins, n, p->name);
        if (is && p->has_key && !key_equal(is, &p->key))
            pin_lost(m, p, "its node key is not the one named for it now");
        else if (!is && given_find(old, n_old, p->name))
            pin_lost(m, p, "its node key is named no longer");
    }
}

/* ---- dialling ---- */

/* Both sides compute the same: of the two names in order, the hash's lowest bit says which one dials. */
static bool dials_first(const char *us, const char *them)
{
    static const char label[] = "derpmesh dialer";
    bool us_first = strcmp(us, them) < 0;
    const char *a = us_first ? us : them, *b = us_first ? them : us;
    uint8_t hash[32];
    crypto_generichash_state st;
    crypto_generichash_init(&st, NULL, 0, sizeof hash);
    crypto_generichash_update(&st, (const uint8_t *)label, sizeof label - 1);
    crypto_generichash_update(&st, (const uint8_t *)a, strlen(a) + 1);
    crypto_generichash_update(&st, (const uint8_t *)b, strlen(b) + 1);
    crypto_generichash_final(&st, hash, sizeof hash);
    return (hash[0] & 1) == (us_first ? 0 : 1);
}

/* Whether there is someone to dial at all. */
static bool is_wanted(const struct mesh *m, const struct peer *p)
{
    if (p->self || !p->node || p->dial || p->dialing)
        return false;
    if (p->derper)
        return !p->derper_link && p->node->region_id == m->peers[0]->node->region_id;
    return m->keys.n > 0 && (!p->direct || p->redial);
}

uint64_t peer_backoff(unsigned attempts)
{
    if (attempts == 0)
        return DIAL_JITTER_MS;
    unsigned doublings = attempts - 1 < 6 ? attempts - 1 : 6;
    uint64_t wait = (uint64_t)BACKOFF_FIRST_MS << doublings;
    return wait > MESH_BACKOFF_MAX_MS ? MESH_BACKOFF_MAX_MS : wait;
}

void peer_schedule(struct mesh *m, struct peer *p)
{
    if (!is_wanted(m, p)) {
        p->dial_at = NEVER;
        return;
    }
    if (p->dial_at != NEVER)
        return;
    uint64_t wait = peer_backoff(p->attempts);
    if (p->down_at != NEVER && wait > BACKOFF_LOST_MS)
        wait = BACKOFF_LOST_MS;
    p->dial_at = m->now + mesh_random(m, wait) + (p->preferred || p->derper ? 0 : MESH_SECOND_DIALER_MS);
}

void peer_failed(struct mesh *m, struct peer *p)
{
    p->attempts++;
    if (p->grace_at != NEVER) { /* it does not even take a new connection */
        p->grace_at = m->now;
        paths_update(m);
    }
    peer_schedule(m, p);
    peer_note(m, p);
}

void mesh_dial_failed(struct mesh *m, uint64_t dial, const char *why, uint64_t now)
{
    struct peer *p = peer_by_dial(m, dial), *lane_of;
    uint32_t lane;
    m->now = now;
    if (!p && (lane_of = lanes_by_dial(m, dial, &lane)))
        lanes_dial_failed(m, lane_of, lane, why);
    if (!p)
        return;
    mesh_log(m, peer_error_level(p, why), "cannot connect peer=%s why=\"%s\" attempts=%u", p->name, why,
             p->attempts + 1);
    p->dial = 0;
    peer_error(p, "%s", why);
    peer_failed(m, p);
}

/* Says gone of some keys of a peer that is away.  What a derper had is then forgotten: it is announced here. */
static void gone_some(struct mesh *m, struct peer *p)
{
    if (!places_gone(m, p, &p->gone_cursor, PEER_GONE_BATCH)) {
        p->gone_at = m->now + PEER_GONE_EVERY_MS;
        return;
    }
    p->gone_at = NEVER;
    if (p->derper) {
        p->down_at = NEVER;
        p->dropping = true;
    }
}

void peer_tick(struct mesh *m, struct peer *p)
{
    lanes_tick(m, p);
    if (m->now >= p->dial_at) {
        p->dial_at = NEVER;
        p->dial = ++m->last_dial;
        peer_note(m, p);
        if (p->derper)
            m->ops->dial_derper(m->ctx, p->dial, p->node);
        else
            m->ops->dial(m->ctx, p->dial, p->node, 0);
    }
    if (p->down_at != NEVER && m->now - p->down_at >= FORGET_MS) {
        p->down_at = NEVER;
        p->dropping = true;
        if (p->n_keys)
            mesh_log(m, MESH_LOG_WARN, "peer is gone, its keys are forgotten peer=%s keys=%u", p->name,
                     p->n_keys);
    }
    if (m->now >= p->gone_at)
        gone_some(m, p);
    if (p->derper)
        derper_tick(m, p);
    if (p->dropping && places_drop(m, p, PEER_DROP_BATCH, p->certain))
        p->dropping = p->certain = false;
}

uint64_t peer_next(const struct mesh *m, const struct peer *p)
{
    if (p->dropping)
        return m->now;
    uint64_t next = p->dial_at < p->gone_at ? p->dial_at : p->gone_at, lanes = lanes_next(p);
    next = lanes < next ? lanes : next;
    if (p->derper && p->settle_at < next)
        next = p->settle_at;
    if (p->down_at != NEVER && p->down_at + FORGET_MS < next)
        next = p->down_at + FORGET_MS;
    return next;
}

/* ---- the map ---- */

void peer_free(struct peer *p)
{
    if (!p)
        return;
    free(p->name);
    free(p->slots);
    free(p->old_slots);
    free(p->neighbours);
    free(p);
}

static struct peer *peer_add(struct mesh *m, const char *name)
{
    struct peer **all = m->n_peers < PEERS_MAX ? realloc(m->peers, (m->n_peers + 1) * sizeof(*all)) : NULL;
    if (!all)
        return NULL;
    m->peers = all;
    struct peer *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->name = strdup(name);
    if (!p->name) {
        free(p);
        return NULL;
    }
    node_id_of(&p->id, name);
    p->index = m->n_peers;
    p->self = m->n_peers == 0;
    p->preferred = !p->self && dials_first(m->peers[0]->name, name);
    p->dial_at = p->down_at = p->gone_at = p->settle_at = p->grace_at = p->lanes_until = NEVER;
    p->tunnel_at = NEVER;
    p->tunnel_avoid = NODE_NONE;
    p->path.via = p->path_told.via = p->path.better = NODE_NONE;
    for (uint32_t i = 0; i < MESH_LANES_MAX; i++)
        p->lane[i].dial_at = NEVER;
    p->state = MESH_PEER_REMOVED;
    m->peers[m->n_peers++] = p;
    return p;
}

/* A node is not in the map any more: its links and keys go at once. */
static void peer_remove(struct mesh *m, struct peer *p)
{
    mesh_log(m, MESH_LOG_INFO, "peer is not in the map any more peer=%s", p->name);
    p->node = NULL;
    if (p->dial) {
        uint64_t dial = p->dial;
        p->dial = 0;
        m->ops->dial_cancel(m->ctx, dial);
    }
    lanes_close(m, p);
    for (size_t i = 0; i < m->n_links;) {
        if (m->links[i]->peer == p) {
            link_end(m, m->links[i], LINK_END_BYE, MESHMSG_BYE_MAP, "not in the map any more");
            i = 0;
        } else {
            i++;
        }
    }
    derper_set(m, p, false);
    p->attempts = 0;
    p->down_at = p->gone_at = p->grace_at = NEVER;
    p->dropping = p->certain = true;
    p->redial = false;
    peer_schedule(m, p);
    peer_note(m, p);
}

/* One node of a new map.  0, or -1 without memory. */
static int take_node(struct mesh *m, const struct derpmap_node *n)
{
    if (strlen(n->id) >= MESHMSG_NAME_MAX) {
        mesh_log(m, MESH_LOG_ERROR, "a node's Name is too long for the mesh name=%s max=%d", n->id,
                 MESHMSG_NAME_MAX - 1);
        return 0;
    }
    struct peer *p = peer_by_name(m, n->id);
    if (!p)
        p = peer_add(m, n->id);
    if (!p)
        return -1;
    p->seen = true;
    if (p->node && m->map && !p->self && !derpmap_node_same(p->node, n)) {
        p->redial = p->direct != NULL;
        derper_set(m, p, false); /* another place: dialled anew below */
        p->attempts = 0;
        p->dial_at = NEVER;
    }
    derper_set(m, p, !p->self && !p->link && m->ops->is_derper && m->ops->is_derper(m->ctx, n));
    if (!p->node && !p->self) { /* new, or back: not heard of yet, so keys may be there */
        p->gone_at = m->now + MESH_UNREACHABLE_MS;
        p->gone_cursor = 0;
    }
    p->node = n;
    peer_schedule(m, p);
    peer_note(m, p);
    return 0;
}

int peers_take_map(struct mesh *m, const struct derpmap *map, const struct derpmap_node *self)
{
    for (uint32_t i = 0; i < m->n_peers; i++)
        m->peers[i]->seen = false;
    int r = take_node(m, self); /* [0] at the first call */
    for (int i = 0; i < map->n_nodes && r == 0; i++)
        if (!map->nodes[i].backup && !map->nodes[i].stun_only)
            r = take_node(m, &map->nodes[i]);
    if (r != 0)
        mesh_log(m, MESH_LOG_ERROR, "out of memory for the nodes of the map");
    m->map = map;
    m->self = self;
    for (uint32_t i = 1; i < m->n_peers; i++)
        if (!m->peers[i]->seen && m->peers[i]->node)
            peer_remove(m, m->peers[i]);
    return r;
}
