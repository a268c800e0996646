/* The small pages of a DERP port: what is answered to a request that is no upgrade.
 *
 * Pure: a head goes in, bytes come out.  Source: cmd/derper main(), derpserver's handler.go; the real derper is
 * the judge for status, headers and bodies. */
#ifndef DERPMESH_NODE_HTTP_H
#define DERPMESH_NODE_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/http1.h"

enum http_port { HTTP_MAIN, HTTP_MAIN_PLAIN, HTTP_PORT80 };

enum http_action {
    HTTP_REPLY,     /* send the reply; then keep or close */
    HTTP_DERP,      /* Upgrade: DERP (or websocket without a subprotocol): start the login */
    HTTP_WEBSOCKET, /* 101; the login goes on in WebSocket messages */
    HTTP_MESH,      /* Upgrade: derpmesh/1 */
    /* Under the name derper: pages that are made at the moment; http_head follows once their length is known. */
    HTTP_VARZ,
    HTTP_BOOTSTRAP,
    HTTP_PEER /* not under that name: whether a node of the mesh is there; http_head as well */
};

enum { HTTP_REPLY_MAX = 8192 };
struct http_reply {
    enum http_action action;
    bool fast_start; /* HTTP_DERP: send no 101 */
    bool close;      /* after the reply */
    size_t len;
    char text[HTTP_REPLY_MAX];
};

struct http_site {
    const char *node_key_hex; /* Derp-Public-Key of the 101 */
    const char *host;         /* HOST or HOST:PORT for redirects to https; NULL: what the request asked for */
    bool mesh;                /* whether Upgrade: derpmesh/1 is served */
    bool derper;              /* under the name derper: the members below count */
    bool no_derp;             /* /derp is switched off */
    bool debug;               /* this client may see /debug */
    const char *home;         /* "" (or NULL): the page; "blank"; a URL to go to */
};

/* Decides and writes the reply (for HTTP_DERP without fast start, HTTP_WEBSOCKET and HTTP_MESH: the 101). */
void http_answer(struct http_reply *out, const struct http1_head *req, enum http_port port,
                 const struct http_site *site);
/* The head for HTTP_VARZ, HTTP_BOOTSTRAP and HTTP_PEER; the body, of len bytes, is the caller's to send. */
void http_head(struct http_reply *out, const struct http1_head *req, size_t len);
/* The reply to something that is no HTTP (http1_error). */
void http_bad(struct http_reply *out, int http1_error);

#endif
