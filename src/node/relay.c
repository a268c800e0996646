/* The relay: where each frame goes.
 *
 *   client A ──SendPacket──▶ relay_client_input ──run──▶ route ─┬▶ to_client   same worker: the client's queue
 *                                                               ├▶ to_worker   another worker's inbox → relay_inbox
 *                                                               └▶ to_node     another node (relay_node.c)
 *
 * A run is frames that stand back to back in one buffer, of one source, for one destination, already rewritten to
 * RecvPacket.  Every packet that comes in ends in one of: a queue, a batch, a named drop counter.
 * Fails: a frame that a client must not send closes it (ops->close), counted by reason. */
#include "node/relay_parts.h"

#include <stdlib.h>
#include <string.h>

#include "proto/frame.h"
#include "proto/wire.h"

enum { NOT_HERE_BURST = 3, NOT_HERE_EVERY_MS = 1000 };

int relay_init(struct relay *r, uint64_t seed)
{
    if (conn_table_init(&r->conns, r->worker) < 0)
        return -1;
    r->routes = routes_new(seed);
    r->heard = heard_new(seed ^ 0x5bd1e995);
    r->batch = calloc(r->n_workers, sizeof(*r->batch));
    r->nodes = NULL;
    r->n_nodes = 0;
    if (r->routes && r->heard && r->batch)
        return 0;
    relay_deinit(r);
    return -1;
}

void relay_deinit(struct relay *r)
{
    conn_table_deinit(&r->conns);
    routes_free(r->routes);
    heard_free(r->heard);
    for (uint32_t i = 0; r->batch && i < r->n_workers; i++)
        free(r->batch[i].bytes);
    free(r->batch);
    free(r->nodes);
    r->routes = NULL;
    r->heard = NULL;
    r->batch = NULL;
    r->nodes = NULL;
}

void run_drop(struct relay *r, enum stat_id why, uint32_t packets)
{
    stats_add(r->stats, why, packets);
}

enum sendq_class run_class(const struct run *run)
{
    return run->urgent ? SENDQ_URGENT : SENDQ_DATA;
}

/* The sender fills a queue faster than it drains: read it a little later. */
void run_slow_down(struct relay *r, const struct run *run, struct conn *full)
{
    if (run->from)
        r->ops->slow_down(r->ctx, run->from, full);
    else if (run->from_ref.gen)
        r->ops->slow_down_other(r->ctx, &run->from_ref);
}

/* ---- the three places a run can go ---- */

/* The client has moved, and its connection here is half-dead: to where it is at home now.  False if that is not so. */
static bool to_new_home(struct relay *r, const struct run *run, struct conn *c)
{
    if (run->hops == 0 || !stream_unanswered(&c->stream))
        return false;
    uint32_t node = routes_remote(r->routes, &run->dst);
    bool back = node < r->n_nodes && memcmp(&r->nodes[node].id, &run->src_node, sizeof(run->src_node)) == 0;
    return !back && run_to_node(r, run, node);
}

static void to_client(struct relay *r, const struct run *run, struct conn *c)
{
    if (c->stream.closing) {
        run_drop(r, STAT_DROP_GONE, run->packets);
        return;
    }
    if (c->doubted && to_new_home(r, run, c))
        return;
    const struct derp_key *src = (const struct derp_key *)(const void *)(run->start + FRAME_HEADER_LEN);
    heard_note(r->heard, c, src);
    stats_add(r->stats, STAT_PACKET_BYTES_OUT, run->len - run->packets * (FRAME_HEADER_LEN + KEY_LEN));
    stream_send(&c->stream, run_class(run), run->sender, run->start, run->len);
    if (stream_congested(&c->stream)) {
        run_slow_down(r, run, c);
        run_tell_busy(r, run, c);
    }
}

/* Adds the run to this turn's batch for another worker. */
void run_to_worker(struct relay *r, const struct run *run, const struct conn_ref *to, uint32_t node)
{
    struct relay_batch *b = &r->batch[to->worker];
    struct inbox_run head = {.to = *to,
                             .dst = run->dst,
                             .sender = run->sender,
                             .len = run->len,
                             .packets = run->packets,
                             .node = node,
                             .hops = run->hops,
                             .urgent = run->urgent,
                             .src_node = run->src_node};
    if (run->from)
        head.from = (struct conn_ref){run->from->gen, run->from->slot, r->worker};
    size_t need = b->len + sizeof(head) + run->len;
    if (need > RELAY_BATCH_MAX) {
        run_drop(r, STAT_DROP_INBOX_FULL, run->packets);
        run_slow_down(r, run, NULL);
        return;
    }
    if (need > b->cap) {
        size_t cap = need < 16384 ? 16384 : need * 2;
        uint8_t *bytes = realloc(b->bytes, cap);
        if (!bytes) {
            run_drop(r, STAT_DROP_NO_MEMORY, run->packets);
            return;
        }
        b->bytes = bytes;
        b->cap = cap;
    }
    memcpy(b->bytes + b->len, &head, sizeof(head));
    memcpy(b->bytes + b->len + sizeof(head), run->start, run->len);
    b->len = need;
    b->packets += run->packets;
    stats_add(r->stats, STAT_INBOX_OUT, run->packets);
}

/* Nowhere to go.  A sender of disco is told, seldom: he gives up a route that leads nowhere. */
static void to_nobody(struct relay *r, const struct run *run)
{
    run_drop(r, STAT_DROP_NO_ROUTE, run->packets);
    struct conn *c = run->from;
    if (!c || !run->urgent)
        return;
    uint64_t now = uv_now(c->stream.io->loop);
    uint64_t earned = (now - c->not_here_at) / NOT_HERE_EVERY_MS;
    if (earned > 0) {
        c->not_here =
            (uint8_t)(c->not_here + earned > NOT_HERE_BURST ? NOT_HERE_BURST : c->not_here + earned);
        c->not_here_at += earned * NOT_HERE_EVERY_MS;
    }
    if (c->not_here == 0)
        return;
    c->not_here--;
    uint8_t gone[FRAME_PEER_GONE_LEN];
    frame_peer_gone(gone, &run->dst, PEER_GONE_NOT_HERE);
    stream_send(&c->stream, SENDQ_URGENT, 0, gone, sizeof(gone));
    stats_add(r->stats, STAT_PEER_GONE_NOT_HERE, 1);
}

/* Local clients first, then the mesh.  False if the destination is not on this node. */
bool run_to_local(struct relay *r, const struct run *run)
{
    const struct conn_ref *at = routes_local(r->routes, &run->dst);
    if (!at)
        return false;
    if (at->worker != r->worker) {
        run_to_worker(r, run, at, NODE_NONE);
        return true;
    }
    struct conn *c = conn_get(&r->conns, at->slot, at->gen);
    if (c && c->kind == CONN_CLIENT)
        to_client(r, run, c);
    else
        run_drop(r, STAT_DROP_GONE, run->packets);
    return true;
}

static void route(struct relay *r, const struct run *run)
{
    if (run_to_local(r, run) || run_to_node(r, run, routes_remote(r->routes, &run->dst)))
        return;
    r->ops->catch_up(r->ctx); /* a login of this moment may wait in the inbox */
    if (run_to_local(r, run) || run_to_node(r, run, routes_remote(r->routes, &run->dst)))
        return;
    /* Where it is is known: its node will be reached again, or control takes the route away. */
    if (routes_remote(r->routes, &run->dst) != NODE_NONE)
        run_drop(r, STAT_DROP_MESH_NO_PATH, run->packets);
    else
        to_nobody(r, run);
}

/* ---- from clients ---- */

static void run_end(struct relay *r, struct run *run)
{
    if (run->packets == 0)
        return;
    stats_add(r->stats, STAT_PACKETS_IN, run->packets);
    if (run->urgent)
        stats_add(r->stats, STAT_PACKETS_IN_DISCO, run->packets);
    stats_add(r->stats, STAT_PACKET_BYTES_IN, run->len - run->packets * (FRAME_HEADER_LEN + KEY_LEN));
    route(r, run);
    run->packets = run->len = 0;
}

/* Rewrites one SendPacket in place and adds it to the run, which ends first if this one goes elsewhere. */
static void run_add(struct relay *r, struct run *run, const struct frame *f)
{
    const struct derp_key *dst = (const struct derp_key *)(const void *)f->body;
    bool disco = frame_is_disco(f->body + KEY_LEN, f->len - KEY_LEN);
    if (run->packets > 0 &&
        (disco || run->urgent || run->start + run->len != f->raw || !key_equal(dst, &run->dst)))
        run_end(r, run);
    if (run->packets == 0) {
        run->dst = *dst;
        run->start = f->raw;
        run->urgent = disco;
    }
    f->raw[0] = FRAME_RECV_PACKET;
    memcpy(f->body, run->from->key.b, KEY_LEN);
    run->len += FRAME_HEADER_LEN + f->len;
    run->packets++;
}

ssize_t conn_refuse(struct relay *r, struct conn *c, enum stat_id why, const char *text)
{
    r->ops->close(r->ctx, c, why, text);
    return -1;
}

void relay_pong(struct relay *r, struct conn *c, const struct frame *f)
{
    uint8_t out[FRAME_HEADER_LEN + DERP_PING_MIN];
    frame_header(out, FRAME_PONG, DERP_PING_MIN);
    memcpy(out + FRAME_HEADER_LEN, f->body, DERP_PING_MIN);
    stream_send(&c->stream, SENDQ_URGENT, 0, out, sizeof(out));
    stats_add(r->stats, STAT_PINGS, 1);
}

/* A frame that is no packet.  Returns bytes done with, 0 if more are needed, -1 if the connection was closed.
 * avail: bytes in the buffer from the frame's header on. */
static ssize_t client_frame(struct relay *r, struct conn *c, const struct frame *f, size_t size, size_t avail)
{
    switch (f->type) {
    case FRAME_NOTE_PREFERRED:
        if (f->len != 1)
            return conn_refuse(r, c, STAT_CLOSED_FRAME, "NotePreferred of wrong length");
        if (size && c->home != (f->body[0] != 0)) {
            c->home = f->body[0] != 0;
            r->ops->home(r->ctx, c);
        }
        return (ssize_t)size;
    case FRAME_PING:
        if (f->len < DERP_PING_MIN || f->len > DERP_PING_MAX)
            return conn_refuse(r, c, STAT_CLOSED_FRAME, "Ping of wrong length");
        if (size)
            relay_pong(r, c, f);
        return (ssize_t)size;
    case FRAME_WATCH_CONNS:
    case FRAME_FORWARD_PACKET:
    case FRAME_CLOSE_PEER:
        return conn_refuse(r, c, STAT_CLOSED_PRIVILEGED, "mesh frame from a client");
    default: /* also those only servers send: skipped, whatever their length */
        if (f->type == FRAME_PONG)
            stats_add(r->stats, STAT_PONGS, 1);
        else if (f->type != FRAME_KEEP_ALIVE)
            stats_add(r->stats, STAT_UNKNOWN_FRAMES, 1);
        if (size)
            return (ssize_t)size;
        c->skip = (uint32_t)(f->len - (avail - FRAME_HEADER_LEN));
        return (ssize_t)avail;
    }
}

/* What is left of an unknown frame, so far as it has come. */
size_t conn_skip_some(struct conn *c, size_t n)
{
    size_t k = c->skip < n ? c->skip : n;
    c->skip -= (uint32_t)k;
    return k;
}

ssize_t relay_client_input(struct relay *r, struct conn *c, uint8_t *buf, size_t n)
{
    size_t off = conn_skip_some(c, n), headers = 0;
    struct run run = {.from = c, .sender = c->gen, .hops = MESH_HOPS_START, .src_node = r->self};
    if (!c->active && off < n)
        r->ops->active(r->ctx, c);
    while (off < n) {
        struct frame f;
        size_t size = frame_peek(&f, buf + off, n - off);
        if (!f.raw)
            break;
        if (f.type != FRAME_SEND_PACKET) {
            run_end(r, &run);
            ssize_t used = client_frame(r, c, &f, size, n - off);
            if (used < 0)
                return -1;
            if (used == 0)
                break;
            off += (size_t)used;
            headers += FRAME_HEADER_LEN;
            continue;
        }
        if (f.len < KEY_LEN || f.len > KEY_LEN + FRAME_PACKET_MAX) {
            run_end(r, &run);
            return conn_refuse(r, c, STAT_CLOSED_FRAME, "SendPacket of wrong length");
        }
        if (!size)
            break;
        run_add(r, &run, &f);
        off += size;
        headers += FRAME_HEADER_LEN;
    }
    run_end(r, &run);
    r->payload = off - headers;
    return (ssize_t)off;
}

/* ---- from other workers ---- */

static void inbox_run(struct relay *r, struct run *run, const struct inbox_run *head)
{
    struct conn *c = conn_get(&r->conns, head->to.slot, head->to.gen);
    if (head->node != NODE_NONE) {
        if (c && c->kind == CONN_LINK && head->node < r->n_nodes)
            run_to_link(r, run, c, &r->nodes[head->node].id);
        else
            run_drop(r, STAT_DROP_GONE, run->packets);
        return;
    }
    /* the key decides, not the slot alone: what was rewritten no longer names its destination */
    if (c && c->kind == CONN_CLIENT && key_equal(&c->key, &head->dst))
        to_client(r, run, c);
    else
        run_drop(r, STAT_DROP_GONE, run->packets);
}

void relay_inbox(struct relay *r, uint8_t *bytes, size_t len)
{
    for (size_t off = 0; off < len;) {
        struct inbox_run head;
        memcpy(&head, bytes + off, sizeof(head));
        off += sizeof(head);
        struct run run = {.dst = head.dst,
                          .start = bytes + off,
                          .len = head.len,
                          .packets = head.packets,
                          .urgent = head.urgent,
                          .from_ref = head.from,
                          .sender = head.sender,
                          .hops = head.hops,
                          .src_node = head.src_node};
        stats_add(r->stats, STAT_INBOX_IN, head.packets);
        inbox_run(r, &run, &head);
        off += head.len;
    }
}

/* ---- what the control thread decides ---- */

struct gone_ctx {
    struct relay *r;
    uint8_t frame[FRAME_PEER_GONE_LEN];
};

static void tell_gone(void *ctx, struct conn *c)
{
    struct gone_ctx *g = ctx;
    stream_send(&c->stream, SENDQ_URGENT, 0, g->frame, sizeof(g->frame));
    stats_add(g->r->stats, STAT_PEER_GONE_DISCONNECTED, 1);
}

void relay_gone(struct relay *r, const struct derp_key *key)
{
    struct gone_ctx g = {.r = r};
    frame_peer_gone(g.frame, key, PEER_GONE_DISCONNECTED);
    heard_gone(r->heard, key, tell_gone, &g);
    if (key_equal(key, &r->last_gleaned))
        memset(&r->last_gleaned, 0, sizeof(r->last_gleaned));
}
