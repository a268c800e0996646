/* A ring of keys with the moment when something about each is due.
 *
 * Happy path: all timers of a ring last equally long, so they are pushed at the end and due at the head; what became
 * void meanwhile is seen by whoever pops it.
 * How it fails: without memory key_queue_push returns -1 and nothing has changed. */
#include "mesh/key_queue.h"

#include <stdlib.h>

int key_queue_push(struct key_queue *q, const struct derp_key *key, uint64_t at, uint32_t node)
{
    if (q->n == q->cap) {
        size_t cap = q->cap ? q->cap * 2 : 64;
        struct key_timer *e = malloc(cap * sizeof *e);
        if (!e)
            return -1;
        for (size_t i = 0; i < q->n; i++)
            e[i] = q->e[(q->head + i) % q->cap];
        free(q->e);
        *q = (struct key_queue){.e = e, .n = q->n, .cap = cap};
    }
    q->e[(q->head + q->n++) % q->cap] = (struct key_timer){.key = *key, .at = at, .node = node};
    return 0;
}

void key_queue_pop(struct key_queue *q)
{
    q->head = (q->head + 1) % q->cap;
    if (--q->n == 0) {
        free(q->e);
        *q = (struct key_queue){0};
    }
}

bool key_queue_due(const struct key_queue *q, uint64_t now)
{
    return q->n && q->e[q->head].at <= now;
}

struct key_timer key_queue_head(const struct key_queue *q)
{
    return q->e[q->head];
}
