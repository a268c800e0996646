/* The environment of the images that people run derper in: DERP_DOMAIN and the like become derper's flags.
 *
 * Source: the images of fredliang44, yangchuansheng (DERP_DOMAIN, DERP_CERT_DIR) and ip_derper (DERP_HOST, DERP_CERTS), whose
 * start scripts give derper one flag a variable.
 * Happy path: `serve` without arguments, no node named, no map where one is looked for, and one of these variables: then
 * it is derper with these flags, and a line says so.  The key is kept in STATE, as images keep it in a volume.
 * How it fails: not at all; what is wrong in a value is for the flags to say. */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_LEN = 4096 };

/* The defaults are those of the images, and hold once any variable is set. */
static const struct {
    const char *flag, *names[2], *def;
} variables[] = {
    {"-hostname", {"DERP_DOMAIN", "DERP_HOST"}, NULL},
    {"-certmode", {"DERP_CERT_MODE", NULL}, NULL},
    {"-certdir", {"DERP_CERT_DIR", "DERP_CERTS"}, NULL},
    {"-a", {"DERP_ADDR", NULL}, ":443"},
    {"-stun", {"DERP_STUN", NULL}, "true"},
    {"-stun-port", {"DERP_STUN_PORT", NULL}, "3478"},
    {"-http-port", {"DERP_HTTP_PORT", NULL}, "80"},
    {"-verify-clients", {"DERP_VERIFY_CLIENTS", NULL}, "false"},
    {"-verify-client-url", {"DERP_VERIFY_CLIENT_URL", NULL}, NULL},
    {"-verify-client-url-fail-open", {"DERP_VERIFY_CLIENT_URL_FAIL_OPEN", NULL}, NULL},
};
enum { N_VARIABLES = sizeof(variables) / sizeof(variables[0]) };
/* argv[0], a key, the end. */
_Static_assert((int)N_VARIABLES + 3 <= (int)CLI_DERPER_ARGS, "room for all flags");

/* An empty one counts as not set, as compose files write it. */
static const char *set(const char *name)
{
    const char *value = name ? getenv(name) : NULL;

    return value && *value ? value : NULL;
}

static const char *value_of(size_t i)
{
    const char *value = set(variables[i].names[0]);

    return value ? value : set(variables[i].names[1]);
}

bool cli_derper_env(void)
{
    const char *map = set("DERPMESH_MAP");

    if (set("DERPMESH_NODE") || set("DERPMESH_CONFIG") || (map && access(map, F_OK) == 0))
        return false;
    for (size_t i = 0; i < N_VARIABLES; i++)
        if (value_of(i))
            return true;
    return false;
}

/* What the flag gets: NULL for none. */
static const char *flag_value(size_t i, const char *certs)
{
    const char *value = value_of(i);

    if (!value && strcmp(variables[i].flag, "-certdir") == 0)
        return certs;

    /* ip_derper makes a certificate for its DERP_HOST. */
    if (!value && strcmp(variables[i].flag, "-certmode") == 0 && set("DERP_HOST"))
        return "manual";
    return value ? value : variables[i].def;
}

/* An older key that is mounted where derper keeps it counts; else the key is in STATE. */
static const char *key_file(char *buf, size_t len)
{
    static const char derpers[] = "/var/lib/derper/derper.key";

    if (access(derpers, F_OK) == 0)
        return derpers;
    snprintf(buf, len, "%s/derper.key", cli_setting("state"));
    return buf;
}

static char *flag_text(const char *flag, const char *value)
{
    char *text;

    return asprintf(&text, "%s=%s", flag, value) < 0 ? NULL : text;
}

int cli_derper_env_run(void)
{
    static char name[] = "derper";
    char *argv[CLI_DERPER_ARGS] = {name}, path[PATH_LEN], certs[PATH_LEN];
    int argc = 1, code = CLI_FAILED;

    /* Where the images have certificates, if one is mounted there; what is made must outlive the container. */
    snprintf(certs, sizeof(certs), "%s/certs",
             access("/app/certs", F_OK) == 0 ? "/app" : cli_setting("state"));
    for (size_t i = 0; i < N_VARIABLES; i++)
        if (flag_value(i, certs))
            argv[argc++] = flag_text(variables[i].flag, flag_value(i, certs));
    argv[argc++] = flag_text("-c", key_file(path, sizeof(path)));
    bool all = true;
    fprintf(stderr, "no node and no map, but variables of derper's images: running as");
    for (int i = 0; i < argc; i++) {
        all = all && argv[i];
        fprintf(stderr, " %s", argv[i] ? argv[i] : "?");
    }
    fprintf(stderr, "\n");
    if (all)
        code = cli_derper(argc, argv);
    for (int i = 1; i < argc; i++)
        free(argv[i]);
    return code;
}
