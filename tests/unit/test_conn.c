/* The connection table: slots first in first out, generations never twice, stale names meet nobody; addresses as text. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <cmocka.h>

#include "node/conn.h"

enum { CONNS = 300 };

static void slots_are_reused_first_in_first_out(void **state)
{
    struct conn_table t;
    struct conn *c = calloc(CONNS, sizeof(*c));
    (void)state;
    assert_int_equal(conn_table_init(&t, 0), 0);
    for (uint32_t i = 0; i < CONNS; i++) {
        assert_int_equal(conn_add(&t, &c[i]), 0);
        assert_int_equal(c[i].slot, i);
    }
    const uint32_t order[] = {17, 3, 299, 0, 64, 63};
    for (size_t i = 0; i < 6; i++)
        conn_remove(&t, &c[order[i]]);
    assert_int_equal(t.n_conns, CONNS - 6);
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(conn_add(&t, &c[order[5 - i]]), 0);
        assert_int_equal(c[order[5 - i]].slot, order[i]); /* the slot that was free longest */
    }
    assert_int_equal(t.n_conns, CONNS);
    conn_table_deinit(&t);
    free(c);
}

static void a_generation_names_one_connection_for_ever(void **state)
{
    struct conn_table t;
    struct conn *c = calloc(CONNS, sizeof(*c));
    uint64_t last = 0;
    bool in[CONNS] = {false};
    struct {
        uint32_t slot;
        uint64_t gen;
    } gone[1000];
    size_t n_gone = 0;
    uint32_t n_in = 0;

    (void)state;
    srand(3);
    assert_int_equal(conn_table_init(&t, 5), 0);
    for (int step = 0; step < 100000; step++) {
        int i = rand() % CONNS;
        if (in[i]) {
            size_t at = n_gone < 1000 ? n_gone++ : (size_t)rand() % 1000;
            gone[at].slot = c[i].slot;
            gone[at].gen = c[i].gen;
            conn_remove(&t, &c[i]);
            n_in--;
        } else {
            assert_int_equal(conn_add(&t, &c[i]), 0);
            assert_true(c[i].gen > last); /* never used before */
            assert_int_equal(c[i].gen >> 48, 5);
            last = c[i].gen;
            assert_ptr_equal(conn_get(&t, c[i].slot, c[i].gen), &c[i]);
            n_in++;
        }
        in[i] = !in[i];
        assert_int_equal(t.n_conns, n_in);
        for (int k = 0; k < 5 && n_gone; k++) {
            size_t at = (size_t)rand() % n_gone;
            assert_null(conn_get(&t, gone[at].slot, gone[at].gen));
        }
        int other = rand() % CONNS;
        if (in[other])
            assert_ptr_equal(conn_get(&t, c[other].slot, c[other].gen), &c[other]);
    }
    assert_true(t.n_slots <= CONNS);
    conn_table_deinit(&t);
    free(c);
}

static void nobody_is_found_under_a_name_that_never_was(void **state)
{
    struct conn_table t;
    struct conn c = {.kind = CONN_CLIENT};
    (void)state;
    conn_table_init(&t, 1);
    assert_null(conn_get(&t, 0, 0));
    assert_null(conn_get(&t, 0xffffffff, 1));
    conn_add(&t, &c);
    assert_null(conn_get(&t, c.slot, c.gen + 1));
    assert_null(conn_get(&t, c.slot, 0));
    assert_null(conn_get(&t, c.slot + 1, c.gen));
    assert_ptr_equal(conn_get(&t, c.slot, c.gen), &c);
    conn_table_deinit(&t);
}

static void workers_never_share_a_generation(void **state)
{
    struct conn_table a, b;
    struct conn x = {.kind = CONN_CLIENT}, y = {.kind = CONN_CLIENT};
    (void)state;
    conn_table_init(&a, 0);
    conn_table_init(&b, 1);
    conn_add(&a, &x);
    conn_add(&b, &y);
    assert_true(x.gen != 0 && y.gen != 0); /* 0 is nobody */
    assert_true(x.gen != y.gen);
    assert_null(conn_get(&b, x.slot, x.gen));
    conn_table_deinit(&a);
    conn_table_deinit(&b);
}

static const char *text_of(char buf[static CONN_ADDR_TEXT], int family, const char *ip, uint16_t port)
{
    struct sockaddr_storage ss = {.ss_family = (sa_family_t)family};
    struct conn_addr a;
    if (family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)&ss;
        inet_pton(AF_INET, ip, &in->sin_addr);
        in->sin_port = htons(port);
    } else {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&ss;
        inet_pton(AF_INET6, ip, &in6->sin6_addr);
        in6->sin6_port = htons(port);
    }
    conn_addr_set(&a, (struct sockaddr *)&ss);
    return conn_addr_text(buf, &a);
}

static void an_address_reads_the_same_over_both_families(void **state)
{
    char buf[CONN_ADDR_TEXT];
    (void)state;
    assert_string_equal(text_of(buf, AF_INET, "192.0.2.7", 443), "192.0.2.7:443");
    assert_string_equal(text_of(buf, AF_INET6, "::ffff:192.0.2.7", 443), "192.0.2.7:443");
    assert_string_equal(text_of(buf, AF_INET6, "2001:db8::1", 65535), "[2001:db8::1]:65535");
    assert_string_equal(text_of(buf, AF_INET6, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535),
                        "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_are_reused_first_in_first_out),
        cmocka_unit_test(a_generation_names_one_connection_for_ever),
        cmocka_unit_test(nobody_is_found_under_a_name_that_never_was),
        cmocka_unit_test(workers_never_share_a_generation),
        cmocka_unit_test(an_address_reads_the_same_over_both_families),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
