/* derper's -mesh-with: other derpers (or derpmesh nodes that know the key) of the region as nodes of the map. */
#ifndef DERPMESH_CLI_DERPER_MESH_H
#define DERPMESH_CLI_DERPER_MESH_H

#include <jansson.h>
#include <stddef.h>

/* Appends a node to nodes for each "host[:port][/dialhost]" of with, but for the one that is self (host and port), and their names
 * to peers[len], with commas between, as derper_peers has them.  0, or -1 with a sentence in err. */
int derper_mesh_nodes(json_t *nodes, const char *with, const char *self, int self_port, char *peers,
                      size_t len, char *err, size_t err_len);

#endif
