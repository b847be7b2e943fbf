#include "kernels/rope/rope_frequency.h"
#include "kernels/rows.h"

static void run(const void *args, const spey_lane *lane)
{
    const spey_rope_table_args *a = args;
    for (int64_t r = lane->index; r < a->rows; r += lane->count) {
        int64_t kv_len = a->batch->kv_len[a->batch->token_seq[r]];
        const float *inv_freq = spey_rope_frequencies(a, kv_len);
        double base;
        bool dynamic = spey_rope_dynamic_base(a, kv_len, &base);
        float *out = a->table + r * 2 * a->half;
        for (int64_t i = 0; i < a->half; i++) {
            float frequency = dynamic ? spey_rope_dynamic_frequency(a, base, i) : inv_freq[i];
            float angle = (float)a->batch->positions[r] * frequency;
            out[i] = (float)(cos((double)angle) * (double)a->magnitude);
            out[a->half + i] = (float)(sin((double)angle) * (double)a->magnitude);
        }
    }
}

const spey_kernel spey_rope_table_ref = { .name = "rope_table/ref", .run = run };
