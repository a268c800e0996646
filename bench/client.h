/* A DERP client of the load generator: a socket, TLS over buffers of its own, the login.
 *
 * Behaves on the wire as stock clients do: TLS 1.3, one record for each frame that it sends.
 * Owner and thread: the generator's only thread.  Dies: client_close. */
#ifndef DERPMESH_BENCH_CLIENT_H
#define DERPMESH_BENCH_CLIENT_H

#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/frame.h"
#include "proto/hello.h"
#include "proto/key.h"

/* Where to dial and how. */
struct target {
    struct sockaddr_in addr;
    const char *host; /* SNI and Host */
    SSL_CTX *tls;     /* NULL: plain */
    BIO_METHOD *bio;
    SSL_SESSION *session; /* offered at login; NULL: none */
    bool raw;             /* the floor: no HTTP, no login */
};

enum client_state {
    CLIENT_CLOSED,
    CLIENT_CONNECTING,
    CLIENT_HANDSHAKE,
    CLIENT_UPGRADE,
    CLIENT_WANT_KEY,
    CLIENT_WANT_INFO,
    CLIENT_READY
};

struct client {
    int fd; /* -1: closed */
    enum client_state state;
    SSL *ssl;
    const char *why; /* a login failed */
    struct key_pair key;
    struct hello_shared shared;
    struct client *to; /* a sender's receiver; NULL: it sends nothing */
    uint32_t group;    /* of a sender: traffic.h */
    bool resumed;
    uint64_t rests_until; /* 0: reads as fast as it can */
    uint64_t begun;       /* ns: when its login began */
    uint64_t seq;         /* of a sender: next to send */
    uint64_t seq_seen;    /* of a sender: next that its receiver expects */
    const uint8_t *in;    /* ciphertext that OpenSSL has not read yet */
    size_t in_len;
    uint8_t *out; /* ciphertext that the socket has not taken yet */
    size_t out_off, out_len, out_cap;
    uint8_t *carry; /* the beginning of a frame */
    size_t carry_len;
};

/* 0, or -1 with a line on standard error. */
int target_init(struct target *t, const char *addr, const char *host, bool plain);
void target_deinit(struct target *t);

/* From now on tickets are taken, and offered at the next login. */
void target_resume(struct target *t);

/* Begins to connect and log in with a fresh key; source: IPv4 address to come from, host byte order, 0: any.  0, or -1. */
int client_begin(struct client *c, const struct target *t, uint32_t source);
/* Goes on, when the socket can be read or written.  1: logged in, 0: not yet, -1: c->why. */
int client_advance(struct client *c, const struct target *t);
/* Whether c waits for the socket to take something. */
bool client_wants_write(const struct client *c);
/* All of it, waiting for each step.  0, or -1 with a line on standard error. */
int client_login(struct client *c, const struct target *t);
void client_close(struct client *c);

/* Adds one frame to what waits for the socket: one TLS record.  0 or -1. */
int client_put(struct client *c, const uint8_t *frame, size_t len);
/* Writes what waits, as far as the socket takes it.  0, or -1 if the connection is gone. */
int client_flush(struct client *c);
size_t client_waiting(const struct client *c);

/* Called for each frame that came.  The frame is borrowed. */
typedef void client_frame_cb(void *ctx, struct client *c, const struct frame *f);
/* Reads once from the socket and shows all whole frames.  0, or -1 if the connection is gone. */
int client_read(struct client *c, client_frame_cb *on_frame, void *ctx);

#endif
