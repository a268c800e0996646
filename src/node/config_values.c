/* How single values are written: numbers, durations, addresses, prefixes.  Pure but for config_cpus.
 *
 * How it fails: -1, and what it was to fill in is not to be used. */
#include "node/config_parts.h"

#include <arpa/inet.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

int config_number(const char *text, uint64_t *out, const char **end)
{
    const char *s = text;

    for (*out = 0; *s >= '0' && *s <= '9'; s++) {
        *out = *out * 10 + (uint64_t)(*s - '0');
        if (*out > UINT32_MAX)
            return -1;
    }
    *end = s;
    return s > text ? 0 : -1;
}

/* "20s", "1m30s", "500ms"; "0".  Up to end, which may be n bytes further. */
int config_duration(const char *text, size_t n, uint32_t *ms)
{
    static const struct {
        const char *unit;
        uint32_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
    char copy[32];
    uint64_t sum = 0, v;

    if (n == 0 || n >= sizeof(copy))
        return -1;
    memcpy(copy, text, n);
    copy[n] = 0;
    *ms = 0;
    if (strcmp(copy, "0") == 0)
        return 0;
    for (const char *s = copy; *s;) {
        if (config_number(s, &v, &s))
            return -1;
        size_t len = strspn(s, "hms"), i;
        for (i = 0; i < sizeof(units) / sizeof(units[0]); i++)
            if (strlen(units[i].unit) == len && memcmp(s, units[i].unit, len) == 0)
                break;
        if (i == sizeof(units) / sizeof(units[0]))
            return -1;
        sum += v * units[i].ms;
        if (sum > UINT32_MAX)
            return -1;
        s += len;
    }
    *ms = (uint32_t)sum;
    return 0;
}

/* An address of digits: names are never looked up here.  A zone ("fe80::1%eth0") is kept. */
static bool is_address(const char *addr, bool v6)
{
    char copy[64];
    uint8_t ip[16];

    snprintf(copy, sizeof(copy), "%s", addr);
    if (v6)
        copy[strcspn(copy, "%")] = 0;
    return inet_pton(v6 ? AF_INET6 : AF_INET, copy, ip) == 1;
}

int config_listen_parse(struct config_listen *l, const char *text)
{
    const char *colon = strrchr(text, ':'), *end;
    bool brackets = text[0] == '[';
    uint64_t port;

    if (strcasecmp(text, "off") == 0) {
        *l = (struct config_listen){.port = -1};
        return 0;
    }
    if (!colon || config_number(colon + 1, &port, &end) || *end || port > 65535)
        return -1;
    if (brackets && (colon - text < 2 || colon[-1] != ']'))
        return -1;
    const char *from = text + brackets;
    size_t n = (size_t)(colon - from) - brackets;
    struct config_listen out = {.port = (int)port};
    if (n >= sizeof(out.addr))
        return -1;
    memcpy(out.addr, from, n);
    if ((n || brackets) && !is_address(out.addr, brackets))
        return -1;
    *l = out;
    return 0;
}

/* "10.0.0.0/8", "::1", n bytes of text.  Bits below the prefix are cleared. */
int config_cidr_parse(struct config_cidr *out, const char *text, size_t n)
{
    char copy[64];
    uint64_t bits = 128;
    const char *end;

    if (n >= sizeof(copy))
        return -1;
    memcpy(copy, text, n);
    copy[n] = 0;
    char *slash = strchr(copy, '/');
    if (slash && (config_number(slash + 1, &bits, &end) || *end))
        return -1;
    if (slash)
        *slash = 0;
    memset(out->ip, 0, sizeof(out->ip));
    if (inet_pton(AF_INET, copy, out->ip + 12) == 1) {
        memset(out->ip + 10, 0xff, 2);
        bits = slash ? bits + 96 : 128;
    } else if (inet_pton(AF_INET6, copy, out->ip) != 1) {
        return -1;
    }
    if (bits > 128)
        return -1;
    for (uint64_t i = bits; i < 128; i++)
        out->ip[i / 8] &= (uint8_t) ~(0x80 >> i % 8);
    out->bits = (int)bits;
    return 0;
}

int config_cpus(void)
{
    cpu_set_t set;
    long n;

    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        return CPU_COUNT(&set);
    n = sysconf(_SC_NPROCESSORS_ONLN); /* more processors than the set holds */
    return n > 0 ? (int)n : 1;
}

bool config_list_has(const char *list, const char *name)
{
    size_t len = strlen(name);

    for (size_t n; list && *list; list += n) {
        list += strspn(list, ", ");
        n = strcspn(list, ", ");
        if (n > 0 && n == len && memcmp(list, name, n) == 0)
            return true;
    }
    return false;
}
