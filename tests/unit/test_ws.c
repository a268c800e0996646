/* WebSocket framing: the examples of RFC 6455, any split, what ends a connection and with which close. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/ws.h"

struct bytes {
    uint8_t b[300000];
    size_t n;
};

static struct bytes in, got, answers;

/* A client's frame at the end of `in`. */
static void add(unsigned head, const void *payload, size_t n, bool masked)
{
    static const uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    uint8_t *p = in.b + in.n;

    *p++ = (uint8_t)head;
    if (n < 126) {
        *p++ = (uint8_t)n;
    } else if (n < 65536) {
        *p++ = 126;
        *p++ = (uint8_t)(n >> 8);
        *p++ = (uint8_t)n;
    } else {
        *p++ = 127;
        for (int i = 7; i >= 0; i--)
            *p++ = (uint8_t)((uint64_t)n >> (8 * i));
    }
    if (masked) {
        in.b[in.n + 1] |= 0x80;
        memcpy(p, mask, 4);
        p += 4;
    }
    for (size_t i = 0; i < n; i++)
        *p++ = ((const uint8_t *)payload)[i] ^ (masked ? mask[i % 4] : 0);
    in.n = (size_t)(p - in.b);
}

/* Gives `in` to w in pieces of at most step bytes; payload into `got`, answers into `answers`. */
static void feed(struct ws *w, size_t step)
{
    uint8_t out[WS_CONTROL_MAX];

    got.n = answers.n = 0;
    for (size_t off = 0; off < in.n; off += step) {
        size_t n = in.n - off < step ? in.n - off : step;
        uint8_t *piece = malloc(n); /* of its own, so that a sanitizer sees each byte too far */
        memcpy(piece, in.b + off, n);
        size_t k = ws_input(w, piece, n);
        assert_true(k <= n);
        memcpy(got.b + got.n, piece, k);
        got.n += k;
        free(piece);
        k = ws_answer(w, out);
        memcpy(answers.b + answers.n, out, k);
        answers.n += k;
    }
}

static void rfc_examples(void **state)
{
    static const uint8_t hello_text[] = {0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58};
    static const uint8_t hello_ping[] = {0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58};
    static const uint8_t hello_pong[] = {0x8a, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f};
    uint8_t head[WS_HEADER_MAX];
    struct ws *w = ws_new();

    (void)state;
    /* the masked text of 5.7, here as a binary message */
    memcpy(in.b, hello_text, sizeof hello_text);
    in.b[0] = 0x82;
    in.n = sizeof hello_text;
    feed(w, in.n);
    assert_int_equal(got.n, 5);
    assert_memory_equal(got.b, "Hello", 5);
    memcpy(in.b, hello_ping, sizeof hello_ping);
    feed(w, in.n);
    assert_int_equal(got.n, 0);
    assert_int_equal(answers.n, sizeof hello_pong);
    assert_memory_equal(answers.b, hello_pong, sizeof hello_pong);
    assert_int_equal(ws_ended(w), WS_OPEN);
    /* text is no DERP */
    memcpy(in.b, hello_text, sizeof hello_text);
    feed(w, in.n);
    assert_int_equal(got.n, 0);
    assert_int_equal(ws_ended(w), WS_END_PROTOCOL);
    assert_int_equal(answers.b[0], 0x88);
    assert_memory_equal(answers.b + 2, "\x03\xeb", 2);
    ws_free(w);
    /* heads of 256 bytes, and the borders of lengths */
    assert_int_equal(ws_header(head, 256), 4);
    assert_memory_equal(head, "\x82\x7e\x01\x00", 4);
    assert_int_equal(ws_header(head, 125), 2);
    assert_memory_equal(head, "\x82\x7d", 2);
    assert_int_equal(ws_header(head, 126), 4);
    assert_memory_equal(head, "\x82\x7e\x00\x7e", 4);
    assert_int_equal(ws_header(head, 65535), 4);
    assert_memory_equal(head, "\x82\x7e\xff\xff", 4);
}

/* Messages of all sizes and fragments, pings between the fragments, in pieces of all sizes. */
static void any_split(void **state)
{
    static const size_t sizes[] = {0, 1, 5, 125, 126, 127, 4090, 4096, 4097, 65535, 65536, 70000};
    static const size_t steps[] = {1, 2, 3, 7, 13, 127, 4095, 4096, 4097, 262144};
    static struct bytes want;
    uint8_t *data = malloc(70000);

    (void)state;
    for (size_t i = 0; i < 70000; i++)
        data[i] = (uint8_t)(i * 7 + i / 251);
    in.n = want.n = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t n = sizes[i], first = n / 3;
        if (i % 2) {
            add(0x82, data, n, true);
        } else {
            add(0x02, data, first, true);
            add(0x89, "between", 7, true);
            add(0x00, data + first, 0, true);
            add(0x8a, "", 0, true); /* a pong that nobody asked for */
            add(0x80, data + first, n - first, true);
        }
        memcpy(want.b + want.n, data, n);
        want.n += n;
    }
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        struct ws *w = ws_new();
        feed(w, steps[i]);
        assert_int_equal(ws_ended(w), WS_OPEN);
        assert_int_equal(got.n, want.n);
        assert_memory_equal(got.b, want.b, want.n);
        assert_true(answers.n >= 9 && answers.n % 9 == 0);
        assert_memory_equal(answers.b,
                            "\x8a\x07"
                            "between",
                            9);
        if (steps[i] == 1)
            assert_int_equal(answers.n, 6 * 9);
        ws_free(w);
    }
    free(data);
}

/* Feeds `in`; expects the end, the close's code (0: an empty close) and what was taken before. */
static void ends(enum ws_end how, unsigned code, size_t payload)
{
    for (size_t step = 1; step <= in.n; step++) {
        struct ws *w = ws_new();
        uint8_t again[WS_CONTROL_MAX] = {0x82, 0x81, 0, 0, 0, 0, 'x'};
        feed(w, step);
        assert_int_equal(ws_ended(w), how);
        assert_int_equal(got.n, payload);
        assert_int_equal(answers.b[0], 0x88);
        assert_int_equal(answers.n, answers.b[1] + 2);
        if (code)
            assert_int_equal(answers.b[2] << 8 | answers.b[3], code);
        else
            assert_int_equal(answers.n, 2);
        /* the end is the end: no more input, no second close */
        assert_int_equal(ws_input(w, again, 7), 0);
        assert_int_equal(ws_close(w, again), 0);
        assert_false(ws_answer_waits(w));
        if (how == WS_END_PROTOCOL)
            assert_true(strlen(ws_why(w)) > 10);
        ws_free(w);
    }
    in.n = 0;
}

static void violations(void **state)
{
    static const uint8_t long_ping[] = {0x89, 0xfe, 0, 126, 1, 2, 3, 4};
    static const uint8_t long_form[] = {0x82, 0xfe, 0, 5, 1, 2, 3, 4, 0, 0, 0, 0, 0};
    static const uint8_t longer_form[] = {0x82, 0xff, 0, 0, 0, 0, 0, 0, 1, 0, 1, 2, 3, 4};
    static const uint8_t huge[] = {0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4};

    (void)state;
    in.n = 0;
    add(0x82, "abc", 3, true);
    add(0x82, "abc", 3, false);
    ends(WS_END_PROTOCOL, 1002, 3);
    for (unsigned rsv = 0x10; rsv <= 0x40; rsv <<= 1) {
        add(0x82 | rsv, "abc", 3, true);
        ends(WS_END_PROTOCOL, 1002, 0);
    }
    for (unsigned op = 0x83; op <= 0x8f; op++) {
        if (op == 0x88 || op == 0x89 || op == 0x8a)
            continue;
        add(op, "a", 1, true);
        ends(WS_END_PROTOCOL, 1002, 0);
    }
    add(0x80, "a", 1, true); /* goes on with nothing */
    ends(WS_END_PROTOCOL, 1002, 0);
    add(0x02, "a", 1, true);
    add(0x82, "b", 1, true); /* a new message within one */
    ends(WS_END_PROTOCOL, 1002, 1);
    add(0x01, "a", 1, true);
    ends(WS_END_PROTOCOL, 1003, 0);
    add(0x09, "a", 1, true); /* a control frame in fragments */
    ends(WS_END_PROTOCOL, 1002, 0);
    memcpy(in.b, long_ping, in.n = sizeof long_ping);
    ends(WS_END_PROTOCOL, 1002, 0);
    memcpy(in.b, long_form, in.n = sizeof long_form);
    ends(WS_END_PROTOCOL, 1002, 0);
    memcpy(in.b, longer_form, in.n = sizeof longer_form);
    ends(WS_END_PROTOCOL, 1002, 0);
    memcpy(in.b, huge, in.n = sizeof huge);
    ends(WS_END_PROTOCOL, 1002, 0);
}

static void closes(void **state)
{
    static const uint16_t bad[] = {0, 1, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535};
    static const uint16_t good[] = {1000, 1001, 1014, 3000, 4999};
    uint8_t payload[2], out[WS_CONTROL_MAX];
    struct ws *w = ws_new();

    (void)state;
    in.n = 0;
    add(0x82, "last words", 10, true);
    add(0x88,
        "\x03\xe8"
        "bye",
        5, true);
    add(0x82, "not read", 8, true);
    ends(WS_END_CLOSED, 1000, 10);
    add(0x88, "", 0, true);
    ends(WS_END_CLOSED, 0, 0);
    add(0x88, "a", 1, true);
    ends(WS_END_PROTOCOL, 1002, 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0] + sizeof good / sizeof good[0]; i++) {
        size_t n_bad = sizeof bad / sizeof bad[0];
        unsigned code = i < n_bad ? bad[i] : good[i - n_bad];
        payload[0] = (uint8_t)(code >> 8);
        payload[1] = (uint8_t)code;
        add(0x88, payload, 2, true);
        ends(i < n_bad ? WS_END_PROTOCOL : WS_END_CLOSED, i < n_bad ? 1002 : code, 0);
    }
    /* our own close comes once; the client's answer to it is not answered */
    assert_int_equal(ws_close(w, out), 4);
    assert_memory_equal(out, "\x88\x02\x03\xe8", 4);
    assert_int_equal(ws_close(w, out), 0);
    add(0x89, "late", 4, true);
    add(0x88, "\x03\xe8", 2, true);
    feed(w, in.n);
    assert_int_equal(answers.n, 0);
    assert_int_equal(ws_ended(w), WS_END_CLOSED);
    ws_free(w);
}

/* A client that sends pings and reads nothing gets one answer, not a growing heap of them. */
static void ping_flood(void **state)
{
    struct ws *w = ws_new();
    uint8_t out[WS_CONTROL_MAX];

    (void)state;
    in.n = 0;
    for (int i = 0; i < 1000; i++)
        add(0x89, i < 999 ? "old" : "new", 3, true);
    assert_int_equal(ws_input(w, in.b, in.n), 0);
    assert_true(ws_answer_waits(w));
    assert_int_equal(ws_answer(w, out), 5);
    assert_memory_equal(out, "\x8a\x03new", 5);
    assert_int_equal(ws_answer(w, out), 0);
    ws_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rfc_examples), cmocka_unit_test(any_split),  cmocka_unit_test(violations),
        cmocka_unit_test(closes),       cmocka_unit_test(ping_flood),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
