/* Latencies in buckets of 1/32 of their size: enough for percentiles, nothing to allocate while measuring. */
#ifndef DERPMESH_BENCH_HISTOGRAM_H
#define DERPMESH_BENCH_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_SUB_BITS = 5, HISTOGRAM_BUCKETS = 64 << HISTOGRAM_SUB_BITS };

struct histogram {
    uint64_t count, n[HISTOGRAM_BUCKETS];
};

static inline void histogram_add(struct histogram *h, uint64_t ns)
{
    int shift = 63 - HISTOGRAM_SUB_BITS - __builtin_clzll(ns | (1 << HISTOGRAM_SUB_BITS));
    h->n[((uint64_t)shift << HISTOGRAM_SUB_BITS) + (ns >> shift)]++;
    h->count++;
}

/* The upper end, in ns, of the bucket below which a share q of all lies; 0 if there are none. */
static inline uint64_t histogram_at(const struct histogram *h, double q)
{
    uint64_t want = (uint64_t)(q * (double)h->count), seen = 0;
    for (int i = 0; i < HISTOGRAM_BUCKETS && h->count > 0; i++) {
        seen += h->n[i];
        if (seen > want) {
            int shift = i < (2 << HISTOGRAM_SUB_BITS) ? 0 : (i >> HISTOGRAM_SUB_BITS) - 1;
            return ((uint64_t)(i - (shift << HISTOGRAM_SUB_BITS)) + 1) << shift;
        }
    }
    return 0;
}

#endif
