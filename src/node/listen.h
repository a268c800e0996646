/* Which addresses a node listens on, and sockets bound to them: one of each kind for every worker.
 *
 * Source: docs, "Settings": listen, listen_http, listen_stun.  Default address: the node's own of the map
 * where it is local to this machine, else all (IPv6 that takes IPv4 too; IPv4 where the kernel has no IPv6).
 * Thread: any; called before the workers run. */
#ifndef DERPMESH_NODE_LISTEN_H
#define DERPMESH_NODE_LISTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "node/config.h"
#include "node/inherited.h"
#include "proto/derpmap.h"

enum listen_kind { LISTEN_DERP, LISTEN_HTTP, LISTEN_STUN, LISTEN_KINDS };
enum { LISTEN_TEXT = 72, LISTEN_BACKLOG = 4096 };

struct listen_at {
    bool on;
    bool optional; /* by default only: a port that cannot be had is worth a warning, not a refusal */
    int port;
    struct sockaddr_storage addr;
    socklen_t len;
    char text[LISTEN_TEXT]; /* "[::]:443"; "off" */
};

/* Options that accepted connections inherit from the listening socket. */
struct listen_tcp {
    int keepalive_s;     /* -1: off */
    int user_timeout_ms; /* 0: the kernel's own */
};

struct listen_plan {
    struct listen_tcp tcp;
    struct listen_at at[LISTEN_KINDS];
};

/* 0, or -1 with a sentence in err. */
int listen_plan(struct listen_plan *p, const struct config *c, const struct derpmap_node *self, char *err,
                size_t err_len);
/* Whether the port can be had for ourselves alone: binds without SO_REUSEPORT and lets go.  0 or -1 with a
 * sentence. */
int listen_probe(const struct listen_at *a, enum listen_kind kind, char *err, size_t err_len);

/* One worker's sockets; -1: none. */
struct listen_fds {
    int fd[LISTEN_KINDS];
};
/* Takes those that were inherited; else probes, then opens the sockets of n workers with SO_REUSEPORT; those of TCP listen.  An optional one that
 * cannot be had is switched off in the plan, with a sentence in warn ("" if none).  0, or -1 with a sentence
 * in err and nothing open. */
int listen_open(struct listen_plan *p, struct inherited *in, struct listen_fds *fds, int n, char *err,
                size_t err_len, char *warn, size_t warn_len);
void listen_close(struct listen_fds *fds, int n);

/* Whether text is an IP address of this machine. */
bool listen_is_local(const char *text);
/* The setting that decides about it, for messages: "listen", "listen_http", "listen_stun". */
const char *listen_setting(enum listen_kind kind);

#endif
