/* A DERP client of the load generator: see client.h.
 *
 * Happy path: client_login sends the upgrade request, waits for ServerKey, sends ClientInfo, waits for ServerInfo.  From
 * then on client_put encrypts frames into c->out, client_flush hands them to the socket, and client_read decrypts what
 * one recv() brought and walks its frames.
 * Fails: -1; at login with the reason on standard error, later the caller counts and closes. */
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/hello.h"
#include "proto/http1.h"

enum { IN_SIZE = 256 << 10, PLAIN_SIZE = IN_SIZE + (128 << 10), RECORD_MAX = 16384, RECORD_EXTRA = 64 };

/* Used within one call only, so shared by all clients. */
static uint8_t in_buf[IN_SIZE], plain_buf[PLAIN_SIZE];

/* ---- the BIO: OpenSSL over plain memory ---- */

static int on_bio_read(BIO *b, char *out, int n)
{
    struct client *c = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    if (c->in_len == 0) {
        BIO_set_retry_read(b);
        return -1;
    }
    size_t k = c->in_len < (size_t)n ? c->in_len : (size_t)n;
    memcpy(out, c->in, k);
    c->in += k;
    c->in_len -= k;
    return (int)k;
}

static int out_append(struct client *c, const void *bytes, size_t n)
{
    if (c->out_off > 0 && c->out_off == c->out_len)
        c->out_off = c->out_len = 0;
    if (c->out_cap - c->out_len < n) {
        size_t cap = (c->out_len + n) * 2;
        uint8_t *p = realloc(c->out, cap);
        if (!p)
            return -1;
        c->out = p;
        c->out_cap = cap;
    }
    memcpy(c->out + c->out_len, bytes, n);
    c->out_len += n;
    return 0;
}

static int on_bio_write(BIO *b, const char *in, int n)
{
    return out_append(BIO_get_data(b), in, (size_t)n) < 0 ? -1 : n;
}

static long on_bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
    (void)b;
    (void)num;
    (void)ptr;
    return cmd == BIO_CTRL_FLUSH || cmd == BIO_CTRL_DUP;
}

/* ---- target ---- */

static int parse_addr(struct sockaddr_in *a, const char *text)
{
    char ip[64];
    const char *colon = strrchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof(ip))
        return -1;
    memcpy(ip, text, (size_t)(colon - text));
    ip[colon - text] = 0;
    *a = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    return inet_pton(AF_INET, ip, &a->sin_addr) == 1 ? 0 : -1;
}

int target_init(struct target *t, const char *addr, const char *host, bool plain)
{
    *t = (struct target){.host = host};
    if (parse_addr(&t->addr, addr) < 0) {
        fprintf(stderr, "load: %s is no IPv4 address and port\n", addr);
        return -1;
    }
    if (plain)
        return 0;
    t->tls = SSL_CTX_new(TLS_client_method());
    t->bio = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "load");
    /* one cipher for all relays, the floor's; the relay's certificate is not what is measured */
    if (!t->tls || !t->bio || !SSL_CTX_set_min_proto_version(t->tls, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(t->tls, "TLS_AES_128_GCM_SHA256")) {
        fprintf(stderr, "load: cannot prepare TLS\n");
        target_deinit(t);
        return -1;
    }
    SSL_CTX_set_mode(t->tls, SSL_MODE_RELEASE_BUFFERS);
    BIO_meth_set_read(t->bio, on_bio_read);
    BIO_meth_set_write(t->bio, on_bio_write);
    BIO_meth_set_ctrl(t->bio, on_bio_ctrl);
    return 0;
}

void target_deinit(struct target *t)
{
    SSL_CTX_free(t->tls);
    BIO_meth_free(t->bio);
    t->tls = NULL;
    t->bio = NULL;
}

/* ---- out ---- */

int client_put(struct client *c, const uint8_t *frame, size_t len)
{
    size_t wrote;
    if (!c->ssl)
        return out_append(c, frame, len);
    return SSL_write_ex(c->ssl, frame, len, &wrote) == 1 ? 0 : -1;
}

int client_flush(struct client *c)
{
    while (c->out_off < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        c->out_off += (size_t)n;
    }
    return 0;
}

size_t client_waiting(const struct client *c)
{
    return c->out_len - c->out_off;
}

/* ---- in ---- */

/* Decrypts all of c->in to plain_buf, behind have bytes that are there.  Length of all, or -1. */
static ssize_t decrypt(struct client *c, size_t have)
{
    size_t got;
    int r;
    while ((r = SSL_read_ex(c->ssl, plain_buf + have, PLAIN_SIZE - have, &got)) == 1)
        have += got;
    return SSL_get_error(c->ssl, r) == SSL_ERROR_WANT_READ ? (ssize_t)have : -1;
}

/* Reads once and decrypts to plain_buf, behind what is carried.  Its length (0: nothing yet), or -1. */
static ssize_t read_plain(struct client *c)
{
    size_t have = c->carry_len;
    if (have > 0)
        memcpy(plain_buf, c->carry, have);
    ssize_t n = recv(c->fd, c->ssl ? in_buf : plain_buf + have, IN_SIZE, 0);
    if (n < 0 && errno == EAGAIN && c->logged_in) /* before, it is the time limit */
        return (ssize_t)have;
    if (n <= 0)
        return -1;
    if (!c->ssl)
        return (ssize_t)have + n;
    c->in = in_buf;
    c->in_len = (size_t)n;
    return decrypt(c, have);
}

static int keep_rest(struct client *c, const uint8_t *rest, size_t n)
{
    if (n == 0) {
        free(c->carry);
        c->carry = NULL;
    } else {
        uint8_t *p = realloc(c->carry, n);
        if (!p)
            return -1;
        memcpy(p, rest, n);
        c->carry = p;
    }
    c->carry_len = n;
    return 0;
}

int client_read(struct client *c, client_frame_cb *on_frame, void *ctx)
{
    ssize_t n = read_plain(c);
    if (n < 0)
        return -1;
    size_t off = 0, size;
    struct frame f;
    while ((size = frame_peek(&f, plain_buf + off, (size_t)n - off)) > 0) {
        on_frame(ctx, c, &f);
        off += size;
    }
    if (f.raw && f.len > FRAME_PACKET_MAX + KEY_LEN)
        return -1; /* no relay sends such a frame */
    return keep_rest(c, plain_buf + off, (size_t)n - off);
}

/* ---- login ---- */

static int fail(const char *what)
{
    unsigned long e = ERR_get_error();
    fprintf(stderr, "load: login: %s: %s\n", what, e ? ERR_reason_error_string(e) : strerror(errno));
    return -1;
}

static int connect_tcp(struct client *c, const struct target *t)
{
    int one = 1, lowat = 16 << 10;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (const struct sockaddr *)&t->addr, sizeof(t->addr)) < 0)
        return fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    /* what is measured is the relay's queue, not ours */
    setsockopt(c->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat));
    struct timeval limit = {.tv_sec = 10};
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return 0;
}

static int handshake(struct client *c, const struct target *t)
{
    c->ssl = SSL_new(t->tls);
    BIO *b = c->ssl ? BIO_new(t->bio) : NULL;
    if (!b)
        return fail("no memory");
    BIO_set_data(b, c);
    BIO_set_init(b, 1);
    SSL_set_bio(c->ssl, b, b);
    SSL_set_tlsext_host_name(c->ssl, t->host);
    for (;;) {
        int r = SSL_connect(c->ssl);
        int err = SSL_get_error(c->ssl, r);
        if (client_flush(c) < 0 || (r != 1 && err != SSL_ERROR_WANT_READ))
            return fail("TLS handshake");
        if (r == 1)
            break;
        ssize_t n = recv(c->fd, in_buf, sizeof(in_buf), 0);
        if (n <= 0)
            return fail("TLS handshake");
        c->in = in_buf;
        c->in_len = (size_t)n;
    }
    /* session tickets may have come with the server's Finished */
    return decrypt(c, 0) == 0 ? 0 : fail("after the TLS handshake");
}

static int upgrade(struct client *c, const struct target *t)
{
    char request[512];
    struct http1_head head;
    int len =
        snprintf(request, sizeof(request),
                 "GET /derp HTTP/1.1\r\nHost: %s\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n", t->host);
    if (client_put(c, (uint8_t *)request, (size_t)len) < 0 || client_flush(c) < 0)
        return fail("request");
    for (;;) {
        ssize_t n = read_plain(c);
        if (n < 0)
            return fail("answer to the request");
        len = http1_parse_response(&head, (char *)plain_buf, (size_t)n);
        if (len < 0 || (len > 0 && head.status != 101)) {
            fprintf(stderr, "load: login: no upgrade to DERP (status %d)\n", len < 0 ? 0 : head.status);
            return -1;
        }
        if (keep_rest(c, plain_buf + len, (size_t)(n - len)) < 0)
            return -1;
        if (len > 0)
            return 0;
    }
}

struct login {
    struct hello_shared shared;
    enum { WANT_KEY, WANT_INFO, DONE, FAILED } step;
};

static void on_login_frame(void *ctx, struct client *c, const struct frame *f)
{
    struct login *l = ctx;
    struct derp_key server;
    uint8_t out[HELLO_FRAME_MAX];
    int version;
    if (l->step == WANT_KEY && f->type == FRAME_SERVER_KEY &&
        hello_parse_server_key(f->body, f->len, &server) == 0) {
        size_t n = hello_client_info(out, &c->key, &server, false, &l->shared);
        l->step = n > 0 && client_put(c, out, n) == 0 && client_flush(c) == 0 ? WANT_INFO : FAILED;
    } else if (l->step == WANT_INFO && f->type == FRAME_SERVER_INFO) {
        l->step = hello_open_server_info(f->body, f->len, &l->shared, &version) == 0 ? DONE : FAILED;
    } else if (l->step != DONE) {
        l->step = FAILED;
    }
}

/* A frame may have come with the answer to the request: it waits as carry, and the next read would wait for more. */
static void show_carry(struct client *c, struct login *l)
{
    struct frame f;
    size_t size = frame_peek(&f, c->carry, c->carry_len);
    if (!size)
        return;
    on_login_frame(l, c, &f);
    c->carry_len -= size;
    memmove(c->carry, c->carry + size, c->carry_len);
}

int client_login(struct client *c, const struct target *t)
{
    struct login l = {.step = WANT_KEY};
    key_pair_generate(&c->key);
    if (connect_tcp(c, t) < 0 || (t->tls && handshake(c, t) < 0) || upgrade(c, t) < 0)
        return -1;
    show_carry(c, &l);
    while (l.step < DONE)
        if (client_read(c, on_login_frame, &l) < 0)
            l.step = FAILED;
    if (l.step == FAILED) {
        fprintf(stderr, "load: login: refused\n");
        return -1;
    }
    fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
    c->logged_in = true;
    return 0;
}

void client_close(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    SSL_free(c->ssl);
    c->ssl = NULL;
    free(c->out);
    free(c->carry);
    c->out = c->carry = NULL;
    c->out_off = c->out_len = c->out_cap = c->carry_len = 0;
    key_pair_wipe(&c->key);
}
