/* The ground that the text readers stand on: an arena, UTF-8, positions, and messages for people.
 *
 * Happy path: a reader takes everything from one arena and frees it at once.  Allocation fails with NULL;
 * nothing else here fails. */
#include "proto/hujson_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ARENA_FIRST = 4096, ARENA_LARGEST = 1 << 20 };

struct arena_block {
    struct arena_block *before;
    size_t used, size;
    _Alignas(16) char bytes[];
};

void *arena_alloc(struct text_arena *a, size_t n)
{
    struct arena_block *b = a->last;

    n = (n + 15) & ~(size_t)15;
    if (!b || b->size - b->used < n) {
        size_t size = b ? b->size * 2 : ARENA_FIRST;
        if (size > ARENA_LARGEST)
            size = ARENA_LARGEST;
        if (size < n)
            size = n;
        b = calloc(1, sizeof *b + size);
        if (!b)
            return NULL;
        b->size = size;
        b->before = a->last;
        a->last = b;
    }
    void *p = b->bytes + b->used;
    b->used += n;
    return p;
}

char *arena_text(struct text_arena *a, const char *s, size_t n)
{
    char *p = arena_alloc(a, n + 1);

    if (p && n)
        memcpy(p, s, n);
    return p;
}

void arena_free(struct text_arena *a)
{
    while (a->last) {
        struct arena_block *before = a->last->before;
        free(a->last);
        a->last = before;
    }
}

int text_fail(struct text_error *err, int line, int col, const char *fmt, ...)
{
    va_list ap;

    err->line = line;
    err->col = col;
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    return -1;
}

const char *text_quote(char out[static TEXT_QUOTE_MAX], const char *s, size_t n)
{
    size_t w = 0, i = 0;

    out[w++] = '"';
    while (i < n && w < TEXT_QUOTE_MAX - 6) {
        unsigned char c = (unsigned char)s[i];
        size_t len = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        /* C1 controls (c2 80 to c2 9f) move a terminal's cursor as well as ESC does. */
        bool control = c < 0x20 || c == 0x7f || (c == 0xc2 && i + 1 < n && (unsigned char)s[i + 1] < 0xa0);
        if (len > n - i)
            len = n - i;
        if (w + len > TEXT_QUOTE_MAX - 6)
            break;
        if (control)
            out[w++] = '?';
        else {
            memcpy(out + w, s + i, len);
            w += len;
        }
        i += len;
    }
    memcpy(out + w, i < n ? "...\"" : "\"", i < n ? 5 : 2);
    return out;
}

size_t text_utf8_length(const unsigned char *s, size_t n)
{
    size_t len;
    unsigned char low = 0x80, high = 0xbf;

    if (s[0] < 0x80)
        return 1;
    if (s[0] >= 0xc2 && s[0] <= 0xdf)
        len = 2;
    else if ((s[0] & 0xf0) == 0xe0) {
        len = 3;
        low = s[0] == 0xe0 ? 0xa0 : low;   /* overlong */
        high = s[0] == 0xed ? 0x9f : high; /* surrogates */
    } else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
        len = 4;
        low = s[0] == 0xf0 ? 0x90 : low;
        high = s[0] == 0xf4 ? 0x8f : high;
    } else
        return 0;
    if (n < len || s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < len; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return len;
}

size_t text_utf8_end(const char *s, size_t n)
{
    size_t i = 0;

    while (i < n) {
        size_t len = text_utf8_length((const unsigned char *)s + i, n - i);
        if (!len)
            break;
        i += len;
    }
    return i;
}

void text_position(const char *text, size_t n, size_t off, int *line, int *col)
{
    const char *start = text, *end = text + (off < n ? off : n), *nl;

    *line = 1;
    while ((nl = memchr(start, '\n', (size_t)(end - start)))) {
        ++*line;
        start = nl + 1;
    }
    *col = (int)(end - start) + 1;
}
