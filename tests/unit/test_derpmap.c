/* The derpMap in its three spellings: what is understood, what is refused and where, ids, backups and the
 * hash. */
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

static struct derpmap *parse_seed(const char *name)
{
    char path[512], text[8192];

    snprintf(path, sizeof path, "%s/tests/seed/%s", SOURCE_DIR, name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    return parse(text);
}

static void test_seeds(void **state)
{
    (void)state;
    struct derpmap *m = parse_seed("acl-one-region.hujson");
    assert_int_equal(m->format, DERPMAP_POLICY);
    assert_true(m->omit_default_regions);
    assert_int_equal(m->n_nodes, 1);
    assert_string_equal(m->nodes[0].id, "1");
    assert_string_equal(m->nodes[0].host_name, "域名");
    assert_int_equal(m->nodes[0].line, 22);
    assert_string_equal(m->regions[0].name, "AliHongkong");
    derpmap_free(m);

    m = parse_seed("acl-two-regions.hujson");
    assert_int_equal(m->n_regions, 2);
    assert_string_equal(m->nodes[0].id, "900/1");
    assert_string_equal(m->nodes[1].id, "901/1");
    assert_ptr_equal(derpmap_find(m, "901/1"), &m->nodes[1]);
    assert_ptr_equal(derpmap_find(m, "901-1"), &m->nodes[1]);
    assert_null(derpmap_find(m, "1"));
    assert_null(derpmap_find(m, "90101"));
    assert_int_equal(derpmap_derp_port(&m->nodes[0]), 3489);
    derpmap_free(m);

    m = parse_seed("headscale-derp.yaml");
    assert_int_equal(m->format, DERPMAP_HEADSCALE);
    assert_false(m->omit_default_regions);
    assert_string_equal(m->nodes[0].id, "900a");
    assert_int_equal(m->nodes[0].line, 8);
    assert_int_equal(derpmap_stun_port(&m->nodes[0]), 3478);
    assert_ptr_equal(derpmap_region_of(m, 900)->nodes[0], &m->nodes[0]);
    assert_null(derpmap_region_of(m, 901));
    derpmap_free(m);
}

#define PIN "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static const char all_json[] =
    "{\"omitDefaultRegions\": true, \"homeparams\": {\"REGIONSCORE\": {\"901\": 0.5, \"7\": 2, \"3\": "
    "1.5}},\n"
    " \"regions\": {\"901\": {\"RegionID\": 901, \"RegionCode\": \"fra\", \"RegionName\": \"Frank furt\", "
    "\"Latitude\": 50.1,"
    " \"Longitude\": -8.25, \"Avoid\": true, \"NoMeasureNoHome\": true, \"Nodes\": [\n"
    "  {\"Name\": \"fra-1\", \"RegionID\": 901, \"HostName\": \"192.0.2.1\", \"CertName\": \"sha256-raw:" PIN
    "\","
    " \"IPv4\": \"192.0.2.1\", \"IPv6\": \"none\", \"STUNPort\": 3479, \"STUNOnly\": false, \"DERPPort\": "
    "8443,"
    " \"InsecureForTests\": true, \"STUNTestIP\": \"127.0.0.1\", \"CanPort80\": true, \"Newer\": {\"a\": "
    "[]}},\n"
    "  {\"name\": \"fra-2\", \"regionid\": 901, \"hostname\": \"2001:db8::1\", \"stunonly\": true, "
    "\"certname\": null}\n"
    " ]}, \"1\": null}}";

static const char all_yaml[] =
    "# a comment\nomitdefaultregions: yes\nhomeparams:\n  regionscore: {901: 5e-1, 7: 2, 3: 1.5}\n"
    "regions:\n  1: ~\n  901:\n    regionid: 901\n    regioncode: fra\n    regionname: Frank furt\n    "
    "latitude: 50.1\n"
    "    longitude: -8.25\n    avoid: true\n    nomeasurenohome: on\n    nodes:\n"
    "    - name: fra-1\n      regionid: 901\n      hostname: 192.0.2.1\n      certname: 'sha256-raw:" PIN
    "'\n"
    "      ipv4: 192.0.2.1\n      ipv6: none\n      stunport: 3479\n      stunonly: no\n      derpport: "
    "8443\n"
    "      insecurefortests: True\n      stuntestip: \"127.0.0.1\"\n      canport80: true\n      newer: {a: "
    "[]}\n"
    "    - {name: fra-2, regionid: 901, hostname: '2001:db8::1', stunonly: true, certname: }\n";

static void check_all(const struct derpmap *m)
{
    const struct derpmap_region *r = derpmap_region_of(m, 901);
    const struct derpmap_node *a = &m->nodes[0], *b = &m->nodes[1];
    uint8_t pin[32];

    assert_true(m->omit_default_regions);
    assert_int_equal(m->n_regions, 2);
    assert_true(m->regions[0].removed && m->regions[0].id == 1 && m->regions[0].n_nodes == 0);
    assert_string_equal(r->code, "fra");
    assert_string_equal(r->name, "Frank furt");
    assert_true(r->has_location && r->latitude == 50.1 && r->longitude == -8.25);
    assert_true(r->avoid && r->no_measure_no_home && r->score == 0.5 && r->n_nodes == 2);
    assert_string_equal(a->host_name, "192.0.2.1");
    assert_string_equal(a->ipv4, "192.0.2.1");
    assert_string_equal(a->ipv6, "none");
    assert_string_equal(a->stun_test_ip, "127.0.0.1");
    assert_true(a->stun_port == 3479 && a->derp_port == 8443 && !a->stun_only);
    assert_true(a->insecure_for_tests && a->can_port80 && !a->backup);
    assert_int_equal(derpmap_pin(a, pin), 0);
    assert_memory_equal(pin, "\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23", 10);
    assert_true(b->stun_only && !b->cert_name && !b->ipv4 && derpmap_derp_port(b) == 443);
    assert_int_equal(derpmap_pin(b, pin), -1);
}

static void test_every_field_in_both(void **state)
{
    (void)state;
    struct derpmap *json = parse(all_json), *yaml = parse(all_yaml);

    check_all(json);
    check_all(yaml);
    assert_int_equal(json->format, DERPMAP_JSON);
    assert_memory_equal(json->hash, yaml->hash, sizeof json->hash);
    derpmap_free(json);
    derpmap_free(yaml);
}

static char *node_map(const char *fields)
{
    static char text[4096];

    snprintf(text, sizeof text,
             "{\"Regions\":{\"900\":{\"RegionID\":900,\"Nodes\":[\n{\"Name\":\"a\",\"RegionID\":900,"
             "\"HostName\":\"a.example\"%s}]}}}",
             fields);
    return text;
}

/* A spelling of the same, or of another map, by what follows the host name. */
static void test_hash_tells_maps_apart(void **state)
{
    (void)state;
    static const char *const same[] = {
        "",
        ",\"DERPPort\":443",
        ",\"STUNPort\":3478,\"DERPPort\":0",
        ",\"IPv4\":\"\",\"CertName\":null",
        ",\"CanPort80\":false",
        ",\"Unknown\":1",
        "},{\"Name\":\"b\",\"RegionID\":900,\"HostName\":\"A.example\",\"STUNPort\":-1"};
    static const char *const other[] = {
        ",\"DERPPort\":444",
        ",\"STUNPort\":-1",
        ",\"STUNPort\":1",
        ",\"IPv4\":\"192.0.2.1\"",
        ",\"IPv6\":\"192.0.2.1\"",
        ",\"CertName\":\"192.0.2.1\"",
        ",\"STUNTestIP\":\"192.0.2.1\"",
        ",\"CanPort80\":true",
        ",\"InsecureForTests\":true",
        ",\"STUNOnly\":true",
        ",\"HostName\":\"b.example\"",
        ",\"Name\":\"b\"",
        "}],\"Avoid\":true,\"x\":[{",
        "}],\"NoMeasureNoHome\":true,\"x\":[{",
        "}],\"RegionCode\":\"x\",\"x\":[{",
        "}],\"RegionName\":\"x\",\"x\":[{",
        "}],\"Latitude\":1,\"x\":[{",
        "}],\"Longitude\":1,\"x\":[{",
        "}]},\"901\":{\"RegionID\":901,\"x\":[{",
        "}]},\"902\":{\"RegionID\":902,\"x\":[{",
        "}]},\"901\":null,\"900\":{\"RegionID\":900,\"x\":[{",
        "},{\"Name\":\"b\",\"RegionID\":900,\"HostName\":\"b.example\"",
        "}]}},\"OmitDefaultRegions\":true,\"x\":{\"x\":{\"x\":[{",
        "}]}},\"HomeParams\":{\"RegionScore\":{\"900\":2}},\"x\":{\"x\":{\"x\":[{",
        "}]}},\"HomeParams\":{\"RegionScore\":{\"1\":2}},\"x\":{\"x\":{\"x\":[{"};
    enum { N = sizeof other / sizeof *other };
    uint8_t seen[N + 1][32];
    struct derpmap *m = parse(node_map(""));

    memcpy(seen[N], m->hash, 32);
    derpmap_free(m);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        m = parse(node_map(same[i]));
        if (memcmp(m->hash, seen[N], 32) != 0)
            fail_msg("another hash: %s", same[i]);
        derpmap_free(m);
    }
    for (size_t i = 0; i < N; i++) {
        m = parse(node_map(other[i]));
        memcpy(seen[i], m->hash, 32);
        derpmap_free(m);
        for (size_t k = 0; k <= N; k++)
            if (k != i && (k < i || k == N) && memcmp(seen[k], seen[i], 32) == 0)
                fail_msg("one hash: %s and %s", other[i], k == N ? "nothing" : other[k]);
    }
}

static void test_backups(void **state)
{
    (void)state;
    /* Cross-listed, and the backup of nrt stands before nrt itself; yow answers no STUN anywhere. */
    static const char text[] =
        "{\"Regions\":{\"900\":{\"RegionID\":900,\"Nodes\":["
        "{\"Name\":\"fra\",\"RegionID\":900,\"HostName\":\"fra.example\",\"IPv4\":\"192.0.2.1\"},"
        "{\"Name\":\"fra-b\",\"RegionID\":900,\"HostName\":\"NRT.example\",\"DERPPort\":443,\"STUNPort\":-1},"
        "{\"Name\":\"fra-c\",\"RegionID\":900,\"HostName\":\"yow.example\",\"STUNPort\":-1},"
        "{\"Name\":\"fra-d\",\"RegionID\":900,\"HostName\":\"fra.example\",\"IPv4\":\"192.0.2.2\","
        "\"STUNPort\":-1},"
        "{\"Name\":\"fra-e\",\"RegionID\":900,\"HostName\":\"fra.example\",\"DERPPort\":444,\"STUNPort\":-1}]"
        "},"
        "\"901\":{\"RegionID\":901,\"Nodes\":["
        "{\"Name\":\"nrt\",\"RegionID\":901,\"HostName\":\"nrt.example\"}]},"
        "\"902\":{\"RegionID\":902,\"Nodes\":["
        "{\"Name\":\"yow\",\"RegionID\":902,\"HostName\":\"yow.example\",\"STUNPort\":-1}]}}}";
    static const bool backup[] = {false, true, true, false, false, false, false};
    struct derpmap *m = parse(text);

    for (int i = 0; i < m->n_nodes; i++)
        if (m->nodes[i].backup != backup[i])
            fail_msg("%s", m->nodes[i].name);
    assert_string_equal(m->nodes[1].id, "nrt");
    assert_string_equal(m->nodes[2].id, "yow");
    assert_null(derpmap_find(m, "fra-b"));
    assert_string_equal(derpmap_find(m, "nrt")->name, "nrt");
    derpmap_free(m);
}

static void test_node_same(void **state)
{
    (void)state;
    static const char *const other[] = {",\"DERPPort\":444",          ",\"IPv4\":\"192.0.2.1\"",
                                        ",\"IPv6\":\"::1\"",          ",\"CertName\":\"x\"",
                                        ",\"InsecureForTests\":true", ",\"HostName\":\"b\""};
    struct derpmap *a = parse(node_map("")),
                   *b = parse(node_map(",\"DERPPort\":443,\"STUNPort\":5,\"Name\":\"b\""));

    assert_true(derpmap_node_same(&a->nodes[0], &b->nodes[0]));
    derpmap_free(b);
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        b = parse(node_map(other[i]));
        assert_false(derpmap_node_same(&a->nodes[0], &b->nodes[0]));
        derpmap_free(b);
    }
    derpmap_free(a);
}

static void test_last_one_counts(void **state)
{
    (void)state;
    struct derpmap *m =
        parse(node_map(",\"HOSTNAME\":\"b.example\",\"derpport\":1,\"DERPPort\":2,\"derpport\":3"));
    assert_string_equal(m->nodes[0].host_name, "b.example");
    assert_int_equal(m->nodes[0].derp_port, 3);
    derpmap_free(m);
    m = parse(node_map("}]},\"901\":null,\"900\":{\"RegionID\":900,\"Nodes\":[],\"x\":[{"));
    assert_int_equal(m->n_regions, 2);
    assert_int_equal(m->n_nodes, 0);
    derpmap_free(m);
}

static void test_pins(void **state)
{
    (void)state;
    static const char *const bad[] = {
        ",\"CertName\":\"sha256-raw:" PIN "0\"",
        ",\"CertName\":\"sha256-raw:0123\"",
        ",\"CertName\":\"SHA256-RAW:" PIN "\"",
        ",\"CertName\":\"" PIN "\"",
        ",\"CertName\":\"sha256-raw:A123456789abcdef0123456789abcdef0123456789abcdef0123"
        "456789abcdef\"",
        ",\"CertName\":\"sha256-raw:g123456789abcdef0123456789abcdef0123456789abcdef0123"
        "456789abcdef\""};
    uint8_t pin[32];

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct derpmap *m = parse(node_map(bad[i]));
        assert_int_equal(derpmap_pin(&m->nodes[0], pin), -1);
        derpmap_free(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_every_field_in_both),
        cmocka_unit_test(test_hash_tells_maps_apart),
        cmocka_unit_test(test_backups),
        cmocka_unit_test(test_node_same),
        cmocka_unit_test(test_last_one_counts),
        cmocka_unit_test(test_pins),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
