/* derpmesh keygen: a node key (the form of derper.key), a mesh key (64 hex digits), or a certificate with its key that
 * clients know by its pin; never over another.
 *
 * How it fails: CLI_NO if there is a file already, CLI_FAILED if it cannot be written; nothing half-made stays. */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "node/keystore.h"
#include "node/keystore_file.h"
#include "node/tls_ctx.h"
#include "proto/key.h"

enum { SECRET_MAX = 160 };

/* The key as its file holds it into text; of a node key also the public half.  The length, or -1. */
static int make(bool node, char text[static SECRET_MAX], char public[static KEY_TEXT_MAX])
{
    int n;

    if (node) {
        struct key_pair kp;
        key_pair_generate(&kp);
        key_public_text(public, &kp.pub);
        n = key_file_format(&kp, text, SECRET_MAX);
        key_pair_wipe(&kp);
        return n;
    }
    unsigned char key[KEY_LEN];
    randombytes_buf(key, sizeof(key));
    sodium_bin2hex(text, SECRET_MAX, key, sizeof(key));
    sodium_memzero(key, sizeof(key));
    n = (int)strlen(text);
    text[n++] = '\n';
    *public = 0;
    return n;
}

/* Where serve would look without further words; its directory is made.  0, or negative with err. */
static int default_place(bool node, char *path, size_t path_len, char *err, size_t err_len)
{
    const char *state = cli_setting("state"),
               *set = node ? getenv("DERPMESH_KEY_FILE") : getenv("DERPMESH_MESH_KEY_FILE");
    struct keystore ks;

    if (set && *set) {
        snprintf(path, path_len, "%s", set);
        return 0;
    }
    int n = snprintf(path, path_len, "%s/%s", state, node ? "node.key" : "mesh.key");
    if (n < 0 || (size_t)n >= path_len)
        return keystore_fail(-ENAMETOOLONG, err, err_len, "the path of the state directory is too long");
    int rc = keystore_open(&ks, state, true, err, err_len);
    if (rc == 0)
        keystore_close(&ks);
    return rc;
}

static int to_file(bool node, const char *path, const char *text, size_t n, const char *public)
{
    char err[512], place[4096];
    int rc = path ? 0 : default_place(node, place, sizeof(place), err, sizeof(err));

    if (!path)
        path = place;
    if (rc == 0)
        rc = keystore_file_new(AT_FDCWD, path, path, text, n, err, sizeof(err));
    if (rc) {
        fprintf(stderr, "derpmesh keygen: %s\n", err);
        return rc == -EEXIST ? CLI_NO : CLI_FAILED;
    }
    if (node)
        printf("%s\n", public);
    fprintf(stderr, node ? "made %s\n" : "made %s; every node of the mesh gets a copy, as --mesh-key-file\n",
            path);
    return CLI_OK;
}

/* Where serve would look without further words. */
static int default_certs(char *path, size_t path_len, char *err, size_t err_len)
{
    const char *set = getenv("DERPMESH_CERT_DIR"), *state = cli_setting("state");
    struct keystore ks;

    if (set && *set) {
        snprintf(path, path_len, "%s", set);
        return 0;
    }
    if (keystore_open(&ks, state, true, err, err_len) != 0)
        return -1;
    keystore_close(&ks);
    snprintf(path, path_len, "%s/certs", state);
    return 0;
}

static int make_cert(const char *host, const char *dir)
{
    char err[1024], crt[512], pin[65], place[512];

    if (!host) {
        fprintf(stderr, "derpmesh keygen: a certificate for which HostName?\n");
        return CLI_USAGE;
    }
    if ((!dir && default_certs(place, sizeof(place), err, sizeof(err)) != 0) ||
        tls_made_new(dir ? dir : place, host, crt, pin, err, sizeof(err)) != 0) {
        fprintf(stderr, "derpmesh keygen: %s\n", err);
        return CLI_NO;
    }
    fprintf(stderr,
            "made %s and its key, for ten years; clients use it once the node's entry in the derpMap says\n",
            crt);
    printf("\"HostName\": \"%s\", \"CertName\": \"sha256-raw:%s\"\n", host, pin);
    return CLI_OK;
}

int cli_keygen(int argc, char **argv)
{
    const char *operands[3];
    char text[SECRET_MAX], public[KEY_TEXT_MAX];

    if (cli_help_asked(argc, argv)) {
        printf(
            "usage: derpmesh keygen node|mesh [FILE]\n"
            "       derpmesh keygen cert HOSTNAME [DIR]\n\n"
            "  node  a node key in derper's form, to FILE or STATE/node.key; prints the public key\n"
            "  mesh  a mesh key for all nodes, to FILE or STATE/mesh.key\n"
            "  cert  a self-signed certificate and its key for a HostName of the derpMap (a DNS name or an "
            "IP address),\n"
            "        into DIR or STATE/certs; prints what the derpMap must say of it.  A running node serves "
            "it to who\n"
            "        asks for that name\n\n"
            "FILE - is standard output.  A file that is there already is never overwritten (exit code 1).\n");
        return CLI_OK;
    }
    int n = cli_flags(NULL, 0, argc, argv, operands, 3);
    if (n > 0 && strcmp(operands[0], "cert") == 0)
        return make_cert(n > 1 ? operands[1] : NULL, n > 2 ? operands[2] : NULL);
    bool node = n > 0 && strcmp(operands[0], "node") == 0;
    if (n < 1 || n > 2 || (!node && strcmp(operands[0], "mesh") != 0)) {
        if (n >= 0)
            fprintf(stderr, "derpmesh keygen: which key: node, mesh, or cert?\n");
        return CLI_USAGE;
    }
    int len = sodium_init() < 0 ? -1 : make(node, text, public), code = CLI_FAILED;
    if (len < 0)
        fprintf(stderr, "derpmesh keygen: no random numbers from the system\n");
    else if (n == 2 && strcmp(operands[1], "-") == 0)
        code = fwrite(text, 1, (size_t)len, stdout) == (size_t)len ? CLI_OK : CLI_FAILED;
    else
        code = to_file(node, n == 2 ? operands[1] : NULL, text, (size_t)len, public);
    sodium_memzero(text, sizeof(text));
    return code;
}
