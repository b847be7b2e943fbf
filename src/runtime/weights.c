#include "runtime/weights.h"

#include <string.h>

#include "base/alloc.h"
#include "base/map.h"
#include "kernels/random_normal/random_normal.h"
#include "kernels/random_words/random_words.h"
#include "kernels/registry.h"

/* Copied weights begin at multiples of this, as device memory does. */
enum { WEIGHT_ALIGN = 256 };

static bool is_copied(const spey_program *program, int i)
{
    const spey_engine_tensor *tensor = program->tensors[i];
    return tensor && (!program->device_info.host_memory || !tensor->data);
}

static uint64_t align_up(uint64_t bytes)
{
    return (bytes + WEIGHT_ALIGN - 1) & ~(uint64_t)(WEIGHT_ALIGN - 1);
}

uint64_t spey_weights_bytes(const spey_program *program)
{
    uint64_t bytes = 0;
    for (int i = 0; i < program->graph->n_weights; i++)
        if (program->tensors[i]) bytes += program->tensors[i]->bytes;
    return bytes;
}

uint64_t spey_weights_copied_bytes(const spey_program *program)
{
    uint64_t bytes = 0;
    for (int i = 0; i < program->graph->n_weights; i++)
        if (is_copied(program, i)) bytes += align_up(program->tensors[i]->bytes);
    return bytes;
}

/* ---- made-up numbers ---- */

/* How a weight is made up, from the node that reads it. */
typedef enum fill_kind {
    FILL_RANDOM,
    FILL_ONES,
    FILL_ZEROS,
    FILL_SCALES, /* of weights, and of what they multiply */
    FILL_INPUT_SCALES,
    FILL_NEVER, /* a table that only the model can compute */
} fill_kind;

static fill_kind kind_of(const spey_graph *graph, int weight)
{
    for (int i = 0; i < graph->n_nodes; i++) {
        const spey_node *node = &graph->nodes[i];
        for (int w = 0; w < node->n_weights; w++) {
            int32_t scales[2];
            int n_scales = spey_graph_scales(graph, node->weights[w], scales);
            if (n_scales > 0 && scales[0] == weight) return FILL_SCALES;
            if (n_scales > 1 && scales[1] == weight) return FILL_INPUT_SCALES;
            if (node->weights[w] != weight) continue;
            bool slopes = node->op == SPEY_GRAPH_ATTENTION && w == 0 &&
                          spey_node_int(node, SPEY_ATTR_ALIBI, 0) != 0;
            if (node->op == SPEY_GRAPH_ROPE_TABLE || slopes) return FILL_NEVER;
            if (node->op != SPEY_GRAPH_NORM && node->op != SPEY_GRAPH_ADD_NORM) return FILL_RANDOM;
            bool one = w == 0 && spey_node_number(node, SPEY_ATTR_OFFSET, 0) != 1;
            return one ? FILL_ONES : FILL_ZEROS;
        }
    }
    for (int c = 0; c < graph->n_caches; c++)
        if (graph->caches[c].scaled && graph->caches[c].scales == weight) return FILL_ONES;
    return FILL_RANDOM;
}

/* Deviation of what is made up; as E4M3 its largest numbers, more than 3 deviations away, use most of the range. */
#define WEIGHT_DEVIATION 0.019f
#define WEIGHT_DEVIATION_E4M3 100.0f
#define INPUT_SCALE 0x1p-6f

/* Two F32. */
static uint64_t twice(float x)
{
    return (uint64_t)spey_f32_bits(x) << 32 | spey_f32_bits(x);
}

static uint64_t ones_of(spey_dtype dtype)
{
    return dtype == SPEY_F32   ? twice(1)
           : dtype == SPEY_F16 ? 0x3c003c003c003c00u
                               : 0x3f803f803f803f80u;
}

static spey_status fill(const spey_program *program, const char *op, const void *args)
{
    spey_step step = { .args = args };
    SPEY_TRY(spey_kernel_choose(program->backend, op, args, &step.kernel));
    SPEY_TRY(program->backend->run(program->device, &step, 1));
    return program->backend->sync(program->device);
}

static spey_status fill_normal(const spey_program *program, const spey_random_words_args *words,
                               spey_dtype dtype)
{
    float deviation = dtype == SPEY_E4M3 ? WEIGHT_DEVIATION_E4M3 : WEIGHT_DEVIATION;
    const spey_random_normal_args args = { .rows = words->rows,
                                           .out = words->out,
                                           .seed = words->seed,
                                           .scale = deviation / SPEY_RANDOM_NORMAL_DEVIATION,
                                           .dtype = dtype };
    return fill(program, "random_normal", &args);
}

/* The weight's memory is padded to WEIGHT_ALIGN, so whole words may be written. */
/* NOLINTNEXTLINE(readability-non-const-parameter): the kernel writes there. */
static spey_status make_up(const spey_program *program, int weight, uint8_t *memory)
{
    const spey_engine_tensor *tensor = program->tensors[weight];
    fill_kind kind = kind_of(program->graph, weight);
    if (kind == FILL_NEVER)
        return SPEY_FAIL(SPEY_FORMAT, "%s: %s has no data and cannot be made up",
                         spey_engine_file_path(program->engine), tensor->name);
    if (kind == FILL_ZEROS) return SPEY_OK; /* as device memory begins */
    spey_random_words_args args = { .rows = (int64_t)((tensor->bytes + 7) / 8),
                                    .out = (uint64_t *)(void *)memory,
                                    .seed =
                                        spey_hash_bytes(tensor->name, strlen(tensor->name), 1) };
    bool is_float = spey_dtype_is_float(tensor->dtype) || tensor->dtype == SPEY_E4M3;
    if (kind == FILL_RANDOM && is_float) return fill_normal(program, &args, tensor->dtype);
    if (kind == FILL_ONES)
        args.set = ones_of(tensor->dtype);
    else if (kind == FILL_SCALES)
        args.set = twice(WEIGHT_DEVIATION / WEIGHT_DEVIATION_E4M3);
    else if (kind == FILL_INPUT_SCALES)
        args.set = twice(INPUT_SCALE);
    else
        args.keep = UINT64_MAX;
    return fill(program, "random_words", &args);
}

spey_status spey_weights_load(const spey_program *program, void *memory, const void **pointers)
{
    const spey_graph *graph = program->graph;
    uint64_t offset = 0;
    spey_status status = SPEY_OK;
    for (int i = 0; i < graph->n_weights && status == SPEY_OK; i++) {
        const spey_engine_tensor *tensor = program->tensors[i];
        pointers[i] = tensor ? tensor->data : NULL;
        if (!is_copied(program, i)) continue;
        uint8_t *at = (uint8_t *)memory + offset;
        offset += align_up(tensor->bytes);
        pointers[i] = at;
        if (tensor->data)
            status = program->backend->upload(program->device, at, tensor->data, tensor->bytes);
        else
            status = make_up(program, i, at);
    }
    return status;
}
