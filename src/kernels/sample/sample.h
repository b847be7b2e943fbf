/* sample: the next token of each row of logits.
 *
 *   x         F32 [rows, cols], pitch in elements. A row may change what it holds meanwhile; afterwards it is as it was
 *   rules     [rows]: what is asked of each row
 *   ids       int32 [n_ids]: what rules point to. Of a row, from rule.ids on:
 *                 history [n_history]   its tokens so far, the last of them in name only: it is the one that the step read for
 *                                       this row, batch->ids[batch->output_rows[r]], which the host may not know yet
 *                 bias ids [n_bias], each once; bias values [n_bias], the bits of floats
 *                 banned ids [n_banned]
 *                 pairs of ids [n_pairs][2]: the second one is banned if the first one is what the step read for this row
 *             ids outside [0, cols) in a history mean nothing; elsewhere there are none
 *   masks     NULL, or bits: of mask m, bit c % 32 of word masks[m * mask_pitch + c / 32] says that token c is allowed
 *   out       int32 [rows] the chosen id; -1: there is none (a NaN, no token that is not at -infinity, a draw with one at
 *             +infinity)
 *   logprobs  F32 [rows] log(softmax(x)) of the chosen id where the rule asks for it, else NaN
 *   top_ids, top_logprobs   int32 and F32 [n_tops]: of a row, from rule.tops on, its n_top likeliest tokens before anything
 *             changes, the largest logit first, of equal ones the lowest id, and log(softmax(x)) of each. -1 and NaN where there
 *             is none: behind all columns, and when x has a NaN or nothing above -infinity
 *   workspace for what a row changes
 *
 * A row's logits change in this order, all in FP32: the bias is added; each id of the history is penalized once (x < 0 ? x ·
 * repetition : x / repetition); each id of the history's output, that is from n_prompt on, loses (float)(presence + frequency ·
 * its count), which is FP64 before it is rounded; banned ids, and those that the mask does not allow, are at -infinity.
 *
 * BEST is the largest, of equal ones the lowest id. FORCED is the token `ids`, whatever the logits are. DRAW weighs tokens in
 * whole numbers (sample_weight.h); a token without weight is out. By key, of equal ones by id, the first top_k stay; of these the
 * fewest, first ones first, whose mass reaches top_p of theirs; of these those with min_p of the best one's weight. Of what is
 * left, in the order of ids, it takes the token in which the random point falls. All of that is exact: an id has the same bits
 * wherever it is chosen, as have top_ids. Log-probabilities have not.
 * rows == 0 touches nothing. */
#ifndef SPEY_KERNELS_SAMPLE_SAMPLE_H
#define SPEY_KERNELS_SAMPLE_SAMPLE_H

#include "kernels/ragged.h"
#include "spey/spey.h"

typedef enum spey_sample_kind {
    SPEY_SAMPLE_NOTHING, /* its results are left alone */
    SPEY_SAMPLE_BEST,
    SPEY_SAMPLE_DRAW,
    SPEY_SAMPLE_FORCED, /* nothing is changed */
} spey_sample_kind;

typedef struct spey_sample_rule {
    uint64_t seed, index; /* of the draw */
    double top_p;         /* 1: off */
    double min_p;         /* 0: off */
    double presence, frequency;
    float repetition; /* 1: off */
    float slope;      /* spey_sample_slope of the temperature */
    int32_t kind;     /* spey_sample_kind */
    int32_t top_k;    /* 0: off */
    int32_t mask;     /* -1: none */
    int32_t wants_logprob;
    int32_t ids, n_history, n_prompt, n_bias, n_banned;
    int32_t tops, n_top; /* n_top <= SPEY_LOGPROBS_MAX; 0 unless wants_logprob */
    int32_t n_pairs;
} spey_sample_rule;

typedef struct spey_sample_args {
    int64_t rows;
    int64_t cols;
    float *x;
    int64_t x_pitch;
    const spey_sample_rule *rules;
    const int32_t *ids;
    int64_t n_ids;
    const uint32_t *masks;
    int64_t mask_pitch;
    const spey_ragged *batch;
    int32_t *out;
    float *logprobs;
    int64_t n_tops; /* of all rules */
    int32_t *top_ids;
    float *top_logprobs;
    void *workspace;
} spey_sample_args;

/* log(sum(exp(logits))), summed in double. */
double spey_log_sum_exp(const float *logits, int64_t n);

/* The n likeliest of `cols` tokens, as top_ids and top_logprobs; log_sum_exp: theirs. Without a NaN. */
void spey_likeliest(const float *logits, int64_t cols, double log_sum_exp, int32_t n,
                    spey_token_logprob *out);

#endif
