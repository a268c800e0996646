/* derper by name: started as `derper` (or as `derpmesh derper`) the program takes derper's flags and serves as derper does.
 *
 * How it fails: as Go's programs do: wrong flags end it with 2 and the list of flags, all else with 1. */
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/derper_config.h"
#include "node/server.h"

bool cli_is_derper(const char *argv0)
{
    const char *slash = argv0 ? strrchr(argv0, '/') : NULL;

    return argv0 && strcmp(slash ? slash + 1 : argv0, "derper") == 0;
}

int cli_derper(int argc, char **argv)
{
    struct derper_flags f;
    char err[1024];
    bool usage;

    enum derper_parsed rc = derper_flags_parse(&f, argc, argv, err, sizeof(err));
    if (rc != DERPER_OK) {
        if (rc == DERPER_REFUSED)
            fprintf(stderr, "%s\n", err);
        derper_flags_help(stderr, argv[0]);
        return rc == DERPER_HELP ? CLI_OK : CLI_USAGE;
    }
    if (f.v[DERPER_VERSION].on) {
        printf("derpmesh %s, under the name derper\n", DERPMESH_VERSION);
        return CLI_OK;
    }
    struct config *c = derper_config(argc, argv, environ, err, sizeof(err), &usage);
    if (!c) {
        fprintf(stderr, "derper: %s\n", err);
        return CLI_NO;
    }
    log_setup(c->log_level, c->log_format);
    if (server_run(c, argc, argv, environ, err, sizeof(err)) < 0) { /* c is the server's now */
        fprintf(stderr, "derper: %s\n", err);
        return CLI_NO;
    }
    return CLI_OK;
}
