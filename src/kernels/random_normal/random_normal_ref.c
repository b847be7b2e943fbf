/* random_normal: 16 bits of randomness give 9 · 256 different numbers, so types of 8 and 16 bits come from a table, and the
 * reference is the CPU's only row. All lanes share the work, and the page faults. */
#include "kernels/random_normal/random_normal.h"

#include "base/splitmix.h"
#include "device/pool.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"

enum { NUMBERS = 9 * 256 };

/* Of each 16 bits: how many of the high 8 are set, and behind that the low 8. */
static uint64_t count_high(uint64_t word)
{
    uint64_t ones = word >> 8 & 0x00ff00ff00ff00ffu;
    ones -= ones >> 1 & 0x0055005500550055u;
    ones = (ones & 0x0033003300330033u) + (ones >> 2 & 0x0033003300330033u);
    ones = (ones + (ones >> 4)) & 0x000f000f000f000fu;
    return ones << 8 | (word & 0x00ff00ff00ff00ffu);
}

/* `number`: the ones, and behind them the fraction. */
static float z_of(uint32_t number, int fraction_bits)
{
    int32_t halves = (int32_t)(2 * number + 1) - (9 << fraction_bits);
    return (float)halves / (float)(2 << fraction_bits);
}

static uint16_t narrow(float x, spey_dtype dtype)
{
    if (dtype == SPEY_F16) return spey_f32_to_f16(x);
    return dtype == SPEY_BF16 ? spey_f32_to_bf16(x) : spey_f32_to_e4m3(x);
}

static uint64_t fill4(const uint16_t *table, uint64_t seed, int bits)
{
    uint64_t numbers = count_high(spey_splitmix(seed)), out = 0;
    for (int j = 0; j < 4; j++)
        out |= (uint64_t)table[numbers >> 16 * j & 0xffff] << bits * j;
    return out;
}

static uint64_t fill2(uint64_t seed, float scale)
{
    uint64_t word = spey_splitmix(seed), numbers = count_high(word), out = 0;
    for (int j = 0; j < 2; j++) {
        uint64_t ones = numbers >> 32 * j & 0xffff0000u, low = word >> 32 * j & 0xffff;
        out |= (uint64_t)spey_f32_bits(z_of((uint32_t)(ones | low), 24) * scale) << 32 * j;
    }
    return out;
}

static void fill(const spey_random_normal_args *a, const uint16_t *table, int64_t begin,
                 int64_t end)
{
    uint64_t *out = a->out;
    for (int64_t i = begin; i < end; i++) {
        uint64_t at = (uint64_t)i;
        if (a->dtype == SPEY_F32)
            out[i] = fill2(a->seed + at, a->scale);
        else if (a->dtype == SPEY_E4M3)
            out[i] = fill4(table, a->seed + 2 * at, 8) | fill4(table, a->seed + 2 * at + 1, 8)
                                                             << 32;
        else
            out[i] = fill4(table, a->seed + at, 16);
    }
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_random_normal_args *a = args;
    uint16_t table[NUMBERS];
    for (uint32_t n = 0; n < NUMBERS; n++)
        table[n] = narrow(z_of(n, 8) * a->scale, a->dtype);
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 1 << 18, &begin, &end))
        fill(a, table, begin, end);
}

static bool supports(const void *args)
{
    spey_dtype dtype = ((const spey_random_normal_args *)args)->dtype;
    return spey_is_float16_or_32(dtype) || dtype == SPEY_E4M3;
}

const spey_kernel spey_random_normal_ref = { .name = "random_normal/ref",
                                             .supports = supports,
                                             .run = run };
