/* derpmesh probe: is every node reached, and every pair of them connected?
 *
 * Happy path: read the map, choose the nodes, then a round (or with --watch one round after the other): run it, print it.
 * Fails: CLI_USAGE for flags, CLI_FAILED where there is no map or no loop, CLI_NO where a node or pair fails, each with a
 * sentence. */
#include "cli/cli.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/probe.h"
#include "node/suggest.h"
#include "node/tls_ctx.h"

enum { COUNT = 10, INTERVAL_MS = 20, LOGIN_MS = 15000, WATCH_SECONDS = 2, NAMES_MAX = 256 };

static void print_help(void)
{
    printf("usage: derpmesh probe --map FILE [--from R] [--to R] [--json] [--watch]\n\n"
           "Logs real clients in to the nodes of a derpMap and sends packets from each to each and back, so "
           "across\n"
           "the mesh where they are on different nodes; asks each node for STUN.  Prints the median round "
           "trips,\n"
           "and a sentence for whatever fails.\n\n"
           "  --map FILE       the derpMap, in any spelling; - is standard input\n"
           "  --from R         only from here: a region's number or code, or a node's name\n"
           "  --to R           only to there\n"
           "  --count N        packets for each pair [%d]\n"
           "  --interval MS    between two packets of a pair [%d]\n"
           "  --json           as JSON; with --watch a line a round\n"
           "  --watch          again every %d s\n\n"
           "A CA of your own is trusted through SSL_CERT_FILE.  Each round uses fresh client keys: nodes "
           "that admit\n"
           "only known clients refuse them.\n"
           "Exit code 0: all is well, 1: a login, a STUN request or a packet failed, 2: wrong use, 3: could "
           "not run.\n",
           COUNT, INTERVAL_MS, WATCH_SECONDS);
}

/* ---- the map ---- */

static struct derpmap *load_map(const char *path)
{
    struct text_error at;
    size_t n;
    char *text = cli_read_file("probe", path, &n);

    if (!text)
        return NULL;
    struct derpmap *map = derpmap_parse(text, n, &at);
    free(text);
    if (!map && at.line)
        fprintf(stderr, "derpmesh probe: %s:%d:%d: %s\n", path, at.line, at.col, at.msg);
    else if (!map)
        fprintf(stderr, "derpmesh probe: %s: %s\n", path, at.msg);
    return map;
}

/* ---- which nodes ---- */

static bool in_region(const struct derpmap_region *r, const char *which)
{
    char number[16];

    snprintf(number, sizeof(number), "%d", r->id);
    return strcmp(number, which) == 0 || strcmp(r->code, which) == 0;
}

/* which: NULL is every node. */
static bool chosen(const struct derpmap *map, const struct derpmap_node *n, const char *which)
{
    const struct derpmap_region *region = derpmap_region_of(map, n->region_id);

    return !which || derpmap_find(map, which) == n || (region && in_region(region, which));
}

/* False after a complaint. */
static bool check_choice(const struct derpmap *map, const char *flag, const char *which)
{
    const char *names[NAMES_MAX];
    size_t n = 0;

    for (int i = 0; i < map->n_nodes; i++) {
        const struct derpmap_node *node = &map->nodes[i];
        if (!node->backup && !node->stun_only && chosen(map, node, which))
            return true;
        if (n < NAMES_MAX)
            names[n++] = node->id;
    }
    for (int i = 0; i < map->n_regions && n < NAMES_MAX; i++)
        if (map->regions[i].code[0])
            names[n++] = map->regions[i].code;
    if (!which) {
        fprintf(stderr, "derpmesh probe: there is no node with DERP in the map\n");
        return false;
    }
    const char *near = suggest_nearest(which, names, n);
    fprintf(stderr, "derpmesh probe: --%s %s: no region or node of the map is called so%s%s%s\n", flag, which,
            near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
    return false;
}

static int compare_nodes(const void *a, const void *b)
{
    const struct probe_node *x = a, *y = b;

    if (x->region->id != y->region->id)
        return x->region->id < y->region->id ? -1 : 1;
    return x->node < y->node ? -1 : x->node > y->node; /* as in the file */
}

/* The nodes of the round, by region.  0 or -1 no memory. */
static int choose_nodes(struct probe_round *r, const char *from, const char *to)
{
    r->nodes = calloc((size_t)r->map->n_nodes + 1, sizeof(*r->nodes));
    if (!r->nodes)
        return -1;
    for (int i = 0; i < r->map->n_nodes; i++) {
        const struct derpmap_node *n = &r->map->nodes[i];
        struct probe_node *p = &r->nodes[r->n_nodes];
        p->region = derpmap_region_of(r->map, n->region_id);
        p->round = r;
        p->node = n;
        p->from = !n->stun_only && chosen(r->map, n, from);
        p->to = !n->stun_only && chosen(r->map, n, to);
        p->login_ms = p->stun_ms = -1;
        bool stun_only = n->stun_only && (chosen(r->map, n, from) || chosen(r->map, n, to));
        if (!n->backup && p->region && (p->from || p->to || stun_only))
            r->n_nodes++;
    }
    qsort(r->nodes, (size_t)r->n_nodes, sizeof(*r->nodes), compare_nodes);
    for (int i = 0; i < r->n_nodes; i++)
        r->nodes[i].client[0].node = r->nodes[i].client[1].node = &r->nodes[i];
    return 0;
}

static void want_client(struct probe_round *r, struct probe_client *c)
{
    r->logins_left += c->state == PROBE_UNUSED;
    c->state = PROBE_WAITING;
}

/* Row by row.  0 or -1 no memory. */
static int make_pairs(struct probe_round *r)
{
    r->pairs = calloc((size_t)r->n_nodes * (size_t)r->n_nodes + 1, sizeof(*r->pairs));
    if (!r->pairs)
        return -1;
    for (int i = 0; i < r->n_nodes; i++) {
        for (int j = 0; j < r->n_nodes; j++) {
            struct probe_node *from = &r->nodes[i], *to = &r->nodes[j];
            if (!from->from || !to->to)
                continue;
            struct probe_pair *p = &r->pairs[r->n_pairs++];
            *p = (struct probe_pair){.from = from, .to = to, .min_ms = -1, .median_ms = -1, .max_ms = -1};
            p->src = &from->client[0];
            p->dst = &to->client[i == j];
            want_client(r, p->src);
            want_client(r, p->dst);
        }
    }
    r->pairs_left = r->n_pairs;
    return 0;
}

/* ---- a round ---- */

static int fail(const char *what)
{
    fprintf(stderr, "derpmesh probe: %s\n", what);
    return CLI_FAILED;
}

static void show(const struct probe_round *r)
{
    if (r->options.json) {
        probe_print_json(r);
        return;
    }
    if (r->options.watch && isatty(STDOUT_FILENO))
        printf("\033[H\033[2J"); /* home, clear */
    probe_print(r);
    if (r->options.watch)
        printf("\n");
}

/* Loop and buffers of the round, then the round. */
static int run_on_loop(struct probe_round *r)
{
    uv_loop_t loop;

    if (uv_loop_init(&loop) != 0)
        return fail("cannot make an event loop");
    r->loop = &loop;
    if (stream_io_init(&r->io, &loop, r->stats, SIZE_MAX) != 0) {
        uv_loop_close(&loop);
        return fail("no memory for the buffers of connections");
    }
    probe_run(r);
    stream_io_stop(&r->io);
    uv_run(&loop, UV_RUN_DEFAULT);
    stream_io_deinit(&r->io);
    uv_loop_close(&loop);
    show(r);
    return probe_ok(r) ? CLI_OK : CLI_NO;
}

static int round_once(const struct derpmap *map, SSL_CTX *tls, const struct probe_options *o,
                      const char *from, const char *to)
{
    struct probe_round r = {.map = map, .tls = tls, .options = *o};
    int code;

    r.stats = calloc(1, sizeof(*r.stats));
    if (!r.stats || choose_nodes(&r, from, to) != 0 || make_pairs(&r) != 0)
        code = fail("no memory for so many nodes");
    else
        code = run_on_loop(&r);
    free(r.pairs);
    free(r.nodes);
    free(r.stats);
    return code;
}

static int probe(const struct derpmap *map, const struct probe_options *o, const char *from, const char *to)
{
    char err[256];
    SSL_CTX *tls = tls_client_ctx_new(err, sizeof(err));
    int code;

    if (!tls)
        return fail(err);
    for (;;) {
        code = round_once(map, tls, o, from, to);
        if (!o->watch || code == CLI_FAILED)
            break;
        if (fflush(stdout) != 0) {
            code = CLI_FAILED;
            break;
        }
        sleep(WATCH_SECONDS);
    }
    SSL_CTX_free(tls);
    return code;
}

/* ---- flags ---- */

/* 0, or -1 after a complaint. */
static int number(const char *flag, const char *text, int max, int *out)
{
    char *end;

    if (!text)
        return 0;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (errno || *end || end == text || v < 1 || v > max) {
        fprintf(stderr, "derpmesh probe: --%s %s: must be a number from 1 to %d\n", flag, text, max);
        return -1;
    }
    *out = (int)v;
    return 0;
}

int cli_probe(int argc, char **argv)
{
    const char *map_file, *from, *to, *count, *interval;
    struct probe_options o = {.count = COUNT, .interval_ms = INTERVAL_MS, .login_ms = LOGIN_MS};
    const struct cli_flag flags[] = {{"map", NULL, &map_file}, {"from", NULL, &from},
                                     {"to", NULL, &to},        {"count", NULL, &count},
                                     {"json", &o.json, NULL},  {"interval", NULL, &interval},
                                     {"watch", &o.watch, NULL}};

    if (cli_help_asked(argc, argv)) {
        print_help();
        return CLI_OK;
    }
    if (cli_flags(flags, sizeof(flags) / sizeof(flags[0]), argc, argv, NULL, 0) < 0 ||
        number("count", count, PROBE_COUNT_MAX, &o.count) != 0 ||
        number("interval", interval, PROBE_INTERVAL_MAX, &o.interval_ms) != 0)
        return CLI_USAGE;
    if (!map_file)
        map_file = cli_setting("map");
    if (!map_file[0]) {
        fprintf(stderr, "derpmesh probe: --map FILE says which nodes there are\n");
        return CLI_USAGE;
    }
    struct derpmap *map = load_map(map_file);
    if (!map)
        return CLI_FAILED;
    int code = CLI_USAGE;
    if (check_choice(map, "from", from) && check_choice(map, "to", to))
        code = probe(map, &o, from, to);
    derpmap_free(map);
    return code;
}
