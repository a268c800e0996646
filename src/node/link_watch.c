/* Looking at TCP_INFO of links.  Fails: a kernel that says nothing of it leaves only what comes in as a sign of life. */
#include "node/link_watch.h"

#include "node/conn.h"
#include "node/tcp_info.h"

static void look(struct link_watches *all, struct link_watch *w)
{
    struct stream *s = &w->conn->stream;
    struct tcp_progress p;
    uv_os_fd_t fd;
    if (s->closing || w->settled == s->bytes_out || uv_fileno((uv_handle_t *)&s->tcp, &fd) != 0 ||
        tcp_progress(fd, &p) != 0)
        return;
    if (p.all && s->in_flight == 0)
        w->settled = s->bytes_out;
    if (p.acked <= w->acked)
        return;
    w->acked = p.acked;
    all->acked(w->conn, p.acked);
}

static void on_timer(uv_timer_t *timer)
{
    struct link_watches *all = timer->data;
    struct link_watch *w;
    LIST_FOREACH(w, &all->all, entry)
    look(all, w);
}

void link_watches_init(struct link_watches *all, uv_loop_t *loop,
                       void (*acked)(struct conn *c, uint64_t bytes))
{
    LIST_INIT(&all->all);
    all->acked = acked;
    uv_timer_init(loop, &all->timer);
    all->timer.data = all;
}

void link_watches_stop(struct link_watches *all)
{
    uv_close((uv_handle_t *)&all->timer, NULL);
}

void link_watch_add(struct link_watches *all, struct link_watch *w)
{
    if (LIST_EMPTY(&all->all))
        uv_timer_start(&all->timer, on_timer, LINK_WATCH_MS, LINK_WATCH_MS);
    LIST_INSERT_HEAD(&all->all, w, entry);
}

void link_watch_remove(struct link_watches *all, struct link_watch *w)
{
    if (!w->conn)
        return;
    LIST_REMOVE(w, entry);
    w->conn = NULL;
    if (LIST_EMPTY(&all->all))
        uv_timer_stop(&all->timer);
}
