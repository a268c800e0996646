/* Lanes: further connections to a peer, for data only.
 *
 *   dialled ──LANE──> ASKED ──their LANE is good──> LANE ──another in its place, reached otherwise──> LAME
 *   accepted ──their LANE is good, ours──> LANE
 *
 * Happy path: the side that dialled the control link dials m->lanes more connections.  Each begins with LANE, which proves by
 * a MAC that the dialer holds the control link's secret, and names this very connection by its TLS exporter; the
 * acceptor answers alike.  From then on the lane carries data; pings tell whether it lives.
 * How it fails: what is forged, reflected, replayed or meant for another is refused and counted by its reason; a lane that
 * ends, or cannot be had, is dialled again with backoff.  While there is none the control link carries data.
 *
 * Lanes outlive the loss of the control link for LANES_ORPHANED_MS, if the same instance of the peer comes back: what lost
 * one connection (a worker that stalled, a reset) need not lose all. */
#include "mesh/lanes.h"

#include <stdio.h>
#include <string.h>

#include "mesh/handshake.h"
#include "mesh/link.h"
#include "mesh/paths.h"

enum { LANES_ORPHANED_MS = 10000 };

static bool wanted(const struct mesh *m, const struct peer *p, uint32_t index)
{
    const struct lane *lane = &p->lane[index];
    return index < m->lanes && p->node && p->direct && p->direct->dialer && !lane->link && !lane->asked &&
           !lane->dial;
}

static void schedule(struct mesh *m, struct peer *p)
{
    for (uint32_t i = 0; i < MESH_LANES_MAX; i++) {
        struct lane *lane = &p->lane[i];
        if (!wanted(m, p, i))
            lane->dial_at = NEVER;
        else if (lane->dial_at == NEVER)
            lane->dial_at = m->now + mesh_random(m, peer_backoff(lane->attempts));
    }
}

static void failed(struct mesh *m, struct peer *p, struct lane *lane, const char *why)
{
    mesh_log(m, lane->attempts % 16 == 0 ? MESH_LOG_WARN : MESH_LOG_DEBUG,
             "no lane peer=%s lane=%d why=\"%s\" attempts=%u", p->name, (int)(lane - p->lane), why,
             lane->attempts + 1);
    lane->attempts++;
    schedule(m, p);
}

/* ---- the control link comes and goes ---- */

/* Out of use: what is under way on it still arrives, the other side hears of it at once. */
static void retire(struct mesh *m, struct peer *p, struct lane *lane)
{
    struct link *l = lane->link;
    lane->link = NULL;
    if (!l)
        return;
    l->state = LINK_LAME;
    l->deadline = m->now + LINK_LAME_MS;
    paths_tell_node(m, p);
    meshmsg_bye(&m->out, MESHMSG_BYE_DUPLICATE);
    link_send(m, l);
}

void lanes_cancel(struct mesh *m, struct peer *p)
{
    for (uint32_t i = 0; i < MESH_LANES_MAX; i++) {
        uint64_t dial = p->lane[i].dial;
        p->lane[i].dial = 0;
        p->lane[i].dial_at = NEVER;
        if (dial)
            m->ops->dial_cancel(m->ctx, dial);
    }
}

void lanes_close(struct mesh *m, struct peer *p)
{
    p->lanes_until = NEVER;
    lanes_cancel(m, p);
    for (uint32_t i = 0; i < MESH_LANES_MAX; i++) {
        struct lane *lane = &p->lane[i];
        if (lane->asked)
            link_end(m, lane->asked, LINK_END_CLOSE, MESHMSG_BYE_STOP, "this lane is not wanted any more");
        if (lane->link)
            link_end(m, lane->link, LINK_END_BYE, MESHMSG_BYE_DUPLICATE, "this lane is not wanted any more");
    }
}

void lanes_link_used(struct mesh *m, struct peer *p, bool same_instance)
{
    p->lanes_until = NEVER;
    if (!same_instance)
        lanes_close(m, p);
    for (uint32_t i = 0; i < MESH_LANES_MAX; i++) {
        p->lane[i].attempts = 0;
        if (p->redial) /* reached otherwise now: the other lanes, too */
            retire(m, p, &p->lane[i]);
    }
    schedule(m, p);
}

void lanes_link_lost(struct mesh *m, struct peer *p)
{
    if (p->stopped || !p->node)
        lanes_close(m, p);
    else
        p->lanes_until = m->now + LANES_ORPHANED_MS;
    schedule(m, p);
}

/* ---- asking ---- */

static void mac_of(const struct link *l, const struct meshmsg_lane *asked, const uint8_t *nonce,
                   uint8_t mac[static MESHMSG_MAC_LEN])
{
    auth_lane_mac(l->lane_secret, asked, nonce, l->has_exporter ? l->exporter : NULL, mac);
}

void lanes_opened(struct mesh *m, struct link *l)
{
    struct peer *p = l->peer;
    struct link *control = p->direct;
    struct meshmsg_lane *ask = &l->lane;
    if (!control || !control->dialer) {
        link_end(m, l, LINK_END_CLOSE, MESHMSG_BYE_STOP, "this lane is not wanted any more");
        return;
    }
    l->state = LINK_ASKED;
    l->key_id = control->key_id;
    memcpy(l->lane_secret, control->lane_secret, sizeof l->lane_secret);
    snprintf(ask->name, sizeof ask->name, "%s", m->peers[0]->name);
    snprintf(ask->to, sizeof ask->to, "%s", p->name);
    auth_link_id(l->lane_secret, ask->link);
    ask->number = ++control->lane_number[ask->index];
    ask->has_exporter = l->has_exporter;
    m->ops->random(m->ctx, ask->nonce, sizeof ask->nonce);
    mac_of(l, ask, NULL, ask->mac);
    meshmsg_lane(&m->out, ask);
    link_send(m, l);
}

/* ---- judging ---- */

/* The lane is proven: it is the peer's from now on, in place of what had its index. */
static void proven(struct mesh *m, struct link *l)
{
    struct peer *p = l->peer;
    struct lane *lane = &p->lane[l->lane.index];
    if (lane->asked == l)
        lane->asked = NULL;
    l->is_lane = true;
    sodium_memzero(l->lane_secret, sizeof l->lane_secret);
    l->state = LINK_LANE;
    l->deadline = NEVER;
    l->up_at = l->next_ping = m->now;
    m->count.lanes_opened++;
    retire(m, p, lane);
    lane->link = l;
    mesh_log(m, MESH_LOG_DEBUG, "lane up peer=%s lane=%u from=%s", p->name, l->lane.index, l->from);
    paths_tell_node(m, p);
}

static bool mac_is(const uint8_t a[static MESHMSG_MAC_LEN], const uint8_t b[static MESHMSG_MAC_LEN])
{
    return sodium_memcmp(a, b, MESHMSG_MAC_LEN) == 0;
}

static const char one_sided[] = "reason=\"one side of a lane sees TLS, the other does not\"";
static const char bad_proof[] =
    "reason=\"the proof of a lane is wrong\" fix=\"somebody stands between the two nodes, or forges lanes\"";

/* The acceptor's answer. */
static void on_answer(struct mesh *m, struct link *l, const struct meshmsg_lane *theirs)
{
    const struct meshmsg_lane *ask = &l->lane;
    uint8_t mac[MESHMSG_MAC_LEN];
    if (theirs->has_exporter != l->has_exporter) {
        handshake_refuse(m, l, REFUSE_EXPORTER, "%s", one_sided);
        return;
    }
    if (strcmp(theirs->name, ask->to) != 0 || strcmp(theirs->to, ask->name) != 0) {
        handshake_refuse(m, l, REFUSE_LANE_PEER, "reason=\"another node answered for a lane\"");
        return;
    }
    if (memcmp(theirs->link, ask->link, sizeof ask->link) != 0 || theirs->index != ask->index ||
        theirs->number != ask->number) {
        handshake_refuse(m, l, REFUSE_LANE, "reason=\"the answer is for another lane\"");
        return;
    }
    mac_of(l, ask, theirs->nonce, mac);
    if (!mac_is(mac, theirs->mac)) {
        handshake_refuse(m, l, REFUSE_LANE_AUTH, "%s", bad_proof);
        return;
    }
    m->ops->link_ready(m->ctx, l->id, l->peer->index);
    l->confirmed = true;
    proven(m, l);
    link_mark(m, l); /* the other side may send from now on */
}

static struct link *control_of(const struct mesh *m, const uint8_t id[static MESHMSG_LINK_ID_LEN])
{
    for (uint32_t i = 1; i < m->n_peers; i++) {
        struct link *l = m->peers[i]->direct;
        uint8_t own[MESHMSG_LINK_ID_LEN];
        if (!l || l->dialer)
            continue;
        auth_link_id(l->lane_secret, own);
        if (memcmp(own, id, sizeof own) == 0)
            return l;
    }
    return NULL;
}

/* Whether a lane may be what its dialer says, as far as that can be seen without the MAC.  NULL: refused. */
static struct link *ask_judge(struct mesh *m, struct link *l, const struct meshmsg_lane *ask)
{
    struct link *control = NULL;
    if (strcmp(ask->to, m->peers[0]->name) != 0) {
        handshake_refuse(m, l, REFUSE_LANE_PEER, "reason=\"a lane for another node\"");
        return NULL;
    }
    if (ask->index < MESH_LANES_MAX)
        control = control_of(m, ask->link);
    if (!control) {
        handshake_refuse(m, l, REFUSE_LANE, "reason=\"a lane of no link in use\"");
        return NULL;
    }
    if (strcmp(ask->name, control->peer->name) != 0) {
        handshake_refuse(m, l, REFUSE_LANE_PEER, "reason=\"a lane of another node's link\"");
        return NULL;
    }
    if (ask->has_exporter != l->has_exporter) {
        handshake_refuse(m, l, REFUSE_EXPORTER, "%s", one_sided);
        return NULL;
    }
    return control;
}

/* The dialer's LANE, the first message on a connection. */
static void on_ask(struct mesh *m, struct link *l, const struct meshmsg_lane *ask)
{
    struct meshmsg_lane answer = {.has_exporter = l->has_exporter};
    uint8_t mac[MESHMSG_MAC_LEN];
    struct link *control = ask_judge(m, l, ask);
    if (!control)
        return;
    memcpy(l->lane_secret, control->lane_secret, sizeof l->lane_secret);
    mac_of(l, ask, NULL, mac);
    if (!mac_is(mac, ask->mac)) {
        handshake_refuse(m, l, REFUSE_LANE_AUTH, "%s", bad_proof);
        return;
    }
    if (ask->number <= control->lane_number[ask->index]) {
        handshake_refuse(m, l, REFUSE_LANE_REPLAY, "reason=\"a LANE that was used before\"");
        return;
    }
    control->lane_number[ask->index] = ask->number;
    l->peer = control->peer;
    l->key_id = control->key_id;
    l->lane = *ask;
    snprintf(answer.name, sizeof answer.name, "%s", ask->to);
    snprintf(answer.to, sizeof answer.to, "%s", ask->name);
    memcpy(answer.link, ask->link, sizeof answer.link);
    answer.index = ask->index;
    answer.number = ask->number;
    m->ops->random(m->ctx, answer.nonce, sizeof answer.nonce);
    mac_of(l, ask, answer.nonce, answer.mac);
    m->ops->link_ready(m->ctx, l->id, l->peer->index); /* before our answer: data may come back at once */
    meshmsg_lane(&m->out, &answer);
    link_send(m, l);
    proven(m, l);
}

void lanes_input(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct meshmsg_lane lane;
    if (meshmsg_read_lane(in, &lane) != 0)
        handshake_refuse(m, l, REFUSE_LANE, "reason=\"malformed LANE\"");
    else if (l->state == LINK_ASKED)
        on_answer(m, l, &lane);
    else
        on_ask(m, l, &lane);
}

/* ---- the end ---- */

void lanes_ended(struct mesh *m, struct peer *p, const struct link *l, const char *why)
{
    struct lane *lane = &p->lane[l->lane.index];
    if (lane->asked == l) {
        lane->asked = NULL;
        failed(m, p, lane, why);
    } else if (lane->link == l) {
        lane->link = NULL;
        lane->attempts = m->now - l->up_at >= LINK_GOOD_MS ? 0 : lane->attempts + 1;
        mesh_log(m, p->direct ? MESH_LOG_INFO : MESH_LOG_DEBUG, "lane down peer=%s lane=%u why=\"%s\"",
                 p->name, l->lane.index, why);
        paths_tell_node(m, p);
        schedule(m, p);
    }
}

/* ---- dialling ---- */

struct peer *lanes_by_dial(const struct mesh *m, uint64_t dial, uint32_t *index)
{
    for (uint32_t i = 1; dial && i < m->n_peers; i++)
        for (*index = 0; *index < MESH_LANES_MAX; ++*index)
            if (m->peers[i]->lane[*index].dial == dial)
                return m->peers[i];
    return NULL;
}

void lanes_dial_failed(struct mesh *m, struct peer *p, uint32_t index, const char *why)
{
    p->lane[index].dial = 0;
    failed(m, p, &p->lane[index], why);
}

/* ---- what data takes ---- */

static void add(struct mesh_path *path, const struct link *l)
{
    if (path->n < MESH_LANES_MAX)
        path->link[path->n++] = l->id;
}

static void add_lanes(const struct peer *p, struct mesh_path *path, bool suspect)
{
    for (uint32_t i = 0; i < MESH_LANES_MAX; i++) {
        const struct link *l = p->lane[i].link;
        if (l && l->confirmed && l->suspect == suspect)
            add(path, l);
    }
}

/* Lanes that work; else the control link; else what is there. */
void lanes_fill(const struct mesh *m, const struct peer *p, struct mesh_path *path)
{
    const struct link *control = p->direct && p->direct->confirmed ? p->direct : NULL;
    path->n = 0;
    memset(path->link, 0, sizeof path->link);
    if (!p->direct) {
        if (p->derper_link)
            path->link[path->n++] = p->derper_link;
        return;
    }
    add_lanes(p, path, false);
    if (path->n == 0 && control && !control->suspect)
        add(path, control);
    if (path->n == 0)
        add_lanes(p, path, true);
    if (path->n == 0 && control)
        add(path, control);
    for (size_t i = 0; path->n == 0 && i < m->n_links;
         i++) /* the one before, until the new one is confirmed */
        if (m->links[i]->peer == p && m->links[i]->state == LINK_LAME && m->links[i]->confirmed &&
            !m->links[i]->is_tunnel)
            add(path, m->links[i]);
}

bool lanes_carry(const struct mesh *m, const struct peer *p)
{
    struct mesh_path path;
    if (p->direct && p->direct->confirmed)
        return true;
    lanes_fill(m, p, &path);
    return path.n > 0;
}

/* ---- time ---- */

void lanes_tick(struct mesh *m, struct peer *p)
{
    if (m->now >= p->lanes_until)
        lanes_close(m, p);
    for (uint32_t i = 0; i < MESH_LANES_MAX; i++) {
        struct lane *lane = &p->lane[i];
        if (m->now < lane->dial_at)
            continue;
        lane->dial_at = NEVER;
        lane->dial = ++m->last_dial;
        m->ops->dial(m->ctx, lane->dial, p->node, i + 1);
    }
}

uint64_t lanes_next(const struct peer *p)
{
    uint64_t next = p->lanes_until;
    for (uint32_t i = 0; i < MESH_LANES_MAX; i++)
        if (p->lane[i].dial_at < next)
            next = p->lane[i].dial_at;
    return next;
}
