/* Streams against peers that mean harm or are in trouble: they stop reading, send garbage, break off, flood; and that what
 * a stream holds for them stays bounded. */
#include "stream_fixture.h"

#include <sys/socket.h>

static const enum kind kinds[] = {PLAIN, TLS12, TLS13};

static void turns(struct bench *b, int n)
{
    for (int i = 0; i < n; i++)
        uv_run(&b->loop, UV_RUN_NOWAIT);
}

static void wait_ms(struct bench *b, uint64_t ms)
{
    uint64_t until = uv_hrtime() + ms * 1000000;
    while (uv_hrtime() < until) {
        uv_run(&b->loop, UV_RUN_NOWAIT);
        usleep(1000);
    }
}

/* ---- a peer that stops reading ---- */

/* Packets may be missing, but come in order and once. */
static ssize_t gaps_input(struct end *e, uint8_t *buf, size_t n)
{
    size_t off = 0, size;
    struct frame f;
    while ((size = frame_peek(&f, buf + off, n - off)) > 0) {
        uint32_t number = wire_get32(f.body);
        assert_true(e->inputs == 1 || number > e->out);
        e->out = number; /* the last one seen */
        e->in++;
        off += size;
    }
    return (ssize_t)off;
}

static void send_packets(struct end *e, int n)
{
    uint8_t f[FRAME_HEADER_LEN + 1400] = {0};
    frame_header(f, FRAME_RECV_PACKET, 1400);
    while (n-- > 0) {
        wire_put32(f + FRAME_HEADER_LEN, (uint32_t)++e->out);
        stream_send(&e->s, SENDQ_DATA, 7, f, sizeof(f));
    }
}

static void a_peer_that_stops_reading_holds_little(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        struct bench *b = bench_connected(kinds[k]);
        const struct stream *s = &b->client->s;
        b->server->raw_input = gaps_input;
        stream_pause(&b->server->s);
        assert_int_equal(stream_stalled_ms(s), 0);
        while (s->in_flight == 0 || s->q.bytes < SENDQ_LIMIT) { /* until the kernel takes no more */
            send_packets(b->client, 50);
            turns(b, 1);
            assert_true(s->q.bytes <= SENDQ_LIMIT_MOVING);
            assert_true(s->in_flight <= STREAM_BATCH + (64 << 10));
        }
        wait_ms(b, 1200);
        uint64_t stalled = stream_stalled_ms(s);
        assert_true(stalled >= 1000);
        send_packets(b->client, 50); /* it has taken nothing for a while: less is kept for it */
        assert_true(s->q.bytes <= SENDQ_LIMIT);
        assert_true(stream_congested(s));
        wait_ms(b, 50);
        assert_true(stream_stalled_ms(s) > stalled);
        assert_true(stats_get(&b->stats, STAT_DROP_QUEUE_FULL) > 0);
        stream_resume(&b->server->s);
        while (s->q.bytes > 0 || s->in_flight > 0)
            uv_run(&b->loop, UV_RUN_ONCE);
        assert_int_equal(stream_stalled_ms(s), 0);
        uint64_t lost =
            stats_get(&b->stats, STAT_DROP_QUEUE_FULL) + stats_get(&b->stats, STAT_DROP_QUEUE_OLD);
        while (b->server->in + lost < b->client->out)
            uv_run(&b->loop, UV_RUN_ONCE);
        turns(b, 5);
        assert_int_equal(b->server->in + lost, b->client->out);
        assert_int_equal(stats_get(&b->stats, STAT_PACKETS_OUT), b->server->in);
        bench_free(b);
    }
}

/* What waits when a connection closes is counted as lost. */
static void what_waits_at_the_end_is_counted(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        struct bench *b = bench_new(kinds[k]);
        bench_dial(b);
        send_packets(b->client, 10); /* before it stands */
        stream_close(&b->client->s, "");
        while (!b->client->closed)
            uv_run(&b->loop, UV_RUN_ONCE);
        assert_int_equal(stats_get(&b->stats, STAT_DROP_GONE), 10);
        bench_free(b);
    }
}

/* A stream that ends with what is urgent: what waits is lost and counted, the last words arrive. */
static void the_end_of_a_slow_one_does_not_wait_for_data(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        struct bench *b = bench_connected(kinds[k]);
        struct stream *s = &b->client->s;
        b->server->raw_input = gaps_input;
        stream_pause(&b->server->s);
        while (s->in_flight == 0 || s->q.bytes < SENDQ_LIMIT) {
            send_packets(b->client, 50);
            turns(b, 1);
        }
        uint8_t last[FRAME_HEADER_LEN + 4];
        frame_header(last, FRAME_MESH_CONTROL, 4);
        wire_put32(last + FRAME_HEADER_LEN, UINT32_MAX);
        stream_send_raw(s, last, sizeof(last));
        stream_finish_urgent(s);
        assert_true(s->q.bytes <= CHUNK_LARGE);
        assert_true(stats_get(&b->stats, STAT_DROP_GONE) > 0);
        stream_resume(&b->server->s);
        bench_until(b, both_closed);
        assert_int_equal(b->server->out, UINT32_MAX);
        uint64_t lost = stats_get(&b->stats, STAT_DROP_QUEUE_FULL) + stats_get(&b->stats, STAT_DROP_GONE);
        assert_int_equal(b->server->in - 1 + lost, b->client->out);
        bench_free(b);
    }
}

/* The loop's budget used up: each queue gets a quarter. */
static void a_used_up_budget_makes_queues_short(void **state)
{
    struct bench *b = bench_connected(PLAIN);
    (void)state;
    stream_pause(&b->server->s);
    b->io.budget = 100 << 10;
    for (int i = 0; i < 200; i++) {
        send_packets(b->client, 50);
        turns(b, 1);
    }
    assert_true(b->client->s.q.bytes <= SENDQ_LIMIT / 4 + (100 << 10));
    assert_true(stats_get(&b->stats, STAT_DROP_BUDGET) > 0);
    bench_free(b);
}

/* ---- a raw socket against a stream ---- */

static int raw_connect(struct bench *b)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&b->addr, sizeof(b->addr)), 0);
    while (!b->server)
        uv_run(&b->loop, UV_RUN_ONCE);
    return fd;
}

static void until_server_closed(struct bench *b)
{
    while (!b->server->closed)
        uv_run(&b->loop, UV_RUN_ONCE);
}

static void garbage_instead_of_tls_is_said_so(void **state)
{
    static const char *const garbage[] = {
        "GET / HTTP/1.1\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2p1\r\n",
        "\x16\x03\x01\x00\x05\x01\xff\xff\xff\xff",     /* a ClientHello that lies about its length */
        "\x16\x03\x01\xff\xff\x01\x02\x03\x04\x05\x06", /* a record longer than any may be */
        "\x15\x03\x03\x00\x02\x02\x28",                 /* an alert before anything else */
        "\x17\x03\x03\x00\x05hello",                    /* data before the handshake */
    };
    const size_t sizes[] = {18, 23, 10, 11, 7, 10};
    (void)state;
    for (int i = 0; i < 6; i++) {
        for (int split = 0; split < 2; split++) {
            struct bench *b = bench_new(TLS13);
            int fd = raw_connect(b);
            for (size_t off = 0; off < sizes[i]; off += split ? 1 : sizes[i]) {
                ssize_t n = send(fd, garbage[i] + off, split ? 1 : sizes[i], MSG_NOSIGNAL);
                (void)n; /* it may have closed already */
                turns(b, 2);
            }
            shutdown(fd, SHUT_WR);
            until_server_closed(b);
            if (i != 2) /* that one waits for more, then sees the end */
                assert_int_equal(b->server->how, STREAM_END_TLS);
            assert_true(strlen(b->server->detail) > 5);
            assert_int_equal(b->server->in + b->server->opened, 0);
            close(fd);
            bench_free(b);
        }
    }
}

static void a_silent_connection_has_no_tls_yet(void **state)
{
    struct bench *b = bench_new(TLS13);
    int fd = raw_connect(b);
    (void)state;
    turns(b, 5);
    assert_null(b->server->s.ssl);
    close(fd);
    until_server_closed(b);
    assert_int_equal(b->server->how, STREAM_END_EOF);
    bench_free(b);
}

static void a_reset_is_told(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        struct bench *b = bench_new(kinds[k]);
        int fd = raw_connect(b);
        struct linger hard = {.l_onoff = 1};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
        close(fd);
        until_server_closed(b);
        assert_int_equal(b->server->how, STREAM_END_RESET);
        bench_free(b);
    }
}

/* ---- a TLS client in memory against a stream: what a peer may do with valid keys ---- */

struct peer {
    int fd;
    SSL *ssl;
    BIO *in, *out;
    uint64_t sent;
};

/* Sends, and waits until the stream has read it: loopback may take a moment. */
static void peer_send(struct bench *b, struct peer *p, const uint8_t *bytes, size_t n)
{
    if (send(p->fd, bytes, n, MSG_NOSIGNAL) < 0)
        return;
    p->sent += n;
    while (!b->server->closed && b->server->s.bytes_in < p->sent)
        uv_run(&b->loop, UV_RUN_ONCE);
    turns(b, 1);
}

static void peer_pump(struct bench *b, struct peer *p)
{
    uint8_t buf[16384];
    int n;
    ssize_t got;
    while ((n = BIO_read(p->out, buf, sizeof(buf))) > 0)
        peer_send(b, p, buf, (size_t)n);
    turns(b, 1);
    while ((got = recv(p->fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
        BIO_write(p->in, buf, (int)got);
}

static struct peer peer_connected(struct bench *b)
{
    struct peer p = {.fd = raw_connect(b), .in = BIO_new(BIO_s_mem()), .out = BIO_new(BIO_s_mem())};
    p.ssl = bench_client_ssl(b);
    SSL_set_bio(p.ssl, p.in, p.out);
    SSL_set_connect_state(p.ssl);
    while (SSL_do_handshake(p.ssl) != 1) {
        peer_pump(b, &p);
        usleep(100);
    }
    peer_pump(b, &p);
    return p;
}

static void peer_free(struct peer *p)
{
    SSL_free(p->ssl);
    close(p->fd);
    ERR_clear_error();
}

static void a_flood_of_key_updates_ends_the_connection(void **state)
{
    struct bench *b = bench_new(TLS13);
    struct peer p = peer_connected(b);
    int n = 0;
    (void)state;
    while (n < 10) { /* a few are allowed */
        assert_int_equal(SSL_key_update(p.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        SSL_do_handshake(p.ssl);
        peer_pump(b, &p);
        n++;
    }
    assert_int_equal(b->server->closed, 0);
    while (!b->server->closed && n++ < 1000) {
        SSL_key_update(p.ssl, SSL_KEY_UPDATE_REQUESTED);
        SSL_do_handshake(p.ssl);
        peer_pump(b, &p);
    }
    assert_int_equal(b->server->closed, 1);
    assert_int_equal(b->server->how, STREAM_END_TLS);
    peer_free(&p);
    bench_free(b);
}

static void renegotiation_is_refused(void **state)
{
    struct bench *b = bench_new(TLS12);
    struct peer p = peer_connected(b);
    uint8_t x = byte_at(0);
    (void)state;
    SSL_renegotiate(p.ssl);
    for (int i = 0; i < 10; i++) {
        SSL_do_handshake(p.ssl);
        peer_pump(b, &p);
    }
    assert_int_equal(SSL_session_reused(p.ssl), 0);
    SSL_write(p.ssl, &x, 1);
    peer_pump(b, &p);
    assert_true(SSL_num_renegotiations(p.ssl) == 0 || b->server->closed || b->server->in == 0);
    peer_free(&p);
    bench_free(b);
}

static void a_changed_record_ends_the_connection(void **state)
{
    (void)state;
    for (int k = 1; k < 3; k++) {
        struct bench *b = bench_new(kinds[k]);
        struct peer p = peer_connected(b);
        uint8_t text[100] = {0}, record[400];
        assert_int_equal(SSL_write(p.ssl, text, sizeof(text)), (int)sizeof(text));
        int n = BIO_read(p.out, record, sizeof(record));
        assert_true(n > 50);
        record[n / 2] ^= 1;
        assert_int_equal(send(p.fd, record, (size_t)n, MSG_NOSIGNAL), n);
        until_server_closed(b);
        assert_int_equal(b->server->how, STREAM_END_TLS);
        assert_int_equal(b->server->in, 0); /* nothing of it was shown */
        peer_free(&p);
        bench_free(b);
    }
}

static void records_split_anywhere_are_put_together(void **state)
{
    (void)state;
    srand(41);
    for (int k = 1; k < 3; k++) {
        struct bench *b = bench_new(kinds[k]);
        struct peer p = peer_connected(b);
        uint64_t sent = 0;
        uint8_t text[3000], wire[4096];
        for (int i = 0; i < 30; i++) {
            int len = 1 + rand() % 2999;
            for (int j = 0; j < len; j++)
                text[j] = byte_at(sent + (uint64_t)j);
            assert_int_equal(SSL_write(p.ssl, text, len), len);
            sent += (uint64_t)len;
            int n = BIO_read(p.out, wire, sizeof(wire));
            for (int off = 0, step; off < n; off += step) {
                step = 1 + rand() % (rand() % 2 ? 7 : 2000);
                step = step < n - off ? step : n - off;
                peer_send(b, &p, wire + off, (size_t)step);
            }
        }
        while (b->server->in < sent)
            uv_run(&b->loop, UV_RUN_ONCE);
        SSL_shutdown(p.ssl);
        peer_pump(b, &p);
        until_server_closed(b);
        assert_int_equal(b->server->how, STREAM_END_EOF);
        peer_free(&p);
        bench_free(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_peer_that_stops_reading_holds_little),
        cmocka_unit_test(what_waits_at_the_end_is_counted),
        cmocka_unit_test(the_end_of_a_slow_one_does_not_wait_for_data),
        cmocka_unit_test(a_used_up_budget_makes_queues_short),
        cmocka_unit_test(garbage_instead_of_tls_is_said_so),
        cmocka_unit_test(a_silent_connection_has_no_tls_yet),
        cmocka_unit_test(a_reset_is_told),
        cmocka_unit_test(a_flood_of_key_updates_ends_the_connection),
        cmocka_unit_test(renegotiation_is_refused),
        cmocka_unit_test(a_changed_record_ends_the_connection),
        cmocka_unit_test(records_split_anywhere_are_put_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
