/* What the contexts of both directions have in common.  For tls_ctx.c and tls_client.c only. */
#ifndef DERPMESH_NODE_TLS_COMMON_H
#define DERPMESH_NODE_TLS_COMMON_H

#include <openssl/ssl.h>

/* Versions, ciphers, curves, and what is switched off for memory and safety.  0 or -1. */
int tls_common_setup(SSL_CTX *ctx);

#endif
