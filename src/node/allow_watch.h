/* Looks after the allow file: what is written there counts a moment later.
 *
 * The file's directory is watched, and every few seconds the file itself is looked at (a network file system, a symlink
 * elsewhere, a watch that could not be had).  A change counts once two looks have seen the same, so that a file that
 * is still being written is not taken for whole.
 * Owner: admit_io.c.  Thread: its loop; files are read on libuv's thread pool. */
#ifndef DERPMESH_NODE_ALLOW_WATCH_H
#define DERPMESH_NODE_ALLOW_WATCH_H

#include <stdbool.h>
#include <uv.h>

#include "node/allow.h"

enum { ALLOW_POLL_MS = 5000, ALLOW_SETTLE_MS = 150, ALLOW_ERROR = 512 };

struct allow_watch {
    uv_loop_t *loop;
    uv_fs_event_t event;
    uv_timer_t poll, settle;
    uv_work_t work;
    bool working, again;
    char *file; /* NULL: nothing is watched */
    /* The set is the callee's from now on. */
    void (*loaded)(void *ctx, struct allow_set *set);
    /* err: why the file is not taken, once for each reason; NULL: it is again what was loaded last. */
    void (*failed)(void *ctx, const char *err);
    void *ctx;
    struct allow_mark used, tried, last; /* loaded; read and found bad; seen by the last look */
    bool last_there, is_failed;          /* the last look saw a file; failed() was called */
    /* the look under way */
    char *look_file;
    struct allow_mark look_mark, look_used, look_tried;
    bool look_there, look_load;
    struct allow_set *look_set;
    char look_err[ALLOW_ERROR], err[ALLOW_ERROR];
};

/* loop, loaded, failed, ctx are set before.  0 or libuv error. */
int allow_watch_init(struct allow_watch *w);
/* Watches that file (NULL: none), of which a set with this mark is in use.  0, or -1 without memory. */
int allow_watch_file(struct allow_watch *w, const char *file, const struct allow_mark *used);
void allow_watch_close(struct allow_watch *w);  /* closes its handles */
void allow_watch_deinit(struct allow_watch *w); /* after the loop has ended */

#endif
