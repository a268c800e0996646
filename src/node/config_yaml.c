/* The YAML file: one flat mapping of keys to scalars; a list for the one key that is a list.
 *
 * Happy path: libyaml's events are taken one by one, each pair goes to config_key_set as it comes.
 * How it fails: at the first event that is not of this shape, with its line and column.  So nesting costs nothing:
 * the first bracket too many ends the reading (libyaml is slow on a file full of them). */
#include "node/config_parts.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

enum { LIST_MAX = 4000 };

struct reader {
    yaml_parser_t parser;
    yaml_event_t event;
    bool have_event;
    struct config *c;
    const char *name;
    char *err;
    size_t err_len;
    size_t seen[CONFIG_KEYS_MAX]; /* line of a key's first writing, 0: none yet */
};

static int fail_at(const struct reader *r, const yaml_mark_t *mark, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static int fail_at(const struct reader *r, const yaml_mark_t *mark, const char *fmt, ...)
{
    va_list ap;
    int n = snprintf(r->err, r->err_len, "%s:%zu:%zu: ", r->name, mark->line + 1, mark->column + 1);

    if (n > 0 && (size_t)n < r->err_len) {
        va_start(ap, fmt);
        vsnprintf(r->err + n, r->err_len - (size_t)n, fmt, ap);
        va_end(ap);
    }
    return -1;
}

/* Takes the next event into r->event.  0, or -1 where the text is no YAML. */
static int next(struct reader *r)
{
    if (r->have_event)
        yaml_event_delete(&r->event);
    r->have_event = yaml_parser_parse(&r->parser, &r->event) != 0;
    if (r->have_event)
        return 0;
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return fail_at(r, &p->mark, "out of memory");
    if (p->error == YAML_READER_ERROR)
        return fail_at(r, &p->mark, "no YAML: %s at byte %zu", p->problem ? p->problem : "unreadable",
                       p->problem_offset);
    return fail_at(r, &p->problem_mark, "no YAML: %s%s%s", p->problem ? p->problem : "unreadable",
                   p->context ? ", " : "", p->context ? p->context : "");
}

static int key_index(struct reader *r)
{
    const yaml_event_t *e = &r->event;
    char why[512];

    if (e->type != YAML_SCALAR_EVENT)
        return fail_at(r, &e->start_mark, "a key stands here, as in \"node: fra-1\"");
    const char *name = (const char *)e->data.scalar.value;
    int key = strlen(name) == e->data.scalar.length ? config_key_find(name, CONFIG_FILE) : -1;
    if (key < 0) {
        config_key_unknown(name, CONFIG_FILE, why, sizeof(why));
        return fail_at(r, &e->start_mark, "%s", why);
    }
    if (r->seen[key])
        return fail_at(r, &e->start_mark, "%s stands in line %zu already", name, r->seen[key]);
    r->seen[key] = e->start_mark.line + 1;
    return key;
}

/* The text of the scalar at r->event, NULL if it is empty as YAML knows it: nothing, ~ or null. */
static const char *scalar_text(const struct reader *r)
{
    const char *text = (const char *)r->event.data.scalar.value;
    bool plain = r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;

    return plain && (strcmp(text, "~") == 0 || strcmp(text, "null") == 0) ? "" : text;
}

static int scalar_set(struct reader *r, struct config *c, int key)
{
    const yaml_event_t *e = &r->event;
    char why[512], name[CONFIG_NAME_MAX];

    if (strlen((const char *)e->data.scalar.value) != e->data.scalar.length)
        return fail_at(r, &e->start_mark, "a zero byte in the value");
    if (config_key_set(c, key, scalar_text(r), why, sizeof(why)))
        return fail_at(r, &e->start_mark, "%s %s", config_key_name(name, key, CONFIG_FILE), why);
    return 0;
}

/* "[a, b]" or "- a": each item is tried alone, so that a fault has its own line; then all are set together. */
static int list_set(struct reader *r, int key)
{
    static const struct config nothing; /* the list holds no memory of its own */
    char all[LIST_MAX], why[512], name[CONFIG_NAME_MAX];
    size_t n = 0;
    yaml_mark_t start = r->event.start_mark;

    while (next(r) == 0) {
        const yaml_event_t *e = &r->event;
        if (e->type == YAML_SEQUENCE_END_EVENT) {
            if (n == 0)
                n = (size_t)sprintf(all, "none");
            all[n] = 0;
            if (config_key_set(r->c, key, all, why, sizeof(why)))
                return fail_at(r, &start, "%s %s", config_key_name(name, key, CONFIG_FILE), why);
            return 0;
        }
        struct config one = nothing;
        if (e->type != YAML_SCALAR_EVENT)
            return fail_at(r, &e->start_mark, "plain items are wanted in this list");
        if (scalar_set(r, &one, key))
            return -1;
        size_t len = e->data.scalar.length;
        if (n + len + 2 > sizeof(all))
            return fail_at(r, &e->start_mark, "this list is too long");
        memcpy(all + n, e->data.scalar.value, len);
        n += len;
        all[n++] = ',';
    }
    return -1;
}

static int value_read(struct reader *r, int key)
{
    char name[CONFIG_NAME_MAX];
    const yaml_mark_t *at = &r->event.start_mark;

    config_key_name(name, key, CONFIG_FILE);
    if (r->event.type == YAML_SCALAR_EVENT)
        return scalar_set(r, r->c, key);
    if (r->event.type == YAML_SEQUENCE_START_EVENT && config_key_is_list(key))
        return list_set(r, key);
    if (r->event.type == YAML_SEQUENCE_START_EVENT)
        return fail_at(r, at, "%s takes one value, not a list; an IPv6 address needs quotes: \"[::]:443\"",
                       name);
    if (r->event.type == YAML_ALIAS_EVENT)
        return fail_at(r, at, "%s: aliases are not taken here; write the value out", name);
    return fail_at(r, at, "%s takes one value, not a mapping", name);
}

static int mapping_read(struct reader *r)
{
    for (;;) {
        if (next(r))
            return -1;
        if (r->event.type == YAML_MAPPING_END_EVENT)
            return 0;
        int key = key_index(r);
        if (key < 0 || next(r) || value_read(r, key))
            return -1;
    }
}

/* The stream: nothing at all, or one document that is empty or a mapping. */
static int stream_read(struct reader *r)
{
    if (next(r) || next(r))
        return -1;
    if (r->event.type == YAML_STREAM_END_EVENT)
        return 0;
    if (next(r))
        return -1;
    if (r->event.type == YAML_MAPPING_START_EVENT) {
        if (mapping_read(r))
            return -1;
    } else if (r->event.type != YAML_SCALAR_EVENT || *scalar_text(r)) {
        return fail_at(r, &r->event.start_mark, "lines of the form \"key: value\" are wanted");
    }
    if (next(r) || next(r))
        return -1;
    if (r->event.type != YAML_STREAM_END_EVENT)
        return fail_at(r, &r->event.start_mark, "a second document; one is wanted");
    return 0;
}

int config_yaml(struct config *c, const char *name, const char *text, size_t n, char *err, size_t err_len)
{
    struct reader r = {.c = c, .name = name, .err = err, .err_len = err_len};

    if (!yaml_parser_initialize(&r.parser)) {
        snprintf(err, err_len, "out of memory");
        return -1;
    }
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, n);
    int rc = stream_read(&r);
    if (r.have_event)
        yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    return rc;
}
