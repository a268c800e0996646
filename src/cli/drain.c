/* derpmesh drain and undrain: the node on this machine sends its clients to others and takes no new ones, or takes them again.
 *
 * How it fails: CLI_FAILED if the node does not answer. */
#include "cli/cli.h"

#include <stdio.h>

#include "cli/admin.h"

static void print_help(const char *command, const char *does)
{
    printf("usage: derpmesh %s [--admin PATH]\n\n%s\n\n"
           "  --admin PATH  the node's admin socket (%s)\n",
           command, does, cli_setting("admin"));
}

/* Asks; NULL after a complaint, with the exit code in *code. */
static json_t *ask(int argc, char **argv, const char *question, int *code)
{
    const char *admin;
    const struct cli_flag flags[] = {{"admin", NULL, &admin}};
    char err[512];
    json_t *reply;

    *code = CLI_USAGE;
    if (cli_flags(flags, sizeof(flags) / sizeof(flags[0]), argc, argv, NULL, 0) < 0)
        return NULL;
    *code = CLI_OK;
    if (admin_ask(admin ? admin : cli_setting("admin"), question, &reply, err, sizeof(err)) == 0)
        return reply;
    *code = CLI_FAILED;
    fprintf(stderr, "derpmesh %s: %s\n", argv[0], err);
    return NULL;
}

int cli_drain(int argc, char **argv)
{
    int code;

    if (cli_help_asked(argc, argv)) {
        print_help(
            "drain",
            "The node closes its listeners, is silent on STUN and sends its clients away, in batches within\n"
            "drain_timeout, while the mesh reaches those that are left.  It stays so until undrain.");
        return CLI_OK;
    }
    json_t *reply = ask(argc, argv, "{\"cmd\":\"drain\"}\n", &code);
    if (reply)
        printf("draining: %.0f clients are sent away within %.0f s; derpmesh status tells how many are left, "
               "derpmesh "
               "undrain ends it\n",
               admin_num(reply, "clients", 0), admin_num(reply, "within_s", 0));
    json_decref(reply);
    return code;
}

int cli_undrain(int argc, char **argv)
{
    int code;

    if (cli_help_asked(argc, argv)) {
        print_help("undrain", "The node takes connections again; clients that are still there stay.");
        return CLI_OK;
    }
    json_t *reply = ask(argc, argv, "{\"cmd\":\"undrain\"}\n", &code);
    if (reply)
        printf(admin_bool(reply, "was_draining") ? "open again, with %.0f clients\n"
                                                 : "it was not draining; %.0f clients\n",
               admin_num(reply, "clients", 0));
    json_decref(reply);
    return code;
}
