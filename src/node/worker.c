/* A worker's thread: its loop, its listening sockets, its inbox.
 *
 * Happy path of a turn: poll → reads (session, relay) → on_check posts the batches for other workers → on_prepare of
 * stream.c flushes what was touched.  IN_STOP closes everything; when the last handle is closed the loop ends and
 * IN_STOPPED is the thread's last word.
 * Fails at start only (worker_new); later faults are those of single connections. */
#include "node/worker.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/derper_watch.h"
#include "node/gate.h"
#include "node/http.h"
#include "node/limits.h"
#include "node/link_io.h"
#include "node/log.h"
#include "node/session.h"

enum { HOME_SETTLED_MS = 5000 };

/* ---- towards the control thread and the other workers ---- */

void worker_tell(struct worker *w, enum inbox_type type, const struct conn *c, bool flag)
{
    struct inbox_msg *m = inbox_msg_new(type, 0);
    if (!m) {
        log_limited(LOG_ERROR, "worker", "no memory to tell the control thread");
        return;
    }
    m->key = c->key;
    m->ref = (struct conn_ref){c->gen, c->slot, w->index};
    m->addr = c->addr;
    m->flag = flag;
    inbox_post(w->control, m);
}

void worker_share_local(struct worker *w, const struct conn *c)
{
    for (uint32_t i = 0; i < w->n_workers; i++) {
        struct inbox_msg *m = i == w->index ? NULL : inbox_msg_new(IN_LOCAL_SET, 0);
        if (!m)
            continue; /* itself; or no memory: the control thread's IN_LOCAL_SET follows */
        m->key = c->key;
        m->ref = (struct conn_ref){c->gen, c->slot, w->index};
        inbox_post(&w->workers[i]->inbox, m);
    }
}

/* The other worker is behind: whoever sent what is in the batch is read a little later. */
static void slow_down_batch(struct worker *w, const struct relay_batch *b)
{
    struct inbox_run run;
    for (size_t off = 0; off < b->len; off += sizeof(run) + run.len) {
        memcpy(&run, b->bytes + off, sizeof(run));
        struct conn *c = run.from.gen ? conn_get(&w->relay.conns, run.from.slot, run.from.gen) : NULL;
        if (c && pause_start(&w->pauses, c, NULL))
            stats_add(&w->stats, STAT_READ_PAUSES, 1);
    }
}

static void post_batch(struct worker *w, uint32_t to)
{
    struct relay_batch *b = &w->relay.batch[to];
    struct inbox *in = &w->workers[to]->inbox;
    struct inbox_msg *m = NULL;
    enum stat_id why = STAT_DROP_INBOX_FULL;
    if (inbox_data_room(in, b->len)) {
        m = inbox_msg_new(IN_DATA, b->len);
        why = STAT_DROP_NO_MEMORY;
    }
    if (m) {
        memcpy(m->bytes, b->bytes, b->len);
        inbox_post(in, m);
    } else {
        stats_add(&w->stats, why, b->packets);
    }
    if (inbox_data_much(in))
        slow_down_batch(w, b);
    b->len = 0;
    b->packets = 0;
}

/* Admission's answers wait for the end of the turn: what a client sent behind its login is read then, and that needs the
 * buffer that another connection's input stands in when an inbox is read early. */
static void take_answer(struct worker *w, const struct inbox_msg *m)
{
    struct worker_answer a = {m->ref, m->key, m->flag, (enum stat_id)m->number};
    if (w->n_answers == w->cap_answers) {
        uint32_t cap = w->cap_answers ? 2 * w->cap_answers : 16;
        struct worker_answer *p = realloc(w->answers, cap * sizeof(*p));
        if (!p) {
            log_limited(LOG_ERROR, "worker", "no memory for an answer of admission");
            return; /* the login times out */
        }
        w->answers = p;
        w->cap_answers = cap;
    }
    w->answers[w->n_answers++] = a;
}

static void give_answers(struct worker *w)
{
    for (uint32_t i = 0; i < w->n_answers; i++) { /* more may come meanwhile */
        struct worker_answer a = w->answers[i];
        session_admission(w, &a);
    }
    w->n_answers = 0;
}

static void on_check(uv_check_t *h)
{
    struct worker *w = h->data;
    give_answers(w);
    derper_watch_flush(w);
    for (uint32_t i = 0; i < w->n_workers; i++)
        if (w->relay.batch[i].len > 0)
            post_batch(w, i);
    w->last_slowed = 0;
}

/* ---- relay's way up ---- */

static void relay_active(void *ctx, struct conn *c)
{
    (void)ctx;
    session_make_active(c);
}

static void relay_home(void *ctx, struct conn *c)
{
    struct worker *w = ctx;
    if (uv_now(&w->loop) - c->client_since >
        HOME_SETTLED_MS) /* at first every client says where it is at home */
        stats_add(&w->stats, c->home ? STAT_HOME_IN : STAT_HOME_OUT, 1);
    stats_add(&w->stats, STAT_HOME, c->home ? 1 : (uint64_t)-1);
    worker_tell(ctx, IN_CLIENT_HOME, c, c->home);
}

static void tell_key(struct worker *w, enum inbox_type type, const struct derp_key *key,
                     const struct node_id *node)
{
    struct inbox_msg *m = inbox_msg_new(type, 0);
    if (!m)
        return;
    m->key = *key;
    m->node_id = *node;
    inbox_post(w->control, m);
}

static void relay_glean(void *ctx, const struct derp_key *key, const struct node_id *node)
{
    tell_key(ctx, IN_GLEAN, key, node);
}

static void relay_not_here(void *ctx, const struct derp_key *key, const struct node_id *node)
{
    tell_key(ctx, IN_NOT_HERE, key, node);
}

static void relay_client_busy(void *ctx, const struct conn *c, const struct derp_key *src,
                              const struct node_id *node, uint32_t ms)
{
    struct worker *w = ctx;
    struct inbox_msg *m = inbox_msg_new(IN_CLIENT_BUSY, 0);
    if (!m)
        return;
    m->key = c->key;
    m->src = *src;
    m->node_id = *node;
    m->number = ms;
    inbox_post(w->control, m);
}

static void relay_unreach(void *ctx, struct conn *link, const struct node_id *node)
{
    struct worker *w = ctx;
    struct inbox_msg *m = inbox_msg_new(IN_UNREACH, 0);
    if (!m)
        return;
    m->ref = (struct conn_ref){link->gen, link->slot, w->index};
    m->node_id = *node;
    inbox_post(w->control, m);
}

static void relay_link_control(void *ctx, struct conn *c, const uint8_t *payload, size_t len)
{
    struct worker *w = ctx;
    struct inbox_msg *m = inbox_msg_new(IN_LINK_CONTROL, len);
    if (!m) {
        session_close(c, STAT_CLOSED_NO_MEMORY, "no memory");
        return;
    }
    m->ref = (struct conn_ref){c->gen, c->slot, w->index};
    memcpy(m->bytes, payload, len);
    inbox_post(w->control, m);
}

static void relay_slow_down(void *ctx, struct conn *c, struct conn *full)
{
    struct worker *w = ctx;
    if (pause_start(&w->pauses, c, full))
        stats_add(&w->stats, STAT_READ_PAUSES, 1);
}

static void on_relieved(struct stream *s)
{
    struct conn *c = conn_of(s);
    pause_relieve(&c->worker->pauses, c);
}

static void on_newcomers(struct stream_io *io)
{
    struct worker *w = (struct worker *)((char *)io - offsetof(struct worker, io));
    if (!w->accept_later)
        return;
    w->accept_later = false;
    gate_accept_pending(w);
}

static void relay_slow_down_other(void *ctx, const struct conn_ref *from)
{
    struct worker *w = ctx;
    if (w->last_slowed == from->gen)
        return;
    w->last_slowed = from->gen;
    struct inbox_msg *m = inbox_msg_new(IN_SLOW_DOWN, 0);
    if (!m)
        return;
    m->ref = *from;
    inbox_post(&w->workers[from->worker]->inbox, m);
}

static void relay_close(void *ctx, struct conn *c, enum stat_id why, const char *text)
{
    (void)ctx;
    session_close(c, why, text);
}

static void relay_catch_up(void *ctx)
{
    struct worker *w = ctx;
    inbox_drain(&w->inbox);
}

static const struct relay_ops relay_ops = {.catch_up = relay_catch_up,
                                           .active = relay_active,
                                           .home = relay_home,
                                           .glean = relay_glean,
                                           .not_here = relay_not_here,
                                           .client_busy = relay_client_busy,
                                           .unreach = relay_unreach,
                                           .link_control = relay_link_control,
                                           .slow_down = relay_slow_down,
                                           .slow_down_other = relay_slow_down_other,
                                           .close = relay_close};

/* ---- connections ---- */

void worker_conn_free(struct conn *c)
{
    struct worker *w = c->worker;
    wheel_remove(&w->wheel, c);
    pause_forget(&w->pauses, c);
    resume_forget(&w->resumes, c);
    conn_remove(&w->relay.conns, c);
    stats_sub(&w->stats, STAT_CONNECTIONS, 1);
    stats_add(&w->stats, STAT_CLOSES, 1);
    free(c);
    if (w->stopping)
        worker_stop_rest(w);
}

static void due(void *ctx, struct conn *c, uint64_t now)
{
    if (c->kind == CONN_LINK)
        link_io_due(ctx, c, now);
    else
        session_due(ctx, c, now);
}

/* Once a second, by one worker: nobody else says that connections are closed for want of descriptors. */
static void look_for_descriptors(struct worker *w)
{
    if (w->index != 0 || uv_now(&w->loop) < w->descriptors_due)
        return;
    w->descriptors_due = uv_now(&w->loop) + 1000;
    if (limits_descriptor_left())
        return;
    stats_add(&w->stats, STAT_NO_DESCRIPTOR, 1);
    log_limited(LOG_ERROR, "worker",
                "no file descriptor is left, new connections are closed: raise LimitNOFILE (ulimit -n)");
}

static void on_tick(uv_timer_t *t)
{
    struct worker *w = t->data;
    atomic_fetch_add_explicit(&w->beat, 1, memory_order_relaxed);
    wheel_turn(&w->wheel, uv_now(&w->loop), due, w);
    look_for_descriptors(w);
    stream_io_tidy(&w->io);
    gate_turn(w);
}

/* ---- inbox ---- */

static void local_set(struct worker *w, const struct inbox_msg *m)
{
    const struct conn_ref *old = routes_local(w->relay.routes, &m->key);
    if (old && old->worker == w->index && old->gen != m->ref.gen) {
        struct conn *c = conn_get(&w->relay.conns, old->slot, old->gen);
        if (c)
            c->active = false;
    }
    if (m->ref.worker == w->index) {
        struct conn *c = conn_get(&w->relay.conns, m->ref.slot, m->ref.gen);
        if (!c)
            return; /* closed meanwhile: its IN_CLIENT_DOWN is on the way */
        c->active = true;
    }
    if (routes_local_set(w->relay.routes, &m->key, &m->ref) < 0)
        log_limited(LOG_ERROR, "worker", "no memory for a route");
    derper_watch_touch(w, &m->key);
}

static void take_site(struct worker *w, struct site *site)
{
    bool rate_changed = w->site->config->client_rate != site->config->client_rate ||
                        w->site->config->client_burst != site->config->client_burst;
    struct site *old = w->site;
    w->site = site_ref(site);
    w->relay.transit_off = !site->config->transit;
    derper_watch_site(w, old);
    site_unref(old);
    for (uint32_t i = 0; rate_changed && i < w->relay.conns.n_slots; i++)
        if (w->relay.conns.slot[i])
            session_rate_changed(w->relay.conns.slot[i]);
}

static void worker_stop(struct worker *w);

static void slow_down_ref(struct worker *w, const struct conn_ref *ref)
{
    struct conn *c = conn_get(&w->relay.conns, ref->slot, ref->gen);
    if (c)
        relay_slow_down(w, c, NULL);
}

static void handle_control(struct worker *w, struct inbox_msg *m)
{
    switch (m->type) {
    case IN_NODE_PATH: {
        bool was = m->node < w->relay.n_nodes && w->relay.nodes[m->node].path.derper;
        if (relay_node_path(&w->relay, m->node, &m->node_id, &m->path) < 0)
            log_limited(LOG_ERROR, "worker", "no memory for a node's path");
        if (was != m->path.derper)
            derper_watch_touch_all(w);
        break;
    }
    case IN_DOUBT: {
        struct conn *c = conn_get(&w->relay.conns, m->ref.slot, m->ref.gen);
        if (c && c->kind == CONN_CLIENT && key_equal(&c->key, &m->key) && !c->stream.closing)
            session_doubt(w, c);
        break;
    }
    case IN_BUSY:
        relay_busy(&w->relay, &m->key, &m->src, uv_now(&w->loop) + m->number);
        break;
    case IN_GONE:
        relay_gone(&w->relay, &m->key);
        derper_watch_gone(w, &m->key);
        break;
    case IN_DIAL:
        link_io_dial(w, m->number, m->site, m->map_node, m->flag);
        break;
    case IN_DIAL_CANCEL:
        link_io_dial_cancel(w, m->number);
        break;
    case IN_LINK_SEND:
        link_io_send(w, &m->ref, m->bytes, m->len);
        break;
    case IN_LINK_READY:
        link_io_ready(w, &m->ref, m->node);
        break;
    case IN_LINK_CLOSE:
        link_io_close(w, &m->ref, (const char *)m->bytes);
        break;
    case IN_ADMIT_ANSWER:
        take_answer(w, m);
        break;
    case IN_DRAIN:
        if (m->flag)
            gate_drain(w, m->number);
        else
            gate_undrain(w);
        break;
    case IN_SITE:
        take_site(w, m->site);
        break;
    case IN_STOP:
        w->keep_sockets |= m->flag;
        worker_stop(w);
        break;
    default:
        break; /* messages of the other direction */
    }
}

static void on_message(void *ctx, struct inbox_msg *m)
{
    struct worker *w = ctx;
    switch (m->type) {
    case IN_DATA:
        relay_inbox(&w->relay, m->bytes, m->len);
        break;
    case IN_SLOW_DOWN:
        slow_down_ref(w, &m->ref);
        break;
    case IN_LOCAL_SET:
        local_set(w, m);
        break;
    case IN_LOCAL_DEL:
        routes_local_del(w->relay.routes, &m->key, m->ref.gen);
        derper_watch_touch(w, &m->key);
        break;
    case IN_REMOTE_SET:
        if (routes_remote_set(w->relay.routes, &m->key, m->node) < 0)
            log_limited(LOG_ERROR, "worker", "no memory for a route");
        derper_watch_touch(w, &m->key);
        break;
    default:
        handle_control(w, m);
    }
}

/* ---- stopping ---- */

/* The connections are closed one after the other; when none is left, what carries them goes too. */
void worker_stop_rest(struct worker *w)
{
    if (w->relay.conns.n_conns > 0 || w->rest_stopped || w->dialing)
        return;
    w->rest_stopped = true;
    uv_close((uv_handle_t *)&w->tick, NULL);
    pauses_stop(&w->pauses);
    resumes_stop(&w->resumes);
    link_watches_stop(&w->link_watches);
    uv_close((uv_handle_t *)&w->check, NULL);
    stream_io_stop(&w->io);
    inbox_stop(&w->inbox);
}

static void worker_stop(struct worker *w)
{
    if (w->stopping)
        return;
    w->stopping = true;
    gate_stop(w);
    if (w->stun_on)
        stun_udp_stop(&w->stun, NULL);
    link_io_stop(w);
    for (uint32_t i = 0; i < w->relay.conns.n_slots; i++) {
        struct conn *c = w->relay.conns.slot[i];
        if (c && !link_io_stop_one(c))
            session_close(c, STAT_CLOSED_ADMIN, "the node stops");
    }
    worker_stop_rest(w);
}

/* ---- beginning and end ---- */

static int init_handles(struct worker *w, const struct worker_params *p)
{
    int err = uv_loop_init(&w->loop);
    if (err)
        return err;
    uv_timer_init(&w->loop, &w->tick);
    pauses_init(&w->pauses, &w->loop);
    resumes_init(&w->resumes, &w->loop);
    link_watches_init(&w->link_watches, &w->loop, link_io_acked);
    uv_check_init(&w->loop, &w->check);
    w->tick.data = w->check.data = w;
    err = inbox_init(&w->inbox, &w->loop, on_message, w);
    if (!err)
        err = stream_io_init(&w->io, &w->loop, &w->stats, p->budget);
    w->io.relieved = on_relieved;
    w->io.newcomers = on_newcomers;
    return err;
}

static int init_relay(struct worker *w, const struct worker_params *p)
{
    w->relay.ops = &relay_ops;
    w->relay.ctx = w;
    w->relay.worker = p->index;
    w->relay.n_workers = p->n_workers;
    w->relay.stats = &w->stats;
    node_id_of(&w->relay.self, p->site->self->id);
    return relay_init(&w->relay, p->seed) < 0 ? UV_ENOMEM : 0;
}

static int open_sockets(struct worker *w, const struct worker_params *p)
{
    int err = 0;
    if (p->derp_fd >= 0)
        err = gate_listen(w, p->derp_fd, p->site->tls ? HTTP_MAIN : HTTP_MAIN_PLAIN);
    if (!err && p->http_fd >= 0)
        err = gate_listen(w, p->http_fd, HTTP_PORT80);
    if (!err && p->stun_fd >= 0) {
        err = stun_udp_open(&w->stun, &w->loop, p->stun_fd, &w->stats);
        w->stun_on = err == 0;
    }
    return err;
}

struct worker *worker_new(const struct worker_params *p, char *err, size_t err_len)
{
    struct worker *w = calloc(1, sizeof(*w));
    if (!w) {
        snprintf(err, err_len, "no memory for a worker");
        return NULL;
    }
    w->index = p->index;
    w->n_workers = p->n_workers;
    w->workers = p->workers;
    w->control = p->control;
    w->limits = p->limits;
    w->varz = p->varz;
    w->site = site_ref(p->site);
    w->relay.transit_off = !p->site->config->transit;
    w->keep_sockets = p->keep_sockets;
    int e = init_handles(w, p);
    if (!e)
        e = init_relay(w, p);
    if (!e)
        e = open_sockets(w, p);
    if (e) {
        /* the process ends now: what is half made goes with it */
        snprintf(err, err_len, "cannot set up worker %u: %s", p->index, uv_strerror(e));
        return NULL;
    }
    wheel_init(&w->wheel, uv_now(&w->loop));
    uv_timer_start(&w->tick, on_tick, WHEEL_TICK_MS, WHEEL_TICK_MS);
    uv_check_start(&w->check, on_check);
    return w;
}

int worker_sockets(const struct worker *w, int *fds, int max)
{
    int n = 0;
    uv_os_fd_t stun;
    for (int i = 0; i < WORKER_LISTEN_MAX && n < max; i++)
        if (w->listeners[i].used)
            fds[n++] = w->listeners[i].fd;
    if (w->stun_on && n < max && uv_fileno((const uv_handle_t *)&w->stun.udp, &stun) == 0)
        fds[n++] = stun;
    return n;
}

static void run(void *arg)
{
    struct worker *w = arg;
    uv_run(&w->loop, UV_RUN_DEFAULT);
    struct inbox_msg *m = inbox_msg_new(IN_STOPPED, 0);
    if (!m)
        return;
    m->number = w->index;
    inbox_post(w->control, m);
}

int worker_start(struct worker *w)
{
    int err = uv_thread_create(&w->thread, run, w);
    w->started = err == 0;
    return err;
}

void worker_free(struct worker *w)
{
    if (!w)
        return;
    if (w->started) {
        uv_thread_join(&w->thread);
    } else {
        worker_stop(w);
        uv_run(&w->loop, UV_RUN_DEFAULT);
    }
    inbox_deinit(&w->inbox);
    stream_io_deinit(&w->io);
    relay_deinit(&w->relay);
    resumes_deinit(&w->resumes);
    uv_loop_close(&w->loop);
    site_unref(w->site);
    free(w->answers);
    free(w);
}
