/* Settings: which layer wins, what a value may be, and that every fault says where it stands and what was meant. */
#include "node/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "node/config_parts.h"
#include "node/suggest.h"

enum { ARGS_MAX = 32 };

static char err[1024];
static bool usage;

/* "--map m --node n …" split at blanks; env likewise. */
static struct config *load(const char *flags, const char *env)
{
    char copy[2][4096];
    char *args[2][ARGS_MAX + 1] = {{NULL}};
    int n[2] = {0, 0};

    snprintf(copy[0], sizeof(copy[0]), "%s", flags);
    snprintf(copy[1], sizeof(copy[1]), "%s", env);
    for (int i = 0; i < 2; i++)
        for (char *s = strtok(copy[i], " "); s && n[i] < ARGS_MAX; s = strtok(NULL, " "))
            args[i][n[i]++] = s;
    err[0] = 0;
    return config_load(n[0], args[0], args[1], err, sizeof(err), &usage);
}

static struct config *load_good(const char *flags, const char *env)
{
    struct config *c = load(flags, env);

    if (!c)
        fail_msg("%s", err);
    assert_false(usage);
    return c;
}

/* The fault's sentence holds this. */
static void refused(const char *flags, const char *env, const char *says)
{
    struct config *c = load(flags, env);

    assert_null(c);
    if (!strstr(err, says))
        fail_msg("\"%s\" does not say \"%s\"", err, says);
    assert_null(strchr(err, '\n'));
}

static void flags_refused(const char *flags, const char *says)
{
    refused(flags, "", says);
    assert_true(usage);
}

static char file_path[] = "/tmp/derpmesh-config-XXXXXX";

static void file_write(const char *text, size_t n)
{
    FILE *f = fopen(file_path, "w");

    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static struct config *load_file(const char *text, const char *more_flags, const char *env)
{
    char flags[512];

    file_write(text, strlen(text));
    snprintf(flags, sizeof(flags), "--config %s %s", file_path, more_flags);
    return load(flags, env);
}

/* The fault stands at line:col of the file. */
static void file_refused(const char *text, const char *position, const char *says)
{
    char start[128];
    struct config *c = load_file(text, "", "");

    assert_null(c);
    assert_false(usage);
    snprintf(start, sizeof(start), "%s:%s: ", file_path, position);
    if (strncmp(err, start, strlen(start)) != 0 || !strstr(err, says))
        fail_msg("\"%s\" is not at %s or does not say \"%s\"", err, position, says);
}

/* ---- layers ---- */

static void test_defaults(void **state)
{
    struct config *c = load_good("--map m.json --node fra-1 --state /nowhere/state", "");

    (void)state;
    assert_string_equal(c->map_file, "m.json");
    assert_string_equal(c->node, "fra-1");
    assert_string_equal(c->key_file, "/nowhere/state/node.key");
    assert_string_equal(c->cert_dir, "/nowhere/state/certs");
    assert_string_equal(c->admin, "/run/derpmesh/admin.sock");
    assert_null(c->mesh_key_file);
    assert_true(c->listen.port == 0 && c->listen.addr[0] == 0);
    assert_int_equal(c->listen_http.port, 80);
    assert_int_equal(c->metrics.port, 9911);
    assert_string_equal(c->metrics.addr, "127.0.0.1");
    assert_int_equal(c->tls, TLS_AUTO);
    assert_true(c->workers >= 1);
    assert_int_equal(c->keepalive_min_ms, 25000);
    assert_int_equal(c->keepalive_max_ms, 45000);
    assert_int_equal(c->max_clients, 0);
    assert_int_equal(c->login_limit, 2048);
    assert_int_equal(c->login_limit_ip, 64);
    assert_int_equal(c->drain_timeout_ms, 20000);
    assert_true(c->transit);
    assert_int_equal(c->n_proxies, 2);
    assert_int_equal(c->proxies[0].bits, 104);
    assert_int_equal(c->proxies[1].bits, 128);
    assert_int_equal(c->log_level, LOG_INFO);
    config_free(c);
}

static void test_precedence(void **state)
{
    static const char text[] = "map: file.json\nnode: of-file\nstate: /of/file\nlog_level: debug\n";

    (void)state;
    struct config *c =
        load_file(text, "--node of-flag", "DERPMESH_NODE=of-env DERPMESH_STATE=/of/env HOME=/x");
    assert_non_null(c);
    assert_string_equal(c->map_file, "file.json");
    assert_string_equal(c->state, "/of/env");
    assert_string_equal(c->node, "of-flag");
    assert_int_equal(c->log_level, LOG_DEBUG);
    config_free(c);
    /* A layer that loses is checked all the same. */
    assert_null(load_file("map: m\nnode: n\nworkers: many\n", "--workers 2", "DERPMESH_WORKERS=3"));
    assert_non_null(strstr(err, ":3:10: workers wants"));
}

static void test_config_variable(void **state)
{
    char env[128];

    (void)state;
    file_write("map: m\nnode: n\n", 15);
    snprintf(env, sizeof(env), "DERPMESH_CONFIG=%s", file_path);
    struct config *c = load_good("", env);
    assert_string_equal(c->node, "n");
    config_free(c);
    refused("--config /nowhere/x.yaml", env, "/nowhere/x.yaml: cannot be read: No such file");
    refused("--config /tmp", "", "/tmp: cannot be read");
}

static void test_both_spellings_of_flags(void **state)
{
    struct config *c = load_good("--map=m --node n --listen-http=off --drain-timeout 1m30s --transit=no", "");

    (void)state;
    assert_int_equal(c->listen_http.port, -1);
    assert_int_equal(c->drain_timeout_ms, 90000);
    assert_false(c->transit);
    config_free(c);
}

static void test_environment(void **state)
{
    (void)state;
    /* Empty is not set; what Kubernetes puts there is not ours. */
    struct config *c =
        load_good("--map m --node n", "DERPMESH_WORKERS= DERPMESH_VERIFY_URL= DERPMESH_SERVICE_HOST=1 "
                                      "DERPMESH_PORT=tcp://x DERPMESH_PORT_443_TCP_ADDR=x OTHER=y "
                                      "DERPMESH_LOGIN_LIMIT_IP=7");
    assert_int_equal(c->login_limit_ip, 7);
    config_free(c);
    refused("--map m --node n", "DERPMESH_WORKER=3", "did you mean DERPMESH_WORKERS?");
    assert_false(usage);
    refused("--map m --node n", "DERPMESH_workers=3", "did you mean DERPMESH_WORKERS?");
    refused("--map m --node n", "DERPMESH_WORKERS=0", "DERPMESH_WORKERS wants a number");
}

static void test_required(void **state)
{
    (void)state;
    flags_refused("", "--map FILE");
}

/* ---- what is unknown ---- */

static void test_unknown_flags(void **state)
{
    (void)state;
    flags_refused("--map m --node n --listn :1", "unknown flag --listn, did you mean --listen?");
    flags_refused("--map m --node n --login_limit 1", "did you mean --login-limit?");
    flags_refused("--map m --nodes n", "did you mean --node?");
    flags_refused("--cnofig x", "did you mean --config?");
    flags_refused("--zzzzzzzz x", "unknown flag --zzzzzzzz");
    assert_null(strstr(err, "mean"));
    flags_refused("-map m", "unexpected argument -map");
    flags_refused("--map m stray", "unexpected argument stray");
    flags_refused("--map", "--map needs a value");
    flags_refused("--map --node n", "--map needs a value");
    flags_refused("--map= --node n", "--map has no value");
    flags_refused("--", "unexpected argument --");
    flags_refused("--=x", "unknown flag --");
}

static void test_client_rate(void **state)
{
    struct config *c = load("--map m --node n", "");

    (void)state;
    assert_non_null(c);
    assert_int_equal(c->client_rate, 0);
    assert_int_equal(c->client_burst, 65568);
    config_free(c);
    c = load("--map m --node n --client-rate 125000 --client-burst 200000", "");
    assert_non_null(c);
    assert_int_equal(c->client_rate, 125000);
    assert_int_equal(c->client_burst, 200000);
    config_free(c);
    c = load("--map m --node n --client-rate off", "");
    assert_non_null(c);
    assert_int_equal(c->client_rate, 0);
    config_free(c);
    flags_refused("--map m --node n --client-rate 999", "from 1000");
    flags_refused("--map m --node n --client-rate 4294967296", "from 1000");
    flags_refused("--map m --node n --client-burst 65567", "65568");
}

/* ---- real derpers ---- */

static void test_lists(void **state)
{
    (void)state;
    assert_true(config_list_has("a", "a"));
    assert_true(config_list_has("fra-1, hkg-1", "hkg-1"));
    assert_true(config_list_has(",  fra-1 ,,hkg-1,", "fra-1"));
    assert_false(config_list_has("fra-10", "fra-1"));
    assert_false(config_list_has("fra-1", "fra-10"));
    assert_false(config_list_has(NULL, "a"));
    assert_false(config_list_has("", ""));
    struct config *c =
        load("--map m --node n --derper-peers a,b --derper-mesh-key-file /k", "DERPMESH_DERPER_PEERS=c");
    assert_non_null(c);
    assert_string_equal(c->derper_peers, "a,b");
    assert_string_equal(c->derper_mesh_key_file, "/k");
    config_free(c);
}

/* ---- who may use the node ---- */

static void test_admission_keys(void **state)
{
    static const char *const bad[] = {
        "--verify-url localhost/verify", "--verify-url ftp://a/",    "--verify-url https://",
        "--verify-url https:///x",       "--verify-fail-open maybe", "--admit some",
    };
    char long_path[160];

    (void)state;
    struct config *c = load_good("--map m", "");
    assert_false(config_admission(c));
    assert_int_equal(c->admit, ADMIT_BY_ALL);
    assert_false(c->verify_fail_open);
    config_free(c);
    c = load_good("--map m --allow /a.txt --verify-url https://h/verify?x=1 --verify-socket /s --admit any "
                  "--verify-fail-open true",
                  "");
    assert_true(config_admission(c));
    assert_string_equal(c->allow, "/a.txt");
    assert_string_equal(c->verify_url, "https://h/verify?x=1");
    assert_string_equal(c->verify_socket, "/s");
    assert_int_equal(c->admit, ADMIT_BY_ANY);
    assert_true(c->verify_fail_open);
    config_free(c);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char text[256];
        snprintf(text, sizeof(text), "--map m %s", bad[i]);
        flags_refused(text, "wants");
    }
    snprintf(long_path, sizeof(long_path), "--map m --verify-socket /%0108d", 0);
    flags_refused(long_path, "107 bytes");
}

/* ---- the file ---- */

static void test_file_positions(void **state)
{
    (void)state;
    file_refused("map: m\n\nnodee: n\n", "3:1", "did you mean node?");
    file_refused("map: m\nworkers:   many\n", "2:12", "workers wants a number");
    file_refused("map: m\nmap: o\n", "2:1", "map stands in line 1 already");
    file_refused("map: m\nnode:\n", "2:6", "node has no value");
    file_refused("map: ~\n", "1:6", "map has no value");
    file_refused("map: {a: b}\n", "1:6", "not a mapping");
    file_refused("listen: [\":443\"]\n", "1:9", "one value, not a list");
    file_refused("map: m\nlisten: [::]:443\n", "2:9", "quotes");
    file_refused("map: &x m\nnode: *x\n", "2:7", "alias");
    file_refused("map: m\n---\nnode: n\n", "2:1", "second document");
    file_refused("- map\n", "1:1", "key: value");
    file_refused("just words\n", "1:1", "key: value");
    file_refused("? [a]\n: b\n", "1:3", "a key stands here");
    file_refused("map: \"unclosed\n", "2:1", "no YAML");
    file_refused("\tmap: m\n", "1:1", "no YAML");
    file_refused("map: \"a\\0b\"\n", "1:6", "zero byte");
    file_refused("trusted_proxies:\n  - 10.0.0.0/8\n  - nonsense\n", "3:5", "nonsense");
    file_refused("trusted_proxies:\n  - [a]\n", "2:5", "plain items");
}

static void test_file_forms(void **state)
{
    (void)state;
    struct config *c =
        load_file("# all of it\nmap: m\nnode: \"900/1\"\nlisten: \"[::1]:8443\"\ntransit: off\n"
                  "trusted_proxies: [10.1.2.3/8, \"fd00::/8\", 192.0.2.7]\n",
                  "", "");
    if (!c)
        fail_msg("%s", err);
    assert_string_equal(c->node, "900/1");
    assert_string_equal(c->listen.addr, "::1");
    assert_int_equal(c->listen.port, 8443);
    assert_false(c->transit);
    assert_int_equal(c->n_proxies, 3);
    assert_int_equal(c->proxies[0].bits, 104);
    assert_int_equal(c->proxies[0].ip[12], 10);
    assert_int_equal(c->proxies[0].ip[13], 0); /* bits below the prefix are cleared */
    assert_int_equal(c->proxies[1].bits, 8);
    assert_int_equal(c->proxies[2].bits, 128);
    config_free(c);
    c = load_file("trusted_proxies: []\n", "--map m --node n", "");
    assert_non_null(c);
    assert_int_equal(c->n_proxies, 0);
    config_free(c);
    for (int i = 0; i < 3; i++) { /* nothing in it */
        static const char *const empty[] = {"", "# only words\n", "---\n"};
        c = load_file(empty[i], "--map m --node n", "");
        assert_non_null(c);
        config_free(c);
    }
}

static void test_file_size(void **state)
{
    enum { BIG = CONFIG_FILE_MAX + 1 };
    char *text = malloc(BIG), flags[128];

    (void)state;
    assert_non_null(text);
    snprintf(flags, sizeof(flags), "--map m --node n --config %s", file_path);
    memset(text, '#', BIG);
    file_write(text, BIG);
    refused(flags, "", "larger than 1 MiB");
    file_write(text, BIG - 1);
    config_free(load_good(flags, ""));
    memset(text, '[', BIG - 1); /* ends at the second, not in minutes */
    file_write(text, BIG - 1);
    refused(flags, "", ":1:1: ");
    memcpy(text, "map: ", 5);
    file_write(text, BIG - 1);
    refused(flags, "", ":1:6: ");
    free(text);
}

/* ---- values ---- */

static void value_good(const char *flag)
{
    char flags[256];

    snprintf(flags, sizeof(flags), "--map m --node n %s", flag);
    config_free(load_good(flags, ""));
}

static void value_bad(const char *flag)
{
    char flags[256], says[64];

    snprintf(flags, sizeof(flags), "--map m --node n %s", flag);
    snprintf(says, sizeof(says), "%.*s wants ", (int)strcspn(flag, "="), flag);
    flags_refused(flags, says);
}

static void test_values(void **state)
{
    static const char *const good[] = {
        "--workers=1",
        "--workers=256",
        "--workers=auto",
        "--max-clients=0",
        "--keepalive=30s",
        "--keepalive=100ms-1m40s",
        "--drain-timeout=0",
        "--drain-timeout=1h",
        "--transit=TRUE",
        "--metrics=off",
        "--metrics=[::1]:1",
        "--listen=127.0.0.1:0",
        "--listen=[fe80::1%eth0]:443",
        "--tls=off",
        "--trusted-proxies=none",
        "--trusted-proxies=loopback,10.0.0.1",
        "--log-format=json",
    };
    static const char *const bad[] = {
        "--workers=0",
        "--workers=257",
        "--workers=2x",
        "--workers=-1",
        "--max-clients=99999999999999999999",
        "--login-limit=0",
        "--keepalive=45s-25s",
        "--keepalive=10m",
        "--keepalive=1s-",
        "--keepalive=-5s",
        "--keepalive=30",
        "--drain-timeout=2h",
        "--drain-timeout=20",
        "--drain-timeout=5d",
        "--drain-timeout=4294967296ms",
        "--drain-timeout=s",
        "--transit=maybe",
        "--metrics=:0",
        "--metrics=9911",
        "--metrics=localhost:9911",
        "--listen=:65536",
        "--listen=::1:443",
        "--listen=[127.0.0.1]:443",
        "--listen=[]:443",
        "--listen=[::1]",
        "--listen=[::1:443",
        "--listen=1.2.3.4",
        "--tls=on",
        "--trusted-proxies=10.0.0.0/33",
        "--trusted-proxies=::/129",
        "--trusted-proxies=host",
        "--trusted-proxies=10.0.0.0/",
        "--log-level=verbose",
        "--log-format=xml",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        value_good(good[i]);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        value_bad(bad[i]);
}

static void test_many_proxies(void **state)
{
    char flags[1024] = "--map m --node n --trusted-proxies=10.0.0.0";

    (void)state;
    for (int i = 1; i < CONFIG_PROXIES_MAX; i++)
        snprintf(flags + strlen(flags), sizeof(flags) - strlen(flags), ",10.0.0.%d", i);
    struct config *c = load_good(flags, "");
    assert_int_equal(c->n_proxies, CONFIG_PROXIES_MAX);
    config_free(c);
    strcat(flags, ",10.0.1.1");
    flags_refused(flags, "up to 32");
}

/* Someone puts the key itself where its file belongs: it must not come back in a message. */
static void test_no_secret_in_messages(void **state)
{
    static const char key[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    char flags[256];

    (void)state;
    snprintf(flags, sizeof(flags), "--map m --node n --mesh-key-file %s", key);
    flags_refused(flags, "not the key itself");
    assert_null(strstr(err, "0011"));
}

static void test_derper_key_is_reused(void **state)
{
    char dir[] = "/tmp/derpmesh-keys-XXXXXX", old[64], own[64];
    struct config c = {0};

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(old, sizeof(old), "%s/derper.key", dir);
    snprintf(own, sizeof(own), "%s/node.key", dir);
    for (int round = 0; round < 3; round++) {
        const char *make = round == 1 ? old : round == 2 ? own : NULL;
        if (make)
            fclose(fopen(make, "w"));
        memset(&c, 0, sizeof(c));
        c.state = dir;
        assert_int_equal(config_derive(&c, old), 0);
        assert_string_equal(c.key_file, round == 1 ? old : own); /* ours wins where both are */
        free(c.key_file);
        free(c.cert_dir);
    }
    unlink(old);
    unlink(own);
    rmdir(dir);
}

static void test_short_buffers(void **state)
{
    char small[8], *argv[] = {NULL, NULL}, flag[] = "--listn=:1";

    (void)state;
    argv[0] = flag;
    for (size_t room = 0; room <= sizeof(small); room++)
        assert_null(config_load(1, argv, NULL, small, room, &usage));
}

/* ---- the table, suggestions ---- */

static void on_key(void *ctx, const char *key, const char *def, const char *meaning)
{
    assert_true(*key && *def && *meaning);
    *(int *)ctx += 1;
}

static void test_key_table(void **state)
{
    int n = 0;

    (void)state;
    config_keys(on_key, &n);
    assert_int_equal(n, 39);
}

static void test_suggestions(void **state)
{
    static const char *const names[] = {"serve", "status", "where", "version"};
    const char long_word[] = "a-word-that-is-longer-than-any-name-could-ever-be-in-this-program";

    (void)state;
    assert_string_equal(suggest_nearest("sevre", names, 4), "serve");
    assert_string_equal(suggest_nearest("STATUS", names, 4), "status");
    assert_string_equal(suggest_nearest("were", names, 4), "where");
    assert_null(suggest_nearest("xyzzy", names, 4));
    assert_null(suggest_nearest("stop", names, 4)); /* some letters of "status" are not enough */
    assert_null(suggest_nearest("", names, 4));
    assert_null(suggest_nearest("serve", names, 0));
    assert_null(suggest_nearest(long_word, names, 4));
}

static int setup(void **state)
{
    (void)state;
    int fd = mkstemp(file_path);
    return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
    (void)state;
    return unlink(file_path);
}

/* One setting for a choice that must be made: what it says goes into those that it stands for. */
static void test_admission(void **state)
{
    struct config *c = load_good("--map m --admission /etc/allow.txt", "");

    (void)state;
    assert_string_equal(c->allow, "/etc/allow.txt");
    assert_null(c->verify_url);
    assert_null(c->verify_socket);
    config_free(c);
    c = load_good(
        "--map m",
        "DERPMESH_ADMISSION=https://hs.example/verify,/run/t/tailscaled.sock,/a DERPMESH_ADMIT=any");
    assert_string_equal(c->verify_url, "https://hs.example/verify");
    assert_string_equal(c->verify_socket, "/run/t/tailscaled.sock");
    assert_string_equal(c->allow, "/a");
    assert_true(config_admission(c));
    config_free(c);
    c = load_good("--map m --admission open", "");
    assert_false(config_admission(c));
    config_free(c);
    c = load_good("--map m --admission /a --allow /a", "");
    assert_string_equal(c->allow, "/a");
    config_free(c);
    refused("--map m", "DERPMESH_ADMISSION=any", "DERPMESH_ADMISSION wants the word open");
    refused("--map m", "DERPMESH_ADMISSION=open,/a", "DERPMESH_ADMISSION wants");
    refused("--map m", "DERPMESH_ADMISSION=/a,/b", "DERPMESH_ADMISSION wants");
    refused("--map m", "DERPMESH_ADMISSION=,", "DERPMESH_ADMISSION wants");
    refused("--map m --allow /b", "DERPMESH_ADMISSION=/a",
            "admission says /a and allow says /b: keep one of them");
    refused("--map m --verify-url http://x", "DERPMESH_ADMISSION=open", "admission says open, but");
    refused("--map m", "DERPMESH_ADMISSION=https://?", "admission: verify_url wants an http or https URL");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_admission),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_config_variable),
        cmocka_unit_test(test_both_spellings_of_flags),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_required),
        cmocka_unit_test(test_unknown_flags),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_admission_keys),
        cmocka_unit_test(test_file_positions),
        cmocka_unit_test(test_file_forms),
        cmocka_unit_test(test_file_size),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_many_proxies),
        cmocka_unit_test(test_no_secret_in_messages),
        cmocka_unit_test(test_derper_key_is_reused),
        cmocka_unit_test(test_short_buffers),
        cmocka_unit_test(test_client_rate),
        cmocka_unit_test(test_key_table),
        cmocka_unit_test(test_suggestions),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
