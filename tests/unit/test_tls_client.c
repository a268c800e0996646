/* What a node demands of those it dials: real handshakes in memory, with what the derpMap says of the node.
 */
#include "tls_fixture.h"

static char err[1024];

struct world {
    struct made ca, other_ca;
    SSL_CTX *client; /* trusts ca */
};

static struct world w;

static int set_up(void **state)
{
    struct recipe r = {.cn = "Test CA", .from_days = -99, .to_days = 99, .ca = true};
    char *dir = temp_dir(), path[128];

    (void)state;
    w.ca = make(r);
    r.cn = "Other CA";
    w.other_ca = make(r);
    /* As an operator says it. */
    write_certs(dir, "ca.pem", w.ca.cert, NULL);
    snprintf(path, sizeof path, "%s/ca.pem", dir);
    setenv("SSL_CERT_FILE", path, 1);
    setenv("SSL_CERT_DIR", dir, 1);
    w.client = tls_client_ctx_new(err, sizeof err);
    unsetenv("SSL_CERT_FILE");
    unsetenv("SSL_CERT_DIR");
    remove_dir(dir);
    return w.client ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    SSL_CTX_free(w.client);
    unmake(&w.ca);
    unmake(&w.other_ca);
    return 0;
}

/* A server with this certificate, and more in its chain. */
static SSL_CTX *serve(const struct made *m, X509 *second, X509 *third)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

    SSL_CTX_set_mode(ctx, SSL_MODE_NO_AUTO_CHAIN);
    assert_int_equal(SSL_CTX_use_certificate(ctx, m->cert), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(ctx, m->key), 1);
    if (second)
        assert_true(SSL_CTX_add1_chain_cert(ctx, second));
    if (third)
        assert_true(SSL_CTX_add1_chain_cert(ctx, third));
    return ctx;
}

static struct ends dial(SSL_CTX *server, const struct derpmap_node *node)
{
    struct ends e = {SSL_new(server), SSL_new(w.client)};

    assert_int_equal(tls_client_prepare(e.client, node), 0);
    assert_true(shake(&e));
    return e;
}

static struct derpmap_node node_of(const char *host, const char *cert_name)
{
    return (struct derpmap_node){.name = (char *)(uintptr_t) "fra-1",
                                 .id = (char *)(uintptr_t) "900/fra-1",
                                 .host_name = (char *)(uintptr_t)host,
                                 .cert_name = (char *)(uintptr_t)cert_name};
}

/* Dials host with this CertName; because NULL: must be accepted. */
static void judge_node(SSL_CTX *server, const struct derpmap_node *node, const char *because)
{
    struct ends e = dial(server, node);
    int rc = tls_client_verified(e.client, node, err, sizeof err);

    if (!because && rc != 0)
        fail_msg("refused: %s", err);
    if (because && rc == 0)
        fail_msg("accepted, wanted: %s", because);
    if (because) {
        has(err, because);
        has(err, "node 900/fra-1 (");
        assert_non_null(strstr(err, node->host_name));
    }
    end(&e);
}

static void judge(const struct made *m, const char *host, const char *cert_name, const char *because)
{
    SSL_CTX *server = serve(m, NULL, NULL);
    struct derpmap_node node = node_of(host, cert_name);

    judge_node(server, &node, because);
    SSL_CTX_free(server);
}

static const char *pin_name(const X509 *cert)
{
    static char text[128];

    snprintf(text, sizeof text, "sha256-raw:%s", pin_of(cert));
    return text;
}

static void pins(void **state)
{
    struct made m = make_for("IP:192.0.2.7", NULL), dns = make_for("DNS:relay.example", NULL);
    char upper[128];

    (void)state;
    judge(&m, "192.0.2.7", pin_name(m.cert), NULL);
    judge(&m, "192.0.2.8", pin_name(m.cert), NULL); /* an address is not compared */
    judge(&dns, "relay.example", pin_name(dns.cert), NULL);
    judge(&dns, "192.0.2.7", pin_name(m.cert), "pin differs: the map says ");
    has(err, pin_of(m.cert));
    has(err, pin_of(dns.cert));
    judge(&dns, "other.example", pin_name(dns.cert),
          "its certificate is for relay.example, not for other.example");
    snprintf(upper, sizeof upper, "%s", pin_name(m.cert));
    for (char *p = upper + 11; *p; p++)
        *p = (char)(*p >= 'a' ? *p - 32 : *p);
    judge(&m, "192.0.2.7", upper, "lower-case");
    judge(&m, "192.0.2.7", "sha256-raw:", "pin differs");
    judge(&m, "192.0.2.7", "sha256-raw:0123", "pin differs");
    unmake(&m);
    unmake(&dns);
}

static void pinned_but_out_of_date(void **state)
{
    struct made old = make((struct recipe){.san = "IP:192.0.2.7", .from_days = -30, .to_days = -2});
    struct made early = make((struct recipe){.san = "IP:192.0.2.7", .from_days = 2, .to_days = 30});

    (void)state;
    judge(&old, "192.0.2.7", pin_name(old.cert), "expired since 20");
    judge(&early, "192.0.2.7", pin_name(early.cert), "not valid before 20");
    unmake(&old);
    unmake(&early);
}

/* The certificate that was pinned, sent by somebody who has not its key, behind one that stock clients skip.
 */
static void pin_of_a_later_certificate(void **state)
{
    struct made victim = make_for("IP:192.0.2.7", NULL);
    struct made attacker = make((struct recipe){
        .cn = "derpkey0000000000000000000000000000000000000000000000000", .from_days = -1, .to_days = 30});
    SSL_CTX *server = serve(&attacker, victim.cert, NULL);
    struct derpmap_node node = node_of("192.0.2.7", pin_name(victim.cert));

    (void)state;
    judge_node(server, &node, "pin differs");
    SSL_CTX_free(server);
    unmake(&victim);
    unmake(&attacker);
}

static void certificate_authorities(void **state)
{
    struct made good = make_for("DNS:relay.example,DNS:*.wild.example", &w.ca);
    struct made foreign = make_for("DNS:relay.example", &w.other_ca);
    struct made lone = make_for("DNS:relay.example", NULL);
    struct made old =
        make((struct recipe){.san = "DNS:relay.example", .from_days = -30, .to_days = -2, .issuer = &w.ca});
    struct made early =
        make((struct recipe){.san = "DNS:relay.example", .from_days = 2, .to_days = 9, .issuer = &w.ca});
    struct made only_cn =
        make((struct recipe){.cn = "relay.example", .from_days = -1, .to_days = 9, .issuer = &w.ca});

    (void)state;
    judge(&good, "relay.example", NULL, NULL);
    judge(&good, "a.wild.example", NULL, NULL);
    judge(&good, "other.example", NULL,
          "its certificate is for relay.example *.wild.example, not for other.example");
    judge(&foreign, "relay.example", NULL, "no CA that this machine trusts");
    has(err, "issued by Other CA");
    judge(&lone, "relay.example", NULL, "self-signed");
    has(err, pin_of(lone.cert));
    judge(&old, "relay.example", NULL, "expired since 20");
    judge(&early, "relay.example", NULL, "not valid before 20");
    judge(&only_cn, "relay.example", NULL, "not for relay.example");
    unmake(&good);
    unmake(&foreign);
    unmake(&lone);
    unmake(&old);
    unmake(&early);
    unmake(&only_cn);
}

static void an_expired_intermediate(void **state)
{
    struct made middle =
        make((struct recipe){.cn = "Middle", .from_days = -30, .to_days = -2, .ca = true, .issuer = &w.ca});
    struct made leaf = make_for("DNS:relay.example", &middle);
    SSL_CTX *server = serve(&leaf, middle.cert, NULL);
    struct derpmap_node node = node_of("relay.example", NULL);

    (void)state;
    judge_node(server, &node, "the chain of its certificate does not hold: certificate has expired");
    SSL_CTX_free(server);
    unmake(&middle);
    unmake(&leaf);
}

/* CertName is verified instead of HostName, which stays what is asked for. */
static void a_name_in_the_map(void **state)
{
    struct made front = make_for("DNS:front.example,IP:192.0.2.9", &w.ca);
    struct made host = make_for("DNS:relay.example", &w.ca);

    (void)state;
    judge(&front, "relay.example", "front.example", NULL);
    judge(&front, "192.0.2.7", "front.example", NULL);
    judge(&front, "192.0.2.7", "192.0.2.9", NULL);
    judge(&front, "192.0.2.7", "192.0.2.8", "not for 192.0.2.8");
    judge(&host, "relay.example", "front.example",
          "its certificate is for relay.example, not for front.example");
    judge(&host, "relay.example", "relay.example", NULL);
    judge(&host, "relay.example", "", NULL);
    unmake(&front);
    unmake(&host);
}

static void an_address_without_cert_name(void **state)
{
    struct made good = make_for("DNS:whatever.example", &w.ca), lone = make_for("IP:192.0.2.7", NULL);

    (void)state;
    judge(&good, "192.0.2.7", NULL, NULL); /* the chain alone */
    judge(&good, "2001:db8::1", NULL, NULL);
    judge(&lone, "192.0.2.7", NULL, "self-signed");
    unmake(&good);
    unmake(&lone);
}

static void insecure_for_tests(void **state)
{
    struct made lone = make_for("DNS:whatever", NULL), other = make_for("DNS:whatever", NULL);
    SSL_CTX *server = serve(&lone, NULL, NULL);
    struct derpmap_node node = node_of("relay.example", NULL);

    (void)state;
    node.insecure_for_tests = true;
    judge_node(server, &node, NULL);
    node.cert_name = (char *)(uintptr_t)pin_name(other.cert); /* as in stock clients: still checked */
    judge_node(server, &node, "pin differs");
    node.cert_name = (char *)(uintptr_t) "front.example";
    judge_node(server, &node, "self-signed");
    SSL_CTX_free(server);
    unmake(&lone);
    unmake(&other);
}

static void server_name_indication(void **state)
{
    static const struct {
        const char *host, *cert_name, *sni;
    } cases[] = {
        {"relay.example", NULL, "relay.example"},
        {"relay.example", "front.example", "relay.example"},
        {"192.0.2.7", NULL, NULL},
        {"2001:db8::1", "front.example", NULL},
    };
    struct made m = make_for("DNS:relay.example", NULL);
    SSL_CTX *server = serve(&m, NULL, NULL);

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct derpmap_node node = node_of(cases[i].host, cases[i].cert_name);
        struct ends e = dial(server, &node);
        const char *sni = SSL_get_servername(e.server, TLSEXT_NAMETYPE_host_name);

        if (cases[i].sni)
            assert_string_equal(sni, cases[i].sni);
        else
            assert_null(sni);
        end(&e);
    }
    SSL_CTX_free(server);
    unmake(&m);
}

static void a_handshake_that_fails(void **state)
{
    struct derpmap_node node = node_of("relay.example", NULL);
    struct made m = make_for("DNS:relay.example", &w.ca);
    SSL_CTX *server = serve(&m, NULL, NULL);
    struct ends e = {SSL_new(server), SSL_new(w.client)};
    struct derp_key key;
    uint8_t secret[32];

    (void)state;
    assert_int_equal(tls_client_prepare(e.client, &node), 0);
    assert_int_equal(tls_client_verified(e.client, &node, err, sizeof err), -1); /* before it began */
    assert_int_equal(tls_peer_metacert(e.client, &key), -1);
    assert_int_equal(tls_exporter(e.client, secret), -1);
    connect_ends(&e);
    ERR_clear_error();
    SSL_do_handshake(e.client);
    BIO_write(SSL_get_wbio(e.server), "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
    assert_int_equal(SSL_do_handshake(e.client), -1);
    assert_int_equal(tls_client_verified(e.client, &node, err, sizeof err), -1);
    has(err, "node 900/fra-1 (relay.example): the TLS handshake failed: ");
    assert_int_equal(tls_peer_metacert(e.client, &key), -1);
    end(&e);
    SSL_CTX_free(server);
    unmake(&m);
}

/* The certificate is there already, but its key has not been proven: not verified. */
static void half_way(void **state)
{
    struct made m = make_for("DNS:relay.example", &w.ca);
    struct derpmap_node node = node_of("relay.example", NULL);
    SSL_CTX *server = serve(&m, NULL, NULL);
    struct ends e = {SSL_new(server), SSL_new(w.client)};

    (void)state;
    SSL_set_max_proto_version(e.client, TLS1_2_VERSION);
    assert_int_equal(tls_client_prepare(e.client, &node), 0);
    connect_ends(&e);
    SSL_do_handshake(e.client);
    SSL_do_handshake(e.server);
    SSL_do_handshake(e.client); /* has read the certificate; Finished is missing */
    assert_non_null(SSL_get0_peer_certificate(e.client));
    assert_int_equal(tls_client_verified(e.client, &node, err, sizeof err), -1);
    end(&e);
    SSL_CTX_free(server);
    unmake(&m);
}

static void exporters(void **state)
{
    struct made m = make_for("DNS:relay.example", &w.ca);
    struct derpmap_node node = node_of("relay.example", NULL);
    SSL_CTX *server = serve(&m, NULL, NULL);
    uint8_t a[32], b[32], c[32];

    (void)state;
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        struct ends e, other;

        SSL_CTX_set_max_proto_version(server, version);
        e = dial(server, &node);
        other = dial(server, &node);
        assert_int_equal(tls_exporter(e.client, a), 0);
        assert_int_equal(tls_exporter(e.server, b), 0);
        assert_int_equal(tls_exporter(other.client, c), 0);
        assert_memory_equal(a, b, 32);
        assert_memory_not_equal(a, c, 32);
        end(&e);
        end(&other);
    }
    /* A TLS 1.2 whose secrets are not bound to its handshake. */
    SSL_CTX_set_max_proto_version(server, TLS1_2_VERSION);
    SSL_CTX_set_options(server, SSL_OP_NO_EXTENDED_MASTER_SECRET);
    struct ends e = dial(server, &node);
    assert_int_equal(tls_exporter(e.client, a), -1);
    assert_int_equal(tls_exporter(e.server, a), -1);
    end(&e);
    SSL_CTX_free(server);
    unmake(&m);
}

static void metacerts(void **state)
{
    static const struct {
        const char *cn;
        int rc;
    } cases[] = {
        {"derpkey", -1},
        {"derpkey00112233445566778899aabbccddeeff00112233445566778899aabb", -1},
        {"relay.example", -1},
    };
    struct made m = make_for("DNS:relay.example", &w.ca);
    struct derpmap_node node = node_of("relay.example", NULL);
    struct derp_key key;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct made last = make((struct recipe){.cn = cases[i].cn, .from_days = -1, .to_days = 9});
        SSL_CTX *server = serve(&m, last.cert, NULL);
        struct ends e = dial(server, &node);

        assert_int_equal(tls_peer_metacert(e.client, &key), cases[i].rc);
        end(&e);
        SSL_CTX_free(server);
        unmake(&last);
    }
    unmake(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pins),
        cmocka_unit_test(pinned_but_out_of_date),
        cmocka_unit_test(pin_of_a_later_certificate),
        cmocka_unit_test(certificate_authorities),
        cmocka_unit_test(an_expired_intermediate),
        cmocka_unit_test(a_name_in_the_map),
        cmocka_unit_test(an_address_without_cert_name),
        cmocka_unit_test(insecure_for_tests),
        cmocka_unit_test(server_name_indication),
        cmocka_unit_test(a_handshake_that_fails),
        cmocka_unit_test(half_way),
        cmocka_unit_test(exporters),
        cmocka_unit_test(metacerts),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
