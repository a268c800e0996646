/* What a verify service may answer, and any text as its URL. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "node/verify_url.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool allow = false;
    char shown[VERIFY_URL_SHOWN];
    if (verify_answer_parse((const char *)data, size, &allow) == 0) {
        assert(size <= VERIFY_ANSWER_MAX);
        assert(memchr(data, '{', size));
    }
    char *url = malloc(size + 1);
    if (!url)
        return 0;
    memcpy(url, data, size);
    url[size] = 0;
    assert(verify_url_shown(shown, url) == shown && strlen(shown) < sizeof(shown));
    assert(!strpbrk(shown, "?#"));
    free(url);
    return 0;
}
