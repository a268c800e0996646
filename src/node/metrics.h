/* GET /metrics in Prometheus' text form, and a short page for a person at /.
 *
 * Owner: server_run.  Thread: the control loop's. */
#ifndef DERPMESH_NODE_METRICS_H
#define DERPMESH_NODE_METRICS_H

#include <stddef.h>

#include "node/control.h"
#include "node/oneshot.h"

struct metrics {
    struct oneshot server;
    struct control *control;
    char text[80]; /* where it listens; "off" */
};

/* 0, or -1 with a sentence. */
int metrics_start(struct metrics *m, struct control *c, const struct config_listen *at, char *err,
                  size_t err_len);
void metrics_stop(struct metrics *m);

/* The text of /metrics, malloc'd; NULL without memory. */
char *metrics_text(const struct control *c, size_t *len);

#endif
