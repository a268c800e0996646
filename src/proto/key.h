/* Curve25519 keys as DERP and Tailscale write them.
 *
 * Source: tailscale.com/types/key (NodePublic, NodePrivate, DERPMesh),
 * cmd/derper loadConfig for the key file. */
#ifndef DERPMESH_PROTO_KEY_H
#define DERPMESH_PROTO_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    KEY_LEN = 32,
    KEY_TEXT_MAX = 80 /* room for "privkey:" or "nodekey:", 64 digits, NUL */
};

/* A public key: names a client or a node.  Value type, compared bytewise. */
struct derp_key {
    uint8_t b[KEY_LEN];
};

/* A key pair.  Holds a secret: wipe with key_pair_wipe when done. */
struct key_pair {
    struct derp_key pub;
    uint8_t secret[KEY_LEN];
};

static inline bool key_equal(const struct derp_key *a, const struct derp_key *b)
{
    return memcmp(a->b, b->b, KEY_LEN) == 0;
}

bool key_is_zero(const struct derp_key *k);

/* A fresh, clamped key pair from the system's random source. */
void key_pair_generate(struct key_pair *kp);
/* The public half of a secret. */
void key_pair_from_secret(struct key_pair *kp, const uint8_t secret[static KEY_LEN]);
void key_pair_wipe(struct key_pair *kp);

/* "nodekey:<64 hex>" NUL-terminated into out[KEY_TEXT_MAX]. */
void key_public_text(char out[static KEY_TEXT_MAX], const struct derp_key *k);
/* The first form of a key in logs: "[AbCdE]" as Tailscale's ShortString prints it (base64, 5 characters).
 * out has room for 8 bytes. */
void key_short(char out[static 8], const struct derp_key *k);
/* Takes "nodekey:<64 hex>".  0, or -1. */
int key_public_parse(struct derp_key *k, const char *text, size_t len);

/* The file derper writes: {"PrivateKey": "privkey:<64 hex>"}.
 * Parses the whole text of a key file; 0, or -1 with a sentence in err (never holding a part of the key). */
int key_file_parse(struct key_pair *kp, const char *text, size_t len, char *err, size_t err_len);
/* Writes that form into out; returns the length, or -1 if it does not fit (128 bytes always do). */
int key_file_format(const struct key_pair *kp, char *out, size_t out_len);

enum { MESH_KEYS_MAX = 4 };
/* The keyring shared by all nodes of a mesh.  Secret. */
struct mesh_keys {
    uint8_t key[MESH_KEYS_MAX][KEY_LEN];
    int n; /* 0: no mesh; key[0] is used for links we dial, all are accepted */
};
/* Up to four lines of 64 hex digits, blank lines and # comments allowed.
 * 0, or -1 with a sentence naming the line in err (never the line's text). */
int mesh_keys_parse(struct mesh_keys *mk, const char *text, size_t len, char *err, size_t err_len);

#endif
