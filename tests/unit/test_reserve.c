/* The reserve of memory: malloc and realloc of this program fail when the test says so (linker option --wrap). */
#include "node/reserve.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <openssl/crypto.h>

void *__real_malloc(size_t n);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_realloc(void *p, size_t n);

static bool failing; /* of this program, one thread */

void *__wrap_malloc(size_t n)
{
    return failing ? NULL : __real_malloc(n);
}

void *__wrap_realloc(void *p, size_t n)
{
    return failing ? NULL : __real_realloc(p, n);
}

static void test_untouched_while_malloc_answers(void **state)
{
    (void)state;
    void *p = reserve_malloc(100);
    assert_non_null(p);
    assert_false(reserve_has(p));
    p = reserve_realloc(p, 5000);
    assert_false(reserve_has(p));
    reserve_free(p);
    assert_false(reserve_short());
}

static void test_blocks_of_the_reserve(void **state)
{
    static const size_t sizes[] = {1, 1024, 1025, 17 << 10, 70 << 10};
    (void)state;
    failing = true;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint8_t *p = reserve_malloc(sizes[i]);
        assert_non_null(p);
        assert_true(reserve_has(p));
        memset(p, 0xa5, sizes[i]);
        reserve_free(p);
    }
    assert_null(reserve_malloc(100 << 10)); /* larger than the largest block */
    assert_true(reserve_short());
    failing = false;
    assert_false(reserve_short());
}

static void test_grows_with_its_content(void **state)
{
    (void)state;
    uint8_t *p = reserve_malloc(700);
    memset(p, 7, 700);
    failing = true;
    p = reserve_realloc(p, 9000); /* from the system's memory into the reserve */
    assert_non_null(p);
    assert_true(reserve_has(p));
    for (int i = 0; i < 700; i++)
        assert_int_equal(p[i], 7);
    memset(p, 8, 9000);
    assert_ptr_equal(reserve_realloc(p, 18 << 10), p); /* the block holds that */
    assert_null(reserve_realloc(p, 100 << 10));        /* and stays as it was */
    failing = false;
    p = reserve_realloc(p, 100 << 10);
    assert_false(reserve_has(p));
    for (int i = 0; i < 9000; i++)
        assert_int_equal(p[i], 8);
    reserve_free(p);
    assert_null(reserve_realloc(reserve_malloc(1), 0));
}

static void test_ends_and_comes_back(void **state)
{
    static void *taken[4096];
    size_t n = 0, half = 0;
    (void)state;
    failing = true;
    while (n < 4096 && (taken[n] = reserve_malloc(1000)) != NULL)
        n++;
    failing = false;
    assert_in_range(n, 1024, 4095); /* the small ones, then larger ones too */
    for (size_t i = 0; i < n; i++)
        for (size_t k = i + 1; k < i + 5 && k < n; k++)
            assert_ptr_not_equal(taken[i], taken[k]);
    assert_true(reserve_short()); /* though malloc answers again */
    while (half < n && reserve_short())
        reserve_free(taken[half++]);
    assert_in_range(half, 1, n - 1);
    while (half < n)
        reserve_free(taken[half++]);
    failing = true;
    for (size_t i = 0; i < n; i++)
        assert_non_null(taken[i] = reserve_malloc(1000)); /* all came back */
    failing = false;
    for (size_t i = 0; i < n; i++)
        reserve_free(taken[i]);
}

static void test_openssl_uses_it(void **state)
{
    (void)state;
    failing = true;
    void *p = OPENSSL_malloc(17000);
    failing = false;
    assert_true(reserve_has(p));
    OPENSSL_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_untouched_while_malloc_answers),
        cmocka_unit_test(test_blocks_of_the_reserve),
        cmocka_unit_test(test_grows_with_its_content),
        cmocka_unit_test(test_ends_and_comes_back),
        cmocka_unit_test(test_openssl_uses_it),
    };
    if (reserve_init() != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
