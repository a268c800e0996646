/* The STUN port of a worker.
 *
 * Happy path: a datagram is read into the embedded buffer, checked, and answered at once by uv_udp_try_send
 * to where it came from; no allocation, no queue.
 * Failure: what is no request of a Tailscale client gets silence and is counted; an answer that the socket
 * does not take is lost and counted, as UDP may lose it anyway; errors of receiving (an ICMP answer to an
 * earlier one) change nothing. */
#include "node/stun_udp.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/stun.h"

/* IPv4-mapped addresses are IPv4: clients want the family that they used. */
static int address_of(struct stun_addr *out, const struct sockaddr *sa)
{
    memset(out, 0, sizeof *out);
    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;
        memcpy(out->ip, &in->sin_addr, 4);
        out->ip_len = 4;
        out->port = ntohs(in->sin_port);
        return 0;
    }
    if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;
        bool mapped = IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr);
        out->ip_len = mapped ? 4 : 16;
        memcpy(out->ip, in6->sin6_addr.s6_addr + (mapped ? 12 : 0), (size_t)out->ip_len);
        out->port = ntohs(in6->sin6_port);
        return 0;
    }
    return -1;
}

static void answer(struct stun_udp *s, const uint8_t *p, size_t n, const struct sockaddr *from)
{
    uint8_t txid[STUN_TXID_LEN], out[STUN_RESPONSE_MAX];
    struct stun_addr addr;

    if (stun_parse_request(p, n, txid) != 0 || address_of(&addr, from) != 0) {
        stats_add(s->stats, STAT_STUN_BAD, 1);
        return;
    }
    if (s->silent) {
        stats_add(s->stats, STAT_STUN_SILENT, 1);
        return;
    }
    uv_buf_t buf = uv_buf_init((char *)out, (unsigned)stun_response(out, txid, &addr));
    int sent = uv_udp_try_send(&s->udp, &buf, 1, from);
    stats_add(s->stats, sent < 0 ? STAT_STUN_UNSENT : STAT_STUN_SUCCESS, 1);
    if (sent >= 0 && addr.ip_len == 16)
        stats_add(s->stats, STAT_STUN_IPV6, 1);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct stun_udp *s = handle->data;

    (void)suggested;
    *buf = uv_buf_init((char *)s->buf, sizeof s->buf);
}

static void on_recv(uv_udp_t *udp, ssize_t nread, const uv_buf_t *buf, const struct sockaddr *from,
                    unsigned flags)
{
    struct stun_udp *s = udp->data;

    (void)flags; /* a datagram that was cut is longer than any request: what is left of it is malformed */
    if (nread < 0 || from == NULL)
        return;
    answer(s, (const uint8_t *)buf->base, (size_t)nread, from);
}

static void on_close(uv_handle_t *handle)
{
    struct stun_udp *s = handle->data;

    if (s->on_closed)
        s->on_closed(s);
}

int stun_udp_bind(const struct sockaddr *addr, int reuseport)
{
    int on = 1, off = 0, err;
    socklen_t len = addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    int fd = socket(addr->sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return uv_translate_sys_error(errno);
    if (reuseport && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) != 0)
        goto fail;
    if (addr->sa_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) != 0)
        goto fail;
    /* Before uv_udp_open, which sets SO_REUSEADDR: set earlier, it would let two programs share the port. */
    if (bind(fd, addr, len) != 0)
        goto fail;
    return fd;

fail:
    err = errno;
    close(fd);
    return uv_translate_sys_error(err);
}

int stun_udp_open(struct stun_udp *s, uv_loop_t *loop, int fd, struct stats *stats)
{
    int rc;

    s->stats = stats;
    s->on_closed = NULL;
    s->silent = false;
    rc = uv_udp_init(loop, &s->udp);
    if (rc != 0) {
        close(fd);
        return rc;
    }
    s->udp.data = s;
    rc = uv_udp_open(&s->udp, fd);
    if (rc != 0)
        close(fd);
    else
        rc = uv_udp_recv_start(&s->udp, on_alloc, on_recv);
    if (rc != 0)
        uv_close((uv_handle_t *)&s->udp, on_close);
    return rc;
}

int stun_udp_start(struct stun_udp *s, uv_loop_t *loop, const struct sockaddr *addr, int reuseport,
                   struct stats *stats)
{
    int fd = stun_udp_bind(addr, reuseport);

    return fd < 0 ? fd : stun_udp_open(s, loop, fd, stats);
}

void stun_udp_stop(struct stun_udp *s, void (*on_closed)(struct stun_udp *s))
{
    s->on_closed = on_closed;
    uv_close((uv_handle_t *)&s->udp, on_close);
}
