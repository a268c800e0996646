/* Where follow's map goes: a file for Headscale, and the standard input of a command.
 *
 * Owner: follow.c.  Thread: its loop's.  Fails: with a log line, and tries again. */
#ifndef DERPMESH_CLI_FOLLOW_OUT_H
#define DERPMESH_CLI_FOLLOW_OUT_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "proto/derpmap.h"

struct follow_out {
    const char *headscale; /* file, or NULL */
    const char *command;   /* or NULL */
    bool dry_run;
    uv_loop_t *loop;
    char *yaml, *json;            /* as they should be; NULL: not known yet */
    uint64_t file_at, command_at; /* ms: not tried before */
    unsigned command_failed;      /* one after the other */
    bool told;                    /* dry run: said so */
    bool command_done;            /* the command has had json */
    struct follow_command *running;
};

/* Takes over what the regions list: false, with a log line, if that is no map that may replace another. */
bool follow_out_set(struct follow_out *o, const struct derpmap *m, const struct derpmap_listing *l, int n);
/* Does what is still to be done. */
void follow_out_tick(struct follow_out *o, uint64_t now);
/* Whether the file is there. */
bool follow_out_exists(const struct follow_out *o);
void follow_out_stop(struct follow_out *o); /* ends a running command */
void follow_out_free(struct follow_out *o); /* after the loop has ended */

#endif
