/* Reading the fields of an object by a table: names in any case as Go has it, or in lower case as Headscale
 * does, and values with their types checked.
 *
 * Happy path: fields_pick finds the members, fields_read stores them into a struct.
 * It fails at the first value of a wrong type.  Unknown fields are passed over (a newer Tailscale may know
 * them) and noted for lint. */
#include "proto/derpmap_fields.h"

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

int fields_init(struct reader *r)
{
    const char *p = r->text, *end = r->text + r->n;
    size_t count = 1;

    while ((p = memchr(p, '\n', (size_t)(end - p)))) {
        p++;
        count++;
    }
    r->line_starts = malloc(count * sizeof *r->line_starts);
    if (!r->line_starts)
        return text_fail(r->err, 0, 0, "out of memory");
    r->line_starts[r->n_lines++] = 0;
    for (p = r->text; (p = memchr(p, '\n', (size_t)(end - p)));)
        r->line_starts[r->n_lines++] = (uint32_t)(++p - r->text);
    return 0;
}

void fields_deinit(struct reader *r)
{
    free(r->line_starts);
}

struct derpmap_pos fields_position(const struct reader *r, size_t off)
{
    size_t low = 0, high = r->n_lines;

    while (high - low > 1) {
        size_t mid = (low + high) / 2;
        if (r->line_starts[mid] <= off)
            low = mid;
        else
            high = mid;
    }
    return (struct derpmap_pos){(int)low + 1, (int)(off - r->line_starts[low]) + 1};
}

int fields_refuse(struct reader *r, size_t off, const char *fmt, ...)
{
    struct derpmap_pos at = fields_position(r, off);
    char msg[sizeof r->err->msg];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return text_fail(r->err, at.line, at.col, "%s", msg);
}

int fields_refuse_memory(struct reader *r)
{
    return text_fail(r->err, 0, 0, "out of memory");
}

void fields_note(struct reader *r, size_t off, const char *fmt, ...)
{
    struct derpmap_full *full = r->full;
    struct derpmap_pos at = fields_position(r, off);
    va_list ap;

    if (full->n_notes == DERPMAP_MAX_NOTES)
        return;
    struct derpmap_finding *f = &full->notes[full->n_notes++];
    f->at.line = at.line;
    f->at.col = at.col;
    if (full->n_notes == DERPMAP_MAX_NOTES) {
        snprintf(f->at.msg, sizeof f->at.msg, "and more of this kind, from here on: first correct these");
        return;
    }
    va_start(ap, fmt);
    vsnprintf(f->at.msg, sizeof f->at.msg, fmt, ap);
    va_end(ap);
}

const char *fields_spelled(const struct reader *r, const char *name, char out[static 32])
{
    size_t i;

    for (i = 0; i < 31 && name[i]; i++)
        out[i] = r->yaml && name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] | 32) : name[i];
    out[i] = 0;
    return out;
}

static int pick_one(struct reader *r, const struct hujson *m, const struct field *fields, int n,
                    struct picked *p)
{
    char want[32], q[TEXT_QUOTE_MAX];
    int i = 0;

    while (i < n && strcasecmp(m->name, fields[i].name) != 0)
        i++;
    if (i == n) {
        fields_note(r, m->name_start, "unknown field %s: clients of today ignore it; misspelled?",
                    text_quote(q, m->name, strlen(m->name)));
        return 0;
    }
    if (r->yaml && strcmp(m->name, fields_spelled(r, fields[i].name, want)) != 0) {
        p->wrong_case[i] = m;
        fields_note(r, m->name_start, "Headscale ignores %s: keys are lower case there, write %s",
                    text_quote(q, m->name, strlen(m->name)), want);
        return 0;
    }
    if (p->v[i] && r->yaml)
        return fields_refuse(r, m->name_start, "%s stands here twice", want);
    if (p->v[i])
        fields_note(r, m->name_start, "%s stands here twice (before in line %d): the last one counts",
                    fields[i].name, fields_position(r, p->v[i]->name_start).line);
    p->v[i] = m;
    return 0;
}

int fields_pick(struct reader *r, const struct hujson *obj, const struct field *fields, int n,
                struct picked *p)
{
    memset(p, 0, sizeof *p);
    for (const struct hujson *m = obj->child; m; m = m->next)
        if (pick_one(r, m, fields, n, p) < 0)
            return -1;
    for (int i = 0; i < n; i++)
        if (p->v[i] && p->v[i]->type == HUJSON_NULL)
            p->v[i] = NULL;
    return 0;
}

int fields_refuse_type(struct reader *r, const struct hujson *v, const struct field *f, const char *wanted)
{
    char name[32];

    return fields_refuse(r, v->start, "%s must be %s", fields_spelled(r, f->name, name), wanted);
}

static int read_string(struct reader *r, const struct hujson *v, const struct field *f, char **out)
{
    /* YAML: name: 1 is a string where one is wanted, as for Headscale. */
    bool ok = v->type == HUJSON_STRING || (r->yaml && (v->type == HUJSON_NUMBER || v->type == HUJSON_BOOL));
    char name[32];

    if (!ok)
        return fields_refuse_type(r, v, f, "a string");
    for (const char *s = v->str; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f ||
            ((unsigned char)*s == 0xc2 && (unsigned char)s[1] < 0xa0))
            return fields_refuse(r, v->start, "%s holds a control character",
                                 fields_spelled(r, f->name, name));
    if (*v->str == 0)
        return 0;
    *out = arena_text(&r->full->arena, v->str, strlen(v->str));
    return *out ? 0 : fields_refuse_memory(r);
}

static int read_bool(struct reader *r, const struct hujson *v, const struct field *f, bool *out)
{
    static const char *const yes[] = {"y", "Y", "yes", "on"}, *const no[] = {"n", "N", "no", "off"};

    if (v->type == HUJSON_BOOL) {
        *out = v->boolean;
        return 0;
    }
    /* What Headscale's YAML library takes for a boolean besides. */
    for (int i = 0; r->yaml && v->type == HUJSON_STRING && i < 4; i++)
        if (strcmp(v->str, yes[i]) == 0 || strcmp(v->str, no[i]) == 0) {
            *out = strcmp(v->str, yes[i]) == 0;
            return 0;
        }
    return fields_refuse_type(r, v, f, "true or false");
}

int fields_parse_int(const char *s, size_t n, int *out)
{
    char copy[16], *end;
    size_t digits = n - (n && *s == '-');

    if (digits == 0 || digits > 10)
        return -1;
    for (size_t i = n - digits; i < n; i++) /* s is a view: nothing ends it */
        if (s[i] < '0' || s[i] > '9')
            return -1;
    if (s[n - digits] == '0' && digits > 1)
        return -1;
    memcpy(copy, s, n);
    copy[n] = 0;
    long v = strtol(copy, &end, 10);
    if (v < INT_MIN || v > INT_MAX)
        return -1;
    *out = (int)v;
    return 0;
}

int fields_read_int(struct reader *r, const struct hujson *v, const struct field *f, int *out)
{
    const char *s = r->yaml ? v->str : r->text + v->start;
    size_t n = r->yaml ? (s ? strlen(s) : 0) : v->end - v->start;

    if (v->type != HUJSON_NUMBER || fields_parse_int(s, n, out) < 0)
        return fields_refuse_type(
            r, v, f, v->type == HUJSON_STRING ? "a whole number, without quotes" : "a whole number");
    return 0;
}

static int read_float(struct reader *r, const struct hujson *v, const struct field *f, double *out)
{
    if (v->type != HUJSON_NUMBER || !isfinite(v->num))
        return fields_refuse_type(r, v, f, "a number");
    *out = v->num + 0.0; /* -0 is 0 */
    return 0;
}

int fields_read(struct reader *r, const struct picked *p, const struct field *fields, int n, void *base,
                struct derpmap_pos *pos)
{
    int rc = 0;

    for (int i = 0; i < n && rc == 0; i++) {
        const struct hujson *v = p->v[i];
        void *to = (char *)base + fields[i].offset;
        if (!v)
            continue;
        pos[i] = fields_position(r, v->start);
        if (fields[i].kind == FIELD_STRING)
            rc = read_string(r, v, &fields[i], to);
        else if (fields[i].kind == FIELD_BOOL)
            rc = read_bool(r, v, &fields[i], to);
        else if (fields[i].kind == FIELD_INT)
            rc = fields_read_int(r, v, &fields[i], to);
        else if (fields[i].kind == FIELD_FLOAT)
            rc = read_float(r, v, &fields[i], to);
    }
    return rc;
}

int fields_refuse_missing(struct reader *r, const struct hujson *at, const struct picked *p, int i,
                          const struct field *f, const char *owner)
{
    char want[32];

    fields_spelled(r, f->name, want);
    if (p->wrong_case[i])
        return fields_refuse(r, p->wrong_case[i]->name_start,
                             "%s has no %s: Headscale reads lower-case keys only", owner, want);
    return fields_refuse(r, at->start, "%s has no %s", owner, want);
}
