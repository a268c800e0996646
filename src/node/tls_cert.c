/* Certificates: found, read, looked into; and the metacert.
 *
 * Happy path: the pair of a host is looked for in the layouts that people have (derper's <host>.crt,
 * certbot's live/<host>/), both files are read whole, parsed and found to fit together.
 * Failure: a sentence that names the file.  Contents of key files are wiped from memory and never part of a
 * message. */
#include "node/tls_cert.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/frame.h"
#include "proto/wire.h"

enum { FILE_MAX = 256 << 10, METACERT_DAYS = 30 };

static const struct {
    const char *before, *crt, *key;
} layouts[] = {
    {"", ".crt", ".key"},
    {"live/", "/fullchain.pem", "/privkey.pem"},
    {"", "/fullchain.pem", "/privkey.pem"}, /* cert_dir is certbot's live itself */
};

const char *tls_reason(char buf[static TLS_REASON_LEN])
{
    unsigned long e = ERR_peek_last_error();
    const char *text = e ? ERR_reason_error_string(e) : NULL;

    snprintf(buf, TLS_REASON_LEN, "%s", text ? text : "unknown reason");
    ERR_clear_error();
    return buf;
}

/* derper's file name of a host: only [A-Za-z0-9.-] is kept.  0 or -1 if no usable name remains. */
static int file_name(char *out, size_t out_len, const char *host)
{
    size_t n = 0;

    for (const char *p = host; *p; p++) {
        bool keep = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
                    *p == '.' || *p == '-';
        if (!keep)
            continue;
        if (n + 1 >= out_len)
            return -1;
        out[n++] = *p;
    }
    out[n] = '\0';
    return strspn(out, ".") == n ? -1 : 0; /* "", "." and ".." are no names below a directory */
}

/* 1, 0, or -1 if it cannot be told. */
static int exists(const char *path, char *err, size_t err_len)
{
    struct stat st;

    if (stat(path, &st) == 0)
        return 1;
    if (errno == ENOENT || errno == ENOTDIR)
        return 0;
    snprintf(err, err_len, "cannot look at %s: %s", path, strerror(errno));
    return -1;
}

static int set_paths(struct tls_pair *out, const char *dir, const char *name, size_t layout)
{
    int a = snprintf(out->crt_file, sizeof out->crt_file, "%s/%s%s%s", dir, layouts[layout].before, name,
                     layouts[layout].crt);
    int b = snprintf(out->key_file, sizeof out->key_file, "%s/%s%s%s", dir, layouts[layout].before, name,
                     layouts[layout].key);

    return a < (int)sizeof out->crt_file && b < (int)sizeof out->key_file ? 0 : -1;
}

int tls_pair_find(struct tls_pair *out, const char *dir, const char *host, char *err, size_t err_len)
{
    char name[256];

    out->fault = TLS_FAULT_MISSING;
    if (file_name(name, sizeof name, host) != 0) {
        snprintf(err, err_len, "HostName '%s' gives no name for a certificate file", host);
        return -1;
    }
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        int crt, key;
        if (set_paths(out, dir, name, i) != 0) {
            snprintf(err, err_len, "the path of cert_dir is too long: %.100s…", dir);
            return -1;
        }
        crt = exists(out->crt_file, err, err_len);
        key = crt < 0 ? -1 : exists(out->key_file, err, err_len);
        if (crt < 0 || key < 0) {
            out->fault = TLS_FAULT_DAMAGED;
            return -1;
        }
        if (crt && key)
            return 1;
        if (crt || key) {
            snprintf(
                err, err_len,
                "%s is there, but %s is missing: put it back (nothing is made or overwritten beside a file "
                "that is there), or move the one that is there away",
                crt ? out->crt_file : out->key_file, crt ? out->key_file : out->crt_file);
            return -1;
        }
    }
    return set_paths(out, dir, name, 0);
}

char *tls_file_read(const char *path, size_t *n, mode_t *mode, char *err, size_t err_len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    char *buf = NULL;
    struct stat st;
    ssize_t got;

    *n = 0;
    if (fd < 0 || fstat(fd, &st) != 0) {
        snprintf(err, err_len, "cannot read %s as user %u: %s", path, (unsigned)geteuid(), strerror(errno));
        goto done;
    }
    *mode = st.st_mode;
    if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX) {
        snprintf(err, err_len, "%s is no file of PEM text (at most %d KiB)", path, FILE_MAX >> 10);
        goto done;
    }
    buf = malloc(FILE_MAX);
    if (!buf) {
        snprintf(err, err_len, "out of memory");
        goto done;
    }
    while ((got = read(fd, buf + *n, FILE_MAX - *n)) > 0)
        *n += (size_t)got;
    if (got < 0) {
        snprintf(err, err_len, "cannot read %s: %s", path, strerror(errno));
        free(buf);
        buf = NULL;
    }
done:
    if (fd >= 0)
        close(fd);
    return buf;
}

/* OpenSSL would ask at the terminal. */
static int no_password(char *buf, int size, int rwflag, void *ctx)
{
    (void)buf, (void)size, (void)rwflag;
    *(bool *)ctx = true;
    return -1;
}

static int parse_chain(struct tls_pair *pair, BIO *in, char *err, size_t err_len)
{
    bool asked = false;
    X509 *cert;

    pair->leaf = PEM_read_bio_X509(in, NULL, no_password, &asked);
    pair->chain = sk_X509_new_null();
    if (!pair->leaf || !pair->chain) {
        ERR_clear_error();
        snprintf(err, err_len, "%s holds no certificate in PEM form: put a good one in its place",
                 pair->crt_file);
        return -1;
    }
    while ((cert = PEM_read_bio_X509(in, NULL, no_password, &asked)) != NULL) {
        if (sk_X509_num(pair->chain) >= TLS_CHAIN_MAX || !sk_X509_push(pair->chain, cert)) {
            X509_free(cert);
            snprintf(err, err_len, "%s holds too many certificates", pair->crt_file);
            return -1;
        }
    }
    if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
        ERR_clear_error();
        snprintf(err, err_len, "certificate %d in %s is damaged: put a good file in its place",
                 sk_X509_num(pair->chain) + 2, pair->crt_file);
        return -1;
    }
    ERR_clear_error();
    return 0;
}

static int read_chain(struct tls_pair *pair, char *err, size_t err_len)
{
    mode_t mode;
    size_t n;
    char *text = tls_file_read(pair->crt_file, &n, &mode, err, err_len);
    BIO *in = text ? BIO_new_mem_buf(text, (int)n) : NULL;
    int rc = -1;

    if (text && !in)
        snprintf(err, err_len, "out of memory");
    if (in)
        rc = parse_chain(pair, in, err, err_len);
    BIO_free(in);
    free(text);
    return rc;
}

static int read_key(struct tls_pair *pair, char *err, size_t err_len)
{
    mode_t mode = 0;
    size_t n;
    char *text = tls_file_read(pair->key_file, &n, &mode, err, err_len);
    BIO *in = text ? BIO_new_mem_buf(text, (int)n) : NULL;
    bool asked = false;

    if (in)
        pair->key = PEM_read_bio_PrivateKey(in, NULL, no_password, &asked);
    if (text && !in)
        snprintf(err, err_len, "out of memory");
    else if (asked)
        snprintf(err, err_len, "the key in %s has a password: store it without one", pair->key_file);
    else if (in && !pair->key)
        snprintf(err, err_len, "%s holds no private key in PEM form: put a good one in its place",
                 pair->key_file);
    ERR_clear_error();
    pair->key_exposed = (mode & S_IROTH) != 0;
    BIO_free(in);
    if (text)
        sodium_memzero(text, n);
    free(text);
    return pair->key ? 0 : -1;
}

int tls_pair_read(struct tls_pair *pair, char *err, size_t err_len)
{
    pair->leaf = NULL;
    pair->chain = NULL;
    pair->key = NULL;
    pair->fault = TLS_FAULT_DAMAGED;
    if (read_chain(pair, err, err_len) != 0 || read_key(pair, err, err_len) != 0)
        goto fail;
    if (X509_check_private_key(pair->leaf, pair->key) != 1) {
        ERR_clear_error();
        pair->fault = TLS_FAULT_MISMATCH;
        snprintf(err, err_len,
                 "%s does not belong to %s: they are of different pairs, put the two of one pair there",
                 pair->key_file, pair->crt_file);
        goto fail;
    }
    return 0;

fail:
    tls_pair_free(pair);
    return -1;
}

void tls_pair_free(struct tls_pair *pair)
{
    X509_free(pair->leaf);
    sk_X509_pop_free(pair->chain, X509_free);
    EVP_PKEY_free(pair->key);
    pair->leaf = NULL;
    pair->chain = NULL;
    pair->key = NULL;
}

/* As Go makes it for derper's template: v3, critical empty BasicConstraints (macOS wants them where subject
 * and issuer are the same), dates because Windows wants them; no other extension.  The CN is longer than
 * X.509's 64 characters: given as MBSTRING_ASC OpenSSL would refuse it. */
static int fill_metacert(X509 *cert, EVP_PKEY *key, const struct derp_key *node_key)
{
    char cn[sizeof TLS_METACERT_PREFIX + 2 * KEY_LEN] = TLS_METACERT_PREFIX;
    X509_NAME *name = X509_get_subject_name(cert);
    X509_EXTENSION *basic = X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, "critical,CA:FALSE");
    int ok;

    wire_hex(cn + strlen(TLS_METACERT_PREFIX), node_key->b, KEY_LEN);
    ok = basic && X509_set_version(cert, X509_VERSION_3) &&
         ASN1_INTEGER_set(X509_get_serialNumber(cert), DERP_PROTOCOL_VERSION) &&
         X509_NAME_add_entry_by_NID(name, NID_commonName, V_ASN1_PRINTABLESTRING, (const unsigned char *)cn,
                                    -1, -1, 0) &&
         X509_set_issuer_name(cert, name) &&
         X509_time_adj_ex(X509_getm_notBefore(cert), -METACERT_DAYS, 0, NULL) &&
         X509_time_adj_ex(X509_getm_notAfter(cert), METACERT_DAYS, 0, NULL) && X509_set_pubkey(cert, key) &&
         X509_add_ext(cert, basic, -1) && X509_sign(cert, key, NULL) > 0;
    X509_EXTENSION_free(basic);
    return ok ? 0 : -1;
}

X509 *tls_metacert_new(const struct derp_key *node_key)
{
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    X509 *cert = X509_new();

    if (!key || !cert || fill_metacert(cert, key, node_key) != 0) {
        X509_free(cert);
        cert = NULL;
    }
    EVP_PKEY_free(key);
    return cert;
}

bool tls_host_ip(const char *host, uint8_t ip[static 16], int *ip_len)
{
    if (inet_pton(AF_INET, host, ip) == 1)
        *ip_len = 4;
    else if (inet_pton(AF_INET6, host, ip) == 1)
        *ip_len = 16;
    else
        return false;
    return true;
}

bool tls_cert_covers(X509 *cert, const char *name)
{
    uint8_t ip[16];
    int ip_len;

    if (tls_host_ip(name, ip, &ip_len))
        return X509_check_ip(cert, ip, (size_t)ip_len, 0) == 1;
    return X509_check_host(cert, name, 0,
                           X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT,
                           NULL) == 1;
}

void tls_cert_pin(const X509 *cert, char pin[static TLS_PIN_LEN + 1])
{
    uint8_t digest[32] = {0};
    unsigned len = sizeof digest;

    X509_digest(cert, EVP_sha256(), digest, &len); /* cannot fail: SHA-256 is always there */
    wire_hex(pin, digest, sizeof digest);
}

/* A name of a stranger's certificate is shown to people: visible ASCII only, from the character least on. */
static void copy_visible(char *out, size_t out_len, const unsigned char *p, int n, unsigned char least)
{
    size_t i = 0;

    for (; n > 0 && i + 1 < out_len && i < (size_t)n; i++)
        out[i] = p[i] >= least && p[i] < 0x7f ? (char)p[i] : '?';
    out[i] = '\0';
}

void tls_cert_cn(const X509_NAME *name, char *out, size_t out_len)
{
    int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
    const ASN1_STRING *s = at < 0 ? NULL : X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at));

    copy_visible(out, out_len, s ? ASN1_STRING_get0_data(s) : NULL, s ? ASN1_STRING_length(s) : 0, ' ');
}

static void general_name(const GENERAL_NAME *gn, char *out, size_t out_len)
{
    int type;
    const ASN1_STRING *s = GENERAL_NAME_get0_value(gn, &type);
    const unsigned char *p = NULL;
    int n = 0;

    out[0] = '\0';
    if (type == GEN_DNS || type == GEN_IPADD) {
        p = ASN1_STRING_get0_data(s);
        n = ASN1_STRING_length(s);
    }
    if (type == GEN_DNS)
        copy_visible(out, out_len, p, n, '!');
    else if (type == GEN_IPADD && (n == 4 || n == 16))
        inet_ntop(n == 4 ? AF_INET : AF_INET6, p, out, (socklen_t)out_len);
}

void tls_cert_names(const X509 *cert, char *out, size_t out_len)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    char one[256];
    size_t len = 0;

    out[0] = '\0';
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        general_name(sk_GENERAL_NAME_value(names, i), one, sizeof one);
        if (one[0] == '\0')
            continue;
        if (len + strlen(one) + sizeof " …" + 1 > out_len) {
            if (len + sizeof " …" <= out_len)
                snprintf(out + len, out_len - len, " …");
            break;
        }
        len += (size_t)snprintf(out + len, out_len - len, "%s%s", len > 0 ? " " : "", one);
    }
    GENERAL_NAMES_free(names);
    if (out[0] == '\0')
        tls_cert_cn(X509_get_subject_name(cert), out, out_len);
}

bool tls_cert_self_issued(const X509 *cert)
{
    return X509_NAME_cmp(X509_get_subject_name(cert), X509_get_issuer_name(cert)) == 0;
}

int tls_cert_dates(const X509 *cert, time_t *not_before, time_t *not_after)
{
    struct tm from, to;

    if (!ASN1_TIME_to_tm(X509_get0_notBefore(cert), &from) || !ASN1_TIME_to_tm(X509_get0_notAfter(cert), &to))
        return -1;
    *not_before = timegm(&from);
    *not_after = timegm(&to);
    return 0;
}

const char *tls_date(char buf[static TLS_DATE_LEN], time_t t)
{
    struct tm tm;

    if (!gmtime_r(&t, &tm) || strftime(buf, TLS_DATE_LEN, "%Y-%m-%d %H:%M UTC", &tm) == 0)
        snprintf(buf, TLS_DATE_LEN, "a date out of range");
    return buf;
}
