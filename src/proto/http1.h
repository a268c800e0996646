/* A bounded reader of HTTP/1.x heads: just what a DERP port sees.
 *
 * Works in place on the caller's buffer: strings are views, not NUL-terminated.  No body handling
 * beyond Content-Length; a request with Transfer-Encoding is refused by the caller.
 * Source: RFC 9112; what Go's net/http accepts where it is stricter or laxer. */
#ifndef DERPMESH_PROTO_HTTP1_H
#define DERPMESH_PROTO_HTTP1_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HTTP1_HEAD_MAX = 8192, HTTP1_HEADERS_MAX = 64 };

struct http1_str {
    const char *p;
    size_t n;
};

struct http1_header {
    struct http1_str name, value; /* value trimmed of blanks */
};

/* A request or a response head.  Borrowed from the buffer that was parsed. */
struct http1_head {
    struct http1_str method, target; /* request */
    struct http1_str path, query;    /* target split at '?', absolute-form reduced to its path (not decoded);
                                          "*" stays, the authority of CONNECT has an empty path */
    int status;                      /* response: 100…999; else 0 */
    int minor;                       /* HTTP/1.minor: 0 or 1 */
    struct http1_header headers[HTTP1_HEADERS_MAX];
    int n_headers;
};

enum http1_error {
    HTTP1_BAD = -1,      /* not HTTP: a malformed line, control characters, a bare CR */
    HTTP1_TOO_LONG = -2, /* head longer than HTTP1_HEAD_MAX or too many headers */
    HTTP1_VERSION = -3   /* HTTP, but not 1.x */
};

/* Parse a head at buf[n].  > 0: its length including the blank line; 0: more is needed; < 0: http1_error.
 * A first line of another protocol is refused as soon as that is certain.  A request of HTTP/1.1 must
 * have one Host header, none may have two.  The head is complete only when the length is returned. */
int http1_parse_request(struct http1_head *h, const char *buf, size_t n);
int http1_parse_response(struct http1_head *h, const char *buf, size_t n);

/* The first header of that name (any case), or NULL. */
const struct http1_str *http1_find(const struct http1_head *h, const char *name);
/* Whether a comma-separated header holds a token (any case), over all lines of that name. */
bool http1_has_token(const struct http1_head *h, const char *name, const char *token);
/* How many headers of that name (any case) there are. */
int http1_count(const struct http1_head *h, const char *name);
/* Takes the first token off a comma-separated list; list->n is 0 after the last. */
struct http1_str http1_token(struct http1_str *list);
bool http1_is(struct http1_str s, const char *text);        /* exact */
bool http1_is_nocase(struct http1_str s, const char *text); /* any case */
/* Content-Length: its value; 0 if absent; -1 if malformed, contradictory or above 1 MiB. */
long http1_content_length(const struct http1_head *h);

#endif
