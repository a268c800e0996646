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

#include "node/admin.h"
#include "node/bootstrap.h"
#include "node/acme.h"
#include "node/cert_watch.h"
#include "node/control.h"
#include "node/log.h"
#include "node/metrics.h"
#include "node/reload.h"
#include "node/reserve.h"
#include "node/status.h"
#include "node/systemd.h"
#include "node/tcp_info.h"
#include "node/varz.h"

enum { STOP_MS = 20000, DRAIN_LOOK_MS = 100, SIGNALS = 4, BUDGET_MAX = 256 << 20 };

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
    uv_signal_t signals[SIGNALS];
    uv_timer_t stop_timer, drain_timer;
    uint64_t
        drain_until; /* ms: a SIGTERM came, and the clients that are left then are closed; 0: none came */
    bool running, stopping; /* threads have been started; are being stopped */
};

/* ---- what a person reads ---- */

static void log_certificate(const struct site *s)
{
    char until[STATUS_TIME];
    const struct tls_server *t = s->tls;
    if (!t) {
        log_info("serve", "certificate=none: a proxy in front ends TLS");
        return;
    }
    log_info("serve", "certificate=%s file=%s names=\"%s\" until=%s", t->made ? "made" : "file", t->file,
             t->names, status_time(until, t->not_after));
    cert_watch_log_sides(t);
}

static void log_congestion(const char *wanted)
{
    char in_force[TCP_CC_NAME];
    bool asked = wanted && *wanted, there = tcp_can_use(asked ? wanted : "bbr", in_force);
    if (asked && there)
        log_info("serve", "mesh congestion=%s", wanted);
    else if (asked)
        log_warn("serve",
                 "mesh congestion=%s: %s cannot be had, links that lose packets will be slow; on the host: "
                 "modprobe "
                 "tcp_%s, and add it to net.ipv4.tcp_allowed_congestion_control",
                 in_force, wanted, wanted);
    else
        log_info("serve", "mesh congestion=%s, the system's", in_force);
}

static void log_peers(const struct site *s)
{
    char names[400] = "";
    size_t at = 0;
    int n = 0;
    for (int i = 0; i < s->map->n_nodes; i++) {
        const struct derpmap_node *d = &s->map->nodes[i];
        if (d->backup || d == s->self)
            continue;
        n++;
        if (at + strlen(d->id) + 8 < sizeof(names))
            at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", at ? "," : "", d->id);
    }
    if (s->mesh_keys.n > 0) {
        log_info("serve", "mesh peers=%d%s%s", n, n ? " names=" : "", names);
        log_congestion(s->config->mesh_congestion);
    } else if (n > 0)
        log_warn("serve", "no mesh key: nothing is forwarded to the %d other nodes (%s); set mesh_key_file",
                 n, names);
}

static void log_admission(const struct control *c)
{
    struct control_admission a;
    char allow[400] = "";
    control_admission(c, &a);
    if (!a.on) {
        log_warn("serve", "%s", STATUS_OPEN);
        return;
    }
    if (a.allow_file)
        snprintf(allow, sizeof(allow), " allow=%s keys=%zu", a.allow_file, a.allow_keys);
    log_info("serve", "admission=%s%s%s%s%s%s%s", a.any ? "any" : "all", allow,
             a.url.on ? " verify_url=" : "", a.url.name, a.socket.on ? " verify_socket=" : "", a.socket.name,
             a.url.on && a.fail_open ? " verify_fail_open=true" : "");
}

static void log_first(const struct server *sv)
{
    const struct site *s = sv->control.site;
    const struct listen_at *at = sv->plan.at;
    char key[KEY_TEXT_MAX];
    key_public_text(key, &s->node_key.pub);
    log_info("serve", "node=%s region=%d version=%s derp=%s http=%s stun=%s workers=%u", s->self->id,
             s->self->region_id, DERPMESH_VERSION, at[LISTEN_DERP].text, at[LISTEN_HTTP].text,
             at[LISTEN_STUN].text, sv->control.n_workers);
    log_certificate(s);
    log_info("serve", "public_key=%s", key);
    log_peers(s);
    log_info("serve", "admin=%s metrics=%s", sv->admin.server.on ? s->config->admin : "off",
             sv->metrics.text);
    log_admission(&sv->control);
}

static void say_doubt(void *ctx, const char *sentence)
{
    (void)ctx;
    log_warn("serve", "%s", sentence);
}

static void say_problem(void *ctx, const char *sentence)
{
    (void)ctx;
    log_warn("status", "%s", sentence);
}

static void log_status(const struct server *sv)
{
    const struct control *c = &sv->control;
    struct mesh_counters m = {0};
    uint32_t up = 0;
    struct mesh_peer_info p;
    for (uint32_t i = 0; c->mesh && i < mesh_n_nodes(c->mesh); i++)
        up += mesh_peer(c->mesh, i, &p) && p.state == MESH_PEER_UP;
    if (c->mesh)
        mesh_counters(c->mesh, &m);
    log_info("status", "up_s=%llu connections=%zu keys=%zu home=%zu login=%llu peers_up=%u remote_keys=%llu",
             (unsigned long long)(control_now() - c->started) / 1000, clients_connections(c->clients),
             clients_keys(c->clients), clients_homes(c->clients),
             (unsigned long long)control_stat(c, STAT_LOGIN_PENDING), up,
             (unsigned long long)m.n_remote_keys);
    log_info(
        "status",
        "packets_in=%llu packets_out=%llu forwarded_out=%llu forwarded_in=%llu bytes_in=%llu bytes_out=%llu",
        (unsigned long long)control_stat(c, STAT_PACKETS_IN),
        (unsigned long long)control_stat(c, STAT_PACKETS_OUT),
        (unsigned long long)control_stat(c, STAT_FORWARDED_OUT),
        (unsigned long long)control_stat(c, STAT_FORWARDED_IN),
        (unsigned long long)control_stat(c, STAT_BYTES_IN),
        (unsigned long long)control_stat(c, STAT_BYTES_OUT));
    status_problems(c, say_problem, NULL);
}

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
    systemd_notify("STOPPING=1");
    admin_stop(&sv->admin);
    metrics_stop(&sv->metrics);
    cert_watch_stop(&sv->certs);
    acme_stop(&sv->acme);
    uv_timer_stop(&sv->drain_timer);
    uv_timer_start(&sv->stop_timer, on_too_late, STOP_MS, 0);
    control_stop(&sv->control);
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
    for (int i = 0; i < SIGNALS; i++)
        uv_close((uv_handle_t *)&sv->signals[i], NULL);
    uv_close((uv_handle_t *)&sv->stop_timer, NULL);
    uv_close((uv_handle_t *)&sv->drain_timer, NULL);
    control_close(&sv->control);
}

static void on_stopped(void *ctx)
{
    close_handles(ctx);
}

static void on_signal(uv_signal_t *handle, int signum)
{
    struct server *sv = handle->data;
    if (signum == SIGUSR1)
        log_status(sv);
    else if (signum == SIGTERM)
        drain(sv);
    else if (signum == SIGINT)
        stop(sv, "SIGINT");
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
                                   .ctx = sv};
    for (int i = 0; i < SIGNALS; i++) {
        uv_signal_init(&sv->loop, &sv->signals[i]);
        sv->signals[i].data = sv;
    }
    uv_timer_init(&sv->loop, &sv->stop_timer);
    uv_timer_init(&sv->loop, &sv->drain_timer);
    sv->stop_timer.data = sv->drain_timer.data = sv;
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
    static const int signals[SIGNALS] = {SIGHUP, SIGTERM, SIGINT, SIGUSR1};
    /* First: a port that answers is what others take for ready, and then they may want to stop us. */
    for (int i = 0; i < SIGNALS; i++)
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

/* After the loop has been made; err says what failed. */
static int run(struct server *sv, const struct config *c, char *err, size_t err_len)
{
    char warn[512];
    if (listen_plan(&sv->plan, c, sv->control.site->self, err, err_len) != 0 ||
        listen_open(&sv->plan, sv->fds, c->workers, err, err_len, warn, sizeof(warn)) != 0)
        return -1;
    if (warn[0])
        log_warn("serve", "%s", warn);
    limits_set(&sv->limits, c);
    if (make_workers(sv, (uint32_t)c->workers, err, err_len) != 0 ||
        control_start(&sv->control, err, err_len) != 0 || start_admin(sv, c, err, err_len) != 0 ||
        metrics_start(&sv->metrics, &sv->control, &c->metrics, err, err_len) != 0)
        return -1;
    if (start_threads(sv, err, err_len) != 0)
        return -1;
    log_first(sv);
    cert_watch_start(&sv->certs, &sv->control, &cert_watch_times);
    acme_start(&sv->acme, &sv->control);
    systemd_notify("READY=1");
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
    site_warn_lines(warn, say_doubt, NULL); /* among them the CertName to paste for a made certificate */
    if (site)
        rc = serve(sv, site, err, err_len);
    if (rc == 0)
        log_info("serve", "stopped");
close:
    keystore_close(&sv->keystore);
out:
    free(sv);
    return rc;
}
