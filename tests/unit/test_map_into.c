/* The map put into a policy, or into derp.yaml: what is not the map stays byte for byte, and once more changes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "cli/map_into.h"

static const char json[] = "{\n  \"Regions\": {}\n}\n";
static const char yaml[] = "# head\nregions:\n  900:\n    regionid: 900\n";

static struct text_error err;

static void becomes(char *(*into)(const char *, size_t, const char *, struct text_error *), const char *value,
                    const char *before, const char *after)
{
    char *once = into(before, strlen(before), value, &err);
    assert_non_null(once);
    assert_string_equal(once, after);
    char *twice = into(once, strlen(once), value, &err);
    assert_non_null(twice);
    assert_string_equal(twice, once);
    free(once);
    free(twice);
}

static void policy(const char *before, const char *after)
{
    becomes(map_into_policy, json, before, after);
}

static void headscale(const char *before, const char *after)
{
    becomes(map_into_headscale, yaml, before, after);
}

static void refused(char *made, int line, const char *says)
{
    assert_null(made);
    assert_int_equal(err.line, line);
    if (!strstr(err.msg, says))
        fail_msg("\"%s\" does not say \"%s\"", err.msg, says);
}

static void test_policy(void **state)
{
    (void)state;
    policy("// mine\n{\n\t\"acls\": [1,], // all\n\t\"derpMap\": {\"Regions\": {\"900\": null,},}, // "
           "old\n\t\"x\": 1\n}\n",
           "// mine\n{\n\t\"acls\": [1,], // all\n\t\"derpMap\": {\n\t  \"Regions\": {}\n\t}, // "
           "old\n\t\"x\": 1\n}\n");
    policy("{\"DERPMAP\": null}", "{\"DERPMAP\": {\n  \"Regions\": {}\n}}");
    policy("\r\n{ \"a\": {\"derpMap\": 1} }\r\n",
           "\r\n{\n\t\"derpMap\": {\n\t  \"Regions\": {}\n\t}, \"a\": {\"derpMap\": 1} }\r\n");
    policy("{\n  \"a\": 1,\n}\n", "{\n  \"derpMap\": {\n    \"Regions\": {}\n  },\n  \"a\": 1,\n}\n");
    policy("{}", "{\n\t\"derpMap\": {\n\t  \"Regions\": {}\n\t}\n}");
}

static void test_policy_refused(void **state)
{
    (void)state;
    refused(map_into_policy("{\n  \"a\": }\n", 11, json, &err), 2, "");
    refused(map_into_policy("[1]", 3, json, &err), 1, "no policy");
}

static void test_headscale(void **state)
{
    (void)state;
    headscale("# mine\nregions:\n  1:\n    # inner\n    nodes: []\n\n# after\nother: 1 # x\n",
              "# mine\nregions:\n  900:\n    regionid: 900\n\n# after\nother: 1 # x\n");
    headscale("regions:\n  1: {}", "regions:\n  900:\n    regionid: 900\n");
    headscale("a:\n  regions: 1\nregions: {1: {}, 2: {}}\nb: [regions]\n",
              "a:\n  regions: 1\nregions:\n  900:\n    regionid: 900\nb: [regions]\n");
    headscale("", "regions:\n  900:\n    regionid: 900\n");
    headscale("# only this", "# only this\nregions:\n  900:\n    regionid: 900\n");
    headscale("---\nother: 1\n", "---\nother: 1\nregions:\n  900:\n    regionid: 900\n");
    headscale("regions:\n  1:\n    a: 1\n# end", "regions:\n  900:\n    regionid: 900\n# end");
}

static void test_headscale_refused(void **state)
{
    (void)state;
    refused(map_into_headscale("a: [\n", 5, yaml, &err), 2, "no YAML");
    refused(map_into_headscale("{regions: {}}", 13, yaml, &err), 1, "braces");
    refused(map_into_headscale("a: 1\n---\nb: 2\n", 14, yaml, &err), 2, "second document");
}

static void test_kind(void **state)
{
    static const char *const policies[] = {"{", " // x\n{", "/* a: b */ {", "\n\t{}"};
    static const char *const others[] = {"", "regions:", "# {\nregions:", "// {", "/* {"};

    (void)state;
    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++)
        assert_true(map_into_is_policy(policies[i], strlen(policies[i])));
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        assert_false(map_into_is_policy(others[i], strlen(others[i])));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_policy),    cmocka_unit_test(test_policy_refused),
        cmocka_unit_test(test_headscale), cmocka_unit_test(test_headscale_refused),
        cmocka_unit_test(test_kind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
