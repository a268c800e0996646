/* The relay: where each frame goes.
 *
 *   client A ──SendPacket──▶ relay_client_input ──run──▶ route ─┬▶ to_client   same worker: the client's queue
 *                                                               ├▶ to_worker   another worker's inbox → relay_inbox
 *                                                               └▶ to_node     a mesh link's queue (wrapped, 0x61)
 *   mesh link ──0x61──▶ relay_link_input ──▶ from_node ─────────┘
 *
 * A run is frames that stand back to back in one buffer, of one source, for one destination, already rewritten to
 * RecvPacket.  Every packet that comes in ends in one of: a queue, a batch, a named drop counter.
 * Fails: a frame that a client must not send closes it (ops->close), counted by reason. */
#include "node/relay.h"

#include <stdlib.h>
#include <string.h>

#include "proto/frame.h"
#include "proto/wire.h"

enum {
    NOT_HERE_BURST = 3,
    NOT_HERE_EVERY_MS = 1000,
    CONTROL_MAX = 64 << 10,
    CONTROL_MAX_BEFORE_AUTH = 4 << 10
};

struct run {
    struct derp_key dst;
    uint8_t *start;
    uint32_t len, packets;
    bool urgent; /* disco: one frame a run */
    /* where it came in */
    struct conn *from;        /* a client of this worker; NULL: from elsewhere */
    struct conn_ref from_ref; /* the sender's connection on another worker; gen 0: unknown */
    uint64_t sender;          /* whose share of a queue it takes */
    uint8_t hops;
    struct node_id src_node;
};

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

static void drop(struct relay *r, enum stat_id why, uint32_t packets)
{
    stats_add(r->stats, why, packets);
}

static enum sendq_class class_of(const struct run *run)
{
    return run->urgent ? SENDQ_URGENT : SENDQ_DATA;
}

/* The sender fills a queue faster than it drains: read it a little later. */
static void slow_down(struct relay *r, const struct run *run, struct conn *full)
{
    if (run->from)
        r->ops->slow_down(r->ctx, run->from, full);
    else if (run->from_ref.gen)
        r->ops->slow_down_other(r->ctx, &run->from_ref);
}

/* ---- the three places a run can go ---- */

static void to_client(struct relay *r, const struct run *run, struct conn *c)
{
    if (c->stream.closing) {
        drop(r, STAT_DROP_GONE, run->packets);
        return;
    }
    const struct derp_key *src = (const struct derp_key *)(const void *)(run->start + FRAME_HEADER_LEN);
    heard_note(r->heard, c, src);
    stats_add(r->stats, STAT_PACKET_BYTES_OUT, run->len - run->packets * (FRAME_HEADER_LEN + KEY_LEN));
    stream_send(&c->stream, class_of(run), run->sender, run->start, run->len);
    if (stream_congested(&c->stream))
        slow_down(r, run, c);
}

static void to_link(struct relay *r, const struct run *run, struct conn *link, const struct node_id *dst_node)
{
    if (link->stream.closing) {
        drop(r, STAT_DROP_GONE, run->packets);
        return;
    }
    uint8_t head[MESH_DATA_OVERHEAD];
    for (uint32_t off = 0; off < run->len;) {
        uint8_t *frame = run->start + off;
        uint32_t len = wire_get32(frame + 1);
        const struct derp_key *src = (const struct derp_key *)(const void *)(frame + FRAME_HEADER_LEN);
        mesh_data_header(head, 0, run->hops, dst_node, &run->src_node, &run->dst, src, len - KEY_LEN);
        stream_send2(&link->stream, class_of(run), run->sender, head, sizeof(head),
                     frame + FRAME_HEADER_LEN + KEY_LEN, len - KEY_LEN);
        off += FRAME_HEADER_LEN + len;
    }
    if (stream_congested(&link->stream))
        slow_down(r, run, link);
}

/* Adds the run to this turn's batch for another worker. */
static void to_worker(struct relay *r, const struct run *run, const struct conn_ref *to, uint32_t node)
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
        drop(r, STAT_DROP_INBOX_FULL, run->packets);
        slow_down(r, run, NULL);
        return;
    }
    if (need > b->cap) {
        size_t cap = need < 16384 ? 16384 : need * 2;
        uint8_t *bytes = realloc(b->bytes, cap);
        if (!bytes) {
            drop(r, STAT_DROP_NO_MEMORY, run->packets);
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

/* False if there is no link to that node. */
static bool to_node(struct relay *r, const struct run *run, uint32_t node)
{
    if (node >= r->n_nodes || r->nodes[node].link.gen == 0)
        return false;
    const struct relay_node *n = &r->nodes[node];
    if (n->link.worker != r->worker) {
        to_worker(r, run, &n->link, node);
        return true;
    }
    struct conn *link = conn_get(&r->conns, n->link.slot, n->link.gen);
    if (!link)
        return false;
    to_link(r, run, link, &n->id);
    return true;
}

/* Nowhere to go.  A sender of disco is told, seldom: he gives up a route that leads nowhere. */
static void to_nobody(struct relay *r, const struct run *run)
{
    drop(r, STAT_DROP_NO_ROUTE, run->packets);
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
static bool to_local(struct relay *r, const struct run *run)
{
    const struct conn_ref *at = routes_local(r->routes, &run->dst);
    if (!at)
        return false;
    if (at->worker != r->worker) {
        to_worker(r, run, at, NODE_NONE);
        return true;
    }
    struct conn *c = conn_get(&r->conns, at->slot, at->gen);
    if (c && c->kind == CONN_CLIENT)
        to_client(r, run, c);
    else
        drop(r, STAT_DROP_GONE, run->packets);
    return true;
}

static void route(struct relay *r, const struct run *run)
{
    if (to_local(r, run) || to_node(r, run, routes_remote(r->routes, &run->dst)))
        return;
    r->ops->catch_up(r->ctx); /* a login of this moment may wait in the inbox */
    if (!to_local(r, run) && !to_node(r, run, routes_remote(r->routes, &run->dst)))
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

static ssize_t refuse(struct relay *r, struct conn *c, enum stat_id why, const char *text)
{
    r->ops->close(r->ctx, c, why, text);
    return -1;
}

static void pong(struct relay *r, struct conn *c, const struct frame *f)
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
            return refuse(r, c, STAT_CLOSED_FRAME, "NotePreferred of wrong length");
        if (size && c->home != (f->body[0] != 0)) {
            c->home = f->body[0] != 0;
            r->ops->home(r->ctx, c);
        }
        return (ssize_t)size;
    case FRAME_PING:
        if (f->len < DERP_PING_MIN || f->len > DERP_PING_MAX)
            return refuse(r, c, STAT_CLOSED_FRAME, "Ping of wrong length");
        if (size)
            pong(r, c, f);
        return (ssize_t)size;
    case FRAME_WATCH_CONNS:
    case FRAME_FORWARD_PACKET:
    case FRAME_CLOSE_PEER:
        return refuse(r, c, STAT_CLOSED_PRIVILEGED, "mesh frame from a client");
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
static size_t skip_some(struct conn *c, size_t n)
{
    size_t k = c->skip < n ? c->skip : n;
    c->skip -= (uint32_t)k;
    return k;
}

ssize_t relay_client_input(struct relay *r, struct conn *c, uint8_t *buf, size_t n)
{
    size_t off = skip_some(c, n), headers = 0;
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
            return refuse(r, c, STAT_CLOSED_FRAME, "SendPacket of wrong length");
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

/* ---- from mesh links ---- */

/* The key sends through a node that has not announced it (yet): replies shall find their way. */
static void glean(struct relay *r, const struct mesh_data *d)
{
    if (routes_remote(r->routes, d->src) != NODE_NONE || routes_local(r->routes, d->src) ||
        key_equal(d->src, &r->last_gleaned))
        return;
    r->last_gleaned = *d->src;
    r->ops->glean(r->ctx, d->src, &d->src_node);
}

/* A packet from another node: to the client here; or once more to where the client just went. */
static void from_node(struct relay *r, struct conn *link, const struct frame *f)
{
    struct mesh_data d;
    stats_add(r->stats, STAT_FORWARDED_IN, 1);
    if (mesh_data_parse(&d, f) < 0 || (d.flags & MESH_DATA_MUST_UNDERSTAND) ||
        memcmp(d.dst_node.b, r->self.b, sizeof(r->self.b)) != 0) {
        drop(r, STAT_DROP_MESH_BAD, 1);
        return;
    }
    if (d.hops == 0) {
        drop(r, STAT_DROP_MESH_HOPS, 1);
        return;
    }
    glean(r, &d);
    struct run run = {.dst = *d.dst,
                      .packets = 1,
                      .urgent = frame_is_disco(d.payload, d.payload_len),
                      .sender = wire_get64(d.src->b),
                      .hops = (uint8_t)(d.hops - 1),
                      .src_node = d.src_node};
    size_t len;
    run.start = mesh_data_to_recv(&d, &len);
    run.len = (uint32_t)len;
    if (to_local(r, &run))
        return;
    r->ops->catch_up(r->ctx);
    if (to_local(r, &run))
        return;
    uint32_t node = routes_remote(r->routes, &run.dst);
    bool back = node < r->n_nodes && r->nodes[node].link.gen == link->gen;
    if (run.hops == 0 || back || !to_node(r, &run, node))
        drop(r, STAT_DROP_MESH_NO_CLIENT, 1);
}

ssize_t relay_link_input(struct relay *r, struct conn *c, uint8_t *buf, size_t n, bool ready)
{
    size_t off = skip_some(c, n);
    while (off < n) {
        struct frame f;
        size_t size = frame_peek(&f, buf + off, n - off);
        if (!f.raw)
            break;
        if (f.type == FRAME_MESH_CONTROL) {
            if (f.len > (ready ? CONTROL_MAX : CONTROL_MAX_BEFORE_AUTH))
                return refuse(r, c, STAT_CLOSED_FRAME, "mesh control frame too long");
            if (!size)
                break;
            r->ops->link_control(r->ctx, c, f.body, f.len);
        } else if (f.type == FRAME_MESH_DATA) {
            if (!ready || f.len > MESH_DATA_HDR_MAX + FRAME_PACKET_MAX)
                return refuse(r, c, STAT_CLOSED_FRAME,
                              ready ? "mesh data frame too long" : "data before AUTH");
            if (!size)
                break;
            from_node(r, c, &f);
        } else if (!ready) {
            return refuse(r, c, STAT_CLOSED_FRAME, "not a mesh frame before AUTH");
        } else {
            stats_add(r->stats, STAT_UNKNOWN_FRAMES, 1);
            if (!size) {
                c->skip = (uint32_t)(f.len - (n - off - FRAME_HEADER_LEN));
                return (ssize_t)n;
            }
        }
        off += size;
    }
    return (ssize_t)off;
}

/* ---- from other workers ---- */

static void inbox_run(struct relay *r, struct run *run, const struct inbox_run *head)
{
    struct conn *c = conn_get(&r->conns, head->to.slot, head->to.gen);
    if (head->node != NODE_NONE) {
        if (c && c->kind == CONN_LINK && head->node < r->n_nodes)
            to_link(r, run, c, &r->nodes[head->node].id);
        else
            drop(r, STAT_DROP_GONE, run->packets);
        return;
    }
    /* the key decides, not the slot alone: what was rewritten no longer names its destination */
    if (c && c->kind == CONN_CLIENT && key_equal(&c->key, &head->dst))
        to_client(r, run, c);
    else
        drop(r, STAT_DROP_GONE, run->packets);
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

int relay_node_link(struct relay *r, uint32_t node, const struct node_id *id, const struct conn_ref *link)
{
    if (node >= r->n_nodes) {
        uint32_t n = node + 1;
        struct relay_node *nodes = realloc(r->nodes, n * sizeof(*nodes));
        if (!nodes)
            return -1;
        memset(nodes + r->n_nodes, 0, (n - r->n_nodes) * sizeof(*nodes));
        r->nodes = nodes;
        r->n_nodes = n;
    }
    r->nodes[node].id = *id;
    r->nodes[node].link = *link;
    return 0;
}

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
