/* A derpMap of any bytes: an error that says something, or a map that lint can read and that every export
 * gives back with the same hash. */
#include "proto/derpmap.h"

#include <stdlib.h>
#include <string.h>

static void on_finding(void *ctx, const struct derpmap_finding *f)
{
    if (!f->at.msg[0] || f->at.line < 0)
        abort();
    ++*(int *)ctx;
}

static void check_export(const struct derpmap *m, enum derpmap_to to)
{
    struct text_error err;
    char *text = derpmap_export(m, to);
    struct derpmap *again = derpmap_parse(text, strlen(text), &err);

    if (!again || memcmp(again->hash, m->hash, sizeof m->hash) != 0)
        abort();
    derpmap_free(again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct text_error err = {0};
    struct derpmap *m = derpmap_parse((const char *)data, n, &err);
    int findings = 0;

    if (!m) {
        if (!err.msg[0] || err.line < 0 || err.col < 0)
            abort();
        return 0;
    }
    if (derpmap_lint(m, on_finding, &findings) > findings)
        abort();
    for (int i = 0; i < m->n_nodes; i++)
        if (!m->nodes[i].backup && derpmap_find(m, m->nodes[i].id) != &m->nodes[i])
            abort();
    for (enum derpmap_to to = DERPMAP_TO_TAILSCALE; to <= DERPMAP_TO_JSON; to++)
        check_export(m, to);
    derpmap_free(m);
    return 0;
}
