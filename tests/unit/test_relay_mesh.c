/* The relay between workers and between nodes: batches, links, hops; and that nothing vanishes on the way. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "relay_fixture.h"

static int feed(struct rig *g, struct conn *c, struct rig_bytes *f, bool ready)
{
    size_t left;
    int r = rig_feed(g, c, f->b, f->n, ready, rig_whole, NULL, &left);
    free(f->b);
    *f = (struct rig_bytes){0};
    return r;
}

static void send_one(struct rig *g, struct conn *from, const struct derp_key *dst, uint32_t number,
                     uint32_t payload)
{
    struct rig_bytes f = {0};
    rig_add_packet(&f, dst, number, payload, false);
    assert_int_equal(feed(g, from, &f, false), 0);
}

/* As the worker does at the end of a turn: what g gathered for another goes there. */
static void pass_batch(struct rig *g, struct rig *to)
{
    struct relay_batch *b = &g->relay.batch[to->relay.worker];
    relay_inbox(&to->relay, b->bytes, b->len);
    b->len = 0;
    b->packets = 0;
}

/* What waits on a link goes to the other side's connection. */
static void pass_link(struct rig *g, struct conn *link, struct rig *to, struct conn *to_link)
{
    struct rig_bytes f = {0};
    f.b = rig_take(g, link, &f.n);
    assert_int_equal(feed(to, to_link, &f, true), 0);
}

/* One RecvPacket waits for c, with that number, size and sender. */
static void assert_one(struct rig *g, struct conn *c, const struct derp_key *from, uint32_t number,
                       uint32_t payload)
{
    size_t n;
    uint8_t *out = rig_take(g, c, &n);
    assert_int_equal(n, FRAME_HEADER_LEN + KEY_LEN + payload);
    assert_int_equal(out[0], FRAME_RECV_PACKET);
    assert_int_equal(wire_get32(out + 1), KEY_LEN + payload);
    assert_memory_equal(out + FRAME_HEADER_LEN, from->b, KEY_LEN);
    const uint8_t *p = out + FRAME_HEADER_LEN + KEY_LEN;
    for (uint32_t i = 0; i < payload; i++)
        if (payload < 8 || i >= 8)
            assert_int_equal(p[i], (uint8_t)(number + i));
    if (payload >= 8) {
        assert_int_equal(wire_get32(p), number);
        assert_memory_equal(p + 4, c->key.b, 4);
    }
    free(out);
}

/* ---- two workers of one node ---- */

struct node {
    struct rig *w[2];
    struct derp_key a_key, b_key;
    struct conn *a, *b; /* a on worker 0, b on worker 1; each worker knows both */
};

static int setup_node(void **state)
{
    struct node *t = calloc(1, sizeof(*t));
    t->w[0] = rig_new(0, 2, "here");
    t->w[1] = rig_new(1, 2, "here");
    t->a_key = rig_key(0xa);
    t->b_key = rig_key(0xb);
    t->a = rig_client(t->w[0], &t->a_key);
    t->b = rig_client(t->w[1], &t->b_key);
    struct conn_ref a = rig_ref(t->w[0], t->a), b = rig_ref(t->w[1], t->b);
    routes_local_set(t->w[1]->relay.routes, &t->a_key, &a);
    routes_local_set(t->w[0]->relay.routes, &t->b_key, &b);
    *state = t;
    return 0;
}

static int teardown_node(void **state)
{
    struct node *t = *state;
    rig_free(t->w[0]);
    rig_free(t->w[1]);
    free(t);
    return 0;
}

static void a_packet_crosses_to_another_worker(void **state)
{
    struct node *t = *state;
    const uint32_t sizes[] = {0, 1, 1400, FRAME_PACKET_MAX};
    for (uint32_t i = 0; i < 4; i++) {
        send_one(t->w[0], t->a, &t->b_key, i, sizes[i]);
        assert_int_equal(t->w[0]->relay.batch[1].packets, 1);
        pass_batch(t->w[0], t->w[1]);
        assert_one(t->w[1], t->b, &t->a_key, i, sizes[i]);
    }
    assert_int_equal(rig_stat(t->w[0], STAT_INBOX_OUT), 4);
    assert_int_equal(rig_stat(t->w[1], STAT_INBOX_IN), 4);
    assert_int_equal(rig_drops(t->w[0]) + rig_drops(t->w[1]), 0);
}

static void frames_to_one_destination_stay_one_run(void **state)
{
    struct node *t = *state;
    struct derp_key c_key = rig_key(0xc);
    struct conn *c = rig_client(t->w[1], &c_key);
    struct conn_ref ref = rig_ref(t->w[1], c);
    struct rig_bytes f = {0};
    const uint32_t packets[] = {3, 1, 1, 1};
    routes_local_set(t->w[0]->relay.routes, &c_key, &ref);
    for (uint32_t i = 0; i < 3; i++)
        rig_add_packet(&f, &t->b_key, i, 100, false);
    rig_add_packet(&f, &c_key, 3, 100, false);
    rig_add_packet(&f, &t->b_key, 4, 100, true); /* disco: alone */
    rig_add_packet(&f, &t->b_key, 5, 100, false);
    feed(t->w[0], t->a, &f, false);
    const struct relay_batch *b = &t->w[0]->relay.batch[1];
    size_t off = 0;
    for (int i = 0; i < 4; i++) {
        struct inbox_run head;
        assert_true(off + sizeof(head) <= b->len);
        memcpy(&head, b->bytes + off, sizeof(head));
        assert_int_equal(head.packets, packets[i]);
        assert_int_equal(head.len, packets[i] * (FRAME_HEADER_LEN + KEY_LEN + 100));
        assert_int_equal(head.urgent, i == 2);
        assert_true(key_equal(&head.dst, i == 1 ? &c_key : &t->b_key));
        assert_int_equal(head.from.gen, t->a->gen);
        off += sizeof(head) + head.len;
    }
    assert_int_equal(off, b->len);
}

/* The slot's connection is another one now, or serves another key: what came for the old one is dropped and counted. */
static void a_stale_name_meets_nobody(void **state)
{
    struct node *t = *state;
    size_t n;
    send_one(t->w[0], t->a, &t->b_key, 1, 100);
    uint32_t slot = t->b->slot;
    stream_close(&t->b->stream, "");
    rig_turn(t->w[1]);
    pass_batch(t->w[0], t->w[1]); /* nobody in the slot */
    assert_int_equal(rig_stat(t->w[1], STAT_DROP_GONE), 1);

    send_one(t->w[0], t->a, &t->b_key, 2, 100);
    struct conn *next = rig_client(t->w[1], &t->b_key); /* same key even: still another connection */
    assert_int_equal(next->slot, slot);
    pass_batch(t->w[0], t->w[1]);
    assert_int_equal(rig_stat(t->w[1], STAT_DROP_GONE), 2);

    struct conn_ref ref = rig_ref(t->w[1], next);
    routes_local_set(t->w[0]->relay.routes, &t->b_key, &ref);
    send_one(t->w[0], t->a, &t->b_key, 3, 100);
    struct derp_key kept = next->key;
    next->key = rig_key(0xcc); /* slot and generation fit, the key does not */
    pass_batch(t->w[0], t->w[1]);
    assert_int_equal(rig_stat(t->w[1], STAT_DROP_GONE), 3);
    assert_int_equal(next->stream.q.bytes, 0);

    next->key = kept;
    next->kind = CONN_LOGIN; /* no client (yet) */
    send_one(t->w[0], t->a, &t->b_key, 4, 100);
    pass_batch(t->w[0], t->w[1]);
    assert_int_equal(rig_stat(t->w[1], STAT_DROP_GONE), 4);
    next->kind = CONN_CLIENT;
    send_one(t->w[0], t->a, &t->b_key, 5, 100);
    pass_batch(t->w[0], t->w[1]);
    assert_int_equal(rig_stat(t->w[1], STAT_DROP_GONE), 4);
    uint8_t *out = rig_take(t->w[1], next, &n);
    assert_true(n > 0);
    free(out);
}

static void a_batch_is_bounded_and_what_is_too_much_is_counted(void **state)
{
    struct node *t = *state;
    uint32_t sent = 0;
    for (int i = 0; i < 10; i++) {
        struct rig_bytes f = {0};
        for (int j = 0; j < 10; j++, sent++)
            rig_add_packet(&f, &t->b_key, sent, FRAME_PACKET_MAX, false);
        feed(t->w[0], t->a, &f, false);
    }
    const struct relay_batch *b = &t->w[0]->relay.batch[1];
    assert_true(b->len <= RELAY_BATCH_MAX);
    assert_true(rig_stat(t->w[0], STAT_DROP_INBOX_FULL) > 0);
    assert_int_equal(b->packets + rig_stat(t->w[0], STAT_DROP_INBOX_FULL), sent);
    assert_true(t->w[0]->asked.slow_down > 0);
    pass_batch(t->w[0], t->w[1]); /* more than its queue takes: the sender over there is told */
    assert_true(t->w[1]->asked.slow_down_other > 0);
    assert_int_equal(t->w[1]->asked.slowed.gen, t->a->gen);
}

/* ---- two nodes ---- */

struct pair {
    struct rig *x, *y;
    struct conn *xy, *yx; /* the link, as each end has it */
    struct derp_key a_key, b_key;
    struct conn *a, *b; /* a on x, b on y */
};

static int setup_pair(void **state)
{
    struct pair *t = calloc(1, sizeof(*t));
    t->x = rig_new(0, 1, "x");
    t->y = rig_new(0, 1, "y");
    t->xy = rig_link(t->x, 3, "y");
    t->yx = rig_link(t->y, 0, "x");
    t->a_key = rig_key(0xa);
    t->b_key = rig_key(0xb);
    t->a = rig_client(t->x, &t->a_key);
    t->b = rig_client(t->y, &t->b_key);
    routes_remote_set(t->x->relay.routes, &t->b_key, 3);
    routes_remote_set(t->y->relay.routes, &t->a_key, 0);
    *state = t;
    return 0;
}

static int teardown_pair(void **state)
{
    struct pair *t = *state;
    rig_free(t->x);
    rig_free(t->y);
    free(t);
    return 0;
}

static void a_packet_crosses_the_mesh_unchanged(void **state)
{
    struct pair *t = *state;
    const uint32_t sizes[] = {0, 1, 7, 1400, FRAME_PACKET_MAX};
    for (uint32_t i = 0; i < 5; i++) {
        send_one(t->x, t->a, &t->b_key, i, sizes[i]);
        pass_link(t->x, t->xy, t->y, t->yx);
        assert_one(t->y, t->b, &t->a_key, i, sizes[i]);
    }
    assert_int_equal(rig_stat(t->y, STAT_FORWARDED_IN), 5);
    assert_int_equal(rig_drops(t->x) + rig_drops(t->y), 0);
    assert_int_equal(t->y->asked.glean, 0); /* a is known there */
}

static void a_link_frame_says_where_from_and_where_to(void **state)
{
    struct pair *t = *state;
    struct frame f;
    struct mesh_data d;
    size_t n;
    send_one(t->x, t->a, &t->b_key, 1, 100);
    uint8_t *out = rig_take(t->x, t->xy, &n);
    assert_int_equal(frame_peek(&f, out, n), n);
    assert_int_equal(mesh_data_parse(&d, &f), 0);
    assert_int_equal(d.hops, MESH_HOPS_START);
    assert_int_equal(d.flags, 0);
    assert_memory_equal(&d.dst_node, &t->y->relay.self, sizeof(d.dst_node));
    assert_memory_equal(&d.src_node, &t->x->relay.self, sizeof(d.src_node));
    assert_true(key_equal(d.src, &t->a_key) && key_equal(d.dst, &t->b_key));
    free(out);
}

static void a_link_on_another_worker_takes_it_from_there(void **state)
{
    struct node *t = *state;
    struct rig *far = rig_new(0, 1, "far");
    struct conn *in = rig_link(far, 0, "here"), *out = rig_link(t->w[1], 2, "far");
    struct derp_key key = rig_key(0xf);
    struct conn *f = rig_client(far, &key);
    struct conn_ref ref = rig_ref(t->w[1], out);
    rig_path(t->w[0], 2, "far", 2, &ref, 1);
    routes_remote_set(t->w[0]->relay.routes, &key, 2);
    send_one(t->w[0], t->a, &key, 9, 300);
    pass_batch(t->w[0], t->w[1]);
    pass_link(t->w[1], out, far, in);
    assert_one(far, f, &t->a_key, 9, 300);
    send_one(t->w[0], t->a, &key, 9, 300); /* the link goes while it is on its way */
    stream_close(&out->stream, "");
    pass_batch(t->w[0], t->w[1]);
    assert_int_equal(rig_stat(t->w[1], STAT_DROP_GONE), 1);
    rig_turn(t->w[1]);
    send_one(t->w[0], t->a, &key, 9, 300);
    pass_batch(t->w[0], t->w[1]);
    assert_int_equal(rig_stat(t->w[1], STAT_DROP_GONE), 2);
    rig_free(far);
}

/* A data frame made by hand, as a peer may send it. */
static void add_data(struct rig_bytes *f, uint8_t flags, uint8_t hops, const char *dst_node,
                     const struct derp_key *dst, const struct derp_key *src, uint32_t payload)
{
    struct node_id to, from;
    node_id_of(&to, dst_node);
    node_id_of(&from, "x");
    uint8_t *p = rig_more(f, MESH_DATA_OVERHEAD + payload);
    mesh_data_header(p, flags, hops, &to, &from, dst, src, payload);
    memset(p + MESH_DATA_OVERHEAD, 1, payload);
}

static void what_a_node_must_not_pass_on_is_counted(void **state)
{
    struct pair *t = *state;
    struct rig_bytes f = {0};
    struct derp_key nobody = rig_key(0xee);
    add_data(&f, 1, 3, "y", &t->b_key, &t->a_key, 10);    /* a flag that must be understood */
    add_data(&f, 0x10, 3, "y", &t->b_key, &t->a_key, 10); /* one that need not */
    add_data(&f, 0, 0, "y", &t->b_key, &t->a_key, 10);    /* no hops left */
    add_data(&f, 0, 3, "y", &nobody, &t->a_key, 10);
    rig_add_frame(&f, FRAME_MESH_DATA, NULL, 20); /* too short for its header */
    assert_int_equal(feed(t->y, t->yx, &f, true), 0);
    assert_int_equal(rig_stat(t->y, STAT_FORWARDED_IN), 5);
    assert_int_equal(rig_stat(t->y, STAT_DROP_MESH_BAD), 2);
    assert_int_equal(rig_stat(t->y, STAT_DROP_MESH_HOPS), 1);
    assert_int_equal(rig_stat(t->y, STAT_DROP_MESH_NO_CLIENT), 1);
    assert_int_equal(t->y->asked.not_here, 1); /* where it came in is told */
    assert_true(key_equal(&t->y->asked.missed, &nobody));
    assert_memory_equal(&t->y->asked.missed_at, &t->x->relay.self, sizeof(struct node_id));
    size_t n;
    free(rig_take(t->y, t->b, &n));
    assert_int_equal(n, FRAME_HEADER_LEN + KEY_LEN + 10);
}

/* A client of x is at home at y now, and its connection here does not answer: local senders reach it there. */
static void a_half_dead_connection_is_passed_by(void **state)
{
    struct pair *t = *state;
    struct derp_key key = rig_key(0xd);
    struct conn *old = rig_client(t->x, &key), *new_one = rig_client(t->y, &key);
    routes_remote_set(t->x->relay.routes, &key, t->xy->node);
    old->stream.answer_at = UINT64_MAX; /* nobody looks: it is as said here */
    for (int how = 0; how < 4; how++) {
        old->doubted = how & 1;
        old->stream.unanswered = how >> 1;
        size_t before = old->stream.q.bytes, link = t->xy->stream.q.bytes;
        send_one(t->x, t->a, &key, 4, 500);
        assert_int_equal(old->stream.q.bytes > before, how != 3); /* local first, but for this */
        assert_int_equal(t->xy->stream.q.bytes > link, how == 3);
    }
    pass_link(t->x, t->xy, t->y, t->yx);
    assert_one(t->y, new_one, &t->a_key, 4, 500);
    /* y believes the same of x: it does not come back. */
    struct rig_bytes f = {0};
    routes_remote_set(t->y->relay.routes, &key, t->yx->node);
    new_one->doubted = new_one->stream.unanswered = true;
    new_one->stream.answer_at = UINT64_MAX;
    add_data(&f, 0, 3, "y", &key, &t->a_key, 10);
    assert_int_equal(feed(t->y, t->yx, &f, true), 0);
    assert_int_equal(t->yx->stream.q.bytes, 0);
    assert_true(new_one->stream.q.bytes > 0);
}

/* The client has just moved on to a third node: once more, with one hop less; never back where it came from. */
static void a_packet_follows_a_client_that_moved(void **state)
{
    struct pair *t = *state;
    struct rig *z = rig_new(0, 1, "z");
    struct conn *yz = rig_link(t->y, 1, "z"), *zy = rig_link(z, 0, "y");
    struct derp_key key = rig_key(0xc);
    struct conn *c = rig_client(z, &key);
    routes_remote_set(t->x->relay.routes, &key, 3); /* x still believes in y */
    routes_remote_set(t->y->relay.routes, &key, 1);
    send_one(t->x, t->a, &key, 4, 500);
    pass_link(t->x, t->xy, t->y, t->yx);
    assert_int_equal(yz->stream.q.bytes, MESH_DATA_OVERHEAD + 500);
    pass_link(t->y, yz, z, zy);
    assert_one(z, c, &t->a_key, 4, 500);
    assert_memory_equal(&z->asked.gleaned_at, &t->x->relay.self, sizeof(struct node_id)); /* not y */

    routes_remote_set(t->y->relay.routes, &key, 0); /* y believes in x: no ping-pong */
    send_one(t->x, t->a, &key, 5, 500);
    pass_link(t->x, t->xy, t->y, t->yx);
    assert_int_equal(t->yx->stream.q.bytes, 0);
    assert_int_equal(rig_stat(t->y, STAT_DROP_MESH_NO_CLIENT), 1);

    struct rig_bytes f = {0};
    routes_remote_set(t->y->relay.routes, &key, 1);
    add_data(&f, 0, 1, "y", &key, &t->a_key, 10); /* its last hop was this one */
    feed(t->y, t->yx, &f, true);
    assert_int_equal(yz->stream.q.bytes, 0);
    assert_int_equal(rig_stat(t->y, STAT_DROP_MESH_NO_CLIENT), 2);
    rig_free(z);
}

/* x reaches z only over y: y hands on what names z, directly, with one hop less; nothing else. */
static void a_transit_node_hands_on_directly_or_not_at_all(void **state)
{
    struct pair *t = *state;
    struct rig *z = rig_new(0, 1, "z");
    struct conn *yz = rig_link(t->y, 1, "z"), *zy = rig_link(z, 0, "y");
    struct conn_ref at_y = rig_ref(t->y, yz);
    struct derp_key key = rig_key(0xc);
    struct conn *c = rig_client(z, &key);
    rig_path(t->x, 4, "z", 3, NULL, 0);
    routes_remote_set(t->x->relay.routes, &key, 4);
    send_one(t->x, t->a, &key, 4, 500);
    pass_link(t->x, t->xy, t->y, t->yx);
    assert_int_equal(rig_stat(t->y, STAT_TRANSIT), 1);
    assert_int_equal(t->y->asked.glean, 0); /* what is handed on tells y nothing */
    pass_link(t->y, yz, z, zy);
    assert_one(z, c, &t->a_key, 4, 500);
    assert_memory_equal(&z->asked.gleaned_at, &t->x->relay.self, sizeof(struct node_id));

    rig_path(t->y, 1, "z", 0, &at_y, 1); /* y's own data takes another way now, packets in transit do not */
    struct rig_bytes f = {0};
    add_data(&f, 0, 2, "z", &key, &t->a_key, 10);
    add_data(&f, 0, 1, "z", &key, &t->a_key, 10);       /* its last hop was this one */
    add_data(&f, 0, 3, "x", &t->a_key, &t->b_key, 10);  /* where it came from */
    add_data(&f, 0, 3, "nowhere", &key, &t->a_key, 10); /* not known here */
    feed(t->y, t->yx, &f, true);
    assert_int_equal(rig_stat(t->y, STAT_TRANSIT), 2);
    assert_int_equal(rig_stat(t->y, STAT_DROP_MESH_HOPS), 1);
    assert_int_equal(rig_stat(t->y, STAT_DROP_MESH_TRANSIT), 2);
    assert_int_equal(t->yx->stream.q.bytes, 0);

    rig_path(t->y, 1, "z", 0, NULL, 0); /* no connection of its own: no detour */
    add_data(&f, 0, 3, "z", &key, &t->a_key, 10);
    feed(t->y, t->yx, &f, true);
    assert_int_equal(rig_stat(t->y, STAT_DROP_MESH_TRANSIT), 3);
    assert_int_equal(t->yx->stream.q.bytes, 0);
    /* x is told, but not for each packet. */
    assert_int_equal(t->y->asked.unreach, 1);
    rig_path(t->y, 1, "z", 1, &at_y, 1);
    t->y->relay.transit_off = true; /* its operator does not want it: neither */
    t->y->relay.nodes[t->yx->node].unreach_at = 0;
    add_data(&f, 0, 3, "z", &key, &t->a_key, 10);
    feed(t->y, t->yx, &f, true);
    assert_int_equal(rig_stat(t->y, STAT_DROP_MESH_TRANSIT), 4);
    assert_int_equal(t->y->asked.unreach, 2);
    assert_memory_equal(&t->y->asked.unreached, &z->relay.self, sizeof(struct node_id));
    /* No way from x for now: the route stays, and disco is not told NotHere. */
    rig_path(t->x, 4, "z", NODE_NONE, NULL, 0);
    rig_add_packet(&f, &key, 5, 200, true);
    feed(t->x, t->a, &f, false);
    assert_int_equal(rig_stat(t->x, STAT_DROP_MESH_NO_PATH), 1);
    assert_int_equal(rig_stat(t->x, STAT_PEER_GONE_NOT_HERE), 0);
    rig_free(z);
}

/* As a later version may write a frame: flags that need not be understood, and more before the keys. */
static void add_later_data(struct rig_bytes *f, uint8_t hdr, uint8_t flags, const char *dst_node,
                           const struct derp_key *dst, const struct derp_key *src, uint32_t number,
                           uint32_t payload)
{
    enum { KEYS = 2 * KEY_LEN, FIXED = MESH_DATA_HDR - KEYS };
    struct node_id to, from;
    uint8_t now[MESH_DATA_OVERHEAD];
    node_id_of(&to, dst_node);
    node_id_of(&from, "x");
    uint8_t *p = rig_more(f, FRAME_HEADER_LEN + hdr + payload);
    mesh_data_header(now, flags, MESH_HOPS_START, &to, &from, dst, src, payload);
    frame_header(p, FRAME_MESH_DATA, hdr + payload);
    memcpy(p + FRAME_HEADER_LEN, now + FRAME_HEADER_LEN, FIXED);
    p[FRAME_HEADER_LEN] = hdr;
    p[FRAME_HEADER_LEN + 3] = 0xa5; /* zero today */
    memset(p + FRAME_HEADER_LEN + FIXED, 0xee, hdr - FIXED - KEYS);
    memcpy(p + FRAME_HEADER_LEN + hdr - KEYS, now + FRAME_HEADER_LEN + FIXED, KEYS);
    p += FRAME_HEADER_LEN + hdr;
    for (uint32_t i = 0; i < payload; i++)
        p[i] = (uint8_t)(number + i);
    wire_put32(p, number);
    memcpy(p + 4, dst->b, 4);
}

static void frames_of_a_later_version_are_delivered_and_handed_on(void **state)
{
    struct pair *t = *state;
    struct rig *z = rig_new(0, 1, "z");
    struct conn *yz = rig_link(t->y, 1, "z"), *zy = rig_link(z, 0, "y");
    struct derp_key key = rig_key(0xc);
    struct conn *c = rig_client(z, &key);
    const uint8_t hdr[] = {MESH_DATA_HDR, MESH_DATA_HDR + 1, 120, MESH_DATA_HDR_MAX};
    const uint8_t flags[] = {0xf0, 0, 0x80, 0x50};
    const uint32_t sizes[] = {8, 1400, 500, FRAME_PACKET_MAX};
    for (uint32_t i = 0; i < sizeof(hdr); i++) {
        struct rig_bytes f = {0};
        add_later_data(&f, hdr[i], flags[i], "y", &t->b_key, &t->a_key, i, sizes[i]);
        assert_int_equal(feed(t->y, t->yx, &f, true), 0);
        assert_one(t->y, t->b, &t->a_key, i, sizes[i]);
        add_later_data(&f, hdr[i], flags[i], "z", &key, &t->a_key, i, sizes[i]);
        assert_int_equal(feed(t->y, t->yx, &f, true), 0);
        pass_link(t->y, yz, z, zy);
        assert_one(z, c, &t->a_key, i, sizes[i]);
        assert_memory_equal(&z->asked.gleaned_at, &t->x->relay.self, sizeof(struct node_id));
    }
    assert_int_equal(rig_stat(t->y, STAT_TRANSIT), sizeof(hdr));
    assert_int_equal(rig_drops(t->y) + rig_drops(z), 0);
    struct rig_bytes f = {0}; /* one flag that has to be understood among others */
    add_later_data(&f, 120, 0xf8, "y", &t->b_key, &t->a_key, 9, 100);
    add_later_data(&f, 120, 0xf1, "z", &key, &t->a_key, 9, 100);
    assert_int_equal(feed(t->y, t->yx, &f, true), 0);
    assert_int_equal(rig_stat(t->y, STAT_DROP_MESH_BAD), 2);
    assert_int_equal(t->b->stream.q.bytes + yz->stream.q.bytes, 0);
    rig_free(z);
}

/* What other nodes send through here has the share of one client of ours, however many senders that is. */
static void transit_does_not_push_out_our_own(void **state)
{
    struct pair *t = *state;
    struct rig *z = rig_new(0, 1, "z");
    struct conn *yz = rig_link(t->y, 1, "z");
    struct derp_key key = rig_key(0xc);
    routes_remote_set(t->y->relay.routes, &key, 1);
    for (uint32_t i = 0; i < 100; i++) /* 100 KB of ours, far below half of what may wait */
        send_one(t->y, t->b, &key, i, 1000);
    for (uint32_t i = 0; i < 3000; i++) {
        struct rig_bytes f = {0};
        struct derp_key stranger = rig_key((uint8_t)(0x20 + i % 50)); /* fifty senders */
        add_data(&f, 0, 3, "z", &key, &stranger, 1000);
        feed(t->y, t->yx, &f, true);
    }
    assert_true(rig_stat(t->y, STAT_DROP_QUEUE_FULL) > 500);
    size_t n, ours = 0, off = 0, first = 0;
    uint8_t *out = rig_take(t->y, yz, &n);
    for (size_t at = 0; off < n; at++) {
        struct frame f;
        struct mesh_data d;
        off += frame_peek(&f, out + off, n - off);
        assert_int_equal(mesh_data_parse(&d, &f), 0);
        ours += key_equal(d.src, &t->b_key);
        if (at < 120)
            first += key_equal(d.src, &t->b_key);
    }
    free(out);
    assert_int_equal(ours, 100);
    assert_true(first > 30); /* they take turns */
    rig_free(z);
}

/* b, a client of y, takes nothing of what a, a client of x, sends: x hears it and drops that and nothing else, for a while. */
static void a_full_client_is_told_to_its_senders_node(void **state)
{
    struct pair *t = *state;
    struct derp_key c_key = rig_key(0xc), d_key = rig_key(0xd);
    struct conn *c = rig_client(t->x, &c_key);
    uint64_t now = uv_now(&t->x->loop);
    routes_remote_set(t->x->relay.routes, &d_key, 3);
    rig_client(t->y, &d_key);
    for (uint32_t i = 0; i < 250; i++) {
        send_one(t->x, t->a, &t->b_key, i, 1000);
        pass_link(t->x, t->xy, t->y, t->yx);
    }
    assert_int_equal(t->y->asked.client_busy, 1); /* seldom */
    assert_true(key_equal(&t->y->asked.busy_src, &t->a_key));
    assert_memory_equal(&t->y->asked.busy_node, &t->x->relay.self, sizeof(struct node_id));
    assert_in_range(t->y->asked.busy_ms, 1, MESH_BUSY_MAX_MS);

    relay_busy(&t->x->relay, &t->b_key, &t->a_key, now + 50);
    send_one(t->x, t->a, &t->b_key, 1, 1000);
    assert_int_equal(rig_stat(t->x, STAT_DROP_BUSY), 1);
    assert_int_equal(t->x->asked.slow_down, 1);
    assert_int_equal(t->xy->stream.q.bytes, 0);
    struct rig_bytes f = {0};
    rig_add_packet(&f, &t->b_key, 2, 100, true); /* disco finds a way */
    rig_add_packet(&f, &d_key, 3, 100, false);   /* to another one */
    feed(t->x, t->a, &f, false);
    send_one(t->x, c, &t->b_key, 4, 100); /* from another one */
    assert_int_equal(rig_stat(t->x, STAT_DROP_BUSY), 1);
    assert_true(t->xy->stream.q.bytes >= 3 * (MESH_DATA_OVERHEAD + 100));
    relay_busy(&t->x->relay, &t->b_key, &t->a_key, now); /* over */
    send_one(t->x, t->a, &t->b_key, 5, 1000);
    assert_int_equal(rig_stat(t->x, STAT_DROP_BUSY), 1);

    /* One whose flow is thin is not the one to blame. */
    t->b->busy_at = 0;
    uv_update_time(&t->y->loop);
    add_data(&f, 0, 3, "y", &t->b_key, &c_key, 10);
    feed(t->y, t->yx, &f, true);
    assert_int_equal(t->y->asked.client_busy, 1);
}

enum { FLOWS = 400 };

/* Which of the lanes holds the one packet that is sent from a to each of the keys. */
static void lanes_taken(struct pair *t, struct conn *const lane[4], uint8_t taken[FLOWS])
{
    for (uint32_t i = 0; i < FLOWS; i++) {
        struct derp_key key = rig_key((uint8_t)i);
        key.b[3] = (uint8_t)(i >> 8);
        routes_remote_set(t->x->relay.routes, &key, 3);
        send_one(t->x, t->a, &key, i, 100);
        taken[i] = 4;
        for (uint8_t k = 0; k < 4; k++) {
            size_t n;
            free(rig_take(t->x, lane[k], &n));
            if (n > 0) {
                assert_int_equal(taken[i], 4);
                taken[i] = k;
            }
        }
        assert_true(taken[i] < 4);
    }
}

/* Flows are spread over a node's lanes, each keeps to its own, and a lane that goes moves no others. */
static void flows_are_spread_over_lanes(void **state)
{
    struct pair *t = *state;
    struct conn *lane[4] = {t->xy, rig_link(t->x, 5, "u"), rig_link(t->x, 6, "v"), rig_link(t->x, 7, "w")};
    struct conn_ref ref[4];
    uint8_t before[FLOWS], after[FLOWS], again[FLOWS];
    uint32_t n[4] = {0};
    for (int k = 0; k < 4; k++)
        ref[k] = rig_ref(t->x, lane[k]);
    rig_path(t->x, 3, "y", 3, ref, 4);
    lanes_taken(t, lane, before);
    lanes_taken(t, lane, again);
    assert_memory_equal(before, again, sizeof(before));
    for (int i = 0; i < FLOWS; i++)
        n[before[i]]++;
    for (int k = 0; k < 4; k++)
        assert_in_range(n[k], FLOWS / 8, FLOWS / 2);
    ref[1] = ref[3];
    rig_path(t->x, 3, "y", 3, ref, 3);
    lanes_taken(t, lane, after);
    for (int i = 0; i < FLOWS; i++)
        assert_true(before[i] == 1 ? after[i] != 1 : after[i] == before[i]);
}

static void an_unknown_source_is_gleaned_once(void **state)
{
    struct pair *t = *state;
    struct derp_key key = rig_key(0x99);
    struct rig_bytes f = {0};
    for (int i = 0; i < 5; i++)
        add_data(&f, 0, 3, "y", &t->b_key, &key, 10);
    feed(t->y, t->yx, &f, true);
    assert_int_equal(t->y->asked.glean, 1);
    assert_true(key_equal(&t->y->asked.gleaned, &key));
    assert_memory_equal(&t->y->asked.gleaned_at, &t->x->relay.self, sizeof(struct node_id));
    relay_gone(&t->y->relay, &key); /* it may come again */
    add_data(&f, 0, 3, "y", &t->b_key, &key, 10);
    feed(t->y, t->yx, &f, true);
    assert_int_equal(t->y->asked.glean, 2);
}

static void no_link_is_no_route(void **state)
{
    struct pair *t = *state;
    rig_path(t->x, 3, "y", NODE_NONE, NULL, 0);
    send_one(t->x, t->a, &t->b_key, 1, 100);
    assert_int_equal(rig_stat(t->x, STAT_DROP_MESH_NO_PATH), 1);
    struct derp_key far = rig_key(0xf1);
    routes_remote_set(t->x->relay.routes, &far, 4000); /* a node not told of yet */
    send_one(t->x, t->a, &far, 1, 100);
    assert_int_equal(rig_stat(t->x, STAT_DROP_MESH_NO_PATH), 2);
    routes_remote_set(t->x->relay.routes, &far, NODE_NONE);
    send_one(t->x, t->a, &far, 1, 100);
    assert_int_equal(rig_stat(t->x, STAT_DROP_NO_ROUTE), 1);
}

static void before_it_has_proven_itself_a_link_says_little(void **state)
{
    static const struct {
        uint8_t type;
        uint32_t len;
        bool ready, closes;
    } cases[] = {
        {FRAME_MESH_CONTROL, 4 << 10, false, false},
        {FRAME_MESH_CONTROL, (4 << 10) + 1, false, true},
        {FRAME_MESH_CONTROL, 64 << 10, true, false},
        {FRAME_MESH_CONTROL, (64 << 10) + 1, true, true},
        {FRAME_MESH_DATA, 100, false, true},
        {FRAME_MESH_DATA, 255 + FRAME_PACKET_MAX + 1, true, true},
        {FRAME_KEEP_ALIVE, 0, false, true},
        {FRAME_SEND_PACKET, 100, false, true},
        {FRAME_KEEP_ALIVE, 0, true, false},
        {0x7f, 100000, true, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        void *inner;
        setup_pair(&inner);
        struct pair *t = inner;
        struct rig_bytes f = {0};
        rig_add_frame(&f, cases[i].type, NULL, cases[i].len);
        assert_int_equal(feed(t->y, t->yx, &f, cases[i].ready), cases[i].closes ? -1 : 0);
        assert_int_equal(t->y->asked.close, cases[i].closes);
        if (cases[i].type == FRAME_MESH_CONTROL && !cases[i].closes)
            assert_int_equal(t->y->asked.control_len, cases[i].len);
        assert_int_equal(t->b->stream.q.bytes, 0);
        teardown_pair(&inner);
    }
}

/* ---- any bytes, any splits ---- */

static uint64_t queued(struct rig *g)
{
    uint64_t packets = 0;
    for (uint32_t i = 0; i < g->relay.conns.n_slots; i++) {
        struct conn *c = g->relay.conns.slot[i];
        size_t n, off = 0;
        uint8_t *out = c ? rig_take(g, c, &n) : NULL;
        for (n = c ? n : 0; off < n; off += FRAME_HEADER_LEN + wire_get32(out + off + 1))
            packets += out[off] == FRAME_RECV_PACKET || out[off] == FRAME_MESH_DATA;
        free(out);
    }
    return packets;
}

static void add_random(struct rig_bytes *f, const struct derp_key *keys, int n_keys)
{
    const struct derp_key *dst = &keys[rand() % n_keys], *src = &keys[rand() % n_keys];
    int what = rand() % 20;
    uint32_t size = (uint32_t)rand() % (rand() % 50 ? 1500 : FRAME_PACKET_MAX);
    if (what < 12)
        add_data(f, what == 1 ? (uint8_t)rand() : 0, (uint8_t)(rand() % 4), what == 2 ? "z" : "y", dst, src,
                 size);
    else if (what < 15)
        rig_add_frame(f, FRAME_MESH_CONTROL, NULL, size < 4096 ? size : 4096);
    else if (what < 17)
        rig_add_frame(f, FRAME_MESH_DATA, NULL, size);
    else
        rig_add_frame(f, (uint8_t)(0x62 + rand() % 100), NULL, size);
}

static void every_packet_from_a_link_is_accounted_for(void **state)
{
    struct pair *t = *state;
    struct derp_key keys[] = {t->a_key, t->b_key, rig_key(1), rig_key(2), rig_key(3)};
    struct conn *yz = rig_link(t->y, 1, "z");
    uint64_t got = 0;
    (void)yz;
    srand(21);
    routes_remote_set(t->y->relay.routes, &keys[3], 1); /* 3: at z, 4: nowhere */
    struct conn *gone = rig_client(t->y, &keys[2]);
    stream_close(&gone->stream, "");
    for (int round = 0; round < 400; round++) {
        size_t most = (size_t)1 << (rand() % 18), left;
        struct rig_bytes f = {0};
        for (int i = rand() % 60; i >= 0; i--)
            add_random(&f, keys, 5);
        assert_int_equal(rig_feed(t->y, t->yx, f.b, f.n, true, rig_random_step, &most, &left), 0);
        assert_int_equal(left, 0);
        free(f.b);
        got += queued(t->y);
        assert_int_equal(got + rig_drops(t->y), rig_stat(t->y, STAT_FORWARDED_IN));
    }
    assert_true(got > 1000);
    assert_true(rig_stat(t->y, STAT_DROP_GONE) > 0 && rig_stat(t->y, STAT_DROP_MESH_NO_CLIENT) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_packet_crosses_to_another_worker, setup_node, teardown_node),
        cmocka_unit_test_setup_teardown(frames_to_one_destination_stay_one_run, setup_node, teardown_node),
        cmocka_unit_test_setup_teardown(a_stale_name_meets_nobody, setup_node, teardown_node),
        cmocka_unit_test_setup_teardown(a_batch_is_bounded_and_what_is_too_much_is_counted, setup_node,
                                        teardown_node),
        cmocka_unit_test_setup_teardown(a_link_on_another_worker_takes_it_from_there, setup_node,
                                        teardown_node),
        cmocka_unit_test_setup_teardown(a_packet_crosses_the_mesh_unchanged, setup_pair, teardown_pair),
        cmocka_unit_test_setup_teardown(a_link_frame_says_where_from_and_where_to, setup_pair, teardown_pair),
        cmocka_unit_test_setup_teardown(what_a_node_must_not_pass_on_is_counted, setup_pair, teardown_pair),
        cmocka_unit_test_setup_teardown(a_packet_follows_a_client_that_moved, setup_pair, teardown_pair),
        cmocka_unit_test_setup_teardown(a_half_dead_connection_is_passed_by, setup_pair, teardown_pair),
        cmocka_unit_test_setup_teardown(a_transit_node_hands_on_directly_or_not_at_all, setup_pair,
                                        teardown_pair),
        cmocka_unit_test_setup_teardown(frames_of_a_later_version_are_delivered_and_handed_on, setup_pair,
                                        teardown_pair),
        cmocka_unit_test_setup_teardown(transit_does_not_push_out_our_own, setup_pair, teardown_pair),
        cmocka_unit_test_setup_teardown(a_full_client_is_told_to_its_senders_node, setup_pair, teardown_pair),
        cmocka_unit_test_setup_teardown(flows_are_spread_over_lanes, setup_pair, teardown_pair),
        cmocka_unit_test_setup_teardown(an_unknown_source_is_gleaned_once, setup_pair, teardown_pair),
        cmocka_unit_test_setup_teardown(no_link_is_no_route, setup_pair, teardown_pair),
        cmocka_unit_test(before_it_has_proven_itself_a_link_says_little),
        cmocka_unit_test_setup_teardown(every_packet_from_a_link_is_accounted_for, setup_pair, teardown_pair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
