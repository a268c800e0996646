/* See metrics.h.
 *
 * Happy path: a request head, one of two texts, close.  Failure: 400, 404, 405; slow askers are closed by
 * oneshot.c. */
#include "node/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/status.h"
#include "proto/http1.h"

static void put_head(FILE *f, const char *name, const char *help, int gauge)
{
    fprintf(f, "# HELP derpmesh_%s %s\n# TYPE derpmesh_%s %s\n", name, help, name,
            gauge ? "gauge" : "counter");
}

static void put_value(void *ctx, const char *name, const char *help, int gauge, uint64_t v)
{
    char full[96];
    snprintf(full, sizeof(full), "%s%s", name, gauge ? "" : "_total");
    put_head(ctx, full, help, gauge);
    /* A gauge is kept by additions and subtractions: read in between, it may be below zero for a moment. */
    if (gauge && v > INT64_MAX)
        v = 0;
    fprintf(ctx, "derpmesh_%s %llu\n", full, (unsigned long long)v);
}

/* A label's value: quotes, backslashes and line ends escaped. */
static void put_label(FILE *f, const char *text)
{
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            fputc('\\', f);
        if (*text == '\n')
            fputs("\\n", f);
        else
            fputc(*text, f);
    }
}

enum peer_value { PEER_UP, PEER_RTT, PEER_KEYS };

static void put_peers(FILE *f, const struct control *c, enum peer_value which, const char *name,
                      const char *help)
{
    struct mesh_peer_info p;
    put_head(f, name, help, 1);
    for (uint32_t i = 0; c->mesh && i < mesh_n_nodes(c->mesh); i++) {
        if (!mesh_peer(c->mesh, i, &p) || p.state == MESH_PEER_REMOVED || (which == PEER_RTT && p.rtt_ms < 0))
            continue;
        fprintf(f, "derpmesh_%s{peer=\"", name);
        put_label(f, p.name);
        if (which == PEER_UP)
            fprintf(f, "\"} %d\n", p.state == MESH_PEER_UP);
        else if (which == PEER_RTT)
            fprintf(f, "\"} %.6f\n", p.rtt_ms / 1000);
        else
            fprintf(f, "\"} %u\n", p.n_keys);
    }
}

char *metrics_text(const struct control *c, size_t *len)
{
    char *text = NULL;
    size_t rss = 0;
    FILE *f = open_memstream(&text, len);
    if (!f)
        return NULL;
    put_head(f, "build_info", "the program that runs", 1);
    fprintf(f, "derpmesh_build_info{version=\"%s\",libuv=\"%s\"} 1\n", DERPMESH_VERSION, uv_version_string());
    put_value(f, "uptime_seconds", "seconds since the start", 1, (control_now() - c->started) / 1000);
    if (uv_resident_set_memory(&rss) == 0)
        put_value(f, "resident_bytes", "resident memory of the process", 1, rss);
    put_value(f, "workers", "threads that carry connections", 1, c->n_workers);
    put_value(f, "client_keys", "different keys of connected clients", 1, clients_keys(c->clients));
    put_value(f, "client_keys_home", "of these, with this node as home", 1, clients_homes(c->clients));
    if (c->site->tls) {
        put_head(f, "certificate_expiry_seconds", "when the certificate expires, in Unix time", 1);
        fprintf(f, "derpmesh_certificate_expiry_seconds %lld\n", (long long)c->site->tls->not_after);
        put_head(f, "certificate_fault",
                 "1 if the certificate, or a file that should replace it, has this fault", 1);
        for (int i = TLS_FAULT_NONE + 1; i < TLS_FAULTS; i++)
            fprintf(f, "derpmesh_certificate_fault{kind=\"%s\"} %d\n", tls_fault_name((enum tls_fault)i),
                    status_certificate_fault(c, (enum tls_fault)i, time(NULL)));
    }
    if (c->site->config->tls == TLS_ACME)
        put_value(f, "acme_failed", "1 if the certificate authority gave no certificate that is due", 1,
                  c->acme[0] != 0);
    for (int i = 0; i < STAT_N; i++) {
        const struct stat_info *info = stats_info((enum stat_id)i);
        put_value(f, info->name, info->help, info->gauge, control_stat(c, (enum stat_id)i));
    }
    status_mesh_counters(c, put_value, f);
    put_peers(f, c, PEER_UP, "mesh_peer_up", "1 if there is a link to the peer that answers");
    put_peers(f, c, PEER_RTT, "mesh_peer_rtt_seconds", "least round trip of late");
    put_peers(f, c, PEER_KEYS, "mesh_peer_keys", "client keys announced by the peer");
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

static void put_problem(void *ctx, const char *sentence)
{
    fprintf(ctx, "! %s\n", sentence);
}

static char *page_text(const struct control *c, size_t *len)
{
    char *text = NULL;
    struct mesh_peer_info p;
    FILE *f = open_memstream(&text, len);
    if (!f)
        return NULL;
    fprintf(f, "derpmesh %s, node %s\n\n", DERPMESH_VERSION, c->site->self->id);
    status_problems(c, put_problem, f);
    fprintf(f, "\nclients: %zu connections, %zu keys\n", clients_connections(c->clients),
            clients_keys(c->clients));
    for (uint32_t i = 0; c->mesh && i < mesh_n_nodes(c->mesh); i++)
        if (mesh_peer(c->mesh, i, &p) && p.state != MESH_PEER_REMOVED)
            fprintf(f, "peer %s: %s, %u keys\n", p.name, status_peer_state(p.state), p.n_keys);
    fprintf(f, "\n/metrics has the counters, /debug/varz those of derper by its names.\n");
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

/* Takes body, which may be NULL (no memory). */
static void reply(struct oneshot_conn *conn, const char *status, const char *type, char *body, size_t len,
                  bool head)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = body ? open_memstream(&text, &n) : NULL;
    if (f) {
        fprintf(f, "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
                status, type, len);
        if (!head)
            fwrite(body, 1, len, f);
        if (fclose(f) != 0) {
            free(text);
            text = NULL;
        }
    }
    free(body);
    oneshot_answer(conn, text, n);
}

static void refuse(struct oneshot_conn *conn, const char *status)
{
    char *body = NULL;
    int n = asprintf(&body, "%s\n", status);
    reply(conn, status, "text/plain; charset=utf-8", n < 0 ? NULL : body, n < 0 ? 0 : (size_t)n, false);
}

static int on_request(void *ctx, struct oneshot_conn *conn, const char *buf, size_t n)
{
    struct metrics *m = ctx;
    struct http1_head h;
    size_t len = 0;
    int rc = http1_parse_request(&h, buf, n);
    if (rc == 0)
        return 0;
    bool head = rc > 0 && http1_is(h.method, "HEAD");
    if (rc < 0) {
        refuse(conn, "400 Bad Request");
    } else if (!head && !http1_is(h.method, "GET")) {
        refuse(conn, "405 Method Not Allowed");
    } else if (http1_is(h.path, "/metrics")) {
        char *body = metrics_text(m->control, &len);
        reply(conn, "200 OK", "text/plain; version=0.0.4; charset=utf-8", body, len, head);
    } else if (http1_is(h.path, "/debug/varz") && m->control->varz) {
        struct mesh_counters mc = {0};
        if (m->control->mesh)
            mesh_counters(m->control->mesh, &mc);
        atomic_store(&m->control->varz->remote_keys, mc.n_remote_keys);
        char *body = varz_text(m->control->varz, &len);
        reply(conn, "200 OK", "text/plain; charset=utf-8", body, len, head);
    } else if (http1_is(h.path, "/")) {
        char *body = page_text(m->control, &len);
        reply(conn, "200 OK", "text/plain; charset=utf-8", body, len, head);
    } else {
        refuse(conn, "404 Not Found");
    }
    return 1;
}

int metrics_start(struct metrics *m, struct control *c, const struct config_listen *at, char *err,
                  size_t err_len)
{
    static const struct oneshot_ops ops = {.max_request = HTTP1_HEAD_MAX + 1, .request = on_request};
    struct sockaddr_storage ss;
    const char *addr = at->addr[0] ? at->addr : "127.0.0.1";
    *m = (struct metrics){.control = c, .text = "off"};
    if (at->port <= 0)
        return 0;
    if (uv_ip4_addr(addr, at->port, (struct sockaddr_in *)&ss) != 0 &&
        uv_ip6_addr(addr, at->port, (struct sockaddr_in6 *)&ss) != 0) {
        snprintf(err, err_len, "metrics: \"%s\" is no IP address", addr);
        return -1;
    }
    int rc = oneshot_listen_tcp(&m->server, c->loop, (struct sockaddr *)&ss, &ops, m);
    if (rc != 0) {
        snprintf(err, err_len,
                 "metrics: cannot listen on %s port %d: %s; set metrics to another place or off", addr,
                 at->port, uv_strerror(rc));
        return -1;
    }
    snprintf(m->text, sizeof(m->text), strchr(addr, ':') ? "[%s]:%d" : "%s:%d", addr, at->port);
    return 0;
}

void metrics_stop(struct metrics *m)
{
    oneshot_stop(&m->server);
}
