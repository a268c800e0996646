/* What the files of `derpmesh map` share. */
#ifndef DERPMESH_CLI_MAP_PARTS_H
#define DERPMESH_CLI_MAP_PARTS_H

#include <stdbool.h>
#include <stdio.h>

#include "proto/derpmap.h"

enum { EXIT_MAP_AT_FAULT = 1, EXIT_WRONG_USE = 2, EXIT_CANNOT_RUN = 3 };

struct map_file {
    const char *name; /* for messages */
    char *text;       /* malloc'd */
    size_t n;
};

/* "FILE:LINE:COL: error: …" */
void map_print_finding(FILE *to, const char *file, const struct text_error *at, bool error);

struct map_report {
    FILE *to;
    const char *file;
    bool errors_only;
    int warnings;
};
void map_on_finding(void *report, const struct derpmap_finding *f); /* for derpmap_lint */

/* map_show.c: the table of regions and nodes.  The exit code. */
int map_print_table(const struct derpmap *m);

/* map_diff.c: what a reload would do, on standard output.  The exit code. */
int map_diff(const struct map_file *old_file, const struct map_file *fresh_file);

/* map_export.c: the map in another spelling, on standard output.  The exit code. */
struct map_export {
    enum derpmap_to to;
    int backups;          /* nodes of other regions that each region is to list */
    const char *measured; /* a file of probe --json, or NULL */
    const char *into;     /* a policy or derp.yaml that gets the map; NULL: standard output */
    bool to_given;        /* to was said; else into's text decides */
    bool dry_run;         /* into is not written */
};
int map_export(const struct map_file *f, const struct map_export *how);
/* The exit code, after a complaint if standard output was not written. */
int map_finish_output(void);

#endif
