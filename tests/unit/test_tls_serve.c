/* What clients get to see of a node's TLS, by real handshakes in memory. */
#include "tls_fixture.h"

#include <time.h>

static char err[1024], warn[1024];

static struct tls_server *load(const char *dir, const char *host, const char *cert_name, bool may_make)
{
    struct tls_server_params p = {
        .cert_dir = dir, .host = host, .cert_name = cert_name, .may_make = may_make, .node_key = test_key()};

    memset(err, 'x', sizeof err);
    memset(warn, 'x', sizeof warn);
    return tls_server_load(&p, err, sizeof err, warn, sizeof warn);
}

static struct ends meet(struct tls_server *t, SSL_CTX *client)
{
    struct ends e = {SSL_new(t->ctx), SSL_new(client)};

    assert_non_null(e.server);
    assert_non_null(e.client);
    return e;
}

static void is_the_metacert(X509 *cert)
{
    char cn[128];
    time_t from, to, now = time(NULL);
    struct tm tm;
    BASIC_CONSTRAINTS *basic;
    int critical;

    X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, cn, sizeof cn);
    assert_string_equal(cn, "derpkeya0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf");
    assert_int_equal(X509_NAME_entry_count(X509_get_subject_name(cert)), 1);
    assert_int_equal(X509_NAME_cmp(X509_get_subject_name(cert), X509_get_issuer_name(cert)), 0);
    assert_int_equal(ASN1_INTEGER_get(X509_get0_serialNumber(cert)), 2);
    assert_int_equal(X509_get_version(cert), X509_VERSION_3);
    assert_int_equal(EVP_PKEY_id(X509_get0_pubkey(cert)), EVP_PKEY_ED25519);
    assert_int_equal(X509_verify(cert, X509_get0_pubkey(cert)), 1);
    ASN1_TIME_to_tm(X509_get0_notBefore(cert), &tm);
    from = timegm(&tm);
    ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm);
    to = timegm(&tm);
    assert_int_equal(to - from, 60 * 86400);
    assert_in_range(now - from, 29 * 86400, 31 * 86400);
    assert_int_equal(X509_get_ext_count(cert), 1);
    basic = X509_get_ext_d2i(cert, NID_basic_constraints, &critical, NULL);
    assert_non_null(basic);
    assert_int_equal(critical, 1);
    assert_int_equal(basic->ca, 0);
    BASIC_CONSTRAINTS_free(basic);
}

/* Leaf, intermediate, metacert, in both versions; with a pin the leaf and the metacert alone. */
static void the_chain(void **state)
{
    char *dir = temp_dir(), cert_name[128];
    struct made ca =
        make((struct recipe){.cn = "Test CA", .from_days = -1, .to_days = 99, .ca = true, .rsa = true});
    struct made m = make((struct recipe){
        .san = "DNS:relay.example", .from_days = -1, .to_days = 99, .issuer = &ca, .rsa = true});
    SSL_CTX *client = tls_client_ctx_new(err, sizeof err);

    (void)state;
    write_certs(dir, "relay.example.crt", m.cert, ca.cert);
    write_key(dir, "relay.example.key", m.key);
    snprintf(cert_name, sizeof cert_name, "sha256-raw:%s", pin_of(m.cert));
    for (int i = 0; i < 4; i++) {
        int version = i & 1 ? TLS1_3_VERSION : TLS1_2_VERSION, want = i & 2 ? 2 : 3;
        struct tls_server *t = load(dir, "relay.example", i & 2 ? cert_name : NULL, false);
        STACK_OF(X509) * chain;
        struct derp_key key;
        struct ends e;

        if (!t)
            fail_msg("%s", err);
        assert_int_equal(strstr(warn, "only the first of 2") != NULL, (i & 2) != 0);
        e = meet(t, client);
        SSL_set_max_proto_version(e.client, version);
        assert_true(shake(&e));
        assert_int_equal(SSL_version(e.client), version);
        chain = SSL_get_peer_cert_chain(e.client);
        assert_int_equal(sk_X509_num(chain), want);
        assert_int_equal(X509_cmp(sk_X509_value(chain, 0), m.cert), 0);
        if (want == 3)
            assert_int_equal(X509_cmp(sk_X509_value(chain, 1), ca.cert), 0);
        is_the_metacert(sk_X509_value(chain, want - 1));
        assert_int_equal(tls_peer_metacert(e.client, &key), 0);
        assert_true(key_equal(&key, test_key()));
        end(&e);
        tls_server_unref(t);
    }
    SSL_CTX_free(client);
    unmake(&m);
    unmake(&ca);
    remove_dir(dir);
}

/* One handshake with a client as the test likes it. */
struct wish {
    int max_version;
    const char *ciphers_12, *ciphers_13, *alpn,
        *cipher; /* cipher: the one that must come out; NULL: it must fail */
    const char *alpn_got;
};

static void negotiation(void **state)
{
    static const struct wish wishes[] = {
        {TLS1_3_VERSION, NULL, NULL, NULL, "TLS_AES_128_GCM_SHA256", ""},
        {TLS1_3_VERSION, NULL, "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256", NULL,
         "TLS_CHACHA20_POLY1305_SHA256", ""},
        {TLS1_3_VERSION, NULL, "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256",
         NULL, "TLS_AES_128_GCM_SHA256", ""},
        {TLS1_2_VERSION, NULL, NULL, NULL, "ECDHE-ECDSA-AES128-GCM-SHA256", ""},
        {TLS1_2_VERSION, "ECDHE+CHACHA20:ECDHE+AESGCM", NULL, NULL, "ECDHE-ECDSA-CHACHA20-POLY1305", ""},
        {TLS1_2_VERSION, "ECDHE-ECDSA-AES128-SHA256", NULL, NULL, NULL, ""},
        {TLS1_1_VERSION, "ALL:@SECLEVEL=0", NULL, NULL, NULL, ""},
        {TLS1_3_VERSION, NULL, NULL, "\x02h2\x08http/1.1", "TLS_AES_128_GCM_SHA256", "http/1.1"},
        {TLS1_3_VERSION, NULL, NULL, "\x02h2", "TLS_AES_128_GCM_SHA256", ""},
        {TLS1_3_VERSION, NULL, NULL, "\x07http/1.\x0ahttp/1.1xx", "TLS_AES_128_GCM_SHA256", ""},
    };
    char *dir = temp_dir(), got[64];
    struct tls_server *t = load(dir, "127.0.0.1", NULL, true);

    (void)state;
    assert_non_null(t);
    assert_int_equal(SSL_CTX_get_min_proto_version(t->ctx), TLS1_2_VERSION);
    for (size_t i = 0; i < sizeof wishes / sizeof wishes[0]; i++) {
        const struct wish *w = &wishes[i];
        SSL_CTX *client = SSL_CTX_new(TLS_client_method());
        const unsigned char *alpn;
        unsigned alpn_len;
        struct ends e;

        SSL_CTX_set_min_proto_version(client, TLS1_VERSION);
        SSL_CTX_set_max_proto_version(client, w->max_version);
        if (w->ciphers_12)
            assert_true(SSL_CTX_set_cipher_list(client, w->ciphers_12));
        if (w->ciphers_13)
            assert_true(SSL_CTX_set_ciphersuites(client, w->ciphers_13));
        if (w->alpn)
            SSL_CTX_set_alpn_protos(client, (const unsigned char *)w->alpn, (unsigned)strlen(w->alpn));
        e = meet(t, client);
        if (shake(&e) != (w->cipher != NULL))
            fail_msg("handshake %zu", i);
        if (w->cipher) {
            assert_string_equal(SSL_get_cipher_name(e.client), w->cipher);
            SSL_get0_alpn_selected(e.client, &alpn, &alpn_len);
            snprintf(got, sizeof got, "%.*s", (int)alpn_len, alpn ? (const char *)alpn : "");
            assert_string_equal(got, w->alpn_got);
        }
        end(&e);
        SSL_CTX_free(client);
    }
    tls_server_unref(t);
    remove_dir(dir);
}

/* A ticket in TLS 1.3, honoured; none in TLS 1.2, where nothing can be resumed; no renegotiation. */
static void tickets_are_honoured(void **state)
{
    char *dir = temp_dir(), byte;
    struct tls_server *t = load(dir, "127.0.0.1", NULL, true);

    (void)state;
    assert_non_null(t);
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        SSL_CTX *client = SSL_CTX_new(TLS_client_method());
        bool tls13 = version == TLS1_3_VERSION;
        SSL_SESSION *session;
        struct ends e, again;

        SSL_CTX_set_max_proto_version(client, version);
        e = meet(t, client);
        assert_true(shake(&e));
        assert_int_equal(SSL_read(e.client, &byte, 1), -1);
        session = SSL_get1_session(e.client);
        assert_int_equal(SSL_SESSION_has_ticket(session), tls13);
        again = meet(t, client);
        SSL_set_session(again.client, session);
        assert_true(shake(&again));
        assert_int_equal(SSL_session_reused(again.client), tls13);
        assert_int_equal(SSL_session_reused(again.server), tls13);
        if (version == TLS1_2_VERSION) {
            int done = 0;

            SSL_renegotiate(e.client);
            for (int i = 0; i < 10 && done != 1; i++) {
                done = SSL_do_handshake(e.client);
                assert_true(SSL_read(e.server, &byte, 1) <= 0);
            }
            assert_int_not_equal(done, 1);
        }
        SSL_SESSION_free(session);
        end(&e);
        end(&again);
        SSL_CTX_free(client);
    }
    tls_server_unref(t);
    remove_dir(dir);
}

/* A connection outlives the certificate that it was made with. */
static void references(void **state)
{
    char *dir = temp_dir(), buf[8];
    struct tls_server *t = load(dir, "127.0.0.1", NULL, true);
    SSL_CTX *client = SSL_CTX_new(TLS_client_method());
    struct ends e;

    (void)state;
    assert_non_null(t);
    assert_ptr_equal(tls_server_ref(t), t);
    tls_server_unref(t);
    e = meet(t, client);
    tls_server_unref(t);
    tls_server_unref(NULL);
    assert_true(shake(&e));
    assert_int_equal(SSL_write(e.server, "hello", 5), 5);
    assert_int_equal(SSL_read(e.client, buf, sizeof buf), 5);
    end(&e);
    SSL_CTX_free(client);
    remove_dir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_chain),
        cmocka_unit_test(negotiation),
        cmocka_unit_test(tickets_are_honoured),
        cmocka_unit_test(references),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
