/* -mesh-with host[:port][/dialhost],…: derper dials https://host[:port]/derp at dialhost and verifies the certificate for host.
 *
 * Happy path: each part becomes a node whose HostName is host and whose address, if dialhost names one, is that one's; the
 * dialling is then that of derper_peers.
 * How it fails: a part that is no such thing, or a dialhost that cannot be found, ends it with a sentence. */
#include "cli/derper_mesh.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { HOST_MAX = 256 };

/* "host", "host:port", "[v6]", "[v6]:port".  0 or -1. */
static int split_host(const char *text, char host[static HOST_MAX], int *port)
{
    bool bracket = *text == '[';
    size_t n = strcspn(text, bracket ? "]" : ":");
    const char *rest = text + n, *from = text + bracket;
    char *end;

    *port = 443;
    if (bracket && *rest++ != ']')
        return -1;
    n -= bracket;
    if (n == 0 || n >= HOST_MAX)
        return -1;
    memcpy(host, from, n);
    host[n] = 0;
    if (*rest == 0)
        return 0;
    if (*rest != ':')
        return -1;
    long v = strtol(rest + 1, &end, 10);
    *port = (int)v;
    return *end || rest[1] == 0 || v < 1 || v > 65535 ? -1 : 0;
}

/* The address that dialhost names, as text; family says which kind.  0, or getaddrinfo's error. */
static int find_address(const char *dialhost, char ip[static INET6_ADDRSTRLEN], int *family)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int rc = getaddrinfo(dialhost, NULL, &hints, &found);

    if (rc)
        return rc;
    const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)found->ai_addr;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)found->ai_addr;
    *family = found->ai_family;
    inet_ntop(*family, *family == AF_INET ? (const void *)&in->sin_addr : &in6->sin6_addr, ip,
              INET6_ADDRSTRLEN);
    freeaddrinfo(found);
    return 0;
}

/* One part, without the comma.  0 or -1. */
static int add_node(json_t *nodes, char *part, const char *self, int self_port, char *peers, size_t len,
                    char *err, size_t err_len)
{
    char host[HOST_MAX], ip[INET6_ADDRSTRLEN] = "", *dialhost = strchr(part, '/');
    int port, family = AF_INET;

    if (dialhost)
        *dialhost++ = 0;
    if (split_host(part, host, &port) || (dialhost && (!*dialhost || strchr(dialhost, '/')))) {
        snprintf(err, err_len, "-mesh-with: \"%s\": write host, host:port or host:port/dialhost", part);
        return -1;
    }
    if (port == self_port && strcmp(host, self) == 0)
        return 0; /* the same list for all: derper passes itself over, too */
    int rc = dialhost ? find_address(dialhost, ip, &family) : 0;
    if (rc) {
        snprintf(err, err_len, "-mesh-with: \"%s\": %s", dialhost, gai_strerror(rc));
        return -1;
    }
    json_t *node = json_pack("{s:s, s:i, s:s, s:i, s:i}", "Name", part, "RegionID", 900, "HostName", host,
                             "DERPPort", port, "STUNPort", -1);
    if (node && *ip)
        json_object_set_new(node, family == AF_INET ? "IPv4" : "IPv6", json_string(ip));
    if (node && *ip)
        json_object_set_new(node, family == AF_INET ? "IPv6" : "IPv4", json_string("none"));
    size_t have = strlen(peers);
    if (!node || have + strlen(part) + 2 > len || json_array_append_new(nodes, node) != 0) {
        snprintf(err, err_len, "-mesh-with: too long, or \"%s\" is no UTF-8", part);
        return -1;
    }
    snprintf(peers + have, len - have, "%s%s", have ? "," : "", part);
    return 0;
}

int derper_mesh_nodes(json_t *nodes, const char *with, const char *self, int self_port, char *peers,
                      size_t len, char *err, size_t err_len)
{
    char *copy = strdup(with), *save = NULL;
    int rc = copy ? 0 : -1;

    peers[0] = 0;
    if (!copy)
        snprintf(err, err_len, "out of memory");
    for (char *part = copy ? strtok_r(copy, ",", &save) : NULL; part && rc == 0;
         part = strtok_r(NULL, ",", &save))
        rc = add_node(nodes, part, self, self_port, peers, len, err, err_len);
    free(copy);
    return rc;
}
