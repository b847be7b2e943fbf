/* Baichuan: Llama with Q, K and V one after the other in one tensor. 7B rotates; 13B has ALiBi, and no
 * max_position_embeddings, which tells the two apart where they share a name. The second generation, known by its
 * vocabulary, divides each row of the head by its length, and is refused. */
#include <string.h>

#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, NULL, c);
    c->norm_eps = spey_config_number(config, "rms_norm_eps", 0, 1, 1e-6);
    c->alibi = strcmp(c->hf_name, "BaichuanForCausalLM") == 0 &&
               !spey_config_has(config, "max_position_embeddings");
    spey_config_demand(config, c->vocab != 125696,
                       "the normalised head of Baichuan 2 is not supported");
    if (!c->alibi) spey_rope_read(config, NULL, 10000, c->head_dim, &c->rope);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.attention.layout = SPEY_QKV_STACKED;
    spec.attention.qkv = "self_attn.W_pack";
    if (c->alibi) spec.attention.alibi = "alibi";
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "BaichuanForCausalLM", "BaiChuanForCausalLM", NULL };
static const char *const ignored[] = { "*rotary_emb.inv_freq", "model.alibi_mask", NULL };

const spey_arch spey_arch_baichuan = { "baichuan", hf_names, ignored, read, draw };
