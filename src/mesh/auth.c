/* HELLO, AUTH and LANE, the cryptography.
 *
 * Happy path: auth_init, auth_ephemeral, auth_mix_hello twice (dialer's, acceptor's), auth_derive with the mesh key that both hold,
 * auth_mac for our side to send and for theirs to compare.
 * How it fails: auth_derive refuses low-order points; anything else that differs between the two sides (a byte of a
 * HELLO, a name, the exporter, a key) gives other MACs. */
#include "mesh/auth.h"

#include <string.h>

#include "proto/wire.h"

void auth_init(struct auth *a)
{
    static const char label[] = "derpmesh/1 transcript";
    memset(a, 0, sizeof *a);
    crypto_generichash_init(&a->transcript, NULL, 0, 32);
    crypto_generichash_update(&a->transcript, (const uint8_t *)label, sizeof label - 1);
}

void auth_ephemeral(struct auth *a, const uint8_t secret[static KEY_LEN], struct derp_key *ephemeral)
{
    memcpy(a->ephemeral, secret, KEY_LEN);
    crypto_scalarmult_base(ephemeral->b, a->ephemeral);
}

void auth_wipe(struct auth *a)
{
    sodium_memzero(a, sizeof *a);
}

/* A string behind its length, so that no two lists of strings have the same bytes. */
static void mix(crypto_generichash_state *st, const void *p, size_t len)
{
    uint8_t n[4];
    wire_put32(n, (uint32_t)len);
    crypto_generichash_update(st, n, sizeof n);
    crypto_generichash_update(st, p, len);
}

void auth_mix_hello(struct auth *a, const uint8_t *payload, size_t len)
{
    mix(&a->transcript, payload, len);
}

/* ee, es (dialer's ephemeral, acceptor's node key), se, ss, in this order on both sides. */
static int shared_secrets(uint8_t out[static 4 * KEY_LEN], const struct auth *a, const struct auth_input *in)
{
    uint8_t *es = out + KEY_LEN, *se = out + 2 * KEY_LEN;
    uint8_t *mine_ephemeral = in->dialer ? es : se, *mine_node = in->dialer ? se : es;
    int bad = crypto_scalarmult(out, a->ephemeral, in->ephemeral->b);
    bad |= crypto_scalarmult(mine_ephemeral, a->ephemeral, in->node->b);
    bad |= crypto_scalarmult(mine_node, in->node_secret, in->ephemeral->b);
    bad |= crypto_scalarmult(out + 3 * KEY_LEN, in->node_secret, in->node->b);
    return bad ? -1 : 0;
}

int auth_derive(struct auth *a, const struct auth_input *in)
{
    static const char label[] = "derpmesh/1 auth";
    uint8_t hash[32], dh[4 * KEY_LEN], marker = in->exporter ? 1 : 0;
    mix(&a->transcript, in->dialled, strlen(in->dialled));
    mix(&a->transcript, in->found, strlen(in->found));
    crypto_generichash_update(&a->transcript, &marker, 1);
    if (in->exporter)
        crypto_generichash_update(&a->transcript, in->exporter, 32);
    crypto_generichash_final(&a->transcript, hash, sizeof hash);
    int bad = shared_secrets(dh, a, in);
    if (!bad) {
        crypto_generichash_state st;
        crypto_generichash_init(&st, in->mesh_key, KEY_LEN, sizeof a->key);
        crypto_generichash_update(&st, (const uint8_t *)label, sizeof label - 1);
        crypto_generichash_update(&st, hash, sizeof hash);
        crypto_generichash_update(&st, dh, sizeof dh);
        crypto_generichash_final(&st, a->key, sizeof a->key);
        sodium_memzero(&st, sizeof st);
    }
    sodium_memzero(dh, sizeof dh);
    sodium_memzero(a->ephemeral, sizeof a->ephemeral);
    return bad;
}

void auth_mac(const struct auth *a, bool dialer, uint8_t out[static MESHMSG_MAC_LEN])
{
    const char *role = dialer ? "dialer" : "acceptor";
    crypto_generichash(out, MESHMSG_MAC_LEN, (const uint8_t *)role, strlen(role), a->key, sizeof a->key);
}

void auth_secret(const struct auth *a, const char *label, uint8_t out[static KEY_LEN])
{
    crypto_generichash(out, KEY_LEN, (const uint8_t *)label, strlen(label), a->key, sizeof a->key);
}

/* ---- lanes ---- */

void auth_link_id(const uint8_t secret[static KEY_LEN], uint8_t out[static MESHMSG_LINK_ID_LEN])
{
    static const char label[] = "link";
    uint8_t hash[32];
    crypto_generichash(hash, sizeof hash, (const uint8_t *)label, sizeof label - 1, secret, KEY_LEN);
    memcpy(out, hash, MESHMSG_LINK_ID_LEN);
}

void auth_reauth_mac(const uint8_t secret[static KEY_LEN], const uint8_t mesh_key[static KEY_LEN],
                     bool dialer, uint64_t number, uint8_t out[static MESHMSG_MAC_LEN])
{
    const char *role = dialer ? "dialer" : "acceptor";
    uint8_t n[8];
    crypto_generichash_state st;
    wire_put64(n, number);
    crypto_generichash_init(&st, mesh_key, KEY_LEN, MESHMSG_MAC_LEN);
    mix(&st, role, strlen(role));
    crypto_generichash_update(&st, n, sizeof n);
    crypto_generichash_update(&st, secret, KEY_LEN);
    crypto_generichash_final(&st, out, MESHMSG_MAC_LEN);
    sodium_memzero(&st, sizeof st);
}

void auth_lane_mac(const uint8_t secret[static KEY_LEN], const struct meshmsg_lane *asked,
                   const uint8_t *nonce, const uint8_t *exporter, uint8_t out[static MESHMSG_MAC_LEN])
{
    const char *role = nonce ? "acceptor" : "dialer";
    uint8_t numbers[12], marker = exporter ? 1 : 0;
    crypto_generichash_state st;
    wire_put32(numbers, asked->index);
    wire_put64(numbers + 4, asked->number);
    crypto_generichash_init(&st, secret, KEY_LEN, MESHMSG_MAC_LEN);
    mix(&st, role, strlen(role));
    mix(&st, asked->name, strlen(asked->name));
    mix(&st, asked->to, strlen(asked->to));
    crypto_generichash_update(&st, numbers, sizeof numbers);
    crypto_generichash_update(&st, asked->nonce, sizeof asked->nonce);
    if (nonce)
        crypto_generichash_update(&st, nonce, MESHMSG_NONCE_LEN);
    crypto_generichash_update(&st, &marker, 1);
    if (exporter)
        crypto_generichash_update(&st, exporter, 32);
    crypto_generichash_final(&st, out, MESHMSG_MAC_LEN);
    sodium_memzero(&st, sizeof st);
}
