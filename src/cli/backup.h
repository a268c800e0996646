/* Cross-listing: each region of a map lists nodes of other regions behind its own, with STUNPort -1, so that clients whose
 * relay is killed go on at the next one at once. */
#ifndef DERPMESH_CLI_BACKUP_H
#define DERPMESH_CLI_BACKUP_H

#include "cli/near.h"

/* For each region the first relay of each of the count nearest ones that it does not list yet.  malloc'd; *n of them.
 * NULL without memory. */
struct derpmap_listing *backup_choose(const struct derpmap *m, const struct near *near, int count, int *n);

#endif
