/* WebSocket framing of a server: see ws.h.
 *
 * Happy path: ws_input lets libwslay read from the caller's buffer through on_wslay_read; every piece of a frame's payload that it hands
 * out is judged by its frame's head once, then copied back to the front of the same buffer (heads and masks make it shorter, and libwslay
 * takes bytes before it gives them out, so that the copy never overtakes what is still to be read).
 * Fails: end_with remembers the reason and leaves a close frame as the answer; nothing is read after it. */
#include "proto/ws.h"

#include <stdlib.h>
#include <string.h>

#include <wslay/wslay.h>

enum { CONTROL_PAYLOAD_MAX = 125, CODE_NORMAL = 1000, CODE_PROTOCOL = 1002, CODE_UNSUPPORTED = 1003 };

struct ws {
    wslay_frame_context_ptr frames;
    const uint8_t *in; /* what is left of ws_input's bytes */
    size_t in_len;
    uint64_t left;   /* payload of the current frame still to come */
    bool in_message; /* a fragment came, its message is not at its end */
    bool close_sent; /* or waits in answer */
    uint8_t opcode;  /* of the current frame */
    uint8_t end;     /* enum ws_end */
    uint8_t control_len, answer_len;
    uint8_t control[CONTROL_PAYLOAD_MAX]; /* payload of the control frame that is being read */
    uint8_t answer[WS_CONTROL_MAX];
    const char *why;
};

static ssize_t on_wslay_read(uint8_t *out, size_t len, int flags, void *ctx)
{
    struct ws *w = ctx;
    size_t k = len < w->in_len ? len : w->in_len;
    (void)flags;
    if (k == 0)
        return -1;
    memcpy(out, w->in, k);
    w->in += k;
    w->in_len -= k;
    return (ssize_t)k;
}

struct ws *ws_new(void)
{
    static const struct wslay_frame_callbacks callbacks = {.recv_callback = on_wslay_read};
    struct ws *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    if (wslay_frame_context_init(&w->frames, &callbacks, w) != 0) {
        free(w);
        return NULL;
    }
    return w;
}

void ws_free(struct ws *w)
{
    if (!w)
        return;
    wslay_frame_context_free(w->frames);
    free(w);
}

static size_t control_frame(uint8_t out[static WS_CONTROL_MAX], uint8_t opcode, const void *payload,
                            size_t len)
{
    out[0] = (uint8_t)(0x80 | opcode);
    out[1] = (uint8_t)len;
    if (len)
        memcpy(out + 2, payload, len);
    return 2 + len;
}

static size_t close_frame(uint8_t out[static WS_CONTROL_MAX], uint16_t code, const char *reason)
{
    uint8_t payload[CONTROL_PAYLOAD_MAX];
    size_t n = strlen(reason);
    n = n < sizeof(payload) - 2 ? n : sizeof(payload) - 2;
    payload[0] = (uint8_t)(code >> 8);
    payload[1] = (uint8_t)code;
    memcpy(payload + 2, reason, n);
    return control_frame(out, WSLAY_CONNECTION_CLOSE, payload, n + 2);
}

/* The client did what it must not: says so to it, and reads no more. */
static void violation(struct ws *w, uint16_t code, const char *why)
{
    w->end = WS_END_PROTOCOL;
    w->why = why;
    if (!w->close_sent)
        w->answer_len = (uint8_t)close_frame(w->answer, code, why);
    w->close_sent = true;
}

/* ---- what a frame's head says ---- */

static void check_data(struct ws *w, const struct wslay_frame_iocb *f)
{
    if (f->opcode == WSLAY_CONTINUATION_FRAME && !w->in_message)
        violation(w, CODE_PROTOCOL, "received continuation frame without text or binary frame");
    else if (f->opcode != WSLAY_CONTINUATION_FRAME && w->in_message)
        violation(w, CODE_PROTOCOL, "received new data message without finishing the previous message");
    else if (f->opcode == WSLAY_TEXT_FRAME)
        violation(w, CODE_UNSUPPORTED, "unexpected frame type read (expected MessageBinary): MessageText");
    w->in_message = !f->fin;
}

/* Control frames that are too long or fragmented libwslay refuses by itself. */
static void check_head(struct ws *w, const struct wslay_frame_iocb *f)
{
    if (f->rsv)
        violation(w, CODE_PROTOCOL, "received header with unexpected rsv bits set");
    else if (!f->mask)
        violation(w, CODE_PROTOCOL, "received unmasked frame from client");
    else if (f->opcode <= WSLAY_BINARY_FRAME)
        check_data(w, f);
    else if (f->opcode < WSLAY_CONNECTION_CLOSE || f->opcode > WSLAY_PONG)
        violation(w, CODE_PROTOCOL, "received unknown opcode");
}

/* ---- control frames ---- */

static bool code_valid(unsigned code)
{
    if (code == 1004 || code == 1005 || code == 1006)
        return false;
    return (code >= 1000 && code <= 1014) || (code >= 3000 && code <= 4999);
}

/* The client closes: it gets its code and reason back. */
static void closed(struct ws *w)
{
    if (w->control_len == 1 ||
        (w->control_len > 1 && !code_valid((unsigned)w->control[0] << 8 | w->control[1]))) {
        violation(w, CODE_PROTOCOL, "received invalid close payload");
        return;
    }
    w->end = WS_END_CLOSED;
    if (!w->close_sent)
        w->answer_len = (uint8_t)control_frame(w->answer, WSLAY_CONNECTION_CLOSE, w->control, w->control_len);
    w->close_sent = true;
}

static void control_done(struct ws *w)
{
    if (w->opcode == WSLAY_CONNECTION_CLOSE)
        closed(w);
    else if (w->opcode == WSLAY_PING && !w->close_sent)
        w->answer_len = (uint8_t)control_frame(w->answer, WSLAY_PONG, w->control, w->control_len);
}

static void control_piece(struct ws *w, const struct wslay_frame_iocb *f)
{
    /* libwslay lets no more than 125 through */
    size_t room = sizeof(w->control) - w->control_len;
    size_t n = f->data_length < room ? f->data_length : room;
    memcpy(w->control + w->control_len, f->data, n);
    w->control_len = (uint8_t)(w->control_len + n);
    if (w->left == 0)
        control_done(w);
}

/* ---- doors ---- */

/* A piece of a frame.  Returns how many bytes of payload for the owner were put at out. */
static size_t piece(struct ws *w, const struct wslay_frame_iocb *f, bool first, uint8_t *out)
{
    if (first) {
        w->opcode = f->opcode;
        w->left = f->payload_length;
        w->control_len = 0;
        check_head(w, f);
    }
    w->left -= f->data_length;
    if (w->end != WS_OPEN)
        return 0;
    if (wslay_is_ctrl_frame(w->opcode)) {
        control_piece(w, f);
        return 0;
    }
    if (f->data_length)
        memmove(out, f->data, f->data_length);
    return f->data_length;
}

size_t ws_input(struct ws *w, uint8_t *buf, size_t n)
{
    size_t done = 0;
    w->in = buf;
    w->in_len = n;
    while (w->end == WS_OPEN) {
        struct wslay_frame_iocb f = {0};
        ssize_t got = wslay_frame_recv(w->frames, &f);
        if (got == WSLAY_ERR_WANT_READ)
            break;
        if (got == WSLAY_ERR_PROTO) {
            violation(w, CODE_PROTOCOL, "received a malformed frame header");
        } else if (got < 0) {
            w->end = WS_END_FAILED;
            w->why = "WebSocket framing failed";
        } else {
            done += piece(w, &f, w->left == 0, buf + done);
        }
    }
    w->in = NULL;
    w->in_len = 0;
    return done;
}

enum ws_end ws_ended(const struct ws *w)
{
    return (enum ws_end)w->end;
}

const char *ws_why(const struct ws *w)
{
    return w->why ? w->why : "";
}

bool ws_answer_waits(const struct ws *w)
{
    return w->answer_len > 0;
}

size_t ws_answer(struct ws *w, uint8_t out[static WS_CONTROL_MAX])
{
    size_t n = w->answer_len;
    memcpy(out, w->answer, n);
    w->answer_len = 0;
    return n;
}

size_t ws_close(struct ws *w, uint8_t out[static WS_CONTROL_MAX])
{
    if (w->close_sent)
        return 0;
    w->close_sent = true;
    w->answer_len = 0;
    return close_frame(out, CODE_NORMAL, "");
}

size_t ws_header(uint8_t out[static WS_HEADER_MAX], size_t len)
{
    out[0] = 0x80 | WSLAY_BINARY_FRAME;
    if (len < 126) {
        out[1] = (uint8_t)len;
        return 2;
    }
    out[1] = 126;
    out[2] = (uint8_t)(len >> 8);
    out[3] = (uint8_t)len;
    return 4;
}
