/* Counters of one thread: written by it alone, read by anybody (control thread: metrics, status).
 *
 * Every drop, refusal and close has one; a frame that came in ends in exactly one of the places that
 * docs/architecture.md's invariant 1 adds up. */
#ifndef DERPMESH_NODE_STATS_H
#define DERPMESH_NODE_STATS_H

#include <stdatomic.h>
#include <stdint.h>

enum stat_id {
    /* connections */
    STAT_ACCEPTS,
    STAT_CLOSES,
    STAT_CONNECTIONS,   /* gauge: all open connections */
    STAT_LOGIN_PENDING, /* gauge: connections before login */
    STAT_CLIENTS,       /* gauge: logged-in connections */
    STAT_LOGINS,
    STAT_LOGIN_TURNS, /* a connection before login waited for its turn to be read */
    STAT_HOME,        /* gauge: clients' connections with this node as home */
    STAT_NOT_IDEAL,   /* gauge: clients' connections that would rather be with another node of the region */
    STAT_HOME_IN,     /* a connection said that this node is its home */
    STAT_HOME_OUT,    /* … is not any more */
    STAT_LINKS,       /* gauge: mesh connections */
    STAT_SHUT,        /* gauge: workers that take no new connections */
    STAT_WATCHERS,    /* gauge: real derpers that have dialled us */
    STAT_REFUSED_LOGIN_LIMIT,   /* closed: too many connections before login */
    STAT_REFUSED_ADDRESS_LIMIT, /* closed: too many from one address before login */
    STAT_REFUSED_MAX_CLIENTS,
    STAT_REFUSED_MEMORY,     /* closed at once: memory is short */
    STAT_NO_DESCRIPTOR,      /* seconds in which no descriptor was left: new connections are closed at once */
    STAT_REFUSED_ALLOW,      /* admission: not in the allow file */
    STAT_REFUSED_URL,        /* admission: the verify URL said no */
    STAT_REFUSED_SOCKET,     /* admission: tailscaled does not know the key */
    STAT_REFUSED_OUTAGE,     /* admission: no answer */
    STAT_REFUSED_DERPER_KEY, /* a login with a mesh key that is not the derpers' */
    STAT_CLOSED_UNWELCOME,   /* a client that had been admitted is not any more */
    STAT_CLOSED_LOGIN_TIMEOUT,
    STAT_CLOSED_TLS,          /* handshake failed or record broken */
    STAT_CLOSED_HTTP,         /* not HTTP, or a head too long */
    STAT_CLOSED_PROXY_HEADER, /* PROXY header missing, malformed, or from a stranger */
    STAT_CLOSED_HELLO,        /* login message malformed */
    STAT_CLOSED_FRAME,        /* a frame that no client may send, or of a forbidden length */
    STAT_CLOSED_PRIVILEGED,   /* mesh frame from a client without that right */
    STAT_CLOSED_STALLED,      /* the reader took nothing for too long */
    STAT_CLOSED_MOVED,        /* its key is at home at another node, and nobody answers here */
    STAT_CLOSED_NO_MEMORY,
    STAT_CLOSED_PEER,   /* the other side closed or reset */
    STAT_CLOSED_KICKED, /* an operator wanted it */
    STAT_CLOSED_ADMIN,  /* we closed: reload, stop, a link replaced */
    /* frames of clients */
    STAT_PACKETS_IN,       /* SendPacket frames read */
    STAT_PACKETS_IN_DISCO, /* of these, path discovery */
    STAT_PACKET_BYTES_IN,  /* their payloads */
    STAT_PACKETS_OUT,      /* RecvPacket frames that left to a client */
    STAT_PACKET_BYTES_OUT, /* payloads put into queues of clients */
    STAT_FORWARDED_OUT,    /* left on a mesh link */
    STAT_FORWARDED_IN,     /* taken from a mesh link */
    STAT_TRANSIT,          /* of these, handed on to another node that they were for */
    STAT_INBOX_OUT,        /* handed to another worker */
    STAT_INBOX_IN,
    STAT_DROP_NO_ROUTE,
    STAT_DROP_QUEUE_FULL, /* the destination's queue overflowed */
    STAT_DROP_QUEUE_OLD,  /* waited longer than the queue's time */
    STAT_DROP_BUDGET,     /* the node's queue budget is used up */
    STAT_DROP_GONE,       /* the destination closed with frames queued, or its slot had another owner */
    STAT_DROP_INBOX_FULL,
    STAT_DROP_BUSY, /* the destination's node said that its queue is full of this sender's */
    STAT_DROP_MESH_HOPS,
    STAT_DROP_MESH_NO_CLIENT, /* came for a client that is not here */
    STAT_DROP_MESH_NO_PATH,   /* its node cannot be reached at the moment */
    STAT_DROP_MESH_TRANSIT,   /* came for another node that cannot be reached directly */
    STAT_DROP_MESH_BAD,       /* malformed or not understood */
    STAT_DROP_NO_MEMORY,
    STAT_BYTES_IN, /* from sockets */
    STAT_BYTES_OUT,
    STAT_KEEPALIVES,
    STAT_PINGS,
    STAT_PONGS,
    STAT_UNKNOWN_FRAMES,
    STAT_PEER_GONE_DISCONNECTED,
    STAT_PEER_GONE_NOT_HERE,
    STAT_RESTARTING,        /* Restarting frames: the client is sent away */
    STAT_WATCH_PRESENT,     /* PeerPresent to real derpers */
    STAT_WATCH_GONE,        /* PeerGone to them */
    STAT_DUP_CLIENT_SWITCH, /* another connection of the same key became the active one */
    STAT_READ_PAUSES,       /* a sender whose receiver was full was read later */
    STAT_RATE_PAUSES,       /* a client was read later because of client_rate */
    STAT_IDEAL_NODE_OTHER,  /* the client wanted another node of the region */
    STAT_HTTP_REQUESTS,
    STAT_REQUESTS_TLS12,
    STAT_REQUESTS_TLS13,
    STAT_WEBSOCKET_ACCEPTS,
    STAT_STUN_SUCCESS,
    STAT_STUN_IPV6,   /* of these, over IPv6 */
    STAT_STUN_BAD,    /* silence: no request of a Tailscale client */
    STAT_STUN_SILENT, /* not answered: the node is full or drains */
    STAT_STUN_UNSENT, /* the socket did not take the answer */
    STAT_N
};

struct stats {
    _Atomic uint64_t v[STAT_N];
};

/* Thread: the owner only. */
static inline void stats_add(struct stats *s, enum stat_id which, uint64_t n)
{
    uint64_t v = atomic_load_explicit(&s->v[which], memory_order_relaxed);
    atomic_store_explicit(&s->v[which], v + n, memory_order_relaxed);
}

static inline void stats_sub(struct stats *s, enum stat_id which, uint64_t n)
{
    stats_add(s, which, (uint64_t)0 - n);
}

static inline uint64_t stats_get(const struct stats *s, enum stat_id which)
{
    return atomic_load_explicit(&s->v[which], memory_order_relaxed);
}

struct stat_info {
    const char *name; /* "drop_queue_full", used in status and as derpmesh_<name> in metrics */
    const char *help;
    int gauge;
};
/* Never NULL. */
const struct stat_info *stats_info(enum stat_id which);

#endif
