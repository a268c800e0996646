/* HuJSON of any bytes: an error with a place, or a tree whose positions lie in the text, children inside
 * parents. */
#include "proto/hujson.h"

#include <stdlib.h>

static void check(const struct hujson *v, size_t start, size_t end, int depth)
{
    if (depth > 32 || v->start < start || v->end > end || v->start >= v->end)
        abort();
    if ((v->type == HUJSON_STRING) != (v->str != NULL))
        abort();
    for (const struct hujson *c = v->child; c; c = c->next) {
        if ((v->type == HUJSON_OBJECT) != (c->name != NULL) || (c->name && c->name_start >= c->start))
            abort();
        if (c->name && !hujson_get(v, c->name))
            abort();
        check(c, v->start, v->end, depth + 1);
        if (depth > 2 && c->name)
            break; /* hujson_get is linear: not for each member of a long list, here */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct text_error err = {0};
    struct hujson_doc *doc = hujson_parse((const char *)data, n, &err);

    if (doc)
        check(hujson_root(doc), 0, n, 0);
    else if (!err.msg[0] || err.line < 1 || err.col < 1)
        abort();
    hujson_free(doc);
    return 0;
}
