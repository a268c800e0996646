/* Two streams over loopback, plain or TLS, whose bytes are checked as they arrive; for test_stream*.c. */
#ifndef DERPMESH_TESTS_STREAM_FIXTURE_H
#define DERPMESH_TESTS_STREAM_FIXTURE_H

#include "tls_fixture.h"

#include <uv.h>

#include "node/stream.h"
#include "proto/frame.h"
#include "proto/wire.h"

enum kind { PLAIN, TLS12, TLS13 };
enum { HANG_S = 60 };

struct bench;

/* One end.  Its input checks that byte number n is what byte_at says, and consumes as much as take() says. */
struct end {
    struct stream s; /* first */
    struct bench *b;
    uint64_t in, out; /* checked, sent */
    unsigned inputs, opened, closed;
    enum stream_end how;
    char detail[256];
    size_t (*take)(struct end *e, size_t n); /* NULL: all */
    void (*on_open)(struct end *e);          /* may be NULL */
    bool (*on_input)(struct end *e);         /* false: it has closed the stream; may be NULL */
    ssize_t (*raw_input)(struct end *e, uint8_t *buf, size_t n); /* instead of the check */
};

struct bench {
    uv_loop_t loop;
    struct stats stats;
    struct stream_io io;
    uv_tcp_t listener;
    struct sockaddr_in addr;
    struct tls_server *tls;
    SSL_CTX *client_ctx;
    enum kind kind;
    struct end *client, *server;
    uv_timer_t hang;
    const struct stream_ops *server_ops;
    void (*on_accepted)(struct end *e); /* may be NULL */
};

static inline uint8_t byte_at(uint64_t n)
{
    return (uint8_t)((n * 0x9e3779b97f4a7c15u) >> 56);
}

static inline ssize_t end_input(struct stream *s, uint8_t *buf, size_t n)
{
    struct end *e = (struct end *)s;
    e->inputs++;
    if (e->raw_input)
        return e->raw_input(e, buf, n);
    size_t k = e->take ? e->take(e, n) : n;
    assert_true(k <= n);
    for (size_t i = 0; i < k; i++)
        if (buf[i] != byte_at(e->in + i))
            fail_msg("byte %llu is wrong", (unsigned long long)(e->in + i));
    e->in += k;
    if (e->on_input && !e->on_input(e))
        return -1;
    return (ssize_t)k;
}

static inline void end_open(struct stream *s)
{
    struct end *e = (struct end *)s;
    e->opened++;
    if (e->on_open)
        e->on_open(e);
}

static inline void end_closed(struct stream *s, enum stream_end how, const char *detail)
{
    struct end *e = (struct end *)s;
    e->closed++;
    e->how = how;
    snprintf(e->detail, sizeof(e->detail), "%s", detail);
    memset(&e->s, 0xdd, sizeof(e->s)); /* an owner frees it here: whoever still looks at it shall trip */
}

static const struct stream_ops end_ops = {.input = end_input, .open = end_open, .closed = end_closed};

static inline struct end *end_new(struct bench *b)
{
    struct end *e = calloc(1, sizeof(*e));
    assert_non_null(e);
    e->b = b;
    assert_int_equal(stream_init(&e->s, &b->io, &end_ops), 0);
    return e;
}

static inline void on_bench_connection(uv_stream_t *listener, int status)
{
    struct bench *b = listener->data;
    assert_int_equal(status, 0);
    b->server = end_new(b);
    assert_int_equal(stream_accept(&b->server->s, listener, b->kind == PLAIN ? NULL : b->tls->ctx), 0);
    if (b->on_accepted)
        b->on_accepted(b->server);
}

static inline void on_hang(uv_timer_t *t)
{
    (void)t;
    fprintf(stderr, "hangs\n");
    abort();
}

/* A listener on loopback; nobody is connected yet. */
static inline struct bench *bench_new(enum kind kind)
{
    struct bench *b = calloc(1, sizeof(*b));
    char err[512], warn[512], *dir = temp_dir();
    struct tls_server_params p = {
        .cert_dir = dir, .host = "127.0.0.1", .may_make = true, .node_key = test_key()};
    int len = sizeof(b->addr);
    b->kind = kind;
    b->tls = tls_server_load(&p, err, sizeof(err), warn, sizeof(warn));
    remove_dir(dir);
    b->client_ctx = tls_client_ctx_new(err, sizeof(err));
    assert_non_null(b->tls);
    assert_non_null(b->client_ctx);
    assert_int_equal(uv_loop_init(&b->loop), 0);
    assert_int_equal(stream_io_init(&b->io, &b->loop, &b->stats, (size_t)64 << 20), 0);
    uv_tcp_init(&b->loop, &b->listener);
    b->listener.data = b;
    uv_ip4_addr("127.0.0.1", 0, &b->addr);
    assert_int_equal(uv_tcp_bind(&b->listener, (struct sockaddr *)&b->addr, 0), 0);
    assert_int_equal(uv_listen((uv_stream_t *)&b->listener, 16, on_bench_connection), 0);
    uv_tcp_getsockname(&b->listener, (struct sockaddr *)&b->addr, &len);
    uv_timer_init(&b->loop, &b->hang);
    uv_timer_start(&b->hang, on_hang, HANG_S * 1000, 0);
    return b;
}

static inline SSL *bench_client_ssl(struct bench *b)
{
    SSL *ssl = b->kind == PLAIN ? NULL : SSL_new(b->client_ctx);
    if (ssl) {
        int version = b->kind == TLS12 ? TLS1_2_VERSION : TLS1_3_VERSION;
        SSL_set_min_proto_version(ssl, version);
        SSL_set_max_proto_version(ssl, version);
    }
    return ssl;
}

/* Dials; the callbacks may be set before the loop runs. */
static inline void bench_dial(struct bench *b)
{
    b->client = end_new(b);
    assert_int_equal(stream_connect(&b->client->s, (struct sockaddr *)&b->addr, bench_client_ssl(b)), 0);
}

static inline void bench_until(struct bench *b, bool (*done)(struct bench *b))
{
    while (!done(b))
        uv_run(&b->loop, UV_RUN_ONCE);
}

static inline bool both_open(struct bench *b)
{
    return b->client->opened && b->server && b->server->s.open;
}

static inline bool both_closed(struct bench *b)
{
    return b->client->closed && b->server && b->server->closed;
}

static inline struct bench *bench_connected(enum kind kind)
{
    struct bench *b = bench_new(kind);
    bench_dial(b);
    bench_until(b, both_open);
    return b;
}

/* Closes what is still open; each end must have been told exactly once. */
static inline void bench_free(struct bench *b)
{
    struct end *ends[] = {b->client, b->server};
    for (int i = 0; i < 2; i++)
        if (ends[i] && !ends[i]->closed)
            stream_close(&ends[i]->s, "test over");
    uv_close((uv_handle_t *)&b->listener, NULL);
    uv_close((uv_handle_t *)&b->hang, NULL);
    stream_io_stop(&b->io);
    uv_run(&b->loop, UV_RUN_DEFAULT);
    for (int i = 0; i < 2; i++) {
        assert_true(!ends[i] || ends[i]->closed == 1);
        free(ends[i]);
    }
    assert_int_equal(b->io.pool.held, 0);
    stream_io_deinit(&b->io);
    assert_int_equal(uv_loop_close(&b->loop), 0);
    tls_server_unref(b->tls);
    SSL_CTX_free(b->client_ctx);
    ERR_clear_error();
    free(b);
}

/* Sends the next n bytes of the end's stream of bytes. */
static inline void end_send(struct end *e, size_t n)
{
    uint8_t *buf = malloc(n ? n : 1);
    for (size_t i = 0; i < n; i++)
        buf[i] = byte_at(e->out + i);
    stream_send_raw(&e->s, buf, n);
    e->out += n;
    free(buf);
}

#endif
