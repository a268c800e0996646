/* A token bucket: how fast a client may send.
 *
 * As derper's -rate-config: every byte of a frame's payload takes a token, headers and TLS take none; who has none left is
 * read later.  Here what has been read is passed on at once and may leave a debt, which the pause after it pays off.
 * Pure: now is an argument.  Owner and thread: its connection's. */
#ifndef DERPMESH_NODE_RATE_H
#define DERPMESH_NODE_RATE_H

#include <stdint.h>

enum { RATE_BURST_MIN = 65568 }; /* the largest SendPacket: as derpserver's minRateLimitTokenBucketSize */

struct rate {
    int64_t tokens; /* thousandths of a byte, negative: debt */
    uint64_t at;    /* ms: when tokens was right */
    uint32_t per_s; /* bytes; 0: no limit */
    uint32_t burst; /* bytes */
};

/* A full bucket; per_s 0: no limit. */
void rate_init(struct rate *r, uint32_t per_s, uint32_t burst, uint64_t now);
/* bytes were read.  Returns how many ms to wait before reading on; 0: none. */
uint64_t rate_take(struct rate *r, uint64_t bytes, uint64_t now);
/* How much to read at a time at most, so that the debt stays small; 0: as much as there is. */
uint32_t rate_read_max(const struct rate *r);

#endif
