/* Certificates and handshakes for the tests of tls_ctx.h: everything is made in a temporary directory and in
 * memory. */
#ifndef DERPMESH_TESTS_TLS_FIXTURE_H
#define DERPMESH_TESTS_TLS_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "node/tls_ctx.h"

/* One certificate with its key. */
struct made {
    X509 *cert;
    EVP_PKEY *key;
};

struct recipe {
    const char *cn;  /* NULL: "test" */
    const char *san; /* "DNS:a,IP:1.2.3.4", or NULL */
    int from_days, to_days;
    const struct made *issuer; /* NULL: self-signed */
    bool ca, rsa;
};

static inline void made_ext(X509 *cert, int nid, const char *value)
{
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, NULL, nid, value);

    assert_non_null(ext);
    assert_true(X509_add_ext(cert, ext, -1));
    X509_EXTENSION_free(ext);
}

static inline struct made make(struct recipe r)
{
    static long serial = 1000;
    struct made m = {X509_new(), r.rsa ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256")};
    X509_NAME *name = X509_get_subject_name(m.cert);
    const char *cn = r.cn ? r.cn : "test";

    X509_set_version(m.cert, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(m.cert), serial++);
    X509_NAME_add_entry_by_NID(name, NID_commonName, MBSTRING_ASC, (const unsigned char *)cn, -1, -1, 0);
    X509_set_issuer_name(m.cert, r.issuer ? X509_get_subject_name(r.issuer->cert) : name);
    X509_time_adj_ex(X509_getm_notBefore(m.cert), r.from_days, 0, NULL);
    X509_time_adj_ex(X509_getm_notAfter(m.cert), r.to_days, 0, NULL);
    X509_set_pubkey(m.cert, m.key);
    made_ext(m.cert, NID_basic_constraints, r.ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
    if (r.san)
        made_ext(m.cert, NID_subject_alt_name, r.san);
    assert_true(X509_sign(m.cert, r.issuer ? r.issuer->key : m.key, EVP_sha256()) > 0);
    return m;
}

/* For a name, good from yesterday to next year. */
static inline struct made make_for(const char *san, const struct made *issuer)
{
    return make((struct recipe){.san = san, .from_days = -1, .to_days = 365, .issuer = issuer});
}

static inline void unmake(struct made *m)
{
    X509_free(m->cert);
    EVP_PKEY_free(m->key);
}

static inline const char *pin_of(const X509 *cert)
{
    static char hex[65];
    uint8_t digest[32];

    X509_digest(cert, EVP_sha256(), digest, NULL);
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    return hex;
}

/* Writes PEM below dir: certificates up to the first NULL, or a key. */
static inline void write_certs(const char *dir, const char *name, X509 *a, X509 *b)
{
    char path[512];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "w");
    assert_non_null(f);
    assert_true(PEM_write_X509(f, a));
    if (b)
        assert_true(PEM_write_X509(f, b));
    fclose(f);
}

static inline void write_key(const char *dir, const char *name, EVP_PKEY *key)
{
    char path[512];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "w");
    assert_non_null(f);
    assert_true(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL));
    fclose(f);
    assert_int_equal(chmod(path, 0600), 0);
}

static inline void write_text(const char *dir, const char *name, const char *text)
{
    char path[512];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static inline char *temp_dir(void)
{
    static char dir[64];

    snprintf(dir, sizeof dir, "/tmp/derpmesh-tls-XXXXXX");
    assert_non_null(mkdtemp(dir));
    return dir;
}

static inline void remove_dir(const char *dir)
{
    char command[128];

    assert_int_equal(strncmp(dir, "/tmp/derpmesh-tls-", 18), 0);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
}

static inline const struct derp_key *test_key(void)
{
    static struct derp_key key;

    for (int i = 0; i < KEY_LEN; i++)
        key.b[i] = (uint8_t)(0xa0 + i);
    return &key;
}

/* Both ends of a connection in memory. */
struct ends {
    SSL *server, *client;
};

static inline void connect_ends(struct ends *e)
{
    BIO *a, *b;

    assert_int_equal(BIO_new_bio_pair(&a, 64 << 10, &b, 64 << 10), 1);
    SSL_set_bio(e->server, a, a);
    SSL_set_bio(e->client, b, b);
    SSL_set_accept_state(e->server);
    SSL_set_connect_state(e->client);
}

/* True if both are through. */
static inline bool shake(struct ends *e)
{
    connect_ends(e);
    for (int i = 0; i < 20; i++) {
        int c = SSL_do_handshake(e->client);
        int s = SSL_do_handshake(e->server);

        if (c == 1 && s == 1)
            return true;
        if ((c != 1 && SSL_get_error(e->client, c) != SSL_ERROR_WANT_READ) ||
            (s != 1 && SSL_get_error(e->server, s) != SSL_ERROR_WANT_READ))
            return false;
    }
    return false;
}

static inline void end(struct ends *e)
{
    SSL_free(e->server);
    SSL_free(e->client);
    ERR_clear_error();
}

static inline void has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("want: %s\nhave: %s", part, text);
}

#endif
