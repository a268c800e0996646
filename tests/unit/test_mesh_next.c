/* A mesh of two versions: nodes 2 and 3 write everything as a later version may (mesh_next.h), 0 and 1 are of today. */
#include "mesh_model.h"

#include "mesh/link.h"
#include "mesh/state.h"
#include "mesh_next.h"
#include "proto/meshmsg_parts.h"

enum { NODES = 4, FIRST_NEXT = 2 };

static bool is_next(int i)
{
    return i >= FIRST_NEXT;
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

static struct pair mixed(uint64_t seed, unsigned lanes)
{
    struct pair p = {.w = world_new(seed, NODES)};
    p.w->verbose = getenv("MESH_SIM_VERBOSE") != NULL;
    p.w->latency_min = p.w->latency_max = 10;
    p.w->lanes = lanes;
    p.map = world_map(p.w, all_bits(NODES), 0, 1);
    for (int i = 0; i < NODES; i++) {
        p.w->node[i].rewrite = is_next(i) ? next_rewrite : NULL;
        world_start(p.w, i, p.map);
    }
    world_run(p.w, p.w->now + 12000);
    check_all(p.w);
    return p;
}

static void nothing_refused(struct world *w)
{
    for (int i = 0; i < NODES; i++) {
        struct mesh_counters c = counters(w, i);
        assert_int_equal(c.bad_message + c.tunnel_bad + c.digests_bad, 0);
        assert_int_equal(c.refused_hello + c.refused_version + c.refused_auth + c.refused_key, 0);
        assert_int_equal(c.refused_lane + c.refused_lane_auth + c.refused_lane_peer, 0);
    }
}

static bool knows(struct world *w, int at, int k, int where)
{
    return world_of_index(&w->node[at], w->node[at].route[k]) == where;
}

/* ---- what a version 2 node says is really said ---- */

static struct {
    unsigned hello, entries, reauth, links, others;
} later_seen;

static bool watch(struct world *w, int from, uint8_t *payload, size_t *len, void *ctx)
{
    struct meshmsg_in in;
    struct meshmsg_hello h;
    uint32_t type;
    (void)w;
    (void)ctx;
    assert_int_equal(meshmsg_open(&in, &type, payload, *len), 0);
    bool later =
        *len > sizeof NEXT_END && memcmp(payload + *len - sizeof NEXT_END, NEXT_END, sizeof NEXT_END) == 0;
    assert_int_equal(later, is_next(from));
    if (!later)
        return true;
    if (type == MESHMSG_HELLO) {
        assert_int_equal(meshmsg_read_hello(&in, &h), 0);
        assert_int_equal(h.version_max, 2);
        later_seen.hello++;
    } else if (type == MESHMSG_ANN || type == MESHMSG_SYNC_DATA) {
        later_seen.entries++;
    } else if (type == MESHMSG_REAUTH) {
        later_seen.reauth++;
    } else if (type == MESHMSG_LINKS) {
        later_seen.links++;
    } else {
        later_seen.others++;
    }
    return true;
}

static void test_links_lanes_announcements(void **state)
{
    (void)state;
    struct pair p = mixed(1, 2);
    struct world *w = p.w;
    memset(&later_seen, 0, sizeof later_seen);
    w->tamper = watch;
    for (int i = 0; i < NODES; i++)
        for (int j = 0; j < NODES; j++)
            if (i != j)
                assert_true(peer_of(w, i, j).features == (is_next(j) ? NEXT_FEATURES : 0));
    for (int k = 0; k < 40; k++)
        world_client_up(w, k % NODES, k, k & 4);
    world_run(w, w->now + 1000);
    check_all(w);
    for (int k = 0; k < 40; k += 3)
        world_client_down(w, k % NODES, k);
    for (int k = 1; k < 40; k += 6)
        world_client_up(w, (k + 1) % NODES, k, true);
    world_run(w, w->now + 2000);
    check_all(w);
    world_run(w, w->now + 90000); /* digests and proofs */
    check_all(w);
    for (int i = 0; i < NODES; i++)
        assert_true(counters(w, i).digests_good >= 2 * (NODES - 1));
    /* Each restarts; what was announced is told anew. */
    for (int i = 0; i < NODES; i++) {
        world_stop(w, i, true, false);
        world_run(w, w->now + 500);
        world_start(w, i, p.map);
        world_run(w, w->now + 12000);
        check_all(w);
    }
    assert_true(later_seen.hello && later_seen.entries && later_seen.reauth && later_seen.links &&
                later_seen.others);
    nothing_refused(w);
    cluster_free(&p);
}

/* A link that breaks is made anew, and only what has changed since is told; so is what is missing in the middle. */
static void test_resync(void **state)
{
    (void)state;
    struct pair p = mixed(2, 0);
    struct world *w = p.w;
    static const int ends[][2] = {{0, 2}, {2, 0}, {2, 3}, {3, 1}};
    for (int k = 0; k < 40; k++)
        world_client_up(w, k % NODES, k, true);
    world_run(w, w->now + 3000);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        int side, owner = ends[i][0], other = ends[i][1];
        uint64_t before = counters(w, owner).sync_changes_sent, asked = counters(w, other).resyncs_asked;
        world_break(w, world_between(w, owner, other, &side), false);
        world_client_up(w, owner, 50 + (int)i, true);
        world_client_down(w, owner, owner + 4 * (int)i);
        world_run(w, w->now + 6000);
        check_all(w);
        assert_true(counters(w, owner).sync_changes_sent > before);
        /* An announcement that is not there: the gap is seen, and filled. */
        struct peer *at = w->node[other].mesh->peers[world_index_of(&w->node[other], owner)];
        at->in_seq--;
        world_client_up(w, owner, 60 + (int)i, false);
        world_run(w, w->now + 4000);
        assert_int_equal(counters(w, other).resyncs_asked, asked + 1);
        check_all(w);
    }
    nothing_refused(w);
    cluster_free(&p);
}

/* Each pair is cut once: control goes in a tunnel and data a detour over any of the others, and both come back. */
static void test_tunnels_and_detours(void **state)
{
    (void)state;
    for (int a = 0; a < NODES; a++)
        for (int b = a + 1; b < NODES; b++) {
            struct pair p = mixed((uint64_t)(10 + 4 * a + b), 0);
            struct world *w = p.w;
            int side;
            world_client_up(w, b, 1, true);
            world_run(w, w->now + 1000);
            w->cut[a][b] = w->cut[b][a] = true;
            world_break(w, world_between(w, a, b, &side), false);
            world_run(w, w->now + 6000);
            for (int turn = 0; turn < 2; turn++) {
                int at = turn ? b : a, other = turn ? a : b;
                struct mesh_peer_info info = peer_of(w, at, other);
                assert_int_equal(info.state, MESH_PEER_TUNNEL);
                assert_true(info.synced && info.routable);
                assert_true(info.via != NODE_NONE && world_of_index(&w->node[at], info.via) != other);
                assert_int_equal(w->node[at].path[other].via, info.via);
                assert_true(info.features == (is_next(other) ? NEXT_FEATURES : 0));
            }
            assert_true(knows(w, a, 1, b));
            world_client_up(w, b, 2, true);
            world_run(w, w->now + 200);
            assert_true(knows(w, a, 2, b));
            world_client_down(w, b, 1);
            world_run(w, w->now + 90000); /* digests and proofs in the tunnel */
            assert_int_equal(peer_of(w, a, b).state, MESH_PEER_TUNNEL);
            assert_true(knows(w, a, 1, WORLD_NODES));
            /* The other end is updated, or taken back to today's, and is heard of over a tunnel only. */
            w->node[b].rewrite = is_next(b) ? NULL : next_rewrite;
            world_stop(w, b, true, false);
            world_start(w, b, p.map);
            world_run(w, w->now + 12000);
            assert_int_equal(peer_of(w, a, b).state, MESH_PEER_TUNNEL);
            assert_true(peer_of(w, a, b).features == (is_next(b) ? 0 : NEXT_FEATURES));
            memset(w->cut, 0, sizeof w->cut);
            world_run(w, w->now + 90000);
            check_all(w);
            nothing_refused(w);
            cluster_free(&p);
        }
}

/* A message of a number that today's version does not know. */
static void say_unknown(struct world *w, int from, int to, uint32_t type)
{
    struct mesh *m = w->node[from].mesh;
    struct peer *p = m->peers[world_index_of(&w->node[from], to)];
    msgpack_packer pk;
    assert_non_null(p->link);
    m->now = w->now;
    meshmsg_begin(&m->out, &pk, (enum meshmsg_type)type, 1);
    meshmsg_pack_bin(&pk, "later", 5);
    meshmsg_finish(&m->out);
    link_send(m, p->link);
}

/* Numbers below 0x40 are counted and ignored on connections and in tunnels; from there on they end the link. */
static void test_unknown_messages(void **state)
{
    (void)state;
    struct pair p = mixed(3, 0);
    struct world *w = p.w;
    int side;
    w->cut[1][3] = w->cut[3][1] = true;
    world_break(w, world_between(w, 1, 3, &side), false);
    world_run(w, w->now + 6000);
    assert_int_equal(peer_of(w, 1, 3).state, MESH_PEER_TUNNEL);
    uint64_t links = 0, after = 0;
    for (int i = 0; i < NODES; i++)
        links += counters(w, i).links_closed;
    for (uint32_t round = 0; round < 40; round++) {
        for (int from = FIRST_NEXT; from < NODES; from++)
            for (int to = 0; to < NODES; to++)
                if (from != to)
                    say_unknown(w, from, to, 22 + (round * 7 + (uint32_t)to) % (MESHMSG_CLOSES - 22));
        world_client_up(w, (int)round % NODES, (int)round, true);
        world_run(w, w->now + 500);
        for (int i = 0; i < NODES; i++)
            assert_true(w->node[i].up[round] || knows(w, i, (int)round, (int)round % NODES));
    }
    for (int i = 0; i < NODES; i++) {
        assert_int_equal(counters(w, i).unknown_message, is_next(i) ? 40 : 80);
        after += counters(w, i).links_closed;
    }
    assert_int_equal(after, links);
    nothing_refused(w);
    say_unknown(w, 2, 0, MESHMSG_CLOSES);
    world_run(w, w->now + 50);
    assert_int_equal(counters(w, 0).bad_message, 1);
    cluster_free(&p);
}

/* The ring changes step by step in a mesh of both: no link goes. */
static void test_rotation(void **state)
{
    (void)state;
    struct pair p = mixed(4, 0);
    struct world *w = p.w;
    uint64_t links = 0, after = 0;
    for (int i = 0; i < NODES; i++)
        links += counters(w, i).links_closed;
    for (int step = 0; step < 3; step++)
        for (int i = 0; i < NODES; i++) {
            struct mesh_keys *ring = &w->node[i].psk;
            ring->n = step == 2 ? 1 : 2;
            memset(ring->key[0], step == 0 ? 0x5a : 0x6b, KEY_LEN);
            memset(ring->key[1], step == 0 ? 0x6b : 0x5a, KEY_LEN);
            mesh_set_keys(w->node[i].mesh, ring, w->now);
            world_touch(w, i);
            world_run(w, w->now + 3000);
        }
    world_run(w, w->now + 130000);
    check_all(w);
    for (int i = 0; i < NODES; i++)
        after += counters(w, i).links_closed;
    assert_int_equal(after, links);
    nothing_refused(w);
    cluster_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_links_lanes_announcements),
        cmocka_unit_test(test_resync),
        cmocka_unit_test(test_tunnels_and_detours),
        cmocka_unit_test(test_unknown_messages),
        cmocka_unit_test(test_rotation),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
