/* The connections before login: their list, how many may be there, how long they may take.
 *
 * Happy path: login_begin at accept, login_admit once the address that counts is known, login_end when it is a client or a link.
 * Fails: where too many wait, one of them is closed, counted by reason. */
#include "node/login.h"

#include <sodium.h>
#include <stdlib.h>

#include "node/limits.h"
#include "node/session.h"

void login_begin(struct conn *c)
{
    struct worker *w = c->worker;
    struct login *l = c->login;
    uint64_t now = uv_now(&w->loop);
    l->by = now + LOGIN_TOTAL_MS;
    l->idle_by = now + LOGIN_IDLE_MS;
    l->next = NULL;
    l->prev = w->logins_last;
    if (w->logins_last)
        w->logins_last->login->next = c;
    else
        w->logins = c;
    w->logins_last = c;
    stats_add(&w->stats, STAT_LOGIN_PENDING, 1);
}

void login_end(struct conn *c)
{
    struct worker *w = c->worker;
    struct login *l = c->login;
    if (!l)
        return;
    if (l->prev)
        l->prev->login->next = l->next;
    else
        w->logins = l->next;
    if (l->next)
        l->next->login->prev = l->prev;
    else
        w->logins_last = l->prev;
    if (l->counted)
        limits_login_leave(w->limits, &c->addr);
    stats_sub(&w->stats, STAT_LOGIN_PENDING, 1);
    sodium_memzero(&l->shared, sizeof(l->shared));
    free(l);
    c->login = NULL;
    c->stream.read_max = 0;
    c->stream.newcomer = false;
}

/* How far a login has come: TLS, head, upgrade, ClientInfo. */
static int advanced(const struct conn *c)
{
    return c->login->asking ? 3 : c->login->derp ? 2 : c->stream.open && c->stream.ssl ? 1 : 0;
}

/* All places are taken: the least advanced of the fullest prefix makes room.  False if this worker has none. */
static bool evict_login(struct worker *w, const struct conn *newcomer)
{
    struct conn *worst = NULL;
    uint32_t worst_count = 0;
    for (struct conn *c = w->logins; c; c = c->login->next) {
        if (c->stream.closing || c == newcomer || !c->login->counted)
            continue;
        uint32_t n = limits_prefix_count(w->limits, &c->addr);
        if (!worst || n > worst_count || (n == worst_count && advanced(c) < advanced(worst))) {
            worst = c;
            worst_count = n;
        }
    }
    if (!worst)
        return false;
    limits_login_leave(w->limits, &worst->addr);
    worst->login->counted = false;
    session_close(worst, STAT_REFUSED_LOGIN_LIMIT, "too many connections before login");
    return true;
}

void login_admit(struct conn *c)
{
    struct worker *w = c->worker;
    enum limits_answer a = limits_login_enter(w->limits, &c->addr);
    if (a == LIMITS_TOTAL && evict_login(w, c))
        a = limits_login_enter(w->limits, &c->addr);
    if (a == LIMITS_OK)
        c->login->counted = true;
    else if (a == LIMITS_PREFIX)
        session_close(c, STAT_REFUSED_ADDRESS_LIMIT, "too many connections before login from this address");
    else
        session_close(c, STAT_REFUSED_LOGIN_LIMIT, "too many connections before login");
}

bool login_overdue(struct conn *c, uint64_t now)
{
    struct login *l = c->login;
    if (c->stream.in_line) { /* it waits for us */
        l->by += SESSION_DUE_MS;
        l->idle_by = now + LOGIN_IDLE_MS;
    }
    if (c->stream.bytes_in != l->seen_bytes) {
        l->seen_bytes = c->stream.bytes_in;
        l->idle_by = now + LOGIN_IDLE_MS;
    }
    return now >= l->by || now >= l->idle_by;
}
