#include "model/decoder_block.h"

spey_decoder_spec spey_decoder_defaults(const spey_arch_config *c)
{
    return (spey_decoder_spec){
        .embed = "model.embed_tokens",
        .layers = "model.layers.",
        .attn_norm = "input_layernorm",
        .mlp_norm = "post_attention_layernorm",
        .final_norm = "model.norm",
        .head = "lm_head",
        .norm = { .kind = "rms", .eps = c->norm_eps },
        .qk_norm = { .kind = "rms", .eps = c->norm_eps },
        .attention = { .heads = c->heads,
                       .kv_heads = c->kv_heads,
                       .head_dim = c->head_dim,
                       .v_dim = c->v_dim,
                       .q = "self_attn.q_proj",
                       .k = "self_attn.k_proj",
                       .v = "self_attn.v_proj",
                       .o = "self_attn.o_proj",
                       .qkv_bias = c->qkv_bias,
                       .o_bias = c->o_bias,
                       .rotary = c->rope.rotary,
                       .scale = c->attention_scale,
                       .softcap = c->attention_softcap },
        .alibi_scale = 1,
        .mlp = { .gate = "mlp.gate_proj",
                 .up = "mlp.up_proj",
                 .down = "mlp.down_proj",
                 .intermediate = c->intermediate,
                 .act = c->act,
                 .bias = c->mlp_bias },
        .moe = { .experts = c->experts,
                 .top_k = c->expert_top_k,
                 .intermediate = c->expert_intermediate,
                 .router = "mlp.gate",
                 .normalise = c->route_normalise,
                 .scale = c->route_scale,
                 .stack = SPEY_STACK_TENSORS,
                 .gate = "mlp.experts.*.gate_proj",
                 .up = "mlp.experts.*.up_proj",
                 .down = "mlp.experts.*.down_proj",
                 .act = c->act },
    };
}

/* ---- caches: one group for each window, in the order in which layers have them ---- */

typedef struct slot {
    int cache;
    int64_t layer;
} slot;

static slot slot_of(const spey_arch_config *c, int64_t layer)
{
    slot at = { 0, 0 };
    for (int64_t i = 0; i < layer; i++)
        at.layer += c->windows[i] == c->windows[layer];
    for (int64_t i = 0; c->windows[i] != c->windows[layer]; i++) {
        bool first = true;
        for (int64_t j = 0; first && j < i; j++)
            first = c->windows[j] != c->windows[i];
        at.cache += first;
    }
    return at;
}

static void add_caches(spey_blocks *b, const spey_arch_config *c)
{
    for (int64_t i = 0; i < c->layers; i++) {
        if (slot_of(c, i).layer != 0) continue; /* not the first of its window */
        spey_cache_group group = { .heads = c->kv_rank ? 1 : c->kv_heads,
                                   .k_dim = c->kv_rank ? c->kv_rank + c->rope.rotary : c->head_dim,
                                   .v_dim = c->kv_rank ? c->kv_rank : c->head_dim,
                                   .window = c->windows[i] };
        for (int64_t j = i; j < c->layers; j++)
            group.layers += c->windows[j] == c->windows[i];
        int cache;
        spey_blocks_add_cache(b, &group, &cache);
    }
}

/* ---- layers ---- */

static spey_value norm_if(spey_blocks *b, spey_value x, const char *name, const char *tensor,
                          const spey_norm_spec *norm)
{
    return tensor ? spey_block_norm(b, x, name, tensor, norm) : x;
}

static spey_value attend(spey_blocks *b, spey_value x, const spey_decoder_spec *spec)
{
    if (spec->mla.kv_rank) return spey_block_mla(b, x, &spec->attention, &spec->mla);
    return spey_block_attention(b, x, &spec->attention);
}

static spey_value map(spey_blocks *b, spey_value x, const spey_decoder_spec *spec, bool sparse)
{
    if (!sparse) return spey_block_mlp(b, x, &spec->mlp);
    spey_value experts = spey_block_moe(b, x, &spec->moe);
    if (!spec->shared.down) return experts;
    return spey_block_add(b, experts, spey_block_mlp(b, x, &spec->shared), 1);
}

static spey_value draw_layer(spey_blocks *b, spey_value x, const spey_decoder_spec *spec,
                             const spey_arch_config *c, int64_t layer)
{
    const double residual_scale = c->residual_scale != 0 ? c->residual_scale : 1;
    const bool sparse = c->sparse[layer];
    spey_value a = norm_if(b, x, "attn_norm", spec->attn_norm, &spec->norm);
    spey_value attended = attend(b, a, spec);
    attended = norm_if(b, attended, "attn_post_norm", spec->attn_post_norm, &spec->norm);
    x = spey_block_add(b, x, attended, residual_scale);
    spey_value m = norm_if(b, x, "mlp_norm", spec->mlp_norm, &spec->norm);
    spey_value mapped = map(b, m, spec, sparse);
    mapped = norm_if(b, mapped, "mlp_post_norm", spec->mlp_post_norm, &spec->norm);
    return spey_block_add(b, x, mapped, residual_scale);
}

static spey_value draw_parallel_layer(spey_blocks *b, spey_value x, const spey_decoder_spec *spec)
{
    spey_value a = spey_block_norm(b, x, "attn_norm", spec->attn_norm, &spec->norm);
    spey_value m = a;
    if (spec->mlp_norm) m = spey_block_norm(b, x, "mlp_norm", spec->mlp_norm, &spec->norm);
    spey_value attended = attend(b, a, spec);
    x = spey_block_add(b, x, attended, 1);
    return spey_block_add(b, x, map(b, m, spec, false), 1);
}

/* The parts of the attention's spec that belong to one layer. */
static void place_attention(const spey_arch_config *c, int64_t layer, const spey_value ropes[2],
                            spey_decoder_spec *spec)
{
    slot at = slot_of(c, layer);
    spec->attention.cache = at.cache;
    spec->attention.layer = at.layer;
    spec->attention.window = c->windows[layer];
    spec->attention.rope = ropes[c->local_rope.rotary > 0 && c->windows[layer] > 0];
}

void spey_decoder_draw(spey_blocks *b, const spey_arch_config *c, const spey_decoder_spec *spec)
{
    spey_decoder_spec s = *spec;
    spey_value ropes[2] = { SPEY_NO_VALUE, SPEY_NO_VALUE };
    if (s.attention.q_norm) s.attention.qk_norm = &s.qk_norm;
    add_caches(b, c);
    spey_value x = spey_block_embed(b, s.embed, c->vocab, c->hidden, c->embed_scale);
    if (s.positions.tensor) {
        s.positions.positions = c->positions;
        s.positions.hidden = c->hidden;
        x = spey_block_add(b, x, spey_block_positions(b, &s.positions), 1);
    }
    x = norm_if(b, x, "embed_norm", s.embed_norm, &s.norm);
    if (c->rope.rotary) ropes[0] = spey_block_rope_table(b, "rope", &c->rope);
    if (c->local_rope.rotary) ropes[1] = spey_block_rope_table(b, "rope_local", &c->local_rope);
    if (s.attention.alibi) spey_block_alibi(b, s.attention.alibi, c->heads, s.alibi_scale);
    for (int64_t i = 0; i < c->layers; i++) {
        spey_blocks_enter_layer(b, s.layers, i);
        place_attention(c, i, ropes, &s);
        x = c->parallel ? draw_parallel_layer(b, x, &s) : draw_layer(b, x, &s, c, i);
    }
    spey_blocks_leave_layer(b);
    spey_block_head(b, x,
                    &(spey_head_spec){ .norm = &s.norm,
                                       .norm_tensor = s.final_norm,
                                       .tensor = c->tied ? NULL : s.head,
                                       .vocab = c->vocab,
                                       .bias = s.head_bias,
                                       .scale = c->logit_scale,
                                       .softcap = c->logit_softcap });
}
