/* The STUN port: answers binding requests on one UDP socket of a worker's loop.
 *
 * Happy path: recv → stun_parse_request → one answer of at most the question's size.  Anything else: silence
 * and a counter.
 * Owner and thread: the worker.  Dies: stun_udp_stop, then on_closed. */
#ifndef DERPMESH_NODE_STUN_UDP_H
#define DERPMESH_NODE_STUN_UDP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "node/stats.h"

struct stun_udp {
    uv_udp_t udp;
    struct stats *stats;
    bool silent; /* set by the owner: answers nobody */
    void (*on_closed)(struct stun_udp *s);
    uint8_t buf[2048]; /* one datagram a call; requests have 40 bytes, longer than this is none */
};

/* A bound socket: with SO_REUSEPORT when reuseport is set (several workers); "::" takes IPv4 too.
 * Its descriptor or a libuv error. */
int stun_udp_bind(const struct sockaddr *addr, int reuseport);
/* Answers on a bound socket, which belongs to s from now on, also on failure.  0 or a libuv error; after an
 * error s must stay where it is until the loop has turned once more. */
int stun_udp_open(struct stun_udp *s, uv_loop_t *loop, int fd, struct stats *stats);
/* Both of these. */
int stun_udp_start(struct stun_udp *s, uv_loop_t *loop, const struct sockaddr *addr, int reuseport,
                   struct stats *stats);
void stun_udp_stop(struct stun_udp *s, void (*on_closed)(struct stun_udp *s));

#endif
