/* STUN round trips for probe: binding requests as Tailscale's clients send them.
 *
 * Happy path: resolve, one request from a connected socket, the answer with its transaction id.  Up to three requests, a
 * second apart, through the node's addresses in turn; an answer to any of them counts.
 * Fails: a sentence in node->stun_error, told apart by what the socket said. */
#include "cli/probe.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

enum { TRY_MS = 1000 };

static void stun_try(struct probe_stun *s);

static void stun_end(struct probe_stun *s)
{
    for (int i = 0; i < s->tries; i++)
        if (!uv_is_closing((uv_handle_t *)&s->udp[i]))
            uv_close((uv_handle_t *)&s->udp[i], NULL);
    uv_close((uv_handle_t *)&s->timer, NULL);
    probe_run_stun_done(s->node->round);
}

static void stun_failed(struct probe_stun *s)
{
    const char *id = s->node->node->id;
    char *out = s->node->stun_error;

    if (s->error == UV_ECONNREFUSED)
        snprintf(out, PROBE_TEXT,
                 "node %s: nothing listens for STUN on %s (UDP); is it running, is STUNPort "
                 "in the map the port it listens on?",
                 id, s->addr);
    else if (s->error)
        snprintf(out, PROBE_TEXT, "node %s: cannot ask %s (UDP) for STUN: %s", id, s->addr,
                 uv_strerror(s->error));
    else
        snprintf(out, PROBE_TEXT, "node %s: no STUN answer from %s; is this UDP port open in its firewall?",
                 id, s->addr);
    stun_end(s);
}

static void on_try_over(uv_timer_t *t)
{
    struct probe_stun *s = t->data;

    if (s->tries < PROBE_STUN_TRIES)
        stun_try(s);
    else
        stun_failed(s);
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct probe_stun *s = h->data;

    (void)suggested; /* the loop's read buffer is free between callbacks */
    *buf = uv_buf_init((char *)s->node->round->io.read_buf, STREAM_READ_SIZE);
}

static void on_answer(uv_udp_t *udp, ssize_t n, const uv_buf_t *buf, const struct sockaddr *from,
                      unsigned flags)
{
    struct probe_stun *s = udp->data;
    uint64_t now = uv_hrtime();
    uint8_t txid[STUN_TXID_LEN];
    struct stun_addr mapped;

    (void)flags;
    if (n < 0) { /* the other side's ICMP: no need to wait for more */
        s->error = (int)n;
        uv_udp_recv_stop(udp);
        uv_timer_start(&s->timer, on_try_over, TRY_MS / 4, 0);
        return;
    }
    if (!from || stun_parse_response((const uint8_t *)buf->base, (size_t)n, txid, &mapped) < 0)
        return;
    for (int i = 0; i < s->tries; i++) {
        if (memcmp(txid, s->txid[i], sizeof(txid)) != 0)
            continue;
        s->node->stun_ms = (double)(now - s->sent[i]) / 1e6;
        stun_end(s);
        return;
    }
}

/* 0, or a libuv error. */
static int request(struct probe_stun *s, int i, const struct sockaddr *addr)
{
    uint8_t out[STUN_REQUEST_LEN];
    uv_buf_t b = uv_buf_init((char *)out, sizeof(out));

    randombytes_buf(s->txid[i], sizeof(s->txid[i]));
    stun_request(out, s->txid[i]);
    int err = uv_udp_connect(&s->udp[i], addr);
    if (!err)
        err = uv_udp_recv_start(&s->udp[i], on_alloc, on_answer);
    s->sent[i] = uv_hrtime();
    if (!err)
        err = uv_udp_try_send(&s->udp[i], &b, 1, NULL);
    return err < 0 ? err : 0;
}

static void stun_try(struct probe_stun *s)
{
    const struct sockaddr *addr = (const struct sockaddr *)&s->resolve.addr[s->tries % s->resolve.n];
    char ip[46] = "?";
    int i = s->tries, err = uv_udp_init(s->node->round->loop, &s->udp[i]);

    if (err) {
        s->error = err;
        stun_failed(s);
        return;
    }
    s->tries++;
    s->udp[i].data = s;
    uv_ip_name(addr, ip, sizeof(ip));
    snprintf(s->addr, sizeof(s->addr), addr->sa_family == AF_INET6 ? "[%s]:%d" : "%s:%d", ip,
             derpmap_stun_port(s->node->node));
    s->error = request(s, i, addr);
    uv_timer_start(&s->timer, on_try_over, s->error ? TRY_MS / 4 : TRY_MS, 0);
}

static void on_resolved(struct resolve *r, int err)
{
    struct probe_stun *s = r->ctx;

    if (!err) {
        stun_try(s);
        return;
    }
    snprintf(s->node->stun_error, PROBE_TEXT, "node %s: cannot resolve %s: %s", s->node->node->id,
             s->node->node->host_name, uv_strerror(err));
    stun_end(s);
}

/* STUNTestIP stands for the node's address where the map has one, as in netcheck. */
static bool test_ip(struct probe_stun *s, int port)
{
    struct sockaddr_storage *a = &s->resolve.addr[0];
    const char *ip = s->node->node->stun_test_ip;

    if (!ip || (uv_ip4_addr(ip, port, (struct sockaddr_in *)a) != 0 &&
                uv_ip6_addr(ip, port, (struct sockaddr_in6 *)a) != 0))
        return false;
    s->resolve.n = 1;
    return true;
}

void probe_stun_start(struct probe_node *n)
{
    struct probe_stun *s = &n->stun;
    int port = derpmap_stun_port(n->node);

    s->node = n;
    uv_timer_init(n->round->loop, &s->timer);
    s->timer.data = s;
    if (test_ip(s, port)) {
        stun_try(s);
        return;
    }
    int err = resolve_start(&s->resolve, n->round->loop, n->node, port, on_resolved, s);
    if (!err)
        return;
    s->resolve.ctx = s;
    on_resolved(&s->resolve, err);
}
