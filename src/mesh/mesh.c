/* The mesh as the node sees it: making and ending it, new maps and keys, time, and looking.
 *
 * Happy path: mesh_new takes the map; from then on the node calls mesh_tick when mesh_next says, and the functions of
 * link.c (links), ours.c (our clients) and peers.c (dialling) when something happens.
 * How it fails: nothing from outside ends it; what a link does wrong ends that link, and what cannot be stored for lack
 * of memory is asked for again on the next one. */
#include "mesh/mesh.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "mesh/derper.h"
#include "mesh/lanes.h"
#include "mesh/hold.h"
#include "mesh/leaving.h"
#include "mesh/link.h"
#include "mesh/ours.h"
#include "mesh/paths.h"
#include "mesh/places.h"
#include "mesh/reauth.h"
#include "mesh/state.h"
#include "mesh/tunnel.h"

const char *mesh_printable(char *out, size_t cap, const char *s)
{
    size_t n = 0;
    for (; s[n] && n + 1 < cap; n++)
        out[n] = s[n] >= 0x20 && s[n] <= 0x7e && s[n] != '"' ? s[n] : '?';
    out[n] = 0;
    return out;
}

void mesh_log(struct mesh *m, enum mesh_log_level level, const char *fmt, ...)
{
    char line[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    for (char *c = line; *c; c++)
        if ((uint8_t)*c < 0x20 || *c == 0x7f)
            *c = '?';
    m->ops->log(m->ctx, level, line);
}

uint64_t mesh_random(struct mesh *m, uint64_t max)
{
    uint64_t v;
    m->ops->random(m->ctx, &v, sizeof v);
    return v % (max + 1);
}

int mesh_key_find(const struct mesh *m, const struct mesh_key_id *id)
{
    for (int i = 0; i < m->keys.n; i++)
        if (memcmp(&m->key_id[i], id, sizeof *id) == 0)
            return i;
    return -1;
}

static void keys_take(struct mesh *m, const struct mesh_keys *keys)
{
    m->keys = *keys;
    for (int i = 0; i < keys->n; i++)
        mesh_key_id_of(&m->key_id[i], keys->key[i]);
}

static int parts_init(struct mesh *m, const struct mesh_config *c)
{
    uint64_t seed[3];
    m->ops->random(m->ctx, seed, sizeof seed);
    if (places_init(m, seed[0]) != 0 || ours_init(m, seed[1]) != 0 || leaving_init(m, seed[2]) != 0)
        return -1;
    for (size_t i = 0; i < c->n_pins; i++)
        if (pin_add(m, c->pins[i].name, &c->pins[i].key) != 0)
            return -1;
    return peers_take_map(m, c->map, c->self);
}

struct mesh *mesh_new(const struct mesh_config *c, uint64_t now)
{
    struct mesh *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->ops = c->ops;
    m->ctx = c->ctx;
    m->now = now;
    snprintf(m->software, sizeof m->software, "%s", c->software);
    m->node_key = c->node_key;
    m->boot = c->boot;
    memcpy(m->instance, c->instance, sizeof m->instance);
    m->accept_no_exporter = c->accept_no_exporter;
    m->rewrite = c->rewrite;
    m->paths_at = NEVER;
    m->links_at = now;
    m->lanes = c->lanes < MESH_LANES_MAX ? c->lanes : MESH_LANES_MAX;
    keys_take(m, c->keys);
    if (parts_init(m, c) != 0) {
        mesh_free(m);
        return NULL;
    }
    return m;
}

void mesh_free(struct mesh *m)
{
    if (!m)
        return;
    links_free(m);
    for (uint32_t i = 0; i < m->n_peers; i++) {
        if (m->peers[i]->dial)
            m->ops->dial_cancel(m->ctx, m->peers[i]->dial);
        if (m->peers[i]->derper_link)
            m->ops->close(m->ctx, m->peers[i]->derper_link, "this node stops");
        lanes_cancel(m, m->peers[i]);
        peer_free(m->peers[i]);
    }
    free(m->peers);
    for (size_t i = 0; i < m->n_pins; i++)
        free(m->pins[i].name);
    free(m->pins);
    places_deinit(m);
    leaving_deinit(m);
    ours_deinit(m);
    sodium_memzero(m, sizeof *m);
    free(m);
}

/* ---- reload ---- */

void mesh_set_map(struct mesh *m, const struct derpmap *map, const struct derpmap_node *self, uint64_t now)
{
    m->now = now;
    (void)peers_take_map(m, map, self);
    paths_update(m);
    for (size_t i = 0; i < m->n_links; i++)
        link_map_changed(m, m->links[i]);
}

/* Whether a link may stay though the ring has changed. */
static bool key_kept(const struct mesh *m, const struct link *l)
{
    if (l->state < LINK_CHALLENGE)
        return true; /* not yet proven: judged by the new ring */
    return reauth_holds(m, l->is_lane && l->peer->direct ? l->peer->direct : l);
}

void mesh_set_keys(struct mesh *m, const struct mesh_keys *keys, uint64_t now)
{
    bool same = m->keys.n == keys->n;
    for (int i = 0; same && i < keys->n; i++)
        same = sodium_memcmp(m->keys.key[i], keys->key[i], KEY_LEN) == 0;
    m->now = now;
    if (same)
        return;
    keys_take(m, keys);
    for (size_t i = 0; i < m->n_links;) {
        if (key_kept(m, m->links[i])) {
            i++;
            continue;
        }
        link_end(m, m->links[i], LINK_END_BYE, MESHMSG_BYE_KEY, "its mesh key was removed here");
        i = 0;
    }
    for (size_t i = 0; i < m->n_links; i++)
        if (!m->links[i]->is_lane && (m->links[i]->state == LINK_UP || m->links[i]->state == LINK_SPARE))
            reauth_send(m, m->links[i]);
    for (uint32_t i = 1; i < m->n_peers; i++)
        peer_schedule(m, m->peers[i]);
}

/* ---- time ---- */

uint64_t mesh_next(const struct mesh *m)
{
    uint64_t next = hold_next(m), placed = places_next(m), left = leaving_next(m), paths = paths_next(m);
    next = placed < next ? placed : next;
    next = left < next ? left : next;
    next = paths < next ? paths : next;
    for (uint32_t i = 1; i < m->n_peers; i++) {
        uint64_t t = peer_next(m, m->peers[i]), tunnel = tunnel_next(m->peers[i]);
        t = tunnel < t ? tunnel : t;
        next = t < next ? t : next;
    }
    for (size_t i = 0; i < m->n_links; i++) {
        uint64_t t = link_next(m, m->links[i]);
        next = t < next ? t : next;
    }
    return next;
}

void mesh_tick(struct mesh *m, uint64_t now)
{
    m->now = now;
    for (uint32_t i = 1; i < m->n_peers; i++)
        peer_tick(m, m->peers[i]);
    for (uint32_t i = 1; i < m->n_peers; i++)
        tunnel_tick(m, m->peers[i]);
    for (size_t i = 0; i < m->n_links;) {
        const struct link *l = m->links[i];
        link_tick(m, m->links[i]);
        /* A link that ended has another one in its place now. */
        if (i < m->n_links && m->links[i] == l)
            i++;
    }
    paths_tick(m);
    places_tick(m);
    hold_tick(m);
    leaving_tick(m);
}

/* ---- clients ---- */

int mesh_client_up(struct mesh *m, const struct derp_key *key, bool home, uint64_t now)
{
    m->now = now;
    return ours_up(m, key, home);
}

void mesh_client_home(struct mesh *m, const struct derp_key *key, bool home, uint64_t now)
{
    m->now = now;
    ours_home(m, key, home);
}

void mesh_client_down(struct mesh *m, const struct derp_key *key, uint64_t now)
{
    m->now = now;
    ours_down(m, key);
}

void mesh_glean(struct mesh *m, const struct derp_key *key, const struct node_id *node, uint64_t now)
{
    struct peer *p = peer_by_id(m, node);
    m->now = now;
    if (p && p->path.grade != GRADE_NONE)
        place_glean(m, p, key);
}

/* ---- looking ---- */

uint32_t mesh_node_index(const struct mesh *m, const struct node_id *id)
{
    const struct peer *p = peer_by_id(m, id);
    return p ? p->index : (uint32_t)NODE_NONE;
}

uint32_t mesh_n_nodes(const struct mesh *m)
{
    return m->n_peers;
}

static double rtt_of(const struct link *l)
{
    uint64_t rtt = l ? link_rtt(l) : NEVER;
    return rtt == NEVER ? -1 : (double)rtt;
}

bool mesh_peer(const struct mesh *m, uint32_t node, struct mesh_peer_info *out)
{
    if (node == 0 || node >= m->n_peers)
        return false;
    const struct peer *p = m->peers[node];
    *out = (struct mesh_peer_info){
        .name = p->name,
        .id = p->id,
        .region_id = p->node ? p->node->region_id : 0,
        .state = p->state,
        .link = p->direct ? p->direct->id : p->derper_link,
        .control_via = !p->link             ? (uint32_t)NODE_NONE
                       : p->link->is_tunnel ? p->link->tunnel.via
                                            : p->index,
        .derper = p->derper,
        .dialed_by_us = p->direct && p->direct->dialer,
        .rtt_ms = rtt_of(p->direct),
        .via = p->path.via,
        .cost_ms = p->path.cost,
        .why = paths_why(m, p),
        .routable = peer_rank(p) > 0,
        .n_keys = p->n_keys,
        .map_differs = p->link && p->has_hash && memcmp(p->map_hash, m->map->hash, sizeof p->map_hash) != 0,
        .synced = p->derper_link ? !p->syncing : p->synced,
        .features = p->features,
        .since = p->since,
    };
    snprintf(out->software, sizeof out->software, "%s", p->software);
    snprintf(out->last_error, sizeof out->last_error, "%s", p->last_error);
    for (uint32_t i = 0; i < MESH_LANES_MAX; i++)
        out->lanes += p->lane[i].link && p->lane[i].link->confirmed && !p->lane[i].link->suspect;
    return true;
}

size_t mesh_where(const struct mesh *m, const struct derp_key *key, struct mesh_location *out, size_t max)
{
    return places_where(m, key, out, max);
}

void mesh_counters(const struct mesh *m, struct mesh_counters *out)
{
    *out = m->count;
    out->n_remote_keys = keymap_count(m->places.keys);
    out->bytes = places_bytes(m) + leaving_bytes(m) + ours_bytes(m);
}
