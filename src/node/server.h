/* A whole node: from a loaded configuration to its end. */
#ifndef DERPMESH_NODE_SERVER_H
#define DERPMESH_NODE_SERVER_H

#include <stdbool.h>
#include <stddef.h>

#include "node/config.h"

/* Runs until a signal ends it.  Takes over config.  argc, argv, envp are read again at each reload.
 * 0; negative with a sentence in err if it could not run. */
int server_run(struct config *config, int argc, char **argv, char *const *envp, char *err, size_t err_len);

/* Checks all that serve would need (map, keys, certificate, ports that can be bound) and says each result.
 * Returns the number of faults. */
int server_check(struct config *config, void (*say)(void *ctx, bool ok, const char *line), void *ctx);

#endif
