/* Which nodes of a map are dead, and what each region of the control server's map lists therefore.
 *
 * A node is dead when this observer has not heard it for FOLLOW_SILENT_MS, and every node that can be asked says that it does not
 * hear it either, and this observer hears so many nodes that it cannot be the one that is cut off.  It is alive again when it
 * has been heard for a while without a gap and the mesh hears it too; the while doubles each time that it dies again soon.
 * A region lists one node: its first living one, else the first living one of the nearest region that has one.  That
 * depends on the map and on which nodes are dead alone, so that several observers come to the same.
 *
 *            silent here, nobody hears it, a majority heard
 *     ALIVE ────────────────────────────────────────────────▶ DEAD
 *       ▲        heard for a while, the mesh hears it          │
 *       └──────────────────────────────────────────────────────┘
 *
 * Pure: no sockets, no clock (now, in ms, is an argument); what happens is told through say.
 * Owner: who makes it; map and near outlive it.  Fails: NULL without memory. */
#ifndef DERPMESH_CLI_FOLLOW_PLAN_H
#define DERPMESH_CLI_FOLLOW_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/near.h"

enum {
    FOLLOW_EVERY_MS = 250,        /* between two STUN requests to a node, of at most 250 nodes */
    FOLLOW_SILENT_MS = 1200,      /* without an answer to them: dead, if the others agree */
    FOLLOW_SILENT_HTTP_MS = 5000, /* a node without STUN, asked by HTTPS */
    FOLLOW_VOTE_MS = 3000,        /* how long what another node said counts */
    FOLLOW_PATIENCE_MS = 1500,    /* those who have not answered by then are not waited for */
    FOLLOW_START_MS = 4000,       /* nothing is decided before */
    FOLLOW_BACK_MS = 5000,        /* heard for so long: alive again; doubling */
    FOLLOW_BACK_MAX_MS = 300000,
    FOLLOW_CALM_MS = 600000, /* alive for so long: earlier deaths are forgotten */
    FOLLOW_VOTERS = 8        /* asked about one node */
};

struct follow_plan;

struct follow_plan_params {
    const struct derpmap *map;
    const struct near *near;
    const struct follow_plan
        *before; /* of the map as it was; NULL: none.  What is known of its nodes goes on */
    void (*say)(void *ctx, bool warn, const char *line);
    void *ctx;
    uint64_t now;
};
struct follow_plan *follow_plan_new(const struct follow_plan_params *p);
void follow_plan_free(struct follow_plan *p);

/* Nodes are indices into map->nodes. */
bool follow_plan_watched(const struct follow_plan *p, int node); /* a relay, not a backup listing */
bool follow_plan_dead(const struct follow_plan *p, int node);
/* How often each node is to be asked for STUN (ms): a thousand times a second, all together, is enough. */
uint64_t follow_plan_every(const struct follow_plan *p);
/* Whether it answered lately. */
bool follow_plan_reached(const struct follow_plan *p, int node, uint64_t now);
/* ms since it was heard, or since this observer began. */
uint64_t follow_plan_silence(const struct follow_plan *p, int node, uint64_t now);

/* It answered us. */
void follow_plan_heard(struct follow_plan *p, int node, uint64_t now);
/* Another node said whether it hears this one; or that it knows nothing of such questions. */
enum follow_vote { FOLLOW_VOTE_UP, FOLLOW_VOTE_SILENT, FOLLOW_VOTE_NONE };
void follow_plan_vote(struct follow_plan *p, int node, int who, enum follow_vote vote, uint64_t now);
/* Whom to ask about a node now: how many; 0 if nobody need be asked. */
int follow_plan_voters(const struct follow_plan *p, int node, uint64_t now, int out[static FOLLOW_VOTERS]);

/* Decides anew.  True once it has heard a majority: before, an earlier observer may have known more. */
bool follow_plan_step(struct follow_plan *p, uint64_t now);
/* What each region lists; returns how many, out has room for n_regions. */
int follow_plan_listings(const struct follow_plan *p, struct derpmap_listing *out);

#endif
