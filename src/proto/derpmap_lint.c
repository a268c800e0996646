/* What is legal in a derpMap but will hurt: each finding says what happens and what to do.
 *
 * Happy path: derpmap_lint adds what reading noted to what it sees itself, sorts by place, reports.
 * It fails only for want of memory, which is reported as one more error.
 * Sources of the rules: tailscale.com net/netcheck, net/captivedetection, net/tlsdial, prober, tailcfg;
 * Headscale's hscontrol/derp. */
#include "proto/derpmap_internal.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct ranked {
    struct derpmap_finding f;
    int sequence;
};

struct lint {
    const struct derpmap *m;
    struct ranked *list;
    int n, room;
    bool out_of_memory;
};

static struct derpmap_finding *new_finding(struct lint *l, bool error, struct derpmap_pos at)
{
    if (l->n == l->room) {
        int room = l->room ? l->room * 2 : 64;
        struct ranked *list = realloc(l->list, (size_t)room * sizeof *list);
        if (!list) {
            l->out_of_memory = true;
            return NULL;
        }
        l->list = list;
        l->room = room;
    }
    struct ranked *r = &l->list[l->n];
    r->sequence = l->n++;
    r->f.error = error;
    r->f.at.line = at.line;
    r->f.at.col = at.col;
    return &r->f;
}

__attribute__((format(printf, 4, 5))) static void add(struct lint *l, bool error, struct derpmap_pos at,
                                                      const char *fmt, ...)
{
    struct derpmap_finding *f = new_finding(l, error, at);
    va_list ap;

    if (!f)
        return;
    va_start(ap, fmt);
    vsnprintf(f->at.msg, sizeof f->at.msg, fmt, ap);
    va_end(ap);
}

#define WARN(l, at, ...)  add(l, false, at, __VA_ARGS__)
#define ERROR(l, at, ...) add(l, true, at, __VA_ARGS__)

static struct derpmap_pos region_at(const struct derpmap_region *r)
{
    return (struct derpmap_pos){r->line, r->col};
}

static struct derpmap_pos node_at(const struct derpmap_node *n)
{
    return (struct derpmap_pos){n->line, n->col};
}

static bool is_ip(const char *s)
{
    unsigned char b[16];

    return inet_pton(AF_INET, s, b) == 1 || inet_pton(AF_INET6, s, b) == 1;
}

static void lint_pin(struct lint *l, const struct derpmap_node *n, struct derpmap_pos at)
{
    static const char prefix[] = "sha256-raw:";
    const char *hex = n->cert_name + sizeof prefix - 1;
    char lower[65] = "";

    if (strncasecmp(n->cert_name, "sha256", 6) != 0)
        return;
    if (strncmp(n->cert_name, prefix, sizeof prefix - 1) != 0) {
        ERROR(l, at,
              "CertName: a pin begins with sha256-raw: exactly; this is taken for a name, and no client "
              "connects");
        return;
    }
    if (strlen(hex) != 64 || strspn(hex, "0123456789abcdefABCDEF") != 64) {
        ERROR(l, at,
              "CertName: a pin is sha256-raw: and 64 hex digits (the SHA-256 of the certificate in DER)");
        return;
    }
    for (int i = 0; i < 64; i++)
        lower[i] = hex[i] >= 'A' && hex[i] <= 'F' ? (char)(hex[i] | 32) : hex[i];
    if (strcmp(hex, lower) != 0)
        ERROR(l, at, "CertName: upper-case digits never match; write sha256-raw:%s", lower);
}

static void lint_certificate(struct lint *l, const struct derpmap_node *n, const struct derpmap_pos *pos)
{
    if (n->insecure_for_tests)
        WARN(l, pos[NODE_INSECURE_FOR_TESTS],
             "InsecureForTests: anyone on the path can pose as this relay; pin its certificate in CertName");
    if (n->cert_name)
        lint_pin(l, n, pos[NODE_CERT_NAME]);
    else if (!n->insecure_for_tests && !n->stun_only && is_ip(n->host_name))
        WARN(l, pos[NODE_HOST_NAME],
             "HostName is an IP address without CertName: clients want a CA's certificate, for any name; "
             "pin it in CertName");
}

static void lint_address(struct lint *l, const char *ip, int family, struct derpmap_pos at)
{
    unsigned char b[16];
    char q[TEXT_QUOTE_MAX];
    const char *name = family == AF_INET ? "IPv4" : "IPv6";

    if (ip && strcmp(ip, "none") != 0 && inet_pton(family, ip, b) != 1)
        ERROR(l, at,
              "%s %s is no %s address: clients then do not use %s at all; if that is meant, write \"none\"",
              name, text_quote(q, ip, strlen(ip)), name, name);
}

static void lint_addresses(struct lint *l, const struct derpmap_node *n, const struct derpmap_pos *pos)
{
    bool none4 = n->ipv4 && strcmp(n->ipv4, "none") == 0, none6 = n->ipv6 && strcmp(n->ipv6, "none") == 0;
    char q[TEXT_QUOTE_MAX];

    lint_address(l, n->ipv4, AF_INET, pos[NODE_IPV4]);
    lint_address(l, n->ipv6, AF_INET6, pos[NODE_IPV6]);
    if (none4 && none6)
        ERROR(l, pos[NODE_IPV6], "IPv4 and IPv6 are both \"none\": nobody can reach this node");
    if (!n->ipv4 && !n->ipv6 && !n->backup && !is_ip(n->host_name))
        WARN(l, node_at(n),
             "no IPv4 and no IPv6: clients depend on DNS, which may itself need the relay; state its "
             "addresses");
    if (n->can_port80 && (!n->ipv4 || none4))
        WARN(l, pos[NODE_CAN_PORT80],
             "CanPort80 without IPv4: clients look for captive portals only by IPv4; state it");
    for (const char *s = n->host_name; *s; s++)
        if ((unsigned char)*s >= 0x80) {
            WARN(l, pos[NODE_HOST_NAME],
                 "HostName %s is not ASCII: clients look it up as it stands; write its xn-- form",
                 text_quote(q, n->host_name, strlen(n->host_name)));
            return;
        }
}

static void lint_twin(struct lint *l, const struct derpmap_node *n, const struct derpmap_node *twin)
{
    char q[TEXT_QUOTE_MAX];

    text_quote(q, twin->name, strlen(twin->name));
    if (!n->backup)
        WARN(l, node_at(n),
             "this lists node %s of line %d again: with STUNPort -1 it is its backup, so it is another node",
             q, twin->line);
    else if ((twin->ipv4 && !n->ipv4) || (twin->ipv6 && !n->ipv6))
        WARN(l, node_at(n), "this backup of node %s (line %d) lacks an address that is stated there: copy it",
             q, twin->line);
}

static void lint_node(struct lint *l, const struct derpmap_node *n)
{
    const struct node_extra *extra = derpmap_node_extra(l->m, n);

    lint_certificate(l, n, extra->pos);
    lint_addresses(l, n, extra->pos);
    if (extra->twin)
        lint_twin(l, n, extra->twin);
    if (n->stun_only && n->stun_port == -1)
        WARN(l, extra->pos[NODE_STUN_PORT], "STUNOnly with STUNPort -1: this node does nothing; remove it");
    if (n->stun_test_ip)
        WARN(l, extra->pos[NODE_STUN_TEST_IP],
             "STUNTestIP is for tests: clients ask STUN there and nowhere else");
}

/* Names are looked up over the whole map: netcheck and derpprobe find nodes by them. */
static void lint_names(struct lint *l)
{
    struct text_arena arena = {0};
    struct name_table names;
    char q[TEXT_QUOTE_MAX], q2[TEXT_QUOTE_MAX];

    if (name_table_init(&names, &arena, (size_t)l->m->n_nodes) < 0) {
        l->out_of_memory = true;
        return;
    }
    for (int i = 0; i < l->m->n_nodes; i++) {
        const struct derpmap_node *n = &l->m->nodes[i];
        const struct node_extra *extra = derpmap_node_extra(l->m, n);
        struct name_entry *e = name_table_put(&names, n->name, i);
        if (e->count++ == 0)
            continue;
        WARN(l, extra->pos[NODE_NAME],
             "Name %s is taken in line %d: clients tell nodes by name, derpprobe refuses the map; write %s",
             text_quote(q, n->name, strlen(n->name)), l->m->nodes[e->first].line,
             text_quote(q2, extra->export_name, strlen(extra->export_name)));
    }
    arena_free(&arena);
}

static void lint_region_nodes(struct lint *l, const struct derpmap_region *r)
{
    int stun = 0;
    bool backups = false;

    if (r->n_nodes == 0)
        WARN(l, region_at(r), "region %d has no nodes: clients cannot use it", r->id);
    else if (r->nodes[0]->backup)
        WARN(l, node_at(r->nodes[0]),
             "a backup stands first in region %d: clients make it their home; put it last", r->id);
    for (int i = 0; i < r->n_nodes; i++) {
        const struct derpmap_node *n = r->nodes[i];
        if (derpmap_stun_port(n) > 0 && !n->stun_only && ++stun == 2)
            WARN(l, node_at(n),
                 "two relays of region %d answer STUN: when one falls silent, clients stay with it for two "
                 "minutes; "
                 "give this one STUNPort -1",
                 r->id);
        if (n->backup && l->m->format == DERPMAP_HEADSCALE && !backups) {
            WARN(l, node_at(n),
                 "Headscale shuffles the nodes of a region, so this backup may become its first; leave it "
                 "out");
            backups = true;
        }
    }
}

static void lint_region(struct lint *l, const struct derpmap_region *r)
{
    const struct derpmap_pos *pos = derpmap_full(l->m)->region_extra[r - l->m->regions].pos;

    if (r->id < 900 || r->id > 999)
        WARN(l, region_at(r),
             "region %d: 900 to 999 are kept for relays of one's own, others may become Tailscale's", r->id);
    if (!*r->code)
        WARN(l, region_at(r), "region %d has no RegionCode: clients show an empty name in netcheck", r->id);
    if (r->avoid)
        WARN(l, pos[REGION_AVOID],
             "Avoid is deprecated and clients differ in what it does; write NoMeasureNoHome");
    if (r->latitude < -90 || r->latitude > 90)
        WARN(l, pos[REGION_LATITUDE], "Latitude is outside -90 to 90");
    if (r->longitude < -180 || r->longitude > 180)
        WARN(l, pos[REGION_LONGITUDE], "Longitude is outside -180 to 180");
    lint_region_nodes(l, r);
}

static void lint_map(struct lint *l)
{
    const struct derpmap_full *full = derpmap_full(l->m);
    const struct derpmap_region *only = NULL;
    int regions = 0;

    for (int i = 0; i < l->m->n_regions; i++)
        if (!l->m->regions[i].removed) {
            only = &l->m->regions[i];
            regions++;
        }
    if (regions == 0)
        WARN(l, ((struct derpmap_pos){0, 0}), "no regions in this map: there is nothing to relay");
    if (regions == 1 && l->m->omit_default_regions && l->m->format != DERPMAP_HEADSCALE)
        WARN(l, region_at(only),
             "region %d is the only one (OmitDefaultRegions): clients have no other relay when it fails",
             only->id);
    if (l->m->format == DERPMAP_HEADSCALE && l->m->omit_default_regions)
        WARN(l, full->omit_pos,
             "Headscale ignores omitdefaultregions: set derp.urls to [] in its config.yaml instead");
    if (l->m->format == DERPMAP_HEADSCALE && full->home_params_pos.line)
        WARN(l, full->home_params_pos,
             "Headscale ignores homeparams: it takes only the regions of this file");
}

static int by_place(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    if (x->f.at.line != y->f.at.line)
        return x->f.at.line < y->f.at.line ? -1 : 1;
    if (x->f.at.col != y->f.at.col)
        return x->f.at.col < y->f.at.col ? -1 : 1;
    return x->sequence < y->sequence ? -1 : x->sequence > y->sequence;
}

int derpmap_lint(const struct derpmap *m, void (*report)(void *ctx, const struct derpmap_finding *f),
                 void *ctx)
{
    const struct derpmap_full *full = derpmap_full(m);
    struct lint l = {.m = m};
    int errors = 0;

    for (int i = 0; i < full->n_notes; i++) {
        const struct derpmap_finding *f = &full->notes[i];
        add(&l, f->error, (struct derpmap_pos){f->at.line, f->at.col}, "%s", f->at.msg);
    }
    lint_map(&l);
    for (int i = 0; i < m->n_regions; i++)
        if (!m->regions[i].removed)
            lint_region(&l, &m->regions[i]);
    for (int i = 0; i < m->n_nodes; i++)
        lint_node(&l, &m->nodes[i]);
    lint_names(&l);
    if (l.n)
        qsort(l.list, (size_t)l.n, sizeof *l.list, by_place);
    for (int i = 0; i < l.n; i++) {
        errors += l.list[i].f.error;
        report(ctx, &l.list[i].f);
    }
    free(l.list);
    if (l.out_of_memory) {
        struct derpmap_finding f = {.error = true,
                                    .at = {.msg = "out of memory: not all of the map was checked"}};
        report(ctx, &f);
        errors++;
    }
    return errors;
}
