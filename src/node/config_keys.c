/* The table of keys: name, default, meaning, and how a value is read.  Everything that sets a key, from wherever, goes
 * through config_key_set, the defaults too; so --help, the file, the environment and the flags cannot disagree.
 *
 * How it fails: a value that is not of its kind changes nothing, and the answer says what the key wants. */
#include "node/config_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "node/rate.h"
#include "node/suggest.h"

struct key {
    const char *name;
    const char *def;   /* as one would write it; NULL: none, or from other keys */
    const char *shown; /* what help says instead of def */
    const char *meaning;
    const char *wants;                                                   /* "wants …" */
    int (*set)(struct config *c, const struct key *k, const char *text); /* 0, or -1 */
    size_t at;                                                           /* of the field in struct config */
    uint32_t min, max;                                                   /* numbers and durations */
    const char *const *choices;
};

/* ---- values ---- */

static void *field(struct config *c, const struct key *k)
{
    return (char *)c + k->at;
}

static int set_text(struct config *c, const struct key *k, const char *text)
{
    char **to = field(c, k), *copy = strdup(text);

    if (!copy)
        return -1;
    free(*to);
    *to = copy;
    return 0;
}

/* The kernel's names are at most 15 long. */
static int set_congestion(struct config *c, const struct key *k, const char *text)
{
    if (!*text || strlen(text) > 15)
        return -1;
    return set_text(c, k, strcasecmp(text, "system") == 0 ? "" : text);
}

/* A path, without slashes at its end. */
static int set_path(struct config *c, const struct key *k, const char *text)
{
    if (set_text(c, k, text))
        return -1;
    char *path = *(char **)field(c, k);
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
        path[n - 1] = 0;
    return 0;
}

/* An http or https URL: a host, printable ASCII. */
static int set_url(struct config *c, const struct key *k, const char *text)
{
    const char *host = strncmp(text, "https://", 8) == 0  ? text + 8
                       : strncmp(text, "http://", 7) == 0 ? text + 7
                                                          : NULL;

    if (!host || strcspn(host, "/?#") == 0)
        return -1;
    for (const char *s = text; *s; s++)
        if ((unsigned char)*s <= ' ' || (unsigned char)*s >= 0x7f)
            return -1;
    return set_text(c, k, text);
}

/* As long as a Unix socket's address may be. */
static int set_socket(struct config *c, const struct key *k, const char *text)
{
    return strlen(text) < sizeof(((struct sockaddr_un *)0)->sun_path) ? set_path(c, k, text) : -1;
}

static int set_number(struct config *c, const struct key *k, const char *text)
{
    const char *end;
    uint64_t n;

    if (config_number(text, &n, &end) || *end || n < k->min || n > k->max)
        return -1;
    *(uint32_t *)field(c, k) = (uint32_t)n;
    return 0;
}

/* Zero stands for "auto". */
static int set_number_auto(struct config *c, const struct key *k, const char *text)
{
    if (strcasecmp(text, "auto") == 0) {
        *(uint32_t *)field(c, k) = 0;
        return 0;
    }
    return set_number(c, k, text);
}

/* Zero stands for "off". */
static int set_rate(struct config *c, const struct key *k, const char *text)
{
    if (strcasecmp(text, "off") == 0 || strcmp(text, "0") == 0) {
        *(uint32_t *)field(c, k) = 0;
        return 0;
    }
    return set_number(c, k, text);
}

static int set_lanes(struct config *c, const struct key *k, const char *text)
{
    c->mesh_lanes = CONFIG_LANES_AUTO;
    return strcasecmp(text, "auto") == 0 ? 0 : set_number(c, k, text);
}

static int set_workers(struct config *c, const struct key *k, const char *text)
{
    uint32_t n;

    if (strcasecmp(text, "auto") == 0) {
        n = (uint32_t)config_cpus();
        n = n > k->max ? k->max : n;
    } else {
        const char *end;
        uint64_t v;
        if (config_number(text, &v, &end) || *end || v < k->min || v > k->max)
            return -1;
        n = (uint32_t)v;
    }
    c->workers = (int)n;
    return 0;
}

static int set_bool(struct config *c, const struct key *k, const char *text)
{
    static const char *const words[] = {"off", "on", "false", "true", "no", "yes"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcasecmp(text, words[i]) == 0) {
            *(bool *)field(c, k) = i & 1;
            return 0;
        }
    }
    return -1;
}

/* An enum whose values are the places in choices; gcc and clang keep these enums as unsigned. */
static int set_choice(struct config *c, const struct key *k, const char *text)
{
    for (unsigned i = 0; k->choices[i]; i++) {
        if (strcmp(text, k->choices[i]) == 0) {
            *(unsigned *)field(c, k) = i;
            return 0;
        }
    }
    return -1;
}

static int set_duration(struct config *c, const struct key *k, const char *text)
{
    uint32_t ms;

    if (config_duration(text, strlen(text), &ms) || ms < k->min || ms > k->max)
        return -1;
    *(uint32_t *)field(c, k) = ms;
    return 0;
}

/* "25s-45s", or one duration for both. */
static int set_keepalive(struct config *c, const struct key *k, const char *text)
{
    const char *dash = strchr(text, '-');
    uint32_t low, high;

    if (config_duration(text, dash ? (size_t)(dash - text) : strlen(text), &low))
        return -1;
    high = low;
    if (dash && config_duration(dash + 1, strlen(dash + 1), &high))
        return -1;
    if (low < k->min || high > k->max || low > high)
        return -1;
    c->keepalive_min_ms = low;
    c->keepalive_max_ms = high;
    return 0;
}

static int set_listen_map(struct config *c, const struct key *k, const char *text)
{
    return config_listen_parse(field(c, k), text);
}

/* The same where the map has no say: a port must stand there. */
static int set_listen(struct config *c, const struct key *k, const char *text)
{
    struct config_listen l;

    if (config_listen_parse(&l, text) || l.port == 0)
        return -1;
    *(struct config_listen *)field(c, k) = l;
    return 0;
}

/* Addresses and prefixes between commas or blanks; the words "loopback" and "none". */
static int set_proxies(struct config *c, const struct key *k, const char *text)
{
    struct config_cidr list[CONFIG_PROXIES_MAX];
    int n = 0;

    (void)k;
    for (const char *s = text + strspn(text, ", "); *s; s += strspn(s, ", ")) {
        size_t len = strcspn(s, ", ");
        bool loopback = len == 8 && memcmp(s, "loopback", len) == 0;
        if (n + loopback >= CONFIG_PROXIES_MAX)
            return -1;
        if (loopback) {
            config_cidr_parse(&list[n++], "127.0.0.0/8", 11);
            config_cidr_parse(&list[n++], "::1", 3);
        } else if (!(len == 4 && memcmp(s, "none", len) == 0)) {
            if (config_cidr_parse(&list[n++], s, len))
                return -1;
        }
        s += len;
    }
    memcpy(c->proxies, list, (size_t)n * sizeof(list[0]));
    c->n_proxies = n;
    return 0;
}

static int set_admission(struct config *c, const struct key *k, const char *text)
{
    return config_admission_valid(text) ? set_text(c, k, text) : -1;
}

/* ---- the table ---- */

static const char *const admit_names[] = {"all", "any", NULL};
static const char *const tls_names[] = {"auto", "manual", "acme", "off", NULL};
static const char *const level_names[] = {"debug", "info", "warn", "error", NULL};
static const char *const format_names[] = {"text", "json", NULL};

#define AT(member)  offsetof(struct config, member)
#define LISTEN_MAP  "ADDR:PORT, :PORT or off (ADDR an IP address, IPv6 in brackets; port 0: as the map says)"
#define LISTEN_HERE "ADDR:PORT, :PORT or off (ADDR an IP address, IPv6 in brackets)"

static const struct key keys[] = {
    {.name = "map",
     .meaning = "the shared derpMap: JSON, tailnet policy or Headscale YAML",
     .wants = "a file",
     .set = set_path,
     .at = AT(map_file)},
    {.name = "node",
     .meaning = "this node's Name in the map (900/1 where names repeat)",
     .wants = "a name",
     .set = set_text,
     .at = AT(node)},
    {.name = "state",
     .def = "/var/lib/derpmesh",
     .meaning = "node key, boot counter, pins, made certificates",
     .wants = "a directory",
     .set = set_path,
     .at = AT(state)},
    {.name = "key_file",
     .shown = "STATE/node.key",
     .meaning = "node key in derper's form; an existing derper.key is reused",
     .wants = "a file",
     .set = set_path,
     .at = AT(key_file)},
    {.name = "mesh_key_file",
     .shown = "none: no mesh",
     .meaning = "up to four lines of 64 hex digits, the first is used",
     .wants = "a file",
     .set = set_path,
     .at = AT(mesh_key_file)},
    {.name = "mesh_pins",
     .shown = "none: the first key seen stays",
     .meaning = "file of lines NAME nodekey:HEX; a node named there is taken with that key alone",
     .wants = "a file",
     .set = set_path,
     .at = AT(mesh_pins)},
    {.name = "derper_peers",
     .shown = "none",
     .meaning = "nodes of the map that are Tailscale's derper (docs/derper-peers.md)",
     .wants = "names of nodes, separated by commas",
     .set = set_text,
     .at = AT(derper_peers)},
    {.name = "derper_mesh_key_file",
     .shown = "none",
     .meaning = "64 hex digits shared with those derpers, never the key of mesh_key_file",
     .wants = "a file",
     .set = set_path,
     .at = AT(derper_mesh_key_file)},
    {.name = "listen",
     .def = ":0",
     .shown = "from the map",
     .meaning = "DERP, WebSocket, mesh and pages",
     .wants = LISTEN_MAP,
     .set = set_listen_map,
     .at = AT(listen)},
    {.name = "listen_http",
     .def = ":80",
     .meaning = "plain HTTP: captive portal checks, redirects",
     .wants = LISTEN_HERE,
     .set = set_listen,
     .at = AT(listen_http)},
    {.name = "listen_stun",
     .def = ":0",
     .shown = "from the map",
     .meaning = "STUN over UDP",
     .wants = LISTEN_MAP,
     .set = set_listen_map,
     .at = AT(listen_stun)},
    {.name = "tls",
     .def = "auto",
     .meaning = "auto, manual, acme; off: a proxy in front terminates it",
     .wants = "auto, manual, acme or off",
     .set = set_choice,
     .at = AT(tls),
     .choices = tls_names},
    {.name = "cert_dir",
     .shown = "STATE/certs",
     .meaning = "HOST.crt and HOST.key, or certbot's live/HOST/",
     .wants = "a directory",
     .set = set_path,
     .at = AT(cert_dir)},
    {.name = "acme_email",
     .shown = "none",
     .meaning = "address given to the certificate authority",
     .wants = "an address",
     .set = set_text,
     .at = AT(acme_email)},
    {.name = "acme_url",
     .shown = "Let's Encrypt",
     .meaning = "directory of another certificate authority",
     .wants = "a URL",
     .set = set_text,
     .at = AT(acme_url)},
    {.name = "trusted_proxies",
     .def = "loopback",
     .meaning = "whose X-Forwarded-For and X-Real-IP count; or none",
     .wants = "up to 32 IP addresses or prefixes (10.0.0.0/8), loopback or none",
     .set = set_proxies,
     .at = AT(proxies)},
    {.name = "proxy_protocol",
     .def = "off",
     .meaning = "on: trusted proxies begin each connection with a PROXY header (v1 or v2)",
     .wants = "on or off",
     .set = set_bool,
     .at = AT(proxy_protocol)},
    {.name = "mesh_proxied",
     .shown = "none",
     .meaning = "nodes of the map behind a proxy that ends TLS (theirs: tls off)",
     .wants = "names of nodes, separated by commas",
     .set = set_text,
     .at = AT(mesh_proxied)},
    {.name = "mesh_congestion",
     .def = "bbr",
     .meaning = "congestion control of connections between nodes, where the kernel has it",
     .wants = "its name, or system",
     .set = set_congestion,
     .at = AT(mesh_congestion)},
    {.name = "mesh_lanes",
     .def = "auto",
     .shown = "2 with bbr, else 4",
     .meaning = "connections for data to each node, beside the one for control",
     .wants = "a number from 0 to 4, or auto",
     .set = set_lanes,
     .at = AT(mesh_lanes),
     .min = 0,
     .max = 4},
    {.name = "workers",
     .def = "auto",
     .shown = "one a core",
     .meaning = "threads that carry traffic",
     .wants = "a number from 1 to 256, or auto",
     .set = set_workers,
     .at = AT(workers),
     .min = 1,
     .max = 256},
    {.name = "keepalive",
     .def = "25s-45s",
     .meaning = "time between KeepAlive frames, jittered",
     .wants = "a duration or two (25s-45s) from 100ms to 100s; clients give up after 120s",
     .set = set_keepalive,
     .at = AT(keepalive_min_ms),
     .min = 100,
     .max = 100000},
    {.name = "max_clients",
     .def = "auto",
     .shown = "from memory",
     .meaning = "clients at a time",
     .wants = "a number up to 10000000, or auto",
     .set = set_number_auto,
     .at = AT(max_clients),
     .max = 10000000},
    {.name = "client_rate",
     .def = "off",
     .meaning = "bytes/s that a client may send (payloads of frames)",
     .wants = "a number of bytes/s from 1000 to 4294967295, or off",
     .set = set_rate,
     .at = AT(client_rate),
     .min = 1000,
     .max = UINT32_MAX},
    {.name = "client_burst",
     .def = "65568",
     .meaning = "bytes that it may send at once when it has been silent",
     .wants = "a number of bytes from 65568 (the largest frame) to 1000000000",
     .set = set_number,
     .at = AT(client_burst),
     .min = RATE_BURST_MIN,
     .max = 1000000000},
    {.name = "login_limit",
     .def = "2048",
     .meaning = "connections before login, in all",
     .wants = "a number from 1 to 1000000",
     .set = set_number,
     .at = AT(login_limit),
     .min = 1,
     .max = 1000000},
    {.name = "login_limit_ip",
     .def = "64",
     .meaning = "the same for one IPv4 address or IPv6 /64",
     .wants = "a number from 1 to 1000000",
     .set = set_number,
     .at = AT(login_limit_ip),
     .min = 1,
     .max = 1000000},
    {.name = "admission",
     .shown = "as the next three say",
     .meaning = "who may use the node, in one: a file of keys, a URL, a socket (/….sock); or open",
     .wants = CONFIG_ADMISSION_WANTS,
     .set = set_admission,
     .at = AT(admission)},
    {.name = "allow",
     .shown = "none",
     .meaning = "file of node keys that may use the node, one a line",
     .wants = "a file",
     .set = set_path,
     .at = AT(allow)},
    {.name = "verify_url",
     .shown = "none",
     .meaning = "admission service that is asked (Headscale: /verify)",
     .wants = "an http or https URL",
     .set = set_url,
     .at = AT(verify_url)},
    {.name = "verify_socket",
     .shown = "none",
     .meaning = "tailscaled's socket: its tailnet's nodes are admitted",
     .wants = "a path of at most 107 bytes",
     .set = set_socket,
     .at = AT(verify_socket)},
    {.name = "verify_fail_open",
     .def = "false",
     .meaning = "admit clients while verify_url cannot be reached",
     .wants = "true or false",
     .set = set_bool,
     .at = AT(verify_fail_open)},
    {.name = "admit",
     .def = "all",
     .meaning = "all: every one of those above must admit; any: one is enough",
     .wants = "all or any",
     .set = set_choice,
     .at = AT(admit),
     .choices = admit_names},
    {.name = "transit",
     .def = "on",
     .meaning = "off: carries no detours of others (metered traffic)",
     .wants = "on or off",
     .set = set_bool,
     .at = AT(transit)},
    {.name = "metrics",
     .def = "127.0.0.1:9911",
     .meaning = "Prometheus text and the status page",
     .wants = LISTEN_HERE,
     .set = set_listen,
     .at = AT(metrics)},
    {.name = "admin",
     .def = "/run/derpmesh/admin.sock",
     .meaning = "Unix socket for status, where",
     .wants = "a path",
     .set = set_path,
     .at = AT(admin)},
    {.name = "drain_timeout",
     .def = "20s",
     .meaning = "after SIGTERM, how long clients may take to leave",
     .wants = "a duration (20s, 1m30s) up to 1h",
     .set = set_duration,
     .at = AT(drain_timeout_ms),
     .max = 3600000},
    {.name = "log_level",
     .def = "info",
     .meaning = "debug, info, warn, error",
     .wants = "debug, info, warn or error",
     .set = set_choice,
     .at = AT(log_level),
     .choices = level_names},
    {.name = "log_format",
     .def = "text",
     .meaning = "text, json",
     .wants = "text or json",
     .set = set_choice,
     .at = AT(log_format),
     .choices = format_names},
};

enum { N_KEYS = sizeof(keys) / sizeof(keys[0]) };
_Static_assert(sizeof(keys) / sizeof(keys[0]) <= (size_t)CONFIG_KEYS_MAX,
               "the file reader keeps a line for each key");

/* ---- names ---- */

/* name as it is written at that place. */
static void name_write(char out[static CONFIG_NAME_MAX], const char *name, enum config_place place)
{
    static const char *const prefixes[] = {"", "--", "DERPMESH_"};

    snprintf(out, CONFIG_NAME_MAX, "%s%s", prefixes[place], name);
    for (char *s = out; *s; s++) {
        if (place == CONFIG_FLAG && *s == '_')
            *s = '-';
        else if (place == CONFIG_ENV && *s >= 'a' && *s <= 'z')
            *s = (char)(*s - 32);
    }
}

static bool name_is(const char *text, const char *name, enum config_place place)
{
    char bare[CONFIG_NAME_MAX];
    static const size_t prefix_len[] = {0, 2, 9};

    name_write(bare, name, place);
    return strcmp(text, bare + prefix_len[place]) == 0;
}

int config_key_find(const char *name, enum config_place place)
{
    for (int i = 0; i < N_KEYS; i++)
        if (name_is(name, keys[i].name, place))
            return i;
    return -1;
}

const char *config_key_name(char out[static CONFIG_NAME_MAX], int i, enum config_place place)
{
    name_write(out, keys[i].name, place);
    return out;
}

bool config_key_is_list(int i)
{
    return keys[i].set == set_proxies;
}

void config_key_unknown(const char *name, enum config_place place, char *why, size_t why_len)
{
    static const char *const kinds[] = {"key", "flag", "variable"};
    const char *names[N_KEYS + 1];
    char quoted[80], near[CONFIG_NAME_MAX];

    for (int i = 0; i < N_KEYS; i++)
        names[i] = keys[i].name;
    names[N_KEYS] = "config";
    log_quote(quoted, sizeof(quoted), name, strlen(name));
    const char *best = suggest_nearest(name, names, place == CONFIG_FILE ? N_KEYS : N_KEYS + 1);
    if (best)
        name_write(near, best, place);
    snprintf(why, why_len, "unknown %s %s%s%s%s", kinds[place],
             place == CONFIG_FLAG  ? "--"
             : place == CONFIG_ENV ? "DERPMESH_"
                                   : "",
             quoted, best ? ", did you mean " : "", best ? near : "");
    if (best && strlen(why) + 1 < why_len)
        strcat(why, "?");
}

/* ---- doors ---- */

/* A mesh key where its file's name belongs: it must not go into a message. */
static bool is_secret(const char *text)
{
    return strspn(text, "0123456789abcdefABCDEF") >= 64 || strncmp(text, "privkey:", 8) == 0;
}

int config_key_set(struct config *c, int i, const char *text, char *why, size_t why_len)
{
    const struct key *k = &keys[i];
    char quoted[120];

    if (*text == 0)
        snprintf(why, why_len, "has no value; it wants %s", k->wants);
    else if (k->set == set_path && is_secret(text))
        snprintf(why, why_len, "wants %s, not the key itself", k->wants);
    else if (strlen(text) >= 4096 || k->set(c, k, text))
        snprintf(why, why_len, "wants %s, not %s", k->wants,
                 log_quote(quoted, sizeof(quoted), text, strlen(text)));
    else
        return 0;
    return -1;
}

int config_defaults(struct config *c)
{
    char why[256];

    for (int i = 0; i < N_KEYS; i++)
        if (keys[i].def && config_key_set(c, i, keys[i].def, why, sizeof(why)))
            return -1;
    return 0;
}

void config_keys(void (*out)(void *ctx, const char *key, const char *def, const char *meaning), void *ctx)
{
    for (int i = 0; i < N_KEYS; i++)
        out(ctx, keys[i].name,
            keys[i].shown ? keys[i].shown
            : keys[i].def ? keys[i].def
                          : "required",
            keys[i].meaning);
}
