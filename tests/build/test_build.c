#include "build/build.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <utime.h>

#include "base/alloc.h"
#include "base/json.h"
#include "build/checkpoint.h"
#include "build/source_digest.h"
#include "draft.h"
#include "graph/graph_text.h"
#include "text/tokenizer.h"

/* ---- what a build makes ---- */

static void the_demo_becomes_an_engine(void **state)
{
    (void)state;
    temp_folder folder = temp_folder_make();
    const char *path = temp_path(&folder, "demo.spey");
    spey_build_report report;
    if (spey_build_engine("models/demo", path, NULL, &report)) fail_msg("%s", spey_last_error());
    assert_true(report.has_tokenizer);
    assert_false(report.has_chat_template);
    assert_string_equal(report.warnings, "");
    assert_int_equal(report.n_parameters, 8392960);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(report.engine_bytes, st.st_size);
    spey_engine_file *file;
    assert_int_equal(spey_engine_file_open(path, NULL, &file), SPEY_OK);
    const spey_model_info *info = spey_engine_file_info(file);
    assert_string_equal(info->name, "demo");
    assert_string_equal(info->arch, "llama");
    assert_int_equal(info->dtype, SPEY_BF16);
    assert_int_equal(info->vocab_size, 8192);
    assert_int_equal(info->n_eos, 1);
    assert_int_equal(info->eos_ids[0], 1);
    assert_int_equal(report.n_tensors, spey_engine_file_n_tensors(file));
    const void *data;
    size_t n, verbatim_n;
    assert_int_equal(spey_engine_file_section(file, "tokenizer", &data, &n), SPEY_OK);
    spey_tokenizer *tokenizer;
    assert_int_equal(spey_tokenizer_read("demo", data, n, &tokenizer), SPEY_OK);
    assert_int_equal(spey_tokenizer_vocab_size(tokenizer), 8192);
    spey_tokenizer_free(tokenizer);
    uint8_t *verbatim = read_bytes("models/demo/tokenizer.json", &verbatim_n);
    assert_int_equal(spey_engine_file_section(file, "file:tokenizer.json", &data, &n), SPEY_OK);
    assert_int_equal(n, verbatim_n);
    assert_memory_equal(data, verbatim, n);
    free(verbatim);
    assert_int_equal(spey_engine_file_section(file, "file:config.json", &data, &n), SPEY_OK);
    assert_int_equal(spey_engine_file_section(file, "graph", &data, &n), SPEY_OK);
    spey_graph *graph;
    assert_int_equal(spey_graph_parse("graph", data, n, &graph), SPEY_OK);
    assert_int_equal(report.n_nodes, graph->n_nodes);
    spey_graph_free(graph);
    spey_engine_file_close(file);
    assert_int_equal(count_files(folder.path), 1);
    remove_tree(folder.path);
}

static void weights_are_the_checkpoints(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    const spey_build_options options = { .disable_passes = "all" };
    spey_engine_file *file = build_and_open(&d, &options);
    static const char *const names[][2] = {
        { "embed", "model.embed_tokens.weight" },
        { "layer.0.attn_norm", "model.layers.0.input_layernorm.weight" },
        { "layer.1.attn.q", "model.layers.1.self_attn.q_proj.weight" },
        { "layer.0.mlp.down", "model.layers.0.mlp.down_proj.weight" },
        { "final_norm", "model.norm.weight" },
        { "lm_head", "lm_head.weight" },
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const spey_engine_tensor *tensor = spey_engine_file_tensor(file, names[i][0]);
        const spey_safetensor *source = find_tensor(&d, names[i][1]);
        if (!tensor) fail_msg("no %s", names[i][0]);
        assert_int_equal(tensor->n_dims, source->n_dims);
        assert_int_equal(tensor->dims[0], source->dims[0]);
        size_t n = source->bytes / spey_dtype_bytes(source->dtype);
        for (size_t k = 0; k < n; k++)
            assert_true(element(tensor, k) == source_element(source, k));
    }
    /* Norms are kept in full precision, matrices in the checkpoint's. */
    assert_int_equal(spey_engine_file_tensor(file, "final_norm")->dtype, SPEY_F32);
    assert_int_equal(spey_engine_file_tensor(file, "lm_head")->dtype, SPEY_BF16);
    spey_engine_file_close(file);
    draft_free(&d);
}

static void folded_weights_hold_their_parts(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    spey_engine_file *file = build_and_open(&d, NULL);
    const spey_engine_tensor *qkv = spey_engine_file_tensor(file, "layer.1.attn.qkv");
    assert_non_null(qkv);
    static const char *const parts[] = { "q", "k", "v" };
    size_t at = 0;
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.1.self_attn.%s_proj.weight", parts[i]);
        const spey_safetensor *source = find_tensor(&d, name);
        for (size_t k = 0; k < source->bytes / 2; k++)
            assert_true(element(qkv, at++) == source_element(source, k));
    }
    assert_int_equal(at * 2, qkv->bytes);
    assert_null(spey_engine_file_tensor(file, "layer.1.attn.q"));
    spey_engine_file_close(file);
    draft_free(&d);
}

static void the_same_input_gives_the_same_bytes(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    assert_int_equal(build_draft(&d, NULL, NULL), SPEY_OK);
    size_t n, m;
    uint8_t *first = read_bytes(temp_path(&d.folder, "m.spey"), &n);
    assert_int_equal(build_draft(&d, NULL, NULL), SPEY_OK);
    uint8_t *second = read_bytes(temp_path(&d.folder, "m.spey"), &m);
    assert_int_equal(n, m);
    assert_memory_equal(first, second, n);
    /* Nor does any path get in. */
    assert_null(memmem(first, n, d.folder.path, strlen(d.folder.path)));
    free(first);
    free(second);
    draft_free(&d);
}

static void the_dtype_may_be_chosen(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    static const spey_dtype dtypes[] = { SPEY_F32, SPEY_F16, SPEY_BF16 };
    for (int i = 0; i < 3; i++) {
        const spey_build_options options = { .dtype = spey_dtype_name(dtypes[i]) };
        spey_engine_file *file = build_and_open(&d, &options);
        assert_int_equal(spey_engine_file_info(file)->dtype, dtypes[i]);
        const spey_engine_tensor *embed = spey_engine_file_tensor(file, "embed");
        const spey_safetensor *source = find_tensor(&d, "model.embed_tokens.weight");
        assert_int_equal(embed->dtype, dtypes[i]);
        for (size_t k = 0; k < 64; k++)
            assert_true(fabsf(element(embed, k) - source_element(source, k)) <= 0x1p-10f);
        spey_engine_file_close(file);
    }
    draft_free(&d);
}

static void shards_and_a_single_file_build_the_same_weights(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    spey_engine_file *file = build_and_open(&d, NULL);
    uint64_t checksum = 0;
    for (int i = 0; i < spey_engine_file_n_sections(file); i++)
        if (!strcmp(spey_engine_file_section_at(file, i).name, "weights"))
            checksum = spey_engine_file_section_at(file, i).checksum;
    spey_engine_file_close(file);

    unlink(in_draft(&d, "model.safetensors"));
    int half = d.n / 2;
    assert_int_equal(
        spey_safetensors_write(in_draft(&d, "model-1-of-2.safetensors"), d.tensors, half), SPEY_OK);
    assert_int_equal(spey_safetensors_write(in_draft(&d, "model-2-of-2.safetensors"),
                                            d.tensors + half, d.n - half),
                     SPEY_OK);
    spey_strbuf index = { 0 };
    for (int i = 0; i < d.n; i++)
        spey_strbuf_printf(&index, "%s\"%s\":\"model-%d-of-2.safetensors\"",
                           i ? "," : "{\"weight_map\":{", d.tensors[i].name, i < half ? 1 : 2);
    spey_strbuf_puts(&index, "}}");
    write_text(in_draft(&d, "model.safetensors.index.json"), index.data);
    spey_strbuf_deinit(&index);
    file = build_and_open(&d, NULL);
    for (int i = 0; i < spey_engine_file_n_sections(file); i++)
        if (!strcmp(spey_engine_file_section_at(file, i).name, "weights"))
            assert_int_equal(spey_engine_file_section_at(file, i).checksum, checksum);
    spey_engine_file_close(file);
    draft_free(&d);
}

static void provenance_names_every_source(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    const spey_build_options options = { .dtype = "f32", .disable_passes = "fuse_glu" };
    spey_engine_file *file = build_and_open(&d, &options);
    const void *data;
    size_t n;
    assert_int_equal(spey_engine_file_section(file, "provenance", &data, &n), SPEY_OK);
    json_t *root;
    assert_int_equal(spey_json_parse("provenance", data, n, &root), SPEY_OK);
    assert_string_equal(json_string_value(json_object_get(root, "dtype")), "f32");
    assert_string_equal(json_string_value(json_object_get(root, "disabled_passes")), "fuse_glu");
    assert_string_equal(json_string_value(json_object_get(root, "checkpoint")), "model");
    const json_t *sources = json_object_get(root, "sources");
    assert_int_equal(json_array_size(sources), 2);
    for (size_t i = 0; i < 2; i++) {
        const json_t *source = json_array_get(sources, i);
        size_t bytes;
        uint8_t *content =
            read_bytes(in_draft(&d, json_string_value(json_object_get(source, "file"))), &bytes);
        char hex[SPEY_SHA256_HEX_BYTES];
        assert_int_equal(spey_bytes_digest(content, bytes, hex), SPEY_OK);
        assert_string_equal(json_string_value(json_object_get(source, "sha256")), hex);
        assert_int_equal(json_integer_value(json_object_get(source, "bytes")), bytes);
        free(content);
    }
    json_decref(root);
    spey_engine_file_close(file);
    draft_free(&d);
}

/* ---- configuration ---- */

static void generation_config_comes_before_config(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    spey_engine_file *file = build_and_open(&d, NULL);
    assert_int_equal(spey_engine_file_info(file)->eos_ids[0], 2);
    assert_int_equal(spey_engine_file_info(file)->bos_id, 1);
    spey_engine_file_close(file);
    write_text(
        in_draft(&d, "generation_config.json"),
        "{\"eos_token_id\":[7,9,-1],\"bos_token_id\":5,\"do_sample\":true,\"temperature\":0.6,"
        "\"top_p\":0.9,\"repetition_penalty\":null}");
    file = build_and_open(&d, NULL);
    const spey_model_info *info = spey_engine_file_info(file);
    assert_int_equal(info->n_eos, 2);
    assert_int_equal(info->eos_ids[1], 9);
    assert_int_equal(info->bos_id, 5);
    assert_int_equal(info->pad_id, 0);
    assert_true(info->do_sample && info->temperature == 0.6 && info->top_p == 0.9);
    assert_true(info->repetition_penalty == 1 && info->min_p == 0 && info->typical_p == 1);
    assert_int_equal(info->top_k, 50);
    spey_engine_file_close(file);
    draft_free(&d);
}

static void a_bad_generation_config_is_refused(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    static const char *const cases[][2] = {
        { "[]", "generation_config.json: is not a JSON object" },
        { "{", "generation_config.json: bad JSON" },
        { "{\"eos_token_id\":\"x\"}", "\"eos_token_id\" is not an id" },
        { "{\"eos_token_id\":[1.5]}", "\"eos_token_id\" is not an id" },
        { "{\"top_p\":2}", "\"top_p\" is 2" },
        { "{\"temperature\":\"hot\"}", "\"temperature\" is a string" },
        { "{\"bos_token_id\":99999999999}", "\"bos_token_id\" is 99999999999" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(in_draft(&d, "generation_config.json"), cases[i][0]);
        refuses(&d, NULL, SPEY_FORMAT, cases[i][1]);
    }
    write_text(in_draft(&d, "generation_config.json"),
               "{\"eos_token_id\":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}");
    refuses(&d, NULL, SPEY_LIMIT, "lists 17 ids, at most 16");
    draft_free(&d);
}

static void chat_templates_are_found(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    write_text(in_draft(&d, "tokenizer_config.json"), "{\"chat_template\":\"plain {{ 1 }}\"}");
    spey_build_report report;
    assert_int_equal(build_draft(&d, NULL, &report), SPEY_OK);
    assert_true(report.has_chat_template);
    const void *text;
    size_t n;
    spey_engine_file *file = open_built(&d);
    assert_int_equal(spey_engine_file_section(file, "chat_template", &text, &n), SPEY_OK);
    assert_int_equal(n, 13);
    assert_memory_equal(text, "plain {{ 1 }}", n);
    spey_engine_file_close(file);

    write_text(
        in_draft(&d, "tokenizer_config.json"),
        "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"tools\"},"
        "{\"name\":\"rag\",\"template\":\"x\"},{\"name\":\"default\",\"template\":\"normal\"}]}");
    file = build_and_open(&d, NULL);
    assert_int_equal(spey_engine_file_section(file, "chat_template", &text, &n), SPEY_OK);
    assert_memory_equal(text, "normal", n);
    assert_int_equal(spey_engine_file_section(file, "chat_template:tool_use", &text, &n), SPEY_OK);
    assert_memory_equal(text, "tools", n);
    spey_engine_file_close(file);

    write_text(in_draft(&d, "chat_template.jinja"), "from the file");
    file = build_and_open(&d, NULL);
    assert_int_equal(spey_engine_file_section(file, "chat_template", &text, &n), SPEY_OK);
    assert_memory_equal(text, "from the file", n);
    spey_engine_file_close(file);
    draft_free(&d);
}

static void a_template_that_cannot_be_used_is_a_warning(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    write_text(in_draft(&d, "chat_template.jinja"), "{% if %}");
    spey_build_report report;
    assert_int_equal(build_draft(&d, NULL, &report), SPEY_OK);
    assert_false(report.has_chat_template);
    assert_non_null(strstr(report.warnings, "the chat template cannot be used: "));
    unlink(temp_path(&d.folder, "m.spey"));
    unlink(in_draft(&d, "chat_template.jinja"));
    write_text(in_draft(&d, "tokenizer_config.json"), "{\"chat_template\":7}");
    refuses(&d, NULL, SPEY_FORMAT, "\"chat_template\" is neither a string nor a list");
    write_text(in_draft(&d, "tokenizer_config.json"),
               "{\"chat_template\":[{\"name\":\"default\"}]}");
    refuses(&d, NULL, SPEY_FORMAT, "chat template 0 has no name or no text");
    draft_free(&d);
}

static void a_tokenizer_may_be_missing_but_not_broken(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    spey_build_report report;
    assert_int_equal(build_draft(&d, NULL, &report), SPEY_OK);
    assert_false(report.has_tokenizer);
    assert_non_null(strstr(report.warnings, "ids only"));
    unlink(temp_path(&d.folder, "m.spey"));
    write_text(in_draft(&d, "tokenizer.json"), "{\"model\":3}");
    refuses(&d, NULL, SPEY_FORMAT, "tokenizer.json");
    write_text(in_draft(&d, "tokenizer.json"), "{");
    refuses(&d, NULL, SPEY_FORMAT, "tokenizer.json: bad JSON");
    /* One that knows more ids than the model is used, with a warning. */
    copy_file("models/demo/tokenizer.json", in_draft(&d, "tokenizer.json"));
    assert_int_equal(build_draft(&d, NULL, &report), SPEY_OK);
    assert_non_null(strstr(report.warnings, "more ids than the model"));
    draft_free(&d);
}

/* ---- bad checkpoints ---- */

static void folders_that_are_no_checkpoints_are_explained(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    refuses(&d, NULL, SPEY_NOT_FOUND, "holds neither model.safetensors");
    write_text(in_draft(&d, "pytorch_model.bin"), "x");
    refuses(&d, NULL, SPEY_UNSUPPORTED, "convert it with transformers");
    unlink(in_draft(&d, "pytorch_model.bin"));
    write_weights(&d);
    write_text(in_draft(&d, "config.json"), "{\"architectures\":[\"LlammaForCausalLM\"]}");
    refuses(&d, NULL, SPEY_UNSUPPORTED, "LlamaForCausalLM");
    write_text(in_draft(&d, "config.json"), "");
    refuses(&d, NULL, SPEY_FORMAT, "config.json: bad JSON");
    unlink(in_draft(&d, "config.json"));
    refuses(&d, NULL, SPEY_NOT_FOUND, "holds no config.json");
    write_text(in_draft(&d, "adapter_config.json"), "{}");
    refuses(&d, NULL, SPEY_UNSUPPORTED, "LoRA adapter");
    const char *out = temp_path(&d.folder, "m.spey");
    assert_int_equal(spey_build_engine(in_draft(&d, "gone"), out, NULL, NULL), SPEY_NOT_FOUND);
    assert_error_has("no such folder");
    assert_int_equal(spey_build_engine(in_draft(&d, "model.safetensors"), out, NULL, NULL),
                     SPEY_INVALID);
    assert_error_has("is a file, expected a checkpoint's folder");
    draft_free(&d);
}

static void tensors_of_another_architecture_are_one_error(void **state)
{
    (void)state;
    static const struct {
        const char *config, *error;
    } cases[] = {
        { "{\"architectures\":[\"Qwen2ForCausalLM\"],\"hidden_size\":64,\"intermediate_size\":160,"
          "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"vocab_size\":256}",
          "/model: read as qwen2, as config.json says: the checkpoint has no tensor "
          "model.layers.0.self_attn.q_proj.bias" },
        { "{\"architectures\":[\"T5ForConditionalGeneration\"],\"d_model\":64,\"d_ff\":160,\"d_kv\":16,"
          "\"num_layers\":2,\"num_heads\":4,\"vocab_size\":256,\"pad_token_id\":0}",
          "/model: read as t5, as config.json says: the checkpoint has no tensor shared.weight" },
    };
    draft d = draft_make(tiny);
    write_weights(&d);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(in_draft(&d, "config.json"), cases[i].config);
        refuses(&d, NULL, SPEY_NOT_FOUND, cases[i].error);
    }
    draft_free(&d);
}

static void bad_weights_are_refused(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    spey_safetensor *norm = find_tensor(&d, "model.norm.weight"), saved = *norm;
    norm->name = "model.nrom.weight";
    write_weights(&d);
    refuses(&d, NULL, SPEY_NOT_FOUND, "no tensor model.norm.weight (nearest: model.nrom.weight)");
    *norm = saved;
    norm->n_dims = 2;
    norm->dims[0] = 1;
    norm->dims[1] = 64;
    write_weights(&d);
    refuses(&d, NULL, SPEY_FORMAT, "tensor model.norm.weight is [1,64], expected [64]");
    *norm = saved;
    d.tensors[d.n] = saved;
    d.tensors[d.n++].name = "model.layers.2.input_layernorm.weight";
    write_weights(&d);
    refuses(
        &d, NULL, SPEY_FORMAT,
        "1 tensors of the checkpoint belong to nothing in the model: model.layers.2.input_layernorm.weight");
    d.n--;
    norm->dtype = SPEY_I16;
    write_weights(&d);
    refuses(&d, NULL, SPEY_UNSUPPORTED, "tensor model.norm.weight is i16");
    write_text(in_draft(&d, "model.safetensors"), "nonsense!");
    refuses(&d, NULL, SPEY_FORMAT, "not a safetensors file");
    draft_free(&d);
}

static void a_value_beyond_f16_is_refused(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    spey_safetensor *embed = find_tensor(&d, "model.embed_tokens.weight");
    uint16_t *values = malloc(embed->bytes);
    memcpy(values, embed->data, embed->bytes);
    values[embed->bytes / 2 - 1] = spey_f32_to_bf16(1e6f);
    embed->data = values;
    write_weights(&d);
    const spey_build_options options = { .dtype = "f16" };
    refuses(&d, &options, SPEY_FORMAT, "which does not fit f16: build with --dtype bf16");
    assert_error_has("tensor model.embed_tokens.weight holds 999424");
    assert_int_equal(build_draft(&d, NULL, NULL), SPEY_OK);
    free(values);
    draft_free(&d);
}

static void names_may_lack_the_prefix(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    for (int i = 0; i < d.n; i++)
        if (!strncmp(d.tensors[i].name, "model.", 6)) d.tensors[i].name += 6;
    write_weights(&d);
    spey_engine_file *file = build_and_open(&d, NULL);
    spey_engine_file_close(file);
    draft_free(&d);
}

static void a_tied_head_in_the_file_is_ignored(void **state)
{
    (void)state;
    draft d = draft_make("tests/data/architectures/llama-tied-bias");
    const spey_safetensor *embed = find_tensor(&d, "model.embed_tokens.weight");
    d.tensors[d.n] = *embed;
    d.tensors[d.n++].name = "lm_head.weight";
    write_weights(&d);
    spey_engine_file *file = build_and_open(&d, NULL);
    assert_null(spey_engine_file_tensor(file, "lm_head"));
    spey_engine_file_close(file);
    draft_free(&d);
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    refuses(&d, &(spey_build_options){ .dtype = "f64" }, SPEY_INVALID,
            "expected auto, f32, f16 or bf16");
    refuses(&d, &(spey_build_options){ .dtype = "" }, SPEY_INVALID, "dtype \"\"");
    refuses(&d, &(spey_build_options){ .disable_passes = "fold_qkw" }, SPEY_INVALID, "fold_qkv");
    draft_free(&d);
}

/* ---- failures around the build ---- */

static void a_failed_build_leaves_what_was_there(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    const char *path = temp_path(&d.folder, "m.spey");
    write_text(path, "an older engine");
    struct rlimit before;
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);
    static const rlim_t limits[] = { 0, 1000, 100000, 250000 };
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        struct rlimit small = { limits[i], before.rlim_max };
        setrlimit(RLIMIT_FSIZE, &small);
        spey_status status = build_draft(&d, NULL, NULL);
        setrlimit(RLIMIT_FSIZE, &before);
        assert_int_equal(status, SPEY_IO);
        assert_error_has("m.spey: cannot write");
        assert_int_equal(count_files(d.folder.path), 2);
    }
    signal(SIGXFSZ, SIG_DFL);
    size_t n;
    uint8_t *bytes = read_bytes(path, &n);
    assert_string_equal((char *)bytes, "an older engine");
    free(bytes);
    assert_int_equal(spey_build_engine(d.path, temp_path(&d.folder, "no/m.spey"), NULL, NULL),
                     SPEY_IO);
    assert_error_has("cannot create");
    assert_int_equal(spey_build_engine(d.path, d.folder.path, NULL, NULL), SPEY_INVALID);
    draft_free(&d);
}

static void running_out_of_memory_leaves_nothing(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    write_text(in_draft(&d, "tokenizer_config.json"), "{\"chat_template\":\"{{ messages }}\"}");
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    uint64_t n = 1;
    for (; status; n++) {
        spey_alloc_fail_nth(n);
        status = build_draft(&d, NULL, NULL);
        spey_alloc_fail_nth(0);
        assert_true(status == SPEY_OK || status == SPEY_NOMEM);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
        assert_int_equal(count_files(d.folder.path), status ? 1 : 2);
    }
    assert_true(n > 100);
    draft_free(&d);
}

/* 96 MiB of F32 become 48 MiB of BF16 with a few megabytes of heap. */
static void memory_does_not_grow_with_the_model(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_text(
        in_draft(&d, "config.json"),
        "{\"architectures\":[\"LlamaForCausalLM\"],\"dtype\":\"bfloat16\",\"hidden_size\":64,"
        "\"intermediate_size\":160,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
        "\"vocab_size\":196608,\"tie_word_embeddings\":false}");
    const size_t bytes = (size_t)196608 * 64 * sizeof(float);
    float *values = calloc(1, bytes);
    values[7] = 1.5f;
    static const char *const large[] = { "model.embed_tokens.weight", "lm_head.weight" };
    for (int i = 0; i < 2; i++) {
        spey_safetensor *tensor = find_tensor(&d, large[i]);
        *tensor = (spey_safetensor){ .name = large[i],
                                     .dtype = SPEY_F32,
                                     .n_dims = 2,
                                     .dims = { 196608, 64 },
                                     .data = values,
                                     .bytes = bytes };
    }
    write_weights(&d);
    size_t before = spey_alloc_read_stats().peak_bytes;
    spey_engine_file *file = build_and_open(&d, NULL);
    assert_true(spey_alloc_read_stats().peak_bytes < before + (8 << 20));
    assert_true(element(spey_engine_file_tensor(file, "lm_head"), 7) == 1.5f);
    spey_engine_file_close(file);
    free(values);
    draft_free(&d);
}

/* ---- the cache key ---- */

static void the_key_changes_with_what_it_stands_for(void **state)
{
    (void)state;
    draft d = draft_make(tiny);
    write_weights(&d);
    char keys[6][65];
    const spey_build_options f32 = { .dtype = "f32" }, passes = { .disable_passes = "all" };
    assert_int_equal(spey_build_key(d.path, NULL, keys[0]), SPEY_OK);
    assert_int_equal(spey_build_key(d.path, NULL, keys[1]), SPEY_OK);
    assert_string_equal(keys[0], keys[1]);
    assert_int_equal(strlen(keys[0]), 64);
    assert_int_equal(spey_build_key(d.path, &f32, keys[1]), SPEY_OK);
    assert_int_equal(spey_build_key(d.path, &passes, keys[2]), SPEY_OK);
    const struct utimbuf earlier = { 1000, 1000 };
    utime(in_draft(&d, "model.safetensors"), &earlier);
    assert_int_equal(spey_build_key(d.path, NULL, keys[3]), SPEY_OK);
    write_text(in_draft(&d, "generation_config.json"), "{}");
    assert_int_equal(spey_build_key(d.path, NULL, keys[4]), SPEY_OK);
    write_text(in_draft(&d, "generation_config.json"), "[]"); /* same size */
    utime(in_draft(&d, "generation_config.json"), &earlier);
    assert_int_equal(spey_build_key(d.path, NULL, keys[5]), SPEY_OK);
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < i; j++)
            assert_string_not_equal(keys[i], keys[j]);
    /* What a build does not read does not count. */
    write_text(in_draft(&d, "README.md"), "hello");
    assert_int_equal(spey_build_key(d.path, NULL, keys[0]), SPEY_OK);
    assert_string_equal(keys[0], keys[5]);
    assert_int_equal(spey_build_key(in_draft(&d, "gone"), NULL, keys[0]), SPEY_NOT_FOUND);
    draft_free(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_demo_becomes_an_engine),
        cmocka_unit_test(weights_are_the_checkpoints),
        cmocka_unit_test(folded_weights_hold_their_parts),
        cmocka_unit_test(the_same_input_gives_the_same_bytes),
        cmocka_unit_test(the_dtype_may_be_chosen),
        cmocka_unit_test(shards_and_a_single_file_build_the_same_weights),
        cmocka_unit_test(provenance_names_every_source),
        cmocka_unit_test(generation_config_comes_before_config),
        cmocka_unit_test(a_bad_generation_config_is_refused),
        cmocka_unit_test(chat_templates_are_found),
        cmocka_unit_test(a_template_that_cannot_be_used_is_a_warning),
        cmocka_unit_test(a_tokenizer_may_be_missing_but_not_broken),
        cmocka_unit_test(folders_that_are_no_checkpoints_are_explained),
        cmocka_unit_test(tensors_of_another_architecture_are_one_error),
        cmocka_unit_test(bad_weights_are_refused),
        cmocka_unit_test(a_value_beyond_f16_is_refused),
        cmocka_unit_test(names_may_lack_the_prefix),
        cmocka_unit_test(a_tied_head_in_the_file_is_ignored),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(a_failed_build_leaves_what_was_there),
        cmocka_unit_test(running_out_of_memory_leaves_nothing),
        cmocka_unit_test(memory_does_not_grow_with_the_model),
        cmocka_unit_test(the_key_changes_with_what_it_stands_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
