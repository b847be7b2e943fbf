/* gemm with BF16 weights and x rounded to BF16 in AVX512_BF16: VDPBF16PS multiplies 32 pairs and adds them to 16 FP32
 * sums. Tiles of 6 × 4 outputs; see gemm_x86.h for who does what.
 *
 * x is rounded once a call. Little of it: every lane makes its own copy on the stack, which costs less than a barrier
 * and shares no cache line. Much of it: lanes share the rows, into the workspace. The instruction takes subnormal
 * inputs for 0 and flushes subnormal results. */
#include "device/cpu.h"
#include "kernels/rows.h"
#include "kernels/x86/vec.h"
#include "tensor/dtype.h"

enum {
    GEMM_ROWS = 6,
    GEMM_K_BLOCK = 2048, /* six rows of x: 24 KiB, half of an L1 */
    STEP = 32,
    PRIVATE_X = 16 << 10, /* elements of x up to which each lane has its own copy */
};
typedef uint16_t gemm_x;

#define GEMM_DOT_INLINE static inline __attribute__((always_inline))

GEMM_DOT_INLINE int gemm_step(const spey_dtype dtype)
{
    (void)dtype;
    return STEP;
}

GEMM_DOT_INLINE void gemm_dot(const int mr, const spey_dtype dtype, const uint16_t *x,
                              int64_t x_pitch, const uint8_t *const w[4], int64_t at,
                              vec acc[GEMM_ROWS][4])
{
    (void)dtype;
    __m512bh xs[GEMM_ROWS];
    for (int r = 0; r < mr; r++)
        xs[r] = (__m512bh)_mm512_loadu_si512(x + r * x_pitch + at);
    for (int c = 0; c < 4; c++) {
        __m512bh wc = (__m512bh)_mm512_loadu_si512(w[c] + 2 * at);
        for (int r = 0; r < mr; r++)
            acc[r][c] = _mm512_dpbf16_ps(acc[r][c], xs[r], wc);
    }
}

GEMM_DOT_INLINE void gemm_dot_tail(const int mr, const spey_dtype dtype, const uint16_t *x,
                                   int64_t x_pitch, const uint8_t *const w[4], int64_t at,
                                   int64_t end, vec acc[GEMM_ROWS][4])
{
    (void)dtype;
    const __mmask32 mask = (__mmask32)((1ull << (end - at)) - 1);
    __m512bh xs[GEMM_ROWS];
    for (int r = 0; r < mr; r++)
        xs[r] = (__m512bh)_mm512_maskz_loadu_epi16(mask, x + r * x_pitch + at);
    for (int c = 0; c < 4; c++) {
        __m512bh wc = (__m512bh)_mm512_maskz_loadu_epi16(mask, w[c] + 2 * at);
        for (int r = 0; r < mr; r++)
            acc[r][c] = _mm512_dpbf16_ps(acc[r][c], xs[r], wc);
    }
}

#include "kernels/gemm/gemm_x86.h"

GEMM_PANEL(panel, SPEY_BF16)

static bool supports(const void *args)
{
    const spey_gemm_args *a = args;
    return a->precision == SPEY_PRECISION_16 && a->w_dtype == SPEY_BF16 && a->x_dtype == SPEY_F32 &&
           a->y_dtype == SPEY_F32;
}

/* Rows of rounded x begin on a cache line, and not all in the same set of the L1 when k is a power of two. */
static int64_t rounded_pitch(const spey_gemm_args *a)
{
    return gemm_ceil_div(a->k, STEP) * STEP + STEP;
}

static size_t workspace(const void *args)
{
    const spey_gemm_args *a = args;
    return (size_t)(a->rows * rounded_pitch(a)) * sizeof(uint16_t);
}

static void round_row(const spey_gemm_args *a, int64_t row, uint16_t *out)
{
    const float *x = (const float *)a->x + row * a->x_pitch;
    for (int64_t i = 0; i < a->k; i += VEC_LANES) {
        int64_t n = gemm_min(a->k - i, VEC_LANES);
        __m256bh h = _mm512_cvtneps_pbh(vec_load_f32_n(x + i, n));
        _mm256_mask_storeu_epi16(out + i, vec512_first(n), (__m256i)h);
    }
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_gemm_args *a = args;
    _Alignas(64) uint16_t private_x[PRIVATE_X];
    gemm_plan plan = gemm_plan_make(a, lane);
    plan.x_pitch = rounded_pitch(a);
    if (a->rows * plan.x_pitch <= PRIVATE_X) {
        for (int64_t r = 0; r < a->rows; r++)
            round_row(a, r, private_x + r * plan.x_pitch);
        plan.x = private_x;
    } else {
        uint16_t *shared = a->workspace;
        int64_t begin, end;
        while (spey_lane_chunk(lane, a->rows, 4, &begin, &end))
            for (int64_t r = begin; r < end; r++)
                round_row(a, r, shared + r * plan.x_pitch);
        plan.x = shared;
        spey_lane_barrier(lane);
    }
    gemm_run(&plan, lane, panel);
}

const spey_kernel spey_gemm_avx512bf16 = {
    .name = "gemm/avx512bf16",
    .isa = SPEY_CPU_AVX512 | SPEY_CPU_AVX512_BF16 | SPEY_CPU_FAST_BF16_DOT,
    .supports = supports,
    .workspace = workspace,
    .run = run,
};
