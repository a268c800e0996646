/* The DERP login, both ends of it, one frame at a time.
 *
 * Happy path: the server sends its key; the client answers with its own key and a sealed ClientInfo,
 * which proves that it holds the key's secret; the server answers with a sealed ServerInfo.  The X25519
 * agreement, the dear part, is done once and serves both directions.
 * Failure: a negative enum hello_error and nothing in the results; what was decrypted is wiped. */
#include "proto/hello.h"

#include <string.h>

#include <sodium.h>

#include "proto/flatjson.h"
#include "proto/wire.h"

_Static_assert(HELLO_NONCE_LEN == crypto_box_NONCEBYTES && HELLO_MAC_LEN == crypto_box_MACBYTES &&
                   KEY_LEN == crypto_box_BEFORENMBYTES,
               "libsodium's crypto_box is the NaCl box of DERP");

enum { MAGIC_LEN = 8, BOX_OVERHEAD = HELLO_NONCE_LEN + HELLO_MAC_LEN };

static const uint8_t magic[MAGIC_LEN] = {'D', 'E', 'R', 'P', 0xf0, 0x9f, 0x94, 0x91};

/* nonce, box.  Returns its length. */
static size_t seal(uint8_t *out, const char *text, const struct hello_shared *shared)
{
    size_t n = strlen(text);

    randombytes_buf(out, HELLO_NONCE_LEN);
    crypto_box_easy_afternm(out + HELLO_NONCE_LEN, (const uint8_t *)text, n, out, shared->k);
    return n + BOX_OVERHEAD;
}

/* The inverse; box_len is at least BOX_OVERHEAD, out has room for the text. */
static int unseal(uint8_t *out, const uint8_t *box, size_t box_len, const struct hello_shared *shared)
{
    return crypto_box_open_easy_afternm(out, box + HELLO_NONCE_LEN, box_len - HELLO_NONCE_LEN, box,
                                        shared->k);
}

size_t hello_server_key(uint8_t out[static HELLO_SERVER_KEY_LEN], const struct derp_key *server)
{
    frame_header(out, FRAME_SERVER_KEY, MAGIC_LEN + KEY_LEN);
    memcpy(out + FRAME_HEADER_LEN, magic, MAGIC_LEN);
    memcpy(out + FRAME_HEADER_LEN + MAGIC_LEN, server->b, KEY_LEN);
    return HELLO_SERVER_KEY_LEN;
}

/* A mesh key must be 64 hex digits, else derper refuses the login; its zero key stands for none. */
static int read_mesh_key(struct client_info *info, const struct flat_member *m)
{
    uint8_t raw[KEY_LEN];
    int rc = -1;

    if (flat_string(m, info->mesh_key, sizeof info->mesh_key) == 2 * KEY_LEN &&
        wire_unhex(raw, KEY_LEN, info->mesh_key, 2 * KEY_LEN) == 0) {
        wire_hex(info->mesh_key, raw, KEY_LEN); /* lower case, for whoever compares the text */
        info->has_mesh_key = !sodium_is_zero(raw, KEY_LEN);
        rc = 0;
    }
    if (!info->has_mesh_key)
        sodium_memzero(info->mesh_key, sizeof info->mesh_key);
    sodium_memzero(raw, sizeof raw);
    return rc;
}

static int read_app_name(struct client_info *info, const struct flat_member *m)
{
    if (flat_string(m, info->app_name, sizeof info->app_name) < 0)
        return -1;
    for (char *p = info->app_name; p < info->app_name + sizeof info->app_name - 1; p++) {
        if (*p != 0 && (*p < 0x20 || *p > 0x7e))
            *p = '?';
    }
    return 0;
}

static int read_client_info(struct client_info *info, const char *text, size_t n)
{
    struct flat_reader r;
    struct flat_member m;
    int rc, bad = 0;

    if (flat_open(&r, text, n) < 0)
        return -1;
    while ((rc = flat_next(&r, &m)) > 0) {
        if (flat_named(&m, "meshKey"))
            bad |= read_mesh_key(info, &m);
        else if (m.type == FLAT_NULL) /* Go leaves the member as it is */
            continue;
        else if (flat_named(&m, "version"))
            bad |= flat_int(&m, &info->version);
        else if (flat_named(&m, "CanAckPings"))
            bad |= flat_bool(&m, &info->can_ack_pings);
        else if (flat_named(&m, "IsProber"))
            bad |= flat_bool(&m, &info->is_prober);
        else if (flat_named(&m, "AppName"))
            bad |= read_app_name(info, &m);
    }
    return rc < 0 || bad ? -1 : 0;
}

int hello_open_client_info(const uint8_t *payload, size_t len, const struct key_pair *server,
                           struct derp_key *client, struct hello_shared *shared, struct client_info *info)
{
    uint8_t text[HELLO_CLIENT_INFO_MAX];
    int rc = 0;

    memset(info, 0, sizeof *info);
    memset(shared, 0, sizeof *shared);
    memset(client, 0, sizeof *client);
    if (len < KEY_LEN + BOX_OVERHEAD || len > HELLO_CLIENT_INFO_MAX)
        return HELLO_SHORT;
    /* libsodium refuses points of low order, whose shared secret anybody knows; zero is one. */
    if (crypto_box_beforenm(shared->k, payload, server->secret) != 0)
        return HELLO_KEY;
    if (unseal(text, payload + KEY_LEN, len - KEY_LEN, shared) != 0)
        rc = HELLO_BOX;
    else if (read_client_info(info, (const char *)text, len - KEY_LEN - BOX_OVERHEAD) < 0)
        rc = HELLO_JSON;
    sodium_memzero(text, len - KEY_LEN - BOX_OVERHEAD);
    if (rc < 0) {
        sodium_memzero(shared, sizeof *shared);
        sodium_memzero(info, sizeof *info);
        return rc;
    }
    memcpy(client->b, payload, KEY_LEN);
    return 0;
}

const char *hello_error_text(int err)
{
    switch (err) {
    case HELLO_SHORT:
        return "login frame of a wrong length";
    case HELLO_BOX:
        return "login not sealed for this server's key";
    case HELLO_JSON:
        return "login holds no valid JSON";
    case HELLO_KEY:
        return "unusable public key";
    case HELLO_MAGIC:
        return "not a DERP server";
    default:
        return "no error";
    }
}

size_t hello_server_info(uint8_t out[static HELLO_FRAME_MAX], const struct hello_shared *shared)
{
    /* Version only: the TokenBucket members would make clients drop packets. */
    size_t n = seal(out + FRAME_HEADER_LEN, "{\"version\":2}", shared);

    return n + frame_header(out, FRAME_SERVER_INFO, (uint32_t)n);
}

int hello_parse_server_key(const uint8_t *payload, size_t len, struct derp_key *server)
{
    static const uint8_t any_scalar[KEY_LEN] = {8, [KEY_LEN - 1] = 64};
    uint8_t point[KEY_LEN];

    memset(server, 0, sizeof *server);
    if (len < MAGIC_LEN + KEY_LEN)
        return HELLO_SHORT;
    if (memcmp(payload, magic, MAGIC_LEN) != 0)
        return HELLO_MAGIC;
    if (crypto_scalarmult(point, any_scalar, payload + MAGIC_LEN) != 0)
        return HELLO_KEY;
    memcpy(server->b, payload + MAGIC_LEN, KEY_LEN); /* more bytes may follow, for later versions */
    return 0;
}

static size_t client_info_frame(uint8_t out[static HELLO_FRAME_MAX], const struct key_pair *client,
                                const struct derp_key *server, const char *text, struct hello_shared *shared)
{
    size_t n;

    if (crypto_box_beforenm(shared->k, server->b, client->secret) != 0) {
        memset(shared, 0, sizeof *shared);
        return 0;
    }
    memcpy(out + FRAME_HEADER_LEN, client->pub.b, KEY_LEN);
    n = KEY_LEN + seal(out + FRAME_HEADER_LEN + KEY_LEN, text, shared);
    return n + frame_header(out, FRAME_CLIENT_INFO, (uint32_t)n);
}

size_t hello_client_info(uint8_t out[static HELLO_FRAME_MAX], const struct key_pair *client,
                         const struct derp_key *server, bool prober, struct hello_shared *shared)
{
    const char *text = prober ? "{\"version\":2,\"CanAckPings\":false,\"IsProber\":true}"
                              : "{\"version\":2,\"CanAckPings\":false}";

    return client_info_frame(out, client, server, text, shared);
}

size_t hello_mesh_info(uint8_t out[static HELLO_FRAME_MAX], const struct key_pair *client,
                       const struct derp_key *server, const uint8_t mesh_key[static KEY_LEN],
                       struct hello_shared *shared)
{
    static const char head[] = "{\"meshKey\":\"", tail[] = "\",\"version\":2,\"CanAckPings\":false}";
    char text[sizeof head + 2 * KEY_LEN + sizeof tail];
    size_t n;

    memcpy(text, head, sizeof head);
    wire_hex(text + sizeof head - 1, mesh_key, KEY_LEN);
    memcpy(text + sizeof head - 1 + 2 * KEY_LEN, tail, sizeof tail);
    n = client_info_frame(out, client, server, text, shared);
    sodium_memzero(text, sizeof text);
    return n;
}

bool hello_knows_mesh_key(const struct client_info *info, const uint8_t mesh_key[static KEY_LEN])
{
    char text[2 * KEY_LEN + 1];
    bool same;

    wire_hex(text, mesh_key, KEY_LEN);
    same = sodium_memcmp(info->mesh_key, text, 2 * KEY_LEN) == 0;
    sodium_memzero(text, sizeof text);
    return info->has_mesh_key && same;
}

int hello_open_server_info(const uint8_t *payload, size_t len, const struct hello_shared *shared,
                           int *version)
{
    uint8_t text[HELLO_CLIENT_INFO_MAX];
    struct flat_reader r;
    struct flat_member m;
    int rc, bad = 0;

    *version = 0;
    if (len < BOX_OVERHEAD || len > HELLO_CLIENT_INFO_MAX)
        return HELLO_SHORT;
    if (unseal(text, payload, len, shared) != 0)
        return HELLO_BOX;
    if (flat_open(&r, (const char *)text, len - BOX_OVERHEAD) < 0)
        return HELLO_JSON;
    while ((rc = flat_next(&r, &m)) > 0) {
        if (flat_named(&m, "version") && m.type != FLAT_NULL)
            bad |= flat_int(&m, version);
    }
    return rc < 0 || bad ? HELLO_JSON : 0;
}
