/* Messages about ways between nodes: LINKS, TUNNEL, UNREACH, BUSY.  As meshmsg.c, which says how reading and writing fail. */
#include "proto/meshmsg_paths.h"

#include <string.h>

#include "proto/meshmsg_parts.h"

/* ---- reading ---- */

int meshmsg_read_links(const struct meshmsg_in *in, uint32_t *flags, struct meshmsg_neighbours *list)
{
    if (meshmsg_take(&list->r, in, 2) != 0 || mpread_u32(&list->r, flags, UINT32_MAX) != 0)
        return -1;
    return mpread_array(&list->r, &list->left);
}

int meshmsg_neighbour_next(struct meshmsg_neighbours *list, struct meshmsg_neighbour *e)
{
    struct mpread *r = &list->r;
    uint32_t n;
    if (list->left == 0)
        return 0;
    list->left--;
    if (mpread_array(r, &n) != 0 || n < 3 || mpread_bin_exact(r, e->node.b, sizeof e->node.b) != 0 ||
        mpread_u32(r, &e->state, UINT32_MAX) != 0 || mpread_u32(r, &e->rtt_ms, UINT32_MAX) != 0)
        return -1;
    for (uint32_t i = 3; i < n; i++)
        if (mpread_skip(r) != 0)
            return -1;
    return 1;
}

int meshmsg_read_tunnel(const struct meshmsg_in *in, struct meshmsg_tunnel *t)
{
    struct mpread r;
    if (meshmsg_take(&r, in, 5) != 0 || mpread_bin_exact(&r, t->to.b, sizeof t->to.b) != 0 ||
        mpread_bin_exact(&r, t->from.b, sizeof t->from.b) != 0 || mpread_uint(&r, &t->number) != 0 ||
        mpread_u32(&r, &t->kind, UINT32_MAX) != 0)
        return -1;
    return mpread_bin(&r, &t->body, &t->len);
}

int meshmsg_read_busy(const struct meshmsg_in *in, struct derp_key *dst, struct derp_key *src, uint32_t *ms)
{
    struct mpread r;
    if (meshmsg_take(&r, in, 3) != 0 || mpread_bin_exact(&r, dst->b, KEY_LEN) != 0 ||
        mpread_bin_exact(&r, src->b, KEY_LEN) != 0)
        return -1;
    return mpread_u32(&r, ms, UINT32_MAX);
}

int meshmsg_read_unreach(const struct meshmsg_in *in, struct node_id *node)
{
    struct mpread r;
    return meshmsg_take(&r, in, 1) != 0 ? -1 : mpread_bin_exact(&r, node->b, sizeof node->b);
}

/* ---- writing ---- */

void meshmsg_links(struct meshmsg *m, uint32_t flags, const struct meshmsg_neighbour *e, uint32_t n)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_LINKS, 2);
    msgpack_pack_uint32(&pk, flags);
    msgpack_pack_array(&pk, n);
    for (uint32_t i = 0; i < n; i++) {
        msgpack_pack_array(&pk, 3);
        meshmsg_pack_bin(&pk, e[i].node.b, sizeof e[i].node.b);
        msgpack_pack_uint32(&pk, e[i].state);
        msgpack_pack_uint32(&pk, e[i].rtt_ms);
    }
    meshmsg_finish(m);
}

void meshmsg_tunnel(struct meshmsg *m, const struct meshmsg_tunnel *t)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_TUNNEL, 5);
    meshmsg_pack_bin(&pk, t->to.b, sizeof t->to.b);
    meshmsg_pack_bin(&pk, t->from.b, sizeof t->from.b);
    msgpack_pack_uint64(&pk, t->number);
    msgpack_pack_uint32(&pk, t->kind);
    meshmsg_pack_bin(&pk, t->body, t->len);
    meshmsg_finish(m);
}

void meshmsg_busy(struct meshmsg *m, const struct derp_key *dst, const struct derp_key *src, uint32_t ms)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_BUSY, 3);
    meshmsg_pack_bin(&pk, dst->b, KEY_LEN);
    meshmsg_pack_bin(&pk, src->b, KEY_LEN);
    msgpack_pack_uint32(&pk, ms);
    meshmsg_finish(m);
}

void meshmsg_unreach(struct meshmsg *m, const struct node_id *node)
{
    msgpack_packer pk;
    meshmsg_begin(m, &pk, MESHMSG_UNREACH, 1);
    meshmsg_pack_bin(&pk, node->b, sizeof node->b);
    meshmsg_finish(m);
}
