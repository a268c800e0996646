/* One question by HTTPS to a node that is checked as the map says, and its answer.
 *
 * Happy path: connect, TLS, GET, a head with Content-Length, the body, closed.
 * Fails: status 0 with a sentence; also after ASK_MS. */
#include "cli/follow_watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/tls_ctx.h"
#include "proto/http1.h"

enum { ASK_MS = 3000, BODY_MAX = 4096 };

struct follow_ask {
    struct stream stream; /* first */
    struct follow_question q;
    uv_timer_t timer;
    bool timer_closed, stream_closed;
    char target[512];
    int status;
    char body[BODY_MAX];
    char why[256];
};

static void end_if_over(struct follow_ask *a)
{
    if (!a->timer_closed || !a->stream_closed)
        return;
    a->q.done(a->q.ctx, a->status, a->body, a->why);
    free(a);
}

static void on_timer_closed(uv_handle_t *h)
{
    struct follow_ask *a = h->data;
    a->timer_closed = true;
    end_if_over(a);
}

static void on_late(uv_timer_t *t)
{
    struct follow_ask *a = t->data;
    if (!a->why[0])
        snprintf(a->why, sizeof(a->why), "no answer within %d s", ASK_MS / 1000);
    stream_close(&a->stream, "late");
}

static void on_open(struct stream *s)
{
    struct follow_ask *a = (struct follow_ask *)s;
    const char *host = a->q.node->host_name;
    char request[1024];
    if (tls_client_verified(s->ssl, a->q.node, a->why, sizeof(a->why)) < 0) {
        stream_close(s, a->why);
        return;
    }
    int n =
        snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: %s%s%s:%d\r\nConnection: close\r\n\r\n",
                 a->target, strchr(host, ':') ? "[" : "", host, strchr(host, ':') ? "]" : "",
                 derpmap_derp_port(a->q.node));
    if (n > 0 && (size_t)n < sizeof(request))
        stream_send_raw(s, request, (size_t)n);
    else
        stream_close(s, "HostName too long");
}

static ssize_t on_input(struct stream *s, uint8_t *buf, size_t n)
{
    struct follow_ask *a = (struct follow_ask *)s;
    struct http1_head head;
    int len = http1_parse_response(&head, (const char *)buf, n);
    long body = len > 0 ? http1_content_length(&head) : 0;
    if (len == 0 || (len > 0 && body >= 0 && body < BODY_MAX && n < (size_t)len + (size_t)body))
        return 0; /* more is to come */
    if (len > 0) {
        size_t have = body >= 0 && body < BODY_MAX ? (size_t)body : 0; /* a long page is none of ours */
        memcpy(a->body, buf + len, have);
        a->body[have] = 0;
        a->status = head.status;
    } else {
        snprintf(a->why, sizeof(a->why), "what answers there speaks no HTTP");
    }
    stream_close(s, "answered");
    return -1;
}

static void on_closed(struct stream *s, enum stream_end how, const char *detail)
{
    struct follow_ask *a = (struct follow_ask *)s;
    if (!a->status && !a->why[0])
        snprintf(a->why, sizeof(a->why), "%s%s", how == STREAM_END_CONNECT ? "no connection: " : "", detail);
    a->stream_closed = true;
    uv_close((uv_handle_t *)&a->timer, on_timer_closed);
}

static const struct stream_ops ask_ops = {.input = on_input, .open = on_open, .closed = on_closed};

struct follow_ask *follow_ask_new(const struct follow_question *q)
{
    struct follow_ask *a = calloc(1, sizeof(*a));
    SSL *ssl = SSL_new(q->tls);
    if (!a || !ssl || tls_client_prepare(ssl, q->node) < 0 || stream_init(&a->stream, q->io, &ask_ops) != 0) {
        SSL_free(ssl);
        free(a);
        return NULL;
    }
    a->q = *q;
    snprintf(a->target, sizeof(a->target), "%s", q->target);
    uv_timer_init(q->io->loop, &a->timer);
    a->timer.data = a;
    uv_timer_start(&a->timer, on_late, ASK_MS, 0);
    int err = stream_connect(&a->stream, q->addr, ssl);
    if (err)
        stream_close(&a->stream, uv_strerror(err));
    return a;
}

void follow_ask_cancel(struct follow_ask *a)
{
    stream_close(&a->stream, "not wanted any more");
}
