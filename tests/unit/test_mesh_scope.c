/* Who is told of what: visitors stay in their region while their home can be reached. */
#include "mesh_model.h"

static struct mesh_counters counters(struct world *w, int i)
{
    struct mesh_counters c;
    mesh_counters(w->node[i].mesh, &c);
    return c;
}

/* Whether a node knows that the key is connected to another. */
static bool knows(struct world *w, int at, int where, int k)
{
    struct mesh_location l[WORLD_NODES];
    struct derp_key key = world_key(k);
    size_t n = mesh_where(w->node[at].mesh, &key, l, WORLD_NODES);
    for (size_t i = 0; i < n; i++)
        if (l[i].node != NODE_NONE && world_of_index(&w->node[at], l[i].node) == where)
            return true;
    return false;
}

static struct world_conn *conn_between(struct world *w, int i, int j)
{
    int side;
    return world_conn_of(w, w->node[i].node_link[j], &side);
}

/* Six nodes in three regions: 0 and 3, 1 and 4, 2 and 5. */
static void test_visitors_stay_in_their_region(void **state)
{
    (void)state;
    struct pair p = cluster_up(301, 6);
    struct world *w = p.w;
    world_client_up(w, 0, 1, true);
    world_run(w, w->now + 100);
    world_client_up(w, 1, 1, false);
    world_run(w, w->now + 100);
    assert_true(knows(w, 4, 1, 1)); /* its region's other node */
    assert_false(knows(w, 0, 1, 1) || knows(w, 2, 1, 1) || knows(w, 3, 1, 1) || knows(w, 5, 1, 1));
    for (int i = 1; i < 6; i++)
        assert_true(knows(w, i, 0, 1)); /* the home is known everywhere */
    check_all(w);
    /* It moves its home there: told everywhere, and the other one stays in its own region. */
    world_client_home(w, 1, 1, true);
    world_client_home(w, 0, 1, false);
    world_run(w, w->now + MESH_PING_MS +
                     200); /* what other regions need not know any more is no news in a hurry */
    assert_true(knows(w, 2, 1, 1) && knows(w, 5, 1, 1) && knows(w, 3, 0, 1));
    assert_false(knows(w, 2, 0, 1) || knows(w, 4, 0, 1));
    check_all(w);
    /* Visits of others cost other regions nothing. */
    uint64_t before = counters(w, 5).entries_received;
    for (int round = 0; round < 20; round++) {
        world_client_up(w, 4, 1, false);
        world_run(w, w->now + 300);
        world_client_down(w, 4, 1);
        world_run(w, w->now + 1500);
    }
    assert_int_equal(counters(w, 5).entries_received, before);
    check_all(w);
    cluster_free(&p);
}

/* A client that never says where it is at home, as plain DERP clients: everywhere. */
static void test_homeless_are_told_everywhere(void **state)
{
    (void)state;
    struct pair p = cluster_up(302, 6);
    struct world *w = p.w;
    world_client_up(w, 0, 1, false);
    world_client_up(w, 4, 1, false);
    world_run(w, w->now + MESH_ANN_MS + 13);
    for (int i = 0; i < 6; i++)
        assert_true((i == 0 || knows(w, i, 0, 1)) && (i == 4 || knows(w, i, 4, 1)));
    check_all(w);
    cluster_free(&p);
}

/* The home goes: by leaving, by a crash, silently, and when only the visited node loses sight of it. */
static void test_home_dies(void **state)
{
    (void)state;
    for (int how = 0; how < 4; how++) {
        struct pair p = cluster_up(310 + (uint64_t)how, 6);
        struct world *w = p.w;
        world_client_up(w, 0, 1, true);
        world_client_up(w, 1, 1, false);
        world_run(w, w->now + 5000);
        assert_false(knows(w, 2, 1, 1));
        uint64_t died = w->now, limit = MESH_ANN_MS + 40;
        switch (how) {
        case 0:
            world_client_down(w, 0, 1);
            limit += MESH_PING_MS; /* a lone down goes with the ping */
            break;
        case 1:
            world_stop(w, 0, false, false);
            break;
        case 2:
            world_stop(w, 0, false, true);
            limit += 2500; /* so long a dead line takes to be seen, at worst */
            break;
        default:
            for (int i = 0; i < 6; i++)
                mesh_set_carrying(w->node[i].mesh, &(struct mesh_carrying){.transit_off = true}, w->now);
            w->cut[0][1] = w->cut[1][0] = true;
            world_break(w, conn_between(w, 0, 1), false);
        }
        while (!knows(w, 2, 1, 1) && w->now < died + 60000)
            world_run(w, w->now + 1);
        printf("home %s: visited node known elsewhere after %" PRIu64 " ms\n",
               how == 0   ? "left"
               : how == 1 ? "crashed"
               : how == 2 ? "silent"
                          : "out of sight",
               w->now - died);
        assert_true(w->now - died <= limit);
        world_run(w,
                  w->now + (how == 2 ? 3000 : 100)); /* each has to see for itself that the home is silent */
        assert_true(knows(w, 3, 1, 1) && knows(w, 5, 1, 1));
        if (how < 3) {
            assert_int_equal(world_of_index(&w->node[2], w->node[2].route[1]), 1);
        } else { /* the others see the home still, and take it; it is over when the two see each other again */
            assert_int_equal(world_of_index(&w->node[2], w->node[2].route[1]), 0);
            memset(w->cut, 0, sizeof w->cut);
            world_run(w, w->now + 20000);
            assert_false(knows(w, 2, 1, 1));
            check_all(w);
        }
        for (int i = 1; i < 6; i++)
            assert_int_equal(w->node[i].gone[1], 0);
        cluster_free(&p);
    }
}

/* A node changes its region: what it is told, and tells, becomes that of the new one, without a new link. */
static void test_region_changes(void **state)
{
    (void)state;
    struct pair p = cluster_up(303, 6);
    struct world *w = p.w;
    world_client_up(w, 0, 1, true);
    world_client_up(w, 1, 1, false); /* a visitor in the region of 1 and 4 */
    world_client_up(w, 5, 2, false); /* one in that of 2 and 5, its home in that of 0 and 3 */
    world_client_up(w, 3, 2, true);
    world_run(w, w->now + 3000);
    assert_false(knows(w, 5, 1, 1) || knows(w, 1, 5, 2));
    uint64_t link = w->node[5].node_link[1];
    struct derpmap *other = world_map(w, all_bits(6), 0, 7);
    for (int i = 0; i < other->n_nodes; i++)
        if (strcmp(other->nodes[i].id, w->node[5].name) == 0)
            other->nodes[i].region_id = 901;
    for (int i = 0; i < 6; i++)
        take_map(w, i, other);
    world_run(w, w->now + 5000);
    assert_true(knows(w, 5, 1, 1) && knows(w, 1, 5, 2) && knows(w, 4, 5, 2));
    assert_false(knows(w, 2, 5, 2) || knows(w, 5, 2, 1));
    assert_int_equal(w->node[5].node_link[1], link);
    world_run(w, w->now + 70000);
    for (int i = 0; i < 6; i++)
        assert_int_equal(counters(w, i).digests_bad, 0);
    world_free(w);
    world_map_free(p.map);
    world_map_free(other);
}

/* A client moves with its old connection half-dead: everybody sends to the new one within tens of milliseconds, and the old
 * node is asked once to look whether anybody is still there. */
static void test_move(void **state)
{
    (void)state;
    struct pair p = cluster_up(304, 6);
    struct world *w = p.w;
    world_client_up(w, 0, 1, true);
    world_run(w, w->now + 5000);
    uint64_t moved = w->now, slowest = 0;
    world_client_up(w, 1, 1, true);
    for (int i = 0; i < 6; i++) {
        while (i != 1 && world_of_index(&w->node[i], w->node[i].route[1]) != 1 && w->now < moved + 5000)
            world_run(w, w->now + 1);
        slowest = w->now - moved;
    }
    printf("a move is seen everywhere after %" PRIu64 " ms\n", slowest);
    assert_true(slowest <= MESH_ANN_MS + 13);
    assert_int_equal(w->node[0].moved[1], 1);
    for (int i = 1; i < 6; i++)
        assert_int_equal(w->node[i].moved[1], 0);
    /* Visits elsewhere are no reason to ask. */
    world_client_up(w, 3, 1, false);
    world_run(w, w->now + 40000);
    assert_int_equal(w->node[0].moved[1], 1);
    assert_int_equal(w->node[1].moved[1], 0);
    /* The home moves on: it is asked where the last one was, and where a visit is. */
    world_client_up(w, 4, 1, true);
    world_run(w, w->now + 100);
    assert_int_equal(w->node[1].moved[1], 1);
    assert_int_equal(w->node[3].moved[1], 1);
    cluster_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_visitors_stay_in_their_region),
        cmocka_unit_test(test_homeless_are_told_everywhere),
        cmocka_unit_test(test_home_dies),
        cmocka_unit_test(test_region_changes),
        cmocka_unit_test(test_move),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
