/* What waits for one connection: whole frames, kept apart by sender, so that who floods drops his own.
 *
 *   push → flow of the sender (FIFO of chunks) → deficit round robin → cur → TLS record → socket
 *
 * Urgent frames (disco, keep-alives, PeerGone, HTTP and login) have a flow of their own that goes first.
 * Bounded in bytes: when full, frames go from the head of the fattest flow.  Bounded in time: a chunk that waited
 * longer than SENDQ_MAX_AGE_MS is dropped when its turn comes.  Pure: now is an argument.
 * Owner and thread: the stream it is part of.  Invariant: bytes = all flows' bytes + the rest of cur. */
#ifndef DERPMESH_NODE_SENDQ_H
#define DERPMESH_NODE_SENDQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "node/buf.h"

enum {
    SENDQ_LIMIT = 256 << 10,      /* for a receiver that takes nothing */
    SENDQ_LIMIT_MOVING = 2 << 20, /* for one that keeps draining: derpprobe has 30 × 64 KiB in flight */
    SENDQ_URGENT_LIMIT = 256 << 10,
    SENDQ_MAX_AGE_MS = 2000,
    SENDQ_FLOWS_MAX = 64, /* more senders share flows */
    SENDQ_QUANTUM = CHUNK_RECORD
};

enum sendq_class { SENDQ_DATA, SENDQ_URGENT };

struct sendq_flow {
    struct sendq_flow *next;
    uint64_t sender;
    struct chunk *head, *tail;
    uint32_t bytes;
    int32_t deficit;
};

struct sendq {
    struct sendq_flow *flows, *flows_tail; /* in round-robin order, none empty */
    struct sendq_flow urgent;
    struct chunk *cur; /* being sent: not dropped any more */
    uint32_t bytes;
    uint32_t n_flows;
};

/* What a push or take threw away: packets (RecvPacket and mesh data frames), added to, so zero it before. */
struct sendq_loss {
    uint32_t full, old, no_memory;
};

void sendq_init(struct sendq *q);
/* Drops everything; returns how many packets were lost. */
uint32_t sendq_clear(struct sendq *q, struct buf_pool *p);
/* The same, but for what is urgent and what has begun on the wire. */
uint32_t sendq_clear_data(struct sendq *q, struct buf_pool *p);

/* Appends whole frames (each with its DERP header) that stand back to back in run[len].
 * limit: bytes the queue may hold afterwards.  Frames that do not fit push out others or are lost themselves. */
void sendq_push(struct sendq *q, struct buf_pool *p, enum sendq_class cls, uint64_t sender,
                const uint8_t *run, size_t len, uint32_t limit, uint64_t now, struct sendq_loss *loss);
/* Room for one frame of head_len + body_len bytes made of two pieces (a mesh header before a packet). */
void sendq_push2(struct sendq *q, struct buf_pool *p, enum sendq_class cls, uint64_t sender,
                 const uint8_t *head, size_t head_len, const uint8_t *body, size_t body_len, uint32_t limit,
                 uint64_t now, struct sendq_loss *loss);
/* Bytes without frame structure (HTTP): urgent, never dropped, ≤ CHUNK_LARGE. 0, or -1 without memory. */
int sendq_push_raw(struct sendq *q, struct buf_pool *p, const uint8_t *bytes, size_t len, uint64_t now);

/* What waits in a sender's flow. */
uint32_t sendq_bytes_of(const struct sendq *q, uint64_t sender);

/* The next bytes to send, contiguous, *len > 0; NULL when empty.  They stay until sendq_took. */
const uint8_t *sendq_next(struct sendq *q, struct buf_pool *p, uint64_t now, size_t *len,
                          struct sendq_loss *loss);
/* n of those bytes are encrypted (or written).  Returns how many packets that finished (counted with their chunk). */
uint32_t sendq_took(struct sendq *q, struct buf_pool *p, size_t n);

#endif
