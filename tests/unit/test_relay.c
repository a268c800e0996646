/* The relay between clients of one node: frames come out where they belong, whole and in order, and every packet is
 * accounted for.  (Between nodes: test_relay_mesh.c.) */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "relay_fixture.h"

static int feed(struct rig *g, struct conn *c, struct rig_bytes *f, size_t (*step)(void *), void *ctx)
{
    size_t left;
    int r = rig_feed(g, c, f->b, f->n, false, step, ctx, &left);
    free(f->b);
    *f = (struct rig_bytes){0};
    return r;
}

/* ---- what came out ---- */

/* The next RecvPacket in out: its payload, from is who sent it. */
static const uint8_t *next_packet(const uint8_t *out, size_t n, size_t *off, const struct derp_key **from,
                                  size_t *len)
{
    struct frame f;
    assert_true(frame_peek(&f, (uint8_t *)(uintptr_t)(out + *off), n - *off) > 0);
    assert_int_equal(f.type, FRAME_RECV_PACKET);
    assert_true(f.len >= KEY_LEN);
    *off += FRAME_HEADER_LEN + f.len;
    *from = (const struct derp_key *)(const void *)f.body;
    *len = f.len - KEY_LEN;
    return f.body + KEY_LEN;
}

/* Exactly these numbers, from that sender, wait for c. */
static void assert_got(struct rig *g, struct conn *c, const struct derp_key *from, const uint32_t *numbers,
                       size_t count)
{
    size_t n, off = 0, len;
    uint8_t *out = rig_take(g, c, &n);
    for (size_t i = 0; i < count; i++) {
        const struct derp_key *src;
        const uint8_t *p = next_packet(out, n, &off, &src, &len);
        assert_true(key_equal(src, from));
        assert_true(len >= 8);
        p += frame_is_disco(p, len) ? sizeof(rig_disco_magic) : 0;
        assert_int_equal(wire_get32(p), numbers[i]);
        assert_memory_equal(p + 4, c->key.b, 4);
    }
    assert_int_equal(off, n);
    free(out);
}

static uint32_t queued_packets(struct rig *g, struct conn *c)
{
    size_t n, off = 0;
    uint32_t packets = 0;
    uint8_t *out = rig_take(g, c, &n);
    while (off < n) {
        struct frame f;
        size_t size = frame_peek(&f, out + off, n - off);
        assert_true(size > 0);
        packets += f.type == FRAME_RECV_PACKET || f.type == FRAME_MESH_DATA;
        off += size;
    }
    free(out);
    return packets;
}

struct two {
    struct rig *g;
    struct derp_key a_key, b_key;
    struct conn *a, *b;
};

static int setup(void **state)
{
    struct two *t = calloc(1, sizeof(*t));
    t->g = rig_new(0, 2, "here");
    t->a_key = rig_key(0xa);
    t->b_key = rig_key(0xb);
    t->a = rig_client(t->g, &t->a_key);
    t->b = rig_client(t->g, &t->b_key);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct two *t = *state;
    rig_free(t->g);
    free(t);
    return 0;
}

/* ---- one worker ---- */

static void a_packet_arrives_with_its_senders_key(void **state)
{
    struct two *t = *state;
    const uint32_t sizes[] = {0, 1, 61, 1400, FRAME_PACKET_MAX};
    for (size_t i = 0; i < 5; i++) {
        struct rig_bytes f = {0};
        size_t n, off = 0, len;
        const struct derp_key *src;
        rig_add_packet(&f, &t->b_key, 7, sizes[i], false);
        uint8_t *sent = malloc(sizes[i] + 1);
        memcpy(sent, f.b + f.n - sizes[i], sizes[i]);
        assert_int_equal(feed(t->g, t->a, &f, rig_whole, NULL), 0);
        uint8_t *out = rig_take(t->g, t->b, &n);
        const uint8_t *p = next_packet(out, n, &off, &src, &len);
        assert_true(key_equal(src, &t->a_key));
        assert_int_equal(len, sizes[i]);
        assert_memory_equal(p, sent, len);
        assert_int_equal(off, n);
        free(out);
        free(sent);
    }
    assert_int_equal(rig_stat(t->g, STAT_PACKETS_IN), 5);
    assert_int_equal(rig_stat(t->g, STAT_PACKET_BYTES_IN), 0 + 1 + 61 + 1400 + FRAME_PACKET_MAX);
    assert_int_equal(rig_stat(t->g, STAT_PACKET_BYTES_OUT), rig_stat(t->g, STAT_PACKET_BYTES_IN));
    assert_int_equal(t->a->stream.q.bytes, 0);
}

static void order_holds_for_each_destination(void **state)
{
    struct two *t = *state;
    struct derp_key c_key = rig_key(0xc);
    struct conn *c = rig_client(t->g, &c_key);
    struct rig_bytes f = {0};
    rig_add_packet(&f, &t->b_key, 1, 100, false);
    rig_add_packet(&f, &t->b_key, 2, 100, false);
    rig_add_packet(&f, &c_key, 3, 100, false);
    rig_add_packet(&f, &t->b_key, 4, 100, false);
    rig_add_frame(&f, FRAME_KEEP_ALIVE, NULL, 0); /* between frames of a run */
    rig_add_packet(&f, &t->b_key, 5, 100, false);
    rig_add_packet(&f, &c_key, 6, 100, false);
    assert_int_equal(feed(t->g, t->a, &f, rig_whole, NULL), 0);
    assert_got(t->g, t->b, &t->a_key, (const uint32_t[]){1, 2, 4, 5}, 4);
    assert_got(t->g, c, &t->a_key, (const uint32_t[]){3, 6}, 2);
}

static void to_oneself_is_to_a_client_like_others(void **state)
{
    struct two *t = *state;
    struct rig_bytes f = {0};
    rig_add_packet(&f, &t->a_key, 1, 100, false);
    assert_int_equal(feed(t->g, t->a, &f, rig_whole, NULL), 0);
    assert_got(t->g, t->a, &t->a_key, (const uint32_t[]){1}, 1);
}

static void disco_goes_first(void **state)
{
    struct two *t = *state;
    struct rig_bytes f = {0};
    rig_add_packet(&f, &t->b_key, 1, 100, false);
    rig_add_packet(&f, &t->b_key, 2, 100, true);
    rig_add_packet(&f, &t->b_key, 3, 100, false);
    rig_add_packet(&f, &t->b_key, 4, 100, true);
    assert_int_equal(feed(t->g, t->a, &f, rig_whole, NULL), 0);
    assert_got(t->g, t->b, &t->a_key, (const uint32_t[]){2, 4, 1, 3}, 4);
}

static void who_gets_a_packet_has_heard_its_sender(void **state)
{
    struct two *t = *state;
    struct rig_bytes f = {0};
    size_t n;
    rig_add_packet(&f, &t->b_key, 1, 100, false);
    feed(t->g, t->a, &f, rig_whole, NULL);
    free(rig_take(t->g, t->b, &n));
    relay_gone(&t->g->relay, &t->b_key); /* nobody heard b */
    assert_int_equal(t->a->stream.q.bytes + t->b->stream.q.bytes, 0);
    relay_gone(&t->g->relay, &t->a_key);
    assert_int_equal(t->a->stream.q.bytes, 0);
    uint8_t *out = rig_take(t->g, t->b, &n);
    assert_int_equal(n, FRAME_PEER_GONE_LEN);
    assert_int_equal(out[0], FRAME_PEER_GONE);
    assert_memory_equal(out + FRAME_HEADER_LEN, t->a_key.b, KEY_LEN);
    assert_int_equal(out[n - 1], PEER_GONE_DISCONNECTED);
    assert_int_equal(rig_stat(t->g, STAT_PEER_GONE_DISCONNECTED), 1);
    free(out);
}

static void a_closing_destination_is_counted(void **state)
{
    struct two *t = *state;
    struct rig_bytes f = {0};
    stream_close(&t->b->stream, "");
    rig_add_packet(&f, &t->b_key, 1, 100, false);
    rig_add_packet(&f, &t->b_key, 2, 100, false);
    feed(t->g, t->a, &f, rig_whole, NULL);
    assert_int_equal(rig_stat(t->g, STAT_DROP_GONE), 2);
    rig_turn(t->g); /* now its slot is empty, the route still there */
    rig_add_packet(&f, &t->b_key, 3, 100, false);
    feed(t->g, t->a, &f, rig_whole, NULL);
    assert_int_equal(rig_stat(t->g, STAT_DROP_GONE), 3);
}

static void an_overflow_is_counted_and_slows_the_sender(void **state)
{
    struct two *t = *state;
    struct rig_bytes f = {0};
    for (uint32_t i = 0; i < 3000; i++)
        rig_add_packet(&f, &t->b_key, i, 1400, false);
    feed(t->g, t->a, &f, rig_whole, NULL);
    assert_true(t->g->asked.slow_down > 0);
    assert_true(t->b->stream.q.bytes <= SENDQ_LIMIT_MOVING);
    assert_true(rig_stat(t->g, STAT_DROP_QUEUE_FULL) > 0);
    assert_int_equal(queued_packets(t->g, t->b) + rig_stat(t->g, STAT_DROP_QUEUE_FULL), 3000);
}

/* ---- nowhere ---- */

/* NotHere frames that wait for c, all for that key. */
static unsigned not_heres(struct rig *g, struct conn *c, const struct derp_key *key)
{
    size_t n;
    uint8_t *out = rig_take(g, c, &n);
    assert_int_equal(n % FRAME_PEER_GONE_LEN, 0);
    for (size_t off = 0; off < n; off += FRAME_PEER_GONE_LEN) {
        assert_int_equal(out[off], FRAME_PEER_GONE);
        assert_memory_equal(out + off + FRAME_HEADER_LEN, key->b, KEY_LEN);
        assert_int_equal(out[off + FRAME_PEER_GONE_LEN - 1], PEER_GONE_NOT_HERE);
    }
    free(out);
    return (unsigned)(n / FRAME_PEER_GONE_LEN);
}

static void only_disco_is_answered_with_not_here_and_seldom(void **state)
{
    struct two *t = *state;
    struct derp_key nobody = rig_key(0xee);
    struct rig_bytes f = {0};
    for (uint32_t i = 0; i < 5; i++)
        rig_add_packet(&f, &nobody, i, 100, false);
    rig_add_packet(&f, &nobody, 9, FRAME_DISCO_MIN - 1, true); /* too short for disco */
    feed(t->g, t->a, &f, rig_whole, NULL);
    assert_int_equal(not_heres(t->g, t->a, &nobody), 0);
    for (uint32_t i = 0; i < 10; i++)
        rig_add_packet(&f, &nobody, i, 100, true);
    feed(t->g, t->a, &f, rig_whole, NULL);
    assert_int_equal(not_heres(t->g, t->a, &nobody), 3);
    t->a->not_here_at -= 2000; /* two seconds pass */
    for (uint32_t i = 0; i < 10; i++)
        rig_add_packet(&f, &nobody, i, 100, true);
    feed(t->g, t->a, &f, rig_whole, NULL);
    assert_int_equal(not_heres(t->g, t->a, &nobody), 2);
    t->a->not_here_at -= 3600 * 1000; /* an hour earns no more than the burst */
    for (uint32_t i = 0; i < 10; i++)
        rig_add_packet(&f, &nobody, i, 100, true);
    feed(t->g, t->a, &f, rig_whole, NULL);
    assert_int_equal(not_heres(t->g, t->a, &nobody), 3);
    assert_int_equal(rig_stat(t->g, STAT_DROP_NO_ROUTE), 36);
    assert_int_equal(rig_stat(t->g, STAT_PEER_GONE_NOT_HERE), 8);
}

static void let_b_in(struct rig *g)
{
    struct derp_key key = rig_key(0xdd);
    for (uint32_t i = 0; i < g->relay.conns.n_slots; i++) {
        struct conn *c = g->relay.conns.slot[i];
        struct conn_ref ref = {c->gen, c->slot, 0};
        if (key_equal(&c->key, &key))
            routes_local_set(g->relay.routes, &key, &ref);
    }
}

static void a_route_that_just_waits_to_be_read_is_used(void **state)
{
    struct two *t = *state;
    struct derp_key key = rig_key(0xdd);
    struct conn *late = rig_conn(t->g, CONN_CLIENT, &key);
    struct rig_bytes f = {0};
    t->g->on_catch_up = let_b_in;
    rig_add_packet(&f, &key, 5, 100, true);
    feed(t->g, t->a, &f, rig_whole, NULL);
    assert_int_equal(t->g->asked.catch_up, 1);
    assert_got(t->g, late, &t->a_key, (const uint32_t[]){5}, 1);
    assert_int_equal(t->a->stream.q.bytes, 0);
    rig_add_packet(&f, &key, 6, 100, false);
    feed(t->g, t->a, &f, rig_whole, NULL);
    assert_int_equal(t->g->asked.catch_up, 1); /* known now: the inbox is left alone */
}

/* ---- frames that are no packets ---- */

static void pings_are_answered(void **state)
{
    struct two *t = *state;
    struct rig_bytes f = {0};
    uint8_t body[DERP_PING_MAX];
    size_t n;
    memset(body, 3, sizeof(body));
    memcpy(body, "pingpong", 8);
    rig_add_frame(&f, FRAME_PING, body, 8);
    rig_add_frame(&f, FRAME_PING, body, DERP_PING_MAX);
    assert_int_equal(feed(t->g, t->a, &f, rig_whole, NULL), 0);
    uint8_t *out = rig_take(t->g, t->a, &n);
    assert_int_equal(n, 2 * (FRAME_HEADER_LEN + 8));
    for (size_t off = 0; off < n; off += FRAME_HEADER_LEN + 8) {
        assert_int_equal(out[off], FRAME_PONG);
        assert_int_equal(wire_get32(out + off + 1), 8);
        assert_memory_equal(out + off + FRAME_HEADER_LEN, "pingpong", 8);
    }
    free(out);
}

static void home_is_told_when_it_changes(void **state)
{
    struct two *t = *state;
    struct rig_bytes f = {0};
    for (int i = 0; i < 3; i++)
        rig_add_frame(&f, FRAME_NOTE_PREFERRED, "\1", 1);
    feed(t->g, t->a, &f, rig_whole, NULL);
    assert_true(t->a->home);
    assert_int_equal(t->g->asked.home, 1);
    rig_add_frame(&f, FRAME_NOTE_PREFERRED, "\0", 1);
    feed(t->g, t->a, &f, rig_whole, NULL);
    assert_false(t->a->home);
    assert_int_equal(t->g->asked.home, 2);
}

static void any_frame_makes_a_connection_the_active_one(void **state)
{
    struct two *t = *state;
    struct rig_bytes f = {0};
    t->a->active = false;
    rig_add_frame(&f, FRAME_KEEP_ALIVE, NULL, 0);
    feed(t->g, t->a, &f, rig_whole, NULL);
    assert_int_equal(t->g->asked.active, 1);
    assert_ptr_equal(t->g->asked.active_conn, t->a);
    rig_add_frame(&f, FRAME_KEEP_ALIVE, NULL, 0);
    feed(t->g, t->a, &f, rig_whole, NULL);
    assert_int_equal(t->g->asked.active, 1);
}

static void unknown_frames_are_skipped_at_every_split(void **state)
{
    struct two *t = *state;
    const uint8_t types[] = {0x00,        0x0b, 0x30, 0x60, 0x61, 0xff, FRAME_RECV_PACKET, FRAME_SERVER_INFO,
                             FRAME_HEALTH};
    srand(5);
    for (size_t most = 1; most < 300000; most = most * 3 + 1) {
        struct rig_bytes f = {0};
        for (size_t i = 0; i < sizeof(types); i++) {
            rig_add_frame(&f, types[i], NULL, i == 3 ? 200000 : (uint32_t)i * 40);
            rig_add_packet(&f, &t->b_key, (uint32_t)i, 50, false);
        }
        assert_int_equal(feed(t->g, t->a, &f, most == 1 ? rig_one_byte : rig_random_step, &most), 0);
        assert_got(t->g, t->b, &t->a_key, (const uint32_t[]){0, 1, 2, 3, 4, 5, 6, 7, 8}, 9);
    }
    assert_int_equal(rig_stat(t->g, STAT_UNKNOWN_FRAMES) % sizeof(types), 0);
    assert_int_equal(t->g->asked.close, 0);
}

static void a_huge_unknown_frame_holds_no_memory(void **state)
{
    struct two *t = *state;
    uint8_t buf[4096];
    struct rig_bytes f = {0};
    memset(buf, 9, sizeof(buf));
    frame_header(buf, 0x7f, 0xffffffff);
    uint64_t done = 0;
    while (done < 10 << 20) { /* taken at once, whatever its length says */
        assert_int_equal(relay_client_input(&t->g->relay, t->a, buf, sizeof(buf)), sizeof(buf));
        done += sizeof(buf);
    }
    assert_int_equal(t->a->skip, 0xffffffffu - (done - FRAME_HEADER_LEN));
    t->a->skip = 0; /* the rest of it passes */
    rig_add_packet(&f, &t->b_key, 1, 50, false);
    feed(t->g, t->a, &f, rig_whole, NULL);
    assert_got(t->g, t->b, &t->a_key, (const uint32_t[]){1}, 1);
}

static void what_no_client_may_send_closes_it(void **state)
{
    static const struct {
        uint8_t type;
        uint32_t len;
        enum stat_id why;
    } bad[] = {
        {FRAME_SEND_PACKET, KEY_LEN - 1, STAT_CLOSED_FRAME},
        {FRAME_SEND_PACKET, 0, STAT_CLOSED_FRAME},
        {FRAME_SEND_PACKET, KEY_LEN + FRAME_PACKET_MAX + 1, STAT_CLOSED_FRAME},
        {FRAME_PING, DERP_PING_MIN - 1, STAT_CLOSED_FRAME},
        {FRAME_PING, DERP_PING_MAX + 1, STAT_CLOSED_FRAME},
        {FRAME_NOTE_PREFERRED, 0, STAT_CLOSED_FRAME},
        {FRAME_NOTE_PREFERRED, 2, STAT_CLOSED_FRAME},
        {FRAME_WATCH_CONNS, 0, STAT_CLOSED_PRIVILEGED},
        {FRAME_FORWARD_PACKET, 100, STAT_CLOSED_PRIVILEGED},
        {FRAME_CLOSE_PEER, KEY_LEN, STAT_CLOSED_PRIVILEGED},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct two *t;
        void *inner;
        setup(&inner);
        t = inner;
        struct rig_bytes f = {0};
        rig_add_packet(&f, &t->b_key, 1, 50, false);
        rig_add_frame(&f, bad[i].type, NULL, bad[i].len);
        rig_add_packet(&f, &t->b_key, 2, 50, false);
        assert_int_equal(feed(t->g, t->a, &f, rig_whole, NULL), -1);
        assert_int_equal(t->g->asked.close, 1);
        assert_ptr_equal(t->g->asked.closed_conn, t->a);
        assert_int_equal(t->g->asked.why, bad[i].why);
        /* what came before it was good */
        assert_got(t->g, t->b, &t->a_key, (const uint32_t[]){1}, 1);
        assert_int_equal(rig_stat(t->g, STAT_PACKETS_IN), 1);
        teardown(&inner);
    }
}

/* ---- all together ---- */

enum { CLIENTS = 8, ROUNDS = 300 };

struct crowd {
    struct rig *g;
    struct conn *client[CLIENTS];
    uint32_t next[CLIENTS][CLIENTS]; /* number of the next packet, from and to */
    uint32_t seen[CLIENTS][CLIENTS];
    uint64_t sent, got;
};

static void check_queue(struct crowd *w, int to)
{
    size_t n, off = 0, len;
    uint8_t *out = rig_take(w->g, w->client[to], &n);
    while (off < n) {
        const struct derp_key *src;
        if (out[off] == FRAME_PEER_GONE || out[off] == FRAME_PONG) {
            off += FRAME_HEADER_LEN + wire_get32(out + off + 1);
            continue;
        }
        const uint8_t *p = next_packet(out, n, &off, &src, &len);
        int from = src->b[0] - 1;
        assert_in_range(from, 0, CLIENTS - 1);
        assert_true(key_equal(src, &w->client[from]->key));
        assert_memory_equal(p + 4, w->client[to]->key.b, 4);
        assert_true(wire_get32(p) >= w->seen[from][to]); /* in order, none twice */
        w->seen[from][to] = wire_get32(p) + 1;
        w->got++;
    }
    free(out);
}

static void add_something(struct crowd *w, struct rig_bytes *f, int from)
{
    int to = rand() % (CLIENTS + 2), what = rand() % 20;
    struct derp_key key = rig_key((uint8_t)(to + 1)); /* the last two are nobody */
    if (what == 0) {
        rig_add_frame(f, (uint8_t)(0x20 + rand() % 0x30), NULL, (uint32_t)rand() % 3000);
    } else if (what == 1) {
        rig_add_frame(f, FRAME_PING, NULL, 8);
    } else if (what == 2) {
        rig_add_frame(f, FRAME_KEEP_ALIVE, NULL, 0);
    } else {
        uint32_t payload = what == 3 ? (uint32_t)rand() % FRAME_PACKET_MAX : (uint32_t)rand() % 1500;
        rig_add_packet(f, &key, to < CLIENTS ? w->next[from][to]++ : 0, payload < 8 ? 8 : payload, false);
        w->sent++;
    }
}

static void every_packet_is_accounted_for(void **state)
{
    struct crowd *w = calloc(1, sizeof(*w));
    (void)state;
    srand(11);
    w->g = rig_new(0, 1, "here");
    for (int i = 0; i < CLIENTS; i++) {
        struct derp_key key = rig_key((uint8_t)(i + 1));
        w->client[i] = rig_client(w->g, &key);
    }
    for (int round = 0; round < ROUNDS; round++) {
        int from = rand() % CLIENTS;
        size_t most = (size_t)1 << (rand() % 18);
        struct rig_bytes f = {0};
        for (int i = rand() % 100; i >= 0; i--)
            add_something(w, &f, from);
        assert_int_equal(feed(w->g, w->client[from], &f, rig_random_step, &most), 0);
        if (rand() % 4 == 0)
            for (int i = 0; i < CLIENTS; i++)
                check_queue(w, i);
    }
    for (int i = 0; i < CLIENTS; i++)
        check_queue(w, i);
    assert_int_equal(rig_stat(w->g, STAT_PACKETS_IN), w->sent);
    assert_int_equal(w->got + rig_drops(w->g), w->sent);
    assert_true(w->got > w->sent / 2);
    assert_true(rig_stat(w->g, STAT_DROP_NO_ROUTE) > 0);
    rig_free(w->g);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_packet_arrives_with_its_senders_key, setup, teardown),
        cmocka_unit_test_setup_teardown(order_holds_for_each_destination, setup, teardown),
        cmocka_unit_test_setup_teardown(to_oneself_is_to_a_client_like_others, setup, teardown),
        cmocka_unit_test_setup_teardown(disco_goes_first, setup, teardown),
        cmocka_unit_test_setup_teardown(who_gets_a_packet_has_heard_its_sender, setup, teardown),
        cmocka_unit_test_setup_teardown(a_closing_destination_is_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(an_overflow_is_counted_and_slows_the_sender, setup, teardown),
        cmocka_unit_test_setup_teardown(only_disco_is_answered_with_not_here_and_seldom, setup, teardown),
        cmocka_unit_test_setup_teardown(a_route_that_just_waits_to_be_read_is_used, setup, teardown),
        cmocka_unit_test_setup_teardown(pings_are_answered, setup, teardown),
        cmocka_unit_test_setup_teardown(home_is_told_when_it_changes, setup, teardown),
        cmocka_unit_test_setup_teardown(any_frame_makes_a_connection_the_active_one, setup, teardown),
        cmocka_unit_test_setup_teardown(unknown_frames_are_skipped_at_every_split, setup, teardown),
        cmocka_unit_test_setup_teardown(a_huge_unknown_frame_holds_no_memory, setup, teardown),
        cmocka_unit_test(what_no_client_may_send_closes_it),
        cmocka_unit_test(every_packet_is_accounted_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
