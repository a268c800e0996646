/* See handover.h.
 *
 * Happy path: the heir has one end of a socket pair as descriptor LISTEN_HEIR.  It writes one byte when all is checked, and reads
 * until the end of the stream: that is when the old process, which holds the other end to its last moment, is gone.
 * Fails: the heir's own log lines say why it could not start; here one more says that nothing has changed. */
#include "node/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/inherited.h"

extern char **environ;

static const char heir_name[] = "LISTEN_HEIR";

/* ---- what we are ---- */

/* A whole file of /proc, whose size nobody knows before. */
static char *read_proc(const char *path, size_t *n)
{
    enum { MOST = 128 << 10 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *text = malloc(MOST);
    ssize_t got = 0;
    *n = 0;
    while (fd >= 0 && text && *n < MOST && (got = read(fd, text + *n, MOST - *n)) > 0)
        *n += (size_t)got;
    if (fd >= 0)
        close(fd);
    if (got == 0 && *n > 0 && *n < MOST)
        return text;
    free(text);
    return NULL;
}

void handover_init(struct handover *h)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
    *h = (struct handover){.program = NULL};
    if (n > 0) {
        path[n] = 0;
        h->program = strdup(path);
    }
    h->command = read_proc("/proc/self/cmdline", &h->command_len);
}

void handover_deinit(struct handover *h)
{
    free(h->program);
    free(h->command);
}

/* ---- the old process ---- */

static void on_closed(uv_handle_t *handle)
{
    struct handover *h = handle->data;
    if (--h->open > 0)
        return;
    h->begun = false;
    if (!h->given && h->done)
        h->done(h->ctx, h->err);
}

static void close_attempt(struct handover *h)
{
    uv_handle_t *handles[] = {(uv_handle_t *)&h->process, (uv_handle_t *)&h->pipe, (uv_handle_t *)&h->timer};
    for (size_t i = 0; i < sizeof(handles) / sizeof(handles[0]); i++)
        if (!uv_is_closing(handles[i]))
            uv_close(handles[i], on_closed);
}

static void on_exit_of_heir(uv_process_t *p, int64_t status, int signal)
{
    struct handover *h = p->data;
    h->ended = true;
    if (h->given)
        return;
    if (!h->err[0] && signal)
        snprintf(h->err, sizeof(h->err), "the new process ended by signal %d", signal);
    else if (!h->err[0])
        snprintf(h->err, sizeof(h->err), "the new process could not start (exit code %d, its lines say why)",
                 (int)status);
    close_attempt(h);
}

static void on_time(uv_timer_t *t)
{
    struct handover *h = t->data;
    snprintf(h->err, sizeof(h->err), "the new process was not ready within %d s", HANDOVER_MS / 1000);
    uv_process_kill(&h->process, SIGKILL); /* on_exit_of_heir follows */
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    static char one[1];
    (void)handle, (void)suggested;
    *buf = uv_buf_init(one, sizeof(one));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct handover *h = stream->data;
    (void)buf;
    if (n <= 0 || h->given || h->err[0])
        return;
    uv_os_fd_t fd;
    /* The heir waits for the end of this: a copy of it is never closed, the end of the process does. */
    if (uv_fileno((uv_handle_t *)stream, &fd) != 0 || fcntl(fd, F_DUPFD_CLOEXEC, 0) < 0) {
        snprintf(h->err, sizeof(h->err), "no descriptor is left");
        uv_process_kill(&h->process, SIGKILL);
        return;
    }
    h->given = true;
    uv_timer_stop(&h->timer);
    uv_read_stop(stream);
    h->done(h->ctx, NULL);
}

/* The environment without what concerns this process alone, and with what the heir needs.  NULL without memory. */
static char **make_env(int n_fds)
{
    static char count[32], heir[32];
    size_t n = 0, at = 0;
    while (environ[n])
        n++;
    char **env = calloc(n + 3, sizeof(*env));
    if (!env)
        return NULL;
    for (size_t i = 0; i < n; i++)
        if (strncmp(environ[i], "LISTEN_", 7) != 0 && strncmp(environ[i], "WATCHDOG_PID=", 13) != 0)
            env[at++] = environ[i];
    snprintf(count, sizeof(count), "LISTEN_FDS=%d", n_fds);
    snprintf(heir, sizeof(heir), "%s=%d", heir_name, INHERITED_FIRST + n_fds);
    env[at++] = count;
    env[at++] = heir;
    return env;
}

static int spawn(struct handover *h, uv_loop_t *loop, const int *fds, int n)
{
    uv_stdio_container_t stdio[INHERITED_FIRST + HANDOVER_FDS + 1];
    char *args[HANDOVER_ARGS + 1];
    size_t n_args = 0;
    for (size_t at = 0; at < h->command_len && n_args < HANDOVER_ARGS; at += strlen(h->command + at) + 1)
        args[n_args++] = h->command + at;
    args[n_args] = NULL;
    for (int i = 0; i < INHERITED_FIRST + n; i++) {
        stdio[i].flags = UV_INHERIT_FD;
        stdio[i].data.fd = i < INHERITED_FIRST ? i : fds[i - INHERITED_FIRST];
    }
    stdio[INHERITED_FIRST + n].flags = UV_CREATE_PIPE | UV_READABLE_PIPE | UV_WRITABLE_PIPE;
    stdio[INHERITED_FIRST + n].data.stream = (uv_stream_t *)&h->pipe;
    char **env = make_env(n);
    if (!env)
        return UV_ENOMEM;
    uv_process_options_t o = {.exit_cb = on_exit_of_heir,
                              .file = h->program,
                              .args = args,
                              .env = env,
                              .stdio_count = INHERITED_FIRST + n + 1,
                              .stdio = stdio};
    int rc = uv_spawn(loop, &h->process, &o);
    free(env);
    return rc;
}

int handover_start(struct handover *h, uv_loop_t *loop, const int *fds, int n,
                   void (*done)(void *ctx, const char *err), void *ctx, char *err, size_t err_len)
{
    const char *why = h->begun                     ? "one is under way already"
                      : getpid() == 1              ? "this process is the first of its container, which ends "
                                                     "with it: replace the container"
                      : !h->program || !h->command ? "this program does not know its own file (no /proc?)"
                      : n > HANDOVER_FDS           ? "too many sockets"
                                                   : NULL;
    if (why) {
        snprintf(err, err_len, "%s", why);
        return -1;
    }
    h->done = done;
    h->ctx = ctx;
    h->err[0] = 0;
    h->given = h->ended = false;
    h->begun = true;
    h->open = 3;
    h->process.data = h->pipe.data = h->timer.data = h;
    uv_pipe_init(loop, &h->pipe, 0);
    uv_timer_init(loop, &h->timer);
    int rc = spawn(h, loop, fds, n);
    if (rc == 0)
        rc = uv_read_start((uv_stream_t *)&h->pipe, on_alloc, on_read);
    if (rc != 0) {
        snprintf(err, err_len, "%s cannot be started: %s", h->program, uv_strerror(rc));
        h->done = NULL;
        close_attempt(h);
        return -1;
    }
    uv_timer_start(&h->timer, on_time, HANDOVER_MS, 0);
    return 0;
}

int handover_pid(const struct handover *h)
{
    return uv_process_get_pid(&h->process);
}

void handover_stop(struct handover *h)
{
    if (!h->begun)
        return;
    if (!h->given && !h->ended)
        uv_process_kill(&h->process, SIGTERM);
    h->done = NULL;
    close_attempt(h);
}

/* ---- the heir ---- */

bool handover_is_heir(void)
{
    return getenv(heir_name) != NULL;
}

void handover_heir_wait(void)
{
    int fd = atoi(getenv(heir_name));
    char byte = 'r';
    unsetenv(heir_name);
    if (fd < INHERITED_FIRST || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        return;
    ssize_t n = write(fd, &byte, 1);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (n >= 0 || errno == EINTR || errno == EAGAIN) {
        if (poll(&p, 1, -1) > 0 && (n = read(fd, &byte, 1)) == 0)
            break;
    }
    close(fd);
}
