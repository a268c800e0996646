/* The model, and what must hold.
 *
 * The model is what the world itself knows: which clients are where, and since when the network between two nodes and
 * their link have been in order.  What has been so for SIM_SETTLE_MS must be known; what has not may be known or not, but
 * nothing may be known that never was.
 * How it fails: sim_fail. */
#include <stdlib.h>
#include <string.h>

#include "mesh/ours.h" /* the ages that owners gave */
#include "mesh/state.h"
#include "sim.h"

enum {
    GLEAN_MS = MESH_GLEAN_MS + 2000,
    BYTES_BASE = 256 << 10, /* empty tables of one node */
    BYTES_KEY = 128,
    QUEUE_MAX = 512 << 10 /* control bytes under way on one connection */
};

/* ---- since when ---- */

static bool way_good(const struct sim_way *y)
{
    return !y->cut && y->loss <= 20 && y->delay <= 300 && (y->rate == 0 || y->rate >= 100000);
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Since when the network between two nodes, and both of them, have been in order; NEVER: they are not. */
static uint64_t calm_since(struct sim_world *w, int i, int j)
{
    const struct sim_way *there = sim_way(w, i, j), *back = sim_way(w, j, i);
    const struct sim_node *x = &w->node[i], *y = &w->node[j];
    if (!x->mesh || !y->mesh || !way_good(there) || !way_good(back) || x->refuses || y->refuses)
        return NEVER;
    return later(later(there->fault_at, back->fault_at), later(x->started, y->started));
}

static bool for_long(const struct sim_world *w, uint64_t since)
{
    return since != NEVER && since + SIM_SETTLE_MS <= w->now;
}

static bool settled(const struct sim_world *w, int i, int j)
{
    return for_long(w, w->settled[i * w->n + j]);
}

static void settled_update(struct sim_world *w, int i)
{
    struct sim_node *x = &w->node[i];
    uint64_t *since = &w->settled[i * w->n];
    for (int j = 0; j < w->n; j++)
        if (settled(w, i, j))
            w->was_settled[i * w->n + j] = w->now;
    uint64_t before[SIM_NODES];
    memcpy(before, since, (size_t)w->n * sizeof *before);
    for (int j = 0; j < w->n; j++)
        since[j] = NEVER;
    for (uint32_t at = 1; x->mesh && at < mesh_n_nodes(x->mesh); at++) {
        const struct peer *p = x->mesh->peers[at];
        int j = sim_of_index(x, at);
        uint64_t calm = calm_since(w, i, j);
        if (!p->link || p->link->suspect || p->path.grade != GRADE_UP || !p->synced || calm == NEVER)
            continue;
        since[j] = before[j] == NEVER ? w->now : before[j];
        since[j] = later(later(since[j], p->since), later(calm, p->link->up_at));
    }
}

static void settled_all(struct sim_world *w)
{
    for (int i = 0; i < w->n; i++)
        settled_update(w, i);
}

/* ---- what a mesh tells its node ---- */

/* Whether node j tells node i of its client: in the same region always; elsewhere if the client is at home at j, or nowhere
 * else.  *since: the last change of what that depends on. */
static bool told(const struct sim_world *w, int i, int j, int k, uint64_t *since)
{
    const struct sim_client *c = &w->node[j].client[k];
    *since = c->since;
    if (!c->up || c->home || w->node[i].region == w->node[j].region)
        return c->up;
    bool home = false;
    for (int h = 0; h < w->n; h++) {
        const struct sim_client *there = &w->node[h].client[k];
        *since = later(*since, there->since);
        home = home || (h != j && there->up && there->home);
    }
    return !home;
}

static bool in_map(const struct derpmap *map, const char *name)
{
    for (int i = 0; i < map->n_nodes; i++)
        if (strcmp(map->nodes[i].id, name) == 0)
            return true;
    return false;
}

void sim_check_gone(struct sim_world *w, int i, int k)
{
    enum { LOST_MS = 5000 }; /* a peer that was lost so lately may still come back */
    const struct sim_node *x = &w->node[i];
    uint64_t last = later(x->routed_until[k], x->client[k].since);
    if (x->client[k].up)
        sim_fail(w, "node-%d says that key %d is gone, which is there", i, k);
    if (x->route[k] != NODE_NONE || last + MESH_GONE_HOLD_MS > w->now)
        sim_fail(w, "node-%d says too early that key %d is gone: it was known at %" PRIu64, i, k, last);
    settled_update(w, i);
    for (int j = 0; j < w->n; j++) {
        uint64_t since;
        bool lately = w->was_settled[i * w->n + j] + LOST_MS > w->now && in_map(x->map, w->node[j].name);
        if (j != i && told(w, i, j, k, &since) && for_long(w, since) && lately)
            sim_fail(w, "node-%d says that key %d is gone, which is at node-%d since %" PRIu64, i, k, j,
                     since);
    }
}

void sim_check_age(struct sim_world *w, int i, int k)
{
    struct derp_key key = sim_key(k);
    uint32_t age = ours_local(w->node[i].mesh, &key)->age;
    settled_update(w, i);
    for (int j = 0; j < w->n; j++) {
        uint64_t since;
        if (j == i || !told(w, i, j, k, &since) || !for_long(w, since) || !settled(w, i, j))
            continue;
        if (ours_local(w->node[j].mesh, &key)->age >= age)
            sim_fail(w, "key %d comes to node-%d and is not newer there than at node-%d", k, i, j);
    }
}

/* Whether a node may believe that a key is at another one. */
static bool believable(struct sim_world *w, int i, int j, int k)
{
    const struct sim_client *c = &w->node[j].client[k];
    if (c->up || (c->sent_at && c->sent_at + GLEAN_MS > w->now))
        return true;
    return c->since && !(settled(w, i, j) && for_long(w, c->since));
}

const struct mesh_path *sim_way_out(const struct sim_node *x, uint32_t index)
{
    if (index >= x->n_paths || x->path[index].via >= x->n_paths)
        return NULL;
    const struct mesh_path *p = &x->path[x->path[index].via];
    return p->n ? p : NULL;
}

/* A path's own connections lead to that node. */
void sim_check_path(struct sim_world *w, int i, uint32_t index)
{
    struct sim_node *x = &w->node[i];
    const struct mesh_path *p = &x->path[index];
    for (int l = 0; l < p->n; l++) {
        int side;
        const struct sim_conn *c = sim_conn_of(w, p->link[l], &side);
        if (c->node[side] != i || c->node[!side] != sim_of_index(x, index))
            sim_fail(w, "node-%d: a connection to node-%d is taken for one to node-%d", i, c->node[!side],
                     sim_of_index(x, index));
    }
    if (p->via == 0)
        sim_fail(w, "node-%d: a path over itself", i);
}

void sim_check_route(struct sim_world *w, int i, int k, uint32_t index)
{
    if (index == NODE_NONE)
        return;
    int j = sim_of_index(&w->node[i], index);
    settled_update(w, i);
    if (j < 0 || j == i || !believable(w, i, j, k))
        sim_fail(w, "node-%d routes key %d to node-%d, which does not have it", i, k, j);
}

bool sim_must_arrive(struct sim_world *w, int i, int k)
{
    bool anywhere = false;
    settled_update(w, i);
    for (int j = 0; j < w->n; j++) {
        const struct sim_client *c = &w->node[j].client[k];
        if (!for_long(w, c->since) || (c->up && j != i && !settled(w, i, j)))
            return false;
        anywhere = anywhere || c->up;
    }
    return anywhere;
}

/* ---- after every step ---- */

static void check_counters(struct sim_world *w, int i)
{
    struct sim_node *x = &w->node[i];
    struct mesh_counters c;
    size_t keys = 0;
    mesh_counters(x->mesh, &c);
    if (c.bad_message || c.unknown_message)
        sim_fail(w, "%s: a malformed message among honest nodes", x->name);
    if (c.refused_auth || c.refused_pin || c.refused_replay || c.refused_reflection || c.refused_name ||
        c.refused_clone || c.refused_exporter || c.refused_version)
        sim_fail(w, "%s: an honest node was refused", x->name);
    if (x->alarms)
        sim_fail(w, "%s: alarm among honest nodes: %s", x->name, x->last_alarm);
    for (int j = 0; j < w->n; j++)
        for (int k = 0; k < SIM_KEYS; k++)
            keys += w->node[j].client[k].since != 0;
    if (c.bytes > BYTES_BASE + keys * BYTES_KEY)
        sim_fail(w, "%s: %" PRIu64 " bytes for at most %zu keys", x->name, c.bytes, keys);
    if (x->mesh->n_links > 8 * (size_t)w->n)
        sim_fail(w, "%s has %zu links", x->name, x->mesh->n_links);
}

static void check_known(struct sim_world *w, int i, int k, const struct mesh_location *at, size_t n)
{
    struct sim_node *x = &w->node[i];
    bool known[SIM_NODES] = {false};
    for (size_t l = 0; l < n; l++) {
        int j = at[l].node == NODE_NONE ? i : sim_of_index(x, at[l].node);
        const struct sim_client *c = &w->node[j].client[k];
        known[j] = known[j] || !at[l].gleaned;
        if (j == i ? !c->up : !believable(w, i, j, k))
            sim_fail(w, "node-%d believes that key %d is at node-%d", i, k, j);
        if (!at[l].gleaned && c->up && for_long(w, c->since) && j != i && settled(w, i, j) &&
            at[l].home != c->home)
            sim_fail(w, "node-%d mistakes the home of key %d", i, k);
    }
    for (int j = 0; j < w->n; j++) {
        uint64_t since;
        if (j != i && !known[j] && told(w, i, j, k, &since) && for_long(w, since) && settled(w, i, j))
            sim_fail(w, "node-%d does not know key %d at node-%d, there since %" PRIu64, i, k, j, since);
    }
}

/* The route is the first place that can be reached. */
static void check_route(struct sim_world *w, int i, int k, const struct mesh_location *at, size_t n)
{
    struct sim_node *x = &w->node[i];
    uint32_t best = NODE_NONE;
    for (size_t l = 0; l < n && best == NODE_NONE; l++)
        if (at[l].node != NODE_NONE && peer_rank(x->mesh->peers[at[l].node]) > 0)
            best = at[l].node;
    if (x->route[k] != best)
        sim_fail(w, "node-%d routes key %d to node-%d, its best place is at node-%d", i, k,
                 sim_of_index(x, x->route[k]), sim_of_index(x, best));
}

/* Two nodes that could reach each other for long, and whose maps have each other, have a link. */
static void check_links(struct sim_world *w)
{
    for (int i = 0; i < w->n; i++)
        for (int j = 0; j < w->n; j++) {
            const struct sim_node *x = &w->node[i], *y = &w->node[j];
            uint64_t calm = i == j ? NEVER : calm_since(w, i, j);
            if (calm == NEVER || calm + SIM_UP_MS > w->now || !in_map(x->map, y->name) ||
                !in_map(y->map, x->name) || w->settled[i * w->n + j] != NEVER)
                continue;
            const struct peer *p = x->mesh->peers[sim_index_of(x, j)];
            sim_fail(w,
                     "node-%d and node-%d could reach each other since %" PRIu64
                     ": link %d tunnel %d %s%s%s grade %d",
                     i, j, calm, p->link != NULL, p->link && p->link->is_tunnel,
                     p->synced ? "" : "not synced ", p->link && p->link->sync_asked ? "asked " : "",
                     p->link && p->link->sync_missed ? "missed" : "", (int)p->path.grade);
        }
}

static void check_queues(struct sim_world *w)
{
    for (size_t i = 0; i < w->n_conns; i++)
        for (int side = 0; side < 2; side++)
            if (w->conn[i]->to[side].queued > QUEUE_MAX)
                sim_fail(w, "%" PRIu64 " bytes are under way to node-%d", w->conn[i]->to[side].queued,
                         w->conn[i]->node[side]);
}

static void check_packets(struct sim_world *w)
{
    uint64_t all = w->in_flight;
    for (int o = 0; o < SIM_OUTCOMES; o++)
        all += w->outcome[o];
    if (all != w->packets)
        sim_fail(w, "%" PRIu64 " packets came in, %" PRIu64 " have an outcome", w->packets, all);
}

void sim_check_step(struct sim_world *w)
{
    enum { WHERE_MAX = 64 };
    struct mesh_location at[WHERE_MAX];
    settled_all(w);
    for (int i = 0; i < w->n; i++) {
        if (!w->node[i].mesh)
            continue;
        check_counters(w, i);
        for (int k = 0; k < SIM_KEYS; k++) {
            struct derp_key key = sim_key(k);
            size_t n = mesh_where(w->node[i].mesh, &key, at, WHERE_MAX);
            if (n > (size_t)w->n)
                sim_fail(w, "node-%d knows %zu places of key %d", i, n, k);
            check_known(w, i, k, at, n);
            check_route(w, i, k, at, n);
        }
    }
    check_links(w);
    check_queues(w);
    check_packets(w);
}

/* ---- at the end ---- */

int sim_model_best(struct sim_world *w, int at, int k)
{
    int best = -1;
    uint32_t best_age = 0;
    struct derp_key key = sim_key(k);
    for (int i = 0; i < w->n; i++) {
        struct sim_node *x = &w->node[i];
        uint64_t since;
        if (i == at || !x->mesh || !told(w, at, i, k, &since))
            continue;
        uint32_t age = ours_local(x->mesh, &key)->age;
        bool better = best < 0;
        if (!better && x->client[k].home != w->node[best].client[k].home) {
            better = x->client[k].home;
        } else if (!better && age != best_age) {
            better = age > best_age;
        } else if (!better) {
            struct node_id a, b;
            node_id_of(&a, x->name);
            node_id_of(&b, w->node[best].name);
            better = memcmp(&a, &b, sizeof a) < 0;
        }
        if (better) {
            best = i;
            best_age = age;
        }
    }
    return best;
}

static void check_pair(struct sim_world *w, int i, int j)
{
    struct mesh_peer_info a, b;
    uint32_t n = 0;
    if (!mesh_peer(w->node[i].mesh, sim_index_of(&w->node[i], j), &a) ||
        !mesh_peer(w->node[j].mesh, sim_index_of(&w->node[j], i), &b))
        sim_fail(w, "node-%d and node-%d do not know each other", i, j);
    if (a.state != MESH_PEER_UP || !a.synced)
        sim_fail(w, "node-%d → node-%d: state %d, synced %d, last error %s", i, j, (int)a.state, a.synced,
                 a.last_error);
    if ((a.link ^ 1) != b.link)
        sim_fail(w, "node-%d and node-%d use different links", i, j);
    if (a.map_differs)
        sim_fail(w, "node-%d believes that node-%d has another map", i, j);
    for (int k = 0; k < SIM_KEYS; k++) {
        uint64_t since;
        n += told(w, i, j, k, &since);
    }
    if (a.n_keys != n)
        sim_fail(w, "node-%d knows %u keys of node-%d, which has %u", i, a.n_keys, j, n);
}

static void check_node(struct sim_world *w, int i)
{
    struct sim_node *x = &w->node[i];
    struct mesh_counters c;
    size_t elsewhere = 0;
    for (int j = 0; j < w->n; j++)
        if (j != i && w->node[j].mesh)
            check_pair(w, i, j);
    for (int k = 0; k < SIM_KEYS; k++) {
        int best = sim_model_best(w, i, k), told = sim_of_index(x, x->route[k]);
        if (best != told)
            sim_fail(w, "node-%d routes key %d to node-%d, the model to node-%d", i, k, told, best);
        elsewhere += best >= 0;
    }
    mesh_counters(x->mesh, &c);
    if (c.n_remote_keys != elsewhere)
        sim_fail(w, "node-%d holds %" PRIu64 " keys of others, there are %zu", i, c.n_remote_keys, elsewhere);
}

/* From every node to every key: each packet arrives. */
static void check_delivery(struct sim_world *w)
{
    uint64_t expected = w->outcome[SIM_DELIVERED];
    for (int k = 0; k < SIM_KEYS; k++)
        for (int i = 0; i < w->n; i++) {
            if (!w->node[i].mesh || (sim_model_best(w, i, k) < 0 && !w->node[i].client[k].up))
                continue;
            int src = -1; /* a client of that node, so that nothing has to be gleaned */
            for (int s = 0; s < SIM_KEYS && src < 0; s++)
                if (w->node[i].client[s].up)
                    src = s;
            if (src < 0)
                continue;
            sim_inject(w, i, src, k);
            expected++;
        }
    sim_run(w, w->now + 5000);
    if (w->outcome[SIM_DELIVERED] != expected || w->in_flight)
        sim_fail(w, "%" PRIu64 " of %" PRIu64 " packets were delivered, %" PRIu64 " are under way",
                 w->outcome[SIM_DELIVERED], expected, w->in_flight);
}

/* Somebody leaves for good: every other node hears of it, once, and of nobody else. */
static void check_leaving(struct sim_world *w)
{
    int at = -1, key = -1;
    for (int k = 0; k < SIM_KEYS && at < 0; k++) {
        int n = 0;
        for (int i = 0; i < w->n; i++)
            n += w->node[i].client[k].up;
        for (int i = 0; i < w->n && n == 1; i++)
            if (w->node[i].client[k].up) {
                at = i;
                key = k;
            }
    }
    if (at < 0)
        return;
    uint64_t before[SIM_NODES], mine[SIM_NODES];
    for (int i = 0; i < w->n; i++)
        before[i] = w->node[i].gone_total;
    for (int i = 0; i < w->n; i++)
        mine[i] = w->node[i].gone[key];
    sim_client_down(w, at, key);
    sim_run(w, w->now + SIM_SETTLE_MS);
    for (int i = 0; i < w->n; i++)
        if (w->node[i].gone[key] != mine[i] + 1 || w->node[i].gone_total != before[i] + 1)
            sim_fail(w, "key %d left node-%d: node-%d said so %" PRIu64 " times", key, at, i,
                     w->node[i].gone[key] - mine[i]);
}

/* Nothing happens: a link costs little. */
static void check_idle(struct sim_world *w)
{
    enum { MS = 10000, RATE = 1000 };
    uint64_t bytes = w->bytes;
    sim_run(w, w->now + MS);
    uint64_t rate = (w->bytes - bytes) * 1000 / MS / (uint64_t)(w->n * (w->n - 1));
    if (rate > RATE)
        sim_fail(w, "%" PRIu64 " bytes a second each way of an idle link", rate);
}

void sim_check_converged(struct sim_world *w)
{
    sim_check_step(w);
    for (int i = 0; i < w->n; i++)
        check_node(w, i);
    check_delivery(w);
    check_leaving(w);
    check_idle(w);
    sim_check_step(w);
}
