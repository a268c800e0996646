/* See replace.h.
 *
 * Happy path: a file of another name beside it is written, synced and renamed onto it.
 * Failure: what was there stays, the other file goes. */
#include "cli/replace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEXT_MAX = 8 << 20 };

bool cli_file_is(const char *path, const char *text)
{
    size_t want = strlen(text);
    char *have = want < TEXT_MAX ? malloc(want + 1) : NULL;
    FILE *fp = have ? fopen(path, "rb") : NULL;
    bool same = fp && fread(have, 1, want + 1, fp) == want && memcmp(have, text, want) == 0;

    if (fp)
        fclose(fp);
    free(have);
    return same;
}

static int write_all(int fd, const char *text)
{
    for (size_t n = strlen(text); n > 0;) {
        ssize_t put = write(fd, text, n);
        if (put < 0 && errno != EINTR)
            return -1;
        text += put > 0 ? put : 0;
        n -= put > 0 ? (size_t)put : 0;
    }
    return fsync(fd);
}

int cli_file_replace(const char *path, const char *text)
{
    char tmp[4096];
    struct stat st;

    if (snprintf(tmp, sizeof(tmp), "%s.%ld.new", path, (long)getpid()) >= (int)sizeof(tmp)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return -1;
    if (stat(path, &st) == 0) {
        int owner = fchown(fd, st.st_uid, st.st_gid); /* fails where we are not root: then it is ours */
        (void)owner;
        fchmod(fd, st.st_mode & 0777);
    }
    int rc = write_all(fd, text), err = errno;
    if (close(fd) != 0 || rc != 0 || rename(tmp, path) != 0) {
        err = rc != 0 ? err : errno;
        unlink(tmp);
        errno = err;
        return -1;
    }
    return 0;
}
