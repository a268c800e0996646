/* routes: local before remote is the caller's order; stale deletions must not act. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "mesh/routes.h"

static struct derp_key key_of(uint8_t n)
{
    struct derp_key k = {{0}};
    k.b[31] = n;
    return k;
}

static void test_local(void **state)
{
    (void)state;
    struct routes *r = routes_new(42);
    struct derp_key k = key_of(1), other = key_of(2);
    assert_null(routes_local(r, &k));
    struct conn_ref first = {.gen = 10, .slot = 1, .worker = 0}, second = {.gen = 11, .slot = 2, .worker = 1};
    assert_int_equal(routes_local_set(r, &k, &first), 0);
    assert_int_equal(routes_local_set(r, &k, &second), 0);
    assert_null(routes_local(r, &other));
    routes_local_del(r, &k, 10); /* the first one's end comes late */
    assert_non_null(routes_local(r, &k));
    assert_int_equal(routes_local(r, &k)->gen, 11);
    assert_int_equal(routes_local(r, &k)->slot, 2);
    assert_int_equal(routes_n_local(r), 1);
    routes_local_del(r, &k, 11);
    assert_null(routes_local(r, &k));
    assert_int_equal(routes_local_set(r, &k, &first), 0);
    routes_local_del(r, &k, 0);
    routes_local_del(r, &k, 0);
    assert_null(routes_local(r, &k));
    routes_free(r);
}

static void test_remote(void **state)
{
    (void)state;
    struct routes *r = routes_new(42);
    struct derp_key k = key_of(1);
    assert_int_equal(routes_remote(r, &k), NODE_NONE);
    assert_int_equal(routes_remote_set(r, &k, NODE_NONE), 0);
    assert_int_equal(routes_remote_set(r, &k, 0), 0);
    assert_int_equal(routes_remote(r, &k), 0);
    assert_int_equal(routes_remote_set(r, &k, 7), 0);
    assert_int_equal(routes_remote(r, &k), 7);
    assert_int_equal(routes_n_remote(r), 1);
    assert_true(routes_bytes(r) > 0);
    struct conn_ref c = {.gen = 3};
    assert_int_equal(routes_local_set(r, &k, &c), 0);
    assert_int_equal(routes_remote(r, &k), 7); /* the two do not touch each other */
    assert_int_equal(routes_remote_set(r, &k, NODE_NONE), 0);
    assert_int_equal(routes_remote(r, &k), NODE_NONE);
    assert_int_equal(routes_n_remote(r), 0);
    assert_int_equal(routes_n_local(r), 1);
    routes_free(r);
    routes_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_local), cmocka_unit_test(test_remote)};
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
