#include "tiny_engine.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/strbuf.h"

const tiny_shape tiny_default = { .layers = 2,
                                  .hidden = 32,
                                  .heads = 4,
                                  .kv_heads = 2,
                                  .head_dim = 16,
                                  .mlp = 48,
                                  .vocab = 50,
                                  .context = 64,
                                  .dtype = SPEY_F32 };

enum { TENSORS_MAX = 1024 };

typedef struct drawing {
    const tiny_shape *shape;
    spey_strbuf weights, nodes, all;
    spey_engine_tensor tensors[TENSORS_MAX];
    char names[TENSORS_MAX][32];
    float inv_freq[SPEY_HEAD_DIM_MAX / 2];
    int n_tensors;
    int n_values;
} drawing;

static void weight(drawing *d, spey_dtype dtype, int64_t rows, int64_t cols, const void *data,
                   const char *name)
{
    spey_engine_tensor *t = &d->tensors[d->n_tensors];
    snprintf(d->names[d->n_tensors], sizeof(d->names[0]), "%s", name);
    *t = (spey_engine_tensor){ .name = d->names[d->n_tensors++], .dtype = dtype, .data = data };
    t->dims[t->n_dims++] = rows;
    if (cols) t->dims[t->n_dims++] = cols;
    spey_strbuf_printf(&d->weights, "weight %s %s [%lld", name, spey_dtype_name(dtype),
                       (long long)rows);
    if (cols) spey_strbuf_printf(&d->weights, ",%lld", (long long)cols);
    spey_strbuf_puts(&d->weights, "]\n");
}

/* Of the first group. */
static void cache_scales(drawing *d)
{
    const tiny_shape *s = d->shape;
    const int64_t layers = s->two_groups ? (s->layers + 1) / 2 : s->layers;
    snprintf(d->names[d->n_tensors], sizeof(d->names[0]), "cache.0.scales");
    d->tensors[d->n_tensors] = (spey_engine_tensor){ .name = d->names[d->n_tensors],
                                                     .dtype = SPEY_F32,
                                                     .n_dims = 3,
                                                     .dims = { layers, 2, s->kv_heads } };
    d->n_tensors++;
    spey_strbuf_printf(&d->weights, "weight cache.0.scales f32 [%lld,2,%lld]\n", (long long)layers,
                       (long long)s->kv_heads);
}

/* "%7 = op(%3) name : tokens 32 {attrs}"; returns 7. */
static int node(drawing *d, const char *op, const char *inputs, const char *name, const char *rows,
                int64_t cols, const char *attrs)
{
    spey_strbuf_printf(&d->nodes, "%%%d = %s(%s)%s%s : %s %lld%s\n", d->n_values, op, inputs,
                       *name ? " " : "", name, rows, (long long)cols, attrs);
    return d->n_values++;
}

static const char *in(int a)
{
    static char text[4][16];
    static int next;
    next = (next + 1) % 4;
    snprintf(text[next], sizeof(text[0]), "%%%d", a);
    return text[next];
}

static const char *in2(int a, int b)
{
    static char text[32];
    snprintf(text, sizeof(text), "%%%d, %%%d", a, b);
    return text;
}

static const char *norm_attrs = " {kind=rms eps=1e-05}";

static int linear(drawing *d, int layer, const char *what, int x, int64_t n, int64_t k)
{
    char name[32];
    snprintf(name, sizeof(name), "layer.%d.%s", layer, what);
    weight(d, d->shape->dtype, n, k, NULL, name);
    return node(d, "linear", in(x), name, "tokens", n, "");
}

static int norm(drawing *d, int layer, const char *what, int x)
{
    char name[32];
    snprintf(name, sizeof(name), "layer.%d.%s", layer, what);
    weight(d, SPEY_F32, d->shape->hidden, 0, NULL, name);
    return node(d, "norm", in(x), name, "tokens", d->shape->hidden, norm_attrs);
}

static int rope(drawing *d, int x, int table, int64_t heads)
{
    char attrs[96];
    long long dim = (long long)d->shape->head_dim;
    snprintf(attrs, sizeof(attrs), " {pairing=half heads=%lld k_dim=%lld rotary=%lld}",
             (long long)heads, dim, dim);
    return node(d, "rope", in2(x, table), "", "tokens", heads * d->shape->head_dim, attrs);
}

static int layer(drawing *d, int i, int x, int table)
{
    const tiny_shape *s = d->shape;
    int group = s->two_groups ? i % 2 : 0, index = s->two_groups ? i / 2 : i;
    int64_t kv_heads = group ? s->heads : s->kv_heads, dim = s->head_dim;
    int64_t q_cols = s->heads * dim, kv_cols = kv_heads * dim;
    int normed = norm(d, i, "attn_norm", x);
    int q = linear(d, i, "q", normed, q_cols, s->hidden);
    int k = linear(d, i, "k", normed, kv_cols, s->hidden);
    int v = linear(d, i, "v", normed, kv_cols, s->hidden);
    q = rope(d, q, table, s->heads);
    k = rope(d, k, table, kv_heads);
    spey_strbuf_printf(&d->nodes,
                       "kv_append(%%%d, %%%d) {heads=%lld k_dim=%lld v_dim=%lld cache=%d "
                       "layer=%d}\n",
                       k, v, (long long)kv_heads, (long long)dim, (long long)dim, group, index);
    char attrs[160];
    snprintf(attrs, sizeof(attrs),
             " {scale=%.9g heads=%lld kv_heads=%lld k_dim=%lld v_dim=%lld cache=%d layer=%d}",
             1 / sqrt((double)dim), (long long)s->heads, (long long)kv_heads, (long long)dim,
             (long long)dim, group, index);
    if (group && s->window)
        snprintf(attrs + strlen(attrs) - 1, 32, " window=%lld}", (long long)s->window);
    int a = node(d, "attention", in(q), "", "tokens", q_cols, attrs);
    int o = linear(d, i, "o", a, s->hidden, q_cols);
    int r = node(d, "add", in2(x, o), "", "tokens", s->hidden, "");
    normed = norm(d, i, "mlp_norm", r);
    int gate, up;
    if (s->halves) {
        int both = linear(d, i, "gate_up", normed, 2 * s->mlp, s->hidden);
        const long long cols = (long long)s->mlp;
        snprintf(attrs, sizeof(attrs), " {begin=0 cols=%lld}", cols);
        gate = node(d, "slice", in(both), "", "tokens", s->mlp, attrs);
        snprintf(attrs, sizeof(attrs), " {begin=%lld cols=%lld}", cols, cols);
        up = node(d, "slice", in(both), "", "tokens", s->mlp, attrs);
    } else {
        gate = linear(d, i, "gate", normed, s->mlp, s->hidden);
        up = linear(d, i, "up", normed, s->mlp, s->hidden);
    }
    int m = node(d, "glu", in2(gate, up), "", "tokens", s->mlp, " {act=silu}");
    int down = linear(d, i, "down", m, s->hidden, s->mlp);
    return node(d, "add", in2(r, down), "", "tokens", s->hidden, "");
}

/* Behind the other groups: what the decoder attends to, then the scratch. */
static int cross_group(const tiny_shape *s)
{
    return 1 + s->two_groups + s->scans;
}

/* Attention of x over its own rows, or over the encoder's; x is queries, keys and values alike. */
static int attend(drawing *d, int x, int group, int layer, const char *rows)
{
    char attrs[160];
    long long dim = (long long)d->shape->head_dim, heads = (long long)d->shape->hidden / dim;
    snprintf(attrs, sizeof(attrs),
             " {scale=0.25 heads=%lld kv_heads=%lld k_dim=%lld v_dim=%lld cache=%d layer=%d "
             "causal=0}",
             heads, heads, dim, dim, group, layer);
    return node(d, "attention", in(x), "", rows, d->shape->hidden, attrs);
}

static void store(drawing *d, int x, int group, int layer)
{
    long long dim = (long long)d->shape->head_dim, heads = (long long)d->shape->hidden / dim;
    spey_strbuf_printf(&d->nodes,
                       "kv_append(%%%d, %%%d) {heads=%lld k_dim=%lld v_dim=%lld cache=%d "
                       "layer=%d}\n",
                       x, x, heads, dim, dim, group, layer);
}

static void draw_encoder(drawing *d)
{
    int cross = cross_group(d->shape);
    int x = node(d, "embed", "", "embed", "source", d->shape->hidden, " {encoder=1}");
    for (int i = 0; i < 2; i++) {
        store(d, x, cross + 1, i);
        x = attend(d, x, cross + 1, i, "source");
    }
    store(d, x, cross, 0);
}

static void draw(drawing *d)
{
    const tiny_shape *s = d->shape;
    for (int64_t i = 0; i < s->head_dim / 2; i++)
        d->inv_freq[i] = (float)pow(10000, -2.0 * (double)i / (double)s->head_dim);
    weight(d, s->dtype, s->vocab, s->hidden, NULL, "embed");
    weight(d, SPEY_F32, s->head_dim / 2, 0, d->inv_freq, "inv_freq");
    if (s->fp8_cache) cache_scales(d);
    if (s->encodes) draw_encoder(d);
    int x = node(d, "embed", "", "embed", "tokens", s->hidden, "");
    if (s->encodes) {
        int c = attend(d, x, cross_group(s), 0, "tokens");
        x = node(d, "add", in2(x, c), "", "tokens", s->hidden, "");
    }
    if (s->positions) {
        weight(d, s->dtype, s->positions, s->hidden, NULL, "positions");
        int p =
            node(d, "embed", "", "positions", "tokens", s->hidden, " {source=positions begin=2}");
        x = node(d, "add", in2(x, p), "", "tokens", s->hidden, "");
    }
    char attrs[32], all[64];
    if (s->scans) {
        weight(d, SPEY_F32, s->hidden, s->hidden, NULL, "a_log");
        weight(d, SPEY_F32, s->hidden, 0, NULL, "d");
        snprintf(all, sizeof(all), "%%%d, %%%d, %%%d, %%%d", x, x, x, x);
        snprintf(attrs, sizeof(attrs), " {cache=%d layer=0}", s->two_groups ? 2 : 1);
        x = node(d, "selective_scan", all, "a_log d", "tokens", s->hidden, attrs);
    }
    snprintf(attrs, sizeof(attrs), " {rotary=%lld}", (long long)s->head_dim);
    int table = node(d, "rope_table", "", "inv_freq", "tokens", s->head_dim, attrs);
    for (int i = 0; i < s->layers; i++)
        x = layer(d, i, x, table);
    weight(d, SPEY_F32, s->hidden, 0, NULL, "norm");
    x = node(d, "norm", in(x), "norm", "tokens", s->hidden, norm_attrs);
    x = node(d, "gather", in(x), "", "outputs", s->hidden, "");
    x = node(d, "linear", in(x), "embed", "outputs", s->vocab, "");
    spey_strbuf_printf(&d->nodes, "output %%%d\n", x);
}

static void write_caches(drawing *d)
{
    const tiny_shape *s = d->shape;
    long long dim = (long long)s->head_dim, n = (long long)s->layers;
    for (int g = 0; g < (s->two_groups ? 2 : 1); g++) {
        spey_strbuf_printf(&d->all, "cache %d kv layers=%lld heads=%lld k_dim=%lld v_dim=%lld", g,
                           s->two_groups ? (n + 1 - g) / 2 : n,
                           (long long)(g ? s->heads : s->kv_heads), dim, dim);
        if (!g && s->fp8_cache) spey_strbuf_puts(&d->all, " scales=cache.0.scales");
        if (g && s->window) spey_strbuf_printf(&d->all, " window=%lld", (long long)s->window);
        spey_strbuf_puts(&d->all, "\n");
    }
    if (s->scans)
        spey_strbuf_printf(&d->all, "cache %d state layers=1 elements=%lld\n",
                           s->two_groups ? 2 : 1, (long long)(s->hidden * s->hidden));
    for (int g = 0; s->encodes && g < 2; g++)
        spey_strbuf_printf(&d->all, "cache %d %s layers=%d heads=%lld k_dim=%lld v_dim=%lld\n",
                           cross_group(s) + g, g ? "scratch" : "cross", g + 1,
                           (long long)s->hidden / dim, dim, dim);
}

static void damage(drawing *d, spey_model_info *info)
{
    int k = 0, frequencies = 0;
    for (int i = 0; i < d->n_tensors; i++) {
        if (!strcmp(d->names[i], "layer.0.k")) k = i;
        if (!strcmp(d->names[i], "inv_freq")) frequencies = i;
    }
    switch (d->shape->fault) {
    case TINY_OK: break;
    case TINY_MISSING_WEIGHT: d->tensors[k].name = "another"; break;
    case TINY_SHAPE: d->tensors[k].dims[1]++; break;
    case TINY_DTYPE: d->tensors[k].dtype = SPEY_I8; break;
    case TINY_NO_FREQUENCIES: d->tensors[frequencies].data = NULL; break;
    case TINY_VOCAB: info->vocab_size++; break;
    case TINY_CONTEXT: info->context_length = 0; break;
    case TINY_ENGINE_DTYPE: info->dtype = SPEY_I8; break;
    case TINY_EOS:
        info->eos_ids[info->n_eos++] = 1 << 20;
        info->eos_ids[info->n_eos++] = 3;
        break;
    }
}

spey_status tiny_engine_new(const tiny_shape *shape, spey_engine_file **out)
{
    *out = NULL;
    drawing *d = spey_new(SPEY_PURPOSE_GENERAL, drawing);
    if (!d) return SPEY_NOMEM;
    d->shape = shape;
    draw(d);
    spey_strbuf_puts(&d->all, "spey-graph 1\n");
    spey_strbuf_append(&d->all, d->weights.data, d->weights.len);
    write_caches(d);
    spey_strbuf_append(&d->all, d->nodes.data, d->nodes.len);
    spey_model_info info = { .arch = "tiny",
                             .name = "tiny",
                             .dtype = shape->dtype,
                             .vocab_size = shape->vocab,
                             .hidden_size = shape->hidden,
                             .n_layers = shape->layers,
                             .context_length = shape->context,
                             .bos_id = -1,
                             .pad_id = -1,
                             .decoder_start_id = shape->encodes ? 1 : -1,
                             .forced_bos_id = -1,
                             .forced_eos_id = -1,
                             .temperature = 1,
                             .top_p = 1,
                             .typical_p = 1,
                             .repetition_penalty = 1 };
    if (shape->fp8_cache) snprintf(info.kv_dtype, sizeof(info.kv_dtype), "fp8");
    damage(d, &info);
    spey_status status = spey_strbuf_status(&d->all);
    if (status == SPEY_OK)
        status = spey_engine_file_virtual(&info, d->all.data, d->tensors, d->n_tensors, out);
    spey_strbuf_deinit(&d->weights);
    spey_strbuf_deinit(&d->nodes);
    spey_strbuf_deinit(&d->all);
    spey_free(d);
    return status;
}
