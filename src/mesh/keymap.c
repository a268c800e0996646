/* The map from client keys to small values.
 *
 * Happy path: SipHash of the key gives a segment (of 1024), a first slot in that segment's own open table and an
 * 8-bit tag; a slot of 32 bits holds tag and entry number, so a probe reads entries (and takes a cache miss) only
 * where the tag fits.  Entries lie densely in chunks, a deletion moves the last one into the hole.
 * Each segment grows and shrinks alone, so no put ever rehashes more than about a thousandth of the map.
 * How it fails: without memory keymap_put returns NULL and nothing has changed. */
#include "mesh/keymap.h"

#include <stdlib.h>
#include <string.h>

#include <sodium.h>

enum {
    CHUNK_SHIFT = 8,
    CHUNK_LEN = 1 << CHUNK_SHIFT,
    SEG_BITS = 10,
    SEGS = 1 << SEG_BITS,
    SEG_CAP_MIN = 8,
    ENTRIES_MAX = (1 << 24) - 2 /* 24 bits of a slot; 0 is empty */
};

/* An open-addressing table of slots: tag << 24 | entry + 1. */
struct segment {
    uint32_t *slot;
    uint32_t cap, n;
};

struct keymap {
    size_t value_size, stride, count;
    uint8_t **chunk;
    size_t n_chunks, cap_chunks;
    size_t index_slots;
    uint8_t hash_key[crypto_shorthash_KEYBYTES];
    struct segment seg[SEGS];
};

struct hashed {
    uint32_t seg, where;
    uint32_t tag; /* in place: the upper 8 bits */
};

static struct hashed hash_key(const struct keymap *m, const struct derp_key *key)
{
    uint8_t out[crypto_shorthash_BYTES];
    crypto_shorthash(out, key->b, KEY_LEN, m->hash_key);
    uint64_t h;
    memcpy(&h, out, sizeof h);
    return (struct hashed){
        .seg = (uint32_t)(h >> (64 - SEG_BITS)), .where = (uint32_t)(h >> 8), .tag = (uint32_t)(h << 24)};
}

static inline uint32_t slot_first(const struct segment *s, uint32_t where)
{
    return (uint32_t)((uint64_t)where * s->cap >> 32);
}

static inline uint32_t slot_next(const struct segment *s, uint32_t i)
{
    return i + 1 == s->cap ? 0 : i + 1;
}

static inline size_t slot_entry(uint32_t slot)
{
    return (slot & 0xffffff) - 1;
}

static inline uint8_t *entry_at(const struct keymap *m, size_t i)
{
    return m->chunk[i >> CHUNK_SHIFT] + (i & (CHUNK_LEN - 1)) * m->stride;
}

struct keymap *keymap_new(size_t value_size, uint64_t seed)
{
    struct keymap *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    size_t align = value_size >= 8 ? 8 : 4;
    m->value_size = value_size;
    m->stride = KEY_LEN + (value_size + align - 1) / align * align;
    uint64_t k[2] = {seed, seed ^ 0x6b65796d61702e63u};
    memcpy(m->hash_key, k, sizeof m->hash_key);
    return m;
}

void keymap_free(struct keymap *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < SEGS; i++)
        free(m->seg[i].slot);
    for (size_t i = 0; i < m->n_chunks; i++)
        free(m->chunk[i]);
    free(m->chunk);
    free(m);
}

/* The slot index of a key in its segment, or UINT32_MAX. */
static uint32_t slot_of(const struct keymap *m, const struct hashed *h, const struct derp_key *key)
{
    const struct segment *s = &m->seg[h->seg];
    if (!s->n)
        return UINT32_MAX;
    for (uint32_t i = slot_first(s, h->where); s->slot[i]; i = slot_next(s, i))
        if ((s->slot[i] & 0xff000000u) == h->tag &&
            memcmp(entry_at(m, slot_entry(s->slot[i])), key->b, KEY_LEN) == 0)
            return i;
    return UINT32_MAX;
}

size_t keymap_find(const struct keymap *m, const struct derp_key *key)
{
    struct hashed h = hash_key(m, key);
    uint32_t i = slot_of(m, &h, key);
    return i == UINT32_MAX ? KEYMAP_NONE : slot_entry(m->seg[h.seg].slot[i]);
}

void *keymap_get(const struct keymap *m, const struct derp_key *key)
{
    size_t i = keymap_find(m, key);
    return i == KEYMAP_NONE ? NULL : entry_at(m, i) + KEY_LEN;
}

static void slot_insert(struct segment *s, uint32_t where, uint32_t slot)
{
    uint32_t i = slot_first(s, where);
    while (s->slot[i])
        i = slot_next(s, i);
    s->slot[i] = slot;
    s->n++;
}

/* Moves a segment into a table of another size.  0, or -1 without memory (nothing changed). */
static int segment_resize(struct keymap *m, struct segment *s, uint32_t cap)
{
    struct segment to = {.slot = calloc(cap, sizeof *to.slot), .cap = cap};
    if (!to.slot)
        return -1;
    for (uint32_t i = 0; i < s->cap; i++) {
        if (!s->slot[i])
            continue;
        struct derp_key key;
        memcpy(key.b, entry_at(m, slot_entry(s->slot[i])), KEY_LEN);
        slot_insert(&to, hash_key(m, &key).where, s->slot[i]);
    }
    m->index_slots += cap;
    m->index_slots -= s->cap;
    free(s->slot);
    *s = to;
    return 0;
}

/* Room for one more entry behind the last. */
static int chunk_reserve(struct keymap *m)
{
    if (m->count >= ENTRIES_MAX)
        return -1;
    if (m->count >> CHUNK_SHIFT < m->n_chunks)
        return 0;
    if (m->n_chunks == m->cap_chunks) {
        size_t cap = m->cap_chunks ? m->cap_chunks * 2 : 4;
        uint8_t **p = realloc(m->chunk, cap * sizeof *p);
        if (!p)
            return -1;
        m->chunk = p;
        m->cap_chunks = cap;
    }
    uint8_t *c = malloc(CHUNK_LEN * m->stride);
    if (!c)
        return -1;
    m->chunk[m->n_chunks++] = c;
    return 0;
}

void *keymap_put_at(struct keymap *m, const struct derp_key *key, int *fresh, size_t *pos)
{
    struct hashed h = hash_key(m, key);
    struct segment *s = &m->seg[h.seg];
    uint32_t i = slot_of(m, &h, key);
    if (fresh)
        *fresh = i == UINT32_MAX;
    if (i != UINT32_MAX) {
        *pos = slot_entry(s->slot[i]);
        return entry_at(m, *pos) + KEY_LEN;
    }
    if (chunk_reserve(m) != 0)
        return NULL;
    /* At most four fifths full; by half again, so that a slot costs 5 to 7.5 bytes a key. */
    if ((s->n + 1) * 5 > s->cap * 4 &&
        segment_resize(m, s, s->cap ? s->cap + s->cap / 2 : (uint32_t)SEG_CAP_MIN) != 0)
        return NULL;
    *pos = m->count++;
    uint8_t *e = entry_at(m, *pos);
    memcpy(e, key->b, KEY_LEN);
    memset(e + KEY_LEN, 0, m->stride - KEY_LEN);
    slot_insert(s, h.where, h.tag | (uint32_t)(*pos + 1));
    return e + KEY_LEN;
}

void *keymap_put(struct keymap *m, const struct derp_key *key, int *fresh)
{
    size_t pos;
    return keymap_put_at(m, key, fresh, &pos);
}

/* Empties a slot and pulls those behind it forward that may not stay behind a hole. */
static void slot_delete(struct keymap *m, struct segment *s, uint32_t hole)
{
    s->slot[hole] = 0;
    s->n--;
    for (uint32_t i = slot_next(s, hole); s->slot[i]; i = slot_next(s, i)) {
        struct derp_key key;
        memcpy(key.b, entry_at(m, slot_entry(s->slot[i])), KEY_LEN);
        uint32_t first = slot_first(s, hash_key(m, &key).where);
        /* Stays if its first slot lies cyclically in (hole, i]. */
        bool stays = hole <= i ? first > hole && first <= i : first > hole || first <= i;
        if (stays)
            continue;
        s->slot[hole] = s->slot[i];
        s->slot[i] = 0;
        hole = i;
    }
}

int keymap_del(struct keymap *m, const struct derp_key *key)
{
    struct hashed h = hash_key(m, key);
    uint32_t i = slot_of(m, &h, key);
    if (i == UINT32_MAX)
        return -1;
    struct segment *s = &m->seg[h.seg];
    size_t pos = slot_entry(s->slot[i]), last = m->count - 1;
    slot_delete(m, s, i);
    if (pos != last) {
        struct derp_key moved;
        memcpy(moved.b, entry_at(m, last), KEY_LEN);
        struct hashed hm = hash_key(m, &moved);
        uint32_t j = slot_of(m, &hm, &moved);
        m->seg[hm.seg].slot[j] = hm.tag | (uint32_t)(pos + 1);
        memcpy(entry_at(m, pos), entry_at(m, last), m->stride);
    }
    m->count = last;
    /* One spare chunk is kept, so that a count that swings round a chunk's edge allocates nothing. */
    while (m->n_chunks > (m->count >> CHUNK_SHIFT) + 2)
        free(m->chunk[--m->n_chunks]);
    if (s->cap > SEG_CAP_MIN && s->n * 4 < s->cap)
        (void)segment_resize(m, s, s->cap / 2); /* without memory it stays large */
    return 0;
}

size_t keymap_count(const struct keymap *m)
{
    return m->count;
}

size_t keymap_bytes(const struct keymap *m)
{
    return sizeof *m + m->cap_chunks * sizeof *m->chunk + m->n_chunks * CHUNK_LEN * m->stride +
           m->index_slots * sizeof(uint32_t);
}

const struct derp_key *keymap_at(const struct keymap *m, size_t i, void **value)
{
    if (i >= m->count)
        return NULL;
    uint8_t *e = entry_at(m, i);
    if (value)
        *value = e + KEY_LEN;
    return (const struct derp_key *)e;
}
