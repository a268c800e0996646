/* See backup.h.
 *
 * Happy path: by region, the others in the order of their distance; of each the first node that relays.
 * Fails only without memory. */
#include "cli/backup.h"

#include <stdlib.h>

static const struct derpmap_node *first_relay(const struct derpmap_region *r)
{
    for (int i = 0; i < r->n_nodes; i++)
        if (!r->nodes[i]->backup && !r->nodes[i]->stun_only)
            return r->nodes[i];
    return NULL;
}

static bool lists(const struct derpmap_region *r, const struct derpmap_node *n)
{
    for (int i = 0; i < r->n_nodes; i++)
        if (r->nodes[i]->backup && r->nodes[i]->id == n->id) /* a backup has the id of what it lists */
            return true;
    return false;
}

struct derpmap_listing *backup_choose(const struct derpmap *m, const struct near *near, int count, int *n)
{
    int *order = calloc((size_t)m->n_regions + 1, sizeof(*order));
    struct derpmap_listing *out = calloc((size_t)m->n_regions * (size_t)count + 1, sizeof(*out));

    *n = 0;
    if (!order || !out) {
        free(order);
        free(out);
        return NULL;
    }
    for (int i = 0; i < m->n_regions; i++) {
        const struct derpmap_region *r = &m->regions[i];
        int others = r->removed || r->n_nodes == 0 ? 0 : near_order(near, i, order), chosen = 0;
        for (int k = 0; k < others && chosen < count; k++) {
            const struct derpmap_node *node = first_relay(&m->regions[order[k]]);
            if (!node)
                continue;
            chosen++;
            if (!lists(r, node))
                out[(*n)++] = (struct derpmap_listing){.region_id = r->id, .node = node, .no_stun = true};
        }
    }
    free(order);
    return out;
}
