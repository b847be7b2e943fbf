#include "runtime/program.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "graph/graph_text.h"
#include "kernels/attention/attention.h"
#include "kernels/glu/glu.h"
#include "kernels/norm/norm.h"
#include "kernels/registry.h"

/* "cuda:1" is the plug-in "cuda" and its device 1. */
static spey_status open_device(spey_program *program, const spey_limits_plan *limits)
{
    const char *wanted = limits->device ? limits->device : "cpu";
    char name[SPEY_NAME_BYTES_MAX];
    size_t n = strcspn(wanted, ":");
    if (n == 0 || n >= sizeof(name))
        return SPEY_FAIL(SPEY_INVALID, "'%s' is not the name of a device", wanted);
    memcpy(name, wanted, n);
    name[n] = 0;
    long index = 0;
    if (wanted[n] == ':') {
        char *end;
        index = strtol(wanted + n + 1, &end, 10);
        if (end == wanted + n + 1 || *end || index < 0 || index > 1023)
            return SPEY_FAIL(SPEY_INVALID, "'%s': a number from 0 belongs behind the colon",
                             wanted);
    }
    if (limits->threads < 0) return SPEY_FAIL(SPEY_INVALID, "%d threads wanted", limits->threads);
    if (!strcmp(name, "cpu"))
        program->backend = spey_cpu_backend();
    else
        SPEY_TRY(spey_backend_open_plugin(name, &program->backend));
    const spey_device_options options = { .threads = limits->threads };
    SPEY_TRY(program->backend->device_open((int)index, &options, &program->device));
    program->backend->device_info(program->device, &program->device_info);
    return SPEY_OK;
}

static void shape_text(char *out, size_t bytes, spey_dtype dtype, int n_dims, const int64_t *dims)
{
    spey_strbuf text = { 0 };
    spey_strbuf_printf(&text, "%s [", spey_dtype_name(dtype));
    for (int i = 0; i < n_dims; i++)
        spey_strbuf_printf(&text, "%s%lld", i ? "," : "", (long long)dims[i]);
    spey_strbuf_puts(&text, "]");
    size_t n = text.len < bytes ? text.len : bytes - 1;
    if (text.data) memcpy(out, text.data, n);
    out[text.data ? n : 0] = 0;
    spey_strbuf_deinit(&text);
}

static spey_status resolve(spey_program *program, int32_t index)
{
    const spey_weight *weight = &program->graph->weights[index];
    const spey_engine_tensor *tensor = spey_engine_file_tensor(program->engine, weight->name);
    if (!tensor)
        return SPEY_FAIL(SPEY_FORMAT, "the graph reads %s, which is not there", weight->name);
    bool same = tensor->dtype == weight->dtype && tensor->n_dims == weight->n_dims;
    size_t bytes = spey_dtype_bytes(tensor->dtype);
    for (int i = 0; same && i < weight->n_dims; i++)
        same = tensor->dims[i] == weight->dims[i] && tensor->dims[i] >= 0 &&
               spey_mul_size(bytes, (size_t)tensor->dims[i], &bytes);
    if (!same) {
        char is[96], wanted[96];
        shape_text(is, sizeof(is), tensor->dtype, tensor->n_dims, tensor->dims);
        shape_text(wanted, sizeof(wanted), weight->dtype, weight->n_dims, weight->dims);
        return SPEY_FAIL(SPEY_FORMAT, "%s is %s, the graph reads it as %s", weight->name, is,
                         wanted);
    }
    if (tensor->bytes != bytes)
        return SPEY_FAIL(SPEY_FORMAT, "%s has %zu bytes, its shape needs %zu", weight->name,
                         tensor->bytes, bytes);
    if (!tensor->data) program->has_virtual_weights = true;
    program->tensors[index] = tensor;
    return SPEY_OK;
}

/* A weight that a node reads, and its scales. */
static spey_status resolve_all(spey_program *program, int32_t index)
{
    int32_t scales[2];
    if (program->tensors[index]) return SPEY_OK;
    int n_scales = spey_graph_scales(program->graph, index, scales);
    for (int i = 0; i < n_scales; i++)
        SPEY_TRY(resolve(program, scales[i]));
    return resolve(program, index);
}

static spey_status read_graph(spey_program *program)
{
    const void *text;
    size_t n;
    SPEY_TRY(spey_engine_file_section(program->engine, "graph", &text, &n));
    SPEY_TRY(spey_graph_parse("graph", text, n, &program->graph));
    spey_graph *graph = program->graph;
    program->tensors =
        spey_new_array(SPEY_PURPOSE_RUNTIME, const spey_engine_tensor *, graph->n_weights);
    if (!program->tensors) return SPEY_NOMEM;
    for (int i = 0; i < graph->n_nodes; i++)
        for (int w = 0; w < graph->nodes[i].n_weights; w++)
            SPEY_TRY(resolve_all(program, graph->nodes[i].weights[w]));
    for (int c = 0; c < graph->n_caches; c++)
        if (graph->caches[c].scaled) SPEY_TRY(resolve(program, graph->caches[c].scales));
    program->has_encoder = spey_graph_has_encoder(graph);
    const spey_value_info *output = &graph->values[graph->output];
    if (output->rows != SPEY_ROWS_OUTPUTS || output->cols != program->info->vocab_size)
        return SPEY_FAIL(SPEY_FORMAT, "the graph's output has %lld columns, the vocabulary %lld",
                         (long long)output->cols, (long long)program->info->vocab_size);
    return SPEY_OK;
}

/* On the CPU FP32 costs nothing beside the weights. Elsewhere too where the model says so, and where states are carried on:
 * what a recurrence gets in 16 bits it amplifies. */
static spey_dtype choose_activation_dtype(const spey_program *program, spey_dtype dtype)
{
    bool states = false;
    for (int g = 0; g < program->graph->n_caches; g++)
        states |= program->graph->caches[g].state > 0;
    bool wide = program->device_info.host_memory || program->info->exact || states;
    return wide ? SPEY_F32 : dtype;
}

/* Products that round their F32 inputs may as well get them rounded: the same bits from half the memory, and done once. A
 * row that takes both kinds rounds them. */
static spey_dtype choose_input_dtype(const spey_program *program, spey_dtype dtype)
{
    spey_gemm_args args = { .n = 1,
                            .k = 1,
                            .x_dtype = SPEY_F32,
                            .w_dtype = dtype,
                            .y_dtype = SPEY_F32,
                            .precision = program->precision };
    const spey_kernel *row;
    if (program->precision == SPEY_PRECISION_F32 || !program->device_info.host_memory ||
        spey_kernel_choose(program->backend, "gemm", &args, &row))
        return program->activation_dtype;
    args.x_dtype = dtype;
    return row->supports(&args) ? dtype : program->activation_dtype;
}

static bool has_row(const spey_program *program, const char *op, const void *args)
{
    const spey_kernel *row;
    return spey_kernel_choose(program->backend, op, args, &row) == SPEY_OK;
}

/* Devices that compute in E4M3 have rows that take and make it. On the CPU inputs stay as they are. */
static bool choose_rounds_inputs(const spey_program *program)
{
    if (program->device_info.host_memory) return false;
    const spey_gemm_args gemm = { .n = 64,
                                  .k = 64,
                                  .x_dtype = SPEY_E4M3,
                                  .x_pitch = 64,
                                  .w_dtype = SPEY_E4M3,
                                  .w_pitch = 64,
                                  .x_quant = SPEY_INPUT_TOKEN,
                                  .precision = program->precision,
                                  .y_dtype = program->activation_dtype,
                                  .y_pitch = 64 };
    const spey_norm_args norm = { .cols = 64,
                                  .groups = 1,
                                  .x_dtype = program->activation_dtype,
                                  .out_dtype = SPEY_E4M3,
                                  .out_pitch = 64,
                                  .out_quant = SPEY_INPUT_TOKEN };
    const spey_glu_args glu = { .cols = 64,
                                .dtype = program->activation_dtype,
                                .out_dtype = SPEY_E4M3,
                                .out_pitch = 64,
                                .out_quant = SPEY_INPUT_TOKEN };
    const spey_attention_args attention = { .n_heads = 1,
                                            .n_kv_heads = 1,
                                            .k_dim = 64,
                                            .v_dim = 64,
                                            .scale = 1,
                                            .dtype = program->activation_dtype,
                                            .out_dtype = SPEY_E4M3,
                                            .kv = { .dtype = program->activation_dtype,
                                                    .block_tokens = 16 } };
    return has_row(program, "gemm", &gemm) && has_row(program, "norm", &norm) &&
           has_row(program, "glu", &glu) && has_row(program, "attention", &attention);
}

spey_status spey_program_init(spey_program *program, const spey_engine_file *engine,
                              const spey_limits_plan *limits)
{
    *program = (spey_program){ .engine = engine, .info = spey_engine_file_info(engine) };
    spey_dtype dtype = program->info->dtype;
    spey_status status = SPEY_OK;
    if (dtype != SPEY_F32 && dtype != SPEY_F16 && dtype != SPEY_BF16)
        status =
            SPEY_FAIL(SPEY_UNSUPPORTED, "an engine of %s is not supported", spey_dtype_name(dtype));
    if (status == SPEY_OK) status = read_graph(program);
    if (status != SPEY_OK)
        status = spey_error_context(status, "%s", spey_engine_file_path(engine));
    else
        status = open_device(program, limits);
    if (status != SPEY_OK) {
        spey_program_deinit(program);
        return status;
    }
    bool exact = dtype == SPEY_F32 || (program->info->exact && program->device_info.host_memory);
    program->precision = exact ? SPEY_PRECISION_F32 : SPEY_PRECISION_16;
    program->activation_dtype = choose_activation_dtype(program, dtype);
    program->input_dtype = choose_input_dtype(program, dtype);
    program->rounds_inputs = choose_rounds_inputs(program);
    return SPEY_OK;
}

void spey_program_drop_graph(spey_program *program)
{
    spey_graph_free(program->graph);
    spey_free(program->tensors);
    program->graph = NULL;
    program->tensors = NULL;
}

void spey_program_deinit(spey_program *program)
{
    spey_program_drop_graph(program);
    if (program->device) program->backend->device_close(program->device);
    *program = (spey_program){ 0 };
}
