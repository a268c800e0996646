/* The pages over arbitrary heads: every reply fits, is HTTP itself, and says its own length.
 *
 * Input: a byte that picks port and site, then the head. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "node/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_page(const struct http_reply *r, bool head_only)
{
    struct http1_head h;
    int n = http1_parse_response(&h, r->text, r->len);

    if (n <= 0 || h.status < 101 || (r->action == HTTP_DERP || r->action == HTTP_MESH) != (h.status == 101))
        abort();
    if (h.status == 101 || h.status == 204 || head_only) {
        if ((size_t)n != r->len)
            abort();
        return;
    }
    if (http1_find(&h, "Content-Length") && http1_content_length(&h) != (long)(r->len - (size_t)n))
        abort();
    if (!http1_find(&h, "Content-Length") && !r->close)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const hosts[] = {NULL, "relay.example", "2001:db8::1", "relay.example:8443"};
    static struct http_reply reply;
    struct http_site site = {.node_key_hex =
                                 "7ee654cd2cc693c191f2574d397631772d5a2f6b0d355440c07aa33b51254721"};
    struct http1_head req;
    int n;

    if (size < 1)
        return 0;
    site.host = hosts[data[0] & 3];
    site.mesh = data[0] & 4;
    site.derper = data[0] & 32;
    site.no_derp = site.derper && (data[0] & 64);
    site.debug = site.derper && (data[0] & 128);
    site.home = site.no_derp ? "https://home.example/" : "";
    n = http1_parse_request(&req, (const char *)data + 1, size - 1);
    if (n == 0)
        return 0;
    memset(&reply, 0xa5, sizeof reply);
    if (n < 0) {
        http_bad(&reply, n);
        check_page(&reply, false);
        return 0;
    }
    http_answer(&reply, &req, (enum http_port)((data[0] >> 3) % 3), &site);
    if (reply.action == HTTP_VARZ || reply.action == HTTP_BOOTSTRAP) {
        if (reply.len != 0 || (reply.action == HTTP_VARZ && !site.debug))
            abort();
        http_head(&reply, &req, 0);
    }
    if (reply.len >= sizeof reply.text)
        abort();
    if (reply.fast_start) {
        if (reply.action != HTTP_DERP || reply.len != 0)
            abort();
        return 0;
    }
    check_page(&reply, http1_is(req.method, "HEAD"));
    return 0;
}
