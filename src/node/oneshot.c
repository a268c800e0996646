/* See oneshot.h.
 *
 *   READING → (request() says 1) → WAITING → oneshot_answer → WRITING → shut down, wait for EOF → closed
 *
 * Failure: a slow, silent or talkative peer is closed; one that has gone while its answer was being made
 * costs nothing but the memory until then. */
#include "node/oneshot.h"

#include <stdlib.h>

enum state { READING, WAITING, WRITING, DONE };

struct oneshot_conn {
    union {
        uv_stream_t stream;
        uv_pipe_t pipe;
        uv_tcp_t tcp;
    } io;
    uv_timer_t timer;
    uv_write_t write;
    uv_shutdown_t shutdown;
    struct oneshot *server;
    struct oneshot_conn *prev, *next;
    enum state state;
    int handles; /* open */
    bool closing, eof;
    char *answer;
    size_t n;
    char buf[];
};

static void free_if_done(struct oneshot_conn *c)
{
    if (c->handles || c->state == WAITING)
        return;
    struct oneshot *s = c->server;
    *(c->prev ? &c->prev->next : &s->conns) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    s->n_conns--;
    free(c->answer);
    free(c);
}

static void on_closed(uv_handle_t *h)
{
    struct oneshot_conn *c = h->data;
    c->handles--;
    free_if_done(c);
}

static void close_conn(struct oneshot_conn *c)
{
    if (c->closing)
        return;
    c->closing = true;
    uv_close((uv_handle_t *)&c->io.stream, on_closed);
    uv_close((uv_handle_t *)&c->timer, on_closed);
}

static void on_time(uv_timer_t *timer)
{
    struct oneshot_conn *c = timer->data;
    close_conn(c);
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    struct oneshot_conn *c = req->data;
    if (status != 0 || c->eof)
        close_conn(c);
}

static void on_written(uv_write_t *req, int status)
{
    struct oneshot_conn *c = req->data;
    c->state = DONE;
    c->shutdown.data = c;
    /* Closing at once could reset the connection before the other side has read all. */
    if (status != 0 || c->closing || uv_shutdown(&c->shutdown, &c->io.stream, on_shutdown) != 0)
        close_conn(c);
}

void oneshot_answer(struct oneshot_conn *c, char *text, size_t len)
{
    c->state = WRITING;
    c->answer = text;
    if (c->closing) {
        free_if_done(c);
        return;
    }
    uv_buf_t b = uv_buf_init(text, (unsigned)len);
    c->write.data = c;
    uv_timer_start(&c->timer, on_time, ONESHOT_MS, 0);
    if (!text || uv_write(&c->write, &c->io.stream, &b, 1, on_written) != 0)
        close_conn(c);
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct oneshot_conn *c = h->data;
    (void)suggested;
    size_t at = c->state == READING ? c->n : 0; /* after the question: read and forget */
    *buf = uv_buf_init(c->buf + at, (unsigned)(c->server->ops->max_request - at));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct oneshot_conn *c = stream->data;
    (void)buf;
    if (n < 0) {
        c->eof = true;
        uv_read_stop(stream);
        if (c->state == READING || c->state == DONE)
            close_conn(c);
        return;
    }
    if (c->state != READING || n == 0)
        return;
    c->n += (size_t)n;
    c->state = WAITING; /* request() may answer at once */
    int rc = c->server->ops->request(c->server->ctx, c, c->buf, c->n);
    if (rc > 0) {
        if (c->state == WAITING)
            uv_timer_stop(&c->timer);
        return;
    }
    c->state = READING;
    if (rc < 0 || c->n == c->server->ops->max_request)
        close_conn(c);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct oneshot *s = listener->data;
    struct oneshot_conn *c = status == 0 ? calloc(1, sizeof(*c) + s->ops->max_request) : NULL;
    if (!c)
        return;
    c->server = s;
    if (s->is_pipe)
        uv_pipe_init(listener->loop, &c->io.pipe, 0);
    else
        uv_tcp_init(listener->loop, &c->io.tcp);
    uv_timer_init(listener->loop, &c->timer);
    c->io.stream.data = c->timer.data = c;
    c->handles = 2;
    c->next = s->conns;
    if (c->next)
        c->next->prev = c;
    s->conns = c;
    s->n_conns++;
    if (uv_accept(listener, &c->io.stream) != 0 || s->n_conns > ONESHOT_CONNS ||
        uv_read_start(&c->io.stream, on_alloc, on_read) != 0) {
        close_conn(c);
        return;
    }
    uv_timer_start(&c->timer, on_time, ONESHOT_MS, 0);
}

static int start(struct oneshot *s, const struct oneshot_ops *ops, void *ctx, int rc)
{
    s->ops = ops;
    s->ctx = ctx;
    s->conns = NULL;
    s->n_conns = 0;
    s->listener.stream.data = s;
    if (rc == 0)
        rc = uv_listen(&s->listener.stream, ONESHOT_CONNS, on_connection);
    s->on = rc == 0;
    if (rc != 0)
        uv_close((uv_handle_t *)&s->listener.stream, NULL);
    return rc;
}

int oneshot_listen_tcp(struct oneshot *s, uv_loop_t *loop, const struct sockaddr *addr,
                       const struct oneshot_ops *ops, void *ctx)
{
    s->is_pipe = false;
    int rc = uv_tcp_init(loop, &s->listener.tcp);
    return rc ? rc : start(s, ops, ctx, uv_tcp_bind(&s->listener.tcp, addr, 0));
}

int oneshot_listen_pipe(struct oneshot *s, uv_loop_t *loop, const char *path, const struct oneshot_ops *ops,
                        void *ctx)
{
    s->is_pipe = true;
    int rc = uv_pipe_init(loop, &s->listener.pipe, 0);
    return rc ? rc : start(s, ops, ctx, uv_pipe_bind(&s->listener.pipe, path));
}

void oneshot_stop(struct oneshot *s)
{
    if (!s->on)
        return;
    s->on = false;
    uv_close((uv_handle_t *)&s->listener.stream, NULL);
    for (struct oneshot_conn *c = s->conns; c; c = c->next)
        close_conn(c); /* frees nothing before the loop turns */
}
