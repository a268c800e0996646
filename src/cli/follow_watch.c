/* See follow_watch.h.
 *
 * Happy path: addresses of each node (asked for again now and then, and where it is silent), a STUN request each round, an
 * HTTPS request every ten seconds (every second where there is no STUN); while a node's state is in doubt, the others are
 * asked about it, one question at a time each.
 * Fails: what does not answer is silent; why it cannot be asked is logged, rarely. */
#include "cli/follow_watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/log.h"

enum {
    HTTPS_MS = 10000,     /* a node that answers STUN */
    HTTPS_ONLY_MS = 1000, /* one that has none */
    RESOLVE_MS = 60000,
    RESOLVE_SILENT_MS = 5000,
    NEXT_ADDRESS_MS = 2000,
    VOTE_MS = 250,       /* between two questions about a node that has just fallen silent */
    VOTE_SLOW_MS = 2000, /* one that has been so for longer */
    DOUBT_MS = 15000,
};

struct watched {
    struct follow_watch *w;
    int node;
    struct resolve resolve;
    struct sockaddr_storage addr[RESOLVE_MAX];
    int n_addr, at;
    bool resolving;
    uint64_t resolve_at, stun_at, https_at, turn_at;
    struct follow_stun stun;
    struct follow_ask *https;
    unsigned https_failed; /* one after the other, while STUN is answered */
};

/* A question to one node about another. */
struct voter {
    struct follow_watch *w;
    struct follow_ask *ask;
    int who, about;
    struct voter *next;
};

struct follow_watch {
    struct follow_watch_params p;
    struct watched *nodes; /* by map->nodes */
    uint64_t *voted_at;    /* when the others were last asked about a node */
    struct voter *voters;
    bool stopping;
};

static uint64_t now_ms(void)
{
    return uv_hrtime() / 1000000;
}

static const struct derpmap_node *in_map(const struct watched *n)
{
    return &n->w->p.map->nodes[n->node];
}

/* ---- addresses ---- */

static void on_resolved(struct resolve *r, int err)
{
    struct watched *n = r->ctx;
    n->resolving = false;
    if (n->w->stopping)
        return;
    if (err) {
        log_limited(LOG_WARN, "follow", "cannot resolve node=%s why=\"%s\"", in_map(n)->id, uv_strerror(err));
        return;
    }
    bool same = r->n == n->n_addr && memcmp(r->addr, n->addr, (size_t)r->n * sizeof(r->addr[0])) == 0;
    if (same)
        return;
    memcpy(n->addr, r->addr, sizeof(n->addr));
    n->n_addr = r->n;
    n->at = 0;
    follow_stun_stop(&n->stun);
}

static void look_up(struct watched *n, uint64_t now)
{
    bool silent = !follow_plan_reached(n->w->p.plan, n->node, now);
    if (n->resolving || now < n->resolve_at)
        return;
    n->resolve_at = now + (silent ? RESOLVE_SILENT_MS : RESOLVE_MS);
    n->resolving = true;
    if (resolve_start(&n->resolve, n->w->p.io->loop, in_map(n), 0, on_resolved, n) != 0)
        n->resolving = false;
}

/* Its address with a port; NULL if it has none yet. */
static const struct sockaddr *address(const struct watched *n, int port, struct sockaddr_storage *out)
{
    if (n->n_addr == 0)
        return NULL;
    *out = n->addr[n->at % n->n_addr];
    if (out->ss_family == AF_INET6)
        ((struct sockaddr_in6 *)out)->sin6_port = htons((uint16_t)port);
    else
        ((struct sockaddr_in *)out)->sin_port = htons((uint16_t)port);
    return (const struct sockaddr *)out;
}

/* STUNTestIP stands for the node's address where the map has one, as in netcheck. */
static const struct sockaddr *stun_address(const struct watched *n, struct sockaddr_storage *out)
{
    const char *ip = in_map(n)->stun_test_ip;
    int port = derpmap_stun_port(in_map(n));
    if (ip && (uv_ip4_addr(ip, port, (struct sockaddr_in *)out) == 0 ||
               uv_ip6_addr(ip, port, (struct sockaddr_in6 *)out) == 0))
        return (const struct sockaddr *)out;
    return address(n, port, out);
}

/* One address of several that does not answer: the next one. */
static void turn(struct watched *n, uint64_t now)
{
    if (n->n_addr < 2 || now < n->turn_at || follow_plan_reached(n->w->p.plan, n->node, now))
        return;
    n->turn_at = now + NEXT_ADDRESS_MS;
    n->at = (n->at + 1) % n->n_addr;
    follow_stun_stop(&n->stun);
}

/* ---- a node's own answers ---- */

static void on_heard(void *ctx)
{
    struct watched *n = ctx;
    follow_plan_heard(n->w->p.plan, n->node, now_ms());
}

static void on_https(void *ctx, int status, const char *body, const char *why)
{
    struct watched *n = ctx;
    bool stun = derpmap_stun_port(in_map(n)) > 0;
    (void)body;
    n->https = NULL;
    if (n->w->stopping)
        return;
    if (status == 200) {
        if (n->https_failed >= 2)
            log_info("follow", "answers HTTPS again node=%s", in_map(n)->id);
        n->https_failed = 0;
        if (!stun)
            follow_plan_heard(n->w->p.plan, n->node, now_ms());
    } else if (follow_plan_reached(n->w->p.plan, n->node, now_ms()) && ++n->https_failed == 2) {
        log_warn(
            "follow",
            "node=%s answers STUN, so clients may make it their home, but not HTTPS, so they cannot use it: "
            "status=%d why=\"%s\"",
            in_map(n)->id, status, why);
    }
}

static void ask_itself(struct watched *n, uint64_t now)
{
    struct sockaddr_storage ss;
    bool stun = derpmap_stun_port(in_map(n)) > 0;
    const struct sockaddr *addr = address(n, derpmap_derp_port(in_map(n)), &ss);
    if (n->https || now < n->https_at || !addr)
        return;
    n->https_at = now + (stun ? HTTPS_MS : HTTPS_ONLY_MS);
    n->https = follow_ask_new(&(struct follow_question){.io = n->w->p.io,
                                                        .tls = n->w->p.tls,
                                                        .node = in_map(n),
                                                        .addr = addr,
                                                        .target = "/derp/probe",
                                                        .done = on_https,
                                                        .ctx = n});
}

static void tick_node(struct watched *n, uint64_t now, uint64_t every)
{
    struct sockaddr_storage ss;
    look_up(n, now);
    turn(n, now);
    if (derpmap_stun_port(in_map(n)) > 0 && now >= n->stun_at) {
        const struct sockaddr *addr = stun_address(n, &ss);
        n->stun_at = now + every;
        if (addr)
            follow_stun_ask(&n->stun, addr);
    }
    ask_itself(n, now);
}

/* ---- what the others say ---- */

static void voter_free(struct voter *v)
{
    struct voter **at = &v->w->voters;
    while (*at != v)
        at = &(*at)->next;
    *at = v->next;
    free(v);
}

static void on_vote(void *ctx, int status, const char *body, const char *why)
{
    struct voter *v = ctx;
    enum follow_vote vote = FOLLOW_VOTE_NONE;
    if (status == 200 && strstr(body, "\"state\": \"up\""))
        vote = FOLLOW_VOTE_UP;
    else if (status == 200 && strstr(body, "\"state\": \"silent\""))
        vote = FOLLOW_VOTE_SILENT;
    if (!v->w->stopping && status)
        follow_plan_vote(v->w->p.plan, v->about, v->who, vote, now_ms());
    else if (!v->w->stopping)
        log_debug("follow", "no answer from node=%s why=\"%s\"", v->w->p.map->nodes[v->who].id, why);
    voter_free(v);
}

static bool being_asked(const struct follow_watch *w, int who, int about)
{
    for (const struct voter *v = w->voters; v; v = v->next)
        if (v->who == who && v->about == about)
            return true;
    return false;
}

/* "/derp/peer?q=NAME", everything unusual as %XX. */
static void vote_target(char *out, size_t size, const char *name)
{
    size_t n = (size_t)snprintf(out, size, "/derp/peer?q=");
    for (; *name && n + 4 < size; name++) {
        unsigned char c = (unsigned char)*name;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                     c == '.' || c == '_';
        n += (size_t)snprintf(out + n, size - n, plain ? "%c" : "%%%02X", c);
    }
}

static void ask_voter(struct follow_watch *w, int who, int about)
{
    struct watched *n = &w->nodes[who];
    struct sockaddr_storage ss;
    const struct sockaddr *addr = address(n, derpmap_derp_port(in_map(n)), &ss);
    struct voter *v = addr && !being_asked(w, who, about) ? calloc(1, sizeof(*v)) : NULL;
    char target[512];
    if (!v)
        return;
    vote_target(target, sizeof(target), w->p.map->nodes[about].id);
    *v = (struct voter){.w = w, .who = who, .about = about, .next = w->voters};
    w->voters = v;
    v->ask = follow_ask_new(&(struct follow_question){.io = w->p.io,
                                                      .tls = w->p.tls,
                                                      .node = in_map(n),
                                                      .addr = addr,
                                                      .target = target,
                                                      .done = on_vote,
                                                      .ctx = v});
    if (!v->ask)
        voter_free(v);
}

static void ask_others(struct follow_watch *w, int about, uint64_t now)
{
    int voters[FOLLOW_VOTERS], n = follow_plan_voters(w->p.plan, about, now, voters);
    bool slow = follow_plan_dead(w->p.plan, about) || follow_plan_silence(w->p.plan, about, now) > DOUBT_MS;
    if (n == 0 || now < w->voted_at[about] + (slow ? VOTE_SLOW_MS : VOTE_MS))
        return;
    w->voted_at[about] = now;
    for (int i = 0; i < n; i++)
        ask_voter(w, voters[i], about);
}

/* ---- all of it ---- */

struct follow_watch *follow_watch_new(const struct follow_watch_params *p)
{
    struct follow_watch *w = calloc(1, sizeof(*w));
    if (w) {
        w->p = *p;
        w->nodes = calloc((size_t)p->map->n_nodes + 1, sizeof(*w->nodes));
        w->voted_at = calloc((size_t)p->map->n_nodes + 1, sizeof(*w->voted_at));
    }
    if (!w || !w->nodes || !w->voted_at) {
        follow_watch_free(w);
        return NULL;
    }
    for (int i = 0; i < p->map->n_nodes; i++) {
        struct watched *n = &w->nodes[i];
        n->w = w;
        n->node = i;
        n->stun = (struct follow_stun){.io = p->io, .heard = on_heard, .ctx = n};
    }
    return w;
}

void follow_watch_tick(struct follow_watch *w, uint64_t now)
{
    uint64_t every = follow_plan_every(w->p.plan);
    for (int i = 0; i < w->p.map->n_nodes; i++) {
        if (!follow_plan_watched(w->p.plan, i))
            continue;
        tick_node(&w->nodes[i], now, every);
        ask_others(w, i, now);
    }
}

void follow_watch_stop(struct follow_watch *w)
{
    w->stopping = true;
    for (int i = 0; i < w->p.map->n_nodes; i++) {
        struct watched *n = &w->nodes[i];
        follow_stun_stop(&n->stun);
        if (n->https)
            follow_ask_cancel(n->https);
        if (n->resolving)
            uv_cancel((uv_req_t *)&n->resolve.req);
    }
    for (struct voter *v = w->voters; v; v = v->next)
        follow_ask_cancel(v->ask);
}

void follow_watch_free(struct follow_watch *w)
{
    if (!w)
        return;
    free(w->nodes);
    free(w->voted_at);
    free(w);
}
