/* derpmesh map export: the map in another spelling, on demand with each region's nearest neighbours as backups.
 *
 * Happy path: parse, lint, choose backups, write, and lint what was written, as whoever reads it would.  What was chosen and why,
 * and what is doubtful about it, goes to standard error.
 * Fails with code 1 where the map is at fault, 3 where a file cannot be read. */
#include "cli/map_parts.h"

#include <stdlib.h>
#include <string.h>

#include "cli/backup.h"
#include "cli/cli.h"
#include "cli/near.h"

static int out_of_memory(void)
{
    fprintf(stderr, "derpmesh map: out of memory\n");
    return EXIT_CANNOT_RUN;
}

/* The places of two regions in the map. */
static int region_index(const struct derpmap *m, int id)
{
    int i = 0;

    while (m->regions[i].id != id)
        i++;
    return i;
}

static void explain(const struct derpmap *m, const struct near *near, const struct derpmap_changes *c)
{
    char distance[NEAR_TEXT];

    for (int i = 0; i < c->n; i++) {
        const struct derpmap_listing *l = &c->listings[i];
        int a = region_index(m, l->region_id), b = region_index(m, l->node->region_id);
        fprintf(stderr, "region %d: backup %s of region %d (%s)\n", l->region_id, l->node->id,
                l->node->region_id, near_text(near, a, b, distance));
    }
    for (int i = 0; i < m->n_regions && c->n > 0; i++)
        if (!m->regions[i].removed && m->regions[i].n_nodes > 0 && !near_known(near, i))
            fprintf(
                stderr,
                "warning: region %d: nothing says which regions are near it, so its backup is the one with "
                "the lowest number; state Latitude and Longitude, or give --measured\n",
                m->regions[i].id);
}

/* What clients will read, checked as they would read it.  The exit code. */
static int check_written(const char *text, enum derpmap_to to)
{
    struct map_report r = {.to = stderr, .file = "as exported", .errors_only = true};
    struct text_error err;
    struct derpmap *m = derpmap_parse(text, strlen(text), &err);
    int errors = 1;

    if (!m)
        map_print_finding(stderr, r.file, &err, true);
    else
        errors = derpmap_lint(m, map_on_finding, &r);
    derpmap_free(m);
    if (to == DERPMAP_TO_HEADSCALE)
        fprintf(
            stderr,
            "warning: Headscale shuffles the nodes of a region when it starts, and at each update: a backup "
            "may become the first, and clients then make a relay of another region their home.  Set "
            "auto_update_enabled: false, look with \"tailscale debug derp-map\" which stands first, or use "
            "\"derpmesh follow\" instead, which needs no backups\n");
    return errors ? EXIT_MAP_AT_FAULT : 0;
}

static int export_backups(const struct derpmap *m, const struct map_export *how, char **text)
{
    char err[200];
    size_t n_probe = 0;
    char *probe = NULL;
    struct derpmap_changes c = {.note =
                                    "With nodes of the nearest regions as backups, which answer no STUN."};
    int rc = 0;

    if (how->measured && !(probe = cli_read_file("map", how->measured, &n_probe)))
        return EXIT_CANNOT_RUN;
    struct near *near = near_new(m, probe, n_probe, err, sizeof err);
    if (!near) {
        fprintf(stderr, "derpmesh map: %s: %s\n", how->measured ? how->measured : "nearest regions", err);
        free(probe);
        return EXIT_CANNOT_RUN;
    }
    struct derpmap_listing *l = backup_choose(m, near, how->backups, &c.n);
    c.listings = l;
    *text = l ? derpmap_export_changed(m, how->to, &c) : NULL;
    if (*text) {
        explain(m, near, &c);
        rc = check_written(*text, how->to);
    }
    free(l);
    near_free(near);
    free(probe);
    return rc;
}

int map_export(const struct map_file *f, const struct map_export *how)
{
    struct map_report r = {.to = stderr, .file = f->name, .errors_only = true};
    struct text_error err;
    struct derpmap *m = derpmap_parse(f->text, f->n, &err);
    char *text = NULL;
    int rc = 0;

    if (!m) {
        map_print_finding(stderr, f->name, &err, true);
        return EXIT_MAP_AT_FAULT;
    }
    if (derpmap_lint(m, map_on_finding, &r) > 0) {
        fprintf(stderr, "%s: not exported: clients would be given these errors\n", f->name);
        derpmap_free(m);
        return EXIT_MAP_AT_FAULT;
    }
    if (how->backups)
        rc = export_backups(m, how, &text);
    else
        text = derpmap_export(m, how->to);
    derpmap_free(m);
    if (rc == 0 && !text)
        rc = out_of_memory();
    if (rc == 0)
        fputs(text, stdout);
    free(text);
    return rc ? rc : map_finish_output();
}
