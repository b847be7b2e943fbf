#!/usr/bin/env python3
"""Time from the start of the process to the first token, of an engine whose file is cached.

    python3 bench/first_token.py --device cuda                  # Llama-3-8B, BF16: writes 32 GB to --folder
    python3 bench/first_token.py --layers 2 --folder /tmp/small # two of its layers

Makes a checkpoint of random weights, compiles it, then runs `spey run ENGINE --ids … --max-tokens 1` several times. Needs spey
built (build/release) and numpy. The folder is removed at the end.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import time

HIDDEN, MLP, HEADS, KV_HEADS, HEAD, VOCABULARY = 4096, 14336, 32, 8, 128, 128256


def tensors(layers):
    """Name and shape of every tensor."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for i in range(layers):
        layer = f"model.layers.{i}."
        for name, rows, cols in (("self_attn.q_proj", HEADS * HEAD, HIDDEN), ("self_attn.k_proj", KV_HEADS * HEAD, HIDDEN),
                                 ("self_attn.v_proj", KV_HEADS * HEAD, HIDDEN), ("self_attn.o_proj", HIDDEN, HEADS * HEAD),
                                 ("mlp.gate_proj", MLP, HIDDEN), ("mlp.up_proj", MLP, HIDDEN), ("mlp.down_proj", HIDDEN, MLP)):
            yield f"{layer}{name}.weight", (rows, cols)
        yield f"{layer}input_layernorm.weight", (HIDDEN,)
        yield f"{layer}post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def write_checkpoint(folder, layers):
    import numpy as np

    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "hidden_size": HIDDEN,
              "intermediate_size": MLP, "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
              "hidden_act": "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 8192, "rope_theta": 500000.0,
              "tie_word_embeddings": False, "vocab_size": VOCABULARY, "bos_token_id": 128000, "eos_token_id": 128001}
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, shape in tensors(layers):
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stretch = (np.random.default_rng(1).standard_normal(1 << 24, dtype=np.float32) * 0.02).view(np.uint32) >> 16
    stretch = stretch.astype(np.uint16).tobytes()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for begin in range(0, end, len(stretch)):
            file.write(stretch[: end - begin])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spey", default="build/release/spey")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("build/first_token"), help="must not exist")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    checkpoint, engine = args.folder / "checkpoint", args.folder / "model.spey"
    try:
        write_checkpoint(checkpoint, args.layers)
        start = time.monotonic()
        subprocess.run([args.spey, "build", checkpoint, "-o", engine, "--quiet"], check=True)
        built = time.monotonic() - start
        shutil.rmtree(checkpoint)
        times = []
        for _ in range(args.runs):
            start = time.monotonic()
            out = subprocess.run([args.spey, "run", engine, "--ids", "128000,1,2,3,4,5,6,7", "--max-tokens", "1", "--ignore-eos",
                                  "--context", "2048", "--device", args.device, "--json"], check=True, capture_output=True, text=True)
            whole = time.monotonic() - start
            times.append((json.loads(out.stdout)["timings"]["first_token_ms"], whole * 1e3))
        size = engine.stat().st_size
        print(f"engine of {size / 1e9:.1f} GB, built in {built:.1f} s; first token after "
              f"{statistics.median(t[0] for t in times):.0f} ms, process {statistics.median(t[1] for t in times):.0f} ms "
              f"(medians of {args.runs}; all: {', '.join(f'{t[0]:.0f}' for t in times)})")
    finally:
        shutil.rmtree(args.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
