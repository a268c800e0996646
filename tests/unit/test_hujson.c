/* HuJSON: what is read, where it stands, and what is refused where. */
#include "proto/hujson.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct hujson_doc *parse(const char *text)
{
    struct text_error err = {0};
    struct hujson_doc *doc = hujson_parse(text, strlen(text), &err);

    if (!doc)
        print_error("%d:%d: %s\n", err.line, err.col, err.msg);
    assert_non_null(doc);
    return doc;
}

static void test_comments_and_commas(void **state)
{
    (void)state;
    static const char text[] =
        "// first\n{ /* a, */ \"b\": [1, 2,], \"s\": \"x\\u00e9\\ud83d\\ude00\\n\", // c\n}\n/* end */";
    struct hujson_doc *doc = parse(text);
    const struct hujson *b = hujson_get(hujson_root(doc), "b"), *s = hujson_get(hujson_root(doc), "s");

    assert_int_equal(b->type, HUJSON_ARRAY);
    assert_true(b->child->num == 1 && b->child->next->num == 2);
    assert_null(b->child->next->next);
    assert_string_equal(s->str, "x\xc3\xa9\xf0\x9f\x98\x80\n");
    hujson_free(doc);
}

static void test_positions(void **state)
{
    (void)state;
    static const char text[] = "{\n  \"a\": [ true ],\n  \"b\": -1.5e2}";
    struct hujson_doc *doc = parse(text);
    const struct hujson *a = hujson_get(hujson_root(doc), "a"), *b = hujson_get(hujson_root(doc), "b");
    int line, col;

    assert_int_equal(text[a->name_start], '"');
    assert_memory_equal(text + a->start, "[ true ]", a->end - a->start);
    assert_int_equal(a->end - a->start, 8);
    assert_memory_equal(text + a->child->start, "true", 4);
    assert_int_equal(b->end - b->start, 6);
    assert_true(b->num == -150);
    text_position(text, strlen(text), b->start, &line, &col);
    assert_int_equal(line, 3);
    assert_int_equal(col, 8);
    text_position(text, strlen(text), 1000, &line, &col);
    assert_int_equal(line, 3);
    assert_int_equal(hujson_root(doc)->end, strlen(text));
    hujson_free(doc);
}

static void test_member_lookup(void **state)
{
    (void)state;
    struct hujson_doc *doc = parse("{\"Name\":1,\"NAME\":2,\"name\":3,\"x\":4,\"x\":5,\"Y\":6}");
    const struct hujson *root = hujson_root(doc);

    assert_true(hujson_get(root, "Name")->num == 1);
    assert_true(hujson_get(root, "NaMe")->num == 3);
    assert_true(hujson_get(root, "x")->num == 5);
    assert_true(hujson_get(root, "y")->num == 6);
    assert_null(hujson_get(root, "z"));
    assert_null(hujson_get(root->child, "z"));
    assert_null(hujson_get(NULL, "z"));
    hujson_free(doc);
}

static const struct {
    const char *text;
    int line, col;
    const char *says;
} refused[] = {
    {"", 1, 1, "file ends here"},
    {" // only a comment", 1, 19, "file ends here"},
    {"{", 1, 2, "file ends here"},
    {"{\"a\"", 1, 5, "expected a colon"},
    {"{\"a\":", 1, 6, "file ends here"},
    {"{\"a\":1 \"b\":2}", 1, 8, "a comma or }"},
    {"[1 2]", 1, 4, "a comma or ]"},
    {"[,]", 1, 2, "expected a value"},
    {"[1,,]", 1, 4, "expected a value"},
    {"{,}", 1, 2, "a name in double quotes"},
    {"{a: 1}", 1, 2, "a name in double quotes"},
    {"{'a': 1}", 1, 2, "double quotes"},
    {"['a']", 1, 2, "double quotes"},
    {"[True]", 1, 2, "expected a value"},
    {"[NaN]", 1, 2, "expected a value"},
    {"[01]", 1, 2, "malformed number"},
    {"[1.]", 1, 2, "malformed number"},
    {"[.5]", 1, 2, "expected a value"},
    {"[-]", 1, 2, "malformed number"},
    {"[1e]", 1, 2, "malformed number"},
    {"[+1]", 1, 2, "expected a value"},
    {"{} x", 1, 4, "the end of the file"},
    {"[\n\n \"a\nb\"]", 3, 4, "no closing quote on its line"},
    {"[\"a", 1, 2, "no closing quote"},
    {"[\"a\\", 1, 2, "no closing quote"},
    {"[\"\\x\"]", 1, 3, "unknown escape"},
    {"[\"\\u12g4\"]", 1, 3, "four hex digits"},
    {"[\"\\u12\"]", 1, 3, "four hex digits"},
    {"[\"\\u0000\"]", 1, 3, "\\u0000"},
    {"[\"\\ud800\"]", 1, 3, "surrogate"},
    {"[\"\\ud800\\u0041\"]", 1, 3, "surrogate"},
    {"[\"\\udc00\"]", 1, 3, "surrogate"},
    {"[\"\\ud800\\\"", 1, 2, "no closing quote"},
    {"[\"\t\"]", 1, 3, "control character"},
    {"[1] /* x", 1, 5, "comment never ends"},
    {"[1] / 2", 1, 5, "a lone /"},
    {"[1] /", 1, 5, "a lone /"},
    {"/*/ [1]", 1, 1, "comment never ends"},
    {"[\"\xff\"]", 1, 3, "not UTF-8"},
    {"[\"\xc0\x80\"]", 1, 3, "not UTF-8"},
    {"[\"\xed\xa0\x80\"]", 1, 3, "not UTF-8"},
    {"[\"\xf4\x90\x80\x80\"]", 1, 3, "not UTF-8"},
    {"[\"\xe2\x82", 1, 3, "not UTF-8"},
    {"[] // \xe0\x80\x80", 1, 7, "not UTF-8"},
    {"[] # x", 1, 4, "the end of the file"},
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct text_error err = {0};
        /* On the heap at its exact size, so that a sanitizer sees any read past the end. */
        size_t n = strlen(refused[i].text);
        char *copy = malloc(n + 1);
        memcpy(copy, refused[i].text, n);
        char *exact = realloc(copy, n ? n : 1);
        struct hujson_doc *doc = hujson_parse(exact, n, &err);
        if (doc || err.line != refused[i].line || err.col != refused[i].col ||
            !strstr(err.msg, refused[i].says))
            fail_msg("%s: %d:%d: %s", refused[i].text, err.line, err.col, doc ? "accepted" : err.msg);
        free(exact);
    }
}

static char *repeat(const char *unit, int times, const char *tail)
{
    size_t n = strlen(unit);
    char *s = malloc(n * (size_t)times + strlen(tail) + 1);

    for (int i = 0; i < times; i++)
        memcpy(s + n * (size_t)i, unit, n);
    strcpy(s + n * (size_t)times, tail);
    return s;
}

static void test_depth(void **state)
{
    (void)state;
    struct text_error err;
    char closing[40] = "", *s;

    memset(closing, ']', 32);
    s = repeat("[", 32, closing);
    hujson_free(parse(s));
    free(s);
    s = repeat("[", 33, "");
    assert_null(hujson_parse(s, strlen(s), &err));
    assert_int_equal(err.col, 33);
    assert_non_null(strstr(err.msg, "nested too deeply"));
    free(s);
    s = repeat("{\"a\":", 1000000, "");
    assert_null(hujson_parse(s, 4 << 20, &err));
    assert_non_null(strstr(err.msg, "nested too deeply"));
    free(s);
}

static void test_size(void **state)
{
    (void)state;
    struct text_error err;
    char *s = repeat(" ", 4 << 20, "1");

    assert_null(hujson_parse(s, strlen(s), &err));
    assert_string_equal(err.msg, "larger than 4 MiB");
    s[(4 << 20) - 1] = '1';
    struct hujson_doc *doc = hujson_parse(s, 4 << 20, &err);
    assert_non_null(doc);
    hujson_free(doc);
    free(s);
    s = repeat("[],", 1 << 20, "");
    s[0] = '[', s[1] = '1';
    assert_null(hujson_parse(s, strlen(s), &err));
    assert_string_equal(err.msg, "too many values in this file");
    free(s);
}

static void test_messages_are_printable(void **state)
{
    (void)state;
    struct text_error err;
    static const char text[] = "[\x1b]";

    assert_null(hujson_parse(text, sizeof text - 1, &err));
    assert_null(strchr(err.msg, '\x1b'));
    assert_non_null(strstr(err.msg, "found \"?\""));
}

static void test_numbers(void **state)
{
    (void)state;
    static const char text[] = "[0, -0, 12, 0.5, 1e3, 1E+2, 25e-1, 1e999]";
    static const double want[] = {0, 0, 12, 0.5, 1000, 100, 2.5};
    struct hujson_doc *doc = parse(text);
    const struct hujson *v = hujson_root(doc)->child;

    for (size_t i = 0; i < sizeof want / sizeof *want; i++, v = v->next)
        assert_true(v->num == want[i]);
    hujson_free(doc);
    struct text_error err;
    char *s = repeat("1", 200, "");
    assert_null(hujson_parse(s, strlen(s), &err));
    assert_non_null(strstr(err.msg, "a number this long"));
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comments_and_commas),
        cmocka_unit_test(test_positions),
        cmocka_unit_test(test_member_lookup),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_messages_are_printable),
        cmocka_unit_test(test_numbers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
