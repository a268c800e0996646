/* The relay between nodes: packets onto mesh connections, and what comes in on them.
 *
 *   run ──▶ run_to_node ─┬▶ run_to_link     a connection of this worker (wrapped, 0x61)
 *                        └▶ run_to_worker   a connection of another worker
 *   0x61 ──▶ from_node ──┬▶ deliver         for a client here: a run of the same two clients
 *                        ├▶ redirect        the client has just moved: once more, to where it went
 *                        └▶ transit         for another node: to that node directly, or not at all
 *
 * The entry node names the destination node, and a transit node goes no detour: no packet goes in circles, whatever the
 * tables say.  A node has up to MESH_LANES_MAX connections; a pair of keys keeps to one of them as long as it is there, so
 * its packets stay in order, and a connection that goes moves no other flows than its own.
 * Fails: every packet that cannot go on has a counter. */
#include "node/relay_parts.h"

#include <stdlib.h>
#include <string.h>

#include "proto/frame.h"
#include "proto/wire.h"

/* Above any generation of a connection; a key that begins so shares with a neighbour, and loses by it. */
static const uint64_t TRANSIT_OF = UINT64_C(0xffffffff) << 32;

enum { CONTROL_MAX = 64 << 10, CONTROL_MAX_BEFORE_AUTH = 4 << 10, NOT_HERE_EVERY_MS = 100 };

/* ---- to a node ---- */

void run_to_link(struct relay *r, const struct run *run, struct conn *link, const struct node_id *dst_node)
{
    if (link->derper) {
        run_to_derper(r, run, link);
        return;
    }
    if (link->stream.closing || link->stream.no_data) {
        run_drop(r, STAT_DROP_GONE, run->packets);
        return;
    }
    uint8_t head[MESH_DATA_OVERHEAD];
    for (uint32_t off = 0; off < run->len;) {
        uint8_t *frame = run->start + off;
        uint32_t len = wire_get32(frame + 1);
        const struct derp_key *src = (const struct derp_key *)(const void *)(frame + FRAME_HEADER_LEN);
        mesh_data_header(head, 0, run->hops, dst_node, &run->src_node, &run->dst, src, len - KEY_LEN);
        stream_send2(&link->stream, run_class(run), run->sender, head, sizeof(head),
                     frame + FRAME_HEADER_LEN + KEY_LEN, len - KEY_LEN);
        off += FRAME_HEADER_LEN + len;
    }
    if (stream_congested(&link->stream))
        run_slow_down(r, run, link);
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 32) * 0x9fb21c651e98df25u;
    return (x ^ x >> 29) * 0x9fb21c651e98df25u;
}

/* The connection of n that a pair of keys takes: the one that scores highest for it (rendezvous hashing). */
static const struct conn_ref *lane_of(const struct relay_node *n, const struct run *run)
{
    const struct conn_ref *best = &n->path.link[0];
    if (n->path.n == 1)
        return best;
    uint64_t flow = mix(wire_get64(run->start + FRAME_HEADER_LEN)) + wire_get64(run->dst.b), top = 0;
    for (uint32_t i = 0; i < n->path.n; i++) {
        uint64_t score = mix(flow ^ n->path.link[i].gen * 0x9e3779b97f4a7c15u);
        if (score >= top) {
            top = score;
            best = &n->path.link[i];
        }
    }
    return best;
}

/* Onto a connection of the node's own.  False if it has none. */
static bool to_neighbour(struct relay *r, const struct run *run, uint32_t via, uint32_t node)
{
    if (via >= r->n_nodes || r->nodes[via].path.n == 0)
        return false;
    const struct conn_ref *at = lane_of(&r->nodes[via], run);
    if (at->worker != r->worker) {
        run_to_worker(r, run, at, node);
        return true;
    }
    struct conn *link = conn_get(&r->conns, at->slot, at->gen);
    if (!link)
        return false;
    run_to_link(r, run, link, &r->nodes[node].id);
    return true;
}

bool run_to_node(struct relay *r, const struct run *run, uint32_t node)
{
    if (node >= r->n_nodes)
        return false;
    return run_is_too_much(r, run) || to_neighbour(r, run, r->nodes[node].path.via, node);
}

/* ---- from a node ---- */

/* The key sends through a node that has not announced it (yet): replies shall find their way. */
static void glean(struct relay *r, const struct derp_key *src, const struct node_id *src_node)
{
    if (routes_remote(r->routes, src) != NODE_NONE || routes_local(r->routes, src) ||
        key_equal(src, &r->last_gleaned))
        return;
    r->last_gleaned = *src;
    r->ops->glean(r->ctx, src, src_node);
}

static uint32_t node_by_id(struct relay *r, const struct node_id *id)
{
    uint32_t i = r->last_transit;
    if (i < r->n_nodes && memcmp(&r->nodes[i].id, id, sizeof(*id)) == 0)
        return i;
    for (i = 0; i < r->n_nodes; i++)
        if (memcmp(&r->nodes[i].id, id, sizeof(*id)) == 0)
            return r->last_transit = i;
    return NODE_NONE;
}

/* The node that sent it shall take another way. */
static void tell_unreach(struct relay *r, struct conn *from, const struct node_id *to)
{
    struct relay_node *n = from->node < r->n_nodes ? &r->nodes[from->node] : NULL;
    uint64_t now = uv_now(from->stream.io->loop);
    if (!n || now - n->unreach_at < MESH_UNREACH_EVERY_MS)
        return;
    n->unreach_at = now;
    r->ops->unreach(r->ctx, from, to);
}

/* A packet between two other nodes: to its destination directly, or not at all. */
static void transit(struct relay *r, struct conn *from, struct run *run, const struct node_id *to)
{
    run->sender = TRANSIT_OF + from->node; /* all of one neighbour's has the share of one client of ours */
    uint32_t node = r->transit_off ? (uint32_t)NODE_NONE : node_by_id(r, to);
    if (run->hops == 0) {
        run_drop(r, STAT_DROP_MESH_HOPS, 1);
    } else if (node == NODE_NONE || node == from->node || !to_neighbour(r, run, node, node)) {
        run_drop(r, STAT_DROP_MESH_TRANSIT, 1);
        tell_unreach(r, from, to);
    } else {
        stats_add(r->stats, STAT_TRANSIT, 1);
    }
}

/* The node where the packet entered the mesh has to know better: seldom for one key. */
static void tell_not_here(struct relay *r, const struct conn *from, const struct run *run)
{
    uint64_t now = uv_now(from->stream.io->loop);
    if (now - r->not_here_at < NOT_HERE_EVERY_MS && key_equal(&r->last_not_here, &run->dst))
        return;
    r->not_here_at = now;
    r->last_not_here = run->dst;
    r->ops->not_here(r->ctx, &run->dst, &run->src_node);
}

/* For a client that is not here: once more, to where it has just gone; never back. */
static void redirect(struct relay *r, const struct conn *from, const struct run *run)
{
    tell_not_here(r, from, run);
    uint32_t node = routes_remote(r->routes, &run->dst);
    bool back = node < r->n_nodes && (node == from->node ||
                                      memcmp(&r->nodes[node].id, &run->src_node, sizeof(run->src_node)) == 0);
    if (run->hops == 0 || back || !run_to_node(r, run, node))
        run_drop(r, STAT_DROP_MESH_NO_CLIENT, run->packets);
}

static const struct derp_key *run_source(const struct run *run)
{
    return (const struct derp_key *)(const void *)(run->start + FRAME_HEADER_LEN);
}

/* To the client here that the run is for. */
static void deliver(struct relay *r, const struct conn *from, struct run *run)
{
    if (run->packets == 0)
        return;
    glean(r, run_source(run), &run->src_node);
    if (!run_to_local(r, run)) {
        r->ops->catch_up(r->ctx);
        if (!run_to_local(r, run))
            redirect(r, from, run);
    }
    run->packets = run->len = 0;
}

/* Adds a packet to the run if it is of the same two clients: it is moved up to it, over the header that it came with.  Else
 * the run is delivered, and the packet begins another. */
static void gather(struct relay *r, const struct conn *from, struct run *run, const struct run *next)
{
    bool same = run->packets > 0 && !run->urgent && !next->urgent && run->hops == next->hops &&
                key_equal(&run->dst, &next->dst) && key_equal(run_source(run), run_source(next)) &&
                memcmp(&run->src_node, &next->src_node, sizeof(run->src_node)) == 0;
    if (!same) {
        deliver(r, from, run);
        *run = *next;
        return;
    }
    memmove(run->start + run->len, next->start, next->len);
    run->len += next->len;
    run->packets++;
}

/* One packet; run: those before it that are not yet delivered. */
static void from_node(struct relay *r, struct conn *from, const struct frame *f, struct run *run)
{
    struct mesh_data d;
    stats_add(r->stats, STAT_FORWARDED_IN, 1);
    if (mesh_data_parse(&d, f) < 0 || (d.flags & MESH_DATA_MUST_UNDERSTAND)) {
        run_drop(r, STAT_DROP_MESH_BAD, 1);
        return;
    }
    if (d.hops == 0) {
        run_drop(r, STAT_DROP_MESH_HOPS, 1);
        return;
    }
    struct run next = {.dst = *d.dst,
                       .packets = 1,
                       .urgent = frame_is_disco(d.payload, d.payload_len),
                       .sender = wire_get64(d.src->b),
                       .hops = (uint8_t)(d.hops - 1),
                       .src_node = d.src_node};
    size_t len;
    next.start = mesh_data_to_recv(&d, &len);
    next.len = (uint32_t)len;
    if (memcmp(d.dst_node.b, r->self.b, sizeof(r->self.b)) == 0)
        gather(r, from, run, &next);
    else
        transit(r, from, &next, &d.dst_node);
}

ssize_t relay_link_input(struct relay *r, struct conn *c, uint8_t *buf, size_t n, bool ready)
{
    size_t off = conn_skip_some(c, n);
    struct run run = {0};
    while (off < n) {
        struct frame f;
        size_t size = frame_peek(&f, buf + off, n - off);
        if (!f.raw)
            break;
        if (f.type != FRAME_MESH_DATA)
            deliver(r, c, &run);
        if (f.type == FRAME_MESH_CONTROL) {
            if (f.len > (ready ? CONTROL_MAX : CONTROL_MAX_BEFORE_AUTH))
                return conn_refuse(r, c, STAT_CLOSED_FRAME, "mesh control frame too long");
            if (!size)
                break;
            r->ops->link_control(r->ctx, c, f.body, f.len);
        } else if (f.type == FRAME_MESH_DATA) {
            if (!ready || f.len > MESH_DATA_HDR_MAX + FRAME_PACKET_MAX) {
                deliver(r, c, &run);
                return conn_refuse(r, c, STAT_CLOSED_FRAME,
                                   ready ? "mesh data frame too long" : "data before AUTH");
            }
            if (!size)
                break;
            from_node(r, c, &f, &run);
        } else if (!ready) {
            return conn_refuse(r, c, STAT_CLOSED_FRAME, "not a mesh frame before AUTH");
        } else {
            stats_add(r->stats, STAT_UNKNOWN_FRAMES, 1);
            if (!size) {
                c->skip = (uint32_t)(f.len - (n - off - FRAME_HEADER_LEN));
                return (ssize_t)n;
            }
        }
        off += size;
    }
    deliver(r, c, &run);
    return (ssize_t)off;
}

/* ---- what the control thread decides ---- */

int relay_node_path(struct relay *r, uint32_t node, const struct node_id *id, const struct node_path *path)
{
    if (node >= r->n_nodes) {
        uint32_t n = node + 1;
        struct relay_node *nodes = realloc(r->nodes, n * sizeof(*nodes));
        if (!nodes)
            return -1;
        for (uint32_t i = r->n_nodes; i < n; i++)
            nodes[i] = (struct relay_node){.path.via = NODE_NONE};
        r->nodes = nodes;
        r->n_nodes = n;
    }
    r->nodes[node].id = *id;
    r->nodes[node].path = *path;
    return 0;
}
