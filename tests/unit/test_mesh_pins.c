/* Node keys that the operator names (mesh_pins), beside those that were seen first. */
#include "mesh_model.h"

static struct mesh_pin pin(struct world *w, int node, int key_of)
{
    return (struct mesh_pin){.name = w->node[node].name, .key = w->node[key_of].key.pub};
}

static void set_pins(struct world *w, int at, const struct mesh_pin *pins, size_t n)
{
    mesh_set_pins(w->node[at].mesh, pins, n, w->now);
    world_touch(w, at);
}

static struct mesh_peer_info peer_of(struct world *w, int at, int other)
{
    struct mesh_peer_info info;
    assert_true(mesh_peer(w->node[at].mesh, world_index_of(&w->node[at], other), &info));
    return info;
}

static struct mesh_counters counters(struct world *w, int at)
{
    struct mesh_counters c;
    mesh_counters(w->node[at].mesh, &c);
    return c;
}

/* A named node is taken with that key, and nothing is learned of it; with another it never comes in, over nobody. */
static void test_named_before_it_is_seen(void **state)
{
    (void)state;
    struct pair p = cluster(1, 3);
    struct world *w = p.w;
    struct mesh_pin pins[] = {pin(w, 1, 1), pin(w, 2, 1)}; /* 2 is named with the key of another */
    set_pins(w, 0, pins, 2);
    world_run(w, w->now + 60000);
    assert_int_equal(peer_of(w, 0, 1).state, MESH_PEER_UP);
    assert_int_equal(w->node[0].n_pins, 0);
    assert_int_equal(w->node[1].n_pins, 2); /* which names nobody */
    assert_int_equal(peer_of(w, 0, 2).link, 0);
    assert_int_equal(peer_of(w, 0, 2).control_via, NODE_NONE);
    assert_true(counters(w, 0).refused_pin > 0);
    assert_non_null(strstr(w->node[0].last_warning, "mesh_pins"));
    pins[1] = pin(w, 2, 2); /* mended */
    struct mesh_pin mended[] = {pins[0], pins[1]};
    set_pins(w, 0, mended, 2);
    world_run(w, w->now + 60000);
    assert_int_equal(peer_of(w, 0, 2).state, MESH_PEER_UP);
    cluster_free(&p);
}

/* What changes in the file while links are up ends those that it no longer speaks for, lanes and tunnels too. */
static void test_reload(void **state)
{
    (void)state;
    for (int tunnel = 0; tunnel < 2; tunnel++) {
        struct pair p = cluster(2, 3);
        struct world *w = p.w;
        int side;
        w->lanes = 2;
        world_run(w, w->now + 12000);
        if (tunnel) {
            w->cut[0][1] = w->cut[1][0] = true;
            world_break(w, world_between(w, 0, 1, &side), false);
            world_run(w, w->now + 6000);
            assert_int_equal(peer_of(w, 0, 1).state, MESH_PEER_TUNNEL);
        }
        uint64_t closed = counters(w, 0).links_closed;
        const struct mesh_pin right[] = {pin(w, 1, 1), pin(w, 2, 2)}, wrong[] = {pin(w, 1, 2), pin(w, 2, 2)},
                              fewer[] = {pin(w, 2, 2)};
        set_pins(w, 0, right, 2); /* says what is so: nothing happens */
        world_run(w, w->now + 5000);
        assert_int_equal(counters(w, 0).links_closed, closed);
        set_pins(w, 0, fewer, 1); /* taken out: ends at once, and may come again as one that was seen */
        assert_true(counters(w, 0).links_closed > closed);
        assert_int_equal(peer_of(w, 0, 1).control_via, NODE_NONE);
        assert_int_equal(peer_of(w, 0, 1).lanes, 0);
        assert_int_equal(peer_of(w, 0, 2).state, MESH_PEER_UP);
        world_run(w, w->now + 60000);
        assert_int_not_equal(peer_of(w, 0, 1).control_via, NODE_NONE);
        set_pins(w, 0, wrong, 2); /* changed: ends, and does not come again */
        assert_int_equal(peer_of(w, 0, 1).control_via, NODE_NONE);
        assert_int_equal(peer_of(w, 0, 1).lanes, 0);
        for (int i = 0; i < 60; i++) {
            world_run(w, w->now + 1000);
            assert_int_equal(peer_of(w, 0, 1).control_via, NODE_NONE);
            assert_int_equal(peer_of(w, 0, 2).state, MESH_PEER_UP);
        }
        set_pins(w, 0, right, 2);
        memset(w->cut, 0, sizeof w->cut);
        world_run(w, w->now + 90000);
        assert_int_equal(peer_of(w, 0, 1).state, MESH_PEER_UP);
        cluster_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_named_before_it_is_seen),
        cmocka_unit_test(test_reload),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
