/* A world of meshes in one process: virtual time, connections with latency, resets, silence; for tests only.
 *
 * Everything that happens comes from one seed: the world's random numbers feed the meshes, too.  A connection carries
 * whole frames in order in each direction.  world_step runs the next event or tick. */
#ifndef DERPMESH_TESTS_MESH_WORLD_H
#define DERPMESH_TESTS_MESH_WORLD_H

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "mesh/mesh.h"
#include "proto/wire.h"

enum { WORLD_REGIONS = 3, WORLD_NODES = 24, WORLD_KEYS = 120, WORLD_CONNS = 1 << 15 };
enum { WORLD_DERPER_LINK = 1 << 30 }; /* from here on: connections to derpers, which tests play themselves */

struct world;

struct world_node {
    struct world *w;
    int index;
    char name[32], host[32];
    struct mesh *mesh; /* NULL: stopped */
    struct key_pair key;
    struct mesh_keys psk;
    uint64_t boot, next, started;
    const struct derpmap *map;
    bool no_exporter, accept_no_exporter;
    void (*rewrite)(struct meshmsg *msg); /* see mesh_config */
    struct mesh_pin pins[WORLD_NODES];
    char pin_name[WORLD_NODES][32];
    size_t n_pins;
    /* What the ops were told. */
    uint32_t route[WORLD_KEYS];
    struct mesh_path path[WORLD_NODES + 1];
    uint64_t node_link[WORLD_NODES + 1]; /* the first connection of the path, 0: none */
    uint64_t lost;                       /* how often a link was lost without another in its place */
    uint64_t gone[WORLD_KEYS];           /* how often */
    uint64_t moved[WORLD_KEYS];          /* the same */
    uint64_t gone_at[WORLD_KEYS];
    unsigned busy; /* how often we were told, and what last */
    struct derp_key busy_dst, busy_src;
    uint32_t busy_ms;
    char last_log[700], last_warning[700];
    uint64_t alarms;
    uint64_t derper_dial[WORLD_NODES], derper_dials; /* to be answered by the test */
    uint64_t derper_closed;                          /* connections to derpers that were closed */
    /* The model: what is connected here. */
    bool up[WORLD_KEYS], home[WORLD_KEYS];
    uint64_t up_since[WORLD_KEYS];
};

/* One connection; side 0 dialled.  A side's link id is 2 × conn + side + 1000. */
struct world_conn {
    bool used, open[2], silent;
    bool deaf[2];      /* nothing comes to that side any more (one way dead) */
    bool ready[2];     /* that side takes data */
    uint64_t acked[2]; /* what that side's TCP says */
    int node[2];
    uint64_t arrives[2]; /* last arrival at that side */
    uint64_t latency;
    uint8_t exporter[32];
    size_t in_flight[2], in_flight_max;
};

enum world_event_type { EV_DIALLED, EV_ACCEPTED, EV_DIAL_FAILED, EV_FRAME, EV_CLOSED, EV_ACKED };
struct world_event {
    uint64_t at, order;
    enum world_event_type type;
    int node;
    uint64_t link, dial;
    int incarnation;
    uint8_t *frame;
    size_t len;
};

struct world {
    uint64_t now, rnd, order;
    int n;
    struct world_node node[WORLD_NODES];
    int incarnation[WORLD_NODES];
    struct world_conn conn[WORLD_CONNS];
    int n_conns;
    struct world_event *heap;
    size_t n_events, cap_events;
    bool cut[WORLD_NODES][WORLD_NODES]; /* no connection can be made, what is sent is lost */
    uint64_t latency_min, latency_max;
    unsigned lanes;         /* of each pair */
    uint32_t loss_permille; /* of packets; TCP sends them again */
    bool acks;              /* the meshes are told what TCP acknowledges */
    uint64_t frames, bytes;
    uint64_t fingerprint; /* of all that was sent: equal for equal seeds */
    size_t sent_this_tick, sent_tick_max;
    /* A man in the middle: may change a frame on its way (len stays), or return false to drop it. */
    bool (*tamper)(struct world *w, int from, uint8_t *payload, size_t *len, void *ctx);
    /* … may change what a side learns of TLS. */
    void (*tamper_info)(struct world *w, int node, struct mesh_link_info *info, void *ctx);
    void *tamper_ctx;
    void (*on_gone)(struct world *w, int node, int key);
    bool derper[WORLD_NODES]; /* a real one, with no mesh */
    bool verbose;
};

static inline uint64_t world_random(struct world *w)
{
    w->rnd += 0x9e3779b97f4a7c15u;
    uint64_t z = w->rnd;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t world_below(struct world *w, uint64_t n)
{
    return world_random(w) % n;
}

static inline struct derp_key world_key(int k)
{
    struct derp_key key;
    memset(key.b, 0xc0, sizeof key.b);
    wire_put32(key.b, (uint32_t)k);
    return key;
}

static inline int world_key_index(const struct derp_key *key)
{
    return (int)wire_get32(key->b);
}

/* ---- maps ---- */

/* A map of the nodes whose bit is set; version changes their ports where the bit is set in moved. */
static inline struct derpmap *world_map(struct world *w, uint32_t nodes, uint32_t moved, uint8_t version)
{
    struct derpmap *m = calloc(1, sizeof *m);
    m->nodes = calloc((size_t)w->n, sizeof *m->nodes);
    m->hash[0] = version;
    for (int i = 0; i < w->n; i++) {
        if (!(nodes >> i & 1))
            continue;
        struct derpmap_node *n = &m->nodes[m->n_nodes++];
        n->id = n->name = w->node[i].name;
        n->host_name = w->node[i].host;
        n->region_id = 900 + i % WORLD_REGIONS;
        n->derp_port = moved >> i & 1 ? 8000 + version : 443;
    }
    return m;
}

static inline void world_map_free(struct derpmap *m)
{
    if (m)
        free(m->nodes);
    free(m);
}

static inline const struct derpmap_node *world_map_node(const struct derpmap *m, const char *name)
{
    for (int i = 0; i < m->n_nodes; i++)
        if (strcmp(m->nodes[i].id, name) == 0)
            return &m->nodes[i];
    return NULL;
}

static inline int world_by_name(const struct world *w, const char *name)
{
    for (int i = 0; i < w->n; i++)
        if (strcmp(w->node[i].name, name) == 0)
            return i;
    return -1;
}

/* The world's number of a node that a mesh calls by its index; WORLD_NODES: none. */
static inline int world_of_index(const struct world_node *n, uint32_t index)
{
    struct mesh_peer_info info;
    if (index == NODE_NONE || !mesh_peer(n->mesh, index, &info))
        return WORLD_NODES;
    return world_by_name(n->w, info.name);
}

static inline uint32_t world_index_of(const struct world_node *n, int other)
{
    struct node_id id;
    node_id_of(&id, n->w->node[other].name);
    return mesh_node_index(n->mesh, &id);
}

/* ---- events ---- */

static inline bool event_before(const struct world_event *a, const struct world_event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static inline void world_push(struct world *w, struct world_event e)
{
    if (w->n_events == w->cap_events) {
        w->cap_events = w->cap_events ? w->cap_events * 2 : 1024;
        w->heap = realloc(w->heap, w->cap_events * sizeof *w->heap);
    }
    e.order = w->order++;
    size_t i = w->n_events++;
    for (; i > 0 && event_before(&e, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = e;
}

static inline struct world_event world_pop(struct world *w)
{
    struct world_event top = w->heap[0], last = w->heap[--w->n_events];
    size_t i = 0;
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= w->n_events)
            break;
        if (c + 1 < w->n_events && event_before(&w->heap[c + 1], &w->heap[c]))
            c++;
        if (!event_before(&w->heap[c], &last))
            break;
        w->heap[i] = w->heap[c];
        i = c;
    }
    if (w->n_events)
        w->heap[i] = last;
    return top;
}

static inline struct world_conn *world_conn_of(struct world *w, uint64_t link, int *side)
{
    *side = (int)((link - 1000) % 2);
    return &w->conn[(link - 1000) / 2];
}

static inline uint64_t world_link_id(const struct world *w, const struct world_conn *c, int side)
{
    return 1000 + 2 * (uint64_t)(c - w->conn) + (uint64_t)side;
}

/* Something that comes to a side of a connection, behind all that came before. */
static inline void world_arrive(struct world *w, struct world_conn *c, int side, struct world_event e)
{
    uint64_t at = w->now + c->latency + world_below(w, 3);
    if (at < c->arrives[side])
        at = c->arrives[side];
    c->arrives[side] = e.at = at;
    e.node = c->node[side];
    e.incarnation = w->incarnation[e.node];
    e.link = world_link_id(w, c, side);
    world_push(w, e);
}

static inline bool world_lost(struct world *w)
{
    return w->loss_permille && world_below(w, 1000) < w->loss_permille;
}

/* How much later a frame gets there if packets are lost: TCP sends them again after its timeout, twice as long each time.
 * (Real ones are faster where later packets show the loss.)  What comes behind it waits: world_arrive. */
static inline uint64_t world_again(struct world *w, const struct world_conn *c)
{
    uint64_t delay = 0, timeout = 2 * c->latency + 200;
    for (; world_lost(w); timeout *= 2)
        delay += timeout;
    return delay;
}

/* The other side's TCP acknowledges what has come to it, in order or not, unless that packet is lost. */
static inline void world_ack(struct world *w, struct world_conn *c, int side, uint64_t delay)
{
    if (!w->acks || world_lost(w) || c->deaf[side] || c->deaf[!side])
        return;
    int node = c->node[side];
    world_push(w, (struct world_event){.type = EV_ACKED,
                                       .at = w->now + delay + 2 * c->latency,
                                       .node = node,
                                       .incarnation = w->incarnation[node],
                                       .link = world_link_id(w, c, side)});
}

/* A side's end of a connection is gone; the other hears of it unless the connection is silent. */
static inline void world_close_side(struct world *w, struct world_conn *c, int side)
{
    if (!c->open[side])
        return;
    c->open[side] = false;
    if (c->open[!side] && !c->silent)
        world_arrive(w, c, !side, (struct world_event){.type = EV_CLOSED});
}

/* ---- the ops ---- */

static inline void world_op_random(void *ctx, void *out, size_t len)
{
    struct world_node *n = ctx;
    uint8_t *p = out;
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)world_random(n->w);
}

static inline void world_op_dial(void *ctx, uint64_t dial, const struct derpmap_node *to, uint32_t lane)
{
    (void)lane;
    struct world_node *n = ctx;
    struct world *w = n->w;
    int other = world_by_name(w, to->id);
    struct world_event e = {.node = n->index, .dial = dial, .incarnation = w->incarnation[n->index]};
    uint64_t latency = w->latency_min + world_below(w, w->latency_max - w->latency_min + 1);
    if (w->cut[n->index][other] || !w->node[other].mesh) {
        e.type = EV_DIAL_FAILED;
        e.at = w->now + (w->cut[n->index][other] ? 3000 : 2 * latency);
        world_push(w, e);
        return;
    }
    assert_true(w->n_conns < WORLD_CONNS);
    struct world_conn *c = &w->conn[w->n_conns++];
    *c = (struct world_conn){
        .used = true, .node = {n->index, other}, .latency = latency, .open = {true, true}};
    world_op_random(n, c->exporter, sizeof c->exporter);
    e.type = EV_DIALLED;
    e.link = world_link_id(w, c, 0);
    e.at = c->arrives[0] = w->now + 2 * latency;
    world_push(w, e);
    world_push(w, (struct world_event){.type = EV_ACCEPTED,
                                       .node = other,
                                       .incarnation = w->incarnation[other],
                                       .link = world_link_id(w, c, 1),
                                       .at = c->arrives[1] = w->now + latency});
}

static inline bool world_op_is_derper(void *ctx, const struct derpmap_node *node)
{
    struct world_node *n = ctx;
    return n->w->derper[world_by_name(n->w, node->id)];
}

static inline void world_op_dial_derper(void *ctx, uint64_t dial, const struct derpmap_node *to)
{
    struct world_node *n = ctx;
    n->derper_dial[world_by_name(n->w, to->id)] = dial;
    n->derper_dials++;
}

static inline void world_op_dial_cancel(void *ctx, uint64_t dial)
{
    (void)ctx;
    (void)dial; /* its answer comes late and is ignored, as it may */
}

static inline void world_op_send(void *ctx, uint64_t link, const uint8_t *frame, size_t len)
{
    struct world_node *n = ctx;
    struct world *w = n->w;
    int side;
    struct world_conn *c = world_conn_of(w, link, &side);
    assert_int_equal(c->node[side], n->index);
    assert_int_equal(frame[0], FRAME_MESH_CONTROL);
    assert_int_equal(wire_get32(frame + 1), len - FRAME_HEADER_LEN);
    w->frames++;
    w->bytes += len;
    w->sent_this_tick += len;
    for (size_t i = 0; i < len; i++)
        w->fingerprint = (w->fingerprint ^ frame[i]) * 0x100000001b3u;
    if (!c->open[side] || !c->open[!side] || c->silent)
        return;
    size_t payload = len - FRAME_HEADER_LEN;
    uint8_t *copy = malloc(payload + 1);
    memcpy(copy, frame + FRAME_HEADER_LEN, payload);
    if (w->tamper && !w->tamper(w, n->index, copy, &payload, w->tamper_ctx)) {
        free(copy);
        return;
    }
    c->in_flight[!side] += payload;
    if (c->in_flight[!side] > c->in_flight_max)
        c->in_flight_max = c->in_flight[!side];
    uint64_t delay = world_again(w, c), usual = c->latency;
    world_ack(w, c, side, delay);
    c->latency += delay;
    world_arrive(w, c, !side, (struct world_event){.type = EV_FRAME, .frame = copy, .len = payload});
    c->latency = usual;
}

static inline void world_op_close(void *ctx, uint64_t link, const char *why)
{
    struct world_node *n = ctx;
    int side;
    if (link >= WORLD_DERPER_LINK) {
        n->derper_closed++;
        return;
    }
    struct world_conn *c = world_conn_of(n->w, link, &side);
    if (n->w->verbose)
        printf("%8" PRIu64 " %s closes link %" PRIu64 ": %s\n", n->w->now, n->name, link, why);
    world_close_side(n->w, c, side);
}

static inline void world_op_link_ready(void *ctx, uint64_t link, uint32_t node)
{
    struct world_node *n = ctx;
    int side;
    if (link >= WORLD_DERPER_LINK)
        return;
    struct world_conn *c = world_conn_of(n->w, link, &side);
    struct mesh_peer_info info;
    assert_true(mesh_peer(n->mesh, node, &info));
    assert_string_equal(n->w->node[c->node[!side]].name, info.name);
    c->ready[side] = true;
}

static inline void world_op_node_path(void *ctx, uint32_t node, const struct mesh_path *path)
{
    struct world_node *n = ctx;
    int other = n->mesh ? world_of_index(n, node) : WORLD_NODES;
    assert_true(path->via != node || path->n > 0); /* direct: there is what data may take now */
    n->path[other] = *path;
    n->node_link[other] = path->via == NODE_NONE ? 0 : path->link[0];
    n->lost += path->via == NODE_NONE;
}

static inline void world_op_busy(void *ctx, const struct derp_key *dst, const struct derp_key *src,
                                 uint32_t ms)
{
    struct world_node *n = ctx;
    n->busy++;
    n->busy_dst = *dst;
    n->busy_src = *src;
    n->busy_ms = ms;
}

static inline void world_op_route(void *ctx, const struct derp_key *key, uint32_t node)
{
    struct world_node *n = ctx;
    int k = world_key_index(key);
    if (k < 0 || k >= WORLD_KEYS)
        return;
    assert_int_not_equal(n->route[k], node); /* only changes are told */
    n->route[k] = node;
}

static inline void world_op_moved(void *ctx, const struct derp_key *key)
{
    struct world_node *n = ctx;
    int k = world_key_index(key);
    if (k >= 0 && k < WORLD_KEYS)
        n->moved[k]++;
}

static inline void world_op_gone(void *ctx, const struct derp_key *key)
{
    struct world_node *n = ctx;
    int k = world_key_index(key);
    if (k < 0 || k >= WORLD_KEYS)
        return;
    n->gone[k]++;
    n->gone_at[k] = n->w->now;
    if (n->w->on_gone)
        n->w->on_gone(n->w, n->index, k);
}

static inline void world_op_pin(void *ctx, const char *name, const struct derp_key *key)
{
    struct world_node *n = ctx;
    for (size_t i = 0; i < n->n_pins; i++)
        assert_string_not_equal(n->pins[i].name, name);
    snprintf(n->pin_name[n->n_pins], sizeof n->pin_name[0], "%s", name);
    n->pins[n->n_pins] = (struct mesh_pin){.name = n->pin_name[n->n_pins], .key = *key};
    n->n_pins++;
}

static inline void world_op_log(void *ctx, enum mesh_log_level level, const char *msg)
{
    struct world_node *n = ctx;
    assert_null(strchr(msg, '\n'));
    if (n->w->verbose)
        printf("%8" PRIu64 " %s %d %s\n", n->w->now, n->name, (int)level, msg);
    snprintf(n->last_log, sizeof n->last_log, "%s", msg);
    if (level >= MESH_LOG_WARN)
        snprintf(n->last_warning, sizeof n->last_warning, "%s", msg);
    if (level == MESH_LOG_ERROR)
        n->alarms++;
}

static const struct mesh_ops WORLD_OPS = {
    .random = world_op_random,
    .dial = world_op_dial,
    .is_derper = world_op_is_derper,
    .dial_derper = world_op_dial_derper,
    .dial_cancel = world_op_dial_cancel,
    .send = world_op_send,
    .close = world_op_close,
    .link_ready = world_op_link_ready,
    .node_path = world_op_node_path,
    .busy = world_op_busy,
    .route = world_op_route,
    .moved = world_op_moved,
    .gone = world_op_gone,
    .pin = world_op_pin,
    .log = world_op_log,
};

/* ---- nodes ---- */

static inline struct world *world_new(uint64_t seed, int n)
{
    struct world *w = calloc(1, sizeof *w);
    w->rnd = seed;
    w->n = n;
    w->now = 1000000 + world_below(w, 1000000);
    w->latency_min = 1;
    w->latency_max = 120;
    w->fingerprint = 0xcbf29ce484222325u;
    for (int i = 0; i < n; i++) {
        struct world_node *x = &w->node[i];
        uint8_t secret[KEY_LEN];
        x->w = w;
        x->index = i;
        snprintf(x->name, sizeof x->name, "node-%d", i);
        snprintf(x->host, sizeof x->host, "n%d.example", i);
        world_op_random(x, secret, sizeof secret);
        key_pair_from_secret(&x->key, secret);
        memset(x->psk.key[0], 0x5a, KEY_LEN);
        x->psk.n = 1;
        x->boot = 1000;
    }
    return w;
}

static inline void world_start(struct world *w, int i, const struct derpmap *map)
{
    struct world_node *x = &w->node[i];
    struct mesh_config c = {.ops = &WORLD_OPS,
                            .ctx = x,
                            .software = "derpmesh test",
                            .node_key = x->key,
                            .boot = ++x->boot,
                            .keys = &x->psk,
                            .map = map,
                            .self = world_map_node(map, x->name),
                            .pins = x->pins,
                            .n_pins = x->n_pins,
                            .lanes = w->lanes,
                            .rewrite = x->rewrite,
                            .accept_no_exporter = x->accept_no_exporter};
    world_op_random(x, c.instance, sizeof c.instance);
    x->map = map;
    x->started = w->now;
    memset(x->up, 0, sizeof x->up);
    memset(x->node_link, 0, sizeof x->node_link);
    memset(x->path, 0, sizeof x->path);
    for (int k = 0; k < WORLD_KEYS; k++)
        x->route[k] = NODE_NONE;
    x->mesh = mesh_new(&c, w->now);
    assert_non_null(x->mesh);
    x->next = mesh_next(x->mesh);
}

/* silent: the machine has lost power, nobody is told. */
static inline void world_stop(struct world *w, int i, bool orderly, bool silent)
{
    struct world_node *x = &w->node[i];
    for (int k = 0; k < w->n_conns; k++) {
        struct world_conn *c = &w->conn[k];
        for (int side = 0; side < 2; side++) {
            if (!c->used || c->node[side] != i || !c->open[side] || orderly)
                continue;
            c->silent = c->silent || silent;
            world_close_side(w, c, side);
        }
    }
    struct mesh *m = x->mesh;
    mesh_free(m);
    x->mesh = NULL;
    w->incarnation[i]++;
    memset(x->up, 0, sizeof x->up);
}

static inline void world_free(struct world *w)
{
    for (int i = 0; i < w->n; i++)
        if (w->node[i].mesh)
            world_stop(w, i, true, false);
    for (size_t i = 0; i < w->n_events; i++)
        free(w->heap[i].frame);
    free(w->heap);
    free(w);
}

static inline void world_touch(struct world *w, int i)
{
    struct world_node *x = &w->node[i];
    if (x->mesh)
        x->next = mesh_next(x->mesh);
}

static inline void world_open(struct world *w, const struct world_event *e)
{
    struct world_node *x = &w->node[e->node];
    int side;
    struct world_conn *c = world_conn_of(w, e->link, &side);
    struct mesh_link_info info = {.dialer = side == 0,
                                  .dial = e->dial,
                                  .has_exporter = !w->node[c->node[1]].no_exporter,
                                  .from = w->node[c->node[!side]].host};
    memcpy(info.exporter, c->exporter, sizeof info.exporter);
    if (w->tamper_info)
        w->tamper_info(w, e->node, &info, w->tamper_ctx);
    if (c->open[side])
        mesh_link_open(x->mesh, e->link, &info, w->now);
    else
        assert_true(side == 0 || side == 1);
}

static inline void world_run_event(struct world *w, struct world_event *e)
{
    struct world_node *x = &w->node[e->node];
    int side = 0;
    struct world_conn *c = e->link ? world_conn_of(w, e->link, &side) : NULL;
    if (e->type == EV_FRAME)
        c->in_flight[side] -= e->len;
    if (!x->mesh || e->incarnation != w->incarnation[e->node]) {
        if (c)
            world_close_side(w, c, side);
        free(e->frame);
        return;
    }
    switch (e->type) {
    case EV_DIALLED:
        if (!c->open[1] || c->silent) {
            c->open[0] = false;
            mesh_dial_failed(x->mesh, e->dial, "connection refused", w->now);
            break;
        }
        world_open(w, e);
        break;
    case EV_ACCEPTED:
        world_open(w, e);
        break;
    case EV_DIAL_FAILED:
        mesh_dial_failed(x->mesh, e->dial, "connection refused", w->now);
        break;
    case EV_FRAME:
        if (c->open[side] && !c->silent && !c->deaf[side]) {
            uint8_t *exact = malloc(e->len); /* so that a read past the end is seen */
            memcpy(exact, e->frame, e->len);
            mesh_link_input(x->mesh, e->link, exact, e->len, w->now);
            free(exact);
        }
        break;
    case EV_ACKED:
        if (c->open[side] && !c->silent)
            mesh_link_acked(x->mesh, e->link, c->acked[side] += 100, w->now);
        break;
    case EV_CLOSED:
        if (c->open[side]) {
            c->open[side] = false;
            mesh_link_closed(x->mesh, e->link, "connection reset", w->now);
        }
        break;
    }
    free(e->frame);
    world_touch(w, e->node);
}

/* Runs until a moment. */
static inline void world_run(struct world *w, uint64_t until)
{
    uint64_t same = 0, last = 0;
    for (;;) {
        uint64_t at = w->n_events ? w->heap[0].at : UINT64_MAX;
        int ticks = -1;
        for (int i = 0; i < w->n; i++)
            if (w->node[i].mesh && w->node[i].next < at) {
                at = w->node[i].next;
                ticks = i;
            }
        if (at > until)
            break;
        if (at > w->now)
            w->now = at;
        same = w->now == last ? same + 1 : 0;
        last = w->now;
        assert_true(same < 1000000); /* nobody spins */
        if (ticks >= 0) {
            w->sent_this_tick = 0;
            mesh_tick(w->node[ticks].mesh, w->now);
            if (w->sent_this_tick > w->sent_tick_max)
                w->sent_tick_max = w->sent_this_tick;
            world_touch(w, ticks);
        } else {
            struct world_event e = world_pop(w);
            world_run_event(w, &e);
        }
    }
    w->now = until;
}

/* Tears a connection: both sides hear of it (reset), or neither (silent). */
static inline void world_break(struct world *w, struct world_conn *c, bool silent)
{
    if (silent) {
        c->silent = true;
        return;
    }
    for (int side = 0; side < 2; side++)
        if (c->open[side])
            world_arrive(w, c, side, (struct world_event){.type = EV_CLOSED});
    c->silent = true; /* what was under way is lost */
}

/* The open connection between two nodes, NULL if there is none; *side is a's. */
static inline struct world_conn *world_between(struct world *w, int a, int b, int *side)
{
    *side = 0;
    for (int i = w->n_conns - 1; i >= 0; i--) {
        struct world_conn *c = &w->conn[i];
        for (int s = 0; s < 2; s++)
            if (c->open[0] && c->open[1] && !c->silent && c->node[s] == a && c->node[!s] == b) {
                *side = s;
                return c;
            }
    }
    return NULL;
}

/* ---- clients ---- */

static inline void world_client_up(struct world *w, int i, int k, bool home)
{
    struct world_node *x = &w->node[i];
    struct derp_key key = world_key(k);
    x->up[k] = true;
    x->home[k] = home;
    x->up_since[k] = w->now;
    assert_int_equal(mesh_client_up(x->mesh, &key, home, w->now), 0);
    world_touch(w, i);
}

static inline void world_client_home(struct world *w, int i, int k, bool home)
{
    struct derp_key key = world_key(k);
    w->node[i].home[k] = home;
    mesh_client_home(w->node[i].mesh, &key, home, w->now);
    world_touch(w, i);
}

static inline void world_client_down(struct world *w, int i, int k)
{
    struct derp_key key = world_key(k);
    w->node[i].up[k] = false;
    mesh_client_down(w->node[i].mesh, &key, w->now);
    world_touch(w, i);
}

#endif
