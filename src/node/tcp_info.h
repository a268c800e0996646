/* What the kernel knows of a TCP connection, and which congestion control it uses.  Any thread. */
#ifndef DERPMESH_NODE_TCP_INFO_H
#define DERPMESH_NODE_TCP_INFO_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes per second that the path delivers, about; 0 if that is not known. */
uint64_t tcp_info_rate(int fd);
/* What was sent has been sent again more than once, and for a second nothing of it was acknowledged. */
bool tcp_info_unanswered(int fd);

struct tcp_progress {
    uint64_t acked; /* bytes that the other side has acknowledged since the beginning */
    bool all;       /* nothing waits, nothing is under way */
};
int tcp_progress(int fd, struct tcp_progress *p); /* 0, -1 if the kernel does not say */

enum { TCP_CC_NAME = 16 };
/* Asks for a congestion control by its name.  False where it cannot be had. */
bool tcp_use(int fd, const char *name);
/* Whether new connections can have it; in_force: what they have if nobody asks. */
bool tcp_can_use(const char *name, char in_force[static TCP_CC_NAME]);

#endif
