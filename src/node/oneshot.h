/* A small server of one question and one answer a connection: the admin socket and the metrics port.
 *
 * Happy path: accept → bytes are shown to request() until it has a whole question → oneshot_answer → close.
 * Bounded: ONESHOT_CONNS connections, ONESHOT_MS to ask, size of a question by ops.  Over a bound: closed.
 * Owner: who embeds it.  Thread: its loop.  Dies: after oneshot_stop, when the loop has closed all. */
#ifndef DERPMESH_NODE_ONESHOT_H
#define DERPMESH_NODE_ONESHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

enum { ONESHOT_CONNS = 32, ONESHOT_MS = 5000 };

struct oneshot_conn;

struct oneshot_ops {
    size_t max_request;
    /* Bytes so far.  0: more is needed; 1: understood, oneshot_answer has been or will be called; -1: close. */
    int (*request)(void *ctx, struct oneshot_conn *conn, const char *buf, size_t n);
};

struct oneshot {
    union {
        uv_stream_t stream;
        uv_pipe_t pipe;
        uv_tcp_t tcp;
    } listener;
    const struct oneshot_ops *ops;
    void *ctx;
    struct oneshot_conn *conns;
    unsigned n_conns;
    bool is_pipe, on;
};

/* 0 or a libuv error.  After an error there is nothing to stop, but the loop must turn before s goes. */
int oneshot_listen_tcp(struct oneshot *s, uv_loop_t *loop, const struct sockaddr *addr,
                       const struct oneshot_ops *ops, void *ctx);
int oneshot_listen_pipe(struct oneshot *s, uv_loop_t *loop, const char *path, const struct oneshot_ops *ops,
                        void *ctx);
/* Idempotent.  Connections whose question is still being answered wait for it. */
void oneshot_stop(struct oneshot *s);

/* text[len] is malloc'd and belongs to the connection from now on; NULL closes without an answer. */
void oneshot_answer(struct oneshot_conn *conn, char *text, size_t len);

#endif
