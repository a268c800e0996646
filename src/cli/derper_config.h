/* From derper's flags to the settings of a node.
 *
 * Thread: at the start the main one, at a reload one of libuv's pool. */
#ifndef DERPMESH_CLI_DERPER_CONFIG_H
#define DERPMESH_CLI_DERPER_CONFIG_H

#include "cli/derper_flags.h"
#include "node/config.h"

/* A config_loader: argv[0] is the program.  DERPMESH_* of the environment count too, but where a flag of derper's decides. */
struct config *derper_config(int argc, char **argv, char *const *envp, char *err, size_t err_len,
                             bool *usage);

/* ---- derper_rates.c ---- */

/* What -rate-config's file says, in bytes.  0, or -1 with a sentence. */
int derper_rates(const char *path, uint32_t *rate, uint32_t *burst, char *err, size_t err_len);

/* ---- derper_key.c ---- */

/* Where the key is: -c, or derper's own place for root.  Makes it (with its directories) if there is none.
 * malloc'd; NULL with a sentence.  doubt: "" or a warning. */
char *derper_key(const struct derper_flags *f, char *err, size_t err_len, char *doubt, size_t doubt_len);

#endif
