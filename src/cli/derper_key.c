/* derper's key file: where it is, and making it.
 *
 * Happy path: the file is there, whatever its name and mode, and nothing is done.  derper makes an absent one with all
 * directories above it, so this does too.
 * How it fails: with the path and the reason; a file that is there is never written. */
#include "cli/derper_config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

#include "node/keystore_file.h"
#include "proto/key.h"

enum { PATH_LEN = 4096, KEY_TEXT = 160 };

static const char root_place[] = "/var/lib/derper/derper.key";

/* mkdir -p of what stands above path. */
static int make_parents(const char *path, char *err, size_t err_len)
{
    char dir[PATH_LEN];

    if (strlen(path) >= sizeof(dir))
        return keystore_fail(-ENAMETOOLONG, err, err_len, "-c: the path is too long");
    strcpy(dir, path);
    for (char *s = strchr(dir + 1, '/'); s; s = strchr(s + 1, '/')) {
        *s = 0;
        if (mkdir(dir, 0777) && errno != EEXIST)
            return keystore_fail(-errno, err, err_len, "-c: %s cannot be made: %s", dir, strerror(errno));
        *s = '/';
    }
    return 0;
}

static int make_key(const char *path, char *err, size_t err_len)
{
    struct key_pair kp;
    char text[KEY_TEXT];

    if (sodium_init() < 0)
        return keystore_fail(-EIO, err, err_len, "no random numbers from the system");
    int rc = make_parents(path, err, err_len);
    if (rc)
        return rc;
    key_pair_generate(&kp);
    int n = key_file_format(&kp, text, sizeof(text));
    rc = keystore_file_new(AT_FDCWD, path, path, text, (size_t)n, err, err_len);
    key_pair_wipe(&kp);
    sodium_memzero(text, sizeof(text));
    return rc == -EEXIST ? 0 : rc; /* someone was quicker: theirs counts */
}

char *derper_key(const struct derper_flags *f, char *err, size_t err_len, char *doubt, size_t doubt_len)
{
    const char *path = f->v[DERPER_C].text;
    struct stat st;

    doubt[0] = 0;
    if (*path == 0 && getuid() != 0) {
        snprintf(err, err_len, "derper: -c <config path> not specified: without root there is no default");
        return NULL;
    }
    if (*path == 0)
        path = root_place;
    if (stat(path, &st) != 0 && (errno != ENOENT || make_key(path, err, err_len))) {
        if (errno != ENOENT && !err[0])
            snprintf(err, err_len, "-c: %s: %s", path, strerror(errno));
        return NULL;
    }
    if (*path == '$')
        snprintf(doubt, doubt_len,
                 "-c %s: no shell has put a value there, so the key is in a directory of that very name",
                 path);
    else if (stat(path, &st) == 0 && (st.st_mode & 077))
        snprintf(doubt, doubt_len, "%s: others on this machine may read the node's key: chmod 600 it", path);
    return strdup(path);
}
