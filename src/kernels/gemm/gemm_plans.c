#include "kernels/gemm/gemm_plans.h"

#include <string.h>

#include "kernels/gemm/gemm_tactic.h"

/* The library's descriptions of a matmul; they live on the stack. */
typedef struct descriptors {
    cublasLtMatmulDescOpaque_t call;
    cublasLtMatrixLayoutOpaque_t w, x, y;
} descriptors;

/* Few enough to plan them all, close enough that one plan is good for the whole bucket. */
int64_t spey_matmul_bucket(int64_t rows)
{
    int64_t step = rows <= 8 ? 1 : rows <= 64 ? 8 : rows <= 512 ? 64 : rows <= 4096 ? 256 : 2048;
    return (rows + step - 1) / step * step;
}

static int32_t common_alignment(const spey_matmul *m)
{
    size_t in = spey_element_bytes(m->x_type), out = spey_element_bytes(m->y_type);
    uintptr_t bits = (uintptr_t)m->x | (uintptr_t)m->w | (uintptr_t)m->y | (uintptr_t)m->bias | 16;
    bits |= (size_t)m->x_pitch * in | (size_t)m->w_pitch * in | (size_t)m->y_pitch * out;
    return (int32_t)(bits & (~bits + 1));
}

static cublasStatus_t describe_scales(const spey_cublaslt *lt, const spey_matmul *m, descriptors *d)
{
    const int8_t fast = m->fast;
    const int32_t mode = m->scale_mode == SPEY_SCALE_EACH
                             ? CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F
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
    const size_t n = m->scale_mode == SPEY_SCALE_NOT ? 1 : m->scale_mode == SPEY_SCALE_ONE ? 3 : 5;
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0; i < n && status == CUBLAS_STATUS_SUCCESS; i++)
        status = lt->MatmulDescSetAttribute(&d->call, attributes[i].name, attributes[i].value,
                                            attributes[i].bytes);
    return status;
}

static cublasStatus_t describe(const spey_cublaslt *lt, const spey_matmul *m, int64_t rows,
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

/* The library's first guesses; how many. Split-K may add up in FP32 only: y is rounded once. */
static cublasStatus_t ask_library(const spey_cublaslt *lt, const spey_matmul *m, int64_t rows,
                                  int n, cublasLtMatmulHeuristicResult_t *out, int *n_out)
{
    descriptors d;
    *n_out = 0;
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
    return lt->MatmulAlgoGetHeuristic(lt->handle, &d.call, &d.w, &d.x, &d.y, &d.y, &preference, n,
                                      out, n_out);
}

static cublasStatus_t choose_algorithm(const spey_cublaslt *lt, const spey_matmul *m, int64_t rows,
                                       spey_cublaslt_plan *plan)
{
    cublasLtMatmulHeuristicResult_t result;
    int n_results;
    cublasStatus_t status = ask_library(lt, m, rows, 1, &result, &n_results);
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

static spey_cublaslt_key key_of(const spey_matmul *m, int64_t rows)
{
    return (spey_cublaslt_key){ .n = m->n,
                                .k = m->k,
                                .rows = rows,
                                .x_type = (int32_t)m->x_type,
                                .y_type = (int32_t)m->y_type,
                                .epilogue = (int32_t)m->epilogue,
                                .alignment = common_alignment(m),
                                .scale_mode = (int32_t)m->scale_mode,
                                .fast = m->fast };
}

/* Whether an algorithm from a record is one for m: the bytes of a record may be anything. */
static bool accepts(const spey_cublaslt *lt, const spey_matmul *m, int64_t rows,
                    const spey_cublaslt_plan *plan)
{
    descriptors d;
    cublasLtMatmulHeuristicResult_t result;
    return describe(lt, m, rows, &d) == CUBLAS_STATUS_SUCCESS &&
           lt->MatmulAlgoCheck(lt->handle, &d.call, &d.w, &d.x, &d.y, &d.y, &plan->algo, &result) ==
               CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= plan->workspace_bytes;
}

/* Up to here gemm_finish's pass over the sums costs less than scaling by rows and columns costs the library (H200, the
 * products of a 70B layer: 64 rows 340 against 464 TFLOP/s, 128 rows 753 against 904, without that pass). */
enum { UNSCALED_ROWS_MAX = 128 };

/* The one algorithm that scales by rows and columns walks products of many rows and outputs badly: 8192 x 57344 runs at 960
 * TFLOP/s with 4,096 rows, where 28672 x 8192 runs at 1,380. */
enum { WHOLE_ROWS_MAX = 1024, WHOLE_COLS_MAX = 16384, PIECE_COLS = 8192, PIECE_STEP = 64 };

static const spey_cublaslt_plan *get_plan(spey_cublaslt *lt, const spey_matmul *m, int64_t rows)
{
    const spey_cublaslt_key key = key_of(m, rows);
    spey_cublaslt_plan *plan = find_place(lt, &key);
    bool known = !memcmp(&plan->key, &key, sizeof key);
    if (known && plan->origin == SPEY_PLAN_RECORDED) {
        known = accepts(lt, m, rows, plan);
        plan->origin = SPEY_PLAN_MEASURED;
    }
    if (known) return plan;
    memset(plan, 0, sizeof *plan);
    plan->status = choose_algorithm(lt, m, rows, plan);
    const bool each = m->scale_mode == SPEY_SCALE_EACH;
    plan->slow = each && rows <= UNSCALED_ROWS_MAX;
    plan->by_columns = each && rows > WHOLE_ROWS_MAX && m->n > WHOLE_COLS_MAX;
    plan->pieces = plan->by_columns ? (int32_t)((m->n + PIECE_COLS - 1) / PIECE_COLS) : 1;
    /* That there is none is worth knowing too; what else went wrong may not happen again. */
    if (plan->status == CUBLAS_STATUS_SUCCESS || plan->status == CUBLAS_STATUS_NOT_SUPPORTED)
        plan->key = key;
    return plan;
}

bool spey_matmul_is_slow(spey_device *device, const spey_matmul *m)
{
    return get_plan(device->cublaslt, m, spey_matmul_bucket(m->rows))->slow;
}

/* ---- running ---- */

static cublasStatus_t try_matmul(spey_device *device, const spey_matmul *m, int64_t plan_rows)
{
    spey_cublaslt *lt = device->cublaslt;
    const float one = 1.0f, zero = 0.0f;
    descriptors d;
    const spey_cublaslt_plan *plan = get_plan(lt, m, plan_rows);
    cublasStatus_t status = plan->status;
    if (status == CUBLAS_STATUS_SUCCESS) status = describe(lt, m, m->rows, &d);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    return lt->Matmul(lt->handle, &d.call, &one, m->w, &d.w, m->x, &d.x, &zero, m->y, &d.y, m->y,
                      &d.y, &plan->algo, lt->workspace, plan->workspace_bytes, device->stream);
}

/* An algorithm that suits the bucket's size but not this one is refused before anything is launched. */
static cublasStatus_t run_whole(spey_device *device, const spey_matmul *m)
{
    cublasStatus_t status = try_matmul(device, m, spey_matmul_bucket(m->rows));
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE)
        status = try_matmul(device, m, m->rows);
    return status;
}

/* Rows [begin, begin + rows) of m. */
static spey_matmul rows_of(const spey_matmul *m, int64_t begin, int64_t rows)
{
    spey_matmul piece = *m;
    const size_t x = (size_t)(begin * m->x_pitch), y = (size_t)(begin * m->y_pitch);
    piece.rows = rows;
    piece.x = (const uint8_t *)m->x + x * spey_element_bytes(m->x_type);
    piece.y = (uint8_t *)m->y + y * spey_element_bytes(m->y_type);
    if (m->scale_mode == SPEY_SCALE_EACH) piece.x_scale += begin;
    return piece;
}

/* Outputs [begin, begin + n). */
static spey_matmul columns_of(const spey_matmul *m, int64_t begin, int64_t n)
{
    spey_matmul piece = *m;
    const size_t w = (size_t)(begin * m->w_pitch);
    piece.n = n;
    piece.w = (const uint8_t *)m->w + w * spey_element_bytes(m->x_type);
    piece.y = (uint8_t *)m->y + (size_t)begin * spey_element_bytes(m->y_type);
    if (m->bias) piece.bias += begin;
    if (m->scale_mode == SPEY_SCALE_EACH) piece.w_scale += begin;
    return piece;
}

cublasStatus_t spey_matmul_run(spey_device *device, const spey_matmul *m)
{
    const spey_cublaslt_plan *plan = get_plan(device->cublaslt, m, spey_matmul_bucket(m->rows));
    const bool by_columns = plan->by_columns;
    const int64_t all = by_columns ? m->n : m->rows;
    const int64_t step =
        (all + plan->pieces * PIECE_STEP - 1) / (plan->pieces * PIECE_STEP) * PIECE_STEP;
    if (plan->pieces < 2 || step >= all) return run_whole(device, m);
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    for (int64_t at = 0; at < all && status == CUBLAS_STATUS_SUCCESS; at += step) {
        const int64_t some = all - at < step ? all - at : step;
        const spey_matmul piece = by_columns ? columns_of(m, at, some) : rows_of(m, at, some);
        status = run_whole(device, &piece);
    }
    return status;
}

void spey_matmul_note(spey_device *device, const spey_matmul *m, cublasStatus_t status)
{
    spey_cuda_note(device, SPEY_DEVICE, "%s for %lld x %lld x %lld, alignment %d",
                   device->cublaslt->GetStatusName(status), (long long)m->rows, (long long)m->n,
                   (long long)m->k, common_alignment(m));
}

/* ---- tuning ---- */

int spey_matmul_candidates(spey_device *device, const spey_matmul *m,
                           spey_cublaslt_plan out[SPEY_MATMUL_CANDIDATES])
{
    cublasLtMatmulHeuristicResult_t results[SPEY_MATMUL_CANDIDATES];
    const int64_t rows = spey_matmul_bucket(m->rows);
    int n_results, n = 0;
    if (ask_library(device->cublaslt, m, rows, SPEY_MATMUL_CANDIDATES, results, &n_results) !=
        CUBLAS_STATUS_SUCCESS)
        return 0;
    for (int i = 0; i < n_results; i++)
        if (results[i].state == CUBLAS_STATUS_SUCCESS)
            out[n++] = (spey_cublaslt_plan){ .key = key_of(m, rows),
                                             .status = CUBLAS_STATUS_SUCCESS,
                                             .algo = results[i].algo,
                                             .workspace_bytes = results[i].workspaceSize,
                                             .pieces = 1,
                                             .origin = SPEY_PLAN_MEASURED };
    return n;
}

void spey_matmul_use(spey_device *device, const spey_cublaslt_plan *plan)
{
    *find_place(device->cublaslt, &plan->key) = *plan;
}

bool spey_matmul_is_known(spey_device *device, const spey_matmul *m)
{
    const spey_cublaslt_key key = key_of(m, spey_matmul_bucket(m->rows));
    const spey_cublaslt_plan *plan = find_place(device->cublaslt, &key);
    return !memcmp(&plan->key, &key, sizeof key) && plan->origin != SPEY_PLAN_GUESSED;
}

/* ---- records ---- */

/* One plan in a record. */
typedef struct tactic {
    spey_cublaslt_key key;
    cublasLtMatmulAlgo_t algo;
    uint64_t workspace_bytes;
    spey_gemm_cut cut;
} tactic;

_Static_assert(sizeof(tactic) == SPEY_GEMM_TACTIC_BYTES, "all of a tactic, without padding");

size_t spey_gemm_tactics_read(spey_device *device, void *out, size_t capacity)
{
    const spey_cublaslt *lt = device->cublaslt;
    size_t bytes = 0;
    for (size_t i = 0; i < SPEY_CUBLASLT_PLANS; i++) {
        const spey_cublaslt_plan *plan = &lt->plans[i];
        if (plan->key.n == 0 || plan->origin == SPEY_PLAN_GUESSED) continue;
        const uint32_t flags = (plan->slow ? SPEY_GEMM_CUT_SLOW : 0) |
                               (plan->by_columns ? SPEY_GEMM_CUT_BY_COLUMNS : 0);
        const tactic t = {
            plan->key, plan->algo, plan->workspace_bytes, { (uint32_t)plan->pieces, flags }
        };
        if (bytes + sizeof t <= capacity) memcpy((uint8_t *)out + bytes, &t, sizeof t);
        bytes += sizeof t;
    }
    return bytes;
}

static bool is_sound(const tactic *t)
{
    return t->key.n > 0 && t->key.k > 0 && t->key.rows > 0 &&
           t->workspace_bytes <= SPEY_CUDA_GEMM_WORKSPACE && t->cut.flags <= 3 &&
           t->cut.pieces > 0 && t->cut.pieces <= SPEY_MATMUL_PIECES_MAX;
}

bool spey_gemm_tactics_write(spey_device *device, const void *bytes, size_t n)
{
    tactic t;
    if (n % sizeof t) return false;
    for (size_t at = 0; at < n; at += sizeof t) {
        memcpy(&t, (const uint8_t *)bytes + at, sizeof t);
        if (!is_sound(&t)) return false;
    }
    for (size_t at = 0; at < n; at += sizeof t) {
        memcpy(&t, (const uint8_t *)bytes + at, sizeof t);
        const spey_cublaslt_plan plan = { .key = t.key,
                                          .status = CUBLAS_STATUS_SUCCESS,
                                          .algo = t.algo,
                                          .workspace_bytes = t.workspace_bytes,
                                          .pieces = (int32_t)t.cut.pieces,
                                          .origin = SPEY_PLAN_RECORDED,
                                          .slow = t.cut.flags & SPEY_GEMM_CUT_SLOW,
                                          .by_columns = t.cut.flags & SPEY_GEMM_CUT_BY_COLUMNS };
        spey_matmul_use(device, &plan);
    }
    return true;
}
