/* benchattention: attention of the CUDA plug-in at the sizes that serving has, which checkkernel's problems cannot reach.
 *
 *   benchattention PLUGIN [--row NAME] [--only decode|prefill|mixed] [--runs N]
 *
 * Prints median time, bytes of K and V (each once) and products a second, and the share of the measured device-to-device
 * copy, whose bytes are counted in both directions. Some outputs of each shape are compared with FP64 on the host. The
 * pool is filled with a stretch of random numbers again and again, blocks are shuffled. */
#include <dlfcn.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "device/backend.h"
#include "kernels/attention/attention.h"

enum { STRETCH = (32 << 20) - 48, BLOCK = 64, SEQS_MAX = 1024, RUNS_MAX = 200 };

typedef struct shape {
    const char *what;
    int n_heads, n_kv_heads, head_dim;
    int n_seqs, n_tokens, kv_len; /* of each sequence */
    int more_seqs, more_tokens, more_len;
    spey_dtype kv;
    int v_dim; /* 0: head_dim */
} shape;

static const shape shapes[] = {
    { "decode", 32, 8, 128, 1, 1, 1024, 0, 0, 0, SPEY_BF16, 0 },
    { "decode", 32, 8, 128, 1, 1, 8192, 0, 0, 0, SPEY_BF16, 0 },
    { "decode", 32, 8, 128, 16, 1, 2048, 0, 0, 0, SPEY_BF16, 0 },
    { "decode", 64, 8, 128, 64, 1, 1024, 0, 0, 0, SPEY_BF16, 0 },
    { "decode", 64, 8, 128, 64, 1, 2048, 0, 0, 0, SPEY_BF16, 0 },
    { "decode", 64, 8, 128, 64, 1, 8192, 0, 0, 0, SPEY_BF16, 0 },
    { "decode", 64, 8, 128, 128, 1, 2048, 0, 0, 0, SPEY_BF16, 0 },
    { "decode", 64, 8, 128, 256, 1, 1024, 0, 0, 0, SPEY_BF16, 0 },
    { "decode", 64, 8, 128, 256, 1, 4096, 0, 0, 0, SPEY_BF16, 0 },
    { "decode", 32, 32, 128, 64, 1, 1024, 0, 0, 0, SPEY_BF16, 0 },
    { "decode", 16, 16, 256, 64, 1, 1024, 0, 0, 0, SPEY_BF16, 0 },
    { "decode", 232, 8, 64, 64, 1, 2048, 0, 0, 0, SPEY_BF16, 0 },
    { "decode", 32, 8, 128, 255, 1, 300, 1, 1, 32768, SPEY_BF16, 0 },
    { "decode", 64, 8, 128, 64, 1, 1024, 0, 0, 0, SPEY_E4M3, 0 },
    { "decode", 64, 8, 128, 64, 1, 8192, 0, 0, 0, SPEY_E4M3, 0 },
    { "decode", 64, 8, 128, 128, 1, 2048, 0, 0, 0, SPEY_E4M3, 0 },
    { "decode", 64, 8, 128, 256, 1, 1024, 0, 0, 0, SPEY_E4M3, 0 },
    { "decode", 64, 8, 128, 256, 1, 4096, 0, 0, 0, SPEY_E4M3, 0 },
    { "decode", 64, 8, 128, 64, 1, 1024, 0, 0, 0, SPEY_I8, 0 },
    { "decode", 64, 8, 128, 64, 1, 8192, 0, 0, 0, SPEY_I8, 0 },
    { "decode", 64, 8, 128, 256, 1, 1024, 0, 0, 0, SPEY_I8, 0 },
    { "decode", 64, 8, 128, 256, 1, 4096, 0, 0, 0, SPEY_I8, 0 },
    { "prefill", 32, 8, 128, 1, 2048, 2048, 0, 0, 0, SPEY_BF16, 0 },
    { "prefill", 32, 8, 128, 4, 2048, 2048, 0, 0, 0, SPEY_BF16, 0 },
    { "prefill", 32, 8, 128, 1, 4096, 4096, 0, 0, 0, SPEY_BF16, 0 },
    { "prefill", 32, 8, 128, 1, 8192, 8192, 0, 0, 0, SPEY_BF16, 0 },
    { "prefill", 32, 32, 128, 2, 4096, 4096, 0, 0, 0, SPEY_BF16, 0 },
    { "prefill", 32, 8, 64, 2, 4096, 4096, 0, 0, 0, SPEY_BF16, 0 },
    { "prefill", 16, 16, 256, 1, 4096, 4096, 0, 0, 0, SPEY_BF16, 0 },
    { "prefill", 64, 8, 128, 1, 512, 8192, 0, 0, 0, SPEY_BF16, 0 },
    { "prefill", 32, 8, 128, 16, 128, 128, 0, 0, 0, SPEY_BF16, 0 },
    { "prefill", 64, 8, 128, 32, 128, 128, 0, 0, 0, SPEY_BF16, 0 },
    { "prefill", 64, 8, 128, 32, 128, 128, 0, 0, 0, SPEY_E4M3, 0 },
    { "prefill", 32, 8, 128, 1, 2048, 2048, 0, 0, 0, SPEY_E4M3, 0 },
    { "prefill", 32, 8, 128, 1, 4096, 4096, 0, 0, 0, SPEY_E4M3, 0 },
    { "prefill", 32, 8, 128, 1, 8192, 8192, 0, 0, 0, SPEY_E4M3, 0 },
    { "prefill", 16, 16, 256, 8, 512, 512, 0, 0, 0, SPEY_E4M3, 0 },
    { "prefill", 32, 8, 128, 1, 4096, 4096, 0, 0, 0, SPEY_I8, 0 },
    { "latent", 16, 1, 576, 1, 1, 4096, 0, 0, 0, SPEY_BF16, 512 },
    { "latent", 16, 1, 576, 64, 1, 4096, 0, 0, 0, SPEY_BF16, 512 },
    { "latent", 128, 1, 576, 64, 1, 4096, 0, 0, 0, SPEY_BF16, 512 },
    { "latent", 128, 1, 576, 1, 512, 2048, 0, 0, 0, SPEY_BF16, 512 },
    { "mixed", 64, 8, 128, 128, 1, 2048, 2, 1024, 2048, SPEY_BF16, 0 },
    { "mixed", 64, 8, 128, 900, 1, 190, 0, 0, 0, SPEY_E4M3, 0 },
    { "mixed", 64, 8, 128, 900, 1, 190, 32, 128, 128, SPEY_E4M3, 0 },
    { "mixed", 64, 8, 128, 32, 128, 128, 900, 1, 190, SPEY_E4M3, 0 },
    { "mixed", 64, 8, 128, 900, 1, 190, 8, 128, 128, SPEY_E4M3, 0 },
    { "mixed", 64, 8, 128, 900, 1, 190, 32, 128, 128, SPEY_BF16, 0 },
};

static const spey_backend *cuda;
static spey_device *device;
/* The contents of q and of the pool, again and again. */
static uint16_t *stretch;
static uint8_t *stretch_e4m3, *stretch_i8;
static float *stretch_scales; /* of I8, STRETCH / 4 of them */
static double copy_gb_s;

static void log_line(int level, const char *format, ...) SPEY_PRINTF(2, 3);

static void log_line(int level, const char *format, ...)
{
    (void)level, (void)format;
}

static const spey_backend_host host = { SPEY_BACKEND_ABI, spey_error_set, log_line };

static void must(spey_status status, const char *what)
{
    if (status == SPEY_OK) return;
    printf("FAIL %s: %s\n", what, spey_last_error());
    exit(1);
}

static void *memory(size_t bytes)
{
    void *p = NULL;
    must(cuda->memory_new(device, bytes, &p), "memory_new");
    return p;
}

/* Fill n bytes of device memory with a stretch. */
static void fill(uint8_t *to, size_t n, const void *from)
{
    for (size_t at = 0; at < n; at += STRETCH)
        must(cuda->upload(device, to + at, from, n - at < STRETCH ? n - at : STRETCH), "upload");
}

static double value_at(spey_dtype dtype, size_t byte)
{
    if (dtype == SPEY_I8) return (int8_t)stretch_i8[byte % STRETCH];
    if (dtype == SPEY_E4M3) return (double)spey_e4m3_to_f32(stretch_e4m3[byte % STRETCH]);
    return (double)spey_bf16_to_f32(stretch[byte % STRETCH / 2]);
}

/* ---- one problem ---- */

typedef struct problem {
    spey_attention_args args;
    spey_ragged batch;
    int32_t kv_len[SEQS_MAX], seq_start[SEQS_MAX + 1];
    int32_t *table; /* on the host */
    size_t pool_bytes, q_bytes, scale_bytes;
    double pairs, kv_tokens; /* visible, and read */
} problem;

static int32_t *upload_ints(const int32_t *from, size_t n)
{
    int32_t *p = memory(n * 4 + 4);
    must(cuda->upload(device, p, from, n * 4), "upload");
    return p;
}

static void add_sequences(problem *p, int n, int tokens, int kv_len)
{
    for (int i = 0; i < n; i++) {
        int s = p->batch.n_seqs++;
        p->kv_len[s] = kv_len;
        p->seq_start[s + 1] = p->seq_start[s] + tokens;
        p->pairs += (double)tokens * (kv_len - (tokens - 1) / 2.0);
        p->kv_tokens += kv_len;
        if (kv_len > p->args.kv_len_max) p->args.kv_len_max = kv_len;
    }
}

static void make_table(problem *p)
{
    int64_t pitch = (p->args.kv_len_max + BLOCK - 1) / BLOCK, n = 0;
    for (int s = 0; s < p->batch.n_seqs; s++)
        n += (p->kv_len[s] + BLOCK - 1) / BLOCK;
    int32_t *ids = malloc((size_t)n * 4);
    spey_rng rng = { .seed = 5 };
    for (int64_t i = 0; i < n; i++) {
        int64_t j = (int64_t)spey_rng_below(&rng, (uint64_t)i + 1);
        ids[i] = ids[j];
        ids[j] = (int32_t)i;
    }
    p->table = calloc((size_t)(pitch * p->batch.n_seqs), 4);
    int64_t at = 0;
    for (int s = 0; s < p->batch.n_seqs; s++)
        for (int64_t j = 0; j < (p->kv_len[s] + BLOCK - 1) / BLOCK; j++)
            p->table[s * pitch + j] = ids[at++];
    free(ids);
    p->pool_bytes = (size_t)(n * p->args.kv.block_bytes);
    p->batch.groups[0].pitch = pitch;
    p->batch.groups[0].blocks = upload_ints(p->table, (size_t)(pitch * p->batch.n_seqs));
}

static void make_batch(problem *p)
{
    int32_t n = p->seq_start[p->batch.n_seqs], *token_seq = malloc((size_t)n * 4);
    for (int s = 0; s < p->batch.n_seqs; s++)
        for (int32_t r = p->seq_start[s]; r < p->seq_start[s + 1]; r++)
            token_seq[r] = s;
    p->batch.n_tokens = n;
    p->batch.token_seq = upload_ints(token_seq, (size_t)n);
    p->batch.seq_start = upload_ints(p->seq_start, (size_t)p->batch.n_seqs + 1);
    p->batch.kv_len = upload_ints(p->kv_len, (size_t)p->batch.n_seqs);
    free(token_seq);
}

static size_t element_bytes(spey_dtype dtype)
{
    return dtype == SPEY_BF16 ? 2 : 1;
}

static void make_scales(problem *p)
{
    spey_kv_view *kv = &p->args.kv;
    kv->v_scales = p->args.n_kv_heads * BLOCK;
    kv->scale_block = 2 * kv->v_scales;
    p->scale_bytes = p->pool_bytes / (size_t)kv->block_bytes * (size_t)kv->scale_block * 4;
    kv->token_scales = memory(p->scale_bytes);
    fill((uint8_t *)kv->token_scales, p->scale_bytes, stretch_scales);
}

static void make_problem(const shape *k, problem *p)
{
    spey_attention_args *a = &p->args;
    *a = (spey_attention_args){ .n_heads = k->n_heads,
                                .n_kv_heads = k->n_kv_heads,
                                .k_dim = k->head_dim,
                                .v_dim = k->v_dim ? k->v_dim : k->head_dim,
                                .scale = (float)(1 / sqrt(k->head_dim)),
                                .causal = true,
                                .batch = &p->batch,
                                .dtype = SPEY_BF16,
                                .out_dtype = SPEY_BF16,
                                .precision = SPEY_PRECISION_16 };
    a->q_pitch = a->out_pitch = (int64_t)k->n_heads * k->head_dim;
    a->kv = (spey_kv_view){ .dtype = k->kv, .block_tokens = BLOCK };
    a->kv.k_token_bytes = a->kv.v_token_bytes = k->head_dim * (int64_t)element_bytes(k->kv);
    a->kv.k_head_bytes = a->kv.v_head_bytes = BLOCK * a->kv.k_token_bytes;
    a->kv.v_offset = k->n_kv_heads * a->kv.k_head_bytes;
    a->kv.block_bytes = 2 * a->kv.v_offset;
    add_sequences(p, k->n_seqs, k->n_tokens, k->kv_len);
    add_sequences(p, k->more_seqs, k->more_tokens, k->more_len);
    a->seqs_max = p->batch.n_seqs;
    make_table(p);
    make_batch(p);
    a->rows = p->batch.n_tokens;
    p->q_bytes = (size_t)(a->rows * a->q_pitch) * 2;
    a->kv.base = memory(p->pool_bytes);
    fill(a->kv.base, p->pool_bytes,
         k->kv == SPEY_BF16   ? (const void *)stretch
         : k->kv == SPEY_E4M3 ? (const void *)stretch_e4m3
                              : (const void *)stretch_i8);
    if (k->kv == SPEY_I8) make_scales(p);
    a->q = memory(p->q_bytes);
    fill((uint8_t *)(uintptr_t)a->q, p->q_bytes, stretch);
    a->out = memory(p->q_bytes);
}

static void free_problem(problem *p, size_t workspace_bytes)
{
    cuda->memory_free(device, p->args.kv.base, p->pool_bytes);
    cuda->memory_free(device, (void *)(uintptr_t)p->args.q, p->q_bytes);
    cuda->memory_free(device, p->args.out, p->q_bytes);
    cuda->memory_free(device, p->args.workspace, workspace_bytes);
    if (p->scale_bytes) cuda->memory_free(device, p->args.kv.token_scales, p->scale_bytes);
    free(p->table);
    free(p);
}

/* ---- a few outputs in FP64 ---- */

static size_t slot_byte(const problem *p, int s, int64_t j)
{
    const spey_kv_view *kv = &p->args.kv;
    int64_t block = p->table[s * p->batch.groups[0].pitch + j / BLOCK];
    return (size_t)(block * kv->block_bytes + j % BLOCK * kv->k_token_bytes);
}

/* What elements of K (or V) of that token and head are multiplied with. */
static double factor_at(const problem *p, int s, int64_t j, int64_t h, bool is_v)
{
    const spey_kv_view *kv = &p->args.kv;
    if (kv->dtype != SPEY_I8) return 1;
    int64_t block = p->table[s * p->batch.groups[0].pitch + j / BLOCK];
    int64_t at = block * kv->scale_block + (is_v ? kv->v_scales : 0) + h * BLOCK + j % BLOCK;
    return (double)stretch_scales[at % (STRETCH / 4)];
}

/* Largest error of one head of one token, over the largest output. */
static double row_error(const problem *p, int s, int64_t r, int64_t h, const uint16_t *out)
{
    const spey_attention_args *a = &p->args;
    int64_t n = p->kv_len[s] - p->seq_start[s + 1] + r + 1, d_max = a->k_dim;
    int64_t kv_head = h / (a->n_heads / a->n_kv_heads);
    size_t size = element_bytes(a->kv.dtype), head = (size_t)(kv_head * a->kv.k_head_bytes);
    double *weight = malloc((size_t)n * sizeof(double)), max = -1e300, sum = 0, worst = 0, most = 0;
    for (int64_t j = 0; j < n; j++) {
        double dot = 0;
        for (int64_t d = 0; d < d_max; d++)
            dot += value_at(SPEY_BF16, (size_t)(r * a->q_pitch + h * d_max + d) * 2) *
                   value_at(a->kv.dtype, slot_byte(p, s, j) + head + (size_t)d * size);
        weight[j] = dot * (double)a->scale * factor_at(p, s, j, kv_head, false);
        max = fmax(max, weight[j]);
    }
    for (int64_t j = 0; j < n; j++)
        sum += weight[j] = exp(weight[j] - max);
    for (int64_t d = 0; d < a->v_dim; d++) {
        double x = 0;
        for (int64_t j = 0; j < n; j++)
            x += weight[j] * factor_at(p, s, j, kv_head, true) *
                 value_at(a->kv.dtype,
                          (size_t)a->kv.v_offset + slot_byte(p, s, j) + head + (size_t)d * size);
        worst = fmax(worst, fabs(x / sum - (double)spey_bf16_to_f32(out[h * a->v_dim + d])));
        most = fmax(most, fabs(x / sum));
    }
    free(weight);
    return worst / most;
}

static double spot_error(const problem *p)
{
    spey_rng rng = { .seed = 9 };
    uint16_t *out = malloc((size_t)p->args.out_pitch * 2);
    double worst = 0;
    for (int i = 0; i < 12; i++) {
        int s = i < 2 ? i * (p->batch.n_seqs - 1)
                      : (int)spey_rng_below(&rng, (uint64_t)p->batch.n_seqs);
        int64_t n = p->seq_start[s + 1] - p->seq_start[s];
        int64_t r = p->seq_start[s] + (int64_t)spey_rng_below(&rng, (uint64_t)n);
        int64_t h = (int64_t)spey_rng_below(&rng, (uint64_t)p->args.n_heads);
        must(cuda->download(device, out, (uint16_t *)p->args.out + r * p->args.out_pitch,
                            (size_t)p->args.out_pitch * 2),
             "download");
        double error = row_error(p, s, r, h, out);
        if (!(error <= worst)) worst = error;
    }
    free(out);
    return worst;
}

/* ---- timing ---- */

static int by_time(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double median_us(const spey_step *step, int runs)
{
    void *events[2];
    uint64_t times[RUNS_MAX];
    must(cuda->event_new(device, &events[0]), "event");
    must(cuda->event_new(device, &events[1]), "event");
    for (int i = -2; i < runs; i++) {
        must(cuda->event_record(device, events[0]), "event");
        must(cuda->run(device, step, 1), "run");
        must(cuda->event_record(device, events[1]), "event");
        must(cuda->event_elapsed_ns(device, events[0], events[1], &times[i < 0 ? 0 : i]), "event");
    }
    cuda->event_free(device, events[0]);
    cuda->event_free(device, events[1]);
    qsort(times, (size_t)runs, sizeof times[0], by_time);
    return (double)times[runs / 2] / 1e3;
}

/* Through the driver, in the context that the plug-in made current. */
static void measure_copy(void)
{
    const size_t bytes = (size_t)2 << 30;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    int (*copy)(uintptr_t, uintptr_t, size_t) = NULL;
    int (*wait)(void) = NULL;
    if (driver) {
        void *symbols[2] = { dlsym(driver, "cuMemcpyDtoD_v2"), dlsym(driver, "cuCtxSynchronize") };
        memcpy(&copy, &symbols[0], sizeof copy);
        memcpy(&wait, &symbols[1], sizeof wait);
    }
    if (!copy || !wait) return;
    void *a = memory(bytes), *b = memory(bytes);
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 8; i++) {
        wait();
        uint64_t start = spey_clock_ns();
        for (int j = 0; j < 4; j++)
            copy((uintptr_t)a, (uintptr_t)b, bytes);
        wait();
        uint64_t ns = spey_clock_ns() - start;
        if (ns < best) best = ns;
    }
    copy_gb_s = 8.0 * (double)bytes / (double)best;
    printf("copy: %.0f GB/s in both directions\n", copy_gb_s);
    cuda->memory_free(device, a, bytes);
    cuda->memory_free(device, b, bytes);
}

static bool bench(const shape *k, const spey_kernel *row, int runs)
{
    problem *p = calloc(1, sizeof *p);
    make_problem(k, p);
    spey_attention_args *a = &p->args;
    size_t workspace_bytes = row->workspace ? row->workspace(a) : 0;
    a->workspace = memory(workspace_bytes + 64);
    if (!row->supports(a)) {
        printf("     %s does not take %s %d\n", row->name, k->what, k->head_dim);
        free_problem(p, workspace_bytes + 64);
        return true;
    }
    const spey_step step = { row, a };
    double us = median_us(&step, runs);
    double error = spot_error(p);
    int64_t dims = a->k_dim + a->v_dim;
    double bytes = p->kv_tokens * (double)(a->n_kv_heads * dims) * (double)element_bytes(k->kv) +
                   (double)p->q_bytes * (1 + (double)a->v_dim / (double)a->k_dim);
    double flops = 2 * p->pairs * (double)(a->n_heads * dims);
    bool good = error < 0.02;
    printf("%s %-8s %3d x %4d/%-5d", good ? "ok  " : "FAIL", k->what, k->n_seqs, k->n_tokens,
           k->kv_len);
    if (k->more_seqs) printf(" + %d x %d/%d", k->more_seqs, k->more_tokens, k->more_len);
    printf(" heads %d/%d x %d, %s: %.1f us, %.0f GB/s", k->n_heads, k->n_kv_heads, k->head_dim,
           k->kv == SPEY_BF16   ? "bf16"
           : k->kv == SPEY_E4M3 ? "e4m3"
                                : "i8",
           us, bytes / us * 1e-3);
    if (copy_gb_s > 0) printf(" (%.0f %%)", bytes / us * 1e-1 / copy_gb_s);
    printf(", %.1f TFLOP/s, error %.4f, workspace %.1f MB\n", flops / us * 1e-6, error,
           (double)workspace_bytes * 1e-6);
    fflush(stdout);
    free_problem(p, workspace_bytes + 64);
    return good;
}

static const spey_kernel *find_row(const char *name)
{
    int n = 0;
    const spey_kernel *const *rows = cuda->kernels(&n);
    for (int i = 0; i < n; i++)
        if (!strcmp(rows[i]->name, name)) return rows[i];
    printf("FAIL no row %s\n", name);
    exit(1);
}

int main(int argc, char **argv)
{
    const char *row = "attention/mma_sm80", *only = NULL;
    int runs = 20;
    for (int i = 2; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--row")) row = argv[i + 1];
        if (!strcmp(argv[i], "--only")) only = argv[i + 1];
        if (!strcmp(argv[i], "--runs")) runs = atoi(argv[i + 1]);
    }
    if (runs < 1 || runs > RUNS_MAX) runs = RUNS_MAX;
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    void *symbol = library ? dlsym(library, SPEY_BACKEND_PLUGIN_SYMBOL) : NULL;
    spey_backend_plugin_fn plugin;
    memcpy(&plugin, &symbol, sizeof plugin);
    if (!symbol || !(cuda = plugin(&host))) {
        printf("no device: %s\n", symbol ? spey_last_error() : "no plug-in");
        return 0;
    }
    must(cuda->device_open(0, NULL, &device), "device_open");
    stretch = malloc(STRETCH);
    spey_rng rng = { .seed = 1 };
    for (size_t i = 0; i < STRETCH / 2; i++)
        stretch[i] =
            i < 100003 ? spey_f32_to_bf16((float)spey_rng_normal(&rng)) : stretch[i - 100003];
    stretch_e4m3 = malloc(STRETCH);
    for (size_t i = 0; i < STRETCH; i++)
        stretch_e4m3[i] =
            i < 100003 ? spey_f32_to_e4m3((float)spey_rng_normal(&rng)) : stretch_e4m3[i - 100003];
    stretch_i8 = malloc(STRETCH);
    for (size_t i = 0; i < STRETCH; i++)
        stretch_i8[i] =
            i < 100003 ? (uint8_t)(spey_rng_below(&rng, 255) - 127) : stretch_i8[i - 100003];
    stretch_scales = malloc(STRETCH);
    for (size_t i = 0; i < STRETCH / 4; i++)
        stretch_scales[i] = (float)spey_rng_range(&rng, 0.01, 0.03);
    measure_copy();
    bool good = true;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        if (!only || !strcmp(only, shapes[i].what)) good &= bench(&shapes[i], find_row(row), runs);
    cuda->device_close(device);
    free(stretch);
    free(stretch_e4m3);
    free(stretch_i8);
    free(stretch_scales);
    return good ? 0 : 1;
}
