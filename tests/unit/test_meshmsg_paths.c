/* LINKS, TUNNEL and UNREACH: the bytes of docs/protocol.md, round trips, truncation, later versions' additions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/meshmsg_paths.h"
#include "proto/wire.h"

static struct meshmsg m;

static struct meshmsg_in open_it(enum meshmsg_type type)
{
    struct meshmsg_in in;
    uint32_t t;
    assert_int_equal(meshmsg_open(&in, &t, m.b + FRAME_HEADER_LEN, m.n - FRAME_HEADER_LEN), 0);
    assert_int_equal(t, type);
    return in;
}

static void bytes_are(const char *hex)
{
    char got[400];
    assert_true(m.n * 2 < sizeof got);
    wire_hex(got, m.b, m.n);
    assert_string_equal(got, hex);
}

static void test_bytes(void **state)
{
    (void)state;
    struct meshmsg_neighbour e[2] = {{.node = {{1, 2, 3, 4, 5, 6, 7, 8}}, .state = 1, .rtt_ms = 300},
                                     {.node = {{9}}, .state = 0, .rtt_ms = 7}};
    meshmsg_links(&m, MESHMSG_NO_TRANSIT, e, 2);
    bytes_are("6000000020"
              "930c0292"
              "93c408010203040506070801cd012c"
              "93c40809000000000000000007");
    meshmsg_unreach(&m, &e[0].node);
    bytes_are("600000000c920fc4080102030405060708");
    struct derp_key dst = {{1, 2}}, src = {{3, 4}}, dst2, src2;
    struct meshmsg_in in;
    uint32_t type, ms;
    meshmsg_busy(&m, &dst, &src, 150);
    bytes_are("6000000048"
              "9410c4200102000000000000000000000000000000000000000000000000000000000000"
              "c4200304000000000000000000000000000000000000000000000000000000000000"
              "cc96");
    assert_int_equal(meshmsg_open(&in, &type, m.b + FRAME_HEADER_LEN, m.n - FRAME_HEADER_LEN), 0);
    assert_int_equal(meshmsg_read_busy(&in, &dst2, &src2, &ms), 0);
    assert_true(key_equal(&dst, &dst2) && key_equal(&src, &src2) && ms == 150);
    struct meshmsg_tunnel t = {.to = e[0].node,
                               .from = e[1].node,
                               .number = 5,
                               .kind = MESHMSG_TUNNEL_SEALED,
                               .body = (const uint8_t *)"abc",
                               .len = 3};
    meshmsg_tunnel(&m, &t);
    bytes_are("600000001d960dc4080102030405060708c40809000000000000000501c403616263");
}

static void test_round_trips(void **state)
{
    (void)state;
    static struct meshmsg_neighbour e[MESHMSG_NEIGHBOURS_MAX];
    struct meshmsg_neighbour one;
    struct meshmsg_neighbours list;
    uint32_t flags;
    for (uint32_t i = 0; i < MESHMSG_NEIGHBOURS_MAX; i++)
        e[i] = (struct meshmsg_neighbour){
            .node = {{(uint8_t)i, (uint8_t)(i >> 8)}}, .state = 2, .rtt_ms = UINT32_MAX};
    meshmsg_links(&m, UINT32_MAX, e, MESHMSG_NEIGHBOURS_MAX);
    assert_true(m.n - FRAME_HEADER_LEN <= MESHMSG_MAX);
    struct meshmsg_in in = open_it(MESHMSG_LINKS);
    assert_int_equal(meshmsg_read_links(&in, &flags, &list), 0);
    assert_int_equal(flags, UINT32_MAX);
    for (uint32_t i = 0; i < MESHMSG_NEIGHBOURS_MAX; i++) {
        assert_int_equal(meshmsg_neighbour_next(&list, &one), 1);
        assert_memory_equal(&one, &e[i], sizeof one);
    }
    assert_int_equal(meshmsg_neighbour_next(&list, &one), 0);

    static uint8_t body[MESHMSG_MAX + 16];
    struct meshmsg_tunnel t = {.to = e[1].node,
                               .from = e[2].node,
                               .number = UINT64_MAX,
                               .kind = UINT32_MAX,
                               .body = body,
                               .len = sizeof body};
    struct meshmsg_tunnel back;
    memset(body, 7, sizeof body);
    meshmsg_tunnel(&m, &t);
    assert_true(m.n - FRAME_HEADER_LEN <= MESHMSG_TUNNEL_MAX);
    in = open_it(MESHMSG_TUNNEL);
    assert_int_equal(meshmsg_read_tunnel(&in, &back), 0);
    assert_memory_equal(&back.to, &t.to, sizeof t.to);
    assert_memory_equal(&back.from, &t.from, sizeof t.from);
    assert_int_equal(back.number, UINT64_MAX);
    assert_int_equal(back.kind, UINT32_MAX);
    assert_int_equal(back.len, sizeof body);
    assert_memory_equal(back.body, body, sizeof body);
}

/* Cut off at every byte, and with the array's count falsified: refused, nothing read past the end. */
static void test_truncated(void **state)
{
    (void)state;
    struct meshmsg_neighbour e = {.node = {{1}}, .state = 1, .rtt_ms = 300}, one;
    struct meshmsg_tunnel t = {.body = (const uint8_t *)"abc", .len = 3}, back;
    struct node_id id;
    for (int what = 0; what < 3; what++) {
        if (what == 0)
            meshmsg_links(&m, 0, &e, 1);
        else if (what == 1)
            meshmsg_tunnel(&m, &t);
        else
            meshmsg_unreach(&m, &e.node);
        for (size_t n = 0; n < m.n - FRAME_HEADER_LEN; n++) {
            uint8_t *copy = malloc(n ? n : 1);
            struct meshmsg_in in;
            uint32_t type;
            memcpy(copy, m.b + FRAME_HEADER_LEN, n);
            assert_int_not_equal(meshmsg_open(&in, &type, copy, n), 0);
            free(copy);
        }
    }
    /* Whole, but shorter than they must be. */
    static const uint8_t short_links[] = {0x92, 0x0c, 0x00}, short_tunnel[] = {0x93, 0x0d, 0xc4, 0x00, 0x00},
                         short_entry[] = {0x93, 0x0c, 0x00, 0x91, 0x92, 0xc4, 0x08, 1,
                                          2,    3,    4,    5,    6,    7,    8,    0},
                         long_id[] = {0x92, 0x0f, 0xc4, 0x09, 1, 2, 3, 4, 5, 6, 7, 8, 9},
                         later[] = {0x94, 0x0c, 0x00, 0x91, 0x94, 0xc4, 0x08, 1,    2,   3,
                                    4,    5,    6,    7,    8,    0,    5,    0xc0, 0xc0};
    struct meshmsg_in in;
    struct meshmsg_neighbours list;
    uint32_t type, flags;
    assert_int_equal(meshmsg_open(&in, &type, short_links, sizeof short_links), 0);
    assert_int_equal(meshmsg_read_links(&in, &flags, &list), -1);
    assert_int_equal(meshmsg_open(&in, &type, short_tunnel, sizeof short_tunnel), 0);
    assert_int_equal(meshmsg_read_tunnel(&in, &back), -1);
    assert_int_equal(meshmsg_open(&in, &type, short_entry, sizeof short_entry), 0);
    assert_int_equal(meshmsg_read_links(&in, &flags, &list), 0);
    assert_int_equal(meshmsg_neighbour_next(&list, &one), -1);
    assert_int_equal(meshmsg_open(&in, &type, long_id, sizeof long_id), 0);
    assert_int_equal(meshmsg_read_unreach(&in, &id), -1);
    assert_int_equal(meshmsg_read_tunnel(&in, &back), -1);
    assert_int_equal(meshmsg_open(&in, &type, later, sizeof later), 0);
    assert_int_equal(meshmsg_read_links(&in, &flags, &list), 0);
    assert_int_equal(meshmsg_neighbour_next(&list, &one), 1);
    assert_int_equal(one.rtt_ms, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_truncated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
