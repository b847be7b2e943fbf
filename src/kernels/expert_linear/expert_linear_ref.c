/* expert_linear in double: the definition. Lanes share outputs in chunks of columns. */
#include "device/pool.h"
#include "kernels/expert_linear/expert_linear.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"

static bool supports(const void *args)
{
    const spey_expert_linear_args *a = args;
    return spey_is_float16_or_32(a->dtype) && spey_is_weight_dtype(a->w_dtype);
}

/* Output j of slot s. */
static double product(const spey_expert_linear_args *a, int64_t row, int64_t s, int64_t j)
{
    int64_t expert = a->routing ? (int64_t)a->routing[(2 * row + 1) * a->n_slots + s] : s;
    int64_t x = row * a->x_pitch + (a->x_shared ? 0 : s * a->k);
    int64_t w = (expert * a->n + j) * a->k;
    const spey_e4m3_scale scale = spey_input_scale(a->x_quant, a->x_scale, a->x, a->dtype, x, a->k);
    double sum = 0;
    for (int64_t i = 0; i < a->k; i++)
        sum += spey_load_input(a->x, a->dtype, x + i, scale) * spey_load(a->w, a->w_dtype, w + i);
    if (a->w_scale) sum *= (double)a->w_scale[expert * a->n + j];
    return a->bias ? sum + (double)a->bias[expert * a->n + j] : sum;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_expert_linear_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->n, 64, &begin, &end)) {
        for (int64_t r = 0; r < a->rows; r++) {
            for (int64_t j = begin; j < end; j++) {
                double sum = 0;
                for (int64_t s = 0; s < a->n_slots; s++) {
                    double p = product(a, r, s, j);
                    if (a->sum)
                        sum += (double)a->routing[2 * r * a->n_slots + s] * p;
                    else
                        spey_store(a->y, a->dtype, r * a->y_pitch + s * a->n + j, p);
                }
                if (a->sum) spey_store(a->y, a->dtype, r * a->y_pitch + j, sum);
            }
        }
    }
}

const spey_kernel spey_expert_linear_ref = {
    .name = "expert_linear/ref",
    .supports = supports,
    .run = run,
};
