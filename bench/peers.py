#!/usr/bin/env python3
"""Spey beside llama.cpp's family on this CPU, in one run: decode and prefill of a published shape with random weights.

    python3 bench/peers.py --shape tinyllama-1.1b --dtype bf16 --peer llama.cpp=PATH/llama-bench --peer ik=PATH/llama-bench

Needs spey built (build/release/spey), numpy and gguf (pip), and the peers' llama-bench. Writes the random GGUF under
build/peers once. Runs alternate between the programs; medians are reported.
"""

import argparse
import json
import os
import statistics
import subprocess

SHAPES = {  # hidden, layers, heads, kv heads, head size, mlp, vocabulary, tied, theta
    "tinyllama-1.1b": (2048, 22, 32, 4, 64, 5632, 32000, False, 10000.0),
    "llama-3.2-1b": (2048, 16, 32, 8, 64, 8192, 128256, True, 500000.0),
}


def write_gguf(path, shape, dtype):
    import gguf
    import numpy as np

    hidden, layers, heads, kv_heads, head_dim, mlp, vocab, tied, theta = SHAPES[shape]
    w = gguf.GGUFWriter(path, "llama")
    w.add_name(shape)
    w.add_context_length(4096)
    w.add_embedding_length(hidden)
    w.add_block_count(layers)
    w.add_feed_forward_length(mlp)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_rope_dimension_count(head_dim)
    w.add_rope_freq_base(theta)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(vocab)
    # A made-up vocabulary: servers want to turn ids into text.
    w.add_tokenizer_model("llama")
    w.add_token_list(["<unk>", "<s>", "</s>"] + [f"t{i}" for i in range(3, vocab)])
    w.add_token_scores([0.0] * vocab)
    w.add_token_types([gguf.TokenType.UNKNOWN] + 2 * [gguf.TokenType.CONTROL] + (vocab - 3) * [gguf.TokenType.NORMAL])
    w.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if dtype == "bf16" else gguf.LlamaFileType.MOSTLY_F16)
    rng = np.random.default_rng(1)

    def matrix(name, rows, cols):
        values = (rng.standard_normal((rows, cols), dtype=np.float32) * 0.02)
        if dtype == "bf16":
            bits = (values.view(np.uint32) >> 16).astype(np.uint16)
            w.add_tensor(name, bits.view(np.uint8).reshape(rows, 2 * cols), raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            w.add_tensor(name, values.astype(np.float16))

    matrix("token_embd.weight", vocab, hidden)
    w.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    if not tied:
        matrix("output.weight", vocab, hidden)
    for i in range(layers):
        w.add_tensor(f"blk.{i}.attn_norm.weight", np.ones(hidden, np.float32))
        w.add_tensor(f"blk.{i}.ffn_norm.weight", np.ones(hidden, np.float32))
        matrix(f"blk.{i}.attn_q.weight", heads * head_dim, hidden)
        matrix(f"blk.{i}.attn_k.weight", kv_heads * head_dim, hidden)
        matrix(f"blk.{i}.attn_v.weight", kv_heads * head_dim, hidden)
        matrix(f"blk.{i}.attn_output.weight", hidden, heads * head_dim)
        matrix(f"blk.{i}.ffn_gate.weight", mlp, hidden)
        matrix(f"blk.{i}.ffn_up.weight", mlp, hidden)
        matrix(f"blk.{i}.ffn_down.weight", hidden, mlp)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def gguf_of(shape, dtype):
    """Path of the random GGUF, written if it is not there."""
    path = f"build/peers/{shape}-{dtype}.gguf"
    if not os.path.exists(path):
        os.makedirs("build/peers", exist_ok=True)
        write_gguf(path + ".tmp", shape, dtype)
        os.rename(path + ".tmp", path)
    return path


def run_peer(binary, gguf_path, args):
    """{"prefill": tok/s, "decode": tok/s}"""
    out = subprocess.run([binary, "-m", gguf_path, "-t", str(args.threads), "-p", str(args.prompt), "-n", str(args.tokens),
                          "-r", "1", "-o", "json"], capture_output=True, text=True, check=True).stdout
    rates = {}
    for row in json.loads(out[out.index("["):]):
        if row["n_prompt"] and not row["n_gen"]:
            rates["prefill"] = row["avg_ts"]
        elif row["n_gen"] and not row["n_prompt"]:
            rates["decode"] = row["avg_ts"]
    return rates


def run_batched(binary, gguf_path, args, streams):
    """Aggregate decode rate of llama-batched-bench, beside llama-bench; None when it is not there."""
    binary = os.path.join(os.path.dirname(binary), "llama-batched-bench")
    if not os.path.exists(binary):
        return None
    out = subprocess.run([binary, "-m", gguf_path, "-t", str(args.threads), "-c", "4096", "-npp", "32", "-ntg",
                          str(args.tokens), "-npl", str(streams)], capture_output=True, text=True).stdout
    rows = [l.split("|") for l in out.splitlines() if l.strip().startswith("|") and l.split("|")[1].strip().isdigit()]
    return float(rows[-1][8]) if rows else None


def run_spey(args, batch):
    isl = args.prompt if batch == 1 else 32
    out = subprocess.run([args.spey, "bench", "latency", "--shape", args.shape, "--dtype", args.dtype, "--threads",
                          str(args.threads), "--isl", str(isl), "--osl", str(args.tokens), "--batch", str(batch),
                          "--iterations", "1", "--warmup", "1", "--json"], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tinyllama-1.1b")
    parser.add_argument("--dtype", choices=["bf16", "f16"], default="bf16")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=LLAMA_BENCH")
    parser.add_argument("--spey", default="build/release/spey")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--streams", type=int, default=16)
    args = parser.parse_args()

    gguf_path = gguf_of(args.shape, args.dtype) if args.peer else None
    results = {}

    def note(name, figure, value):
        if value is not None:
            results.setdefault(name, {}).setdefault(figure, []).append(value)

    share = []
    for _ in range(args.runs):
        one, many = run_spey(args, 1), run_spey(args, args.streams)
        note("spey", "prefill", one["prefill_tokens_per_second"])
        note("spey", "decode", one["decode_tokens_per_second"])
        note("spey", f"decode x{args.streams}", many["decode_tokens_per_second"])
        share.append(one["weight_bytes_per_second"] / one["read_bandwidth_bytes_per_second"])
        for peer in args.peer:
            name, binary = peer.split("=", 1)
            rates = run_peer(binary, gguf_path, args)
            note(name, "prefill", rates.get("prefill"))
            note(name, "decode", rates.get("decode"))
            note(name, f"decode x{args.streams}", run_batched(binary, gguf_path, args, args.streams))
    figures = ["decode", "prefill", f"decode x{args.streams}"]
    print(f"{args.shape} {args.dtype}, {args.threads} threads, prompt {args.prompt}, medians of {args.runs} alternating runs")
    print(f"{'tokens/s':14s}" + "".join(f"{f:>16s}" for f in figures))
    for name, values in results.items():
        print(f"{name:14s}" + "".join(f"{statistics.median(values[f]):16.2f}" if f in values else f"{'–':>16s}"
                                      for f in figures))
    print(f"spey decode reads weights at {100 * statistics.median(share):.1f} % of the measured read bandwidth")


if __name__ == "__main__":
    main()
