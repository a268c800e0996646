/* A whole mesh in one process and in virtual time: nodes of src/mesh, the network between them, their clients.
 *
 * One seed decides everything.  Three streams of random numbers are drawn from it, for the schedule, for the network
 * and for each mesh, so that a change of the mesh's code leaves a seed's schedule as it was.
 * Parts: wire.c (connections), world.c (nodes and time), relay.c (data frames), schedule.c (what happens), checks.c
 * (the model and what must hold), scale.c (large meshes), main.c (seeds, processes).
 * A check that fails prints the seed and ends the process. */
#ifndef DERPMESH_TESTS_SIM_H
#define DERPMESH_TESTS_SIM_H

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mesh/mesh.h"
#include "proto/wire.h"

enum {
    SIM_NODES = 128,      /* of the largest world */
    SIM_KEYS = 40,        /* those that the model follows; others (scale) are only counted */
    SIM_SETTLE_MS = 9000, /* what has been calm for so long must be known: hold-back, pings, resync */
    SIM_UP_MS =
        60000, /* two nodes that could reach each other for so long have a link: the backoff's 30 s, and dials */
    SIM_HEAL_MS = 140000,  /* a dead connection is noticed after 60 s, the backoff reaches 30 s, twice */
    SIM_WINDOW = 64 << 10, /* what TCP sends without an acknowledgement */
    SIM_ACK_EVERY = 200,   /* bytes: a mesh is told of acknowledgements so often */
    SIM_DIAL_MS = 8000     /* a SYN without an answer */
};

struct sim_world;

/* ---- wire.c: the network ---- */

/* From one node to another. */
struct sim_way {
    uint32_t delay, jitter; /* ms */
    uint32_t loss;          /* per mille of frames that TCP sends again */
    uint32_t rate;          /* bytes a second; 0: no limit */
    bool cut;               /* nothing passes, and nobody is told */
    bool no_dial;           /* a firewall, for good: connections can only be made the other way */
    uint64_t fault_at;      /* when something last was or ceased to be wrong */
};

enum sim_frame_kind { SIM_CONTROL, SIM_DATA, SIM_FIN };
struct sim_frame {
    struct sim_frame *next;
    uint64_t at; /* arrival */
    enum sim_frame_kind kind;
    size_t len;
    uint8_t b[];
};

/* One direction of a connection: bytes in order, late where the network loses some. */
struct sim_stream {
    struct sim_frame *head, *tail;
    uint64_t busy_until, last; /* when the sender's pipe is free; the last arrival */
    bool scheduled;            /* an event for the head is under way */
    uint64_t stalled_at;       /* 0: not stalled by a cut */
    uint64_t queued, queued_max, delivered, acked, acked_told;
};

/* Side 0 dialled.  A side's link id is 2 × number + side + 1000. */
struct sim_conn {
    uint64_t number;
    int node[2];
    bool open[2], ready[2];  /* ready: has proven itself, data is good */
    bool dead;               /* what is sent vanishes: a firewall has forgotten it */
    uint64_t dial;           /* of side 0 */
    int incarnation[2];      /* of the node whose socket it is */
    struct sim_stream to[2]; /* towards that side */
    uint8_t exporter[32];
};

enum sim_event_type { SIM_EV_STREAM, SIM_EV_ACCEPTED, SIM_EV_DIALLED, SIM_EV_DIAL_FAILED, SIM_EV_RESET };
struct sim_event {
    uint64_t at, order;
    enum sim_event_type type;
    int side;
    struct sim_conn *conn; /* NULL: DIAL_FAILED without one */
    int node, incarnation;
    uint64_t dial;
};

struct sim_way *sim_way(struct sim_world *w, int from, int to);
/* The way is as it shall be from now on; streams that it stalled go on. */
void sim_way_set(struct sim_world *w, int from, int to, const struct sim_way *way);
struct sim_conn *sim_conn_of(const struct sim_world *w, uint64_t link, int *side);
uint64_t sim_link_id(const struct sim_conn *c, int side);
void sim_dial(struct sim_world *w, int from, int to, uint64_t dial);
/* From a side to the other. */
void sim_send(struct sim_world *w, struct sim_conn *c, int side, enum sim_frame_kind kind, const uint8_t *b,
              size_t len);
/* The side's process closes: what it sent arrives, then the other side hears of it. */
void sim_close(struct sim_world *w, struct sim_conn *c, int side);
/* The side's process was killed: its kernel tells the other side if it can. */
void sim_kill_side(struct sim_world *w, struct sim_conn *c, int side);
/* Something on the way resets the connection: both sides hear of it. */
void sim_reset(struct sim_world *w, struct sim_conn *c);
/* Streams that a cut, or a machine without power, had stalled try again. */
void sim_resume(struct sim_world *w, int from, int to);
void sim_run_event(struct sim_world *w, const struct sim_event *e);
void sim_wire_free(struct sim_world *w);

/* ---- world.c: nodes and time ---- */

struct sim_client {
    bool up, home;
    uint64_t since;   /* the last change of these two */
    uint64_t sent_at; /* when another node last learned from a packet that it is here; 0: never */
};

struct sim_node {
    struct sim_world *w;
    int index;
    char name[32], host[32];
    int region;
    struct mesh *mesh; /* NULL: does not run */
    bool power;        /* the machine runs */
    bool refuses;      /* … and its port is closed */
    int incarnation;
    unsigned lanes; /* data connections to each peer */
    uint64_t rnd, boot, next, started;
    struct key_pair key;
    struct mesh_keys psk;
    const struct derpmap *map;
    struct mesh_pin *pins;
    size_t n_pins;
    int *of_index; /* mesh index → node, -1: not looked up yet */
    size_t n_of_index;
    struct mesh_path *path; /* by mesh index */
    size_t n_paths;
    uint32_t route[SIM_KEYS];        /* mesh index */
    uint64_t routed_until[SIM_KEYS]; /* when the last route of a key went */
    struct sim_client client[SIM_KEYS];
    uint64_t gone[SIM_KEYS];                                    /* how often */
    uint64_t gone_total, gone_window, gone_window_at, gone_max; /* most in one window of 50 ms */
    uint64_t alarms;
    char last_alarm[200];
};

enum sim_outcome {
    SIM_DELIVERED,
    SIM_NO_ROUTE,
    SIM_NO_LINK,
    SIM_NO_CLIENT,
    SIM_NO_HOPS,
    SIM_LOST, /* with its connection */
    SIM_OUTCOMES
};

struct sim_world {
    uint64_t seed, now, order;
    uint64_t rnd, rnd_wire; /* the schedule's, the network's */
    int n;
    struct sim_node *node;
    struct sim_way *ways;
    uint64_t *settled, *was_settled; /* since and until when a node's set is known at another: checks.c */
    struct sim_conn **conn;
    size_t n_conns, cap_conns;
    struct sim_event *heap;
    size_t n_events, cap_events;
    struct derpmap **map;
    int n_maps;
    uint64_t frames, bytes, fingerprint;
    uint64_t packets, outcome[SIM_OUTCOMES], in_flight;
    bool verbose, checking;
};

struct sim_world *sim_new(uint64_t seed, int n, bool verbose);
void sim_free(struct sim_world *w);
/* A map of the nodes whose flag is set; those with moved set have another port.  Lives as long as the world. */
struct derpmap *sim_map(struct sim_world *w, const bool *in, const bool *moved);
void sim_start(struct sim_world *w, int i, const struct derpmap *map);
enum sim_stop { SIM_STOP_ORDERLY, SIM_STOP_KILL, SIM_STOP_POWER };
void sim_stop(struct sim_world *w, int i, enum sim_stop how);
void sim_take_map(struct sim_world *w, int i, const struct derpmap *map);
void sim_run(struct sim_world *w, uint64_t until);
/* The mesh was called: asks it when it wants to be called next. */
void sim_touch(struct sim_world *w, int i);
/* The node that a mesh calls by its index, -1: none. */
int sim_of_index(struct sim_node *x, uint32_t index);
uint32_t sim_index_of(const struct sim_node *x, int other);
struct derp_key sim_key(int k);
int sim_key_index(const struct derp_key *key); /* may be SIM_KEYS or more */
void sim_client_up(struct sim_world *w, int i, int k, bool home);
void sim_client_home(struct sim_world *w, int i, int k, bool home);
void sim_client_down(struct sim_world *w, int i, int k);

uint64_t sim_random(uint64_t *state);
uint64_t sim_below(uint64_t *state, uint64_t n);
void sim_trace(const struct sim_world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void sim_fail(const struct sim_world *w, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- relay.c ---- */

/* A client of node i sends a packet. */
void sim_inject(struct sim_world *w, int i, int src, int dst);
void sim_data_input(struct sim_world *w, int i, uint64_t link, const uint8_t *b, size_t len);
/* A data frame went with its connection. */
void sim_data_lost(struct sim_world *w, const uint8_t *b, size_t len);

/* ---- checks.c ---- */

/* Called by ops at once. */
void sim_check_gone(struct sim_world *w, int i, int k);
void sim_check_path(struct sim_world *w, int i, uint32_t index);
void sim_check_route(struct sim_world *w, int i, int k, uint32_t index);
/* Whether a packet that enters at i for a key must arrive. */
/* The connections that data for a node takes now; NULL if there are none. */
const struct mesh_path *sim_way_out(const struct sim_node *x, uint32_t index);
bool sim_must_arrive(struct sim_world *w, int i, int k);
/* A client has come, or has made the node its home. */
void sim_check_age(struct sim_world *w, int i, int k);
/* After every step of a schedule. */
void sim_check_step(struct sim_world *w);
/* All faults have ended long ago. */
void sim_check_converged(struct sim_world *w);
/* Where a node should send a key, -1: nowhere. */
int sim_model_best(struct sim_world *w, int at, int k);

/* ---- schedule.c, scale.c ---- */

void sim_schedule(uint64_t seed, bool verbose);
int sim_scale(bool is_long);

#endif
