/* What a node serves right now: map, keys, certificate, limits, bundled, immutable and counted.
 *
 * A reload makes a new site and hands every worker a reference (IN_SITE); connections made under the old one
 * go on, and the last of them frees it. */
#ifndef DERPMESH_NODE_SITE_H
#define DERPMESH_NODE_SITE_H

#include <stdatomic.h>
#include <stddef.h>

#include "node/allow.h"
#include "node/config.h"
#include "node/keystore.h"
#include "node/tls_ctx.h"
#include "mesh/mesh.h"
#include "proto/derpmap.h"
#include "proto/key.h"

enum site_peer {
    SITE_PEER_UNKNOWN, /* ourselves, a backup listing, no mesh */
    SITE_PEER_UP,      /* its link is up, or it is reached over another node */
    SITE_PEER_SILENT,  /* it has none, or it has fallen silent */
};

struct site {
    _Atomic int refs;
    const struct config *config; /* lives as long as the process runs on it: owned here */
    struct derpmap *map;
    const struct derpmap_node *self; /* in map */
    struct key_pair node_key;        /* secret */
    struct mesh_keys mesh_keys;      /* secret; n = 0: no mesh */
    struct mesh_keys derper_key;     /* secret; one, or n = 0: no real derper knows us */
    struct keystore_peers pins;      /* of mesh_pins; the same ones, as the mesh takes them: */
    struct mesh_pin *mesh_pins;
    struct tls_server *tls; /* NULL: tls=off */
    SSL_CTX *dial_ctx;      /* for links that we dial */
    /* For each node of map, enum site_peer: as the control thread last saw it.  Any thread reads. */
    _Atomic uint8_t *peers;
    struct allow_set *allow; /* as it was when this was loaded; NULL: no allow file */
    char node_key_hex[65];
    struct site *base; /* whose config, map and dial_ctx these are, counted; NULL: our own */
};

/* Loads map, keys, certificate as the config says; config belongs to the site from now on, also on failure.
 * NULL with a sentence in err.  warn: doubts that do not prevent serving, one a line, "" if none. */
struct site *site_load(struct config *config, char *err, size_t err_len, char *warn, size_t warn_len);
/* Calls line for each line of such a warning; text is changed. */
void site_warn_lines(char *text, void (*line)(void *ctx, const char *text), void *ctx);
/* Its parts, for checks.  A map file (≤ 4 MiB) with errors of parsing or lint is refused: "FILE:LINE:COL:
 * …". */
struct derpmap *site_map_load(const char *file, char *err, size_t err_len, char *warn, size_t warn_len);
/* This node in the map: the one called name; without a name the only one, or the only one with an address of
 * this machine.  NULL with a sentence that lists the names there are. */
const struct derpmap_node *site_find_self(const struct derpmap *map, const char *name, char *err,
                                          size_t err_len);
/* What to load a certificate for this node by; borrows all it points to. */
struct tls_server_params site_tls_params(const struct config *c, const struct derpmap_node *self,
                                         const struct derp_key *node_key);

/* A site that differs in its certificate alone; tls belongs to it from now on, also on failure.  NULL without
 * memory. */
struct site *site_with_tls(struct site *like, struct tls_server *tls);

/* Whether that node of the map is a real derper (derper_peers), which is no node of our mesh. */
bool site_is_derper(const struct site *s, const struct derpmap_node *node);

struct site *site_ref(struct site *s); /* any thread */
void site_unref(struct site *s);       /* any thread; NULL is nothing */

#endif
