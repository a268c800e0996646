/* The relay and real derpers: packets to their clients, and from them.
 *
 *   run ──▶ run_to_derper                        ForwardPacket on the connection that we dialled
 *   ForwardPacket ──▶ relay_watcher_input ──▶ run_to_local, else once more into our mesh, never to a derper
 *
 * A derper forwards a packet once only, and so do we for it: what came from one goes to no other, so nothing goes in circles.
 * Fails: every packet that cannot go on has a counter; a frame of wrong length closes. */
#include "node/relay_parts.h"

#include <string.h>

#include "proto/frame.h"
#include "proto/wire.h"

void run_to_derper(struct relay *r, const struct run *run, struct conn *c)
{
    if (c->stream.closing || c->stream.no_data) {
        run_drop(r, STAT_DROP_GONE, run->packets);
        return;
    }
    uint8_t head[FRAME_HEADER_LEN + 2 * KEY_LEN];
    for (uint32_t off = 0; off < run->len;) {
        uint8_t *frame = run->start + off;
        uint32_t len = wire_get32(frame + 1);
        frame_header(head, FRAME_FORWARD_PACKET, len + KEY_LEN);
        memcpy(head + FRAME_HEADER_LEN, frame + FRAME_HEADER_LEN, KEY_LEN);
        memcpy(head + FRAME_HEADER_LEN + KEY_LEN, run->dst.b, KEY_LEN);
        stream_send2(&c->stream, run_class(run), run->sender, head, sizeof(head),
                     frame + FRAME_HEADER_LEN + KEY_LEN, len - KEY_LEN);
        off += FRAME_HEADER_LEN + len;
    }
    if (stream_congested(&c->stream))
        run_slow_down(r, run, c);
}

void relay_from_derper(struct relay *r, const struct frame *f)
{
    struct derp_key src;
    struct run run = {.packets = 1, .hops = MESH_HOPS_START, .src_node = r->self};
    stats_add(r->stats, STAT_FORWARDED_IN, 1);
    memcpy(src.b, f->body, KEY_LEN);
    memcpy(run.dst.b, f->body + KEY_LEN, KEY_LEN);
    run.urgent = frame_is_disco(f->body + 2 * KEY_LEN, f->len - 2 * KEY_LEN);
    run.sender = wire_get64(src.b);
    run.len = FRAME_HEADER_LEN + f->len - KEY_LEN;
    run.start = f->body + KEY_LEN - FRAME_HEADER_LEN; /* what stood there is in src and dst */
    frame_header(run.start, FRAME_RECV_PACKET, f->len - KEY_LEN);
    memcpy(run.start + FRAME_HEADER_LEN, src.b, KEY_LEN);
    if (run_to_local(r, &run))
        return;
    r->ops->catch_up(r->ctx);
    uint32_t node = routes_remote(r->routes, &run.dst);
    bool derper = node < r->n_nodes && r->nodes[node].path.derper;
    if (!run_to_local(r, &run) && (derper || !run_to_node(r, &run, node)))
        run_drop(r, STAT_DROP_MESH_NO_CLIENT, 1);
}
