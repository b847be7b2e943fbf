#include "model/encoder_decoder_block.h"

/* What a branch reads of x. */
static spey_value before(spey_blocks *b, spey_value x, const char *name, const char *tensor,
                         const spey_encoder_decoder_spec *spec)
{
    return spec->norms_behind ? x : spey_block_norm(b, x, name, tensor, &spec->norm);
}

/* x with the branch's result. */
static spey_value behind(spey_blocks *b, spey_value x, spey_value branch, const char *name,
                         const char *tensor, const spey_encoder_decoder_spec *spec)
{
    x = spey_block_add(b, x, branch, 1);
    return spec->norms_behind ? spey_block_norm(b, x, name, tensor, &spec->norm) : x;
}

/* Embeddings, and what all layers share. */
static spey_value begin(spey_blocks *b, const spey_arch_config *c,
                        const spey_encoder_decoder_spec *spec, spey_coder_spec *coder)
{
    spey_value x = spey_block_embed(b, spec->embed, c->vocab, c->hidden, spec->embed_scale);
    if (coder->positions) {
        const spey_positions_spec positions = { .tensor = coder->positions,
                                                .positions = c->positions,
                                                .hidden = c->hidden,
                                                .begin = spec->positions_begin };
        x = spey_block_add(b, x, spey_block_positions(b, &positions), 1);
    }
    if (coder->embed_norm) x = spey_block_norm(b, x, "embed_norm", coder->embed_norm, &spec->norm);
    if (coder->relative) {
        spey_block_relative(b, "relative", coder->relative, c->encoder.buckets,
                            coder->attention.heads);
        coder->attention.relative = b->encoder ? "encoder.relative" : "relative";
        coder->attention.relative_distance = c->encoder.distance;
    }
    return x;
}

static spey_value draw_layer(spey_blocks *b, spey_value x, const spey_encoder_decoder_spec *spec,
                             const spey_coder_spec *coder)
{
    spey_value in = before(b, x, "attn_norm", coder->attn_norm, spec);
    spey_value branch = spey_block_attention(b, in, &coder->attention);
    x = behind(b, x, branch, "attn_norm", coder->attn_norm, spec);
    if (coder->cross_norm) {
        in = before(b, x, "cross_norm", coder->cross_norm, spec);
        branch = spey_block_cross_attention(b, in, &coder->cross);
        x = behind(b, x, branch, "cross_norm", coder->cross_norm, spec);
    }
    in = before(b, x, "mlp_norm", coder->mlp_norm, spec);
    branch = spey_block_mlp(b, in, &coder->mlp);
    return behind(b, x, branch, "mlp_norm", coder->mlp_norm, spec);
}

/* The cache group of an attention. */
static void add_cache(spey_blocks *b, spey_attention_spec *attention, int64_t layers,
                      spey_cache_group group)
{
    group.layers = layers;
    group.heads = attention->kv_heads;
    group.k_dim = group.v_dim = attention->head_dim;
    spey_blocks_add_cache(b, &group, &attention->cache);
}

static void draw_encoder(spey_blocks *b, const spey_arch_config *c, spey_encoder_decoder_spec *s)
{
    spey_coder_spec *encoder = &s->encoder, *decoder = &s->decoder;
    encoder->attention.all_to_all = true;
    spey_blocks_enter_encoder(b);
    spey_value x = begin(b, c, s, encoder);
    for (int64_t i = 0; i < encoder->n_layers; i++) {
        spey_blocks_enter_layer(b, encoder->layers, i);
        encoder->attention.layer = i;
        x = draw_layer(b, x, s, encoder);
    }
    spey_blocks_leave_layer(b);
    if (encoder->end_norm) x = spey_block_norm(b, x, "end_norm", encoder->end_norm, &s->norm);
    spey_blocks_leave_encoder(b);
    for (int64_t i = 0; i < decoder->n_layers; i++) {
        spey_blocks_enter_layer(b, decoder->layers, i);
        decoder->cross.layer = i;
        spey_block_cross_keys(b, x, &decoder->cross);
    }
    spey_blocks_leave_layer(b);
}

static void draw_decoder(spey_blocks *b, const spey_arch_config *c, spey_encoder_decoder_spec *s)
{
    spey_coder_spec *decoder = &s->decoder;
    decoder->cross.all_to_all = true;
    spey_value x = begin(b, c, s, decoder);
    for (int64_t i = 0; i < decoder->n_layers; i++) {
        spey_blocks_enter_layer(b, decoder->layers, i);
        decoder->attention.layer = decoder->cross.layer = i;
        x = draw_layer(b, x, s, decoder);
    }
    spey_blocks_leave_layer(b);
    if (decoder->end_norm) {
        s->head.norm = &s->norm;
        s->head.norm_tensor = decoder->end_norm;
    }
    spey_block_head(b, x, &s->head);
}

void spey_encoder_decoder_draw(spey_blocks *b, const spey_arch_config *c,
                               const spey_encoder_decoder_spec *spec)
{
    spey_encoder_decoder_spec s = *spec;
    add_cache(b, &s.decoder.attention, s.decoder.n_layers, (spey_cache_group){ 0 });
    add_cache(b, &s.decoder.cross, s.decoder.n_layers, (spey_cache_group){ .source = true });
    add_cache(b, &s.encoder.attention, s.encoder.n_layers,
              (spey_cache_group){ .source = true, .scratch = true });
    draw_encoder(b, c, &s);
    draw_decoder(b, c, &s);
}
