/* Keys as text, the key file of derper, the keyring of a mesh.
 *
 * Happy path: derper.key or our own node.key becomes a key pair, the mesh key file a keyring; public
 * keys are printed as Tailscale prints them.  Failure: -1 with a sentence that says what and where, and
 * never shows a byte of the text; whatever was decoded is wiped. */
#include "proto/key.h"

#include <stdio.h>

#include <sodium.h>

#include "proto/flatjson.h"
#include "proto/wire.h"

#define PUBLIC_PREFIX "nodekey:"
#define SECRET_PREFIX "privkey:"

enum {
    PREFIX_LEN = sizeof PUBLIC_PREFIX - 1,
    KEY_FILE_MAX = 64 << 10,
    SECRET_TEXT = PREFIX_LEN + 2 * KEY_LEN
};

bool key_is_zero(const struct derp_key *k)
{
    return sodium_is_zero(k->b, KEY_LEN);
}

void key_pair_generate(struct key_pair *kp)
{
    uint8_t secret[KEY_LEN];

    randombytes_buf(secret, sizeof secret);
    secret[0] &= 248;
    secret[31] = (uint8_t)((secret[31] & 127) | 64);
    key_pair_from_secret(kp, secret);
    sodium_memzero(secret, sizeof secret);
}

void key_pair_from_secret(struct key_pair *kp, const uint8_t secret[static KEY_LEN])
{
    memmove(kp->secret, secret, KEY_LEN);
    /* Clamps a copy of the scalar, so a key that was stored unclamped has the public half that Go gives it. */
    crypto_scalarmult_base(kp->pub.b, kp->secret);
}

void key_pair_wipe(struct key_pair *kp)
{
    sodium_memzero(kp, sizeof *kp);
}

void key_public_text(char out[static KEY_TEXT_MAX], const struct derp_key *k)
{
    memcpy(out, PUBLIC_PREFIX, PREFIX_LEN);
    wire_hex(out + PREFIX_LEN, k->b, KEY_LEN);
}

void key_short(char out[static 8], const struct derp_key *k)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    if (key_is_zero(k)) { /* as Tailscale has it */
        out[0] = 0;
        return;
    }
    out[0] = '[';
    out[1] = digit[k->b[0] >> 2];
    out[2] = digit[(k->b[0] & 3) << 4 | k->b[1] >> 4];
    out[3] = digit[(k->b[1] & 15) << 2 | k->b[2] >> 6];
    out[4] = digit[k->b[2] & 63];
    out[5] = digit[k->b[3] >> 2];
    out[6] = ']';
    out[7] = 0;
}

int key_public_parse(struct derp_key *k, const char *text, size_t len)
{
    if (len < PREFIX_LEN || memcmp(text, PUBLIC_PREFIX, PREFIX_LEN) != 0)
        return -1;
    return wire_unhex(k->b, KEY_LEN, text + PREFIX_LEN, len - PREFIX_LEN);
}

/* The value of "PrivateKey": 0, or what is wrong with it. */
static const char *read_secret(uint8_t secret[static KEY_LEN], const struct flat_member *m)
{
    char text[SECRET_TEXT + 2];
    const char *wrong = NULL;
    long n = flat_string(m, text, sizeof text);

    if (n < 0)
        wrong = "PrivateKey is no string";
    else if (n < PREFIX_LEN || memcmp(text, SECRET_PREFIX, PREFIX_LEN) != 0)
        wrong = "PrivateKey does not begin with \"" SECRET_PREFIX "\"";
    else if (n != SECRET_TEXT || wire_unhex(secret, KEY_LEN, text + PREFIX_LEN, 2 * KEY_LEN) < 0)
        wrong = "PrivateKey is not \"" SECRET_PREFIX "\" and 64 hex digits";
    else if (sodium_is_zero(secret, KEY_LEN))
        wrong = "PrivateKey is all zeros";
    sodium_memzero(text, sizeof text);
    return wrong;
}

static const char *read_key_file(uint8_t secret[static KEY_LEN], const char *text, size_t len)
{
    struct flat_reader r;
    struct flat_member m;
    const char *wrong = "there is no \"PrivateKey\" in it";
    int rc;

    if (len > KEY_FILE_MAX)
        return "it is too long for a key file";
    if (flat_open(&r, text, len) < 0)
        return "it is no JSON object ({\"PrivateKey\": \"" SECRET_PREFIX "...\"})";
    while ((rc = flat_next(&r, &m)) > 0) {
        if (flat_named(&m, "PrivateKey") && (wrong = read_secret(secret, &m)) != NULL)
            return wrong;
    }
    return rc < 0 ? "its JSON is malformed" : wrong;
}

int key_file_parse(struct key_pair *kp, const char *text, size_t len, char *err, size_t err_len)
{
    uint8_t secret[KEY_LEN];
    const char *wrong = read_key_file(secret, text, len);

    if (wrong)
        snprintf(err, err_len, "not a key file: %s", wrong);
    else
        key_pair_from_secret(kp, secret);
    sodium_memzero(secret, sizeof secret);
    return wrong ? -1 : 0;
}

int key_file_format(const struct key_pair *kp, char *out, size_t out_len)
{
    char hex[2 * KEY_LEN + 1];
    int n;

    wire_hex(hex, kp->secret, KEY_LEN);
    /* Byte for byte what derper writes, so that either program takes the other's file. */
    n = snprintf(out, out_len, "{\n\t\"PrivateKey\": \"" SECRET_PREFIX "%s\"\n}", hex);
    sodium_memzero(hex, sizeof hex);
    if (n < 0 || (size_t)n >= out_len) {
        sodium_memzero(out, out_len);
        return -1;
    }
    return n;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

/* One line of a keyring, without its newline: NULL, or what is wrong with it. */
static const char *read_mesh_line(struct mesh_keys *mk, const char *p, size_t n)
{
    const char *comment = memchr(p, '#', n);

    if (comment)
        n = (size_t)(comment - p);
    while (n > 0 && is_blank(p[0]))
        p++, n--;
    while (n > 0 && is_blank(p[n - 1]))
        n--;
    if (n == 0)
        return NULL;
    if (mk->n == MESH_KEYS_MAX)
        return "there are more than four keys";
    if (wire_unhex(mk->key[mk->n], KEY_LEN, p, n) < 0)
        return "a mesh key is 64 hex digits";
    if (sodium_is_zero(mk->key[mk->n], KEY_LEN))
        return "the mesh key is all zeros";
    mk->n++;
    return NULL;
}

int mesh_keys_parse(struct mesh_keys *mk, const char *text, size_t len, char *err, size_t err_len)
{
    const char *p = text, *end = text + len, *wrong = NULL;

    memset(mk, 0, sizeof *mk);
    for (int line = 1; p < end; line++) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        const char *stop = nl ? nl : end;
        wrong = read_mesh_line(mk, p, (size_t)(stop - p));
        if (wrong) {
            snprintf(err, err_len, "line %d: %s", line, wrong);
            sodium_memzero(mk, sizeof *mk);
            return -1;
        }
        p = nl ? nl + 1 : end;
    }
    if (mk->n == 0) {
        snprintf(err, err_len, "it holds no mesh key");
        return -1;
    }
    return 0;
}
