/* The send queue: order, fairness, bounds, and that every packet is accounted for. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "node/sendq.h"
#include "proto/frame.h"
#include "proto/wire.h"

struct fixture {
    struct buf_pool pool;
    struct sendq q;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    buf_pool_init(&f->pool);
    sendq_init(&f->q);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    sendq_clear(&f->q, &f->pool);
    assert_int_equal(f->q.bytes, 0);
    assert_int_equal(f->pool.held, 0);
    buf_pool_deinit(&f->pool);
    free(f);
    return 0;
}

/* A packet that names its sender and number. */
static size_t make(uint8_t *out, uint8_t type, uint32_t sender, uint32_t seq, size_t payload)
{
    size_t len = 8 + payload;
    frame_header(out, type, (uint32_t)len);
    wire_put32(out + FRAME_HEADER_LEN, sender);
    wire_put32(out + FRAME_HEADER_LEN + 4, seq);
    memset(out + FRAME_HEADER_LEN + 8, (int)(sender + seq), payload);
    return FRAME_HEADER_LEN + len;
}

static struct sendq_loss push(struct fixture *f, uint32_t sender, uint32_t seq, size_t payload,
                              uint32_t limit)
{
    static uint8_t buf[CHUNK_LARGE];
    struct sendq_loss loss = {0};
    size_t n = make(buf, FRAME_RECV_PACKET, sender, seq, payload);
    sendq_push(&f->q, &f->pool, SENDQ_DATA, sender, buf, n, limit, 1000, &loss);
    return loss;
}

/* Takes everything and calls back for each frame; returns packets that sendq_took counted. */
static uint32_t drain(struct fixture *f, uint64_t now, size_t step,
                      void (*each)(void *, const uint8_t *, size_t), void *ctx, struct sendq_loss *loss)
{
    static uint8_t wire[8 << 20];
    size_t have = 0, len;
    uint32_t packets = 0;
    const uint8_t *p;
    while ((p = sendq_next(&f->q, &f->pool, now, &len, loss))) {
        size_t k = len < step ? len : step;
        assert_true(have + k <= sizeof(wire));
        memcpy(wire + have, p, k);
        have += k;
        packets += sendq_took(&f->q, &f->pool, k);
    }
    size_t off = 0;
    while (off < have) {
        struct frame fr;
        size_t size = frame_peek(&fr, wire + off, have - off);
        assert_true(size > 0); /* whole frames only, never torn by another sender */
        if (each)
            each(ctx, wire + off, size);
        off += size;
    }
    assert_int_equal(f->q.bytes, 0);
    return packets;
}

struct seen {
    uint32_t next[128], count[128];
    uint32_t first_type;
};

static void see(void *ctx, const uint8_t *frame, size_t size)
{
    struct seen *s = ctx;
    (void)size;
    if (!s->first_type)
        s->first_type = frame[0];
    if (frame[0] != FRAME_RECV_PACKET)
        return;
    uint32_t sender = wire_get32(frame + 5), seq = wire_get32(frame + 9);
    assert_true(seq >= s->next[sender]); /* in order */
    s->next[sender] = seq + 1;
    s->count[sender]++;
}

static void order_is_kept_per_sender(void **state)
{
    struct fixture *f = *state;
    struct seen s = {0};
    struct sendq_loss loss = {0};
    for (uint32_t i = 0; i < 300; i++)
        push(f, i % 3, i, 100 + i % 1400, 1 << 20);
    assert_int_equal(drain(f, 1000, 1000, see, &s, &loss), 300);
    assert_int_equal(s.count[0] + s.count[1] + s.count[2], 300);
    assert_int_equal(loss.full + loss.old + loss.no_memory, 0);
}

static void runs_are_copied_whole(void **state)
{
    struct fixture *f = *state;
    static uint8_t run[100000];
    size_t n = 0;
    struct sendq_loss loss = {0};
    struct seen s = {0};
    for (uint32_t i = 0; i < 60; i++)
        n += make(run + n, FRAME_RECV_PACKET, 7, i, 1400);
    sendq_push(&f->q, &f->pool, SENDQ_DATA, 7, run, n, 1 << 20, 1000, &loss);
    assert_int_equal(f->q.bytes, n);
    assert_int_equal(drain(f, 1000, 16384, see, &s, &loss), 60);
    assert_int_equal(s.count[7], 60);
}

static void flooder_loses_his_own(void **state)
{
    struct fixture *f = *state;
    struct seen s = {0};
    struct sendq_loss loss = {0};
    uint32_t lost = 0;
    for (uint32_t i = 0; i < 2000; i++) {
        lost += push(f, 9, i, 1400, SENDQ_LIMIT).full;
        if (i % 200 == 0)
            for (uint32_t polite = 0; polite < 9; polite++)
                lost += push(f, polite, i, 200, SENDQ_LIMIT).full;
    }
    assert_true(f->q.bytes <= SENDQ_LIMIT);
    uint32_t got = drain(f, 1000, 16384, see, &s, &loss);
    for (int polite = 0; polite < 9; polite++)
        assert_int_equal(s.count[polite], 10);
    assert_int_equal(got + lost, 2000 + 90);
}

static void round_robin_shares(void **state)
{
    struct fixture *f = *state;
    struct sendq_loss loss = {0};
    uint32_t taken[2] = {0};
    for (uint32_t i = 0; i < 100; i++)
        push(f, 0, i, 1400, 1 << 20);
    for (uint32_t i = 0; i < 100; i++)
        push(f, 1, i, 1400, 1 << 20);
    for (int turn = 0; turn < 8; turn++) {
        size_t len;
        const uint8_t *p = sendq_next(&f->q, &f->pool, 1000, &len, &loss);
        taken[wire_get32(p + 5)] += (uint32_t)len;
        sendq_took(&f->q, &f->pool, len);
    }
    assert_true(taken[0] > taken[1] / 2 && taken[1] > taken[0] / 2);
}

static void urgent_goes_first(void **state)
{
    struct fixture *f = *state;
    struct seen s = {0};
    struct sendq_loss loss = {0};
    uint8_t keep[FRAME_HEADER_LEN];
    frame_header(keep, FRAME_KEEP_ALIVE, 0);
    push(f, 1, 1, 1400, 1 << 20);
    sendq_push(&f->q, &f->pool, SENDQ_URGENT, 0, keep, sizeof(keep), 1 << 20, 1000, &loss);
    assert_int_equal(drain(f, 1000, 16384, see, &s, &loss), 1); /* a keep-alive is no packet */
    assert_int_equal(s.first_type, FRAME_KEEP_ALIVE);
}

/* What a connection that ends still sends: urgent frames and what has begun. */
static void data_can_be_cleared_alone(void **state)
{
    struct fixture *f = *state;
    struct seen s = {0};
    struct sendq_loss loss = {0};
    size_t len;
    uint8_t keep[FRAME_HEADER_LEN];
    frame_header(keep, FRAME_KEEP_ALIVE, 0);
    push(f, 1, 1, 60000, 1 << 20);
    sendq_next(&f->q, &f->pool, 1000, &len, &loss); /* begins */
    for (uint32_t i = 0; i < 90; i++)
        push(f, i % 3, i + 2, 1400, 1 << 20);
    sendq_push(&f->q, &f->pool, SENDQ_URGENT, 0, keep, sizeof(keep), 1 << 20, 1000, &loss);
    assert_int_equal(sendq_clear_data(&f->q, &f->pool), 90);
    assert_int_equal(f->q.bytes, len + sizeof(keep));
    assert_int_equal(drain(f, 1000, 16384, see, &s, &loss), 1);
    push(f, 1, 92, 1400, 1 << 20); /* it can be used on */
    assert_int_equal(drain(f, 1000, 16384, see, &s, &loss), 1);
    assert_int_equal(loss.full + loss.old + loss.no_memory, 0);
}

static void begun_frames_are_finished(void **state)
{
    struct fixture *f = *state;
    struct sendq_loss loss = {0};
    struct seen s = {0};
    static uint8_t wire[200000];
    size_t len, have = 0;
    push(f, 1, 1, 60000, 1 << 20);
    const uint8_t *p = sendq_next(&f->q, &f->pool, 1000, &len, &loss);
    memcpy(wire, p, 16384);
    have = 16384;
    sendq_took(&f->q, &f->pool, 16384);
    for (uint32_t i = 2; i < 400; i++)
        push(f, 1, i, 1400, SENDQ_LIMIT); /* overflows: the one begun must stay */
    p = sendq_next(&f->q, &f->pool, 1000 + SENDQ_MAX_AGE_MS * 2, &len, &loss);
    memcpy(wire + have, p, len);
    struct frame fr;
    assert_int_equal(frame_peek(&fr, wire, have + len), 60013);
    assert_int_equal(wire[60012], (uint8_t)2);
    sendq_took(&f->q, &f->pool, len);
    drain(f, 1000, 16384, see, &s, &loss);
}

static void old_ones_are_dropped(void **state)
{
    struct fixture *f = *state;
    struct sendq_loss loss = {0};
    for (uint32_t i = 0; i < 50; i++)
        push(f, i % 5, i, 1400, 1 << 20);
    assert_int_equal(drain(f, 1000 + SENDQ_MAX_AGE_MS + 1, 16384, NULL, NULL, &loss), 0);
    assert_int_equal(loss.old, 50);
}

static void many_senders_share_flows(void **state)
{
    struct fixture *f = *state;
    struct seen s = {0};
    struct sendq_loss loss = {0};
    for (uint32_t i = 0; i < 120 * 3; i++)
        push(f, i % 120, i, 100, 1 << 20);
    assert_true(f->q.n_flows <= SENDQ_FLOWS_MAX);
    assert_int_equal(drain(f, 1000, 16384, see, &s, &loss), 360);
}

/* Everything pushed comes out, is reported lost, or is still there: over random sequences. */
static void nothing_is_unaccounted(void **state)
{
    struct fixture *f = *state;
    struct seen s = {0};
    srand(7);
    for (int round = 0; round < 200; round++) {
        struct sendq_loss loss = {0};
        uint32_t pushed = 0, out = 0;
        uint64_t now = 1000;
        for (int i = 0; i < 200; i++) {
            size_t len;
            if (rand() % 3) {
                struct sendq_loss l =
                    push(f, (uint32_t)(rand() % 100), 0, (size_t)(rand() % 20000), SENDQ_LIMIT);
                loss.full += l.full;
                pushed++;
            } else if (sendq_next(&f->q, &f->pool, now, &len, &loss)) {
                out += sendq_took(&f->q, &f->pool, 1 + (size_t)rand() % len);
            }
            assert_true(f->q.bytes <= SENDQ_LIMIT);
        }
        (void)s;
        size_t len;
        while (sendq_next(&f->q, &f->pool, now + (uint64_t)(rand() % 2) * 5000, &len, &loss))
            out += sendq_took(&f->q, &f->pool, len);
        assert_int_equal(pushed, out + loss.full + loss.old);
        assert_int_equal(f->q.bytes, 0);
        assert_int_equal(f->q.n_flows, 0);
    }
}

static void what_a_burst_needed_is_given_back(void **state)
{
    enum { N = 100 };
    struct buf_pool p;
    struct chunk *c[N];
    size_t bytes = 0, n;
    (void)state;
    buf_pool_init(&p);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++)
            assert_non_null(c[i] = buf_get(&p, CHUNK_RECORD));
        for (int i = 0; i < N; i++)
            buf_put(&p, c[i]);
        assert_int_equal(buf_pool_trim(&p), 0); /* they were needed just now */
    }
    for (int i = 0; (n = buf_pool_trim(&p)) > 0; i++) {
        bytes += n;
        assert_true(i < 10);
    }
    assert_int_equal(bytes, N * CHUNK_RECORD);
    buf_pool_deinit(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(order_is_kept_per_sender, setup, teardown),
        cmocka_unit_test_setup_teardown(runs_are_copied_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(flooder_loses_his_own, setup, teardown),
        cmocka_unit_test_setup_teardown(round_robin_shares, setup, teardown),
        cmocka_unit_test_setup_teardown(urgent_goes_first, setup, teardown),
        cmocka_unit_test_setup_teardown(data_can_be_cleared_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(begun_frames_are_finished, setup, teardown),
        cmocka_unit_test_setup_teardown(old_ones_are_dropped, setup, teardown),
        cmocka_unit_test_setup_teardown(many_senders_share_flows, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_is_unaccounted, setup, teardown),
        cmocka_unit_test(what_a_burst_needed_is_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
