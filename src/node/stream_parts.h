/* What stream.c and stream_ws.c share: a stream whose plaintext is wrapped in WebSocket messages.
 *
 * What came is unwrapped before the owner's input() sees it, what waits in the queue is wrapped when it becomes a
 * record; queue and owner know of nothing.  A stream without it pays for a look at one pointer a read and a record. */
#ifndef DERPMESH_NODE_STREAM_PARTS_H
#define DERPMESH_NODE_STREAM_PARTS_H

#include "node/stream.h"
#include "proto/ws.h"

struct stream_ws {
    struct ws *ws;
    uint32_t
        bare; /* bytes at the head of the queue that leave as they are: HTTP, until the upgrade's answer */
};

void stream_ws_free(struct stream_ws *w);
/* Whether a record can be made. */
bool stream_ws_waits(const struct stream *s);
/* The next record's plaintext, in the loop's plaintext buffer and already taken from the queue; NULL: none. */
const uint8_t *stream_ws_record(struct stream *s, size_t *len, uint32_t *packets, struct sendq_loss *loss);

#endif
