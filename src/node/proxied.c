/* Connections that come through a proxy.
 *
 * Happy path: a proxy of trusted_proxies names the client, by X-Forwarded-For in plain HTTP or by a PROXY header before
 * everything else; limits and log see the client's address from then on.
 * Fails: what anybody else says of himself is not believed; a PROXY header of his ends the connection. */
#include "node/proxied.h"

#include <string.h>
#include <uv.h>

#include "node/config.h"
#include "proto/proxyhdr.h"

bool proxied_trusted(const struct config *cfg, const struct conn_addr *a)
{
    for (int i = 0; i < cfg->n_proxies; i++) {
        const struct config_cidr *p = &cfg->proxies[i];
        int bytes = p->bits / 8, rest = p->bits % 8;
        if (memcmp(a->ip, p->ip, (size_t)bytes) == 0 &&
            (rest == 0 || ((a->ip[bytes] ^ p->ip[bytes]) >> (8 - rest)) == 0))
            return true;
    }
    return false;
}

bool proxied_forwarded(struct conn_addr *out, const struct http1_head *head)
{
    const struct http1_str *v = NULL;
    char text[64];

    for (int i = 0; i < head->n_headers; i++) /* the last line of that name: proxies append */
        if (http1_is_nocase(head->headers[i].name, "X-Forwarded-For"))
            v = &head->headers[i].value;
    if (!v)
        v = http1_find(head, "X-Real-IP");
    size_t from = v ? v->n : 0;
    while (from > 0 && v->p[from - 1] != ',' && v->p[from - 1] != ' ')
        from--;
    if (!v || v->n - from >= sizeof(text))
        return false;
    struct sockaddr_storage ss;
    memcpy(text, v->p + from, v->n - from);
    text[v->n - from] = '\0';
    if (uv_ip4_addr(text, 0, (struct sockaddr_in *)&ss) != 0 &&
        uv_ip6_addr(text, 0, (struct sockaddr_in6 *)&ss) != 0)
        return false;
    conn_addr_set(out, (struct sockaddr *)&ss);
    return true;
}

int proxied_header(const struct config *cfg, struct conn_addr *a, const uint8_t *buf, size_t n,
                   const char **why)
{
    struct proxyhdr h;
    bool trusted = proxied_trusted(cfg, a);
    int len = proxyhdr_parse(&h, buf, n);

    if (!trusted && len == PROXYHDR_NONE)
        return PROXIED_NOTHING;
    if (len == 0 && (trusted || n < 6))
        return 0;
    if (!trusted)
        *why = "a PROXY header from an address that is not in trusted_proxies";
    else if (len == PROXYHDR_NONE)
        *why = "no PROXY header, though proxy_protocol is on and the address is in trusted_proxies";
    else if (len == PROXYHDR_UNFIT)
        *why = "a PROXY header of something else than TCP, or one too long";
    else if (len < 0)
        *why = "a malformed PROXY header";
    if (len < 0 || !trusted)
        return -1;
    if (h.named) {
        memcpy(a->ip, h.ip, sizeof(a->ip));
        a->port = h.port;
    }
    return len;
}
