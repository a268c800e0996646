/* What the files of the mesh messages share: taking elements, building a frame. */
#ifndef DERPMESH_PROTO_MESHMSG_PARTS_H
#define DERPMESH_PROTO_MESHMSG_PARTS_H

#include <msgpack.h>

#include "proto/meshmsg.h"

/* A cursor on the elements of a message, for a reader that needs at least n of them.  0, -1 too short. */
int meshmsg_take(struct mpread *r, const struct meshmsg_in *in, uint32_t n);
/* Two numbers. */
int meshmsg_read_two(const struct meshmsg_in *in, uint64_t *a, uint64_t *b);

/* Head of a message of that many elements behind its number; pk then appends to m. */
void meshmsg_begin(struct meshmsg *m, msgpack_packer *pk, enum meshmsg_type type, size_t elements);
void meshmsg_finish(struct meshmsg *m);
void meshmsg_pack_bin(msgpack_packer *pk, const void *p, size_t n);
void meshmsg_write_two(struct meshmsg *m, enum meshmsg_type type, uint64_t a, uint64_t b);

#endif
