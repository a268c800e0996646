/* Every counter has a name of its own that metrics can print. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "node/stats.h"

static void names_are_usable(void **state)
{
    (void)state;
    for (unsigned i = 0; i < STAT_N; i++) {
        const struct stat_info *info = stats_info(i);
        size_t n = strlen(info->name);

        assert_true(n > 0);
        assert_int_equal(strspn(info->name, "abcdefghijklmnopqrstuvwxyz_0123456789"), n);
        assert_string_not_equal(info->name, "unnamed");
        assert_true(strlen(info->help) > 5);
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(info->name, stats_info(j)->name);
    }
    assert_string_equal(stats_info(STAT_N)->name, "unnamed");
    assert_string_equal(stats_info((enum stat_id) - 1)->name, "unnamed");
}

static void gauges(void **state)
{
    (void)state;
    assert_int_equal(stats_info(STAT_CONNECTIONS)->gauge, 1);
    assert_int_equal(stats_info(STAT_LOGIN_PENDING)->gauge, 1);
    assert_int_equal(stats_info(STAT_CLIENTS)->gauge, 1);
    assert_int_equal(stats_info(STAT_LINKS)->gauge, 1);
    assert_int_equal(stats_info(STAT_ACCEPTS)->gauge, 0);
    assert_string_equal(stats_info(STAT_DROP_QUEUE_FULL)->name, "drop_queue_full");
}

static void counts(void **state)
{
    static struct stats s;

    (void)state;
    stats_add(&s, STAT_CLIENTS, 3);
    stats_sub(&s, STAT_CLIENTS, 1);
    assert_int_equal(stats_get(&s, STAT_CLIENTS), 2);
    assert_int_equal(stats_get(&s, STAT_LINKS), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_usable),
        cmocka_unit_test(gauges),
        cmocka_unit_test(counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
