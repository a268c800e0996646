/* How the fields of an object are read, by a table, in both spellings; inside of the derpMap's reader only. */
#ifndef DERPMESH_PROTO_DERPMAP_FIELDS_H
#define DERPMESH_PROTO_DERPMAP_FIELDS_H

#include "proto/derpmap_internal.h"

enum { FIELDS_MAX = 16 };

enum field_kind { FIELD_STRING, FIELD_BOOL, FIELD_INT, FIELD_FLOAT, FIELD_OTHER };

struct field {
    const char *name; /* as Go writes it; Headscale's is the same in lower case */
    enum field_kind kind;
    size_t offset;
};

struct reader {
    struct derpmap_full *full;
    const char *text;
    size_t n;
    uint32_t *line_starts;
    size_t n_lines;
    bool yaml;
    struct text_error *err;
};

/* What an object holds for a table of fields; null counts as absent, as in Go. */
struct picked {
    const struct hujson *v[FIELDS_MAX];
    const struct hujson
        *wrong_case[FIELDS_MAX]; /* YAML: ignored, and the probable cause of a missing field */
};

/* Made before the first of the others; fields_deinit frees the index of lines. */
int fields_init(struct reader *r);
void fields_deinit(struct reader *r);

/* A field's name as this spelling writes it. */
const char *fields_spelled(const struct reader *r, const char *name, char out[static 32]);
struct derpmap_pos fields_position(const struct reader *r, size_t off);
/* The error, at an offset; always -1. */
int fields_refuse(struct reader *r, size_t off, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int fields_refuse_memory(struct reader *r);
int fields_refuse_type(struct reader *r, const struct hujson *v, const struct field *f, const char *wanted);
int fields_refuse_missing(struct reader *r, const struct hujson *at, const struct picked *p, int i,
                          const struct field *f, const char *owner);
/* A warning for lint. */
void fields_note(struct reader *r, size_t off, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Finds the members of obj that the table knows; notes the others.  0, or -1 with the error. */
int fields_pick(struct reader *r, const struct hujson *obj, const struct field *fields, int n,
                struct picked *p);
/* Reads what was picked into the struct at base, and where each stands into pos[n]. */
int fields_read(struct reader *r, const struct picked *p, const struct field *fields, int n, void *base,
                struct derpmap_pos *pos);
int fields_read_int(struct reader *r, const struct hujson *v, const struct field *f, int *out);
/* Decimal digits only, as Go takes them for an int: 443.0 is none.  -1 if s[n] is not one, or too large. */
int fields_parse_int(const char *s, size_t n, int *out);

#endif
