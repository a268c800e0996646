/* routes: local before remote is the caller's order; stale deletions must not act. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
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

static struct derp_key number_key(uint32_t n)
{
    struct derp_key k = {{0}};
    memcpy(k.b, &n, sizeof n);
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

/* Many keys come, move and go, against a plain array. */
static void test_many_remote(void **state)
{
    (void)state;
    enum { KEYS = 3000, STEPS = 400000, GROW_AT = STEPS / 2 };
    static uint32_t expected[KEYS];
    struct routes *r = routes_new(7);
    uint64_t rnd = 1;
    size_t n = 0;
    for (int i = 0; i < KEYS; i++)
        expected[i] = NODE_NONE;
    for (int step = 0; step < STEPS; step++) {
        rnd = rnd * 6364136223846793005u + 1442695040888963407u;
        uint32_t i = (uint32_t)(rnd >> 33) % KEYS;
        bool leaves = (rnd >> 20) % 8 < (step < GROW_AT ? 2 : 6);
        uint32_t node = leaves ? (uint32_t)NODE_NONE : (uint32_t)(rnd >> 40) % 0xffff;
        struct derp_key k = number_key(i);
        n += expected[i] == NODE_NONE;
        n -= node == NODE_NONE;
        expected[i] = node;
        assert_int_equal(routes_remote_set(r, &k, node), 0);
        if (step % 1000)
            continue;
        for (uint32_t j = 0; j < KEYS; j++) {
            struct derp_key kj = number_key(j);
            assert_int_equal(routes_remote(r, &kj), expected[j]);
        }
        assert_int_equal(routes_n_remote(r), n);
    }
    routes_free(r);
}

/* What a worker's copy costs a key; with the mesh's own table (test_mesh_sim) two workers stay under 128 bytes. */
static void test_bytes_a_key(void **state)
{
    (void)state;
    enum { KEYS = 100000, MESH_COPY = 60 };
    struct routes *r = routes_new(9);
    size_t empty = routes_bytes(r);
    double most = 0;
    for (uint32_t i = 1; i <= KEYS; i++) {
        struct derp_key k = number_key(i);
        assert_int_equal(routes_remote_set(r, &k, i % 100), 0);
        double each = (double)(routes_bytes(r) - empty) / i;
        if (i > KEYS / 2 && each > most)
            most = each;
    }
    printf("a worker's routes: %.1f bytes a key at %d keys, at most %.1f from half of that on; all copies of "
           "two workers: %.1f\n",
           (double)(routes_bytes(r) - empty) / KEYS, KEYS, most, MESH_COPY + 2 * most);
    assert_true(MESH_COPY + 2 * most <= 128);
    for (uint32_t i = 1; i <= KEYS; i++) {
        struct derp_key k = number_key(i);
        assert_int_equal(routes_remote_set(r, &k, NODE_NONE), 0);
    }
    assert_true(routes_bytes(r) - empty < 200000); /* it shrinks again */
    assert_int_equal(routes_n_remote(r), 0);
    routes_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_local), cmocka_unit_test(test_remote),
                                       cmocka_unit_test(test_many_remote),
                                       cmocka_unit_test(test_bytes_a_key)};
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
