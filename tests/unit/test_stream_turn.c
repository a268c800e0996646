/* Newcomers that come by the dozen, each worth more than a turn's share: a few are read in each turn, first come first, and
 * an established stream is read in every turn meanwhile. */
#include "stream_fixture.h"

enum {
    CROWD = 24,
    BYTES = 100,
    COST_NS = 1000000,
    A_TURN = 3 /* one while nobody waits, and those called */
};

static struct {
    struct end *end[CROWD];
    int fd[CROWD], accepted, order[CROWD], read, this_turn, most;
    uint64_t turn;
} crowd;

static int number_of(const struct end *e)
{
    for (int i = 0; i < crowd.accepted; i++)
        if (crowd.end[i] == e)
            return i;
    fail_msg("unknown end");
    return -1;
}

/* A login: it takes its time, and is over. */
static bool on_login(struct end *e)
{
    uint64_t until = uv_hrtime() + COST_NS;
    while (uv_hrtime() < until)
        ;
    crowd.this_turn = crowd.turn == e->b->io.turn ? crowd.this_turn + 1 : 1;
    crowd.turn = e->b->io.turn;
    crowd.most = crowd.this_turn > crowd.most ? crowd.this_turn : crowd.most;
    crowd.order[crowd.read++] = number_of(e);
    e->s.newcomer = false;
    return true;
}

static void crowd_accepted(struct end *e)
{
    e->s.newcomer = true;
    e->on_input = on_login;
    crowd.end[crowd.accepted++] = e;
}

static bool all_accepted(struct bench *b)
{
    (void)b;
    return crowd.accepted == CROWD;
}

static bool all_read(struct bench *b)
{
    (void)b;
    return crowd.read == CROWD;
}

/* Two ends that are in, and a crowd that has connected and not yet said anything. */
static struct bench *crowded(void)
{
    struct bench *b = bench_connected(PLAIN);
    struct end *established = b->server;
    memset(&crowd, 0, sizeof(crowd));
    b->on_accepted = crowd_accepted;
    for (int i = 0; i < CROWD; i++) {
        crowd.fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(crowd.fd[i], (struct sockaddr *)&b->addr, sizeof(b->addr)), 0);
        uv_run(&b->loop, UV_RUN_NOWAIT); /* in this order */
    }
    bench_until(b, all_accepted);
    b->server = established;
    return b;
}

static void speak(int i)
{
    uint8_t hello[BYTES];
    for (size_t j = 0; j < BYTES; j++)
        hello[j] = byte_at(j);
    assert_int_equal(write(crowd.fd[i], hello, BYTES), BYTES);
}

static void all_speak(void)
{
    for (int i = 0; i < CROWD; i++)
        speak(i);
}

static void crowd_free(struct bench *b)
{
    for (int i = 0; i < CROWD; i++) {
        close(crowd.fd[i]);
        if (!crowd.end[i]->closed)
            stream_close(&crowd.end[i]->s, "test over");
    }
    bench_free(b);
    for (int i = 0; i < CROWD; i++) {
        assert_int_equal(crowd.end[i]->closed, 1);
        free(crowd.end[i]);
    }
}

static void a_few_newcomers_are_read_each_turn_and_the_others_in_every_turn(void **state)
{
    (void)state;
    struct bench *b = crowded();
    uint64_t asked = 0, turns = 0;
    all_speak();
    while (!all_read(b)) {
        if (b->server->in == asked) { /* what was said last has been read */
            end_send(b->client, 10);
            asked += 10;
        }
        uint64_t before = b->io.turn;
        uv_run(&b->loop, UV_RUN_ONCE);
        turns += b->io.turn - before;
    }
    assert_in_range(crowd.most, 1, A_TURN);
    /* said in one turn, read in the next */
    assert_true(b->server->in >= 10 * (turns / 2 - 2));
    assert_true(turns >= CROWD / A_TURN);
    assert_int_equal(stats_get(&b->stats, STAT_LOGIN_TURNS), CROWD - 1);
    crowd_free(b);
}

static void nobody_who_waits_is_overtaken(void **state)
{
    (void)state;
    struct bench *b = crowded();
    int expected[CROWD], n = 0, first = 0;
    for (int i = 0; i < CROWD - 1; i++)
        speak(i);
    for (int turn = 0; !all_read(b); turn++) {
        uv_run(&b->loop, UV_RUN_ONCE);
        if (turn != 2) /* from then on the kernel reports the latecomer before those who are called */
            continue;
        first = crowd.read; /* the line stands: in this order they must be read */
        for (struct stream *s = b->io.line; s; s = s->line_next)
            expected[n++] = number_of((struct end *)s);
        expected[n++] = CROWD - 1;
        speak(CROWD - 1);
    }
    assert_true(n > A_TURN);
    for (int i = 0; i < n; i++)
        assert_int_equal(crowd.order[first + i], expected[i]);
    crowd_free(b);
}

static void who_leaves_the_line_leaves_no_gap(void **state)
{
    (void)state;
    struct bench *b = crowded();
    all_speak();
    while (!b->io.line)
        uv_run(&b->loop, UV_RUN_ONCE);
    int gone = 0;
    struct stream *next;
    for (struct stream *s = b->io.line; s; s = next) {
        next = s->line_next;
        if (gone++ % 2 == 0)
            stream_close(s, "leaves");
    }
    gone = (gone + 1) / 2;
    while (crowd.read + gone < CROWD)
        uv_run(&b->loop, UV_RUN_ONCE);
    assert_null(b->io.line);
    assert_null(b->io.line_end);
    crowd_free(b);
}

static void who_is_paused_in_line_is_read_after_its_resume(void **state)
{
    (void)state;
    struct bench *b = crowded();
    all_speak();
    while (!b->io.line)
        uv_run(&b->loop, UV_RUN_ONCE);
    struct end *first = (struct end *)b->io.line;
    stream_pause(&first->s);
    while (crowd.read < CROWD - 1)
        uv_run(&b->loop, UV_RUN_ONCE);
    assert_int_equal(first->in, 0);
    stream_resume(&first->s);
    bench_until(b, all_read);
    assert_int_equal(first->in, BYTES);
    crowd_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_few_newcomers_are_read_each_turn_and_the_others_in_every_turn),
        cmocka_unit_test(nobody_who_waits_is_overtaken),
        cmocka_unit_test(who_leaves_the_line_leaves_no_gap),
        cmocka_unit_test(who_is_paused_in_line_is_read_after_its_resume),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
