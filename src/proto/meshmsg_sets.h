/* Messages about sets: who has which clients.
 *
 * A set is told by its owner as of a *seq* of a *boot* and a *scope* (an opaque number: the owner may tell different
 * peers of different parts of its set, each part counts its own seq).  Specification: docs/protocol.md §6. */
#ifndef DERPMESH_PROTO_MESHMSG_SETS_H
#define DERPMESH_PROTO_MESHMSG_SETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/meshmsg.h"

enum {
    MESHMSG_ENTRIES_MAX = 340, /* entries in one ANN or SYNC_DATA: 340 × 47 bytes < MESHMSG_MAX */
    MESHMSG_BUCKETS_N = 1024,  /* an entry belongs to the bucket slot % this */
    MESHMSG_BITMAP_LEN = MESHMSG_BUCKETS_N / 8
};

/* Flags of an entry: the client's home, else a visitor; or a client of a real derper that the sender forwards to, and whether
 * the way there is cut at the moment.  Others are for later versions. */
enum { MESHMSG_HOME = 1, MESHMSG_DERPER = 2, MESHMSG_LOST = 4, MESHMSG_FLAGS = 7 };
struct meshmsg_entry {
    uint32_t slot;
    bool up;
    struct derp_key key; /* these three only if up */
    uint32_t flags;
    uint32_t age;
};

/* Entries of a message being read, in place. */
struct meshmsg_entries {
    struct mpread r;
    uint32_t left;
};

/* A moment of a set. */
struct meshmsg_moment {
    uint64_t boot, seq;
    uint32_t scope;
};

/* What the answer to SYNC_REQ or BUCKETS holds. */
enum meshmsg_sync {
    MESHMSG_SYNC_FULL = 0,    /* every entry; what the asker held before is void at the END */
    MESHMSG_SYNC_CHANGES = 1, /* ANN from since on; END once all up to seq were told */
    MESHMSG_SYNC_BUCKETS = 2  /* every slot of the buckets named, empty ones as downs */
};
struct meshmsg_sync_begin {
    struct meshmsg_moment at;           /* the END names it again */
    uint32_t mode;                      /* enum meshmsg_sync */
    uint64_t count;                     /* entries of the set at that moment */
    uint64_t since;                     /* CHANGES: of the question */
    uint32_t slots;                     /* BUCKETS: slots from here on are empty */
    uint8_t bitmap[MESHMSG_BITMAP_LEN]; /* BUCKETS: bucket i is bit i % 8 of byte i / 8 */
};

/* The sum of a set: XOR of the hashes of all its entries, as bytes. */
struct meshmsg_digest {
    struct meshmsg_moment at;
    uint64_t count, root;
};

/* The hash of an entry that is up.  Frozen: over these fields, whatever later versions add to an entry. */
uint64_t meshmsg_entry_hash(uint32_t slot, const struct derp_key *key, uint32_t flags, uint32_t age);
static inline bool meshmsg_bit(const uint8_t bitmap[static MESHMSG_BITMAP_LEN], uint32_t slot)
{
    uint32_t bucket = slot % MESHMSG_BUCKETS_N;
    return bitmap[bucket / 8] >> (bucket % 8) & 1;
}

/* ---- reading: 0 or -1 ---- */

/* SYNC_REQ: what the asking side holds (boot 0: nothing). */
int meshmsg_read_sync_req(const struct meshmsg_in *in, struct meshmsg_moment *held);
int meshmsg_read_sync_begin(const struct meshmsg_in *in, struct meshmsg_sync_begin *b);
int meshmsg_read_sync_data(const struct meshmsg_in *in, struct meshmsg_entries *entries);
int meshmsg_read_sync_end(const struct meshmsg_in *in, uint64_t *boot, uint64_t *seq);
int meshmsg_read_ann(const struct meshmsg_in *in, uint64_t *prev, uint64_t *seq,
                     struct meshmsg_entries *entries);
int meshmsg_read_digest(const struct meshmsg_in *in, struct meshmsg_digest *d);
int meshmsg_read_buckets(const struct meshmsg_in *in, struct meshmsg_moment *held,
                         uint64_t bucket[static MESHMSG_BUCKETS_N]);
/* A key that is not in the sender's set at that moment of it. */
int meshmsg_read_not_here(const struct meshmsg_in *in, struct meshmsg_moment *at, struct derp_key *key);
/* 1: an entry, 0: no more, -1: malformed. */
int meshmsg_entry_next(struct meshmsg_entries *entries, struct meshmsg_entry *e);

/* ---- writing: always fits; n ≤ MESHMSG_ENTRIES_MAX ---- */

void meshmsg_sync_req(struct meshmsg *m, const struct meshmsg_moment *held);
void meshmsg_sync_begin(struct meshmsg *m, const struct meshmsg_sync_begin *b);
void meshmsg_sync_data(struct meshmsg *m, const struct meshmsg_entry *e, uint32_t n);
void meshmsg_sync_end(struct meshmsg *m, uint64_t boot, uint64_t seq);
void meshmsg_ann(struct meshmsg *m, uint64_t prev, uint64_t seq, const struct meshmsg_entry *e, uint32_t n);
void meshmsg_digest(struct meshmsg *m, const struct meshmsg_digest *d);
void meshmsg_buckets(struct meshmsg *m, const struct meshmsg_moment *held,
                     const uint64_t bucket[static MESHMSG_BUCKETS_N]);
void meshmsg_not_here(struct meshmsg *m, const struct meshmsg_moment *at, const struct derp_key *key);

#endif
