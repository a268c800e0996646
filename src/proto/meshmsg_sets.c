/* Messages about sets of keys, read in place and written into a fixed buffer.
 *
 * Happy path: meshmsg_open gives the type, one meshmsg_read_* the elements; entries are walked with meshmsg_entry_next.
 * How it fails: as in meshmsg.c, -1 for what is too short or of other kinds than the specification says. */
#include "proto/meshmsg_sets.h"

#include <string.h>

#include <sodium.h>

#include "proto/meshmsg_parts.h"
#include "proto/wire.h"

uint64_t meshmsg_entry_hash(uint32_t slot, const struct derp_key *key, uint32_t flags, uint32_t age)
{
    static const uint8_t hash_key[crypto_shorthash_KEYBYTES + 1] = "derpmesh digest1";
    uint8_t in[4 + KEY_LEN + 1 + 4], out[crypto_shorthash_BYTES];
    uint64_t h;
    wire_put32(in, slot);
    memcpy(in + 4, key->b, KEY_LEN);
    in[4 + KEY_LEN] = (uint8_t)(flags & MESHMSG_FLAGS);
    wire_put32(in + 5 + KEY_LEN, age);
    crypto_shorthash(out, in, sizeof in, hash_key);
    memcpy(&h, out, sizeof h);
    return h;
}

/* ---- reading ---- */

static int read_moment(struct mpread *r, struct meshmsg_moment *at)
{
    if (mpread_uint(r, &at->boot) != 0 || mpread_uint(r, &at->seq) != 0)
        return -1;
    return mpread_u32(r, &at->scope, UINT32_MAX);
}

int meshmsg_read_sync_req(const struct meshmsg_in *in, struct meshmsg_moment *held)
{
    struct mpread r;
    return meshmsg_take(&r, in, 3) != 0 ? -1 : read_moment(&r, held);
}

int meshmsg_read_sync_begin(const struct meshmsg_in *in, struct meshmsg_sync_begin *b)
{
    struct mpread r;
    const uint8_t *bits;
    size_t n;
    memset(b, 0, sizeof *b);
    if (meshmsg_take(&r, in, 8) != 0 || read_moment(&r, &b->at) != 0 ||
        mpread_u32(&r, &b->mode, UINT32_MAX) != 0 || mpread_uint(&r, &b->count) != 0 ||
        mpread_uint(&r, &b->since) != 0 || mpread_u32(&r, &b->slots, UINT32_MAX) != 0 ||
        mpread_bin(&r, &bits, &n) != 0)
        return -1;
    if (n != (b->mode == MESHMSG_SYNC_BUCKETS ? MESHMSG_BITMAP_LEN : 0))
        return -1;
    memcpy(b->bitmap, bits, n);
    return 0;
}

int meshmsg_read_sync_data(const struct meshmsg_in *in, struct meshmsg_entries *entries)
{
    if (meshmsg_take(&entries->r, in, 1) != 0)
        return -1;
    return mpread_array(&entries->r, &entries->left);
}

int meshmsg_read_sync_end(const struct meshmsg_in *in, uint64_t *boot, uint64_t *seq)
{
    return meshmsg_read_two(in, boot, seq);
}

int meshmsg_read_ann(const struct meshmsg_in *in, uint64_t *prev, uint64_t *seq,
                     struct meshmsg_entries *entries)
{
    if (meshmsg_take(&entries->r, in, 3) != 0 || mpread_uint(&entries->r, prev) != 0 ||
        mpread_uint(&entries->r, seq) != 0)
        return -1;
    return mpread_array(&entries->r, &entries->left);
}

int meshmsg_read_digest(const struct meshmsg_in *in, struct meshmsg_digest *d)
{
    struct mpread r;
    uint8_t root[8];
    if (meshmsg_take(&r, in, 5) != 0 || read_moment(&r, &d->at) != 0 || mpread_uint(&r, &d->count) != 0 ||
        mpread_bin_exact(&r, root, sizeof root) != 0)
        return -1;
    memcpy(&d->root, root, sizeof root);
    return 0;
}

int meshmsg_read_buckets(const struct meshmsg_in *in, struct meshmsg_moment *held,
                         uint64_t bucket[static MESHMSG_BUCKETS_N])
{
    struct mpread r;
    if (meshmsg_take(&r, in, 4) != 0 || read_moment(&r, held) != 0)
        return -1;
    return mpread_bin_exact(&r, (uint8_t *)bucket, MESHMSG_BUCKETS_N * sizeof *bucket);
}

int meshmsg_read_not_here(const struct meshmsg_in *in, struct meshmsg_moment *at, struct derp_key *key)
{
    struct mpread r;
    if (meshmsg_take(&r, in, 4) != 0 || read_moment(&r, at) != 0)
        return -1;
    return mpread_bin_exact(&r, key->b, KEY_LEN);
}

int meshmsg_entry_next(struct meshmsg_entries *entries, struct meshmsg_entry *e)
{
    struct mpread *r = &entries->r;
    uint32_t n;
    if (entries->left == 0)
        return 0;
    entries->left--;
    memset(e, 0, sizeof *e);
    if (mpread_array(r, &n) != 0 || n == 0 || mpread_u32(r, &e->slot, UINT32_MAX) != 0)
        return -1;
    e->up = n > 1;
    if (!e->up)
        return 1;
    if (n < 4 || mpread_bin_exact(r, e->key.b, KEY_LEN) != 0 || mpread_u32(r, &e->flags, UINT32_MAX) != 0 ||
        mpread_u32(r, &e->age, UINT32_MAX) != 0)
        return -1;
    for (uint32_t i = 4; i < n; i++)
        if (mpread_skip(r) != 0)
            return -1;
    return 1;
}

/* ---- writing ---- */

static void pack_moment(msgpack_packer *pk, const struct meshmsg_moment *at)
{
    msgpack_pack_uint64(pk, at->boot);
    msgpack_pack_uint64(pk, at->seq);
    msgpack_pack_uint32(pk, at->scope);
}

void meshmsg_sync_req(struct meshmsg *m, const struct meshmsg_moment *held)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_SYNC_REQ, 3);
    pack_moment(&pk, held);
    meshmsg_finish(m);
}

void meshmsg_sync_begin(struct meshmsg *m, const struct meshmsg_sync_begin *b)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_SYNC_BEGIN, 8);
    pack_moment(&pk, &b->at);
    msgpack_pack_uint32(&pk, b->mode);
    msgpack_pack_uint64(&pk, b->count);
    msgpack_pack_uint64(&pk, b->since);
    msgpack_pack_uint32(&pk, b->slots);
    meshmsg_pack_bin(&pk, b->bitmap, b->mode == MESHMSG_SYNC_BUCKETS ? sizeof b->bitmap : 0);
    meshmsg_finish(m);
}

static void pack_entries(msgpack_packer *pk, const struct meshmsg_entry *e, uint32_t n)
{
    msgpack_pack_array(pk, n);
    for (uint32_t i = 0; i < n; i++) {
        msgpack_pack_array(pk, e[i].up ? 4 : 1);
        msgpack_pack_uint32(pk, e[i].slot);
        if (!e[i].up)
            continue;
        meshmsg_pack_bin(pk, e[i].key.b, KEY_LEN);
        msgpack_pack_uint32(pk, e[i].flags);
        msgpack_pack_uint32(pk, e[i].age);
    }
}

void meshmsg_sync_data(struct meshmsg *m, const struct meshmsg_entry *e, uint32_t n)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_SYNC_DATA, 1);
    pack_entries(&pk, e, n);
    meshmsg_finish(m);
}

void meshmsg_sync_end(struct meshmsg *m, uint64_t boot, uint64_t seq)
{
    meshmsg_write_two(m, MESHMSG_SYNC_END, boot, seq);
}

void meshmsg_ann(struct meshmsg *m, uint64_t prev, uint64_t seq, const struct meshmsg_entry *e, uint32_t n)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_ANN, 3);
    msgpack_pack_uint64(&pk, prev);
    msgpack_pack_uint64(&pk, seq);
    pack_entries(&pk, e, n);
    meshmsg_finish(m);
}

void meshmsg_digest(struct meshmsg *m, const struct meshmsg_digest *d)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_DIGEST, 5);
    pack_moment(&pk, &d->at);
    msgpack_pack_uint64(&pk, d->count);
    meshmsg_pack_bin(&pk, &d->root, sizeof d->root);
    meshmsg_finish(m);
}

void meshmsg_buckets(struct meshmsg *m, const struct meshmsg_moment *held,
                     const uint64_t bucket[static MESHMSG_BUCKETS_N])
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_BUCKETS, 4);
    pack_moment(&pk, held);
    meshmsg_pack_bin(&pk, bucket, MESHMSG_BUCKETS_N * sizeof *bucket);
    meshmsg_finish(m);
}

void meshmsg_not_here(struct meshmsg *m, const struct meshmsg_moment *at, const struct derp_key *key)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_NOTHERE, 4);
    pack_moment(&pk, at);
    meshmsg_pack_bin(&pk, key->b, KEY_LEN);
    meshmsg_finish(m);
}
