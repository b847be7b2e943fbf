#!/usr/bin/env python3
"""Make E4M3 checkpoints of a tiny Llama in the layouts that quantizers write, with the logits of their values.

    make_quantized.py [--from tests/data/architectures/llama2] [--out tests/data/quantized]

Writes OUT/NAME for each layout below: config.json, model.safetensors and expected.safetensors (sequence i64 [2, 32] as in the
source, logits f32 [2, 32, vocab] of the dequantized weights, computed here in double; inputs are not rounded).

    compressed-tensors  F8_E4M3 weight, weight_scale [out, 1] in BF16, dynamic inputs (llm-compressor, "FP8_DYNAMIC")
    modelopt            F8_E4M3 weight, weight_scale and input_scale scalars in F32, k_scale and v_scale, hf_quant_config.json
    fp8-blocks          F8_E4M3 weight, weight_scale_inv of blocks of 128 by 128 in F32 (DeepSeek-V3, Qwen3-FP8)

Needs: pip install numpy.
"""
import argparse
import json
import pathlib
import struct

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MAX, BLOCK = 448.0, 128


def e4m3_values():
    """The 256 numbers, NaN as NaN."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    value = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0**(exponent - 10.0))
    value[codes & 127 == 127] = np.nan
    return np.where(codes & 128, -value, value)


VALUES = e4m3_values()
POSITIVE = VALUES[:127]
MIDDLES = (POSITIVE[1:] + POSITIVE[:-1]) / 2


def to_e4m3(x):
    """Codes, rounded to nearest even, saturating."""
    magnitude = np.abs(x)
    low = np.searchsorted(MIDDLES, magnitude, side="left")
    tie = (low < len(MIDDLES)) & (MIDDLES[np.minimum(low, len(MIDDLES) - 1)] == magnitude)
    code = np.where(tie & (low % 2 == 1), low + 1, low)
    return (np.minimum(code, 126) | np.where(np.signbit(x), 128, 0)).astype(np.uint8)


def to_bf16(x):
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def read_safetensors(path):
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    types = {"F32": np.float32, "BF16": np.uint16, "I64": np.int64}
    return {name: np.frombuffer(data[slice(*t["data_offsets"])], types[t["dtype"]]).reshape(t["shape"])
            for name, t in header.items() if name != "__metadata__"}


def write_safetensors(path, tensors):
    """{name: (dtype, array)}"""
    header, at = {}, 0
    for name, (dtype, array) in sorted(tensors.items()):
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, (_, array) in sorted(tensors.items()):
            f.write(np.ascontiguousarray(array).tobytes())


# ---- layouts: a linear's weight to (tensors beside it, the values that it stands for) ----


def by_channel(w):
    scale = from_bf16(to_bf16(np.abs(w).max(1, keepdims=True) / MAX)).astype(np.float64)
    codes = to_e4m3(w / scale)
    return {"weight": ("F8_E4M3", codes), "weight_scale": ("BF16", to_bf16(scale))}, VALUES[codes] * scale


def by_tensor(w):
    scale = np.float32(np.abs(w).max() / MAX)
    codes = to_e4m3(w / scale)
    return {"weight": ("F8_E4M3", codes), "weight_scale": ("F32", np.array(scale)),
            "input_scale": ("F32", np.array(np.float32(0.0125)))}, VALUES[codes] * np.float64(scale)


def by_block(w):
    down, across = (-(-n // BLOCK) for n in w.shape)
    scales = np.empty((down, across), np.float32)
    for i in range(down):
        for j in range(across):
            scales[i, j] = np.abs(w[i * BLOCK:(i + 1) * BLOCK, j * BLOCK:(j + 1) * BLOCK]).max() / MAX
    each = np.repeat(np.repeat(scales, BLOCK, 0), BLOCK, 1)[:w.shape[0], :w.shape[1]].astype(np.float64)
    codes = to_e4m3(w / each)
    return {"weight": ("F8_E4M3", codes), "weight_scale_inv": ("F32", scales)}, VALUES[codes] * each


IGNORED = ["lm_head"]
LAYOUTS = {
    "compressed-tensors": (by_channel, {
        "quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed",
        "ignore": IGNORED, "kv_cache_scheme": None, "config_groups": {"group_0": {
            "targets": ["Linear"], "output_activations": None,
            "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False},
            "input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True,
                                  "dynamic": True}}}}),
    "modelopt": (by_tensor, {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8",
                             "ignore": IGNORED}),
    "fp8-blocks": (by_block, {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                              "weight_block_size": [BLOCK, BLOCK]}),
}

# ---- the model, in double ----


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rotate(x, angles):
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], -1)


def forward(config, weights, ids):
    n, heads, size = len(ids), config["num_attention_heads"], config["head_dim"]
    assert config["num_key_value_heads"] == heads and config["hidden_act"] == "silu"
    theta, eps = config["rope_parameters"]["rope_theta"], config["rms_norm_eps"]
    angles = np.arange(n)[:, None] * theta**(-np.arange(0, size, 2) / size)
    hidden = np.where(np.tri(n, dtype=bool), 0, -np.inf)
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        w = {name.split(".", 3)[3]: value for name, value in weights.items() if name.startswith(f"model.layers.{layer}.")}
        normed = rms_norm(x, w["input_layernorm.weight"], eps)
        q, k, v = ((normed @ w[f"self_attn.{p}_proj.weight"].T).reshape(n, heads, size).transpose(1, 0, 2) for p in "qkv")
        scores = rotate(q, angles) @ rotate(k, angles).transpose(0, 2, 1) / np.sqrt(size) + hidden
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(n, -1)
        x = x + mixed @ w["self_attn.o_proj.weight"].T
        normed = rms_norm(x, w["post_attention_layernorm.weight"], eps)
        gate, up = normed @ w["mlp.gate_proj.weight"].T, normed @ w["mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w["mlp.down_proj.weight"].T
    return rms_norm(x, weights["model.norm.weight"], eps) @ weights["lm_head.weight"].T


def make(name, source, out):
    quantize, quantization = LAYOUTS[name]
    config = json.loads((source / "config.json").read_text())
    expected = read_safetensors(source / "expected.safetensors")
    tensors, weights = {}, {}
    for key, bits in read_safetensors(source / "model.safetensors").items():
        value = from_bf16(bits).astype(np.float64)
        prefix = key.removesuffix("weight")
        if prefix.endswith("_proj."):
            beside, value = quantize(value)
            tensors.update({prefix + ending: tensor for ending, tensor in beside.items()})
            if name == "modelopt" and prefix.endswith(("k_proj.", "v_proj.")):
                tensors[prefix + prefix[-7] + "_scale"] = ("F32", np.array(np.float32(0.03)))
        else:
            tensors[key] = ("BF16", bits)
        weights[key] = value
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}, indent=1) + "\n")
    if name == "modelopt":
        inner = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": IGNORED}
        text = json.dumps({"producer": {"name": "modelopt", "version": "0.29.0"}, "quantization": inner}, indent=1)
        (folder / "hf_quant_config.json").write_text(text + "\n")
    sequence = expected["sequence"]
    logits = np.stack([forward(config, weights, ids) for ids in sequence]).astype(np.float32)
    write_safetensors(folder / "expected.safetensors", {"sequence": ("I64", sequence), "logits": ("F32", logits)})
    plain = {key: from_bf16(bits).astype(np.float64) for key, bits in read_safetensors(source / "model.safetensors").items()}
    check = np.stack([forward(config, plain, ids) for ids in sequence])
    error = ((check - expected["logits"])**2).sum() / (expected["logits"]**2).sum()
    cost = ((logits - check)**2).sum() / (check**2).sum()
    print(f"{name}: the source's own logits are met with NMSE {error:.1e}; quantization costs {cost:.1e}")
    assert error < 1e-10


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=pathlib.Path, default=ROOT / "tests/data/architectures/llama2")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/data/quantized")
    args = parser.parse_args()
    for name in LAYOUTS:
        make(name, args.source, args.out)


if __name__ == "__main__":
    main()
