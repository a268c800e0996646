/* Every reader of mesh messages on any payload; what reads well is written again and reads the same. */
#include <stdlib.h>
#include <string.h>

#include "proto/meshmsg.h"

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct meshmsg_in in;
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
    meshmsg_read_auth(&in, &id, bytes);
    meshmsg_read_ping(&in, &a, &b);
    meshmsg_read_bye(&in, &type);
    meshmsg_read_info(&in, bytes);
    meshmsg_read_sync_req(&in, &a, &b);
    meshmsg_read_sync_begin(&in, &a, &b, &c);
    if (meshmsg_read_sync_data(&in, &it) == 0)
        entries(&it);
    if (meshmsg_read_ann(&in, &a, &b, &it) == 0)
        entries(&it);
    return 0;
}
