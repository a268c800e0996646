/* DERP frames: a type byte, a 32-bit big-endian length, the payload.
 *
 * Source: tailscale.com/derp (derp.go: FrameType, ProtocolVersion, MaxPacketSize).
 * Views point into the caller's buffer; nothing is copied or allocated. */
#ifndef DERPMESH_PROTO_FRAME_H
#define DERPMESH_PROTO_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/key.h"
#include "proto/wire.h"

enum frame_type {
    FRAME_SERVER_KEY = 0x01,
    FRAME_CLIENT_INFO = 0x02,
    FRAME_SERVER_INFO = 0x03,
    FRAME_SEND_PACKET = 0x04,    /* dst key, payload */
    FRAME_RECV_PACKET = 0x05,    /* src key, payload */
    FRAME_KEEP_ALIVE = 0x06,     /* empty */
    FRAME_NOTE_PREFERRED = 0x07, /* one byte: 1 = this is the client's home */
    FRAME_PEER_GONE = 0x08,      /* key, reason byte */
    FRAME_PEER_PRESENT = 0x09,
    FRAME_FORWARD_PACKET = 0x0a, /* src key, dst key, payload */
    FRAME_WATCH_CONNS = 0x10,
    FRAME_CLOSE_PEER = 0x11,
    FRAME_PING = 0x12, /* 8 bytes */
    FRAME_PONG = 0x13,
    FRAME_HEALTH = 0x14,
    FRAME_RESTARTING = 0x15,
    FRAME_MESH_CONTROL = 0x60, /* between derpmesh nodes: docs/protocol.md */
    FRAME_MESH_DATA = 0x61
};

enum {
    FRAME_HEADER_LEN = 5,
    FRAME_PACKET_MAX = 64 << 10, /* payload of one packet */
    FRAME_DISCO_MIN = 62,        /* magic, key, nonce */
    DERP_PROTOCOL_VERSION = 2,
    DERP_PING_MIN = 8,
    DERP_PING_MAX = 1000,
    PEER_GONE_DISCONNECTED = 0x00,
    PEER_GONE_NOT_HERE = 0x01,
    /* PeerPresent: key, IP (16), port (2), flags */
    PEER_PRESENT_FLAGS = KEY_LEN + 18,
    FRAME_PEER_PRESENT_BODY = PEER_PRESENT_FLAGS + 1,
    PEER_PRESENT_REGULAR = 1,
    PEER_PRESENT_MESH = 2, /* a node that watches, no client */
    PEER_PRESENT_PROBER = 4,
    PEER_PRESENT_NOT_IDEAL = 8,
    /* Restarting: ms until the client should reconnect, ms for which it should try; clients take no notice of it */
    FRAME_RESTARTING_BODY = 8
};

/* One frame in a buffer.  Borrowed: lives as long as the buffer it was read from. */
struct frame {
    uint8_t type;
    uint32_t len;  /* of the payload */
    uint8_t *raw;  /* the header's first byte */
    uint8_t *body; /* raw + FRAME_HEADER_LEN */
};

/* The frame at the start of buf[n].
 * Returns its whole size (header and payload) when all of it is there, 0 when more bytes are
 * needed (f->type and f->len are set once the header is there; else f->raw is NULL).
 * Never fails: any five bytes are a header; what length a type may have is the caller's rule. */
static inline size_t frame_peek(struct frame *f, uint8_t *buf, size_t n)
{
    if (n < FRAME_HEADER_LEN) {
        *f = (struct frame){0};
        return 0;
    }
    f->type = buf[0];
    f->len = wire_get32(buf + 1);
    f->raw = buf;
    f->body = buf + FRAME_HEADER_LEN;
    return n - FRAME_HEADER_LEN < f->len ? 0 : FRAME_HEADER_LEN + (size_t)f->len;
}

/* Writes a header; returns FRAME_HEADER_LEN. */
size_t frame_header(uint8_t out[static FRAME_HEADER_LEN], enum frame_type type, uint32_t len);

/* Disco: Tailscale's path discovery messages inside packets (tailscale.com/disco: Magic, at least 62 bytes). */
bool frame_is_disco(const uint8_t *payload, size_t len);

enum { FRAME_PEER_GONE_LEN = FRAME_HEADER_LEN + KEY_LEN + 1 };
/* A whole PeerGone frame; returns FRAME_PEER_GONE_LEN. */
size_t frame_peer_gone(uint8_t out[static FRAME_PEER_GONE_LEN], const struct derp_key *peer, uint8_t reason);

/* ---- mesh data frames (0x61) ----
 *
 *  0   1          5    6     7    8         16        24 …     hdr-64    hdr-32    5+hdr
 *  61  length(4)  hdr  flags hops reserved? dst node  src node ext…  dst key   src key   payload
 *
 * hdr counts the bytes from offset 5 up to the payload; the keys are always its last 64.  A v1 writer
 * sends hdr = MESH_DATA_HDR.  Flags in the lower four bits must be understood, else the frame is dropped;
 * the others may be ignored.  The source key lies directly before the payload, so that
 * RecvPacket is made by writing five bytes before it (mesh_data_to_recv). */
enum {
    MESH_DATA_HDR = 84, /* hdr flags hops zero, two node ids, two keys */
    MESH_DATA_OVERHEAD = FRAME_HEADER_LEN + MESH_DATA_HDR,
    MESH_DATA_HDR_MAX = 255, /* one byte says it */
    MESH_HOPS_START = 3,
    MESH_DATA_MUST_UNDERSTAND = 0x0f
};

/* A node on the wire: the first 8 bytes of BLAKE2b-256 over "derpmesh node " and its Name. */
struct node_id {
    uint8_t b[8];
};
void node_id_of(struct node_id *id, const char *name);

struct mesh_data {
    uint8_t flags, hops;
    struct node_id dst_node, src_node;
    const struct derp_key *dst, *src; /* into the frame */
    uint8_t *payload;
    uint32_t payload_len;
};

/* Reads a whole 0x61 frame.  0, or -1 if it is malformed (too short, hdr out of bounds, payload too long). */
int mesh_data_parse(struct mesh_data *d, const struct frame *f);
/* Writes the 89 bytes that precede the payload; returns MESH_DATA_OVERHEAD. */
size_t mesh_data_header(uint8_t out[static MESH_DATA_OVERHEAD], uint8_t flags, uint8_t hops,
                        const struct node_id *dst_node, const struct node_id *src_node,
                        const struct derp_key *dst, const struct derp_key *src, uint32_t payload_len);
/* Turns the frame into a RecvPacket in place: returns its first byte, *len its whole length.
 * d->dst is overwritten in its last five bytes: copy it before. */
uint8_t *mesh_data_to_recv(const struct mesh_data *d, size_t *len);

#endif
