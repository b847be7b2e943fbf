/* gemm through cuBLASLt, on sm_80 and later.
 *
 * The library thinks in columns: y [rows, n] row-major is Y [n, rows] column-major = Wᵀ X with W [k, n], X [k, rows], the
 * "TN" form that every data type has and for which checkpoints store their weights.
 *
 * in one call   no bias; ReLU; a bias when y is F32 (the library wants the bias in y's type and ours is F32)
 * in two        bias into 16-bit y, other activations, 16-bit y of F32 w: FP32 sums go to scratch (or to y, when F32),
 *               gemm_finish does the rest with one rounding. Scratch is bounded: long batches go in chunks of rows.
 * x of another type than w: it is converted into scratch first, rounded to 16 bits (precision 16) or widened to F32.
 *
 * w E4M3 (sm_89 and later): x is E4M3, or becomes it in scratch, with a scale for each row. Without bias and activation the
 * library can apply the scales, rows by columns (on Hopper) or one by one. Or it leaves the sums as they are, in y
 * unless that is F16 (BF16 has the exponents for them, and scaling a rounded number is as good as rounding a scaled one),
 * and gemm_finish does the rest: for few rows its pass is cheaper than what scaling costs the library. At precision
 * 16 the library adds with few bits (FAST_ACCUM).
 *
 * Few rows are bound by reading w alone: gemv_sm90.cu takes up to 8 where it can, gemv_sm80.cu one or two with 16-bit w. F32 w
 * with few outputs is for gemm_narrow_sm80.cu.
 *
 * glu: gemv_sm90.cu does it where it finishes sums; else its own kernel follows.
 *
 * Varies: the algorithm, thus the order of the sums, depends on the bucket of rows and on alignment. */
#include <string.h>

#include "kernels/gemm/gemm.h"
#include "kernels/gemm/gemm_finish.h"
#include "kernels/gemm/gemm_plans.h"

enum { SCRATCH_BYTES = 64 << 20, SCRATCH_ROWS_MIN = 128 };

extern const spey_kernel spey_glu_sm80;

static cudaDataType_t cuda_type(spey_dtype dtype)
{
    switch (dtype) {
    case SPEY_F16: return CUDA_R_16F;
    case SPEY_BF16: return CUDA_R_16BF;
    case SPEY_E4M3: return CUDA_R_8F_E4M3;
    default: return CUDA_R_32F;
    }
}

static bool is_float(spey_dtype dtype)
{
    return dtype == SPEY_F32 || dtype == SPEY_F16 || dtype == SPEY_BF16;
}

static bool must_convert(const spey_gemm_args *a)
{
    return a->x_dtype != a->w_dtype;
}

/* Whether bias and activation go into the library call. */
static bool is_fused(const spey_gemm_args *a)
{
    return (a->activation == SPEY_ACT_NONE || a->activation == SPEY_ACT_RELU) &&
           a->w_dtype != SPEY_E4M3 &&
           (a->y_dtype == SPEY_F32 || (!a->bias && a->y_dtype == a->w_dtype));
}

static size_t align_up(size_t bytes)
{
    return (bytes + 255) & ~(size_t)255;
}

static size_t converted_bytes(const spey_gemm_args *a)
{
    size_t element = spey_element_bytes(cuda_type(a->w_dtype));
    return must_convert(a) ? align_up((size_t)a->rows * (size_t)a->k * element) : 0;
}

/* Whether y can hold the sums of E4M3 products: the library is particular about where they lie, F16 too narrow. */
static bool takes_sums(const spey_gemm_args *a)
{
    const size_t pitch = (size_t)a->y_pitch * spey_element_bytes(cuda_type(a->y_dtype));
    return a->y_dtype != SPEY_F16 && pitch % 16 == 0 && (uintptr_t)a->y % 16 == 0;
}

/* Whether FP32 sums go through scratch. */
static bool needs_sums(const spey_gemm_args *a)
{
    if (a->w_dtype == SPEY_E4M3) return !takes_sums(a);
    return !is_fused(a) && a->y_dtype != SPEY_F32;
}

/* Scales of the rows of x, behind x that became E4M3 here. */
static size_t x_scale_bytes(const spey_gemm_args *a)
{
    const bool rounds = a->w_dtype == SPEY_E4M3 && must_convert(a);
    return rounds ? align_up((size_t)a->rows * sizeof(float)) : 0;
}

/* Rows that go through the scratch of sums at once. */
static int64_t chunk_rows(const spey_gemm_args *a)
{
    if (!needs_sums(a)) return a->rows;
    int64_t rows = SCRATCH_BYTES / 4 / (a->n < 1 ? 1 : a->n) & ~(int64_t)(SCRATCH_ROWS_MIN - 1);
    if (rows < SCRATCH_ROWS_MIN) rows = SCRATCH_ROWS_MIN;
    return rows < a->rows ? rows : a->rows;
}

static size_t workspace(const void *args)
{
    const spey_gemm_args *a = args;
    return converted_bytes(a) + x_scale_bytes(a) +
           (needs_sums(a) ? align_up((size_t)chunk_rows(a) * (size_t)a->n * sizeof(float)) : 0);
}

/* Sixteens of bytes everywhere. */
static bool supports_e4m3(const spey_gemm_args *a)
{
    if (a->x_dtype == SPEY_E4M3 && (a->x_pitch % 16 || (uintptr_t)a->x % 16)) return false;
    return a->x_quant != SPEY_INPUT_AS_IS && a->k > 0 && a->k % 16 == 0 && a->n % 16 == 0 &&
           a->w_pitch % 16 == 0 && (uintptr_t)a->w % 16 == 0;
}

static bool supports(const void *args)
{
    const spey_gemm_args *a = args;
    if (a->glu.out && !spey_glu_sm80.supports(&a->glu)) return false;
    const bool rounded = a->x_dtype == SPEY_E4M3;
    if (a->w_dtype == SPEY_E4M3 && (rounded || is_float(a->x_dtype)) && is_float(a->y_dtype))
        return a->rows <= INT32_MAX && a->n <= INT32_MAX && a->k <= INT32_MAX && supports_e4m3(a);
    if (!is_float(a->x_dtype) || !is_float(a->w_dtype) || !is_float(a->y_dtype)) return false;
    if (a->rows > INT32_MAX || a->n > INT32_MAX || a->k > INT32_MAX) return false;
    if (a->x_dtype == a->w_dtype || a->w_dtype == SPEY_F32) return true;
    return a->x_dtype == SPEY_F32 && a->precision == SPEY_PRECISION_16;
}

static cublasLtEpilogue_t fused_epilogue(const spey_gemm_args *a)
{
    if (a->activation == SPEY_ACT_RELU)
        return a->bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
    return a->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

/* x is of w's type; `sums` is the scratch for FP32 sums. */
/* NOLINTNEXTLINE(readability-non-const-parameter): written through y. */
static spey_matmul plain_matmul(const spey_gemm_args *a, float *sums)
{
    bool fused = is_fused(a);
    bool in_place = fused || a->y_dtype == SPEY_F32;
    return (spey_matmul){ .rows = a->rows,
                          .n = a->n,
                          .k = a->k,
                          .x = a->x,
                          .w = a->w,
                          .bias = fused ? a->bias : NULL,
                          .y = in_place ? a->y : sums,
                          .x_pitch = a->x_pitch,
                          .w_pitch = a->w_pitch,
                          .y_pitch = in_place ? a->y_pitch : a->n,
                          .x_type = cuda_type(a->w_dtype),
                          .y_type = in_place ? cuda_type(a->y_dtype) : CUDA_R_32F,
                          .epilogue = fused ? fused_epilogue(a) : CUBLASLT_EPILOGUE_DEFAULT };
}

/* All rows, or a chunk of them. */
static void run_rows(spey_device *device, const spey_gemm_args *a, float *sums)
{
    const bool fused = is_fused(a);
    const spey_matmul m = plain_matmul(a, sums);
    cublasStatus_t status = a->k > 0 ? spey_matmul_run(device, &m) : CUBLAS_STATUS_SUCCESS;
    if (status != CUBLAS_STATUS_SUCCESS) spey_matmul_note(device, &m, status);
    if (status != CUBLAS_STATUS_SUCCESS || (a->k > 0 && fused)) return;
    const spey_gemm_finish finish = { .rows = a->rows,
                                      .cols = a->n,
                                      .sums = a->k > 0 ? m.y : NULL,
                                      .sums_dtype = SPEY_F32,
                                      .sums_pitch = m.y_pitch,
                                      .bias = a->bias,
                                      .activation = a->activation,
                                      .out = a->y,
                                      .out_dtype = a->y_dtype,
                                      .out_pitch = a->y_pitch };
    spey_gemm_finish_launch(&finish, device->stream);
}

/* ---- E4M3 ---- */

/* Rows of x that are E4M3, on their way through the library. */
typedef struct e4m3_call {
    spey_gemm_args args; /* x is E4M3 */
    const float *x_scales;
    int64_t x_scale_step; /* 1: of each row; 0: one */
    void *sums;           /* y or scratch */
    int64_t sums_pitch;
    spey_dtype sums_dtype;
} e4m3_call;

/* What one call can do of it; SPEY_SCALE_NOT: gemm_finish has something to do. */
static spey_scale_mode library_scales(const e4m3_call *c)
{
    const spey_gemm_args *a = &c->args;
    if (a->bias || a->activation != SPEY_ACT_NONE) return SPEY_SCALE_NOT;
    if (!a->w_scale_step && a->x_quant == SPEY_INPUT_STATIC) return SPEY_SCALE_ONE;
    return a->w_scale_step && c->x_scale_step ? SPEY_SCALE_EACH : SPEY_SCALE_NOT;
}

static spey_matmul e4m3_matmul(const e4m3_call *c, spey_scale_mode mode)
{
    const spey_gemm_args *a = &c->args;
    const bool whole = mode != SPEY_SCALE_NOT;
    return (spey_matmul){ .rows = a->rows,
                          .n = a->n,
                          .k = a->k,
                          .x = a->x,
                          .w = a->w,
                          .y = whole ? a->y : c->sums,
                          .x_pitch = a->x_pitch,
                          .w_pitch = a->w_pitch,
                          .y_pitch = whole ? a->y_pitch : c->sums_pitch,
                          .x_type = CUDA_R_8F_E4M3,
                          .y_type = cuda_type(whole ? a->y_dtype : c->sums_dtype),
                          .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                          .scale_mode = mode,
                          .x_scale = c->x_scales,
                          .w_scale = a->w_scale,
                          .fast = a->precision == SPEY_PRECISION_16 };
}

static void run_e4m3_rows(spey_device *device, const e4m3_call *c)
{
    const spey_gemm_args *a = &c->args;
    spey_matmul m = e4m3_matmul(c, library_scales(c));
    const bool slow = m.scale_mode == SPEY_SCALE_EACH && spey_matmul_is_slow(device, &m);
    if (m.scale_mode != SPEY_SCALE_NOT && !slow &&
        spey_matmul_run(device, &m) == CUBLAS_STATUS_SUCCESS)
        return;
    m = e4m3_matmul(c, SPEY_SCALE_NOT);
    cublasStatus_t status = spey_matmul_run(device, &m);
    if (status != CUBLAS_STATUS_SUCCESS) {
        spey_matmul_note(device, &m, status);
        return;
    }
    const spey_gemm_finish finish = { .rows = a->rows,
                                      .cols = a->n,
                                      .sums = c->sums,
                                      .sums_dtype = c->sums_dtype,
                                      .sums_pitch = c->sums_pitch,
                                      .row_scales = c->x_scales,
                                      .row_scale_step = c->x_scale_step,
                                      .col_scales = a->w_scale,
                                      .col_scale_step = a->w_scale_step,
                                      .bias = a->bias,
                                      .activation = a->activation,
                                      .out = a->y,
                                      .out_dtype = a->y_dtype,
                                      .out_pitch = a->y_pitch };
    spey_gemm_finish_launch(&finish, device->stream);
}

/* What all chunks of rows share. x is, or will be, rounded. */
static e4m3_call e4m3_call_of(const spey_gemm_args *a)
{
    uint8_t *scratch = a->workspace;
    e4m3_call c = { .args = *a,
                    .x_scales = a->x_scale,
                    .x_scale_step = a->x_quant == SPEY_INPUT_TOKEN ? 1 : 0 };
    if (must_convert(a)) {
        c.args.x = scratch;
        c.args.x_pitch = a->k;
        c.x_scales = (float *)(void *)(scratch + converted_bytes(a));
        c.x_scale_step = 1;
    }
    const bool in_place = takes_sums(a);
    c.sums = in_place ? a->y : scratch + converted_bytes(a) + x_scale_bytes(a);
    c.sums_pitch = in_place ? a->y_pitch : a->n;
    c.sums_dtype = in_place ? a->y_dtype : SPEY_F32;
    return c;
}

static void run_e4m3(spey_device *device, const spey_gemm_args *a)
{
    e4m3_call c = e4m3_call_of(a);
    if (must_convert(a))
        spey_gemm_quantize_launch(a, a->workspace, (float *)c.x_scales, device->stream);
    const int64_t rows = a->rows, step = chunk_rows(a);
    const size_t y_bytes = (size_t)a->y_pitch * spey_element_bytes(cuda_type(a->y_dtype));
    for (int64_t begin = 0; begin < rows; begin += step) {
        c.args.rows = rows - begin < step ? rows - begin : step;
        run_e4m3_rows(device, &c);
        c.args.x = (const uint8_t *)c.args.x + (size_t)(c.args.rows * c.args.x_pitch);
        c.args.y = (uint8_t *)c.args.y + (size_t)c.args.rows * y_bytes;
        c.x_scales += c.x_scale_step * c.args.rows;
        if (takes_sums(a)) c.sums = c.args.y;
    }
}

static void multiply(spey_device *device, spey_gemm_args a)
{
    if (spey_few_rows_takes(device, &a)) {
        spey_few_rows_launch(device, &a);
        return;
    }
    if (a.w_dtype == SPEY_E4M3) {
        run_e4m3(device, &a);
        return;
    }
    if (spey_gemv_takes(&a)) {
        spey_gemv_launch(&a, device->stream);
        return;
    }
    if (spey_narrow_takes(&a)) {
        spey_narrow_launch(device, &a);
        return;
    }
    float *sums = (float *)((uint8_t *)a.workspace + converted_bytes(&a));
    if (must_convert(&a) && a.k > 0) {
        spey_gemm_convert_launch(&a, a.workspace, device->stream);
        a.x = a.workspace;
        a.x_pitch = a.k;
        a.x_dtype = a.w_dtype;
    }
    const int64_t rows = a.rows, step = chunk_rows(&a);
    const size_t x_bytes = (size_t)a.x_pitch * spey_element_bytes(cuda_type(a.x_dtype));
    const size_t y_bytes = (size_t)a.y_pitch * spey_element_bytes(cuda_type(a.y_dtype));
    for (int64_t begin = 0; begin < rows; begin += step) {
        a.rows = rows - begin < step ? rows - begin : step;
        run_rows(device, &a, sums);
        a.x = (const uint8_t *)a.x + (size_t)a.rows * x_bytes;
        a.y = (uint8_t *)a.y + (size_t)a.rows * y_bytes;
    }
}

static void run(const void *args, const spey_lane *lane)
{
    spey_device *device = spey_cuda_device(lane);
    const spey_gemm_args *a = args;
    if (a->rows == 0 || a->n == 0) return;
    multiply(device, *a);
    if (!a->glu.out || spey_few_rows_gates(device, a)) return;
    spey_glu_args glu = a->glu;
    glu.rows = a->rows;
    spey_glu_sm80.run(&glu, lane);
}

int spey_gemm_matmuls(const spey_device *device, const spey_gemm_args *args, spey_matmul out[2])
{
    spey_gemm_args a = *args;
    if (a.rows < 1 || a.n < 1 || a.k < 1) return 0;
    if (spey_few_rows_takes(device, &a) || spey_gemv_takes(&a) || spey_narrow_takes(&a)) return 0;
    const int64_t step = chunk_rows(&a);
    if (a.w_dtype == SPEY_E4M3) {
        e4m3_call c = e4m3_call_of(&a);
        const spey_scale_mode mode = library_scales(&c);
        c.args.rows = a.rows < step ? a.rows : step;
        out[0] = e4m3_matmul(&c, mode == SPEY_SCALE_EACH ? SPEY_SCALE_NOT : mode);
        out[1] = e4m3_matmul(&c, SPEY_SCALE_EACH);
        return mode == SPEY_SCALE_EACH ? 2 : 1;
    }
    float *sums = (float *)((uint8_t *)a.workspace + converted_bytes(&a));
    if (must_convert(&a)) {
        a.x = a.workspace;
        a.x_pitch = a.k;
    }
    a.rows = a.rows < step ? a.rows : step;
    out[0] = plain_matmul(&a, sums);
    return 1;
}

const spey_kernel spey_gemm_cublaslt = {
    .name = "gemm/cublaslt",
    .isa = 0,
    .supports = supports,
    .workspace = workspace,
    .run = run,
    .varies = true,
};
