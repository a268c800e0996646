/* Making certificates that clients know by their pin: for a node that has only an IP address, or by command.
 *
 * Happy path: a P-256 key and a self-signed certificate for the address are written to temporary files beside
 * their final names, synced, and linked there: key first, then certificate.
 * Failure: link(2) refuses to replace a file, so nothing that is there is ever overwritten; what was linked
 * before a failure is taken away again, temporary files too.
 *
 * Ten years, because clients pin this certificate: each new one must be pasted into the derpMap.  Clients
 * with a pin set no limit to its life. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/tls_cert.h"

enum { MADE_DAYS = 3652, TEMP_MAX = TLS_PATH_MAX + 8 };

static int add_ext(X509 *cert, int nid, const char *value)
{
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    int ok = ext && X509_add_ext(cert, ext, -1);

    X509_EXTENSION_free(ext);
    return ok;
}

/* SAN with one address or name.  Built by hand: as text it would be parsed by rules that no name of ours should
 * meet. */
static int add_san(X509 *cert, const char *host)
{
    uint8_t ip[16];
    int ip_len;
    bool is_ip = tls_host_ip(host, ip, &ip_len);
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    GENERAL_NAME *gn = GENERAL_NAME_new();
    ASN1_STRING *value = ASN1_STRING_type_new(is_ip ? V_ASN1_OCTET_STRING : V_ASN1_IA5STRING);
    int ok = names && gn && value &&
             ASN1_STRING_set(value, is_ip ? (const void *)ip : host, is_ip ? ip_len : (int)strlen(host));

    if (ok) {
        GENERAL_NAME_set0_value(gn, is_ip ? GEN_IPADD : GEN_DNS, value);
        value = NULL;
        ok = sk_GENERAL_NAME_push(names, gn) > 0;
        if (ok)
            gn = NULL;
    }
    ok = ok && X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, 0) == 1;
    ASN1_STRING_free(value);
    GENERAL_NAME_free(gn);
    GENERAL_NAMES_free(names);
    return ok;
}

static int add_serial(X509 *cert)
{
    BIGNUM *serial = BN_new();
    int ok = serial && BN_rand(serial, 127, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) &&
             BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(cert));

    BN_free(serial);
    return ok;
}

static X509 *self_signed(EVP_PKEY *key, const char *host)
{
    X509 *cert = X509_new();
    X509_NAME *name = cert ? X509_get_subject_name(cert) : NULL;
    /* X.509 has 64 characters for a CN; clients look at the SAN alone. */
    int ok = cert && X509_set_version(cert, X509_VERSION_3) && add_serial(cert) &&
             X509_NAME_add_entry_by_NID(name, NID_commonName, MBSTRING_ASC, (const unsigned char *)host,
                                        strlen(host) > 64 ? 64 : -1, -1, 0) &&
             X509_set_issuer_name(cert, name) &&
             /* A day back, for clients whose clock is behind. */
             X509_time_adj_ex(X509_getm_notBefore(cert), -1, 0, NULL) &&
             X509_time_adj_ex(X509_getm_notAfter(cert), MADE_DAYS, 0, NULL) && X509_set_pubkey(cert, key) &&
             add_ext(cert, NID_basic_constraints, "critical,CA:FALSE") &&
             add_ext(cert, NID_key_usage, "critical,digitalSignature") &&
             add_ext(cert, NID_ext_key_usage, "serverAuth") && add_san(cert, host) &&
             X509_sign(cert, key, EVP_sha256()) > 0;

    if (!ok) {
        X509_free(cert);
        return NULL;
    }
    return cert;
}

/* Every directory of path down to its last '/'.  0 or -1 with errno. */
static int make_dirs(const char *path)
{
    char dir[TLS_PATH_MAX];

    for (const char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
        snprintf(dir, sizeof dir, "%.*s", (int)(p - path), path);
        if (mkdir(dir, 0700) != 0 && errno != EEXIST)
            return -1;
    }
    return 0;
}

/* What is in mem, in a new file beside path.  0 and its name in temp, or -1 with errno and no file. */
static int write_temp(char temp[static TEMP_MAX], const char *path, mode_t mode, BIO *mem)
{
    char *p;
    long left = BIO_get_mem_data(mem, &p);
    int fd, err;

    snprintf(temp, TEMP_MAX, "%s.XXXXXX", path);
    fd = mkostemp(temp, O_CLOEXEC);
    if (fd < 0) {
        temp[0] = '\0';
        return -1;
    }
    if (fchmod(fd, mode) != 0)
        goto fail;
    while (left > 0) {
        ssize_t n = write(fd, p, (size_t)left);
        if (n < 0)
            goto fail;
        p += n;
        left -= n;
    }
    if (fsync(fd) != 0)
        goto fail;
    close(fd);
    return 0;

fail:
    err = errno;
    close(fd);
    unlink(temp);
    temp[0] = '\0';
    errno = err;
    return -1;
}

static void sync_dir(const char *path)
{
    char dir[TLS_PATH_MAX];
    int fd;

    snprintf(dir, sizeof dir, "%.*s", (int)(strrchr(path, '/') - path), path);
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

/* Both files or none.  0 or -1 with errno. */
static int write_pair(const struct tls_pair *pair, BIO *crt, BIO *key)
{
    char crt_temp[TEMP_MAX] = "", key_temp[TEMP_MAX] = "";
    int rc = -1, err;

    if (write_temp(key_temp, pair->key_file, 0600, key) == 0 &&
        write_temp(crt_temp, pair->crt_file, 0644, crt) == 0 && link(key_temp, pair->key_file) == 0) {
        rc = link(crt_temp, pair->crt_file);
        err = errno;
        if (rc != 0)
            unlink(pair->key_file);
        errno = err;
    }
    err = errno;
    if (key_temp[0])
        unlink(key_temp);
    if (crt_temp[0])
        unlink(crt_temp);
    if (rc == 0)
        sync_dir(pair->crt_file);
    errno = err;
    return rc;
}

int tls_pair_make(const struct tls_pair *pair, const char *host, char *err, size_t err_len)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = key ? self_signed(key, host) : NULL;
    BIO *crt_pem = BIO_new(BIO_s_mem()), *key_pem = BIO_new(BIO_s_mem()); /* wiped when freed */
    char reason[TLS_REASON_LEN];
    int rc = -1;

    if (!cert || !crt_pem || !key_pem || !PEM_write_bio_X509(crt_pem, cert) ||
        !PEM_write_bio_PrivateKey(key_pem, key, NULL, NULL, 0, NULL, NULL))
        snprintf(err, err_len, "cannot make a certificate for %s: %s", host, tls_reason(reason));
    else if (make_dirs(pair->crt_file) != 0 || write_pair(pair, crt_pem, key_pem) != 0)
        snprintf(err, err_len, "cannot write %s and its key as user %u: %s", pair->crt_file,
                 (unsigned)geteuid(), strerror(errno));
    else
        rc = 0;
    BIO_free(crt_pem);
    BIO_free(key_pem);
    X509_free(cert);
    EVP_PKEY_free(key);
    return rc;
}

/* Labels of letters, digits and hyphens: what can stand as HostName and in a file's name. */
static bool is_dns_name(const char *host)
{
    size_t n = strlen(host), label = 0;

    for (size_t i = 0; i < n; i++) {
        bool word = (host[i] >= 'a' && host[i] <= 'z') || (host[i] >= '0' && host[i] <= '9') ||
                    (host[i] >= 'A' && host[i] <= 'Z');
        if (host[i] == '.' ? label == 0 : !word && (host[i] != '-' || label == 0))
            return false;
        label = host[i] == '.' ? 0 : label + 1;
        if (label > 63)
            return false;
    }
    return n <= 253 && label > 0;
}

int tls_made_new(const char *dir, const char *host, char crt[static 512], char pin[static 65], char *err,
                 size_t err_len)
{
    struct tls_pair pair = {0};
    uint8_t ip[16];
    int ip_len, found;

    if (!tls_host_ip(host, ip, &ip_len) && !is_dns_name(host)) {
        snprintf(err, err_len, "%s is neither an IP address nor a DNS name", host);
        return -1;
    }
    found = tls_pair_find(&pair, dir, host, err, err_len);
    if (found > 0)
        snprintf(err, err_len, "%s is there already and is never overwritten", pair.crt_file);
    if (found != 0 || tls_pair_make(&pair, host, err, err_len) != 0 ||
        tls_pair_read(&pair, err, err_len) != 0)
        return -1;
    snprintf(crt, 512, "%s", pair.crt_file);
    tls_cert_pin(pair.leaf, pin);
    tls_pair_free(&pair);
    return 0;
}
