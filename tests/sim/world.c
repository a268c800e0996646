/* Nodes and time: what a node's threads do around its mesh, in virtual milliseconds.
 *
 * Happy path: sim_new, sim_map, sim_start for each node; sim_run goes from event to event, each mesh's mesh_next among
 * them.  The ops note what a mesh tells its node, and let checks.c judge it at once.
 * How it fails: sim_fail prints seed and time and ends the process. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mesh/state.h"
#include "sim.h"

uint64_t sim_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t sim_below(uint64_t *state, uint64_t n)
{
    return sim_random(state) % n;
}

void sim_trace(const struct sim_world *w, const char *fmt, ...)
{
    if (!w->verbose)
        return;
    va_list ap;
    printf("%9" PRIu64 " ", w->now);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

void sim_fail(const struct sim_world *w, const char *fmt, ...)
{
    va_list ap;
    fflush(stdout);
    fprintf(stderr, "seed %" PRIu64 " at %" PRIu64 " ms: ", w->seed, w->now);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    abort(); /* not exit: whoever debugs wants the stack */
}

struct derp_key sim_key(int k)
{
    struct derp_key key;
    memset(key.b, 0xc0, sizeof key.b);
    wire_put32(key.b, (uint32_t)k);
    return key;
}

int sim_key_index(const struct derp_key *key)
{
    return (int)wire_get32(key->b);
}

/* ---- names ---- */

static int by_name(const struct sim_world *w, const char *name)
{
    for (int i = 0; i < w->n; i++)
        if (strcmp(w->node[i].name, name) == 0)
            return i;
    return -1;
}

int sim_of_index(struct sim_node *x, uint32_t index)
{
    struct mesh_peer_info info;
    if (index == NODE_NONE)
        return -1;
    if (index >= x->n_of_index) {
        size_t n = (size_t)index + 16;
        x->of_index = realloc(x->of_index, n * sizeof *x->of_index);
        for (; x->n_of_index < n; x->n_of_index++)
            x->of_index[x->n_of_index] = -1;
    }
    if (x->of_index[index] < 0 && mesh_peer(x->mesh, index, &info))
        x->of_index[index] = by_name(x->w, info.name);
    return x->of_index[index];
}

uint32_t sim_index_of(const struct sim_node *x, int other)
{
    struct node_id id;
    node_id_of(&id, x->w->node[other].name);
    return mesh_node_index(x->mesh, &id);
}

/* ---- the ops ---- */

static void op_random(void *ctx, void *out, size_t len)
{
    struct sim_node *x = ctx;
    uint8_t *p = out;
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)sim_random(&x->rnd);
}

static void op_dial(void *ctx, uint64_t dial, const struct derpmap_node *to, uint32_t lane)
{
    struct sim_node *x = ctx;
    (void)lane;
    sim_dial(x->w, x->index, by_name(x->w, to->id), dial);
}

static void op_dial_cancel(void *ctx, uint64_t dial)
{
    (void)ctx;
    (void)dial; /* its answer comes late and is ignored, as it may */
}

static void op_send(void *ctx, uint64_t link, const uint8_t *frame, size_t len)
{
    struct sim_node *x = ctx;
    struct sim_world *w = x->w;
    int side;
    struct sim_conn *c = sim_conn_of(w, link, &side);
    if (c->node[side] != x->index || c->incarnation[side] != x->incarnation)
        sim_fail(w, "%s sends on a link that is not its own", x->name);
    if (frame[0] != FRAME_MESH_CONTROL || wire_get32(frame + 1) != len - FRAME_HEADER_LEN)
        sim_fail(w, "%s sends no control frame", x->name);
    w->frames++;
    w->bytes += len;
    if (w->checking)
        for (size_t i = 0; i < len; i++)
            w->fingerprint = (w->fingerprint ^ frame[i]) * 0x100000001b3u;
    sim_send(w, c, side, SIM_CONTROL, frame + FRAME_HEADER_LEN, len - FRAME_HEADER_LEN);
}

static void op_close(void *ctx, uint64_t link, const char *why)
{
    struct sim_node *x = ctx;
    int side;
    struct sim_conn *c = sim_conn_of(x->w, link, &side);
    sim_trace(x->w, "%s closes link %" PRIu64 ": %s", x->name, link, why);
    sim_close(x->w, c, side);
}

static void op_link_ready(void *ctx, uint64_t link, uint32_t node)
{
    struct sim_node *x = ctx;
    int side;
    struct sim_conn *c = sim_conn_of(x->w, link, &side);
    if (c->node[side] != x->index || c->node[!side] != sim_of_index(x, node))
        sim_fail(x->w, "%s takes a link for another node's", x->name);
    c->ready[side] = true;
}

static void op_node_path(void *ctx, uint32_t node, const struct mesh_path *path)
{
    struct sim_node *x = ctx;
    if (node >= x->n_paths) {
        size_t n = (size_t)node + 16;
        x->path = realloc(x->path, n * sizeof *x->path);
        for (size_t i = x->n_paths; i < n; i++)
            x->path[i] = (struct mesh_path){.via = NODE_NONE};
        x->n_paths = n;
    }
    x->path[node] = *path;
    sim_check_path(x->w, x->index, node);
}

static void op_route(void *ctx, const struct derp_key *key, uint32_t node)
{
    struct sim_node *x = ctx;
    int k = sim_key_index(key);
    if (k < 0 || k >= SIM_KEYS)
        return;
    if (x->route[k] == node)
        sim_fail(x->w, "%s tells the route of key %d although it did not change", x->name, k);
    x->route[k] = node;
    x->routed_until[k] = x->w->now;
    sim_trace(x->w, "%s routes key %d to node %d", x->name, k, sim_of_index(x, node));
    if (x->w->checking)
        sim_check_route(x->w, x->index, k, node);
}

static void op_gone(void *ctx, const struct derp_key *key)
{
    enum { WINDOW_MS = 50 };
    struct sim_node *x = ctx;
    int k = sim_key_index(key);
    if (x->w->now - x->gone_window_at >= WINDOW_MS) {
        x->gone_window_at = x->w->now;
        x->gone_window = 0;
    }
    x->gone_total++;
    x->gone_max = ++x->gone_window > x->gone_max ? x->gone_window : x->gone_max;
    if (k < 0 || k >= SIM_KEYS)
        return;
    x->gone[k]++;
    sim_trace(x->w, "%s says key %d is gone", x->name, k);
    if (x->w->checking)
        sim_check_gone(x->w, x->index, k);
}

static void op_pin(void *ctx, const char *name, const struct derp_key *key)
{
    struct sim_node *x = ctx;
    int other = by_name(x->w, name);
    for (size_t i = 0; i < x->n_pins; i++)
        if (strcmp(x->pins[i].name, name) == 0)
            sim_fail(x->w, "%s pins %s twice", x->name, name);
    x->pins = realloc(x->pins, (x->n_pins + 1) * sizeof *x->pins);
    x->pins[x->n_pins++] = (struct mesh_pin){.name = x->w->node[other].name, .key = *key};
}

static void op_log(void *ctx, enum mesh_log_level level, const char *msg)
{
    struct sim_node *x = ctx;
    if (strchr(msg, '\n'))
        sim_fail(x->w, "a log line with a newline");
    sim_trace(x->w, "%s: %s", x->name, msg);
    if (level != MESH_LOG_ERROR)
        return;
    x->alarms++;
    snprintf(x->last_alarm, sizeof x->last_alarm, "%s", msg);
}

static const struct mesh_ops OPS = {
    .random = op_random,
    .dial = op_dial,
    .dial_cancel = op_dial_cancel,
    .send = op_send,
    .close = op_close,
    .link_ready = op_link_ready,
    .node_path = op_node_path,
    .route = op_route,
    .gone = op_gone,
    .pin = op_pin,
    .log = op_log,
};

/* ---- the world ---- */

static void node_init(struct sim_world *w, int i)
{
    struct sim_node *x = &w->node[i];
    uint8_t secret[KEY_LEN];
    x->w = w;
    x->index = i;
    x->rnd = w->seed * 1000 + (uint64_t)i;
    x->power = true;
    x->region = 900 + i % 3;
    snprintf(x->name, sizeof x->name, "node-%d", i);
    snprintf(x->host, sizeof x->host, "n%d.example", i);
    op_random(x, secret, sizeof secret);
    key_pair_from_secret(&x->key, secret);
    memset(x->psk.key[0], 0x5a, KEY_LEN);
    x->psk.n = 1;
    x->boot = UINT64_C(1) << 40;
}

struct sim_world *sim_new(uint64_t seed, int n, bool verbose)
{
    struct sim_world *w = calloc(1, sizeof *w);
    w->seed = seed;
    w->rnd = seed;
    w->rnd_wire = ~seed;
    w->verbose = verbose;
    w->n = n;
    w->now = 1000000;
    w->fingerprint = 0xcbf29ce484222325u;
    w->node = calloc((size_t)n, sizeof *w->node);
    w->ways = calloc((size_t)n * (size_t)n, sizeof *w->ways);
    w->settled = calloc((size_t)n * (size_t)n, sizeof *w->settled);
    w->was_settled = calloc((size_t)n * (size_t)n, sizeof *w->was_settled);
    for (int i = 0; i < n; i++)
        node_init(w, i);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            *sim_way(w, i, j) = (struct sim_way){.delay = 10, .jitter = 2};
    return w;
}

struct derpmap *sim_map(struct sim_world *w, const bool *in, const bool *moved)
{
    struct derpmap *m = calloc(1, sizeof *m);
    w->map = realloc(w->map, (size_t)(w->n_maps + 1) * sizeof(*w->map));
    w->map[w->n_maps++] = m;
    m->nodes = calloc((size_t)w->n, sizeof *m->nodes);
    wire_put32(m->hash, (uint32_t)w->n_maps);
    for (int i = 0; i < w->n; i++) {
        if (in && !in[i])
            continue;
        struct derpmap_node *n = &m->nodes[m->n_nodes++];
        n->id = n->name = w->node[i].name;
        n->host_name = w->node[i].host;
        n->region_id = w->node[i].region;
        n->derp_port = moved && moved[i] ? 8000 + w->n_maps : 443;
    }
    return m;
}

static const struct derpmap_node *map_node(const struct derpmap *m, const char *name)
{
    for (int i = 0; i < m->n_nodes; i++)
        if (strcmp(m->nodes[i].id, name) == 0)
            return &m->nodes[i];
    return NULL;
}

void sim_start(struct sim_world *w, int i, const struct derpmap *map)
{
    struct sim_node *x = &w->node[i];
    struct mesh_config c = {.ops = &OPS,
                            .ctx = x,
                            .software = "derpmesh sim",
                            .node_key = x->key,
                            .boot = ++x->boot,
                            .keys = &x->psk,
                            .map = map,
                            .self = map_node(map, x->name),
                            .pins = x->pins,
                            .n_pins = x->n_pins,
                            .lanes = x->lanes};
    op_random(x, c.instance, sizeof c.instance);
    sim_trace(w, "%s starts, boot %" PRIu64, x->name, x->boot);
    bool was_off = !x->power;
    x->power = true;
    x->map = map;
    x->started = w->now;
    x->mesh = mesh_new(&c, w->now);
    if (!x->mesh)
        sim_fail(w, "mesh_new");
    for (int k = 0; k < SIM_KEYS; k++)
        x->route[k] = NODE_NONE;
    for (int j = 0; j < w->n && was_off; j++)
        sim_resume(w, j, i);
    sim_touch(w, i);
}

static void forget_node(struct sim_world *w, struct sim_node *x)
{
    mesh_free(x->mesh);
    x->mesh = NULL;
    x->incarnation++;
    free(x->of_index);
    free(x->path);
    x->of_index = NULL;
    x->path = NULL;
    x->n_of_index = x->n_paths = 0;
    for (int k = 0; k < SIM_KEYS; k++)
        if (x->client[k].up)
            x->client[k] = (struct sim_client){.since = w->now, .sent_at = x->client[k].sent_at};
}

void sim_stop(struct sim_world *w, int i, enum sim_stop how)
{
    static const char *const HOW[] = {"in good order", "by kill -9", "without power"};
    struct sim_node *x = &w->node[i];
    if (!x->mesh)
        return;
    sim_trace(w, "%s stops %s", x->name, HOW[how]);
    x->power = how != SIM_STOP_POWER;
    for (size_t k = 0; k < w->n_conns && how != SIM_STOP_ORDERLY; k++)
        for (int side = 0; side < 2; side++)
            if (w->conn[k]->node[side] == i)
                sim_kill_side(w, w->conn[k], side);
    forget_node(w, x);
}

void sim_free(struct sim_world *w)
{
    w->checking = false;
    for (int i = 0; i < w->n; i++) {
        if (w->node[i].mesh)
            forget_node(w, &w->node[i]);
        free(w->node[i].pins);
    }
    sim_wire_free(w);
    for (int i = 0; i < w->n_maps; i++) {
        free(w->map[i]->nodes);
        free(w->map[i]);
    }
    free(w->map);
    free(w->settled);
    free(w->was_settled);
    free(w->ways);
    free(w->node);
    free(w);
}

void sim_take_map(struct sim_world *w, int i, const struct derpmap *map)
{
    struct sim_node *x = &w->node[i];
    if (!x->mesh || x->map == map)
        return;
    sim_trace(w, "%s takes map %u", x->name, wire_get32(map->hash));
    mesh_set_map(x->mesh, map, map_node(map, x->name), w->now);
    x->map = map;
    sim_touch(w, i);
}

/* ---- clients ---- */

void sim_client_up(struct sim_world *w, int i, int k, bool home)
{
    struct sim_node *x = &w->node[i];
    struct derp_key key = sim_key(k);
    sim_trace(w, "%s: key %d comes%s", x->name, k, home ? ", home" : "");
    x->client[k] =
        (struct sim_client){.up = true, .home = home, .since = w->now, .sent_at = x->client[k].sent_at};
    if (mesh_client_up(x->mesh, &key, home, w->now) != 0)
        sim_fail(w, "mesh_client_up");
    if (w->checking)
        sim_check_age(w, i, k);
    sim_touch(w, i);
}

void sim_client_home(struct sim_world *w, int i, int k, bool home)
{
    struct derp_key key = sim_key(k);
    sim_trace(w, "%s: key %d is %s", w->node[i].name, k, home ? "at home" : "a visitor");
    w->node[i].client[k].home = home;
    w->node[i].client[k].since = w->now;
    mesh_client_home(w->node[i].mesh, &key, home, w->now);
    if (w->checking && home)
        sim_check_age(w, i, k);
    sim_touch(w, i);
}

void sim_client_down(struct sim_world *w, int i, int k)
{
    struct derp_key key = sim_key(k);
    sim_trace(w, "%s: key %d goes", w->node[i].name, k);
    w->node[i].client[k].up = false;
    w->node[i].client[k].since = w->now;
    mesh_client_down(w->node[i].mesh, &key, w->now);
    sim_touch(w, i);
}

/* ---- time ---- */

void sim_touch(struct sim_world *w, int i)
{
    struct sim_node *x = &w->node[i];
    x->next = x->mesh ? mesh_next(x->mesh) : UINT64_MAX;
}

static struct sim_event pop(struct sim_world *w)
{
    struct sim_event top = w->heap[0], last = w->heap[--w->n_events];
    size_t i = 0;
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= w->n_events)
            break;
        if (c + 1 < w->n_events &&
            (w->heap[c + 1].at < w->heap[c].at ||
             (w->heap[c + 1].at == w->heap[c].at && w->heap[c + 1].order < w->heap[c].order)))
            c++;
        if (last.at < w->heap[c].at || (last.at == w->heap[c].at && last.order < w->heap[c].order))
            break;
        w->heap[i] = w->heap[c];
        i = c;
    }
    if (w->n_events)
        w->heap[i] = last;
    return top;
}

void sim_run(struct sim_world *w, uint64_t until)
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
        w->now = at > w->now ? at : w->now;
        same = w->now == last ? same + 1 : 0;
        last = w->now;
        if (same > 2000000)
            sim_fail(w, "time stands still: %s spins", ticks < 0 ? "the network" : w->node[ticks].name);
        if (ticks >= 0) {
            mesh_tick(w->node[ticks].mesh, w->now);
            sim_touch(w, ticks);
        } else {
            struct sim_event e = pop(w);
            sim_run_event(w, &e);
        }
    }
    w->now = until;
}
