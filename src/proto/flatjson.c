/* A JSON object, member by member, without memory of its own.
 *
 * Happy path: flat_open steps over '{'; each flat_next decodes one name, checks the value's grammar and
 * hands it out as a view; the accessors read the view.  Failure: -1 at the first byte that does not
 * fit, also for values that nobody asks for, so that a text is either JSON in whole or refused. */
#include "proto/flatjson.h"

#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

struct cursor {
    const char *p, *end;
};

static void skip_blank(struct cursor *c)
{
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\t' || *c->p == '\n' || *c->p == '\r'))
        c->p++;
}

static bool take(struct cursor *c, char ch)
{
    if (c->p == c->end || *c->p != ch)
        return false;
    c->p++;
    return true;
}

static bool is_digit(char ch)
{
    return ch >= '0' && ch <= '9';
}

static int hex_digit(char ch)
{
    if (is_digit(ch))
        return ch - '0';
    if (ch >= 'a' && ch <= 'f')
        return ch - 'a' + 10;
    if (ch >= 'A' && ch <= 'F')
        return ch - 'A' + 10;
    return -1;
}

/* After a backslash: the character meant, '?' for NUL and what is beyond ASCII, -1 if it is no escape. */
static int read_escape(struct cursor *c)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *at;
    int v = 0;

    if (c->p == c->end)
        return -1;
    if (*c->p != 'u') {
        at = memchr(from, *c->p, sizeof from - 1);
        c->p++;
        return at ? to[at - from] : -1;
    }
    if (c->end - c->p < 5)
        return -1;
    for (int i = 1; i <= 4; i++) {
        int d = hex_digit(c->p[i]);
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    c->p += 5;
    return v > 0 && v < 0x80 ? v : '?'; /* a NUL must not end a name early */
}

/* A string with its quotes.  Its decoded length, or -1; out gets the first cap - 1 bytes and a NUL. */
static long read_string(struct cursor *c, char *out, size_t cap)
{
    size_t n = 0;

    if (!take(c, '"'))
        return -1;
    while (c->p < c->end) {
        int ch = (unsigned char)*c->p++;
        if (ch == '"') {
            if (cap > 0)
                out[n < cap ? n : cap - 1] = 0;
            return (long)n;
        }
        if (ch < 0x20)
            return -1;
        if (ch == '\\' && (ch = read_escape(c)) < 0)
            return -1;
        if (n + 1 < cap)
            out[n] = (char)ch;
        n++;
    }
    return -1;
}

static int skip_digits(struct cursor *c)
{
    if (c->p == c->end || !is_digit(*c->p))
        return -1;
    while (c->p < c->end && is_digit(*c->p))
        c->p++;
    return 0;
}

static int skip_number(struct cursor *c)
{
    take(c, '-');
    if (!take(c, '0') && skip_digits(c) < 0)
        return -1;
    if (take(c, '.') && skip_digits(c) < 0)
        return -1;
    if (take(c, 'e') || take(c, 'E')) {
        if (!take(c, '+'))
            take(c, '-');
        return skip_digits(c);
    }
    return 0;
}

static int skip_word(struct cursor *c, const char *word)
{
    size_t n = strlen(word);

    if ((size_t)(c->end - c->p) < n || memcmp(c->p, word, n) != 0)
        return -1;
    c->p += n;
    return 0;
}

/* A value that is neither array nor object. */
static int skip_scalar(struct cursor *c, enum flat_type *type)
{
    switch (*c->p) {
    case '"':
        *type = FLAT_STRING;
        return read_string(c, NULL, 0) < 0 ? -1 : 0;
    case 't':
        *type = FLAT_BOOL;
        return skip_word(c, "true");
    case 'f':
        *type = FLAT_BOOL;
        return skip_word(c, "false");
    case 'n':
        *type = FLAT_NULL;
        return skip_word(c, "null");
    default:
        *type = FLAT_NUMBER;
        return skip_number(c);
    }
}

/* A member's name and colon. */
static int skip_name(struct cursor *c)
{
    skip_blank(c);
    if (read_string(c, NULL, 0) < 0)
        return -1;
    skip_blank(c);
    return take(c, ':') ? 0 : -1;
}

/* After a value inside containers: closes what ends here, or steps over the comma to the next value.
 * is_object holds one bit a level, the innermost lowest. */
static int after_value(struct cursor *c, uint32_t *is_object, int *depth)
{
    while (*depth > 0) {
        skip_blank(c);
        if (take(c, ','))
            return *is_object & 1 ? skip_name(c) : 0;
        if (!take(c, *is_object & 1 ? '}' : ']'))
            return -1;
        *is_object >>= 1;
        --*depth;
    }
    return 0;
}

/* Steps over one value of any kind, without recursion. */
static int skip_value(struct cursor *c, enum flat_type *type)
{
    uint32_t is_object = 0;
    int depth = 0;
    enum flat_type inner, *t = type;

    do {
        skip_blank(c);
        if (c->p == c->end)
            return -1;
        if (*c->p != '{' && *c->p != '[') {
            if (skip_scalar(c, t) < 0)
                return -1;
        } else {
            bool object = *c->p++ == '{';
            /* The object around the whole text is the first level. */
            if (++depth >= FLAT_DEPTH_MAX)
                return -1;
            is_object = is_object << 1 | object;
            *t = object ? FLAT_OBJECT : FLAT_ARRAY;
            t = &inner;
            skip_blank(c);
            if (c->p < c->end && *c->p != (object ? '}' : ']')) {
                if (object && skip_name(c) < 0)
                    return -1;
                continue;
            }
        }
        t = &inner;
        if (after_value(c, &is_object, &depth) < 0)
            return -1;
    } while (depth > 0);
    return 0;
}

int flat_open(struct flat_reader *r, const char *text, size_t n)
{
    struct cursor c = {text, text + n};

    skip_blank(&c);
    if (!take(&c, '{'))
        return -1;
    *r = (struct flat_reader){.p = c.p, .end = c.end, .first = true};
    return 0;
}

int flat_next(struct flat_reader *r, struct flat_member *m)
{
    struct cursor c = {r->p, r->end};
    long n;

    skip_blank(&c);
    if (take(&c, '}')) {
        skip_blank(&c);
        return c.p == c.end ? 0 : -1;
    }
    if (!r->first && !take(&c, ','))
        return -1;
    skip_blank(&c);
    n = read_string(&c, m->name, sizeof m->name);
    if (n < 0)
        return -1;
    if ((size_t)n >= sizeof m->name)
        m->name[0] = 0;
    skip_blank(&c);
    if (!take(&c, ':'))
        return -1;
    skip_blank(&c);
    m->raw = c.p;
    if (skip_value(&c, &m->type) < 0)
        return -1;
    m->raw_len = (size_t)(c.p - m->raw);
    r->p = c.p;
    r->first = false;
    return 1;
}

bool flat_named(const struct flat_member *m, const char *name)
{
    return strcasecmp(m->name, name) == 0;
}

long flat_string(const struct flat_member *m, char *out, size_t cap)
{
    struct cursor c = {m->raw, m->raw + m->raw_len};

    return m->type == FLAT_STRING ? read_string(&c, out, cap) : -1;
}

int flat_int(const struct flat_member *m, int *out)
{
    bool negative = m->raw_len > 0 && m->raw[0] == '-';
    long long v = 0;

    if (m->type != FLAT_NUMBER)
        return -1;
    for (size_t i = negative; i < m->raw_len; i++) {
        if (!is_digit(m->raw[i]))
            return -1;
        if (v <= INT_MAX)
            v = v * 10 + (m->raw[i] - '0');
    }
    if (v > INT_MAX)
        v = INT_MAX;
    *out = (int)(negative ? -v : v);
    return 0;
}

int flat_bool(const struct flat_member *m, bool *out)
{
    if (m->type != FLAT_BOOL)
        return -1;
    *out = m->raw[0] == 't';
    return 0;
}
