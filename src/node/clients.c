/* Two tables: keys, and connections by the number that is never used twice.
 *
 * Happy path: a connection comes up and is put last in its key's list, which makes it active; one that sends
 * moves to the end; one that goes leaves the list, and the key goes with its last one.
 * Failure: without memory a connection is not taken in and clients_up says so; messages about connections
 * that are not known (any more) are ignored, so late or doubled ones do no harm. */
#include "node/clients.h"

#include <stdlib.h>
#include <string.h>

#include "mesh/keymap.h"

struct client;

struct client_conn {
    struct client_conn *prev, *next; /* in order of use, the active one last */
    struct client *client;
    struct conn_ref ref;
    bool home;
};

struct client {
    struct derp_key key;
    struct client_conn *first, *last;
    uint32_t n, n_home;
};

struct clients {
    struct keymap *keys;  /* → struct client * */
    struct keymap *conns; /* gen, as a key → struct client_conn * */
    size_t n_homes;
};

struct clients *clients_new(uint64_t seed)
{
    struct clients *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->keys = keymap_new(sizeof(struct client *), seed);
    c->conns = keymap_new(sizeof(struct client_conn *), ~seed);
    if (!c->keys || !c->conns) {
        clients_free(c);
        return NULL;
    }
    return c;
}

void clients_free(struct clients *c)
{
    if (!c)
        return;
    void *v;
    for (size_t i = 0; c->conns && keymap_at(c->conns, i, &v); i++)
        free(*(struct client_conn **)v);
    for (size_t i = 0; c->keys && keymap_at(c->keys, i, &v); i++)
        free(*(struct client **)v);
    keymap_free(c->conns);
    keymap_free(c->keys);
    free(c);
}

static struct derp_key gen_key(uint64_t gen)
{
    struct derp_key k = {{0}};
    memcpy(k.b, &gen, sizeof(gen));
    return k;
}

static struct client *find_client(const struct clients *c, const struct derp_key *key)
{
    struct client **v = keymap_get(c->keys, key);
    return v ? *v : NULL;
}

/* The connection of that name, if it is one of this key. */
static struct client_conn *find_conn(const struct clients *c, const struct derp_key *key,
                                     const struct conn_ref *ref)
{
    struct derp_key k = gen_key(ref->gen);
    struct client_conn **v = keymap_get(c->conns, &k);
    return v && key_equal(&(*v)->client->key, key) ? *v : NULL;
}

static void unlink_conn(struct client *cl, struct client_conn *cc)
{
    *(cc->prev ? &cc->prev->next : &cl->first) = cc->next;
    *(cc->next ? &cc->next->prev : &cl->last) = cc->prev;
    cc->prev = cc->next = NULL;
}

static void append_conn(struct client *cl, struct client_conn *cc)
{
    cc->prev = cl->last;
    cc->next = NULL;
    *(cl->last ? &cl->last->next : &cl->first) = cc;
    cl->last = cc;
}

static void set_home(struct clients *c, struct client_conn *cc, bool home, struct clients_change *change)
{
    struct client *cl = cc->client;
    if (cc->home == home)
        return;
    cc->home = home;
    cl->n_home += home ? 1 : (uint32_t)-1;
    if (home ? cl->n_home == 1 : cl->n_home == 0) {
        change->home_changed = true;
        change->home = home;
        c->n_homes += home ? 1 : (size_t)-1;
    }
}

/* The key's entry, made if it was not there. */
static struct client *need_client(struct clients *c, const struct derp_key *key)
{
    struct client *cl = find_client(c, key);
    if (cl)
        return cl;
    cl = calloc(1, sizeof(*cl));
    struct client **v = cl ? keymap_put(c->keys, key, NULL) : NULL;
    if (!v) {
        free(cl);
        return NULL;
    }
    cl->key = *key;
    *v = cl;
    return cl;
}

static void drop_client(struct clients *c, struct client *cl)
{
    keymap_del(c->keys, &cl->key);
    free(cl);
}

int clients_up(struct clients *c, const struct derp_key *key, const struct conn_ref *ref, bool home,
               struct clients_change *change)
{
    memset(change, 0, sizeof(*change));
    struct derp_key k = gen_key(ref->gen);
    if (keymap_get(c->conns, &k))
        return 0;
    struct client *cl = need_client(c, key);
    if (!cl)
        return -1;
    struct client_conn *cc = calloc(1, sizeof(*cc));
    struct client_conn **v = cc ? keymap_put(c->conns, &k, NULL) : NULL;
    if (!v) {
        free(cc);
        if (!cl->n)
            drop_client(c, cl);
        return -1;
    }
    *v = cc;
    cc->client = cl;
    cc->ref = *ref;
    append_conn(cl, cc);
    change->first = cl->n++ == 0;
    change->active_changed = true;
    change->active = *ref;
    change->home = cl->n_home > 0;
    set_home(c, cc, home, change);
    return 0;
}

void clients_home(struct clients *c, const struct derp_key *key, const struct conn_ref *ref, bool home,
                  struct clients_change *change)
{
    memset(change, 0, sizeof(*change));
    struct client_conn *cc = find_conn(c, key, ref);
    if (cc)
        set_home(c, cc, home, change);
}

void clients_active(struct clients *c, const struct derp_key *key, const struct conn_ref *ref,
                    struct clients_change *change)
{
    memset(change, 0, sizeof(*change));
    struct client_conn *cc = find_conn(c, key, ref);
    if (!cc || cc->client->last == cc)
        return;
    unlink_conn(cc->client, cc);
    append_conn(cc->client, cc);
    change->active_changed = true;
    change->active = *ref;
}

void clients_down(struct clients *c, const struct derp_key *key, const struct conn_ref *ref,
                  struct clients_change *change)
{
    memset(change, 0, sizeof(*change));
    struct client_conn *cc = find_conn(c, key, ref);
    if (!cc)
        return;
    struct client *cl = cc->client;
    bool was_active = cl->last == cc;
    struct derp_key k = gen_key(ref->gen);
    set_home(c, cc, false, change);
    unlink_conn(cl, cc);
    keymap_del(c->conns, &k);
    free(cc);
    if (--cl->n == 0) {
        change->last = true;
        drop_client(c, cl);
    } else if (was_active) {
        change->active_changed = true;
        change->active = cl->last->ref;
    }
}

bool clients_get(const struct clients *c, const struct derp_key *key, struct clients_info *out)
{
    const struct client *cl = find_client(c, key);
    if (!cl)
        return false;
    *out = (struct clients_info){.active = cl->last->ref, .connections = cl->n, .home = cl->n_home};
    return true;
}

void clients_each(const struct clients *c, const struct derp_key *key,
                  void (*one)(void *ctx, const struct conn_ref *ref), void *ctx)
{
    const struct client *cl = find_client(c, key);
    for (const struct client_conn *cc = cl ? cl->first : NULL; cc; cc = cc->next)
        one(ctx, &cc->ref);
}

const struct derp_key *clients_key(const struct clients *c, size_t i)
{
    return keymap_at(c->keys, i, NULL);
}

size_t clients_keys(const struct clients *c)
{
    return keymap_count(c->keys);
}

size_t clients_connections(const struct clients *c)
{
    return keymap_count(c->conns);
}

size_t clients_homes(const struct clients *c)
{
    return c->n_homes;
}
