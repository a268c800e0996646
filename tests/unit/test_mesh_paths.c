/* Ways round broken links, in virtual time: cut, silent and one-way dead connections, damping, transits that refuse, and
 * neighbours that lie.  Times are from the fault to the op that moves the traffic. */
#include "mesh_world.h"

#include "mesh/state.h"
#include "proto/meshmsg_paths.h"

struct triangle {
    struct world *w;
    struct derpmap *map;
};

static struct triangle triangle_up(uint64_t seed, int n, uint64_t latency)
{
    struct triangle t = {.w = world_new(seed, n)};
    t.w->verbose = getenv("MESH_SIM_VERBOSE") != NULL;
    t.w->latency_min = t.w->latency_max = latency;
    t.map = world_map(t.w, (uint32_t)((UINT64_C(1) << n) - 1), 0, 1);
    for (int i = 0; i < n; i++)
        world_start(t.w, i, t.map);
    world_run(t.w, t.w->now + 15000);
    return t;
}

static void triangle_free(struct triangle *t)
{
    world_free(t->w);
    world_map_free(t->map);
}

static struct mesh_peer_info peer_of(struct world *w, int at, int other)
{
    struct mesh_peer_info info;
    assert_true(mesh_peer(w->node[at].mesh, world_index_of(&w->node[at], other), &info));
    return info;
}

/* The world's number of the node over which data goes, as the node was told; WORLD_NODES: none. */
static int via(struct world *w, int at, int other)
{
    struct mesh_peer_info info = peer_of(w, at, other);
    assert_int_equal(info.via, w->node[at].path[other].via);
    return world_of_index(&w->node[at], w->node[at].path[other].via);
}

/* Runs until data from a for b goes over that node; the time it took. */
static uint64_t until_via(struct world *w, int a, int b, int over, uint64_t limit)
{
    uint64_t start = w->now;
    while (via(w, a, b) != over && w->now - start < limit)
        world_run(w, w->now + 1);
    assert_int_equal(via(w, a, b), over);
    return w->now - start;
}

static void cut(struct world *w, int a, int b, bool silent)
{
    int side;
    w->cut[a][b] = w->cut[b][a] = true;
    struct world_conn *c = world_between(w, a, b, &side);
    assert_non_null(c);
    world_break(w, c, silent);
}

static void heal(struct world *w)
{
    memset(w->cut, 0, sizeof w->cut);
}

static void test_reset(void **state)
{
    (void)state;
    struct triangle t = triangle_up(1, 3, 40);
    struct world *w = t.w;
    world_client_up(w, 1, 1, true);
    world_run(w, w->now + 1000);
    assert_int_equal(via(w, 0, 1), 1);
    assert_int_equal(peer_of(w, 0, 1).why, MESH_WHY_DIRECT);
    cut(w, 0, 1, false);
    uint64_t took = until_via(w, 0, 1, 2, 300);
    until_via(w, 1, 0, 2, 300);
    printf("reset at 40 ms of latency: other way after %" PRIu64 " ms\n", took);
    assert_int_equal(peer_of(w, 0, 1).why, MESH_WHY_NO_LINK);
    assert_in_range(peer_of(w, 0, 1).cost_ms, 160, 180);
    /* The key's place stays usable, and no NotHere or PeerGone comes of it. */
    assert_int_equal(world_of_index(&w->node[0], w->node[0].route[1]), 1);
    world_run(w, w->now + 30000);
    assert_int_equal(world_of_index(&w->node[0], w->node[0].route[1]), 1);
    assert_int_equal(w->node[0].gone[1], 0);
    heal(w);
    world_run(w, w->now + 60000);
    assert_int_equal(via(w, 0, 1), 1);
    triangle_free(&t);
}

/* A node that dies is lost to all at once: nobody sends to it any more, although each heard of a way over the other. */
static void test_death(void **state)
{
    (void)state;
    struct triangle t = triangle_up(2, 4, 40);
    struct world *w = t.w;
    world_client_up(w, 3, 1, true);
    world_run(w, w->now + 1000);
    uint64_t died = w->now;
    world_stop(w, 3, false, false);
    world_run(w, w->now + 500);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(via(w, i, 3), WORLD_NODES);
        assert_int_equal(w->node[i].route[1], NODE_NONE);
        assert_int_equal(w->node[i].gone[1], 0);
    }
    world_run(w, w->now + 15000);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(w->node[i].gone[1], 1);
        assert_true(w->node[i].gone_at[1] >= died + MESH_UNREACHABLE_MS);
    }
    triangle_free(&t);
}

/* Of two nodes alone: a reset proves nothing, so the route stays until a redial fails. */
static void test_reset_of_two(void **state)
{
    (void)state;
    struct triangle t = triangle_up(3, 2, 10);
    struct world *w = t.w;
    int side;
    world_client_up(w, 1, 1, true);
    world_run(w, w->now + 1000);
    uint64_t lost = w->node[0].lost;
    world_break(w, world_between(w, 0, 1, &side), false);
    for (int i = 0; i < 400; i++) {
        world_run(w, w->now + 1);
        assert_int_equal(world_of_index(&w->node[0], w->node[0].route[1]), 1);
    }
    assert_int_equal(w->node[0].lost, lost + 1);
    assert_int_equal(via(w, 0, 1), 1);
    /* It dies: the redial of one side fails, or three seconds pass. */
    world_run(w, w->now + 20000);
    world_stop(w, 1, false, false);
    world_run(w, w->now + 3500);
    assert_int_equal(w->node[0].route[1], NODE_NONE);
    triangle_free(&t);
}

/* A line that comes and goes: each time it is trusted later; and the other way stays in use meanwhile. */
static void test_damping(void **state)
{
    (void)state;
    struct triangle t = triangle_up(4, 3, 10);
    struct world *w = t.w;
    uint64_t last = 0;
    for (int flap = 0; flap < 4; flap++) {
        int side;
        world_break(w, world_between(w, 0, 1, &side), false);
        until_via(w, 0, 1, 2, 300);
        while (peer_of(w, 0, 1).state != MESH_PEER_UP)
            world_run(w, w->now + 1);
        assert_int_equal(via(w, 0, 1), 2);
        assert_int_equal(peer_of(w, 0, 1).why, MESH_WHY_HELD);
        uint64_t held = until_via(w, 0, 1, 1, 60000);
        printf("flap %d: held for %" PRIu64 " ms\n", flap + 1, held);
        assert_in_range(held, (2000u << flap) - 100, (2300u << flap) + 100);
        assert_true(held > last);
        last = held;
        world_run(w, w->now + 3000);
    }
    /* A calm hour makes good. */
    world_run(w, w->now + 3600000);
    int side;
    world_break(w, world_between(w, 0, 1, &side), false);
    until_via(w, 0, 1, 2, 300);
    while (peer_of(w, 0, 1).state != MESH_PEER_UP)
        world_run(w, w->now + 1);
    assert_in_range(until_via(w, 0, 1, 1, 60000), 1900, 2400);
    triangle_free(&t);
}

/* Transits that do not carry are not asked, and one that stops carrying is left at once. */
static void test_refusing_transits(void **state)
{
    (void)state;
    struct triangle t = triangle_up(5, 4, 10);
    struct world *w = t.w;
    static const struct mesh_carrying carrying[] = {
        {.transit_off = true}, {.draining = true}, {.overloaded = true}};
    cut(w, 0, 1, false);
    world_run(w, w->now + 1000);
    int first = via(w, 0, 1), second = 5 - first;
    assert_in_range(first, 2, 3);
    for (size_t i = 0; i < sizeof carrying / sizeof *carrying; i++) {
        mesh_set_carrying(w->node[first].mesh, &carrying[i], w->now);
        world_touch(w, first);
        until_via(w, 0, 1, second, 400);
        mesh_set_carrying(w->node[second].mesh, &carrying[i], w->now);
        world_touch(w, second);
        until_via(w, 0, 1, WORLD_NODES, 400);
        mesh_set_carrying(w->node[first].mesh, &(struct mesh_carrying){0}, w->now);
        world_touch(w, first);
        until_via(w, 0, 1, first, 400);
        mesh_set_carrying(w->node[second].mesh, &(struct mesh_carrying){0}, w->now);
        world_touch(w, second);
        world_run(w, w->now + 1000);
    }
    triangle_free(&t);
}

/* A transit says that it cannot pass something on: another is taken, and it is left alone for a while. */
static void test_unreach(void **state)
{
    (void)state;
    struct triangle t = triangle_up(6, 4, 10);
    struct world *w = t.w;
    cut(w, 0, 1, false);
    world_run(w, w->now + 1000);
    int first = via(w, 0, 1), second = 5 - first, side;
    struct node_id id;
    node_id_of(&id, w->node[1].name);
    struct world_conn *c = world_between(w, first, 0, &side);
    for (int i = 0; i < 10; i++)
        mesh_unreach(w->node[first].mesh, world_link_id(w, c, side), &id, w->now);
    until_via(w, 0, 1, second, 50);
    struct mesh_counters n;
    mesh_counters(w->node[first].mesh, &n);
    assert_int_equal(n.unreach_sent, 1);
    /* Back only when the second fails too, and that only after a while. */
    c = world_between(w, second, 0, &side);
    mesh_unreach(w->node[second].mesh, world_link_id(w, c, side), &id, w->now);
    until_via(w, 0, 1, WORLD_NODES, 50);
    world_run(w, w->now + 9000);
    assert_int_equal(via(w, 0, 1), WORLD_NODES);
    world_run(w, w->now + 7000);
    assert_int_not_equal(via(w, 0, 1), WORLD_NODES);
    triangle_free(&t);
}

/* A detour that is clearly faster is taken after five to seven seconds, and kept while it is; one that is only a little
 * faster never. */
static void test_faster(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) {
        struct triangle t = {.w = world_new(7 + (uint64_t)round, 3)};
        struct world *w = t.w;
        w->verbose = getenv("MESH_SIM_VERBOSE") != NULL;
        t.map = world_map(w, 7, 0, 1);
        w->latency_min = w->latency_max = round ? 45 : 120;
        w->cut[0][2] = w->cut[2][0] = w->cut[1][2] = w->cut[2][1] = true;
        for (int i = 0; i < 3; i++)
            world_start(w, i, t.map);
        world_run(w, w->now + 8000);
        w->latency_min = w->latency_max = 20;
        heal(w);
        while (!world_between(w, 0, 2, &(int){0}) || !world_between(w, 1, 2, &(int){0}))
            world_run(w, w->now + 10);
        world_run(w, w->now + 4000);
        assert_int_equal(via(w, 0, 1), 1);
        world_run(w, w->now + 20000);
        assert_int_equal(via(w, 0, 1), round ? 1 : 2);
        assert_int_equal(peer_of(w, 0, 1).why, round ? MESH_WHY_DIRECT : MESH_WHY_FASTER);
        struct mesh_counters a, b;
        mesh_counters(w->node[0].mesh, &a);
        world_run(w, w->now + 600000);
        mesh_counters(w->node[0].mesh, &b);
        assert_int_equal(a.path_changes, b.path_changes); /* nothing flaps */
        triangle_free(&t);
    }
}

/* Many pairs lose their link at once: they spread over the transits. */
static void test_no_herd(void **state)
{
    (void)state;
    struct triangle t = triangle_up(9, 20, 10);
    struct world *w = t.w;
    int over[20] = {0}, pairs = 0, most = 0;
    for (int i = 0; i < 8; i++)
        for (int j = 8; j < 16; j++) {
            cut(w, i, j, false);
            pairs++;
        }
    world_run(w, w->now + 1000);
    for (int i = 0; i < 8; i++)
        for (int j = 8; j < 16; j++) {
            assert_in_range(via(w, i, j), 16, 19);
            over[via(w, i, j)]++;
        }
    for (int i = 0; i < 20; i++)
        most = over[i] > most ? over[i] : most;
    printf("%d pairs over 4 transits: %d %d %d %d\n", pairs, over[16], over[17], over[18], over[19]);
    assert_true(most <= pairs / 2);
    triangle_free(&t);
}

/* Follows the tables as a packet would: entry → via → destination, hops falling.  Where it ends: b, or WORLD_NODES. */
static int follow(struct world *w, int a, int b)
{
    int at = a, hops = MESH_HOPS_START;
    while (at != b && hops-- > 0) {
        int next = via(w, at, b);
        if (at != a) /* a transit: the destination's own connections or nothing */
            next = w->node[at].path[b].n ? b : WORLD_NODES;
        if (next == WORLD_NODES)
            return WORLD_NODES;
        at = next;
    }
    return at;
}

struct liar {
    uint8_t frame[MESHMSG_MAX];
    size_t len;
    int who;
};

/* In place of what the liar says of its links: the message prepared, if it fits (frames keep their length here). */
static bool lie(struct world *w, int from, uint8_t *payload, size_t *len, void *ctx)
{
    struct liar *l = ctx;
    (void)w;
    if (from == l->who && *len >= 2 && payload[1] == MESHMSG_LINKS && l->len <= *len) {
        memcpy(payload, l->frame, l->len);
        *len = l->len;
    }
    return true;
}

/* A node claims links that it does not have: packets end, and do not go in circles; told so, its neighbours leave it. */
static void test_liar(void **state)
{
    (void)state;
    struct triangle t = triangle_up(10, 4, 10);
    struct world *w = t.w;
    struct liar liar = {.who = 2};
    static struct meshmsg m;
    struct meshmsg_neighbour e[3];
    for (int i = 0; i < 3; i++) {
        node_id_of(&e[i].node, w->node[i == 2 ? 3 : i].name);
        e[i].state = MESHMSG_NEIGHBOUR_UP;
        e[i].rtt_ms = 0;
    }
    meshmsg_links(&m, 0, e, 3);
    liar.len = m.n - FRAME_HEADER_LEN;
    memcpy(liar.frame, m.b + FRAME_HEADER_LEN, liar.len);
    w->tamper = lie;
    w->tamper_ctx = &liar;
    cut(w, 0, 1, false);
    w->cut[1][2] = w->cut[2][1] = true;
    world_run(w, w->now + 12000);
    int side;
    struct world_conn *c = world_between(w, 1, 2, &side);
    if (c)
        world_break(w, c, false);
    world_run(w, w->now + 12000);
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < 4; b++)
            if (a != b) {
                int end = follow(w, a, b);
                assert_true(end == b || end == WORLD_NODES);
            }
    triangle_free(&t);
}

/* Lists of strangers, of thousands, of nonsense: no memory for them, and no more than their link is lost. */
static void test_links_bounds(void **state)
{
    (void)state;
    struct triangle t = triangle_up(11, 3, 10);
    struct world *w = t.w;
    static struct meshmsg m;
    static struct meshmsg_neighbour e[MESHMSG_NEIGHBOURS_MAX];
    int side;
    struct world_conn *c = world_between(w, 0, 2, &side);
    uint64_t link = world_link_id(w, c, side);
    struct mesh *mesh = w->node[0].mesh;
    for (int round = 0; round < 50; round++) {
        for (size_t i = 0; i < MESHMSG_NEIGHBOURS_MAX; i++) {
            memset(&e[i], (int)(i + (size_t)round), sizeof e[i]);
            e[i].node.b[0] = (uint8_t)round;
            e[i].state %= 5;
        }
        meshmsg_links(&m, UINT32_MAX, e, MESHMSG_NEIGHBOURS_MAX);
        assert_true(m.n - FRAME_HEADER_LEN <= MESHMSG_MAX);
        mesh_link_input(mesh, link, m.b + FRAME_HEADER_LEN, m.n - FRAME_HEADER_LEN, w->now);
    }
    const struct peer *p = mesh->peers[world_index_of(&w->node[0], 2)];
    assert_int_equal(p->n_neighbours, mesh->n_peers);
    assert_int_equal(peer_of(w, 0, 2).state, MESH_PEER_UP);
    triangle_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_death),
        cmocka_unit_test(test_reset_of_two),
        cmocka_unit_test(test_damping),
        cmocka_unit_test(test_refusing_transits),
        cmocka_unit_test(test_unreach),
        cmocka_unit_test(test_faster),
        cmocka_unit_test(test_no_herd),
        cmocka_unit_test(test_liar),
        cmocka_unit_test(test_links_bounds),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
