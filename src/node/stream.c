/* A TCP connection with or without TLS on libuv: see stream.h for the picture.  Here: how it begins, reads and ends;
 * stream_out.c writes, stream_io.c holds what the streams of a loop share.
 *
 * Happy path: on_alloc gives the loop's read buffer; on_read decrypts all complete records into the plaintext buffer
 * behind what input() left last time and shows it to the owner.
 * Fails: every error goes to stream_end_with(), which remembers the first reason and closes; on_closed tells the owner. */
#include "node/stream.h"

#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/reserve.h"
#include "node/stream_parts.h"

enum { KEY_UPDATES_MIN = 16, KEY_UPDATE_BYTES = 1 << 20, READS_A_TURN = 4, DIAL_KEEPALIVE_S = 60 };

/* ---- ending ---- */

/* The text of OpenSSL's newest error, kept with the stream. */
void stream_end_tls(struct stream *s, const char *what)
{
    unsigned long e = ERR_peek_last_error();
    const char *reason = e ? ERR_reason_error_string(e) : NULL;
    ERR_clear_error();
    if (!s->closing && !s->detail_buf &&
        asprintf(&s->detail_buf, "%s: %s", what, reason ? reason : "unknown") < 0)
        s->detail_buf = NULL;
    stream_end_with(s, STREAM_END_TLS, s->detail_buf ? s->detail_buf : what);
}

static void on_closed(uv_handle_t *h)
{
    struct stream *s = h->data;
    stats_add(s->io->stats, STAT_DROP_GONE, sendq_clear(&s->q, &s->io->pool));
    SSL *ssl = s->ssl; /* closed() may still look at it */
    if (s->ctx)
        SSL_CTX_free(s->ctx);
    s->ctx = NULL;
    reserve_free(s->carry);
    s->carry = NULL;
    stream_ws_free(s->ws);
    s->ws = NULL;
    char *detail_buf = s->detail_buf;
    s->ops->closed(s, (enum stream_end)s->end, s->detail ? s->detail : "");
    SSL_free(ssl); /* s is gone */
    free(detail_buf);
}

/* WebSocket's close and TLS's close_notify, if the socket takes them at once. */
static void say_goodbye(struct stream *s)
{
    struct stream_io *io = s->io;
    uint8_t close[WS_CONTROL_MAX];
    size_t n = 0;
    io->write_len = 0;
    if (s->ws && s->ws->bare == 0) { /* else even the upgrade's answer has not left */
        n = ws_ended(s->ws->ws) == WS_OPEN ? 0 : ws_answer(s->ws->ws, close);
        if (n == 0)
            n = ws_close(s->ws->ws, close);
    }
    if (n > 0 && s->ssl) {
        SSL_write(s->ssl, close, (int)n);
    } else if (n > 0) {
        memcpy(io->write_buf, close, n);
        io->write_len = n;
    }
    if (s->ssl)
        SSL_shutdown(s->ssl);
    uv_buf_t b = uv_buf_init((char *)io->write_buf, (unsigned)io->write_len);
    if (b.len > 0)
        uv_try_write((uv_stream_t *)&s->tcp, &b, 1);
    io->write_len = 0;
    ERR_clear_error();
}

void stream_end_with(struct stream *s, enum stream_end end, const char *detail)
{
    if (s->closing)
        return;
    s->closing = true;
    s->end = (uint8_t)end;
    s->detail = detail;
    stream_flush_never(s);
    stream_turn_leave(s);
    bool ws_over = s->ws && (end == STREAM_END_EOF || end == STREAM_END_WS);
    if (s->open && s->in_flight == 0 && (end == STREAM_END_LOCAL || ws_over))
        say_goodbye(s);
    uv_close((uv_handle_t *)&s->tcp, on_closed);
}

void stream_close(struct stream *s, const char *detail)
{
    stream_end_with(s, STREAM_END_LOCAL, detail);
}

/* ---- reading ---- */

/* Keeps what input() left for the next read. */
static int keep_carry(struct stream *s, const uint8_t *rest, size_t n)
{
    if (n == 0) {
        reserve_free(s->carry);
        s->carry = NULL;
        s->carry_len = s->carry_cap = 0;
        return 0;
    }
    if (n > s->carry_cap) {
        uint8_t *p = reserve_realloc(s->carry, n);
        if (!p)
            return -1;
        s->carry = p;
        s->carry_cap = (uint32_t)n;
    }
    memmove(s->carry, rest, n);
    s->carry_len = (uint32_t)n;
    return 0;
}

/* n bytes of WebSocket become the payload in them. */
static size_t unwrap(struct stream *s, uint8_t *buf, size_t n)
{
    n = ws_input(s->ws->ws, buf, n);
    if (stream_ws_waits(s))
        stream_flush_later(s);
    return n;
}

/* Shows plain[n] to the owner and keeps the rest.  0, or -1 if the stream ended. */
static int deliver(struct stream *s, uint8_t *plain, size_t n)
{
    if (n == 0)
        return 0;
    const struct stream_ops *ops;
    const struct stream_ws *ws;
    do { /* again where input() handed the connection on to another owner, or began with WebSocket */
        ops = s->ops;
        ws = s->ws;
        ssize_t used = ops->input(s, plain, n);
        if (used < 0 || s->closing)
            return -1;
        plain += used;
        n -= (size_t)used;
        if (s->ws != ws && n > 0)
            n = unwrap(s, plain, n);
    } while ((s->ops != ops || s->ws != ws) && n > 0);
    if (n > CHUNK_LARGE) {
        stream_end_with(s, STREAM_END_MEMORY, "owner left more than a frame");
        return -1;
    }
    if (keep_carry(s, plain, n) < 0) {
        stream_end_with(s, STREAM_END_MEMORY, "no memory");
        return -1;
    }
    return 0;
}

/* n more bytes of plaintext came, and stand behind what is carried.  0, or -1 if the stream ended. */
static int received(struct stream *s, size_t n)
{
    uint8_t *plain = s->io->plain_buf;
    size_t have = s->carry_len;
    if (s->ws)
        n = unwrap(s, plain + have, n);
    if (n > 0 && deliver(s, plain, have + n) < 0)
        return -1;
    if (!s->ws || ws_ended(s->ws->ws) == WS_OPEN)
        return 0;
    stream_flush(s); /* what was said before comes first */
    if (ws_ended(s->ws->ws) == WS_END_CLOSED)
        stream_end_with(s, STREAM_END_EOF, "closed by the other side");
    else
        stream_end_with(s, STREAM_END_WS, ws_why(s->ws->ws));
    return -1;
}

static void handshake_done(struct stream *s)
{
    s->open = true;
    if (s->q.bytes > 0)
        stream_flush_later(s);
    if (s->ops->open)
        s->ops->open(s);
}

/* 1: done, 0: needs more, -1: ended. */
static int handshake(struct stream *s)
{
    s->io->write_len = 0;
    ERR_clear_error();
    int r = SSL_do_handshake(s->ssl);
    int err = r == 1 ? SSL_ERROR_NONE : SSL_get_error(s->ssl, r);
    stream_write_out(s);
    if (s->closing)
        return -1;
    if (r == 1) {
        handshake_done(s);
        return s->closing ? -1 : 1;
    }
    if (err == SSL_ERROR_WANT_READ)
        return 0;
    stream_end_tls(s, "TLS handshake");
    return -1;
}

/* Decrypts all records that have come, showing them to the owner whenever the plaintext buffer is full. */
static void read_tls(struct stream *s)
{
    struct stream_io *io = s->io;
    if (!s->open && handshake(s) <= 0)
        return;
    for (;;) {
        size_t have = s->carry_len;
        if (have)
            memcpy(io->plain_buf, s->carry, have);
        size_t start = have, got;
        int r = 1;
        io->write_len = 0;
        ERR_clear_error(); /* SSL_get_error takes what others left there for its own */
        while (STREAM_PLAIN_SIZE - have >= CHUNK_RECORD &&
               (r = SSL_read_ex(s->ssl, io->plain_buf + have, STREAM_PLAIN_SIZE - have, &got)) == 1)
            have += got;
        int err = r == 1 ? SSL_ERROR_NONE : SSL_get_error(s->ssl, r);
        if (io->write_len > 0 && ++s->key_updates > KEY_UPDATES_MIN + s->bytes_in / KEY_UPDATE_BYTES) {
            stream_end_with(s, STREAM_END_TLS, "a flood of key updates");
            return;
        }
        stream_write_out(s); /* answers to KeyUpdate, alerts */
        if (s->closing)
            return;
        if (have > start && received(s, have - start) < 0)
            return;
        if (r == 1)
            continue;
        if (err == SSL_ERROR_ZERO_RETURN)
            stream_end_with(s, STREAM_END_EOF, "closed by the other side");
        else if (err != SSL_ERROR_WANT_READ)
            stream_end_tls(s, "TLS read");
        return;
    }
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct stream *s = h->data;
    unsigned size = s->read_max ? s->read_max : STREAM_READ_SIZE;
    (void)suggested;
    if (!stream_turn_is_mine(s)) {
        *buf = uv_buf_init(NULL, 0);
        return;
    }
    if (s->read_turn != s->io->turn) {
        s->read_turn = s->io->turn;
        s->reads = 0;
    }
    if (s->reads >= READS_A_TURN) { /* libuv would read on while the buffer is filled: others wait */
        *buf = uv_buf_init(NULL, 0);
        return;
    }
    if (s->read_next) {
        size = s->read_next < size ? s->read_next : size;
        s->read_next = s->read_next < STREAM_READ_SIZE / 2 ? 2 * s->read_next : 0;
    }
    s->reads = (uint8_t)(s->reads + (size < STREAM_READ_SIZE / 2 ? 1 : READS_A_TURN));
    if (s->prelude) {
        if (s->carry_len)
            memcpy(s->io->read_buf, s->carry, s->carry_len);
        *buf = uv_buf_init((char *)s->io->read_buf + s->carry_len, STREAM_READ_SIZE - s->carry_len);
        return;
    }
    if (s->ssl || s->ctx) {
        *buf = uv_buf_init((char *)s->io->read_buf, size);
        return;
    }
    /* plain: straight into the plaintext buffer, behind what is carried */
    if (s->carry_len)
        memcpy(s->io->plain_buf, s->carry, s->carry_len);
    *buf = uv_buf_init((char *)s->io->plain_buf + s->carry_len, size);
}

static int make_server_ssl(struct stream *s)
{
    s->ssl = SSL_new(s->ctx);
    BIO *b = s->ssl ? BIO_new(s->io->bio_method) : NULL;
    if (!b)
        return -1;
    BIO_set_data(b, s->io);
    BIO_set_init(b, 1);
    SSL_set_bio(s->ssl, b, b);
    SSL_set_accept_state(s->ssl);
    return 0;
}

/* n bytes stand in the read buffer, those carried included.  Returns how many of them are past the prelude, and *rest; 0: none,
 * or the stream ended. */
static size_t take_prelude(struct stream *s, size_t n, uint8_t **rest)
{
    uint8_t *buf = s->io->read_buf;
    ssize_t used = s->ops->prelude(s, buf, n);
    if (used < 0 || s->closing)
        return 0;
    if (used == 0) {
        if (n > CHUNK_LARGE || keep_carry(s, buf, n) < 0)
            stream_end_with(s, STREAM_END_MEMORY, "no memory");
        return 0;
    }
    s->prelude = false;
    keep_carry(s, buf, 0);
    if (used == STREAM_NO_PRELUDE)
        used = 0;
    *rest = buf + used;
    if (!s->ssl && !s->ctx)
        memcpy(s->io->plain_buf, *rest, n - (size_t)used);
    return n - (size_t)used;
}

static void take(struct stream *s, ssize_t nread, const uv_buf_t *buf)
{
    if (nread < 0) {
        if (nread == UV_EOF)
            stream_end_with(s, STREAM_END_EOF, "closed by the other side");
        else
            stream_end_with(s, STREAM_END_RESET, uv_strerror((int)nread));
        return;
    }
    s->bytes_in += (uint64_t)nread;
    stats_add(s->io->stats, STAT_BYTES_IN, (uint64_t)nread);
    uint8_t *bytes = (uint8_t *)buf->base;
    size_t n = (size_t)nread;
    if (s->prelude && (n = take_prelude(s, s->carry_len + n, &bytes)) == 0)
        return;
    if (!s->ctx && !s->ssl) {
        received(s, n);
        return;
    }
    if (!s->ssl && make_server_ssl(s) < 0) {
        stream_end_with(s, STREAM_END_MEMORY, "no memory");
        return;
    }
    s->io->bio_in = bytes;
    s->io->bio_in_len = n;
    read_tls(s);
    s->io->bio_in_len = 0;
}

static void on_read(uv_stream_t *h, ssize_t nread, const uv_buf_t *buf)
{
    struct stream *s = h->data;
    if (nread == 0 || s->closing)
        return;
    if (nread == UV_ENOBUFS) {
        if (!stream_turn_is_mine(s))
            stream_turn_wait(s);
        return;
    }
    if (!s->newcomer) {
        take(s, nread, buf);
        return;
    }
    uint64_t began = uv_hrtime();
    take(s, nread, buf);
    s->called = false;
    s->io->newcomers_ns += uv_hrtime() - began;
}

void stream_start_reading(struct stream *s)
{
    int err = uv_read_start((uv_stream_t *)&s->tcp, on_alloc, on_read);
    if (err)
        stream_end_with(s, STREAM_END_RESET, uv_strerror(err));
}

void stream_pause(struct stream *s)
{
    if (s->closing || s->paused++ > 0)
        return;
    uv_read_stop((uv_stream_t *)&s->tcp);
}

void stream_hold(struct stream *s)
{
    s->held = true;
    stream_pause(s);
}

void stream_resume(struct stream *s)
{
    if (s->paused == 0 || --s->paused > 0)
        return;
    if (s->held && !s->closing) {
        s->held = false;
        if (s->carry_len)
            memcpy(s->io->plain_buf, s->carry, s->carry_len);
        if (deliver(s, s->io->plain_buf, s->carry_len) < 0 || s->paused)
            return;
    }
    if (!s->closing)
        stream_start_reading(s);
}

/* ---- beginning ---- */

/* What an accepted connection has from its listening socket (listen.c): no delay, keep-alive. */
static void tune_dialled(struct stream *s)
{
    uv_tcp_nodelay(&s->tcp, 1);
    uv_tcp_keepalive(&s->tcp, 1, DIAL_KEEPALIVE_S);
}

static void tune(struct stream *s)
{
    uv_os_fd_t fd;
    s->lowat = STREAM_NOTSENT_LOWAT;
    if (uv_fileno((uv_handle_t *)&s->tcp, &fd) == 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &s->lowat, sizeof(s->lowat));
    s->progress = uv_now(s->io->loop);
}

int stream_init(struct stream *s, struct stream_io *io, const struct stream_ops *ops)
{
    memset(s, 0, sizeof(*s));
    s->io = io;
    s->ops = ops;
    s->count_out = STAT_PACKETS_OUT;
    s->record_max = CHUNK_RECORD;
    s->batch_max = STREAM_BATCH;
    sendq_init(&s->q);
    int err = uv_tcp_init(io->loop, &s->tcp);
    s->tcp.data = s;
    return err;
}

int stream_accept(struct stream *s, uv_stream_t *listener, SSL_CTX *ctx)
{
    int err = uv_accept(listener, (uv_stream_t *)&s->tcp);
    if (err)
        return err;
    s->is_server = true;
    if (ctx) {
        SSL_CTX_up_ref(ctx);
        s->ctx = ctx;
    } else {
        s->open = true;
    }
    tune(s);
    stream_start_reading(s);
    return 0;
}

static void on_connect(uv_connect_t *req, int status)
{
    struct stream *s = req->data;
    free(req);
    if (s->closing)
        return;
    if (status < 0) {
        stream_end_with(s, STREAM_END_CONNECT, uv_strerror(status));
        return;
    }
    tune_dialled(s);
    tune(s);
    if (!s->ssl) {
        handshake_done(s);
        if (!s->closing)
            stream_start_reading(s);
        return;
    }
    if (handshake(s) >= 0)
        stream_start_reading(s);
}

int stream_connect(struct stream *s, const struct sockaddr *addr, SSL *ssl)
{
    s->ssl = ssl;
    if (ssl) {
        BIO *b = BIO_new(s->io->bio_method);
        if (!b)
            return UV_ENOMEM;
        BIO_set_data(b, s->io);
        BIO_set_init(b, 1);
        SSL_set_bio(ssl, b, b);
        SSL_set_connect_state(ssl);
    }
    uv_connect_t *req = malloc(sizeof(*req));
    if (!req)
        return UV_ENOMEM;
    req->data = s;
    int err = uv_tcp_connect(req, &s->tcp, addr, on_connect);
    if (err)
        free(req);
    return err;
}
