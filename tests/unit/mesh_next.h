/* Messages as a later version of the protocol may write them; for tests only.
 *
 * Each message gets elements behind its own, each list entry gets some behind its own (a down has none: it is told from an
 * up by that), array heads are spelled in their widest form, and HELLO names version 2 and features that nobody knows. */
#ifndef DERPMESH_TESTS_MESH_NEXT_H
#define DERPMESH_TESTS_MESH_NEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "proto/meshmsg.h"
#include "proto/wire.h"

static const uint64_t NEXT_FEATURES = UINT64_C(0x8000000000000005);
/* What ends each message, so that none is written anew twice: a map, a nil, and a text. */
static const uint8_t NEXT_END[] = {0x81, 0xa1, 'k', 0x93, 1, 2, 0xc0, 0xc0, 0xa4, 'n', 'e', 'x', 't'};
enum { NEXT_END_ELEMENTS = 3, NEXT_HELLO_MAX = 2, NEXT_HELLO_FEATURES = 3, NEXT_HELLO_LIMITS = 16 };

struct next_out {
    uint8_t b[2 * MESHMSG_TUNNEL_MAX];
    size_t n;
};

static inline void next_put(struct next_out *o, const void *p, size_t n)
{
    memcpy(o->b + o->n, p, n);
    o->n += n;
}

static inline void next_array(struct next_out *o, uint32_t n)
{
    uint8_t head[5] = {0xdd};
    wire_put32(head + 1, n);
    next_put(o, head, sizeof head);
}

static inline void next_uint(struct next_out *o, uint64_t v)
{
    uint8_t head[9] = {0xcf};
    wire_put64(head + 1, v);
    next_put(o, head, sizeof head);
}

/* One value with all that is in it; depth 0: the message.  longer: it is an array that may have more elements. */
static inline void next_value(struct next_out *o, struct mpread *r, int depth, bool longer, bool hello)
{
    const uint8_t *from = r->p;
    uint32_t n;
    if (mpread_array(r, &n) != 0) {
        (void)mpread_skip(r);
        next_put(o, from, (size_t)(r->p - from));
        return;
    }
    longer = longer || depth == 0 || (depth == 2 && n > 1);
    next_array(o, n + (longer ? NEXT_END_ELEMENTS : 0));
    for (uint32_t i = 0; i < n; i++) {
        bool top = hello && depth == 0;
        if (top && (i == NEXT_HELLO_MAX || i == NEXT_HELLO_FEATURES)) {
            (void)mpread_skip(r);
            next_uint(o, i == NEXT_HELLO_MAX ? 2 : NEXT_FEATURES);
        } else {
            next_value(o, r, depth + 1, top && i == NEXT_HELLO_LIMITS, hello);
        }
    }
    if (longer)
        next_put(o, NEXT_END, sizeof NEXT_END);
}

/* mesh_config.rewrite.  What would be too long stays as it is. */
static inline void next_rewrite(struct meshmsg *msg)
{
    static struct next_out o; /* one thread, and not on the stack */
    struct meshmsg_in in;
    struct mpread r;
    uint32_t type;
    const uint8_t *payload = msg->b + FRAME_HEADER_LEN;
    size_t len = msg->n - FRAME_HEADER_LEN;
    if ((len >= sizeof NEXT_END && memcmp(payload + len - sizeof NEXT_END, NEXT_END, sizeof NEXT_END) == 0) ||
        meshmsg_open(&in, &type, payload, len) != 0)
        return;
    o.n = 0;
    mpread_init(&r, payload, len);
    next_value(&o, &r, 0, false, type == MESHMSG_HELLO);
    if (o.n > (size_t)(type == MESHMSG_TUNNEL ? MESHMSG_TUNNEL_MAX : MESHMSG_MAX))
        return;
    memcpy(msg->b + FRAME_HEADER_LEN, o.b, o.n);
    msg->n = FRAME_HEADER_LEN + o.n;
    frame_header(msg->b, FRAME_MESH_CONTROL, (uint32_t)o.n);
}

#endif
