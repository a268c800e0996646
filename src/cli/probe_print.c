/* What probe found: a matrix for a person, or JSON.
 *
 * Rows are where packets start, columns where they go; a cell is the median round trip in ms.  One sentence for each
 * failure follows, those of nodes before those of pairs, so that the cause stands above what it brings about. */
#include "cli/probe.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { CELL = 10, LABEL_MAX = 20, SENTENCES_MAX = 20 };

static const char red[] = "\033[31m", yellow[] = "\033[33m", green[] = "\033[32m", bold[] = "\033[1m",
                  dim[] = "\033[2m";

static bool colours(void)
{
    return isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
}

static int line_width(void)
{
    struct winsize w;

    return isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col
                                                                                              : 120;
}

static bool promises_stun(const struct probe_node *n)
{
    return derpmap_stun_port(n->node) >= 0;
}

static bool node_ok(const struct probe_node *n)
{
    return !n->error[0] && !n->stun_error[0];
}

bool probe_ok(const struct probe_round *r)
{
    for (int i = 0; i < r->n_nodes; i++)
        if (!node_ok(&r->nodes[i]))
            return false;
    for (int i = 0; i < r->n_pairs; i++)
        if (r->pairs[i].error[0])
            return false;
    return r->misdelivered == 0;
}

/* ---- the matrix ---- */

/* text right-aligned in width, its first so many characters where it is longer. */
static void print_cell(const char *colour, int width, const char *text)
{
    int chars = 0, bytes = 0;

    for (; text[bytes]; bytes++) {
        bool starts = ((unsigned char)text[bytes] & 0xc0) != 0x80;
        if (starts && chars == width - 1)
            break;
        chars += starts;
    }
    printf("%*s%s%.*s%s", width - chars, "", colours() ? colour : "", bytes, text,
           colours() && colour[0] ? "\033[0m" : "");
}

static void print_ms(const char *colour, double ms)
{
    char text[32] = "-";

    if (ms >= 0)
        snprintf(text, sizeof(text), ms < 10 ? "%.2f" : ms < 1000 ? "%.1f" : "%.0f", ms);
    print_cell(ms >= 0 ? colour : dim, CELL, text);
}

static void print_pair(const struct probe_pair *p)
{
    char text[32];

    if (!p) {
        print_cell(dim, CELL, "");
    } else if (p->sent == 0) {
        bool tried = p->src->state != PROBE_UNUSED && !p->from->error[0] && !p->to->error[0];
        print_cell(tried ? red : dim, CELL, tried ? "none" : "-");
    } else if (p->received == 0) {
        print_cell(red, CELL, "all lost");
    } else if (p->received < p->sent) {
        snprintf(text, sizeof(text), "%.*f -%.0f%%", p->median_ms < 100 ? 1 : 0, p->median_ms,
                 ceil(100.0 * (p->sent - p->received) / p->sent));
        print_cell(yellow, CELL, text);
    } else if (p->error[0]) { /* the connection broke, or something came twice */
        snprintf(text, sizeof(text), "%.*f !", p->median_ms < 100 ? 1 : 0, p->median_ms);
        print_cell(yellow, CELL, text);
    } else {
        print_ms(green, p->median_ms);
    }
}

/* Wide enough for the longest node name. */
static int label_width(const struct probe_round *r)
{
    int width = 10;

    for (int i = 0; i < r->n_nodes; i++) {
        int n = (int)strlen(r->nodes[i].node->id);
        width = n > width ? n : width;
    }
    return width < LABEL_MAX ? width : LABEL_MAX;
}

/* The pair of row and column: pairs stand in that order. */
static const struct probe_pair *next_pair(const struct probe_round *r, const struct probe_node *from,
                                          const struct probe_node *to, int *at)
{
    if (*at < r->n_pairs && r->pairs[*at].from == from && r->pairs[*at].to == to)
        return &r->pairs[(*at)++];
    return NULL;
}

static int columns(const struct probe_round *r)
{
    int n = 0;

    for (int i = 0; i < r->n_nodes; i++)
        n += r->nodes[i].to;
    return n;
}

static void print_head(const struct probe_round *r, int label, bool numbered)
{
    char text[16];

    printf("  ");
    print_cell(dim, 8 + 1 + label, "from \\ to");
    for (int i = 0; i < r->n_nodes; i++) {
        const struct probe_node *n = &r->nodes[i];
        bool alone = n->region->n_nodes == 1 && n->region->code[0];
        if (!n->to)
            continue;
        snprintf(text, sizeof(text), "#%d", i + 1);
        print_cell(bold, CELL, numbered ? text : alone ? n->region->code : n->node->id);
    }
    print_cell(dim, CELL + 2, "STUN");
    print_cell(dim, CELL, "login");
    printf("\n");
}

static void print_row(const struct probe_round *r, int i, int label, bool numbered, int *at)
{
    const struct probe_node *n = &r->nodes[i];
    char region[24];

    if (numbered)
        snprintf(region, sizeof(region), "#%d", i + 1);
    else if (n->region->code[0])
        snprintf(region, sizeof(region), "%s", n->region->code);
    else
        snprintf(region, sizeof(region), "%d", n->region->id);
    printf("  ");
    print_cell(dim, 8, region);
    printf(" ");
    print_cell(node_ok(n) ? bold : red, label, n->node->id);
    for (int j = 0; j < r->n_nodes; j++)
        if (r->nodes[j].to)
            print_pair(next_pair(r, n, &r->nodes[j], at));
    printf("  ");
    if (promises_stun(n) && n->stun_ms < 0)
        print_cell(red, CELL, "none");
    else
        print_ms("", n->stun_ms);
    if (n->error[0] && n->login_ms < 0)
        print_cell(red, CELL, "failed");
    else
        print_ms("", n->login_ms);
    printf("\n");
}

/* ---- what is wrong ---- */

static void print_wrong(int *shown, const char *from, const char *to, const char *text)
{
    if (++*shown > SENTENCES_MAX)
        return;
    if (*shown == 1)
        printf("\n");
    printf("%s! ", colours() ? "\033[1;31m" : "");
    if (from)
        printf("%s → %s: ", from, to);
    printf("%s%s\n", text, colours() ? "\033[0m" : "");
}

static int print_sentences(const struct probe_round *r)
{
    int shown = 0;
    char text[PROBE_TEXT];

    for (int i = 0; i < r->n_nodes; i++) {
        if (r->nodes[i].error[0])
            print_wrong(&shown, NULL, NULL, r->nodes[i].error);
        if (r->nodes[i].stun_error[0])
            print_wrong(&shown, NULL, NULL, r->nodes[i].stun_error);
    }
    for (int i = 0; i < r->n_pairs; i++) {
        const struct probe_pair *p = &r->pairs[i];
        if (p->error[0] && !p->from->error[0] && !p->to->error[0])
            print_wrong(&shown, p->from->node->id, p->to->node->id, p->error);
    }
    if (r->misdelivered) {
        snprintf(text, sizeof(text),
                 "%d packets came to another client than they were for, or changed on their way",
                 r->misdelivered);
        print_wrong(&shown, NULL, NULL, text);
    }
    if (shown > SENTENCES_MAX)
        printf("! and %d more\n", shown - SENTENCES_MAX);
    return shown;
}

void probe_print(const struct probe_round *r)
{
    int label = label_width(r), at = 0, good = 0;
    bool numbered = 2 + 8 + 1 + label + (columns(r) + 2) * CELL + 2 > line_width();

    print_head(r, label, numbered);
    for (int i = 0; i < r->n_nodes; i++)
        print_row(r, i, label, numbered, &at);
    int shown = print_sentences(r);
    for (int i = 0; i < r->n_pairs; i++)
        good += !r->pairs[i].error[0];
    printf("\n%d of %d pairs good (%d packets of 64 to 1400 bytes each; median round trips in ms)%s\n", good,
           r->n_pairs, r->options.count, shown ? "" : ": all is well");
}

/* ---- JSON ---- */

static json_t *ms_or_null(double ms)
{
    return ms >= 0 ? json_real(round(ms * 1000) / 1000) : json_null();
}

static json_t *text_or_null(const char *text)
{
    return text[0] ? json_string(text) : json_null();
}

static json_t *regions_json(const struct probe_round *r)
{
    json_t *out = json_array();

    for (int i = 0; i < r->map->n_regions; i++) {
        const struct derpmap_region *region = &r->map->regions[i];
        bool here = false;
        for (int j = 0; j < r->n_nodes; j++)
            here |= r->nodes[j].region == region;
        if (here)
            json_array_append_new(out, json_pack("{s:i,s:s,s:s}", "id", region->id, "code", region->code,
                                                 "name", region->name));
    }
    return out;
}

static json_t *node_json(const struct probe_node *n)
{
    return json_pack("{s:s,s:i,s:o,s:o,s:o,s:o}", "name", n->node->id, "region", n->region->id, "login_ms",
                     ms_or_null(n->login_ms), "stun_ms", ms_or_null(n->stun_ms), "error",
                     text_or_null(n->error[0] ? n->error : n->stun_error), "stun_error",
                     text_or_null(n->stun_error));
}

static json_t *pair_json(const struct probe_pair *p)
{
    return json_pack("{s:s,s:s,s:i,s:i,s:o,s:o,s:o,s:o}", "from", p->from->node->id, "to", p->to->node->id,
                     "sent", p->sent, "received", p->received, "rtt_min_ms", ms_or_null(p->min_ms),
                     "rtt_median_ms", ms_or_null(p->median_ms), "rtt_max_ms", ms_or_null(p->max_ms), "error",
                     text_or_null(p->error));
}

void probe_print_json(const struct probe_round *r)
{
    json_t *nodes = json_array(), *pairs = json_array(), *all;

    for (int i = 0; i < r->n_nodes; i++)
        json_array_append_new(nodes, node_json(&r->nodes[i]));
    for (int i = 0; i < r->n_pairs; i++)
        json_array_append_new(pairs, pair_json(&r->pairs[i]));
    all = json_pack("{s:o,s:o,s:o,s:i,s:b}", "regions", regions_json(r), "nodes", nodes, "pairs", pairs,
                    "misdelivered", r->misdelivered, "ok", probe_ok(r));
    json_dumpf(all, stdout, (r->options.watch ? JSON_COMPACT : JSON_INDENT(2)) | JSON_REAL_PRECISION(9));
    printf("\n");
    json_decref(all);
}
