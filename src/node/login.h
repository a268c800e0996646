/* What only a connection before login needs.  Owner: its conn; freed when it becomes a client or a link, or closes.
 * Thread: the worker's. */
#ifndef DERPMESH_NODE_LOGIN_H
#define DERPMESH_NODE_LOGIN_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/hello.h"

struct conn;

enum { LOGIN_TOTAL_MS = 20000, LOGIN_IDLE_MS = 10000 };

struct login {
    struct conn *prev, *next;   /* worker.logins, oldest first */
    uint64_t by;                /* ms: done by then */
    uint64_t idle_by;           /* ms: progress by then */
    uint64_t seen_bytes;        /* bytes_in at the last look */
    uint8_t port_kind;          /* enum http_port */
    bool derp;                  /* upgraded: ServerKey sent, ClientInfo awaited */
    bool counted;               /* in login_limits */
    bool asking;                /* ClientInfo taken, admission asked: nothing is read until it answers */
    struct hello_shared shared; /* for the ServerInfo; secret */
};

/* A connection was accepted, c->login is set and c->addr is as far as it is known: listed, and its time begins. */
void login_begin(struct conn *c);
/* The address that counts is known: c is counted, or closed, or another where that is too many. */
void login_admit(struct conn *c);
/* The connection is no longer before login: counters, list, memory.  Nothing if it was not. */
void login_end(struct conn *c);
/* Whether it has taken too long; the time that it waited for us does not count.  Every SESSION_DUE_MS. */
bool login_overdue(struct conn *c, uint64_t now);

#endif
