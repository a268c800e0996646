/* Certificate files are watched: a renewed certificate is served without a reload, a bad one never.
 *
 *   directory changed ─┐                     ┌─ as before ─────────► nothing
 *   a minute is over  ─┼─► files settled? ───┼─ good ──────────────► another site, nobody is disconnected
 *   another site      ─┘   (digest twice     └─ bad, for 5 s ──────► one line, a problem in status, a metric
 *                           the same)
 *
 * Owner: server_run.  Thread: the control loop's; files are read on libuv's thread pool, one look at a time.
 * What a look finds is thrown away if another site came meanwhile (a reload has read the files itself). */
#ifndef DERPMESH_NODE_CERT_WATCH_H
#define DERPMESH_NODE_CERT_WATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "node/control.h"

/* All in ms. */
struct cert_watch_times {
    uint64_t poll;   /* between two looks when nothing happens */
    uint64_t settle; /* from a change to the look at it, and from look to look while the files change */
    uint64_t grace;  /* how long files may be wrong before it is said */
    uint64_t again;  /* what stays wrong is said again */
};
extern const struct cert_watch_times cert_watch_times;

struct cert_watch_dir;
struct cert_watch_look;

struct cert_watch {
    struct control *control;
    struct cert_watch_times t;
    uv_timer_t timer;
    uv_work_t work;
    struct cert_watch_look *look; /* under way */
    struct cert_watch_dir *dirs;
    bool on, once_more, fs_failed;
    uint64_t timer_at;        /* ms: when timer fires */
    uint64_t bad_since;       /* ms; 0: the files are as they should be, or their fault has been said */
    uint8_t seen[TLS_DIGEST]; /* the last look's */
    uint8_t said[TLS_DIGEST]; /* of the files whose fault is control->cert */
    int urgency;              /* 0, 1: expires soon, 2: expired */
    uint64_t say_at;          /* ms: when what stays wrong is said again */
};

/* Nothing if the node serves no TLS.  The site that runs now has told its doubts already. */
void cert_watch_start(struct cert_watch *w, struct control *c, const struct cert_watch_times *t);
/* Never started, or twice, is fine; the loop runs on until its handles are closed. */
void cert_watch_stop(struct cert_watch *w);
/* One line for each certificate beside the main one, with the lines for the derpMap where clients can know it
 * by its pin only. */
void cert_watch_log_sides(const struct tls_server *t);

#endif
