/* Newcomers take turns: what a login costs (a TLS handshake is worth a hundred packets) must not hold up those who are in.
 *
 * Happy path: a connection that is not logged in yet is read at once, as long as such reads have not filled TURN_NS of this
 * turn of the loop and nobody waits.  Else it joins the end of the line, unwatched, and each turn calls the first few.
 * docs/performance.md has what it is worth when thousands come at once. */
#include "node/stream_parts.h"

enum { TURN_NS = 500000, CALLED_A_TURN = 2 };

bool stream_turn_over(const struct stream_io *io)
{
    return io->newcomers_ns >= TURN_NS;
}

bool stream_turn_is_mine(const struct stream *s)
{
    return !s->newcomer || s->called || (!s->io->line && !stream_turn_over(s->io));
}

void stream_turn_wait(struct stream *s)
{
    struct stream_io *io = s->io;
    uv_read_stop((uv_stream_t *)&s->tcp);
    if (s->in_line)
        return;
    s->in_line = true;
    s->line_next = NULL;
    s->line_prev = io->line_end;
    *(io->line_end ? &io->line_end->line_next : &io->line) = s;
    io->line_end = s;
    stats_add(io->stats, STAT_LOGIN_TURNS, 1);
}

void stream_turn_leave(struct stream *s)
{
    struct stream_io *io = s->io;
    if (!s->in_line)
        return;
    *(s->line_prev ? &s->line_prev->line_next : &io->line) = s->line_next;
    *(s->line_next ? &s->line_next->line_prev : &io->line_end) = s->line_prev;
    s->line_prev = s->line_next = NULL;
    s->in_line = false;
}

void stream_turn_begin(struct stream_io *io)
{
    io->newcomers_ns = 0;
    for (int i = 0; i < CALLED_A_TURN && io->line;) {
        struct stream *s = io->line;
        stream_turn_leave(s);
        if (s->paused) /* it is not the line that it waits for */
            continue;
        s->called = true;
        stream_start_reading(s);
        i++;
    }
    if (io->newcomers)
        io->newcomers(io);
}
