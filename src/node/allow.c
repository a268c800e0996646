/* From a text to a sorted array of keys.
 *
 * Happy path: the file is read whole, each line gives a key or nothing, the keys are sorted and doubled ones left out;
 * a look-up is a binary search (18 steps for a quarter of a million).
 * How it fails: at the first line that is no key, with its place; at a file that changed while it was read. */
#include "node/allow.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct allow_set {
    _Atomic int refs;
    size_t n, cap;
    time_t loaded;
    struct allow_mark mark;
    struct derp_key *keys; /* sorted */
};

/* ---- text ---- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static int add(struct allow_set *s, const struct derp_key *key)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 64;
        struct derp_key *p = realloc(s->keys, cap * sizeof(*p));
        if (!p)
            return -1;
        s->keys = p;
        s->cap = cap;
    }
    s->keys[s->n++] = *key;
    return 0;
}

/* One line without its end.  0, or the column of what is wrong with why. */
static size_t line_parse(struct allow_set *s, const char *line, size_t n, const char **why)
{
    static const char prefix[] = "nodekey:";
    size_t from = 0, to;
    struct derp_key key;
    while (from < n && is_blank(line[from]))
        from++;
    if (from == n || line[from] == '#')
        return 0;
    for (to = from; to < n && !is_blank(line[to]) && line[to] != '#'; to++)
        ;
    if (to - from < strlen(prefix) || memcmp(line + from, prefix, strlen(prefix)) != 0) {
        *why = "a key is written nodekey: and 64 hex digits";
        return from + 1;
    }
    if (key_public_parse(&key, line + from, to - from) != 0) {
        *why = to - from < strlen(prefix) + 2 * (size_t)KEY_LEN ? "the key has fewer than 64 hex digits"
               : to - from > strlen(prefix) + 2 * (size_t)KEY_LEN
                   ? "the key has more than 64 hex digits"
                   : "the key has a character that is no hex digit";
        return from + strlen(prefix) + 1;
    }
    if (key_is_zero(&key)) {
        *why = "a key of zeros is nobody's";
        return from + strlen(prefix) + 1;
    }
    for (from = to; from < n && is_blank(line[from]); from++)
        ;
    if (from < n && line[from] != '#') {
        *why = "one key a line; a comment begins with #";
        return from + 1;
    }
    if (add(s, &key) == 0)
        return 0;
    *why = "out of memory";
    return 1;
}

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, KEY_LEN);
}

static void sort(struct allow_set *s)
{
    size_t kept = 0;
    qsort(s->keys, s->n, sizeof(s->keys[0]), compare);
    for (size_t i = 0; i < s->n; i++)
        if (kept == 0 || !key_equal(&s->keys[i], &s->keys[kept - 1]))
            s->keys[kept++] = s->keys[i];
    s->n = kept;
    struct derp_key *fit = realloc(s->keys, kept * sizeof(*fit));
    if (fit) {
        s->keys = fit;
        s->cap = kept;
    }
}

struct allow_set *allow_parse(const char *name, const char *text, size_t n, char *err, size_t err_len)
{
    struct allow_set *s = calloc(1, sizeof(*s));
    const char *why = NULL;
    size_t number = 1;
    if (!s) {
        snprintf(err, err_len, "%s: out of memory", name);
        return NULL;
    }
    atomic_init(&s->refs, 1);
    s->loaded = time(NULL);
    size_t at = n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0; /* a byte order mark of Windows */
    for (; at < n; number++) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t len = end ? (size_t)(end - text) - at : n - at;
        size_t col = line_parse(s, text + at, len, &why);
        if (col) {
            snprintf(err, err_len, "%s:%zu:%zu: %s", name, number, col, why);
            allow_unref(s);
            return NULL;
        }
        at += len + 1;
    }
    if (s->n == 0) {
        snprintf(err, err_len, "%s: holds no key, so that nobody would be admitted; write one a line", name);
        allow_unref(s);
        return NULL;
    }
    sort(s);
    return s;
}

/* ---- file ---- */

static struct allow_mark mark_make(const struct stat *st)
{
    return (struct allow_mark){(uint64_t)st->st_dev, (uint64_t)st->st_ino, (uint64_t)st->st_size,
                               (uint64_t)st->st_ctim.tv_sec, (uint64_t)st->st_ctim.tv_nsec};
}

int allow_mark_of(const char *file, struct allow_mark *mark)
{
    struct stat st;
    if (stat(file, &st) != 0)
        return -errno;
    *mark = mark_make(&st);
    return 0;
}

/* Reads size bytes; how many there were, or -1. */
static ssize_t read_all(int fd, char *to, size_t size)
{
    size_t have = 0;
    while (have < size) {
        ssize_t got = read(fd, to + have, size - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        have += (size_t)got;
    }
    return (ssize_t)have;
}

static struct allow_set *load_fd(const char *file, int fd, char *err, size_t err_len)
{
    struct stat st, after;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        snprintf(err, err_len, "%s: is no regular file", file);
        return NULL;
    }
    if (st.st_size > ALLOW_FILE_MAX) {
        snprintf(err, err_len, "%s: is larger than %d MiB; is it the right file?", file,
                 ALLOW_FILE_MAX >> 20);
        return NULL;
    }
    size_t size = (size_t)st.st_size;
    char *text = malloc(size + 1);
    if (!text) {
        snprintf(err, err_len, "%s: out of memory", file);
        return NULL;
    }
    struct allow_set *s = NULL;
    ssize_t n = read_all(fd, text, size);
    if (n < 0)
        snprintf(err, err_len, "%s: cannot be read: %s", file, strerror(errno));
    else if ((size_t)n != size || fstat(fd, &after) != 0 || after.st_size != st.st_size ||
             memcmp(&after.st_ctim, &st.st_ctim, sizeof(st.st_ctim)) != 0)
        snprintf(err, err_len, "%s: changed while it was read; replace it by renaming a new one", file);
    else
        s = allow_parse(file, text, size, err, err_len);
    if (s)
        s->mark = mark_make(&st);
    free(text);
    return s;
}

struct allow_set *allow_load(const char *file, char *err, size_t err_len)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        snprintf(err, err_len, "%s: cannot be read: %s", file, strerror(errno));
        return NULL;
    }
    struct allow_set *s = load_fd(file, fd, err, err_len);
    close(fd);
    return s;
}

/* ---- a set ---- */

bool allow_has(const struct allow_set *s, const struct derp_key *key)
{
    return bsearch(key, s->keys, s->n, sizeof(s->keys[0]), compare) != NULL;
}

size_t allow_count(const struct allow_set *s)
{
    return s->n;
}

time_t allow_loaded(const struct allow_set *s)
{
    return s->loaded;
}

const struct allow_mark *allow_mark(const struct allow_set *s)
{
    return &s->mark;
}

struct allow_set *allow_ref(struct allow_set *s)
{
    if (s)
        atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void allow_unref(struct allow_set *s)
{
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    free(s->keys);
    free(s);
}
