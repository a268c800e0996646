/* Logged in to a real derper with the mesh key of derpers: who its clients are.
 *
 * Happy path: derper_peer_login through the three login frames, then WatchConns; each PeerPresent and PeerGone goes to the
 * control thread, many in one message.  Nodes that watch the derper too (we ourselves among them) are no clients.
 * Fails: the key is not the derper's → it closes at WatchConns, and the line says so; silence for DEAD_MS → closed. */
#include "node/derper_peer.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "node/log.h"
#include "proto/hello.h"

enum { PING_AFTER_MS = 5000, DEAD_MS = 15000, BATCH = 200 };

enum step { STEP_HTTP, STEP_SERVER_KEY, STEP_SERVER_INFO, STEP_OPEN };

struct derper_peer {
    enum step step;
    struct hello_shared shared; /* secret, until the login is done */
    uint64_t heard_at;          /* ms: when bytes last came */
    bool asked;                 /* a Ping since then */
};

int derper_peer_new(struct conn *c)
{
    c->derper = calloc(1, sizeof(*c->derper));
    return c->derper ? 0 : -1;
}

void derper_peer_free(struct conn *c)
{
    if (!c->derper)
        return;
    sodium_memzero(c->derper, sizeof(*c->derper));
    free(c->derper);
    c->derper = NULL;
}

void derper_peer_upgraded(struct conn *c)
{
    c->derper->step = STEP_SERVER_KEY;
}

bool derper_peer_is_upgraded(const struct conn *c)
{
    return c->derper->step > STEP_HTTP;
}

/* ---- login ---- */

/* One frame.  NULL, or why not. */
static const char *login_frame(struct conn *c, const struct frame *f, bool *done)
{
    const struct site *site = c->worker->site;
    struct derper_peer *d = c->derper;
    struct derp_key server;
    uint8_t out[HELLO_FRAME_MAX];
    int version;
    if (d->step == STEP_SERVER_KEY) {
        if (f->type != FRAME_SERVER_KEY || hello_parse_server_key(f->body, f->len, &server) < 0)
            return "sent no DERP server key";
        if (key_equal(&server, &site->node_key.pub))
            return "has our own node key: is it this very node?";
        if (site->derper_key.n == 0)
            return "no derper_mesh_key_file any more";
        size_t n = hello_mesh_info(out, &site->node_key, &server, site->derper_key.key[0], &d->shared);
        stream_send_raw(&c->stream, out, n);
        sodium_memzero(out, sizeof(out));
        c->key = server;
        d->step = STEP_SERVER_INFO;
        return n ? NULL : "has an unusable key";
    }
    if (f->type != FRAME_SERVER_INFO || hello_open_server_info(f->body, f->len, &d->shared, &version) < 0)
        return "did not answer the login as a derper does";
    sodium_memzero(&d->shared, sizeof(d->shared));
    frame_header(out, FRAME_WATCH_CONNS, 0);
    stream_send_raw(&c->stream, out, FRAME_HEADER_LEN);
    d->step = STEP_OPEN;
    d->heard_at = uv_now(&c->worker->loop);
    *done = true;
    return NULL;
}

ssize_t derper_peer_login(struct conn *c, uint8_t *buf, size_t n, bool *done, const char **why)
{
    struct frame f;
    size_t size = frame_peek(&f, buf, n);
    if (f.raw && f.len > HELLO_CLIENT_INFO_MAX)
        *why = "sent a login frame that is too long";
    else if (size)
        *why = login_frame(c, &f, done);
    return *why ? -1 : (ssize_t)size;
}

/* ---- its clients ---- */

struct batch {
    struct conn *c;
    size_t n;
    uint8_t records[BATCH * DERPER_RECORD_LEN];
};

static void batch_tell(struct batch *b)
{
    struct worker *w = b->c->worker;
    struct inbox_msg *m = b->n ? inbox_msg_new(IN_DERPER_KEYS, b->n * DERPER_RECORD_LEN) : NULL;
    if (m) {
        m->ref = (struct conn_ref){b->c->gen, b->c->slot, w->index};
        memcpy(m->bytes, b->records, m->len);
        inbox_post(w->control, m);
    } else if (b->n) {
        log_limited(LOG_ERROR, "derper", "no memory to tell the control thread of a derper's clients");
    }
    b->n = 0;
}

static void batch_add(struct batch *b, const uint8_t *key, bool present)
{
    uint8_t *at = b->records + b->n++ * DERPER_RECORD_LEN;
    memcpy(at, key, KEY_LEN);
    at[KEY_LEN] = present;
    if (b->n == BATCH)
        batch_tell(b);
}

static void take_frame(struct batch *b, const struct frame *f)
{
    struct stats *stats = &b->c->worker->stats;
    bool mesh_peer = f->len >= FRAME_PEER_PRESENT_BODY && f->body[PEER_PRESENT_FLAGS] & PEER_PRESENT_MESH;
    if (f->type == FRAME_PEER_PRESENT && f->len >= KEY_LEN) {
        if (!mesh_peer)
            batch_add(b, f->body, true);
    } else if (f->type == FRAME_PEER_GONE && f->len >= KEY_LEN) {
        batch_add(b, f->body, false);
    } else if (f->type == FRAME_PONG) {
        stats_add(stats, STAT_PONGS, 1);
    } else if (f->type != FRAME_KEEP_ALIVE) {
        stats_add(stats, STAT_UNKNOWN_FRAMES,
                  1); /* also a packet for our node key: nobody has that address */
    }
}

ssize_t derper_peer_input(struct conn *c, uint8_t *buf, size_t n)
{
    struct batch b = {.c = c};
    size_t off = conn_skip_some(c, n);
    c->derper->heard_at = uv_now(&c->worker->loop);
    c->derper->asked = false;
    while (off < n) {
        struct frame f;
        size_t size = frame_peek(&f, buf + off, n - off);
        if (!f.raw || (!size && f.len <= FRAME_PEER_PRESENT_BODY))
            break;
        if (!size) { /* too long for anything of interest: passed over as it comes */
            stats_add(&c->worker->stats, STAT_UNKNOWN_FRAMES, 1);
            c->skip = (uint32_t)(f.len - (n - off - FRAME_HEADER_LEN));
            off = n;
            break;
        }
        take_frame(&b, &f);
        off += size;
    }
    batch_tell(&b);
    return (ssize_t)off;
}

bool derper_peer_due(struct conn *c, uint64_t now)
{
    struct derper_peer *d = c->derper;
    uint8_t ping[FRAME_HEADER_LEN + DERP_PING_MIN] = {0};
    if (d->step != STEP_OPEN || now - d->heard_at < PING_AFTER_MS)
        return true;
    if (!d->asked) {
        frame_header(ping, FRAME_PING, DERP_PING_MIN);
        stream_send(&c->stream, SENDQ_URGENT, 0, ping, sizeof(ping));
        d->asked = true;
    }
    return now - d->heard_at < DEAD_MS;
}
