/* Every architecture against Hugging Face transformers: the logits of its fixture, by the interpreter, from the graph as
 * drawn, from the graph after all passes in an arena laid out by the planner, and with each pass switched off. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "checkpoint_weights.h"
#include "graph/memplan.h"
#include "graph/passes.h"
#include "model/model.h"
#include "tensor/safetensors.h"

enum { N_SEQS = 2 };

typedef struct fixture {
    char folder[256];
    spey_model *model;
    spey_safetensors *weights, *expected;
    int64_t n_prompt, n_tokens, vocab; /* of each sequence */
    int64_t n_first;                   /* tokens of the first step */
    const int64_t *ids;                /* [N_SEQS, n_tokens] */
    int64_t n_source;                  /* of the encoder's input; 0: no encoder */
    const int64_t *source;             /* [N_SEQS, n_source] */
    const float *logits;               /* [N_SEQS, n_tokens, vocab] */
} fixture;

static void open_fixture(fixture *f, const char *name)
{
    char path[512];
    json_t *config;
    snprintf(f->folder, sizeof f->folder, "tests/data/architectures/%s", name);
    snprintf(path, sizeof path, "%s/config.json", f->folder);
    if (spey_json_read(path, &config)) fail_msg("%s", spey_last_error());
    if (spey_model_new(path, config, &f->model)) fail_msg("%s", spey_last_error());
    json_decref(config);
    snprintf(path, sizeof path, "%s/model.safetensors", f->folder);
    if (spey_safetensors_open(path, &f->weights)) fail_msg("%s", spey_last_error());
    snprintf(path, sizeof path, "%s/expected.safetensors", f->folder);
    if (spey_safetensors_open(path, &f->expected)) fail_msg("%s", spey_last_error());
    const spey_safetensor *logits = spey_safetensors_find(f->expected, "logits");
    const spey_safetensor *input = spey_safetensors_find(f->expected, "input_ids");
    f->n_prompt = input->dims[1];
    assert_int_equal(logits->dims[0], N_SEQS);
    f->n_tokens = logits->dims[1];
    spey_model_info info;
    spey_model_get_info(f->model, &info);
    f->n_source = info.decoder_start_id >= 0 ? input->dims[1] : 0;
    f->source = input->data;
    if (f->n_source) f->n_prompt = f->n_tokens / 2;
    f->vocab = logits->dims[2];
    f->ids = spey_safetensors_find(f->expected, "sequence")->data;
    f->logits = logits->data;
}

static void close_fixture(fixture *f)
{
    spey_safetensors_close(f->weights);
    spey_safetensors_close(f->expected);
    spey_model_free(f->model);
}

static int64_t tokens_max(const fixture *f)
{
    return N_SEQS * (f->n_source > f->n_tokens ? f->n_source : f->n_tokens);
}

/* Tokens [begin, end) of both sequences in one step, all logits; the largest difference to the fixture's. */
static double step(const fixture *f, interpreter *in, int64_t begin, int64_t end)
{
    int n = (int)(N_SEQS * (end - begin)), i = 0, seqs[256], rows[256];
    int64_t ids[256];
    for (int s = 0; s < N_SEQS; s++)
        for (int64_t t = begin; t < end; t++, i++) {
            ids[i] = f->ids[s * f->n_tokens + t];
            seqs[i] = s;
            rows[i] = i;
        }
    double *logits = spey_new_array(SPEY_PURPOSE_GENERAL, double, n * f->vocab), worst = 0;
    interpreter_step(in, &(interpreter_step_args){ n, ids, seqs, n, rows, logits, false });
    for (i = 0; i < n; i++) {
        int64_t t = begin + i % (end - begin);
        const float *expected = f->logits + (seqs[i] * f->n_tokens + t) * f->vocab;
        for (int64_t c = 0; c < f->vocab; c++) {
            double difference = fabs(logits[i * f->vocab + c] - (double)expected[c]);
            if (!(difference <= worst)) worst = difference;
        }
    }
    spey_free(logits);
    return worst;
}

/* The encoder's input of both sequences. */
static void encode(const fixture *f, interpreter *in)
{
    int64_t ids[256];
    int seqs[256], n = (int)(N_SEQS * f->n_source);
    assert_true(n <= 256);
    for (int i = 0; i < n; i++) {
        ids[i] = f->source[i];
        seqs[i] = i / (int)f->n_source;
    }
    interpreter_step(
        in, &(interpreter_step_args){ .n_tokens = n, .ids = ids, .seqs = seqs, .encode = true });
}

/* The prompt in two pieces, then token by token up to `end`. */
static double run(const fixture *f, const spey_graph *graph, const spey_memplan *plan, int64_t end)
{
    interpreter_options options = { .read = read_checkpoint_weight,
                                    .context = f->weights,
                                    .n_seqs = N_SEQS,
                                    .tokens_max = tokens_max(f),
                                    .plan = plan };
    interpreter *in = interpreter_new(graph, &options);
    if (f->n_source) encode(f, in);
    double worst = step(f, in, 0, f->n_first);
    if (f->n_first < f->n_prompt) worst = fmax(worst, step(f, in, f->n_first, f->n_prompt));
    for (int64_t t = f->n_prompt; t < end; t++)
        worst = fmax(worst, step(f, in, t, t + 1));
    interpreter_free(in);
    return worst;
}

/* The graph with some passes off, planned. */
static double run_planned(const fixture *f, const char *disabled, int64_t end)
{
    spey_graph *graph;
    spey_memplan *plan;
    spey_memplan_limits limits = { .tokens_max = tokens_max(f),
                                   .outputs_max = N_SEQS * f->n_tokens,
                                   .element_bytes = sizeof(double),
                                   .in_place = true };
    if (spey_model_draw(f->model, SPEY_BF16, &graph)) fail_msg("%s", spey_last_error());
    if (spey_passes_run(graph, disabled)) fail_msg("%s", spey_last_error());
    if (spey_memplan_new(graph, &limits, &plan)) fail_msg("%s", spey_last_error());
    if (spey_memplan_check(graph, &limits, plan)) fail_msg("%s", spey_last_error());
    double worst = run(f, graph, plan, end);
    spey_memplan_free(plan);
    spey_graph_free(graph);
    return worst;
}

/* The fixtures are sums in FP32 and up to 65 in size; a wrong model is off by tenths. */
static const double TOLERANCE = 1e-4;

static void check(const char *name, bool whole)
{
    fixture f;
    open_fixture(&f, name);
    if (whole) f.n_prompt = f.n_tokens;
    f.n_first = whole ? f.n_tokens : f.n_prompt / 2;
    spey_graph *graph;
    if (spey_model_draw(f.model, SPEY_BF16, &graph)) fail_msg("%s", spey_last_error());
    double drawn = run(&f, graph, NULL, f.n_tokens), all = run_planned(&f, NULL, f.n_tokens);
    spey_graph_free(graph);
    if (!(drawn <= TOLERANCE && all <= TOLERANCE))
        fail_msg("%s: off by %g as drawn, by %g after passes", f.folder, drawn, all);
    int n;
    const spey_pass *passes = spey_passes(&n);
    for (int p = 0; p < n; p++) {
        double worst = run_planned(&f, passes[p].name, f.n_prompt + !whole);
        if (!(worst <= TOLERANCE))
            fail_msg("%s without %s: off by %g", f.folder, passes[p].name, worst);
    }
    print_message("%-16s off by %.2g\n", name, all);
    close_fixture(&f);
}

static void check_fixture(void **state)
{
    check(*state, false);
}

/* The rotation depends on the length of the sequence, which is that of the whole in the expected logits. */
static void check_whole_fixture(void **state)
{
    check(*state, true);
}

/* The name is the test's name and its state. */
#define FIXTURE(folder)                                              \
    {                                                                \
        folder, check_fixture, NULL, NULL, (void *)(uintptr_t)folder \
    }
#define FIXTURE_WHOLE(folder)                                              \
    {                                                                      \
        folder, check_whole_fixture, NULL, NULL, (void *)(uintptr_t)folder \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE("llama2"),
        FIXTURE("llama3"),
        FIXTURE("llama-tied-bias"),
        FIXTURE("mistral-swa"),
        FIXTURE("qwen2"),
        FIXTURE("qwen3"),
        FIXTURE("gemma"),
        FIXTURE("gemma2"),
        FIXTURE("gemma3"),
        FIXTURE("granite"),
        FIXTURE("cohere"),
        FIXTURE("glm"),
        FIXTURE("olmo2"),
        FIXTURE("phi"),
        FIXTURE("phi3"),
        FIXTURE("stablelm"),
        FIXTURE("starcoder2"),
        FIXTURE("gpt-neox"),
        FIXTURE("gpt-neox-serial"),
        FIXTURE("gptj"),
        FIXTURE("falcon-7b"),
        FIXTURE("falcon-180b"),
        FIXTURE("falcon-rw"),
        FIXTURE("bloom"),
        FIXTURE("mpt"),
        FIXTURE("mixtral"),
        FIXTURE("qwen2-moe"),
        FIXTURE("qwen3-moe"),
        FIXTURE("gpt-oss"),
        FIXTURE("deepseek-v2"),
        FIXTURE("deepseek-v3"),
        FIXTURE("gpt2"),
        FIXTURE("opt"),
        FIXTURE("starcoder"),
        FIXTURE("mamba"),
        FIXTURE("t5"),
        FIXTURE("bart"),
        FIXTURE("odd-llama"),
        FIXTURE("odd-llama-linear"),
        FIXTURE_WHOLE("odd-llama-dynamic"),
        FIXTURE("odd-llama-yarn"),
        FIXTURE("odd-llama-llama3"),
        FIXTURE("odd-llama-mha"),
        FIXTURE("odd-llama-gqa"),
        FIXTURE("odd-glm"),
        FIXTURE("odd-qwen3"),
        FIXTURE("odd-gemma2"),
        FIXTURE("odd-gpt2"),
        FIXTURE("odd-gpt-neox"),
        FIXTURE("odd-falcon"),
        FIXTURE("odd-mixtral-top1"),
        FIXTURE("odd-mixtral-top2"),
        FIXTURE("odd-deepseek-v3"),
        FIXTURE("odd-gpt-oss"),
        FIXTURE_WHOLE("odd-phi3-long"),
        FIXTURE("odd-phi3-short"),
        FIXTURE("odd-nemotron"),
        FIXTURE("odd-t5"),
        FIXTURE("odd-t5-gated"),
        FIXTURE("odd-mt5"),
        FIXTURE("odd-bart"),
        FIXTURE("internlm2"),
        FIXTURE("baichuan-7b"),
        FIXTURE("baichuan-13b"),
        FIXTURE("chatglm"),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
