/* InternLM2: Llama under other names, with Q, K and V in one tensor, KV head by KV head. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, NULL, c);
    c->norm_eps = spey_config_number(config, "rms_norm_eps", 0, 1, 1e-6);
    c->qkv_bias = c->o_bias = spey_config_bool(config, "bias", true);
    spey_rope_read(config, NULL, 10000, c->head_dim, &c->rope);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.embed = "model.tok_embeddings";
    spec.attn_norm = "attention_norm";
    spec.mlp_norm = "ffn_norm";
    spec.head = "output";
    spec.attention.layout = SPEY_QKV_GROUPED;
    spec.attention.qkv = "attention.wqkv";
    spec.attention.o = "attention.wo";
    spec.mlp.gate = "feed_forward.w1";
    spec.mlp.up = "feed_forward.w3";
    spec.mlp.down = "feed_forward.w2";
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "InternLM2ForCausalLM", NULL };
static const char *const ignored[] = { "*rotary_emb.inv_freq", NULL };

const spey_arch spey_arch_internlm2 = { "internlm2", hf_names, ignored, read, draw };
