/* wire: network namespaces and the bad network between them, for tests.
 *
 * usage: wire [--seed N] [NAME=ADDRESS]...
 *
 * Each port is a network namespace of its own with one TUN device, wire0, that holds the address (IPv4; the other
 * ports are its neighbours, /24).  What one port sends to the address of another comes out there, as the conditions of
 * that way say.  The namespaces have no names: programs enter them by the paths that are printed
 * (nsenter --net=/proc/PID/fd/N), and they are gone when this program and those in them have ended.  Needs root.
 *
 * Commands come on standard input, one a line; each is answered by a line that begins with "ok" or "error".  WAYS is A-B
 * (both directions) or A>B; A and B are names, lists with commas, or * for all.
 *
 *   port NAME=ADDRESS               one port more; the answer ends with the path of its namespace
 *   cut WAYS | heal WAYS            nothing passes, what is under way is lost | it does again
 *   delay WAYS MS [JITTER_MS]       each packet, each direction
 *   loss WAYS P                     0 to 1, by chance, the same with the same seed and packets
 *   rate WAYS BITS_PER_S QUEUE      QUEUE in bytes; 0 0: no limit
 *   stats WAYS                      a line for each: A>B sent N lost N full N cut N refused N waiting BYTES
 *
 * Happy path: packets are read as they come; those due at once are written at once, others when they are due, timed by
 * the wait for the next one.  Ends at the end of standard input.
 * Fails: what cannot be set up ends the program with the reason on standard error; a bad command is answered so. */
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BURST = 64, PACKET_MAX = 2048, LINE_MAX_LEN = 512, TXQUEUE = 4000, FROM_STDIN = WIRE_PORTS };

struct port {
    char name[16];
    struct in_addr addr;
    int tun, ns;
};

struct wire {
    struct port ports[WIRE_PORTS];
    int n_ports;
    struct way ways[WIRE_PORTS][WIRE_PORTS]; /* [from][to] */
    uint64_t seed;
    int epoll, home_ns;
    char line[LINE_MAX_LEN]; /* of standard input, not yet whole */
    size_t line_len;
    bool ended;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

/* ---- ports ---- */

static int set_flags_up(int s, struct ifreq *r)
{
    r->ifr_flags = IFF_UP | IFF_RUNNING;
    return ioctl(s, SIOCSIFFLAGS, r);
}

/* Gives the device its address and brings it up, and the loopback device too. */
static int configure_devices(struct in_addr addr)
{
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), rc = -1;
    if (s < 0)
        return -1;
    struct ifreq r = {.ifr_name = "wire0"}, lo = {.ifr_name = "lo"};
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr = addr};
    memcpy(&r.ifr_addr, &sin, sizeof sin);
    if (ioctl(s, SIOCSIFADDR, &r) < 0)
        goto done;
    inet_pton(AF_INET, "255.255.255.0", &sin.sin_addr);
    memcpy(&r.ifr_netmask, &sin, sizeof sin);
    if (ioctl(s, SIOCSIFNETMASK, &r) < 0)
        goto done;
    r.ifr_qlen = TXQUEUE;
    if (ioctl(s, SIOCSIFTXQLEN, &r) < 0 || set_flags_up(s, &r) < 0 || set_flags_up(s, &lo) < 0)
        goto done;
    rc = 0;
done:
    close(s);
    return rc;
}

/* In a namespace just entered: the device, non-blocking; -1 with errno. */
static int open_device(struct in_addr addr)
{
    int tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    struct ifreq r = {.ifr_name = "wire0", .ifr_flags = IFF_TUN | IFF_NO_PI};
    if (tun < 0)
        return -1;
    if (ioctl(tun, TUNSETIFF, &r) < 0 || configure_devices(addr) < 0) {
        int e = errno;
        close(tun);
        errno = e;
        return -1;
    }
    return tun;
}

static const char *add_port(struct wire *w, const char *spec)
{
    struct port p = {.tun = -1, .ns = -1};
    const char *eq = strchr(spec, '=');
    if (!eq || eq == spec || (size_t)(eq - spec) >= sizeof p.name ||
        strcspn(spec, "-,>* ") < (size_t)(eq - spec))
        return "want NAME=ADDRESS, the name without - , > *";
    memcpy(p.name, spec, (size_t)(eq - spec));
    if (inet_pton(AF_INET, eq + 1, &p.addr) != 1)
        return "no IPv4 address";
    if (w->n_ports == WIRE_PORTS)
        return "too many ports";
    for (int i = 0; i < w->n_ports; i++)
        if (strcmp(w->ports[i].name, p.name) == 0 || w->ports[i].addr.s_addr == p.addr.s_addr)
            return "name or address is there already";
    if (unshare(CLONE_NEWNET) < 0)
        return strerror(errno);
    const char *why = NULL;
    p.ns = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    p.tun = p.ns < 0 ? -1 : open_device(p.addr);
    if (p.tun < 0)
        why = strerror(errno);
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)w->n_ports};
    if (setns(w->home_ns, CLONE_NEWNET) < 0 || (!why && epoll_ctl(w->epoll, EPOLL_CTL_ADD, p.tun, &e) < 0))
        why = strerror(errno);
    if (why) {
        close(p.tun);
        close(p.ns);
        return why;
    }
    int me = w->n_ports++;
    w->ports[me] = p;
    for (int i = 0; i < w->n_ports; i++) {
        way_init(&w->ways[me][i], w->seed + (uint64_t)(me * WIRE_PORTS + i));
        way_init(&w->ways[i][me], w->seed + (uint64_t)(i * WIRE_PORTS + me));
    }
    return NULL;
}

static bool deliver(void *ctx, const uint8_t *packet, size_t len)
{
    const struct port *p = ctx;
    return write(p->tun, packet, len) == (ssize_t)len;
}

/* What a port has sent: each packet to the way that its destination names.  What is not IPv4, or for nobody, goes. */
static void read_port(struct wire *w, int from, uint64_t now)
{
    uint8_t b[PACKET_MAX];
    for (int k = 0; k < BURST; k++) {
        ssize_t n = read(w->ports[from].tun, b, sizeof b);
        if (n <= 0)
            return;
        if (n < 20 || b[0] >> 4 != 4)
            continue;
        for (int to = 0; to < w->n_ports; to++)
            if (memcmp(b + 16, &w->ports[to].addr, 4) == 0)
                way_take(&w->ways[from][to], b, (size_t)n, now, deliver, &w->ports[to]);
    }
}

/* Delivers what is due; returns when the next packet is. */
static uint64_t run_ways(struct wire *w, uint64_t now)
{
    uint64_t next = UINT64_MAX;
    for (int from = 0; from < w->n_ports; from++)
        for (int to = 0; to < w->n_ports; to++) {
            struct way *way = &w->ways[from][to];
            way_run(way, now, deliver, &w->ports[to]);
            if (way_next(way) < next)
                next = way_next(way);
        }
    return next;
}

/* ---- commands ---- */

/* Whether a list of names holds this one. */
static bool list_has(const char *list, size_t len, const char *name)
{
    size_t n = strlen(name);
    if (len == 1 && *list == '*')
        return true;
    while (len > 0) {
        const char *comma = memchr(list, ',', len);
        size_t part = comma ? (size_t)(comma - list) : len;
        if (part == n && memcmp(list, name, n) == 0)
            return true;
        part += comma ? 1 : 0;
        list += part;
        len -= part;
    }
    return false;
}

typedef void change_way(struct wire *w, int from, int to, const double *args);

static void do_cut(struct wire *w, int from, int to, const double *args)
{
    (void)args;
    w->ways[from][to].cut = true;
}

static void do_heal(struct wire *w, int from, int to, const double *args)
{
    (void)args;
    w->ways[from][to].cut = false;
}

static void do_delay(struct wire *w, int from, int to, const double *args)
{
    w->ways[from][to].delay = (uint64_t)(args[0] * 1e6);
    w->ways[from][to].jitter = (uint64_t)(args[1] * 1e6);
}

static void do_loss(struct wire *w, int from, int to, const double *args)
{
    w->ways[from][to].loss = args[0];
}

static void do_rate(struct wire *w, int from, int to, const double *args)
{
    w->ways[from][to].rate = (uint64_t)args[0];
    w->ways[from][to].queue = (uint64_t)args[1];
    w->ways[from][to].free_at = 0;
}

static void do_stats(struct wire *w, int from, int to, const double *args)
{
    const struct way *y = &w->ways[from][to];
    (void)args;
    printf("%s>%s sent %llu lost %llu full %llu cut %llu refused %llu waiting %llu\n", w->ports[from].name,
           w->ports[to].name, (unsigned long long)y->n.sent, (unsigned long long)y->n.lost,
           (unsigned long long)y->n.full, (unsigned long long)y->n.cut, (unsigned long long)y->n.refused,
           (unsigned long long)y->waiting);
}

/* Applies f to all that WAYS names; returns how many. */
static int each_way(struct wire *w, const char *ways, change_way *f, const double *args)
{
    size_t left = strcspn(ways, "->");
    const char *right = ways + left + 1;
    int n = 0;
    if (!ways[left])
        return 0;
    for (int a = 0; a < w->n_ports; a++)
        for (int b = 0; b < w->n_ports; b++) {
            if (a == b || !list_has(ways, left, w->ports[a].name) ||
                !list_has(right, strlen(right), w->ports[b].name))
                continue;
            f(w, a, b, args);
            n++;
            if (ways[left] == '-') {
                f(w, b, a, args);
                n++;
            }
        }
    return n;
}

static void answer_port(struct wire *w, const char *spec)
{
    const char *why = add_port(w, spec);
    if (why)
        printf("error %s: %s\n", spec, why);
    else
        printf("ok /proc/%d/fd/%d\n", (int)getpid(), w->ports[w->n_ports - 1].ns);
}

static void command(struct wire *w, const char *line)
{
    static const struct {
        const char *name;
        change_way *f;
        int least, most; /* numbers */
    } verbs[] = {{"cut", do_cut, 0, 0},   {"heal", do_heal, 0, 0}, {"delay", do_delay, 1, 2},
                 {"loss", do_loss, 1, 1}, {"rate", do_rate, 2, 2}, {"stats", do_stats, 0, 0}};
    char verb[16] = "", ways[300] = "", extra;
    double args[2] = {0, 0};
    int n = sscanf(line, "%15s %299s %lf %lf %c", verb, ways, &args[0], &args[1], &extra);
    if (n == 2 && strcmp(verb, "port") == 0) {
        answer_port(w, ways);
        return;
    }
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(verb, verbs[i].name) != 0)
            continue;
        if (n - 2 < verbs[i].least || n - 2 > verbs[i].most || args[0] < 0 || args[1] < 0) {
            printf("error wrong numbers: %s\n", line);
            return;
        }
        int changed = each_way(w, ways, verbs[i].f, args);
        if (changed > 0)
            printf("ok %d\n", changed);
        else
            printf("error no such ways: %s\n", line);
        return;
    }
    printf("error unknown: %s\n", line);
}

static void read_commands(struct wire *w)
{
    ssize_t n = read(STDIN_FILENO, w->line + w->line_len, sizeof w->line - 1 - w->line_len);
    if (n <= 0) {
        w->ended = n == 0 || errno != EINTR;
        return;
    }
    w->line_len += (size_t)n;
    for (char *nl; (nl = memchr(w->line, '\n', w->line_len));) {
        *nl++ = '\0';
        command(w, w->line);
        w->line_len -= (size_t)(nl - w->line);
        memmove(w->line, nl, w->line_len);
    }
    if (w->line_len == sizeof w->line - 1) {
        printf("error line too long\n");
        w->line_len = 0;
    }
    fflush(stdout);
}

/* ---- the loop ---- */

static void run(struct wire *w)
{
    struct epoll_event events[WIRE_PORTS + 1];
    uint64_t next = UINT64_MAX;
    while (!w->ended) {
        uint64_t now = now_ns(), wait = next > now ? next - now : 0;
        struct timespec t = {(time_t)(wait / 1000000000U), (long)(wait % 1000000000U)};
        int n = epoll_pwait2(w->epoll, events, WIRE_PORTS + 1, next == UINT64_MAX ? NULL : &t, NULL);
        now = now_ns();
        for (int i = 0; i < n; i++) {
            if (events[i].data.u32 == FROM_STDIN)
                read_commands(w);
            else
                read_port(w, (int)events[i].data.u32, now);
        }
        next = run_ways(w, now);
    }
}

/* Timing is what this program is for: it goes before others where it may, and sleeps no longer than asked. */
static const char *be_punctual(void)
{
    struct sched_param p = {.sched_priority = 1};
    prctl(PR_SET_TIMERSLACK, 1UL);
    return sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &p) == 0 ? "realtime" : "as others";
}

int main(int argc, char **argv)
{
    struct wire *w = calloc(1, sizeof *w);
    if (!w)
        return 3;
    w->seed = 1;
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->home_ns = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = FROM_STDIN};
    if (w->epoll < 0 || w->home_ns < 0 || epoll_ctl(w->epoll, EPOLL_CTL_ADD, STDIN_FILENO, &e) < 0) {
        perror("wire");
        return 3;
    }
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            w->seed = strtoull(argv[++i], NULL, 10);
            continue;
        }
        const char *why = add_port(w, argv[i]);
        if (why) {
            fprintf(stderr, "wire: %s: %s\n", argv[i], why);
            return 3;
        }
        printf("port %s /proc/%d/fd/%d\n", w->ports[w->n_ports - 1].name, (int)getpid(),
               w->ports[w->n_ports - 1].ns);
    }
    printf("ok %s\n", be_punctual());
    fflush(stdout);
    run(w);
    free(w);
    return 0;
}
