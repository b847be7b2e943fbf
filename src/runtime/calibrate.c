#include "runtime/calibrate.h"

#include <math.h>

#include "base/alloc.h"
#include "graph/graph_text.h"
#include "kernels/expert_linear/expert_linear.h"
#include "kernels/gemm/gemm.h"
#include "kernels/kv_append/kv_append.h"
#include "kernels/paged.h"
#include "kernels/rope/rope.h"
#include "kernels/scalar.h"
#include "runtime/runner.h"

/* A node that becomes a step, in order. */
typedef struct seen {
    const char *weight; /* of the graph; NULL: the node is no linear */
    float largest;
    const spey_node *append; /* that keeps K and V; NULL: another node */
} seen;

struct spey_calibrator {
    spey_graph *graph; /* owns the names */
    spey_runner *runner;
    seen *steps;
    int n_steps;
    float *caches[SPEY_CACHE_GROUPS_MAX]; /* [layers, 2, heads] */
};

static float largest_of(const void *x, spey_dtype dtype, int64_t rows, int64_t cols, int64_t pitch)
{
    float largest = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            float magnitude = fabsf((float)spey_load(x, dtype, r * pitch + c));
            largest = magnitude > largest ? magnitude : largest;
        }
    return largest;
}

/* What the step has put into the cache: K as it is kept, rotated. */
static void observe_cache(spey_calibrator *c, const spey_node *node, const spey_step *step)
{
    const bool rotates = node->op == SPEY_GRAPH_ROPE_APPEND;
    const spey_rope_append_args *rope = step->args;
    const spey_kv_append_args *plain = step->args;
    const spey_kv_view *kv = rotates ? &rope->kv : &plain->kv;
    const spey_ragged *batch = rotates ? rope->batch : plain->batch;
    const int64_t rows = rotates ? rope->rows : plain->rows;
    const spey_cache_group *group = &c->graph->caches[kv->group];
    float *largest = c->caches[kv->group];
    if (!largest) return;
    largest += 2 * spey_node_int(node, SPEY_ATTR_LAYER, 0) * group->heads;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t h = 0; h < group->heads; h++) {
            const int64_t s = batch->token_seq[r], i = spey_ragged_index(batch, r);
            float k = largest_of(spey_kv_k(kv, batch, s, h, i), kv->dtype, 1, group->k_dim, 0);
            float v = largest_of(spey_kv_v(kv, batch, s, h, i), kv->dtype, 1, group->v_dim, 0);
            largest[h] = fmaxf(largest[h], k);
            largest[group->heads + h] = fmaxf(largest[group->heads + h], v);
        }
}

/* After step i, whose input is still there: it does not overlap the output. */
static void observe(void *user, int i, const spey_step *step)
{
    spey_calibrator *c = user;
    SPEY_ASSERT(i < c->n_steps);
    seen *s = &c->steps[i];
    if (s->append) observe_cache(c, s->append, step);
    if (!s->weight) return;
    float largest;
    if (c->graph->weights[spey_graph_find_weight(c->graph, s->weight)].n_dims == 2) {
        const spey_gemm_args *a = step->args;
        largest = largest_of(a->x, a->x_dtype, a->rows, a->k, a->x_pitch);
    } else {
        const spey_expert_linear_args *a = step->args;
        largest =
            largest_of(a->x, a->dtype, a->rows, a->x_shared ? a->k : a->n_slots * a->k, a->x_pitch);
    }
    if (largest > s->largest) s->largest = largest;
}

static spey_status read_graph(spey_calibrator *c, const spey_engine_file *engine)
{
    const void *text;
    size_t n;
    SPEY_TRY(spey_engine_file_section(engine, "graph", &text, &n));
    SPEY_TRY(spey_graph_parse("graph", text, n, &c->graph));
    c->steps = spey_new_array(SPEY_PURPOSE_RUNTIME, seen, c->graph->n_nodes);
    if (!c->steps) return SPEY_NOMEM;
    for (int i = 0; i < c->graph->n_nodes; i++) {
        const spey_node *node = &c->graph->nodes[i];
        if (node->op == SPEY_GRAPH_SLICE) continue; /* a view: nothing runs */
        bool linear = node->op == SPEY_GRAPH_LINEAR || node->op == SPEY_GRAPH_EXPERT_LINEAR;
        bool append = node->op == SPEY_GRAPH_KV_APPEND || node->op == SPEY_GRAPH_ROPE_APPEND;
        seen *s = &c->steps[c->n_steps++];
        s->weight = linear ? c->graph->weights[node->weights[0]].name : NULL;
        s->append = append ? node : NULL;
    }
    for (int g = 0; g < c->graph->n_caches; g++) {
        const spey_cache_group *group = &c->graph->caches[g];
        if (group->state || group->source) continue;
        c->caches[g] =
            spey_new_array(SPEY_PURPOSE_RUNTIME, float, group->layers * 2 * group->heads);
        if (!c->caches[g]) return SPEY_NOMEM;
    }
    return SPEY_OK;
}

spey_status spey_calibrator_new(const spey_engine_file *engine, int64_t window, int threads,
                                spey_calibrator **out)
{
    *out = NULL;
    spey_calibrator *c = spey_new(SPEY_PURPOSE_RUNTIME, spey_calibrator);
    if (!c) return SPEY_NOMEM;
    /* Logits of every token: what is computed for outputs alone is then seen for all of them. */
    const spey_model_info *info = spey_engine_file_info(engine);
    const spey_limits_plan limits = { .threads = threads,
                                      .kv_dtype =
                                          spey_dtype_name(info->exact ? SPEY_F32 : info->dtype),
                                      .sequence_tokens_max = window,
                                      .outputs_max = window };
    spey_status status = read_graph(c, engine);
    if (!status) status = spey_runner_new(engine, &limits, &c->runner);
    if (!status) spey_runner_observe(c->runner, observe, c);
    if (status) {
        spey_calibrator_free(c);
        return status;
    }
    *out = c;
    return SPEY_OK;
}

void spey_calibrator_free(spey_calibrator *c)
{
    if (!c) return;
    spey_runner_free(c->runner);
    spey_graph_free(c->graph);
    spey_free(c->steps);
    for (int g = 0; g < SPEY_CACHE_GROUPS_MAX; g++)
        spey_free(c->caches[g]);
    spey_free(c);
}

spey_status spey_calibrator_run(spey_calibrator *c, const int32_t *ids, int64_t n)
{
    const spey_limits_plan *limits = &spey_runner_get_plan(c->runner)->limits;
    int64_t chunk_max = limits->step_tokens_max < limits->outputs_max ? limits->step_tokens_max
                                                                      : limits->outputs_max;
    spey_step_seq s = { 0 };
    SPEY_TRY(spey_kv_open(spey_runner_kv(c->runner), &s.seq));
    spey_status status = SPEY_OK;
    for (int64_t done = 0; !status && done < n; done += s.n_ids) {
        float *logits;
        s.ids = ids + done;
        s.n_ids = s.n_outputs = (int32_t)(n - done < chunk_max ? n - done : chunk_max);
        status = spey_runner_step(c->runner, &s, 1, &logits);
    }
    spey_kv_close(spey_runner_kv(c->runner), s.seq);
    return status;
}

const char *spey_calibrator_range(const spey_calibrator *c, int i, float *largest)
{
    for (int k = 0; k < c->n_steps; k++)
        if (c->steps[k].weight && i-- == 0) {
            *largest = c->steps[k].largest;
            return c->steps[k].weight;
        }
    return NULL;
}

const float *spey_calibrator_cache(const spey_calibrator *c, int cache)
{
    SPEY_ASSERT(cache >= 0 && cache < SPEY_CACHE_GROUPS_MAX);
    return c->caches[cache];
}
