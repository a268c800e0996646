/* See varz.h.
 *
 * Happy path: each line is a name of derper's and a sum over the workers' counters; what has no counterpart here and
 * cannot happen is 0.  What would be a lie as 0 (memory of a Go program) is left out.
 * Failure: NULL without memory; a file of /proc that is not there leaves its line out. */
#include "node/varz.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <uv.h>

#include "node/bootstrap.h"
#include "node/stats.h"
#include "node/worker.h"

#define COUNTER "counter"
#define GAUGE   "gauge"

static uint64_t sum(const struct varz *v, enum stat_id which)
{
    uint64_t s = 0;
    for (uint32_t i = 0; i < v->n_workers; i++)
        s += stats_get(&v->workers[i]->stats, which);
    return s;
}

/* A gauge read between its addition in one thread and its subtraction in another may be below zero for a moment. */
static uint64_t gauge(const struct varz *v, enum stat_id which)
{
    uint64_t s = sum(v, which);
    return s > INT64_MAX ? 0 : s;
}

static void type(FILE *f, const char *name, const char *kind)
{
    fprintf(f, "# TYPE %s %s\n", name, kind);
}

static void put(FILE *f, const char *name, const char *kind, uint64_t value)
{
    type(f, name, kind);
    fprintf(f, "%s %llu\n", name, (unsigned long long)value);
}

static uint64_t open_files(void)
{
    DIR *d = opendir("/proc/self/fd");
    uint64_t n = 0;
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n > 3 ? n - 3 : 0; /* ".", ".." and the directory itself */
}

/* ---- what the server of Go measures of its clients ---- */

static void put_packets(FILE *f, const struct varz *v)
{
    static const struct {
        const char *name;
        enum stat_id stat;
    } counters[] = {
        {"derp_accepts", STAT_LOGINS},
        {"derp_bytes_received", STAT_PACKET_BYTES_IN},
        {"derp_bytes_sent", STAT_PACKET_BYTES_OUT},
        {"derp_got_ping", STAT_PINGS},
        {"derp_home_moves_in", STAT_HOME_IN},
        {"derp_home_moves_out", STAT_HOME_OUT},
        {"derp_packets_forwarded_in", STAT_FORWARDED_IN},
        {"derp_packets_forwarded_out", STAT_FORWARDED_OUT},
        {"derp_packets_received", STAT_PACKETS_IN},
        {"derp_packets_sent", STAT_PACKETS_OUT},
        {"derp_peer_gone_disconnected_frames", STAT_PEER_GONE_DISCONNECTED},
        {"derp_peer_gone_not_here_frames", STAT_PEER_GONE_NOT_HERE},
        {"derp_sclient_write_timeouts", STAT_CLOSED_STALLED},
        {"derp_sent_pong", STAT_PINGS},
        {"derp_unknown_frames", STAT_UNKNOWN_FRAMES},
        {"derp_websocket_accepts", STAT_WEBSOCKET_ACCEPTS},
    };
    for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++)
        put(f, counters[i].name, COUNTER, sum(v, counters[i].stat));
    type(f, "derp_packets_received_kind", COUNTER);
    uint64_t all = sum(v, STAT_PACKETS_IN), disco = sum(v, STAT_PACKETS_IN_DISCO);
    fprintf(
        f,
        "derp_packets_received_kind{kind=\"disco\"} %llu\nderp_packets_received_kind{kind=\"other\"} %llu\n",
        (unsigned long long)disco, (unsigned long long)(all > disco ? all - disco : 0));
    fprintf(f, "derp_average_queue_duration_ms 0\n");
}

/* Drops are not counted by kind here, nor in bytes. */
static void put_drops(FILE *f, const struct varz *v)
{
    const struct {
        const char *reason;
        uint64_t packets;
    } drops[] = {
        {"dup_client", 0},
        {"gone_disconnected", sum(v, STAT_DROP_GONE)},
        {"queue_head", sum(v, STAT_DROP_QUEUE_FULL) + sum(v, STAT_DROP_QUEUE_OLD) + sum(v, STAT_DROP_BUDGET)},
        {"queue_tail", sum(v, STAT_DROP_INBOX_FULL) + sum(v, STAT_DROP_BUSY)},
        {"unknown_dest", sum(v, STAT_DROP_NO_ROUTE)},
        {"unknown_dest_on_fwd", sum(v, STAT_DROP_MESH_NO_CLIENT) + sum(v, STAT_DROP_MESH_HOPS) +
                                    sum(v, STAT_DROP_MESH_NO_PATH) + sum(v, STAT_DROP_MESH_TRANSIT) +
                                    sum(v, STAT_DROP_MESH_BAD)},
        {"write_error", sum(v, STAT_DROP_NO_MEMORY)},
    };
    for (int bytes = 1; bytes >= 0; bytes--) {
        const char *name = bytes ? "derp_bytes_dropped" : "derp_packets_dropped";
        type(f, name, COUNTER);
        for (size_t i = 0; i < sizeof(drops) / sizeof(drops[0]); i++)
            fprintf(f, "%s{reason=\"%s\",kind=\"disco\"} 0\n%s{reason=\"%s\",kind=\"other\"} %llu\n", name,
                    drops[i].reason, name, drops[i].reason, bytes ? 0 : (unsigned long long)drops[i].packets);
    }
}

static void put_clients(FILE *f, const struct varz *v)
{
    uint64_t keys = atomic_load(&v->keys), connections = atomic_load(&v->connections);
    uint64_t remote = atomic_load(&v->remote_keys), more = connections > keys ? connections - keys : 0;
    put(f, "derp_clients_local", GAUGE, keys);
    put(f, "derp_clients_remote", GAUGE, remote);
    put(f, "derp_clients_total", GAUGE, keys + remote);
    put(f, "derp_current_connections", GAUGE, gauge(v, STAT_CLIENTS));
    /* Of a key with two connections derper counts both; hardly any has three. */
    put(f, "derp_current_dup_client_conns", GAUGE, 2 * more);
    put(f, "derp_current_dup_client_keys", GAUGE, more);
    put(f, "derp_total_dup_client_conns", COUNTER, atomic_load(&v->more_connections));
    put(f, "derp_current_home_connections", GAUGE, gauge(v, STAT_HOME));
    put(f, "derp_current_notideal_connections", GAUGE, gauge(v, STAT_NOT_IDEAL));
    put(f, "derp_watchers", GAUGE, gauge(v, STAT_WATCHERS));
    put(f, "derp_current_file_descriptors", GAUGE, open_files());
}

/* What our way of forwarding has none of, and what only a Go program has. */
static void put_none(FILE *f)
{
    static const char *const histograms[] = {"derp_buffered_write_frames", "derp_mesh_update_batch_size",
                                             "derp_mesh_update_loop_count"};
    static const char *const counters[] = {"derp_multiforwarder_created", "derp_multiforwarder_deleted",
                                           "derp_packet_forwarder_delete_other_value", "derp_tcp_rtt"};
    for (size_t i = 0; i < sizeof(histograms) / sizeof(histograms[0]); i++) {
        type(f, histograms[i], "histogram");
        fprintf(f, "%s_bucket{le=\"+Inf\"} 0\n%s_sum 0\n%s_count 0\n", histograms[i], histograms[i],
                histograms[i]);
    }
    for (size_t i = 0; i + 1 < sizeof(counters) / sizeof(counters[0]); i++)
        put(f, counters[i], COUNTER, 0);
    type(f, counters[3], COUNTER);
}

void varz_set(struct varz *v, const struct config *c)
{
    atomic_store(&v->rate, c->client_rate);
    atomic_store(&v->burst, c->client_rate ? c->client_burst : 0);
    atomic_store(&v->rated, c->derper && c->derper->rated);
}

static void put_rates(FILE *f, const struct varz *v)
{
    if (!atomic_load(&v->rated))
        return;
    fprintf(f,
            "derp_rate_limit_per_client_burst_bytes %llu\nderp_rate_limit_per_client_bytes_per_second %llu\n",
            (unsigned long long)atomic_load(&v->burst), (unsigned long long)atomic_load(&v->rate));
    put(f, "derp_rate_limit_per_client_waited", COUNTER, sum(v, STAT_RATE_PAUSES));
}

/* ---- the rest ---- */

static void put_server(FILE *f, const struct varz *v)
{
    static const char *const names[BOOTSTRAP_COUNTS] = {
        [BOOTSTRAP_REQUESTS] = "bootstrap_dns_requests",
        [BOOTSTRAP_PUBLISHED_HITS] = "bootstrap_dns_published_hits",
        [BOOTSTRAP_PUBLISHED_MISSES] = "bootstrap_dns_published_misses",
        [BOOTSTRAP_UNPUBLISHED_HITS] = "bootstrap_dns_unpublished_hits",
        [BOOTSTRAP_UNPUBLISHED_MISSES] = "bootstrap_dns_unpublished_misses",
        [BOOTSTRAP_QUERIED_DOMAINS] = "bootstrap_dns_queried_domains",
    };
    for (int i = 0; i < BOOTSTRAP_COUNTS; i++)
        put(f, names[i], COUNTER, v->bootstrap ? bootstrap_count(v->bootstrap, (enum bootstrap_count)i) : 0);
    put(f, "bootstrap_dns_unpublished_percent_misses", COUNTER, 0);
    type(f, "derper_tls_request_version", COUNTER);
    fprintf(f,
            "derper_tls_request_version{version=\"1.2\"} %llu\nderper_tls_request_version{version=\"1.3\"} "
            "%llu\n",
            (unsigned long long)sum(v, STAT_REQUESTS_TLS12), (unsigned long long)sum(v, STAT_REQUESTS_TLS13));
    uint64_t refused = sum(v, STAT_REFUSED_LOGIN_LIMIT) + sum(v, STAT_REFUSED_ADDRESS_LIMIT);
    uint64_t accepts = sum(v, STAT_ACCEPTS);
    put(f, "tls_listener_accepted_connections", COUNTER, accepts > refused ? accepts - refused : 0);
    put(f, "tls_listener_rejected_connections", COUNTER, refused);
    uint64_t v6 = sum(v, STAT_STUN_IPV6), answered = sum(v, STAT_STUN_SUCCESS);
    type(f, "stun_addrfamily", COUNTER);
    fprintf(f, "stun_addrfamily{family=\"ipv4\"} %llu\nstun_addrfamily{family=\"ipv6\"} %llu\n",
            (unsigned long long)(answered > v6 ? answered - v6 : 0), (unsigned long long)v6);
    type(f, "stun_requests", COUNTER);
    fprintf(f,
            "stun_requests{disposition=\"not_stun\"} %llu\nstun_requests{disposition=\"read_error\"} 0\n"
            "stun_requests{disposition=\"success\"} %llu\nstun_requests{disposition=\"write_error\"} %llu\n",
            (unsigned long long)sum(v, STAT_STUN_BAD), (unsigned long long)answered,
            (unsigned long long)sum(v, STAT_STUN_UNSENT));
}

static void put_process(FILE *f, const struct varz *v)
{
    struct rusage u;
    struct rlimit r;
    size_t rss;
    if (getrusage(RUSAGE_SELF, &u) == 0) {
        type(f, "process_cpu_seconds_total", COUNTER);
        fprintf(f, "process_cpu_seconds_total %.2f\n",
                (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                    (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
    }
    if (getrlimit(RLIMIT_NOFILE, &r) == 0)
        put(f, "process_max_fds", GAUGE, r.rlim_cur);
    put(f, "process_open_fds", GAUGE, open_files());
    if (uv_resident_set_memory(&rss) == 0)
        put(f, "process_resident_memory_bytes", GAUGE, rss);
    put(f, "process_start_time_seconds", GAUGE, (uint64_t)v->started);
    fprintf(f, "process_start_unix_time %llu\n", (unsigned long long)v->started);
    put(f, "uptime_sec", COUNTER, (uint64_t)difftime(time(NULL), v->started));
    fprintf(f, "version{version=\"%s\",binary=\"derpmesh\"} 1\n", DERPMESH_VERSION);
}

char *varz_text(const struct varz *v, size_t *len)
{
    char *text = NULL;
    FILE *f = open_memstream(&text, len);
    if (!f)
        return NULL;
    put_packets(f, v);
    put_drops(f, v);
    put_clients(f, v);
    put_none(f);
    put_rates(f, v);
    put_server(f, v);
    put_process(f, v);
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
