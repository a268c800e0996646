/* Senders whose receiver is full: see pause.h.
 *
 * Happy path: relay.c finds a queue full → pause_start; stream.c has written most of that queue → pause_relieve.
 * Otherwise on_tick ends the pause, and the next one may last twice as long.  Nothing here can fail. */
#include "node/pause.h"

#include "node/conn.h"

static void take_off(struct pauses *p, struct conn *c)
{
    struct pause *me = &c->pause;
    TAILQ_REMOVE(&p->level[me->level], c, pause.same_level);
    if (me->has_cause)
        LIST_REMOVE(c, pause.same_cause);
    me->on = me->has_cause = false;
}

static void end(struct pauses *p, struct conn *c, uint64_t now)
{
    take_off(p, c);
    c->pause.until = now;
    c->stream.read_next = STREAM_SMALL_READ;
    stream_resume(&c->stream);
}

static void on_tick(uv_timer_t *t)
{
    struct pauses *p = t->data;
    uint64_t now = uv_now(t->loop);
    bool any = false;
    for (int i = 0; i < PAUSE_LEVELS; i++) {
        struct conn *c;
        while ((c = TAILQ_FIRST(&p->level[i])) && c->pause.until <= now) {
            bool had_cause = c->pause.has_cause;
            end(p, c, now);
            if (had_cause && i < PAUSE_LEVELS - 1)
                c->pause.level++;
        }
        any = any || c;
    }
    if (!any)
        uv_timer_stop(t);
}

void pauses_init(struct pauses *p, uv_loop_t *loop)
{
    uv_timer_init(loop, &p->timer);
    p->timer.data = p;
    for (int i = 0; i < PAUSE_LEVELS; i++)
        TAILQ_INIT(&p->level[i]);
}

void pauses_stop(struct pauses *p)
{
    uv_close((uv_handle_t *)&p->timer, NULL);
}

bool pause_start(struct pauses *p, struct conn *c, struct conn *full)
{
    struct pause *me = &c->pause;
    if (me->on || c->stream.closing)
        return false;
    uint64_t now = uv_now(p->timer.loop);
    if (!full || now - me->until > PAUSE_FORGIVE_MS)
        me->level = 0;
    me->on = true;
    me->until = now + ((uint64_t)PAUSE_MIN_MS << me->level);
    TAILQ_INSERT_TAIL(&p->level[me->level], c, pause.same_level);
    if (full) {
        me->has_cause = true;
        LIST_INSERT_HEAD(&full->pause.waiting, c, pause.same_cause);
        full->stream.awaited = true;
    }
    stream_pause(&c->stream);
    if (!uv_is_active((uv_handle_t *)&p->timer))
        uv_timer_start(&p->timer, on_tick, 1, 1);
    return true;
}

void pause_relieve(struct pauses *p, struct conn *c)
{
    struct conn *waiter;
    while ((waiter = LIST_FIRST(&c->pause.waiting)))
        end(p, waiter, uv_now(p->timer.loop));
}

void pause_forget(struct pauses *p, struct conn *c)
{
    if (c->pause.on)
        take_off(p, c);
    pause_relieve(p, c);
}
