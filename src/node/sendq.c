/* The send queue of one connection: flows by sender, deficit round robin, drops from the fattest.
 *
 * Happy path: a run comes, finds its sender's flow (usually the only one), is copied into the flow's last chunk or a
 * new one; at the end of the turn sendq_next hands out chunk after chunk.
 * Fails by dropping whole frames: from the head of the fattest flow when the queue is full, the run's own when there is no
 * memory.  A chunk handed out (cur) has begun on the wire and is never touched by drops. */
#include "node/sendq.h"

#include <stdlib.h>
#include <string.h>

#include "node/reserve.h"
#include "proto/frame.h"
#include "proto/wire.h"

static uint32_t frame_size_at(const uint8_t *p)
{
    return FRAME_HEADER_LEN + wire_get32(p + 1);
}

static uint32_t is_packet(uint8_t type)
{
    return type == FRAME_RECV_PACKET || type == FRAME_MESH_DATA || type == FRAME_FORWARD_PACKET;
}

void sendq_init(struct sendq *q)
{
    memset(q, 0, sizeof(*q));
}

/* Releases a chunk with what is left in it. */
static uint32_t chunk_discard(struct sendq *q, struct buf_pool *p, struct chunk *c)
{
    uint32_t packets = c->packets;
    q->bytes -= c->len - c->off;
    buf_put(p, c);
    return packets;
}

static uint32_t flow_clear(struct sendq *q, struct buf_pool *p, struct sendq_flow *f)
{
    uint32_t lost = 0;
    while (f->head) {
        struct chunk *c = f->head;
        f->head = c->next;
        lost += chunk_discard(q, p, c);
    }
    f->tail = NULL;
    f->bytes = 0;
    return lost;
}

uint32_t sendq_clear_data(struct sendq *q, struct buf_pool *p)
{
    uint32_t lost = 0;
    while (q->flows) {
        struct sendq_flow *f = q->flows;
        q->flows = f->next;
        lost += flow_clear(q, p, f);
        reserve_free(f);
    }
    q->flows_tail = NULL;
    q->n_flows = 0;
    return lost;
}

uint32_t sendq_clear(struct sendq *q, struct buf_pool *p)
{
    uint32_t lost = flow_clear(q, p, &q->urgent) + sendq_clear_data(q, p);
    if (q->cur) {
        lost += chunk_discard(q, p, q->cur);
        q->cur = NULL;
    }
    return lost;
}

static struct sendq_flow *flow_find(struct sendq *q, uint64_t sender)
{
    struct sendq_flow *shared = q->flows;
    uint32_t at = 0;
    for (struct sendq_flow *f = q->flows; f; f = f->next, at++) {
        if (f->sender == sender)
            return f;
        if (at == sender % SENDQ_FLOWS_MAX)
            shared = f;
    }
    if (q->n_flows >= SENDQ_FLOWS_MAX)
        return shared;
    struct sendq_flow *f = reserve_malloc(sizeof(*f));
    if (!f)
        return q->flows; /* share one rather than lose the frame; NULL if there is none */
    *f = (struct sendq_flow){.sender = sender, .deficit = SENDQ_QUANTUM};
    if (q->flows_tail)
        q->flows_tail->next = f;
    else
        q->flows = f;
    q->flows_tail = f;
    q->n_flows++;
    return f;
}

uint32_t sendq_bytes_of(const struct sendq *q, uint64_t sender)
{
    for (const struct sendq_flow *f = q->flows; f; f = f->next)
        if (f->sender == sender)
            return f->bytes;
    return 0;
}

static void flow_remove(struct sendq *q, struct sendq_flow *gone)
{
    struct sendq_flow *prev = NULL;
    for (struct sendq_flow *f = q->flows; f != gone; f = f->next)
        prev = f;
    if (prev)
        prev->next = gone->next;
    else
        q->flows = gone->next;
    if (q->flows_tail == gone)
        q->flows_tail = prev;
    q->n_flows--;
    reserve_free(gone);
}

/* Drops the frame at the head of a flow; the flow may become empty (and stays listed).  Returns 1 if it was a packet. */
static uint32_t flow_drop_head(struct sendq *q, struct buf_pool *p, struct sendq_flow *f)
{
    struct chunk *c = f->head;
    uint32_t size = frame_size_at(c->data + c->off);
    uint32_t packet = is_packet(c->data[c->off]);
    c->off += size;
    c->packets -= packet;
    f->bytes -= size;
    q->bytes -= size;
    if (c->off >= c->len) {
        f->head = c->next;
        if (!f->head)
            f->tail = NULL;
        buf_put(p, c);
    }
    return packet;
}

static struct sendq_flow *flow_fattest(struct sendq *q)
{
    struct sendq_flow *fat = q->flows;
    for (struct sendq_flow *f = q->flows; f; f = f->next)
        if (f->bytes > fat->bytes)
            fat = f;
    return fat;
}

/* Makes room for size bytes of data under limit; false if it cannot. keep stays listed even when emptied. */
static bool make_room(struct sendq *q, struct buf_pool *p, struct sendq_flow *keep, size_t size,
                      uint32_t limit, struct sendq_loss *loss)
{
    while (q->bytes + size > limit) {
        struct sendq_flow *fat = flow_fattest(q);
        if (!fat || !fat->head)
            return false;
        loss->full += flow_drop_head(q, p, fat);
        if (!fat->head && fat != keep)
            flow_remove(q, fat);
    }
    return true;
}

/* Room for size bytes at the end of a flow: its last chunk, or a new one. */
static uint8_t *flow_room(struct buf_pool *p, struct sendq_flow *f, size_t size, uint32_t packet,
                          uint64_t now)
{
    struct chunk *c = f->tail;
    if (!c || c->cap - c->len < size) {
        /* the second chunk of a flow is a whole record: there is more to come */
        c = buf_get(p, c && size < CHUNK_RECORD ? CHUNK_RECORD : size);
        if (!c)
            return NULL;
        c->since = now;
        if (f->tail)
            f->tail->next = c;
        else
            f->head = c;
        f->tail = c;
    }
    uint8_t *at = c->data + c->len;
    c->len += (uint32_t)size;
    c->packets += packet;
    f->bytes += (uint32_t)size;
    return at;
}

static uint8_t *push_room(struct sendq *q, struct buf_pool *p, enum sendq_class cls, uint64_t sender,
                          size_t size, uint32_t packet, uint32_t limit, uint64_t now, struct sendq_loss *loss)
{
    struct sendq_flow *f = &q->urgent;
    if (cls == SENDQ_URGENT) {
        if (f->bytes + size > SENDQ_URGENT_LIMIT) {
            loss->full += packet;
            return NULL;
        }
    } else {
        f = flow_find(q, sender);
        if (!f) {
            loss->no_memory += packet;
            return NULL;
        }
        if (!make_room(q, p, f, size, limit, loss)) {
            loss->full += packet;
            if (!f->head)
                flow_remove(q, f);
            return NULL;
        }
    }
    uint8_t *at = flow_room(p, f, size, packet, now);
    if (!at) {
        loss->no_memory += packet;
        if (f != &q->urgent && !f->head)
            flow_remove(q, f);
        return NULL;
    }
    q->bytes += (uint32_t)size;
    return at;
}

void sendq_push(struct sendq *q, struct buf_pool *p, enum sendq_class cls, uint64_t sender,
                const uint8_t *run, size_t len, uint32_t limit, uint64_t now, struct sendq_loss *loss)
{
    for (size_t off = 0; off < len;) {
        size_t size = frame_size_at(run + off);
        uint8_t *at = push_room(q, p, cls, sender, size, is_packet(run[off]), limit, now, loss);
        if (at)
            memcpy(at, run + off, size);
        off += size;
    }
}

void sendq_push2(struct sendq *q, struct buf_pool *p, enum sendq_class cls, uint64_t sender,
                 const uint8_t *head, size_t head_len, const uint8_t *body, size_t body_len, uint32_t limit,
                 uint64_t now, struct sendq_loss *loss)
{
    uint8_t *at = push_room(q, p, cls, sender, head_len + body_len, is_packet(head[0]), limit, now, loss);
    if (!at)
        return;
    memcpy(at, head, head_len);
    if (body_len)
        memcpy(at + head_len, body, body_len);
}

int sendq_push_raw(struct sendq *q, struct buf_pool *p, const uint8_t *bytes, size_t len, uint64_t now)
{
    uint8_t *at = flow_room(p, &q->urgent, len, 0, now);
    if (!at)
        return -1;
    memcpy(at, bytes, len);
    q->bytes += (uint32_t)len;
    return 0;
}

/* Takes the first chunk of a flow as cur. */
static void take_chunk(struct sendq *q, struct sendq_flow *f)
{
    struct chunk *c = f->head;
    f->head = c->next;
    if (!f->head)
        f->tail = NULL;
    f->bytes -= c->len - c->off;
    c->next = NULL;
    q->cur = c;
}

/* Throws away what waited too long at the head of a flow. */
static void drop_old(struct sendq *q, struct buf_pool *p, struct sendq_flow *f, uint64_t now,
                     struct sendq_loss *loss)
{
    while (f->head && now - f->head->since > SENDQ_MAX_AGE_MS) {
        struct chunk *c = f->head;
        f->head = c->next;
        if (!f->head)
            f->tail = NULL;
        f->bytes -= c->len - c->off;
        loss->old += chunk_discard(q, p, c);
    }
}

static void rotate(struct sendq *q)
{
    struct sendq_flow *f = q->flows;
    if (f == q->flows_tail)
        return;
    q->flows = f->next;
    f->next = NULL;
    q->flows_tail->next = f;
    q->flows_tail = f;
}

const uint8_t *sendq_next(struct sendq *q, struct buf_pool *p, uint64_t now, size_t *len,
                          struct sendq_loss *loss)
{
    if (!q->cur && q->urgent.head)
        take_chunk(q, &q->urgent);
    while (!q->cur && q->flows) {
        struct sendq_flow *f = q->flows;
        if (f->deficit <= 0) {
            f->deficit += SENDQ_QUANTUM;
            rotate(q);
            continue;
        }
        drop_old(q, p, f, now, loss);
        if (f->head) {
            take_chunk(q, f);
            f->deficit -= (int32_t)(q->cur->len - q->cur->off);
        }
        if (!f->head)
            flow_remove(q, f);
    }
    if (!q->cur)
        return NULL;
    *len = q->cur->len - q->cur->off;
    return q->cur->data + q->cur->off;
}

uint32_t sendq_took(struct sendq *q, struct buf_pool *p, size_t n)
{
    struct chunk *c = q->cur;
    c->off += (uint32_t)n;
    q->bytes -= (uint32_t)n;
    if (c->off < c->len)
        return 0;
    uint32_t packets = c->packets;
    q->cur = NULL;
    buf_put(p, c);
    return packets;
}
