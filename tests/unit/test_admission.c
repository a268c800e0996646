/* The engine of admission on a clock of the test's own, with sources that answer when the test says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "node/admission.h"

enum { ASKED_MAX = 8192, START = 10000000 };

struct asked {
    enum admit_source s;
    uint64_t question;
    struct derp_key key;
    bool done;
};

struct world {
    struct admission *a;
    uint64_t now;
    bool in_file[256]; /* by the first byte of the key */
    bool cannot_ask;
    struct asked asked[ASKED_MAX];
    size_t n_asked;
    size_t n_answers;
    uint64_t last_gen;
    enum admit_outcome last;
    int closed[256];
    enum admit_outcome closed_why;
};

static struct derp_key key_of(unsigned i)
{
    struct derp_key k = {{0}};
    k.b[0] = (uint8_t)i;
    k.b[1] = (uint8_t)(i >> 8);
    k.b[31] = 1;
    return k;
}

static bool allowed(void *ctx, const struct derp_key *key)
{
    struct world *w = ctx;
    return w->in_file[key->b[0]];
}

static int ask(void *ctx, enum admit_source s, uint64_t question, const struct derp_key *key,
               const struct conn_addr *from)
{
    struct world *w = ctx;
    (void)from;
    if (w->cannot_ask)
        return -1;
    assert_true(w->n_asked < ASKED_MAX);
    w->asked[w->n_asked++] = (struct asked){s, question, *key, false};
    return 0;
}

static void answer(void *ctx, const struct derp_key *key, const struct conn_ref *ref,
                   const struct conn_addr *from, enum admit_outcome outcome)
{
    struct world *w = ctx;
    (void)key;
    (void)from;
    w->n_answers++;
    w->last_gen = ref->gen;
    w->last = outcome;
}

static void close_key(void *ctx, const struct derp_key *key, enum admit_outcome why)
{
    struct world *w = ctx;
    w->closed[key->b[0]]++;
    w->closed_why = why;
}

static const struct admission_ops ops = {allowed, ask, answer, close_key};

static struct world *make(bool file, bool url, bool sock, bool any)
{
    struct world *w = calloc(1, sizeof(*w));
    struct admit_policy p = {.on = {file, url, sock}, .any = any};
    w->now = START;
    w->a = admission_new(&ops, w, 42);
    assert_non_null(w->a);
    admission_set_policy(w->a, &p, true, w->now);
    return w;
}

static void end(struct world *w)
{
    struct admit_counts c;
    admission_counts(w->a, &c);
    assert_int_equal(c.asked, c.admitted + c.refused); /* every login has its answer */
    assert_int_equal(c.asked, w->n_answers);
    admission_free(w->a);
    free(w);
}

static void login(struct world *w, unsigned i)
{
    static uint64_t gen;
    struct derp_key k = key_of(i);
    struct conn_ref ref = {++gen, 1, 0};
    struct conn_addr from = {{0}, 1};
    admission_ask(w->a, &k, &ref, &from, w->now);
}

/* The oldest unanswered question to that source is answered. */
static void say(struct world *w, enum admit_source s, enum admit_verdict v)
{
    for (size_t i = 0; i < w->n_asked; i++) {
        struct asked *q = &w->asked[i];
        if (q->s != s || q->done)
            continue;
        q->done = true;
        admission_heard(w->a, s, q->question, &q->key, v, "it is broken", w->now);
        return;
    }
    fail_msg("nobody asked source %d", (int)s);
}

static size_t open_questions(const struct world *w, enum admit_source s)
{
    size_t n = 0;
    for (size_t i = 0; i < w->n_asked; i++)
        n += w->asked[i].s == s && !w->asked[i].done;
    return n;
}

static void present(struct world *w, unsigned i, uint32_t connections)
{
    struct derp_key k = key_of(i);
    struct conn_addr from = {{0}, 1};
    admission_present(w->a, &k, connections, &from, w->now);
}

static void pass(struct world *w, uint64_t ms)
{
    for (uint64_t to = w->now + ms; w->now < to;) {
        w->now += to - w->now < 500 ? to - w->now : 500;
        admission_tick(w->a, w->now);
    }
}

#define expect(w, n, outcome)                                                                                \
    do {                                                                                                     \
        assert_int_equal((w)->n_answers, n);                                                                 \
        assert_int_equal((w)->last, outcome);                                                                \
    } while (0)

/* ---- single sources ---- */

static void nothing_configured(void **state)
{
    (void)state;
    struct world *w = make(false, false, false, false);
    login(w, 1);
    expect(w, 1, ADMITTED);
    present(w, 1, 1);
    assert_int_equal(admission_keys(w->a), 0); /* costs nothing */
    end(w);
}

static void file_alone(void **state)
{
    (void)state;
    struct world *w = make(true, false, false, false);
    w->in_file[1] = true;
    login(w, 1);
    expect(w, 1, ADMITTED);
    login(w, 2);
    expect(w, 2, REFUSED_ALLOW);
    w->in_file[2] = true; /* a no of the file is not remembered */
    admission_allow_changed(w->a, w->now);
    login(w, 2);
    expect(w, 3, ADMITTED);
    assert_int_equal(w->n_asked, 0);
    end(w);
}

static void yes_is_remembered_a_minute(void **state)
{
    (void)state;
    struct world *w = make(false, true, false, false);
    login(w, 1);
    assert_int_equal(w->n_answers, 0);
    say(w, ADMIT_URL, ADMIT_YES);
    expect(w, 1, ADMITTED);
    pass(w, ADMIT_FRESH_MS - 1);
    login(w, 1);
    expect(w, 2, ADMITTED);
    assert_int_equal(w->n_asked, 1);
    pass(w, 1);
    login(w, 1);
    assert_int_equal(w->n_answers, 2);
    assert_int_equal(w->n_asked, 2);
    say(w, ADMIT_URL, ADMIT_NO);
    expect(w, 3, REFUSED_URL);
    end(w);
}

static void no_is_remembered_briefly(void **state)
{
    (void)state;
    struct world *w = make(false, false, true, false);
    login(w, 1);
    say(w, ADMIT_SOCKET, ADMIT_NO);
    expect(w, 1, REFUSED_SOCKET);
    pass(w, ADMIT_NO_MS - 1);
    login(w, 1);
    expect(w, 2, REFUSED_SOCKET);
    assert_int_equal(w->n_asked, 1);
    pass(w, 1);
    login(w, 1);
    assert_int_equal(w->n_asked, 2);
    say(w, ADMIT_SOCKET, ADMIT_YES);
    expect(w, 3, ADMITTED);
    end(w);
}

static void one_question_per_key(void **state)
{
    (void)state;
    struct world *w = make(false, true, false, false);
    for (int i = 0; i < 10; i++)
        login(w, 1);
    login(w, 2);
    assert_int_equal(w->n_asked, 2);
    say(w, ADMIT_URL, ADMIT_YES);
    expect(w, 10, ADMITTED);
    say(w, ADMIT_URL, ADMIT_NO);
    expect(w, 11, REFUSED_URL);
    for (int i = 0; i < ADMIT_WAITERS_MAX + 3; i++)
        login(w, 3);
    assert_int_equal(w->n_answers, 14); /* more than may wait */
    assert_int_equal(w->last, REFUSED_OUTAGE);
    say(w, ADMIT_URL, ADMIT_YES);
    expect(w, 14 + ADMIT_WAITERS_MAX, ADMITTED);
    end(w);
}

/* ---- outages ---- */

static void outage_refuses_and_is_remembered_briefly(void **state)
{
    (void)state;
    struct world *w = make(false, true, false, false);
    struct admit_source_state st;
    login(w, 1);
    say(w, ADMIT_URL, ADMIT_OUTAGE);
    expect(w, 1, REFUSED_OUTAGE);
    admission_source(w->a, ADMIT_URL, &st);
    assert_int_equal(st.out_since, w->now);
    assert_string_equal(st.detail, "it is broken");
    login(w, 1);
    expect(w, 2, REFUSED_OUTAGE);
    assert_int_equal(w->n_asked, 1);
    pass(w, ADMIT_NO_MS);
    login(w, 1);
    say(w, ADMIT_URL, ADMIT_YES);
    expect(w, 3, ADMITTED);
    admission_source(w->a, ADMIT_URL, &st);
    assert_int_equal(st.out_since, 0);
    end(w);
}

static void yes_goes_on_through_an_outage(void **state)
{
    (void)state;
    struct world *w = make(false, true, false, false);
    login(w, 1);
    say(w, ADMIT_URL, ADMIT_YES);
    pass(w, ADMIT_FRESH_MS + ADMIT_GRACE_MS - 1);
    login(w, 1);
    say(w, ADMIT_URL, ADMIT_OUTAGE);
    expect(w, 2, ADMITTED);
    pass(w, ADMIT_NO_MS + 1);
    login(w, 1);
    say(w, ADMIT_URL, ADMIT_UNREACHED);
    expect(w, 3, REFUSED_OUTAGE);
    end(w);
}

static void no_ends_what_was_remembered(void **state)
{
    (void)state;
    struct world *w = make(false, true, false, false);
    login(w, 1);
    say(w, ADMIT_URL, ADMIT_YES);
    pass(w, ADMIT_FRESH_MS);
    login(w, 1);
    say(w, ADMIT_URL, ADMIT_NO);
    pass(w, ADMIT_NO_MS);
    login(w, 1);
    say(w, ADMIT_URL, ADMIT_OUTAGE);
    expect(w, 3, REFUSED_OUTAGE);
    end(w);
}

static void connected_clients_outlast_an_outage(void **state)
{
    (void)state;
    struct world *w = make(false, true, false, false);
    login(w, 1);
    say(w, ADMIT_URL, ADMIT_YES);
    present(w, 1, 1);
    for (int i = 0; i < 100; i++) { /* most of an hour */
        pass(w, ADMIT_AGAIN_OUT_MS);
        while (open_questions(w, ADMIT_URL))
            say(w, ADMIT_URL, ADMIT_OUTAGE);
    }
    assert_int_equal(w->closed[1], 0);
    assert_true(w->n_asked > 60); /* asked more often than every five minutes */
    login(w, 1);                  /* it comes a second time */
    if (open_questions(w, ADMIT_URL))
        say(w, ADMIT_URL, ADMIT_OUTAGE);
    expect(w, 2, ADMITTED);
    present(w, 1, 0);
    pass(w, ADMIT_GRACE_MS - 1);
    login(w, 1); /* back within a minute */
    say(w, ADMIT_URL, ADMIT_OUTAGE);
    expect(w, 3, ADMITTED);
    pass(w, ADMIT_NO_MS);
    login(w, 1);
    say(w, ADMIT_URL, ADMIT_OUTAGE);
    expect(w, 4, REFUSED_OUTAGE);
    end(w);
}

static void fail_open_is_for_the_url_unreached(void **state)
{
    (void)state;
    struct world *w = make(false, true, false, false);
    struct admit_policy p = {.on = {false, true, true}, .fail_open = true};
    admission_set_policy(w->a, &p, true, w->now);
    login(w, 1);
    say(w, ADMIT_URL, ADMIT_UNREACHED);
    assert_int_equal(w->n_answers, 0);
    say(w, ADMIT_SOCKET, ADMIT_YES);
    expect(w, 1, ADMITTED);
    login(w, 2);
    say(w, ADMIT_URL, ADMIT_OUTAGE);
    say(w, ADMIT_SOCKET, ADMIT_YES);
    expect(w, 2, REFUSED_OUTAGE);
    login(w, 3);
    say(w, ADMIT_URL, ADMIT_YES);
    say(w, ADMIT_SOCKET, ADMIT_UNREACHED);
    expect(w, 3, REFUSED_OUTAGE);
    end(w);
}

/* ---- combined ---- */

static void combined(void **state)
{
    static const enum admit_verdict says[] = {ADMIT_NO, ADMIT_YES, ADMIT_OUTAGE};
    (void)state;
    for (int any = 0; any < 2; any++)
        for (int i = 0; i < 18; i++) {
            struct world *w = make(true, true, true, any);
            bool file = i % 2;
            enum admit_verdict url = says[i / 2 % 3], sock = says[i / 6];
            w->in_file[1] = file;
            login(w, 1);
            if (!any && !file)
                assert_int_equal(w->n_asked, 0); /* decided */
            if (any && file)
                assert_int_equal(w->n_asked, 0);
            while (open_questions(w, ADMIT_URL))
                say(w, ADMIT_URL, url);
            while (open_questions(w, ADMIT_SOCKET))
                say(w, ADMIT_SOCKET, sock);
            int yes = file + (url == ADMIT_YES) + (sock == ADMIT_YES);
            bool out = url == ADMIT_OUTAGE || sock == ADMIT_OUTAGE;
            enum admit_outcome want;
            if (any)
                want = yes ? ADMITTED : out ? REFUSED_OUTAGE : REFUSED_ALLOW;
            else
                want = !file              ? REFUSED_ALLOW
                       : url == ADMIT_NO  ? REFUSED_URL
                       : sock == ADMIT_NO ? REFUSED_SOCKET
                       : out              ? REFUSED_OUTAGE
                                          : ADMITTED;
            expect(w, 1, want);
            end(w);
        }
}

/* One source answers at once, the other late: what the first said still counts. */
static void slow_and_fast(void **state)
{
    (void)state;
    struct world *w = make(false, true, true, false);
    login(w, 1);
    say(w, ADMIT_SOCKET, ADMIT_OUTAGE);
    pass(w, 2 * ADMIT_NO_MS);
    say(w, ADMIT_URL, ADMIT_YES);
    expect(w, 1, REFUSED_OUTAGE);
    assert_int_equal(w->n_asked, 2);
    end(w);
}

/* Decided before all have answered: what comes late is taken for later. */
static void late_answers(void **state)
{
    (void)state;
    struct world *w = make(false, true, true, true);
    login(w, 1);
    say(w, ADMIT_SOCKET, ADMIT_YES);
    expect(w, 1, ADMITTED);
    pass(w, 3000);
    say(w, ADMIT_URL, ADMIT_NO);
    expect(w, 1, ADMITTED);
    pass(w, ADMIT_FRESH_MS + ADMIT_GRACE_MS + 1000);
    assert_int_equal(admission_keys(w->a), 0);
    end(w);
}

/* ---- connected clients ---- */

static void asked_again(void **state)
{
    (void)state;
    struct world *w = make(false, true, false, false);
    for (unsigned i = 0; i < 100; i++) {
        login(w, i);
        say(w, ADMIT_URL, ADMIT_YES);
        present(w, i, 1);
    }
    pass(w, ADMIT_AGAIN_MS * 4 / 5 - 1000);
    assert_int_equal(w->n_asked, 100);
    pass(w, 20000); /* jittered: not all at once */
    assert_true(open_questions(w, ADMIT_URL) > 0 && open_questions(w, ADMIT_URL) < 50);
    size_t first = w->n_asked;
    while (w->n_asked < 200) {
        while (open_questions(w, ADMIT_URL))
            say(w, ADMIT_URL, w->asked[100].done ? ADMIT_YES : ADMIT_NO);
        pass(w, 1000);
        assert_true(w->now < START + ADMIT_AGAIN_MS * 6 / 5 + 5000);
    }
    assert_true(first < 200);
    unsigned gone = w->asked[100].key.b[0];
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(w->closed[i], i == gone);
    assert_int_equal(w->closed_why, REFUSED_URL);
    present(w, gone, 0);
    end(w);
}

static void file_loses_a_key(void **state)
{
    (void)state;
    for (int any = 0; any < 2; any++) {
        struct world *w = make(true, true, false, any);
        w->in_file[1] = w->in_file[2] = true;
        for (unsigned i = 1; i <= 2; i++) {
            login(w, i);
            while (open_questions(w, ADMIT_URL))
                say(w, ADMIT_URL, ADMIT_YES);
            present(w, i, 2);
        }
        w->in_file[1] = false;
        admission_allow_changed(w->a, w->now);
        if (any) { /* another may still want it */
            assert_int_equal(w->closed[1], 0);
            say(w, ADMIT_URL, ADMIT_NO);
        }
        assert_int_equal(w->closed[1], 1);
        assert_int_equal(w->closed[2], 0);
        present(w, 1, 0);
        pass(w, ADMIT_AGAIN_MS * 2);
        assert_int_equal(w->closed[1], 1);
        end(w);
    }
}

/* A connection that turns up unasked (it was let in under other rules) is asked about. */
static void unasked_connection(void **state)
{
    (void)state;
    struct world *w = make(false, true, false, false);
    present(w, 1, 1);
    assert_int_equal(w->n_asked, 1);
    say(w, ADMIT_URL, ADMIT_NO);
    assert_int_equal(w->closed[1], 1);
    present(w, 1, 0);
    end(w);
}

static void new_rules(void **state)
{
    (void)state;
    struct world *w = make(true, false, false, false);
    for (unsigned i = 0; i < 20; i++) {
        w->in_file[i] = true;
        login(w, i);
        present(w, i, 1);
    }
    struct admit_policy p = {.on = {false, true, false}};
    admission_set_policy(w->a, &p, true, w->now);
    assert_int_equal(w->n_asked, 0); /* spread over some seconds */
    pass(w, ADMIT_CHANGED_MS + 2000);
    assert_int_equal(w->n_asked, 20);
    /* Other rules again: the answers of the old ones count no more. */
    login(w, 50);
    struct admit_policy q = {.on = {true, true, false}};
    w->in_file[50] = true;
    w->in_file[3] = false;
    admission_set_policy(w->a, &q, true, w->now);
    assert_int_equal(w->closed[3], 1);
    assert_int_equal(w->n_asked, 22); /* for the login that waits, afresh */
    for (int i = 0; i < 21; i++)
        say(w, ADMIT_URL, ADMIT_YES);
    assert_int_equal(w->n_answers, 20);
    say(w, ADMIT_URL, ADMIT_NO);
    expect(w, 21, REFUSED_URL);
    /* None at all: who waits is let in. */
    login(w, 51);
    w->in_file[52] = true;
    login(w, 52);
    admission_set_policy(w->a, &(struct admit_policy){.any = false}, true, w->now);
    expect(w, 23, ADMITTED);
    assert_int_equal(admission_keys(w->a), 0);
    end(w);
}

/* ---- bounds ---- */

static void line_is_bounded(void **state)
{
    (void)state;
    struct world *w = make(false, true, false, false);
    struct admit_source_state st;
    for (unsigned i = 0; i < ADMIT_RUNNING_MAX + ADMIT_LINE_MAX; i++)
        login(w, i);
    admission_source(w->a, ADMIT_URL, &st);
    assert_int_equal(st.running, ADMIT_RUNNING_MAX);
    assert_int_equal(st.waiting, ADMIT_LINE_MAX);
    assert_int_equal(w->n_asked, ADMIT_RUNNING_MAX);
    login(w, 60000);
    expect(w, 1, REFUSED_OUTAGE);
    say(w, ADMIT_URL, ADMIT_YES); /* one leaves, the next is asked */
    assert_int_equal(w->n_asked, ADMIT_RUNNING_MAX + 1);
    pass(w, ADMIT_LINE_MS);
    admission_source(w->a, ADMIT_URL, &st);
    assert_int_equal(st.waiting, 0);
    expect(w, 2 + ADMIT_LINE_MAX - 1, REFUSED_OUTAGE);
    while (open_questions(w, ADMIT_URL))
        say(w, ADMIT_URL, ADMIT_NO);
    pass(w, ADMIT_FRESH_MS + ADMIT_GRACE_MS + 1000);
    assert_int_equal(admission_keys(w->a), 0);
    end(w);
}

static void source_that_cannot_be_asked(void **state)
{
    (void)state;
    struct world *w = make(false, true, true, false);
    w->cannot_ask = true;
    for (unsigned i = 0; i < 5; i++)
        login(w, i);
    expect(w, 5, REFUSED_OUTAGE);
    end(w);
}

/* Strangers, however many, neither fill the memory nor push out who was admitted. */
static void strangers(void **state)
{
    (void)state;
    struct world *w = make(true, true, false, false);
    w->in_file[7] = true;
    login(w, 7);
    say(w, ADMIT_URL, ADMIT_YES);
    for (unsigned i = 0; i < 3 * ADMIT_IDLE_MAX; i++) {
        struct derp_key k = key_of(0);
        memcpy(k.b + 4, &i, sizeof(i));
        struct conn_ref ref = {i + 1, 1, 0};
        struct conn_addr from = {{0}, 1};
        admission_ask(w->a, &k, &ref, &from, w->now);
    }
    assert_true(admission_keys(w->a) <= ADMIT_IDLE_MAX + 2);
    login(w, 7);
    assert_int_equal(w->last, ADMITTED);
    assert_int_equal(w->n_asked, 1);
    pass(w, ADMIT_NO_MS + 500);
    assert_int_equal(admission_keys(w->a), 1);
    end(w);
}

/* Anything in any order: nobody is answered twice or never, nobody refused by all is let in. */
static void random_orders(void **state)
{
    (void)state;
    srand(7);
    for (int run = 0; run < 60; run++) {
        struct world *w = make(rand() % 2, true, rand() % 2, rand() % 2);
        uint32_t connections[16] = {0};
        for (int step = 0; step < 400; step++) {
            unsigned i = (unsigned)rand() % 16;
            enum admit_source s = rand() % 2 ? ADMIT_URL : ADMIT_SOCKET;
            switch (rand() % 8) {
            case 0:
            case 1:
                login(w, i);
                break;
            case 2:
                connections[i] = connections[i] ? connections[i] - 1 : 1 + (uint32_t)rand() % 2;
                present(w, i, connections[i]);
                break;
            case 3:
                pass(w, (uint64_t)rand() % (rand() % 4 ? 3000 : 100000));
                break;
            case 4:
                w->in_file[i] = !w->in_file[i];
                admission_allow_changed(w->a, w->now);
                break;
            case 5:
                w->cannot_ask = rand() % 4 == 0;
                break;
            default:
                if (open_questions(w, s))
                    say(w, s, (enum admit_verdict)(rand() % 4));
            }
        }
        w->cannot_ask = false;
        for (unsigned i = 0; i < 16; i++)
            present(w, i, 0);
        for (int n = 0; n < 100 && open_questions(w, ADMIT_URL) + open_questions(w, ADMIT_SOCKET); n++)
            for (enum admit_source s = ADMIT_URL; s < ADMIT_SOURCES; s++)
                while (open_questions(w, s))
                    say(w, s, ADMIT_NO);
        pass(w, ADMIT_FRESH_MS + ADMIT_GRACE_MS + 1000);
        assert_int_equal(admission_keys(w->a), 0); /* nothing stays behind */
        for (enum admit_source s = ADMIT_URL; s < ADMIT_SOURCES; s++) {
            struct admit_source_state st;
            admission_source(w->a, s, &st);
            assert_int_equal(st.running + st.waiting, 0);
        }
        end(w);
    }
}

/* Whoever looks after the node is let in, whatever the sources say, but not for long, and it does not count as an outage. */
static void test_guest(void **state)
{
    struct world *w = make(true, true, false, false);
    struct derp_key k = key_of(1);

    (void)state;
    login(w, 1);
    assert_int_equal(w->last, REFUSED_ALLOW);
    admission_guest(w->a, &k, w->now);
    login(w, 1);
    assert_int_equal(w->last, ADMITTED);
    assert_int_equal(w->n_asked, 0);
    login(w, 2);
    assert_int_equal(w->last, REFUSED_ALLOW);
    w->now += ADMIT_GUEST_MS;
    login(w, 1);
    assert_int_equal(w->last, REFUSED_ALLOW);
    end(w);
}

/* The oldest guest makes way; one that stays connected is asked about like anyone else. */
static void test_guests_many(void **state)
{
    struct world *w = make(true, false, false, false);

    (void)state;
    for (unsigned i = 0; i <= ADMIT_GUESTS; i++) {
        struct derp_key k = key_of(i);
        admission_guest(w->a, &k, w->now);
    }
    login(w, 0);
    assert_int_equal(w->last, REFUSED_ALLOW);
    login(w, ADMIT_GUESTS);
    assert_int_equal(w->last, ADMITTED);
    struct derp_key k = key_of(ADMIT_GUESTS);
    admission_present(w->a, &k, 1, NULL, w->now);
    w->now += ADMIT_AGAIN_MS * 2;
    for (int i = 0; i < 600; i++, w->now += 1000)
        admission_tick(w->a, w->now);
    assert_true(w->closed[ADMIT_GUESTS] > 0);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guest),
        cmocka_unit_test(test_guests_many),
        cmocka_unit_test(nothing_configured),
        cmocka_unit_test(file_alone),
        cmocka_unit_test(yes_is_remembered_a_minute),
        cmocka_unit_test(no_is_remembered_briefly),
        cmocka_unit_test(one_question_per_key),
        cmocka_unit_test(outage_refuses_and_is_remembered_briefly),
        cmocka_unit_test(yes_goes_on_through_an_outage),
        cmocka_unit_test(no_ends_what_was_remembered),
        cmocka_unit_test(connected_clients_outlast_an_outage),
        cmocka_unit_test(fail_open_is_for_the_url_unreached),
        cmocka_unit_test(combined),
        cmocka_unit_test(slow_and_fast),
        cmocka_unit_test(late_answers),
        cmocka_unit_test(asked_again),
        cmocka_unit_test(file_loses_a_key),
        cmocka_unit_test(unasked_connection),
        cmocka_unit_test(new_rules),
        cmocka_unit_test(line_is_bounded),
        cmocka_unit_test(source_that_cannot_be_asked),
        cmocka_unit_test(strangers),
        cmocka_unit_test(random_orders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
