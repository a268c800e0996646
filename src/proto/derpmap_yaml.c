/* Headscale's YAML as a tree of struct hujson, so that one reader serves all spellings.
 *
 * Happy path: libyaml's events, from the first document, become values; each keeps its byte offset.  Types
 * follow the YAML core schema in its plain forms; whatever else looks like a number stays a string and is
 * refused where a number is wanted.
 * It refuses what Headscale would (two equal keys, by the reader) and what a map has no use for: aliases,
 * tags, directives, more than one document.  Size, depth and directives are limited before libyaml can
 * spend time on them: its cost per token grows with the depth of flow collections and with the number of
 * directives. */
#include "proto/derpmap_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <yaml.h>

struct frame {
    struct hujson *list, **tail;
    const char *name; /* mappings: the key that waits for its value */
    size_t name_start;
};

struct loader {
    yaml_parser_t yaml;
    const char *text;
    size_t n;
    size_t chars, bytes; /* the same place, as libyaml counts and as we do */
    struct hujson_doc *doc;
    struct frame stack[HUJSON_MAX_DEPTH];
    int depth;
    struct text_error *err;
};

static int fail_at(struct loader *l, size_t off, const char *what)
{
    int line, col;

    text_position(l->text, l->n, off, &line, &col);
    return text_fail(l->err, line, col, "%s", what);
}

/* Marks only grow, so all of them together cost one pass over the text. */
static size_t byte_offset(struct loader *l, const yaml_mark_t *mark)
{
    while (l->chars < mark->index && l->bytes < l->n) {
        l->chars++;
        l->bytes++;
        while (l->bytes < l->n && ((unsigned char)l->text[l->bytes] & 0xc0) == 0x80)
            l->bytes++;
    }
    return l->bytes;
}

static int fail_memory(struct loader *l, size_t off)
{
    if (l->doc->n_values > HUJSON_MAX_VALUES)
        return fail_at(l, off, "too many values in this file");
    return text_fail(l->err, 0, 0, "out of memory");
}

/* libyaml's own words; it places errors at the end of the file in the line behind it. */
static int fail_yaml(struct loader *l)
{
    const yaml_parser_t *y = &l->yaml;
    const yaml_mark_t *mark = &y->problem_mark;
    char msg[160];
    int line, col;

    if (y->error == YAML_MEMORY_ERROR)
        return text_fail(l->err, 0, 0, "out of memory");
    snprintf(msg, sizeof msg, "%s%s%s%s", y->problem ? y->problem : "malformed YAML", y->context ? " (" : "",
             y->context ? y->context : "", y->context ? ")" : "");
    if (y->error == YAML_READER_ERROR)
        return fail_at(l, y->problem_offset, msg);
    size_t off = byte_offset(l, mark);
    if (l->chars == mark->index && off < l->n && l->text[off] == '\t')
        return fail_at(l, off, "a tab: YAML indents with spaces only");
    text_position(l->text, l->n, l->n, &line, &col);
    if (mark->line >= (size_t)line)
        return text_fail(l->err, line, col, "%s", msg);
    return text_fail(l->err, (int)mark->line + 1, (int)mark->column + 1, "%s", msg);
}

/* [+-]digits[.digits][e[+-]digits], without leading zeros. */
static bool is_number(const char *s)
{
    static const char digits[] = "0123456789";
    size_t n;

    s += *s == '-' || *s == '+';
    n = strspn(s, digits);
    if (!n || (s[0] == '0' && n > 1))
        return false;
    s += n;
    if (*s == '.') {
        n = strspn(s + 1, digits);
        if (!n)
            return false;
        s += 1 + n;
    }
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '-' || *s == '+';
        n = strspn(s, digits);
        if (!n)
            return false;
        s += n;
    }
    return *s == 0;
}

static bool one_of(const char *s, const char *a, const char *b, const char *c)
{
    return strcmp(s, a) == 0 || strcmp(s, b) == 0 || strcmp(s, c) == 0;
}

static void resolve_plain(struct hujson *v)
{
    const char *s = v->str;

    v->type = HUJSON_STRING;
    if (*s == 0 || strcmp(s, "~") == 0 || one_of(s, "null", "Null", "NULL"))
        v->type = HUJSON_NULL;
    else if (one_of(s, "true", "True", "TRUE") || one_of(s, "false", "False", "FALSE")) {
        v->type = HUJSON_BOOL;
        v->boolean = (*s | 32) == 't';
    } else if (is_number(s) && strlen(s) <= 128) {
        v->type = HUJSON_NUMBER;
        v->num = strtod(s, NULL);
    }
}

/* Hangs a new value where the next one belongs. */
static struct hujson *add_value(struct loader *l, size_t off)
{
    struct frame *f = l->depth ? &l->stack[l->depth - 1] : NULL;
    struct hujson *v = hujson_new_value(l->doc);

    if (!v) {
        fail_memory(l, off);
        return NULL;
    }
    v->start = v->end = off;
    if (!f) {
        l->doc->root = v;
        return v;
    }
    v->name = f->name;
    v->name_start = f->name_start;
    f->name = NULL;
    *f->tail = v;
    f->tail = &v->next;
    return v;
}

static bool wants_key(const struct loader *l)
{
    const struct frame *f = l->depth ? &l->stack[l->depth - 1] : NULL;

    return f && f->list->type == HUJSON_OBJECT && !f->name;
}

static int on_scalar(struct loader *l, const yaml_event_t *e)
{
    size_t off = byte_offset(l, &e->start_mark);
    const char *s = (const char *)e->data.scalar.value;
    size_t len = e->data.scalar.length;

    if (e->data.scalar.tag)
        return fail_at(l, off, "tags (!…) are not read here");
    if (memchr(s, 0, len))
        return fail_at(l, off, "a NUL character is not allowed");
    char *copy = arena_text(&l->doc->arena, s, len);
    if (!copy)
        return fail_memory(l, off);
    if (wants_key(l)) {
        struct frame *f = &l->stack[l->depth - 1];
        if (strcmp(copy, "<<") == 0)
            return fail_at(l, off, "merge keys (<<) are not read here: write the keys out");
        f->name = copy;
        f->name_start = off;
        return 0;
    }
    struct hujson *v = add_value(l, off);
    if (!v)
        return -1;
    v->str = copy;
    if (e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
        resolve_plain(v);
    else
        v->type = HUJSON_STRING;
    return 0;
}

static int on_start(struct loader *l, const yaml_event_t *e)
{
    bool map = e->type == YAML_MAPPING_START_EVENT;
    size_t off = byte_offset(l, &e->start_mark);

    if (map ? e->data.mapping_start.tag != NULL : e->data.sequence_start.tag != NULL)
        return fail_at(l, off, "tags (!…) are not read here");
    if (wants_key(l))
        return fail_at(l, off, "a key must be a plain word or number");
    if (l->depth == HUJSON_MAX_DEPTH)
        return fail_at(l, off, "nested too deeply");
    struct hujson *v = add_value(l, off);
    if (!v)
        return -1;
    v->type = map ? HUJSON_OBJECT : HUJSON_ARRAY;
    l->stack[l->depth++] = (struct frame){.list = v, .tail = &v->child};
    return 0;
}

/* One event: 1 to go on, 0 at the end. */
static int on_event(struct loader *l, const yaml_event_t *e)
{
    switch (e->type) {
    case YAML_ALIAS_EVENT:
        return fail_at(l, byte_offset(l, &e->start_mark),
                       "aliases (*…) are not read here: write the value out");
    case YAML_SCALAR_EVENT:
        return on_scalar(l, e) < 0 ? -1 : 1;
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        return on_start(l, e) < 0 ? -1 : 1;
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        l->depth--;
        return 1;
    case YAML_DOCUMENT_START_EVENT:
        if (l->doc->root)
            return fail_at(l, byte_offset(l, &e->start_mark),
                           "a second document (---): only one is read, join them");
        return 1;
    case YAML_STREAM_END_EVENT:
        return 0;
    default:
        return 1;
    }
}

static int load_events(struct loader *l)
{
    yaml_event_t e;
    int more = 1;

    while (more > 0) {
        if (!yaml_parser_parse(&l->yaml, &e))
            return fail_yaml(l);
        more = on_event(l, &e);
        yaml_event_delete(&e);
    }
    if (more == 0 && !l->doc->root)
        return text_fail(l->err, 1, 1, "no map in this file: nothing but comments");
    return more;
}

/* Lines as libyaml sees them: also after CR, NEL, LS and PS. */
static bool at_line_start(const char *text, const char *p)
{
    size_t before = (size_t)(p - text);

    return before == 0 || p[-1] == '\n' || p[-1] == '\r' ||
           (before >= 2 && memcmp(p - 2, "\xc2\x85", 2) == 0) ||
           (before >= 3 && (memcmp(p - 3, "\xe2\x80\xa8", 3) == 0 || memcmp(p - 3, "\xe2\x80\xa9", 3) == 0));
}

/* What must not reach libyaml. */
static int check_text(struct loader *l)
{
    size_t valid;

    if (l->n > DERPMAP_MAX_YAML)
        return text_fail(l->err, 0, 0, "larger than %d MiB", DERPMAP_MAX_YAML >> 20);
    valid = text_utf8_end(l->text, l->n);
    if (valid < l->n)
        return fail_at(l, valid, "not UTF-8");
    for (const char *p = l->text, *end = l->text + l->n; (p = memchr(p, '%', (size_t)(end - p))); p++)
        if (at_line_start(l->text, p))
            return fail_at(l, (size_t)(p - l->text), "directives (%…) are not read here");
    return 0;
}

struct hujson_doc *derpmap_yaml_parse(const char *text, size_t n, struct text_error *err)
{
    struct loader l = {.text = text, .n = n, .err = err};
    int rc;

    l.doc = calloc(1, sizeof *l.doc);
    if (!l.doc || !yaml_parser_initialize(&l.yaml)) {
        free(l.doc);
        text_fail(err, 0, 0, "out of memory");
        return NULL;
    }
    rc = check_text(&l);
    if (rc == 0) {
        yaml_parser_set_encoding(&l.yaml, YAML_UTF8_ENCODING);
        yaml_parser_set_input_string(&l.yaml, (const unsigned char *)text, n);
        rc = load_events(&l);
    }
    yaml_parser_delete(&l.yaml);
    if (rc < 0) {
        hujson_free(l.doc);
        return NULL;
    }
    return l.doc;
}
