/* See inherited.h.
 *
 * Happy path: LISTEN_FDS says how many there are, from descriptor 3 on; each is found by type and port.
 * Fails: a number that makes no sense, or another process's, counts as none: the sockets are opened as usual. */
#include "node/inherited.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* The number in a variable; -1 if there is none. */
static long number(const char *name)
{
    const char *text = getenv(name);
    char *end;
    long n = text ? strtol(text, &end, 10) : -1;
    return text && *text && !*end ? n : -1;
}

void inherited_take(struct inherited *in)
{
    long n = number("LISTEN_FDS"), pid = number("LISTEN_PID");
    bool heir = getenv("LISTEN_HEIR") != NULL; /* handover.c: it did not know our number */
    *in = (struct inherited){.n = 0};
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDNAMES");
    if (n < 1 || n > INHERITED_MAX || (!heir && pid != getpid()))
        return;
    in->n = (int)n;
    in->lasting = !heir;
    for (int i = 0; i < in->n; i++) {
        int fd = INHERITED_FIRST + i, flags = fcntl(fd, F_GETFL);
        in->fd[i] =
            flags < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0
                ? -1
                : fd;
    }
}

static bool is_one(int fd, int type, int port)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss), type_len = sizeof(int);
    int its_type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &its_type, &type_len) != 0 || its_type != type ||
        getsockname(fd, (struct sockaddr *)&ss, &len) != 0)
        return false;
    if (ss.ss_family == AF_INET)
        return ntohs(((struct sockaddr_in *)&ss)->sin_port) == port;
    return ss.ss_family == AF_INET6 && ntohs(((struct sockaddr_in6 *)&ss)->sin6_port) == port;
}

int inherited_find(struct inherited *in, int type, int port)
{
    for (int i = 0; i < in->n; i++)
        if (in->fd[i] >= 0 && is_one(in->fd[i], type, port)) {
            int fd = in->fd[i];
            in->fd[i] = -1;
            return fd;
        }
    return -1;
}

int inherited_close(struct inherited *in)
{
    int n = 0;
    for (int i = 0; i < in->n; i++)
        if (in->fd[i] >= 0) {
            close(in->fd[i]);
            n++;
        }
    in->n = 0;
    return n;
}
