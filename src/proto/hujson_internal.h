/* Inside of proto only: the arena that parsed documents live in, and the small text helpers that the
 * readers of HuJSON, of Headscale's YAML and of the derpMap share. */
#ifndef DERPMESH_PROTO_HUJSON_INTERNAL_H
#define DERPMESH_PROTO_HUJSON_INTERNAL_H

#include "proto/hujson.h"

enum {
    HUJSON_MAX_DEPTH = 32,
    HUJSON_MAX_TEXT = 4 << 20,
    HUJSON_MAX_VALUES = 400000, /* bounds the memory that a text of "[0,0,0,…" can ask for */
    TEXT_QUOTE_MAX = 72
};

/* Memory that is freed all at once. */
struct text_arena {
    struct arena_block *last;
};
void *arena_alloc(struct text_arena *a, size_t n); /* zeroed; NULL without memory */
char *arena_text(struct text_arena *a, const char *s, size_t n);
void arena_free(struct text_arena *a);

struct hujson_doc {
    struct text_arena arena;
    struct hujson *root;
    size_t n_values;
};
/* One more value in the document; NULL when there is no memory or there are too many (see doc->n_values). */
struct hujson *hujson_new_value(struct hujson_doc *doc);

/* Fills *err; always -1, so that a parser can return it. */
int text_fail(struct text_error *err, int line, int col, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* A string of the input for use inside a message: quoted, cut, without control characters. */
const char *text_quote(char out[static TEXT_QUOTE_MAX], const char *s, size_t n);
/* Length of the UTF-8 sequence at s, 0 if it is not well-formed.  n > 0. */
size_t text_utf8_length(const unsigned char *s, size_t n);
/* The offset of the first byte that is not well-formed UTF-8, n if all is. */
size_t text_utf8_end(const char *s, size_t n);

#endif
