/* What the kernel knows of a TCP connection. */
#ifndef DERPMESH_NODE_TCP_INFO_H
#define DERPMESH_NODE_TCP_INFO_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes per second that the path delivers, about; 0 if that is not known. */
uint64_t tcp_info_rate(int fd);
/* What was sent has been sent again more than once, and for a second nothing of it was acknowledged. */
bool tcp_info_unanswered(int fd);

#endif
