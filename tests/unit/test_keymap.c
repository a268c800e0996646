/* keymap against a plain array of flags, its memory at a million keys, and colliding tags. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "mesh/keymap.h"

static uint64_t next_random(uint64_t *s)
{
    *s += 0x9e3779b97f4a7c15u;
    uint64_t z = *s;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static struct derp_key key_of(uint32_t n)
{
    struct derp_key k = {{0}};
    memcpy(k.b, &n, sizeof n);
    return k;
}

struct value {
    uint32_t a, b, c, d;
};

/* Everything the map holds is in the model and the other way round. */
static void check_equal(const struct keymap *m, const uint32_t *model, uint32_t n)
{
    size_t count = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct derp_key k = key_of(i);
        const struct value *v = keymap_get(m, &k);
        assert_int_equal(v != NULL, model[i] != 0);
        if (!v)
            continue;
        assert_int_equal(v->a, model[i]);
        assert_int_equal(v->d, ~model[i]);
        size_t pos = keymap_find(m, &k);
        void *at;
        assert_true(key_equal(keymap_at(m, pos, &at), &k));
        assert_ptr_equal(at, v);
        count++;
    }
    assert_int_equal(count, keymap_count(m));
    assert_null(keymap_at(m, count, NULL));
}

static void test_against_model(void **state)
{
    (void)state;
    enum { N = 5000 };
    static uint32_t model[N];
    uint64_t rnd = 7;
    struct keymap *m = keymap_new(sizeof(struct value), 1);
    /* Three waves: mostly puts, then mostly deletions (shrinks), then both. */
    for (uint32_t step = 0; step < 120000; step++) {
        uint32_t n = (uint32_t)(next_random(&rnd) % N);
        uint32_t puts = step < 40000 ? 90 : step < 80000 ? 10 : 50;
        struct derp_key k = key_of(n);
        if (next_random(&rnd) % 100 < puts) {
            int fresh;
            struct value *v = keymap_put(m, &k, &fresh);
            assert_int_equal(fresh, model[n] == 0);
            if (fresh)
                assert_true(v->a == 0 && v->b == 0 && v->c == 0 && v->d == 0);
            model[n] = step + 1;
            v->a = step + 1;
            v->d = ~v->a;
        } else {
            assert_int_equal(keymap_del(m, &k), model[n] ? 0 : -1);
            model[n] = 0;
        }
        if (step % 20000 == 19999)
            check_equal(m, model, N);
    }
    check_equal(m, model, N);
    keymap_free(m);
    memset(model, 0, sizeof model);
}

static void test_walk_with_deletion(void **state)
{
    (void)state;
    struct keymap *m = keymap_new(4, 3);
    for (uint32_t i = 0; i < 1000; i++) {
        struct derp_key k = key_of(i);
        *(uint32_t *)keymap_put(m, &k, NULL) = i;
    }
    const struct derp_key *k;
    void *v;
    uint32_t seen = 0;
    for (size_t i = 0; (k = keymap_at(m, i, &v));) {
        seen++;
        if (*(uint32_t *)v % 2) {
            struct derp_key copy = *k;
            assert_int_equal(keymap_del(m, &copy), 0);
        } else {
            i++;
        }
    }
    assert_int_equal(seen, 1000);
    assert_int_equal(keymap_count(m), 500);
    keymap_free(m);
}

static void test_memory(void **state)
{
    (void)state;
    struct keymap *m = keymap_new(16, 5);
    size_t empty = keymap_bytes(m);
    assert_true(empty < 32768);
    uint32_t n = 0;
    while (n < 1000000) {
        struct derp_key k = key_of(n++);
        assert_non_null(keymap_put(m, &k, NULL));
        if (n >= 100000 && n % 10000 == 0) /* 48 and at most 8 of index, a spare chunk, the segments' heads */
            assert_true(keymap_bytes(m) <= (size_t)n * (48 + 8) + 40000);
    }
    for (uint32_t i = 0; i < n; i++) {
        struct derp_key k = key_of(i);
        assert_int_equal(keymap_del(m, &k), 0);
    }
    assert_true(keymap_bytes(m) < 256 * 1024); /* given back, but for small remains */
    keymap_free(m);
}

static void test_small_values_and_other_seed(void **state)
{
    (void)state;
    struct keymap *a = keymap_new(4, 1), *b = keymap_new(1, 2);
    struct derp_key k;
    memset(k.b, 0xff, sizeof k.b);
    assert_null(keymap_get(a, &k));
    assert_int_equal(keymap_del(a, &k), -1);
    *(uint32_t *)keymap_put(a, &k, NULL) = 0xdeadbeef;
    *(uint8_t *)keymap_put(b, &k, NULL) = 9;
    assert_int_equal(*(uint32_t *)keymap_get(a, &k), 0xdeadbeef);
    assert_int_equal(*(uint8_t *)keymap_get(b, &k), 9);
    keymap_free(a);
    keymap_free(b);
    keymap_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_model),
        cmocka_unit_test(test_walk_with_deletion),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_small_values_and_other_seed),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
