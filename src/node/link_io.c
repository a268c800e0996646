/* Mesh connections of a worker: dialled here on the control thread's order, or adopted from a login.
 *
 * Happy path of a dial: resolve → try each address → TLS verified as the map says → upgrade answered with 101 →
 * IN_LINK_OPEN.  From then on 0x60 frames go to the control thread, 0x61 frames (once IN_LINK_READY came) to the relay.
 * Fails: one IN_DIAL_FAILED with the last address's reason, or one IN_LINK_CLOSED. */
#include "node/link_io.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/derper_peer.h"
#include "node/log.h"
#include "node/resolve.h"
#include "node/session.h"
#include "node/tcp_info.h"
#include "proto/frame.h"
#include "proto/http1.h"
#include "proto/wire.h"

enum {
    DIAL_MS = 10000,
    LINK_STALL_MS = 10000,
    STOP_MS = 3000, /* for the last words of a node that stops */
    ALIVE_EVERY_MS = 100,
    DUE_EVERY_MS = 1000,
    WHY_MAX = 256
};

/* One order to dial, until it has an answer.  Owner: worker.dialing; d->conn is the attempt under way. */
struct dialing {
    struct dialing *next;
    struct worker *worker;
    uint64_t dial;
    struct site *site;
    const struct derpmap_node *node; /* in site->map */
    struct resolve resolve;
    bool derper; /* it is a real one: to be logged in to */
    bool resolving, cancelled;
    struct conn *conn;
    char why[WHY_MAX];
};

/* A connection's part as a link.  Owner: its conn. */
struct link {
    struct dialing *dialing; /* we dial and have not got the 101 yet */
    struct site *site;       /* dialled: what node points into */
    const struct derpmap_node *node;
    uint64_t by;       /* ms: opened by then */
    uint64_t end_by;   /* ms: the node stops, closed by then; 0: it does not */
    uint64_t alive_at; /* ms: when data was last told to control */
    struct link_watch watch;
    bool is_open; /* IN_LINK_OPEN was posted */
    bool ready;   /* data may pass */
    bool closed_by_control;
    char why[WHY_MAX];
};

static const struct stream_ops link_ops;

static void try_next(struct dialing *d);

/* ---- telling the control thread ---- */

static void tell_text(struct worker *w, enum inbox_type type, uint64_t number, const struct conn *c,
                      const char *text)
{
    size_t len = strlen(text) + 1;
    struct inbox_msg *m = inbox_msg_new(type, len);
    if (!m) {
        log_limited(LOG_ERROR, "link", "no memory to tell the control thread");
        return;
    }
    m->number = number;
    if (c)
        m->ref = (struct conn_ref){c->gen, c->slot, w->index};
    memcpy(m->bytes, text, len);
    inbox_post(w->control, m);
}

/* Whether the operator says that a proxy ends TLS in front of this node: then the two ends share no exporter. */
static bool is_proxied(const struct site *site, const char *id)
{
    return config_list_has(site->config->mesh_proxied, id);
}

static void tune(struct conn *c)
{
    const char *congestion = c->worker->site->config->mesh_congestion;
    uv_os_fd_t fd;
    if (congestion && *congestion && uv_fileno((uv_handle_t *)&c->stream.tcp, &fd) == 0)
        (void)tcp_use(fd, congestion); /* serve has said if it cannot be had */
    c->link->watch.conn = c;
    link_watch_add(&c->worker->link_watches, &c->link->watch);
}

void link_io_acked(struct conn *c, uint64_t bytes)
{
    struct inbox_msg *m = inbox_msg_new(IN_LINK_ACKED, 0);
    if (!m)
        return; /* the next one says the same */
    m->ref = (struct conn_ref){c->gen, c->slot, c->worker->index};
    m->number = bytes;
    inbox_post(c->worker->control, m);
}

static int tell_open(struct conn *c, bool dialer, uint64_t dial)
{
    char addr[CONN_ADDR_TEXT];
    conn_addr_text(addr, &c->addr);
    stream_persist(&c->stream);
    bool bound = c->stream.ssl && !(dialer && is_proxied(c->link->site, c->link->node->id));
    uint8_t exporter[32] = {0};
    if (bound && tls_exporter(c->stream.ssl, exporter) < 0)
        return -1;
    struct inbox_msg *m = inbox_msg_new(IN_LINK_OPEN, sizeof(addr));
    if (!m)
        return -1;
    memcpy(m->bytes, addr, sizeof(addr));
    m->ref = (struct conn_ref){c->gen, c->slot, c->worker->index};
    m->link_info.dialer = dialer;
    m->link_info.dial = dial;
    m->link_info.has_exporter = bound;
    memcpy(m->link_info.exporter, exporter, sizeof(exporter));
    m->link_info.from = (const char *)m->bytes;
    m->flag = c->derper != NULL;
    inbox_post(c->worker->control, m);
    c->link->is_open = true;
    tune(c);
    return 0;
}

/* ---- dialling ---- */

static void dialing_free(struct dialing *d)
{
    struct worker *w = d->worker;
    struct dialing **at = &w->dialing;
    while (*at != d)
        at = &(*at)->next;
    *at = d->next;
    site_unref(d->site);
    free(d);
    if (w->stopping)
        worker_stop_rest(w);
}

static void dial_fail(struct dialing *d)
{
    if (!d->cancelled)
        tell_text(d->worker, IN_DIAL_FAILED, d->dial, NULL, d->why[0] ? d->why : "could not connect");
    dialing_free(d);
}

static void on_resolved(struct resolve *r, int err)
{
    struct dialing *d = r->ctx;
    d->resolving = false;
    if (err && !d->cancelled)
        snprintf(d->why, sizeof(d->why), "cannot resolve %s: %s", d->node->host_name, uv_strerror(err));
    if (err || d->cancelled)
        dial_fail(d);
    else
        try_next(d);
}

void link_io_dial(struct worker *w, uint64_t dial, struct site *site, const struct derpmap_node *node,
                  bool derper)
{
    struct dialing *d = calloc(1, sizeof(*d));
    if (!d || w->stopping) {
        free(d);
        tell_text(w, IN_DIAL_FAILED, dial, NULL, w->stopping ? "the node stops" : "no memory");
        return;
    }
    d->worker = w;
    d->dial = dial;
    d->site = site_ref(site);
    d->node = node;
    d->derper = derper;
    d->next = w->dialing;
    w->dialing = d;
    d->resolving = true;
    int err = resolve_start(&d->resolve, &w->loop, node, derpmap_derp_port(node), on_resolved, d);
    if (err) {
        d->resolving = false;
        snprintf(d->why, sizeof(d->why), "cannot resolve %s: %s", node->host_name, uv_strerror(err));
        dial_fail(d);
    }
}

static void dial_cancel(struct dialing *d)
{
    d->cancelled = true;
    if (d->resolving)
        uv_cancel((uv_req_t *)&d->resolve.req); /* its callback frees d, whether or not this came in time */
    else if (d->conn)
        stream_close(&d->conn->stream, "given up");
}

void link_io_dial_cancel(struct worker *w, uint64_t dial)
{
    for (struct dialing *d = w->dialing; d; d = d->next) {
        if (d->dial == dial) {
            dial_cancel(d);
            return;
        }
    }
}

void link_io_stop(struct worker *w)
{
    for (struct dialing *d = w->dialing; d; d = d->next)
        dial_cancel(d);
}

bool link_io_stop_one(struct conn *c)
{
    if (c->kind != CONN_LINK || !c->stream.end_after_flush)
        return false;
    c->link->end_by = uv_now(&c->worker->loop) + STOP_MS;
    stream_finish_urgent(&c->stream);
    return true;
}

static void on_unused_closed(uv_handle_t *h)
{
    free(conn_of(h->data));
}

static struct conn *new_conn(struct worker *w)
{
    struct conn *c = calloc(1, sizeof(*c));
    struct link *l = calloc(1, sizeof(*l));
    if (c && l && stream_init(&c->stream, &w->io, &link_ops) == 0) {
        c->worker = w;
        c->kind = CONN_LINK;
        c->link = l;
        c->wheel_slot = WHEEL_SLOTS;
        c->stream.count_out = STAT_FORWARDED_OUT;
        if (conn_add(&w->relay.conns, c) == 0) {
            stats_add(&w->stats, STAT_CONNECTIONS, 1);
            stats_add(&w->stats, STAT_LINKS, 1);
            return c;
        }
        /* without a slot it is closed like any other; uv needs its memory until then */
        uv_close((uv_handle_t *)&c->stream.tcp, on_unused_closed);
        free(l);
        return NULL;
    }
    free(c);
    free(l);
    return NULL;
}

static void try_next(struct dialing *d)
{
    struct worker *w = d->worker;
    if (d->cancelled || d->resolve.next >= d->resolve.n) {
        dial_fail(d);
        return;
    }
    struct sockaddr *addr = (struct sockaddr *)&d->resolve.addr[d->resolve.next++];
    struct conn *c = new_conn(w);
    bool made = c && (!d->derper || derper_peer_new(c) == 0);
    SSL *ssl = c ? SSL_new(d->site->dial_ctx) : NULL;
    if (!c) {
        snprintf(d->why, sizeof(d->why), "no memory");
        dial_fail(d);
        return;
    }
    uint64_t now = uv_now(&w->loop);
    d->conn = c;
    conn_addr_set(&c->addr, addr);
    c->link->dialing = d;
    c->link->node = d->node;
    c->link->site = site_ref(d->site);
    c->link->by = now + DIAL_MS;
    wheel_set(&w->wheel, c, now + DUE_EVERY_MS);
    if (!made || !ssl || tls_client_prepare(ssl, d->node) < 0) {
        SSL_free(ssl);
        stream_close(&c->stream, "cannot set up TLS");
        return;
    }
    int err = stream_connect(&c->stream, addr, ssl);
    if (err)
        stream_close(&c->stream, uv_strerror(err));
}

static const char *upgrade_of(const struct conn *c)
{
    return c->derper ? "DERP" : "derpmesh/1";
}

/* Connected, TLS done: is it the one whom the map names?  Then ask for the upgrade. */
static void on_link_connected(struct stream *s)
{
    struct conn *c = conn_of(s);
    struct link *l = c->link;
    char host[300], request[512];
    if (tls_client_verified(s->ssl, l->node, l->why, sizeof(l->why)) < 0) {
        stream_close(s, l->why);
        return;
    }
    if (l->node->insecure_for_tests && c->derper) {
        stream_close(s, "a derper gets the mesh key, so its certificate must be verified: InsecureForTests "
                        "will not do");
        return;
    }
    if (l->node->insecure_for_tests && is_proxied(l->site, l->node->id)) {
        stream_close(
            s, "behind a proxy only a verified certificate tells who it is: InsecureForTests will not do");
        return;
    }
    int port = derpmap_derp_port(l->node);
    snprintf(host, sizeof(host), strchr(l->node->host_name, ':') ? "[%s]" : "%s", l->node->host_name);
    int n = port == 443
                ? snprintf(request, sizeof(request), "GET /derp HTTP/1.1\r\nHost: %s\r\n", host)
                : snprintf(request, sizeof(request), "GET /derp HTTP/1.1\r\nHost: %s:%d\r\n", host, port);
    size_t left = n < 0 ? 0 : sizeof(request) - (size_t)n;
    int rest = snprintf(request + n, left,
                        "Upgrade: %s\r\nConnection: Upgrade\r\nUser-Agent: derpmesh\r\n\r\n", upgrade_of(c));
    if (rest < 0 || (size_t)rest >= left) {
        stream_close(s, "HostName too long");
        return;
    }
    stream_send_raw(s, request, (size_t)n + (size_t)rest);
}

/* The order to dial is done: the connection is the mesh's.  0, or -1 if closed. */
static int dialled(struct conn *c)
{
    struct dialing *d = c->link->dialing;
    uint64_t dial = d->dial;
    c->link->dialing = NULL;
    dialing_free(d);
    if (tell_open(c, true, dial) == 0)
        return 0;
    session_close(c, STAT_CLOSED_NO_MEMORY, "no memory");
    return -1;
}

/* The answer to our request.  Bytes done with, 0 for more, -1 if closed. */
static ssize_t response_input(struct conn *c, const uint8_t *buf, size_t n)
{
    struct link *l = c->link;
    struct http1_head head;
    int len = http1_parse_response(&head, (const char *)buf, n);
    if (len == 0)
        return 0;
    if (len < 0 || head.status != 101 || !http1_has_token(&head, "Upgrade", upgrade_of(c))) {
        if (len < 0)
            snprintf(l->why, sizeof(l->why), "answered no HTTP");
        else if (c->derper)
            snprintf(l->why, sizeof(l->why), "answered HTTP %d instead of DERP: is it a derper?",
                     head.status);
        else
            snprintf(l->why, sizeof(l->why),
                     "answered HTTP %d instead of the mesh upgrade: is it a derper, or without a mesh key?",
                     head.status);
        stream_close(&c->stream, l->why);
        return -1;
    }
    if (c->derper)
        derper_peer_upgraded(c);
    else if (dialled(c) < 0)
        return -1;
    return len;
}

/* A derper's login frames.  As response_input. */
static ssize_t login_input(struct conn *c, uint8_t *buf, size_t n)
{
    const char *why = NULL;
    bool done = false;
    ssize_t used = derper_peer_login(c, buf, n, &done, &why);
    if (used < 0)
        stream_close(&c->stream, why);
    else if (done && dialled(c) < 0)
        return -1;
    return used;
}

/* ---- an accepted one ---- */

int link_io_adopt(struct conn *c)
{
    struct worker *w = c->worker;
    struct link *l = calloc(1, sizeof(*l));
    if (!l)
        return -1;
    c->link = l;
    c->kind = CONN_LINK;
    c->stream.ops = &link_ops;
    c->stream.count_out = STAT_FORWARDED_OUT;
    stats_add(&w->stats, STAT_LINKS, 1);
    return tell_open(c, false, 0);
}

/* ---- bytes ---- */

static void tell_alive(struct conn *c)
{
    uint64_t now = uv_now(&c->worker->loop);
    if (now - c->link->alive_at < ALIVE_EVERY_MS)
        return;
    c->link->alive_at = now;
    worker_tell(c->worker, IN_LINK_ALIVE, c, false);
}

static ssize_t on_link_input(struct stream *s, uint8_t *buf, size_t n)
{
    struct conn *c = conn_of(s);
    size_t off = 0;
    while (!c->link->is_open && off < n) {
        ssize_t used = c->derper && derper_peer_is_upgraded(c) ? login_input(c, buf + off, n - off)
                                                               : response_input(c, buf + off, n - off);
        if (used < 0)
            return -1;
        if (used == 0)
            return (ssize_t)off;
        off += (size_t)used;
    }
    if (c->derper) {
        ssize_t used = derper_peer_input(c, buf + off, n - off);
        return used < 0 ? -1 : (ssize_t)off + used;
    }
    if (c->link->ready)
        tell_alive(c);
    ssize_t used = relay_link_input(&c->worker->relay, c, buf + off, n - off, c->link->ready);
    return used < 0 ? -1 : (ssize_t)off + used;
}

/* Says why the attempt failed in words that name the certificate's fault, if that it was. */
static void attempt_failed(struct conn *c, enum stream_end end, const char *detail)
{
    struct dialing *d = c->link->dialing;
    char addr[CONN_ADDR_TEXT], tls[WHY_MAX] = "";
    if (end == STREAM_END_TLS && c->stream.ssl && SSL_is_init_finished(c->stream.ssl) &&
        tls_client_verified(c->stream.ssl, d->node, tls, sizeof(tls)) < 0 && tls[0])
        detail = tls;
    snprintf(d->why, sizeof(d->why), "%s: %.180s", conn_addr_text(addr, &c->addr), detail);
    d->conn = NULL;
}

static void on_link_closed(struct stream *s, enum stream_end end, const char *detail)
{
    struct conn *c = conn_of(s);
    struct link *l = c->link;
    struct dialing *d = l->dialing;
    if (d)
        attempt_failed(c, end, detail);
    else if (l->is_open && !l->closed_by_control)
        tell_text(c->worker, IN_LINK_CLOSED, 0, c, detail);
    if (end == STREAM_END_EOF || end == STREAM_END_RESET)
        stats_add(&c->worker->stats, STAT_CLOSED_PEER, 1);
    else if (end == STREAM_END_TLS)
        stats_add(&c->worker->stats, STAT_CLOSED_TLS, 1);
    stats_sub(&c->worker->stats, STAT_LINKS, 1);
    link_watch_remove(&c->worker->link_watches, &l->watch);
    if (l->site)
        site_unref(l->site);
    free(l);
    c->link = NULL;
    derper_peer_free(c);
    worker_conn_free(c);
    if (d)
        try_next(d);
}

static const struct stream_ops link_ops = {
    .input = on_link_input, .open = on_link_connected, .closed = on_link_closed};

/* ---- the control thread's orders ---- */

static struct conn *link_get(struct worker *w, const struct conn_ref *ref)
{
    struct conn *c = conn_get(&w->relay.conns, ref->slot, ref->gen);
    return c && c->kind == CONN_LINK ? c : NULL;
}

void link_io_send(struct worker *w, const struct conn_ref *ref, const uint8_t *frames, size_t len)
{
    struct conn *c = link_get(w, ref);
    /* unlimited by the queue: the mesh bounds what it has under way, and a lost control frame would be a lost state */
    for (size_t off = 0; c && off + FRAME_HEADER_LEN <= len;) {
        size_t size = FRAME_HEADER_LEN + wire_get32(frames + off + 1);
        stream_send_raw(&c->stream, frames + off, size);
        off += size;
    }
}

void link_io_ready(struct worker *w, const struct conn_ref *ref, uint32_t node)
{
    struct conn *c = link_get(w, ref);
    if (!c)
        return;
    c->link->ready = true;
    c->node = node;
}

void link_io_close(struct worker *w, const struct conn_ref *ref, const char *why)
{
    struct conn *c = link_get(w, ref);
    if (!c || c->stream.closing)
        return;
    c->link->closed_by_control = true;
    snprintf(c->link->why, sizeof(c->link->why), "%s", why);
    c->stream.detail = c->link->why;
    stats_add(&w->stats, STAT_CLOSED_ADMIN, 1);
    stream_finish(&c->stream);
}

void link_io_due(struct worker *w, struct conn *c, uint64_t now)
{
    if (c->stream.closing)
        return;
    if (!c->link->is_open && c->link->by && now >= c->link->by)
        stream_close(&c->stream, c->stream.open ? "no answer to the mesh upgrade" : "no answer");
    else if (c->derper && !derper_peer_due(c, now))
        stream_close(&c->stream, "the derper is silent");
    else if (stream_stalled_ms(&c->stream) > LINK_STALL_MS || (c->link->end_by && now >= c->link->end_by))
        session_close(c, STAT_CLOSED_STALLED, "link takes no data any more");
    else
        wheel_set(&w->wheel, c, now + DUE_EVERY_MS);
}
