/* HTTP heads: Tailscale's own, and what Go's server makes of odd ones.
 *
 * The requests and the 101 were recorded between derphttp's client and derpserver of tailscale.com
 * v1.102.5; the verdicts in the table of odd requests are those of net/http's server (Go 1.26) on the
 * same bytes, but for lines marked ours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/http1.h"

#define H "Host: h\r\n"

static int parse_request(struct http1_head *h, const char *text)
{
    return http1_parse_request(h, text, strlen(text));
}

static void assert_str(struct http1_str got, const char *want)
{
    assert_int_equal(got.n, strlen(want));
    assert_memory_equal(got.p, want, got.n);
}

static void assert_header(const struct http1_head *h, const char *name, const char *want)
{
    const struct http1_str *got = http1_find(h, name);

    assert_non_null(got);
    assert_str(*got, want);
}

static void test_derp_upgrade(void **state)
{
    static const char text[] =
        "GET /derp HTTP/1.1\r\nHost: 127.0.0.1:45709\r\nUser-Agent: Go-http-client/1.1\r\n"
        "Connection: Upgrade\r\nUpgrade: DERP\r\n\r\n\x02";
    struct http1_head h;

    (void)state;
    /* the ClientInfo frame may follow in the same read */
    assert_int_equal(http1_parse_request(&h, text, sizeof text - 1), sizeof text - 2);
    assert_str(h.method, "GET");
    assert_str(h.target, "/derp");
    assert_str(h.path, "/derp");
    assert_str(h.query, "");
    assert_int_equal(h.minor, 1);
    assert_int_equal(h.status, 0);
    assert_int_equal(h.n_headers, 4);
    assert_header(&h, "host", "127.0.0.1:45709");
    assert_true(http1_has_token(&h, "connection", "upgrade"));
    assert_true(http1_is_nocase(*http1_find(&h, "UPGRADE"), "derp"));
    assert_null(http1_find(&h, "Derp-Fast-Start"));
    assert_int_equal(http1_content_length(&h), 0);
}

static void test_response(void **state)
{
    static const char text[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n"
                               "Derp-Version: 2\r\nDerp-Public-Key: "
                               "d89e3bad79437dbed9f843418304f460ff05c7fe81fe4a9577a804cb9367ff66\r\n\r\n\x01";
    struct http1_head h;

    (void)state;
    assert_int_equal(http1_parse_response(&h, text, sizeof text - 1), sizeof text - 2);
    assert_int_equal(h.status, 101);
    assert_int_equal(h.n_headers, 4);
    assert_header(&h, "derp-version", "2");
}

static void test_odd_responses(void **state)
{
    static const struct {
        const char *text;
        int rc, status; /* rc 0: the whole text */
    } c[] = {{"HTTP/1.1 200 OK\r\n\r\n", 0, 200},
             {"HTTP/1.1 204 \r\n\r\n", 0, 204},
             {"HTTP/1.0 426\n\n", 0, 426},
             {"HTTP/1.1 999 \xe9 x\r\n\r\n", 0, 999},
             {"HTTP/1.1 099 x\r\n\r\n", HTTP1_BAD, 0},
             {"HTTP/1.1 20 x\r\n\r\n", HTTP1_BAD, 0},
             {"HTTP/1.1 2000 x\r\n\r\n", HTTP1_BAD, 0},
             {"HTTP/1.1 +20 x\r\n\r\n", HTTP1_BAD, 0},
             {"HTTP/1.1  200 x\r\n\r\n", HTTP1_BAD, 0},
             {"HTTP/1.1\r\n\r\n", HTTP1_BAD, 0},
             {"HTTP/2.0 200 x\r\n\r\n", HTTP1_VERSION, 0},
             {"ICY 200 OK\r\n\r\n", HTTP1_BAD, 0},
             {"HTTP/1.1 200 a\x01\r\n\r\n", HTTP1_BAD, 0},
             {"\x01\x00\x00\x00\x28", HTTP1_BAD, 0},
             {"HTTP/1.1 200 OK\r\nA b\r\n\r\n", HTTP1_BAD, 0}};
    struct http1_head h;

    (void)state;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        int n = (int)strlen(c[i].text), rc = http1_parse_response(&h, c[i].text, (size_t)n);
        if (rc != (c[i].rc ? c[i].rc : n))
            fail_msg("%s: %d", c[i].text, rc);
        if (rc > 0)
            assert_int_equal(h.status, c[i].status);
    }
}

static void test_odd_requests(void **state)
{
    static const struct {
        const char *text;
        int rc; /* 0: the whole text is a head */
    } c[] = {
        {"GET / HTTP/1.1\nHost: h\n\n", 0},
        {"GET / HTTP/1.1\r\n\r\n", HTTP1_BAD},
        {"GET / HTTP/1.0\r\n\r\n", 0},
        {"GET / HTTP/1.1\r\n" H H "\r\n", HTTP1_BAD},
        {"\r\nGET / HTTP/1.1\r\n" H "\r\n", HTTP1_BAD},
        {" GET / HTTP/1.1\r\n" H "\r\n", HTTP1_BAD},
        {"OPTIONS * HTTP/1.1\r\n" H "\r\n", 0},
        {"CONNECT a:443 HTTP/1.1\r\n\r\n", 0},
        {"GET a HTTP/1.1\r\n" H "\r\n", HTTP1_BAD},
        {"GET 1a://x HTTP/1.1\r\n" H "\r\n", HTTP1_BAD},
        {"GET mailto:x HTTP/1.1\r\n" H "\r\n", HTTP1_BAD}, /* ours: Go takes it, without a path */
        {"GET  / HTTP/1.1\r\n" H "\r\n", HTTP1_BAD},
        {"GET / HTTP/1.1 \r\n" H "\r\n", HTTP1_BAD},
        {"GET /\r\n" H "\r\n", HTTP1_BAD},
        {"GET\r\n" H "\r\n", HTTP1_BAD},
        {"G(T / HTTP/1.1\r\n" H "\r\n", HTTP1_BAD},
        {"get / HTTP/1.1\r\n" H "\r\n", 0},
        {"GET / HTTP/1.2\r\n" H "\r\n", 0},
        {"GET / HTTP/2.0\r\n" H "\r\n", HTTP1_VERSION},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP1_VERSION},
        {"GET / http/1.1\r\n" H "\r\n", HTTP1_BAD},
        {"GET / HTTP/1.10\r\n" H "\r\n", HTTP1_BAD},
        {"GET / HTTP/1.1\r\n" H "A : b\r\n\r\n", HTTP1_BAD},
        {"GET / HTTP/1.1\r\n" H "A: b\r\n c\r\n\r\n", HTTP1_BAD}, /* ours: Go unfolds */
        {"GET / HTTP/1.1\r\n A: b\r\n" H "\r\n", HTTP1_BAD},
        {"GET / HTTP/1.1\r\n" H ": b\r\n\r\n", HTTP1_BAD},
        {"GET / HTTP/1.1\r\n" H "nocolon\r\n\r\n", HTTP1_BAD},
        {"GET / HTTP/1.1\r\n" H "A: b\x01\r\n\r\n", HTTP1_BAD},
        {"GET / HTTP/1.1\r\n" H "A: b\x7f\r\n\r\n", HTTP1_BAD},
        {"GET / HTTP/1.1\r\n" H "A\xe9: b\r\n\r\n", HTTP1_BAD},
        {"GET / HTTP/1.1\r\n" H "A: \xe9\r\n\r\n", 0},
        {"GET / HTTP/1.1\r\n" H "A:b\r c\r\n\r\n", HTTP1_BAD},
        {"GET / HTTP/1.1\r\n" H "A: b\r\r\n\r\n", HTTP1_BAD},
        {"GET / HTTP/1.1\r\n" H "A:\r\n\r\n", 0},
        {"GET /\x01 HTTP/1.1\r\n" H "\r\n", HTTP1_BAD},
        {"GET /\xe9 HTTP/1.1\r\n" H "\r\n", 0},
        {"GET /\r HTTP/1.1\r\n" H "\r\n", HTTP1_BAD},
    };
    static const char in_value[] = "GET / HTTP/1.0\r\nA: \0\r\n\r\n",
                      in_name[] = "GET / HTTP/1.0\r\nA\0: b\r\n\r\n", in_method[] = "G\0T / HTTP/1.0\r\n\r\n";
    struct http1_head h;

    (void)state;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        int n = (int)strlen(c[i].text), rc = parse_request(&h, c[i].text);
        if (rc != (c[i].rc ? c[i].rc : n))
            fail_msg("%s: %d", c[i].text, rc);
    }
    /* a NUL, which a string cannot show */
    assert_int_equal(http1_parse_request(&h, in_value, sizeof in_value - 1), HTTP1_BAD);
    assert_int_equal(http1_parse_request(&h, in_name, sizeof in_name - 1), HTTP1_BAD);
    assert_int_equal(http1_parse_request(&h, in_method, sizeof in_method - 1), HTTP1_BAD);
}

static void test_targets(void **state)
{
    static const struct {
        const char *line, *path, *query;
    } c[] = {
        {"GET / ", "/", ""},           {"GET /a?b?c ", "/a", "b?c"},     {"GET /? ", "/", ""},
        {"GET //a ", "//a", ""},       {"GET http://x/a?b ", "/a", "b"}, {"GET HTTPS://x:443 ", "/", ""},
        {"GET http://x?q ", "/", "q"}, {"OPTIONS * ", "*", ""},          {"CONNECT a:443 ", "", ""},
        {"CONNECT /a ", "/a", ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        struct http1_head h;
        char text[128];

        snprintf(text, sizeof text, "%sHTTP/1.0\r\n\r\n", c[i].line);
        assert_int_equal(parse_request(&h, text), strlen(text));
        assert_str(h.path, c[i].path);
        assert_str(h.query, c[i].query);
        assert_int_equal(h.minor, 0);
    }
}

/* Another protocol is turned away before its "line" ends. */
static void test_early(void **state)
{
    static const char hello[] = {0x16, 0x03, 0x01}; /* TLS */
    struct http1_head h;
    char method[64];

    (void)state;
    assert_int_equal(http1_parse_request(&h, "", 0), 0);
    assert_int_equal(http1_parse_request(&h, hello, 1), HTTP1_BAD);
    assert_int_equal(parse_request(&h, "GET / HTTP/3.0\r\n"), HTTP1_VERSION);
    assert_int_equal(parse_request(&h, "GET / SIP/2.0\r\n"), HTTP1_BAD);
    assert_int_equal(http1_parse_response(&h, "HTT", 3), 0);
    assert_int_equal(http1_parse_response(&h, "SSH", 3), HTTP1_BAD);
    memset(method, 'A', sizeof method);
    assert_int_equal(http1_parse_request(&h, method, 32), 0);
    assert_int_equal(http1_parse_request(&h, method, 33), HTTP1_BAD);
    strcpy(method + 32, " / HTTP/1.0\n\n");
    assert_int_equal(parse_request(&h, method), strlen(method));
}

static void test_headers(void **state)
{
    struct http1_head h;

    (void)state;
    assert_true(parse_request(&h, "GET / HTTP/1.1\r\n" H "A:\t b c\t \r\na: second\r\nX-Empty:  \r\n"
                                  "Connection: keep-alive , Upgrade\r\nConnection: x,,TE\r\n\r\n") > 0);
    assert_header(&h, "A", "b c");
    assert_header(&h, "x-empty", "");
    assert_null(http1_find(&h, "b"));
    assert_null(http1_find(&h, ""));
    assert_true(http1_has_token(&h, "Connection", "keep-alive"));
    assert_true(http1_has_token(&h, "Connection", "upgrade"));
    assert_true(http1_has_token(&h, "Connection", "te"));
    assert_false(http1_has_token(&h, "Connection", "keep"));
    assert_false(http1_has_token(&h, "Connection", "xx"));
    assert_false(http1_has_token(&h, "Upgrade", "te"));
    assert_true(http1_is(h.method, "GET"));
    assert_false(http1_is(h.method, "get"));
    assert_false(http1_is(h.method, "GE"));
    assert_false(http1_is(h.method, "GETS"));
}

static void test_content_length(void **state)
{
    static const struct {
        const char *lines;
        long want;
    } c[] = {
        {"", 0},
        {"Content-Length: 0\r\n", 0},
        {"content-length: 17\r\n", 17},
        {"Content-Length: 01\r\n", 1},
        {"Content-Length: 1\r\nContent-Length: 1\r\n", 1},
        {"Content-Length: 1\r\nContent-Length: 2\r\n", -1},
        {"Content-Length: 0\r\nContent-Length: 2\r\n", -1},
        {"Content-Length: +1\r\n", -1},
        {"Content-Length: -1\r\n", -1},
        {"Content-Length: 1, 1\r\n", -1},
        {"Content-Length:\r\n", -1},
        {"Content-Length: 0x1\r\n", -1},
        {"Content-Length: 1048576\r\n", 1048576},
        {"Content-Length: 1048577\r\n", -1},
        {"Content-Length: 18446744073709551617\r\n", -1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        struct http1_head h;
        char text[256];

        snprintf(text, sizeof text, "GET / HTTP/1.1\r\n" H "%s\r\n", c[i].lines);
        assert_true(parse_request(&h, text) > 0);
        assert_int_equal(http1_content_length(&h), c[i].want);
    }
}

static void test_limits(void **state)
{
    static char text[HTTP1_HEAD_MAX + 64];
    struct http1_head h;
    char *p = text;

    (void)state;
    p += sprintf(p, "GET / HTTP/1.0\r\n");
    for (int i = 0; i < HTTP1_HEADERS_MAX; i++)
        p += sprintf(p, "A%d:\n", i);
    memcpy(p, "\n", 2);
    assert_int_equal(parse_request(&h, text), p + 1 - text);
    assert_int_equal(h.n_headers, HTTP1_HEADERS_MAX);
    memcpy(p, "B:\n\n", 5);
    assert_int_equal(parse_request(&h, text), HTTP1_TOO_LONG);
    assert_int_equal(http1_parse_request(&h, text, (size_t)(p + 3 - text)), HTTP1_TOO_LONG);

    /* exactly as long as allowed, then one more */
    for (int over = 0; over < 2; over++) {
        size_t n = HTTP1_HEAD_MAX + (size_t)over;
        memset(text, 'x', sizeof text);
        memcpy(text, "GET / HTTP/1.0\r\nA: ", 19);
        memcpy(text + n - 4, "\r\n\r\n", 4);
        assert_int_equal(http1_parse_request(&h, text, n), over ? HTTP1_TOO_LONG : HTTP1_HEAD_MAX);
        assert_int_equal(http1_parse_request(&h, text, sizeof text), over ? HTTP1_TOO_LONG : HTTP1_HEAD_MAX);
        assert_int_equal(http1_parse_request(&h, text, HTTP1_HEAD_MAX - 1), 0);
    }
    memset(text, 'x', sizeof text);
    memcpy(text, "GET /", 5);
    assert_int_equal(http1_parse_request(&h, text, HTTP1_HEAD_MAX - 1), 0);
    assert_int_equal(http1_parse_request(&h, text, HTTP1_HEAD_MAX), HTTP1_TOO_LONG);
}

/* Fed byte by byte, nothing is said before the last byte, and then the whole. */
static void test_splits(void **state)
{
    static const char text[] = "GET /derp HTTP/1.1\r\nHost: h\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n";
    struct http1_head h;

    (void)state;
    for (size_t n = 0; n < sizeof text - 1; n++)
        assert_int_equal(http1_parse_request(&h, text, n), 0);
    assert_int_equal(parse_request(&h, text), sizeof text - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_derp_upgrade),  cmocka_unit_test(test_response),
        cmocka_unit_test(test_odd_responses), cmocka_unit_test(test_odd_requests),
        cmocka_unit_test(test_targets),       cmocka_unit_test(test_early),
        cmocka_unit_test(test_headers),       cmocka_unit_test(test_content_length),
        cmocka_unit_test(test_limits),        cmocka_unit_test(test_splits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
