/* The allow file's text and set, and what a verify service's answer and URL look like. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/allow.h"
#include "node/verify_url.h"

#define HEX16 "0123456789abcdef"
#define HEX64 HEX16 HEX16 HEX16 HEX16
#define KEY_A "nodekey:" HEX64
#define KEY_B "nodekey:ff" HEX16 HEX16 HEX16 "0123456789abcd"

static char err[512];

static struct allow_set *parse(const char *text)
{
    err[0] = 0;
    return allow_parse("allow.txt", text, strlen(text), err, sizeof(err));
}

static struct derp_key key(const char *text)
{
    struct derp_key k;
    assert_int_equal(key_public_parse(&k, text, strlen(text)), 0);
    return k;
}

static void forms(void **state)
{
    static const char *const texts[] = {
        KEY_A "\n" KEY_B "\n",
        KEY_B "\n" KEY_A,
        "\xef\xbb\xbf# from Windows\r\n" KEY_A "\r\n\r\n" KEY_B "\r\n",
        "  \t" KEY_A "  # laptop\n\n#" KEY_A "\n" KEY_B "#phone\n   # end\n\t\n",
        KEY_A "\n" KEY_A "\n" KEY_B "\n" KEY_A "\n", /* doubled ones count once */
    };
    struct derp_key a = key(KEY_A), b = key(KEY_B), other = a;
    (void)state;
    other.b[31] ^= 1;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct allow_set *s = parse(texts[i]);
        if (!s)
            fail_msg("%zu: %s", i, err);
        assert_int_equal(allow_count(s), 2);
        assert_true(allow_has(s, &a));
        assert_true(allow_has(s, &b));
        assert_false(allow_has(s, &other));
        allow_unref(s);
    }
}

static void faults(void **state)
{
    static const struct {
        const char *text, *place;
    } bad[] = {
        {"", "allow.txt: holds no key"},
        {"# nobody\n\n", "allow.txt: holds no key"},
        {HEX64 "\n", "allow.txt:1:1: a key is written"},
        {KEY_A "\n  mkey:" HEX64 "\n", "allow.txt:2:3: a key is written"},
        {KEY_A "\n\nnodekey:" HEX16 "\n", "allow.txt:3:9: the key has fewer"},
        {KEY_A "0\n", "allow.txt:1:9: the key has more"},
        {"nodekey:" HEX16 HEX16 HEX16 "0123456789abcdeg\n", "allow.txt:1:9: the key has a character"},
        {KEY_A " " KEY_B "\n", "allow.txt:1:74: one key a line"},
        {KEY_A "," KEY_B "\n", "allow.txt:1:9: the key has more"},
        {"privkey:" HEX64 "\n", "allow.txt:1:1: a key is written"},
        {"nodekey:0000000000000000000000000000000000000000000000000000000000000000",
         "allow.txt:1:9: a key of zeros"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_null(parse(bad[i].text));
        if (strncmp(err, bad[i].place, strlen(bad[i].place)) != 0)
            fail_msg("%zu: %s, not %s", i, err, bad[i].place);
        assert_null(strstr(err, HEX16)); /* what stands there may be a secret */
    }
    assert_null(allow_parse("f", "a\0b", 3, err, sizeof(err)));
}

static void many(void **state)
{
    enum { N = 300000, LINE = 73 };
    char *text = malloc((size_t)N * LINE + 1);
    struct derp_key k, first = {{0}};
    (void)state;
    assert_non_null(text);
    for (int i = 0; i < N; i++) {
        char one[KEY_TEXT_MAX];
        randombytes_buf(k.b, sizeof(k.b));
        if (i == 0)
            first = k;
        key_public_text(one, &k);
        sprintf(text + (size_t)i * LINE, "%s\n", one);
    }
    struct allow_set *s = allow_parse("f", text, (size_t)N * LINE, err, sizeof(err));
    assert_non_null(s);
    assert_int_equal(allow_count(s), N);
    assert_true(allow_has(s, &first));
    assert_true(allow_has(s, &k));
    k.b[0] ^= 1;
    assert_false(allow_has(s, &k));
    allow_unref(allow_ref(s));
    assert_true(allow_has(s, &first));
    allow_unref(s);
    free(text);
}

static void files(void **state)
{
    char path[] = "/tmp/derpmesh-allow-XXXXXX";
    struct allow_mark a, b;
    (void)state;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, KEY_A "\n", 73), 73);
    struct allow_set *s = allow_load(path, err, sizeof(err));
    assert_non_null(s);
    assert_int_equal(allow_count(s), 1);
    assert_int_equal(allow_mark_of(path, &a), 0);
    assert_memory_equal(&a, allow_mark(s), sizeof(a));
    assert_int_equal(write(fd, KEY_B "\n", 73), 73);
    assert_int_equal(allow_mark_of(path, &b), 0);
    assert_memory_not_equal(&a, &b, sizeof(a));
    allow_unref(s);
    close(fd);
    unlink(path);
    assert_null(allow_load(path, err, sizeof(err)));
    assert_non_null(strstr(err, path));
    assert_true(allow_mark_of(path, &b) < 0);
    assert_null(allow_load("/tmp", err, sizeof(err)));
    assert_non_null(strstr(err, "no regular file"));
}

/* ---- the verify service ---- */

static void answers(void **state)
{
    static const struct {
        const char *text;
        int want; /* 1 yes, 0 no, -1 none */
    } table[] = {
        {"{\"Allow\":true}", 1},
        {" { \"Allow\" : false } \n", 0},
        {"{\"allow\":true}", 1}, /* any case, as Go reads it */
        {"{\"x\":[{\"Allow\":true}],\"Allow\":false}", 0},
        {"{\"Allow\":true,\"Allow\":false}", 0},
        {"{}", -1},
        {"", -1},
        {"true", -1},
        {"[true]", -1},
        {"{\"Allow\":1}", -1},
        {"{\"Allow\":\"true\"}", -1},
        {"{\"Allow\":null}", -1},
        {"{\"Allow\":true", -1},
        {"{\"Allow\":true}}", -1},
        {"{\"Allow\":true}{\"Allow\":true}", -1},
        {"<html>", -1},
    };
    char big[VERIFY_ANSWER_MAX + 2];
    bool allow;
    (void)state;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        int rc = verify_answer_parse(table[i].text, strlen(table[i].text), &allow);
        if ((rc < 0 ? -1 : allow) != table[i].want)
            fail_msg("%s: %d", table[i].text, rc < 0 ? -1 : allow);
    }
    memset(big, ' ', sizeof(big));
    memcpy(big, "{\"Allow\":true}", 14);
    assert_int_equal(verify_answer_parse(big, VERIFY_ANSWER_MAX, &allow), 0);
    assert_int_equal(verify_answer_parse(big, VERIFY_ANSWER_MAX + 1, &allow), -1);
}

static void shown(void **state)
{
    static const struct {
        const char *url, *shown;
    } table[] = {
        {"https://hs.example.com/verify", "https://hs.example.com/verify"},
        {"https://user:pass@hs.example.com:8443/verify?token=abc#x", "https://hs.example.com:8443/verify"},
        {"http://a@b@[::1]:80?x", "http://[::1]:80"},
        {"https://h/path@x", "https://h/path@x"},
        {"https://h", "https://h"},
    };
    char out[VERIFY_URL_SHOWN], longer[600];
    (void)state;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        assert_string_equal(verify_url_shown(out, table[i].url), table[i].shown);
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = 0;
    memcpy(longer, "https://", 8);
    assert_int_equal(strlen(verify_url_shown(out, longer)), VERIFY_URL_SHOWN - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms), cmocka_unit_test(faults),  cmocka_unit_test(many),
        cmocka_unit_test(files), cmocka_unit_test(answers), cmocka_unit_test(shown),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
