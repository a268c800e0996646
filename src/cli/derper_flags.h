/* derper's command line: its flags, read by the rules of Go's package flag.
 *
 * Source: tailscale.com/cmd/derper (names, types, defaults), Go's flag, strconv and time for how values are written.
 * tests/integration/derper compares the table with `derper -h`, and writes docs/derper-flags.md from both. */
#ifndef DERPMESH_CLI_DERPER_FLAGS_H
#define DERPMESH_CLI_DERPER_FLAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum derper_flag {
    DERPER_A,
    DERPER_ACCEPT_BURST,
    DERPER_ACCEPT_LIMIT,
    DERPER_ACE,
    DERPER_ACME_EAB_KEY,
    DERPER_ACME_EAB_KID,
    DERPER_ACME_EMAIL,
    DERPER_ACME_IP_CERTS,
    DERPER_BOOTSTRAP_DNS,
    DERPER_C,
    DERPER_CERTDIR,
    DERPER_CERTMODE,
    DERPER_DERP,
    DERPER_DEV,
    DERPER_HOME,
    DERPER_HOSTNAME,
    DERPER_HTTP_PORT,
    DERPER_MESH_PSK_FILE,
    DERPER_MESH_WITH,
    DERPER_RATE_CONFIG,
    DERPER_SECRETS_CACHE_DIR,
    DERPER_SECRETS_PREFIX,
    DERPER_SECRETS_URL,
    DERPER_SOCKET,
    DERPER_STUN,
    DERPER_STUN_PORT,
    DERPER_TCP_KEEPALIVE,
    DERPER_TCP_USER_TIMEOUT,
    DERPER_TCP_WRITE_TIMEOUT,
    DERPER_UNPUBLISHED_DNS,
    DERPER_VERIFY_URL,
    DERPER_VERIFY_URL_FAIL_OPEN,
    DERPER_VERIFY_CLIENTS,
    DERPER_VERSION,
    DERPER_FLAGS
};

enum derper_type { DERPER_BOOL, DERPER_STRING, DERPER_INT, DERPER_FLOAT, DERPER_DURATION };

struct derper_value {
    bool set;         /* on the command line */
    const char *text; /* of a string: never NULL; borrowed */
    union {
        bool on;
        int64_t number; /* INT; DURATION: nanoseconds */
        double real;
    };
};

struct derper_flags {
    struct derper_value v[DERPER_FLAGS];
    int rest; /* index of the first argument that was not read; argc if all were */
};

enum derper_parsed { DERPER_OK, DERPER_HELP, DERPER_REFUSED };

/* Reads argv[1] and on; values point into argv.  Refused: Go's own sentence in err. */
enum derper_parsed derper_flags_parse(struct derper_flags *f, int argc, char **argv, char *err,
                                      size_t err_len);
/* As Go prints it: name, type, what it does here, default. */
void derper_flags_help(FILE *to, const char *program);
const char *derper_flag_name(enum derper_flag which);

/* ---- values, for tests; true if the text is one ---- */

bool derper_bool(const char *text, bool *out);
bool derper_int(const char *text, int64_t *out);
bool derper_float(const char *text, double *out);
bool derper_duration(const char *text, int64_t *ns);

#endif
