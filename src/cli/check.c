/* derpmesh check: would serve run with these settings?  One line for each thing looked at. */
#include "cli/cli.h"

#include <stdio.h>
#include <unistd.h>

#include "node/config.h"
#include "node/server.h"

static void on_finding(void *ctx, bool ok, const char *line)
{
    (void)ctx;
    printf("%s: %s\n", ok ? "ok" : "error", line);
}

int cli_check(int argc, char **argv)
{
    char err[1024];
    bool usage;

    if (cli_help_asked(argc, argv)) {
        printf("usage: derpmesh check --map FILE --node NAME [SETTINGS]\n\n"
               "Checks all that serve would use, with the same settings; exit code 1 if something is "
               "wrong.\n\n");
        cli_settings_help();
        return CLI_OK;
    }
    struct config *c = config_load(argc - 1, argv + 1, environ, err, sizeof(err), &usage);
    if (!c && usage) {
        fprintf(stderr, "derpmesh check: %s\n", err);
        return CLI_USAGE;
    }
    if (!c) {
        on_finding(NULL, false, err);
        return CLI_NO;
    }
    on_finding(NULL, true, "settings");
    int faults = server_check(c, on_finding, NULL);
    config_free(c);
    return faults ? CLI_NO : CLI_OK;
}
