/* See derper_flags.h.
 *
 * Happy path: arguments are flags until the first that is none, or "--"; a boolean takes a value only after '=', any
 * other flag takes the next argument, whatever it looks like.  A flag given twice: the last one counts.
 * Failure: the sentence that Go's package prints, so that whoever greps for it finds it. */
#include "cli/derper_flags.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct flag {
    const char *name;
    enum derper_type type;
    const char *def;  /* as one would write it; "" where derper works it out */
    const char *what; /* what it does here */
};

#define REFUSED "refused: "

static const struct flag flags[DERPER_FLAGS] = {
    [DERPER_A] = {"a", DERPER_STRING, ":443",
                  "where to serve, \":port\", \"ip:port\" or \"[ip]:port\"; TLS if the port is 443 or "
                  "-certmode is manual"},
    [DERPER_ACCEPT_BURST] = {"accept-connection-burst", DERPER_INT, "9223372036854775807",
                             "how many TLS connections may come at once"},
    [DERPER_ACCEPT_LIMIT] =
        {"accept-connection-limit", DERPER_FLOAT, "+Inf",
         "new TLS connections a second; those above it wait (derper ends itself at the first one)"},
    [DERPER_ACE] = {"ace", DERPER_BOOL, "false", REFUSED "a proxy for Tailscale's own control server"},
    [DERPER_ACME_EAB_KEY] = {"acme-eab-key", DERPER_STRING, "",
                             "ignored with a warning, as -certmode gcp is refused"},
    [DERPER_ACME_EAB_KID] = {"acme-eab-kid", DERPER_STRING, "",
                             "ignored with a warning, as -certmode gcp is refused"},
    [DERPER_ACME_EMAIL] = {"acme-email", DERPER_STRING, "",
                           "address given to the certificate authority, with -certmode letsencrypt"},
    [DERPER_ACME_IP_CERTS] = {"acme-ip-certs", DERPER_BOOL, "false",
                              REFUSED
                              "with -certmode manual an IP address gets a certificate by itself, and the log "
                              "prints the CertName for the derpMap"},
    [DERPER_BOOTSTRAP_DNS] = {"bootstrap-dns-names", DERPER_STRING, "",
                              "host names at /bootstrap-dns, comma-separated; looked up every 10 minutes"},
    [DERPER_C] = {"c", DERPER_STRING, "",
                  "key file, made if absent; for root /var/lib/derper/derper.key if not given"},
    [DERPER_CERTDIR] = {"certdir", DERPER_STRING, "",
                        "directory of HOSTNAME.crt and HOSTNAME.key, or of certbot's live/HOSTNAME/"},
    [DERPER_CERTMODE] = {"certmode", DERPER_STRING, "letsencrypt",
                         "manual; letsencrypt: the program uacme gets and renews it, and is asked for on "
                         "-http-port 80; gcp is "
                         "refused"},
    [DERPER_DERP] = {"derp", DERPER_BOOL, "true", "whether to serve DERP; without it /derp is 404"},
    [DERPER_DEV] = {"dev", DERPER_BOOL, "false", "on :3340 whatever -a says, with a key that is thrown away"},
    [DERPER_HOME] = {"home", DERPER_STRING, "",
                     "the page at /: empty for the usual one, \"blank\", or a URL to go to"},
    [DERPER_HOSTNAME] = {"hostname", DERPER_STRING, "derp.tailscale.com",
                         "name of the certificate; an IP address with -certmode manual gets one made for it"},
    [DERPER_HTTP_PORT] =
        {"http-port", DERPER_INT, "80",
         "plain HTTP beside TLS, at the address of -a: captive portal checks, redirects; -1 for none"},
    [DERPER_MESH_PSK_FILE] = {"mesh-psk-file", DERPER_STRING, "",
                              "the key that meshed derpers share: who shows it may watch and forward here"},
    [DERPER_MESH_WITH] = {"mesh-with", DERPER_STRING, "",
                          "derpers of the region to mesh with, host[:port][/dialhost], comma-separated; they "
                          "dial this one too"},
    [DERPER_RATE_CONFIG] = {"rate-config", DERPER_STRING, "",
                            "file of {\"PerClientRateLimitBytesPerSec\": N, \"PerClientRateBurstBytes\": N}; "
                            "read again at SIGHUP"},
    [DERPER_SECRETS_CACHE_DIR] = {"secrets-cache-dir", DERPER_STRING, "",
                                  "ignored, as -secrets-url is refused"},
    [DERPER_SECRETS_PREFIX] = {"secrets-path-prefix", DERPER_STRING, "prod/derp",
                               "ignored, as -secrets-url is refused"},
    [DERPER_SECRETS_URL] = {"secrets-url", DERPER_STRING, "",
                            REFUSED "put keys into files: derpmesh serve --mesh-key-file"},
    [DERPER_SOCKET] =
        {"socket", DERPER_STRING, "",
         "tailscaled's socket for -verify-clients; /var/run/tailscale/tailscaled.sock if not given"},
    [DERPER_STUN] = {"stun", DERPER_BOOL, "true", "whether to answer STUN"},
    [DERPER_STUN_PORT] = {"stun-port", DERPER_INT, "3478", "UDP port of STUN, at the address of -a"},
    [DERPER_TCP_KEEPALIVE] = {"tcp-keepalive-time", DERPER_DURATION, "10m0s",
                              "idle time until TCP asks; below 0 never"},
    [DERPER_TCP_USER_TIMEOUT] = {"tcp-user-timeout", DERPER_DURATION, "15s",
                                 "how long sent data may stay unacknowledged"},
    [DERPER_TCP_WRITE_TIMEOUT] =
        {"tcp-write-timeout", DERPER_DURATION, "2s",
         "ignored with a warning: a client that takes nothing is closed after 2 s if much "
         "waits for it, else after 10 s"},
    [DERPER_UNPUBLISHED_DNS] =
        {"unpublished-bootstrap-dns-names", DERPER_STRING, "",
         "host names at /bootstrap-dns?q=NAME only; NAME/TXT, a share of clients by a TXT "
         "record, is refused"},
    [DERPER_VERIFY_URL] =
        {"verify-client-url", DERPER_STRING, "",
         "service that is asked about each client; admission.md tells how, and what an outage does"},
    [DERPER_VERIFY_URL_FAIL_OPEN] = {"verify-client-url-fail-open", DERPER_BOOL, "true",
                                     "whether anyone is admitted while that service does not answer; a "
                                     "warning tells that false is safer"},
    [DERPER_VERIFY_CLIENTS] = {"verify-clients", DERPER_BOOL, "false",
                               "whether only nodes that the tailscaled on this machine knows are admitted"},
    [DERPER_VERSION] = {"version", DERPER_BOOL, "false", "prints the version"},
};

const char *derper_flag_name(enum derper_flag which)
{
    return flags[which].name;
}

/* ---- values ---- */

bool derper_bool(const char *text, bool *out)
{
    static const char *const words[] = {"0",     "1",    "f",     "t",    "F",     "T",
                                        "false", "true", "False", "True", "FALSE", "TRUE"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcmp(text, words[i]) == 0) {
            *out = i & 1;
            return true;
        }
    return false;
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
}

/* strconv.ParseInt(s, 0, 64): a sign; 0x, 0o, 0b, or a plain 0 for octal; single underscores between digits or after a
 * prefix. */
bool derper_int(const char *text, int64_t *out)
{
    bool minus = *text == '-', last_digit = false;
    uint64_t base = 10, v = 0, limit = (uint64_t)INT64_MAX + minus;
    const char *s = text + (*text == '-' || *text == '+');

    if (*s == '0') {
        int c = s[1] | 0x20;
        base = c == 'x' ? 16 : c == 'b' ? 2 : 8;
        last_digit = true; /* the prefix counts as one */
        if (c == 'x' || c == 'b' || c == 'o')
            s += 2;
        else if (s[1] == 0)
            base = 10;
        else
            s++;
    }
    if (*s == 0)
        return false;
    for (; *s; s++) {
        if (*s == '_') {
            if (!last_digit)
                return false;
            last_digit = false;
            continue;
        }
        uint64_t d = (uint64_t)digit(*s);
        if (d >= base || v > (limit - d) / base)
            return false;
        v = v * base + d;
        last_digit = true;
    }
    *out = minus ? (int64_t)(0 - v) : (int64_t)v;
    return last_digit;
}

/* strconv.ParseFloat; of hexadecimal and underscores only what strtod takes too. */
bool derper_float(const char *text, double *out)
{
    char *end;

    if (*text == 0 || *text == ' ' || (*text >= '\t' && *text <= '\r') || strchr(text, '('))
        return false;
    errno = 0;
    *out = strtod(text, &end);
    return *end == 0 && !(errno == ERANGE && isinf(*out));
}

/* A number with an optional fraction, in units of scale nanoseconds, added to *sum.  NULL if there is none, or too much. */
static const char *duration_part(const char *s, uint64_t *sum)
{
    static const struct {
        const char *unit;
        uint64_t ns;
    } units[] = {{"ns", 1},       {"us", 1000},      {"\xc2\xb5s", 1000}, {"\xce\xbcs", 1000},
                 {"ms", 1000000}, {"s", 1000000000}, {"m", 60000000000},  {"h", 3600000000000}};
    uint64_t whole = 0;
    double fraction = 0, place = 0.1;
    const char *start = s;
    int n_digits = 0;

    for (; *s >= '0' && *s <= '9'; s++, n_digits++) {
        if (whole > ((uint64_t)INT64_MAX - 9) / 10)
            return NULL;
        whole = whole * 10 + (uint64_t)(*s - '0');
    }
    if (*s == '.')
        for (s++; *s >= '0' && *s <= '9'; s++, n_digits++, place /= 10)
            fraction += (*s - '0') * place;
    if (n_digits == 0 || s == start)
        return NULL;
    size_t len = strcspn(s, ".0123456789");
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strlen(units[i].unit) != len || memcmp(s, units[i].unit, len) != 0)
            continue;
        if (whole > (uint64_t)INT64_MAX / units[i].ns)
            return NULL;
        uint64_t add = whole * units[i].ns + (uint64_t)(fraction * (double)units[i].ns + 1e-6);
        if (add > (uint64_t)INT64_MAX - *sum)
            return NULL;
        *sum += add;
        return s + len;
    }
    return NULL;
}

/* time.ParseDuration: "300ms", "-1.5h", "2h45m"; "0". */
bool derper_duration(const char *text, int64_t *ns)
{
    bool minus = *text == '-';
    const char *s = text + (*text == '-' || *text == '+');
    uint64_t sum = 0;

    *ns = 0;
    if (strcmp(s, "0") == 0)
        return true;
    if (*s == 0)
        return false;
    while (s && *s)
        s = duration_part(s, &sum);
    *ns = minus ? -(int64_t)sum : (int64_t)sum;
    return s != NULL;
}

static bool value_set(struct derper_value *v, enum derper_type type, const char *text)
{
    switch (type) {
    case DERPER_BOOL:
        return derper_bool(text, &v->on);
    case DERPER_INT:
        return derper_int(text, &v->number);
    case DERPER_FLOAT:
        return derper_float(text, &v->real);
    case DERPER_DURATION:
        return derper_duration(text, &v->number);
    default:
        v->text = text;
        return true;
    }
}

/* ---- the line ---- */

static int flag_find(const char *name, size_t n)
{
    for (int i = 0; i < DERPER_FLAGS; i++)
        if (strlen(flags[i].name) == n && memcmp(flags[i].name, name, n) == 0)
            return i;
    return -1;
}

/* The flag at argv[*at], which begins with a dash and is not "--" alone; *at moves behind it and its value. */
static enum derper_parsed flag_read(struct derper_flags *f, int argc, char **argv, int *at, char *err,
                                    size_t err_len)
{
    const char *arg = argv[*at], *name = arg + 1 + (arg[1] == '-');
    const char *equals = *name && *name != '=' ? strchr(name, '=') : NULL;
    size_t n = equals ? (size_t)(equals - name) : strlen(name);

    if (n == 0 || *name == '-' || *name == '=') {
        snprintf(err, err_len, "bad flag syntax: %s", arg);
        return DERPER_REFUSED;
    }
    *at += 1;
    int i = flag_find(name, n);
    if (i < 0 && ((n == 1 && *name == 'h') || (n == 4 && memcmp(name, "help", n) == 0)))
        return DERPER_HELP;
    if (i < 0) {
        snprintf(err, err_len, "flag provided but not defined: -%.*s", (int)n, name);
        return DERPER_REFUSED;
    }
    bool boolean = flags[i].type == DERPER_BOOL;
    const char *value = equals ? equals + 1 : boolean ? "true" : *at < argc ? argv[(*at)++] : NULL;
    if (!value)
        snprintf(err, err_len, "flag needs an argument: -%s", flags[i].name);
    else if (value_set(&f->v[i], flags[i].type, value))
        f->v[i].set = true;
    else
        snprintf(err, err_len,
                 boolean ? "invalid boolean value \"%s\" for -%s: parse error"
                         : "invalid value \"%s\" for flag -%s: parse error",
                 value, flags[i].name);
    return err[0] ? DERPER_REFUSED : DERPER_OK;
}

enum derper_parsed derper_flags_parse(struct derper_flags *f, int argc, char **argv, char *err,
                                      size_t err_len)
{
    int at = 1;

    err[0] = 0;
    memset(f, 0, sizeof(*f));
    for (int i = 0; i < DERPER_FLAGS; i++)
        value_set(&f->v[i], flags[i].type, flags[i].def);
    while (at < argc && argv[at][0] == '-' && argv[at][1]) {
        if (strcmp(argv[at], "--") == 0) {
            at++;
            break;
        }
        enum derper_parsed rc = flag_read(f, argc, argv, &at, err, err_len);
        if (rc != DERPER_OK)
            return rc;
    }
    f->rest = at;
    return DERPER_OK;
}

void derper_flags_help(FILE *to, const char *program)
{
    static const char *const types[] = {"", " string", " int", " float", " duration"};

    fprintf(to, "Usage of %s:\n", program);
    for (int i = 0; i < DERPER_FLAGS; i++) {
        const struct flag *f = &flags[i];
        bool zero = *f->def == 0 || strcmp(f->def, "false") == 0;
        fprintf(to, "  -%s%s\n    \t%s", f->name, types[f->type], f->what);
        if (!zero)
            fprintf(to, f->type == DERPER_STRING ? " (default \"%s\")" : " (default %s)", f->def);
        fputc('\n', to);
    }
}
