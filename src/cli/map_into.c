/* See map_into.h.
 *
 * Happy path: the parser says from which byte to which the old value goes; what stands before and behind it is copied, the new one
 * is put between, indented as the line that it begins on.
 * How it fails: at the file's own fault, with its place; at a form in which the value has no lines of its own. */
#include "cli/map_into.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

static char *fail(struct text_error *err, int line, int col, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static char *fail(struct text_error *err, int line, int col, const char *fmt, ...)
{
    va_list ap;

    *err = (struct text_error){.line = line, .col = col};
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
    return NULL;
}

/* ---- a text that grows ---- */

struct out {
    char *text; /* NULL: no memory */
    size_t n;
    FILE *to;
};

static void put(struct out *o, const char *s, size_t n)
{
    if (o->to)
        fwrite(s, 1, n, o->to);
}

static void out_begin(struct out *o)
{
    *o = (struct out){0};
    o->to = open_memstream(&o->text, &o->n);
}

static char *out_end(struct out *o, struct text_error *err)
{
    bool good = o->to && !ferror(o->to);

    good = o->to && fclose(o->to) == 0 && good;
    if (good)
        return o->text;
    free(o->text);
    return fail(err, 0, 0, "out of memory");
}

/* ---- a policy ---- */

bool map_into_is_policy(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strchr(" \t\r\n", text[i]) && text[i])
            continue;
        if (i + 1 < n && text[i] == '/' && text[i + 1] == '/') {
            while (i < n && text[i] != '\n')
                i++;
        } else if (i + 1 < n && text[i] == '/' && text[i + 1] == '*') {
            for (i += 2; i + 1 < n && !(text[i] == '*' && text[i + 1] == '/'); i++)
                ;
            i++;
        } else {
            return text[i] == '{';
        }
    }
    return false;
}

/* The blanks that the line of this byte begins with, if nothing else stands before it there; else none. */
static size_t indent_of(const char *text, size_t at, const char **from)
{
    size_t start = at;

    while (start > 0 && text[start - 1] != '\n')
        start--;
    *from = text + start;
    for (size_t i = start; i < at; i++)
        if (text[i] != ' ' && text[i] != '\t')
            return 0;
    return at - start;
}

/* json without the newline at its end, each line but the first behind the indent. */
static void put_indented(struct out *o, const char *json, const char *indent, size_t n_indent)
{
    size_t n = strlen(json);

    while (n > 0 && json[n - 1] == '\n')
        n--;
    for (size_t i = 0, line; i < n; i += line) {
        const char *end = memchr(json + i, '\n', n - i);
        line = end ? (size_t)(end - json) - i + 1 : n - i;
        if (i > 0)
            put(o, indent, n_indent);
        put(o, json + i, line);
    }
}

char *map_into_policy(const char *text, size_t n, const char *json, struct text_error *err)
{
    static const char name[] = "\"derpMap\": ";
    const char *indent = "\t";
    size_t n_indent = 1;
    struct out o;
    struct hujson_doc *doc = hujson_parse(text, n, err);

    if (!doc)
        return NULL;
    const struct hujson *root = hujson_root(doc);
    if (root->type != HUJSON_OBJECT) {
        hujson_free(doc);
        return fail(err, 1, 1, "no policy: an object in braces is wanted");
    }
    const struct hujson *old = hujson_get(root, "derpMap");
    out_begin(&o);
    if (old) {
        n_indent = indent_of(text, old->name_start, &indent);
        put(&o, text, old->start);
        put_indented(&o, json, indent, n_indent);
        put(&o, text + old->end, n - old->end);
    } else {
        size_t brace = root->start + 1;
        if (root->child) {
            const char *from;
            size_t found = indent_of(text, root->child->name_start, &from);
            indent = found ? from : indent;
            n_indent = found ? found : n_indent;
        }
        put(&o, text, brace);
        put(&o, "\n", 1);
        put(&o, indent, n_indent);
        put(&o, name, sizeof(name) - 1);
        put_indented(&o, json, indent, n_indent);
        put(&o, root->child ? "," : "\n", 1);
        put(&o, text + brace, n - brace);
    }
    hujson_free(doc);
    return out_end(&o, err);
}

/* ---- derp.yaml ---- */

/* Lines from 0: where the key regions stands, and the first line that is not of its value. */
struct lines {
    bool found, in_flow;
    size_t first, end;
};

/* The keys of the outermost mapping, one after the other: the reader of what libyaml says. */
struct keys {
    int depth;
    bool is_value; /* at depth 1: what comes next is a value */
    struct lines at;
};

static void key_found(struct keys *k, const yaml_event_t *e)
{
    bool regions = e->type == YAML_SCALAR_EVENT && strcmp((const char *)e->data.scalar.value, "regions") == 0;

    if (k->at.found && k->at.end == SIZE_MAX)
        k->at.end = e->start_mark.line;
    if (regions && !k->at.found)
        k->at = (struct lines){true, k->at.in_flow, e->start_mark.line, SIZE_MAX};
}

static void see(struct keys *k, const yaml_event_t *e)
{
    bool begins = e->type == YAML_MAPPING_START_EVENT || e->type == YAML_SEQUENCE_START_EVENT;
    bool ends = e->type == YAML_MAPPING_END_EVENT || e->type == YAML_SEQUENCE_END_EVENT;
    bool node = begins || e->type == YAML_SCALAR_EVENT || e->type == YAML_ALIAS_EVENT;

    if (k->depth == 0 && e->type == YAML_MAPPING_START_EVENT)
        k->at.in_flow = e->data.mapping_start.style == YAML_FLOW_MAPPING_STYLE;
    if (k->depth == 1 && node) {
        if (!k->is_value)
            key_found(k, e);
        k->is_value = !k->is_value;
    }
    k->depth += begins - ends;
}

/* 0, or -1 with *err. */
static int find_regions(const char *text, size_t n, struct lines *at, struct text_error *err)
{
    yaml_parser_t parser;
    yaml_event_t event;
    struct keys keys = {0};
    int documents = 0, done = 0, rc = 0;

    if (!yaml_parser_initialize(&parser))
        return fail(err, 0, 0, "out of memory"), -1;
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n);
    while (!done && rc == 0) {
        if (!yaml_parser_parse(&parser, &event)) {
            fail(err, (int)parser.problem_mark.line + 1, (int)parser.problem_mark.column + 1, "no YAML: %s",
                 parser.problem ? parser.problem : "unreadable");
            rc = -1;
            break;
        }
        documents += event.type == YAML_DOCUMENT_START_EVENT;
        done = event.type == YAML_STREAM_END_EVENT;
        if (documents > 1) {
            fail(err, (int)event.start_mark.line + 1, 1, "a second document: one is wanted");
            rc = -1;
        }
        see(&keys, &event);
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    *at = keys.at;
    if (rc == 0 && at->in_flow)
        rc = (fail(err, 1, 1,
                   "the regions stand in braces: write them a line each, as Headscale's own example does"),
              -1);
    return rc;
}

/* The byte that line begins with; n if there are not so many. */
static size_t line_start(const char *text, size_t n, size_t line)
{
    size_t at = 0;

    for (; line > 0 && at < n; line--) {
        const char *end = memchr(text + at, '\n', n - at);
        at = end ? (size_t)(end - text) + 1 : n;
    }
    return at;
}

/* Blank lines and comments at the margin belong to what follows. */
static size_t without_tail(const char *text, size_t from, size_t to)
{
    while (to > from) {
        size_t start = to - 1;
        while (start > from && text[start - 1] != '\n')
            start--;
        size_t blanks = strspn(text + start, " \t\r");
        bool blank = start + blanks >= to - 1 || text[start + blanks] == '\n';
        if (start == from || !(blank || text[start] == '#'))
            break;
        to = start;
    }
    return to;
}

char *map_into_headscale(const char *text, size_t n, const char *yaml, struct text_error *err)
{
    struct lines at;
    struct out o;
    const char *fresh = strstr(yaml, "\nregions:");

    fresh = fresh ? fresh + 1 : yaml;
    if (find_regions(text, n, &at, err) != 0)
        return NULL;
    size_t from = at.found ? line_start(text, n, at.first) : n, to = n;
    if (at.found)
        to = without_tail(text, from, at.end == SIZE_MAX ? n : line_start(text, n, at.end));
    out_begin(&o);
    put(&o, text, from);
    if (!at.found && from > 0 && text[from - 1] != '\n')
        put(&o, "\n", 1);
    put(&o, fresh, strlen(fresh));
    put(&o, text + to, n - to);
    return out_end(&o, err);
}
