/* Map, keys and certificate, loaded as one: all of it is good, or nothing is used.
 *
 * Happy path: site_load reads the map, finds this node in it, reads (or makes) the node key, reads the mesh
 * keys, loads (or makes) the certificate, makes the context for links.
 * Failure: the first fault ends it with one sentence: which file, where in it, what to do. */
#include "node/site.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/keystore.h"
#include "node/listen.h"

enum { MAP_FILE_MAX = 4 << 20, NAMES_LISTED = 12 };

/* Appends a line to what is there already. */
static void __attribute__((format(printf, 3, 4))) add_line(char *buf, size_t len, const char *fmt, ...)
{
    size_t have = strlen(buf);
    if (have && have + 2 < len)
        buf[have++] = '\n';
    if (have + 1 >= len)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(buf + have, len - have, fmt, ap);
    va_end(ap);
}

void site_warn_lines(char *text, void (*line)(void *ctx, const char *text), void *ctx)
{
    char *save = NULL;
    for (char *one = strtok_r(text, "\n", &save); one; one = strtok_r(NULL, "\n", &save))
        line(ctx, one);
}

/* The whole file, malloc'd and NUL-terminated.  NULL with a sentence. */
static char *read_file(const char *file, size_t *n, char *err, size_t err_len)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    char *text = NULL;
    size_t have = 0;
    if (fd < 0) {
        snprintf(err, err_len, "map: cannot open %s: %s", file, strerror(errno));
        return NULL;
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        snprintf(err, err_len, "map: %s is no regular file", file);
        goto fail;
    }
    if (st.st_size > MAP_FILE_MAX) {
        snprintf(err, err_len, "map: %s has %lld bytes, more than the %d that a map may have", file,
                 (long long)st.st_size, MAP_FILE_MAX);
        goto fail;
    }
    size_t want = (size_t)st.st_size;
    text = malloc(want + 1);
    while (text && have < want) {
        ssize_t got = read(fd, text + have, want - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    if (!text || have < want) {
        snprintf(err, err_len, "map: cannot read all of %s", file);
        goto fail;
    }
    text[have] = 0;
    *n = have;
    close(fd);
    return text;
fail:
    free(text);
    close(fd);
    return NULL;
}

static void put_place(char *out, size_t len, const char *file, const struct text_error *at)
{
    if (at->line)
        snprintf(out, len, "%s:%d:%d: %s", file, at->line, at->col, at->msg);
    else
        snprintf(out, len, "%s: %s", file, at->msg);
}

struct lint {
    const char *file;
    char *err, *warn;
    size_t err_len, warn_len;
    int errors;
};

static void on_finding(void *ctx, const struct derpmap_finding *f)
{
    struct lint *l = ctx;
    char line[400];
    put_place(line, sizeof(line), l->file, &f->at);
    if (!f->error)
        add_line(l->warn, l->warn_len, "%s", line);
    else if (l->errors++ == 0)
        snprintf(l->err, l->err_len, "%s", line);
}

struct derpmap *site_map_load(const char *file, char *err, size_t err_len, char *warn, size_t warn_len)
{
    size_t n;
    struct text_error at;
    struct lint l = {.file = file, .err = err, .err_len = err_len, .warn = warn, .warn_len = warn_len};
    if (!file || !file[0]) {
        snprintf(err, err_len, "no map: say which with --map FILE");
        return NULL;
    }
    char *text = read_file(file, &n, err, err_len);
    if (!text)
        return NULL;
    struct derpmap *map = derpmap_parse(text, n, &at);
    free(text);
    if (!map) {
        put_place(err, err_len, file, &at);
        return NULL;
    }
    if (derpmap_lint(map, on_finding, &l) > 0) {
        size_t n_err = strlen(err);
        if (l.errors > 1)
            snprintf(err + n_err, err_len - n_err, " (and %d more: see derpmesh map check)", l.errors - 1);
        derpmap_free(map);
        return NULL;
    }
    return map;
}

/* A map that nobody wrote: nothing in it is worth a warning. */
static struct derpmap *map_of_text(const char *text, char *err, size_t err_len)
{
    struct text_error at;
    struct derpmap *map = derpmap_parse(text, strlen(text), &at);
    if (!map)
        snprintf(err, err_len, "%s", at.msg);
    return map;
}

static void list_names(char *out, size_t len, const struct derpmap *map)
{
    size_t at = 0;
    int listed = 0, left = 0;
    out[0] = 0;
    for (int i = 0; i < map->n_nodes; i++) {
        const struct derpmap_node *n = &map->nodes[i];
        if (n->backup)
            continue;
        if (listed >= NAMES_LISTED || at + strlen(n->id) + 24 >= len) {
            left++;
            continue;
        }
        at += (size_t)snprintf(out + at, len - at, "%s%s", listed++ ? ", " : "", n->id);
    }
    if (left)
        snprintf(out + at, len - at, " and %d more", left);
}

const struct derpmap_node *site_find_self(const struct derpmap *map, const char *name, char *err,
                                          size_t err_len)
{
    char names[300];
    const struct derpmap_node *found = NULL, *local = NULL;
    int n = 0, n_local = 0;
    list_names(names, sizeof(names), map);
    if (name && name[0]) {
        found = derpmap_find(map, name);
        if (!found)
            snprintf(err, err_len,
                     "node %s is not in the map (or its name is not unique there); the map has: %s", name,
                     names);
        return found;
    }
    for (int i = 0; i < map->n_nodes; i++) {
        const struct derpmap_node *d = &map->nodes[i];
        if (d->backup)
            continue;
        found = d;
        n++;
        if (listen_is_local(d->ipv4) || listen_is_local(d->ipv6) || listen_is_local(d->host_name)) {
            local = d;
            n_local++;
        }
    }
    if (n == 1)
        return found;
    if (n_local == 1)
        return local;
    snprintf(err, err_len, "which node of the map is this one? Say it with --node; the map has: %s", names);
    return NULL;
}

struct tls_server_params site_tls_params(const struct config *c, const struct derpmap_node *self,
                                         const struct derp_key *node_key)
{
    return (struct tls_server_params){
        .cert_dir = c->cert_dir,
        .host = self->host_name,
        .cert_name = self->cert_name,
        .may_make = c->tls == TLS_AUTO,
        .node_key = node_key,
        .ipv4 = self->ipv4,
        .ipv6 = self->ipv6,
    };
}

static int load_node_key(struct site *s, char *err, size_t err_len)
{
    const struct config *c = s->config;
    struct keystore ks = {.state = NULL, .dir_fd = -1, .lock_fd = -1};
    bool created;
    if (c->derper && c->derper->dev) {
        key_pair_from_secret(&s->node_key, c->derper->dev_key);
        return 0;
    }
    if (c->state && keystore_open(&ks, c->state, true, err, err_len) != 0)
        return -1;
    int rc = keystore_node_key(&ks, c->key_file, c->state != NULL, &s->node_key, &created, err, err_len);
    keystore_close(&ks);
    return rc;
}

/* The key for real derpers is sent to them: no other key may be the same. */
static int load_derper_key(struct site *s, char *err, size_t err_len)
{
    const struct config *c = s->config;
    if (!c->derper_mesh_key_file) {
        if (c->derper_peers)
            snprintf(err, err_len,
                     "derper_peers needs derper_mesh_key_file: the key that those derpers have");
        return c->derper_peers ? -1 : 0;
    }
    if (keystore_derper_key(c->derper_mesh_key_file, c->derper != NULL, &s->derper_key, err, err_len) != 0)
        return -1;
    for (int i = 0; i < s->mesh_keys.n; i++)
        if (sodium_memcmp(s->mesh_keys.key[i], s->derper_key.key[0], KEY_LEN) == 0) {
            snprintf(err, err_len,
                     "%s holds a key that is in %s too: derpers send theirs to each other, so it must be "
                     "another one; make it with: derpmesh keygen mesh",
                     c->derper_mesh_key_file, c->mesh_key_file);
            return -1;
        }
    return 0;
}

/* Each name of derper_peers must be one of the map: a mistyped one would be dialled as a node of the mesh. */
static int check_derper_peers(const struct site *s, char *err, size_t err_len)
{
    size_t n;
    for (const char *p = s->config->derper_peers; p && *p; p += n) {
        char name[256];
        p += strspn(p, ", ");
        n = strcspn(p, ", ");
        if (n == 0)
            continue;
        snprintf(name, sizeof(name), "%.*s", (int)n, p);
        if (derpmap_find(s->map, name))
            continue; /* this node's own name too: one list serves all nodes while derpers are replaced */
        snprintf(err, err_len, "derper_peers: %.64s is not in the map", name);
        return -1;
    }
    return 0;
}

bool site_is_derper(const struct site *s, const struct derpmap_node *node)
{
    return config_list_has(s->config->derper_peers, node->id);
}

static int load_pins(struct site *s, char *err, size_t err_len)
{
    if (!s->config->mesh_pins)
        return 0;
    if (keystore_pins_load(s->config->mesh_pins, &s->pins, err, err_len) != 0)
        return -1;
    s->mesh_pins = calloc(s->pins.n, sizeof(*s->mesh_pins));
    if (!s->mesh_pins) {
        snprintf(err, err_len, "out of memory");
        return -1;
    }
    for (size_t i = 0; i < s->pins.n; i++)
        s->mesh_pins[i] = (struct mesh_pin){.name = s->pins.v[i].name, .key = s->pins.v[i].key};
    return 0;
}

static int load_keys(struct site *s, char *err, size_t err_len)
{
    const struct config *c = s->config;
    if (load_node_key(s, err, err_len) != 0)
        return -1;
    sodium_bin2hex(s->node_key_hex, sizeof(s->node_key_hex), s->node_key.pub.b, KEY_LEN);
    if (c->mesh_key_file && keystore_mesh_keys(c->mesh_key_file, &s->mesh_keys, err, err_len) != 0)
        return -1;
    if (load_pins(s, err, err_len) != 0)
        return -1;
    return load_derper_key(s, err, err_len);
}

/* tls: acme, and no certificate that can be served: one of our own until the authority's is there.  0 or -1. */
static int make_meanwhile(const struct tls_server_params *p, enum tls_fault fault, char *err, size_t err_len)
{
    static const char *const ends[] = {"crt", "key"};
    char file[512], pin[65], path[1024], away[1040];
    uint8_t ip[16];
    if (inet_pton(AF_INET, p->host, ip) == 1 || inet_pton(AF_INET6, p->host, ip) == 1) {
        snprintf(err, err_len,
                 "tls: acme needs a DNS name as HostName in the map, not the address %s; with tls: auto a "
                 "certificate "
                 "is made, and the log prints its pin for the map",
                 p->host);
        return -1;
    }
    if (fault != TLS_FAULT_MISSING && fault != TLS_FAULT_EXPIRED)
        return -1;
    for (int i = 0; i < 2 && fault == TLS_FAULT_EXPIRED; i++) {
        snprintf(path, sizeof(path), "%s/%s.%s", p->cert_dir, p->host, ends[i]);
        snprintf(away, sizeof(away), "%s.expired", path);
        rename(path, away);
    }
    snprintf(path, sizeof(path), "%s", p->cert_dir);
    for (char *s = path + 1; s && *s; s++) { /* derper's default has several that are not there */
        s = strchr(s, '/');
        if (s)
            *s = 0;
        if (mkdir(path, 0700) != 0 && errno != EEXIST) {
            snprintf(err, err_len, "cannot make %s: %s", path, strerror(errno));
            return -1;
        }
        if (!s)
            break;
        *s = '/';
    }
    return tls_made_new(p->cert_dir, p->host, file, pin, err, err_len);
}

static int load_tls(struct site *s, char *err, size_t err_len, char *warn, size_t warn_len)
{
    const struct config *c = s->config;
    char doubt[1024] = "";
    if (c->tls != TLS_OFF) {
        enum tls_fault fault = TLS_FAULT_NONE;
        struct tls_server_params p = site_tls_params(c, s->self, &s->node_key.pub);
        p.fault = &fault;
        s->tls = tls_server_load(&p, err, err_len, doubt, sizeof(doubt));
        if (!s->tls && c->tls == TLS_ACME && make_meanwhile(&p, fault, err, err_len) == 0)
            s->tls = tls_server_load(&p, err, err_len, doubt, sizeof(doubt));
        if (!s->tls)
            return -1;
        if (c->tls == TLS_ACME && s->tls->self_issued)
            snprintf(doubt, sizeof(doubt),
                     "a certificate of our own is served until the certificate authority's is "
                     "there; clients do not trust it");
        if (doubt[0])
            add_line(warn, warn_len, "%s", doubt);
    }
    s->dial_ctx = tls_client_ctx_new(err, err_len);
    return s->dial_ctx ? 0 : -1;
}

struct site *site_load(struct config *config, char *err, size_t err_len, char *warn, size_t warn_len)
{
    err[0] = warn[0] = 0;
    /* Pages that are not swapped or dumped: it holds the keys. */
    struct site *s = sodium_malloc(sizeof(*s));
    if (!s) {
        config_free(config);
        snprintf(err, err_len, "out of memory");
        return NULL;
    }
    memset(s, 0, sizeof(*s));
    atomic_init(&s->refs, 1);
    s->config = config;
    if (config->doubts)
        add_line(warn, warn_len, "%s", config->doubts);
    s->map = config->map_text ? map_of_text(config->map_text, err, err_len)
                              : site_map_load(config->map_file, err, err_len, warn, warn_len);
    if (!s->map)
        goto fail;
    s->peers = calloc((size_t)s->map->n_nodes + 1, sizeof(*s->peers));
    if (!s->peers) {
        snprintf(err, err_len, "out of memory");
        goto fail;
    }
    s->self = site_find_self(s->map, config->node, err, err_len);
    if (!s->self || check_derper_peers(s, err, err_len) != 0 || load_keys(s, err, err_len) != 0 ||
        load_tls(s, err, err_len, warn, warn_len) != 0)
        goto fail;
    if (config->allow && !(s->allow = allow_load(config->allow, err, err_len)))
        goto fail;
    return s;
fail:
    site_unref(s);
    return NULL;
}

struct site *site_with_tls(struct site *like, struct tls_server *tls)
{
    struct site *root = like->base ? like->base : like, *s = sodium_malloc(sizeof(*s));
    if (!s) {
        tls_server_unref(tls);
        return NULL;
    }
    memcpy(s, root, sizeof(*s));
    atomic_init(&s->refs, 1);
    s->base = site_ref(root);
    s->allow = allow_ref(root->allow);
    s->tls = tls;
    return s;
}

struct site *site_ref(struct site *s)
{
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void site_unref(struct site *s)
{
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (s->tls)
        tls_server_unref(s->tls);
    allow_unref(s->allow);
    if (s->base) {
        site_unref(s->base);
    } else {
        SSL_CTX_free(s->dial_ctx);
        derpmap_free(s->map);
        free(s->peers);
        free(s->mesh_pins);
        keystore_peers_free(&s->pins);
        config_free((struct config *)s->config);
    }
    key_pair_wipe(&s->node_key);
    sodium_memzero(&s->mesh_keys, sizeof(s->mesh_keys));
    sodium_memzero(&s->derper_key, sizeof(s->derper_key));
    sodium_free(s);
}
