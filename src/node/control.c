/* The control thread's part of every event: workers report, the registry and the mesh decide, workers are
 * told.
 *
 * Happy path: a message of a worker goes to the registry of clients or to the mesh; what follows from it
 * leaves through mesh_io.c in the same turn.  Before the loop sleeps, the timer is set to when the mesh
 * wants to be called.
 * Failure: messages about what is no longer known are dropped.  Nothing here ends the process. */
#include "node/control.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "node/bootstrap.h"
#include "node/log.h"
#include "node/tcp_info.h"

uint64_t control_now(void)
{
    return uv_hrtime() / 1000000;
}

uint64_t control_stat(const struct control *c, enum stat_id which)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < c->n_workers; i++)
        sum += stats_get(&c->workers[i]->stats, which);
    return sum;
}

uint64_t control_stat_recent(const struct control *c, enum stat_id which)
{
    return control_stat(c, which) - c->samples[c->sample_at][which];
}

bool control_peer_linked(const struct control *c, uint32_t node, uint64_t *since)
{
    const struct control_node *n = node < c->n_nodes ? &c->nodes[node] : NULL;
    *since = n && n->since ? n->since : c->site_since;
    return n && n->linked;
}

/* ---- what anyone may be told of the peers (pages.c) ---- */

/* Places in the map are looked up once a map.  0, or -1 without memory. */
static int find_shown(struct control *c)
{
    uint32_t n = mesh_n_nodes(c->mesh);
    struct mesh_peer_info p;
    if (c->shown_map == c->site->map && c->n_shown == n)
        return 0;
    int *shown = realloc(c->shown, (n + 1) * sizeof(*shown));
    if (!shown)
        return -1;
    c->shown = shown;
    for (uint32_t i = 0; i < n; i++) {
        const struct derpmap_node *d = mesh_peer(c->mesh, i, &p) ? derpmap_find(c->site->map, p.name) : NULL;
        shown[i] = d ? (int)(d - c->site->map->nodes) : -1;
    }
    c->shown_map = c->site->map;
    c->n_shown = n;
    return 0;
}

static void show_peers(struct control *c)
{
    struct mesh_peer_info p;
    if (!c->mesh || find_shown(c) != 0)
        return;
    for (uint32_t i = 0; i < c->n_shown; i++) {
        if (c->shown[i] < 0 || !mesh_peer(c->mesh, i, &p))
            continue;
        bool over_another = p.via != NODE_NONE && p.via != i; /* it lives: somebody reaches it */
        uint8_t state = p.state == MESH_PEER_UP || over_another ? SITE_PEER_UP : SITE_PEER_SILENT;
        atomic_store_explicit(&c->site->peers[c->shown[i]], state, memory_order_relaxed);
    }
}

/* ---- what workers report ---- */

/* A client that cannot be reached is better off elsewhere, or here a moment later. */
static void close_unreachable(struct control *c, const struct derp_key *key, const struct conn_ref *ref)
{
    log_limited(LOG_ERROR, "control", "out of memory: a client could not be reached and is closed");
    control_tell(c, ref->worker,
                 &(struct inbox_msg){
                     .type = IN_ADMIT_ANSWER, .key = *key, .ref = *ref, .number = STAT_CLOSED_NO_MEMORY});
}

/* The worker that has a key's first connection knows: it need not be woken. */
static void tell_active(struct control *c, const struct derp_key *key, const struct clients_change *ch)
{
    const struct inbox_msg m = {.type = IN_LOCAL_SET, .key = *key, .ref = ch->active};
    for (uint32_t i = 0; i < c->n_workers; i++)
        if (!ch->first || i != ch->active.worker)
            control_tell(c, i, &m);
}

static void apply_change(struct control *c, const struct derp_key *key, const struct conn_ref *ref,
                         const struct clients_change *ch)
{
    uint64_t now = control_now();
    if (ch->active_changed)
        tell_active(c, key, ch);
    if (ch->last)
        control_tell_all(c, &(struct inbox_msg){.type = IN_LOCAL_DEL, .key = *key, .ref = *ref});
    if (!c->mesh)
        return;
    if (ch->first && mesh_client_up(c->mesh, key, ch->home, now) != 0)
        close_unreachable(c, key, ref);
    else if (ch->last)
        mesh_client_down(c->mesh, key, now);
    else if (ch->home_changed && !ch->first)
        mesh_client_home(c->mesh, key, ch->home, now);
}

static void client_message(struct control *c, const struct inbox_msg *m)
{
    struct clients_change ch = {0};
    switch (m->type) {
    case IN_CLIENT_UP:
        if (clients_up(c->clients, &m->key, &m->ref, m->flag, &ch) != 0)
            close_unreachable(c, &m->key, &m->ref);
        break;
    case IN_CLIENT_HOME:
        clients_home(c->clients, &m->key, &m->ref, m->flag, &ch);
        break;
    case IN_CLIENT_ACTIVE:
        clients_active(c->clients, &m->key, &m->ref, &ch);
        break;
    default:
        clients_down(c->clients, &m->key, &m->ref, &ch);
        break;
    }
    if (c->varz) {
        atomic_store(&c->varz->keys, clients_keys(c->clients));
        atomic_store(&c->varz->connections, clients_connections(c->clients));
        if (m->type == IN_CLIENT_UP && !ch.first)
            atomic_fetch_add(&c->varz->more_connections, 1);
    }
    apply_change(c, &m->key, &m->ref, &ch);
    if (m->type == IN_CLIENT_UP || m->type == IN_CLIENT_DOWN)
        control_admit_message(c, m);
}

/* The text in a message; "" if it holds none that ends. */
static const char *text_of(const struct inbox_msg *m)
{
    return m->len && m->bytes[m->len - 1] == 0 ? (const char *)m->bytes : "";
}

static void close_link(struct control *c, const struct conn_ref *ref, const char *why)
{
    size_t len = strlen(why) + 1;
    struct inbox_msg *out = inbox_msg_new(IN_LINK_CLOSE, len);
    if (!out)
        return;
    out->ref = *ref;
    memcpy(out->bytes, why, len);
    inbox_post(&c->workers[ref->worker]->inbox, out);
}

static void link_open(struct control *c, const struct inbox_msg *m, uint64_t now)
{
    struct mesh_link_info info = m->link_info;
    info.from = text_of(m);
    if (info.dialer && !control_dial_take(c, info.dial)) {
        close_link(c, &m->ref, "this connection is not wanted any more");
        return;
    }
    if (control_link_add(c, &m->ref) != 0) {
        close_link(c, &m->ref, "out of memory");
        if (info.dialer)
            mesh_dial_failed(c->mesh, info.dial, "out of memory", now);
        return;
    }
    if (m->flag)
        mesh_derper_open(c->mesh, info.dial, m->ref.gen, now);
    else
        mesh_link_open(c->mesh, m->ref.gen, &info, now);
}

/* Clients of a real derper that came or left. */
static void derper_keys(struct control *c, const struct inbox_msg *m, uint64_t now)
{
    for (size_t off = 0; off + DERPER_RECORD_LEN <= m->len; off += DERPER_RECORD_LEN) {
        struct derp_key key;
        memcpy(key.b, m->bytes + off, KEY_LEN);
        mesh_derper_key(c->mesh, m->ref.gen, &key, m->bytes[off + KEY_LEN], now);
    }
}

static void mesh_message(struct control *c, const struct inbox_msg *m)
{
    uint64_t now = control_now();
    if (!c->mesh)
        return;
    switch (m->type) {
    case IN_NOT_HERE:
        mesh_not_here(c->mesh, &m->key, &m->node_id, now);
        return;
    case IN_CLIENT_BUSY:
        mesh_busy(c->mesh, &m->node_id, &m->key, &m->src, (uint32_t)m->number, now);
        return;
    case IN_GLEAN:
        mesh_glean(c->mesh, &m->key, &m->node_id, now);
        return;
    case IN_DIAL_FAILED:
        control_dial_take(c, m->number);
        mesh_dial_failed(c->mesh, m->number, text_of(m), now);
        return;
    case IN_LINK_OPEN:
        link_open(c, m, now);
        return;
    default:
        break;
    }
    if (!control_link_find(c, m->ref.gen))
        return;
    if (m->type == IN_UNREACH) {
        mesh_unreach(c->mesh, m->ref.gen, &m->node_id, now);
    } else if (m->type == IN_LINK_CONTROL) {
        mesh_link_input(c->mesh, m->ref.gen, m->bytes, m->len, now);
    } else if (m->type == IN_LINK_ACKED) {
        mesh_link_acked(c->mesh, m->ref.gen, m->number, now);
    } else if (m->type == IN_LINK_ALIVE) {
        mesh_link_alive(c->mesh, m->ref.gen, now);
    } else if (m->type == IN_DERPER_KEYS) {
        derper_keys(c, m, now);
    } else {
        mesh_link_closed(c->mesh, m->ref.gen, text_of(m), now);
        mesh_derper_closed(c->mesh, m->ref.gen, text_of(m), now);
        control_link_remove(c, m->ref.gen);
        show_peers(c);
    }
}

struct closing {
    struct control *c;
    const struct derp_key *key;
    enum stat_id why;
    size_t n;
};

static void close_one(void *ctx, const struct conn_ref *ref)
{
    struct closing *x = ctx;
    x->n++;
    control_tell(x->c, ref->worker,
                 &(struct inbox_msg){.type = IN_ADMIT_ANSWER, .key = *x->key, .ref = *ref, .number = x->why});
}

size_t control_kick(struct control *c, const struct derp_key *key)
{
    char text[KEY_TEXT_MAX];
    struct closing x = {c, key, STAT_CLOSED_KICKED, 0};
    clients_each(c->clients, key, close_one, &x);
    key_public_text(text, key);
    log_info("client", "kicked key=%s connections=%zu", text, x.n);
    return x.n;
}

static void close_peer(struct control *c, const struct derp_key *key)
{
    char text[KEY_TEXT_MAX];
    struct closing x = {c, key, STAT_CLOSED_ADMIN, 0};
    key_public_text(text, key);
    log_limited(LOG_INFO, "derper", "a derper closes a client key=%s", text);
    clients_each(c->clients, key, close_one, &x);
}

struct telling_routes {
    struct control *c;
    uint32_t worker;
};

static void tell_route(void *ctx, const struct derp_key *key, uint32_t node)
{
    const struct telling_routes *x = ctx;
    control_tell(x->c, x->worker, &(struct inbox_msg){.type = IN_REMOTE_SET, .key = *key, .node = node});
}

static void on_message(void *ctx, struct inbox_msg *m)
{
    struct control *c = ctx;
    switch (m->type) {
    case IN_CLIENT_UP:
    case IN_CLIENT_HOME:
    case IN_CLIENT_ACTIVE:
    case IN_CLIENT_DOWN:
        client_message(c, m);
        return;
    case IN_ADMIT_ASK:
        control_admit_message(c, m);
        return;
    case IN_CLOSE_PEER:
        close_peer(c, &m->key);
        return;
    case IN_ROUTES_ASK:
        if (c->mesh)
            mesh_each_route(c->mesh, tell_route, &(struct telling_routes){c, (uint32_t)m->number});
        return;
    case IN_CLIENT_BUSY:
    case IN_GLEAN:
    case IN_NOT_HERE:
    case IN_UNREACH:
    case IN_LINK_OPEN:
    case IN_LINK_CONTROL:
    case IN_DERPER_KEYS:
    case IN_LINK_ACKED:
    case IN_LINK_ALIVE:
    case IN_LINK_CLOSED:
    case IN_DIAL_FAILED:
        mesh_message(c, m);
        return;
    case IN_STOPPED:
        if (++c->n_stopped == c->n_workers)
            c->on_stopped(c->ctx);
        return;
    default:
        return; /* none of ours */
    }
}

/* ---- time ---- */

static void on_timer(uv_timer_t *timer)
{
    struct control *c = timer->data;
    c->timer_at = UINT64_MAX;
    if (c->mesh)
        mesh_tick(c->mesh, control_now());
    show_peers(c);
}

/* Before the loop sleeps: whatever this turn did may have changed when the mesh wants its tick. */
static void on_prepare(uv_prepare_t *prepare)
{
    struct control *c = prepare->data;
    if (!c->mesh)
        return;
    uint64_t next = mesh_next(c->mesh);
    if (next == c->timer_at)
        return;
    c->timer_at = next;
    if (next == UINT64_MAX) {
        uv_timer_stop(&c->timer);
        return;
    }
    uint64_t now = control_now();
    uv_update_time(c->loop);
    uv_timer_start(&c->timer, on_timer, next > now ? next - now : 0, 0);
}

/* What neighbours may send over this node: nothing for others while it drops packets for want of room itself. */
static void carrying_tell(struct control *c)
{
    struct mesh_carrying carrying = {.transit_off = !c->site->config->transit,
                                     .draining = c->draining,
                                     .overloaded = control_stat_recent(c, STAT_DROP_BUDGET) > 0 ||
                                                   control_stat_recent(c, STAT_DROP_INBOX_FULL) > 0};
    if (c->mesh)
        mesh_set_carrying(c->mesh, &carrying, control_now());
}

static void on_sample(uv_timer_t *timer)
{
    struct control *c = timer->data;
    for (int i = 0; i < STAT_N; i++)
        c->samples[c->sample_at][i] = control_stat(c, (enum stat_id)i);
    c->sample_at = (c->sample_at + 1) % CONTROL_SAMPLES;
    carrying_tell(c);
}

/* ---- life ---- */

int control_init(struct control *c, uint64_t seed)
{
    int rc = inbox_init(&c->inbox, c->loop, on_message, c);
    if (rc != 0)
        return rc;
    c->started = c->site_since = control_now();
    c->timer_at = UINT64_MAX;
    c->prepare.data = c->timer.data = c->sample.data = c;
    uv_prepare_init(c->loop, &c->prepare);
    uv_timer_init(c->loop, &c->timer);
    uv_timer_init(c->loop, &c->sample);
    c->clients = clients_new(seed);
    return c->clients ? control_admit_init(c, seed * 3 + 1) : UV_ENOMEM;
}

/* Random numbers at this start, and the count that no restart repeats. */
static int identity(struct control *c, struct mesh_config *mc, char *err, size_t err_len)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t ms = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
    randombytes_buf(mc->instance, sizeof(mc->instance));
    mc->boot = ms;
    return !c->keystore->state ? 0 : keystore_boot(c->keystore, ms, &mc->boot, err, err_len);
}

/* What loses least to a lost packet needs fewer connections beside each other (docs/architecture.md). */
static unsigned lanes_of(const struct config *config)
{
    char in_force[TCP_CC_NAME];
    if (config->mesh_lanes != CONFIG_LANES_AUTO)
        return config->mesh_lanes;
    const char *wanted = config->mesh_congestion;
    bool asked = wanted && *wanted && tcp_can_use(wanted, in_force);
    if (!asked)
        (void)tcp_can_use("bbr", in_force);
    return strcmp(asked ? wanted : in_force, "bbr") == 0 ? 2 : 4;
}

int control_start(struct control *c, char *err, size_t err_len)
{
    struct keystore_peers peers = {0};
    struct mesh_config mc = {
        .ops = &control_mesh_ops,
        .ctx = c,
        .software = "derpmesh " DERPMESH_VERSION,
        .node_key = c->site->node_key,
        .keys = &c->site->mesh_keys,
        .lanes = lanes_of(c->site->config),
        .accept_no_exporter = true, /* link_io knows which peers may be without: see mesh_proxied */
        .map = c->site->map,
        .self = c->site->self,
    };
    int rc = -1;
    struct mesh_pin *pins = NULL;
    if (identity(c, &mc, err, err_len) != 0 ||
        (c->keystore->state && keystore_peers_load(c->keystore, &peers, err, err_len) != 0))
        goto out;
    pins = calloc(peers.n + 1, sizeof(*pins));
    for (size_t i = 0; pins && i < peers.n; i++)
        pins[i] = (struct mesh_pin){.name = peers.v[i].name, .key = peers.v[i].key};
    mc.pins = pins;
    mc.n_pins = peers.n;
    c->mesh = pins ? mesh_new(&mc, control_now()) : NULL;
    if (!c->mesh) {
        snprintf(err, err_len, "out of memory");
        goto out;
    }
    mesh_set_pins(c->mesh, c->site->mesh_pins, c->site->pins.n, control_now());
    carrying_tell(c);
    uv_prepare_start(&c->prepare, on_prepare);
    uv_timer_start(&c->sample, on_sample, CONTROL_SAMPLE_MS, CONTROL_SAMPLE_MS);
    rc = 0;
out:
    key_pair_wipe(&mc.node_key);
    free(pins);
    keystore_peers_free(&peers);
    return rc;
}

void control_set_site(struct control *c, struct site *site)
{
    struct site *old = c->site;
    uint64_t now = control_now();
    bool same_map = site->map == old->map; /* only the certificate is another */
    c->site = site;
    if (!same_map) {
        c->site_since = now;
        c->shown_map = NULL;
    }
    control_tell_all(c, &(struct inbox_msg){.type = IN_SITE, .site = site});
    limits_set(c->limits, site->config);
    if (c->varz) {
        varz_set(c->varz, site->config);
        bootstrap_set(c->varz->bootstrap, site->config);
    }
    if (c->admit && !same_map)
        control_admit_site(c);
    if (c->mesh && !same_map) {
        /* The map first: a new peer is then dialled with the new keys at the next tick. */
        mesh_set_map(c->mesh, site->map, site->self, now);
        mesh_set_keys(c->mesh, &site->mesh_keys, now);
        mesh_set_pins(c->mesh, site->mesh_pins, site->pins.n, now);
        carrying_tell(c);
    }
    site_unref(old);
    if (c->on_site)
        c->on_site(c->site_ctx);
}

static void set_draining(struct control *c, bool on, uint64_t ms)
{
    c->draining = on;
    c->drain_since = control_now();
    atomic_store(&c->limits->draining, on);
    carrying_tell(c);
    control_tell_all(c, &(struct inbox_msg){.type = IN_DRAIN, .flag = on, .number = ms});
}

void control_drain(struct control *c, uint64_t ms)
{
    log_info("serve", "draining: listeners are closed, STUN is silent clients=%zu within_ms=%llu",
             clients_connections(c->clients), (unsigned long long)ms);
    set_draining(c, true, ms);
}

void control_undrain(struct control *c)
{
    if (c->draining)
        log_info("serve", "draining is over: listeners are open clients=%zu",
                 clients_connections(c->clients));
    set_draining(c, false, 0);
}

void control_stop(struct control *c, bool keep_sockets)
{
    struct mesh *m = c->mesh;
    c->mesh = NULL;
    if (m)
        mesh_free(m);
    control_tell_all(c, &(struct inbox_msg){.type = IN_STOP, .flag = keep_sockets});
}

void control_close(struct control *c)
{
    inbox_stop(&c->inbox);
    uv_close((uv_handle_t *)&c->prepare, NULL);
    uv_close((uv_handle_t *)&c->timer, NULL);
    uv_close((uv_handle_t *)&c->sample, NULL);
    control_admit_close(c);
}

void control_deinit(struct control *c)
{
    inbox_deinit(&c->inbox);
    control_pins_free(c);
    control_admit_deinit(c);
    clients_free(c->clients);
    free(c->links);
    free(c->dials);
    free(c->nodes);
    free(c->shown);
    site_unref(c->site);
}
