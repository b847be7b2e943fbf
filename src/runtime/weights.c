#include "runtime/weights.h"

#include <string.h>

#include "base/alloc.h"
#include "base/map.h"
#include "device/pool.h"

/* Copied weights begin at multiples of this, as device memory does. */
enum { WEIGHT_ALIGN = 256, STAGING_BYTES = 8 << 20 };

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
    FILL_SCALES,
    FILL_NEVER, /* a table that only the model can compute */
} fill_kind;

static fill_kind kind_of(const spey_graph *graph, int weight)
{
    for (int i = 0; i < graph->n_nodes; i++) {
        const spey_node *node = &graph->nodes[i];
        for (int w = 0; w < node->n_weights; w++) {
            int32_t scales[2];
            int n_scales = spey_graph_scales(graph, node->weights[w], scales);
            if (n_scales && (scales[0] == weight || (n_scales > 1 && scales[1] == weight)))
                return FILL_SCALES;
            if (node->weights[w] != weight) continue;
            bool slopes = node->op == SPEY_GRAPH_ATTENTION && w == 0 &&
                          spey_node_int(node, SPEY_ATTR_ALIBI, 0) != 0;
            if (node->op == SPEY_GRAPH_ROPE_TABLE || slopes) return FILL_NEVER;
            if (node->op != SPEY_GRAPH_NORM && node->op != SPEY_GRAPH_ADD_NORM) return FILL_RANDOM;
            bool one = w == 0 && spey_node_number(node, SPEY_ATTR_OFFSET, 0) != 1;
            return one ? FILL_ONES : FILL_ZEROS;
        }
    }
    return FILL_RANDOM;
}

/* Args of the fill, run like a kernel so that all lanes share the work and the page faults. */
typedef struct fill_args {
    int64_t rows;
    uint8_t *out;
    int64_t begin, words; /* of 8 bytes */
    uint64_t seed;
    uint64_t keep, set; /* bits of a random word */
} fill_args;

/* splitmix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014). */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static void fill_run(const void *args, const spey_lane *lane)
{
    const fill_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->words, 1 << 18, &begin, &end))
        for (int64_t i = begin; i < end; i++) {
            uint64_t word = (mix(a->seed + (uint64_t)(a->begin + i)) & a->keep) | a->set;
            memcpy(a->out + i * 8, &word, 8);
        }
}

static const spey_kernel fill_kernel = { .name = "fill/bits", .run = fill_run };

/* Random sign, mantissa and lowest bit of the exponent; the other bits fixed so that 1/128 <= |x| < 1/32 (E4M3: 1 <= |x| < 2,
 * with scales of 1/64). That costs
 * one multiplication chain for eight bytes, so filling runs at the speed of memory. */
static void set_random_bits(fill_args *args, spey_dtype dtype)
{
    switch (dtype) {
    case SPEY_BF16: args->keep = 0x80ff80ff80ff80ffu, args->set = 0x3c003c003c003c00u; break;
    case SPEY_F16: args->keep = 0x87ff87ff87ff87ffu, args->set = 0x2000200020002000u; break;
    case SPEY_F32: args->keep = 0x80ffffff80ffffffu, args->set = 0x3c0000003c000000u; break;
    case SPEY_E4M3: args->keep = 0x8787878787878787u, args->set = 0x3838383838383838u; break;
    default: args->keep = UINT64_MAX, args->set = 0; break;
    }
}

static void set_ones_bits(fill_args *args, spey_dtype dtype)
{
    args->keep = 0;
    args->set = dtype == SPEY_F32   ? 0x3f8000003f800000u
                : dtype == SPEY_F16 ? 0x3c003c003c003c00u
                                    : 0x3f803f803f803f80u;
}

/* The weight's memory is padded to WEIGHT_ALIGN, so whole words may be written. */
static spey_status make_up(const spey_program *program, int weight, uint8_t *memory, void *staging)
{
    const spey_engine_tensor *tensor = program->tensors[weight];
    fill_kind kind = kind_of(program->graph, weight);
    if (kind == FILL_NEVER)
        return SPEY_FAIL(SPEY_FORMAT, "%s: %s has no data and cannot be made up",
                         spey_engine_file_path(program->engine), tensor->name);
    if (kind == FILL_ZEROS) return SPEY_OK; /* as device memory begins */
    fill_args args = { .seed = spey_hash_bytes(tensor->name, strlen(tensor->name), 1) };
    if (kind == FILL_ONES)
        set_ones_bits(&args, tensor->dtype);
    else if (kind == FILL_SCALES)
        args.set = 0x3c8000003c800000u; /* two F32 of 2^-6 */
    else
        set_random_bits(&args, tensor->dtype);
    int64_t words = (int64_t)((tensor->bytes + 7) / 8);
    if (!staging) {
        args.out = memory;
        args.words = words;
        const spey_step step = { .kernel = &fill_kernel, .args = &args };
        SPEY_TRY(program->backend->run(program->device, &step, 1));
        return program->backend->sync(program->device);
    }
    for (args.begin = 0; args.begin < words; args.begin += args.words) {
        int64_t counter = 0;
        const spey_lane lane = spey_lane_solo(&counter);
        args.out = staging;
        args.words = words - args.begin;
        if (args.words > STAGING_BYTES / 8) args.words = STAGING_BYTES / 8;
        fill_run(&args, &lane);
        SPEY_TRY(program->backend->upload(program->device, memory + args.begin * 8, staging,
                                          (size_t)args.words * 8));
    }
    return SPEY_OK;
}

spey_status spey_weights_load(const spey_program *program, void *memory, const void **pointers)
{
    const spey_graph *graph = program->graph;
    void *staging = NULL;
    if (program->has_virtual_weights && !program->device_info.host_memory) {
        staging = spey_alloc(SPEY_PURPOSE_WEIGHTS, STAGING_BYTES);
        if (!staging) return SPEY_NOMEM;
    }
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
            status = make_up(program, i, at, staging);
    }
    spey_free(staging);
    return status;
}
