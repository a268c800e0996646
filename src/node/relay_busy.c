/* A client that takes less than a client of another node sends it.
 *
 *   its node:   queue full ─ the sender's flow is a fat one ─▶ BUSY(dst, src, ms) ─▶ the sender's node
 *   that node:  what src sends to dst is dropped for ms, and src is read a little later
 *
 * So a flood does not cross the mesh only to be dropped at its end.  It names the sender, since others may send to the same
 * client and its queue serves them fairly.  ms is what the queue takes to drain to STREAM_RELIEVED.
 * Fails: what is lost of this costs the lines between nodes, nothing else; a node that lies hurts those who send to it. */
#include "node/relay_parts.h"

#include <string.h>

#include "node/tcp_info.h"
#include "proto/frame.h"
#include "proto/wire.h"

enum { BUSY_EVERY_MS = 20, BUSY_MIN_MS = 5, BUSY_UNKNOWN_MS = 20 };

static uint32_t drain_ms(const struct conn *c)
{
    uv_os_fd_t fd;
    uint64_t rate = uv_fileno((const uv_handle_t *)&c->stream.tcp, &fd) == 0 ? tcp_info_rate(fd) : 0;
    if (rate == 0)
        return BUSY_UNKNOWN_MS;
    uint64_t ms = (uint64_t)(c->stream.q.bytes - STREAM_RELIEVED) * 1000 / rate;
    return ms < BUSY_MIN_MS ? BUSY_MIN_MS : ms > MESH_BUSY_MAX_MS ? MESH_BUSY_MAX_MS : (uint32_t)ms;
}

void run_tell_busy(struct relay *r, const struct run *run, struct conn *c)
{
    const struct sendq *q = &c->stream.q;
    uint64_t now = uv_now(c->stream.io->loop);
    if (now - c->busy_at < BUSY_EVERY_MS || memcmp(run->src_node.b, r->self.b, sizeof(r->self.b)) == 0 ||
        (uint64_t)sendq_bytes_of(q, run->sender) * q->n_flows < q->bytes)
        return;
    c->busy_at = now;
    r->ops->client_busy(r->ctx, c, (const struct derp_key *)(const void *)(run->start + FRAME_HEADER_LEN),
                        &run->src_node, drain_ms(c));
}

/* Direct mapped: of two pairs that meet in one place the newer one counts. */
static struct relay_busy *place_of(struct relay *r, const struct derp_key *dst, const struct derp_key *src)
{
    return &r->busy[(wire_get64(dst->b) ^ wire_get64(src->b + 8)) % RELAY_BUSY_MAX];
}

void relay_busy(struct relay *r, const struct derp_key *dst, const struct derp_key *src, uint64_t until)
{
    *place_of(r, dst, src) = (struct relay_busy){.dst = *dst, .src = *src, .until = until};
    if (until > r->busy_until)
        r->busy_until = until;
}

bool run_is_too_much(struct relay *r, const struct run *run)
{
    struct conn *c = run->from;
    uint64_t now = c ? uv_now(c->stream.io->loop) : 0;
    if (!c || run->urgent || now >= r->busy_until)
        return false;
    const struct relay_busy *b = place_of(r, &run->dst, &c->key);
    if (now >= b->until || !key_equal(&b->dst, &run->dst) || !key_equal(&b->src, &c->key))
        return false;
    run_drop(r, STAT_DROP_BUSY, run->packets);
    run_slow_down(r, run, NULL);
    return true;
}
