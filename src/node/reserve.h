/* Memory for what is established, when the system has none left.
 *
 * reserve_malloc is malloc, and where that fails a block of a reserve that was set aside at the start; OpenSSL's memory and the
 * queues of connections come from here.  Whoever would begin something new asks reserve_short first and leaves it, so that the
 * reserve lasts.  What came from here goes back by reserve_free (reserve_realloc), nothing else does.
 * Thread: any.  One reserve a process: OpenSSL's hooks have no context. */
#ifndef DERPMESH_NODE_RESERVE_H
#define DERPMESH_NODE_RESERVE_H

#include <stdbool.h>
#include <stddef.h>

/* Sets the reserve aside and gives OpenSSL these functions; once, before threads and before OpenSSL is used.  Without it (tests)
 * the functions are malloc and so on.  0, or -1: no memory, or OpenSSL has begun already. */
int reserve_init(void);

void *reserve_malloc(size_t n);
void *reserve_realloc(void *p, size_t n);
void reserve_free(void *p);

/* Whether p is a block of the reserve: it should go back as soon as it can. */
bool reserve_has(const void *p);

/* Whether memory is short: half of the reserve is in use, or a MiB could not be had now. */
bool reserve_short(void);

#endif
