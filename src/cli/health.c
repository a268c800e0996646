/* derpmesh health: does the node on this machine serve clients?
 *
 * Happy path: the admin socket says where the node listens and lets two keys in; two clients log in as any other would
 * (TLS judged as the derpMap says), a packet goes from one to the other and back, STUN is asked: a round of probe with one
 * node.  One line, exit code 0.
 * Fails: CLI_NO with a sentence for each thing that does not work; CLI_FAILED where no node answers at all.  A node that is
 * draining, or full, takes no connections on purpose: that is no fault, and is said. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "cli/admin.h"
#include "cli/probe.h"
#include "node/tls_ctx.h"

enum { KEYS = 2, TIMEOUT_S = 5, TIMEOUT_MAX_S = 60, QUESTION_MAX = 256 + KEYS * (KEY_TEXT_MAX + 4) };

static void print_help(void)
{
    printf(
        "usage: derpmesh health [--json] [--timeout S] [--admin PATH]\n\n"
        "Uses the node on this machine as clients do: two of them log in where it listens, with the TLS that "
        "the\n"
        "derpMap promises, a packet goes from one to the other and back, and STUN is asked.  The node lets "
        "them "
        "in\n"
        "whoever else may use it.  What stands before the node (a proxy, a firewall, another certificate "
        "there) is "
        "not\n"
        "seen from here: derpmesh probe, from elsewhere, sees it.\n\n"
        "  --timeout S      for each login [%d]\n"
        "  --json           as JSON\n"
        "  --admin PATH     the node's admin socket [%s]\n\n"
        "Exit code 0: it serves clients, or takes no connections on purpose (draining, full), 1: it does "
        "not, 2: wrong "
        "use,\n"
        "3: no node answers.\n",
        TIMEOUT_S, cli_setting("admin"));
}

/* ---- what the node says of itself ---- */

struct self {
    json_t *reply;
    const char *gate;
    bool tls, proxied, listens;
    struct derpmap *map;
};

/* 0, or -1 with a sentence. */
static int ask(const char *path, const struct key_pair keys[static KEYS], struct self *self, char *err,
               size_t err_len)
{
    char question[QUESTION_MAX], text[KEYS][KEY_TEXT_MAX];
    struct text_error at;

    for (int i = 0; i < KEYS; i++)
        key_public_text(text[i], &keys[i].pub);
    snprintf(question, sizeof(question), "{\"cmd\":\"health\",\"keys\":[\"%s\",\"%s\"]}\n", text[0], text[1]);
    if (admin_ask(path, question, &self->reply, err, err_len) != 0)
        return -1;
    self->gate = admin_str(self->reply, "gate", "open");
    self->tls = admin_bool(self->reply, "tls");
    self->proxied = admin_bool(self->reply, "proxied");
    self->listens = admin_bool(self->reply, "listens");
    char *map = json_dumps(json_object_get(self->reply, "map"), JSON_COMPACT);
    self->map = map ? derpmap_parse(map, strlen(map), &at) : NULL;
    free(map);
    if (self->map)
        return 0;
    snprintf(err, err_len, "the node's answer cannot be understood: is it of another version?");
    return -1;
}

/* ---- the answer ---- */

/* What is known once the round is over. */
struct result {
    bool ok;
    const char *gate;
    double login_ms, stun_ms, packet_ms; /* < 0: not there */
    const char *wrong[3];                /* sentences */
    int n_wrong;
};

static void add_wrong(struct result *res, const char *text)
{
    if (text[0])
        res->wrong[res->n_wrong++] = text;
}

static void judge(struct result *res, const struct probe_round *r)
{
    const struct probe_node *n = &r->nodes[0];

    res->login_ms = n->login_ms;
    res->stun_ms = n->stun_ms;
    res->packet_ms = r->n_pairs ? r->pairs[0].median_ms : -1;
    add_wrong(res, n->error);
    add_wrong(res, n->stun_error);
    if (!n->error[0] && r->n_pairs)
        add_wrong(res, r->pairs[0].error);
    res->ok = probe_ok(r);
}

static json_t *ms_or_null(double ms)
{
    return ms >= 0 ? json_real(ms) : json_null();
}

static void print_json(const struct result *res, const char *node)
{
    json_t *wrong = json_array();

    for (int i = 0; i < res->n_wrong; i++)
        json_array_append_new(wrong, json_string(res->wrong[i]));
    json_t *all = json_pack("{s:b, s:s, s:s, s:o, s:o, s:o, s:o}", "ok", res->ok, "node", node, "gate",
                            res->gate, "login_ms", ms_or_null(res->login_ms), "packet_ms",
                            ms_or_null(res->packet_ms), "stun_ms", ms_or_null(res->stun_ms), "wrong", wrong);
    json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(all);
}

static void print_ms(const char *what, double ms)
{
    if (ms >= 0)
        printf(", %s %.2f ms", what, ms);
}

static void print_text(const struct result *res, const char *node, bool proxied)
{
    for (int i = 0; i < res->n_wrong; i++) {
        printf("not well: ");
        admin_print(res->wrong[i]);
        printf("\n");
    }
    if (!res->ok)
        return;
    printf("well: ");
    admin_print(node);
    print_ms("login", res->login_ms);
    print_ms("packet there and back", res->packet_ms);
    print_ms("STUN", res->stun_ms);
    if (strcmp(res->gate, "open") != 0)
        printf(" is %s: it takes no connections now", res->gate);
    if (proxied)
        printf("; no login was tried: proxy_protocol is on, and this machine counts as a proxy");
    printf("\n");
}

/* ---- a round with one node ---- */

struct one {
    struct probe_round round;
    struct probe_node node;
    struct probe_pair pair;
};

static int fail(const char *what)
{
    fprintf(stderr, "derpmesh health: %s\n", what);
    return CLI_FAILED;
}

/* 0, or -1 after a complaint. */
static int round_on_loop(struct probe_round *r)
{
    uv_loop_t loop;
    struct stats *stats = calloc(1, sizeof(*stats));
    int rc = -1;

    if (!stats || uv_loop_init(&loop) != 0) {
        free(stats);
        return fail("cannot make an event loop"), -1;
    }
    r->loop = &loop;
    if (stream_io_init(&r->io, &loop, stats, SIZE_MAX) == 0) {
        probe_run(r);
        stream_io_stop(&r->io);
        uv_run(&loop, UV_RUN_DEFAULT);
        stream_io_deinit(&r->io);
        rc = 0;
    } else {
        fail("no memory for the buffers of connections");
    }
    uv_loop_close(&loop);
    free(stats);
    return rc;
}

/* Two clients of the one node of the map, a packet between them, and STUN.  0, or -1 after a complaint. */
static int use(struct one *one, const struct self *self, SSL_CTX *tls, struct key_pair keys[static KEYS],
               int timeout_ms)
{
    struct probe_round *r = &one->round;
    struct probe_node *node = &one->node;
    struct probe_pair *pair = &one->pair;
    const struct derpmap_node *n = &self->map->nodes[0];

    *node = (struct probe_node){
        .round = r, .node = n, .region = &self->map->regions[0], .from = true, .to = true};
    node->keys = keys;
    node->login_ms = node->stun_ms = -1;
    *pair = (struct probe_pair){.from = node, .to = node, .min_ms = -1, .median_ms = -1, .max_ms = -1};
    *r = (struct probe_round){
        .map = self->map, .tls = self->tls ? tls : NULL, .nodes = node, .n_nodes = 1, .pairs = pair};
    r->options = (struct probe_options){.count = 1, .interval_ms = 1, .login_ms = timeout_ms};
    for (int i = 0; i < KEYS; i++)
        node->client[i].node = node;
    if (!n->stun_only) {
        pair->src = &node->client[0];
        pair->dst = &node->client[1];
        pair->src->state = pair->dst->state = PROBE_WAITING;
        r->n_pairs = r->pairs_left = 1;
        r->logins_left = KEYS;
    }
    return round_on_loop(r);
}

static int health(const char *path, int timeout_ms, bool json)
{
    char err[512];
    struct key_pair keys[KEYS];
    struct self self = {0};
    struct one one;
    struct result res = {.ok = true, .login_ms = -1, .stun_ms = -1, .packet_ms = -1};
    SSL_CTX *tls = NULL;
    int code = CLI_FAILED;

    for (int i = 0; i < KEYS; i++)
        key_pair_generate(&keys[i]);
    if (ask(path, keys, &self, err, sizeof(err)) != 0 || !(tls = tls_client_ctx_new(err, sizeof(err)))) {
        fail(err);
        goto out;
    }
    res.gate = self.gate;
    if (strcmp(self.gate, "open") == 0 && self.listens) {
        if (use(&one, &self, tls, keys, timeout_ms) != 0)
            goto out;
        judge(&res, &one.round);
    }
    if (json)
        print_json(&res, admin_str(self.reply, "node", "?"));
    else
        print_text(&res, admin_str(self.reply, "node", "?"), self.proxied);
    code = res.ok ? CLI_OK : CLI_NO;
out:
    for (int i = 0; i < KEYS; i++)
        key_pair_wipe(&keys[i]);
    SSL_CTX_free(tls);
    derpmap_free(self.map);
    json_decref(self.reply);
    return code;
}

/* ---- flags ---- */

int cli_health(int argc, char **argv)
{
    bool json;
    const char *admin, *seconds;
    long s = TIMEOUT_S;
    char *end;
    const struct cli_flag flags[] = {
        {"json", &json, NULL}, {"admin", NULL, &admin}, {"timeout", NULL, &seconds}};

    if (cli_help_asked(argc, argv)) {
        print_help();
        return CLI_OK;
    }
    if (cli_flags(flags, sizeof(flags) / sizeof(flags[0]), argc, argv, NULL, 0) < 0)
        return CLI_USAGE;
    if (seconds) {
        errno = 0;
        s = strtol(seconds, &end, 10);
        if (errno || *end || end == seconds || s < 1 || s > TIMEOUT_MAX_S) {
            fprintf(stderr, "derpmesh health: --timeout %s: must be a number of seconds from 1 to %d\n",
                    seconds, TIMEOUT_MAX_S);
            return CLI_USAGE;
        }
    }
    return health(admin ? admin : cli_setting("admin"), (int)s * 1000, json);
}
