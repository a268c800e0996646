/* PROXY headers: never longer than what came, a prefix of a good one asks for more, the bytes behind one change nothing. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/proxyhdr.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct proxyhdr h, again;
    int rc = proxyhdr_parse(&h, data, size);

    if (rc > 0) {
        if ((size_t)rc > size || rc > PROXYHDR_V2_MAX)
            abort();
        if (proxyhdr_parse(&again, data, (size_t)rc) != rc || memcmp(&h, &again, sizeof h) != 0)
            abort();
        for (size_t n = 0; n < (size_t)rc; n++)
            if (proxyhdr_parse(&again, data, n) != 0)
                abort();
    }
    if (rc == 0 && size >= PROXYHDR_V2_MAX)
        abort(); /* would wait for ever */
    return 0;
}
