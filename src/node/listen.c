/* From settings and map to bound sockets.
 *
 * Happy path: listen_plan resolves addresses and ports; listen_open binds each once alone, to find another
 * owner of the port (SO_REUSEPORT alone would share it silently), then once for every worker.
 * Failure: the sentence names address and port, and what to do. */
#include "node/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { KEEPALIVE_S = 60 };

static const struct {
    const char *setting, *what;
    int type;
} kinds[LISTEN_KINDS] = {
    [LISTEN_DERP] = {"listen", "TCP", SOCK_STREAM},
    [LISTEN_HTTP] = {"listen_http", "TCP", SOCK_STREAM},
    [LISTEN_STUN] = {"listen_stun", "UDP", SOCK_DGRAM},
};

const char *listen_setting(enum listen_kind kind)
{
    return kinds[kind].setting;
}

/* An address without brackets; false if it is none. */
static bool parse_ip(struct sockaddr_storage *ss, const char *text)
{
    memset(ss, 0, sizeof(*ss));
    struct sockaddr_in *v4 = (struct sockaddr_in *)ss;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ss;
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1)
        ss->ss_family = AF_INET;
    else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1)
        ss->ss_family = AF_INET6;
    return ss->ss_family != 0;
}

static void set_port(struct listen_at *a, int port)
{
    a->port = port;
    if (a->addr.ss_family == AF_INET) {
        ((struct sockaddr_in *)&a->addr)->sin_port = htons((uint16_t)port);
        a->len = sizeof(struct sockaddr_in);
    } else {
        ((struct sockaddr_in6 *)&a->addr)->sin6_port = htons((uint16_t)port);
        a->len = sizeof(struct sockaddr_in6);
    }
}

static void set_text(struct listen_at *a)
{
    char ip[INET6_ADDRSTRLEN] = "";
    if (a->addr.ss_family == AF_INET) {
        inet_ntop(AF_INET, &((struct sockaddr_in *)&a->addr)->sin_addr, ip, sizeof(ip));
        snprintf(a->text, sizeof(a->text), "%s:%d", ip, a->port);
    } else {
        inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&a->addr)->sin6_addr, ip, sizeof(ip));
        snprintf(a->text, sizeof(a->text), "[%s]:%d", ip, a->port);
    }
}

/* Whether an address is one of this machine's: only then may a socket be bound to it (127.0.0.2 as well,
 * which no interface lists). */
static bool is_local(const struct sockaddr_storage *ss)
{
    int fd = socket(ss->ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    struct sockaddr_storage at = *ss;
    socklen_t len = ss->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    bool ok = bind(fd, (struct sockaddr *)&at, len) == 0;
    close(fd);
    return ok;
}

bool listen_is_local(const char *text)
{
    struct sockaddr_storage ss;
    return text && parse_ip(&ss, text) && is_local(&ss);
}

/* All addresses, as far as the kernel can. */
static void any_address(struct sockaddr_storage *ss)
{
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    memset(ss, 0, sizeof(*ss));
    ss->ss_family = fd >= 0 ? AF_INET6 : AF_INET;
    if (fd >= 0)
        close(fd);
}

/* The node's own address if this machine has it.  With one of each family, or one that is not local, all
 * addresses are the only place where every client finds us. */
static void default_address(struct sockaddr_storage *ss, const struct derpmap_node *self)
{
    struct sockaddr_storage own[2];
    const char *text[2] = {self->ipv4, self->ipv6};
    int n = 0;
    for (int i = 0; i < 2; i++)
        if (text[i] && parse_ip(&own[n], text[i]))
            n++;
    if (n == 0 && self->host_name && parse_ip(&own[0], self->host_name))
        n = 1;
    if (n == 1 && is_local(&own[0]))
        *ss = own[0];
    else
        any_address(ss);
}

static int plan_one(struct listen_at *a, enum listen_kind kind, const struct config_listen *l, int map_port,
                    const struct derpmap_node *self, char *err, size_t err_len)
{
    memset(a, 0, sizeof(*a));
    int port = l->port ? l->port : map_port;
    a->on = port > 0;
    if (!a->on) {
        snprintf(a->text, sizeof(a->text), "off");
        return 0;
    }
    if (strcmp(l->addr, "*") == 0) {
        any_address(&a->addr);
    } else if (!l->addr[0]) {
        default_address(&a->addr, self);
    } else if (!parse_ip(&a->addr, l->addr)) {
        snprintf(err, err_len, "%s: \"%s\" is no IP address; write ADDR:PORT, :PORT or off",
                 kinds[kind].setting, l->addr);
        return -1;
    }
    set_port(a, port);
    set_text(a);
    return 0;
}

int listen_plan(struct listen_plan *p, const struct config *c, const struct derpmap_node *self, char *err,
                size_t err_len)
{
    struct config_listen http = c->listen_http;
    bool http_default = !http.addr[0] && (http.port == 0 || http.port == 80);
    if (http_default) /* behind a proxy that ends TLS, port 80 is the proxy's */
        http.port = c->tls == TLS_OFF ? -1 : 80;
    if (plan_one(&p->at[LISTEN_DERP], LISTEN_DERP, &c->listen, derpmap_derp_port(self), self, err, err_len) ||
        plan_one(&p->at[LISTEN_HTTP], LISTEN_HTTP, &http, 80, self, err, err_len) ||
        plan_one(&p->at[LISTEN_STUN], LISTEN_STUN, &c->listen_stun, derpmap_stun_port(self), self, err,
                 err_len))
        return -1;
    struct listen_at *derp = &p->at[LISTEN_DERP], *web = &p->at[LISTEN_HTTP];
    web->optional = http_default;
    p->at[LISTEN_STUN].optional = c->derper != NULL; /* derper goes on without it too, and does not say so */
    p->tcp = (struct listen_tcp){.keepalive_s = KEEPALIVE_S};
    if (c->derper) {
        p->tcp.keepalive_s = c->derper->keepalive_s;
        p->tcp.user_timeout_ms = c->derper->user_timeout_ms;
    }
    if (web->on && derp->on && web->port == derp->port && web->optional) {
        web->on = false; /* the DERP port itself answers there */
        snprintf(web->text, sizeof(web->text), "off");
    }
    return 0;
}

static int set_option(int fd, int level, int option)
{
    int one = 1;
    return setsockopt(fd, level, option, &one, sizeof(one));
}

/* A bound socket, or a negative errno. */
static int open_socket(const struct listen_at *a, enum listen_kind kind, bool shared)
{
    int fd = socket(a->addr.ss_family, kinds[kind].type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int off = 0;
    /* For TCP, SO_REUSEADDR only passes over connections that are closing; for UDP it would share the port. */
    if ((kinds[kind].type == SOCK_STREAM && set_option(fd, SOL_SOCKET, SO_REUSEADDR)) ||
        (shared && set_option(fd, SOL_SOCKET, SO_REUSEPORT)) ||
        (a->addr.ss_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off))) ||
        bind(fd, (const struct sockaddr *)&a->addr, a->len) ||
        (shared && kinds[kind].type == SOCK_STREAM && listen(fd, LISTEN_BACKLOG))) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

static void explain(const struct listen_at *a, enum listen_kind kind, int e, char *err, size_t err_len)
{
    const char *what = kinds[kind].what, *setting = kinds[kind].setting;
    if (e == EADDRINUSE)
        snprintf(err, err_len,
                 "%s port %d is already in use (%s): stop the program that has it (ss -%slpn 'sport = :%d' "
                 "names it) "
                 "or set %s",
                 what, a->port, a->text, kinds[kind].type == SOCK_STREAM ? "t" : "u", a->port, setting);
    else if (e == EACCES)
        snprintf(err, err_len, "no right to bind %s port %d (%s): give CAP_NET_BIND_SERVICE or set %s", what,
                 a->port, a->text, setting);
    else if (e == EADDRNOTAVAIL)
        snprintf(err, err_len, "%s is no address of this machine: set %s", a->text, setting);
    else
        snprintf(err, err_len, "cannot listen on %s port %d (%s): %s", what, a->port, a->text, strerror(e));
}

int listen_probe(const struct listen_at *a, enum listen_kind kind, char *err, size_t err_len)
{
    if (!a->on)
        return 0;
    int fd = open_socket(a, kind, false);
    if (fd < 0) {
        explain(a, kind, -fd, err, err_len);
        return -1;
    }
    close(fd);
    return 0;
}

void listen_close(struct listen_fds *fds, int n)
{
    for (int i = 0; i < n; i++)
        for (int k = 0; k < LISTEN_KINDS; k++)
            if (fds[i].fd[k] >= 0) {
                close(fds[i].fd[k]);
                fds[i].fd[k] = -1;
            }
}

/* None of these is worth a refusal. */
static void set_tcp(int fd, const struct listen_tcp *t)
{
    int on = t->keepalive_s >= 0, every = 15, nodelay = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, sizeof(nodelay));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    if (on) {
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &t->keepalive_s, sizeof(t->keepalive_s));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof(every));
    }
    if (t->user_timeout_ms > 0)
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &t->user_timeout_ms, sizeof(t->user_timeout_ms));
}

/* One for each worker of what was inherited: where there are fewer, workers share one; where there are more, connections wait in
 * the rest in vain, so those are closed.  0: there is none of this kind; -1 with a sentence. */
static int take_inherited(struct inherited *in, const struct listen_at *a, enum listen_kind kind,
                          const struct listen_tcp *tcp, struct listen_fds *fds, int n, char *err,
                          size_t err_len)
{
    int have = 0, fd;
    while (have < n && (fd = inherited_find(in, kinds[kind].type, a->port)) >= 0)
        fds[have++].fd[kind] = fd;
    for (int i = have; have > 0 && i < n; i++) {
        fds[i].fd[kind] = fcntl(fds[i % have].fd[kind], F_DUPFD_CLOEXEC, 0);
        if (fds[i].fd[kind] < 0) {
            snprintf(err, err_len, "no descriptor for another worker's socket (%s)", a->text);
            return -1;
        }
    }
    for (int i = 0; i < have && kinds[kind].type == SOCK_STREAM; i++)
        set_tcp(fds[i].fd[kind], tcp);
    while (have > 0 && (fd = inherited_find(in, kinds[kind].type, a->port)) >= 0)
        close(fd);
    return have;
}

static int open_kind(struct listen_at *a, enum listen_kind kind, const struct listen_tcp *tcp,
                     struct inherited *in, struct listen_fds *fds, int n, char *err, size_t err_len)
{
    int taken = take_inherited(in, a, kind, tcp, fds, n, err, err_len);
    if (taken != 0)
        return taken < 0 ? -1 : 0;
    if (listen_probe(a, kind, err, err_len) != 0)
        return -1;
    for (int i = 0; i < n; i++) {
        int fd = open_socket(a, kind, true);
        if (fd < 0) {
            explain(a, kind, -fd, err, err_len);
            return -1;
        }
        if (kinds[kind].type == SOCK_STREAM)
            set_tcp(fd, tcp);
        fds[i].fd[kind] = fd;
    }
    return 0;
}

int listen_open(struct listen_plan *p, struct inherited *in, struct listen_fds *fds, int n, char *err,
                size_t err_len, char *warn, size_t warn_len)
{
    warn[0] = 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < LISTEN_KINDS; k++)
            fds[i].fd[k] = -1;
    for (int k = 0; k < LISTEN_KINDS; k++) {
        struct listen_at *a = &p->at[k];
        if (!a->on)
            continue;
        if (open_kind(a, (enum listen_kind)k, &p->tcp, in, fds, n, err, err_len) == 0)
            continue;
        if (!a->optional) {
            listen_close(fds, n);
            return -1;
        }
        for (int i = 0; i < n; i++) {
            if (fds[i].fd[k] >= 0)
                close(fds[i].fd[k]);
            fds[i].fd[k] = -1;
        }
        snprintf(warn, warn_len, "%s; going on without it", err);
        a->on = false;
        snprintf(a->text, sizeof(a->text), "off");
        err[0] = 0;
    }
    return 0;
}
