/* Reading everything again: settings, map, keys, certificate.  All of it is good and taken over, or nothing
 * changes.
 *
 * Owner: server_run.  Thread: the control loop's; files are read on libuv's thread pool.  One reload at a
 * time: who asks while one runs gets the answer of the next. */
#ifndef DERPMESH_NODE_RELOAD_H
#define DERPMESH_NODE_RELOAD_H

#include <stdbool.h>
#include <uv.h>

#include "node/control.h"

enum { RELOAD_TEXT = 2048 };

/* err: NULL, or why nothing has changed.  changes: one line. */
typedef void (*reload_done)(void *ctx, const char *err, const char *changes);

struct reload_waiter;

struct reload {
    struct control *control;
    int argc;
    char **argv;
    char *const *envp;
    bool running;
    struct reload_waiter *waiting, *next; /* for the one that runs; for the one after it */
    uv_work_t work;
    struct site *old, *fresh;
    char err[RELOAD_TEXT], warn[RELOAD_TEXT], changes[RELOAD_TEXT], last_warn[RELOAD_TEXT];
};

/* argc, argv, envp as at the start; warn: what was doubtful then. */
void reload_init(struct reload *r, struct control *c, int argc, char **argv, char *const *envp,
                 const char *warn);
/* done may be NULL (the outcome is in the log anyway).  Always answered, also after control_stop. */
void reload_ask(struct reload *r, reload_done done, void *ctx);

/* ---- the parts, for tests ---- */

/* Keeps in fresh what needs a restart as it is in old (self_id: our name now); names those settings in
 * kept[len]. 0, or -1 without memory. */
int reload_keep(struct config *fresh, const struct config *old, const char *self_id, char *kept, size_t len);
/* What differs between two sites, for a person: "nodes added=… removed=… changed=…, …"; "nothing" if all is
 * the same. */
void reload_describe(char *out, size_t len, const struct site *old, const struct site *fresh);

#endif
