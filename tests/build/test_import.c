#include "build/import.h"

#include <math.h>

#include "../tensor/temp_folder.h"
#include "base/alloc.h"
#include "base/json.h"

/* ---- a model to ask what to ignore, a graph and tensors made by hand ---- */

static spey_model *model;

static int open_model(void **state)
{
    (void)state;
    static const char config[] =
        "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":4,\"intermediate_size\":4,"
        "\"num_hidden_layers\":1,\"num_attention_heads\":1,\"vocab_size\":4,"
        "\"tie_word_embeddings\":true}";
    json_t *root;
    spey_status status = spey_json_parse("config", config, strlen(config), &root);
    if (!status) status = spey_model_new("config", root, &model);
    json_decref(root);
    return status != SPEY_OK;
}

static int close_model(void **state)
{
    (void)state;
    spey_model_free(model);
    return 0;
}

typedef struct bench {
    temp_folder folder;
    spey_graph *graph;
    spey_safetensor sources[8];
    int n_sources;
    spey_safetensors *tensors;
} bench;

static bench bench_make(void)
{
    bench b = { .folder = temp_folder_make() };
    assert_int_equal(spey_graph_new(&b.graph), SPEY_OK);
    return b;
}

static void bench_free(bench *b)
{
    spey_safetensors_close(b->tensors);
    spey_graph_free(b->graph);
    remove_tree(b->folder.path);
}

static void add_source(bench *b, const char *name, spey_dtype dtype, int64_t rows, int64_t cols,
                       const void *data)
{
    spey_safetensor *source = &b->sources[b->n_sources++];
    *source = (spey_safetensor){
        .name = name, .dtype = dtype, .n_dims = cols ? 2 : 1, .dims = { rows, cols }, .data = data
    };
    source->bytes = (size_t)(rows * (cols ? cols : 1)) * spey_dtype_bytes(dtype);
}

static int32_t add_weight(bench *b, const char *name, int64_t rows, int64_t cols, spey_dtype dtype,
                          spey_weight_source source)
{
    const spey_weight weight = { .name = name,
                                 .dtype = dtype,
                                 .n_dims = cols ? 2 : 1,
                                 .dims = { rows, cols },
                                 .source = source };
    int32_t index;
    assert_int_equal(spey_graph_add_weight(b->graph, &weight, &index), SPEY_OK);
    return index;
}

static spey_status plan(bench *b, spey_import **out)
{
    const char *path = temp_path(&b->folder, "model.safetensors");
    assert_int_equal(spey_safetensors_write(path, b->sources, b->n_sources), SPEY_OK);
    assert_int_equal(spey_safetensors_open(path, &b->tensors), SPEY_OK);
    return spey_import_plan(b->graph, model, b->tensors, out);
}

/* Import graph weight `index` alone into an engine and read it back. Free with free. */
static void *import_one(bench *b, int32_t index, size_t *n)
{
    spey_import *import;
    if (plan(b, &import)) fail_msg("%s", spey_last_error());
    const spey_weight *weight = &b->graph->weights[index];
    spey_engine_tensor tensor = { .name = "w", .dtype = weight->dtype, .n_dims = weight->n_dims };
    memcpy(tensor.dims, weight->dims, sizeof tensor.dims);
    const char *path = temp_path(&b->folder, "one.spey");
    spey_engine_writer *writer;
    assert_int_equal(spey_engine_writer_open(path, &writer), SPEY_OK);
    const spey_model_info info = { .vocab_size = 1, .hidden_size = 1, .context_length = 1 };
    assert_int_equal(spey_engine_writer_info(writer, &info), SPEY_OK);
    assert_int_equal(spey_engine_writer_section(writer, "graph", "g", 1), SPEY_OK);
    assert_int_equal(spey_engine_writer_tensors(writer, &tensor, 1), SPEY_OK);
    assert_int_equal(spey_import_stream(import, index, writer), SPEY_OK);
    assert_int_equal(spey_engine_writer_commit(writer, NULL), SPEY_OK);
    spey_import_free(import);
    spey_engine_file *file;
    if (spey_engine_file_open(path, NULL, &file)) fail_msg("%s", spey_last_error());
    const spey_engine_tensor *back = spey_engine_file_tensor_at(file, 0);
    *n = back->bytes;
    void *copy = malloc(back->bytes);
    memcpy(copy, back->data, back->bytes);
    spey_engine_file_close(file);
    return copy;
}

/* Row r, column c of every source here: a value that tells where it was. */
static float at(int64_t r, int64_t c)
{
    return (float)(r * 100 + c);
}

static float *make_matrix(int64_t rows, int64_t cols)
{
    float *out = malloc((size_t)(rows * cols) * sizeof *out);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            out[r * cols + c] = at(r, c);
    return out;
}

static void a_whole_tensor_is_copied(void **state)
{
    (void)state;
    bench b = bench_make();
    float *source = make_matrix(6, 5);
    add_source(&b, "t", SPEY_F32, 6, 5, source);
    int32_t w = add_weight(&b, "w", 6, 5, SPEY_F32, (spey_weight_source){ .tensor = "t" });
    size_t n;
    float *out = import_one(&b, w, &n);
    assert_int_equal(n, 6 * 5 * sizeof(float));
    assert_memory_equal(out, source, n);
    free(out);
    free(source);
    bench_free(&b);
}

static void pieces_are_gathered(void **state)
{
    (void)state;
    bench b = bench_make();
    float *source = make_matrix(12, 3);
    add_source(&b, "fused", SPEY_F32, 12, 3, source);
    /* Two groups of 6 rows: 4 of the first kind, 2 of the second. */
    int32_t first = add_weight(
        &b, "first", 8, 3, SPEY_F32,
        (spey_weight_source){ .tensor = "fused", .row_piece = 4, .row_stride = 6, .n_pieces = 2 });
    add_weight(
        &b, "second", 4, 3, SPEY_F32,
        (spey_weight_source){
            .tensor = "fused", .row_begin = 4, .row_piece = 2, .row_stride = 6, .n_pieces = 2 });
    size_t n;
    float *out = import_one(&b, first, &n);
    for (int64_t r = 0; r < 8; r++)
        for (int64_t c = 0; c < 3; c++)
            assert_true(out[r * 3 + c] == at(r / 4 * 6 + r % 4, c));
    free(out);
    free(source);
    bench_free(&b);
}

static void a_transposed_tensor_is_turned(void **state)
{
    (void)state;
    /* 700 columns: several tiles, and an edge. */
    bench b = bench_make();
    float *source = make_matrix(37, 700);
    add_source(&b, "conv", SPEY_F32, 37, 700, source);
    int32_t q = add_weight(&b, "q", 500, 37, SPEY_F32,
                           (spey_weight_source){ .tensor = "conv",
                                                 .transpose = true,
                                                 .row_piece = 500,
                                                 .row_stride = 500,
                                                 .n_pieces = 1 });
    add_weight(&b, "k", 200, 37, SPEY_F32,
               (spey_weight_source){ .tensor = "conv",
                                     .transpose = true,
                                     .row_begin = 500,
                                     .row_piece = 200,
                                     .row_stride = 200,
                                     .n_pieces = 1 });
    size_t n;
    float *out = import_one(&b, q, &n);
    for (int64_t r = 0; r < 500; r++)
        for (int64_t c = 0; c < 37; c++)
            assert_true(out[r * 37 + c] == at(c, r));
    free(out);
    free(source);
    bench_free(&b);
}

static void a_transposed_tensor_larger_than_the_buffer_is_turned_in_strips(void **state)
{
    (void)state;
    bench b = bench_make();
    const int64_t rows = 3000, cols = 4000; /* 24 MB of bf16 */
    uint16_t *source = malloc((size_t)(rows * cols) * sizeof *source);
    for (int64_t i = 0; i < rows * cols; i++)
        source[i] = (uint16_t)(i * 2654435761 >> 16);
    add_source(&b, "conv", SPEY_BF16, cols, rows, source);
    int32_t w = add_weight(&b, "w", rows, cols, SPEY_BF16,
                           (spey_weight_source){ .tensor = "conv", .transpose = true });
    size_t n;
    uint16_t *out = import_one(&b, w, &n);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            if (out[r * cols + c] != source[c * rows + r]) fail_msg("at %d,%d", (int)r, (int)c);
    free(out);
    free(source);
    bench_free(&b);
}

static void parts_lie_one_below_the_other(void **state)
{
    (void)state;
    bench b = bench_make();
    float *q = make_matrix(4, 3), *k = make_matrix(2, 3);
    add_source(&b, "q_proj", SPEY_F32, 4, 3, q);
    add_source(&b, "k_proj", SPEY_F32, 2, 3, k);
    int32_t wq = add_weight(&b, "q", 4, 3, SPEY_BF16, (spey_weight_source){ .tensor = "q_proj" });
    int32_t wk = add_weight(&b, "k", 2, 3, SPEY_BF16, (spey_weight_source){ .tensor = "k_proj" });
    const spey_weight folded = { .name = "qk",
                                 .dtype = SPEY_BF16,
                                 .n_dims = 2,
                                 .dims = { 6, 3 },
                                 .n_parts = 2,
                                 .parts = { wq, wk } };
    int32_t index;
    assert_int_equal(spey_graph_add_weight(b.graph, &folded, &index), SPEY_OK);
    size_t n;
    uint16_t *out = import_one(&b, index, &n);
    for (int i = 0; i < 12; i++)
        assert_int_equal(out[i], spey_f32_to_bf16(q[i]));
    for (int i = 0; i < 6; i++)
        assert_int_equal(out[12 + i], spey_f32_to_bf16(k[i]));
    free(out);
    free(q);
    free(k);
    bench_free(&b);
}

static spey_weight stack_of(int64_t n, int64_t rows, int64_t cols, spey_weight_source source)
{
    return (spey_weight){ .name = "w",
                          .dtype = SPEY_F32,
                          .n_dims = cols ? 3 : 2,
                          .dims = { n, rows, cols },
                          .source = source };
}

/* Expert e holds at(10 e + row, column). */
static void a_stack_is_gathered_from_a_tensor_for_each(void **state)
{
    (void)state;
    static const char *const names[] = { "experts.2.w", "experts.0.w", "experts.1.w" };
    static const int numbers[] = { 2, 0, 1 };
    bench b = bench_make();
    float *all = make_matrix(30, 3);
    for (int i = 0; i < 3; i++)
        add_source(&b, names[i], SPEY_F32, 6, 3, all + numbers[i] * 30);
    const spey_weight stack = stack_of(3, 2, 3,
                                       (spey_weight_source){ .tensor = "experts.*.w",
                                                             .stack = SPEY_STACK_TENSORS,
                                                             .row_begin = 4,
                                                             .row_piece = 2,
                                                             .row_stride = 2,
                                                             .n_pieces = 1 });
    spey_weight rest = stack;
    int32_t index, other;
    rest.name = "rest";
    rest.dims[1] = rest.source.row_piece = rest.source.row_stride = 4;
    rest.source.row_begin = 0;
    assert_int_equal(spey_graph_add_weight(b.graph, &stack, &index), SPEY_OK);
    assert_int_equal(spey_graph_add_weight(b.graph, &rest, &other), SPEY_OK);
    size_t n;
    float *out = import_one(&b, index, &n);
    assert_int_equal(n, 3 * 2 * 3 * sizeof(float));
    for (int64_t i = 0; i < 18; i++)
        assert_true(out[i] == at(i / 6 * 10 + 4 + i % 6 / 3, i % 3));
    free(out);
    free(all);
    bench_free(&b);
}

static void a_stack_in_one_tensor_is_turned_matrix_by_matrix(void **state)
{
    (void)state;
    bench b = bench_make();
    float *all = make_matrix(8, 6); /* two of [in 4, out 6]: even outputs are the gate's */
    add_source(&b, "gate_up", SPEY_F32, 2, 4, all);
    b.sources[0].n_dims = 3;
    b.sources[0].dims[2] = 6;
    b.sources[0].bytes *= 6;
    const spey_weight gate = stack_of(2, 3, 4,
                                      (spey_weight_source){ .tensor = "gate_up",
                                                            .stack = SPEY_STACK_ONE,
                                                            .transpose = true,
                                                            .row_piece = 1,
                                                            .row_stride = 2,
                                                            .n_pieces = 3 });
    spey_weight up = gate;
    int32_t index, other;
    up.name = "up";
    up.source.row_begin = 1;
    assert_int_equal(spey_graph_add_weight(b.graph, &gate, &index), SPEY_OK);
    assert_int_equal(spey_graph_add_weight(b.graph, &up, &other), SPEY_OK);
    size_t n;
    float *out = import_one(&b, other, &n);
    for (int64_t e = 0; e < 2; e++)
        for (int64_t r = 0; r < 3; r++)
            for (int64_t c = 0; c < 4; c++)
                assert_true(out[(e * 3 + r) * 4 + c] == at(e * 4 + c, 2 * r + 1));
    free(out);
    free(all);
    bench_free(&b);
}

/* Two heads of rows 0 and 1, and of rows 2 to 4: the first kind turned, the second as it is. */
static void pieces_of_a_matrix_may_be_a_stack(void **state)
{
    (void)state;
    bench b = bench_make();
    float *all = make_matrix(10, 4);
    add_source(&b, "kv", SPEY_F32, 10, 4, all);
    const spey_weight k = stack_of(2, 4, 2,
                                   (spey_weight_source){ .tensor = "kv",
                                                         .stack = SPEY_STACK_PIECES,
                                                         .transpose = true,
                                                         .row_piece = 2,
                                                         .row_stride = 5,
                                                         .n_pieces = 2 });
    spey_weight v = stack_of(2, 3, 4,
                             (spey_weight_source){ .tensor = "kv",
                                                   .stack = SPEY_STACK_PIECES,
                                                   .row_begin = 2,
                                                   .row_piece = 3,
                                                   .row_stride = 5,
                                                   .n_pieces = 2 });
    int32_t wk, wv;
    v.name = "v";
    assert_int_equal(spey_graph_add_weight(b.graph, &k, &wk), SPEY_OK);
    assert_int_equal(spey_graph_add_weight(b.graph, &v, &wv), SPEY_OK);
    size_t n;
    float *out = import_one(&b, wk, &n);
    for (int64_t i = 0; i < 16; i++)
        assert_true(out[i] == at(i / 8 * 5 + i % 2, i % 8 / 2));
    free(out);
    spey_safetensors_close(b.tensors);
    out = import_one(&b, wv, &n);
    for (int64_t i = 0; i < 24; i++)
        assert_true(out[i] == at(i / 12 * 5 + 2 + i % 12 / 4, i % 4));
    free(out);
    free(all);
    bench_free(&b);
}

static void every_expert_is_missed_and_none_is_left_over(void **state)
{
    (void)state;
    static const char *const names[] = { "x.0.w", "x.1.w", "x.2.w", "x.02.w" };
    for (int extra = 0; extra < 4; extra++) {
        bench b = bench_make();
        spey_import *import;
        float *one = make_matrix(2, 3);
        for (int i = 0; i < 4; i++)
            if (i != extra) add_source(&b, names[i], SPEY_F32, 2, 3, one);
        const spey_weight stack = stack_of(
            3, 2, 3, (spey_weight_source){ .tensor = "x.*.w", .stack = SPEY_STACK_TENSORS });
        int32_t index;
        assert_int_equal(spey_graph_add_weight(b.graph, &stack, &index), SPEY_OK);
        char missing[64];
        snprintf(missing, sizeof missing, "no tensor %s (nearest: x.02.w)", names[extra]);
        spey_status status = plan(&b, &import);
        assert_int_equal(status, extra == 3 ? SPEY_OK : SPEY_NOT_FOUND);
        if (extra < 3) assert_error_has(missing);
        if (extra == 3) spey_import_free(import);
        free(one);
        bench_free(&b);
    }
}

static void a_stack_of_another_shape_shows_both(void **state)
{
    (void)state;
    bench b = bench_make();
    spey_import *import;
    float *all = make_matrix(8, 6);
    add_source(&b, "t", SPEY_F32, 8, 6, all);
    const spey_weight stack =
        stack_of(2, 4, 6, (spey_weight_source){ .tensor = "t", .stack = SPEY_STACK_ONE });
    int32_t index;
    assert_int_equal(spey_graph_add_weight(b.graph, &stack, &index), SPEY_OK);
    assert_int_equal(plan(&b, &import), SPEY_FORMAT);
    assert_error_has("tensor t is [8,6], expected [2,4,6]");
    free(all);
    bench_free(&b);
}

static void computed_values_are_stored(void **state)
{
    (void)state;
    bench b = bench_make();
    const float values[3] = { 1, 0.5f, 0.25f };
    int32_t w =
        add_weight(&b, "inv_freq", 3, 0, SPEY_F32, (spey_weight_source){ .values = values });
    size_t n;
    float *out = import_one(&b, w, &n);
    assert_int_equal(n, sizeof values);
    assert_memory_equal(out, values, n);
    free(out);
    bench_free(&b);
}

static void every_pair_of_types_converts(void **state)
{
    (void)state;
    static const spey_dtype types[] = { SPEY_F32, SPEY_F16, SPEY_BF16, SPEY_F64 };
    const float values[4] = { 1, -2, 0.5f, 96 }; /* exact in all */
    for (int from = 0; from < 4; from++)
        for (int to = 0; to < 3; to++) {
            bench b = bench_make();
            double bytes[4];
            assert_true(spey_convert(bytes, types[from], values, SPEY_F32, 4));
            add_source(&b, "t", types[from], 4, 0, bytes);
            int32_t w = add_weight(&b, "w", 4, 0, types[to], (spey_weight_source){ .tensor = "t" });
            size_t n;
            void *out = import_one(&b, w, &n);
            float back[4];
            assert_true(spey_convert(back, SPEY_F32, out, types[to], 4));
            assert_memory_equal(back, values, sizeof values);
            free(out);
            bench_free(&b);
        }
}

/* ---- what is refused ---- */

static void refuses(bench *b, spey_status status, const char *part)
{
    spey_import *import;
    spey_status got = plan(b, &import);
    if (got != status)
        fail_msg("status %d (%s), expected %d (%s)", got, spey_last_error(), status, part);
    assert_error_has(part);
    assert_null(import);
    bench_free(b);
}

static const float zeros[64];

static void a_missing_tensor_names_its_nearest(void **state)
{
    (void)state;
    bench b = bench_make();
    add_source(&b, "model.norm.wieght", SPEY_F32, 4, 0, zeros);
    add_weight(&b, "w", 4, 0, SPEY_F32, (spey_weight_source){ .tensor = "model.norm.weight" });
    refuses(&b, SPEY_NOT_FOUND, "no tensor model.norm.weight (nearest: model.norm.wieght)");
    b = bench_make();
    add_weight(&b, "w", 4, 0, SPEY_F32, (spey_weight_source){ .tensor = "model.norm.weight" });
    refuses(&b, SPEY_NOT_FOUND, "nor one that the model does not know");
}

static void the_prefix_is_optional(void **state)
{
    (void)state;
    bench b = bench_make();
    add_source(&b, "norm.weight", SPEY_F32, 4, 0, zeros);
    add_weight(&b, "w", 4, 0, SPEY_F32, (spey_weight_source){ .tensor = "model.norm.weight" });
    spey_import *import;
    assert_int_equal(plan(&b, &import), SPEY_OK);
    spey_import_free(import);
    bench_free(&b);
}

static void tensors_that_nobody_reads_are_named(void **state)
{
    (void)state;
    bench b = bench_make();
    add_source(&b, "w", SPEY_F32, 4, 0, zeros);
    add_source(&b, "model.extra.weight", SPEY_F32, 4, 0, zeros);
    add_weight(&b, "w", 4, 0, SPEY_F32, (spey_weight_source){ .tensor = "w" });
    refuses(&b, SPEY_FORMAT,
            "1 tensors of the checkpoint belong to nothing in the model: model.extra.weight");
    b = bench_make();
    add_source(&b, "w", SPEY_F32, 4, 0, zeros);
    add_source(&b, "model.layers.0.self_attn.rotary_emb.inv_freq", SPEY_F32, 4, 0, zeros);
    add_source(&b, "lm_head.weight", SPEY_F32, 4, 0, zeros); /* the model is tied */
    add_weight(&b, "w", 4, 0, SPEY_F32, (spey_weight_source){ .tensor = "w" });
    spey_import *import;
    assert_int_equal(plan(&b, &import), SPEY_OK);
    spey_import_free(import);
    bench_free(&b);
}

static void a_wrong_shape_shows_both(void **state)
{
    (void)state;
    bench b = bench_make();
    add_source(&b, "t", SPEY_F32, 8, 4, zeros);
    add_weight(&b, "w", 4, 8, SPEY_F32, (spey_weight_source){ .tensor = "t" });
    refuses(&b, SPEY_FORMAT, "tensor t is [8,4], expected [4,8]");
    b = bench_make();
    add_source(&b, "t", SPEY_F32, 8, 4, zeros);
    add_weight(&b, "w", 8, 4, SPEY_F32, (spey_weight_source){ .tensor = "t", .transpose = true });
    refuses(&b, SPEY_FORMAT, "tensor t is [8,4], expected [4,8]");
    b = bench_make();
    add_source(&b, "t", SPEY_F32, 32, 0, zeros);
    add_weight(&b, "w", 8, 4, SPEY_F32, (spey_weight_source){ .tensor = "t" });
    refuses(&b, SPEY_FORMAT, "tensor t is [32], expected [8,4]");
    /* Pieces: the leaves together take 6 rows. */
    b = bench_make();
    add_source(&b, "t", SPEY_F32, 8, 4, zeros);
    add_weight(
        &b, "a", 4, 4, SPEY_F32,
        (spey_weight_source){ .tensor = "t", .row_piece = 4, .row_stride = 4, .n_pieces = 1 });
    add_weight(&b, "b", 2, 4, SPEY_F32,
               (spey_weight_source){
                   .tensor = "t", .row_begin = 4, .row_piece = 2, .row_stride = 2, .n_pieces = 1 });
    refuses(&b, SPEY_FORMAT, "tensor t is [8,4], expected [6,4]");
}

static void integers_are_no_weights(void **state)
{
    (void)state;
    bench b = bench_make();
    add_source(&b, "t", SPEY_I8, 8, 4, zeros);
    add_weight(&b, "w", 8, 4, SPEY_F32, (spey_weight_source){ .tensor = "t" });
    refuses(&b, SPEY_UNSUPPORTED, "tensor t is i8");
}

static void a_value_beyond_f16_suggests_bf16(void **state)
{
    (void)state;
    bench b = bench_make();
    float values[4] = { 1, INFINITY, 3, -70000 }; /* infinity is the checkpoint's own */
    add_source(&b, "t", SPEY_F32, 4, 0, values);
    int32_t w = add_weight(&b, "w", 4, 0, SPEY_F16, (spey_weight_source){ .tensor = "t" });
    spey_import *import;
    assert_int_equal(plan(&b, &import), SPEY_OK);
    spey_engine_writer *writer;
    assert_int_equal(spey_engine_writer_open(temp_path(&b.folder, "one.spey"), &writer), SPEY_OK);
    const spey_engine_tensor tensor = {
        .name = "w", .dtype = SPEY_F16, .n_dims = 1, .dims = { 4 }
    };
    assert_int_equal(spey_engine_writer_tensors(writer, &tensor, 1), SPEY_OK);
    assert_int_equal(spey_import_stream(import, w, writer), SPEY_FORMAT);
    assert_error_has("tensor t holds -70000, which does not fit f16: build with --dtype bf16");
    spey_engine_writer_abort(writer);
    spey_import_free(import);
    bench_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_tensor_is_copied),
        cmocka_unit_test(pieces_are_gathered),
        cmocka_unit_test(a_transposed_tensor_is_turned),
        cmocka_unit_test(a_transposed_tensor_larger_than_the_buffer_is_turned_in_strips),
        cmocka_unit_test(parts_lie_one_below_the_other),
        cmocka_unit_test(a_stack_is_gathered_from_a_tensor_for_each),
        cmocka_unit_test(a_stack_in_one_tensor_is_turned_matrix_by_matrix),
        cmocka_unit_test(pieces_of_a_matrix_may_be_a_stack),
        cmocka_unit_test(every_expert_is_missed_and_none_is_left_over),
        cmocka_unit_test(a_stack_of_another_shape_shows_both),
        cmocka_unit_test(computed_values_are_stored),
        cmocka_unit_test(every_pair_of_types_converts),
        cmocka_unit_test(a_missing_tensor_names_its_nearest),
        cmocka_unit_test(the_prefix_is_optional),
        cmocka_unit_test(tensors_that_nobody_reads_are_named),
        cmocka_unit_test(a_wrong_shape_shows_both),
        cmocka_unit_test(integers_are_no_weights),
        cmocka_unit_test(a_value_beyond_f16_suggests_bf16),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
