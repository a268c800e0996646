/* The PROXY protocol's header: see proxyhdr.h.
 *
 * Happy path: version 2 is 16 bytes with a length and then addresses, version 1 a line of text.
 * Fails: at the first byte that fits neither; nothing beyond PROXYHDR_V2_MAX bytes is ever waited for. */
#include "proto/proxyhdr.h"

#include <arpa/inet.h>
#include <string.h>

enum { V2_FIXED = 16, V2_LOCAL = 0x20, V2_PROXY = 0x21, V2_TCP4 = 0x11, V2_TCP6 = 0x21, V2_UNSPEC = 0 };

static const uint8_t v2_sign[12] = {0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a};
static const char v1_sign[] = "PROXY ";

static bool begins(const uint8_t *buf, size_t n, const void *sign, size_t sign_len)
{
    return memcmp(buf, sign, n < sign_len ? n : sign_len) == 0;
}

static void name_v4(struct proxyhdr *h, const uint8_t ip[static 4], uint16_t port)
{
    h->named = true;
    memset(h->ip, 0, 10);
    h->ip[10] = h->ip[11] = 0xff;
    memcpy(h->ip + 12, ip, 4);
    h->port = port;
}

static void name_v6(struct proxyhdr *h, const uint8_t ip[static 16], uint16_t port)
{
    h->named = true;
    memcpy(h->ip, ip, 16);
    h->port = port;
}

/* ---- version 2 ---- */

static int parse_v2(struct proxyhdr *h, const uint8_t *buf, size_t n)
{
    if (n >= 13 && buf[12] != V2_LOCAL && buf[12] != V2_PROXY)
        return PROXYHDR_BAD;
    if (n < V2_FIXED)
        return 0;
    size_t len = (size_t)buf[14] << 8 | buf[15];
    const uint8_t *a = buf + V2_FIXED;
    uint8_t family = buf[13];
    if (V2_FIXED + len > PROXYHDR_V2_MAX)
        return PROXYHDR_UNFIT;
    if (buf[12] == V2_PROXY) {
        if (family != V2_TCP4 && family != V2_TCP6 && family != V2_UNSPEC)
            return (family >> 4) > 3 || (family & 15) > 2 ? PROXYHDR_BAD : PROXYHDR_UNFIT;
        if ((family == V2_TCP4 && len < 12) || (family == V2_TCP6 && len < 36))
            return PROXYHDR_BAD;
    }
    if (n < V2_FIXED + len)
        return 0;
    if (buf[12] == V2_PROXY && family == V2_TCP4)
        name_v4(h, a, (uint16_t)(a[8] << 8 | a[9]));
    else if (buf[12] == V2_PROXY && family == V2_TCP6)
        name_v6(h, a, (uint16_t)(a[32] << 8 | a[33]));
    return (int)(V2_FIXED + len);
}

/* ---- version 1 ---- */

/* The next word of the line, ended by one space or the line's end; false if it is empty or longer than fits. */
static bool word(const char **at, const char *end, char *out, size_t size)
{
    size_t n = 0;
    while (*at < end && **at != ' ') {
        if (n + 1 >= size)
            return false;
        out[n++] = *(*at)++;
    }
    out[n] = 0;
    if (*at < end)
        (*at)++;
    return n > 0;
}

/* Decimal, no sign, no leading zero, up to 65535; -1 if not. */
static int port_of(const char *s)
{
    int v = 0;
    if (s[0] == '0' && s[1])
        return -1;
    for (; *s; s++) {
        if (*s < '0' || *s > '9')
            return -1;
        v = v * 10 + (*s - '0');
        if (v > 65535)
            return -1;
    }
    return v;
}

static int parse_line(struct proxyhdr *h, const char *at, const char *end)
{
    char family[8], src[46], dst[46], src_port[6], dst_port[6];
    uint8_t a[16], b[16];

    if (!word(&at, end, family, sizeof(family)))
        return PROXYHDR_BAD;
    if (strcmp(family, "UNKNOWN") == 0)
        return 0; /* the rest of the line means nothing */
    int af = strcmp(family, "TCP4") == 0 ? AF_INET : strcmp(family, "TCP6") == 0 ? AF_INET6 : -1;
    if (af < 0 || !word(&at, end, src, sizeof(src)) || !word(&at, end, dst, sizeof(dst)) ||
        !word(&at, end, src_port, sizeof(src_port)) || end[-1] == ' ' ||
        !word(&at, end, dst_port, sizeof(dst_port)) || at != end)
        return PROXYHDR_BAD;
    int port = port_of(src_port);
    if (port < 0 || port_of(dst_port) < 0 || inet_pton(af, src, a) != 1 || inet_pton(af, dst, b) != 1)
        return PROXYHDR_BAD;
    if (af == AF_INET)
        name_v4(h, a, (uint16_t)port);
    else
        name_v6(h, a, (uint16_t)port);
    return 0;
}

static int parse_v1(struct proxyhdr *h, const uint8_t *buf, size_t n)
{
    const char *text = (const char *)buf;
    size_t most = n < PROXYHDR_V1_MAX ? n : PROXYHDR_V1_MAX;
    const char *nl = memchr(text, '\n', most);
    if (memchr(text, 0, nl ? (size_t)(nl - text) : most))
        return PROXYHDR_BAD;
    if (!nl)
        return n < PROXYHDR_V1_MAX ? 0 : PROXYHDR_BAD;
    if (nl[-1] != '\r')
        return PROXYHDR_BAD;
    int rc = parse_line(h, text + sizeof(v1_sign) - 1, nl - 1);
    return rc < 0 ? rc : (int)(nl - text) + 1;
}

/* ---- door ---- */

int proxyhdr_parse(struct proxyhdr *h, const uint8_t *buf, size_t n)
{
    memset(h, 0, sizeof(*h));
    if (begins(buf, n, v2_sign, sizeof(v2_sign)))
        return n <= sizeof(v2_sign) ? 0 : parse_v2(h, buf, n);
    if (begins(buf, n, v1_sign, sizeof(v1_sign) - 1))
        return n < sizeof(v1_sign) - 1 ? 0 : parse_v1(h, buf, n);
    return PROXYHDR_NONE;
}
