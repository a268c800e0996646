/* DERP frames and the mesh's data frames: headers written, headers read, one turned into the other.
 *
 * Happy path: frame_peek (in the header, it runs once a packet) finds a frame in a buffer;
 * mesh_data_parse lays a view over a 0x61 frame, mesh_data_to_recv rewrites it for the client in
 * place.  Failure: only mesh_data_parse fails, on lengths that contradict each other. */
#include "proto/frame.h"

#include <string.h>

#include <sodium.h>

#include "proto/wire.h"

size_t frame_header(uint8_t out[static FRAME_HEADER_LEN], enum frame_type type, uint32_t len)
{
    out[0] = (uint8_t)type;
    wire_put32(out + 1, len);
    return FRAME_HEADER_LEN;
}

bool frame_is_disco(const uint8_t *payload, size_t len)
{
    static const uint8_t magic[6] = {0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac};

    return len >= FRAME_DISCO_MIN && memcmp(payload, magic, sizeof magic) == 0;
}

size_t frame_peer_gone(uint8_t out[static FRAME_PEER_GONE_LEN], const struct derp_key *peer, uint8_t reason)
{
    frame_header(out, FRAME_PEER_GONE, KEY_LEN + 1);
    memcpy(out + FRAME_HEADER_LEN, peer->b, KEY_LEN);
    out[FRAME_HEADER_LEN + KEY_LEN] = reason;
    return FRAME_PEER_GONE_LEN;
}

void node_id_of(struct node_id *id, const char *name)
{
    static const char label[] = "derpmesh node ";
    crypto_generichash_state st;
    uint8_t hash[32];

    crypto_generichash_init(&st, NULL, 0, sizeof hash);
    crypto_generichash_update(&st, (const uint8_t *)label, sizeof label - 1);
    crypto_generichash_update(&st, (const uint8_t *)name, strlen(name));
    crypto_generichash_final(&st, hash, sizeof hash);
    memcpy(id->b, hash, sizeof id->b);
}

/* Offsets from the frame's body, where hdr itself stands. */
enum { AT_FLAGS = 1, AT_HOPS = 2, AT_ZERO = 3, AT_DST_NODE = 4, AT_SRC_NODE = 12, AT_KEYS = 20 };

int mesh_data_parse(struct mesh_data *d, const struct frame *f)
{
    const uint8_t *b = f->body;
    uint32_t hdr;

    if (f->len < MESH_DATA_HDR)
        return -1;
    hdr = b[0];
    if (hdr < MESH_DATA_HDR || hdr > f->len || f->len - hdr > FRAME_PACKET_MAX)
        return -1;
    d->flags = b[AT_FLAGS];
    d->hops = b[AT_HOPS];
    memcpy(d->dst_node.b, b + AT_DST_NODE, sizeof d->dst_node.b);
    memcpy(d->src_node.b, b + AT_SRC_NODE, sizeof d->src_node.b);
    d->dst = (const struct derp_key *)(b + hdr - 2 * KEY_LEN);
    d->src = (const struct derp_key *)(b + hdr - KEY_LEN);
    d->payload = f->body + hdr;
    d->payload_len = f->len - hdr;
    return 0;
}

size_t mesh_data_header(uint8_t out[static MESH_DATA_OVERHEAD], uint8_t flags, uint8_t hops,
                        const struct node_id *dst_node, const struct node_id *src_node,
                        const struct derp_key *dst, const struct derp_key *src, uint32_t payload_len)
{
    uint8_t *b = out + frame_header(out, FRAME_MESH_DATA, MESH_DATA_HDR + payload_len);

    b[0] = MESH_DATA_HDR;
    b[AT_FLAGS] = flags;
    b[AT_HOPS] = hops;
    b[AT_ZERO] = 0;
    memcpy(b + AT_DST_NODE, dst_node->b, sizeof dst_node->b);
    memcpy(b + AT_SRC_NODE, src_node->b, sizeof src_node->b);
    memcpy(b + AT_KEYS, dst->b, KEY_LEN);
    memcpy(b + AT_KEYS + KEY_LEN, src->b, KEY_LEN);
    return MESH_DATA_OVERHEAD;
}

uint8_t *mesh_data_to_recv(const struct mesh_data *d, size_t *len)
{
    uint8_t *start = d->payload - KEY_LEN - FRAME_HEADER_LEN;

    frame_header(start, FRAME_RECV_PACKET, KEY_LEN + d->payload_len);
    *len = FRAME_HEADER_LEN + KEY_LEN + (size_t)d->payload_len;
    return start;
}
