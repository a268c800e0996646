/* Big-endian integers in byte strings, and a bounded reader over them.
 *
 * Nothing here allocates, reads a clock or keeps state; safe on any thread. */
#ifndef DERPMESH_PROTO_WIRE_H
#define DERPMESH_PROTO_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline void wire_put16(uint8_t p[static 2], uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline void wire_put32(uint8_t p[static 4], uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

static inline void wire_put64(uint8_t p[static 8], uint64_t v)
{
    wire_put32(p, (uint32_t)(v >> 32));
    wire_put32(p + 4, (uint32_t)v);
}

static inline uint16_t wire_get16(const uint8_t p[static 2])
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t wire_get32(const uint8_t p[static 4])
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t wire_get64(const uint8_t p[static 8])
{
    return (uint64_t)wire_get32(p) << 32 | wire_get32(p + 4);
}

/* Lower-case hex of in[n] into out[2n + 1], NUL-terminated. */
void wire_hex(char *out, const uint8_t *in, size_t n);

/* Reads exactly 2n hex digits (either case) of text into out[n].
 * Returns 0, or -1 if len is not 2n or a character is no hex digit. */
int wire_unhex(uint8_t *out, size_t n, const char *text, size_t len);

#endif
