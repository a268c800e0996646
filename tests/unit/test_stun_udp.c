/* The STUN port on loopback sockets: who is answered with what, who is not, and who may share the port. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "node/stun_udp.h"
#include "proto/stun.h"

struct fixture {
    uv_loop_t loop;
    struct stun_udp stun;
    struct stats stats;
    struct sockaddr_storage addr; /* where it listens */
    int closed;
};

static void on_closed(struct stun_udp *s)
{
    struct fixture *f = (struct fixture *)((char *)s - offsetof(struct fixture, stun));

    f->closed++;
}

static void on_timeout(uv_timer_t *t)
{
    uv_stop(t->loop);
}

/* Runs the loop for some milliseconds. */
static void run(struct fixture *f, unsigned ms)
{
    uv_timer_t t;

    uv_timer_init(&f->loop, &t);
    uv_timer_start(&t, on_timeout, ms, 0);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&t, NULL);
    uv_run(&f->loop, UV_RUN_NOWAIT);
}

static struct fixture *start(const char *ip, int reuseport)
{
    struct fixture *f = calloc(1, sizeof *f);
    int len = sizeof f->addr;

    assert_non_null(f);
    if (strchr(ip, ':'))
        uv_ip6_addr(ip, 0, (struct sockaddr_in6 *)&f->addr);
    else
        uv_ip4_addr(ip, 0, (struct sockaddr_in *)&f->addr);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(stun_udp_start(&f->stun, &f->loop, (struct sockaddr *)&f->addr, reuseport, &f->stats),
                     0);
    assert_int_equal(uv_udp_getsockname(&f->stun.udp, (struct sockaddr *)&f->addr, &len), 0);
    return f;
}

static void finish(struct fixture *f)
{
    stun_udp_stop(&f->stun, on_closed);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(f->closed, 1);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    free(f);
}

/* A client on ip, connected to the port of f (at to). */
static int client(const struct fixture *f, const char *ip, struct stun_addr *self)
{
    struct sockaddr_storage me = {0}, to = {0};
    socklen_t len = sizeof me;
    bool v6 = strchr(ip, ':') != NULL;
    /* sin_port and sin6_port stand at the same place. */
    uint16_t port = ntohs(((const struct sockaddr_in *)(const void *)&f->addr)->sin_port);
    int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (v6) {
        uv_ip6_addr(ip, 0, (struct sockaddr_in6 *)&me);
        uv_ip6_addr(ip, port, (struct sockaddr_in6 *)&to);
    } else {
        uv_ip4_addr(ip, 0, (struct sockaddr_in *)&me);
        uv_ip4_addr("127.0.0.1", port, (struct sockaddr_in *)&to);
    }
    assert_int_equal(
        bind(fd, (struct sockaddr *)&me, v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in)), 0);
    assert_int_equal(
        connect(fd, (struct sockaddr *)&to, v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in)),
        0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&me, &len), 0);
    memset(self, 0, sizeof *self);
    self->ip_len = v6 ? 16 : 4;
    inet_pton(v6 ? AF_INET6 : AF_INET, ip, self->ip);
    self->port = ntohs(((struct sockaddr_in *)&me)->sin_port);
    return fd;
}

static void is_told_its_address(const char *listen_ip, const char *client_ip)
{
    struct fixture *f = start(listen_ip, 0);
    uint8_t request[STUN_REQUEST_LEN], answer[256], txid[STUN_TXID_LEN], got[STUN_TXID_LEN];
    struct stun_addr self, mapped;
    int fd = client(f, client_ip, &self);
    ssize_t n;

    memset(txid, 7, sizeof txid);
    stun_request(request, txid);
    assert_int_equal(send(fd, request, sizeof request, 0), sizeof request);
    run(f, 50);
    n = recv(fd, answer, sizeof answer, MSG_DONTWAIT);
    assert_int_equal(n, 28 + self.ip_len);
    assert_int_equal(answer[25], self.ip_len == 4 ? 1 : 2); /* the family as it stands on the wire */
    assert_int_equal(stun_parse_response(answer, (size_t)n, got, &mapped), 0);
    assert_memory_equal(got, txid, sizeof txid);
    assert_int_equal(mapped.ip_len, self.ip_len);
    assert_memory_equal(mapped.ip, self.ip, (size_t)self.ip_len);
    assert_int_equal(mapped.port, self.port);
    assert_int_equal(stats_get(&f->stats, STAT_STUN_SUCCESS), 1);
    assert_int_equal(stats_get(&f->stats, STAT_STUN_BAD), 0);
    close(fd);
    finish(f);
}

static void answers(void **state)
{
    (void)state;
    is_told_its_address("127.0.0.1", "127.0.0.9");
    is_told_its_address("::1", "::1");
}

/* One socket for both families: IPv4 clients are told an IPv4 address, not a mapped one. */
static void dual_stack(void **state)
{
    (void)state;
    is_told_its_address("::", "127.0.0.9");
    is_told_its_address("::", "::1");
}

static void silence_for_strangers(void **state)
{
    struct fixture *f = start("127.0.0.1", 0);
    uint8_t request[STUN_REQUEST_LEN], txid[STUN_TXID_LEN] = {1}, answer[256];
    static const uint8_t big[8000];
    struct stun_addr self;
    int fd = client(f, "127.0.0.1", &self);

    (void)state;
    stun_request(request, txid);
    request[25] ^= 1; /* SOFTWARE: not a Tailscale client */
    send(fd, request, sizeof request, 0);
    stun_request(request, txid);
    request[39] ^= 1; /* FINGERPRINT */
    send(fd, request, sizeof request, 0);
    send(fd, request, 20, 0);
    send(fd, "", 0, 0);
    send(fd, big, sizeof big, 0);
    run(f, 50);
    assert_true(recv(fd, answer, sizeof answer, MSG_DONTWAIT) < 0);
    assert_int_equal(stats_get(&f->stats, STAT_STUN_BAD), 5);
    assert_int_equal(stats_get(&f->stats, STAT_STUN_SUCCESS), 0);
    close(fd);
    finish(f);
}

static void silent_when_told(void **state)
{
    struct fixture *f = start("127.0.0.1", 0);
    uint8_t request[STUN_REQUEST_LEN], txid[STUN_TXID_LEN] = {1}, answer[256];
    struct stun_addr self;
    int fd = client(f, "127.0.0.1", &self);

    (void)state;
    stun_request(request, txid);
    f->stun.silent = true;
    send(fd, request, sizeof request, 0);
    run(f, 50);
    assert_true(recv(fd, answer, sizeof answer, MSG_DONTWAIT) < 0);
    assert_int_equal(stats_get(&f->stats, STAT_STUN_SILENT), 1);
    f->stun.silent = false;
    send(fd, request, sizeof request, 0);
    run(f, 50);
    assert_true(recv(fd, answer, sizeof answer, MSG_DONTWAIT) > 0);
    assert_int_equal(stats_get(&f->stats, STAT_STUN_SUCCESS), 1); /* the former one is not answered late */
    close(fd);
    finish(f);
}

static void the_port_has_one_owner(void **state)
{
    struct fixture *f = start("127.0.0.1", 0);

    (void)state;
    assert_int_equal(stun_udp_bind((struct sockaddr *)&f->addr, 0), UV_EADDRINUSE);
    assert_int_equal(stun_udp_bind((struct sockaddr *)&f->addr, 1), UV_EADDRINUSE);
    finish(f);
}

static void workers_share_the_port(void **state)
{
    struct fixture *f = start("127.0.0.1", 1);
    int fd = stun_udp_bind((struct sockaddr *)&f->addr, 1);

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    finish(f);
}

static void not_our_address(void **state)
{
    struct sockaddr_in addr;

    (void)state;
    uv_ip4_addr("192.0.2.1", 0, &addr);
    assert_int_equal(stun_udp_bind((struct sockaddr *)&addr, 0), UV_EADDRNOTAVAIL);
}

static void a_descriptor_that_is_no_socket(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    int pipe_fds[2];

    (void)state;
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(pipe(pipe_fds), 0);
    close(pipe_fds[1]);
    assert_true(stun_udp_open(&f->stun, &f->loop, pipe_fds[0], &f->stats) < 0);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers),
        cmocka_unit_test(dual_stack),
        cmocka_unit_test(silence_for_strangers),
        cmocka_unit_test(silent_when_told),
        cmocka_unit_test(the_port_has_one_owner),
        cmocka_unit_test(workers_share_the_port),
        cmocka_unit_test(not_our_address),
        cmocka_unit_test(a_descriptor_that_is_no_socket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
