/* What a node says at its start, and when SIGUSR1 asks.
 *
 * Happy path: a few lines that hold what an operator needs and whatever he must do.  Nothing fails. */
#include "node/server_parts.h"

#include <stdio.h>
#include <string.h>

#include "node/log.h"
#include "node/status.h"
#include "node/tcp_info.h"

static void log_certificate(const struct site *s)
{
    char until[STATUS_TIME];
    const struct tls_server *t = s->tls;
    if (!t) {
        log_info("serve", "certificate=none: a proxy in front ends TLS");
        return;
    }
    log_info("serve", "certificate=%s file=%s names=\"%s\" until=%s", t->made ? "made" : "file", t->file,
             t->names, status_time(until, t->not_after));
    cert_watch_log_sides(t);
}

static void log_congestion(const char *wanted)
{
    char in_force[TCP_CC_NAME];
    bool asked = wanted && *wanted, there = tcp_can_use(asked ? wanted : "bbr", in_force);
    if (asked && there)
        log_info("serve", "mesh congestion=%s", wanted);
    else if (asked)
        log_warn("serve",
                 "mesh congestion=%s: %s cannot be had, links that lose packets will be slow; on the host: "
                 "modprobe "
                 "tcp_%s, and add it to net.ipv4.tcp_allowed_congestion_control",
                 in_force, wanted, wanted);
    else
        log_info("serve", "mesh congestion=%s, the system's", in_force);
}

static void log_peers(const struct site *s)
{
    char names[400] = "";
    size_t at = 0;
    int n = 0;
    for (int i = 0; i < s->map->n_nodes; i++) {
        const struct derpmap_node *d = &s->map->nodes[i];
        if (d->backup || d == s->self)
            continue;
        n++;
        if (at + strlen(d->id) + 8 < sizeof(names))
            at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", at ? "," : "", d->id);
    }
    if (s->mesh_keys.n > 0) {
        log_info("serve", "mesh peers=%d%s%s", n, n ? " names=" : "", names);
        log_congestion(s->config->mesh_congestion);
    } else if (n > 0)
        log_warn("serve", "no mesh key: nothing is forwarded to the %d other nodes (%s); set mesh_key_file",
                 n, names);
}

static void log_admission(const struct control *c)
{
    struct control_admission a;
    char allow[400] = "";
    control_admission(c, &a);
    if (!a.on) {
        log_warn("serve", "%s", STATUS_OPEN);
        return;
    }
    if (a.allow_file)
        snprintf(allow, sizeof(allow), " allow=%s keys=%zu", a.allow_file, a.allow_keys);
    log_info("serve", "admission=%s%s%s%s%s%s%s", a.any ? "any" : "all", allow,
             a.url.on ? " verify_url=" : "", a.url.name, a.socket.on ? " verify_socket=" : "", a.socket.name,
             a.url.on && a.fail_open ? " verify_fail_open=true" : "");
}

void server_log_first(const struct server *sv)
{
    const struct site *s = sv->control.site;
    const struct listen_at *at = sv->plan.at;
    char key[KEY_TEXT_MAX];
    key_public_text(key, &s->node_key.pub);
    log_info("serve", "node=%s region=%d version=%s derp=%s http=%s stun=%s workers=%u", s->self->id,
             s->self->region_id, DERPMESH_VERSION, at[LISTEN_DERP].text, at[LISTEN_HTTP].text,
             at[LISTEN_STUN].text, sv->control.n_workers);
    log_certificate(s);
    log_info("serve", "public_key=%s", key);
    log_peers(s);
    log_info("serve", "admin=%s metrics=%s", sv->admin.server.on ? s->config->admin : "off",
             sv->metrics.text);
    log_admission(&sv->control);
}

void server_log_doubt(void *ctx, const char *sentence)
{
    (void)ctx;
    log_warn("serve", "%s", sentence);
}

static void say_problem(void *ctx, const char *sentence)
{
    (void)ctx;
    log_warn("status", "%s", sentence);
}

void server_log_status(const struct server *sv)
{
    const struct control *c = &sv->control;
    struct mesh_counters m = {0};
    uint32_t up = 0;
    struct mesh_peer_info p;
    for (uint32_t i = 0; c->mesh && i < mesh_n_nodes(c->mesh); i++)
        up += mesh_peer(c->mesh, i, &p) && p.state == MESH_PEER_UP;
    if (c->mesh)
        mesh_counters(c->mesh, &m);
    log_info("status", "up_s=%llu connections=%zu keys=%zu home=%zu login=%llu peers_up=%u remote_keys=%llu",
             (unsigned long long)(control_now() - c->started) / 1000, clients_connections(c->clients),
             clients_keys(c->clients), clients_homes(c->clients),
             (unsigned long long)control_stat(c, STAT_LOGIN_PENDING), up,
             (unsigned long long)m.n_remote_keys);
    log_info(
        "status",
        "packets_in=%llu packets_out=%llu forwarded_out=%llu forwarded_in=%llu bytes_in=%llu bytes_out=%llu",
        (unsigned long long)control_stat(c, STAT_PACKETS_IN),
        (unsigned long long)control_stat(c, STAT_PACKETS_OUT),
        (unsigned long long)control_stat(c, STAT_FORWARDED_OUT),
        (unsigned long long)control_stat(c, STAT_FORWARDED_IN),
        (unsigned long long)control_stat(c, STAT_BYTES_IN),
        (unsigned long long)control_stat(c, STAT_BYTES_OUT));
    status_problems(c, say_problem, NULL);
}
