/* A node's life: everything is made before anything runs, and taken down in the opposite order.
 *
 * Happy path: site, lock, sockets, workers, mesh, admin socket, metrics → threads start → READY → the
 * control loop runs until TERM (clients leave first) or INT → mesh says goodbye, workers close all → IN_STOPPED of each → threads
 * are joined.
 * Failure: before READY, one sentence and everything made so far is taken down.  Workers that do not stop
 * within STOP_MS, or a further signal: the process ends as it stands. */
#include "node/server.h"

#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "node/bootstrap.h"
#include "node/log.h"
#include "node/reserve.h"
#include "node/server_parts.h"
#include "node/status.h"
#include "node/systemd.h"

enum { STOP_MS = 20000, DRAIN_LOOK_MS = 100, BUDGET_MAX = 256 << 20 };

/* ---- the end ---- */

static void on_too_late(uv_timer_t *timer)
{
    (void)timer;
    log_error("serve", "connections could not be closed in time: ending anyway");
    _exit(1);
}

static void stop(struct server *sv, const char *why)
{
    if (sv->stopping) {
        log_warn("serve", "%s again: ending at once", why);
        _exit(1);
    }
    sv->stopping = true;
    log_info("serve", "%s: stopping", why);
    if (!sv->handed_over)
        systemd_notify("STOPPING=1");
    handover_stop(&sv->handover);
    uv_timer_stop(&sv->watchdog);
    admin_stop(&sv->admin);
    metrics_stop(&sv->metrics);
    cert_watch_stop(&sv->certs);
    acme_stop(&sv->acme);
    uv_timer_stop(&sv->drain_timer);
    uv_timer_start(&sv->stop_timer, on_too_late, STOP_MS, 0);
    control_stop(&sv->control, sv->handed_over);
}

static void on_drain(uv_timer_t *timer)
{
    struct server *sv = timer->data;
    size_t left = clients_connections(sv->control.clients);
    if (left == 0)
        stop(sv, "drained");
    else if (control_now() >= sv->drain_until)
        stop(sv, "drain_timeout has passed");
}

/* Whether clients that are sent away can go to another node. */
static bool has_others(const struct site *s)
{
    for (int i = 0; i < s->map->n_nodes; i++)
        if (!s->map->nodes[i].backup && !s->map->nodes[i].stun_only && &s->map->nodes[i] != s->self)
            return true;
    return false;
}

/* SIGTERM: clients leave first, while the mesh still reaches them.  The second one ends that. */
static void drain(struct server *sv)
{
    const struct site *s = sv->control.site;
    uint32_t ms = s->config->drain_timeout_ms;
    if (sv->stopping || sv->drain_until || ms == 0 || clients_connections(sv->control.clients) == 0 ||
        !has_others(s)) {
        stop(sv, "SIGTERM");
        return;
    }
    systemd_notify("STOPPING=1");
    sv->drain_until = control_now() + ms;
    control_drain(&sv->control, ms);
    uv_timer_start(&sv->drain_timer, on_drain, DRAIN_LOOK_MS, DRAIN_LOOK_MS);
}

static void close_handles(struct server *sv)
{
    bootstrap_stop(sv->varz.bootstrap);
    for (int i = 0; i < SERVER_SIGNALS; i++)
        uv_close((uv_handle_t *)&sv->signals[i], NULL);
    uv_close((uv_handle_t *)&sv->stop_timer, NULL);
    uv_close((uv_handle_t *)&sv->drain_timer, NULL);
    uv_close((uv_handle_t *)&sv->watchdog, NULL);
    control_close(&sv->control);
}

static void on_stopped(void *ctx)
{
    close_handles(ctx);
}

/* ---- another process takes our place ---- */

static void on_heir(void *ctx, const char *err)
{
    struct server *sv = ctx;
    char text[64];
    if (err) {
        log_error("serve", "no hand-over, this process goes on: %s", err);
    } else {
        snprintf(text, sizeof(text), "MAINPID=%d", handover_pid(&sv->handover));
        systemd_notify(text);
        sv->handed_over = true;
        log_info("serve", "process %d is ready to take over", handover_pid(&sv->handover));
    }
    if (sv->on_handed)
        sv->on_handed(sv->on_handed_ctx, err);
    sv->on_handed = NULL;
    if (!err)
        stop(sv, "hand-over");
}

/* As control.hand_over. */
static int hand_over(void *ctx, void (*done)(void *ctx, const char *err), void *done_ctx, char *err,
                     size_t err_len)
{
    struct server *sv = ctx;
    int fds[HANDOVER_FDS + 1], n = 0;
    if (sv->stopping || sv->drain_until) {
        snprintf(err, err_len, "the node is stopping");
        return -1;
    }
    for (uint32_t i = 0; i < sv->control.n_workers; i++)
        n += worker_sockets(sv->workers[i], fds + n, HANDOVER_FDS + 1 - n);
    if (handover_start(&sv->handover, &sv->loop, fds, n, on_heir, sv, err, err_len) != 0)
        return -1;
    log_info("serve", "a new process is started, to take this one's place");
    sv->on_handed = done;
    sv->on_handed_ctx = done_ctx;
    return 0;
}

static void hand_over_by_signal(struct server *sv)
{
    char err[256];
    if (hand_over(sv, NULL, NULL, err, sizeof(err)) != 0)
        log_error("serve", "no hand-over, this process goes on: %s", err);
}

/* ---- the service manager's watchdog ---- */

/* It hears from us while all loops turn. */
static void on_watchdog(uv_timer_t *timer)
{
    struct server *sv = timer->data;
    bool all = true;
    for (uint32_t i = 0; i < sv->control.n_workers; i++) {
        uint32_t beat = (uint32_t)atomic_load_explicit(&sv->workers[i]->beat, memory_order_relaxed);
        all &= beat != sv->beats[i];
        sv->beats[i] = beat;
    }
    if (all)
        systemd_notify("WATCHDOG=1");
    else
        log_limited(LOG_ERROR, "serve", "a worker's loop does not turn: the service manager is told nothing");
}

static void start_watchdog(struct server *sv)
{
    unsigned ms = systemd_watchdog_ms();
    if (ms > 0)
        uv_timer_start(&sv->watchdog, on_watchdog, ms, ms);
}

static void on_signal(uv_signal_t *handle, int signum)
{
    struct server *sv = handle->data;
    if (signum == SIGUSR1)
        server_log_status(sv);
    else if (signum == SIGTERM)
        drain(sv);
    else if (signum == SIGINT)
        stop(sv, "SIGINT");
    else if (signum == SIGUSR2)
        hand_over_by_signal(sv);
    else if (!sv->stopping)
        reload_ask(&sv->reload, NULL, NULL);
}

/* ---- the beginning ---- */

static void set_process(const struct config *c)
{
    struct rlimit r;
    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
    if (c->log_level != LOG_DEBUG)
        prctl(PR_SET_DUMPABLE, 0); /* keys are in memory */
}

static int make_workers(struct server *sv, uint32_t n, char *err, size_t err_len)
{
    uint64_t budget = limits_memory() / 4 / n, seed;
    randombytes_buf(&seed, sizeof(seed));
    for (uint32_t i = 0; i < n; i++) {
        struct worker_params p = {
            .index = i,
            .n_workers = n,
            .workers = sv->workers,
            .control = &sv->control.inbox,
            .site = sv->control.site,
            .limits = &sv->limits,
            .varz = &sv->varz,
            .seed = seed + i,
            .budget = budget < BUDGET_MAX ? (size_t)budget : BUDGET_MAX,
            .derp_fd = sv->fds[i].fd[LISTEN_DERP],
            .http_fd = sv->fds[i].fd[LISTEN_HTTP],
            .stun_fd = sv->fds[i].fd[LISTEN_STUN],
            .keep_sockets = sv->inherited.lasting,
        };
        for (int k = 0; k < LISTEN_KINDS; k++)
            sv->fds[i].fd[k] = -1; /* the worker's from now on */
        sv->workers[i] = worker_new(&p, err, err_len);
        if (!sv->workers[i])
            return -1;
        sv->control.n_workers = sv->varz.n_workers = i + 1;
    }
    return 0;
}

/* The loop with its signals, the registry; nothing else yet. */
static int make_loop(struct server *sv, struct site *site, char *err, size_t err_len)
{
    uint64_t seed;
    randombytes_buf(&seed, sizeof(seed));
    int rc = uv_loop_init(&sv->loop);
    if (rc != 0) {
        snprintf(err, err_len, "cannot make an event loop: %s", uv_strerror(rc));
        site_unref(site);
        return -1;
    }
    sv->control = (struct control){.loop = &sv->loop,
                                   .site = site,
                                   .workers = sv->workers,
                                   .limits = &sv->limits,
                                   .keystore = &sv->keystore,
                                   .plan = &sv->plan,
                                   .varz = &sv->varz,
                                   .on_stopped = on_stopped,
                                   .hand_over = hand_over,
                                   .ctx = sv};
    for (int i = 0; i < SERVER_SIGNALS; i++) {
        uv_signal_init(&sv->loop, &sv->signals[i]);
        sv->signals[i].data = sv;
    }
    uv_timer_init(&sv->loop, &sv->stop_timer);
    uv_timer_init(&sv->loop, &sv->drain_timer);
    uv_timer_init(&sv->loop, &sv->watchdog);
    sv->stop_timer.data = sv->drain_timer.data = sv->watchdog.data = sv;
    sv->varz = (struct varz){.workers = sv->workers, .started = time(NULL)};
    varz_set(&sv->varz, site->config);
    sv->varz.bootstrap = bootstrap_start(&sv->loop, site->config);
    rc = sv->varz.bootstrap ? control_init(&sv->control, seed) : UV_ENOMEM;
    if (rc != 0)
        snprintf(err, err_len, "cannot start: %s", uv_strerror(rc));
    return rc ? -1 : 0;
}

static int start_threads(struct server *sv, char *err, size_t err_len)
{
    static const int signals[SERVER_SIGNALS] = {SIGHUP, SIGTERM, SIGINT, SIGUSR1, SIGUSR2};
    /* First: a port that answers is what others take for ready, and then they may want to stop us. */
    for (int i = 0; i < SERVER_SIGNALS; i++)
        uv_signal_start(&sv->signals[i], on_signal, signals[i]);
    for (uint32_t i = 0; i < sv->control.n_workers; i++) {
        int rc = worker_start(sv->workers[i]);
        if (rc != 0) {
            snprintf(err, err_len, "cannot start worker %u: %s", i, uv_strerror(rc));
            if (i > 0) {
                log_error("serve", "%s", err);
                _exit(3); /* some run already: no orderly way back */
            }
            return -1;
        }
    }
    sv->running = true;
    return 0;
}

/* derper has no such socket: where it cannot be had, its users miss nothing. */
static int start_admin(struct server *sv, const struct config *c, char *err, size_t err_len)
{
    int rc = admin_start(&sv->admin, &sv->control, &sv->reload, c->admin, err, err_len);
    if (rc == 0 || !c->derper)
        return rc;
    log_info("serve", "no derpmesh status for this one: %s", err);
    return 0;
}

/* Sockets for which there is no use: a unit that does not fit the settings. */
static void leave_inherited(struct server *sv)
{
    int given = sv->inherited.n, left = inherited_close(&sv->inherited);
    if (left > 0)
        log_warn("serve", "%d of %d sockets that were passed are on ports that this node does not serve",
                 left, given);
}

/* After the loop has been made; err says what failed. */
static int run(struct server *sv, const struct config *c, char *err, size_t err_len)
{
    char warn[512];
    if (listen_plan(&sv->plan, c, sv->control.site->self, err, err_len) != 0 ||
        listen_open(&sv->plan, &sv->inherited, sv->fds, c->workers, err, err_len, warn, sizeof(warn)) != 0)
        return -1;
    if (warn[0])
        log_warn("serve", "%s", warn);
    leave_inherited(sv);
    limits_set(&sv->limits, c);
    if (make_workers(sv, (uint32_t)c->workers, err, err_len) != 0 ||
        control_start(&sv->control, err, err_len) != 0 || start_admin(sv, c, err, err_len) != 0 ||
        metrics_start(&sv->metrics, &sv->control, &c->metrics, err, err_len) != 0)
        return -1;
    if (start_threads(sv, err, err_len) != 0)
        return -1;
    server_log_first(sv);
    cert_watch_start(&sv->certs, &sv->control, &cert_watch_times);
    acme_start(&sv->acme, &sv->control);
    systemd_notify("READY=1");
    start_watchdog(sv);
    uv_run(&sv->loop, UV_RUN_DEFAULT);
    return 0;
}

/* Takes down a server that never ran. */
static void abandon(struct server *sv)
{
    listen_close(sv->fds, WORKERS_MAX);
    admin_stop(&sv->admin);
    metrics_stop(&sv->metrics);
    if (sv->control.mesh) {
        mesh_free(sv->control.mesh);
        sv->control.mesh = NULL;
    }
    close_handles(sv);
    uv_run(&sv->loop, UV_RUN_DEFAULT);
}

static int serve(struct server *sv, struct site *site, char *err, size_t err_len)
{
    int rc = -1;
    if (make_loop(sv, site, err, err_len) != 0)
        return -1;
    rc = run(sv, site->config, err, err_len);
    if (!sv->running)
        abandon(sv);
    for (uint32_t i = 0; i < sv->control.n_workers; i++)
        worker_free(sv->workers[i]);
    control_deinit(&sv->control);
    bootstrap_free(sv->varz.bootstrap);
    uv_loop_close(&sv->loop);
    return rc;
}

/* The heir of a running process: all that can be wrong is found before that one is asked to go.  0, or -1 with a sentence. */
static int rehearse(const struct config *config, int argc, char **argv, char *const *envp, char *err,
                    size_t err_len)
{
    char warn[2048];
    bool usage;
    config_loader load = config->load ? config->load : config_load;
    struct config *again = load(argc, argv, envp, err, err_len, &usage);
    struct site *site = again ? site_load(again, err, err_len, warn, sizeof(warn)) : NULL;
    if (!site)
        return -1;
    site_unref(site);
    handover_heir_wait();
    return 0;
}

int server_run(struct config *config, int argc, char **argv, char *const *envp, char *err, size_t err_len)
{
    char warn[2048] = "";
    uint64_t seed;
    int rc = -1;
    struct server *sv = calloc(1, sizeof(*sv));
    if (!sv || sodium_init() < 0 || reserve_init() != 0) {
        snprintf(err, err_len, "cannot start: out of memory, or no random numbers");
        free(sv);
        config_free(config);
        return -1;
    }
    set_process(config);
    if (config->workers > WORKERS_MAX)
        config->workers = WORKERS_MAX;
    for (int i = 0; i < WORKERS_MAX; i++)
        sv->fds[i] = (struct listen_fds){{-1, -1, -1}};
    randombytes_buf(&seed, sizeof(seed));
    limits_init(&sv->limits, seed);
    sv->keystore = (struct keystore){.dir_fd = -1, .lock_fd = -1};
    handover_init(&sv->handover);
    inherited_take(&sv->inherited);
    if (handover_is_heir() && rehearse(config, argc, argv, envp, err, err_len) != 0) {
        config_free(config);
        goto out;
    }
    if (config->state && keystore_open(&sv->keystore, config->state, true, err, err_len) != 0) {
        config_free(config);
        goto out;
    }
    if (config->state && keystore_lock(&sv->keystore, err, err_len) != 0) {
        config_free(config);
        goto close;
    }
    struct site *site = site_load(config, err, err_len, warn, sizeof(warn));
    reload_init(&sv->reload, &sv->control, argc, argv, envp, warn);
    site_warn_lines(warn, server_log_doubt,
                    NULL); /* among them the CertName to paste for a made certificate */
    if (site)
        rc = serve(sv, site, err, err_len);
    if (rc == 0)
        log_info("serve", "stopped");
close:
    keystore_close(&sv->keystore);
out:
    handover_deinit(&sv->handover);
    free(sv);
    return rc;
}
