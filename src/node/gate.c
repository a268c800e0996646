/* Opening and closing a worker's listeners, and sending clients away.
 *
 * Happy path: gate_listen at the start; gate_turn compares what limits.c says (full, draining) with what is, and closes or
 * opens.  Closing: libuv's handle goes, and shutdown() ends listening on the socket, which we hold by a descriptor of our own
 * and which stays bound.  Opening: a new handle on it listens again.
 * Fails: what cannot be opened again (no descriptors) is tried at the next tick, with a line in the log. */
#include "node/gate.h"

#include <fcntl.h>
#include <sodium.h>
#include <sys/socket.h>
#include <unistd.h>

#include "node/limits.h"
#include "node/log.h"
#include "node/session.h"
#include "proto/frame.h"

enum { BACKLOG = 4096, DRAIN_FIRST_MS = 250, TRY_FOR_MS = 30000 };

static void on_connection(uv_stream_t *server, int status)
{
    struct worker_listener *l = server->data;
    if (status < 0)
        log_limited(LOG_ERROR, "worker", "accept: %s", uv_strerror(status));
    else
        session_accept(l->worker, l);
}

static void on_closed(uv_handle_t *h)
{
    struct worker_listener *l = h->data;
    l->closing = false; /* gate_turn opens it again when it is wanted */
}

static int listener_open(struct worker_listener *l)
{
    struct worker *w = l->worker;
    int fd = fcntl(l->fd, F_DUPFD_CLOEXEC, 0);
    int err = fd < 0 ? UV_EMFILE : uv_tcp_init(&w->loop, &l->tcp);
    l->tcp.data = l;
    if (err) {
        if (fd >= 0)
            close(fd);
        return err;
    }
    err = uv_tcp_open(&l->tcp, fd);
    if (err)
        close(fd);
    else
        err = uv_listen((uv_stream_t *)&l->tcp, BACKLOG, on_connection);
    l->on = err == 0;
    l->closing = err != 0;
    if (err)
        uv_close((uv_handle_t *)&l->tcp, on_closed);
    return err;
}

static void listener_shut(struct worker_listener *l)
{
    l->on = l->pending = false;
    l->closing = true;
    uv_close((uv_handle_t *)&l->tcp, on_closed);
    if (!l->worker->keep_sockets)
        shutdown(l->fd, SHUT_RDWR); /* what had connected and was not accepted yet is reset */
}

int gate_listen(struct worker *w, int fd, enum http_port kind)
{
    for (int i = 0; i < WORKER_LISTEN_MAX; i++) {
        struct worker_listener *l = &w->listeners[i];
        if (l->used)
            continue;
        l->used = true;
        l->fd = fd;
        l->worker = w;
        l->port_kind = (uint8_t)kind;
        return listener_open(l);
    }
    close(fd);
    return UV_ENOSPC;
}

/* ---- clients that are sent away ---- */

static uint32_t client_time(const struct worker *w, uint64_t now)
{
    uint64_t left = w->drain_until > now + DRAIN_FIRST_MS ? w->drain_until - now - DRAIN_FIRST_MS : 0;
    return DRAIN_FIRST_MS + (left ? randombytes_uniform((uint32_t)left) : 0);
}

static void send_away(struct conn *c, uint64_t now)
{
    uint32_t in = client_time(c->worker, now);
    uint8_t f[FRAME_HEADER_LEN + FRAME_RESTARTING_BODY];
    frame_header(f, FRAME_RESTARTING, FRAME_RESTARTING_BODY);
    wire_put32(f + FRAME_HEADER_LEN, in);
    wire_put32(f + FRAME_HEADER_LEN + 4, TRY_FOR_MS);
    stream_send(&c->stream, SENDQ_URGENT, 0, f, sizeof(f));
    stats_add(&c->worker->stats, STAT_RESTARTING, 1);
    c->leave_at = now + in;
}

void gate_drain(struct worker *w, uint64_t ms)
{
    uint64_t now = uv_now(&w->loop);
    w->drain_until = now + ms - ms / 8; /* the rest is for the last ones to be gone */
    for (uint32_t i = 0; i < w->relay.conns.n_slots; i++) {
        struct conn *c = w->relay.conns.slot[i];
        if (c && c->kind == CONN_CLIENT && !c->stream.closing)
            send_away(c, now);
    }
    gate_turn(w);
}

void gate_undrain(struct worker *w)
{
    w->drain_until = 0;
    for (uint32_t i = 0; i < w->relay.conns.n_slots; i++)
        if (w->relay.conns.slot[i])
            w->relay.conns.slot[i]->leave_at = 0;
    gate_turn(w);
}

void gate_client(struct conn *c)
{
    if (c->worker->drain_until)
        send_away(c, uv_now(&c->worker->loop));
    else if (limits_shut(c->worker->limits) != c->worker->shut)
        gate_turn(c->worker);
}

static void close_due(struct worker *w, uint64_t now)
{
    for (uint32_t i = 0; i < w->relay.conns.n_slots; i++) {
        struct conn *c = w->relay.conns.slot[i];
        if (c && c->leave_at && now >= c->leave_at)
            session_close(c, STAT_CLOSED_ADMIN, "this node drains");
    }
}

/* ---- open or shut ---- */

void gate_accept_pending(struct worker *w)
{
    for (int i = 0; i < WORKER_LISTEN_MAX; i++) {
        struct worker_listener *l = &w->listeners[i];
        if (l->used && l->on && l->pending)
            session_accept(w, l);
    }
}

void gate_turn(struct worker *w)
{
    bool shut = limits_shut(w->limits) || w->stopping;
    if (w->drain_until)
        close_due(w, uv_now(&w->loop));
    for (int i = 0; i < WORKER_LISTEN_MAX; i++) {
        struct worker_listener *l = &w->listeners[i];
        if (!l->used || l->closing)
            continue;
        if (l->on && shut) {
            listener_shut(l);
        } else if (!l->on && !shut) {
            int err = listener_open(l);
            if (err)
                log_limited(LOG_ERROR, "worker", "cannot listen again: %s", uv_strerror(err));
        }
    }
    gate_accept_pending(w);
    if (w->stun_on)
        w->stun.silent = shut;
    if (w->shut != shut)
        stats_add(&w->stats, STAT_SHUT, shut ? 1 : (uint64_t)-1);
    w->shut = shut;
}

void gate_stop(struct worker *w)
{
    for (int i = 0; i < WORKER_LISTEN_MAX; i++) {
        struct worker_listener *l = &w->listeners[i];
        if (!l->used)
            continue;
        if (l->on)
            listener_shut(l);
        l->used = false;
        close(l->fd);
    }
}
