/* From the tree of a file to regions and nodes.
 *
 * Happy path: derpmap_read finds the derpMap in the tree, sorts its regions by number, and reads regions
 * and nodes in file order through two tables of fields.  Where each field stands is kept for lint.
 * It fails at the first value of a wrong type or range and at the first missing number or name, at that
 * value's line and column.  Work is linear in the file, but for sorting the regions. */
#include "proto/derpmap_fields.h"

#include <arpa/inet.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NODE_FIELD(kind, member)   kind, offsetof(struct derpmap_node, member)
#define REGION_FIELD(kind, member) kind, offsetof(struct derpmap_region, member)

static const struct field node_fields[NODE_FIELDS] = {
    [NODE_NAME] = {"Name", NODE_FIELD(FIELD_STRING, name)},
    [NODE_REGION_ID] = {"RegionID", NODE_FIELD(FIELD_INT, region_id)},
    [NODE_HOST_NAME] = {"HostName", NODE_FIELD(FIELD_STRING, host_name)},
    [NODE_CERT_NAME] = {"CertName", NODE_FIELD(FIELD_STRING, cert_name)},
    [NODE_IPV4] = {"IPv4", NODE_FIELD(FIELD_STRING, ipv4)},
    [NODE_IPV6] = {"IPv6", NODE_FIELD(FIELD_STRING, ipv6)},
    [NODE_STUN_PORT] = {"STUNPort", NODE_FIELD(FIELD_INT, stun_port)},
    [NODE_STUN_ONLY] = {"STUNOnly", NODE_FIELD(FIELD_BOOL, stun_only)},
    [NODE_DERP_PORT] = {"DERPPort", NODE_FIELD(FIELD_INT, derp_port)},
    [NODE_INSECURE_FOR_TESTS] = {"InsecureForTests", NODE_FIELD(FIELD_BOOL, insecure_for_tests)},
    [NODE_STUN_TEST_IP] = {"STUNTestIP", NODE_FIELD(FIELD_STRING, stun_test_ip)},
    [NODE_CAN_PORT80] = {"CanPort80", NODE_FIELD(FIELD_BOOL, can_port80)},
};

static const struct field region_fields[REGION_FIELDS] = {
    [REGION_ID] = {"RegionID", FIELD_OTHER, 0},
    [REGION_CODE] = {"RegionCode", REGION_FIELD(FIELD_STRING, code)},
    [REGION_NAME] = {"RegionName", REGION_FIELD(FIELD_STRING, name)},
    [REGION_LATITUDE] = {"Latitude", REGION_FIELD(FIELD_FLOAT, latitude)},
    [REGION_LONGITUDE] = {"Longitude", REGION_FIELD(FIELD_FLOAT, longitude)},
    [REGION_AVOID] = {"Avoid", REGION_FIELD(FIELD_BOOL, avoid)},
    [REGION_NO_MEASURE_NO_HOME] = {"NoMeasureNoHome", REGION_FIELD(FIELD_BOOL, no_measure_no_home)},
    [REGION_NODES] = {"Nodes", FIELD_OTHER, 0},
};

enum map_field { MAP_REGIONS, MAP_OMIT, MAP_HOME_PARAMS, MAP_FIELDS };
static const struct field map_fields[MAP_FIELDS] = {
    [MAP_REGIONS] = {"Regions", FIELD_OTHER, 0},
    [MAP_OMIT] = {"OmitDefaultRegions", FIELD_BOOL, offsetof(struct derpmap, omit_default_regions)},
    [MAP_HOME_PARAMS] = {"HomeParams", FIELD_OTHER, 0},
};

static const struct field score_fields[] = {{"RegionScore", FIELD_OTHER, 0}};

static bool is_host_byte(unsigned char c)
{
    return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '.' || c == '-' ||
           c == '_' || c >= 0x80;
}

static int check_host(struct reader *r, const struct hujson *v, const char *host)
{
    char q[TEXT_QUOTE_MAX], name[32], port[32];
    unsigned char v6[16];
    size_t n = strlen(host), colons = 0, odd = 0;

    text_quote(q, host, n);
    fields_spelled(r, "HostName", name);
    fields_spelled(r, "DERPPort", port);
    if (n > DERPMAP_MAX_HOST)
        return fields_refuse(r, v->start, "%s is longer than %d bytes", name, DERPMAP_MAX_HOST);
    if (inet_pton(AF_INET6, host, v6) == 1)
        return 0;
    if (strstr(host, "://"))
        return fields_refuse(r, v->start, "%s %s holds a scheme: write the bare name, and the port as %s",
                             name, q, port);
    if (host[0] == '[')
        return fields_refuse(r, v->start, "%s %s: write an IPv6 address without brackets, the port as %s",
                             name, q, port);
    for (size_t i = 0; i < n; i++) {
        colons += host[i] == ':';
        odd += !is_host_byte((unsigned char)host[i]);
    }
    if (colons == 1 && odd == 1)
        return fields_refuse(r, v->start, "%s %s holds a port: write the bare name, and the port as %s", name,
                             q, port);
    if (odd)
        return fields_refuse(r, v->start, "%s %s is no host name or IP address", name, q);
    return 0;
}

static int check_node(struct reader *r, const struct hujson *obj, const struct picked *p,
                      const struct derpmap_node *node, int region_id)
{
    char q[TEXT_QUOTE_MAX], field[32];

    if (!node->name)
        return fields_refuse_missing(r, obj, p, NODE_NAME, &node_fields[NODE_NAME], "this node");
    if (strlen(node->name) > DERPMAP_MAX_NAME)
        return fields_refuse(r, p->v[NODE_NAME]->start, "Name is longer than %d bytes", DERPMAP_MAX_NAME);
    text_quote(q, node->name, strlen(node->name));
    char owner[TEXT_QUOTE_MAX + 8];
    snprintf(owner, sizeof owner, "node %s", q);
    if (!p->v[NODE_REGION_ID])
        return fields_refuse_missing(r, obj, p, NODE_REGION_ID, &node_fields[NODE_REGION_ID], owner);
    if (node->region_id != region_id)
        return fields_refuse(r, p->v[NODE_REGION_ID]->start, "node %s says region %d but stands in region %d",
                             q, node->region_id, region_id);
    if (!node->host_name)
        return fields_refuse_missing(r, obj, p, NODE_HOST_NAME, &node_fields[NODE_HOST_NAME], owner);
    if (node->derp_port < 0 || node->derp_port > 65535)
        return fields_refuse(r, p->v[NODE_DERP_PORT]->start,
                             "%s %d is out of range (1 to 65535; 0 or none is 443)",
                             fields_spelled(r, "DERPPort", field), node->derp_port);
    if (node->stun_port < -1 || node->stun_port > 65535)
        return fields_refuse(r, p->v[NODE_STUN_PORT]->start,
                             "%s %d is out of range (1 to 65535; 0 or none is 3478, -1 is off)",
                             fields_spelled(r, "STUNPort", field), node->stun_port);
    return check_host(r, p->v[NODE_HOST_NAME], node->host_name);
}

static int read_node(struct reader *r, const struct hujson *obj, struct derpmap_region *region)
{
    struct derpmap *m = &r->full->map;
    struct derpmap_node *node = &m->nodes[m->n_nodes];
    struct derpmap_pos at = fields_position(r, obj->start);
    struct picked p;

    if (obj->type != HUJSON_OBJECT)
        return fields_refuse(r, obj->start, "a node must be an object with Name, RegionID and HostName");
    if (fields_pick(r, obj, node_fields, NODE_FIELDS, &p) < 0 ||
        fields_read(r, &p, node_fields, NODE_FIELDS, node, r->full->node_extra[m->n_nodes].pos) < 0 ||
        check_node(r, obj, &p, node, region->id) < 0)
        return -1;
    node->line = at.line;
    node->col = at.col;
    region->nodes[region->n_nodes++] = node;
    m->n_nodes++;
    return 0;
}

static int check_region(struct reader *r, const struct hujson *obj, const struct picked *p,
                        const struct derpmap_region *region)
{
    char owner[32];
    int id;

    snprintf(owner, sizeof owner, "region %d", region->id);
    if (!p->v[REGION_ID])
        return fields_refuse_missing(r, obj, p, REGION_ID, &region_fields[REGION_ID], owner);
    if (fields_read_int(r, p->v[REGION_ID], &region_fields[REGION_ID], &id) < 0)
        return -1;
    if (id != region->id)
        return fields_refuse(r, p->v[REGION_ID]->start,
                             "RegionID is %d but the region's key is %d: make them equal", id, region->id);
    if (p->v[REGION_NODES] && p->v[REGION_NODES]->type != HUJSON_ARRAY)
        return fields_refuse_type(r, p->v[REGION_NODES], &region_fields[REGION_NODES], "a list of nodes");
    return 0;
}

static size_t count_children(const struct hujson *v)
{
    size_t n = 0;

    for (const struct hujson *c = v ? v->child : NULL; c; c = c->next)
        n++;
    return n;
}

static int read_region(struct reader *r, const struct hujson *obj, struct derpmap_region *region)
{
    struct derpmap_pos at = fields_position(r, obj->name_start);
    struct picked p;

    region->line = at.line;
    region->col = at.col;
    region->code = region->name = arena_text(&r->full->arena, "", 0);
    if (!region->code)
        return fields_refuse_memory(r);
    region->removed = obj->type == HUJSON_NULL;
    if (region->removed)
        return 0;
    if (obj->type != HUJSON_OBJECT)
        return fields_refuse(r, obj->start, "region %d must be an object, or null to remove it", region->id);
    if (fields_pick(r, obj, region_fields, REGION_FIELDS, &p) < 0 || check_region(r, obj, &p, region) < 0 ||
        fields_read(r, &p, region_fields, REGION_FIELDS, region,
                    r->full->region_extra[region - r->full->map.regions].pos) < 0)
        return -1;
    region->has_location = p.v[REGION_LATITUDE] || p.v[REGION_LONGITUDE];
    size_t n = count_children(p.v[REGION_NODES]);
    if (n > (size_t)(DERPMAP_MAX_NODES - r->full->map.n_nodes))
        return fields_refuse(r, p.v[REGION_NODES]->start, "more than %d nodes in this map",
                             DERPMAP_MAX_NODES);
    region->nodes = arena_alloc(&r->full->arena, n * sizeof(struct derpmap_node *));
    if (!region->nodes)
        return fields_refuse_memory(r);
    for (const struct hujson *node = n ? p.v[REGION_NODES]->child : NULL; node; node = node->next)
        if (read_node(r, node, region) < 0)
            return -1;
    return 0;
}

/* A region of the file before it is read. */
struct region_ref {
    int id, slot;
    const struct hujson *obj;
};

static int by_id(const void *a, const void *b)
{
    const struct region_ref *x = a, *y = b;

    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return x->obj->start < y->obj->start ? -1 : x->obj->start > y->obj->start;
}

static int by_place(const void *a, const void *b)
{
    const struct region_ref *x = a, *y = b;

    return x->obj->name_start < y->obj->name_start ? -1 : x->obj->name_start > y->obj->name_start;
}

static int region_key(struct reader *r, const struct hujson *m, int *id)
{
    char q[TEXT_QUOTE_MAX];
    bool quoted = r->text[m->name_start] == '"' || r->text[m->name_start] == '\'';

    if (fields_parse_int(m->name, strlen(m->name), id) < 0 || *id <= 0)
        return fields_refuse(r, m->name_start, "region key %s is no positive number",
                             text_quote(q, m->name, strlen(m->name)));
    if (r->yaml && quoted)
        return fields_refuse(r, m->name_start, "region %d is in quotes: Headscale wants the bare number",
                             *id);
    return 0;
}

/* Lists the regions in refs, ascending and each once; returns how many. */
static int list_regions(struct reader *r, const struct hujson *regions, struct region_ref *refs)
{
    int n = 0, kept = 0;

    for (const struct hujson *m = regions->child; m; m = m->next, n++) {
        refs[n].obj = m;
        if (region_key(r, m, &refs[n].id) < 0)
            return -1;
    }
    qsort(refs, (size_t)n, sizeof *refs, by_id);
    for (int i = 0; i < n; i++) {
        if (kept && refs[kept - 1].id == refs[i].id) {
            if (r->yaml)
                return fields_refuse(r, refs[i].obj->name_start, "region %d stands here twice", refs[i].id);
            fields_note(r, refs[i].obj->name_start,
                        "region %d stands here twice (before in line %d): the last one counts", refs[i].id,
                        fields_position(r, refs[kept - 1].obj->name_start).line);
            kept--;
        }
        refs[kept] = refs[i];
        refs[kept].slot = kept;
        kept++;
    }
    return kept;
}

/* Room for all nodes that the regions can hold; more than the allowed number is refused when it is met. */
static int alloc_nodes(struct derpmap_full *full, const struct hujson *regions)
{
    size_t n = 0;

    for (const struct hujson *m = regions->child; m; m = m->next)
        for (const struct hujson *f = m->type == HUJSON_OBJECT ? m->child : NULL; f; f = f->next)
            if (strcasecmp(f->name, region_fields[REGION_NODES].name) == 0)
                n += count_children(f);
    if (n > DERPMAP_MAX_NODES)
        n = DERPMAP_MAX_NODES;
    full->map.nodes = arena_alloc(&full->arena, n * sizeof *full->map.nodes);
    full->node_extra = arena_alloc(&full->arena, n * sizeof *full->node_extra);
    return full->map.nodes && full->node_extra ? 0 : -1;
}

static int read_regions(struct reader *r, const struct hujson *regions)
{
    struct derpmap_full *full = r->full;
    struct region_ref *refs;
    size_t n = count_children(regions);
    int rc = -1;

    if (n > DERPMAP_MAX_REGIONS)
        return fields_refuse(r, regions->start, "more than %d regions in this map", DERPMAP_MAX_REGIONS);
    refs = calloc(n + 1, sizeof *refs);
    full->map.regions = arena_alloc(&full->arena, n * sizeof *full->map.regions);
    full->region_extra = arena_alloc(&full->arena, n * sizeof *full->region_extra);
    if (!refs || !full->map.regions || !full->region_extra || alloc_nodes(full, regions) < 0) {
        fields_refuse_memory(r);
        goto free_refs;
    }
    full->map.n_regions = list_regions(r, regions, refs);
    if (full->map.n_regions < 0)
        goto free_refs;
    for (int i = 0; i < full->map.n_regions; i++)
        full->map.regions[i].id = refs[i].id;
    qsort(refs, (size_t)full->map.n_regions, sizeof *refs, by_place);
    for (int i = 0; i < full->map.n_regions; i++)
        if (read_region(r, refs[i].obj, &full->map.regions[refs[i].slot]) < 0)
            goto free_refs;
    rc = 0;
free_refs:
    free(refs);
    return rc;
}

/* One score: into its region, or kept aside for a region that is not in the file. */
static int read_score(struct reader *r, const struct hujson *v)
{
    struct derpmap_full *full = r->full;
    int id;

    if (region_key(r, v, &id) < 0)
        return -1;
    if (v->type != HUJSON_NUMBER || !isfinite(v->num))
        return fields_refuse(r, v->start, "the score of region %d must be a number", id);
    if (v->num <= 0)
        fields_note(r, v->start,
                    "clients ignore the score of region %d: it must be above 0 (below 1 prefers it)", id);
    for (int i = 0; i < full->map.n_regions; i++)
        if (full->map.regions[i].id == id) {
            full->map.regions[i].score = v->num > 0 ? v->num : 0;
            return 0;
        }
    if (v->num > 0)
        full->scores[full->n_scores++] = (struct derpmap_score){id, v->num};
    return 0;
}

static int by_region(const void *a, const void *b)
{
    const struct derpmap_score *x = a, *y = b;

    return x->region_id < y->region_id ? -1 : x->region_id > y->region_id;
}

static int read_home_params(struct reader *r, const struct hujson *v)
{
    struct derpmap_full *full = r->full;
    struct picked p;

    if (v->type != HUJSON_OBJECT)
        return fields_refuse_type(r, v, &map_fields[MAP_HOME_PARAMS], "an object");
    full->home_params_pos = fields_position(r, v->name_start);
    if (fields_pick(r, v, score_fields, 1, &p) < 0)
        return -1;
    if (!p.v[0])
        return 0;
    if (p.v[0]->type != HUJSON_OBJECT)
        return fields_refuse_type(r, p.v[0], &score_fields[0], "an object of region numbers and scores");
    size_t n = count_children(p.v[0]);
    if (n > DERPMAP_MAX_REGIONS)
        return fields_refuse(r, p.v[0]->start, "more than %d scores", DERPMAP_MAX_REGIONS);
    full->scores = arena_alloc(&full->arena, n * sizeof *full->scores);
    if (!full->scores)
        return fields_refuse_memory(r);
    for (const struct hujson *m = p.v[0]->child; m; m = m->next)
        if (read_score(r, m) < 0)
            return -1;
    qsort(full->scores, (size_t)full->n_scores, sizeof *full->scores, by_region);
    for (int i = 1; i < full->n_scores; i++)
        if (full->scores[i].region_id == full->scores[i - 1].region_id)
            return fields_refuse(r, p.v[0]->start, "region %d has two scores", full->scores[i].region_id);
    return 0;
}

static int read_map(struct reader *r, const struct hujson *obj)
{
    struct derpmap_pos pos[MAP_FIELDS] = {{0, 0}};
    struct picked p;

    if (fields_pick(r, obj, map_fields, MAP_FIELDS, &p) < 0)
        return -1;
    if (!p.v[MAP_REGIONS])
        return fields_refuse_missing(r, obj, &p, MAP_REGIONS, &map_fields[MAP_REGIONS], "this map");
    if (p.v[MAP_REGIONS]->type != HUJSON_OBJECT)
        return fields_refuse_type(r, p.v[MAP_REGIONS], &map_fields[MAP_REGIONS],
                                  "an object of region numbers and regions");
    if (fields_read(r, &p, map_fields, MAP_FIELDS, &r->full->map, pos) < 0 ||
        read_regions(r, p.v[MAP_REGIONS]) < 0)
        return -1;
    r->full->omit_pos = pos[MAP_OMIT];
    return p.v[MAP_HOME_PARAMS] ? read_home_params(r, p.v[MAP_HOME_PARAMS]) : 0;
}

/* Which part of the file is the map: all of it, or the policy's derpMap. */
static int read_root(struct reader *r, const struct hujson *root)
{
    const struct hujson *inner;

    if (root->type != HUJSON_OBJECT)
        return fields_refuse(r, root->start,
                             r->yaml ? "this is no map: expected \"regions:\" as Headscale has it"
                                     : "this is no map: expected an object");
    r->full->map.format = r->yaml ? DERPMAP_HEADSCALE : DERPMAP_JSON;
    if (r->yaml)
        return read_map(r, root);
    inner = hujson_get(root, "derpMap");
    if (inner) {
        r->full->map.format = DERPMAP_POLICY;
        if (inner->type != HUJSON_OBJECT)
            return fields_refuse(r, inner->start, "derpMap must be an object");
        return read_map(r, inner);
    }
    for (int i = 0; i < MAP_FIELDS; i++)
        if (hujson_get(root, map_fields[i].name))
            return read_map(r, root);
    return fields_refuse(
        r, root->start,
        "no derpMap in this file (a tailnet policy has it under \"derpMap\"), nor \"Regions\" "
        "(as a DERPMap has)");
}

int derpmap_read(struct derpmap_full *full, const struct hujson *root, const char *text, size_t n, bool yaml,
                 struct text_error *err)
{
    struct reader r = {.full = full, .text = text, .n = n, .yaml = yaml, .err = err};
    int rc;

    full->notes = arena_alloc(&full->arena, DERPMAP_MAX_NOTES * sizeof *full->notes);
    if (!full->notes)
        return fields_refuse_memory(&r);
    if (fields_init(&r) < 0)
        return -1;
    rc = read_root(&r, root);
    fields_deinit(&r);
    return rc;
}
