/* derpmesh where: which nodes a client is connected to, as the node on this machine knows, and the way there.
 *
 * How it fails: CLI_NO if the client is nowhere, CLI_FAILED if the node does not answer. */
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

#include "cli/admin.h"

static void print_help(void)
{
    printf("usage: derpmesh where KEY [--admin PATH] [--json]\n\n"
           "Where a client is and by which path it is reached, best place first; KEY is nodekey:<64 hex "
           "digits>.\n"
           "Exit code 1 if this node knows no place.\n\n"
           "  --admin PATH  the node's admin socket (%s)\n"
           "  --json        as the node says it\n",
           cli_setting("admin"));
}

/* "direct link", or the nodes between and why: "via hel-1 (no direct link)". */
static void print_path(const json_t *l, const char *node)
{
    const json_t *path = json_object_get(l, "path");
    const char *first = json_string_value(json_array_get(path, 0));
    size_t n = json_array_size(path), i;
    json_t *hop;

    if (n == 0 || (n == 1 && first && strcmp(node, first) == 0)) {
        printf(n ? ", direct link" : ", cannot be reached");
        return;
    }
    json_array_foreach(path, i, hop)
    {
        const char *name = json_string_value(hop);
        if (name && strcmp(name, node) != 0) {
            printf(i ? ", " : ", via ");
            admin_print(name);
        }
    }
    printf(" (");
    admin_print(admin_str(l, "why", "?"));
    printf(")");
}

static void print_location(const json_t *l)
{
    const char *node = admin_str(l, "node", "?");
    double cost = admin_num(l, "cost_ms", -1), connections = admin_num(l, "connections", 0);

    printf("  ");
    admin_print(node);
    printf(admin_bool(l, "local") ? " (this node)" : "");
    printf(admin_bool(l, "home") ? ", home" : admin_bool(l, "gleaned") ? ", heard from there" : ", visiting");
    if (admin_bool(l, "local")) {
        printf(", %.0f connection%s on worker %.0f\n", connections, connections == 1 ? "" : "s",
               admin_num(l, "worker", 0));
        return;
    }
    print_path(l, node);
    if (cost >= 0)
        printf(", %.0f ms", cost);
    printf("\n");
}

static int answer(const json_t *reply, const char *key, bool raw)
{
    const json_t *locations = json_object_get(reply, "locations");
    size_t i;
    json_t *l;

    if (raw) {
        json_dumpf(reply, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
        printf("\n");
    } else if (json_array_size(locations) == 0) {
        printf("%s is connected nowhere that this node knows of\n", key);
    } else {
        printf("%s\n", key);
        json_array_foreach(locations, i, l) print_location(l);
    }
    return json_array_size(locations) ? CLI_OK : CLI_NO;
}

int cli_where(int argc, char **argv)
{
    const char *admin, *operand;
    bool json = false;
    const struct cli_flag flags[] = {{"admin", NULL, &admin}, {"json", &json, NULL}};
    char key[KEY_TEXT_MAX], question[160], err[512];
    json_t *reply;

    if (cli_help_asked(argc, argv)) {
        print_help();
        return CLI_OK;
    }
    int n = cli_flags(flags, sizeof(flags) / sizeof(flags[0]), argc, argv, &operand, 1);
    if (n < 0)
        return CLI_USAGE;
    if (n == 0 || !admin_client_key(key, operand)) {
        fprintf(stderr, "derpmesh where: whose place?  It wants nodekey:<64 hex digits>\n");
        return CLI_USAGE;
    }
    snprintf(question, sizeof(question), "{\"cmd\":\"where\",\"key\":\"%s\"}\n", key);
    if (admin_ask(admin ? admin : cli_setting("admin"), question, &reply, err, sizeof(err))) {
        fprintf(stderr, "derpmesh where: %s\n", err);
        return CLI_FAILED;
    }
    int code = answer(reply, key, json);
    json_decref(reply);
    return code;
}
