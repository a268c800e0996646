/* Two looks, 150 ms apart, then the new keys.
 *
 * Happy path: an event (or the poll) starts a look on the thread pool; it finds another file than is in use and asks for
 * a second look; that one finds the same file again, reads it, and loaded() gets the keys.
 * Failure: no watch can be had: the poll does it alone.  A file that is no good is reported once, and again when it is
 * another one that is no good. */
#include "node/allow_watch.h"

#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/log.h"

static bool same(const struct allow_mark *a, const struct allow_mark *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

/* ---- a look ---- */

/* On the thread pool: only look_* may be touched. */
static void on_work(uv_work_t *work)
{
    struct allow_watch *w = work->data;
    struct allow_mark before = w->look_mark;
    bool was_there = w->look_there;
    int rc = allow_mark_of(w->look_file, &w->look_mark);
    w->look_there = rc == 0;
    if (rc != 0) {
        memset(&w->look_mark, 0, sizeof(w->look_mark));
        snprintf(w->look_err, sizeof(w->look_err), "%s: %s", w->look_file, strerror(-rc));
        w->look_load = !was_there; /* missing twice: that is how it is */
        return;
    }
    w->look_load = was_there && same(&before, &w->look_mark) && !same(&w->look_used, &w->look_mark) &&
                   !same(&w->look_tried, &w->look_mark);
    if (w->look_load)
        w->look_set = allow_load(w->look_file, w->look_err, sizeof(w->look_err));
}

static void look(struct allow_watch *w);
static void on_time(uv_timer_t *timer);

static void fail(struct allow_watch *w, const char *err)
{
    if (w->is_failed && strcmp(w->err, err) == 0)
        return;
    w->is_failed = true;
    snprintf(w->err, sizeof(w->err), "%s", err);
    w->failed(w->ctx, w->err);
}

/* What the look has seen. */
static void looked(struct allow_watch *w)
{
    bool changed = !w->look_there || !(same(&w->look_mark, &w->used) || same(&w->look_mark, &w->tried));
    w->last = w->look_mark;
    w->last_there = w->look_there;
    if (w->look_load && w->look_set) {
        w->used = *allow_mark(w->look_set);
        memset(&w->tried, 0, sizeof(w->tried));
        w->is_failed = false;
        w->loaded(w->ctx, w->look_set);
        w->look_set = NULL;
    } else if (w->look_load) {
        w->tried = w->look_mark;
        fail(w, w->look_err);
    } else if (changed) {
        uv_timer_start(&w->settle, on_time, ALLOW_SETTLE_MS, 0);
    } else if (w->is_failed && same(&w->look_mark, &w->used)) {
        w->is_failed = false;
        w->failed(w->ctx, NULL);
    }
}

static void on_work_done(uv_work_t *work, int status)
{
    struct allow_watch *w = work->data;
    w->working = false;
    bool ours = w->file && strcmp(w->file, w->look_file) == 0 && !uv_is_closing((uv_handle_t *)&w->poll);
    if (status == 0 && ours)
        looked(w);
    allow_unref(w->look_set);
    w->look_set = NULL;
    free(w->look_file);
    w->look_file = NULL;
    if (w->again && w->file && !uv_is_closing((uv_handle_t *)&w->poll))
        look(w);
}

static void look(struct allow_watch *w)
{
    w->again = w->working;
    if (w->working)
        return;
    w->look_file = strdup(w->file);
    if (!w->look_file)
        return; /* the poll tries again */
    w->look_mark = w->last;
    w->look_there = w->last_there;
    w->look_used = w->used;
    w->look_tried = w->tried;
    w->look_load = false;
    w->working = uv_queue_work(w->loop, &w->work, on_work, on_work_done) == 0;
    if (!w->working) {
        free(w->look_file);
        w->look_file = NULL;
    }
}

static void on_time(uv_timer_t *timer)
{
    look(timer->data);
}

static void on_event(uv_fs_event_t *event, const char *name, int events, int status)
{
    struct allow_watch *w = event->data;
    (void)name; /* another name may be what a symlink goes through */
    (void)events;
    if (status == 0 && !uv_is_active((uv_handle_t *)&w->settle))
        uv_timer_start(&w->settle, on_time, ALLOW_SETTLE_MS / 3, 0);
}

/* ---- doors ---- */

int allow_watch_init(struct allow_watch *w)
{
    int rc = uv_fs_event_init(w->loop, &w->event);
    if (rc != 0)
        return rc;
    uv_timer_init(w->loop, &w->poll);
    uv_timer_init(w->loop, &w->settle);
    w->event.data = w->poll.data = w->settle.data = w->work.data = w;
    return 0;
}

int allow_watch_file(struct allow_watch *w, const char *file, const struct allow_mark *used)
{
    char *copy = file ? strdup(file) : NULL, *dir = file ? strdup(file) : NULL;
    if (file && (!copy || !dir)) {
        free(copy);
        free(dir);
        return -1;
    }
    uv_fs_event_stop(&w->event);
    uv_timer_stop(&w->settle);
    free(w->file);
    w->file = copy;
    if (!file) {
        uv_timer_stop(&w->poll);
        return 0;
    }
    w->used = w->last = *used;
    memset(&w->tried, 0, sizeof(w->tried));
    w->last_there = true;
    w->is_failed = false;
    int rc = uv_fs_event_start(&w->event, on_event, dirname(dir), 0);
    if (rc != 0)
        log_warn("admit", "cannot watch the directory of %s (%s): it is looked at every %d s", file,
                 uv_strerror(rc), ALLOW_POLL_MS / 1000);
    free(dir);
    return uv_timer_start(&w->poll, on_time, ALLOW_POLL_MS, ALLOW_POLL_MS);
}

void allow_watch_close(struct allow_watch *w)
{
    uv_close((uv_handle_t *)&w->event, NULL);
    uv_close((uv_handle_t *)&w->poll, NULL);
    uv_close((uv_handle_t *)&w->settle, NULL);
}

void allow_watch_deinit(struct allow_watch *w)
{
    allow_unref(w->look_set);
    free(w->look_file);
    free(w->file);
}
