/* The login: frames of Tailscale's client and server opened, ours made and opened again.
 *
 * Recorded between derphttp clients A, B, C and derpserver of tailscale.com v1.102.5 on loopback, keys as
 * in test_key.c.  A has no options, B can ack pings, C has a mesh key, is a prober and has the AppName
 * `réc "1" <x>`.  What Go makes of odd ClientInfo texts was tried with its encoding/json. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "proto/hello.h"
#include "proto/wire.h"

#define SECRET_SERVER "101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e6f"
#define SECRET_B      "707172737475767778797a7b7c7d7e7f808182838485868788898a8b8c8d8e4f"
#define PUBLIC_SERVER "d89e3bad79437dbed9f843418304f460ff05c7fe81fe4a9577a804cb9367ff66"
#define PUBLIC_A      "79a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51a"
#define PUBLIC_B      "23b7bb8c91ae008711fb12846780bcdf1e065f821bdfec49f57e7c7dcd4c4823"
#define PUBLIC_C      "605a725d2a4adfeeb1a29e17edd621c1b7593ee8cdbc44ac6c4ab6e2f805d23c"
#define MESH_KEY      "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static const char server_key[] = "010000002844455250f09f9491" PUBLIC_SERVER;

static const char client_info_a[] =
    "0200000069" PUBLIC_A "bddadc70099f3d15c89f4e"
    "7878ce6ee84066a37751156e3ab00a30923b1bfade0751a7a85d75e1c3b4dbe15fc28cd4c47abe2e62417668bffaa6bd"
    "444fdfa9b22c303cfa3b2963d641";

static const char client_info_b[] =
    "0200000068" PUBLIC_B "f985ae88cf7d604d46853c"
    "33c4ce240f209d4849d5e328c7d2ff1d091cb371b18aeb6e41991cac412b5430a91d5d92f61c411cb5354c79767f1692"
    "b39180cb499d75c53f7f68e76f";

static const char client_info_c[] =
    "02000000eb" PUBLIC_C "25c31b834b7ce71b07270d"
    "4999c130e41c7d5949207a9d348841ed2f083dc3d2734d60ce8f869dd19f9818f01e079224f4aab2771c3b36d94069d0"
    "a076f67854eada188a831156b993be2820f856b75e90146499f3e4c44b6dd6886cb238e1e3d2012a5bd886e170b739e7"
    "7203980b93f500beb61d2b77fa9e21b3bb0767adb984897633ceface6471ac35b9333a0b87bc632923e8e6e1b6155126"
    "f0daf7b226f8df078a5cadc263799478992793caaf9e962716adc3d101a3266b69c6e6b46a139c1dac1d85638f174b81";

static const char server_info_b[] =
    "0300000035dee62b9e06601fe46dc601f220d84ad6767f54a6017beae57da0a8db9807a47b436f9fcd9f3186b0f0109a"
    "45085d3dc96878b047d1";

static size_t unhex(uint8_t *out, size_t cap, const char *text)
{
    size_t n = strlen(text) / 2;

    assert_true(n <= cap);
    assert_int_equal(wire_unhex(out, n, text, strlen(text)), 0);
    return n;
}

static void pair_of(struct key_pair *kp, const char *secret)
{
    uint8_t raw[KEY_LEN];

    unhex(raw, sizeof raw, secret);
    key_pair_from_secret(kp, raw);
}

struct login {
    struct derp_key client;
    struct hello_shared shared;
    struct client_info info;
};

/* Opens a whole ClientInfo frame as the recorded server. */
static int open_frame(struct login *l, const char *hex)
{
    struct key_pair server;
    uint8_t buf[512];
    size_t n = unhex(buf, sizeof buf, hex);

    pair_of(&server, SECRET_SERVER);
    assert_int_equal(buf[0], FRAME_CLIENT_INFO);
    return hello_open_client_info(buf + FRAME_HEADER_LEN, n - FRAME_HEADER_LEN, &server, &l->client,
                                  &l->shared, &l->info);
}

static void assert_client(const struct login *l, const char *public)
{
    char hex[65];

    wire_hex(hex, l->client.b, KEY_LEN);
    assert_string_equal(hex, public);
    assert_int_equal(l->info.version, 2);
}

static void test_recorded_clients(void **state)
{
    struct login l;

    (void)state;
    assert_int_equal(open_frame(&l, client_info_a), 0);
    assert_client(&l, PUBLIC_A);
    assert_false(l.info.can_ack_pings);
    assert_false(l.info.is_prober);
    assert_false(l.info.has_mesh_key);
    assert_string_equal(l.info.app_name, "");

    assert_int_equal(open_frame(&l, client_info_b), 0);
    assert_client(&l, PUBLIC_B);
    assert_true(l.info.can_ack_pings);

    assert_int_equal(open_frame(&l, client_info_c), 0);
    assert_client(&l, PUBLIC_C);
    assert_false(l.info.can_ack_pings);
    assert_true(l.info.is_prober);
    assert_true(l.info.has_mesh_key);
    assert_string_equal(l.info.mesh_key, MESH_KEY);
    assert_string_equal(l.info.app_name, "r??c \"1\" <x>"); /* two bytes of UTF-8; Go escapes < and > */
}

static void test_recorded_server(void **state)
{
    struct key_pair b;
    struct derp_key server;
    struct hello_shared shared;
    uint8_t buf[128], frame[HELLO_FRAME_MAX], mine[HELLO_SERVER_KEY_LEN];
    char hex[65];
    size_t n = unhex(buf, sizeof buf, server_key);
    int version;

    (void)state;
    assert_int_equal(hello_parse_server_key(buf + FRAME_HEADER_LEN, n - FRAME_HEADER_LEN, &server), 0);
    wire_hex(hex, server.b, KEY_LEN);
    assert_string_equal(hex, PUBLIC_SERVER);
    assert_int_equal(hello_server_key(mine, &server), n);
    assert_memory_equal(mine, buf, n);

    pair_of(&b, SECRET_B);
    assert_true(hello_client_info(frame, &b, &server, false, &shared) > 0);
    n = unhex(buf, sizeof buf, server_info_b);
    assert_int_equal(hello_open_server_info(buf + FRAME_HEADER_LEN, n - FRAME_HEADER_LEN, &shared, &version),
                     0);
    assert_int_equal(version, 2);
}

/* Whatever bit is turned in a recorded frame, the login fails. */
static void test_every_bit_counts(void **state)
{
    struct key_pair server;
    struct login l;
    uint8_t buf[256];
    size_t n = unhex(buf, sizeof buf, client_info_b);

    (void)state;
    pair_of(&server, SECRET_SERVER);
    for (size_t bit = FRAME_HEADER_LEN * 8; bit < n * 8; bit++) {
        int rc;
        if (bit == (FRAME_HEADER_LEN + KEY_LEN) * 8 - 1) /* X25519 does not look at a point's top bit */
            continue;
        buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
        rc = hello_open_client_info(buf + FRAME_HEADER_LEN, n - FRAME_HEADER_LEN, &server, &l.client,
                                    &l.shared, &l.info);
        assert_int_equal(rc, HELLO_BOX);
        assert_true(sodium_is_zero(l.shared.k, KEY_LEN));
        assert_true(key_is_zero(&l.client));
        buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void test_lengths(void **state)
{
    static uint8_t big[HELLO_CLIENT_INFO_MAX + 1];
    struct key_pair server;
    struct derp_key key;
    struct login l;
    uint8_t buf[256];
    size_t n = unhex(buf, sizeof buf, client_info_b);
    int version;

    (void)state;
    pair_of(&server, SECRET_SERVER);
    for (size_t len = 0; len < n - FRAME_HEADER_LEN; len++) {
        int rc = hello_open_client_info(buf + FRAME_HEADER_LEN, len, &server, &l.client, &l.shared, &l.info);
        assert_int_equal(rc, len < KEY_LEN + HELLO_NONCE_LEN + HELLO_MAC_LEN ? HELLO_SHORT : HELLO_BOX);
    }
    memcpy(big, server.pub.b, KEY_LEN);
    assert_int_equal(hello_open_client_info(big, sizeof big, &server, &l.client, &l.shared, &l.info),
                     HELLO_SHORT);
    assert_int_equal(hello_open_client_info(big, sizeof big - 1, &server, &l.client, &l.shared, &l.info),
                     HELLO_BOX);
    for (size_t len = 0; len < HELLO_NONCE_LEN + HELLO_MAC_LEN; len++)
        assert_int_equal(hello_open_server_info(big, len, &l.shared, &version), HELLO_SHORT);
    assert_int_equal(hello_open_server_info(big, 41, &l.shared, &version), HELLO_BOX);

    n = unhex(buf, sizeof buf, server_key);
    assert_int_equal(hello_parse_server_key(buf + FRAME_HEADER_LEN, 39, &key), HELLO_SHORT);
    assert_int_equal(hello_parse_server_key(buf + FRAME_HEADER_LEN, 41, &key),
                     0); /* room for later versions */
    buf[FRAME_HEADER_LEN + 7] ^= 1;
    assert_int_equal(hello_parse_server_key(buf + FRAME_HEADER_LEN, 40, &key), HELLO_MAGIC);
}

/* Points whose shared secret is known to all. */
static void test_weak_keys(void **state)
{
    static const char *weak[] = {
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    };
    struct key_pair server;
    struct login l;
    uint8_t buf[128] = {0}, frame[HELLO_FRAME_MAX];

    (void)state;
    pair_of(&server, SECRET_SERVER);
    for (size_t i = 0; i < sizeof weak / sizeof *weak; i++) {
        struct derp_key k;

        unhex(k.b, KEY_LEN, weak[i]);
        memcpy(buf, k.b, KEY_LEN);
        assert_int_equal(hello_open_client_info(buf, 100, &server, &l.client, &l.shared, &l.info), HELLO_KEY);
        hello_server_key(frame, &k);
        assert_int_equal(hello_parse_server_key(frame + FRAME_HEADER_LEN, 40, &l.client), HELLO_KEY);
        assert_int_equal(hello_client_info(frame, &server, &k, false, &l.shared), 0);
    }
}

static void test_round_trip(void **state)
{
    uint8_t buf[HELLO_FRAME_MAX];

    (void)state;
    for (int prober = 0; prober < 2; prober++) {
        struct key_pair server, client;
        struct hello_shared shared;
        struct login l;
        struct frame f;
        size_t n;
        int version = 0;

        key_pair_generate(&server);
        key_pair_generate(&client);
        n = hello_client_info(buf, &client, &server.pub, prober, &shared);
        assert_int_equal(frame_peek(&f, buf, n), n);
        assert_int_equal(hello_open_client_info(f.body, f.len, &server, &l.client, &l.shared, &l.info), 0);
        assert_true(key_equal(&l.client, &client.pub));
        assert_memory_equal(&l.shared, &shared, sizeof shared);
        assert_int_equal(l.info.version, DERP_PROTOCOL_VERSION);
        assert_int_equal(l.info.is_prober, prober);

        n = hello_server_info(buf, &l.shared);
        assert_int_equal(frame_peek(&f, buf, n), n);
        assert_int_equal(f.type, FRAME_SERVER_INFO);
        assert_int_equal(hello_open_server_info(f.body, f.len, &shared, &version), 0);
        assert_int_equal(version, DERP_PROTOCOL_VERSION);
        shared.k[0] ^= 1;
        assert_int_equal(hello_open_server_info(f.body, f.len, &shared, &version), HELLO_BOX);
    }
}

static void test_mesh_key(void **state)
{
    uint8_t buf[HELLO_FRAME_MAX], mesh_key[KEY_LEN];
    struct key_pair server, client;
    struct hello_shared shared;
    struct login l;
    struct frame f;

    (void)state;
    key_pair_generate(&server);
    key_pair_generate(&client);
    for (int i = 0; i < KEY_LEN; i++)
        mesh_key[i] = (uint8_t)(0xa0 + i);
    size_t n = hello_mesh_info(buf, &client, &server.pub, mesh_key, &shared);
    assert_int_equal(frame_peek(&f, buf, n), n);
    assert_int_equal(hello_open_client_info(f.body, f.len, &server, &l.client, &l.shared, &l.info), 0);
    assert_true(key_equal(&l.client, &client.pub));
    assert_int_equal(l.info.version, DERP_PROTOCOL_VERSION);
    assert_true(hello_knows_mesh_key(&l.info, mesh_key));
    mesh_key[KEY_LEN - 1] ^= 1;
    assert_false(hello_knows_mesh_key(&l.info, mesh_key));
    memset(mesh_key, 0, sizeof mesh_key);
    memset(&l.info, 0, sizeof l.info);
    assert_false(hello_knows_mesh_key(&l.info, mesh_key)); /* none is no key */
}

/* Seals any text as a client would. */
static int open_text(struct login *l, const char *text, size_t n)
{
    static uint8_t buf[HELLO_CLIENT_INFO_MAX];
    struct key_pair server, client;
    uint8_t *nonce = buf + KEY_LEN;

    assert_true(KEY_LEN + HELLO_NONCE_LEN + HELLO_MAC_LEN + n <= sizeof buf);
    pair_of(&server, SECRET_SERVER);
    pair_of(&client, SECRET_B);
    memcpy(buf, client.pub.b, KEY_LEN);
    randombytes_buf(nonce, HELLO_NONCE_LEN);
    assert_int_equal(crypto_box_easy(nonce + HELLO_NONCE_LEN, (const uint8_t *)text, n, nonce, server.pub.b,
                                     client.secret),
                     0);
    return hello_open_client_info(buf, KEY_LEN + HELLO_NONCE_LEN + HELLO_MAC_LEN + n, &server, &l->client,
                                  &l->shared, &l->info);
}

/* As encoding/json v1 has it: but for null as the whole text and numbers beyond 64 bits. */
static const struct {
    const char *text;
    int rc, version;
    bool ack;
    const char *app, *mesh;
} as_go[] = {
    {"{}", 0, 0, false, "", ""},
    {"[]", HELLO_JSON, 0, false, "", ""},
    {"{\"VERSION\":2,\"canackpings\":true}", 0, 2, true, "", ""},
    {"{\"version\":\"2\"}", HELLO_JSON, 0, false, "", ""},
    {"{\"version\":2.0}", HELLO_JSON, 0, false, "", ""},
    {"{\"version\":2e0}", HELLO_JSON, 0, false, "", ""},
    {"{\"version\":02}", HELLO_JSON, 0, false, "", ""},
    {"{\"version\":-1}", 0, -1, false, "", ""},
    {" {\"version\" : 2 } ", 0, 2, false, "", ""},
    {"{\"ver\\u0073ion\":3}", 0, 3, false, "", ""},
    {"{\"version\\u0000\":3}", 0, 0, false, "", ""},
    {"{\"version\":2,\"version\":3}", 0, 3, false, "", ""},
    {"{\"version\":null,\"CanAckPings\":null,\"AppName\":null}", 0, 0, false, "", ""},
    {"{\"meshKey\":\"\"}", HELLO_JSON, 0, false, "", ""},
    {"{\"meshKey\":null}", HELLO_JSON, 0, false, "", ""},
    {"{\"meshKey\":5}", HELLO_JSON, 0, false, "", ""},
    {"{\"meshKey\":\"00\"}", HELLO_JSON, 0, false, "", ""},
    {"{\"MeshKey\":\"ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB\"}", 0, 0, false, "",
     "abababababababababababababababababababababababababababababababab"},
    {"{\"meshKey\":\"0000000000000000000000000000000000000000000000000000000000000000\"}", 0, 0, false, "",
     ""},
    {"{\"CanAckPings\":1}", HELLO_JSON, 0, false, "", ""},
    {"{\"AppName\":7}", HELLO_JSON, 0, false, "", ""},
    {"{\"AppName\":\"a\tb\"}", HELLO_JSON, 0, false, "", ""},
    {"{\"AppName\":\"\\u0041\\n\\u00e9\\\"\"}", 0, 0, false, "A??\"", ""},
    {"{\"x\":{\"y\":[1,{\"z\":[]}]},\"version\":2}", 0, 2, false, "", ""},
    {"{\"version\":2} x", HELLO_JSON, 0, false, "", ""},
    {"{\"version\":2,}", HELLO_JSON, 0, false, "", ""},
    {"{\"a\":1 \"b\":2}", HELLO_JSON, 0, false, "", ""},
    {"{\"a\"}", HELLO_JSON, 0, false, "", ""},
    {"{\"a\":tru}", HELLO_JSON, 0, false, "", ""},
    {"{\"a\":\"\\x\"}", HELLO_JSON, 0, false, "", ""},
    {"{\"a\":\"\\u12\"}", HELLO_JSON, 0, false, "", ""},
    {"{\"a\":-}", HELLO_JSON, 0, false, "", ""},
    {"{\"a\":1.}", HELLO_JSON, 0, false, "", ""},
    {"{\"a\":.5}", HELLO_JSON, 0, false, "", ""},
    {"{\"a\":1e}", HELLO_JSON, 0, false, "", ""},
    {"{\"a\":1e+}", HELLO_JSON, 0, false, "", ""},
    {"{\"a\":0e-0}", 0, 0, false, "", ""},
    {"{\"a\":01}", HELLO_JSON, 0, false, "", ""},
    {"", HELLO_JSON, 0, false, "", ""},
    {"{", HELLO_JSON, 0, false, "", ""},
    {"{\"a\":[1,]}", HELLO_JSON, 0, false, "", ""},
    {"{\"a\":[}", HELLO_JSON, 0, false, "", ""},
    {"{\"a\":[1 2]}", HELLO_JSON, 0, false, "", ""},
    {"{,}", HELLO_JSON, 0, false, "", ""},
    {"{\"a\":{\"b\":1,}}", HELLO_JSON, 0, false, "", ""},
    {"{\"a\":{\"b\":[true,false,null,\"\",{}]},\"version\":7}", 0, 7, false, "", ""},
};

static void test_json(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof as_go / sizeof *as_go; i++) {
        struct login l;

        if (open_text(&l, as_go[i].text, strlen(as_go[i].text)) != as_go[i].rc)
            fail_msg("%s", as_go[i].text);
        assert_int_equal(l.info.version, as_go[i].version);
        assert_int_equal(l.info.can_ack_pings, as_go[i].ack);
        assert_string_equal(l.info.app_name, as_go[i].app);
        assert_string_equal(l.info.mesh_key, as_go[i].mesh);
        assert_int_equal(l.info.has_mesh_key, *as_go[i].mesh != 0);
    }
}

static void test_json_limits(void **state)
{
    char text[2 * HELLO_CLIENT_INFO_MAX];
    struct login l;

    (void)state;
    for (int depth = 1; depth <= 40; depth++) {
        int n = 0;
        n += sprintf(text + n, "{\"a\":");
        for (int i = 1; i < depth; i++)
            n += sprintf(text + n, i % 2 ? "[" : "{\"b\":");
        n += sprintf(text + n, "1");
        for (int i = depth - 1; i >= 1; i--)
            n += sprintf(text + n, i % 2 ? "]" : "}");
        n += sprintf(text + n, "}");
        assert_int_equal(open_text(&l, text, (size_t)n), depth <= 32 ? 0 : HELLO_JSON);
    }
    /* a long name, a long AppName, a number without end */
    strcpy(text, "{\"versionversionversionversionversion\":\"2\",\"AppName\":"
                 "\"0123456789012345678901234567890123456789\","
                 "\"version\":77777777777777777777777777777777777777777777777}");
    assert_int_equal(open_text(&l, text, strlen(text)), 0);
    assert_string_equal(l.info.app_name, "0123456789012345678901234567890");
    assert_int_equal(l.info.version, INT32_MAX);
    memset(text, '[', 4000);
    assert_int_equal(open_text(&l, text, 4000), HELLO_JSON);
}

static void test_error_text(void **state)
{
    (void)state;
    for (int err = HELLO_MAGIC; err < 0; err++)
        assert_string_not_equal(hello_error_text(err), hello_error_text(0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded_clients), cmocka_unit_test(test_recorded_server),
        cmocka_unit_test(test_every_bit_counts), cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_weak_keys),        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_mesh_key),         cmocka_unit_test(test_json),
        cmocka_unit_test(test_json_limits),      cmocka_unit_test(test_error_text),
    };

    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
