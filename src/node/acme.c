/* See acme.h.
 *
 * Happy path: the timer finds that a certificate is due, uacme is run once or twice, its files are copied to where they are
 * served from, key first.  uacme and its hook (a few lines of shell, written here) touch nothing but CERT_DIR/acme.
 * Fails: uacme is not there, ends badly or hangs: the last line that it said goes into the alarm. */
#include "node/acme.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/log.h"

enum {
    LOOK_MS = 6 * 3600 * 1000, /* whether it is due; half of it, at random, more */
    RUN_MS = 300000,
    AGAIN_MS = 20000,
    AGAIN_MAX_MS = 6 * 3600 * 1000,
    THIRTY_DAYS = 30 * 86400,
    PATH_LEN = 1024,
    FILE_MAX = 256 << 10,
    ARGS_MAX = 16
};

/* Called by uacme: begin|done|failed TYPE IDENTIFIER TOKEN AUTHORIZATION. */
static const char hook[] = "#!/bin/sh\n"
                           "# Written by derpmesh at each start.\n"
                           "umask 077\n"
                           "dir=$(dirname \"$0\")/challenges\n"
                           "case $1 in\n"
                           "begin) [ \"$2\" = http-01 ] || exit 1; printf %s \"$5\" >\"$dir/$4\" ;;\n"
                           "*) rm -f \"$dir/$4\" ;;\n"
                           "esac\n";

struct acme_run {
    uv_process_t process;
    uv_timer_t timer;
    struct acme *acme; /* NULL: not wanted any more */
    int handles;       /* not closed yet */
    bool account;      /* it makes the account; the certificate comes after it */
};

bool acme_due(bool self_issued, time_t not_before, time_t not_after, time_t now)
{
    time_t left = (not_after - not_before) / 3;

    return self_issued || now > not_after - (left < THIRTY_DAYS ? left : THIRTY_DAYS);
}

static const struct config *config_of(const struct acme *a)
{
    return a->control->site->config;
}

static void put_path(const struct acme *a, char out[static PATH_LEN], const char *below)
{
    snprintf(out, PATH_LEN, "%s/acme%s", config_of(a)->cert_dir, below);
}

/* ---- when ---- */

static void on_timer(uv_timer_t *t);

static uint64_t about(uint64_t ms)
{
    return ms / 2 + randombytes_uniform((uint32_t)ms); /* half of it to one and a half */
}

static void failed(struct acme *a, const char *why)
{
    uint64_t ms = AGAIN_MS;
    for (unsigned i = 0; i < a->failures && ms < AGAIN_MAX_MS; i++)
        ms *= 3;
    a->failures++;
    ms = about(ms < AGAIN_MAX_MS ? ms : AGAIN_MAX_MS);
    snprintf(a->control->acme, sizeof(a->control->acme), "%s", why);
    log_error("certificate", "none from the certificate authority, the one before goes on: %s again_in=%llus",
              why, (unsigned long long)ms / 1000);
    uv_timer_start(&a->timer, on_timer, ms, 0);
}

/* ---- what uacme said and made ---- */

/* The last line of its output, without what is no text. */
static void last_line(const struct acme *a, char *out, size_t len)
{
    char path[PATH_LEN], text[2048];
    put_path(a, path, "/log");
    FILE *fp = fopen(path, "r");
    size_t n = 0;
    if (fp && fseek(fp, -(long)sizeof(text), SEEK_END) != 0)
        rewind(fp);
    if (fp) {
        n = fread(text, 1, sizeof(text) - 1, fp);
        fclose(fp);
    }
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
        n--;
    text[n] = 0;
    char *line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    for (char *s = line; *s; s++)
        *s = *s < ' ' || *s > '~' ? '?' : *s;
    snprintf(out, len, "%.300s", *line ? line : "it said nothing");
}

/* Copies by rename.  0 or -errno. */
static int copy_file(const char *from, const char *to, mode_t mode)
{
    char tmp[PATH_LEN + 8], *buf = malloc(FILE_MAX);
    int in = open(from, O_RDONLY | O_CLOEXEC), out = -1, rc = -1;
    ssize_t n = in >= 0 && buf ? read(in, buf, FILE_MAX) : -1;
    snprintf(tmp, sizeof(tmp), "%s.new", to);
    if (n > 0)
        out = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
    if (out >= 0 && write(out, buf, (size_t)n) == n && fsync(out) == 0)
        rc = 0;
    int err = errno;
    if (out >= 0)
        close(out);
    if (rc == 0 && rename(tmp, to) != 0) {
        rc = -1;
        err = errno;
    }
    if (in >= 0)
        close(in);
    if (buf)
        sodium_memzero(buf, FILE_MAX);
    free(buf);
    return rc == 0 ? 0 : -(err ? err : EIO);
}

static void install(struct acme *a)
{
    const char *host = a->control->site->self->host_name, *dir = config_of(a)->cert_dir;
    char below[PATH_LEN / 2], from[PATH_LEN], to[PATH_LEN], why[200];
    snprintf(below, sizeof(below), "/private/%.255s/key.pem", host);
    put_path(a, from, below);
    snprintf(to, sizeof(to), "%.700s/%.255s.key", dir, host);
    int err = copy_file(from, to, 0600);
    if (err == 0) {
        snprintf(below, sizeof(below), "/%.255s/cert.pem", host);
        put_path(a, from, below);
        snprintf(to, sizeof(to), "%.700s/%.255s.crt", dir, host);
        err = copy_file(from, to, 0644);
    }
    if (err) {
        snprintf(why, sizeof(why), "cannot put it into its place: %s", strerror(-err));
        failed(a, why);
        return;
    }
    a->failures = 0;
    a->control->acme[0] = 0;
    log_info("certificate", "a new one from the certificate authority file=%s", to);
    uv_timer_start(&a->timer, on_timer, about(LOOK_MS), 0);
}

/* ---- running it ---- */

static void begin(struct acme *a, bool account);

static void account_made(struct acme *a)
{
    char path[PATH_LEN];
    put_path(a, path, "/account");
    FILE *fp = fopen(path, "w");
    if (fp) {
        fputs(config_of(a)->acme_url ? config_of(a)->acme_url : "", fp);
        fclose(fp);
    }
    begin(a, false);
}

static void on_closed(uv_handle_t *h)
{
    struct acme_run *r = h->data;
    if (--r->handles == 0)
        free(r);
}

static void run_close(struct acme_run *r)
{
    uv_close((uv_handle_t *)&r->process, on_closed);
    uv_close((uv_handle_t *)&r->timer, on_closed);
}

static void on_exit_of(uv_process_t *p, int64_t status, int signal)
{
    struct acme_run *r = p->data;
    struct acme *a = r->acme;
    char line[320], why[400];
    bool account = r->account;
    run_close(r);
    if (!a)
        return;
    a->run = NULL;
    if (status == 0 && signal == 0) {
        if (account)
            account_made(a);
        else
            install(a);
        return;
    }
    last_line(a, line, sizeof(line));
    snprintf(why, sizeof(why),
             signal ? "uacme was ended by signal %d; its last line: %s"
                    : "uacme ended with code %d; its last line: %s",
             signal ? signal : (int)status, line);
    failed(a, why);
}

static void on_late(uv_timer_t *t)
{
    struct acme_run *r = t->data;
    log_warn("certificate", "uacme runs for more than %d s: it is ended", RUN_MS / 1000);
    uv_process_kill(&r->process, SIGKILL);
}

/* The command line; uv_spawn changes none of the strings. */
static void put_args(const struct acme *a, bool account, char **args, char *dir, char *program)
{
    const struct config *c = config_of(a);
    int n = 0;
    args[n++] = (char *)"uacme";
    args[n++] = (char *)"-v";
    args[n++] = (char *)"-c";
    args[n++] = dir;
    args[n++] = (char *)"-y";
    if (c->acme_url) {
        args[n++] = (char *)"-a";
        args[n++] = c->acme_url;
    }
    if (account) {
        args[n++] = (char *)"new";
        if (c->acme_email)
            args[n++] = c->acme_email;
    } else {
        args[n++] = (char *)"-f";
        args[n++] = (char *)"-h";
        args[n++] = program;
        args[n++] = (char *)"issue";
        args[n++] = (char *)a->control->site->self->host_name;
    }
    args[n] = NULL;
}

static int spawn(struct acme *a, struct acme_run *r, int log)
{
    char dir[PATH_LEN], program[PATH_LEN], *args[ARGS_MAX];
    put_path(a, dir, "");
    put_path(a, program, "/hook");
    put_args(a, r->account, args, dir, program);
    uv_stdio_container_t io[3] = {{.flags = UV_IGNORE},
                                  {.flags = UV_INHERIT_FD, .data.fd = log},
                                  {.flags = UV_INHERIT_FD, .data.fd = log}};
    uv_process_options_t options = {
        .file = "uacme", .args = args, .exit_cb = on_exit_of, .stdio = io, .stdio_count = 3};
    return uv_spawn(a->control->loop, &r->process, &options);
}

static void begin(struct acme *a, bool account)
{
    char path[PATH_LEN];
    struct acme_run *r = calloc(1, sizeof(*r));
    put_path(a, path, "/log");
    int log = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (!r || log < 0) {
        free(r);
        if (log >= 0)
            close(log);
        failed(a, r ? "cannot write into acme below cert_dir" : "out of memory");
        return;
    }
    *r = (struct acme_run){.acme = a, .account = account, .handles = 2};
    r->process.data = r->timer.data = r;
    uv_timer_init(a->control->loop, &r->timer);
    int err = spawn(a, r, log);
    close(log);
    if (err) {
        run_close(r);
        failed(a, err == UV_ENOENT
                      ? "the program uacme, which does it, is not installed (Debian: apt-get install uacme)"
                      : uv_strerror(err));
        return;
    }
    a->run = r;
    uv_timer_start(&r->timer, on_late, RUN_MS, 0);
}

/* A key alone is no account: uacme leaves it behind when the authority does not answer.  So which authority has given one is
 * kept beside it. */
static bool has_account(const struct acme *a)
{
    char path[PATH_LEN], at[PATH_LEN];
    put_path(a, path, "/account");
    FILE *fp = fopen(path, "r");
    size_t n = fp ? fread(at, 1, sizeof(at) - 1, fp) : 0;
    if (fp)
        fclose(fp);
    at[n] = 0;
    return fp && strcmp(at, config_of(a)->acme_url ? config_of(a)->acme_url : "") == 0;
}

static void on_timer(uv_timer_t *t)
{
    struct acme *a = t->data;
    const struct tls_server *s = a->control->site->tls;
    if (a->run)
        return;
    if (config_of(a)->tls == TLS_ACME && s &&
        acme_due(s->self_issued, s->not_before, s->not_after, time(NULL)))
        begin(a, !has_account(a));
    else
        uv_timer_start(&a->timer, on_timer, about(LOOK_MS), 0);
}

/* Its directories and the hook.  0 or -errno. */
static int prepare(const struct acme *a)
{
    char path[PATH_LEN];
    put_path(a, path, "");
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return -errno;
    put_path(a, path, "/challenges");
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return -errno;
    put_path(a, path, "/hook");
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, hook, sizeof(hook) - 1);
    int err = errno;
    close(fd);
    return n == (ssize_t)sizeof(hook) - 1 ? 0 : -err;
}

void acme_start(struct acme *a, struct control *c)
{
    *a = (struct acme){.control = c};
    if (c->site->config->tls != TLS_ACME)
        return;
    a->on = true;
    uv_timer_init(c->loop, &a->timer);
    a->timer.data = a;
    if (!c->plan->at[LISTEN_HTTP].on)
        log_warn("certificate",
                 "listen_http is off: the certificate authority asks on port 80, so something else must "
                 "pass its questions on to this node");
    int err = prepare(a);
    if (err)
        failed(a, strerror(-err));
    else
        uv_timer_start(&a->timer, on_timer, 0, 0);
}

void acme_stop(struct acme *a)
{
    if (!a->on)
        return;
    a->on = false;
    uv_close((uv_handle_t *)&a->timer, NULL);
    if (!a->run)
        return;
    a->run->acme = NULL;
    uv_process_kill(&a->run->process, SIGTERM);
    a->run = NULL;
}
