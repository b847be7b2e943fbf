#!/usr/bin/env python3
"""Make tiny random checkpoints of odd sizes with the logits that Hugging Face transformers computes for them.

    make_architectures.py [--list] [--only NAME]... [--out DIR]

Writes DIR/NAME (default: tests/data/architectures) for each case below:

    config.json, model.safetensors  as save_pretrained writes them, BF16 (what transformers keeps in FP32 stays FP32)
    expected.safetensors            input_ids i64 [2, 20], sequence i64 [2, 32]: the prompts and their greedy continuation;
                                    logits f32 [2, 32, vocab]: of the whole sequence in one forward pass, in FP32 with eager
                                    attention, from the values as stored. With an encoder: input_ids are its input,
                                    sequence i64 [2, 13] the decoder's ids from the first on

Sizes are small, and no multiple of what a kernel might like: that is what these are for. The result depends on the
versions of torch and transformers in its last bits only. Needs: pip install torch transformers safetensors.
"""
import argparse
import pathlib
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SEQUENCES, PROMPT, LENGTH, DECODED = 2, 20, 32, 13


def decoder(hidden, heads, kv_heads, head_dim, intermediate, vocab, layers=2, **more):
    """The keys that Llama and its relatives share."""
    return dict(hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
                intermediate_size=intermediate, vocab_size=vocab, num_hidden_layers=layers,
                **{"max_position_embeddings": 128, **more})


def rope(rope_type, theta=10000.0, **more):
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": theta, **more}}


def longrope(rotary, original):
    """Frequencies that grow from element to element, as searched ones do."""
    steps = range(rotary // 2)
    return rope("longrope", short_factor=[1 + 0.05 * i for i in steps], long_factor=[1.5 + 0.75 * i for i in steps],
                original_max_position_embeddings=original, partial_rotary_factor=0.5)


# name: (configuration class, model class, keys). The sequences of 32 tokens are longer than the original positions of
# dynamic, yarn, llama3 and longrope, and than every window.
CASES = {
    "odd-llama": ("LlamaConfig", "LlamaForCausalLM", decoder(18, 3, 1, 12, 50, 251, layers=1)),
    "odd-llama-linear": ("LlamaConfig", "LlamaForCausalLM", decoder(
        20, 5, 5, 4, 27, 61, attention_bias=True, **rope("linear", factor=2.5))),
    "odd-llama-dynamic": ("LlamaConfig", "LlamaForCausalLM", decoder(
        27, 3, 3, 8, 37, 67, tie_word_embeddings=True, max_position_embeddings=12, **rope("dynamic", factor=3.0))),
    "odd-llama-yarn": ("LlamaConfig", "LlamaForCausalLM", decoder(
        45, 3, 1, 20, 35, 59, layers=1, mlp_bias=True,
        **rope("yarn", theta=500.0, factor=4.0, original_max_position_embeddings=10, beta_fast=4.0, beta_slow=0.5))),
    "odd-llama-llama3": ("LlamaConfig", "LlamaForCausalLM", decoder(
        35, 5, 1, 10, 45, 71, **rope("llama3", theta=100.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                     original_max_position_embeddings=16))),
    # What convert_architectures.py makes others from.
    "odd-llama-mha": ("LlamaConfig", "LlamaForCausalLM", decoder(36, 3, 3, 12, 35, 61)),
    "odd-llama-gqa": ("LlamaConfig", "LlamaForCausalLM", decoder(36, 6, 2, 6, 35, 61)),
    "odd-glm": ("GlmConfig", "GlmForCausalLM", decoder(
        36, 6, 2, 12, 35, 61, attention_bias=True, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.5})),
    "odd-qwen3": ("Qwen3Config", "Qwen3ForCausalLM", decoder(25, 5, 5, 12, 39, 53)),
    "odd-gemma2": ("Gemma2Config", "Gemma2ForCausalLM", decoder(
        36, 3, 1, 20, 45, 101, sliding_window=5, query_pre_attn_scalar=15)),
    "odd-gpt2": ("GPT2Config", "GPT2LMHeadModel", dict(
        n_embd=35, n_head=5, n_layer=2, n_inner=51, n_positions=41, vocab_size=73)),
    "odd-gpt-neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", dict(
        hidden_size=60, num_attention_heads=3, num_hidden_layers=1, intermediate_size=53, vocab_size=47,
        max_position_embeddings=64, rope_parameters={"rope_type": "default", "rope_theta": 10000.0,
                                                     "partial_rotary_factor": 0.3})),
    "odd-falcon": ("FalconConfig", "FalconForCausalLM", dict(
        hidden_size=60, num_attention_heads=6, num_kv_heads=2, num_hidden_layers=1, ffn_hidden_size=77, vocab_size=57,
        new_decoder_architecture=True, num_ln_in_parallel_attn=1, bias=True)),
    "odd-mixtral-top1": ("MixtralConfig", "MixtralForCausalLM", decoder(
        36, 3, 1, 12, 22, 51, layers=1, num_local_experts=3, num_experts_per_tok=1)),
    "odd-mixtral-top2": ("MixtralConfig", "MixtralForCausalLM", decoder(
        20, 5, 5, 4, 18, 57, layers=2, num_local_experts=5, num_experts_per_tok=2, sliding_window=7)),
    "odd-deepseek-v3": ("DeepseekV3Config", "DeepseekV3ForCausalLM", dict(
        hidden_size=36, num_attention_heads=3, num_key_value_heads=3, num_hidden_layers=2, intermediate_size=45,
        vocab_size=55, max_position_embeddings=128, q_lora_rank=14, kv_lora_rank=10, qk_nope_head_dim=12,
        qk_rope_head_dim=6, v_head_dim=10, n_routed_experts=6, n_group=3, topk_group=2, num_experts_per_tok=3,
        n_shared_experts=2, moe_intermediate_size=11, first_k_dense_replace=1, routed_scaling_factor=1.7)),
    "odd-gpt-oss": ("GptOssConfig", "GptOssForCausalLM", decoder(
        36, 3, 1, 12, 21, 49, num_local_experts=3, num_experts_per_tok=2, sliding_window=5,
        **rope("yarn", theta=150.0, factor=4.0, beta_fast=4.0, beta_slow=0.5, truncate=False,
               original_max_position_embeddings=12))),
    "odd-phi3-long": ("Phi3Config", "Phi3ForCausalLM", decoder(
        60, 5, 1, 12, 42, 63, layers=1, original_max_position_embeddings=12, **longrope(6, 12))),
    "odd-phi3-short": ("Phi3Config", "Phi3ForCausalLM", decoder(
        36, 3, 3, 12, 26, 63, layers=1, original_max_position_embeddings=40, sliding_window=9, **longrope(6, 40))),
    "odd-nemotron": ("NemotronConfig", "NemotronForCausalLM", decoder(
        45, 5, 1, 12, 37, 59, attention_bias=True, mlp_bias=True)),
    # Inputs are longer than the distance from which on relative biases are one.
    "odd-t5": ("T5Config", "T5ForConditionalGeneration", dict(
        d_model=20, num_heads=3, d_kv=6, d_ff=27, num_layers=1, num_decoder_layers=2, vocab_size=61,
        relative_attention_num_buckets=12, relative_attention_max_distance=15, decoder_start_token_id=0)),
    "odd-t5-gated": ("T5Config", "T5ForConditionalGeneration", dict(
        d_model=27, num_heads=5, d_kv=7, d_ff=18, num_layers=2, num_decoder_layers=1, vocab_size=59,
        relative_attention_num_buckets=8, relative_attention_max_distance=9, decoder_start_token_id=0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "odd-mt5": ("MT5Config", "MT5ForConditionalGeneration", dict(
        d_model=25, num_heads=3, d_kv=8, d_ff=21, num_layers=1, num_decoder_layers=1, vocab_size=53,
        decoder_start_token_id=0, tie_word_embeddings=False)),
    "odd-bart": ("BartConfig", "BartForConditionalGeneration", dict(
        d_model=36, encoder_layers=2, decoder_layers=1, encoder_attention_heads=3, decoder_attention_heads=2,
        encoder_ffn_dim=27, decoder_ffn_dim=35, vocab_size=57, max_position_embeddings=33, scale_embedding=True,
        decoder_start_token_id=2, forced_eos_token_id=None)),
}


def fill(model, torch):
    """Random weights that make logits of size 1 whose likeliest token leads."""
    for name, tensor in sorted(list(model.named_parameters()) + list(model.named_buffers())):
        if "inv_freq" in name or not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape)
        if "norm" in name or ".ln_" in name:
            offset = 1.0 if name.endswith("weight") and "Gemma" not in type(model).__name__ else 0.0
            tensor.data = offset + 0.1 * noise
        elif "relative_attention_bias" in name:
            tensor.data = noise
        elif tensor.dim() == 1 or "bias" in name:
            tensor.data = 0.1 * noise
        else:
            tensor.data = noise / (1.0 if "embed" in name or "wte" in name else tensor.shape[-1] ** 0.5)
    model.tie_weights()


def logits_of(model, ids, source, torch):
    inputs = dict(input_ids=ids) if source is None else dict(input_ids=source, decoder_input_ids=ids)
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits.float()


def make(name, folder):
    import torch
    import transformers
    from safetensors.torch import save_file
    transformers.utils.logging.disable_progress_bar()

    config_class, model_class, keys = CASES[name]
    ids_of = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    config = getattr(transformers, config_class)(**keys, **ids_of)
    torch.manual_seed(zlib.crc32(name.encode()))
    model = getattr(transformers, model_class)(config)
    fill(model, torch)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)

    eager = dict(dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
    stored = getattr(transformers, model_class).from_pretrained(folder, **eager)
    stored.eval()
    sequence, source, length = torch.randint(3, config.vocab_size, (SEQUENCES, PROMPT)), None, LENGTH
    expected = {"input_ids": sequence.clone()}
    if config.is_encoder_decoder:
        sequence, source, length = torch.full((SEQUENCES, 1), config.decoder_start_token_id), sequence, DECODED
    while sequence.shape[1] < length:
        best = logits_of(stored, sequence, source, torch)[:, -1].argmax(-1, keepdim=True)
        sequence = torch.cat([sequence, best], 1)
    expected["sequence"] = sequence
    expected["logits"] = logits_of(stored, sequence, source, torch).contiguous()
    save_file(expected, folder / "expected.safetensors")
    size = sum(path.stat().st_size for path in folder.iterdir())
    parameters = sum(p.numel() for p in stored.parameters())
    print(f"{folder}: {parameters} parameters, logits up to {expected['logits'].abs().max():.2f}, {size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--only", action="append", choices=sorted(CASES), metavar="NAME", help="this case alone")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/data/architectures", metavar="DIR")
    args = parser.parse_args()
    for name in args.only or CASES:
        if args.list:
            print(name)
            continue
        folder = args.out / name
        folder.mkdir(parents=True, exist_ok=True)
        make(name, folder)


if __name__ == "__main__":
    main()
