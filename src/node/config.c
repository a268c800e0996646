/* The settings of a node, in layers: defaults, then the YAML file, then DERPMESH_* of the environment, then flags.
 *
 * Happy path: the flags are read once for --config alone, the file and the environment are applied, then the flags
 * again for their values; last come the defaults that depend on other keys.  Every layer is checked in full, also
 * where a later one wins.
 * How it fails: at the first fault, with one sentence that says where it stands; nothing half-loaded is given out. */
#include "node/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sodium.h>

#include "node/config_parts.h"

static const char default_file[] = "/etc/derpmesh/derpmesh.yaml";
static const char derper_key_file[] = "/var/lib/derper/derper.key";
static const char env_prefix[] = "DERPMESH_";

struct load {
    struct config *c;
    const char *file; /* of --config or DERPMESH_CONFIG, NULL: the default one if there */
    char *err;
    size_t err_len;
    bool *usage;
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

/* ---- flags ---- */

/* The flag at argv[*at]: its name without dashes into name, its value; *at moves behind both.  0 or -1. */
static int flag_next(const struct load *l, int argc, char **argv, int *at, char name[static CONFIG_NAME_MAX],
                     const char **value)
{
    char quoted[120];
    const char *arg = argv[*at];
    size_t n = strcspn(arg, "=");

    if (strncmp(arg, "--", 2) != 0 || arg[2] == 0 || n - 2 >= CONFIG_NAME_MAX)
        return fail(l, "unexpected argument %s; flags are written --name value or --name=value",
                    log_quote(quoted, sizeof(quoted), arg, strlen(arg)));
    memcpy(name, arg + 2, n - 2);
    name[n - 2] = 0;
    if (strcmp(name, "config") != 0 && config_key_find(name, CONFIG_FLAG) < 0) {
        config_key_unknown(name, CONFIG_FLAG, l->err, l->err_len);
        return -1;
    }
    *at += 1;
    if (arg[n] == '=') {
        *value = arg + n + 1;
    } else if (*at < argc && strncmp(argv[*at], "--", 2) != 0) {
        *value = argv[*at];
        *at += 1;
    } else {
        return fail(l, "--%s needs a value", name);
    }
    return 0;
}

/* First pass (apply false): is all of it well-formed, and which file?  Second pass: the values. */
static int flags_read(struct load *l, int argc, char **argv, bool apply)
{
    char name[CONFIG_NAME_MAX], why[512];
    const char *value = NULL;

    *l->usage = true;
    for (int at = 0; at < argc;) {
        if (flag_next(l, argc, argv, &at, name, &value))
            return -1;
        if (strcmp(name, "config") == 0)
            l->file = value;
        else if (apply && config_key_set(l->c, config_key_find(name, CONFIG_FLAG), value, why, sizeof(why)))
            return fail(l, "--%s %s", name, why);
    }
    *l->usage = false;
    return 0;
}

/* ---- environment ---- */

/* What Kubernetes puts into every container for a service called "derpmesh" is none of ours. */
static bool is_service_link(const char *name)
{
    return strncmp(name, "SERVICE_", 8) == 0 || strcmp(name, "PORT") == 0 || strncmp(name, "PORT_", 5) == 0;
}

/* One DERPMESH_NAME=value.  An empty one counts as not set, as compose files write it. */
static int env_apply(struct load *l, const char *entry)
{
    char name[CONFIG_NAME_MAX], why[512];
    const char *from = entry + strlen(env_prefix), *value = strchr(from, '=');

    if (!value || value[1] == 0)
        return 0;
    snprintf(name, sizeof(name), "%.*s",
             (int)(value - from < CONFIG_NAME_MAX ? value - from : CONFIG_NAME_MAX), from);
    if (strcmp(name, "CONFIG") == 0 || is_service_link(name))
        return 0;
    int key = config_key_find(name, CONFIG_ENV);
    if (key < 0) {
        config_key_unknown(name, CONFIG_ENV, l->err, l->err_len);
        return -1;
    }
    if (config_key_set(l->c, key, value + 1, why, sizeof(why)))
        return fail(l, "%s%s %s", env_prefix, name, why);
    return 0;
}

static int env_read(struct load *l, char *const *envp)
{
    for (; envp && *envp; envp++)
        if (strncmp(*envp, env_prefix, strlen(env_prefix)) == 0 && env_apply(l, *envp))
            return -1;
    return 0;
}

static const char *env_config(char *const *envp)
{
    static const char name[] = "DERPMESH_CONFIG=";

    for (; envp && *envp; envp++)
        if (strncmp(*envp, name, strlen(name)) == 0 && (*envp)[strlen(name)])
            return *envp + strlen(name);
    return NULL;
}

/* ---- file ---- */

static int file_slurp(const struct load *l, const char *path, int fd, char *text, size_t *n)
{
    for (*n = 0;;) {
        ssize_t got = read(fd, text + *n, CONFIG_FILE_MAX + 1 - *n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail(l, "%s: cannot be read: %s", path, strerror(errno));
        *n += (size_t)got;
        if (*n > CONFIG_FILE_MAX)
            return fail(l, "%s: is larger than 1 MiB; is it the right file?", path);
        if (got == 0)
            return 0;
    }
}

static int file_read(struct load *l)
{
    const char *path = l->file ? l->file : default_file;
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = -1;
    size_t n;

    if (fd < 0 && !l->file && (errno == ENOENT || errno == ENOTDIR))
        return 0;
    if (fd < 0)
        return fail(l, "%s: cannot be read: %s", path, strerror(errno));
    char *text = malloc(CONFIG_FILE_MAX + 1);
    if (!text)
        fail(l, "out of memory");
    else if (file_slurp(l, path, fd, text, &n) == 0)
        rc = config_yaml(l->c, path, text, n, l->err, l->err_len);
    free(text);
    close(fd);
    return rc;
}

/* ---- what depends on other keys ---- */

static char *path_in(const char *dir, const char *name)
{
    char *out;
    const char *slash = dir[strlen(dir) - 1] == '/' ? "" : "/"; /* a directory is never empty here */

    return asprintf(&out, "%s%s%s", dir, slash, name) < 0 ? NULL : out;
}

int config_derive(struct config *c, const char *derper_key)
{
    if (!c->cert_dir && !(c->cert_dir = path_in(c->state, "certs")))
        return -1;
    if (c->key_file)
        return 0;
    c->key_file = path_in(c->state, "node.key");
    if (!c->key_file)
        return -1;
    if (access(c->key_file, F_OK) != 0 && access(derper_key, F_OK) == 0) {
        free(c->key_file);
        c->key_file = strdup(derper_key);
    }
    return c->key_file ? 0 : -1;
}

static int required(const struct load *l)
{
    *l->usage = true;
    if (!l->c->map_file)
        return fail(l, "no map: give the derpMap that all nodes share, --map FILE");
    *l->usage = false;
    return 0;
}

/* ---- doors ---- */

struct config *config_load(int argc, char **argv, char *const *envp, char *err, size_t err_len, bool *usage)
{
    struct load l = {.err = err, .err_len = err_len, .usage = usage, .file = env_config(envp)};

    *usage = false;
    l.c = calloc(1, sizeof(*l.c));
    if (!l.c || config_defaults(l.c)) {
        fail(&l, "out of memory");
        goto fail;
    }
    if (flags_read(&l, argc, argv, false) || file_read(&l) || env_read(&l, envp) ||
        flags_read(&l, argc, argv, true) || required(&l))
        goto fail;
    if (config_admission_apply(l.c, err, err_len))
        goto fail;
    if (config_derive(l.c, derper_key_file)) {
        fail(&l, "out of memory");
        goto fail;
    }
    return l.c;
fail:
    config_free(l.c);
    return NULL;
}

struct config *config_load_env(char *const *envp, char *err, size_t err_len)
{
    bool usage;
    struct load l = {.err = err, .err_len = err_len, .usage = &usage, .c = calloc(1, sizeof(*l.c))};

    if (!l.c || config_defaults(l.c))
        fail(&l, "out of memory");
    else if (env_read(&l, envp) == 0 && config_admission_apply(l.c, err, err_len) == 0)
        return l.c;
    config_free(l.c);
    return NULL;
}

static void derper_free(struct config_derper *d)
{
    if (!d)
        return;
    sodium_memzero(d->dev_key, sizeof(d->dev_key));
    free(d->home);
    free(d->names);
    free(d->unpublished);
    free(d);
}

void config_free(struct config *c)
{
    if (!c)
        return;
    derper_free(c->derper);
    free(c->map_text);
    free(c->doubts);
    free(c->map_file);
    free(c->node);
    free(c->state);
    free(c->key_file);
    free(c->mesh_key_file);
    free(c->mesh_pins);
    free(c->cert_dir);
    free(c->acme_email);
    free(c->acme_url);
    free(c->admin);
    free(c->mesh_proxied);
    free(c->mesh_congestion);
    free(c->derper_peers);
    free(c->derper_mesh_key_file);
    free(c->admission);
    free(c->allow);
    free(c->verify_url);
    free(c->verify_socket);
    free(c);
}
