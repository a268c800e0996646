/* derpmesh serve: a node, until a signal ends it. */
#include "cli/cli.h"

#include <stdio.h>
#include <unistd.h>

#include "node/config.h"
#include "node/server.h"

int cli_serve(int argc, char **argv)
{
    char err[1024];
    bool usage;

    if (cli_help_asked(argc, argv)) {
        printf("usage: derpmesh serve --map FILE --node NAME [SETTINGS]\n\n"
               "Runs a node in the foreground.  SIGHUP reloads, SIGTERM drains and stops, SIGINT stops, "
               "SIGUSR2 hands over to a\n"
               "new process (derpmesh handover), SIGUSR1 logs the status.\n\n");
        cli_settings_help();
        return CLI_OK;
    }
    struct config *c = config_load(argc - 1, argv + 1, environ, err, sizeof(err), &usage);
    if (!c) {
        fprintf(stderr, "derpmesh serve: %s\n", err);
        return usage ? CLI_USAGE : CLI_FAILED;
    }
    log_setup(c->log_level, c->log_format);
    if (server_run(c, argc - 1, argv + 1, environ, err, sizeof(err)) < 0) { /* c is the server's now */
        fprintf(stderr, "derpmesh serve: %s\n", err);
        return CLI_FAILED;
    }
    return CLI_OK;
}
