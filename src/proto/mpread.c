/* A bounded msgpack cursor.
 *
 * Happy path: head() reads a value's first bytes into a kind, a count and a length; each mpread_* accepts one kind.
 * How it fails: -1 without moving, for another kind, for a truncated value and for a count that cannot be true. */
#include "proto/mpread.h"

#include <string.h>

#include "proto/wire.h"

enum kind { KIND_UINT, KIND_OTHER, KIND_BOOL, KIND_BIN, KIND_STR, KIND_ARRAY, KIND_MAP };

/* What stands at the cursor. */
struct head {
    enum kind kind;
    uint64_t value;    /* UINT, BOOL: itself; ARRAY: elements; MAP: keys and values together */
    size_t head_len;   /* bytes before the body */
    uint64_t body_len; /* BIN, STR and OTHER: bytes after the head */
};

void mpread_init(struct mpread *r, const uint8_t *p, size_t n)
{
    r->p = p;
    r->end = p + n;
}

static uint64_t get_be(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v = v << 8 | p[i];
    return v;
}

/* Types whose first byte says all (fixint, fixmap, fixarray, fixstr, negative fixint).  False for the others. */
static bool head_fix(struct head *h, uint8_t b)
{
    h->head_len = 1;
    if (b < 0x80) {
        h->kind = KIND_UINT;
        h->value = b;
    } else if (b < 0x90) {
        h->kind = KIND_MAP;
        h->value = 2 * (b & 15u);
    } else if (b < 0xa0) {
        h->kind = KIND_ARRAY;
        h->value = b & 15u;
    } else if (b < 0xc0) {
        h->kind = KIND_STR;
        h->body_len = b & 31u;
    } else if (b >= 0xe0) {
        h->kind = KIND_OTHER;
    } else {
        return false;
    }
    return true;
}

/* How many bytes of count or number follow the first byte of 0xc0…0xdf, and what it is.  -1 for the unused 0xc1. */
static const struct {
    int8_t len;
    uint8_t kind;
} HEADS[32] = {
    {0, KIND_OTHER}, {-1, KIND_OTHER}, {0, KIND_BOOL},  {0, KIND_BOOL},  /* nil, unused, false, true */
    {1, KIND_BIN},   {2, KIND_BIN},    {4, KIND_BIN},                    /* bin 8 16 32 */
    {1, KIND_OTHER}, {2, KIND_OTHER},  {4, KIND_OTHER},                  /* ext 8 16 32 */
    {4, KIND_OTHER}, {8, KIND_OTHER},                                    /* float 32 64 */
    {1, KIND_UINT},  {2, KIND_UINT},   {4, KIND_UINT},  {8, KIND_UINT},  /* uint */
    {1, KIND_OTHER}, {2, KIND_OTHER},  {4, KIND_OTHER}, {8, KIND_OTHER}, /* int: negative, or oddly spelled */
    {0, KIND_OTHER}, {0, KIND_OTHER},  {0, KIND_OTHER}, {0, KIND_OTHER}, /* fixext 1 2 4 8 */
    {0, KIND_OTHER},                                                     /* fixext 16 */
    {1, KIND_STR},   {2, KIND_STR},    {4, KIND_STR},                    /* str 8 16 32 */
    {2, KIND_ARRAY}, {4, KIND_ARRAY},  {2, KIND_MAP},   {4, KIND_MAP},   /* array, map */
};

static int head_long(struct head *h, const struct mpread *r)
{
    uint8_t b = *r->p;
    int len = HEADS[b - 0xc0].len;
    if (len < 0 || mpread_left(r) < 1 + (size_t)len)
        return -1;
    uint64_t v = get_be(r->p + 1, (size_t)len);
    h->kind = HEADS[b - 0xc0].kind;
    h->head_len = 1 + (size_t)len;
    switch (h->kind) {
    case KIND_BOOL:
        h->value = b == 0xc3;
        break;
    case KIND_BIN:
    case KIND_STR:
        h->body_len = v;
        break;
    case KIND_MAP:
        h->value = 2 * v;
        break;
    case KIND_UINT:
    case KIND_ARRAY:
        h->value = v;
        break;
    case KIND_OTHER:
        if (b >= 0xc7 && b <= 0xc9) /* ext: length, then a type byte */
            h->body_len = v + 1;
        else if (b >= 0xd4 && b <= 0xd8) /* fixext: a type byte and 1, 2, 4, 8 or 16 */
            h->body_len = 1 + ((uint64_t)1 << (b - 0xd4));
        else if (b >= 0xd0 && b <= 0xd3 && !(r->p[1] & 0x80))
            h->kind = KIND_UINT, h->value = v; /* int spelling of a number that is not negative */
        break;
    }
    return 0;
}

static int head(struct head *h, const struct mpread *r)
{
    if (r->p == r->end)
        return -1;
    *h = (struct head){0};
    if (!head_fix(h, *r->p) && head_long(h, r) != 0)
        return -1;
    size_t left = mpread_left(r) - h->head_len;
    if (h->body_len > left)
        return -1;
    /* Each element takes at least one byte. */
    if ((h->kind == KIND_ARRAY || h->kind == KIND_MAP) && h->value > left)
        return -1;
    return 0;
}

int mpread_array(struct mpread *r, uint32_t *n)
{
    struct head h;
    if (head(&h, r) != 0 || h.kind != KIND_ARRAY)
        return -1;
    *n = (uint32_t)h.value;
    r->p += h.head_len;
    return 0;
}

int mpread_uint(struct mpread *r, uint64_t *v)
{
    struct head h;
    if (head(&h, r) != 0 || h.kind != KIND_UINT)
        return -1;
    *v = h.value;
    r->p += h.head_len;
    return 0;
}

int mpread_u32(struct mpread *r, uint32_t *v, uint32_t max)
{
    struct mpread at = *r;
    uint64_t wide;
    if (mpread_uint(&at, &wide) != 0 || wide > max)
        return -1;
    *v = (uint32_t)wide;
    *r = at;
    return 0;
}

int mpread_bool(struct mpread *r, bool *v)
{
    struct head h;
    if (head(&h, r) != 0 || h.kind != KIND_BOOL)
        return -1;
    *v = h.value != 0;
    r->p += h.head_len;
    return 0;
}

static int read_bytes(struct mpread *r, enum kind kind, const uint8_t **p, size_t *n)
{
    struct head h;
    if (head(&h, r) != 0 || h.kind != kind)
        return -1;
    *p = r->p + h.head_len;
    *n = (size_t)h.body_len;
    r->p += h.head_len + *n;
    return 0;
}

int mpread_bin(struct mpread *r, const uint8_t **p, size_t *n)
{
    return read_bytes(r, KIND_BIN, p, n);
}

int mpread_bin_exact(struct mpread *r, uint8_t *out, size_t n)
{
    struct mpread at = *r;
    const uint8_t *p;
    size_t len;
    if (mpread_bin(&at, &p, &len) != 0 || len != n)
        return -1;
    memcpy(out, p, n);
    *r = at;
    return 0;
}

int mpread_str(struct mpread *r, const char **p, size_t *n)
{
    const uint8_t *bytes;
    if (read_bytes(r, KIND_STR, &bytes, n) != 0)
        return -1;
    *p = (const char *)bytes;
    return 0;
}

int mpread_name(struct mpread *r, char *out, size_t cap)
{
    struct mpread at = *r;
    const char *p;
    size_t n;
    if (mpread_str(&at, &p, &n) != 0 || n >= cap)
        return -1;
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)p[i] < 0x20 || p[i] == 0x7f)
            return -1;
    memcpy(out, p, n);
    out[n] = 0;
    *r = at;
    return 0;
}

int mpread_skip(struct mpread *r)
{
    struct mpread at = *r;
    uint64_t open[MPREAD_DEPTH_MAX]; /* values still to come at each level */
    int depth = 0;
    open[0] = 1;
    for (;;) {
        while (depth >= 0 && open[depth] == 0)
            depth--;
        if (depth < 0)
            break;
        struct head h;
        if (head(&h, &at) != 0)
            return -1;
        open[depth]--;
        at.p += h.head_len + h.body_len;
        if (h.kind != KIND_ARRAY && h.kind != KIND_MAP)
            continue;
        if (depth + 1 == MPREAD_DEPTH_MAX)
            return -1;
        open[++depth] = h.value;
    }
    *r = at;
    return 0;
}
