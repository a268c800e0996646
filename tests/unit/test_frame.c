/* Frames: what a client of the real thing reads, and the mesh's data frames.
 *
 * The stream was recorded between derphttp clients and derpserver of tailscale.com v1.102.5 on loopback,
 * keys as in test_key.c: B's side, from ServerKey on, while A sends it "hello" and an empty packet and
 * leaves, and C (with the mesh key) forwards "fwd" from A's key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/frame.h"

#define KEY_A "79a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51a"
#define KEY_B "23b7bb8c91ae008711fb12846780bcdf1e065f821bdfec49f57e7c7dcd4c4823"

static const char recorded[] =
    "010000002844455250f09f9491d89e3bad79437dbed9f843418304f460ff05c7fe81fe4a9577a804cb9367ff66"
    "0300000035dee62b9e06601fe46dc601f220d84ad6767f54a6017beae57da0a8db9807a47b436f9fcd9f3186b0f0109a"
    "45085d3dc96878b047d1"
    "0500000025" KEY_A "68656c6c6f"
    "0500000020" KEY_A "0800000021" KEY_A "00"
    "0500000023" KEY_A "667764";

static const struct {
    uint8_t type;
    uint32_t len;
} expected[] = {{FRAME_SERVER_KEY, 40},  {FRAME_SERVER_INFO, 53}, {FRAME_RECV_PACKET, 37},
                {FRAME_RECV_PACKET, 32}, {FRAME_PEER_GONE, 33},   {FRAME_RECV_PACKET, 35}};

static size_t unhex(uint8_t *out, size_t cap, const char *text)
{
    size_t n = strlen(text) / 2;

    assert_true(n <= cap);
    assert_int_equal(wire_unhex(out, n, text, strlen(text)), 0);
    return n;
}

static void test_walk_recorded(void **state)
{
    uint8_t buf[512];
    size_t n = unhex(buf, sizeof buf, recorded), at = 0, size;
    struct frame f;

    (void)state;
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        size = frame_peek(&f, buf + at, n - at);
        assert_int_equal(size, FRAME_HEADER_LEN + expected[i].len);
        assert_int_equal(f.type, expected[i].type);
        assert_int_equal(f.len, expected[i].len);
        assert_ptr_equal(f.raw, buf + at);
        assert_ptr_equal(f.body, buf + at + FRAME_HEADER_LEN);
        /* every shorter piece needs more, and says what it knows */
        for (size_t cut = 0; cut < size; cut++) {
            assert_int_equal(frame_peek(&f, buf + at, cut), 0);
            if (cut < FRAME_HEADER_LEN) {
                assert_null(f.raw);
            } else {
                assert_int_equal(f.type, expected[i].type);
                assert_int_equal(f.len, expected[i].len);
            }
        }
        at += size;
    }
    assert_int_equal(at, n);
}

static void test_peek_longest(void **state)
{
    uint8_t buf[] = {0x42, 0xff, 0xff, 0xff, 0xff, 1, 2};
    struct frame f;

    (void)state;
    assert_int_equal(frame_peek(&f, buf, sizeof buf), 0);
    assert_int_equal(f.type, 0x42);
    assert_int_equal(f.len, 0xffffffffu);
}

static void test_peer_gone(void **state)
{
    uint8_t want[FRAME_PEER_GONE_LEN], got[FRAME_PEER_GONE_LEN];
    struct derp_key a;

    (void)state;
    unhex(want, sizeof want, "0800000021" KEY_A "01");
    unhex(a.b, sizeof a.b, KEY_A);
    assert_int_equal(frame_peer_gone(got, &a, PEER_GONE_NOT_HERE), sizeof got);
    assert_memory_equal(got, want, sizeof want);
}

static void test_disco(void **state)
{
    uint8_t p[62] = {0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac};

    (void)state;
    assert_true(frame_is_disco(p, 62));
    assert_false(frame_is_disco(p, 61));
    for (int i = 0; i < 6; i++) {
        p[i] ^= 1;
        assert_false(frame_is_disco(p, 62));
        p[i] ^= 1;
    }
    assert_false(frame_is_disco(NULL, 0));
}

static void test_node_id(void **state)
{
    /* python3: hashlib.blake2b(b"derpmesh node fra-1", digest_size=32) */
    static const struct {
        const char *name, *hex;
    } known[] = {{"fra-1", "5adc61a9e93ed76a"}, {"900/1", "a411e2427580bedc"}, {"", "65c70bc7a13a1b7d"}};

    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct node_id id;
        char hex[17];

        node_id_of(&id, known[i].name);
        wire_hex(hex, id.b, sizeof id.b);
        assert_string_equal(hex, known[i].hex);
    }
}

/* A data frame with ext bytes between the node ids and the keys.  malloc'd. */
static uint8_t *make_data(size_t *n, size_t ext, const char *payload, uint32_t payload_len)
{
    struct node_id to, from;
    struct derp_key a, b;
    uint8_t head[MESH_DATA_OVERHEAD], *buf = malloc(MESH_DATA_OVERHEAD + ext + payload_len);

    assert_non_null(buf);
    node_id_of(&to, "fra-1");
    node_id_of(&from, "tyo-1");
    unhex(a.b, sizeof a.b, KEY_A);
    unhex(b.b, sizeof b.b, KEY_B);
    assert_int_equal(mesh_data_header(head, 0x30, MESH_HOPS_START, &to, &from, &b, &a, payload_len),
                     sizeof head);
    memcpy(buf, head, sizeof head - 2 * KEY_LEN);
    memset(buf + sizeof head - 2 * KEY_LEN, 0xee, ext);
    memcpy(buf + sizeof head - 2 * KEY_LEN + ext, head + sizeof head - 2 * KEY_LEN, 2 * KEY_LEN);
    if (payload_len > 0)
        memcpy(buf + sizeof head + ext, payload, payload_len);
    frame_header(buf, FRAME_MESH_DATA, (uint32_t)(MESH_DATA_HDR + ext + payload_len));
    buf[FRAME_HEADER_LEN] = (uint8_t)(MESH_DATA_HDR + ext);
    *n = MESH_DATA_OVERHEAD + ext + payload_len;
    return buf;
}

static void check_data(size_t ext, const char *payload, uint32_t payload_len)
{
    struct node_id to, from;
    struct derp_key a, b;
    struct mesh_data d;
    struct frame f;
    size_t n, len;
    uint8_t *buf = make_data(&n, ext, payload, payload_len), *recv;

    node_id_of(&to, "fra-1");
    node_id_of(&from, "tyo-1");
    unhex(a.b, sizeof a.b, KEY_A);
    unhex(b.b, sizeof b.b, KEY_B);
    assert_int_equal(frame_peek(&f, buf, n), n);
    assert_int_equal(mesh_data_parse(&d, &f), 0);
    assert_int_equal(d.flags, 0x30);
    assert_int_equal(d.hops, MESH_HOPS_START);
    assert_memory_equal(&d.dst_node, &to, sizeof to);
    assert_memory_equal(&d.src_node, &from, sizeof from);
    assert_true(key_equal(d.dst, &b));
    assert_true(key_equal(d.src, &a));
    assert_int_equal(d.payload_len, payload_len);
    assert_ptr_equal(d.payload, buf + n - payload_len);

    recv = mesh_data_to_recv(&d, &len);
    assert_int_equal(len, FRAME_HEADER_LEN + KEY_LEN + payload_len);
    assert_ptr_equal(recv + len, buf + n);
    assert_int_equal(frame_peek(&f, recv, len), len);
    assert_int_equal(f.type, FRAME_RECV_PACKET);
    assert_memory_equal(f.body, a.b, KEY_LEN);
    if (payload_len > 0)
        assert_memory_equal(f.body + KEY_LEN, payload, payload_len);
    free(buf);
}

static void test_mesh_data(void **state)
{
    static char big[FRAME_PACKET_MAX];

    (void)state;
    memset(big, 'x', sizeof big);
    for (size_t ext = 0; ext <= 255 - MESH_DATA_HDR; ext++)
        check_data(ext, "hello", 5);
    check_data(0, "", 0);
    check_data(7, "", 0);
    check_data(0, big, sizeof big);
    check_data(9, big, sizeof big);
}

/* The layout is a promise to other versions, so it is written out here once. */
static void test_mesh_data_bytes(void **state)
{
    uint8_t want[94];
    size_t n;
    uint8_t *buf = make_data(&n, 0, "hello", 5);

    (void)state;
    assert_int_equal(unhex(want, sizeof want,
                           "6100000059"
                           "54300300"
                           "5adc61a9e93ed76a"
                           "0000000000000000" KEY_B KEY_A "68656c6c6f"),
                     n);
    memcpy(want + 17, buf + 17, 8); /* the other node's hash */
    assert_memory_equal(buf, want, n);
    free(buf);
}

static void test_mesh_data_malformed(void **state)
{
    uint8_t *bare = malloc(FRAME_HEADER_LEN); /* ends where an empty body would begin */
    static char big[FRAME_PACKET_MAX + 1];
    struct mesh_data d;
    struct frame f;
    size_t n;
    uint8_t *buf = make_data(&n, 0, "hello", 5);

    (void)state;
    assert_non_null(bare);
    frame_header(bare, FRAME_MESH_DATA, 0);
    assert_int_equal(frame_peek(&f, bare, FRAME_HEADER_LEN), FRAME_HEADER_LEN);
    assert_int_equal(mesh_data_parse(&d, &f), -1);
    free(bare);
    frame_peek(&f, buf, n);
    for (int hdr = 0; hdr < 256; hdr++) {
        buf[FRAME_HEADER_LEN] = (uint8_t)hdr;
        assert_int_equal(mesh_data_parse(&d, &f), hdr >= MESH_DATA_HDR && hdr <= MESH_DATA_HDR + 5 ? 0 : -1);
    }
    buf[FRAME_HEADER_LEN] = MESH_DATA_HDR;
    for (uint32_t len = 0; len < MESH_DATA_HDR; len++) {
        f.len = len;
        assert_int_equal(mesh_data_parse(&d, &f), -1);
    }
    free(buf);
    buf = make_data(&n, 0, big, sizeof big);
    frame_peek(&f, buf, n);
    assert_int_equal(mesh_data_parse(&d, &f), -1);
    free(buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_walk_recorded),   cmocka_unit_test(test_peek_longest),
        cmocka_unit_test(test_peer_gone),       cmocka_unit_test(test_disco),
        cmocka_unit_test(test_node_id),         cmocka_unit_test(test_mesh_data),
        cmocka_unit_test(test_mesh_data_bytes), cmocka_unit_test(test_mesh_data_malformed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
