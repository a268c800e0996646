/* Which link of a pair stays, and which one control uses.
 *
 * Happy path: link_proven → link_use → link_choose → the peer is heard on it (link_take), its set is asked for.
 * How it fails: link_end takes away what was in use, and the choice is made anew.
 *
 * Two proven links of a pair.  Same instance of the peer: of two new ones the preferred dialer's stays, else the newer
 * (the older is then half-dead: nobody dials while it works).  Both sides decide so for themselves and alike.  The other one is
 * kept open for LINK_LAME_MS, so that what is under way arrives.  Another instance: the old link is asked first; if it
 * answers, the newcomer is a copy of a running machine and is refused. */
#include "mesh/link.h"

#include <string.h>

#include "mesh/announce.h"
#include "mesh/derper.h"
#include "mesh/lanes.h"
#include "mesh/learn.h"
#include "mesh/paths.h"
#include "mesh/places.h"
#include "mesh/reauth.h"
#include "mesh/tunnel.h"

/* ---- direct or over another node ---- */

/* Hears the peer on this link from now on. */
static void link_take(struct mesh *m, struct peer *p, struct link *l)
{
    if (p->link) {
        p->link->state = LINK_SPARE;
        p->link->used_at = m->now;
    }
    p->link = l;
    p->down_at = NEVER;
    p->dropping = false;
    l->state = LINK_UP;
    l->used_at = m->now;
    link_map_changed(m, l);
    learn_start(m, l);
}

void link_choose(struct mesh *m, struct peer *p)
{
    struct link *l = p->link;
    if (!p->tunnel || (p->direct && p->link != p->direct && paths_direct(m, p) == GRADE_UP))
        l = p->direct;
    else if (!p->direct || p->direct->down)
        l = p->tunnel;
    else if (!l)
        l = p->direct;
    if (l == p->link && l)
        return;
    if (l) {
        mesh_log(m, MESH_LOG_INFO, "control goes %s peer=%s", l->is_tunnel ? l->from : "over the direct link",
                 p->name);
        link_take(m, p, l);
    } else if (p->down_at == NEVER) {
        p->synced = false;
        p->down_at = m->now;
    }
    peer_note(m, p);
}

/* ---- proven links ---- */

/* What the peer said of itself becomes what we know of it. */
static void peer_learn(struct mesh *m, struct peer *p, const struct link *l)
{
    const struct meshmsg_hello *h = &l->theirs;
    if (h->boot < p->boot)
        mesh_log(
            m, MESH_LOG_WARN,
            "peer's boot number went back (its state was lost or restored?) peer=%s boot=%llu before=%llu",
            p->name, (unsigned long long)h->boot, (unsigned long long)p->boot);
    p->boot = h->boot;
    if (memcmp(p->instance, h->instance, sizeof p->instance) != 0)
        memcpy(p->earlier, p->instance, sizeof p->earlier);
    memcpy(p->instance, h->instance, sizeof p->instance);
    mesh_printable(p->software, sizeof p->software, h->software);
    memcpy(p->map_hash, h->map_hash, sizeof p->map_hash);
    p->has_hash = true;
    p->features = h->features;
    p->key = h->key;
    p->has_key = true;
    if (memcmp(p->map_hash, m->map->hash, sizeof p->map_hash) != 0)
        mesh_log(m, MESH_LOG_WARN, "peer uses another map peer=%s fix=\"same map file on all nodes\"",
                 p->name);
}

static void lame(struct mesh *m, struct link *l)
{
    l->state = LINK_LAME;
    l->deadline = m->now + LINK_LAME_MS;
    announce_stop(l);
}

/* A proven tunnel: for control while there is no direct connection that answers. */
static void tunnel_use(struct mesh *m, struct link *l, bool same_instance)
{
    struct peer *p = l->peer;
    if (p->tunnel)
        lame(m, p->tunnel);
    if (p->link && p->link == p->tunnel)
        p->link = NULL;
    p->tunnel = l;
    l->state = LINK_SPARE;
    l->used_at = l->next_ping = m->now;
    p->stopped = false;
    if (!same_instance && p->direct) { /* of the instance that is gone */
        struct link *old = p->direct;
        lame(m, old);
        peer_lost(m, p, true);
    }
    peer_learn(m, p, l);
    mesh_log(m, MESH_LOG_INFO, "tunnel up peer=%s %s", p->name, l->from);
    link_map_changed(m, l); /* since its HELLO */
    link_choose(m, p);
    if (l->sync_wanted)
        announce_sync(m, l, &l->held);
}

void link_use(struct mesh *m, struct link *l)
{
    struct peer *p = l->peer;
    struct link *old = p->direct;
    bool same = memcmp(p->instance, l->theirs.instance, sizeof p->instance) == 0;
    l->deadline = NEVER;
    if (l->is_tunnel) {
        tunnel_use(m, l, same);
        return;
    }
    if (p->tunnel && !same) {
        lame(m, p->tunnel);
        p->tunnel = NULL;
    }
    if (p->link && p->link != p->tunnel)
        p->link = NULL;
    p->direct = l;
    derper_set(m, p, false); /* the settings are wrong, or old: it speaks our protocol */
    p->stopped = false;
    p->down_at = NEVER;
    p->dropping = false;
    lanes_link_used(m, p, same);
    p->redial = false;
    p->last_error[0] = 0;
    if (old)
        lame(m, old);
    if (p->dial) {
        uint64_t dial = p->dial;
        p->dial = 0;
        m->ops->dial_cancel(m->ctx, dial);
    }
    peer_learn(m, p, l);
    mesh_log(m, MESH_LOG_INFO, "link up peer=%s from=%s dialed_by=%s software=\"%s\"", p->name, l->from,
             l->dialer ? "us" : "it", p->software);
    l->next_ping = m->now; /* its round-trip time is a cost */
    if (!old)
        paths_recovered(m, p);
    paths_update(m);
    peer_schedule(m, p);
    peer_note(m, p);
    link_take(m, p, l);
    if (l->sync_wanted)
        announce_sync(m, l, &l->held);
}

static void challenge(struct mesh *m, struct link *l)
{
    struct peer *p = l->peer;
    l->state = LINK_CHALLENGE;
    l->deadline = m->now + LINK_CHALLENGE_MS;
    if (p->challenger) {
        l->deadline = p->challenger->deadline;
        p->challenge_ping =
            p->challenge_ping < p->link->ping_number ? p->challenge_ping : p->link->ping_number;
        link_end(m, p->challenger, LINK_END_BYE, MESHMSG_BYE_DUPLICATE, "a newer link of the same node");
    } else {
        link_mark(m, p->link);
        p->challenge_ping = p->link->ping_number;
    }
    p->challenger = l;
    mesh_log(m, MESH_LOG_INFO, "another instance of a connected peer, asking the old one peer=%s from=%s",
             p->name, l->from);
}

void link_proven(struct mesh *m, struct link *l)
{
    struct peer *p = l->peer;
    const struct link *old = l->is_tunnel ? p->tunnel : p->direct;
    m->count.links_opened++;
    l->up_at = m->now;
    l->state = LINK_CHALLENGE;
    l->confirmed = l->dialer;
    if (l == p->dialing)
        p->dialing = NULL;
    if (l == p->tunnel_dialing)
        p->tunnel_dialing = NULL;
    if (p->link && memcmp(p->instance, l->theirs.instance, sizeof p->instance) != 0) {
        /* What a node between still held of a process that has ended is no copied machine; its boot number may be the higher one
         * where the new process has lost the state. */
        bool late =
            l->theirs.boot < p->boot || memcmp(p->earlier, l->theirs.instance, sizeof p->earlier) == 0;
        if (l->is_tunnel && late)
            link_end(m, l, LINK_END_BYE, MESHMSG_BYE_DUPLICATE,
                     "late words of an earlier start of this node");
        else
            challenge(m, l);
        return;
    }
    bool both_new = old && m->now - old->up_at < LINK_NEW_MS;
    bool l_preferred = l->dialer == p->preferred, old_preferred = old && old->dialer == p->preferred;
    if (both_new && old_preferred && !l_preferred) {
        lame(m, l);
        peer_schedule(m, p);
        return;
    }
    link_use(m, l);
}
