/* Many clients: logins one after the other, all at once, and herds that only stay. */
#ifndef DERPMESH_BENCH_HERD_H
#define DERPMESH_BENCH_HERD_H

#include "traffic.h"

/* --herd: all logins at once, each from one of 250 addresses of 127/8; a refused one tries again.  Prints how long it took.  The
 * exit status. */
int herd_run(struct load *l);

/* --idle: logs in, prints CPU a login and memory a client; --watch: CPU while nothing happens; --burst: memory again after each
 * client has sent and received so many MB.  The exit status. */
int idle_run(struct load *l);

#endif
