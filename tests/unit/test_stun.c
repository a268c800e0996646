/* STUN: Tailscale's own requests and answers, byte for byte, and what must be met with silence.
 *
 * The four datagrams were made by tailscale.com v1.102.5, net/stun Request and Response. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/stun.h"
#include "proto/wire.h"

static const uint8_t tx[STUN_TXID_LEN] = {0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4, 5, 6, 7, 8};

static const char request[] =
    "000100142112a442deadbeef0102030405060708802200087461696c6e6f64658028000499d147bd";
/* 192.0.2.33:32853; [2001:db8:1234:5678:11:2233:4455:6677]:32853; [::ffff:192.0.2.33]:32853 */
static const char response4[] = "0101000c2112a442deadbeef0102030405060708002000080001a147e112a663";
static const char response6[] = "010100182112a442deadbeef010203040506070800200014"
                                "0002a1470113a9facc99e897011321374153617f";
static const char response4in6[] = "010100182112a442deadbeef010203040506070800200014"
                                   "0002a1472112a442deadbeef0102fcfbc5060529";

static const struct stun_addr addr4 = {{192, 0, 2, 33}, 4, 32853};
static const struct stun_addr addr6 = {
    {0x20, 0x01, 0x0d, 0xb8, 0x12, 0x34, 0x56, 0x78, 0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77}, 16, 32853};

static size_t unhex(uint8_t *out, size_t cap, const char *text)
{
    size_t n = strlen(text) / 2;

    assert_true(n <= cap);
    assert_int_equal(wire_unhex(out, n, text, strlen(text)), 0);
    return n;
}

/* An allocation that ends where the datagram does, so that a sanitizer sees a step outside. */
static uint8_t *exact(const uint8_t *p, size_t n)
{
    uint8_t *copy = malloc(n);

    assert_non_null(copy);
    memcpy(copy, p, n);
    return copy;
}

static void assert_addr(const struct stun_addr *got, const struct stun_addr *want)
{
    assert_int_equal(got->ip_len, want->ip_len);
    assert_int_equal(got->port, want->port);
    assert_memory_equal(got->ip, want->ip, sizeof got->ip);
}

static void test_request(void **state)
{
    uint8_t want[64], got[STUN_REQUEST_LEN], id[STUN_TXID_LEN];
    size_t n = unhex(want, sizeof want, request);

    (void)state;
    assert_int_equal(stun_request(got, tx), n);
    assert_memory_equal(got, want, n);
    assert_int_equal(stun_parse_request(want, n, id), 0);
    assert_memory_equal(id, tx, sizeof tx);
}

static void test_response(void **state)
{
    static const struct {
        const char *hex;
        const struct stun_addr *addr;
    } known[] = {{response4, &addr4}, {response6, &addr6}};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        uint8_t want[64], got[STUN_RESPONSE_MAX], id[STUN_TXID_LEN];
        struct stun_addr addr;
        size_t n = unhex(want, sizeof want, known[i].hex);

        assert_int_equal(stun_response(got, tx, known[i].addr), n);
        assert_memory_equal(got, want, n);
        assert_true(n * 10 <= STUN_REQUEST_LEN * 11); /* no amplifier */
        assert_int_equal(stun_parse_response(want, n, id, &addr), 0);
        assert_memory_equal(id, tx, sizeof tx);
        assert_addr(&addr, known[i].addr);
    }
}

static void test_response_unmapped(void **state)
{
    uint8_t p[64], id[STUN_TXID_LEN];
    struct stun_addr addr;
    size_t n = unhex(p, sizeof p, response4in6);

    (void)state;
    assert_int_equal(stun_parse_response(p, n, id, &addr), 0);
    assert_addr(&addr, &addr4);
}

/* No turned bit and no cut may pass, wherever it is: bits of the length field alone do not matter
 * to net/stun, and it is covered by the checksum. */
static void test_request_altered(void **state)
{
    uint8_t p[64], id[STUN_TXID_LEN];
    size_t n = unhex(p, sizeof p, request);

    (void)state;
    for (size_t bit = 0; bit < n * 8; bit++) {
        p[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_true(stun_parse_request(p, n, id) < 0);
        p[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t len = 0; len < n; len++)
        assert_true(stun_parse_request(p, len, id) < 0);
    assert_true(stun_parse_request(p, n + 4, id) < 0);
    assert_int_equal(stun_parse_request(p, n, id), 0);
}

/* Builds a request of given attributes; fingerprints it when fp, as RFC 8489 has it. */
static size_t build(uint8_t *out, const char *attrs, int fp)
{
    uint8_t probe[STUN_REQUEST_LEN];
    size_t n;

    stun_request(probe, tx);
    memcpy(out, probe, 20);
    n = 20 + unhex(out + 20, 256, attrs);
    if (fp) {
        uint32_t c = 0xffffffff;
        for (size_t i = 0; i < n; i++) {
            c ^= out[i];
            for (int k = 0; k < 8; k++)
                c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
        }
        wire_put16(out + n, 0x8028);
        wire_put16(out + n + 2, 4);
        wire_put32(out + n + 4, ~c ^ 0x5354554e);
        n += 8;
    }
    return n;
}

static void test_request_attributes(void **state)
{
    static const struct {
        const char *attrs;
        int fp, rc;
    } c[] = {
        {"802200087461696c6e6f6465", 1, 0},
        {"802200087461696c6e6f6465", 0, STUN_FINGERPRINT},
        {"", 1, STUN_SOFTWARE},
        {"", 0, STUN_SOFTWARE},
        {"802200087461696c6e6f6466", 1, STUN_SOFTWARE},
        {"802200097461696c6e6f646500000000", 1, STUN_SOFTWARE},
        {"802200077461696c6e6f6400", 1, STUN_SOFTWARE},
        /* others before and after, one with padding, are fine */
        {"802200036162630080220008"
         "7461696c6e6f6465002400046e0001ff",
         1, 0},
        /* a fingerprint that is not the last */
        {"802200087461696c6e6f64658028000400000000002400046e0001ff", 0, STUN_FINGERPRINT},
        /* one that is last, but empty: net/stun looks four bytes too far ahead */
        {"802200087461696c6e6f646580280000", 0, STUN_FINGERPRINT},
        {"802200087461696c6e6f6465802800080000000000000000", 0, STUN_FINGERPRINT},
        {"802200097461696c6e6f6465", 0, STUN_BAD},
        {"8022ffff7461696c6e6f6465", 0, STUN_BAD},
        {"802200087461696c6e6f6465802800", 0, STUN_BAD},
        /* padding that is not there */
        {"802200087461696c6e6f6465002400036e0001", 0, STUN_BAD},
    };

    (void)state;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        uint8_t buf[320], id[STUN_TXID_LEN];
        size_t n = build(buf, c[i].attrs, c[i].fp);
        uint8_t *p = exact(buf, n);

        if (stun_parse_request(p, n, id) != c[i].rc)
            fail_msg("%s", c[i].attrs);
        free(p);
    }
}

static void test_kinds(void **state)
{
    uint8_t p[64], id[STUN_TXID_LEN];
    struct stun_addr addr;
    size_t n = unhex(p, sizeof p, request);

    (void)state;
    assert_int_equal(stun_parse_response(p, n, id, &addr), STUN_NOT_BINDING);
    p[0] |= 0x80;
    assert_int_equal(stun_parse_request(p, n, id), STUN_NOT);
    n = unhex(p, sizeof p, response4);
    assert_int_equal(stun_parse_request(p, n, id), STUN_NOT_BINDING);
    p[4] ^= 1;
    assert_int_equal(stun_parse_response(p, n, id, &addr), STUN_NOT);
    assert_int_equal(stun_parse_request(p, n, id), STUN_NOT);
    assert_int_equal(stun_parse_request(NULL, 0, id), STUN_NOT);
    assert_int_equal(stun_parse_response(NULL, 0, id, &addr), STUN_NOT);
}

static void test_response_attributes(void **state)
{
    static const struct {
        const char *hex;
        int rc;
    } c[] = {
        /* MAPPED-ADDRESS alone; both, the plain one lying; the number that some servers use */
        {"0101000c2112a442deadbeef01020304050607080001000800018055c0000221", 0},
        {"010100182112a442deadbeef010203040506070800010008000180550a000001002000080001a147e112a663", 0},
        {"0101000c2112a442deadbeef0102030405060708802000080001a147e112a663", 0},
        /* bytes behind the message */
        {"0101000c2112a442deadbeef0102030405060708002000080001a147e112a663ffff", 0},
        /* none, unknown family, too short twice, longer than the datagram */
        {"010100002112a442deadbeef0102030405060708", STUN_BAD},
        {"0101000c2112a442deadbeef0102030405060708002000080003a147e112a663", STUN_BAD},
        {"010100082112a442deadbeef0102030405060708002000040001a147", STUN_BAD},
        {"0101000c2112a442deadbeef0102030405060708002000080002a147e112a663", STUN_BAD},
        {"0101000d2112a442deadbeef0102030405060708002000080001a147e112a663", STUN_BAD},
        {"010100142112a442deadbeef0102030405060708002000080001a147e112a663", STUN_BAD},
        {"010100042112a442deadbeef010203040506070800200000", STUN_BAD},
        {"0101000b2112a442deadbeef0102030405060708002000080001a147e112a663", STUN_BAD},
    };

    (void)state;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        uint8_t buf[64], id[STUN_TXID_LEN];
        struct stun_addr addr;
        size_t n = unhex(buf, sizeof buf, c[i].hex);
        uint8_t *p = exact(buf, n);

        if (stun_parse_response(p, n, id, &addr) != c[i].rc)
            fail_msg("%s", c[i].hex);
        if (c[i].rc == 0)
            assert_addr(&addr, &addr4);
        free(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request),
        cmocka_unit_test(test_response),
        cmocka_unit_test(test_response_unmapped),
        cmocka_unit_test(test_request_altered),
        cmocka_unit_test(test_request_attributes),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_response_attributes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
