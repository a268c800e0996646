/* Certificate files and what can be read in a certificate: the part of tls_ctx that works on files, not on
 * connections.
 *
 * For tls_ctx.c and tls_client.c only.  Thread: any; nothing is kept.  err always gets one sentence on
 * failure. */
#ifndef DERPMESH_NODE_TLS_CERT_H
#define DERPMESH_NODE_TLS_CERT_H

#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "node/tls_ctx.h"
#include "proto/key.h"

enum { TLS_PATH_MAX = 512, TLS_PIN_LEN = 64, TLS_DATE_LEN = 32, TLS_REASON_LEN = 200, TLS_CHAIN_MAX = 10 };

#define TLS_PIN_PREFIX      "sha256-raw:"
#define TLS_METACERT_PREFIX "derpkey"

/* A certificate file and its key file.  Owner: whoever loaded it, until tls_pair_free. */
struct tls_pair {
    char crt_file[TLS_PATH_MAX], key_file[TLS_PATH_MAX];
    X509 *leaf;
    STACK_OF(X509) * chain; /* what follows the leaf in the file */
    EVP_PKEY *key;
    bool key_exposed;     /* others than owner and group may read the key file */
    enum tls_fault fault; /* of what failed last */
};

/* Looks for the pair of a host below dir, in derper's layout and in certbot's.
 * 1: both files are there (names set); 0: none is (names set to where derper's layout has them); -1: one is
 * missing, or they cannot be looked at. */
int tls_pair_find(struct tls_pair *out, const char *dir, const char *host, char *err, size_t err_len);
/* Makes the pair for a host (IP address or DNS name) under the names that are set: P-256, ten years.  Never
 * overwrites; both files or none. 0 or -1. */
int tls_pair_make(const struct tls_pair *pair, const char *host, char *err, size_t err_len);
/* Reads the files; whether they fit together is checked too.  0, or -1 (then there is nothing to free). */
int tls_pair_read(struct tls_pair *pair, char *err, size_t err_len);
void tls_pair_free(struct tls_pair *pair);
/* The names of all pairs below dir, in any layout, sorted; a file without its other half is none.
 * At most TLS_SIDES_MAX + 1, malloc'd; NULL with *n = 0 if there are none. */
struct tls_pair *tls_pairs_list(const char *dir, size_t *n);
/* A whole file, malloc'd; *n its length.  To be wiped if it is secret, and freed.  NULL with a sentence. */
char *tls_file_read(const char *path, size_t *n, mode_t *mode, char *err, size_t err_len);

/* The certificate that says a node's key to clients (derpserver's MetaCert), self-signed by a key that is
 * thrown away. NULL without memory. */
X509 *tls_metacert_new(const struct derp_key *node_key);

/* True and the address in network order if host is an IP address. */
bool tls_host_ip(const char *host, uint8_t ip[static 16], int *ip_len);
/* Whether a certificate is good for a name or IP address, as Go's VerifyHostname sees it: SAN only,
 * whole-label wildcards. */
bool tls_cert_covers(X509 *cert, const char *name);
/* Lower-case hex of SHA-256 over the certificate. */
void tls_cert_pin(const X509 *cert, char pin[static TLS_PIN_LEN + 1]);
/* SANs, else the CN, blank-separated, with "…" if there are more than fit. */
void tls_cert_names(const X509 *cert, char *out, size_t out_len);
/* The CN; "" if there is none. */
void tls_cert_cn(const X509_NAME *name, char *out, size_t out_len);
bool tls_cert_self_issued(const X509 *cert);
/* 0, or -1 if a date is malformed. */
int tls_cert_dates(const X509 *cert, time_t *not_before, time_t *not_after);
/* "2026-11-23 06:24 UTC" */
const char *tls_date(char buf[static TLS_DATE_LEN], time_t t);
/* Why OpenSSL failed last, in its words; empties its queue. */
const char *tls_reason(char buf[static TLS_REASON_LEN]);

#endif
