/* Data frames as node/relay.c passes them: entry node, transit node, destination node, client.
 *
 * Happy path: sim_inject → the entry node's route and path → sim_data_input at the destination node → the client.
 * How it fails: each packet ends in exactly one outcome; one that had to arrive and did not ends the process. */
#include <string.h>

#include "sim.h"

/* The payload of a packet. */
struct packet {
    uint32_t src, dst, entry, must_arrive;
    uint64_t sent_at;
};

static const char *const OUTCOME[] = {"delivered", "no route", "no link", "no client", "no hops", "lost"};

/* Whether nothing happened since to what made us sure. */
static bool still_must(struct sim_world *w, const struct packet *p)
{
    return p->must_arrive && w->node[p->entry].mesh && sim_must_arrive(w, (int)p->entry, (int)p->dst);
}

static void end(struct sim_world *w, const struct packet *p, enum sim_outcome o)
{
    w->outcome[o]++;
    if (o != SIM_DELIVERED && w->checking && still_must(w, p))
        sim_fail(w, "a packet of key %u from node %u to key %u, which is reachable: %s", p->src, p->entry,
                 p->dst, OUTCOME[o]);
}

static void packet_read(struct packet *p, const struct mesh_data *d, const struct sim_world *w)
{
    if (d->payload_len != sizeof *p)
        sim_fail(w, "a packet of another length");
    memcpy(p, d->payload, sizeof *p);
    if (sim_key_index(d->dst) != (int)p->dst || sim_key_index(d->src) != (int)p->src)
        sim_fail(w, "a packet under another key than its own");
}

/* The packet leaves for a node that the mesh knows by its index; transit: over its own connections only. */
static bool to_node(struct sim_world *w, int i, uint32_t index, struct mesh_data *d, bool transit, int not_to)
{
    struct sim_node *x = &w->node[i];
    uint8_t out[MESH_DATA_OVERHEAD + sizeof(struct packet)];
    struct node_id id;
    const struct mesh_path *path = transit && index < x->n_paths ? &x->path[index] : sim_way_out(x, index);
    if (!path || path->n == 0)
        return false;
    struct packet p;
    memcpy(&p, d->payload, sizeof p);
    uint64_t link = path->link[(p.src * 31 + p.dst) % path->n];
    int side;
    struct sim_conn *c = sim_conn_of(w, link, &side);
    if (c->node[side] != i)
        sim_fail(w, "%s: a path over a connection of another node", x->name);
    if (c->node[!side] == not_to)
        return false;
    node_id_of(&id, w->node[sim_of_index(x, index)].name);
    mesh_data_header(out, 0, d->hops, &id, &d->src_node, d->dst, d->src, d->payload_len);
    memcpy(out + MESH_DATA_OVERHEAD, d->payload, d->payload_len);
    w->in_flight++;
    sim_send(w, c, side, SIM_DATA, out, sizeof out);
    return true;
}

void sim_inject(struct sim_world *w, int i, int src, int dst)
{
    struct sim_node *x = &w->node[i];
    struct packet p = {.src = (uint32_t)src, .dst = (uint32_t)dst, .entry = (uint32_t)i, .sent_at = w->now};
    struct derp_key from = sim_key(src), to = sim_key(dst);
    struct mesh_data d = {.hops = MESH_HOPS_START, .dst = &to, .src = &from, .payload_len = sizeof p};
    w->packets++;
    if (x->client[dst].up) {
        end(w, &p, SIM_DELIVERED);
        return;
    }
    p.must_arrive = sim_must_arrive(w, i, dst);
    d.payload = (uint8_t *)&p;
    node_id_of(&d.src_node, x->name);
    if (x->route[dst] == NODE_NONE)
        end(w, &p, SIM_NO_ROUTE);
    else if (!to_node(w, i, x->route[dst], &d, false, -1))
        end(w, &p, SIM_NO_LINK);
}

/* A frame for another node: handed to it directly, or dropped.  Whoever chose this way may not have heard of a loss yet. */
static void transit(struct sim_world *w, int i, uint64_t link, int from, struct mesh_data *d,
                    struct packet *p)
{
    struct sim_node *x = &w->node[i];
    p->must_arrive = false;
    if (d->hops <= 1) {
        end(w, p, SIM_NO_HOPS);
        return;
    }
    d->hops--;
    if (to_node(w, i, mesh_node_index(x->mesh, &d->dst_node), d, true, from))
        return;
    mesh_unreach(x->mesh, link, &d->dst_node, w->now);
    sim_touch(w, i);
    end(w, p, SIM_NO_LINK);
}

static void not_here(struct sim_world *w, struct sim_node *x, const struct mesh_data *d,
                     const struct packet *p)
{
    mesh_not_here(x->mesh, d->dst, &d->src_node, w->now);
    sim_touch(w, x->index);
    end(w, p, SIM_NO_CLIENT);
}

void sim_data_input(struct sim_world *w, int i, uint64_t link, const uint8_t *b, size_t len)
{
    struct sim_node *x = &w->node[i];
    struct frame f;
    struct mesh_data d;
    struct node_id self;
    struct packet p;
    uint8_t copy[MESH_DATA_OVERHEAD + sizeof p];
    if (len != sizeof copy)
        sim_fail(w, "a data frame of another length");
    memcpy(copy, b, len);
    if (frame_peek(&f, copy, len) != len || mesh_data_parse(&d, &f) != 0)
        sim_fail(w, "a malformed data frame");
    packet_read(&p, &d, w);
    w->in_flight--;
    int side, from;
    struct sim_conn *c = sim_conn_of(w, link, &side);
    from = c->node[!side];
    if (!c->ready[side])
        sim_fail(w, "%s: data before the other side has proven itself", x->name);
    node_id_of(&self, x->name);
    if (memcmp(&d.dst_node, &self, sizeof self) != 0) {
        transit(w, i, link, from, &d, &p);
        return;
    }
    if (x->route[p.src] == NODE_NONE && !x->client[p.src].up) {
        w->node[p.entry].client[p.src].sent_at = w->now;
        mesh_glean(x->mesh, d.src, &d.src_node, w->now);
        sim_touch(w, i);
    }
    d.hops--;
    if (x->client[p.dst].up)
        end(w, &p, SIM_DELIVERED);
    else if (x->route[p.dst] == NODE_NONE || d.hops == 0 || !to_node(w, i, x->route[p.dst], &d, false, from))
        not_here(w, x, &d, &p); /* else it follows a key that has just moved */
}

void sim_data_lost(struct sim_world *w, const uint8_t *b, size_t len)
{
    struct packet p;
    memcpy(&p, b + len - sizeof p, sizeof p);
    w->in_flight--;
    w->outcome[SIM_LOST]++;
}
