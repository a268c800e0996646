/* What `derpmesh health` is told: where this node listens, as what clients know it, and that two keys of its own are let in
 * whatever the admission says, so that it can use the node as a client does.  Who may open the admin socket may do that.
 *
 * Thread: the control loop's.  The value is the caller's to json_decref; NULL without memory. */
#ifndef DERPMESH_NODE_HEALTH_H
#define DERPMESH_NODE_HEALTH_H

#include <jansson.h>

#include "node/control.h"

/* keys: a list of at most ADMIT_GUESTS "nodekey:…"; else the answer is {"error": …}.
 * {"node", "gate": "open" | "draining" | "full", "tls": bool, "proxied": bool (a PROXY header is wanted from this machine),
 *  "listens": bool (there is a port to ask), "map": a derpMap with this node alone, at the addresses where it listens} */
json_t *health_json(struct control *c, const json_t *keys);

#endif
