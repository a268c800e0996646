/* How large records, batches and the kernel's share may be on the path of a stream.
 *
 * A record can be read only when all of it has arrived, and what the socket has taken cannot be overtaken.  So on a slow path
 * a record holds no more than RECORD_MS of what the path delivers (at least one frame), a batch BATCH_MS, and the kernel holds
 * LOWAT_MS unsent.  On a fast one, or while nothing is known, all are as large as they get.
 * Happy path: a stream with a backlog looks every LOOK_MS.  Fails: without TCP_INFO all stays as it is. */
#include "node/stream_parts.h"

#include <netinet/tcp.h>

#include "node/tcp_info.h"

#ifndef TCP_RTO_MAX_MS
#define TCP_RTO_MAX_MS 44 /* linux/tcp.h, since 6.15 */
#endif

enum { LOOK_MS = 50, RECORD_MS = 2, BATCH_MS = 10, LOWAT_MS = 25, LOWAT_MIN = 16 << 10 };

static uint32_t at_most(uint64_t bytes, uint32_t least, uint32_t most)
{
    return bytes < least ? least : bytes < most ? (uint32_t)bytes : most;
}

void stream_path_look(struct stream *s)
{
    uint64_t now = uv_now(s->io->loop);
    uv_os_fd_t fd;
    if (now < s->look_at || uv_fileno((uv_handle_t *)&s->tcp, &fd) != 0)
        return;
    s->look_at = now + LOOK_MS;
    uint64_t rate = tcp_info_rate(fd);
    if (rate == 0)
        return;
    s->record_max = at_most(rate * RECORD_MS / 1000, 1, CHUNK_RECORD);
    s->batch_max = at_most(rate * BATCH_MS / 1000, 1, STREAM_BATCH);
    uint32_t lowat = at_most(rate * LOWAT_MS / 1000, LOWAT_MIN, STREAM_NOTSENT_LOWAT);
    if (lowat / 2 >= s->lowat || lowat <= s->lowat / 2 ||
        (lowat == STREAM_NOTSENT_LOWAT && lowat != s->lowat)) {
        s->lowat = lowat;
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &s->lowat, sizeof(s->lowat));
    }
}

bool stream_unanswered(struct stream *s)
{
    uint64_t now = uv_now(s->io->loop);
    uv_os_fd_t fd;
    if (now >= s->answer_at && uv_fileno((uv_handle_t *)&s->tcp, &fd) == 0) {
        s->answer_at = now + LOOK_MS;
        s->unanswered = tcp_info_unanswered(fd);
    }
    return s->unanswered;
}

/* TCP doubles the time until it tries again: a path that comes back after half a minute would be silent for another one.
 * Fewer seconds a try would make fewer seconds in all, hence the second option: longer than MESH_LINK_DEAD_MS. */
void stream_persist(struct stream *s)
{
    int most = 1000, give_up = 65000;
    uv_os_fd_t fd;
    if (uv_fileno((uv_handle_t *)&s->tcp, &fd) != 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_RTO_MAX_MS, &most, sizeof(most)) != 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &give_up, sizeof(give_up));
}
