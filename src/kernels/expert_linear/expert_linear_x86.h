/* The body of every x86 expert_linear row, over gemm's tiles. Included once by a row's file, after gemm_x86.h and
 *
 *   expert_pitch(k)        elements from one row of x to the next in the workspace
 *   expert_put(x, k, out)  a row of x as the tiles read it
 *   expert_panel(w)        the panel for weights of type w
 *
 *   sort     lane 0 counts the rows of each expert and gives every (row, slot) its place: experts one after the other,
 *            rows in their order. Two passes over the routing.
 *   gather   x goes to those places; lanes share the rows
 *   multiply each expert in use is a gemm over its rows, cut into chunks of outputs; lanes share the chunks of all
 *            experts, so an expert with many rows keeps no lane waiting. Unused experts are not read.
 *   scatter  results go, or are summed, to y; lanes share pieces of rows
 *
 * What moves: the weights of experts in use once (many rows: as gemm_x86.h says), x and y twice more, which is little
 * beside k or n products for each element. What bounds it: memory for few rows, multiply-adds for many. Tiles do not know
 * how many rows an expert has, so a token's bits depend on the token alone. */
#ifndef SPEY_KERNELS_EXPERT_LINEAR_EXPERT_LINEAR_X86_H
#define SPEY_KERNELS_EXPERT_LINEAR_EXPERT_LINEAR_X86_H

#include "kernels/expert_linear/expert_linear.h"
#include "kernels/gemm/gemm_x86.h"
#include "kernels/pieces.h"

/* The workspace, carved up. */
typedef struct expert_space {
    int32_t *begin;  /* [n_experts + 1]: the first place of each expert */
    int32_t *chunks; /* [n_experts + 1]: its first chunk */
    int32_t *places; /* [rows, n_slots] */
    gemm_x *x;       /* [places, expert_pitch(k)] */
    float *y;        /* [places, y_pitch] */
    int64_t y_pitch;
} expert_space;

static size_t expert_align(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static int64_t expert_y_pitch(const spey_expert_linear_args *a)
{
    return gemm_ceil_div(a->n, 16) * 16;
}

/* Bytes of `begin`, `chunks`, `places`, `x`, `y`. */
typedef struct expert_sizes {
    size_t experts, places, x, y;
} expert_sizes;

static expert_sizes expert_measure(const spey_expert_linear_args *a)
{
    const size_t places = (size_t)(a->rows * a->n_slots);
    return (expert_sizes){
        .experts = expert_align(((size_t)a->n_experts + 1) * sizeof(int32_t)),
        .places = expert_align(places * sizeof(int32_t)),
        .x = expert_align(places * (size_t)expert_pitch(a->k) * sizeof(gemm_x)),
        .y = expert_align(places * (size_t)expert_y_pitch(a) * sizeof(float)),
    };
}

static size_t expert_workspace(const void *args)
{
    const expert_sizes sizes = expert_measure(args);
    return 2 * sizes.experts + sizes.places + sizes.x + sizes.y;
}

static expert_space expert_carve(const spey_expert_linear_args *a)
{
    const expert_sizes sizes = expert_measure(a);
    uint8_t *at = a->workspace;
    expert_space space = { .y_pitch = expert_y_pitch(a) };
    space.begin = (int32_t *)(void *)at;
    space.chunks = (int32_t *)(void *)(at += sizes.experts);
    space.places = (int32_t *)(void *)(at += sizes.experts);
    space.x = (gemm_x *)(void *)(at += sizes.places);
    space.y = (float *)(void *)(at + sizes.x);
    return space;
}

static int64_t expert_of(const spey_expert_linear_args *a, int64_t row, int64_t slot)
{
    return a->routing ? (int64_t)a->routing[(2 * row + 1) * a->n_slots + slot] : slot;
}

/* The gemm of one expert. */
static spey_gemm_args expert_gemm(const spey_expert_linear_args *a, const expert_space *space,
                                  int64_t e)
{
    const size_t stack = (size_t)(e * a->n * a->k) * spey_dtype_bytes(a->w_dtype);
    return (spey_gemm_args){
        .rows = space->begin[e + 1] - space->begin[e],
        .n = a->n,
        .k = a->k,
        .w = (const uint8_t *)a->w + stack,
        .w_dtype = a->w_dtype,
        .w_pitch = a->k,
        .w_scale = a->w_scale ? a->w_scale + e * a->n : NULL,
        .w_scale_step = 1,
        .bias = a->bias ? a->bias + e * a->n : NULL,
        .activation = SPEY_ACT_NONE,
        .y = space->y + space->begin[e] * space->y_pitch,
        .y_pitch = space->y_pitch,
    };
}

/* Outputs of a chunk: four of gemm's, so that a block is prefetched while the one before it is computed; fewer when the
 * n_slots experts that are in use at least would not give each lane four chunks. */
static int64_t expert_chunk(const spey_expert_linear_args *a, const gemm_plan *plan,
                            const spey_lane *lane)
{
    int64_t several = a->n * a->n_slots / ((int64_t)4 * lane->count * plan->chunk_cols);
    return plan->chunk_cols * (several < 1 ? 1 : gemm_min(several, 4));
}

static void expert_sort(const spey_expert_linear_args *a, const expert_space *space,
                        const spey_lane *lane)
{
    int32_t *begin = space->begin;
    for (int64_t e = 0; e <= a->n_experts; e++)
        begin[e] = 0;
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t s = 0; s < a->n_slots; s++)
            begin[expert_of(a, r, s)]++;
    for (int64_t e = 0, at = 0; e <= a->n_experts; e++) {
        int32_t count = begin[e];
        begin[e] = (int32_t)at;
        at += count;
    }
    /* Each place moves its expert's begin on; at the end all of them are where the next one's was. */
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t s = 0; s < a->n_slots; s++)
            space->places[r * a->n_slots + s] = begin[expert_of(a, r, s)]++;
    for (int64_t e = a->n_experts; e > 0; e--)
        begin[e] = begin[e - 1];
    begin[0] = 0;
    space->chunks[0] = 0;
    for (int64_t e = 0; e < a->n_experts; e++) {
        const spey_gemm_args gemm = expert_gemm(a, space, e);
        const gemm_plan plan = gemm_plan_make(&gemm, lane);
        int64_t n = gemm.rows ? gemm_ceil_div(a->n, expert_chunk(a, &plan, lane)) : 0;
        space->chunks[e + 1] = space->chunks[e] + (int32_t)n;
    }
}

static void expert_gather(const spey_expert_linear_args *a, const expert_space *space,
                          const spey_lane *lane)
{
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows * a->n_slots, 4, &begin, &end))
        for (int64_t i = begin; i < end; i++) {
            int64_t row = i / a->n_slots, slot = a->x_shared ? 0 : i % a->n_slots;
            expert_put((const float *)a->x + row * a->x_pitch + slot * a->k, a->k,
                       space->x + space->places[i] * expert_pitch(a->k));
        }
}

static void expert_multiply(const spey_expert_linear_args *a, const expert_space *space,
                            const spey_lane *lane)
{
    int64_t chunk, chunk_end, e = 0;
    while (spey_lane_chunk(lane, space->chunks[a->n_experts], 1, &chunk, &chunk_end)) {
        while (space->chunks[e + 1] <= chunk)
            e++; /* a lane's chunks ascend */
        spey_gemm_args gemm = expert_gemm(a, space, e);
        gemm_plan plan = gemm_plan_make(&gemm, lane);
        plan.x_pitch = expert_pitch(a->k);
        plan.x = space->x + space->begin[e] * plan.x_pitch;
        int64_t cols = expert_chunk(a, &plan, lane), begin = (chunk - space->chunks[e]) * cols;
        gemm_block first = gemm_chunk(&plan, begin, gemm_min(a->n, begin + cols));
        gemm_run(&plan, NULL, first, expert_panel(a->w_dtype));
    }
}

static void expert_copy(const spey_expert_linear_args *a, const expert_space *space,
                        const spey_lane *lane)
{
    spey_pieces p = { .rows = a->rows * a->n_slots, .cols = a->n };
    while (spey_pieces_next(&p, lane)) {
        const float *from = space->y + space->places[p.row] * space->y_pitch;
        float *to = (float *)a->y + p.row / a->n_slots * a->y_pitch + p.row % a->n_slots * a->n;
        memcpy(to + p.begin, from + p.begin, (size_t)(p.stop - p.begin) * sizeof(float));
    }
}

static void expert_sum(const spey_expert_linear_args *a, const expert_space *space,
                       const spey_lane *lane)
{
    spey_pieces p = { .rows = a->rows, .cols = a->n };
    while (spey_pieces_next(&p, lane)) {
        const int32_t *places = space->places + p.row * a->n_slots;
        const float *weights = a->routing + 2 * p.row * a->n_slots;
        float *to = (float *)a->y + p.row * a->y_pitch;
        for (int64_t j = p.begin; j < p.stop; j += VEC_LANES) {
            int64_t n = gemm_min(p.stop - j, VEC_LANES);
            vec sum = vec_zero();
            for (int64_t s = 0; s < a->n_slots; s++)
                sum = vec_fma(vec_set1(weights[s]),
                              vec_load_f32_n(space->y + places[s] * space->y_pitch + j, n), sum);
            vec_store_f32_n(to + j, sum, n);
        }
    }
}

static void expert_run(const void *args, const spey_lane *lane)
{
    const spey_expert_linear_args *a = args;
    if (a->rows == 0) return;
    const expert_space space = expert_carve(a);
    if (lane->index == 0) expert_sort(a, &space, lane);
    spey_lane_barrier(lane);
    expert_gather(a, &space, lane);
    spey_lane_barrier(lane);
    expert_multiply(a, &space, lane);
    spey_lane_barrier(lane);
    if (a->sum)
        expert_sum(a, &space, lane);
    else
        expert_copy(a, &space, lane);
}

#endif
