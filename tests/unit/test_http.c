/* The pages of a DERP port: expected bytes were recorded from derper v1.102.5 and lack only its Date. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "node/http.h"

#define KEY_HEX "7ee654cd2cc693c191f2574d397631772d5a2f6b0d355440c07aa33b51254721"
#define H       "Host: x\r\n"
#define CSP                                                                                                  \
    "Content-Security-Policy: default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri "     \
    "'self'; block-all-mixed-content; object-src 'none'\r\n"
#define PLAIN_TEXT "Content-Type: text/plain; charset=utf-8\r\n"
#define NOSNIFF    "X-Content-Type-Options: nosniff\r\n"
#define HSTS       "Strict-Transport-Security: max-age=63072000; includeSubDomains\r\n"
#define NOCACHE                                                                                              \
    "HTTP/1.1 204 No Content\r\nCache-Control: no-cache, no-store, must-revalidate, no-transform, "          \
    "max-age=0\r\n"
#define UP426                                                                                                \
    "426 Upgrade Required\r\nContent-Type: text/plain; charset=utf-8\r\n"                                    \
    "X-Content-Type-Options: nosniff\r\nContent-Length: 33\r\n"
#define SWITCH                                                                                               \
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: 2\r\n"        \
    "Derp-Public-Key: " KEY_HEX "\r\n\r\n"
#define BOGUS                                                                                                \
    "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain; charset=utf-8\r\n"                         \
    "X-Content-Type-Options: nosniff\r\nContent-Length: 19\r\n\r\nbogus probe method\n"
#define ROBOTS "HTTP/1.1 200 OK\r\n" CSP HSTS "X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n"

static struct http_reply out;

static const struct http_site *site_with(bool mesh, const char *host)
{
    static struct http_site site;

    site = (struct http_site){.node_key_hex = KEY_HEX, .host = host, .mesh = mesh};
    return &site;
}

/* Answers one request; the reply as text. */
static const char *ask_site(const char *request, enum http_port port, const struct http_site *site)
{
    struct http1_head head;
    int n = http1_parse_request(&head, request, strlen(request));

    if (n <= 0)
        fail_msg("not a request (%d): %s", n, request);
    http_answer(&out, &head, port, site);
    assert_true(out.len < sizeof out.text);
    out.text[out.len] = '\0';
    return out.text;
}

static const char *ask(const char *request)
{
    return ask_site(request, HTTP_MAIN, site_with(false, "relay.example"));
}

static void starts(const char *text, const char *with)
{
    if (strncmp(text, with, strlen(with)) != 0)
        fail_msg("want: %s\nhave: %s", with, text);
}

static void has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("want: %s\nhave: %s", part, text);
}

static void derp_without_upgrade(void **state)
{
    (void)state;
    assert_string_equal(ask("GET /derp HTTP/1.1\r\n" H "\r\n"),
                        "HTTP/1.1 " UP426 "\r\nDERP requires connection upgrade\n");
    assert_false(out.close);
    assert_int_equal(out.action, HTTP_REPLY);
    assert_string_equal(ask("HEAD /derp HTTP/1.1\r\n" H "\r\n"), "HTTP/1.1 " UP426 "\r\n");
    assert_string_equal(ask("POST /derp HTTP/1.1\r\n" H "\r\n"),
                        "HTTP/1.1 " UP426 "\r\nDERP requires connection upgrade\n");
    assert_string_equal(ask("GET /derp HTTP/1.0\r\n\r\n"),
                        "HTTP/1.0 " UP426 "\r\nDERP requires connection upgrade\n");
    assert_true(out.close);
    /* Not lists, and only the first line of the name: as Go's Header.Get. */
    starts(ask("GET /derp HTTP/1.1\r\n" H "Upgrade: DERP, foo\r\n\r\n"), "HTTP/1.1 426 ");
    starts(ask("GET /derp HTTP/1.1\r\n" H "Upgrade: foo\r\nUpgrade: DERP\r\n\r\n"), "HTTP/1.1 426 ");
    starts(ask("GET /derp HTTP/1.1\r\n" H "Upgrade: derpmesh/2\r\n\r\n"), "HTTP/1.1 426 ");
}

static void derp_upgrades(void **state)
{
    static const char *const good[] = {
        "GET /derp HTTP/1.1\r\n" H "Upgrade: DERP\r\nConnection: Upgrade\r\n\r\n",
        "GET /derp HTTP/1.1\r\n" H "Upgrade: dErP\r\n\r\n",
        "GET /derp HTTP/1.0\r\nUpgrade: derp\r\n\r\n",
        "POST /derp HTTP/1.1\r\n" H "Upgrade: DERP\r\nContent-Length: 0\r\n\r\n",
        "GET /derp?x=1 HTTP/1.1\r\n" H "Upgrade: DERP\r\n\r\n",
        "GET http://foo/derp HTTP/1.1\r\n" H "Upgrade: DERP\r\n\r\n",
        "GET /derp HTTP/1.1\r\n" H "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "GET /derp HTTP/1.1\r\n" H "Upgrade: WebSocket\r\nSec-WebSocket-Protocol: foo\r\n\r\n",
        "GET /derp HTTP/1.1\r\n" H "Upgrade: DERP\r\nDerp-Fast-Start: true\r\n\r\n",
        "GET /derp HTTP/1.1\r\n" H "Upgrade: DERP\r\nConnection: close\r\n\r\n",
    };

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_string_equal(ask(good[i]), SWITCH);
        assert_int_equal(out.action, HTTP_DERP);
        assert_false(out.fast_start);
        assert_false(out.close);
    }
    assert_string_equal(ask("GET /derp HTTP/1.1\r\n" H "Upgrade: DERP\r\nDerp-Fast-Start: 1\r\n\r\n"), "");
    assert_int_equal(out.action, HTTP_DERP);
    assert_true(out.fast_start);
    assert_int_equal(out.len, 0);
}

static void no_login_on_other_paths_or_with_a_body(void **state)
{
    (void)state;
    starts(ask("GET /derp/ HTTP/1.1\r\n" H "Upgrade: DERP\r\n\r\n"), "HTTP/1.1 200 OK\r\n");
    assert_int_equal(out.action, HTTP_REPLY);
    starts(ask("GET /Derp HTTP/1.1\r\n" H "Upgrade: DERP\r\n\r\n"), "HTTP/1.1 200 OK\r\n");
    assert_int_equal(out.action, HTTP_REPLY);
    starts(ask("GET /derp HTTP/1.1\r\n" H "Upgrade: DERP\r\nContent-Length: 3\r\n\r\n"), "HTTP/1.1 400 ");
    assert_int_equal(out.action, HTTP_REPLY);
    assert_true(out.close);
    starts(ask("GET /derp HTTP/1.1\r\n" H "Upgrade: DERP\r\nTransfer-Encoding: chunked\r\n\r\n"),
           "HTTP/1.1 400 ");
    assert_int_equal(out.action, HTTP_REPLY);
}

#define WS_UP   "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
#define WS_SUB  "Sec-WebSocket-Protocol: derp\r\n"
#define WS_VER  "Sec-WebSocket-Version: 13\r\n"
#define WS_KEY  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" /* of RFC 6455, as its answer */
#define WS_SAID "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nSec-Websocket-Accept: "
#define WS_RFC  WS_SAID "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
#define GET     "GET /derp HTTP/1.1\r\n" H

static void websocket_handshakes(void **state)
{
    static const char *const good[] = {
        GET WS_UP WS_SUB WS_VER WS_KEY "\r\n",
        GET "upgrade: WebSocket\r\nconnection: upgrade\r\n" WS_SUB WS_VER WS_KEY "\r\n",
        GET WS_UP "Sec-WebSocket-Protocol: foo, derp\r\n" WS_VER WS_KEY "\r\n",
        GET WS_UP WS_SUB WS_VER WS_KEY
        "Origin: https://elsewhere.example\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate\r\nDerp-Fast-Start: 1\r\n\r\n",
    };

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_string_equal(ask(good[i]),
                            WS_RFC "Sec-Websocket-Protocol: derp\r\nUpgrade: websocket\r\n\r\n");
        assert_int_equal(out.action, HTTP_WEBSOCKET);
        assert_false(out.close);
        assert_false(out.fast_start);
    }
    /* the bits of the last digit that are not used */
    starts(ask(GET WS_UP WS_SUB WS_VER "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==\r\n\r\n"),
           WS_SAID "Zgw8jYXtqX5qJr7MJ1Q/MqzeSRI=\r\n");
    /* what only looks like our subprotocol is switched, and closed at once */
    assert_string_equal(ask(GET WS_UP "Sec-WebSocket-Protocol: derpx\r\n" WS_VER WS_KEY "\r\n"),
                        WS_RFC "Upgrade: websocket\r\n\r\n"
                               "\x88\x28\x03\xf0"
                               "client must speak the derp subprotocol");
    assert_int_equal(out.action, HTTP_REPLY);
    assert_true(out.close);
    has(ask(GET WS_UP "Sec-WebSocket-Protocol: Derp, derp\r\n" WS_VER WS_KEY "\r\n"),
        "Sec-Websocket-Protocol: Derp\r\nUpgrade: websocket\r\n\r\n\x88");
}

/* As derper's, but for its Date. */
static void websocket_refusals(void **state)
{
    static const struct {
        const char *ask, *status, *headers, *body;
    } bad[] = {
        {GET "Upgrade: websocket\r\n" WS_SUB WS_VER WS_KEY, "426 Upgrade Required",
         "Connection: Upgrade\r\n" PLAIN_TEXT "Upgrade: websocket\r\n" NOSNIFF,
         "WebSocket protocol violation: Connection header \"\" does not contain Upgrade\n"},
        {GET "Upgrade: websocket\r\nConnection: keep-alive\r\n" WS_SUB WS_VER WS_KEY, "426 Upgrade Required",
         "Connection: Upgrade\r\n" PLAIN_TEXT "Upgrade: websocket\r\n" NOSNIFF,
         "WebSocket protocol violation: Connection header \"keep-alive\" does not contain Upgrade\n"},
        {"POST /derp HTTP/1.1\r\n" H WS_UP WS_SUB WS_VER WS_KEY, "405 Method Not Allowed", PLAIN_TEXT NOSNIFF,
         "WebSocket protocol violation: handshake request method is not GET but \"POST\"\n"},
        {GET WS_UP WS_SUB WS_KEY, "400 Bad Request", PLAIN_TEXT "Sec-Websocket-Version: 13\r\n" NOSNIFF,
         "unsupported WebSocket protocol version (only 13 is supported): \"\"\n"},
        {GET WS_UP WS_SUB WS_KEY "Sec-WebSocket-Version: 12\r\n", "400 Bad Request",
         PLAIN_TEXT "Sec-Websocket-Version: 13\r\n" NOSNIFF,
         "unsupported WebSocket protocol version (only 13 is supported): \"12\"\n"},
        {GET WS_UP WS_SUB WS_VER, "400 Bad Request", PLAIN_TEXT NOSNIFF,
         "WebSocket protocol violation: missing Sec-WebSocket-Key\n"},
        {GET WS_UP WS_SUB WS_VER WS_KEY WS_KEY, "400 Bad Request", PLAIN_TEXT NOSNIFF,
         "WebSocket protocol violation: multiple Sec-WebSocket-Key headers\n"},
        {GET WS_UP WS_SUB WS_VER "Sec-WebSocket-Key: abc\r\n", "400 Bad Request", PLAIN_TEXT NOSNIFF,
         "WebSocket protocol violation: invalid Sec-WebSocket-Key \"abc\", must be a 16 byte base64 encoded "
         "string\n"},
        /* what is unusual is not sent back */
        {GET WS_UP WS_SUB WS_VER "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub2<jZQ==\r\n", "400 Bad Request",
         PLAIN_TEXT NOSNIFF,
         "WebSocket protocol violation: invalid Sec-WebSocket-Key \"…\", must be a 16 byte base64 encoded "
         "string\n"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char request[600], want[900];
        snprintf(request, sizeof request, "%s\r\n", bad[i].ask);
        snprintf(want, sizeof want, "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\n\r\n%s", bad[i].status,
                 bad[i].headers, strlen(bad[i].body), bad[i].body);
        assert_string_equal(ask(request), want);
        assert_int_equal(out.action, HTTP_REPLY);
        assert_false(out.close);
    }
    assert_string_equal(
        ask("GET /derp HTTP/1.0\r\n" WS_UP WS_SUB WS_VER WS_KEY "\r\n"),
        "HTTP/1.0 426 Upgrade Required\r\n" PLAIN_TEXT NOSNIFF
        "Content-Length: 86\r\n\r\nWebSocket protocol violation: handshake request must be at "
        "least HTTP/1.1: \"HTTP/1.0\"\n");
    starts(ask(GET WS_UP WS_SUB WS_VER WS_KEY "Content-Length: 3\r\n\r\n"), "HTTP/1.1 400 ");
    assert_true(out.close);
}

static void mesh_upgrade(void **state)
{
    static const char req[] = "GET /derp HTTP/1.1\r\n" H "Upgrade: derpmesh/1\r\nConnection: Upgrade\r\n\r\n";

    (void)state;
    assert_string_equal(
        ask_site(req, HTTP_MAIN_PLAIN, site_with(true, NULL)),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: derpmesh/1\r\nConnection: Upgrade\r\n\r\n");
    assert_int_equal(out.action, HTTP_MESH);
    starts(ask_site(req, HTTP_MAIN, site_with(false, NULL)), "HTTP/1.1 426 ");
    assert_int_equal(out.action, HTTP_REPLY);
}

static void probe(void **state)
{
    (void)state;
    assert_string_equal(ask("GET /derp/probe HTTP/1.1\r\n" H "\r\n"),
                        "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n\r\n");
    assert_string_equal(ask("HEAD /derp/probe HTTP/1.1\r\n" H "\r\n"),
                        "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\n\r\n");
    assert_string_equal(ask("POST /derp/probe HTTP/1.1\r\n" H "\r\n"), BOGUS);
    assert_string_equal(ask("OPTIONS /derp/latency-check HTTP/1.1\r\n" H "\r\n"), BOGUS);
    assert_string_equal(ask("GET /derp/latency-check HTTP/1.1\r\n" H "Connection: close\r\n\r\n"),
                        "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n"
                        "Connection: close\r\n\r\n");
    assert_true(out.close);
    assert_string_equal(ask("GET /derp/probe HTTP/1.0\r\n\r\n"),
                        "HTTP/1.0 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n\r\n");
    assert_true(out.close);
}

static void challenge(void **state)
{
    char request[256];

    (void)state;
    assert_string_equal(ask("GET /generate_204 HTTP/1.1\r\n" H "\r\n"), NOCACHE "\r\n");
    assert_string_equal(ask("POST /generate_204 HTTP/1.1\r\n" H "\r\n"), NOCACHE "\r\n");
    assert_string_equal(ask("GET /generate_204 HTTP/1.1\r\n" H "X-Tailscale-Challenge: aB0.:_-\r\n\r\n"),
                        NOCACHE "X-Tailscale-Response: response aB0.:_-\r\n\r\n");
    assert_string_equal(ask("GET /generate_204 HTTP/1.1\r\n" H "X-Tailscale-Challenge: a b\r\n\r\n"),
                        NOCACHE "\r\n");
    assert_string_equal(ask("GET /generate_204 HTTP/1.1\r\n" H "X-Tailscale-Challenge:\r\n\r\n"),
                        NOCACHE "\r\n");
    for (int n = 64; n <= 65; n++) {
        snprintf(request, sizeof request,
                 "GET /generate_204 HTTP/1.1\r\n" H "X-Tailscale-Challenge: %0*d\r\n\r\n", n, 0);
        assert_int_equal(strstr(ask(request), "X-Tailscale-Response: response 000") != NULL, n == 64);
    }
}

static void home_and_robots(void **state)
{
    static const char *const paths[] = {"/", "/nope", "/derp/x", "//derp", "/index.html?a=b"};
    char request[128];

    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        snprintf(request, sizeof request, "GET %s HTTP/1.1\r\n" H "\r\n", paths[i]);
        starts(ask(request), "HTTP/1.1 200 OK\r\n" CSP "Content-Type: text/html; charset=utf-8\r\n" HSTS
                             "X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\nContent-Length: ");
        has(out.text, "</html>\n");
        assert_false(out.close);
    }
    starts(ask("POST / HTTP/1.1\r\n" H "\r\n"), "HTTP/1.1 200 OK\r\n");
    assert_null(strstr(ask("HEAD / HTTP/1.1\r\n" H "\r\n"), "<"));
    has(out.text, "\r\nContent-Length: ");
    assert_string_equal(ask("GET /robots.txt HTTP/1.1\r\n" H "\r\n"),
                        ROBOTS "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 26\r\n\r\n"
                               "User-agent: *\nDisallow: /\n");
    assert_string_equal(
        ask("GET /bootstrap-dns HTTP/1.1\r\n" H "\r\n"),
        "HTTP/1.1 200 OK\r\n" CSP "Content-Type: application/json\r\n" HSTS
        "X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\nContent-Length: 0\r\n\r\n");
}

static void debug_is_elsewhere(void **state)
{
    (void)state;
    starts(ask("GET /debug/varz HTTP/1.1\r\n" H "\r\n"), "HTTP/1.1 404 Not Found\r\n");
    has(out.text, "metrics");
    starts(ask("GET /debug HTTP/1.1\r\n" H "\r\n"), "HTTP/1.1 404 ");
    starts(ask("GET /debugger HTTP/1.1\r\n" H "\r\n"), "HTTP/1.1 200 ");
}

static void bodies_end_the_connection(void **state)
{
    (void)state;
    assert_string_equal(ask("GET /derp/probe HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\n"),
                        "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n"
                        "Connection: close\r\n\r\n");
    assert_true(out.close);
    starts(ask("GET / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n"), "HTTP/1.1 200 ");
    assert_true(out.close);
    starts(ask("GET / HTTP/1.1\r\n" H "Transfer-Encoding: foo\r\n\r\n"), "HTTP/1.1 501 Not Implemented\r\n");
    assert_true(out.close);
    starts(ask("GET / HTTP/1.1\r\n" H "Content-Length: x\r\n\r\n"), "HTTP/1.1 400 ");
    assert_true(out.close);
    starts(ask("GET / HTTP/1.1\r\n" H "Content-Length: 99999999\r\n\r\n"), "HTTP/1.1 400 ");
    assert_true(out.close);
}

static void odd_targets(void **state)
{
    (void)state;
    starts(ask("CONNECT foo:443 HTTP/1.1\r\n" H "\r\n"), "HTTP/1.1 404 Not Found\r\n");
    starts(ask("OPTIONS * HTTP/1.1\r\n" H "\r\n"), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    starts(ask("GET * HTTP/1.1\r\n" H "\r\n"), "HTTP/1.1 400 Bad Request\r\n");
    assert_true(out.close);
}

static const char *ask80(const char *request, const char *host)
{
    return ask_site(request, HTTP_PORT80, site_with(true, host));
}

static void port_80(void **state)
{
    (void)state;
    assert_string_equal(ask80("GET /generate_204 HTTP/1.1\r\n" H "\r\n", "relay.example"), NOCACHE "\r\n");
    starts(ask80("GET /derp/probe?a=b HTTP/1.1\r\nHost: foo\r\n\r\n", "relay.example"),
           "HTTP/1.1 302 Found\r\n");
    has(out.text, "\r\nLocation: https://relay.example/derp/probe?a=b\r\n");
    has(ask80("HEAD / HTTP/1.1\r\n" H "\r\n", "relay.example:8443"),
        "\r\nLocation: https://relay.example:8443/\r\n");
    assert_non_null(strstr(out.text, "\r\n\r\n"));
    assert_string_equal(strstr(out.text, "\r\n\r\n"), "\r\n\r\n");
    has(ask80("GET / HTTP/1.1\r\n" H "\r\n", "2001:db8::1"), "\r\nLocation: https://[2001:db8::1]/\r\n");
    starts(ask80("POST / HTTP/1.1\r\n" H "\r\n", "relay.example"), "HTTP/1.1 400 Bad Request\r\n");
    has(out.text, "\r\n\r\nUse HTTPS\n");
    /* No login without TLS where TLS is served. */
    starts(ask80("GET /derp HTTP/1.1\r\n" H "Upgrade: DERP\r\n\r\n", "relay.example"), "HTTP/1.1 302 ");
    assert_int_equal(out.action, HTTP_REPLY);
    starts(ask80("GET /derp HTTP/1.1\r\n" H "Upgrade: derpmesh/1\r\n\r\n", "relay.example"), "HTTP/1.1 302 ");
    assert_int_equal(out.action, HTTP_REPLY);
}

static void redirects_are_harmless(void **state)
{
    char request[HTTP1_HEAD_MAX + 1];

    (void)state;
    has(ask80("GET / HTTP/1.1\r\nHost: foo.bar:8080\r\n\r\n", NULL), "\r\nLocation: https://foo.bar/\r\n");
    has(ask80("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", NULL), "\r\nLocation: https://[::1]/\r\n");
    starts(ask80("GET / HTTP/1.0\r\n\r\n", NULL), "HTTP/1.0 400 ");
    starts(ask80("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", NULL), "HTTP/1.1 400 ");
    starts(ask80("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", NULL), "HTTP/1.1 400 ");
    starts(ask80("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", NULL), "HTTP/1.1 400 ");
    has(ask80("GET //evil.example/ HTTP/1.1\r\n" H "\r\n", "r"),
        "\r\nLocation: https://r//evil.example/\r\n");
    has(ask80("GET http://other/x HTTP/1.1\r\n" H "\r\n", "r"), "\r\nLocation: https://r/x\r\n");
    has(ask80("GET /\"<b>\xc3\xa4' HTTP/1.1\r\n" H "\r\n", "r"),
        "\r\nLocation: https://r/%22%3Cb%3E%C3%A4'\r\n");
    snprintf(request, sizeof request, "GET /%07500d HTTP/1.1\r\n" H "\r\n", 0);
    starts(ask80(request, "r"), "HTTP/1.1 414 ");
    snprintf(request, sizeof request, "GET /%07000d HTTP/1.1\r\n" H "\r\n", 0);
    starts(ask80(request, "r"), "HTTP/1.1 302 ");
    has(out.text, "\r\n\r\nThis is served over HTTPS.\n");
}

/* ---- under the name derper ---- */

static const char *ask_derper(const char *request, enum http_port port, const char *home, bool debug,
                              bool no_derp)
{
    struct http_site site = {
        .node_key_hex = KEY_HEX, .derper = true, .home = home, .debug = debug, .no_derp = no_derp};

    return ask_site(request, port, &site);
}

#define BROWSER_HEADERS CSP HSTS "X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n"

static void derper_home(void **state)
{
    static const char get[] = "GET /x HTTP/1.1\r\n" H "\r\n";

    (void)state;
    has(ask_derper(get, HTTP_MAIN, "", false, false), "<h1>DERP</h1>");
    has(ask_derper(get, HTTP_MAIN, NULL, false, false), "<h1>DERP</h1>");
    starts(ask_derper(get, HTTP_MAIN, "blank", false, false), "HTTP/1.1 200 OK\r\n");
    has(out.text, "Content-Length: 0\r\n\r\n");
    assert_string_equal(ask_derper(get, HTTP_MAIN, "https://e.example/?a=b", false, false),
                        "HTTP/1.1 302 Found\r\n" BROWSER_HEADERS
                        "Content-Type: text/html; charset=utf-8\r\nLocation: https://e.example/?a=b\r\n"
                        "Content-Length: 45\r\n\r\n<a href=\"https://e.example/?a=b\">Found</a>.\n\n");
    starts(ask_derper("POST / HTTP/1.1\r\n" H "\r\n", HTTP_MAIN, "https://e.example", false, false),
           "HTTP/1.1 302 Found\r\n");
    assert_null(strstr(out.text, "href"));
}

static void derper_debug(void **state)
{
    static const char get[] = "GET /debug/varz HTTP/1.1\r\n" H "\r\n",
                      port80[] = "GET /debug HTTP/1.1\r\n" H "\r\n";

    (void)state;
    starts(ask_derper(get, HTTP_MAIN, "", false, false), "HTTP/1.1 403 ");
    has(out.text, "\r\n\r\ndebug access denied\n");
    assert_int_equal(out.action, HTTP_REPLY);
    assert_string_equal(ask_derper(get, HTTP_MAIN, "", true, false), "");
    assert_int_equal(out.action, HTTP_VARZ);
    struct http1_head head;
    assert_true(http1_parse_request(&head, get, strlen(get)) > 0);
    http_head(&out, &head, 12345);
    starts(out.text, "HTTP/1.1 200 OK\r\n");
    has(out.text, "Content-Type: text/plain; charset=utf-8\r\n");
    has(out.text, "Content-Length: 12345\r\n\r\n");
    assert_false(out.close);
    starts(ask_derper(port80, HTTP_PORT80, "", false, false), "HTTP/1.1 307 Temporary Redirect\r\n");
    has(out.text, "Location: /debug/\r\n");
    starts(ask_derper("GET /debug/pprof HTTP/1.1\r\n" H "\r\n", HTTP_MAIN, "", true, false), "HTTP/1.1 404 ");
    starts(ask_derper("GET /debugger HTTP/1.1\r\n" H "\r\n", HTTP_MAIN, "", false, false), "HTTP/1.1 200 ");
    starts(ask_derper("CONNECT a.example:443 HTTP/1.1\r\n" H "\r\n", HTTP_MAIN, "", true, false),
           "HTTP/1.1 403 ");
    starts(ask_derper("CONNECT a.example:443 HTTP/1.1\r\n" H "\r\n", HTTP_MAIN_PLAIN, "", true, false),
           "HTTP/1.1 404 ");
}

static void derper_bootstrap_and_no_derp(void **state)
{
    static const char get[] = "GET /bootstrap-dns?q=a HTTP/1.1\r\n" H "\r\n";

    (void)state;
    ask_derper(get, HTTP_MAIN, "", false, false);
    assert_int_equal(out.action, HTTP_BOOTSTRAP);
    struct http1_head head;
    assert_true(http1_parse_request(&head, get, strlen(get)) > 0);
    http_head(&out, &head, 0);
    has(out.text, "Content-Type: application/json\r\n");
    has(out.text, "Connection: close\r\n\r\n");
    assert_true(out.close);
    assert_string_equal(
        ask_derper("GET /derp HTTP/1.1\r\n" H "Upgrade: DERP\r\n\r\n", HTTP_MAIN, "", false, true),
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\n"
        "X-Content-Type-Options: nosniff\r\nContent-Length: 21\r\n\r\nderp server disabled\n");
    starts(ask_derper("GET /derp/probe HTTP/1.1\r\n" H "\r\n", HTTP_MAIN, "", false, true), "HTTP/1.1 200 ");
}

/* Whether the mesh hears a node: only where there is a mesh, and no derper has it. */
static void peers(void **state)
{
    static const char get[] = "GET /derp/peer?q=a HTTP/1.1\r\n" H "\r\n";

    (void)state;
    ask_site(get, HTTP_MAIN, site_with(true, "relay.example"));
    assert_int_equal(out.action, HTTP_PEER);
    has(ask_site("POST /derp/peer?q=a HTTP/1.1\r\n" H "\r\n", HTTP_MAIN, site_with(true, "relay.example")),
        "</html>");
    has(ask(get), "</html>");
    ask_derper(get, HTTP_MAIN, "", false, false);
    assert_int_equal(out.action, HTTP_REPLY);
}

static void no_http(void **state)
{
    (void)state;
    http_bad(&out, HTTP1_BAD);
    out.text[out.len] = '\0';
    assert_string_equal(out.text, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
                                  "Connection: close\r\n\r\n400 Bad Request");
    assert_true(out.close);
    assert_int_equal(out.action, HTTP_REPLY);
    http_bad(&out, HTTP1_TOO_LONG);
    starts(out.text, "HTTP/1.1 431 Request Header Fields Too Large\r\n");
    http_bad(&out, HTTP1_VERSION);
    starts(out.text, "HTTP/1.1 505 HTTP Version Not Supported");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(derp_without_upgrade),
        cmocka_unit_test(derp_upgrades),
        cmocka_unit_test(no_login_on_other_paths_or_with_a_body),
        cmocka_unit_test(websocket_handshakes),
        cmocka_unit_test(websocket_refusals),
        cmocka_unit_test(mesh_upgrade),
        cmocka_unit_test(probe),
        cmocka_unit_test(challenge),
        cmocka_unit_test(home_and_robots),
        cmocka_unit_test(debug_is_elsewhere),
        cmocka_unit_test(bodies_end_the_connection),
        cmocka_unit_test(odd_targets),
        cmocka_unit_test(port_80),
        cmocka_unit_test(redirects_are_harmless),
        cmocka_unit_test(derper_home),
        cmocka_unit_test(derper_debug),
        cmocka_unit_test(derper_bootstrap_and_no_derp),
        cmocka_unit_test(peers),
        cmocka_unit_test(no_http),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
