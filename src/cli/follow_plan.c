/* See follow_plan.h.
 *
 * Happy path: answers and votes come in, follow_plan_step judges every node by them, and says what it has decided.
 * What it cannot decide stays as it was, and is said once. */
#include "cli/follow_plan.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAY_MAX = 480, MUTE_MS = 60000 };

struct vote {
    int who;
    uint64_t at;
    bool up;
};

struct node {
    bool watched, dead;
    uint64_t silent_after;
    uint64_t heard, heard_since; /* 0: never; heard_since: no gap since then */
    uint64_t mute_until;         /* it cannot be asked about others */
    uint64_t restored;           /* when it last came back; 0: never */
    unsigned deaths;             /* soon one after the other */
    bool said;                   /* why nothing is decided about it */
    struct vote votes[FOLLOW_VOTERS];
};

struct follow_plan {
    struct follow_plan_params with;
    struct node *nodes; /* by map->nodes */
    int n_watched;
    uint64_t started;
    bool lonely;  /* too few nodes are heard */
    bool decided; /* once enough were */
};

static void say(struct follow_plan *p, bool warn, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static void say(struct follow_plan *p, bool warn, const char *fmt, ...)
{
    char line[SAY_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    p->with.say(p->with.ctx, warn, line);
}

static const struct derpmap_node *in_map(const struct follow_plan *p, int node)
{
    return &p->with.map->nodes[node];
}

/* What was known of a node of that name. */
static void carry_on(struct follow_plan *p, int node)
{
    const struct follow_plan *before = p->with.before;
    const struct derpmap_node *old = before ? derpmap_find(before->with.map, in_map(p, node)->id) : NULL;

    if (!old || !derpmap_node_same(old, in_map(p, node)))
        return;
    const struct node *was = &before->nodes[old - before->with.map->nodes];
    struct node *n = &p->nodes[node];
    n->dead = was->dead;
    n->heard = was->heard;
    n->restored = was->restored;
    n->deaths = was->deaths;
}

struct follow_plan *follow_plan_new(const struct follow_plan_params *params)
{
    struct follow_plan *p = calloc(1, sizeof(*p));
    const struct derpmap *m = params->map;

    if (p)
        p->nodes = calloc((size_t)m->n_nodes + 1, sizeof(*p->nodes));
    if (!p || !p->nodes) {
        follow_plan_free(p);
        return NULL;
    }
    p->with = *params;
    p->started = params->now;
    for (int i = 0; i < m->n_nodes; i++) {
        struct node *n = &p->nodes[i];
        n->watched = !m->nodes[i].backup && !m->nodes[i].stun_only;
        p->n_watched += n->watched;
        if (n->watched)
            carry_on(p, i);
    }
    uint64_t silent = follow_plan_every(p) * FOLLOW_SILENT_MS / FOLLOW_EVERY_MS;
    for (int i = 0; i < m->n_nodes; i++) {
        bool stun = derpmap_stun_port(&m->nodes[i]) > 0;
        p->nodes[i].silent_after = stun || silent > FOLLOW_SILENT_HTTP_MS ? silent : FOLLOW_SILENT_HTTP_MS;
    }
    p->with.before = NULL; /* it may go now */
    return p;
}

void follow_plan_free(struct follow_plan *p)
{
    if (p)
        free(p->nodes);
    free(p);
}

bool follow_plan_watched(const struct follow_plan *p, int node)
{
    return p->nodes[node].watched;
}

uint64_t follow_plan_every(const struct follow_plan *p)
{
    return p->n_watched > FOLLOW_EVERY_MS ? (uint64_t)p->n_watched : FOLLOW_EVERY_MS;
}

bool follow_plan_dead(const struct follow_plan *p, int node)
{
    return p->nodes[node].dead;
}

uint64_t follow_plan_silence(const struct follow_plan *p, int node, uint64_t now)
{
    uint64_t since = p->nodes[node].heard > p->started ? p->nodes[node].heard : p->started;

    return now > since ? now - since : 0;
}

bool follow_plan_reached(const struct follow_plan *p, int node, uint64_t now)
{
    const struct node *n = &p->nodes[node];

    return n->heard > 0 && now - n->heard < n->silent_after;
}

void follow_plan_heard(struct follow_plan *p, int node, uint64_t now)
{
    struct node *n = &p->nodes[node];

    if (!n->heard_since || now - n->heard >= n->silent_after)
        n->heard_since = now;
    n->heard = now;
}

/* ---- what the others say ---- */

void follow_plan_vote(struct follow_plan *p, int node, int who, enum follow_vote vote, uint64_t now)
{
    struct vote *votes = p->nodes[node].votes, *at = &votes[0];

    if (vote == FOLLOW_VOTE_NONE) {
        p->nodes[who].mute_until = now + MUTE_MS;
        return;
    }
    for (int i = 0; i < FOLLOW_VOTERS; i++) {
        if (votes[i].at && votes[i].who == who) {
            at = &votes[i];
            break;
        }
        if (votes[i].at < at->at)
            at = &votes[i];
    }
    *at = (struct vote){.who = who, .at = now, .up = vote == FOLLOW_VOTE_UP};
}

static int may_vote(const struct follow_plan *p, int node, uint64_t now, int out[static FOLLOW_VOTERS])
{
    int n = 0;

    for (int i = 0; i < p->with.map->n_nodes && n < FOLLOW_VOTERS; i++)
        if (i != node && p->nodes[i].watched && p->nodes[i].mute_until <= now &&
            follow_plan_reached(p, i, now))
            out[n++] = i;
    return n;
}

int follow_plan_voters(const struct follow_plan *p, int node, uint64_t now, int out[static FOLLOW_VOTERS])
{
    const struct node *n = &p->nodes[node];
    bool silent = follow_plan_silence(p, node, now) >= 2 * follow_plan_every(p);

    /* A living one that is silent, or a dead one that is not. */
    return n->watched && n->dead != silent ? may_vote(p, node, now, out) : 0;
}

struct count {
    int up, silent, waiting;
    char names[200]; /* of those who say that it is silent; or of one who hears it */
};

static void add_name(struct count *c, const char *name)
{
    size_t n = strlen(c->names);

    snprintf(c->names + n, sizeof(c->names) - n, "%s%s", n ? ", " : "", name);
}

/* Votes since the node was last heard (or, of a dead one, of late), of those who may vote. */
static struct count count_votes(const struct follow_plan *p, int node, uint64_t now)
{
    const struct node *n = &p->nodes[node];
    int voters[FOLLOW_VOTERS], n_voters = may_vote(p, node, now, voters);
    struct count c = {.waiting = n_voters};

    for (int i = 0; i < FOLLOW_VOTERS; i++) {
        const struct vote *v = &n->votes[i];
        bool counts = v->at && now - v->at < FOLLOW_VOTE_MS && (n->dead || v->at > n->heard);
        bool known = false;
        for (int k = 0; k < n_voters; k++)
            known |= voters[k] == v->who;
        if (!counts || !known)
            continue;
        c.waiting--;
        if (v->up && c.up++ == 0)
            snprintf(c.names, sizeof(c.names), "%s", in_map(p, v->who)->id);
        else if (!v->up && c.silent++ >= 0 && c.up == 0)
            add_name(&c, in_map(p, v->who)->id);
    }
    return c;
}

/* ---- decisions ---- */

/* This observer counts itself: with two nodes, one that both it and the other do not hear is dead. */
static bool majority(struct follow_plan *p, uint64_t now)
{
    int reached = 0;

    for (int i = 0; i < p->with.map->n_nodes; i++)
        reached += p->nodes[i].watched && follow_plan_reached(p, i, now);
    bool enough = reached > 0 && 2 * (reached + 1) > p->n_watched + 1;
    if (!enough && !p->lonely)
        say(p, true,
            "only %d of %d nodes answer here: it may be this machine that is cut off, so nothing is changed",
            reached, p->n_watched);
    else if (enough && p->lonely)
        say(p, false, "%d of %d nodes answer here again", reached, p->n_watched);
    p->lonely = !enough;
    return enough;
}

static void bury(struct follow_plan *p, int node, const struct count *c, uint64_t now)
{
    struct node *n = &p->nodes[node];

    n->deaths = n->restored && now - n->restored < FOLLOW_CALM_MS ? n->deaths + 1 : 0;
    n->dead = true;
    n->heard_since = 0;
    n->said = false;
    say(p, true, "%s of region %d is dead: silent for %.1f s here, and %s do%s not hear it",
        in_map(p, node)->id, in_map(p, node)->region_id, (double)follow_plan_silence(p, node, now) / 1000,
        c->names, c->silent == 1 ? "es" : "");
}

static void judge_living(struct follow_plan *p, int node, bool enough, uint64_t now)
{
    struct node *n = &p->nodes[node];
    uint64_t silence = follow_plan_silence(p, node, now);

    if (silence < n->silent_after) {
        n->said = false;
        return;
    }
    struct count c = count_votes(p, node, now);
    if (enough && c.up == 0 && c.silent > 0 &&
        (c.waiting == 0 || silence >= n->silent_after + FOLLOW_PATIENCE_MS)) {
        bury(p, node, &c, now);
        return;
    }
    if (n->said || !enough || silence < n->silent_after + 2 * FOLLOW_PATIENCE_MS)
        return;
    n->said = true;
    if (c.up)
        say(p, true, "%s does not answer here, but %s hears it: nothing is changed", in_map(p, node)->id,
            c.names);
    else
        say(p, true,
            "%s does not answer here, and no other node says whether it hears it (they must be derpmesh "
            "nodes of one "
            "mesh): nothing is changed",
            in_map(p, node)->id);
}

static uint64_t back_after(const struct node *n)
{
    unsigned doublings = n->deaths < 8 ? n->deaths : 8;
    uint64_t ms = (uint64_t)FOLLOW_BACK_MS << doublings;

    return ms < FOLLOW_BACK_MAX_MS ? ms : FOLLOW_BACK_MAX_MS;
}

static void judge_dead(struct follow_plan *p, int node, bool enough, uint64_t now)
{
    struct node *n = &p->nodes[node];

    if (!enough || !n->heard_since || !follow_plan_reached(p, node, now) ||
        now - n->heard_since < back_after(n))
        return;
    struct count c = count_votes(p, node, now);
    if (c.silent > 0 || c.up == 0)
        return;
    n->dead = false;
    n->restored = now;
    say(p, false, "%s of region %d is back: heard for %.0f s here, and by %s", in_map(p, node)->id,
        in_map(p, node)->region_id, (double)(now - n->heard_since) / 1000, c.names);
}

/* Just begun, and about a node that is silent not all who were asked have answered. */
static bool undecided(const struct follow_plan *p, uint64_t now)
{
    if (now - p->started >= 2 * FOLLOW_START_MS)
        return false;
    for (int i = 0; i < p->with.map->n_nodes; i++)
        if (p->nodes[i].watched && !p->nodes[i].dead && !follow_plan_reached(p, i, now) &&
            count_votes(p, i, now).waiting > 0)
            return true;
    return false;
}

bool follow_plan_step(struct follow_plan *p, uint64_t now)
{
    if (now - p->started < FOLLOW_START_MS || (!p->decided && undecided(p, now)))
        return false;
    bool enough = majority(p, now);
    p->decided |= enough;
    for (int i = 0; i < p->with.map->n_nodes; i++) {
        if (!p->nodes[i].watched)
            continue;
        if (p->nodes[i].dead)
            judge_dead(p, i, enough, now);
        else
            judge_living(p, i, enough, now);
    }
    return p->decided;
}

/* ---- what the regions list ---- */

/* The region's first living node; stand-ins must answer STUN too.  -1 if there is none. */
static int first_living(const struct follow_plan *p, const struct derpmap_region *r, bool stun)
{
    for (int i = 0; i < r->n_nodes; i++) {
        int node = (int)(r->nodes[i] - p->with.map->nodes);
        if (p->nodes[node].watched && !p->nodes[node].dead && (!stun || derpmap_stun_port(r->nodes[i]) > 0))
            return node;
    }
    return -1;
}

static const struct derpmap_node *choose(const struct follow_plan *p, int region, int *order)
{
    const struct derpmap *m = p->with.map;
    const struct derpmap_region *r = &m->regions[region];
    int node = first_living(p, r, false);

    if (node < 0) {
        int others = near_order(p->with.near, region, order);
        for (int i = 0; i < others && node < 0; i++)
            node = first_living(p, &m->regions[order[i]], true);
    }
    return node < 0 ? r->nodes[0] : &m->nodes[node]; /* of nothing that relays: as it is */
}

int follow_plan_listings(const struct follow_plan *p, struct derpmap_listing *out)
{
    const struct derpmap *m = p->with.map;
    int *order = calloc((size_t)m->n_regions + 1, sizeof(*order)), n = 0;

    for (int i = 0; order && i < m->n_regions; i++) {
        const struct derpmap_region *r = &m->regions[i];
        if (r->removed || r->n_nodes == 0)
            continue;
        const struct derpmap_node *node = choose(p, i, order);
        out[n++] = (struct derpmap_listing){
            .region_id = r->id, .node = node, .no_stun = derpmap_stun_port(node) < 0};
    }
    free(order);
    return n;
}
