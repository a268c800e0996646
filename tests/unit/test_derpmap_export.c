/* Exports: what they look like, that they read back as the same map, and that names come out unique. */
#include "proto/derpmap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct derpmap *parse(const char *text)
{
    struct text_error err = {0};
    struct derpmap *m = derpmap_parse(text, strlen(text), &err);

    if (!m)
        fail_msg("%d:%d: %s\n%s", err.line, err.col, err.msg, text);
    return m;
}

#define PIN "sha256-raw:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static const char sample[] =
    "{\"omitDefaultRegions\":true,\"HomeParams\":{\"RegionScore\":{\"901\":0.1,\"7\":2}},\"Regions\":{\n"
    "\"901\":{\"RegionID\":901,\"RegionCode\":\"no\",\"RegionName\":\"S\\\\\\\"o: "
    "\xe4\xb8\xad\",\"Latitude\":35.6895,"
    "\"Nodes\":[{\"Name\":\"1\",\"RegionID\":901,\"HostName\":\"b.example\",\"IPv4\":\"192.0.2.2\","
    "\"CanPort80\":true},\n"
    "{\"Name\":\"x\",\"RegionID\":901,\"HostName\":\"192.0.2.1\",\"CertName\":\"" PIN
    "\",\"STUNPort\":-1}]},\n"
    "\"900\":{\"RegionID\":900,\"NoMeasureNoHome\":true,\"Nodes\":[{\"Name\":\"1\",\"RegionID\":900,"
    "\"HostName\":\"192.0.2.1\",\"CertName\":\"" PIN "\",\"IPv6\":\"none\",\"STUNPort\":3479}]},\n"
    "\"902\":{\"RegionID\":902},\"3\":null}}";

static const char want_json[] = "{\n"
                                "  \"omitDefaultRegions\": true,\n"
                                "  \"HomeParams\": {\n"
                                "    \"RegionScore\": {\n"
                                "      \"7\": 2,\n"
                                "      \"901\": 0.1\n"
                                "    }\n"
                                "  },\n"
                                "  \"Regions\": {\n"
                                "    \"3\": null,\n"
                                "    \"900\": {\n"
                                "      \"RegionID\": 900,\n"
                                "      \"NoMeasureNoHome\": true,\n"
                                "      \"Nodes\": [\n"
                                "        {\n"
                                "          \"Name\": \"900-1\",\n"
                                "          \"RegionID\": 900,\n"
                                "          \"HostName\": \"192.0.2.1\",\n"
                                "          \"CertName\": \"" PIN "\",\n"
                                "          \"IPv6\": \"none\",\n"
                                "          \"STUNPort\": 3479\n"
                                "        }\n"
                                "      ]\n"
                                "    },\n"
                                "    \"901\": {\n"
                                "      \"RegionID\": 901,\n"
                                "      \"RegionCode\": \"no\",\n"
                                "      \"RegionName\": \"S\\\\\\\"o: \xe4\xb8\xad\",\n"
                                "      \"Latitude\": 35.6895,\n"
                                "      \"Longitude\": 0,\n"
                                "      \"Nodes\": [\n"
                                "        {\n"
                                "          \"Name\": \"901-1\",\n"
                                "          \"RegionID\": 901,\n"
                                "          \"HostName\": \"b.example\",\n"
                                "          \"IPv4\": \"192.0.2.2\",\n"
                                "          \"CanPort80\": true\n"
                                "        },\n"
                                "        {\n"
                                "          \"Name\": \"x\",\n"
                                "          \"RegionID\": 901,\n"
                                "          \"HostName\": \"192.0.2.1\",\n"
                                "          \"CertName\": \"" PIN "\",\n"
                                "          \"STUNPort\": -1\n"
                                "        }\n"
                                "      ]\n"
                                "    },\n"
                                "    \"902\": {\n"
                                "      \"RegionID\": 902,\n"
                                "      \"Nodes\": []\n"
                                "    }\n"
                                "  }\n"
                                "}\n";

static const char want_yaml[] =
    "# For derp.paths in Headscale's config.yaml.\n"
    "# Headscale ignores omitdefaultregions: set derp.urls to [] there.\n"
    "# Left out: 1 backup listing, since Headscale shuffles the nodes of a region.\n"
    "omitdefaultregions: true\n"
    "homeparams:\n"
    "  regionscore:\n"
    "    7: 2\n"
    "    901: 0.1\n"
    "regions:\n"
    "  3: null\n"
    "  900:\n"
    "    regionid: 900\n"
    "    nomeasurenohome: true\n"
    "    nodes:\n"
    "      - name: \"900-1\"\n"
    "        regionid: 900\n"
    "        hostname: \"192.0.2.1\"\n"
    "        certname: \"" PIN "\"\n"
    "        ipv6: none\n"
    "        stunport: 3479\n"
    "  901:\n"
    "    regionid: 901\n"
    "    regioncode: \"no\"\n"
    "    regionname: \"S\\\\\\\"o: \xe4\xb8\xad\"\n"
    "    latitude: 35.6895\n"
    "    longitude: 0\n"
    "    nodes:\n"
    "      - name: \"901-1\"\n"
    "        regionid: 901\n"
    "        hostname: b.example\n"
    "        ipv4: \"192.0.2.2\"\n"
    "        canport80: true\n"
    "  902:\n"
    "    regionid: 902\n"
    "    nodes: []\n";

static void test_texts(void **state)
{
    (void)state;
    struct derpmap *m = parse(sample);
    char *json = derpmap_export(m, DERPMAP_TO_JSON), *yaml = derpmap_export(m, DERPMAP_TO_HEADSCALE);
    char *hujson = derpmap_export(m, DERPMAP_TO_TAILSCALE);

    assert_string_equal(json, want_json);
    assert_string_equal(yaml, want_yaml);
    assert_memory_equal(
        hujson,
        "// The value of \"derpMap\" in the tailnet policy file.\n{\n\t\"OmitDefaultRegions\": true,\n", 80);
    assert_non_null(strstr(hujson, "\t\t\t\t\t\"STUNPort\": 3479,\n\t\t\t\t},\n\t\t\t],\n\t\t},\n"));
    free(json);
    free(yaml);
    free(hujson);
    derpmap_free(m);
}

static void check_round_trips(const char *text)
{
    struct derpmap *m = parse(text);

    for (enum derpmap_to to = DERPMAP_TO_TAILSCALE; to <= DERPMAP_TO_JSON; to++) {
        char *out = derpmap_export(m, to);
        struct derpmap *again = parse(out);
        char *out2 = derpmap_export(again, to);
        if (memcmp(m->hash, again->hash, sizeof m->hash) != 0)
            fail_msg("another hash after\n%s", out);
        for (int i = 0; i < again->n_nodes; i++)
            if (!again->nodes[i].backup)
                assert_string_equal(again->nodes[i].id, again->nodes[i].name);
        if (to != DERPMAP_TO_HEADSCALE)
            assert_string_equal(out, out2);
        free(out);
        free(out2);
        derpmap_free(again);
    }
    derpmap_free(m);
}

static void test_round_trips(void **state)
{
    (void)state;
    static const char *const codes[] = {"yes",        "~",
                                        "null",       "1",
                                        "0x1",        "1e5",
                                        "- a",        "a: b",
                                        "a #b",       "#",
                                        "*a",         "&a",
                                        "!a",         "[",
                                        "{",          "%a",
                                        "@a",         "`",
                                        "'",          "a\\\"b",
                                        "a\\\\n",     " a ",
                                        "<<",         ".inf",
                                        "=",          "",
                                        "-",          "?",
                                        "2001-01-01", "\xe2\x80\xa8",
                                        "\xc2\xa0",   "\xf0\x9f\x98\x80"};
    char text[1024];

    check_round_trips(sample);
    check_round_trips("{\"Regions\":{}}");
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        snprintf(text, sizeof text,
                 "{\"Regions\":{\"900\":{\"RegionID\":900,\"RegionCode\":\"%s\",\"RegionName\":\"a%s\","
                 "\"Longitude\":%.17g,"
                 "\"Nodes\":[{\"Name\":\"%sx\",\"RegionID\":900,\"HostName\":\"a\"}]}}}",
                 codes[i], codes[i], 1.0 / (double)(i + 3), codes[i]);
        check_round_trips(text);
    }
}

/* Names that collide with those that others would be given, and names too long to be lengthened. */
static void test_unique_names(void **state)
{
    (void)state;
#define LONG "a23456789012345678901234567890123456789012345678901234567890"
    static const char text[] =
        "{\"Regions\":{\"900\":{\"RegionID\":900,\"Nodes\":[{\"Name\":\"1\",\"RegionID\":900,\"HostName\":"
        "\"a\"},"
        "{\"Name\":\"" LONG "1\",\"RegionID\":900,\"HostName\":\"d\"},{\"Name\":\"" LONG
        "2\",\"RegionID\":900,\"HostName\":\"e\"},"
        "{\"Name\":\"1\",\"RegionID\":900,\"HostName\":\"b\",\"STUNPort\":-1}]},"
        "\"901\":{\"RegionID\":901,\"Nodes\":[{\"Name\":\"1\",\"RegionID\":901,\"HostName\":\"b\"},"
        "{\"Name\":\"" LONG "1\",\"RegionID\":901,\"HostName\":\"f\"},{\"Name\":\"" LONG
        "2\",\"RegionID\":901,\"HostName\":\"g\"},"
        "{\"Name\":\"900-1\",\"RegionID\":901,\"HostName\":\"c\"},{\"Name\":\"900-1\",\"RegionID\":901,"
        "\"HostName\":\"c\","
        "\"STUNPort\":-1}]}}}";
    struct derpmap *m = parse(text);
    char *out = derpmap_export(m, DERPMAP_TO_JSON);
    struct derpmap *again = parse(out);

    for (int i = 0; i < again->n_nodes; i++)
        for (int k = 0; k < i; k++)
            assert_string_not_equal(again->nodes[i].name, again->nodes[k].name);
    assert_non_null(strstr(out, "\"900-1-2\""));
    assert_non_null(strstr(out, "\"901-1\""));
    free(out);
    derpmap_free(again);
    derpmap_free(m);
    check_round_trips(text);
}

/* Which of several listings is the node must not depend on the order of regions in the file: exports sort
 * them. */
static void test_listing_order(void **state)
{
    (void)state;
    check_round_trips("{\"Regions\":{"
                      "\"902\":{\"RegionID\":902,\"Nodes\":[{\"Name\":\"a\",\"RegionID\":902,\"HostName\":"
                      "\"h\",\"STUNPort\":-1}]},"
                      "\"901\":{\"RegionID\":901,\"Nodes\":[{\"Name\":\"b\",\"RegionID\":901,\"HostName\":"
                      "\"h\",\"STUNPort\":-1}]}}}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_unique_names),
        cmocka_unit_test(test_listing_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
