/* Log lines: one event, one line, one write(2) to standard error.
 *
 * Happy path: log_line formats the message into a buffer on the stack, makes every byte of it printable, puts level,
 * area and (outside systemd) the time in front, or takes the key=value pairs apart for JSON, and writes it.
 * How it fails: a message that is too long is cut with "…"; a line that cannot be written is lost, silently, since
 * there is nowhere left to say so.  errno is as before.
 *
 * The one mutable global of the program is here: level and form, read by every thread on every line and set at the
 * start and at reload.  Handing a context to each of hundreds of call sites would buy nothing: a process has one
 * standard error. */
#include "node/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    /* Pipes keep writes up to PIPE_BUF (4096) whole.  JSON doubles a quote at worst, adds at most 7 bytes a pair and
     * less than 200 in front, so this message always fits. */
    MESSAGE_MAX = 1700,
    LINE_MAX_LEN = 4096,
    PAIRS_MAX = 32,
};

/* level | format << 2 | under systemd << 3; LOG_INFO and LOG_TEXT until log_setup. */
static atomic_uint log_state = LOG_INFO;

void log_setup(enum log_level level, enum log_format format)
{
    unsigned journal = getenv("JOURNAL_STREAM") != NULL; /* the journal has the time already */

    atomic_store_explicit(&log_state, (unsigned)level | (unsigned)format << 2 | journal << 3,
                          memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
    return (unsigned)level >= (atomic_load_explicit(&log_state, memory_order_relaxed) & 3);
}

/* Bytes of the printable UTF-8 character at s, 0 if there is none: controls (C0, DEL, C1) and broken sequences, which
 * could fool a terminal or end a line. */
static size_t printable(const unsigned char *s, size_t n)
{
    unsigned c = s[0];

    if (c < 0x80)
        return c >= 0x20 && c != 0x7f;
    size_t len = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
    if (c < 0xc2 || c > 0xf4 || len > n)
        return 0;
    unsigned code = c & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (s[i] & 0x3fu);
    }
    bool overlong = code < (len == 2 ? 0x80u : len == 3 ? 0x800u : 0x10000u);
    bool control = code < 0xa0 || code == 0x2028 || code == 0x2029;
    return overlong || control || (code >= 0xd800 && code < 0xe000) || code > 0x10ffff ? 0 : len;
}

/* ---- log_quote ---- */

/* One character of s as it stands between quotes into unit; returns how many bytes of s it took. */
static size_t quote_unit(char unit[static 8], const char *s, size_t n)
{
    size_t len = printable((const unsigned char *)s, n);
    static const char from[] = "\"\\\n\r\t", to[] = "\"\\nrt";
    const char *esc = *s ? strchr(from, *s) : NULL;

    if (esc) {
        snprintf(unit, 8, "\\%c", to[esc - from]);
        return 1;
    }
    if (len == 0) {
        snprintf(unit, 8, "\\x%02x", (unsigned char)*s);
        return 1;
    }
    memcpy(unit, s, len);
    unit[len] = 0;
    return len;
}

static bool needs_quotes(const char *s, size_t n)
{
    if (n == 0)
        return true;
    for (size_t i = 0; i < n;) {
        size_t len = printable((const unsigned char *)s + i, n - i);
        if (len == 0 || strchr(" =\"\\", s[i]))
            return true;
        i += len;
    }
    return false;
}

const char *log_quote(char *buf, size_t buf_len, const char *s, size_t n)
{
    bool quotes = needs_quotes(s, n);
    size_t at = 0, room = quotes ? 2 : 1; /* the closing quote and NUL */
    char unit[8];

    if (buf_len < 8) { /* no room for a quoted anything */
        if (buf_len)
            buf[0] = 0;
        return buf;
    }
    if (quotes)
        buf[at++] = '"';
    for (size_t i = 0; i < n;) {
        i += quote_unit(unit, s + i, n - i);
        size_t len = strlen(unit), dots = i < n ? strlen("…") : 0;
        if (at + len + dots + room > buf_len) {
            at += (size_t)sprintf(buf + at, "…"); /* the last unit left room for it */
            break;
        }
        memcpy(buf + at, unit, len);
        at += len;
    }
    if (quotes)
        buf[at++] = '"';
    buf[at] = 0;
    return buf;
}

/* ---- a line ---- */

struct line {
    char text[LINE_MAX_LEN];
    size_t n;
};

static void line_add(struct line *l, const char *s, size_t n)
{
    size_t room = sizeof(l->text) - 1 - l->n; /* the newline has its place */

    memcpy(l->text + l->n, s, n < room ? n : room);
    l->n += n < room ? n : room;
}

static void line_str(struct line *l, const char *s)
{
    line_add(l, s, strlen(s));
}

/* s between quotes as JSON.  Everything in it is printable already. */
static void line_json(struct line *l, const char *s, size_t n)
{
    line_str(l, "\"");
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '"' || s[i] == '\\')
            line_str(l, "\\");
        line_add(l, s + i, 1);
    }
    line_str(l, "\"");
}

/* The same for a value that log_quote put between quotes.  Its escapes are JSON's, but for \xNN, which stays as text. */
static void line_json_quoted(struct line *l, const char *s, size_t n)
{
    line_str(l, "\"");
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '"')
            line_str(l, "\\");
        if (s[i] != '\\') {
            line_add(l, s + i, 1);
        } else if (i + 1 < n && strchr("\"\\nrt", s[i + 1])) {
            line_add(l, s + i++, 2);
        } else {
            line_str(l, "\\\\");
        }
    }
    line_str(l, "\"");
}

static void line_time(struct line *l)
{
    struct timespec ts;
    struct tm tm;
    char text[40];

    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    size_t n = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + n, sizeof(text) - n, ".%03ldZ", ts.tv_nsec / 1000000);
    line_str(l, text);
}

/* A word of the message: up to the next blank outside of quotes; as a pair if it is name=value. */
struct word {
    const char *s;
    size_t n, name; /* name: length of the name, 0 if the word is no pair */
};

static size_t word_next(struct word *w, const char *s, size_t n)
{
    size_t i = 0;

    w->s = s;
    w->name = 0;
    while (i < n && (strchr("_-.", s[i]) || (s[i] >= '0' && s[i] <= '9') ||
                     ((s[i] | 32) >= 'a' && (s[i] | 32) <= 'z')))
        i++;
    if (i > 0 && i < n && s[i] == '=') {
        w->name = i++;
        if (i < n && s[i] == '"') {
            for (i++; i < n && s[i] != '"'; i++)
                i += s[i] == '\\' && i + 1 < n;
            i += i < n;
        }
    }
    while (i < n && s[i] != ' ')
        i++;
    w->n = i;
    return i;
}

/* Names that stand in front, or came before, stay words of the message: no member comes twice. */
static bool name_taken(const struct word *w, const struct word *pairs, size_t n_pairs)
{
    static const char *const ours[] = {"time", "level", "area", "msg"};

    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
        if (w->name == strlen(ours[i]) && memcmp(w->s, ours[i], w->name) == 0)
            return true;
    for (size_t i = 0; i < n_pairs; i++)
        if (w->name == pairs[i].name && memcmp(w->s, pairs[i].s, w->name) == 0)
            return true;
    return false;
}

/* msg holds the words that are no pairs; the pairs follow as members. */
static void line_members(struct line *l, const char *message, size_t n)
{
    struct word pairs[PAIRS_MAX], w;
    char text[MESSAGE_MAX + 8];
    size_t n_pairs = 0, n_text = 0;

    for (size_t at = 0; at < n; at++) {
        at += word_next(&w, message + at, n - at);
        if (w.name && n_pairs < PAIRS_MAX && !name_taken(&w, pairs, n_pairs)) {
            pairs[n_pairs++] = w;
            continue;
        }
        if (n_text)
            text[n_text++] = ' ';
        memcpy(text + n_text, w.s, w.n);
        n_text += w.n;
    }
    line_str(l, ",\"msg\":");
    line_json(l, text, n_text);
    for (size_t i = 0; i < n_pairs; i++) {
        const char *value = pairs[i].s + pairs[i].name + 1;
        size_t len = pairs[i].n - pairs[i].name - 1;
        line_str(l, ",");
        line_json(l, pairs[i].s, pairs[i].name);
        line_str(l, ":");
        if (len >= 2 && value[0] == '"' && value[len - 1] == '"')
            line_json_quoted(l, value + 1, len - 2);
        else
            line_json(l, value, len);
    }
}

/* Formats into out[MESSAGE_MAX + 8]: every byte printable, what is too long cut at a character. */
static size_t message_format(char *out, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
static size_t message_format(char *out, const char *fmt, va_list ap)
{
    int want = vsnprintf(out, MESSAGE_MAX + 2, fmt, ap);
    size_t n = want < 0 ? 0 : want > MESSAGE_MAX ? MESSAGE_MAX : (size_t)want;

    if (want > MESSAGE_MAX) {
        while (n > 0 && ((unsigned char)out[n] & 0xc0) == 0x80) /* out[n] is the first byte left out */
            n--;
        memcpy(out + n, "…", strlen("…"));
        n += strlen("…");
    }
    for (size_t i = 0, len; i < n; i += len) {
        len = printable((unsigned char *)out + i, n - i);
        if (len == 0) {
            out[i] = '?';
            len = 1;
        }
    }
    return n;
}

void log_line(enum log_level level, const char *area, const char *fmt, ...)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    unsigned state = atomic_load_explicit(&log_state, memory_order_relaxed);
    int saved = errno;
    char message[MESSAGE_MAX + 8];
    struct line l;
    va_list ap;

    if ((unsigned)level < (state & 3) || level > LOG_ERROR)
        return;
    va_start(ap, fmt);
    size_t n = message_format(message, fmt, ap);
    va_end(ap);
    l.n = 0;
    if (state >> 2 & 1) {
        line_str(&l, "{\"time\":\"");
        line_time(&l);
        line_str(&l, "\",\"level\":\"");
        line_str(&l, names[level]);
        line_str(&l, "\",\"area\":\"");
        line_str(&l, area);
        line_str(&l, "\"");
        line_members(&l, message, n);
        line_str(&l, "}");
    } else {
        if (!(state >> 3 & 1)) {
            line_time(&l);
            line_str(&l, " ");
        }
        line_str(&l, names[level]);
        line_str(&l, " ");
        line_str(&l, area);
        line_str(&l, " ");
        line_add(&l, message, n);
    }
    l.text[l.n++] = '\n';
    while (write(STDERR_FILENO, l.text, l.n) < 0 && errno == EINTR)
        ;
    errno = saved;
}

/* ---- limits ---- */

bool log_limit_pass(struct log_limit *l, uint64_t interval_ms, uint64_t *held)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    uint64_t now = (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000 + 1; /* 0 is "never" */
    uint64_t last = atomic_load(&l->last_ms);
    *held = 0;
    /* The compare decides which of several threads writes the line. */
    if ((last && now - last < interval_ms && now >= last) ||
        !atomic_compare_exchange_strong(&l->last_ms, &last, now)) {
        atomic_fetch_add(&l->held, 1);
        return false;
    }
    *held = atomic_exchange(&l->held, 0);
    return true;
}
