/* The map as text: HuJSON for a tailnet policy, plain DERPMap JSON, Headscale's derp.yaml.
 * Changes (backups, stand-ins for dead nodes) are put in where a region's nodes are written.
 *
 * Happy path: one walk over the map, through a writer that knows the three styles; fields at their defaults
 * are left out, as Go leaves them out.  What is written parses again to a map of the same hash.
 * It fails only without memory. */
#include "proto/derpmap_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct writer {
    enum derpmap_to to;
    char *text;
    size_t n, room;
    bool failed;
    int depth;
    bool comma;                            /* JSON: a member stands before the next one */
    bool item;                             /* YAML: the next key follows "- " on its line */
    bool empty;                            /* YAML: the collection just begun holds nothing so far */
    const struct derpmap_changes *changes; /* never NULL */
};

__attribute__((format(printf, 2, 3))) static void put(struct writer *w, const char *fmt, ...)
{
    va_list ap;
    int len;

    for (int attempt = 0; attempt < 2 && !w->failed; attempt++) {
        size_t left = w->room - w->n;
        va_start(ap, fmt);
        len = vsnprintf(w->text ? w->text + w->n : NULL, left, fmt, ap);
        va_end(ap);
        if (len >= 0 && (size_t)len < left) {
            w->n += (size_t)len;
            return;
        }
        size_t room = w->room * 2 + (size_t)(len < 0 ? 0 : len) + 256;
        char *text = realloc(w->text, room);
        w->failed = !text || len < 0;
        if (text) {
            w->text = text;
            w->room = room;
        }
    }
}

static void put_line(struct writer *w, int depth)
{
    put(w, "\n");
    for (int i = 0; i < depth; i++)
        put(w, "%s", w->to == DERPMAP_TO_TAILSCALE ? "\t" : "  ");
}

/* Both JSON and YAML in double quotes.  Strings of a map hold no control characters. */
static void put_quoted(struct writer *w, const char *s)
{
    put(w, "\"");
    while (*s) {
        size_t n = strcspn(s, "\"\\");
        put(w, "%.*s", (int)n, s);
        s += n;
        if (*s)
            put(w, "\\%c", *s++);
    }
    put(w, "\"");
}

/* Whether YAML reads it as a string without quotes. */
static bool is_plain(const char *s)
{
    static const char *const words[] = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"};
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    static const char all[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";

    if (!*s || !strchr(letters, *s) || s[strspn(s, all)])
        return false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(s, words[i]) == 0)
            return false;
    return true;
}

static bool is_yaml(const struct writer *w)
{
    return w->to == DERPMAP_TO_HEADSCALE;
}

/* What stands before a member or an element. */
static void put_separator(struct writer *w)
{
    if (is_yaml(w) && w->item)
        w->item = false;
    else {
        put(w, "%s", w->comma && !is_yaml(w) ? "," : "");
        put_line(w, w->depth);
    }
    w->comma = true;
    w->empty = false;
}

static void put_key(struct writer *w, const char *key)
{
    put_separator(w);
    if (!is_yaml(w)) {
        put(w, "\"%s\": ", key);
        return;
    }
    for (const char *s = key; *s; s++)
        put(w, "%c", *s >= 'A' && *s <= 'Z' ? *s | 32 : *s);
    put(w, ":");
}

static void put_text(struct writer *w, const char *key, const char *s)
{
    if (!s || !*s)
        return;
    put_key(w, key);
    put(w, "%s", is_yaml(w) ? " " : "");
    if (is_yaml(w) && is_plain(s))
        put(w, "%s", s);
    else
        put_quoted(w, s);
}

static void put_int(struct writer *w, const char *key, int v)
{
    put_key(w, key);
    put(w, is_yaml(w) ? " %d" : "%d", v);
}

static void put_true(struct writer *w, const char *key, bool v)
{
    if (!v)
        return;
    put_key(w, key);
    put(w, is_yaml(w) ? " true" : "true");
}

/* The shortest form that reads back as the same number. */
static void put_float(struct writer *w, const char *key, double v)
{
    char s[40];

    for (int digits = 15; digits <= 17; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, v);
        if (strtod(s, NULL) == v)
            break;
    }
    put_key(w, key);
    put(w, is_yaml(w) ? " %s" : "%s", s);
}

static void begin(struct writer *w, char bracket)
{
    if (!is_yaml(w))
        put(w, "%c", bracket);
    w->depth++;
    w->comma = false;
    w->empty = true;
}

static void end(struct writer *w, char bracket)
{
    w->depth--;
    if (is_yaml(w)) {
        if (w->empty)
            put(w, " %s", bracket == '}' ? "{}" : "[]");
    } else {
        if (w->comma) {
            put(w, "%s", w->to == DERPMAP_TO_TAILSCALE ? "," : "");
            put_line(w, w->depth);
        }
        put(w, "%c", bracket);
    }
    w->comma = true;
    w->empty = false;
}

static void put_node(struct writer *w, const struct derpmap_node *n, const char *name, int region_id,
                     int stun_port)
{
    put_separator(w);
    if (is_yaml(w)) {
        put(w, "- ");
        w->item = true;
    }
    begin(w, '{');
    put_text(w, "Name", name);
    put_int(w, "RegionID", region_id);
    put_text(w, "HostName", n->host_name);
    put_text(w, "CertName", n->cert_name);
    put_text(w, "IPv4", n->ipv4);
    put_text(w, "IPv6", n->ipv6);
    if (stun_port)
        put_int(w, "STUNPort", stun_port);
    put_true(w, "STUNOnly", n->stun_only);
    if (n->derp_port)
        put_int(w, "DERPPort", n->derp_port);
    put_true(w, "InsecureForTests", n->insecure_for_tests);
    put_text(w, "STUNTestIP", n->stun_test_ip);
    put_true(w, "CanPort80", n->can_port80);
    end(w, '}');
}

static bool name_taken(const struct derpmap *m, const char *name)
{
    for (int i = 0; i < m->n_nodes; i++)
        if (strcmp(derpmap_node_extra(m, &m->nodes[i])->export_name, name) == 0)
            return true;
    return false;
}

/* What a region says of a node that the map has elsewhere, or has otherwise. */
static void put_listing(struct writer *w, const struct derpmap *m, const struct derpmap_listing *l)
{
    const char *own = derpmap_node_extra(m, l->node)->export_name;
    char name[DERPMAP_MAX_NAME + 32];
    int cut = DERPMAP_MAX_NAME - 18; /* so that it can be read again */

    while (strlen(own) > (size_t)cut && ((unsigned char)own[cut] & 0xc0) == 0x80)
        cut--;
    int n = snprintf(name, sizeof name, "%d-%.*s", l->region_id, cut, own);

    for (int k = 2; n > 0 && name_taken(m, name); k++)
        snprintf(name + n, sizeof name - (size_t)n, "-%d", k);
    put_node(w, l->node, l->node->region_id == l->region_id ? own : name, l->region_id,
             l->no_stun ? -1 : l->node->stun_port);
}

static bool changed(const struct writer *w, const struct derpmap_region *r)
{
    for (int i = 0; i < w->changes->n; i++)
        if (w->changes->listings[i].region_id == r->id)
            return true;
    return false;
}

static void put_nodes(struct writer *w, const struct derpmap *m, const struct derpmap_region *r)
{
    bool instead = w->changes->instead && changed(w, r);

    for (int i = 0; i < r->n_nodes && !instead; i++) {
        const struct derpmap_node *n = r->nodes[i];
        if (!n->backup || !is_yaml(w))
            put_node(w, n, derpmap_node_extra(m, n)->export_name, n->region_id, n->stun_port);
    }
    for (int i = 0; i < w->changes->n; i++)
        if (w->changes->listings[i].region_id == r->id)
            put_listing(w, m, &w->changes->listings[i]);
}

static void put_region(struct writer *w, const struct derpmap *m, const struct derpmap_region *r)
{
    char key[16];

    snprintf(key, sizeof key, "%d", r->id);
    put_key(w, key);
    if (r->removed) {
        put(w, is_yaml(w) ? " null" : "null");
        return;
    }
    begin(w, '{');
    put_int(w, "RegionID", r->id);
    put_text(w, "RegionCode", r->code);
    put_text(w, "RegionName", r->name);
    if (r->has_location) {
        put_float(w, "Latitude", r->latitude);
        put_float(w, "Longitude", r->longitude);
    }
    put_true(w, "Avoid", r->avoid);
    put_true(w, "NoMeasureNoHome", r->no_measure_no_home);
    put_key(w, "Nodes");
    begin(w, '[');
    put_nodes(w, m, r);
    end(w, ']');
    end(w, '}');
}

static void put_score(struct writer *w, int region_id, double score)
{
    char key[16];

    snprintf(key, sizeof key, "%d", region_id);
    put_float(w, key, score);
}

/* The scores of listed regions and of others, which are both ascending, merged. */
static void put_home_params(struct writer *w, const struct derpmap *m)
{
    const struct derpmap_full *full = derpmap_full(m);
    int k = 0, scored = full->n_scores;

    for (int i = 0; i < m->n_regions; i++)
        scored += m->regions[i].score > 0;
    if (scored == 0)
        return;
    put_key(w, "HomeParams");
    begin(w, '{');
    put_key(w, "RegionScore");
    begin(w, '{');
    for (int i = 0; i < m->n_regions; i++) {
        for (; k < full->n_scores && full->scores[k].region_id < m->regions[i].id; k++)
            put_score(w, full->scores[k].region_id, full->scores[k].score);
        if (m->regions[i].score > 0)
            put_score(w, m->regions[i].id, m->regions[i].score);
    }
    for (; k < full->n_scores; k++)
        put_score(w, full->scores[k].region_id, full->scores[k].score);
    end(w, '}');
    end(w, '}');
}

/* The note, as comment lines. */
static void put_note(struct writer *w, const char *comment)
{
    const char *s = w->changes->note;

    while (s && *s) {
        size_t n = strcspn(s, "\n");
        put(w, is_yaml(w) ? "\n%s%.*s" : "%s%.*s\n", comment, (int)n, s);
        s += n + (s[n] == '\n');
    }
}

static void put_header(struct writer *w, const struct derpmap *m)
{
    int backups = 0;

    for (int i = 0; i < m->n_nodes; i++)
        backups += m->nodes[i].backup;
    if (w->to == DERPMAP_TO_TAILSCALE)
        put(w, "// The value of \"derpMap\" in the tailnet policy file.\n");
    if (w->to == DERPMAP_TO_TAILSCALE)
        put_note(w, "// ");
    if (!is_yaml(w))
        return;
    put(w, "# For derp.paths in Headscale's config.yaml.");
    if (m->omit_default_regions)
        put(w, "\n# Headscale ignores omitdefaultregions: set derp.urls to [] there.");
    if (backups)
        put(w, "\n# Left out: %d backup listing%s, since Headscale shuffles the nodes of a region.", backups,
            backups == 1 ? "" : "s");
    put_note(w, "# ");
}

char *derpmap_export(const struct derpmap *m, enum derpmap_to to)
{
    return derpmap_export_changed(m, to, NULL);
}

char *derpmap_export_changed(const struct derpmap *m, enum derpmap_to to,
                             const struct derpmap_changes *changes)
{
    static const struct derpmap_changes none;
    struct writer w = {.to = to, .changes = changes ? changes : &none};

    put_header(&w, m);
    if (is_yaml(&w))
        w.depth = -1; /* the map itself has no brackets there */
    begin(&w, '{');
    put_true(&w, to == DERPMAP_TO_JSON ? "omitDefaultRegions" : "OmitDefaultRegions",
             m->omit_default_regions);
    put_home_params(&w, m);
    put_key(&w, "Regions");
    begin(&w, '{');
    for (int i = 0; i < m->n_regions; i++)
        put_region(&w, m, &m->regions[i]);
    end(&w, '}');
    end(&w, '}');
    put(&w, "\n");
    if (w.failed) {
        free(w.text);
        return NULL;
    }
    return w.text;
}
