/* See pages.h.
 *
 * Happy path: the text is made, its head written, both are sent.  Failure: without memory the page is empty. */
#include "node/pages.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/bootstrap.h"
#include "node/stream.h"
#include "node/varz.h"

static bool in_prefix(const struct conn_addr *a, const struct config_cidr *p)
{
    int bytes = p->bits / 8, rest = p->bits % 8;
    return memcmp(a->ip, p->ip, (size_t)bytes) == 0 &&
           (rest == 0 || ((a->ip[bytes] ^ p->ip[bytes]) >> (8 - rest)) == 0);
}

bool pages_debug(const struct conn *c, const struct http1_head *head)
{
    static const struct config_cidr always[] = {
        {.ip = {[10] = 0xff, [11] = 0xff, [12] = 127}, .bits = 104},            /* 127/8 */
        {.ip = {[10] = 0xff, [11] = 0xff, [12] = 100, [13] = 64}, .bits = 106}, /* 100.64/10 */
        {.ip = {[15] = 1}, .bits = 128},                                        /* ::1 */
        {.ip = {0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0}, .bits = 48},
    };
    const struct config_derper *d = c->worker->site->config->derper;
    const struct http1_str *forwarded = http1_find(head, "X-Forwarded-For");
    if (!d || (forwarded && forwarded->n > 0))
        return false;
    for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++)
        if (in_prefix(&c->addr, &always[i]))
            return true;
    for (int i = 0; i < d->n_debug; i++)
        if (in_prefix(&c->addr, &d->debug[i]))
            return true;
    return false;
}

/* The value of "q" in a query, decoded; 0 if there is none, or none that could be a host's name. */
static size_t query_name(char out[static 256], struct http1_str query)
{
    size_t n = 0;
    for (size_t i = 0; i < query.n;) {
        const char *end = memchr(query.p + i, '&', query.n - i);
        size_t stop = end ? (size_t)(end - query.p) : query.n;
        if (stop - i > 2 && query.p[i] == 'q' && query.p[i + 1] == '=') {
            for (i += 2; i < stop && n < 255; i++) {
                char hex[3] = {0};
                out[n] = query.p[i];
                if (query.p[i] == '%' && i + 2 < stop) {
                    memcpy(hex, query.p + i + 1, 2);
                    out[n] = (char)strtoul(hex, NULL, 16);
                    i += 2;
                }
                n++;
            }
            return i < stop ? 0 : n;
        }
        i = stop + 1;
    }
    return 0;
}

/* {"state": …}, malloc'd. */
static char *peer_answer(const struct site *s, const char *name, size_t n, size_t *len)
{
    static const char *const states[] = {
        [SITE_PEER_UNKNOWN] = "unknown", [SITE_PEER_UP] = "up", [SITE_PEER_SILENT] = "silent"};
    char id[256], *text = NULL;
    memcpy(id, name, n);
    id[n] = 0;
    const struct derpmap_node *node = strlen(id) == n && n > 0 ? derpmap_find(s->map, id) : NULL;
    uint8_t state = node ? atomic_load_explicit(&s->peers[node - s->map->nodes], memory_order_relaxed)
                         : SITE_PEER_UNKNOWN;
    int written = asprintf(&text, "{\"state\": \"%s\"}\n", node == s->self ? "self" : states[state]);
    *len = written > 0 ? (size_t)written : 0;
    return written > 0 ? text : NULL;
}

bool pages_challenge(struct conn *c, const struct http1_head *head)
{
    static const char prefix[] = "/.well-known/acme-challenge/";
    const struct config *cfg = c->worker->site->config;
    struct http1_str token = head->path;
    size_t n = sizeof(prefix) - 1;
    char path[1200], body[512], out[700];
    if (cfg->tls != TLS_ACME || token.n <= n || token.n > n + 128 || memcmp(token.p, prefix, n) != 0)
        return false;
    token.p += n;
    token.n -= n;
    for (size_t i = 0; i < token.n; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", token.p[i]))
            return false;
    snprintf(path, sizeof(path), "%s/acme/challenges/%.*s", cfg->cert_dir, (int)token.n, token.p);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t len = fd >= 0 ? read(fd, body, sizeof(body)) : -1;
    if (fd >= 0)
        close(fd);
    int size = snprintf(
        out, sizeof(out),
        "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %zd\r\nConnection: close\r\n\r\n%.*s",
        len > 0 ? "200 OK" : "404 Not Found", len > 0 ? len : 0, len > 0 ? (int)len : 0, body);
    stream_send_raw(&c->stream, out, (size_t)size);
    stream_finish(&c->stream);
    return true;
}

void pages_send(struct conn *c, struct http_reply *reply, const struct http1_head *head)
{
    const struct varz *v = c->worker->varz;
    char q[256], *text;
    size_t len = 0;
    if (reply->action == HTTP_VARZ) {
        text = varz_text(v, &len);
    } else if (reply->action == HTTP_PEER) {
        size_t n = query_name(q, head->query);
        text = peer_answer(c->worker->site, q, n, &len);
    } else {
        size_t n = query_name(q, head->query);
        text = v->bootstrap ? bootstrap_answer(v->bootstrap, q, n, &len) : NULL;
    }
    http_head(reply, head, text ? len : 0);
    stream_send_raw(&c->stream, reply->text, reply->len);
    if (text && len && !http1_is(head->method, "HEAD"))
        stream_send_raw(&c->stream, text, len);
    free(text);
}
