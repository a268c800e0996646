/* The map from client keys to nodes.
 *
 * Happy path: SipHash of the key gives a segment (10 bits) and a tag (48 bits); a segment is an open table of cells of
 * 64 bits, tag above node + 1, and a tag's first cell follows from the tag alone, so that a segment can grow without
 * the keys.  A lookup reads one or two cache lines.
 * Each segment grows and shrinks alone, so no set ever moves more than about a thousandth of the map.
 * How it fails: without memory nodemap_set returns -1 and nothing has changed. */
#include "mesh/nodemap.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

enum { SEG_BITS = 10, SEGS = 1 << SEG_BITS, CAP_MIN = 8, NODE_BITS = 16 };

struct segment {
    uint64_t *cell; /* 0: empty */
    uint32_t cap, n;
};

struct nodemap {
    uint8_t hash_key[crypto_shorthash_KEYBYTES];
    size_t count, cells;
    struct segment seg[SEGS];
};

struct nodemap *nodemap_new(uint64_t seed)
{
    struct nodemap *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    uint64_t k[2] = {seed, seed ^ 0x6e6f64656d61702eu};
    memcpy(m->hash_key, k, sizeof m->hash_key);
    return m;
}

void nodemap_free(struct nodemap *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < SEGS; i++)
        free(m->seg[i].cell);
    free(m);
}

/* Tag in place, and the segment's number. */
static uint64_t hash_key(const struct nodemap *m, const struct derp_key *key, uint32_t *seg)
{
    uint8_t out[crypto_shorthash_BYTES];
    uint64_t h;
    crypto_shorthash(out, key->b, KEY_LEN, m->hash_key);
    memcpy(&h, out, sizeof h);
    *seg = (uint32_t)(h >> (64 - SEG_BITS));
    return h << NODE_BITS;
}

static inline uint32_t cell_first(const struct segment *s, uint64_t cell)
{
    return (uint32_t)((cell >> 32) * s->cap >> 32);
}

static inline uint32_t cell_next(const struct segment *s, uint32_t i)
{
    return i + 1 == s->cap ? 0 : i + 1;
}

/* The cell of a tag, or NULL. */
static uint64_t *cell_find(const struct segment *s, uint64_t tag)
{
    if (!s->n)
        return NULL;
    for (uint32_t i = cell_first(s, tag); s->cell[i]; i = cell_next(s, i))
        if (s->cell[i] >> NODE_BITS == tag >> NODE_BITS)
            return &s->cell[i];
    return NULL;
}

static void cell_insert(struct segment *s, uint64_t cell)
{
    uint32_t i = cell_first(s, cell);
    while (s->cell[i])
        i = cell_next(s, i);
    s->cell[i] = cell;
    s->n++;
}

static int segment_resize(struct nodemap *m, struct segment *s, uint32_t cap)
{
    struct segment to = {.cell = calloc(cap, sizeof *to.cell), .cap = cap};
    if (!to.cell)
        return -1;
    for (uint32_t i = 0; i < s->cap; i++)
        if (s->cell[i])
            cell_insert(&to, s->cell[i]);
    m->cells += cap;
    m->cells -= s->cap;
    free(s->cell);
    *s = to;
    return 0;
}

/* Empties a cell and pulls those behind it forward that may not stay behind a hole. */
static void cell_delete(struct segment *s, uint32_t hole)
{
    s->cell[hole] = 0;
    s->n--;
    for (uint32_t i = cell_next(s, hole); s->cell[i]; i = cell_next(s, i)) {
        uint32_t first = cell_first(s, s->cell[i]);
        /* Stays if its first cell lies cyclically in (hole, i]. */
        bool stays = hole <= i ? first > hole && first <= i : first > hole || first <= i;
        if (stays)
            continue;
        s->cell[hole] = s->cell[i];
        s->cell[i] = 0;
        hole = i;
    }
}

uint32_t nodemap_get(const struct nodemap *m, const struct derp_key *key)
{
    uint32_t seg;
    uint64_t tag = hash_key(m, key, &seg);
    const uint64_t *cell = cell_find(&m->seg[seg], tag);
    return cell ? (uint32_t)(*cell & 0xffff) - 1 : (uint32_t)NODEMAP_NONE;
}

int nodemap_set(struct nodemap *m, const struct derp_key *key, uint32_t node)
{
    uint32_t seg;
    uint64_t tag = hash_key(m, key, &seg);
    struct segment *s = &m->seg[seg];
    uint64_t *cell = cell_find(s, tag);
    if (node >= NODEMAP_NONE) {
        if (!cell)
            return 0;
        cell_delete(s, (uint32_t)(cell - s->cell));
        m->count--;
        if (s->cap > CAP_MIN && s->n * 4 < s->cap)
            (void)segment_resize(m, s, s->cap / 2); /* without memory it stays large */
        return 0;
    }
    if (cell) {
        *cell = tag | (node + 1);
        return 0;
    }
    /* At most four fifths full; by a quarter again, so that a key costs ten to twelve and a half bytes. */
    if ((s->n + 1) * 5 > s->cap * 4 &&
        segment_resize(m, s, s->cap ? s->cap + s->cap / 4 : (uint32_t)CAP_MIN) != 0)
        return -1;
    cell_insert(s, tag | (node + 1));
    m->count++;
    return 0;
}

size_t nodemap_count(const struct nodemap *m)
{
    return m->count;
}

size_t nodemap_bytes(const struct nodemap *m)
{
    return sizeof *m + m->cells * sizeof(uint64_t);
}
