/* Tunnels: a link whose frames travel inside TUNNEL messages over one node that reaches both ends.
 *
 * Happy path: control does not reach a peer (tunnel_tick) → HELLO and AUTH as on any link, the end's names in clear, each
 * message in a TUNNEL → both are proven: tunnel_seal → every further message is sealed with a key of its direction and a
 * counter that is not sent.  To the rest of the mesh it is a link like others: announcements, syncs, pings.  It ends when
 * the direct connection is good again (link.c).
 * How it fails: a message that does not open (changed, dropped, repeated, out of order) ends the tunnel, so does a lost
 * carrier, or silence; the next one goes over another node if there is one.
 *
 * The node between sees who speaks to whom, when and how much, and the HELLOs.  It can drop, delay and end; it can neither
 * read, change, repeat nor answer in an end's place: the MACs of AUTH cover both ends, the tunnel's number and the
 * node between (binding), so what is played on another connection or tunnel proves nothing there.
 * It may refuse; and it passes on no more than PASS_RATE for each neighbour. */
#include "mesh/tunnel.h"

#include <stdio.h>
#include <string.h>

#include "mesh/handshake.h"
#include "mesh/link.h"
#include "mesh/paths.h"
#include "proto/meshmsg_paths.h"
#include "proto/wire.h"

enum {
    WAIT_MS = 500, /* a connection that was reset is made anew within that; … */
    WAIT_JITTER_MS = 200,
    WAIT_SECOND_MS = 1500, /* … the side that is not the preferred dialer waits longer */
    AVOID_MS = 10000,      /* the node over which a tunnel has failed, if there is another */
    PASS_RATE = 256 << 10, /* bytes a second passed on for one neighbour, … */
    PASS_BURST = 512 << 10,
    OPEN_EVERY_MS = 50 /* … and new tunnels over it to us */
};
static const uint64_t TUNNEL_IDS = UINT64_C(1) << 63; /* the node's own numbers of connections stay below */

/* ---- sealing ---- */

/* Stands where other links have their TLS exporter. */
static void binding(uint8_t out[static 32], uint64_t number, const struct node_id *dialer,
                    const struct node_id *acceptor, const struct node_id *transit)
{
    static const char label[] = "derpmesh/1 tunnel";
    crypto_generichash_state st;
    uint8_t n[8];
    wire_put64(n, number);
    crypto_generichash_init(&st, NULL, 0, 32);
    crypto_generichash_update(&st, (const uint8_t *)label, sizeof label - 1);
    crypto_generichash_update(&st, n, sizeof n);
    crypto_generichash_update(&st, dialer->b, sizeof dialer->b);
    crypto_generichash_update(&st, acceptor->b, sizeof acceptor->b);
    crypto_generichash_update(&st, transit->b, sizeof transit->b);
    crypto_generichash_final(&st, out, 32);
}

void tunnel_seal(struct link *l)
{
    struct tunnel *t = &l->tunnel;
    auth_secret(&l->auth, "derpmesh/1 tunnel dialer", l->dialer ? t->out_key : t->in_key);
    auth_secret(&l->auth, "derpmesh/1 tunnel acceptor", l->dialer ? t->in_key : t->out_key);
    t->sealed = true;
}

static void nonce_of(uint8_t out[static crypto_aead_chacha20poly1305_IETF_NPUBBYTES], uint64_t counter)
{
    memset(out, 0, 4);
    wire_put64(out + 4, counter);
}

void tunnel_send(struct mesh *m, struct link *l)
{
    struct link *carrier = m->peers[l->tunnel.via]->direct;
    struct tunnel *t = &l->tunnel;
    uint8_t nonce[crypto_aead_chacha20poly1305_IETF_NPUBBYTES];
    const uint8_t *plain = m->out.b + FRAME_HEADER_LEN;
    size_t len = m->out.n - FRAME_HEADER_LEN;
    struct meshmsg_tunnel msg = {.to = m->peers[t->other]->id,
                                 .from = m->peers[0]->id,
                                 .number = t->number,
                                 .body = plain,
                                 .len = len};
    if (!carrier)
        return; /* tunnel_carrier_lost is on its way */
    if (t->sealed) {
        unsigned long long n;
        nonce_of(nonce, t->out_counter++);
        crypto_aead_chacha20poly1305_ietf_encrypt(m->sealed, &n, plain, len, NULL, 0, NULL, nonce,
                                                  t->out_key);
        msg.kind = MESHMSG_TUNNEL_SEALED;
        msg.body = m->sealed;
        msg.len = (size_t)n;
    }
    meshmsg_tunnel(&m->wrapped, &msg);
    link_send_frame(m, carrier, &m->wrapped);
}

/* A message opened into m->plain; its length, or -1. */
static int open_sealed(struct mesh *m, struct tunnel *t, const struct meshmsg_tunnel *msg)
{
    uint8_t nonce[crypto_aead_chacha20poly1305_IETF_NPUBBYTES];
    unsigned long long n;
    nonce_of(nonce, t->in_counter);
    if (msg->len > sizeof m->plain ||
        crypto_aead_chacha20poly1305_ietf_decrypt(m->plain, &n, NULL, msg->body, msg->len, NULL, 0, nonce,
                                                  t->in_key) != 0)
        return -1;
    t->in_counter++;
    return (int)n;
}

/* ---- refusing ---- */

static void refuse(struct mesh *m, struct link *carrier, const struct node_id *to, const struct node_id *from,
                   uint64_t number)
{
    struct meshmsg_tunnel msg = {.to = *to, .from = *from, .number = number, .kind = MESHMSG_TUNNEL_REFUSED};
    msg.body = m->sealed; /* nothing of it */
    meshmsg_tunnel(&m->wrapped, &msg);
    link_send_frame(m, carrier, &m->wrapped);
}

void tunnel_close(struct mesh *m, const struct link *l)
{
    struct link *carrier = m->peers[l->tunnel.via]->direct;
    if (carrier)
        refuse(m, carrier, &m->peers[l->tunnel.other]->id, &m->peers[0]->id, l->tunnel.number);
}

/* ---- in between ---- */

/* Whether a neighbour may have so many bytes more passed on. */
static bool may_pass(const struct mesh *m, struct peer *from, size_t len)
{
    uint64_t earned = (m->now - from->pass_at) * PASS_RATE / 1000;
    from->pass_at = m->now;
    from->pass_left = from->pass_left + earned > PASS_BURST ? PASS_BURST : from->pass_left + (uint32_t)earned;
    if (from->pass_left < len)
        return false;
    from->pass_left -= (uint32_t)len;
    return true;
}

static const char *pass_on(struct mesh *m, struct link *carrier, const struct meshmsg_tunnel *msg)
{
    struct peer *from = carrier->peer, *to = peer_by_id(m, &msg->to);
    if (memcmp(&msg->from, &from->id, sizeof from->id) != 0)
        return "a tunnel in another node's name";
    struct link *out = to ? to->direct : NULL;
    if (m->flags == 0 && out && to != from && !out->down && out->sent - out->acked < LINK_WINDOW &&
        may_pass(m, from, msg->len)) {
        m->count.tunnelled++;
        meshmsg_tunnel(&m->wrapped, msg);
        link_send_frame(m, out, &m->wrapped);
        if (out->sent - out->marked >= LINK_MARK_EVERY)
            link_mark(m, out);
        return NULL;
    }
    m->count.tunnel_refused++;
    if (msg->kind != MESHMSG_TUNNEL_REFUSED)
        refuse(m, carrier, &msg->from, &msg->to, msg->number);
    return NULL;
}

/* ---- at an end ---- */

static struct link *tunnel_find(const struct mesh *m, uint32_t other, uint32_t via, uint64_t number)
{
    for (size_t i = 0; i < m->n_links; i++) {
        const struct tunnel *t = &m->links[i]->tunnel;
        if (m->links[i]->is_tunnel && t->other == other && t->via == via && t->number == number)
            return m->links[i];
    }
    return NULL;
}

static struct link *tunnel_new(struct mesh *m, struct peer *other, const struct peer *via, uint64_t number,
                               bool dialer)
{
    struct mesh_link_info info = {.dialer = dialer, .has_exporter = true};
    const struct node_id *us = &m->peers[0]->id;
    char from[80];
    snprintf(from, sizeof from, "over %.60s", via->name);
    info.from = from;
    binding(info.exporter, number, dialer ? us : &other->id, dialer ? &other->id : us, &via->id);
    struct link *l = link_new(m, TUNNEL_IDS | ++m->last_tunnel, &info);
    if (!l)
        return NULL;
    l->is_tunnel = true;
    l->tunnel.number = number;
    l->tunnel.other = other->index;
    l->tunnel.via = via->index;
    if (dialer)
        l->peer = other;
    return l;
}

/* The first message of a tunnel that somebody opens to us.  NULL: no. */
static struct link *accept_new(struct mesh *m, struct peer *other, struct peer *via, uint64_t number)
{
    if (m->now - via->tunnels_at < OPEN_EVERY_MS)
        return NULL;
    via->tunnels_at = m->now;
    /* One at a time that is not proven yet: a newer takes its place. */
    for (size_t i = 0; i < m->n_links; i++) {
        struct link *l = m->links[i];
        if (l->is_tunnel && !l->dialer && l->state < LINK_CHALLENGE && l->tunnel.other == other->index &&
            l->tunnel.via == via->index) {
            link_end(m, l, LINK_END_CLOSED, MESHMSG_BYE_STOP, "a newer tunnel over the same node");
            break;
        }
    }
    return tunnel_new(m, other, via, number, false);
}

static void take_sealed(struct mesh *m, struct link *l, const struct meshmsg_tunnel *msg)
{
    int n = l->tunnel.sealed ? open_sealed(m, &l->tunnel, msg) : -1;
    if (n >= 0) {
        link_input(m, l, m->plain, (size_t)n);
        return;
    }
    m->count.tunnel_bad++;
    link_end(m, l, LINK_END_CLOSE, MESHMSG_BYE_STOP, "a message in the tunnel was changed, lost or repeated");
}

static const char *take(struct mesh *m, struct link *carrier, const struct meshmsg_tunnel *msg)
{
    struct peer *via = carrier->peer, *other = peer_by_id(m, &msg->from);
    struct link *l = other ? tunnel_find(m, other->index, via->index, msg->number) : NULL;
    if (msg->kind == MESHMSG_TUNNEL_REFUSED) {
        if (l)
            link_end(m, l, LINK_END_CLOSED, MESHMSG_BYE_STOP, "refused, or gone, on the other side");
        return NULL;
    }
    if (!l && msg->kind == MESHMSG_TUNNEL_CLEAR && other && !other->self && other->node && other != via)
        l = accept_new(m, other, via, msg->number);
    if (!l) {
        m->count.tunnel_refused++;
        refuse(m, carrier, &msg->from, &msg->to, msg->number);
        return NULL;
    }
    if (msg->kind == MESHMSG_TUNNEL_SEALED) {
        take_sealed(m, l, msg);
    } else if (l->tunnel.sealed || l->state >= LINK_CHALLENGE) {
        m->count.tunnel_bad++;
        link_end(m, l, LINK_END_CLOSE, MESHMSG_BYE_STOP, "a message in the tunnel that is not sealed");
    } else {
        link_input(m, l, msg->body, msg->len);
    }
    return NULL;
}

const char *tunnel_input(struct mesh *m, struct link *carrier, const struct meshmsg_in *in)
{
    struct meshmsg_tunnel msg;
    if (carrier->is_tunnel)
        return "a tunnel in a tunnel";
    if (meshmsg_read_tunnel(in, &msg) != 0 ||
        msg.len > MESHMSG_MAX + crypto_aead_chacha20poly1305_IETF_ABYTES)
        return "malformed message";
    if (carrier != carrier->peer->direct)
        return NULL;
    bool ours = memcmp(&msg.to, &m->peers[0]->id, sizeof msg.to) == 0;
    return ours ? take(m, carrier, &msg) : pass_on(m, carrier, &msg);
}

/* ---- opening and ending ---- */

void tunnel_ended(struct mesh *m, struct peer *p, const struct link *l)
{
    if (p->tunnel != l && p->tunnel_dialing != l)
        return; /* another one has taken its place */
    if (p->tunnel == l) {
        p->tunnel = NULL;
        p->tunnel_attempts = m->now - l->up_at >= LINK_GOOD_MS ? 0 : p->tunnel_attempts + 1;
    }
    if (p->tunnel_dialing == l) {
        p->tunnel_dialing = NULL;
        p->tunnel_attempts++;
    }
    p->tunnel_avoid = l->tunnel.via;
    p->tunnel_avoid_until = m->now + AVOID_MS;
    p->tunnel_at = NEVER;
}

void tunnel_carrier_lost(struct mesh *m, const struct peer *transit)
{
    for (size_t i = 0; i < m->n_links;) {
        struct link *l = m->links[i];
        if (!l->is_tunnel || l->tunnel.via != transit->index) {
            i++;
            continue;
        }
        link_end(m, l, LINK_END_CLOSED, MESHMSG_BYE_STOP, "the connection to the node between is lost");
        i = 0;
    }
}

/* The node to go over: the one that data takes, else any that could. */
static const struct peer *transit_for(const struct mesh *m, const struct peer *p)
{
    const struct peer *found = NULL;
    for (uint32_t i = 1; i < m->n_peers; i++) {
        const struct peer *t = m->peers[i];
        if (!paths_passes(m, t, p))
            continue;
        bool avoid = t->index == p->tunnel_avoid && m->now < p->tunnel_avoid_until;
        if (!avoid && t->index == p->path.via)
            return t;
        if (!found || !avoid)
            found = t;
    }
    return found;
}

static bool needed(const struct mesh *m, const struct peer *p)
{
    return p->node && !p->self && !p->derper && m->keys.n > 0 && !p->tunnel && !p->tunnel_dialing &&
           !p->stopped && (!p->direct || p->direct->down);
}

void tunnel_tick(struct mesh *m, struct peer *p)
{
    const struct peer *via = needed(m, p) ? transit_for(m, p) : NULL;
    if (!via) {
        p->tunnel_at = NEVER;
        return;
    }
    if (p->tunnel_at == NEVER) {
        uint64_t wait = WAIT_MS + mesh_random(m, WAIT_JITTER_MS) + (p->preferred ? 0 : WAIT_SECOND_MS);
        if (p->tunnel_attempts)
            wait += mesh_random(m, peer_backoff(p->tunnel_attempts + 1));
        p->tunnel_at = m->now + wait;
    }
    if (m->now < p->tunnel_at)
        return;
    uint64_t number;
    p->tunnel_at = NEVER;
    m->ops->random(m->ctx, &number, sizeof number);
    struct link *l = tunnel_new(m, p, via, number, true);
    if (!l)
        return;
    p->tunnel_dialing = l;
    m->count.tunnels_opened++;
    mesh_log(m, MESH_LOG_DEBUG, "opening a tunnel peer=%s over=%s", p->name, via->name);
    handshake_start(m, l);
}

uint64_t tunnel_next(const struct peer *p)
{
    return p->tunnel_at;
}
