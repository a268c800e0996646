/* A reload, beside what runs.
 *
 * Happy path: on the thread pool: settings from the same sources as at the start, what needs a restart put
 * back, a new site loaded, compared; on the control loop: handed to workers and mesh, one log line says what
 * changed.
 * Failure: one error line with file, line and column; what runs goes on. */
#include "node/reload.h"

#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "node/log.h"
#include "node/systemd.h"

struct reload_waiter {
    struct reload_waiter *next;
    reload_done done;
    void *ctx;
};

static void __attribute__((format(printf, 4, 5)))
add_text(char *out, size_t len, const char *sep, const char *fmt, ...)
{
    size_t have = strlen(out);
    if (have && have + strlen(sep) + 1 < len)
        have += (size_t)snprintf(out + have, len - have, "%s", sep);
    if (have + 1 >= len)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(out + have, len - have, fmt, ap);
    va_end(ap);
}

/* ---- settings ---- */

static int keep_text(char **fresh, const char *old)
{
    char *copy = old ? strdup(old) : NULL;
    if (old && !copy)
        return -1;
    free(*fresh);
    *fresh = copy;
    return 0;
}

static bool same_listen(const struct config_listen *a, const struct config_listen *b)
{
    return a->port == b->port && strcmp(a->addr, b->addr) == 0;
}

static void keep_listen(struct config_listen *fresh, const struct config_listen *old, const char *name,
                        char *kept, size_t len)
{
    if (same_listen(fresh, old))
        return;
    *fresh = *old;
    add_text(kept, len, ", ", "%s", name);
}

int reload_keep(struct config *fresh, const struct config *old, const char *self_id, char *kept, size_t len)
{
    kept[0] = 0;
    keep_listen(&fresh->listen, &old->listen, "listen", kept, len);
    keep_listen(&fresh->listen_http, &old->listen_http, "listen_http", kept, len);
    keep_listen(&fresh->listen_stun, &old->listen_stun, "listen_stun", kept, len);
    keep_listen(&fresh->metrics, &old->metrics, "metrics", kept, len);
    if (fresh->workers != old->workers) {
        fresh->workers = old->workers;
        add_text(kept, len, ", ", "workers");
    }
    if ((fresh->tls == TLS_OFF) != (old->tls == TLS_OFF)) {
        fresh->tls = old->tls;
        add_text(kept, len, ", ", "tls");
    }
    if (!config_same_text(fresh->admin, old->admin)) {
        add_text(kept, len, ", ", "admin");
        if (keep_text(&fresh->admin, old->admin) != 0)
            return -1;
    }
    if (!config_same_text(fresh->state, old->state)) {
        add_text(kept, len, ", ", "state");
        /* The defaults of these two lie under it. */
        if (keep_text(&fresh->state, old->state) != 0 || keep_text(&fresh->key_file, old->key_file) != 0 ||
            keep_text(&fresh->cert_dir, old->cert_dir) != 0)
            return -1;
    }
    if (fresh->derper && old->derper) /* a throw-away key lives as long as the process */
        memcpy(fresh->derper->dev_key, old->derper->dev_key, sizeof(old->derper->dev_key));
    if (fresh->node && strcmp(fresh->node, self_id) != 0 && !config_same_text(fresh->node, old->node))
        add_text(kept, len, ", ", "node");
    /* By name from now on: a new map may have more nodes that could be us. */
    return keep_text(&fresh->node, old->node ? old->node : self_id);
}

/* ---- what changed ---- */

enum { NAMES_MAX = 8 };

/* The nodes of a that b lacks (or that are reached differently there, if changed is set). */
static void list_nodes(char *out, size_t len, const struct derpmap *a, const struct derpmap *b, bool changed)
{
    int n = 0, left = 0;
    out[0] = 0;
    for (int i = 0; i < a->n_nodes; i++) {
        const struct derpmap_node *d = &a->nodes[i];
        const struct derpmap_node *other = d->backup ? d : derpmap_find(b, d->id);
        if (changed ? !other || other == d || derpmap_node_same(d, other) : other != NULL)
            continue;
        if (n++ < NAMES_MAX)
            add_text(out, len, ",", "%s", d->id);
        else
            left++;
    }
    if (left)
        add_text(out, len, ",", "and %d more", left);
}

static void describe_map(char *out, size_t len, const struct derpmap *old, const struct derpmap *fresh)
{
    char names[256];
    if (memcmp(old->hash, fresh->hash, sizeof(old->hash)) == 0)
        return;
    size_t before = strlen(out);
    list_nodes(names, sizeof(names), fresh, old, false);
    if (names[0])
        add_text(out, len, ", ", "nodes added=%s", names);
    list_nodes(names, sizeof(names), old, fresh, false);
    if (names[0])
        add_text(out, len, ", ", "nodes removed=%s", names);
    list_nodes(names, sizeof(names), fresh, old, true);
    if (names[0])
        add_text(out, len, ", ", "nodes changed=%s", names);
    if (strlen(out) == before)
        add_text(out, len, ", ", "map changed, but no way to a node");
}

static void describe_settings(char *out, size_t len, const struct config *a, const struct config *b)
{
    const struct {
        const char *name;
        bool same;
    } settings[] = {
        {"trusted_proxies",
         a->n_proxies == b->n_proxies && memcmp(a->proxies, b->proxies, sizeof(a->proxies)) == 0},
        {"mesh_congestion", config_same_text(a->mesh_congestion, b->mesh_congestion)},
        {"mesh_proxied", config_same_text(a->mesh_proxied, b->mesh_proxied)},
        {"derper_peers", config_same_text(a->derper_peers, b->derper_peers)},
        {"proxy_protocol", a->proxy_protocol == b->proxy_protocol},
        {"keepalive",
         a->keepalive_min_ms == b->keepalive_min_ms && a->keepalive_max_ms == b->keepalive_max_ms},
        {"max_clients", a->max_clients == b->max_clients},
        {"login_limit", a->login_limit == b->login_limit && a->login_limit_ip == b->login_limit_ip},
        {"client_rate", a->client_rate == b->client_rate && a->client_burst == b->client_burst},
        {"transit", a->transit == b->transit},
        {"admission", config_same_text(a->allow, b->allow) &&
                          config_same_text(a->verify_url, b->verify_url) &&
                          config_same_text(a->verify_socket, b->verify_socket) && a->admit == b->admit &&
                          a->verify_fail_open == b->verify_fail_open},
        {"drain_timeout", a->drain_timeout_ms == b->drain_timeout_ms},
        {"log", a->log_level == b->log_level && a->log_format == b->log_format},
    };
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
        if (!settings[i].same)
            add_text(out, len, ", ", "%s changed", settings[i].name);
}

void reload_describe(char *out, size_t len, const struct site *old, const struct site *fresh)
{
    out[0] = 0;
    describe_map(out, len, old->map, fresh->map);
    if (old->tls && fresh->tls && strcmp(old->tls->pin, fresh->tls->pin) != 0) {
        struct tm tm;
        char until[32] = "";
        if (gmtime_r(&fresh->tls->not_after, &tm))
            strftime(until, sizeof(until), "%Y-%m-%d", &tm);
        add_text(out, len, ", ", "certificate until %s", until);
    }
    if (sodium_memcmp(&old->mesh_keys, &fresh->mesh_keys, sizeof(old->mesh_keys)) != 0)
        add_text(out, len, ", ", "mesh keys changed: %d, were %d", fresh->mesh_keys.n, old->mesh_keys.n);
    bool same_pins = old->pins.n == fresh->pins.n;
    for (size_t i = 0; same_pins && i < old->pins.n; i++)
        same_pins = strcmp(old->pins.v[i].name, fresh->pins.v[i].name) == 0 &&
                    key_equal(&old->pins.v[i].key, &fresh->pins.v[i].key);
    if (!same_pins)
        add_text(out, len, ", ", "mesh pins changed: %zu, were %zu", fresh->pins.n, old->pins.n);
    describe_settings(out, len, old->config, fresh->config);
    if (!out[0])
        snprintf(out, len, "nothing");
}

/* ---- the work ---- */

/* Things that a running node cannot change, though a new file may say so.  False with a sentence. */
static bool still_us(struct reload *r, const struct listen_plan *plan)
{
    const struct site *a = r->old, *b = r->fresh;
    struct listen_plan now;
    char err[256];
    if (strcmp(a->self->id, b->self->id) != 0) {
        snprintf(r->err, sizeof(r->err), "the map now calls this node %s, it was %s: that needs a restart",
                 b->self->id, a->self->id);
        return false;
    }
    if (!key_equal(&a->node_key.pub, &b->node_key.pub)) {
        snprintf(r->err, sizeof(r->err), "%s holds another node key: that needs a restart",
                 b->config->key_file);
        return false;
    }
    if (listen_plan(&now, b->config, b->self, err, sizeof(err)) != 0)
        return true;
    for (int k = 0; k < LISTEN_KINDS; k++)
        if (plan->at[k].on && strcmp(plan->at[k].text, now.at[k].text) != 0)
            add_text(r->warn, sizeof(r->warn), "\n", "the map says %s for %s, %s is kept until a restart",
                     now.at[k].text, listen_setting((enum listen_kind)k), plan->at[k].text);
    return true;
}

static void on_work(uv_work_t *work)
{
    struct reload *r = work->data;
    bool usage;
    char kept[256], warn[RELOAD_TEXT];
    config_loader load = r->old->config->load ? r->old->config->load : config_load;
    struct config *c = load(r->argc, r->argv, r->envp, r->err, sizeof(r->err), &usage);
    if (!c)
        return;
    if (reload_keep(c, r->old->config, r->old->self->id, kept, sizeof(kept)) != 0) {
        snprintf(r->err, sizeof(r->err), "out of memory");
        config_free(c);
        return;
    }
    if (kept[0])
        add_text(r->warn, sizeof(r->warn), "\n", "kept until a restart: %s", kept);
    r->fresh = site_load(c, r->err, sizeof(r->err), warn, sizeof(warn));
    if (!r->fresh)
        return;
    if (warn[0])
        add_text(r->warn, sizeof(r->warn), "\n", "%s", warn);
    if (!still_us(r, r->control->plan)) {
        site_unref(r->fresh);
        r->fresh = NULL;
        return;
    }
    reload_describe(r->changes, sizeof(r->changes), r->old, r->fresh);
}

static void start(struct reload *r);

static void say_doubt(void *ctx, const char *sentence)
{
    (void)ctx;
    log_warn("reload", "%s", sentence);
}

static void finish(struct reload *r, const char *err)
{
    if (strcmp(r->warn, r->last_warn) != 0) { /* the same doubts need no second hearing */
        snprintf(r->last_warn, sizeof(r->last_warn), "%s", r->warn);
        site_warn_lines(r->warn, say_doubt, NULL);
    }
    snprintf(r->control->refused, sizeof(r->control->refused), "%s", err ? err : "");
    if (err)
        log_error("reload", "nothing is changed: %s", err);
    else
        log_info("reload", "done: %s", r->changes);
    systemd_notify("READY=1");
    struct reload_waiter *w = r->waiting;
    r->waiting = NULL;
    r->running = false;
    while (w) {
        struct reload_waiter *next = w->next;
        if (w->done)
            w->done(w->ctx, err, r->changes);
        free(w);
        w = next;
    }
    if (r->next && !r->running)
        start(r);
}

static void on_work_done(uv_work_t *work, int status)
{
    struct reload *r = work->data;
    struct control *c = r->control;
    site_unref(r->old);
    r->old = NULL;
    const char *err = status ? uv_strerror(status) : r->fresh ? NULL : r->err;
    if (!err && !c->mesh) {
        site_unref(r->fresh);
        err = "the node is stopping";
    } else if (!err) {
        control_set_site(c, r->fresh);
        log_setup(r->fresh->config->log_level, r->fresh->config->log_format);
    }
    r->fresh = NULL;
    finish(r, err);
}

static void start(struct reload *r)
{
    r->waiting = r->next;
    r->next = NULL;
    r->running = true;
    r->err[0] = r->warn[0] = r->changes[0] = 0;
    r->old = site_ref(r->control->site);
    r->fresh = NULL;
    r->work.data = r;
    systemd_reloading();
    int rc = uv_queue_work(r->control->loop, &r->work, on_work, on_work_done);
    if (rc != 0)
        on_work_done(&r->work, rc);
}

void reload_init(struct reload *r, struct control *c, int argc, char **argv, char *const *envp,
                 const char *warn)
{
    *r = (struct reload){.control = c, .argc = argc, .argv = argv, .envp = envp};
    snprintf(r->last_warn, sizeof(r->last_warn), "%s", warn);
}

void reload_ask(struct reload *r, reload_done done, void *ctx)
{
    struct reload_waiter *w = malloc(sizeof(*w));
    if (!w) {
        if (done)
            done(ctx, "out of memory", "");
        return;
    }
    /* Order does not matter: all get the same answer. */
    *w = (struct reload_waiter){.next = r->next, .done = done, .ctx = ctx};
    r->next = w;
    if (!r->running)
        start(r);
}
