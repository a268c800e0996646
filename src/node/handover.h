/* Another process takes this one's place: a new version of the program, started from the file that is there now, with the same
 * arguments and the sockets that listen.
 *
 *   old: RUNNING → (start) heir spawned → heir says ready → stops at once → process ends
 *                                       → heir ends or says nothing for HANDOVER_MS: a line in the log, RUNNING
 *   heir: reads and checks everything → ready → waits until the old process has ended → serves
 *
 * The sockets stay open all the time, so that a connection attempt waits in the kernel's queue instead of being refused.  One
 * process at a time has the lock, the admin socket and the mesh links; what a client notices is one closed connection.
 * Thread: the control loop's; handover_heir_*: the main thread, before others run. */
#ifndef DERPMESH_NODE_HANDOVER_H
#define DERPMESH_NODE_HANDOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

enum { HANDOVER_MS = 15000, HANDOVER_FDS = 200, HANDOVER_ARGS = 256 };

struct handover {
    char *program, *command; /* path; arguments as /proc has them */
    size_t command_len;
    uv_process_t process;
    uv_pipe_t pipe;
    uv_timer_t timer;
    bool begun, ended; /* handles are there; the heir has gone */
    bool given;        /* the heir is ready */
    int open;          /* handles of this attempt that are not closed yet */
    void (*done)(void *ctx, const char *err);
    void *ctx;
    char err[256];
};

/* Remembers what program this is: later the file may be another one. */
void handover_init(struct handover *h);
void handover_deinit(struct handover *h);
/* Starts the heir with these listening sockets.  done is called once: with NULL when it is ready (the caller then stops, and the
 * process ends), else with a sentence.  -1 with the sentence in err if that is known at once: done is not called. */
int handover_start(struct handover *h, uv_loop_t *loop, const int *fds, int n,
                   void (*done)(void *ctx, const char *err), void *ctx, char *err, size_t err_len);
/* The heir's process; after done(NULL). */
int handover_pid(const struct handover *h);
/* The node stops: closes what an attempt has open; an heir that is not ready is told to go. */
void handover_stop(struct handover *h);

/* Whether this process was started to take another one's place. */
bool handover_is_heir(void);
/* Tells the old process that we are ready, and waits until it has ended. */
void handover_heir_wait(void);

#endif
