/* The msgpack cursor: any walk stays inside the input, a failed read does not move, a skip ends. */
#include <stdlib.h>

#include "proto/mpread.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(int ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mpread r, before;
    if (size < 1)
        return 0;
    /* The first byte picks what is tried first; the rest is the input. */
    uint8_t pick = *data++;
    size--;
    mpread_init(&r, data, size);
    for (;;) {
        uint64_t v;
        uint32_t n;
        bool b;
        const uint8_t *p = data;
        const char *s = "";
        char name[8];
        size_t len = 0;
        int rc;
        before = r;
        switch (pick++ % 7) {
        case 0:
            rc = mpread_array(&r, &n);
            expect(rc != 0 || n <= mpread_left(&r));
            break;
        case 1:
            rc = mpread_uint(&r, &v);
            break;
        case 2:
            rc = mpread_bool(&r, &b);
            break;
        case 3:
            rc = mpread_bin(&r, &p, &len);
            expect(rc != 0 || (p >= data && p + len == r.p));
            break;
        case 4:
            rc = mpread_str(&r, &s, &len);
            expect(rc != 0 || ((const uint8_t *)s >= data && (const uint8_t *)s + len == r.p));
            break;
        case 5:
            rc = mpread_name(&r, name, sizeof name);
            break;
        default:
            rc = mpread_skip(&r);
            if (rc != 0)
                return 0;
        }
        expect(rc == 0 ? r.p > before.p : r.p == before.p);
        expect(r.p >= data && r.p <= data + size);
    }
}
