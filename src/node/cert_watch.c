/* See cert_watch.h.
 *
 * Happy path: an event in a directory → a look on the thread pool: digest of all files; if they differ from what is
 * served and were the same at the look before, they are loaded and checked → control_set_site.
 * Failure: what is no good is looked at again until it is good or has been wrong for long enough to be said, once
 * for these contents, then daily.  Without inotify the poll alone finds changes. */
#include "node/cert_watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "node/log.h"
#include "node/status.h"

const struct cert_watch_times cert_watch_times = {
    .poll = 60 * 1000, .settle = 300, .grace = 5000, .again = 24 * 3600 * 1000};

enum outcome { LOOK_SAME, LOOK_MOVING, LOOK_GOOD, LOOK_BAD };

/* A directory that is watched: another one of the same name is another one. */
struct cert_watch_dir {
    uv_fs_event_t event;
    struct cert_watch *watch;
    struct cert_watch_dir *next;
    dev_t dev;
    ino_t ino;
    bool kept;
    char path[];
};

struct found_dir {
    char *path;
    dev_t dev;
    ino_t ino;
};

/* One look at the files; the pool's while it is under way. */
struct cert_watch_look {
    struct site *site; /* what was served when it began, counted */
    uint8_t seen[TLS_DIGEST], digest[TLS_DIGEST];
    bool impatient; /* takes the files as they are, settled or not */
    enum outcome outcome;
    struct tls_server *tls;
    enum tls_fault fault;
    char err[1024], warn[1024];
    struct found_dir *dirs;
    size_t n_dirs;
};

static void schedule(struct cert_watch *w, uint64_t in);

static void look_free(struct cert_watch_look *l)
{
    site_unref(l->site);
    tls_server_unref(l->tls);
    for (size_t i = 0; i < l->n_dirs; i++)
        free(l->dirs[i].path);
    free(l->dirs);
    free(l);
}

/* ---- on the thread pool ---- */

static void found_dir(void *ctx, const char *path)
{
    struct cert_watch_look *l = ctx;
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return;
    struct found_dir *v = realloc(l->dirs, (l->n_dirs + 1) * sizeof(*v));
    if (!v)
        return;
    l->dirs = v;
    v[l->n_dirs].path = strdup(path);
    v[l->n_dirs].dev = st.st_dev;
    v[l->n_dirs].ino = st.st_ino;
    l->n_dirs += v[l->n_dirs].path != NULL;
}

static void on_work(uv_work_t *work)
{
    struct cert_watch_look *l = ((struct cert_watch *)work->data)->look;
    const struct site *s = l->site;
    struct tls_server_params p = site_tls_params(s->config, s->self, &s->node_key.pub);
    p.may_make = false; /* a made pair that is gone is brought back by hand: another would have another pin */
    p.former = s->tls;
    p.fault = &l->fault;
    tls_files_dirs(&p, found_dir, l);
    tls_files_digest(&p, l->digest);
    if (memcmp(l->digest, s->tls->digest, TLS_DIGEST) == 0) {
        l->outcome = LOOK_SAME;
    } else if (memcmp(l->digest, l->seen, TLS_DIGEST) != 0 && !l->impatient) {
        l->outcome = LOOK_MOVING;
    } else {
        l->tls = tls_server_load(&p, l->err, sizeof(l->err), l->warn, sizeof(l->warn));
        l->outcome = l->tls ? LOOK_GOOD : LOOK_BAD;
    }
}

/* ---- directories ---- */

static void on_dir_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_dir_event(uv_fs_event_t *event, const char *name, int events, int status)
{
    struct cert_watch_dir *d = event->data;
    (void)name, (void)events, (void)status;
    schedule(d->watch, d->watch->t.settle);
}

static void watch_dir(struct cert_watch *w, const struct found_dir *found)
{
    size_t n = strlen(found->path) + 1;
    struct cert_watch_dir *d = calloc(1, sizeof(*d) + n);
    if (!d)
        return;
    memcpy(d->path, found->path, n);
    d->watch = w;
    d->dev = found->dev;
    d->ino = found->ino;
    d->kept = true;
    d->event.data = d;
    uv_fs_event_init(w->control->loop, &d->event);
    int rc = uv_fs_event_start(&d->event, on_dir_event, d->path, 0);
    if (rc == 0) {
        d->next = w->dirs;
        w->dirs = d;
        return;
    }
    uv_close((uv_handle_t *)&d->event, on_dir_closed);
    if (!w->fs_failed && rc != UV_ENOENT)
        log_info("certificate", "%s is looked at every %llu s only: %s", found->path,
                 (unsigned long long)w->t.poll / 1000, uv_strerror(rc));
    w->fs_failed = true;
}

/* Those that were found and no others. */
static void watch_dirs(struct cert_watch *w, const struct found_dir *found, size_t n)
{
    for (struct cert_watch_dir *d = w->dirs; d; d = d->next)
        d->kept = false;
    for (size_t i = 0; i < n; i++) {
        struct cert_watch_dir *d = w->dirs;
        while (d && (d->dev != found[i].dev || d->ino != found[i].ino || strcmp(d->path, found[i].path) != 0))
            d = d->next;
        if (d)
            d->kept = true;
        else
            watch_dir(w, &found[i]);
    }
    for (struct cert_watch_dir **at = &w->dirs; *at;) {
        struct cert_watch_dir *d = *at;
        if (d->kept) {
            at = &d->next;
            continue;
        }
        *at = d->next;
        uv_close((uv_handle_t *)&d->event, on_dir_closed);
    }
}

/* ---- what is said ---- */

static void say_problem(void *ctx, const char *sentence)
{
    (void)ctx;
    log_warn("certificate", "%s", sentence);
}

void cert_watch_log_sides(const struct tls_server *t)
{
    char until[STATUS_TIME];
    for (size_t i = 0; i < t->n_sides; i++) {
        const struct tls_server *s = t->sides[i];
        char name[256];
        snprintf(name, sizeof(name), "%.*s", (int)strcspn(s->names, " "), s->names);
        log_info("certificate", "beside it: file=%s names=\"%s\" until=%s", s->file, s->names,
                 status_time(until, s->not_after));
        if (s->self_issued)
            log_info("certificate",
                     "clients accept %s where the derpMap says \"HostName\": \"%s\", \"CertName\": "
                     "\"sha256-raw:%s\"",
                     s->file, name, s->pin);
    }
}

static int urgency_of(const struct tls_server *t, time_t now)
{
    int most = now > t->not_after ? 2 : tls_server_expiring(t, now);
    for (size_t i = 0; i < t->n_sides; i++) {
        int one = urgency_of(t->sides[i], now);
        most = one > most ? one : most;
    }
    return most;
}

/* What gets worse is said at once, what stays wrong once a day. */
static void remind(struct cert_watch *w)
{
    struct control *c = w->control;
    int urgency = urgency_of(c->site->tls, time(NULL));
    uint64_t now = control_now();
    if (urgency > w->urgency || now >= w->say_at) {
        status_certificate_problems(c, say_problem, NULL);
        w->say_at = now + w->t.again;
    }
    w->urgency = urgency;
}

/* ---- what a look leads to ---- */

static void all_right(struct cert_watch *w)
{
    struct control_cert *cert = &w->control->cert;
    if (cert->text[0])
        log_info("certificate", "the files are those that are served again");
    *cert = (struct control_cert){.fault = TLS_FAULT_NONE};
    w->control->refused[0] = 0;
    w->bad_since = 0;
}

static void take_over(struct cert_watch *w, struct cert_watch_look *l)
{
    struct control *c = w->control;
    char until[STATUS_TIME];
    struct site *fresh = site_with_tls(c->site, l->tls);
    l->tls = NULL;
    if (!fresh) {
        log_limited(LOG_ERROR, "certificate", "out of memory: the one before goes on");
        return;
    }
    const struct tls_server *t = fresh->tls;
    c->cert = (struct control_cert){.fault = TLS_FAULT_NONE};
    c->refused[0] = 0;
    w->bad_since = 0;
    w->urgency = urgency_of(t, time(NULL));
    log_info("certificate", "taken over without a reload: file=%s names=\"%s\" until=%s pin=sha256-raw:%s",
             t->file, t->names, status_time(until, t->not_after), t->pin);
    cert_watch_log_sides(t);
    if (l->warn[0])
        log_warn("certificate", "%s", l->warn);
    control_set_site(c, fresh);
}

/* Wrong for long enough: the one line, unless a reload has just said the same. */
static void complain(struct cert_watch *w, const struct cert_watch_look *l)
{
    struct control *c = w->control;
    c->cert.fault = l->fault;
    snprintf(c->cert.text, sizeof(c->cert.text), "%s", l->err);
    memcpy(w->said, l->digest, TLS_DIGEST);
    w->bad_since = 0;
    w->say_at = control_now() + w->t.again;
    if (strcmp(c->refused, l->err) != 0)
        log_error("certificate", "not taken over, the one before goes on: %s", l->err);
}

/* Whether to wait for better files: 0 no, else for how long to. */
static uint64_t patience(struct cert_watch *w, const struct cert_watch_look *l)
{
    uint64_t now = control_now();
    if (l->outcome == LOOK_SAME)
        return 0;
    if (l->outcome == LOOK_GOOD &&
        (!l->tls->n_left_out || strcmp(l->tls->left_out, l->site->tls->left_out) == 0))
        return 0;
    if (l->outcome == LOOK_BAD && w->control->cert.text[0] && memcmp(l->digest, w->said, TLS_DIGEST) == 0) {
        w->bad_since = 0; /* said already */
        return 0;
    }
    if (!w->bad_since)
        w->bad_since = now;
    return now - w->bad_since < w->t.grace || l->outcome == LOOK_MOVING ? w->t.settle : 0;
}

static void judge(struct cert_watch *w, struct cert_watch_look *l)
{
    uint64_t wait = patience(w, l);
    memcpy(w->seen, l->digest, TLS_DIGEST);
    watch_dirs(w, l->dirs, l->n_dirs);
    if (wait) {
        schedule(w, wait);
        return;
    }
    if (l->outcome == LOOK_SAME)
        all_right(w);
    else if (l->outcome == LOOK_GOOD)
        take_over(w, l);
    else if (w->bad_since)
        complain(w, l);
}

static void on_work_done(uv_work_t *work, int status)
{
    struct cert_watch *w = work->data;
    struct cert_watch_look *l = w->look;
    bool once_more = w->once_more;
    w->look = NULL;
    w->once_more = false;
    if (w->on) {
        schedule(w, once_more ? w->t.settle : w->t.poll);
        if (status != 0 || l->site != w->control->site)
            schedule(w, w->t.settle);
        else
            judge(w, l);
    }
    look_free(l);
}

static void on_timer(uv_timer_t *timer)
{
    struct cert_watch *w = timer->data;
    struct cert_watch_look *l;
    w->timer_at = UINT64_MAX;
    remind(w);
    if (w->look) {
        w->once_more = true;
        return;
    }
    l = calloc(1, sizeof(*l));
    if (!l) {
        schedule(w, w->t.poll);
        return;
    }
    l->site = site_ref(w->control->site);
    memcpy(l->seen, w->seen, TLS_DIGEST);
    l->impatient = w->bad_since && control_now() - w->bad_since >= w->t.grace;
    w->look = l;
    w->work.data = w;
    int rc = uv_queue_work(w->control->loop, &w->work, on_work, on_work_done);
    if (rc != 0)
        on_work_done(&w->work, rc);
}

/* Looks in so many ms, or earlier if that was the plan already. */
static void schedule(struct cert_watch *w, uint64_t in)
{
    uint64_t at = control_now() + in;
    if (!w->on || at >= w->timer_at)
        return;
    w->timer_at = at;
    uv_update_time(w->control->loop);
    uv_timer_start(&w->timer, on_timer, in, 0);
}

/* A reload has read the files, or names another directory. */
static void on_site(void *ctx)
{
    struct cert_watch *w = ctx;
    w->urgency = urgency_of(w->control->site->tls, time(NULL));
    schedule(w, w->t.settle);
}

void cert_watch_start(struct cert_watch *w, struct control *c, const struct cert_watch_times *t)
{
    *w = (struct cert_watch){.control = c, .t = *t};
    if (!c->site->tls)
        return;
    w->on = true;
    w->timer_at = UINT64_MAX;
    w->urgency = urgency_of(c->site->tls, time(NULL));
    w->say_at = control_now() + t->again;
    w->timer.data = w;
    uv_timer_init(c->loop, &w->timer);
    c->on_site = on_site;
    c->site_ctx = w;
    schedule(w, 0);
}

void cert_watch_stop(struct cert_watch *w)
{
    if (!w->on)
        return;
    w->on = false;
    w->control->on_site = NULL;
    watch_dirs(w, NULL, 0);
    uv_close((uv_handle_t *)&w->timer, NULL);
}
