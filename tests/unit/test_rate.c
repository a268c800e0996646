/* How fast a client may send: the bucket in virtual time, and the heap of those who are read later. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "node/conn.h"
#include "node/rate.h"

/* Reads pieces as soon as the bucket lets us, for `ms`; returns how many bytes that were. */
static uint64_t greedy(struct rate *r, uint64_t start, uint64_t ms, uint32_t piece, uint64_t *waits)
{
    uint64_t now = start, sum = 0;

    while (now < start + ms) {
        uint64_t wait = rate_take(r, piece, now);
        sum += piece;
        *waits += wait > 0;
        now += wait;
    }
    return sum;
}

static void bucket_holds_the_rate(void **state)
{
    static const uint32_t rates[] = {1000, 9999, 100000, 12345678, 125000000, UINT32_MAX};
    static const uint32_t pieces[] = {1, 100, 1432, 16384, 65568};

    (void)state;
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        for (size_t j = 0; j < sizeof pieces / sizeof pieces[0]; j++) {
            uint64_t waits = 0, ms = rates[i] > 1000000 ? 200 : 600000;
            struct rate r;
            if ((uint64_t)rates[i] * ms / 1000 / pieces[j] > 20000000)
                continue; /* too many steps */
            rate_init(&r, rates[i], 100000, 5000);
            uint64_t sum = greedy(&r, 5000, ms, pieces[j], &waits);
            uint64_t earned = (uint64_t)rates[i] * ms / 1000;
            /* the burst, what came in, and the piece that made the debt; a ms more or less at the end */
            assert_true(sum <= r.burst + earned + rates[i] / 1000 + pieces[j]);
            assert_true(sum + rates[i] / 1000 + pieces[j] >= r.burst + earned);
            assert_true(waits > 0);
        }
    }
}

static void bucket_burst(void **state)
{
    struct rate r;

    (void)state;
    rate_init(&r, 1000, 65568, 0);
    assert_int_equal(rate_take(&r, 65568, 0), 0); /* full at the start */
    assert_int_equal(rate_take(&r, 1, 0), 1);
    assert_int_equal(rate_take(&r, 0, 1), 0);
    assert_int_equal(rate_take(&r, 1000, 1), 1000);
    /* silence fills it, up to its size and no further, however long it was */
    assert_int_equal(rate_take(&r, 65568, UINT64_MAX / 4), 0);
    assert_int_equal(rate_take(&r, 500, UINT64_MAX / 4), 500);
    /* a debt is paid off before anything else */
    rate_init(&r, 2000, 70000, 0);
    assert_int_equal(rate_take(&r, 90000, 0), 10000);
    assert_int_equal(rate_take(&r, 0, 9999), 1);
    assert_int_equal(rate_take(&r, 0, 10000), 0);
    /* too small a burst would never let the largest frame through */
    rate_init(&r, 1000, 1, 0);
    assert_int_equal(rate_take(&r, 65568, 0), 0);
    rate_init(&r, 1000000000, 65568, 0);
    assert_int_equal(rate_take(&r, 5000000, 0), 0);
    assert_int_equal(rate_take(&r, 1, 0), 1);
}

static void no_limit(void **state)
{
    struct rate r;

    (void)state;
    rate_init(&r, 0, 65568, 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(rate_take(&r, 1u << 30, 0), 0);
    assert_int_equal(rate_read_max(&r), 0);
    rate_init(&r, 1000, 80000, 0);
    assert_int_equal(rate_read_max(&r), 20000);
}

enum { MANY = 500 };

/* Those in the heap, with a look at its invariants. */
static void heap_good(const struct resumes *r)
{
    for (uint32_t i = 0; i < r->n; i++) {
        assert_ptr_equal(r->at[r->at[i]->resume.slot], r->at[i]);
        assert_true(r->at[i]->resume.on && r->at[i]->stream.paused == 1);
        assert_true(i == 0 || r->at[(i - 1) / 2]->resume.at <= r->at[i]->resume.at);
    }
}

static void resume_order(void **state)
{
    struct resumes r;
    struct conn *c = calloc(MANY, sizeof *c);
    uv_loop_t loop;
    uint64_t seed = 1, now, end = 0;
    uint32_t left = MANY;

    (void)state;
    uv_loop_init(&loop);
    resumes_init(&r, &loop);
    now = uv_now(&loop);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(uv_tcp_init(&loop, &c[i].stream.tcp), 0);
        c[i].stream.closing = i % 50 == 49; /* is closing: not touched */
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        assert_int_equal(resume_at(&r, &c[i], now + 20 + (seed >> 33) % 50), 0);
        left -= c[i].stream.closing;
        heap_good(&r);
    }
    for (int i = 0; i < MANY; i += 3) { /* later, and never earlier */
        uint64_t before = c[i].resume.at;
        assert_int_equal(resume_at(&r, &c[i], before + 17), 0);
        assert_int_equal(resume_at(&r, &c[i], before), 0);
        assert_true(!c[i].resume.on || c[i].resume.at == before + 17);
        heap_good(&r);
    }
    for (int i = 1; i < MANY; i += 7) {
        left -= c[i].resume.on;
        resume_forget(&r, &c[i]);
        resume_forget(&r, &c[i]);
        assert_false(c[i].resume.on);
        heap_good(&r);
    }
    assert_int_equal(r.n, left);
    /* to have no socket that could be read, they count as closing when their time comes */
    for (int i = 0; i < MANY; i++)
        c[i].stream.closing = true;
    for (uint32_t i = 0; i < r.n; i++)
        end = r.at[i]->resume.at > end ? r.at[i]->resume.at : end;
    while (r.n > 0) {
        uv_run(&loop, UV_RUN_ONCE);
        heap_good(&r);
    }
    assert_true(uv_now(&loop) >= end); /* nobody was let go before his time */
    for (int i = 0; i < MANY; i++)
        assert_false(c[i].resume.on);
    resumes_stop(&r);
    for (int i = 0; i < MANY; i++)
        uv_close((uv_handle_t *)&c[i].stream.tcp, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    resumes_deinit(&r);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bucket_holds_the_rate),
        cmocka_unit_test(bucket_burst),
        cmocka_unit_test(no_limit),
        cmocka_unit_test(resume_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
