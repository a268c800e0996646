/* "Did you mean …?": the known name nearest to a mistyped one.  Thread: any. */
#ifndef DERPMESH_NODE_SUGGEST_H
#define DERPMESH_NODE_SUGGEST_H

#include <stddef.h>

/* The nearest of n names by edit distance (insert, delete, replace, swap of neighbours; case and - for _ cost
 * nothing).  NULL if none is near enough to be meant. */
const char *suggest_nearest(const char *word, const char *const *names, size_t n);

#endif
