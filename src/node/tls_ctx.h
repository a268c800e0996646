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

enum tls_fault {
    TLS_FAULT_NONE,
    TLS_FAULT_MISSING,
    TLS_FAULT_DAMAGED,  /* not PEM, not readable */
    TLS_FAULT_MISMATCH, /* certificate and key are of different pairs */
    TLS_FAULT_EXPIRED,
    TLS_FAULT_EARLY, /* not valid yet */
    TLS_FAULT_NAME,  /* for another name than the map's */
    TLS_FAULT_PIN,   /* not the one that the map pins */
    TLS_FAULT_EXPIRING,
    TLS_FAULT_LEFT_OUT, /* another pair in cert_dir is no good */
    TLS_FAULTS
};

enum { TLS_DIGEST = 32, TLS_SIDES_MAX = 64 };

struct tls_server;

struct tls_server_params {
    const char
        *cert_dir; /* <host>.crt and <host>.key, or certbot's live/<host>/{fullchain,privkey}.pem below it, or
                                 * certbot's live itself */
    const char *host; /* the map's HostName of this node; its file name is host reduced to [A-Za-z0-9.-] */
    const char *cert_name;           /* the map's CertName, or NULL: to check that the pin still fits */
    bool may_make;                   /* tls=auto: a missing pair is made where host is an IP address */
    const struct derp_key *node_key; /* public: the metacert says it */
    const char *ipv4, *ipv6;         /* the map's addresses of this node, or NULL */
    const struct tls_server *former; /* pairs beside the main one that are no good now are taken over from it;
                                      * NULL: they are left out */
    enum tls_fault *fault;           /* set if loading fails; NULL: nobody asks */
};

struct tls_server {
    SSL_CTX *ctx;   /* TLS 1.2 and 1.3, the metacert last in the chain; knows the sides, by SNI */
    char file[512]; /* certificate file */
    bool made;      /* for an IP address: by us, at any start, or by derper */
    bool self_issued;
    char names[512]; /* SANs (or CN), blank-separated */
    time_t not_before, not_after;
    char pin[65];               /* lower-case hex SHA-256 of the certificate */
    uint8_t digest[TLS_DIGEST]; /* of all files that it was made of, taken before they were read */
    struct tls_server **sides;  /* the other pairs in cert_dir, for their own names */
    size_t n_sides, n_left_out; /* n_left_out: those that are no good */
    char left_out[512];         /* what is wrong with the first of them; "" */
    _Atomic int refs;
};

/* Loads (or makes) and checks: pair fits, dates, names, the map's pin.  An expired certificate or one that
 * does not fit the name or pin is refused with a sentence in err that says which file and what to do.
 * Doubts that do not prevent serving (it expires soon; several certificates with a pin; another pair in
 * cert_dir that is no good) go to warn, "" if none.
 *
 * Which certificate a client gets: the one for the name that it asks for (whole name before wildcard; the main
 * one before others), the main one for an unknown name.  Who asks for no name dialled an address: the
 * certificate for the node's own address if HostName is a DNS name and there is such a pair, else the main one. */
struct tls_server *tls_server_load(const struct tls_server_params *p, char *err, size_t err_len, char *warn,
                                   size_t warn_len);
struct tls_server *tls_server_ref(struct tls_server *t); /* any thread */
void tls_server_unref(struct tls_server *t);             /* any thread */

/* Makes a self-signed pair for host (a DNS name or an IP address) that lasts ten years, below dir in derper's layout,
 * never over files that are there.  crt gets the name of the certificate's file, pin its pin.  0 or -1. */
int tls_made_new(const char *dir, const char *host, char crt[static 512], char pin[static 65], char *err,
                 size_t err_len);
/* Digest over names and contents of all files that tls_server_load would look at now. */
void tls_files_digest(const struct tls_server_params *p, uint8_t out[static TLS_DIGEST]);
/* The directories in which a change of these files shows: calls dir for each once. */
void tls_files_dirs(const struct tls_server_params *p, void (*dir)(void *ctx, const char *path), void *ctx);
/* Whether it is time to renew: 14 days before the end, 3 for certificates that live less than 10. */
bool tls_server_expiring(const struct tls_server *t, time_t now);
/* "expired", "mismatch": the kind in the metric. */
const char *tls_fault_name(enum tls_fault fault);

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
