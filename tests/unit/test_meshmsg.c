/* Mesh messages: round trips, the bytes of docs/protocol.md, truncation at every byte, later versions' additions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "proto/meshmsg_sets.h"
#include "proto/wire.h"

static struct meshmsg m;

static int open_copy(struct meshmsg_in *in, uint32_t *type, uint8_t **copy, size_t len)
{
    *copy = malloc(len ? len : 1);
    memcpy(*copy, m.b + FRAME_HEADER_LEN, len);
    return meshmsg_open(in, type, *copy, len);
}

static void expect(enum meshmsg_type type, struct meshmsg_in *in)
{
    uint32_t t;
    assert_int_equal(m.b[0], FRAME_MESH_CONTROL);
    assert_int_equal(wire_get32(m.b + 1), m.n - FRAME_HEADER_LEN);
    assert_int_equal(meshmsg_open(in, &t, m.b + FRAME_HEADER_LEN, m.n - FRAME_HEADER_LEN), 0);
    assert_int_equal(t, type);
}

static void bytes_are(const char *hex)
{
    char got[400];
    assert_true(m.n * 2 < sizeof got);
    wire_hex(got, m.b, m.n);
    assert_string_equal(got, hex);
}

static struct meshmsg_hello full_hello(void)
{
    struct meshmsg_hello h = {.version_min = 1,
                              .version_max = 3,
                              .features = UINT64_C(0x8000000000000001),
                              .region = 902,
                              .boot = 1700000000000,
                              .n_key_ids = MESH_KEYS_MAX,
                              .has_exporter = true,
                              .max_payload = MESHMSG_MAX,
                              .max_keys = 1 << 20};
    memset(h.software, 's', sizeof h.software - 1);
    memset(h.name, 'n', sizeof h.name - 1);
    memset(h.to, 't', sizeof h.to - 1);
    memset(&h.key, 1, sizeof h.key);
    memset(h.instance, 2, sizeof h.instance);
    memset(h.nonce, 3, sizeof h.nonce);
    memset(&h.ephemeral, 4, sizeof h.ephemeral);
    memset(h.key_id, 5, sizeof h.key_id);
    memset(h.map_hash, 6, sizeof h.map_hash);
    return h;
}

static void test_hello(void **state)
{
    (void)state;
    struct meshmsg_in in;
    struct meshmsg_hello h = full_hello(), back;
    uint32_t min, max, type;
    meshmsg_hello(&m, &h);
    assert_true(m.n - FRAME_HEADER_LEN < MESHMSG_BEFORE_AUTH_MAX);
    expect(MESHMSG_HELLO, &in);
    assert_int_equal(meshmsg_read_versions(&in, &min, &max), 0);
    assert_int_equal(min, 1);
    assert_int_equal(max, 3);
    assert_int_equal(meshmsg_read_hello(&in, &back), 0);
    assert_memory_equal(&h, &back, sizeof h);
    for (size_t n = 0; n < m.n - FRAME_HEADER_LEN; n++) {
        uint8_t *copy;
        assert_int_equal(open_copy(&in, &type, &copy, n), -1);
        free(copy);
    }
    h.version_min = 4; /* above max */
    meshmsg_hello(&m, &h);
    expect(MESHMSG_HELLO, &in);
    assert_int_equal(meshmsg_read_versions(&in, &min, &max), -1);
    assert_int_equal(meshmsg_read_hello(&in, &back), -1);
}

static void test_lane(void **state)
{
    (void)state;
    struct meshmsg_in in;
    struct meshmsg_lane a = {.name = "fra-1", .to = "hel-1", .index = 3, .number = 300, .has_exporter = true},
                        b;
    uint32_t type;
    memset(a.link, 1, sizeof a.link);
    memset(a.nonce, 2, sizeof a.nonce);
    memset(a.mac, 3, sizeof a.mac);
    meshmsg_lane(&m, &a);
    bytes_are("6000000061"
              "9915a56672612d31a568656c2d31c408010101010101010103cd012cc3"
              "c4200202020202020202020202020202020202020202020202020202020202020202"
              "c4200303030303030303030303030303030303030303030303030303030303030303");
    expect(MESHMSG_LANE, &in);
    assert_int_equal(meshmsg_read_lane(&in, &b), 0);
    assert_memory_equal(&a, &b, sizeof a);
    for (size_t n = 0; n < m.n - FRAME_HEADER_LEN; n++) {
        uint8_t *copy;
        assert_int_equal(open_copy(&in, &type, &copy, n), -1);
        free(copy);
    }
    meshmsg_ping(&m, 1, 2, 3); /* too few elements */
    expect(MESHMSG_PING, &in);
    assert_int_equal(meshmsg_read_lane(&in, &b), -1);
    memset(a.name, 'n', sizeof a.name - 1);
    memset(a.to, 't', sizeof a.to - 1);
    meshmsg_lane(&m, &a);
    expect(MESHMSG_LANE, &in);
    assert_int_equal(meshmsg_read_lane(&in, &b), 0);
    assert_memory_equal(&a, &b, sizeof a);
    assert_true(m.n - FRAME_HEADER_LEN < MESHMSG_BEFORE_AUTH_MAX);
}

static void test_small_messages(void **state)
{
    (void)state;
    struct meshmsg_in in;
    struct mesh_key_id id = {{1, 2, 3, 4, 5, 6, 7, 8}}, id2;
    uint8_t mac[MESHMSG_MAC_LEN], mac2[MESHMSG_MAC_LEN];
    uint64_t received, a, b;
    uint32_t code;
    memset(mac, 0xaa, sizeof mac);
    meshmsg_auth(&m, &id, mac);
    expect(MESHMSG_AUTH, &in);
    assert_int_equal(meshmsg_read_auth(&in, &id2, mac2), 0);
    assert_memory_equal(&id, &id2, sizeof id);
    assert_memory_equal(mac, mac2, sizeof mac);
    bytes_are("600000002e"
              "9302c4080102030405060708"
              "c420aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    meshmsg_ping(&m, 300, 5, 7);
    bytes_are("60000000079403cd012c0507");
    expect(MESHMSG_PING, &in);
    assert_int_equal(meshmsg_read_ping(&in, &a, &b, &received), 0);
    assert_int_equal(a, 300);
    assert_int_equal(b, 5);
    assert_int_equal(received, 7);
    meshmsg_pong(&m, 300, UINT64_MAX, 0);
    bytes_are("600000000f9404cd012ccfffffffffffffffff00");
    meshmsg_bye(&m, MESHMSG_BYE_MAP);
    bytes_are("6000000003920503");
    expect(MESHMSG_BYE, &in);
    assert_int_equal(meshmsg_read_bye(&in, &code), 0);
    assert_int_equal(code, MESHMSG_BYE_MAP);
    meshmsg_info(&m, mac);
    expect(MESHMSG_INFO, &in);
    assert_int_equal(meshmsg_read_info(&in, mac2), 0);
    assert_memory_equal(mac, mac2, sizeof mac);
}

static bool same_moment(const struct meshmsg_moment *a, const struct meshmsg_moment *b)
{
    return a->boot == b->boot && a->seq == b->seq && a->scope == b->scope;
}

static bool same_begin(const struct meshmsg_sync_begin *a, const struct meshmsg_sync_begin *b)
{
    return same_moment(&a->at, &b->at) && a->mode == b->mode && a->count == b->count &&
           a->since == b->since && a->slots == b->slots &&
           memcmp(a->bitmap, b->bitmap, sizeof a->bitmap) == 0;
}

/* Syncs, digests: byte for byte. */
static void test_set_messages(void **state)
{
    (void)state;
    struct meshmsg_in in;
    struct meshmsg_moment held = {.boot = 7, .seq = 8, .scope = 1}, held2;
    struct meshmsg_sync_begin b = {.at = held, .mode = MESHMSG_SYNC_CHANGES, .count = 3, .since = 5}, b2;
    struct meshmsg_digest d = {.at = held, .count = 2, .root = 0}, d2;
    static uint64_t bucket[MESHMSG_BUCKETS_N], bucket2[MESHMSG_BUCKETS_N];
    uint64_t boot, seq;
    meshmsg_sync_req(&m, &held);
    bytes_are("60000000059407070801");
    expect(MESHMSG_SYNC_REQ, &in);
    assert_int_equal(meshmsg_read_sync_req(&in, &held2), 0);
    assert_true(same_moment(&held, &held2));
    meshmsg_sync_begin(&m, &b);
    bytes_are("600000000b99080708010103"
              "0500c400");
    expect(MESHMSG_SYNC_BEGIN, &in);
    assert_int_equal(meshmsg_read_sync_begin(&in, &b2), 0);
    assert_true(same_begin(&b, &b2));
    b = (struct meshmsg_sync_begin){.at = held, .mode = MESHMSG_SYNC_BUCKETS, .count = 3, .slots = 9};
    b.bitmap[1] = 0x81;
    assert_true(meshmsg_bit(b.bitmap, 8) && meshmsg_bit(b.bitmap, MESHMSG_BUCKETS_N + 15));
    assert_false(meshmsg_bit(b.bitmap, 9) || meshmsg_bit(b.bitmap, 1));
    meshmsg_sync_begin(&m, &b);
    expect(MESHMSG_SYNC_BEGIN, &in);
    assert_int_equal(meshmsg_read_sync_begin(&in, &b2), 0);
    assert_true(same_begin(&b, &b2));
    meshmsg_sync_end(&m, 1, 2);
    bytes_are("6000000004930a0102");
    expect(MESHMSG_SYNC_END, &in);
    assert_int_equal(meshmsg_read_sync_end(&in, &boot, &seq), 0);
    assert_int_equal(boot, 1);
    assert_int_equal(seq, 2);
    meshmsg_digest(&m, &d);
    bytes_are("6000000010"
              "96130708010"
              "2c4080000000000000000");
    expect(MESHMSG_DIGEST, &in);
    assert_int_equal(meshmsg_read_digest(&in, &d2), 0);
    assert_true(same_moment(&d.at, &d2.at) && d.count == d2.count && d.root == d2.root);
    for (int i = 0; i < MESHMSG_BUCKETS_N; i++)
        bucket[i] = (uint64_t)i * 0x0123456789abcdefu;
    meshmsg_buckets(&m, &held, bucket);
    assert_true(m.n - FRAME_HEADER_LEN <= MESHMSG_MAX);
    expect(MESHMSG_BUCKETS, &in);
    assert_int_equal(meshmsg_read_buckets(&in, &held2, bucket2), 0);
    assert_memory_equal(bucket, bucket2, sizeof bucket);
}

/* The hash of an entry: docs/protocol.md has this vector; each field counts. */
static void test_entry_hash(void **state)
{
    (void)state;
    struct derp_key key;
    char hex[17];
    memset(&key, 0xbb, sizeof key);
    uint64_t h = meshmsg_entry_hash(300, &key, MESHMSG_HOME, 9);
    wire_hex(hex, (const uint8_t *)&h, sizeof h);
    assert_string_equal(hex, "4d0202a1d32b3cc4");
    assert_true(meshmsg_entry_hash(301, &key, MESHMSG_HOME, 9) != h);
    assert_true(meshmsg_entry_hash(300, &key, 0, 9) != h);
    assert_true(meshmsg_entry_hash(300, &key, MESHMSG_HOME, 8) != h);
    key.b[31] ^= 1;
    assert_true(meshmsg_entry_hash(300, &key, MESHMSG_HOME, 9) != h);
}

static void test_entries(void **state)
{
    (void)state;
    struct meshmsg_in in;
    struct meshmsg_entries it;
    struct meshmsg_entry e[MESHMSG_ENTRIES_MAX], back;
    uint64_t prev, seq;
    memset(e, 0, sizeof e);
    e[0] = (struct meshmsg_entry){.slot = 300, .up = true, .flags = MESHMSG_HOME, .age = 9};
    memset(&e[0].key, 0xbb, sizeof e[0].key);
    e[1] = (struct meshmsg_entry){.slot = 4};
    meshmsg_ann(&m, 10, 12, e, 2);
    bytes_are("600000002f"
              "940b0a0c92"
              "94cd012cc420bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb0109"
              "9104");
    expect(MESHMSG_ANN, &in);
    assert_int_equal(meshmsg_read_ann(&in, &prev, &seq, &it), 0);
    assert_int_equal(prev, 10);
    assert_int_equal(seq, 12);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(meshmsg_entry_next(&it, &back), 1);
        assert_memory_equal(&back, &e[i], sizeof back);
    }
    assert_int_equal(meshmsg_entry_next(&it, &back), 0);
    /* The largest of all fits. */
    for (uint32_t i = 0; i < MESHMSG_ENTRIES_MAX; i++)
        e[i] = (struct meshmsg_entry){.slot = UINT32_MAX - i, .up = true, .flags = 1, .age = UINT32_MAX};
    meshmsg_ann(&m, UINT64_MAX, UINT64_MAX, e, MESHMSG_ENTRIES_MAX);
    assert_true(m.n - FRAME_HEADER_LEN <= MESHMSG_MAX);
    expect(MESHMSG_ANN, &in);
    assert_int_equal(meshmsg_read_ann(&in, &prev, &seq, &it), 0);
    uint32_t n = 0;
    while (meshmsg_entry_next(&it, &back) == 1)
        n += back.age == UINT32_MAX;
    assert_int_equal(n, MESHMSG_ENTRIES_MAX);
    meshmsg_sync_data(&m, e, 3);
    expect(MESHMSG_SYNC_DATA, &in);
    assert_int_equal(meshmsg_read_sync_data(&in, &it), 0);
    for (n = 0; meshmsg_entry_next(&it, &back) == 1; n++)
        assert_int_equal(back.slot, UINT32_MAX - n);
    assert_int_equal(n, 3);
}

static int read_ann_of(const char *bytes, size_t len, int *entries)
{
    struct meshmsg_in in;
    struct meshmsg_entries it;
    struct meshmsg_entry e;
    uint64_t prev, seq;
    uint32_t type;
    uint8_t *copy = malloc(len);
    int rc;
    memcpy(copy, bytes, len);
    *entries = 0;
    rc = meshmsg_open(&in, &type, copy, len);
    if (rc == 0)
        rc = meshmsg_read_ann(&in, &prev, &seq, &it);
    while (rc == 0 && (rc = meshmsg_entry_next(&it, &e)) == 1) {
        ++*entries;
        rc = 0;
        if (it.left == 0)
            break;
    }
    free(copy);
    return rc;
}

static void test_entries_of_later_versions_and_bad_ones(void **state)
{
    (void)state;
    int n;
    /* An up with one element more, and one element behind the list. */
    char later[64] = "\x95\x0b\x00\x01\x92\x95\x07\xc4\x20";
    memcpy(later + 41, "\x01\x02\x90\x91\x05\xc0", 6);
    assert_int_equal(read_ann_of(later, 47, &n), 0);
    assert_int_equal(n, 2);
    assert_int_equal(read_ann_of("\x94\x0b\x00\x01\x91\x92\x07\xc4", 8, &n), -1); /* truncated */
    assert_int_equal(read_ann_of("\x94\x0b\x00\x01\x91\x90", 6, &n), -1);         /* an entry of nothing */
    assert_int_equal(read_ann_of("\x94\x0b\x00\x01\x91\x92\x07\x08", 8, &n), -1); /* an up without its key */
    assert_int_equal(read_ann_of("\x94\x0b\x00\x01\x91\xa1x", 7, &n), -1);
    assert_int_equal(read_ann_of("\x93\x0b\x00\x01", 4, &n), -1); /* too short */
    assert_int_equal(read_ann_of("\x94\x0b\xa1x\x01\x90", 6, &n), -1);
    assert_int_equal(read_ann_of("\x94\x0b\x00\x01\x90\x00", 6, &n), -1); /* bytes behind */
    assert_int_equal(read_ann_of("\x0b", 1, &n), -1);                     /* no array */
    assert_int_equal(read_ann_of("\x90", 1, &n), -1);
    assert_int_equal(read_ann_of("\x91\xa1x", 3, &n), -1);
}

static void test_key_id(void **state)
{
    (void)state;
    struct mesh_key_id id;
    uint8_t key[KEY_LEN];
    char hex[2 * MESHMSG_KEY_ID_LEN + 1];
    memset(key, 0x55, sizeof key);
    mesh_key_id_of(&id, key);
    wire_hex(hex, id.b, sizeof id.b);
    assert_string_equal(hex, "8b9e710f494f69a8"); /* docs/protocol.md */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello),      cmocka_unit_test(test_small_messages),
        cmocka_unit_test(test_entries),    cmocka_unit_test(test_entries_of_later_versions_and_bad_ones),
        cmocka_unit_test(test_key_id),     cmocka_unit_test(test_set_messages),
        cmocka_unit_test(test_entry_hash), cmocka_unit_test(test_lane),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
