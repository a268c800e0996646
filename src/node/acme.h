/* tls: acme: certificates from a certificate authority, got and renewed by the program uacme as a child process.
 *
 *   certificate is our own, or has a third of its life (at most 30 days) left
 *        └─► uacme new (once) ─► uacme issue ──► challenge: a file, answered on port 80 (pages.c)
 *                                     ├─ well: HOST.key and HOST.crt in cert_dir; cert_watch takes them over
 *                                     └─ not: log, status, metric; the certificate before goes on; again after 20 s,
 *                                             three times as long each time up to 6 hours, ± a half
 *
 * uacme keeps account and what it got in CERT_DIR/acme.  Owner: server_run.  Thread: the control loop's. */
#ifndef DERPMESH_NODE_ACME_H
#define DERPMESH_NODE_ACME_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include <uv.h>

#include "node/control.h"

struct acme_run;

struct acme {
    struct control *control;
    uv_timer_t timer;
    struct acme_run *run; /* under way */
    bool on;
    unsigned failures; /* one after the other */
};

/* Nothing unless the settings say tls: acme. */
void acme_start(struct acme *a, struct control *c);
/* Never started, or twice, is fine; the loop runs on until its handles are closed. */
void acme_stop(struct acme *a);
/* Whether it is time to get one.  self_issued: it is one of our own, for the meantime. */
bool acme_due(bool self_issued, time_t not_before, time_t not_after, time_t now);

#endif
