/* The map put into a file that holds more than it: a tailnet policy, or Headscale's derp.yaml.  All else in the file stays byte for
 * byte; no I/O here. */
#ifndef DERPMESH_CLI_MAP_INTO_H
#define DERPMESH_CLI_MAP_INTO_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/hujson.h"

/* Whether the text, comments and blanks left aside, begins as a policy does: with a brace. */
bool map_into_is_policy(const char *text, size_t n);
/* The policy text[n] (a NUL behind it) with json (an object, as map export --to json writes it) as the value of derpMap, which is made where there is
 * none.  malloc'd and NUL-terminated; NULL with *err (line 0: no memory). */
char *map_into_policy(const char *text, size_t n, const char *json, struct text_error *err);
/* derp.yaml with the regions of yaml (as map export --to headscale writes it) in place of its own.  As above. */
char *map_into_headscale(const char *text, size_t n, const char *yaml, struct text_error *err);

#endif
