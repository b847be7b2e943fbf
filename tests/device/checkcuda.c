/* checkcuda: the CUDA plug-in on a device, claim by claim, and how fast it copies and multiplies.
 *
 *   checkcuda PLUGIN [--bench] [--require] [--json FILE] [--folder FOR_A_BIG_FILE]
 *
 * PLUGIN is the path of libspey-cuda.so. Without a driver or device the only claim is that the plug-in says so; the exit
 * status is then 0, with --require 1. It needs nothing but libc, so that it can be carried to another machine. */
#include <dlfcn.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/rng.h"
#include "device/backend.h"
#include "kernels/gemm/gemm.h"
#include "kernels/norm/norm.h"
#include "tensor/dtype.h"

static const spey_backend *cuda;
static spey_device *device;
static FILE *json;
static int n_failed, n_claims;

static void log_line(int level, const char *format, ...) SPEY_PRINTF(2, 3);

static void log_line(int level, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fprintf(stderr, "log %d: ", level);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
}

static const spey_backend_host host = { SPEY_BACKEND_ABI, spey_error_set, log_line };

/* ---- reporting ---- */

/* One claim; the text holds the numbers. */
static void claim(bool good, const char *name, const char *format, ...) SPEY_PRINTF(3, 4);

static void claim(bool good, const char *name, const char *format, ...)
{
    char text[1200];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    printf("%s %s: %s\n", good ? "ok  " : "FAIL", name, text);
    fflush(stdout);
    if (json)
        fprintf(json, "%s  {\"claim\": \"%s\", \"good\": %s, \"text\": \"%s\"}",
                n_claims ? ",\n" : "", name, good ? "true" : "false", text);
    n_claims++;
    n_failed += !good;
}

/* For set-up that must work: the program cannot go on without it. */
static void must(spey_status status, const char *what)
{
    if (status == SPEY_OK) return;
    claim(false, what, "%s", spey_last_error());
    if (json) fprintf(json, "\n]}\n"), fclose(json);
    exit(1);
}

static void *memory(size_t bytes)
{
    void *p = NULL;
    must(cuda->memory_new(device, bytes, &p), "memory_new");
    return p;
}

/* Random words, a function of seed and place alone. */
static void fill_words(void *p, size_t bytes, uint64_t seed)
{
    uint8_t *to = p;
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < bytes; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(to + i, &x, bytes - i < 8 ? bytes - i : 8);
    }
}

/* BF16 values, normal with this scale: drawn for the first 2^20, then repeated with a shift. */
static void fill_bf16(uint16_t *p, size_t n, double scale, uint64_t seed)
{
    enum { DRAWN = (1 << 20) - 3 };
    spey_rng rng = { .seed = seed };
    for (size_t i = 0; i < n; i++)
        p[i] = i < DRAWN ? spey_f32_to_bf16((float)(scale * spey_rng_normal(&rng))) : p[i - DRAWN];
}

static uint16_t *upload_bf16(size_t n, double scale, uint64_t seed, uint16_t **out_host)
{
    uint16_t *words = malloc(n * 2), *p = memory(n * 2);
    if (!words) must(SPEY_NOMEM, "malloc");
    fill_bf16(words, n, scale, seed);
    must(cuda->upload(device, p, words, n * 2), "upload");
    if (out_host)
        *out_host = words;
    else
        free(words);
    return p;
}

static const spey_kernel *row(const char *name)
{
    int n;
    const spey_kernel *const *rows = cuda->kernels(&n);
    for (int i = 0; i < n; i++)
        if (!strcmp(rows[i]->name, name)) return rows[i];
    spey_error_set(SPEY_NOT_FOUND, "no row %s", name);
    must(SPEY_NOT_FOUND, "kernels");
    return NULL;
}

/* ---- memory ---- */

static void new_memory_is_zero_and_aligned(void)
{
    static const size_t sizes[] = { 1, 255, 4097, (1 << 20) + 3, 50000001 };
    size_t n_bad = 0, n_unaligned = 0;
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            uint8_t *p = memory(sizes[i]), *back = malloc(sizes[i]);
            memset(back, 1, sizes[i]);
            n_unaligned += (uintptr_t)p % 256 != 0;
            must(cuda->download(device, back, p, sizes[i]), "download");
            for (size_t k = 0; k < sizes[i]; k++)
                n_bad += back[k] != 0;
            memset(back, 0xee, sizes[i]); /* so that the second round finds dirty memory */
            must(cuda->upload(device, p, back, sizes[i]), "upload");
            must(cuda->sync(device), "sync");
            cuda->memory_free(device, p, sizes[i]);
            free(back);
        }
    }
    claim(!n_bad && !n_unaligned, "new memory is zero and aligned",
          "%zu bytes not zero, %zu unaligned", n_bad, n_unaligned);
}

static void copies_are_exact(void)
{
    static const size_t sizes[] = { 1,       3,        4096,      (1 << 20) - 1, (1 << 20) + 1,
                                    8000005, 16 << 20, 100000007u };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t bytes = sizes[i], n_bad = 0, first = 0;
        uint8_t *p = memory(bytes + 32), *in = malloc(bytes), *back = calloc(1, bytes + 32);
        fill_words(in, bytes, i);
        must(cuda->upload(device, p + 16, in, bytes), "upload");
        must(cuda->download(device, back, p, bytes + 32), "download");
        for (size_t k = bytes + 32; k-- > 0;) {
            uint8_t want = k >= 16 && k < bytes + 16 ? in[k - 16] : 0;
            if (back[k] != want) n_bad++, first = k;
        }
        if (n_bad || i + 1 == sizeof sizes / sizeof *sizes)
            claim(!n_bad, "copies are exact", "%zu bytes: %zu wrong, the first at %zu", bytes,
                  n_bad, first);
        cuda->memory_free(device, p, bytes + 32);
        free(in);
        free(back);
    }
}

/* Each upload reuses the host buffer at once, while earlier ones may still be on their way. */
static void small_uploads_may_reuse_their_buffer(void)
{
    enum { N = 1000, BYTES = 256 };
    uint8_t *p = memory(N * BYTES), buffer[BYTES], *back = malloc(N * BYTES);
    size_t n_bad = 0;
    uint64_t start = spey_clock_ns();
    for (int i = 0; i < N; i++) {
        memset(buffer, i * 7 + i / 256, BYTES);
        must(cuda->upload(device, p + i * BYTES, buffer, BYTES), "upload");
    }
    double up_us = 1e6 * spey_clock_seconds_since(start) / N;
    must(cuda->download(device, back, p, N * BYTES), "download");
    for (int i = 0; i < N * BYTES; i++)
        n_bad += back[i] != (uint8_t)(i / BYTES * 7 + i / BYTES / 256);
    start = spey_clock_ns();
    for (int i = 0; i < N; i++)
        must(cuda->download(device, buffer, p, BYTES), "download");
    claim(!n_bad, "small uploads may reuse their buffer",
          "%zu bytes wrong; 256 bytes up %.1f us, down with wait %.1f us", n_bad, up_us,
          1e6 * spey_clock_seconds_since(start) / N);
    cuda->memory_free(device, p, N * BYTES);
    free(back);
}

/* In order with what is uploaded before and downloaded after; each reads what the one before wrote. */
static void copies_within_the_device_are_exact(void)
{
    enum { N = 64, BYTES = 100003 };
    uint8_t *p = memory((size_t)(N + 1) * BYTES), *in = malloc(BYTES), *back = malloc(BYTES);
    for (int i = 0; i < BYTES; i++)
        in[i] = (uint8_t)(i * 31 + i / 251);
    must(cuda->upload(device, p, in, BYTES), "upload");
    for (int i = 0; i < N; i++)
        must(cuda->copy(device, p + (size_t)(i + 1) * BYTES, p + (size_t)i * BYTES, BYTES), "copy");
    must(cuda->download(device, back, p + (size_t)N * BYTES, BYTES), "download");
    claim(!memcmp(in, back, BYTES), "copies within the device are exact", "%d of %d bytes", N,
          BYTES);
    cuda->memory_free(device, p, (size_t)(N + 1) * BYTES);
    free(in);
    free(back);
}

static void too_much_memory_is_refused(void)
{
    spey_device_info info;
    cuda->device_info(device, &info);
    void *p = NULL;
    spey_status status = cuda->memory_new(device, info.memory_bytes * 2, &p);
    claim(status == SPEY_NOMEM && !p, "too much memory is refused", "status %d, %s", (int)status,
          spey_last_error());
    p = memory(1 << 20);
    must(cuda->sync(device), "sync after refused memory");
    cuda->memory_free(device, p, 1 << 20);
}

/* ---- speed of copies ---- */

static double copy_gb_s(bool up, void *on_device, void *on_host, size_t bytes)
{
    uint64_t start = spey_clock_ns();
    must(up ? cuda->upload(device, on_device, on_host, bytes)
            : cuda->download(device, on_host, on_device, bytes),
         "copy");
    must(cuda->sync(device), "sync");
    return 1e-9 * (double)bytes / spey_clock_seconds_since(start);
}

/* A file of the page cache, mapped anew: what loading an engine does. */
static void copies_are_fast(const char *folder)
{
    const size_t bytes = (size_t)2 << 30;
    char path[4096];
    snprintf(path, sizeof path, "%s/checkcuda-XXXXXX", folder);
    void *p = memory(bytes), *words = malloc(bytes);
    int file = mkstemp(path);
    if (file < 0 || !words) must(spey_error_set(SPEY_IO, "cannot make %s", path), "file");
    unlink(path);
    fill_words(words, bytes, 5);
    double up = 0, down = 0, mapped = 0;
    for (int i = 0; i < 3; i++) {
        up = fmax(up, copy_gb_s(true, p, words, bytes));
        down = fmax(down, copy_gb_s(false, p, words, bytes));
    }
    bool written = true;
    for (size_t at = 0; at < bytes && written; at += (size_t)64 << 20)
        written = write(file, (char *)words + at, (size_t)64 << 20) == (ssize_t)64 << 20;
    for (int i = 0; i < 3 && written; i++) {
        void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, file, 0);
        if (map == MAP_FAILED) break;
        mapped = fmax(mapped, copy_gb_s(true, p, map, bytes));
        munmap(map, bytes);
    }
    claim(up >= 10 && mapped >= 10, "copies run at 10 GB/s",
          "from memory %.1f, from a mapped file %.1f, to memory %.1f GB/s%s", up, mapped, down,
          written ? "" : " (the file could not be written)");
    close(file);
    free(words);
    cuda->memory_free(device, p, bytes);
}

/* ---- steps ---- */

/* A residual layer in small: out = w · norm(x), y F32. */
typedef struct layer {
    spey_norm_args norm;
    spey_gemm_args gemm;
    spey_step steps[2];
    uint16_t *x;
    size_t x_bytes, y_bytes;
} layer;

static void make_layer(layer *l, int64_t rows, int64_t width, int64_t outputs)
{
    l->x_bytes = (size_t)(rows * width) * 2;
    l->y_bytes = (size_t)(rows * outputs) * 4;
    l->x = upload_bf16((size_t)(rows * width), 1, 1, NULL);
    l->norm = (spey_norm_args){ .rows = rows,
                                .cols = width,
                                .groups = 1,
                                .kind = SPEY_NORM_RMS,
                                .x_dtype = SPEY_BF16,
                                .out_dtype = SPEY_BF16,
                                .x = l->x,
                                .x_pitch = width,
                                .eps = 1e-5f,
                                .out = memory(l->x_bytes),
                                .out_pitch = width };
    l->gemm = (spey_gemm_args){ .rows = rows,
                                .n = outputs,
                                .k = width,
                                .x = l->norm.out,
                                .x_dtype = SPEY_BF16,
                                .x_pitch = width,
                                .w = upload_bf16((size_t)(outputs * width), 0.05, 2, NULL),
                                .w_dtype = SPEY_BF16,
                                .w_pitch = width,
                                .precision = SPEY_PRECISION_16,
                                .y = memory(l->y_bytes),
                                .y_dtype = SPEY_F32,
                                .y_pitch = outputs };
    l->steps[0] = (spey_step){ row("norm/sm80"), &l->norm };
    l->steps[1] = (spey_step){ row("gemm/cublaslt"), &l->gemm };
}

static void free_layer(layer *l)
{
    cuda->memory_free(device, l->x, l->x_bytes);
    cuda->memory_free(device, l->norm.out, l->x_bytes);
    cuda->memory_free(device, (void *)(uintptr_t)l->gemm.w, (size_t)(l->gemm.n * l->gemm.k) * 2);
    cuda->memory_free(device, l->gemm.y, l->y_bytes);
}

static float *result_of(const layer *l)
{
    float *y = malloc(l->y_bytes);
    must(cuda->download(device, y, l->gemm.y, l->y_bytes), "download");
    return y;
}

static void change_input(const layer *l, uint64_t seed)
{
    uint16_t *x = malloc(l->x_bytes);
    fill_bf16(x, l->x_bytes / 2, 1, seed);
    must(cuda->upload(device, l->x, x, l->x_bytes), "upload");
    free(x);
}

static double elapsed_us(void *events[2])
{
    uint64_t ns = 0;
    must(cuda->event_elapsed_ns(device, events[0], events[1], &ns), "event_elapsed_ns");
    return 1e-3 * (double)ns;
}

static void a_graph_replays_what_was_run(void)
{
    enum { REPEAT = 50 };
    layer l;
    make_layer(&l, 16, 2048, 2048);
    must(cuda->run(device, l.steps, 2), "run");
    float *first = result_of(&l);
    change_input(&l, 77);
    must(cuda->run(device, l.steps, 2), "run");
    float *want = result_of(&l);

    void *graph = NULL, *events[2];
    must(cuda->event_new(device, &events[0]), "event_new");
    must(cuda->event_new(device, &events[1]), "event_new");
    must(cuda->capture_begin(device), "capture_begin");
    spey_status refused = cuda->upload(device, l.x, first, 64);
    claim(refused == SPEY_INVALID, "no upload while capturing", "status %d, %s", (int)refused,
          spey_last_error());
    for (int i = 0; i < REPEAT; i++)
        must(cuda->run(device, l.steps, 2), "run while capturing");
    must(cuda->capture_end(device, &graph), "capture_end");
    change_input(&l, 1);
    must(cuda->replay(device, graph), "replay");
    float *got_first = result_of(&l);
    change_input(&l, 77);
    must(cuda->event_record(device, events[0]), "event_record");
    must(cuda->replay(device, graph), "replay");
    must(cuda->event_record(device, events[1]), "event_record");
    double graph_us = elapsed_us(events) / REPEAT;
    float *got = result_of(&l);
    must(cuda->event_record(device, events[0]), "event_record");
    for (int i = 0; i < REPEAT; i++)
        must(cuda->run(device, l.steps, 2), "run");
    must(cuda->event_record(device, events[1]), "event_record");
    double run_us = elapsed_us(events) / REPEAT;
    bool same = !memcmp(want, got, l.y_bytes), same_first = !memcmp(first, got_first, l.y_bytes);
    bool differ = memcmp(want, first, l.y_bytes) != 0;
    claim(same && same_first && differ, "a graph replays what was run",
          "bits %s and %s; norm + gemm 16x2048x2048: %.2f us in a graph, %.2f us launched",
          same ? "equal" : "DIFFER", same_first ? "equal" : "DIFFER", graph_us, run_us);
    claim(graph_us > 0.5 && graph_us < 1000 && run_us > 0.5, "events measure time",
          "%.2f us, %.2f us", graph_us, run_us);
    cuda->graph_free(device, graph);
    cuda->event_free(device, events[0]);
    cuda->event_free(device, events[1]);
    free(first), free(want), free(got), free(got_first);
    free_layer(&l);
}

static void a_refused_step_leaves_no_trace(void)
{
    layer l;
    make_layer(&l, 4, 256, 128);
    must(cuda->run(device, l.steps, 2), "run");
    float *want = result_of(&l);

    spey_norm_args bad_norm = l.norm;
    bad_norm.rows = (int64_t)1 << 40; /* its low 32 bits: a launch of no CTAs */
    const spey_step refused_launch = { row("norm/sm80"), &bad_norm };
    spey_status launch = cuda->run(device, &refused_launch, 1);
    bool named = strstr(spey_last_error(), "norm/sm80") != NULL;
    claim(launch == SPEY_DEVICE && named, "a refused launch is named", "status %d, %s", (int)launch,
          spey_last_error());
    spey_gemm_args bad_gemm = l.gemm;
    bad_gemm.x_pitch = 8; /* less than k */
    const spey_step refused_gemm = { row("gemm/cublaslt"), &bad_gemm };
    spey_status library = cuda->run(device, &refused_gemm, 1);
    named = strstr(spey_last_error(), "gemm/cublaslt") != NULL;
    claim(library == SPEY_DEVICE && named, "a refusal by cuBLASLt is named", "status %d, %s",
          (int)library, spey_last_error());

    must(cuda->run(device, l.steps, 2), "run after refused steps");
    must(cuda->sync(device), "sync after refused steps");
    float *got = result_of(&l);
    claim(!memcmp(want, got, l.y_bytes), "a refused step leaves no trace", "the next run %s",
          memcmp(want, got, l.y_bytes) ? "DIFFERS" : "is the same");
    free(want), free(got);
    free_layer(&l);
}

static void a_device_opens_twice(void)
{
    spey_device *keep = device, *second = NULL;
    layer l;
    make_layer(&l, 4, 256, 128);
    must(cuda->run(device, l.steps, 2), "run");
    float *want = result_of(&l);
    must(cuda->device_open(0, NULL, &second), "second device_open");
    device = second;
    layer other;
    make_layer(&other, 4, 256, 128);
    must(cuda->run(second, other.steps, 2), "run on the second");
    float *got = result_of(&other);
    claim(!memcmp(want, got, l.y_bytes), "a device opens twice", "both give the same");
    free_layer(&other);
    cuda->device_close(second);
    device = keep;
    must(cuda->run(device, l.steps, 2), "run after the second was closed");
    must(cuda->sync(device), "sync after the second was closed");
    free(want), free(got);
    free_layer(&l);
    spey_status status = cuda->device_open(1000, NULL, &second);
    claim(status == SPEY_NOT_FOUND, "device 1000 is not there", "status %d, %s", (int)status,
          spey_last_error());
}

/* ---- bench ---- */

enum { RUNS = 20 };

static double median_us(const spey_step *step)
{
    void *events[2];
    double times[RUNS];
    must(cuda->event_new(device, &events[0]), "event_new");
    must(cuda->event_new(device, &events[1]), "event_new");
    for (int i = 0; i < RUNS + 3; i++) {
        must(cuda->event_record(device, events[0]), "event_record");
        must(cuda->run(device, step, 1), "run");
        must(cuda->event_record(device, events[1]), "event_record");
        double us = elapsed_us(events);
        int at = i - 3; /* the first three warm up */
        for (; at > 0 && times[at - 1] > us; at--)
            times[at] = times[at - 1];
        if (at >= 0) times[at] = us;
    }
    cuda->event_free(device, events[0]);
    cuda->event_free(device, events[1]);
    return times[RUNS / 2];
}

static void bench_norm(void)
{
    static const int64_t rows[] = { 1, 16, 256, 8192 };
    const int64_t cols = 8192;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t n = (size_t)(rows[i] * cols);
        spey_norm_args a = { .rows = rows[i],
                             .cols = cols,
                             .groups = 1,
                             .x_dtype = SPEY_BF16,
                             .residual_dtype = SPEY_BF16,
                             .sum_dtype = SPEY_BF16,
                             .out_dtype = SPEY_BF16,
                             .x = upload_bf16(n, 1, 3, NULL),
                             .x_pitch = cols,
                             .residual = upload_bf16(n, 1, 4, NULL),
                             .residual_pitch = cols,
                             .sum = memory(n * 2),
                             .sum_pitch = cols,
                             .weight = memory((size_t)cols * 4),
                             .eps = 1e-5f,
                             .out = memory(n * 2),
                             .out_pitch = cols };
        const spey_step step = { row("norm/sm80"), &a };
        double us = median_us(&step);
        claim(true, "bench norm", "%lld x %lld BF16 with residual: %.2f us, %.0f GB/s",
              (long long)rows[i], (long long)cols, us, 8e-3 * (double)n / us);
        const void *const all[] = { a.x, a.residual, a.sum, a.weight, a.out };
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            cuda->memory_free(device, (void *)(uintptr_t)all[k], n * 2);
    }
}

/* The largest error of some outputs, in units of BF16 rounding plus FP32 accumulation over k. */
static double spot_check(const spey_gemm_args *a, const uint16_t *x, const uint16_t *w)
{
    size_t n = (size_t)(a->rows * a->n);
    uint16_t *y = malloc(n * 2);
    must(cuda->download(device, y, a->y, n * 2), "download");
    spey_rng rng = { .seed = 9 };
    double worst = 0;
    for (int i = 0; i < 200; i++) {
        int64_t r = (int64_t)spey_rng_below(&rng, (uint64_t)a->rows);
        int64_t j = (int64_t)spey_rng_below(&rng, (uint64_t)a->n);
        double sum = 0, size = 0;
        for (int64_t k = 0; k < a->k; k++) {
            double product = (double)spey_bf16_to_f32(x[r * a->k + k]) *
                             (double)spey_bf16_to_f32(w[j * a->k + k]);
            sum += product;
            size += fabs(product);
        }
        double bound = 0x1p-8 * fabs(sum) + 4 * sqrt((double)a->k) * 0x1p-24 * size;
        double error = fabs((double)spey_bf16_to_f32(y[r * a->n + j]) - sum);
        if (!(error <= bound * worst)) worst = isnan(error) ? (double)INFINITY : error / bound;
    }
    free(y);
    return worst;
}

/* 16-bit results with an activation go through bounded scratch: 300 rows in chunks of 128. */
static void long_batches_go_in_chunks(void)
{
    const int64_t rows = 300, n = 140000, k = 64;
    uint16_t *x, *w, *y = malloc((size_t)(rows * n) * 2);
    spey_gemm_args a = { .rows = rows,
                         .n = n,
                         .k = k,
                         .x = upload_bf16((size_t)(rows * k), 1, 7, &x),
                         .x_dtype = SPEY_BF16,
                         .x_pitch = k,
                         .w = upload_bf16((size_t)(n * k), 0.1, 8, &w),
                         .w_dtype = SPEY_BF16,
                         .w_pitch = k,
                         .activation = SPEY_ACT_SIGMOID,
                         .precision = SPEY_PRECISION_16,
                         .y = memory((size_t)(rows * n) * 2),
                         .y_dtype = SPEY_BF16,
                         .y_pitch = n };
    const spey_step step = { row("gemm/cublaslt"), &a };
    size_t scratch = step.kernel->workspace(&a);
    a.workspace = memory(scratch);
    must(cuda->run(device, &step, 1), "run");
    must(cuda->download(device, y, a.y, (size_t)(rows * n) * 2), "download");
    int n_bad = 0;
    for (int64_t i = 0; i < rows; i++) {
        int64_t j = i == rows - 1 ? n - 1 : i * 467 % n;
        double sum = 0;
        for (int64_t l = 0; l < k; l++)
            sum += (double)spey_bf16_to_f32(x[i * k + l]) * (double)spey_bf16_to_f32(w[j * k + l]);
        double want = 1 / (1 + exp(-sum));
        n_bad += !(fabs((double)spey_bf16_to_f32(y[i * n + j]) - want) <= 0x1p-8 * want);
    }
    claim(!n_bad && scratch < (size_t)80 << 20, "long batches go in chunks",
          "%d of %lld rows wrong, %zu MiB of scratch", n_bad, (long long)rows, scratch >> 20);
    cuda->memory_free(device, (void *)(uintptr_t)a.x, 0);
    cuda->memory_free(device, (void *)(uintptr_t)a.w, 0);
    cuda->memory_free(device, a.y, 0);
    cuda->memory_free(device, a.workspace, scratch);
    free(x), free(w), free(y);
}

static void bench_gemm(int64_t n, int64_t k)
{
    static const int64_t rows[] = { 1, 16, 64, 256, 1024, 4096 };
    uint16_t *x, *w;
    spey_gemm_args a = { .n = n,
                         .k = k,
                         .x = upload_bf16((size_t)(4096 * k), 1, 5, &x),
                         .x_dtype = SPEY_BF16,
                         .x_pitch = k,
                         .w = upload_bf16((size_t)(n * k), 0.02, 6, &w),
                         .w_dtype = SPEY_BF16,
                         .w_pitch = k,
                         .precision = SPEY_PRECISION_16,
                         .y = memory((size_t)(4096 * n) * 2),
                         .y_dtype = SPEY_BF16,
                         .y_pitch = n };
    const spey_step step = { row("gemm/cublaslt"), &a };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        a.rows = rows[i];
        double us = median_us(&step), worst = spot_check(&a, x, w);
        double flops = 2.0 * (double)a.rows * (double)n * (double)k;
        claim(
            worst <= 1, "bench gemm",
            "%lld x %lld x %lld BF16: %.1f us, %.0f TFLOP/s, weights %.0f GB/s, worst %.2f of bound",
            (long long)a.rows, (long long)n, (long long)k, us, 1e-6 * flops / us,
            2e-3 * (double)n * (double)k / us, worst);
    }
    cuda->memory_free(device, (void *)(uintptr_t)a.x, 0);
    cuda->memory_free(device, (void *)(uintptr_t)a.w, 0);
    cuda->memory_free(device, a.y, 0);
    free(x), free(w);
}

/* ---- the plug-in ---- */

static spey_backend_plugin_fn load_plugin(const char *path)
{
    spey_backend_plugin_fn plugin;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *symbol = library ? dlsym(library, SPEY_BACKEND_PLUGIN_SYMBOL) : NULL;
    if (!symbol) must(spey_error_set(SPEY_NOT_FOUND, "%s", dlerror()), "the plug-in loads");
    memcpy(&plugin, &symbol, sizeof plugin);
    return plugin;
}

static void another_abi_is_refused(spey_backend_plugin_fn plugin)
{
    spey_backend_host old = host;
    old.abi = SPEY_BACKEND_ABI + 1;
    claim(!plugin(&old) && strstr(spey_last_error(), "ABI"), "another ABI is refused", "%s",
          spey_last_error());
}

static void check_device(bool bench, const char *folder)
{
    spey_device_info info;
    must(cuda->device_open(0, NULL, &device), "device_open");
    cuda->device_info(device, &info);
    claim(info.memory_bytes && info.compute_units && !info.host_memory, "the device is described",
          "%s, %d SMs, %llu of %llu MiB free", info.name, info.compute_units,
          (unsigned long long)(info.memory_free_bytes >> 20),
          (unsigned long long)(info.memory_bytes >> 20));
    new_memory_is_zero_and_aligned();
    copies_are_exact();
    small_uploads_may_reuse_their_buffer();
    copies_within_the_device_are_exact();
    too_much_memory_is_refused();
    a_graph_replays_what_was_run();
    a_refused_step_leaves_no_trace();
    a_device_opens_twice();
    long_batches_go_in_chunks();
    if (bench) {
        copies_are_fast(folder);
        bench_norm();
        bench_gemm(10240, 8192);
        bench_gemm(8192, 8192);
        bench_gemm(8192, 28672);
    }
    cuda->device_close(device);
}

int main(int argc, char **argv)
{
    const char *path = NULL, *folder = "/tmp";
    bool bench = false, require = false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--bench"))
            bench = true;
        else if (!strcmp(argv[i], "--require"))
            require = true;
        else if (!strcmp(argv[i], "--json") && i + 1 < argc)
            json = fopen(argv[++i], "w");
        else if (!strcmp(argv[i], "--folder") && i + 1 < argc)
            folder = argv[++i];
        else
            path = argv[i];
    }
    if (!path) return fprintf(stderr, "usage: checkcuda PLUGIN [--bench] [--require]\n"), 2;
    if (json) fprintf(json, "{\"claims\": [\n");
    spey_backend_plugin_fn plugin = load_plugin(path);
    another_abi_is_refused(plugin);
    spey_error_set(SPEY_OK, "%s", "");
    cuda = plugin(&host);
    if (cuda)
        check_device(bench, folder);
    else
        claim(!require && strstr(spey_last_error(), "cuda: "),
              "a machine without a device is told so", "%s", spey_last_error());
    if (json) fprintf(json, "\n]}\n"), fclose(json);
    printf("checkcuda: %d claims, %d failed\n", n_claims, n_failed);
    return n_failed ? 1 : 0;
}
