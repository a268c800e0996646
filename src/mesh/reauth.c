/* REAUTH: each side of a live link proves anew, every REAUTH_MS and when its ring changes, which mesh keys it holds.
 *
 * So a link follows a rotation without being made anew: once both sides have proven the new key, the old one may go.  And
 * a side that holds none of our keys any more loses its links, at the latest after REAUTH_DEAD_MS.
 * Happy path: reauth_start → reauth_send … reauth_input → reauth_holds when our ring changes.
 * How it fails: a proof of no key of ours, a wrong one, one used before: the link is closed. */
#include "mesh/reauth.h"

#include <string.h>

#include "mesh/link.h"

void reauth_start(struct mesh *m, struct link *l)
{
    auth_secret(&l->auth, "derpmesh/1 reauth", l->reauth_secret);
    l->proven[0] = l->key_id;
    l->n_proven = 1;
    l->proven_at = m->now;
    l->reauth_at = m->now;
}

void reauth_send(struct mesh *m, struct link *l)
{
    struct meshmsg_reauth r = {.number = ++l->reauth_number, .n = (uint32_t)m->keys.n};
    for (int i = 0; i < m->keys.n; i++) {
        r.id[i] = m->key_id[i];
        auth_reauth_mac(l->reauth_secret, m->keys.key[i], l->dialer, r.number, r.mac[i]);
    }
    meshmsg_reauth(&m->out, &r);
    link_send(m, l);
    l->reauth_at = m->now + REAUTH_MS - mesh_random(m, REAUTH_MS / 4);
}

const char *reauth_input(struct mesh *m, struct link *l, const struct meshmsg_in *in)
{
    struct meshmsg_reauth r;
    struct mesh_key_id proven[MESH_KEYS_MAX];
    unsigned n = 0;
    if (meshmsg_read_reauth(in, &r) != 0)
        return "malformed message";
    if (r.number <= l->reauth_heard)
        return "a proof of the mesh key that was used before";
    for (uint32_t i = 0; i < r.n; i++) {
        uint8_t expected[MESHMSG_MAC_LEN];
        int k = mesh_key_find(m, &r.id[i]);
        if (k < 0)
            continue;
        auth_reauth_mac(l->reauth_secret, m->keys.key[k], !l->dialer, r.number, expected);
        int differs = sodium_memcmp(expected, r.mac[i], sizeof expected);
        sodium_memzero(expected, sizeof expected);
        if (differs) {
            m->count.refused_auth++;
            return "the proof of its mesh key is wrong";
        }
        proven[n++] = r.id[i];
    }
    if (n == 0) {
        m->count.refused_key++;
        return "it holds none of our mesh keys any more";
    }
    memcpy(l->proven, proven, n * sizeof *proven);
    l->n_proven = n;
    l->key_id = proven[0];
    l->reauth_heard = r.number;
    l->proven_at = m->now;
    return NULL;
}

bool reauth_tick(struct mesh *m, struct link *l)
{
    /* It speaks, but proves nothing; silence is liveness.c's matter. */
    if (l->last_rx >= l->proven_at + REAUTH_DEAD_MS)
        return false;
    if (m->now >= l->reauth_at)
        reauth_send(m, l);
    return true;
}

bool reauth_holds(const struct mesh *m, const struct link *l)
{
    for (unsigned i = 0; i < l->n_proven; i++)
        if (mesh_key_find(m, &l->proven[i]) >= 0)
            return true;
    return l->n_proven == 0 && mesh_key_find(m, &l->key_id) >= 0; /* a lane that has lost its control link */
}
