/* A directory of certificates as a whole: which pairs it holds, whether anything in it has changed.
 *
 * Happy path: the pairs in derper's and certbot's layouts, sorted; a digest over the contents of their files, so that
 * neither a new time stamp nor a symlink to the same content counts as a change.
 * Failure: what cannot be read goes into the digest as that sentence. */
#include <dirent.h>
#include <limits.h>
#include <openssl/evp.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/tls_cert.h"
#include "node/tls_ctx.h"

struct list {
    struct tls_pair *v;
    size_t n, cap;
};

static void add_pair(struct list *l, const char *dir, const char *stem, size_t stem_len, const char *crt,
                     const char *key)
{
    struct tls_pair pair = {0};
    int a = snprintf(pair.crt_file, sizeof pair.crt_file, "%s/%.*s%s", dir, (int)stem_len, stem, crt);
    int b = snprintf(pair.key_file, sizeof pair.key_file, "%s/%.*s%s", dir, (int)stem_len, stem, key);

    if (a >= (int)sizeof pair.crt_file || b >= (int)sizeof pair.key_file || l->n > TLS_SIDES_MAX ||
        access(pair.crt_file, F_OK) != 0 || access(pair.key_file, F_OK) != 0)
        return;
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 8;
        struct tls_pair *v = realloc(l->v, cap * sizeof *v);
        if (!v)
            return;
        l->v = v;
        l->cap = cap;
    }
    l->v[l->n++] = pair;
}

static void scan(struct list *l, const char *dir, bool derpers)
{
    DIR *d = opendir(dir);
    struct dirent *e;

    while (d && (e = readdir(d)) != NULL) {
        size_t n = strlen(e->d_name);
        if (e->d_name[0] == '.')
            continue;
        if (derpers && n > 4 && strcmp(e->d_name + n - 4, ".crt") == 0)
            add_pair(l, dir, e->d_name, n - 4, ".crt", ".key");
        else if (e->d_type != DT_REG)
            add_pair(l, dir, e->d_name, n, "/fullchain.pem", "/privkey.pem");
    }
    if (d)
        closedir(d);
}

static int by_file(const void *a, const void *b)
{
    return strcmp(((const struct tls_pair *)a)->crt_file, ((const struct tls_pair *)b)->crt_file);
}

struct tls_pair *tls_pairs_list(const char *dir, size_t *n)
{
    struct list l = {0};
    char live[TLS_PATH_MAX];

    scan(&l, dir, true);
    if (snprintf(live, sizeof live, "%s/live", dir) < (int)sizeof live)
        scan(&l, live, false);
    if (l.n > 0)
        qsort(l.v, l.n, sizeof *l.v, by_file);
    *n = l.n;
    return l.v;
}

static void digest_file(EVP_MD_CTX *md, const char *path)
{
    char err[TLS_PATH_MAX + 200] = "";
    size_t n;
    mode_t mode;
    char *text = tls_file_read(path, &n, &mode, err, sizeof err);

    EVP_DigestUpdate(md, path, strlen(path) + 1);
    EVP_DigestUpdate(md, &n, sizeof n);
    if (text) {
        EVP_DigestUpdate(md, text, n);
        sodium_memzero(text, n);
    } else {
        EVP_DigestUpdate(md, err, strlen(err));
    }
    free(text);
}

void tls_files_digest(const struct tls_server_params *p, uint8_t out[static TLS_DIGEST])
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    struct tls_pair main = {0};
    struct tls_pair *pairs;
    size_t n;
    char err[TLS_PATH_MAX + 200];

    memset(out, 0, TLS_DIGEST);
    if (!md || !EVP_DigestInit_ex(md, EVP_sha256(), NULL)) {
        EVP_MD_CTX_free(md);
        return;
    }
    if (tls_pair_find(&main, p->cert_dir, p->host, err, sizeof err) < 0)
        EVP_DigestUpdate(md, err, strlen(err));
    digest_file(md, main.crt_file);
    digest_file(md, main.key_file);
    pairs = tls_pairs_list(p->cert_dir, &n);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(pairs[i].crt_file, main.crt_file) == 0)
            continue;
        digest_file(md, pairs[i].crt_file);
        digest_file(md, pairs[i].key_file);
    }
    free(pairs);
    EVP_DigestFinal_ex(md, out, NULL);
    EVP_MD_CTX_free(md);
}

/* ---- where a change shows ---- */

enum { DIRS_MAX = 32 };

struct dirs {
    char v[DIRS_MAX][TLS_PATH_MAX];
    int n;
};

static void add_dir(struct dirs *d, const char *path, size_t len)
{
    if (len == 0 || len >= TLS_PATH_MAX || d->n == DIRS_MAX)
        return;
    for (int i = 0; i < d->n; i++)
        if (strlen(d->v[i]) == len && memcmp(d->v[i], path, len) == 0)
            return;
    memcpy(d->v[d->n], path, len);
    d->v[d->n++][len] = '\0';
}

/* The directory in which a file is named, and the one in which the file that the name leads to is. */
static void add_file(struct dirs *d, const char *file)
{
    char real[PATH_MAX];
    const char *slash = strrchr(file, '/');

    if (slash)
        add_dir(d, file, (size_t)(slash - file));
    if (!realpath(file, real))
        return;
    slash = strrchr(real, '/');
    if (slash > real)
        add_dir(d, real, (size_t)(slash - real));
}

void tls_files_dirs(const struct tls_server_params *p, void (*dir)(void *ctx, const char *path), void *ctx)
{
    struct dirs *d = calloc(1, sizeof *d);
    struct tls_pair main = {0};
    struct tls_pair *pairs;
    size_t n;
    char text[TLS_PATH_MAX + 200];

    if (!d)
        return;
    add_dir(d, p->cert_dir, strlen(p->cert_dir));
    if (snprintf(text, sizeof text, "%s/live", p->cert_dir) < TLS_PATH_MAX && access(text, F_OK) == 0)
        add_dir(d, text, strlen(text));
    tls_pair_find(&main, p->cert_dir, p->host, text, sizeof text);
    add_file(d, main.crt_file);
    add_file(d, main.key_file);
    pairs = tls_pairs_list(p->cert_dir, &n);
    for (size_t i = 0; i < n; i++) {
        add_file(d, pairs[i].crt_file);
        add_file(d, pairs[i].key_file);
    }
    free(pairs);
    for (int i = 0; i < d->n; i++)
        dir(ctx, d->v[i]);
    free(d);
}
