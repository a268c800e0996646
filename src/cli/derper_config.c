/* See derper_config.h.
 *
 * Happy path: flags are read, what is refused is looked for, then each group of flags fills in its settings; the map
 * that every node needs is made of -hostname and the ports, with this node in it and those of -mesh-with (derper_mesh.c).
 * How it fails: one sentence that begins with the flag; nothing half-made is given out.  What is doubtful, or safer
 * under our own name, becomes a warning. */
#include "cli/derper_config.h"

#include <arpa/inet.h>
#include <math.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

#include "cli/derper_mesh.h"

enum { DOUBTS = 2048, DEV_PORT = 3340, NS_PER_MS = 1000000 };

struct load {
    struct derper_flags f;
    struct config *c;
    char addr[64]; /* of all listeners: "*" for all addresses */
    int port;      /* of -a */
    bool tls, manual;
    char doubts[DOUBTS];
    char *err;
    size_t err_len;
};

static int fail(const struct load *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int fail(const struct load *l, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(l->err, l->err_len, fmt, ap);
    va_end(ap);
    return -1;
}

static void doubt(struct load *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void doubt(struct load *l, const char *fmt, ...)
{
    size_t have = strlen(l->doubts);
    va_list ap;

    if (have && have + 1 < sizeof(l->doubts))
        l->doubts[have++] = '\n';
    va_start(ap, fmt);
    vsnprintf(l->doubts + have, sizeof(l->doubts) - have, fmt, ap);
    va_end(ap);
}

static const char *text(const struct load *l, enum derper_flag which)
{
    return l->f.v[which].text;
}

static int set_text(char **to, const char *value)
{
    char *copy = value ? strdup(value) : NULL;

    if (value && !copy)
        return -1;
    free(*to);
    *to = copy;
    return 0;
}

/* ---- what is not done here ---- */

static int refuse(const struct load *l)
{
    static const struct {
        enum derper_flag flag;
        const char *instead;
    } not_here[] = {
        {DERPER_SECRETS_URL, "keys come from files here: derpmesh serve --mesh-key-file FILE"},
        {DERPER_ACE, "a proxy for Tailscale's own control server is not part of a relay"},
        {DERPER_ACME_IP_CERTS,
         "with -certmode manual an IP address gets a certificate by itself, and the log prints the "
         "CertName to put into the derpMap"},
    };
    for (size_t i = 0; i < sizeof(not_here) / sizeof(not_here[0]); i++) {
        const struct derper_value *v = &l->f.v[not_here[i].flag];
        if (v->text ? *v->text : v->on)
            return fail(l, "-%s is not done here: %s", derper_flag_name(not_here[i].flag),
                        not_here[i].instead);
    }
    const char *mode = text(l, DERPER_CERTMODE);
    if (!l->tls || l->manual)
        return 0;
    if (strcmp(mode, "letsencrypt") == 0 && l->f.v[DERPER_HOSTNAME].set)
        return 0; /* the node gets it by itself, with uacme */
    if (strcmp(mode, "letsencrypt") == 0)
        return fail(
            l,
            "-certmode letsencrypt needs -hostname: a certificate for %s is given to Tailscale only; or say "
            "-certmode manual",
            text(l, DERPER_HOSTNAME));
    if (strcmp(mode, "gcp") != 0)
        return fail(l, "-certmode %s: there is no such mode; say -certmode letsencrypt or manual", mode);
    return fail(l,
                "-certmode %s is not done here: say -certmode letsencrypt, or -certmode manual -certdir DIR, "
                "where DIR "
                "holds %s.crt and .key, or is /etc/letsencrypt/live; renewals are seen",
                mode, text(l, DERPER_HOSTNAME));
}

static void warn_ignored(struct load *l)
{
    static const enum derper_flag ignored[] = {DERPER_ACME_EAB_KEY, DERPER_ACME_EAB_KID};

    for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
        if (*text(l, ignored[i]))
            doubt(l, "-%s is not used: no account of another authority here", derper_flag_name(ignored[i]));
    if (l->f.v[DERPER_TCP_WRITE_TIMEOUT].set)
        doubt(l, "-tcp-write-timeout is not used: a client that takes nothing is closed after 2 s if much "
                 "waits for "
                 "it, else after 10 s");
}

/* What Go's flag package passes over in silence. */
static void warn_rest(struct load *l, int argc, char **argv)
{
    int rest = l->f.rest;
    bool word;

    if (rest >= argc)
        return;
    if (derper_bool(argv[rest], &word) && rest > 1 && argv[rest - 1][0] == '-')
        doubt(l, "%s %s: \"%s\" ends the flags, it and all behind it is not read; write %s=%s",
              argv[rest - 1], argv[rest], argv[rest], argv[rest - 1], argv[rest]);
    else
        doubt(l, "\"%s\" is no flag: it and all behind it is not read", argv[rest]);
}

/* ---- addresses ---- */

/* Splits "host:port" as Go's net.SplitHostPort; host without brackets. */
static int split(const struct load *l, const char *a, char host[static 256], char port[static 32])
{
    const char *colon = strrchr(a, ':');
    bool bracket = *a == '[';
    size_t n = colon ? (size_t)(colon - a) : 0;

    if (!colon || n >= 256 || strlen(colon + 1) >= 32 || (bracket && (n < 2 || a[n - 1] != ']')) ||
        (!bracket && memchr(a, ':', n)))
        return fail(l, "-a: invalid server address \"%s\": write \":port\", \"ip:port\" or \"[ip]:port\"", a);
    memcpy(host, a + bracket, n - 2 * (size_t)bracket);
    host[n - 2 * (size_t)bracket] = 0;
    strcpy(port, colon + 1);
    return 0;
}

/* Names of hosts and services are looked up, as Go does. */
static int take_address(struct load *l)
{
    const char *a = l->f.v[DERPER_DEV].on ? ":3340" : text(l, DERPER_A);
    char host[256], port[32];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;

    if (split(l, a, host, port))
        return -1;
    int rc = getaddrinfo(*host ? host : NULL, *port ? port : "0", &hints, &found);
    if (rc)
        return fail(l, "-a: \"%s\": %s", a, gai_strerror(rc));
    bool v4 = found->ai_family == AF_INET;
    const struct sockaddr_in *in = (const struct sockaddr_in *)found->ai_addr;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)found->ai_addr;
    l->port = ntohs(v4 ? in->sin_port : in6->sin6_port);
    if (*host == 0)
        strcpy(l->addr, "*");
    else
        inet_ntop(found->ai_family, v4 ? (const void *)&in->sin_addr : &in6->sin6_addr, l->addr,
                  sizeof(l->addr));
    freeaddrinfo(found);
    if (l->port == 0)
        return fail(l, "-a: \"%s\": name a port", a);
    return 0;
}

static int set_listen(const struct load *l, struct config_listen *to, enum derper_flag flag, bool on)
{
    int64_t port = flag == DERPER_A ? l->port : l->f.v[flag].number;

    on = on && port >= 0;
    if (on && (port == 0 || port > 65535))
        return fail(l, "-%s: name a port from 1 to 65535", derper_flag_name(flag));
    *to = (struct config_listen){.port = on ? (int)port : -1};
    snprintf(to->addr, sizeof(to->addr), "%s", l->addr);
    return 0;
}

static bool is_ip(const char *host)
{
    uint8_t ip[16];

    return inet_pton(AF_INET, host, ip) == 1 || inet_pton(AF_INET6, host, ip) == 1;
}

/* The map: this node and those of -mesh-with. */
static int make_map(struct load *l)
{
    const char *host = text(l, DERPER_HOSTNAME);
    char peers[4096];
    int stun = l->f.v[DERPER_STUN].on ? (int)l->f.v[DERPER_STUN_PORT].number : -1;
    json_t *nodes = json_pack("[{s:s,s:i,s:s,s:i,s:i}]", "Name", "derper", "RegionID", 900, "HostName",
                              *host ? host : "localhost", "DERPPort", l->port, "STUNPort", stun);

    if (!nodes)
        return fail(l, "-hostname: \"%s\" is no name", host);
    if (derper_mesh_nodes(nodes, text(l, DERPER_MESH_WITH), host, l->port, peers, sizeof(peers), l->err,
                          l->err_len)) {
        json_decref(nodes);
        return -1;
    }
    json_t *map = json_pack("{s:{s:{s:i,s:s,s:s,s:o}}}", "Regions", "900", "RegionID", 900, "RegionCode",
                            "derper", "RegionName", "derper", "Nodes", nodes);
    free(l->c->map_text);
    l->c->map_text = map ? json_dumps(map, JSON_COMPACT) : NULL;
    json_decref(map);
    return !l->c->map_text || set_text(&l->c->map_file, NULL) || set_text(&l->c->node, "derper") ||
                   set_text(&l->c->derper_peers, peers[0] ? peers : NULL)
               ? fail(l, "out of memory")
               : 0;
}

/* ---- groups of flags ---- */

static int take_ports(struct load *l)
{
    struct config *c = l->c;

    if (set_listen(l, &c->listen, DERPER_A, true) ||
        set_listen(l, &c->listen_http, DERPER_HTTP_PORT, l->tls) ||
        set_listen(l, &c->listen_stun, DERPER_STUN_PORT, l->f.v[DERPER_STUN].on))
        return -1;
    c->metrics = (struct config_listen){.port = -1}; /* /debug/varz has them */
    return make_map(l);
}

/* tsweb.DefaultCertDir("derper-certs"), "" if there is no home. */
static void default_certs(char *out, size_t len)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");

    out[0] = 0;
    if (cache && *cache)
        snprintf(out, len, "%s/tailscale/derper-certs", cache);
    else if (home && *home)
        snprintf(out, len, "%s/.cache/tailscale/derper-certs", home);
}

static int take_tls(struct load *l)
{
    char dir[4096];

    l->c->tls = !l->tls                           ? TLS_OFF
                : !l->manual                      ? TLS_ACME
                : is_ip(text(l, DERPER_HOSTNAME)) ? TLS_AUTO
                                                  : TLS_MANUAL;
    if (*text(l, DERPER_ACME_EMAIL) && set_text(&l->c->acme_email, text(l, DERPER_ACME_EMAIL)) != 0)
        return -1;
    snprintf(dir, sizeof(dir), "%s", text(l, DERPER_CERTDIR));
    if (!l->f.v[DERPER_CERTDIR].set)
        default_certs(dir, sizeof(dir));
    if (l->tls && !dir[0])
        return fail(l, "missing required -certdir flag");
    for (size_t n = strlen(dir); n > 1 && dir[n - 1] == '/'; n--)
        dir[n - 1] = 0;
    return set_text(&l->c->cert_dir, dir[0] ? dir : ".");
}

static int take_key(struct load *l)
{
    char why[512];

    if (l->f.v[DERPER_DEV].on) {
        randombytes_buf(l->c->derper->dev_key, sizeof(l->c->derper->dev_key));
        l->c->derper->dev = true;
        return 0;
    }
    l->err[0] = 0;
    char *key = derper_key(&l->f, l->err, l->err_len, why, sizeof(why));
    if (why[0])
        doubt(l, "%s", why);
    free(l->c->key_file);
    l->c->key_file = key;
    return key ? 0 : -1;
}

/* derper without -mesh-with lets others mesh with it who know the key. */
static int take_mesh(struct load *l)
{
    const char *given = text(l, DERPER_MESH_PSK_FILE), *home = getenv("HOME");
    char places[2][512] = {"/home/derp/keys/derp-mesh.key", ""};
    struct stat st;

    snprintf(places[1], sizeof(places[1]), "%s/keys/derp-mesh.key", home ? home : "");
    if (*given && access(given, R_OK) != 0)
        return fail(l, "-mesh-psk-file: %s cannot be read", given);
    for (int i = 0; i < 2 && !l->f.v[DERPER_MESH_PSK_FILE].set && !*given; i++)
        if (access(places[i], F_OK) == 0)
            given = places[i];
    if (l->f.v[DERPER_DEV].on && *given)
        given = ""; /* nor does derper read it then */
    if (l->c->derper_peers && !*given)
        return fail(l, "-mesh-with requires -mesh-psk-file%s",
                    l->f.v[DERPER_DEV].on ? ", and -dev takes none here" : "");
    if (l->c->derper_peers && !l->tls)
        return fail(l, "-mesh-with requires TLS (-certmode manual): other derpers could not dial this one");
    if (*given && stat(given, &st) == 0 && st.st_mode & 077)
        doubt(l, "%s: others may read this mesh key; chmod 600 it", given);
    return set_text(&l->c->mesh_key_file, NULL) ||
                   set_text(&l->c->derper_mesh_key_file, *given ? given : NULL)
               ? -1
               : 0;
}

/* http or https, a host, nothing that would have to be escaped. */
static bool is_url(const char *s)
{
    size_t scheme = strncmp(s, "http://", 7) == 0 ? 7 : strncmp(s, "https://", 8) == 0 ? 8 : 0;

    if (scheme == 0 || strcspn(s + scheme, "/?#") == 0 || strlen(s) > 1024)
        return false;
    for (; *s; s++)
        if ((unsigned char)*s <= ' ' || (unsigned char)*s >= 0x7f || *s == '"' || *s == '<' || *s == '>')
            return false;
    return true;
}

static int take_home(struct load *l)
{
    const char *home = text(l, DERPER_HOME);

    if (*home && strcmp(home, "blank") != 0 && !is_url(home))
        return fail(
            l, "unknown --home value \"%s\": empty, blank, or a URL that begins with http:// or https://",
            home);
    return set_text(&l->c->derper->home, home);
}

static int take_names(struct load *l)
{
    const char *hidden = text(l, DERPER_UNPUBLISHED_DNS);

    if (strchr(hidden, '/'))
        return fail(
            l,
            "-unpublished-bootstrap-dns-names: a share of clients by a TXT record is not done here: take out "
            "what stands behind the slash");
    return set_text(&l->c->derper->names, text(l, DERPER_BOOTSTRAP_DNS)) ||
                   set_text(&l->c->derper->unpublished, hidden)
               ? -1
               : 0;
}

static int take_limits(struct load *l)
{
    struct config_derper *d = l->c->derper;
    int64_t burst = l->f.v[DERPER_ACCEPT_BURST].number, idle = l->f.v[DERPER_TCP_KEEPALIVE].number,
            user = l->f.v[DERPER_TCP_USER_TIMEOUT].number / NS_PER_MS;

    d->accept_limit = l->f.v[DERPER_ACCEPT_LIMIT].real;
    d->accept_burst = (double)burst;
    if (!(d->accept_limit > 0))
        return fail(l, "-accept-connection-limit: wants a number above 0, or nobody could connect for long");
    if (burst < 1 && isfinite(d->accept_limit))
        return fail(l, "-accept-connection-burst: wants a number above 0, or nobody could connect");
    d->keepalive_s = idle < 0 ? -1 : idle == 0 ? 15 : (int)fmin(ceil((double)idle / 1e9), 32767);
    d->user_timeout_ms = user < 0 ? 0 : (int)fmin((double)user, 1e9);
    return 0;
}

/* Both checks must admit, as with derper.  A DERPMESH_ALLOW and the like of the environment counts beside them. */
static int take_admission(struct load *l)
{
    const char *url = text(l, DERPER_VERIFY_URL), *socket = text(l, DERPER_SOCKET);
    struct config *c = l->c;

    if (*url && !is_url(url))
        return fail(l, "-verify-client-url: \"%s\" is no URL that begins with http:// or https://", url);
    if (*url && set_text(&c->verify_url, url))
        return -1;
    if (*url && l->f.v[DERPER_VERIFY_URL_FAIL_OPEN].on) {
        c->verify_fail_open = true;
        doubt(l,
              "while %s does not answer, anyone may use this relay, as with derper: "
              "-verify-client-url-fail-open=false is safer",
              "-verify-client-url");
    }
    if (l->f.v[DERPER_VERIFY_CLIENTS].on)
        return set_text(&c->verify_socket, *socket ? socket : "/var/run/tailscale/tailscaled.sock");
    if (*socket)
        doubt(l, "-socket is not used: there is no -verify-clients");
    return 0;
}

/* -rate-config: read again at each reload, as all files are. */
static int take_rates(struct load *l)
{
    const char *path = text(l, DERPER_RATE_CONFIG);
    char why[512];

    if (!*path)
        return 0;
    if (derper_rates(path, &l->c->client_rate, &l->c->client_burst, why, sizeof(why)) != 0)
        return fail(l, "-rate-config: %s: %s", path, why);
    l->c->derper->rated = true;
    return 0;
}

/* Who may see /debug: as tsweb.AllowDebugAccess, by the same variables. */
static void take_debug(struct load *l)
{
    static const char *const names[] = {"TS_ALLOW_DEBUG_IP", "TS_DEBUG_TRUSTED_CIDRS"};
    struct config_derper *d = l->c->derper;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *s = getenv(names[i]);
        for (s = s ? s + strspn(s, ", ") : ""; *s; s += strspn(s, ", ")) {
            size_t n = strcspn(s, ", ");
            if (d->n_debug < CONFIG_PROXIES_MAX && config_cidr_parse(&d->debug[d->n_debug], s, n) == 0)
                d->n_debug++;
            else
                doubt(l, "%s: \"%.*s\" is no IP address or prefix, or one too many", names[i], (int)n, s);
            s += n;
        }
    }
}

static int fill(struct load *l)
{
    struct config *c = l->c;

    c->load = derper_config;
    c->drain_timeout_ms = 0; /* derper ends at once */
    c->derper = calloc(1, sizeof(*c->derper));
    if (!c->derper || set_text(&c->state, NULL))
        return fail(l, "out of memory");
    c->derper->derp = l->f.v[DERPER_DERP].on;
    l->err[0] = 0;
    if (take_ports(l) || take_tls(l) || take_mesh(l) || take_home(l) || take_names(l) || take_limits(l) ||
        take_rates(l) || take_admission(l) || take_key(l))
        return l->err[0] ? -1 : fail(l, "out of memory");
    take_debug(l);
    warn_ignored(l);
    if (l->doubts[0] && !(c->doubts = strdup(l->doubts)))
        return fail(l, "out of memory");
    return 0;
}

static int load(struct load *l, int argc, char **argv, char *const *envp, bool *usage)
{
    *usage = true;
    if (derper_flags_parse(&l->f, argc, argv, l->err, l->err_len) != DERPER_OK || take_address(l))
        return -1;
    l->manual = strcmp(text(l, DERPER_CERTMODE), "manual") == 0;
    l->tls = l->port == 443 || l->manual;
    warn_rest(l, argc, argv);
    if (refuse(l))
        return -1;
    *usage = false;
    l->c = config_load_env(envp, l->err, l->err_len);
    return l->c ? fill(l) : -1;
}

struct config *derper_config(int argc, char **argv, char *const *envp, char *err, size_t err_len, bool *usage)
{
    struct load l = {.err = err, .err_len = err_len};

    if (load(&l, argc, argv, envp, usage) == 0)
        return l.c;
    /* Often the doubt is the reason: "-stun false -certmode manual" asks for Let's Encrypt. */
    size_t have = strlen(err);
    if (l.doubts[0] && have + 4 < err_len)
        snprintf(err + have, err_len - have, "; %.*s", (int)strcspn(l.doubts, "\n"), l.doubts);
    config_free(l.c);
    return NULL;
}
