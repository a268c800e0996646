/* What stream.c, stream_out.c, stream_path.c, stream_turn.c, stream_io.c and stream_ws.c share; nobody else includes this.
 *
 * WebSocket: what came is unwrapped before the owner's input() sees it, what waits in the queue is wrapped when it becomes a
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

enum { STREAM_GATHER_SIZE = CHUNK_RECORD, WS_RECORD_MIN = 2048 };

void stream_ws_free(struct stream_ws *w);
/* Whether a record can be made. */
bool stream_ws_waits(const struct stream *s);
/* The next record's plaintext, in the loop's gather buffer and already taken from the queue; NULL: none. */
const uint8_t *stream_ws_record(struct stream *s, size_t *len, uint32_t *packets, struct sendq_loss *loss);

/* ---- stream.c ---- */

/* Ends the stream; the first reason counts.  detail: static text, or s->detail_buf. */
void stream_end_with(struct stream *s, enum stream_end end, const char *detail);
/* The same with OpenSSL's newest error behind what. */
void stream_end_tls(struct stream *s, const char *what);

void stream_start_reading(struct stream *s);

/* ---- stream_turn.c ---- */

/* Whether s may be read in this turn. */
bool stream_turn_is_mine(const struct stream *s);
/* Puts s at the end of the line; takes it out, wherever it stands. */
void stream_turn_wait(struct stream *s);
void stream_turn_leave(struct stream *s);
/* Calls those whose turn it is; once a turn, before the poll. */
void stream_turn_begin(struct stream_io *io);

/* ---- stream_out.c ---- */

/* Lists the stream to be flushed at the end of this turn; takes it off that list. */
void stream_flush_later(struct stream *s);
void stream_flush_never(struct stream *s);
/* Makes records of what waits and hands them to the socket, until it takes no more. */
void stream_flush(struct stream *s);
/* Hands the loop's write buffer to the socket; what it does not take waits in a copy. */
void stream_write_out(struct stream *s);

/* ---- stream_path.c ---- */

/* Sets record_max, batch_max and lowat by what the path delivers; seldom enough to be called at each flush with a backlog. */
void stream_path_look(struct stream *s);

#endif
