/* The allow file: one node key a line, in the form that logs and `tailscale status` print; # begins a comment.
 *
 * A set is immutable and counted: the site holds the one of the last (re)load, the control thread the newest.
 * Thread: any, for a set; reading a file belongs on libuv's thread pool once the node runs. */
#ifndef DERPMESH_NODE_ALLOW_H
#define DERPMESH_NODE_ALLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "proto/key.h"

enum { ALLOW_FILE_MAX = 128 << 20 };

/* Which file it was: another one, or other contents, differs in at least one.  The time is ctime, which nobody sets. */
struct allow_mark {
    uint64_t dev, ino, size, sec, nsec;
};

struct allow_set;

/* n bytes of text; name is what errors begin with: "NAME:LINE:COL: …".  NULL with a sentence; a text without any key is
 * an error too. */
struct allow_set *allow_parse(const char *name, const char *text, size_t n, char *err, size_t err_len);
/* The same of a file. */
struct allow_set *allow_load(const char *file, char *err, size_t err_len);
/* What stands at file now.  0, or -errno. */
int allow_mark_of(const char *file, struct allow_mark *mark);

bool allow_has(const struct allow_set *s, const struct derp_key *key);
size_t allow_count(const struct allow_set *s); /* different keys */
time_t allow_loaded(const struct allow_set *s);
const struct allow_mark *allow_mark(const struct allow_set *s);

struct allow_set *allow_ref(struct allow_set *s); /* NULL is nothing */
void allow_unref(struct allow_set *s);

#endif
