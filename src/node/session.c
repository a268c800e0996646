/* From accept to login.
 *
 * Happy path: accepted → TLS → HTTP head → Upgrade: DERP → ServerKey out → ClientInfo in → ServerInfo out → client:
 * from then on relay.c has the bytes.  Other heads get a page (http.c) or become a mesh link (link_io.c).
 * Fails: session_close, counted by reason, one rate-limited line with the address. */
#include "node/session.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "node/derper_watch.h"
#include "node/gate.h"
#include "node/http.h"
#include "node/limits.h"
#include "node/link_io.h"
#include "node/log.h"
#include "node/login.h"
#include "node/pages.h"
#include "node/proxied.h"
#include "node/refuse.h"
#include "node/reserve.h"
#include "proto/frame.h"
#include "proto/hello.h"
#include "proto/http1.h"

enum {
    STALL_FULL_MS = 2000, /* nothing taken while much waits */
    STALL_ANY_MS = 10000, /* nothing taken while anything waits */
    REPLIES_MAX = 64 << 10
};

static const struct stream_ops login_ops;
static const struct stream_ops client_ops;

static void conn_log(enum log_level level, const struct conn *c, const char *what, const char *text)
{
    char addr[CONN_ADDR_TEXT], quoted[160];
    if (level == LOG_DEBUG) {
        log_debug("conn", "%s from=%s reason=%s", what, conn_addr_text(addr, &c->addr),
                  log_quote(quoted, sizeof(quoted), text, strlen(text)));
        return;
    }
    log_limited(level, "conn", "%s from=%s reason=%s", what, conn_addr_text(addr, &c->addr),
                log_quote(quoted, sizeof(quoted), text, strlen(text)));
}

/* Admission's: the control thread logs these, with the key. */
static bool is_refusal(enum stat_id why)
{
    return why == STAT_REFUSED_ALLOW || why == STAT_REFUSED_URL || why == STAT_REFUSED_SOCKET ||
           why == STAT_REFUSED_OUTAGE || why == STAT_CLOSED_UNWELCOME;
}

void session_close(struct conn *c, enum stat_id why, const char *text)
{
    if (c->stream.closing)
        return;
    stats_add(&c->worker->stats, why, 1);
    bool quiet =
        why == STAT_CLOSED_ADMIN || why == STAT_CLOSED_KICKED || why == STAT_CLOSED_PEER || is_refusal(why);
    conn_log(quiet ? LOG_DEBUG : LOG_WARN, c, "closed", text);
    stream_close(&c->stream, text);
}

/* ---- accept ---- */

static void free_unopened(uv_handle_t *h)
{
    struct stream *s = h->data;
    struct conn *c = conn_of(s);
    free(c->login);
    free(c);
}

/* Bytes before everything else, with proxy_protocol on.  As stream_ops.prelude. */
static ssize_t on_prelude(struct stream *s, const uint8_t *buf, size_t n)
{
    struct conn *c = conn_of(s);
    const struct config *cfg = c->worker->site->config;
    const char *why = NULL;
    int len = proxied_header(cfg, &c->addr, buf, n, &why);
    if (len < 0) {
        session_close(c, STAT_CLOSED_PROXY_HEADER, why);
        return -1;
    }
    if (len > 0 && len != PROXIED_NOTHING)
        login_admit(c);
    if (s->closing)
        return -1;
    return len == PROXIED_NOTHING ? STREAM_NO_PRELUDE : len;
}

/* Without memory to spare nothing new begins: established connections live on what there is. */
static void refuse_for_memory(struct worker *w, struct worker_listener *l)
{
    log_limited(LOG_ERROR, "conn", "memory is short: new connections are refused");
    l->pending = !refuse_next(&w->refusal, (uv_stream_t *)&l->tcp); /* then the worker's tick tries again */
    if (!l->pending)
        stats_add(&w->stats, STAT_REFUSED_MEMORY, 1);
}

static void accept_one(struct worker *w, struct worker_listener *l)
{
    if (l->port_kind == HTTP_MAIN && !limits_accept(w->limits, uv_hrtime())) {
        l->pending = true; /* the worker's tick tries again */
        return;
    }
    struct conn *c = NULL;
    struct login *login = NULL;
    if (reserve_short() || !(c = calloc(1, sizeof(*c))) || !(login = calloc(1, sizeof(*login))) ||
        stream_init(&c->stream, &w->io, &login_ops) != 0) {
        free(c);
        free(login);
        refuse_for_memory(w, l);
        return;
    }
    l->pending = false;
    c->worker = w;
    c->login = login;
    c->stream.read_max = STREAM_SMALL_READ; /* little waits behind a login that is held */
    c->stream.newcomer = true;
    c->wheel_slot = WHEEL_SLOTS;
    bool tls = l->port_kind == HTTP_MAIN;
    int err = stream_accept(&c->stream, (uv_stream_t *)&l->tcp, tls ? w->site->tls->ctx : NULL);
    if (err || conn_add(&w->relay.conns, c) < 0) {
        uv_close((uv_handle_t *)&c->stream.tcp, free_unopened);
        log_limited(LOG_ERROR, "conn", "cannot accept: %s", err ? uv_strerror(err) : "no memory");
        return;
    }
    struct sockaddr_storage ss;
    int len = sizeof(ss);
    if (uv_tcp_getpeername(&c->stream.tcp, (struct sockaddr *)&ss, &len) == 0)
        conn_addr_set(&c->addr, (struct sockaddr *)&ss);
    uint64_t now = uv_now(&w->loop);
    login->port_kind = l->port_kind;
    login_begin(c);
    stats_add(&w->stats, STAT_ACCEPTS, 1);
    stats_add(&w->stats, STAT_CONNECTIONS, 1);
    wheel_set(&w->wheel, c, now + SESSION_DUE_MS);
    bool trusted = proxied_trusted(w->site->config, &c->addr);
    c->stream.prelude = w->site->config->proxy_protocol;
    /* behind a proxy the address that counts comes with the head, or before it */
    if (trusted && (c->stream.prelude || l->port_kind == HTTP_MAIN_PLAIN))
        return;
    login_admit(c);
}

void session_accept(struct worker *w, struct worker_listener *l)
{
    if (stream_turn_over(&w->io)) {
        l->pending = w->accept_later = true; /* the next turn tries again */
        return;
    }
    uint64_t began = uv_hrtime();
    accept_one(w, l);
    w->io.newcomers_ns += uv_hrtime() - began;
}

/* ---- HTTP ---- */

/* Behind a proxy that speaks plain HTTP to us: the client's address. */
static void take_forwarded(struct conn *c, const struct http1_head *head)
{
    if (c->login->port_kind != HTTP_MAIN_PLAIN || c->login->counted)
        return;
    proxied_forwarded(&c->addr, head);
    login_admit(c);
}

static void start_derp(struct conn *c, const struct http1_str *ideal)
{
    c->not_ideal = ideal && ideal->n > 0; /* clients name the node only where it is not this one */
    if (c->not_ideal && !http1_is(*ideal, c->worker->site->self->name))
        stats_add(&c->worker->stats, STAT_IDEAL_NODE_OTHER, 1);
    uint8_t frame[HELLO_SERVER_KEY_LEN];
    size_t n = hello_server_key(frame, &c->worker->site->node_key.pub);
    stream_send_raw(&c->stream, frame, n);
    c->login->derp = true;
}

static void become_link(struct conn *c)
{
    login_end(c);
    if (link_io_adopt(c) < 0)
        session_close(c, STAT_CLOSED_NO_MEMORY, "no memory");
}

/* One head.  Returns bytes done with, 0 for more, -1 if closed. */
static ssize_t head_input(struct conn *c, const uint8_t *buf, size_t n)
{
    struct worker *w = c->worker;
    struct http1_head head;
    struct http_reply reply;
    int len = http1_parse_request(&head, (const char *)buf, n);
    if (len == 0)
        return 0;
    stats_add(&w->stats, STAT_HTTP_REQUESTS, 1);
    if (len < 0) {
        http_bad(&reply, len);
        stream_send_raw(&c->stream, reply.text, reply.len);
        stats_add(&w->stats, STAT_CLOSED_HTTP, 1);
        conn_log(LOG_WARN, c, "closed", "not an HTTP request that we take");
        stream_finish(&c->stream);
        return (ssize_t)n;
    }
    if (c->stream.ssl)
        stats_add(&w->stats,
                  SSL_version(c->stream.ssl) == TLS1_3_VERSION ? STAT_REQUESTS_TLS13 : STAT_REQUESTS_TLS12,
                  1);
    take_forwarded(c, &head);
    if (c->stream.closing)
        return -1;
    if (c->login->port_kind == HTTP_PORT80 && pages_challenge(c, &head))
        return c->stream.closing ? -1 : len;
    struct http_site site = {.node_key_hex = w->site->node_key_hex,
                             .host = w->site->self->host_name,
                             .mesh = w->site->mesh_keys.n > 0};
    const struct config_derper *derper = w->site->config->derper;
    if (derper) {
        site.derper = true;
        site.host = NULL; /* what was asked for: derper has no other name for itself either */
        site.no_derp = !derper->derp;
        site.home = derper->home;
        site.debug = pages_debug(c, &head);
    }
    http_answer(&reply, &head, (enum http_port)c->login->port_kind, &site);
    if (reply.action == HTTP_VARZ || reply.action == HTTP_BOOTSTRAP || reply.action == HTTP_PEER)
        pages_send(c, &reply, &head);
    else if (!(reply.action == HTTP_DERP && reply.fast_start))
        stream_send_raw(&c->stream, reply.text, reply.len);
    if (reply.action == HTTP_WEBSOCKET && stream_ws_start(&c->stream) < 0) {
        session_close(c, STAT_CLOSED_NO_MEMORY, "no memory");
        return -1;
    }
    if (reply.action == HTTP_WEBSOCKET)
        stats_add(&w->stats, STAT_WEBSOCKET_ACCEPTS, 1);
    if (reply.action == HTTP_DERP || reply.action == HTTP_WEBSOCKET)
        start_derp(c, http1_find(&head, "Ideal-Node"));
    else if (reply.action == HTTP_MESH)
        become_link(c);
    else if (reply.close || c->stream.q.bytes > REPLIES_MAX)
        stream_finish(&c->stream);
    return c->stream.closing ? -1 : len;
}

/* ---- the DERP login ---- */

/* The key's packets come to this connection from now on. The other workers learn it before the client gets our answer
 * (ServerInfo, Pong): who has it may tell a peer, whose packet must then find its way. */
static void make_active(struct worker *w, struct conn *c)
{
    const struct conn_ref *old = routes_local(w->relay.routes, &c->key);
    if (old && old->worker == w->index && old->gen != c->gen) {
        struct conn *other = conn_get(&w->relay.conns, old->slot, old->gen);
        if (other)
            other->active = false;
    }
    struct conn_ref me = {c->gen, c->slot, w->index};
    if (routes_local_set(w->relay.routes, &c->key, &me) < 0)
        log_limited(LOG_ERROR, "conn", "no memory for a route");
    c->active = true;
    derper_watch_touch(w, &c->key);
    worker_share_local(w, c);
}

void session_make_active(struct conn *c)
{
    make_active(c->worker, c);
    stats_add(&c->worker->stats, STAT_DUP_CLIENT_SWITCH, 1);
    worker_tell(c->worker, IN_CLIENT_ACTIVE, c, false);
}

static uint64_t next_keepalive(const struct worker *w, uint64_t now)
{
    const struct config *cfg = w->site->config;
    uint32_t span = cfg->keepalive_max_ms - cfg->keepalive_min_ms;
    return now + cfg->keepalive_min_ms + (span ? randombytes_uniform(span) : 0);
}

static void rate_set(struct conn *c)
{
    const struct config *cfg = c->worker->site->config;
    rate_init(&c->rate, cfg->client_rate, cfg->client_burst, uv_now(&c->worker->loop));
    uint32_t most = rate_read_max(&c->rate);
    c->stream.read_max = most < STREAM_READ_SIZE ? most : 0;
}

void session_rate_changed(struct conn *c)
{
    if (c->kind != CONN_CLIENT)
        return;
    rate_set(c);
    resume_now(&c->worker->resumes, c);
}

static void become_client(struct conn *c)
{
    struct worker *w = c->worker;
    uint64_t now = uv_now(&w->loop);
    login_end(c);
    c->kind = CONN_CLIENT;
    c->not_here = 3;
    c->not_here_at = c->client_since = now;
    c->keepalive_at = next_keepalive(w, now);
    c->stream.ops = &client_ops;
    rate_set(c);
    make_active(w, c);
    c->announced = true;
    stats_add(&w->stats, STAT_LOGINS, 1);
    stats_add(&w->stats, STAT_CLIENTS, 1);
    if (c->not_ideal)
        stats_add(&w->stats, STAT_NOT_IDEAL, 1);
    worker_tell(w, IN_CLIENT_UP, c, false);
    char text[KEY_TEXT_MAX], addr[CONN_ADDR_TEXT];
    key_public_text(text, &c->key);
    gate_client(c);
    log_debug("client", "login key=%s from=%s", text, conn_addr_text(addr, &c->addr));
}

/* The login is good: ServerInfo, and a client from now on.  0, or -1 if closed. */
static int welcome(struct conn *c)
{
    uint8_t out[HELLO_FRAME_MAX];
    if (!limits_client_enter(c->worker->limits)) {
        session_close(c, STAT_REFUSED_MAX_CLIENTS, "as many clients as max_clients allows");
        return -1;
    }
    size_t len = hello_server_info(out, &c->login->shared);
    stream_send_raw(&c->stream, out, len);
    become_client(c);
    return 0;
}

/* The same for a derper, which has shown the key that we share: nobody else is asked. */
static int welcome_derper(struct conn *c)
{
    struct worker *w = c->worker;
    uint8_t out[HELLO_FRAME_MAX];
    size_t len = hello_server_info(out, &c->login->shared);
    if (derper_watch_adopt(c) < 0) {
        session_close(c, STAT_CLOSED_NO_MEMORY, "no memory");
        return -1;
    }
    stream_send_raw(&c->stream, out, len);
    login_end(c);
    c->keepalive_at = next_keepalive(w, uv_now(&w->loop));
    return 0;
}

/* The ClientInfo frame.  As head_input. */
static ssize_t derp_login_input(struct conn *c, uint8_t *buf, size_t n)
{
    struct frame f;
    size_t size = frame_peek(&f, buf, n);
    if (!f.raw)
        return 0;
    if (f.type != FRAME_CLIENT_INFO || f.len > HELLO_CLIENT_INFO_MAX) {
        session_close(c, STAT_CLOSED_HELLO,
                      f.type != FRAME_CLIENT_INFO ? "login began with another frame"
                                                  : "login message too long");
        return -1;
    }
    if (!size)
        return 0;
    struct derp_key key;
    struct hello_shared shared;
    struct client_info info;
    const struct mesh_keys *derper = &c->worker->site->derper_key;
    int err = hello_open_client_info(f.body, f.len, &c->worker->site->node_key, &key, &shared, &info);
    bool claims = err == 0 && info.has_mesh_key && derper->n > 0;
    bool is_derper = claims && hello_knows_mesh_key(&info, derper->key[0]);
    sodium_memzero(&info, sizeof(info));
    if (err < 0) {
        session_close(c, STAT_CLOSED_HELLO, hello_error_text(err));
        return -1;
    }
    c->login->shared = shared;
    sodium_memzero(&shared, sizeof(shared));
    c->key = key;
    if (is_derper)
        return welcome_derper(c) < 0 ? -1 : (ssize_t)size;
    if (claims) {
        sodium_memzero(&c->login->shared, sizeof(c->login->shared));
        session_close(c, STAT_REFUSED_DERPER_KEY, "a mesh key that is not the one of derper_mesh_key_file");
        return -1;
    }
    if (config_admission(c->worker->site->config)) {
        c->login->asking = true;
        stream_hold(&c->stream);
        worker_tell(c->worker, IN_ADMIT_ASK, c, false);
        return (ssize_t)size;
    }
    return welcome(c) < 0 ? -1 : (ssize_t)size;
}

void session_admission(struct worker *w, const struct worker_answer *a)
{
    struct conn *c = conn_get(&w->relay.conns, a->ref.slot, a->ref.gen);
    if (!c || c->stream.closing || !key_equal(&c->key, &a->key))
        return;
    if (!a->yes) {
        session_close(c, a->why,
                      a->why == STAT_CLOSED_ADMIN       ? "a mesh peer wants it closed"
                      : a->why == STAT_CLOSED_KICKED    ? "an operator wants it closed (kick)"
                      : a->why == STAT_CLOSED_NO_MEMORY ? "no memory"
                                                        : "not admitted");
    } else if (c->login && c->login->asking) {
        c->login->asking = false;
        if (welcome(c) == 0)
            stream_resume(&c->stream);
    }
}

static ssize_t on_login_input(struct stream *s, uint8_t *buf, size_t n)
{
    struct conn *c = conn_of(s);
    const struct stream_ws *ws = s->ws;
    size_t off = 0;
    while (off < n && c->login && s->ws == ws) {
        if (s->end_after_flush)
            return (ssize_t)n; /* what comes after the last reply is not read */
        if (c->login->asking)
            break;
        ssize_t used =
            c->login->derp ? derp_login_input(c, buf + off, n - off) : head_input(c, buf + off, n - off);
        if (used < 0)
            return -1;
        if (used == 0)
            break;
        off += (size_t)used;
    }
    return (ssize_t)off;
}

/* ---- clients ---- */

static ssize_t on_client_input(struct stream *s, uint8_t *buf, size_t n)
{
    struct conn *c = conn_of(s);
    struct worker *w = c->worker;
    ssize_t used = relay_client_input(&w->relay, c, buf, n);
    if (used > 0 && c->rate.per_s > 0) {
        uint64_t now = uv_now(&w->loop), wait = rate_take(&c->rate, w->relay.payload, now);
        if (wait > 0 && resume_at(&w->resumes, c, now + wait) == 0)
            stats_add(&w->stats, STAT_RATE_PAUSES, 1);
    }
    return used;
}

static void client_end(struct conn *c)
{
    struct worker *w = c->worker;
    heard_drop(w->relay.heard, c);
    routes_local_del(w->relay.routes, &c->key, c->gen);
    derper_watch_touch(w, &c->key);
    limits_client_leave(w->limits);
    stats_sub(&w->stats, STAT_CLIENTS, 1);
    if (c->home)
        stats_sub(&w->stats, STAT_HOME, 1);
    if (c->not_ideal)
        stats_sub(&w->stats, STAT_NOT_IDEAL, 1);
    worker_tell(w, IN_CLIENT_DOWN, c, false);
}

void session_stream_closed(struct stream *s, enum stream_end end, const char *detail)
{
    struct conn *c = conn_of(s);
    struct worker *w = c->worker;
    if (end == STREAM_END_TLS) {
        stats_add(&w->stats, STAT_CLOSED_TLS, 1);
        conn_log(LOG_WARN, c, "closed", detail);
    } else if (end == STREAM_END_WS) {
        stats_add(&w->stats, STAT_CLOSED_FRAME, 1);
        conn_log(LOG_WARN, c, "closed", detail);
    } else if (end == STREAM_END_MEMORY) {
        stats_add(&w->stats, STAT_CLOSED_NO_MEMORY, 1);
        conn_log(LOG_ERROR, c, "closed", detail);
    } else if (end != STREAM_END_LOCAL) {
        stats_add(&w->stats, STAT_CLOSED_PEER, 1);
        conn_log(LOG_DEBUG, c, "closed", detail);
    }
    if (c->kind == CONN_CLIENT)
        client_end(c);
    else if (c->kind == CONN_WATCHER)
        derper_watch_end(c);
    login_end(c);
    worker_conn_free(c);
}

static const struct stream_ops login_ops = {
    .input = on_login_input, .prelude = on_prelude, .closed = session_stream_closed};
static const struct stream_ops client_ops = {.input = on_client_input, .closed = session_stream_closed};

/* ---- deadlines ---- */

static bool stalled(const struct conn *c)
{
    uint64_t ms = stream_stalled_ms(&c->stream);
    return ms > STALL_ANY_MS || (ms > STALL_FULL_MS && c->stream.q.bytes > SENDQ_LIMIT / 2);
}

void session_doubt(struct worker *w, struct conn *c)
{
    uint8_t ping[FRAME_HEADER_LEN + DERP_PING_MIN];
    frame_header(ping, FRAME_PING, DERP_PING_MIN);
    randombytes_buf(ping + FRAME_HEADER_LEN, DERP_PING_MIN);
    c->doubted = true;
    stream_send(&c->stream, SENDQ_URGENT, 0, ping, sizeof(ping));
    wheel_set(&w->wheel, c, uv_now(&w->loop) + SESSION_DUE_MS);
}

void session_due(struct worker *w, struct conn *c, uint64_t now)
{
    if (c->stream.closing)
        return;
    if (c->login && login_overdue(c, now)) {
        session_close(c, STAT_CLOSED_LOGIN_TIMEOUT, "login took too long");
        return;
    }
    if (stalled(c)) {
        session_close(c, STAT_CLOSED_STALLED, "takes no data any more");
        return;
    }
    if (c->doubted && stream_unanswered(&c->stream)) {
        session_close(c, STAT_CLOSED_MOVED, "its key is at home at another node, and nobody answers here");
        return;
    }
    if (c->kind == CONN_WATCHER)
        derper_watch_due(c, now);
    if ((c->kind == CONN_CLIENT || c->kind == CONN_WATCHER) && now >= c->keepalive_at) {
        uint8_t frame[FRAME_HEADER_LEN];
        frame_header(frame, FRAME_KEEP_ALIVE, 0);
        stream_send(&c->stream, SENDQ_URGENT, 0, frame, sizeof(frame));
        stats_add(&w->stats, STAT_KEEPALIVES, 1);
        c->keepalive_at = next_keepalive(w, now);
    }
    wheel_set(&w->wheel, c, now + SESSION_DUE_MS);
}
