/* route: the experts of every token and their weights, from the router's logits.
 *
 *   logits      [rows, n_experts] F32 (devices: also BF16/F16), pitch in elements
 *   correction  F32 [n_experts] or NULL: added to the scores for the choice, not for the weights
 *   out         F32 [rows, 2 · top_k] without padding: top_k weights, then top_k expert numbers; does not overlap logits
 *
 *   score = softmax(logits) or sigmoid(logits)
 *   choice = score + correction; the larger first, of equal ones the lower number
 *   n_groups > 1: experts are n_groups runs of equal length; a group's score is the sum of its group_best (1 or 2) largest
 *     choices, and experts outside the top_groups best groups are out
 *   weight = score · scale, with normalise score / (sum of the top_k scores + 1e-20) · scale
 *
 * The numbers are different ones below n_experts whatever the logits are, NaN included. */
#ifndef SPEY_KERNELS_ROUTE_ROUTE_H
#define SPEY_KERNELS_ROUTE_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/dtype.h"

typedef enum spey_scoring { SPEY_SCORING_SOFTMAX, SPEY_SCORING_SIGMOID } spey_scoring;

typedef struct spey_route_args {
    int64_t rows;
    int64_t n_experts; /* up to SPEY_EXPERTS_MAX */
    int64_t top_k;     /* up to the experts of top_groups groups */
    spey_scoring scoring;
    bool normalise;
    float scale;
    int64_t n_groups; /* divides n_experts; 1: no groups */
    int64_t top_groups;
    int64_t group_best; /* up to the experts of a group */
    const void *logits;
    spey_dtype dtype;
    int64_t pitch;
    const float *correction;
    float *out;
} spey_route_args;

#endif
