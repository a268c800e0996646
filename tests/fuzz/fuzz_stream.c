/* A stream, and the BIO below it, against whatever a peer may write.
 *
 * First byte: 0 plain bytes, 1 bytes instead of TLS, 2 and 3 operations of a peer with which TLS 1.3 or 1.2 stands:
 * records whole and split, changed or foreign bytes between them, key updates, early ends.  The stream must show exactly
 * what was written, never anything after the first bad byte, and close exactly once. */
#include <openssl/err.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "node/stream.h"
#include "node/tls_ctx.h"
#include "proto/frame.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum mode { MODE_PLAIN, MODE_NO_TLS, MODE_TLS13, MODE_TLS12, MODES };
enum { EXPECT_MAX = 256 << 10, LEFT_MAX = 1000 };

/* What lives as long as the process. */
static struct {
    uv_loop_t loop;
    struct stats stats;
    struct stream_io io;
    struct tls_server *tls;
    SSL_CTX *client;
} w;

struct target {
    struct stream s; /* first */
    uint8_t expect[EXPECT_MAX];
    size_t written, shown; /* by the peer; to input() */
    unsigned closed;
    uint32_t seed;
};

static void must(bool ok)
{
    if (!ok)
        abort();
}

static uint32_t next(uint32_t *seed)
{
    *seed = *seed * 1664525 + 1013904223;
    return *seed >> 8;
}

static ssize_t on_input(struct stream *s, uint8_t *buf, size_t n)
{
    struct target *t = (struct target *)s;
    must(t->shown + n <= t->written && memcmp(buf, t->expect + t->shown, n) == 0);
    size_t left = next(&t->seed) % 2 ? 0 : next(&t->seed) % LEFT_MAX;
    size_t used = n > left ? n - left : 0;
    t->shown += used;
    if (next(&t->seed) % 64 == 0) {
        stream_close(s, "enough");
        return -1;
    }
    return (ssize_t)used;
}

static void on_closed(struct stream *s, enum stream_end how, const char *detail)
{
    struct target *t = (struct target *)s;
    (void)how;
    must(detail && ++t->closed == 1);
}

static const struct stream_ops ops = {.input = on_input, .closed = on_closed};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    char dir[] = "/tmp/derpmesh-fuzz-XXXXXX", path[128], err[512], warn[512];
    struct derp_key key = {{1}};
    (void)argc;
    (void)argv;
    must(mkdtemp(dir) != NULL);
    struct tls_server_params p = {.cert_dir = dir, .host = "127.0.0.1", .may_make = true, .node_key = &key};
    w.tls = tls_server_load(&p, err, sizeof(err), warn, sizeof(warn));
    w.client = tls_client_ctx_new(err, sizeof(err));
    must(w.tls && w.client);
    snprintf(path, sizeof(path), "%s/127.0.0.1.crt", dir);
    unlink(path);
    snprintf(path, sizeof(path), "%s/127.0.0.1.key", dir);
    unlink(path);
    rmdir(dir);
    must(uv_loop_init(&w.loop) == 0 && stream_io_init(&w.io, &w.loop, &w.stats, 1 << 20) == 0);
    return 0;
}

static void turn(void)
{
    uv_run(&w.loop, UV_RUN_NOWAIT);
}

/* A stream on one end of a socket pair, as if it had been accepted. */
static int target_open(struct target *t, enum mode mode)
{
    int fd[2];
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, fd) == 0);
    must(stream_init(&t->s, &w.io, &ops) == 0 && uv_tcp_open(&t->s.tcp, fd[0]) == 0);
    t->s.is_server = true;
    if (mode == MODE_PLAIN) {
        t->s.open = true;
    } else {
        SSL_CTX_up_ref(w.tls->ctx);
        t->s.ctx = w.tls->ctx;
    }
    t->s.paused = true;
    stream_resume(&t->s);
    return fd[1];
}

/* Bytes as they are, at splits. */
static void write_raw(struct target *t, int fd, const uint8_t *p, size_t n)
{
    for (size_t off = 0, k; off < n && !t->closed; off += k) {
        k = 1 + next(&t->seed) % (next(&t->seed) % 4 ? 2000 : 5);
        k = k < n - off ? k : n - off;
        if (send(fd, p + off, k, MSG_NOSIGNAL) < 0)
            return;
        turn();
    }
}

/* ---- a peer with TLS ---- */

struct peer {
    struct target *t;
    int fd;
    SSL *ssl;
    BIO *in, *out;
    bool spoiled; /* what follows must not be shown */
};

/* What the peer's TLS has made goes to the stream; flip: a bit of it is changed. */
static void pump(struct peer *p, bool flip)
{
    static uint8_t buf[64 << 10];
    int n = BIO_read(p->out, buf, sizeof(buf));
    if (n > 0 && flip)
        buf[next(&p->t->seed) % (uint32_t)n] ^= (uint8_t)(1u << next(&p->t->seed) % 8);
    if (n > 0)
        write_raw(p->t, p->fd, buf, (size_t)n);
    turn();
    ssize_t got;
    while ((got = recv(p->fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
        BIO_write(p->in, buf, (int)got);
}

static void peer_write(struct peer *p, uint32_t len, bool flip)
{
    struct target *t = p->t;
    uint8_t text[20000];
    if (t->written + len > EXPECT_MAX || len > sizeof(text))
        return;
    for (uint32_t i = 0; i < len; i++)
        text[i] = (uint8_t)(t->written + i);
    if (!p->spoiled && !flip) {
        memcpy(t->expect + t->written, text, len);
        t->written += len;
    }
    p->spoiled |= flip;
    if (len > 0)
        SSL_write(p->ssl, text, (int)len);
    pump(p, flip);
}

static size_t operation(struct peer *p, const uint8_t *d, size_t n)
{
    uint8_t f[FRAME_HEADER_LEN + 100] = {0};
    size_t k = n > 1 ? (d[1] < n - 2 ? d[1] : n - 2) : 0;
    switch (d[0] % 8) {
    case 0:
    case 1:
        peer_write(p, (uint32_t)k, false);
        return 2;
    case 2:
        peer_write(p, (uint32_t)(k * 79), false);
        return 2;
    case 3:
        peer_write(p, (uint32_t)k + 1, true);
        return 2;
    case 4:
        p->spoiled |= k > 0;
        write_raw(p->t, p->fd, d + 2, k);
        return 2 + k;
    case 5:
        SSL_key_update(p->ssl, d[0] & 8 ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED);
        SSL_do_handshake(p->ssl);
        pump(p, false);
        return 1;
    case 6:
        frame_header(f, FRAME_RECV_PACKET, 100);
        for (size_t i = 0; i < k; i++)
            stream_send(&p->t->s, SENDQ_DATA, i, f, sizeof(f));
        if (d[0] & 0x10)
            stream_finish(&p->t->s);
        pump(p, false);
        return 2;
    default:
        if (d[0] & 0x10)
            SSL_shutdown(p->ssl);
        else
            shutdown(p->fd, SHUT_WR);
        p->spoiled = true;
        pump(p, false);
        return 1;
    }
}

static void peer_run(struct target *t, int fd, enum mode mode, const uint8_t *d, size_t n)
{
    struct peer p = {
        .t = t, .fd = fd, .ssl = SSL_new(w.client), .in = BIO_new(BIO_s_mem()), .out = BIO_new(BIO_s_mem())};
    int version = mode == MODE_TLS12 ? TLS1_2_VERSION : TLS1_3_VERSION;
    must(p.ssl && p.in && p.out);
    SSL_set_max_proto_version(p.ssl, version);
    SSL_set_bio(p.ssl, p.in, p.out);
    SSL_set_connect_state(p.ssl);
    for (int i = 0; i < 20 && SSL_do_handshake(p.ssl) != 1; i++)
        pump(&p, false);
    must(SSL_is_init_finished(p.ssl));
    pump(&p, false);
    must(t->s.open && !t->closed);
    for (size_t off = 0, k; off < n && !t->closed; off += k)
        k = operation(&p, d + off, n - off);
    if (!t->closed && !p.spoiled && !t->s.closing) /* all of it, but for what input() left */
        must(t->shown + LEFT_MAX > t->written);
    SSL_free(p.ssl);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 2 || n > EXPECT_MAX)
        return 0;
    enum mode mode = data[0] % MODES;
    struct target *t = calloc(1, sizeof(*t));
    must(t != NULL);
    t->seed = data[1];
    int fd = target_open(t, mode);
    data += 2;
    n -= 2;
    if (mode == MODE_PLAIN) {
        memcpy(t->expect, data, n);
        t->written = n;
    }
    if (mode == MODE_PLAIN || mode == MODE_NO_TLS)
        write_raw(t, fd, data, n);
    else
        peer_run(t, fd, mode, data, n);
    if (mode == MODE_PLAIN && !t->closed && !t->s.closing)
        must(t->shown + LEFT_MAX > n);
    if (!t->closed)
        stream_close(&t->s, "over");
    while (!t->closed)
        uv_run(&w.loop, UV_RUN_ONCE);
    close(fd);
    must(w.io.pool.held == 0 && w.io.flush == NULL);
    free(t);
    ERR_clear_error();
    return 0;
}
