/* How far the regions of a map are from each other: as measured by `probe --json`, else by Latitude and Longitude.
 *
 * What a probe measures goes from the prober through both nodes and back; what of it lies between the prober and each node
 * is known from the pairs of a node with itself and is taken off.
 * Owner: who makes it.  Thread: any, once made.  Fails: NULL with a sentence. */
#ifndef DERPMESH_CLI_NEAR_H
#define DERPMESH_CLI_NEAR_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/derpmap.h"

struct near;

/* probe: the text that probe --json printed, or NULL.  The map outlives it. */
struct near *near_new(const struct derpmap *m, const char *probe, size_t n, char *err, size_t err_len);
void near_free(struct near *r);
/* The other regions that have nodes, as indices into map->regions, nearest first, then those of unknown distance by number.
 * Returns how many; out has room for n_regions. */
int near_order(const struct near *r, int region, int *out);
/* "9180 km", "213.4 ms", or "distance unknown". */
enum { NEAR_TEXT = 32 };
const char *near_text(const struct near *r, int a, int b, char out[static NEAR_TEXT]);
/* Whether anything is known of this region's distance to another. */
bool near_known(const struct near *r, int region);

#endif
