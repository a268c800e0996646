/* PROXY headers: the examples of the specification, every prefix of them, what is no header and what is a bad one; whom
 * to believe. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "node/config.h"
#include "node/proxied.h"
#include "proto/proxyhdr.h"

#define SIGN "\r\n\r\n\0\r\nQUIT\n"

/* Parses a copy of exactly n bytes. */
static int parse(struct proxyhdr *h, const void *bytes, size_t n)
{
    uint8_t *copy = malloc(n + 1);
    memcpy(copy, bytes, n);
    copy = realloc(copy, n ? n : 1);
    int rc = proxyhdr_parse(h, copy, n);
    free(copy);
    return rc;
}

/* A good header: each prefix asks for more, what follows is left alone. */
static void good(const void *bytes, size_t n, const char *ip, unsigned port)
{
    struct proxyhdr h;
    uint8_t want[16], *longer = malloc(n + 50);

    for (size_t k = 0; k < n; k++)
        assert_int_equal(parse(&h, bytes, k), 0);
    memcpy(longer, bytes, n);
    memset(longer + n, 0x16, 50);
    assert_int_equal(parse(&h, longer, n + 50), n);
    assert_int_equal(parse(&h, bytes, n), n);
    assert_int_equal(h.named, ip != NULL);
    if (ip) {
        assert_int_equal(inet_pton(AF_INET6, ip, want), 1);
        assert_memory_equal(h.ip, want, 16);
        assert_int_equal(h.port, port);
    }
    free(longer);
}

static void bad(const void *bytes, size_t n, int how)
{
    struct proxyhdr h;
    int rc = 0;

    for (size_t k = 0; k <= n && rc == 0; k++) {
        rc = parse(&h, bytes, k);
        if (k < n && rc < 0)
            assert_int_equal(rc, how); /* early is fine */
    }
    assert_int_equal(rc, how);
}

#define GOOD1(text, ip, port) good(text, sizeof(text) - 1, ip, port)
#define BAD1(text)            bad(text, sizeof(text) - 1, PROXYHDR_BAD)

static void version_1(void **state)
{
    char line[200];

    (void)state;
    GOOD1("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "::ffff:255.255.255.255", 65535);
    GOOD1("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", "::ffff:192.168.0.1", 56324);
    GOOD1("PROXY TCP6 2001:db8::1 ::1 1 0\r\n", "2001:db8::1", 1);
    GOOD1("PROXY UNKNOWN\r\n", NULL, 0);
    GOOD1("PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
          "65535 65535\r\n",
          NULL, 0);
    BAD1("PROXY \r\n");
    BAD1("PROXY TCP4\r\n");
    BAD1("PROXY TCP4 \r\n");
    BAD1("PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n");
    BAD1("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n");
    BAD1("PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n");
    BAD1("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n");
    BAD1("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n");
    BAD1("PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n");
    BAD1("PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n");
    BAD1("PROXY TCP4 1.2.3.4 x 1 2\r\n");
    BAD1("PROXY TCP4 ::1 1.2.3.4 1 2\r\n");
    BAD1("PROXY TCP6 1.2.3.4 ::1 1 2\r\n");
    BAD1("PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n");
    BAD1("PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n");
    BAD1("PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n");
    BAD1("PROXY TCP4 1.2.3.4 1.2.3.4 1 x\r\n");
    BAD1("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n");
    BAD1("PROXY TCP4 1.2.3.4\0 1.2.3.4 1 2\r\n");
    /* no line end within 107 bytes */
    memset(line, 'x', sizeof line);
    memcpy(line, "PROXY UNKNOWN ", 14);
    bad(line, 107, PROXYHDR_BAD);
}

static uint8_t v2[4096];

/* A version 2 header of len bytes after the fixed part; addresses 10.1.2.3:4660 or 2001:db8::7:4660. */
static size_t make_v2(uint8_t command, uint8_t family, size_t len)
{
    static const uint8_t a4[] = {10, 1, 2, 3, 10, 9, 9, 9, 0x12, 0x34, 1, 187};

    memset(v2, 0xee, sizeof v2);
    memcpy(v2, SIGN, 12);
    v2[12] = command;
    v2[13] = family;
    v2[14] = (uint8_t)(len >> 8);
    v2[15] = (uint8_t)len;
    if (family == 0x11) {
        memcpy(v2 + 16, a4, sizeof a4);
    } else if (family == 0x21) {
        inet_pton(AF_INET6, "2001:db8::7", v2 + 16);
        memcpy(v2 + 48, a4 + 8, 4);
    }
    return 16 + len;
}

static void version_2(void **state)
{
    size_t n;

    (void)state;
    n = make_v2(0x21, 0x11, 12);
    good(v2, n, "::ffff:10.1.2.3", 0x1234);
    n = make_v2(0x21, 0x21, 36);
    good(v2, n, "2001:db8::7", 0x1234);
    n = make_v2(0x21, 0x11, 12 + 600); /* extensions */
    good(v2, n, "::ffff:10.1.2.3", 0x1234);
    n = make_v2(0x21, 0x11, 2048);
    good(v2, n, "::ffff:10.1.2.3", 0x1234);
    n = make_v2(0x20, 0x00, 0); /* a proxy's own health check */
    good(v2, n, NULL, 0);
    n = make_v2(0x20, 0x31, 216); /* whatever LOCAL carries means nothing */
    good(v2, n, NULL, 0);
    n = make_v2(0x21, 0x00, 7);
    good(v2, n, NULL, 0);
    bad(v2, make_v2(0x11, 0x11, 12), PROXYHDR_BAD); /* version 1 in binary */
    bad(v2, make_v2(0x22, 0x11, 12), PROXYHDR_BAD);
    bad(v2, make_v2(0x21, 0x11, 11), PROXYHDR_BAD);
    bad(v2, make_v2(0x21, 0x21, 35), PROXYHDR_BAD);
    bad(v2, make_v2(0x21, 0x41, 36), PROXYHDR_BAD);
    bad(v2, make_v2(0x21, 0x13, 36), PROXYHDR_BAD);
    bad(v2, make_v2(0x21, 0x12, 12), PROXYHDR_UNFIT); /* UDP */
    bad(v2, make_v2(0x21, 0x31, 216), PROXYHDR_UNFIT);
    bad(v2, make_v2(0x21, 0x11, 2049), PROXYHDR_UNFIT);
    bad(v2, make_v2(0x20, 0x00, 65535 - 62000), PROXYHDR_UNFIT);
}

static void something_else(void **state)
{
    static const char *const others[] = {"GET / HTTP/1.1\r\n", "PRI * HTTP/2.0", "\x16\x03\x01", "PROXYX",
                                         "\r\n\r\nx",          "proxy TCP4"};

    (void)state;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        bad(others[i], strlen(others[i]), PROXYHDR_NONE);
}

static struct conn_addr addr(const char *ip)
{
    struct conn_addr a = {.port = 77};
    assert_int_equal(inet_pton(AF_INET6, ip, a.ip), 1);
    return a;
}

static void whom_to_believe(void **state)
{
    static const char header[] = "PROXY TCP4 203.0.113.5 10.0.0.1 4444 443\r\n";
    struct config cfg = {.n_proxies = 2};
    const char *why = NULL;

    (void)state;
    cfg.proxies[0].bits = 96 + 9; /* 10.128.0.0/9 */
    memcpy(cfg.proxies[0].ip, addr("::ffff:10.128.0.0").ip, 16);
    cfg.proxies[1].bits = 128;
    memcpy(cfg.proxies[1].ip, addr("::1").ip, 16);
    struct conn_addr proxy = addr("::ffff:10.200.1.1"), other = addr("::ffff:10.100.1.1"), a;
    assert_true(proxied_trusted(&cfg, &proxy));
    assert_false(proxied_trusted(&cfg, &other));
    a = addr("::1");
    assert_true(proxied_trusted(&cfg, &a));
    a = addr("::2");
    assert_false(proxied_trusted(&cfg, &a));

    a = proxy;
    assert_int_equal(proxied_header(&cfg, &a, (const uint8_t *)header, 20, &why), 0);
    assert_int_equal(proxied_header(&cfg, &a, (const uint8_t *)header, sizeof header - 1, &why),
                     sizeof header - 1);
    assert_memory_equal(a.ip, addr("::ffff:203.0.113.5").ip, 16);
    assert_int_equal(a.port, 4444);
    a = proxy;
    assert_int_equal(proxied_header(&cfg, &a, (const uint8_t *)"PROXY UNKNOWN\r\n", 15, &why), 15);
    assert_memory_equal(a.ip, proxy.ip, 16);
    assert_int_equal(a.port, 77);
    /* a trusted proxy must send one */
    assert_int_equal(proxied_header(&cfg, &a, (const uint8_t *)"\x16\x03\x01", 3, &why), -1);
    assert_non_null(strstr(why, "no PROXY header"));
    assert_int_equal(proxied_header(&cfg, &a, (const uint8_t *)"PROXY x\r\n", 9, &why), -1);
    assert_non_null(strstr(why, "malformed"));
    /* a stranger must not, and is a client like any other without it */
    a = other;
    assert_int_equal(proxied_header(&cfg, &a, (const uint8_t *)"\x16\x03\x01", 3, &why), PROXIED_NOTHING);
    assert_int_equal(proxied_header(&cfg, &a, (const uint8_t *)header, sizeof header - 1, &why), -1);
    assert_non_null(strstr(why, "not in trusted_proxies"));
    assert_int_equal(proxied_header(&cfg, &a, (const uint8_t *)header, 7, &why), -1);
    assert_int_equal(proxied_header(&cfg, &a, (const uint8_t *)SIGN "\x21\x11", 14, &why), -1);
    assert_memory_equal(a.ip, other.ip, 16);
}

static void forwarded_addresses(void **state)
{
    static const struct {
        const char *headers, *ip;
    } table[] = {
        {"", NULL},
        {"X-Real-IP: 192.0.2.9\r\n", "::ffff:192.0.2.9"},
        {"X-Forwarded-For: 192.0.2.1\r\nX-Real-IP: 192.0.2.9\r\n", "::ffff:192.0.2.1"},
        {"X-Forwarded-For: 1.1.1.1, 2.2.2.2,192.0.2.3\r\n",
         "::ffff:192.0.2.3"}, /* what the client said comes first */
        {"X-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 192.0.2.4\r\n", "::ffff:192.0.2.4"},
        {"X-Forwarded-For: 2001:db8::5\r\n", "2001:db8::5"},
        {"X-Forwarded-For: ::ffff:192.0.2.6\r\n", "::ffff:192.0.2.6"},
        {"X-Forwarded-For: unknown\r\n", NULL},
        {"X-Forwarded-For: 1.2.3.4,\r\n", NULL},
        {"X-Forwarded-For: 1.2.3.4x\r\n", NULL},
        {"X-Forwarded-For: 1111111111111111111111111111111111111111111111111111111111111111111111111\r\n",
         NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        char text[400];
        struct http1_head head;
        struct conn_addr a = {.port = 9};
        snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: x\r\n%s\r\n", table[i].headers);
        assert_true(http1_parse_request(&head, text, strlen(text)) > 0);
        assert_int_equal(proxied_forwarded(&a, &head), table[i].ip != NULL);
        if (table[i].ip)
            assert_memory_equal(a.ip, addr(table[i].ip).ip, 16);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_1),           cmocka_unit_test(version_2),
        cmocka_unit_test(something_else),      cmocka_unit_test(whom_to_believe),
        cmocka_unit_test(forwarded_addresses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
