/* causal_conv, one column of one sequence after the other. */
#include "device/pool.h"
#include "kernels/causal_conv/causal_conv.h"
#include "kernels/paged.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"

static bool supports(const void *args)
{
    const spey_causal_conv_args *a = args;
    return spey_is_float16_or_32(a->dtype) && a->width >= 2 && a->width <= SPEY_CONV_WIDTH_MAX;
}

static void run_column(const spey_causal_conv_args *a, int64_t s, int64_t c)
{
    const int64_t first = a->batch->seq_start[s], n = a->batch->seq_start[s + 1] - first;
    const int64_t before = a->width - 1;
    float *state = spey_state_at(&a->state, a->batch, s);
    double seen[SPEY_CONV_WIDTH_MAX]; /* the last width rows, oldest first */
    for (int64_t i = 0; i < before; i++)
        seen[i + 1] = spey_state_begins(a->batch, s) ? 0 : (double)state[i * a->cols + c];
    for (int64_t t = 0; t < n; t++) {
        for (int64_t i = 0; i < before; i++)
            seen[i] = seen[i + 1];
        seen[before] = spey_load(a->x, a->dtype, (first + t) * a->x_pitch + c);
        double sum = a->bias ? (double)a->bias[c] : 0;
        for (int64_t k = 0; k < a->width; k++)
            sum += (double)a->weight[c * a->width + k] * seen[k];
        spey_store(a->out, a->dtype, (first + t) * a->out_pitch + c, sum);
    }
    for (int64_t i = 0; i < before && n > 0; i++)
        state[i * a->cols + c] = (float)seen[i + 1];
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_causal_conv_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->batch->n_seqs * a->cols, 64, &begin, &end))
        for (int64_t i = begin; i < end; i++)
            run_column(a, i / a->cols, i % a->cols);
}

const spey_kernel spey_causal_conv_ref = {
    .name = "causal_conv/ref",
    .supports = supports,
    .run = run,
};
