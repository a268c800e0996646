/* The heap of those that are read later: see resume.h.
 *
 * Happy path: resume_at stops the reading and the timer, set to the first in the heap, starts it again.
 * Fails only where the heap cannot grow; then the connection is not stopped. */
#include "node/resume.h"

#include <stdlib.h>

#include "node/conn.h"

static void put(struct resumes *r, uint32_t i, struct conn *c)
{
    r->at[i] = c;
    c->resume.slot = i;
}

/* Finds c its place, upwards or downwards from i. */
static void sift(struct resumes *r, uint32_t i, struct conn *c)
{
    while (i > 0 && c->resume.at < r->at[(i - 1) / 2]->resume.at) {
        put(r, i, r->at[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child + 1 < r->n && r->at[child + 1]->resume.at < r->at[child]->resume.at)
            child++;
        if (child >= r->n || r->at[child]->resume.at >= c->resume.at)
            break;
        put(r, i, r->at[child]);
        i = child;
    }
    put(r, i, c);
}

static int grow(struct resumes *r)
{
    uint32_t cap = r->cap ? r->cap * 2 : 64;
    struct conn **at = realloc(r->at, cap * sizeof(struct conn *));
    if (!at)
        return -1;
    r->at = at;
    r->cap = cap;
    return 0;
}

void resume_forget(struct resumes *r, struct conn *c)
{
    if (!c->resume.on)
        return;
    c->resume.on = false;
    struct conn *last = r->at[--r->n];
    if (last != c)
        sift(r, c->resume.slot, last);
}

void resume_now(struct resumes *r, struct conn *c)
{
    if (!c->resume.on)
        return;
    resume_forget(r, c);
    stream_resume(&c->stream);
}

static void on_due(uv_timer_t *t)
{
    struct resumes *r = t->data;
    uint64_t now = uv_now(t->loop);
    while (r->n > 0 && r->at[0]->resume.at <= now)
        resume_now(r, r->at[0]);
    if (r->n > 0)
        uv_timer_start(t, on_due, r->at[0]->resume.at - now, 0);
}

void resumes_init(struct resumes *r, uv_loop_t *loop)
{
    r->at = NULL;
    r->n = r->cap = 0;
    uv_timer_init(loop, &r->timer);
    r->timer.data = r;
}

void resumes_stop(struct resumes *r)
{
    uv_close((uv_handle_t *)&r->timer, NULL);
}

void resumes_deinit(struct resumes *r)
{
    free(r->at);
    r->at = NULL;
    r->n = r->cap = 0;
}

int resume_at(struct resumes *r, struct conn *c, uint64_t ms)
{
    if (c->stream.closing || (c->resume.on && ms <= c->resume.at))
        return 0;
    if (!c->resume.on) {
        if (r->n == r->cap && grow(r) < 0)
            return -1;
        stream_pause(&c->stream);
        c->resume.slot = r->n++;
    }
    c->resume.on = true;
    c->resume.at = ms;
    sift(r, c->resume.slot, c);
    if (r->at[0] == c) {
        uint64_t now = uv_now(r->timer.loop);
        uv_timer_start(&r->timer, on_due, ms > now ? ms - now : 0, 0);
    }
    return 0;
}
