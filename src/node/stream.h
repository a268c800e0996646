/* One TCP connection with or without TLS: bytes in, frames out.
 *
 * Reading: libuv reads into the loop's one big buffer, OpenSSL decrypts from there through a BIO into one contiguous
 * plaintext buffer (after what the owner left of the last read), and the owner's input() walks it in place.
 * Writing: frames wait as plaintext in the sendq; at the end of the loop's turn (uv_prepare) each stream that was touched
 * makes records of up to 16 KiB and writes once; before that, when a batch is complete.  On a slow path records, batches and
 * what the kernel holds are smaller, so that a small packet does not wait behind a large one.
 *
 *   IDLE → CONNECTING (dialled) ┐
 *        → accepted             ┴→ HANDSHAKE (TLS) → OPEN → CLOSING → closed()
 *
 * Owner: the struct that embeds it.  Thread: its loop.  Dies: after ops->closed, never before.
 * Every failure ends in exactly one call of ops->closed. */
#ifndef DERPMESH_NODE_STREAM_H
#define DERPMESH_NODE_STREAM_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "node/buf.h"
#include "node/sendq.h"
#include "node/stats.h"

struct stream;
struct stream_ws; /* stream_parts.h */

enum {
    STREAM_READ_SIZE = 256 << 10,
    STREAM_SMALL_READ = 16 << 10,
    STREAM_PLAIN_SIZE = (256 << 10) + CHUNK_LARGE + CHUNK_RECORD,
    STREAM_NO_PRELUDE = 1 << 30,
    STREAM_BATCH = 128 << 10,         /* bytes made to ciphertext before a write, on a fast path */
    STREAM_NOTSENT_LOWAT = 128 << 10, /* what the kernel holds unsent, on a fast path */
    STREAM_CONGESTED = 192 << 10,     /* in the queue: its senders had better wait until it is flushed */
    STREAM_RELIEVED = 64 << 10        /* drained so far that more may come */
};

/* What all streams of one loop share.  Owner: the thread that runs the loop. */
struct stream_io {
    uv_loop_t *loop;
    struct stats *stats;
    struct buf_pool pool;
    uint8_t *read_buf;   /* ciphertext in */
    uint8_t *plain_buf;  /* plaintext in */
    uint8_t *gather_buf; /* plaintext out: small chunks that become one record */
    uint8_t *write_buf;  /* ciphertext out */
    size_t write_len, write_cap;
    const uint8_t *bio_in;
    size_t bio_in_len;
    uint64_t turn;                      /* of the loop: a stream is read a few times in each */
    struct stream *flush;               /* touched in this turn */
    void (*relieved)(struct stream *s); /* the queue of a stream that was awaited has drained; may be NULL */
    void (*newcomers)(struct stream_io *io); /* a turn begins: newcomers may be accepted again; may be NULL */
    struct stream *line, *line_end;          /* newcomers that wait to be read, first come first */
    uint64_t newcomers_ns;                   /* what newcomers took of this turn */
    size_t budget; /* bytes of chunks that the queues of this loop may hold together */
    size_t freed;  /* by stream_io_tidy, since the allocator last gave memory back */
    uv_prepare_t prepare;
    BIO_METHOD *bio_method;
};
int stream_io_init(struct stream_io *io, uv_loop_t *loop, struct stats *stats,
                   size_t budget); /* 0 or libuv error */
void stream_io_stop(
    struct stream_io *io); /* closes the prepare handle; run the loop once more, then deinit */
void stream_io_deinit(struct stream_io *io);
/* Gives memory back that a burst needed; to be called a few times a second. */
void stream_io_tidy(struct stream_io *io);

enum stream_end {
    STREAM_END_LOCAL,   /* stream_close */
    STREAM_END_EOF,     /* the other side closed */
    STREAM_END_RESET,   /* read or write error */
    STREAM_END_CONNECT, /* could not connect */
    STREAM_END_TLS,     /* handshake or record failure: detail says which */
    STREAM_END_WS,      /* WebSocket framing broken: detail says how */
    STREAM_END_MEMORY
};

struct stream_ops {
    /* Plaintext stands at buf[n] and may be changed in place.  Returns how many bytes are done with; the rest is shown
     * again with more after it.  A negative return says that the owner has closed the stream. */
    ssize_t (*input)(struct stream *s, uint8_t *buf, size_t n);
    /* With stream.prelude: bytes before everything else, TLS too, stand at buf[n], shown from the first until it returns
     * how many there are, or STREAM_NO_PRELUDE: they are none.  0: needs more.  Negative: the owner has closed the stream. */
    ssize_t (*prelude)(struct stream *s, const uint8_t *buf, size_t n);
    /* Connected (and the TLS handshake done).  May be NULL. */
    void (*open)(struct stream *s);
    /* The socket is closed, nothing refers to s any more: free it. */
    void (*closed)(struct stream *s, enum stream_end end, const char *detail);
};

struct stream {
    uv_tcp_t tcp; /* data points back to the stream */
    struct stream_io *io;
    const struct stream_ops *ops;
    SSL *ssl;     /* NULL: plain */
    SSL_CTX *ctx; /* server: SSL is made of it at the first byte, so that a silent connection costs nothing */
    struct stream_ws *ws; /* NULL: no WebSocket */
    struct sendq q;
    uint8_t *carry; /* plaintext that input() left */
    uint32_t carry_len, carry_cap;
    uint32_t in_flight; /* bytes given to uv_write and not yet written */
    struct stream *next_flush;
    uint64_t read_turn;           /* of the loop, when it was read last */
    uint64_t bytes_in, bytes_out; /* on the wire */
    uint64_t progress;  /* ms: when the socket last took bytes, or the queue last became non-empty */
    uint64_t answer_at; /* ms: when to look again whether it answers */
    bool unanswered;
    uint64_t look_at;     /* ms: when to look at the path again */
    uint32_t record_max;  /* of one record: CHUNK_RECORD unless the path is slow (stream_path.c) */
    uint32_t batch_max;   /* of one write */
    uint32_t lowat;       /* of the socket */
    const char *detail;   /* why it ends: static text, or detail_buf */
    char *detail_buf;     /* heap: texts of OpenSSL */
    uint32_t read_max;    /* bytes read at a time; 0: STREAM_READ_SIZE */
    uint32_t read_next;   /* the same for the next read alone; each doubles it; 0: no limit */
    uint32_t key_updates; /* answers that OpenSSL made by itself after the handshake */
    uint8_t end;          /* enum stream_end */
    uint8_t reads;        /* in that turn */
    uint8_t paused;       /* how many times */
    uint8_t count_out;    /* enum stat_id: packets that left are counted here */
    bool is_server, open, closing, in_flush_list, end_after_flush;
    bool no_data;  /* stream_finish_urgent */
    bool awaited;  /* set by the owner: tell io->relieved */
    bool prelude;  /* set after accept: the first bytes are for ops->prelude */
    bool held;     /* stream_hold */
    bool newcomer; /* set by the owner, until login: read in turns (stream_turn.c) */
    bool in_line, called;
    struct stream *line_prev, *line_next;
};

/* Prepares s on a loop; then accept or connect.  ops and io outlive s. */
int stream_init(struct stream *s, struct stream_io *io, const struct stream_ops *ops); /* 0 or libuv error */
/* Takes a pending connection of a listener; ctx NULL: plain.  A reference of ctx is taken. */
int stream_accept(struct stream *s, uv_stream_t *listener, SSL_CTX *ctx);
/* Dials.  ssl NULL: plain; else a prepared client SSL, owned by s from now on, also on failure. */
int stream_connect(struct stream *s, const struct sockaddr *addr, SSL *ssl);

/* Queue frames; they leave at the end of this turn, or now if they are a batch. */
void stream_send(struct stream *s, enum sendq_class cls, uint64_t sender, const uint8_t *run, size_t len);
void stream_send2(struct stream *s, enum sendq_class cls, uint64_t sender, const uint8_t *head,
                  size_t head_len, const uint8_t *body, size_t body_len);
void stream_send_raw(struct stream *s, const void *bytes, size_t len);
/* True if senders should be slowed: more waits than the socket takes in a moment. */
bool stream_congested(const struct stream *s);

/* From now on plaintext is wrapped in WebSocket messages, both ways; what is queued already leaves as it is, and what input() has
 * not taken of what came is unwrapped before it is shown again.  0, or -1 without memory. */
int stream_ws_start(struct stream *s);

/* Whether newcomers have had their share of this turn: the owner accepts no more of them until io->newcomers. */
bool stream_turn_over(const struct stream_io *io);

/* Stop and go on reading: read again when there was a resume for each pause. */
void stream_pause(struct stream *s);
void stream_resume(struct stream *s);
/* From within input(): what it leaves is shown again only after stream_resume, and nothing is read until then. */
void stream_hold(struct stream *s);

/* Close now; closed() follows from the loop.  detail is static text or NULL. Idempotent. */
void stream_close(struct stream *s, const char *detail);
/* Close once all that is queued has been written. */
void stream_finish(struct stream *s);
/* The same, once what is urgent has been written: data that is queued is lost (counted), and s takes no more of it. */
void stream_finish_urgent(struct stream *s);

/* A connection between nodes: what is not acknowledged is sent again each second at the least, where the kernel can
 * (Linux 6.15), and it is the mesh that gives up, not the kernel. */
void stream_persist(struct stream *s);

/* How long the socket has taken nothing although something waits, in ms; 0 if nothing waits. */
/* The other side's TCP has not answered for a second, though there was something to acknowledge. */
bool stream_unanswered(struct stream *s);
uint64_t stream_stalled_ms(const struct stream *s);

#endif
