/* derpmesh check: what serve would do, without doing it.
 *
 * Happy path: one line a thing: map, node, keys, certificate, ports.  Failure: a line with the same sentence
 * that serve would end with; what depends on it is left out. */
#include "node/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/allow.h"
#include "node/keystore.h"
#include "node/listen.h"
#include "node/site.h"
#include "node/status.h"
#include "node/verify_url.h"

struct check {
    void (*say)(void *ctx, bool ok, const char *line);
    void *ctx;
    int faults;
};

static void __attribute__((format(printf, 3, 4))) say(struct check *c, bool ok, const char *fmt, ...)
{
    char line[1200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    c->faults += !ok;
    c->say(c->ctx, ok, line);
}

static void say_doubt(void *ctx, const char *sentence)
{
    say(ctx, true, "warning: %s", sentence);
}

/* 0 with the public key if there is one or serve would make one (then it is zero). */
static int check_node_key(struct check *c, const struct config *config, struct derp_key *pub)
{
    char err[512];
    struct keystore ks;
    struct key_pair kp;
    bool created;
    size_t n = strlen(config->state);
    bool ours =
        strncmp(config->key_file, config->state, n) == 0 && strcmp(config->key_file + n, "/node.key") == 0;
    memset(pub, 0, sizeof(*pub));
    int rc = keystore_open(&ks, config->state, false, err, sizeof(err));
    if (rc == 0) {
        rc = keystore_node_key(&ks, config->key_file, false, &kp, &created, err, sizeof(err));
        keystore_close(&ks);
    } else if (rc == -ENOENT && !ours) {
        say(c, false, "%s", err);
        return -1;
    }
    if (rc == -ENOENT && ours) {
        say(c, true, "node key: %s is not there yet, the first start makes it", config->key_file);
        return 0;
    }
    if (rc != 0) {
        say(c, false, "%s", err);
        return -1;
    }
    char text[KEY_TEXT_MAX];
    *pub = kp.pub;
    key_pair_wipe(&kp);
    key_public_text(text, pub);
    say(c, true, "node key: %s, public key %s", config->key_file, text);
    return 0;
}

static void check_mesh_keys(struct check *c, const struct config *config)
{
    char err[512];
    struct mesh_keys keys;
    if (!config->mesh_key_file)
        say(c, true, "mesh: off (no mesh_key_file)");
    else if (keystore_mesh_keys(config->mesh_key_file, &keys, err, sizeof(err)) != 0)
        say(c, false, "%s", err);
    else
        say(c, true, "mesh: %s holds %d key%s", config->mesh_key_file, keys.n, keys.n == 1 ? "" : "s");
    sodium_memzero(&keys, sizeof(keys));
    struct keystore_peers pins;
    if (!config->mesh_pins)
        return;
    if (keystore_pins_load(config->mesh_pins, &pins, err, sizeof(err)) != 0) {
        say(c, false, "%s", err);
        return;
    }
    say(c, true, "mesh: %s names the keys of %zu nodes", config->mesh_pins, pins.n);
    keystore_peers_free(&pins);
}

static void check_admission(struct check *c, const struct config *config)
{
    char err[512], url[VERIFY_URL_SHOWN];
    if (!config_admission(config))
        say(c, true, "warning: %s", STATUS_OPEN);
    struct allow_set *set = config->allow ? allow_load(config->allow, err, sizeof(err)) : NULL;
    if (set)
        say(c, true, "admission: %s holds %zu keys", config->allow, allow_count(set));
    else if (config->allow)
        say(c, false, "%s", err);
    allow_unref(set);
    if (config->verify_url)
        say(c, true, "admission: %s is asked", verify_url_shown(url, config->verify_url));
    if (config->verify_socket && access(config->verify_socket, R_OK | W_OK) != 0)
        say(c, true, "warning: %s: %s; while that is so nobody is admitted", config->verify_socket,
            strerror(errno));
    else if (config->verify_socket)
        say(c, true, "admission: %s is asked", config->verify_socket);
}

static bool is_ip(const char *text)
{
    uint8_t ip[16];
    return inet_pton(AF_INET, text, ip) == 1 || inet_pton(AF_INET6, text, ip) == 1;
}

/* tls: acme is done by another program. */
static void check_acme(struct check *c)
{
    char *path = strdup(getenv("PATH") ? getenv("PATH") : ""), *save = NULL, file[1024];
    bool found = false;
    for (char *dir = path ? strtok_r(path, ":", &save) : NULL; dir && !found;
         dir = strtok_r(NULL, ":", &save)) {
        snprintf(file, sizeof(file), "%s/uacme", dir);
        found = access(file, X_OK) == 0;
    }
    free(path);
    if (!found)
        say(c, false,
            "tls: acme needs the program uacme, which is not installed (Debian: apt-get install uacme)");
}

static void check_certificate(struct check *c, const struct config *config, const struct derpmap_node *self,
                              const struct derp_key *pub)
{
    char err[512], warn[512] = "", file[1024], until[STATUS_TIME];
    if (config->tls == TLS_OFF) {
        say(c, true, "certificate: none, tls is off");
        return;
    }
    if (config->tls == TLS_ACME)
        check_acme(c);
    snprintf(file, sizeof(file), "%s/%s.crt", config->cert_dir, self->host_name);
    if (config->tls == TLS_AUTO && is_ip(self->host_name) && access(file, F_OK) != 0 && errno == ENOENT) {
        say(c, true, "certificate: none yet, the first start makes one for %s and prints its pin",
            self->host_name);
        return;
    }
    struct tls_server_params p = site_tls_params(config, self, pub);
    p.may_make = false;
    enum tls_fault fault = TLS_FAULT_NONE;
    p.fault = &fault;
    struct tls_server *t = tls_server_load(&p, err, sizeof(err), warn, sizeof(warn));
    if (!t && config->tls == TLS_ACME && !is_ip(self->host_name) && fault == TLS_FAULT_MISSING) {
        say(c, true, "certificate: none yet, the first start asks the certificate authority for one for %s",
            self->host_name);
        return;
    }
    if (!t) {
        say(c, false, "%s", err);
        return;
    }
    say(c, true, "certificate: %s for %s until %s", t->file, t->names, status_time(until, t->not_after));
    if (warn[0])
        say(c, true, "warning: %s", warn);
    tls_server_unref(t);
}

static void check_ports(struct check *c, const struct config *config, const struct derpmap_node *self)
{
    struct listen_plan plan;
    char err[512];
    if (listen_plan(&plan, config, self, err, sizeof(err)) != 0) {
        say(c, false, "%s", err);
        return;
    }
    for (int k = 0; k < LISTEN_KINDS; k++) {
        const struct listen_at *a = &plan.at[k];
        const char *name = listen_setting((enum listen_kind)k);
        if (!a->on)
            say(c, true, "%s: off", name);
        else if (listen_probe(a, (enum listen_kind)k, err, sizeof(err)) == 0)
            say(c, true, "%s: %s can be bound", name, a->text);
        else if (a->optional)
            say(c, true, "warning: %s; serve goes on without it", err);
        else
            say(c, false, "%s", err);
    }
}

int server_check(struct config *config, void (*out)(void *ctx, bool ok, const char *line), void *ctx)
{
    struct check c = {out, ctx, 0};
    char err[1024] = "", warn[1024] = "";
    struct derp_key pub;
    if (sodium_init() < 0) {
        say(&c, false, "no random numbers");
        return c.faults;
    }
    struct derpmap *map = site_map_load(config->map_file, err, sizeof(err), warn, sizeof(warn));
    const struct derpmap_node *self = NULL;
    if (!map) {
        say(&c, false, "%s", err);
    } else {
        say(&c, true, "map: %s, %d regions", config->map_file, map->n_regions);
        site_warn_lines(warn, say_doubt, &c);
        self = site_find_self(map, config->node, err, sizeof(err));
        if (self)
            say(&c, true, "node: %s in region %d", self->id, self->region_id);
        else
            say(&c, false, "%s", err);
    }
    bool key = check_node_key(&c, config, &pub) == 0;
    check_mesh_keys(&c, config);
    check_admission(&c, config);
    if (self && key)
        check_certificate(&c, config, self, &pub);
    if (self)
        check_ports(&c, config, self);
    derpmap_free(map);
    return c.faults;
}
