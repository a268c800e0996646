/* The allow file's text: refused with a place, or a set that has what stands there. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "node/allow.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[256] = "", text[KEY_TEXT_MAX + 1];
    struct derp_key zero = {{0}};
    struct allow_set *s = allow_parse("f", (const char *)data, size, err, sizeof(err));
    if (!s) {
        assert(strncmp(err, "f:", 2) == 0);
        return 0;
    }
    assert(allow_count(s) > 0 && allow_count(s) <= size / 72 + 1);
    assert(!allow_has(s, &zero));
    /* what has been written by us is read by us */
    for (size_t i = 0; i + 8 + 64 <= size; i++) {
        struct derp_key k;
        if (i > 0 && data[i - 1] != '\n')
            continue;
        if (key_public_parse(&k, (const char *)data + i, 72) != 0 || (i + 72 < size && data[i + 72] != '\n'))
            continue;
        assert(allow_has(s, &k));
        key_public_text(text, &k);
        strcat(text, "\n");
        struct allow_set *one = allow_parse("f", text, strlen(text), err, sizeof(err));
        assert(one && allow_count(one) == 1 && allow_has(one, &k));
        allow_unref(one);
        break;
    }
    allow_unref(s);
    return 0;
}
