/* A bounded cursor over msgpack: for input that may be hostile.
 *
 * Every count is checked against the bytes that remain before it is believed, nesting is capped, nothing is
 * allocated and nothing is unpacked into objects.  Views (bin, str) point into the input.
 * Source: github.com/msgpack/msgpack/blob/master/spec.md.
 * All functions: 0, or -1 if the next value is of another kind or does not fit in what remains; after -1 the
 * cursor stands where it stood. */
#ifndef DERPMESH_PROTO_MPREAD_H
#define DERPMESH_PROTO_MPREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MPREAD_DEPTH_MAX = 32 };

struct mpread {
    const uint8_t *p, *end;
};

void mpread_init(struct mpread *r, const uint8_t *p, size_t n);
static inline size_t mpread_left(const struct mpread *r)
{
    return (size_t)(r->end - r->p);
}

/* The head of an array: n values follow, and at least n bytes remain. */
int mpread_array(struct mpread *r, uint32_t *n);
/* Any non-negative integer. */
int mpread_uint(struct mpread *r, uint64_t *v);
/* … that is at most max. */
int mpread_u32(struct mpread *r, uint32_t *v, uint32_t max);
int mpread_bool(struct mpread *r, bool *v);
int mpread_bin(struct mpread *r, const uint8_t **p, size_t *n);
/* A bin of exactly n bytes, copied. */
int mpread_bin_exact(struct mpread *r, uint8_t *out, size_t n);
int mpread_str(struct mpread *r, const char **p, size_t *n);
/* A string of at most cap - 1 bytes without control characters, copied with a NUL. */
int mpread_name(struct mpread *r, char *out, size_t cap);
/* Whatever comes next, with all that is in it. */
int mpread_skip(struct mpread *r);

#endif
