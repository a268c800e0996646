/* JSON with comments and trailing commas (HuJSON, JWCC), keeping the byte position of every value.
 *
 * Input is untrusted: depth ≤ 32, size ≤ 4 MiB, UTF-8 checked; one error with line and column.
 * A document is one allocation arena: values and strings live until hujson_free. */
#ifndef DERPMESH_PROTO_HUJSON_H
#define DERPMESH_PROTO_HUJSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum hujson_type { HUJSON_NULL, HUJSON_BOOL, HUJSON_NUMBER, HUJSON_STRING, HUJSON_ARRAY, HUJSON_OBJECT };

/* One value; members and elements hang in a list in file order. */
struct hujson {
    enum hujson_type type;
    size_t start, end; /* bytes of the value itself in the text: [start, end) */
    size_t name_start; /* members: where the name's quote stands */
    const char *name;  /* members: decoded name, else NULL */
    const char *str;   /* strings: decoded, NUL-terminated (a \u0000 is refused) */
    double num;
    bool boolean;
    struct hujson *child, *next;
};

/* Where in a text something is wrong, for a person. */
struct text_error {
    int line, col; /* from 1; 0 = not tied to a place */
    char msg[200];
};

struct hujson_doc;
/* Parses text[n].  NULL with *err on failure.  The text need not live on. */
struct hujson_doc *hujson_parse(const char *text, size_t n, struct text_error *err);
void hujson_free(struct hujson_doc *doc);
const struct hujson *hujson_root(const struct hujson_doc *doc);
/* A member by name: exact case first, else any case (as Go's encoding/json); NULL if none. */
const struct hujson *hujson_get(const struct hujson *obj, const char *name);
/* Line and column (bytes, from 1) of an offset in text. */
void text_position(const char *text, size_t n, size_t off, int *line, int *col);

#endif
