/* Certificates and TLS contexts: what we serve, and what we demand of a node that we dial.
 *
 * Source: cmd/derper/cert.go (layout, made certificates), derpserver's
 * MetaCert (fast start), net/tlsdial (how clients check a CertName).
 * A struct tls_server is immutable and counted: workers and connections of an older one go on with it. */
#ifndef DERPMESH_NODE_TLS_CTX_H
#define DERPMESH_NODE_TLS_CTX_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "proto/derpmap.h"
#include "proto/key.h"

struct tls_server_params {
    const char
        *cert_dir; /* <host>.crt and <host>.key, or certbot's live/<host>/{fullchain,privkey}.pem below it, or
                                 * certbot's live itself */
    const char *host; /* the map's HostName of this node; its file name is host reduced to [A-Za-z0-9.-] */
    const char *cert_name;           /* the map's CertName, or NULL: to check that the pin still fits */
    bool may_make;                   /* tls=auto: a missing pair is made where host is an IP address */
    const struct derp_key *node_key; /* public: the metacert says it */
};

struct tls_server {
    SSL_CTX *ctx;    /* TLS 1.2 and 1.3, the metacert last in the chain */
    char file[512];  /* certificate file */
    bool made;       /* for an IP address: by us, at any start, or by derper */
    char names[512]; /* SANs (or CN), blank-separated */
    time_t not_before, not_after;
    char pin[65]; /* lower-case hex SHA-256 of the certificate */
    _Atomic int refs;
};

/* Loads (or makes) and checks: pair fits, dates, names, the map's pin.  An expired certificate or one that
 * does not fit the name or pin is refused with a sentence in err that says which file and what to do.
 * Doubts that do not prevent serving (expires within 14 days; several certificates with a pin) go to warn, ""
 * if none. */
struct tls_server *tls_server_load(const struct tls_server_params *p, char *err, size_t err_len, char *warn,
                                   size_t warn_len);
struct tls_server *tls_server_ref(struct tls_server *t); /* any thread */
void tls_server_unref(struct tls_server *t);             /* any thread */

/* The context for connections to other nodes: verification is per connection, by tls_client_prepare.
 * Trusts the system's CAs (SSL_CERT_FILE, SSL_CERT_DIR are honoured).  NULL with err. */
SSL_CTX *tls_client_ctx_new(char *err, size_t err_len);
/* Sets SNI (HostName, unless it is an IP) and what is to be verified.  What the map demands: pin on
 * certificate 0 (CertName sha256-raw), CertName instead of HostName as the name to verify, HostName against
 * the CA, or nothing (InsecureForTests without CertName).  With an IP as HostName and without CertName the
 * chain is checked and the name is not, as stock clients do.  0 or -1. */
int tls_client_prepare(SSL *ssl, const struct derpmap_node *node);
/* After the handshake failed or succeeded: 0 if the other side is the one the map names, else -1 with a
 * sentence. The handshake itself lets everybody through: before this said 0 nothing of ours may be sent or
 * believed. */
int tls_client_verified(SSL *ssl, const struct derpmap_node *node, char *err, size_t err_len);
/* The public key in a metacert ("derpkey<hex>" as last certificate of the peer's chain): 0 or -1. */
int tls_peer_metacert(SSL *ssl, struct derp_key *key);

/* 32 bytes that only the two ends of this TLS connection know.  0, or -1 (before the end of the handshake, or
 * TLS 1.2 without extended master secret). */
int tls_exporter(SSL *ssl, uint8_t out[static 32]);

#endif
