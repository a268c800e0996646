/* The only door between threads.  Everything that passes is listed here.
 *
 * Happy path: the sender fills a struct inbox_msg and posts it; it is linked in by one atomic exchange, and
 * the owner's loop is woken once however many arrive.  Order per sender holds.  Others' connections are
 * named by conn_ref, never by pointer; whoever receives a ref checks slot, generation and key before he
 * believes it. Posting never fails and never blocks; data is bounded by the sender (inbox_data_room),
 * control messages are few. */
#ifndef DERPMESH_NODE_INBOX_H
#define DERPMESH_NODE_INBOX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "mesh/mesh.h"
#include "mesh/routes.h"
#include "node/conn.h"
#include "proto/key.h"

struct site; /* node/site.h */

enum inbox_type {
    /* worker → worker */
    IN_DATA,      /* runs: struct inbox_run + frames, back to back in bytes */
    IN_SLOW_DOWN, /* ref: a sender of yours fills a queue of mine */
    /* worker → control */
    IN_CLIENT_UP,     /* key, ref, flag = home, addr */
    IN_CLIENT_HOME,   /* key, ref, flag = home */
    IN_CLIENT_ACTIVE, /* key, ref: a frame came from a connection that was not the active one */
    IN_CLIENT_DOWN,   /* key, ref */
    IN_GLEAN,         /* key, node_id */
    IN_NOT_HERE,      /* key, node_id: a frame from that node, for a key that is not here */
    IN_CLIENT_BUSY, /* key, src, node_id, number = ms: src, a client of that node, sends key more than it takes */
    IN_UNREACH,     /* ref, node_id: a packet of that link for that node could not be handed on */
    IN_LINK_OPEN,    /* ref, link_info (from: bytes), flag: to a real derper */
    IN_DERPER_KEYS,  /* ref, bytes: DERPER_RECORD_LEN each: a key is there, or has left */
    IN_LINK_CONTROL, /* ref, bytes: payload of a 0x60 frame */
    IN_LINK_ALIVE,   /* ref: data came in */
    IN_LINK_ACKED,   /* ref, number: bytes of all that was sent that the other side's TCP has acknowledged */
    IN_LINK_CLOSED,  /* ref, bytes: why (NUL-terminated) */
    IN_DIAL_FAILED,  /* number = dial, bytes: why (NUL-terminated) */
    IN_ROUTES_ASK,   /* number = worker: an IN_REMOTE_SET for each key that is elsewhere, please */
    IN_ADMIT_ASK,    /* key, ref, addr: may this login go on? */
    IN_CLOSE_PEER,   /* key: a derper wants that client closed */
    IN_STOPPED,      /* number = worker: nothing of it runs any more */
    /* control → worker */
    IN_LOCAL_SET,   /* key, ref: packets for key go to this connection */
    IN_LOCAL_DEL,   /* key */
    IN_REMOTE_SET,  /* key, node (NODE_NONE: nowhere) */
    IN_NODE_PATH,   /* node, node_id, path */
    IN_DOUBT,       /* key, ref: the key is at home at another node now */
    IN_BUSY,        /* key, src, number = ms: what src sends to key is dropped here for so long */
    IN_GONE,        /* key: tell those who heard from it */
    IN_DIAL,        /* number = dial, site (a reference), map_node in it, flag: a real derper */
    IN_DIAL_CANCEL, /* number = dial */
    IN_LINK_SEND,   /* ref, bytes: whole frames */
    IN_LINK_READY,  /* ref, node: it has proven to be that node's, data may pass */
    IN_LINK_CLOSE,  /* ref, bytes: why */
    IN_ADMIT_ANSWER, /* key, ref, flag, number = enum stat_id: the login goes on, or the connection is closed */
    IN_DRAIN,        /* flag: send all clients away within number ms; else they may stay */
    IN_SITE,         /* site (a reference): new certificate, map, limits */
    IN_STOP          /* close everything, answer IN_STOPPED; flag: the listening sockets live on elsewhere */
};

enum { DERPER_RECORD_LEN = KEY_LEN + 1 }; /* of IN_DERPER_KEYS: key, 1 present or 0 gone */

/* How data for a node leaves: struct mesh_path, with connections in place of numbers. */
struct node_path {
    uint32_t via;
    uint8_t n;
    bool derper; /* it is a real one */
    struct conn_ref link[MESH_LANES_MAX];
};

/* In IN_DATA's bytes: this head, then len bytes of RecvPacket frames with one source. */
struct inbox_run {
    struct conn_ref to;   /* connection; or a link: then node_bound */
    struct conn_ref from; /* the sender's connection, for IN_SLOW_DOWN; gen 0: a link's */
    struct derp_key dst;
    uint64_t sender;
    uint32_t len;
    uint32_t packets;
    uint32_t node; /* NODE_NONE: for a client; else to be wrapped for this node */
    uint8_t hops;  /* node-bound: hops left */
    bool urgent;
    struct node_id src_node; /* node-bound: whose client the source is */
};

struct inbox_msg {
    struct inbox_msg *next;
    enum inbox_type type;
    uint32_t node;
    uint64_t number;
    struct conn_ref ref;
    struct derp_key key;
    struct node_id node_id;
    bool flag;
    struct conn_addr addr;
    union {
        struct mesh_link_info link_info;
        struct node_path path;
        struct derp_key src;
    };
    struct site *site;
    const struct derpmap_node *map_node;
    size_t len;
    uint8_t bytes[];
};

struct inbox {
    _Atomic(struct inbox_msg *) head; /* newest first; the inbox's own address ends a stopped one's list */
    _Atomic uint32_t senders;         /* threads inside inbox_post: inbox_stop waits for them */
    /* The owner's: */
    struct inbox_msg *taken, *taken_last; /* oldest first, not handled yet */
    bool stopped;
    uv_async_t async;
    /* The message is freed after it, and its reference to a site given back. */
    void (*handle)(void *ctx, struct inbox_msg *m);
    void *ctx;
    _Atomic size_t data_bytes; /* of IN_DATA on its way */
};

enum { INBOX_DATA_MAX = 8 << 20, INBOX_DATA_MUCH = 1 << 20 };

int inbox_init(struct inbox *in, uv_loop_t *loop, void (*handle)(void *, struct inbox_msg *), void *ctx);
void inbox_stop(
    struct inbox *in); /* owner's thread: closes the wake-up handle; what comes later is not read */
void inbox_drain(struct inbox *in);  /* owner's thread: handle what is there now; also from within handle */
void inbox_deinit(struct inbox *in); /* frees what nobody read (site references are given back) */

/* A message with room for len bytes.  NULL without memory. */
struct inbox_msg *inbox_msg_new(enum inbox_type type, size_t len);
/* Any thread.  m belongs to the inbox from now on. */
void inbox_post(struct inbox *in, struct inbox_msg *m);
/* So much waits that those who send had better be read later. */
static inline bool inbox_data_much(const struct inbox *in)
{
    return atomic_load_explicit(&in->data_bytes, memory_order_relaxed) > INBOX_DATA_MUCH;
}
/* Whether len more bytes of data may be posted. */
static inline bool inbox_data_room(const struct inbox *in, size_t len)
{
    return atomic_load_explicit(&in->data_bytes, memory_order_relaxed) + len <= INBOX_DATA_MAX;
}

#endif
