/* A load generator for DERP relays: pairs of clients, one sends to the other; or many that only stay.
 *
 *   load --addr IP:PORT [--pairs 10] [--size 1400] [--rate N] [--seconds 5] …   (load --help)
 *
 * Happy path: log in all clients one after the other; send for a moment to warm up; measure between two marks; stop
 * sending and wait for what is under way; print one line of key=value.  Loss is over the whole run, all else between the marks.
 * With --pid the line also has the CPU time (and resident memory) of those processes between the marks.
 * Fails: exit 1 with a sentence when a login fails; a connection that ends later is counted (closed=). */
#include <getopt.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "herd.h"
#include "traffic.h"

enum { SPARE_CLIENTS = 20 };

static void print_latency(const char *prefix, const struct histogram *h)
{
    if (h->count > 0)
        printf(" %sp50_us=%.0f %sp99_us=%.0f %sp999_us=%.0f", prefix, (double)histogram_at(h, 0.5) / 1e3,
               prefix, (double)histogram_at(h, 0.99) / 1e3, prefix, (double)histogram_at(h, 0.999) / 1e3);
}

static double loss_pct(const struct group *g)
{
    return g->sent ? 100.0 * (double)(g->sent - g->received) / (double)g->sent : 0;
}

static void print_group(const struct load *l, int i, const struct mark *a, const struct mark *b)
{
    const struct group *g = &l->group[i];
    const char *prefix = i == 0 ? "" : "beside_";
    double secs = (double)(b->time - a->time) / 1e9;
    printf(" %soffered_pps=%.0f %sdelivered_pps=%.0f %sloss_pct=%.3f %sheld=%llu", prefix,
           (double)(b->sent[i] - a->sent[i]) / secs, prefix, (double)(b->received[i] - a->received[i]) / secs,
           prefix, loss_pct(g), prefix, (unsigned long long)g->held);
    print_latency(prefix, &g->latency);
}

static void print_use(const struct mark *a, const struct mark *b)
{
    double cpu = b->use.cpu_s - a->use.cpu_s, secs = (double)(b->time - a->time) / 1e9;
    double packets = 0, bytes = 0;
    for (int i = 0; i < GROUPS; i++) {
        packets += (double)(b->received[i] - a->received[i]);
        bytes += (double)(b->bytes[i] - a->bytes[i]);
    }
    printf(" cpu_s=%.3f cpu_pct=%.1f rss_kb=%ld", cpu, 100 * cpu / secs, b->use.rss_kb);
    if (packets > 0)
        printf(" cpu_s_per_gb=%.3f cpu_us_per_packet=%.2f switches_per_packet=%.3f", cpu / (bytes / 1e9),
               cpu * 1e6 / packets, (double)(b->use.switches - a->use.switches) / packets);
}

static void print_traffic(const struct load *l, const struct mark *a, const struct mark *b)
{
    double secs = (double)(b->time - a->time) / 1e9;
    printf("pairs=%d size=%d rate=%.0f seconds=%.2f", l->o.pairs, l->o.size, l->o.rate, secs);
    print_group(l, 0, a, b);
    if (l->group[1].n > 0)
        print_group(l, 1, a, b);
    printf(" wrong=%llu closed=%llu own_cpu_pct=%.0f", (unsigned long long)l->wrong,
           (unsigned long long)l->closed, 100 * (b->own_cpu - a->own_cpu) / secs);
    if (l->o.relays.n > 0)
        print_use(a, b);
    printf("\n");
}

static int run_traffic(struct load *l)
{
    if (load_log_in(l, 0, l->n_clients) < 0)
        return 1;
    if (l->o.to)
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL); /* the nodes tell each other who has come */
    traffic_start(l);
    traffic_until(l, now_ns() + (uint64_t)(l->o.warm * 1e9));
    struct mark a = mark_now(l);
    l->measuring = true;
    traffic_until(l, a.time + (uint64_t)(l->o.seconds * 1e9));
    struct mark b = mark_now(l);
    l->measuring = false;
    traffic_drain(l);
    print_traffic(l, &a, &b);
    return 0;
}

static const char usage[] =
    "usage: load --addr IP:PORT [OPTIONS]\n"
    "  --to IP:PORT      the receivers log in there instead (another node of a mesh)\n"
    "  --host NAME       server name to ask for [bench.test]\n"
    "  --plain           no TLS\n"
    "  --floor           what listens is bench/floor: no login\n"
    "  --pairs N         senders, each with a receiver [10]\n"
    "  --size BYTES      of a packet's payload [1400]\n"
    "  --rate N          packets a second in all; 0: as fast as TCP takes them [0]\n"
    "  --seconds S       time measured [5]\n"
    "  --warm S          time before it [0.5]\n"
    "  --slow BYTES      receivers read at most that much a second, each\n"
    "  --beside N        N further pairs with --beside-rate [1000] and --beside-size [200]\n"
    "  --beside-same     they send to the receivers of the others\n"
    "  --herd N          instead of traffic: N logins at once, from many addresses\n"
    "  --idle N          instead of traffic: N logins one after the other, that stay idle\n"
    "  --watch S         idle: CPU of S seconds in which nothing happens\n"
    "  --burst MB        idle: then each sends or receives so much; memory again 10 s later\n"
    "  --resume          offer TLS tickets\n"
    "  --pid PID[,PID]   the relays: their CPU time and memory are printed too\n";

enum {
    O_BESIDE = 256,
    O_BESIDE_RATE,
    O_BESIDE_SIZE,
    O_SAME,
    O_HERD,
    O_WATCH,
    O_BURST,
    O_RESUME,
    O_FLOOR,
    O_TO
};

static int take_option(struct options *o, int c)
{
    switch (c) {
    case 'a':
        o->addr = optarg;
        return 0;
    case O_TO:
        o->to = optarg;
        return 0;
    case 'h':
        o->host = optarg;
        return 0;
    case 'p':
        o->plain = true;
        return 0;
    case O_FLOOR:
        o->floor = true;
        return 0;
    case O_SAME:
        o->beside_same = true;
        return 0;
    case O_RESUME:
        o->resume = true;
        return 0;
    case 'P':
        return processes_parse(&o->relays, optarg);
    default:
        return -1;
    }
}

/* Where the number of an option goes; NULL: it has none. */
static int *int_of(struct options *o, int c)
{
    return c == 'n'             ? &o->pairs
           : c == 's'           ? &o->size
           : c == 'i'           ? &o->idle
           : c == O_BESIDE      ? &o->beside
           : c == O_BESIDE_SIZE ? &o->beside_size
           : c == O_HERD        ? &o->herd
                                : NULL;
}

static double *double_of(struct options *o, int c)
{
    return c == 'r'             ? &o->rate
           : c == 'w'           ? &o->warm
           : c == 't'           ? &o->seconds
           : c == 'S'           ? &o->slow
           : c == O_BESIDE_RATE ? &o->beside_rate
           : c == O_WATCH       ? &o->watch
           : c == O_BURST       ? &o->burst_mb
                                : NULL;
}

static bool size_fits(int size)
{
    return size >= PAYLOAD_MIN && size <= FRAME_PACKET_MAX;
}

static int parse(struct options *o, int argc, char **argv)
{
    static const struct option names[] = {
        {"addr", 1, 0, 'a'},
        {"host", 1, 0, 'h'},
        {"plain", 0, 0, 'p'},
        {"pairs", 1, 0, 'n'},
        {"size", 1, 0, 's'},
        {"rate", 1, 0, 'r'},
        {"warm", 1, 0, 'w'},
        {"seconds", 1, 0, 't'},
        {"idle", 1, 0, 'i'},
        {"pid", 1, 0, 'P'},
        {"slow", 1, 0, 'S'},
        {"to", 1, 0, O_TO},
        {"floor", 0, 0, O_FLOOR},
        {"beside", 1, 0, O_BESIDE},
        {"beside-rate", 1, 0, O_BESIDE_RATE},
        {"herd", 1, 0, O_HERD},
        {"beside-same", 0, 0, O_SAME},
        {"beside-size", 1, 0, O_BESIDE_SIZE},
        {"resume", 0, 0, O_RESUME},
        {"watch", 1, 0, O_WATCH},
        {"burst", 1, 0, O_BURST},
        {0, 0, 0, 0},
    };
    *o = (struct options){.host = "bench.test",
                          .pairs = 10,
                          .size = 1400,
                          .seconds = 5,
                          .warm = 0.5,
                          .beside_rate = 1000,
                          .beside_size = 200};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        int *i = int_of(o, c);
        double *d = double_of(o, c);
        if (i)
            *i = atoi(optarg);
        else if (d)
            *d = atof(optarg);
        else if (take_option(o, c) < 0)
            return -1;
    }
    bool fine = o->addr && optind == argc && o->pairs > 0 && size_fits(o->size) &&
                size_fits(o->beside_size) && o->idle >= 0 && o->beside >= 0 && o->herd >= 0 && o->rate >= 0 &&
                o->rate <= 1e7 && o->seconds > 0 && o->beside_rate > 0 && !(o->resume && o->plain);
    return fine ? 0 : -1;
}

static int prepare(struct load *l)
{
    const struct options *o = &l->o;
    l->group[0] =
        (struct group){.n = o->idle > 0 ? (o->idle + 1) / 2 : o->pairs, .size = o->size, .rate = o->rate};
    l->group[1] = (struct group){
        .first = l->group[0].n, .n = o->beside, .size = o->beside_size, .rate = o->beside_rate};
    l->n_clients = 2 * (l->group[0].n + l->group[1].n) + (o->idle > 0 ? SPARE_CLIENTS : 0);
    l->client = calloc((size_t)l->n_clients, sizeof(*l->client));
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (sodium_init() < 0 || !l->client || l->epoll < 0 ||
        target_init(&l->target, o->addr, o->host, o->plain) < 0 ||
        target_init(&l->target_to, o->to ? o->to : o->addr, o->host, o->plain) < 0)
        return -1;
    l->target.raw = l->target_to.raw = o->floor;
    if (o->resume) {
        target_resume(&l->target);
        target_resume(&l->target_to);
    }
    for (int i = 0; i < l->n_clients; i++)
        l->client[i].fd = -1;
    return 0;
}

int main(int argc, char **argv)
{
    static struct load l;
    struct rlimit files;
    if (parse(&l.o, argc, argv) < 0) {
        fputs(usage, stderr);
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1UL); /* the pace is finer than the usual 50 µs */
    if (prepare(&l) < 0)
        return 1;
    int rc = l.o.herd > 0 ? herd_run(&l) : l.o.idle > 0 ? idle_run(&l) : run_traffic(&l);
    for (int i = 0; i < l.n_clients; i++)
        client_close(&l.client[i]);
    target_deinit(&l.target);
    target_deinit(&l.target_to);
    close(l.epoll);
    free(l.client);
    return rc;
}
