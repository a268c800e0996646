/* What a node serves TLS with.
 *
 * Happy path: the pair of the map's HostName is found (or made), read and checked against the clock, the name
 * and the pin that clients will check; a context is made of it with the metacert last in the chain, so that
 * TLS 1.3 clients can start DERP without a round trip.
 * Failure: NULL and a sentence that says which file is wrong and what to do; what runs goes on with its older
 * tls_server. */
#include "node/tls_ctx.h"

#include <openssl/err.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "node/tls_cert.h"
#include "node/tls_common.h"

enum {
    DAY = 24 * 3600,
    SOON = 14 * DAY,
    SHORT_LIVED = 10 * DAY,
    SOON_IF_SHORT = 3 * DAY,
    TICKET_S = 2 * 3600
};

/* AES-128 first: the machines that run relays have AES in hardware.  A client that has not puts ChaCha20
 * first, and gets it (SSL_OP_PRIORITIZE_CHACHA). */
#define CIPHERS_13 "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define CIPHERS_12                                                                                           \
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"               \
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"

/* What to paste where a pin is missing or wrong. */
#define PIN_LINE "\"CertName\": \"" TLS_PIN_PREFIX "%s\""

int tls_common_setup(SSL_CTX *ctx)
{
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_NO_AUTO_CHAIN);
    /* Nothing is kept of a session here. */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    if (!SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) || !SSL_CTX_set_num_tickets(ctx, 0) ||
        !SSL_CTX_set_ciphersuites(ctx, CIPHERS_13) || !SSL_CTX_set_cipher_list(ctx, CIPHERS_12) ||
        !SSL_CTX_set1_groups_list(ctx, "X25519:P-256:P-384:P-521"))
        return -1;
    return 0;
}

/* Only http/1.1 is spoken.  A client that offers others alone is served without ALPN. */
static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
                   unsigned in_len, void *ctx)
{
    static const char http1[] = "http/1.1";

    (void)ssl, (void)ctx;
    for (unsigned i = 0; i < in_len && in_len - i > in[i]; i += 1u + in[i]) {
        if (in[i] == strlen(http1) && memcmp(in + i + 1, http1, strlen(http1)) == 0) {
            *out = in + i + 1;
            *out_len = in[i];
            return SSL_TLSEXT_ERR_OK;
        }
    }
    return SSL_TLSEXT_ERR_NOACK;
}

/* Leaf, what follows it in its file (unless a pin forbids that), metacert. */
static int add_chain(SSL_CTX *ctx, const struct tls_pair *pair, bool pinned, X509 *metacert)
{
    if (SSL_CTX_use_certificate(ctx, pair->leaf) != 1 || SSL_CTX_use_PrivateKey(ctx, pair->key) != 1)
        return -1;
    for (int i = 0; !pinned && i < sk_X509_num(pair->chain); i++) {
        if (!SSL_CTX_add1_chain_cert(ctx, sk_X509_value(pair->chain, i)))
            return -1;
    }
    return SSL_CTX_add1_chain_cert(ctx, metacert) ? 0 : -1;
}

/* One ticket for a client of TLS 1.3 that can use one: it serves once, holds for two hours, and the new connection agrees on
 * fresh secrets.  In TLS 1.2 it would not, so there is none; nor for clients that do not say how they would use one, as stock
 * clients (Go without a session cache): a ticket costs 50 to 100 us. */
static int on_client_hello(SSL *ssl, int *alert, void *arg)
{
    const unsigned char *ext;
    size_t len;

    (void)alert, (void)arg;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_supported_versions, &ext, &len) ||
        !SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_psk_kex_modes, &ext, &len)) {
        SSL_set_options(ssl, SSL_OP_NO_TICKET);
        SSL_set_num_tickets(ssl, 0);
    }
    return SSL_CLIENT_HELLO_SUCCESS;
}

static int offer_tickets(SSL_CTX *ctx)
{
    SSL_CTX_clear_options(ctx, SSL_OP_NO_TICKET);
    SSL_CTX_set_client_hello_cb(ctx, on_client_hello, NULL);
    SSL_CTX_set_timeout(ctx, TICKET_S);
    return SSL_CTX_set_num_tickets(ctx, 1) == 1 ? 0 : -1;
}

static SSL_CTX *server_ctx(const struct tls_pair *pair, bool pinned, const struct derp_key *node_key,
                           char *err, size_t err_len)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    X509 *metacert = tls_metacert_new(node_key);
    char reason[TLS_REASON_LEN];

    if (!ctx || !metacert || tls_common_setup(ctx) != 0 || offer_tickets(ctx) != 0 ||
        add_chain(ctx, pair, pinned, metacert) != 0) {
        snprintf(err, err_len, "cannot serve TLS with %s: %s", pair->crt_file, tls_reason(reason));
        SSL_CTX_free(ctx);
        ctx = NULL;
    } else {
        SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
    }
    X509_free(metacert);
    return ctx;
}

/* The pin that the map demands, or NULL. */
static const char *wanted_pin(const char *cert_name)
{
    size_t n = strlen(TLS_PIN_PREFIX);

    return cert_name && strncmp(cert_name, TLS_PIN_PREFIX, n) == 0 ? cert_name + n : NULL;
}

bool tls_server_expiring(const struct tls_server *t, time_t now)
{
    bool brief = t->not_after - t->not_before < SHORT_LIVED;

    return t->not_after - now < (brief ? SOON_IF_SHORT : SOON);
}

const char *tls_fault_name(enum tls_fault fault)
{
    static const char *const names[TLS_FAULTS] = {
        [TLS_FAULT_NONE] = "none",         [TLS_FAULT_MISSING] = "missing",
        [TLS_FAULT_DAMAGED] = "damaged",   [TLS_FAULT_MISMATCH] = "mismatch",
        [TLS_FAULT_EXPIRED] = "expired",   [TLS_FAULT_EARLY] = "not_yet_valid",
        [TLS_FAULT_NAME] = "name",         [TLS_FAULT_PIN] = "pin",
        [TLS_FAULT_EXPIRING] = "expiring", [TLS_FAULT_LEFT_OUT] = "left_out",
    };
    return names[fault];
}

static enum tls_fault check_dates(const struct tls_server *t, time_t now, char *err, size_t err_len)
{
    char date[TLS_DATE_LEN];

    if (now > t->not_after) {
        snprintf(err, err_len, "%s expired on %s: put a renewed certificate in its place", t->file,
                 tls_date(date, t->not_after));
        return TLS_FAULT_EXPIRED;
    }
    if (now < t->not_before) {
        snprintf(err, err_len, "%s is not valid before %s: is the clock of this machine right?", t->file,
                 tls_date(date, t->not_before));
        return TLS_FAULT_EARLY;
    }
    return TLS_FAULT_NONE;
}

/* As clients will: a pin, and the name that they verify.  An IP address as HostName is never compared. */
static enum tls_fault check_names(const struct tls_server *t, X509 *leaf, const struct tls_server_params *p,
                                  char *err, size_t err_len)
{
    const char *pin = wanted_pin(p->cert_name);
    const char *name = p->cert_name && p->cert_name[0] && !pin ? p->cert_name : p->host;
    uint8_t ip[16];
    int ip_len;

    if (pin && strcmp(pin, t->pin) != 0) {
        snprintf(err, err_len,
                 "%s does not fit the CertName of the derpMap (%s): clients would refuse it. Put " PIN_LINE
                 " into this node's entry, or bring the certificate of that pin back",
                 t->file, strcasecmp(pin, t->pin) == 0 ? "its digits must be lower-case" : p->cert_name,
                 t->pin);
        return TLS_FAULT_PIN;
    }
    if (name == p->host && tls_host_ip(name, ip, &ip_len))
        return TLS_FAULT_NONE;
    if (tls_cert_covers(leaf, name))
        return TLS_FAULT_NONE;
    snprintf(
        err, err_len,
        "%s is a certificate for %s, not for %s, which is the %s of the derpMap: put one for that name in "
        "its place",
        t->file, t->names[0] ? t->names : "no name at all", name, name == p->host ? "HostName" : "CertName");
    return TLS_FAULT_NAME;
}

/* Made by us at some start, or by derper in our place: all that tells these apart from a bought one is that
 * they name their address as subject and issuer. */
static bool is_made(const X509 *leaf, const char *host)
{
    char cn[64];
    uint8_t ip[16];
    int ip_len;

    tls_cert_cn(X509_get_subject_name(leaf), cn, sizeof cn);
    return tls_cert_self_issued(leaf) && tls_host_ip(host, ip, &ip_len) && strcmp(cn, host) == 0;
}

static void add_warning(char *warn, size_t warn_len, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void add_warning(char *warn, size_t warn_len, const char *fmt, ...)
{
    size_t len = strlen(warn);
    va_list ap;

    if (len > 0 && len + 2 < warn_len) {
        memcpy(warn + len, "; ", 3);
        len += 2;
    }
    va_start(ap, fmt);
    vsnprintf(warn + len, warn_len - len, fmt, ap);
    va_end(ap);
}

static void doubts(const struct tls_server *t, const struct tls_pair *pair, const struct tls_server_params *p,
                   time_t now, char *warn, size_t warn_len)
{
    int further = sk_X509_num(pair->chain);
    bool pinned = wanted_pin(p->cert_name) != NULL;
    char date[TLS_DATE_LEN];

    if (tls_server_expiring(t, now))
        add_warning(warn, warn_len, "%s expires on %s: renew it", t->file, tls_date(date, t->not_after));
    if (pair->key_exposed)
        add_warning(warn, warn_len, "everybody on this machine may read %s: chmod 0640 it", pair->key_file);
    if (pinned && further > 0)
        add_warning(warn, warn_len,
                    "only the first of %d certificates in %s is sent: clients with a pin accept no other",
                    further + 1, t->file);
    if (!pinned && t->self_issued)
        add_warning(warn, warn_len, "clients trust %s only if this node's entry in the derpMap has " PIN_LINE,
                    t->file, t->pin);
    else if (!pinned && further == 0)
        add_warning(
            warn, warn_len,
            "%s holds no intermediate certificate: unless clients know its issuer, they will refuse it "
            "(certbot: use fullchain.pem)",
            t->file);
}

/* A pair that has been read; a side is checked for its dates only.  NULL with pair->fault set. */
static struct tls_server *server_new(struct tls_pair *pair, const struct tls_server_params *p, bool side,
                                     char *err, size_t err_len)
{
    struct tls_server *t = calloc(1, sizeof *t);

    if (!t) {
        snprintf(err, err_len, "out of memory");
        return NULL;
    }
    atomic_init(&t->refs, 1);
    snprintf(t->file, sizeof t->file, "%s", pair->crt_file);
    tls_cert_pin(pair->leaf, t->pin);
    tls_cert_names(pair->leaf, t->names, sizeof t->names);
    t->self_issued = tls_cert_self_issued(pair->leaf);
    t->made = is_made(pair->leaf, p->host);
    pair->fault = TLS_FAULT_DAMAGED;
    if (tls_cert_dates(pair->leaf, &t->not_before, &t->not_after) != 0) {
        snprintf(err, err_len, "%s holds a malformed date", t->file);
    } else {
        pair->fault = check_dates(t, time(NULL), err, err_len);
        if (pair->fault == TLS_FAULT_NONE && !side)
            pair->fault = check_names(t, pair->leaf, p, err, err_len);
        if (pair->fault == TLS_FAULT_NONE)
            t->ctx = server_ctx(pair, side ? t->self_issued : wanted_pin(p->cert_name) != NULL, p->node_key,
                                err, err_len);
    }
    if (!t->ctx) {
        free(t);
        return NULL;
    }
    return t;
}

/* ---- the pairs beside the main one ---- */

/* What was served from this file before, as long as it lasts. */
static struct tls_server *former_side(const struct tls_server *former, const char *file)
{
    for (size_t i = 0; former && i < former->n_sides; i++)
        if (strcmp(former->sides[i]->file, file) == 0 && former->sides[i]->not_after > time(NULL))
            return tls_server_ref(former->sides[i]);
    return NULL;
}

static void load_side(struct tls_server *t, struct tls_pair *pair, const struct tls_server_params *p)
{
    char err[512];
    struct tls_server *side = NULL;

    if (tls_pair_read(pair, err, sizeof err) == 0)
        side = server_new(pair, p, true, err, sizeof err);
    tls_pair_free(pair);
    if (!side) {
        if (t->n_left_out++ == 0)
            snprintf(t->left_out, sizeof t->left_out, "%s", err);
        side = former_side(p->former, pair->crt_file);
    }
    if (side)
        t->sides[t->n_sides++] = side;
}

/* Their faults are no fault of the main one.  0, or -1 without memory. */
static int load_sides(struct tls_server *t, const struct tls_server_params *p)
{
    size_t n;
    struct tls_pair *pairs = tls_pairs_list(p->cert_dir, &n);

    t->sides = calloc(n + 1, sizeof *t->sides);
    for (size_t i = 0; t->sides && i < n; i++)
        if (strcmp(pairs[i].crt_file, t->file) != 0)
            load_side(t, &pairs[i], p);
    free(pairs);
    return t->sides ? tls_sni_setup(t, p) : -1;
}

static void side_doubts(const struct tls_server *t, time_t now, char *warn, size_t warn_len)
{
    char date[TLS_DATE_LEN];

    for (size_t i = 0; i < t->n_sides; i++)
        if (tls_server_expiring(t->sides[i], now))
            add_warning(warn, warn_len, "%s expires on %s: renew it", t->sides[i]->file,
                        tls_date(date, t->sides[i]->not_after));
    if (t->n_left_out == 1)
        add_warning(warn, warn_len, "left out: %s", t->left_out);
    else if (t->n_left_out > 1)
        add_warning(warn, warn_len, "%zu pairs are left out, the first: %s", t->n_left_out, t->left_out);
}

/* ---- the main one ---- */

/* Finds the pair, or makes it.  0 or -1. */
static int find_or_make(struct tls_pair *pair, const struct tls_server_params *p, char *err, size_t err_len)
{
    uint8_t ip[16];
    int ip_len, found = tls_pair_find(pair, p->cert_dir, p->host, err, err_len);

    if (found < 0)
        return -1;
    if (found > 0)
        return 0;
    if (wanted_pin(p->cert_name) && tls_host_ip(p->host, ip, &ip_len)) {
        snprintf(err, err_len,
                 "the derpMap pins a certificate for %s, but %s is not there: bring it back with its key %s, "
                 "or take "
                 "CertName out of the map, and a new one is made",
                 p->host, pair->crt_file, pair->key_file);
        return -1;
    }
    if (!p->may_make || !tls_host_ip(p->host, ip, &ip_len)) {
        snprintf(
            err, err_len,
            "no certificate for %s: put certificate and key at %s and %s, or certbot's fullchain.pem and "
            "privkey.pem at live/%s/ below %s",
            p->host, pair->crt_file, pair->key_file, p->host, p->cert_dir);
        return -1;
    }
    return tls_pair_make(pair, p->host, err, err_len);
}

struct tls_server *tls_server_load(const struct tls_server_params *p, char *err, size_t err_len, char *warn,
                                   size_t warn_len)
{
    struct tls_pair pair = {.fault = TLS_FAULT_MISSING};
    struct tls_server *t = NULL;
    uint8_t digest[TLS_DIGEST];

    err[0] = warn[0] = '\0';
    if (find_or_make(&pair, p, err, err_len) == 0) {
        tls_files_digest(p, digest);
        if (tls_pair_read(&pair, err, err_len) == 0)
            t = server_new(&pair, p, false, err, err_len);
    }
    if (t && load_sides(t, p) != 0) {
        snprintf(err, err_len, "out of memory");
        tls_server_unref(t);
        t = NULL;
    }
    if (t) {
        memcpy(t->digest, digest, sizeof digest);
        doubts(t, &pair, p, time(NULL), warn, warn_len);
        side_doubts(t, time(NULL), warn, warn_len);
    }
    if (p->fault)
        *p->fault = t ? TLS_FAULT_NONE : pair.fault;
    tls_pair_free(&pair);
    return t;
}

struct tls_server *tls_server_ref(struct tls_server *t)
{
    atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
    return t;
}

void tls_server_unref(struct tls_server *t)
{
    if (!t || atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < t->n_sides; i++)
        tls_server_unref(t->sides[i]);
    free(t->sides);
    SSL_CTX_free(t->ctx);
    free(t);
}
