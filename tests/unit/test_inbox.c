/* Inboxes: order per sender, nothing lost, accounting, stopping under fire.  Meant to run under TSan too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sodium.h>
#include <string.h>

#include "node/inbox.h"
#include "node/site.h"

enum { SENDERS = 4, MESSAGES = 20000 };

struct receiver {
    struct inbox in;
    uint64_t next[SENDERS]; /* expected of each */
    size_t seen;
    bool stop_early; /* at the first message */
};

static void on_ordered(void *ctx, struct inbox_msg *m)
{
    struct receiver *r = ctx;
    if (r->stop_early) {
        r->seen++;
        inbox_stop(&r->in); /* what was taken together with it is still handled */
        return;
    }
    assert_int_equal(m->number, r->next[m->node]);
    r->next[m->node]++;
    if (m->type == IN_DATA)
        assert_int_equal(m->bytes[0], (uint8_t)m->number);
    if (++r->seen == SENDERS * (size_t)MESSAGES)
        inbox_stop(&r->in);
}

struct sender {
    struct inbox *in;
    uint32_t index;
    pthread_t thread;
};

static void *send_all(void *arg)
{
    struct sender *s = arg;
    for (uint64_t i = 0; i < MESSAGES; i++) {
        struct inbox_msg *m = inbox_msg_new(i % 3 ? IN_GLEAN : IN_DATA, 1);
        m->node = s->index;
        m->number = i;
        m->bytes[0] = (uint8_t)i;
        inbox_post(s->in, m);
    }
    return NULL;
}

static void run_threads(struct receiver *r)
{
    uv_loop_t loop;
    struct sender s[SENDERS];
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(inbox_init(&r->in, &loop, on_ordered, r), 0);
    for (uint32_t i = 0; i < SENDERS; i++) {
        s[i] = (struct sender){.in = &r->in, .index = i};
        assert_int_equal(pthread_create(&s[i].thread, NULL, send_all, &s[i]), 0);
    }
    uv_run(&loop, UV_RUN_DEFAULT); /* ends when the handle is closed */
    assert_int_equal(uv_loop_close(&loop), 0);
    for (uint32_t i = 0; i < SENDERS; i++)
        pthread_join(s[i].thread, NULL);
}

static void order_of_each_sender_holds(void **state)
{
    (void)state;
    struct receiver r = {.seen = 0};
    run_threads(&r);
    for (int i = 0; i < SENDERS; i++)
        assert_int_equal(r.next[i], MESSAGES);
    assert_int_equal(atomic_load(&r.in.data_bytes), 0);
    inbox_deinit(&r.in);
}

static void stop_while_others_post(void **state)
{
    (void)state;
    struct receiver r = {.stop_early = true};
    run_threads(&r);
    inbox_deinit(&r.in); /* leaks are found by ASan */
    assert_int_equal(atomic_load(&r.in.data_bytes), 0);
    assert_true(r.seen >= 1);
}

static void on_count(void *ctx, struct inbox_msg *m)
{
    (void)m;
    ++*(size_t *)ctx;
}

static void woken_once_for_many(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct inbox in;
    size_t n = 0;
    uv_loop_init(&loop);
    inbox_init(&in, &loop, on_count, &n);
    for (int i = 0; i < 100; i++)
        inbox_post(&in, inbox_msg_new(IN_GLEAN, 0));
    uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(n, 100);
    inbox_drain(&in);
    assert_int_equal(n, 100);
    inbox_post(&in, inbox_msg_new(IN_GLEAN, 0)); /* woken again after it was empty */
    uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(n, 101);
    inbox_stop(&in);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    inbox_deinit(&in);
}

struct nested {
    struct inbox in;
    uint64_t next;
};

static void on_nested(void *ctx, struct inbox_msg *m)
{
    struct nested *n = ctx;
    assert_int_equal(m->number, n->next);
    n->next++;
    if (m->number != 1)
        return;
    struct inbox_msg *late = inbox_msg_new(IN_GLEAN, 0);
    late->number = 4;
    inbox_post(&n->in, late);
    inbox_drain(&n->in); /* handles 2 and 3 first, then the late one */
    assert_int_equal(n->next, 5);
}

static void a_nested_drain_keeps_the_order(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct nested n = {.next = 0};
    uv_loop_init(&loop);
    inbox_init(&n.in, &loop, on_nested, &n);
    for (uint64_t i = 0; i < 4; i++) {
        struct inbox_msg *m = inbox_msg_new(IN_GLEAN, 0);
        m->number = i;
        inbox_post(&n.in, m);
    }
    inbox_drain(&n.in);
    assert_int_equal(n.next, 5);
    inbox_stop(&n.in);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    inbox_deinit(&n.in);
}

static void data_is_accounted(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct inbox in;
    size_t n = 0;
    uv_loop_init(&loop);
    inbox_init(&in, &loop, on_count, &n);
    assert_true(inbox_data_room(&in, INBOX_DATA_MAX));
    inbox_post(&in, inbox_msg_new(IN_DATA, 1000));
    inbox_post(&in, inbox_msg_new(IN_LINK_SEND, 1000));
    assert_int_equal(atomic_load(&in.data_bytes), 1000);
    assert_false(inbox_data_room(&in, INBOX_DATA_MAX));
    inbox_drain(&in);
    assert_int_equal(atomic_load(&in.data_bytes), 0);
    inbox_stop(&in);
    inbox_post(&in, inbox_msg_new(IN_DATA, 1000)); /* too late: never handled, freed by deinit */
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    inbox_deinit(&in);
    assert_int_equal(n, 2);
    assert_int_equal(atomic_load(&in.data_bytes), 0);
}

static struct site *fake_site(void)
{
    struct site *s = sodium_malloc(sizeof(*s));
    memset(s, 0, sizeof(*s));
    atomic_init(&s->refs, 1);
    return s;
}

static void site_references_are_given_back(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct inbox in;
    size_t n = 0;
    struct site *s = fake_site();
    uv_loop_init(&loop);
    inbox_init(&in, &loop, on_count, &n);
    for (int i = 0; i < 2; i++) {
        struct inbox_msg *m = inbox_msg_new(IN_SITE, 0);
        m->site = site_ref(s);
        inbox_post(&in, m);
        assert_int_equal(atomic_load(&s->refs), 2);
        if (i == 0) {
            inbox_drain(&in);
            assert_int_equal(atomic_load(&s->refs), 1);
        }
    }
    inbox_stop(&in);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    inbox_deinit(&in);
    assert_int_equal(n, 1);
    assert_int_equal(atomic_load(&s->refs), 1);
    site_unref(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_of_each_sender_holds),
        cmocka_unit_test(stop_while_others_post),
        cmocka_unit_test(woken_once_for_many),
        cmocka_unit_test(data_is_accounted),
        cmocka_unit_test(site_references_are_given_back),
        cmocka_unit_test(a_nested_drain_keeps_the_order),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
