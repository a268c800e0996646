/* derpmesh version: ours, and of each library the version that runs and the one that we were built with. */
#include "cli/cli.h"

#include <stdio.h>

#include <jansson.h>
#include <msgpack.h>
#include <openssl/crypto.h>
#include <openssl/opensslv.h>
#include <sodium.h>
#include <uv.h>
#include <yaml.h>

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

int cli_version(int argc, char **argv)
{
    const struct {
        const char *name, *running, *built;
    } libraries[] = {
        {"libuv", uv_version_string(),
         TEXT(UV_VERSION_MAJOR) "." TEXT(UV_VERSION_MINOR) "." TEXT(UV_VERSION_PATCH) UV_VERSION_SUFFIX},
        {"OpenSSL", OpenSSL_version(OPENSSL_VERSION_STRING), OPENSSL_VERSION_STR},
        {"libsodium", sodium_version_string(), SODIUM_VERSION_STRING},
        {"msgpack", msgpack_version(), MSGPACK_VERSION},
        {"libyaml", yaml_get_version_string(), YAML_BUILT_VERSION},
        {"jansson", jansson_version_str(), JANSSON_VERSION},
    };

    if (cli_help_asked(argc, argv)) {
        printf("usage: derpmesh version\n");
        return CLI_OK;
    }
    if (cli_flags(NULL, 0, argc, argv, NULL, 0) < 0)
        return CLI_USAGE;
    printf("derpmesh %s\n", DERPMESH_VERSION);
    for (size_t i = 0; i < sizeof(libraries) / sizeof(libraries[0]); i++)
        printf("  %-10s %-10s built with %s\n", libraries[i].name, libraries[i].running, libraries[i].built);
    return CLI_OK;
}
