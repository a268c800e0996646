/* A node's disk: keys, boot counter, pins, lock.
 *
 * Happy path at a start: keystore_open, keystore_lock, keystore_node_key, keystore_boot, keystore_peers_load.
 * How it fails: with a sentence, before anything was changed.  Only the boot counter is forgiving, as the clock can
 * stand in for it; a key or a pin that cannot be read never becomes a new one in silence. */
#include "node/keystore.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

#include "node/keystore_file.h"
#include "node/log.h"

enum { KEY_FILE_MAX = 4096, PEERS_FILE_MAX = 1 << 20, NAME_MAX_LEN = 255 };

static const char node_key_name[] = "node.key";
static const char boot_name[] = "boot";
static const char peers_name[] = "peers";
static const char lock_name[] = "lock";

/* STATE/name for messages and for comparing.  NULL without memory. */
static char *state_path(const struct keystore *ks, const char *name)
{
    char *out;
    const char *state = ks->state ? ks->state : "";
    size_t n = strlen(state);

    return asprintf(&out, "%s%s%s", state, n && state[n - 1] == '/' ? "" : "/", name) < 0 ? NULL : out;
}

/* ---- the directory ---- */

/* mkdir -p, the last one 0700. */
static int make_state(const char *state)
{
    char path[4096];
    size_t n = strlen(state);

    if (n == 0 || n >= sizeof(path))
        return -ENAMETOOLONG;
    memcpy(path, state, n + 1);
    for (size_t i = 1; i < n; i++) {
        if (path[i] != '/')
            continue;
        path[i] = 0;
        if (mkdir(path, 0755) && errno != EEXIST)
            return -errno;
        path[i] = '/';
    }
    return mkdir(path, 0700) && errno != EEXIST ? -errno : 0;
}

int keystore_open(struct keystore *ks, const char *state, bool create, char *err, size_t err_len)
{
    struct stat st;
    int rc;

    *ks = (struct keystore){.dir_fd = -1, .lock_fd = -1};
    rc = create ? make_state(state) : 0;
    if (rc)
        return keystore_fail(rc, err, err_len, "%s: cannot be made: %s; name another one with --state", state,
                             strerror(-rc));
    ks->dir_fd = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (ks->dir_fd < 0 || fstat(ks->dir_fd, &st)) {
        rc = keystore_fail(-errno, err, err_len, "%s: cannot be opened: %s", state, strerror(errno));
        goto fail;
    }
    ks->state = strdup(state);
    if (!ks->state) {
        rc = keystore_fail(-ENOMEM, err, err_len, "out of memory");
        goto fail;
    }
    if ((st.st_mode & S_IWOTH) && !(st.st_mode & S_ISVTX))
        log_warn("state", "anyone on this machine may write to the state directory, chmod 700 it dir=%s",
                 state);
    return 0;
fail:
    keystore_close(ks);
    return rc;
}

void keystore_close(struct keystore *ks)
{
    if (ks->lock_fd >= 0)
        close(ks->lock_fd);
    if (ks->dir_fd >= 0)
        close(ks->dir_fd);
    free(ks->state);
    *ks = (struct keystore){.dir_fd = -1, .lock_fd = -1};
}

int keystore_lock(struct keystore *ks, char *err, size_t err_len)
{
    char text[32];
    int fd = openat(ks->dir_fd, lock_name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600), rc = 0;

    if (fd < 0)
        return keystore_fail(-errno, err, err_len, "%s/%s: cannot be opened: %s", ks->state, lock_name,
                             strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
        if (ftruncate(fd, 0) || pwrite(fd, text, (size_t)n, 0) != n)
            log_debug("state", "the lock holds no process id errno=%d",
                      errno); /* a full disk; the lock counts */
        ks->lock_fd = fd;
        return 0;
    }
    rc = -errno;
    if (rc == -EWOULDBLOCK) {
        ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
        text[n > 0 ? strspn(text, "0123456789") < (size_t)n ? strspn(text, "0123456789") : (size_t)n : 0] = 0;
        keystore_fail(
            rc, err, err_len,
            "%s: another derpmesh (process %s) owns this directory; stop that one, or give this node its own "
            "with --state",
            ks->state, *text ? text : "unknown");
    } else {
        keystore_fail(rc, err, err_len, "%s/%s: cannot be locked: %s", ks->state, lock_name, strerror(-rc));
    }
    close(fd);
    return rc;
}

/* ---- keys ---- */

static int node_key_make(const struct keystore *ks, const char *shown, char *err, size_t err_len)
{
    struct key_pair kp;
    char text[160];

    key_pair_generate(&kp);
    int n = key_file_format(&kp, text, sizeof(text));
    int rc = n < 0 ? keystore_fail(-EINVAL, err, err_len, "%s: the key does not fit", shown)
                   : keystore_file_new(ks->dir_fd, node_key_name, shown, text, (size_t)n, err, err_len);
    key_pair_wipe(&kp);
    sodium_memzero(text, sizeof(text));
    return rc;
}

int keystore_node_key(const struct keystore *ks, const char *key_file, bool create, struct key_pair *kp,
                      bool *created, char *err, size_t err_len)
{
    char *own = state_path(ks, node_key_name), *text, why[160];
    size_t n;
    int rc;

    *created = false;
    if (!own || sodium_init() < 0) {
        free(own);
        return keystore_fail(-ENOMEM, err, err_len, "out of memory");
    }
    bool ours = ks->state && strcmp(own, key_file) == 0;
    free(own);
    /* derper does not look at the mode: whoever reads keys only does not either. */
    rc = keystore_file_read(AT_FDCWD, key_file, key_file, KEY_FILE_MAX, ks->state ? 077 : 0, &text, &n, err,
                            err_len);
    if (rc == -ENOENT && ours && create) {
        rc = node_key_make(ks, key_file, err, err_len);
        if (rc && rc != -EEXIST) /* someone was quicker: theirs counts */
            return rc;
        *created = rc == 0;
        rc = keystore_file_read(AT_FDCWD, key_file, key_file, KEY_FILE_MAX, 077, &text, &n, err, err_len);
    } else if (rc == -ENOENT && !ours) {
        keystore_fail(rc, err, err_len, "%s: there is no such file; make it with: derpmesh keygen node %s",
                      key_file, key_file);
    }
    if (rc)
        return rc;
    rc = key_file_parse(kp, text, n, why, sizeof(why)) ? -EINVAL : 0;
    if (rc)
        keystore_fail(rc, err, err_len, "%s: %s", key_file, why);
    keystore_text_free(text);
    return rc;
}

static int mesh_keys_read(const char *file, unsigned forbidden, struct mesh_keys *mk, char *err,
                          size_t err_len)
{
    char *text, why[160];
    size_t n;
    int rc = keystore_file_read(AT_FDCWD, file, file, KEY_FILE_MAX, forbidden, &text, &n, err, err_len);

    if (rc)
        return rc;
    if (mesh_keys_parse(mk, text, n, why, sizeof(why)))
        rc = keystore_fail(-EINVAL, err, err_len, "%s: %s", file, why);
    else if (mk->n == 0)
        rc = keystore_fail(-EINVAL, err, err_len, "%s: holds no key; make one with: derpmesh keygen mesh",
                           file);
    keystore_text_free(text);
    return rc;
}

int keystore_mesh_keys(const char *file, struct mesh_keys *mk, char *err, size_t err_len)
{
    return mesh_keys_read(file, 027, mk, err, err_len);
}

int keystore_derper_key(const char *file, bool lenient, struct mesh_keys *mk, char *err, size_t err_len)
{
    int rc = mesh_keys_read(file, lenient ? 0 : 027, mk, err, err_len);

    if (rc == 0 && mk->n != 1)
        rc = keystore_fail(-EINVAL, err, err_len, "%s: holds %d keys; real derpers share one", file, mk->n);
    return rc;
}

/* ---- boot ---- */

/* A decimal number, alone on its line, that JSON and a later start can hold.  0 or -1. */
static int boot_parse(const char *text, size_t n, uint64_t *out)
{
    size_t i = 0;

    *out = 0;
    for (; i < n && text[i] >= '0' && text[i] <= '9'; i++) {
        *out = *out * 10 + (uint64_t)(text[i] - '0');
        if (*out > UINT64_C(1) << 53)
            return -1;
    }
    return i > 0 && (i == n || (text[i] == '\n' && i + 1 == n)) ? 0 : -1;
}

int keystore_boot(const struct keystore *ks, uint64_t unix_ms, uint64_t *boot, char *err, size_t err_len)
{
    char *shown = state_path(ks, boot_name), *text = NULL, line[32];
    uint64_t stored = 0;
    size_t n = 0;

    if (!shown)
        return keystore_fail(-ENOMEM, err, err_len, "out of memory");
    int rc = keystore_file_read(ks->dir_fd, boot_name, shown, sizeof(line), 0, &text, &n, err, err_len);
    if (rc == -EFBIG || (rc == 0 && boot_parse(text, n, &stored))) {
        log_warn("state", "boot counter cannot be understood, the clock stands in file=%s", shown);
        stored = 0;
        rc = 0;
    } else if (rc == -ENOENT) {
        rc = 0;
    }
    if (rc == 0) {
        uint64_t value = stored + 1 > unix_ms ? stored + 1 : unix_ms;
        int len = snprintf(line, sizeof(line), "%" PRIu64 "\n", value);
        rc = keystore_file_replace(ks->dir_fd, boot_name, shown, line, (size_t)len, err, err_len);
        if (rc == 0)
            *boot = value;
    }
    keystore_text_free(text);
    free(shown);
    return rc;
}

/* ---- pins ---- */

/* What can stand in a line of its own and be found there again. */
static bool name_is_plain(const char *name, size_t n)
{
    if (n == 0 || n > NAME_MAX_LEN || name[0] == '#' || name[0] == ' ' || name[n - 1] == ' ')
        return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return false;
    return true;
}

/* One line without its newline.  1: a pin, 0: blank or comment, -EINVAL, -ENOMEM. */
static int peer_parse(struct keystore_peer *p, const char *line, size_t n)
{
    while (n && strchr(" \t\r", line[n - 1]))
        n--;
    while (n && (*line == ' ' || *line == '\t')) {
        line++;
        n--;
    }
    if (n == 0 || *line == '#')
        return 0;
    size_t key = n, name;
    while (key && line[key - 1] != ' ' && line[key - 1] != '\t')
        key--;
    for (name = key; name && (line[name - 1] == ' ' || line[name - 1] == '\t'); name--)
        ;
    if (!name_is_plain(line, name) || key_public_parse(&p->key, line + key, n - key))
        return -EINVAL;
    p->name = strndup(line, name);
    return p->name ? 1 : -ENOMEM;
}

static int by_name(const void *a, const void *b)
{
    const struct keystore_peer *x = a, *y = b;
    int c = strcmp(x->name, y->name);

    return c ? c : x->line - y->line;
}

static int peers_parse(struct keystore_peers *out, const char *text, size_t n, const char *shown, char *err,
                       size_t err_len)
{
    size_t lines = 1;
    int line = 1;

    for (size_t i = 0; i < n; i++)
        lines += text[i] == '\n';
    out->v = calloc(lines, sizeof(*out->v));
    if (!out->v)
        return keystore_fail(-ENOMEM, err, err_len, "out of memory");
    for (size_t at = 0; at < n; line++) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t len = end ? (size_t)(end - text) - at : n - at;
        int rc = peer_parse(&out->v[out->n], text + at, len);
        if (rc < 0)
            return keystore_fail(rc, err, err_len,
                                 "%s:%d: wants NAME nodekey:<64 hex digits>; mend or take out the line",
                                 shown, line);
        if (rc) {
            out->v[out->n].line = line;
            out->n++;
        }
        at += len + 1;
    }
    qsort(out->v, out->n, sizeof(*out->v), by_name);
    for (size_t i = 1; i < out->n; i++)
        if (strcmp(out->v[i - 1].name, out->v[i].name) == 0 && !key_equal(&out->v[i - 1].key, &out->v[i].key))
            return keystore_fail(-EINVAL, err, err_len,
                                 "%s:%d: another key for the node of line %d; take out the wrong one", shown,
                                 out->v[i].line, out->v[i - 1].line);
    return 0;
}

/* The pins, and the text they were read from (NULL if there is no file). */
static int peers_read(const struct keystore *ks, const char *shown, struct keystore_peers *out, char **text,
                      size_t *n, char *err, size_t err_len)
{
    *out = (struct keystore_peers){0};
    *text = NULL;
    *n = 0;
    int rc = keystore_file_read(ks->dir_fd, peers_name, shown, PEERS_FILE_MAX, 0, text, n, err, err_len);
    if (rc == -ENOENT)
        return 0;
    if (rc == 0)
        rc = peers_parse(out, *text, *n, shown, err, err_len);
    if (rc) {
        keystore_peers_free(out);
        keystore_text_free(*text);
        *text = NULL;
    }
    return rc;
}

int keystore_peers_load(const struct keystore *ks, struct keystore_peers *out, char *err, size_t err_len)
{
    char *shown = state_path(ks, peers_name), *text;
    size_t n;

    *out = (struct keystore_peers){0};
    if (!shown)
        return keystore_fail(-ENOMEM, err, err_len, "out of memory");
    int rc = peers_read(ks, shown, out, &text, &n, err, err_len);
    if (rc == 0)
        keystore_text_free(text);
    free(shown);
    return rc;
}

int keystore_pins_load(const char *file, struct keystore_peers *out, char *err, size_t err_len)
{
    char *text;
    size_t n;

    *out = (struct keystore_peers){0};
    int rc = keystore_file_read(AT_FDCWD, file, file, PEERS_FILE_MAX, 0, &text, &n, err, err_len);
    if (rc == -ENOENT)
        return keystore_fail(rc, err, err_len, "%s: is not there; mend mesh_pins, or take it out", file);
    if (rc)
        return rc;
    rc = peers_parse(out, text, n, file, err, err_len);
    keystore_text_free(text);
    if (rc == 0 && out->n == 0)
        rc =
            keystore_fail(-EINVAL, err, err_len, "%s: names no node; take mesh_pins out to go without", file);
    if (rc)
        keystore_peers_free(out);
    return rc;
}

void keystore_peers_free(struct keystore_peers *p)
{
    for (size_t i = 0; i < p->n; i++)
        free(p->v[i].name);
    free(p->v);
    *p = (struct keystore_peers){0};
}

/* The old text with one line more, in place of the file. */
static int peers_append(const struct keystore *ks, const char *shown, const char *text, size_t n,
                        const char *name, const struct derp_key *key, char *err, size_t err_len)
{
    char hex[KEY_TEXT_MAX];
    size_t room = n + 1 + NAME_MAX_LEN + 1 + sizeof(hex) + 1;
    char *all = malloc(room);

    if (!all)
        return keystore_fail(-ENOMEM, err, err_len, "out of memory");
    if (n)
        memcpy(all, text, n);
    if (n && all[n - 1] != '\n')
        all[n++] = '\n';
    key_public_text(hex, key);
    n += (size_t)snprintf(all + n, room - n, "%s %s\n", name, hex);
    int rc = n > PEERS_FILE_MAX ? keystore_fail(-EFBIG, err, err_len, "%s: holds too many pins", shown)
                                : keystore_file_replace(ks->dir_fd, peers_name, shown, all, n, err, err_len);
    free(all);
    return rc;
}

int keystore_peer_add(const struct keystore *ks, const char *name, const struct derp_key *key, char *err,
                      size_t err_len)
{
    struct keystore_peers peers;
    char *shown, *text;
    size_t n;

    if (!name_is_plain(name, strlen(name)))
        return keystore_fail(-EINVAL, err, err_len,
                             "a node of such a name cannot be pinned: too long, or not plain text");
    shown = state_path(ks, peers_name);
    if (!shown)
        return keystore_fail(-ENOMEM, err, err_len, "out of memory");
    int rc = peers_read(ks, shown, &peers, &text, &n, err, err_len);
    if (rc)
        goto out;
    const struct keystore_peer *old = NULL;
    for (size_t i = 0; i < peers.n && !old; i++)
        old = strcmp(peers.v[i].name, name) == 0 ? &peers.v[i] : NULL;
    if (!old)
        rc = peers_append(ks, shown, text, n, name, key, err, err_len);
    else if (!key_equal(&old->key, key))
        rc = keystore_fail(-EEXIST, err, err_len,
                           "%s:%d: another key is pinned for this node; take the line out if "
                           "its key was changed on purpose",
                           shown, old->line);
    keystore_peers_free(&peers);
    keystore_text_free(text);
out:
    free(shown);
    return rc;
}
