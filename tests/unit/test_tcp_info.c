/* What the kernel says of a connection: bytes acknowledged, congestion control. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "node/tcp_info.h"

static void connected(int pair[2])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int l = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(l, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(l, 1), 0);
    assert_int_equal(getsockname(l, (struct sockaddr *)&at, &len), 0);
    pair[0] = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(pair[0], (struct sockaddr *)&at, sizeof(at)), 0);
    pair[1] = accept(l, NULL, NULL);
    assert_true(pair[1] >= 0);
    close(l);
}

static void acknowledged_bytes_are_seen(void **state)
{
    int pair[2];
    char bytes[5000] = {0}, in[5000];
    struct tcp_progress before, after;
    (void)state;
    connected(pair);
    assert_int_equal(tcp_progress(pair[0], &before), 0);
    assert_true(before.all);
    assert_int_equal(write(pair[0], bytes, sizeof(bytes)), sizeof(bytes));
    for (size_t got = 0; got < sizeof(bytes);)
        got += (size_t)read(pair[1], in, sizeof(in));
    for (int i = 0; i < 1000; i++) { /* the acknowledgement may be delayed */
        assert_int_equal(tcp_progress(pair[0], &after), 0);
        if (after.all)
            break;
        usleep(1000);
    }
    assert_true(after.all);
    assert_int_equal(after.acked - before.acked, sizeof(bytes));
    close(pair[0]);
    close(pair[1]);
    assert_int_equal(tcp_progress(-1, &after), -1);
}

static void congestion_control_is_asked_for(void **state)
{
    int pair[2];
    char in_force[TCP_CC_NAME], again[TCP_CC_NAME];
    (void)state;
    connected(pair);
    assert_false(tcp_use(pair[0], "no-such-thing"));
    assert_true(tcp_use(pair[0], "reno")); /* every kernel has it */
    assert_false(tcp_can_use("no-such-thing", in_force));
    assert_true(strlen(in_force) > 0 && strlen(in_force) < sizeof(in_force));
    assert_true(tcp_can_use(in_force, again));
    assert_string_equal(in_force, again);
    close(pair[0]);
    close(pair[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acknowledged_bytes_are_seen),
        cmocka_unit_test(congestion_control_is_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
