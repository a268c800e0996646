/* WebSocket framing: the same bytes in one piece and in pieces give the same payload, end and close; answers stay bounded. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/ws.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct result {
    uint8_t *payload;
    size_t n;
    enum ws_end end;
    uint8_t last[WS_CONTROL_MAX];
    size_t last_len;
};

static struct result run(const uint8_t *data, size_t size, size_t step)
{
    struct result r = {.payload = malloc(size + 1)};
    struct ws *w = ws_new();
    uint8_t *piece = malloc(step);

    for (size_t off = 0; off < size; off += step) {
        size_t n = size - off < step ? size - off : step;
        memcpy(piece, data + off, n);
        size_t k = ws_input(w, piece, n);
        if (k > n)
            abort();
        memcpy(r.payload + r.n, piece, k);
        r.n += k;
    }
    r.end = ws_ended(w);
    r.last_len = ws_answer(w, r.last);
    if (r.last_len > 0 && (r.last_len != 2u + r.last[1] || r.last[1] > 125))
        abort();
    if (r.end != WS_OPEN && r.last_len > 0 && r.last[0] != 0x88)
        abort();
    free(piece);
    ws_free(w);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct result a = run(data + 1, size - 1, size), b = run(data + 1, size - 1, 1 + data[0]);

    if (a.n != b.n || memcmp(a.payload, b.payload, a.n) != 0 || a.end != b.end || a.last_len != b.last_len ||
        memcmp(a.last, b.last, a.last_len) != 0)
        abort();
    free(a.payload);
    free(b.payload);
    return 0;
}
