/* What the contexts of both directions have in common, and the choice by name.  For the tls files only. */
#ifndef DERPMESH_NODE_TLS_COMMON_H
#define DERPMESH_NODE_TLS_COMMON_H

#include <openssl/ssl.h>

#include "node/tls_ctx.h"

/* Versions, ciphers, curves, and what is switched off for memory and safety.  0 or -1. */
int tls_common_setup(SSL_CTX *ctx);

/* Makes t's context hand a client over to the side whose certificate it asks for.  0 or -1 (no memory). */
int tls_sni_setup(struct tls_server *t, const struct tls_server_params *p);

#endif
