/* The admin socket: a Unix socket that answers one line of JSON with one JSON value.
 *
 * {"cmd":"status"} · {"cmd":"where","key":"nodekey:…"} · {"cmd":"reload"} · {"cmd":"drain"} · {"cmd":"undrain"}
 * · {"cmd":"health","keys":[…]} (health.h)
 * Who may open the socket may ask: mode 0660.  Owner: server_run.  Thread: the control loop's. */
#ifndef DERPMESH_NODE_ADMIN_H
#define DERPMESH_NODE_ADMIN_H

#include <stddef.h>

#include "node/control.h"
#include "node/oneshot.h"
#include "node/reload.h"

struct admin {
    struct oneshot server;
    struct control *control;
    struct reload *reload;
};

/* path "" or "off": no socket.  Makes the directory above it (0755) if it is missing; replaces a socket that
 * nobody serves, refuses one that somebody does.  0, or -1 with a sentence. */
int admin_start(struct admin *a, struct control *c, struct reload *r, const char *path, char *err,
                size_t err_len);
void admin_stop(struct admin *a);

#endif
