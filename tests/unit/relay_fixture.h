/* A relay without workers and sockets, for test_relay.c and fuzz_relay.c: connections are real, but their streams are
 * never open, so whatever is sent waits in their queues and can be taken from there. */
#ifndef DERPMESH_TESTS_RELAY_FIXTURE_H
#define DERPMESH_TESTS_RELAY_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "node/relay.h"
#include "proto/frame.h"
#include "proto/wire.h"

/* What the relay asked of its worker. */
struct asked {
    unsigned active, home, glean, not_here, unreach, control, slow_down, slow_down_other, close, catch_up;
    struct conn *active_conn, *closed_conn;
    enum stat_id why;
    struct derp_key gleaned, missed;
    struct node_id gleaned_at, unreached, missed_at;
    unsigned client_busy;
    struct derp_key busy_src;
    struct node_id busy_node;
    uint32_t busy_ms;
    struct conn_ref slowed;
    uint8_t control_bytes[64 << 10];
    size_t control_len;
};

struct rig {
    uv_loop_t loop;
    struct stats stats;
    struct stream_io io;
    struct relay relay;
    struct asked asked;
    void (*on_catch_up)(struct rig *g); /* may be NULL */
};

static inline void rig_on_catch_up(void *ctx)
{
    struct rig *g = ctx;
    g->asked.catch_up++;
    if (g->on_catch_up)
        g->on_catch_up(g);
}

static inline void rig_on_active(void *ctx, struct conn *c)
{
    struct rig *g = ctx;
    g->asked.active++;
    g->asked.active_conn = c;
    c->active = true;
}

static inline void rig_on_home(void *ctx, struct conn *c)
{
    struct rig *g = ctx;
    (void)c;
    g->asked.home++;
}

static inline void rig_on_glean(void *ctx, const struct derp_key *key, const struct node_id *node)
{
    struct rig *g = ctx;
    g->asked.glean++;
    g->asked.gleaned = *key;
    g->asked.gleaned_at = *node;
}

static inline void rig_on_not_here(void *ctx, const struct derp_key *key, const struct node_id *node)
{
    struct rig *g = ctx;
    g->asked.not_here++;
    g->asked.missed = *key;
    g->asked.missed_at = *node;
}

static inline void rig_on_unreach(void *ctx, struct conn *link, const struct node_id *node)
{
    struct rig *g = ctx;
    (void)link;
    g->asked.unreach++;
    g->asked.unreached = *node;
}

static inline void rig_on_control(void *ctx, struct conn *c, const uint8_t *payload, size_t len)
{
    struct rig *g = ctx;
    (void)c;
    g->asked.control++;
    g->asked.control_len = len;
    memcpy(g->asked.control_bytes, payload, len < sizeof(g->asked.control_bytes) ? len : 0);
}

static inline void rig_on_slow_down(void *ctx, struct conn *c, struct conn *full)
{
    struct rig *g = ctx;
    (void)c;
    (void)full;
    g->asked.slow_down++;
}

static inline void rig_on_slow_down_other(void *ctx, const struct conn_ref *from)
{
    struct rig *g = ctx;
    g->asked.slow_down_other++;
    g->asked.slowed = *from;
}

static inline void rig_on_close(void *ctx, struct conn *c, enum stat_id why, const char *text)
{
    struct rig *g = ctx;
    g->asked.close++;
    g->asked.closed_conn = c;
    g->asked.why = why;
    stats_add(&g->stats, why, 1);
    stream_close(&c->stream, text);
}

static inline void rig_on_client_busy(void *ctx, const struct conn *c, const struct derp_key *src,
                                      const struct node_id *node, uint32_t ms)
{
    struct rig *g = ctx;
    (void)c;
    g->asked.client_busy++;
    g->asked.busy_src = *src;
    g->asked.busy_node = *node;
    g->asked.busy_ms = ms;
}

static const struct relay_ops rig_ops = {.client_busy = rig_on_client_busy,
                                         .catch_up = rig_on_catch_up,
                                         .active = rig_on_active,
                                         .home = rig_on_home,
                                         .glean = rig_on_glean,
                                         .not_here = rig_on_not_here,
                                         .unreach = rig_on_unreach,
                                         .link_control = rig_on_control,
                                         .slow_down = rig_on_slow_down,
                                         .slow_down_other = rig_on_slow_down_other,
                                         .close = rig_on_close};

/* NULL without memory. */
static inline struct rig *rig_new(uint32_t worker, uint32_t n_workers, const char *node)
{
    struct rig *g = calloc(1, sizeof(*g));
    if (!g || uv_loop_init(&g->loop) != 0 ||
        stream_io_init(&g->io, &g->loop, &g->stats, (size_t)256 << 20) != 0)
        abort();
    g->relay.ops = &rig_ops;
    g->relay.ctx = g;
    g->relay.worker = worker;
    g->relay.n_workers = n_workers;
    g->relay.stats = &g->stats;
    node_id_of(&g->relay.self, node);
    if (relay_init(&g->relay, 42) != 0)
        abort();
    return g;
}

static inline uint64_t rig_stat(const struct rig *g, enum stat_id which)
{
    return stats_get(&g->stats, which);
}

/* As worker.c does when a connection has closed. */
static inline void rig_on_closed(struct stream *s, enum stream_end end, const char *detail)
{
    struct conn *c = conn_of(s);
    struct rig *g = (struct rig *)c->worker;
    (void)end;
    (void)detail;
    heard_drop(g->relay.heard, c);
    conn_remove(&g->relay.conns, c);
    free(c);
}

static const struct stream_ops rig_stream_ops = {.closed = rig_on_closed};

static inline struct conn *rig_conn(struct rig *g, enum conn_kind kind, const struct derp_key *key)
{
    struct conn *c = calloc(1, sizeof(*c));
    if (!c || stream_init(&c->stream, &g->io, &rig_stream_ops) != 0 || conn_add(&g->relay.conns, c) != 0)
        abort();
    c->worker = (struct worker *)(void *)g; /* only looked at here */
    c->kind = kind;
    c->key = *key;
    c->active = true;
    c->not_here = 3;
    c->not_here_at = uv_now(&g->loop);
    return c;
}

static inline struct conn_ref rig_ref(const struct rig *g, const struct conn *c)
{
    return (struct conn_ref){c->gen, c->slot, g->relay.worker};
}

/* A client whose key is routed to it. */
static inline struct conn *rig_client(struct rig *g, const struct derp_key *key)
{
    struct conn *c = rig_conn(g, CONN_CLIENT, key);
    struct conn_ref ref = rig_ref(g, c);
    if (routes_local_set(g->relay.routes, key, &ref) != 0)
        abort();
    return c;
}

/* Node number index is reached so. */
static inline void rig_path(struct rig *g, uint32_t index, const char *node, uint32_t via,
                            const struct conn_ref *link, uint8_t n)
{
    struct node_path path = {.via = via, .n = n};
    struct node_id id;
    node_id_of(&id, node);
    for (uint8_t i = 0; i < n; i++)
        path.link[i] = link[i];
    if (relay_node_path(&g->relay, index, &id, &path) != 0)
        abort();
}

/* A link to a node, which is number index. */
static inline struct conn *rig_link(struct rig *g, uint32_t index, const char *node)
{
    struct derp_key key = {{0}};
    struct conn *c = rig_conn(g, CONN_LINK, &key);
    struct conn_ref ref = rig_ref(g, c);
    rig_path(g, index, node, index, &ref, 1);
    c->node = index;
    return c;
}

/* Lets what was closed go. */
static inline void rig_turn(struct rig *g)
{
    uv_run(&g->loop, UV_RUN_NOWAIT);
}

static inline void rig_free(struct rig *g)
{
    for (uint32_t i = 0; i < g->relay.conns.n_slots; i++)
        if (g->relay.conns.slot[i])
            stream_close(&g->relay.conns.slot[i]->stream, "");
    uv_run(&g->loop, UV_RUN_DEFAULT);
    relay_deinit(&g->relay);
    stream_io_stop(&g->io);
    uv_run(&g->loop, UV_RUN_DEFAULT);
    stream_io_deinit(&g->io);
    if (uv_loop_close(&g->loop) != 0)
        abort();
    free(g);
}

/* Takes what waits for c, as bytes in a malloc'd buffer. */
static inline uint8_t *rig_take(struct rig *g, struct conn *c, size_t *n)
{
    struct sendq_loss loss = {0};
    size_t cap = c->stream.q.bytes + 1, len;
    uint8_t *out = malloc(cap);
    const uint8_t *p;
    if (!out)
        abort();
    *n = 0;
    while ((p = sendq_next(&c->stream.q, &g->io.pool, uv_now(&g->loop), &len, &loss))) {
        memcpy(out + *n, p, len);
        *n += len;
        sendq_took(&c->stream.q, &g->io.pool, len);
    }
    stats_add(&g->stats, STAT_DROP_QUEUE_OLD, loss.old);
    return out;
}

/* Gives bytes to a connection as a stream does: what is left over is shown again with more after it.  step(ctx) says how
 * much comes next.  -1 if the connection was closed; *left: what was not taken. */
static inline int rig_feed(struct rig *g, struct conn *c, const uint8_t *bytes, size_t n, bool ready,
                           size_t (*step)(void *ctx), void *ctx, size_t *left)
{
    uint8_t *buf = malloc(n + 1);
    size_t have = 0;
    int result = 0;
    if (!buf)
        abort();
    for (size_t off = 0; off < n && result == 0;) {
        size_t k = step(ctx);
        k = k < n - off ? k : n - off;
        memcpy(buf + have, bytes + off, k);
        have += k;
        off += k;
        ssize_t used = c->kind == CONN_LINK ? relay_link_input(&g->relay, c, buf, have, ready)
                                            : relay_client_input(&g->relay, c, buf, have);
        if (used > (ssize_t)have)
            abort();
        if (used < 0 || c->stream.closing)
            result = -1;
        else
            memmove(buf, buf + used, have -= (size_t)used);
    }
    *left = have;
    free(buf);
    return result;
}

static const uint8_t rig_disco_magic[6] = {0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac};

static inline struct derp_key rig_key(uint8_t n)
{
    struct derp_key k;
    memset(k.b, n, sizeof(k.b));
    return k;
}

/* ---- frames to feed ---- */

struct rig_bytes {
    uint8_t *b;
    size_t n, cap;
};

static inline uint8_t *rig_more(struct rig_bytes *f, size_t n)
{
    while (f->n + n > f->cap) {
        f->cap = f->cap ? f->cap * 2 : 4096;
        f->b = realloc(f->b, f->cap);
    }
    if (!f->b)
        abort();
    f->n += n;
    return f->b + f->n - n;
}

static inline void rig_add_frame(struct rig_bytes *f, uint8_t type, const void *body, uint32_t len)
{
    uint8_t *p = rig_more(f, FRAME_HEADER_LEN + len);
    frame_header(p, type, len);
    if (body)
        memcpy(p + FRAME_HEADER_LEN, body, len);
    else
        memset(p + FRAME_HEADER_LEN, 0x77, len);
}

/* A SendPacket whose payload says who it is for and a number, where there is room. */
static inline void rig_add_packet(struct rig_bytes *f, const struct derp_key *dst, uint32_t number,
                                  uint32_t payload, bool disco)
{
    uint8_t *p = rig_more(f, FRAME_HEADER_LEN + KEY_LEN + payload);
    frame_header(p, FRAME_SEND_PACKET, KEY_LEN + payload);
    p += FRAME_HEADER_LEN;
    memcpy(p, dst->b, KEY_LEN);
    p += KEY_LEN;
    for (uint32_t i = 0; i < payload; i++)
        p[i] = (uint8_t)(number + i);
    if (disco && payload >= FRAME_DISCO_MIN) {
        memcpy(p, rig_disco_magic, sizeof(rig_disco_magic));
        p += sizeof(rig_disco_magic);
        payload -= sizeof(rig_disco_magic);
    }
    if (payload >= 8) {
        wire_put32(p, number);
        memcpy(p + 4, dst->b, 4);
    }
}

static inline size_t rig_whole(void *ctx)
{
    (void)ctx;
    return (size_t)16 << 20;
}

static inline size_t rig_one_byte(void *ctx)
{
    (void)ctx;
    return 1;
}

static inline size_t rig_random_step(void *ctx)
{
    const size_t *most = ctx;
    return 1 + (size_t)rand() % *most;
}

/* Every packet that did not get through, by all reasons. */
static inline uint64_t rig_drops(const struct rig *g)
{
    static const enum stat_id drops[] = {
        STAT_DROP_NO_ROUTE, STAT_DROP_QUEUE_FULL,   STAT_DROP_QUEUE_OLD, STAT_DROP_BUDGET,
        STAT_DROP_GONE,     STAT_DROP_INBOX_FULL,   STAT_DROP_MESH_HOPS, STAT_DROP_MESH_NO_CLIENT,
        STAT_DROP_MESH_BAD, STAT_DROP_MESH_TRANSIT, STAT_DROP_BUSY,      STAT_DROP_MESH_NO_PATH,
        STAT_DROP_NO_MEMORY};
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof(drops) / sizeof(drops[0]); i++)
        sum += rig_stat(g, drops[i]);
    return sum;
}

#endif
