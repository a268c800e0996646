/* When a certificate is asked for again: a third of its life before its end, at most 30 days. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "node/acme.h"

enum { DAY = 86400 };

static void test_due(void **state)
{
    (void)state;
    assert_true(acme_due(true, 0, 3650L * DAY, DAY)); /* our own, for the meantime */
    assert_false(acme_due(false, 0, 90 * DAY, 60 * DAY));
    assert_true(acme_due(false, 0, 90 * DAY, 60 * DAY + 1));
    assert_false(acme_due(false, 0, 365 * DAY, 335 * DAY));
    assert_true(acme_due(false, 0, 365 * DAY, 335 * DAY + 1));
    assert_false(acme_due(false, 0, 6 * DAY, 4 * DAY));
    assert_true(acme_due(false, 0, 6 * DAY, 4 * DAY + 1));
    assert_true(acme_due(false, 0, 90 * DAY, 400 * DAY)); /* expired */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_due)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
