/* A map from client keys to nodes in ten to fifteen bytes a key: the keys themselves are not kept.
 *
 * A key is known by 58 bits of a keyed hash of it, so two keys may be taken for one: among a million keys there is such a
 * pair with a chance of one in half a million, and nobody can look for one without the seed.  Whoever asks must therefore be able to
 * bear a wrong node: a relay can, since the node that a frame is handed to looks the whole key up itself.
 * Owner and thread: whoever made it; no locks. */
#ifndef DERPMESH_MESH_NODEMAP_H
#define DERPMESH_MESH_NODEMAP_H

#include <stddef.h>
#include <stdint.h>

#include "proto/key.h"

struct nodemap;

enum { NODEMAP_NONE = 0xffff }; /* nodes are smaller */

struct nodemap *nodemap_new(uint64_t seed); /* NULL without memory */
void nodemap_free(struct nodemap *m);
uint32_t nodemap_get(const struct nodemap *m, const struct derp_key *key); /* NODEMAP_NONE: not there */
/* 0, or -1 without memory (nothing has changed).  NODEMAP_NONE deletes. */
int nodemap_set(struct nodemap *m, const struct derp_key *key, uint32_t node);
size_t nodemap_count(const struct nodemap *m);
size_t nodemap_bytes(const struct nodemap *m); /* memory held */

#endif
