/* Who may use this node: the engine behind allow file, verify URL and tailscaled's LocalAPI.
 *
 *   login ──admission_ask──► entry of the key ──► what is known? ──yes/no──► ops->answer
 *                                               └─ not enough: ask (one question per key and source at a time)
 *                                                  line (bounded) → ops->ask → admission_heard ─┘
 *
 * Fails closed: whoever is not admitted by `all` of the sources that are on (or by `any` of them) is refused.
 * A source's yes is believed for 60 s without asking, and 60 s more (or as long as the client is connected, and 60 s
 * after) while the source gives no usable answer.  Its no, and its silence, are believed for 2 s.  Keys of connected
 * clients are asked about again every five minutes.
 *
 * Pure: no sockets, no clock (now in ms is an argument), no log.
 * Owner and thread: the control thread (admit_io.c).  Calls out through ops only, which never call back in. */
#ifndef DERPMESH_NODE_ADMISSION_H
#define DERPMESH_NODE_ADMISSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mesh/routes.h"
#include "node/conn.h"
#include "proto/key.h"

enum admit_source { ADMIT_ALLOW, ADMIT_URL, ADMIT_SOCKET, ADMIT_SOURCES };

enum {
    ADMIT_FRESH_MS = 60000,     /* a yes counts without asking */
    ADMIT_GRACE_MS = 60000,     /* and so much longer while the source is out */
    ADMIT_NO_MS = 2000,         /* a no, or an outage, counts without asking */
    ADMIT_AGAIN_MS = 300000,    /* connected clients are asked about again, ± a fifth */
    ADMIT_AGAIN_OUT_MS = 30000, /* the same while a source is out */
    ADMIT_CHANGED_MS = 10000, /* within which connected clients are asked about after a change of settings */
    ADMIT_RUNNING_MAX = 64,   /* questions under way, per source */
    ADMIT_LINE_MAX = 4096,    /* questions waiting, per source */
    ADMIT_LINE_MS = 3000,     /* how long one may wait */
    ADMIT_WAITERS_MAX = 64,   /* logins that wait for one key */
    ADMIT_IDLE_MAX = 65536,   /* keys kept that are not connected: admitted, and as many refused */
    ADMIT_GUESTS = 16,        /* keys that are admitted whatever the sources say */
    ADMIT_GUEST_MS = 30000,   /* … for so long */
    ADMIT_DETAIL = 272
};

/* What a source says of a key. */
enum admit_verdict {
    ADMIT_YES,
    ADMIT_NO,
    ADMIT_OUTAGE,    /* no usable answer */
    ADMIT_UNREACHED, /* the same, and not a byte of an answer came: what verify_fail_open covers */
};

/* What became of a login. */
enum admit_outcome {
    ADMITTED,
    REFUSED_ALLOW,  /* not in the allow file */
    REFUSED_URL,    /* the verify URL said no */
    REFUSED_SOCKET, /* tailscaled does not know the key */
    REFUSED_OUTAGE, /* nobody who could have admitted it gave an answer */
};

struct admit_policy {
    bool on[ADMIT_SOURCES];
    bool any;       /* one yes is enough */
    bool fail_open; /* the URL's ADMIT_UNREACHED is as good as a yes */
};

struct admission_ops {
    /* Is the key in the allow file? */
    bool (*allowed)(void *ctx, const struct derp_key *key);
    /* Ask a source (URL or socket).  0: admission_heard follows, later; -1: cannot ask now. */
    int (*ask)(void *ctx, enum admit_source s, uint64_t question, const struct derp_key *key,
               const struct conn_addr *from);
    /* The login that waits as ref may go on, or is closed. */
    void (*answer)(void *ctx, const struct derp_key *key, const struct conn_ref *ref,
                   const struct conn_addr *from, enum admit_outcome outcome);
    /* All connections of the key are to be closed: it is no longer welcome. */
    void (*close)(void *ctx, const struct derp_key *key, enum admit_outcome why);
};

struct admission;

/* ops and ctx outlive it.  seed: for the hash table and the jitter.  NULL without memory.  Nothing is on at first. */
struct admission *admission_new(const struct admission_ops *ops, void *ctx, uint64_t seed);
void admission_free(struct admission *a);

/* Other rules.  afresh: what the sources said so far counts no more, questions under way are given up (their answers
 * are passed over) and asked again; else only the rules are other ones. */
void admission_set_policy(struct admission *a, const struct admit_policy *p, bool afresh, uint64_t now);
/* The allow file has other keys now. */
void admission_allow_changed(struct admission *a, uint64_t now);

/* A login wants to know.  ops->answer comes once, now or later. */
void admission_ask(struct admission *a, const struct derp_key *key, const struct conn_ref *ref,
                   const struct conn_addr *from, uint64_t now);
/* Lets this key in for ADMIT_GUEST_MS, nobody is asked: for who looks after the node (health.h).  The oldest of more than
 * ADMIT_GUESTS is forgotten. */
void admission_guest(struct admission *a, const struct derp_key *key, uint64_t now);
/* How many connections the key has now.  from: of the newest, NULL if not known. */
void admission_present(struct admission *a, const struct derp_key *key, uint32_t connections,
                       const struct conn_addr *from, uint64_t now);
/* The answer to a question; detail says what was wrong with it (ADMIT_OUTAGE, ADMIT_UNREACHED), else NULL. */
void admission_heard(struct admission *a, enum admit_source s, uint64_t question, const struct derp_key *key,
                     enum admit_verdict v, const char *detail, uint64_t now);
/* To be called every second or more often while something is on. */
void admission_tick(struct admission *a, uint64_t now);

struct admit_counts {
    uint64_t asked;     /* logins that asked */
    uint64_t admitted;  /* of these */
    uint64_t refused;   /* of these, for whatever reason */
    uint64_t closed;    /* keys of connected clients that are no longer welcome */
    uint64_t questions; /* put to a source */
    uint64_t outages;   /* of these: no usable answer */
};

struct admit_source_state {
    uint64_t out_since; /* ms; 0: its last answer was usable, or there was none yet */
    const char *detail; /* what was wrong last */
    uint32_t running, waiting;
};

void admission_counts(const struct admission *a, struct admit_counts *out);
void admission_source(const struct admission *a, enum admit_source s, struct admit_source_state *out);
size_t admission_keys(const struct admission *a); /* keys that something is known about */

#endif
