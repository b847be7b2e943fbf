/* Llama, and Mistral, which is Llama with a sliding window.
 *
 *   x = x + attention(norm(x))
 *   x = x + mlp(norm(x))
 *
 * RMS norms, RoPE in halves with every scaling, grouped-query attention, SiLU-gated MLP, optional biases, head size apart
 * from hidden / heads, embeddings tied or not. */
#include <string.h>

#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, NULL, c);
    c->norm_eps = spey_config_number(config, "rms_norm_eps", 0, 1, 1e-6);
    c->qkv_bias = spey_config_bool(config, "attention_bias", false);
    c->o_bias = c->qkv_bias;
    c->mlp_bias = spey_config_bool(config, "mlp_bias", false);
    spey_rope_read(config, NULL, 10000, c->head_dim, &c->rope);
    if (strcmp(c->hf_name, "MistralForCausalLM") == 0) spey_arch_read_window(config, 4096, c);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "LlamaForCausalLM", "MistralForCausalLM", NULL };
static const char *const ignored[] = { "*rotary_emb.inv_freq", NULL };

const spey_arch spey_arch_llama = { "llama", hf_names, ignored, read, draw };
