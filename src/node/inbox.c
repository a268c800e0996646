/* A list of messages that many threads push to and one takes away whole.
 *
 * Happy path: inbox_post links a message in front and wakes the owner's loop if the list was empty; the
 * owner takes the whole list at once, turns it round (so that each sender's order holds) and handles one
 * message after the other.
 * Failure: posting cannot fail.  A stopped inbox still takes messages; they are freed unread.  The sentinel
 * that stands in a stopped inbox keeps it from ever looking empty, so nobody touches its closed wake-up
 * handle. */
#include "node/inbox.h"

#include <sched.h>
#include <stdlib.h>

#include "node/reserve.h"
#include "node/site.h"

static struct inbox_msg *sentinel(struct inbox *in)
{
    return (struct inbox_msg *)(void *)in; /* an address that no message has; never read through */
}

static void on_wake(uv_async_t *async)
{
    inbox_drain((struct inbox *)async->data);
}

int inbox_init(struct inbox *in, uv_loop_t *loop, void (*handle)(void *, struct inbox_msg *), void *ctx)
{
    atomic_init(&in->head, NULL);
    atomic_init(&in->senders, 0);
    atomic_init(&in->data_bytes, 0);
    in->taken = in->taken_last = NULL;
    in->stopped = false;
    in->handle = handle;
    in->ctx = ctx;
    in->async.data = in;
    return uv_async_init(loop, &in->async, on_wake);
}

/* Moves what has come since the last time behind what was taken before, oldest first. */
static void take_all(struct inbox *in)
{
    struct inbox_msg *end = sentinel(in);
    struct inbox_msg *m = atomic_exchange(&in->head, in->stopped ? end : NULL);
    struct inbox_msg *first = NULL, *newest = m;
    while (m && m != end) {
        struct inbox_msg *next = m->next;
        m->next = first;
        first = m;
        m = next;
    }
    if (!first)
        return;
    if (in->taken)
        in->taken_last->next = first;
    else
        in->taken = first;
    in->taken_last = newest;
}

static struct inbox_msg *pop(struct inbox *in)
{
    struct inbox_msg *m = in->taken;
    if (m)
        in->taken = m->next;
    return m;
}

static void msg_free(struct inbox *in, struct inbox_msg *m)
{
    if (m->type == IN_DATA)
        atomic_fetch_sub_explicit(&in->data_bytes, m->len, memory_order_relaxed);
    site_unref(m->site);
    reserve_free(m);
}

void inbox_drain(struct inbox *in)
{
    struct inbox_msg *m;
    take_all(in);
    while ((m = pop(in)) != NULL) {
        in->handle(in->ctx, m);
        msg_free(in, m);
    }
}

void inbox_stop(struct inbox *in)
{
    if (in->stopped)
        return;
    in->stopped = true;
    take_all(in); /* puts the sentinel in */
    while (atomic_load(&in->senders) != 0)
        sched_yield(); /* a sender that found the list empty is about to wake us */
    uv_close((uv_handle_t *)&in->async, NULL);
}

void inbox_deinit(struct inbox *in)
{
    struct inbox_msg *m;
    take_all(in);
    while ((m = pop(in)) != NULL)
        msg_free(in, m);
}

struct inbox_msg *inbox_msg_new(enum inbox_type type, size_t len)
{
    struct inbox_msg *m = reserve_malloc(sizeof(*m) + len);
    if (!m)
        return NULL;
    *m = (struct inbox_msg){.type = type, .node = NODE_NONE, .len = len};
    return m;
}

void inbox_post(struct inbox *in, struct inbox_msg *m)
{
    if (m->type == IN_DATA)
        atomic_fetch_add_explicit(&in->data_bytes, m->len, memory_order_relaxed);
    /* Sequentially consistent with the exchange in inbox_stop: either we see the sentinel, or it sees us. */
    atomic_fetch_add(&in->senders, 1);
    struct inbox_msg *old = atomic_load_explicit(&in->head, memory_order_relaxed);
    do
        m->next = old;
    while (!atomic_compare_exchange_weak(&in->head, &old, m));
    if (!old)
        uv_async_send(&in->async);
    atomic_fetch_sub_explicit(&in->senders, 1, memory_order_release);
}
