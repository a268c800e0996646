/* derper's flags as Go's packages flag, strconv and time read them, and what becomes of them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/derper_config.h"
#include "cli/derper_flags.h"
#include "proto/derpmap.h"

enum { ARGS_MAX = 16 };

/* Splits at blanks; "derper" comes first. */
static int split(char *argv[ARGS_MAX], char *line)
{
    int n = 0;

    argv[n++] = (char *)(uintptr_t) "derper";
    for (char *s = strtok(line, " "); s; s = strtok(NULL, " "))
        argv[n++] = s;
    argv[n] = NULL;
    return n;
}

static enum derper_parsed parse(struct derper_flags *f, const char *line, char err[static 256])
{
    static char copy[512];
    char *argv[ARGS_MAX];

    snprintf(copy, sizeof(copy), "%s", line);
    return derper_flags_parse(f, split(argv, copy), argv, err, 256);
}

/* ---- values; each table was tried with Go ---- */

static void booleans(void **state)
{
    static const char *const yes[] = {"1", "t", "T", "true", "TRUE", "True"},
                             *const no[] = {"0", "f", "F", "false", "FALSE", "False"},
                             *const bad[] = {"", "yes", "on", "tRUE", " true", "2", "off"};
    bool v;

    (void)state;
    for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++) {
        assert_true(derper_bool(yes[i], &v) && v);
        assert_true(derper_bool(no[i], &v) && !v);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(derper_bool(bad[i], &v));
}

static void integers(void **state)
{
    static const struct {
        const char *text;
        int64_t value;
    } good[] = {{"0", 0},
                {"-1", -1},
                {"+80", 80},
                {"0x1F", 31},
                {"0X1f", 31},
                {"017", 15},
                {"0o17", 15},
                {"0b101", 5},
                {"-0x10", -16},
                {"1_0", 10},
                {"0x_1_0", 16},
                {"0_7", 7},
                {"-0", 0},
                {"00", 0},
                {"9223372036854775807", INT64_MAX},
                {"-9223372036854775808", INT64_MIN}};
    static const char *const bad[] = {"",
                                      "-",
                                      "+",
                                      "abc",
                                      "1.0",
                                      "08",
                                      "0x",
                                      "0b2",
                                      " 1",
                                      "1 ",
                                      "--1",
                                      "1__0",
                                      "0x1_",
                                      "_1",
                                      "1_",
                                      "0o8",
                                      "1e3",
                                      "9223372036854775808",
                                      "-9223372036854775809",
                                      "0x10000000000000000",
                                      "0b"};
    int64_t v;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        if (!derper_int(good[i].text, &v) || v != good[i].value)
            fail_msg("%s", good[i].text);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (derper_int(bad[i], &v))
            fail_msg("\"%s\" is %lld", bad[i], (long long)v);
}

static void durations(void **state)
{
    static const struct {
        const char *text;
        int64_t ns;
    } good[] = {{"0", 0},
                {"-0", 0},
                {"+0", 0},
                {"5s", 5000000000},
                {"1.5h", 5400000000000},
                {"2h45m", 9900000000000},
                {"300ms", 300000000},
                {"-1m", -60000000000},
                {".5s", 500000000},
                {"1.s", 1000000000},
                {"1us", 1000},
                {"1\xc2\xb5s", 1000},
                {"1\xce\xbcs", 1000},
                {"1ns", 1},
                {"0.1s", 100000000},
                {"1h1h", 7200000000000},
                {"0.000000001s", 1},
                {"2562047h", 9223369200000000000}};
    static const char *const bad[] = {
        "",      "5",    "-",    "s",   ".s", "1d",       "5 s",
        "1h-1m", "3e3s", "--5s", "1hs", ".",  "9999999h", "99999999999999999999s",
        "1S"};
    int64_t ns;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        if (!derper_duration(good[i].text, &ns) || ns != good[i].ns)
            fail_msg("%s is %lld", good[i].text, (long long)ns);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (derper_duration(bad[i], &ns))
            fail_msg("\"%s\" is %lld", bad[i], (long long)ns);
}

static void floats(void **state)
{
    double v;

    (void)state;
    assert_true(derper_float("1.5", &v) && v == 1.5);
    assert_true(derper_float("+Inf", &v) && isinf(v));
    assert_true(derper_float("1e3", &v) && v == 1000);
    assert_true(derper_float(".5", &v) && v == 0.5);
    assert_false(derper_float("", &v));
    assert_false(derper_float(" 1", &v));
    assert_false(derper_float("1 ", &v));
    assert_false(derper_float("x", &v));
    assert_false(derper_float("1e999", &v));
    assert_false(derper_float("nan(1)", &v));
}

/* ---- the line ---- */

static void flags_in_gos_forms(void **state)
{
    struct derper_flags f;
    char err[256];

    (void)state;
    assert_int_equal(parse(&f, "", err), DERPER_OK);
    assert_string_equal(f.v[DERPER_A].text, ":443");
    assert_int_equal(f.v[DERPER_HTTP_PORT].number, 80);
    assert_true(f.v[DERPER_STUN].on);
    assert_true(f.v[DERPER_VERIFY_URL_FAIL_OPEN].on);
    assert_true(isinf(f.v[DERPER_ACCEPT_LIMIT].real));
    assert_int_equal(f.v[DERPER_ACCEPT_BURST].number, INT64_MAX);
    assert_int_equal(f.v[DERPER_TCP_KEEPALIVE].number, 600000000000);
    for (int i = 0; i < DERPER_FLAGS; i++)
        assert_false(f.v[i].set);

    assert_int_equal(
        parse(&f, "-a :1 --hostname=h --c f -stun=0 -http-port -1 --derp=FALSE -home= -dev", err), DERPER_OK);
    assert_string_equal(f.v[DERPER_A].text, ":1");
    assert_string_equal(f.v[DERPER_HOSTNAME].text, "h");
    assert_string_equal(f.v[DERPER_C].text, "f");
    assert_false(f.v[DERPER_STUN].on);
    assert_int_equal(f.v[DERPER_HTTP_PORT].number, -1);
    assert_false(f.v[DERPER_DERP].on);
    assert_true(f.v[DERPER_HOME].set && f.v[DERPER_HOME].text[0] == 0);
    assert_true(f.v[DERPER_DEV].on);

    /* A value may look like a flag; the last one counts; "=" stays in a value. */
    assert_int_equal(parse(&f, "-c -a -hostname x -hostname=y=z -dev", err), DERPER_OK);
    assert_string_equal(f.v[DERPER_C].text, "-a");
    assert_string_equal(f.v[DERPER_HOSTNAME].text, "y=z");
    assert_true(f.v[DERPER_DEV].on);
}

static void where_flags_end(void **state)
{
    static const char *const lines[] = {"-stun false -dev", "-stun - -dev", "-stun x -dev", "-stun -- -dev"};
    struct derper_flags f;
    char err[256];

    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        assert_int_equal(parse(&f, lines[i], err), DERPER_OK);
        assert_true(f.v[DERPER_STUN].on);
        assert_false(f.v[DERPER_DEV].on);
        assert_int_equal(f.rest, i == 3 ? 3 : 2);
    }
}

static void refused_as_go_does(void **state)
{
    static const struct {
        const char *line, *err;
    } bad[] = {
        {"-foo", "flag provided but not defined: -foo"},
        {"--foo=1", "flag provided but not defined: -foo"},
        {"---a", "bad flag syntax: ---a"},
        {"-=a", "bad flag syntax: -=a"},
        {"--=a", "bad flag syntax: --=a"},
        {"-dev -a", "flag needs an argument: -a"},
        {"-stun=maybe", "invalid boolean value \"maybe\" for -stun: parse error"},
        {"-stun=", "invalid boolean value \"\" for -stun: parse error"},
        {"-http-port x", "invalid value \"x\" for flag -http-port: parse error"},
        {"-tcp-user-timeout 5", "invalid value \"5\" for flag -tcp-user-timeout: parse error"},
        {"-A :1", "flag provided but not defined: -A"},
    };
    struct derper_flags f;
    char err[256];

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(parse(&f, bad[i].line, err), DERPER_REFUSED);
        assert_string_equal(err, bad[i].err);
    }
    assert_int_equal(parse(&f, "-h", err), DERPER_HELP);
    assert_int_equal(parse(&f, "--help -foo", err), DERPER_HELP);
    assert_int_equal(parse(&f, "-foo -h", err), DERPER_REFUSED);
}

/* ---- settings ---- */

static struct config *config(const char *line, char err[static 1024])
{
    static char copy[1024];
    char *argv[ARGS_MAX], *env[] = {NULL};
    bool usage;

    snprintf(copy, sizeof(copy), "%s", line);
    int n = split(argv, copy);
    return derper_config(n, argv, env, err, 1024, &usage);
}

static void the_tutorials_line(void **state)
{
    char err[1024], line[256], dir[] = "/tmp/derper_flags_XXXXXX", key[64];
    struct text_error at;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(key, sizeof(key), "%s/a/b/derper.conf", dir);
    snprintf(line, sizeof(line), "--hostname=域名 -c %s --stun -http-port -1 -a :81", key);
    for (int i = 0; i < 2; i++) { /* makes the key, then reads it */
        struct config *c = config(line, err);
        if (!c)
            fail_msg("%s", err);
        assert_int_equal(c->listen.port, 81);
        assert_string_equal(c->listen.addr, "*");
        assert_int_equal(c->listen_http.port, -1);
        assert_int_equal(c->listen_stun.port, 3478);
        assert_int_equal(c->metrics.port, -1);
        assert_int_equal(c->tls, TLS_OFF);
        assert_string_equal(c->key_file, key);
        assert_null(c->state);
        assert_null(c->doubts);
        assert_true(c->derper->derp);
        struct derpmap *map = derpmap_parse(c->map_text, strlen(c->map_text), &at);
        assert_non_null(map);
        assert_string_equal(map->nodes[0].host_name, "域名");
        assert_int_equal(map->nodes[0].derp_port, 81);
        derpmap_free(map);
        config_free(c);
    }
    struct stat st;
    assert_int_equal(stat(key, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    snprintf(line, sizeof(line), "rm -r %s", dir);
    assert_int_equal(system(line), 0);
}

static void tls_and_ports(void **state)
{
    static const struct {
        const char *line;
        enum config_tls tls;
        int port, http, stun;
        const char *addr;
    } cases[] = {
        {"-dev", TLS_OFF, 3340, -1, 3478, "*"},
        {"-dev -a :5", TLS_OFF, 3340, -1, 3478, "*"},
        {"-dev -certmode manual -hostname d.example -certdir /x", TLS_MANUAL, 3340, 80, 3478, "*"},
        {"-dev -certmode manual -hostname 192.0.2.1 -certdir /x -stun=false", TLS_AUTO, 3340, 80, -1, "*"},
        {"-dev -certmode manual -hostname 2001:db8::1 -certdir /x -http-port 81", TLS_AUTO, 3340, 81, 3478,
         "*"},
        {"-dev -certmode manual -hostname d.example -certdir /x -http-port -1", TLS_MANUAL, 3340, -1, 3478,
         "*"},
    };
    char err[1024];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct config *c = config(cases[i].line, err);
        if (!c)
            fail_msg("%s: %s", cases[i].line, err);
        assert_int_equal(c->tls, cases[i].tls);
        assert_int_equal(c->listen.port, cases[i].port);
        assert_int_equal(c->listen_http.port, cases[i].http);
        assert_int_equal(c->listen_stun.port, cases[i].stun);
        assert_string_equal(c->listen.addr, cases[i].addr);
        config_free(c);
    }
}

static void refused_by_name(void **state)
{
    static const struct {
        const char *line, *says;
    } bad[] = {
        {"-dev -mesh-with a,b", "requires -mesh-psk-file"},
        {"-c /nowhere/x -certmode manual -mesh-with a", "requires -mesh-psk-file"},
        {"-c /nowhere/x -certmode manual -mesh-with a:0", "host:port/dialhost"},
        {"-c /nowhere/x -certmode manual -mesh-with a/b/c", "host:port/dialhost"},
        {"-c /nowhere/x -certmode manual -mesh-with a/", "host:port/dialhost"},
        {"-c /nowhere/x -certmode manual -mesh-with [::1", "host:port/dialhost"},
        {"-c /nowhere/x -certmode manual -mesh-with a/no.such.host.invalid", "no.such.host.invalid"},
        {"-dev -secrets-url http://x", "-secrets-url"},
        {"-dev -ace", "-ace"},
        {"-dev -acme-ip-certs", "-certmode manual"},
        {"-c /nowhere/x", "needs -hostname"},
        {"-c /nowhere/x -a 127.0.0.1:https -certmode gcp", "-certmode gcp"},
        {"-c /nowhere/x -certmode wrong", "no such mode"},
        {"-c /nowhere/x -a 443", "invalid server address"},
        {"-c /nowhere/x -a ::1:443", "invalid server address"},
        {"-c /nowhere/x -a :0", "name a port"},
        {"-dev -stun-port 70000", "-stun-port"},
        {"-dev -home ftp://x", "unknown --home"},
        {"-dev -accept-connection-limit 0", "-accept-connection-limit"},
        {"-dev -accept-connection-limit NaN", "-accept-connection-limit"},
        {"-dev -unpublished-bootstrap-dns-names a/b", "slash"},
        {"-dev -mesh-psk-file /nowhere/x", "/nowhere/x"},
        {"-stun false -dev", "ends the flags"},
        {"-a 127.0.0.1:81 -c /dev/null/x", "/dev/null"},
    };
    char err[1024];

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct config *c = config(bad[i].line, err);
        if (c || !strstr(err, bad[i].says))
            fail_msg("%s: %s", bad[i].line, c ? "taken" : err);
    }
}

static void values_arrive(void **state)
{
    char err[1024];

    (void)state;
    setenv("TS_DEBUG_TRUSTED_CIDRS", "10.0.0.0/8,x, 192.0.2.0/24", 1);
    struct config *c =
        config("-dev -derp=false -home blank -bootstrap-dns-names a.example,b -accept-connection-limit 2.5 "
               "-accept-connection-burst 7 -tcp-keepalive-time 90s -tcp-user-timeout 3s",
               err);
    unsetenv("TS_DEBUG_TRUSTED_CIDRS");
    assert_non_null(c);
    assert_false(c->derper->derp);
    assert_string_equal(c->derper->home, "blank");
    assert_string_equal(c->derper->names, "a.example,b");
    assert_string_equal(c->derper->unpublished, "");
    assert_true(c->derper->accept_limit == 2.5 && c->derper->accept_burst == 7);
    assert_int_equal(c->derper->keepalive_s, 90);
    assert_int_equal(c->derper->user_timeout_ms, 3000);
    assert_int_equal(c->derper->n_debug, 2);
    assert_non_null(strstr(c->doubts, "\"x\""));
    assert_ptr_equal(c->load, derper_config);
    config_free(c);
}

static void admission_and_rates(void **state)
{
    char err[1024], line[256], file[] = "/tmp/derper_rates_XXXXXX";
    static const char *const bad[] = {"", "[]", "{\"PerClientRateLimitBytesPerSec\": -1}",
                                      "{\"PerClientRateLimitBytesPerSec\": \"1\"}"};

    (void)state;
    struct config *c = config("-dev -verify-clients -verify-client-url https://h.example/verify", err);
    assert_non_null(c);
    assert_string_equal(c->verify_socket, "/var/run/tailscale/tailscaled.sock");
    assert_string_equal(c->verify_url, "https://h.example/verify");
    assert_true(c->verify_fail_open);
    assert_int_equal(c->admit, ADMIT_BY_ALL);
    assert_non_null(strstr(c->doubts, "-verify-client-url-fail-open=false"));
    config_free(c);
    c = config(
        "-dev -verify-clients -socket /s -verify-client-url http://x -verify-client-url-fail-open=false",
        err);
    assert_non_null(c);
    assert_string_equal(c->verify_socket, "/s");
    assert_false(c->verify_fail_open);
    assert_null(c->doubts);
    config_free(c);
    c = config("-dev -socket /s", err);
    assert_non_null(c);
    assert_null(c->verify_socket);
    assert_false(config_admission(c));
    config_free(c);
    assert_null(config("-dev -verify-client-url ftp://x", err));

    int fd = mkstemp(file);
    assert_true(fd >= 0);
    snprintf(line, sizeof(line), "-dev -rate-config %s", file);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(ftruncate(fd, 0), 0);
        assert_int_equal(pwrite(fd, bad[i], strlen(bad[i]), 0), strlen(bad[i]));
        assert_null(config(line, err));
        assert_non_null(strstr(err, "-rate-config"));
    }
    static const char good[] =
        "{\"perclientratelimitbytespersec\": 5000, \"PerClientRateBurstBytes\": 7, \"x\": []}";
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(pwrite(fd, good, strlen(good), 0), strlen(good));
    c = config(line, err);
    assert_non_null(c);
    assert_int_equal(c->client_rate, 5000);
    assert_int_equal(c->client_burst, 65568);
    config_free(c);
    close(fd);
    unlink(file);
    assert_null(config(line, err));
}

static void doubts_are_told(void **state)
{
    char err[1024];

    (void)state;
    struct config *c = config("-dev -acme-eab-kid a@b -tcp-write-timeout 5s -stun false -x", err);
    assert_non_null(c);
    assert_non_null(strstr(c->doubts, "-acme-eab-kid"));
    assert_non_null(strstr(c->doubts, "-tcp-write-timeout"));
    assert_non_null(strstr(c->doubts, "write -stun=false"));
    config_free(c);
}

static void letsencrypt(void **state)
{
    char err[1024];

    (void)state;
    struct config *c = config(
        "-a :443 -c /tmp/no-such-derper.key -hostname relay.example -acme-email a@b -certdir /tmp", err);
    assert_non_null(c);
    assert_int_equal(c->tls, TLS_ACME);
    assert_string_equal(c->acme_email, "a@b");
    config_free(c);
    unlink("/tmp/no-such-derper.key");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(booleans),           cmocka_unit_test(integers),
        cmocka_unit_test(durations),          cmocka_unit_test(floats),
        cmocka_unit_test(flags_in_gos_forms), cmocka_unit_test(where_flags_end),
        cmocka_unit_test(refused_as_go_does), cmocka_unit_test(the_tutorials_line),
        cmocka_unit_test(tls_and_ports),      cmocka_unit_test(refused_by_name),
        cmocka_unit_test(values_arrive),      cmocka_unit_test(admission_and_rates),
        cmocka_unit_test(doubts_are_told),    cmocka_unit_test(letsencrypt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
