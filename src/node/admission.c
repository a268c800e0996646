/* What is known of each key, and what follows from it.
 *
 * Happy path: a login finds its key's entry, decide() adds up what the sources said; where that is not enough the
 * missing sources are asked (a *round*) and settle() answers everybody who waits for the key.
 * Entries of connected keys stand on a wheel of seconds until they are asked about again; the others on two lists,
 * admitted and refused ones apart, so that strangers cannot push out who was admitted.
 * Failure: no memory, no room in a line, no answer: an outage, which refuses.  Entries are freed in admission_tick and
 * when a new one is made, nowhere else, so everything here may walk over them. */
#include "node/admission.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mesh/keymap.h"

enum { WHEEL_S = 512, SECOND = 1000 };

enum known { KNOWN_NOT, KNOWN_YES, KNOWN_NO, KNOWN_OUT };

enum said_state { QUIET, IN_LINE, ASKED };

struct waiter {
    struct waiter *next;
    struct conn_ref ref;
    struct conn_addr from;
};

/* What one source said of one key. */
struct said {
    uint64_t yes_at; /* ms of its last yes; 0: none, or a no came later */
    uint64_t at;     /* ms of its last answer; 0: none */
    uint64_t question, line_since;
    struct entry *line_next;
    uint8_t verdict; /* enum admit_verdict, of at */
    uint8_t state;   /* enum said_state */
};

struct list {
    struct entry *first, *last;
    size_t n;
};

/* Owner: admission.keys.  Invariant: on at most one list; round is set while waiters wait, and then on none. */
struct entry {
    struct derp_key key;
    struct conn_addr from; /* of the newest connection; zero: not known */
    struct said said[ADMIT_SOURCES];
    struct waiter *waiters;
    uint32_t n_waiters;
    uint32_t connections;
    uint64_t left_at; /* ms: its last connection ended */
    uint64_t round;   /* ms: what is said from then on counts until it is settled; 0: none is on */
    uint64_t idle_since;
    struct entry *prev, *next;
    struct list *list;
};

struct source {
    struct entry *first, *last; /* the line */
    uint32_t waiting, running;
    uint64_t out_since;
    char detail[ADMIT_DETAIL];
};

struct guest {
    struct derp_key key;
    uint64_t until; /* ms; 0: nobody */
};

struct admission {
    const struct admission_ops *ops;
    void *ctx;
    struct keymap *keys; /* → struct entry * */
    struct admit_policy policy;
    struct source source[ADMIT_SOURCES];
    struct list wheel[WHEEL_S];
    struct list good, bad; /* not connected, oldest first */
    uint64_t turned;       /* second up to which the wheel has turned */
    uint64_t questions;    /* number of the last one */
    uint64_t rng;
    bool pumping;
    struct guest guests[ADMIT_GUESTS];
    size_t next_guest; /* whose place the next one takes */
    struct admit_counts counts;
};

/* ---- entries and lists ---- */

static void list_remove(struct entry *e)
{
    struct list *l = e->list;
    if (!l)
        return;
    *(e->prev ? &e->prev->next : &l->first) = e->next;
    *(e->next ? &e->next->prev : &l->last) = e->prev;
    e->prev = e->next = NULL;
    e->list = NULL;
    l->n--;
}

static void list_append(struct list *l, struct entry *e)
{
    list_remove(e);
    e->list = l;
    e->prev = l->last;
    *(l->last ? &l->last->next : &l->first) = e;
    l->last = e;
    l->n++;
}

static struct entry *find(const struct admission *a, const struct derp_key *key)
{
    struct entry **v = keymap_get(a->keys, key);
    return v ? *v : NULL;
}

static void entry_free(struct entry *e)
{
    while (e->waiters) {
        struct waiter *w = e->waiters;
        e->waiters = w->next;
        free(w);
    }
    free(e);
}

static void drop(struct admission *a, struct entry *e)
{
    list_remove(e);
    keymap_del(a->keys, &e->key);
    entry_free(e);
}

static struct entry *need(struct admission *a, const struct derp_key *key)
{
    struct entry *e = find(a, key);
    if (e)
        return e;
    if (a->bad.n >= ADMIT_IDLE_MAX)
        drop(a, a->bad.first);
    if (a->good.n >= ADMIT_IDLE_MAX)
        drop(a, a->good.first);
    e = calloc(1, sizeof(*e));
    struct entry **v = e ? keymap_put(a->keys, key, NULL) : NULL;
    if (!v) {
        free(e);
        return NULL;
    }
    e->key = *key;
    *v = e;
    return e;
}

static uint64_t below(struct admission *a, uint64_t n)
{
    a->rng ^= a->rng << 13;
    a->rng ^= a->rng >> 7;
    a->rng ^= a->rng << 17;
    return a->rng % n;
}

/* ---- what is known ---- */

static bool nothing_on(const struct admission *a)
{
    return !a->policy.on[ADMIT_ALLOW] && !a->policy.on[ADMIT_URL] && !a->policy.on[ADMIT_SOCKET];
}

/* A yes that still counts although its source is out. */
static bool cached_yes(const struct entry *e, const struct said *d, uint64_t now)
{
    if (!d->yes_at)
        return false;
    return e->connections || now - d->yes_at < ADMIT_FRESH_MS + ADMIT_GRACE_MS ||
           (e->left_at && now - e->left_at < ADMIT_GRACE_MS);
}

static enum known source_known(const struct admission *a, const struct entry *e, enum admit_source s,
                               uint64_t now)
{
    if (s == ADMIT_ALLOW)
        return a->ops->allowed(a->ctx, &e->key) ? KNOWN_YES : KNOWN_NO;
    const struct said *d = &e->said[s];
    if (d->yes_at && (now - d->yes_at < ADMIT_FRESH_MS || (e->round && d->yes_at >= e->round)))
        return KNOWN_YES;
    if (!d->at || !(now - d->at < ADMIT_NO_MS || (e->round && d->at >= e->round)))
        return KNOWN_NOT;
    if (d->verdict == ADMIT_NO)
        return KNOWN_NO;
    if (d->verdict == ADMIT_UNREACHED && s == ADMIT_URL && a->policy.fail_open)
        return KNOWN_YES;
    return cached_yes(e, d, now) ? KNOWN_YES : KNOWN_OUT;
}

static bool is_guest(const struct admission *a, const struct derp_key *key, uint64_t now)
{
    for (size_t i = 0; i < ADMIT_GUESTS; i++)
        if (now < a->guests[i].until && key_equal(&a->guests[i].key, key))
            return true;
    return false;
}

/* All of them together; *who: the first that said no. */
static enum known decide(const struct admission *a, const struct entry *e, uint64_t now,
                         enum admit_source *who)
{
    bool no = false, out = false, unknown = false;
    int n = 0;
    if (is_guest(a, &e->key, now))
        return KNOWN_YES;
    for (enum admit_source s = 0; s < ADMIT_SOURCES; s++) {
        if (!a->policy.on[s])
            continue;
        n++;
        enum known k = source_known(a, e, s, now);
        if (a->policy.any && k == KNOWN_YES)
            return KNOWN_YES;
        if (k == KNOWN_NO && !no) {
            no = true;
            *who = s;
            if (!a->policy.any)
                return KNOWN_NO;
        }
        out |= k == KNOWN_OUT;
        unknown |= k == KNOWN_NOT;
    }
    if (unknown)
        return KNOWN_NOT;
    if (out)
        return KNOWN_OUT;
    return a->policy.any && n ? KNOWN_NO : KNOWN_YES;
}

/* ---- where an entry stands when nobody waits for it ---- */

static void schedule(struct admission *a, struct entry *e, uint64_t when)
{
    uint64_t second = when / SECOND;
    if (second <= a->turned)
        second = a->turned + 1;
    list_append(&a->wheel[second % WHEEL_S], e);
}

static bool busy(const struct entry *e)
{
    return e->waiters || e->said[ADMIT_URL].state != QUIET || e->said[ADMIT_SOCKET].state != QUIET;
}

static bool source_out(const struct entry *e)
{
    for (enum admit_source s = ADMIT_URL; s < ADMIT_SOURCES; s++)
        if (e->said[s].at && e->said[s].verdict >= ADMIT_OUTAGE)
            return true;
    return false;
}

static void place(struct admission *a, struct entry *e, uint64_t now)
{
    if (e->connections) {
        uint64_t again = source_out(e) ? ADMIT_AGAIN_OUT_MS : ADMIT_AGAIN_MS;
        schedule(a, e, now + again * 4 / 5 + below(a, again * 2 / 5));
        return;
    }
    list_remove(e);
    if (busy(e))
        return;
    e->idle_since = now;
    list_append(e->said[ADMIT_URL].yes_at || e->said[ADMIT_SOCKET].yes_at ? &a->good : &a->bad, e);
}

/* ---- decisions ---- */

static void settle(struct admission *a, struct entry *e, enum known k, enum admit_source who, uint64_t now)
{
    enum admit_outcome out = k == KNOWN_YES  ? ADMITTED
                             : k == KNOWN_NO ? (enum admit_outcome)(REFUSED_ALLOW + (int)who)
                                             : REFUSED_OUTAGE;
    e->round = 0;
    while (e->waiters) {
        struct waiter *w = e->waiters;
        e->waiters = w->next;
        e->n_waiters--;
        (*(out == ADMITTED ? &a->counts.admitted : &a->counts.refused))++;
        a->ops->answer(a->ctx, &e->key, &w->ref, &w->from, out);
        free(w);
    }
    if (e->connections && k == KNOWN_NO) {
        a->counts.closed++;
        a->ops->close(a->ctx, &e->key, out);
    }
    place(a, e, now);
}

static void advance(struct admission *a, struct entry *e, uint64_t now);

static void note_outage(struct admission *a, enum admit_source s, const char *detail, uint64_t now)
{
    a->counts.outages++;
    if (!a->source[s].out_since)
        a->source[s].out_since = now;
    snprintf(a->source[s].detail, sizeof(a->source[s].detail), "%s", detail);
}

/* A question that never reached its source. */
static void not_asked(struct admission *a, struct said *d, enum admit_source s, const char *detail,
                      uint64_t now)
{
    d->state = QUIET;
    d->verdict = ADMIT_OUTAGE;
    d->at = now;
    a->counts.questions++;
    note_outage(a, s, detail, now);
}

static void line_append(struct admission *a, struct entry *e, enum admit_source s, uint64_t now)
{
    struct source *src = &a->source[s];
    struct said *d = &e->said[s];
    if (src->waiting >= ADMIT_LINE_MAX) {
        not_asked(a, d, s, "too many questions are waiting", now);
        return;
    }
    d->state = IN_LINE;
    d->line_since = now;
    d->line_next = NULL;
    *(src->last ? &src->last->said[s].line_next : &src->first) = e;
    src->last = e;
    src->waiting++;
}

static struct entry *line_pop(struct source *src, enum admit_source s)
{
    struct entry *e = src->first;
    src->first = e->said[s].line_next;
    if (!src->first)
        src->last = NULL;
    src->waiting--;
    return e;
}

static void put(struct admission *a, struct entry *e, enum admit_source s, uint64_t now)
{
    struct said *d = &e->said[s];
    d->question = ++a->questions;
    if (a->ops->ask(a->ctx, s, d->question, &e->key, &e->from) == 0) {
        d->state = ASKED;
        a->source[s].running++;
        a->counts.questions++;
        return;
    }
    not_asked(a, d, s, "out of memory", now);
    advance(a, e, now);
}

/* Asks what stands first in the lines, as many as may be under way. */
static void pump(struct admission *a, uint64_t now)
{
    if (a->pumping)
        return; /* the loop below goes on */
    a->pumping = true;
    for (enum admit_source s = ADMIT_URL; s < ADMIT_SOURCES; s++) {
        struct source *src = &a->source[s];
        while (src->first && src->running < ADMIT_RUNNING_MAX) {
            put(a, line_pop(src, s), s, now);
            s = ADMIT_URL; /* what could not be asked may have put others into any line */
            src = &a->source[s];
        }
    }
    a->pumping = false;
}

static void advance(struct admission *a, struct entry *e, uint64_t now)
{
    enum admit_source who = ADMIT_ALLOW;
    enum known k = decide(a, e, now, &who);
    if (k != KNOWN_NOT) {
        settle(a, e, k, who, now);
        return;
    }
    if (!e->round) {
        e->round = now;
        list_remove(e);
    }
    for (enum admit_source s = ADMIT_URL; s < ADMIT_SOURCES; s++)
        if (a->policy.on[s] && e->said[s].state == QUIET && source_known(a, e, s, now) == KNOWN_NOT)
            line_append(a, e, s, now);
    pump(a, now);
    /* a full line is an answer too */
    if (e->round && (k = decide(a, e, now, &who)) != KNOWN_NOT)
        settle(a, e, k, who, now);
}

/* ---- doors ---- */

void admission_ask(struct admission *a, const struct derp_key *key, const struct conn_ref *ref,
                   const struct conn_addr *from, uint64_t now)
{
    a->counts.asked++;
    if (nothing_on(a)) {
        a->counts.admitted++;
        a->ops->answer(a->ctx, key, ref, from, ADMITTED);
        return;
    }
    struct entry *e = need(a, key);
    struct waiter *w = e && e->n_waiters < ADMIT_WAITERS_MAX ? malloc(sizeof(*w)) : NULL;
    if (!w) {
        a->counts.refused++;
        a->ops->answer(a->ctx, key, ref, from, REFUSED_OUTAGE);
        if (e && !e->list && !busy(e))
            place(a, e, now);
        return;
    }
    *w = (struct waiter){.next = e->waiters, .ref = *ref, .from = *from};
    e->waiters = w;
    e->n_waiters++;
    e->from = *from;
    advance(a, e, now);
}

void admission_guest(struct admission *a, const struct derp_key *key, uint64_t now)
{
    a->guests[a->next_guest] = (struct guest){*key, now + ADMIT_GUEST_MS};
    a->next_guest = (a->next_guest + 1) % ADMIT_GUESTS;
}

void admission_present(struct admission *a, const struct derp_key *key, uint32_t connections,
                       const struct conn_addr *from, uint64_t now)
{
    struct entry *e = nothing_on(a) ? NULL : connections ? need(a, key) : find(a, key);
    if (!e)
        return;
    bool more = connections > e->connections;
    e->connections = connections;
    if (more && from)
        e->from = *from;
    if (more) {
        /* Known from its login, as a rule; else (new rules, forgotten) it is asked about now. */
        advance(a, e, now);
    } else if (!connections) {
        e->left_at = now;
        place(a, e, now);
    }
}

void admission_heard(struct admission *a, enum admit_source s, uint64_t question, const struct derp_key *key,
                     enum admit_verdict v, const char *detail, uint64_t now)
{
    struct entry *e = find(a, key);
    struct said *d = e ? &e->said[s] : NULL;
    if (!d || d->state != ASKED || d->question != question)
        return; /* given up */
    a->source[s].running--;
    d->state = QUIET;
    d->verdict = (uint8_t)v;
    d->at = now;
    if (v == ADMIT_YES || v == ADMIT_NO) {
        d->yes_at = v == ADMIT_YES ? now : 0;
        a->source[s].out_since = 0;
    } else {
        note_outage(a, s, detail ? detail : "no answer", now);
    }
    if (e->round)
        advance(a, e, now);
    else
        place(a, e, now); /* settled without it */
    pump(a, now);
}

/* Looks at an entry after the rules, or the allow file, have changed. */
static void recheck(struct admission *a, struct entry *e, uint64_t now)
{
    enum admit_source who = ADMIT_ALLOW;
    if (e->waiters || e->round) {
        advance(a, e, now);
    } else if (!e->connections) {
        place(a, e, now);
    } else {
        enum known k = decide(a, e, now, &who);
        if (k == KNOWN_NO)
            settle(a, e, k, who, now);
        else if (k == KNOWN_NOT)
            schedule(a, e, now + below(a, ADMIT_CHANGED_MS));
        else
            place(a, e, now);
    }
}

static void forget_said(struct admission *a)
{
    void *v;
    for (size_t i = 0; keymap_at(a->keys, i, &v); i++) {
        struct entry *e = *(struct entry **)v;
        memset(e->said, 0, sizeof(e->said));
        e->round = 0;
    }
    memset(a->source, 0, sizeof(a->source));
}

static void forget_all(struct admission *a)
{
    void *v;
    forget_said(a);
    while (keymap_at(a->keys, 0, &v))
        drop(a, *(struct entry **)v);
}

void admission_set_policy(struct admission *a, const struct admit_policy *p, bool afresh, uint64_t now)
{
    void *v;
    a->policy = *p;
    if (!a->turned)
        a->turned = now / SECOND;
    if (afresh)
        forget_said(a);
    for (size_t i = 0; keymap_at(a->keys, i, &v); i++)
        recheck(a, *(struct entry **)v, now);
    if (nothing_on(a))
        forget_all(a);
}

void admission_allow_changed(struct admission *a, uint64_t now)
{
    void *v;
    for (size_t i = 0; a->policy.on[ADMIT_ALLOW] && keymap_at(a->keys, i, &v); i++) {
        struct entry *e = *(struct entry **)v;
        if (e->round || (e->connections && !a->ops->allowed(a->ctx, &e->key)))
            advance(a, e, now);
    }
}

/* ---- time ---- */

static void line_age(struct admission *a, enum admit_source s, uint64_t now)
{
    struct source *src = &a->source[s];
    while (src->first && now - src->first->said[s].line_since >= ADMIT_LINE_MS) {
        struct entry *e = line_pop(src, s);
        not_asked(a, &e->said[s], s, "it is too slow for the questions that wait", now);
        if (e->round)
            advance(a, e, now);
        else
            place(a, e, now);
    }
}

static void idle_age(struct admission *a, struct list *l, uint64_t ms, uint64_t now)
{
    while (l->first && now - l->first->idle_since >= ms)
        drop(a, l->first);
}

static void wheel_turn(struct admission *a, uint64_t now)
{
    uint64_t second = now / SECOND;
    if (second > a->turned + WHEEL_S)
        a->turned = second - WHEEL_S; /* a long sleep: each slot once */
    while (a->turned < second) {
        struct list *l = &a->wheel[++a->turned % WHEEL_S];
        for (size_t n = l->n; n && l->first; n--) {
            struct entry *e = l->first;
            list_remove(e);
            advance(a, e, now);
        }
    }
}

void admission_tick(struct admission *a, uint64_t now)
{
    for (enum admit_source s = ADMIT_URL; s < ADMIT_SOURCES; s++)
        line_age(a, s, now);
    wheel_turn(a, now);
    idle_age(a, &a->bad, ADMIT_NO_MS, now);
    idle_age(a, &a->good, ADMIT_FRESH_MS + ADMIT_GRACE_MS, now);
}

/* ---- what a person asks ---- */

void admission_counts(const struct admission *a, struct admit_counts *out)
{
    *out = a->counts;
}

void admission_source(const struct admission *a, enum admit_source s, struct admit_source_state *out)
{
    const struct source *src = &a->source[s];
    *out = (struct admit_source_state){src->out_since, src->detail, src->running, src->waiting};
}

size_t admission_keys(const struct admission *a)
{
    return keymap_count(a->keys);
}

/* ---- life ---- */

struct admission *admission_new(const struct admission_ops *ops, void *ctx, uint64_t seed)
{
    struct admission *a = calloc(1, sizeof(*a));
    if (!a)
        return NULL;
    a->ops = ops;
    a->ctx = ctx;
    a->rng = seed | 1;
    a->keys = keymap_new(sizeof(struct entry *), seed);
    if (!a->keys) {
        free(a);
        return NULL;
    }
    return a;
}

void admission_free(struct admission *a)
{
    if (!a)
        return;
    forget_all(a);
    keymap_free(a->keys);
    free(a);
}
