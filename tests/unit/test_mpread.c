/* mpread: what msgpack says, and input that lies about counts, depth and lengths. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/mpread.h"

/* A cursor over a copy of exactly these bytes, so that a read beyond is seen by the sanitizers. */
static uint8_t *on(struct mpread *r, const char *bytes, size_t n)
{
    uint8_t *p = malloc(n ? n : 1);
    memcpy(p, bytes, n);
    mpread_init(r, p, n);
    return p;
}

static void check_uint(const char *bytes, size_t n, int expect, uint64_t value)
{
    struct mpread r;
    uint64_t v = 0;
    uint8_t *p = on(&r, bytes, n);
    assert_int_equal(mpread_uint(&r, &v), expect);
    if (expect == 0) {
        assert_int_equal(v, value);
        assert_int_equal(mpread_left(&r), 0);
    } else {
        assert_int_equal(mpread_left(&r), n); /* has not moved */
    }
    free(p);
}

static void test_uint(void **state)
{
    (void)state;
    check_uint("\x00", 1, 0, 0);
    check_uint("\x7f", 1, 0, 127);
    check_uint("\xcc\xff", 2, 0, 255);
    check_uint("\xcd\x01\x02", 3, 0, 0x102);
    check_uint("\xce\x01\x02\x03\x04", 5, 0, 0x1020304);
    check_uint("\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 9, 0, UINT64_MAX);
    check_uint("\xd0\x7f", 2, 0, 127); /* int 8, not negative */
    check_uint("\xd3\x7f\xff\xff\xff\xff\xff\xff\xff", 9, 0, INT64_MAX);
    check_uint("\xd0\x80", 2, -1, 0); /* negative */
    check_uint("\xff", 1, -1, 0);
    check_uint("\xcb\x00\x00\x00\x00\x00\x00\x00\x00", 9, -1, 0); /* float */
    check_uint("", 0, -1, 0);
    check_uint("\xcc", 1, -1, 0);
    check_uint("\xcf\x00\x00\x00\x00\x00\x00\x00", 8, -1, 0);
    check_uint("\xc1", 1, -1, 0);
    struct mpread r;
    uint32_t v;
    uint8_t *p = on(&r, "\xcd\x01\x00", 3);
    assert_int_equal(mpread_u32(&r, &v, 255), -1);
    assert_int_equal(mpread_left(&r), 3);
    assert_int_equal(mpread_u32(&r, &v, 256), 0);
    assert_int_equal(v, 256);
    free(p);
}

static int skip_of(const char *bytes, size_t n, size_t *left)
{
    struct mpread r;
    uint8_t *p = on(&r, bytes, n);
    int rc = mpread_skip(&r);
    *left = mpread_left(&r);
    free(p);
    return rc;
}

static void test_skip_every_kind(void **state)
{
    (void)state;
    static const struct {
        const char *b;
        size_t n;
    } good[] = {
        {"\x05", 1},
        {"\xe0", 1},
        {"\xc0", 1},
        {"\xc2", 1},
        {"\xc3", 1},
        {"\xa3"
         "abc",
         4},
        {"\xd9\x02"
         "ab",
         4},
        {"\xda\x00\x01"
         "a",
         4},
        {"\xdb\x00\x00\x00\x01"
         "a",
         6},
        {"\xc4\x01z", 3},
        {"\xc5\x00\x01z", 4},
        {"\xc6\x00\x00\x00\x01z", 6},
        {"\xc7\x01\x05z", 4},
        {"\xc8\x00\x01\x05z", 5},
        {"\xc9\x00\x00\x00\x01\x05z", 7},
        {"\xca....", 5},
        {"\xcb........", 9},
        {"\xd1..", 3},
        {"\xd2....", 5},
        {"\xd3........", 9},
        {"\xd4\x01.", 3},
        {"\xd5\x01..", 4},
        {"\xd6\x01....", 6},
        {"\xd7\x01........", 10},
        {"\xd8\x01................", 18},
        {"\x90", 1},
        {"\x92\x01\x02", 3},
        {"\xdc\x00\x01\x07", 4},
        {"\xdd\x00\x00\x00\x01\x07", 6},
        {"\x80", 1},
        {"\x81\x01\x02", 3},
        {"\xde\x00\x01\x01\x02", 5},
        {"\xdf\x00\x00\x00\x01\x01\x02", 7},
        {"\x93\x91\x91\x01\x82\x01\x02\x03\x90\xc0", 10},
    };
    size_t left;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        char with[32];
        memcpy(with, good[i].b, good[i].n);
        with[good[i].n] = 0x2a;
        assert_int_equal(skip_of(with, good[i].n + 1, &left), 0);
        assert_int_equal(left, 1); /* stops exactly behind it */
        for (size_t n = 0; n < good[i].n; n++) {
            assert_int_equal(skip_of(good[i].b, n, &left), -1); /* each truncation */
            assert_int_equal(left, n);
        }
    }
}

static void test_lies(void **state)
{
    (void)state;
    size_t left;
    assert_int_equal(skip_of("\xdd\xff\x00\x00\x00", 5, &left), -1); /* 4 thousand million elements */
    assert_int_equal(skip_of("\xdf\xff\xff\xff\xff\x01\x01", 7, &left), -1);
    assert_int_equal(skip_of("\xdf\x80\x00\x00\x00", 5, &left), -1); /* twice this is 0 in 32 bits */
    assert_int_equal(skip_of("\xdc\x00\x02\x01", 4, &left), -1);
    assert_int_equal(skip_of("\xc6\xff\xff\xff\xff", 5, &left), -1);
    assert_int_equal(skip_of("\xc9\xff\xff\xff\xff", 5, &left), -1); /* + 1 overflows in 32 bits */
    assert_int_equal(skip_of("\xdb\xff\xff\xff\xfb", 5, &left), -1);
    assert_int_equal(skip_of("\xc1", 1, &left), -1);
    struct mpread r;
    uint32_t n;
    uint8_t *p = on(&r, "\xdd\x00\x00\x00\x02\x01", 6);
    assert_int_equal(mpread_array(&r, &n), -1);
    assert_int_equal(mpread_left(&r), 6);
    free(p);
    p = on(&r, "\xdd\x00\x00\x00\x02\x01\x02", 7);
    assert_int_equal(mpread_array(&r, &n), 0);
    assert_int_equal(n, 2);
    free(p);
}

static void test_depth(void **state)
{
    (void)state;
    char deep[64];
    size_t left;
    memset(deep, 0x91, sizeof deep);
    deep[MPREAD_DEPTH_MAX - 1] = 0x01; /* 31 arrays round a number */
    assert_int_equal(skip_of(deep, MPREAD_DEPTH_MAX, &left), 0);
    memset(deep, 0x91, sizeof deep);
    deep[MPREAD_DEPTH_MAX] = 0x01;
    assert_int_equal(skip_of(deep, MPREAD_DEPTH_MAX + 1, &left), -1);
    /* A hundred thousand heads of nested arrays cost nothing. */
    char *much = malloc(100000);
    memset(much, 0x91, 100000);
    assert_int_equal(skip_of(much, 100000, &left), -1);
    free(much);
}

static void test_bytes_and_names(void **state)
{
    (void)state;
    struct mpread r;
    const uint8_t *b;
    const char *s;
    size_t n;
    bool v;
    uint8_t out[2];
    char name[4];
    uint8_t *p = on(&r,
                    "\xc4\x02zz\xa2hi\xa3"
                    "abc\xa4"
                    "abcd\xa1\n\xc3\xc2",
                    20);
    assert_int_equal(mpread_str(&r, &s, &n), -1);
    assert_int_equal(mpread_bin_exact(&r, out, 1), -1);
    assert_int_equal(mpread_bin_exact(&r, out, 2), 0);
    assert_memory_equal(out, "zz", 2);
    assert_int_equal(mpread_bin(&r, &b, &n), -1);
    assert_int_equal(mpread_str(&r, &s, &n), 0);
    assert_int_equal(n, 2);
    assert_memory_equal(s, "hi", 2);
    assert_int_equal(mpread_name(&r, name, sizeof name), 0);
    assert_string_equal(name, "abc");
    assert_int_equal(mpread_name(&r, name, sizeof name), -1); /* no room for the NUL */
    assert_string_equal(name, "abc");
    assert_int_equal(mpread_skip(&r), 0);
    assert_int_equal(mpread_name(&r, name, sizeof name), -1); /* a control character */
    assert_int_equal(mpread_skip(&r), 0);
    assert_int_equal(mpread_bool(&r, &v), 0);
    assert_true(v);
    assert_int_equal(mpread_bool(&r, &v), 0);
    assert_false(v);
    assert_int_equal(mpread_bool(&r, &v), -1);
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uint),  cmocka_unit_test(test_skip_every_kind), cmocka_unit_test(test_lies),
        cmocka_unit_test(test_depth), cmocka_unit_test(test_bytes_and_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
