/* A DERP client of the load generator: see client.h.
 *
 * Happy path: client_begin connects, client_advance goes on with the login whenever the socket can be read or written.  From
 * then on client_put encrypts frames into c->out, client_flush hands them to the socket, and client_read decrypts what
 * one recv() brought and walks its frames.
 * Fails: -1; at login with the reason in c->why, later the caller counts and closes. */
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/http1.h"

enum { IN_SIZE = 256 << 10, PLAIN_SIZE = IN_SIZE + (128 << 10), LOGIN_LIMIT_MS = 10000 };

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

/* The newest ticket is kept for the next login. */
static int on_session(SSL *ssl, SSL_SESSION *session)
{
    struct target *t = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    SSL_SESSION_free(t->session);
    t->session = session;
    return 1;
}

void target_resume(struct target *t)
{
    SSL_CTX_set_session_cache_mode(t->tls, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(t->tls, on_session);
    SSL_CTX_set_app_data(t->tls, t);
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
    SSL_SESSION_free(t->session);
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
    if (n < 0 && errno == EAGAIN)
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

static int fail(struct client *c, const char *what)
{
    unsigned long e = ERR_get_error();
    c->why = e ? ERR_reason_error_string(e) : what;
    ERR_clear_error();
    return -1;
}

static int connect_tcp(struct client *c, const struct target *t, uint32_t source)
{
    int one = 1, lowat = 16 << 10;
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        return fail(c, "socket");
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
    if (source && bind(c->fd, (const struct sockaddr *)&from, sizeof(from)) < 0)
        return fail(c, "bind");
    if (connect(c->fd, (const struct sockaddr *)&t->addr, sizeof(t->addr)) < 0 && errno != EINPROGRESS)
        return fail(c, "connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    /* what is measured is the relay's queue, not ours */
    setsockopt(c->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat));
    return 0;
}

static int make_ssl(struct client *c, const struct target *t)
{
    c->ssl = SSL_new(t->tls);
    BIO *b = c->ssl ? BIO_new(t->bio) : NULL;
    if (!b)
        return fail(c, "no memory");
    BIO_set_data(b, c);
    BIO_set_init(b, 1);
    SSL_set_bio(c->ssl, b, b);
    SSL_set_tlsext_host_name(c->ssl, t->host);
    SSL_set_connect_state(c->ssl);
    if (t->session)
        SSL_set_session(c->ssl, t->session);
    return 0;
}

static int ask(struct client *c, const struct target *t)
{
    char request[512];
    if (t->raw) {
        c->state = CLIENT_READY;
        return 0;
    }
    int len =
        snprintf(request, sizeof(request),
                 "GET /derp HTTP/1.1\r\nHost: %s\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n", t->host);
    c->state = CLIENT_UPGRADE;
    if (client_put(c, (uint8_t *)request, (size_t)len) < 0 || client_flush(c) < 0)
        return fail(c, "request");
    return 0;
}

static int on_connected(struct client *c, const struct target *t)
{
    int err = 0;
    socklen_t len = sizeof(err);
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 || err)
        return fail(c, strerror(err));
    if (!t->tls)
        return ask(c, t);
    c->state = CLIENT_HANDSHAKE;
    return make_ssl(c, t);
}

static int handshake(struct client *c, const struct target *t)
{
    ssize_t n = recv(c->fd, in_buf, sizeof(in_buf), 0);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        return fail(c, "closed in the TLS handshake");
    c->in = in_buf;
    c->in_len = n > 0 ? (size_t)n : 0;
    int r = SSL_do_handshake(c->ssl);
    int err = SSL_get_error(c->ssl, r);
    if (client_flush(c) < 0 || (r != 1 && err != SSL_ERROR_WANT_READ))
        return fail(c, "TLS handshake");
    if (r != 1)
        return 0;
    c->resumed = SSL_session_reused(c->ssl);
    if (decrypt(c, 0) != 0)
        return fail(c, "after the TLS handshake");
    return ask(c, t);
}

/* The answer to the upgrade has come, or a part; a frame may stand behind it. */
static int on_answer(struct client *c)
{
    struct http1_head head;
    ssize_t n = read_plain(c);
    if (n < 0)
        return fail(c, "closed after the request");
    int len = http1_parse_response(&head, (char *)plain_buf, (size_t)n);
    if (len < 0 || (len > 0 && head.status != 101))
        return fail(c, "no upgrade to DERP");
    if (keep_rest(c, plain_buf + len, (size_t)(n - len)) < 0)
        return fail(c, "no memory");
    if (len > 0)
        c->state = CLIENT_WANT_KEY;
    return 0;
}

static void on_login_frame(void *ctx, struct client *c, const struct frame *f)
{
    struct derp_key server;
    uint8_t out[HELLO_FRAME_MAX];
    int version;
    (void)ctx;
    if (c->state == CLIENT_WANT_KEY && f->type == FRAME_SERVER_KEY &&
        hello_parse_server_key(f->body, f->len, &server) == 0) {
        size_t n = hello_client_info(out, &c->key, &server, false, &c->shared);
        if (n > 0 && client_put(c, out, n) == 0 && client_flush(c) == 0)
            c->state = CLIENT_WANT_INFO;
    } else if (c->state == CLIENT_WANT_INFO && f->type == FRAME_SERVER_INFO &&
               hello_open_server_info(f->body, f->len, &c->shared, &version) == 0) {
        c->state = CLIENT_READY;
    }
}

/* One step, now that the socket can be read or written. */
static int step(struct client *c, const struct target *t)
{
    switch (c->state) {
    case CLIENT_CONNECTING:
        return on_connected(c, t);
    case CLIENT_HANDSHAKE:
        return handshake(c, t);
    case CLIENT_UPGRADE:
        return on_answer(c);
    default:
        return client_read(c, on_login_frame, NULL) < 0 ? fail(c, "closed at login") : 0;
    }
}

int client_begin(struct client *c, const struct target *t, uint32_t source)
{
    key_pair_generate(&c->key);
    c->state = CLIENT_CONNECTING;
    return connect_tcp(c, t, source);
}

int client_advance(struct client *c, const struct target *t)
{
    enum client_state before;
    if (client_flush(c) < 0)
        return fail(c, "closed at login");
    do { /* again while something has changed: what waits inside us brings no event */
        before = c->state;
        if (step(c, t) < 0)
            return -1;
    } while (c->state != before && c->state != CLIENT_READY);
    return c->state == CLIENT_READY;
}

bool client_wants_write(const struct client *c)
{
    return c->state == CLIENT_CONNECTING || client_waiting(c) > 0;
}

int client_login(struct client *c, const struct target *t)
{
    int done = client_begin(c, t, 0);
    while (done == 0) {
        struct pollfd p = {.fd = c->fd, .events = client_wants_write(c) ? POLLIN | POLLOUT : POLLIN};
        if (poll(&p, 1, LOGIN_LIMIT_MS) <= 0)
            done = fail(c, "no answer");
        else
            done = client_advance(c, t);
    }
    if (done < 0)
        fprintf(stderr, "load: login: %s\n", c->why);
    return done < 0 ? -1 : 0;
}

void client_close(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    if (c->ssl)
        SSL_set_shutdown(c->ssl,
                         SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN); /* else its ticket counts as broken */
    SSL_free(c->ssl);
    c->ssl = NULL;
    c->state = CLIENT_CLOSED;
    free(c->out);
    free(c->carry);
    c->out = c->carry = NULL;
    c->out_off = c->out_len = c->out_cap = c->carry_len = 0;
    key_pair_wipe(&c->key);
}
