/* Senders whose receiver is full: resumed when it has drained, at the latest after the time of their level. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "node/conn.h"
#include "node/pause.h"

enum { N = 3, A = 0, B = 1, FULL = 2 };

struct rig {
    uv_loop_t loop;
    struct stats stats;
    struct stream_io io;
    struct pauses p;
    struct conn c[N];
    int other_end[N];
    size_t first, largest; /* reads */
};

static ssize_t on_input(struct stream *s, uint8_t *buf, size_t n)
{
    struct rig *r = (struct rig *)(void *)((char *)s->io - offsetof(struct rig, io));
    (void)buf;
    if (r->first == 0)
        r->first = n;
    r->largest = n > r->largest ? n : r->largest;
    return (ssize_t)n;
}

static void on_closed(struct stream *s, enum stream_end end, const char *detail)
{
    (void)s;
    (void)end;
    (void)detail;
}

static const struct stream_ops ops = {.input = on_input, .closed = on_closed};

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    uv_loop_init(&r->loop);
    assert_int_equal(stream_io_init(&r->io, &r->loop, &r->stats, 1 << 20), 0);
    pauses_init(&r->p, &r->loop);
    for (int i = 0; i < N; i++) {
        int fd[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
        assert_int_equal(stream_init(&r->c[i].stream, &r->io, &ops), 0);
        assert_int_equal(uv_tcp_open(&r->c[i].stream.tcp, fd[0]), 0);
        r->c[i].stream.open = true;
        r->other_end[i] = fd[1];
        stream_pause(&r->c[i].stream);
        stream_resume(&r->c[i].stream); /* starts reading */
    }
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    for (int i = 0; i < N; i++) {
        pause_forget(&r->p, &r->c[i]);
        stream_close(&r->c[i].stream, NULL);
        close(r->other_end[i]);
    }
    pauses_stop(&r->p);
    stream_io_stop(&r->io);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    stream_io_deinit(&r->io);
    int err = uv_loop_close(&r->loop);
    free(r);
    return err;
}

/* Lets the loop turn until the pause of c is over.  Never waits inside: a tick that is due at once leaves nothing to wait for. */
static void wait_for_end(struct rig *r, const struct conn *c)
{
    while (c->pause.on)
        uv_run(&r->loop, UV_RUN_NOWAIT);
}

static void relief_resumes_those_that_waited(void **state)
{
    struct rig *r = *state;
    assert_true(pause_start(&r->p, &r->c[A], &r->c[FULL]));
    assert_true(pause_start(&r->p, &r->c[B], &r->c[A])); /* waits for another */
    assert_true(r->c[FULL].stream.awaited);
    assert_true(r->c[A].stream.paused && r->c[B].stream.paused);
    pause_relieve(&r->p, &r->c[FULL]);
    assert_false(r->c[A].stream.paused);
    assert_true(r->c[B].stream.paused);
    pause_relieve(&r->p, &r->c[A]);
    assert_false(r->c[B].stream.paused);
    assert_int_equal(r->c[A].pause.level, 0); /* relieved in time: the limit stays where it was */
}

/* Else many that waited for one queue would fill it in one turn beyond what it may hold. */
static void after_a_pause_little_is_read_at_first(void **state)
{
    struct rig *r = *state;
    static const uint8_t bytes[100 << 10];
    assert_true(pause_start(&r->p, &r->c[A], &r->c[FULL]));
    pause_relieve(&r->p, &r->c[FULL]);
    assert_true(write(r->other_end[A], bytes, sizeof(bytes)) > 2 * STREAM_SMALL_READ);
    uv_run(&r->loop, UV_RUN_NOWAIT); /* libuv reads again while the buffer was filled: 16, 32, 64 KiB … */
    assert_true(r->largest >= 2 * STREAM_SMALL_READ);
    assert_int_equal(r->first, STREAM_SMALL_READ);
}

static void a_paused_one_is_not_paused_again(void **state)
{
    struct rig *r = *state;
    assert_true(pause_start(&r->p, &r->c[A], &r->c[FULL]));
    assert_false(pause_start(&r->p, &r->c[A], &r->c[B]));
    assert_false(r->c[B].stream.awaited);
}

static void without_relief_time_ends_it_and_the_limit_doubles(void **state)
{
    struct rig *r = *state;
    for (int i = 0; i < PAUSE_LEVELS + 2; i++) {
        int level = i < PAUSE_LEVELS ? i : PAUSE_LEVELS - 1;
        uv_update_time(&r->loop);
        r->c[A].pause.until =
            uv_now(&r->loop); /* it has just ended, however long this test was kept from running */
        assert_true(pause_start(&r->p, &r->c[A], &r->c[FULL]));
        assert_int_equal(r->c[A].pause.until - uv_now(&r->loop), PAUSE_MIN_MS << level);
        wait_for_end(r, &r->c[A]);
        assert_false(r->c[A].stream.paused);
    }
    assert_int_equal(PAUSE_MIN_MS << (PAUSE_LEVELS - 1), PAUSE_MAX_MS);
}

static void a_while_without_pauses_is_rewarded(void **state)
{
    struct rig *r = *state;
    r->c[A].pause.level = PAUSE_LEVELS - 1;
    r->c[A].pause.until = uv_now(&r->loop) - PAUSE_FORGIVE_MS - 1;
    assert_true(pause_start(&r->p, &r->c[A], &r->c[FULL]));
    assert_int_equal(r->c[A].pause.level, 0);
}

static void a_queue_of_another_worker_gives_the_shortest_pause(void **state)
{
    struct rig *r = *state;
    for (int i = 0; i < 3; i++) {
        assert_true(pause_start(&r->p, &r->c[A], NULL));
        assert_int_equal(r->c[A].pause.until - uv_now(&r->loop), PAUSE_MIN_MS);
        wait_for_end(r, &r->c[A]);
    }
}

static void who_goes_is_forgotten_and_lets_go(void **state)
{
    struct rig *r = *state;
    assert_true(pause_start(&r->p, &r->c[A], &r->c[FULL]));
    assert_true(pause_start(&r->p, &r->c[B], &r->c[FULL]));
    pause_forget(&r->p, &r->c[A]);
    assert_false(r->c[A].pause.on);
    pause_forget(&r->p, &r->c[FULL]);
    assert_false(r->c[B].stream.paused);
    assert_true(TAILQ_EMPTY(&r->p.level[0]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(relief_resumes_those_that_waited, setup, teardown),
        cmocka_unit_test_setup_teardown(after_a_pause_little_is_read_at_first, setup, teardown),
        cmocka_unit_test_setup_teardown(a_paused_one_is_not_paused_again, setup, teardown),
        cmocka_unit_test_setup_teardown(without_relief_time_ends_it_and_the_limit_doubles, setup, teardown),
        cmocka_unit_test_setup_teardown(a_while_without_pauses_is_rewarded, setup, teardown),
        cmocka_unit_test_setup_teardown(a_queue_of_another_worker_gives_the_shortest_pause, setup, teardown),
        cmocka_unit_test_setup_teardown(who_goes_is_forgotten_and_lets_go, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
