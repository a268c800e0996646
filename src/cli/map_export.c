/* derpmesh map export: the map in another spelling, on demand with each region's nearest neighbours as backups.
 *
 * Happy path: parse, lint, choose backups, write, and lint what was written, as whoever reads it would.  What was chosen and why,
 * and what is doubtful about it, goes to standard error.  With --into the file is read before and written after.
 * Fails with code 1 where the map is at fault, 3 where a file cannot be read. */
#include "cli/map_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/backup.h"
#include "cli/cli.h"
#include "cli/map_into.h"
#include "cli/near.h"
#include "cli/replace.h"

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

/* ---- into a file that holds more ---- */

/* The file's text with a NUL behind it; NULL after a complaint. */
static char *read_into(const char *path, size_t *n)
{
    char *text = cli_read_file("map", path, n), *more = text ? realloc(text, *n + 1) : NULL;

    if (!more) {
        free(text);
        return NULL;
    }
    more[*n] = 0;
    return more;
}

/* What was made is what clients would read: as many regions and nodes as were exported. */
static bool holds(const char *whole, const char *text)
{
    struct text_error err;
    struct derpmap *a = derpmap_parse(whole, strlen(whole), &err),
                   *b = derpmap_parse(text, strlen(text), &err);
    bool same = a && b && a->n_regions == b->n_regions && a->n_nodes == b->n_nodes;

    for (int i = 0; same && i < a->n_nodes; i++)
        same = strcmp(a->nodes[i].host_name, b->nodes[i].host_name) == 0;
    derpmap_free(a);
    derpmap_free(b);
    return same;
}

/* Writes the whole, if it is another text than the file has.  The exit code. */
static int write_into(const struct map_export *how, const char *old, const char *whole)
{
    char *path = realpath(how->into, NULL); /* a link stays one */
    const char *done = strcmp(old, whole) == 0 ? "unchanged" : how->dry_run ? "would be changed" : "changed";
    int rc = 0;

    if (!path || (strcmp(done, "changed") == 0 && cli_file_replace(path, whole) != 0)) {
        fprintf(stderr, "derpmesh map: cannot write %s: %s\n", how->into, strerror(errno));
        rc = EXIT_CANNOT_RUN;
    } else {
        printf("%s: %s\n", how->into, done);
    }
    free(path);
    return rc;
}

/* Whether the file is a policy: what --to says, else its text. */
static bool into_policy(const struct map_export *how, const char *old, size_t n)
{
    return how->to_given ? how->to != DERPMAP_TO_HEADSCALE : map_into_is_policy(old, n);
}

/* text: as exported for that kind of file. */
static int export_into(const struct map_export *how, const char *old, size_t n, const char *text)
{
    struct text_error err;
    char *whole = how->to == DERPMAP_TO_HEADSCALE ? map_into_headscale(old, n, text, &err)
                                                  : map_into_policy(old, n, text, &err);
    int rc = EXIT_MAP_AT_FAULT;

    if (!whole)
        map_print_finding(stderr, how->into, &err, true);
    else if (!holds(whole, text))
        fprintf(stderr,
                "derpmesh map: %s: left as it is: with the map in it, it would be read as another one\n",
                how->into);
    else
        rc = write_into(how, old, whole);
    free(whole);
    return rc;
}

/* ---- the command ---- */

static int export_map(const struct map_file *f, const struct map_export *how, char **text)
{
    struct map_report r = {.to = stderr, .file = f->name, .errors_only = true};
    struct text_error err;
    struct derpmap *m = derpmap_parse(f->text, f->n, &err);
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
        rc = export_backups(m, how, text);
    else
        *text = derpmap_export(m, how->to);
    derpmap_free(m);
    return rc == 0 && !*text ? out_of_memory() : rc;
}

int map_export(const struct map_file *f, const struct map_export *wanted)
{
    struct map_export how = *wanted;
    char *text = NULL, *old = NULL;
    size_t n = 0;

    if (how.into && !(old = read_into(how.into, &n)))
        return EXIT_CANNOT_RUN;
    if (how.into) /* plain JSON: a policy may be read by something that knows no trailing commas */
        how.to = into_policy(&how, old, n) ? DERPMAP_TO_JSON : DERPMAP_TO_HEADSCALE;
    int rc = export_map(f, &how, &text);
    if (rc == 0 && how.into)
        rc = export_into(&how, old, n, text);
    else if (rc == 0)
        fputs(text, stdout);
    free(text);
    free(old);
    return rc ? rc : map_finish_output();
}
