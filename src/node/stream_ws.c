/* DERP over WebSocket, between a stream's plaintext and its queue: see stream_parts.h.
 *
 * Happy path: the upgrade's answer waits in the queue and stream_ws_start notes how far it reaches; from there on each record is one binary
 * message of at most a TLS record, header and payload together.  Pongs and a close go between messages.
 * Fails: without memory stream_ws_start says so; what the client does wrong ws.h tells, and stream.c ends the stream. */
#include "node/stream_parts.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(CHUNK_RECORD <= (int)WS_MESSAGE_MAX, "browsers' clients close on larger messages");

int stream_ws_start(struct stream *s)
{
    struct stream_ws *w = calloc(1, sizeof(*w));
    struct ws *ws = w ? ws_new() : NULL;
    if (!ws) {
        free(w);
        return -1;
    }
    w->ws = ws;
    w->bare = s->q.bytes;
    s->ws = w;
    return 0;
}

void stream_ws_free(struct stream_ws *w)
{
    if (!w)
        return;
    ws_free(w->ws);
    free(w);
}

bool stream_ws_waits(const struct stream *s)
{
    return ws_answer_waits(s->ws->ws);
}

/* Moves bytes from the queue to out. */
static size_t gather(struct stream *s, uint8_t *out, size_t room, uint32_t *packets, struct sendq_loss *loss)
{
    struct buf_pool *pool = &s->io->pool;
    uint64_t now = uv_now(s->io->loop);
    size_t have = 0, n;
    const uint8_t *p;
    while (have < room && (p = sendq_next(&s->q, pool, now, &n, loss))) {
        n = n < room - have ? n : room - have;
        memcpy(out + have, p, n);
        have += n;
        *packets += sendq_took(&s->q, pool, n);
    }
    return have;
}

const uint8_t *stream_ws_record(struct stream *s, size_t *len, uint32_t *packets, struct sendq_loss *loss)
{
    struct stream_ws *w = s->ws;
    uint8_t *out = s->io->gather_buf, head[WS_HEADER_MAX];
    *packets = 0;
    if (w->bare > 0) {
        *len = gather(s, out, w->bare < CHUNK_RECORD ? w->bare : CHUNK_RECORD, packets, loss);
        w->bare -= (uint32_t)*len;
        return *len ? out : NULL;
    }
    /* a pong; the close at the end goes with the stream's last words */
    *len = ws_ended(w->ws) == WS_OPEN ? ws_answer(w->ws, out) : 0;
    if (*len)
        return out;
    size_t room = s->record_max > WS_RECORD_MIN ? s->record_max : WS_RECORD_MIN;
    size_t n = gather(s, out + WS_HEADER_MAX, room - WS_HEADER_MAX, packets, loss);
    if (n == 0)
        return NULL;
    size_t head_len = ws_header(head, n);
    out += WS_HEADER_MAX - head_len;
    memcpy(out, head, head_len);
    *len = head_len + n;
    return out;
}
