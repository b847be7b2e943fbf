/* The layout behind a plan: defaults filled in, activations placed, KV pools shaped, kernels asked for their scratch. */
#ifndef SPEY_RUNTIME_LAYOUT_H
#define SPEY_RUNTIME_LAYOUT_H

#include "graph/memplan.h"
#include "kernels/ragged.h"
#include "runtime/bind.h"
#include "runtime/kv_cache.h"
#include "runtime/plan.h"
#include "runtime/program.h"

/* The pool of one cache group, block-major so that a block is one piece of memory in all layers:
 *
 *   [block][layer][K|V][kv_head][token][head_dim]
 *   int8: behind the layers of each block [layer][K|V][kv_head][token] FP32, the scales
 *   [block][layer][element]                            of a state group, whose pool has the first two sizes only
 *   [block][K|V][kv_head][token][head_dim]             of a scratch group: its layers take turns */
typedef struct spey_kv_pool {
    int64_t block_bytes; /* a multiple of 64 */
    int64_t layer_bytes;
    int64_t k_head_bytes, v_head_bytes;
    int64_t k_token_bytes, v_token_bytes;
    int64_t k_bytes;       /* of one layer in one block: where V begins */
    int64_t scales_offset; /* in the block */
} spey_kv_pool;

/* Where the arrays of spey_ragged lie in one piece of memory, in bytes. */
typedef struct spey_table_layout {
    size_t ids, positions, token_seq, seq_start, kv_len, source_len, output_rows;
    size_t link_places,
        link_rows; /* [sequences_max] with `ahead`: ids that the step before gives */
    size_t groups[SPEY_CACHE_GROUPS_MAX];
    int64_t pitch;          /* of the block tables */
    size_t rules, rule_ids; /* [outputs_max] spey_sample_rule, and the ids that they point to */
    int64_t rule_ids_max;   /* 0: the host samples */
    size_t masks;           /* [masks_max][mask_words] that rules point to */
    int64_t masks_max, mask_words;
    size_t patches;         /* [patches_max] spey_patch: what changes in all up to the rules' ids */
    int64_t patches_max;    /* 0: the device reads ours, or they are too large to be numbered */
    size_t found, logprobs; /* [outputs_max] written by the device, behind all that it reads */
    size_t tops; /* [2][tops_max] likewise: ids of likeliest tokens, and log-probabilities */
    int64_t tops_max;
    size_t bytes;
} spey_table_layout;

typedef struct spey_layout {
    spey_plan plan;
    spey_memplan_limits memplan_limits;
    spey_memplan *memplan;
    uint64_t arena_bytes; /* the memory plan's but for the logits, which have a buffer */
    spey_kv_limits kv;
    spey_dtype kv_dtype;
    spey_kv_pool pools[SPEY_CACHE_GROUPS_MAX];
    spey_table_layout tables;
    spey_bound_sizes sizes;
    size_t logits_bytes;
    size_t prompt_rows_bytes; /* rows of prompt tables that a step reads, F32 */
} spey_layout;

/* Pure but for reading `program`. SPEY_INVALID: limits that make no sense. Whether it fits is not asked here. */
spey_status spey_layout_init(spey_layout *layout, const spey_program *program,
                             const spey_limits_plan *limits);
void spey_layout_deinit(spey_layout *layout);
/* The counted lines are within what is available. */
bool spey_layout_fits(const spey_layout *layout);
/* SPEY_LIMIT when the plan needs more than is available: with the numbers and up to three settings that fit, each tried
 * by planning again. `limits` are those that were asked for. */
spey_status spey_layout_check_fits(const spey_layout *layout, const spey_program *program,
                                   const spey_limits_plan *limits);

#endif
