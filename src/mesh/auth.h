/* The cryptography of HELLO, AUTH and LANE: who holds the mesh key and the node key that they claim?
 *
 * Shape: Noise KK with a psk.  MAC key = BLAKE2b-256 keyed with the mesh key over a label, the transcript's hash and
 * the X25519 results ee, es, se, ss.  docs/protocol.md says which bytes.  Pure; secrets are wiped by auth_wipe. */
#ifndef DERPMESH_MESH_AUTH_H
#define DERPMESH_MESH_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sodium.h>

#include "proto/key.h"
#include "proto/meshmsg.h"

struct auth {
    crypto_generichash_state transcript;
    uint8_t ephemeral[KEY_LEN]; /* secret */
    uint8_t key[KEY_LEN];       /* MAC key, secret, after auth_derive */
};

/* Before the first HELLO. */
void auth_init(struct auth *a);
/* Before our HELLO.  secret: 32 random bytes.  Gives the public half. */
void auth_ephemeral(struct auth *a, const uint8_t secret[static KEY_LEN], struct derp_key *ephemeral);
void auth_wipe(struct auth *a);
/* Takes in a HELLO's payload as it was sent: the dialer's first, then the acceptor's. */
void auth_mix_hello(struct auth *a, const uint8_t *payload, size_t len);

struct auth_input {
    bool dialer; /* we are */
    const uint8_t *mesh_key;
    const uint8_t *node_secret;       /* ours */
    const struct derp_key *node;      /* theirs */
    const struct derp_key *ephemeral; /* theirs */
    const char *dialled, *found;      /* the name the dialer meant; the name of the one that answered */
    const uint8_t *exporter;          /* 32 bytes, NULL: none */
};
/* 0, or -1 if one of their keys is of low order.  Once per struct auth, after both HELLOs. */
int auth_derive(struct auth *a, const struct auth_input *in);
/* The MAC that proves that side. */
void auth_mac(const struct auth *a, bool dialer, uint8_t out[static MESHMSG_MAC_LEN]);

/* The proof of a mesh key on a live link, whose secret is that of "derpmesh/1 reauth". */
void auth_reauth_mac(const uint8_t secret[static KEY_LEN], const uint8_t mesh_key[static KEY_LEN],
                     bool dialer, uint64_t number, uint8_t out[static MESHMSG_MAC_LEN]);
/* A secret for what hangs on this link, from the MAC key and a label.  Before auth_wipe. */
void auth_secret(const struct auth *a, const char *label, uint8_t out[static KEY_LEN]);

/* The number under which both sides know a control link when lanes name it. */
void auth_link_id(const uint8_t secret[static KEY_LEN], uint8_t out[static MESHMSG_LINK_ID_LEN]);
/* The MAC of one side's LANE.  asked: the dialer's LANE; nonce: the acceptor's for its own MAC, NULL for the dialer's;
 * exporter: of the lane's own connection, NULL: none. */
void auth_lane_mac(const uint8_t secret[static KEY_LEN], const struct meshmsg_lane *asked,
                   const uint8_t *nonce, const uint8_t *exporter, uint8_t out[static MESHMSG_MAC_LEN]);

#endif
