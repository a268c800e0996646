/* Streams: what one end sends the other gets, whole and in order, over plain TCP and TLS 1.2 and 1.3, in any sizes. */
#include "stream_fixture.h"

static const enum kind kinds[] = {PLAIN, TLS12, TLS13};

#define EACH_KIND(k) for (size_t k##_i = 0; k##_i < 3; k##_i++)
#define KIND(k)      kinds[k##_i]

/* ---- bytes ---- */

enum { TOTAL = 6 << 20 };

/* What is left is shown again only with more after it: so not at the end. */
static size_t take_some(struct end *e, size_t n)
{
    size_t leave = rand() % 3 || e->in + n == TOTAL ? 0 : (size_t)rand() % 60000; /* at most a frame */
    return n > leave ? n - leave : (rand() % 2 ? 0 : n);
}

static void send_some(struct end *e)
{
    while (e->out < TOTAL && e->s.q.bytes < 1 << 20) {
        size_t n = (size_t)rand() % (rand() % 8 ? 2000 : CHUNK_LARGE);
        end_send(e, n < TOTAL - e->out ? n : TOTAL - e->out);
    }
}

static bool all_there(struct bench *b)
{
    send_some(b->client);
    send_some(b->server);
    return b->client->in == TOTAL && b->server->in == TOTAL;
}

static void bytes_arrive_whole_and_in_order_both_ways(void **state)
{
    (void)state;
    srand(31);
    EACH_KIND(k)
    {
        struct bench *b = bench_connected(KIND(k));
        b->client->take = b->server->take = take_some;
        end_send(b->client, 0); /* nothing is nothing */
        bench_until(b, all_there);
        assert_true(b->client->s.bytes_out >= TOTAL && b->server->s.bytes_in == b->client->s.bytes_out);
        assert_int_equal(stats_get(&b->stats, STAT_BYTES_IN), b->client->s.bytes_in + b->server->s.bytes_in);
        bench_free(b);
    }
}

/* A packet of the relay: number and size in its payload. */
static void send_frame(struct end *e, uint32_t number, uint32_t payload)
{
    uint8_t *f = malloc(FRAME_HEADER_LEN + payload);
    frame_header(f, FRAME_RECV_PACKET, payload);
    memset(f + FRAME_HEADER_LEN, (int)number, payload);
    wire_put32(f + FRAME_HEADER_LEN, number);
    if (rand() % 2)
        stream_send(&e->s, SENDQ_DATA, 1, f, FRAME_HEADER_LEN + payload);
    else
        stream_send2(&e->s, SENDQ_DATA, 1, f, FRAME_HEADER_LEN + 4, f + FRAME_HEADER_LEN + 4, payload - 4);
    free(f);
}

static ssize_t frames_input(struct end *e, uint8_t *buf, size_t n)
{
    size_t off = 0, size;
    struct frame f;
    while ((size = frame_peek(&f, buf + off, n - off)) > 0) {
        assert_int_equal(f.type, FRAME_RECV_PACKET);
        assert_int_equal(wire_get32(f.body), (uint32_t)e->in); /* numbered, none lost */
        for (uint32_t i = 4; i < f.len; i++)
            assert_int_equal(f.body[i], (uint8_t)e->in);
        e->in++;
        off += size;
    }
    return (ssize_t)off;
}

enum { FRAMES = 5000 };

static bool frames_there(struct bench *b)
{
    struct end *e = b->client;
    while (e->out < FRAMES && e->s.q.bytes < SENDQ_LIMIT / 2)
        send_frame(e, (uint32_t)e->out++, 4 + (uint32_t)rand() % (rand() % 50 ? 1500 : FRAME_PACKET_MAX));
    return b->server->in == FRAMES;
}

static void frames_arrive_and_are_counted_as_they_leave(void **state)
{
    (void)state;
    srand(32);
    EACH_KIND(k)
    {
        struct bench *b = bench_connected(KIND(k));
        b->server->raw_input = frames_input;
        bench_until(b, frames_there);
        assert_int_equal(stats_get(&b->stats, STAT_PACKETS_OUT), FRAMES);
        bench_free(b);
    }
}

/* What was sent before the connection stood leaves when it does. */
static bool hello_there(struct bench *b)
{
    return b->server && b->server->in == 1000;
}

static void what_is_sent_early_waits_for_the_connection(void **state)
{
    (void)state;
    EACH_KIND(k)
    {
        struct bench *b = bench_new(KIND(k));
        bench_dial(b);
        end_send(b->client, 1000);
        assert_int_equal(b->client->opened, 0);
        bench_until(b, hello_there);
        assert_int_equal(b->client->opened, 1);
        bench_free(b);
    }
}

/* ---- pausing ---- */

static void turns(struct bench *b, int n)
{
    for (int i = 0; i < n; i++)
        uv_run(&b->loop, UV_RUN_NOWAIT);
}

static bool server_has_all(struct bench *b)
{
    return b->server->in == b->client->out;
}

static void a_paused_stream_reads_nothing_and_loses_nothing(void **state)
{
    (void)state;
    EACH_KIND(k)
    {
        struct bench *b = bench_connected(KIND(k));
        stream_pause(&b->server->s);
        stream_pause(&b->server->s);
        turns(b, 3);
        unsigned before = b->server->inputs;
        end_send(b->client, 60000);
        turns(b, 50);
        assert_int_equal(b->server->inputs, before);
        stream_resume(&b->server->s);
        stream_resume(&b->server->s);
        bench_until(b, server_has_all);
        bench_free(b);
    }
}

/* However much waits: the others' turn comes. */
static void a_stream_is_read_a_few_times_a_turn(void **state)
{
    (void)state;
    EACH_KIND(k)
    {
        struct bench *b = bench_connected(KIND(k));
        stream_pause(&b->server->s);
        end_send(b->client, 60000);
        turns(b, 50);
        b->server->s.read_max = 8192;
        stream_resume(&b->server->s);
        for (int i = 0; i < 20; i++) {
            uint64_t before = b->server->s.bytes_in;
            turns(b, 1);
            assert_true(b->server->s.bytes_in - before <= (uint64_t)4 * 8192);
        }
        bench_until(b, server_has_all);
        bench_free(b);
    }
}

static bool pause_again(struct end *e)
{
    stream_pause(&e->s);
    return true;
}

static bool server_has_all_by_pieces(struct bench *b)
{
    stream_resume(&b->server->s);
    send_some(b->client);
    return b->server->in == TOTAL;
}

static void pausing_within_input_loses_nothing(void **state)
{
    (void)state;
    srand(33);
    EACH_KIND(k)
    {
        struct bench *b = bench_connected(KIND(k));
        b->server->on_input = pause_again;
        b->server->take = take_some;
        bench_until(b, server_has_all_by_pieces);
        bench_free(b);
    }
}

/* ---- ending ---- */

static void finish_sends_everything_first(void **state)
{
    (void)state;
    EACH_KIND(k)
    {
        struct bench *b = bench_connected(KIND(k));
        for (int i = 0; i < 100; i++)
            end_send(b->client, 60000);
        stream_finish(&b->client->s);
        bench_until(b, both_closed);
        assert_int_equal(b->server->in, 6000000);
        assert_int_equal(b->server->how, STREAM_END_EOF);
        assert_int_equal(b->client->how, STREAM_END_LOCAL);
        bench_free(b);
    }
}

/* Also what only waits for the socket. */
static void finish_waits_for_what_is_in_flight(void **state)
{
    (void)state;
    EACH_KIND(k)
    {
        struct bench *b = bench_connected(KIND(k));
        stream_pause(&b->server->s);
        while (b->client->s.in_flight == 0) {
            end_send(b->client, 60000);
            turns(b, 1);
        }
        assert_int_equal(b->client->s.q.bytes, 0);
        stream_finish(&b->client->s);
        turns(b, 3);
        assert_int_equal(b->client->closed, 0);
        stream_resume(&b->server->s);
        bench_until(b, both_closed);
        assert_int_equal(b->server->in, b->client->out);
        assert_int_equal(b->server->how, STREAM_END_EOF);
        bench_free(b);
    }
}

/* One packet of n bytes with its header, queued as a frame. */
static void send_packet(struct end *e, uint32_t n)
{
    static uint8_t frame[FRAME_HEADER_LEN + 60000];
    frame_header(frame, FRAME_RECV_PACKET, n - FRAME_HEADER_LEN);
    stream_send(&e->s, SENDQ_DATA, 1, frame, n);
    e->out += n;
}

static ssize_t count_bytes(struct end *e, uint8_t *buf, size_t n)
{
    (void)buf;
    e->in += n;
    return (ssize_t)n;
}

/* A turn may bring more than a queue may hold. */
static void a_batch_does_not_wait_for_the_end_of_the_turn(void **state)
{
    (void)state;
    EACH_KIND(k)
    {
        struct bench *b = bench_connected(KIND(k));
        struct stream *s = &b->client->s;
        uint64_t before = s->bytes_out;
        b->server->raw_input = count_bytes;
        for (int i = 0; i < 4; i++)
            send_packet(b->client, 50000);
        assert_true(s->bytes_out - before >= STREAM_BATCH);
        assert_true(s->q.bytes < STREAM_BATCH);
        stream_finish(s);
        bench_until(b, both_closed);
        assert_int_equal(b->server->in, b->client->out);
        bench_free(b);
    }
}

static void on_a_slow_path_records_are_small_and_of_whole_frames(void **state)
{
    enum { PACKETS = 40, OVERHEAD = 22 /* of a record of TLS 1.3: header, type, tag */ };
    (void)state;
    struct bench *b = bench_connected(TLS13);
    struct stream *s = &b->client->s;
    b->server->raw_input = count_bytes;
    s->record_max = 2500;
    s->look_at = UINT64_MAX; /* else it would find loopback fast */
    uint64_t before = s->bytes_out;
    for (int i = 0; i < PACKETS; i++)
        send_packet(b->client, 1000);
    turns(b, 1);
    while (s->in_flight > 0 || s->q.bytes > 0)
        turns(b, 1);
    assert_int_equal(s->bytes_out - before - b->client->out, PACKETS / 2 * OVERHEAD);
    while (b->server->in < b->client->out)
        turns(b, 1);
    bench_free(b);
}

static void a_fast_path_is_found_fast(void **state)
{
    (void)state;
    struct bench *b = bench_connected(TLS13);
    b->server->raw_input = count_bytes;
    for (int i = 0; i < 4; i++)
        send_packet(b->client, 50000);
    turns(b, 3);
    assert_true(b->client->s.look_at > 0);
    assert_true(b->client->s.record_max > CHUNK_SMALL);
    bench_free(b);
}

static void close_me(struct end *e)
{
    end_send(e, 100); /* on the list of those to be flushed */
    stream_close(&e->s, "enough");
    stream_close(&e->s, "twice");
    end_send(e, 100); /* into nothing */
}

static bool close_in_input(struct end *e)
{
    close_me(e);
    return false;
}

static bool close_the_other(struct end *e)
{
    close_me(e == e->b->client ? e->b->server : e->b->client);
    return true;
}

static void closing_in_any_callback_is_told_once(void **state)
{
    (void)state;
    EACH_KIND(k)
    {
        for (int how = 0; how < 4; how++) {
            struct bench *b = bench_new(KIND(k));
            bench_dial(b);
            if (how == 0) {
                b->client->on_open = close_me;
            } else {
                bench_until(b, both_open);
                b->server->on_input = how == 1 ? close_in_input : how == 2 ? close_the_other : NULL;
                end_send(b->client, 50000);
                end_send(b->server, 50000);
                if (how == 3)
                    close_me(b->server);
            }
            bench_until(b, both_closed);
            struct end *closer = how == 1 || how == 3 ? b->server : b->client;
            struct end *other = closer == b->client ? b->server : b->client;
            assert_int_equal(closer->how, STREAM_END_LOCAL);
            assert_string_equal(closer->detail, "enough");
            assert_true(other->how == STREAM_END_EOF || other->how == STREAM_END_RESET);
            bench_free(b); /* closed exactly once */
        }
    }
}

static void a_refused_connection_is_told_as_one(void **state)
{
    (void)state;
    EACH_KIND(k)
    {
        struct bench *b = bench_new(KIND(k));
        struct sockaddr_in nobody = b->addr;
        uv_ip4_addr("127.0.0.9", ntohs(b->addr.sin_port), &nobody); /* the listener has 127.0.0.1 only */
        b->client = end_new(b);
        assert_int_equal(stream_connect(&b->client->s, (struct sockaddr *)&nobody, bench_client_ssl(b)), 0);
        while (!b->client->closed)
            uv_run(&b->loop, UV_RUN_ONCE);
        assert_int_equal(b->client->how, STREAM_END_CONNECT);
        assert_int_equal(b->client->opened, 0);
        bench_free(b);
    }
}

static bool at_rest(struct bench *b)
{
    return b->client->closed || b->server->closed ||
           (b->client->in == b->server->out && b->server->in == b->client->out);
}

/* Errors that others left in OpenSSL's queue of this thread do not end an innocent connection. */
static bool leave_an_error(struct end *e)
{
    (void)e;
    ERR_raise(ERR_LIB_X509, X509_R_CERT_ALREADY_IN_HASH_TABLE);
    return true;
}

static void errors_of_others_do_no_harm(void **state)
{
    (void)state;
    EACH_KIND(k)
    {
        struct bench *b = bench_connected(KIND(k));
        b->client->on_input = b->server->on_input = leave_an_error;
        for (int i = 0; i < 5; i++) {
            leave_an_error(NULL);
            end_send(b->client, 20000);
            end_send(b->server, 20000);
            bench_until(b, at_rest);
            turns(b, 3);
        }
        assert_int_equal(b->client->closed + b->server->closed, 0);
        bench_free(b);
    }
}

/* ---- owners ---- */

static ssize_t rest_input(struct stream *s, uint8_t *buf, size_t n)
{
    struct end *e = (struct end *)s;
    e->inputs += 1000;
    return end_input(s, buf, n);
}

static const struct stream_ops rest_ops = {.input = rest_input, .open = end_open, .closed = end_closed};

static size_t take_ten_and_hand_on(struct end *e, size_t n)
{
    if (e->s.ops == &rest_ops)
        return n;
    e->s.ops = &rest_ops;
    return n < 10 ? n : 10;
}

static void a_new_owner_sees_the_rest_at_once(void **state)
{
    (void)state;
    EACH_KIND(k)
    {
        struct bench *b = bench_connected(KIND(k));
        b->server->take = take_ten_and_hand_on;
        end_send(b->client, 500);
        bench_until(b, server_has_all);
        assert_true(b->server->inputs >= 1000);
        bench_free(b);
    }
}

static size_t take_nothing(struct end *e, size_t n)
{
    (void)e;
    (void)n;
    return 0;
}

static void an_owner_that_takes_nothing_is_stopped_at_a_frame(void **state)
{
    (void)state;
    EACH_KIND(k)
    {
        struct bench *b = bench_connected(KIND(k));
        b->server->take = take_nothing;
        end_send(b->client, CHUNK_LARGE);
        end_send(b->client, CHUNK_LARGE);
        bench_until(b, both_closed);
        assert_int_equal(b->server->how, STREAM_END_MEMORY);
        bench_free(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_arrive_whole_and_in_order_both_ways),
        cmocka_unit_test(frames_arrive_and_are_counted_as_they_leave),
        cmocka_unit_test(what_is_sent_early_waits_for_the_connection),
        cmocka_unit_test(a_paused_stream_reads_nothing_and_loses_nothing),
        cmocka_unit_test(a_stream_is_read_a_few_times_a_turn),
        cmocka_unit_test(pausing_within_input_loses_nothing),
        cmocka_unit_test(finish_sends_everything_first),
        cmocka_unit_test(finish_waits_for_what_is_in_flight),
        cmocka_unit_test(a_batch_does_not_wait_for_the_end_of_the_turn),
        cmocka_unit_test(on_a_slow_path_records_are_small_and_of_whole_frames),
        cmocka_unit_test(a_fast_path_is_found_fast),
        cmocka_unit_test(closing_in_any_callback_is_told_once),
        cmocka_unit_test(a_refused_connection_is_told_as_one),
        cmocka_unit_test(errors_of_others_do_no_harm),
        cmocka_unit_test(a_new_owner_sees_the_rest_at_once),
        cmocka_unit_test(an_owner_that_takes_nothing_is_stopped_at_a_frame),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
