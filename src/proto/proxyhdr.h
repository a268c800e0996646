/* The PROXY protocol's header, versions 1 and 2: who really connected, told by a proxy before anything else.
 *
 * Pure and strict: what is no header is told apart from what is a broken one as early as the bytes allow.
 * Source: haproxy's doc/proxy-protocol.txt. */
#ifndef DERPMESH_PROTO_PROXYHDR_H
#define DERPMESH_PROTO_PROXYHDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PROXYHDR_V1_MAX = 107,
    PROXYHDR_V2_MAX =
        16 + 2048 /* the addresses are 36 bytes at most, the rest is extensions, which are skipped */
};

struct proxyhdr {
    bool named;     /* it names an address; else the connection is the proxy's own (LOCAL, UNKNOWN) */
    uint8_t ip[16]; /* source, IPv4 as ::ffff:a.b.c.d */
    uint16_t port;
};

enum proxyhdr_error {
    PROXYHDR_NONE = -1, /* begins with something else */
    PROXYHDR_BAD = -2,  /* a header, but malformed */
    PROXYHDR_UNFIT = -3 /* well-formed, but too long, or of something that is no TCP over IP */
};

/* A header at buf[n].  > 0: its length; 0: more is needed; < 0: proxyhdr_error. */
int proxyhdr_parse(struct proxyhdr *h, const uint8_t *buf, size_t n);

#endif
