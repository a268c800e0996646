/* What a world of meshes has to be like once it has come to rest, and small clusters to begin with; for tests only. */
#ifndef DERPMESH_TESTS_MESH_MODEL_H
#define DERPMESH_TESTS_MESH_MODEL_H

#include "mesh_world.h"

#include "mesh/ours.h" /* the ages that owners gave */
#include "mesh/state.h"

/* ---- the model ---- */

static inline uint32_t all_bits(int n)
{
    return (uint32_t)((UINT64_C(1) << n) - 1);
}

/* Whether node at is told that the key is connected to node i: in the same region always, elsewhere if it is at home there, or
 * nowhere else. */
static inline bool model_told(struct world *w, int i, int at, int k)
{
    if (i == at || !w->node[i].mesh || !w->node[i].up[k])
        return false;
    for (int j = 0; j < w->n; j++)
        if (j != i && w->node[j].mesh && w->node[j].up[k] && w->node[j].home[k])
            return i % WORLD_REGIONS == at % WORLD_REGIONS || w->node[i].home[k];
    return true;
}

/* Where a node should send a key: home first, then the owner's age, then the smaller node id. */
static inline int model_best(struct world *w, int at, int k)
{
    int best = -1;
    uint32_t best_age = 0;
    struct derp_key key = world_key(k);
    for (int i = 0; i < w->n; i++) {
        struct world_node *x = &w->node[i];
        if (!model_told(w, i, at, k))
            continue;
        uint32_t age = ours_local(x->mesh, &key)->age;
        bool better = best < 0;
        if (!better && x->home[k] != w->node[best].home[k]) {
            better = x->home[k];
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

static inline void check_links(struct world *w, int i, int j)
{
    struct mesh_peer_info a, b;
    assert_true(mesh_peer(w->node[i].mesh, world_index_of(&w->node[i], j), &a));
    assert_true(mesh_peer(w->node[j].mesh, world_index_of(&w->node[j], i), &b));
    if (a.state != MESH_PEER_UP || !a.synced)
        printf("%s → %s: state %d synced %d error %s\n", w->node[i].name, a.name, (int)a.state, a.synced,
               a.last_error);
    assert_int_equal(a.state, MESH_PEER_UP);
    assert_true(a.synced);
    assert_int_equal(a.link ^ 1, b.link); /* two ends of one connection: 2n + 1000 and 2n + 1001 */
    const struct mesh_path *path = &w->node[i].path[j];
    assert_int_equal(path->n, w->lanes ? w->lanes : 1);
    if (!w->lanes)
        assert_int_equal(path->link[0], a.link);
    assert_true(a.rtt_ms >= 0);
    assert_false(a.map_differs);
    uint32_t n = 0;
    for (int k = 0; k < WORLD_KEYS; k++)
        n += model_told(w, j, i, k);
    assert_int_equal(a.n_keys, n);
}

static inline void check_key(struct world *w, int i, int k)
{
    struct world_node *x = &w->node[i];
    struct derp_key key = world_key(k);
    struct mesh_location at[WORLD_NODES];
    size_t n = mesh_where(x->mesh, &key, at, WORLD_NODES), expected = 0;
    for (int j = 0; j < w->n; j++)
        expected += j == i ? x->up[k] : model_told(w, j, i, k);
    assert_int_equal(n, expected);
    for (size_t l = 0; l < n; l++) {
        int j = at[l].node == NODE_NONE ? i : world_of_index(x, at[l].node);
        assert_true(w->node[j].mesh && w->node[j].up[k]);
        assert_int_equal(at[l].home, w->node[j].home[k]);
        assert_false(at[l].gleaned);
    }
    int best = model_best(w, i, k);
    int told = x->route[k] == NODE_NONE ? -1 : world_of_index(x, x->route[k]);
    if (told != best)
        printf("%s key %d: route %d, model %d\n", x->name, k, told, best);
    assert_int_equal(told, best);
    if (x->up[k])
        assert_int_equal(at[0].node, NODE_NONE);
    else if (best >= 0)
        assert_int_equal(world_of_index(x, at[0].node), best);
}

static inline void check_all(struct world *w)
{
    for (int i = 0; i < w->n; i++) {
        struct world_node *x = &w->node[i];
        if (!x->mesh)
            continue;
        for (int j = 0; j < w->n; j++)
            if (j != i && w->node[j].mesh)
                check_links(w, i, j);
        size_t elsewhere = 0;
        for (int k = 0; k < WORLD_KEYS; k++) {
            check_key(w, i, k);
            bool there = false;
            for (int j = 0; j < w->n; j++)
                there = there || model_told(w, j, i, k);
            elsewhere += there;
        }
        struct mesh_counters c;
        mesh_counters(x->mesh, &c);
        assert_int_equal(c.n_remote_keys, elsewhere); /* no ghosts */
        assert_int_equal(c.bad_message, 0);
        assert_int_equal(c.digests_bad, 0);
        assert_int_equal(c.unknown_message, 0);
        assert_int_equal(c.refused_auth + c.refused_pin + c.refused_replay + c.refused_name, 0);
    }
}

/* ---- clusters ---- */

static inline void take_map(struct world *w, int i, const struct derpmap *map)
{
    struct world_node *x = &w->node[i];
    mesh_set_map(x->mesh, map, world_map_node(map, x->name), w->now);
    x->map = map;
    world_touch(w, i);
}

struct pair {
    struct world *w;
    struct derpmap *map;
};

static inline struct pair cluster(uint64_t seed, int n)
{
    struct pair p = {.w = world_new(seed, n)};
    p.w->verbose = getenv("MESH_SIM_VERBOSE") != NULL;
    p.w->latency_min = p.w->latency_max = 10;
    p.map = world_map(p.w, all_bits(n), 0, 1);
    for (int i = 0; i < n; i++)
        world_start(p.w, i, p.map);
    return p;
}

static inline struct pair cluster_up(uint64_t seed, int n)
{
    struct pair p = cluster(seed, n);
    world_run(p.w, p.w->now + 2000);
    check_all(p.w);
    return p;
}

static inline void cluster_free(struct pair *p)
{
    world_free(p->w);
    world_map_free(p->map);
}

#endif
