/* STUN requests to one node from one connected socket, as often as it is asked to.
 *
 * Happy path: an answer with the id of one of the last requests.  Everything else is silence, an ICMP error too: the plan
 * draws its conclusions from silence alone. */
#include "cli/follow_watch.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    const struct follow_stun *s = h->data;
    (void)suggested; /* the loop's read buffer is free between callbacks */
    *buf = s ? uv_buf_init((char *)s->io->read_buf, STREAM_READ_SIZE) : uv_buf_init(NULL, 0);
}

static void on_answer(uv_udp_t *udp, ssize_t n, const uv_buf_t *buf, const struct sockaddr *from,
                      unsigned flags)
{
    struct follow_stun *s = udp->data;
    uint8_t txid[STUN_TXID_LEN];
    struct stun_addr mapped;
    (void)flags;
    if (!s || n <= 0 || !from ||
        stun_parse_response((const uint8_t *)buf->base, (size_t)n, txid, &mapped) < 0)
        return;
    for (int i = 0; i < FOLLOW_TXIDS; i++)
        if (memcmp(txid, s->txid[i], sizeof(txid)) == 0) {
            s->heard(s->ctx);
            return;
        }
}

static void on_closed(uv_handle_t *h)
{
    free(h);
}

static bool open_socket(struct follow_stun *s, const struct sockaddr *addr)
{
    uv_udp_t *udp = calloc(1, sizeof(*udp));
    if (!udp || uv_udp_init(s->io->loop, udp) != 0) {
        free(udp);
        return false;
    }
    udp->data = s;
    if (uv_udp_connect(udp, addr) != 0 || uv_udp_recv_start(udp, on_alloc, on_answer) != 0) {
        uv_close((uv_handle_t *)udp, on_closed);
        return false;
    }
    s->udp = udp;
    return true;
}

void follow_stun_ask(struct follow_stun *s, const struct sockaddr *addr)
{
    uint8_t out[STUN_REQUEST_LEN], *txid = s->txid[s->sent++ % FOLLOW_TXIDS];
    uv_buf_t b = uv_buf_init((char *)out, sizeof(out));
    if (!s->udp && !open_socket(s, addr))
        return;
    randombytes_buf(txid, STUN_TXID_LEN);
    stun_request(out, txid);
    uv_udp_try_send(s->udp, &b, 1, NULL);
}

void follow_stun_stop(struct follow_stun *s)
{
    if (!s->udp)
        return;
    s->udp->data = NULL;
    uv_close((uv_handle_t *)s->udp, on_closed);
    s->udp = NULL;
}
