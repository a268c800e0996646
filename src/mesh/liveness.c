/* Suspicion: when does a link that says nothing stand in doubt?
 *
 * Happy path: a PING each second (four a second while data is under way), its PONG comes within about a round trip.
 * How it fails: *suspect* when the oldest PING has no answer and for patience() nothing of ours was acknowledged either;
 * *down* DOWN_MS later; closed after MESH_LINK_DEAD_MS without an answer.  Suspect and down only change which path is
 * taken (paths.c); a PONG or an acknowledgement ends them.
 *
 * Why both.  On a line of 200 ms that loses 3 % of its packets, one PONG in sixteen waits for a retransmission, and behind a
 * lost packet all others wait.  The other side's TCP acknowledges what did arrive, so while a PONG is overdue further PINGs
 * are sent: each of them is a chance that some acknowledgement comes.  tests/unit/test_mesh_liveness.c counts how often a
 * healthy line comes into doubt.
 * A node that stood still itself (SIGSTOP, no CPU) first reads what has come, then judges.
 * What comes in proves nothing: a line may be dead in one direction.  And acknowledgements excuse a missing PONG only for
 * EXCUSE_MS: the kernel of a node that is stopped goes on acknowledging. */
#include "mesh/liveness.h"

#include "mesh/link.h"
#include "mesh/paths.h"

enum {
    PONG_MIN_MS = 600,      /* a PONG may take max(this, srtt + 4 × its deviation), … */
    PONG_MAX_MS = 4000,     /* … but no more than this */
    QUIET_MS = 400,         /* and so much longer nothing is acknowledged */
    QUIET_PROXIED_MS = 900, /* where we see no acknowledgements, but hear of them from the other side */
    DOWN_MS = 500,
    EXCUSE_MS = 7000,
    STALL_MS = 300, /* a tick so late means that we ourselves stood still */
    FAST_MS = 250,  /* between PINGs while one is overdue, or data is under way */
    BUSY_MS = 1000
};

/* Whether its TCP's acknowledgements are the other side's.  Those of a proxy are not, a tunnel has none. */
static bool sees_acks(const struct link *l)
{
    return l->has_exporter && !l->is_tunnel;
}

static uint64_t pong_time(const struct link *l)
{
    uint64_t t = (l->srtt8 >> 3) + l->rttvar4; /* rttvar4: four times the mean deviation */
    return t < PONG_MIN_MS ? PONG_MIN_MS : t > PONG_MAX_MS ? PONG_MAX_MS : t;
}

/* The moment from which a silent link is suspect; NEVER: nothing is unanswered. */
static uint64_t suspect_at(const struct link *l)
{
    if (l->n_marks == 0)
        return NEVER;
    uint64_t asked = l->mark[0].at, since = asked > l->progress_at ? asked : l->progress_at;
    uint64_t quiet = since + pong_time(l) + (sees_acks(l) ? QUIET_MS : QUIET_PROXIED_MS);
    return quiet < asked + EXCUSE_MS ? quiet : asked + EXCUSE_MS;
}

static void judge(struct mesh *m, struct link *l)
{
    uint64_t at = suspect_at(l);
    bool stalled = m->now < m->stalled_until && !l->suspect;
    bool suspect = m->now >= at && !stalled, down = suspect && m->now - at >= DOWN_MS;
    bool was_suspect = l->suspect, was_down = l->down;
    if (suspect == was_suspect && down == was_down)
        return;
    l->suspect = suspect;
    l->down = down;
    if (suspect && !was_suspect) {
        m->count.suspects++;
        mesh_log(m, MESH_LOG_DEBUG, "link gives no answer peer=%s ping_ms=%llu", l->peer->name,
                 (unsigned long long)(m->now - l->mark[0].at));
    }
    link_judged(m, l, was_suspect);
}

void liveness_pong(struct mesh *m, struct link *l, uint64_t rtt)
{
    /* RFC 6298, with srtt times eight and the deviation times four. */
    if (l->srtt8 == 0) {
        l->srtt8 = rtt << 3;
        l->rttvar4 = rtt << 1;
    } else {
        uint64_t srtt = l->srtt8 >> 3, off = rtt > srtt ? rtt - srtt : srtt - rtt;
        l->rttvar4 += off - (l->rttvar4 >> 2);
        l->srtt8 += rtt - (l->srtt8 >> 3);
    }
    liveness_progress(m, l);
}

void liveness_progress(struct mesh *m, struct link *l)
{
    l->progress_at = m->now;
    if (l->suspect)
        judge(m, l);
}

void liveness_told(struct mesh *m, struct link *l, uint64_t received)
{
    if (received <= l->told_received)
        return;
    l->told_received = received;
    liveness_progress(m, l);
}

void liveness_busy(struct mesh *m, struct link *l)
{
    l->busy_until = m->now + BUSY_MS;
    if (l->next_ping > m->now + FAST_MS)
        l->next_ping = m->now + FAST_MS;
}

/* When a PONG is late enough for further PINGs. */
static uint64_t overdue_at(const struct link *l)
{
    uint64_t usual = (l->srtt8 >> 3) + (l->rttvar4 >> 1);
    return l->n_marks ? l->mark[0].at + (usual > FAST_MS ? usual : FAST_MS) : NEVER;
}

uint64_t liveness_interval(const struct mesh *m, const struct link *l)
{
    bool fast = m->now < l->busy_until || m->now >= overdue_at(l);
    return fast && !l->down && l->n_marks < LINK_MARKS ? FAST_MS : MESH_PING_MS;
}

bool liveness_tick(struct mesh *m, struct link *l)
{
    if (l->n_marks && m->now - l->mark[0].at >= MESH_LINK_DEAD_MS)
        return false;
    /* What has come meanwhile is read first. */
    if (m->now > l->next_ping + STALL_MS)
        m->stalled_until = m->now + STALL_MS;
    judge(m, l);
    /* The first of the further PINGs leaves when the PONG is overdue, not when the next one was meant to. */
    if (m->now >= overdue_at(l) && l->next_ping > m->now + liveness_interval(m, l))
        l->next_ping = m->now;
    return true;
}

uint64_t liveness_next(const struct mesh *m, const struct link *l)
{
    uint64_t next = NEVER, at = suspect_at(l);
    if (l->n_marks == 0)
        return NEVER;
    if (!l->suspect)
        next = at < m->stalled_until ? m->stalled_until : at;
    else if (!l->down)
        next = at + DOWN_MS;
    if (overdue_at(l) > m->now && overdue_at(l) < next)
        next = overdue_at(l);
    uint64_t dead = l->mark[0].at + MESH_LINK_DEAD_MS;
    return dead < next ? dead : next;
}
