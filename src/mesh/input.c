/* Frames on links: HELLO and AUTH go to the handshake, announcements to learn.c, the rest is answered here.
 *
 * Happy path: mesh_link_input → dispatch → on_pong, on_info, announce_sync, learn_input.
 * How it fails: a handler returns why the link has to be closed; numbers that this version does not know are counted,
 * and close it only from MESHMSG_CLOSES on. */
#include <string.h>

#include "mesh/announce.h"
#include "mesh/handshake.h"
#include "mesh/lanes.h"
#include "mesh/learn.h"
#include "mesh/link.h"
#include "mesh/liveness.h"
#include "mesh/paths.h"
#include "mesh/reauth.h"
#include "mesh/tunnel.h"
#include "proto/meshmsg_paths.h"

static void rtt_take(struct mesh *m, struct link *l, uint64_t rtt)
{
    if (m->now - l->rtt_since >= RTT_WINDOW_MS) {
        l->rtt_min[1] = l->rtt_min[0];
        l->rtt_min[0] = NEVER;
        l->rtt_since = m->now;
    }
    if (rtt < l->rtt_min[0])
        l->rtt_min[0] = rtt;
}

static void clone_refuse(struct mesh *m, struct peer *p)
{
    struct link *l = p->challenger;
    p->challenger = NULL;
    m->count.refused_clone++;
    mesh_log(m, MESH_LOG_ERROR,
             "ALARM: two running instances of one node peer=%s connected=%s refused=%s fix=\"a copied "
             "machine? give "
             "one of the two another name and node key\"",
             p->name, p->link->from, l->from);
    link_end(m, l, LINK_END_BYE, MESHMSG_BYE_CLONE, "another instance of this node is connected and alive");
}

static const char *on_pong(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct peer *p = l->peer;
    uint64_t number, at, received, rtt = NEVER;
    if (meshmsg_read_ping(in, &number, &at, &received) != 0 || number > l->ping_number)
        return "malformed message";
    unsigned done = 0;
    for (; done < l->n_marks && l->mark[done].number <= number; done++) {
        l->acked = l->mark[done].bytes;
        if (l->mark[done].number == number)
            rtt = m->now - l->mark[done].at;
    }
    l->n_marks -= done;
    memmove(l->mark, l->mark + done, l->n_marks * sizeof *l->mark);
    if (rtt != NEVER) {
        rtt_take(m, l, rtt);
        liveness_pong(m, l, rtt);
    }
    liveness_told(m, l, received);
    if (p->link == l && p->challenger && number >= p->challenge_ping)
        clone_refuse(m, p);
    if (announce_pending(l))
        announce_flush(m, l);
    return NULL;
}

static const char *on_bye(const struct link *l, const struct meshmsg_in *in)
{
    uint32_t code;
    if (meshmsg_read_bye(in, &code) != 0)
        return "malformed message";
    switch (code) {
    case MESHMSG_BYE_DUPLICATE:
        return "the other side keeps another link";
    case MESHMSG_BYE_CLONE:
        return "another instance of this node is connected there: is this machine a copy?";
    case MESHMSG_BYE_MAP:
        return "we are not in its map any more";
    case MESHMSG_BYE_KEY:
        return "it has removed the mesh key of this link";
    case MESHMSG_BYE_SILENT:
        return "it heard nothing from us for too long";
    default:
        if (l->peer && l->peer->link == l)
            l->peer->stopped = true;
        return "it stops";
    }
}

static const char *on_info(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct peer *p = l->peer;
    if (meshmsg_read_info(in, l->theirs.map_hash) != 0)
        return "malformed message";
    if (l->state != LINK_UP && l->state != LINK_SPARE)
        return NULL; /* peer_learn takes it when the link comes into use */
    memcpy(p->map_hash, l->theirs.map_hash, sizeof p->map_hash);
    if (memcmp(p->map_hash, m->map->hash, sizeof p->map_hash) != 0)
        mesh_log(m, MESH_LOG_DEBUG, "peer uses another map peer=%s", p->name);
    return NULL;
}

static const char *on_sync_req(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct meshmsg_moment held;
    if (meshmsg_read_sync_req(in, &held) != 0)
        return "malformed message";
    if (l->state == LINK_UP || l->state == LINK_SPARE) {
        announce_sync(m, l, &held);
    } else if (l->state == LINK_CHALLENGE) {
        l->sync_wanted = true;
        l->held = held;
    }
    return NULL;
}

static const char *on_buckets(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    uint64_t bucket[MESHMSG_BUCKETS_N];
    struct meshmsg_moment held;
    if (meshmsg_read_buckets(in, &held, bucket) != 0)
        return "malformed message";
    if (l->telling)
        announce_buckets(m, l, &held, bucket);
    return NULL;
}

static const char *on_busy(struct mesh *m, const struct meshmsg_in *in)
{
    struct derp_key dst, src;
    uint32_t ms;
    if (meshmsg_read_busy(in, &dst, &src, &ms) != 0)
        return "malformed message";
    m->count.busy_received++;
    m->ops->busy(m->ctx, &dst, &src, ms < MESH_BUSY_MAX_MS ? ms : MESH_BUSY_MAX_MS);
    return NULL;
}

void mesh_busy(struct mesh *m, const struct node_id *node, const struct derp_key *dst,
               const struct derp_key *src, uint32_t ms, uint64_t now)
{
    struct peer *p = peer_by_id(m, node);
    m->now = now;
    if (!p || !p->link || now - p->busy_at < MESH_BUSY_EVERY_MS)
        return;
    p->busy_at = now;
    m->count.busy_sent++;
    meshmsg_busy(&m->out, dst, src, ms);
    link_send(m, p->link);
}

/* A message on a proven link.  NULL, or why it has to be closed. */
static const char *dispatch(struct mesh *m, struct link *l, uint32_t type, const struct meshmsg_in *in)
{
    uint64_t number, at, received;
    bool in_use = l->state == LINK_UP;
    switch (type) {
    case MESHMSG_PING:
        if (meshmsg_read_ping(in, &number, &at, &received) != 0)
            return "malformed message";
        meshmsg_pong(&m->out, number, at, l->received);
        link_send(m, l);
        liveness_told(m, l, received);
        return NULL;
    case MESHMSG_PONG:
        return on_pong(m, l, in);
    case MESHMSG_BYE:
        return on_bye(l, in);
    case MESHMSG_INFO:
        return on_info(m, l, in);
    case MESHMSG_SYNC_REQ:
        return on_sync_req(m, l, in);
    case MESHMSG_BUCKETS:
        return on_buckets(m, l, in);
    case MESHMSG_SYNC_BEGIN:
    case MESHMSG_SYNC_DATA:
    case MESHMSG_SYNC_END:
    case MESHMSG_ANN:
    case MESHMSG_DIGEST:
        return in_use ? learn_input(m, l, type, in) : learn_unused(l, type, in);
    case MESHMSG_REAUTH:
        return reauth_input(m, l, in);
    case MESHMSG_NOTHERE:
        return in_use ? learn_not_here(m, l, in) : NULL;
    case MESHMSG_LINKS:
        return paths_links(m, l, in);
    case MESHMSG_BUSY:
        return in_use ? on_busy(m, in) : NULL;
    case MESHMSG_UNREACH:
        return paths_unreach(m, l, in);
    case MESHMSG_TUNNEL:
        return tunnel_input(m, l, in);
    case MESHMSG_HELLO:
    case MESHMSG_AUTH:
    case MESHMSG_LANE:
        return "HELLO, AUTH or LANE a second time";
    default:
        m->count.unknown_message++;
        return type < MESHMSG_CLOSES ? NULL : "a message that has to be understood";
    }
}

static void heard(struct mesh *m, struct link *l)
{
    bool first = !l->confirmed;
    l->last_rx = m->now;
    l->confirmed = true;
    if (!first || !l->peer)
        return;
    if (l->peer->path.via != l->peer->index)
        paths_update(m); /* what is accepted is a way from now on */
    paths_tell_node(m, l->peer);
}

/* Data is under way on a link, and if it is a lane, to the same node as its control link leads to. */
static void busy(struct mesh *m, struct link *l)
{
    liveness_busy(m, l);
    if (l->is_lane && l->peer->direct)
        liveness_busy(m, l->peer->direct);
}

void mesh_link_input(struct mesh *m, uint64_t id, const uint8_t *payload, size_t len, uint64_t now)
{
    struct link *l = link_find(m, id);
    m->now = now;
    m->count.control_bytes_received += len + FRAME_HEADER_LEN;
    if (l)
        link_input(m, l, payload, len);
}

void link_input(struct mesh *m, struct link *l, const uint8_t *payload, size_t len)
{
    struct meshmsg_in in;
    uint32_t type;
    l->received += len + FRAME_HEADER_LEN;
    if (l->state < LINK_CHALLENGE) {
        l->last_rx = m->now;
        handshake_input(m, l, payload, len);
        return;
    }
    heard(m, l);
    const char *why = NULL;
    if (len > MESHMSG_TUNNEL_MAX)
        why = "a control message over the limit";
    else if (meshmsg_open(&in, &type, payload, len) != 0)
        why = "malformed message";
    else if (len > MESHMSG_MAX && type != MESHMSG_TUNNEL)
        why = "a control message over the limit";
    bool bye = !why && type == MESHMSG_BYE;
    if (!why)
        why = dispatch(m, l, type, &in);
    if (why && !bye)
        m->count.bad_message++;
    if (why)
        link_end(m, l, LINK_END_CLOSE, MESHMSG_BYE_STOP, why);
}

void mesh_link_acked(struct mesh *m, uint64_t id, uint64_t bytes, uint64_t now)
{
    enum { DATA_MIN = 1000 }; /* more than pings */
    struct link *l = link_find(m, id);
    m->now = now;
    if (!l || l->state < LINK_CHALLENGE || bytes <= l->tcp_acked)
        return;
    if (bytes - l->tcp_acked >= DATA_MIN)
        busy(m, l);
    l->tcp_acked = bytes;
    if (!l->has_exporter)
        return;
    liveness_progress(m, l);
    if (l->is_lane && l->peer->direct)
        liveness_progress(m, l->peer->direct);
}

void mesh_link_alive(struct mesh *m, uint64_t id, uint64_t now)
{
    struct link *l = link_find(m, id);
    m->now = now;
    if (!l || l->state < LINK_CHALLENGE)
        return;
    heard(m, l);
    busy(m, l);
}
