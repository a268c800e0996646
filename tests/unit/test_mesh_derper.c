/* A real derper in a region of ours: who is reached by which way, what is announced, and when somebody is gone.
 *
 * Nodes 0 and 3 are in region 900 with the derper (6), node 1 in 901, node 2 in 902. */
#include "mesh_world.h"

enum { DERPER = 6, ALL = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << DERPER, LINK = WORLD_DERPER_LINK };

struct fixture {
    struct world *w;
    struct derpmap *map;
};

static void run(struct world *w, uint64_t ms)
{
    world_run(w, w->now + ms);
}

static struct mesh *mesh_of(struct world *w, int i)
{
    return w->node[i].mesh;
}

/* Node i's connection to the derper stands. */
static void derper_open(struct world *w, int i)
{
    assert_int_not_equal(w->node[i].derper_dial[DERPER], 0);
    mesh_derper_open(mesh_of(w, i), w->node[i].derper_dial[DERPER], LINK + (uint64_t)i, w->now);
    w->node[i].derper_dial[DERPER] = 0;
    world_touch(w, i);
}

static void derper_key(struct world *w, int i, int k, bool present)
{
    struct derp_key key = world_key(k);
    mesh_derper_key(mesh_of(w, i), LINK + (uint64_t)i, &key, present, w->now);
    world_touch(w, i);
}

static void derper_close(struct world *w, int i)
{
    mesh_derper_closed(mesh_of(w, i), LINK + (uint64_t)i, "reset", w->now);
    world_touch(w, i);
}

/* The world's number of the node that i sends the key's frames to; WORLD_NODES: none. */
static int route_of(struct world *w, int i, int k)
{
    return world_of_index(&w->node[i], w->node[i].route[k]);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->w = world_new(7, 7);
    f->w->derper[DERPER] = true;
    f->map = world_map(f->w, ALL, 0, 1);
    for (int i = 0; i < 4; i++)
        world_start(f->w, i, f->map);
    run(f->w, 8000);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    world_free(f->w);
    world_map_free(f->map);
    free(f);
    return 0;
}

/* Only nodes of its region log in to it, and no one takes it for a node of the mesh. */
static void test_who_dials(void **state)
{
    struct world *w = ((struct fixture *)*state)->w;
    assert_int_equal(w->node[0].derper_dials, 1);
    assert_int_equal(w->node[3].derper_dials, 1);
    assert_int_equal(w->node[1].derper_dials, 0);
    mesh_dial_failed(mesh_of(w, 0), w->node[0].derper_dial[DERPER], "refused", w->now);
    world_touch(w, 0);
    run(w, 2000);
    assert_int_equal(w->node[0].derper_dials, 2);
}

/* Its clients are reached directly from their region, by a node of that region from others. */
static void test_reach(void **state)
{
    struct world *w = ((struct fixture *)*state)->w;
    struct mesh_location at[4];
    struct derp_key key = world_key(5);
    derper_open(w, 0);
    derper_key(w, 0, 5, true);
    derper_key(w, 0, 5, true); /* a second connection of it */
    run(w, 300);
    assert_int_equal(w->node[0].node_link[DERPER], LINK);
    assert_int_equal(route_of(w, 0, 5), DERPER);
    assert_int_equal(route_of(w, 1, 5), 0);
    assert_int_equal(route_of(w, 2, 5), 0);
    assert_int_equal(route_of(w, 3, 5), 0);
    derper_open(w, 3);
    derper_key(w, 3, 5, true);
    run(w, 300);
    assert_int_equal(route_of(w, 3, 5), DERPER);
    assert_int_equal(mesh_where(mesh_of(w, 1), &key, at, 4), 2);
    assert_true(at[0].derper && at[1].derper && !at[0].home);
    derper_key(w, 0, 5, false);
    derper_key(w, 3, 5, false);
    run(w, 1500);
    for (int i = 0; i < 4; i++)
        assert_int_equal(route_of(w, i, 5), WORLD_NODES);
    run(w, 6000);
    for (int i = 0; i < 4; i++)
        assert_int_equal(w->node[i].gone[5], 1);
}

/* Any connection to a node of ours comes before the derper's, but for a mere visit elsewhere seen from the region itself. */
static void test_preference(void **state)
{
    struct world *w = ((struct fixture *)*state)->w;
    derper_open(w, 0);
    derper_key(w, 0, 5, true);
    world_client_up(w, 1, 5, false);
    run(w, 300);
    assert_int_equal(route_of(w, 2, 5), 1);
    assert_int_equal(route_of(w, 0, 5), DERPER);
    world_client_home(w, 1, 5, true);
    run(w, 300);
    assert_int_equal(route_of(w, 0, 5), 1);
    world_client_down(w, 1, 5);
    run(w, 1500);
    assert_int_equal(route_of(w, 2, 5), 0);
    assert_int_equal(route_of(w, 0, 5), DERPER);
    run(w, 10000);
    for (int i = 0; i < 4; i++)
        assert_int_equal(w->node[i].gone[5], 0);
}

/* A client of ours that the derper has too: ours is what we announce, until it leaves us. */
static void test_own_client(void **state)
{
    struct world *w = ((struct fixture *)*state)->w;
    struct mesh_location at[4];
    struct derp_key key = world_key(5);
    derper_open(w, 0);
    derper_key(w, 0, 5, true);
    world_client_up(w, 0, 5, true);
    run(w, 300);
    assert_int_equal(mesh_where(mesh_of(w, 1), &key, at, 4), 1);
    assert_true(at[0].home && !at[0].derper);
    derper_key(w, 0, 5, false);
    derper_key(w, 0, 5, true);
    world_client_down(w, 0, 5);
    run(w, 1500);
    assert_int_equal(mesh_where(mesh_of(w, 1), &key, at, 4), 1);
    assert_true(!at[0].home && at[0].derper);
    run(w, 6000);
    assert_int_equal(w->node[1].gone[5], 0);
}

/* The way to the derper is cut: whoever else has one is taken at once, nobody is gone before that is certain, and no
 * ghost stays. */
static void test_cut(void **state)
{
    struct world *w = ((struct fixture *)*state)->w;
    derper_open(w, 0);
    derper_open(w, 3);
    for (int k = 0; k < 3; k++) {
        derper_key(w, 0, k, true);
        derper_key(w, 3, k, true);
    }
    run(w, 4000);
    derper_close(w, 0);
    run(w, 300);
    assert_int_equal(route_of(w, 1, 1), 3);
    assert_int_equal(route_of(w, 0, 1), 3);
    derper_close(w, 3);
    run(w, 300);
    for (int i = 0; i < 4; i++)
        assert_int_equal(route_of(w, i, 1), WORLD_NODES);
    run(w, 4000);
    derper_open(w, 3); /* key 0 is there again, 1 now elsewhere, 2 nowhere */
    derper_key(w, 3, 0, true);
    world_client_up(w, 2, 1, true);
    run(w, 500);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(route_of(w, i, 0), i == 3 ? DERPER : 3);
        assert_int_equal(w->node[i].gone[0] + w->node[i].gone[1] + w->node[i].gone[2], 0);
    }
    run(w, 30000);
    for (int i = 0; i < 4; i++) {
        struct derp_key key = world_key(2);
        struct mesh_location at;
        assert_int_equal(w->node[i].gone[0] + w->node[i].gone[1], 0);
        assert_int_equal(mesh_where(mesh_of(w, i), &key, &at, 1), 0);
    }
    derper_close(w, 3);
    run(w, 30000);
    for (int i = 0; i < 4; i++)
        assert_int_equal(w->node[i].gone[0], 1);
}

/* A node takes the derper's place under its name: it is one of the mesh as soon as it proves itself, whatever the settings
 * of the others say. */
static void test_migration(void **state)
{
    struct fixture *f = *state;
    struct world *w = f->w;
    struct mesh_peer_info p;
    derper_open(w, 0);
    derper_key(w, 0, 5, true);
    run(w, 500);
    w->derper[DERPER] = false; /* as the newcomer sees it; the others do not ask again */
    world_start(w, DERPER, f->map);
    world_client_up(w, DERPER, 5, true);
    run(w, 9000);
    assert_int_equal(w->node[0].derper_closed, 1);
    for (int i = 0; i < 4; i++)
        assert_int_equal(route_of(w, i, 5), DERPER);
    assert_true(mesh_peer(mesh_of(w, 0), world_index_of(&w->node[0], DERPER), &p));
    assert_false(p.derper);
    assert_int_equal(p.state, MESH_PEER_UP);
    struct derp_key key = world_key(5);
    struct mesh_location at[4];
    assert_int_equal(mesh_where(mesh_of(w, 1), &key, at, 4), 1);
    assert_int_equal(w->node[1].gone[5], 0);
}

/* Taken out of derper_peers: the connection goes, and what was announced of it. */
static void test_setting(void **state)
{
    struct fixture *f = *state;
    struct world *w = f->w;
    struct derp_key key = world_key(5);
    struct mesh_location at;
    derper_open(w, 0);
    derper_key(w, 0, 5, true);
    run(w, 500);
    w->derper[DERPER] = false;
    mesh_set_map(mesh_of(w, 0), f->map, world_map_node(f->map, w->node[0].name), w->now);
    world_touch(w, 0);
    run(w, 1500);
    assert_int_equal(w->node[0].derper_closed, 1);
    assert_int_equal(route_of(w, 0, 5), WORLD_NODES);
    assert_int_equal(mesh_where(mesh_of(w, 1), &key, &at, 1), 0);
}

/* Slots are used again: coming and going does not use them up. */
static void test_churn(void **state)
{
    struct world *w = ((struct fixture *)*state)->w;
    derper_open(w, 0);
    for (int round = 0; round < 40; round++)
        for (int k = 0; k < WORLD_KEYS; k++)
            derper_key(w, 0, k, (k + round) % 3 != 0);
    run(w, 6000);
    for (int k = 0; k < WORLD_KEYS; k++) {
        bool there = (k + 39) % 3 != 0;
        assert_int_equal(route_of(w, 0, k), there ? DERPER : WORLD_NODES);
        assert_int_equal(route_of(w, 2, k), there ? 0 : WORLD_NODES);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_who_dials, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reach, setup, teardown),
        cmocka_unit_test_setup_teardown(test_preference, setup, teardown),
        cmocka_unit_test_setup_teardown(test_own_client, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_migration, setup, teardown),
        cmocka_unit_test_setup_teardown(test_setting, setup, teardown),
        cmocka_unit_test_setup_teardown(test_churn, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
