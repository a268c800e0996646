/* HELLO and AUTH; lanes.c has LANE.
 *
 * Happy path, dialer: HELLO → (their HELLO) → AUTH → (their AUTH) → link_proven.
 * Acceptor: (their HELLO) → HELLO → (their AUTH) → AUTH → link_proven.
 * How it fails: handshake_refuse counts the reason, logs one line that says what to do and closes; nothing is
 * answered.  Each link has MESH_AUTH_TIMEOUT_MS for all of it (link_tick). */
#include "mesh/handshake.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "mesh/lanes.h"
#include "mesh/link.h"
#include "mesh/reauth.h"
#include "mesh/tunnel.h"

enum { REFUSAL_LOG_MS = 5000 };

static uint64_t *refusal_counter(struct mesh *m, enum refusal why)
{
    struct mesh_counters *c = &m->count;
    uint64_t *const by[N_REFUSALS] = {
        [REFUSE_HELLO] = &c->refused_hello,
        [REFUSE_AUTH] = &c->refused_auth,
        [REFUSE_PEER] = &c->refused_unknown_peer,
        [REFUSE_PIN] = &c->refused_pin,
        [REFUSE_VERSION] = &c->refused_version,
        [REFUSE_REPLAY] = &c->refused_replay,
        [REFUSE_REFLECTION] = &c->refused_reflection,
        [REFUSE_NAME] = &c->refused_name,
        [REFUSE_KEY] = &c->refused_key,
        [REFUSE_EXPORTER] = &c->refused_exporter,
        [REFUSE_CLONE] = &c->refused_clone,
        [REFUSE_LANE] = &c->refused_lane,
        [REFUSE_LANE_PEER] = &c->refused_lane_peer,
        [REFUSE_LANE_REPLAY] = &c->refused_lane_replay,
        [REFUSE_LANE_AUTH] = &c->refused_lane_auth,
    };
    return by[why];
}

void handshake_refuse(struct mesh *m, struct link *l, enum refusal why, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    ++*refusal_counter(m, why);
    uint64_t *last = &m->refusal_logged[why], *held = &m->refusal_held[why];
    if (*last == 0 || m->now - *last >= REFUSAL_LOG_MS) {
        char more[40] = "";
        if (*held)
            snprintf(more, sizeof more, " held=%llu", (unsigned long long)*held);
        mesh_log(m, why == REFUSE_CLONE || why == REFUSE_PIN ? MESH_LOG_ERROR : MESH_LOG_WARN,
                 "link refused %s=%s from=%s %s%s", l->dialer ? "dialed" : "peer",
                 l->peer ? l->peer->name : "?", l->from, text, more);
        *last = m->now ? m->now : 1;
        *held = 0;
    } else {
        ++*held;
    }
    if (l->peer && !l->peer->link)
        peer_error(l->peer, "%s", text);
    link_end(m, l, LINK_END_CLOSE, MESHMSG_BYE_STOP, text);
}

/* ---- saying HELLO and AUTH ---- */

static void hello_send(struct mesh *m, struct link *l, const char *to)
{
    struct meshmsg_hello h = {.version_min = MESH_VERSION_MIN,
                              .version_max = MESH_VERSION_MAX,
                              .region = (uint32_t)m->self->region_id,
                              .key = m->node_key.pub,
                              .boot = m->boot,
                              .n_key_ids = (uint32_t)m->keys.n,
                              .has_exporter = l->has_exporter,
                              .max_payload = MESHMSG_MAX,
                              .max_keys = PEER_KEYS_MAX};
    uint8_t secret[KEY_LEN];
    snprintf(h.software, sizeof h.software, "%s", m->software);
    snprintf(h.name, sizeof h.name, "%s", m->peers[0]->name);
    snprintf(h.to, sizeof h.to, "%s", to);
    memcpy(h.instance, m->instance, sizeof h.instance);
    m->ops->random(m->ctx, h.nonce, sizeof h.nonce);
    m->ops->random(m->ctx, secret, sizeof secret);
    memcpy(h.key_id, m->key_id, sizeof h.key_id);
    memcpy(h.map_hash, m->map->hash, sizeof h.map_hash);
    memcpy(l->map_told, h.map_hash, sizeof l->map_told);
    auth_ephemeral(&l->auth, secret, &h.ephemeral);
    sodium_memzero(secret, sizeof secret);
    meshmsg_hello(&m->out, &h);
    link_send(m, l);
    /* As it has left. */
    auth_mix_hello(&l->auth, m->out.b + FRAME_HEADER_LEN, m->out.n - FRAME_HEADER_LEN);
}

void handshake_start(struct mesh *m, struct link *l)
{
    if (m->keys.n == 0) {
        handshake_refuse(m, l, REFUSE_KEY, "reason=\"this node has no mesh key\" fix=\"set mesh_key_file\"");
        return;
    }
    if (!l->has_exporter && !m->accept_no_exporter) {
        handshake_refuse(
            m, l, REFUSE_EXPORTER,
            "reason=\"the connection has no TLS of its own\" fix=\"only where a proxy ends TLS and this "
            "node's settings say so\"");
        return;
    }
    if (l->is_lane)
        lanes_opened(m, l);
    else if (l->dialer)
        hello_send(m, l, l->peer->name);
}

/* The MAC's input, once the mesh key is chosen.  -1: a key of low order. */
static int derive(struct mesh *m, struct link *l, const uint8_t *mesh_key)
{
    const char *me = m->peers[0]->name;
    struct auth_input in = {.dialer = l->dialer,
                            .mesh_key = mesh_key,
                            .node_secret = m->node_key.secret,
                            .node = &l->theirs.key,
                            .ephemeral = &l->theirs.ephemeral,
                            .dialled = l->dialer ? l->peer->name : me,
                            .found = l->dialer ? l->theirs.name : me,
                            .exporter = l->has_exporter ? l->exporter : NULL};
    return auth_derive(&l->auth, &in);
}

static void auth_send(struct mesh *m, struct link *l)
{
    uint8_t mac[MESHMSG_MAC_LEN];
    auth_mac(&l->auth, l->dialer, mac);
    meshmsg_auth(&m->out, &l->key_id, mac);
    link_send(m, l);
}

/* ---- judging a HELLO ---- */

/* True the first time that a nonce is seen (of the last REPLAY_RING). */
static bool nonce_is_new(struct mesh *m, const uint8_t nonce[static MESHMSG_NONCE_LEN])
{
    uint64_t v;
    memcpy(&v, nonce, sizeof v);
    for (unsigned i = 0; i < REPLAY_RING; i++)
        if (m->seen_nonce[i] == v)
            return false;
    m->seen_nonce[m->seen_next] = v;
    m->seen_next = (m->seen_next + 1) % REPLAY_RING;
    return true;
}

/* Names: is it who we dialled, does it mean us, do we know it?  False: refused, the link is gone. */
static bool hello_names(struct mesh *m, struct link *l)
{
    const struct meshmsg_hello *h = &l->theirs;
    char name[MESHMSG_NAME_MAX], to[MESHMSG_NAME_MAX];
    mesh_printable(name, sizeof name, h->name);
    mesh_printable(to, sizeof to, h->to);
    if (l->dialer && strcmp(h->name, l->peer->name) != 0) {
        handshake_refuse(
            m, l, REFUSE_NAME,
            "reason=\"another node answered\" found=\"%s\" fix=\"HostName, IPv4, IPv6 and DERPPort of %s "
            "in the map have to lead to %s\"",
            name, l->peer->name, l->peer->name);
        return false;
    }
    if (strcmp(h->to, m->peers[0]->name) != 0) {
        handshake_refuse(
            m, l, REFUSE_NAME,
            "reason=\"it meant to reach another node\" name=\"%s\" to=\"%s\" fix=\"address of %s in its "
            "map\"",
            name, to, to);
        return false;
    }
    struct peer *p = l->dialer ? l->peer : peer_by_name(m, h->name);
    if (p && p->self) {
        handshake_refuse(
            m, l, REFUSE_NAME,
            "reason=\"another node uses our name\" name=\"%s\" fix=\"give each node its own node "
            "setting\"",
            name);
        return false;
    }
    if (!p || !p->node) {
        handshake_refuse(
            m, l, REFUSE_PEER,
            "reason=\"not in my map\" name=\"%s\" region=%u fix=\"add a node with Name %s to this "
            "node's map and reload\"",
            name, h->region, name);
        return false;
    }
    if (l->is_tunnel && p->index != l->tunnel.other) {
        handshake_refuse(m, l, REFUSE_NAME, "reason=\"a tunnel in another node's name\" name=\"%s\"", name);
        return false;
    }
    l->peer = p;
    return true;
}

static bool hello_judge(struct mesh *m, struct link *l)
{
    const struct meshmsg_hello *h = &l->theirs;
    if (memcmp(h->instance, m->instance, sizeof m->instance) == 0) {
        handshake_refuse(
            m, l, REFUSE_REFLECTION,
            "reason=\"this is ourselves\" fix=\"two entries of the map lead to this node, or somebody "
            "reflects what we send\"");
        return false;
    }
    if (!nonce_is_new(m, h->nonce)) {
        handshake_refuse(m, l, REFUSE_REPLAY,
                         "reason=\"a HELLO that was used before\" fix=\"somebody replays it\"");
        return false;
    }
    if (!hello_names(m, l))
        return false;
    if (key_equal(&h->key, &m->node_key.pub)) {
        handshake_refuse(
            m, l, REFUSE_PIN,
            "reason=\"it has the node key of this node\" fix=\"a copied state directory: remove node.key "
            "on one of the two\"");
        return false;
    }
    if (h->has_exporter != l->has_exporter) {
        handshake_refuse(
            m, l, REFUSE_EXPORTER,
            "reason=\"one side sees TLS, the other does not\" fix=\"where a proxy ends TLS in front "
            "of it, the dialing side has to know: mesh_proxied: %s\"",
            l->dialer ? l->peer->name : m->peers[0]->name);
        return false;
    }
    return true;
}

/* Dialer: the first of our keys that the other side takes.  Index, or -1. */
static int key_choose(const struct mesh *m, const struct meshmsg_hello *h)
{
    for (int i = 0; i < m->keys.n; i++)
        for (uint32_t j = 0; j < h->n_key_ids; j++)
            if (memcmp(&m->key_id[i], &h->key_id[j], sizeof m->key_id[i]) == 0)
                return i;
    return -1;
}

static void refuse_key(struct mesh *m, struct link *l)
{
    handshake_refuse(
        m, l, REFUSE_KEY,
        "reason=\"no mesh key in common\" fix=\"the same line in mesh_key_file of %s and of this node\"",
        l->peer->name);
}

static void on_hello(struct mesh *m, struct link *l, const struct meshmsg_in *in, const uint8_t *payload,
                     size_t len)
{
    uint32_t min, max;
    if (meshmsg_read_versions(in, &min, &max) != 0) {
        handshake_refuse(m, l, REFUSE_HELLO, "reason=\"malformed HELLO\"");
        return;
    }
    bool overlap = min <= MESH_VERSION_MAX && max >= MESH_VERSION_MIN;
    if (overlap && meshmsg_read_hello(in, &l->theirs) != 0) {
        handshake_refuse(m, l, REFUSE_HELLO, "reason=\"malformed HELLO\"");
        return;
    }
    if (!overlap) {
        /* Ours tells the other side why. */
        if (!l->dialer)
            hello_send(m, l, "");
        handshake_refuse(
            m, l, REFUSE_VERSION,
            "reason=\"no protocol version in common\" theirs=%u-%u ours=%u-%u fix=\"upgrade the older "
            "node\"",
            min, max, (unsigned)MESH_VERSION_MIN, (unsigned)MESH_VERSION_MAX);
        return;
    }
    if (!hello_judge(m, l))
        return;
    auth_mix_hello(&l->auth, payload, len);
    l->state = LINK_AUTH;
    if (!l->dialer) {
        hello_send(m, l, l->theirs.name);
        return;
    }
    int k = key_choose(m, &l->theirs);
    if (k < 0) {
        refuse_key(m, l);
        return;
    }
    l->key_id = m->key_id[k];
    if (derive(m, l, m->keys.key[k]) != 0) {
        handshake_refuse(m, l, REFUSE_AUTH, "reason=\"a key of low order\"");
        return;
    }
    auth_send(m, l);
}

/* ---- judging an AUTH ---- */

/* The node key of a proven peer against the pin.  False: refused. */
static bool pin_check(struct mesh *m, struct link *l)
{
    bool given;
    const struct derp_key *pin = pin_find(m, l->peer->name, &given), *key = &l->theirs.key;
    char found[KEY_TEXT_MAX], pinned[KEY_TEXT_MAX];
    if (pin && key_equal(pin, key))
        return true;
    key_public_text(found, key);
    if (pin) {
        key_public_text(pinned, pin);
        handshake_refuse(
            m, l, REFUSE_PIN,
            "reason=\"it proved another node key than the pinned one\" pinned=%s found=%s fix=\"if %s "
            "was set up anew, %s; else somebody holds the mesh key\"",
            pinned, found, l->peer->name,
            given ? "change its line in the file of mesh_pins and reload"
                  : "put its new key into the file of mesh_pins and reload");
        return false;
    }
    if (pin_add(m, l->peer->name, key) == 0) {
        mesh_log(m, MESH_LOG_INFO, "node key is trusted from now on peer=%s key=%s", l->peer->name, found);
        m->ops->pin(m->ctx, l->peer->name, key);
    }
    return true;
}

static void on_auth(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct mesh_key_id id;
    uint8_t mac[MESHMSG_MAC_LEN], expected[MESHMSG_MAC_LEN];
    if (meshmsg_read_auth(in, &id, mac) != 0) {
        handshake_refuse(m, l, REFUSE_HELLO, "reason=\"malformed AUTH\"");
        return;
    }
    if (!l->dialer) {
        int k = mesh_key_find(m, &id);
        if (k < 0) {
            refuse_key(m, l);
            return;
        }
        l->key_id = id;
        if (derive(m, l, m->keys.key[k]) != 0) {
            handshake_refuse(m, l, REFUSE_AUTH, "reason=\"a key of low order\"");
            return;
        }
    }
    auth_mac(&l->auth, !l->dialer, expected);
    int differs = sodium_memcmp(mac, expected, sizeof mac);
    sodium_memzero(expected, sizeof expected);
    if (differs || memcmp(&id, &l->key_id, sizeof id) != 0) {
        handshake_refuse(
            m, l, REFUSE_AUTH,
            "reason=\"the proof is wrong\" fix=\"somebody stands between the two nodes, or claims a "
            "name or key that is not its own\"");
        return;
    }
    if (!pin_check(m, l))
        return;
    if (!l->is_tunnel)
        m->ops->link_ready(m->ctx, l->id, l->peer->index); /* before our AUTH: data may come back at once */
    if (!l->dialer)
        auth_send(m, l);
    if (l->is_tunnel)
        tunnel_seal(l);
    auth_secret(&l->auth, "derpmesh/1 lanes", l->lane_secret);
    reauth_start(m, l);
    auth_wipe(&l->auth);
    link_proven(m, l);
}

void handshake_input(struct mesh *m, struct link *l, const uint8_t *payload, size_t len)
{
    struct meshmsg_in in;
    uint32_t type;
    if (len > MESHMSG_BEFORE_AUTH_MAX) {
        handshake_refuse(m, l, REFUSE_HELLO, "reason=\"a message of %zu bytes before AUTH\"", len);
        return;
    }
    if (meshmsg_open(&in, &type, payload, len) != 0) {
        handshake_refuse(m, l, REFUSE_HELLO, "reason=\"malformed message before AUTH\"");
        return;
    }
    if (l->state == LINK_HELLO && type == MESHMSG_HELLO)
        on_hello(m, l, &in, payload, len);
    else if (l->state == LINK_AUTH && type == MESHMSG_AUTH)
        on_auth(m, l, &in);
    else if (type == MESHMSG_LANE && (l->state == LINK_ASKED || (l->state == LINK_HELLO && !l->dialer)))
        lanes_input(m, l, &in);
    else
        handshake_refuse(m, l, REFUSE_HELLO, "reason=\"message %u out of turn before AUTH\"", type);
}
