/* Chunks: the plaintext that waits in send queues.
 *
 * A chunk holds whole DERP frames of one sender, back to back; three sizes, so that a lone packet does not cost 16 KiB
 * and a full chunk is exactly one TLS record.  Freed chunks are kept on short lists for the next use, and given back when none
 * comes.
 * Owner and thread: one pool per event loop, used by that thread alone. */
#ifndef DERPMESH_NODE_BUF_H
#define DERPMESH_NODE_BUF_H

#include <stddef.h>
#include <stdint.h>

enum {
    CHUNK_SMALL = 2048,
    CHUNK_RECORD = 16384,          /* the largest TLS record */
    CHUNK_LARGE = (64 << 10) + 512 /* the largest frame, also with a mesh header */
};

struct chunk {
    struct chunk *next;
    uint64_t since; /* ms, when its first frame came */
    uint32_t off; /* first byte not sent or dropped yet; at a frame's start unless the chunk is being sent */
    uint32_t len; /* bytes filled */
    uint32_t cap;
    uint32_t packets; /* RecvPacket and mesh data frames from off on */
    uint8_t data[];
};

struct buf_pool {
    struct chunk *free[3];
    unsigned n_free[3];
    unsigned n_idle[3]; /* the least n_free since the last trim: so many were not needed */
    size_t held;        /* bytes of chunks in use */
};

void buf_pool_init(struct buf_pool *p);
void buf_pool_deinit(struct buf_pool *p); /* all chunks have been put back */
/* An empty chunk with room for want bytes (≤ CHUNK_LARGE).  NULL without memory. */
struct chunk *buf_get(struct buf_pool *p, size_t want);
void buf_put(struct buf_pool *p, struct chunk *c);
/* Frees half of the chunks that were not needed since the last call.  Returns their bytes. */
size_t buf_pool_trim(struct buf_pool *p);

#endif
