/* The control messages between derpmesh nodes: one msgpack array [type, …] in each 0x60 frame.
 *
 * Messages about sets of keys: meshmsg_sets.h.  Specification: docs/protocol.md.  Elements behind those named here are ignored when read (later versions add some).
 * Writers build the whole frame, header included, in a fixed buffer; readers copy small things and walk lists in
 * place.  Nothing is allocated. */
#ifndef DERPMESH_PROTO_MESHMSG_H
#define DERPMESH_PROTO_MESHMSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/frame.h"
#include "proto/key.h"
#include "proto/mpread.h"

/* Numbers below MESHMSG_CLOSES that a node does not know are ignored, others close the link. */
enum meshmsg_type {
    MESHMSG_HELLO = 1,
    MESHMSG_AUTH = 2,
    MESHMSG_PING = 3,
    MESHMSG_PONG = 4,
    MESHMSG_BYE = 5,
    MESHMSG_INFO = 6,
    MESHMSG_SYNC_REQ = 7,
    MESHMSG_SYNC_BEGIN = 8,
    MESHMSG_SYNC_DATA = 9,
    MESHMSG_SYNC_END = 10,
    MESHMSG_ANN = 11,
    MESHMSG_LINKS = 12,
    MESHMSG_TUNNEL = 13,
    MESHMSG_NOTHERE = 14,
    MESHMSG_UNREACH = 15,
    MESHMSG_BUSY = 16,
    MESHMSG_REAUTH = 18,
    MESHMSG_DIGEST = 19,
    MESHMSG_BUCKETS = 20,
    MESHMSG_LANE = 21,
    MESHMSG_CLOSES = 0x40
};

enum {
    MESH_VERSION_MIN = 1,
    MESH_VERSION_MAX = 1,
    MESHMSG_MAX = 16384, /* payload of any control frame but a TUNNEL, which carries one */
    MESHMSG_TUNNEL_MAX = MESHMSG_MAX + 64,
    MESHMSG_BEFORE_AUTH_MAX = 4096,
    MESHMSG_NAME_MAX = 128, /* bytes of a name, with the NUL */
    MESHMSG_NONCE_LEN = 32,
    MESHMSG_MAC_LEN = 32,
    MESHMSG_KEY_ID_LEN = 8,
    MESHMSG_INSTANCE_LEN = 16,
    MESHMSG_HASH_LEN = 32
};

/* A frame under construction: b[n] is ready to be sent. */
struct meshmsg {
    size_t n;
    uint8_t b[FRAME_HEADER_LEN + MESHMSG_TUNNEL_MAX];
};

struct mesh_key_id {
    uint8_t b[MESHMSG_KEY_ID_LEN];
};
/* Names a mesh key without telling it: the first 8 bytes of BLAKE2b-256 over "derpmesh key id" and the key. */
void mesh_key_id_of(struct mesh_key_id *id, const uint8_t key[static KEY_LEN]);

struct meshmsg_hello {
    uint32_t version_min, version_max;
    uint64_t features;
    char software[64];
    char name[MESHMSG_NAME_MAX]; /* who speaks: the derpMap's id of it */
    char to[MESHMSG_NAME_MAX];   /* whom it means to speak to */
    uint32_t region;
    struct derp_key key; /* the node's */
    uint64_t boot;
    uint8_t instance[MESHMSG_INSTANCE_LEN];
    uint8_t nonce[MESHMSG_NONCE_LEN];
    struct derp_key ephemeral;
    struct mesh_key_id key_id[MESH_KEYS_MAX];
    uint32_t n_key_ids;
    uint8_t map_hash[MESHMSG_HASH_LEN];
    bool has_exporter;
    uint32_t max_payload, max_keys; /* limits: control payload, keys it will hold of one peer */
};

enum { MESHMSG_LINK_ID_LEN = 8 };
/* The first message on a lane, and the answer to it. */
struct meshmsg_lane {
    char name[MESHMSG_NAME_MAX], to[MESHMSG_NAME_MAX]; /* as in HELLO */
    uint8_t link[MESHMSG_LINK_ID_LEN];                 /* the control link that it belongs to */
    uint32_t index;
    uint64_t number; /* rises with each attempt for that index of that link */
    bool has_exporter;
    uint8_t nonce[MESHMSG_NONCE_LEN], mac[MESHMSG_MAC_LEN];
};

/* A proof for each mesh key of the sender's ring, bound to the link. */
struct meshmsg_reauth {
    uint64_t number; /* rises on each link */
    uint32_t n;
    struct mesh_key_id id[MESH_KEYS_MAX];
    uint8_t mac[MESH_KEYS_MAX][MESHMSG_MAC_LEN];
};

/* ---- reading: 0 or -1; payload is the frame's without its header ---- */

/* Opens a message: its type, and r behind it with left elements to come.  -1 if it is no well-formed
 * array with a number first, or if bytes follow the array. */
struct meshmsg_in {
    struct mpread r;
    uint32_t left;
};
int meshmsg_open(struct meshmsg_in *in, uint32_t *type, const uint8_t *payload, size_t len);

/* The first two elements of every HELLO of every version, to be judged before the rest is read. */
int meshmsg_read_versions(const struct meshmsg_in *in, uint32_t *min, uint32_t *max);
int meshmsg_read_hello(const struct meshmsg_in *in, struct meshmsg_hello *h);
int meshmsg_read_auth(const struct meshmsg_in *in, struct mesh_key_id *id,
                      uint8_t mac[static MESHMSG_MAC_LEN]);
int meshmsg_read_lane(const struct meshmsg_in *in, struct meshmsg_lane *lane);
int meshmsg_read_reauth(const struct meshmsg_in *in, struct meshmsg_reauth *r);
/* PING: number, sender's time.  PONG: both of the PING.  received: control bytes, headers included, that came to the
 * sender on this link so far. */
int meshmsg_read_ping(const struct meshmsg_in *in, uint64_t *number, uint64_t *time, uint64_t *received);
int meshmsg_read_bye(const struct meshmsg_in *in, uint32_t *code);
int meshmsg_read_info(const struct meshmsg_in *in, uint8_t map_hash[static MESHMSG_HASH_LEN]);

/* ---- writing: always fits ---- */

enum meshmsg_bye {
    MESHMSG_BYE_STOP = 0,      /* the node stops */
    MESHMSG_BYE_DUPLICATE = 1, /* another link of this pair stays */
    MESHMSG_BYE_CLONE = 2,     /* another instance of your node is connected and alive */
    MESHMSG_BYE_MAP = 3,       /* you are not in my map any more */
    MESHMSG_BYE_KEY = 4,       /* the mesh key of this link was removed */
    MESHMSG_BYE_SILENT = 5     /* nothing came in for too long */
};

void meshmsg_hello(struct meshmsg *m, const struct meshmsg_hello *h);
void meshmsg_auth(struct meshmsg *m, const struct mesh_key_id *id, const uint8_t mac[static MESHMSG_MAC_LEN]);
void meshmsg_lane(struct meshmsg *m, const struct meshmsg_lane *lane);
void meshmsg_reauth(struct meshmsg *m, const struct meshmsg_reauth *r);
void meshmsg_ping(struct meshmsg *m, uint64_t number, uint64_t time, uint64_t received);
void meshmsg_pong(struct meshmsg *m, uint64_t number, uint64_t time, uint64_t received);
void meshmsg_bye(struct meshmsg *m, enum meshmsg_bye code);
void meshmsg_info(struct meshmsg *m, const uint8_t map_hash[static MESHMSG_HASH_LEN]);

#endif
