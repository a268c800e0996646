/* Bytes of a client or of a mesh link into the relay, whole and at splits: the outcome must be the same, and every packet
 * must be somewhere.
 *
 * First byte: who sends (0 client, 1 link, 2 link before AUTH); second: the seed of the splits; the rest is fed.
 * Keys of one repeated byte are known: 1 and 2 are clients here, 3 is on another worker, 4 on a node over a link here, 5
 * over a link of another worker, 6 a connection that is closing. */
#include "../unit/relay_fixture.h"

static uint32_t lcg;

static size_t split(void *ctx)
{
    (void)ctx;
    lcg = lcg * 1664525 + 1013904223;
    return 1 + (lcg >> 8) % ((lcg >> 4 & 3) ? 9 : 300);
}

struct outcome {
    int result;
    uint64_t stats[STAT_N];
    size_t len[8], batch;
    uint8_t digest[8][8];
};

/* FNV-1a */
static void digest_of(uint8_t out[static 8], const uint8_t *p, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    wire_put64(out, h);
}

static uint64_t packets_in_queue(const uint8_t *out, size_t n)
{
    uint64_t packets = 0;
    for (size_t off = 0; off < n;) {
        struct frame f;
        size_t size = frame_peek(&f, (uint8_t *)(uintptr_t)(out + off), n - off);
        if (size == 0)
            abort(); /* a torn frame in a queue */
        packets += f.type == FRAME_RECV_PACKET || f.type == FRAME_MESH_DATA;
        off += size;
    }
    return packets;
}

/* All runs of the batch are whole, and say what they hold. */
static uint64_t packets_in_batch(const struct relay_batch *b)
{
    uint64_t packets = 0;
    struct inbox_run head;
    size_t off = 0;
    for (; off < b->len; off += sizeof(head) + head.len) {
        memcpy(&head, b->bytes + off, sizeof(head));
        if (off + sizeof(head) + head.len > b->len ||
            packets_in_queue(b->bytes + off + sizeof(head), head.len) != head.packets)
            abort();
        packets += head.packets;
    }
    if (off != b->len || packets != b->packets)
        abort();
    return packets;
}

static struct conn *let_in(struct rig *g, uint8_t n)
{
    struct derp_key key = rig_key(n);
    return rig_client(g, &key);
}

static struct rig *world(struct conn **client, struct conn **link)
{
    struct rig *g = rig_new(0, 2, "here");
    struct conn_ref other = {(uint64_t)1 << 48 | 9, 0, 1};
    struct derp_key key = rig_key(3);
    *client = let_in(g, 1);
    let_in(g, 2);
    routes_local_set(g->relay.routes, &key, &other);
    *link = rig_link(g, 0, "far");
    rig_path(g, 1, "beyond", 1, &other, 1);
    key = rig_key(4);
    routes_remote_set(g->relay.routes, &key, 0);
    key = rig_key(5);
    routes_remote_set(g->relay.routes, &key, 1);
    stream_close(&let_in(g, 6)->stream, "");
    return g;
}

static void run(struct outcome *o, const uint8_t *data, size_t n, uint8_t who, size_t (*step)(void *))
{
    struct conn *client, *link;
    struct rig *g = world(&client, &link);
    uint64_t queued = 0;
    size_t left;
    memset(o, 0, sizeof(*o));
    o->result = rig_feed(g, who ? link : client, data, n, who == 1, step, NULL, &left);
    if ((o->result < 0) != (g->asked.close > 0))
        abort(); /* closed if and only if it says so */
    for (uint32_t i = 0; i < g->relay.conns.n_slots && i < 8; i++) {
        uint8_t *out = rig_take(g, g->relay.conns.slot[i], &o->len[i]);
        digest_of(o->digest[i], out, o->len[i]);
        queued += packets_in_queue(out, o->len[i]);
        free(out);
    }
    queued += packets_in_batch(&g->relay.batch[1]);
    o->batch = g->relay.batch[1].packets;
    if (rig_stat(g, STAT_PACKETS_IN) + rig_stat(g, STAT_FORWARDED_IN) != queued + rig_drops(g))
        abort();
    for (int i = 0; i < STAT_N; i++)
        o->stats[i] = rig_stat(g, (enum stat_id)i);
    rig_free(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct outcome whole, splits; /* no padding left from other runs: both are zeroed */
    if (n < 2)
        return 0;
    lcg = data[1];
    run(&whole, data + 2, n - 2, data[0] % 3, rig_whole);
    run(&splits, data + 2, n - 2, data[0] % 3, split);
    if (memcmp(&whole, &splits, sizeof(whole)) != 0)
        abort();
    return 0;
}
