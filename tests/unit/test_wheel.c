/* The timer wheel: every deadline fires, not early, at most a tick late, whatever is set, moved and taken off. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "node/conn.h"
#include "node/wheel.h"

enum { TURN_MS = WHEEL_SLOTS * WHEEL_TICK_MS, CONNS = 200 };

/* What was asked of the wheel. */
struct timer {
    bool set;
    uint64_t at, set_at; /* set_at: by the wheel's own time, which lags while it catches up */
    unsigned fired;
};

struct fixture {
    struct wheel w;
    struct conn conn[CONNS];
    struct timer timer[CONNS];
    uint64_t now;
    int again; /* due: sets again in one of so many calls; 0 never */
    unsigned fired;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    f->now = 1000003;
    wheel_init(&f->w, f->now);
    for (int i = 0; i < CONNS; i++)
        f->conn[i].wheel_slot = WHEEL_SLOTS; /* as the owner of a new conn says it */
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static void set(struct fixture *f, int i, uint64_t at)
{
    wheel_set(&f->w, &f->conn[i], at);
    f->timer[i] = (struct timer){
        .set = true, .at = at, .set_at = f->w.tick * WHEEL_TICK_MS, .fired = f->timer[i].fired};
}

static void take_off(struct fixture *f, int i)
{
    wheel_remove(&f->w, &f->conn[i]);
    f->timer[i].set = false;
}

static void on_due(void *ctx, struct conn *c, uint64_t now)
{
    struct fixture *f = ctx;
    int i = (int)(c - f->conn);
    struct timer *t = &f->timer[i];
    assert_int_equal(now, f->now);
    assert_true(t->set);
    /* not early, but for what lies further away than a turn */
    assert_true(now >= t->at || now + 2 * WHEEL_TICK_MS >= t->set_at + TURN_MS);
    t->set = false;
    t->fired++;
    f->fired++;
    if (f->again && rand() % f->again == 0)
        set(f, i, now + (uint64_t)rand() % 5000);
    if (f->again && rand() % f->again == 0)
        take_off(f, rand() % CONNS); /* a callback may close others */
}

static void turn(struct fixture *f, uint64_t by)
{
    f->now += by;
    wheel_turn(&f->w, f->now, on_due, f);
    for (int i = 0; i < CONNS; i++) /* nothing overdue is left */
        if (f->timer[i].set)
            assert_true(f->timer[i].at + WHEEL_TICK_MS > f->now);
}

static void each_deadline_fires_once_within_a_tick(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < CONNS; i++)
        set(f, i, f->now + (uint64_t)i * 173);
    for (int i = 0; i < 3000 && f->fired < CONNS; i++)
        turn(f, 17);
    for (int i = 0; i < CONNS; i++)
        assert_int_equal(f->timer[i].fired, 1);
}

static void a_past_deadline_fires_at_the_next_tick(void **state)
{
    struct fixture *f = *state;
    set(f, 0, 0);
    set(f, 1, f->now);
    turn(f, WHEEL_TICK_MS);
    assert_int_equal(f->fired, 2);
}

static void one_that_was_taken_off_or_moved_fires_only_where_it_is(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 10; i++)
        set(f, i, f->now + 500); /* all in one list */
    take_off(f, 0);
    take_off(f, 5);
    take_off(f, 9);
    take_off(f, 9); /* not on the wheel: nothing happens */
    set(f, 4, f->now + 5000);
    turn(f, 1000);
    assert_int_equal(f->fired, 6);
    turn(f, 5000);
    assert_int_equal(f->fired, 7);
    assert_int_equal(f->timer[4].fired, 1);
}

static void a_deadline_beyond_one_turn_comes_up_early(void **state)
{
    struct fixture *f = *state;
    set(f, 0, f->now + 10 * (uint64_t)TURN_MS);
    for (int i = 0; i < WHEEL_SLOTS - 3; i++)
        turn(f, WHEEL_TICK_MS);
    assert_int_equal(f->fired, 0);
    for (int i = 0; i < 3; i++)
        turn(f, WHEEL_TICK_MS);
    assert_int_equal(f->fired, 1);
}

static void a_long_sleep_loses_nothing(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < CONNS; i++)
        set(f, i, f->now + (uint64_t)i * (TURN_MS / CONNS));
    turn(f, 50 * (uint64_t)TURN_MS + 1);
    assert_int_equal(f->fired, CONNS);
    set(f, 0, f->now + 300); /* and it goes on */
    turn(f, 1000);
    assert_int_equal(f->fired, CONNS + 1);
}

static void random_operations_lose_nothing(void **state)
{
    struct fixture *f = *state;
    unsigned sets = 0;
    srand(2);
    f->again = 7;
    for (int step = 0; step < 100000; step++) {
        int i = rand() % CONNS, what = rand() % 100;
        if (what < 50) {
            set(f, i, f->now + (uint64_t)rand() % (what < 5 ? 3 * TURN_MS : 20000));
            sets++;
        } else if (what < 60) {
            take_off(f, i);
        } else {
            turn(f, (uint64_t)rand() % (what == 99 ? 2 * TURN_MS : 400));
        }
    }
    assert_true(f->fired > sets / 4);
    f->again = 0;
    turn(f, TURN_MS);
    turn(f, TURN_MS);
    for (int i = 0; i < CONNS; i++)
        assert_false(f->timer[i].set && f->timer[i].at <= f->now - WHEEL_TICK_MS);
    for (int i = 0; i < WHEEL_SLOTS; i++)
        for (const struct conn *c = f->w.slot[i]; c; c = c->wheel_next)
            assert_true(f->timer[c - f->conn].set); /* and holds nobody else */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_deadline_fires_once_within_a_tick, setup, teardown),
        cmocka_unit_test_setup_teardown(a_past_deadline_fires_at_the_next_tick, setup, teardown),
        cmocka_unit_test_setup_teardown(one_that_was_taken_off_or_moved_fires_only_where_it_is, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_deadline_beyond_one_turn_comes_up_early, setup, teardown),
        cmocka_unit_test_setup_teardown(a_long_sleep_loses_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(random_operations_lose_nothing, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
