/* A ring of keys with the moment when something about each is due; for timers that all last equally long. */
#ifndef DERPMESH_MESH_KEY_QUEUE_H
#define DERPMESH_MESH_KEY_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/key.h"

struct key_timer {
    struct derp_key key;
    uint64_t at;
    uint32_t node;
};

/* Zeroed: empty.  The owner frees e at the end. */
struct key_queue {
    struct key_timer *e;
    size_t head, n, cap;
};

/* at is not before that of the last one.  0, -1 no memory. */
int key_queue_push(struct key_queue *q, const struct derp_key *key, uint64_t at, uint32_t node);
bool key_queue_due(const struct key_queue *q, uint64_t now);
/* Of a queue that is not empty: the first, and its end. */
struct key_timer key_queue_head(const struct key_queue *q);
void key_queue_pop(struct key_queue *q);

#endif
