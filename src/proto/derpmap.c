/* The derpMap's front: tells the spelling of a file, reads it, and answers questions about the map.
 *
 * Happy path: derpmap_parse looks at the first significant byte ({ or a C comment: HuJSON, which JSON is a
 * part of; else YAML), has the tree made, read and resolved, and hands out one immutable struct.
 * It fails as its steps do, with line and column; nothing is left behind then. */
#include "proto/derpmap_internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool is_yaml(const char *text, size_t n)
{
    size_t i = 0;

    while (i < n && strchr(" \t\r\n", text[i]) && text[i])
        i++;
    return i < n && !strchr("{[/\"", text[i]);
}

static int parse_tree(struct derpmap_full *full, const char *text, size_t n, struct text_error *err)
{
    bool yaml = is_yaml(text, n);
    struct hujson_doc *doc;
    int rc;

    if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        return text_fail(err, 1, 1, "the file begins with a byte order mark: save it as UTF-8 without one");
    doc = yaml ? derpmap_yaml_parse(text, n, err) : hujson_parse(text, n, err);
    if (!doc)
        return -1;
    rc = derpmap_read(full, hujson_root(doc), text, n, yaml, err);
    hujson_free(doc);
    return rc < 0 ? -1 : derpmap_resolve(full, err);
}

struct derpmap *derpmap_parse(const char *text, size_t n, struct text_error *err)
{
    struct derpmap_full *full = calloc(1, sizeof *full);

    if (!full) {
        text_fail(err, 0, 0, "out of memory");
        return NULL;
    }
    if (parse_tree(full, text, n, err) < 0) {
        derpmap_free(&full->map);
        return NULL;
    }
    return &full->map;
}

void derpmap_free(struct derpmap *m)
{
    struct derpmap_full *full = (struct derpmap_full *)(void *)m;

    if (full)
        arena_free(&full->arena);
    free(full);
}

const struct derpmap_node *derpmap_find(const struct derpmap *m, const char *name)
{
    const char *slash = strchr(name, '/');

    for (int i = 0; i < m->n_nodes; i++)
        if (!m->nodes[i].backup && strcmp(m->nodes[i].id, name) == 0)
            return &m->nodes[i];
    /* "900/1" and the "900-1" that it is exported as are one node, whichever of the two files is at hand. */
    for (int i = 0; i < m->n_nodes; i++) {
        const char *export = derpmap_node_extra(m, &m->nodes[i])->export_name;
        size_t at = slash ? (size_t)(slash - name) : 0;
        if (m->nodes[i].backup || strlen(export) != strlen(name))
            continue;
        if (strncmp(export, name, at) == 0 && (!slash || export[at] == '-') &&
            strcmp(export + at + !!slash, name + at + !!slash) == 0)
            return &m->nodes[i];
    }
    return NULL;
}

const struct derpmap_region *derpmap_region_of(const struct derpmap *m, int region_id)
{
    for (int i = 0; i < m->n_regions; i++)
        if (m->regions[i].id == region_id)
            return &m->regions[i];
    return NULL;
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcasecmp(a, b) == 0);
}

bool derpmap_node_same(const struct derpmap_node *a, const struct derpmap_node *b)
{
    bool same_cert = a->cert_name == b->cert_name ||
                     (a->cert_name && b->cert_name && strcmp(a->cert_name, b->cert_name) == 0);

    return same_text(a->host_name, b->host_name) && derpmap_derp_port(a) == derpmap_derp_port(b) &&
           same_text(a->ipv4, b->ipv4) && same_text(a->ipv6, b->ipv6) && same_cert &&
           a->insecure_for_tests == b->insecure_for_tests;
}

int derpmap_pin(const struct derpmap_node *n, uint8_t sha256[static 32])
{
    static const char prefix[] = "sha256-raw:", digits[] = "0123456789abcdef";
    const char *hex = n->cert_name;

    if (!hex || strncmp(hex, prefix, sizeof prefix - 1) != 0)
        return -1;
    hex += sizeof prefix - 1;
    if (strlen(hex) != 64 || strspn(hex, digits) != 64)
        return -1;
    for (int i = 0; i < 32; i++)
        sha256[i] =
            (uint8_t)((strchr(digits, hex[2 * i]) - digits) << 4 | (strchr(digits, hex[2 * i + 1]) - digits));
    return 0;
}
