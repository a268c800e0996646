/* Files that others read while we write them: replaced whole, or left alone. */
#ifndef DERPMESH_CLI_REPLACE_H
#define DERPMESH_CLI_REPLACE_H

#include <stdbool.h>

/* Whether the file holds just this text. */
bool cli_file_is(const char *path, const char *text);
/* By rename, so that no reader sees half of it; with owner and mode of the file that was there.  0, or -1 with errno. */
int cli_file_replace(const char *path, const char *text);

#endif
