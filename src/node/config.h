/* What an operator sets: flags over DERPMESH_<KEY> over the YAML file over defaults (README, "Settings").
 *
 * A struct config is immutable once loaded.  Reload makes a new one beside the old and swaps only if all of it is good.
 * Ownership: config_load allocates, config_free ends it and every string in it. */
#ifndef DERPMESH_NODE_CONFIG_H
#define DERPMESH_NODE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "node/log.h"

enum config_admit { ADMIT_BY_ALL, ADMIT_BY_ANY };
enum config_tls { TLS_AUTO, TLS_MANUAL, TLS_ACME, TLS_OFF };

/* ADDR:PORT; addr "" = the default (see listen in README), port -1 = off, 0 = as the map says. */
struct config_listen {
    char addr[64]; /* "*": all, whatever the map says (derper's way) */
    int port;
};

enum { CONFIG_PROXIES_MAX = 32 };
struct config_cidr {
    uint8_t ip[16]; /* IPv4 as ::ffff:a.b.c.d */
    int bits;       /* 0…128 */
};

/* What derper's flags say and no setting of ours does (cli/derper_config.c makes it). */
struct config_derper {
    bool derp;                                    /* false: /derp is 404 */
    bool rated;                                   /* client_rate comes from -rate-config */
    bool dev;                                     /* dev_key is the node key, no file */
    uint8_t dev_key[32];                          /* secret, of this process only */
    char *home;                                   /* of /: "" (the page), "blank", or a URL to go to */
    char *names, *unpublished;                    /* of /bootstrap-dns, comma-separated; "" for none */
    double accept_limit;                          /* new TLS connections a second; infinite: no limit */
    double accept_burst;                          /* how many at once */
    int keepalive_s;                              /* TCP's, of accepted connections; -1: off */
    int user_timeout_ms;                          /* TCP's; 0: the kernel's own */
    struct config_cidr debug[CONFIG_PROXIES_MAX]; /* who may see /debug beside loopback and the tailnet */
    int n_debug;
};

enum { CONFIG_LANES_AUTO = 255 };

struct config;
/* Reads the settings (again): config_load, or what stands in for it. */
typedef struct config *(*config_loader)(int argc, char **argv, char *const *envp, char *err, size_t err_len,
                                        bool *usage);

struct config {
    char *map_file, *node; /* map, node */
    char *state;           /* /var/lib/derpmesh; NULL: none, only under the name derper (no lock, no mesh) */
    char *key_file;        /* resolved: key_file, else STATE/node.key, else an existing derper.key */
    char *mesh_key_file;   /* NULL: no mesh */
    char *mesh_pins;       /* file of node keys of nodes; NULL: none */
    char *derper_peers;    /* ids of nodes that are real derpers; NULL: none */
    char *derper_mesh_key_file; /* the key shared with them; NULL: none */
    struct config_listen listen, listen_http, listen_stun;
    enum config_tls tls;
    char *cert_dir; /* STATE/certs */
    char *acme_email, *acme_url;
    struct config_cidr proxies[CONFIG_PROXIES_MAX]; /* trusted_proxies */
    int n_proxies;
    char *mesh_proxied;    /* ids of nodes that stand behind a proxy which ends TLS; NULL: none */
    char *mesh_congestion; /* of mesh connections; "" or NULL: the system's own */
    uint32_t mesh_lanes;   /* connections for data to each node, ≤ MESH_LANES_MAX, or CONFIG_LANES_AUTO */
    bool proxy_protocol;   /* trusted proxies begin with a PROXY header */
    int workers;           /* ≥ 1 */
    uint32_t keepalive_min_ms, keepalive_max_ms; /* 25–45 s */
    uint32_t max_clients;                        /* 0: from memory and descriptors */
    uint32_t login_limit;                        /* connections before login in all: 2048 */
    uint32_t login_limit_ip;                     /* … per IPv4 address or IPv6 /64: 64 */
    uint32_t client_rate;                        /* bytes/s; 0: no limit */
    uint32_t client_burst;                       /* bytes, ≥ 65568 */
    bool transit;
    char *admission;                  /* "open", or what the next three are set from; NULL: not said */
    char *allow;                      /* file of node keys, NULL: none; see admission.h */
    char *verify_url, *verify_socket; /* NULL: not asked */
    bool verify_fail_open;
    enum config_admit admit;
    struct config_listen metrics; /* 127.0.0.1:9911 */
    char *admin;                  /* /run/derpmesh/admin.sock */
    uint32_t drain_timeout_ms;    /* 20 s */
    enum log_level log_level;
    enum log_format log_format;
    /* Under the name derper; else NULL. */
    struct config_derper *derper;
    char *map_text;     /* the map itself instead of map_file */
    char *doubts;       /* warnings about the flags, one a line */
    config_loader load; /* for a reload; NULL: config_load */
};

/* Loads from argv (flags only: argv[0] is the first), the environment and the file.
 * NULL with one sentence in err: where (file:line:col, flag or variable) and what to do.
 * Unknown flags and keys are refused with the nearest known one.  *usage is set when the fault is in the
 * command line (exit code 2). */
struct config *config_load(int argc, char **argv, char *const *envp, char *err, size_t err_len, bool *usage);
/* Defaults and DERPMESH_* of the environment, without a file; what depends on other keys is not filled in.
 * NULL with a sentence. */
struct config *config_load_env(char *const *envp, char *err, size_t err_len);
void config_free(struct config *c);
/* Two texts of settings, either of which may not be set. */
static inline bool config_same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

/* Whether a list of names with commas between (mesh_proxied, derper_peers; NULL: empty) holds this one. */
bool config_list_has(const char *list, const char *name);

/* n bytes: "10.0.0.0/8", "::1"; bits below the prefix are cleared.  0 or -1. */
int config_cidr_parse(struct config_cidr *out, const char *text, size_t n);

/* The table behind --help and the documents: one line a key.  Calls out for each in order. */
void config_keys(void (*out)(void *ctx, const char *key, const char *def, const char *meaning), void *ctx);

/* Whether anybody is asked who may use the node. */
static inline bool config_admission(const struct config *c)
{
    return c->allow || c->verify_url || c->verify_socket;
}

/* "ADDR:PORT", ":PORT", "[v6]:PORT", "off".  0 or -1. */
int config_listen_parse(struct config_listen *l, const char *text);

#endif
