/* Login limits: in all, per prefix, for clients; given back; from several threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <math.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "node/config.h"
#include "node/limits.h"

static struct login_limits *make(uint32_t total, uint32_t prefix, uint32_t clients)
{
    struct login_limits *l = malloc(sizeof(*l));
    struct config c = {.login_limit = total, .login_limit_ip = prefix, .max_clients = clients};
    limits_init(l, 0x1234567890abcdef);
    limits_set(l, &c);
    return l;
}

static struct conn_addr addr(const char *ip)
{
    struct conn_addr a = {.port = 1};
    struct in_addr v4;
    if (inet_pton(AF_INET, ip, &v4) == 1) {
        a.ip[10] = a.ip[11] = 0xff;
        memcpy(a.ip + 12, &v4, 4);
    } else {
        assert_int_equal(inet_pton(AF_INET6, ip, a.ip), 1);
    }
    return a;
}

static void per_prefix(void **state)
{
    (void)state;
    struct login_limits *l = make(100, 2, 1);
    struct conn_addr a = addr("192.0.2.1"), b = addr("192.0.2.2");
    struct conn_addr n1 = addr("2001:db8:0:1::1"), n2 = addr("2001:db8:0:1:ffff::2"),
                     other = addr("2001:db8:0:2::1");
    assert_int_equal(limits_login_enter(l, &a), LIMITS_OK);
    assert_int_equal(limits_login_enter(l, &a), LIMITS_OK);
    assert_int_equal(limits_login_enter(l, &a), LIMITS_PREFIX);
    assert_int_equal(limits_login_enter(l, &b), LIMITS_OK); /* IPv4: each address for itself */
    assert_int_equal(limits_login_enter(l, &n1), LIMITS_OK);
    assert_int_equal(limits_login_enter(l, &n2), LIMITS_OK);
    assert_int_equal(limits_login_enter(l, &n1), LIMITS_PREFIX); /* IPv6: the /64 */
    assert_int_equal(limits_login_enter(l, &other), LIMITS_OK);
    assert_int_equal(limits_prefix_count(l, &a), 2);
    assert_int_equal(atomic_load(&l->total), 6); /* refused ones are not counted */
    limits_login_leave(l, &a);
    assert_int_equal(limits_login_enter(l, &a), LIMITS_OK);
    free(l);
}

static void in_all(void **state)
{
    (void)state;
    struct login_limits *l = make(3, 64, 1);
    struct conn_addr a[4] = {addr("192.0.2.1"), addr("192.0.2.2"), addr("192.0.2.3"), addr("192.0.2.4")};
    for (int i = 0; i < 3; i++)
        assert_int_equal(limits_login_enter(l, &a[i]), LIMITS_OK);
    assert_int_equal(limits_login_enter(l, &a[3]), LIMITS_TOTAL);
    assert_int_equal(limits_prefix_count(l, &a[3]), 0);
    limits_login_leave(l, &a[0]);
    assert_int_equal(limits_login_enter(l, &a[3]), LIMITS_OK);
    /* A reload may lower the limit below what is there. */
    struct config c = {.login_limit = 1, .login_limit_ip = 64, .max_clients = 1};
    limits_set(l, &c);
    assert_int_equal(limits_login_enter(l, &a[0]), LIMITS_TOTAL);
    free(l);
}

static void clients(void **state)
{
    (void)state;
    struct login_limits *l = make(3, 3, 2);
    assert_true(limits_client_enter(l));
    assert_true(limits_client_enter(l));
    assert_false(limits_client_enter(l));
    assert_int_equal(atomic_load(&l->clients), 2);
    limits_client_leave(l);
    assert_true(limits_client_enter(l));
    free(l);
}

static void shut_while_full_or_draining(void **state)
{
    (void)state;
    struct login_limits *l = make(30, 30, 20);
    for (int i = 0; i < 20; i++) {
        assert_false(limits_shut(l));
        assert_true(limits_client_enter(l));
    }
    assert_true(limits_shut(l));
    limits_client_leave(l);
    assert_true(limits_shut(l)); /* not at once again: it would open and close with every client */
    limits_client_leave(l);
    assert_false(limits_shut(l));
    assert_true(limits_client_enter(l));
    assert_false(limits_shut(l));
    atomic_store(&l->draining, true);
    assert_true(limits_shut(l));
    atomic_store(&l->draining, false);
    assert_false(limits_shut(l));
    free(l);
}

static void figures_from_the_machine(void **state)
{
    (void)state;
    struct login_limits *l = make(2048, 1 << 20, 0);
    assert_true(limits_memory() > 1 << 20);
    assert_true(atomic_load(&l->max_clients) > 0);
    assert_int_equal(atomic_load(&l->max_prefix), UINT16_MAX - 1); /* the counter must not wrap */
    free(l);
}

static void accepts_in_time(void **state)
{
    (void)state;
    const uint64_t second = 1000000000;
    struct login_limits *l = make(10, 10, 10);
    for (int i = 0; i < 100000; i++)
        assert_true(limits_accept(l, 5)); /* no limit */
    struct config_derper d = {.accept_limit = 10, .accept_burst = 3};
    struct config c = {.max_clients = 10, .login_limit = 10, .login_limit_ip = 10, .derper = &d};
    limits_set(l, &c);
    uint64_t now = 100 * second;
    int passed = 0;
    for (int i = 0; i < 50; i++)
        passed += limits_accept(l, now);
    assert_int_equal(passed, 3); /* the burst */
    assert_false(limits_accept(l, now + second / 20));
    assert_true(limits_accept(l, now + second / 9));
    for (now += second; now < 110 * second; now += second / 1000)
        passed += limits_accept(l, now);
    assert_in_range(passed, 90, 98); /* nine seconds, and what the first left */
    d.accept_limit = INFINITY;
    limits_set(l, &c);
    for (int i = 0; i < 1000; i++)
        assert_true(limits_accept(l, now));
    free(l);
}

static void *hammer(void *arg)
{
    struct login_limits *l = arg;
    struct conn_addr a = addr("198.51.100.7");
    for (int i = 0; i < 20000; i++) {
        if (limits_login_enter(l, &a) == LIMITS_OK)
            limits_login_leave(l, &a);
        if (limits_client_enter(l))
            limits_client_leave(l);
    }
    return NULL;
}

static void from_threads(void **state)
{
    (void)state;
    struct login_limits *l = make(2, 2, 2);
    pthread_t t[4];
    struct conn_addr a = addr("198.51.100.7");
    for (int i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, hammer, l);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(atomic_load(&l->total), 0);
    assert_int_equal(atomic_load(&l->clients), 0);
    assert_int_equal(limits_prefix_count(l, &a), 0);
    free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(per_prefix),
        cmocka_unit_test(in_all),
        cmocka_unit_test(clients),
        cmocka_unit_test(shut_while_full_or_draining),
        cmocka_unit_test(figures_from_the_machine),
        cmocka_unit_test(from_threads),
        cmocka_unit_test(accepts_in_time),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
