/* Login payloads: as they come, and as the text inside a box that opens.
 *
 * The first byte chooses.  Claims: nothing but the declared errors; strings are terminated, printable and
 * hex; a refused login leaves no key and no secret behind. */
#include <ctype.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "proto/hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int ok)
{
    if (!ok)
        abort();
}

static void check_info(const struct client_info *info)
{
    size_t app = strnlen(info->app_name, sizeof info->app_name);
    size_t mesh = strnlen(info->mesh_key, sizeof info->mesh_key);

    must(app < sizeof info->app_name);
    for (size_t i = 0; i < app; i++)
        must(info->app_name[i] >= 0x20 && info->app_name[i] <= 0x7e);
    must(mesh == (info->has_mesh_key ? 64 : 0));
    for (size_t i = 0; i < mesh; i++)
        must(isxdigit((unsigned char)info->mesh_key[i]) && !isupper((unsigned char)info->mesh_key[i]));
}

static void open_client(const uint8_t *p, size_t n, const struct key_pair *server, int must_unseal)
{
    struct derp_key client;
    struct hello_shared shared;
    struct client_info info;
    int rc = hello_open_client_info(p, n, server, &client, &shared, &info);

    must(rc <= 0 && rc >= HELLO_KEY);
    must(!must_unseal || rc == 0 || rc == HELLO_JSON);
    if (rc == 0) {
        must(memcmp(client.b, p, KEY_LEN) == 0);
        check_info(&info);
    } else {
        must(key_is_zero(&client) && sodium_is_zero(shared.k, KEY_LEN));
        must(sodium_is_zero((const uint8_t *)&info, sizeof info));
    }
}

static void open_sealed(const uint8_t *text, size_t n, const struct key_pair *server,
                        const struct key_pair *client)
{
    size_t len = HELLO_NONCE_LEN + HELLO_MAC_LEN + n;
    uint8_t *buf = calloc(1, KEY_LEN + len);
    struct hello_shared shared;
    int version;

    memcpy(buf, client->pub.b, KEY_LEN);
    must(crypto_box_easy(buf + KEY_LEN + HELLO_NONCE_LEN, text, n, buf + KEY_LEN, server->pub.b,
                         client->secret) == 0);
    open_client(buf, KEY_LEN + len, server, KEY_LEN + len <= HELLO_CLIENT_INFO_MAX);
    must(crypto_box_beforenm(shared.k, server->pub.b, client->secret) == 0);
    hello_open_server_info(buf + KEY_LEN, len, &shared, &version);
    free(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint8_t secret[KEY_LEN];
    struct key_pair server, client;
    struct derp_key key;

    if (n == 0)
        return 0;
    for (int i = 0; i < KEY_LEN; i++) /* the server of the recorded seeds */
        secret[i] = (uint8_t)(0x10 + i);
    secret[31] = 0x6f;
    key_pair_from_secret(&server, secret);
    secret[1] ^= 1;
    key_pair_from_secret(&client, secret);
    if (*data % 2 == 0) {
        open_sealed(data + 1, n - 1, &server, &client);
    } else {
        open_client(data + 1, n - 1, &server, 0);
        hello_parse_server_key(data + 1, n - 1, &key);
    }
    return 0;
}
