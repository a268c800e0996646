/* The derpMap: regions and nodes, the only list of nodes there is.  Three spellings are read
 * (Tailscale's DERPMap JSON, a whole tailnet policy in HuJSON, Headscale's YAML), all written.
 *
 * Source: tailscale.com/tailcfg/derpmap.go; juanfont/headscale hscontrol/derp.
 * Ownership: derpmap_parse allocates one struct derpmap; derpmap_free ends it and all strings in it.
 * Thread: immutable once parsed, so any thread may read it. */
#ifndef DERPMESH_PROTO_DERPMAP_H
#define DERPMESH_PROTO_DERPMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/hujson.h"

enum derpmap_format { DERPMAP_JSON, DERPMAP_POLICY, DERPMAP_HEADSCALE };

enum { DERPMAP_MAX_REGIONS = 1024, DERPMAP_MAX_NODES = 4096 };

struct derpmap_node {
    char *name; /* Name as written */
    char *id;   /* what we call the node: Name if it is unique in the map, else "REGION/NAME" */
    int region_id;
    char *host_name;   /* as written, punycode not applied */
    char *cert_name;   /* NULL if absent; "sha256-raw:<hex>" is a pin */
    char *ipv4, *ipv6; /* NULL if absent; "none" disables the family */
    int stun_port;     /* as written: 0 = 3478, -1 = off */
    int derp_port;     /* as written: 0 = 443 */
    bool stun_only, insecure_for_tests, can_port80;
    char *stun_test_ip;
    bool backup;   /* another node's listing: same HostName and DERPPort as an earlier node, STUNPort -1 */
    int line, col; /* where it stands in the file */
};

struct derpmap_region {
    int id;
    bool removed;      /* "1": null */
    char *code, *name; /* "" if absent */
    double latitude, longitude;
    bool has_location, avoid, no_measure_no_home;
    double score;                /* HomeParams.RegionScore, 0 if none */
    struct derpmap_node **nodes; /* into derpmap.nodes */
    int n_nodes;
    int line, col;
};

struct derpmap {
    enum derpmap_format format;
    bool omit_default_regions;
    struct derpmap_region *regions; /* ascending by id */
    int n_regions;
    struct derpmap_node *nodes; /* in file order */
    int n_nodes;
    uint8_t hash[32]; /* BLAKE2b over the canonical form: equal for equal maps in any spelling */
};

/* Parses any of the three spellings (told apart by content; a file name is not needed).
 * NULL with the first error.  Things that are legal but doubtful are for derpmap_lint. */
struct derpmap *derpmap_parse(const char *text, size_t n, struct text_error *err);
void derpmap_free(struct derpmap *m);

/* The node called so: by id, else by the name it has in exports ("900-1" and "900/1" find each other).
 * Backups are never found.  NULL if none. */
const struct derpmap_node *derpmap_find(const struct derpmap *m, const char *name);
const struct derpmap_region *derpmap_region_of(const struct derpmap *m, int region_id);
static inline int derpmap_derp_port(const struct derpmap_node *n)
{
    return n->derp_port ? n->derp_port : 443;
}
static inline int derpmap_stun_port(const struct derpmap_node *n) /* -1: no STUN */
{
    return n->stun_port ? n->stun_port : 3478;
}
/* Whether two nodes, of two maps, are reached in the same way (address, port, certificate). */
bool derpmap_node_same(const struct derpmap_node *a, const struct derpmap_node *b);

/* A pin: 0 with the SHA-256 over the DER certificate; -1 if CertName is no well-formed pin (lower-case
 * hex). */
int derpmap_pin(const struct derpmap_node *n, uint8_t sha256[static 32]);

struct derpmap_finding {
    bool error; /* else a warning */
    struct text_error at;
};
/* Calls report once a finding, in file order.  Returns the number of errors. */
int derpmap_lint(const struct derpmap *m, void (*report)(void *ctx, const struct derpmap_finding *f),
                 void *ctx);

enum derpmap_to { DERPMAP_TO_TAILSCALE, DERPMAP_TO_HEADSCALE, DERPMAP_TO_JSON };
/* A region that lists a node otherwise than the map says. */
struct derpmap_listing {
    int region_id;
    const struct derpmap_node *node; /* of this map, of whichever region */
    bool no_stun;                    /* STUNPort -1 */
};
struct derpmap_changes {
    const struct derpmap_listing
        *listings; /* by region: in this order behind, or instead of, its own nodes */
    int n;
    bool instead; /* the regions list nothing else */
    const char
        *note; /* a comment at the top, where the spelling has comments; lines end with \n but the last */
};
/* derpmap_export with changes (NULL: none).  A node of another region is listed as "REGION-NAME". */
char *derpmap_export_changed(const struct derpmap *m, enum derpmap_to to,
                             const struct derpmap_changes *changes);

/* The map as text to paste (malloc'd, NUL-terminated; the caller frees): HuJSON for under `derpMap`,
 * Headscale's derp.yaml, or plain DERPMap JSON.  Names come out unique ("900-1").  NULL without memory. */
char *derpmap_export(const struct derpmap *m, enum derpmap_to to);

#endif
