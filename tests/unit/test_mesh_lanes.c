/* Lanes: how they come, go and are made anew; and that nobody gets one who has not the control link's secret. */
#include "mesh_world.h"

#include "mesh/state.h"
#include "proto/meshmsg.h"

struct two {
    struct world *w;
    struct derpmap *map, *other;
    int dialer; /* of the control link */
};

static struct two two_new(uint64_t seed, unsigned lanes)
{
    struct two t = {.w = world_new(seed, 2)};
    t.w->verbose = getenv("MESH_SIM_VERBOSE") != NULL;
    t.w->latency_min = t.w->latency_max = 10;
    t.w->lanes = lanes;
    t.map = world_map(t.w, 3, 0, 1);
    return t;
}

static void two_start(struct two *t, uint64_t ms)
{
    struct mesh_peer_info a;
    for (int i = 0; i < 2; i++)
        world_start(t->w, i, t->map);
    world_run(t->w, t->w->now + ms);
    assert_true(mesh_peer(t->w->node[0].mesh, 1, &a));
    assert_int_equal(a.state, MESH_PEER_UP);
    t->dialer = a.dialed_by_us ? 0 : 1;
}

static void two_free(struct two *t)
{
    world_free(t->w);
    world_map_free(t->map);
    world_map_free(t->other);
}

static const struct mesh_path *path_of(const struct two *t, int i)
{
    return &t->w->node[i].path[!i];
}

static uint64_t control_of(const struct two *t, int i)
{
    struct mesh_peer_info a;
    assert_true(mesh_peer(t->w->node[i].mesh, 1, &a));
    return a.link;
}

static struct mesh_counters count_of(const struct two *t, int i)
{
    struct mesh_counters c;
    mesh_counters(t->w->node[i].mesh, &c);
    return c;
}

static bool in_path(const struct mesh_path *path, uint64_t link)
{
    for (uint8_t i = 0; i < path->n; i++)
        if (path->link[i] == link)
            return true;
    return false;
}

/* Both sides use n connections, the same ones, and none of them is the control link (or it is the only one). */
static void assert_lanes(const struct two *t, unsigned n)
{
    for (int i = 0; i < 2; i++) {
        const struct mesh_path *path = path_of(t, i);
        assert_int_equal(path->via, 1);
        assert_int_equal(path->n, n ? n : 1);
        assert_int_equal(in_path(path, control_of(t, i)), n == 0);
        for (uint8_t k = 0; k < path->n; k++)
            assert_true(in_path(path_of(t, !i), path->link[k] ^ 1));
    }
}

static struct world_conn *conn_of(const struct two *t, uint64_t link)
{
    int side;
    return world_conn_of(t->w, link, &side);
}

static void each_pair_has_as_many_lanes_as_its_dialer_wants(void **state)
{
    (void)state;
    for (unsigned n = 0; n <= MESH_LANES_MAX; n++) {
        struct two t = two_new(1 + n, n);
        two_start(&t, 2000);
        assert_lanes(&t, n);
        assert_int_equal(count_of(&t, 0).lanes_opened, n);
        assert_int_equal(count_of(&t, 1).lanes_opened, n);
        assert_int_equal(count_of(&t, 0).bad_message + count_of(&t, 1).bad_message, 0);
        world_run(t.w, t.w->now + 200000); /* nothing ends them */
        assert_lanes(&t, n);
        assert_int_equal(count_of(&t, 0).lanes_opened, n);
        assert_int_equal(count_of(&t, 0).links_closed, 0);
        two_free(&t);
    }
}

/* The acceptor sends no data before the dialer has its proof: its worker would not take it. */
static void data_waits_for_the_dialer(void **state)
{
    (void)state;
    struct two t = two_new(7, 2);
    for (int i = 0; i < 2; i++)
        world_start(t.w, i, t.map);
    for (int ms = 0; ms < 2000; ms++) {
        world_run(t.w, t.w->now + 1);
        for (int i = 0; i < 2; i++)
            for (uint8_t k = 0; k < path_of(&t, i)->n; k++) {
                int side;
                const struct world_conn *c = world_conn_of(t.w, path_of(&t, i)->link[k], &side);
                assert_true(c->ready[0] && c->ready[1]);
            }
    }
    assert_lanes(&t, 2);
    two_free(&t);
}

static void a_lane_that_ends_is_made_anew(void **state)
{
    (void)state;
    struct two t = two_new(8, 3);
    two_start(&t, 2000);
    uint64_t lost = path_of(&t, 0)->link[1], kept = path_of(&t, 0)->link[0];
    world_break(t.w, conn_of(&t, lost), false);
    world_run(t.w, t.w->now + 15);
    for (int i = 0; i < 2; i++)
        assert_int_equal(path_of(&t, i)->n, 2);
    assert_true(in_path(path_of(&t, 0), kept));
    world_run(t.w, t.w->now + 3000);
    assert_lanes(&t, 3);
    assert_true(in_path(path_of(&t, 0), kept));
    assert_false(in_path(path_of(&t, 0), lost));
    assert_int_equal(t.w->node[0].lost + t.w->node[1].lost, 0);
    two_free(&t);
}

/* Silent: out of the path, back when something comes; made anew if it stays silent while control is not. */
static void a_silent_lane_is_left_out(void **state)
{
    (void)state;
    struct two t = two_new(9, 2);
    two_start(&t, 2000);
    uint64_t silent = path_of(&t, 0)->link[0], other = path_of(&t, 0)->link[1];
    conn_of(&t, silent)->silent = true;
    world_run(t.w, t.w->now + 2200);
    for (int i = 0; i < 2; i++)
        assert_int_equal(path_of(&t, i)->n, 1);
    assert_true(in_path(path_of(&t, 0), other));
    mesh_link_alive(t.w->node[0].mesh, silent, t.w->now); /* what comes in proves nothing */
    assert_int_equal(path_of(&t, 0)->n, 1);
    mesh_link_acked(t.w->node[0].mesh, silent, 1000, t.w->now); /* bytes that its TCP took */
    assert_int_equal(path_of(&t, 0)->n, 2);
    world_run(t.w, t.w->now + 20000);
    assert_lanes(&t, 2);
    assert_false(in_path(path_of(&t, 0), silent));
    assert_true(in_path(path_of(&t, 0), other));

    /* All are silent: it is not theirs, they stay, and what is there is used. */
    for (int i = 0; i < t.w->n_conns; i++)
        t.w->conn[i].silent = true;
    world_run(t.w, t.w->now + 20000);
    assert_int_equal(path_of(&t, 0)->n, 2);
    assert_true(in_path(path_of(&t, 0), other));
    for (int i = 0; i < t.w->n_conns; i++)
        t.w->conn[i].silent = t.w->conn[i].used && !t.w->conn[i].open[0] && !t.w->conn[i].open[1];
    world_run(t.w, t.w->now + 3000);
    assert_lanes(&t, 2);
    assert_true(in_path(path_of(&t, 0), other));
    two_free(&t);
}

static void without_lanes_control_carries_data(void **state)
{
    (void)state;
    struct two t = two_new(10, 2);
    two_start(&t, 2000);
    t.w->cut[0][1] = t.w->cut[1][0] = true;
    for (int k = 0; k < 2; k++)
        world_break(t.w, conn_of(&t, path_of(&t, 0)->link[0]), false), world_run(t.w, t.w->now + 15);
    assert_lanes(&t, 0);
    world_run(t.w, t.w->now + 60000);
    memset(t.w->cut, 0, sizeof t.w->cut);
    world_run(t.w, t.w->now + MESH_BACKOFF_MAX_MS + 2000);
    assert_lanes(&t, 2);
    two_free(&t);
}

static void lanes_outlive_a_control_link(void **state)
{
    (void)state;
    struct two t = two_new(11, 2);
    two_start(&t, 20000);
    struct mesh_path before = *path_of(&t, 0);
    uint64_t control = control_of(&t, 0);
    world_break(t.w, conn_of(&t, control), false);
    world_run(t.w, t.w->now + 1000);
    assert_int_not_equal(control_of(&t, 0), control);
    assert_lanes(&t, 2);
    for (uint8_t k = 0; k < 2; k++)
        assert_true(in_path(path_of(&t, 0), before.link[k]));
    /* … but not for ever. */
    t.w->cut[0][1] = t.w->cut[1][0] = true;
    world_break(t.w, conn_of(&t, control_of(&t, 0)), false);
    world_run(t.w, t.w->now + 15000);
    assert_int_equal(path_of(&t, 0)->n, 0);
    for (uint8_t k = 0; k < 2; k++)
        assert_false(conn_of(&t, before.link[k])->open[0]);
    two_free(&t);
}

static void another_instance_has_its_own(void **state)
{
    (void)state;
    for (int orderly = 0; orderly < 2; orderly++) {
        struct two t = two_new(12, 2);
        two_start(&t, 2000);
        struct mesh_path before = *path_of(&t, 0);
        world_stop(t.w, 1, orderly, !orderly);
        if (orderly) {
            world_run(t.w, t.w->now + 100);
            assert_int_equal(path_of(&t, 0)->n, 0);
        }
        world_start(t.w, 1, t.map);
        world_run(t.w, t.w->now + 20000);
        assert_lanes(&t, 2);
        for (uint8_t k = 0; k < 2; k++) {
            assert_false(in_path(path_of(&t, 0), before.link[k]));
            assert_false(conn_of(&t, before.link[k])->open[0]);
        }
        two_free(&t);
    }
}

/* The acceptor is reached under another port: its dialer makes all anew, without a moment without a path. */
static void lanes_follow_the_map(void **state)
{
    (void)state;
    struct two t = two_new(13, 2);
    two_start(&t, 20000);
    struct mesh_path before = *path_of(&t, 0);
    t.other = world_map(t.w, 3, 1u << !t.dialer, 2);
    for (int i = 0; i < 2; i++) {
        mesh_set_map(t.w->node[i].mesh, t.other, world_map_node(t.other, t.w->node[i].name), t.w->now);
        world_touch(t.w, i);
    }
    world_run(t.w, t.w->now + 5000);
    assert_lanes(&t, 2);
    for (uint8_t k = 0; k < 2; k++) {
        assert_false(in_path(path_of(&t, 0), before.link[k]));
        assert_false(conn_of(&t, before.link[k])->open[0]);
    }
    assert_int_equal(t.w->node[0].lost + t.w->node[1].lost, 0);
    two_free(&t);
}

static void a_removed_mesh_key_takes_its_lanes_along(void **state)
{
    (void)state;
    struct two t = two_new(14, 2);
    two_start(&t, 2000);
    struct mesh_path before = *path_of(&t, 0);
    struct mesh_keys fresh = {.n = 1};
    memset(fresh.key[0], 0x77, KEY_LEN);
    mesh_set_keys(t.w->node[0].mesh, &fresh, t.w->now);
    for (uint8_t k = 0; k < 2; k++)
        assert_false(conn_of(&t, before.link[k])->open[t.dialer == 0 ? 0 : 1]);
    assert_int_equal(path_of(&t, 0)->n, 0);
    two_free(&t);
}

/* BUSY goes over the control link to the node of the sender, seldom, and counts for a moment only. */
static void a_full_client_is_told_to_the_senders_node(void **state)
{
    (void)state;
    struct two t = two_new(15, 2);
    two_start(&t, 2000);
    struct derp_key dst = world_key(1), src = world_key(2);
    struct node_id id, unknown = {{7}};
    node_id_of(&id, t.w->node[1].name);
    for (int i = 0; i < 10; i++)
        mesh_busy(t.w->node[0].mesh, &id, &dst, &src, 60000, t.w->now);
    mesh_busy(t.w->node[0].mesh, &unknown, &dst, &src, 10, t.w->now + 100);
    world_run(t.w, t.w->now + 200);
    assert_int_equal(t.w->node[1].busy, 1);
    assert_true(key_equal(&t.w->node[1].busy_dst, &dst) && key_equal(&t.w->node[1].busy_src, &src));
    assert_int_equal(t.w->node[1].busy_ms, MESH_BUSY_MAX_MS);
    assert_int_equal(count_of(&t, 0).busy_sent, 1);
    assert_int_equal(count_of(&t, 1).busy_received, 1);
    mesh_busy(t.w->node[0].mesh, &id, &dst, &src, 10, t.w->now);
    world_run(t.w, t.w->now + 200);
    assert_int_equal(t.w->node[1].busy, 2);
    assert_int_equal(t.w->node[1].busy_ms, 10);
    two_free(&t);
}

/* ---- who is refused ---- */

struct forger {
    int from;      /* whose LANE is changed; -1: none */
    size_t at;     /* this byte … */
    uint8_t with;  /* … so */
    bool reflect;  /* the acceptor's answer is what the dialer said */
    bool exporter; /* the dialer's TLS ends elsewhere */
    uint8_t kept[512];
    size_t n_kept;
    int n_seen;
};

static bool is_lane(const uint8_t *payload, size_t len)
{
    struct meshmsg_in in;
    uint32_t type;
    return meshmsg_open(&in, &type, payload, len) == 0 && type == MESHMSG_LANE;
}

static bool forge(struct world *w, int from, uint8_t *payload, size_t *len, void *ctx)
{
    struct forger *f = ctx;
    (void)w;
    if (!is_lane(payload, *len))
        return true;
    f->n_seen++;
    if (f->n_kept && f->reflect) {
        assert_int_equal(*len, f->n_kept);
        memcpy(payload, f->kept, f->n_kept);
        f->n_kept = 0;
        return true;
    }
    if (!f->n_kept) {
        memcpy(f->kept, payload, *len);
        f->n_kept = *len;
    }
    if (from == f->from)
        payload[f->at < *len ? f->at : 0] ^= f->with;
    return true;
}

static void forge_info(struct world *w, int node, struct mesh_link_info *info, void *ctx)
{
    const struct forger *f = ctx;
    (void)w;
    (void)node;
    if (f->exporter && info->dialer)
        info->exporter[3] ^= 1;
}

/* Two nodes with a control link, of whose lanes somebody makes what f says. */
static struct two forged(uint64_t seed, struct forger *f)
{
    struct two t = two_new(seed, 0);
    two_start(&t, 2000);
    t.w->tamper = forge;
    t.w->tamper_info = forge_info;
    t.w->tamper_ctx = f;
    if (f->from >= 0)
        f->from = f->from == 0 ? t.dialer : !t.dialer;
    struct mesh *m = t.w->node[t.dialer].mesh;
    m->lanes = 1;
    m->peers[1]->lane[0].dial_at = t.w->now;
    world_touch(t.w, t.dialer);
    world_run(t.w, t.w->now + 200);
    return t;
}

static uint64_t refusals(struct mesh_counters c)
{
    return c.refused_lane + c.refused_lane_auth + c.refused_lane_peer + c.refused_lane_replay +
           c.refused_hello + c.refused_exporter;
}

/* Whatever single byte is changed, on either side's message: no lane, and control goes on. */
static void no_changed_byte_gets_a_lane(void **state)
{
    (void)state;
    size_t len = 1;
    for (int from = 0; from < 2; from++)
        for (size_t at = 0; at < len; at++)
            for (int bit = 0; bit < 8; bit += 7) {
                struct forger f = {.from = from, .at = at, .with = (uint8_t)(1 << bit)};
                struct two t = forged(100 + at, &f);
                len = f.n_kept;
                int judge = from == 0 ? !t.dialer : t.dialer;
                assert_lanes(&t, 0);
                assert_true(refusals(count_of(&t, judge)) > 0);
                if (from == 0) /* the dialer's was believed by nobody */
                    assert_int_equal(count_of(&t, judge).lanes_opened, 0);
                assert_int_equal(count_of(&t, t.dialer).lanes_opened, 0);
                assert_int_equal(t.w->node[0].lost + t.w->node[1].lost, 0);
                two_free(&t);
            }
    assert_true(len > 80);
}

static void each_fault_has_its_counter(void **state)
{
    (void)state;
    struct forger f = {.from = -1, .reflect = true};
    struct two t = forged(200, &f);
    assert_lanes(&t, 0);
    assert_true(count_of(&t, t.dialer).refused_lane_peer > 0); /* our own words */
    two_free(&t);

    f = (struct forger){.from = -1, .exporter = true};
    t = forged(201, &f); /* somebody stands between: two TLS connections instead of one */
    assert_lanes(&t, 0);
    assert_true(count_of(&t, !t.dialer).refused_lane_auth > 0);
    two_free(&t);
}

static uint64_t open_raw(struct two *t, const uint8_t *exporter, bool has_exporter)
{
    struct mesh_link_info info = {.has_exporter = has_exporter, .from = "192.0.2.1:1"};
    struct world_conn *c = &t->w->conn[t->w->n_conns++];
    *c = (struct world_conn){
        .used = true, .node = {t->dialer, !t->dialer}, .open = {true, true}, .silent = true};
    memcpy(info.exporter, exporter, sizeof info.exporter);
    uint64_t link = world_link_id(t->w, c, 1);
    mesh_link_open(t->w->node[!t->dialer].mesh, link, &info, t->w->now);
    return link;
}

/* A whole LANE that was good once: on another connection its proof is wrong; on one that looks the same (a proxy that
 * ends TLS shows no exporter) it is old. */
static void a_recorded_lane_is_refused(void **state)
{
    (void)state;
    for (int proxied = 0; proxied < 2; proxied++) {
        struct forger f = {.from = -1};
        struct two t = two_new(300, 0);
        for (int i = 0; i < 2; i++)
            t.w->node[i].no_exporter = t.w->node[i].accept_no_exporter = proxied;
        two_start(&t, 2000);
        t.w->tamper = forge;
        t.w->tamper_ctx = &f;
        struct mesh *m = t.w->node[t.dialer].mesh;
        m->lanes = 1;
        m->peers[1]->lane[0].dial_at = t.w->now;
        world_touch(t.w, t.dialer);
        world_run(t.w, t.w->now + 200);
        assert_lanes(&t, 1);
        struct mesh *acceptor = t.w->node[!t.dialer].mesh;
        struct mesh_path before = *path_of(&t, !t.dialer);
        uint8_t exporter[32] = {9};
        mesh_link_input(acceptor, open_raw(&t, exporter, !proxied), f.kept, f.n_kept, t.w->now);
        assert_int_equal(count_of(&t, !t.dialer).refused_lane_auth, !proxied);
        assert_int_equal(count_of(&t, !t.dialer).refused_lane_replay, proxied);
        memcpy(exporter, conn_of(&t, before.link[0])->exporter, sizeof exporter);
        mesh_link_input(acceptor, open_raw(&t, exporter, !proxied), f.kept, f.n_kept, t.w->now);
        assert_int_equal(count_of(&t, !t.dialer).refused_lane_replay, 1 + proxied);
        mesh_link_input(acceptor, open_raw(&t, exporter, proxied), f.kept, f.n_kept, t.w->now);
        assert_int_equal(count_of(&t, !t.dialer).refused_exporter, 1);
        assert_memory_equal(&before, path_of(&t, !t.dialer), sizeof before);
        /* of a link that is gone */
        m->lanes = 0;
        world_break(t.w, conn_of(&t, control_of(&t, 0)), false);
        world_run(t.w, t.w->now + 8000);
        mesh_link_input(acceptor, open_raw(&t, exporter, !proxied), f.kept, f.n_kept, t.w->now);
        assert_int_equal(count_of(&t, !t.dialer).refused_lane, 1);
        two_free(&t);
    }
}

/* The bytes of docs/protocol.md. */
static void the_mac_is_as_specified(void **state)
{
    (void)state;
    uint8_t secret[KEY_LEN], exporter[32], nonce[MESHMSG_NONCE_LEN], mac[MESHMSG_MAC_LEN],
        id[MESHMSG_LINK_ID_LEN];
    struct meshmsg_lane ask = {.name = "fra-1", .to = "hel-1", .index = 1, .number = 2};
    struct auth a;
    char hex[2 * MESHMSG_MAC_LEN + 1];
    memset(&a, 0, sizeof a);
    memset(a.key, 0x11, sizeof a.key);
    auth_secret(&a, "derpmesh/1 lanes", secret);
    auth_link_id(secret, id);
    memset(exporter, 0x66, sizeof exporter);
    memset(ask.nonce, 0x22, sizeof ask.nonce);
    memset(nonce, 0x33, sizeof nonce);
    wire_hex(hex, secret, sizeof secret);
    assert_string_equal(hex, "b10e99ae93b74458b585c8b961e418d732296bc6ee0347a94c736af1bf94aa5e");
    wire_hex(hex, id, sizeof id);
    assert_string_equal(hex, "ad65df3dee0750ef");
    auth_lane_mac(secret, &ask, NULL, exporter, mac);
    wire_hex(hex, mac, sizeof mac);
    assert_string_equal(hex, "21b29013a0520074fe8a679936678474fea0fd8a4be3db3416f4892421f47082");
    auth_lane_mac(secret, &ask, nonce, exporter, mac);
    wire_hex(hex, mac, sizeof mac);
    assert_string_equal(hex, "9f82b1e1d4eafdab6c7469da49c3a6eba7e95cb6fc1e76b4ca68a17bba4ac11f");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_pair_has_as_many_lanes_as_its_dialer_wants),
        cmocka_unit_test(data_waits_for_the_dialer),
        cmocka_unit_test(a_lane_that_ends_is_made_anew),
        cmocka_unit_test(a_silent_lane_is_left_out),
        cmocka_unit_test(without_lanes_control_carries_data),
        cmocka_unit_test(lanes_outlive_a_control_link),
        cmocka_unit_test(another_instance_has_its_own),
        cmocka_unit_test(lanes_follow_the_map),
        cmocka_unit_test(a_removed_mesh_key_takes_its_lanes_along),
        cmocka_unit_test(a_full_client_is_told_to_the_senders_node),
        cmocka_unit_test(no_changed_byte_gets_a_lane),
        cmocka_unit_test(each_fault_has_its_counter),
        cmocka_unit_test(a_recorded_lane_is_refused),
        cmocka_unit_test(the_mac_is_as_specified),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
