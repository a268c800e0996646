/* See herd.h.
 *
 * Happy path of a herd: all connect, then each is carried on as its socket allows, until it is in.
 * Fails: a login that is refused begins anew at once, RETRIES times; then it is counted (failed). */
#include "herd.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum {
    WARM_UP_LOGINS = 20,
    SOURCES = 250,
    SOURCE_FIRST = 0x7f000101,
    RETRIES = 50,
    EVENTS = 64,
    LIMIT_S = 120
};

struct herd {
    struct client *client;
    int n, in, failed, resumed;
    uint64_t begun, last, longest; /* ns; last: since begun; longest: of one client, from its first attempt */
};

/* ---- all at once ---- */

static void begin(struct herd *h, struct load *l, struct client *c)
{
    uint32_t source = SOURCE_FIRST + (uint32_t)(c - h->client) % SOURCES;
    uint64_t begun = c->begun, tries = c->seq;
    *c = (struct client){.fd = -1, .begun = begun ? begun : now_ns(), .seq = tries + 1};
    if (client_begin(c, &l->target, source) < 0) {
        h->failed++;
        client_close(c);
        return;
    }
    load_watch(l, c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

static void is_in(struct herd *h, struct load *l, struct client *c)
{
    uint64_t now = now_ns();
    h->in++;
    h->resumed += c->resumed;
    h->last = now - h->begun;
    h->longest = now - c->begun > h->longest ? now - c->begun : h->longest;
    load_watch(l, c, EPOLL_CTL_DEL, 0);
}

static void on_event(struct herd *h, struct load *l, struct client *c)
{
    int r = client_advance(c, &l->target);
    if (r == 1) {
        is_in(h, l, c);
    } else if (r == 0) {
        load_watch(l, c, EPOLL_CTL_MOD, client_wants_write(c) ? EPOLLIN | EPOLLOUT : EPOLLIN);
    } else {
        uint64_t tries = c->seq, begun = c->begun;
        client_close(c);
        c->seq = tries;
        c->begun = begun;
        if (tries < RETRIES)
            begin(h, l, c);
        else
            h->failed++;
    }
}

static void print_herd(const struct herd *h)
{
    printf("herd=%d in=%d failed=%d resumed=%d seconds=%.2f longest_s=%.2f\n", h->n, h->in, h->failed,
           h->resumed, (double)h->last / 1e9, (double)h->longest / 1e9);
}

int herd_run(struct load *l)
{
    struct herd h = {.n = l->o.herd, .begun = now_ns()};
    struct epoll_event ev[EVENTS];
    h.client = calloc((size_t)h.n, sizeof(*h.client));
    if (!h.client)
        return 1;
    for (int i = 0; i < h.n; i++)
        begin(&h, l, &h.client[i]);
    while (h.in + h.failed < h.n && now_ns() < h.begun + LIMIT_S * second_ns) {
        int n = epoll_wait(l->epoll, ev, EVENTS, 1000);
        for (int i = 0; i < n; i++)
            on_event(&h, l, ev[i].data.ptr);
    }
    print_herd(&h);
    for (int i = 0; i < h.n; i++)
        client_close(&h.client[i]);
    free(h.client);
    return 0;
}

/* ---- those that stay ---- */

static void settle(double seconds)
{
    struct timespec t = {.tv_sec = (time_t)seconds,
                         .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

/* All idle clients send to each other, until each has sent and got so much. */
static void burst(struct load *l, const struct mark *empty)
{
    uint64_t want = (uint64_t)(l->o.burst_mb * 1e6) * (uint64_t)l->group[0].n;
    traffic_start(l);
    while (l->group[0].bytes < want && l->closed == 0)
        traffic_until(l, now_ns() + second_ns / 10);
    struct mark busy = mark_now(l);
    traffic_drain(l);
    printf(" burst_mb=%.0f burst_rss_kb_per_client=%.1f", l->o.burst_mb,
           (double)(busy.use.rss_kb - empty->use.rss_kb) / l->o.idle);
    settle(10);
    struct mark after = mark_now(l);
    printf(" after_rss_kb_per_client=%.1f wrong=%llu closed=%llu",
           (double)(after.use.rss_kb - empty->use.rss_kb) / l->o.idle, (unsigned long long)l->wrong,
           (unsigned long long)l->closed);
}

int idle_run(struct load *l)
{
    int first = 2 * l->group[0].n;
    if (load_log_in(l, first, first + WARM_UP_LOGINS) < 0)
        return 1;
    settle(1);
    struct mark a = mark_now(l);
    if (load_log_in(l, 0, first) < 0)
        return 1;
    struct mark b = mark_now(l);
    settle(1);
    struct mark in = mark_now(l);
    int resumed = 0;
    for (int i = 0; i < first; i++)
        resumed += l->client[i].resumed;
    printf("idle=%d resumed=%d logins_per_s=%.0f cpu_us_per_login=%.0f rss_kb=%ld rss_kb_per_client=%.1f "
           "sockets_kb_per_client=%.1f",
           l->o.idle, resumed, l->o.idle / ((double)(b.time - a.time) / 1e9),
           (b.use.cpu_s - a.use.cpu_s) * 1e6 / l->o.idle, in.use.rss_kb,
           (double)(in.use.rss_kb - a.use.rss_kb) / l->o.idle,
           (double)(in.use.sockets_kb - a.use.sockets_kb) / l->o.idle);
    if (l->o.watch > 0) {
        settle(l->o.watch);
        struct mark later = mark_now(l);
        printf(" idle_cpu_pct=%.3f",
               (later.use.cpu_s - in.use.cpu_s) / ((double)(later.time - in.time) / 1e9) * 100);
    }
    if (l->o.burst_mb > 0)
        burst(l, &a);
    printf("\n");
    return 0;
}
