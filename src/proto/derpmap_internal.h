/* Inside of the derpMap's files: what is kept beside the public struct, and the steps of reading.
 *
 * derpmap.c tells the spelling and drives: derpmap_yaml.c makes the same tree of Headscale's YAML that
 * hujson.c makes of the others; derpmap_read.c (with derpmap_fields.c) turns the tree into regions and
 * nodes; derpmap_resolve.c looks across entries (ids, backups, duplicates, hash).  derpmap_lint.c and
 * derpmap_export.c work on the finished map. */
#ifndef DERPMESH_PROTO_DERPMAP_INTERNAL_H
#define DERPMESH_PROTO_DERPMAP_INTERNAL_H

#include "proto/derpmap.h"
#include "proto/hujson_internal.h"

enum {
    DERPMAP_MAX_YAML = 1 << 20,
    DERPMAP_MAX_NAME = 64, /* bytes of a node's Name: it goes into links, logs and metrics */
    DERPMAP_MAX_HOST = 253,
    DERPMAP_MAX_NOTES = 200
};

/* From 1; 0 where the field is not in the file. */
struct derpmap_pos {
    int line, col;
};

enum node_field {
    NODE_NAME,
    NODE_REGION_ID,
    NODE_HOST_NAME,
    NODE_CERT_NAME,
    NODE_IPV4,
    NODE_IPV6,
    NODE_STUN_PORT,
    NODE_STUN_ONLY,
    NODE_DERP_PORT,
    NODE_INSECURE_FOR_TESTS,
    NODE_STUN_TEST_IP,
    NODE_CAN_PORT80,
    NODE_FIELDS
};

enum region_field {
    REGION_ID,
    REGION_CODE,
    REGION_NAME,
    REGION_LATITUDE,
    REGION_LONGITUDE,
    REGION_AVOID,
    REGION_NO_MEASURE_NO_HOME,
    REGION_NODES,
    REGION_FIELDS
};

/* What lint needs of a node and of a region besides the public struct. */
struct node_extra {
    struct derpmap_pos pos[NODE_FIELDS];
    const char *export_name;         /* unique in the map */
    const struct derpmap_node *twin; /* the earlier listing of the same node, if this is another one */
};
struct region_extra {
    struct derpmap_pos pos[REGION_FIELDS];
};

/* A score for a region that the map does not list (one of Tailscale's own). */
struct derpmap_score {
    int region_id;
    double score;
};

/* The whole of a parsed map; callers hold &full->map, its first member. */
struct derpmap_full {
    struct derpmap map;
    struct text_arena arena;
    struct node_extra *node_extra;     /* by the node's index */
    struct region_extra *region_extra; /* by the region's index */
    struct derpmap_score *scores;      /* ascending by region */
    int n_scores;
    struct derpmap_pos omit_pos, home_params_pos;
    struct derpmap_finding *notes; /* of fields that reading had to pass over, in no order */
    int n_notes;
};

static inline const struct derpmap_full *derpmap_full(const struct derpmap *m)
{
    return (const struct derpmap_full *)(const void *)m;
}
static inline const struct node_extra *derpmap_node_extra(const struct derpmap *m,
                                                          const struct derpmap_node *n)
{
    return &derpmap_full(m)->node_extra[n - m->nodes];
}

/* YAML as the same tree as HuJSON's, offsets in bytes.  Scalars of any type keep their text in .str. */
struct hujson_doc *derpmap_yaml_parse(const char *text, size_t n, struct text_error *err);

/* Fills full->map from the tree at root, which stands in text[n].  0, or -1 with *err. */
int derpmap_read(struct derpmap_full *full, const struct hujson *root, const char *text, size_t n, bool yaml,
                 struct text_error *err);

/* Ids, backups, export names and the hash of a map that has been read.  0, or -1 with *err. */
int derpmap_resolve(struct derpmap_full *full, struct text_error *err);

/* Strings to their first user: open addressing, sized once for at most n keys, which are not copied. */
struct name_entry {
    uint64_t hash;
    const char *key;
    int first, count;
};
struct name_table {
    struct name_entry *entries;
    size_t mask;
};
int name_table_init(struct name_table *t, struct text_arena *a, size_t n);
/* The entry of key; made with first = value and count = 0 if there was none. */
struct name_entry *name_table_put(struct name_table *t, const char *key, int value);

#endif
