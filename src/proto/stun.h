/* STUN binding requests and answers, as Tailscale's netcheck uses them.
 *
 * Source: RFC 8489; tailscale.com/net/stun.  Answered are only requests whose SOFTWARE is exactly
 * "tailnode" and whose last attribute is a valid FINGERPRINT, as derper does: no reflector for others. */
#ifndef DERPMESH_PROTO_STUN_H
#define DERPMESH_PROTO_STUN_H

#include <stddef.h>
#include <stdint.h>

enum { STUN_TXID_LEN = 12, STUN_REQUEST_LEN = 40, STUN_RESPONSE_MAX = 44 };

enum stun_error {
    STUN_NOT = -1,         /* not STUN at all */
    STUN_NOT_BINDING = -2, /* STUN, but no binding request */
    STUN_BAD = -3,         /* malformed attributes */
    STUN_SOFTWARE = -4,    /* somebody else's client */
    STUN_FINGERPRINT = -5  /* missing or wrong */
};

struct stun_addr {
    uint8_t ip[16]; /* IPv4: the first 4 */
    int ip_len;     /* 4 or 16 */
    uint16_t port;  /* host order */
};

/* Checks a request.  0 with its transaction id, or a negative stun_error. */
int stun_parse_request(const uint8_t *p, size_t n, uint8_t txid[static STUN_TXID_LEN]);
/* A binding success with XOR-MAPPED-ADDRESS.  Returns its length: 32 or 44, so at most 1.1 times that of
 * the shortest request there is (40). */
size_t stun_response(uint8_t out[static STUN_RESPONSE_MAX], const uint8_t txid[static STUN_TXID_LEN],
                     const struct stun_addr *from);
/* The request that Tailscale's clients send.  Returns STUN_REQUEST_LEN. */
size_t stun_request(uint8_t out[static STUN_REQUEST_LEN], const uint8_t txid[static STUN_TXID_LEN]);
/* Reads a binding success: 0 with txid and the mapped address, or a negative stun_error. */
int stun_parse_response(const uint8_t *p, size_t n, uint8_t txid[static STUN_TXID_LEN],
                        struct stun_addr *mapped);

#endif
