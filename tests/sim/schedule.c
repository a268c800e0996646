/* What happens: a random schedule of faults and of clients that come and go, then peace, then the checks of the end.
 *
 * Each seed first draws what kind of world it is: how many nodes, how far apart, and how often each kind of event happens
 * (some never), so that rare combinations come up.
 * How it fails: a check ends the process. */
#include <string.h>

#include "sim.h"

struct schedule {
    struct sim_world *w;
    struct derpmap *map; /* the latest */
    bool *in;            /* who is in it */
    uint64_t *start_at;  /* of who is stopped */
    int ring;            /* step of the rotation of mesh keys; each node takes it some time later */
    struct sim_way calm; /* how the network is when nothing is wrong */
};

static uint64_t below(struct schedule *s, uint64_t n)
{
    return sim_below(&s->w->rnd, n);
}

static bool one_in(struct schedule *s, uint64_t n)
{
    return below(s, n) == 0;
}

/* A node that runs; -1 if by chance none was found. */
static int running(struct schedule *s)
{
    for (int tries = 0; tries < 50; tries++) {
        int i = (int)below(s, (uint64_t)s->w->n);
        if (s->w->node[i].mesh)
            return i;
    }
    return -1;
}

static int other_than(struct schedule *s, int i)
{
    int j = (int)below(s, (uint64_t)s->w->n - 1);
    return j < i ? j : j + 1;
}

/* ---- clients ---- */

static void client_move(struct schedule *s, int i, int k)
{
    struct sim_world *w = s->w;
    int j = running(s);
    bool home = w->node[i].client[k].home, first_down = one_in(s, 2);
    if (j < 0 || j == i || w->node[j].client[k].up)
        return;
    if (first_down)
        sim_client_down(w, i, k);
    if (one_in(s, 3))
        sim_run(w, w->now + below(s, 300));
    if (w->node[j].mesh && !w->node[j].client[k].up)
        sim_client_up(w, j, k, home);
    if (w->node[i].mesh && w->node[i].client[k].up &&
        !one_in(s, 4)) /* else its old connection is half-dead */
        sim_client_down(w, i, k);
}

static void client_flap(struct schedule *s, int i, int k)
{
    struct sim_world *w = s->w;
    for (uint64_t n = 2 + below(s, 10); n > 0 && w->node[i].mesh; n--) {
        if (w->node[i].client[k].up)
            sim_client_down(w, i, k);
        else
            sim_client_up(w, i, k, one_in(s, 2));
        sim_run(w, w->now + below(s, 400));
    }
}

static void do_client(struct schedule *s)
{
    struct sim_world *w = s->w;
    int i = running(s), k = (int)below(s, SIM_KEYS);
    if (i < 0)
        return;
    if (!w->node[i].client[k].up) {
        sim_client_up(w, i, k, one_in(s, 2));
        return;
    }
    switch (below(s, 4)) {
    case 0:
        sim_client_home(w, i, k, !w->node[i].client[k].home);
        break;
    case 1:
        sim_client_down(w, i, k);
        break;
    default:
        client_move(s, i, k);
    }
}

static void do_flap(struct schedule *s)
{
    int i = running(s);
    if (i >= 0)
        client_flap(s, i, (int)below(s, SIM_KEYS));
}

static void do_data(struct schedule *s)
{
    struct sim_world *w = s->w;
    for (uint64_t n = 1 + below(s, 20); n > 0; n--) {
        int i = running(s), src = (int)below(s, SIM_KEYS), dst = (int)below(s, SIM_KEYS);
        if (i >= 0 && w->node[i].client[src].up)
            sim_inject(w, i, src, dst);
    }
}

/* ---- the network ---- */

/* A connection that works; NULL if by chance none was found. */
static struct sim_conn *working(struct schedule *s)
{
    struct sim_world *w = s->w;
    for (int tries = 0; tries < 50 && w->n_conns; tries++) {
        struct sim_conn *c = w->conn[below(s, w->n_conns)];
        if (c->open[0] && c->open[1] && !c->dead)
            return c;
    }
    return NULL;
}

/* Something is wrong between two nodes, until then. */
static void fault(struct schedule *s, int i, int j, uint64_t until)
{
    struct sim_way *there = sim_way(s->w, i, j), *back = sim_way(s->w, j, i);
    there->fault_at = there->fault_at > until ? there->fault_at : until;
    back->fault_at = back->fault_at > until ? back->fault_at : until;
}

static void do_reset(struct schedule *s)
{
    struct sim_conn *c = working(s);
    if (!c)
        return;
    sim_trace(s->w, "connection %" PRIu64 " node-%d → node-%d is reset", c->number, c->node[0], c->node[1]);
    fault(s, c->node[0], c->node[1], s->w->now);
    sim_reset(s->w, c);
}

/* A firewall forgets a connection. */
static void do_dead(struct schedule *s)
{
    struct sim_conn *c = working(s);
    if (!c)
        return;
    sim_trace(s->w, "connection %" PRIu64 " node-%d → node-%d is dead", c->number, c->node[0], c->node[1]);
    fault(s, c->node[0], c->node[1], s->w->now + MESH_LINK_DEAD_MS + 5000);
    c->dead = true;
}

static void way(struct schedule *s, int i, int j, bool cut)
{
    struct sim_way y = *sim_way(s->w, i, j);
    if (y.cut == cut)
        return;
    y.cut = cut;
    sim_trace(s->w, "node-%d → node-%d: %s", i, j, cut ? "cut" : "healed");
    sim_way_set(s->w, i, j, &y);
}

static void do_cut(struct schedule *s)
{
    int i = (int)below(s, (uint64_t)s->w->n), j = other_than(s, i);
    bool cut = !sim_way(s->w, i, j)->cut, both = one_in(s, 2);
    way(s, i, j, cut);
    if (both)
        way(s, j, i, cut);
}

static void do_partition(struct schedule *s)
{
    struct sim_world *w = s->w;
    uint64_t side = sim_random(&w->rnd);
    bool one_way = one_in(s, 4);
    for (int i = 0; i < w->n; i++)
        for (int j = 0; j < w->n; j++)
            if (i != j && (side >> i & 1) != (side >> j & 1) && (!one_way || side >> i & 1))
                way(s, i, j, true);
}

static void do_heal(struct schedule *s)
{
    struct sim_world *w = s->w;
    for (int i = 0; i < w->n; i++)
        for (int j = 0; j < w->n; j++)
            if (i != j)
                way(s, i, j, false);
}

static void do_degrade(struct schedule *s)
{
    static const uint32_t RATE[] = {0, 0, 20000, 200000};
    int i = (int)below(s, (uint64_t)s->w->n), j = other_than(s, i);
    struct sim_way y = s->calm;
    y.cut = sim_way(s->w, i, j)->cut;
    if (!one_in(s, 3)) {
        y.delay = (uint32_t)below(s, 400);
        y.jitter = (uint32_t)below(s, 200);
        y.loss = (uint32_t)below(s, 150);
        y.rate = RATE[below(s, 4)];
    }
    sim_trace(s->w, "node-%d → node-%d: %u+%u ms, %u ‰ lost, %u B/s", i, j, y.delay, y.jitter, y.loss,
              y.rate);
    sim_way_set(s->w, i, j, &y);
}

static void do_refuse(struct schedule *s)
{
    struct sim_node *x = &s->w->node[below(s, (uint64_t)s->w->n)];
    x->refuses = !x->refuses;
    for (int j = 0; j < s->w->n; j++)
        fault(s, x->index, j, s->w->now);
    sim_trace(s->w, "%s %s connections", x->name, x->refuses ? "refuses" : "accepts");
}

/* ---- nodes ---- */

static void start(struct schedule *s, int i)
{
    struct sim_node *x = &s->w->node[i];
    s->start_at[i] = UINT64_MAX;
    if (one_in(s, 8)) /* the wall clock went back, and with it what was stored */
        x->boot = below(s, UINT64_C(1) << 40);
    else if (one_in(s, 8))
        x->boot += UINT64_C(86400000);
    sim_start(s->w, i, s->in[i] ? s->map : x->map);
}

static void do_restart(struct schedule *s)
{
    int i = running(s);
    if (i < 0)
        return;
    sim_stop(s->w, i, (enum sim_stop)below(s, 3));
    s->start_at[i] = s->w->now + (one_in(s, 2) ? below(s, 300) : below(s, 30000));
}

static void start_due(struct schedule *s)
{
    for (int i = 0; i < s->w->n; i++)
        if (!s->w->node[i].mesh && s->start_at[i] <= s->w->now)
            start(s, i);
}

/* ---- maps and keys ---- */

static void do_map(struct schedule *s)
{
    struct sim_world *w = s->w;
    bool moved[SIM_NODES];
    for (int i = 0; i < w->n; i++) {
        moved[i] = one_in(s, 6);
        if (one_in(s, 12))
            s->in[i] = !s->in[i];
    }
    s->map = sim_map(w, s->in, moved);
    for (int i = 0; i < w->n; i++)
        for (int j = 0; j < w->n; j++) /* links are made anew for some seconds */
            fault(s, i, j, w->now);
}

static void do_take_map(struct schedule *s)
{
    int i = running(s);
    if (i < 0 || !s->in[i] || s->w->node[i].map == s->map)
        return;
    sim_take_map(s->w, i, s->map);
    for (int j = 0; j < s->w->n; j++)
        fault(s, i, j, s->w->now);
}

/* The keyring of a step: the old key; the new one as the second; as the first; alone.  Then again with another. */
static void ring_of(struct mesh_keys *keys, int step)
{
    uint8_t old = (uint8_t)(0x5a + step / 4), fresh = (uint8_t)(0x5b + step / 4);
    int in = step % 4;
    memset(keys, 0, sizeof *keys);
    keys->n = in == 0 || in == 3 ? 1 : 2;
    memset(keys->key[0], in >= 2 ? fresh : old, KEY_LEN);
    if (keys->n == 2)
        memset(keys->key[1], in == 1 ? fresh : old, KEY_LEN);
}

static void take_ring(struct schedule *s, int i)
{
    struct sim_node *x = &s->w->node[i];
    struct mesh_keys keys;
    ring_of(&keys, s->ring);
    if (memcmp(&keys, &x->psk, sizeof keys) == 0)
        return;
    sim_trace(s->w, "%s takes step %d of the mesh keys", x->name, s->ring);
    x->psk = keys;
    for (int j = 0; j < s->w->n; j++)
        fault(s, i, j, s->w->now);
    if (!x->mesh)
        return;
    mesh_set_keys(x->mesh, &keys, s->w->now);
    sim_touch(s->w, i);
}

static void do_keys(struct schedule *s)
{
    struct mesh_keys keys;
    bool all = true;
    ring_of(&keys, s->ring);
    for (int i = 0; i < s->w->n; i++)
        all = all && memcmp(&keys, &s->w->node[i].psk, sizeof keys) == 0;
    s->ring += all;
    take_ring(s, (int)below(s, (uint64_t)s->w->n));
}

/* ---- a whole schedule ---- */

struct kind {
    void (*act)(struct schedule *s);
    unsigned weight; /* at most */
};
static const struct kind KINDS[] = {
    {do_client, 100}, {do_flap, 4},      {do_data, 60},    {do_reset, 20},  {do_dead, 4},
    {do_cut, 8},      {do_partition, 2}, {do_heal, 4},     {do_degrade, 6}, {do_refuse, 2},
    {do_restart, 6},  {do_map, 2},       {do_take_map, 8}, {do_keys, 8},
};
enum { N_KINDS = sizeof KINDS / sizeof *KINDS };

/* A third of the kinds does not happen in a seed; clients and data always do. */
static void act(struct schedule *s, const unsigned weight[N_KINDS], unsigned all)
{
    unsigned at = (unsigned)below(s, all);
    for (int i = 0; i < N_KINDS; i++) {
        if (at < weight[i]) {
            KINDS[i].act(s);
            return;
        }
        at -= weight[i];
    }
}

static void chaos(struct schedule *s)
{
    struct sim_world *w = s->w;
    unsigned weight[N_KINDS], all = 0;
    uint64_t end = w->now + 5000 + below(s, 55000), pause = 20 + below(s, 300);
    for (int i = 0; i < N_KINDS; i++) {
        bool never = KINDS[i].act != do_client && KINDS[i].act != do_data && one_in(s, 3);
        weight[i] = never ? 0 : 1 + (unsigned)below(s, KINDS[i].weight);
        all += weight[i];
    }
    while (w->now < end) {
        sim_run(w, w->now + below(s, pause));
        start_due(s);
        act(s, weight, all);
        sim_check_step(w);
    }
}

/* Everything is put right at once. */
static void peace(struct schedule *s)
{
    struct sim_world *w = s->w;
    sim_trace(w, "peace");
    bool moved[SIM_NODES] = {false};
    for (int i = 0; i < w->n; i++)
        s->in[i] = true;
    s->map = sim_map(w, s->in, moved);
    for (int i = 0; i < w->n; i++) {
        struct sim_node *x = &w->node[i];
        x->refuses = false;
        for (int j = 0; j < w->n; j++)
            if (i != j)
                sim_way_set(w, i, j, &s->calm);
    }
    for (int i = 0; i < w->n; i++) {
        take_ring(s, i);
        if (w->node[i].mesh)
            sim_take_map(w, i, s->map);
        else
            sim_start(w, i, s->map);
    }
}

void sim_schedule(uint64_t seed, bool verbose)
{
    uint64_t rnd = seed;
    int n = 3 + (int)sim_below(&rnd, sim_below(&rnd, 3) ? 3 : 6);
    struct sim_world *w = sim_new(seed, n, verbose);
    bool in[SIM_NODES];
    uint64_t start_at[SIM_NODES];
    struct schedule s = {.w = w, .in = in, .start_at = start_at};
    for (int i = 0; i < n; i++) {
        in[i] = true;
        start_at[i] = UINT64_MAX;
    }
    w->checking = true;
    s.calm = (struct sim_way){.delay = (uint32_t)below(&s, 120), .jitter = (uint32_t)below(&s, 20)};
    s.map = sim_map(w, NULL, NULL);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            *sim_way(w, i, j) = s.calm;
    for (int pairs = one_in(&s, 4) ? n : 0; pairs > 0; pairs--) {
        int i = (int)below(&s, (uint64_t)n), j = other_than(&s, i);
        sim_way(w, i, j)->no_dial = !sim_way(w, j, i)->no_dial;
    }
    for (int i = 0; i < n; i++) {
        w->node[i].lanes = (unsigned)below(&s, 4);
        sim_start(w, i, s.map);
    }
    sim_run(w, w->now + below(&s, 4000));
    for (uint64_t rounds = 1 + below(&s, 2); rounds > 0; rounds--) {
        chaos(&s);
        peace(&s);
        for (int i = 0; i < SIM_HEAL_MS / 2000; i++) {
            sim_run(w, w->now + 2000);
            sim_check_step(w);
        }
        sim_check_converged(w);
    }
    sim_trace(w, "done: %zu connections, %" PRIu64 " frames, %" PRIu64 " packets, fingerprint %016" PRIx64,
              w->n_conns, w->frames, w->packets, w->fingerprint);
    sim_free(w);
}
