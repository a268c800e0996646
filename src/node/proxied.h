/* Connections that come through a proxy: whom to believe, and what it says of the client. */
#ifndef DERPMESH_NODE_PROXIED_H
#define DERPMESH_NODE_PROXIED_H

#include <stdbool.h>

#include "node/conn.h"
#include "proto/http1.h"

struct config;

/* Whether a is one of trusted_proxies. */
bool proxied_trusted(const struct config *cfg, const struct conn_addr *a);
/* The address that a head names: the last of X-Forwarded-For (the proxy's own word), else X-Real-IP; port 0.
 * False if it names none. */
bool proxied_forwarded(struct conn_addr *out, const struct http1_head *head);

/* With proxy_protocol on: whether the first bytes of a connection from a are to be looked at, and what they are.
 * > 0: a header's length (*a is the client's address now, if it names one); 0: more is needed; < 0: *why says why
 * the connection must not go on.  PROXIED_NOTHING: no header, from someone who need not send one. */
enum { PROXIED_NOTHING = 1 << 30 };
int proxied_header(const struct config *cfg, struct conn_addr *a, const uint8_t *buf, size_t n,
                   const char **why);

#endif
