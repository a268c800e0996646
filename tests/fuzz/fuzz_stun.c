/* STUN datagrams, both directions.
 *
 * Claims: an accepted request is at least as long as Tailscale's, so that the answer is no amplifier;
 * the answer parses to the address that was put in; every request of ours is accepted.  The
 * last four bytes are also set to the right checksum, since no mutation would find it. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/stun.h"
#include "proto/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int ok)
{
    if (!ok)
        abort();
}

static void fix_checksum(uint8_t *p, size_t n)
{
    uint32_t c = 0xffffffff;

    if (n < 8)
        return;
    for (size_t i = 0; i < n - 8; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
    }
    wire_put32(p + n - 4, ~c ^ 0x5354554e);
}

static void check_request(const uint8_t *p, size_t n)
{
    uint8_t txid[STUN_TXID_LEN], back[STUN_TXID_LEN], out[STUN_RESPONSE_MAX];
    struct stun_addr from = {.ip_len = 16, .port = (uint16_t)n}, mapped;
    size_t len;
    int rc = stun_parse_request(p, n, txid);

    must(rc <= 0 && rc >= STUN_FINGERPRINT);
    if (rc < 0)
        return;
    must(n >= STUN_REQUEST_LEN);
    memcpy(from.ip, p + n - 16, 16);
    from.ip[0] = 0x20;
    len = stun_response(out, txid, &from);
    must(len * 10 <= n * 11);
    must(stun_parse_response(out, len, back, &mapped) == 0);
    must(memcmp(txid, back, sizeof txid) == 0 && memcmp(&from, &mapped, sizeof from) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint8_t *p = malloc(n ? n : 1), txid[STUN_TXID_LEN], mine[STUN_REQUEST_LEN];
    struct stun_addr mapped;
    int rc;

    memcpy(p, data, n);
    check_request(p, n);
    rc = stun_parse_response(p, n, txid, &mapped);
    must(rc == 0 ? (mapped.ip_len == 4 || mapped.ip_len == 16) : rc >= STUN_BAD);
    if (n >= STUN_TXID_LEN)
        check_request(mine, stun_request(mine, p));
    fix_checksum(p, n);
    check_request(p, n);
    free(p);
    return 0;
}
