/* Runs seeds, each a random schedule, in several processes; or one of them with a trace; or the large meshes.
 *
 * usage: sim [--seeds N] [--first SEED] [--jobs N] [--past FILE]   N schedules, and before them those of FILE
 *        sim --seed SEED [--verbose]                               one of them
 *        sim --scale [--long]                                      large meshes: docs/scale.md
 *
 * A seed that fails ends its process; the others go on, and the last lines name the seeds that failed. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sodium.h>

#include "sim.h"

enum { JOBS_MAX = 64, PAST_MAX = 4096, FAILED_MAX = 20 };

/* What the processes share. */
struct shared {
    atomic_uint_fast64_t next; /* number of the next seed to run */
    struct {
        uint64_t seed;
    } job[JOBS_MAX];
};

struct options {
    uint64_t seeds, first, seed;
    int jobs;
    bool one, verbose, scale, is_long;
    uint64_t past[PAST_MAX];
    size_t n_past;
};

/* One seed a line; # begins a comment. */
static int past_read(struct options *o, const char *file)
{
    char line[200];
    FILE *f = fopen(file, "r");
    if (!f) {
        fprintf(stderr, "%s: %s\n", file, strerror(errno));
        return -1;
    }
    while (fgets(line, sizeof line, f) && o->n_past < PAST_MAX) {
        char *end;
        uint64_t seed = strtoull(line, &end, 10);
        if (end != line)
            o->past[o->n_past++] = seed;
    }
    fclose(f);
    return 0;
}

static uint64_t seed_of(const struct options *o, uint64_t number)
{
    return number < o->n_past ? o->past[number] : o->first + number - o->n_past;
}

static void work(const struct options *o, struct shared *sh, int job)
{
    for (;;) {
        uint64_t number = atomic_fetch_add(&sh->next, 1);
        if (number >= o->n_past + o->seeds)
            exit(0);
        sh->job[job].seed = seed_of(o, number);
        sim_schedule(sh->job[job].seed, false);
    }
}

static pid_t job_start(const struct options *o, struct shared *sh, int job)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        work(o, sh, job);
    return pid;
}

/* How many failed. */
static uint64_t run_seeds(const struct options *o)
{
    struct shared *sh = mmap(NULL, sizeof *sh, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid[JOBS_MAX];
    uint64_t failed = 0;
    int left = o->jobs, status;
    if (sh == MAP_FAILED)
        return 1;
    for (int i = 0; i < o->jobs; i++)
        pid[i] = job_start(o, sh, i);
    while (left > 0) {
        pid_t ended = wait(&status);
        int job = 0;
        while (job < o->jobs && pid[job] != ended)
            job++;
        if (ended < 0)
            break;
        if (job == o->jobs)
            continue;
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
            left--;
            continue;
        }
        printf("FAILED: seed %" PRIu64 " (again with: sim --seed %" PRIu64 " --verbose)\n", sh->job[job].seed,
               sh->job[job].seed);
        if (++failed < FAILED_MAX)
            pid[job] = job_start(o, sh, job);
        else
            left--;
    }
    uint64_t ran = atomic_load(&sh->next), all = o->n_past + o->seeds;
    printf("%" PRIu64 " schedules, %" PRIu64 " from seed %" PRIu64 " and %zu of the past: %" PRIu64
           " failed\n",
           ran < all ? ran : all, o->seeds, o->first, o->n_past, failed);
    munmap(sh, sizeof *sh);
    return failed;
}

static int usage(void)
{
    fputs("usage: sim [--seeds N] [--first SEED] [--jobs N] [--past FILE]\n"
          "       sim --seed SEED [--verbose]\n"
          "       sim --scale [--long]\n",
          stderr);
    return 2;
}

static int options_read(struct options *o, char **arg)
{
    for (; *arg; arg++) {
        const char *name = *arg;
        if (strcmp(name, "--verbose") == 0) {
            o->verbose = true;
        } else if (strcmp(name, "--scale") == 0) {
            o->scale = true;
        } else if (strcmp(name, "--long") == 0) {
            o->is_long = true;
        } else if (!arg[1]) {
            return -1;
        } else if (strcmp(name, "--seeds") == 0) {
            o->seeds = strtoull(*++arg, NULL, 10);
        } else if (strcmp(name, "--first") == 0) {
            o->first = strtoull(*++arg, NULL, 10);
        } else if (strcmp(name, "--jobs") == 0) {
            o->jobs = atoi(*++arg);
        } else if (strcmp(name, "--seed") == 0) {
            o->seed = strtoull(*++arg, NULL, 10);
            o->one = true;
        } else if (strcmp(name, "--past") == 0) {
            if (past_read(o, *++arg) != 0)
                return -1;
        } else {
            return -1;
        }
    }
    return o->jobs < 1 || o->jobs > JOBS_MAX ? -1 : 0;
}

int main(int argc, char **argv)
{
    static struct options o = {.seeds = 2000, .first = 1, .jobs = 2};
    (void)argc;
    if (options_read(&o, argv + 1) != 0)
        return usage();
    if (sodium_init() < 0)
        return 1;
    if (o.scale)
        return sim_scale(o.is_long);
    if (o.one) {
        sim_schedule(o.seed, o.verbose);
        printf("seed %" PRIu64 ": passed\n", o.seed);
        return 0;
    }
    return run_seeds(&o) ? 1 : 0;
}
