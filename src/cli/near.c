/* See near.h.
 *
 * Happy path: a table of regions by regions, in ms: what was measured, else 1 ms for each 100 km of the great circle (light in
 * glass, there and back).  Fails: without memory, or when the text is not what probe prints. */
#include "cli/near.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double km_a_ms = 100, earth_km = 6371, degree = 3.14159265358979323846 / 180;

struct near {
    const struct derpmap *map;
    double *ms;     /* [a * n_regions + b]; < 0: unknown */
    bool *measured; /* the same places */
};

static double great_circle_km(const struct derpmap_region *a, const struct derpmap_region *b)
{
    double s = sin((b->latitude - a->latitude) * degree / 2),
           t = sin((b->longitude - a->longitude) * degree / 2);
    double h = s * s + cos(a->latitude * degree) * cos(b->latitude * degree) * t * t;

    return 2 * earth_km * asin(sqrt(h < 1 ? h : 1));
}

static void by_coordinates(struct near *r)
{
    int n = r->map->n_regions;

    for (int a = 0; a < n; a++)
        for (int b = 0; b < n; b++) {
            const struct derpmap_region *x = &r->map->regions[a], *y = &r->map->regions[b];
            bool both = x->has_location && y->has_location;
            r->ms[a * n + b] = both ? great_circle_km(x, y) / km_a_ms : -1;
        }
}

/* The index of a node's region; -1 if the map has no such node. */
static int region_of(const struct near *r, const char *name)
{
    const struct derpmap_node *node = name ? derpmap_find(r->map, name) : NULL;

    for (int i = 0; node && i < r->map->n_regions; i++)
        if (r->map->regions[i].id == node->region_id)
            return i;
    return -1;
}

/* A pair's names and median; < 0 if it was not measured. */
static double pair_ms(const json_t *pair, const char **from, const char **to)
{
    const json_t *ms = json_object_get(pair, "rtt_median_ms");

    *from = json_string_value(json_object_get(pair, "from"));
    *to = json_string_value(json_object_get(pair, "to"));
    return *from && *to && json_is_number(ms) ? json_number_value(ms) : -1;
}

/* The round trip between the prober and a node, twice, as it went there by both ways. */
static double own_ms(const json_t *pairs, const char *name)
{
    const char *from, *to;
    const json_t *pair;
    size_t i;

    json_array_foreach(pairs, i, pair)
    {
        double ms = pair_ms(pair, &from, &to);
        if (ms >= 0 && strcmp(from, name) == 0 && strcmp(to, name) == 0)
            return ms;
    }
    return 0;
}

static void put_measured(struct near *r, int a, int b, double ms)
{
    size_t at = (size_t)a * (size_t)r->map->n_regions + (size_t)b;

    if (!r->measured[at] || ms < r->ms[at])
        r->ms[at] = ms;
    r->measured[at] = true;
}

static int by_probe(struct near *r, const char *text, size_t n, char *err, size_t err_len)
{
    json_error_t at;
    json_t *all = json_loadb(text, n, JSON_DISABLE_EOF_CHECK, &at); /* of --watch: the first line */
    json_t *pairs = json_object_get(all, "pairs"), *pair;
    size_t i;
    int found = 0;

    json_array_foreach(pairs, i, pair)
    {
        const char *from, *to;
        double ms = pair_ms(pair, &from, &to);
        int a = ms >= 0 ? region_of(r, from) : -1, b = ms >= 0 ? region_of(r, to) : -1;
        if (a < 0 || b < 0 || a == b)
            continue;
        ms -= (own_ms(pairs, from) + own_ms(pairs, to)) / 2;
        put_measured(r, a, b, ms > 0.001 ? ms : 0.001);
        put_measured(r, b, a, ms > 0.001 ? ms : 0.001);
        found++;
    }
    if (!all)
        snprintf(err, err_len, "line %d: %s", at.line, at.text);
    else if (!found)
        snprintf(err, err_len,
                 "it holds no round trip between two regions of the map; is it what probe --json "
                 "printed for this map?");
    json_decref(all);
    return found ? 0 : -1;
}

struct near *near_new(const struct derpmap *m, const char *probe, size_t n, char *err, size_t err_len)
{
    size_t cells = (size_t)m->n_regions * (size_t)m->n_regions + 1;
    struct near *r = calloc(1, sizeof(*r));

    if (r) {
        r->map = m;
        r->ms = calloc(cells, sizeof(*r->ms));
        r->measured = calloc(cells, sizeof(*r->measured));
    }
    if (!r || !r->ms || !r->measured) {
        snprintf(err, err_len, "out of memory");
        near_free(r);
        return NULL;
    }
    by_coordinates(r);
    if (probe && by_probe(r, probe, n, err, err_len) != 0) {
        near_free(r);
        return NULL;
    }
    return r;
}

void near_free(struct near *r)
{
    if (!r)
        return;
    free(r->ms);
    free(r->measured);
    free(r);
}

/* Insertion: stable, so equal and unknown ones stay in the order of their numbers. */
int near_order(const struct near *r, int region, int *out)
{
    const double *ms = r->ms + (size_t)region * (size_t)r->map->n_regions;
    int n = 0;

    for (int i = 0; i < r->map->n_regions; i++) {
        if (i == region || r->map->regions[i].removed || r->map->regions[i].n_nodes == 0)
            continue;
        int k = n++;
        for (; k > 0 && ms[i] >= 0 && (ms[out[k - 1]] < 0 || ms[out[k - 1]] > ms[i]); k--)
            out[k] = out[k - 1];
        out[k] = i;
    }
    return n;
}

const char *near_text(const struct near *r, int a, int b, char out[static NEAR_TEXT])
{
    size_t at = (size_t)a * (size_t)r->map->n_regions + (size_t)b;

    if (r->measured[at])
        snprintf(out, NEAR_TEXT, "%.1f ms", r->ms[at]);
    else if (r->ms[at] >= 0)
        snprintf(out, NEAR_TEXT, "%.0f km", r->ms[at] * km_a_ms);
    else
        snprintf(out, NEAR_TEXT, "distance unknown");
    return out;
}

bool near_known(const struct near *r, int region)
{
    for (int i = 0; i < r->map->n_regions; i++)
        if (i != region && r->ms[region * r->map->n_regions + i] >= 0)
            return true;
    return false;
}
