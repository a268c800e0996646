/* One JSON object in a short text, member by member: ClientInfo, ServerInfo, the key file.
 *
 * A reader of our own because these texts hold secrets and come from strangers before login: nothing is
 * allocated (a JSON library leaves copies of a key in freed memory), nesting is bounded, and the time
 * is linear in the text.  Accepts what RFC 8259 and Go's encoding/json accept, down to FLAT_DEPTH_MAX.
 * Thread: a reader belongs to its caller.  Views live as long as the text. */
#ifndef DERPMESH_PROTO_FLATJSON_H
#define DERPMESH_PROTO_FLATJSON_H

#include <stdbool.h>
#include <stddef.h>

enum { FLAT_NAME_MAX = 32, FLAT_DEPTH_MAX = 32 };

enum flat_type { FLAT_NULL, FLAT_BOOL, FLAT_NUMBER, FLAT_STRING, FLAT_ARRAY, FLAT_OBJECT };

struct flat_reader {
    const char *p, *end;
    bool first; /* no member read yet */
};

struct flat_member {
    char name[FLAT_NAME_MAX]; /* "" if it is longer: none that we know is */
    enum flat_type type;
    const char *raw; /* the value as it stands in the text, raw[raw_len] */
    size_t raw_len;
};

/* Begins with the text's outermost object.  0, or -1 if it is no object. */
int flat_open(struct flat_reader *r, const char *text, size_t n);
/* The next member: 1; 0 when the object and the text have ended well; -1 where it is malformed.
 * Members seen so far mean nothing before 0 was returned. */
int flat_next(struct flat_reader *r, struct flat_member *m);

/* Whether the member is called so: any case, as encoding/json matches. */
bool flat_named(const struct flat_member *m, const char *name);
/* A string's text, escapes resolved, NUL-terminated, cut to cap - 1 bytes.  Escaped characters
 * that are NUL or beyond ASCII come out as '?'.  Returns its uncut length, or -1 if the value is no string. */
long flat_string(const struct flat_member *m, char *out, size_t cap);
/* An integer, held within int's range.  0, or -1 if the value is something else. */
int flat_int(const struct flat_member *m, int *out);
/* 0, or -1 if the value is no boolean. */
int flat_bool(const struct flat_member *m, bool *out);

#endif
