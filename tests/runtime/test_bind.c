#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "planning.h"
#include "runtime/bind.h"
#include "runtime/layout.h"

/* Bound to addresses that nothing stands behind: binding only computes with them. */
typedef struct fixture {
    spey_engine_file *file;
    spey_program program;
    spey_layout layout;
    spey_ragged batch;
    const void *weights[64];
    spey_bases bases;
    spey_binding binding;
} fixture;

static void open_program(fixture *f, const tiny_shape *shape, spey_limits_plan limits)
{
    memset(f, 0, sizeof(*f));
    limits.threads = 1;
    assert_int_equal(tiny_engine_new(shape, &f->file), SPEY_OK);
    assert_int_equal(spey_program_init(&f->program, f->file, &limits), SPEY_OK);
}

static void bind_program(fixture *f, spey_limits_plan limits)
{
    limits.threads = 1;
    assert_int_equal(spey_layout_init(&f->layout, &f->program, &limits), SPEY_OK);
    f->bases = (spey_bases){ .activations = (uint8_t *)(uintptr_t)0x10000000,
                             .logits = (uint8_t *)(uintptr_t)0x20000000,
                             .workspace = (uint8_t *)(uintptr_t)0x30000000,
                             .weights = f->weights,
                             .batch = &f->batch };
    for (int g = 0; g < 2; g++)
        f->bases.kv[g] = (uint8_t *)((uintptr_t)0x40000000 + (uintptr_t)g * 0x1000000);
    for (int w = 0; w < f->program.graph->n_weights; w++)
        f->weights[w] = (const uint8_t *)((uintptr_t)0x50000000 + (uintptr_t)w * 0x10000);
    assert_int_equal(spey_bind(&f->program, &f->layout, &f->bases, &f->binding), SPEY_OK);
}

static void open_binding(fixture *f, const tiny_shape *shape, spey_limits_plan limits)
{
    open_program(f, shape, limits);
    bind_program(f, limits);
}

static void close_binding(fixture *f)
{
    spey_binding_deinit(&f->binding);
    spey_layout_deinit(&f->layout);
    spey_program_deinit(&f->program);
    spey_engine_file_close(f->file);
}

/* The args of the n-th step of an op, from 0. */
static const spey_any_args *step_of(const fixture *f, const char *op, int n)
{
    for (int i = 0; i < f->binding.sizes.n_steps; i++)
        if (!strncmp(f->binding.steps[i].kernel->name, op, strlen(op)) && n-- == 0)
            return f->binding.steps[i].args;
    fail_msg("no step %s", op);
    return NULL;
}

static const void *weight_at(const fixture *f, const char *name)
{
    return f->weights[spey_graph_find_weight(f->program.graph, name)];
}

static void every_node_but_slices_becomes_a_step(void **state)
{
    (void)state;
    fixture f;
    open_binding(&f, &tiny_default, (spey_limits_plan){ .outputs_max = 3 });
    /* 16 nodes a layer, and embed, rope_table, norm, gather, linear */
    assert_int_equal(f.binding.sizes.n_steps, 2 * 16 + 5);
    assert_int_equal(f.binding.n_token_steps, f.binding.sizes.n_steps - 2);
    assert_int_equal(f.binding.n_ids, 50);
    assert_int_equal(f.binding.sizes.n_steps, f.layout.sizes.n_steps);
    assert_int_equal(f.binding.sizes.workspace_bytes, f.layout.sizes.workspace_bytes);
    for (int i = 0; i < f.binding.sizes.n_steps; i++) {
        bool tokens = f.binding.rows[i] == SPEY_ROWS_TOKENS;
        assert_int_equal(tokens, i < f.binding.n_token_steps);
        assert_int_equal(f.binding.args[i].rows, tokens ? 64 : 3); /* the most that will come */
    }
    close_binding(&f);
}

static void operands_lie_where_the_plan_says(void **state)
{
    (void)state;
    fixture f;
    open_binding(&f, &tiny_default, (spey_limits_plan){ 0 });
    const spey_embed_args *embed = &step_of(&f, "embed/", 0)->embed;
    assert_ptr_equal(embed->table, weight_at(&f, "embed"));
    assert_ptr_equal(embed->batch, &f.batch);
    assert_true(embed->scale == 1);
    const spey_norm_args *norm = &step_of(&f, "norm/", 0)->norm;
    assert_ptr_equal(norm->x, embed->out);
    assert_ptr_equal(norm->weight, weight_at(&f, "layer.0.attn_norm"));
    assert_int_equal(norm->cols, 32);
    assert_true(norm->eps == 1e-5F);
    const spey_gemm_args *k = &step_of(&f, "gemm/", 1)->gemm;
    assert_ptr_equal(k->x, norm->out);
    assert_ptr_equal(k->w, weight_at(&f, "layer.0.k"));
    assert_null(k->bias);
    assert_int_equal(k->n, 32);
    assert_int_equal(k->k, 32);
    assert_int_equal(k->precision, SPEY_PRECISION_F32);
    const spey_glu_args *glu = &step_of(&f, "glu/", 0)->glu;
    assert_int_equal(glu->activation, SPEY_ACT_SILU);
    assert_ptr_equal(glu->gate, step_of(&f, "gemm/", 4)->gemm.y);
    assert_ptr_equal(glu->up, step_of(&f, "gemm/", 5)->gemm.y);
    const spey_gemm_args *logits = &step_of(&f, "gemm/", 14)->gemm;
    assert_ptr_equal(logits->y, f.bases.logits);
    assert_int_equal(logits->y_pitch, 50); /* dense */
    assert_ptr_equal(logits->w, weight_at(&f, "embed"));
    close_binding(&f);
}

/* As on a device, with a row that can or cannot. */
static int steps_on_device(fixture *f, bool can)
{
    tiny_shape shape = tiny_default;
    shape.halves = true;
    if (can) setenv("SPEY_KERNEL", "gemm/ref", 1);
    open_program(f, &shape, (spey_limits_plan){ 0 });
    f->program.device_info.host_memory = false;
    bind_program(f, (spey_limits_plan){ 0 });
    unsetenv("SPEY_KERNEL");
    return f->binding.sizes.n_steps;
}

static void products_do_the_glu_of_their_halves(void **state)
{
    (void)state;
    fixture f;
    const int n_apart = steps_on_device(&f, false);
    assert_null(step_of(&f, "gemm/", 4)->gemm.glu.out);
    assert_ptr_equal(step_of(&f, "glu/", 0)->glu.gate, step_of(&f, "gemm/", 4)->gemm.y);
    close_binding(&f);
    assert_int_equal(steps_on_device(&f, true), n_apart - 2); /* of 2 layers */
    const spey_gemm_args *both = &step_of(&f, "gemm/", 4)->gemm;
    assert_ptr_equal(both->w, weight_at(&f, "layer.0.gate_up"));
    assert_int_equal(both->glu.cols, 48);
    assert_int_equal(both->glu.activation, SPEY_ACT_SILU);
    assert_ptr_equal(both->glu.gate, both->y);
    assert_ptr_equal(both->glu.up, (const float *)both->y + 48);
    assert_ptr_equal(both->glu.out, step_of(&f, "gemm/", 5)->gemm.x);
    close_binding(&f);
}

static void caches_are_seen_layer_by_layer(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    shape.layers = 4;
    shape.two_groups = true;
    fixture f;
    open_binding(&f, &shape, (spey_limits_plan){ .kv_block_tokens = 8, .kv_dtype = "f16" });
    for (int layer = 0; layer < 4; layer++) {
        int64_t heads = layer % 2 ? 4 : 2, head_bytes = 8 * 16 * 2;
        const spey_attention_args *attention = &step_of(&f, "attention/", layer)->attention;
        const spey_kv_view *kv = &attention->kv;
        assert_int_equal(attention->n_kv_heads, heads);
        assert_int_equal(attention->kv_len_max, 64);
        assert_int_equal(kv->group, layer % 2);
        assert_ptr_equal(kv->base, f.bases.kv[layer % 2]);
        assert_int_equal(kv->dtype, SPEY_F16);
        assert_int_equal(kv->block_tokens, 8);
        assert_int_equal(kv->block_bytes, 2 * 2 * heads * head_bytes);
        assert_int_equal(kv->k_offset, (layer / 2) * 2 * heads * head_bytes);
        assert_int_equal(kv->v_offset, kv->k_offset + heads * head_bytes);
        assert_int_equal(kv->v_head_bytes, head_bytes);
        assert_int_equal(kv->v_token_bytes, 32);
        const spey_kv_view *appended = &step_of(&f, "kv_append/", layer)->kv_append.kv;
        assert_ptr_equal(appended->base, kv->base);
        assert_int_equal(appended->k_offset, kv->k_offset);
        assert_int_equal(appended->v_offset, kv->v_offset);
    }
    close_binding(&f);
}

static void scales_of_int8_lie_behind_the_layers(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    shape.layers = 3;
    fixture f;
    open_binding(&f, &shape, (spey_limits_plan){ .kv_block_tokens = 8, .kv_dtype = "int8" });
    for (int layer = 0; layer < 3; layer++) {
        const spey_attention_args *attention = &step_of(&f, "attention/", layer)->attention;
        const spey_kv_view *kv = &attention->kv;
        int64_t slots = attention->n_kv_heads * 8, elements = 3 * 2 * slots * attention->k_dim;
        assert_int_equal(kv->dtype, SPEY_I8);
        assert_int_equal(kv->k_token_bytes, attention->k_dim);
        assert_ptr_equal(kv->token_scales, (float *)(void *)(kv->base + elements));
        assert_int_equal(kv->block_bytes, elements + 3 * 2 * slots * 4);
        assert_int_equal(kv->scale_block * 4, kv->block_bytes);
        assert_int_equal(kv->k_scales, layer * 2 * slots);
        assert_int_equal(kv->v_scales, kv->k_scales + slots);
        assert_null(kv->k_scale);
    }
    close_binding(&f);
}

static void scales_of_fp8_are_the_engines(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    shape.fp8_cache = true;
    for (int other = 0; other < 2; other++) {
        fixture f;
        open_binding(&f, &shape, (spey_limits_plan){ .kv_dtype = other ? "bf16" : NULL });
        const float *scales = weight_at(&f, "cache.0.scales");
        for (int layer = 0; layer < 2; layer++) {
            const spey_kv_view *kv = &step_of(&f, "attention/", layer)->attention.kv;
            const spey_kv_view *appended = &step_of(&f, "kv_append/", layer)->kv_append.kv;
            assert_int_equal(kv->dtype, other ? SPEY_BF16 : SPEY_E4M3);
            assert_ptr_equal(kv->k_scale, other ? NULL : scales + (ptrdiff_t)layer * 4);
            assert_ptr_equal(kv->v_scale, other ? NULL : scales + (ptrdiff_t)layer * 4 + 2);
            assert_ptr_equal(appended->k_scale, kv->k_scale);
            assert_ptr_equal(appended->v_scale, kv->v_scale);
        }
        close_binding(&f);
    }
}

static void sequences_end_within_the_learned_positions(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    shape.positions = 66;
    fixture f;
    open_binding(&f, &shape, (spey_limits_plan){ 0 });
    const spey_embed_args *ids = &step_of(&f, "embed/", 0)->embed;
    const spey_embed_args *positions = &step_of(&f, "embed/", 1)->embed;
    assert_int_equal(ids->source, SPEY_EMBED_IDS);
    assert_int_equal(ids->begin, 0);
    assert_int_equal(positions->source, SPEY_EMBED_POSITIONS);
    assert_int_equal(positions->begin, 2);
    assert_int_equal(f.binding.n_ids, 50); /* of ids alone */
    close_binding(&f);

    shape.positions = 65; /* 63 positions of 64 */
    const spey_limits_plan all = { .threads = 1 };
    const spey_limits_plan fewer = { .threads = 1, .sequence_tokens_max = 63 };
    assert_int_equal(tiny_engine_new(&shape, &f.file), SPEY_OK);
    assert_int_equal(spey_program_init(&f.program, f.file, &all), SPEY_OK);
    assert_int_equal(spey_layout_init(&f.layout, &f.program, &all), SPEY_FORMAT);
    assert_non_null(strstr(spey_last_error(), "positions has 63 positions, sequences may have 64"));
    assert_int_equal(spey_layout_init(&f.layout, &f.program, &fewer), SPEY_OK);
    spey_layout_deinit(&f.layout);
    spey_program_deinit(&f.program);
    spey_engine_file_close(f.file);
}

static void a_state_is_seen_behind_the_other_groups(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    shape.scans = true;
    fixture f;
    open_binding(&f, &shape, (spey_limits_plan){ .sequences_max = 3 });
    const spey_selective_scan_args *scan = &step_of(&f, "selective_scan/", 0)->selective_scan;
    assert_int_equal(scan->cols, 32);
    assert_int_equal(scan->states, 32);
    assert_int_equal(scan->state.group, 1);
    assert_ptr_equal(scan->state.base, f.bases.kv[1]);
    assert_int_equal(scan->state.block_bytes, 32 * 32 * 4);
    assert_int_equal(scan->state.offset, 0);
    assert_ptr_equal(scan->a_log, weight_at(&f, "a_log"));
    assert_ptr_equal(scan->d, weight_at(&f, "d"));
    close_binding(&f);
}

static void the_encoder_comes_first_and_its_layers_take_turns(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    shape.encodes = true;
    fixture f;
    open_binding(&f, &shape,
                 (spey_limits_plan){ .sequence_tokens_max = 40, .step_tokens_max = 30 });
    assert_int_equal(f.binding.n_source_steps, 6); /* embed, three kv_append, two attention */
    for (int i = 0; i < f.binding.sizes.n_steps; i++)
        assert_int_equal(f.binding.rows[i] == SPEY_ROWS_SOURCE, i < 6);
    const spey_attention_args *first = &step_of(&f, "attention/", 0)->attention;
    const spey_attention_args *second = &step_of(&f, "attention/", 1)->attention;
    const spey_attention_args *cross = &step_of(&f, "attention/", 2)->attention;
    assert_ptr_equal(first->kv.base, f.bases.kv[2]);
    assert_int_equal(first->kv.k_offset, second->kv.k_offset);
    assert_false(first->cross || first->causal);
    assert_ptr_equal(cross->kv.base, f.bases.kv[1]);
    assert_true(cross->cross && !cross->causal);
    assert_int_equal(cross->kv_len_max, 30);
    assert_false(step_of(&f, "attention/", 3)->attention.cross);
    close_binding(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_node_but_slices_becomes_a_step),
        cmocka_unit_test(operands_lie_where_the_plan_says),
        cmocka_unit_test(sequences_end_within_the_learned_positions),
        cmocka_unit_test(a_state_is_seen_behind_the_other_groups),
        cmocka_unit_test(products_do_the_glu_of_their_halves),
        cmocka_unit_test(caches_are_seen_layer_by_layer),
        cmocka_unit_test(the_encoder_comes_first_and_its_layers_take_turns),
        cmocka_unit_test(scales_of_int8_lie_behind_the_layers),
        cmocka_unit_test(scales_of_fp8_are_the_engines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
