#include <math.h>

#include "kernels/rope/rope.h"
#include "kernels/rows.h"

/* Rounded to FP32, as the frequencies in a table are. */
static float frequency(const spey_rope_table_args *a, int64_t kv_len, int64_t i)
{
    double length = (double)kv_len, original = (double)a->original_positions;
    double dim = (double)(2 * a->half);
    if (a->dynamic_factor > 0 && length > original) {
        double growth = a->dynamic_factor * length / original - (a->dynamic_factor - 1);
        double base = a->base * pow(growth, dim / (dim - 2));
        return (float)pow(base, -2 * (double)i / dim);
    }
    return a->inv_freq_long && kv_len > a->long_from ? a->inv_freq_long[i] : a->inv_freq[i];
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_rope_table_args *a = args;
    for (int64_t r = lane->index; r < a->rows; r += lane->count) {
        int64_t kv_len = a->batch->kv_len[a->batch->token_seq[r]];
        float *out = a->table + r * 2 * a->half;
        for (int64_t i = 0; i < a->half; i++) {
            float angle = (float)a->batch->positions[r] * frequency(a, kv_len, i);
            out[i] = (float)(cos((double)angle) * (double)a->magnitude);
            out[a->half + i] = (float)(sin((double)angle) * (double)a->magnitude);
        }
    }
}

const spey_kernel spey_rope_table_ref = { .name = "rope_table/ref", .run = run };
