/* The STUN port: answers binding requests on one UDP socket of a worker's loop.
 *
 * Happy path: recv → stun_parse_request → one answer of at most the question's size.  Anything else: silence and a counter.
 * Owner and thread: the worker.  Dies: stun_udp_stop, then on_closed. */
#ifndef DERPMESH_NODE_STUN_UDP_H
#define DERPMESH_NODE_STUN_UDP_H

#include <stdint.h>
#include <uv.h>

#include "node/stats.h"

struct stun_udp {
    uv_udp_t udp;
    struct stats *stats;
    void (*on_closed)(struct stun_udp *s);
    uint8_t buf[2048 * 8]; /* uv_udp recvmmsg is not used: one datagram a call, no allocation */
};

/* Answers on a bound UDP socket, which is owned from now on.  0 or a libuv error. */
int stun_udp_open(struct stun_udp *s, uv_loop_t *loop, int fd, struct stats *stats);
/* on_closed may be NULL. */
void stun_udp_stop(struct stun_udp *s, void (*on_closed)(struct stun_udp *s));

#endif
