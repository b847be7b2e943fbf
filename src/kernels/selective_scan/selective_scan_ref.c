/* selective_scan, one column of one sequence after the other. */
#include "device/pool.h"
#include "kernels/paged.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"
#include "kernels/selective_scan/selective_scan.h"

static bool supports(const void *args)
{
    const spey_selective_scan_args *a = args;
    return spey_is_float16_or_32(a->dtype) && a->states <= SPEY_SCAN_STATES_MAX;
}

static double softplus(double x)
{
    return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

static void run_column(const spey_selective_scan_args *a, int64_t s, int64_t c)
{
    float *h = spey_state_at(&a->state, a->batch, s) + c * a->states;
    int32_t begin = a->batch->seq_start[s], end = a->batch->seq_start[s + 1];
    for (int64_t n = 0; n < a->states && end > begin && spey_state_begins(a->batch, s); n++)
        h[n] = 0;
    for (int64_t t = begin; t < end; t++) {
        double x = spey_load(a->x, a->dtype, t * a->x_pitch + c);
        double delta = softplus(spey_load(a->dt, a->dtype, t * a->dt_pitch + c));
        double sum = (double)a->d[c] * x;
        for (int64_t n = 0; n < a->states; n++) {
            double decay = exp(-delta * exp((double)a->a_log[c * a->states + n]));
            double in = delta * x * spey_load(a->b, a->dtype, t * a->b_pitch + n);
            h[n] = (float)(decay * (double)h[n] + in);
            sum += spey_load(a->c, a->dtype, t * a->c_pitch + n) * (double)h[n];
        }
        spey_store(a->out, a->dtype, t * a->out_pitch + c, sum);
    }
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_selective_scan_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->batch->n_seqs * a->cols, 8, &begin, &end))
        for (int64_t i = begin; i < end; i++)
            run_column(a, i / a->cols, i % a->cols);
}

const spey_kernel spey_selective_scan_ref = {
    .name = "selective_scan/ref",
    .supports = supports,
    .run = run,
};
