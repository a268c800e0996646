/* A load generator for DERP relays: pairs of clients, one sends to the other; or many that only stay.
 *
 *   load --addr IP:PORT [--pairs 10] [--size 1400] [--rate N] [--seconds 5] …   (load --help)
 *
 * Happy path: log in all clients one after the other; send for a moment to warm up; measure between two marks; stop
 * sending and wait for what is under way; print one line of key=value.  Everything runs in one thread over one epoll.
 * --rate 0 sends as fast as TCP takes it, many records by one send(); with a rate each packet has its time and its own
 * send(), as with stock clients.  Each packet carries its number and time; receivers check source, order and content.
 * With --pid the line also has the CPU time (and resident memory) of that process between the marks.
 * Fails: exit 1 with a sentence when a login fails; a connection that ends later is counted (closed=). */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "histogram.h"

enum {
    BATCH = 64 << 10, /* ciphertext made before a send(), when flat out */
    EVENTS = 64,
    PAYLOAD_MIN = 32,
    PAYLOAD_SEQ = 0, /* offsets in the payload: number, time in ns, number inverted at the end */
    PAYLOAD_TIME = 8,
    CHECK_LEN = 8,
    WARM_UP_LOGINS = 20
};
static const uint64_t second = 1000000000, slip_ns = 5000000, drain_quiet_ns = 300000000, rest_ns = 500000;

struct options {
    const char *addr, *host;
    int pairs, size, idle, pid;
    double rate, seconds, warm, slow;
    bool plain;
};

/* Between the two marks. */
struct mark {
    uint64_t time, received, bytes, sent;
    double cpu, own_cpu;
    long rss_kb;
};

struct load {
    struct options o;
    struct target target;
    struct client *client; /* sender i at 2i, its receiver at 2i + 1 */
    int n_clients, epoll;
    uint8_t frame[FRAME_HEADER_LEN + KEY_LEN + FRAME_PACKET_MAX];
    uint64_t sent, received, bytes, wrong, held, closed;
    uint64_t due, index, last_arrival, read_at;
    bool sending, measuring;
    struct histogram latency;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * second + (uint64_t)t.tv_nsec;
}

/* ---- the relay's process ---- */

/* CPU seconds, user and system, of a process and its ended threads; resident memory in KiB. */
static void process_use(int pid, double *cpu, long *rss_kb)
{
    char path[64], text[1024];
    unsigned long user = 0, sys = 0;
    long rss = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *f = pid > 0 ? fopen(path, "re") : NULL;
    if (f && fgets(text, sizeof(text), f)) {
        const char *after_name = strrchr(text, ')');
        if (after_name)
            sscanf(after_name + 1,
                   " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d %*u %*u %ld",
                   &user, &sys, &rss);
    }
    if (f)
        fclose(f);
    *cpu = (double)(user + sys) / (double)sysconf(_SC_CLK_TCK);
    *rss_kb = rss * (sysconf(_SC_PAGESIZE) / 1024);
}

static struct mark mark_now(const struct load *l)
{
    struct mark m = {.time = now_ns(), .received = l->received, .bytes = l->bytes, .sent = l->sent};
    process_use(l->o.pid, &m.cpu, &m.rss_kb);
    m.own_cpu = (double)clock() / CLOCKS_PER_SEC;
    return m;
}

/* ---- clients ---- */

static void watch(struct load *l, struct client *c, int op, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = c};
    epoll_ctl(l->epoll, op, c->fd, &ev);
}

static void lost(struct load *l, struct client *c)
{
    l->closed++;
    client_close(c);
}

static int log_in(struct load *l, int from, int to)
{
    for (int i = from; i < to; i++) {
        if (client_login(&l->client[i], &l->target) < 0) {
            fprintf(stderr, "load: client %d of %d could not log in\n", i + 1, l->n_clients);
            return -1;
        }
    }
    return 0;
}

/* ---- sending ---- */

static int put_packet(struct load *l, struct client *c)
{
    uint8_t *payload = l->frame + FRAME_HEADER_LEN + KEY_LEN;
    uint64_t seq = c->seq, check = ~seq, now = now_ns();
    memcpy(l->frame + FRAME_HEADER_LEN, c->peer->key.pub.b, KEY_LEN);
    memcpy(payload + PAYLOAD_SEQ, &seq, sizeof(seq));
    memcpy(payload + PAYLOAD_TIME, &now, sizeof(now));
    memcpy(payload + l->o.size - CHECK_LEN, &check, sizeof(check));
    if (client_put(c, l->frame, FRAME_HEADER_LEN + KEY_LEN + (size_t)l->o.size) < 0)
        return -1;
    c->seq++;
    l->sent++;
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

/* Paced: one packet, one send().  What the socket does not take holds back what is due later. */
static void send_due(struct load *l, struct client *c)
{
    if (c->fd < 0)
        return;
    if (client_waiting(c) > 0) {
        l->held++;
        return;
    }
    if (put_packet(l, c) < 0 || client_flush(c) < 0)
        lost(l, c);
    else if (client_waiting(c) > 0)
        watch(l, c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

/* Sends all that is due.  Returns ns until the next is. */
static uint64_t send_paced(struct load *l)
{
    uint64_t now = now_ns();
    if (now > l->due + slip_ns)
        l->due = now; /* this process was kept from running: a burst would blame the relay for it */
    for (; l->due <= now; now = now_ns()) {
        send_due(l, &l->client[2 * (l->index % (uint64_t)l->o.pairs)]);
        l->index++;
        l->due += (uint64_t)(1e9 / l->o.rate);
    }
    return l->due - now;
}

/* ---- receiving ---- */

static void on_packet(struct load *l, struct client *c, const struct frame *f)
{
    const uint8_t *payload = f->body + KEY_LEN;
    uint64_t seq, sent_at, check;
    if (c->sends || f->len != KEY_LEN + (size_t)l->o.size ||
        memcmp(f->body, c->peer->key.pub.b, KEY_LEN) != 0) {
        l->wrong++;
        return;
    }
    memcpy(&seq, payload + PAYLOAD_SEQ, sizeof(seq));
    memcpy(&sent_at, payload + PAYLOAD_TIME, sizeof(sent_at));
    memcpy(&check, payload + l->o.size - CHECK_LEN, sizeof(check));
    if (check != ~seq || seq < c->seq) {
        l->wrong++; /* altered, twice, or out of order */
        return;
    }
    c->seq = seq + 1;
    l->received++;
    l->bytes += (uint64_t)l->o.size;
    if (l->measuring)
        histogram_add(&l->latency, l->read_at - sent_at);
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

/* A slow receiver does not read again before its rate allows. */
static void rest(struct load *l, struct client *c, double bytes)
{
    c->rests_until = l->read_at + (uint64_t)(bytes / l->o.slow * 1e9);
    watch(l, c, EPOLL_CTL_MOD, 0);
}

static void wake_rested(struct load *l)
{
    uint64_t now = now_ns();
    for (int i = 1; i < l->n_clients; i += 2) {
        struct client *c = &l->client[i];
        if (c->fd < 0 || c->rests_until == 0 || (c->rests_until > now && l->sending))
            continue;
        c->rests_until = 0;
        watch(l, c, EPOLL_CTL_MOD, EPOLLIN);
    }
}

static void on_event(struct load *l, struct client *c, uint32_t events)
{
    bool flat_out = c->sends && l->o.rate <= 0;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        l->read_at = l->last_arrival = now_ns();
        uint64_t before = l->bytes;
        if (client_read(c, on_frame, l) < 0) {
            lost(l, c);
            return;
        }
        if (l->o.slow > 0 && l->sending && !c->sends)
            rest(l, c, (double)(l->bytes - before));
    }
    if (!(events & EPOLLOUT))
        return;
    if ((flat_out ? send_batch(l, c) : client_flush(c)) < 0)
        lost(l, c);
    else if (client_waiting(c) == 0 && !(flat_out && l->sending))
        watch(l, c, EPOLL_CTL_MOD, EPOLLIN);
}

static void turn(struct load *l, uint64_t wait_ns)
{
    struct epoll_event ev[EVENTS];
    struct timespec ts = {.tv_sec = (time_t)(wait_ns / second), .tv_nsec = (long)(wait_ns % second)};
    int n = epoll_pwait2(l->epoll, ev, EVENTS, &ts, NULL);
    for (int i = 0; i < n; i++) {
        struct client *c = ev[i].data.ptr;
        if (c->fd >= 0)
            on_event(l, c, ev[i].events);
    }
}

/* ---- the two measurements ---- */

static void run_until(struct load *l, uint64_t end)
{
    while (now_ns() < end) {
        uint64_t wait = l->o.rate > 0 ? send_paced(l) : second / 10;
        if (l->o.slow > 0) {
            wake_rested(l);
            wait = wait < rest_ns ? wait : rest_ns;
        }
        turn(l, wait);
    }
}

/* Waits for what is still under way: until all has come, or nothing came for a while. */
static void drain(struct load *l)
{
    l->sending = false;
    wake_rested(l);
    uint64_t begin = l->last_arrival = now_ns();
    for (uint64_t t = begin; t < l->last_arrival + drain_quiet_ns && t < begin + 5 * second; t = now_ns()) {
        if (l->received == l->sent)
            return;
        turn(l, second / 20);
    }
}

static void print_traffic(const struct load *l, const struct mark *a, const struct mark *b)
{
    double secs = (double)(b->time - a->time) / 1e9, cpu = b->cpu - a->cpu;
    double got = (double)(b->received - a->received), gb = (double)(b->bytes - a->bytes) / 1e9;
    double loss = l->sent ? 100.0 * (double)(l->sent - l->received) / (double)l->sent : 0;
    printf(
        "pairs=%d size=%d rate=%.0f seconds=%.2f offered_pps=%.0f delivered_pps=%.0f loss_pct=%.3f held=%llu "
        "wrong=%llu closed=%llu own_cpu_pct=%.0f",
        l->o.pairs, l->o.size, l->o.rate, secs, (double)(b->sent - a->sent) / secs, got / secs, loss,
        (unsigned long long)l->held, (unsigned long long)l->wrong, (unsigned long long)l->closed,
        100 * (b->own_cpu - a->own_cpu) / secs);
    if (got > 0)
        printf(" p50_us=%.0f p99_us=%.0f p999_us=%.0f", (double)histogram_at(&l->latency, 0.5) / 1e3,
               (double)histogram_at(&l->latency, 0.99) / 1e3, (double)histogram_at(&l->latency, 0.999) / 1e3);
    if (l->o.pid > 0)
        printf(" cpu_s=%.2f", cpu);
    if (l->o.pid > 0 && got > 0)
        printf(" cpu_s_per_gb=%.3f cpu_us_per_packet=%.2f", cpu / gb, cpu * 1e6 / got);
    printf("\n");
}

static int run_traffic(struct load *l)
{
    if (log_in(l, 0, l->n_clients) < 0)
        return 1;
    for (int i = 0; i < l->n_clients; i++) {
        struct client *c = &l->client[i];
        c->sends = i % 2 == 0;
        c->peer = &l->client[i ^ 1];
        watch(l, c, EPOLL_CTL_ADD, c->sends && l->o.rate <= 0 ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
    l->sending = true;
    l->due = now_ns();
    run_until(l, now_ns() + (uint64_t)(l->o.warm * 1e9));
    struct mark a = mark_now(l);
    l->measuring = true;
    run_until(l, a.time + (uint64_t)(l->o.seconds * 1e9));
    struct mark b = mark_now(l);
    l->measuring = false;
    drain(l);
    print_traffic(l, &a, &b);
    return 0;
}

static int run_idle(struct load *l)
{
    struct timespec settle = {.tv_sec = 1};
    int warm = l->n_clients - l->o.idle;
    if (log_in(l, 0, warm) < 0)
        return 1;
    nanosleep(&settle, NULL);
    struct mark a = mark_now(l);
    if (log_in(l, warm, l->n_clients) < 0)
        return 1;
    struct mark b = mark_now(l);
    nanosleep(&settle, NULL);
    struct mark later = mark_now(l);
    printf("idle=%d logins_per_s=%.0f cpu_us_per_login=%.0f rss_kb=%ld rss_kb_per_client=%.1f\n", l->o.idle,
           l->o.idle / ((double)(b.time - a.time) / 1e9), (b.cpu - a.cpu) * 1e6 / l->o.idle, later.rss_kb,
           (double)(later.rss_kb - a.rss_kb) / l->o.idle);
    return 0;
}

static const char usage[] = "usage: load --addr IP:PORT [OPTIONS]\n"
                            "  --host NAME     server name to ask for [bench.test]\n"
                            "  --plain         no TLS\n"
                            "  --pairs N       senders, each with a receiver [10]\n"
                            "  --size BYTES    of a packet's payload [1400]\n"
                            "  --rate N        packets a second in all; 0: as fast as TCP takes them [0]\n"
                            "  --seconds S     time measured [5]\n"
                            "  --warm S        time before it [0.5]\n"
                            "  --slow BYTES    receivers read at most that much a second, each\n"
                            "  --idle N        instead of traffic: N logins that stay idle\n"
                            "  --pid PID       the relay: its CPU time and memory are printed too\n";

static int parse(struct options *o, int argc, char **argv)
{
    static const struct option names[] = {
        {"addr", 1, 0, 'a'}, {"host", 1, 0, 'h'}, {"plain", 0, 0, 'p'}, {"pairs", 1, 0, 'n'},
        {"size", 1, 0, 's'}, {"rate", 1, 0, 'r'}, {"warm", 1, 0, 'w'},  {"seconds", 1, 0, 't'},
        {"idle", 1, 0, 'i'}, {"pid", 1, 0, 'P'},  {"slow", 1, 0, 'S'},  {0, 0, 0, 0},
    };
    *o = (struct options){.host = "bench.test", .pairs = 10, .size = 1400, .seconds = 5, .warm = 0.5};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
        case 'a':
            o->addr = optarg;
            break;
        case 'h':
            o->host = optarg;
            break;
        case 'p':
            o->plain = true;
            break;
        case 'n':
            o->pairs = atoi(optarg);
            break;
        case 's':
            o->size = atoi(optarg);
            break;
        case 'r':
            o->rate = atof(optarg);
            break;
        case 'w':
            o->warm = atof(optarg);
            break;
        case 't':
            o->seconds = atof(optarg);
            break;
        case 'i':
            o->idle = atoi(optarg);
            break;
        case 'S':
            o->slow = atof(optarg);
            break;
        case 'P':
            o->pid = atoi(optarg);
            break;
        default:
            return -1;
        }
    }
    bool fine = o->addr && optind == argc && o->pairs > 0 && o->size >= PAYLOAD_MIN &&
                o->size <= FRAME_PACKET_MAX && o->idle >= 0 && o->rate >= 0 && o->rate <= 1e7 &&
                o->seconds > 0;
    return fine ? 0 : -1;
}

int main(int argc, char **argv)
{
    static struct load l;
    if (parse(&l.o, argc, argv) < 0) {
        fputs(usage, stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1UL); /* the pace is finer than the usual 50 µs */
    l.n_clients = l.o.idle > 0 ? l.o.idle + WARM_UP_LOGINS : 2 * l.o.pairs;
    l.client = calloc((size_t)l.n_clients, sizeof(*l.client));
    l.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (sodium_init() < 0 || !l.client || l.epoll < 0 ||
        target_init(&l.target, l.o.addr, l.o.host, l.o.plain) < 0)
        return 1;
    for (int i = 0; i < l.n_clients; i++)
        l.client[i].fd = -1;
    frame_header(l.frame, FRAME_SEND_PACKET, (uint32_t)(KEY_LEN + l.o.size));
    int rc = l.o.idle > 0 ? run_idle(&l) : run_traffic(&l);
    for (int i = 0; i < l.n_clients; i++)
        client_close(&l.client[i]);
    target_deinit(&l.target);
    close(l.epoll);
    free(l.client);
    return rc;
}
