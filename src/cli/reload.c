/* derpmesh reload, handover and kick: the node on this machine reads its files again, gives its place to a new process, or closes
 * a client.
 *
 * How it fails: CLI_NO with the node's sentence if it refuses, CLI_FAILED if no node answers. */
#include "cli/cli.h"

#include <stdio.h>

#include "cli/admin.h"

/* Asks.  CLI_OK with *reply, else the exit code after a complaint. */
static int ask(const char *command, const char *admin, const char *question, json_t **reply)
{
    char err[1024];
    int rc = admin_ask(admin ? admin : cli_setting("admin"), question, reply, err, sizeof(err));

    if (rc == 0)
        return CLI_OK;
    fprintf(stderr, "derpmesh %s: %s\n", command, err);
    return rc == ADMIN_REFUSED ? CLI_NO : CLI_FAILED;
}

int cli_reload(int argc, char **argv)
{
    const char *admin = NULL;
    const struct cli_flag flags[] = {{"admin", NULL, &admin}};
    json_t *reply;

    if (cli_help_asked(argc, argv)) {
        printf("usage: derpmesh reload [--admin PATH]\n\n"
               "The node reads everything again: settings, map, keys, certificate, allow list.  Nobody is "
               "disconnected;\n"
               "prints what has changed.  Exit code 1 with the reason if the files are not in order: then "
               "nothing "
               "is changed.\n\n"
               "  --admin PATH  the node's admin socket (%s)\n",
               cli_setting("admin"));
        return CLI_OK;
    }
    if (cli_flags(flags, sizeof(flags) / sizeof(flags[0]), argc, argv, NULL, 0) < 0)
        return CLI_USAGE;
    int code = ask("reload", admin, "{\"cmd\":\"reload\"}\n", &reply);
    if (code == CLI_OK) {
        printf("reloaded: ");
        admin_print(admin_str(reply, "changes", "?"));
        printf("\n");
        json_decref(reply);
    }
    return code;
}

int cli_handover(int argc, char **argv)
{
    const char *admin = NULL;
    const struct cli_flag flags[] = {{"admin", NULL, &admin}};
    json_t *reply;

    if (cli_help_asked(argc, argv)) {
        printf(
            "usage: derpmesh handover [--admin PATH]\n\n"
            "The node starts the program anew, from the file that is there now, with the same arguments and "
            "the\n"
            "sockets that listen; when the new process has read and checked everything, it takes over.  No\n"
            "connection attempt is refused meanwhile; clients are closed once and come back.  Exit code 1 if "
            "the\n"
            "new process could not start: then the old one goes on.\n\n"
            "  --admin PATH  the node's admin socket (%s)\n",
            cli_setting("admin"));
        return CLI_OK;
    }
    if (cli_flags(flags, sizeof(flags) / sizeof(flags[0]), argc, argv, NULL, 0) < 0)
        return CLI_USAGE;
    int code = ask("handover", admin, "{\"cmd\":\"handover\"}\n", &reply);
    if (code == CLI_OK) {
        printf("a new process takes over\n");
        json_decref(reply);
    }
    return code;
}

/* ---- kick ---- */

static int say_kicked(const json_t *reply, const char *key)
{
    double closed = admin_num(reply, "closed", 0);
    const json_t *elsewhere = json_object_get(reply, "elsewhere");
    size_t i;
    json_t *node;

    if (closed > 0) {
        printf("%s: %.0f connection%s closed\n", key, closed, closed == 1 ? "" : "s");
        return CLI_OK;
    }
    printf("%s is not connected here", key);
    json_array_foreach(elsewhere, i, node)
    {
        printf(i ? ", " : "; it is at ");
        admin_print(json_is_string(node) ? json_string_value(node) : "?");
    }
    printf("\n");
    return CLI_NO;
}

int cli_kick(int argc, char **argv)
{
    const char *admin = NULL, *operand;
    const struct cli_flag flags[] = {{"admin", NULL, &admin}};
    char key[KEY_TEXT_MAX], question[160];
    json_t *reply;

    if (cli_help_asked(argc, argv)) {
        printf("usage: derpmesh kick KEY [--admin PATH]\n\n"
               "Closes the connections that a client has to the node on this machine; KEY is nodekey:<64 hex "
               "digits>.  It may\n"
               "come back at once: what keeps it out is admission (docs/admission.md).  Exit code 1 if it is "
               "not "
               "connected here.\n\n"
               "  --admin PATH  the node's admin socket (%s)\n",
               cli_setting("admin"));
        return CLI_OK;
    }
    int n = cli_flags(flags, sizeof(flags) / sizeof(flags[0]), argc, argv, &operand, 1);
    if (n < 0)
        return CLI_USAGE;
    if (n == 0 || !admin_client_key(key, operand)) {
        fprintf(stderr, "derpmesh kick: which client?  It wants nodekey:<64 hex digits>\n");
        return CLI_USAGE;
    }
    snprintf(question, sizeof(question), "{\"cmd\":\"kick\",\"key\":\"%s\"}\n", key);
    int code = ask("kick", admin, question, &reply);
    if (code == CLI_OK) {
        code = say_kicked(reply, key);
        json_decref(reply);
    }
    return code;
}
