/* /bootstrap-dns: what a look-up brings, and what a request gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "node/bootstrap.h"

#define LOOPBACK "[\n\t\t\"127.0.0.1\"\n\t]"

static void as_go_prints_it(void **state)
{
    (void)state;
    /* Addresses are names too, and need no resolver. */
    char *json = bootstrap_look_up("127.0.0.1");
    assert_string_equal(json, "{\n\t\"127.0.0.1\": " LOOPBACK "\n}");
    free(json);
    json = bootstrap_look_up("192.0.2.9,127.0.0.1,bad name,,\",192.0.2.10");
    assert_string_equal(json,
                        "{\n\t\"127.0.0.1\": " LOOPBACK ",\n\t\"192.0.2.10\": [\n\t\t\"192.0.2.10\"\n\t],\n"
                        "\t\"192.0.2.9\": [\n\t\t\"192.0.2.9\"\n\t]\n}");
    free(json);
    json = bootstrap_look_up("!");
    assert_string_equal(json, "null");
    free(json);
}

static void expect(struct bootstrap *b, const char *q, const char *want)
{
    size_t len;
    char *have = bootstrap_answer(b, q, strlen(q), &len);

    assert_string_equal(have, want);
    assert_int_equal(len, strlen(want));
    free(have);
}

static void answers(void **state)
{
    struct config_derper d = {.names = (char *)(uintptr_t) "127.0.0.1",
                              .unpublished = (char *)(uintptr_t) "192.0.2.1"};
    struct config c = {.derper = &d}, none = {0};
    uv_loop_t loop;

    (void)state;
    uv_loop_init(&loop);
    struct bootstrap *b = bootstrap_start(&loop, &c);
    expect(b, "", ""); /* not looked up yet */
    for (size_t len = 0; len == 0;) {
        uv_run(&loop, UV_RUN_ONCE);
        free(bootstrap_answer(b, "", 0, &len));
    }
    expect(b, "", "{\n\t\"127.0.0.1\": " LOOPBACK "\n}");
    expect(b, "192.0.2.1", "{\n\t\"192.0.2.1\": [\n\t\t\"192.0.2.1\"\n\t]\n}");
    expect(b, "127.0.0.1", "{\n\t\"127.0.0.1\": " LOOPBACK "\n}");
    expect(b, "192.0.2.2", "{\n\t\"127.0.0.1\": " LOOPBACK "\n}");
    expect(b, "192.0.2.2", "{\n\t\"127.0.0.1\": " LOOPBACK "\n}");
    assert_int_equal(bootstrap_count(b, BOOTSTRAP_UNPUBLISHED_HITS), 1);
    assert_int_equal(bootstrap_count(b, BOOTSTRAP_PUBLISHED_HITS), 1);
    assert_int_equal(bootstrap_count(b, BOOTSTRAP_UNPUBLISHED_MISSES), 2);
    assert_int_equal(bootstrap_count(b, BOOTSTRAP_QUERIED_DOMAINS), 3);
    bootstrap_set(b, &none); /* a reload without the flags */
    while (uv_loop_alive(&loop))
        uv_run(&loop, UV_RUN_ONCE);
    expect(b, "192.0.2.1", "");
    bootstrap_set(b, &c);
    bootstrap_set(b, &none); /* while it looks: what is found then does not count */
    while (uv_loop_alive(&loop))
        uv_run(&loop, UV_RUN_ONCE);
    expect(b, "", "");
    bootstrap_set(b, &c);
    bootstrap_stop(b); /* with a look-up under way */
    uv_run(&loop, UV_RUN_DEFAULT);
    bootstrap_free(b);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_go_prints_it),
        cmocka_unit_test(answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
