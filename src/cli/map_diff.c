/* derpmesh map diff: what a reload with the new map would do.
 *
 * Happy path: parse both, then a line for each node and region that comes, goes or changes, and one that says which mesh links
 * that touches.
 * Fails with code 1 where a map is at fault: a node with it would not start, or refuse the reload. */
#include "cli/map_parts.h"

#include <string.h>

#include "cli/cli.h"

enum { VALUE_MAX = 320, LINKS_MAX = 1024 };

struct diff {
    int changes;
    char made[LINKS_MAX], closed[LINKS_MAX], anew[LINKS_MAX]; /* nodes, with commas */
};

static void add_name(char list[static LINKS_MAX], const char *name)
{
    size_t n = strlen(list);
    if (n + strlen(name) + 8 < LINKS_MAX)
        snprintf(list + n, LINKS_MAX - n, "%s%s", n ? ", " : "", name);
    else if (strcmp(list + n - 3, "...") != 0)
        snprintf(list + n, LINKS_MAX - n, ", ...");
}

/* ---- one value ---- */

static void text_value(char out[static VALUE_MAX], const char *s, const char *none)
{
    snprintf(out, VALUE_MAX, "%.300s", s && *s ? s : none);
}

static void port_value(char out[static VALUE_MAX], int port)
{
    if (port < 0)
        snprintf(out, VALUE_MAX, "off");
    else
        snprintf(out, VALUE_MAX, "%d", port);
}

/* ", name a -> b" behind what the line holds already. */
static void put_change(const char *head, int *n, const char *name, const char *a, const char *b)
{
    if (strcmp(a, b) == 0)
        return;
    printf(*n ? "; " : "%s", head);
    printf("%s %s -> %s", name, a, b);
    (*n)++;
}

static void put_text(const char *head, int *n, const char *name, const char *a, const char *b,
                     const char *none)
{
    char from[VALUE_MAX], to[VALUE_MAX];
    text_value(from, a, none);
    text_value(to, b, none);
    put_change(head, n, name, from, to);
}

static void put_port(const char *head, int *n, const char *name, int a, int b)
{
    char from[VALUE_MAX], to[VALUE_MAX];
    port_value(from, a);
    port_value(to, b);
    put_change(head, n, name, from, to);
}

static void put_flag(const char *head, int *n, const char *name, bool a, bool b)
{
    put_change(head, n, name, a ? "yes" : "no", b ? "yes" : "no");
}

/* ---- nodes ---- */

static void one_side(struct diff *d, const struct derpmap *a, const struct derpmap *b, char sign, char *links)
{
    for (int i = 0; i < a->n_nodes; i++) {
        const struct derpmap_node *x = &a->nodes[i];
        if (x->backup || derpmap_find(b, x->id))
            continue;
        printf("%c node %s: region %d, %s", sign, x->id, x->region_id, x->host_name);
        if (!x->stun_only)
            printf(", DERP %d", derpmap_derp_port(x));
        printf(derpmap_stun_port(x) < 0 ? ", no STUN\n" : ", STUN %d\n", derpmap_stun_port(x));
        d->changes++;
        if (!x->stun_only)
            add_name(links, x->id);
    }
}

static void changed_node(struct diff *d, const struct derpmap_node *a, const struct derpmap_node *b)
{
    char head[VALUE_MAX];
    int n = 0;

    snprintf(head, sizeof(head), "~ node %.200s: ", b->id);
    if (a->region_id != b->region_id)
        put_port(head, &n, "region", a->region_id, b->region_id);
    put_text(head, &n, "HostName", a->host_name, b->host_name, "-");
    put_text(head, &n, "IPv4", a->ipv4, b->ipv4, "by DNS");
    put_text(head, &n, "IPv6", a->ipv6, b->ipv6, "by DNS");
    put_text(head, &n, "CertName", a->cert_name, b->cert_name, "none");
    put_port(head, &n, "DERPPort", derpmap_derp_port(a), derpmap_derp_port(b));
    put_port(head, &n, "STUNPort", derpmap_stun_port(a), derpmap_stun_port(b));
    put_flag(head, &n, "STUNOnly", a->stun_only, b->stun_only);
    put_flag(head, &n, "InsecureForTests", a->insecure_for_tests, b->insecure_for_tests);
    put_flag(head, &n, "CanPort80", a->can_port80, b->can_port80);
    if (n)
        printf("\n");
    d->changes += n > 0;
    if (a->stun_only != b->stun_only)
        add_name(b->stun_only ? d->closed : d->made, b->id);
    else if (!b->stun_only && !derpmap_node_same(a, b))
        add_name(d->anew, b->id);
}

static void diff_nodes(struct diff *d, const struct derpmap *old, const struct derpmap *fresh)
{
    one_side(d, fresh, old, '+', d->made);
    one_side(d, old, fresh, '-', d->closed);
    for (int i = 0; i < fresh->n_nodes; i++) {
        const struct derpmap_node *b = &fresh->nodes[i], *a = b->backup ? NULL : derpmap_find(old, b->id);
        if (a)
            changed_node(d, a, b);
    }
}

/* ---- regions ---- */

static int backups_in(const struct derpmap_region *r)
{
    int n = 0;
    for (int i = 0; i < r->n_nodes; i++)
        n += r->nodes[i]->backup;
    return n;
}

static void changed_region(struct diff *d, const struct derpmap_region *a, const struct derpmap_region *b)
{
    char head[VALUE_MAX], from[VALUE_MAX], to[VALUE_MAX];
    int n = 0;

    snprintf(head, sizeof(head), "~ region %d: ", b->id);
    put_flag(head, &n, "removed", a->removed, b->removed);
    put_text(head, &n, "RegionCode", a->code, b->code, "none");
    put_text(head, &n, "RegionName", a->name, b->name, "none");
    snprintf(from, sizeof(from), a->has_location ? "%g,%g" : "none", a->latitude, a->longitude);
    snprintf(to, sizeof(to), b->has_location ? "%g,%g" : "none", b->latitude, b->longitude);
    put_change(head, &n, "Latitude,Longitude", from, to);
    put_flag(head, &n, "Avoid", a->avoid, b->avoid);
    put_flag(head, &n, "NoMeasureNoHome", a->no_measure_no_home, b->no_measure_no_home);
    snprintf(from, sizeof(from), "%g", a->score);
    snprintf(to, sizeof(to), "%g", b->score);
    put_change(head, &n, "RegionScore", from, to);
    put_port(head, &n, "backup listings", backups_in(a), backups_in(b));
    if (n)
        printf("\n");
    d->changes += n > 0;
}

static void diff_regions(struct diff *d, const struct derpmap *old, const struct derpmap *fresh)
{
    for (int i = 0; i < fresh->n_regions; i++) {
        const struct derpmap_region *b = &fresh->regions[i], *a = derpmap_region_of(old, b->id);
        if (a)
            changed_region(d, a, b);
        else
            d->changes++, printf("+ region %d: %s, %s\n", b->id, b->code, b->name);
    }
    for (int i = 0; i < old->n_regions; i++)
        if (!derpmap_region_of(fresh, old->regions[i].id))
            d->changes++, printf("- region %d: %s, %s\n", old->regions[i].id, old->regions[i].code,
                                 old->regions[i].name);
    put_change("~ map: ", &(int){0}, "OmitDefaultRegions", old->omit_default_regions ? "yes" : "no",
               fresh->omit_default_regions ? "yes" : "no");
    if (old->omit_default_regions != fresh->omit_default_regions)
        d->changes++, printf("\n");
}

/* ---- all ---- */

static void print_links(const struct diff *d)
{
    printf("mesh links:");
    if (!d->made[0] && !d->closed[0] && !d->anew[0])
        printf(" none is touched");
    if (d->made[0])
        printf(" new to %s;", d->made);
    if (d->closed[0])
        printf(" closed to %s;", d->closed);
    if (d->anew[0])
        printf(" dialled anew to %s, before the old ones go;", d->anew);
    printf("%s\n", d->made[0] || d->closed[0] || d->anew[0] ? " the others stand" : "");
    printf("Clients have their map from the control server: give it the new one too.\n");
}

static struct derpmap *parse(const struct map_file *f)
{
    struct map_report r = {.to = stderr, .file = f->name, .errors_only = true};
    struct text_error err;
    struct derpmap *m = derpmap_parse(f->text, f->n, &err);

    if (!m) {
        map_print_finding(stderr, f->name, &err, true);
    } else if (derpmap_lint(m, map_on_finding, &r) > 0) {
        derpmap_free(m);
        m = NULL;
    }
    return m;
}

int map_diff(const struct map_file *old_file, const struct map_file *fresh_file)
{
    struct diff d = {0};
    struct derpmap *old = parse(old_file), *fresh = parse(fresh_file);
    int rc = old && fresh ? 0 : EXIT_MAP_AT_FAULT;

    if (rc == 0) {
        diff_nodes(&d, old, fresh);
        diff_regions(&d, old, fresh);
        if (d.changes)
            print_links(&d);
        else
            printf("the two maps say the same\n");
        rc = map_finish_output();
    }
    derpmap_free(old);
    derpmap_free(fresh);
    return rc;
}
