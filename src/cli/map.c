/* The subcommands of `derpmesh map`: check, show, export.
 *
 * Happy path: read the file (or standard input), parse it, and print findings, a table or another spelling.
 * It fails with exit code 1 and a FILE:LINE:COL line where the map is at fault, 2 for wrong use, 3 where
 * the file cannot be read or the output not written. */
#include "cli/map.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/derpmap.h"

enum { EXIT_MAP_AT_FAULT = 1, EXIT_WRONG_USE = 2, EXIT_CANNOT_RUN = 3, FILE_MAX = (4 << 20) + 1 };

static const char usage[] =
    "usage: derpmesh map check FILE\n"
    "       derpmesh map show FILE\n"
    "       derpmesh map export --to tailscale|headscale|json FILE\n"
    "\n"
    "FILE is a derpMap as Tailscale's JSON, as a tailnet policy (HuJSON) or as Headscale's YAML; - is "
    "standard input.\n"
    "\n"
    "  check   prints errors and warnings with line and column; exit code 1 on errors\n"
    "  show    a table of regions and nodes, as understood\n"
    "  export  writes the map to standard output in another spelling:\n"
    "            tailscale  HuJSON, the value of \"derpMap\" in a tailnet policy\n"
    "            headscale  derp.yaml, for derp.paths in Headscale's configuration\n"
    "            json       DERPMap JSON\n";

struct map_file {
    const char *name; /* for messages */
    char *text;
    size_t n;
};

/* The file at most one byte longer than a map may be, so that the parser sees that it is too long. */
static int read_file(struct map_file *f, const char *path)
{
    bool in = strcmp(path, "-") == 0;
    FILE *fp = in ? stdin : fopen(path, "rb");

    f->name = in ? "standard input" : path;
    f->text = malloc(FILE_MAX);
    if (!fp || !f->text) {
        fprintf(stderr, "derpmesh map: cannot read %s: %s\n", f->name, strerror(fp ? ENOMEM : errno));
        if (fp && !in)
            fclose(fp);
        return -1;
    }
    f->n = fread(f->text, 1, FILE_MAX, fp);
    int failed = ferror(fp) ? errno : 0;
    if (!in)
        fclose(fp);
    if (failed) {
        fprintf(stderr, "derpmesh map: cannot read %s: %s\n", f->name, strerror(failed));
        return -1;
    }
    return 0;
}

static void print_finding(FILE *to, const char *file, const struct text_error *at, bool error)
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

struct report {
    FILE *to;
    const char *file;
    bool errors_only;
    int warnings;
};

static void on_finding(void *ctx, const struct derpmap_finding *f)
{
    struct report *r = ctx;

    r->warnings += !f->error;
    if (f->error || !r->errors_only)
        print_finding(r->to, r->file, &f->at, f->error);
}

static int finish_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    fprintf(stderr, "derpmesh map: cannot write: %s\n", strerror(errno));
    return EXIT_CANNOT_RUN;
}

static int map_check(const struct map_file *f)
{
    struct report r = {.to = stdout, .file = f->name};
    struct text_error err;
    struct derpmap *m = derpmap_parse(f->text, f->n, &err);
    int errors = 1, rc;

    if (!m) {
        print_finding(stdout, f->name, &err, true);
        printf("%s: not usable: correct this error, then check again\n", f->name);
    } else {
        errors = derpmap_lint(m, on_finding, &r);
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
    rc = finish_output();
    return rc ? rc : errors ? EXIT_MAP_AT_FAULT : 0;
}

static int map_export(const struct map_file *f, enum derpmap_to to)
{
    struct report r = {.to = stderr, .file = f->name, .errors_only = true};
    struct text_error err;
    struct derpmap *m = derpmap_parse(f->text, f->n, &err);
    char *text;

    if (!m) {
        print_finding(stderr, f->name, &err, true);
        return EXIT_MAP_AT_FAULT;
    }
    if (derpmap_lint(m, on_finding, &r) > 0) {
        fprintf(stderr, "%s: not exported: clients would be given these errors\n", f->name);
        derpmap_free(m);
        return EXIT_MAP_AT_FAULT;
    }
    text = derpmap_export(m, to);
    derpmap_free(m);
    if (!text) {
        fprintf(stderr, "derpmesh map: out of memory\n");
        return EXIT_CANNOT_RUN;
    }
    fputs(text, stdout);
    free(text);
    return finish_output();
}

enum {
    COL_REGION,
    COL_CODE,
    COL_NAME,
    COL_NODE,
    COL_HOST,
    COL_DERP,
    COL_STUN,
    COL_CERT,
    COL_ADDRESS,
    COLUMNS,
    CELL_MAX = 320
};

struct row {
    char cell[COLUMNS][CELL_MAX];
};

/* Columns of a terminal that a code point takes: East Asian wide ones take two, combining ones none. */
static int rune_width(unsigned c)
{
    static const struct {
        unsigned first, last;
        int width;
    } ranges[] = {{0x300, 0x36f, 0},   {0x1100, 0x115f, 2},   {0x200b, 0x200f, 0},  {0x2e80, 0xa4cf, 2},
                  {0xac00, 0xd7a3, 2}, {0xf900, 0xfaff, 2},   {0xfe30, 0xfe6f, 2},  {0xff00, 0xff60, 2},
                  {0xffe0, 0xffe6, 2}, {0x1f300, 0x1f9ff, 2}, {0x20000, 0x3fffd, 2}};

    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (c >= ranges[i].first && c <= ranges[i].last)
            return ranges[i].width;
    return 1;
}

/* Of well-formed UTF-8, as the parser has made sure. */
static int text_width(const char *s)
{
    int width = 0;

    while (*s) {
        unsigned char c = (unsigned char)*s++;
        unsigned rune = c < 0x80 ? c : c < 0xe0 ? c & 31 : c < 0xf0 ? c & 15 : c & 7;
        while (((unsigned char)*s & 0xc0) == 0x80)
            rune = rune << 6 | ((unsigned char)*s++ & 63);
        width += rune_width(rune);
    }
    return width;
}

static void describe_certificate(char out[static CELL_MAX], const struct derpmap_node *n)
{
    uint8_t pin[32];

    if (n->stun_only)
        snprintf(out, CELL_MAX, "-");
    else if (n->insecure_for_tests)
        snprintf(out, CELL_MAX, "NOT CHECKED");
    else if (derpmap_pin(n, pin) == 0)
        snprintf(out, CELL_MAX, "pin %02x%02x%02x%02x...", pin[0], pin[1], pin[2], pin[3]);
    else if (n->cert_name && strncmp(n->cert_name, "sha256", 6) == 0)
        snprintf(out, CELL_MAX, "BAD PIN");
    else if (n->cert_name)
        snprintf(out, CELL_MAX, "CA, as %.200s", n->cert_name);
    else
        snprintf(out, CELL_MAX, "CA");
}

/* How clients come to an address of one family. */
static const char *describe_address(const struct derpmap_node *n, const char *stated, int family)
{
    unsigned char b[16];
    bool is4 = inet_pton(AF_INET, n->host_name, b) == 1, is6 = inet_pton(AF_INET6, n->host_name, b) == 1;
    const char *none = family == AF_INET ? "no IPv4" : "no IPv6";

    if (stated)
        return strcmp(stated, "none") == 0 ? none : stated;
    if (is4 || is6)
        return is4 == (family == AF_INET) ? n->host_name : none;
    return family == AF_INET ? "IPv4 by DNS" : "IPv6 by DNS";
}

static void describe_addresses(char out[static CELL_MAX], const struct derpmap_node *n)
{
    const char *v4 = describe_address(n, n->ipv4, AF_INET), *v6 = describe_address(n, n->ipv6, AF_INET6);

    if (strcmp(v4, "IPv4 by DNS") == 0 && strcmp(v6, "IPv6 by DNS") == 0)
        snprintf(out, CELL_MAX, "by DNS");
    else
        snprintf(out, CELL_MAX, "%.64s, %.64s", v4, v6);
}

static void fill_node(struct row *row, const struct derpmap_node *n)
{
    snprintf(row->cell[COL_NODE], CELL_MAX, n->backup ? "(backup: %s)" : "%s", n->id);
    snprintf(row->cell[COL_HOST], CELL_MAX, "%s", n->host_name);
    snprintf(row->cell[COL_DERP], CELL_MAX, n->stun_only ? "-" : "%d", derpmap_derp_port(n));
    snprintf(row->cell[COL_STUN], CELL_MAX, derpmap_stun_port(n) < 0 ? "off" : "%d", derpmap_stun_port(n));
    describe_certificate(row->cell[COL_CERT], n);
    describe_addresses(row->cell[COL_ADDRESS], n);
}

static void fill_region(struct row *row, const struct derpmap_region *r)
{
    snprintf(row->cell[COL_REGION], CELL_MAX, "%d", r->id);
    if (r->removed) {
        snprintf(row->cell[COL_CODE], CELL_MAX, "(removed)");
        return;
    }
    snprintf(row->cell[COL_CODE], CELL_MAX, "%.160s", r->code);
    snprintf(row->cell[COL_NAME], CELL_MAX, "%.160s%s", r->name, r->no_measure_no_home ? " (no home)" : "");
    if (r->n_nodes == 0)
        snprintf(row->cell[COL_NODE], CELL_MAX, "(none)");
}

static void print_rows(const struct row *rows, int n)
{
    int width[COLUMNS] = {0};

    for (int i = 0; i < n; i++)
        for (int c = 0; c < COLUMNS; c++) {
            int w = text_width(rows[i].cell[c]);
            width[c] = w > width[c] ? w : width[c];
        }
    for (int i = 0; i < n; i++) {
        int last = COLUMNS - 1;
        while (last > 0 && !*rows[i].cell[last])
            last--;
        for (int c = 0; c <= last; c++) {
            const char *s = rows[i].cell[c];
            int pad = width[c] - text_width(s);
            bool right = c == COL_DERP || c == COL_STUN;
            printf("%s%*s%s%*s", c ? "  " : "", right ? pad : 0, "", s, right || c == last ? 0 : pad, "");
        }
        printf("\n");
    }
}

static int print_table(const struct derpmap *m)
{
    static const char *const heads[COLUMNS] = {"REGION", "CODE", "NAME",        "NODE",     "HOST",
                                               "DERP",   "STUN", "CERTIFICATE", "ADDRESSES"};
    struct row *rows = calloc((size_t)(m->n_regions + m->n_nodes) + 1, sizeof *rows);
    int n = 1;

    if (!rows) {
        fprintf(stderr, "derpmesh map: out of memory\n");
        return EXIT_CANNOT_RUN;
    }
    for (int c = 0; c < COLUMNS; c++)
        snprintf(rows[0].cell[c], CELL_MAX, "%s", heads[c]);
    for (int i = 0; i < m->n_regions; i++) {
        const struct derpmap_region *r = &m->regions[i];
        fill_region(&rows[n], r);
        for (int k = 0; k < r->n_nodes; k++)
            fill_node(&rows[n++], r->nodes[k]);
        n += r->n_nodes == 0;
    }
    print_rows(rows, n);
    free(rows);
    return 0;
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
        print_finding(stderr, f->name, &err, true);
        return EXIT_MAP_AT_FAULT;
    }
    rc = print_table(m);
    if (rc == 0) {
        printf("\n%s: %s, ", f->name, formats[m->format]);
        print_size(m);
        printf("%s\n", m->omit_default_regions ? "; Tailscale's own regions left out" : "");
        rc = finish_output();
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
    const char *path, *to;
    bool help;
};

/* 0, or the exit code. */
static int parse_args(struct map_args *a, int argc, char **argv, bool takes_to)
{
    bool flags = true;

    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (flags && strcmp(arg, "--") == 0)
            flags = false;
        else if (flags && (strcmp(arg, "-h") == 0 || strcmp(arg, "--help") == 0))
            a->help = true;
        else if (flags && takes_to && strncmp(arg, "--to=", 5) == 0)
            a->to = arg + 5;
        else if (flags && takes_to && strcmp(arg, "--to") == 0) {
            if (++i == argc)
                return wrong_use("--to needs tailscale, headscale or json", NULL);
            a->to = argv[i];
        } else if (flags && arg[0] == '-' && arg[1])
            return wrong_use(
                takes_to ? "known flags are --to and --help, not" : "the only flag is --help, not", arg);
        else if (a->path)
            return wrong_use("one FILE only, not also", arg);
        else
            a->path = arg;
    }
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

int cli_map(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    bool check = strcmp(verb, "check") == 0, show = strcmp(verb, "show") == 0,
         export = strcmp(verb, "export") == 0;
    bool help = strcmp(verb, "-h") == 0 || strcmp(verb, "--help") == 0 || strcmp(verb, "help") == 0;
    struct map_args args = {0};
    struct map_file file = {0};
    enum derpmap_to to = DERPMAP_TO_JSON;
    int rc;

    if (!help && !check && !show && !export)
        return *verb ? wrong_use("unknown subcommand", verb) : wrong_use("check, show or export?", NULL);
    rc = help ? 0 : parse_args(&args, argc - 2, argv + 2, export);
    if (rc)
        return rc;
    if (help || args.help) {
        fputs(usage, stdout);
        return finish_output();
    }
    if (export && !args.to)
        return wrong_use("export needs --to tailscale, headscale or json", NULL);
    if (export && (rc = parse_to(args.to, &to)))
        return rc;
    rc = read_file(&file, args.path) < 0 ? EXIT_CANNOT_RUN
         : check                         ? map_check(&file)
         : show                          ? map_show(&file)
                                         : map_export(&file, to);
    free(file.text);
    return rc;
}
