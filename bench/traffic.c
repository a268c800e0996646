/* See traffic.h.
 *
 * Happy path: traffic_start; traffic_until to warm up, then between two marks; traffic_drain.
 * Fails: a packet that should not have come is counted (wrong), a connection that ends too (closed). */
#include "traffic.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

enum {
    BATCH = 64 << 10, /* ciphertext made before a send(), when flat out */
    EVENTS = 64,
    PAYLOAD_SEQ =
        0, /* offsets in the payload: number, time in ns, sender's index; the number inverted at the end */
    PAYLOAD_TIME = 8,
    PAYLOAD_SENDER = 16,
    CHECK_LEN = 8,
};
static const uint64_t slip_ns = 5000000, drain_quiet_ns = 300000000, rest_ns = 500000;

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * second_ns + (uint64_t)t.tv_nsec;
}

struct mark mark_now(const struct load *l)
{
    struct mark m = {.time = now_ns(), .use = processes_use(&l->o.relays)};
    m.own_cpu = (double)clock() / CLOCKS_PER_SEC;
    for (int i = 0; i < GROUPS; i++) {
        m.sent[i] = l->group[i].sent;
        m.received[i] = l->group[i].received;
        m.bytes[i] = l->group[i].bytes;
    }
    return m;
}

/* ---- clients ---- */

void load_watch(struct load *l, struct client *c, int op, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = c};
    epoll_ctl(l->epoll, op, c->fd, &ev);
}

static void lost(struct load *l, struct client *c)
{
    l->closed++;
    client_close(c);
}

int load_log_in(struct load *l, int from, int to)
{
    for (int i = from; i < to; i++) {
        if (client_login(&l->client[i], i % 2 ? &l->target_to : &l->target) < 0) {
            fprintf(stderr, "load: client %d of %d could not log in\n", i + 1, l->n_clients);
            return -1;
        }
    }
    return 0;
}

/* ---- sending ---- */

static bool flat_out(const struct load *l, const struct client *c)
{
    return c->to && l->group[c->group].rate <= 0;
}

static int put_packet(struct load *l, struct client *c)
{
    struct group *g = &l->group[c->group];
    uint8_t *payload = l->frame + FRAME_HEADER_LEN + KEY_LEN;
    uint64_t seq = c->seq, check = ~seq, now = now_ns();
    uint32_t index = (uint32_t)(c - l->client);
    frame_header(l->frame, FRAME_SEND_PACKET, (uint32_t)(KEY_LEN + g->size));
    memcpy(l->frame + FRAME_HEADER_LEN, c->to->key.pub.b, KEY_LEN);
    memcpy(payload + PAYLOAD_SEQ, &seq, sizeof(seq));
    memcpy(payload + PAYLOAD_TIME, &now, sizeof(now));
    memcpy(payload + PAYLOAD_SENDER, &index, sizeof(index));
    memcpy(payload + g->size - CHECK_LEN, &check, sizeof(check));
    if (client_put(c, l->frame, FRAME_HEADER_LEN + KEY_LEN + (size_t)g->size) < 0)
        return -1;
    c->seq++;
    g->sent++;
    return 0;
}

/* Flat out: a batch of records whenever the socket takes some. */
static int send_batch(struct load *l, struct client *c)
{
    while (l->sending && client_waiting(c) < BATCH)
        if (put_packet(l, c) < 0)
            return -1;
    return client_flush(c);
}

static void flush_paced(struct load *l, struct client *c)
{
    if (c->fd < 0)
        return;
    if (client_flush(c) < 0)
        lost(l, c);
    else if (client_waiting(c) > 0)
        load_watch(l, c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

/* What the socket does not take holds back what is due later. */
static void send_due(struct load *l, struct group *g, struct client *c, bool gather)
{
    if (c->fd < 0)
        return;
    if (client_waiting(c) > (gather ? BATCH : 0)) {
        g->held++;
        return;
    }
    if (put_packet(l, c) < 0)
        lost(l, c);
    else if (!gather)
        flush_paced(l, c);
}

/* Sends all of a group that is due.  Returns ns until the next is. */
static uint64_t send_paced(struct load *l, struct group *g)
{
    uint64_t now = now_ns();
    bool gather = g->rate > GATHER_RATE;
    if (now > g->due + slip_ns)
        g->due = now; /* this process was kept from running: a burst would blame the relay for it */
    for (; g->due <= now; now = gather ? now : now_ns()) {
        send_due(l, g, &l->client[2 * (g->first + (int)(g->index % (uint64_t)g->n))], gather);
        g->index++;
        g->due += (uint64_t)(1e9 / g->rate);
    }
    for (int i = g->first; gather && i < g->first + g->n; i++)
        flush_paced(l, &l->client[2 * i]);
    return g->due > now ? g->due - now : 0;
}

/* ---- receiving ---- */

/* The sender of a packet, or NULL if it should not have come, or not here, or not now. */
static struct client *sender_of(const struct load *l, const struct client *c, const struct frame *f)
{
    const uint8_t *payload = f->body + KEY_LEN;
    uint64_t seq, check;
    uint32_t index;
    if (f->len < KEY_LEN + PAYLOAD_MIN)
        return NULL;
    memcpy(&seq, payload + PAYLOAD_SEQ, sizeof(seq));
    memcpy(&index, payload + PAYLOAD_SENDER, sizeof(index));
    memcpy(&check, f->body + f->len - CHECK_LEN, sizeof(check));
    if (index >= (uint32_t)l->n_clients)
        return NULL;
    struct client *s = &l->client[index];
    bool right = s->to == c && f->len == KEY_LEN + (size_t)l->group[s->group].size &&
                 (l->o.floor || memcmp(f->body, s->key.pub.b, KEY_LEN) == 0);
    return right && check == ~seq && seq >= s->seq_seen ? s : NULL;
}

static void on_packet(struct load *l, struct client *c, const struct frame *f)
{
    struct client *s = sender_of(l, c, f);
    uint64_t sent_at;
    if (!s) {
        l->wrong++;
        return;
    }
    struct group *g = &l->group[s->group];
    memcpy(&s->seq_seen, f->body + KEY_LEN + PAYLOAD_SEQ, sizeof(s->seq_seen));
    memcpy(&sent_at, f->body + KEY_LEN + PAYLOAD_TIME, sizeof(sent_at));
    s->seq_seen++;
    g->received++;
    g->bytes += (uint64_t)g->size;
    if (l->measuring)
        histogram_add(&g->latency, l->read_at - sent_at);
}

static void on_frame(void *ctx, struct client *c, const struct frame *f)
{
    struct load *l = ctx;
    if (f->type == FRAME_RECV_PACKET) {
        on_packet(l, c, f);
    } else if (f->type == FRAME_PING && f->len == DERP_PING_MIN) {
        uint8_t pong[FRAME_HEADER_LEN + DERP_PING_MIN];
        frame_header(pong, FRAME_PONG, DERP_PING_MIN);
        memcpy(pong + FRAME_HEADER_LEN, f->body, DERP_PING_MIN);
        if (client_put(c, pong, sizeof(pong)) == 0)
            client_flush(c); /* an error shows at the next read */
    }
}

static uint64_t bytes_received(const struct load *l)
{
    return l->group[0].bytes + l->group[1].bytes;
}

/* A slow receiver does not read again before its rate allows. */
static void rest(struct load *l, struct client *c, double bytes)
{
    c->rests_until = l->read_at + (uint64_t)(bytes / l->o.slow * 1e9);
    load_watch(l, c, EPOLL_CTL_MOD, 0);
}

static void wake_rested(struct load *l)
{
    uint64_t now = now_ns();
    for (int i = 0; i < l->n_clients; i++) {
        struct client *c = &l->client[i];
        if (c->fd < 0 || c->rests_until == 0 || (c->rests_until > now && l->sending))
            continue;
        c->rests_until = 0;
        load_watch(l, c, EPOLL_CTL_MOD, EPOLLIN);
    }
}

static void on_event(struct load *l, struct client *c, uint32_t events)
{
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        l->read_at = l->last_arrival = now_ns();
        uint64_t before = bytes_received(l);
        if (client_read(c, on_frame, l) < 0) {
            lost(l, c);
            return;
        }
        if (l->o.slow > 0 && l->sending && bytes_received(l) > before)
            rest(l, c, (double)(bytes_received(l) - before));
    }
    if (!(events & EPOLLOUT))
        return;
    if ((flat_out(l, c) ? send_batch(l, c) : client_flush(c)) < 0)
        lost(l, c);
    else if (client_waiting(c) == 0 && !(flat_out(l, c) && l->sending))
        load_watch(l, c, EPOLL_CTL_MOD, EPOLLIN);
}

static void turn(struct load *l, uint64_t wait_ns)
{
    struct epoll_event ev[EVENTS];
    struct timespec ts = {.tv_sec = (time_t)(wait_ns / second_ns), .tv_nsec = (long)(wait_ns % second_ns)};
    int n = epoll_pwait2(l->epoll, ev, EVENTS, &ts, NULL);
    for (int i = 0; i < n; i++) {
        struct client *c = ev[i].data.ptr;
        if (c->fd >= 0)
            on_event(l, c, ev[i].events);
    }
}

/* ---- the measurement ---- */

void traffic_start(struct load *l)
{
    for (int g = 0; g < GROUPS; g++) {
        for (int i = l->group[g].first; i < l->group[g].first + l->group[g].n; i++) {
            struct client *c = &l->client[2 * i];
            int to = g > 0 && l->o.beside_same ? (i - l->group[g].first) % l->group[0].n : i;
            c->to = &l->client[2 * to + 1];
            c->group = (uint32_t)g;
            load_watch(l, c, EPOLL_CTL_ADD, flat_out(l, c) ? EPOLLIN | EPOLLOUT : EPOLLIN);
            load_watch(l, c + 1, EPOLL_CTL_ADD, EPOLLIN);
        }
        l->group[g].due = now_ns();
    }
    l->sending = true;
}

void traffic_until(struct load *l, uint64_t end)
{
    while (now_ns() < end) {
        uint64_t wait = second_ns / 10;
        for (int i = 0; i < GROUPS; i++) {
            struct group *g = &l->group[i];
            uint64_t due = g->n > 0 && g->rate > 0 ? send_paced(l, g) : wait;
            wait = due < wait ? due : wait;
        }
        if (l->o.slow > 0) {
            wake_rested(l);
            wait = wait < rest_ns ? wait : rest_ns;
        }
        turn(l, wait);
    }
}

void traffic_drain(struct load *l)
{
    l->sending = false;
    wake_rested(l);
    uint64_t begin = l->last_arrival = now_ns();
    for (uint64_t t = begin; t < l->last_arrival + drain_quiet_ns && t < begin + 5 * second_ns;
         t = now_ns()) {
        if (l->group[0].received == l->group[0].sent && l->group[1].received == l->group[1].sent)
            return;
        turn(l, second_ns / 20);
    }
}
