/* Looks at control, registry, mesh and counters, and changes nothing.
 *
 * Happy path: one JSON object for `derpmesh status`, one for `where`, sentences for what is wrong.
 * Failure: a text that is no UTF-8 (from a peer) is left out; without memory the answer is NULL. */
#include "node/status.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

enum { PEER_DOWN_MS = 10000, WHERE_MAX = 32 };

const char *status_time(char buf[static STATUS_TIME], time_t t)
{
    struct tm tm;
    if (!gmtime_r(&t, &tm) || !strftime(buf, STATUS_TIME, "%Y-%m-%dT%H:%M:%SZ", &tm))
        buf[0] = 0;
    return buf;
}

const char *status_peer_state(enum mesh_peer_state s)
{
    static const char *const names[] = {
        [MESH_PEER_DOWN] = "down",     [MESH_PEER_DIALING] = "dialing", [MESH_PEER_AUTH] = "auth",
        [MESH_PEER_UP] = "up",         [MESH_PEER_SUSPECT] = "suspect", [MESH_PEER_SILENT] = "silent",
        [MESH_PEER_TUNNEL] = "tunnel", [MESH_PEER_REMOVED] = "removed"};
    return names[s];
}

json_t *status_error(const char *text)
{
    return json_pack("{s:s}", "error", text);
}

/* ---- what is wrong ---- */

struct problems {
    void (*say)(void *ctx, const char *sentence);
    void *ctx;
};

static void __attribute__((format(printf, 2, 3))) problem(const struct problems *p, const char *fmt, ...)
{
    char text[1280];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    p->say(p->ctx, text);
}

/* A derper of another region: none of our business. */
static bool is_stranger(const struct control *c, const struct mesh_peer_info *p)
{
    return p->state == MESH_PEER_REMOVED || (p->derper && p->region_id != c->site->self->region_id);
}

static const char *why_text(enum mesh_why why)
{
    static const char *const texts[] = {
        [MESH_WHY_NONE] = "no way to it is known",
        [MESH_WHY_DIRECT] = "direct link",
        [MESH_WHY_NO_LINK] = "no direct link",
        [MESH_WHY_SILENT] = "the direct link does not answer",
        [MESH_WHY_HELD] = "the direct link has just come back and may not last",
        [MESH_WHY_FASTER] = "clearly faster than the direct link",
    };
    return texts[why];
}

static json_t *node_name(const struct control *c, uint32_t node)
{
    struct mesh_peer_info p;
    return node != NODE_NONE && mesh_peer(c->mesh, node, &p) ? json_string(p.name) : json_null();
}

static void detour_problem(const struct control *c, const struct mesh_peer_info *peer,
                           const struct problems *p)
{
    struct mesh_peer_info via;
    if (peer->via != NODE_NONE && mesh_peer(c->mesh, peer->via, &via))
        problem(p, "packets for peer %s go over %s, %s%s%s", peer->name, via.name, why_text(peer->why),
                peer->last_error[0] ? ": " : "", peer->last_error);
}

static void peer_problems(const struct control *c, const struct problems *p)
{
    uint64_t now = control_now(), since;
    struct mesh_peer_info peer;
    for (uint32_t i = 0; c->mesh && i < mesh_n_nodes(c->mesh); i++) {
        if (!mesh_peer(c->mesh, i, &peer) || is_stranger(c, &peer))
            continue;
        bool linked = control_peer_linked(c, i, &since);
        if (!linked && now - since > PEER_DOWN_MS)
            problem(p, "no link to peer %s for %llu s: %s", peer.name,
                    (unsigned long long)(now - since) / 1000,
                    peer.last_error[0] ? peer.last_error : "it has not answered");
        if (linked && (peer.why == MESH_WHY_NO_LINK || peer.why == MESH_WHY_SILENT))
            detour_problem(c, &peer, p);
        else if (linked && peer.state == MESH_PEER_SILENT)
            problem(p, "the link to peer %s has fallen silent", peer.name);
        if (linked && peer.map_differs)
            problem(p, "peer %s has another map: give all nodes the same file and reload them", peer.name);
    }
}

static void expiry_problem(const struct tls_server *t, time_t now, const struct problems *p)
{
    char until[STATUS_TIME];
    double left = difftime(t->not_after, now);
    status_time(until, t->not_after);
    if (left < 0)
        problem(p, "the certificate %s has expired on %s: put a renewed one in its place", t->file, until);
    else if (tls_server_expiring(t, now))
        problem(p, "the certificate %s expires in %.0f %s (%s): renew it", t->file,
                left < 2 * 86400 ? left / 3600 : left / 86400, left < 2 * 86400 ? "hours" : "days", until);
}

void status_certificate_problems(const struct control *c, void (*say)(void *ctx, const char *sentence),
                                 void *ctx)
{
    const struct problems p = {say, ctx};
    const struct tls_server *t = c->site->tls;
    time_t now = time(NULL);
    if (!t)
        return;
    if (c->cert.text[0])
        problem(&p, "certificate files are not taken over, the one before goes on: %s", c->cert.text);
    if (c->acme[0])
        problem(&p, "no new certificate from the certificate authority, the one before goes on: %s", c->acme);
    expiry_problem(t, now, &p);
    for (size_t i = 0; i < t->n_sides; i++)
        expiry_problem(t->sides[i], now, &p);
    if (t->n_left_out == 1)
        problem(&p, "a certificate is left out: %s", t->left_out);
    else if (t->n_left_out > 1)
        problem(&p, "%zu certificates are left out, the first: %s", t->n_left_out, t->left_out);
}

bool status_certificate_fault(const struct control *c, enum tls_fault fault, time_t now)
{
    const struct tls_server *t = c->site->tls;
    if (!t)
        return false;
    if (fault == c->cert.fault && fault != TLS_FAULT_NONE)
        return true;
    switch (fault) {
    case TLS_FAULT_EXPIRED:
        return now > t->not_after;
    case TLS_FAULT_EXPIRING:
        return now <= t->not_after && tls_server_expiring(t, now);
    case TLS_FAULT_LEFT_OUT:
        return t->n_left_out > 0;
    default:
        return false;
    }
}

static int other_nodes(const struct site *s)
{
    int n = 0;
    for (int i = 0; i < s->map->n_nodes; i++)
        n +=
            !s->map->nodes[i].backup && &s->map->nodes[i] != s->self && !site_is_derper(s, &s->map->nodes[i]);
    return n;
}

/* Drops that say something about this node, not about clients that have left. */
static void drop_problems(const struct control *c, const struct problems *p)
{
    static const struct {
        enum stat_id which;
        const char *what;
    } drops[] = {
        {STAT_DROP_QUEUE_FULL, "receivers too slow for what is sent to them"},
        {STAT_DROP_QUEUE_OLD, "packets waited too long for slow receivers"},
        {STAT_DROP_BUDGET, "the memory for queues is used up"},
        {STAT_DROP_INBOX_FULL, "one worker cannot keep up with the others"},
        {STAT_DROP_NO_MEMORY, "out of memory"},
        {STAT_DROP_MESH_HOPS, "packets went in circles between nodes"},
        {STAT_DROP_MESH_TRANSIT, "packets of other nodes for one that cannot be reached from here"},
        {STAT_DROP_MESH_BAD, "malformed packets from a peer"},
        {STAT_REFUSED_LOGIN_LIMIT, "connections refused: too many before login"},
        {STAT_REFUSED_MAX_CLIENTS, "connections refused: max_clients is reached"},
        {STAT_REFUSED_MEMORY, "connections refused: memory is short"},
        {STAT_NO_DESCRIPTOR,
         "seconds without a free descriptor, new connections are closed: raise LimitNOFILE"},
    };
    for (size_t i = 0; i < sizeof(drops) / sizeof(drops[0]); i++) {
        uint64_t n = control_stat_recent(c, drops[i].which);
        if (n)
            problem(p, "%llu in the last minute: %s (%s)", (unsigned long long)n, drops[i].what,
                    stats_info(drops[i].which)->name);
    }
}

static void source_problem(const struct control_admission *a, const struct control_admit_source *s,
                           const struct problems *p)
{
    bool open = s == &a->url && a->fail_open;
    if (s->out)
        problem(p, "%s gives no usable answer for %llu s: %s; %s", s->name, (unsigned long long)s->out_s,
                s->error,
                a->any && a->allow_file ? "who is not in the allow file is refused"
                : open                  ? "clients are admitted while it cannot be reached"
                                        : "who was not admitted in the last two minutes is refused");
}

static void admission_problems(const struct control *c, const struct problems *p)
{
    struct control_admission a;
    control_admission(c, &a);
    if (!a.on)
        problem(p, "%s", STATUS_OPEN);
    source_problem(&a, &a.url, p);
    source_problem(&a, &a.socket, p);
    if (a.allow_file && a.allow_error[0])
        problem(p, "the allow file is not taken, the %zu keys of before stay: %s", a.allow_keys,
                a.allow_error);
}

const char *status_gate(const struct control *c)
{
    return c->draining ? "draining" : atomic_load(&c->limits->full) ? "full" : "open";
}

static void gate_problems(const struct control *c, const struct problems *p)
{
    if (c->draining)
        problem(p, "draining for %llu s: no new connections are taken; derpmesh undrain ends that",
                (unsigned long long)(control_now() - c->drain_since) / 1000);
    else if (atomic_load(&c->limits->full))
        problem(p, "full (max_clients is %u): no new connections are taken until a tenth has left",
                atomic_load(&c->limits->max_clients));
}

void status_problems(const struct control *c, void (*say)(void *ctx, const char *sentence), void *ctx)
{
    struct problems p = {say, ctx};
    gate_problems(c, &p);
    peer_problems(c, &p);
    status_certificate_problems(c, say, ctx);
    if (c->site->mesh_keys.n == 0 && other_nodes(c->site) > 0)
        problem(&p, "no mesh key: this node does not forward to the %d others of the map; set mesh_key_file",
                other_nodes(c->site));
    drop_problems(c, &p);
    admission_problems(c, &p);
}

/* ---- status ---- */

static void add_problem(void *ctx, const char *sentence)
{
    json_array_append_new(ctx, json_string(sentence));
}

static json_t *one_certificate_json(const struct tls_server *t)
{
    char until[STATUS_TIME], pin[80], names[sizeof(t->names)], *save = NULL;
    json_t *list = json_array();
    memcpy(names, t->names, sizeof(names));
    for (char *n = strtok_r(names, " ", &save); n; n = strtok_r(NULL, " ", &save))
        json_array_append_new(list, json_string(n));
    snprintf(pin, sizeof(pin), "sha256-raw:%s", t->pin);
    return json_pack("{s:s, s:s, s:o, s:s, s:s, s:b}", "kind", t->made ? "made" : "file", "file", t->file,
                     "names", list, "not_after", status_time(until, t->not_after), "pin", pin, "self_issued",
                     t->self_issued);
}

static json_t *certificate_json(const struct site *s)
{
    if (!s->tls)
        return json_pack("{s:s}", "kind", "off");
    json_t *o = one_certificate_json(s->tls), *others = json_array();
    for (size_t i = 0; i < s->tls->n_sides; i++)
        json_array_append_new(others, one_certificate_json(s->tls->sides[i]));
    json_object_set_new(o, "others", others);
    return o;
}

/* The way that data for the peer takes (nodes after this one), and why. */
static void add_path(const struct control *c, uint32_t node, const struct mesh_peer_info *p, json_t *o)
{
    json_t *path = json_array();
    if (p->via != NODE_NONE && p->via != node)
        json_array_append_new(path, node_name(c, p->via));
    if (p->via != NODE_NONE)
        json_array_append_new(path, json_string(p->name));
    json_object_set_new(o, "path", path);
    json_object_set_new(o, "why", json_string(why_text(p->why)));
    json_object_set_new(o, "cost_ms", json_integer(p->via == NODE_NONE ? -1 : (json_int_t)p->cost_ms));
}

static json_t *peers_json(const struct control *c)
{
    json_t *list = json_array();
    uint64_t now = control_now(), since;
    struct mesh_peer_info p;
    for (uint32_t i = 0; c->mesh && i < mesh_n_nodes(c->mesh); i++) {
        if (!mesh_peer(c->mesh, i, &p) || is_stranger(c, &p))
            continue;
        control_peer_linked(c, i, &since);
        json_t *o = json_pack("{s:s, s:i, s:s, s:f, s:I, s:b, s:b, s:b, s:I}", "name", p.name, "region",
                              p.region_id, "state", status_peer_state(p.state), "rtt_ms", p.rtt_ms, "keys",
                              (json_int_t)p.n_keys, "synced", p.synced, "map_differs", p.map_differs,
                              "dialed_by_us", p.dialed_by_us, "since_s", (json_int_t)((now - since) / 1000));
        json_object_set_new(o, "software", json_string(p.derper ? "derper" : p.software));
        json_object_set_new(o, "derper", json_boolean(p.derper));
        json_object_set_new(o, "lanes", json_integer(p.lanes));
        add_path(c, i, &p, o);
        json_object_set_new(o, "control", node_name(c, p.control_via)); /* itself: directly */
        json_object_set_new(o, "error", json_string(p.last_error));
        json_array_append_new(list, o);
    }
    return list;
}

#define MESH_COUNTER(member, gauge, help)                                                                    \
    {                                                                                                        \
#member, help, offsetof(struct mesh_counters, member), gauge                                         \
    }
static const struct {
    const char *name, *help;
    size_t offset;
    int gauge;
} mesh_table[] = {
    MESH_COUNTER(ann_sent, 0, "announcements sent"),
    MESH_COUNTER(ann_received, 0, "announcements received"),
    MESH_COUNTER(sync_sent, 0, "answers to questions for our keys: all, what has changed, or some buckets"),
    MESH_COUNTER(sync_changes_sent, 0, "of these: only what had changed"),
    MESH_COUNTER(sync_buckets_sent, 0, "of these: only buckets that differed"),
    MESH_COUNTER(sync_received, 0, "such answers received"),
    MESH_COUNTER(entries_sent, 0, "keys that came or left, told to peers"),
    MESH_COUNTER(entries_received, 0, "keys that came or left, told by peers"),
    MESH_COUNTER(resyncs_asked, 0, "gaps seen in what a peer tells"),
    MESH_COUNTER(held_back, 0, "changes of keys that flap, told later"),
    MESH_COUNTER(not_here_sent, 0, "times a node was told that a key is not here"),
    MESH_COUNTER(not_here_received, 0, "times a node said so"),
    MESH_COUNTER(not_here_disagreed, 0, "of these: though it had announced the key"),
    MESH_COUNTER(digests_good, 0, "a peer's keys added up to what it said"),
    MESH_COUNTER(digests_bad, 0, "a peer's keys did not add up, and were asked for anew"),
    MESH_COUNTER(refused_hello, 0, "links refused: greeting malformed or of another version"),
    MESH_COUNTER(refused_auth, 0, "links refused: the other side does not have the mesh key"),
    MESH_COUNTER(refused_unknown_peer, 0, "links refused: name not in the map"),
    MESH_COUNTER(refused_pin, 0, "links refused: another node key than before"),
    MESH_COUNTER(refused_version, 0, "links refused: no version of the protocol in common"),
    MESH_COUNTER(refused_replay, 0, "links refused: a greeting that was used before"),
    MESH_COUNTER(refused_reflection, 0, "links refused: to ourselves"),
    MESH_COUNTER(refused_name, 0, "links refused: another name than expected"),
    MESH_COUNTER(refused_key, 0, "links refused: no mesh key in common"),
    MESH_COUNTER(refused_exporter, 0, "links refused: one side sees TLS, the other does not"),
    MESH_COUNTER(refused_clone, 0, "links refused: another instance of the node is connected and alive"),
    MESH_COUNTER(refused_lane, 0, "lanes refused: malformed, or of no link in use"),
    MESH_COUNTER(refused_lane_peer, 0, "lanes refused: of or for another node"),
    MESH_COUNTER(refused_lane_replay, 0, "lanes refused: used before"),
    MESH_COUNTER(refused_lane_auth, 0, "lanes refused: the proof is wrong"),
    MESH_COUNTER(lanes_opened, 0, "lanes that have proven whose they are"),
    MESH_COUNTER(busy_sent, 0, "other nodes told that a client of theirs sends too much to one of ours"),
    MESH_COUNTER(busy_received, 0, "the same told to us"),
    MESH_COUNTER(bad_message, 0, "malformed control messages"),
    MESH_COUNTER(unknown_message, 0, "control messages of a later version, passed over"),
    MESH_COUNTER(links_opened, 0, "links that have proven the mesh key"),
    MESH_COUNTER(links_closed, 0, "links closed"),
    MESH_COUNTER(control_bytes_sent, 0, "bytes of control messages sent"),
    MESH_COUNTER(control_bytes_received, 0, "bytes of control messages received"),
    MESH_COUNTER(tunnels_opened, 0, "tunnels opened to nodes that control did not reach otherwise"),
    MESH_COUNTER(tunnelled, 0, "messages of tunnels between other nodes passed on"),
    MESH_COUNTER(tunnel_refused, 0, "messages of tunnels refused"),
    MESH_COUNTER(tunnel_bad, 0, "messages in tunnels that were changed, lost or repeated"),
    MESH_COUNTER(suspects, 0, "times that a link gave no answer"),
    MESH_COUNTER(path_changes, 0, "ways to a node changed for another"),
    MESH_COUNTER(unreach_sent, 0, "times a neighbour was told that a node cannot be reached over this one"),
    MESH_COUNTER(unreach_received, 0, "times a neighbour said so"),
    MESH_COUNTER(gleaned, 0, "locations learned from data frames"),
    MESH_COUNTER(gone, 0, "keys that have left for certain"),
    MESH_COUNTER(n_remote_keys, 1, "keys known at other nodes"),
    MESH_COUNTER(bytes, 1, "memory of the tables of keys"),
};

void status_mesh_counters(const struct control *c,
                          void (*out)(void *ctx, const char *name, const char *help, int gauge, uint64_t v),
                          void *ctx)
{
    struct mesh_counters m = {0};
    if (c->mesh)
        mesh_counters(c->mesh, &m);
    for (size_t i = 0; i < sizeof(mesh_table) / sizeof(mesh_table[0]); i++) {
        char name[64];
        uint64_t v;
        memcpy(&v, (const char *)&m + mesh_table[i].offset, sizeof(v));
        snprintf(name, sizeof(name), "mesh_%s", mesh_table[i].name);
        out(ctx, name, mesh_table[i].help, mesh_table[i].gauge, v);
    }
}

static void add_counter(void *ctx, const char *name, const char *help, int gauge, uint64_t v)
{
    (void)help;
    (void)gauge;
    json_object_set_new(ctx, name, json_integer((json_int_t)v));
}

static json_t *traffic_json(const struct control *c)
{
    json_t *o = json_object();
    for (int i = 0; i < STAT_N; i++)
        add_counter(o, stats_info((enum stat_id)i)->name, NULL, 0, control_stat(c, (enum stat_id)i));
    status_mesh_counters(c, add_counter, o);
    return o;
}

static json_t *mesh_json(const struct control *c)
{
    struct mesh_counters m = {0};
    if (c->mesh)
        mesh_counters(c->mesh, &m);
    return json_pack("{s:b, s:I, s:o}", "enabled", c->site->mesh_keys.n > 0 || c->site->config->derper_peers,
                     "remote_keys", (json_int_t)m.n_remote_keys, "peers", peers_json(c));
}

static json_t *map_json(const struct site *s)
{
    char hash[65];
    int nodes = 0;
    for (int i = 0; i < s->map->n_nodes; i++)
        nodes += !s->map->nodes[i].backup;
    sodium_bin2hex(hash, sizeof(hash), s->map->hash, sizeof(s->map->hash));
    return json_pack("{s:s, s:s, s:i, s:i}", "file",
                     s->config->map_file ? s->config->map_file : "made of derper's flags", "hash", hash,
                     "regions", s->map->n_regions, "nodes", nodes);
}

static json_t *source_json(const struct control_admit_source *s, const char *name)
{
    if (!s->on)
        return json_null();
    return json_pack("{s:s, s:b, s:I, s:s}", name, s->name, "out", s->out, "out_s", (json_int_t)s->out_s,
                     "error", s->out ? s->error : "");
}

static json_t *admission_json(const struct control *c)
{
    struct control_admission a;
    char loaded[STATUS_TIME];
    control_admission(c, &a);
    json_t *allow = json_null();
    if (a.allow_file)
        allow = json_pack("{s:s, s:I, s:s, s:s}", "file", a.allow_file, "keys", (json_int_t)a.allow_keys,
                          "loaded", status_time(loaded, a.allow_loaded), "error", a.allow_error);
    return json_pack("{s:o, s:o, s:o, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I}", "allow", allow, "verify_url",
                     source_json(&a.url, "url"), "verify_socket", source_json(&a.socket, "path"), "mode",
                     a.any ? "any" : "all", "fail_open", a.fail_open, "asked", (json_int_t)a.counts.asked,
                     "admitted", (json_int_t)a.counts.admitted, "refused", (json_int_t)a.counts.refused,
                     "closed", (json_int_t)a.counts.closed, "questions", (json_int_t)a.counts.questions,
                     "outages", (json_int_t)a.counts.outages);
}

json_t *status_json(const struct control *c)
{
    const struct site *s = c->site;
    const struct listen_at *at = c->plan->at;
    char key[KEY_TEXT_MAX];
    json_t *problems = json_array();
    status_problems(c, add_problem, problems);
    key_public_text(key, &s->node_key.pub);
    json_t *clients =
        json_pack("{s:I, s:I, s:I, s:I}", "connections", (json_int_t)clients_connections(c->clients), "keys",
                  (json_int_t)clients_keys(c->clients), "home", (json_int_t)clients_homes(c->clients),
                  "login", (json_int_t)control_stat(c, STAT_LOGIN_PENDING));
    return json_pack(
        "{s:s, s:s, s:i, s:I, s:s, s:b, s:s, s:{s:s, s:s, s:s}, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "node",
        s->self->id, "version", DERPMESH_VERSION, "region", s->self->region_id, "uptime_s",
        (json_int_t)((control_now() - c->started) / 1000), "public_key", key, "open_to_anyone",
        !config_admission(s->config), "gate", status_gate(c), "listen", "derp", at[LISTEN_DERP].text, "http",
        at[LISTEN_HTTP].text, "stun", at[LISTEN_STUN].text, "certificate", certificate_json(s), "map",
        map_json(s), "clients", clients, "admission", admission_json(c), "mesh", mesh_json(c), "traffic",
        traffic_json(c), "problems", problems);
}

/* ---- where ---- */

static json_t *remote_json(const struct control *c, const struct mesh_location *l)
{
    struct mesh_peer_info p;
    if (l->node == NODE_NONE || !mesh_peer(c->mesh, l->node, &p))
        return NULL;
    json_t *o = json_pack("{s:s, s:b, s:b, s:b, s:b, s:f}", "node", p.name, "local", 0, "home", l->home,
                          "gleaned", l->gleaned, "derper", l->derper || p.derper, "rtt_ms", p.rtt_ms);
    add_path(c, l->node, &p, o);
    return o;
}

json_t *status_where(const struct control *c, const char *key)
{
    struct derp_key k;
    struct clients_info here;
    struct mesh_location at[WHERE_MAX];
    if (!key || key_public_parse(&k, key, strlen(key)) != 0)
        return status_error("a key is written nodekey: and 64 hex digits");
    json_t *list = json_array();
    if (clients_get(c->clients, &k, &here))
        json_array_append_new(list,
                              json_pack("{s:s, s:b, s:b, s:i, s:I, s:f}", "node", c->site->self->id, "local",
                                        1, "home", here.home > 0, "worker", (int)here.active.worker,
                                        "connections", (json_int_t)here.connections, "rtt_ms", 0.0));
    size_t n = c->mesh ? mesh_where(c->mesh, &k, at, WHERE_MAX) : 0;
    for (size_t i = 0; i < n && i < WHERE_MAX; i++) {
        json_t *o = remote_json(c, &at[i]);
        if (o)
            json_array_append_new(list, o);
    }
    return json_pack("{s:s, s:o}", "key", key, "locations", list);
}
