/* Keys: text forms, derper's key file, the mesh keyring.
 *
 * The pairs of privkey and nodekey text and the short forms were printed by tailscale.com v1.102.5
 * (types/key), the key file by cmd/derper of that version. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "proto/key.h"
#include "proto/wire.h"

#define SECRET_A "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f"
#define PUBLIC_A "79a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51a"
#define ZEROS    "0000000000000000000000000000000000000000000000000000000000000000"
#define MESH_1   "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define MESH_2   "FEDCBA9876543210fedcba9876543210fedcba9876543210fedcba9876543210"

static const char derper_key[] = "{\n\t\"PrivateKey\": \"privkey:" SECRET_A "\"\n}";

static void test_hex(void **state)
{
    uint8_t raw[4];
    char text[9];

    (void)state;
    assert_int_equal(wire_unhex(raw, 4, "00fFAb12", 8), 0);
    wire_hex(text, raw, 4);
    assert_string_equal(text, "00ffab12");
    assert_int_equal(wire_unhex(raw, 4, "00ffab1", 7), -1);
    assert_int_equal(wire_unhex(raw, 4, "00ffab123", 9), -1);
    assert_int_equal(wire_unhex(raw, 4, "00ffab1g", 8), -1);
    assert_int_equal(wire_unhex(raw, 4, "00ff 12a", 8), -1);
    assert_int_equal(wire_unhex(raw, 4, "", 0), -1);
    assert_int_equal(wire_unhex(raw, 0, "", 0), 0);
}

static void test_public_text(void **state)
{
    static const struct {
        const char *secret, *text, *brief;
    } known[] = {
        {"101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e6f",
         "nodekey:d89e3bad79437dbed9f843418304f460ff05c7fe81fe4a9577a804cb9367ff66", "[2J47r]"},
        {SECRET_A, "nodekey:" PUBLIC_A, "[eaYx7]"},
        {"707172737475767778797a7b7c7d7e7f808182838485868788898a8b8c8d8e4f",
         "nodekey:23b7bb8c91ae008711fb12846780bcdf1e065f821bdfec49f57e7c7dcd4c4823", "[I7e7j]"},
        {"a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbe7f",
         "nodekey:605a725d2a4adfeeb1a29e17edd621c1b7593ee8cdbc44ac6c4ab6e2f805d23c", "[YFpyX]"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct key_pair kp;
        struct derp_key back;
        uint8_t secret[KEY_LEN];
        char text[KEY_TEXT_MAX], brief[8];

        assert_int_equal(wire_unhex(secret, KEY_LEN, known[i].secret, 64), 0);
        key_pair_from_secret(&kp, secret);
        key_public_text(text, &kp.pub);
        assert_string_equal(text, known[i].text);
        key_short(brief, &kp.pub);
        assert_string_equal(brief, known[i].brief);
        assert_int_equal(key_public_parse(&back, text, strlen(text)), 0);
        assert_true(key_equal(&back, &kp.pub));
        back.b[31] ^= 1;
        assert_false(key_equal(&back, &kp.pub));
    }
}

static void test_public_parse_refuses(void **state)
{
    static const char *bad[] = {"",
                                "nodekey:",
                                PUBLIC_A,
                                "nodekey:" PUBLIC_A "0",
                                "NODEKEY:" PUBLIC_A,
                                "privkey:" SECRET_A,
                                " nodekey:" PUBLIC_A,
                                "nodekey:x9a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51a"};
    struct derp_key k;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(key_public_parse(&k, bad[i], strlen(bad[i])), -1);
}

static void test_zero_and_generate(void **state)
{
    struct derp_key zero = {{0}};
    struct key_pair a, b;
    char brief[8];

    (void)state;
    assert_true(key_is_zero(&zero));
    key_short(brief, &zero);
    assert_string_equal(brief, "");
    key_pair_generate(&a);
    key_pair_generate(&b);
    assert_false(key_equal(&a.pub, &b.pub));
    assert_false(key_is_zero(&a.pub));
    assert_int_equal(a.secret[0] & 7, 0);
    assert_int_equal(a.secret[31] & 0xc0, 0x40);
    key_pair_wipe(&a);
    assert_true(sodium_is_zero((const uint8_t *)&a, sizeof a));
}

static void test_key_file(void **state)
{
    static const char *good[] = {
        derper_key, "{\"privatekey\":\"privkey:" SECRET_A "\"}",
        " {\"Other\": [{}], \"PrivateKey\" : \"privkey:" SECRET_A "\"} \n",
        "{\"PrivateKey\": \"privkey:404142434445464748494A4B4C4D4E4F505152535455565758595A5B5C5D5E5F\"}",
        /* an escape is the same text */
        "{\"PrivateKey\": \"priv\\u006bey:" SECRET_A "\"}"};

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct key_pair kp;
        char err[200] = "", text[KEY_TEXT_MAX], file[128];

        assert_int_equal(key_file_parse(&kp, good[i], strlen(good[i]), err, sizeof err), 0);
        assert_string_equal(err, "");
        key_public_text(text, &kp.pub);
        assert_string_equal(text, "nodekey:" PUBLIC_A);
        assert_int_equal(key_file_format(&kp, file, sizeof file), strlen(derper_key));
        assert_string_equal(file, derper_key);
        assert_int_equal(key_file_format(&kp, file, strlen(derper_key)), -1);
        assert_null(strstr(file, "4041"));
    }
}

static void test_key_file_refuses(void **state)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "no JSON object"},
        {"privkey:" SECRET_A, "no JSON object"},
        {"[\"privkey:" SECRET_A "\"]", "no JSON object"},
        {"{}", "no \"PrivateKey\""},
        {"{\"Key\": \"privkey:" SECRET_A "\"}", "no \"PrivateKey\""},
        {"{\"PrivateKey\": null}", "no string"},
        {"{\"PrivateKey\": 5}", "no string"},
        {"{\"PrivateKey\": \"" SECRET_A "\"}", "begin with"},
        {"{\"PrivateKey\": \"privkey:" SECRET_A "0\"}", "64 hex"},
        {"{\"PrivateKey\": \"privkey:4041\"}", "64 hex"},
        {"{\"PrivateKey\": \"privkey:x041424344454647484950515253545556575859404142434445464748495051\"}",
         "64 hex"},
        {"{\"PrivateKey\": \"privkey:" ZEROS "\"}", "zeros"},
        {"{\"PrivateKey\": \"privkey:" SECRET_A "\"", "malformed"},
        {"{\"PrivateKey\": \"privkey:" SECRET_A "\"} x", "malformed"},
        {"{\"PrivateKey\": \"privkey:" SECRET_A "\",}", "malformed"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct key_pair kp;
        char err[200] = "";

        assert_int_equal(key_file_parse(&kp, bad[i].text, strlen(bad[i].text), err, sizeof err), -1);
        assert_non_null(strstr(err, bad[i].says));
        assert_null(strstr(err, "4041"));
    }
}

static void test_mesh_keys(void **state)
{
    static const char text[] = "# first\r\n\n  " MESH_1 "\t\r\n" MESH_2 " # old";
    struct mesh_keys mk;
    char err[200], hex[65];

    (void)state;
    assert_int_equal(mesh_keys_parse(&mk, text, sizeof text - 1, err, sizeof err), 0);
    assert_int_equal(mk.n, 2);
    wire_hex(hex, mk.key[0], KEY_LEN);
    assert_string_equal(hex, MESH_1);
    wire_hex(hex, mk.key[1], KEY_LEN);
    assert_string_equal(hex, "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210");
}

static void test_mesh_keys_refuse(void **state)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "no mesh key"},
        {"# none\n\n", "no mesh key"},
        {MESH_1 "\n" MESH_1 "0\n", "line 2: a mesh key"},
        {MESH_1 "\n\n" MESH_1 " " MESH_2, "line 3: a mesh key"},
        {"\n" ZEROS, "line 2: the mesh key is all zeros"},
        {MESH_1 "\n" MESH_1 "\n" MESH_1 "\n" MESH_1 "\n" MESH_1, "line 5: there are more"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct mesh_keys mk;
        char err[200];

        assert_int_equal(mesh_keys_parse(&mk, bad[i].text, strlen(bad[i].text), err, sizeof err), -1);
        assert_non_null(strstr(err, bad[i].says));
        assert_null(strstr(err, "0123"));
        assert_true(sodium_is_zero((const uint8_t *)&mk, sizeof mk));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hex),
        cmocka_unit_test(test_public_text),
        cmocka_unit_test(test_public_parse_refuses),
        cmocka_unit_test(test_zero_and_generate),
        cmocka_unit_test(test_key_file),
        cmocka_unit_test(test_key_file_refuses),
        cmocka_unit_test(test_mesh_keys),
        cmocka_unit_test(test_mesh_keys_refuse),
    };

    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
