/* Who is connected to this node: client key → its connections, over all workers.
 *
 * A key may have several connections (a client that reconnects before the old one is noticed dead; a cloned
 * key).  One of them is *active*: packets for the key go there.  It is the newest at first, then whichever
 * sent last. Pure: no sockets, no clock.  Every operation takes constant time, however many connections a
 * key has.
 * Owner and thread: the control thread. */
#ifndef DERPMESH_NODE_CLIENTS_H
#define DERPMESH_NODE_CLIENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mesh/routes.h"
#include "proto/key.h"

struct clients;

/* What an event has changed for the key. */
struct clients_change {
    bool first;        /* the key was not here before */
    bool last;         /* the key is not here any more */
    bool home_changed; /* home says whether any connection has this node as home */
    bool home;
    bool active_changed; /* active is where packets go from now on (not set with last) */
    struct conn_ref active;
};

struct clients *clients_new(uint64_t seed); /* NULL without memory */
void clients_free(struct clients *c);

/* Each fills *change (all false if nothing changed).  A connection that is not known changes nothing. */
int clients_up(struct clients *c, const struct derp_key *key, const struct conn_ref *ref, bool home,
               struct clients_change *change); /* 0, -1 no memory */
void clients_home(struct clients *c, const struct derp_key *key, const struct conn_ref *ref, bool home,
                  struct clients_change *change);
void clients_active(struct clients *c, const struct derp_key *key, const struct conn_ref *ref,
                    struct clients_change *change);
void clients_down(struct clients *c, const struct derp_key *key, const struct conn_ref *ref,
                  struct clients_change *change);

struct clients_info {
    struct conn_ref active;
    uint32_t connections, home; /* home: connections that say so */
};
bool clients_get(const struct clients *c, const struct derp_key *key, struct clients_info *out);

/* Calls one for each connection of the key; it must change nothing here. */
void clients_each(const struct clients *c, const struct derp_key *key,
                  void (*one)(void *ctx, const struct conn_ref *ref), void *ctx);
/* The i-th key, by no order; NULL behind the last. */
const struct derp_key *clients_key(const struct clients *c, size_t i);

size_t clients_keys(const struct clients *c);
size_t clients_connections(const struct clients *c);
size_t clients_homes(const struct clients *c); /* keys with home here */

#endif
