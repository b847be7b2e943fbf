/* Llama, and Mistral, which is Llama with a sliding window.
 *
 *   x = x + attention(norm(x))
 *   x = x + mlp(norm(x))
 *
 * RMS norms, RoPE in halves with every scaling, grouped-query attention, SiLU-gated MLP, optional biases, head size apart
 * from hidden / heads, embeddings tied or not. */
#include <math.h>

#include "model/arch.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, false, c);
    c->norm_eps = spey_config_number(config, "rms_norm_eps", 0, 1, 1e-6);
    c->qkv_bias = spey_config_bool(config, "attention_bias", false);
    c->o_bias = c->qkv_bias;
    c->mlp_bias = spey_config_bool(config, "mlp_bias", false);
    spey_rope_read(config, NULL, 10000, c->head_dim, &c->rope);
    spey_arch_read_window(config, c);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    const spey_norm_spec norm = { .kind = "rms", .eps = c->norm_eps };
    const spey_cache_group group = { .layers = c->layers,
                                     .heads = c->kv_heads,
                                     .k_dim = c->head_dim,
                                     .v_dim = c->head_dim,
                                     .window = c->windows[0] };
    const spey_mlp_spec mlp = { .gate = "mlp.gate_proj",
                                .up = "mlp.up_proj",
                                .down = "mlp.down_proj",
                                .intermediate = c->intermediate,
                                .act = c->act,
                                .bias = c->mlp_bias };
    spey_attention_spec attention = { .heads = c->heads,
                                      .kv_heads = c->kv_heads,
                                      .head_dim = c->head_dim,
                                      .q = "self_attn.q_proj",
                                      .k = "self_attn.k_proj",
                                      .v = "self_attn.v_proj",
                                      .o = "self_attn.o_proj",
                                      .qkv_bias = c->qkv_bias,
                                      .o_bias = c->o_bias,
                                      .rotary = c->rope.rotary,
                                      .window = c->windows[0] };

    spey_blocks_add_cache(b, &group, &attention.cache);
    spey_value x = spey_block_embed(b, "model.embed_tokens", c->vocab, c->hidden, 1);
    attention.rope = spey_block_rope_table(b, "rope", &c->rope);
    for (int64_t i = 0; i < c->layers; i++) {
        spey_blocks_enter_layer(b, "model.layers.", i);
        attention.layer = i;
        spey_value a = spey_block_norm(b, x, "attn_norm", "input_layernorm", &norm);
        x = spey_block_add(b, x, spey_block_attention(b, a, &attention), 1);
        spey_value m = spey_block_norm(b, x, "mlp_norm", "post_attention_layernorm", &norm);
        x = spey_block_add(b, x, spey_block_mlp(b, m, &mlp), 1);
    }
    spey_blocks_leave_layer(b);
    spey_block_head(b, x,
                    &(spey_head_spec){ .norm = &norm,
                                       .norm_tensor = "model.norm",
                                       .tensor = c->tied ? NULL : "lm_head",
                                       .vocab = c->vocab });
}

static const char *const hf_names[] = { "LlamaForCausalLM", "MistralForCausalLM", NULL };
static const char *const ignored[] = { "*rotary_emb.inv_freq", NULL };

const spey_arch spey_arch_llama = { "llama", hf_names, ignored, read, draw };
