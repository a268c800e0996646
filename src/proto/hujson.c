/* JSON with comments and trailing commas: a strict recursive-descent parser whose depth is capped.
 *
 * Happy path: hujson_parse checks size and UTF-8 once, then parse_value walks the text from left to right
 * and hangs each value, with its byte range, into the tree.  Nothing is read twice, so time is linear in
 * the text.
 * It fails at the first wrong byte, with that byte's line and column and what was expected there; what was
 * built so far is freed as a whole. */
#include "proto/hujson_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { NUMBER_MAX = 128 };

struct parser {
    const char *text;
    size_t n, pos;
    struct hujson_doc *doc;
    struct text_error *err;
};

struct hujson *hujson_new_value(struct hujson_doc *doc)
{
    if (doc->n_values++ >= HUJSON_MAX_VALUES)
        return NULL;
    return arena_alloc(&doc->arena, sizeof(struct hujson));
}

static int parse_value(struct parser *p, int depth, struct hujson *v);

static int fail_at(struct parser *p, size_t off, const char *what)
{
    int line, col;

    text_position(p->text, p->n, off, &line, &col);
    return text_fail(p->err, line, col, "%s", what);
}

/* What stands at pos, against what should: the commonest mistakes are named. */
static int fail_expected(struct parser *p, const char *expected)
{
    char q[TEXT_QUOTE_MAX], msg[160];
    size_t len = 0;

    if (p->pos >= p->n) {
        snprintf(msg, sizeof msg, "expected %s, but the file ends here", expected);
        return fail_at(p, p->n, msg);
    }
    len = text_utf8_length((const unsigned char *)p->text + p->pos, p->n - p->pos);
    snprintf(msg, sizeof msg, "expected %s, found %s%s", expected, text_quote(q, p->text + p->pos, len),
             p->text[p->pos] == '\'' ? " (strings take double quotes)" : "");
    return fail_at(p, p->pos, msg);
}

static int fail_memory(struct parser *p)
{
    if (p->doc->n_values > HUJSON_MAX_VALUES)
        return fail_at(p, p->pos, "too many values in this file");
    return text_fail(p->err, 0, 0, "out of memory");
}

static int skip_comment(struct parser *p)
{
    const char *rest = p->text + p->pos + 2, *end = p->text + p->n;
    char kind = p->pos + 1 < p->n ? p->text[p->pos + 1] : 0;

    if (kind == '/') {
        const char *nl = memchr(rest, '\n', (size_t)(end - rest));
        p->pos = nl ? (size_t)(nl - p->text) + 1 : p->n;
        return 0;
    }
    if (kind == '*') {
        const char *close = memmem(rest, (size_t)(end - rest), "*/", 2);
        if (!close)
            return fail_at(p, p->pos, "this comment never ends: */ is missing");
        p->pos = (size_t)(close - p->text) + 2;
        return 0;
    }
    return fail_at(p, p->pos, "a lone / (comments are // or /* */)");
}

static int skip_space(struct parser *p)
{
    while (p->pos < p->n) {
        char c = p->text[p->pos];
        if (c == '/') {
            if (skip_comment(p) < 0)
                return -1;
        } else if (c == ' ' || c == '\t' || c == '\n' || c == '\r')
            p->pos++;
        else
            break;
    }
    return 0;
}

static int hex4(struct parser *p, size_t off, unsigned *out)
{
    unsigned v = 0;

    for (size_t i = off; i < off + 4; i++) {
        char c = i < p->n ? p->text[i] : 0;
        if (c >= '0' && c <= '9')
            v = v << 4 | (unsigned)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            v = v << 4 | (unsigned)((c | 32) - 'a' + 10);
        else
            return fail_at(p, off - 2, "\\u needs four hex digits");
    }
    *out = v;
    return 0;
}

static char *put_utf8(char *w, unsigned c)
{
    if (c < 0x80)
        *w++ = (char)c;
    else if (c < 0x800) {
        *w++ = (char)(0xc0 | c >> 6);
        *w++ = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *w++ = (char)(0xe0 | c >> 12);
        *w++ = (char)(0x80 | (c >> 6 & 63));
        *w++ = (char)(0x80 | (c & 63));
    } else {
        *w++ = (char)(0xf0 | c >> 18);
        *w++ = (char)(0x80 | (c >> 12 & 63));
        *w++ = (char)(0x80 | (c >> 6 & 63));
        *w++ = (char)(0x80 | (c & 63));
    }
    return w;
}

/* At the u of \uXXXX; reads the second half of a surrogate pair too. */
static int parse_unicode(struct parser *p, char **w)
{
    size_t start = p->pos - 1;
    unsigned c, low;

    if (hex4(p, p->pos + 1, &c) < 0)
        return -1;
    p->pos += 5;
    if (c == 0)
        return fail_at(p, start, "\\u0000 is not allowed");
    if (c >= 0xdc00 && c <= 0xdfff)
        return fail_at(p, start, "half of a surrogate pair");
    if (c >= 0xd800 && c <= 0xdbff) {
        if (p->n - p->pos < 6 || p->text[p->pos] != '\\' || p->text[p->pos + 1] != 'u')
            return fail_at(p, start, "half of a surrogate pair");
        if (hex4(p, p->pos + 2, &low) < 0)
            return -1;
        if (low < 0xdc00 || low > 0xdfff)
            return fail_at(p, start, "half of a surrogate pair");
        p->pos += 6;
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    *w = put_utf8(*w, c);
    return 0;
}

static int parse_escape(struct parser *p, char **w)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = ++p->pos < p->n ? p->text[p->pos] : 0;
    const char *at = c ? strchr(from, c) : NULL;

    if (c == 'u')
        return parse_unicode(p, w);
    if (!at)
        return fail_at(p, p->pos - 1, "unknown escape in a string");
    *(*w)++ = to[at - from];
    p->pos++;
    return 0;
}

/* At the opening quote. */
static int parse_string(struct parser *p, const char **out)
{
    size_t start = p->pos, end = start + 1;

    /* The raw length bounds the decoded one. */
    while (end < p->n && p->text[end] != '"') {
        if ((unsigned char)p->text[end] < 0x20)
            return fail_at(p, end,
                           p->text[end] == '\n' ? "this string has no closing quote on its line"
                                                : "control character in a string");
        end += p->text[end] == '\\' ? 2 : 1;
    }
    if (end >= p->n)
        return fail_at(p, start, "this string has no closing quote");
    char *w = arena_alloc(&p->doc->arena, end - start);
    if (!w)
        return fail_memory(p);
    *out = w;
    p->pos++;
    while (p->pos < end) {
        if (p->text[p->pos] != '\\')
            *w++ = p->text[p->pos++];
        else if (parse_escape(p, &w) < 0)
            return -1;
    }
    p->pos = end + 1;
    return 0;
}

static size_t digits(const struct parser *p, size_t i)
{
    while (i < p->n && p->text[i] >= '0' && p->text[i] <= '9')
        i++;
    return i;
}

static int parse_number(struct parser *p, struct hujson *v)
{
    char copy[NUMBER_MAX + 1];
    size_t i = p->pos + (p->text[p->pos] == '-'), start;

    start = i;
    i = digits(p, i);
    if (i == start || (p->text[start] == '0' && i > start + 1))
        return fail_at(p, p->pos, "malformed number");
    if (i < p->n && p->text[i] == '.') {
        start = ++i;
        if ((i = digits(p, i)) == start)
            return fail_at(p, p->pos, "malformed number");
    }
    if (i < p->n && (p->text[i] | 32) == 'e') {
        i++;
        if (i < p->n && (p->text[i] == '+' || p->text[i] == '-'))
            i++;
        start = i;
        if ((i = digits(p, i)) == start)
            return fail_at(p, p->pos, "malformed number");
    }
    if (i - p->pos > NUMBER_MAX)
        return fail_at(p, p->pos, "a number this long is not read");
    memcpy(copy, p->text + p->pos, i - p->pos);
    copy[i - p->pos] = 0;
    v->type = HUJSON_NUMBER;
    v->num = strtod(copy, NULL);
    p->pos = i;
    return 0;
}

static int parse_word(struct parser *p, struct hujson *v)
{
    static const struct {
        const char *word;
        enum hujson_type type;
        bool boolean;
    } words[] = {{"true", HUJSON_BOOL, true}, {"false", HUJSON_BOOL, false}, {"null", HUJSON_NULL, false}};

    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t len = strlen(words[i].word);
        if (p->n - p->pos >= len && memcmp(p->text + p->pos, words[i].word, len) == 0) {
            v->type = words[i].type;
            v->boolean = words[i].boolean;
            p->pos += len;
            return 0;
        }
    }
    return fail_expected(p, "a value");
}

/* At the comma or the closing bracket after an element: 1 to go on, 0 at the end (pos behind it). */
static int parse_separator(struct parser *p, char close)
{
    if (skip_space(p) < 0)
        return -1;
    bool comma = p->pos < p->n && p->text[p->pos] == ',';
    if (comma) {
        p->pos++;
        if (skip_space(p) < 0)
            return -1;
    }
    if (p->pos < p->n && p->text[p->pos] == close) {
        p->pos++;
        return 0;
    }
    if (!comma)
        return fail_expected(p, close == '}' ? "a comma or }" : "a comma or ]");
    return 1;
}

static int parse_name(struct parser *p, struct hujson *v)
{
    v->name_start = p->pos;
    if (p->pos >= p->n || p->text[p->pos] != '"')
        return fail_expected(p, "a name in double quotes");
    if (parse_string(p, &v->name) < 0 || skip_space(p) < 0)
        return -1;
    if (p->pos >= p->n || p->text[p->pos] != ':')
        return fail_expected(p, "a colon");
    p->pos++;
    return skip_space(p);
}

/* At the opening bracket of an array or object. */
static int parse_list(struct parser *p, int depth, struct hujson *v)
{
    char close = p->text[p->pos] == '{' ? '}' : ']';
    struct hujson **tail = &v->child;
    int more = 1;

    v->type = close == '}' ? HUJSON_OBJECT : HUJSON_ARRAY;
    if (depth >= HUJSON_MAX_DEPTH)
        return fail_at(p, p->pos, "nested too deeply");
    p->pos++;
    if (skip_space(p) < 0)
        return -1;
    if (p->pos < p->n && p->text[p->pos] == close) {
        p->pos++;
        return 0;
    }
    while (more > 0) {
        struct hujson *child = hujson_new_value(p->doc);
        if (!child)
            return fail_memory(p);
        if ((close == '}' && parse_name(p, child) < 0) || parse_value(p, depth + 1, child) < 0)
            return -1;
        *tail = child;
        tail = &child->next;
        more = parse_separator(p, close);
    }
    return more;
}

static int parse_value(struct parser *p, int depth, struct hujson *v)
{
    int rc;

    if (p->pos >= p->n)
        return fail_expected(p, "a value");
    char c = p->text[p->pos];
    v->start = p->pos;
    if (c == '{' || c == '[')
        rc = parse_list(p, depth, v);
    else if (c == '"') {
        v->type = HUJSON_STRING;
        rc = parse_string(p, &v->str);
    } else if (c == '-' || (c >= '0' && c <= '9'))
        rc = parse_number(p, v);
    else
        rc = parse_word(p, v);
    v->end = p->pos;
    return rc;
}

static int parse_document(struct parser *p)
{
    size_t valid;

    if (p->n > HUJSON_MAX_TEXT)
        return text_fail(p->err, 0, 0, "larger than %d MiB", HUJSON_MAX_TEXT >> 20);
    valid = text_utf8_end(p->text, p->n);
    if (valid < p->n)
        return fail_at(p, valid, "not UTF-8");
    p->doc->root = hujson_new_value(p->doc);
    if (!p->doc->root)
        return fail_memory(p);
    if (skip_space(p) < 0 || parse_value(p, 0, p->doc->root) < 0 || skip_space(p) < 0)
        return -1;
    if (p->pos < p->n)
        return fail_expected(p, "the end of the file");
    return 0;
}

struct hujson_doc *hujson_parse(const char *text, size_t n, struct text_error *err)
{
    struct parser p = {.text = text, .n = n, .err = err};

    p.doc = calloc(1, sizeof *p.doc);
    if (!p.doc) {
        text_fail(err, 0, 0, "out of memory");
        return NULL;
    }
    if (parse_document(&p) < 0) {
        hujson_free(p.doc);
        return NULL;
    }
    return p.doc;
}

void hujson_free(struct hujson_doc *doc)
{
    if (doc)
        arena_free(&doc->arena);
    free(doc);
}

const struct hujson *hujson_root(const struct hujson_doc *doc)
{
    return doc->root;
}

const struct hujson *hujson_get(const struct hujson *obj, const char *name)
{
    const struct hujson *exact = NULL, *folded = NULL;

    if (!obj || obj->type != HUJSON_OBJECT)
        return NULL;
    /* Of equal names the last wins, as in Go. */
    for (const struct hujson *m = obj->child; m; m = m->next) {
        if (strcmp(m->name, name) == 0)
            exact = m;
        else if (strcasecmp(m->name, name) == 0)
            folded = m;
    }
    return exact ? exact : folded;
}
