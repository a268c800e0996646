/* Log lines: their form in text and JSON, that one event stays one line whatever is in it, limits per place. */
#include "node/log.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

static char caught[65536];

struct capture {
    FILE *file;
    int saved;
};

static void capture_start(struct capture *c)
{
    c->file = tmpfile();
    assert_non_null(c->file);
    c->saved = dup(STDERR_FILENO);
    dup2(fileno(c->file), STDERR_FILENO);
}

/* What was written to standard error since capture_start. */
static const char *capture_end(struct capture *c)
{
    dup2(c->saved, STDERR_FILENO);
    close(c->saved);
    rewind(c->file);
    caught[fread(caught, 1, sizeof(caught) - 1, c->file)] = 0;
    fclose(c->file);
    return caught;
}

static void text_without_time(enum log_level level)
{
    setenv("JOURNAL_STREAM", "8:1", 1);
    log_setup(level, LOG_TEXT);
    unsetenv("JOURNAL_STREAM");
}

static void test_text_line(void **state)
{
    struct capture c;

    (void)state;
    text_without_time(LOG_INFO);
    capture_start(&c);
    log_info("link", "up peer=%s rtt_ms=%d", "901/1", 12);
    log_debug("link", "not asked for");
    log_error("tls", "no certificate");
    assert_string_equal(capture_end(&c), "info link up peer=901/1 rtt_ms=12\nerror tls no certificate\n");
}

static void test_level(void **state)
{
    struct capture c;

    (void)state;
    text_without_time(LOG_WARN);
    assert_false(log_enabled(LOG_INFO));
    assert_true(log_enabled(LOG_WARN));
    capture_start(&c);
    log_info("a", "quiet");
    log_warn("a", "loud");
    assert_string_equal(capture_end(&c), "warn a loud\n");
}

static void test_time_outside_systemd(void **state)
{
    struct capture c;
    int y, mo, d, h, mi, s, ms, n = 0;

    (void)state;
    log_setup(LOG_INFO, LOG_TEXT);
    capture_start(&c);
    log_info("area", "message");
    const char *line = capture_end(&c);
    assert_int_equal(sscanf(line, "%d-%d-%dT%d:%d:%d.%3dZ%n", &y, &mo, &d, &h, &mi, &s, &ms, &n), 7);
    assert_string_equal(line + n, " info area message\n");
}

static void test_one_line_stays_one(void **state)
{
    struct capture c;

    (void)state;
    text_without_time(LOG_INFO);
    capture_start(&c);
    errno = ENOSPC;
    log_info("http", "path=%s", "a\nerror http forged\r\x1b[2J\xff\xc2\x9b\xe2\x80\xa8z");
    assert_int_equal(errno, ENOSPC);
    assert_string_equal(capture_end(&c), "info http path=a?error http forged??[2J??????z\n");
}

/* Nobody reads: the line is lost, its caller's errno is not. */
static void test_closed_standard_error(void **state)
{
    int saved = dup(STDERR_FILENO);

    (void)state;
    text_without_time(LOG_INFO);
    close(STDERR_FILENO);
    errno = ENOSPC;
    log_info("disk", "full");
    assert_int_equal(errno, ENOSPC);
    dup2(saved, STDERR_FILENO);
    close(saved);
}

static void test_long_message_is_cut(void **state)
{
    char *big = malloc(20001);
    struct capture c;

    (void)state;
    for (size_t i = 0; i < 20000; i += 2)
        memcpy(big + i, "\xc3\xa4", 2);
    big[20000] = 0;
    for (int odd = 0; odd < 2; odd++) {
        text_without_time(LOG_INFO);
        capture_start(&c);
        log_info("a", "%s%s", odd ? "x" : "", big);
        const char *line = capture_end(&c);
        size_t n = strlen(line);
        assert_true(n < 4096);
        assert_string_equal(line + n - 4, "…\n");
        assert_null(strchr(line, '?')); /* cut between characters */
    }
    free(big);
}

static json_t *json_line(const char *fmt, const char *arg)
{
    struct capture c;

    log_setup(LOG_INFO, LOG_JSON);
    capture_start(&c);
    log_line(LOG_WARN, "area", fmt, arg);
    const char *line = capture_end(&c);
    assert_true(strlen(line) <= 4096);
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
    json_t *j = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
    if (!j)
        fail_msg("no JSON: %s", line);
    return j;
}

static void is_member(const json_t *j, const char *key, const char *value)
{
    const char *found = json_string_value(json_object_get(j, key));

    assert_non_null(found);
    assert_string_equal(found, value);
}

static void test_json_line(void **state)
{
    char quoted[64];

    (void)state;
    log_quote(quoted, sizeof(quoted), "say \"hi\"\n\x01", 10);
    json_t *j = json_line("peer is down peer=901/1 why=%s n=3 level=up n=4 bare = x=", quoted);
    is_member(j, "level", "warn");
    is_member(j, "area", "area");
    is_member(j, "peer", "901/1");
    is_member(j, "why", "say \"hi\"\n\\x01");
    is_member(j, "n", "3");
    is_member(j, "x", "");
    /* No member twice: what is taken stays in the message. */
    is_member(j, "msg", "peer is down level=up n=4 bare =");
    assert_int_equal(json_object_size(j), 8);
    assert_non_null(json_object_get(j, "time"));
    json_decref(j);
}

/* Whatever the message is, a line is JSON. */
static void test_json_of_anything(void **state)
{
    static const char *const odd[] = {"",          "\"",       "a=\"",      "a=\"\\\"",    "a=\"\\",
                                      "a=\"x\" y", "a=\"b\"c", "\\ \\\\ =", "a==b =c d= ", "  two  blanks  "};
    char big[2000], hostile[512];

    (void)state;
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
        json_decref(json_line("%s", odd[i]));
    memset(big, '"', sizeof(big) - 1);
    big[sizeof(big) - 1] = 0;
    json_decref(json_line("%s", big)); /* each quote doubles */
    for (size_t i = 0; i + 4 < sizeof(big); i += 4)
        memcpy(big + i, "a=b ", 4);
    json_decref(json_line("%s", big));
    for (size_t i = 0; i + 4 < sizeof(big); i += 4) { /* more pairs than are taken apart */
        char pair[8];
        snprintf(pair, sizeof(pair), "%c%c= ", 'a' + (int)(i / 4 % 26), 'a' + (int)(i / 104 % 26));
        memcpy(big + i, pair, 4);
    }
    json_decref(json_line("%s", big));
    srand(1);
    for (int round = 0; round < 2000; round++) {
        static const char alphabet[] = "ab=\"\\ \n\xff\xc3\xa4.";
        size_t n = (size_t)rand() % (sizeof(hostile) - 1);
        for (size_t i = 0; i < n; i++)
            hostile[i] = alphabet[(size_t)rand() % (sizeof(alphabet) - 1)];
        hostile[n] = 0;
        json_decref(json_line("%s", hostile));
    }
}

static void quoted_as(const char *s, size_t n, const char *want)
{
    char buf[64];

    assert_string_equal(log_quote(buf, sizeof(buf), s, n), want);
}

static void test_quote(void **state)
{
    char buf[16];

    (void)state;
    quoted_as("plain", 5, "plain");
    quoted_as("Zürich", 7, "Zürich");
    quoted_as("", 0, "\"\"");
    quoted_as("two words", 9, "\"two words\"");
    quoted_as("a=b", 3, "\"a=b\"");
    quoted_as("a\"b", 3, "\"a\\\"b\"");
    quoted_as("a\\b", 3, "\"a\\\\b\"");
    quoted_as("a\0b\n", 4, "\"a\\x00b\\n\"");
    quoted_as("\xc3", 1, "\"\\xc3\"");
    quoted_as("\xed\xa0\x80", 3, "\"\\xed\\xa0\\x80\""); /* a surrogate */
    quoted_as("\xc0\xaf", 2, "\"\\xc0\\xaf\"");          /* overlong */
    /* Too long: cut with its quotes closed. */
    assert_string_equal(log_quote(buf, sizeof(buf), "0123456789abcdefghij", 20), "0123456789ab…");
    assert_string_equal(log_quote(buf, sizeof(buf), "01234 6789abcdefghij", 20), "\"01234 6789…\"");
    for (size_t room = 0; room <= 16; room++) {
        char *exact = malloc(room + 1); /* its end is watched by the sanitizer */
        log_quote(exact, room, "\x01\x02\x03\x04\x05\x06", 6);
        if (room)
            assert_true(strlen(exact) < room);
        free(exact);
    }
}

static void test_limit(void **state)
{
    struct log_limit l = {0};
    uint64_t held;

    (void)state;
    assert_true(log_limit_pass(&l, 3600000, &held));
    assert_int_equal(held, 0);
    for (int i = 0; i < 5; i++)
        assert_false(log_limit_pass(&l, 3600000, &held));
    assert_true(log_limit_pass(&l, 0, &held));
    assert_int_equal(held, 5);
    assert_true(log_limit_pass(&l, 0, &held));
    assert_int_equal(held, 0);
}

static void test_limited_lines(void **state)
{
    struct capture c;

    (void)state;
    text_without_time(LOG_INFO);
    capture_start(&c);
    for (int i = 0; i < 100; i++)
        log_limited(LOG_WARN, "flood", "again i=%d", i);
    assert_string_equal(capture_end(&c), "warn flood again i=0\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_line),
        cmocka_unit_test(test_level),
        cmocka_unit_test(test_time_outside_systemd),
        cmocka_unit_test(test_one_line_stays_one),
        cmocka_unit_test(test_closed_standard_error),
        cmocka_unit_test(test_long_message_is_cut),
        cmocka_unit_test(test_json_line),
        cmocka_unit_test(test_json_of_anything),
        cmocka_unit_test(test_quote),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_limited_lines),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
