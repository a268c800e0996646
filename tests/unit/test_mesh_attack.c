/* A proven peer that lies, floods and sends rubbish: closed or ignored, counted, and the others unharmed.
 *
 * Three honest nodes and an evil one whose key is good; its frames are put into its own link by hand.  Who gets that
 * far at all is shown in test_mesh_auth.c. */
#include "mesh_model.h"

#include "mesh/state.h"
#include "proto/meshmsg_paths.h"
#include "proto/meshmsg_sets.h"

enum { NODES = 4, HONEST = 3, EVIL = 3, VICTIM = 0, OWN = 10, SLOW_MS = 12000 };

/* Three nodes with ten clients each, known everywhere, and the evil one with as many. */
static struct pair attack_up(uint64_t seed)
{
    struct pair p = cluster(seed, NODES);
    for (int i = 0; i < NODES; i++)
        for (int k = 0; k < OWN; k++)
            world_client_up(p.w, i, i * OWN + k, true);
    world_run(p.w, p.w->now + SLOW_MS);
    check_all(p.w);
    return p;
}

static struct mesh_counters counters(struct world *w, int i)
{
    struct mesh_counters c;
    mesh_counters(w->node[i].mesh, &c);
    return c;
}

/* The victim's end of the evil one's control link, 0: there is none. */
static uint64_t evil_link(struct world *w)
{
    struct mesh_peer_info info;
    assert_true(mesh_peer(w->node[VICTIM].mesh, world_index_of(&w->node[VICTIM], EVIL), &info));
    return info.state == MESH_PEER_UP ? info.link : 0;
}

/* Waits until the evil one is back, and long enough for its backoff to begin anew. */
static void evil_back(struct world *w)
{
    for (int i = 0; i < 100 && !evil_link(w); i++)
        world_run(w, w->now + 1000);
    assert_int_not_equal(evil_link(w), 0);
    world_run(w, w->now + SLOW_MS);
}

static void input(struct world *w, uint64_t link, const uint8_t *b, size_t n)
{
    uint8_t *exact = malloc(n ? n : 1); /* so that a read past the end is seen */
    memcpy(exact, b, n);
    mesh_link_input(w->node[VICTIM].mesh, link, exact, n, w->now);
    free(exact);
    world_touch(w, VICTIM);
}

/* True if the link is still the one in use after it. */
static bool say(struct world *w, const struct meshmsg *m)
{
    uint64_t link = evil_link(w);
    assert_int_not_equal(link, 0);
    input(w, link, m->b + FRAME_HEADER_LEN, m->n - FRAME_HEADER_LEN);
    return evil_link(w) == link;
}

/* What the honest nodes have of each other: links, and routes to each other's clients. */
static void check_honest(struct world *w)
{
    for (int i = 0; i < HONEST; i++) {
        struct mesh_counters c = counters(w, i);
        assert_true(i == VICTIM || c.bad_message == 0);
        assert_int_equal(w->node[i].alarms, 0);
        for (int j = 0; j < HONEST; j++) {
            if (j != i)
                check_links(w, i, j);
            for (int k = j * OWN; k < (j + 1) * OWN; k++)
                assert_int_equal(j == i ? i : world_of_index(&w->node[i], w->node[i].route[k]), j);
        }
    }
}

static void raw(struct meshmsg *m, const uint8_t *b, size_t n)
{
    memcpy(m->b + FRAME_HEADER_LEN, b, n);
    m->n = FRAME_HEADER_LEN + n;
}

/* ---- rubbish ---- */

enum { RUBBISH = 7 };

/* Messages of a type that are none. */
static void rubbish(struct meshmsg *m, uint8_t type, int what)
{
    uint8_t deep[80];
    memset(deep, 0x91, sizeof deep);
    deep[0] = 0x92;
    deep[1] = type;
    switch (what) {
    case 0: /* nothing but the number */
        raw(m, (const uint8_t[]){0x91, type}, 2);
        break;
    case 1: /* nil instead of each element */
        raw(m, (const uint8_t[]){0x97, type, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0}, 8);
        break;
    case 2: /* a list of four thousand million */
        raw(m, (const uint8_t[]){0x94, type, 1, 1, 0xdd, 0xff, 0xff, 0xff, 0xff, 1}, 10);
        break;
    case 3: /* a string of as many bytes */
        raw(m, (const uint8_t[]){0x93, type, 1, 0xdb, 0xff, 0xff, 0xff, 0xff, 1}, 9);
        break;
    case 4: /* negative numbers */
        raw(m, (const uint8_t[]){0x95, type, 0xff, 0xff, 0xff, 0xff}, 6);
        break;
    case 5: /* lists in lists */
        raw(m, deep, sizeof deep);
        break;
    default: /* more elements than there are */
        raw(m, (const uint8_t[]){0x9f, type, 1, 2, 3}, 5);
    }
}

/* Each type, each kind of rubbish, on the link in use: nothing of it is taken in. */
static void test_rubbish_when_proven(void **state)
{
    (void)state;
    static struct meshmsg m;
    struct pair p = attack_up(51);
    struct world *w = p.w;
    int closed = 0;
    for (uint8_t type = 1; type < MESHMSG_CLOSES; type++)
        for (int what = 0; what < RUBBISH; what++) {
            struct mesh_counters before = counters(w, VICTIM);
            rubbish(&m, type, what);
            bool stays = say(w, &m);
            struct mesh_counters after = counters(w, VICTIM);
            assert_int_equal(before.n_remote_keys, after.n_remote_keys);
            assert_int_equal(before.bytes, after.bytes);
            /* Counted, in one way or the other; BYE needs no more than a number. */
            assert_true(type == MESHMSG_BYE || after.bad_message + after.unknown_message >
                                                   before.bad_message + before.unknown_message);
            check_honest(w);
            if (stays)
                continue;
            closed++;
            evil_back(w);
        }
    assert_true(closed >= 15 * RUBBISH); /* the types that there are, but BYE */
    check_honest(w);
    cluster_free(&p);
}

/* The same as the first thing on a new connection: the end of it, without an answer. */
static void test_rubbish_at_first(void **state)
{
    (void)state;
    static struct meshmsg m;
    struct pair p = attack_up(52);
    struct world *w = p.w;
    for (uint8_t type = 1; type < MESHMSG_CLOSES + 2; type++)
        for (int what = 0; what < RUBBISH; what++) {
            struct world_conn *c = &w->conn[w->n_conns++];
            struct mesh_link_info info = {.has_exporter = true, .from = "192.0.2.66:6"};
            struct mesh_counters before = counters(w, VICTIM);
            *c = (struct world_conn){
                .used = true, .node = {EVIL, VICTIM}, .latency = 10, .open = {true, true}};
            uint64_t link = world_link_id(w, c, 1), frames = w->frames;
            mesh_link_open(w->node[VICTIM].mesh, link, &info, w->now);
            rubbish(&m, type, what);
            input(w, link, m.b + FRAME_HEADER_LEN, m.n - FRAME_HEADER_LEN);
            struct mesh_counters after = counters(w, VICTIM);
            assert_false(c->open[1]);
            assert_int_equal(w->frames, frames);
            assert_true(after.refused_hello + after.refused_version + after.refused_lane >
                        before.refused_hello + before.refused_version + before.refused_lane);
            c->open[0] = false;
        }
    check_honest(w);
    cluster_free(&p);
}

/* ---- good messages, changed at random ---- */

enum { SAMPLES = 64 };
struct samples {
    uint8_t b[SAMPLES][MESHMSG_MAX];
    size_t len[SAMPLES];
    int n, of_type[MESHMSG_CLOSES];
};

static bool sample(struct world *w, int from, uint8_t *payload, size_t *len, void *ctx)
{
    struct samples *s = ctx;
    uint8_t type = *len > 1 ? payload[1] : 0;
    (void)w;
    if (from != EVIL || type < MESHMSG_PING || type >= MESHMSG_CLOSES || s->n == SAMPLES ||
        s->of_type[type] >= 5)
        return true;
    s->of_type[type]++;
    memcpy(s->b[s->n], payload, *len);
    s->len[s->n++] = *len;
    return true;
}

static void mutate(struct world *w, uint8_t *b, size_t *len)
{
    for (uint64_t n = 1 + world_below(w, 4); n > 0 && *len > 0; n--)
        switch (world_below(w, 4)) {
        case 0:
            *len -= world_below(w, *len);
            break;
        case 1:
            b[world_below(w, *len)] ^= (uint8_t)(1u << world_below(w, 8));
            break;
        case 2:
            b[world_below(w, *len)] = (uint8_t)world_random(w);
            break;
        default:
            memset(b + world_below(w, *len), 0xff, 1);
        }
}

/* Whatever the evil one says of itself then: the others' links and clients stay, and memory is bounded. */
static void test_mutations(void **state)
{
    (void)state;
    static struct samples s;
    static uint8_t b[MESHMSG_MAX];
    struct pair p = attack_up(53);
    struct world *w = p.w;
    w->tamper = sample;
    w->tamper_ctx = &s;
    world_break(w, &w->conn[w->n_conns - 1], false);
    world_stop(w, EVIL, false, false);
    world_start(w, EVIL, p.map);
    for (int k = 0; k < OWN; k++)
        world_client_up(w, EVIL, EVIL * OWN + k, true);
    world_run(w, w->now + 40000);
    w->tamper = NULL;
    assert_true(s.n >= 15);
    for (int round = 0; round < 3000; round++) {
        int at = (int)world_below(w, (uint64_t)s.n);
        size_t len = s.len[at];
        memcpy(b, s.b[at], len);
        mutate(w, b, &len);
        input(w, evil_link(w), b, len);
        if (round % 10 == 0)
            world_run(w, w->now + 20);
        if (!evil_link(w))
            evil_back(w);
        assert_true(counters(w, VICTIM).bytes < 64 << 20);
    }
    /* Lies about its own keys are the evil one's right; about those of others it can say that it has them, too. */
    for (int i = 0; i < HONEST; i++)
        for (int j = 0; j < HONEST; j++)
            if (j != i)
                check_links(w, i, j);
    world_stop(w, EVIL, false, false);
    world_run(w, w->now + FORGET_MS + 5000);
    check_honest(w);
    assert_int_equal(counters(w, VICTIM).n_remote_keys, (HONEST - 1) * OWN);
    cluster_free(&p);
}

/* ---- lies about counts ---- */

/* What the evil one's own mesh would say of its set is lost: the test speaks for it. */
static bool mute(struct world *w, int from, uint8_t *payload, size_t *len, void *ctx)
{
    (void)w;
    (void)ctx;
    uint8_t type = *len > 1 ? payload[1] : 0;
    return from != EVIL || !((type >= MESHMSG_SYNC_BEGIN && type <= MESHMSG_ANN) || type == MESHMSG_DIGEST);
}

/* The victim has asked for the evil one's set. */
static struct meshmsg_moment make_ask(struct world *w)
{
    static struct meshmsg m;
    const struct peer *evil = w->node[VICTIM].mesh->peers[world_index_of(&w->node[VICTIM], EVIL)];
    meshmsg_ann(&m, 1000000, 1000001, NULL, 0); /* follows nothing */
    assert_true(say(w, &m));
    assert_true(evil->link->sync_asked);
    return (struct meshmsg_moment){.boot = evil->boot, .seq = 1, .scope = evil->set_scope};
}

static void test_counts(void **state)
{
    (void)state;
    static struct meshmsg m;
    struct pair p = attack_up(54);
    struct world *w = p.w;
    struct meshmsg_entry e = {.slot = PEER_KEYS_MAX, .up = true, .key = world_key(99), .flags = MESHMSG_HOME};
    uint64_t sum[MESHMSG_BUCKETS_N] = {0};
    for (int what = 0; what < 8; what++) {
        uint64_t bad = counters(w, VICTIM).bad_message;
        struct meshmsg_sync_begin b = {.mode = MESHMSG_SYNC_FULL};
        bool asks = what < 3;
        if (asks)
            b.at = make_ask(w);
        switch (what) {
        case 0: /* more keys than it may have */
            b.count = PEER_KEYS_MAX + 1;
            break;
        case 1:
            b.count = UINT64_MAX;
            break;
        case 2: /* an answer of a kind that there is not */
            b.mode = 9;
            break;
        case 3: /* a slot that is too high */
            meshmsg_ann(&m, w->node[VICTIM].mesh->peers[world_index_of(&w->node[VICTIM], EVIL)]->in_seq, 50,
                        &e, 1);
            break;
        case 4: /* a list that says to be longer than it is */
        case 5: {
            struct meshmsg_neighbour n = {.rtt_ms = 1};
            meshmsg_links(&m, 0, &n, 1);
            m.b[FRAME_HEADER_LEN + 3] = what == 4 ? 0x9f : 0x92;
            break;
        }
        case 6: /* a kilobyte of sums too few */
            meshmsg_buckets(&m, &(struct meshmsg_moment){.boot = 1}, sum);
            m.n -= 1024;
            break;
        default: /* data without a beginning */
            meshmsg_sync_data(&m, &e, 1);
        }
        if (asks)
            meshmsg_sync_begin(&m, &b);
        assert_false(say(w, &m));
        assert_int_equal(counters(w, VICTIM).bad_message, bad + 1);
        check_honest(w);
        evil_back(w);
    }
    /* A count that is merely wrong costs a question more. */
    struct meshmsg_sync_begin b = {.at = make_ask(w), .mode = MESHMSG_SYNC_FULL, .count = PEER_KEYS_MAX};
    meshmsg_sync_begin(&m, &b);
    uint64_t bytes = counters(w, VICTIM).bytes;
    assert_true(say(w, &m));
    assert_true(counters(w, VICTIM).bytes <=
                bytes + 4096); /* nothing is set aside for what is only promised */
    check_honest(w);
    cluster_free(&p);
}

/* ---- floods ---- */

/* Says the same many times within a second; frames and bytes that the victim sent because of it. */
static uint64_t flood(struct world *w, const struct meshmsg *m, int n, uint64_t *bytes)
{
    struct mesh_counters before = counters(w, VICTIM);
    uint64_t frames = w->frames;
    for (int i = 0; i < n; i++) {
        if (!evil_link(w))
            break;
        (void)say(w, m);
        if (i % (n / 100) == 0)
            world_run(w, w->now + 10);
    }
    *bytes = counters(w, VICTIM).control_bytes_sent - before.control_bytes_sent;
    return w->frames - frames;
}

static void test_floods(void **state)
{
    (void)state;
    enum { N = 5000, IDLE = 4000 /* bytes of a second in which nothing happens, with a digest */ };
    static struct meshmsg m;
    struct pair p = attack_up(55);
    struct world *w = p.w;
    struct node_id to, from;
    uint64_t bytes, sum[MESHMSG_BUCKETS_N] = {1};
    node_id_of(&to, w->node[1].name);
    node_id_of(&from, w->node[EVIL].name);
    const struct peer *evil = w->node[VICTIM].mesh->peers[world_index_of(&w->node[VICTIM], EVIL)];
    struct meshmsg_moment held = {.boot = w->node[VICTIM].mesh->boot, .seq = 1};
    struct meshmsg_digest wrong = {.at = {.boot = evil->boot, .seq = evil->in_seq, .scope = evil->set_scope}};
    struct meshmsg_tunnel t = {.to = to, .from = from, .number = 1, .body = (const uint8_t *)"x", .len = 1};
    for (int what = 0; what < 6; what++) {
        struct mesh_counters before = counters(w, VICTIM), after;
        size_t syncs = 0;
        switch (what) {
        case 0:
            meshmsg_sync_req(&m, &held);
            syncs = 2;
            break;
        case 1:
            meshmsg_buckets(&m, &held, sum);
            syncs = 2;
            break;
        case 2:
            meshmsg_digest(&m, &wrong);
            break;
        case 3:
            meshmsg_unreach(&m, &to);
            break;
        case 4:
            meshmsg_tunnel(&m, &t);
            break;
        default: /* a number of later versions */
            raw(&m, (const uint8_t[]){0x92, 30, 1}, 3);
        }
        uint64_t frames = flood(w, &m, N, &bytes);
        after = counters(w, VICTIM);
        printf("flood %d: %" PRIu64 " frames, %" PRIu64 " bytes\n", what, frames, bytes);
        assert_true(after.sync_sent - before.sync_sent <= syncs);
        assert_true(bytes <= IDLE + 3 * 8192 + (what == 4 ? N * (m.n + 64) : 0));
        assert_true(after.bytes <= before.bytes + 4096);
        world_run(w, w->now + SLOW_MS);
        check_honest(w);
        if (!evil_link(w))
            evil_back(w);
    }
    cluster_free(&p);
}

/* It is everybody's nearest neighbour, and not, a thousand times a second. */
static void test_links_flood(void **state)
{
    (void)state;
    static struct meshmsg m[2];
    static struct meshmsg_neighbour e[MESHMSG_NEIGHBOURS_MAX];
    struct pair p = attack_up(56);
    struct world *w = p.w;
    for (int i = 0; i < MESHMSG_NEIGHBOURS_MAX; i++) {
        if (i < HONEST)
            node_id_of(&e[i].node, w->node[i].name);
        else
            memset(e[i].node.b, i, sizeof e[i].node.b);
        e[i].state = MESHMSG_NEIGHBOUR_UP;
    }
    meshmsg_links(&m[0], 0, e, MESHMSG_NEIGHBOURS_MAX);
    meshmsg_links(&m[1], MESHMSG_NO_TRANSIT, NULL, 0);
    struct mesh_counters before = counters(w, VICTIM);
    for (int i = 0; i < 10000; i++) {
        assert_true(say(w, &m[i % 2]));
        if (i % 10 == 0)
            world_run(w, w->now + 10);
        for (int j = 1; j < HONEST; j++) { /* the sound links are not left for one that says to be better */
            struct mesh_peer_info info;
            assert_true(mesh_peer(w->node[VICTIM].mesh, world_index_of(&w->node[VICTIM], j), &info));
            assert_int_equal(world_of_index(&w->node[VICTIM], info.via), j);
        }
    }
    struct mesh_counters after = counters(w, VICTIM);
    assert_int_equal(after.path_changes, before.path_changes);
    assert_int_equal(after.bytes, before.bytes);
    assert_true(after.control_bytes_sent - before.control_bytes_sent < 10 * 4000);
    check_honest(w);
    cluster_free(&p);
}

/* Announcements without end: as many keys as it may have cost what it may cost, and the others' stay where they are. */
static void test_announcement_flood(void **state)
{
    (void)state;
    enum { KEYS = 100000 };
    static struct meshmsg m;
    struct pair p = attack_up(57);
    struct world *w = p.w;
    struct meshmsg_entry e[MESHMSG_ENTRIES_MAX];
    w->tamper = mute;
    struct meshmsg_moment at = make_ask(w);
    struct meshmsg_sync_begin b = {.at = at, .mode = MESHMSG_SYNC_FULL};
    meshmsg_sync_begin(&m, &b);
    assert_true(say(w, &m));
    meshmsg_sync_end(&m, at.boot, at.seq);
    assert_true(say(w, &m));
    uint64_t seq = at.seq, first = 0, sent = counters(w, VICTIM).control_bytes_sent;
    for (int round = 0; round < 3; round++) {
        for (uint32_t k = 0; k < KEYS; k += MESHMSG_ENTRIES_MAX) {
            for (uint32_t i = 0; i < MESHMSG_ENTRIES_MAX; i++)
                e[i] = (struct meshmsg_entry){.slot = k + i,
                                              .up = true,
                                              .key = world_key((int)(1000 + (k + i) * 3 + (uint32_t)round)),
                                              .flags = MESHMSG_HOME,
                                              .age = (uint32_t)round};
            meshmsg_ann(&m, seq, seq + 1, e, MESHMSG_ENTRIES_MAX);
            seq++;
            assert_true(say(w, &m));
        }
        world_run(w, w->now + 4000); /* what it has taken back is forgotten */
        struct mesh_counters c = counters(w, VICTIM);
        assert_in_range(c.n_remote_keys, KEYS, KEYS + 1000);
        first = round == 1 ? c.bytes : first;
        assert_true(c.bytes <=
                    2 * 61 * KEYS + (size_t)KEYS * 100); /* the keys, and the list of those that left */
        assert_true(round < 2 || c.bytes <= first + first / 50);
        check_honest(w);
    }
    assert_true(counters(w, VICTIM).control_bytes_sent - sent < 60000);
    cluster_free(&p);
}

/* ---- others' keys ---- */

/* It says that it has everybody's clients, at home and as new as can be.  Who has a client himself does not care; the
 * others are led astray, as by any node that a client might be connected to, until the liar goes. */
static void test_claims(void **state)
{
    (void)state;
    static struct meshmsg m;
    struct pair p = attack_up(58);
    struct world *w = p.w;
    struct meshmsg_entry e[HONEST * OWN];
    const struct peer *evil = w->node[VICTIM].mesh->peers[world_index_of(&w->node[VICTIM], EVIL)];
    for (uint32_t k = 0; k < HONEST * OWN; k++)
        e[k] = (struct meshmsg_entry){
            .slot = 5000 + k, .up = true, .key = world_key((int)k), .flags = MESHMSG_HOME, .age = UINT32_MAX};
    meshmsg_ann(&m, evil->in_seq, evil->in_seq + 1, e, HONEST * OWN);
    assert_true(say(w, &m));
    struct mesh_location at[4];
    for (int k = 0; k < OWN; k++) { /* the victim's own clients are reached here */
        struct derp_key key = world_key(k);
        assert_int_equal(mesh_where(w->node[VICTIM].mesh, &key, at, 4), 2);
        assert_int_equal(at[0].node, NODE_NONE);
    }
    for (int k = OWN; k < HONEST * OWN; k++) /* both are known: what is true is not lost */
        assert_int_equal(mesh_where(w->node[VICTIM].mesh, &(struct derp_key){.b = {0}}, at, 4), 0);
    /* It leaves again: a down for a slot that holds another key does nothing, and nobody else's key goes. */
    uint64_t gone = counters(w, VICTIM).gone;
    world_stop(w, EVIL, false, false);
    world_run(w, w->now + FORGET_MS + 5000);
    check_honest(w);
    assert_int_equal(counters(w, VICTIM).gone, gone + OWN);
    cluster_free(&p);
}

/* Packets that name other nodes and keys as their source: learned in bounds, and never against what was announced. */
static void test_forged_sources(void **state)
{
    (void)state;
    struct pair p = attack_up(59);
    struct world *w = p.w;
    struct node_id honest, nobody = {.b = {1, 2, 3}};
    struct mesh *m = w->node[VICTIM].mesh;
    node_id_of(&honest, w->node[1].name);
    for (int k = 0; k < 200000; k++) {
        struct derp_key key =
            world_key(k % 2 ? k + 1000 : 2 * OWN + k % OWN); /* … node-2's clients among them */
        mesh_glean(m, &key, k % 3 ? &honest : &nobody, w->now);
    }
    world_touch(w, VICTIM);
    struct mesh_counters c = counters(w, VICTIM);
    assert_true(c.n_remote_keys <= GLEANED_MAX + NODES * OWN);
    assert_true(c.bytes <= GLEANED_MAX * 300);
    check_honest(w);
    world_run(w, w->now + 2 * MESH_GLEAN_MS);
    assert_int_equal(counters(w, VICTIM).n_remote_keys, (NODES - 1) * OWN);
    check_all(w);
    cluster_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rubbish_when_proven),
        cmocka_unit_test(test_rubbish_at_first),
        cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_floods),
        cmocka_unit_test(test_links_flood),
        cmocka_unit_test(test_announcement_flood),
        cmocka_unit_test(test_claims),
        cmocka_unit_test(test_forged_sources),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
