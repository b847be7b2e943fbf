#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "runtime/context.h"
#include "runtime/engine_handle.h"
#include "runtime/prompt_table.h"
#include "tiny_engine.h"

enum { ROWS = 3, COLS = 300 };

static const spey_prompt_table_limits limits = { .rows_max = ROWS, .cols = COLS };
static float numbers[ROWS][COLS];

static spey_prompt_table table_of(int64_t n, const char *dtype)
{
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++)
            numbers[r][c] = (float)(r * COLS + c) / 8;
    return (spey_prompt_table){ numbers, n, COLS, dtype };
}

static void refuses(const spey_prompt_table *table, const spey_prompt_table_limits *of,
                    spey_status wanted, const char *text)
{
    assert_int_equal(spey_prompt_table_check(table, of), wanted);
    if (!strstr(spey_last_error(), text)) fail_msg("\"%s\" lacks \"%s\"", spey_last_error(), text);
}

static void what_is_no_table_is_named(void **state)
{
    (void)state;
    const spey_prompt_table_limits none = { .cols = COLS };
    spey_prompt_table t = table_of(ROWS, NULL);
    assert_int_equal(spey_prompt_table_check(&t, &limits), SPEY_OK);
    refuses(&t, &none, SPEY_LIMIT, "set prompt_table_tokens_max");
    t.n_rows = ROWS + 1;
    refuses(&t, &limits, SPEY_LIMIT, "has 4 rows, 3 are the most");
    t.n_rows = 0;
    refuses(&t, &limits, SPEY_INVALID, "has 0 rows");
    t.n_rows = -1;
    refuses(&t, &limits, SPEY_INVALID, "has -1 rows");
    t = table_of(ROWS, NULL);
    t.rows = NULL;
    refuses(&t, &limits, SPEY_INVALID, "at least one");
    t = table_of(ROWS, NULL);
    t.cols = COLS - 1;
    refuses(&t, &limits, SPEY_INVALID, "have 299 numbers, the model's hidden size is 300");
    t = table_of(ROWS, "i8");
    refuses(&t, &limits, SPEY_INVALID, "'i8', expected f32, f16 or bf16");
    t = table_of(ROWS, "float");
    refuses(&t, &limits, SPEY_INVALID, "'float'");
}

static void numbers_are_finite_wherever_they_lie(void **state)
{
    (void)state;
    spey_prompt_table t = table_of(ROWS, "f32");
    numbers[2][299] = NAN;
    refuses(&t, &limits, SPEY_INVALID, "row 2 of the prompt table holds");
    t.n_rows = 2;
    assert_int_equal(spey_prompt_table_check(&t, &limits), SPEY_OK);
    numbers[1][0] = -INFINITY;
    refuses(&t, &limits, SPEY_INVALID, "at 0, expected finite");
    uint16_t halves[COLS] = { 0 };
    const spey_prompt_table_limits one = { .rows_max = 1, .cols = COLS };
    t = (spey_prompt_table){ halves, 1, COLS, "f16" };
    assert_int_equal(spey_prompt_table_check(&t, &one), SPEY_OK);
    halves[7] = 0x7c00;
    refuses(&t, &one, SPEY_INVALID, "inf at 7");
    t.dtype = "bf16"; /* the same bits are a finite number there */
    assert_int_equal(spey_prompt_table_check(&t, &one), SPEY_OK);
    halves[7] = 0x7fc0;
    refuses(&t, &one, SPEY_INVALID, "nan at 7");
}

static void a_copy_stays_and_reads_as_f32(void **state)
{
    (void)state;
    uint16_t halves[2][2] = { { 0x3c00, 0xc000 }, { 0x3800, 0x0000 } };
    const spey_prompt_table t = { halves, 2, 2, "f16" };
    spey_arena arena;
    spey_prompt_rows rows;
    spey_arena_init(&arena, SPEY_PURPOSE_GENERAL);
    assert_int_equal(spey_prompt_table_copy(&t, &arena, &rows), SPEY_OK);
    memset(halves, 0xff, sizeof halves);
    float row[2];
    spey_prompt_table_read(&rows, 0, row);
    assert_true(row[0] == 1 && row[1] == -2);
    spey_prompt_table_read(&rows, 1, row);
    assert_true(row[0] == 0.5f && row[1] == 0);
    spey_arena_deinit(&arena);
}

static void a_salt_is_of_the_table_its_type_and_the_salt_before(void **state)
{
    (void)state;
    static uint16_t a[4] = { 1, 2, 3, 4 }, b[4] = { 1, 2, 3, 4 }, c[4] = { 1, 2, 3, 5 };
    const spey_prompt_rows first = { a, SPEY_F16, 2, 2 }, same = { b, SPEY_F16, 2, 2 },
                           other = { c, SPEY_F16, 2, 2 }, type = { a, SPEY_BF16, 2, 2 },
                           shorter = { a, SPEY_F16, 1, 2 };
    uint64_t salt = spey_prompt_table_salt(&first, 7);
    assert_true(spey_prompt_table_salt(&same, 7) == salt);
    assert_true(spey_prompt_table_salt(&other, 7) != salt);
    assert_true(spey_prompt_table_salt(&type, 7) != salt);
    assert_true(spey_prompt_table_salt(&shorter, 7) != salt);
    assert_true(spey_prompt_table_salt(&first, 8) != salt);
}

/* ---- requests ---- */

enum { VOCAB = 50, HIDDEN = 32 };

static spey_engine *open_engine(bool encodes)
{
    tiny_shape shape = tiny_default;
    spey_engine_file *file;
    spey_engine *engine;
    shape.encodes = encodes;
    assert_int_equal(tiny_engine_new(&shape, &file), SPEY_OK);
    assert_int_equal(spey_engine_from_file(file, &engine), SPEY_OK);
    return engine;
}

static spey_status open_context(const spey_engine *engine, int64_t rows_max, spey_context **out)
{
    spey_context_options options;
    spey_context_options_init(&options);
    options.threads = 1;
    options.prompt_table_tokens_max = rows_max;
    return spey_context_new(engine, &options, out);
}

typedef struct ended {
    int n_tokens, n_ends;
    float prompt_logprobs[8];
    int32_t ids[16];
} ended;

static int on_output(void *user, const spey_output *event)
{
    ended *e = user;
    if (event->token >= 0) e->ids[e->n_tokens++] = event->token;
    for (int32_t i = 0; i < event->n_prompt && i < 8; i++)
        e->prompt_logprobs[i] = event->prompt_logprobs[i];
    e->n_ends += event->last;
    return 0;
}

static spey_status submit(spey_context *context, const int32_t *prompt, size_t n,
                          const spey_prompt_table *table, const spey_sampling *sampling, ended *e)
{
    spey_request_options o;
    spey_request_options_init(&o);
    o.prompt = prompt;
    o.n_prompt = n;
    o.prompt_table = table;
    o.sampling = sampling;
    o.on_output = on_output;
    o.user = e;
    return spey_context_submit_request(context, &o, NULL);
}

static void a_bad_table_or_id_is_its_requests_alone(void **state)
{
    (void)state;
    static float rows[2][HIDDEN], bad[1][HIDDEN];
    bad[0][3] = NAN;
    const spey_prompt_table good = { rows, 2, HIDDEN, NULL }, nan = { bad, 1, HIDDEN, "f32" },
                            wide = { rows, 1, 2 * HIDDEN, "f32" };
    const int32_t prompt[] = { 1, VOCAB, VOCAB + 1 }, beyond[] = { 1, VOCAB + 2 },
                  negative[] = { -1 }, plain[] = { 1, 2 };
    spey_engine *engine = open_engine(false);
    spey_context *context;
    spey_sampling s;
    spey_sampling_init(&s);
    s.max_tokens = 4;
    ended ok = { 0 }, never = { 0 };
    assert_int_equal(open_context(engine, 2, &context), SPEY_OK);
    assert_int_equal(submit(context, prompt, 3, &good, &s, &ok), SPEY_OK);
    assert_int_equal(submit(context, beyond, 2, &good, &s, &never), SPEY_INVALID);
    assert_non_null(strstr(spey_last_error(), "prompt token 1 is 52, expected 0 to 49, or to 51"));
    assert_int_equal(submit(context, negative, 1, &good, &s, &never), SPEY_INVALID);
    assert_int_equal(submit(context, prompt, 3, NULL, &s, &never), SPEY_INVALID);
    assert_int_equal(submit(context, plain, 2, &nan, &s, &never), SPEY_INVALID);
    assert_int_equal(submit(context, plain, 2, &wide, &s, &never), SPEY_INVALID);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(ok.n_ends, 1);
    assert_int_equal(ok.n_tokens, 4);
    assert_int_equal(never.n_ends, 0);
    spey_context_free(context);

    assert_int_equal(open_context(engine, 0, &context), SPEY_OK);
    assert_int_equal(submit(context, prompt, 3, &good, &s, &never), SPEY_LIMIT);
    spey_context_free(context);
    assert_int_equal(open_context(engine, -1, &context), SPEY_INVALID);
    spey_engine_close(engine);
}

static void an_encoder_takes_no_table(void **state)
{
    (void)state;
    static float rows[1][HIDDEN];
    const spey_prompt_table table = { rows, 1, HIDDEN, NULL };
    const int32_t prompt[] = { 1 };
    ended never = { 0 };
    spey_engine *engine = open_engine(true);
    spey_context *context;
    assert_int_equal(open_context(engine, 1, &context), SPEY_UNSUPPORTED);
    assert_non_null(strstr(spey_last_error(), "the model has an encoder"));
    assert_int_equal(open_context(engine, 0, &context), SPEY_OK);
    assert_int_equal(submit(context, prompt, 1, &table, NULL, &never), SPEY_UNSUPPORTED);
    spey_context_free(context);
    spey_engine_close(engine);
}

/* Rows are no tokens: penalties pass over them, and they have no log-probability. */
static void penalties_and_logprobs_leave_rows_out(void **state)
{
    (void)state;
    static float rows[2][HIDDEN];
    for (int i = 0; i < HIDDEN; i++)
        rows[0][i] = 0.3f * (float)(i % 5) - 0.5f;
    const spey_prompt_table table = { rows, 2, HIDDEN, NULL };
    const int32_t prompt[] = { 7, VOCAB, 8, VOCAB + 1, VOCAB, 8, VOCAB + 1 };
    spey_sampling s;
    spey_sampling_init(&s);
    s.max_tokens = 8;
    s.repetition_penalty = 1.3;
    s.presence_penalty = 0.5;
    s.no_repeat_ngram = 2;
    s.prompt_logprobs = 0;
    s.ignore_eos = true;
    spey_engine *engine = open_engine(false);
    spey_context *context;
    ended e = { 0 };
    assert_int_equal(open_context(engine, 2, &context), SPEY_OK);
    assert_int_equal(submit(context, prompt, 7, &table, &s, &e), SPEY_OK);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(e.n_tokens, 8);
    for (int i = 0; i < 7; i++)
        assert_true(isnan(e.prompt_logprobs[i]) == (i == 0 || prompt[i] >= VOCAB));
    for (int i = 0; i < 8; i++)
        assert_in_range(e.ids[i], 0, VOCAB - 1);
    spey_context_free(context);
    spey_engine_close(engine);
}

static void failing_allocations_leak_nothing(void **state)
{
    (void)state;
    static float rows[1][HIDDEN];
    const spey_prompt_table table = { rows, 1, HIDDEN, NULL };
    const int32_t prompt[] = { VOCAB, 1 };
    spey_engine *engine = open_engine(false);
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    for (uint64_t nth = 1; status; nth++) {
        spey_context *context;
        ended e = { 0 };
        spey_alloc_fail_nth(nth);
        status = open_context(engine, 1, &context);
        if (!status) status = submit(context, prompt, 2, &table, NULL, &e);
        spey_alloc_fail_nth(0);
        spey_context_free(context);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
        assert_true(nth < 2000);
    }
    spey_engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_table_is_named),
        cmocka_unit_test(numbers_are_finite_wherever_they_lie),
        cmocka_unit_test(a_copy_stays_and_reads_as_f32),
        cmocka_unit_test(a_salt_is_of_the_table_its_type_and_the_salt_before),
        cmocka_unit_test(a_bad_table_or_id_is_its_requests_alone),
        cmocka_unit_test(an_encoder_takes_no_table),
        cmocka_unit_test(penalties_and_logprobs_leave_rows_out),
        cmocka_unit_test(failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests_name("prompt table", tests, NULL, NULL);
}
