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
#include "proto/key.h"

/* Where to dial and how. */
struct target {
    struct sockaddr_in addr;
    const char *host; /* SNI and Host */
    SSL_CTX *tls;     /* NULL: plain */
    BIO_METHOD *bio;
};

struct client {
    int fd; /* -1: closed */
    SSL *ssl;
    struct key_pair key;
    struct client *peer; /* the other end of the pair */
    bool logged_in, sends;
    uint64_t rests_until; /* 0: reads as fast as it can */
    uint64_t seq;         /* sender: next to send; receiver: next expected */
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

/* Connects and logs in with a fresh key, waiting for each step; then the socket is set not to block.
 * 0, or -1 with a line on standard error. */
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
