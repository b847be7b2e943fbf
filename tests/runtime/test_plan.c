#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "runtime/executor.h"
#include "tiny_engine.h"

static spey_engine_file *engine(const tiny_shape *shape)
{
    spey_engine_file *file;
    spey_status status = tiny_engine_new(shape, &file);
    if (status != SPEY_OK) print_error("%s\n", spey_last_error());
    assert_int_equal(status, SPEY_OK);
    return file;
}

static spey_plan plan_of(const tiny_shape *shape, spey_limits_plan limits)
{
    spey_engine_file *file = engine(shape);
    spey_plan plan;
    if (!limits.threads) limits.threads = 1;
    spey_status status = spey_executor_plan(file, &limits, &plan);
    if (status != SPEY_OK) print_error("%s\n", spey_last_error());
    assert_int_equal(status, SPEY_OK);
    spey_engine_file_close(file);
    return plan;
}

static spey_status refusal_of(const tiny_shape *shape, spey_limits_plan limits)
{
    spey_engine_file *file = engine(shape);
    spey_plan plan;
    limits.threads = 1;
    spey_status status = spey_executor_plan(file, &limits, &plan);
    assert_int_not_equal(status, SPEY_OK);
    spey_engine_file_close(file);
    return status;
}

static uint64_t line_of(const spey_plan *plan, const char *what)
{
    for (int i = 0; i < plan->n_lines; i++)
        if (!strcmp(plan->lines[i].what, what)) return plan->lines[i].bytes;
    return 0;
}

static void defaults_are_one_full_sequence(void **state)
{
    (void)state;
    spey_plan plan = plan_of(&tiny_default, (spey_limits_plan){ 0 });
    assert_string_equal(plan.limits.device, "cpu");
    assert_string_equal(plan.limits.kv_dtype, "f32");
    assert_int_equal(plan.limits.threads, 1);
    assert_int_equal(plan.limits.sequences_max, 1);
    assert_int_equal(plan.limits.sequence_tokens_max, 64);
    assert_int_equal(plan.limits.step_tokens_max, 64); /* no more can come */
    assert_int_equal(plan.limits.outputs_max, 1);
    assert_int_equal(plan.limits.kv_block_tokens, 32);
    assert_int_equal(plan.kv_blocks, 2);
    assert_int_equal(plan.kv_tokens, 64);
    /* 2 layers, K and V, 2 heads, 32 tokens, 16 elements of 4 bytes */
    assert_int_equal(plan.kv_block_bytes, 2 * 2 * 2 * 32 * 16 * 4);
    assert_int_equal(plan.limits.kv_bytes, plan.kv_blocks * (int64_t)plan.kv_block_bytes);
    assert_int_equal(line_of(&plan, "kv cache"), plan.limits.kv_bytes);
    assert_int_equal(line_of(&plan, "logits"), 50 * sizeof(float));
}

static void the_total_is_the_sum_of_counted_lines(void **state)
{
    (void)state;
    const spey_limits_plan limits = { .sequences_max = 3, .outputs_max = 40 };
    spey_plan plan = plan_of(&tiny_default, limits);
    uint64_t sum = 0;
    for (int i = 0; i < plan.n_lines; i++)
        if (plan.lines[i].counted) sum += plan.lines[i].bytes;
    assert_int_equal(plan.total_bytes, sum);
    assert_true(plan.total_bytes < plan.available_bytes);
    assert_int_equal(line_of(&plan, "logits"), 40 * 50 * sizeof(float));
}

static void cache_groups_have_shapes_of_their_own(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    shape.layers = 3;
    shape.two_groups = true;
    const spey_limits_plan limits = { .kv_block_tokens = 16, .kv_dtype = "bf16" };
    spey_plan plan = plan_of(&shape, limits);
    /* group 0: 2 layers of 2 heads; group 1: 1 layer of 4 heads */
    assert_int_equal(plan.kv_block_bytes, (2 * 2 + 1 * 4) * 2 * 16 * 16 * 2);
    assert_int_equal(plan.kv_blocks, 4);
}

static void a_small_kv_pool_shortens_the_default_sequence(void **state)
{
    (void)state;
    uint64_t block = plan_of(&tiny_default, (spey_limits_plan){ 0 }).kv_block_bytes;
    spey_plan plan = plan_of(&tiny_default, (spey_limits_plan){ .kv_bytes = block + block / 2 });
    assert_int_equal(plan.kv_blocks, 1);
    assert_int_equal(plan.limits.sequence_tokens_max, 32);
    assert_int_equal(plan.limits.kv_bytes, block);
    /* An asked-for length must fit. */
    assert_int_equal(refusal_of(&tiny_default,
                                (spey_limits_plan){ .kv_bytes = block, .sequence_tokens_max = 33 }),
                     SPEY_LIMIT);
    assert_non_null(strstr(spey_last_error(), "33 tokens"));
    assert_int_equal(refusal_of(&tiny_default, (spey_limits_plan){ .kv_bytes = 1 }), SPEY_LIMIT);
    /* More than all sequences can use is not taken. */
    plan = plan_of(&tiny_default, (spey_limits_plan){ .kv_bytes = 1 << 30, .sequences_max = 2 });
    assert_int_equal(plan.kv_blocks, 4);
}

static void senseless_limits_are_invalid(void **state)
{
    (void)state;
    static const spey_limits_plan bad[] = {
        { .sequences_max = -1 },
        { .sequences_max = SPEY_SEQUENCES_MAX + 1 },
        { .step_tokens_max = -5 },
        { .step_tokens_max = 3, .sequences_max = 4 },
        { .outputs_max = -1 },
        { .kv_block_tokens = 5000 },
        { .sequence_tokens_max = 65 }, /* the model has 64 positions */
        { .kv_dtype = "i8" },
        { .kv_dtype = "" },
        { .device = "" },
        { .device = "cpu:x" },
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(refusal_of(&tiny_default, bad[i]), SPEY_INVALID);
    assert_int_equal(refusal_of(&tiny_default, (spey_limits_plan){ .device = "cpu:1" }),
                     SPEY_NOT_FOUND);
    assert_int_equal(refusal_of(&tiny_default, (spey_limits_plan){ .device = "abacus" }),
                     SPEY_NOT_FOUND);
}

/* 16 layers of a shape whose cache, activations and logits are large beside its tables. */
static const tiny_shape large = { .layers = 16,
                                  .hidden = 1024,
                                  .heads = 16,
                                  .kv_heads = 8,
                                  .head_dim = 64,
                                  .mlp = 4096,
                                  .vocab = 32000,
                                  .context = 8192,
                                  .dtype = SPEY_F32 };

/* Apply "sequence_tokens_max 3072 (…" from the advice. */
static void apply(const char *setting, spey_limits_plan *limits)
{
    long long value = 0;
    if (sscanf(setting, "sequences_max %lld", &value) == 1)
        limits->sequences_max = (int32_t)value;
    else if (sscanf(setting, "sequence_tokens_max %lld", &value) == 1)
        limits->sequence_tokens_max = value;
    else if (sscanf(setting, "step_tokens_max %lld", &value) == 1)
        limits->step_tokens_max = value;
    else if (sscanf(setting, "kv_bytes %lld MiB", &value) == 1)
        limits->kv_bytes = (uint64_t)value << 20;
    else if (!strncmp(setting, "kv_dtype bf16", 13))
        limits->kv_dtype = "bf16";
    else
        fail_msg("unknown advice '%s'", setting);
}

/* Every setting that the refusal names makes the plan fit. */
static int advice_fits(spey_limits_plan limits)
{
    assert_int_equal(refusal_of(&large, limits), SPEY_LIMIT);
    char text[1024];
    snprintf(text, sizeof(text), "%s", spey_last_error());
    char *at = strstr(text, "what would fit: ");
    if (!at) print_error("%s\n", text);
    assert_non_null(at);
    int n = 0;
    for (at += 16; at; at = strstr(at, "; ")) {
        if (n++) at += 2;
        spey_limits_plan advised = limits;
        apply(at, &advised);
        spey_plan plan = plan_of(&large, advised);
        assert_true(plan.total_bytes <= plan.available_bytes);
    }
    return n;
}

static void a_plan_that_does_not_fit_says_what_would(void **state)
{
    (void)state;
    spey_plan weights = plan_of(&large, (spey_limits_plan){ .sequence_tokens_max = 32 });
    uint64_t base = weights.total_bytes;
    /* the cache is too large */
    spey_limits_plan cache = { .sequences_max = 8, .sequence_tokens_max = 4096 };
    cache.memory_bytes_max = base + (200 << 20);
    assert_in_range(advice_fits(cache), 1, 3);
    cache.kv_bytes = (uint64_t)1 << 30;
    assert_in_range(advice_fits(cache), 1, 3);
    /* the activations are */
    spey_limits_plan step = { .step_tokens_max = 8192, .sequence_tokens_max = 64 };
    step.memory_bytes_max = base + (100 << 20);
    assert_in_range(advice_fits(step), 1, 3);
}

static void settings_are_combined_when_none_alone_is_enough(void **state)
{
    (void)state;
    uint64_t base =
        plan_of(&large, (spey_limits_plan){ .sequence_tokens_max = 64, .step_tokens_max = 16 })
            .total_bytes;
    spey_limits_plan limits = { .sequences_max = 64,
                                .sequence_tokens_max = 8192,
                                .step_tokens_max = 8192,
                                .outputs_max = 8192 };
    limits.memory_bytes_max = base + (64 << 20);
    assert_int_equal(refusal_of(&large, limits), SPEY_LIMIT);
    assert_non_null(strstr(spey_last_error(), "together"));
    limits.memory_bytes_max = 1 << 20;
    assert_int_equal(refusal_of(&large, limits), SPEY_LIMIT);
    assert_non_null(strstr(spey_last_error(), "no setting fits"));
}

static void sizes_beyond_all_memory_are_refused(void **state)
{
    (void)state;
    tiny_shape shape = large;
    shape.context = SPEY_POSITIONS_MAX;
    spey_limits_plan limits = { .sequences_max = SPEY_SEQUENCES_MAX,
                                .step_tokens_max = SPEY_STEP_TOKENS_MAX,
                                .sequence_tokens_max = SPEY_POSITIONS_MAX,
                                .kv_bytes = UINT64_MAX };
    assert_int_equal(refusal_of(&shape, limits), SPEY_LIMIT);
}

static void the_table_names_every_line(void **state)
{
    (void)state;
    spey_plan plan = plan_of(&tiny_default, (spey_limits_plan){ .kv_dtype = "f16" });
    spey_strbuf text = { 0 };
    spey_plan_write(&plan, &text);
    for (int i = 0; i < plan.n_lines; i++)
        assert_non_null(strstr(text.data, plan.lines[i].what));
    assert_non_null(strstr(text.data, "2 blocks of 32 tokens, f16, 8.0 KiB each"));
    spey_strbuf_deinit(&text);
}

static void bytes_read_well(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = { { 0, "0 B" },
                  { 1023, "1023 B" },
                  { 1024, "1.0 KiB" },
                  { 1536, "1.5 KiB" },
                  { (1 << 20) - 1, "1.0 MiB" },
                  { (uint64_t)5 << 30, "5.0 GiB" },
                  { UINT64_MAX, "16.0 EiB" } };
    char text[SPEY_BYTES_TEXT];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(spey_bytes_text(text, cases[i].bytes), cases[i].text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_one_full_sequence),
        cmocka_unit_test(the_total_is_the_sum_of_counted_lines),
        cmocka_unit_test(cache_groups_have_shapes_of_their_own),
        cmocka_unit_test(a_small_kv_pool_shortens_the_default_sequence),
        cmocka_unit_test(senseless_limits_are_invalid),
        cmocka_unit_test(a_plan_that_does_not_fit_says_what_would),
        cmocka_unit_test(settings_are_combined_when_none_alone_is_enough),
        cmocka_unit_test(sizes_beyond_all_memory_are_refused),
        cmocka_unit_test(the_table_names_every_line),
        cmocka_unit_test(bytes_read_well),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
