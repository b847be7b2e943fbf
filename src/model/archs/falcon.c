/* Falcon in its three shapes:
 *
 *   7B     one KV head, attention and MLP in parallel behind one norm
 *   40B    several KV heads, in parallel behind a norm each (11B: one norm)
 *   RW     as many KV heads as heads, one after the other, ALiBi in place of RoPE, biases */
#include <math.h>

#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_decoder_missing missing = { .tied = true, .act = "gelu" };
    spey_arch_read_decoder(config, &missing, c);
    c->norm_eps = spey_config_number(config, "layer_norm_epsilon", 0, 1, 1e-5);
    c->qkv_bias = c->o_bias = c->mlp_bias = spey_config_bool(config, "bias", false);
    bool grouped = spey_config_bool(config, "new_decoder_architecture", false);
    bool one_kv_head = spey_config_bool(config, "multi_query", true);
    c->kv_heads = one_kv_head ? 1 : c->heads;
    if (grouped)
        c->kv_heads =
            spey_config_int(config, "num_kv_heads|n_head_kv", 1, SPEY_HEADS_MAX, c->heads);
    spey_config_demand(config, c->heads % c->kv_heads == 0,
                       "num_attention_heads is %lld, expected a multiple of num_kv_heads, %lld",
                       (long long)c->heads, (long long)c->kv_heads);
    c->parallel = grouped || spey_config_bool(config, "parallel_attn", true);
    c->separate_norms = grouped && spey_config_int(config, "num_ln_in_parallel_attn", 1, 2, 2) == 2;
    c->alibi = spey_config_bool(config, "alibi", false);
    if (!c->alibi) spey_rope_read(config, NULL, 10000, c->head_dim, &c->rope);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.embed = "transformer.word_embeddings";
    spec.layers = "transformer.h.";
    spec.final_norm = "transformer.ln_f";
    spec.norm = (spey_norm_spec){ .kind = "layer", .eps = c->norm_eps, .bias = true };
    if (c->parallel) spec.mlp_norm = NULL;
    if (c->separate_norms) {
        spec.attn_norm = "ln_attn";
        spec.mlp_norm = "ln_mlp";
    }
    spec.attention.layout = SPEY_QKV_GROUPED;
    spec.attention.qkv = "self_attention.query_key_value";
    spec.attention.o = "self_attention.dense";
    spec.mlp.gate = NULL;
    spec.mlp.up = "mlp.dense_h_to_4h";
    spec.mlp.down = "mlp.dense_4h_to_h";
    if (c->alibi) {
        /* Falcon adds the bias to scores before it scales them. Transformers' eager attention, from which our expected
         * logits come, adds it a second time with the mask; its SDPA attention does not.
         * NEEDSWORK: which of the two should Falcon-RW follow? */
        spec.attention.alibi = "alibi";
        spec.alibi_scale = 2 / sqrt((double)c->head_dim);
    }
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "FalconForCausalLM", NULL };
static const char *const ignored[] = { "*rotary_emb.inv_freq", "*.maybe_rotary.inv_freq", NULL };

const spey_arch spey_arch_falcon = { "falcon", hf_names, ignored, read, draw };
