#!/usr/bin/env python3
"""Make fixtures of models that transformers does not have, by giving the tensors of another fixture their layout.

    convert_architectures.py [--list] [--only NAME]... [--folder DIR]

Reads and writes DIR (default: tests/data/architectures). The names and the order of rows are those of the published
modeling files (modeling_internlm2.py, modeling_baichuan.py, modeling_chatglm.py). Where the model computes what its source
computes, the expected logits are the source's. Baichuan 13B does not: its logits are those of transformers' Llama with the
rotation taken out and ALiBi added to the mask. Needs: pip install torch transformers safetensors.
"""
import argparse
import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def rename(tensors, names):
    """The tensors whose names are left, with the first fitting pair of `names` applied; "" drops."""
    out = {}
    for name, tensor in tensors.items():
        for old, new in names:
            if old in name:
                name = name.replace(old, new) if new else ""
                break
        if name:
            out[name] = tensor
    return out


def layers_of(config):
    return range(config["num_hidden_layers"])


def take_qkv(tensors, layer, kind="weight"):
    return [tensors[f"model.layers.{layer}.self_attn.{which}_proj.{kind}"] for which in "qkv"]


def by_kv_head(q, k, v, kv_heads):
    """Each KV head's queries, then its key, then its value."""
    groups = [part.reshape(kv_heads, -1, part.shape[-1]) for part in (q, k, v)]
    return torch.cat(groups, 1).reshape(-1, q.shape[-1])


def to_internlm2(config, tensors):
    names = [("embed_tokens", "tok_embeddings"), ("lm_head", "output"), ("input_layernorm", "attention_norm"),
             ("post_attention_layernorm", "ffn_norm"), ("mlp.gate_proj", "feed_forward.w1"),
             ("mlp.up_proj", "feed_forward.w3"), ("mlp.down_proj", "feed_forward.w2"),
             ("self_attn.o_proj", "attention.wo"), ("_proj", "")]
    out = rename(tensors, names)
    for i in layers_of(config):
        out[f"model.layers.{i}.attention.wqkv.weight"] = by_kv_head(*take_qkv(tensors, i), config["num_key_value_heads"])
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
            "vocab_size", "hidden_act", "rms_norm_eps", "max_position_embeddings")
    return {**{key: config[key] for key in keys}, "architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2",
            "bias": False, "rope_theta": config["rope_parameters"]["rope_theta"], "rope_scaling": None}, out


def to_baichuan(config, tensors):
    out = rename(tensors, [("q_proj", ""), ("k_proj", ""), ("v_proj", "")])
    for i in layers_of(config):
        out[f"model.layers.{i}.self_attn.W_pack.weight"] = torch.cat(take_qkv(tensors, i))
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "hidden_act",
            "rms_norm_eps")
    return {key: config[key] for key in keys} | {"architectures": ["BaichuanForCausalLM"], "model_type": "baichuan"}, out


def to_baichuan_7b(config, tensors):
    made, out = to_baichuan(config, tensors)
    return {**made, "architectures": ["BaiChuanForCausalLM"], "max_position_embeddings": 128, "model_max_length": 128}, out


def to_baichuan_13b(config, tensors):
    made, out = to_baichuan(config, tensors)
    return {**made, "model_max_length": 128}, out


def to_chatglm(config, tensors):
    names = [("model.embed_tokens", "transformer.embedding.word_embeddings"), ("lm_head", "transformer.output_layer"),
             ("model.norm", "transformer.encoder.final_layernorm"), ("self_attn.o_proj", "self_attention.dense"),
             ("mlp.gate_up_proj", "mlp.dense_h_to_4h"), ("mlp.down_proj", "mlp.dense_4h_to_h"), ("_proj", "")]
    out = rename(tensors, names)
    out = rename(out, [("model.layers", "transformer.encoder.layers")])
    for i in layers_of(config):
        for kind in ("weight", "bias"):
            out[f"transformer.encoder.layers.{i}.self_attention.query_key_value.{kind}"] = torch.cat(
                take_qkv(tensors, i, kind))
    made = {"architectures": ["ChatGLMModel"], "model_type": "chatglm", "add_bias_linear": False, "add_qkv_bias": True,
            "apply_query_key_layer_scaling": True, "apply_residual_connection_post_layernorm": False,
            "multi_query_attention": True, "original_rope": True, "post_layer_norm": True, "rmsnorm": True,
            "rope_ratio": config["rope_parameters"]["rope_theta"] / 10000}
    renamed = {"ffn_hidden_size": "intermediate_size", "hidden_size": "hidden_size", "kv_channels": "head_dim",
               "layernorm_epsilon": "rms_norm_eps", "multi_query_group_num": "num_key_value_heads",
               "num_attention_heads": "num_attention_heads", "num_layers": "num_hidden_layers",
               "padded_vocab_size": "vocab_size", "seq_length": "max_position_embeddings"}
    return {**made, **{new: config[old] for new, old in renamed.items()}}, out


def alibi_slopes(heads):
    """_get_interleave of modeling_baichuan.py."""
    if heads & (heads - 1) == 0:
        return [2.0 ** (-8.0 * (i + 1) / heads) for i in range(heads)]
    power = 1 << (heads.bit_length() - 1)
    return alibi_slopes(power) + alibi_slopes(2 * power)[0::2][:heads - power]


class StillRotary(torch.nn.Module):
    def __init__(self, head_dim):
        super().__init__()
        self.head_dim = head_dim

    def forward(self, x, position_ids):
        ones = torch.ones(*position_ids.shape, self.head_dim)
        return ones, torch.zeros_like(ones)


def expect_alibi(source, expected):
    """The source fixture's prompts, continued and judged with ALiBi in place of the rotation."""
    from transformers import LlamaForCausalLM
    model = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    model.model.rotary_emb = StillRotary(model.config.head_dim)
    slopes = torch.tensor(alibi_slopes(model.config.num_attention_heads))

    def logits_of(ids):
        n = ids.shape[1]
        mask = torch.full((n, n), torch.finfo(torch.float32).min).triu(1) + slopes[:, None, None] * torch.arange(n)
        with torch.no_grad():
            return model(input_ids=ids, attention_mask=mask.expand(ids.shape[0], -1, -1, -1), use_cache=False).logits

    sequence = expected["input_ids"]
    while sequence.shape[1] < expected["sequence"].shape[1]:
        sequence = torch.cat([sequence, logits_of(sequence)[:, -1].argmax(-1, keepdim=True)], 1)
    return {"input_ids": expected["input_ids"], "sequence": sequence, "logits": logits_of(sequence).contiguous()}


# name: (source, conversion, what computes the expected logits; None: they are the source's)
CASES = {
    "internlm2": ("odd-llama-gqa", to_internlm2, None),
    "baichuan-7b": ("odd-llama-mha", to_baichuan_7b, None),
    "baichuan-13b": ("odd-llama-mha", to_baichuan_13b, expect_alibi),
    "chatglm": ("odd-glm", to_chatglm, None),
}


def convert(name, root):
    source_name, conversion, expect = CASES[name]
    source, folder = root / source_name, root / name
    folder.mkdir(exist_ok=True)
    config, tensors = conversion(json.loads((source / "config.json").read_text()), load_file(source / "model.safetensors"))
    config = {**config, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
              "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "model.safetensors")
    if expect:
        save_file(expect(source, load_file(source / "expected.safetensors")), folder / "expected.safetensors")
    else:
        shutil.copyfile(source / "expected.safetensors", folder / "expected.safetensors")
    print(f"{folder}: {len(tensors)} tensors from {source_name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the names of the cases and their sources")
    parser.add_argument("--only", action="append", choices=sorted(CASES), metavar="NAME", help="this case alone")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "tests/data/architectures", metavar="DIR")
    args = parser.parse_args()
    for name in args.only or CASES:
        if args.list:
            print(name, CASES[name][0])
        else:
            convert(name, args.folder)


if __name__ == "__main__":
    main()
