/* Who heard from whom: PeerGone goes to exactly those, the longest not renewed is forgotten first. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "node/heard.h"

static struct derp_key key_no(uint32_t n)
{
    struct derp_key k = {{0}};
    memcpy(k.b, &n, sizeof(n));
    k.b[31] = 0x5a;
    return k;
}

static void note(struct heard *h, struct conn *c, uint32_t peer)
{
    struct derp_key k = key_no(peer);
    heard_note(h, c, &k);
}

/* ---- whom heard_gone told ---- */

enum { TOLD_MAX = 4096 };

struct told {
    struct conn *conn[TOLD_MAX];
    size_t n;
};

static void on_tell(void *ctx, struct conn *c)
{
    struct told *t = ctx;
    assert_true(t->n < TOLD_MAX);
    t->conn[t->n++] = c;
}

static struct told gone(struct heard *h, uint32_t peer)
{
    struct told t = {.n = 0};
    struct derp_key k = key_no(peer);
    heard_gone(h, &k, on_tell, &t);
    return t;
}

static struct conn *conns_new(size_t n)
{
    struct conn *c = calloc(n, sizeof(*c));
    assert_non_null(c);
    for (size_t i = 0; i < n; i++)
        c[i].gen = i + 1;
    return c;
}

/* ---- tests ---- */

static void gone_tells_exactly_those_that_heard(void **state)
{
    struct heard *h = heard_new(7);
    struct conn *c = conns_new(3);
    (void)state;
    note(h, &c[0], 1);
    note(h, &c[2], 1);
    note(h, &c[1], 2);
    note(h, &c[0], 1); /* again: still told once */
    struct told t = gone(h, 1);
    assert_int_equal(t.n, 2);
    assert_true((t.conn[0] == &c[0] && t.conn[1] == &c[2]) || (t.conn[0] == &c[2] && t.conn[1] == &c[0]));
    assert_int_equal(gone(h, 1).n, 0); /* and forgotten */
    assert_int_equal(gone(h, 9).n, 0); /* never heard */
    t = gone(h, 2);
    assert_int_equal(t.n, 1);
    assert_ptr_equal(t.conn[0], &c[1]);
    for (int i = 0; i < 3; i++) {
        assert_null(c[i].heard);
        assert_int_equal(c[i].n_heard, 0);
    }
    heard_free(h);
    free(c);
}

static void the_longest_not_renewed_goes_first(void **state)
{
    struct heard *h = heard_new(7);
    struct conn *c = conns_new(1);
    (void)state;
    for (uint32_t i = 0; i < HEARD_PER_CLIENT; i++)
        note(h, c, i);
    note(h, c, 0);                    /* renewed: 1 is the oldest now */
    note(h, c, HEARD_PER_CLIENT);     /* pushes 1 out */
    note(h, c, HEARD_PER_CLIENT + 1); /* pushes 2 out */
    assert_int_equal(c->n_heard, HEARD_PER_CLIENT);
    assert_int_equal(gone(h, 1).n, 0);
    assert_int_equal(gone(h, 2).n, 0);
    assert_int_equal(gone(h, 0).n, 1);
    assert_int_equal(gone(h, 3).n, 1);
    assert_int_equal(c->n_heard, HEARD_PER_CLIENT - 2);
    heard_drop(h, c);
    heard_free(h);
    free(c);
}

static void a_closed_client_is_not_told(void **state)
{
    struct heard *h = heard_new(7);
    struct conn *c = conns_new(2);
    (void)state;
    size_t empty = heard_bytes(h);
    for (uint32_t i = 0; i < 100; i++) {
        note(h, &c[0], i);
        note(h, &c[1], i);
    }
    heard_drop(h, &c[0]);
    assert_null(c[0].heard);
    assert_int_equal(c[0].n_heard, 0);
    for (uint32_t i = 0; i < 100; i++) {
        struct told t = gone(h, i);
        assert_int_equal(t.n, 1);
        assert_ptr_equal(t.conn[0], &c[1]);
    }
    assert_int_equal(heard_bytes(h), empty);
    heard_drop(h, &c[0]); /* nothing left: nothing happens */
    heard_free(h);
    free(c);
}

/* Two connections of one slot in turn: the generation tells them apart. */
static void memory_of_another_connection_is_not_confused(void **state)
{
    struct heard *h = heard_new(7);
    struct conn *c = conns_new(1);
    (void)state;
    note(h, c, 1);
    heard_drop(h, c);
    memset(c, 0, sizeof(*c));
    c->gen = 77;
    note(h, c, 2);
    assert_int_equal(gone(h, 1).n, 0);
    assert_int_equal(gone(h, 2).n, 1);
    heard_free(h);
    free(c);
}

/* Peers grow and shrink by the thousand: the table grows, nothing is lost, all memory comes back. */
static void it_grows(void **state)
{
    enum { CONNS = 64 };
    struct heard *h = heard_new(7);
    struct conn *c = conns_new(CONNS);
    (void)state;
    size_t empty = heard_bytes(h);
    for (uint32_t i = 0; i < CONNS; i++)
        for (uint32_t j = 0; j < HEARD_PER_CLIENT; j++)
            note(h, &c[i], i * 100 + j); /* neighbours share some */
    assert_true(heard_bytes(h) > empty + CONNS * HEARD_PER_CLIENT * sizeof(void *));
    size_t told = 0;
    for (uint32_t peer = 0; peer < CONNS * 100 + HEARD_PER_CLIENT; peer++)
        told += gone(h, peer).n;
    assert_int_equal(told, CONNS * HEARD_PER_CLIENT);
    for (int i = 0; i < CONNS; i++)
        assert_int_equal(c[i].n_heard, 0);
    heard_free(h);
    free(c);
}

/* ---- against a plain model ---- */

enum { M_CONNS = 8, M_PEERS = 600 };

/* By connection: peers, newest first. */
struct model {
    uint32_t peer[M_CONNS][HEARD_PER_CLIENT + 1];
    size_t n[M_CONNS];
};

static bool model_remove(struct model *m, int c, uint32_t peer)
{
    for (size_t i = 0; i < m->n[c]; i++) {
        if (m->peer[c][i] != peer)
            continue;
        m->n[c]--;
        memmove(&m->peer[c][i], &m->peer[c][i + 1], (m->n[c] - i) * sizeof(uint32_t));
        return true;
    }
    return false;
}

static void model_note(struct model *m, int c, uint32_t peer)
{
    model_remove(m, c, peer);
    memmove(&m->peer[c][1], &m->peer[c][0], m->n[c] * sizeof(uint32_t));
    m->peer[c][0] = peer;
    if (++m->n[c] > HEARD_PER_CLIENT)
        m->n[c] = HEARD_PER_CLIENT;
}

static void check_gone(struct heard *h, struct model *m, struct conn *c, uint32_t peer)
{
    struct told t = gone(h, peer);
    for (size_t i = 0; i < t.n; i++)
        assert_true(model_remove(m, (int)(t.conn[i] - c), peer));
    for (int i = 0; i < M_CONNS; i++)
        assert_false(model_remove(m, i, peer));
}

static void random_operations_agree_with_a_model(void **state)
{
    struct heard *h = heard_new(99);
    struct conn *c = conns_new(M_CONNS);
    struct model *m = calloc(1, sizeof(*m));
    (void)state;
    srand(1);
    for (int step = 0; step < 200000; step++) {
        int i = rand() % M_CONNS, what = rand() % 1000;
        uint32_t peer = (uint32_t)rand() % M_PEERS;
        if (what < 950) {
            note(h, &c[i], peer);
            model_note(m, i, peer);
        } else if (what < 999) {
            check_gone(h, m, c, peer);
        } else {
            heard_drop(h, &c[i]);
            m->n[i] = 0;
        }
        assert_int_equal(c[i].n_heard, m->n[i]);
    }
    for (uint32_t peer = 0; peer < M_PEERS; peer++)
        check_gone(h, m, c, peer);
    heard_free(h);
    free(c);
    free(m);
}

static void a_table_in_use_can_be_freed(void **state)
{
    struct heard *h = heard_new(7);
    struct conn *c = conns_new(2);
    (void)state;
    for (uint32_t i = 0; i < 200; i++)
        note(h, &c[i % 2], i);
    heard_free(h); /* the leak checker looks */
    heard_free(NULL);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gone_tells_exactly_those_that_heard),
        cmocka_unit_test(the_longest_not_renewed_goes_first),
        cmocka_unit_test(a_closed_client_is_not_told),
        cmocka_unit_test(memory_of_another_connection_is_not_confused),
        cmocka_unit_test(it_grows),
        cmocka_unit_test(random_operations_agree_with_a_model),
        cmocka_unit_test(a_table_in_use_can_be_freed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
