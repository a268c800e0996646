/* See health.h.
 *
 * Happy path: the keys become guests of the admission; the node's entry of the derpMap is given out with the addresses and
 * ports that its sockets really have.
 * Failure: a key that is none is an error, and then none is let in. */
#include "node/health.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "node/status.h"

/* Where to knock from this machine: loopback where it listens on all addresses (IPv6 sockets take IPv4 too). */
static const char *local_address(const struct listen_at *at, char buf[static INET6_ADDRSTRLEN], bool *v6)
{
    const struct sockaddr_in *a4 = (const void *)&at->addr;
    const struct sockaddr_in6 *a6 = (const void *)&at->addr;
    *v6 = at->addr.ss_family == AF_INET6 && !IN6_IS_ADDR_UNSPECIFIED(&a6->sin6_addr) &&
          !IN6_IS_ADDR_V4MAPPED(&a6->sin6_addr);
    bool all = at->addr.ss_family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&a6->sin6_addr)
                                              : a4->sin_addr.s_addr == htonl(INADDR_ANY);
    if (all)
        return "127.0.0.1";
    if (*v6)
        return inet_ntop(AF_INET6, &a6->sin6_addr, buf, INET6_ADDRSTRLEN);
    return inet_ntop(
        AF_INET, at->addr.ss_family == AF_INET6 ? (const void *)&a6->sin6_addr.s6_addr[12] : &a4->sin_addr,
        buf, INET6_ADDRSTRLEN);
}

/* Whether connections that we make to that address must begin with a PROXY header.  From an address of our own to the
 * same address: the source is the destination. */
static bool proxied(const struct config *c, const char *address)
{
    struct config_cidr me;
    if (!c->proxy_protocol || config_cidr_parse(&me, address, strlen(address)) != 0)
        return false;
    for (int i = 0; i < c->n_proxies; i++) {
        const struct config_cidr *p = &c->proxies[i];
        int whole = p->bits / 8, rest = p->bits % 8;
        if (memcmp(me.ip, p->ip, (size_t)whole) == 0 &&
            (!rest || (me.ip[whole] & (0xff00 >> rest)) == (p->ip[whole] & (0xff00 >> rest))))
            return true;
    }
    return false;
}

/* The node's entry, at the addresses where it listens. */
static json_t *entry(const struct control *c, const char *address, bool v6, bool knock)
{
    const struct derpmap_node *self = c->site->self;
    const struct listen_at *derp = &c->plan->at[LISTEN_DERP], *stun = &c->plan->at[LISTEN_STUN];
    char text[INET6_ADDRSTRLEN];
    bool stun_v6;
    json_t *o = json_pack("{s:s, s:i, s:s, s:s, s:s, s:i, s:i, s:b, s:b}", "Name", self->id, "RegionID",
                          self->region_id, "HostName", self->host_name, "IPv4", v6 ? "none" : address, "IPv6",
                          v6 ? address : "none", "DERPPort", derp->on ? derp->port : 0, "STUNPort",
                          stun->on ? stun->port : -1, "STUNOnly", !knock, "InsecureForTests",
                          self->insecure_for_tests);
    if (self->cert_name && self->cert_name[0])
        json_object_set_new(o, "CertName", json_string(self->cert_name));
    if (stun->on)
        json_object_set_new(o, "STUNTestIP", json_string(local_address(stun, text, &stun_v6)));
    return o;
}

static json_t *map(const struct control *c, json_t *node)
{
    char id[16];
    snprintf(id, sizeof(id), "%d", c->site->self->region_id);
    return json_pack("{s:{s:{s:i, s:s, s:s, s:[o]}}}", "Regions", id, "RegionID", c->site->self->region_id,
                     "RegionCode", "self", "RegionName", "self", "Nodes", node);
}

/* NULL, or what is wrong with the keys. */
static const char *admit(struct control *c, const json_t *keys)
{
    struct derp_key key[ADMIT_GUESTS];
    size_t n = json_array_size(keys);
    if (n > ADMIT_GUESTS)
        return "too many keys";
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(keys, i));
        if (!text || key_public_parse(&key[i], text, strlen(text)) < 0)
            return "keys are written nodekey: and 64 hex digits";
    }
    for (size_t i = 0; i < n; i++)
        control_admit_guest(c, &key[i]);
    return NULL;
}

json_t *health_json(struct control *c, const json_t *keys)
{
    const struct config *config = c->site->config;
    const struct listen_at *derp = &c->plan->at[LISTEN_DERP];
    const char *wrong = admit(c, keys);
    char text[INET6_ADDRSTRLEN];
    bool v6 = false;
    if (wrong)
        return status_error(wrong);
    const char *address = derp->on ? local_address(derp, text, &v6) : "127.0.0.1";
    bool header = derp->on && proxied(config, address);
    bool knock = derp->on && !header && !(config->derper && !config->derper->derp);
    return json_pack("{s:s, s:s, s:b, s:b, s:b, s:o}", "node", c->site->self->id, "gate", status_gate(c),
                     "tls", c->site->tls != NULL, "proxied", header, "listens",
                     knock || c->plan->at[LISTEN_STUN].on, "map", map(c, entry(c, address, v6, knock)));
}
