#include "interpreter.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/map.h"
#include "base/rng.h"

struct interpreter {
    const spey_graph *graph;
    interpreter_options options;
    float **weights;        /* of the graph, where used */
    spey_placement *places; /* of the values */
    uint8_t *arena;
    double **k, **v; /* [sequence * n_slots + slot]: rows of a layer's cache */
    int64_t n_slots;
    int64_t *lengths;            /* of the sequences before this step */
    int64_t *source_lengths;     /* of what the encoder has seen of them */
    int64_t *positions, *kv_len; /* of this step, per token and per sequence */
    const interpreter_step_args *step;
};

static void *make(size_t n, size_t item_bytes)
{
    void *p = spey_alloc_array(SPEY_PURPOSE_GENERAL, n, item_bytes);
    SPEY_ASSERT(p != NULL);
    return p;
}

/* ---- weights ---- */

int64_t interpreter_elements(const spey_weight *weight)
{
    int64_t n = 1;
    for (int d = 0; d < weight->n_dims; d++)
        n *= weight->dims[d];
    return n;
}

void read_random_weight(void *context, const spey_weight *weight, float *out)
{
    (void)context;
    if (weight->source.values) {
        memcpy(out, weight->source.values, (size_t)interpreter_elements(weight) * sizeof *out);
        return;
    }
    spey_rng rng = { .seed = spey_hash_bytes(weight->name, strlen(weight->name), 1) };
    double scale = weight->n_dims == 2 ? 1 / sqrt((double)weight->dims[1]) : 0.2;
    double centre = weight->n_dims == 1 ? 0.7 : 0;
    for (int64_t i = 0; i < interpreter_elements(weight); i++)
        out[i] = (float)(centre + scale * spey_rng_normal(&rng));
}

static void load_weights(interpreter *in)
{
    const spey_graph *graph = in->graph;
    bool *used = make((size_t)graph->n_weights, sizeof *used);
    spey_graph_mark_weights(graph, used);
    for (int w = 0; w < graph->n_weights; w++) {
        const spey_weight *weight = &graph->weights[w];
        if (!used[w]) continue;
        in->weights[w] = make((size_t)interpreter_elements(weight), sizeof(float));
        if (!weight->n_parts) in->options.read(in->options.context, weight, in->weights[w]);
        float *at = in->weights[w];
        for (int p = 0; p < weight->n_parts; p++) {
            const spey_weight *part = &graph->weights[weight->parts[p]];
            in->options.read(in->options.context, part, at);
            at += interpreter_elements(part);
        }
    }
    spey_free(used);
}

/* ---- memory ---- */

static void place_values(interpreter *in)
{
    const spey_graph *graph = in->graph;
    uint64_t bytes = 0;
    for (int v = 0; v < graph->n_values; v++) {
        in->places[v] =
            (spey_placement){ .offset = bytes, .pitch = graph->values[v].cols, .storage = v };
        bytes += (uint64_t)(in->options.tokens_max * graph->values[v].cols) * sizeof(double);
    }
    if (in->options.plan) {
        bytes = in->options.plan->arena_bytes;
        memcpy(in->places, in->options.plan->values, (size_t)graph->n_values * sizeof *in->places);
    }
    in->arena = make(bytes, 1);
    memset(in->arena, 0xff, bytes); /* NaN: what is not written must not be read */
}

interpreter *interpreter_new(const spey_graph *graph, const interpreter_options *options)
{
    interpreter *in = make(1, sizeof *in);
    in->graph = graph;
    in->options = *options;
    in->weights = make((size_t)graph->n_weights, sizeof *in->weights);
    in->places = make((size_t)graph->n_values, sizeof *in->places);
    in->lengths = make((size_t)options->n_seqs, sizeof *in->lengths);
    in->source_lengths = make((size_t)options->n_seqs, sizeof *in->source_lengths);
    in->kv_len = make((size_t)options->n_seqs, sizeof *in->kv_len);
    in->positions = make((size_t)options->tokens_max, sizeof *in->positions);
    load_weights(in);
    place_values(in);
    for (int c = 0; c < graph->n_caches; c++)
        in->n_slots += graph->caches[c].layers;
    size_t n = (size_t)(in->n_slots * options->n_seqs);
    in->k = make(n, sizeof *in->k);
    in->v = make(n, sizeof *in->v);
    for (int s = 0, i = 0; s < options->n_seqs; s++)
        for (int c = 0; c < graph->n_caches; c++)
            for (int64_t l = 0; l < graph->caches[c].layers; l++, i++) {
                if (graph->caches[c].state) {
                    in->k[i] = make((size_t)graph->caches[c].state, sizeof(double));
                    continue;
                }
                size_t rows = (size_t)(options->tokens_max * graph->caches[c].heads);
                in->k[i] = make(rows * (size_t)graph->caches[c].k_dim, sizeof(double));
                in->v[i] = make(rows * (size_t)graph->caches[c].v_dim, sizeof(double));
            }
    return in;
}

void interpreter_free(interpreter *in)
{
    if (!in) return;
    for (int w = 0; w < in->graph->n_weights; w++)
        spey_free(in->weights[w]);
    for (int64_t i = 0; i < in->n_slots * in->options.n_seqs; i++) {
        spey_free(in->k[i]);
        spey_free(in->v[i]);
    }
    spey_free(in->weights);
    spey_free(in->places);
    spey_free(in->arena);
    spey_free(in->k);
    spey_free(in->v);
    spey_free(in->lengths);
    spey_free(in->source_lengths);
    spey_free(in->kv_len);
    spey_free(in->positions);
    spey_free(in);
}

static double *row_of(const interpreter *in, spey_value value, int64_t row)
{
    const spey_placement *place = &in->places[value];
    return (double *)(void *)(in->arena + place->offset) + row * place->pitch;
}

static float *table_row(const interpreter *in, spey_value value, int64_t row)
{
    const spey_placement *place = &in->places[value];
    return (float *)(void *)(in->arena + place->offset) + row * place->pitch;
}

static int64_t rows_of(const interpreter *in, spey_value value)
{
    bool outputs = in->graph->values[value].rows == SPEY_ROWS_OUTPUTS;
    return outputs ? in->step->n_outputs : in->step->n_tokens;
}

static const float *weight_of(const interpreter *in, const spey_node *node, int i)
{
    return i < node->n_weights ? in->weights[node->weights[i]] : NULL;
}

static double **cache_of(const interpreter *in, double **rows, const spey_node *node, int seq)
{
    int cache = (int)spey_node_int(node, SPEY_ATTR_CACHE, 0);
    bool one = in->graph->caches[cache].scratch; /* all layers in the memory of the first */
    int64_t slot = one ? 0 : spey_node_int(node, SPEY_ATTR_LAYER, 0);
    for (int c = 0; c < cache; c++)
        slot += in->graph->caches[c].layers;
    return &rows[seq * in->n_slots + slot];
}

/* ---- ops ---- */

static double activate(const char *act, double x)
{
    if (strcmp(act, "silu") == 0) return x / (1 + exp(-x));
    if (strcmp(act, "gelu") == 0) return 0.5 * x * (1 + erf(x / sqrt(2.0)));
    if (strcmp(act, "gelu_tanh") == 0)
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    if (strcmp(act, "relu") == 0) return x > 0 ? x : 0;
    if (strcmp(act, "relu2") == 0) return x > 0 ? x * x : 0;
    if (strcmp(act, "sigmoid") == 0) return 1 / (1 + exp(-x));
    if (strcmp(act, "tanh") == 0) return tanh(x);
    if (strcmp(act, "quick_gelu") == 0) return x / (1 + exp(-1.702 * x));
    SPEY_ASSERT(strcmp(act, "none") == 0);
    return x;
}

static void run_embed(interpreter *in, const spey_node *node)
{
    const float *table = weight_of(in, node, 0);
    int64_t cols = in->graph->values[node->outputs[0]].cols;
    double scale = spey_node_number(node, SPEY_ATTR_SCALE, 1);
    bool positions = strcmp(spey_node_text(node, SPEY_ATTR_SOURCE, "ids"), "positions") == 0;
    for (int64_t r = 0; r < in->step->n_tokens; r++) {
        int64_t number = positions ? in->positions[r] : in->step->ids[r];
        const float *from = table + (number + spey_node_int(node, SPEY_ATTR_BEGIN, 0)) * cols;
        for (int64_t c = 0; c < cols; c++)
            row_of(in, node->outputs[0], r)[c] = scale * (double)from[c];
    }
}

static void norm_row(const interpreter *in, const spey_node *node, const double *x, double *out,
                     int64_t cols)
{
    int64_t groups = spey_node_int(node, SPEY_ATTR_GROUPS, 1), n = cols / groups;
    const float *weight = weight_of(in, node, 0), *bias = weight_of(in, node, 1);
    bool layer = strcmp(spey_node_text(node, SPEY_ATTR_KIND, ""), "layer") == 0;
    for (int64_t g = 0; g < groups; g++) {
        double mean = 0, squares = 0;
        for (int64_t i = 0; layer && i < n; i++)
            mean += x[g * n + i] / (double)n;
        for (int64_t i = 0; i < n; i++)
            squares += (x[g * n + i] - mean) * (x[g * n + i] - mean) / (double)n;
        double scale = 1 / sqrt(squares + spey_node_number(node, SPEY_ATTR_EPS, 0));
        for (int64_t i = 0; i < n; i++) {
            double w = weight ? (double)weight[i] + spey_node_number(node, SPEY_ATTR_OFFSET, 0) : 1;
            out[g * n + i] = (x[g * n + i] - mean) * scale * w + (bias ? (double)bias[i] : 0);
        }
    }
}

static void run_norm(interpreter *in, const spey_node *node)
{
    int64_t cols = in->graph->values[node->inputs[0]].cols;
    double *sum = make((size_t)cols, sizeof *sum);
    bool adds = node->op == SPEY_GRAPH_ADD_NORM;
    for (int64_t r = 0; r < rows_of(in, node->inputs[0]); r++) {
        for (int64_t c = 0; c < cols; c++) {
            sum[c] = row_of(in, node->inputs[0], r)[c];
            if (adds) sum[c] += row_of(in, node->inputs[1], r)[c];
        }
        if (adds) memcpy(row_of(in, node->outputs[0], r), sum, (size_t)cols * sizeof *sum);
        norm_row(in, node, sum, row_of(in, node->outputs[adds], r), cols);
    }
    spey_free(sum);
}

static void run_linear(interpreter *in, const spey_node *node)
{
    const float *w = weight_of(in, node, 0), *bias = weight_of(in, node, 1);
    int64_t k = in->graph->values[node->inputs[0]].cols;
    int64_t n = in->graph->values[node->outputs[0]].cols;
    const char *act = spey_node_text(node, SPEY_ATTR_ACT, "none");
    for (int64_t r = 0; r < rows_of(in, node->inputs[0]); r++)
        for (int64_t j = 0; j < n; j++) {
            const double *x = row_of(in, node->inputs[0], r);
            double sum = 0;
            for (int64_t i = 0; i < k; i++)
                sum += x[i] * (double)w[j * k + i];
            row_of(in, node->outputs[0], r)[j] = activate(act, sum + (bias ? (double)bias[j] : 0));
        }
}

static double combine(const spey_node *node, double x, double y)
{
    double scale = spey_node_number(node, SPEY_ATTR_SCALE, 1);
    const char *act = spey_node_text(node, SPEY_ATTR_ACT, "none");
    if (node->op == SPEY_GRAPH_ADD) return x + scale * y;
    if (node->op == SPEY_GRAPH_GLU) {
        double limit = spey_node_number(node, SPEY_ATTR_LIMIT, 0);
        double gate = limit > 0 ? fmin(x, limit) : x;
        double up = limit > 0 ? fmax(-limit, fmin(y, limit)) : y;
        return activate(act, gate) * (up + spey_node_number(node, SPEY_ATTR_OFFSET, 0));
    }
    if (node->op != SPEY_GRAPH_UNARY) return x;
    double cap = spey_node_number(node, SPEY_ATTR_SOFTCAP, 0), out = activate(act, x * scale);
    return cap > 0 ? cap * tanh(out / cap) : out;
}

/* add, glu, unary; slice and gather as copies. */
static void run_elements(interpreter *in, const spey_node *node)
{
    int64_t cols = in->graph->values[node->outputs[0]].cols;
    int64_t begin = spey_node_int(node, SPEY_ATTR_BEGIN, 0);
    for (int64_t r = 0; r < rows_of(in, node->outputs[0]); r++) {
        int64_t from = node->op == SPEY_GRAPH_GATHER ? in->step->output_rows[r] : r;
        const double *x = row_of(in, node->inputs[0], from) + begin;
        const double *y = node->n_inputs > 1 ? row_of(in, node->inputs[1], r) : x;
        double *out = row_of(in, node->outputs[0], r);
        for (int64_t c = 0; c < cols; c++)
            out[c] = combine(node, x[c], y[c]);
    }
}

static float frequency(const interpreter *in, const spey_node *node, int64_t i, int64_t kv_len)
{
    double dynamic = spey_node_number(node, SPEY_ATTR_DYNAMIC, 0);
    int64_t original = spey_node_int(node, SPEY_ATTR_ORIGINAL, 0);
    int64_t rotary = spey_node_int(node, SPEY_ATTR_ROTARY, 0);
    if (dynamic > 0 && kv_len > original) {
        double grown = dynamic * (double)kv_len / (double)original - (dynamic - 1);
        double base = spey_node_number(node, SPEY_ATTR_BASE, 0) *
                      pow(grown, (double)rotary / (double)(rotary - 2));
        return (float)pow(base, -2 * (double)i / (double)rotary);
    }
    bool extended = node->n_weights > 1 && kv_len > original;
    return weight_of(in, node, extended)[i];
}

static void run_rope_table(interpreter *in, const spey_node *node)
{
    int64_t half = spey_node_int(node, SPEY_ATTR_ROTARY, 0) / 2;
    double magnitude = spey_node_number(node, SPEY_ATTR_MAGNITUDE, 1);
    for (int64_t r = 0; r < in->step->n_tokens; r++)
        for (int64_t i = 0; i < half; i++) {
            float angle =
                (float)in->positions[r] * frequency(in, node, i, in->kv_len[in->step->seqs[r]]);
            float *row = table_row(in, node->outputs[0], r);
            row[i] = (float)(cos((double)angle) * magnitude);
            row[half + i] = (float)(sin((double)angle) * magnitude);
        }
}

/* One head; out may be x. */
static void rotate(const spey_node *node, const float *table, const double *x, double *out)
{
    int64_t rotary = spey_node_int(node, SPEY_ATTR_ROTARY, 0), half = rotary / 2;
    bool paired = strcmp(spey_node_text(node, SPEY_ATTR_PAIRING, "half"), "interleaved") == 0;
    for (int64_t i = 0; i < half; i++) {
        int64_t a = paired ? 2 * i : i, b = paired ? 2 * i + 1 : i + half;
        double xa = x[a], xb = x[b];
        out[a] = xa * (double)table[i] - xb * (double)table[half + i];
        out[b] = xb * (double)table[i] + xa * (double)table[half + i];
    }
    for (int64_t i = rotary; i < spey_node_int(node, SPEY_ATTR_K_DIM, 0); i++)
        out[i] = x[i];
}

static void run_rope(interpreter *in, const spey_node *node)
{
    int64_t dim = spey_node_int(node, SPEY_ATTR_K_DIM, 0);
    for (int64_t r = 0; r < in->step->n_tokens; r++)
        for (int64_t h = 0; h < spey_node_int(node, SPEY_ATTR_HEADS, 0); h++)
            rotate(node, table_row(in, node->inputs[1], r),
                   row_of(in, node->inputs[0], r) + h * dim,
                   row_of(in, node->outputs[0], r) + h * dim);
}

static void run_kv_append(interpreter *in, const spey_node *node)
{
    int64_t heads = spey_node_int(node, SPEY_ATTR_HEADS, 0);
    int64_t k_cols = heads * spey_node_int(node, SPEY_ATTR_K_DIM, 0);
    int64_t v_cols = heads * spey_node_int(node, SPEY_ATTR_V_DIM, 0);
    for (int64_t r = 0; r < in->step->n_tokens; r++) {
        int seq = in->step->seqs[r];
        memcpy(*cache_of(in, in->k, node, seq) + in->positions[r] * k_cols,
               row_of(in, node->inputs[0], r), (size_t)k_cols * sizeof(double));
        memcpy(*cache_of(in, in->v, node, seq) + in->positions[r] * v_cols,
               row_of(in, node->inputs[1], r), (size_t)v_cols * sizeof(double));
    }
}

static void run_rope_append(interpreter *in, const spey_node *node)
{
    int64_t heads = spey_node_int(node, SPEY_ATTR_HEADS, 0);
    int64_t kv_heads = spey_node_int(node, SPEY_ATTR_KV_HEADS, 0);
    int64_t dim = spey_node_int(node, SPEY_ATTR_K_DIM, 0);
    for (int64_t r = 0; r < in->step->n_tokens; r++) {
        const double *qkv = row_of(in, node->inputs[0], r);
        const float *table = node->n_inputs > 1 ? table_row(in, node->inputs[1], r) : NULL;
        int seq = in->step->seqs[r];
        int64_t at = in->positions[r] * kv_heads * dim;
        for (int64_t h = 0; h < kv_heads; h++) {
            rotate(node, table, qkv + (heads + h) * dim,
                   *cache_of(in, in->k, node, seq) + at + h * dim);
            memcpy(*cache_of(in, in->v, node, seq) + at + h * dim,
                   qkv + (heads + kv_heads + h) * dim, (size_t)dim * sizeof(double));
        }
        for (int64_t h = 0; h < heads; h++)
            rotate(node, table, qkv + h * dim, row_of(in, node->outputs[0], r) + h * dim);
    }
}

/* T5's, for a key `ahead` tokens after the query; as transformers writes it. */
static double relative_bias(const interpreter *in, const spey_node *node, int64_t head,
                            int64_t ahead)
{
    bool alibi = spey_node_int(node, SPEY_ATTR_ALIBI, 0);
    const spey_weight *table = &in->graph->weights[node->weights[alibi]];
    int64_t buckets = table->dims[0], heads = table->dims[1], bucket = 0, distance = -ahead;
    if (!spey_node_int(node, SPEY_ATTR_CAUSAL, 1)) {
        buckets /= 2;
        if (ahead > 0) bucket = buckets;
        distance = ahead < 0 ? -ahead : ahead;
    }
    if (distance < buckets / 2) {
        bucket += distance;
    } else {
        double exact = (double)(buckets / 2);
        double far = (double)spey_node_int(node, SPEY_ATTR_DISTANCE, 0) / exact;
        double share = log((double)distance / exact) / log(far);
        int64_t large = buckets / 2 + (int64_t)(share * ((double)buckets - exact));
        bucket += large < buckets ? large : buckets - 1;
    }
    return (double)weight_of(in, node, alibi)[bucket * heads + head];
}

/* How many keys sequence `seq` has for the node. */
static int64_t keys_of(const interpreter *in, const spey_node *node, int seq)
{
    bool source = in->graph->caches[spey_node_int(node, SPEY_ATTR_CACHE, 0)].source;
    return source ? in->source_lengths[seq] : in->kv_len[seq];
}

typedef struct head_place {
    int64_t row, head;
} head_place;

static void attend(interpreter *in, const spey_node *node, head_place at, double *scores)
{
    int64_t heads = spey_node_int(node, SPEY_ATTR_HEADS, 0);
    int64_t kv_heads = spey_node_int(node, SPEY_ATTR_KV_HEADS, 0);
    int64_t kv_head = at.head / (heads / kv_heads), k_dim = spey_node_int(node, SPEY_ATTR_K_DIM, 0);
    int64_t v_dim = spey_node_int(node, SPEY_ATTR_V_DIM, 0);
    int64_t window = spey_node_int(node, SPEY_ATTR_WINDOW, 0);
    bool alibi = spey_node_int(node, SPEY_ATTR_ALIBI, 0);
    bool relative = spey_node_int(node, SPEY_ATTR_RELATIVE, 0);
    bool sinks = spey_node_int(node, SPEY_ATTR_SINKS, 0);
    double cap = spey_node_number(node, SPEY_ATTR_SOFTCAP, 0), max = -(double)INFINITY, total = 0;
    int seq = in->step->seqs[at.row];
    int64_t i = in->positions[at.row];
    int64_t begin = window && i - window + 1 > 0 ? i - window + 1 : 0;
    int64_t end = spey_node_int(node, SPEY_ATTR_CAUSAL, 1) ? i + 1 : keys_of(in, node, seq);
    const double *q = row_of(in, node->inputs[0], at.row) + at.head * k_dim;
    for (int64_t j = begin; j < end; j++) {
        const double *k = *cache_of(in, in->k, node, seq) + (j * kv_heads + kv_head) * k_dim;
        double s = 0;
        for (int64_t d = 0; d < k_dim; d++)
            s += q[d] * k[d];
        s *= spey_node_number(node, SPEY_ATTR_SCALE, 1);
        if (cap > 0) s = cap * tanh(s / cap);
        if (alibi) s += (double)weight_of(in, node, 0)[at.head] * (double)(j - i);
        if (relative) s += relative_bias(in, node, at.head, j - i);
        scores[j] = s;
        max = fmax(max, s);
    }
    for (int64_t j = begin; j < end; j++)
        total += scores[j] = exp(scores[j] - max);
    if (sinks) total += exp((double)weight_of(in, node, alibi + relative)[at.head] - max);
    double *out = row_of(in, node->outputs[0], at.row) + at.head * v_dim;
    for (int64_t d = 0; d < v_dim; d++)
        out[d] = 0;
    for (int64_t j = begin; j < end; j++) {
        const double *v = *cache_of(in, in->v, node, seq) + (j * kv_heads + kv_head) * v_dim;
        for (int64_t d = 0; d < v_dim; d++)
            out[d] += scores[j] / total * v[d];
    }
}

static void run_attention(interpreter *in, const spey_node *node)
{
    double *scores = make((size_t)in->options.tokens_max, sizeof *scores);
    for (int64_t r = 0; r < in->step->n_tokens; r++)
        for (int64_t h = 0; h < spey_node_int(node, SPEY_ATTR_HEADS, 0); h++)
            attend(in, node, (head_place){ r, h }, scores);
    spey_free(scores);
}

static void run_concat(interpreter *in, const spey_node *node)
{
    int64_t heads = spey_node_int(node, SPEY_ATTR_HEADS, 1);
    bool shared = spey_node_int(node, SPEY_ATTR_SHARED, 0);
    int64_t a = in->graph->values[node->inputs[0]].cols / heads;
    int64_t b = in->graph->values[node->inputs[1]].cols / (shared ? 1 : heads);
    for (int64_t r = 0; r < in->step->n_tokens; r++)
        for (int64_t h = 0; h < heads; h++) {
            double *out = row_of(in, node->outputs[0], r) + h * (a + b);
            memcpy(out, row_of(in, node->inputs[0], r) + h * a, (size_t)a * sizeof *out);
            memcpy(out + a, row_of(in, node->inputs[1], r) + (shared ? 0 : h * b),
                   (size_t)b * sizeof *out);
        }
}

/* Order of experts for a choice: the number of those that come before `e`. */
static int64_t rank_of(const double *choices, int64_t e, int64_t begin, int64_t end)
{
    int64_t rank = 0;
    for (int64_t i = begin; i < end; i++)
        rank += choices[i] > choices[e] || (choices[i] == choices[e] && i < e);
    return rank;
}

/* Experts outside the best groups sink below all others. */
static void sink_groups(const spey_node *node, double *choices, int64_t n)
{
    double scores[SPEY_EXPERTS_MAX];
    int64_t groups = spey_node_int(node, SPEY_ATTR_GROUPS, 1), size = n / groups;
    for (int64_t g = 0; g < groups; g++) {
        scores[g] = 0;
        for (int64_t e = g * size; e < (g + 1) * size; e++)
            if (rank_of(choices, e, g * size, (g + 1) * size) <
                spey_node_int(node, SPEY_ATTR_GROUP_BEST, 1))
                scores[g] += choices[e];
    }
    for (int64_t e = 0; e < n; e++)
        if (rank_of(scores, e / size, 0, groups) >=
            spey_node_int(node, SPEY_ATTR_TOP_GROUPS, groups))
            choices[e] = -(double)INFINITY;
}

static void run_route(interpreter *in, const spey_node *node)
{
    int64_t n = in->graph->values[node->inputs[0]].cols;
    int64_t top_k = spey_node_int(node, SPEY_ATTR_TOP_K, 0);
    bool sigmoid = strcmp(spey_node_text(node, SPEY_ATTR_SCORING, "softmax"), "sigmoid") == 0;
    const float *correction = weight_of(in, node, 0);
    for (int64_t r = 0; r < in->step->n_tokens; r++) {
        const double *logits = row_of(in, node->inputs[0], r);
        float *out = table_row(in, node->outputs[0], r);
        double scores[SPEY_EXPERTS_MAX], choices[SPEY_EXPERTS_MAX], total = 0, chosen = 0;
        for (int64_t e = 0; e < n; e++)
            total += exp(logits[e]);
        for (int64_t e = 0; e < n; e++) {
            scores[e] = sigmoid ? 1 / (1 + exp(-logits[e])) : exp(logits[e]) / total;
            choices[e] = scores[e] + (correction ? (double)correction[e] : 0);
        }
        sink_groups(node, choices, n);
        for (int64_t e = 0; e < n; e++)
            if (rank_of(choices, e, 0, n) < top_k) chosen += scores[e];
        if (!spey_node_int(node, SPEY_ATTR_NORMALISE, 0)) chosen = 1;
        double scale = spey_node_number(node, SPEY_ATTR_SCALE, 1) / chosen;
        for (int64_t e = 0; e < n; e++) {
            int64_t rank = rank_of(choices, e, 0, n);
            if (rank >= top_k) continue;
            out[rank] = (float)(scores[e] * scale);
            out[top_k + rank] = (float)e;
        }
    }
}

static void run_expert_linear(interpreter *in, const spey_node *node)
{
    const spey_weight *stack = &in->graph->weights[node->weights[0]];
    const float *w = weight_of(in, node, 0), *bias = weight_of(in, node, 1);
    int64_t n = stack->dims[1], k = stack->dims[2], slots = stack->dims[0];
    bool routed = node->n_inputs > 1, sum = spey_node_int(node, SPEY_ATTR_SUM, 0);
    bool shared = in->graph->values[node->inputs[0]].cols == k;
    if (routed) slots = in->graph->values[node->inputs[1]].cols / 2;
    for (int64_t r = 0; r < in->step->n_tokens; r++) {
        const float *routing = routed ? table_row(in, node->inputs[1], r) : NULL;
        double *out = row_of(in, node->outputs[0], r);
        for (int64_t j = 0; sum && j < n; j++)
            out[j] = 0;
        for (int64_t s = 0; s < slots; s++) {
            int64_t e = routed ? (int64_t)routing[slots + s] : s;
            const double *x = row_of(in, node->inputs[0], r) + (shared ? 0 : s * k);
            for (int64_t j = 0; j < n; j++) {
                double y = bias ? (double)bias[e * n + j] : 0;
                for (int64_t i = 0; i < k; i++)
                    y += x[i] * (double)w[(e * n + j) * k + i];
                if (sum)
                    out[j] += (double)routing[s] * y;
                else
                    out[s * n + j] = y;
            }
        }
    }
}

/* The state begins as zeros, the rows before a sequence. */
static void run_causal_conv(interpreter *in, const spey_node *node)
{
    int64_t width = in->graph->weights[node->weights[0]].dims[2];
    int64_t cols = in->graph->values[node->inputs[0]].cols, before = width - 1;
    const float *w = weight_of(in, node, 0), *bias = weight_of(in, node, 1);
    for (int64_t r = 0; r < in->step->n_tokens; r++) {
        double *rows = *cache_of(in, in->k, node, in->step->seqs[r]);
        const double *x = row_of(in, node->inputs[0], r);
        for (int64_t c = 0; c < cols; c++) {
            double sum = bias ? (double)bias[c] : 0;
            for (int64_t k = 0; k < width; k++)
                sum += (double)w[c * width + k] * (k < before ? rows[k * cols + c] : x[c]);
            row_of(in, node->outputs[0], r)[c] = sum;
        }
        memmove(rows, rows + cols, (size_t)((before - 1) * cols) * sizeof *rows);
        memcpy(rows + (before - 1) * cols, x, (size_t)cols * sizeof *rows);
    }
}

static void run_selective_scan(interpreter *in, const spey_node *node)
{
    int64_t cols = in->graph->values[node->inputs[0]].cols;
    int64_t states = in->graph->values[node->inputs[2]].cols;
    for (int64_t r = 0; r < in->step->n_tokens; r++) {
        const double *x = row_of(in, node->inputs[0], r), *dt = row_of(in, node->inputs[1], r);
        const double *b = row_of(in, node->inputs[2], r), *read = row_of(in, node->inputs[3], r);
        for (int64_t c = 0; c < cols; c++) {
            double *h = *cache_of(in, in->k, node, in->step->seqs[r]) + c * states;
            const float *a_log = weight_of(in, node, 0) + c * states;
            double delta = log1p(exp(dt[c])), sum = (double)weight_of(in, node, 1)[c] * x[c];
            for (int64_t n = 0; n < states; n++) {
                h[n] = exp(-delta * exp((double)a_log[n])) * h[n] + delta * x[c] * b[n];
                sum += read[n] * h[n];
            }
            row_of(in, node->outputs[0], r)[c] = sum;
        }
    }
}

static void run_node(interpreter *in, const spey_node *node)
{
    switch (node->op) {
    case SPEY_GRAPH_EMBED: run_embed(in, node); break;
    case SPEY_GRAPH_NORM:
    case SPEY_GRAPH_ADD_NORM: run_norm(in, node); break;
    case SPEY_GRAPH_LINEAR: run_linear(in, node); break;
    case SPEY_GRAPH_SLICE:
        if (in->options.plan) break; /* a view */
        run_elements(in, node);
        break;
    case SPEY_GRAPH_UNARY:
    case SPEY_GRAPH_ADD:
    case SPEY_GRAPH_GLU:
    case SPEY_GRAPH_GATHER: run_elements(in, node); break;
    case SPEY_GRAPH_ROPE_TABLE: run_rope_table(in, node); break;
    case SPEY_GRAPH_ROPE: run_rope(in, node); break;
    case SPEY_GRAPH_KV_APPEND: run_kv_append(in, node); break;
    case SPEY_GRAPH_ROPE_APPEND: run_rope_append(in, node); break;
    case SPEY_GRAPH_ATTENTION: run_attention(in, node); break;
    case SPEY_GRAPH_CONCAT: run_concat(in, node); break;
    case SPEY_GRAPH_ROUTE: run_route(in, node); break;
    case SPEY_GRAPH_EXPERT_LINEAR: run_expert_linear(in, node); break;
    case SPEY_GRAPH_CAUSAL_CONV: run_causal_conv(in, node); break;
    case SPEY_GRAPH_SELECTIVE_SCAN: run_selective_scan(in, node); break;
    default: spey_assert_failed("an op without meaning here", __FILE__, __LINE__);
    }
}

static void run_nodes(interpreter *in, bool encoder)
{
    for (int n = 0; n < in->graph->n_nodes; n++) {
        const spey_node *node = &in->graph->nodes[n];
        bool source = spey_graph_node_rows(in->graph, node) == SPEY_ROWS_SOURCE;
        if (source == encoder) run_node(in, node);
    }
}

void interpreter_step(interpreter *in, const interpreter_step_args *args)
{
    const spey_graph *graph = in->graph;
    in->step = args;
    SPEY_ASSERT(args->n_tokens <= in->options.tokens_max);
    if (args->encode) {
        for (int i = 0; i < args->n_tokens; i++)
            in->positions[i] = in->source_lengths[args->seqs[i]]++;
        run_nodes(in, true);
        return;
    }
    memcpy(in->kv_len, in->lengths, (size_t)in->options.n_seqs * sizeof *in->kv_len);
    for (int i = 0; i < args->n_tokens; i++)
        in->positions[i] = in->kv_len[args->seqs[i]]++;
    run_nodes(in, false);
    memcpy(in->lengths, in->kv_len, (size_t)in->options.n_seqs * sizeof *in->kv_len);
    int64_t cols = graph->values[graph->output].cols;
    for (int i = 0; i < args->n_outputs; i++)
        memcpy(args->logits + i * cols, row_of(in, graph->output, i),
               (size_t)cols * sizeof(double));
}
