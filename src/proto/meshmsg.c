/* Mesh control messages: msgpack-c packs them into a fixed buffer, mpread reads them.
 *
 * Happy path: meshmsg_open gives the type, one meshmsg_read_* takes the elements it knows and skips the rest.
 * How it fails: a reader returns -1 for a message that is too short or of other kinds than the specification says;
 * writers cannot fail, their buffer is larger than the largest message. */
#include "proto/meshmsg.h"

#include <string.h>

#include <sodium.h>

#include "proto/meshmsg_parts.h"
#include "proto/wire.h"

void mesh_key_id_of(struct mesh_key_id *id, const uint8_t key[static KEY_LEN])
{
    static const char label[] = "derpmesh key id";
    uint8_t hash[32];
    crypto_generichash_state st;
    crypto_generichash_init(&st, NULL, 0, sizeof hash);
    crypto_generichash_update(&st, (const uint8_t *)label, sizeof label - 1);
    crypto_generichash_update(&st, key, KEY_LEN);
    crypto_generichash_final(&st, hash, sizeof hash);
    memcpy(id->b, hash, sizeof id->b);
    sodium_memzero(&st, sizeof st);
}

/* ---- reading ---- */

int meshmsg_open(struct meshmsg_in *in, uint32_t *type, const uint8_t *payload, size_t len)
{
    struct mpread whole;
    mpread_init(&in->r, payload, len);
    whole = in->r;
    if (mpread_skip(&whole) != 0 || mpread_left(&whole) != 0)
        return -1;
    if (mpread_array(&in->r, &in->left) != 0 || in->left == 0)
        return -1;
    in->left--;
    return mpread_u32(&in->r, type, UINT32_MAX);
}

int meshmsg_take(struct mpread *r, const struct meshmsg_in *in, uint32_t n)
{
    *r = in->r;
    return in->left >= n ? 0 : -1;
}

int meshmsg_read_versions(const struct meshmsg_in *in, uint32_t *min, uint32_t *max)
{
    struct mpread r;
    if (meshmsg_take(&r, in, 2) != 0 || mpread_u32(&r, min, UINT32_MAX) != 0 ||
        mpread_u32(&r, max, UINT32_MAX) != 0)
        return -1;
    return *min <= *max ? 0 : -1;
}

static int read_key_ids(struct mpread *r, struct meshmsg_hello *h)
{
    uint32_t n;
    if (mpread_array(r, &n) != 0)
        return -1;
    h->n_key_ids = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct mesh_key_id id;
        if (mpread_bin_exact(r, id.b, sizeof id.b) != 0)
            return -1;
        if (h->n_key_ids < MESH_KEYS_MAX)
            h->key_id[h->n_key_ids++] = id;
    }
    return 0;
}

static int read_limits(struct mpread *r, struct meshmsg_hello *h)
{
    uint32_t n;
    if (mpread_array(r, &n) != 0 || n < 2 || mpread_u32(r, &h->max_payload, UINT32_MAX) != 0 ||
        mpread_u32(r, &h->max_keys, UINT32_MAX) != 0)
        return -1;
    for (uint32_t i = 2; i < n; i++)
        if (mpread_skip(r) != 0)
            return -1;
    return 0;
}

int meshmsg_read_hello(const struct meshmsg_in *in, struct meshmsg_hello *h)
{
    struct mpread r;
    memset(h, 0, sizeof *h);
    if (meshmsg_take(&r, in, 16) != 0 || meshmsg_read_versions(in, &h->version_min, &h->version_max) != 0)
        return -1;
    if (mpread_skip(&r) != 0 || mpread_skip(&r) != 0 || mpread_uint(&r, &h->features) != 0 ||
        mpread_name(&r, h->software, sizeof h->software) != 0 ||
        mpread_name(&r, h->name, sizeof h->name) != 0 || mpread_name(&r, h->to, sizeof h->to) != 0 ||
        mpread_u32(&r, &h->region, UINT32_MAX) != 0 || mpread_bin_exact(&r, h->key.b, KEY_LEN) != 0 ||
        mpread_uint(&r, &h->boot) != 0 || mpread_bin_exact(&r, h->instance, sizeof h->instance) != 0 ||
        mpread_bin_exact(&r, h->nonce, sizeof h->nonce) != 0 ||
        mpread_bin_exact(&r, h->ephemeral.b, KEY_LEN) != 0 || read_key_ids(&r, h) != 0 ||
        mpread_bin_exact(&r, h->map_hash, sizeof h->map_hash) != 0 || mpread_bool(&r, &h->has_exporter) != 0)
        return -1;
    return read_limits(&r, h);
}

int meshmsg_read_auth(const struct meshmsg_in *in, struct mesh_key_id *id,
                      uint8_t mac[static MESHMSG_MAC_LEN])
{
    struct mpread r;
    if (meshmsg_take(&r, in, 2) != 0 || mpread_bin_exact(&r, id->b, sizeof id->b) != 0)
        return -1;
    return mpread_bin_exact(&r, mac, MESHMSG_MAC_LEN);
}

int meshmsg_read_lane(const struct meshmsg_in *in, struct meshmsg_lane *lane)
{
    struct mpread r;
    memset(lane, 0, sizeof *lane);
    if (meshmsg_take(&r, in, 8) != 0 || mpread_name(&r, lane->name, sizeof lane->name) != 0 ||
        mpread_name(&r, lane->to, sizeof lane->to) != 0 ||
        mpread_bin_exact(&r, lane->link, sizeof lane->link) != 0 ||
        mpread_u32(&r, &lane->index, UINT32_MAX) != 0 || mpread_uint(&r, &lane->number) != 0 ||
        mpread_bool(&r, &lane->has_exporter) != 0 ||
        mpread_bin_exact(&r, lane->nonce, sizeof lane->nonce) != 0)
        return -1;
    return mpread_bin_exact(&r, lane->mac, sizeof lane->mac);
}

int meshmsg_read_reauth(const struct meshmsg_in *in, struct meshmsg_reauth *r)
{
    struct mpread c;
    uint32_t n;
    memset(r, 0, sizeof *r);
    if (meshmsg_take(&c, in, 2) != 0 || mpread_uint(&c, &r->number) != 0 || mpread_array(&c, &n) != 0)
        return -1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t elements;
        struct mesh_key_id id;
        uint8_t mac[MESHMSG_MAC_LEN];
        if (mpread_array(&c, &elements) != 0 || elements < 2 ||
            mpread_bin_exact(&c, id.b, sizeof id.b) != 0 || mpread_bin_exact(&c, mac, sizeof mac) != 0)
            return -1;
        for (uint32_t k = 2; k < elements; k++)
            if (mpread_skip(&c) != 0)
                return -1;
        if (r->n == MESH_KEYS_MAX)
            continue;
        r->id[r->n] = id;
        memcpy(r->mac[r->n++], mac, sizeof mac);
    }
    return 0;
}

int meshmsg_read_two(const struct meshmsg_in *in, uint64_t *a, uint64_t *b)
{
    struct mpread r;
    if (meshmsg_take(&r, in, 2) != 0 || mpread_uint(&r, a) != 0)
        return -1;
    return mpread_uint(&r, b);
}

int meshmsg_read_ping(const struct meshmsg_in *in, uint64_t *number, uint64_t *time, uint64_t *received)
{
    struct mpread r;
    if (meshmsg_take(&r, in, 3) != 0 || mpread_uint(&r, number) != 0 || mpread_uint(&r, time) != 0)
        return -1;
    return mpread_uint(&r, received);
}

int meshmsg_read_bye(const struct meshmsg_in *in, uint32_t *code)
{
    struct mpread r;
    return meshmsg_take(&r, in, 1) != 0 ? -1 : mpread_u32(&r, code, UINT32_MAX);
}

int meshmsg_read_info(const struct meshmsg_in *in, uint8_t map_hash[static MESHMSG_HASH_LEN])
{
    struct mpread r;
    return meshmsg_take(&r, in, 1) != 0 ? -1 : mpread_bin_exact(&r, map_hash, MESHMSG_HASH_LEN);
}

/* ---- writing ---- */

static int append(void *ctx, const char *p, size_t n)
{
    struct meshmsg *m = ctx;
    if (n > sizeof m->b - m->n)
        return -1;
    memcpy(m->b + m->n, p, n);
    m->n += n;
    return 0;
}

void meshmsg_begin(struct meshmsg *m, msgpack_packer *pk, enum meshmsg_type type, size_t elements)
{
    m->n = FRAME_HEADER_LEN;
    msgpack_packer_init(pk, m, append);
    msgpack_pack_array(pk, 1 + elements);
    msgpack_pack_uint32(pk, type);
}

void meshmsg_finish(struct meshmsg *m)
{
    frame_header(m->b, FRAME_MESH_CONTROL, (uint32_t)(m->n - FRAME_HEADER_LEN));
}

void meshmsg_pack_bin(msgpack_packer *pk, const void *p, size_t n)
{
    msgpack_pack_bin(pk, n);
    msgpack_pack_bin_body(pk, p, n);
}

static void pack_str(msgpack_packer *pk, const char *s)
{
    size_t n = strlen(s);
    msgpack_pack_str(pk, n);
    msgpack_pack_str_body(pk, s, n);
}

void meshmsg_hello(struct meshmsg *m, const struct meshmsg_hello *h)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_HELLO, 16);
    msgpack_pack_uint32(&pk, h->version_min);
    msgpack_pack_uint32(&pk, h->version_max);
    msgpack_pack_uint64(&pk, h->features);
    pack_str(&pk, h->software);
    pack_str(&pk, h->name);
    pack_str(&pk, h->to);
    msgpack_pack_uint32(&pk, h->region);
    meshmsg_pack_bin(&pk, h->key.b, KEY_LEN);
    msgpack_pack_uint64(&pk, h->boot);
    meshmsg_pack_bin(&pk, h->instance, sizeof h->instance);
    meshmsg_pack_bin(&pk, h->nonce, sizeof h->nonce);
    meshmsg_pack_bin(&pk, h->ephemeral.b, KEY_LEN);
    msgpack_pack_array(&pk, h->n_key_ids);
    for (uint32_t i = 0; i < h->n_key_ids; i++)
        meshmsg_pack_bin(&pk, h->key_id[i].b, sizeof h->key_id[i].b);
    meshmsg_pack_bin(&pk, h->map_hash, sizeof h->map_hash);
    if (h->has_exporter)
        msgpack_pack_true(&pk);
    else
        msgpack_pack_false(&pk);
    msgpack_pack_array(&pk, 2);
    msgpack_pack_uint32(&pk, h->max_payload);
    msgpack_pack_uint32(&pk, h->max_keys);
    meshmsg_finish(m);
}

void meshmsg_auth(struct meshmsg *m, const struct mesh_key_id *id, const uint8_t mac[static MESHMSG_MAC_LEN])
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_AUTH, 2);
    meshmsg_pack_bin(&pk, id->b, sizeof id->b);
    meshmsg_pack_bin(&pk, mac, MESHMSG_MAC_LEN);
    meshmsg_finish(m);
}

void meshmsg_reauth(struct meshmsg *m, const struct meshmsg_reauth *r)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_REAUTH, 2);
    msgpack_pack_uint64(&pk, r->number);
    msgpack_pack_array(&pk, r->n);
    for (uint32_t i = 0; i < r->n; i++) {
        msgpack_pack_array(&pk, 2);
        meshmsg_pack_bin(&pk, r->id[i].b, sizeof r->id[i].b);
        meshmsg_pack_bin(&pk, r->mac[i], sizeof r->mac[i]);
    }
    meshmsg_finish(m);
}

void meshmsg_write_two(struct meshmsg *m, enum meshmsg_type type, uint64_t a, uint64_t b)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, type, 2);
    msgpack_pack_uint64(&pk, a);
    msgpack_pack_uint64(&pk, b);
    meshmsg_finish(m);
}

void meshmsg_lane(struct meshmsg *m, const struct meshmsg_lane *lane)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_LANE, 8);
    pack_str(&pk, lane->name);
    pack_str(&pk, lane->to);
    meshmsg_pack_bin(&pk, lane->link, sizeof lane->link);
    msgpack_pack_uint32(&pk, lane->index);
    msgpack_pack_uint64(&pk, lane->number);
    if (lane->has_exporter)
        msgpack_pack_true(&pk);
    else
        msgpack_pack_false(&pk);
    meshmsg_pack_bin(&pk, lane->nonce, sizeof lane->nonce);
    meshmsg_pack_bin(&pk, lane->mac, sizeof lane->mac);
    meshmsg_finish(m);
}

static void write_ping(struct meshmsg *m, enum meshmsg_type type, uint64_t number, uint64_t time,
                       uint64_t received)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, type, 3);
    msgpack_pack_uint64(&pk, number);
    msgpack_pack_uint64(&pk, time);
    msgpack_pack_uint64(&pk, received);
    meshmsg_finish(m);
}

void meshmsg_ping(struct meshmsg *m, uint64_t number, uint64_t time, uint64_t received)
{
    write_ping(m, MESHMSG_PING, number, time, received);
}

void meshmsg_pong(struct meshmsg *m, uint64_t number, uint64_t time, uint64_t received)
{
    write_ping(m, MESHMSG_PONG, number, time, received);
}

void meshmsg_bye(struct meshmsg *m, enum meshmsg_bye code)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_BYE, 1);
    msgpack_pack_uint32(&pk, code);
    meshmsg_finish(m);
}

void meshmsg_info(struct meshmsg *m, const uint8_t map_hash[static MESHMSG_HASH_LEN])
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_INFO, 1);
    meshmsg_pack_bin(&pk, map_hash, MESHMSG_HASH_LEN);
    meshmsg_finish(m);
}
