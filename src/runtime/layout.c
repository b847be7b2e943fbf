#include "runtime/layout.h"

#include <string.h>

#include "base/alloc.h"
#include "kernels/patch/patch.h"
#include "kernels/registry.h"
#include "kernels/sample/sample.h"
#include "runtime/kv_file.h"
#include "runtime/weights.h"

enum { BLOCK_TOKENS_DEFAULT = 64, STEP_TOKENS_DEFAULT = 512, ENCODER_TOKENS_DEFAULT = 1024 };

/* What window groups keep behind their windows, so that drafts of so many tokens can be taken back. */
enum { ROLLBACK_TOKENS = 16 };

/* Products of sizes that no memory holds are all the same. */
static uint64_t mul_sat(uint64_t a, uint64_t b)
{
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

static uint64_t add_sat(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t div_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* ---- limits ---- */

static spey_status check_range(const char *what, int64_t value, int64_t max)
{
    if (value >= 0 && value <= max) return SPEY_OK;
    return SPEY_FAIL(SPEY_INVALID, "%s is %lld, it may be 1 to %lld (0: default)", what,
                     (long long)value, (long long)max);
}

static spey_status check_limits(const spey_program *program, const spey_limits_plan *limits)
{
    int64_t context = program->info->context_length;
    if (context < 1 || context > SPEY_POSITIONS_MAX)
        return SPEY_FAIL(SPEY_FORMAT, "the engine's context length is %lld", (long long)context);
    SPEY_TRY(check_range("sequences_max", limits->sequences_max, SPEY_SEQUENCES_MAX));
    SPEY_TRY(check_range("step_tokens_max", limits->step_tokens_max, SPEY_STEP_TOKENS_MAX));
    SPEY_TRY(check_range("outputs_max", limits->outputs_max, SPEY_STEP_TOKENS_MAX));
    SPEY_TRY(check_range("kv_block_tokens", limits->kv_block_tokens, SPEY_KV_BLOCK_TOKENS_MAX));
    if (limits->prompt_table_tokens_max < 0 ||
        limits->prompt_table_tokens_max > SPEY_PROMPT_TABLE_TOKENS_MAX)
        return SPEY_FAIL(SPEY_INVALID, "prompt_table_tokens_max is %lld, it may be 0 to %d",
                         (long long)limits->prompt_table_tokens_max, SPEY_PROMPT_TABLE_TOKENS_MAX);
    if (limits->prompt_table_tokens_max && program->has_encoder)
        return SPEY_FAIL(SPEY_UNSUPPORTED,
                         "prompt_table_tokens_max is %lld, but the model has an encoder, and its "
                         "input is made of tokens alone",
                         (long long)limits->prompt_table_tokens_max);
    SPEY_TRY_CTX(check_range("sequence_tokens_max", limits->sequence_tokens_max, context),
                 "the model was made for %lld positions", (long long)context);
    return SPEY_OK;
}

static spey_status choose_kv_dtype(spey_layout *layout, const spey_program *program)
{
    static const struct {
        const char *name;
        spey_dtype dtype;
    } kinds[] = { { "f32", SPEY_F32 },
                  { "f16", SPEY_F16 },
                  { "bf16", SPEY_BF16 },
                  { "fp8", SPEY_E4M3 },
                  { "int8", SPEY_I8 } };
    spey_limits_plan *limits = &layout->plan.limits;
    const char *name = limits->kv_dtype;
    if (!name && program->info->kv_dtype[0]) name = program->info->kv_dtype;
    if (!name) name = spey_dtype_name(program->info->exact ? SPEY_F32 : program->info->dtype);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(name, kinds[i].name) != 0) continue;
        layout->kv_dtype = kinds[i].dtype;
        limits->kv_dtype = kinds[i].name;
        return SPEY_OK;
    }
    return SPEY_FAIL(SPEY_INVALID, "kv_dtype is '%s', it may be f32, f16, bf16, fp8 or int8", name);
}

/* ---- KV cache ---- */

static void shape_pools(spey_layout *layout, const spey_program *program)
{
    int64_t tokens = layout->plan.limits.kv_block_tokens;
    int64_t element = (int64_t)spey_dtype_bytes(layout->kv_dtype);
    for (int g = 0; g < program->graph->n_caches; g++) {
        const spey_cache_group *group = &program->graph->caches[g];
        spey_kv_pool *pool = &layout->pools[g];
        if (group->state) {
            /* Never in 16 bits: its rounding errors would add up over a whole sequence. */
            pool->layer_bytes = (group->state * (int64_t)sizeof(float) + 63) & ~(int64_t)63;
            pool->block_bytes = pool->layer_bytes * group->layers;
            layout->plan.state_bytes += (uint64_t)pool->block_bytes;
            continue;
        }
        /* Limits of base/limits.h keep each factor under 2^11 but the element: no product overflows. */
        pool->k_token_bytes = group->k_dim * element;
        pool->v_token_bytes = group->v_dim * element;
        pool->k_head_bytes = pool->k_token_bytes * tokens;
        pool->v_head_bytes = pool->v_token_bytes * tokens;
        pool->k_bytes = pool->k_head_bytes * group->heads;
        pool->layer_bytes = pool->k_bytes + pool->v_head_bytes * group->heads;
        int64_t layers = group->scratch ? 1 : group->layers;
        pool->block_bytes = (pool->layer_bytes * layers + 63) & ~(int64_t)63;
        pool->scales_offset = pool->block_bytes;
        if (layout->kv_dtype == SPEY_I8) {
            int64_t scales = 2 * layers * group->heads * tokens * (int64_t)sizeof(float);
            pool->block_bytes += (scales + 63) & ~(int64_t)63;
        }
        if (!group->source) layout->plan.kv_block_bytes += (uint64_t)pool->block_bytes;
    }
}

/* K and V depend on how long their sequence has become: others cannot begin with them. */
static bool rotates_by_length(const spey_program *program, int64_t sequence_tokens_max)
{
    const spey_graph *graph = program->graph;
    for (int i = 0; i < graph->n_nodes; i++) {
        const spey_node *node = &graph->nodes[i];
        int64_t original = 0;
        if (node->op == SPEY_GRAPH_ROPE_TABLE)
            original = spey_node_int(node, SPEY_ATTR_ORIGINAL, 0);
        if (original && original < sequence_tokens_max) return true;
    }
    return false;
}

/* Every sequence may have an input of its own: admission does not look at these groups. */
static int32_t cross_blocks(const spey_layout *layout)
{
    const spey_limits_plan *limits = &layout->plan.limits;
    int64_t one = div_up(layout->plan.source_tokens_max, limits->kv_block_tokens);
    return (int32_t)min64(one * limits->sequences_max, INT32_MAX);
}

/* How the cache is laid out when groups without a window have n_blocks of it. Groups with one get no more than all
 * sequences can hold. */
static spey_kv_limits kv_limits(const spey_layout *layout, const spey_program *program,
                                int64_t n_blocks)
{
    const spey_limits_plan *limits = &layout->plan.limits;
    int64_t all = limits->sequences_max * limits->sequence_tokens_max;
    int64_t step = max64(min64(STEP_TOKENS_DEFAULT, all), limits->sequences_max);
    spey_kv_limits kv = { .sequences_max = limits->sequences_max,
                          .sequence_tokens_max = limits->sequence_tokens_max,
                          .step_tokens_max =
                              (1 + spey_limits_are_ahead(limits)) *
                              (limits->step_tokens_max ? limits->step_tokens_max : step),
                          .rollback_tokens = ROLLBACK_TOKENS,
                          .cross_tokens_max = layout->plan.source_tokens_max,
                          .block_tokens = limits->kv_block_tokens,
                          .n_groups = program->graph->n_caches,
                          .reuse = !limits->no_kv_reuse && !program->has_encoder &&
                                   !rotates_by_length(program, limits->sequence_tokens_max) };
    for (int g = 0; g < kv.n_groups; g++) {
        const spey_cache_group *group = &program->graph->caches[g];
        spey_kv_group_limits *of = &kv.groups[g];
        *of = (spey_kv_group_limits){ SPEY_KV_TOKENS, (int32_t)n_blocks, group->window };
        if (group->window)
            of->n_blocks = (int32_t)min64(
                n_blocks, spey_kv_window_blocks(&kv, group->window, limits->sequences_max));
        if (group->state > 0)
            *of = (spey_kv_group_limits){ SPEY_KV_STATE, limits->sequences_max, 0 };
        if (group->source) *of = (spey_kv_group_limits){ SPEY_KV_CROSS, cross_blocks(layout), 0 };
    }
    return kv;
}

static uint64_t pool_bytes(const spey_layout *layout, const spey_program *program, int64_t n_blocks)
{
    uint64_t bytes = 0;
    spey_kv_limits kv = kv_limits(layout, program, n_blocks);
    for (int g = 0; g < kv.n_groups; g++)
        if (kv.groups[g].kind == SPEY_KV_TOKENS)
            bytes = add_sat(bytes, mul_sat((uint64_t)kv.groups[g].n_blocks,
                                           (uint64_t)layout->pools[g].block_bytes));
    return bytes;
}

/* The largest n_blocks up to `most` whose pools take no more than `budget`. */
static int64_t blocks_within(const spey_layout *layout, const spey_program *program, int64_t most,
                             uint64_t budget)
{
    int64_t low = 0, high = most;
    while (low < high) {
        int64_t middle = high - (high - low) / 2;
        if (pool_bytes(layout, program, middle) <= budget)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static void plan_kv_groups(spey_layout *layout)
{
    spey_plan *plan = &layout->plan;
    for (int g = 0; g < layout->kv.n_groups; g++) {
        const spey_kv_group_limits *group = &layout->kv.groups[g];
        if (group->kind == SPEY_KV_CROSS)
            plan->source_bytes =
                add_sat(plan->source_bytes,
                        mul_sat((uint64_t)group->n_blocks, (uint64_t)layout->pools[g].block_bytes));
        if (group->kind != SPEY_KV_TOKENS) continue;
        plan->kv_groups[plan->n_kv_groups++] =
            (spey_plan_kv_group){ group->n_blocks, (uint64_t)layout->pools[g].block_bytes,
                                  group->window };
    }
}

/* Evicted blocks go there, of all groups alike. */
static void size_host_memory(spey_layout *layout)
{
    spey_plan *plan = &layout->plan;
    uint64_t blocks = 0;
    if (plan->kv_block_bytes && !plan->state_bytes && layout->kv.reuse) {
        blocks = plan->limits.kv_host_bytes / plan->kv_block_bytes;
        if (!blocks && plan->limits.kv_file_bytes) blocks = SPEY_KV_FILE_HOST_BLOCKS;
    }
    layout->kv.host_blocks = (int32_t)(blocks < INT32_MAX / 4 ? blocks : INT32_MAX / 4);
    plan->limits.kv_host_bytes = (uint64_t)layout->kv.host_blocks * plan->kv_block_bytes;
}

/* What sequences_max full sequences hold. `length`: of one, 0: the model's. */
static int64_t blocks_wanted(const spey_program *program, const spey_limits_plan *limits,
                             int64_t length)
{
    int64_t one =
        div_up(length > 0 ? length : program->info->context_length, limits->kv_block_tokens);
    return min64(one * limits->sequences_max, INT32_MAX);
}

/* How many blocks the pools have, and with it how long a sequence may be. */
static spey_status size_pools(spey_layout *layout, const spey_program *program)
{
    spey_plan *plan = &layout->plan;
    spey_limits_plan *limits = &plan->limits;
    int64_t tokens = limits->kv_block_tokens;
    bool length_given = limits->sequence_tokens_max > 0, bytes_given = limits->kv_bytes > 0;
    if (!length_given) limits->sequence_tokens_max = program->info->context_length;
    int64_t one = div_up(limits->sequence_tokens_max, tokens); /* blocks of a full sequence */
    int64_t all = blocks_wanted(program, limits, limits->sequence_tokens_max);
    uint64_t budget = bytes_given ? limits->kv_bytes : plan->available_bytes / 4;
    int64_t held = blocks_within(layout, program, all, budget);
    int64_t least = length_given ? one : 1;
    if (!bytes_given) held = max64(held, least);
    if (held < least) {
        char given[SPEY_BYTES_TEXT], needed[SPEY_BYTES_TEXT];
        return SPEY_FAIL(SPEY_LIMIT, "kv_bytes is %s, but one sequence of %lld tokens needs %s",
                         spey_bytes_text(given, budget),
                         (long long)min64(limits->sequence_tokens_max, least * tokens),
                         spey_bytes_text(needed, pool_bytes(layout, program, least)));
    }
    limits->sequence_tokens_max = min64(limits->sequence_tokens_max, held * tokens);
    limits->kv_bytes = pool_bytes(layout, program, held);
    plan->kv_blocks = held;
    plan->kv_tokens = held * tokens;
    layout->kv = kv_limits(layout, program, held);
    size_host_memory(layout);
    plan_kv_groups(layout);
    return SPEY_OK;
}

/* An encoder sees all of its input at once. */
static void limit_source(spey_layout *layout, int64_t context)
{
    spey_limits_plan *limits = &layout->plan.limits;
    if (!limits->step_tokens_max)
        limits->step_tokens_max =
            max64(min64(ENCODER_TOKENS_DEFAULT, context), limits->sequences_max);
    layout->plan.source_tokens_max = min64(limits->step_tokens_max, context);
}

static spey_status fill_defaults(spey_layout *layout, const spey_program *program)
{
    spey_plan *plan = &layout->plan;
    spey_limits_plan *limits = &plan->limits;
    if (!limits->device) limits->device = "cpu";
    limits->threads = program->device_info.compute_units;
    if (limits->ahead == SPEY_AHEAD_QUEUED)
        limits->ahead =
            program->backend->fetch_begin && !program->has_encoder ? SPEY_AHEAD_ON : SPEY_AHEAD_OFF;
    plan->available_bytes = program->device_info.memory_free_bytes;
    if (limits->memory_bytes_max && limits->memory_bytes_max < plan->available_bytes)
        plan->available_bytes = limits->memory_bytes_max;
    if (!limits->sequences_max) limits->sequences_max = 1;
    SPEY_TRY(choose_kv_dtype(layout, program));
    if (!limits->kv_block_tokens) {
        int64_t longest = limits->sequence_tokens_max ? limits->sequence_tokens_max
                                                      : program->info->context_length;
        limits->kv_block_tokens = (int32_t)min64(BLOCK_TOKENS_DEFAULT, longest);
    }
    shape_pools(layout, program);
    if (program->has_encoder) limit_source(layout, program->info->context_length);
    SPEY_TRY(size_pools(layout, program));
    int64_t most = limits->sequences_max * limits->sequence_tokens_max;
    if (!limits->step_tokens_max)
        limits->step_tokens_max = max64(min64(STEP_TOKENS_DEFAULT, most), limits->sequences_max);
    if (limits->step_tokens_max < limits->sequences_max)
        return SPEY_FAIL(SPEY_INVALID,
                         "step_tokens_max is %lld, each of %d sequences needs one token",
                         (long long)limits->step_tokens_max, limits->sequences_max);
    if (!limits->outputs_max) limits->outputs_max = limits->sequences_max;
    limits->outputs_max = min64(limits->outputs_max, limits->step_tokens_max);
    return SPEY_OK;
}

/* ---- memory ---- */

static size_t take(size_t *offset, uint64_t n)
{
    size_t at = *offset;
    *offset = add_sat(at, add_sat(mul_sat(n, sizeof(int32_t)), 63)) & ~(size_t)63;
    return at;
}

/* What the rules of a step may point to: histories and masks of everyone, as far as they are not more than that. */
enum { RULE_IDS_MAX = 1 << 20, RULE_IDS_MORE = 256, MASK_WORDS_MAX = 4 << 20, TOPS_MAX = 1 << 15 };

/* Steps with more changes than that are no decode steps. */
enum { PATCHES_MAX = 8192 };

static int64_t rule_ids_max(const spey_limits_plan *limits, const spey_program *program)
{
    if (program->device_info.host_memory) return 0;
    int64_t each = limits->sequence_tokens_max + RULE_IDS_MORE;
    return min64(RULE_IDS_MAX, limits->outputs_max * each);
}

static void lay_out_tables(spey_layout *layout, const spey_program *program)
{
    const spey_limits_plan *limits = &layout->plan.limits;
    spey_table_layout *tables = &layout->tables;
    uint64_t tokens = (uint64_t)limits->step_tokens_max, seqs = (uint64_t)limits->sequences_max;
    uint64_t outputs = (uint64_t)limits->outputs_max;
    size_t offset = 0;
    tables->rule_ids_max = rule_ids_max(limits, program);
    const uint64_t n_rules = tables->rule_ids_max > 0; /* of a row */
    tables->mask_words = 2 * div_up(program->info->vocab_size, 64);
    if (n_rules)
        tables->masks_max = min64(MASK_WORDS_MAX / tables->mask_words, limits->outputs_max);
    tables->ids = take(&offset, tokens);
    tables->positions = take(&offset, tokens);
    tables->token_seq = take(&offset, tokens);
    tables->seq_start = take(&offset, seqs + 1);
    tables->kv_len = take(&offset, seqs);
    tables->source_len = take(&offset, seqs);
    tables->output_rows = take(&offset, outputs);
    tables->link_places = take(&offset, spey_limits_are_ahead(limits) ? seqs : 0);
    tables->link_rows = take(&offset, spey_limits_are_ahead(limits) ? seqs : 0);
    tables->pitch = 1; /* of a state */
    if (layout->plan.kv_block_bytes)
        tables->pitch = div_up(max64(limits->sequence_tokens_max, layout->plan.source_tokens_max),
                               limits->kv_block_tokens);
    for (int g = 0; g < layout->kv.n_groups; g++)
        tables->groups[g] = take(&offset, mul_sat(seqs, (uint64_t)tables->pitch));
    tables->rules = take(&offset, mul_sat(outputs, n_rules * sizeof(spey_sample_rule) / 4));
    tables->rule_ids = take(&offset, (uint64_t)tables->rule_ids_max);
    tables->masks = take(&offset, (uint64_t)(tables->masks_max * tables->mask_words));
    if (!program->device_info.host_memory && tables->rule_ids / sizeof(int32_t) <= INT32_MAX)
        tables->patches_max = PATCHES_MAX;
    tables->patches =
        take(&offset, (uint64_t)tables->patches_max * sizeof(spey_patch) / sizeof(int32_t));
    tables->found = take(&offset, outputs);
    tables->logprobs = take(&offset, mul_sat(outputs, n_rules));
    if (n_rules) tables->tops_max = min64(TOPS_MAX, limits->outputs_max * SPEY_LOGPROBS_MAX);
    tables->tops = take(&offset, 2 * (uint64_t)tables->tops_max);
    tables->bytes = offset;
}

static void add_line(spey_plan *plan, const char *what, uint64_t bytes, bool counted)
{
    SPEY_ASSERT(plan->n_lines < SPEY_PLAN_LINES_MAX);
    if (!bytes) return;
    plan->lines[plan->n_lines++] =
        (spey_plan_line){ .what = what, .bytes = bytes, .counted = counted };
    if (counted) plan->total_bytes = add_sat(plan->total_bytes, bytes);
}

/* What the runner keeps of two steps between submit and wait, beside what the device reads. */
static uint64_t under_way_bytes(const spey_layout *layout, const spey_program *program)
{
    const spey_limits_plan *limits = &layout->plan.limits;
    uint64_t copies = (uint64_t)spey_kv_copies_max(&layout->kv) * sizeof(spey_kv_copy);
    uint64_t one = copies;
    if (program->device_info.host_memory)
        one = add_sat(one, add_sat(layout->tables.bytes, layout->prompt_rows_bytes));
    return spey_limits_are_ahead(limits) ? mul_sat(one, 2) : 0;
}

static void add_lines(spey_layout *layout, const spey_program *program)
{
    spey_plan *plan = &layout->plan;
    uint64_t copied = spey_weights_copied_bytes(program);
    const char *kept =
        program->has_virtual_weights ? "weights (random)" : "weights (on the device)";
    if (!copied)
        add_line(plan, "weights (mapped from the file)", spey_weights_bytes(program), false);
    add_line(plan, kept, copied, true);
    add_line(plan, "kv cache", plan->limits.kv_bytes, true);
    add_line(plan, "kv cache (host memory)", plan->limits.kv_host_bytes,
             program->device_info.host_memory);
    add_line(plan, "states", mul_sat(plan->state_bytes, (uint64_t)plan->limits.sequences_max),
             true);
    add_line(plan, "encoder's kv cache", plan->source_bytes, true);
    add_line(plan, "activations", layout->arena_bytes, true);
    add_line(plan, "workspace", layout->sizes.workspace_bytes, true);
    add_line(plan, "logits", layout->logits_bytes, true);
    add_line(plan, "prompt tables", layout->prompt_rows_bytes, true);
    uint64_t tables = add_sat(layout->tables.bytes, spey_kv_cache_bytes(&layout->kv));
    tables = add_sat(tables, under_way_bytes(layout, program));
    if (layout->kv.host_blocks && plan->limits.kv_file_bytes)
        tables =
            add_sat(tables, spey_kv_slots_memory(plan->limits.kv_file_bytes, plan->kv_block_bytes));
    add_line(plan, "tables", add_sat(tables, spey_binding_bytes(layout->sizes.n_steps)), true);
}

/* End the arena where the logits begin: they lie behind everything else. */
static void cut_arena(spey_layout *layout, const spey_program *program)
{
    const spey_placement *places = layout->memplan->values;
    spey_value logits = places[program->graph->output].storage;
    layout->arena_bytes = places[logits].offset;
    for (int v = 0; v < layout->memplan->n_values; v++)
        SPEY_ASSERT(places[v].storage == logits || places[v].offset < layout->arena_bytes);
}

/* A device without such a row is found out when the runner is made. */
static size_t sample_workspace(const spey_layout *layout, const spey_program *program)
{
    const spey_sample_args args = { .rows = layout->plan.limits.outputs_max,
                                    .cols = program->info->vocab_size,
                                    .n_ids = layout->tables.rule_ids_max };
    const spey_kernel *row;
    if (!args.n_ids || spey_kernel_choose(program->backend, "sample", &args, &row)) return 0;
    return row->workspace ? row->workspace(&args) : 0;
}

static spey_status lay_out(spey_layout *layout, const spey_program *program)
{
    const spey_limits_plan *limits = &layout->plan.limits;
    SPEY_TRY(fill_defaults(layout, program));
    layout->memplan_limits =
        (spey_memplan_limits){ .tokens_max = limits->step_tokens_max,
                               .outputs_max = limits->outputs_max,
                               .element_bytes = spey_dtype_bytes(program->activation_dtype),
                               .input_bytes = program->input_dtype == program->activation_dtype
                                                  ? 0
                                                  : spey_dtype_bytes(program->input_dtype),
                               .rounds_inputs = program->rounds_inputs,
                               .in_place = !limits->no_in_place };
    SPEY_TRY(spey_memplan_new(program->graph, &layout->memplan_limits, &layout->memplan));
    SPEY_TRY(spey_memplan_check(program->graph, &layout->memplan_limits, layout->memplan));
    cut_arena(layout, program);
    lay_out_tables(layout, program);
    layout->logits_bytes = mul_sat(
        mul_sat((uint64_t)limits->outputs_max, (uint64_t)program->info->vocab_size), sizeof(float));
    if (limits->prompt_table_tokens_max) /* every token of a step may be such a row */
        layout->prompt_rows_bytes = mul_sat(
            mul_sat((uint64_t)limits->step_tokens_max, (uint64_t)program->info->hidden_size),
            sizeof(float));
    spey_binding binding;
    SPEY_TRY(spey_bind(program, layout, NULL, &binding));
    layout->sizes = binding.sizes;
    size_t workspace = sample_workspace(layout, program);
    if (workspace > layout->sizes.workspace_bytes) layout->sizes.workspace_bytes = workspace;
    spey_binding_deinit(&binding);
    add_lines(layout, program);
    return SPEY_OK;
}

static spey_status lay_out_once(spey_layout *layout, const spey_program *program,
                                const spey_limits_plan *limits)
{
    *layout = (spey_layout){ .plan.limits = *limits };
    spey_status status = check_limits(program, limits);
    if (status == SPEY_OK) status = lay_out(layout, program);
    if (status != SPEY_OK) spey_layout_deinit(layout);
    return status;
}

/* A default pool is a quarter of what is free, which on the host others use too. A device's own memory is there for the
 * plan: what nothing else of it needs goes to the pool, but for a tenth that libraries and growth of the rest may take. */
static void fill_device(spey_layout *layout, const spey_program *program,
                        const spey_limits_plan *limits)
{
    const spey_plan *plan = &layout->plan;
    const bool whole =
        plan->kv_blocks == blocks_wanted(program, &plan->limits, limits->sequence_tokens_max);
    uint64_t other = plan->total_bytes - plan->limits.kv_bytes;
    uint64_t room = plan->available_bytes > other ? plan->available_bytes - other : 0;
    spey_limits_plan full = *limits;
    full.kv_bytes = room / 10 * 9;
    if (limits->kv_bytes || program->device_info.host_memory) return;
    if (spey_layout_fits(layout) && (whole || full.kv_bytes <= plan->limits.kv_bytes)) return;
    spey_layout wide;
    if (lay_out_once(&wide, program, &full) != SPEY_OK) return;
    if (!spey_layout_fits(&wide)) {
        spey_layout_deinit(&wide);
        return;
    }
    spey_layout_deinit(layout);
    *layout = wide;
}

spey_status spey_layout_init(spey_layout *layout, const spey_program *program,
                             const spey_limits_plan *limits)
{
    SPEY_TRY(lay_out_once(layout, program, limits));
    fill_device(layout, program, limits);
    return SPEY_OK;
}

void spey_layout_deinit(spey_layout *layout)
{
    spey_memplan_free(layout->memplan);
    *layout = (spey_layout){ 0 };
}

bool spey_layout_fits(const spey_layout *layout)
{
    return layout->plan.total_bytes <= layout->plan.available_bytes;
}
