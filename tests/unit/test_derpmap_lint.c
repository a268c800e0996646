/* Lint: each doubtful thing is told once, at its place, and nothing is told about a good map. */
#include "proto/derpmap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct findings {
    struct derpmap_finding list[64];
    int n;
};

static void on_finding(void *ctx, const struct derpmap_finding *f)
{
    struct findings *all = ctx;

    assert_true(all->n < 64);
    all->list[all->n++] = *f;
}

static int lint(const char *text, struct findings *all)
{
    struct text_error err = {0};
    struct derpmap *m = derpmap_parse(text, strlen(text), &err);

    if (!m)
        fail_msg("%d:%d: %s\n%s", err.line, err.col, err.msg, text);
    all->n = 0;
    int errors = derpmap_lint(m, on_finding, all);
    derpmap_free(m);
    return errors;
}

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* Region 900 in line 2, its node in line 3; what is tested replaces the node or follows it. */
#define GOOD_NODE                                                                                            \
    "{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a.example\",\"IPv4\":\"192.0.2.1\",\"IPv6\":\"2001:"    \
    "db8::1\""
#define GOOD_NODE_OF_901 "{\"Name\":\"b\",\"RegionID\":901,\"HostName\":\"b.example\",\"IPv4\":\"192.0.2.2\"}"
#define BAD_NODE(fields) "{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a.example\"," fields

static const struct lint_case {
    const char *node; /* the rest of the file from the node on, without "}]}}}" */
    bool error;
    const char *where; /* what stands at the place of the finding */
    const char *says;
} cases[] = {
    {BAD_NODE("\"x\":1,\"IPv4\":\"192.0.2.1\""), false, "\"x\":1", "unknown field \"x\""},
    {BAD_NODE("\"IPv4\":\"1\",\"ipv4\":\"192.0.2.1\""), false, "\"ipv4\"",
     "IPv4 stands here twice (before in line 3)"},
    {GOOD_NODE "}]},\n\"900\":{\"RegionID\":900,\"RegionCode\":\"x\",\"Nodes\":[" GOOD_NODE, false,
     "\"900\":{\"RegionID\":900,\"RegionCode\":\"x\",\"Nodes\":[{",
     "region 900 stands here twice (before in line 2)"},
    {GOOD_NODE
     ",\"CertName\":\"sha256-raw:0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef\"",
     true, "\"sha256-raw:0", "upper-case digits never match; write sha256-raw:" HEX},
    {GOOD_NODE ",\"CertName\":\"sha256-raw:" HEX "0\"", true, "\"sha256-raw:0", "64 hex digits"},
    {GOOD_NODE ",\"CertName\":\"sha256-raw:x\"", true, "\"sha256-raw:x", "64 hex digits"},
    {GOOD_NODE ",\"CertName\":\"SHA256-RAW:" HEX "\"", true, "\"SHA256", "begins with sha256-raw: exactly"},
    {GOOD_NODE ",\"CertName\":\"sha256:" HEX "\"", true, "\"sha256:", "begins with sha256-raw: exactly"},
    {GOOD_NODE ",\"InsecureForTests\":true", false, "true", "InsecureForTests"},
    {GOOD_NODE ",\"HostName\":\"192.0.2.1\"", false, "\"HostName\":\"192", "stands here twice"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"192.0.2.1\"", false, "\"192.0.2.1\"}",
     "IP address without CertName"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a.example\"", false, "{\"Name\"",
     "no IPv4 and no IPv6"},
    {BAD_NODE("\"IPv4\":\"192.0.2\""), true, "\"192.0.2\"", "\"192.0.2\" is no IPv4 address"},
    {BAD_NODE("\"IPv4\":\"::1\""), true, "\"::1\"", "is no IPv4 address"},
    {BAD_NODE("\"IPv6\":\"192.0.2.1\""), true, "\"192.0.2.1\"", "is no IPv6 address"},
    {BAD_NODE("\"IPv4\":\"none\",\"IPv6\":\"none\""), true, "\"none\"}", "nobody can reach"},
    {BAD_NODE("\"IPv6\":\"::1\",\"CanPort80\":true"), false, "true", "CanPort80 without IPv4"},
    {BAD_NODE("\"IPv4\":\"none\",\"CanPort80\":true"), false, "true", "CanPort80 without IPv4"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"IPv4\":\"192.0.2.1\",\"HostName\":\"域名\"", false, "\"域名",
     "is not ASCII"},
    {GOOD_NODE ",\"STUNOnly\":true,\"STUNPort\":-1", false, "-1", "does nothing"},
    {GOOD_NODE ",\"STUNTestIP\":\"127.0.0.1\"", false, "\"127.0.0.1", "STUNTestIP is for tests"},
    {GOOD_NODE "},\n{\"Name\":\"b\",\"RegionID\":900,\"HostName\":\"b.example\",\"IPv4\":\"192.0.2.2\"",
     false, "{\"Name\":\"b\"", "two relays of region 900 answer STUN"},
    {GOOD_NODE "},\n{\"Name\":\"b\",\"RegionID\":900,\"HostName\":\"a.example\",\"STUNPort\":-1", false,
     "{\"Name\":\"b\"", "lacks an address"},
    {GOOD_NODE "}]},\n\"901\":{\"RegionID\":901,\"RegionCode\":\"y\",\"Nodes\":[{\"Name\":\"a\",\"RegionID\":"
               "901,\"HostName\":"
               "\"b.example\",\"IPv4\":\"192.0.2.2\"",
     false, "\"a\",\"RegionID\":901",
     "Name \"a\" is taken in line 3: clients tell nodes by name, derpprobe refuses the map; write \"901-a\""},
    {GOOD_NODE "}]},\n\"901\":{\"RegionID\":901,\"RegionCode\":\"y\",\"Nodes\":[{\"Name\":\"b\",\"RegionID\":"
               "901,\"HostName\":"
               "\"a.example\",\"IPv4\":\"192.0.2.1\",\"IPv6\":\"2001:db8::1\"",
     false, "{\"Name\":\"b\"", "lists node \"a\" of line 3 again"},
    {GOOD_NODE "}]},\n\"901\":{\"RegionID\":901,\"RegionCode\":\"y\",\"Nodes\":[\n{\"Name\":\"b\","
               "\"RegionID\":901,\"HostName\":"
               "\"a.example\",\"IPv4\":\"192.0.2.1\",\"IPv6\":\"2001:db8::1\",\"STUNPort\":-1",
     false, "{\"Name\":\"b\"", "a backup stands first in region 901"},
    {GOOD_NODE "}]},\n\"899\":{\"RegionID\":899,\"RegionCode\":\"y\",\"Nodes\":[{\"Name\":\"b\",\"RegionID\":"
               "899,\"HostName\":"
               "\"b.example\",\"IPv4\":\"192.0.2.2\"",
     false, "\"899\":", "region 899: 900 to 999"},
    {GOOD_NODE "}]},\n\"901\":{\"RegionID\":901,\"Nodes\":[{\"Name\":\"b\",\"RegionID\":901,\"HostName\":"
               "\"b.example\",\"IPv4\":\"192.0.2.2\"",
     false, "\"901\":", "region 901 has no RegionCode"},
    {GOOD_NODE "}],\"Avoid\":true,\"Nodes\":[" GOOD_NODE, false, "true", "Avoid is deprecated"},
    {GOOD_NODE "}],\"Latitude\":91,\"Nodes\":[" GOOD_NODE, false, "91,", "Latitude is outside"},
    {GOOD_NODE "}],\"Longitude\":-181,\"Nodes\":[" GOOD_NODE, false, "-181", "Longitude is outside"},
    {GOOD_NODE "}]}},\"OmitDefaultRegions\":true,\"Odd\":{\"x\":{\"x\":[{", false,
     "\"900\":", "region 900 is the only one (OmitDefaultRegions)"},
    {GOOD_NODE "}]}},\"HomeParams\":{\"RegionScore\":{\"900\":0}},\"Odd\":{\"x\":{\"x\":[{", false, "0}",
     "clients ignore the score of region 900"},
};

static bool stands_at(const char *text, const struct text_error *at, const char *where)
{
    for (int line = 1; line < at->line; line++)
        text = strchr(text, '\n') + 1;
    return strncmp(text + at->col - 1, where, strlen(where)) == 0;
}

static void test_each_case(void **state)
{
    (void)state;
    char text[4096];
    struct findings all;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct lint_case *c = &cases[i];
        snprintf(text, sizeof text,
                 "{\"Regions\":{\n\"900\":{\"RegionID\":900,\"RegionCode\":\"x\",\"Nodes\":[\n%s}]}}}",
                 c->node);
        int errors = lint(text, &all), found = 0;
        for (int k = 0; k < all.n; k++) {
            const struct derpmap_finding *f = &all.list[k];
            found += strstr(f->at.msg, c->says) && stands_at(text, &f->at, c->where) && f->error == c->error;
        }
        if (found == 1 && errors == c->error)
            continue;
        for (int k = 0; k < all.n; k++)
            print_error("%d:%d: %s\n", all.list[k].at.line, all.list[k].at.col, all.list[k].at.msg);
        fail_msg("wanted at %s: %s in\n%s", c->where, c->says, text);
    }
}

static void test_empty_things(void **state)
{
    (void)state;
    struct findings all;

    assert_int_equal(lint("{\"Regions\":{\"900\":{\"RegionID\":900,\"RegionCode\":\"x\"},\"1\":null}}", &all),
                     0);
    assert_int_equal(all.n, 1);
    assert_non_null(strstr(all.list[0].at.msg, "region 900 has no nodes"));
    assert_int_equal(lint("{\"Regions\":{\"1\":null}}", &all), 0);
    assert_int_equal(all.n, 1);
    assert_int_equal(all.list[0].at.line, 0);
    assert_non_null(strstr(all.list[0].at.msg, "no regions in this map"));
}

/* The node is told that it has no address, its backups need not be. */
static void test_backup_without_address(void **state)
{
    (void)state;
    struct findings all;

    assert_int_equal(lint("{\"Regions\":{\"900\":{\"RegionID\":900,\"RegionCode\":\"x\",\"Nodes\":["
                          "{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a.example\"}]},"
                          "\"901\":{\"RegionID\":901,\"RegionCode\":\"y\",\"Nodes\":[" GOOD_NODE_OF_901
                          ",{\"Name\":\"c\",\"RegionID\":901,\"HostName\":\"a.example\",\"STUNPort\":-1}]}}}",
                          &all),
                     0);
    assert_int_equal(all.n, 1);
    assert_non_null(strstr(all.list[0].at.msg, "no IPv4 and no IPv6"));
}

static void test_good_maps(void **state)
{
    (void)state;
    static const char json[] =
        "{\"acls\":[],\"derpMap\":{\"OmitDefaultRegions\":true,\"Regions\":{"
        "\"900\":{\"RegionID\":900,\"RegionCode\":\"x\",\"Nodes\":[" GOOD_NODE ",\"CanPort80\":true},"
        "{\"Name\":\"900-b\",\"RegionID\":900,\"HostName\":\"192.0.2.9\",\"CertName\":\"sha256-raw:" HEX
        "\",\"STUNPort\":-1}]},"
        "\"901\":{\"RegionID\":901,\"RegionCode\":\"y\",\"Nodes\":["
        "{\"Name\":\"b\",\"RegionID\":901,\"HostName\":\"192.0.2.9\",\"CertName\":\"sha256-raw:" HEX
        "\"}]}}}}";
    static const char yaml[] =
        "regions:\n  900:\n    regionid: 900\n    regioncode: x\n    nodes:\n"
        "      - name: 1\n        regionid: 900\n        hostname: a.example\n        ipv4: 192.0.2.1\n";
    struct findings all;

    assert_int_equal(lint(json, &all), 0);
    for (int i = 0; i < all.n; i++)
        print_error("%s\n", all.list[i].at.msg);
    assert_int_equal(all.n, 0);
    assert_int_equal(lint(yaml, &all), 0);
    assert_int_equal(all.n, 0);
}

static void test_headscale(void **state)
{
    (void)state;
    static const char yaml[] =
        "omitdefaultregions: true\nhomeparams: {}\nOther: 1\nregions:\n  900:\n    regionid: 900\n    "
        "regioncode: x\n"
        "    RegionName: x\n    nodes:\n"
        "      - {name: a, regionid: 900, hostname: a.example, ipv4: 192.0.2.1, DERPPort: 8443}\n"
        "      - {name: b, regionid: 900, hostname: b.example, ipv4: 192.0.2.2, stunport: -1}\n"
        "  901:\n    regionid: 901\n    regioncode: y\n    nodes:\n"
        "      - {name: b2, regionid: 901, hostname: b.example, ipv4: 192.0.2.2}\n";
    static const struct {
        int line, col;
        const char *says;
    } want[] = {{1, 21, "Headscale ignores omitdefaultregions"},
                {2, 1, "Headscale ignores homeparams"},
                {3, 1, "unknown field \"Other\""},
                {8, 5, "Headscale ignores \"RegionName\": keys are lower case there, write regionname"},
                {10, 72, "Headscale ignores \"DERPPort\": keys are lower case there, write derpport"},
                {11, 9, "Headscale shuffles"}};
    struct findings all;

    assert_int_equal(lint(yaml, &all), 0);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const struct text_error *at = &all.list[i].at;
        if ((int)i >= all.n || at->line != want[i].line || at->col != want[i].col ||
            !strstr(at->msg, want[i].says))
            fail_msg("%d:%d: %s", at->line, at->col, at->msg);
    }
    assert_int_equal(all.n, (int)(sizeof want / sizeof *want));
}

static void test_order(void **state)
{
    (void)state;
    struct findings all;
    int last = 0;

    lint("{\"x\":1,\n\"Regions\":{\n\"5\":{\"RegionID\":5,\n\"Nodes\":[{\"Name\":\"a\",\"RegionID\":5,"
         "\"HostName\":\"::1\","
         "\"CertName\":\"sha256-raw:\"\n,\"y\":1}]}}}",
         &all);
    assert_true(all.n >= 5);
    for (int i = 0; i < all.n; i++) {
        assert_true(all.list[i].at.line >= last);
        last = all.list[i].at.line;
    }
}

static void on_last(void *ctx, const struct derpmap_finding *f)
{
    struct findings *all = ctx;

    all->n++;
    all->list[0] = *f;
}

/* A file full of unknown names must not cost a line each. */
static void test_bound(void **state)
{
    (void)state;
    struct findings all = {.n = 0};
    struct text_error err;
    char *text = malloc(200000), *p = text;

    p += sprintf(p, "{\"Regions\":{\"1\":null}");
    for (int i = 0; i < 5000; i++)
        p += sprintf(p, ",\"%d\":%d", i, i);
    strcpy(p, "}");
    struct derpmap *m = derpmap_parse(text, strlen(text), &err);
    assert_non_null(m);
    assert_int_equal(derpmap_lint(m, on_last, &all), 0);
    assert_int_equal(all.n, 201);
    assert_non_null(strstr(all.list[0].at.msg, "and more of this kind"));
    derpmap_free(m);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_case),
        cmocka_unit_test(test_empty_things),
        cmocka_unit_test(test_backup_without_address),
        cmocka_unit_test(test_good_maps),
        cmocka_unit_test(test_headscale),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_bound),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
