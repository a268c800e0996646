/* The inside of the mesh: what mesh.c, peers.c, link.c, input.c, handshake.c,
 * ours.c, lanes.c, announce.c, learn.c, places.c and leaving.c share.
 *
 * Glossary: *place* = one location of a key at one peer; *slot* = the number under which a peer announces a key;
 * *the set* = all keys that a node announces; *scope* = the part of our set that some peers are told; *mark* = a PING whose PONG acknowledges all bytes sent before it.
 * Owner: struct mesh owns peers and links; both die with it, links earlier (link_end).
 * Thread: one.  Invariants: peer.link is in state LINK_UP and in mesh.links; an entry of the key map has at least
 * one place; each announced place is named by exactly one slot of its peer. */
#ifndef DERPMESH_MESH_STATE_H
#define DERPMESH_MESH_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mesh/auth.h"
#include "mesh/key_queue.h"
#include "mesh/keymap.h"
#include "mesh/mesh.h"
#include "proto/meshmsg.h"
#include "proto/meshmsg_sets.h"

#define NEVER     UINT64_MAX
#define SLOT_NONE UINT32_MAX

enum {
    PEER_KEYS_MAX = 1 << 20, /* slots of one peer, and of ourselves */
    PEERS_MAX = 0xffff,      /* a place names its peer in 16 bits */
    PEER_GONE_BATCH = 512,   /* keys said to be gone at once, … */
    PEER_GONE_EVERY_MS = 50, /* … so far apart: clients that lose a route dial their peers' homes */
    PEER_GONE_JITTER_MS = 3000,
    PEER_DROP_BATCH = 16384, /* places dropped in one tick */
    GLEANED_MAX = 16384,
    LINK_NEW_MS = 3000,       /* two links younger than this: the preferred dialer's stays */
    LINK_LAME_MS = 500,       /* the other one is closed after this */
    LINK_CHALLENGE_MS = 1500, /* the old instance has so long to answer */
    LANE_PINGS_MAX = 5,   /* of a silent lane while its control link is not silent: then it is made anew */
    LINK_GOOD_MS = 10000, /* up for so long: backoff begins anew */
    TUNNEL_WINDOW = 128 << 10, /* the same on a tunnel: it is others' traffic to the node between */
    TUNNEL_STAY_MS = 3000,     /* a tunnel stays so long once the direct connection is in use again */
    LINK_WINDOW = 256 << 10,   /* announced bytes under way on one link */
    LINK_MARK_EVERY = 64 << 10,
    LINK_MARKS = 16,
    DERPER_SETTLE_MS = 3000,      /* a derper that names no more clients for so long has named all, … */
    DERPER_SETTLE_MAX_MS = 30000, /* … at the latest after this */
    RTT_WINDOW_MS = 30000,
    DIAL_JITTER_MS = 100,
    BACKOFF_FIRST_MS = 500,
    BACKOFF_LOST_MS = 1500, /* the most for FORGET_MS after a link was lost */
    SYNC_MIN_MS = 1000,     /* syncs of one link are at least so far apart */
    DIGEST_MS = 30000,
    HOLD_FREE = 6,       /* changes of a key that are told at once */
    HOLD_COOL_MS = 5000, /* … one less each time this has passed */
    HOLD_FIRST_MS = 40,  /* the next one waits this long, then twice that … */
    HOLD_MAX_MS = 5000,
    HOLD_STEPS = 8,         /* … so often */
    HOLD_LINGER_MS = 60000, /* the slot of one that has left stays its own */
    REAUTH_MS = 20000,      /* the proof of the mesh key is renewed so often, … */
    REAUTH_DEAD_MS = 60000, /* … and expected within this */
    NOT_HERE_MS = 1000,     /* in so long a peer is told of … */
    NOT_HERE_MAX = 32,      /* … so many keys that they are not here */
    FORGET_MS =
        300000, /* without a link for so long: a peer's places go; until then only changes are asked for */
    REPLAY_RING = 256,
    ANN_COALESCE_MS = MESH_ANN_MS / 2
};

/* How well a connection or a path works. */
enum grade { GRADE_NONE, GRADE_DOWN, GRADE_SUSPECT, GRADE_UP };

enum link_state {
    /*  HELLO ── theirs is good ──> AUTH ── proven ──> UP ── another link stays ──> LAME
     *                                 └── proven, but another instance is connected ──> CHALLENGE ──> UP
     *  lanes: HELLO or ASKED ── proven ──> LANE ── out of use ──> LAME (see lanes.c)
     *  a connection and a tunnel to one peer: UP is the one in use, SPARE the other */
    LINK_HELLO,
    LINK_AUTH,
    LINK_ASKED,
    LINK_CHALLENGE,
    LINK_UP,
    LINK_LAME,
    LINK_LANE,
    LINK_SPARE
};

struct mark {
    uint64_t number, bytes, at;
};

/* Which of our clients a peer is told of; the number goes on the wire, where it means nothing but "the same or not". */
enum { SCOPE_NEAR, SCOPE_FAR, SCOPES };

/* The answer to a SYNC_REQ or BUCKETS that is under way. */
enum sync_run { RUN_NONE, RUN_FULL, RUN_CHANGES, RUN_BUCKETS };

struct peer;

/* A tunnel's way and its keys: see tunnel.c. */
struct tunnel {
    uint64_t number;     /* chosen by its dialer */
    uint32_t other, via; /* index of the node at the other end, and of the one between */
    bool sealed;
    uint8_t out_key[KEY_LEN], in_key[KEY_LEN];
    uint64_t out_counter, in_counter;
};

struct link {
    uint64_t id;
    enum link_state state;
    struct peer *peer; /* NULL until an accepted link's HELLO named it */
    bool dialer, has_exporter;
    uint8_t exporter[32];
    char from[64];
    uint64_t opened_at, up_at;
    uint64_t deadline; /* HELLO, AUTH, CHALLENGE, LAME: the end of that state */
    struct auth auth;
    struct meshmsg_hello theirs;
    struct mesh_key_id key_id; /* of the mesh key that proved it */
    uint8_t map_told[MESHMSG_HASH_LEN];

    /* A control link's: see reauth.c. */
    uint8_t reauth_secret[KEY_LEN];
    struct mesh_key_id proven[MESH_KEYS_MAX]; /* mesh keys that the other side has proven last */
    unsigned n_proven;
    uint64_t proven_at, reauth_at, reauth_number, reauth_heard;

    unsigned lonely; /* a lane's: pings without an answer while the control link was well */
    /* Something came behind the dialer's proof, so it has ours and takes data; always so for the dialer. */
    bool confirmed;

    bool is_tunnel;
    struct tunnel tunnel;
    uint64_t used_at; /* when it came into use, or went out of it */

    bool is_lane;
    struct meshmsg_lane lane;             /* a lane's: what its dialer asked */
    uint8_t lane_secret[KEY_LEN];         /* a control link's; a lane's until it is proven */
    uint64_t lane_number[MESH_LANES_MAX]; /* a control link's: the last one used, by index */

    /* Liveness. */
    uint64_t last_rx, next_ping, ping_number;
    uint64_t received,
        told_received; /* bytes of control that came in; that came to the other side, as it says */
    uint64_t tcp_acked, progress_at; /* bytes that its TCP said to be acknowledged; when anything last was */
    uint64_t busy_until;             /* data is under way: it is asked more often */
    uint64_t srtt8, rttvar4; /* of PONGs, RFC 6298: eight times the mean, four times the deviation; ms */
    bool suspect, down;
    struct mark mark[LINK_MARKS]; /* PINGs without an answer, oldest first */
    unsigned n_marks;
    uint64_t rtt_min[2], rtt_since; /* this window's minimum and the last one's; NEVER: none */

    uint64_t unreach_at; /* when it was last told that something cannot be passed on */

    /* What we tell: see announce.c. */
    uint64_t sent, acked, marked; /* bytes; marked: at the last mark */
    int scope;                    /* of our set */
    bool sync_wanted;             /* the peer asked, … */
    struct meshmsg_moment held;   /* … and has this already */
    bool buckets_wanted;          /* it asked for some buckets: */
    uint8_t bitmap[MESHMSG_BITMAP_LEN];
    enum sync_run sync_running;
    uint64_t sync_target, sync_last;
    uint32_t sync_cursor; /* next slot of the sync, SLOT_NONE: done */
    bool telling;         /* a sync was begun: ANN may go */
    uint64_t told;        /* seq */
    uint32_t ann_cursor;  /* oldest slot not told */
    uint64_t flush_at, digest_at;
    uint64_t not_here_at; /* when the counting of NOTHERE began */
    unsigned not_here_n;

    /* What we hear: see learn.c. */
    bool sync_asked;    /* and its BEGIN has not come */
    bool buckets_asked; /* the same for buckets, or they are on their way */
    int sync_run;       /* enum meshmsg_sync of what comes in; -1: none */
    bool sync_missed;   /* something is missing, but the last question was less than SYNC_MIN_MS ago */
    uint64_t asked_at;
};

/* What a peer says of one of its neighbours. */
struct neighbour {
    uint32_t avoid_until_s; /* it could not pass something on: seconds of monotonic time */
    uint16_t rtt_ms;
    uint8_t state; /* enum meshmsg_neighbour_state */
    bool told;     /* it has this neighbour */
};

/* The way that is taken to a node: see paths.c. */
struct path {
    uint32_t via; /* NODE_NONE: none */
    enum grade grade;
    uint32_t cost;      /* ms */
    bool faster;        /* taken although the direct connection works */
    uint32_t better;    /* the node over which it has been clearly faster; NODE_NONE: none … */
    uint64_t better_at; /* … which is taken then */
};

/* A lane of a peer.  At most one of link, asked, dial and dial_at is set when we dial it. */
struct lane {
    struct link *link;  /* proven */
    struct link *asked; /* open, LANE is sent */
    uint64_t dial;      /* under way; 0: none */
    uint64_t dial_at;   /* NEVER: not */
    unsigned attempts;
};

struct peer {
    uint32_t index;
    char *name;
    struct node_id id;
    const struct derpmap_node *node; /* in the map; NULL: not in it (any more) */
    bool self, seen;                 /* seen: mark of mesh_set_map */
    bool preferred;                  /* we are the preferred dialer */
    bool heard;                      /* we hear all that it tells: its set is as we know it */

    struct link *link;   /* proven and in use for control */
    struct link *direct; /* proven, and a connection: what data takes */
    struct link *tunnel; /* proven, over another node */
    struct link *tunnel_dialing;
    uint64_t tunnel_at, tunnel_avoid_until;
    unsigned tunnel_attempts;
    uint32_t tunnel_avoid;
    uint64_t pass_at, tunnels_at; /* what it may have passed on over us, and open to us */
    uint32_t pass_left;
    struct link *challenger;
    uint64_t challenge_ping;
    uint64_t dial;        /* under way; 0: none */
    struct link *dialing; /* dialled by us, not yet proven */
    uint64_t dial_at;
    unsigned attempts;
    bool stopped;         /* its last word was that it stops */
    bool certain;         /* dropping: it is not in the map any more, its keys have left it */
    bool redial;          /* reached otherwise now: dial although a link is up */
    uint64_t gone_at;     /* no path until then: its keys count as gone; NEVER: they do not, or it is said */
    uint32_t gone_cursor; /* next slot to say gone of */
    uint64_t down_at;     /* when the last link was lost; NEVER: no link was lost since the last drop */

    /* A real derper: see derper.c.  A proven link says that it is none. */
    bool derper;
    uint64_t derper_link; /* of the connection to it; 0: none */
    uint64_t derper_since, settle_at;
    uint32_t slot_cursor; /* where to look for a free slot: we number its clients ourselves */

    uint64_t busy_at; /* when it was last told BUSY */
    struct lane lane[MESH_LANES_MAX];
    uint64_t lanes_until; /* without a control link they end then; NEVER: there is one, or no lanes */

    /* The way to it, and what it says of its neighbours: see paths.c. */
    struct path path;
    struct mesh_path path_told;
    int path_rank; /* peer_rank when places were last told */
    uint64_t path_logged;
    uint64_t grace_at;            /* no path, but it counts as reachable until then; NEVER: it does not */
    uint64_t lost_at;             /* when its direct connection was lost */
    unsigned flaps;               /* how often that has happened lately */
    uint64_t flap_at, trust_at;   /* the last one; the connection is trusted again from then on */
    enum grade direct_told;       /* what neighbours know of our connection to it */
    struct neighbour *neighbours; /* by index of the node */
    uint32_t n_neighbours, neighbour_flags;
    uint64_t neighbours_at;

    /* Its set as we know it: slot → position in the key map + 1. */
    uint32_t *slots, *old_slots; /* old_slots: the former set while a sync runs */
    uint32_t n_slots, n_old, drop_at;
    bool parity; /* of places named by slots; those of old_slots have the other */
    bool syncing, same_boot, synced, dropping;
    uint64_t set_boot, in_seq; /* what we hold, and … */
    uint32_t set_scope;        /* … which part of its set that is; see meshmsg_sets.h */
    uint32_t n_keys;
    uint64_t root;       /* XOR of the hashes of all its announced places */
    unsigned digest_bad; /* digests in a row that did not add up */

    uint64_t boot; /* highest proven */
    uint8_t instance[MESHMSG_INSTANCE_LEN];
    uint8_t earlier[MESHMSG_INSTANCE_LEN]; /* the one before: it has ended, or lost against this one */
    uint8_t map_hash[MESHMSG_HASH_LEN];
    bool has_hash;
    uint64_t features;
    struct derp_key key; /* the node key that it has proven last */
    bool has_key;
    char software[32], last_error[160];
    enum mesh_peer_state state;
    uint64_t since;
};

struct pin {
    char *name;
    struct derp_key key;
};

/* A client of ours, in its slot; slots hang in a list by the time of their last change (ours.c). */
struct told {
    uint64_t seq, hash; /* of its last change; of its entry, if it is up */
    uint32_t older, newer;
    bool up;
};
struct local_slot {
    struct derp_key key;
    uint32_t free_next, age;
    bool used, home;
    bool derper, lost;      /* no client of ours: a derper's; which cannot be reached now */
    struct told in[SCOPES]; /* what each scope says of it */
    uint32_t told_age;      /* … in these words */
    uint8_t told_flags;
    uint8_t heat;                                /* see hold.c */
    uint64_t heat_at, held_until, lingers_until; /* 0: not */
};

/* The order and the digest of what one scope says. */
struct scope {
    uint64_t seq, root;
    uint32_t oldest, newest, count;
};

struct place {
    uint16_t node;
    uint16_t flags;
    uint32_t slot; /* gleaned: seconds of monotonic time when it ends */
    uint32_t age;
    uint32_t next; /* index + 1 into places.pool, 0: none */
};

struct places {
    struct keymap *keys; /* struct place, the first of the key's list */
    struct place *pool;  /* the others */
    uint32_t pool_n, pool_cap, pool_free;
    struct key_queue glean_queue;
    uint32_t n_gleaned;
};

enum refusal {
    REFUSE_HELLO,
    REFUSE_AUTH,
    REFUSE_PEER,
    REFUSE_PIN,
    REFUSE_VERSION,
    REFUSE_REPLAY,
    REFUSE_REFLECTION,
    REFUSE_NAME,
    REFUSE_KEY,
    REFUSE_EXPORTER,
    REFUSE_CLONE,
    REFUSE_LANE,
    REFUSE_LANE_PEER,
    REFUSE_LANE_REPLAY,
    REFUSE_LANE_AUTH,
    N_REFUSALS
};

struct mesh {
    const struct mesh_ops *ops;
    void *ctx;
    char software[64];
    struct key_pair node_key;
    uint64_t boot;
    uint8_t instance[MESHMSG_INSTANCE_LEN];
    struct mesh_keys keys;
    struct mesh_key_id key_id[MESH_KEYS_MAX];
    const struct derpmap *map;
    const struct derpmap_node *self;
    bool accept_no_exporter;
    void (*rewrite)(struct meshmsg *msg); /* tests only, else NULL */
    unsigned lanes;                       /* to dial for each control link that we dialled */
    uint64_t now;                         /* of the call that is running */
    uint64_t stalled_until;               /* we stood still: nobody is suspected until then (liveness.c) */

    struct pin *pins; /* seen first; */
    size_t n_pins;
    const struct mesh_pin *given; /* named by the operator, which comes before */
    size_t n_given;
    struct peer **peers; /* [0] is ourselves */
    uint32_t n_peers;
    struct link **links;
    size_t n_links, cap_links;
    uint64_t last_dial;

    uint64_t paths_at,
        paths_taken;               /* when to choose anew; when that was last done for what neighbours said */
    uint64_t links_at, links_sent; /* when to tell our links; when that was */
    uint32_t flags;                /* of our LINKS */

    struct places places;
    struct keymap *leaving; /* see leaving.c */
    struct key_queue leave_queue;

    struct keymap *local; /* uint32_t slot */
    struct local_slot *slot;
    uint32_t n_slots, cap_slots, free_first, free_last;
    struct key_queue held[HOLD_STEPS], lingering; /* see hold.c */
    struct scope scope[SCOPES];

    uint64_t seen_nonce[REPLAY_RING]; /* first bytes of nonces of HELLOs that came in */
    unsigned seen_next;
    uint64_t refusal_logged[N_REFUSALS], refusal_held[N_REFUSALS];
    struct mesh_counters count;
    uint64_t last_tunnel;
    struct meshmsg out;     /* scratch for the message being written */
    struct meshmsg wrapped; /* … for the TUNNEL around it */
    uint8_t sealed[MESHMSG_MAX + 16], plain[MESHMSG_MAX + 16];
};

/* mesh.c */
void mesh_log(struct mesh *m, enum mesh_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* A random number in 0…max. */
uint64_t mesh_random(struct mesh *m, uint64_t max);
/* Which key of our ring has that id; -1: none. */
int mesh_key_find(const struct mesh *m, const struct mesh_key_id *id);
/* Bytes that came from outside as printable ASCII into out[cap], which is returned. */
const char *mesh_printable(char *out, size_t cap, const char *s);

/* peers.c */
struct peer *peer_by_name(const struct mesh *m, const char *name);
struct peer *peer_by_id(const struct mesh *m, const struct node_id *id);
struct peer *peer_by_dial(const struct mesh *m, uint64_t dial);
/* 3: a path that works, 2: one in doubt, 1: none, but that is not certain yet; 0: none. */
int peer_rank(const struct peer *p);
/* Notes a change of whether we hear all that the peer tells: then who is told of clients that are at home there changes. */
void peer_heard(struct mesh *m, struct peer *p);
/* Notes a change of what mesh_peer_info.state says. */
void peer_note(struct mesh *m, struct peer *p);
/* WARN; DEBUG for what failed in the same way just before. */
enum mesh_log_level peer_error_level(const struct peer *p, const char *why);
void peer_error(struct peer *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The most that is waited after so many failures, ms; a random part of it is (full jitter). */
uint64_t peer_backoff(unsigned attempts);
/* Sets when to dial next, from all that is known of the peer. */
void peer_schedule(struct mesh *m, struct peer *p);
void peer_failed(struct mesh *m, struct peer *p); /* one more attempt in vain, then peer_schedule */
void peer_tick(struct mesh *m, struct peer *p);
uint64_t peer_next(const struct mesh *m, const struct peer *p);
void peer_free(struct peer *p);
int peers_take_map(struct mesh *m, const struct derpmap *map, const struct derpmap_node *self);
/* The key that a name has to prove, NULL: any.  *given (may be NULL): the operator named it. */
const struct derp_key *pin_find(const struct mesh *m, const char *name, bool *given);
int pin_add(struct mesh *m, const char *name, const struct derp_key *key);

#endif
