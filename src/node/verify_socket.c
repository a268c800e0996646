/* One GET on one connection a question.
 *
 * Happy path: connect, write the request, read as far as the status line goes, close, tell.
 * Failure: whatever else happens, or nothing within 5 s, is an outage, told with the socket's path. */
#include "node/verify_socket.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATUS_LEN = 12, REQUEST_MAX = 256 }; /* "HTTP/1.1 200" */

struct socket_question {
    struct socket_question *prev, *next;
    struct verify_socket *owner; /* NULL once it is answered or given up */
    uv_pipe_t pipe;
    uv_timer_t timer;
    uv_connect_t connect;
    uv_write_t write;
    int handles; /* still open */
    uint64_t number;
    struct derp_key key;
    size_t n;
    char request[REQUEST_MAX], answer[STATUS_LEN];
};

static void on_closed(uv_handle_t *h)
{
    struct socket_question *q = h->data;
    if (--q->handles == 0)
        free(q);
}

/* Nobody waits for it any more. */
static void give_up(struct socket_question *q)
{
    struct verify_socket *v = q->owner;
    if (!v)
        return;
    q->owner = NULL;
    *(q->prev ? &q->prev->next : &v->running) = q->next;
    if (q->next)
        q->next->prev = q->prev;
    uv_close((uv_handle_t *)&q->pipe, on_closed);
    uv_close((uv_handle_t *)&q->timer, on_closed);
}

static void tell(struct socket_question *q, enum admit_verdict verdict, const char *detail)
{
    struct verify_socket *v = q->owner;
    char text[ADMIT_DETAIL];
    if (!v)
        return;
    snprintf(text, sizeof(text), "%s: %s", v->path, detail ? detail : "");
    give_up(q); /* its memory lives until the handles are closed */
    v->heard(v->ctx, q->number, &q->key, verdict, text);
}

static void judge(struct socket_question *q)
{
    const char *a = q->answer;
    char detail[64];
    if (memcmp(a, "HTTP/1.", 7) != 0 || a[8] != ' ')
        tell(q, ADMIT_OUTAGE, "that is not tailscaled's answer");
    else if (memcmp(a + 9, "200", 3) == 0)
        tell(q, ADMIT_YES, NULL);
    else if (memcmp(a + 9, "404", 3) == 0)
        tell(q, ADMIT_NO, NULL);
    else if (memcmp(a + 9, "400", 3) == 0)
        tell(q, ADMIT_OUTAGE, "answered 400: this tailscaled is too old to look up node keys");
    else {
        snprintf(detail, sizeof(detail), "answered %.3s", a + 9);
        tell(q, ADMIT_OUTAGE, detail);
    }
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct socket_question *q = h->data;
    (void)suggested;
    *buf = uv_buf_init(q->answer + q->n, (unsigned)(sizeof(q->answer) - q->n));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct socket_question *q = stream->data;
    (void)buf;
    if (n < 0) {
        tell(q, ADMIT_OUTAGE, n == UV_EOF ? "closed without an answer" : uv_strerror((int)n));
        return;
    }
    q->n += (size_t)n;
    if (q->n == sizeof(q->answer))
        judge(q);
}

static void on_written(uv_write_t *write, int status)
{
    if (status < 0)
        tell(write->data, ADMIT_OUTAGE, uv_strerror(status));
}

static void on_connect(uv_connect_t *connect, int status)
{
    struct socket_question *q = connect->data;
    uv_buf_t b = uv_buf_init(q->request, (unsigned)strlen(q->request));
    if (!q->owner)
        return; /* given up: the handles are being closed */
    if (status == 0)
        status = uv_write(&q->write, (uv_stream_t *)&q->pipe, &b, 1, on_written);
    if (status == 0)
        status = uv_read_start((uv_stream_t *)&q->pipe, on_alloc, on_read);
    if (status != 0)
        tell(q, ADMIT_UNREACHED, uv_strerror(status));
}

static void on_time(uv_timer_t *timer)
{
    tell(timer->data, ADMIT_OUTAGE, "no answer in time");
}

int verify_socket_ask(struct verify_socket *v, uint64_t question, const struct derp_key *key)
{
    char text[KEY_TEXT_MAX];
    struct socket_question *q = v->path ? calloc(1, sizeof(*q)) : NULL;
    if (!q)
        return -1;
    key_public_text(text, key);
    snprintf(q->request, sizeof(q->request),
             "GET /localapi/v0/whois?addr=nodekey%%3A%s HTTP/1.1\r\n"
             "Host: local-tailscaled.sock\r\nConnection: close\r\n\r\n",
             text + strlen("nodekey:"));
    q->number = question;
    q->key = *key;
    if (uv_pipe_init(v->loop, &q->pipe, 0) != 0) {
        free(q);
        return -1;
    }
    uv_timer_init(v->loop, &q->timer);
    q->handles = 2;
    q->pipe.data = q->timer.data = q->connect.data = q->write.data = q;
    q->owner = v;
    q->next = v->running;
    if (v->running)
        v->running->prev = q;
    v->running = q;
    uv_timer_start(&q->timer, on_time, VERIFY_SOCKET_MS, 0);
    uv_pipe_connect(&q->connect, &q->pipe, v->path, on_connect); /* also its failures come by on_connect */
    return 0;
}

int verify_socket_set(struct verify_socket *v, const char *path)
{
    char *copy = path ? strdup(path) : NULL;
    if (path && !copy)
        return -1;
    while (v->running)
        give_up(v->running);
    free(v->path);
    v->path = copy;
    return 0;
}

void verify_socket_close(struct verify_socket *v)
{
    verify_socket_set(v, NULL);
}
