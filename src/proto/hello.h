/* The DERP login: ServerKey → ClientInfo → ServerInfo, in both roles.
 *
 * Source: tailscale.com/derp derp_client.go and derpserver (sendServerKey, recvClientKey, sendServerInfo).
 * Boxes are NaCl crypto_box (X25519, XSalsa20-Poly1305), nonce before the box. */
#ifndef DERPMESH_PROTO_HELLO_H
#define DERPMESH_PROTO_HELLO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/frame.h"
#include "proto/key.h"

enum {
    HELLO_NONCE_LEN = 24,
    HELLO_MAC_LEN = 16,
    HELLO_SERVER_KEY_LEN = FRAME_HEADER_LEN + 8 + KEY_LEN, /* magic "DERP🔑", key */
    HELLO_CLIENT_INFO_MAX = 4096,                          /* payload we accept, reliability.md */
    HELLO_FRAME_MAX = 1024                                 /* room that any frame we make fits in */
};

/* What a client says of itself.  Unknown members are ignored. */
struct client_info {
    int version;
    bool can_ack_pings;
    bool is_prober;
    bool has_mesh_key; /* a mesh key was sent; its text is in mesh_key */
    char mesh_key[65]; /* secret, lower-case hex: compare in constant time, wipe */
    char app_name[32]; /* cut, printable ASCII only */
};

/* X25519 shared secret of two keys, computed once per login: the box key of both directions. */
struct hello_shared {
    uint8_t k[KEY_LEN];
};

/* server: the frame that opens the conversation.  Returns HELLO_SERVER_KEY_LEN. */
size_t hello_server_key(uint8_t out[static HELLO_SERVER_KEY_LEN], const struct derp_key *server);

/* server: opens a ClientInfo payload.  Sets the client's key, the shared secret and the info.
 * 0, or a negative enum hello_error. */
enum hello_error {
    HELLO_SHORT = -1, /* shorter than key, nonce and MAC, or longer than HELLO_CLIENT_INFO_MAX */
    HELLO_BOX = -2,   /* not sealed for our key (or altered) */
    HELLO_JSON = -3,  /* the box holds no JSON object, or a member that derper refuses too */
    HELLO_KEY = -4,   /* all-zero or low-order key */
    HELLO_MAGIC = -5  /* client: not a DERP server's key frame */
};
int hello_open_client_info(const uint8_t *payload, size_t len, const struct key_pair *server,
                           struct derp_key *client, struct hello_shared *shared, struct client_info *info);
const char *hello_error_text(int err);

/* server: the ServerInfo frame, a sealed {"version":2}.  Returns its length (≤ HELLO_FRAME_MAX). */
size_t hello_server_info(uint8_t out[static HELLO_FRAME_MAX], const struct hello_shared *shared);

/* client: reads a ServerKey payload.  0 or HELLO_MAGIC/HELLO_SHORT/HELLO_KEY. */
int hello_parse_server_key(const uint8_t *payload, size_t len, struct derp_key *server);

/* client: the ClientInfo frame; sets *shared.  prober marks us as one (IsProber).  Returns its length,
 * or 0 where no secret can be agreed on (a key that hello_parse_server_key has not passed). */
size_t hello_client_info(uint8_t out[static HELLO_FRAME_MAX], const struct key_pair *client,
                         const struct derp_key *server, bool prober, struct hello_shared *shared);
/* The same of a mesh peer: the server learns the key. */
size_t hello_mesh_info(uint8_t out[static HELLO_FRAME_MAX], const struct key_pair *client,
                       const struct derp_key *server, const uint8_t mesh_key[static KEY_LEN],
                       struct hello_shared *shared);
/* Whether the client has shown that mesh key.  Constant time. */
bool hello_knows_mesh_key(const struct client_info *info, const uint8_t mesh_key[static KEY_LEN]);

/* client: checks a ServerInfo payload.  0 or negative. */
int hello_open_server_info(const uint8_t *payload, size_t len, const struct hello_shared *shared,
                           int *version);

#endif
