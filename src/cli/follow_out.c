/* See follow_out.h.
 *
 * Happy path: the map's text is made and read again as a check; if the file holds another text it is replaced by rename; the
 * command gets the JSON on its standard input, one run at a time.
 * Fails: a text with fewer regions than the map, or an empty one, is refused; a file that cannot be written and a command
 * that fails are tried again, the command less and less often. */
#include "cli/follow_out.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/replace.h"
#include "node/log.h"

enum { FILE_AGAIN_MS = 2000, FILE_LOOK_MS = 10000, COMMAND_MS = 60000, COMMAND_AGAIN_MS = 5000 };

struct follow_command {
    uv_process_t process;
    uv_pipe_t in;
    uv_timer_t timer;
    uv_write_t write;
    struct follow_out *out; /* NULL: not wanted any more */
    char *text;
    int handles; /* not closed yet */
};

/* ---- the text ---- */

static int count_regions(const struct derpmap *m)
{
    int n = 0;

    for (int i = 0; i < m->n_regions; i++)
        n += !m->regions[i].removed && m->regions[i].n_nodes > 0;
    return n;
}

/* As whoever reads it would: every region with a node, none left out. */
static bool is_whole(const char *text, const struct derpmap *m)
{
    struct text_error err = {0};
    struct derpmap *read = text ? derpmap_parse(text, strlen(text), &err) : NULL;
    int want = count_regions(m), have = read ? count_regions(read) : 0;

    if (!read)
        log_error("follow", "the map that was made cannot be read, so nothing is written: %s",
                  text ? err.msg : "out of memory");
    else if (have == 0 || have < want)
        log_error("follow", "the map that was made has %d of %d regions, so nothing is written", have, want);
    derpmap_free(read);
    return have > 0 && have >= want;
}

bool follow_out_set(struct follow_out *o, const struct derpmap *m, const struct derpmap_listing *l, int n)
{
    struct derpmap_changes c = {
        .listings = l,
        .n = n,
        .instead = true,
        .note = "Written by derpmesh follow, which keeps it in step with the nodes that live:\n"
                "changes made here do not last."};
    char *yaml = derpmap_export_changed(m, DERPMAP_TO_HEADSCALE, &c);
    char *json = derpmap_export_changed(m, DERPMAP_TO_JSON, &c);

    if (!is_whole(yaml, m) || !is_whole(json, m)) {
        free(yaml);
        free(json);
        return false;
    }
    bool same = o->yaml && strcmp(o->yaml, yaml) == 0;
    free(o->yaml);
    free(o->json);
    o->yaml = yaml;
    o->json = json;
    if (!same) {
        o->command_done = o->told = false;
        o->file_at = o->command_at = 0;
        o->command_failed = 0;
    }
    return true;
}

/* ---- the file ---- */

bool follow_out_exists(const struct follow_out *o)
{
    return !o->headscale || access(o->headscale, F_OK) == 0;
}

static void tick_file(struct follow_out *o, uint64_t now)
{
    if (now < o->file_at)
        return;
    o->file_at = now + FILE_LOOK_MS;
    if (cli_file_is(o->headscale, o->yaml))
        return;
    if (o->dry_run) {
        if (!o->told)
            log_info("follow", "dry run: would write file=%s", o->headscale);
        o->told = true;
    } else if (cli_file_replace(o->headscale, o->yaml) != 0) {
        o->file_at = now + FILE_AGAIN_MS;
        log_limited(LOG_ERROR, "follow",
                    "cannot write file=%s why=\"%s\": the control server's map is not in step", o->headscale,
                    strerror(errno));
    } else {
        log_info("follow", "written file=%s", o->headscale);
    }
}

/* ---- the command ---- */

static void on_handle_closed(uv_handle_t *h)
{
    struct follow_command *c = h->data;

    if (--c->handles > 0)
        return;
    free(c->text);
    free(c);
}

static void command_close(struct follow_command *c)
{
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
    if (!uv_is_closing((uv_handle_t *)&c->in))
        uv_close((uv_handle_t *)&c->in, on_handle_closed);
    uv_close((uv_handle_t *)&c->process, on_handle_closed);
}

static void command_over(struct follow_out *o, bool well, const char *how, long long number)
{
    o->running = NULL;
    if (well) {
        o->command_failed = 0;
        log_info("follow", "the command has taken the map");
        return;
    }
    o->command_done = false;
    unsigned doublings = o->command_failed < 6 ? o->command_failed++ : 6;
    o->command_at = uv_hrtime() / 1000000 + ((uint64_t)COMMAND_AGAIN_MS << doublings);
    log_error("follow", "the command failed (%s %lld): again in %d s", how, number,
              (COMMAND_AGAIN_MS << doublings) / 1000);
}

static void on_exit_of(uv_process_t *p, int64_t status, int signal)
{
    struct follow_command *c = p->data;

    if (c->out)
        command_over(c->out, status == 0 && signal == 0, signal ? "signal" : "exit code",
                     signal ? signal : (long long)status);
    command_close(c);
}

static void on_command_late(uv_timer_t *t)
{
    struct follow_command *c = t->data;

    log_error("follow", "the command runs for more than %d s: it is killed", COMMAND_MS / 1000);
    uv_process_kill(&c->process, SIGKILL);
}

static void on_written(uv_write_t *req, int status)
{
    struct follow_command *c = req->data;

    (void)status; /* a command that does not read is judged by its exit code */
    if (!uv_is_closing((uv_handle_t *)&c->in))
        uv_close((uv_handle_t *)&c->in, on_handle_closed);
}

static int command_start(struct follow_out *o, struct follow_command *c)
{
    char sh[] = "/bin/sh", flag[] = "-c";
    char *args[] = {sh, flag, (char *)o->command, NULL};
    uv_stdio_container_t io[3] = {
        {.flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&c->in},
        {.flags = UV_INHERIT_FD, .data.fd = 1},
        {.flags = UV_INHERIT_FD, .data.fd = 2}};
    uv_process_options_t options = {
        .file = sh, .args = args, .exit_cb = on_exit_of, .stdio = io, .stdio_count = 3};

    return uv_spawn(o->loop, &c->process, &options);
}

static void command_run(struct follow_out *o, uint64_t now)
{
    struct follow_command *c = calloc(1, sizeof(*c));
    char *text = c ? strdup(o->json) : NULL;

    o->command_at = now + COMMAND_AGAIN_MS;
    if (!text) {
        free(c);
        return;
    }
    *c = (struct follow_command){.out = o, .text = text, .handles = 3};
    c->process.data = c->in.data = c->timer.data = c->write.data = c;
    uv_pipe_init(o->loop, &c->in, 0);
    uv_timer_init(o->loop, &c->timer);
    int err = command_start(o, c);
    if (err) {
        command_over(o, false, uv_strerror(err), err);
        command_close(c);
        return;
    }
    o->running = c;
    o->command_done = true;
    uv_timer_start(&c->timer, on_command_late, COMMAND_MS, 0);
    uv_buf_t b = uv_buf_init(text, (unsigned)strlen(text));
    if (uv_write(&c->write, (uv_stream_t *)&c->in, &b, 1, on_written) != 0)
        uv_close((uv_handle_t *)&c->in, on_handle_closed);
}

void follow_out_tick(struct follow_out *o, uint64_t now)
{
    if (!o->yaml)
        return;
    if (o->headscale)
        tick_file(o, now);
    if (!o->command || o->running || o->command_done || now < o->command_at)
        return;
    if (!o->dry_run) {
        command_run(o, now);
        return;
    }
    log_info("follow", "dry run: would run command=\"%s\"", o->command);
    o->command_done = true;
}

void follow_out_stop(struct follow_out *o)
{
    if (!o->running)
        return;
    o->running->out = NULL;
    uv_process_kill(&o->running->process, SIGTERM);
    o->running = NULL;
}

void follow_out_free(struct follow_out *o)
{
    free(o->yaml);
    free(o->json);
}
