/* REAUTH: a link follows the rotation of mesh keys, and ends when the other side has none of ours any more. */
#include "mesh_model.h"

static const uint8_t OLD = 0x5a, NEW = 0x77;

static void keys_of(struct world *w, int i, int n, uint8_t first, uint8_t second)
{
    struct mesh_keys keys = {.n = n};
    memset(keys.key[0], first, KEY_LEN);
    memset(keys.key[1], second, KEY_LEN);
    mesh_set_keys(w->node[i].mesh, &keys, w->now);
    world_touch(w, i);
}

static struct link *link_at(struct world *w, int i, int j)
{
    return w->node[i].mesh->peers[world_index_of(&w->node[i], j)]->link;
}

/* Node by node, in each of the three steps: no link is lost, and a client stays known throughout. */
static void test_rotation_loses_nothing(void **state)
{
    (void)state;
    struct pair p = cluster_up(401, 4);
    struct world *w = p.w;
    uint64_t link[4][4];
    world_client_up(w, 0, 1, true);
    world_run(w, w->now + 1000);
    for (int i = 0; i < 4; i++)
        memcpy(link[i], w->node[i].node_link, sizeof link[i]);
    for (int step = 0; step < 3; step++)
        for (int i = 0; i < 4; i++) {
            keys_of(w, i, step == 2 ? 1 : 2, step == 0 ? OLD : NEW, step == 0 ? NEW : OLD);
            world_run(w, w->now + 100 + world_below(w, 30000));
            for (int j = 1; j < 4; j++)
                assert_int_equal(world_of_index(&w->node[j], w->node[j].route[1]), 0);
        }
    world_run(w, w->now + 2 * REAUTH_DEAD_MS);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            assert_int_equal(link[i][j], w->node[i].node_link[j]);
    check_all(w);
    cluster_free(&p);
}

/* One node has not been given the new key: its links end when the old one is removed, on either side, and stay ended. */
static void test_removed_key_ends_links(void **state)
{
    (void)state;
    for (int side = 0; side < 2; side++) {
        struct pair p = cluster_up(402 + (uint64_t)side, 3);
        struct world *w = p.w;
        for (int i = 0; i < 3; i++)
            if (side == 0 ? i != 2 : i == 2)
                keys_of(w, i, 1, NEW, 0);
        world_run(w, w->now + 100);
        struct mesh_peer_info info;
        for (int i = 0; i < 2; i++) {
            assert_true(mesh_peer(w->node[i].mesh, world_index_of(&w->node[i], 2), &info));
            assert_int_not_equal(info.state, MESH_PEER_UP);
            assert_int_equal(w->node[i].node_link[2], 0);
        }
        world_run(w, w->now + 90000);
        for (int i = 0; i < 2; i++)
            assert_int_equal(w->node[i].node_link[2], 0);
        assert_int_not_equal(w->node[0].node_link[1], 0);
        cluster_free(&p);
    }
}

/* What comes with REAUTH is changed on its way, repeated, or lost. */
struct reauth_fault {
    enum { FLIP, REPEAT, LOSE } how;
    uint8_t kept[2048];
    size_t len;
    int hits;
};

static bool reauth_tamper(struct world *w, int from, uint8_t *payload, size_t *len, void *ctx)
{
    struct reauth_fault *f = ctx;
    (void)w;
    if (from != 0 || *len < 3 || payload[1] != MESHMSG_REAUTH)
        return true;
    f->hits++;
    if (f->how == LOSE)
        return false;
    if (f->how == FLIP)
        payload[*len - 1] ^= 1;
    if (f->how == REPEAT && f->len == *len)
        memcpy(payload, f->kept, f->len);
    memcpy(f->kept, payload, *len);
    f->len = *len;
    return true;
}

static void test_bad_proofs_end_the_link(void **state)
{
    (void)state;
    for (int how = FLIP; how <= LOSE; how++) {
        struct pair p = cluster_up(404 + (uint64_t)how, 2);
        struct world *w = p.w;
        struct reauth_fault f = {.how = how};
        uint64_t link = w->node[1].node_link[0];
        w->tamper = reauth_tamper;
        w->tamper_ctx = &f;
        uint64_t start = w->now;
        while (w->node[1].node_link[0] == link && w->now < start + 120000)
            world_run(w, w->now + 100);
        static const char *const names[] = {"wrong", "repeated", "missing"};
        printf("a %s proof: the link ended after %" PRIu64 " ms\n", names[how], w->now - start);
        assert_int_not_equal(w->node[1].node_link[0], link);
        assert_true(w->now - start <= (how == LOSE ? REAUTH_DEAD_MS : 2 * REAUTH_MS) + 2000);
        assert_true(f.hits > 0);
        cluster_free(&p);
    }
}

/* Of another link of the same two nodes it is worth nothing: the secret is that link's. */
static void test_proof_is_bound_to_the_link(void **state)
{
    (void)state;
    struct pair p = cluster_up(407, 2);
    struct world *w = p.w;
    uint8_t mac[2][MESHMSG_MAC_LEN];
    int side;
    for (int i = 0; i < 2; i++) {
        struct link *l = link_at(w, 0, 1);
        auth_reauth_mac(l->reauth_secret, w->node[0].psk.key[0], true, 7, mac[i]);
        assert_memory_equal(l->reauth_secret, link_at(w, 1, 0)->reauth_secret, KEY_LEN);
        world_break(w, world_conn_of(w, w->node[0].node_link[1], &side), false);
        world_run(w, w->now + 20000);
    }
    assert_memory_not_equal(mac[0], mac[1], sizeof mac[0]);
    auth_reauth_mac(link_at(w, 0, 1)->reauth_secret, w->node[0].psk.key[0], true, 7, mac[0]);
    auth_reauth_mac(link_at(w, 0, 1)->reauth_secret, w->node[0].psk.key[0], false, 7, mac[1]);
    assert_memory_not_equal(mac[0], mac[1], sizeof mac[0]); /* nothing can be reflected */
    cluster_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rotation_loses_nothing),
        cmocka_unit_test(test_removed_key_ends_links),
        cmocka_unit_test(test_bad_proofs_end_the_link),
        cmocka_unit_test(test_proof_is_bound_to_the_link),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
