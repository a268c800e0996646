/* Large meshes: what they cost, and that they come together in time.
 *
 * Each case builds a world of its own, prints what it measured beside what is asked for, and says whether that holds.
 * Bytes and seconds are virtual; CPU is that of this process, which plays all nodes.  docs/scale.md has the figures. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mesh/announce.h"
#include "mesh/ours.h"
#include "mesh/state.h"
#include "sim.h"

enum { NODE_KEYS = 100000, LANES = 2, STEP_MS = 50 };

static bool failed;

static void report(const char *what, double value, const char *unit, double most)
{
    bool good = most < 0 || value <= most;
    failed = failed || !good;
    printf("  %-44s %12.2f %-14s", what, value, unit);
    if (most >= 0)
        printf(" at most %.2f%s", most, good ? "" : "  FAILED");
    putchar('\n');
    fflush(stdout);
}

static double cpu_seconds(void)
{
    return (double)clock() / CLOCKS_PER_SEC;
}

/* ---- worlds ---- */

static struct derp_key client_key(int node, int c)
{
    return sim_key(SIM_KEYS + node * NODE_KEYS + c);
}

static void client_up(struct sim_world *w, int i, int c)
{
    struct derp_key key = client_key(i, c);
    if (mesh_client_up(w->node[i].mesh, &key, true, w->now) != 0)
        sim_fail(w, "mesh_client_up");
    sim_touch(w, i);
}

static void client_down(struct sim_world *w, int i, int c)
{
    struct derp_key key = client_key(i, c);
    mesh_client_down(w->node[i].mesh, &key, w->now);
    sim_touch(w, i);
}

static struct sim_world *world(int nodes)
{
    struct sim_world *w = sim_new(1, nodes, false);
    for (int i = 0; i < nodes; i++)
        for (int j = 0; j < nodes; j++)
            *sim_way(w, i, j) = (struct sim_way){.delay = 10 + (uint32_t)(i * 7 + j * 7) % 40, .jitter = 3};
    for (int i = 0; i < nodes; i++)
        w->node[i].lanes = LANES;
    return w;
}

static void start_all(struct sim_world *w, const struct derpmap *map, int clients)
{
    for (int i = 0; i < w->n; i++) {
        sim_start(w, i, map);
        for (int c = 0; c < clients; c++)
            client_up(w, i, c);
    }
}

/* Whether each node knows all clients of each of its peers. */
static bool converged(struct sim_world *w, int clients)
{
    for (int i = 0; i < w->n; i++) {
        const struct mesh *m = w->node[i].mesh;
        for (uint32_t at = 1; m && at < m->n_peers; at++) {
            const struct peer *p = m->peers[at];
            if (p->node && (!p->link || !p->synced || p->n_keys != (uint32_t)clients))
                return false;
        }
    }
    return true;
}

/* Virtual milliseconds until all know all; UINT64_MAX: not within the limit. */
static uint64_t converge(struct sim_world *w, int clients, uint64_t limit)
{
    uint64_t from = w->now;
    while (!converged(w, clients)) {
        if (w->now - from > limit)
            return UINT64_MAX;
        sim_run(w, w->now + STEP_MS);
    }
    return w->now - from;
}

static uint64_t memory(const struct sim_world *w)
{
    uint64_t all = 0;
    for (int i = 0; i < w->n; i++) {
        struct mesh_counters c;
        mesh_counters(w->node[i].mesh, &c);
        all += c.bytes;
    }
    return all;
}

/* ---- all restart together ---- */

static void restart(int nodes, int clients)
{
    printf("%d nodes with %d clients each restart together\n", nodes, clients);
    struct sim_world *w = world(nodes);
    const struct derpmap *map = sim_map(w, NULL, NULL);
    uint64_t first = 0, last = 0, slowest = 0, bytes = 0;
    double cpu = cpu_seconds();
    start_all(w, map, clients);
    for (int round = 0; round < 4; round++) {
        uint64_t before = w->bytes, ms = converge(w, clients, 60000);
        slowest = ms > slowest ? ms : slowest;
        bytes = w->bytes - before;
        last = memory(w);
        first = round == 1 ? last : first;
        sim_run(w, w->now + 20000);
        if (round == 3)
            break;
        for (int i = 0; i < nodes; i++)
            sim_stop(w, i, SIM_STOP_KILL);
        start_all(w, map, clients);
    }
    report("all know all, slowest of four", (double)slowest / 1000, "s", 15);
    report("control bytes of one restart", (double)bytes / 1e6, "MB", -1);
    report("… per client, node and peer", (double)bytes / nodes / (nodes - 1) / clients, "B", 80);
    report("key tables of one node", (double)last / nodes / 1e6, "MB", -1);
    report("growth from the second start to the fourth", (double)last / (double)first, "times", 1.01);
    report("CPU per node and start", (cpu_seconds() - cpu) / nodes / 4, "s", -1);
    sim_free(w);
}

/* ---- many keys ---- */

/* What so many reconnects at one node cost in control bytes, beyond what an idle mesh costs. */
static double changes(struct sim_world *w, int n, int clients)
{
    enum { IDLE_MS = 60000 };
    uint64_t bytes = w->bytes;
    sim_run(w, w->now + IDLE_MS);
    double idle = (double)(w->bytes - bytes) / IDLE_MS;
    bytes = w->bytes;
    uint64_t from = w->now;
    for (int i = 0; i < n; i++) {
        int c = (int)sim_below(&w->rnd, (uint64_t)clients);
        client_down(w, 0, c);
        sim_run(w, w->now + 20);
        client_up(w, 0, c);
        sim_run(w, w->now + 80);
    }
    return (double)(w->bytes - bytes) - idle * (double)(w->now - from);
}

/* CPU of so many reconnects, told to all peers at once. */
static double cpu_of_changes(struct sim_world *w, int n, int clients)
{
    sim_run(w, w->now + 1500);
    double cpu = cpu_seconds();
    for (int i = 0; i < n; i++) {
        int c = (int)sim_below(&w->rnd, (uint64_t)clients);
        client_down(w, 0, c);
        client_up(w, 0, c);
    }
    sim_run(w, w->now + 200);
    return cpu_seconds() - cpu;
}

/* Two of the nodes are linked with all, the others with these two: as dear for the two as a full mesh, in less memory here. */
static void many(int nodes, int clients, int n_changes)
{
    enum { HUBS = 2 };
    printf("%d nodes, %d keys; two nodes are looked at\n", nodes, nodes * clients);
    struct sim_world *w = world(nodes);
    const struct derpmap *all = sim_map(w, NULL, NULL);
    double cpu = cpu_seconds();
    for (int i = 0; i < nodes; i++) {
        bool in[SIM_NODES] = {[0] = true, [1] = true};
        in[i] = true;
        w->node[i].lanes = 0;
        sim_start(w, i, i < HUBS ? all : sim_map(w, in, NULL));
        for (int c = 0; c < clients; c++)
            client_up(w, i, c);
    }
    uint64_t ms = converge(w, clients, 120000);
    struct mesh_counters c;
    mesh_counters(w->node[1].mesh, &c);
    report("the two know all after", (double)ms / 1000, "s", 60);
    report("CPU for each key taken in", (cpu_seconds() - cpu) * 1e6 / nodes / clients / HUBS, "µs", -1);
    report("keys elsewhere that one knows", (double)c.n_remote_keys, "", -1);
    uint64_t own = ours_bytes(w->node[1].mesh);
    report("memory for each key and copy", (double)(c.bytes - own) / (double)c.n_remote_keys, "B", 64);
    report("memory for each own client", (double)own / clients, "B", -1);
    sim_run(w, w->now + 60000);
    double bytes = changes(w, n_changes, clients);
    report("bytes for each reconnect and link", bytes / n_changes / (nodes - 1), "B", 100);
    double per = cpu_of_changes(w, clients / 2, clients) * 1e6 / (clients / 2.0) / (nodes - 1);
    report("CPU for each reconnect and link, both ends", per, "µs", -1);
    sim_free(w);
}

/* ---- a large node dies ---- */

static void death(int nodes, int clients)
{
    printf("%d nodes with %d clients each, one dies silently\n", nodes, clients);
    struct sim_world *w = world(nodes);
    start_all(w, sim_map(w, NULL, NULL), clients);
    if (converge(w, clients, 60000) == UINT64_MAX)
        sim_fail(w, "not converged");
    sim_run(w, w->now + 20000);
    uint64_t first = 0, from = w->now, bytes = w->bytes;
    double worst = 0;
    sim_stop(w, 0, SIM_STOP_POWER);
    for (; w->now < from + 180000 && w->node[1].gone_total < (uint64_t)clients;) {
        double cpu = cpu_seconds();
        sim_run(w, w->now + STEP_MS);
        worst = cpu_seconds() - cpu > worst ? cpu_seconds() - cpu : worst;
        first = !first && w->node[1].gone_total ? w->now : first;
    }
    sim_run(w, w->now + 30000);
    uint64_t most = 0, said = 0;
    for (int i = 1; i < nodes; i++) {
        most = w->node[i].gone_max > most ? w->node[i].gone_max : most;
        said += w->node[i].gone_total;
    }
    report("first PeerGone after", (double)(first - from) / 1000, "s", -1);
    report("PeerGone in 50 ms at most", (double)most, "keys", PEER_GONE_BATCH);
    report("PeerGone said by each of the others", (double)said / (nodes - 1), "keys", clients);
    report("control bytes by then, each way of a link",
           (double)(w->bytes - bytes) / (nodes - 1) / (nodes - 2) / 1000, "kB", -1);
    report("CPU in the worst 50 ms, all nodes", worst * 1000, "ms", -1);
    sim_free(w);
}

/* ---- everyday traffic ---- */

/* Every client reconnects once a minute, for so long. */
static void churn(struct sim_world *w, int clients, uint64_t ms)
{
    uint64_t all = (uint64_t)w->n * (uint64_t)clients, end = w->now + ms;
    double due = 0;
    while (w->now < end) {
        due += (double)all * STEP_MS / 60000;
        for (; due >= 1; due--) {
            int i = (int)sim_below(&w->rnd, (uint64_t)w->n), c = (int)sim_below(&w->rnd, (uint64_t)clients);
            client_down(w, i, c);
            client_up(w, i, c);
        }
        sim_run(w, w->now + STEP_MS);
    }
}

static void traffic(int nodes, int clients)
{
    enum { MS = 120000 };
    printf("%d nodes with %d clients each, which reconnect once a minute\n", nodes, clients);
    struct sim_world *w = world(nodes);
    double ways = nodes * (nodes - 1);
    start_all(w, sim_map(w, NULL, NULL), clients);
    converge(w, clients, 60000);
    sim_run(w, w->now + 60000);
    uint64_t bytes = w->bytes;
    sim_run(w, w->now + MS);
    report("idle, each way of a link", (double)(w->bytes - bytes) / ways * 1000 / MS, "B/s", 1000);
    bytes = w->bytes;
    churn(w, clients, MS);
    double rate = (double)(w->bytes - bytes) / ways * 1000 / MS;
    report("with the reconnects, each way of a link", rate, "B/s", 1000 + clients / 60.0 * 100);
    report("… of it for each reconnect", rate * 60 / clients, "B", -1);
    report("CPU per node and minute of that", cpu_seconds() / nodes, "s", -1);
    sim_free(w);
}

/* ---- a partition ---- */

/* How many entries of a node's set have changed since each scope had that seq. */
static uint64_t changed(const struct mesh *m, int scope, uint64_t since)
{
    uint64_t n = 0;
    for (uint32_t s = 0; s < m->n_slots; s++)
        n += m->slot[s].in[scope].seq > since;
    return n;
}

static void cut_halves(struct sim_world *w, bool cut)
{
    for (int i = 0; i < w->n; i++)
        for (int j = 0; j < w->n; j++) {
            struct sim_way y = *sim_way(w, i, j);
            y.cut = cut;
            if (i % 2 != j % 2)
                sim_way_set(w, i, j, &y);
        }
}

static uint64_t entries_sent(const struct sim_world *w)
{
    uint64_t all = 0;
    for (int i = 0; i < w->n; i++) {
        struct mesh_counters c;
        mesh_counters(w->node[i].mesh, &c);
        all += c.entries_sent;
    }
    return all;
}

static void partition(int nodes, int clients, uint64_t ms)
{
    printf("%d nodes with %d clients each, parted in two for %u s, while clients reconnect\n", nodes, clients,
           (unsigned)(ms / 1000));
    struct sim_world *w = world(nodes);
    uint64_t since[SIM_NODES][SCOPES], expected = 0;
    start_all(w, sim_map(w, NULL, NULL), clients);
    converge(w, clients, 60000);
    sim_run(w, w->now + 20000);
    for (int i = 0; i < nodes; i++)
        for (int s = 0; s < SCOPES; s++)
            since[i][s] = w->node[i].mesh->scope[s].seq;
    cut_halves(w, true);
    churn(w, clients, ms);
    sim_run(w, w->now + 3000); /* what is told inside the halves has been */
    uint64_t entries = entries_sent(w), bytes = w->bytes;
    for (int i = 0; i < nodes; i++)
        for (int j = 0; j < nodes; j++)
            if (i % 2 != j % 2)
                expected +=
                    changed(w->node[i].mesh, w->node[i].region == w->node[j].region ? SCOPE_NEAR : SCOPE_FAR,
                            since[i][w->node[i].region == w->node[j].region ? SCOPE_NEAR : SCOPE_FAR]);
    cut_halves(w, false);
    uint64_t healed = converge(w, clients, 120000);
    report("all know all again after", (double)healed / 1000, "s", ms < 60000 ? 20 : 60);
    entries = entries_sent(w) - entries;
    report("entries sent for each that had changed", (double)entries / (double)expected, "", 1.2);
    report("control bytes for each of them", (double)(w->bytes - bytes) / (double)expected, "B", -1);
    sim_free(w);
}

int sim_scale(bool is_long)
{
    if (is_long) {
        restart(50, 2000);
        many(100, 10000, 500);
        death(5, 10000);
        traffic(10, 1000);
        partition(10, 1000, 60000);
    } else {
        restart(12, 500);
        many(30, 1000, 50);
        death(4, 2000);
        traffic(6, 200);
        partition(6, 200, 60000);
    }
    puts(failed ? "FAILED" : "passed");
    return failed;
}
