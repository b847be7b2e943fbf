/* Memory plans: what shares memory and what must not, and that graphs mean the
 * same in a planned arena as with a place for every value. */
#include "graph_test.h"

#include <math.h>

#include "base/rng.h"
#include "graph/memplan.h"
#include "graph/passes.h"
#include "interpreter.h"
#include "random_graph.h"

static const spey_memplan_limits limits = {
    .tokens_max = 10, .outputs_max = 3, .element_bytes = 4, .in_place = true
};

static spey_memplan *plan_of(const spey_graph *graph, const spey_memplan_limits *with)
{
    spey_memplan *plan;
    must(spey_memplan_new(graph, with, &plan));
    must(spey_memplan_check(graph, with, plan));
    return plan;
}

static void expect_storage(const spey_memplan *plan, spey_value value, spey_value storage)
{
    if (plan->values[value].storage != storage)
        fail_msg("%%%d lies in %%%d, expected %%%d", value, plan->values[value].storage, storage);
}

/* ---- what shares ---- */

#define HEADER                                                                    \
    "spey-graph 1\nweight e f32 [9,16]\nweight m f32 [16,16]\nweight f f32 [2]\n" \
    "weight h bf16 [16,16]\ncache 0 kv layers=1 heads=1 k_dim=4 v_dim=4\n"

static void a_slice_is_a_view(void **state)
{
    (void)state;
    spey_graph *graph = graph_of(HEADER "%0 = embed() e : tokens 16\n"
                                        "%1 = slice(%0) : tokens 5 {begin=3 cols=5}\n"
                                        "%2 = gather(%1) : outputs 5\noutput %2\n");
    spey_memplan *plan = plan_of(graph, &limits);
    expect_storage(plan, 1, 0);
    assert_int_equal(plan->values[1].offset, plan->values[0].offset + 3 * 4);
    assert_int_equal(plan->values[1].pitch, plan->values[0].pitch);
    expect_storage(plan, 2, 2);
    spey_memplan_free(plan);
    spey_graph_free(graph);
}

static void element_ops_write_over_what_dies(void **state)
{
    (void)state;
    spey_graph *graph = graph_of(HEADER "%0 = embed() e : tokens 16\n"
                                        "%1 = unary(%0) : tokens 16 {act=relu}\n" /* %0 lives on */
                                        "%2 = unary(%1) : tokens 16 {act=tanh}\n" /* over %1 */
                                        "%3 = add(%0, %2) : tokens 16\n"          /* over %0 */
                                        "%4 = glu(%2, %3) : tokens 16\n"          /* over %2 */
                                        "%5 = norm(%4) : tokens 16 {kind=rms eps=0}\n"
                                        "%6 = gather(%5) : outputs 16\noutput %6\n");
    spey_memplan *plan = plan_of(graph, &limits);
    expect_storage(plan, 1, 1);
    expect_storage(plan, 2, 1);
    expect_storage(plan, 3, 0);
    expect_storage(plan, 4, 1);
    expect_storage(plan, 5, 1);
    expect_storage(plan, 6, 6);
    spey_memplan_free(plan);

    spey_memplan_limits apart = limits;
    apart.in_place = false;
    plan = plan_of(graph, &apart);
    for (spey_value v = 0; v < graph->n_values; v++)
        expect_storage(plan, v, v);
    spey_memplan_free(plan);
    spey_graph_free(graph);
}

static void a_product_never_writes_over_its_input(void **state)
{
    (void)state;
    spey_graph *graph =
        graph_of(HEADER "%0 = embed() e : tokens 16\n%1 = linear(%0) m : tokens 16\n"
                        "%2 = gather(%1) : outputs 16\noutput %2\n");
    spey_memplan *plan = plan_of(graph, &limits);
    expect_storage(plan, 1, 1);
    assert_true(plan->values[0].offset != plan->values[1].offset);
    spey_memplan_free(plan);
    spey_graph_free(graph);
}

static void a_slice_that_others_still_read_is_safe(void **state)
{
    (void)state;
    spey_graph *graph =
        graph_of(HEADER "%0 = embed() e : tokens 16\n"
                        "%1 = slice(%0) : tokens 8 {begin=0 cols=8}\n"
                        "%2 = slice(%0) : tokens 8 {begin=4 cols=8}\n"
                        "%3 = slice(%0) : tokens 8 {begin=8 cols=8}\n"
                        "%4 = unary(%1) : tokens 8 {act=relu}\n" /* %2 overlaps: its own */
                        "%5 = unary(%3) : tokens 8 {act=relu}\n" /* so does this */
                        "%6 = add(%2, %4) : tokens 8\n"          /* now %2 dies */
                        "%7 = add(%6, %5) : tokens 8\n"
                        "%8 = gather(%7) : outputs 8\noutput %8\n");
    spey_memplan *plan = plan_of(graph, &limits);
    expect_storage(plan, 4, 4);
    expect_storage(plan, 5, 5);
    expect_storage(plan, 6, 0);
    spey_memplan_free(plan);
    spey_graph_free(graph);
}

static void the_sum_lies_over_the_residual_and_the_norm_over_x(void **state)
{
    (void)state;
    spey_graph *graph =
        graph_of(HEADER "%0 = embed() e : tokens 16\n%1 = linear(%0) m : tokens 16\n"
                        "%2, %3 = add_norm(%1, %0) : tokens 16, tokens 16 {kind=rms eps=0}\n"
                        "%4 = add(%2, %3) : tokens 16\n%5 = gather(%4) : outputs 16\noutput %5\n");
    spey_memplan *plan = plan_of(graph, &limits);
    expect_storage(plan, 2, 0);
    expect_storage(plan, 3, 1);
    spey_memplan_free(plan);
    spey_graph_free(graph);

    /* x and residual are one: only one result fits there. */
    graph =
        graph_of(HEADER "%0 = embed() e : tokens 16\n"
                        "%1, %2 = add_norm(%0, %0) : tokens 16, tokens 16 {kind=rms eps=0}\n"
                        "%3 = add(%1, %2) : tokens 16\n%4 = gather(%3) : outputs 16\noutput %4\n");
    plan = plan_of(graph, &limits);
    expect_storage(plan, 1, 0);
    expect_storage(plan, 2, 2);
    spey_memplan_free(plan);
    spey_graph_free(graph);
}

static void queries_stay_in_the_fused_row(void **state)
{
    (void)state;
    spey_graph *graph = graph_of(
        HEADER
        "%0 = embed() e : tokens 16\n%1 = rope_table() f : tokens 4 {rotary=4}\n"
        "%2 = rope_append(%0, %1) : tokens 8 {heads=2 kv_heads=1 k_dim=4 rotary=4 cache=0 layer=0}\n"
        "%3 = attention(%2) : tokens 8 {scale=1 heads=2 kv_heads=1 k_dim=4 v_dim=4 cache=0 layer=0}\n"
        "%4 = gather(%3) : outputs 8\noutput %4\n");
    spey_memplan *plan = plan_of(graph, &limits);
    expect_storage(plan, 2, 0);
    assert_int_equal(plan->values[2].offset, plan->values[0].offset);
    assert_int_equal(plan->values[2].pitch, plan->values[0].pitch);
    expect_storage(plan, 3, 3);
    assert_int_equal(plan->values[1].pitch, 4); /* tables are dense */
    spey_memplan_free(plan);
    spey_graph_free(graph);
}

static void in_16_bits_the_residual_stream_stays_wide(void **state)
{
    (void)state;
    static const bool wide[] = { true, false, true, true, false, true, false, true, true };
    spey_memplan_limits narrow = limits;
    narrow.element_bytes = 2;
    spey_graph *graph =
        graph_of(HEADER "%0 = embed() e : tokens 16\n"
                        "%1 = norm(%0) : tokens 16 {kind=rms eps=0}\n" /* a product reads it */
                        "%2 = linear(%1) m : tokens 16\n"
                        "%3, %4 = add_norm(%2, %0) : tokens 16, tokens 16 {kind=rms eps=0}\n"
                        "%5 = slice(%3) : tokens 16 {begin=0 cols=16}\n" /* as %3 */
                        "%6 = unary(%4) : tokens 16 {act=relu}\n"
                        "%7 = linear(%6) m : tokens 16\n"
                        "%8 = add(%5, %7) : tokens 16\n"
                        "%9 = gather(%8) : outputs 16\noutput %9\n");
    spey_memplan *plan = plan_of(graph, &narrow);
    for (int v = 0; v < 9; v++)
        if ((plan->values[v].width == SPEY_WIDTH_WIDE) != wide[v])
            fail_msg("%%%d is %s", v, wide[v] ? "narrow" : "wide");
    expect_storage(plan, 3, 0); /* over the residual: as wide */
    expect_storage(plan, 4, 4); /* not over %2, which is wider */
    spey_memplan_free(plan);
    for (narrow.element_bytes = 4; narrow.element_bytes < 16; narrow.element_bytes *= 2) {
        plan = plan_of(graph, &narrow);
        for (int v = 0; v < 10; v++)
            assert_int_equal(plan->values[v].width, SPEY_WIDTH_ACTIVATION);
        spey_memplan_free(plan);
    }
    spey_graph_free(graph);
}

static void what_only_products_read_is_rounded_once(void **state)
{
    (void)state;
    static const bool rounded[] = { false, true, false, false, true, false, true, false, false };
    spey_memplan_limits narrow = limits;
    narrow.input_bytes = 2;
    spey_graph *graph =
        graph_of(HEADER "%0 = embed() e : tokens 16\n"
                        "%1 = norm(%0) : tokens 16 {kind=rms eps=0}\n"
                        "%2 = linear(%1) h : tokens 16\n"
                        "%3, %4 = add_norm(%2, %0) : tokens 16, tokens 16 {kind=rms eps=0}\n"
                        "%5 = linear(%4) h : tokens 16\n"
                        "%6 = glu(%5, %2) : tokens 16 {act=silu}\n"
                        "%7 = linear(%6) h : tokens 16\n"
                        "%8 = norm(%7) : tokens 16 {kind=rms eps=0}\n" /* the sum reads it too */
                        "%9 = linear(%8) h : tokens 16\n"
                        "%10 = add(%8, %9) : tokens 16\n"
                        "%11 = gather(%10) : outputs 16\noutput %11\n");
    spey_memplan *plan = plan_of(graph, &narrow);
    for (int v = 0; v < 9; v++)
        if ((plan->values[v].width == SPEY_WIDTH_INPUT) != rounded[v])
            fail_msg("%%%d is %s", v, rounded[v] ? "not rounded" : "rounded");
    expect_storage(plan, 6, 6); /* not over the gate, which is wider */
    assert_int_equal(plan->values[6].pitch * 2 % 64, 0);
    assert_int_equal(plan->values[6].pitch * 2 / 64 % 2, 1);
    spey_memplan_free(plan);
    narrow.input_bytes = 4;
    must_fail(spey_memplan_new(graph, &narrow, &plan), SPEY_INVALID, "inputs of 4");
    spey_graph_free(graph);
}

#define E4M3_HEADER                                                                          \
    HEADER                                                                                   \
    "weight s f32 [1]\nweight i f32 [1]\nweight j f32 [1]\n"                                 \
    "weight t e4m3 [16,16] scale=s input=token\nweight u e4m3 [16,16] scale=s input=token\n" \
    "weight p e4m3 [16,16] scale=s input_scale=i\n"                                          \
    "weight q e4m3 [16,16] scale=s input_scale=j\nweight k e4m3 [16,16] scale=s\n"

/* Of a device that multiplies E4M3 by E4M3. */
static spey_memplan_limits rounding_limits(void)
{
    spey_memplan_limits rounding = limits;
    rounding.element_bytes = 2;
    rounding.rounds_inputs = true;
    return rounding;
}

static void what_only_e4m3_products_read_is_rounded_for_them(void **state)
{
    (void)state;
    spey_memplan_limits rounding = rounding_limits();
    spey_graph *graph =
        graph_of(E4M3_HEADER "%0 = embed() e : tokens 16\n"
                             "%1 = norm(%0) : tokens 16 {kind=rms eps=0}\n"
                             "%2 = linear(%1) t : tokens 16\n" /* not wide */
                             "%3 = linear(%1) u : tokens 16\n" /* rounds as t does */
                             "%4 = glu(%2, %3) : tokens 16 {act=silu}\n"
                             "%5 = linear(%4) p : tokens 16\n"
                             "%6, %7 = add_norm(%5, %0) : tokens 16, tokens 16 {kind=rms eps=0}\n"
                             "%8 = linear(%7) p : tokens 16\n"
                             "%9 = linear(%7) q : tokens 16\n" /* another scale */
                             "%10 = glu(%8, %9) : tokens 16 {act=silu}\n"
                             "%11 = linear(%10) t : tokens 16\n"
                             "%12 = add(%10, %11) : tokens 16\n" /* reads %10 as it is */
                             "%13 = norm(%12) : tokens 16 {kind=rms eps=0 groups=2}\n"
                             "%14 = linear(%13) t : tokens 16\n"
                             "%15 = norm(%14) : tokens 16 {kind=rms eps=0}\n"
                             "%16 = linear(%15) k : tokens 16\n" /* does not round */
                             "%17 = gather(%16) : outputs 16\noutput %17\n");
    spey_memplan *plan = plan_of(graph, &rounding);
    for (int v = 0; v < graph->n_values; v++) {
        const bool rounded = v == 1 || v == 4;
        if ((plan->values[v].width == SPEY_WIDTH_E4M3) != rounded ||
            (plan->values[v].rounded_for >= 0) != rounded)
            fail_msg("%%%d is %s", v, rounded ? "not rounded" : "rounded");
    }
    assert_string_equal(graph->weights[plan->values[4].rounded_for].name, "p");
    assert_int_equal(plan->values[5].width, SPEY_WIDTH_ACTIVATION);
    assert_int_equal(plan->values[0].width, SPEY_WIDTH_WIDE);
    assert_int_equal(plan->values[1].pitch % 64, 0);
    spey_memplan_free(plan);
    rounding.rounds_inputs = false;
    plan = plan_of(graph, &rounding);
    assert_int_equal(plan->values[1].width, SPEY_WIDTH_ACTIVATION);
    assert_int_equal(plan->values[5].width, SPEY_WIDTH_WIDE);
    spey_memplan_free(plan);
    spey_graph_free(graph);
}

/* A device may write the glu's result while it still reads the product's input. */
static void what_a_product_reads_outlives_the_glu_of_its_halves(void **state)
{
    (void)state;
    spey_memplan_limits rounding = rounding_limits();
    spey_graph *graph = graph_of(E4M3_HEADER "weight g e4m3 [32,16] scale=s input_scale=i\n"
                                             "%0 = embed() e : tokens 16\n"
                                             "%1 = norm(%0) : tokens 16 {kind=rms eps=0}\n"
                                             "%2 = linear(%1) g : tokens 32\n"
                                             "%3 = slice(%2) : tokens 16 {begin=0 cols=16}\n"
                                             "%4 = slice(%2) : tokens 16 {begin=16 cols=16}\n"
                                             "%5 = glu(%3, %4) : tokens 16 {act=silu}\n"
                                             "%6 = linear(%5) p : tokens 16\n"
                                             "%7 = gather(%6) : outputs 16\noutput %7\n");
    spey_memplan *plan = plan_of(graph, &rounding);
    const spey_placement *x = &plan->values[1], *out = &plan->values[5];
    assert_int_equal(x->width, SPEY_WIDTH_E4M3);
    assert_int_equal(out->width, SPEY_WIDTH_E4M3);
    const uint64_t rows = 10, x_end = x->offset + rows * (uint64_t)x->pitch;
    assert_true(x_end <= out->offset || out->offset + rows * (uint64_t)out->pitch <= x->offset);
    spey_memplan_free(plan);
    spey_graph_free(graph);
}

static void attention_rounds_by_a_static_scale_alone(void **state)
{
    (void)state;
    spey_memplan_limits rounding = rounding_limits();
#define ATTEND " : tokens 16 {scale=1 heads=4 kv_heads=1 k_dim=4 v_dim=4 cache=0 layer=0}\n"
    spey_graph *graph = graph_of(
        E4M3_HEADER "%0 = embed() e : tokens 16\n"
                    "%1 = slice(%0) : tokens 4 {begin=0 cols=4}\n"
                    "kv_append(%1, %1) {heads=1 k_dim=4 v_dim=4 cache=0 layer=0}\n"
                    "%2 = attention(%0)" ATTEND "%3 = linear(%2) p : tokens 16\n" /* static */
                    "%4 = attention(%3)" ATTEND "%5 = linear(%4) t : tokens 16\n" /* by token */
                    "%6 = attention(%5)" ATTEND "%7 = linear(%6) p : tokens 16\n"
                    "%8 = linear(%6) q : tokens 16\n" /* another scale */
                    "%9 = add(%7, %8) : tokens 16\n"
                    "%10 = gather(%9) : outputs 16\noutput %10\n");
    spey_memplan *plan = plan_of(graph, &rounding);
    for (int v = 0; v < graph->n_values; v++)
        if ((plan->values[v].width == SPEY_WIDTH_E4M3) != (v == 2))
            fail_msg("%%%d is %s", v, v == 2 ? "not rounded" : "rounded");
    spey_memplan_free(plan);
    spey_graph_free(graph);
}

/* A norm's rows of 64 bytes and 10 scales; then the checker meets a plan in which something lies over the scales. */
static void scales_have_a_place_of_their_own(void **state)
{
    (void)state;
    spey_memplan_limits rounding = rounding_limits();
    spey_graph *graph = graph_of(E4M3_HEADER "%0 = embed() e : tokens 16\n"
                                             "%1 = norm(%0) : tokens 16 {kind=rms eps=0}\n"
                                             "%2 = linear(%1) t : tokens 16\n"
                                             "%3 = gather(%2) : outputs 16\noutput %3\n");
    spey_memplan *plan = plan_of(graph, &rounding);
    plan->values[1].offset = 4096;
    plan->arena_bytes = 65536;
    plan->values[2].offset = 4096 + 10 * 64;
    must_fail(spey_memplan_check(graph, &rounding, plan), SPEY_INTERNAL, "writes");
    plan->values[2].offset += 64;
    must(spey_memplan_check(graph, &rounding, plan));
    plan->values[1].pitch = 32;
    must_fail(spey_memplan_check(graph, &rounding, plan), SPEY_INTERNAL, "scales");
    spey_memplan_free(plan);
    spey_graph_free(graph);
}

static void rows_begin_at_64_bytes(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        spey_graph *graph = random_graph(seed);
        spey_memplan *plan = plan_of(graph, &limits);
        for (spey_value v = 0; v < graph->n_values; v++) {
            if (plan->values[v].storage != v) continue;
            assert_int_equal(plan->values[v].offset % 64, 0);
            if (!spey_graph_is_table(graph, v)) assert_int_equal(plan->values[v].pitch * 4 % 64, 0);
        }
        spey_memplan_free(plan);
        spey_graph_free(graph);
    }
}

/* ---- meaning ---- */

static double *logits_of(const spey_graph *graph, const spey_memplan *plan)
{
    static const int64_t ids[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 0 };
    static const int seqs[] = { 0, 0, 0, 0, 1, 1, 2, 2, 2, 2 }, rows[] = { 3, 5, 9 };
    interpreter_options options = {
        .read = read_random_weight, .n_seqs = 3, .tokens_max = 10, .plan = plan
    };
    interpreter *in = interpreter_new(graph, &options);
    int64_t cols = graph->values[graph->output].cols;
    double *logits = spey_new_array(SPEY_PURPOSE_GENERAL, double, 3 * cols);
    interpreter_step(in, &(interpreter_step_args){ 10, ids, seqs, 3, rows, logits, false });
    interpreter_free(in);
    return logits;
}

static void a_planned_arena_does_not_change_the_numbers(void **state)
{
    (void)state;
    spey_memplan_limits wide = limits;
    wide.element_bytes = sizeof(double);
    for (uint64_t seed = 1; seed <= 200; seed++) {
        spey_graph *graph = random_graph(seed);
        if (seed % 2) must(spey_passes_run(graph, NULL));
        spey_memplan *plan = plan_of(graph, &wide);
        assert_true(plan->peak_live_bytes <= plan->arena_bytes);
        double *expected = logits_of(graph, NULL), *got = logits_of(graph, plan);
        if (memcmp(expected, got, (size_t)(3 * graph->values[graph->output].cols) * sizeof *got) !=
            0)
            fail_msg("seed %llu: the plan changes the logits", (unsigned long long)seed);
        spey_free(expected);
        spey_free(got);
        spey_memplan_free(plan);
        spey_graph_free(graph);
    }
}

static void sizes_that_overflow_are_refused(void **state)
{
    (void)state;
    spey_graph *graph = random_graph(1);
    spey_memplan *plan;
    spey_memplan_limits huge = limits;
    huge.tokens_max = INT64_MAX;
    must_fail(spey_memplan_new(graph, &huge, &plan), SPEY_LIMIT, "do not fit memory");
    huge.tokens_max = 0;
    must_fail(spey_memplan_new(graph, &huge, &plan), SPEY_INVALID, "0 tokens");
    huge = limits;
    huge.element_bytes = 3;
    must_fail(spey_memplan_new(graph, &huge, &plan), SPEY_INVALID, "elements of 3 bytes");
    assert_null(plan);
    spey_graph_free(graph);
}

static void planning_survives_every_failed_allocation(void **state)
{
    (void)state;
    spey_graph *graph = random_graph(2);
    uint64_t live = spey_alloc_read_stats().n_live;
    for (uint64_t n = 1;; n++) {
        spey_memplan *plan;
        spey_alloc_fail_nth(n);
        spey_status status = spey_memplan_new(graph, &limits, &plan);
        if (status == SPEY_OK) status = spey_memplan_check(graph, &limits, plan);
        spey_alloc_fail_nth(0);
        spey_memplan_free(plan);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
        if (status == SPEY_OK) break;
        assert_int_equal(status, SPEY_NOMEM);
    }
    spey_graph_free(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slice_is_a_view),
        cmocka_unit_test(element_ops_write_over_what_dies),
        cmocka_unit_test(a_product_never_writes_over_its_input),
        cmocka_unit_test(a_slice_that_others_still_read_is_safe),
        cmocka_unit_test(the_sum_lies_over_the_residual_and_the_norm_over_x),
        cmocka_unit_test(queries_stay_in_the_fused_row),
        cmocka_unit_test(in_16_bits_the_residual_stream_stays_wide),
        cmocka_unit_test(what_only_products_read_is_rounded_once),
        cmocka_unit_test(what_only_e4m3_products_read_is_rounded_for_them),
        cmocka_unit_test(what_a_product_reads_outlives_the_glu_of_its_halves),
        cmocka_unit_test(attention_rounds_by_a_static_scale_alone),
        cmocka_unit_test(scales_have_a_place_of_their_own),
        cmocka_unit_test(rows_begin_at_64_bytes),
        cmocka_unit_test(a_planned_arena_does_not_change_the_numbers),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(planning_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
