/* Engines whose KV cache is E4M3 unless a run says otherwise, and its scales. */
#include "build/quantize_cache.h"

#include "base/json.h"
#include "draft.h"
#include "graph/graph_text.h"

enum { LAYERS = 2, HEADS = 4 }; /* of `tiny` */

/* Scale of a layer's K (which 0) or V of a head. */
static float scale_at(const spey_engine_file *file, int layer, int which, int head)
{
    const spey_engine_tensor *t = spey_engine_file_tensor(file, "cache.0.scales");
    assert_non_null(t);
    assert_int_equal(t->dtype, SPEY_F32);
    assert_int_equal(t->n_dims, 3);
    assert_true(t->dims[0] == LAYERS && t->dims[1] == 2 && t->dims[2] == HEADS);
    return ((const float *)t->data)[(layer * 2 + which) * HEADS + head];
}

static void check_kv(const spey_engine_file *file, const char *dtype, bool scaled)
{
    assert_string_equal(spey_engine_file_info(file)->kv_dtype, dtype);
    assert_int_equal(spey_engine_file_tensor(file, "cache.0.scales") != NULL, scaled);
}

static void what_is_asked_for_is_in_the_engine(void **state)
{
    (void)state;
    static const char *const asked[] = { NULL, "auto", "f32", "f16", "bf16", "fp8", "int8" };
    draft d = draft_make(tiny);
    write_weights(&d);
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        const spey_build_options options = { .kv_dtype = asked[i], .quiet = true };
        spey_engine_file *file = build_and_open(&d, &options);
        check_kv(file, i < 2 ? "" : asked[i], false);
        spey_engine_file_close(file);
        remove(temp_path(&d.folder, "m.spey"));
    }
    const spey_build_options bad = { .kv_dtype = "int4" };
    refuses(&d, &bad, SPEY_INVALID, "expected auto, f32, f16, bf16, fp8 or int8");
    draft_free(&d);
}

static const char *scales_in_provenance(const spey_engine_file *file, json_t **root)
{
    const void *data;
    size_t n;
    assert_int_equal(spey_engine_file_section(file, "provenance", &data, &n), SPEY_OK);
    assert_int_equal(spey_json_parse("provenance", data, n, root), SPEY_OK);
    return json_string_value(json_object_get(json_object_get(*root, "kv_cache"), "scales"));
}

/* A power of two that leaves what was seen within 448: 100 needs 0.25, 448 needs 1, 449 needs 2. */
static void calibration_gives_scales_of_heads(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    float largest[LAYERS * 2 * HEADS];
    for (int i = 0; i < LAYERS * 2 * HEADS; i++)
        largest[i] = 100;
    largest[0] = 0;
    largest[HEADS] = 440;
    largest[2 * HEADS + 3] = 449;
    const spey_calibration calibration = { .caches = { largest }, .text_sha256 = "abc" };
    spey_build_options options = { .kv_dtype = "fp8", .calibration = &calibration };
    spey_engine_file *file = build_and_open(&d, &options);
    check_kv(file, "fp8", true);
    assert_true(scale_at(file, 0, 0, 0) == 1);
    assert_true(scale_at(file, 0, 0, 1) == 0.25f);
    assert_true(scale_at(file, 0, 1, 0) == 1);
    assert_true(scale_at(file, 1, 0, 3) == 2);
    json_t *root;
    assert_string_equal(scales_in_provenance(file, &root), "calibrated");
    json_decref(root);
    spey_engine_file_close(file);
    remove(temp_path(&d.folder, "m.spey"));
    options.kv_dtype = "bf16"; /* needs none */
    refuses(&d, &options, SPEY_INVALID, "calibration without quantization");
    draft_free(&d);
}

static spey_safetensor scale_tensor(const char *name, const float *values, int64_t n)
{
    return (spey_safetensor){ .name = name,
                              .dtype = SPEY_F32,
                              .n_dims = 1,
                              .dims = { n },
                              .data = values,
                              .bytes = (size_t)n * sizeof(float) };
}

static void scales_of_a_checkpoint_come_along(void **state)
{
    (void)state;
    static const float heads[HEADS] = { 1, 2, 3, 4 };
    static float one = 0.5f;
    draft d = draft_make(tiny);
    d.tensors[d.n++] = scale_tensor("model.layers.0.self_attn.k_proj.k_scale", &one, 1);
    d.tensors[d.n++] = scale_tensor("model.layers.1.self_attn.v_scale", heads, HEADS);
    d.tensors[d.n++] = scale_tensor("model.layers.1.self_attn.q_scale", &one, 1); /* read over */
    write_weights(&d);
    spey_engine_file *file = build_and_open(&d, NULL);
    check_kv(file, "fp8", true);
    for (int h = 0; h < HEADS; h++) {
        assert_true(scale_at(file, 0, 0, h) == one);
        assert_true(scale_at(file, 0, 1, h) == 1); /* it says nothing of it */
        assert_true(scale_at(file, 1, 1, h) == heads[h]);
    }
    json_t *root;
    assert_string_equal(scales_in_provenance(file, &root), "as in the checkpoint");
    json_decref(root);
    spey_engine_file_close(file);
    remove(temp_path(&d.folder, "m.spey"));
    const spey_build_options wider = { .kv_dtype = "bf16" };
    file = build_and_open(&d, &wider);
    check_kv(file, "bf16", false);
    spey_engine_file_close(file);
    remove(temp_path(&d.folder, "m.spey"));
    one = -1;
    write_weights(&d);
    refuses(&d, NULL, SPEY_FORMAT, "k_scale holds the scale -1");
    one = 1;
    d.tensors[d.n - 2] = scale_tensor("model.layers.1.self_attn.v_scale", heads, HEADS - 1);
    write_weights(&d);
    refuses(&d, NULL, SPEY_FORMAT, "v_scale has 3 numbers, expected 1 or 4");
    draft_free(&d);
}

static void a_configuration_may_ask_for_it(void **state)
{
    (void)state;
    static const struct {
        const char *json, *dtype;
    } cases[] = {
        { "{\"quant_method\": \"compressed-tensors\", \"kv_cache_scheme\": {\"num_bits\": 8, "
          "\"type\": \"float\"}}",
          "fp8" },
        { "{\"quant_method\": \"compressed-tensors\", \"kv_cache_scheme\": {\"num_bits\": 8, "
          "\"type\": \"int\"}}",
          "" },
        { "{\"quant_method\": \"compressed-tensors\", \"kv_cache_scheme\": null}", "" },
        { "{\"producer\": {\"name\": \"modelopt\"}, \"quantization\": {\"quant_algo\": \"FP8\", "
          "\"kv_cache_quant_algo\": \"FP8\"}}",
          "fp8" },
        { "{\"producer\": {\"name\": \"modelopt\"}, \"quantization\": {\"quant_algo\": \"FP8\", "
          "\"kv_cache_quant_algo\": \"NVFP4\"}}",
          "" },
    };
    draft d = draft_make(tiny);
    write_weights(&d);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(in_draft(&d, "hf_quant_config.json"), cases[i].json);
        spey_engine_file *file = build_and_open(&d, NULL);
        check_kv(file, cases[i].dtype, false);
        spey_engine_file_close(file);
        remove(temp_path(&d.folder, "m.spey"));
    }
    write_text(in_draft(&d, "hf_quant_config.json"),
               "{\"quant_method\": \"fp8\", \"kv_cache_scheme\": {\"num_bits\": \"8\"}}");
    refuses(&d, NULL, SPEY_FORMAT, "num_bits");
    draft_free(&d);
}

static void running_out_of_memory_leaves_nothing(void **state)
{
    (void)state;
    static const float one = 0.5f;
    draft d = draft_make(tiny);
    d.tensors[d.n++] = scale_tensor("model.layers.0.self_attn.k_proj.k_scale", &one, 1);
    write_weights(&d);
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    for (uint64_t n = 1; status; n++) {
        spey_alloc_fail_nth(n);
        status = build_draft(&d, NULL, NULL);
        spey_alloc_fail_nth(0);
        assert_true(status == SPEY_OK || status == SPEY_NOMEM);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
    }
    draft_free(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_asked_for_is_in_the_engine),
        cmocka_unit_test(calibration_gives_scales_of_heads),
        cmocka_unit_test(scales_of_a_checkpoint_come_along),
        cmocka_unit_test(a_configuration_may_ask_for_it),
        cmocka_unit_test(running_out_of_memory_leaves_nothing),
    };
    return cmocka_run_group_tests_name("quantize_cache", tests, NULL, NULL);
}
