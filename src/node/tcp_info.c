/* TCP_INFO, in a file of its own: linux/tcp.h has the whole of struct tcp_info, but cannot stand beside netinet/tcp.h, which
 * libuv's header brings.  Source: tcp(7); include/uapi/linux/tcp.h. */
#include "node/tcp_info.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* delivery_rate is too low where the application had nothing to send: then the congestion window counts if it says more. */
uint64_t tcp_info_rate(int fd)
{
    struct tcp_info ti = {0};
    socklen_t len = sizeof(ti);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len) < 0 || ti.tcpi_rtt == 0)
        return 0;
    uint64_t window = (uint64_t)ti.tcpi_snd_cwnd * ti.tcpi_snd_mss * 1000000 / ti.tcpi_rtt;
    if (ti.tcpi_delivery_rate == 0 || (ti.tcpi_delivery_rate_app_limited && window > ti.tcpi_delivery_rate))
        return window;
    return ti.tcpi_delivery_rate;
}

bool tcp_info_unanswered(int fd)
{
    enum { RESENT = 2, SILENT_MS = 1000 };
    struct tcp_info ti = {0};
    socklen_t len = sizeof(ti);
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len) == 0 && ti.tcpi_unacked > 0 &&
           ti.tcpi_retransmits >= RESENT && ti.tcpi_last_ack_recv >= SILENT_MS;
}

int tcp_progress(int fd, struct tcp_progress *p)
{
    struct tcp_info info;
    socklen_t len = sizeof(info);
    memset(&info, 0, sizeof(info)); /* an older kernel fills less */
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0)
        return -1;
    p->acked = info.tcpi_bytes_acked;
    p->all = info.tcpi_unacked == 0 && info.tcpi_notsent_bytes == 0;
    return 0;
}

bool tcp_use(int fd, const char *name)
{
    return setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name)) == 0;
}

bool tcp_can_use(const char *name, char in_force[static TCP_CC_NAME])
{
    socklen_t len = TCP_CC_NAME;
    bool there = false;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(in_force, TCP_CC_NAME, "unknown");
    if (fd < 0)
        return false;
    if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, in_force, &len) == 0)
        in_force[TCP_CC_NAME - 1] = 0;
    there = tcp_use(fd, name);
    close(fd);
    return there;
}
