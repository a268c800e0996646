/* What the mesh asks of the node: each of its ops becomes a message to the workers, or a line in a file.
 *
 * Happy path: dial → IN_DIAL to the worker that the name's hash picks, lanes to the next ones; send, close, link_ready, node_path,
 * route, gone → messages in the order of the calls.  A pin is written on libuv's thread pool, one at a time.
 * Failure: what names a link or dial that has ended meanwhile is dropped; without memory a change is lost,
 * which is logged (the next one of that key or node repairs it). */
#include "node/control.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "node/log.h"

struct control_pin {
    uv_work_t work;
    struct control_pin *next;
    struct control *control;
    char *name;
    struct derp_key key;
    int rc;
    char err[256];
};

static void post(struct control *c, uint32_t worker, struct inbox_msg *m)
{
    if (!m) {
        log_limited(LOG_ERROR, "control", "out of memory: worker=%u misses a change", worker);
        return;
    }
    inbox_post(&c->workers[worker]->inbox, m);
}

void control_tell(struct control *c, uint32_t worker, const struct inbox_msg *like)
{
    struct inbox_msg *m = inbox_msg_new(like->type, 0);
    if (m) {
        *m = *like;
        m->next = NULL;
        m->len = 0;
        if (m->site)
            site_ref(m->site);
    }
    post(c, worker, m);
}

void control_tell_all(struct control *c, const struct inbox_msg *like)
{
    for (uint32_t i = 0; i < c->n_workers; i++)
        control_tell(c, i, like);
}

/* ---- links and dials ---- */

static int grow(void *array, size_t *cap, size_t n, size_t size)
{
    void **v = array;
    if (n < *cap)
        return 0;
    size_t want = *cap ? *cap * 2 : 16;
    void *p = reallocarray(*v, want, size);
    if (!p)
        return -1;
    *v = p;
    *cap = want;
    return 0;
}

const struct conn_ref *control_link_find(const struct control *c, uint64_t gen)
{
    for (size_t i = 0; i < c->n_links; i++)
        if (c->links[i].gen == gen)
            return &c->links[i];
    return NULL;
}

int control_link_add(struct control *c, const struct conn_ref *ref)
{
    if (grow(&c->links, &c->cap_links, c->n_links, sizeof(*c->links)) != 0)
        return -1;
    c->links[c->n_links++] = *ref;
    return 0;
}

void control_link_remove(struct control *c, uint64_t gen)
{
    for (size_t i = 0; i < c->n_links; i++)
        if (c->links[i].gen == gen) {
            c->links[i] = c->links[--c->n_links];
            return;
        }
}

static uint32_t dial_worker(const struct control *c, uint64_t number)
{
    for (size_t i = 0; i < c->n_dials; i++)
        if (c->dials[i].number == number)
            return c->dials[i].worker;
    return UINT32_MAX;
}

bool control_dial_take(struct control *c, uint64_t number)
{
    for (size_t i = 0; i < c->n_dials; i++)
        if (c->dials[i].number == number) {
            c->dials[i] = c->dials[--c->n_dials];
            return true;
        }
    return false;
}

/* ---- mesh_ops ---- */

static void on_random(void *ctx, void *out, size_t len)
{
    (void)ctx;
    randombytes_buf(out, len);
}

/* A failure that is found here reaches the mesh through our own inbox: it must not be called back. */
static void fail_dial(struct control *c, uint64_t number, const char *why)
{
    size_t len = strlen(why) + 1;
    struct inbox_msg *m = inbox_msg_new(IN_DIAL_FAILED, len);
    if (!m)
        return;
    m->number = number;
    memcpy(m->bytes, why, len);
    inbox_post(&c->inbox, m);
}

static void dial_node(struct control *c, uint64_t dial, const struct derpmap_node *node, uint32_t lane,
                      bool derper)
{
    struct node_id id;
    uint32_t hash;
    if (grow(&c->dials, &c->cap_dials, c->n_dials, sizeof(*c->dials)) != 0) {
        fail_dial(c, dial, "out of memory");
        return;
    }
    node_id_of(&id, node->id);
    memcpy(&hash, id.b, sizeof(hash));
    uint32_t worker = (hash + lane) % c->n_workers;
    c->dials[c->n_dials++] = (struct control_dial){.number = dial, .worker = worker};
    const struct derpmap_node *at = derpmap_find(c->site->map, node->id);
    if (!at) {
        fail_dial(c, dial, "the node is no longer in the map");
        return;
    }
    control_tell(c, worker,
                 &(struct inbox_msg){
                     .type = IN_DIAL, .number = dial, .site = c->site, .map_node = at, .flag = derper});
}

static void on_dial(void *ctx, uint64_t dial, const struct derpmap_node *node, uint32_t lane)
{
    dial_node(ctx, dial, node, lane, false);
}

static void on_dial_derper(void *ctx, uint64_t dial, const struct derpmap_node *node)
{
    dial_node(ctx, dial, node, 0, true);
}

static bool on_is_derper(void *ctx, const struct derpmap_node *node)
{
    const struct control *c = ctx;
    return site_is_derper(c->site, node);
}

static void on_dial_cancel(void *ctx, uint64_t dial)
{
    struct control *c = ctx;
    uint32_t worker = dial_worker(c, dial);
    if (worker == UINT32_MAX)
        return;
    control_dial_take(c, dial);
    control_tell(c, worker, &(struct inbox_msg){.type = IN_DIAL_CANCEL, .number = dial});
}

static void tell_link(struct control *c, enum inbox_type type, uint64_t link, const void *bytes, size_t len)
{
    const struct conn_ref *ref = control_link_find(c, link);
    if (!ref)
        return;
    struct inbox_msg *m = inbox_msg_new(type, len);
    if (m) {
        m->ref = *ref;
        memcpy(m->bytes, bytes, len);
    }
    post(c, ref->worker, m);
}

static void on_send(void *ctx, uint64_t link, const uint8_t *frame, size_t len)
{
    tell_link(ctx, IN_LINK_SEND, link, frame, len);
}

static void on_close(void *ctx, uint64_t link, const char *why)
{
    tell_link(ctx, IN_LINK_CLOSE, link, why, strlen(why) + 1);
    control_link_remove(ctx, link);
}

static void note_node(struct control *c, uint32_t node, bool linked)
{
    while (c->n_nodes <= node) {
        if (grow(&c->nodes, &c->cap_nodes, c->n_nodes, sizeof(*c->nodes)) != 0)
            return; /* status then knows less of it */
        c->nodes[c->n_nodes++] = (struct control_node){0};
    }
    if (c->nodes[node].linked != linked)
        c->nodes[node] = (struct control_node){.since = control_now(), .linked = linked};
}

static void on_link_ready(void *ctx, uint64_t link, uint32_t node)
{
    const struct conn_ref *ref = control_link_find(ctx, link);
    if (ref)
        control_tell(ctx, ref->worker, &(struct inbox_msg){.type = IN_LINK_READY, .ref = *ref, .node = node});
}

static void on_node_path(void *ctx, uint32_t node, const struct mesh_path *path)
{
    struct control *c = ctx;
    struct mesh_peer_info peer;
    struct inbox_msg m = {.type = IN_NODE_PATH, .node = node, .path.via = path->via};
    if (c->mesh && mesh_peer(c->mesh, node, &peer)) /* a look only: allowed inside an op */
        m.node_id = peer.id;
    m.path.derper = c->mesh && peer.derper;
    for (uint8_t i = 0; i < path->n; i++) {
        const struct conn_ref *ref = control_link_find(c, path->link[i]);
        if (ref)
            m.path.link[m.path.n++] = *ref;
    }
    note_node(c, node, path->via != NODE_NONE);
    control_tell_all(c, &m);
}

static void on_busy(void *ctx, const struct derp_key *dst, const struct derp_key *src, uint32_t ms)
{
    struct control *c = ctx;
    struct inbox_msg m = {.type = IN_BUSY, .key = *dst, .number = ms};
    m.src = *src;
    control_tell_all(c, &m);
}

static void on_route(void *ctx, const struct derp_key *key, uint32_t node)
{
    control_tell_all(ctx, &(struct inbox_msg){.type = IN_REMOTE_SET, .key = *key, .node = node});
}

struct doubting {
    struct control *c;
    const struct derp_key *key;
};

static void doubt_one(void *ctx, const struct conn_ref *ref)
{
    const struct doubting *x = ctx;
    control_tell(x->c, ref->worker, &(struct inbox_msg){.type = IN_DOUBT, .key = *x->key, .ref = *ref});
}

static void on_moved(void *ctx, const struct derp_key *key)
{
    struct control *c = ctx;
    clients_each(c->clients, key, doubt_one, &(struct doubting){c, key});
}

static void on_gone(void *ctx, const struct derp_key *key)
{
    control_tell_all(ctx, &(struct inbox_msg){.type = IN_GONE, .key = *key});
}

static void on_log(void *ctx, enum mesh_log_level level, const char *msg)
{
    static const enum log_level levels[] = {[MESH_LOG_DEBUG] = LOG_DEBUG,
                                            [MESH_LOG_INFO] = LOG_INFO,
                                            [MESH_LOG_WARN] = LOG_WARN,
                                            [MESH_LOG_ERROR] = LOG_ERROR};
    (void)ctx;
    if (log_enabled(levels[level]))
        log_line(levels[level], "mesh", "%s", msg);
}

/* ---- pins ---- */

static void pin_free(struct control_pin *p)
{
    free(p->name);
    free(p);
}

static void on_pin_work(uv_work_t *work)
{
    struct control_pin *p = work->data;
    p->rc = keystore_peer_add(p->control->keystore, p->name, &p->key, p->err, sizeof(p->err));
}

static void on_pin_done(uv_work_t *work, int status);

static void pin_start(struct control *c)
{
    struct control_pin *p = c->pins;
    if (p && uv_queue_work(c->loop, &p->work, on_pin_work, on_pin_done) != 0)
        log_error("mesh", "cannot store the node key of peer=%s: no thread", p->name);
}

static void on_pin_done(uv_work_t *work, int status)
{
    struct control_pin *p = work->data;
    struct control *c = p->control;
    if (status != 0 || p->rc != 0)
        log_error("mesh", "cannot store the node key of peer=%s, it is trusted until the next start only: %s",
                  p->name, status ? uv_strerror(status) : p->err);
    c->pins = p->next;
    if (!c->pins)
        c->pins_tail = NULL;
    pin_free(p);
    pin_start(c);
}

static void on_pin(void *ctx, const char *name, const struct derp_key *key)
{
    struct control *c = ctx;
    struct control_pin *p = calloc(1, sizeof(*p));
    if (!p || !(p->name = strdup(name))) {
        free(p);
        log_error("mesh", "out of memory: the node key of peer=%s is not stored", name);
        return;
    }
    p->work.data = p;
    p->control = c;
    p->key = *key;
    if (c->pins_tail)
        c->pins_tail->next = p;
    else
        c->pins = p;
    c->pins_tail = p;
    if (c->pins == p)
        pin_start(c);
}

void control_pins_free(struct control *c)
{
    while (c->pins) {
        struct control_pin *p = c->pins;
        c->pins = p->next;
        pin_free(p);
    }
    c->pins_tail = NULL;
}

const struct mesh_ops control_mesh_ops = {
    .random = on_random,
    .dial = on_dial,
    .is_derper = on_is_derper,
    .dial_derper = on_dial_derper,
    .dial_cancel = on_dial_cancel,
    .send = on_send,
    .close = on_close,
    .link_ready = on_link_ready,
    .node_path = on_node_path,
    .busy = on_busy,
    .route = on_route,
    .moved = on_moved,
    .gone = on_gone,
    .pin = on_pin,
    .log = on_log,
};
