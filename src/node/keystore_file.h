/* Small files on which an identity hangs: read with their permissions checked, made once, replaced whole.
 *
 * dir_fd and name as for openat(2); shown is the path that messages name.  All return 0, or a negative errno with one
 * sentence in err, never with contents.  They block on the disk. */
#ifndef DERPMESH_NODE_KEYSTORE_FILE_H
#define DERPMESH_NODE_KEYSTORE_FILE_H

#include <stddef.h>
#include <sys/types.h>

/* Reads a whole regular file of at most max bytes into *text, NUL-terminated, in locked memory that
 * keystore_text_free wipes.  forbidden: permission bits that must not be set (-EPERM), 0 for any.  -ENOENT if there is
 * none, -EFBIG if it is larger. */
int keystore_file_read(int dir_fd, const char *name, const char *shown, size_t max, mode_t forbidden,
                       char **text, size_t *n, char *err, size_t err_len);
void keystore_text_free(char *text); /* NULL is fine */

/* Makes a file of mode 0600 with these contents, synced; -EEXIST if there is one already, which is left as it is. */
int keystore_file_new(int dir_fd, const char *name, const char *shown, const void *data, size_t len,
                      char *err, size_t err_len);
/* The same, but takes the place of the file that is there, if any. */
int keystore_file_replace(int dir_fd, const char *name, const char *shown, const void *data, size_t len,
                          char *err, size_t err_len);

/* Puts the sentence into err; returns rc. */
int keystore_fail(int rc, char *err, size_t err_len, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
