/* What server.c and server_log.c share. */
#ifndef DERPMESH_NODE_SERVER_PARTS_H
#define DERPMESH_NODE_SERVER_PARTS_H

#include "node/acme.h"
#include "node/admin.h"
#include "node/cert_watch.h"
#include "node/control.h"
#include "node/handover.h"
#include "node/inherited.h"
#include "node/metrics.h"
#include "node/reload.h"
#include "node/varz.h"

enum { SERVER_SIGNALS = 5 };

struct server {
    uv_loop_t loop;
    struct control control;
    struct reload reload;
    struct admin admin;
    struct metrics metrics;
    struct varz varz;
    struct cert_watch certs;
    struct acme acme;
    struct keystore keystore;
    struct listen_plan plan;
    struct login_limits limits;
    struct worker *workers[WORKERS_MAX];
    struct listen_fds fds[WORKERS_MAX];
    uv_signal_t signals[SERVER_SIGNALS];
    uv_timer_t stop_timer, drain_timer, watchdog;
    uint32_t beats[WORKERS_MAX]; /* of the workers, at the watchdog's last look */
    struct inherited inherited;
    struct handover handover;
    void (*on_handed)(void *ctx, const char *err); /* who asked for it; NULL: a signal */
    void *on_handed_ctx;
    uint64_t
        drain_until; /* ms: a SIGTERM came, and the clients that are left then are closed; 0: none came */
    bool running, stopping; /* threads have been started; are being stopped */
    bool handed_over;       /* another process takes our place */
};

/* ---- server_log.c: what a person reads ---- */

/* The first lines of a start. */
void server_log_first(const struct server *sv);
/* SIGUSR1. */
void server_log_status(const struct server *sv);
/* A doubt about the configuration; for site_warn_lines. */
void server_log_doubt(void *ctx, const char *sentence);

#endif
