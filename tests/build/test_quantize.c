/* E4M3 engines, made from 16-bit checkpoints and from checkpoints that are E4M3 themselves. */
#include "build/quantize.h"

#include <math.h>

#include "base/json.h"
#include "draft.h"
#include "graph/graph_text.h"
#include "tensor/quant.h"

static const char q_name[] = "model.layers.0.self_attn.q_proj.weight";
static const char down_name[] = "model.layers.0.mlp.down_proj.weight"; /* 64 × 160: two blocks */
static const char o_name[] = "model.layers.0.self_attn.o_proj.weight";
static const spey_build_options fp8 = { .quant = "fp8", .quiet = true };
static const spey_build_options unfolded = { .disable_passes = "all", .quiet = true };

/* Row r of an E4M3 tensor with its scales, against floats: half a step of E4M3 at the most. */
static void check_row(const spey_engine_tensor *w, const spey_engine_tensor *scale, int64_t r,
                      const spey_safetensor *source, int64_t source_row)
{
    const int64_t k = w->dims[1];
    const float s = ((const float *)scale->data)[scale->dims[0] == 1 ? 0 : r];
    for (int64_t i = 0; i < k; i++) {
        float wanted = source_element(source, (size_t)(source_row * k + i));
        float got = spey_e4m3_to_f32(((const uint8_t *)w->data)[r * k + i]) * s;
        assert_true(fabsf(got - wanted) <= fmaxf(fabsf(wanted) * 0x1.01p-4f, s * 0x1p-10f));
    }
}

static const spey_engine_tensor *get(const spey_engine_file *file, const char *name)
{
    const spey_engine_tensor *tensor = spey_engine_file_tensor(file, name);
    if (!tensor) fail_msg("the engine has no %s", name);
    return tensor;
}

static void matrices_of_layers_become_e4m3(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    spey_engine_file *file = build_and_open(&d, &fp8);
    const spey_engine_tensor *qkv = get(file, "layer.1.attn.qkv");
    const spey_engine_tensor *scale = get(file, "layer.1.attn.qkv.scale");
    static const char *const parts[] = { "q", "k", "v" };
    int64_t row = 0;
    assert_int_equal(qkv->dtype, SPEY_E4M3);
    assert_int_equal(scale->dims[0], qkv->dims[0]);
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.1.self_attn.%s_proj.weight", parts[i]);
        const spey_safetensor *source = find_tensor(&d, name);
        for (int64_t r = 0; r < source->dims[0]; r++, row++)
            check_row(qkv, scale, row, source, r);
    }
    /* The largest of a row is the largest that E4M3 has. */
    uint8_t largest = 0;
    for (int64_t i = 0; i < qkv->dims[1]; i++)
        if ((((const uint8_t *)qkv->data)[i] & 0x7f) > largest)
            largest = ((const uint8_t *)qkv->data)[i] & 0x7f;
    assert_int_equal(largest, 0x7e);
    assert_int_equal(get(file, "lm_head")->dtype, SPEY_BF16);
    assert_int_equal(get(file, "embed")->dtype, SPEY_BF16);
    assert_int_equal(get(file, "final_norm")->dtype, SPEY_F32);
    spey_engine_file_close(file);
    draft_free(&d);
}

static void a_tensor_may_have_one_scale(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    const spey_build_options options = { .quant = "fp8", .quant_scales = "tensor" };
    spey_engine_file *file = build_and_open(&d, &options);
    const spey_engine_tensor *o = get(file, "layer.0.attn.o"),
                             *scale = get(file, "layer.0.attn.o.scale");
    const spey_safetensor *source = find_tensor(&d, o_name);
    float largest = 0;
    for (size_t i = 0; i < source->bytes / 2; i++)
        largest = fmaxf(largest, fabsf(source_element(source, i)));
    assert_int_equal(scale->dims[0], 1);
    assert_true(*(const float *)scale->data == spey_e4m3_scale_of(largest).scale);
    for (int64_t r = 0; r < source->dims[0]; r++)
        check_row(o, scale, r, source, r);
    spey_engine_file_close(file);
    draft_free(&d);
}

static void experts_are_quantized_and_routers_are_not(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    const char *path = temp_path(&folder, "m.spey");
    if (spey_build_engine("tests/data/architectures/mixtral", path, &fp8, NULL))
        fail_msg("%s", spey_last_error());
    spey_engine_file *file;
    assert_int_equal(spey_engine_file_open(path, NULL, &file), SPEY_OK);
    int n_stacks = 0;
    for (int i = 0; i < spey_engine_file_n_tensors(file); i++) {
        const spey_engine_tensor *t = spey_engine_file_tensor_at(file, i);
        if (strstr(t->name, "router") || strstr(t->name, "gate.weight"))
            assert_int_not_equal(t->dtype, SPEY_E4M3);
        if (t->n_dims != 3 || t->dtype != SPEY_E4M3) continue;
        char name[128];
        snprintf(name, sizeof name, "%s.scale", t->name);
        const spey_engine_tensor *scale = get(file, name);
        assert_int_equal(scale->n_dims, 2);
        assert_int_equal(scale->dims[0], t->dims[0]);
        assert_int_equal(scale->dims[1], t->dims[1]);
        n_stacks++;
    }
    assert_true(n_stacks >= 2);
    spey_engine_file_close(file);
    remove_tree(folder.path);
}

static void calibration_gives_static_inputs(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    static const char *const names[] = { "attn.qkv", "attn.o", "mlp.gate_up", "mlp.down" };
    char full[8][64];
    spey_input_range ranges[8];
    for (int i = 0; i < 8; i++) {
        snprintf(full[i], sizeof full[i], "layer.%d.%s", i / 4, names[i % 4]);
        ranges[i] = (spey_input_range){ full[i], 1.0f + (float)i };
    }
    spey_calibration calibration = {
        .ranges = ranges, .n = 8, .text_sha256 = "abc", .n_tokens = 100, .window = 50
    };
    const spey_build_options options = { .quant = "fp8", .calibration = &calibration };
    spey_engine_file *file = build_and_open(&d, &options);
    const spey_engine_tensor *scale = get(file, "layer.1.mlp.down.input_scale");
    assert_true(*(const float *)scale->data == 8.0f / 448.0f);
    const void *data;
    size_t n;
    json_t *root;
    assert_int_equal(spey_engine_file_section(file, "provenance", &data, &n), SPEY_OK);
    assert_int_equal(spey_json_parse("provenance", data, n, &root), SPEY_OK);
    const json_t *quantization = json_object_get(root, "quantization");
    assert_string_equal(json_string_value(json_object_get(quantization, "method")), "fp8");
    assert_int_equal(json_integer_value(json_object_get(quantization, "static_inputs")), 8);
    const json_t *text = json_object_get(quantization, "calibration");
    assert_string_equal(json_string_value(json_object_get(text, "text_sha256")), "abc");
    json_decref(root);
    spey_engine_file_close(file);
    remove(temp_path(&d.folder, "m.spey"));
    calibration.n = 7;
    refuses(&d, &options, SPEY_INVALID, "no range for the input of layer.1.mlp.down");
    draft_free(&d);
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    const spey_calibration calibration = { 0 };
    const struct {
        spey_build_options options;
        const char *error;
    } cases[] = {
        { { .quant = "fp4" }, "quantization \"fp4\": expected fp8 or none" },
        { { .quant = "fp8", .quant_scales = "row" }, "expected channel or tensor" },
        { { .quant_scales = "tensor" }, "scales of a tensor without quantization" },
        { { .calibration = &calibration }, "calibration without quantization" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuses(&d, &cases[i].options, SPEY_INVALID, cases[i].error);
    draft_free(&d);
}

static void numbers_that_are_not_finite_are_refused(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    spey_safetensor *tensor = find_tensor(&d, o_name);
    uint16_t *copy = malloc(tensor->bytes);
    memcpy(copy, tensor->data, tensor->bytes);
    tensor->data = copy;
    static const uint16_t bad[] = { 0x7fc0, 0x7f80, 0xff80 };
    for (int i = 0; i < 3; i++) {
        copy[77] = bad[i];
        write_weights(&d);
        refuses(&d, &fp8, SPEY_FORMAT, "holds numbers that are not finite");
    }
    free(copy);
    draft_free(&d);
}

static void a_model_that_cannot_be_e4m3_stays_and_says_so(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    const char *path = temp_path(&folder, "m.spey");
    spey_build_report report;
    assert_int_equal(spey_build_engine("tests/data/architectures/odd-llama", path, &fp8, &report),
                     SPEY_OK);
    assert_non_null(strstr(report.warnings, "none was quantized"));
    remove_tree(folder.path);
}

static void shapes_quantize_too(void **state)
{
    (void)state;
    spey_engine_file *file;
    assert_int_equal(spey_build_shape("llama-2-70b", &fp8, &file), SPEY_OK);
    assert_int_equal(get(file, "layer.79.mlp.gate_up")->dtype, SPEY_E4M3);
    assert_int_equal(get(file, "layer.79.mlp.gate_up.scale")->dims[0], 2 * 28672);
    assert_int_equal(get(file, "lm_head")->dtype, SPEY_F16);
    spey_engine_file_close(file);
    /* Without a checkpoint there is nothing to calibrate on: all inputs have one range. */
    const spey_calibration calibration = { .every = 448 };
    const spey_build_options tensors = { .quant = "fp8",
                                         .quant_scales = "tensor",
                                         .calibration = &calibration };
    assert_int_equal(spey_build_shape("llama-2-70b", &tensors, &file), SPEY_OK);
    assert_int_equal(get(file, "layer.79.mlp.gate_up.scale")->dims[0], 1);
    const spey_engine_tensor *input = get(file, "layer.79.mlp.gate_up.input_scale");
    assert_true(*(const float *)input->data == 1.0f);
    spey_engine_file_close(file);
}

/* ---- E4M3 checkpoints ---- */

typedef enum layout { BY_TENSOR, BY_ROW, BY_BLOCK, N_LAYOUTS } layout;

/* Make a tensor of the draft E4M3 with a scale beside it; memory is the caller's to free, two pieces of it. */
static void make_e4m3(draft *d, const char *name, layout how, void *memory[2])
{
    spey_safetensor *tensor = find_tensor(d, name);
    const int64_t rows = tensor->dims[0], cols = tensor->dims[1];
    const int64_t across = (cols + 127) / 128, down = (rows + 127) / 128;
    uint8_t *bytes = malloc((size_t)(rows * cols));
    float *scales = malloc((size_t)(rows + across * down) * sizeof *scales);
    for (int64_t i = 0; i < rows + across * down; i++)
        scales[i] = (how == BY_TENSOR ? 1.5f : 1.0f + (float)i / 16) / 512;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            int64_t at = how == BY_ROW ? r : how == BY_BLOCK ? r / 128 * across + c / 128 : 0;
            float value = source_element(tensor, (size_t)(r * cols + c));
            bytes[r * cols + c] = spey_f32_to_e4m3(value / scales[at]);
        }
    char *scale_name = memory[1] = malloc(256 + (size_t)(rows + across * down) * sizeof *scales);
    snprintf(scale_name, 256, "%s%s", name, how == BY_BLOCK ? "_scale_inv" : "_scale");
    float *kept = (float *)(void *)(scale_name + 256);
    memcpy(kept, scales, (size_t)(rows + across * down) * sizeof *scales);
    free(scales);
    memory[0] = bytes;
    tensor->dtype = SPEY_E4M3;
    tensor->data = bytes;
    tensor->bytes = (size_t)(rows * cols);
    spey_safetensor scale = { .name = scale_name, .dtype = SPEY_F32, .data = kept, .n_dims = 2 };
    scale.dims[0] = how == BY_ROW ? rows : how == BY_BLOCK ? down : 1;
    scale.dims[1] = how == BY_BLOCK ? across : 1;
    if (how == BY_TENSOR) scale.n_dims = 0;
    scale.bytes = (size_t)(how == BY_TENSOR ? 1 : scale.dims[0] * scale.dims[1]) * sizeof(float);
    d->tensors[d->n++] = scale;
}

static void e4m3_rows_are_taken_as_they_are(void **state)
{
    (void)state;
    for (int how = BY_TENSOR; how <= BY_ROW; how++) {
        draft d = draft_make(tiny);
        void *memory[2];
        make_e4m3(&d, q_name, (layout)how, memory);
        write_weights(&d);
        spey_engine_file *file = build_and_open(&d, &unfolded);
        const spey_engine_tensor *q = get(file, "layer.0.attn.q");
        const spey_engine_tensor *scale = get(file, "layer.0.attn.q.scale");
        assert_int_equal(q->dtype, SPEY_E4M3);
        assert_memory_equal(q->data, memory[0], q->bytes);
        assert_int_equal(scale->dims[0], how == BY_TENSOR ? 1 : q->dims[0]);
        assert_memory_equal(scale->data, (char *)memory[1] + 256, scale->bytes);
        assert_int_equal(get(file, "layer.0.attn.k")->dtype, SPEY_BF16);
        const size_t bytes = q->bytes, cols = (size_t)q->dims[1];
        spey_engine_file_close(file);
        /* Folded with k and v, which are not E4M3, it is widened; with --quant fp8 all of it is E4M3. */
        for (int quantized = 0; quantized < 2; quantized++) {
            file = build_and_open(&d, quantized ? &fp8 : NULL);
            const spey_engine_tensor *qkv = get(file, "layer.0.attn.qkv");
            assert_int_equal(qkv->dtype, quantized ? SPEY_E4M3 : SPEY_BF16);
            const float *scales = (const float *)(void *)((char *)memory[1] + 256);
            for (size_t i = 0; !quantized && i < bytes; i++) {
                float s = scales[how == BY_ROW ? i / cols : 0];
                float wanted = spey_e4m3_to_f32(((uint8_t *)memory[0])[i]) * s;
                assert_true(element(qkv, i) == spey_bf16_to_f32(spey_f32_to_bf16(wanted)));
            }
            spey_engine_file_close(file);
        }
        draft_free(&d);
        free(memory[0]);
        free(memory[1]);
    }
}

static void blocks_are_widened(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    void *memory[2];
    make_e4m3(&d, down_name, BY_BLOCK, memory);
    write_weights(&d);
    spey_engine_file *file = build_and_open(&d, NULL);
    const spey_engine_tensor *o = get(file, "layer.0.mlp.down");
    const float *scales = (const float *)(void *)((char *)memory[1] + 256);
    const int64_t across = (o->dims[1] + 127) / 128;
    for (int64_t i = 0; i < o->dims[0] * o->dims[1]; i++) {
        int64_t r = i / o->dims[1], c = i % o->dims[1];
        float wanted =
            spey_e4m3_to_f32(((uint8_t *)memory[0])[i]) * scales[r / 128 * across + c / 128];
        assert_true(element(o, (size_t)i) == spey_bf16_to_f32(spey_f32_to_bf16(wanted)));
    }
    spey_engine_file_close(file);
    draft_free(&d);
    free(memory[0]);
    free(memory[1]);
}

static void bad_scales_are_refused(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    void *memory[2];
    make_e4m3(&d, o_name, BY_ROW, memory);
    spey_safetensor *scale = &d.tensors[d.n - 1];
    float *value = (float *)(void *)((char *)memory[1] + 256) + 3;
    static const float bad[] = { 0, -1, NAN, INFINITY };
    const float good = *value;
    for (int i = 0; i < 4; i++) {
        *value = bad[i];
        write_weights(&d);
        refuses(&d, NULL, SPEY_FORMAT, "o_proj.weight_scale holds the scale");
    }
    *value = good;
    scale->dims[0]--;
    scale->bytes -= sizeof(float);
    write_weights(&d);
    refuses(&d, NULL, SPEY_FORMAT, "expected one scale, one for each row or one for each block");
    d.n--;
    write_weights(&d);
    refuses(&d, NULL, SPEY_FORMAT, "o_proj.weight_scale is missing");
    d.n++;
    scale->dims[0]++;
    scale->bytes += sizeof(float);
    ((uint8_t *)memory[0])[9] = 0xff;
    write_weights(&d);
    refuses(&d, NULL, SPEY_FORMAT, "o_proj.weight holds NaN");
    draft_free(&d);
    free(memory[0]);
    free(memory[1]);
}

static void input_scales_make_inputs_static(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    void *memory[2];
    make_e4m3(&d, o_name, BY_TENSOR, memory);
    float input = 0.25f;
    d.tensors[d.n++] = (spey_safetensor){ .name = "model.layers.0.self_attn.o_proj.input_scale",
                                          .dtype = SPEY_F32,
                                          .data = &input,
                                          .bytes = sizeof input };
    d.tensors[d.n++] = (spey_safetensor){ .name = "model.layers.0.self_attn.k_proj.k_scale",
                                          .dtype = SPEY_F32,
                                          .data = &input,
                                          .bytes = sizeof input };
    write_weights(&d);
    spey_engine_file *file = build_and_open(&d, NULL);
    assert_true(*(const float *)get(file, "layer.0.attn.o.input_scale")->data == input);
    spey_engine_file_close(file);
    remove(temp_path(&d.folder, "m.spey"));
    input = -1;
    write_weights(&d);
    refuses(&d, NULL, SPEY_FORMAT, "o_proj.input_scale holds the scale -1");
    draft_free(&d);
    free(memory[0]);
    free(memory[1]);
}

static void methods_that_we_cannot_read_are_named(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    static const struct {
        const char *json, *error;
        bool fails;
    } cases[] = {
        { "{\"quant_method\": \"gptq\"}", "quantized by \"gptq\"; expected compressed-tensors", 1 },
        { "{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\"}",
          "\"pack-quantized\", expected float-quantized", 1 },
        { "{\"quant_method\": \"compressed-tensors\", \"config_groups\": {\"group_0\": {\"weights\": "
          "{\"num_bits\": 4, \"type\": \"int\"}}}}",
          "group_0 has weights of 4 bits (int)", 1 },
        { "{\"quant_method\": \"modelopt\", \"quant_algo\": \"NVFP4\"}", "\"NVFP4\", expected FP8",
          1 },
        { "{\"producer\": {\"name\": \"modelopt\"}, \"quantization\": {\"quant_algo\": \"W4A8\"}}",
          "\"W4A8\", expected FP8", 1 },
        { "{\"quant_method\": \"fp8\", \"fmt\": \"e5m2\"}", "\"e5m2\", expected e4m3", 1 },
        { "{\"quant_method\": 8}", "\"quant_method\" is an integer", 1 },
        { "[]", "is not a JSON object", 1 },
        { "{\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]}", NULL, 0 },
        { "{\"quant_method\": \"compressed-tensors\", \"format\": \"float-quantized\"}", NULL, 0 },
        { "{\"producer\": {\"name\": \"modelopt\"}, \"quantization\": {\"quant_algo\": \"FP8\"}}",
          NULL, 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(in_draft(&d, "hf_quant_config.json"), cases[i].json);
        if (cases[i].fails) {
            spey_status status = build_draft(&d, NULL, NULL);
            assert_int_not_equal(status, SPEY_OK);
            assert_error_has(cases[i].error);
        } else if (build_draft(&d, NULL, NULL)) {
            fail_msg("%s: %s", cases[i].json, spey_last_error());
        }
    }
    draft_free(&d);
}

static void running_out_of_memory_leaves_nothing(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    void *memory[2];
    make_e4m3(&d, down_name, BY_BLOCK, memory);
    write_weights(&d);
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    for (uint64_t n = 1; status; n++) {
        spey_alloc_fail_nth(n);
        status = build_draft(&d, &fp8, NULL);
        spey_alloc_fail_nth(0);
        assert_true(status == SPEY_OK || status == SPEY_NOMEM);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
    }
    assert_int_equal(status, SPEY_OK);
    draft_free(&d);
    free(memory[0]);
    free(memory[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matrices_of_layers_become_e4m3),
        cmocka_unit_test(a_tensor_may_have_one_scale),
        cmocka_unit_test(experts_are_quantized_and_routers_are_not),
        cmocka_unit_test(calibration_gives_static_inputs),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(numbers_that_are_not_finite_are_refused),
        cmocka_unit_test(a_model_that_cannot_be_e4m3_stays_and_says_so),
        cmocka_unit_test(shapes_quantize_too),
        cmocka_unit_test(e4m3_rows_are_taken_as_they_are),
        cmocka_unit_test(blocks_are_widened),
        cmocka_unit_test(bad_scales_are_refused),
        cmocka_unit_test(input_scales_make_inputs_static),
        cmocka_unit_test(methods_that_we_cannot_read_are_named),
        cmocka_unit_test(running_out_of_memory_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
