/* The relative position bias of T5 (Raffel et al., "Exploring the Limits of Transfer Learning", 2020): scores get a learned
 * number for each head and bucket of the distance between the two tokens. Near distances have a bucket each, farther ones
 * share logarithmically wider ones, and all from max_distance on the last. Without a causal mask half of the buckets are
 * for keys behind the query, half for keys before it. */
#ifndef SPEY_KERNELS_ATTENTION_RELATIVE_H
#define SPEY_KERNELS_ATTENTION_RELATIVE_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct spey_relative {
    const float *bias; /* [buckets][n_heads] or NULL: off */
    int64_t buckets;   /* at least 2, without a causal mask 4 and even */
    int64_t
        max_distance; /* more than half of the buckets of one side, at most SPEY_RELATIVE_DISTANCE_MAX */
} spey_relative;

/* Buckets of one side. */
static inline int64_t spey_relative_side(const spey_relative *r, bool causal)
{
    return causal ? r->buckets : r->buckets / 2;
}

/* The bucket of keys `distance` >= 0 tokens before the query, among those of their side. */
static inline int64_t spey_relative_bucket(const spey_relative *r, bool causal, int64_t distance)
{
    int64_t side = spey_relative_side(r, causal), exact = side / 2;
    if (distance < exact) return distance;
    double far = log((double)distance / (double)exact) /
                 log((double)r->max_distance / (double)exact) * (double)(side - exact);
    int64_t bucket = exact + (int64_t)far;
    return bucket < side ? bucket : side - 1;
}

#endif
