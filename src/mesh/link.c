/* Links: opening, liveness, the end.  Which of the links of one pair is used: link_use.c.
 *
 * Happy path: mesh_link_open → handshake → link_proven → pings each second, announcements, data elsewhere.
 * How it fails: link_end, from wherever the fault is seen; the peer is dialled again (peers.c), its places stay for
 * MESH_LINK_DEAD_MS.  Silence first makes a link suspect, then ends it. */
#include "mesh/link.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mesh/announce.h"
#include "mesh/derper.h"
#include "mesh/handshake.h"
#include "mesh/lanes.h"
#include "mesh/learn.h"
#include "mesh/liveness.h"
#include "mesh/paths.h"
#include "mesh/places.h"
#include "mesh/reauth.h"
#include "mesh/tunnel.h"

struct link *link_find(const struct mesh *m, uint64_t id)
{
    for (size_t i = 0; i < m->n_links; i++)
        if (m->links[i]->id == id)
            return m->links[i];
    return NULL;
}

uint64_t link_rtt(const struct link *l)
{
    return l->rtt_min[0] < l->rtt_min[1] ? l->rtt_min[0] : l->rtt_min[1];
}

void link_send_frame(struct mesh *m, struct link *l, struct meshmsg *msg)
{
    if (m->rewrite)
        m->rewrite(msg);
    l->sent += msg->n;
    m->count.control_bytes_sent += msg->n;
    m->ops->send(m->ctx, l->id, msg->b, msg->n);
}

void link_send(struct mesh *m, struct link *l)
{
    if (!l->is_tunnel) {
        link_send_frame(m, l, &m->out);
        return;
    }
    if (m->rewrite)
        m->rewrite(&m->out);
    l->sent += m->out.n;
    tunnel_send(m, l);
}

void link_mark(struct mesh *m, struct link *l)
{
    meshmsg_ping(&m->out, ++l->ping_number, m->now, l->received);
    link_send(m, l);
    l->marked = l->sent;
    if (l->n_marks < LINK_MARKS)
        l->mark[l->n_marks++] = (struct mark){.number = l->ping_number, .bytes = l->sent, .at = m->now};
}

void link_map_changed(struct mesh *m, struct link *l)
{
    if (l->state != LINK_UP && l->state != LINK_SPARE)
        return;
    announce_scope(m, l);
    if (memcmp(l->map_told, m->map->hash, sizeof l->map_told) == 0)
        return;
    memcpy(l->map_told, m->map->hash, sizeof l->map_told);
    meshmsg_info(&m->out, l->map_told);
    link_send(m, l);
}

/* ---- the end ---- */

static void link_remove(struct mesh *m, const struct link *l)
{
    for (size_t i = 0; i < m->n_links; i++) {
        if (m->links[i] != l)
            continue;
        m->links[i] = m->links[--m->n_links];
        return;
    }
}

void peer_lost(struct mesh *m, struct peer *p, bool was_good)
{
    if (p->direct)
        p->lost_at = m->now;
    if (p->link == p->direct)
        p->link = NULL;
    p->direct = NULL;
    p->attempts = was_good ? 0 : p->attempts + 1;
    lanes_link_lost(m, p);
    if (p->node && !p->stopped)
        paths_flapped(m, p);
    tunnel_carrier_lost(m, p);
    paths_update(m);
    link_choose(m, p);
}

static void link_ended_tunnel(struct mesh *m, struct peer *p, const struct link *l, const char *why)
{
    bool proven = l == p->tunnel;
    mesh_log(m, proven ? MESH_LOG_INFO : MESH_LOG_DEBUG, "tunnel ended peer=%s %s why=\"%s\"", p->name,
             l->from, why);
    tunnel_ended(m, p, l);
    if (p->link == l)
        p->link = NULL;
    if (!proven)
        return;
    link_choose(m, p);
    if (p->link) /* what the tunnel's HELLO said of its map may have been old */
        memcpy(p->map_hash, p->link->theirs.map_hash, sizeof p->map_hash);
}

void link_end(struct mesh *m, struct link *l, enum link_end_how how, enum meshmsg_bye bye, const char *why)
{
    struct peer *p = l->peer;
    char text[sizeof p->last_error];
    bool control = p && (l == p->direct || l == p->tunnel);
    snprintf(text, sizeof text, "%s", why);
    if (how == LINK_END_BYE && l->state >= LINK_CHALLENGE) {
        meshmsg_bye(&m->out, bye);
        link_send(m, l);
    }
    if (how != LINK_END_CLOSED && l->is_tunnel)
        tunnel_close(m, l);
    else if (how != LINK_END_CLOSED)
        m->ops->close(m->ctx, l->id, text);
    m->count.links_closed++;
    link_remove(m, l);
    if (p && l == p->direct) {
        mesh_log(m, MESH_LOG_WARN, "link down peer=%s from=%s why=\"%s\"", p->name, l->from, text);
        peer_error(p, "%s", text);
        peer_lost(m, p, m->now - l->up_at >= LINK_GOOD_MS);
    } else if (p && l->is_tunnel) {
        link_ended_tunnel(m, p, l, text);
    }
    if (control && !p->link && p->challenger && p->challenger != l) {
        struct link *next = p->challenger;
        p->challenger = NULL;
        link_use(m, next);
    }
    if (p && l == p->challenger)
        p->challenger = NULL;
    if (p && l == p->dialing) {
        p->dialing = NULL;
        p->attempts++;
        if (!p->last_error[0] || how == LINK_END_CLOSED)
            peer_error(p, "%s", text);
    }
    if (p && l->is_lane)
        lanes_ended(m, p, l, text);
    else if (p && l->state == LINK_LAME)
        paths_tell_node(m, p);
    if (p) {
        peer_schedule(m, p);
        peer_note(m, p);
    }
    auth_wipe(&l->auth);
    sodium_memzero(l, sizeof *l);
    free(l);
}

void links_free(struct mesh *m)
{
    for (int tunnels = 1; tunnels >= 0; tunnels--) /* they need their carriers */
        for (size_t i = 0; i < m->n_links; i++) {
            struct link *l = m->links[i];
            if (l->is_tunnel != tunnels || l->state < LINK_CHALLENGE)
                continue;
            meshmsg_bye(&m->out, MESHMSG_BYE_STOP);
            link_send(m, l);
        }
    for (size_t i = 0; i < m->n_links; i++) {
        struct link *l = m->links[i];
        if (!l->is_tunnel)
            m->ops->close(m->ctx, l->id, "this node stops");
        auth_wipe(&l->auth);
        sodium_memzero(l, sizeof *l);
        free(l);
    }
    free(m->links);
    m->links = NULL;
    m->n_links = 0;
}

/* ---- opening and closing ---- */

struct link *link_new(struct mesh *m, uint64_t id, const struct mesh_link_info *info)
{
    if (m->n_links == m->cap_links) {
        size_t cap = m->cap_links ? m->cap_links * 2 : 16;
        struct link **p = realloc(m->links, cap * sizeof *p);
        if (!p)
            return NULL;
        m->links = p;
        m->cap_links = cap;
    }
    struct link *l = aligned_alloc(_Alignof(struct link), sizeof *l); /* the hash state wants 64 */
    if (!l)
        return NULL;
    memset(l, 0, sizeof *l);
    l->id = id;
    l->dialer = info->dialer;
    l->has_exporter = info->has_exporter;
    memcpy(l->exporter, info->exporter, sizeof l->exporter);
    mesh_printable(l->from, sizeof l->from, info->from ? info->from : "?");
    l->opened_at = l->last_rx = l->rtt_since = l->progress_at = m->now;
    l->deadline = m->now + MESH_AUTH_TIMEOUT_MS;
    l->next_ping = m->now + mesh_random(m, MESH_PING_MS);
    l->rtt_min[0] = l->rtt_min[1] = NEVER;
    l->sync_run = -1;
    announce_stop(l);
    auth_init(&l->auth);
    m->links[m->n_links++] = l;
    return l;
}

void mesh_link_open(struct mesh *m, uint64_t id, const struct mesh_link_info *info, uint64_t now)
{
    m->now = now;
    struct peer *p = info->dialer ? peer_by_dial(m, info->dial) : NULL;
    uint32_t lane = 0;
    bool is_lane = info->dialer && !p;
    if (is_lane)
        p = lanes_by_dial(m, info->dial, &lane);
    if (info->dialer && !p) {
        m->ops->close(m->ctx, id, "the dial was given up");
        return;
    }
    struct link *l = link_new(m, id, info);
    if (!l) {
        m->ops->close(m->ctx, id, "out of memory");
        if (p)
            mesh_dial_failed(m, info->dial, "out of memory", now);
        return;
    }
    l->peer = p;
    l->is_lane = is_lane;
    if (is_lane) {
        l->lane.index = lane;
        p->lane[lane].dial = 0;
        p->lane[lane].asked = l;
    } else if (p) {
        p->dial = 0;
        p->dialing = l;
        peer_note(m, p);
    }
    handshake_start(m, l);
}

void mesh_link_closed(struct mesh *m, uint64_t id, const char *why, uint64_t now)
{
    struct link *l = link_find(m, id);
    m->now = now;
    if (!l)
        return;
    if (l->state < LINK_CHALLENGE && l->dialer && !l->is_lane) {
        char text[200];
        snprintf(text, sizeof text, "closed before it was proven (%s): the log of %s says why", why,
                 l->peer->name);
        mesh_log(m, peer_error_level(l->peer, text),
                 "link closed before AUTH dialed=%s from=%s why=\"%s\" fix=\"see the log of %s\"",
                 l->peer->name, l->from, why, l->peer->name);
        link_end(m, l, LINK_END_CLOSED, MESHMSG_BYE_STOP, text);
        return;
    }
    link_end(m, l, LINK_END_CLOSED, MESHMSG_BYE_STOP, why);
}

/* ---- time ---- */

/* The end of a state that lasts only so long.  True if the link is gone or has changed. */
static bool deadline_tick(struct mesh *m, struct link *l)
{
    if (m->now < l->deadline)
        return false;
    switch (l->state) {
    case LINK_HELLO:
    case LINK_AUTH:
    case LINK_ASKED:
        handshake_refuse(m, l, REFUSE_HELLO, "reason=\"not proven within %d s\"",
                         MESH_AUTH_TIMEOUT_MS / 1000);
        return true;
    case LINK_CHALLENGE: {
        struct peer *p = l->peer;
        p->challenger = NULL;
        mesh_log(m, MESH_LOG_INFO, "the old instance is silent, the new one takes over peer=%s", p->name);
        link_use(m, l);
        return true;
    }
    case LINK_LAME:
        link_end(m, l, LINK_END_BYE, MESHMSG_BYE_DUPLICATE, "another link of this pair stays");
        return true;
    case LINK_UP:
    case LINK_SPARE:
    case LINK_LANE:
        break;
    }
    return false;
}

void link_judged(struct mesh *m, struct link *l, bool was_suspect)
{
    struct peer *p = l->peer;
    if (p->direct != l) {
        if (l->is_lane)
            paths_tell_node(m, p);
        return;
    }
    if (l->suspect && !was_suspect)
        paths_flapped(m, p);
    else if (!l->suspect)
        paths_recovered(m, p);
    paths_update(m);
    paths_tell_node(m, p);
    link_choose(m, p);
    peer_note(m, p);
}

static void lane_ping(struct mesh *m, struct link *l)
{
    const struct link *control = l->peer->direct;
    l->lonely = l->suspect && control && !control->suspect ? l->lonely + 1 : 0;
    if (l->lonely > LANE_PINGS_MAX) {
        link_end(m, l, LINK_END_BYE, MESHMSG_BYE_SILENT, "silent, while the control link is not");
        return;
    }
    link_mark(m, l);
    l->next_ping = m->now + liveness_interval(m, l);
}

/* Whether a tunnel that we opened has no more use: control goes over the direct connection again, and that lasts. */
static bool tunnel_is_over(const struct mesh *m, const struct link *l)
{
    const struct peer *p = l->peer;
    return l->dialer && l->state == LINK_SPARE && paths_direct(m, p) == GRADE_UP &&
           m->now - l->used_at >= TUNNEL_STAY_MS;
}

void link_tick(struct mesh *m, struct link *l)
{
    if (deadline_tick(m, l) || (l->state != LINK_UP && l->state != LINK_LANE && l->state != LINK_SPARE))
        return;
    if (l->is_tunnel && tunnel_is_over(m, l)) {
        link_end(m, l, LINK_END_BYE, MESHMSG_BYE_DUPLICATE, "the direct link is in use again");
        return;
    }
    if (!liveness_tick(m, l) || (l->is_tunnel && l->down)) {
        link_end(m, l, LINK_END_BYE, MESHMSG_BYE_SILENT, l->is_tunnel ? "no answer" : "no answer for 60 s");
        return;
    }
    if (l->state == LINK_LANE) {
        if (m->now >= l->next_ping)
            lane_ping(m, l);
        return;
    }
    if (l == l->peer->direct)
        link_choose(m, l->peer);
    if (l->state == LINK_UP)
        learn_tick(m, l);
    if (m->now >= l->next_ping) {
        if (!reauth_tick(m, l)) {
            link_end(m, l, LINK_END_BYE, MESHMSG_BYE_KEY, "the proof of its mesh key was not renewed");
            return;
        }
        announce_flush(m, l); /* lone downs go with the ping */
        announce_digest(m, l);
        link_mark(m, l);
        l->next_ping = m->now + liveness_interval(m, l);
    } else if (m->now >= l->flush_at) {
        announce_flush(m, l);
    }
}

uint64_t link_next(const struct mesh *m, const struct link *l)
{
    uint64_t next = l->deadline;
    if (l->state != LINK_UP && l->state != LINK_LANE && l->state != LINK_SPARE)
        return next;
    uint64_t judged = liveness_next(m, l);
    next = judged < next ? judged : next;
    if (l->next_ping < next)
        next = l->next_ping;
    if (l->state == LINK_UP && l->sync_missed && !l->sync_asked && l->asked_at + SYNC_MIN_MS < next)
        next = l->asked_at + SYNC_MIN_MS;
    return l->flush_at < next ? l->flush_at : next;
}
