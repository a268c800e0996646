/* Refuses a connection without memory for it: accepts it only to close it.
 *
 * Thread: the worker's.  One at a time: its handle is free again in the loop's next turn. */
#ifndef DERPMESH_NODE_REFUSE_H
#define DERPMESH_NODE_REFUSE_H

#include <stdbool.h>
#include <uv.h>

struct refusal {
    uv_tcp_t tcp;
    bool busy; /* tcp is not closed yet */
};

/* Refuses the connection that waits at the server.  False if the one before is still being closed: try again later. */
bool refuse_next(struct refusal *r, uv_stream_t *server);

#endif
