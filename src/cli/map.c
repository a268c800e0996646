/* The subcommands of `derpmesh map`: check, show, diff, export.
 *
 * Happy path: read the file (or standard input), parse it, and print findings, a table or another spelling.
 * It fails with exit code 1 and a FILE:LINE:COL line where the map is at fault, 2 for wrong use, 3 where
 * the file cannot be read or the output not written. */
#include "cli/map.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/map_parts.h"

enum { BACKUPS_MAX = 16 };

static const char usage[] =
    "usage: derpmesh map check FILE\n"
    "       derpmesh map show FILE\n"
    "       derpmesh map diff OLD NEW\n"
    "       derpmesh map export --to tailscale|headscale|json [--backup N [--measured PROBE]] FILE\n"
    "       derpmesh map export --into FILE [--dry-run] [--backup N [--measured PROBE]] FILE\n"
    "\n"
    "FILE is a derpMap as Tailscale's JSON, as a tailnet policy (HuJSON) or as Headscale's YAML; - is "
    "standard input.\n"
    "\n"
    "  check   prints errors and warnings with line and column; exit code 1 on errors\n"
    "  show    a table of regions and nodes, as understood\n"
    "  diff    what a reload with NEW instead of OLD does: nodes added, removed, changed, links touched\n"
    "  export  writes the map to standard output in another spelling:\n"
    "            tailscale  HuJSON, the value of \"derpMap\" in a tailnet policy\n"
    "            headscale  derp.yaml, for derp.paths in Headscale's configuration\n"
    "            json       DERPMap JSON\n"
    "          --into F       puts it into F, a tailnet policy or Headscale's derp.yaml, in place of the map "
    "there; all\n"
    "                         else in F stays byte for byte.  Prints whether F was changed\n"
    "          --dry-run      F is not written\n"
    "          --backup N     each region also lists a node of each of the N nearest regions, with STUNPort "
    "-1: "
    "a\n"
    "                         relay that is killed is then not missed\n"
    "          --measured F   nearest by the round trips in F, as derpmesh probe --json printed them; else "
    "by\n"
    "                         Latitude and Longitude\n";

void map_print_finding(FILE *to, const char *file, const struct text_error *at, bool error)
{
    fputs(file, to);
    if (at->line)
        fprintf(to, ":%d:%d", at->line, at->col);
    fprintf(to, ": %s: %s\n", error ? "error" : "warning", at->msg);
}

static const char *plural(int n)
{
    return n == 1 ? "" : "s";
}

static int count_regions(const struct derpmap *m)
{
    int n = 0;

    for (int i = 0; i < m->n_regions; i++)
        n += !m->regions[i].removed;
    return n;
}

static int count_backups(const struct derpmap *m)
{
    int n = 0;

    for (int i = 0; i < m->n_nodes; i++)
        n += m->nodes[i].backup;
    return n;
}

static void print_size(const struct derpmap *m)
{
    int regions = count_regions(m), backups = count_backups(m), nodes = m->n_nodes - backups;

    printf("%d region%s, %d node%s", regions, plural(regions), nodes, plural(nodes));
    if (backups)
        printf(" and %d backup listing%s", backups, plural(backups));
    printf(", map ");
    for (int i = 0; i < 6; i++)
        printf("%02x", m->hash[i]);
}

void map_on_finding(void *report, const struct derpmap_finding *f)
{
    struct map_report *r = report;

    r->warnings += !f->error;
    if (f->error || !r->errors_only)
        map_print_finding(r->to, r->file, &f->at, f->error);
}

int map_finish_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    fprintf(stderr, "derpmesh map: cannot write: %s\n", strerror(errno));
    return EXIT_CANNOT_RUN;
}

static int map_check(const struct map_file *f)
{
    struct map_report r = {.to = stdout, .file = f->name};
    struct text_error err;
    struct derpmap *m = derpmap_parse(f->text, f->n, &err);
    int errors = 1, rc;

    if (!m) {
        map_print_finding(stdout, f->name, &err, true);
        printf("%s: not usable: correct this error, then check again\n", f->name);
    } else {
        errors = derpmap_lint(m, map_on_finding, &r);
        printf("%s: ", f->name);
        if (errors)
            printf("not usable: %d error%s", errors, plural(errors));
        else
            printf(r.warnings ? "usable" : "fine");
        if (r.warnings)
            printf("%s%d warning%s", errors ? ", " : ": ", r.warnings, plural(r.warnings));
        printf(r.warnings || errors ? "; " : ": ");
        print_size(m);
        printf("\n");
        derpmap_free(m);
    }
    rc = map_finish_output();
    return rc ? rc : errors ? EXIT_MAP_AT_FAULT : 0;
}

static int map_show(const struct map_file *f)
{
    static const char *const formats[] = {[DERPMAP_JSON] = "DERPMap JSON",
                                          [DERPMAP_POLICY] = "tailnet policy",
                                          [DERPMAP_HEADSCALE] = "Headscale YAML"};
    struct text_error err;
    struct derpmap *m = derpmap_parse(f->text, f->n, &err);
    int rc;

    if (!m) {
        map_print_finding(stderr, f->name, &err, true);
        return EXIT_MAP_AT_FAULT;
    }
    rc = map_print_table(m);
    if (rc == 0) {
        printf("\n%s: %s, ", f->name, formats[m->format]);
        print_size(m);
        printf("%s\n", m->omit_default_regions ? "; Tailscale's own regions left out" : "");
        rc = map_finish_output();
    }
    derpmap_free(m);
    return rc;
}

static int wrong_use(const char *what, const char *arg)
{
    fprintf(stderr, "derpmesh map: %s%s%s\nderpmesh map --help tells more.\n", what, arg ? " " : "",
            arg ? arg : "");
    return EXIT_WRONG_USE;
}

struct map_args {
    const char *path, *fresh; /* fresh: diff's NEW */
    const char *to, *backup, *measured, *into;
    bool help, dry_run;
};

/* The flag at argv[*i], one of export's with a value: where the value goes; NULL if it is none of them.  *i moves past it;
 * *value is NULL where nothing follows. */
static const char **export_flag(struct map_args *a, int argc, char **argv, int *i, const char **value)
{
    const struct {
        const char *name;
        const char **at;
    } flags[] = {
        {"--to", &a->to}, {"--backup", &a->backup}, {"--measured", &a->measured}, {"--into", &a->into}};

    for (size_t k = 0; k < sizeof flags / sizeof *flags; k++) {
        size_t n = strlen(flags[k].name);
        if (strncmp(argv[*i], flags[k].name, n) != 0 || (argv[*i][n] && argv[*i][n] != '='))
            continue;
        *value = argv[*i][n] ? argv[*i] + n + 1 : *i + 1 < argc ? argv[++*i] : NULL;
        return flags[k].at;
    }
    return NULL;
}

/* 0, or the exit code. */
static int parse_args(struct map_args *a, int argc, char **argv, bool is_export, bool is_diff)
{
    bool flags = true;
    const char **at, *value;

    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (flags && strcmp(arg, "--") == 0)
            flags = false;
        else if (flags && (strcmp(arg, "-h") == 0 || strcmp(arg, "--help") == 0))
            a->help = true;
        else if (flags && is_export && strcmp(arg, "--dry-run") == 0)
            a->dry_run = true;
        else if (flags && is_export && (at = export_flag(a, argc, argv, &i, &value))) {
            if (!value)
                return at == &a->to ? wrong_use("--to needs tailscale, headscale or json", NULL)
                                    : wrong_use("a value is missing after", arg);
            *at = value;
        } else if (flags && arg[0] == '-' && arg[1])
            return wrong_use(
                is_export ? "known flags are --to, --into, --dry-run, --backup, --measured and --help, not"
                          : "the only flag is --help, not",
                arg);
        else if (a->path && is_diff && !a->fresh)
            a->fresh = arg;
        else if (a->path)
            return wrong_use(is_diff ? "two files only, not also" : "one FILE only, not also", arg);
        else
            a->path = arg;
    }
    if (!a->help && is_diff && !a->fresh)
        return wrong_use("diff compares two files: OLD NEW (- is standard input)", NULL);
    return a->help || a->path ? 0 : wrong_use("FILE is missing (- is standard input)", NULL);
}

static int parse_to(const char *name, enum derpmap_to *to)
{
    static const char *const names[] = {[DERPMAP_TO_TAILSCALE] = "tailscale",
                                        [DERPMAP_TO_HEADSCALE] = "headscale",
                                        [DERPMAP_TO_JSON] = "json"};

    for (int i = 0; i < 3; i++)
        if (strcmp(names[i], name) == 0) {
            *to = (enum derpmap_to)i;
            return 0;
        }
    return wrong_use("--to takes tailscale, headscale or json, not", name);
}

/* What export is to do.  0, or the exit code. */
static int parse_export(const struct map_args *a, struct map_export *how)
{
    char *end = NULL;
    long n = a->backup ? strtol(a->backup, &end, 10) : 0;

    if (!a->to && !a->into)
        return wrong_use("export needs --to tailscale, headscale or json, or --into FILE", NULL);
    if (a->dry_run && !a->into)
        return wrong_use("--dry-run is for --into FILE", NULL);
    if (a->backup && (end == a->backup || *end || n < 1 || n > BACKUPS_MAX))
        return wrong_use("--backup takes a number from 1 to 16, not", a->backup);
    if (a->measured && !a->backup)
        return wrong_use("--measured says which nodes are near, for --backup N", NULL);
    how->backups = (int)n;
    how->measured = a->measured;
    how->into = a->into;
    how->dry_run = a->dry_run;
    how->to_given = a->to != NULL;
    return a->to ? parse_to(a->to, &how->to) : 0;
}

/* 0, or the exit code. */
static int read_map(struct map_file *f, const char *path)
{
    f->name = strcmp(path, "-") == 0 ? "standard input" : path;
    f->text = cli_read_file("map", path, &f->n);
    return f->text ? 0 : EXIT_CANNOT_RUN;
}

int cli_map(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    bool check = strcmp(verb, "check") == 0, show = strcmp(verb, "show") == 0,
         export = strcmp(verb, "export") == 0, diff = strcmp(verb, "diff") == 0;
    bool help = strcmp(verb, "-h") == 0 || strcmp(verb, "--help") == 0 || strcmp(verb, "help") == 0;
    struct map_args args = {0};
    struct map_file file = {0}, fresh = {0};
    struct map_export how = {.to = DERPMAP_TO_JSON};
    int rc;

    if (!help && !check && !show && !diff && !export)
        return *verb ? wrong_use("unknown subcommand", verb)
                     : wrong_use("check, show, diff or export?", NULL);
    rc = help ? 0 : parse_args(&args, argc - 2, argv + 2, export, diff);
    if (rc)
        return rc;
    if (help || args.help) {
        fputs(usage, stdout);
        return map_finish_output();
    }
    if (export && (rc = parse_export(&args, &how)))
        return rc;
    rc = read_map(&file, args.path);
    if (rc == 0 && diff && (rc = read_map(&fresh, args.fresh)) == 0)
        rc = map_diff(&file, &fresh);
    else if (rc == 0)
        rc = check ? map_check(&file) : show ? map_show(&file) : map_export(&file, &how);
    free(file.text);
    free(fresh.text);
    return rc;
}
