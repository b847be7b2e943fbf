#include "../tensor/temp_folder.h"
#include "base/alloc.h"
#include "build/build.h"
#include "graph/graph_text.h"

static void published_sizes_are_met(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint64_t n_parameters;
        int64_t n_layers;
    } shapes[] = {
        { "demo", 8392960, 8 },
        { "tinyllama-1.1b", 1100048384, 22 },
        { "llama-2-7b", 6738415616, 32 },
        { "llama-2-13b", 13015864320, 40 },
        { "llama-2-70b", 68976648192, 80 },
        { "llama-3-8b", 8030261248, 32 },
        { "llama-3-70b", 70553706496, 80 },
        { "llama-3.2-1b", 1235814400, 16 },
        { "llama-3.2-3b", 3212749824, 28 },
        { "mistral-7b", 7241732096, 32 },
        { "gpt2-124m", 124439808, 12 },
        { "gpt2-1.5b", 1557611200, 48 },
        { "gpt-j-6b", 6050882784, 28 },
        { "gpt3-6.7b", 6658404352, 32 },
        { "gpt3-13b", 12853386240, 40 },
        { "gpt3-175b", 174604259328, 96 },
        { "mixtral-8x7b", 46702792704, 32 },
        { "qwen1.5-moe-a2.7b", 14315784192, 24 },
        { "qwen3-30b-a3b", 30532122624, 48 },
        { "gpt-oss-20b", 20914757184, 24 },
        { "deepseek-v2-lite", 15706484224, 27 },
        { "deepseek-v3", 671026419200, 61 },
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        spey_engine_file *file;
        if (spey_build_shape(shapes[i].name, NULL, &file))
            fail_msg("%s: %s", shapes[i].name, spey_last_error());
        const spey_model_info *info = spey_engine_file_info(file);
        if (info->n_parameters != shapes[i].n_parameters)
            fail_msg("%s: %llu parameters", shapes[i].name, (unsigned long long)info->n_parameters);
        assert_int_equal(info->n_layers, shapes[i].n_layers);
        assert_string_equal(info->name, shapes[i].name);
        spey_engine_file_close(file);
    }
}

static void every_listed_shape_has_a_graph_and_its_weights(void **state)
{
    (void)state;
    for (const char *const *name = spey_build_shape_names(); *name; name++) {
        spey_engine_file *file;
        assert_int_equal(spey_build_shape(*name, NULL, &file), SPEY_OK);
        const void *text;
        size_t n;
        assert_int_equal(spey_engine_file_section(file, "graph", &text, &n), SPEY_OK);
        spey_graph *graph;
        assert_int_equal(spey_graph_parse(*name, text, n, &graph), SPEY_OK);
        for (int i = 0; i < graph->n_nodes; i++)
            for (int w = 0; w < graph->nodes[i].n_weights; w++) {
                const spey_weight *weight = &graph->weights[graph->nodes[i].weights[w]];
                const spey_engine_tensor *tensor = spey_engine_file_tensor(file, weight->name);
                assert_non_null(tensor);
                /* Only what the model computes is there. */
                assert_int_equal(tensor->data != NULL, strstr(weight->name, "inv_freq") != NULL);
                assert_int_equal(tensor->dtype, weight->dtype);
                assert_memory_equal(tensor->dims, weight->dims,
                                    (size_t)weight->n_dims * sizeof *weight->dims);
            }
        spey_graph_free(graph);
        spey_engine_file_close(file);
    }
}

static void options_apply_to_shapes(void **state)
{
    (void)state;
    spey_engine_file *file;
    const spey_build_options options = { .dtype = "f32", .disable_passes = "all" };
    assert_int_equal(spey_build_shape("demo", &options, &file), SPEY_OK);
    assert_int_equal(spey_engine_file_info(file)->dtype, SPEY_F32);
    assert_non_null(spey_engine_file_tensor(file, "layer.0.attn.q"));
    spey_engine_file_close(file);
}

static void an_unknown_shape_lists_the_known(void **state)
{
    (void)state;
    spey_engine_file *file;
    assert_int_equal(spey_build_shape("llama-9", NULL, &file), SPEY_NOT_FOUND);
    assert_error_has("no shape \"llama-9\"");
    assert_error_has("llama-3.2-1b");
    assert_null(file);
}

static void running_out_of_memory_leaves_nothing(void **state)
{
    (void)state;
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    for (uint64_t n = 1; status; n++) {
        spey_engine_file *file;
        spey_alloc_fail_nth(n);
        status = spey_build_shape("demo", NULL, &file);
        spey_alloc_fail_nth(0);
        spey_engine_file_close(file);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_sizes_are_met),
        cmocka_unit_test(every_listed_shape_has_a_graph_and_its_weights),
        cmocka_unit_test(options_apply_to_shapes),
        cmocka_unit_test(an_unknown_shape_lists_the_known),
        cmocka_unit_test(running_out_of_memory_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
