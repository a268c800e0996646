/* Suspicion, in virtual time: how soon a dead line is seen and gone round, how seldom a healthy one that loses packets comes
 * into doubt, and what acknowledgements excuse. */
#include "mesh_world.h"

#include "mesh/state.h"

struct lines {
    struct world *w;
    struct derpmap *map;
};

static struct lines lines_up(uint64_t seed, int n, uint64_t latency)
{
    struct lines t = {.w = world_new(seed, n)};
    t.w->verbose = getenv("MESH_SIM_VERBOSE") != NULL;
    t.w->latency_min = t.w->latency_max = latency;
    t.map = world_map(t.w, (uint32_t)((UINT64_C(1) << n) - 1), 0, 1);
    for (int i = 0; i < n; i++)
        world_start(t.w, i, t.map);
    world_run(t.w, t.w->now + 15000 + world_below(t.w, 1000));
    return t;
}

static void lines_free(struct lines *t)
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

static int via(struct world *w, int at, int other)
{
    return world_of_index(&w->node[at], w->node[at].path[other].via);
}

/* As if data came in at both ends of that connection, for so long; or until a is sent to over another node than b. */
static uint64_t with_data(struct world *w, struct world_conn *c, uint64_t length, bool until_moved)
{
    uint64_t start = w->now, next = start;
    while (w->now - start < length) {
        for (int s = 0; w->now >= next && s < 2; s++) {
            if (!c->silent && !c->deaf[s])
                mesh_link_alive(w->node[c->node[s]].mesh, world_link_id(w, c, s), w->now);
            world_touch(w, c->node[s]);
        }
        next = w->now >= next ? w->now + 100 : next;
        world_run(w, w->now + 1);
        if (until_moved && via(w, c->node[0], c->node[1]) != c->node[1] &&
            via(w, c->node[1], c->node[0]) != c->node[0])
            break;
    }
    return w->now - start;
}

/* Dead both ways, or one way: with data and without, over short and long lines, all ways round within 2.5 s. */
static void test_dead_lines(void **state)
{
    (void)state;
    static const uint64_t latencies[] = {1, 40, 100};
    for (size_t l = 0; l < sizeof latencies / sizeof *latencies; l++)
        for (int way = 0; way < 3; way++)
            for (int data = 0; data < 2; data++) {
                uint64_t worst = 0, sum = 0;
                enum { ROUNDS = 20 };
                for (int round = 0; round < ROUNDS; round++) {
                    struct lines t = lines_up((uint64_t)round + 1, 3, latencies[l]);
                    struct world *w = t.w;
                    int side;
                    w->acks = true;
                    struct world_conn *c = world_between(w, 0, 1, &side);
                    if (data)
                        with_data(w, c, 3000, false);
                    if (way == 2)
                        c->silent = true;
                    else
                        c->deaf[way] = true;
                    uint64_t took = data ? with_data(w, c, 10000, true) : 0;
                    while (!data && took < 10000 && (via(w, 0, 1) != 2 || via(w, 1, 0) != 2)) {
                        world_run(w, w->now + 1);
                        took++;
                    }
                    worst = took > worst ? took : worst;
                    sum += took;
                    lines_free(&t);
                }
                printf("latency %" PRIu64 " ms, %s, %s: both ways round after %" PRIu64
                       " ms, at worst %" PRIu64 " ms\n",
                       latencies[l], way == 2 ? "dead" : "dead one way", data ? "with data" : "idle",
                       sum / ROUNDS, worst);
                assert_true(worst <= (data ? 1600 : 2500));
            }
}

static uint64_t suspects(struct world *w)
{
    uint64_t n = 0;
    for (int i = 0; i < w->n; i++) {
        struct mesh_counters c;
        mesh_counters(w->node[i].mesh, &c);
        n += c.suspects;
    }
    return n;
}

/* A healthy line that loses packets: doubts an hour, as both ends see it. */
static double doubts(uint64_t seed, uint32_t permille, bool acks, uint64_t hours)
{
    struct lines t = lines_up(seed, 2, 100);
    struct world *w = t.w;
    int side;
    struct world_conn *c = world_between(w, 0, 1, &side);
    c->acked[0] = c->acked[1] = 0;
    if (!acks) /* behind a proxy: what counts is what the other side says */
        for (int i = 0; i < 2; i++)
            w->node[i].mesh->links[0]->has_exporter = false;
    w->acks = acks;
    w->loss_permille = permille;
    uint64_t before = suspects(w), link = w->node[0].node_link[1];
    world_run(w, w->now + hours * 3600000);
    assert_int_equal(w->node[0].node_link[1], link); /* never closed */
    double n = (double)(suspects(w) - before) / (double)hours / 2;
    lines_free(&t);
    return n;
}

static void test_lossy_lines(void **state)
{
    (void)state;
    enum { HOURS = 30 };
    static const uint32_t losses[] = {10, 30, 100};
    for (size_t i = 0; i < sizeof losses / sizeof *losses; i++)
        for (int acks = 1; acks >= 0; acks--) {
            double n = doubts(40 + i, losses[i], acks, HOURS);
            printf("200 ms, %u %% loss, %s: in doubt %.2f times an hour\n", losses[i] / 10,
                   acks ? "own TLS" : "behind a proxy", n);
            if (losses[i] <= 30 || acks)
                assert_true(n < 1);
        }
}

/* A node that is stopped: its kernel acknowledges, it does not answer.  That excuses it for seven seconds. */
static void test_stopped_process(void **state)
{
    (void)state;
    struct lines t = lines_up(50, 3, 10);
    struct world *w = t.w;
    int side;
    struct world_conn *c = world_between(w, 0, 1, &side);
    uint64_t link = world_link_id(w, c, side), start = w->now;
    c->silent = true;
    for (int i = 0; i < 120 && peer_of(w, 0, 1).state == MESH_PEER_UP; i++) {
        mesh_link_acked(w->node[0].mesh, link, (uint64_t)i * 100 + 100, w->now);
        world_touch(w, 0);
        world_run(w, w->now + 100);
    }
    assert_in_range(w->now - start, 7000, 8100);
    /* Closed a minute after its last answer, whatever its kernel says. */
    while (peer_of(w, 0, 1).link == link && w->now - start < 70000) {
        mesh_link_acked(w->node[0].mesh, link, w->now, w->now);
        world_touch(w, 0);
        world_run(w, w->now + 100);
    }
    assert_in_range(w->now - start, 60000, 61200);
    lines_free(&t);
}

/* Behind a proxy it is the proxy's TCP that acknowledges: it excuses nothing. */
static void test_proxy_acknowledges(void **state)
{
    (void)state;
    struct lines t = lines_up(53, 3, 10);
    struct world *w = t.w;
    int side;
    struct world_conn *c = world_between(w, 0, 1, &side);
    uint64_t link = world_link_id(w, c, side), start = w->now;
    for (size_t i = 0; i < w->node[0].mesh->n_links; i++)
        w->node[0].mesh->links[i]->has_exporter = false;
    c->silent = true;
    for (int i = 0; i < 100 && peer_of(w, 0, 1).state == MESH_PEER_UP; i++) {
        mesh_link_acked(w->node[0].mesh, link, (uint64_t)i * 100 + 100, w->now);
        world_touch(w, 0);
        world_run(w, w->now + 100);
    }
    assert_in_range(w->now - start, 1500, 2700);
    lines_free(&t);
}

/* We stood still ourselves, and nobody else did: the first tick comes before what waits to be read. */
static void test_own_stall(void **state)
{
    (void)state;
    struct lines t = lines_up(52, 3, 10);
    struct world *w = t.w;
    for (int i = 0; i < 20; i++) {
        world_run(w, w->now + world_below(w, 3000));
        w->now += 1500 + world_below(w, 4000);
        mesh_tick(w->node[0].mesh, w->now);
        world_touch(w, 0);
        world_run(w, w->now + 5000);
    }
    struct mesh_counters c;
    mesh_counters(w->node[0].mesh, &c);
    assert_int_equal(c.suspects, 0);
    lines_free(&t);
}

/* Idle: a PING a second; four with data or while one is overdue; one again once it is given up. */
static void test_pings(void **state)
{
    (void)state;
    struct lines t = lines_up(51, 2, 10);
    struct world *w = t.w;
    int side;
    struct world_conn *c = world_between(w, 0, 1, &side);
    const struct link *l = w->node[0].mesh->links[0];
    uint64_t before = l->ping_number;
    world_run(w, w->now + 60000);
    assert_in_range(l->ping_number - before, 58, 63);
    before = l->ping_number;
    with_data(w, c, 10000, false);
    assert_in_range(l->ping_number - before, 38, 44);
    world_run(w, w->now + 5000);
    before = l->ping_number;
    c->silent = true;
    world_run(w, w->now + 30000);
    assert_in_range(l->ping_number - before, 32, 40);
    lines_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dead_lines),      cmocka_unit_test(test_lossy_lines),
        cmocka_unit_test(test_stopped_process), cmocka_unit_test(test_proxy_acknowledges),
        cmocka_unit_test(test_own_stall),       cmocka_unit_test(test_pings),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
