/* See bootstrap.h.
 *
 * Happy path: a timer puts one job on libuv's pool, which asks the resolver for one name after the other; its tables
 * take the place of the old ones under a lock that is held for as long as it takes to copy an answer.
 * Failure: a name that is not found is left out with a log line; without memory the old tables stay. */
#include "node/bootstrap.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/log.h"

enum {
    REFRESH_MS = 600000,
    LOOK_UP_MS = 60000,
    NAMES_MAX = 256,
    ADDRESSES_MAX = 64,
    DOMAINS_MAX = 500,
    NAME_LEN = 256
};

struct entry {
    char *name, *json; /* name: ["ip", …] as derper prints it */
};

/* What the names of one flag lead to, by name. */
struct table {
    struct entry *v;
    size_t n;
    char *json; /* all of it; NULL: not looked up yet */
};

enum { PUBLISHED, UNPUBLISHED, TABLES };

struct bootstrap {
    uv_loop_t *loop;
    uv_timer_t timer;
    uv_work_t work;
    bool busy, again, stopped;
    char *wanted[TABLES], *working[TABLES]; /* names; working: of the job that runs */
    struct table fresh[TABLES];
    uv_mutex_t lock; /* of what follows */
    struct table table[TABLES];
    uint64_t counts[BOOTSTRAP_COUNTS];
    uint64_t domains[DOMAINS_MAX]; /* hashes of the names that were asked for */
};

static void table_free(struct table *t)
{
    for (size_t i = 0; i < t->n; i++) {
        free(t->v[i].name);
        free(t->v[i].json);
    }
    free(t->v);
    free(t->json);
    *t = (struct table){0};
}

/* ---- looking up: on the pool ---- */

/* Shuffled, so that clients do not all take the first. */
static void put_addresses(FILE *f, struct addrinfo *list)
{
    struct addrinfo *v[ADDRESSES_MAX];
    char ip[INET6_ADDRSTRLEN];
    const char *sep = "";
    size_t n = 0;
    for (struct addrinfo *a = list; a && n < ADDRESSES_MAX; a = a->ai_next)
        if (a->ai_family == AF_INET || a->ai_family == AF_INET6)
            v[n++] = a;
    for (; n > 0; n--) {
        size_t i = randombytes_uniform((uint32_t)n);
        const struct sockaddr *sa = v[i]->ai_addr;
        const void *addr = sa->sa_family == AF_INET
                               ? (const void *)&((const struct sockaddr_in *)(const void *)sa)->sin_addr
                               : &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr;
        inet_ntop(sa->sa_family, addr, ip, sizeof(ip));
        fprintf(f, "%s\n\t\t\"%s\"", sep, ip);
        sep = ",";
        v[i] = v[n - 1];
    }
}

/* One name of DNS; it needs no quoting then. */
static bool is_name(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_", s[i]))
            return false;
    return n > 0 && n < NAME_LEN;
}

/* Adds the name to the table if it has addresses.  False without memory. */
static bool look_up(struct table *t, const char *s, size_t n)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
    struct entry *e = &t->v[t->n];
    char name[NAME_LEN];
    size_t len;
    if (!is_name(s, n)) {
        log_warn("bootstrap", "no host name, left out name=\"%.*s\"", (int)(n < 64 ? n : 64), s);
        return true;
    }
    memcpy(name, s, n);
    name[n] = 0;
    int rc = getaddrinfo(name, NULL, &hints, &list);
    if (rc != 0) {
        log_warn("bootstrap", "no addresses name=%s reason=\"%s\"", name, gai_strerror(rc));
        return true;
    }
    FILE *f = open_memstream(&e->json, &len);
    if (f) {
        fprintf(f, "\t\"%s\": [", name);
        put_addresses(f, list);
        fputs("\n\t]", f);
    }
    freeaddrinfo(list);
    e->name = strdup(name);
    t->n++;
    return f && fclose(f) == 0 && e->name;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

/* Go's MarshalIndent of a map: names in order, "null" for none. */
static bool print(struct table *t)
{
    size_t len;
    FILE *f = open_memstream(&t->json, &len);
    if (!f)
        return false;
    qsort(t->v, t->n, sizeof(t->v[0]), by_name);
    fputs(t->n ? "{\n" : "null", f);
    for (size_t i = 0; i < t->n; i++)
        fprintf(f, "%s%s", t->v[i].json, i + 1 < t->n ? ",\n" : "\n}");
    return fclose(f) == 0;
}

/* All names, or as many as a minute is enough for. */
static void look_up_all(struct table *t, const char *names)
{
    uint64_t until = uv_hrtime() + (uint64_t)LOOK_UP_MS * 1000000;
    bool ok;
    *t = (struct table){.v = calloc(NAMES_MAX, sizeof(*t->v))};
    ok = t->v != NULL;
    for (const char *s = names; ok && *s; s += *s == ',') {
        size_t n = strcspn(s, ",");
        if (t->n == NAMES_MAX || uv_hrtime() > until) {
            log_warn("bootstrap", "left out, as the others took too long or are too many: %.64s", s);
            break;
        }
        ok = look_up(t, s, n);
        s += n;
    }
    if (!ok || !print(t)) {
        log_error("bootstrap", "out of memory");
        table_free(t);
    }
}

char *bootstrap_look_up(const char *names)
{
    struct table t;
    look_up_all(&t, names);
    char *json = t.json;
    t.json = NULL;
    table_free(&t);
    return json;
}

static void on_work(uv_work_t *work)
{
    struct bootstrap *b = work->data;
    for (int i = 0; i < TABLES; i++)
        if (b->working[i] && b->working[i][0])
            look_up_all(&b->fresh[i], b->working[i]);
}

/* ---- when ---- */

static void refresh(struct bootstrap *b);

static void on_work_done(uv_work_t *work, int status)
{
    struct bootstrap *b = work->data;
    b->busy = false;
    for (int i = 0; i < TABLES; i++) {
        struct table old = b->fresh[i];
        bool none = b->working[i] && !b->working[i][0]; /* the flag is gone: so are its answers */
        if (status == 0 && !b->again && (old.json || none)) {
            uv_mutex_lock(&b->lock);
            old = b->table[i];
            b->table[i] = b->fresh[i];
            uv_mutex_unlock(&b->lock);
        }
        b->fresh[i] = (struct table){0};
        table_free(&old);
        free(b->working[i]);
        b->working[i] = NULL;
    }
    if (b->again && !b->stopped)
        refresh(b);
}

static void refresh(struct bootstrap *b)
{
    b->again = b->busy;
    if (b->busy)
        return;
    for (int i = 0; i < TABLES; i++)
        b->working[i] = strdup(b->wanted[i] ? b->wanted[i] : "");
    b->busy = uv_queue_work(b->loop, &b->work, on_work, on_work_done) == 0;
}

static void on_timer(uv_timer_t *timer)
{
    refresh(timer->data);
}

static bool same(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "") == 0;
}

void bootstrap_set(struct bootstrap *b, const struct config *c)
{
    const char *names[TABLES] = {c->derper ? c->derper->names : "", c->derper ? c->derper->unpublished : ""};
    bool some = false, changed = false;
    for (int i = 0; i < TABLES; i++) {
        some = some || (names[i] && names[i][0]);
        if (same(b->wanted[i], names[i]))
            continue;
        changed = true;
        free(b->wanted[i]);
        b->wanted[i] = names[i] ? strdup(names[i]) : NULL;
    }
    if (changed)
        refresh(b);
    if (some)
        uv_timer_start(&b->timer, on_timer, REFRESH_MS, REFRESH_MS);
    else
        uv_timer_stop(&b->timer);
}

struct bootstrap *bootstrap_start(uv_loop_t *loop, const struct config *c)
{
    struct bootstrap *b = calloc(1, sizeof(*b));
    if (!b || uv_mutex_init(&b->lock) != 0) {
        free(b);
        return NULL;
    }
    b->loop = loop;
    b->timer.data = b->work.data = b;
    uv_timer_init(loop, &b->timer);
    bootstrap_set(b, c);
    return b;
}

void bootstrap_stop(struct bootstrap *b)
{
    b->stopped = true;
    if (b->busy)
        uv_cancel((uv_req_t *)&b->work);
    uv_close((uv_handle_t *)&b->timer, NULL);
}

void bootstrap_free(struct bootstrap *b)
{
    if (!b)
        return;
    for (int i = 0; i < TABLES; i++) {
        table_free(&b->table[i]);
        free(b->wanted[i]);
    }
    uv_mutex_destroy(&b->lock);
    free(b);
}

/* ---- answers: on any thread ---- */

static const struct entry *find(const struct table *t, const char *q, size_t n)
{
    for (size_t i = 0; i < t->n; i++)
        if (strlen(t->v[i].name) == n && memcmp(t->v[i].name, q, n) == 0)
            return &t->v[i];
    return NULL;
}

/* How many different names have been asked for, of late. */
static void count_domain(struct bootstrap *b, const char *q, size_t n)
{
    static const uint8_t no_key[crypto_shorthash_KEYBYTES];
    uint8_t hash[crypto_shorthash_BYTES];
    uint64_t v, *count = &b->counts[BOOTSTRAP_QUERIED_DOMAINS];
    crypto_shorthash(hash, (const uint8_t *)q, n, no_key);
    memcpy(&v, hash, sizeof(v));
    for (uint64_t i = 0; i < *count; i++)
        if (b->domains[i] == v)
            return;
    if (*count == DOMAINS_MAX)
        *count = 0;
    else
        b->domains[(*count)++] = v;
}

/* The lock is held. */
static char *answer(struct bootstrap *b, const char *q, size_t n)
{
    const struct entry *e = n ? find(&b->table[UNPUBLISHED], q, n) : NULL;
    char *text;
    b->counts[BOOTSTRAP_REQUESTS]++;
    if (n)
        count_domain(b, q, n);
    if (e) {
        b->counts[BOOTSTRAP_UNPUBLISHED_HITS]++;
        return asprintf(&text, "{\n%s\n}", e->json) < 0 ? NULL : text;
    }
    if (n)
        b->counts[find(&b->table[PUBLISHED], q, n) ? BOOTSTRAP_PUBLISHED_HITS
                                                   : BOOTSTRAP_UNPUBLISHED_MISSES]++;
    return strdup(b->table[PUBLISHED].json ? b->table[PUBLISHED].json : "");
}

char *bootstrap_answer(struct bootstrap *b, const char *q, size_t n, size_t *len)
{
    uv_mutex_lock(&b->lock);
    char *text = answer(b, q, n);
    uv_mutex_unlock(&b->lock);
    *len = text ? strlen(text) : 0;
    return text;
}

uint64_t bootstrap_count(struct bootstrap *b, enum bootstrap_count which)
{
    uv_mutex_lock(&b->lock);
    uint64_t v = b->counts[which];
    uv_mutex_unlock(&b->lock);
    return v;
}
