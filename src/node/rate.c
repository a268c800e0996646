/* A token bucket in integers: thousandths of a byte, so that a millisecond's tokens are exact at any rate.  Nothing fails. */
#include "node/rate.h"

void rate_init(struct rate *r, uint32_t per_s, uint32_t burst, uint64_t now)
{
    r->per_s = per_s;
    /* 5 ms of it at least: who is late by a turn of the loop must not lose what came in meanwhile */
    uint32_t least = per_s / 200 > RATE_BURST_MIN ? per_s / 200 : RATE_BURST_MIN;
    r->burst = burst < least ? least : burst;
    r->tokens = (int64_t)r->burst * 1000;
    r->at = now;
}

/* What has come in since the last look.  Bounded first: the product must not overflow after days of silence. */
static void fill(struct rate *r, uint64_t now)
{
    int64_t full = (int64_t)r->burst * 1000;
    uint64_t ms = now - r->at;
    r->at = now;
    if (ms > (uint64_t)(full - r->tokens) / r->per_s)
        r->tokens = full;
    else
        r->tokens += (int64_t)(ms * r->per_s);
}

uint64_t rate_take(struct rate *r, uint64_t bytes, uint64_t now)
{
    if (r->per_s == 0)
        return 0;
    fill(r, now);
    r->tokens -= (int64_t)(bytes * 1000);
    if (r->tokens >= 0)
        return 0;
    return ((uint64_t)-r->tokens + r->per_s - 1) / r->per_s;
}

uint32_t rate_read_max(const struct rate *r)
{
    if (r->per_s == 0)
        return 0;
    return r->burst / 4;
}
