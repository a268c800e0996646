/* Twenty meshes in one process under random schedules, against a small model; and the rules one by one.
 *
 * Seeds are fixed; MESH_SIM_SEEDS="17 99" adds some.  Each seed is printed, so that a failure can be run again:
 * MESH_SIM_SEEDS=17 MESH_SIM_VERBOSE=1. */
#include "mesh_model.h"

#ifdef __SANITIZE_THREAD__
static const uint64_t SEEDS[] = {1}; /* ten times as slow, and only one thread to watch */
#else
static const uint64_t SEEDS[] = {1, 2, 3}; /* tests/sim has thousands, of fewer nodes */
#endif

/* ---- chaos ---- */

enum { SETTLE_MS = 8000 };

/* Whether two nodes have had a working link for a while. */
static bool linked_since(struct world *w, int i, int j, uint64_t since)
{
    struct mesh_peer_info a;
    if (!mesh_peer(w->node[i].mesh, world_index_of(&w->node[i], j), &a) || a.state != MESH_PEER_UP)
        return false;
    return a.synced && a.since <= since && w->node[j].started <= since;
}

/* No `gone` for a key that lives where this node could have known it. */
static void judge_gone(struct world *w, int i, int k)
{
    assert_false(w->node[i].up[k]);
    for (int j = 0; j < w->n; j++) {
        struct world_node *y = &w->node[j];
        if (!model_told(w, j, i, k) || w->now - y->up_since[k] < SETTLE_MS)
            continue;
        assert_false(linked_since(w, i, j, w->now - SETTLE_MS));
    }
}

static int random_running(struct world *w)
{
    for (;;) {
        int i = (int)world_below(w, (uint64_t)w->n);
        if (w->node[i].mesh)
            return i;
    }
}

static struct world_conn *random_conn(struct world *w)
{
    for (int tries = 0; tries < 200; tries++) {
        struct world_conn *c = &w->conn[world_below(w, (uint64_t)w->n_conns)];
        if (c->open[0] && c->open[1] && !c->silent)
            return c;
    }
    return NULL;
}

struct chaos {
    struct world *w;
    struct derpmap *map[512];
    int n_maps, latest;
};

static void client_action(struct world *w)
{
    int i = random_running(w), k = (int)world_below(w, WORLD_KEYS);
    struct world_node *x = &w->node[i];
    if (!x->up[k]) {
        world_client_up(w, i, k, world_below(w, 2));
        return;
    }
    switch (world_below(w, 3)) {
    case 0:
        world_client_home(w, i, k, !x->home[k]);
        break;
    case 1:
        world_client_down(w, i, k);
        break;
    default: { /* moves: up there, then down here, or the other way round */
        int j = random_running(w);
        if (j == i || w->node[j].up[k])
            break;
        if (world_below(w, 2))
            world_client_down(w, i, k);
        world_client_up(w, j, k, x->home[k]);
        if (x->up[k])
            world_client_down(w, i, k);
    }
    }
}

static void restart(struct chaos *c, int i)
{
    struct world *w = c->w;
    world_stop(w, i, world_below(w, 3) == 0, world_below(w, 3) == 0);
    world_start(w, i, c->map[c->latest]);
}

/* A map in which some ports have moved; each node gets it some time later. */
static void new_map(struct chaos *c)
{
    struct world *w = c->w;
    uint32_t moved = (uint32_t)world_random(w) & (uint32_t)world_random(w) & (uint32_t)world_random(w);
    if (c->n_maps == (int)(sizeof c->map / sizeof *c->map))
        return;
    c->map[c->n_maps] = world_map(w, all_bits(w->n), moved, (uint8_t)(1 + c->n_maps % 250));
    c->latest = c->n_maps++;
}

static void link_action(struct chaos *c)
{
    struct world *w = c->w;
    int i = random_running(w), j = random_running(w);
    switch (world_below(w, 12)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4: {
        struct world_conn *conn = random_conn(w);
        if (conn)
            world_break(w, conn, false);
        break;
    }
    case 5: {
        struct world_conn *conn = random_conn(w);
        if (conn)
            world_break(w, conn, true);
        break;
    }
    case 6:
        w->cut[i][j] = i != j;
        break;
    case 7:
        memset(w->cut, 0, sizeof w->cut);
        break;
    case 8:
        restart(c, i);
        break;
    case 9:
        if (world_below(w, 4) == 0)
            new_map(c);
        break;
    default:
        if (w->node[i].map != c->map[c->latest])
            take_map(w, i, c->map[c->latest]);
    }
}

static void chaos_phase(struct chaos *c, uint64_t length)
{
    struct world *w = c->w;
    uint64_t end = w->now + length;
    while (w->now < end) {
        world_run(w, w->now + world_below(w, 120));
        if (world_below(w, 5))
            client_action(w);
        else
            link_action(c);
    }
}

/* Faults end; silent connections are noticed after a minute, the backoff takes half of one. */
static void heal(struct chaos *c)
{
    struct world *w = c->w;
    memset(w->cut, 0, sizeof w->cut);
    for (int i = 0; i < w->n; i++)
        if (w->node[i].map != c->map[c->latest])
            take_map(w, i, c->map[c->latest]);
    world_run(w, w->now + 140000);
}

static uint64_t run_chaos(uint64_t seed, int nodes, int rounds)
{
    struct world *w = world_new(seed, nodes);
    w->lanes = seed % 3;
    struct chaos c = {.w = w};
    w->verbose = getenv("MESH_SIM_VERBOSE") != NULL;
    new_map(&c);
    for (int i = 0; i < nodes; i++)
        world_start(w, i, c.map[0]);
    world_run(w, w->now + 5000);
    check_all(w);
    w->on_gone = judge_gone;
    for (int r = 0; r < rounds; r++) {
        chaos_phase(&c, 60000);
        heal(&c);
        check_all(w);
    }
    uint64_t fingerprint = w->fingerprint;
    printf("seed %" PRIu64 ": %d nodes, %d connections, %" PRIu64 " frames, fingerprint %016" PRIx64 "\n",
           seed, nodes, w->n_conns, w->frames, fingerprint);
    world_free(w);
    for (int i = 0; i < c.n_maps; i++)
        world_map_free(c.map[i]);
    return fingerprint;
}

static void test_chaos(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof SEEDS / sizeof *SEEDS; i++)
        run_chaos(SEEDS[i], 20, 2);
    const char *more = getenv("MESH_SIM_SEEDS");
    while (more && *more) {
        char *end;
        uint64_t seed = strtoull(more, &end, 0);
        if (end == more)
            break;
        run_chaos(seed, 20, 3);
        more = end;
    }
}

static void test_same_seed_same_bytes(void **state)
{
    (void)state;
    assert_int_equal(run_chaos(11, 6, 1), run_chaos(11, 6, 1));
}

/* ---- the rules one by one ---- */

/* Which of two nodes is the preferred dialer: the one that dialled when nothing was wrong. */
static int dialer_of(struct world *w)
{
    struct mesh_peer_info a;
    assert_true(mesh_peer(w->node[0].mesh, world_index_of(&w->node[0], 1), &a));
    assert_int_not_equal(a.link, 0);
    return a.dialed_by_us ? 0 : 1;
}

static void test_up_is_fast_and_downs_ride_along(void **state)
{
    (void)state;
    struct pair p = cluster_up(21, 2);
    struct world *w = p.w;
    for (int round = 0; round < 50; round++) {
        world_run(w, w->now + world_below(w, 1500));
        world_client_up(w, 0, round, true);
        world_run(w, w->now + MESH_ANN_MS + 12 + 1); /* latency 10 and up to 2 of jitter */
        assert_int_equal(world_of_index(&w->node[1], w->node[1].route[round]), 0);
        world_client_down(w, 0, round);
        world_run(w, w->now + MESH_PING_MS + 13);
        assert_int_equal(w->node[1].route[round], NODE_NONE);
    }
    /* One that came and went within the wait is not told at all; a burst goes in one message. */
    struct mesh_counters before, after;
    world_run(w, w->now + 1500);
    mesh_counters(w->node[0].mesh, &before);
    for (int k = 0; k < 100; k++)
        world_client_up(w, 0, k, false);
    for (int k = 0; k < 50; k++)
        world_client_down(w, 0, k);
    world_run(w, w->now + 100);
    mesh_counters(w->node[0].mesh, &after);
    assert_int_equal(after.ann_sent, before.ann_sent + 1);
    check_all(w);
    cluster_free(&p);
}

static void test_moves_and_homes(void **state)
{
    (void)state;
    struct pair p = cluster_up(22, 4);
    struct world *w = p.w;
    world_client_up(w, 0, 7, true);
    world_run(w, w->now + 100);
    assert_int_equal(world_of_index(&w->node[3], w->node[3].route[7]), 0);
    world_client_up(w, 1, 7, false); /* a visit changes nothing */
    world_run(w, w->now + 100);
    assert_int_equal(world_of_index(&w->node[3], w->node[3].route[7]), 0);
    world_client_up(w, 2, 7, true); /* a newer home does, also while the old one stays */
    world_run(w, w->now + 100);
    assert_int_equal(world_of_index(&w->node[3], w->node[3].route[7]), 2);
    world_client_home(w, 1, 7, true); /* the visit becomes home: newest again */
    world_run(w, w->now + 100);
    assert_int_equal(world_of_index(&w->node[3], w->node[3].route[7]), 1);
    assert_int_equal(world_of_index(&w->node[1], w->node[1].route[7]), 2);
    world_client_down(w, 1, 7);
    world_run(w, w->now + 1100);
    assert_int_equal(world_of_index(&w->node[3], w->node[3].route[7]), 2);
    check_all(w);
    assert_int_equal(w->node[3].gone[7], 0);
    cluster_free(&p);
}

static void test_gone(void **state)
{
    (void)state;
    struct pair p = cluster_up(23, 3);
    struct world *w = p.w;
    /* Left for good. */
    world_client_up(w, 0, 1, true);
    world_run(w, w->now + 500);
    uint64_t left = w->now;
    world_client_down(w, 0, 1);
    world_run(w, w->now + 6000);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(w->node[i].gone[1], 1);
        assert_true(w->node[i].gone_at[1] >= left + MESH_GONE_HOLD_MS);
    }
    /* Moved within the wait. */
    world_client_up(w, 0, 2, true);
    world_run(w, w->now + 500);
    world_client_down(w, 0, 2);
    world_run(w, w->now + 2000);
    world_client_up(w, 1, 2, true);
    world_run(w, w->now + 6000);
    /* Back at the same node within the wait. */
    world_client_up(w, 0, 3, true);
    world_run(w, w->now + 500);
    world_client_down(w, 0, 3);
    world_run(w, w->now + 2000);
    world_client_up(w, 0, 3, true);
    world_run(w, w->now + 6000);
    /* Its slot was given to another before the down was told (slots are reused after all others: fill them). */
    world_client_up(w, 0, 4, true);
    world_run(w, w->now + 500);
    for (int i = 0; i < 3; i++)
        for (int k = 2; k <= 4; k++)
            assert_int_equal(w->node[i].gone[k], 0);
    /* A node dies: its clients are said to be gone once, after it was unreachable for long. */
    world_client_up(w, 2, 5, true);
    world_run(w, w->now + 500);
    world_stop(w, 2, false, false);
    world_run(w, w->now + 1000);
    assert_int_equal(w->node[0].route[5], NODE_NONE);
    struct derp_key key = world_key(5);
    assert_int_equal(mesh_where(w->node[0].mesh, &key, NULL, 0), 1);
    world_run(w, w->now + MESH_UNREACHABLE_MS - 2000);
    assert_int_equal(w->node[0].gone[5] + w->node[1].gone[5], 0);
    world_run(w, w->now + 2000 + PEER_GONE_JITTER_MS);
    for (int i = 0; i < 2; i++)
        assert_int_equal(w->node[i].gone[5], 1);
    world_run(w, w->now + FORGET_MS);
    assert_int_equal(mesh_where(w->node[0].mesh, &key, NULL, 0), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(w->node[i].gone[5], 1);
    /* It is cut off for less than that: nothing is said. */
    world_client_up(w, 1, 6, true);
    world_run(w, w->now + 500);
    world_stop(w, 1, false, false);
    world_run(w, w->now + MESH_UNREACHABLE_MS - 4000);
    world_start(w, 1, p.map);
    world_client_up(w, 1, 6, true);
    world_run(w, w->now + MESH_UNREACHABLE_MS + PEER_GONE_JITTER_MS);
    assert_int_equal(w->node[0].gone[6], 0);
    cluster_free(&p);
}

/* What a peer did not confirm after a reset is gone if it is the same run of the peer, silently if not. */
static void test_gone_after_sync(void **state)
{
    (void)state;
    struct pair p = cluster_up(24, 3);
    struct world *w = p.w;
    mesh_set_carrying(w->node[2].mesh, &(struct mesh_carrying){.transit_off = true}, w->now); /* no tunnel */
    world_touch(w, 2);
    world_run(w, w->now + 300);
    world_client_up(w, 0, 1, true);
    world_client_up(w, 0, 2, true);
    world_run(w, w->now + 500);
    w->cut[0][1] = w->cut[1][0] = true;
    for (int i = 0; i < w->n_conns; i++)
        if (w->conn[i].open[0] && w->conn[i].node[0] + w->conn[i].node[1] == 1)
            world_break(w, &w->conn[i], false);
    world_run(w, w->now + 500);
    world_client_down(w, 0, 1);
    world_run(w, w->now + 4500);             /* back before it counts as unreachable */
    assert_int_equal(w->node[1].gone[1], 0); /* hears nothing of node 0 */
    assert_int_equal(w->node[2].gone[1], 1);
    memset(w->cut, 0, sizeof w->cut);
    world_run(w, w->now + 40000);
    check_all(w);
    assert_int_equal(w->node[1].gone[1], 1);
    world_stop(w, 0, false, false);
    world_start(w, 0, p.map);
    world_run(w, w->now + 40000);
    check_all(w);
    for (int i = 1; i < 3; i++)
        assert_int_equal(w->node[i].gone[2], 0);
    cluster_free(&p);
}

/* A key that moves to a node of which we hear nothing at the moment. */
static void test_no_gone_in_the_dark(void **state)
{
    (void)state;
    struct pair p = cluster_up(38, 3);
    struct world *w = p.w;
    mesh_set_carrying(w->node[0].mesh, &(struct mesh_carrying){.transit_off = true}, w->now); /* no tunnel */
    world_touch(w, 0);
    world_run(w, w->now + 300);
    int side;
    world_client_up(w, 0, 1, true);
    world_run(w, w->now + 500);
    w->cut[1][2] = w->cut[2][1] = true;
    world_break(w, world_conn_of(w, w->node[2].node_link[1], &side), false);
    world_run(w, w->now + 100);
    world_client_down(w, 0, 1);
    world_client_up(w, 1, 1, true);
    world_run(w, w->now + MESH_GONE_HOLD_MS + 2000);
    assert_int_equal(w->node[2].route[1], NODE_NONE);
    memset(w->cut, 0, sizeof w->cut);
    for (int i = 1; i < 3; i++) {
        w->node[i].mesh->peers[world_index_of(&w->node[i], 3 - i)]->dial_at = w->now;
        world_touch(w, i);
    }
    world_run(w, w->now + 20000);
    check_all(w);
    for (int i = 0; i < 3; i++)
        assert_int_equal(w->node[i].gone[1], 0);
    cluster_free(&p);
}

static void test_slot_reuse_evicts(void **state)
{
    (void)state;
    struct pair p = cluster_up(25, 2);
    struct world *w = p.w;
    for (int k = 0; k < 70; k++)
        world_client_up(w, 0, k, true);
    world_run(w, w->now + 1500);
    /* A client leaves while nobody hears, and its slot is another's when they do. */
    int side;
    w->cut[0][1] = w->cut[1][0] = true;
    world_break(w, world_conn_of(w, w->node[0].node_link[1], &side), false);
    world_client_down(w, 0, 10);
    world_run(w, w->now + HOLD_LINGER_MS + 1);
    world_client_up(w, 0, 100, true);
    struct derp_key k100 = world_key(100);
    const struct local_slot *s = ours_local(w->node[0].mesh, &k100);
    assert_int_equal(s - w->node[0].mesh->slot, 10);
    memset(w->cut, 0, sizeof w->cut);
    world_run(w, w->now + 10000);
    check_all(w);
    assert_int_equal(w->node[1].route[10], NODE_NONE);
    /* First in, first out: of two free slots the older is taken; one that returns has its own. */
    world_client_down(w, 0, 30);
    world_client_down(w, 0, 20);
    world_client_down(w, 0, 40);
    world_client_up(w, 0, 40, true);
    world_run(w, w->now + HOLD_LINGER_MS + 1);
    world_client_up(w, 0, 101, true);
    struct derp_key k101 = world_key(101), k40 = world_key(40);
    assert_int_equal(ours_local(w->node[0].mesh, &k101) - w->node[0].mesh->slot, 30);
    assert_int_equal(ours_local(w->node[0].mesh, &k40) - w->node[0].mesh->slot, 40);
    world_run(w, w->now + 6000);
    check_all(w);
    assert_true(w->node[1].gone[10] >= 1); /* also when its node was out of reach */
    cluster_free(&p);
}

static void test_one_way_firewall(void **state)
{
    (void)state;
    struct pair p = cluster_up(26, 2);
    struct world *w = p.w;
    int first = dialer_of(w);
    /* The preferred dialer cannot connect: the other one does, but only after five seconds. */
    w->cut[first][!first] = true;
    world_break(w, &w->conn[w->n_conns - 1], false);
    world_run(w, w->now + 100);
    assert_int_equal(w->node[0].node_link[1], 0);
    world_run(w, w->now + 4800);
    assert_int_equal(w->node[0].node_link[1], 0);
    world_run(w, w->now + 6000);
    assert_int_not_equal(w->node[0].node_link[1], 0);
    assert_int_equal(dialer_of(w), !first);
    check_all(w);
    cluster_free(&p);
}

/* Both ends dial at about the same moment: the preferred dialer's link stays on both sides, whatever the order in
 * which each proves the two; no moment without a link, and nothing flaps on. */
static void test_both_dial_at_once(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 60; round++) {
        struct world *w = world_new(100 + round, 2);
        struct derpmap *map = world_map(w, 3, 0, 1);
        w->latency_min = w->latency_max = 5 + 20 * (round % 10);
        w->cut[0][1] = w->cut[1][0] = true;
        for (int i = 0; i < 2; i++) {
            world_start(w, i, map);
            w->node[i].mesh->peers[1]->dial_at = NEVER - 1;
        }
        memset(w->cut, 0, sizeof w->cut);
        int first = (int)(round / 10) % 2;
        for (int i = 0; i < 2; i++) {
            w->node[i ^ first].mesh->peers[1]->dial_at = w->now;
            world_touch(w, i ^ first);
            world_run(w, w->now + w->latency_min * (round / 20));
        }
        world_run(w, w->now + 10000);
        check_all(w);
        assert_int_equal(w->node[0].lost + w->node[1].lost, 0);
        int open = 0;
        for (int i = 0; i < w->n_conns; i++)
            open += w->conn[i].open[0] || w->conn[i].open[1];
        assert_int_equal(open, 1);
        if (w->n_conns == 2)
            assert_true(w->node[dialer_of(w)].mesh->peers[1]->preferred);
        else
            assert_int_equal(w->n_conns, 1);
        world_free(w);
        world_map_free(map);
    }
}

static void test_silence(void **state)
{
    (void)state;
    struct pair p = cluster_up(27, 3);
    struct world *w = p.w;
    struct mesh_peer_info info;
    mesh_set_carrying(w->node[2].mesh, &(struct mesh_carrying){.transit_off = true},
                      w->now); /* no way round */
    world_touch(w, 2);
    world_client_up(w, 2, 1, true);
    world_run(w, w->now + 100);
    world_client_up(w, 1, 1, true);
    world_run(w, w->now + 100);
    assert_int_equal(world_of_index(&w->node[0], w->node[0].route[1]), 1);
    uint32_t index = world_index_of(&w->node[0], 1);
    uint64_t link = w->node[0].node_link[1];
    int side;
    world_conn_of(w, link, &side)->silent = true;
    world_run(w, w->now + 3000);
    mesh_peer(w->node[0].mesh, index, &info);
    assert_int_equal(info.state, MESH_PEER_SILENT);
    assert_int_equal(world_of_index(&w->node[0], w->node[0].route[1]), 2); /* another one is better now */
    /* What comes in proves nothing; that something of ours was acknowledged does. */
    mesh_link_alive(w->node[0].mesh, link, w->now);
    mesh_peer(w->node[0].mesh, index, &info);
    assert_int_equal(info.state, MESH_PEER_SILENT);
    mesh_link_acked(w->node[0].mesh, link, 1 << 20, w->now);
    world_touch(w, 0);
    mesh_peer(w->node[0].mesh, index, &info);
    assert_int_equal(info.state, MESH_PEER_UP);
    world_conn_of(w, link, &side)->silent = false;
    world_run(w, w->now + 1500); /* … but it is not trusted at once */
    assert_int_equal(world_of_index(&w->node[0], w->node[0].route[1]), 2);
    world_run(w, w->now + 1000);
    assert_int_equal(world_of_index(&w->node[0], w->node[0].route[1]), 1);
    world_conn_of(w, link, &side)->silent = true;
    /* A sole place is used while suspect. */
    world_client_down(w, 2, 1);
    world_run(w, w->now + 5000);
    mesh_peer(w->node[0].mesh, index, &info);
    assert_int_equal(info.state, MESH_PEER_SILENT);
    assert_int_equal(world_of_index(&w->node[0], w->node[0].route[1]), 1);
    assert_int_equal(w->node[0].node_link[1], link);
    world_run(w, w->now + MESH_LINK_DEAD_MS + 10000);
    assert_int_not_equal(w->node[0].node_link[1], link);
    check_all(w);
    cluster_free(&p);
}

/* A machine lost power and came back: its old link is silent; the newcomer waits for that, then takes over. */
static void test_new_instance(void **state)
{
    (void)state;
    struct pair p = cluster_up(28, 2);
    struct world *w = p.w;
    world_client_up(w, 1, 1, true);
    world_run(w, w->now + 5000);
    uint64_t old = w->node[0].node_link[1];
    world_stop(w, 1, false, true);
    world_start(w, 1, p.map);
    world_client_up(w, 1, 2, true);
    uint64_t asked = w->now;
    while (w->node[0].node_link[1] == old && w->now < asked + 20000)
        world_run(w, w->now + 10);
    assert_true(w->now >= asked + 1500);
    assert_true(w->now < asked + 9000);
    world_run(w, w->now + 2000);
    check_all(w);
    assert_int_equal(w->node[0].route[1], NODE_NONE);
    assert_int_equal(w->node[0].alarms, 0);
    cluster_free(&p);
}

/* The same machine twice: the second one is refused as long as the first one answers. */
static void test_clone(void **state)
{
    (void)state;
    struct pair p = cluster_up(29, 3);
    struct world *w = p.w;
    world_client_up(w, 1, 1, true);
    world_run(w, w->now + 5000);
    uint64_t link = w->node[0].node_link[1];
    /* Node 2 becomes a copy of node 1. */
    world_stop(w, 2, true, false);
    world_run(w, w->now + 1000);
    struct world_node *clone = &w->node[2];
    clone->key = w->node[1].key;
    char name[sizeof clone->name];
    memcpy(name, clone->name, sizeof name);
    memcpy(clone->name, w->node[1].name, sizeof name);
    world_start(w, 2, p.map);
    /* It is told so and its logs say so; the first one's link stays. */
    world_run(w, w->now + 20000);
    struct mesh_counters c;
    mesh_counters(w->node[0].mesh, &c);
    assert_true(c.refused_clone >= 1);
    assert_true(w->node[0].alarms >= 1);
    assert_int_equal(w->node[0].node_link[1], link);
    assert_non_null(strstr(w->node[0].last_warning, "two running instances"));
    assert_int_equal(world_of_index(&w->node[0], w->node[0].route[1]), 1);
    struct mesh_peer_info info;
    assert_true(mesh_peer(clone->mesh, world_index_of(clone, 0), &info));
    assert_non_null(strstr(info.last_error, "is this machine a copy"));
    world_stop(w, 2, true, false);
    memcpy(clone->name, name, sizeof name);
    cluster_free(&p);
}

static void test_map_changes(void **state)
{
    (void)state;
    struct pair p = cluster_up(30, 4);
    struct world *w = p.w;
    for (int i = 0; i < 4; i++)
        world_client_up(w, i, i, true);
    world_run(w, w->now + 5000);
    uint64_t before[4][4];
    for (int i = 0; i < 4; i++)
        memcpy(before[i], w->node[i].node_link, sizeof before[i]);
    /* Node 3 has another port: only its links are made anew, before the old ones go. */
    struct derpmap *moved = world_map(w, all_bits(4), 8, 2);
    for (int i = 0; i < 4; i++)
        take_map(w, i, moved);
    for (int step = 0; step < 200; step++) {
        world_run(w, w->now + 10);
        for (int i = 0; i < 3; i++)
            assert_int_not_equal(w->node[i].node_link[3], 0);
    }
    world_run(w, w->now + 8000);
    check_all(w);
    for (int i = 0; i < 3; i++) {
        assert_int_not_equal(w->node[i].node_link[3], before[i][3]);
        for (int j = 0; j < 3; j++)
            assert_int_equal(w->node[i].node_link[j], before[i][j]);
    }
    /* Node 3 leaves the map. */
    struct derpmap *without = world_map(w, all_bits(3), 0, 3);
    for (int i = 0; i < 3; i++)
        take_map(w, i, without);
    struct mesh_peer_info info;
    assert_true(mesh_peer(w->node[0].mesh, world_index_of(&w->node[0], 3), &info));
    assert_int_equal(info.state, MESH_PEER_REMOVED);
    assert_int_equal(w->node[0].node_link[3], 0);
    assert_int_equal(w->node[0].route[3], NODE_NONE);
    world_run(w, w->now + 3000);
    struct derp_key k3 = world_key(3);
    assert_int_equal(mesh_where(w->node[0].mesh, &k3, NULL, 0), 0);
    assert_true(mesh_peer(w->node[3].mesh, world_index_of(&w->node[3], 0), &info));
    assert_int_not_equal(info.state, MESH_PEER_UP);
    struct mesh_counters c;
    mesh_counters(w->node[0].mesh, &c);
    for (int i = 1; i < 3; i++) {
        struct mesh_counters ci;
        mesh_counters(w->node[i].mesh, &ci);
        c.refused_unknown_peer += ci.refused_unknown_peer;
    }
    /* … and comes back. */
    uint32_t index = world_index_of(&w->node[0], 3);
    struct derpmap *again = world_map(w, all_bits(4), 0, 4);
    for (int i = 0; i < 4; i++)
        take_map(w, i, again);
    world_run(w, w->now + 45000);
    check_all(w);
    assert_int_equal(world_index_of(&w->node[0], 3), index);
    assert_int_equal(w->node[0].gone[3],
                     1); /* a node that is taken out of the map loses its clients for good */
    world_free(w);
    world_map_free(p.map);
    world_map_free(moved);
    world_map_free(without);
    world_map_free(again);
}

static void test_unequal_maps_work_and_are_seen(void **state)
{
    (void)state;
    struct pair p = cluster_up(31, 2);
    struct world *w = p.w;
    struct mesh_peer_info info;
    struct derpmap *other = world_map(w, all_bits(2), 0, 9);
    uint64_t link = w->node[0].node_link[1];
    take_map(w, 0, other);
    world_run(w, w->now + 100);
    for (int i = 0; i < 2; i++) {
        assert_true(mesh_peer(w->node[i].mesh, world_index_of(&w->node[i], !i), &info));
        assert_true(info.map_differs);
        assert_int_equal(info.state, MESH_PEER_UP);
    }
    take_map(w, 1, other);
    world_run(w, w->now + 100);
    assert_int_equal(w->node[0].node_link[1], link);
    check_all(w); /* they agree again, without a new link */
    world_free(w);
    world_map_free(p.map);
    world_map_free(other);
}

static void test_key_rotation(void **state)
{
    (void)state;
    struct pair p = cluster_up(32, 3);
    struct world *w = p.w;
    uint64_t link[3][3];
    for (int i = 0; i < 3; i++)
        memcpy(link[i], w->node[i].node_link, sizeof link[i]);
    struct mesh_keys both = {.n = 2}, fresh = {.n = 1};
    memset(both.key[0], 0x77, KEY_LEN);
    memset(both.key[1], 0x5a, KEY_LEN);
    memset(fresh.key[0], 0x77, KEY_LEN);
    /* New and old, node by node: nothing is closed, and a new link is proven with what both have. */
    for (int i = 0; i < 3; i++) {
        mesh_set_keys(w->node[i].mesh, &both, w->now);
        world_touch(w, i);
        for (int k = 0; k < w->n_conns; k++)
            if (w->conn[k].open[0] && i == 0)
                world_break(w, &w->conn[k], false);
        world_run(w, w->now + 30000);
        check_all(w);
    }
    for (int i = 0; i < 3; i++)
        memcpy(link[i], w->node[i].node_link, sizeof link[i]);
    /* The old one goes: links that it proved stay, since REAUTH has proven the new one. */
    for (int i = 0; i < 3; i++) {
        mesh_set_keys(w->node[i].mesh, &fresh, w->now);
        world_touch(w, i);
        world_run(w, w->now + 30000);
        check_all(w);
    }
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            assert_int_equal(link[i][j], w->node[i].node_link[j]);
    for (int i = 0; i < 3; i++)
        mesh_set_keys(w->node[i].mesh, &both, w->now); /* adding closes nothing */
    world_run(w, w->now + 5000);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            assert_int_equal(link[i][j], w->node[i].node_link[j]);
    cluster_free(&p);
}

static void glean(struct world *w, int at, int from, int k)
{
    struct node_id id;
    struct derp_key key = world_key(k);
    node_id_of(&id, w->node[from].name);
    mesh_glean(w->node[at].mesh, &key, &id, w->now);
    world_touch(w, at);
}

static void test_gleaning(void **state)
{
    (void)state;
    struct pair p = cluster_up(33, 3);
    struct world *w = p.w;
    struct world_node *x = &w->node[0];
    struct mesh_location at[4];
    struct derp_key key = world_key(1);
    glean(w, 0, 1, 1);
    assert_int_equal(world_of_index(x, x->route[1]), 1);
    assert_int_equal(mesh_where(x->mesh, &key, at, 4), 1);
    assert_true(at[0].gleaned);
    /* An announced place is better, whatever its age. */
    world_client_up(w, 2, 1, false);
    world_run(w, w->now + 100);
    assert_int_equal(world_of_index(x, x->route[1]), 2);
    assert_int_equal(mesh_where(x->mesh, &key, at, 4), 2);
    assert_true(at[1].gleaned && !at[0].gleaned);
    /* … even if its link is suspect. */
    int side;
    struct world_conn *conn = world_conn_of(w, x->node_link[2], &side);
    conn->silent = true;
    world_run(w, w->now + 3000);
    assert_int_equal(world_of_index(x, x->route[1]), 2);
    conn->silent = false;
    world_run(w, w->now + 3000);
    /* Refreshed it lives on, then it ends by itself; no gone for that. */
    world_run(w, w->now + 100000);
    glean(w, 0, 1, 1);
    world_run(w, w->now + 100000);
    assert_int_equal(mesh_where(x->mesh, &key, at, 4), 2);
    world_run(w, w->now + 30000);
    assert_int_equal(mesh_where(x->mesh, &key, at, 4), 1);
    /* It becomes an announced one in place, and does not come back after the down. */
    glean(w, 0, 1, 2);
    world_client_up(w, 1, 2, true);
    world_run(w, w->now + 100);
    world_client_down(w, 1, 2);
    world_run(w, w->now + 1100);
    glean(w, 0, 1, 2); /* a late frame */
    assert_int_equal(x->route[2], NODE_NONE);
    world_run(w, w->now + 5000);
    assert_int_equal(x->gone[2], 1);
    /* It goes with the link. */
    glean(w, 0, 1, 3);
    assert_int_equal(world_of_index(x, x->route[3]), 1);
    world_stop(w, 1, false, false);
    world_run(w, w->now + 1000);
    assert_int_equal(x->route[3], NODE_NONE);
    struct derp_key k3 = world_key(3);
    assert_int_equal(mesh_where(x->mesh, &k3, at, 4), 0);
    assert_int_equal(x->gone[1] + x->gone[3], 0);
    cluster_free(&p);
}

/* An ANN lost on its way (no TCP would): asked for again, and complete. */
static bool drop_ann(struct world *w, int from, uint8_t *payload, size_t *len, void *ctx)
{
    int *left = ctx;
    (void)w;
    if (from != 0 || *len < 2 || payload[1] != MESHMSG_ANN || !*left)
        return true;
    --*left;
    return false;
}

static void test_gap(void **state)
{
    (void)state;
    struct pair p = cluster_up(34, 2);
    struct world *w = p.w;
    int left = 1;
    w->tamper = drop_ann;
    w->tamper_ctx = &left;
    world_client_up(w, 0, 1, true);
    world_run(w, w->now + 200);
    assert_int_equal(left, 0);
    world_client_up(w, 0, 2, true);
    world_run(w, w->now + 3000);
    check_all(w);
    struct mesh_counters c;
    mesh_counters(w->node[1].mesh, &c);
    assert_int_equal(c.resyncs_asked, 1);
    /* Many are lost: asked for at most once a second. */
    left = INT32_MAX;
    mesh_counters(w->node[0].mesh, &c);
    uint64_t syncs = c.sync_sent;
    for (int i = 0; i < 100; i++) {
        world_client_up(w, 0, 10 + i, true);
        world_run(w, w->now + 100);
        left = i % 2 ? INT32_MAX : 0;
    }
    left = 0;
    world_run(w, w->now + 3000);
    check_all(w);
    mesh_counters(w->node[0].mesh, &c);
    assert_in_range(c.sync_sent - syncs, 5, 13);
    cluster_free(&p);
}

/* The client that the sync would tell next changes just now. */
static void change_at_cursor(struct world *w)
{
    struct mesh *m = w->node[0].mesh;
    uint32_t cursor = m->n_links ? m->links[0]->sync_cursor : SLOT_NONE;
    if (cursor == SLOT_NONE)
        return;
    struct derp_key key = m->slot[cursor].key;
    mesh_client_home(m, &key, !m->slot[cursor].home, w->now);
    world_touch(w, 0);
}

/* A hundred thousand keys: never much under way at once, all of them there, memory as told; and fresh ones do not wait
 * for the end of the sync. */
static void test_large_set(void **state)
{
    (void)state;
    enum { KEYS = 100000 };
    struct world *w = world_new(35, 2);
    struct derpmap *map = world_map(w, 3, 0, 1);
    w->latency_min = w->latency_max = 100;
    world_start(w, 0, map);
    for (int k = 0; k < KEYS; k++) {
        struct derp_key key = world_key(WORLD_KEYS + k);
        assert_int_equal(mesh_client_up(w->node[0].mesh, &key, k % 2, w->now), 0);
    }
    world_touch(w, 0);
    world_start(w, 1, map);
    struct mesh_peer_info info = {0};
    uint32_t index = world_index_of(&w->node[1], 0);
    uint64_t end = w->now + 60000;
    while ((!mesh_peer(w->node[1].mesh, index, &info) || info.n_keys < KEYS / 4) && w->now < end)
        world_run(w, w->now + 5);
    assert_false(info.synced);
    world_client_up(w, 0, 1, true);
    world_run(w, w->now + 350);
    assert_int_equal(world_of_index(&w->node[1], w->node[1].route[1]), 0);
    mesh_peer(w->node[1].mesh, index, &info);
    assert_false(info.synced);
    while (mesh_peer(w->node[1].mesh, index, &info) && !info.synced && w->now < end) {
        change_at_cursor(w);
        world_run(w, w->now + 5);
    }
    assert_true(info.synced);
    world_run(w, w->now + 1500);
    mesh_peer(w->node[1].mesh, index, &info);
    for (int k = 0; k < KEYS; k++) {
        struct derp_key key = world_key(WORLD_KEYS + k);
        struct mesh_location at;
        assert_int_equal(mesh_where(w->node[1].mesh, &key, &at, 1), 1);
        assert_int_equal(at.home, ours_local(w->node[0].mesh, &key)->home);
    }
    assert_int_equal(info.n_keys, KEYS + 1);
    struct mesh_counters c;
    mesh_counters(w->node[1].mesh, &c);
    assert_int_equal(c.n_remote_keys, KEYS + 1);
    printf("memory per remote key: %.1f bytes; most under way: %zu\n", (double)c.bytes / KEYS,
           w->conn[0].in_flight_max);
    assert_true(c.bytes <= 61 * KEYS); /* 60 a key, and the empty tables */
    assert_true(w->conn[0].in_flight_max <= 300000);
    assert_true(w->sent_tick_max <= 300000);
    /* Resets in the middle of the next syncs: what was known stays known throughout. */
    for (int i = 0; i < 5; i++) {
        world_break(w, &w->conn[w->n_conns - 1], false);
        world_run(w, w->now + 1500);
        mesh_counters(w->node[1].mesh, &c);
        assert_int_equal(c.n_remote_keys, KEYS + 1);
    }
    world_run(w, w->now + 60000);
    mesh_peer(w->node[1].mesh, index, &info);
    assert_true(info.synced);
    assert_int_equal(info.n_keys, KEYS + 1);
    mesh_counters(w->node[1].mesh, &c);
    assert_int_equal(c.n_remote_keys, KEYS + 1);
    world_free(w);
    world_map_free(map);
}

static void test_stop_says_bye(void **state)
{
    (void)state;
    struct pair p = cluster_up(36, 2);
    struct world *w = p.w;
    struct mesh_peer_info info;
    world_stop(w, 0, true, false);
    world_run(w, w->now + 14);
    assert_true(mesh_peer(w->node[1].mesh, world_index_of(&w->node[1], 0), &info));
    assert_int_not_equal(info.state, MESH_PEER_UP);
    assert_string_equal(info.last_error, "it stops");
    cluster_free(&p);
}

/* All attempts fail for long: they grow rarer, but never stop. */
static void test_backoff(void **state)
{
    (void)state;
    struct pair p = cluster(37, 2);
    struct world *w = p.w;
    w->cut[0][1] = w->cut[1][0] = true;
    world_run(w, w->now + 600000);
    struct mesh_peer_info info;
    unsigned attempts[2];
    for (int i = 0; i < 2; i++) {
        assert_true(mesh_peer(w->node[i].mesh, world_index_of(&w->node[i], !i), &info));
        assert_string_equal(info.last_error, "connection refused");
        attempts[i] = w->node[i].mesh->peers[1]->attempts;
        assert_in_range(attempts[i], 20, 80); /* about 15 s and the 3 s that a failure takes */
    }
    memset(w->cut, 0, sizeof w->cut);
    world_run(w, w->now + 40000);
    check_all(w);
    cluster_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_up_is_fast_and_downs_ride_along),
        cmocka_unit_test(test_moves_and_homes),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_gone_after_sync),
        cmocka_unit_test(test_no_gone_in_the_dark),
        cmocka_unit_test(test_slot_reuse_evicts),
        cmocka_unit_test(test_one_way_firewall),
        cmocka_unit_test(test_both_dial_at_once),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_new_instance),
        cmocka_unit_test(test_clone),
        cmocka_unit_test(test_map_changes),
        cmocka_unit_test(test_unequal_maps_work_and_are_seen),
        cmocka_unit_test(test_key_rotation),
        cmocka_unit_test(test_gleaning),
        cmocka_unit_test(test_gap),
        cmocka_unit_test(test_large_set),
        cmocka_unit_test(test_stop_says_bye),
        cmocka_unit_test(test_backoff),
        cmocka_unit_test(test_same_seed_same_bytes),
        cmocka_unit_test(test_chaos),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
