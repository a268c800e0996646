/* A map from client keys to small values: dense entries in chunks, a hash index of 32-bit numbers beside them.
 *
 * Why not one open table: at a million keys the entry (32 + value bytes) must not be paid for twice by a load
 * factor.  Index ≤ 8 B a key, entries 32 + value_size B, growth in steps of one chunk: ≤ 60 B in all for 16-byte values.
 *
 * Owner and thread: whoever made it; no locks.  Pure: no I/O, no clock, the hash seed is an argument (secret,
 * so that nobody can choose keys that collide).  Pointers to values stay good until the next put or del. */
#ifndef DERPMESH_MESH_KEYMAP_H
#define DERPMESH_MESH_KEYMAP_H

#include <stddef.h>
#include <stdint.h>

#include "proto/key.h"

struct keymap;

struct keymap *keymap_new(size_t value_size, uint64_t seed); /* NULL without memory */
void keymap_free(struct keymap *m);
/* The value of a key, or NULL. */
void *keymap_get(const struct keymap *m, const struct derp_key *key);
/* The value of a key, made zeroed if it was not there (*fresh says so; fresh may be NULL).  NULL without memory. */
void *keymap_put(struct keymap *m, const struct derp_key *key, int *fresh);
/* The same, and where it stands (see keymap_at). */
void *keymap_put_at(struct keymap *m, const struct derp_key *key, int *fresh, size_t *pos);
/* Where a key stands, or KEYMAP_NONE. */
#define KEYMAP_NONE SIZE_MAX
size_t keymap_find(const struct keymap *m, const struct derp_key *key);
/* 0, or -1 if it was not there. */
int keymap_del(struct keymap *m, const struct derp_key *key);
size_t keymap_count(const struct keymap *m);
size_t keymap_bytes(const struct keymap *m); /* memory held */
/* Walks by position: i from 0 while it returns a key.  A deletion moves the last entry into the hole,
 * so a walk that deletes does not advance i after a deletion. */
const struct derp_key *keymap_at(const struct keymap *m, size_t i, void **value);

#endif
