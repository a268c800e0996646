/* The certificate files that a node serves TLS with: found, made, refused, doubted. */
#include "tls_fixture.h"

#include <time.h>

#include "node/tls_cert.h"

static char err[1024], warn[1024];

static struct tls_server *load(const char *dir, const char *host, const char *cert_name, bool may_make)
{
    struct tls_server_params p = {
        .cert_dir = dir, .host = host, .cert_name = cert_name, .may_make = may_make, .node_key = test_key()};

    memset(err, 'x', sizeof err);
    memset(warn, 'x', sizeof warn);
    return tls_server_load(&p, err, sizeof err, warn, sizeof warn);
}

/* Writes a pair as derper has it, and loads it for host. */
static struct tls_server *load_pair(const char *dir, const struct made *crt, const struct made *key,
                                    const char *host, const char *cert_name)
{
    write_certs(dir, "relay.example.crt", crt->cert, NULL);
    write_key(dir, "relay.example.key", key->key);
    return load(dir, host, cert_name, true);
}

static void refused(struct tls_server *t, const char *because)
{
    if (t)
        fail_msg("accepted, wanted: %s", because);
    has(err, because);
}

static void makes_a_pair_for_an_address(void **state)
{
    char *dir = temp_dir(), sub[128], path[256], pin[65];
    struct tls_server *t;
    struct stat st;

    (void)state;
    snprintf(sub, sizeof sub, "%s/state/certs", dir); /* directories are made too */
    t = load(sub, "2001:db8::1", NULL, true);
    if (!t)
        fail_msg("%s", err);
    assert_true(t->made);
    assert_string_equal(t->names, "2001:db8::1");
    snprintf(path, sizeof path, "%s/2001db81.crt", sub);
    assert_string_equal(t->file, path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0644);
    snprintf(path, sizeof path, "%s/2001db81.key", sub);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_true(t->not_before <= time(NULL));
    assert_int_equal((t->not_after - t->not_before) / 86400, 3653);
    has(warn, "\"CertName\": \"sha256-raw:");
    has(warn, t->pin);
    memcpy(pin, t->pin, sizeof pin);
    tls_server_unref(t);
    snprintf(path, sizeof path, "ls -A '%s' | wc -l | grep -qx 2", sub); /* no temporary file stays */
    assert_int_equal(system(path), 0);

    /* The same from now on, whether the map pins it or not. */
    snprintf(path, sizeof path, "sha256-raw:%s", pin);
    t = load(sub, "2001:db8::1", path, true);
    if (!t)
        fail_msg("%s", err);
    assert_true(t->made);
    assert_string_equal(t->pin, pin);
    assert_string_equal(warn, "");
    tls_server_unref(t);
    remove_dir(dir);
}

static void makes_nothing_unasked(void **state)
{
    char *dir = temp_dir(), path[256];

    (void)state;
    refused(load(dir, "192.0.2.7", NULL, false), "no certificate for 192.0.2.7");
    refused(load(dir, "relay.example", NULL, true), "no certificate for relay.example: put");
    has(err, "/relay.example.crt");
    has(err, "live/relay.example/");
    refused(load(dir, "192.0.2.7", "sha256-raw:00", true), "the derpMap pins a certificate for 192.0.2.7");
    refused(load(dir, "..", NULL, true), "gives no name");
    refused(load(dir, "", NULL, true), "gives no name");
    refused(load(dir, "/_/", NULL, true), "gives no name");
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(mkdir(dir, 0700), 0);
    write_text(dir, "file", "x");
    snprintf(path, sizeof path, "%s/file/certs", dir);
    refused(load(path, "192.0.2.7", NULL, true), "cannot write ");
    remove_dir(dir);
}

static void made_by_command(void **state)
{
    static const char *const no_names[] = {"", ".", ".a", "a..b", "-a.b", "a b", "a/b", "*.a", "a_b"};
    char *dir = temp_dir(), crt[512], pin[65], cert_name[128], again[512], name[300];
    struct tls_server *t;

    (void)state;
    if (tls_made_new(dir, "next.example", crt, pin, err, sizeof err) != 0)
        fail_msg("%s", err);
    snprintf(cert_name, sizeof cert_name, "sha256-raw:%s", pin);
    t = load(dir, "next.example", cert_name, false);
    if (!t)
        fail_msg("%s", err);
    assert_string_equal(t->file, crt);
    assert_string_equal(t->names, "next.example");
    assert_true(t->self_issued);
    assert_string_equal(warn, "");
    assert_int_equal((t->not_after - t->not_before) / 86400, 3653);
    tls_server_unref(t);
    assert_int_equal(tls_made_new(dir, "next.example", again, pin, err, sizeof err), -1);
    has(err, "never overwritten");

    /* Longer than a CN may be. */
    memset(name, 'a', sizeof name);
    memcpy(name + 60, ".example", 9);
    assert_int_equal(tls_made_new(dir, name, crt, pin, err, sizeof err), 0);
    t = load(dir, name, NULL, false);
    assert_non_null(t);
    assert_string_equal(t->names, name);
    tls_server_unref(t);
    memset(name, 'a', 64);
    memcpy(name + 64, ".b", 3);
    assert_int_equal(tls_made_new(dir, name, crt, pin, err, sizeof err), -1);
    for (size_t i = 0; i < sizeof no_names / sizeof no_names[0]; i++)
        assert_int_equal(tls_made_new(dir, no_names[i], crt, pin, err, sizeof err), -1);
    remove_dir(dir);
}

static void half_a_pair(void **state)
{
    char *dir = temp_dir(), path[256];
    struct made m = make_for("IP:192.0.2.7", NULL);
    struct tls_pair pair = {0};
    struct stat before, after;

    (void)state;
    write_certs(dir, "192.0.2.7.crt", m.cert, NULL);
    refused(load(dir, "192.0.2.7", NULL, true), "192.0.2.7.key is missing");

    /* Somebody put it there while the pair was being made: what is there stays, and nothing comes beside it.
     */
    snprintf(path, sizeof path, "%s/192.0.2.7.key", dir);
    snprintf(pair.key_file, sizeof pair.key_file, "%s", path);
    snprintf(pair.crt_file, sizeof pair.crt_file, "%s/192.0.2.7.crt", dir);
    assert_int_equal(stat(pair.crt_file, &before), 0);
    assert_int_equal(tls_pair_make(&pair, "192.0.2.7", err, sizeof err), -1);
    has(err, "cannot write ");
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(stat(pair.crt_file, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);

    snprintf(path, sizeof path, "%s/192.0.2.7.crt", dir);
    assert_int_equal(unlink(path), 0);
    write_key(dir, "192.0.2.7.key", m.key);
    refused(load(dir, "192.0.2.7", NULL, true), "192.0.2.7.crt is missing");
    assert_int_equal(access(path, F_OK), -1);
    unmake(&m);
    remove_dir(dir);
}

static void damaged_files(void **state)
{
    char *dir = temp_dir(), text[8192];
    struct made a = make_for("DNS:relay.example", NULL), b = make_for("DNS:relay.example", NULL);
    FILE *f;

    (void)state;
    refused(load_pair(dir, &a, &b, "relay.example", NULL), "they are of different pairs");
    write_text(dir, "relay.example.key", "no key\n");
    refused(load(dir, "relay.example", NULL, true), "relay.example.key holds no private key");
    write_text(dir, "relay.example.crt", "");
    refused(load(dir, "relay.example", NULL, true), "relay.example.crt holds no certificate");
    write_certs(dir, "relay.example.crt", a.cert, NULL);
    snprintf(text, sizeof text, "%s/relay.example.crt", dir);
    f = fopen(text, "a");
    fputs("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", f);
    fclose(f);
    refused(load(dir, "relay.example", NULL, true), "certificate 2 in ");

    write_certs(dir, "relay.example.crt", a.cert, NULL);
    snprintf(text, sizeof text, "%s/relay.example.key", dir);
    f = fopen(text, "w");
    assert_true(
        PEM_write_PrivateKey(f, a.key, EVP_aes_128_cbc(), (const unsigned char *)"pw", 2, NULL, NULL));
    fclose(f);
    refused(load(dir, "relay.example", NULL, true), "has a password");
    assert_int_equal(unlink(text), 0);
    assert_int_equal(mkfifo(text, 0600), 0); /* must not wait for a writer */
    refused(load(dir, "relay.example", NULL, true), "relay.example.key is no file");
    unmake(&a);
    unmake(&b);
    remove_dir(dir);
}

static void dates(void **state)
{
    static const struct {
        int from, to;
        const char *error, *warning;
    } cases[] = {
        {-30, -1, "relay.example.crt expired on 20", NULL},
        {1, 30, "relay.example.crt is not valid before 20", NULL},
        {-30, 13, NULL, "relay.example.crt expires on 20"},
        {-30, 15, NULL, NULL},
    };
    char *dir = temp_dir();

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct recipe r = {.san = "DNS:relay.example", .from_days = cases[i].from, .to_days = cases[i].to};
        struct made m = make(r);
        struct tls_server *t = load_pair(dir, &m, &m, "relay.example", NULL);

        if (cases[i].error) {
            refused(t, cases[i].error);
        } else {
            assert_non_null(t);
            assert_int_equal(strstr(warn, "expires on") != NULL, cases[i].warning != NULL);
        }
        tls_server_unref(t);
        unmake(&m);
    }
    remove_dir(dir);
}

static void names(void **state)
{
    static const struct {
        const char *san, *cn, *host, *cert_name, *error;
    } cases[] = {
        {"DNS:relay.example", NULL, "relay.example", NULL, NULL},
        {"DNS:a.b,DNS:relay.example", NULL, "relay.example", NULL, NULL},
        {"DNS:*.relay.example", NULL, "a.relay.example", NULL, NULL},
        {"DNS:RELAY.example", NULL, "relay.EXAMPLE", NULL, NULL},
        {"DNS:a.b,IP:192.0.2.1", NULL, "relay.example", NULL,
         "is a certificate for a.b 192.0.2.1, not for relay.example, which is the HostName"},
        {"DNS:re*.relay.example", NULL, "red.relay.example", NULL, "not for red.relay.example"},
        {"DNS:*.relay.example", NULL, "b.a.relay.example", NULL, "not for b.a.relay.example"},
        {"DNS:*.relay.example", NULL, "relay.example", NULL, "not for relay.example"},
        {NULL, "relay.example", "relay.example", NULL, "not for relay.example"}, /* Go ignores the CN */
        {"DNS:front.example", NULL, "relay.example", "front.example", NULL},
        {"DNS:relay.example", NULL, "relay.example", "front.example",
         "not for front.example, which is the CertName"},
        {"DNS:whatever", NULL, "192.0.2.7", NULL, NULL}, /* clients do not compare an address */
        {"DNS:relay.example", NULL, "relay.example", "", NULL},
    };
    char *dir = temp_dir();

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct recipe r = {.cn = cases[i].cn, .san = cases[i].san, .from_days = -1, .to_days = 30};
        struct made m = make(r);
        char crt[64], key[64];
        struct tls_server *t;

        snprintf(crt, sizeof crt, "%s.crt", cases[i].host);
        snprintf(key, sizeof key, "%s.key", cases[i].host);
        write_certs(dir, crt, m.cert, NULL);
        write_key(dir, key, m.key);
        t = load(dir, cases[i].host, cases[i].cert_name, true);
        if (cases[i].error)
            refused(t, cases[i].error);
        else if (!t)
            fail_msg("%s", err);
        tls_server_unref(t);
        unmake(&m);
    }
    remove_dir(dir);
}

static void pins(void **state)
{
    char *dir = temp_dir(), cert_name[128], line[128];
    struct made m = make_for("DNS:relay.example", NULL), other = make_for("DNS:relay.example", NULL);
    struct tls_server *t;

    (void)state;
    snprintf(cert_name, sizeof cert_name, "sha256-raw:%s", pin_of(m.cert));
    t = load_pair(dir, &m, &m, "relay.example", cert_name);
    if (!t)
        fail_msg("%s", err);
    assert_string_equal(warn, "");
    assert_string_equal(t->pin, pin_of(m.cert));
    tls_server_unref(t);

    for (char *p = cert_name + 11; *p; p++)
        *p = (char)(*p >= 'a' ? *p - 32 : *p);
    refused(load(dir, "relay.example", cert_name, true), "lower-case");

    snprintf(cert_name, sizeof cert_name, "sha256-raw:%s", pin_of(other.cert));
    refused(load(dir, "relay.example", cert_name, true), cert_name);
    snprintf(line, sizeof line, "\"CertName\": \"sha256-raw:%s\"", pin_of(m.cert));
    has(err, line);

    /* With a pin and a DNS name clients compare the name too. */
    write_certs(dir, "other.example.crt", m.cert, NULL);
    write_key(dir, "other.example.key", m.key);
    snprintf(cert_name, sizeof cert_name, "sha256-raw:%s", pin_of(m.cert));
    refused(load(dir, "other.example", cert_name, true), "not for other.example");
    unmake(&m);
    unmake(&other);
    remove_dir(dir);
}

static void certbots_layout(void **state)
{
    char *dir = temp_dir(), path[128];
    struct made a = make_for("DNS:relay.example", NULL), b = make_for("DNS:relay.example", NULL);
    struct tls_server *t;

    (void)state;
    snprintf(path, sizeof path, "%s/live", dir);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/live/relay.example", dir);
    mkdir(path, 0700);
    write_certs(path, "fullchain.pem", a.cert, NULL);
    refused(load(dir, "relay.example", NULL, true), "privkey.pem is missing");
    write_key(path, "privkey.pem", a.key);
    t = load(dir, "relay.example", NULL, true);
    if (!t)
        fail_msg("%s", err);
    assert_string_equal(t->pin, pin_of(a.cert));
    assert_false(t->made);
    has(t->file, "/live/relay.example/fullchain.pem");
    tls_server_unref(t);

    snprintf(path, sizeof path, "%s/live", dir); /* cert_dir: /etc/letsencrypt/live */
    t = load(path, "relay.example", NULL, true);
    if (!t)
        fail_msg("%s", err);
    tls_server_unref(t);

    t = load_pair(dir, &b, &b, "relay.example", NULL); /* derper's layout comes first */
    assert_non_null(t);
    assert_string_equal(t->pin, pin_of(b.cert));
    tls_server_unref(t);
    unmake(&a);
    unmake(&b);
    remove_dir(dir);
}

static void doubts_are_said(void **state)
{
    char *dir = temp_dir(), path[128];
    struct made ca = make((struct recipe){.cn = "Test CA", .from_days = -1, .to_days = 99, .ca = true});
    struct made m = make_for("DNS:relay.example", &ca);
    struct tls_server *t = load_pair(dir, &m, &m, "relay.example", NULL);

    (void)state;
    assert_non_null(t);
    has(warn, "no intermediate");
    tls_server_unref(t);

    write_certs(dir, "relay.example.crt", m.cert, ca.cert);
    snprintf(path, sizeof path, "%s/relay.example.key", dir);
    chmod(path, 0644);
    t = load(dir, "relay.example", NULL, true);
    assert_non_null(t);
    assert_null(strstr(warn, "no intermediate"));
    has(warn, "chmod 0640");
    tls_server_unref(t);
    unmake(&m);
    unmake(&ca);
    remove_dir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(makes_a_pair_for_an_address),
        cmocka_unit_test(makes_nothing_unasked),
        cmocka_unit_test(made_by_command),
        cmocka_unit_test(half_a_pair),
        cmocka_unit_test(damaged_files),
        cmocka_unit_test(dates),
        cmocka_unit_test(names),
        cmocka_unit_test(pins),
        cmocka_unit_test(certbots_layout),
        cmocka_unit_test(doubts_are_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
