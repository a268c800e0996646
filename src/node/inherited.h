/* Listening sockets that we were given instead of opening them: by the service manager (socket activation, LISTEN_FDS as
 * sd_listen_fds(3) has it) or by the process whose place we take (handover.h).
 *
 * Thread: the main thread, before others run. */
#ifndef DERPMESH_NODE_INHERITED_H
#define DERPMESH_NODE_INHERITED_H

#include <stdbool.h>

enum { INHERITED_FIRST = 3, INHERITED_MAX = 256 };

struct inherited {
    int fd[INHERITED_MAX]; /* -1: taken */
    int n;
    bool lasting; /* the service manager has them too and keeps them: they must not be shut down */
};

/* Takes what the environment names and removes it from there.  Nothing, where it is meant for another process. */
void inherited_take(struct inherited *in);
/* A socket of that type (SOCK_STREAM, SOCK_DGRAM) bound to that port, the caller's from now on; -1: none. */
int inherited_find(struct inherited *in, int type, int port);
/* Closes those that nobody took.  How many. */
int inherited_close(struct inherited *in);

#endif
