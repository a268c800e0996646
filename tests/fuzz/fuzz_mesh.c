/* A mesh and a peer gone wild: any control payload before and after the proof, mixed with time, clients and resets.
 *
 * The honest handshake is played by a second mesh; then the input speaks in its place.  Invariant: what ops->route was
 * told last is the first usable place that mesh_where names. */
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "mesh/mesh.h"
#include "proto/meshmsg_paths.h"
#include "proto/meshmsg_sets.h"
#include "proto/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { KEYS = 16, QUEUE = 64 };

struct side {
    struct mesh *mesh;
    struct pipe *pipe;
    uint64_t dial, link;
    uint64_t node_link;
    bool closed;
    uint32_t route[KEYS];
    struct mesh_path path[3]; /* told last */
};

struct pipe {
    struct side side[2]; /* [0] is under test */
    uint8_t *frame[QUEUE];
    size_t len[QUEUE];
    int to[QUEUE], n;
    uint64_t now, rnd, links;
    bool deliver; /* to the honest side */
};

struct input {
    const uint8_t *p, *end;
};

static void expect(int ok)
{
    if (!ok)
        abort();
}

static uint8_t byte(struct input *in)
{
    return in->p < in->end ? *in->p++ : 0;
}

static struct derp_key key_of(uint8_t n)
{
    struct derp_key k;
    memset(k.b, 7, sizeof k.b);
    k.b[0] = n % KEYS;
    return k;
}

static void op_random(void *ctx, void *out, size_t len)
{
    struct pipe *p = ((struct side *)ctx)->pipe;
    for (size_t i = 0; i < len; i++) {
        p->rnd = p->rnd * 6364136223846793005u + 1442695040888963407u;
        ((uint8_t *)out)[i] = (uint8_t)(p->rnd >> 33);
    }
}

static void op_dial(void *ctx, uint64_t dial, const struct derpmap_node *node, uint32_t lane)
{
    (void)lane;
    struct side *s = ctx;
    if (node->region_id == (s == &s->pipe->side[0] ? 2 : 1))
        s->dial = dial;
}

static void op_dial_cancel(void *ctx, uint64_t dial)
{
    struct side *s = ctx;
    if (s->dial == dial)
        s->dial = 0;
}

static void op_send(void *ctx, uint64_t link, const uint8_t *frame, size_t len)
{
    struct side *s = ctx;
    struct pipe *p = s->pipe;
    struct meshmsg_in in;
    uint32_t type;
    expect(meshmsg_open(&in, &type, frame + FRAME_HEADER_LEN, len - FRAME_HEADER_LEN) == 0);
    expect(wire_get32(frame + 1) == len - FRAME_HEADER_LEN);
    if (link != s->link || !p->deliver || p->n == QUEUE)
        return;
    p->frame[p->n] = malloc(len);
    memcpy(p->frame[p->n], frame + FRAME_HEADER_LEN, len - FRAME_HEADER_LEN);
    p->len[p->n] = len - FRAME_HEADER_LEN;
    p->to[p->n++] = s == &p->side[0];
}

static void op_close(void *ctx, uint64_t link, const char *why)
{
    struct side *s = ctx;
    expect(why != NULL);
    if (link == s->link)
        s->closed = true;
}

static void op_link_ready(void *ctx, uint64_t link, uint32_t node)
{
    struct side *s = ctx;
    expect(link == s->link && (node == 1 || node == 2));
}

static void op_node_path(void *ctx, uint32_t node, const struct mesh_path *path)
{
    struct side *s = ctx;
    expect(node == 1 || node == 2);
    expect(path->via != NODE_NONE || path->n == 0);
    expect(path->via != node || path->n > 0);
    s->path[node] = *path;
    if (node == 1)
        s->node_link = path->link[0];
}

static void op_busy(void *ctx, const struct derp_key *dst, const struct derp_key *src, uint32_t ms)
{
    (void)ctx;
    expect(dst && src && ms <= MESH_BUSY_MAX_MS);
}

static void op_route(void *ctx, const struct derp_key *key, uint32_t node)
{
    struct side *s = ctx;
    struct derp_key ours = key_of(key->b[0]);
    if (!key_equal(key, &ours) || key->b[0] >= KEYS)
        return;
    expect(s->route[key->b[0]] != node);
    s->route[key->b[0]] = node;
}

static void op_gone(void *ctx, const struct derp_key *key)
{
    struct side *s = ctx;
    struct mesh_location at[4];
    struct mesh_peer_info info;
    size_t n = mesh_where(s->mesh, key, at, 4);
    for (size_t i = 0; i < n; i++) /* not here, and nowhere that can be reached */
        expect(at[i].node != NODE_NONE && mesh_peer(s->mesh, at[i].node, &info) && !info.routable);
}

static void op_pin(void *ctx, const char *name, const struct derp_key *key)
{
    (void)ctx;
    expect(name && key);
}

static void op_log(void *ctx, enum mesh_log_level level, const char *msg)
{
    (void)ctx;
    (void)level;
    for (; *msg; msg++)
        expect((uint8_t)*msg >= 0x20 && *msg != 0x7f);
}

static const struct mesh_ops OPS = {.random = op_random,
                                    .dial = op_dial,
                                    .dial_cancel = op_dial_cancel,
                                    .send = op_send,
                                    .close = op_close,
                                    .link_ready = op_link_ready,
                                    .node_path = op_node_path,
                                    .busy = op_busy,
                                    .route = op_route,
                                    .gone = op_gone,
                                    .pin = op_pin,
                                    .log = op_log};

static void start(struct pipe *p, int i, const struct derpmap *map)
{
    struct mesh_keys keys = {.n = 1, .key = {{9}}};
    struct mesh_config c = {.ops = &OPS,
                            .ctx = &p->side[i],
                            .software = "fuzz",
                            .boot = 100,
                            .instance = {(uint8_t)i},
                            .keys = &keys,
                            .map = map,
                            .self = &map->nodes[i]};
    uint8_t secret[KEY_LEN] = {0, (uint8_t)(i + 1)};
    key_pair_from_secret(&c.node_key, secret);
    p->side[i].pipe = p;
    for (int k = 0; k < KEYS; k++)
        p->side[i].route[k] = NODE_NONE;
    for (int k = 0; k < 3; k++)
        p->side[i].path[k].via = NODE_NONE;
    p->side[i].mesh = mesh_new(&c, p->now);
    expect(p->side[i].mesh != NULL);
}

static void open_side(struct pipe *p, int i, bool dialer)
{
    struct side *s = &p->side[i];
    struct mesh_link_info info = {
        .dialer = dialer, .dial = s->dial, .has_exporter = true, .from = "192.0.2.7"};
    if (dialer)
        s->dial = 0;
    s->link = ++p->links;
    s->closed = false;
    mesh_link_open(s->mesh, s->link, &info, p->now);
}

static void deliver(struct pipe *p)
{
    while (p->n) {
        uint8_t *frame = p->frame[0];
        size_t len = p->len[0];
        struct side *to = &p->side[p->to[0]];
        p->n--;
        memmove(p->frame, p->frame + 1, (size_t)p->n * sizeof *p->frame);
        memmove(p->len, p->len + 1, (size_t)p->n * sizeof *p->len);
        memmove(p->to, p->to + 1, (size_t)p->n * sizeof *p->to);
        mesh_link_input(to->mesh, to->link, frame, len, p->now);
        free(frame);
    }
}

/* Opens a link between the two and, if asked, lets them prove themselves. */
static void connect_sides(struct pipe *p, bool dial, bool prove)
{
    while (dial && !p->side[0].dial && !p->side[0].node_link && p->now < 1000000) {
        p->now += 500;
        mesh_tick(p->side[0].mesh, p->now);
    }
    if (dial && !p->side[0].dial)
        return;
    p->deliver = prove;
    if (dial) {
        open_side(p, 0, true);
        struct mesh_link_info info = {.has_exporter = true};
        p->side[1].link = ++p->links;
        mesh_link_open(p->side[1].mesh, p->side[1].link, &info, p->now);
    } else {
        uint64_t end = p->now + 100000;
        while (!p->side[1].dial && p->now < end) {
            p->now += 500;
            mesh_tick(p->side[1].mesh, p->now);
        }
        if (!p->side[1].dial)
            return;
        open_side(p, 0, false);
        open_side(p, 1, true);
    }
    deliver(p);
    p->deliver = false;
}

static void inject(struct pipe *p, const uint8_t *payload, size_t len)
{
    struct side *s = &p->side[0];
    uint8_t *exact = malloc(len ? len : 1);
    memcpy(exact, payload, len);
    mesh_link_input(s->mesh, s->link, exact, len, p->now);
    free(exact);
}

static void not_here(struct meshmsg *m, uint8_t k, uint64_t seq)
{
    struct meshmsg_moment at = {.boot = 100, .seq = seq, .scope = k >> 7};
    struct derp_key key = key_of(k);
    meshmsg_not_here(m, &at, &key);
}

/* A question of the peer. */
static void asked(struct meshmsg *m, uint32_t n, uint64_t seq)
{
    uint64_t bucket[MESHMSG_BUCKETS_N] = {seq};
    struct meshmsg_moment held = {.boot = n & 1 ? 100 : 0, .seq = seq, .scope = n >> 1 & 1};
    if (n & 4)
        meshmsg_buckets(m, &held, bucket);
    else
        meshmsg_sync_req(m, &held);
}

static void unreach(struct meshmsg *m, struct input *in)
{
    struct node_id id;
    node_id_of(&id, byte(in) & 1 ? "b" : "c");
    meshmsg_unreach(m, &id);
}

/* n neighbours among which are the ones there are. */
static void links(struct meshmsg *m, struct input *in, uint32_t n)
{
    static const char *const names[] = {"a", "b", "c", "x"};
    struct meshmsg_neighbour e[8];
    uint8_t flags = byte(in);
    for (uint32_t i = 0; i < n; i++) {
        uint8_t b = byte(in);
        node_id_of(&e[i].node, names[b & 3]);
        e[i].state = b >> 2 & 3;
        e[i].rtt_ms = b;
    }
    meshmsg_links(m, flags > 4 ? 0 : flags, e, n);
}

/* A well-formed message of few keys and slots, so that the input reaches what lies behind the parser. */
static void structured(struct pipe *p, struct input *in)
{
    static struct meshmsg m;
    struct meshmsg_entry e[8];
    uint8_t what = byte(in);
    uint32_t n = (what >> 3) % 8;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t slot = byte(in), key = byte(in);
        e[i] = (struct meshmsg_entry){.slot = slot % 16};
        if (slot & 0x80) {
            e[i].up = true;
            e[i].key = key_of(key);
            e[i].flags = slot >> 6 & 1;
            e[i].age = slot == 0xff ? UINT32_MAX : key >> 4;
        }
    }
    switch (what & 7) {
    case 0: {
        struct meshmsg_sync_begin b = {.at = {100, what >> 6, n & 1}, .mode = n % 3, .since = what >> 6};
        b.slots = b.mode == MESHMSG_SYNC_BUCKETS ? byte(in) : 0;
        memset(b.bitmap, b.mode == MESHMSG_SYNC_BUCKETS ? byte(in) : 0, sizeof b.bitmap);
        meshmsg_sync_begin(&m, &b);
        break;
    }
    case 1:
        meshmsg_sync_data(&m, e, n);
        break;
    case 2:
        meshmsg_sync_end(&m, 100, what >> 3);
        break;
    case 3:
        asked(&m, n, what >> 6);
        break;
    case 4:
        if (n == 7)
            unreach(&m, in);
        else if (n & 2)
            links(&m, in, n);
        else if (n == 5)
            not_here(&m, byte(in), what >> 6);
        else if (n & 1)
            meshmsg_pong(&m, byte(in), 0, what);
        else
            meshmsg_digest(&m, &(struct meshmsg_digest){{100, what >> 6, n & 1}, n, byte(in)});
        break;
    default: /* prev of few values, so that it often fits */
        meshmsg_ann(&m, what >> 6, what >> 6, e, n);
    }
    inject(p, m.b + FRAME_HEADER_LEN, m.n - FRAME_HEADER_LEN);
}

static void step(struct pipe *p, struct input *in)
{
    struct side *s = &p->side[0];
    uint8_t op = byte(in);
    struct derp_key key = key_of(byte(in));
    struct node_id id;
    size_t len;
    switch (op % 9) {
    case 0:
        len = (size_t)byte(in) << 4;
        len = len > (size_t)(in->end - in->p) ? (size_t)(in->end - in->p) : len;
        inject(p, in->p, len);
        in->p += len;
        break;
    case 1:
    case 2:
        structured(p, in);
        break;
    case 3:
        p->now += (uint64_t)byte(in) * byte(in);
        mesh_tick(s->mesh, p->now);
        for (int i = 0; i < 100 && mesh_next(s->mesh) <= p->now; i++)
            mesh_tick(s->mesh, p->now);
        expect(mesh_next(s->mesh) > p->now); /* it comes to rest */
        break;
    case 4:
        expect(mesh_client_up(s->mesh, &key, op & 0x80, p->now) == 0);
        break;
    case 5:
        mesh_client_down(s->mesh, &key, p->now);
        break;
    case 6:
        node_id_of(&id, op & 0x80 ? "b" : "c");
        mesh_glean(s->mesh, &key, &id, p->now);
        break;
    case 7:
        mesh_link_closed(s->mesh, s->link, "reset", p->now);
        s->closed = true;
        connect_sides(p, op & 0x80, op & 0x40);
        break;
    default:
        mesh_link_alive(s->mesh, s->link, p->now);
    }
}

static void check(struct pipe *p)
{
    struct side *s = &p->side[0];
    for (uint8_t k = 0; k < KEYS; k++) {
        struct derp_key key = key_of(k);
        struct mesh_location at[4];
        struct mesh_peer_info info;
        size_t n = mesh_where(s->mesh, &key, at, 4);
        uint32_t best = NODE_NONE;
        expect(n <= 4);
        for (size_t i = 0; i < n && best == NODE_NONE; i++)
            if (at[i].node != NODE_NONE && mesh_peer(s->mesh, at[i].node, &info) && info.routable)
                best = at[i].node;
        expect(s->route[k] == best);
    }
    for (int i = 1; i <= 2; i++)
        expect(s->path[i].via == NODE_NONE || s->path[s->path[i].via].n > 0); /* a way leads somewhere */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char names[3][2] = {"a", "b", "c"};
    struct derpmap_node nodes[3];
    struct derpmap map = {.nodes = nodes, .n_nodes = 3};
    struct pipe *p = calloc(1, sizeof *p);
    struct input in = {.p = data, .end = data + size};
    expect(sodium_init() >= 0);
    for (int i = 0; i < 3; i++)
        nodes[i] = (struct derpmap_node){
            .id = names[i], .name = names[i], .host_name = names[i], .region_id = i + 1};
    p->now = 10000;
    uint8_t mode = byte(&in);
    start(p, 0, &map);
    start(p, 1, &map);
    connect_sides(p, mode & 1, mode & 2);
    expect(!(mode & 2) || p->side[0].node_link != 0); /* an honest handshake works */
    while (in.p < in.end)
        step(p, &in);
    check(p);
    p->deliver = false;
    for (int i = 0; i < 2; i++)
        mesh_free(p->side[i].mesh);
    for (int i = 0; i < p->n; i++)
        free(p->frame[i]);
    free(p);
    return 0;
}
