/* Refuses a connection without memory for it (refuse.h).
 *
 * Happy path: accept into the one handle, close it.
 * Fails: what cannot be accepted has gone by itself; the handle is closed all the same. */
#include "node/refuse.h"

static void on_refused(uv_handle_t *h)
{
    struct refusal *r = h->data;
    r->busy = false;
}

bool refuse_next(struct refusal *r, uv_stream_t *server)
{
    if (r->busy || uv_tcp_init(server->loop, &r->tcp) != 0)
        return false;
    r->busy = true;
    r->tcp.data = r;
    (void)uv_accept(server, (uv_stream_t *)&r->tcp);
    uv_close((uv_handle_t *)&r->tcp, on_refused);
    return true;
}
