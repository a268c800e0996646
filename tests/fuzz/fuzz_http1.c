/* HTTP heads, requests and responses, at every split.
 *
 * Claims: views never leave the buffer; a verdict (length or error), once given for a piece, is
 * the verdict for every longer piece, so how the bytes are cut into reads can never matter. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/http1.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int ok)
{
    if (!ok)
        abort();
}

static int within(struct http1_str s, const char *buf, size_t n)
{
    return s.p >= buf && s.p <= buf + n && s.n <= n - (size_t)(s.p - buf);
}

static void check_head(const struct http1_head *h, const char *buf, size_t n, int request)
{
    must(within(h->method, buf, n) && within(h->target, buf, n) && within(h->query, buf, n));
    must(within(h->path, buf, n) || http1_is(h->path, "/"));
    must(h->n_headers >= 0 && h->n_headers <= HTTP1_HEADERS_MAX && (h->minor == 0 || h->minor == 1));
    must(request ? h->status == 0 && h->method.n > 0 && h->target.n > 0
                 : h->status >= 100 && h->status <= 999);
    for (int i = 0; i < h->n_headers; i++) {
        const struct http1_header *hd = &h->headers[i];
        must(hd->name.n > 0 && within(hd->name, buf, n) && within(hd->value, buf, n));
        must(memchr(hd->value.p, '\n', hd->value.n) == NULL &&
             memchr(hd->value.p, '\r', hd->value.n) == NULL);
    }
    must(http1_content_length(h) >= -1);
    http1_has_token(h, "Connection", "Upgrade");
    http1_find(h, "Upgrade");
}

/* n bytes in an allocation of their own. */
static int parse_piece(const uint8_t *data, size_t n, int request)
{
    struct http1_head h;
    char *buf = malloc(n ? n : 1);
    int rc;

    memcpy(buf, data, n);
    rc = request ? http1_parse_request(&h, buf, n) : http1_parse_response(&h, buf, n);
    must(rc <= (int)n && rc <= HTTP1_HEAD_MAX && rc >= HTTP1_VERSION);
    if (rc > 0)
        check_head(&h, buf, (size_t)rc, request);
    free(buf);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    size_t step = n / 512 + 1;

    for (int request = 0; request < 2; request++) {
        int verdict = 0, whole = parse_piece(data, n, request);
        for (size_t len = 0; len < n; len += step) {
            int rc = parse_piece(data, len, request);
            must(verdict == 0 || rc == verdict);
            verdict = rc;
        }
        must(verdict == 0 || verdict == whole);
        if (whole > 0) {
            must(parse_piece(data, (size_t)whole, request) == whole);
            must(parse_piece(data, (size_t)whole - 1, request) == 0);
        }
    }
    return 0;
}
