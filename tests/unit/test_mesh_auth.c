/* Who may have a link: honest nodes may, each attacker is refused, counted and named in the log with a remedy. */
#include "mesh_world.h"

#include "mesh/auth.h"
#include "proto/meshmsg_sets.h"

/* ---- one mesh and a hand-made other side ---- */

enum { SENT_MAX = 16 };

/* The mesh under attack ("node-0"), and what it did. */
struct victim {
    struct mesh *mesh;
    struct derpmap *map;
    struct key_pair key;
    struct mesh_keys psk;
    uint64_t rnd, now, dial, next_link;
    uint8_t sent[SENT_MAX][MESHMSG_MAX];
    size_t sent_len[SENT_MAX];
    int n_sent;
    uint64_t closed; /* the last link it closed */
    uint64_t ready;
    uint64_t up; /* the path of node-1 */
    int pins;
    char log[700];
};

/* What the other side says; starts as an honest node-1. */
struct other {
    struct key_pair key, ephemeral;
    uint8_t psk[KEY_LEN];
    struct meshmsg_hello hello;
    bool has_exporter;
    uint8_t exporter[32];
    struct auth auth;
};

static void v_random(void *ctx, void *out, size_t len)
{
    struct victim *v = ctx;
    for (size_t i = 0; i < len; i++) {
        v->rnd = v->rnd * 6364136223846793005u + 1442695040888963407u;
        ((uint8_t *)out)[i] = (uint8_t)(v->rnd >> 33);
    }
}

static void v_dial(void *ctx, uint64_t dial, const struct derpmap_node *node, uint32_t lane)
{
    (void)lane;
    struct victim *v = ctx;
    if (strcmp(node->id, "node-1") == 0)
        v->dial = dial;
}

static void v_dial_cancel(void *ctx, uint64_t dial)
{
    (void)ctx;
    (void)dial;
}

static void v_send(void *ctx, uint64_t link, const uint8_t *frame, size_t len)
{
    struct victim *v = ctx;
    (void)link;
    assert_true(len - FRAME_HEADER_LEN <= MESHMSG_MAX);
    assert_true(v->n_sent < SENT_MAX);
    memcpy(v->sent[v->n_sent], frame + FRAME_HEADER_LEN, len - FRAME_HEADER_LEN);
    v->sent_len[v->n_sent++] = len - FRAME_HEADER_LEN;
}

static void v_close(void *ctx, uint64_t link, const char *why)
{
    struct victim *v = ctx;
    (void)why;
    v->closed = link;
}

static void v_link_ready(void *ctx, uint64_t link, uint32_t node)
{
    struct victim *v = ctx;
    assert_int_equal(node, 1);
    v->ready = link;
}

static void v_node_path(void *ctx, uint32_t node, const struct mesh_path *path)
{
    struct victim *v = ctx;
    (void)node;
    assert_true(path->n == 0 || path->link[0] == v->ready);
    v->up = path->link[0];
}

static void v_busy(void *ctx, const struct derp_key *dst, const struct derp_key *src, uint32_t ms)
{
    (void)ctx;
    (void)dst;
    (void)src;
    (void)ms;
}

static void v_route(void *ctx, const struct derp_key *key, uint32_t node)
{
    (void)ctx;
    (void)key;
    (void)node;
}

static void v_gone(void *ctx, const struct derp_key *key)
{
    (void)ctx;
    (void)key;
}

static void v_pin(void *ctx, const char *name, const struct derp_key *key)
{
    struct victim *v = ctx;
    (void)key;
    assert_string_equal(name, "node-1");
    v->pins++;
}

/* No log line holds a secret or more than a line. */
static void v_log(void *ctx, enum mesh_log_level level, const char *msg)
{
    struct victim *v = ctx;
    char hex[2 * KEY_LEN + 1];
    wire_hex(hex, v->psk.key[0], KEY_LEN);
    assert_null(strstr(msg, hex));
    wire_hex(hex, v->key.secret, KEY_LEN);
    assert_null(strstr(msg, hex));
    for (const char *c = msg; *c; c++)
        assert_true((uint8_t)*c >= 0x20 && *c != 0x7f);
    if (level >= MESH_LOG_WARN)
        snprintf(v->log, sizeof v->log, "%s", msg);
}

static const struct mesh_ops V_OPS = {.random = v_random,
                                      .dial = v_dial,
                                      .dial_cancel = v_dial_cancel,
                                      .send = v_send,
                                      .close = v_close,
                                      .link_ready = v_link_ready,
                                      .node_path = v_node_path,
                                      .busy = v_busy,
                                      .route = v_route,
                                      .gone = v_gone,
                                      .pin = v_pin,
                                      .log = v_log};

static void key_from(struct key_pair *kp, uint8_t seed)
{
    uint8_t secret[KEY_LEN];
    memset(secret, seed, sizeof secret);
    key_pair_from_secret(kp, secret);
}

static struct victim *victim_new(uint64_t seed, const struct mesh_pin *pins, size_t n_pins,
                                 bool accept_no_exporter)
{
    static char names[3][8] = {"node-0", "node-1", "node-2"};
    struct victim *v = calloc(1, sizeof *v);
    v->map = calloc(1, sizeof *v->map);
    v->map->nodes = calloc(3, sizeof *v->map->nodes);
    v->map->n_nodes = 3;
    for (int i = 0; i < 3; i++)
        v->map->nodes[i] = (struct derpmap_node){
            .id = names[i], .name = names[i], .host_name = names[i], .region_id = 900 + i};
    key_from(&v->key, 1);
    memset(v->psk.key[0], 0x5a, KEY_LEN);
    v->psk.n = 1;
    v->rnd = seed;
    v->now = 50000;
    v->next_link = 10;
    struct mesh_config c = {.ops = &V_OPS,
                            .ctx = v,
                            .software = "victim",
                            .node_key = v->key,
                            .boot = 7,
                            .instance = {1, 2, 3},
                            .keys = &v->psk,
                            .map = v->map,
                            .self = &v->map->nodes[0],
                            .pins = pins,
                            .n_pins = n_pins,
                            .accept_no_exporter = accept_no_exporter};
    v->mesh = mesh_new(&c, v->now);
    assert_non_null(v->mesh);
    return v;
}

static void victim_free(struct victim *v)
{
    mesh_free(v->mesh);
    free(v->map->nodes);
    free(v->map);
    free(v);
}

static struct mesh_counters counters(const struct victim *v)
{
    struct mesh_counters c;
    mesh_counters(v->mesh, &c);
    return c;
}

static void other_init(struct other *o)
{
    memset(o, 0, sizeof *o);
    key_from(&o->key, 2);
    key_from(&o->ephemeral, 3);
    memset(o->psk, 0x5a, KEY_LEN);
    o->has_exporter = true;
    memset(o->exporter, 0xee, sizeof o->exporter);
    o->hello = (struct meshmsg_hello){.version_min = 1,
                                      .version_max = 1,
                                      .software = "other",
                                      .name = "node-1",
                                      .to = "node-0",
                                      .region = 901,
                                      .key = o->key.pub,
                                      .boot = 5,
                                      .instance = {9},
                                      .nonce = {42},
                                      .ephemeral = o->ephemeral.pub,
                                      .n_key_ids = 1,
                                      .has_exporter = true,
                                      .max_payload = MESHMSG_MAX,
                                      .max_keys = 1000};
    mesh_key_id_of(&o->hello.key_id[0], o->psk);
}

static void input(struct victim *v, uint64_t link, const uint8_t *p, size_t n)
{
    uint8_t *exact = malloc(n ? n : 1);
    memcpy(exact, p, n);
    mesh_link_input(v->mesh, link, exact, n, v->now);
    free(exact);
}

static void input_msg(struct victim *v, uint64_t link, const struct meshmsg *m)
{
    input(v, link, m->b + FRAME_HEADER_LEN, m->n - FRAME_HEADER_LEN);
}

static uint64_t open_link(struct victim *v, bool victim_dials, const uint8_t *exporter)
{
    struct mesh_link_info info = {.dialer = victim_dials, .from = "192.0.2.1:443"};
    if (victim_dials) {
        v->dial = 0;
        uint64_t end = v->now + 60000;
        while (!v->dial && v->now < end) {
            v->now += 50;
            mesh_tick(v->mesh, v->now);
        }
        assert_int_not_equal(v->dial, 0);
        info.dial = v->dial;
    }
    info.has_exporter = exporter != NULL;
    if (exporter)
        memcpy(info.exporter, exporter, 32);
    v->n_sent = 0;
    mesh_link_open(v->mesh, ++v->next_link, &info, v->now);
    return v->next_link;
}

static int derive(struct other *o, const struct meshmsg_hello *theirs, bool victim_dials,
                  const uint8_t *exporter)
{
    struct auth_input in = {.dialer = !victim_dials,
                            .mesh_key = o->psk,
                            .node_secret = o->key.secret,
                            .node = &theirs->key,
                            .ephemeral = &theirs->ephemeral,
                            .dialled = victim_dials ? "node-1" : "node-0",
                            .found = victim_dials ? o->hello.name : "node-0",
                            .exporter = exporter};
    return auth_derive(&o->auth, &in);
}

/* Plays the whole handshake against the victim.  Ends where the victim closes.  The link's number. */
static uint64_t play(struct victim *v, struct other *o, bool victim_dials)
{
    static struct meshmsg m, mine;
    struct meshmsg_hello theirs;
    struct meshmsg_in in;
    uint32_t type;
    uint8_t mac[MESHMSG_MAC_LEN];
    const uint8_t *exporter = o->has_exporter ? o->exporter : NULL;
    auth_init(&o->auth);
    memcpy(o->auth.ephemeral, o->ephemeral.secret, KEY_LEN);
    uint64_t link = open_link(v, victim_dials, exporter);
    meshmsg_hello(&mine, &o->hello);
    if (victim_dials) {
        assert_int_equal(v->n_sent, 1);
        auth_mix_hello(&o->auth, v->sent[0], v->sent_len[0]);
    }
    auth_mix_hello(&o->auth, mine.b + FRAME_HEADER_LEN, mine.n - FRAME_HEADER_LEN);
    input_msg(v, link, &mine);
    if (v->closed == link)
        return link;
    if (!victim_dials) {
        assert_int_equal(v->n_sent, 1);
        auth_mix_hello(&o->auth, v->sent[0], v->sent_len[0]);
    }
    assert_int_equal(meshmsg_open(&in, &type, v->sent[0], v->sent_len[0]), 0);
    assert_int_equal(type, MESHMSG_HELLO);
    assert_int_equal(meshmsg_read_hello(&in, &theirs), 0);
    derive(o, &theirs, victim_dials, exporter);
    if (victim_dials) { /* the dialer proves itself first */
        struct mesh_key_id id;
        uint8_t expected[MESHMSG_MAC_LEN];
        assert_int_equal(v->n_sent, 2);
        assert_int_equal(meshmsg_open(&in, &type, v->sent[1], v->sent_len[1]), 0);
        assert_int_equal(type, MESHMSG_AUTH);
        assert_int_equal(meshmsg_read_auth(&in, &id, mac), 0);
        auth_mac(&o->auth, true, expected);
        bool honest =
            key_equal(&o->key.pub, &o->hello.key) && key_equal(&o->ephemeral.pub, &o->hello.ephemeral);
        if (honest && memcmp(o->psk, v->psk.key[0], KEY_LEN) == 0)
            assert_memory_equal(mac, expected, sizeof mac);
    }
    auth_mac(&o->auth, !victim_dials, mac);
    meshmsg_auth(&m, &o->hello.key_id[0], mac);
    input_msg(v, link, &m);
    if (!victim_dials &&
        v->closed != link) { /* a dialer says something at once, until then it is sent no data */
        assert_int_not_equal(v->up, link);
        meshmsg_ping(&m, 1, 1, 0);
        input_msg(v, link, &m);
    }
    return link;
}

static void test_the_hand_made_side_gets_in(void **state)
{
    (void)state;
    for (int dials = 0; dials < 2; dials++) {
        struct victim *v = victim_new(1, NULL, 0, false);
        struct other o;
        other_init(&o);
        uint64_t link = play(v, &o, dials);
        assert_int_equal(v->up, link);
        assert_int_equal(v->pins, 1);
        assert_int_not_equal(v->closed, link);
        assert_int_equal(counters(v).links_opened, 1);
        victim_free(v);
    }
}

/* Each of these is one fault in an honest node; each must be refused for its own reason, in both roles. */
struct fault {
    const char *what;
    void (*make)(struct other *o);
    size_t counter; /* in struct mesh_counters */
    const char *log;
};
#define COUNTER(name) offsetof(struct mesh_counters, name)

static void f_psk(struct other *o)
{
    o->psk[0] ^= 1; /* but claims to have the right one */
}
static void f_no_common_key(struct other *o)
{
    o->psk[0] ^= 1;
    mesh_key_id_of(&o->hello.key_id[0], o->psk);
}
static void f_node_secret(struct other *o)
{
    key_from(&o->key, 99); /* has not the secret of the key that it shows */
}
static void f_ephemeral_secret(struct other *o)
{
    key_from(&o->ephemeral, 99);
}
static void f_exporter(struct other *o)
{
    o->hello.has_exporter = false; /* a proxy in between, on one side only */
}
static void f_to(struct other *o)
{
    strcpy(o->hello.to, "node-2");
}
static void f_our_name(struct other *o)
{
    strcpy(o->hello.name, "node-0");
}
static void f_our_instance(struct other *o)
{
    memcpy(o->hello.instance, (uint8_t[16]){1, 2, 3}, 16);
}
static void f_our_key(struct other *o)
{
    key_from(&o->key, 1);
    o->hello.key = o->key.pub;
}
static void f_version(struct other *o)
{
    o->hello.version_min = 2;
    o->hello.version_max = 3;
}
static void f_low_order_key(struct other *o)
{
    memset(&o->hello.key, 0, sizeof o->hello.key);
}
static void f_low_order_ephemeral(struct other *o)
{
    memset(&o->hello.ephemeral, 0, sizeof o->hello.ephemeral);
    o->hello.ephemeral.b[0] = 1;
}

static const struct fault FAULTS[] = {
    {"wrong mesh key under the right id", f_psk, COUNTER(refused_auth), "the proof is wrong"},
    {"no mesh key in common", f_no_common_key, COUNTER(refused_key), "mesh_key_file of node-1"},
    {"another's node key", f_node_secret, COUNTER(refused_auth), "the proof is wrong"},
    {"another's ephemeral key", f_ephemeral_secret, COUNTER(refused_auth), "the proof is wrong"},
    {"one side without exporter", f_exporter, COUNTER(refused_exporter), "proxy"},
    {"meant for another", f_to, COUNTER(refused_name), "it meant to reach another node"},
    {"our own instance", f_our_instance, COUNTER(refused_reflection), "ourselves"},
    {"our own node key", f_our_key, COUNTER(refused_pin), "copied state"},
    {"no version in common", f_version, COUNTER(refused_version), "upgrade the older"},
    {"node key of low order", f_low_order_key, COUNTER(refused_auth), "low order"},
    {"ephemeral of low order", f_low_order_ephemeral, COUNTER(refused_auth), "low order"},
};

static void test_faults(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof FAULTS / sizeof *FAULTS; i++)
        for (int dials = 0; dials < 2; dials++) {
            struct victim *v = victim_new(i, NULL, 0, false);
            struct other o;
            other_init(&o);
            FAULTS[i].make(&o);
            uint64_t link = play(v, &o, dials);
            struct mesh_counters c = counters(v);
            uint64_t n;
            memcpy(&n, (char *)&c + FAULTS[i].counter, sizeof n);
            if (n != 1 || v->up || !strstr(v->log, FAULTS[i].log))
                printf("%s, victim %s: %s\n", FAULTS[i].what, dials ? "dials" : "accepts", v->log);
            assert_int_equal(n, 1);
            assert_int_equal(v->up, 0);
            assert_int_equal(v->closed, link);
            assert_int_equal(c.links_opened, 0);
            assert_int_equal(v->pins, 0);
            assert_non_null(strstr(v->log, FAULTS[i].log));
            assert_true(v->n_sent <= 2); /* HELLO, and AUTH as dialer; never anything else */
            victim_free(v);
        }
}

static void test_names(void **state)
{
    (void)state;
    struct other o;
    /* Who answers is not who was dialled. */
    struct victim *v = victim_new(1, NULL, 0, false);
    other_init(&o);
    strcpy(o.hello.name, "node-2");
    play(v, &o, true);
    assert_int_equal(counters(v).refused_name, 1);
    assert_non_null(strstr(v->log, "have to lead to node-1"));
    /* Our name in another's mouth. */
    other_init(&o);
    f_our_name(&o);
    o.hello.nonce[0]++;
    play(v, &o, false);
    assert_int_equal(counters(v).refused_name, 2);
    /* A name that no map knows: the log says what to add. */
    other_init(&o);
    strcpy(o.hello.name, "node-9");
    o.hello.nonce[0] += 2;
    play(v, &o, false);
    assert_int_equal(counters(v).refused_unknown_peer, 1);
    assert_non_null(strstr(v->log, "add a node with Name node-9"));
    /* A name that would break the log line is no HELLO at all. */
    other_init(&o);
    strcpy(o.hello.name, "node\n1");
    o.hello.nonce[0] += 3;
    play(v, &o, false);
    assert_int_equal(counters(v).refused_hello, 1);
    assert_int_equal(v->up, 0);
    victim_free(v);
}

static void test_pins(void **state)
{
    (void)state;
    struct other o;
    other_init(&o);
    struct mesh_pin right = {.name = "node-1", .key = o.key.pub}, wrong = right;
    wrong.key.b[5] ^= 4;
    for (int dials = 0; dials < 2; dials++) {
        struct victim *v = victim_new(1, &right, 1, false);
        other_init(&o);
        play(v, &o, dials);
        assert_int_not_equal(v->up, 0);
        assert_int_equal(v->pins, 0);
        victim_free(v);
        v = victim_new(1, &wrong, 1, false);
        other_init(&o);
        play(v, &o, dials);
        assert_int_equal(v->up, 0);
        assert_int_equal(counters(v).refused_pin, 1);
        assert_non_null(strstr(v->log, "put its new key into"));
        victim_free(v);
        /* Pinned at first sight, held against a second one later. */
        v = victim_new(1, NULL, 0, false);
        other_init(&o);
        uint64_t link = play(v, &o, dials);
        assert_int_equal(v->pins, 1);
        mesh_link_closed(v->mesh, link, "reset", v->now);
        assert_int_equal(v->up, 0);
        key_from(&o.key, 77);
        o.hello.key = o.key.pub;
        o.hello.nonce[0]++;
        play(v, &o, dials);
        assert_int_equal(v->up, 0);
        assert_int_equal(v->pins, 1);
        assert_int_equal(counters(v).refused_pin, 1);
        victim_free(v);
    }
}

static void test_exporter(void **state)
{
    (void)state;
    struct other o;
    /* Without one only where the configuration says so. */
    for (int dials = 0; dials < 2; dials++) {
        struct victim *v = victim_new(1, NULL, 0, true);
        other_init(&o);
        o.has_exporter = o.hello.has_exporter = false;
        play(v, &o, dials);
        assert_int_not_equal(v->up, 0);
        victim_free(v);
        v = victim_new(1, NULL, 0, false);
        uint64_t link = open_link(v, dials, NULL);
        assert_int_equal(v->closed, link);
        assert_int_equal(v->n_sent, 0);
        assert_int_equal(counters(v).refused_exporter, 1);
        victim_free(v);
    }
}

static void test_replay_and_reflection(void **state)
{
    (void)state;
    static struct meshmsg hello, auth;
    struct other o;
    uint8_t mac[MESHMSG_MAC_LEN];
    /* An honest session is recorded … */
    struct victim *v = victim_new(1, NULL, 0, false);
    other_init(&o);
    uint64_t first = play(v, &o, false);
    assert_int_equal(v->up, first);
    meshmsg_hello(&hello, &o.hello);
    auth_mac(&o.auth, true, mac);
    meshmsg_auth(&auth, &o.hello.key_id[0], mac);
    /* … and played again, to the same node: */
    uint64_t link = open_link(v, false, o.exporter);
    input_msg(v, link, &hello);
    assert_int_equal(v->closed, link);
    assert_int_equal(v->n_sent, 0);
    assert_int_equal(counters(v).refused_replay, 1);
    assert_int_equal(v->up, first);
    victim_free(v);
    /* to the node after a restart, which remembers nothing but makes a new ephemeral key: */
    v = victim_new(2, NULL, 0, false);
    link = open_link(v, false, o.exporter);
    input_msg(v, link, &hello);
    assert_int_equal(v->n_sent, 1);
    input_msg(v, link, &auth);
    assert_int_equal(v->closed, link);
    assert_int_equal(counters(v).refused_auth, 1);
    /* What the node says comes back to it. */
    link = open_link(v, true, o.exporter);
    assert_int_equal(v->n_sent, 1);
    static uint8_t own[MESHMSG_MAX];
    size_t own_len = v->sent_len[0];
    memcpy(own, v->sent[0], own_len);
    input(v, link, own, own_len);
    assert_int_equal(v->closed, link);
    assert_int_equal(counters(v).refused_reflection, 1);
    link = open_link(v, false, o.exporter);
    input(v, link, own, own_len);
    assert_int_equal(v->closed, link);
    assert_int_equal(counters(v).refused_reflection, 2);
    assert_int_equal(v->up, 0);
    victim_free(v);
    /* The dialer's own proof as the acceptor's: each role has its own MAC. */
    v = victim_new(3, NULL, 0, false);
    other_init(&o);
    link = open_link(v, true, o.exporter);
    meshmsg_hello(&hello, &o.hello);
    input_msg(v, link, &hello);
    assert_int_equal(v->n_sent, 2);
    memcpy(own, v->sent[1], v->sent_len[1]);
    input(v, link, own, v->sent_len[1]);
    assert_int_equal(v->closed, link);
    assert_int_equal(counters(v).refused_auth, 1);
    victim_free(v);
}

/* Nothing but HELLO and AUTH in their turn, and nothing long, before the proof. */
static void test_out_of_turn(void **state)
{
    (void)state;
    static struct meshmsg m, hello;
    struct other o;
    struct meshmsg_entry e = {.slot = 1, .up = true};
    other_init(&o);
    for (int what = 0; what < 8; what++)
        for (int stage = 0; stage < 2; stage++) {
            struct victim *v = victim_new(1, NULL, 0, false);
            uint64_t link = open_link(v, false, o.exporter);
            meshmsg_hello(&hello, &o.hello);
            if (stage)
                input_msg(v, link, &hello);
            int sent = v->n_sent;
            switch (what) {
            case 0:
                meshmsg_ping(&m, 1, 1, 0);
                break;
            case 1:
                meshmsg_ann(&m, 0, 1, &e, 1);
                break;
            case 2:
                meshmsg_sync_req(&m, &(struct meshmsg_moment){0});
                break;
            case 3:
                meshmsg_bye(&m, MESHMSG_BYE_STOP);
                break;
            case 4:
                meshmsg_sync_begin(&m, &(struct meshmsg_sync_begin){.at.boot = 5});
                break;
            case 5: /* a number that is ignored later on */
                m = (struct meshmsg){.n = FRAME_HEADER_LEN + 2, .b = {[5] = 0x91, [6] = 0x30}};
                break;
            case 6: /* HELLO twice, or AUTH first */
                if (stage)
                    m = hello;
                else
                    meshmsg_auth(&m, &o.hello.key_id[0], (uint8_t[MESHMSG_MAC_LEN]){0});
                break;
            default: /* empty */
                m.n = FRAME_HEADER_LEN;
            }
            input_msg(v, link, &m);
            assert_int_equal(v->closed, link);
            assert_int_equal(v->up, 0);
            assert_int_equal(v->n_sent, sent); /* no answer */
            assert_int_equal(counters(v).refused_hello, 1);
            assert_int_equal(counters(v).n_remote_keys, 0);
            victim_free(v);
        }
}

/* A HELLO of a later version: more elements, more in the lists, a wider range of versions. */
static void test_later_versions_hello(void **state)
{
    (void)state;
    static struct meshmsg m;
    struct other o;
    struct meshmsg_in in;
    struct meshmsg_hello h;
    uint32_t type;
    other_init(&o);
    o.hello.version_max = 9;
    o.hello.features = 0xffff;
    struct victim *v = victim_new(1, NULL, 0, false);
    play(v, &o, false);
    assert_int_not_equal(v->up, 0);
    victim_free(v);
    /* By hand: array of 17 becomes one of 19, two elements behind. */
    meshmsg_hello(&m, &o.hello);
    uint8_t *p = m.b + FRAME_HEADER_LEN;
    assert_int_equal(p[0], 0xdc);
    assert_int_equal(p[2], 17);
    p[2] = 19;
    memcpy(m.b + m.n, "\xa3new\xc0", 5);
    m.n += 5;
    assert_int_equal(meshmsg_open(&in, &type, p, m.n - FRAME_HEADER_LEN), 0);
    assert_int_equal(meshmsg_read_hello(&in, &h), 0);
    v = victim_new(1, NULL, 0, false);
    uint64_t link = open_link(v, false, o.exporter);
    input_msg(v, link, &m);
    assert_int_equal(v->n_sent, 1); /* answered with HELLO */
    assert_int_not_equal(v->closed, link);
    victim_free(v);
}

/* A well-formed HELLO with one more element, so long that the whole has that many bytes. */
static void test_hello_length(void **state)
{
    (void)state;
    static struct meshmsg m;
    struct other o;
    other_init(&o);
    for (size_t len = MESHMSG_BEFORE_AUTH_MAX; len <= MESHMSG_BEFORE_AUTH_MAX + 1; len++) {
        struct victim *v = victim_new(1, NULL, 0, false);
        uint64_t link = open_link(v, false, o.exporter);
        meshmsg_hello(&m, &o.hello);
        uint8_t *p = m.b + FRAME_HEADER_LEN;
        size_t n = m.n - FRAME_HEADER_LEN;
        p[2]++;
        p[n] = 0xc5;
        wire_put16(p + n + 1, (uint16_t)(len - n - 3));
        memset(p + n + 3, 0, len - n - 3);
        input(v, link, p, len);
        bool taken = len <= MESHMSG_BEFORE_AUTH_MAX;
        assert_int_equal(v->n_sent, taken);
        assert_int_equal(v->closed == link, !taken);
        victim_free(v);
    }
}

static void test_slow_handshake(void **state)
{
    (void)state;
    struct victim *v = victim_new(1, NULL, 0, false);
    struct other o;
    other_init(&o);
    uint64_t link = open_link(v, false, o.exporter);
    v->now += MESH_AUTH_TIMEOUT_MS - 1;
    mesh_tick(v->mesh, v->now);
    assert_int_not_equal(v->closed, link);
    assert_true(mesh_next(v->mesh) <= v->now + 1);
    v->now++;
    mesh_tick(v->mesh, v->now);
    assert_int_equal(v->closed, link);
    victim_free(v);
}

static void test_no_mesh_key(void **state)
{
    (void)state;
    struct victim *v = victim_new(1, NULL, 0, false);
    struct mesh_keys none = {.n = 0};
    struct other o;
    other_init(&o);
    uint64_t first = play(v, &o, false);
    assert_int_equal(v->up, first);
    mesh_set_keys(v->mesh, &none, v->now);
    assert_int_equal(v->closed, first);
    assert_int_equal(v->up, 0);
    uint64_t link = open_link(v, false, o.exporter);
    assert_int_equal(v->closed, link);
    victim_free(v);
}

/* In the middle of a rotation: the first of our keys that the other side takes, in both roles. */
static void test_key_choice(void **state)
{
    (void)state;
    for (int dials = 0; dials < 2; dials++) {
        struct victim *v = victim_new(1, NULL, 0, false);
        struct mesh_keys both = {.n = 2};
        struct other o;
        memset(both.key[0], 0x77, KEY_LEN); /* which the other does not have yet */
        memset(both.key[1], 0x5a, KEY_LEN);
        mesh_set_keys(v->mesh, &both, v->now);
        other_init(&o);
        uint64_t link = play(v, &o, dials);
        assert_int_equal(v->up, link);
        /* Without the key that proved it the link ends. */
        both.n = 1;
        mesh_set_keys(v->mesh, &both, v->now);
        assert_int_equal(v->up, 0);
        assert_int_equal(v->closed, link);
        victim_free(v);
    }
}

/* How many messages of that type the victim has sent since, and forgets them. */
static int count_sent(struct victim *v, uint32_t type)
{
    struct meshmsg_in in;
    uint32_t t;
    int n = 0;
    for (int i = 0; i < v->n_sent; i++)
        n += meshmsg_open(&in, &t, v->sent[i], v->sent_len[i]) == 0 && t == type;
    v->n_sent = 0;
    return n;
}

/* A proven peer that asks again and again, or makes us ask: once a second. */
static void test_syncs_are_rare(void **state)
{
    (void)state;
    static struct meshmsg m;
    struct other o;
    struct victim *v = victim_new(1, NULL, 0, false);
    other_init(&o);
    uint64_t link = play(v, &o, false);
    assert_int_equal(count_sent(v, MESHMSG_SYNC_REQ), 1);
    int begun = 0, asked = 0;
    for (int i = 0; i < 300; i++) { /* three seconds */
        meshmsg_sync_req(&m, &(struct meshmsg_moment){0});
        input_msg(v, link, &m);
        struct derp_key key = world_key(i); /* something else to tell */
        assert_int_equal(mesh_client_up(v->mesh, &key, true, v->now), 0);
        mesh_tick(v->mesh, v->now += 10);
        begun += count_sent(v, MESHMSG_SYNC_BEGIN);
    }
    assert_in_range(begun, 3, 4);
    for (int i = 0; i < 300; i++) {
        int now_asked = 0;
        meshmsg_ann(&m, 1000 + (uint64_t)i, 2000, NULL, 0); /* follows nothing */
        input_msg(v, link, &m);
        mesh_tick(v->mesh, v->now += 10);
        now_asked = count_sent(v, MESHMSG_SYNC_REQ);
        asked += now_asked;
        if (i == 0 || now_asked) {
            meshmsg_sync_begin(&m, &(struct meshmsg_sync_begin){.at.boot = 5});
            input_msg(v, link, &m);
            meshmsg_sync_end(&m, 5, 0);
            input_msg(v, link, &m);
        }
    }
    assert_int_not_equal(v->closed, link);
    assert_in_range(asked, 3, 4);
    victim_free(v);
}

/* After the proof a second HELLO, malformed things and numbers from 0x40 on end the link, unknown ones below do not. */
static void test_after_the_proof(void **state)
{
    (void)state;
    static struct meshmsg m;
    struct other o;
    for (int what = 0; what < 7; what++) {
        struct victim *v = victim_new(1, NULL, 0, false);
        other_init(&o);
        uint64_t link = play(v, &o, false);
        bool closes = true;
        switch (what) {
        case 0:
            meshmsg_hello(&m, &o.hello);
            break;
        case 1:
            m = (struct meshmsg){.n = FRAME_HEADER_LEN + 2, .b = {[5] = 0x91, [6] = MESHMSG_CLOSES - 1}};
            closes = false;
            break;
        case 2:
            m = (struct meshmsg){.n = FRAME_HEADER_LEN + 2, .b = {[5] = 0x91, [6] = MESHMSG_CLOSES}};
            break;
        case 3: /* an array that claims four thousand million elements */
            m = (struct meshmsg){.n = FRAME_HEADER_LEN + 6, .b = {[5] = 0xdd, 0xff, 0xff, 0xff, 0xff, 0x03}};
            break;
        case 4: /* SYNC_BEGIN of another boot than HELLO's */
            meshmsg_sync_begin(&m, &(struct meshmsg_sync_begin){.at.boot = 6});
            break;
        case 5: /* a second one, not asked for */
            meshmsg_sync_begin(&m, &(struct meshmsg_sync_begin){.at.boot = 5});
            input_msg(v, link, &m);
            assert_int_not_equal(v->closed, link);
            break;
        default: /* bytes behind the message */
            meshmsg_ping(&m, 1, 1, 0);
            m.b[m.n++] = 0;
        }
        input_msg(v, link, &m);
        assert_int_equal(v->closed == link, closes);
        assert_int_equal(v->up == link, !closes);
        assert_int_equal(counters(v).bad_message, closes);
        assert_int_equal(counters(v).unknown_message, what == 1 || what == 2);
        victim_free(v);
    }
}

/* ---- a man in the middle, between two meshes ---- */

struct middle {
    int from;   /* whose frames */
    int number; /* 0: HELLO, 1: AUTH */
    size_t at;  /* which byte */
    uint8_t flip;
    int grow;   /* -1: cuts the last byte, 1: adds one */
    size_t len; /* seen */
    int hits;
};

static bool alter(struct world *w, int from, uint8_t *payload, size_t *len, void *ctx)
{
    struct middle *m = ctx;
    (void)w;
    uint8_t want = m->number ? MESHMSG_AUTH : MESHMSG_HELLO;
    size_t type_at = payload[0] == 0xdc ? 3 : 1;
    if (from != m->from || *len <= type_at || payload[type_at] != want)
        return true;
    m->len = *len;
    if (m->grow) {
        if (m->grow > 0)
            payload[*len] = 0xc0;
        *len += (size_t)m->grow;
        m->hits++;
    } else if (m->at < *len) {
        payload[m->at] ^= m->flip;
        m->hits++;
    }
    return true;
}

static void run_altered(struct world *w, struct derpmap *map, struct middle *m)
{
    w->tamper = alter;
    w->tamper_ctx = m;
    for (int i = 0; i < 2; i++)
        world_start(w, i, map);
    world_run(w, w->now + 900);
    for (int i = 0; i < 2; i++) {
        if (m->hits && w->node[i].node_link[!i])
            printf("link up although message %d of node %d was altered at %zu by %02x\n", m->number, m->from,
                   m->at, m->flip);
        assert_int_equal(w->node[i].node_link[!i] == 0, m->hits > 0);
    }
    for (int i = 0; i < 2; i++) {
        world_stop(w, i, true, false);
        w->node[i].n_pins = 0;
    }
    world_run(w, w->now + 10000);
}

static void test_altered_anywhere(void **state)
{
    (void)state;
    struct world *w = world_new(5, 2);
    w->latency_min = w->latency_max = 1;
    struct derpmap *map = world_map(w, 3, 0, 1);
    int altered = 0;
    for (int from = 0; from < 2; from++)
        for (int number = 0; number < 2; number++) {
            struct middle m = {.from = from, .number = number, .at = SIZE_MAX};
            run_altered(w, map, &m); /* not altered: they link */
            size_t len = m.len;
            assert_true(len > 40);
            for (size_t at = 0; at < len; at++)
                for (int bit = 0; bit < 2; bit++) {
                    m = (struct middle){.from = from, .number = number, .at = at};
                    m.flip = bit ? (uint8_t)(1 + world_below(w, 255)) : 1;
                    run_altered(w, map, &m);
                    assert_true(m.hits > 0);
                    altered++;
                }
            for (int grow = -1; grow < 2; grow += 2) {
                m = (struct middle){.from = from, .number = number, .grow = grow};
                run_altered(w, map, &m);
                assert_true(m.hits > 0);
            }
            w->n_conns = 0;
        }
    printf("%d alterations, none got a link\n", altered);
    world_free(w);
    world_map_free(map);
}

/* Two TLS connections instead of one: each side sees another exporter. */
static void other_exporter(struct world *w, int node, struct mesh_link_info *info, void *ctx)
{
    (void)w;
    (void)ctx;
    if (node == 1)
        info->exporter[31] ^= 1;
}

static void test_man_in_the_middle(void **state)
{
    (void)state;
    struct world *w = world_new(6, 2);
    struct derpmap *map = world_map(w, 3, 0, 1);
    w->tamper_info = other_exporter;
    for (int i = 0; i < 2; i++)
        world_start(w, i, map);
    world_run(w, w->now + 30000);
    struct mesh_counters c[2];
    for (int i = 0; i < 2; i++) {
        mesh_counters(w->node[i].mesh, &c[i]);
        assert_int_equal(w->node[i].node_link[!i], 0);
        assert_int_equal(c[i].links_opened, 0);
    }
    assert_true(c[0].refused_auth + c[1].refused_auth > 3);
    w->tamper_info = NULL; /* it was only that */
    world_run(w, w->now + 60000);
    assert_int_not_equal(w->node[0].node_link[1], 0);
    world_free(w);
    world_map_free(map);
}

/* A stranger that comes again and again does not fill the log. */
static void test_refusals_are_logged_rarely(void **state)
{
    (void)state;
    struct victim *v = victim_new(1, NULL, 0, false);
    struct other o;
    other_init(&o);
    strcpy(o.hello.name, "node-9");
    int lines = 0;
    for (int i = 1; i <= 1000; i++) {
        o.hello.nonce[0] = (uint8_t)i;
        o.hello.nonce[1] = (uint8_t)(i >> 8);
        v->log[0] = 0;
        play(v, &o, false);
        lines += v->log[0] != 0;
        v->now += 10;
    }
    assert_in_range(lines, 2, 3); /* ten seconds, one line in five */
    assert_int_equal(counters(v).refused_unknown_peer, 1000);
    victim_free(v);
}

/* The numbers that docs/protocol.md gives to whoever writes a second implementation. */
static void test_vector(void **state)
{
    (void)state;
    static const char *KEY = "04a059a90edc39ca4d77894f47d0d4cfffbe893e211e0db9909a69a2e6f90887";
    static const char *MAC_DIALER = "85104b0830baf899df5c1a6c4e668cab27304cb477a996708e6a32df7bde3f7e";
    static const char *MAC_ACCEPTOR = "b0defa353b0fda9ceb6ac7807fb787f9467014ef6b7f4206350566411589bda8";
    struct key_pair d, de, a, ae;
    uint8_t psk[KEY_LEN], exporter[32], mac[32];
    char hex[65];
    key_from(&d, 0x11);
    key_from(&de, 0x22);
    key_from(&a, 0x33);
    key_from(&ae, 0x44);
    memset(psk, 0x55, sizeof psk);
    memset(exporter, 0x66, sizeof exporter);
    for (int side = 0; side < 2; side++) {
        struct auth x;
        struct derp_key pub;
        auth_init(&x);
        auth_ephemeral(&x, side ? de.secret : ae.secret, &pub);
        auth_mix_hello(&x, (const uint8_t *)"dialer's HELLO", 14);
        auth_mix_hello(&x, (const uint8_t *)"acceptor's HELLO", 16);
        struct auth_input in = {.dialer = side,
                                .mesh_key = psk,
                                .node_secret = side ? d.secret : a.secret,
                                .node = side ? &a.pub : &d.pub,
                                .ephemeral = side ? &ae.pub : &de.pub,
                                .dialled = "fra-1",
                                .found = "fra-1",
                                .exporter = exporter};
        assert_int_equal(auth_derive(&x, &in), 0);
        wire_hex(hex, x.key, 32);
        assert_string_equal(hex, KEY);
        auth_mac(&x, true, mac);
        wire_hex(hex, mac, 32);
        assert_string_equal(hex, MAC_DIALER);
        auth_mac(&x, false, mac);
        wire_hex(hex, mac, 32);
        assert_string_equal(hex, MAC_ACCEPTOR);
        auth_wipe(&x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_hand_made_side_gets_in),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_pins),
        cmocka_unit_test(test_exporter),
        cmocka_unit_test(test_replay_and_reflection),
        cmocka_unit_test(test_out_of_turn),
        cmocka_unit_test(test_later_versions_hello),
        cmocka_unit_test(test_hello_length),
        cmocka_unit_test(test_slow_handshake),
        cmocka_unit_test(test_no_mesh_key),
        cmocka_unit_test(test_key_choice),
        cmocka_unit_test(test_syncs_are_rare),
        cmocka_unit_test(test_after_the_proof),
        cmocka_unit_test(test_altered_anywhere),
        cmocka_unit_test(test_man_in_the_middle),
        cmocka_unit_test(test_refusals_are_logged_rarely),
        cmocka_unit_test(test_vector),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
