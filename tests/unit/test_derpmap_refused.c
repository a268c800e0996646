/* What a derpMap must not hold: each refused with the place and a sentence that tells what to do. */
#include "proto/derpmap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void check_refused(const char *text, size_t n, int line, int col, const char *says)
{
    struct text_error err = {0};
    struct derpmap *m = derpmap_parse(text, n, &err);

    if (m || err.line != line || err.col != col || !strstr(err.msg, says))
        fail_msg("wanted %d:%d: %s, got %d:%d: %s\n%.300s", line, col, says, err.line, err.col,
                 m ? "accepted" : err.msg, text);
}

struct refused {
    const char *text;
    int line, col;
    const char *says;
};

static const struct refused whole_files[] = {
    {"", 1, 1, "file ends here"},
    {"\n\n  ", 3, 3, "file ends here"},
    {"\xef\xbb\xbf{}", 1, 1, "byte order mark"},
    {"{}", 1, 1, "no derpMap in this file"},
    {"// policy\n{\"acls\": []}", 2, 1, "no derpMap in this file"},
    {"[]", 1, 1, "expected an object"},
    {"{\"derpMap\": null}", 1, 13, "derpMap must be an object"},
    {"{\"derpMap\": {}}", 1, 13, "this map has no Regions"},
    {"{\"OmitDefaultRegions\": true}", 1, 1, "this map has no Regions"},
    {"{\"Regions\": []}", 1, 13, "Regions must be an object"},
    {"{\"Regions\": {}, \"OmitDefaultRegions\": 1}", 1, 39, "must be true or false"},
    {"{\"Regions\": {}, \"HomeParams\": 1}", 1, 31, "HomeParams must be an object"},
    {"{\"Regions\": {}, \"HomeParams\": {\"RegionScore\": 1}}", 1, 47, "RegionScore must be an object"},
    {"{\"Regions\": {}, \"HomeParams\": {\"RegionScore\": {\"a\": 1}}}", 1, 48, "is no positive number"},
    {"{\"Regions\": {}, \"HomeParams\": {\"RegionScore\": {\"1\": \"1\"}}}", 1, 53, "must be a number"},
    {"{\"Regions\": {}, \"HomeParams\": {\"RegionScore\": {\"1\": 1e999}}}", 1, 53, "must be a number"},
    {"{\"Regions\": {}, \"HomeParams\": {\"RegionScore\": {\"1\": 1, \"1\": 2}}}", 1, 47, "two scores"},
    {"{\"Regions\": {\"x\": null}}", 1, 14, "region key \"x\" is no positive number"},
    {"{\"Regions\": {\"0\": null}}", 1, 14, "is no positive number"},
    {"{\"Regions\": {\"-1\": null}}", 1, 14, "is no positive number"},
    {"{\"Regions\": {\"0900\": null}}", 1, 14, "is no positive number"},
    {"{\"Regions\": {\"2147483648\": null}}", 1, 14, "is no positive number"},
    {"{\"Regions\": {\"4294968196\": null}}", 1, 14, "is no positive number"}, /* 900 in 32 bits */
    {"{\"Regions\": {\"900\": {\"RegionID\": 900, \"Latitude\": 1e999}}}", 1, 51,
     "Latitude must be a number"},
    {"{\"Regions\": {\"\": null}}", 1, 14, "is no positive number"},
    {"{\"Regions\": {\"900\": 1}}", 1, 21, "region 900 must be an object, or null"},
    {"{\"Regions\": {\"900\": {}}}", 1, 21, "region 900 has no RegionID"},
    {"{\"Regions\": {\"900\": {\"RegionID\": null}}}", 1, 21, "region 900 has no RegionID"},
    {"{\"Regions\": {\"900\": {\"RegionID\": 901}}}", 1, 34, "RegionID is 901 but the region's key is 900"},
    {"{\"Regions\": {\"900\": {\"RegionID\": \"900\"}}}", 1, 34, "a whole number, without quotes"},
    {"{\"Regions\": {\"900\": {\"RegionID\": 900, \"Nodes\": {}}}}", 1, 48, "a list of nodes"},
    {"{\"Regions\": {\"900\": {\"RegionID\": 900, \"Nodes\": [null]}}}", 1, 49, "a node must be an object"},
    {"{\"Regions\": {\"900\": {\"RegionID\": 900, \"RegionCode\": 1}}}", 1, 53,
     "RegionCode must be a string"},
    {"{\"Regions\": {\"900\": {\"RegionID\": 900, \"Latitude\": \"1\"}}}", 1, 51,
     "Latitude must be a number"},
    {"{\"Regions\": {\"900\": {\"RegionID\": 900, \"Avoid\": \"yes\"}}}", 1, 48,
     "Avoid must be true or false"},
};

static void test_whole_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof whole_files / sizeof *whole_files; i++)
        check_refused(whole_files[i].text, strlen(whole_files[i].text), whole_files[i].line,
                      whole_files[i].col, whole_files[i].says);
}

/* The one node of a map, in line 2. */
static const struct refused nodes[] = {
    {"{}", 2, 1, "this node has no Name"},
    {"{\"Name\":\"\"}", 2, 1, "this node has no Name"},
    {"{\"Name\":1}", 2, 9, "Name must be a string"},
    {"{\"Name\":\"a\\u0001\"}", 2, 9, "Name holds a control character"},
    {"{\"Name\":\"a\\u009b\"}", 2, 9, "Name holds a control character"},
    {"{\"Name\":\"a2345678901234567890123456789012345678901234567890123456789012345\"}", 2, 9,
     "Name is longer than 64 bytes"},
    {"{\"Name\":\"a\"}", 2, 1, "node \"a\" has no RegionID"},
    {"{\"Name\":\"a\",\"RegionID\":901}", 2, 24, "says region 901 but stands in region 900"},
    {"{\"Name\":\"a\",\"RegionID\":900.0}", 2, 24, "RegionID must be a whole number"},
    {"{\"Name\":\"a\",\"RegionID\":9e2}", 2, 24, "RegionID must be a whole number"},
    {"{\"Name\":\"a\",\"RegionID\":99999999999}", 2, 24, "RegionID must be a whole number"},
    {"{\"Name\":\"a\",\"RegionID\":900}", 2, 1, "node \"a\" has no HostName"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"https://a.example\"}", 2, 39, "holds a scheme"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a.example:8443\"}", 2, 39, "the port as DERPPort"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"[::1]\"}", 2, 39, "without brackets"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a b\"}", 2, 39, "is no host name"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a/b\"}", 2, 39, "is no host name"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"1:2:3\"}", 2, 39, "is no host name"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a\",\"DERPPort\":65536}", 2, 54,
     "DERPPort 65536 is out of range"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a\",\"DERPPort\":-1}", 2, 54,
     "DERPPort -1 is out of range"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a\",\"STUNPort\":65536}", 2, 54,
     "STUNPort 65536 is out of range"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a\",\"STUNPort\":-2}", 2, 54,
     "STUNPort -2 is out of range"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a\",\"STUNPort\":\"1\"}", 2, 54, "without quotes"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a\"},\n{\"Name\":\"a\",\"RegionID\":900,\"HostName\":"
     "\"b\"}",
     3, 1, "region 900 has two nodes named \"a\" (the other in line 2)"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a\"},\n{\"Name\":\"b\",\"RegionID\":900,\"HostName\":"
     "\"A\",\"STUNPort\":1}",
     3, 1, "the same node, but another STUNPort"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a\"},\n{\"Name\":\"b\",\"RegionID\":900,\"HostName\":"
     "\"a\",\"CertName\":\"x\"}",
     3, 1, "the same node, but another CertName"},
    {"{\"Name\":\"a\",\"RegionID\":900,\"HostName\":\"a\"},\n{\"Name\":\"b\",\"RegionID\":900,\"HostName\":"
     "\"a\",\"STUNPort\":-1,"
     "\"DERPPort\":443,\"InsecureForTests\":true}",
     3, 1, "node \"a\" in line 2, so the same node, but another InsecureForTests"},
    {"{\"Name\":\"1\",\"RegionID\":900,\"HostName\":\"a\"},\n{\"Name\":\"900/"
     "1\",\"RegionID\":900,\"HostName\":\"b\"}]},"
     "\"901\":{\"RegionID\":901,\"Nodes\":[{\"Name\":\"1\",\"RegionID\":901,\"HostName\":\"c\"}",
     3, 1, "cannot be told from that of the node in line 2"},
};

static void test_nodes(void **state)
{
    (void)state;
    char text[4096];

    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
        snprintf(text, sizeof text, "{\"Regions\":{\"900\":{\"RegionID\":900,\"Nodes\":[\n%s]}}}",
                 nodes[i].text);
        check_refused(text, strlen(text), nodes[i].line, nodes[i].col, nodes[i].says);
    }
}

static const struct refused yaml[] = {
    {"# nothing\n", 1, 1, "nothing but comments"},
    {"hello", 1, 1, "this is no map"},
    {"- a", 1, 1, "this is no map"},
    {"a: 1", 1, 1, "this map has no regions"},
    {"Regions: {}", 1, 1, "lower-case keys only"},
    {"regions: [", 1, 11, "did not find expected node content"},
    {"regions:\n\t900:", 2, 1, "a tab"},
    {"regions: {\"900\": null}", 1, 11, "in quotes: Headscale wants the bare number"},
    {"regions: {900: null, 900: null}", 1, 22, "region 900 stands here twice"},
    {"regions: {}\nregions: {}", 2, 1, "regions stands here twice"},
    {"regions: {900: {regionid: 900, regionid: 900}}", 1, 32, "regionid stands here twice"},
    {"regions: {900: {regionid: '900'}}", 1, 27, "regionid must be a whole number, without quotes"},
    {"regions: {900: {regionid: 0x384}}", 1, 27, "regionid must be a whole number"},
    {"regions: {900: {RegionID: 900}}", 1, 17, "region 900 has no regionid: Headscale reads lower-case"},
    {"regions: {900: {regionid: 900, avoid: 'true'}}", 1, 39, "avoid must be true or false"},
    {"regions: {900: {regionid: 900, nodes: [{name: [1]}]}}", 1, 47, "name must be a string"},
    {"regions: {900: {regionid: 900, nodes: [{name: 域, regionid: 900, hostname: x:1}]}}", 1, 77,
     "the port as derpport"},
    {"regions: {900: {regionid: 900, nodes: [{name: 1, regionid: 900, hostname: x, derpport: 99999}]}}", 1,
     88, "derpport 99999 is out of range"},
    {"regions: &a {}\nx: *a", 2, 4, "aliases"},
    {"regions: !x {}", 1, 10, "tags"},
    {"regions: {900: {regionid: !!int \"900\"}}", 1, 27, "tags"},
    {"regions: ! {}", 1, 10, "tags"},
    {"<<: {regions: {}}", 1, 1, "merge keys"},
    {"? [a]\n: b", 1, 3, "a key must be a plain word or number"},
    {"regions: {}\n---\nregions: {}", 2, 1, "a second document"},
    {"%YAML 1.1\n---\nregions: {}", 1, 1, "directives"},
    {"#\r%TAG ! x\n---\nregions: {}", 1, 3, "directives"},
    {"regions: \"\\0\"", 1, 10, "NUL"},
    {"regions: \xff", 1, 10, "not UTF-8"},
    {"regions: \x01", 1, 10, "control characters"},
};

static void test_yaml(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof yaml / sizeof *yaml; i++)
        check_refused(yaml[i].text, strlen(yaml[i].text), yaml[i].line, yaml[i].col, yaml[i].says);
}

static char *repeat(const char *head, const char *unit, size_t n)
{
    size_t len = strlen(unit), at = strlen(head);
    char *s = malloc(at + len * n + 1);

    strcpy(s, head);
    for (size_t i = 0; i < n; i++)
        memcpy(s + at + len * i, unit, len);
    s[at + len * n] = 0;
    return s;
}

/* Depth is refused where it is first too deep: the rest, on which libyaml would spend most of its time, is
 * never looked at.  The collections are not closed, which would be the error if it were. */
static void test_depth(void **state)
{
    (void)state;
    static const struct refused deep[] = {{"[", 1, 35, "nested too deeply"},
                                          {"- ", 1, 66, "did not find"},
                                          {"[\n", 33, 1, "nested too deeply"},
                                          {"{a: ", 1, 3 + 4 * 31 + 1, "nested too deeply"}};
    char *s = repeat("a: ", deep[0].text, 100000);

    check_refused(s, strlen(s), 1, 35, deep[0].says);
    free(s);
    s = repeat("", deep[1].text, 100000);
    check_refused(s, strlen(s), 1, 65, "nested too deeply");
    free(s);
    s = repeat("a: ", deep[2].text, 100000);
    check_refused(s, strlen(s), 32, 1, deep[2].says);
    free(s);
    s = repeat("a: ", deep[3].text, 100000);
    check_refused(s, strlen(s), 1, deep[3].col, deep[3].says);
    free(s);
}

static void test_yaml_size(void **state)
{
    (void)state;
    char *s = repeat("regions: {}\n", "#", 1 << 20);

    check_refused(s, strlen(s), 0, 0, "larger than 1 MiB");
    struct text_error err;
    struct derpmap *m = derpmap_parse(s, 1 << 20, &err);
    assert_non_null(m);
    derpmap_free(m);
    free(s);
    s = repeat("a: [", "1,", 450000);
    check_refused(s, 1 << 18, 1, (1 << 18) + 1, "did not find expected node content");
    check_refused(s, strlen(s), 1, 800001, "too many values");
    free(s);
}

static char *regions_text(int n_regions, int n_nodes)
{
    size_t room = (size_t)n_regions * 80 + (size_t)n_nodes * 80 + 100, at;
    char *s = malloc(room);

    at = (size_t)sprintf(s, "{\"Regions\":{");
    for (int i = 1; i <= n_regions; i++) {
        at += (size_t)sprintf(s + at, "\"%d\":{\"RegionID\":%d,\"Nodes\":[", i, i);
        for (int k = 0; i == 1 && k < n_nodes; k++)
            at += (size_t)sprintf(s + at, "{\"Name\":\"%d\",\"RegionID\":1,\"HostName\":\"h%d\"},", k, k);
        at += (size_t)sprintf(s + at, "]},");
    }
    sprintf(s + at, "}}");
    return s;
}

static void test_counts(void **state)
{
    (void)state;
    char *s = regions_text(DERPMAP_MAX_REGIONS, DERPMAP_MAX_NODES);
    struct text_error err;
    struct derpmap *m = derpmap_parse(s, strlen(s), &err);

    assert_non_null(m);
    assert_int_equal(m->n_regions, DERPMAP_MAX_REGIONS);
    assert_int_equal(m->n_nodes, DERPMAP_MAX_NODES);
    derpmap_free(m);
    free(s);
    s = regions_text(DERPMAP_MAX_REGIONS + 1, 0);
    check_refused(s, strlen(s), 1, 12, "more than 1024 regions");
    free(s);
    s = regions_text(1, DERPMAP_MAX_NODES + 1);
    check_refused(s, strlen(s), 1, 39, "more than 4096 nodes");
    free(s);
}

/* Cutting a good file anywhere must give an error or a map, and nothing that a sanitizer minds. */
static void test_every_cut(void **state)
{
    (void)state;
    static const char *const texts[] = {"{\"derpMap\": {\"Regions\": {\"900\": {\"RegionID\": 900, "
                                        "\"Nodes\": [{\"Name\": \"a\", \"RegionID\": 900, "
                                        "\"HostName\": \"域名\", \"DERPPort\": 443,}],},},},} // end",
                                        "regions:\n  900:\n    regionid: 900\n    nodes:\n      - name: "
                                        "'a'\n        regionid: 900\n        hostname: 域名\n"
                                        "        ipv4: \"192.0.2.1\" # x\n"};

    for (int t = 0; t < 2; t++)
        for (size_t n = 0; n <= strlen(texts[t]); n++) {
            struct text_error err;
            char *copy = malloc(n + 1);
            memcpy(copy, texts[t], n);
            derpmap_free(derpmap_parse(copy, n, &err));
            free(copy);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_files), cmocka_unit_test(test_nodes),     cmocka_unit_test(test_yaml),
        cmocka_unit_test(test_depth),       cmocka_unit_test(test_yaml_size), cmocka_unit_test(test_counts),
        cmocka_unit_test(test_every_cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
