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
 * One or two rows with 16-bit w are bound by memory alone: gemv_sm80.cu takes them.
 *
 * Plans (the algorithm for a shape) are made at the first use of a bucket of rows, on the host, in about 100 µs, and
 * kept; that is allowed while a graph is captured.
 *
 * Varies: the algorithm, thus the order of the sums, depends on the bucket of rows and on alignment. */
#include <string.h>

#include "kernels/cuda/cublaslt.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/gemm_finish.h"

enum { SCRATCH_BYTES = 64 << 20, SCRATCH_ROWS_MIN = 128 };

/* How the library scales a product of E4M3 matrices. */
typedef enum scale_mode {
    SCALE_NOT,  /* it does not */
    SCALE_ONE,  /* by one number of each matrix */
    SCALE_EACH, /* by one of each row of x and of each output */
} scale_mode;

/* One library call. */
typedef struct matmul {
    int64_t rows, n, k;
    const void *x, *w;
    const float *bias;
    void *y;
    int64_t x_pitch, w_pitch, y_pitch;
    cudaDataType_t x_type, y_type;
    cublasLtEpilogue_t epilogue;
    scale_mode scale_mode;
    const float *x_scale, *w_scale;
    bool fast;
} matmul;

/* The library's descriptions of a matmul; they live on the stack. */
typedef struct descriptors {
    cublasLtMatmulDescOpaque_t call;
    cublasLtMatrixLayoutOpaque_t w, x, y;
} descriptors;

static cudaDataType_t cuda_type(spey_dtype dtype)
{
    switch (dtype) {
    case SPEY_F16: return CUDA_R_16F;
    case SPEY_BF16: return CUDA_R_16BF;
    case SPEY_E4M3: return CUDA_R_8F_E4M3;
    default: return CUDA_R_32F;
    }
}

static size_t element_bytes(cudaDataType_t type)
{
    return type == CUDA_R_32F ? 4 : type == CUDA_R_8F_E4M3 ? 1 : 2;
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
    size_t element = element_bytes(cuda_type(a->w_dtype));
    return must_convert(a) ? align_up((size_t)a->rows * (size_t)a->k * element) : 0;
}

/* Whether y can hold the sums of E4M3 products: the library is particular about where they lie, F16 too narrow. */
static bool takes_sums(const spey_gemm_args *a)
{
    const size_t pitch = (size_t)a->y_pitch * element_bytes(cuda_type(a->y_dtype));
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
    const bool rounded = a->x_dtype == SPEY_E4M3;
    if (a->w_dtype == SPEY_E4M3 && (rounded || is_float(a->x_dtype)) && is_float(a->y_dtype))
        return a->rows <= INT32_MAX && a->n <= INT32_MAX && a->k <= INT32_MAX && supports_e4m3(a);
    if (!is_float(a->x_dtype) || !is_float(a->w_dtype) || !is_float(a->y_dtype)) return false;
    if (a->rows > INT32_MAX || a->n > INT32_MAX || a->k > INT32_MAX) return false;
    if (a->x_dtype == a->w_dtype || a->w_dtype == SPEY_F32) return true;
    return a->x_dtype == SPEY_F32 && a->precision == SPEY_PRECISION_16;
}

/* ---- plans ---- */

/* Few enough to plan them all, close enough that one plan is good for the whole bucket. */
static int64_t row_bucket(int64_t rows)
{
    int64_t step = rows <= 8 ? 1 : rows <= 64 ? 8 : rows <= 512 ? 64 : rows <= 4096 ? 256 : 2048;
    return (rows + step - 1) / step * step;
}

static int32_t common_alignment(const matmul *m)
{
    size_t in = element_bytes(m->x_type), out = element_bytes(m->y_type);
    uintptr_t bits = (uintptr_t)m->x | (uintptr_t)m->w | (uintptr_t)m->y | (uintptr_t)m->bias | 16;
    bits |= (size_t)m->x_pitch * in | (size_t)m->w_pitch * in | (size_t)m->y_pitch * out;
    return (int32_t)(bits & (~bits + 1));
}

static cublasStatus_t describe_scales(const spey_cublaslt *lt, const matmul *m, descriptors *d)
{
    const int8_t fast = m->fast;
    const int32_t mode = m->scale_mode == SCALE_EACH ? CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F
                                                     : CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
    const struct {
        cublasLtMatmulDescAttributes_t name;
        const void *value;
        size_t bytes;
    } attributes[] = {
        { CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast },
        { CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &m->w_scale, sizeof m->w_scale },
        { CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &m->x_scale, sizeof m->x_scale },
        { CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode },
        { CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode },
    };
    const size_t n = m->scale_mode == SCALE_NOT ? 1 : m->scale_mode == SCALE_ONE ? 3 : 5;
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0; i < n && status == CUBLAS_STATUS_SUCCESS; i++)
        status = lt->MatmulDescSetAttribute(&d->call, attributes[i].name, attributes[i].value,
                                            attributes[i].bytes);
    return status;
}

static cublasStatus_t describe(const spey_cublaslt *lt, const matmul *m, int64_t rows,
                               descriptors *d)
{
    const struct {
        cublasLtMatrixLayoutOpaque_t *layout;
        cudaDataType_t type;
        int64_t rows, cols, pitch;
    } matrices[] = { { &d->w, m->x_type, m->k, m->n, m->w_pitch },
                     { &d->x, m->x_type, m->k, rows, m->x_pitch },
                     { &d->y, m->y_type, m->n, rows, m->y_pitch } };
    cublasStatus_t status =
        lt->MatmulDescInit_internal(&d->call, sizeof d->call, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    for (int i = 0; i < 3 && status == CUBLAS_STATUS_SUCCESS; i++)
        status = lt->MatrixLayoutInit_internal(matrices[i].layout, sizeof *matrices[i].layout,
                                               matrices[i].type, (uint64_t)matrices[i].rows,
                                               (uint64_t)matrices[i].cols, matrices[i].pitch);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    cublasOperation_t transpose = CUBLAS_OP_T;
    status = lt->MatmulDescSetAttribute(&d->call, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                        sizeof transpose);
    if (status == CUBLAS_STATUS_SUCCESS && m->x_type == CUDA_R_8F_E4M3)
        status = describe_scales(lt, m, d);
    if (status != CUBLAS_STATUS_SUCCESS || m->epilogue == CUBLASLT_EPILOGUE_DEFAULT) return status;
    status = lt->MatmulDescSetAttribute(&d->call, CUBLASLT_MATMUL_DESC_EPILOGUE, &m->epilogue,
                                        sizeof m->epilogue);
    if (status != CUBLAS_STATUS_SUCCESS || !m->bias) return status;
    return lt->MatmulDescSetAttribute(&d->call, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &m->bias,
                                      sizeof m->bias);
}

/* Ask the library's heuristics. Split-K may add up in FP32 only: y is rounded once. */
static cublasStatus_t choose_algorithm(const spey_cublaslt *lt, const matmul *m, int64_t rows,
                                       spey_cublaslt_plan *plan)
{
    descriptors d;
    cublasStatus_t status = describe(lt, m, rows, &d);
    cublasLtMatmulPreferenceOpaque_t preference;
    if (status == CUBLAS_STATUS_SUCCESS)
        status = lt->MatmulPreferenceInit_internal(&preference, sizeof preference);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    size_t workspace_bytes = SPEY_CUDA_GEMM_WORKSPACE;
    uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    uint32_t alignment = (uint32_t)common_alignment(m);
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t bytes;
    } wishes[] = {
        { CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes, sizeof workspace_bytes },
        { CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof reduction },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignment, sizeof alignment },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &alignment, sizeof alignment },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &alignment, sizeof alignment },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &alignment, sizeof alignment },
    };
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++) {
        status = lt->MatmulPreferenceSetAttribute(&preference, wishes[i].name, wishes[i].value,
                                                  wishes[i].bytes);
        if (status != CUBLAS_STATUS_SUCCESS) return status;
    }
    cublasLtMatmulHeuristicResult_t result;
    int n_results = 0;
    status = lt->MatmulAlgoGetHeuristic(lt->handle, &d.call, &d.w, &d.x, &d.y, &d.y, &preference, 1,
                                        &result, &n_results);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (n_results == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    plan->algo = result.algo;
    plan->workspace_bytes = result.workspaceSize;
    return result.state;
}

static uint64_t hash_key(const spey_cublaslt_key *key)
{
    const unsigned char *bytes = (const unsigned char *)key;
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < sizeof *key; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash ^ hash >> 32;
}

/* The plan's place: its own, a free one, or, when 8 neighbours are taken, the first of them (made again each time two
 * shapes take turns there: slow, never wrong). */
static spey_cublaslt_plan *find_place(spey_cublaslt *lt, const spey_cublaslt_key *key)
{
    uint64_t hash = hash_key(key);
    for (uint64_t i = 0; i < 8; i++) {
        spey_cublaslt_plan *plan = &lt->plans[(hash + i) % SPEY_CUBLASLT_PLANS];
        if (plan->key.n == 0 || !memcmp(&plan->key, key, sizeof *key)) return plan;
    }
    return &lt->plans[hash % SPEY_CUBLASLT_PLANS];
}

static cublasStatus_t get_plan(spey_cublaslt *lt, const matmul *m, int64_t rows,
                               const spey_cublaslt_plan **out)
{
    const spey_cublaslt_key key = { .n = m->n,
                                    .k = m->k,
                                    .rows = rows,
                                    .x_type = (int32_t)m->x_type,
                                    .y_type = (int32_t)m->y_type,
                                    .epilogue = (int32_t)m->epilogue,
                                    .alignment = common_alignment(m),
                                    .scale_mode = (int32_t)m->scale_mode,
                                    .fast = m->fast };
    spey_cublaslt_plan *plan = find_place(lt, &key);
    *out = plan;
    if (!memcmp(&plan->key, &key, sizeof key)) return plan->status;
    memset(plan, 0, sizeof *plan);
    plan->status = choose_algorithm(lt, m, rows, plan);
    /* That there is none is worth knowing too; what else went wrong may not happen again. */
    if (plan->status == CUBLAS_STATUS_SUCCESS || plan->status == CUBLAS_STATUS_NOT_SUPPORTED)
        plan->key = key;
    return plan->status;
}

/* ---- running ---- */

static cublasStatus_t try_matmul(spey_device *device, const matmul *m, int64_t plan_rows)
{
    spey_cublaslt *lt = device->cublaslt;
    const float one = 1.0f, zero = 0.0f;
    const spey_cublaslt_plan *plan;
    descriptors d;
    cublasStatus_t status = get_plan(lt, m, plan_rows, &plan);
    if (status == CUBLAS_STATUS_SUCCESS) status = describe(lt, m, m->rows, &d);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    return lt->Matmul(lt->handle, &d.call, &one, m->w, &d.w, m->x, &d.x, &zero, m->y, &d.y, m->y,
                      &d.y, &plan->algo, lt->workspace, plan->workspace_bytes, device->stream);
}

/* An algorithm that suits the bucket's size but not this one is refused before anything is launched. */
static cublasStatus_t run_matmul(spey_device *device, const matmul *m)
{
    cublasStatus_t status = try_matmul(device, m, row_bucket(m->rows));
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE)
        status = try_matmul(device, m, m->rows);
    return status;
}

static void note_failure(spey_device *device, const matmul *m, cublasStatus_t status)
{
    spey_cuda_note(device, SPEY_DEVICE, "%s for %lld x %lld x %lld, alignment %d",
                   device->cublaslt->GetStatusName(status), (long long)m->rows, (long long)m->n,
                   (long long)m->k, common_alignment(m));
}

static cublasLtEpilogue_t fused_epilogue(const spey_gemm_args *a)
{
    if (a->activation == SPEY_ACT_RELU)
        return a->bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
    return a->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

/* All rows, or a chunk of them; `sums` is the scratch for FP32 sums. */
/* NOLINTNEXTLINE(readability-non-const-parameter): written through m.y. */
static void run_rows(spey_device *device, const spey_gemm_args *a, float *sums)
{
    bool fused = is_fused(a);
    bool in_place = fused || a->y_dtype == SPEY_F32;
    matmul m = { .rows = a->rows,
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
    cublasStatus_t status = a->k > 0 ? run_matmul(device, &m) : CUBLAS_STATUS_SUCCESS;
    if (status != CUBLAS_STATUS_SUCCESS) note_failure(device, &m, status);
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

/* Up to here gemm_finish's pass over 16-bit sums costs less than scaling by rows and columns costs the library (H200,
 * 70B: 128 rows 753 against 904 TFLOP/s, 512 rows 1,250 against 1,422). */
enum { UNSCALED_ROWS_MAX = 512 };

/* What one call can do of it; SCALE_NOT: gemm_finish has something to do. */
static scale_mode library_scales(const e4m3_call *c)
{
    const spey_gemm_args *a = &c->args;
    if (a->bias || a->activation != SPEY_ACT_NONE) return SCALE_NOT;
    if (!a->w_scale_step && a->x_quant == SPEY_INPUT_STATIC) return SCALE_ONE;
    if (a->rows <= UNSCALED_ROWS_MAX || !a->w_scale_step || !c->x_scale_step) return SCALE_NOT;
    return SCALE_EACH;
}

static matmul e4m3_matmul(const e4m3_call *c, scale_mode mode)
{
    const spey_gemm_args *a = &c->args;
    const bool whole = mode != SCALE_NOT;
    return (matmul){ .rows = a->rows,
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
    matmul m = e4m3_matmul(c, library_scales(c));
    if (m.scale_mode != SCALE_NOT && run_matmul(device, &m) == CUBLAS_STATUS_SUCCESS) return;
    m = e4m3_matmul(c, SCALE_NOT);
    cublasStatus_t status = run_matmul(device, &m);
    if (status != CUBLAS_STATUS_SUCCESS) {
        note_failure(device, &m, status);
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

/* What all chunks of rows share; x is rounded here unless it is. */
static e4m3_call begin_e4m3(spey_device *device, const spey_gemm_args *a)
{
    uint8_t *scratch = a->workspace;
    e4m3_call c = { .args = *a,
                    .x_scales = a->x_scale,
                    .x_scale_step = a->x_quant == SPEY_INPUT_TOKEN ? 1 : 0 };
    if (must_convert(a)) {
        float *scales = (float *)(void *)(scratch + converted_bytes(a));
        spey_gemm_quantize_launch(a, scratch, scales, device->stream);
        c.args.x = scratch;
        c.args.x_pitch = a->k;
        c.x_scales = scales;
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
    e4m3_call c = begin_e4m3(device, a);
    const int64_t rows = a->rows, step = chunk_rows(a);
    const size_t y_bytes = (size_t)a->y_pitch * element_bytes(cuda_type(a->y_dtype));
    for (int64_t begin = 0; begin < rows; begin += step) {
        c.args.rows = rows - begin < step ? rows - begin : step;
        run_e4m3_rows(device, &c);
        c.args.x = (const uint8_t *)c.args.x + (size_t)(c.args.rows * c.args.x_pitch);
        c.args.y = (uint8_t *)c.args.y + (size_t)c.args.rows * y_bytes;
        c.x_scales += c.x_scale_step * c.args.rows;
        if (takes_sums(a)) c.sums = c.args.y;
    }
}

static void run(const void *args, const spey_lane *lane)
{
    spey_device *device = spey_cuda_device(lane);
    spey_gemm_args a = *(const spey_gemm_args *)args;
    if (a.rows == 0 || a.n == 0) return;
    if (a.w_dtype == SPEY_E4M3) {
        run_e4m3(device, &a);
        return;
    }
    if (spey_gemv_takes(&a)) {
        spey_gemv_launch(&a, device->stream);
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
    const size_t x_bytes = (size_t)a.x_pitch * element_bytes(cuda_type(a.x_dtype));
    const size_t y_bytes = (size_t)a.y_pitch * element_bytes(cuda_type(a.y_dtype));
    for (int64_t begin = 0; begin < rows; begin += step) {
        a.rows = rows - begin < step ? rows - begin : step;
        run_rows(device, &a, sums);
        a.x = (const uint8_t *)a.x + (size_t)a.rows * x_bytes;
        a.y = (uint8_t *)a.y + (size_t)a.rows * y_bytes;
    }
}

extern const spey_kernel spey_gemm_cublaslt;
const spey_kernel spey_gemm_cublaslt = {
    .name = "gemm/cublaslt",
    .isa = 0,
    .supports = supports,
    .workspace = workspace,
    .run = run,
    .varies = true,
};
