/* The network: connections that behave as TCP does where it matters to a mesh.
 *
 * Happy path: sim_send puts a frame behind the others of its stream; its arrival is the way's delay and jitter later, behind
 * what is queued at the way's rate, and later by a retransmission for each time it is lost; never out of order.
 * How it fails: a cut way stalls its streams; when it heals, each goes on after what is left of TCP's doubled time-out.  Acknowledgements
 * need the way back.  A socket whose process is gone answers with a reset; a machine without power answers nothing. */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

struct sim_way *sim_way(struct sim_world *w, int from, int to)
{
    return &w->ways[from * w->n + to];
}

/* ---- events ---- */

static bool event_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void push(struct sim_world *w, struct sim_event e)
{
    if (w->n_events == w->cap_events) {
        w->cap_events = w->cap_events ? w->cap_events * 2 : 1024;
        w->heap = realloc(w->heap, w->cap_events * sizeof *w->heap);
    }
    e.order = w->order++;
    size_t i = w->n_events++;
    for (; i > 0 && event_before(&e, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = e;
}

/* ---- streams ---- */

struct sim_conn *sim_conn_of(const struct sim_world *w, uint64_t link, int *side)
{
    *side = (int)((link - 1000) % 2);
    if ((link - 1000) / 2 >= w->n_conns)
        sim_fail(w, "no link has the number %" PRIu64, link);
    return w->conn[(link - 1000) / 2];
}

uint64_t sim_link_id(const struct sim_conn *c, int side)
{
    return 1000 + 2 * c->number + (uint64_t)side;
}

static void discard(struct sim_world *w, struct sim_stream *s)
{
    while (s->head) {
        struct sim_frame *f = s->head;
        s->head = f->next;
        if (f->kind == SIM_DATA)
            sim_data_lost(w, f->b, f->len);
        free(f);
    }
    s->tail = NULL;
    s->queued = 0;
}

static void schedule(struct sim_world *w, struct sim_conn *c, int side, uint64_t at)
{
    struct sim_stream *s = &c->to[side];
    if (s->scheduled || !s->head)
        return;
    s->scheduled = true;
    push(w,
         (struct sim_event){.type = SIM_EV_STREAM, .conn = c, .side = side, .at = at > w->now ? at : w->now});
}

/* When what leaves now over a way arrives. */
static uint64_t arrival(struct sim_world *w, const struct sim_way *way)
{
    uint64_t at = w->now + way->delay + sim_below(&w->rnd_wire, way->jitter + 1);
    uint64_t rto = 200 + 2 * (uint64_t)way->delay;
    for (; way->loss && sim_below(&w->rnd_wire, 1000) < way->loss && rto < 20000; rto *= 2)
        at += rto;
    return at;
}

void sim_send(struct sim_world *w, struct sim_conn *c, int side, enum sim_frame_kind kind, const uint8_t *b,
              size_t len)
{
    struct sim_stream *s = &c->to[!side];
    const struct sim_way *way = sim_way(w, c->node[side], c->node[!side]);
    if (!c->open[side] || c->dead) {
        if (kind == SIM_DATA)
            sim_data_lost(w, b, len);
        return;
    }
    struct sim_frame *f = malloc(sizeof *f + len);
    uint64_t at = arrival(w, way);
    if (way->rate) {
        uint64_t from = s->busy_until > w->now ? s->busy_until : w->now;
        s->busy_until = from + len * 1000 / way->rate;
        at += s->busy_until - w->now;
    }
    s->last = at > s->last ? at : s->last;
    *f = (struct sim_frame){.at = s->last, .kind = kind, .len = len};
    if (len)
        memcpy(f->b, b, len);
    if (s->tail)
        s->tail->next = f;
    else
        s->head = f;
    s->tail = f;
    s->queued += len;
    s->queued_max = s->queued > s->queued_max ? s->queued : s->queued_max;
    if (!s->stalled_at)
        schedule(w, c, !side, s->head->at);
}

/* The kernel of a side says that there is no such connection. */
static void refuse(struct sim_world *w, struct sim_conn *c, int side)
{
    const struct sim_way *way = sim_way(w, c->node[side], c->node[!side]);
    if (!c->open[!side] || way->cut || c->dead || !w->node[c->node[side]].power)
        return;
    push(w,
         (struct sim_event){.type = SIM_EV_RESET, .conn = c, .side = !side, .at = w->now + way->delay + 1});
}

void sim_close(struct sim_world *w, struct sim_conn *c, int side)
{
    if (!c->open[side])
        return;
    sim_send(w, c, side, SIM_FIN, NULL, 0);
    c->open[side] = false;
    discard(w, &c->to[side]);
}

void sim_kill_side(struct sim_world *w, struct sim_conn *c, int side)
{
    if (!c->open[side])
        return;
    c->open[side] = false;
    discard(w, &c->to[side]);
    refuse(w, c, side);
}

void sim_reset(struct sim_world *w, struct sim_conn *c)
{
    for (int side = 0; side < 2; side++) {
        if (!c->open[side])
            continue;
        const struct sim_way *way = sim_way(w, c->node[!side], c->node[side]);
        push(w, (struct sim_event){
                    .type = SIM_EV_RESET, .conn = c, .side = side, .at = w->now + way->delay / 2});
        discard(w, &c->to[side]);
    }
    c->dead = true;
}

/* All that came to a side is acknowledged; its sender's kernel knows that at once, which no check depends on. */
static void acknowledge(struct sim_world *w, struct sim_conn *c, int side)
{
    struct sim_stream *s = &c->to[side];
    struct sim_node *x = &w->node[c->node[!side]];
    s->acked = s->delivered;
    if (!c->open[!side] || s->acked < s->acked_told + SIM_ACK_EVERY)
        return;
    s->acked_told = s->acked;
    mesh_link_acked(x->mesh, sim_link_id(c, !side), s->acked, w->now);
    sim_touch(w, x->index);
}

/* TCP's time-out doubles while nothing passes, so that it may take as long again until it tries. */
static void resume(struct sim_world *w, struct sim_conn *c, int side)
{
    struct sim_stream *s = &c->to[side];
    if (!s->stalled_at)
        return;
    uint64_t outage = w->now - s->stalled_at;
    outage = outage > 15000 ? 15000 : outage;
    s->stalled_at = 0;
    schedule(w, c, side, w->now + sim_below(&w->rnd_wire, outage + 200));
}

void sim_resume(struct sim_world *w, int from, int to)
{
    for (size_t i = 0; i < w->n_conns; i++) {
        struct sim_conn *c = w->conn[i];
        for (int side = 0; side < 2; side++) {
            if (c->node[!side] == from && c->node[side] == to)
                resume(w, c, side);
            if (c->node[side] == from && c->node[!side] == to) { /* the acknowledgements' way */
                acknowledge(w, c, side);
                resume(w, c, side);
            }
        }
    }
}

void sim_way_set(struct sim_world *w, int from, int to, const struct sim_way *way)
{
    struct sim_way *old = sim_way(w, from, to);
    bool healed = old->cut && !way->cut;
    bool no_dial = old->no_dial;
    uint64_t fault_at = old->fault_at;
    *old = *way;
    old->no_dial = no_dial;
    old->fault_at = fault_at > w->now ? fault_at : w->now;
    if (healed)
        sim_resume(w, from, to);
}

/* ---- dialling ---- */

static bool passes(struct sim_world *w, int a, int b)
{
    return !sim_way(w, a, b)->cut && !sim_way(w, b, a)->cut && w->node[a].power && w->node[b].power;
}

void sim_dial(struct sim_world *w, int from, int to, uint64_t dial)
{
    const struct sim_node *x = &w->node[from];
    uint64_t rtt = sim_way(w, from, to)->delay + sim_way(w, to, from)->delay + 1;
    struct sim_event e = {.node = from, .incarnation = x->incarnation, .dial = dial};
    bool answers = passes(w, from, to) && !sim_way(w, from, to)->no_dial;
    if (!answers || !w->node[to].mesh || w->node[to].refuses) {
        e.type = SIM_EV_DIAL_FAILED;
        e.at = w->now + (answers ? rtt : SIM_DIAL_MS);
        push(w, e);
        return;
    }
    if (w->n_conns == w->cap_conns) {
        w->cap_conns = w->cap_conns ? w->cap_conns * 2 : 256;
        w->conn = realloc(w->conn, w->cap_conns * sizeof(*w->conn));
    }
    struct sim_conn *c = calloc(1, sizeof *c);
    *c = (struct sim_conn){.number = w->n_conns, .node = {from, to}, .dial = dial};
    c->incarnation[0] = x->incarnation;
    c->incarnation[1] = w->node[to].incarnation;
    for (size_t i = 0; i < sizeof c->exporter; i++)
        c->exporter[i] = (uint8_t)sim_random(&w->rnd_wire);
    w->conn[w->n_conns++] = c;
    e.conn = c;
    e.type = SIM_EV_ACCEPTED; /* TCP, TLS, the Upgrade: three times there and back */
    e.at = w->now + rtt * 5 / 2;
    push(w, e);
    e.type = SIM_EV_DIALLED;
    e.at = w->now + rtt * 3 + sim_below(&w->rnd_wire, 3);
    push(w, e);
}

static void open_side(struct sim_world *w, struct sim_conn *c, int side)
{
    struct sim_node *x = &w->node[c->node[side]];
    struct mesh_link_info info = {.dialer = side == 0,
                                  .dial = side == 0 ? c->dial : 0,
                                  .has_exporter = true,
                                  .from = w->node[c->node[!side]].host};
    memcpy(info.exporter, c->exporter, sizeof info.exporter);
    c->open[side] = true;
    mesh_link_open(x->mesh, sim_link_id(c, side), &info, w->now);
    sim_touch(w, x->index);
}

static bool runs(const struct sim_world *w, int node, int incarnation)
{
    return w->node[node].mesh && w->node[node].incarnation == incarnation;
}

static void dial_failed(struct sim_world *w, const struct sim_event *e)
{
    if (!runs(w, e->node, e->incarnation))
        return;
    mesh_dial_failed(w->node[e->node].mesh, e->dial, "connection refused", w->now);
    sim_touch(w, e->node);
}

static void dialled(struct sim_world *w, const struct sim_event *e)
{
    struct sim_conn *c = e->conn;
    bool there = c->open[1] && !c->dead;
    if (!runs(w, c->node[0], c->incarnation[0])) {
        refuse(w, c, 0);
    } else if (there && passes(w, c->node[0], c->node[1])) {
        open_side(w, c, 0);
    } else {
        struct sim_event failed = *e;
        failed.type = SIM_EV_DIAL_FAILED;
        failed.at = w->now + (there ? SIM_DIAL_MS : 1);
        push(w, failed);
    }
}

/* ---- arrivals ---- */

static void closed(struct sim_world *w, struct sim_conn *c, int side, const char *why)
{
    if (!c->open[side])
        return;
    c->open[side] = false;
    discard(w, &c->to[side]);
    mesh_link_closed(w->node[c->node[side]].mesh, sim_link_id(c, side), why, w->now);
    sim_touch(w, c->node[side]);
}

static void frame_in(struct sim_world *w, struct sim_conn *c, int side, struct sim_frame *f)
{
    int node = c->node[side];
    uint64_t link = sim_link_id(c, side);
    if (f->kind == SIM_FIN) {
        closed(w, c, side, "connection closed");
    } else if (f->kind == SIM_DATA) {
        sim_data_input(w, node, link, f->b, f->len);
    } else {
        uint8_t *exact = malloc(f->len); /* so that a read past the end is seen */
        memcpy(exact, f->b, f->len);
        mesh_link_input(w->node[node].mesh, link, exact, f->len, w->now);
        free(exact);
        sim_touch(w, node);
    }
}

/* The head of a stream is there, unless the way is cut. */
static void stream_run(struct sim_world *w, struct sim_conn *c, int side)
{
    struct sim_stream *s = &c->to[side];
    s->scheduled = false;
    if (!s->head)
        return;
    if (c->dead) {
        discard(w, s);
        return;
    }
    bool acked = passes(w, c->node[side], c->node[!side]);
    bool comes = !sim_way(w, c->node[!side], c->node[side])->cut && w->node[c->node[side]].power;
    if (!comes || (!acked && s->delivered - s->acked > SIM_WINDOW)) {
        s->stalled_at = w->now;
        return;
    }
    if (s->head->at > w->now) {
        schedule(w, c, side, s->head->at);
        return;
    }
    if (!c->open[side]) { /* FIN too: the answer does no harm */
        discard(w, s);
        refuse(w, c, side);
        return;
    }
    struct sim_frame *f = s->head;
    s->head = f->next;
    if (!s->head)
        s->tail = NULL;
    s->queued -= f->len;
    s->delivered += f->len;
    if (acked)
        acknowledge(w, c, side);
    frame_in(w, c, side, f);
    free(f);
    if (s->head)
        schedule(w, c, side, s->head->at);
}

void sim_run_event(struct sim_world *w, const struct sim_event *e)
{
    struct sim_conn *c = e->conn;
    switch (e->type) {
    case SIM_EV_STREAM:
        stream_run(w, c, e->side);
        break;
    case SIM_EV_ACCEPTED:
        if (runs(w, c->node[1], c->incarnation[1]) && passes(w, c->node[0], c->node[1]) &&
            !w->node[c->node[1]].refuses)
            open_side(w, c, 1);
        break;
    case SIM_EV_DIALLED:
        dialled(w, e);
        break;
    case SIM_EV_DIAL_FAILED:
        dial_failed(w, e);
        break;
    case SIM_EV_RESET:
        closed(w, c, e->side, "connection reset");
        break;
    }
}

void sim_wire_free(struct sim_world *w)
{
    for (size_t i = 0; i < w->n_conns; i++) {
        discard(w, &w->conn[i]->to[0]);
        discard(w, &w->conn[i]->to[1]);
        free(w->conn[i]);
    }
    free(w->conn);
    free(w->heap);
}
