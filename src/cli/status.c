/* derpmesh status: how the node on this machine is, for a person: what is wrong first, then the node, its mesh, its
 * traffic.
 *
 * How it fails: CLI_FAILED with a sentence if the node does not answer; with --watch it goes on asking.  Members that
 * an older or newer node does not tell are left out. */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/admin.h"

enum { WATCH_SECONDS = 2 };

static void print_help(void)
{
    printf("usage: derpmesh status [--admin PATH] [--mesh] [--json] [--watch]\n\n"
           "How the node on this machine is: what is wrong, what it serves, its mesh and its traffic.\n\n"
           "  --mesh        only the mesh: each node, the way that data for it takes, and why\n"
           "  --admin PATH  the node's admin socket (%s)\n"
           "  --json        as the node says it\n"
           "  --watch       again every %d s\n",
           cli_setting("admin"), WATCH_SECONDS);
}

/* ---- what is wrong ---- */

static void print_problems(const json_t *s)
{
    const json_t *problems = json_object_get(s, "problems");
    bool colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
    size_t i;
    json_t *p;

    if (!json_is_array(problems))
        return;
    if (json_array_size(problems) == 0)
        printf("nothing is wrong\n\n");
    json_array_foreach(problems, i, p)
    {
        printf(colour ? "\033[1;31m! " : "! ");
        admin_print(json_is_string(p) ? json_string_value(p) : "?");
        printf(colour ? "\033[0m\n" : "\n");
    }
    printf(json_array_size(problems) ? "\n" : "");
}

/* ---- the node ---- */

/* "  label        text", nothing if there is no text. */
static void print_row(const char *label, const char *text)
{
    if (!text)
        return;
    printf("  %-12s ", label);
    admin_print(text);
    printf("\n");
}

/* The first max characters of text; returns how many there were. */
static int print_start(const char *text, int max)
{
    char cut[256];
    size_t n = 0;
    int chars = 0;

    for (; text[n] && n + 1 < sizeof(cut); n++) {
        bool starts = ((unsigned char)text[n] & 0xc0) != 0x80;
        if (starts && chars == max)
            break;
        chars += starts;
    }
    memcpy(cut, text, n);
    cut[n] = 0;
    admin_print(cut);
    return chars;
}

/* Text in a column of this width: longer is cut. */
static void print_column(const char *text, int width)
{
    printf("%*s", width + 2 - print_start(text, width), "");
}

/* " (in 12 d 3 h)" for a time as "2036-01-01T00:00:00Z". */
static void print_until(const char *when)
{
    struct tm tm = {0};
    char span[32];

    admin_print(when);
    if (!strptime(when, "%Y-%m-%dT%H:%M:%SZ", &tm))
        return;
    double left = difftime(timegm(&tm), time(NULL));
    if (left < 0)
        printf(" (EXPIRED)");
    else
        printf(" (in %s)", admin_span(span, left));
}

static void print_certificate(const json_t *c)
{
    const char *kind = admin_str(c, "kind", NULL), *until = admin_str(c, "not_after", NULL);
    size_t i;
    json_t *name;

    if (!kind)
        return;
    if (strcmp(kind, "off") == 0) {
        print_row("certificate", "none: a proxy in front has it");
        return;
    }
    printf("  %-12s ", "certificate");
    admin_print(strcmp(kind, "made") == 0 ? "made here" : admin_str(c, "file", kind));
    json_array_foreach(json_object_get(c, "names"), i, name)
    {
        printf(i ? " " : ", for ");
        admin_print(json_is_string(name) ? json_string_value(name) : "?");
    }
    if (until) {
        printf(", until ");
        print_until(until);
    }
    printf("\n");
    print_row("pin", admin_str(c, "pin", NULL));
    json_array_foreach(json_object_get(c, "others"), i, name)
    {
        printf("  %-12s ", "beside it");
        admin_print(admin_str(name, "file", "?"));
        printf(", until ");
        print_until(admin_str(name, "not_after", "?"));
        printf("\n");
        if (json_is_true(json_object_get(name, "self_issued")))
            print_row("pin", admin_str(name, "pin", NULL));
    }
}

static void print_node(const json_t *s)
{
    const json_t *listen = json_object_get(s, "listen"), *map = json_object_get(s, "map"),
                 *clients = json_object_get(s, "clients");
    char span[32];

    printf("node ");
    admin_print(admin_str(s, "node", "?"));
    printf(", region %.0f: derpmesh ", admin_num(s, "region", 0));
    admin_print(admin_str(s, "version", "?"));
    printf(", up %s\n", admin_span(span, admin_num(s, "uptime_s", 0)));
    print_row("key", admin_str(s, "public_key", NULL));
    if (json_is_boolean(json_object_get(s, "open_to_anyone")))
        print_row("open to", admin_bool(s, "open_to_anyone") ? "anyone" : "those who are admitted");
    if (json_is_object(listen)) {
        printf("  %-12s derp ", "listens");
        admin_print(admin_str(listen, "derp", "off"));
        printf(", http ");
        admin_print(admin_str(listen, "http", "off"));
        printf(", stun ");
        admin_print(admin_str(listen, "stun", "off"));
        if (strcmp(admin_str(s, "gate", "open"), "open") != 0)
            printf(" (closed: %s)", admin_str(s, "gate", "?"));
        printf("\n");
    }
    print_certificate(json_object_get(s, "certificate"));
    if (json_is_object(map)) {
        printf("  %-12s ", "map");
        admin_print(admin_str(map, "file", "?"));
        printf(", %.0f regions, %.0f nodes, hash ", admin_num(map, "regions", 0), admin_num(map, "nodes", 0));
        print_start(admin_str(map, "hash", "?"), 12);
        printf("\n");
    }
    if (json_is_object(clients))
        printf("  %-12s %.0f connections, %.0f keys, %.0f at home here, %.0f logging in\n", "clients",
               admin_num(clients, "connections", 0), admin_num(clients, "keys", 0),
               admin_num(clients, "home", 0), admin_num(clients, "login", 0));
}

/* ---- the mesh ---- */

static bool is_up(const json_t *peer)
{
    return strcmp(admin_str(peer, "state", ""), "up") == 0;
}

static void print_peer(const json_t *p)
{
    char rtt[32] = "-", number[32], span[32];
    double ms = admin_num(p, "rtt_ms", -1);
    const char *error = admin_str(p, "error", "");

    if (ms >= 0)
        snprintf(rtt, sizeof(rtt), "%.1f ms", ms);
    printf("  ");
    print_column(admin_str(p, "name", "?"), 16);
    print_column(admin_str(p, "state", "?"), 8);
    print_column(rtt, 10);
    snprintf(number, sizeof(number), "%.0f", admin_num(p, "keys", 0));
    print_column(number, 8);
    print_column(admin_span(span, admin_num(p, "since_s", 0)), 12);
    admin_print(is_up(p) ? admin_str(p, "software", "") : error);
    if (is_up(p) && json_is_false(json_object_get(p, "synced")))
        printf(", still learning its keys");
    if (admin_bool(p, "map_differs"))
        printf(", its map differs");
    printf("\n");
}

static void print_mesh(const json_t *mesh)
{
    const json_t *peers = json_object_get(mesh, "peers");
    size_t i, up = 0;
    json_t *p;

    if (!json_is_object(mesh))
        return;
    if (!admin_bool(mesh, "enabled")) {
        printf("\nmesh: off (no mesh key)\n");
        return;
    }
    json_array_foreach(peers, i, p) up += is_up(p);
    printf("\nmesh: %zu of %zu peers up, %.0f keys elsewhere\n", up, json_array_size(peers),
           admin_num(mesh, "remote_keys", 0));
    if (json_array_size(peers) == 0)
        return;
    printf("  %-16s  %-8s  %-10s  %-8s  %s\n", "peer", "state", "rtt", "keys", "since");
    for (int wanted = 0; wanted < 2; wanted++) /* those that are not up first */
        json_array_foreach(peers, i, p) if (is_up(p) == wanted) print_peer(p);
}

/* The way to a peer, and why it is that one. */
static void print_way(const json_t *p)
{
    const char *name = admin_str(p, "name", "?"), *control = admin_str(p, "control", "");
    const json_t *path = json_object_get(p, "path");
    const char *first = json_string_value(json_array_get(path, 0));
    double cost = admin_num(p, "cost_ms", -1);
    char ms[32] = "-";

    if (cost >= 0)
        snprintf(ms, sizeof(ms), "%.0f ms", cost);
    printf("  ");
    print_column(name, 16);
    print_column(admin_str(p, "state", "?"), 8);
    print_column(!first ? "none" : json_array_size(path) == 1 ? "direct" : first, 16);
    print_column(ms, 10);
    admin_print(admin_str(p, "why", ""));
    if (control[0] && strcmp(control, name) != 0) {
        printf("; control over ");
        admin_print(control);
    }
    printf("\n");
}

static void print_ways(const json_t *mesh)
{
    const json_t *peers = json_object_get(mesh, "peers");
    size_t i;
    json_t *p;

    print_mesh(mesh);
    if (json_array_size(peers) == 0)
        return;
    printf("\nways\n  %-16s  %-8s  %-16s  %-10s  %s\n", "to", "link", "over", "cost", "why");
    json_array_foreach(peers, i, p) print_way(p);
}

/* ---- traffic ---- */

static void print_traffic(json_t *traffic)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    const char *name;
    json_t *v;
    bool head = false;

    json_object_foreach(traffic, name, v)
    {
        double n = json_is_number(v) ? json_number_value(v) : 0;
        size_t unit = 0;
        if (n == 0)
            continue;
        if (!head)
            printf("\ntraffic\n");
        head = true;
        printf("  ");
        print_column(name, 40);
        if (!strstr(name, "bytes")) {
            printf("%.15g\n", n);
            continue;
        }
        for (; n >= 1000 && unit + 1 < sizeof(units) / sizeof(units[0]); n /= 1000)
            unit++;
        printf("%.*f %s\n", unit ? 1 : 0, n, units[unit]);
    }
}

/* ---- once, or again and again ---- */

static int show(const char *admin, bool raw, bool mesh)
{
    char err[512];
    json_t *s;

    if (admin_ask(admin, "{\"cmd\":\"status\"}\n", &s, err, sizeof(err))) {
        fflush(stdout);
        fprintf(stderr, "derpmesh status: %s\n", err);
        return CLI_FAILED;
    }
    if (raw) {
        json_dumpf(mesh ? json_object_get(s, "mesh") : s, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
        printf("\n");
    } else if (mesh) {
        print_ways(json_object_get(s, "mesh"));
    } else {
        print_problems(s);
        print_node(s);
        print_mesh(json_object_get(s, "mesh"));
        print_traffic(json_object_get(s, "traffic"));
    }
    json_decref(s);
    return CLI_OK;
}

int cli_status(int argc, char **argv)
{
    const char *admin;
    bool json = false, watch = false, mesh = false;
    const struct cli_flag flags[] = {
        {"admin", NULL, &admin}, {"json", &json, NULL}, {"mesh", &mesh, NULL}, {"watch", &watch, NULL}};

    if (cli_help_asked(argc, argv)) {
        print_help();
        return CLI_OK;
    }
    if (cli_flags(flags, sizeof(flags) / sizeof(flags[0]), argc, argv, NULL, 0) < 0)
        return CLI_USAGE;
    if (!admin)
        admin = cli_setting("admin");
    while (watch) {
        if (!json && isatty(STDOUT_FILENO))
            printf("\033[H\033[2J"); /* home, clear */
        show(admin, json, mesh);
        if (fflush(stdout))
            return CLI_FAILED;
        sleep(WATCH_SECONDS);
    }
    return show(admin, json, mesh);
}
