#include "model/mla_block.h"

/* Rows [begin, begin + n) of each of `heads` runs of `stride` rows. */
typedef struct head_rows {
    int64_t begin, n, stride, heads;
} head_rows;

static spey_value project(spey_blocks *b, spey_value x, const spey_linear_spec *names,
                          head_rows rows)
{
    spey_linear_spec linear = *names;
    linear.outputs = rows.heads * rows.n;
    linear.pieces = (spey_row_pieces){ rows.begin, rows.n, rows.stride, rows.heads };
    return spey_block_linear(b, x, &linear);
}

static spey_value rotate(spey_blocks *b, spey_value x, const spey_attention_spec *a, int64_t heads)
{
    spey_node node = { .op = SPEY_GRAPH_ROPE, .n_inputs = 2, .inputs = { x, a->rope } };
    spey_node_set_int(&node, SPEY_ATTR_HEADS, heads);
    spey_node_set_int(&node, SPEY_ATTR_K_DIM, a->rotary);
    spey_node_set_int(&node, SPEY_ATTR_ROTARY, a->rotary);
    if (a->pairing) spey_node_set_text(&node, SPEY_ATTR_PAIRING, a->pairing);
    return spey_blocks_append(b, &node);
}

static spey_value concat(spey_blocks *b, const spey_value parts[2], int64_t heads)
{
    spey_node node = { .op = SPEY_GRAPH_CONCAT, .n_inputs = 2, .inputs = { parts[0], parts[1] } };
    spey_node_set_int(&node, SPEY_ATTR_HEADS, heads);
    return spey_blocks_append(b, &node);
}

/* A matrix for each head, from pieces of kv_b's rows. */
static spey_value head_linear(spey_blocks *b, spey_value x, const spey_weight_names *names,
                              const spey_weight *stack)
{
    spey_node node = { .op = SPEY_GRAPH_EXPERT_LINEAR, .n_inputs = 1, .inputs = { x } };
    node.weights[node.n_weights++] = spey_blocks_declare(b, names, stack);
    return spey_blocks_append(b, &node);
}

/* k_upᵀ of each head's `nope` elements: what meets the latent in the cache. */
static spey_value absorb_k(spey_blocks *b, spey_value nope, const spey_attention_spec *a,
                           const spey_mla_spec *mla)
{
    const spey_weight_names names = { "attn.k_up", mla->kv_b, ".weight", false };
    const spey_weight stack = { .dtype = b->dtype,
                                .n_dims = 3,
                                .dims = { a->heads, mla->kv_rank, mla->nope },
                                .source = { .stack = SPEY_STACK_PIECES,
                                            .transpose = true,
                                            .row_piece = mla->nope,
                                            .row_stride = mla->nope + a->v_dim,
                                            .n_pieces = a->heads } };
    return head_linear(b, nope, &names, &stack);
}

static spey_value absorb_v(spey_blocks *b, spey_value latents, const spey_attention_spec *a,
                           const spey_mla_spec *mla)
{
    const spey_weight_names names = { "attn.v_up", mla->kv_b, ".weight", false };
    const spey_weight stack = { .dtype = b->dtype,
                                .n_dims = 3,
                                .dims = { a->heads, a->v_dim, mla->kv_rank },
                                .source = { .stack = SPEY_STACK_PIECES,
                                            .row_begin = mla->nope,
                                            .row_piece = a->v_dim,
                                            .row_stride = mla->nope + a->v_dim,
                                            .n_pieces = a->heads } };
    return head_linear(b, latents, &names, &stack);
}

static spey_value queries(spey_blocks *b, spey_value x, const spey_attention_spec *a,
                          const spey_mla_spec *mla)
{
    const int64_t head = mla->nope + a->rotary;
    const char *tensor = a->q;
    if (mla->q_rank) {
        const spey_linear_spec down = {
            .name = "attn.q_a", .tensor = mla->q_a, .outputs = mla->q_rank, .bias = mla->bias
        };
        x = spey_block_linear(b, x, &down);
        x = spey_block_norm(b, x, "attn.q_norm", mla->q_norm, mla->norm);
        tensor = mla->q_b;
    }
    const spey_linear_spec nope = { .name = "attn.q_nope", .tensor = tensor, .cut = SPEY_CUT_ROWS };
    const spey_linear_spec rope = { .name = "attn.q_rope", .tensor = tensor, .cut = SPEY_CUT_ROWS };
    spey_value parts[2];
    parts[0] = project(b, x, &nope, (head_rows){ 0, mla->nope, head, a->heads });
    parts[0] = absorb_k(b, parts[0], a, mla);
    parts[1] = project(b, x, &rope, (head_rows){ mla->nope, a->rotary, head, a->heads });
    parts[1] = rotate(b, parts[1], a, a->heads);
    return concat(b, parts, a->heads);
}

spey_value spey_block_mla(spey_blocks *b, spey_value x, const spey_attention_spec *a,
                          const spey_mla_spec *mla)
{
    const int64_t rank = mla->kv_rank;
    const spey_linear_spec down = { .name = "attn.latent", .tensor = mla->kv_a, .bias = mla->bias };
    const spey_linear_spec key = { .name = "attn.key", .tensor = mla->kv_a, .bias = mla->bias };
    spey_value qkv[3] = { queries(b, x, a, mla) }, k[2];
    k[0] = project(b, x, &down, (head_rows){ 0, rank, rank, 1 });
    k[0] = spey_block_norm(b, k[0], "attn.latent_norm", mla->kv_norm, mla->norm);
    k[1] = project(b, x, &key, (head_rows){ rank, a->rotary, a->rotary, 1 });
    k[1] = rotate(b, k[1], a, 1);
    qkv[1] = concat(b, k, 1);
    qkv[2] = k[0];
    spey_attention_spec latent = *a;
    latent.kv_heads = 1;
    latent.head_dim = rank + a->rotary;
    latent.v_dim = rank;
    spey_value attended = absorb_v(b, spey_block_attend(b, qkv, &latent), a, mla);
    const spey_linear_spec o = { .name = "attn.o",
                                 .tensor = a->o,
                                 .outputs = spey_blocks_cols(b, x),
                                 .bias = a->o_bias,
                                 .cut = SPEY_CUT_COLS };
    return spey_block_linear(b, attended, &o);
}
