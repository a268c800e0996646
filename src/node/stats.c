/* Names of the counters, for status and metrics.
 *
 * Happy path: a look-up in a table that the compiler has checked for its length; nothing fails.  A counter
 * without a name would show up as "unnamed" and fails the unit test. */
#include "node/stats.h"

#include <stddef.h>

#define COUNTER(id, name, help) [id] = {name, help, 0}
#define GAUGE(id, name, help)   [id] = {name, help, 1}

static const struct stat_info infos[STAT_N] = {
    COUNTER(STAT_ACCEPTS, "accepts", "connections accepted"),
    COUNTER(STAT_CLOSES, "closes", "connections closed, for whatever reason"),
    GAUGE(STAT_CONNECTIONS, "connections", "open connections"),
    GAUGE(STAT_LOGIN_PENDING, "login_pending", "connections that have not logged in yet"),
    GAUGE(STAT_CLIENTS, "clients", "connections of clients that have logged in"),
    COUNTER(STAT_LOGINS, "logins", "logins of clients that succeeded"),
    GAUGE(STAT_HOME, "home", "connections of clients with this node as home"),
    GAUGE(STAT_NOT_IDEAL, "not_ideal",
          "connections of clients that would rather use another node of the region"),
    COUNTER(STAT_HOME_IN, "home_in", "times that a connection, not a new one, made this node its home"),
    COUNTER(STAT_HOME_OUT, "home_out", "times that a connection gave up this node as home"),
    GAUGE(STAT_LINKS, "links", "mesh connections"),
    GAUGE(STAT_WATCHERS, "watchers", "derpers that have logged in as mesh peers"),
    COUNTER(STAT_REFUSED_LOGIN_LIMIT, "refused_login_limit", "closed: too many connections before login"),
    COUNTER(STAT_REFUSED_ADDRESS_LIMIT, "refused_address_limit",
            "closed: too many connections before login from one address"),
    COUNTER(STAT_REFUSED_MAX_CLIENTS, "refused_max_clients", "closed: as many clients as max_clients allows"),
    COUNTER(STAT_REFUSED_MEMORY, "refused_memory", "connections refused: memory is short"),
    COUNTER(STAT_NO_DESCRIPTOR, "no_descriptor", "seconds in which no file descriptor was left"),
    COUNTER(STAT_REFUSED_ALLOW, "refused_allow", "logins refused: key not in the allow file"),
    COUNTER(STAT_REFUSED_URL, "refused_url", "logins refused: the verify URL said no"),
    COUNTER(STAT_REFUSED_SOCKET, "refused_socket", "logins refused: tailscaled does not know the key"),
    COUNTER(STAT_REFUSED_OUTAGE, "refused_outage", "logins refused: no answer from who admits"),
    COUNTER(STAT_REFUSED_DERPER_KEY, "refused_derper_key",
            "closed: a login with a mesh key that is not the one of derper_mesh_key_file"),
    COUNTER(STAT_CLOSED_UNWELCOME, "closed_unwelcome", "closed: a client that is no longer admitted"),
    COUNTER(STAT_CLOSED_LOGIN_TIMEOUT, "closed_login_timeout", "closed: no login in time"),
    COUNTER(STAT_CLOSED_TLS, "closed_tls", "closed: TLS handshake failed or a record was broken"),
    COUNTER(STAT_CLOSED_HTTP, "closed_http", "closed: not HTTP, or a head too long"),
    COUNTER(STAT_CLOSED_PROXY_HEADER, "closed_proxy_header",
            "closed: PROXY header missing, malformed, or from an address that is not trusted"),
    COUNTER(STAT_CLOSED_HELLO, "closed_hello", "closed: login message malformed"),
    COUNTER(STAT_CLOSED_FRAME, "closed_frame", "closed: a forbidden frame or length from a client"),
    COUNTER(STAT_CLOSED_PRIVILEGED, "closed_privileged",
            "closed: a mesh frame from a client without that right"),
    COUNTER(STAT_CLOSED_STALLED, "closed_stalled", "closed: the reader took nothing for too long"),
    COUNTER(STAT_CLOSED_MOVED, "closed_moved",
            "closed: its key is at home at another node, and nobody answers here"),
    COUNTER(STAT_CLOSED_NO_MEMORY, "closed_no_memory", "closed: out of memory"),
    COUNTER(STAT_CLOSED_PEER, "closed_peer", "closed or reset by the other side"),
    COUNTER(STAT_CLOSED_ADMIN, "closed_admin", "closed by this node: reload, stop, a link replaced"),
    COUNTER(STAT_PACKETS_IN, "packets_in", "packets that clients sent"),
    COUNTER(STAT_PACKETS_IN_DISCO, "packets_in_disco", "packets of path discovery that clients sent"),
    COUNTER(STAT_PACKET_BYTES_IN, "packet_bytes_in", "payload bytes of packets that clients sent"),
    COUNTER(STAT_PACKETS_OUT, "packets_out", "packets given to a client's connection"),
    COUNTER(STAT_PACKET_BYTES_OUT, "packet_bytes_out", "payload bytes given to a client's connection"),
    COUNTER(STAT_FORWARDED_OUT, "forwarded_out", "packets put on a mesh link"),
    COUNTER(STAT_FORWARDED_IN, "forwarded_in", "packets taken from a mesh link"),
    COUNTER(STAT_TRANSIT, "transit", "packets between two other nodes handed on"),
    COUNTER(STAT_INBOX_OUT, "inbox_out", "packets handed to another worker"),
    COUNTER(STAT_INBOX_IN, "inbox_in", "packets taken from another worker"),
    COUNTER(STAT_DROP_NO_ROUTE, "drop_no_route", "dropped: nobody serves the destination"),
    COUNTER(STAT_DROP_QUEUE_FULL, "drop_queue_full", "dropped: the destination's queue overflowed"),
    COUNTER(STAT_DROP_QUEUE_OLD, "drop_queue_old", "dropped: waited too long in the destination's queue"),
    COUNTER(STAT_DROP_BUDGET, "drop_budget", "dropped: the node's memory for queues is used up"),
    COUNTER(STAT_DROP_GONE, "drop_gone", "dropped: the destination closed with packets queued"),
    COUNTER(STAT_DROP_INBOX_FULL, "drop_inbox_full", "dropped: another worker's inbox was full"),
    COUNTER(STAT_DROP_MESH_HOPS, "drop_mesh_hops", "dropped: too many hops in the mesh"),
    COUNTER(STAT_DROP_MESH_NO_CLIENT, "drop_mesh_no_client", "dropped: came for a client that is not here"),
    COUNTER(STAT_DROP_MESH_NO_PATH, "drop_mesh_no_path",
            "dropped: the destination's node cannot be reached at the moment"),
    COUNTER(STAT_DROP_MESH_TRANSIT, "drop_mesh_transit",
            "dropped: came for another node that cannot be reached directly"),
    COUNTER(STAT_DROP_MESH_BAD, "drop_mesh_bad", "dropped: mesh data malformed or not understood"),
    COUNTER(STAT_DROP_NO_MEMORY, "drop_no_memory", "dropped: out of memory"),
    COUNTER(STAT_BYTES_IN, "bytes_in", "bytes read from sockets"),
    COUNTER(STAT_BYTES_OUT, "bytes_out", "bytes written to sockets"),
    COUNTER(STAT_KEEPALIVES, "keepalives", "KeepAlive frames sent"),
    COUNTER(STAT_PINGS, "pings", "Ping frames of clients"),
    COUNTER(STAT_PONGS, "pongs", "Pong frames sent"),
    COUNTER(STAT_UNKNOWN_FRAMES, "unknown_frames", "frames of unknown types, skipped"),
    COUNTER(STAT_PEER_GONE_DISCONNECTED, "peer_gone_disconnected", "PeerGone sent: the peer disconnected"),
    COUNTER(STAT_PEER_GONE_NOT_HERE, "peer_gone_not_here", "PeerGone sent: the peer is not here"),
    COUNTER(STAT_WATCH_PRESENT, "watch_present", "PeerPresent frames sent to derpers"),
    COUNTER(STAT_WATCH_GONE, "watch_gone", "PeerGone frames sent to derpers"),
    COUNTER(STAT_DUP_CLIENT_SWITCH, "dup_client_switch",
            "times that another connection of the same key became the active one"),
    COUNTER(STAT_READ_PAUSES, "read_pauses",
            "times that a sender was read later because its receiver was full"),
    COUNTER(STAT_RATE_PAUSES, "rate_pauses", "times that a client was read later because of client_rate"),
    COUNTER(STAT_IDEAL_NODE_OTHER, "ideal_node_other",
            "logins of clients that wanted another node of the region"),
    COUNTER(STAT_HTTP_REQUESTS, "http_requests", "requests answered with a page"),
    COUNTER(STAT_REQUESTS_TLS12, "requests_tls12", "HTTP requests over TLS 1.2"),
    COUNTER(STAT_REQUESTS_TLS13, "requests_tls13", "HTTP requests over TLS 1.3"),
    COUNTER(STAT_WEBSOCKET_ACCEPTS, "websocket_accepts", "logins begun over WebSocket"),
    COUNTER(STAT_STUN_SUCCESS, "stun_success", "STUN requests answered"),
    COUNTER(STAT_STUN_IPV6, "stun_ipv6", "STUN requests answered over IPv6"),
    COUNTER(STAT_STUN_BAD, "stun_bad",
            "datagrams to the STUN port that were no request of a Tailscale client"),
    COUNTER(STAT_STUN_UNSENT, "stun_unsent", "STUN answers that the socket did not take"),
};

const struct stat_info *stats_info(enum stat_id which)
{
    static const struct stat_info unnamed = {"unnamed", "no such counter", 0};

    if ((unsigned)which >= STAT_N || infos[which].name == NULL)
        return &unnamed;
    return &infos[which];
}
