#!/usr/bin/env python3
"""Spey beside Hugging Face Transformers on this GPU, in one run: Llama-3-8B's shape with random weights in BF16.

    python3 bench/hf_peer.py                       # batches of 1, 64 and 256; under a minute without the last
    python3 bench/hf_peer.py --batch 64 --json out.json

Both get the same batch of random prompts at once and write the same number of tokens greedily; output tokens count over the whole
time, prefill included. Transformers runs generate() with SDPA attention. Needs torch, transformers, and spey with its
CUDA plug-in (build/release). --layers 2 --hidden 256 makes a small model, to try the program on any machine.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

# tokenizers.py of this folder is not the package that Transformers imports.
sys.path = [folder for folder in sys.path if pathlib.Path(folder or ".").resolve() != pathlib.Path(__file__).resolve().parent]
SHAPE = "llama-3-8b"


def make_model(options):
    import torch
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=options.hidden, intermediate_size=options.hidden * 7 // 2, num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 128, num_key_value_heads=max(1, options.hidden // 512), vocab_size=128256,
        max_position_embeddings=8192, rope_theta=500000.0, rms_norm_eps=1e-5, tie_word_embeddings=False,
        attn_implementation="sdpa", bos_token_id=128000, eos_token_id=None, pad_token_id=None)
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(options.device):
        model = transformers.LlamaForCausalLM(config)
    return model.eval()


def run_hf(model, batch, options):
    """Seconds of one generate()."""
    import torch

    ids = torch.randint(0, 100000, (batch, options.isl), device=options.device)
    on_gpu = options.device.startswith("cuda")

    def generate(n_tokens):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.monotonic()
        with torch.inference_mode():
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_tokens,
                                 min_new_tokens=n_tokens, do_sample=False, pad_token_id=0)
        if on_gpu:
            torch.cuda.synchronize()
        if tuple(out.shape) != (batch, options.isl + n_tokens):
            raise RuntimeError(f"generate() gave {tuple(out.shape)}")
        return time.monotonic() - start

    generate(4)
    return generate(options.osl)


def run_spey(batch, options):
    requests = batch if batch > 1 else 3
    command = [options.spey, "bench", "throughput", "--shape", SHAPE, "--dtype", "bf16", "--device", options.device,
               "--isl", options.isl, "--osl", options.osl, "--batch", batch, "--requests", requests, "--step-tokens",
               max(512, min(4096, 32 * batch)), "--json", *options.spey_options]
    command = [str(word) for word in command]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    if out.returncode:
        raise RuntimeError(f"{' '.join(command)}: {out.stderr.strip()}")
    report = json.loads(out.stdout)
    return " ".join(command), report["output_tokens_per_second"]


def card():
    query = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, action="append", help="sequences at once (default: 1, 64 and 256)")
    parser.add_argument("--isl", type=int, default=128)
    parser.add_argument("--osl", type=int, default=128)
    parser.add_argument("--runs", type=int, default=1, help="of each, the median counts")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--spey", default="build/release/spey", help="empty: Transformers alone")
    parser.add_argument("--spey-options", nargs="*", default=[], help="more of them, behind all others")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    import torch
    import transformers

    model = make_model(options)
    report = {"shape": SHAPE, "isl": options.isl, "osl": options.osl, "card": card(), "torch": torch.__version__,
              "transformers": transformers.__version__,
              "parameters": sum(weight.numel() for weight in model.parameters()), "batches": []}
    for batch in options.batch or [1, 64, 256]:
        hf = statistics.median(batch * options.osl / run_hf(model, batch, options) for _ in range(options.runs))
        entry = {"batch": batch, "transformers_tokens_per_second": round(hf, 1)}
        if options.spey:
            runs = [run_spey(batch, options) for _ in range(options.runs)]
            spey = statistics.median(run[1] for run in runs)
            entry |= {"spey_tokens_per_second": round(spey, 1), "times": round(spey / hf, 2), "command": runs[0][0]}
        report["batches"].append(entry)
        print(json.dumps(entry), flush=True)
        if options.json:
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump(report, file, indent=1)
    print(json.dumps({key: value for key, value in report.items() if key != "batches"}))


if __name__ == "__main__":
    main()
