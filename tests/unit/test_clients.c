/* The registry of clients: first and last, who is active, homes; against a model under random events. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "node/clients.h"

static struct derp_key key(uint8_t n)
{
    struct derp_key k = {{n, 1}};
    return k;
}

static struct conn_ref ref(uint64_t gen)
{
    return (struct conn_ref){.gen = gen, .slot = (uint32_t)gen, .worker = (uint32_t)(gen & 1)};
}

static void first_and_last(void **state)
{
    (void)state;
    struct clients *c = clients_new(1);
    struct clients_change ch;
    struct clients_info info;
    struct derp_key k = key(1);
    struct conn_ref a = ref(10), b = ref(11);
    assert_int_equal(clients_up(c, &k, &a, false, &ch), 0);
    assert_true(ch.first && ch.active_changed && !ch.home_changed && ch.active.gen == 10);
    assert_int_equal(clients_up(c, &k, &a, false, &ch), 0); /* said twice: nothing */
    assert_false(ch.first || ch.active_changed || ch.home_changed || ch.last);
    assert_int_equal(clients_up(c, &k, &b, false, &ch), 0);
    assert_true(!ch.first && ch.active_changed && ch.active.gen == 11);
    assert_true(clients_get(c, &k, &info));
    assert_int_equal(info.connections, 2);
    clients_active(c, &k, &a, &ch);
    assert_true(ch.active_changed && ch.active.gen == 10);
    clients_active(c, &k, &a, &ch);
    assert_false(ch.active_changed);
    clients_down(c, &k, &a, &ch);
    assert_true(!ch.last && ch.active_changed && ch.active.gen == 11);
    clients_down(c, &k, &a, &ch); /* late */
    assert_false(ch.last || ch.active_changed);
    clients_down(c, &k, &b, &ch);
    assert_true(ch.last && !ch.active_changed);
    assert_false(clients_get(c, &k, &info));
    assert_int_equal(clients_keys(c) + clients_connections(c) + clients_homes(c), 0);
    clients_free(c);
}

static void the_passive_one_goes(void **state)
{
    (void)state;
    struct clients *c = clients_new(1);
    struct clients_change ch;
    struct derp_key k = key(1);
    struct conn_ref a = ref(10), b = ref(11);
    clients_up(c, &k, &a, false, &ch);
    clients_up(c, &k, &b, false, &ch);
    clients_down(c, &k, &a, &ch);
    assert_false(ch.last || ch.active_changed);
    clients_free(c);
}

static void home_is_any_connection(void **state)
{
    (void)state;
    struct clients *c = clients_new(1);
    struct clients_change ch;
    struct derp_key k = key(1);
    struct conn_ref a = ref(10), b = ref(11);
    clients_up(c, &k, &a, true, &ch);
    assert_true(ch.first && ch.home && ch.home_changed);
    clients_up(c, &k, &b, false, &ch);
    assert_true(ch.home && !ch.home_changed);
    clients_home(c, &k, &b, true, &ch);
    assert_false(ch.home_changed);
    clients_home(c, &k, &a, false, &ch);
    assert_false(ch.home_changed);
    clients_home(c, &k, &b, false, &ch);
    assert_true(ch.home_changed && !ch.home);
    clients_home(c, &k, &a, true, &ch);
    assert_true(ch.home_changed && ch.home);
    assert_int_equal(clients_homes(c), 1);
    clients_down(c, &k, &a, &ch); /* the one at home goes, the visitor stays */
    assert_true(ch.home_changed && !ch.home && !ch.last);
    assert_int_equal(clients_homes(c), 0);
    clients_free(c);
}

static void another_key_of_the_same_gen(void **state)
{
    (void)state;
    struct clients *c = clients_new(1);
    struct clients_change ch;
    struct derp_key k = key(1), other = key(2);
    struct conn_ref a = ref(10);
    clients_up(c, &k, &a, true, &ch);
    clients_down(c, &other, &a, &ch);
    assert_false(ch.last);
    clients_home(c, &other, &a, false, &ch);
    assert_false(ch.home_changed);
    assert_int_equal(clients_connections(c), 1);
    clients_free(c);
}

/* A model as plain as can be: connections in order of use. */
enum { MODEL_MAX = 64, KEYS = 5, STEPS = 20000 };
struct model_conn {
    uint64_t gen;
    uint8_t key;
    bool home;
};
struct model {
    struct model_conn v[MODEL_MAX];
    int n;
};

static int model_count(const struct model *m, uint8_t k, bool home)
{
    int n = 0;
    for (int i = 0; i < m->n; i++)
        n += m->v[i].key == k && (!home || m->v[i].home);
    return n;
}

static uint64_t model_active(const struct model *m, uint8_t k)
{
    uint64_t gen = 0;
    for (int i = 0; i < m->n; i++)
        if (m->v[i].key == k)
            gen = m->v[i].gen;
    return gen;
}

static void model_remove(struct model *m, int i)
{
    memmove(&m->v[i], &m->v[i + 1], sizeof(m->v[0]) * (size_t)(m->n - i - 1));
    m->n--;
}

static void step(struct clients *c, struct model *m, uint64_t gen, struct clients_change *ch, uint8_t *k)
{
    int what = m->n ? rand() % 4 : 0, i = m->n ? rand() % m->n : 0;
    struct model_conn picked = m->v[i];
    if (what == 0 && m->n < MODEL_MAX) {
        struct model_conn fresh = {.gen = gen, .key = (uint8_t)(rand() % KEYS), .home = rand() % 2};
        struct derp_key dk = key(fresh.key);
        struct conn_ref r = ref(gen);
        m->v[m->n++] = fresh;
        *k = fresh.key;
        assert_int_equal(clients_up(c, &dk, &r, fresh.home, ch), 0);
        return;
    }
    struct derp_key dk = key(picked.key);
    struct conn_ref r = ref(picked.gen);
    *k = picked.key;
    if (what == 1) {
        m->v[i].home = !picked.home;
        clients_home(c, &dk, &r, !picked.home, ch);
    } else if (what == 2) {
        model_remove(m, i);
        m->v[m->n++] = picked;
        clients_active(c, &dk, &r, ch);
    } else {
        model_remove(m, i);
        clients_down(c, &dk, &r, ch);
    }
}

static void like_the_model(void **state)
{
    (void)state;
    struct clients *c = clients_new(7);
    struct model m = {.n = 0};
    uint64_t gen = 1;
    srand(4711);
    for (int i = 0; i < STEPS; i++) {
        struct model before = m;
        struct clients_change ch;
        uint8_t k = 0;
        step(c, &m, gen++, &ch, &k);
        int was = model_count(&before, k, false), is = model_count(&m, k, false);
        bool home_was = model_count(&before, k, true) > 0, home_is = model_count(&m, k, true) > 0;
        assert_int_equal(ch.first, was == 0 && is > 0);
        assert_int_equal(ch.last, was > 0 && is == 0);
        assert_int_equal(ch.home_changed, home_was != home_is);
        assert_int_equal(ch.active_changed, is > 0 && model_active(&before, k) != model_active(&m, k));
        if (ch.active_changed)
            assert_int_equal(ch.active.gen, model_active(&m, k));
        assert_int_equal(clients_connections(c), m.n);
    }
    clients_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_and_last),         cmocka_unit_test(the_passive_one_goes),
        cmocka_unit_test(home_is_any_connection), cmocka_unit_test(another_key_of_the_same_gen),
        cmocka_unit_test(like_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
