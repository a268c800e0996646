/* Hex for keys and digests.  libsodium does the digits, because the strings may be secrets and its
 * conversions take the same time whatever the digits are.
 *
 * Happy path: bytes to text and back.  Failure: wire_unhex refuses a wrong length or digit and leaves
 * nothing half-decoded behind. */
#include "proto/wire.h"

#include <sodium.h>

void wire_hex(char *out, const uint8_t *in, size_t n)
{
    sodium_bin2hex(out, 2 * n + 1, in, n);
}

int wire_unhex(uint8_t *out, size_t n, const char *text, size_t len)
{
    size_t got = 0;

    if (sodium_hex2bin(out, n, text, len, NULL, &got, NULL) != 0 || got != n) {
        sodium_memzero(out, n);
        return -1;
    }
    return 0;
}
