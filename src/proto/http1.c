/* HTTP/1.x heads, read in place.
 *
 * Happy path: the first line is checked as soon as it is whole, so that a stranger's protocol is turned
 * away early; then the blank line is looked for; only when it is there are the header lines taken
 * apart.  A call on an unfinished head hops from newline to newline, at most HTTP1_HEADERS_MAX of them,
 * so that a head that comes byte by byte costs little more than its reads.
 * Failure: a negative http1_error.  A verdict never changes when more bytes follow.
 *
 * Stricter than Go's server where RFC 9112 says so: no folded lines, no blank before a colon.
 * As lax as it where clients need it: a bare LF ends a line, bytes above 0x7f pass in values. */
#include "proto/http1.h"

#include <string.h>
#include <strings.h>

enum {
    METHOD_MAX = 32, /* longest registered method: 17 */
    BODY_MAX = 1 << 20,
    VERSION_LEN = sizeof "HTTP/1.1" - 1
};

/* token of RFC 9110: visible ASCII without delimiters */
static bool is_token_char(unsigned char c)
{
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
        return true;
    return c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

static bool is_token(struct http1_str s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (!is_token_char((unsigned char)s.p[i]))
            return false;
    }
    return s.n > 0;
}

/* Field text: no control characters but the tab. */
static bool is_field_text(struct http1_str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

/* Takes s up to the first c off its front; all of it where there is none. */
static struct http1_str cut(struct http1_str *s, char c, bool *found)
{
    const char *at = memchr(s->p, c, s->n);
    struct http1_str head = {s->p, at ? (size_t)(at - s->p) : s->n};
    size_t skip = head.n + (at != NULL);

    *found = at != NULL;
    s->p += skip;
    s->n -= skip;
    return head;
}

static struct http1_str trim(struct http1_str s)
{
    while (s.n > 0 && (*s.p == ' ' || *s.p == '\t'))
        s.p++, s.n--;
    while (s.n > 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

/* The line at p, its end taken off, in *line.  Where the next one begins, or NULL if it is unfinished. */
static const char *next_line(const char *p, const char *end, struct http1_str *line)
{
    const char *nl = memchr(p, '\n', (size_t)(end - p));

    if (!nl)
        return NULL;
    *line = (struct http1_str){p, (size_t)(nl - p)};
    if (line->n > 0 && nl[-1] == '\r')
        line->n--;
    return nl + 1;
}

/* Length of the head whose first header line begins at p; 0 if its blank line is not there yet. */
static int find_end(const char *buf, const char *p, const char *end)
{
    struct http1_str line;

    for (int lines = 0; (p = next_line(p, end, &line)) != NULL; lines++) {
        if (line.n == 0)
            return (int)(p - buf);
        if (lines == HTTP1_HEADERS_MAX)
            return HTTP1_TOO_LONG;
    }
    return 0;
}

static int parse_headers(struct http1_head *h, const char *p, const char *end)
{
    struct http1_str line;
    bool colon;

    h->n_headers = 0;
    while ((p = next_line(p, end, &line)) != NULL && line.n > 0) {
        struct http1_header *hd = &h->headers[h->n_headers];
        hd->name = cut(&line, ':', &colon);
        hd->value = trim(line);
        /* A folded line begins with a blank, so it fails as a name. */
        if (!colon || !is_token(hd->name) || !is_field_text(hd->value))
            return HTTP1_BAD;
        h->n_headers++;
    }
    return 0;
}

/* "HTTP/1.x": 0 and the minor version, 1 for all that come after 1.0, as HTTP asks. */
static int parse_version(struct http1_head *h, struct http1_str s)
{
    if (s.n != VERSION_LEN || memcmp(s.p, "HTTP/", 5) != 0 || s.p[6] != '.')
        return HTTP1_BAD;
    if (s.p[5] < '0' || s.p[5] > '9' || s.p[7] < '0' || s.p[7] > '9')
        return HTTP1_BAD;
    if (s.p[5] != '1')
        return HTTP1_VERSION;
    h->minor = s.p[7] != '0';
    return 0;
}

static bool is_scheme(struct http1_str s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i], low = (char)(c | 0x20);
        bool alpha = low >= 'a' && low <= 'z';
        if (!alpha && (i == 0 || !((c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.')))
            return false;
    }
    return s.n > 0;
}

/* Splits the target into path and query, whichever of its four forms it has. */
static int parse_target(struct http1_head *h)
{
    struct http1_str t = h->target, scheme;
    bool found;

    for (size_t i = 0; i < t.n; i++) {
        unsigned char c = (unsigned char)t.p[i];
        if (c <= 0x20 || c == 0x7f)
            return HTTP1_BAD;
    }
    h->path = h->query = (struct http1_str){t.p, 0};
    if (t.n == 0)
        return HTTP1_BAD;
    if (http1_is(t, "*")) {
        h->path = t;
        return 0;
    }
    if (t.p[0] != '/') {
        if (http1_is(h->method, "CONNECT")) /* an authority: names no path */
            return 0;
        scheme = cut(&t, ':', &found);
        if (!found || !is_scheme(scheme) || t.n < 3 || memcmp(t.p, "//", 2) != 0)
            return HTTP1_BAD;
        for (t.p += 2, t.n -= 2; t.n > 0 && *t.p != '/' && *t.p != '?'; t.p++)
            t.n--;
    }
    h->path = cut(&t, '?', &found);
    h->query = t;
    if (h->path.n == 0)
        h->path = (struct http1_str){"/", 1};
    return 0;
}

static int parse_request_line(struct http1_head *h, struct http1_str line)
{
    bool found;
    int rc;

    h->status = 0;
    h->method = cut(&line, ' ', &found);
    if (!found || h->method.n > METHOD_MAX || !is_token(h->method))
        return HTTP1_BAD;
    h->target = cut(&line, ' ', &found);
    if (!found)
        return HTTP1_BAD;
    rc = parse_version(h, line);
    return rc < 0 ? rc : parse_target(h);
}

static int parse_status_line(struct http1_head *h, struct http1_str line)
{
    struct http1_str version, code;
    bool found;
    int rc;

    h->method = h->target = h->path = h->query = (struct http1_str){line.p, 0};
    version = cut(&line, ' ', &found);
    if ((rc = parse_version(h, version)) < 0)
        return rc;
    code = cut(&line, ' ', &found); /* the reason, and the blank before it, may be missing */
    if (code.n != 3 || !is_field_text(line))
        return HTTP1_BAD;
    h->status = 0;
    for (int i = 0; i < 3; i++) {
        if (code.p[i] < '0' || code.p[i] > '9')
            return HTTP1_BAD;
        h->status = h->status * 10 + (code.p[i] - '0');
    }
    return h->status < 100 ? HTTP1_BAD : 0;
}

/* What can be said of a first line that is not whole yet: 0 or HTTP1_BAD. */
static int check_request_start(const char *p, size_t n)
{
    for (size_t i = 0; i < n && p[i] != ' '; i++) {
        if (i == METHOD_MAX || !is_token_char((unsigned char)p[i]))
            return HTTP1_BAD;
    }
    return n > 0 && p[0] == ' ' ? HTTP1_BAD : 0;
}

static int check_response_start(const char *p, size_t n)
{
    return memcmp(p, "HTTP/", n < 5 ? n : 5) == 0 ? 0 : HTTP1_BAD;
}

static int parse(struct http1_head *h, const char *buf, size_t n, bool request)
{
    /* Bytes past the limit are never looked at, so that they cannot change what was said before. */
    const char *end = buf + (n < HTTP1_HEAD_MAX ? n : HTTP1_HEAD_MAX);
    const char *headers;
    struct http1_str line;
    int rc, len;

    if (n == 0)
        return 0;
    rc = request ? check_request_start(buf, (size_t)(end - buf))
                 : check_response_start(buf, (size_t)(end - buf));
    if (rc < 0)
        return rc;
    headers = next_line(buf, end, &line);
    if (!headers)
        return n < HTTP1_HEAD_MAX ? 0 : HTTP1_TOO_LONG;
    rc = request ? parse_request_line(h, line) : parse_status_line(h, line);
    if (rc < 0)
        return rc;
    len = find_end(buf, headers, end);
    if (len <= 0)
        return len < 0 || n < HTTP1_HEAD_MAX ? len : HTTP1_TOO_LONG;
    rc = parse_headers(h, headers, buf + len);
    return rc < 0 ? rc : len;
}

int http1_count(const struct http1_head *h, const char *name)
{
    int n = 0;

    for (int i = 0; i < h->n_headers; i++)
        n += http1_is_nocase(h->headers[i].name, name);
    return n;
}

int http1_parse_request(struct http1_head *h, const char *buf, size_t n)
{
    int rc = parse(h, buf, n, true), hosts;

    if (rc <= 0)
        return rc;
    hosts = http1_count(h, "Host");
    return hosts > 1 || (hosts == 0 && h->minor > 0 && !http1_is(h->method, "CONNECT")) ? HTTP1_BAD : rc;
}

int http1_parse_response(struct http1_head *h, const char *buf, size_t n)
{
    return parse(h, buf, n, false);
}

const struct http1_str *http1_find(const struct http1_head *h, const char *name)
{
    for (int i = 0; i < h->n_headers; i++) {
        if (http1_is_nocase(h->headers[i].name, name))
            return &h->headers[i].value;
    }
    return NULL;
}

bool http1_has_token(const struct http1_head *h, const char *name, const char *token)
{
    for (int i = 0; i < h->n_headers; i++) {
        struct http1_str rest = h->headers[i].value;
        bool more = http1_is_nocase(h->headers[i].name, name);
        while (more) {
            if (http1_is_nocase(trim(cut(&rest, ',', &more)), token))
                return true;
        }
    }
    return false;
}

struct http1_str http1_token(struct http1_str *list)
{
    bool more = false;
    return trim(cut(list, ',', &more));
}

bool http1_is(struct http1_str s, const char *text)
{
    return strlen(text) == s.n && memcmp(s.p, text, s.n) == 0;
}

bool http1_is_nocase(struct http1_str s, const char *text)
{
    return strlen(text) == s.n && strncasecmp(s.p, text, s.n) == 0;
}

/* Digits only, up to BODY_MAX; else -1. */
static long parse_length(struct http1_str s)
{
    long v = 0;

    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return -1;
        v = v * 10 + (s.p[i] - '0');
        if (v > BODY_MAX)
            return -1;
    }
    return s.n > 0 ? v : -1;
}

long http1_content_length(const struct http1_head *h)
{
    long length = 0;
    bool seen = false;

    for (int i = 0; i < h->n_headers; i++) {
        long v;
        if (!http1_is_nocase(h->headers[i].name, "Content-Length"))
            continue;
        v = parse_length(h->headers[i].value);
        if (v < 0 || (seen && v != length))
            return -1;
        length = v;
        seen = true;
    }
    return length;
}
