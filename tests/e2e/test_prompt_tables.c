/* A prompt whose ids name rows of a table that are copies of the model's own gives what the plain prompt gives, to the bit:
 * whatever the family does to its embeddings, however the prompt is cut, with reuse and without, alone, paused, as several
 * sequences or beams.
 *
 *   test_prompt_tables [PATTERN] [--device cuda]
 *
 * On a device a prompt that is cut otherwise has other bits: there steps of the same sizes are compared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/rng.h"
#include "engine_fixture.h"
#include "runtime/context.h"
#include "runtime/engine_handle.h"
#include "runtime/program.h"

enum { PROMPT = 23, TOKENS = 12, WIDTH = 3 };

/* A model and its prompt, plain and with every other token a row of `table`. */
typedef struct subject {
    spey_engine *engine;
    int32_t plain[PROMPT], mixed[PROMPT];
    spey_prompt_table table;
    uint8_t *rows;
    size_t row_bytes;
} subject;

/* The rows that a model's tokens have, as the engine keeps them. */
static const spey_engine_tensor *embeddings(const spey_engine_file *file)
{
    spey_program program;
    const spey_limits_plan limits = { .threads = 1 };
    const spey_engine_tensor *found = NULL;
    e2e_ok(spey_program_init(&program, file, &limits), "program");
    for (int i = 0; i < program.graph->n_nodes && !found; i++) {
        const spey_node *node = &program.graph->nodes[i];
        if (node->op == SPEY_GRAPH_EMBED) found = program.tensors[node->weights[0]];
    }
    spey_program_deinit(&program);
    assert_non_null(found);
    return found;
}

static subject open_subject(const char *checkpoint, const char *dtype)
{
    subject s = { 0 };
    spey_engine_file *file = e2e_build(checkpoint, dtype, NULL);
    e2e_ok(spey_engine_from_file(file, &s.engine), checkpoint);
    const spey_engine_tensor *own = embeddings(file);
    int64_t vocab = spey_engine_vocab_size(s.engine), cols = own->dims[1];
    s.row_bytes = (size_t)cols * spey_dtype_bytes(own->dtype);
    s.rows = malloc(PROMPT * s.row_bytes);
    assert_non_null(s.rows);
    assert_int_equal(cols, spey_engine_hidden_size(s.engine));
    s.table = (spey_prompt_table){ s.rows, PROMPT, cols, spey_dtype_name(own->dtype) };
    spey_rng rng = { .seed = 5 };
    for (int i = 0; i < PROMPT; i++) {
        int row = (i * 7) % PROMPT; /* in no order */
        s.plain[i] = (int32_t)spey_rng_below(&rng, (uint64_t)vocab);
        s.mixed[i] = i % 2 ? s.plain[i] : (int32_t)vocab + row;
        memcpy(s.rows + (size_t)row * s.row_bytes,
               (const uint8_t *)own->data + (size_t)s.plain[i] * s.row_bytes, s.row_bytes);
    }
    return s;
}

static void close_subject(subject *s)
{
    spey_engine_close(s->engine);
    free(s->rows);
}

/* All that a request says. */
typedef struct record {
    int32_t ids[WIDTH][TOKENS];
    float logprobs[WIDTH][TOKENS];
    int n[WIDTH];
    uint64_t generation_rows, prompt_rows; /* hashes */
    spey_finish finish;
} record;

static int on_output(void *user, const spey_output *event)
{
    record *r = user;
    int s = event->sequence;
    if (event->error) print_error("%s\n", event->error);
    if (event->token >= 0) {
        r->logprobs[s][r->n[s]] = event->logprob;
        r->ids[s][r->n[s]++] = event->token;
    }
    r->finish = event->finish;
    return 0;
}

static void on_logits(void *user, const spey_logits_row *row)
{
    record *r = user;
    uint64_t *sum = row->generation ? &r->generation_rows : &r->prompt_rows;
    const uint64_t parts[] = { *sum, spey_xxh3(row->logits, row->vocab_size * sizeof(float)) };
    *sum = spey_xxh3(parts, sizeof parts);
}

typedef enum manner { GREEDY, SEQUENCES, BEAMS } manner;

static void submit(spey_context *context, const subject *s, const spey_prompt_table *table,
                   manner how, record *r)
{
    spey_sampling sampling;
    spey_sampling_init(&sampling);
    sampling.max_tokens = TOKENS;
    sampling.ignore_eos = true;
    sampling.logprobs = 0;
    sampling.repetition_penalty = 1.0;
    if (how == SEQUENCES) {
        sampling.n = WIDTH;
        sampling.temperature = 1;
    }
    if (how == BEAMS) sampling.n = sampling.beams = WIDTH;
    spey_request_options options;
    spey_request_options_init(&options);
    options.prompt = table ? s->mixed : s->plain;
    options.n_prompt = PROMPT;
    options.prompt_table = table;
    options.sampling = &sampling;
    options.on_output = on_output;
    options.user = r;
    options.on_logits = on_logits;
    options.logits_user = r;
    options.generation_logits = how == GREEDY;
    e2e_ok(spey_context_submit_request(context, &options, NULL), "submit");
}

static void ordinary(spey_context_options *options)
{
    spey_context_options_init(options);
    options->threads = 2;
    options->device = e2e_device;
    options->sequences_max = WIDTH;
    options->kv_block_tokens = 4;
    options->sequence_tokens_max = PROMPT + TOKENS;
    options->prompt_table_tokens_max = PROMPT;
}

static spey_context *open_context(const subject *s, const spey_context_options *options)
{
    spey_context *context;
    e2e_ok(spey_context_new(s->engine, options, &context), "context");
    return context;
}

static void run(spey_context *context)
{
    spey_alloc_seal(true);
    spey_status status = spey_context_run(context);
    spey_alloc_seal(false);
    e2e_ok(status, "run");
}

static int64_t reused(spey_context *context)
{
    spey_kv_stats stats;
    spey_kv_read_stats(spey_runner_kv(spey_context_runner(context)), &stats);
    return stats.reused_tokens;
}

/* Three requests in one context: plain, or with the table; the later ones may begin with what the first left. */
static void run_all(const subject *s, const spey_context_options *options, bool mixed,
                    record records[3])
{
    spey_context *context = open_context(s, options);
    memset(records, 0, 3 * sizeof *records);
    for (int k = GREEDY; k <= BEAMS; k++) {
        submit(context, s, mixed ? &s->table : NULL, (manner)k, &records[k]);
        run(context);
        assert_int_equal(records[k].finish, SPEY_FINISH_LENGTH);
    }
    e2e_ok(spey_kv_check(spey_runner_kv(spey_context_runner(context))), "cache");
    spey_context_free(context);
}

static void check_family(const char *checkpoint, const char *dtype)
{
    subject s = open_subject(checkpoint, dtype);
    spey_context_options options;
    record wanted[3], got[3];
    ordinary(&options);
    run_all(&s, &options, false, wanted);
    static const int64_t step_tokens[] = { 0, 7, WIDTH };
    for (int i = 0; i < 6; i++) {
        options.step_tokens_max = step_tokens[i / 2];
        options.no_kv_reuse = i % 2;
        if (e2e_device) run_all(&s, &options, false, wanted);
        run_all(&s, &options, true, got);
        if (memcmp(got, wanted, sizeof got)) fail_msg("%s, %s: case %d", checkpoint, dtype, i);
    }
    close_subject(&s);
}

static void copies_of_the_models_own_rows_change_no_bit(void **state)
{
    (void)state;
    static const char *const checkpoints[] = {
        "llama2", "gpt2", "gemma", "gemma3", "opt", "bloom", "falcon-7b", "mamba", "mistral-swa",
    };
    for (size_t i = 0; i < sizeof checkpoints / sizeof *checkpoints; i++) {
        char path[128] = "tests/data/architectures/";
        strcat(path, checkpoints[i]);
        check_family(path, "f32");
        if (i < 4) check_family(path, i % 2 ? "f16" : "bf16");
    }
}

static void only_equal_tables_share_blocks(void **state)
{
    (void)state;
    subject s = open_subject("tests/data/architectures/llama2", "f32");
    spey_context_options options;
    ordinary(&options);
    uint8_t *changed = malloc(PROMPT * s.row_bytes), *copy = malloc(PROMPT * s.row_bytes);
    assert_true(changed && copy);
    memcpy(copy, s.rows, PROMPT * s.row_bytes);
    memcpy(changed, s.rows, PROMPT * s.row_bytes);
    changed[3] ^= 0x80; /* the sign of a number that the prompt's first token reads */
    spey_prompt_table other = s.table, same = s.table;
    other.rows = changed;
    same.rows = copy;
    record alone = { 0 }, first = { 0 }, second = { 0 }, third = { 0 };
    spey_context *context = open_context(&s, &options);
    submit(context, &s, &other, GREEDY, &alone);
    run(context);
    spey_context_free(context);

    context = open_context(&s, &options);
    submit(context, &s, &s.table, GREEDY, &first);
    run(context);
    submit(context, &s, &other, GREEDY, &second);
    run(context);
    assert_int_equal(reused(context), 0);
    assert_memory_equal(&second, &alone, sizeof second);
    assert_true(second.generation_rows != first.generation_rows);
    submit(context, &s, &same, GREEDY, &third);
    run(context);
    assert_true(reused(context) >= PROMPT - 4);
    if (!e2e_device) assert_memory_equal(&third, &first, sizeof third);
    assert_memory_equal(third.ids, first.ids, sizeof third.ids);
    spey_context_free(context);
    free(changed);
    free(copy);
    close_subject(&s);
}

static void a_crowd_of_both_is_paused_and_changes_no_bit(void **state)
{
    (void)state;
    subject s = open_subject("tests/data/architectures/llama2", "bf16");
    spey_context_options options;
    record wanted[3], got[4];
    ordinary(&options);
    options.no_kv_reuse = true;
    run_all(&s, &options, false, wanted);
    spey_context *context = open_context(&s, &options);
    const spey_plan *plan = spey_runner_get_plan(spey_context_runner(context));
    options.kv_bytes = 15 * plan->kv_block_bytes; /* two begin with 6, and end with 9 */
    options.policy = SPEY_MAX_UTILIZATION;
    options.step_tokens_max = 16;
    spey_context_free(context);
    context = open_context(&s, &options);
    memset(got, 0, sizeof got);
    for (int i = 0; i < 4; i++)
        submit(context, &s, i % 2 ? NULL : &s.table, GREEDY, &got[i]);
    run(context);
    assert_true(spey_context_counts(context).pauses > 0);
    for (int i = 0; i < 4; i++) {
        if (!e2e_device) assert_memory_equal(&got[i], &wanted[GREEDY], sizeof got[i]);
        assert_int_equal(got[i].finish, wanted[GREEDY].finish);
    }
    spey_context_free(context);
    close_subject(&s);
}

int main(int argc, char **argv)
{
    if (!e2e_read_arguments(argc, argv)) return 2;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_of_the_models_own_rows_change_no_bit),
        cmocka_unit_test(only_equal_tables_share_blocks),
        cmocka_unit_test(a_crowd_of_both_is_paused_and_changes_no_bit),
    };
    return cmocka_run_group_tests_name("prompt tables", tests, NULL, NULL);
}
