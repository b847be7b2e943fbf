#include "kernels/rope/rope_rotate_ref.h"
#include "kernels/rows.h"

static bool supports(const void *args)
{
    const spey_rope_args *a = args;
    return spey_is_float16_or_32(a->dtype);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_rope_args *a = args;
    size_t size = spey_dtype_bytes(a->dtype);
    for (int64_t r = lane->index; r < a->rows; r += lane->count) {
        for (int64_t h = 0; h < a->n_heads; h++) {
            const char *x = (const char *)a->x + (size_t)(r * a->x_pitch + h * a->head_dim) * size;
            char *out = (char *)a->out + (size_t)(r * a->out_pitch + h * a->head_dim) * size;
            spey_rope_rotate_ref(x, a->dtype, a->head_dim, a->rotary_dim, a->pairing,
                                 a->table + r * a->rotary_dim, out, a->dtype);
        }
    }
}

const spey_kernel spey_rope_ref = { .name = "rope/ref", .supports = supports, .run = run };
