/* What all streams of one loop share: buffers, chunk pool, the BIO, the list of those to be flushed.
 *
 * Happy path: made once per loop; on_prepare flushes, before each poll, every stream that was touched in this turn. */
#include "node/stream_parts.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

enum { WRITE_SLACK = 64 << 10, TIDY_BYTES = 1 << 20 };

/* ---- OpenSSL reads from and writes to the loop's buffers ---- */

static int on_bio_read(BIO *b, char *out, int n)
{
    struct stream_io *io = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    if (io->bio_in_len == 0) {
        BIO_set_retry_read(b);
        return -1;
    }
    size_t k = io->bio_in_len < (size_t)n ? io->bio_in_len : (size_t)n;
    memcpy(out, io->bio_in, k);
    io->bio_in += k;
    io->bio_in_len -= k;
    return (int)k;
}

static int on_bio_write(BIO *b, const char *in, int n)
{
    struct stream_io *io = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    if (io->write_cap - io->write_len < (size_t)n)
        return -1; /* cannot happen: batches are bounded */
    memcpy(io->write_buf + io->write_len, in, (size_t)n);
    io->write_len += (size_t)n;
    return n;
}

static long on_bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
    (void)b;
    (void)num;
    (void)ptr;
    return cmd == BIO_CTRL_FLUSH || cmd == BIO_CTRL_DUP;
}

static void on_prepare(uv_prepare_t *h)
{
    struct stream_io *io = h->data;
    io->turn++;
    while (io->flush) {
        struct stream *s = io->flush;
        io->flush = s->next_flush;
        s->in_flush_list = false;
        stream_flush(s);
    }
    stream_turn_begin(io);
}

int stream_io_init(struct stream_io *io, uv_loop_t *loop, struct stats *stats, size_t budget)
{
    memset(io, 0, sizeof(*io));
    io->loop = loop;
    io->stats = stats;
    io->budget = budget;
    io->turn = 1;
    io->write_cap = STREAM_BATCH + WRITE_SLACK;
    buf_pool_init(&io->pool);
    io->read_buf = malloc(STREAM_READ_SIZE);
    io->plain_buf = malloc(STREAM_PLAIN_SIZE);
    io->gather_buf = malloc(STREAM_GATHER_SIZE);
    io->write_buf = malloc(io->write_cap);
    io->bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "derpmesh");
    if (!io->read_buf || !io->plain_buf || !io->gather_buf || !io->write_buf || !io->bio_method) {
        stream_io_deinit(io);
        return UV_ENOMEM;
    }
    BIO_meth_set_read(io->bio_method, on_bio_read);
    BIO_meth_set_write(io->bio_method, on_bio_write);
    BIO_meth_set_ctrl(io->bio_method, on_bio_ctrl);
    uv_prepare_init(loop, &io->prepare);
    io->prepare.data = io;
    uv_prepare_start(&io->prepare, on_prepare);
    uv_unref((uv_handle_t *)&io->prepare);
    return 0;
}

void stream_io_tidy(struct stream_io *io)
{
    size_t bytes = buf_pool_trim(&io->pool);
    io->freed += bytes;
    if (bytes == 0 &&
        io->freed >= TIDY_BYTES) { /* the burst is over: OpenSSL's buffers of that time are free too */
        malloc_trim(0);
        io->freed = 0;
    }
}

void stream_io_stop(struct stream_io *io)
{
    uv_close((uv_handle_t *)&io->prepare, NULL);
}

void stream_io_deinit(struct stream_io *io)
{
    buf_pool_deinit(&io->pool);
    free(io->read_buf);
    free(io->plain_buf);
    free(io->gather_buf);
    free(io->write_buf);
    BIO_meth_free(io->bio_method);
    io->read_buf = io->plain_buf = io->gather_buf = io->write_buf = NULL;
    io->bio_method = NULL;
}
