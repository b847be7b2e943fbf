#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "planning.h"
#include "runtime/layout.h"

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
    assert_int_equal(plan.limits.kv_block_tokens, 64);
    assert_int_equal(plan.kv_blocks, 1);
    assert_int_equal(plan.kv_tokens, 64);
    /* 2 layers, K and V, 2 heads, 64 tokens, 16 elements of 4 bytes */
    assert_int_equal(plan.kv_block_bytes, 2 * 2 * 2 * 64 * 16 * 4);
    assert_int_equal(plan.limits.kv_bytes, plan.kv_blocks * (int64_t)plan.kv_block_bytes);
    assert_int_equal(plan_line(&plan, "kv cache"), plan.limits.kv_bytes);
    assert_int_equal(plan_line(&plan, "logits"), 50 * sizeof(float));
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
    assert_int_equal(plan_line(&plan, "logits"), 40 * 50 * sizeof(float));
}

static void states_have_a_line_of_their_own(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    const spey_limits_plan limits = { .sequences_max = 3, .kv_dtype = "bf16" };
    spey_plan without = plan_of(&shape, limits);
    shape.scans = true;
    spey_plan plan = plan_of(&shape, limits);
    assert_int_equal(plan.state_bytes, 32 * 32 * 4); /* FP32, whatever the cache is */
    assert_int_equal(plan_line(&plan, "states"), 3 * 32 * 32 * 4);
    assert_int_equal(plan_line(&without, "states"), 0);
    assert_int_equal(plan_line(&plan, "kv cache"), plan_line(&without, "kv cache"));
    assert_int_equal(plan.kv_blocks, without.kv_blocks);
}

static void an_encoders_cache_has_a_line_of_its_own(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    const spey_limits_plan limits = { .sequences_max = 3, .kv_block_tokens = 16 };
    spey_plan without = plan_of(&shape, limits);
    shape.encodes = true;
    spey_plan plan = plan_of(&shape, limits);
    assert_int_equal(without.source_tokens_max, 0);
    assert_int_equal(plan.limits.step_tokens_max,
                     64); /* the context: an encoder takes it at once */
    assert_int_equal(plan.source_tokens_max, 64);
    /* K and V of a cross layer, and of one layer for the two that take turns. */
    assert_int_equal(plan_line(&plan, "encoder's kv cache"), 3 * 64 * 2 * (2 * 32) * 4);
    assert_int_equal(plan_line(&plan, "kv cache"), plan_line(&without, "kv cache"));
    assert_int_equal(plan.kv_block_bytes, without.kv_block_bytes);
    plan = plan_of(&shape, (spey_limits_plan){ .sequences_max = 3, .step_tokens_max = 10 });
    assert_int_equal(plan.source_tokens_max, 10);
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

static void window_groups_get_what_sequences_can_hold(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    shape.two_groups = true;
    shape.window = 5;
    spey_limits_plan limits = { .sequences_max = 3, .kv_block_tokens = 2, .step_tokens_max = 7 };
    spey_plan plan = plan_of(&shape, limits);
    assert_int_equal(plan.kv_blocks, 3 * 32);
    assert_int_equal(plan.n_kv_groups, 2);
    assert_int_equal(plan.kv_groups[0].n_blocks, 3 * 32);
    assert_int_equal(plan.kv_groups[0].window, 0);
    /* the window, 16 tokens to go back to, two blocks that are begun; and the step */
    assert_int_equal(plan.kv_groups[1].n_blocks, 3 * (11 + 2) + 4);
    assert_int_equal(plan.kv_groups[1].window, 5);
    uint64_t bytes = 0;
    for (int g = 0; g < 2; g++)
        bytes += (uint64_t)plan.kv_groups[g].n_blocks * plan.kv_groups[g].block_bytes;
    assert_int_equal(plan.limits.kv_bytes, bytes);
    assert_int_equal(plan_line(&plan, "kv cache"), bytes);
    /* What is saved is there for longer sequences. */
    limits.kv_bytes = bytes - plan.kv_groups[0].block_bytes;
    plan = plan_of(&shape, limits);
    assert_int_equal(plan.kv_blocks, 3 * 32 - 1);
    /* With little memory a window group has as many blocks as the others. */
    limits.kv_bytes = 33 * plan.kv_block_bytes;
    plan = plan_of(&shape, limits);
    assert_int_equal(plan.kv_groups[1].n_blocks, 33);
    assert_int_equal(plan.kv_blocks, 33);
}

/* A layout with its program; freed by close_layout. */
typedef struct fixture {
    spey_engine_file *file;
    spey_program program;
    spey_layout layout;
} fixture;

static void open_layout(fixture *f, const tiny_shape *shape, spey_limits_plan limits)
{
    limits.threads = 1;
    assert_int_equal(tiny_engine_new(shape, &f->file), SPEY_OK);
    assert_int_equal(spey_program_init(&f->program, f->file, &limits), SPEY_OK);
    assert_int_equal(spey_layout_init(&f->layout, &f->program, &limits), SPEY_OK);
    assert_true(spey_layout_fits(&f->layout));
}

static void close_layout(fixture *f)
{
    spey_layout_deinit(&f->layout);
    spey_program_deinit(&f->program);
    spey_engine_file_close(f->file);
}

static void host_memory_holds_blocks_of_all_groups(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    shape.two_groups = true;
    shape.window = 5;
    spey_limits_plan limits = { .kv_block_tokens = 8 };
    uint64_t block = plan_of(&shape, limits).kv_block_bytes;
    limits.kv_host_bytes = 5 * block + block / 2;
    spey_plan plan = plan_of(&shape, limits);
    assert_int_equal(plan.limits.kv_host_bytes, 5 * block);
    assert_int_equal(plan_line(&plan, "kv cache (host memory)"), 5 * block);
    limits.no_kv_reuse = true; /* nothing would come back */
    assert_int_equal(plan_of(&shape, limits).limits.kv_host_bytes, 0);
    limits.no_kv_reuse = false;
    shape.scans = true;
    assert_int_equal(plan_of(&shape, limits).limits.kv_host_bytes, 0);
    shape.scans = false;
    fixture f;
    limits.kv_host_bytes = 3 * block;
    open_layout(&f, &shape, limits);
    assert_int_equal(f.layout.kv.host_blocks, 3);
    close_layout(&f);
}

/* "fake" is the CPU with memory of its own. */
static void a_device_of_its_own_is_filled_by_the_pool(void **state)
{
    (void)state;
    spey_limits_plan limits = { .sequences_max = 64, .memory_bytes_max = 2 << 20 };
    spey_plan shared = plan_of(&tiny_default, limits);
    limits.device = "fake";
    spey_plan own = plan_of(&tiny_default, limits);
    assert_in_range(shared.limits.kv_bytes, 1, limits.memory_bytes_max / 4);
    uint64_t room = limits.memory_bytes_max - (own.total_bytes - own.limits.kv_bytes);
    assert_in_range(own.limits.kv_bytes, room / 10 * 9 - own.kv_block_bytes, room);
    assert_true(own.total_bytes <= limits.memory_bytes_max);
    /* No more than the limits need. */
    limits.memory_bytes_max = 1 << 30;
    assert_int_equal(plan_of(&tiny_default, limits).kv_blocks, 64);
    /* A quarter would be too much beside the weights, what is left is enough. */
    limits = (spey_limits_plan){ .device = "fake",
                                 .sequences_max = 64,
                                 .sequence_tokens_max = 64,
                                 .kv_bytes = own.kv_block_bytes };
    spey_plan least = plan_of(&tiny_default, limits);
    uint64_t other = least.total_bytes - least.limits.kv_bytes;
    limits.memory_bytes_max = other + other / 5;
    limits.kv_bytes = limits.memory_bytes_max / 4;
    assert_int_equal(refusal_of(&tiny_default, limits), SPEY_LIMIT);
    limits.kv_bytes = 0;
    own = plan_of(&tiny_default, limits);
    assert_in_range(own.limits.kv_bytes, 2 * own.kv_block_bytes, limits.memory_bytes_max / 4);
    assert_true(own.total_bytes <= limits.memory_bytes_max);
}

static void a_small_kv_pool_shortens_the_default_sequence(void **state)
{
    (void)state;
    uint64_t block =
        plan_of(&tiny_default, (spey_limits_plan){ .kv_block_tokens = 32 }).kv_block_bytes;
    spey_plan plan = plan_of(
        &tiny_default, (spey_limits_plan){ .kv_block_tokens = 32, .kv_bytes = block + block / 2 });
    assert_int_equal(plan.kv_blocks, 1);
    assert_int_equal(plan.limits.sequence_tokens_max, 32);
    assert_int_equal(plan.limits.kv_bytes, block);
    /* An asked-for length must fit. */
    assert_int_equal(refusal_of(&tiny_default, (spey_limits_plan){ .kv_block_tokens = 32,
                                                                   .kv_bytes = block,
                                                                   .sequence_tokens_max = 33 }),
                     SPEY_LIMIT);
    assert_non_null(strstr(spey_last_error(), "33 tokens"));
    assert_int_equal(
        refusal_of(&tiny_default, (spey_limits_plan){ .kv_block_tokens = 32, .kv_bytes = 1 }),
        SPEY_LIMIT);
    /* More than all sequences can use is not taken. */
    plan = plan_of(
        &tiny_default,
        (spey_limits_plan){ .kv_block_tokens = 32, .kv_bytes = 1 << 30, .sequences_max = 2 });
    assert_int_equal(plan.kv_blocks, 4);
}

static void senseless_limits_are_invalid(void **state)
{
    (void)state;
    static const spey_limits_plan bad[] = {
        { .sequences_max = -1 },       { .sequences_max = SPEY_SEQUENCES_MAX + 1 },
        { .step_tokens_max = -5 },     { .step_tokens_max = 3, .sequences_max = 4 },
        { .outputs_max = -1 },         { .kv_block_tokens = 5000 },
        { .sequence_tokens_max = 65 }, /* the model has 64 positions */
        { .kv_dtype = "i8" },          { .kv_dtype = "" },
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(refusal_of(&tiny_default, bad[i]), SPEY_INVALID);
}

static void caches_of_8_bits_have_their_names(void **state)
{
    (void)state;
    spey_plan plan = plan_of(&tiny_default, (spey_limits_plan){ .kv_dtype = "fp8" });
    assert_string_equal(plan.limits.kv_dtype, "fp8");
    uint64_t fp8 = plan.kv_block_bytes;
    plan = plan_of(&tiny_default, (spey_limits_plan){ .kv_dtype = "f32" });
    assert_int_equal(plan.kv_block_bytes, 4 * fp8);
    plan = plan_of(&tiny_default, (spey_limits_plan){ .kv_dtype = "int8" });
    assert_string_equal(plan.limits.kv_dtype, "int8");
    assert_in_range(plan.kv_block_bytes, fp8 + 1, 2 * fp8);
    tiny_shape shape = tiny_default;
    shape.fp8_cache = true;
    plan = plan_of(&shape, (spey_limits_plan){ .kv_dtype = NULL });
    assert_string_equal(plan.limits.kv_dtype, "fp8");
    plan = plan_of(&shape, (spey_limits_plan){ .kv_dtype = "f32" });
    assert_string_equal(plan.limits.kv_dtype, "f32");
}

static void sizes_beyond_all_memory_are_refused(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    shape.context = SPEY_POSITIONS_MAX;
    spey_limits_plan limits = { .sequences_max = SPEY_SEQUENCES_MAX,
                                .step_tokens_max = SPEY_STEP_TOKENS_MAX,
                                .sequence_tokens_max = SPEY_POSITIONS_MAX,
                                .kv_bytes = UINT64_MAX };
    assert_int_equal(refusal_of(&shape, limits), SPEY_LIMIT);
}

static void the_tables_lie_side_by_side(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    shape.two_groups = true;
    fixture f;
    const spey_limits_plan limits = { .sequences_max = 3,
                                      .step_tokens_max = 20,
                                      .outputs_max = 5,
                                      .sequence_tokens_max = 50,
                                      .kv_block_tokens = 8 };
    open_layout(&f, &shape, limits);
    const spey_table_layout *t = &f.layout.tables;
    assert_int_equal(t->pitch, 7);
    const size_t begin[] = { t->ids,         t->positions, t->token_seq, t->seq_start, t->kv_len,
                             t->output_rows, t->groups[0], t->groups[1], t->bytes };
    const size_t items[] = { 20, 20, 20, 4, 3, 5, 3 * 7, 3 * 7 };
    assert_int_equal(begin[0], 0);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(begin[i] % 64, 0);
        assert_true(begin[i + 1] >= begin[i] + items[i] * sizeof(int32_t));
    }
    close_layout(&f);
}

static void a_block_holds_all_layers(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    shape.layers = 3;
    shape.two_groups = true;
    fixture f;
    open_layout(&f, &shape, (spey_limits_plan){ .kv_block_tokens = 1, .kv_dtype = "bf16" });
    for (int g = 0; g < 2; g++) {
        const spey_kv_pool *pool = &f.layout.pools[g];
        int64_t heads = g ? 4 : 2, layers = g ? 1 : 2;
        assert_int_equal(pool->k_token_bytes, 32);
        assert_int_equal(pool->k_head_bytes, 32);
        assert_int_equal(pool->k_bytes, heads * 32);
        assert_int_equal(pool->layer_bytes, 2 * heads * 32);
        assert_int_equal(pool->block_bytes, layers * 2 * heads * 32);
    }
    close_layout(&f);
}

static void prompt_tables_take_nothing_unless_asked_for(void **state)
{
    (void)state;
    spey_plan plan = plan_of(&tiny_default, (spey_limits_plan){ .step_tokens_max = 24 });
    assert_int_equal(plan_line(&plan, "prompt tables"), 0);
    plan = plan_of(&tiny_default,
                   (spey_limits_plan){ .step_tokens_max = 24, .prompt_table_tokens_max = 3 });
    assert_int_equal(plan_line(&plan, "prompt tables"), 24 * 32 * sizeof(float));
    const spey_limits_plan wrong[] = { { .prompt_table_tokens_max = -1 },
                                       { .prompt_table_tokens_max = (1 << 20) + 1 } };
    for (int i = 0; i < 2; i++)
        assert_int_equal(refusal_of(&tiny_default, wrong[i]), SPEY_INVALID);
    tiny_shape encodes = tiny_default;
    encodes.encodes = true;
    assert_int_equal(refusal_of(&encodes, (spey_limits_plan){ .prompt_table_tokens_max = 1 }),
                     SPEY_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_one_full_sequence),
        cmocka_unit_test(the_total_is_the_sum_of_counted_lines),
        cmocka_unit_test(states_have_a_line_of_their_own),
        cmocka_unit_test(an_encoders_cache_has_a_line_of_its_own),
        cmocka_unit_test(prompt_tables_take_nothing_unless_asked_for),
        cmocka_unit_test(cache_groups_have_shapes_of_their_own),
        cmocka_unit_test(window_groups_get_what_sequences_can_hold),
        cmocka_unit_test(host_memory_holds_blocks_of_all_groups),
        cmocka_unit_test(a_device_of_its_own_is_filled_by_the_pool),
        cmocka_unit_test(a_small_kv_pool_shortens_the_default_sequence),
        cmocka_unit_test(senseless_limits_are_invalid),
        cmocka_unit_test(caches_of_8_bits_have_their_names),
        cmocka_unit_test(sizes_beyond_all_memory_are_refused),
        cmocka_unit_test(the_tables_lie_side_by_side),
        cmocka_unit_test(a_block_holds_all_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
