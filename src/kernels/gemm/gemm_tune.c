/* Which of the library's algorithms is fastest for the products of an engine, measured where they will run: on the engine's
 * weights, several layers in turn, so that no weight is in the L2 cache when it is needed.
 *
 * Each candidate runs once unseen (its code is loaded then) and once through the layers; those near the best once more. At
 * few rows a run takes microseconds; at 4,096 rows of a 70B model the four products of a layer with eight candidates take
 * a fifth of a second. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "kernels/gemm/gemm_plans.h"

enum {
    LAYERS_MAX = 8,
    GROUPS_MAX = 32,
    COLD_BYTES = 128 << 20, /* of weights between two uses of one */
    PIECE_ROWS_MIN = 512,
    PIECE_COLS_MIN = 4096,
};

/* Products that differ in their addresses alone, of several layers. */
typedef struct group {
    spey_gemm_args layers[LAYERS_MAX];
    int n_layers;
} group;

static size_t bytes_of(spey_dtype dtype)
{
    return dtype == SPEY_F32 ? 4 : dtype == SPEY_E4M3 ? 1 : 2;
}

static size_t weight_bytes(const spey_gemm_args *a)
{
    return (size_t)a->n * (size_t)a->w_pitch * bytes_of(a->w_dtype);
}

static bool is_alike(const spey_gemm_args *a, const spey_gemm_args *b)
{
    return a->rows == b->rows && a->n == b->n && a->k == b->k && a->x_dtype == b->x_dtype &&
           a->w_dtype == b->w_dtype && a->y_dtype == b->y_dtype && a->x_pitch == b->x_pitch &&
           a->y_pitch == b->y_pitch && a->w_scale_step == b->w_scale_step &&
           a->x_quant == b->x_quant && !a->bias == !b->bias && a->activation == b->activation &&
           a->precision == b->precision;
}

/* Groups that do not fit in are left to the heuristics. */
static int find_groups(const spey_step *steps, int n_steps, group *groups)
{
    int n = 0;
    for (int i = 0; i < n_steps; i++) {
        if (steps[i].kernel != &spey_gemm_cublaslt) continue;
        const spey_gemm_args *a = steps[i].args;
        int g = 0;
        while (g < n && !is_alike(&groups[g].layers[0], a))
            g++;
        if (g == GROUPS_MAX) continue;
        if (g == n) groups[n++].n_layers = 0;
        const size_t held = (size_t)groups[g].n_layers * weight_bytes(a);
        if (groups[g].n_layers < LAYERS_MAX && (groups[g].n_layers < 2 || held < COLD_BYTES))
            groups[g].layers[groups[g].n_layers++] = *a;
    }
    return n;
}

/* Zeros are faster than numbers: they take less power. Weights are as good as any, in any type. */
static void fill_inputs(spey_device *device, const group *g)
{
    const spey_gemm_args *a = &g->layers[0];
    const size_t rows = (size_t)a->rows * (size_t)a->x_pitch * bytes_of(a->x_dtype);
    const size_t weights = (size_t)a->n * (size_t)a->k * bytes_of(a->w_dtype);
    for (int i = 0; i < g->n_layers; i++)
        cudaMemcpyAsync((void *)g->layers[i].x, g->layers[i].w, rows < weights ? rows : weights,
                        cudaMemcpyDeviceToDevice, device->stream);
}

static void clear_inputs(spey_device *device, const group *g)
{
    const spey_gemm_args *a = &g->layers[0];
    const size_t rows = (size_t)a->rows * (size_t)a->x_pitch * bytes_of(a->x_dtype);
    for (int i = 0; i < g->n_layers; i++)
        cudaMemsetAsync((void *)g->layers[i].x, 0, rows, device->stream);
}

typedef struct tuner {
    spey_device *device;
    cudaEvent_t begin, end;
    const group *group;
    int64_t rows;
} tuner;

static void run_layer(const tuner *t, int layer)
{
    spey_gemm_args a = t->group->layers[layer];
    a.rows = t->rows;
    const spey_lane lane = { .count = 1, .stream = t->device };
    spey_gemm_cublaslt.run(&a, &lane);
}

/* Milliseconds of one product; infinite when the library refuses. */
static float measure(const tuner *t)
{
    float ms = INFINITY;
    cudaEventRecord(t->begin, t->device->stream);
    for (int i = 0; i < t->group->n_layers; i++)
        run_layer(t, i);
    cudaEventRecord(t->end, t->device->stream);
    cudaError_t error = cudaEventSynchronize(t->end);
    if (error == cudaSuccess) error = cudaEventElapsedTime(&ms, t->begin, t->end);
    const bool refused = t->device->failed != SPEY_OK;
    t->device->failed = SPEY_OK;
    return error == cudaSuccess && !refused ? ms / (float)t->group->n_layers : INFINITY;
}

/* The same in several calls, of rows or of outputs: large products may suit the cache better so. */
static float tune_pieces(const tuner *t, const spey_cublaslt_plan *whole, float ms)
{
    spey_cublaslt_plan best = *whole, plan = *whole;
    for (int way = 0; way < 2 && t->rows >= 2 * PIECE_ROWS_MIN; way++) {
        plan.by_columns = way == 1;
        const int64_t all = plan.by_columns ? plan.key.n : t->rows;
        const int64_t least = plan.by_columns ? PIECE_COLS_MIN : PIECE_ROWS_MIN;
        for (plan.pieces = 2; plan.pieces <= SPEY_MATMUL_PIECES_MAX && all / plan.pieces >= least;
             plan.pieces++) {
            spey_matmul_use(t->device, &plan);
            const float pieces = measure(t);
            if (pieces >= ms * 0.98f) continue;
            ms = pieces;
            best = plan;
        }
    }
    spey_matmul_use(t->device, &best);
    return ms;
}

/* The fastest plan for m is in use afterwards; how long it takes. The library's own choice must be beaten by 2 %: less is
 * noise. */
static float tune_matmul(const tuner *t, const spey_matmul *m)
{
    spey_cublaslt_plan plans[SPEY_MATMUL_CANDIDATES];
    float ms[SPEY_MATMUL_CANDIDATES] = { 0 }, least = INFINITY;
    const int n = spey_matmul_candidates(t->device, m, plans);
    if (n == 0) return INFINITY;
    for (int i = 0; i < n; i++) {
        spey_matmul_use(t->device, &plans[i]);
        run_layer(t, 0);
        ms[i] = measure(t);
        least = fminf(least, ms[i]);
    }
    int best = 0;
    for (int i = 0; i < n; i++) {
        if (n == 1 || !(ms[i] <= least * 1.05f)) continue;
        spey_matmul_use(t->device, &plans[i]);
        ms[i] = fminf(ms[i], measure(t));
    }
    for (int i = 1; i < n; i++)
        if (ms[i] < ms[best] * (best == 0 ? 0.98f : 1.0f)) best = i;
    if (isinf(ms[best])) return INFINITY;
    return tune_pieces(t, &plans[best], ms[best]);
}

/* Scaling by rows and columns against scaling afterwards: each in turn is made the way that run() goes. */
static void tune_bucket(const tuner *t)
{
    spey_gemm_args a = t->group->layers[0];
    spey_matmul m[2];
    a.rows = t->rows;
    const int n = spey_gemm_matmuls(t->device, &a, m);
    if (n == 0 || spey_matmul_is_known(t->device, &m[0])) return;
    spey_cublaslt_plan each[SPEY_MATMUL_CANDIDATES];
    const bool has_each = n == 2 && spey_matmul_candidates(t->device, &m[1], each) > 0;
    if (has_each) {
        each[0].slow = true;
        spey_matmul_use(t->device, &each[0]);
    }
    const float afterwards = tune_matmul(t, &m[0]);
    if (!has_each || tune_matmul(t, &m[1]) < afterwards) return;
    spey_matmul_use(t->device, &each[0]);
}

static void tune_group(tuner *t)
{
    const int64_t most = t->group->layers[0].rows;
    fill_inputs(t->device, t->group);
    for (int64_t rows = 1; rows <= most; rows = spey_matmul_bucket(rows) + 1) {
        t->rows = spey_matmul_bucket(rows) < most ? spey_matmul_bucket(rows) : most;
        tune_bucket(t);
    }
    clear_inputs(t->device, t->group);
}

spey_status spey_gemm_tune(spey_device *device, const spey_step *steps, int n_steps)
{
    group *groups = spey_new_array(SPEY_PURPOSE_RUNTIME, group, GROUPS_MAX);
    if (!groups) return spey_cuda_host->fail(SPEY_NOMEM, "cuda: out of host memory");
    tuner t = { .device = device };
    const int n = find_groups(steps, n_steps, groups);
    cudaError_t error = cudaEventCreate(&t.begin);
    if (error == cudaSuccess) error = cudaEventCreate(&t.end);
    for (int g = 0; g < n && error == cudaSuccess; g++) {
        t.group = &groups[g];
        tune_group(&t);
    }
    if (t.begin) cudaEventDestroy(t.begin);
    if (t.end) cudaEventDestroy(t.end);
    spey_free(groups);
    if (error == cudaSuccess) error = cudaStreamSynchronize(device->stream);
    return error == cudaSuccess ? SPEY_OK : spey_cuda_failed(error, "tuning");
}
