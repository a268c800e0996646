/* WebSocket framing of a server over buffers: what a client's bytes mean, and the heads of our own messages.
 *
 * DERP is a stream: its frames may span messages, so message borders mean nothing here; payloads of binary messages are
 * strung together.  Framing is libwslay's; this adds what may follow what, the answers to ping and close, and bounds.
 * Pure: no I/O, no clock.  Source: RFC 6455; close codes and reasons as github.com/coder/websocket (derper's library). */
#ifndef DERPMESH_PROTO_WS_H
#define DERPMESH_PROTO_WS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    WS_HEADER_MAX = 4,        /* before a message of up to 65,535 bytes */
    WS_CONTROL_MAX = 2 + 125, /* a whole ping, pong or close */
    WS_MESSAGE_MAX = 32768    /* what browsers' DERP clients take */
};

/* Why nothing more is read. */
enum ws_end {
    WS_OPEN,
    WS_END_CLOSED,   /* the client closed in order */
    WS_END_PROTOCOL, /* it broke the protocol, or sent text */
    WS_END_FAILED    /* libwslay failed */
};

/* One connection's framing.  Owner: whoever made it. */
struct ws;
struct ws *ws_new(void); /* NULL without memory */
void ws_free(struct ws *w);

/* Takes the next n bytes that came.  The payload in them is written to buf, from its start (it is never longer);
 * returns its length.  After the end that ws_ended tells, nothing is taken any more. */
size_t ws_input(struct ws *w, uint8_t *buf, size_t n);
enum ws_end ws_ended(const struct ws *w);
/* The reason of a WS_END_PROTOCOL or WS_END_FAILED: static text. */
const char *ws_why(const struct ws *w);

/* Whether an answer (pong, close) waits to be sent. */
bool ws_answer_waits(const struct ws *w);
/* Takes the answer: a whole control frame, its length returned; 0: none.  Of pings that came before the answer left only the last
 * gets one (RFC 6455, 5.5.3); a close goes before a pong and is the last frame. */
size_t ws_answer(struct ws *w, uint8_t out[static WS_CONTROL_MAX]);
/* The close frame of a connection that we end, once; 0 if one has been sent or waits. */
size_t ws_close(struct ws *w, uint8_t out[static WS_CONTROL_MAX]);

/* The head of a binary message of len (1 to 65,535) bytes; returns its length. */
size_t ws_header(uint8_t out[static WS_HEADER_MAX], size_t len);

#endif
