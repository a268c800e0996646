/* What can only be told by looking at all entries of a map: which are further listings of one node, what
 * each node is called, and the hash.
 *
 * Happy path: find_twins pairs listings of the same node, give_ids and give_export_names name them, hash_map
 * sums up.  Tables keep it near linear; only entries with one HostName and port but many addresses
 * are compared pairwise, and there are at most 4096 of them.
 * It fails where two listings of a node contradict each other and where two nodes cannot be told apart by
 * name. */
#include "proto/derpmap_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <sodium.h>

int name_table_init(struct name_table *t, struct text_arena *a, size_t n)
{
    size_t size = 16;

    while (size < n * 2)
        size *= 2;
    t->mask = size - 1;
    t->entries = arena_alloc(a, size * sizeof *t->entries);
    return t->entries ? 0 : -1;
}

struct name_entry *name_table_put(struct name_table *t, const char *key, int value)
{
    uint64_t hash =
        0xcbf29ce484222325; /* FNV-1a; a flooded table costs no more than its 4096 entries squared */

    for (const char *s = key; *s; s++)
        hash = (hash ^ (unsigned char)*s) * 0x100000001b3;
    for (size_t i = hash & t->mask;; i = (i + 1) & t->mask) {
        struct name_entry *e = &t->entries[i];
        if (!e->key) {
            *e = (struct name_entry){.hash = hash, .key = key, .first = value};
            return e;
        }
        if (e->hash == hash && strcmp(e->key, key) == 0)
            return e;
    }
}

/* One listing, in the order in which listings are taken for the node itself rather than for another
 * mention. */
struct listing {
    int node, rank; /* 0: answers STUN; else 1 + place in its region, since backups come last there */
    int sequence;   /* by region: the order of the file does not survive an export */
};

static int by_rank(const void *a, const void *b)
{
    const struct listing *x = a, *y = b;

    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return x->sequence < y->sequence ? -1 : x->sequence > y->sequence;
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcasecmp(a, b) == 0);
}

static bool same_address(const struct derpmap_node *a, const struct derpmap_node *b)
{
    return same_text(a->ipv4, b->ipv4) && same_text(a->ipv6, b->ipv6);
}

/* Whether b, which says that it answers no STUN, may be another listing of a. */
static bool may_be_backup(const struct derpmap_node *a, const struct derpmap_node *b)
{
    return (!a->ipv4 || !b->ipv4 || same_text(a->ipv4, b->ipv4)) &&
           (!a->ipv6 || !b->ipv6 || same_text(a->ipv6, b->ipv6));
}

static int refuse_twins(const struct derpmap_node *a, const struct derpmap_node *b, const char *what,
                        struct text_error *err)
{
    char q[TEXT_QUOTE_MAX];

    return text_fail(
        err, b->line, b->col,
        "same HostName and DERPPort as node %s in line %d, so the same node, but another %s: make "
        "them equal",
        text_quote(q, a->name, strlen(a->name)), a->line, what);
}

static int check_twins(const struct derpmap_node *a, const struct derpmap_node *b, struct text_error *err)
{
    if ((a->cert_name || b->cert_name) &&
        (!a->cert_name || !b->cert_name || strcmp(a->cert_name, b->cert_name) != 0))
        return refuse_twins(a, b, "CertName", err);
    if (a->insecure_for_tests != b->insecure_for_tests)
        return refuse_twins(a, b, "InsecureForTests", err);
    if (!b->backup && derpmap_stun_port(a) != derpmap_stun_port(b))
        return refuse_twins(a, b, "STUNPort", err);
    return 0;
}

/* Looks for an earlier listing of node i among those with its HostName and port, which hang on next[]. */
static int find_twin(struct derpmap_full *full, struct name_table *endpoints, int *next, int i,
                     struct text_error *err)
{
    struct derpmap_node *b = &full->map.nodes[i];
    char *key = arena_alloc(&full->arena, strlen(b->host_name) + 8);
    int last = -1;

    if (!key)
        return text_fail(err, 0, 0, "out of memory");
    sprintf(key, "%s:%d", b->host_name, derpmap_derp_port(b));
    for (char *s = key; *s; s++)
        *s = *s >= 'A' && *s <= 'Z' ? (char)(*s | 32) : *s;
    struct name_entry *e = name_table_put(endpoints, key, i);
    next[i] = -1;
    if (e->count++ == 0)
        return 0;
    for (int k = e->first; k >= 0; last = k, k = next[k]) {
        const struct derpmap_node *a = &full->map.nodes[k];
        if (b->stun_port == -1 ? !may_be_backup(a, b) : !same_address(a, b))
            continue;
        b->backup = b->stun_port == -1;
        full->node_extra[i].twin = a;
        return check_twins(a, b, err);
    }
    next[last] = i;
    return 0;
}

static int find_twins(struct derpmap_full *full, struct text_error *err)
{
    const struct derpmap *m = &full->map;
    size_t n = (size_t)m->n_nodes;
    struct listing *order = malloc((n + 1) * sizeof *order);
    int *next = malloc((n + 1) * sizeof *next), count = 0, rc = -1;
    struct name_table endpoints;

    if (!order || !next || name_table_init(&endpoints, &full->arena, n) < 0) {
        text_fail(err, 0, 0, "out of memory");
        goto free_lists;
    }
    for (int i = 0; i < m->n_regions; i++)
        for (int k = 0; k < m->regions[i].n_nodes; k++) {
            const struct derpmap_node *node = m->regions[i].nodes[k];
            if (node->stun_only) /* no relay, so nobody's second listing */
                continue;
            int rank = node->stun_port == -1 ? k + 1 : 0;
            order[count] = (struct listing){(int)(node - m->nodes), rank, count};
            count++;
        }
    qsort(order, (size_t)count, sizeof *order, by_rank);
    for (int i = 0; i < count; i++)
        if (find_twin(full, &endpoints, next, order[i].node, err) < 0)
            goto free_lists;
    rc = 0;
free_lists:
    free(order);
    free(next);
    return rc;
}

static char *region_name(struct derpmap_full *full, const struct derpmap_node *node, char separator,
                         size_t cut)
{
    char *s = arena_alloc(&full->arena, cut + 24);

    if (s)
        sprintf(s, "%d%c%.*s", node->region_id, separator, (int)cut, node->name);
    return s;
}

static int refuse_name(const struct derpmap *m, const struct derpmap_node *b, int first,
                       struct text_error *err)
{
    const struct derpmap_node *a = &m->nodes[first];
    char q[TEXT_QUOTE_MAX];

    text_quote(q, b->name, strlen(b->name));
    if (a->region_id == b->region_id && strcmp(a->name, b->name) == 0)
        return text_fail(err, b->line, b->col,
                         "region %d has two nodes named %s (the other in line %d): rename one", b->region_id,
                         q, a->line);
    return text_fail(err, b->line, b->col,
                     "the name %s cannot be told from that of the node in line %d: rename one", q, a->line);
}

static int give_ids(struct derpmap_full *full, struct name_table *names, struct text_error *err)
{
    struct derpmap *m = &full->map;
    struct name_table ids;

    if (name_table_init(&ids, &full->arena, (size_t)m->n_nodes) < 0)
        return text_fail(err, 0, 0, "out of memory");
    for (int i = 0; i < m->n_nodes; i++)
        if (!m->nodes[i].backup)
            name_table_put(names, m->nodes[i].name, i)->count++;
    for (int i = 0; i < m->n_nodes; i++) {
        struct derpmap_node *node = &m->nodes[i];
        if (node->backup)
            continue;
        bool unique = name_table_put(names, node->name, i)->count == 1;
        node->id = unique ? node->name : region_name(full, node, '/', strlen(node->name));
        if (!node->id)
            return text_fail(err, 0, 0, "out of memory");
        struct name_entry *e = name_table_put(&ids, node->id, i);
        if (e->count++)
            return refuse_name(m, node, e->first, err);
    }
    for (int i = 0; i < m->n_nodes; i++)
        if (m->nodes[i].backup)
            m->nodes[i].id = full->node_extra[i].twin->id;
    return 0;
}

/* "REGION-NAME", cut so that the result can be read again, counted up until nobody else has it. */
static const char *make_export_name(struct derpmap_full *full, struct name_table *taken, int i)
{
    const struct derpmap_node *node = &full->map.nodes[i];
    size_t cut = strlen(node->name);

    if (cut > DERPMAP_MAX_NAME - 18) {
        cut = DERPMAP_MAX_NAME - 18;
        while (((unsigned char)node->name[cut] & 0xc0) == 0x80)
            cut--;
    }
    char *s = region_name(full, node, '-', cut);
    if (!s)
        return NULL;
    size_t len = strlen(s);
    /* Made afresh for each try, as the table holds on to what it is asked for only if it is new. */
    for (int k = 2; name_table_put(taken, s, i)->count; k++)
        sprintf(s + len, "-%d", k);
    return s;
}

static int give_export_names(struct derpmap_full *full, struct name_table *names, struct text_error *err)
{
    struct derpmap *m = &full->map;
    struct name_table taken;

    if (name_table_init(&taken, &full->arena, (size_t)m->n_nodes) < 0)
        return text_fail(err, 0, 0, "out of memory");
    /* Names that are unique stay; then the other nodes; then backups, which must not take a node's name. */
    for (int step = 0; step < 3; step++)
        for (int i = 0; i < m->n_nodes; i++) {
            const struct derpmap_node *node = &m->nodes[i];
            bool unique = !node->backup && name_table_put(names, node->name, i)->count == 1;
            if (step != (node->backup ? 2 : unique ? 0 : 1))
                continue;
            const char *name = node->name;
            bool keep = unique || (node->backup && !name_table_put(&taken, name, i)->count);
            if (!keep)
                name = make_export_name(full, &taken, i);
            if (!name)
                return text_fail(err, 0, 0, "out of memory");
            name_table_put(&taken, name, i)->count++;
            full->node_extra[i].export_name = name;
        }
    return 0;
}

static void hash_int(crypto_generichash_state *st, int64_t v)
{
    uint8_t b[8];

    for (int i = 0; i < 8; i++)
        b[i] = (uint8_t)((uint64_t)v >> (8 * i));
    crypto_generichash_update(st, b, sizeof b);
}

static void hash_float(crypto_generichash_state *st, double v)
{
    int64_t bits;

    memcpy(&bits, &v, sizeof bits);
    hash_int(st, bits);
}

static void hash_text(crypto_generichash_state *st, const char *s)
{
    size_t n = s ? strlen(s) : 0;

    hash_int(st, (int64_t)n);
    crypto_generichash_update(st, (const unsigned char *)s, n);
}

static void hash_node(crypto_generichash_state *st, const struct derpmap_node *n, const char *name)
{
    hash_text(st, name);
    hash_text(st, n->host_name);
    hash_text(st, n->cert_name);
    hash_text(st, n->ipv4);
    hash_text(st, n->ipv6);
    hash_int(st, derpmap_stun_port(n));
    hash_int(st, derpmap_derp_port(n));
    hash_text(st, n->stun_test_ip);
    hash_int(st, n->stun_only | n->insecure_for_tests << 1 | n->can_port80 << 2);
}

/* The canonical form: fields in a fixed order, texts with their lengths, defaults filled in.  Backup
 * listings are left out, so that a map and its cross-listed export are the same map; names are those of
 * exports. */
static void hash_map(struct derpmap_full *full)
{
    const struct derpmap *m = &full->map;
    crypto_generichash_state st;

    crypto_generichash_init(&st, NULL, 0, sizeof m->hash);
    hash_text(&st, "derpMap 1");
    hash_int(&st, m->omit_default_regions);
    for (int i = 0; i < m->n_regions; i++) {
        const struct derpmap_region *r = &m->regions[i];
        hash_int(&st, r->id);
        hash_int(&st, r->removed | r->avoid << 1 | r->no_measure_no_home << 2);
        hash_text(&st, r->code);
        hash_text(&st, r->name);
        hash_float(&st, r->latitude);
        hash_float(&st, r->longitude);
        hash_float(&st, r->score);
        for (int k = 0; k < r->n_nodes; k++)
            if (!r->nodes[k]->backup) {
                hash_text(&st, "node");
                hash_node(&st, r->nodes[k], full->node_extra[r->nodes[k] - m->nodes].export_name);
            }
        hash_text(&st, "end");
    }
    for (int i = 0; i < full->n_scores; i++) {
        hash_int(&st, full->scores[i].region_id);
        hash_float(&st, full->scores[i].score);
    }
    crypto_generichash_final(&st, full->map.hash, sizeof full->map.hash);
}

int derpmap_resolve(struct derpmap_full *full, struct text_error *err)
{
    struct name_table names;

    if (find_twins(full, err) < 0)
        return -1;
    if (name_table_init(&names, &full->arena, (size_t)full->map.n_nodes) < 0)
        return text_fail(err, 0, 0, "out of memory");
    if (give_ids(full, &names, err) < 0 || give_export_names(full, &names, err) < 0)
        return -1;
    hash_map(full);
    return 0;
}
