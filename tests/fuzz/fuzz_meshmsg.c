/* Every reader of mesh messages on any payload; what reads well is written again and reads the same. */
#include <stdlib.h>
#include <string.h>

#include "proto/meshmsg_paths.h"
#include "proto/meshmsg_sets.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct meshmsg out;

static void expect(int ok)
{
    if (!ok)
        abort();
}

static struct meshmsg_in reopen(uint32_t expected)
{
    struct meshmsg_in in;
    uint32_t type;
    expect(meshmsg_open(&in, &type, out.b + FRAME_HEADER_LEN, out.n - FRAME_HEADER_LEN) == 0);
    expect(type == expected);
    return in;
}

static void hello(const struct meshmsg_in *in)
{
    struct meshmsg_hello a, b;
    if (meshmsg_read_hello(in, &a) != 0)
        return;
    meshmsg_hello(&out, &a);
    struct meshmsg_in again = reopen(MESHMSG_HELLO);
    expect(meshmsg_read_hello(&again, &b) == 0);
    expect(strcmp(a.name, b.name) == 0 && strcmp(a.to, b.to) == 0 && strcmp(a.software, b.software) == 0);
    expect(a.boot == b.boot && a.n_key_ids == b.n_key_ids && a.max_keys == b.max_keys);
    expect(memcmp(&a.ephemeral, &b.ephemeral, sizeof a.ephemeral) == 0);
}

static void busy(const struct meshmsg_in *in)
{
    struct derp_key key[4];
    uint32_t ms, back;
    if (meshmsg_read_busy(in, &key[0], &key[1], &ms) != 0)
        return;
    meshmsg_busy(&out, &key[0], &key[1], ms);
    struct meshmsg_in again = reopen(MESHMSG_BUSY);
    expect(meshmsg_read_busy(&again, &key[2], &key[3], &back) == 0 && back == ms);
    expect(key_equal(&key[0], &key[2]) && key_equal(&key[1], &key[3]));
}

static void lane(const struct meshmsg_in *in)
{
    struct meshmsg_lane a, b;
    if (meshmsg_read_lane(in, &a) != 0)
        return;
    meshmsg_lane(&out, &a);
    struct meshmsg_in again = reopen(MESHMSG_LANE);
    expect(meshmsg_read_lane(&again, &b) == 0 && memcmp(&a, &b, sizeof a) == 0);
}

static void entries(struct meshmsg_entries *it)
{
    static struct meshmsg_entry e[MESHMSG_ENTRIES_MAX];
    struct meshmsg_entry one;
    struct meshmsg_entries back;
    uint32_t n = 0;
    while (n < MESHMSG_ENTRIES_MAX && meshmsg_entry_next(it, &one) == 1)
        e[n++] = one;
    meshmsg_sync_data(&out, e, n);
    if (out.n - FRAME_HEADER_LEN > MESHMSG_MAX - MESHMSG_ENTRIES_MAX * 4)
        return; /* flags of five bytes: more than ours ever say */
    struct meshmsg_in again = reopen(MESHMSG_SYNC_DATA);
    expect(meshmsg_read_sync_data(&again, &back) == 0 && back.left == n);
    for (uint32_t i = 0; i < n; i++) {
        expect(meshmsg_entry_next(&back, &one) == 1);
        expect(memcmp(&one, &e[i], sizeof one) == 0);
    }
}

static int same(const struct meshmsg_moment *a, const struct meshmsg_moment *b)
{
    return a->boot == b->boot && a->seq == b->seq && a->scope == b->scope;
}

static void sets(const struct meshmsg_in *in)
{
    static uint64_t bucket[MESHMSG_BUCKETS_N], bucket2[MESHMSG_BUCKETS_N];
    struct meshmsg_moment at, at2;
    struct meshmsg_sync_begin b, b2;
    struct meshmsg_digest d, d2;
    struct meshmsg_in again;
    if (meshmsg_read_sync_req(in, &at) == 0) {
        meshmsg_sync_req(&out, &at);
        again = reopen(MESHMSG_SYNC_REQ);
        expect(meshmsg_read_sync_req(&again, &at2) == 0 && same(&at, &at2));
    }
    if (meshmsg_read_sync_begin(in, &b) == 0) {
        meshmsg_sync_begin(&out, &b);
        again = reopen(MESHMSG_SYNC_BEGIN);
        expect(meshmsg_read_sync_begin(&again, &b2) == 0 && same(&b.at, &b2.at) && b.mode == b2.mode);
        expect(b.count == b2.count && b.since == b2.since && b.slots == b2.slots);
        expect(memcmp(b.bitmap, b2.bitmap, sizeof b.bitmap) == 0);
    }
    struct derp_key key, key2;
    if (meshmsg_read_not_here(in, &at, &key) == 0) {
        meshmsg_not_here(&out, &at, &key);
        again = reopen(MESHMSG_NOTHERE);
        expect(meshmsg_read_not_here(&again, &at2, &key2) == 0 && same(&at, &at2) && key_equal(&key, &key2));
    }
    if (meshmsg_read_digest(in, &d) == 0) {
        meshmsg_digest(&out, &d);
        again = reopen(MESHMSG_DIGEST);
        expect(meshmsg_read_digest(&again, &d2) == 0 && same(&d.at, &d2.at));
        expect(d.count == d2.count && d.root == d2.root);
    }
    if (meshmsg_read_buckets(in, &at, bucket) == 0) {
        meshmsg_buckets(&out, &at, bucket);
        again = reopen(MESHMSG_BUCKETS);
        expect(meshmsg_read_buckets(&again, &at2, bucket2) == 0 && same(&at, &at2));
        expect(memcmp(bucket, bucket2, sizeof bucket) == 0);
    }
}

static void neighbours(struct meshmsg_neighbours *it, uint32_t flags)
{
    static struct meshmsg_neighbour e[MESHMSG_NEIGHBOURS_MAX];
    struct meshmsg_neighbour one;
    struct meshmsg_neighbours back;
    uint32_t n = 0, flags2;
    while (n < MESHMSG_NEIGHBOURS_MAX && meshmsg_neighbour_next(it, &one) == 1) {
        e[n] = one;
        e[n++].state = one.state > MESHMSG_NEIGHBOUR_DOWN ? MESHMSG_NEIGHBOUR_DOWN : one.state;
    }
    meshmsg_links(&out, flags, e, n);
    expect(out.n - FRAME_HEADER_LEN <= MESHMSG_MAX);
    struct meshmsg_in again = reopen(MESHMSG_LINKS);
    expect(meshmsg_read_links(&again, &flags2, &back) == 0 && flags2 == flags && back.left == n);
    for (uint32_t i = 0; i < n; i++)
        expect(meshmsg_neighbour_next(&back, &one) == 1 && memcmp(&one, &e[i], sizeof one) == 0);
}

static void tunnel(const struct meshmsg_tunnel *a)
{
    struct meshmsg_tunnel b;
    if (a->len > MESHMSG_MAX + 16)
        return;
    meshmsg_tunnel(&out, a);
    struct meshmsg_in again = reopen(MESHMSG_TUNNEL);
    expect(meshmsg_read_tunnel(&again, &b) == 0 && a->number == b.number && a->kind == b.kind &&
           a->len == b.len && memcmp(a->body, b.body, a->len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct meshmsg_in in;
    struct meshmsg_tunnel t;
    struct meshmsg_neighbours list;
    struct node_id node;
    struct meshmsg_entries it;
    struct mesh_key_id id;
    uint8_t bytes[MESHMSG_HASH_LEN];
    uint64_t a, b, c;
    uint32_t type, min, max;
    if (meshmsg_open(&in, &type, data, size) != 0)
        return 0;
    if (meshmsg_read_versions(&in, &min, &max) == 0)
        expect(min <= max);
    hello(&in);
    lane(&in);
    busy(&in);
    meshmsg_read_auth(&in, &id, bytes);
    struct meshmsg_reauth ra, rb;
    if (meshmsg_read_reauth(&in, &ra) == 0) {
        meshmsg_reauth(&out, &ra);
        struct meshmsg_in again = reopen(MESHMSG_REAUTH);
        expect(meshmsg_read_reauth(&again, &rb) == 0 && ra.number == rb.number && ra.n == rb.n);
        expect(memcmp(ra.id, rb.id, sizeof ra.id) == 0 && memcmp(ra.mac, rb.mac, sizeof ra.mac) == 0);
    }
    meshmsg_read_ping(&in, &a, &b, &c);
    meshmsg_read_bye(&in, &type);
    meshmsg_read_info(&in, bytes);
    meshmsg_read_sync_end(&in, &a, &b);
    sets(&in);
    if (meshmsg_read_sync_data(&in, &it) == 0)
        entries(&it);
    if (meshmsg_read_ann(&in, &a, &b, &it) == 0)
        entries(&it);
    if (meshmsg_read_links(&in, &type, &list) == 0)
        neighbours(&list, type);
    if (meshmsg_read_tunnel(&in, &t) == 0)
        tunnel(&t);
    meshmsg_read_unreach(&in, &node);
    return 0;
}
