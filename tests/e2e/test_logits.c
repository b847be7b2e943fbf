/* Whole models against the logits that Hugging Face Transformers computes in FP32 (tests/data/architectures).
 *
 *   test_logits [PATTERN] [--device cuda] [--json FILE]      PATTERN chooses tests: "f32*"
 *
 * On a device "the same bits" is not claimed (its products choose their algorithm by the number of rows): what has other
 * bits there must keep the bound. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "engine_fixture.h"
#include "kernels/route/route.h"
#include "tensor/safetensors.h"

enum { SEQS = 2, LENGTH_MAX = 32, ROWS_MAX = SEQS * LENGTH_MAX, VOCAB_MAX = 256, MODELS_MAX = 96 };

static const char root[] = "tests/data/architectures";

/* Normalised mean square errors. FP32: some hundred roundings of 2^-24 in sequence stay under 1e-10 even if they all
 * add up. 16 bits: an operand rounded to bf16 is off by at most 2^-9, 1.3e-6 in the mean of squares. Two layers round
 * eleven times in a row (inputs of products, the cache), which makes 1.4e-5, and these random models amplify what goes
 * in by up to ten (as they do the errors of FP32).
 *
 * Rounding may also send a token to another expert than FP32 does, where two are nearly as good. Then its logits are off by
 * percents, and those of the tokens after it a little. In 16 bits, models that route are therefore judged by the median
 * row, and by every row when FP32 chooses for them; in FP32 every row counts. (The three tokens of gpt-oss that go astray are
 * those whose second and third expert lie nearest to each other: logits of size 1 that differ by 0.003, 0.004 and 0.011,
 * less than what bf16 rounds away before them. In qwen3-moe it is the one with the smallest difference, 0.006, in the first
 * layer, so that others follow.) */
static const double bound_f32 = 1e-9, bound_16_cpu = 1.5e-4;
/* With FP32's choices put in place of theirs every row of them counts, too: of DeepSeek's two more than elsewhere, whose
 * latent attention makes K and V in two products (1.8e-4). */
static const double bound_16_routed = 2e-4;
/* Activations in 16 bits round twice more in each half of a layer (docs/numerics.md), and more choices go astray: of Mixtral's
 * 64 rows one that makes 1.2e-2 of the whole. So the whole says little there. */
static const double bound_16_device = 2e-4, bound_astray_cpu = 1e-2, bound_astray_device = 1e-1;
/* T5 does not scale its scores, and here they are of size 10: what products of 16-bit inputs round is multiplied by that in
 * the softmax. (On a CPU whose products take FP32 inputs the fixtures stay under 1e-11.) */
static const double bound_16_unscaled = 2e-3;

static const char *device; /* NULL: the CPU */
static double bound_16;
static FILE *report;
static int n_reports, n_bad;

typedef struct model {
    char path[512];
    bool routes; /* tokens to experts */
    bool whole;  /* rotates by the sequence's length: chunks give other logits than the whole */
    int64_t vocab;
    int64_t length; /* of the sequences */
    int32_t ids[SEQS][LENGTH_MAX];
    int64_t n_source[SEQS]; /* of the encoder's inputs; 0: no encoder */
    int32_t source[SEQS][LENGTH_MAX];
    float logits[ROWS_MAX * VOCAB_MAX]; /* rows of `vocab`, one after the other */
} model;

static model models[MODELS_MAX];
static int n_models;
static float got[ROWS_MAX * VOCAB_MAX], other[ROWS_MAX * VOCAB_MAX];

static int64_t rows_of(const model *m)
{
    return SEQS * m->length;
}

static size_t logits_bytes(const model *m)
{
    return (size_t)(rows_of(m) * m->vocab) * sizeof(float);
}

/* LongRoPE and dynamic scaling behind the positions that they leave alone. */
static bool rotates_by_length(const json_t *config)
{
    const json_t *rope = json_object_get(config, "rope_parameters");
    const char *type = json_string_value(json_object_get(rope, "rope_type"));
    const json_t *original = NULL;
    if (type && strcmp(type, "longrope") == 0)
        original = json_object_get(rope, "original_max_position_embeddings");
    if (type && strcmp(type, "dynamic") == 0)
        original = json_object_get(config, "max_position_embeddings");
    return original && json_integer_value(original) < LENGTH_MAX;
}

static int read_config(model *m, bool *encodes)
{
    char path[600];
    json_t *config;
    snprintf(path, sizeof(path), "%s/config.json", m->path);
    if (spey_json_read(path, &config)) return -1;
    m->routes = json_object_get(config, "num_experts_per_tok") != NULL;
    m->whole = rotates_by_length(config);
    *encodes = json_is_true(json_object_get(config, "is_encoder_decoder"));
    json_decref(config);
    return 0;
}

/* i64 [SEQS, n] into rows of out; n, 0 when it is not that. */
static int64_t read_ids(const spey_safetensor *tensor, int32_t out[SEQS][LENGTH_MAX])
{
    if (!tensor || tensor->n_dims != 2 || tensor->dims[0] != SEQS || tensor->dims[1] > LENGTH_MAX)
        return 0;
    int64_t n = tensor->dims[1];
    for (int64_t k = 0; k < SEQS * n; k++) {
        int64_t id;
        memcpy(&id, (const char *)tensor->data + k * 8, 8);
        out[k / n][k % n] = (int32_t)id;
    }
    return n;
}

static int read_expected(model *m, bool encodes)
{
    char path[600];
    spey_safetensors *file;
    snprintf(path, sizeof(path), "%s/expected.safetensors", m->path);
    if (spey_safetensors_open(path, &file)) return -1;
    const spey_safetensor *logits = spey_safetensors_find(file, "logits");
    m->length = read_ids(spey_safetensors_find(file, "sequence"), m->ids);
    if (encodes)
        m->n_source[0] = m->n_source[1] =
            read_ids(spey_safetensors_find(file, "input_ids"), m->source);
    if (logits) m->vocab = logits->dims[logits->n_dims - 1];
    if (!m->length || encodes != (m->n_source[0] > 0) || !logits || m->vocab > VOCAB_MAX ||
        logits->bytes != logits_bytes(m)) {
        print_error("%s has another shape\n", path);
        return -1;
    }
    memcpy(m->logits, logits->data, logits_bytes(m));
    spey_safetensors_close(file);
    return 0;
}

static int load_models(void **state)
{
    (void)state;
    struct dirent **names;
    int n = scandir(root, &names, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        bool wanted = names[i]->d_name[0] != '.' && n_models < MODELS_MAX;
        if (wanted) {
            model *m = &models[n_models++];
            snprintf(m->path, sizeof(m->path), "%s/%.200s", root, names[i]->d_name);
            bool encodes;
            if (read_config(m, &encodes) || read_expected(m, encodes)) return -1;
        }
        free(names[i]);
    }
    free(names);
    return n_models ? 0 : -1;
}

/* What the routers of a model chose for each token: noted from one engine's steps, then put in place of what another one
 * chooses. A token's row is `top_k` weights, then as many experts. */
enum { CHOICES_MAX = 1 << 14 };
typedef struct choices {
    const spey_runner *runner;
    bool given;
    int64_t at, n_rows, n_replaced;
    float row[CHOICES_MAX];
} choices;

static bool same_experts(const float *a, const float *b, int64_t top_k)
{
    int64_t common = 0;
    for (int64_t i = top_k; i < 2 * top_k; i++)
        for (int64_t k = top_k; k < 2 * top_k; k++)
            common += (int)a[i] == (int)b[k];
    return common == top_k;
}

static void note_or_replace_choices(void *user, int number, const spey_step *step)
{
    (void)number;
    choices *c = user;
    if (strncmp(step->kernel->name, "route/", 6) != 0) return;
    const spey_route_args *args = step->args;
    const int64_t n = 2 * args->top_k;
    const size_t bytes = (size_t)(args->rows * n) * sizeof(float);
    static float rows[CHOICES_MAX];
    assert_true(c->at + args->rows * n <= CHOICES_MAX);
    e2e_ok(spey_runner_download(c->runner, rows, args->out, bytes), "choices");
    for (int64_t i = 0; i < args->rows; i++, c->at += n, c->n_rows++) {
        float *row = rows + i * n;
        if (!c->given) {
            memcpy(c->row + c->at, row, (size_t)n * sizeof(float));
        } else if (!same_experts(c->row + c->at, row, args->top_k)) {
            memcpy(row, c->row + c->at, (size_t)n * sizeof(float));
            c->n_replaced++;
        }
    }
    if (c->given) e2e_ok(spey_runner_upload(c->runner, args->out, rows, bytes), "choices");
}

/* One sequence at a time; `routing` NULL: nobody watches. */
static void run_watched(const spey_engine_file *engine, const model *m, spey_limits_plan limits,
                        int64_t chunk, float *out, choices *routing)
{
    limits.device = device;
    limits.outputs_max = m->length;
    if (!limits.threads) limits.threads = 2;
    spey_runner *runner = e2e_runner(engine, &limits);
    if (routing) {
        routing->runner = runner;
        spey_runner_observe(runner, note_or_replace_choices, routing);
    }
    for (int s = 0; s < SEQS; s++) {
        spey_seq_id seq = e2e_open(runner, m->source[s], m->n_source[s]);
        e2e_feed(runner, seq, m->ids[s], m->length, chunk, m->vocab,
                 out + s * m->length * m->vocab);
        e2e_close(runner, seq);
    }
    spey_runner_free(runner);
}

static void run(const spey_engine_file *engine, const model *m, spey_limits_plan limits,
                int64_t chunk, float *out)
{
    run_watched(engine, m, limits, chunk, out, NULL);
}

static int by_size(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* A row that is not a number counts as infinitely wrong. */
static double median_row(const model *m)
{
    double rows[ROWS_MAX];
    const int64_t n = rows_of(m);
    for (int64_t i = 0; i < n; i++) {
        rows[i] = e2e_nmse(got + i * m->vocab, m->logits + i * m->vocab, m->vocab);
        if (isnan(rows[i])) rows[i] = (double)INFINITY;
    }
    qsort(rows, (size_t)n, sizeof(double), by_size);
    return rows[n / 2];
}

static bool may_stray(const model *m, double bound)
{
    return m->routes && bound > bound_f32;
}

/* Note what was found; a test goes on with other models and fails at its end. */
static void note(const model *m, const char *what, double nmse, double median, bool good)
{
    print_message("%s%s, %s: NMSE %.2g", good ? "" : "FAIL ", m->path + sizeof(root), what, nmse);
    print_message(median >= 0 ? ", median row %.2g\n" : "\n", median);
    n_bad += !good;
    if (!report) return;
    fprintf(report, "%s\n  {\"model\": \"%s\", \"what\": \"%s\", \"good\": %s, \"nmse\": %.4g",
            n_reports++ ? "," : "", m->path + sizeof(root), what, good ? "true" : "false",
            isfinite(nmse) ? nmse : 1e300);
    if (median >= 0) fprintf(report, ", \"median_row\": %.4g", isfinite(median) ? median : 1e300);
    fputs("}", report);
}

static void check_bound(const model *m, const char *what, double bound)
{
    double worst = 0, median = -1;
    for (int64_t s = 0, n = m->length * m->vocab; s < SEQS; s++) {
        double nmse = e2e_nmse(got + s * n, m->logits + s * n, n);
        if (!(nmse <= worst)) worst = nmse;
    }
    if (device && m->n_source[0] && bound == bound_16) bound = bound_16_unscaled;
    bool good = worst <= bound;
    if (may_stray(m, bound)) {
        median = median_row(m);
        good = median <= bound && worst <= (bound >= 1e-3 ? 1e-1
                                            : device      ? bound_astray_device
                                                          : bound_astray_cpu);
    }
    note(m, what, worst, median, good);
}

/* `other` has the bits of `got`; on a device it keeps the bound. */
static void check_same(const model *m, const char *what, double bound)
{
    if (!device) {
        assert_memory_equal(got, other, logits_bytes(m));
        return;
    }
    memcpy(got, other, logits_bytes(m));
    check_bound(m, what, bound);
}

/* The end of a test. */
static void check_bad(void)
{
    int n = n_bad;
    n_bad = 0;
    assert_int_equal(n, 0);
}

/* The likeliest token is the expected one wherever it leads by more than errors of the size that the bound allows: of a
 * row's errors hardly one is beyond four times their root mean square, and two logits may move towards each other. */
static void check_greedy(const model *m, double bound)
{
    int checked = 0, astray = 0;
    const int n = (int)rows_of(m);
    for (int i = 0; i < n; i++) {
        const float *wanted = m->logits + i * m->vocab;
        int32_t best = e2e_argmax(wanted, m->vocab);
        double second = (double)-INFINITY, power = 0;
        for (int k = 0; k < m->vocab; k++) {
            if (k != best && (double)wanted[k] > second) second = (double)wanted[k];
            power += (double)wanted[k] * (double)wanted[k];
        }
        if ((double)wanted[best] - second <= 8 * sqrt(bound * power / (double)m->vocab)) continue;
        astray += e2e_argmax(got + i * m->vocab, m->vocab) != best;
        checked++;
    }
    bool good = astray <= (may_stray(m, bound) ? checked / 32 : 0) && checked > n / 2;
    print_message("  %slikeliest token checked in %d of %d rows, %d are others\n",
                  good ? "" : "FAIL ", checked, n, astray);
    n_bad += !good;
}

static void f32_engines_give_the_expected_logits(void **state)
{
    (void)state;
    for (int i = 0; i < n_models; i++) {
        spey_engine_file *engine = e2e_build(models[i].path, "f32", NULL);
        run(engine, &models[i], (spey_limits_plan){ 0 }, LENGTH_MAX, got);
        check_bound(&models[i], "f32", bound_f32);
        check_greedy(&models[i], bound_f32);
        spey_engine_file_close(engine);
    }
    check_bad();
}

static void engines_of_16_bits_stay_close(void **state)
{
    (void)state;
    static const char *const dtypes[] = { "bf16", "f16" };
    for (int i = 0; i < n_models; i++)
        for (int d = 0; d < 2; d++) {
            spey_engine_file *engine = e2e_build(models[i].path, dtypes[d], NULL);
            run(engine, &models[i], (spey_limits_plan){ 0 }, LENGTH_MAX, got);
            check_bound(&models[i], dtypes[d], bound_16);
            check_greedy(&models[i], bound_16);
            spey_engine_file_close(engine);
        }
    check_bad();
}

/* Every row of them, when the few tokens that rounding sends to other experts go where FP32 sends them. */
static void routed_engines_of_16_bits_stay_close_but_for_their_choices(void **state)
{
    (void)state;
    static const char *const dtypes[] = { "bf16", "f16" };
    static choices routing;
    for (int i = 0; i < n_models; i++)
        for (int d = 0; d < 2 && models[i].routes; d++) {
            const model *m = &models[i];
            char what[64];
            routing = (choices){ 0 };
            spey_engine_file *engine = e2e_build(m->path, "f32", NULL);
            run_watched(engine, m, (spey_limits_plan){ 0 }, LENGTH_MAX, got, &routing);
            spey_engine_file_close(engine);
            routing.at = routing.n_rows = 0;
            routing.given = true;
            engine = e2e_build(m->path, dtypes[d], NULL);
            run_watched(engine, m, (spey_limits_plan){ 0 }, LENGTH_MAX, got, &routing);
            spey_engine_file_close(engine);
            snprintf(what, sizeof(what), "%s, %d of %d choices replaced", dtypes[d],
                     (int)routing.n_replaced, (int)routing.n_rows);
            double nmse = e2e_nmse(got, m->logits, rows_of(m) * m->vocab);
            note(m, what, nmse, -1,
                 nmse <= (device ? 2 : 1) * bound_16_routed && routing.n_rows > 0 &&
                     routing.n_replaced <= routing.n_rows / 16);
        }
    check_bad();
}

static void engines_without_passes_stay_close(void **state)
{
    (void)state;
    for (int i = 0; i < n_models; i++) {
        spey_engine_file *engine = e2e_build(models[i].path, "f32", "all");
        run(engine, &models[i], (spey_limits_plan){ 0 }, LENGTH_MAX, got);
        check_bound(&models[i], "f32 without passes", bound_f32);
        spey_engine_file_close(engine);
        engine = e2e_build(models[i].path, "bf16", "all");
        run(engine, &models[i], (spey_limits_plan){ 0 }, LENGTH_MAX, got);
        check_bound(&models[i], "bf16 without passes", bound_16);
        spey_engine_file_close(engine);
    }
    check_bad();
}

static void chunks_give_the_same_bits(void **state)
{
    (void)state;
    static const char *const dtypes[] = { "f32", "bf16" };
    static const int64_t chunks[] = { 5, 1 };
    for (int i = 0; i < n_models; i++)
        for (int d = 0; d < 2 && !models[i].whole; d++) {
            spey_engine_file *engine = e2e_build(models[i].path, dtypes[d], NULL);
            run(engine, &models[i], (spey_limits_plan){ 0 }, LENGTH_MAX, got);
            for (int c = 0; c < 2; c++) {
                run(engine, &models[i], (spey_limits_plan){ 0 }, chunks[c], other);
                check_same(&models[i], d ? "bf16 in chunks" : "f32 in chunks",
                           d ? bound_16 : bound_f32);
            }
            spey_engine_file_close(engine);
        }
    check_bad();
}

/* Pools of window groups hold the window and what a step of five tokens adds, here less than the sequence. */
static void small_window_pools_give_the_same_bits(void **state)
{
    (void)state;
    int n_smaller = 0;
    for (int i = 0; i < n_models; i++) {
        const spey_limits_plan limits = {
            .device = device,
            .threads = 2,
            .kv_block_tokens = 1,
            .step_tokens_max = 5,
            .outputs_max = LENGTH_MAX,
            .ahead = SPEY_AHEAD_OFF, /* pools would hold two steps */
        };
        spey_engine_file *engine = e2e_build(models[i].path, "bf16", NULL);
        spey_plan plan;
        e2e_ok(spey_runner_plan(engine, &limits, &plan), "plan");
        bool smaller = false;
        for (int g = 0; g < plan.n_kv_groups; g++)
            smaller = smaller || plan.kv_groups[g].n_blocks < models[i].length;
        if (smaller && !models[i].whole) {
            run(engine, &models[i], (spey_limits_plan){ 0 }, LENGTH_MAX, got);
            for (int64_t chunk = 5; chunk > 0; chunk -= 2) {
                run(engine, &models[i], limits, chunk, other);
                check_same(&models[i], "bf16, small pools", bound_16);
            }
            n_smaller++;
        }
        spey_engine_file_close(engine);
    }
    print_message("  checked in %d models\n", n_smaller);
    assert_true(n_smaller >= 5);
    check_bad();
}

/* What the first sequence leaves behind is the beginning of another one, which goes on as the second does: whole blocks of
 * three tokens and a part of one. Returns how many tokens were reused. */
static int64_t reuse(const spey_engine_file *engine, const model *m, bool on)
{
    enum { COMMON = 23 };
    const spey_limits_plan limits = {
        .threads = 2, .outputs_max = LENGTH_MAX, .kv_block_tokens = 3, .no_kv_reuse = !on
    };
    spey_runner *runner = e2e_runner(engine, &limits);
    spey_kv_cache *kv = spey_runner_kv(runner);
    int32_t ids[LENGTH_MAX];
    int64_t n, reused = 0;
    memcpy(ids, m->ids[1], sizeof(ids));
    memcpy(ids, m->ids[0], COMMON * sizeof(*ids));
    for (int s = 0; s < 2; s++) {
        const spey_kv_key key = { .ids = s ? ids : m->ids[0], .n = LENGTH_MAX };
        spey_seq_id seq;
        e2e_ok(spey_kv_open(kv, &seq), "sequence");
        e2e_ok(spey_kv_match(kv, seq, &key, &n), "match");
        e2e_feed(runner, seq, key.ids + n, LENGTH_MAX - n, LENGTH_MAX, m->vocab,
                 other + n * m->vocab);
        e2e_ok(spey_kv_check(kv), "kv cache");
        spey_kv_close(kv, seq);
        if (s) reused = n;
    }
    spey_runner_free(runner);
    assert_true(reused == 0 || reused >= COMMON);
    return reused;
}

static void reused_beginnings_give_the_same_bits(void **state)
{
    (void)state;
    int n_reused = 0;
    for (int i = 0; i < n_models; i++) {
        const model *m = &models[i];
        if (m->n_source[0]) continue; /* what the decoder keeps is the encoder's too */
        spey_engine_file *engine = e2e_build(m->path, "bf16", NULL);
        memset(other, 0, sizeof(other));
        assert_int_equal(reuse(engine, m, false), 0);
        memcpy(got, other, sizeof(got));
        int64_t n = reuse(engine, m, true);
        assert_true(!m->whole || n == 0);
        assert_memory_equal(got, other, logits_bytes(m));
        n_reused += n > 0;
        spey_engine_file_close(engine);
    }
    print_message("  in %d of %d models\n", n_reused, n_models);
    assert_true(n_reused > n_models * 3 / 4);
}

/* One ragged step of both, then the rest of the first beside single tokens of the second; for sequences of 32 tokens, and
 * of 13. An encoder runs once, over inputs of different lengths. */
static void check_ragged(const model *whole)
{
    static const int32_t pieces[][5][2] = { { { 19, 7 }, { 1, 1 }, { 10, 1 }, { 1, 20 }, { 1, 3 } },
                                            { { 8, 3 }, { 1, 1 }, { 2, 1 }, { 1, 6 }, { 1, 2 } } };
    static model shorter;
    const model *m = &shorter;
    shorter = *whole;
    if (!device) shorter.n_source[1] /= 2; /* there it is compared with what was expected */
    spey_engine_file *engine = e2e_build(m->path, "bf16", NULL);
    run(engine, m, (spey_limits_plan){ 0 }, LENGTH_MAX, got);
    const spey_limits_plan limits = {
        .device = device, .threads = 2, .sequences_max = 2, .step_tokens_max = 64, .outputs_max = 64
    };
    spey_runner *runner = e2e_runner(engine, &limits);
    spey_step_seq batch[2];
    for (int s = 0; s < 2; s++) {
        batch[s] = (spey_step_seq){ .seq = e2e_open(runner, NULL, 0),
                                    .ids = m->source[s],
                                    .n_ids = (int32_t)m->n_source[s] };
    }
    if (m->n_source[0]) e2e_ok(spey_runner_encode(runner, batch, 2), "encoder");
    int32_t at[2] = { 0, 0 };
    for (int i = 0; i < 5; i++) {
        for (int s = 0; s < 2; s++) {
            batch[s].ids = m->ids[s] + at[s];
            batch[s].n_ids = batch[s].n_outputs = pieces[m->length < 32][i][s];
        }
        float *logits;
        e2e_ok(spey_runner_step(runner, batch, 2, &logits), "step");
        for (int s = 0; s < 2; s++) {
            size_t n = (size_t)(batch[s].n_ids * m->vocab);
            memcpy(other + (s * m->length + at[s]) * m->vocab, logits, n * sizeof(float));
            logits += n;
            at[s] += batch[s].n_ids;
        }
    }
    assert_int_equal(at[0], m->length);
    assert_int_equal(at[1], m->length);
    check_same(m, "bf16, ragged", bound_16);
    spey_runner_free(runner);
    spey_engine_file_close(engine);
}

static void a_ragged_batch_gives_the_same_bits(void **state)
{
    (void)state;
    for (int i = 0; i < n_models; i++)
        if (!models[i].whole) check_ragged(&models[i]);
    check_bad();
}

static void block_sizes_and_threads_give_the_same_bits(void **state)
{
    (void)state;
    static const int32_t blocks[] = { 1, 7, 16, 32 };
    for (int i = 0; i < n_models; i++) {
        spey_engine_file *engine = e2e_build(models[i].path, "bf16", NULL);
        const int64_t chunk = device && models[i].whole ? LENGTH_MAX : 11;
        run(engine, &models[i], (spey_limits_plan){ 0 }, chunk, got);
        for (int b = 0; b < 4; b++)
            for (int threads = 1; threads <= (device ? 1 : 2); threads++) {
                const spey_limits_plan limits = { .kv_block_tokens = blocks[b],
                                                  .threads = threads };
                run(engine, &models[i], limits, chunk, other);
                check_same(&models[i], "bf16, blocks", bound_16);
            }
        run(engine, &models[i], (spey_limits_plan){ .no_in_place = true }, chunk, other);
        check_same(&models[i], "bf16, apart", bound_16);
        spey_engine_file_close(engine);
    }
    check_bad();
}

/* Roundings of K and of V in two layers, amplified by up to ten as above. fp8: off by at most 2^-4, 1.3e-3 in the mean of
 * squares. int8: by at most 1/254 of a head's largest number, whose square is some eight times their mean: 4.1e-5. */
static void kv_dtypes_stay_close(void **state)
{
    (void)state;
    static const struct {
        const char *dtype;
        double bound;
    } kinds[] = {
        { "f32", 1e-9 }, { "f16", 1e-6 }, { "bf16", 1e-4 }, { "int8", 1.7e-3 }, { "fp8", 5.2e-2 }
    };
    for (int i = 0; i < n_models; i++) {
        spey_engine_file *engine = e2e_build(models[i].path, "f32", NULL);
        for (int k = 0; k < (device ? 3 : 5); k++) {
            const int64_t chunk = models[i].whole ? LENGTH_MAX : 9;
            run(engine, &models[i], (spey_limits_plan){ .kv_dtype = kinds[k].dtype }, chunk, got);
            char what[32];
            snprintf(what, sizeof(what), "f32, cache %s", kinds[k].dtype);
            /* Scores that are not scaled carry the cache's rounding into other softmaxes. */
            bool exact = spey_engine_file_info(engine)->exact && k > 0;
            check_bound(&models[i], what, kinds[k].bound * (exact ? 100 : 1));
        }
        spey_engine_file_close(engine);
    }
    check_bad();
}

/* True when the arguments make sense. */
static bool read_arguments(int argc, char **argv)
{
    const char *json = NULL;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--device") && i + 1 < argc)
            device = argv[++i];
        else if (!strcmp(argv[i], "--json") && i + 1 < argc)
            json = argv[++i];
        else if (argv[i][0] != '-')
            cmocka_set_test_filter(argv[i]);
        else
            return false;
    }
    bound_16 = device ? bound_16_device : bound_16_cpu;
    if (json) report = fopen(json, "w");
    if (report) fputs("[", report);
    return !json || report;
}

int main(int argc, char **argv)
{
    if (!read_arguments(argc, argv)) {
        fputs("usage: test_logits [PATTERN] [--device cuda] [--json FILE]\n", stderr);
        return 2;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_engines_give_the_expected_logits),
        cmocka_unit_test(engines_of_16_bits_stay_close),
        cmocka_unit_test(routed_engines_of_16_bits_stay_close_but_for_their_choices),
        cmocka_unit_test(engines_without_passes_stay_close),
        cmocka_unit_test(chunks_give_the_same_bits),
        cmocka_unit_test(small_window_pools_give_the_same_bits),
        cmocka_unit_test(reused_beginnings_give_the_same_bits),
        cmocka_unit_test(a_ragged_batch_gives_the_same_bits),
        cmocka_unit_test(block_sizes_and_threads_give_the_same_bits),
        cmocka_unit_test(kv_dtypes_stay_close),
    };
    int n_failed = cmocka_run_group_tests(tests, load_models, NULL);
    if (report) {
        fputs("\n]\n", report);
        fclose(report);
    }
    return n_failed;
}
