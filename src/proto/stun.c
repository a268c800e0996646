/* STUN binding: requests of Tailscale's clients checked and answered, and the client's side for probes.
 *
 * Happy path: header, attributes up to the end of the datagram, SOFTWARE "tailnode", FINGERPRINT last
 * with the right CRC-32; answered by XOR-MAPPED-ADDRESS alone.  Acceptance is that of
 * tailscale.com/net/stun, but for one thing: there a last FINGERPRINT of no length may pass (its
 * value is then taken from elsewhere), which would let a request be shorter than the answer allows.
 * Failure: a negative enum stun_error; the caller keeps silent. */
#include "proto/stun.h"

#include <stdbool.h>
#include <string.h>

#include "proto/wire.h"

enum {
    HEADER_LEN = 20,
    COOKIE = 0x2112a442,
    BINDING_REQUEST = 0x0001,
    BINDING_SUCCESS = 0x0101,
    ATTR_MAPPED = 0x0001,
    ATTR_XOR_MAPPED = 0x0020,
    ATTR_XOR_MAPPED_ALT = 0x8020, /* what some servers send instead */
    ATTR_SOFTWARE = 0x8022,
    ATTR_FINGERPRINT = 0x8028,
    FINGERPRINT_LEN = 8,
    FINGERPRINT_XOR = 0x5354554e
};

static const char software[8] = {'t', 'a', 'i', 'l', 'n', 'o', 'd', 'e'};

/* CRC-32 (IEEE 802.3), four bits at a time: 40 bytes are the rule. */
static uint32_t crc32_of(const uint8_t *p, size_t n)
{
    static const uint32_t nibble[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    uint32_t c = 0xffffffff;

    for (size_t i = 0; i < n; i++) {
        c = nibble[(c ^ p[i]) & 15] ^ c >> 4;
        c = nibble[(c ^ p[i] >> 4) & 15] ^ c >> 4;
    }
    return ~c;
}

static uint32_t fingerprint(const uint8_t *p, size_t n)
{
    return crc32_of(p, n) ^ FINGERPRINT_XOR;
}

static bool is_stun(const uint8_t *p, size_t n)
{
    return n >= HEADER_LEN && (p[0] & 0xc0) == 0 && wire_get32(p + 4) == COOKIE;
}

struct attr {
    uint16_t type;
    uint16_t len;
    const uint8_t *value;
};

/* The attribute at *p, which is moved past it and its padding.  1; 0 at the end; STUN_BAD. */
static int next_attr(struct attr *a, const uint8_t **p, const uint8_t *end)
{
    size_t left = (size_t)(end - *p), padded;

    if (left == 0)
        return 0;
    if (left < 4)
        return STUN_BAD;
    a->type = wire_get16(*p);
    a->len = wire_get16(*p + 2);
    a->value = *p + 4;
    padded = ((size_t)a->len + 3) & ~(size_t)3;
    if (padded > left - 4)
        return STUN_BAD;
    *p += 4 + padded;
    return 1;
}

int stun_parse_request(const uint8_t *p, size_t n, uint8_t txid[static STUN_TXID_LEN])
{
    const uint8_t *at;
    struct attr a = {0};
    bool ours = false;
    int rc;

    if (!is_stun(p, n))
        return STUN_NOT;
    if (wire_get16(p) != BINDING_REQUEST)
        return STUN_NOT_BINDING;
    at = p + HEADER_LEN;
    while ((rc = next_attr(&a, &at, p + n)) > 0) {
        if (a.type == ATTR_SOFTWARE && a.len == sizeof software &&
            memcmp(a.value, software, sizeof software) == 0)
            ours = true;
    }
    if (rc < 0)
        return rc;
    if (!ours)
        return STUN_SOFTWARE;
    /* a is the last one now. */
    if (a.type != ATTR_FINGERPRINT || a.len != 4 ||
        wire_get32(a.value) != fingerprint(p, n - FINGERPRINT_LEN))
        return STUN_FINGERPRINT;
    memcpy(txid, p + 8, STUN_TXID_LEN);
    return 0;
}

static uint8_t *put_header(uint8_t *out, uint16_t type, uint16_t attrs_len, const uint8_t *txid)
{
    wire_put16(out, type);
    wire_put16(out + 2, attrs_len);
    wire_put32(out + 4, COOKIE);
    memcpy(out + 8, txid, STUN_TXID_LEN);
    return out + HEADER_LEN;
}

static uint8_t *put_attr(uint8_t *out, uint16_t type, uint16_t len)
{
    wire_put16(out, type);
    wire_put16(out + 2, len);
    return out + 4;
}

size_t stun_response(uint8_t out[static STUN_RESPONSE_MAX], const uint8_t txid[static STUN_TXID_LEN],
                     const struct stun_addr *from)
{
    uint16_t len = (uint16_t)(4 + from->ip_len);
    uint8_t *p = put_attr(put_header(out, BINDING_SUCCESS, (uint16_t)(4 + len), txid), ATTR_XOR_MAPPED, len);

    p[0] = 0;
    p[1] = from->ip_len == 4 ? 1 : 2;
    wire_put16(p + 2, from->port ^ (uint16_t)(COOKIE >> 16));
    /* The key stream is cookie and transaction id, which is how they stand in the header. */
    for (int i = 0; i < from->ip_len; i++)
        p[4 + i] = from->ip[i] ^ out[4 + i];
    return HEADER_LEN + 4 + (size_t)len;
}

size_t stun_request(uint8_t out[static STUN_REQUEST_LEN], const uint8_t txid[static STUN_TXID_LEN])
{
    uint8_t *p = put_header(out, BINDING_REQUEST, STUN_REQUEST_LEN - HEADER_LEN, txid);

    p = put_attr(p, ATTR_SOFTWARE, sizeof software);
    memcpy(p, software, sizeof software);
    p += sizeof software;
    wire_put32(put_attr(p, ATTR_FINGERPRINT, 4), fingerprint(out, (size_t)(p - out)));
    return STUN_REQUEST_LEN;
}

/* A (XOR-)MAPPED-ADDRESS; key is the 16 bytes to take off, NULL for the plain one. */
static int read_mapped(struct stun_addr *out, const struct attr *a, const uint8_t *key)
{
    static const uint8_t v4_in_v6[12] = {[10] = 0xff, [11] = 0xff};

    if (a->len < 4)
        return STUN_BAD;
    out->ip_len = a->value[1] == 1 ? 4 : a->value[1] == 2 ? 16 : 0;
    if (out->ip_len == 0 || a->len - 4 < out->ip_len)
        return STUN_BAD;
    out->port = wire_get16(a->value + 2) ^ (key ? wire_get16(key) : 0);
    for (int i = 0; i < out->ip_len; i++)
        out->ip[i] = a->value[4 + i] ^ (key ? key[i] : 0);
    if (out->ip_len == 16 && memcmp(out->ip, v4_in_v6, sizeof v4_in_v6) == 0) {
        memmove(out->ip, out->ip + 12, 4);
        out->ip_len = 4;
    }
    return 0;
}

int stun_parse_response(const uint8_t *p, size_t n, uint8_t txid[static STUN_TXID_LEN],
                        struct stun_addr *mapped)
{
    struct stun_addr xored = {.ip_len = 0}, plain = {.ip_len = 0};
    const uint8_t *at, *end;
    struct attr a;
    int rc, bad = 0;

    if (!is_stun(p, n))
        return STUN_NOT;
    if (wire_get16(p) != BINDING_SUCCESS)
        return STUN_NOT_BINDING;
    if (wire_get16(p + 2) > n - HEADER_LEN)
        return STUN_BAD;
    at = p + HEADER_LEN;
    end = at + wire_get16(p + 2); /* bytes behind it are not ours to judge */
    while ((rc = next_attr(&a, &at, end)) > 0 && bad == 0) {
        if (a.type == ATTR_XOR_MAPPED || a.type == ATTR_XOR_MAPPED_ALT)
            bad = read_mapped(&xored, &a, p + 4);
        else if (a.type == ATTR_MAPPED)
            bad = read_mapped(&plain, &a, NULL);
    }
    if (rc < 0 || bad < 0 || (xored.ip_len == 0 && plain.ip_len == 0))
        return STUN_BAD;
    *mapped = xored.ip_len ? xored : plain;
    memset(mapped->ip + mapped->ip_len, 0, sizeof mapped->ip - (size_t)mapped->ip_len);
    memcpy(txid, p + 8, STUN_TXID_LEN);
    return 0;
}
