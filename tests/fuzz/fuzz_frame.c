/* DERP frames at every split, and data frames there and back.
 *
 * Claims: views never leave the buffer; a frame found in a piece is the frame found in the whole, and a
 * piece that is too short says so; a data frame that parses, written again and turned into a RecvPacket,
 * keeps source and payload, byte for byte. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int ok)
{
    if (!ok)
        abort();
}

/* Whether p[n] lies within buf[len]. */
static int within(const void *p, size_t n, const uint8_t *buf, size_t len)
{
    return (const uint8_t *)p >= buf && (const uint8_t *)p <= buf + len &&
           n <= len - (size_t)((const uint8_t *)p - buf);
}

static void check_rewritten(const struct mesh_data *d, uint8_t *copy, size_t n)
{
    struct mesh_data again;
    struct frame f;
    size_t len;
    uint8_t *recv;

    must(mesh_data_header(copy, d->flags, d->hops, &d->dst_node, &d->src_node, d->dst, d->src,
                          d->payload_len) == MESH_DATA_OVERHEAD);
    must(MESH_DATA_OVERHEAD + (size_t)d->payload_len <= n);
    if (d->payload_len > 0)
        memcpy(copy + MESH_DATA_OVERHEAD, d->payload, d->payload_len);
    must(frame_peek(&f, copy, n) == MESH_DATA_OVERHEAD + (size_t)d->payload_len);
    must(f.type == FRAME_MESH_DATA && mesh_data_parse(&again, &f) == 0);
    must(again.flags == d->flags && again.hops == d->hops && again.payload_len == d->payload_len);
    must(memcmp(&again.dst_node, &d->dst_node, 8) == 0 && memcmp(&again.src_node, &d->src_node, 8) == 0);
    must(key_equal(again.dst, d->dst) && key_equal(again.src, d->src));

    recv = mesh_data_to_recv(&again, &len);
    must(within(recv, len, copy, n) && frame_peek(&f, recv, len) == len && f.type == FRAME_RECV_PACKET);
    must(memcmp(f.body, d->src, KEY_LEN) == 0);
    must(f.len - KEY_LEN == d->payload_len && memcmp(f.body + KEY_LEN, d->payload, d->payload_len) == 0);
}

static void check_frame(const struct frame *f, uint8_t *buf, size_t n, uint8_t *copy)
{
    struct mesh_data d;

    must(f->raw == buf && within(f->body, f->len, buf, n));
    frame_is_disco(f->body, f->len);
    if (mesh_data_parse(&d, f) < 0)
        return;
    must(within(d.dst, KEY_LEN, f->body, f->len) && within(d.src, KEY_LEN, f->body, f->len));
    must(within(d.payload, d.payload_len, f->body, f->len));
    must(d.payload + d.payload_len == f->body + f->len && d.payload_len <= FRAME_PACKET_MAX);
    check_rewritten(&d, copy, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    /* Exact allocations, so that the sanitizer sees a step outside. */
    uint8_t *buf = malloc(n ? n : 1), *copy = malloc(n ? n : 1), *piece;
    struct frame f, part;
    size_t size, at = 0, known;

    memcpy(buf, data, n);
    while ((size = frame_peek(&f, buf + at, n - at)) > 0) {
        must(size == FRAME_HEADER_LEN + (size_t)f.len && size <= n - at);
        for (size_t cut = 0; cut < size && cut < 256; cut++) {
            known = cut < 128 ? cut : size - 1 - (cut - 128) % size;
            piece = malloc(known ? known : 1);
            memcpy(piece, buf + at, known);
            must(frame_peek(&part, piece, known) == 0);
            must((part.raw == NULL) == (known < FRAME_HEADER_LEN));
            must(part.raw == NULL || (part.type == f.type && part.len == f.len));
            free(piece);
        }
        check_frame(&f, buf + at, n - at, copy);
        at += size;
    }
    must(n - at < FRAME_HEADER_LEN || n - at - FRAME_HEADER_LEN < f.len);
    free(copy);
    free(buf);
    return 0;
}
