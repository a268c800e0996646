/* What the relay's processes have used: /proc/PID/task/TID/schedstat (nanoseconds, where /proc/PID/stat has hundredths of a
 * second), statm, and /proc/net/sockstat.  Fails: what cannot be read counts as 0, as for a process that has gone. */
#include "process.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int processes_parse(struct processes *p, const char *text)
{
    char *end;
    for (p->n = 0; p->n < PROCESSES_MAX; text = end + 1) {
        p->pid[p->n] = (int)strtol(text, &end, 10);
        if (end == text || p->pid[p->n++] <= 0)
            return -1;
        if (*end == '\0')
            return 0;
    }
    return -1;
}

static void add_threads(struct process_use *u, int pid)
{
    char path[64], file[sizeof(path) + sizeof(((struct dirent *)0)->d_name) + 16];
    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        unsigned long long on_cpu, waited, slices;
        snprintf(file, sizeof(file), "%s/%s/schedstat", path, e->d_name);
        FILE *f = e->d_name[0] == '.' ? NULL : fopen(file, "re");
        if (!f)
            continue;
        if (fscanf(f, "%llu %llu %llu", &on_cpu, &waited, &slices) == 3) {
            u->cpu_s += (double)on_cpu / 1e9;
            u->switches += slices;
        }
        fclose(f);
    }
    if (d)
        closedir(d);
}

static long resident_kb(int pid)
{
    char path[64];
    long pages = 0;
    snprintf(path, sizeof(path), "/proc/%d/statm", pid);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%*d %ld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static long sockets_kb(void)
{
    char line[256];
    long pages = 0;
    FILE *f = fopen("/proc/net/sockstat", "re");
    while (f && fgets(line, sizeof(line), f)) {
        const char *mem = strncmp(line, "TCP:", 4) == 0 ? strstr(line, " mem ") : NULL;
        if (mem)
            pages = strtol(mem + 5, NULL, 10);
    }
    if (f)
        fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

struct process_use processes_use(const struct processes *p)
{
    struct process_use u = {.sockets_kb = sockets_kb()};
    for (int i = 0; i < p->n; i++) {
        add_threads(&u, p->pid[i]);
        u.rss_kb += resident_kb(p->pid[i]);
    }
    return u;
}
