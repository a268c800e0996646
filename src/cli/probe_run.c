/* One round of probe: STUN, logins, packets.
 *
 *   probe_run ─▶ STUN to each ─▶ logins, a few at a time ─▶ pairs, many at a time ─▶ all closed, the loop is empty
 *
 * A pair: the sender repeats a first packet until it comes back (a key just announced needs a moment), then sends its
 * packets at the interval; the receiver's client sends each back through its own node.  Both ends are in this process,
 * so what is lost on the way there and on the way back can be told apart.
 * Fails: a sentence in the node or pair; what depends on it is not tried. */
#include "cli/probe.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"

enum {
    STUN_ALONE_MS =
        300, /* logins begin then, though STUN may still be unanswered: handshakes disturb its times */
    LOGINS_AT_ONCE = 4,
    PAIRS_AT_ONCE = 32,
    WARM_MS = 3000,
    WARM_EVERY_MS = 100,
    LAST_WAIT_MS = 2500, /* after the last packet: a relay keeps nothing for longer */
    PACKET_MIN = 64,
    PACKET_MAX = 1400,
    WARM_SEQ = 0x7fffffff
};

/* ---- the packet: nonce(16) kind(1) zero(3) pair(4) seq(4), then a pattern up to its size ---- */

enum { KIND_THERE = 1, KIND_BACK = 2, AT_KIND = 16, AT_PAIR = 20, AT_SEQ = 24, AT_PATTERN = 28 };

static size_t packet_size(const struct probe_round *r, uint32_t seq)
{
    uint32_t last = (uint32_t)r->options.count - 1;

    if (seq == WARM_SEQ || last == 0)
        return PACKET_MIN;
    return PACKET_MIN + (size_t)((uint64_t)(PACKET_MAX - PACKET_MIN) * seq / last);
}

static uint8_t pattern(uint32_t seq, size_t at)
{
    return (uint8_t)(seq * 31 + at);
}

static void packet_send(struct probe_round *r, const struct probe_pair *p, uint8_t kind, uint32_t seq)
{
    uint8_t out[PACKET_MAX] = {0};
    size_t n = packet_size(r, seq);
    const struct probe_client *from = kind == KIND_THERE ? p->src : p->dst;
    const struct probe_client *to = kind == KIND_THERE ? p->dst : p->src;

    memcpy(out, r->nonce, sizeof(r->nonce));
    out[AT_KIND] = kind;
    wire_put32(out + AT_PAIR, (uint32_t)(p - r->pairs));
    wire_put32(out + AT_SEQ, seq);
    for (size_t i = AT_PATTERN; i < n; i++)
        out[i] = pattern(seq, i);
    derp_client_send(from->derp, &to->key, out, n);
}

/* The pair of a packet of this round, with seq; NULL if it is not ours or was changed on its way. */
static struct probe_pair *packet_parse(struct probe_round *r, const uint8_t *b, size_t n, uint32_t *seq)
{
    if (n < AT_PATTERN || memcmp(b, r->nonce, sizeof(r->nonce)) != 0)
        return NULL;
    uint32_t pair = wire_get32(b + AT_PAIR);
    *seq = wire_get32(b + AT_SEQ);
    if (pair >= (uint32_t)r->n_pairs || (*seq != WARM_SEQ && *seq >= (uint32_t)r->options.count) ||
        n != packet_size(r, *seq))
        return NULL;
    for (size_t i = AT_PATTERN; i < n; i++)
        if (b[i] != pattern(*seq, i))
            return NULL;
    return &r->pairs[pair];
}

/* ---- the end ---- */

static void close_clients(struct probe_round *r)
{
    for (int i = 0; i < r->n_nodes * 2; i++) {
        struct probe_client *c = &r->nodes[i / 2].client[i % 2];
        if (c->state == PROBE_OPEN)
            derp_client_close(c->derp);
    }
}

/* ---- pairs ---- */

static void pairs_more(struct probe_round *r);

static const char *id_of(const struct probe_node *n)
{
    return n->node->id;
}

static int compare_ms(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Round-trip times of what came back; the others are < 0. */
static void pair_measure(struct probe_pair *p)
{
    int n = p->received, lost = p->sent - n;

    if (n == 0)
        return;
    qsort(p->rtt, (size_t)p->sent, sizeof(*p->rtt), compare_ms);
    const double *came = p->rtt + lost;
    p->min_ms = came[0];
    p->max_ms = came[n - 1];
    p->median_ms = n % 2 ? came[n / 2] : (came[n / 2 - 1] + came[n / 2]) / 2;
}

static void pair_not_reached(struct probe_pair *p)
{
    const char *from = id_of(p->from), *to = id_of(p->to);

    if (p->from == p->to)
        snprintf(p->error, PROBE_TEXT, "%s does not relay between two of its own clients: its log says why",
                 from);
    else if (!p->warm_arrived)
        snprintf(
            p->error, PROBE_TEXT,
            "not connected: no mesh path from %s to %s; \"derpmesh status\" on %s says how its link to %s is "
            "(both need the same mesh key and each other in their maps)",
            from, to, from, to);
    else
        snprintf(p->error, PROBE_TEXT,
                 "connected one way only: packets reach %s from %s, none come back; \"derpmesh status\" on "
                 "%s says "
                 "how its link to %s is",
                 to, from, to, from);
}

static void pair_judge(struct probe_pair *p)
{
    int lost = p->sent - p->received;

    if (p->error[0])
        return;
    if (p->sent == 0)
        pair_not_reached(p);
    else if (lost)
        snprintf(p->error, PROBE_TEXT,
                 "%d of %d packets from %s to %s did not come back: %d were lost on the way there, %d on the "
                 "way back",
                 lost, p->sent, id_of(p->from), id_of(p->to), p->sent - p->arrived, p->arrived - p->received);
    else if (p->twice)
        snprintf(p->error, PROBE_TEXT, "%d packets from %s to %s came twice", p->twice, id_of(p->from),
                 id_of(p->to));
}

static void pair_end(struct probe_pair *p)
{
    struct probe_round *r = p->from->round;

    pair_measure(p);
    pair_judge(p);
    free(p->rtt);
    free(p->sent_at);
    p->rtt = NULL;
    p->sent_at = NULL;
    p->state = PROBE_PAIR_DONE;
    uv_close((uv_handle_t *)&p->timer, NULL);
    r->pairs_left--;
    r->pairs_running--;
    pairs_more(r);
}

/* True if a client of the pair has gone: the pair ends. */
static bool pair_broken(struct probe_pair *p)
{
    const struct probe_client *gone = p->src->state != PROBE_OPEN   ? p->src
                                      : p->dst->state != PROBE_OPEN ? p->dst
                                                                    : NULL;

    if (!gone)
        return false;
    snprintf(p->error, PROBE_TEXT, "the connection to %s broke while packets were under way",
             id_of(gone->node));
    pair_end(p);
    return true;
}

static void on_pair_timer(uv_timer_t *t)
{
    struct probe_pair *p = t->data;
    struct probe_round *r = p->from->round;
    uint64_t now = uv_now(r->loop);

    if (pair_broken(p))
        return;
    if (p->until && now >= p->until) {
        pair_end(p);
    } else if (p->state == PROBE_PAIR_WARMING) {
        packet_send(r, p, KIND_THERE, WARM_SEQ);
    } else if (p->sent < r->options.count) {
        p->sent_at[p->sent] = uv_hrtime();
        packet_send(r, p, KIND_THERE, (uint32_t)p->sent++);
        p->until = p->sent == r->options.count ? now + LAST_WAIT_MS : 0;
    }
}

static void pair_begin(struct probe_pair *p)
{
    struct probe_round *r = p->from->round;

    for (int i = 0; i < r->options.count; i++)
        p->rtt[i] = -1;
    r->pairs_running++;
    uv_timer_init(r->loop, &p->timer);
    p->timer.data = p;
    p->state = PROBE_PAIR_WARMING;
    p->until = uv_now(r->loop) + WARM_MS;
    uv_timer_start(&p->timer, on_pair_timer, 0, WARM_EVERY_MS);
}

/* True if the pair cannot be tried, which its error then says. */
static bool pair_impossible(struct probe_pair *p)
{
    const struct probe_node *n = p->src->state != PROBE_OPEN   ? p->from
                                 : p->dst->state != PROBE_OPEN ? p->to
                                                               : NULL;
    size_t count = (size_t)p->from->round->options.count;

    p->state = PROBE_PAIR_DONE;
    if (n) {
        snprintf(p->error, PROBE_TEXT, "not tried: no login at %s", id_of(n));
        return true;
    }
    p->sent_at = calloc(count, sizeof(*p->sent_at));
    p->rtt = calloc(count, sizeof(*p->rtt));
    if (p->sent_at && p->rtt)
        return false;
    free(p->sent_at);
    free(p->rtt);
    snprintf(p->error, PROBE_TEXT, "not tried: no memory for the times of its packets");
    return true;
}

static void pairs_more(struct probe_round *r)
{
    while (r->pairs_running < PAIRS_AT_ONCE && r->next_pair < r->n_pairs) {
        struct probe_pair *p = &r->pairs[r->next_pair++];
        if (pair_impossible(p))
            r->pairs_left--;
        else
            pair_begin(p);
    }
    if (r->pairs_left == 0)
        close_clients(r);
}

static void came_there(struct probe_pair *p, uint32_t seq)
{
    if (p->state != PROBE_PAIR_WARMING && p->state != PROBE_PAIR_SENDING)
        return;
    if (seq == WARM_SEQ)
        p->warm_arrived = true;
    else if ((int)seq < p->sent)
        p->arrived++;
    packet_send(p->from->round, p, KIND_BACK, seq);
}

static void came_back(struct probe_pair *p, uint32_t seq)
{
    struct probe_round *r = p->from->round;
    uint64_t now = uv_hrtime();

    if (p->state == PROBE_PAIR_WARMING && seq == WARM_SEQ) {
        p->state = PROBE_PAIR_SENDING;
        p->until = 0;
        uint64_t every =
            (uint64_t)r->options.interval_ms; /* pairs take turns: bursts would measure each other */
        uv_timer_start(&p->timer, on_pair_timer, (uint64_t)(p - r->pairs) % every, every);
        return;
    }
    if (p->state != PROBE_PAIR_SENDING || seq == WARM_SEQ || (int)seq >= p->sent)
        return;
    if (p->rtt[seq] >= 0) {
        p->twice++;
        return;
    }
    p->rtt[seq] = (double)(now - p->sent_at[seq]) / 1e6;
    p->received++;
    if (p->received == r->options.count)
        pair_end(p);
}

static void on_packet(void *ctx, struct derp_client *d, const struct derp_key *src, const uint8_t *b,
                      size_t n)
{
    struct probe_client *c = ctx;
    struct probe_round *r = c->node->round;
    uint32_t seq;
    struct probe_pair *p = packet_parse(r, b, n, &seq);

    (void)d;
    if (p && b[AT_KIND] == KIND_THERE && c == p->dst && key_equal(src, &p->src->key)) {
        if (c->state == PROBE_OPEN)
            came_there(p, seq);
    } else if (p && b[AT_KIND] == KIND_BACK && c == p->src && key_equal(src, &p->dst->key)) {
        came_back(p, seq);
    } else {
        r->misdelivered++; /* nobody else knows this key */
    }
}

/* ---- logins ---- */

static const struct derp_client_ops client_ops;

static void logins_more(struct probe_round *r);

static void login_over(struct probe_client *c)
{
    struct probe_round *r = c->node->round;

    uv_close((uv_handle_t *)&c->timer, NULL);
    r->logins_left--;
    r->logins_running--;
    logins_more(r);
}

static void on_open(void *ctx, struct derp_client *d)
{
    struct probe_client *c = ctx;

    if (c->state != PROBE_LOGGING_IN || c->node->error[0]) /* just given up */
        return;
    if (c->node->login_ms < 0)
        c->node->login_ms = derp_client_times(d).login_ms;
    c->state = PROBE_OPEN;
    derp_client_prefer(d, true);
    login_over(c);
}

static void on_closed(void *ctx, struct derp_client *d, const char *why)
{
    struct probe_client *c = ctx;
    bool logging_in = c->state == PROBE_LOGGING_IN;

    (void)d;
    c->state = PROBE_CLOSED;
    c->derp = NULL;
    if (why[0] && !c->node->error[0])
        snprintf(c->node->error, PROBE_TEXT, "%s", why);
    if (logging_in)
        login_over(c);
}

static const struct derp_client_ops client_ops = {.open = on_open, .packet = on_packet, .closed = on_closed};

static void on_login_timeout(uv_timer_t *t)
{
    struct probe_client *c = t->data;
    bool tls = derp_client_times(c->derp).tls_ms >= 0;

    if (!c->node->error[0])
        snprintf(c->node->error, PROBE_TEXT, "node %s (%s): no answer within %d s: %s", id_of(c->node),
                 c->node->node->host_name, c->node->round->options.login_ms / 1000,
                 tls ? "TLS stands, but it does not let this client in; its log says more"
                     : "is its port open in the firewall, does its address in the map hold?");
    derp_client_close(c->derp);
}

static void login_begin(struct probe_client *c)
{
    struct probe_round *r = c->node->round;
    struct derp_client_params params = {
        .io = &r->io, .tls = r->tls, .node = c->node->node, .prober = true, .ops = &client_ops, .ctx = c};

    r->logins_running++;
    uv_timer_init(r->loop, &c->timer);
    c->timer.data = c;
    c->state = PROBE_LOGGING_IN;
    if (c->node->keys)
        params.key = c->node->keys[c - c->node->client];
    else
        key_pair_generate(&params.key);
    c->key = params.key.pub;
    c->derp = derp_client_new(&params);
    key_pair_wipe(&params.key);
    if (c->derp) {
        uv_timer_start(&c->timer, on_login_timeout, (uint64_t)r->options.login_ms, 0);
        return;
    }
    snprintf(c->node->error, PROBE_TEXT, "node %s: no memory or no descriptor for a connection",
             id_of(c->node));
    c->state = PROBE_CLOSED;
    login_over(c);
}

static void logins_more(struct probe_round *r)
{
    for (int i = 0; i < r->n_nodes * 2 && r->logins_running < LOGINS_AT_ONCE; i++) {
        struct probe_client *c = &r->nodes[i / 2].client[i % 2];
        if (c->state == PROBE_WAITING)
            login_begin(c);
    }
    if (r->logins_left == 0 && !r->packets_begun) {
        r->packets_begun = true;
        pairs_more(r);
    }
}

/* ---- a round ---- */

static void begin_logins(struct probe_round *r)
{
    if (uv_is_closing((uv_handle_t *)&r->stun_alone))
        return;
    uv_close((uv_handle_t *)&r->stun_alone, NULL);
    logins_more(r);
}

static void on_stun_alone_over(uv_timer_t *t)
{
    begin_logins(t->data);
}

void probe_run_stun_done(struct probe_round *r)
{
    if (--r->stun_left == 0)
        begin_logins(r);
}

void probe_run(struct probe_round *r)
{
    randombytes_buf(r->nonce, sizeof(r->nonce));
    uv_timer_init(r->loop, &r->stun_alone);
    r->stun_alone.data = r;
    uv_timer_start(&r->stun_alone, on_stun_alone_over, STUN_ALONE_MS, 0);
    r->stun_left = 1; /* this loop's own */
    for (int i = 0; i < r->n_nodes; i++) {
        if (derpmap_stun_port(r->nodes[i].node) < 0)
            continue;
        r->stun_left++;
        probe_stun_start(&r->nodes[i]);
    }
    probe_run_stun_done(r);
    uv_run(r->loop, UV_RUN_DEFAULT);
}
