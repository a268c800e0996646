/* One question to a node over its admin socket.
 *
 * Happy path: connect, send the line, read until the end, parse.
 * How it fails: with a sentence that says what to do; after ADMIN_TIMEOUT_MS in all if the node is stuck. */
#include "cli/admin.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static long now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000L + ts.tv_nsec / 1000000;
}

static int dial(const char *path, char *err, size_t err_len)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof(addr.sun_path)) {
        snprintf(err, err_len, "%s: longer than a socket's path may be", path);
        return -1;
    }
    memcpy(addr.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
        return fd;
    if (errno == ENOENT || errno == ECONNREFUSED)
        snprintf(err, err_len,
                 "no node answers at %s; is derpmesh running here? (--admin PATH names its socket)", path);
    else if (errno == EACCES || errno == EPERM)
        snprintf(err, err_len, "%s: not allowed; ask as root, or as the user that derpmesh runs as", path);
    else
        snprintf(err, err_len, "%s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Waits until fd is ready or the deadline has passed.  0, or -1 with errno. */
static int wait_for(int fd, short events, long deadline)
{
    struct pollfd p = {.fd = fd, .events = events};

    for (;;) {
        long left = deadline - now_ms();
        int rc = poll(&p, 1, left > 0 ? (int)left : 0);
        if (rc > 0)
            return 0;
        if (rc == 0)
            errno = ETIMEDOUT;
        if (rc == 0 || errno != EINTR)
            return -1;
    }
}

static int send_all(int fd, const char *text, size_t n, long deadline)
{
    while (n) {
        ssize_t put = send(fd, text, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (put < 0 && errno == EAGAIN) {
            if (wait_for(fd, POLLOUT, deadline))
                return -1;
        } else if (put < 0 && errno != EINTR) {
            return -1;
        } else if (put > 0) {
            text += put;
            n -= (size_t)put;
        }
    }
    return 0;
}

/* All that comes until the end of the stream; *text is malloc'ed also on failure. */
static int recv_all(int fd, char **text, size_t *n, long deadline)
{
    size_t room = 0;

    for (*n = 0;;) {
        if (*n == room) {
            room = room ? room * 2 : 1 << 16;
            char *more = room <= ADMIN_REPLY_MAX * 2UL ? realloc(*text, room) : NULL;
            if (!more) {
                errno = room <= ADMIN_REPLY_MAX * 2UL ? ENOMEM : EMSGSIZE;
                return -1;
            }
            *text = more;
        }
        if (wait_for(fd, POLLIN, deadline))
            return -1;
        ssize_t got = recv(fd, *text + *n, room - *n, MSG_DONTWAIT);
        if (got == 0)
            return 0;
        if (got > 0)
            *n += (size_t)got;
        else if (errno != EINTR && errno != EAGAIN)
            return -1;
        if (*n > ADMIN_REPLY_MAX) {
            errno = EMSGSIZE;
            return -1;
        }
    }
}

static int parse(json_t **reply, const char *text, size_t n, char *err, size_t err_len)
{
    json_error_t why;

    *reply = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(*reply)) {
        json_decref(*reply);
        *reply = NULL;
        snprintf(err, err_len,
                 n ? "the node's answer is no JSON object" : "the node hung up without an answer");
        return -1;
    }
    const char *refusal = json_string_value(json_object_get(*reply, "error"));
    if (!refusal)
        return 0;
    snprintf(err, err_len, "%s", refusal);
    json_decref(*reply);
    *reply = NULL;
    return ADMIN_REFUSED;
}

int admin_ask(const char *socket_path, const char *question, json_t **reply, char *err, size_t err_len)
{
    long deadline = now_ms() + ADMIN_TIMEOUT_MS;
    char *text = NULL;
    size_t n = 0;
    int fd = dial(socket_path, err, err_len), rc = -1;

    *reply = NULL;
    if (fd < 0)
        return -1;
    if (send_all(fd, question, strlen(question), deadline) || recv_all(fd, &text, &n, deadline))
        snprintf(err, err_len, errno == ETIMEDOUT ? "the node does not answer; is it stuck?" : "%s: %s",
                 socket_path, strerror(errno));
    else
        rc = parse(reply, text, n, err, err_len);
    free(text);
    close(fd);
    return rc;
}

/* ---- values ---- */

const char *admin_str(const json_t *object, const char *key, const char *none)
{
    const char *s = json_string_value(json_object_get(object, key));

    return s ? s : none;
}

double admin_num(const json_t *object, const char *key, double none)
{
    const json_t *v = json_object_get(object, key);

    return json_is_number(v) ? json_number_value(v) : none;
}

bool admin_bool(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

bool admin_client_key(char key[static KEY_TEXT_MAX], const char *text)
{
    struct derp_key parsed;
    int n = snprintf(key, KEY_TEXT_MAX, "%s%s", strchr(text, ':') ? "" : "nodekey:", text);

    return n > 0 && n < KEY_TEXT_MAX && key_public_parse(&parsed, key, strlen(key)) == 0;
}

void admin_print(const char *text)
{
    for (const unsigned char *s = (const unsigned char *)text; *s; s++) {
        bool c1 = *s == 0xc2 && s[1] >= 0x80 &&
                  s[1] < 0xa0; /* U+0080 to U+009F; the text is valid UTF-8 (jansson) */
        putchar(*s < 0x20 || *s == 0x7f || c1 ? '?' : *s);
        s += c1;
    }
}

const char *admin_span(char buf[static 32], double s)
{
    long n = s < 0 || s > 1e12 ? 0 : (long)s;

    if (n < 60)
        snprintf(buf, 32, "%ld s", n);
    else if (n < 3600)
        snprintf(buf, 32, "%ld min", n / 60);
    else if (n < 86400)
        snprintf(buf, 32, "%ld h %ld min", n / 3600, n / 60 % 60);
    else if (n < 60 * 86400L)
        snprintf(buf, 32, "%ld d %ld h", n / 86400, n / 3600 % 24);
    else
        snprintf(buf, 32, "%ld d", n / 86400);
    return buf;
}
