/* The pages of a DERP port.
 *
 * Happy path: the head's path picks a page; upgrades on /derp become a login or a mesh link; everything else
 * gets a small reply that is written here in whole, header lines in the order of Go's server.
 * Failure: what cannot be answered in a sensible way (a body with an upgrade, an unknown transfer coding, no
 * HTTP) gets a 4xx or 5xx with a sentence, and the connection is to be closed.  Nothing of a request is ever
 * put into a reply but the checked challenge, a short harmless header of a failed WebSocket handshake, and the
 * target of a redirect with everything unusual escaped.
 *
 * Where this differs from derper: no Date (there is no clock here), /debug only under its name, no redirect that cleans "//"
 * out of paths, no HTTP/1.0 keep-alive, a request with a body is the last one of its connection. */
#include "node/http.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>

#include "proto/frame.h"

#define NO_CACHE "Cache-Control: no-cache, no-store, must-revalidate, no-transform, max-age=0\r\n"
#define PLAIN    "Content-Type: text/plain; charset=utf-8\r\n"
#define NOSNIFF  "X-Content-Type-Options: nosniff\r\n"
#define CSP                                                                                                  \
    "Content-Security-Policy: default-src 'self'; frame-ancestors 'none'; form-action 'self'; "              \
    "base-uri 'self'; block-all-mixed-content; object-src 'none'\r\n"
#define CSP_INLINE                                                                                           \
    "Content-Security-Policy: default-src 'self'; frame-ancestors 'none'; form-action 'self'; "              \
    "base-uri 'self'; block-all-mixed-content; object-src 'none'; style-src 'self' 'unsafe-inline'\r\n"
#define HSTS     "Strict-Transport-Security: max-age=63072000; includeSubDomains\r\n"
#define WS_BAD   "WebSocket protocol violation: "
#define NO_FRAME "X-Frame-Options: DENY\r\n"
/* What derper's tsweb.AddBrowserHeaders sets; Content-Type goes between the first and the others. */
#define BROWSER_REST HSTS NOSNIFF NO_FRAME

static const char home_page[] =
    "<!doctype html>\n<html lang=\"en\"><head><title>DERP relay</title></head><body>\n<h1>DERP</h1>\n"
    "<p>This is a relay for Tailscale and Headscale clients. It carries their end-to-end encrypted traffic\n"
    "where they cannot reach each other directly, and answers STUN; it cannot read what it carries.</p>\n"
    "<p>There is nothing here for a browser. If you see this page, the relay can be reached.</p>\n"
    "<ul>\n<li><a href=\"https://tailscale.com/kb/1232/derp-servers\">About DERP</a></li>\n"
    "<li><a href=\"/derp/probe\">Probe</a> (an empty page that clients measure latency with)</li>\n</ul>\n"
    "</body></html>\n";

/* What a reply depends on beside its page. */
struct answer {
    struct http_reply *out;
    const struct http1_head *req;
    bool head; /* HEAD: header lines only */
};

static void put(struct http_reply *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Appends.  All replies fit: the texts here are short, and the one part of any length, a redirect's target,
 * is bounded before (to_https). */
static void put(struct http_reply *out, const char *fmt, ...)
{
    size_t room = sizeof out->text - out->len;
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(out->text + out->len, room, fmt, ap);
    va_end(ap);
    if (n > 0)
        out->len += (size_t)n < room ? (size_t)n : room - 1;
}

/* A whole reply.  headers: complete lines.  body NULL: a status that has none. */
static void reply(const struct answer *a, const char *status, const char *headers, const char *body)
{
    size_t n = body ? strlen(body) : 0;

    put(a->out, "HTTP/1.%d %s\r\n%s", a->req->minor, status, headers);
    if (body && !(a->head && n == 0))
        put(a->out, "Content-Length: %zu\r\n", n);
    if (a->out->close && a->req->minor > 0)
        put(a->out, "Connection: close\r\n");
    put(a->out, "\r\n%s", body && !a->head ? body : "");
}

/* As Go's http.Error. */
static void error_page(const struct answer *a, const char *status, const char *text)
{
    reply(a, status, PLAIN NOSNIFF, text);
}

static void bad_page(const struct answer *a, const char *status, const char *text)
{
    a->out->close = true;
    error_page(a, status, text);
}

static bool is_get(const struct http1_head *req)
{
    return http1_is(req->method, "GET") || http1_is(req->method, "HEAD");
}

/* Whether bytes after the head belong to this request. */
static bool has_body(const struct http1_head *req)
{
    return http1_find(req, "Transfer-Encoding") || http1_content_length(req) != 0;
}

static bool challenge_ok(struct http1_str s)
{
    if (s.n == 0 || s.n > 64)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!alnum && c != '.' && c != '-' && c != '_' && c != ':')
            return false;
    }
    return true;
}

/* How clients find captive portals: only the real server echoes the challenge. */
static void generate_204(const struct answer *a)
{
    const struct http1_str *challenge = http1_find(a->req, "X-Tailscale-Challenge");
    char headers[sizeof NO_CACHE + 128];

    if (challenge && challenge_ok(*challenge))
        snprintf(headers, sizeof headers, NO_CACHE "X-Tailscale-Response: response %.*s\r\n",
                 (int)challenge->n, challenge->p);
    else
        snprintf(headers, sizeof headers, NO_CACHE);
    reply(a, "204 No Content", headers, NULL);
}

static void probe(const struct answer *a)
{
    if (is_get(a->req))
        reply(a, "200 OK", "Access-Control-Allow-Origin: *\r\n", "");
    else
        error_page(a, "405 Method Not Allowed", "bogus probe method\n");
}

static bool contains(struct http1_str s, const char *part)
{
    return memmem(s.p, s.n, part, strlen(part)) != NULL;
}

static void derp_login(const struct answer *a, const struct http_site *site)
{
    const struct http1_str *fast = http1_find(a->req, "Derp-Fast-Start");

    if (has_body(a->req)) {
        bad_page(a, "400 Bad Request", "a request to upgrade must not have a body\n");
        return;
    }
    a->out->action = HTTP_DERP;
    a->out->close = false;
    a->out->fast_start = fast && http1_is(*fast, "1");
    if (a->out->fast_start)
        return;
    put(a->out,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: %d\r\n"
        "Derp-Public-Key: %s\r\n\r\n",
        DERP_PROTOCOL_VERSION, site->node_key_hex);
}

static void mesh_link(const struct answer *a, const struct http_site *site)
{
    if (!site->mesh) {
        error_page(a, "426 Upgrade Required", "no mesh on this node: it has no mesh_key_file\n");
        return;
    }
    if (has_body(a->req)) {
        bad_page(a, "400 Bad Request", "a request to upgrade must not have a body\n");
        return;
    }
    a->out->action = HTTP_MESH;
    a->out->close = false;
    put(a->out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: derpmesh/1\r\nConnection: Upgrade\r\n\r\n");
}

/* ---- WebSocket: checks, texts and their order are those of derper's library (coder/websocket, Accept) ---- */

enum { WS_KEY_LEN = 24, WS_ACCEPT_MAX = 29 };

/* The value as Go's %q writes it, or … where it is long or holds anything unusual. */
static const char *quoted(char buf[static 80], const struct http1_str *v)
{
    size_t n = v ? v->n : 0;
    bool plain = n <= 64;
    for (size_t i = 0; plain && i < n; i++) {
        char c = v->p[i];
        plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                (c && strchr(" ,-_./+=", c));
    }
    snprintf(buf, 80, plain ? "\"%.*s\"" : "\"…\"", (int)n, n ? v->p : "");
    return buf;
}

/* headers: complete lines; before and after: what stands around the value. */
static void ws_error(const struct answer *a, const char *status, const char *headers, const char *before,
                     const struct http1_str *value, const char *after)
{
    char body[256], q[80];

    snprintf(body, sizeof body, "%s%s%s\n", before, quoted(q, value), after);
    reply(a, status, headers, body);
}

/* 16 bytes in base64, as Go decodes it: the unused bits of the last digit may be anything. */
static bool ws_key_ok(struct http1_str s)
{
    for (size_t i = 0; i < s.n && i < WS_KEY_LEN - 2; i++) {
        char c = s.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '+' ||
              c == '/'))
            return false;
    }
    return s.n == WS_KEY_LEN && s.p[22] == '=' && s.p[23] == '=';
}

/* Whether the handshake is one; if not, it is answered. */
static bool ws_checked(const struct answer *a)
{
    const struct http1_str *version = http1_find(a->req, "Sec-WebSocket-Version");
    const struct http1_str *key = http1_find(a->req, "Sec-WebSocket-Key");

    if (a->req->minor == 0)
        error_page(a, "426 Upgrade Required",
                   WS_BAD "handshake request must be at least HTTP/1.1: \"HTTP/1.0\"\n");
    else if (!http1_has_token(a->req, "Connection", "Upgrade"))
        ws_error(a, "426 Upgrade Required", "Connection: Upgrade\r\n" PLAIN "Upgrade: websocket\r\n" NOSNIFF,
                 WS_BAD "Connection header ", http1_find(a->req, "Connection"), " does not contain Upgrade");
    else if (!http1_is(a->req->method, "GET"))
        ws_error(a, "405 Method Not Allowed", PLAIN NOSNIFF,
                 WS_BAD "handshake request method is not GET but ", &a->req->method, "");
    else if (!version || !http1_is(*version, "13"))
        ws_error(a, "400 Bad Request", PLAIN "Sec-Websocket-Version: 13\r\n" NOSNIFF,
                 "unsupported WebSocket protocol version (only 13 is supported): ", version, "");
    else if (!key)
        error_page(a, "400 Bad Request", WS_BAD "missing Sec-WebSocket-Key\n");
    else if (http1_count(a->req, "Sec-WebSocket-Key") > 1)
        error_page(a, "400 Bad Request", WS_BAD "multiple Sec-WebSocket-Key headers\n");
    else if (!ws_key_ok(*key))
        ws_error(a, "400 Bad Request", PLAIN NOSNIFF, WS_BAD "invalid Sec-WebSocket-Key ", key,
                 ", must be a 16 byte base64 encoded string");
    else
        return true;
    return false;
}

static bool ws_accept(char out[static WS_ACCEPT_MAX], struct http1_str key)
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    char text[WS_KEY_LEN + sizeof guid];
    unsigned char digest[EVP_MAX_MD_SIZE];
    size_t n;

    memcpy(text, key.p, WS_KEY_LEN);
    memcpy(text + WS_KEY_LEN, guid, sizeof guid);
    if (EVP_Q_digest(NULL, "SHA1", NULL, text, sizeof text - 1, digest, &n) != 1)
        return false;
    EVP_EncodeBlock((unsigned char *)out, digest, (int)n);
    return true;
}

/* The first of the offered subprotocols that is "derp", as it is written there. */
static struct http1_str ws_subprotocol(const struct http1_head *req)
{
    for (int i = 0; i < req->n_headers; i++) {
        struct http1_str v = req->headers[i].value;
        if (!http1_is_nocase(req->headers[i].name, "Sec-WebSocket-Protocol"))
            continue;
        while (v.n > 0) {
            struct http1_str token = http1_token(&v);
            if (http1_is_nocase(token, "derp"))
                return token;
        }
    }
    return (struct http1_str){"", 0};
}

/* Any Origin, no extension.  Who offers a subprotocol that only looks like ours is told so by a close frame. */
static void websocket(const struct answer *a)
{
    static const char refusal[] = "\x88\x28\x03\xf0"
                                  "client must speak the derp subprotocol";
    struct http1_str sub = ws_subprotocol(a->req);
    char accept[WS_ACCEPT_MAX];

    if (has_body(a->req)) {
        bad_page(a, "400 Bad Request", "a request to upgrade must not have a body\n");
        return;
    }
    if (!ws_checked(a))
        return;
    if (!ws_accept(accept, *http1_find(a->req, "Sec-WebSocket-Key"))) {
        bad_page(a, "500 Internal Server Error", "no SHA-1 here\n");
        return;
    }
    put(a->out, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nSec-Websocket-Accept: %s\r\n",
        accept);
    if (sub.n > 0)
        put(a->out, "Sec-Websocket-Protocol: %.*s\r\n", (int)sub.n, sub.p);
    put(a->out, "Upgrade: websocket\r\n\r\n");
    a->out->close = false;
    if (http1_is(sub, "derp")) {
        a->out->action = HTTP_WEBSOCKET;
        return;
    }
    put(a->out, "%s", refusal);
    a->out->close = true;
}

/* Any method, and Connection is not looked at: as derpserver's handler. */
static void derp(const struct answer *a, const struct http_site *site)
{
    const struct http1_str *up = http1_find(a->req, "Upgrade");
    const struct http1_str *sub = http1_find(a->req, "Sec-WebSocket-Protocol");
    if (site->no_derp) {
        error_page(a, "404 Not Found", "derp server disabled\n");
        return;
    }
    bool is_ws = up && http1_is_nocase(*up, "websocket");

    if (up && http1_is_nocase(*up, "derpmesh/1"))
        mesh_link(a, site);
    else if (is_ws && sub && contains(*sub, "derp"))
        websocket(a);
    else if (is_ws || (up && http1_is_nocase(*up, "derp")))
        derp_login(a, site);
    else
        error_page(a, "426 Upgrade Required", "DERP requires connection upgrade\n");
}

/* Appends s[n] with all that is not plainly part of a URL as %XX.  False if it does not fit below limit. */
static bool escape(char *buf, size_t limit, size_t *len, struct http1_str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool plain = c > ' ' && c < 0x7f && !strchr("\"<>\\^`{|}", c);
        if (*len + 4 > limit)
            return false;
        *len += (size_t)snprintf(buf + *len, 4, plain ? "%c" : "%%%02X", c);
    }
    buf[*len] = '\0';
    return true;
}

/* Host of a URL: the site's (an IPv6 address gets its brackets), else the request's without its port. */
static bool redirect_host(char *buf, size_t size, const struct answer *a, const struct http_site *site)
{
    const struct http1_str *host = http1_find(a->req, "Host");
    struct http1_str s = {0};
    size_t len = 0;

    if (site->host && site->host[0]) {
        const char *colon = strchr(site->host, ':');
        bool bare_v6 = site->host[0] != '[' && colon && strchr(colon + 1, ':');
        int n = snprintf(buf, size, bare_v6 ? "[%s]" : "%s", site->host);
        return n > 0 && (size_t)n < size;
    }
    if (host)
        s = *host;
    if (s.n > 0 && s.p[0] == '[') {
        const char *end = memchr(s.p, ']', s.n);
        s.n = end ? (size_t)(end - s.p) + 1 : 0;
    } else if (s.n > 0) {
        const char *colon = memchr(s.p, ':', s.n);
        s.n = colon ? (size_t)(colon - s.p) : s.n;
    }
    for (size_t i = 0; i < s.n; i++) { /* a host ends at these: it must not become another one */
        if (strchr("/?#@\\%", s.p[i]))
            return false;
    }
    return s.n > 0 && escape(buf, size, &len, s);
}

static void to_https(const struct answer *a, const struct http_site *site)
{
    static const char body[] = "This is served over HTTPS.\n";
    char host[300], url[HTTP_REPLY_MAX - 1024], headers[HTTP_REPLY_MAX - 512];
    struct http1_str question = {"?", a->req->query.n > 0 ? 1 : 0};
    size_t len = 0;

    if (!is_get(a->req)) {
        error_page(a, "400 Bad Request", "Use HTTPS\n");
        return;
    }
    if (!redirect_host(host, sizeof host, a, site)) {
        error_page(a, "400 Bad Request", "Use HTTPS\n");
        return;
    }
    url[0] = '\0';
    if (!escape(url, sizeof url, &len, a->req->path) || !escape(url, sizeof url, &len, question) ||
        !escape(url, sizeof url, &len, a->req->query)) {
        bad_page(a, "414 URI Too Long", "Use HTTPS\n");
        return;
    }
    snprintf(headers, sizeof headers, PLAIN "Location: https://%s%s\r\n", host, url);
    reply(a, "302 Found", headers, body);
}

static bool below(struct http1_str path, const char *dir)
{
    size_t n = strlen(dir);

    return path.n >= n && memcmp(path.p, dir, n) == 0 && (path.n == n || path.p[n] == '/');
}

/* For HTML, as Go's http.Redirect does it; what is not here is in no URL that is taken. */
static const char *html(char *buf, size_t size, const char *s)
{
    size_t len = 0;

    for (; *s && len + 6 < size; s++) {
        const char *as = *s == '&' ? "&amp;" : *s == '\'' ? "&#39;" : NULL;
        len += (size_t)snprintf(buf + len, size - len, as ? "%s" : "%.1s", as ? as : s);
    }
    buf[len] = '\0';
    return buf;
}

/* Go's http.Redirect. */
static void redirect(const struct answer *a, const char *status, const char *headers, const char *to)
{
    char all[2048], body[6400], escaped[6200];

    if (!is_get(a->req)) {
        snprintf(all, sizeof all, "%sLocation: %s\r\n", headers, to);
        reply(a, status, all, "");
        return;
    }
    snprintf(all, sizeof all, "%sContent-Type: text/html; charset=utf-8\r\nLocation: %s\r\n", headers, to);
    snprintf(body, sizeof body, "<a href=\"%s\">%s</a>.\n\n", html(escaped, sizeof escaped, to), status + 4);
    if (a->head)
        snprintf(body, sizeof body, "%s", "");
    reply(a, status, all, body);
}

static void debug_index(const struct answer *a)
{
    reply(a, "200 OK", CSP "Content-Type: text/html; charset=utf-8\r\n" BROWSER_REST,
          "<html><body><h1>derper debug</h1><ul><li><a href=\"/debug/varz\">/debug/varz</a> (Metrics "
          "(Prometheus))</li></ul></body></html>\n");
}

/* As far as derper's /debug makes sense here: it holds the index, the metrics and a check that always holds. */
static void debug(const struct answer *a, const struct http_site *site)
{
    if (http1_is(a->req->path, "/debug"))
        redirect(a, "307 Temporary Redirect", "", "/debug/");
    else if (!site->debug)
        error_page(a, "403 Forbidden", "debug access denied\n");
    else if (http1_is(a->req->path, "/debug/varz"))
        a->out->action = HTTP_VARZ;
    else if (http1_is(a->req->path, "/debug/"))
        debug_index(a);
    else
        error_page(a, "404 Not Found", "404 page not found\n");
}

static void home(const struct answer *a, const struct http_site *site)
{
    const char *headers = CSP "Content-Type: text/html; charset=utf-8\r\n" BROWSER_REST;

    if (!site->home || !site->home[0])
        reply(a, "200 OK", headers, home_page);
    else if (strcmp(site->home, "blank") == 0)
        reply(a, "200 OK", headers, "");
    else
        redirect(a, "302 Found", CSP BROWSER_REST, site->home);
}

void http_head(struct http_reply *out, const struct http1_head *req, size_t len)
{
    bool varz = out->action == HTTP_VARZ;

    char length[48] = "";

    out->close = out->close || !varz;
    if (len > 0 || !http1_is(req->method, "HEAD"))
        snprintf(length, sizeof length, "Content-Length: %zu\r\n", len);
    put(out, "HTTP/1.%d 200 OK\r\n%s%s%s%s\r\n", req->minor,
        varz ? CSP_INLINE PLAIN : CSP "Content-Type: application/json\r\n", BROWSER_REST, length,
        out->close && req->minor > 0 ? "Connection: close\r\n" : "");
}

static void page(const struct answer *a, const struct http_site *site)
{
    struct http1_str path = a->req->path;

    if (http1_is(path, "/derp"))
        derp(a, site);
    else if (http1_is(path, "/derp/probe") || http1_is(path, "/derp/latency-check"))
        probe(a);
    else if (http1_is(path, "/generate_204"))
        generate_204(a);
    else if (http1_is(path, "/robots.txt"))
        reply(a, "200 OK", CSP BROWSER_REST PLAIN, "User-agent: *\nDisallow: /\n");
    else if (http1_is(path, "/bootstrap-dns") && site->derper)
        a->out->action = HTTP_BOOTSTRAP;
    else if (http1_is(path, "/bootstrap-dns")) /* as derper without -bootstrap-dns-names */
        reply(a, "200 OK", CSP "Content-Type: application/json\r\n" BROWSER_REST, "");
    else if (http1_is(path, "/derp/peer") && site->mesh && !site->derper && is_get(a->req))
        a->out->action = HTTP_PEER;
    else if (below(path, "/debug") && site->derper)
        debug(a, site);
    else if (below(path, "/debug"))
        error_page(a, "404 Not Found",
                   "not served here: metrics and the status page have an address of their own "
                   "(setting: metrics, by default 127.0.0.1:9911 on the relay itself)\n");
    else
        home(a, site);
}

void http_answer(struct http_reply *out, const struct http1_head *req, enum http_port port,
                 const struct http_site *site)
{
    const struct http1_str *coding = http1_find(req, "Transfer-Encoding");
    struct answer a = {out, req, http1_is(req->method, "HEAD")};

    out->action = HTTP_REPLY;
    out->fast_start = false;
    out->len = 0;
    out->text[0] = '\0';
    out->close = req->minor == 0 || http1_has_token(req, "Connection", "close") || has_body(req);

    if (http1_content_length(req) < 0)
        bad_page(&a, "400 Bad Request", "400 Bad Request: Content-Length\n");
    else if (coding && !http1_is_nocase(*coding, "chunked"))
        bad_page(&a, "501 Not Implemented", "Unsupported transfer encoding\n");
    else if (http1_is(req->method, "CONNECT") && site->derper && port == HTTP_MAIN)
        bad_page(&a, "403 Forbidden", "CONNECT not enabled\n");
    else if (http1_is(req->method, "CONNECT"))
        bad_page(&a, "404 Not Found", "404 page not found\n");
    else if (http1_is(req->path, "*") && http1_is(req->method, "OPTIONS"))
        reply(&a, "200 OK", "", "");
    else if (req->path.n == 0 || req->path.p[0] != '/')
        bad_page(&a, "400 Bad Request", "400 Bad Request\n");
    else if (port != HTTP_PORT80 || (site->derper && below(req->path, "/debug")))
        page(&a, site);
    else if (http1_is(req->path, "/generate_204"))
        generate_204(&a);
    else
        to_https(&a, site);
}

void http_bad(struct http_reply *out, int http1_error)
{
    const char *status = "400 Bad Request";

    if (http1_error == HTTP1_TOO_LONG)
        status = "431 Request Header Fields Too Large";
    else if (http1_error == HTTP1_VERSION)
        status = "505 HTTP Version Not Supported: unsupported protocol version";
    out->action = HTTP_REPLY;
    out->fast_start = false;
    out->close = true;
    out->len = 0;
    put(out, "HTTP/1.1 %s\r\n" PLAIN "Connection: close\r\n\r\n%s", status, status);
}
