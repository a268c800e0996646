/* The way out of a stream: from the queue over records to the socket.
 *
 * Happy path: a frame is queued and the stream listed; at the end of the turn stream_flush fills the loop's write buffer with
 * records of up to 16 KiB, batch after batch, until the queue is empty or the socket takes no more.  A batch that is complete
 * before leaves at once.
 * Fails: what does not fit the queue is lost and counted; a failing write ends the stream. */
#include "node/reserve.h"
#include "node/stream_parts.h"

#include <stdlib.h>
#include <string.h>

#include "proto/frame.h"
#include "proto/wire.h"

enum { STALL_KEEP_MS = 1000 };

/* Ciphertext that the socket did not take at once. */
struct pending_write {
    uv_write_t req;
    struct stream *stream;
    uint32_t len;
    char data[];
};

static bool over_budget(const struct stream *s)
{
    return s->io->pool.held > s->io->budget;
}

/* tight: the queue was kept short because the budget was used up. */
static void loss_count(struct stream *s, const struct sendq_loss *loss, bool tight)
{
    if (loss->full)
        stats_add(s->io->stats, tight ? STAT_DROP_BUDGET : STAT_DROP_QUEUE_FULL, loss->full);
    if (loss->old)
        stats_add(s->io->stats, STAT_DROP_QUEUE_OLD, loss->old);
    if (loss->no_memory)
        stats_add(s->io->stats, STAT_DROP_NO_MEMORY, loss->no_memory);
}

void stream_flush_never(struct stream *s)
{
    if (!s->in_flush_list)
        return;
    for (struct stream **at = &s->io->flush; *at; at = &(*at)->next_flush) {
        if (*at == s) {
            *at = s->next_flush;
            break;
        }
    }
    s->in_flush_list = false;
}

void stream_flush_later(struct stream *s)
{
    if (s->in_flush_list || s->closing)
        return;
    s->in_flush_list = true;
    s->next_flush = s->io->flush;
    s->io->flush = s;
}

static bool has_output(const struct stream *s)
{
    return s->q.bytes > 0 || (s->ws && stream_ws_waits(s));
}

static void on_written(uv_write_t *req, int status)
{
    struct pending_write *w = (struct pending_write *)req;
    struct stream *s = w->stream;
    s->in_flight -= w->len;
    if (status == 0) {
        s->progress = uv_now(s->io->loop);
        if (has_output(s) || s->end_after_flush)
            stream_flush_later(s);
    } else if (!s->closing) {
        stream_end_with(s, STREAM_END_RESET, uv_strerror(status));
    }
    reserve_free(w);
}

/* Hands the loop's write buffer to the socket; what it does not take waits in a copy. */
void stream_write_out(struct stream *s)
{
    struct stream_io *io = s->io;
    size_t len = io->write_len, done = 0;
    io->write_len = 0;
    if (len == 0 || s->closing)
        return;
    s->bytes_out += len;
    stats_add(io->stats, STAT_BYTES_OUT, len);
    if (s->in_flight == 0) {
        uv_buf_t b = uv_buf_init((char *)io->write_buf, (unsigned)len);
        int n = uv_try_write((uv_stream_t *)&s->tcp, &b, 1);
        if (n < 0 && n != UV_EAGAIN) {
            stream_end_with(s, STREAM_END_RESET, uv_strerror(n));
            return;
        }
        done = n > 0 ? (size_t)n : 0;
        if (done > 0)
            s->progress = uv_now(io->loop);
        if (done == len)
            return;
    }
    struct pending_write *w = reserve_malloc(sizeof(*w) + len - done);
    if (!w) {
        stream_end_with(s, STREAM_END_MEMORY, "no memory");
        return;
    }
    w->stream = s;
    w->len = (uint32_t)(len - done);
    memcpy(w->data, io->write_buf + done, w->len);
    uv_buf_t b = uv_buf_init(w->data, w->len);
    int err = uv_write(&w->req, (uv_stream_t *)&s->tcp, &b, 1, on_written);
    if (err) {
        reserve_free(w);
        stream_end_with(s, STREAM_END_RESET, uv_strerror(err));
        return;
    }
    s->in_flight += w->len;
}

/* How much of p[n] makes the next record: on a slow path so many whole frames as fit record_max, at least one. */
static size_t record_len(const struct stream *s, const uint8_t *p, size_t n)
{
    size_t len = 0;
    if (n <= s->record_max)
        return n;
    while (s->record_max < CHUNK_RECORD && n - len > FRAME_HEADER_LEN) {
        size_t size = FRAME_HEADER_LEN + (size_t)wire_get32(p + len + 1);
        if (size > n - len || (len > 0 && len + size > s->record_max))
            break;
        len += size;
    }
    if (len == 0) /* a large frame, or what is left of one: any cut will do */
        len = n;
    return len < CHUNK_RECORD ? len : CHUNK_RECORD;
}

/* One record's worth of plaintext from the queue: a chunk in place, or small chunks gathered. */
static const uint8_t *next_record(struct stream *s, size_t *len, uint32_t *packets, struct sendq_loss *loss)
{
    struct stream_io *io = s->io;
    uint64_t now = uv_now(io->loop);
    size_t n;
    const uint8_t *p = sendq_next(&s->q, &io->pool, now, &n, loss);
    if (!p)
        return NULL;
    *packets = 0;
    if (n >= s->record_max / 2 || n == s->q.bytes) {
        *len = record_len(s, p, n);
        return p;
    }
    size_t have = 0;
    while (p && have + n <= s->record_max) {
        memcpy(io->gather_buf + have, p, n);
        have += n;
        *packets += sendq_took(&s->q, &io->pool, n);
        p = sendq_next(&s->q, &io->pool, now, &n, loss);
    }
    *len = have;
    return io->gather_buf;
}

/* Adds p[len] to the write buffer, a record if there is TLS.  0, or -1 if the stream ended. */
static int put_record(struct stream *s, const uint8_t *p, size_t len)
{
    struct stream_io *io = s->io;
    size_t wrote;
    if (!s->ssl) {
        memcpy(io->write_buf + io->write_len, p, len);
        io->write_len += len;
    } else if (SSL_write_ex(s->ssl, p, len, &wrote) != 1) {
        stream_end_tls(s, "TLS write");
        return -1;
    }
    return 0;
}

/* Fills the write buffer with a batch.  0, or -1 if the stream ended. */
static int fill_batch(struct stream *s, struct sendq_loss *loss)
{
    struct stream_io *io = s->io;
    uint32_t packets, total = 0;
    size_t len;
    const uint8_t *p;
    io->write_len = 0;
    while (io->write_len < s->batch_max &&
           (p = s->ws ? stream_ws_record(s, &len, &packets, loss) : next_record(s, &len, &packets, loss))) {
        if (put_record(s, p, len) < 0)
            return -1;
        if (p != io->gather_buf && !s->ws)
            packets += sendq_took(&s->q, &io->pool, len);
        total += packets;
    }
    stats_add(io->stats, (enum stat_id)s->count_out, total);
    return 0;
}

static void write_queue(struct stream *s)
{
    struct sendq_loss loss = {0};
    if (s->q.bytes > CHUNK_SMALL)
        stream_path_look(s);
    while (s->open && !s->closing && s->in_flight == 0 && has_output(s)) {
        if (fill_batch(s, &loss) < 0 || s->io->write_len == 0)
            break;
        stream_write_out(s);
    }
    loss_count(s, &loss, false);
}

void stream_flush(struct stream *s)
{
    write_queue(s);
    if (s->awaited && s->q.bytes < STREAM_RELIEVED) {
        s->awaited = false;
        if (s->io->relieved)
            s->io->relieved(s);
    }
    if (s->end_after_flush && s->in_flight == 0 && s->q.bytes == 0)
        stream_end_with(s, STREAM_END_LOCAL, s->detail);
}

/* Something was queued: it leaves at the end of this turn, or now if it is a batch.  Now is cheaper, while it is in the
 * core's cache; and a turn may bring more than any queue holds. */
static void queued(struct stream *s)
{
    stream_flush_later(s);
    if (s->q.bytes >= STREAM_BATCH && s->in_flight == 0)
        write_queue(s);
}

/* How many bytes the queue may hold now: more for a receiver that keeps taking, less when the loop's budget is used up. */
static uint32_t queue_limit(struct stream *s)
{
    if (over_budget(s))
        return SENDQ_LIMIT / 4;
    uint64_t now = uv_now(s->io->loop);
    if (s->q.bytes == 0)
        s->progress = now;
    return now - s->progress < STALL_KEEP_MS ? SENDQ_LIMIT_MOVING : SENDQ_LIMIT;
}

void stream_send(struct stream *s, enum sendq_class cls, uint64_t sender, const uint8_t *run, size_t len)
{
    struct sendq_loss loss = {0};
    bool tight = over_budget(s);
    if (s->closing)
        return;
    sendq_push(&s->q, &s->io->pool, cls, sender, run, len, queue_limit(s), uv_now(s->io->loop), &loss);
    loss_count(s, &loss, tight);
    queued(s);
}

void stream_send2(struct stream *s, enum sendq_class cls, uint64_t sender, const uint8_t *head,
                  size_t head_len, const uint8_t *body, size_t body_len)
{
    struct sendq_loss loss = {0};
    bool tight = over_budget(s);
    if (s->closing)
        return;
    sendq_push2(&s->q, &s->io->pool, cls, sender, head, head_len, body, body_len, queue_limit(s),
                uv_now(s->io->loop), &loss);
    loss_count(s, &loss, tight);
    queued(s);
}

void stream_send_raw(struct stream *s, const void *bytes, size_t len)
{
    if (s->closing)
        return;
    if (s->q.bytes == 0)
        s->progress = uv_now(s->io->loop);
    if (sendq_push_raw(&s->q, &s->io->pool, bytes, len, uv_now(s->io->loop)) < 0)
        stream_end_with(s, STREAM_END_MEMORY, "no memory");
    else
        stream_flush_later(s);
}

bool stream_congested(const struct stream *s)
{
    return s->q.bytes > STREAM_CONGESTED;
}

void stream_finish(struct stream *s)
{
    s->end_after_flush = true;
    stream_flush_later(s);
}

void stream_finish_urgent(struct stream *s)
{
    s->no_data = true;
    stats_add(s->io->stats, STAT_DROP_GONE, sendq_clear_data(&s->q, &s->io->pool));
    stream_finish(s);
}

uint64_t stream_stalled_ms(const struct stream *s)
{
    if (s->q.bytes == 0 && s->in_flight == 0)
        return 0;
    uint64_t now = uv_now(s->io->loop);
    return now > s->progress ? now - s->progress : 0;
}
