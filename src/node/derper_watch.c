/* Telling real derpers which keys we reach, and taking what they forward.
 *
 * Each watcher has a set of keys that it was told of and a set of keys to look at (fresh): however often a key moves, it
 * stands there once, so a slow watcher costs no more than there are keys.  What is told is what is true when the queue has
 * room.  A key that is nowhere waits before it is said gone: a derper tells its clients so at once, and they give up a
 * route for good.
 * Happy path: touch → fresh → (end of the turn) PeerPresent; nowhere → waiting → touch, or gone → PeerGone.
 * Fails: without memory the watcher is closed; it dials again and is told everything. */
#include "node/derper_watch.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "mesh/keymap.h"
#include "node/log.h"
#include "node/session.h"
#include "proto/frame.h"

enum {
    QUEUE_MAX = 64 << 10, /* told only while less than this waits */
    GHOST_MS = 20000,     /* nowhere for so long: gone, though nobody has said so */
    ELSEWHERE_MS = 1000,  /* at a derper now, which tells the watcher itself: ours goes after that came */
    GONE_NOW = 1
};

struct watcher {
    struct watcher *next;
    struct conn *c;
    bool watching;          /* it has asked */
    struct keymap *told;    /* uint8_t, unused */
    struct keymap *fresh;   /* uint8_t, unused */
    struct keymap *waiting; /* uint64_t: ms when it is gone; told, but nowhere */
};

/* ---- coming and going ---- */

static void watcher_free(struct watcher *x)
{
    keymap_free(x->told);
    keymap_free(x->fresh);
    keymap_free(x->waiting);
    free(x);
}

static ssize_t on_watcher_input(struct stream *s, uint8_t *buf, size_t n);
static const struct stream_ops watcher_ops = {.input = on_watcher_input, .closed = session_stream_closed};

int derper_watch_adopt(struct conn *c)
{
    struct worker *w = c->worker;
    struct watcher *x = calloc(1, sizeof(*x));
    uint64_t seed[3];
    char addr[CONN_ADDR_TEXT];
    randombytes_buf(seed, sizeof(seed));
    if (x) {
        x->told = keymap_new(1, seed[0]);
        x->fresh = keymap_new(1, seed[1]);
        x->waiting = keymap_new(sizeof(uint64_t), seed[2]);
    }
    if (!x || !x->told || !x->fresh || !x->waiting) {
        if (x)
            watcher_free(x);
        return -1;
    }
    x->c = c;
    x->next = w->watchers;
    w->watchers = x;
    c->kind = CONN_WATCHER;
    c->stream.ops = &watcher_ops;
    stats_add(&w->stats, STAT_WATCHERS, 1);
    log_info("derper", "a derper has logged in as mesh peer from=%s", conn_addr_text(addr, &c->addr));
    return 0;
}

static struct watcher *watcher_of(const struct conn *c)
{
    struct watcher *x = c->worker->watchers;
    while (x && x->c != c)
        x = x->next;
    return x;
}

void derper_watch_end(struct conn *c)
{
    struct worker *w = c->worker;
    for (struct watcher **at = &w->watchers; *at; at = &(*at)->next) {
        struct watcher *x = *at;
        if (x->c != c)
            continue;
        *at = x->next;
        watcher_free(x);
        stats_sub(&w->stats, STAT_WATCHERS, 1);
        return;
    }
}

void derper_watch_site(struct worker *w, const struct site *old)
{
    const struct mesh_keys *a = &old->derper_key, *b = &w->site->derper_key;
    if (a->n == b->n && sodium_memcmp(a->key[0], b->key[0], KEY_LEN) == 0)
        return;
    for (struct watcher *x = w->watchers; x; x = x->next)
        session_close(x->c, STAT_CLOSED_ADMIN, "derper_mesh_key_file holds another key now");
}

/* ---- what is to be told ---- */

static void no_memory(struct watcher *x)
{
    session_close(x->c, STAT_CLOSED_NO_MEMORY, "no memory for what a derper is to be told");
}

void derper_watch_touch(struct worker *w, const struct derp_key *key)
{
    for (struct watcher *x = w->watchers; x; x = x->next)
        if (x->watching && !keymap_put(x->fresh, key, NULL))
            no_memory(x);
}

void derper_watch_gone(struct worker *w, const struct derp_key *key)
{
    for (struct watcher *x = w->watchers; x; x = x->next) {
        uint64_t *due = keymap_get(x->waiting, key);
        if (due)
            *due = GONE_NOW;
        if (due && !keymap_put(x->fresh, key, NULL))
            no_memory(x);
    }
}

static void touch_local(struct watcher *x)
{
    const struct routes *r = x->c->worker->relay.routes;
    const struct derp_key *key;
    for (size_t i = 0; (key = routes_local_at(r, i)); i++)
        if (!keymap_put(x->fresh, key, NULL))
            no_memory(x);
}

/* A worker keeps no list of the keys that are elsewhere: the control thread has one, and tells each again. */
static void ask_routes(struct worker *w)
{
    struct inbox_msg *m = inbox_msg_new(IN_ROUTES_ASK, 0);
    if (!m) {
        log_limited(LOG_ERROR, "derper", "no memory to ask which keys are elsewhere");
        return;
    }
    m->number = w->index;
    inbox_post(w->control, m);
}

void derper_watch_touch_all(struct worker *w)
{
    bool any = false;
    for (struct watcher *x = w->watchers; x; x = x->next) {
        if (!x->watching)
            continue;
        touch_local(x);
        any = true;
    }
    if (any)
        ask_routes(w);
}

/* ---- telling ---- */

enum whereabouts { NOWHERE, AT_A_DERPER, WITH_US };

static enum whereabouts where_is(const struct worker *w, const struct derp_key *key)
{
    if (routes_local(w->relay.routes, key))
        return WITH_US;
    uint32_t node = routes_remote(w->relay.routes, key);
    if (node >= w->relay.n_nodes)
        return NOWHERE;
    return w->relay.nodes[node].path.derper ? AT_A_DERPER : WITH_US;
}

static void tell_present(const struct watcher *x, const struct derp_key *key)
{
    struct worker *w = x->c->worker;
    const struct conn_ref *at = routes_local(w->relay.routes, key);
    const struct conn *c = at && at->worker == w->index ? conn_get(&w->relay.conns, at->slot, at->gen) : NULL;
    uint8_t f[FRAME_HEADER_LEN + FRAME_PEER_PRESENT_BODY] = {0}, *body = f + FRAME_HEADER_LEN;
    frame_header(f, FRAME_PEER_PRESENT, FRAME_PEER_PRESENT_BODY);
    memcpy(body, key->b, KEY_LEN);
    body[PEER_PRESENT_FLAGS] = PEER_PRESENT_REGULAR;
    if (c) { /* of clients elsewhere no address is known here */
        memcpy(body + KEY_LEN, c->addr.ip, sizeof(c->addr.ip));
        wire_put16(body + KEY_LEN + sizeof(c->addr.ip), c->addr.port);
        body[PEER_PRESENT_FLAGS] |= c->not_ideal ? PEER_PRESENT_NOT_IDEAL : 0;
    }
    stream_send_raw(&x->c->stream, f, sizeof(f));
    stats_add(&w->stats, STAT_WATCH_PRESENT, 1);
}

static void tell_gone(struct watcher *x, const struct derp_key *key)
{
    uint8_t f[FRAME_PEER_GONE_LEN];
    frame_peer_gone(f, key, PEER_GONE_DISCONNECTED);
    stream_send_raw(&x->c->stream, f, sizeof(f));
    stats_add(&x->c->worker->stats, STAT_WATCH_GONE, 1);
    keymap_del(x->told, key);
    keymap_del(x->waiting, key);
}

/* What is true of the key now.  0, or -1 without memory. */
static int look(struct watcher *x, const struct derp_key *key, uint64_t now)
{
    enum whereabouts at = where_is(x->c->worker, key);
    int fresh;
    if (at == WITH_US) {
        keymap_del(x->waiting, key);
        if (!keymap_put(x->told, key, &fresh))
            return -1;
        if (fresh)
            tell_present(x, key);
        return 0;
    }
    if (!keymap_get(x->told, key))
        return 0;
    uint64_t *due = keymap_put(x->waiting, key, &fresh),
             by = now + (at == AT_A_DERPER ? ELSEWHERE_MS : GHOST_MS);
    if (!due)
        return -1;
    if (fresh || by < *due)
        *due = by;
    if (now >= *due)
        tell_gone(x, key);
    return 0;
}

static bool has_room(const struct watcher *x)
{
    return !x->c->stream.closing && x->c->stream.q.bytes < QUEUE_MAX;
}

void derper_watch_flush(struct worker *w)
{
    uint64_t now = uv_now(&w->loop);
    for (struct watcher *x = w->watchers; x; x = x->next) {
        const struct derp_key *at;
        while (has_room(x) && (at = keymap_at(x->fresh, 0, NULL))) {
            struct derp_key key = *at;
            keymap_del(x->fresh, &key);
            if (look(x, &key, now) < 0)
                no_memory(x);
        }
    }
}

void derper_watch_due(struct conn *c, uint64_t now)
{
    struct watcher *x = watcher_of(c);
    const struct derp_key *at;
    void *due;
    for (size_t i = 0; x && has_room(x) && (at = keymap_at(x->waiting, i, &due));) {
        struct derp_key key = *at;
        if (now >= *(uint64_t *)due)
            tell_gone(x, &key); /* another one stands at i now */
        else
            i++;
    }
}

/* ---- what it sends ---- */

static ssize_t refuse(struct conn *c, const char *text)
{
    session_close(c, STAT_CLOSED_FRAME, text);
    return -1;
}

static void close_peer(const struct conn *c, const uint8_t *key)
{
    struct inbox_msg *m = inbox_msg_new(IN_CLOSE_PEER, 0);
    if (!m)
        return;
    memcpy(m->key.b, key, KEY_LEN);
    inbox_post(c->worker->control, m);
}

/* A whole frame.  0, or -1 if the connection was closed. */
static ssize_t take_frame(struct conn *c, const struct frame *f)
{
    struct worker *w = c->worker;
    struct watcher *x = watcher_of(c);
    switch (f->type) {
    case FRAME_FORWARD_PACKET:
        if (f->len < 2 * KEY_LEN)
            return refuse(c, "ForwardPacket of wrong length");
        relay_from_derper(&w->relay, f);
        return 0;
    case FRAME_WATCH_CONNS:
        if (f->len != 0)
            return refuse(c, "WatchConns of wrong length");
        if (!x->watching) {
            touch_local(x);
            ask_routes(w);
        }
        x->watching = true;
        return 0;
    case FRAME_CLOSE_PEER:
        if (f->len != KEY_LEN)
            return refuse(c, "ClosePeer of wrong length");
        close_peer(c, f->body);
        return 0;
    case FRAME_PING:
        if (f->len < DERP_PING_MIN || f->len > DERP_PING_MAX)
            return refuse(c, "Ping of wrong length");
        relay_pong(&w->relay, c, f);
        return 0;
    default:
        if (f->type != FRAME_KEEP_ALIVE && f->type != FRAME_NOTE_PREFERRED && f->type != FRAME_PONG)
            stats_add(&w->stats, STAT_UNKNOWN_FRAMES, 1);
        return 0;
    }
}

static ssize_t on_watcher_input(struct stream *s, uint8_t *buf, size_t n)
{
    struct conn *c = conn_of(s);
    size_t off = conn_skip_some(c, n);
    while (off < n) {
        struct frame f;
        size_t size = frame_peek(&f, buf + off, n - off);
        if (!f.raw)
            break;
        if (f.type == FRAME_FORWARD_PACKET && f.len > 2 * KEY_LEN + FRAME_PACKET_MAX)
            return refuse(c, "ForwardPacket too long");
        if (!size && f.len <= 2 * KEY_LEN + FRAME_PACKET_MAX)
            break;
        if (!size) { /* of no type that we know: none of those is so long */
            stats_add(&c->worker->stats, STAT_UNKNOWN_FRAMES, 1);
            c->skip = (uint32_t)(f.len - (n - off - FRAME_HEADER_LEN));
            return (ssize_t)n;
        }
        if (take_frame(c, &f) < 0)
            return -1;
        off += size;
    }
    return (ssize_t)off;
}
