/* derpmesh map show: the table of regions and nodes.
 *
 * Happy path: a row a node, then columns as wide as their widest cell, counted as a terminal counts.
 * Fails only without memory. */
#include "cli/map_parts.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

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

int map_print_table(const struct derpmap *m)
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
