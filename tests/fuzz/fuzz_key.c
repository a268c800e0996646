/* Key files, keyrings and public keys, all from the same bytes.
 *
 * Claims: what is accepted is written again and read as the same key; an error message holds no part
 * of the key. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "proto/key.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int ok)
{
    if (!ok)
        abort();
}

/* Messages are words; a key's part would show as eight hex digits in a row. */
static void check_message(const char *err)
{
    size_t run = 0;

    must(*err != 0);
    for (; *err; err++) {
        must(*err >= 0x20 && *err <= 0x7e);
        run = strchr("0123456789abcdefABCDEF", *err) ? run + 1 : 0;
        must(run < 8);
    }
}

static void check_key_file(const char *text, size_t n)
{
    struct key_pair kp, again;
    char err[160], file[128];
    int len;

    if (key_file_parse(&kp, text, n, err, sizeof err) < 0) {
        check_message(err);
        return;
    }
    len = key_file_format(&kp, file, sizeof file);
    must(len > 0 && key_file_parse(&again, file, (size_t)len, err, sizeof err) == 0);
    must(memcmp(&kp, &again, sizeof kp) == 0);
}

static void check_keyring(const char *text, size_t n)
{
    struct mesh_keys mk;
    char err[160];

    if (mesh_keys_parse(&mk, text, n, err, sizeof err) < 0) {
        check_message(err);
        must(sodium_is_zero((const uint8_t *)&mk, sizeof mk));
        return;
    }
    must(mk.n >= 1 && mk.n <= MESH_KEYS_MAX);
    for (int i = 0; i < MESH_KEYS_MAX; i++)
        must(sodium_is_zero(mk.key[i], KEY_LEN) == (i >= mk.n));
}

static void check_public(const char *text, size_t n)
{
    struct derp_key k, again;
    char out[KEY_TEXT_MAX], brief[8];

    if (key_public_parse(&k, text, n) < 0)
        return;
    key_public_text(out, &k);
    must(strlen(out) == n && key_public_parse(&again, out, n) == 0 && key_equal(&k, &again));
    key_short(brief, &k);
    must(strlen(brief) == (key_is_zero(&k) ? 0 : 7));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *text = malloc(n ? n : 1);

    memcpy(text, data, n);
    check_key_file(text, n);
    check_keyring(text, n);
    check_public(text, n);
    free(text);
    return 0;
}
