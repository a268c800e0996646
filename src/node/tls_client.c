/* What a node demands of the nodes that it dials.
 *
 * Happy path: tls_client_prepare tells OpenSSL which name to send and which to verify; the handshake always
 * goes through (SSL_VERIFY_NONE still builds and judges the chain); tls_client_verified then looks at what
 * came and says yes or no.
 * Doing it there and not in the handshake gives one place for pins and CAs, and a sentence with what was
 * found.
 * Failure: -1, and the connection must be closed with nothing of ours sent on it.
 *
 * As stock clients do (net/tlsdial, derphttp's tlsClient): CertName is a pin or the name to verify instead of
 * HostName, which stays the SNI; it is checked even with InsecureForTests.  One thing is stricter: the pin
 * must be that of certificate 0, which is the one whose key the other side has proven to hold. */
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "node/tls_cert.h"
#include "node/tls_common.h"
#include "node/tls_ctx.h"
#include "proto/wire.h"

static const char exporter_label[] = "EXPORTER-derpmesh-1";

enum demand_kind { DEMAND_PIN, DEMAND_NAME, DEMAND_CHAIN, DEMAND_NOTHING };

/* Borrowed from the map's node. */
struct demand {
    enum demand_kind kind;
    const char *pin;  /* DEMAND_PIN: hex digits */
    const char *name; /* to verify, or NULL */
};

static struct demand demand_of(const struct derpmap_node *node)
{
    const char *cert_name = node->cert_name ? node->cert_name : "";
    struct demand d = {DEMAND_CHAIN, NULL, NULL};
    uint8_t ip[16];
    int ip_len;
    bool host_is_ip = tls_host_ip(node->host_name, ip, &ip_len);

    if (strncmp(cert_name, TLS_PIN_PREFIX, strlen(TLS_PIN_PREFIX)) == 0) {
        d.kind = DEMAND_PIN;
        d.pin = cert_name + strlen(TLS_PIN_PREFIX);
        d.name = host_is_ip ? NULL : node->host_name;
    } else if (cert_name[0] && strcmp(cert_name, node->host_name) != 0) {
        d.kind = DEMAND_NAME;
        d.name = cert_name;
    } else if (node->insecure_for_tests) {
        d.kind = DEMAND_NOTHING;
    } else if (!host_is_ip) {
        d.kind = DEMAND_NAME;
        d.name = node->host_name;
    }
    return d;
}

SSL_CTX *tls_client_ctx_new(char *err, size_t err_len)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    char reason[TLS_REASON_LEN];

    if (!ctx || tls_common_setup(ctx) != 0 || !SSL_CTX_set_default_verify_paths(ctx)) {
        snprintf(err, err_len, "cannot prepare TLS for links to other nodes: %s", tls_reason(reason));
        SSL_CTX_free(ctx);
        return NULL;
    }
    ERR_clear_error(); /* a machine without any CA is fine where the map has pins */
    SSL_CTX_set_max_cert_list(ctx, 64 << 10);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
    return ctx;
}

int tls_client_prepare(SSL *ssl, const struct derpmap_node *node)
{
    struct demand d = demand_of(node);
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    uint8_t ip[16];
    int ip_len;

    SSL_set_verify(ssl, SSL_VERIFY_NONE, NULL);
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
                                               X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    if (d.kind == DEMAND_NAME) {
        bool is_ip = tls_host_ip(d.name, ip, &ip_len);
        if (is_ip ? !X509_VERIFY_PARAM_set1_ip(param, ip, (size_t)ip_len) : !SSL_set1_host(ssl, d.name))
            return -1;
    }
    if (!tls_host_ip(node->host_name, ip, &ip_len) && !SSL_set_tlsext_host_name(ssl, node->host_name))
        return -1;
    return 0;
}

/* "node fra-1 (relay.example): …" into err; always -1. */
static int refuse(const struct derpmap_node *node, char *err, size_t err_len, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static int refuse(const struct derpmap_node *node, char *err, size_t err_len, const char *fmt, ...)
{
    int n = snprintf(err, err_len, "node %s (%s): ", node->id ? node->id : node->name, node->host_name);
    va_list ap;

    if (n < 0 || (size_t)n >= err_len)
        return -1;
    va_start(ap, fmt);
    vsnprintf(err + n, err_len - (size_t)n, fmt, ap);
    va_end(ap);
    return -1;
}

static int check_dates(const X509 *cert, const struct derpmap_node *node, char *err, size_t err_len)
{
    time_t from, to, now = time(NULL);
    char date[TLS_DATE_LEN];

    if (tls_cert_dates(cert, &from, &to) != 0)
        return refuse(node, err, err_len, "its certificate has a malformed date");
    if (now > to)
        return refuse(node, err, err_len, "its certificate has been expired since %s", tls_date(date, to));
    if (now < from)
        return refuse(node, err, err_len, "its certificate is not valid before %s: is the clock here right?",
                      tls_date(date, from));
    return 0;
}

static int wrong_name(X509 *cert, const struct derpmap_node *node, const char *name, char *err,
                      size_t err_len)
{
    char names[256];

    tls_cert_names(cert, names, sizeof names);
    return refuse(node, err, err_len, "its certificate is for %s, not for %s",
                  names[0] ? names : "no name at all", name);
}

static int check_pin(X509 *cert, const struct derpmap_node *node, const struct demand *d, char *err,
                     size_t err_len)
{
    char found[TLS_PIN_LEN + 1];

    tls_cert_pin(cert, found);
    if (strcmp(d->pin, found) != 0) {
        bool upper = strcasecmp(d->pin, found) == 0;
        return refuse(node, err, err_len, "pin differs: the map says %s, its certificate has %s%s", d->pin,
                      found,
                      upper ? " (the map's digits must be lower-case: no client accepts it so)"
                            : "; if the certificate was renewed, correct CertName in the map");
    }
    if (check_dates(cert, node, err, err_len) != 0)
        return -1;
    if (d->name && !tls_cert_covers(cert, d->name))
        return wrong_name(cert, node, d->name, err, err_len);
    return 0;
}

static int unknown_ca(const X509 *cert, const struct derpmap_node *node, char *err, size_t err_len)
{
    char issuer[128], pin[TLS_PIN_LEN + 1];

    if (tls_cert_self_issued(cert)) {
        tls_cert_pin(cert, pin);
        return refuse(
            node, err, err_len,
            "its certificate is self-signed, and the map has no pin for it; its own log shows the CertName "
            "to paste (found here: %s%s)",
            TLS_PIN_PREFIX, pin);
    }
    tls_cert_cn(X509_get_issuer_name(cert), issuer, sizeof issuer);
    return refuse(
        node, err, err_len,
        "no CA that this machine trusts stands behind its certificate (issued by %s); either a certificate "
        "between is missing there (fullchain), or its CA is missing here (SSL_CERT_FILE)",
        issuer[0] ? issuer : "somebody without a name");
}

static int check_chain(SSL *ssl, X509 *cert, const struct derpmap_node *node, const struct demand *d,
                       char *err, size_t err_len)
{
    long result = SSL_get_verify_result(ssl);

    switch (result) {
    case X509_V_OK:
        return 0;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        return wrong_name(cert, node, d->name ? d->name : node->host_name, err, err_len);
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        return unknown_ca(cert, node, err, err_len);
    default:
        if (check_dates(cert, node, err, err_len) != 0)
            return -1;
        return refuse(node, err, err_len, "the chain of its certificate does not hold: %s",
                      X509_verify_cert_error_string(result));
    }
}

int tls_client_verified(SSL *ssl, const struct derpmap_node *node, char *err, size_t err_len)
{
    struct demand d = demand_of(node);
    X509 *cert = SSL_get0_peer_certificate(ssl);
    char reason[TLS_REASON_LEN];

    err[0] = '\0';
    if (!cert || !SSL_is_init_finished(ssl))
        return refuse(node, err, err_len, "the TLS handshake failed: %s",
                      ERR_peek_last_error() ? tls_reason(reason) : "the other side gave up");
    switch (d.kind) {
    case DEMAND_PIN:
        return check_pin(cert, node, &d, err, err_len);
    case DEMAND_NAME:
    case DEMAND_CHAIN:
        return check_chain(ssl, cert, node, &d, err, err_len);
    default:
        return 0;
    }
}

int tls_peer_metacert(SSL *ssl, struct derp_key *key)
{
    STACK_OF(X509) *chain = SSL_get_peer_cert_chain(ssl);
    int n = sk_X509_num(chain); /* -1 without a chain */
    const X509 *last = n > 0 ? sk_X509_value(chain, n - 1) : NULL;
    char cn[sizeof TLS_METACERT_PREFIX + 2 * KEY_LEN + 1];
    size_t prefix = strlen(TLS_METACERT_PREFIX);

    if (!last)
        return -1;
    tls_cert_cn(X509_get_subject_name(last), cn, sizeof cn);
    if (strncmp(cn, TLS_METACERT_PREFIX, prefix) != 0)
        return -1;
    return wire_unhex(key->b, KEY_LEN, cn + prefix, strlen(cn + prefix));
}

int tls_exporter(SSL *ssl, uint8_t out[static 32])
{
    /* Without the extended master secret (RFC 7627) two connections of TLS 1.2 can be made to share their
     * secrets. */
    if (SSL_version(ssl) < TLS1_3_VERSION && SSL_get_extms_support(ssl) != 1)
        return -1;
    return SSL_export_keying_material(ssl, out, 32, exporter_label, strlen(exporter_label), NULL, 0, 0) == 1
               ? 0
               : -1;
}
