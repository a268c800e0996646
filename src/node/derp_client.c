/* A DERP client: resolve, connect, TLS, upgrade, login, then frames.
 *
 * Happy path: each step's callback starts the next one; input() walks the frames of what was decrypted.
 * Fails: closed() once with a sentence; on a refused address the next one of the node is tried. */
#include "node/derp_client.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/resolve.h"
#include "node/tls_ctx.h"
#include "proto/frame.h"
#include "proto/hello.h"
#include "proto/http1.h"

enum step { STEP_CONNECT, STEP_HTTP, STEP_SERVER_KEY, STEP_SERVER_INFO, STEP_OPEN };

struct derp_client {
    struct stream stream; /* first */
    struct derp_client_params p;
    struct resolve resolve;
    struct hello_shared shared;
    enum step step;
    bool stream_on;   /* the stream has a handle */
    bool dial_failed; /* this address, at once */
    bool resolving, closing_by_owner;
    bool starting, failed_at_start;   /* within derp_client_new */
    uint64_t t_start, t_tls, t_login; /* ns */
    char addr[64];                    /* last dialled */
    char why[512];
};

static const struct stream_ops client_ops;

static void try_next(struct derp_client *c);

/* "node fra-1 (relay.example): …" into why, as tls_client_verified says it. */
static void say(struct derp_client *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(struct derp_client *c, const char *fmt, ...)
{
    int n = snprintf(c->why, sizeof(c->why), "node %s (%s): ", c->p.node->id, c->p.node->host_name);
    va_list ap;

    if (n < 0 || (size_t)n >= sizeof(c->why))
        return;
    va_start(ap, fmt);
    vsnprintf(c->why + n, sizeof(c->why) - (size_t)n, fmt, ap);
    va_end(ap);
}

static void end(struct derp_client *c)
{
    if (c->starting) {
        c->failed_at_start = true;
        return;
    }
    const struct derp_client_ops *ops = c->p.ops;
    void *ctx = c->p.ctx;
    ops->closed(ctx, c, c->closing_by_owner ? "" : c->why[0] ? c->why : "closed");
    key_pair_wipe(&c->p.key);
    free(c);
}

static void on_resolved(struct resolve *r, int err)
{
    struct derp_client *c = r->ctx;
    c->resolving = false;
    if (err)
        say(c, "its name cannot be resolved: %s", uv_strerror(err));
    if (err || c->closing_by_owner)
        end(c);
    else
        try_next(c);
}

struct derp_client *derp_client_new(const struct derp_client_params *p)
{
    struct derp_client *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->p = *p;
    c->resolving = true;
    c->starting = true;
    int err = resolve_start(&c->resolve, p->io->loop, p->node, derpmap_derp_port(p->node), on_resolved, c);
    c->starting = false;
    if (err || c->failed_at_start) {
        free(c);
        return NULL;
    }
    return c;
}

static void try_next(struct derp_client *c)
{
    if (c->resolve.next >= c->resolve.n) {
        end(c);
        return;
    }
    struct sockaddr *addr = (struct sockaddr *)&c->resolve.addr[c->resolve.next++];
    char ip[46] = "?";
    uv_ip_name(addr, ip, sizeof(ip));
    snprintf(c->addr, sizeof(c->addr), addr->sa_family == AF_INET6 ? "[%s]:%d" : "%s:%d", ip,
             derpmap_derp_port(c->p.node));
    c->step = STEP_CONNECT;
    c->t_start = uv_hrtime();
    if (stream_init(&c->stream, c->p.io, &client_ops) != 0) {
        say(c, "cannot make a socket");
        end(c);
        return;
    }
    c->stream_on = true;
    SSL *ssl = c->p.tls ? SSL_new(c->p.tls) : NULL;
    if (c->p.tls && (!ssl || tls_client_prepare(ssl, c->p.node) < 0)) {
        SSL_free(ssl);
        stream_close(&c->stream, "cannot set up TLS");
        return;
    }
    int err = stream_connect(&c->stream, addr, ssl);
    c->dial_failed = err != 0; /* no route: another address may have one */
    if (err)
        stream_close(&c->stream, uv_strerror(err));
}

static void on_open(struct stream *s)
{
    struct derp_client *c = (struct derp_client *)s;
    char request[512];
    c->t_tls = uv_hrtime();
    c->why[0] = 0; /* of addresses that failed before */
    if (s->ssl && tls_client_verified(s->ssl, c->p.node, c->why, sizeof(c->why)) < 0) {
        stream_close(s, c->why);
        return;
    }
    const char *host = c->p.node->host_name;
    int n = snprintf(request, sizeof(request),
                     "GET /derp HTTP/1.1\r\nHost: %s%s%s:%d\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n",
                     strchr(host, ':') ? "[" : "", host, strchr(host, ':') ? "]" : "",
                     derpmap_derp_port(c->p.node));
    if (n < 0 || (size_t)n >= sizeof(request)) {
        stream_close(s, "HostName too long");
        return;
    }
    c->step = STEP_HTTP;
    stream_send_raw(s, request, (size_t)n);
}

static ssize_t fail(struct derp_client *c, const char *why)
{
    say(c, "%s", why);
    stream_close(&c->stream, c->why);
    return -1;
}

static ssize_t http_input(struct derp_client *c, const uint8_t *buf, size_t n)
{
    struct http1_head head;
    int len = http1_parse_response(&head, (const char *)buf, n);
    if (len < 0)
        return fail(c, "what answers there speaks no HTTP; is the port in the map that of the relay?");
    if (len > 0 && head.status != 101) {
        say(c,
            "it answered HTTP %d where a relay switches to DERP; is this the relay's port, and does a proxy "
            "before it "
            "pass Upgrade on?",
            head.status);
        stream_close(&c->stream, c->why);
        return -1;
    }
    if (len > 0)
        c->step = STEP_SERVER_KEY;
    return len;
}

/* ServerKey and ServerInfo.  0, or -1 when the connection was closed. */
static int login_frame(struct derp_client *c, const struct frame *f)
{
    struct derp_key server;
    uint8_t out[HELLO_FRAME_MAX];
    int version;
    if (c->step == STEP_SERVER_KEY) {
        if (f->type != FRAME_SERVER_KEY || hello_parse_server_key(f->body, f->len, &server) < 0)
            return (int)fail(c, "it sent no DERP server key: no relay?");
        size_t n = hello_client_info(out, &c->p.key, &server, c->p.prober, &c->shared);
        stream_send_raw(&c->stream, out, n);
        c->step = STEP_SERVER_INFO;
        return 0;
    }
    if (f->type != FRAME_SERVER_INFO || hello_open_server_info(f->body, f->len, &c->shared, &version) < 0)
        return (int)fail(c, "it did not answer the login as a relay does");
    c->step = STEP_OPEN;
    c->t_login = uv_hrtime();
    c->p.ops->open(c->p.ctx, c);
    return c->stream.closing ? -1 : 0;
}

static void open_frame(struct derp_client *c, const struct frame *f)
{
    const struct derp_client_ops *ops = c->p.ops;
    uint8_t out[FRAME_HEADER_LEN + DERP_PING_MIN];
    if (f->type == FRAME_RECV_PACKET && f->len >= KEY_LEN) {
        ops->packet(c->p.ctx, c, (const struct derp_key *)(const void *)f->body, f->body + KEY_LEN,
                    f->len - KEY_LEN);
    } else if (f->type == FRAME_PEER_GONE && f->len >= KEY_LEN && ops->peer_gone) {
        ops->peer_gone(c->p.ctx, c, (const struct derp_key *)(const void *)f->body,
                       f->len > KEY_LEN ? f->body[KEY_LEN] : 0);
    } else if (f->type == FRAME_PONG && f->len >= DERP_PING_MIN && ops->pong) {
        ops->pong(c->p.ctx, c, f->body);
    } else if (f->type == FRAME_PING && f->len >= DERP_PING_MIN) {
        frame_header(out, FRAME_PONG, DERP_PING_MIN);
        memcpy(out + FRAME_HEADER_LEN, f->body, DERP_PING_MIN);
        stream_send(&c->stream, SENDQ_URGENT, 0, out, sizeof(out));
    }
}

static ssize_t on_input(struct stream *s, uint8_t *buf, size_t n)
{
    struct derp_client *c = (struct derp_client *)s;
    size_t off = 0;
    if (c->step == STEP_HTTP) {
        ssize_t used = http_input(c, buf, n);
        if (used <= 0)
            return used;
        off = (size_t)used;
    }
    while (off < n) {
        struct frame f;
        size_t size = frame_peek(&f, buf + off, n - off);
        if (f.raw && f.len > FRAME_PACKET_MAX + KEY_LEN)
            return fail(c, "it sent a frame that is too long");
        if (!size)
            break;
        if (c->step != STEP_OPEN) {
            if (login_frame(c, &f) < 0)
                return -1;
        } else {
            open_frame(c, &f);
            if (s->closing)
                return -1;
        }
        off += size;
    }
    return (ssize_t)off;
}

/* Why it ended, by how far it had come. */
static void say_end(struct derp_client *c, enum stream_end how, const char *detail)
{
    if (how == STREAM_END_CONNECT)
        say(c,
            "no connection to %s: %s; is it running, is the port open, are address and port in the map "
            "right?",
            c->addr, detail);
    else if (how == STREAM_END_LOCAL || how == STREAM_END_MEMORY)
        say(c, "%s", detail);
    else if (!c->t_tls)
        say(c, "no TLS with %s: %s; is this the relay's port, and has it a certificate for this name?",
            c->addr, detail);
    else if (c->step == STEP_SERVER_INFO)
        say(c, "the login was refused (%s); does the node admit known clients only?", detail);
    else
        say(c, "the connection broke: %s", detail);
}

static void on_closed(struct stream *s, enum stream_end how, const char *detail)
{
    struct derp_client *c = (struct derp_client *)s;
    c->stream_on = false;
    if (c->dial_failed)
        how = STREAM_END_CONNECT;
    /* the first of several addresses that refuse is named, but what happens on a connection wins */
    if (!c->why[0] || (how != STREAM_END_CONNECT && !c->t_tls))
        say_end(c, how, detail);
    if (how == STREAM_END_CONNECT && !c->closing_by_owner)
        try_next(c);
    else
        end(c);
}

static const struct stream_ops client_ops = {.input = on_input, .open = on_open, .closed = on_closed};

void derp_client_send(struct derp_client *c, const struct derp_key *dst, const uint8_t *payload, size_t len)
{
    uint8_t head[FRAME_HEADER_LEN + KEY_LEN];
    if (c->step != STEP_OPEN || len > FRAME_PACKET_MAX)
        return;
    frame_header(head, FRAME_SEND_PACKET, (uint32_t)(KEY_LEN + len));
    memcpy(head + FRAME_HEADER_LEN, dst->b, KEY_LEN);
    stream_send2(&c->stream, SENDQ_DATA, 0, head, sizeof(head), payload, len);
}

void derp_client_ping(struct derp_client *c, const uint8_t data[static 8])
{
    uint8_t out[FRAME_HEADER_LEN + DERP_PING_MIN];
    frame_header(out, FRAME_PING, DERP_PING_MIN);
    memcpy(out + FRAME_HEADER_LEN, data, DERP_PING_MIN);
    stream_send(&c->stream, SENDQ_URGENT, 0, out, sizeof(out));
}

void derp_client_prefer(struct derp_client *c, bool home)
{
    uint8_t out[FRAME_HEADER_LEN + 1];
    frame_header(out, FRAME_NOTE_PREFERRED, 1);
    out[FRAME_HEADER_LEN] = home;
    stream_send(&c->stream, SENDQ_URGENT, 0, out, sizeof(out));
}

void derp_client_close(struct derp_client *c)
{
    c->closing_by_owner = true;
    if (c->resolving)
        uv_cancel((uv_req_t *)&c->resolve.req); /* its callback ends c, whether or not this came in time */
    else if (c->stream_on)
        stream_close(&c->stream, "");
}

struct derp_client_times derp_client_times(const struct derp_client *c)
{
    struct derp_client_times t = {-1, -1};
    if (c->t_tls)
        t.tls_ms = (double)(c->t_tls - c->t_start) / 1e6;
    if (c->t_login)
        t.login_ms = (double)(c->t_login - c->t_start) / 1e6;
    return t;
}
