/* See admin.h.
 *
 * Happy path: a line comes, status.c or reload.c answers, the answer leaves as one line.
 * Failure: what is no JSON or no command gets {"error": …}; a line beyond 64 KiB, or none in 5 s: closed. */
#include "node/admin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "node/health.h"
#include "node/status.h"

enum { REQUEST_MAX = 64 << 10 };

/* Takes the value. */
static void answer(struct oneshot_conn *conn, json_t *value)
{
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(8)) : NULL;
    json_decref(value);
    size_t n = text ? strlen(text) : 0;
    char *line = text ? realloc(text, n + 2) : NULL;
    if (!line) {
        free(text);
        oneshot_answer(conn, NULL, 0);
        return;
    }
    memcpy(line + n, "\n", 2);
    oneshot_answer(conn, line, n + 1);
}

static void on_reloaded(void *ctx, const char *err, const char *changes)
{
    answer(ctx, err ? status_error(err) : json_pack("{s:b, s:s}", "ok", 1, "changes", changes));
}

static json_t *drain(struct control *c)
{
    uint64_t ms = c->site->config->drain_timeout_ms;
    control_drain(c, ms);
    return json_pack("{s:b, s:I, s:I}", "ok", 1, "clients", (json_int_t)clients_connections(c->clients),
                     "within_s", (json_int_t)(ms / 1000));
}

static json_t *undrain(struct control *c)
{
    bool was = c->draining;
    control_undrain(c);
    return json_pack("{s:b, s:b, s:I}", "ok", 1, "was_draining", was, "clients",
                     (json_int_t)clients_connections(c->clients));
}

/* How many connections of that client are closed, and at which other nodes it is. */
static json_t *kick(struct control *c, const char *text)
{
    struct derp_key key;
    if (!text || key_public_parse(&key, text, strlen(text)) != 0)
        return status_error("a key is written nodekey: and 64 hex digits");
    json_t *where = status_where(c, text), *elsewhere = json_array(), *l;
    size_t i;
    json_array_foreach(json_object_get(where, "locations"), i, l)
    {
        if (!json_is_true(json_object_get(l, "local")))
            json_array_append(elsewhere, json_object_get(l, "node"));
    }
    json_decref(where);
    return json_pack("{s:b, s:I, s:o}", "ok", 1, "closed", (json_int_t)control_kick(c, &key), "elsewhere",
                     elsewhere);
}

static void on_handed_over(void *ctx, const char *err)
{
    answer(ctx, err ? status_error(err) : json_pack("{s:b}", "ok", 1));
}

static void hand_over(struct control *c, struct oneshot_conn *conn)
{
    char err[256] = "not here";
    if (!c->hand_over || c->hand_over(c->ctx, on_handed_over, conn, err, sizeof(err)) != 0)
        answer(conn, status_error(err));
}

static void command(struct admin *a, struct oneshot_conn *conn, const json_t *req)
{
    const char *cmd = json_string_value(json_object_get(req, "cmd"));
    if (!cmd)
        answer(conn, status_error("no command: send {\"cmd\":\"status\"}, where, kick or reload"));
    else if (strcmp(cmd, "status") == 0)
        answer(conn, status_json(a->control));
    else if (strcmp(cmd, "where") == 0)
        answer(conn, status_where(a->control, json_string_value(json_object_get(req, "key"))));
    else if (strcmp(cmd, "kick") == 0)
        answer(conn, kick(a->control, json_string_value(json_object_get(req, "key"))));
    else if (strcmp(cmd, "health") == 0)
        answer(conn, health_json(a->control, json_object_get(req, "keys")));
    else if (strcmp(cmd, "reload") == 0)
        reload_ask(a->reload, on_reloaded, conn);
    else if (strcmp(cmd, "handover") == 0)
        hand_over(a->control, conn);
    else if (strcmp(cmd, "drain") == 0)
        answer(conn, drain(a->control));
    else if (strcmp(cmd, "undrain") == 0)
        answer(conn, undrain(a->control));
    else
        answer(conn, status_error("unknown command: there are status, where, kick, health, reload, handover, "
                                  "drain and undrain"));
}

static int on_request(void *ctx, struct oneshot_conn *conn, const char *buf, size_t n)
{
    const char *end = memchr(buf, '\n', n);
    json_error_t error;
    if (!end)
        return 0;
    json_t *req = json_loadb(buf, (size_t)(end - buf), JSON_REJECT_DUPLICATES, &error);
    if (req)
        command(ctx, conn, req);
    else
        answer(conn, status_error("the question is no line of JSON"));
    json_decref(req);
    return 1;
}

/* Whether somebody answers at that path. */
static bool is_served(const struct sockaddr_un *sa)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return true;
    bool served = connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) == 0 || errno == EAGAIN;
    close(fd);
    return served;
}

/* Makes way for the socket: its directory is there, an old socket of a dead process is not. */
static int make_way(const char *path, char *err, size_t err_len)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct stat st;
    char dir[sizeof(sa.sun_path)];
    if (path[0] != '/' || strlen(path) >= sizeof(sa.sun_path)) {
        snprintf(err, err_len, "admin: %s must be an absolute path of at most %zu bytes", path,
                 sizeof(sa.sun_path) - 1);
        return -1;
    }
    memcpy(sa.sun_path, path, strlen(path) + 1);
    memcpy(dir, path, strlen(path) + 1);
    *strrchr(dir, '/') = 0;
    if (dir[0] && mkdir(dir, 0755) != 0 && errno != EEXIST) {
        snprintf(err, err_len, "admin: cannot make %s: %s", dir, strerror(errno));
        return -1;
    }
    if (lstat(path, &st) != 0)
        return 0;
    if (!S_ISSOCK(st.st_mode)) {
        snprintf(err, err_len, "admin: %s is there and is no socket; move it away or set admin", path);
        return -1;
    }
    if (is_served(&sa)) {
        snprintf(err, err_len, "admin: another node serves %s; stop it or set admin to another path", path);
        return -1;
    }
    if (unlink(path) != 0) {
        snprintf(err, err_len, "admin: cannot replace %s: %s", path, strerror(errno));
        return -1;
    }
    return 0;
}

int admin_start(struct admin *a, struct control *c, struct reload *r, const char *path, char *err,
                size_t err_len)
{
    static const struct oneshot_ops ops = {.max_request = REQUEST_MAX, .request = on_request};
    *a = (struct admin){.control = c, .reload = r};
    if (!path || !path[0] || strcmp(path, "off") == 0)
        return 0;
    if (make_way(path, err, err_len) != 0)
        return -1;
    mode_t old = umask(0117); /* from the first moment on */
    int rc = oneshot_listen_pipe(&a->server, c->loop, path, &ops, a);
    umask(old);
    if (rc != 0)
        snprintf(err, err_len, "admin: cannot listen on %s: %s", path, uv_strerror(rc));
    return rc ? -1 : 0;
}

void admin_stop(struct admin *a)
{
    oneshot_stop(&a->server);
}
