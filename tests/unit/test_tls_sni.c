/* Which certificate a client gets for the name that it asks for, by real handshakes in memory; and what of the
 * directory counts. */
#include "tls_fixture.h"

#include "node/tls_cert.h"

static char err[1024], warn[2048], dir[64];
static enum tls_fault fault;

static struct tls_server_params params(const char *host, const struct tls_server *former)
{
    return (struct tls_server_params){.cert_dir = dir,
                                      .host = host,
                                      .node_key = test_key(),
                                      .ipv4 = "192.0.2.7",
                                      .former = former,
                                      .fault = &fault};
}

static struct tls_server *load_like(const char *host, const struct tls_server *former)
{
    struct tls_server_params p = params(host, former);
    struct tls_server *t = tls_server_load(&p, err, sizeof err, warn, sizeof warn);

    if (!t)
        fail_msg("%s", err);
    return t;
}

static struct tls_server *load(const char *host)
{
    return load_like(host, NULL);
}

static void put(const char *stem, const struct made *crt, const struct made *key)
{
    char name[128];

    snprintf(name, sizeof name, "%s.crt", stem);
    write_certs(dir, name, crt->cert, NULL);
    snprintf(name, sizeof name, "%s.key", stem);
    write_key(dir, name, key->key);
}

/* What a client that asks so gets; both versions of TLS must agree. */
static void gets(struct tls_server *t, const char *asked, const struct made *want)
{
    SSL_CTX *client = tls_client_ctx_new(err, sizeof err);

    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        struct ends e = {SSL_new(t->ctx), SSL_new(client)};
        struct derp_key key;

        SSL_set_max_proto_version(e.client, version);
        if (asked)
            assert_int_equal(SSL_set_tlsext_host_name(e.client, asked), 1);
        assert_true(shake(&e));
        if (X509_cmp(SSL_get0_peer_certificate(e.client), want->cert) != 0)
            fail_msg("%s gets the wrong certificate", asked ? asked : "no name");
        assert_int_equal(tls_peer_metacert(e.client, &key), 0); /* whichever it is */
        assert_true(key_equal(&key, test_key()));
        end(&e);
    }
    SSL_CTX_free(client);
}

static void remove_file(const char *name)
{
    char path[256];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(unlink(path), 0);
}

static int begin(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "%s", temp_dir());
    return 0;
}

static int finish(void **state)
{
    (void)state;
    remove_dir(dir);
    return 0;
}

static void by_name(void **state)
{
    struct made a = make_for("DNS:relay.example,DNS:both.example", NULL),
                b = make_for("DNS:Other.Example,DNS:both.example", NULL),
                wild = make_for("DNS:*.example,DNS:*.deep.example", NULL),
                bot = make_for("DNS:bot.test", NULL);
    char path[256];
    struct tls_server *t;

    (void)state;
    put("relay.example", &a, &a);
    put("b", &b, &b);
    put("wild", &wild, &wild);
    snprintf(path, sizeof path, "%s/live", dir);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/live/bot.test", dir);
    mkdir(path, 0700);
    write_certs(path, "fullchain.pem", bot.cert, NULL);
    write_key(path, "privkey.pem", bot.key);
    t = load("relay.example");
    assert_int_equal(t->n_sides, 3);
    gets(t, NULL, &a);
    gets(t, "relay.example", &a);
    gets(t, "RELAY.Example", &a);
    gets(t, "other.example", &b);
    gets(t, "other.example.", &b);
    gets(t, "both.example", &a); /* the main one before others */
    gets(t, "any.example", &wild);
    gets(t, "x.deep.example", &wild);
    gets(t, "y.x.deep.example", &a); /* one label only */
    gets(t, "example", &a);
    gets(t, "bot.test", &bot);
    gets(t, "*.example", &wild);
    gets(t, "unknown.test", &a);
    gets(t, ".", &a);
    gets(t, ".example", &a);
    tls_server_unref(t);
    unmake(&a);
    unmake(&b);
    unmake(&wild);
    unmake(&bot);
}

static void of_two_the_later(void **state)
{
    struct made a = make_for("DNS:relay.example", NULL),
                brief = make((struct recipe){.san = "DNS:o.example", .from_days = -1, .to_days = 30}),
                lasting = make((struct recipe){.san = "DNS:o.example", .from_days = -1, .to_days = 60});
    struct tls_server *t;

    (void)state;
    put("relay.example", &a, &a);
    put("1", &brief, &brief);
    put("2", &lasting, &lasting);
    put("3", &brief, &brief);
    t = load("relay.example");
    gets(t, "o.example", &lasting);
    tls_server_unref(t);
    unmake(&a);
    unmake(&brief);
    unmake(&lasting);
}

/* A pinned certificate for an address, then the next generation under a name. */
static void generations(void **state)
{
    struct made old = make_for("IP:192.0.2.7", NULL), next = make_for("DNS:g2.example", NULL),
                elsewhere = make_for("IP:192.0.2.8", NULL);
    struct tls_server *t;

    (void)state;
    put("192.0.2.7", &old, &old);
    put("192.0.2.8", &elsewhere, &elsewhere);
    put("g2.example", &next, &next);
    t = load("192.0.2.7"); /* the map is the old one */
    gets(t, NULL, &old);
    gets(t, "g2.example", &next);
    tls_server_unref(t);

    t = load("g2.example"); /* the map is the new one: clients with the old map ask for no name */
    gets(t, NULL, &old);
    gets(t, "g2.example", &next);
    gets(t, "unknown.example", &next);
    tls_server_unref(t);

    remove_file("192.0.2.7.crt");
    remove_file("192.0.2.7.key");
    t = load("g2.example"); /* that of another address is no substitute */
    gets(t, NULL, &next);
    tls_server_unref(t);
    unmake(&old);
    unmake(&next);
    unmake(&elsewhere);
}

/* A pair that is no good is left out, and what it was before goes on where that is known. */
static void left_out(void **state)
{
    struct made a = make_for("DNS:relay.example", NULL), b = make_for("DNS:b.example", NULL),
                other = make_for("DNS:b.example", NULL),
                expired = make((struct recipe){.san = "DNS:c.example", .from_days = -30, .to_days = -1});
    struct tls_server *before, *t;

    (void)state;
    put("relay.example", &a, &a);
    put("b", &b, &b);
    write_text(dir, "lonely.crt", "no half of anything\n");
    before = load("relay.example");
    assert_int_equal(before->n_left_out, 0);
    assert_null(strstr(warn, "left out"));

    put("b", &other, &b);
    t = load("relay.example");
    assert_int_equal(t->n_left_out, 1);
    assert_int_equal(t->n_sides, 0);
    has(warn, "left out: ");
    has(warn, "b.key does not belong to ");
    gets(t, "b.example", &a);
    tls_server_unref(t);

    t = load_like("relay.example", before);
    assert_int_equal(t->n_left_out, 1);
    gets(t, "b.example", &b);
    tls_server_unref(before);
    gets(t, "b.example", &b);
    tls_server_unref(t);

    put("c", &expired, &expired);
    t = load("relay.example");
    assert_int_equal(t->n_left_out, 2);
    has(warn, "2 pairs are left out, the first: ");
    tls_server_unref(t);
    unmake(&a);
    unmake(&b);
    unmake(&other);
    unmake(&expired);
}

/* A handshake that began before a renewal ends with the names of then. */
static void outlives_its_owner(void **state)
{
    struct made a = make_for("DNS:relay.example", NULL), b = make_for("DNS:b.example", NULL);
    SSL_CTX *client = tls_client_ctx_new(err, sizeof err);
    struct tls_server *t;
    struct ends e;

    (void)state;
    put("relay.example", &a, &a);
    put("b", &b, &b);
    t = load("relay.example");
    e = (struct ends){SSL_new(t->ctx), SSL_new(client)};
    tls_server_unref(t);
    SSL_set_tlsext_host_name(e.client, "b.example");
    assert_true(shake(&e));
    assert_int_equal(X509_cmp(SSL_get0_peer_certificate(e.client), b.cert), 0);
    end(&e);
    SSL_CTX_free(client);
    unmake(&a);
    unmake(&b);
}

static bool changed(uint8_t digest[TLS_DIGEST])
{
    struct tls_server_params p = params("relay.example", NULL);
    uint8_t now[TLS_DIGEST];
    bool differs;

    tls_files_digest(&p, now);
    differs = memcmp(now, digest, TLS_DIGEST) != 0;
    memcpy(digest, now, TLS_DIGEST);
    return differs;
}

static void digests(void **state)
{
    struct made a = make_for("DNS:relay.example", NULL), b = make_for("DNS:relay.example", NULL);
    uint8_t digest[TLS_DIGEST] = {0};
    struct tls_server *t;

    (void)state;
    assert_true(changed(digest)); /* nothing there: something all the same */
    put("relay.example", &a, &a);
    assert_true(changed(digest));
    assert_false(changed(digest));
    t = load("relay.example");
    assert_memory_equal(t->digest, digest, TLS_DIGEST);
    tls_server_unref(t);
    put("relay.example", &a, &a); /* written again, the same */
    assert_false(changed(digest));
    put("relay.example", &b, &b);
    assert_true(changed(digest));
    put("relay.example", &b, &a);
    assert_true(changed(digest));
    put("side", &a, &a);
    assert_true(changed(digest));
    put("side", &a, &b);
    assert_true(changed(digest));
    write_text(dir, "README", "not a certificate\n");
    assert_false(changed(digest));
    remove_file("side.key");
    assert_true(changed(digest));
    remove_file("relay.example.key");
    assert_true(changed(digest));
    unmake(&a);
    unmake(&b);
}

static void faults(void **state)
{
    struct made good = make_for("DNS:relay.example", NULL), other = make_for("DNS:else.example", NULL),
                old = make((struct recipe){.san = "DNS:relay.example", .from_days = -30, .to_days = -1}),
                early = make((struct recipe){.san = "DNS:relay.example", .from_days = 1, .to_days = 30});
    const struct {
        const struct made *crt, *key;
        const char *cert_name;
        enum tls_fault fault;
    } cases[] = {
        {&good, &good, NULL, TLS_FAULT_NONE},
        {&good, &other, NULL, TLS_FAULT_MISMATCH},
        {&old, &old, NULL, TLS_FAULT_EXPIRED},
        {&early, &early, NULL, TLS_FAULT_EARLY},
        {&other, &other, NULL, TLS_FAULT_NAME},
        {&good, &good, "sha256-raw:0000000000000000000000000000000000000000000000000000000000000000",
         TLS_FAULT_PIN},
    };
    struct tls_server_params p = params("relay.example", NULL);

    (void)state;
    assert_null(tls_server_load(&p, err, sizeof err, warn, sizeof warn));
    assert_int_equal(fault, TLS_FAULT_MISSING);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tls_server *t;

        put("relay.example", cases[i].crt, cases[i].key);
        p.cert_name = cases[i].cert_name;
        t = tls_server_load(&p, err, sizeof err, warn, sizeof warn);
        assert_int_equal(t == NULL, cases[i].fault != TLS_FAULT_NONE);
        assert_int_equal(fault, cases[i].fault);
        tls_server_unref(t);
    }
    p.cert_name = NULL;
    write_text(dir, "relay.example.crt", "garbage");
    assert_null(tls_server_load(&p, err, sizeof err, warn, sizeof warn));
    assert_int_equal(fault, TLS_FAULT_DAMAGED);
    for (int i = 0; i < TLS_FAULTS; i++)
        for (int k = 0; k < i; k++)
            assert_string_not_equal(tls_fault_name((enum tls_fault)i), tls_fault_name((enum tls_fault)k));
    unmake(&good);
    unmake(&other);
    unmake(&old);
    unmake(&early);
}

static void when_to_renew(void **state)
{
    enum { DAY = 86400 };
    static const struct {
        int life, left;
        bool soon;
    } cases[] = {{90, 15, false}, {90, 13, true}, {90, -1, true}, {10, 9, true},
                 {9, 8, false},   {6, 4, false},  {6, 2, true},   {3652, 15, false}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tls_server t = {.not_before = 1000000, .not_after = 1000000 + (time_t)cases[i].life * DAY};

        assert_int_equal(tls_server_expiring(&t, t.not_after - (time_t)cases[i].left * DAY), cases[i].soon);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(by_name, begin, finish),
        cmocka_unit_test_setup_teardown(of_two_the_later, begin, finish),
        cmocka_unit_test_setup_teardown(generations, begin, finish),
        cmocka_unit_test_setup_teardown(left_out, begin, finish),
        cmocka_unit_test_setup_teardown(outlives_its_owner, begin, finish),
        cmocka_unit_test_setup_teardown(digests, begin, finish),
        cmocka_unit_test_setup_teardown(faults, begin, finish),
        cmocka_unit_test(when_to_renew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
