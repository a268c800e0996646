/* One thread's copy of where keys are: two maps, local connections and remote nodes.
 *
 * Happy path: the control thread's changes come in through the worker's inbox and end in routes_*_set; the relay
 * asks routes_local, then routes_remote.
 * How it fails: a set without memory returns -1 and leaves the former answer in place. */
#include "mesh/routes.h"

#include <stdlib.h>

#include "mesh/keymap.h"

struct routes {
    struct keymap *local;  /* struct conn_ref */
    struct keymap *remote; /* uint32_t node */
};

struct routes *routes_new(uint64_t seed)
{
    struct routes *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->local = keymap_new(sizeof(struct conn_ref), seed);
    r->remote = keymap_new(sizeof(uint32_t), ~seed);
    if (!r->local || !r->remote) {
        routes_free(r);
        return NULL;
    }
    return r;
}

void routes_free(struct routes *r)
{
    if (!r)
        return;
    keymap_free(r->local);
    keymap_free(r->remote);
    free(r);
}

const struct conn_ref *routes_local(const struct routes *r, const struct derp_key *key)
{
    return keymap_get(r->local, key);
}

int routes_local_set(struct routes *r, const struct derp_key *key, const struct conn_ref *at)
{
    struct conn_ref *v = keymap_put(r->local, key, NULL);
    if (!v)
        return -1;
    *v = *at;
    return 0;
}

void routes_local_del(struct routes *r, const struct derp_key *key, uint64_t gen)
{
    const struct conn_ref *v = keymap_get(r->local, key);
    if (v && (gen == 0 || v->gen == gen))
        keymap_del(r->local, key);
}

uint32_t routes_remote(const struct routes *r, const struct derp_key *key)
{
    const uint32_t *v = keymap_get(r->remote, key);
    return v ? *v : (uint32_t)NODE_NONE;
}

int routes_remote_set(struct routes *r, const struct derp_key *key, uint32_t node)
{
    if (node == (uint32_t)NODE_NONE) {
        keymap_del(r->remote, key);
        return 0;
    }
    uint32_t *v = keymap_put(r->remote, key, NULL);
    if (!v)
        return -1;
    *v = node;
    return 0;
}

const struct derp_key *routes_local_at(const struct routes *r, size_t i)
{
    return keymap_at(r->local, i, NULL);
}

const struct derp_key *routes_remote_at(const struct routes *r, size_t i)
{
    return keymap_at(r->remote, i, NULL);
}

size_t routes_n_local(const struct routes *r)
{
    return keymap_count(r->local);
}

size_t routes_n_remote(const struct routes *r)
{
    return keymap_count(r->remote);
}

size_t routes_bytes(const struct routes *r)
{
    return sizeof *r + keymap_bytes(r->local) + keymap_bytes(r->remote);
}
