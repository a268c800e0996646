/* What the relay's processes have used so far. */
#ifndef DERPMESH_BENCH_PROCESS_H
#define DERPMESH_BENCH_PROCESS_H

#include <stdint.h>

enum { PROCESSES_MAX = 4 };

struct processes {
    int n, pid[PROCESSES_MAX];
};

struct process_use {
    double cpu_s;            /* user and system, all threads that live */
    uint64_t switches;       /* how many times they were put on a core */
    long rss_kb, sockets_kb; /* resident; of the kernel, for all TCP sockets of this network namespace */
};

/* "123" or "123,456".  0 or -1. */
int processes_parse(struct processes *p, const char *text);
struct process_use processes_use(const struct processes *p);

#endif
