/* One thread's copy of where keys are: two maps, local connections and remote nodes.
 *
 * The second one may, very rarely, name a wrong node (nodemap.h); that node then knows better.
 *
 * Happy path: the control thread's changes come in through the worker's inbox and end in routes_*_set; the relay
 * asks routes_local, then routes_remote.
 * How it fails: a set without memory returns -1 and leaves the former answer in place. */
#include "mesh/routes.h"

#include <stdlib.h>

#include "mesh/keymap.h"
#include "mesh/nodemap.h"

struct routes {
    struct keymap *local; /* struct conn_ref */
    struct nodemap *remote;
};

struct routes *routes_new(uint64_t seed)
{
    struct routes *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->local = keymap_new(sizeof(struct conn_ref), seed);
    r->remote = nodemap_new(~seed);
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
    nodemap_free(r->remote);
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
    uint32_t node = nodemap_get(r->remote, key);
    return node == NODEMAP_NONE ? (uint32_t)NODE_NONE : node;
}

int routes_remote_set(struct routes *r, const struct derp_key *key, uint32_t node)
{
    return nodemap_set(r->remote, key, node < NODEMAP_NONE ? node : (uint32_t)NODEMAP_NONE);
}

const struct derp_key *routes_local_at(const struct routes *r, size_t i)
{
    return keymap_at(r->local, i, NULL);
}

size_t routes_n_local(const struct routes *r)
{
    return keymap_count(r->local);
}

size_t routes_n_remote(const struct routes *r)
{
    return nodemap_count(r->remote);
}

size_t routes_bytes(const struct routes *r)
{
    return sizeof *r + keymap_bytes(r->local) + nodemap_bytes(r->remote);
}
