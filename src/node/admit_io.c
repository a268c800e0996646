/* Admission on the control thread: the engine's I/O, its settings, what it tells people.
 *
 * Happy path: a worker's IN_ADMIT_ASK goes to the engine; the engine asks allow file, verify URL and tailscaled through
 * here; its answers leave as IN_ADMIT_ANSWER.  A new allow file, or new settings, reach it here too.
 * Failure: an outage of a source, or an allow file that is no good, is one log line, and a problem in the status until
 * it is over; what was known goes on. */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/allow_watch.h"
#include "node/control.h"
#include "node/log.h"
#include "node/verify_socket.h"
#include "node/verify_url.h"

enum {
    TICK_MS = 500,
    SEEN_KEYS = 1024,     /* refused keys that were logged of late */
    SEEN_MS = 600000,     /* … and are not logged again for so long */
    LINES_MAX = 20,       /* refusals logged at once */
    LINE_EVERY_MS = 5000, /* … and one more in so long */
    SAID_LEN = 2 * ADMIT_DETAIL
};

struct seen_key {
    struct derp_key key;
    uint64_t at;
};

struct admit_io {
    struct control *control;
    struct admission *engine;
    struct allow_set *allow;
    struct allow_watch watch;
    struct verify_url *url;
    struct verify_socket socket;
    uv_timer_t tick;
    struct admit_policy policy;
    char *url_set, *socket_set, *allow_set; /* what is in force; NULL: off */
    char allow_err[ALLOW_ERROR];            /* why the file that stands there is not taken; "" */
    struct seen_key seen[SEEN_KEYS];
    uint64_t lines_left, line_at, held;
};

/* ---- log ---- */

/* Whether a refusal of this key is to be logged now; counts it if not. */
static bool may_log(struct admit_io *io, const struct derp_key *key, uint64_t now)
{
    struct seen_key *s = &io->seen[(key->b[0] | (unsigned)key->b[1] << 8) % SEEN_KEYS];
    if (key_equal(&s->key, key) && s->at && now - s->at < SEEN_MS)
        return false;
    uint64_t more = (now - io->line_at) / LINE_EVERY_MS;
    if (more) {
        io->lines_left = io->lines_left + more < LINES_MAX ? io->lines_left + more : LINES_MAX;
        io->line_at += more * LINE_EVERY_MS;
    }
    if (!io->lines_left) {
        io->held++;
        return false;
    }
    io->lines_left--;
    *s = (struct seen_key){*key, now};
    return true;
}

/* Why, and what a person can do about it. */
static void explain(const struct admit_io *io, const struct derp_key *key, enum admit_outcome why,
                    char *reason, char *fix, size_t len)
{
    char text[KEY_TEXT_MAX], url[VERIFY_URL_SHOWN] = "";
    struct admit_source_state u, s;
    const struct config *c = io->control->site->config;
    key_public_text(text, key);
    if (c->verify_url)
        verify_url_shown(url, c->verify_url);
    admission_source(io->engine, ADMIT_URL, &u);
    admission_source(io->engine, ADMIT_SOCKET, &s);
    switch (why) {
    case REFUSED_ALLOW:
        snprintf(reason, len, "not in %s", c->allow ? c->allow : "the allow file");
        snprintf(fix, len, "add this line to %s: %s", c->allow ? c->allow : "the allow file", text);
        break;
    case REFUSED_URL:
        snprintf(reason, len, "%s does not know it", url);
        snprintf(fix, len, "add the machine to the network that %s speaks for", url);
        break;
    case REFUSED_SOCKET:
        snprintf(reason, len, "this machine's tailscaled does not know it");
        snprintf(fix, len, "it must see that machine: check its login and the ACL");
        break;
    default:
        snprintf(reason, len, "%s", u.out_since ? u.detail : s.out_since ? s.detail : "too many logins");
        snprintf(fix, len, "make %s answer", u.out_since ? url : s.out_since ? c->verify_socket : "it");
        break;
    }
}

static void log_refused(struct admit_io *io, const struct derp_key *key, const struct conn_addr *from,
                        enum admit_outcome why, const char *what)
{
    char text[KEY_TEXT_MAX], addr[CONN_ADDR_TEXT], reason[SAID_LEN], fix[SAID_LEN];
    char quoted[SAID_LEN], quoted_fix[SAID_LEN], held[48] = "";
    if (!log_enabled(LOG_WARN) || !may_log(io, key, control_now()))
        return;
    explain(io, key, why, reason, fix, sizeof(reason));
    if (io->held)
        snprintf(held, sizeof(held), " held=%llu", (unsigned long long)io->held);
    io->held = 0;
    key_public_text(text, key);
    log_warn("admit", "%s key=%s%s%s reason=%s fix=%s%s", what, text, from ? " from=" : "",
             from ? conn_addr_text(addr, from) : "",
             log_quote(quoted, sizeof(quoted), reason, strlen(reason)),
             log_quote(quoted_fix, sizeof(quoted_fix), fix, strlen(fix)), held);
}

static const char *source_name(const struct admit_io *io, enum admit_source s,
                               char buf[static VERIFY_URL_SHOWN])
{
    if (s == ADMIT_URL)
        return verify_url_shown(buf, io->url_set ? io->url_set : "");
    snprintf(buf, VERIFY_URL_SHOWN, "%s", io->socket_set ? io->socket_set : "");
    return buf;
}

/* ---- what the engine asks and says ---- */

static bool is_allowed(void *ctx, const struct derp_key *key)
{
    struct admit_io *io = ctx;
    return io->allow && allow_has(io->allow, key);
}

static int ask(void *ctx, enum admit_source s, uint64_t question, const struct derp_key *key,
               const struct conn_addr *from)
{
    struct admit_io *io = ctx;
    return s == ADMIT_URL ? verify_url_ask(io->url, question, key, from)
                          : verify_socket_ask(&io->socket, question, key);
}

static enum stat_id stat_of(enum admit_outcome o)
{
    static const enum stat_id ids[] = {[REFUSED_ALLOW] = STAT_REFUSED_ALLOW,
                                       [REFUSED_URL] = STAT_REFUSED_URL,
                                       [REFUSED_SOCKET] = STAT_REFUSED_SOCKET,
                                       [REFUSED_OUTAGE] = STAT_REFUSED_OUTAGE};
    return ids[o];
}

static void tell(struct admit_io *io, const struct derp_key *key, const struct conn_ref *ref, bool yes,
                 enum stat_id why)
{
    control_tell(
        io->control, ref->worker,
        &(struct inbox_msg){.type = IN_ADMIT_ANSWER, .key = *key, .ref = *ref, .flag = yes, .number = why});
}

static void answer(void *ctx, const struct derp_key *key, const struct conn_ref *ref,
                   const struct conn_addr *from, enum admit_outcome outcome)
{
    struct admit_io *io = ctx;
    tell(io, key, ref, outcome == ADMITTED, outcome == ADMITTED ? STAT_LOGINS : stat_of(outcome));
    if (outcome != ADMITTED)
        log_refused(io, key, from, outcome, "refused");
}

struct closing {
    struct admit_io *io;
    const struct derp_key *key;
};

static void close_one(void *ctx, const struct conn_ref *ref)
{
    const struct closing *c = ctx;
    tell(c->io, c->key, ref, false, STAT_CLOSED_UNWELCOME);
}

static void close_key(void *ctx, const struct derp_key *key, enum admit_outcome why)
{
    struct admit_io *io = ctx;
    struct closing c = {io, key};
    log_refused(io, key, NULL, why, "closed, no longer welcome");
    clients_each(io->control->clients, key, close_one, &c);
}

static const struct admission_ops engine_ops = {
    .allowed = is_allowed, .ask = ask, .answer = answer, .close = close_key};

/* ---- what the sources say ---- */

static void heard(struct admit_io *io, enum admit_source s, uint64_t question, const struct derp_key *key,
                  enum admit_verdict v, const char *detail)
{
    struct admit_source_state before, after;
    char name[VERIFY_URL_SHOWN], quoted[SAID_LEN];
    uint64_t now = control_now();
    admission_source(io->engine, s, &before);
    admission_heard(io->engine, s, question, key, v, detail, now);
    admission_source(io->engine, s, &after);
    source_name(io, s, name);
    if (!before.out_since && after.out_since)
        log_warn("admit", "no usable answer from=%s reason=%s: %s", name,
                 log_quote(quoted, sizeof(quoted), after.detail, strlen(after.detail)),
                 io->policy.fail_open && v == ADMIT_UNREACHED
                     ? "clients are admitted without it (verify_fail_open)"
                     : "who is not known yet is refused");
    else if (before.out_since && !after.out_since)
        log_info("admit", "answers again from=%s after_s=%llu", name,
                 (unsigned long long)(now - before.out_since) / 1000);
}

static void on_url(void *ctx, uint64_t question, const struct derp_key *key, enum admit_verdict v,
                   const char *detail)
{
    heard(ctx, ADMIT_URL, question, key, v, detail);
}

static void on_socket(void *ctx, uint64_t question, const struct derp_key *key, enum admit_verdict v,
                      const char *detail)
{
    heard(ctx, ADMIT_SOCKET, question, key, v, detail);
}

static void on_allow(void *ctx, struct allow_set *set)
{
    struct admit_io *io = ctx;
    log_info("admit", "allow file loaded file=%s keys=%zu before=%zu", io->allow_set, allow_count(set),
             io->allow ? allow_count(io->allow) : 0);
    allow_unref(io->allow);
    io->allow = set;
    io->allow_err[0] = 0;
    admission_allow_changed(io->engine, control_now());
}

static void on_allow_bad(void *ctx, const char *err)
{
    struct admit_io *io = ctx;
    snprintf(io->allow_err, sizeof(io->allow_err), "%s", err ? err : "");
    if (err)
        log_error("admit", "the allow file is not taken, the %zu keys of before stay: %s",
                  io->allow ? allow_count(io->allow) : 0, err);
    else
        log_info("admit", "the allow file is again the one that is in use");
}

static void on_tick(uv_timer_t *timer)
{
    struct admit_io *io = timer->data;
    admission_tick(io->engine, control_now());
}

/* ---- settings ---- */

static void keep_text(char **at, const char *text)
{
    free(*at);
    *at = text ? strdup(text) : NULL; /* without memory it counts as changed next time */
}

void control_admit_site(struct control *c)
{
    struct admit_io *io = c->admit;
    const struct config *cfg = c->site->config;
    struct admit_policy p = {.on = {cfg->allow != NULL, cfg->verify_url != NULL, cfg->verify_socket != NULL},
                             .any = cfg->admit == ADMIT_BY_ANY,
                             .fail_open = cfg->verify_fail_open};
    static const struct allow_mark none;
    bool was_on = io->policy.on[ADMIT_ALLOW] || io->policy.on[ADMIT_URL] || io->policy.on[ADMIT_SOCKET];
    bool afresh = !config_same_text(io->url_set, cfg->verify_url) ||
                  !config_same_text(io->socket_set, cfg->verify_socket);
    allow_unref(io->allow);
    io->allow = allow_ref(c->site->allow);
    io->allow_err[0] = 0;
    io->policy = p;
    if ((afresh && (verify_url_set(io->url, cfg->verify_url) != 0 ||
                    verify_socket_set(&io->socket, cfg->verify_socket) != 0)) ||
        allow_watch_file(&io->watch, cfg->allow, io->allow ? allow_mark(io->allow) : &none) != 0)
        log_error("admit", "out of memory: admission is not as the settings say; reload again");
    keep_text(&io->url_set, cfg->verify_url);
    keep_text(&io->socket_set, cfg->verify_socket);
    keep_text(&io->allow_set, cfg->allow);
    uint64_t now = control_now();
    admission_set_policy(io->engine, &p, afresh, now);
    if (!config_admission(cfg)) {
        uv_timer_stop(&io->tick);
        return;
    }
    uv_timer_start(&io->tick, on_tick, TICK_MS, TICK_MS);
    const struct derp_key *key;
    struct clients_info info;
    for (size_t i = 0; !was_on && (key = clients_key(c->clients, i)) != NULL; i++)
        if (clients_get(c->clients, key, &info))
            admission_present(io->engine, key, info.connections, NULL, now);
    admission_allow_changed(io->engine, now);
}

void control_admit_message(struct control *c, const struct inbox_msg *m)
{
    struct clients_info info = {.connections = 0};
    if (m->type == IN_ADMIT_ASK) {
        admission_ask(c->admit->engine, &m->key, &m->ref, &m->addr, control_now());
        return;
    }
    clients_get(c->clients, &m->key, &info);
    admission_present(c->admit->engine, &m->key, info.connections, &m->addr, control_now());
}

void control_admit_guest(struct control *c, const struct derp_key *key)
{
    admission_guest(c->admit->engine, key, control_now());
}

/* ---- what a person asks ---- */

static void source_info(const struct admit_io *io, enum admit_source s, struct control_admit_source *out)
{
    struct admit_source_state st;
    *out = (struct control_admit_source){.on = io->policy.on[s]};
    if (!out->on)
        return;
    admission_source(io->engine, s, &st);
    source_name(io, s, out->name);
    out->out = st.out_since != 0;
    out->out_s = st.out_since ? (control_now() - st.out_since) / 1000 : 0;
    out->error = st.detail;
}

void control_admission(const struct control *c, struct control_admission *out)
{
    const struct admit_io *io = c->admit;
    *out = (struct control_admission){.any = io->policy.any, .fail_open = io->policy.fail_open};
    admission_counts(io->engine, &out->counts);
    source_info(io, ADMIT_URL, &out->url);
    source_info(io, ADMIT_SOCKET, &out->socket);
    out->on = config_admission(c->site->config);
    if (!io->allow)
        return;
    out->allow_file = io->allow_set;
    out->allow_keys = allow_count(io->allow);
    out->allow_loaded = allow_loaded(io->allow);
    out->allow_error = io->allow_err;
}

/* ---- life ---- */

int control_admit_init(struct control *c, uint64_t seed)
{
    struct admit_io *io = calloc(1, sizeof(*io));
    if (!io)
        return UV_ENOMEM;
    io->control = c;
    io->lines_left = LINES_MAX;
    io->line_at = control_now();
    io->watch = (struct allow_watch){.loop = c->loop, .loaded = on_allow, .failed = on_allow_bad, .ctx = io};
    io->socket = (struct verify_socket){.loop = c->loop, .heard = on_socket, .ctx = io};
    io->engine = admission_new(&engine_ops, io, seed);
    io->url = io->engine ? verify_url_new(c->loop, on_url, io) : NULL;
    int rc = io->url ? allow_watch_init(&io->watch) : UV_ENOMEM;
    if (rc != 0) {
        /* the process ends now: what is half made goes with it */
        return rc;
    }
    uv_timer_init(c->loop, &io->tick);
    io->tick.data = io;
    c->admit = io;
    control_admit_site(c);
    return 0;
}

void control_admit_close(struct control *c)
{
    struct admit_io *io = c->admit;
    if (!io)
        return;
    verify_url_close(io->url);
    verify_socket_close(&io->socket);
    allow_watch_close(&io->watch);
    uv_close((uv_handle_t *)&io->tick, NULL);
}

void control_admit_deinit(struct control *c)
{
    struct admit_io *io = c->admit;
    if (!io)
        return;
    verify_url_free(io->url);
    allow_watch_deinit(&io->watch);
    admission_free(io->engine);
    allow_unref(io->allow);
    free(io->url_set);
    free(io->socket_set);
    free(io->allow_set);
    free(io);
    c->admit = NULL;
}
