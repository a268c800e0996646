/* The ways between the ports of a wire: what is lost, delayed and dropped on each.
 *
 * Pure but for the delivery: the caller gives the time (nanoseconds of a monotonic clock) and a function that hands a
 * packet to its port.  One thread. */
#ifndef DERPMESH_TESTS_TOOLS_WIRE_H
#define DERPMESH_TESTS_TOOLS_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WIRE_PORTS = 24, WIRE_WAITING_MAX = 64 << 20 /* bytes that may be under way one way */ };

struct packet;

/* One direction between two ports.  A packet leaves when those before it have left at the rate, is under way for the
 * delay and never overtakes. */
struct way {
    bool cut;
    double loss;            /* 0 to 1 */
    uint64_t delay, jitter; /* ns; the jitter is added, evenly between 0 and its value */
    uint64_t rate;          /* bits/s, 0: no limit */
    uint64_t queue;         /* bytes that may wait for the rate */
    uint64_t random;        /* state of the generator */
    uint64_t free_at;       /* when what waits for the rate has left */
    struct packet *head, *tail;
    uint64_t waiting; /* bytes under way */
    struct {
        uint64_t sent, lost, full, cut, refused;
    } n; /* packets */
};

/* Hands the packet to the port; false if it does not take it. */
typedef bool way_deliver(void *ctx, const uint8_t *packet, size_t len);

void way_init(struct way *w, uint64_t seed);
/* A packet enters: it is delivered at once, kept until it is due, or dropped and counted. */
void way_take(struct way *w, const uint8_t *packet, size_t len, uint64_t now, way_deliver *deliver,
              void *ctx);
/* Delivers what is due. */
void way_run(struct way *w, uint64_t now, way_deliver *deliver, void *ctx);
/* When the next packet is due; UINT64_MAX if none is under way. */
uint64_t way_next(const struct way *w);

#endif
