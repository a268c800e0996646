/* Sets: what is told after a cut, digests and how a wrong copy heals, scopes, in virtual time. */
#include "mesh_model.h"

#include "mesh/places.h"

#include <time.h>

static struct mesh_counters counters(struct world *w, int i)
{
    struct mesh_counters c;
    mesh_counters(w->node[i].mesh, &c);
    return c;
}

static struct peer *peer_at(struct world *w, int i, int j)
{
    return w->node[i].mesh->peers[world_index_of(&w->node[i], j)];
}

/* Cuts or heals everything between the nodes whose bits are set and the others. */
static void partition(struct world *w, uint32_t side, bool cut)
{
    for (int i = 0; i < w->n; i++)
        for (int j = 0; j < w->n; j++)
            if ((side >> i & 1) != (side >> j & 1))
                w->cut[i][j] = cut;
    for (int i = 0; cut && i < w->n_conns; i++) {
        struct world_conn *c = &w->conn[i];
        if (c->open[0] && w->cut[c->node[0]][c->node[1]])
            world_break(w, c, false);
    }
}

static void many_up(struct world *w, int i, int from, int n)
{
    for (int k = 0; k < n; k++) {
        struct derp_key key = world_key(WORLD_KEYS + from + k);
        assert_int_equal(mesh_client_up(w->node[i].mesh, &key, true, w->now), 0);
    }
    world_touch(w, i);
}

static void many_down(struct world *w, int i, int from, int n)
{
    for (int k = 0; k < n; k++) {
        struct derp_key key = world_key(WORLD_KEYS + from + k);
        mesh_client_down(w->node[i].mesh, &key, w->now);
    }
    world_touch(w, i);
}

/* Each peer's copy of each set is what its owner says: slot by slot, by the digest. */
static void sums_agree(struct world *w)
{
    for (int i = 0; i < w->n; i++)
        for (int j = 0; j < w->n; j++) {
            if (i == j || !w->node[i].mesh || !w->node[j].mesh)
                continue;
            const struct peer *copy = peer_at(w, i, j);
            const struct peer *reader = peer_at(w, j, i);
            const struct scope *sc = &w->node[j].mesh->scope[reader->link->scope];
            assert_int_equal(copy->in_seq, sc->seq);
            assert_int_equal(copy->n_keys, sc->count);
            assert_true(copy->root == sc->root);
        }
}

/* Sixty seconds apart, a hundred of ten thousand change: only these are sent again. */
static void test_partition_resends_what_changed(void **state)
{
    (void)state;
    enum { KEYS = 10000, LEAVE = 50, COME = 50, MOVE = 40 };
    struct pair p = cluster_up(201, 3);
    struct world *w = p.w;
    for (int i = 0; i < 3; i++)
        many_up(w, i, i * KEYS, KEYS);
    world_run(w, w->now + 10000);
    sums_agree(w);
    uint64_t full = counters(w, 0).sync_sent;
    partition(w, 1, true);
    world_run(w, w->now + 30000);
    many_down(w, 0, 0, LEAVE);
    many_up(w, 0, 3 * KEYS, COME);
    many_down(w, 1, KEYS, MOVE); /* moves to a node behind the cut */
    many_up(w, 0, KEYS, MOVE);
    world_run(w, w->now + 30000);
    for (int i = 1; i < 3; i++) { /* the old copy is still there, though nothing can be sent there */
        assert_int_equal(peer_at(w, i, 0)->n_keys, KEYS);
        assert_int_equal(peer_at(w, i, 0)->set_boot, w->node[0].boot);
    }
    uint64_t before = counters(w, 0).entries_sent + counters(w, 1).entries_sent + counters(w, 2).entries_sent;
    partition(w, 1, false);
    uint64_t healed = w->now;
    while (w->now < healed + 60000 && (!peer_at(w, 0, 1)->synced || !peer_at(w, 0, 2)->synced ||
                                       !peer_at(w, 1, 0)->synced || !peer_at(w, 2, 0)->synced))
        world_run(w, w->now + 10);
    uint64_t took = w->now - healed;
    world_run(w, w->now + 2000);
    sums_agree(w);
    uint64_t sent = counters(w, 0).entries_sent + counters(w, 1).entries_sent + counters(w, 2).entries_sent;
    /* Node 0's changes go to both others; node 1's downs went to node 2 at once and go to node 0 now. */
    const uint64_t changed = 2 * (LEAVE + COME + MOVE) + MOVE;
    uint64_t resent = sent - before;
    printf("after 60 s apart: %" PRIu64 " entries changed, %" PRIu64
           " sent again (%.2f), equal after %" PRIu64 " ms\n",
           changed, resent, (double)resent / (double)changed, took);
    assert_true(resent * 10 <= changed * 12);
    assert_true(took <= 5000);
    assert_int_equal(counters(w, 0).sync_changes_sent, counters(w, 0).sync_sent - full);
    for (int i = 1; i < 3; i++) {
        struct derp_key gone = world_key(WORLD_KEYS), moved = world_key(WORLD_KEYS + KEYS);
        struct mesh_location at[3];
        assert_int_equal(mesh_where(w->node[i].mesh, &gone, at, 3), 0);
        assert_int_equal(mesh_where(w->node[i].mesh, &moved, at, 3), 1);
        assert_int_equal(world_of_index(&w->node[i], at[0].node), 0);
    }
    cluster_free(&p);
}

/* Slots that were given away and emptied while nobody heard: downs are among the changes. */
static void test_changes_cover_reused_slots(void **state)
{
    (void)state;
    struct pair p = cluster_up(202, 2);
    struct world *w = p.w;
    for (int k = 0; k < 20; k++)
        world_client_up(w, 0, k, true);
    world_run(w, w->now + 3000);
    uint64_t full = counters(w, 0).sync_sent - counters(w, 0).sync_changes_sent;
    for (int round = 0; round < 30; round++) {
        partition(w, 1, true);
        for (int i = 0; i < 15; i++) {
            int k = (int)world_below(w, 60);
            if (w->node[0].up[k])
                world_client_down(w, 0, k);
            else
                world_client_up(w, 0, k, world_below(w, 2));
        }
        world_run(w, w->now + world_below(w, 20000));
        partition(w, 1, false);
        world_run(w, w->now + 60000);
        check_all(w);
        sums_agree(w);
    }
    assert_int_equal(counters(w, 0).sync_sent - counters(w, 0).sync_changes_sent, full);
    assert_int_equal(counters(w, 1).digests_bad, 0);
    cluster_free(&p);
}

/* A link that is cut again and again in the middle of being told what changed: each goes on where the last one was. */
static void test_changes_go_on_where_they_were_cut(void **state)
{
    (void)state;
    enum { KEYS = 30000 };
    struct pair p = cluster_up(203, 2);
    struct world *w = p.w;
    partition(w, 1, true);
    many_up(w, 0, 0, KEYS);
    world_run(w, w->now + 1000);
    partition(w, 1, false);
    uint64_t before = counters(w, 0).entries_sent, last = 0;
    for (int cut = 0; cut < 12; cut++) {
        uint64_t end = w->now + 60000;
        last = peer_at(w, 1, 0)->in_seq;
        while (peer_at(w, 1, 0)->in_seq < last + 2000 && w->now < end)
            world_run(w, w->now + 1);
        int side;
        world_run(w, w->now + 15); /* the next ones are under way */
        if (cut < 10)
            world_break(w, world_conn_of(w, w->node[1].node_link[0], &side), false);
    }
    world_run(w, w->now + 60000);
    sums_agree(w);
    /* At most what was under way is sent twice: a window each time. */
    uint64_t sent = counters(w, 0).entries_sent - before;
    printf("%d entries over ten resets: %" PRIu64 " sent\n", KEYS, sent);
    assert_true(sent > KEYS);
    assert_true(sent < KEYS + 12 * (uint64_t)(LINK_WINDOW + LINK_MARK_EVERY) / 40);
    assert_int_equal(counters(w, 1).n_remote_keys, KEYS);
    cluster_free(&p);
}

/* Digests add up where nothing is wrong, twice a minute. */
static void test_digests_add_up(void **state)
{
    (void)state;
    struct pair p = cluster_up(204, 3);
    struct world *w = p.w;
    for (int minute = 0; minute < 10; minute++)
        for (int i = 0; i < 600; i++) {
            int n = (int)world_below(w, 3), k = (int)world_below(w, WORLD_KEYS);
            if (world_below(w, 20) == 0 && w->node[n].up[k])
                world_client_down(w, n, k);
            else if (world_below(w, 20) == 0 && !w->node[n].up[k])
                world_client_up(w, n, k, world_below(w, 2));
            world_run(w, w->now + 100);
        }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(counters(w, i).digests_bad, 0);
        assert_in_range(counters(w, i).digests_good, 36, 44); /* 20 a peer */
        assert_int_equal(counters(w, i).resyncs_asked, 0);
    }
    sums_agree(w);
    cluster_free(&p);
}

/* A copy that is wrong without anything missing heals by its buckets. */
static void test_wrong_copy_heals_by_bucket(void **state)
{
    (void)state;
    enum { KEYS = 20000 };
    struct pair p = cluster_up(205, 2);
    struct world *w = p.w;
    many_up(w, 0, 0, KEYS);
    world_client_up(w, 0, 1, true);
    world_client_up(w, 0, 2, true);
    world_run(w, w->now + 10000);
    sums_agree(w);
    struct mesh *m = w->node[1].mesh;
    struct peer *copy = peer_at(w, 1, 0);
    struct derp_key ghost = world_key(3), k1 = world_key(1), k2 = world_key(2);
    uint32_t slot1 = (uint32_t)(ours_local(w->node[0].mesh, &k1) - w->node[0].mesh->slot);
    uint32_t slot2 = (uint32_t)(ours_local(w->node[0].mesh, &k2) - w->node[0].mesh->slot);
    /* One is missing, one has another age, and there are ghosts: under a slot of its own and one far beyond. */
    place_down(m, copy, slot1);
    assert_int_equal(place_up(m, copy, slot2, &k2, 0, 77), 0);
    assert_int_equal(place_up(m, copy, KEYS + 50000, &ghost, MESHMSG_HOME, 1), 0);
    world_touch(w, 1);
    assert_int_equal(world_of_index(&w->node[1], w->node[1].route[3]), 0);
    uint64_t before = counters(w, 0).entries_sent, syncs = counters(w, 0).sync_sent;
    world_run(w, w->now + DIGEST_MS + 2000);
    sums_agree(w);
    assert_int_equal(world_of_index(&w->node[1], w->node[1].route[1]), 0);
    assert_int_equal(w->node[1].route[3], NODE_NONE);
    assert_int_equal(counters(w, 1).digests_bad, 1);
    assert_int_equal(counters(w, 0).sync_buckets_sent, 1);
    assert_int_equal(counters(w, 0).sync_sent, syncs + 1);
    assert_non_null(strstr(w->node[1].last_warning, "do not add up"));
    uint64_t sent = counters(w, 0).entries_sent - before;
    printf("three wrong of %d: %" PRIu64 " entries sent\n", KEYS, sent);
    assert_true(sent <= 3 * (KEYS / MESHMSG_BUCKETS_N + 2));
    world_run(w, w->now + DIGEST_MS);
    assert_int_equal(counters(w, 1).digests_bad, 1);
    cluster_free(&p);
}

/* If the buckets do not help, everything is asked for. */
static bool drop_sync_data(struct world *w, int from, uint8_t *payload, size_t *len, void *ctx)
{
    (void)w;
    (void)ctx;
    return !(from == 0 && *len > 2 && payload[1] == MESHMSG_SYNC_DATA);
}

static void test_second_bad_digest_asks_for_all(void **state)
{
    (void)state;
    struct pair p = cluster_up(206, 2);
    struct world *w = p.w;
    for (int k = 0; k < 10; k++)
        world_client_up(w, 0, k, true);
    world_run(w, w->now + 2000);
    place_down(w->node[1].mesh, peer_at(w, 1, 0), 4);
    world_touch(w, 1);
    w->tamper = drop_sync_data;
    world_run(w, w->now + DIGEST_MS + 2000);
    assert_int_equal(counters(w, 1).digests_bad, 1);
    w->tamper = NULL;
    world_run(w, w->now + DIGEST_MS + 2000);
    assert_int_equal(counters(w, 1).digests_bad, 2);
    sums_agree(w);
    world_run(w, w->now + 3 * DIGEST_MS);
    assert_int_equal(counters(w, 1).digests_bad, 2);
    cluster_free(&p);
}

/* A digest costs the same however large the set is: measured, and compared. */
static double digest_cost_us(int keys)
{
    struct pair p = cluster_up(207, 2);
    struct world *w = p.w;
    struct timespec a, b;
    enum { ROUNDS = 2000 };
    many_up(w, 0, 0, keys);
    world_run(w, w->now + 30000);
    sums_agree(w);
    struct mesh *m = w->node[0].mesh;
    struct link *l = peer_at(w, 0, 1)->link;
    w->cut[0][1] = true;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    for (int i = 0; i < ROUNDS; i++) {
        struct scope *sc = &m->scope[l->scope];
        struct meshmsg_digest d = {
            .at.boot = m->boot, .at.seq = sc->seq, .count = sc->count, .root = sc->root};
        struct meshmsg_in in;
        uint32_t type;
        meshmsg_digest(&m->out, &d);
        meshmsg_open(&in, &type, m->out.b + FRAME_HEADER_LEN, m->out.n - FRAME_HEADER_LEN);
        assert_int_equal(meshmsg_read_digest(&in, &d), 0);
        assert_true(peer_at(w, 1, 0)->root == d.root);
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    cluster_free(&p);
    return ((double)(b.tv_sec - a.tv_sec) * 1e6 + (double)(b.tv_nsec - a.tv_nsec) / 1e3) / ROUNDS;
}

static void test_digest_costs_no_walk(void **state)
{
    (void)state;
    double small = digest_cost_us(100), large = digest_cost_us(50000);
    printf("a digest, told and compared: %.2f us with 100 keys, %.2f us with 50000\n", small, large);
    assert_true(large < 20 * small); /* a walk would cost five hundred times as much */
}

/* A frame came to node at from a client of node from, for a key that is not there. */
static void frame_for_nobody(struct world *w, int at, int from, int k)
{
    struct node_id id;
    struct derp_key key = world_key(k);
    node_id_of(&id, w->node[from].name);
    mesh_not_here(w->node[at].mesh, &key, &id, w->now);
}

static void test_not_here(void **state)
{
    (void)state;
    struct pair p = cluster_up(208, 2);
    struct world *w = p.w;
    struct node_id id;
    struct derp_key k1 = world_key(1), k2 = world_key(2);
    /* What was gleaned is forgotten. */
    node_id_of(&id, w->node[0].name);
    mesh_glean(w->node[1].mesh, &k1, &id, w->now);
    assert_int_equal(world_of_index(&w->node[1], w->node[1].route[1]), 0);
    frame_for_nobody(w, 0, 1, 1);
    world_run(w, w->now + 13);
    assert_int_equal(w->node[1].route[1], NODE_NONE);
    world_run(w, w->now + MESH_GLEAN_MS + 2000);
    /* A ghost, where nothing is missing: healed at once, not by the next digest. */
    world_client_up(w, 0, 3, true);
    world_run(w, w->now + 5000);
    assert_int_equal(place_up(w->node[1].mesh, peer_at(w, 1, 0), 9, &k2, MESHMSG_HOME, 1), 0);
    world_touch(w, 1);
    frame_for_nobody(w, 0, 1, 2);
    world_run(w, w->now + 60);
    assert_int_equal(w->node[1].route[2], NODE_NONE);
    assert_int_equal(counters(w, 1).not_here_disagreed, 1);
    assert_int_equal(counters(w, 0).sync_buckets_sent, 1);
    sums_agree(w);
    /* The down is on its way: no contradiction; and what is here is not said to be away. */
    world_client_down(w, 0, 3);
    frame_for_nobody(w, 0, 1, 3);
    world_run(w, w->now + 2000);
    world_client_up(w, 0, 4, true);
    frame_for_nobody(w, 0, 1, 4);
    world_run(w, w->now + 100);
    assert_int_equal(counters(w, 1).not_here_received, 3);
    assert_int_equal(counters(w, 1).not_here_disagreed, 1);
    /* Not more than so many a second, and only to a node that is connected. */
    uint64_t before = counters(w, 0).not_here_sent;
    for (int i = 0; i < 1000; i++)
        frame_for_nobody(w, 0, 1, 5);
    assert_int_equal(counters(w, 0).not_here_sent, before + NOT_HERE_MAX);
    node_id_of(&id, "stranger");
    mesh_not_here(w->node[0].mesh, &k1, &id, w->now);
    world_run(w, w->now + 70000);
    check_all(w);
    cluster_free(&p);
}

/* A key that comes and goes five times a second: told of ever more seldom, and in the end as it is; others are not held up. */
static void test_flapping_is_held_back(void **state)
{
    (void)state;
    struct pair p = cluster_up(209, 2);
    struct world *w = p.w;
    uint64_t start = w->now, first = counters(w, 0).entries_sent, early = 0;
    world_client_up(w, 0, 1, true);
    world_run(w, w->now + MESH_ANN_MS + 13);
    assert_int_equal(world_of_index(&w->node[1], w->node[1].route[1]), 0); /* the first one is fast */
    while (w->now < start + 60000) {
        if (w->node[0].up[1])
            world_client_down(w, 0, 1);
        else
            world_client_up(w, 0, 1, true);
        world_run(w, w->now + 100);
        if (w->now >= start + 10000 && !early)
            early = counters(w, 0).entries_sent - first;
    }
    uint64_t all = counters(w, 0).entries_sent - first;
    printf("600 changes in a minute: %" PRIu64 " told in the first 10 s, %" PRIu64 " later\n", early,
           all - early);
    assert_in_range(early, 5, 16);
    assert_true(all - early <= 50000 / HOLD_MAX_MS + 1);
    assert_true(counters(w, 0).held_back > 5);
    sums_agree(w); /* what is held back is told to nobody, nor by a digest */
    /* Another one is told at once meanwhile. */
    world_client_up(w, 0, 2, true);
    world_run(w, w->now + MESH_ANN_MS + 13);
    assert_int_equal(world_of_index(&w->node[1], w->node[1].route[2]), 0);
    /* It rests: known as it is after five seconds at the latest, both ways. */
    for (int up = 0; up < 2; up++) {
        if (w->node[0].up[1] != up && up)
            world_client_up(w, 0, 1, true);
        else if (w->node[0].up[1] != up)
            world_client_down(w, 0, 1);
        world_run(w, w->now + HOLD_MAX_MS + MESH_PING_MS + 50);
        check_all(w);
        sums_agree(w);
    }
    /* Cold again: fast again. */
    world_run(w, w->now + HOLD_COOL_MS * (HOLD_FREE + HOLD_STEPS + 1));
    world_client_down(w, 0, 1);
    world_run(w, w->now + MESH_PING_MS + 13);
    assert_int_equal(w->node[1].route[1], NODE_NONE);
    world_client_up(w, 0, 1, true);
    world_run(w, w->now + MESH_ANN_MS + 13);
    assert_int_equal(world_of_index(&w->node[1], w->node[1].route[1]), 0);
    assert_int_equal(counters(w, 1).digests_bad, 0);
    cluster_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_partition_resends_what_changed),
        cmocka_unit_test(test_changes_cover_reused_slots),
        cmocka_unit_test(test_changes_go_on_where_they_were_cut),
        cmocka_unit_test(test_digests_add_up),
        cmocka_unit_test(test_wrong_copy_heals_by_bucket),
        cmocka_unit_test(test_second_bad_digest_asks_for_all),
        cmocka_unit_test(test_digest_costs_no_walk),
        cmocka_unit_test(test_not_here),
        cmocka_unit_test(test_flapping_is_held_back),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
