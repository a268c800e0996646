/* What the files of config share: config.c (layers: file, environment, flags), config_keys.c (the table of keys),
 * config_values.c (how values are written), config_admission.c (one setting that stands for three), config_yaml.c (the file's text).  Nobody else includes this but their tests. */
#ifndef DERPMESH_NODE_CONFIG_PARTS_H
#define DERPMESH_NODE_CONFIG_PARTS_H

#include <stdbool.h>
#include <stddef.h>

#include "node/config.h"

/* ---- config_keys.c, config.c ---- */

/* All defaults that do not depend on other keys.  0, or -1 without memory. */
int config_defaults(struct config *c);
/* Fills in what depends on others: cert_dir, key_file (derper_key: where an older derper keeps its key). 0, or -1. */
int config_derive(struct config *c, const char *derper_key);

/* Where a key was written decides how its name looks: key_file, --key-file, DERPMESH_KEY_FILE. */
enum config_place { CONFIG_FILE, CONFIG_FLAG, CONFIG_ENV };
enum { CONFIG_NAME_MAX = 64 };

/* Index of the key that is written so at that place (without "--" or "DERPMESH_"), -1 if there is none. */
int config_key_find(const char *name, enum config_place place);
/* How that key is written there, into out, which is returned. */
const char *config_key_name(char out[static CONFIG_NAME_MAX], int i, enum config_place place);
bool config_key_is_list(int i);
/* Sets key i from text.  0, or -1 with why: "wants …, not …", to stand after the key's name. */
int config_key_set(struct config *c, int i, const char *text, char *why, size_t why_len);
/* Why there is no such key: "unknown …; did you mean …?". */
void config_key_unknown(const char *name, enum config_place place, char *why, size_t why_len);

/* ---- config_values.c; 0 or -1 ---- */

/* A decimal number of at most 32 bits in front of *end. */
int config_number(const char *text, uint64_t *out, const char **end);
/* n bytes: "20s", "1m30s", "500ms", "0". */
int config_duration(const char *text, size_t n, uint32_t *ms);
/* How many processors this process may use, at least 1. */
int config_cpus(void);

/* ---- config_admission.c ---- */

#define CONFIG_ADMISSION_WANTS                                                                                    \
    "the word open, or a file of node keys (/etc/…), a URL (https://…), tailscaled's socket (/….sock), or " \
    "several of these "                                                                                           \
    "with commas between"
bool config_admission_valid(const char *text);
/* Sets allow, verify_url and verify_socket from admission, if it says so.  0; -1 with a sentence where one of them is set by
 * itself to something else, or without memory. */
int config_admission_apply(struct config *c, char *err, size_t err_len);

/* ---- config_yaml.c ---- */

/* Reads the text of a YAML file into c.  0, or -1 with "name:line:col: …" in err. */
int config_yaml(struct config *c, const char *name, const char *text, size_t n, char *err, size_t err_len);

enum { CONFIG_FILE_MAX = 1 << 20, CONFIG_KEYS_MAX = 64 };

#endif
