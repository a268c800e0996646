/* Small files on which an identity hangs.
 *
 * Happy path of a write: a file of a random name beside the target, mode 0600, written, fsync(2), then link(2) (which
 * never overwrites) or rename(2) to its name, then fsync of the directory.  So after a crash there is the old
 * file or the new one, never half of one.
 * How it fails: the temporary file is taken away, the target is as before, the errno comes back. */
#include "node/keystore_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

int keystore_fail(int rc, char *err, size_t err_len, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(err, err_len, fmt, ap);
    va_end(ap);
    return rc;
}

/* ---- reading ---- */

static int check_mode(const struct stat *st, const char *shown, mode_t forbidden, char *err, size_t err_len)
{
    if (!S_ISREG(st->st_mode))
        return keystore_fail(-EINVAL, err, err_len, "%s: is not a file", shown);
    if ((st->st_mode & forbidden) == 0)
        return 0;
    /* What stays allowed: group read, unless that is forbidden too. */
    return keystore_fail(
        -EPERM, err, err_len,
        "%s: holds a secret, but its mode %03o lets others in; chmod %s it, and make a new key if "
        "someone else uses this machine",
        shown, (unsigned)st->st_mode & 0777, forbidden & S_IRGRP ? "600" : "640");
}

static int read_all(int fd, char *text, size_t room, size_t *n)
{
    for (*n = 0; *n < room;) {
        ssize_t got = read(fd, text + *n, room - *n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        *n += (size_t)got;
    }
    return 0;
}

int keystore_file_read(int dir_fd, const char *name, const char *shown, size_t max, mode_t forbidden,
                       char **text, size_t *n, char *err, size_t err_len)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* does not wait for a FIFO's writer */
    struct stat st;
    char *buf = NULL;
    int rc;

    if (fd < 0)
        return keystore_fail(-errno, err, err_len, "%s: cannot be opened: %s", shown, strerror(errno));
    if (fstat(fd, &st)) {
        rc = keystore_fail(-errno, err, err_len, "%s: %s", shown, strerror(errno));
        goto out;
    }
    rc = check_mode(&st, shown, forbidden, err, err_len);
    if (rc)
        goto out;
    /* By its size now, one byte more to see that it does not grow past max meanwhile, one for NUL. */
    size_t room = (st.st_size < 0 || (size_t)st.st_size > max ? max : (size_t)st.st_size) + 1;
    if (sodium_init() < 0 || !(buf = sodium_malloc(room + 1))) {
        rc = keystore_fail(-ENOMEM, err, err_len, "%s: out of memory", shown);
        goto out;
    }
    rc = read_all(fd, buf, room, n);
    if (rc)
        keystore_fail(rc, err, err_len, "%s: cannot be read: %s", shown, strerror(-rc));
    else if (*n == room)
        rc = keystore_fail(-EFBIG, err, err_len, "%s: is larger than %zu bytes; is it the right file?", shown,
                           room - 1);
out:
    close(fd);
    if (rc) {
        keystore_text_free(buf);
        return rc;
    }
    buf[*n] = 0;
    *text = buf;
    return 0;
}

void keystore_text_free(char *text)
{
    sodium_free(text);
}

/* ---- writing ---- */

static int write_all(int fd, const char *data, size_t len)
{
    while (len) {
        ssize_t put = write(fd, data, len);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        data += put;
        len -= (size_t)put;
    }
    return fsync(fd) ? -errno : 0;
}

/* The directory of name, opened, so that the new entry can be synced. */
static int open_parent(int dir_fd, const char *name)
{
    char *copy = strdup(name);
    int fd = -1;

    if (copy)
        fd = openat(dir_fd, dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    else
        errno = ENOMEM;
    free(copy);
    return fd;
}

/* Puts the contents beside the target and then in its place. */
static int place(int dir_fd, const char *name, const void *data, size_t len, bool replace)
{
    const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
    char temp[300];
    int dir, fd, rc;

    if (*base == 0 || (size_t)snprintf(temp, sizeof(temp), ".%s.%08x%08x", base, randombytes_random(),
                                       randombytes_random()) >= sizeof(temp))
        return -EINVAL;
    dir = open_parent(dir_fd, name);
    if (dir < 0)
        return -errno;
    fd = openat(dir, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        rc = -errno;
        goto close_dir;
    }
    rc = fchmod(fd, 0600) ? -errno : write_all(fd, data, len); /* whatever the umask */
    if (close(fd) && rc == 0)
        rc = -errno;
    if (rc == 0 && (replace ? renameat(dir, temp, dir, base) : linkat(dir, temp, dir, base, 0)))
        rc = -errno;
    if (rc || !replace)
        unlinkat(dir, temp, 0);
    if (rc == 0 && fsync(dir))
        rc = -errno;
close_dir:
    close(dir);
    return rc;
}

static int place_or_say(int dir_fd, const char *name, const char *shown, const void *data, size_t len,
                        bool replace, char *err, size_t err_len)
{
    if (sodium_init() < 0)
        return keystore_fail(-EIO, err, err_len, "no random numbers from the system");
    int rc = place(dir_fd, name, data, len, replace);
    if (rc == -EEXIST)
        keystore_fail(rc, err, err_len, "%s: is there already and stays as it is", shown);
    else if (rc)
        keystore_fail(rc, err, err_len, "%s: cannot be written: %s", shown, strerror(-rc));
    return rc;
}

int keystore_file_new(int dir_fd, const char *name, const char *shown, const void *data, size_t len,
                      char *err, size_t err_len)
{
    return place_or_say(dir_fd, name, shown, data, len, false, err, err_len);
}

int keystore_file_replace(int dir_fd, const char *name, const char *shown, const void *data, size_t len,
                          char *err, size_t err_len)
{
    return place_or_say(dir_fd, name, shown, data, len, true, err, err_len);
}
