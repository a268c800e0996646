/* Traffic between pairs of clients, in groups that differ in size and pace, all in one thread over one epoll.
 *
 * Sender i is client[2i], its receiver client[2i + 1]; a group is a run of pairs.  Each packet carries its sender's index, its
 * number and its time; the receiver checks source, order and content.
 * A group with a rate sends one packet at its time, each with its own send(), as stock clients do; above GATHER_RATE what is
 * due at the same moment leaves together, since the generator would be the limit.  Rate 0: as fast as TCP takes it, many
 * records by one send(). */
#ifndef DERPMESH_BENCH_TRAFFIC_H
#define DERPMESH_BENCH_TRAFFIC_H

#include "client.h"
#include "histogram.h"
#include "process.h"

enum { GROUPS = 2, PAYLOAD_MIN = 40, GATHER_RATE = 60000 };

struct options {
    const char *addr, *to, *host; /* to: where the receivers log in; NULL: there too */
    int pairs, size, idle, herd;
    int beside, beside_size; /* the second group */
    bool beside_same;        /* its packets go to the first group's receivers */
    double rate, beside_rate, seconds, warm, slow, burst_mb, watch;
    bool plain, floor, resume;
    struct processes relays;
};

struct group {
    int first, n; /* pairs */
    int size;
    double rate;
    uint64_t due, index;
    uint64_t sent, received, bytes, held;
    struct histogram latency;
};

struct load {
    struct options o;
    struct target target, target_to;
    struct client *client;
    int n_clients, epoll;
    uint8_t frame[FRAME_HEADER_LEN + KEY_LEN + FRAME_PACKET_MAX];
    struct group group[GROUPS];
    uint64_t wrong, closed;
    uint64_t last_arrival, read_at;
    bool sending, measuring;
};

static const uint64_t second_ns = 1000000000;
uint64_t now_ns(void);

/* Logs in client[from] to client[to - 1], one after the other.  0, or -1 with a line on standard error. */
int load_log_in(struct load *l, int from, int to);
/* Gives each pair of the groups its roles and watches all clients; they send from now on. */
void traffic_start(struct load *l);
void traffic_until(struct load *l, uint64_t end);
/* Sends no more, and waits until all has come or nothing came for a while. */
void traffic_drain(struct load *l);
/* Watches c for these events of epoll; the first time too. */
void load_watch(struct load *l, struct client *c, int op, uint32_t events);

/* What happened between two marks. */
struct mark {
    uint64_t time;
    struct process_use use;
    double own_cpu;
    uint64_t sent[GROUPS], received[GROUPS], bytes[GROUPS];
};
struct mark mark_now(const struct load *l);

#endif
