/* Listening: which address by default, another owner of the port, one socket for each worker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/listen.h"

static struct inherited none;

static struct derpmap_node node(const char *ipv4, int derp, int stun)
{
    return (struct derpmap_node){.id = (char *)"1",
                                 .host_name = (char *)"derp.example",
                                 .ipv4 = (char *)ipv4,
                                 .derp_port = derp,
                                 .stun_port = stun};
}

/* A port of 127.0.0.1 that is free for TCP just now. */
static int free_port(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    close(fd);
    return ntohs(sa.sin_port);
}

static void defaults(void **state)
{
    (void)state;
    struct listen_plan p;
    struct config c = {.tls = TLS_AUTO};
    char err[256];
    struct derpmap_node n = node("127.0.0.9", 8443, 3479);
    assert_int_equal(listen_plan(&p, &c, &n, err, sizeof(err)), 0);
    assert_string_equal(p.at[LISTEN_DERP].text, "127.0.0.9:8443"); /* its own address: local */
    assert_string_equal(p.at[LISTEN_HTTP].text, "127.0.0.9:80");
    assert_string_equal(p.at[LISTEN_STUN].text, "127.0.0.9:3479");
    assert_true(p.at[LISTEN_HTTP].optional && !p.at[LISTEN_DERP].optional);

    n = node("192.0.2.77", 0, 0); /* not local: a NATed machine */
    assert_int_equal(listen_plan(&p, &c, &n, err, sizeof(err)), 0);
    assert_int_equal(p.at[LISTEN_DERP].port, 443);
    assert_int_equal(p.at[LISTEN_STUN].port, 3478);
    assert_true(strcmp(p.at[LISTEN_DERP].text, "[::]:443") == 0 ||
                strcmp(p.at[LISTEN_DERP].text, "0.0.0.0:443") == 0);

    n = node("127.0.0.9", 8443, -1);
    n.ipv6 = (char *)"2001:db8::77"; /* one of two is not local */
    assert_int_equal(listen_plan(&p, &c, &n, err, sizeof(err)), 0);
    assert_null(strstr(p.at[LISTEN_DERP].text, "127.0.0.9"));
    assert_false(p.at[LISTEN_STUN].on);
    n.ipv6 = (char *)"none";
    assert_int_equal(listen_plan(&p, &c, &n, err, sizeof(err)), 0);
    assert_string_equal(p.at[LISTEN_DERP].text, "127.0.0.9:8443");

    c.tls = TLS_OFF; /* behind a proxy */
    assert_int_equal(listen_plan(&p, &c, &n, err, sizeof(err)), 0);
    assert_string_equal(p.at[LISTEN_HTTP].text, "off");
}

static void settings_win(void **state)
{
    (void)state;
    struct listen_plan p;
    struct config c = {
        .tls = TLS_AUTO, .listen = {"127.0.0.1", 1443}, .listen_http = {"", -1}, .listen_stun = {"::1", 0}};
    char err[256];
    struct derpmap_node n = node("192.0.2.77", 0, 0);
    assert_int_equal(listen_plan(&p, &c, &n, err, sizeof(err)), 0);
    assert_string_equal(p.at[LISTEN_DERP].text, "127.0.0.1:1443");
    assert_false(p.at[LISTEN_HTTP].on);
    assert_string_equal(p.at[LISTEN_STUN].text, "[::1]:3478");
    strcpy(c.listen.addr, "localhost");
    assert_int_equal(listen_plan(&p, &c, &n, err, sizeof(err)), -1);
    assert_non_null(strstr(err, "localhost"));
}

static void a_socket_for_each_worker(void **state)
{
    (void)state;
    enum { WORKERS = 3 };
    struct listen_plan p;
    struct listen_fds fds[WORKERS], more[1];
    struct config c = {.tls = TLS_AUTO, .listen_http = {"", -1}};
    int port = free_port();
    struct derpmap_node n = node("127.0.0.1", port, port);
    char err[400], warn[256];
    assert_int_equal(listen_plan(&p, &c, &n, err, sizeof(err)), 0);
    assert_int_equal(listen_open(&p, &none, fds, WORKERS, err, sizeof(err), warn, sizeof(warn)), 0);
    for (int i = 0; i < WORKERS; i++) {
        int on = 0;
        socklen_t len = sizeof(on);
        assert_true(fds[i].fd[LISTEN_DERP] >= 0 && fds[i].fd[LISTEN_STUN] >= 0 && fds[i].fd[LISTEN_HTTP] < 0);
        assert_int_equal(getsockopt(fds[i].fd[LISTEN_DERP], SOL_SOCKET, SO_ACCEPTCONN, &on, &len), 0);
        assert_int_equal(on, 1);
    }
    /* A second owner is refused although SO_REUSEPORT would let it in. */
    assert_int_equal(listen_open(&p, &none, more, 1, err, sizeof(err), warn, sizeof(warn)), -1);
    assert_non_null(strstr(err, "already in use"));
    close(fds[0].fd[LISTEN_DERP]);
    close(fds[1].fd[LISTEN_DERP]);
    close(fds[2].fd[LISTEN_DERP]);
    for (int i = 0; i < WORKERS; i++)
        fds[i].fd[LISTEN_DERP] = -1;
    assert_int_equal(listen_probe(&p.at[LISTEN_DERP], LISTEN_DERP, err, sizeof(err)), 0);
    assert_int_equal(listen_probe(&p.at[LISTEN_STUN], LISTEN_STUN, err, sizeof(err)), -1); /* UDP as well */
    listen_close(fds, WORKERS);
    assert_int_equal(listen_probe(&p.at[LISTEN_STUN], LISTEN_STUN, err, sizeof(err)), 0);
}

static int bound_port(int fd)
{
    struct sockaddr_in sin;
    socklen_t len = sizeof(sin);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
    return ntohs(sin.sin_port);
}

/* From a node with two workers to one with as many as it says. */
static void hand_on(int workers)
{
    struct listen_plan p;
    struct listen_fds fds[2], heir[3];
    struct config c = {.tls = TLS_AUTO, .listen_http = {"", -1}};
    int port = free_port(), given = 0;
    struct derpmap_node n = node("127.0.0.1", port, port);
    char err[400], warn[256];
    assert_int_equal(listen_plan(&p, &c, &n, err, sizeof(err)), 0);
    assert_int_equal(listen_open(&p, &none, fds, 2, err, sizeof(err), warn, sizeof(warn)), 0);
    struct inherited in = {.n = 0};
    for (int i = 0; i < 2; i++) {
        in.fd[in.n++] = fds[i].fd[LISTEN_DERP];
        in.fd[in.n++] = fds[i].fd[LISTEN_STUN];
    }
    in.fd[in.n++] = dup(STDERR_FILENO); /* no socket at all */
    assert_int_equal(listen_open(&p, &in, heir, workers, err, sizeof(err), warn, sizeof(warn)), 0);
    for (int i = 0; i < workers; i++) {
        assert_int_equal(bound_port(heir[i].fd[LISTEN_DERP]), port);
        assert_int_equal(bound_port(heir[i].fd[LISTEN_STUN]), port);
        given += heir[i].fd[LISTEN_DERP] == fds[0].fd[LISTEN_DERP] ||
                 heir[i].fd[LISTEN_DERP] == fds[1].fd[LISTEN_DERP];
    }
    assert_int_equal(given, workers < 2 ? workers : 2);
    assert_int_equal(inherited_close(&in), 1);
    listen_close(heir, workers);
    /* none is left where connections would wait in vain */
    assert_int_equal(listen_probe(&p.at[LISTEN_DERP], LISTEN_DERP, err, sizeof(err)), 0);
    assert_int_equal(listen_probe(&p.at[LISTEN_STUN], LISTEN_STUN, err, sizeof(err)), 0);
}

static void inherited_sockets_are_shared_out(void **state)
{
    (void)state;
    hand_on(1);
    hand_on(2);
    hand_on(3);
}

static void only_our_own_sockets_are_inherited(void **state)
{
    (void)state;
    struct inherited in;
    setenv("LISTEN_FDS", "1", 1);
    setenv("LISTEN_PID", "1", 1); /* for another process */
    inherited_take(&in);
    assert_int_equal(in.n, 0);
    assert_null(getenv("LISTEN_FDS"));
    char pid[16];
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDS", "x", 1);
    inherited_take(&in);
    assert_int_equal(in.n, 0);
    assert_false(in.lasting);
}

static void port_80_is_optional_by_default(void **state)
{
    (void)state;
    struct listen_plan p;
    struct listen_fds fds[2], taken[1];
    struct config c = {.tls = TLS_AUTO, .listen = {"127.0.0.1", free_port()}, .listen_stun = {"", -1}};
    struct derpmap_node n = node("127.0.0.1", 0, 0);
    char err[400], warn[400];
    struct listen_plan owner = {.at = {[LISTEN_HTTP] = {.on = false}}};
    struct config oc = {.tls = TLS_AUTO,
                        .listen = {"127.0.0.1", free_port()},
                        .listen_http = {"", -1},
                        .listen_stun = {"", -1}};
    assert_int_equal(listen_plan(&owner, &oc, &n, err, sizeof(err)), 0);
    assert_int_equal(listen_open(&owner, &none, taken, 1, err, sizeof(err), warn, sizeof(warn)), 0);

    assert_int_equal(listen_plan(&p, &c, &n, err, sizeof(err)), 0);
    p.at[LISTEN_HTTP].addr =
        owner.at[LISTEN_DERP].addr; /* instead of port 80, which may be free or not here */
    p.at[LISTEN_HTTP].on = true;
    p.at[LISTEN_HTTP].optional = true;
    assert_int_equal(listen_open(&p, &none, fds, 2, err, sizeof(err), warn, sizeof(warn)), 0);
    assert_non_null(strstr(warn, "listen_http"));
    assert_false(p.at[LISTEN_HTTP].on);
    assert_true(fds[1].fd[LISTEN_DERP] >= 0 && fds[1].fd[LISTEN_HTTP] < 0);
    listen_close(fds, 2);
    p.at[LISTEN_HTTP].on = true;
    p.at[LISTEN_HTTP].optional = false; /* asked for: refused */
    assert_int_equal(listen_open(&p, &none, fds, 2, err, sizeof(err), warn, sizeof(warn)), -1);
    assert_true(fds[0].fd[LISTEN_DERP] < 0);
    listen_close(taken, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(settings_win),
        cmocka_unit_test(a_socket_for_each_worker),
        cmocka_unit_test(inherited_sockets_are_shared_out),
        cmocka_unit_test(only_our_own_sockets_are_inherited),
        cmocka_unit_test(port_80_is_optional_by_default),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
