/* What the rows of attention on tensor cores share on the host: whom they serve, how they cut the work, and the parts
 * that one row borrows from another's file. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_ROWS_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_ROWS_CUH

#include "kernels/attention/attention_copy.cuh"
#include "kernels/attention/attention_work.cuh"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"

static inline int device_attribute(cudaDeviceAttr attribute)
{
    int device = 0, n = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&n, attribute, device);
    return n;
}

static inline int sm_count()
{
    return device_attribute(cudaDevAttrMultiProcessorCount);
}

static inline bool is_hopper()
{
    return device_attribute(cudaDevAttrComputeCapabilityMajor) == 9;
}

/* Heads of more than 256 elements are for rows that have kernels of their own. */
static inline bool is_latent(const spey_attention_args *a)
{
    return a->k_dim > 256 || a->v_dim > 256;
}

/* CTAs that share an item when a context has few (by its limits: what comes in a step must not change bits); 0: it has
 * many. */
static inline int few_item_ctas(const spey_attention_args *a)
{
    const int64_t items = a->seqs_max * a->n_kv_heads;
    if (items >= 64 || is_latent(a)) return 0;
    if (!is_hopper()) return 1;
    return items <= 32 ? 4 : 2;
}

/* Splits of this context: a cluster takes 512 tokens for each of its CTAs. */
static inline int split_of(const spey_attention_args *a)
{
    const int split =
        split_tokens_of(a->seqs_max, a->n_heads, a->n_kv_heads, a->v_dim, a->kv_len_max);
    const int ctas = few_item_ctas(a);
    return ctas > 1 && split < ctas * 512 ? ctas * 512 : split;
}

static inline size_t partials(const spey_attention_args *a)
{
    const int64_t split = split_of(a);
    if (a->kv_len_max <= split) return 0; /* no row is cut */
    return static_cast<size_t>(a->seqs_max * a->n_heads * ((a->kv_len_max - 1) / split + 1));
}

static inline size_t workspace(const void *args)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    return partials(a) * static_cast<size_t>(a->v_dim + 2) * sizeof(float);
}

static inline attention_plan plan_of(const spey_attention_args *a)
{
    attention_plan plan;
    plan.split_tokens = split_of(a);
    plan.splits_max = static_cast<int>((a->kv_len_max - 1) / plan.split_tokens + 1);
    plan.group = static_cast<int>(a->n_heads / a->n_kv_heads);
    plan.item_heads = plan.group > 8 && a->k_dim <= 128 && a->v_dim <= 128 ? 16 : 8;
    plan.chunks = (plan.group + plan.item_heads - 1) / plan.item_heads;
    const int ctas = few_item_ctas(a);
    plan.few_items = ctas > 0;
    plan.cluster = ctas > 1 ? ctas : 1;
    plan.all_decode = a->rows <= a->batch->n_seqs;
    plan.no_decode = false;
    plan.partial = static_cast<float *>(a->workspace);
    plan.partial_max = plan.partial + partials(a) * static_cast<size_t>(a->v_dim);
    plan.partial_sum = plan.partial_max + partials(a);
    return plan;
}

static inline unsigned least_of(int64_t a, int64_t b)
{
    return static_cast<unsigned>(a < b ? a : b);
}

/* Whole chunks of 16 bytes everywhere, whole strips in a block, heads of at most these sizes. */
static inline bool supports_mma(const spey_attention_args *a, int element_bytes, int64_t k_max,
                                int64_t v_max)
{
    const spey_kv_view &kv = a->kv;
    if (a->dtype != SPEY_F16 && a->dtype != SPEY_BF16) return false;
    if (!writes_output(a)) return false;
    if (a->relative.bias || a->scale <= 0.0f || a->precision != SPEY_PRECISION_16) return false;
    const int64_t bytes = kv.block_bytes | kv.k_offset | kv.v_offset | kv.k_head_bytes |
                          kv.v_head_bytes | kv.k_token_bytes | kv.v_token_bytes |
                          (a->k_dim | a->v_dim) * element_bytes;
    if (bytes % 16 != 0 || (a->q_pitch | a->out_pitch) % 8 != 0) return false;
    if (kv.block_tokens % STRIP_TOKENS != 0 || !is_aligned16(kv.base)) return false;
    if (!is_aligned16(a->q) || !is_aligned16(a->out)) return false;
    return a->k_dim <= k_max && a->v_dim <= v_max && a->n_heads <= UINT16_MAX;
}

/* The decode part of attention/mma_sm80, and of attention/mma_e4m3_sm80: sequences with one token in the step. */
extern "C" void spey_attention_mma_decode(const spey_attention_args *a, const spey_lane *lane);
extern "C" void spey_attention_mma_e4m3_decode(const spey_attention_args *a, const spey_lane *lane);

#endif
