#!/usr/bin/env python3
"""Published workloads on this GPU, beside the published figures.

    python3 bench/published.py                      # all of them: half an hour on an H200
    python3 bench/published.py --only 8b --only gptj --json results.json

Random weights, made on the device; greedy; every token counts over the whole time, ramp-up and tail included. Needs spey
and its CUDA plug-in built (build/release), and an idle card.
"""

import argparse
import json
import subprocess
import sys

LLAMA_CPP = "llama.cpp F16, H200, Sept 2026"
TENSORRT = "TensorRT-LLM, first; later"
FP8 = "--dtype bf16 --quant fp8 --quant-scales tensor --kv-dtype fp8"  # as TensorRT-LLM's
# Name, arguments of spey bench, (whose figure, figures), which rate.
WORKLOADS = [
    ("8b-bf16-1", "latency --shape llama-3-8b --dtype bf16 --isl 128 --osl 128 --batch 1", (LLAMA_CPP, [211]), "output"),
    ("8b-fp8-1", "latency --shape llama-3-8b --dtype bf16 --quant fp8 --quant-scales tensor --isl 128 --osl 128 --batch 1", None, "output"),
    ("8b-bf16-64", "throughput --shape llama-3-8b --dtype bf16 --isl 128 --osl 128 --batch 64 --step-tokens 2048",
     (LLAMA_CPP, [5733]), "output"),
    ("8b-bf16-256", "throughput --shape llama-3-8b --dtype bf16 --isl 128 --osl 128 --batch 256 --step-tokens 4096",
     (LLAMA_CPP, [9817]), "output"),
    ("8b-fp8-256", "throughput --shape llama-3-8b --dtype bf16 --quant fp8 --kv-dtype fp8 --isl 128 --osl 128 --batch 256 "
     "--step-tokens 4096", (LLAMA_CPP, [9817]), "output"),
    ("8b-bf16-64-long", "throughput --shape llama-3-8b --dtype bf16 --isl 128 --osl 2048 --batch 64 --requests 64 "
     "--step-tokens 2048 --warmup 0", (LLAMA_CPP, [5611]), "output"),
    ("8b-bf16-prefill", "latency --shape llama-3-8b --dtype bf16 --isl 2048 --osl 2 --batch 1 --step-tokens 2048",
     (LLAMA_CPP, [24900]), "prefill"),
    ("gptj-fp8-64", f"throughput --shape gpt-j-6b {FP8} --isl 128 --osl 128 --batch 64 --step-tokens 2048",
     ("TensorRT-LLM, H100", [10907]), "output"),
    ("70b-fp8-128", f"throughput --shape llama-2-70b {FP8} --isl 128 --osl 128 --batch 960 --step-tokens 4096 --warmup 0",
     (TENSORRT, [3803, 4056]), "output"),
    ("70b-fp8-2048", f"throughput --shape llama-2-70b {FP8} --isl 128 --osl 2048 --batch 192 --step-tokens 4096 --warmup 0",
     (TENSORRT, [2941, 4336]), "output"),
    # Llama 2 ends at 4,096 positions.
    ("70b-fp8-4096", f"throughput --shape llama-3-70b {FP8} --isl 128 --osl 4096 --batch 80 --step-tokens 4096 --warmup 0",
     (TENSORRT, [1946, 2872]), "output"),
]


def card():
    query = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
    try:
        out = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        out = ""
    return out.splitlines()[0] if out else "unknown card"


def measure(spey, arguments, more):
    command = [spey, "bench", *arguments.split(), "--device", "cuda", *more]
    out = subprocess.run([*command, "--json"], capture_output=True, text=True)
    if out.returncode:
        raise RuntimeError(out.stderr.strip() or f"exit status {out.returncode}")
    return " ".join(["spey", *command[1:]]), json.loads(out.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spey", default="build/release/spey")
    parser.add_argument("--only", action="append", default=[], help="workloads whose name begins so (may be repeated)")
    parser.add_argument("--json", help="write all figures there")
    parser.add_argument("more", nargs="*", help="further arguments of spey bench, behind --: -- --tune --ahead")
    args = parser.parse_args()
    chosen = [w for w in WORKLOADS if not args.only or w[0].startswith(tuple(args.only))]
    if not chosen:
        parser.error("no such workload; there are " + ", ".join(w[0] for w in WORKLOADS))
    results, failed = [], False
    print(f"{card()}\n\n| workload | tokens/s | published | ratio | seconds | between tokens, p50 ms |\n|---|---|---|---|---|---|")
    for name, arguments, published, rate in chosen:
        try:
            command, out = measure(args.spey, arguments, args.more)
        except (RuntimeError, ValueError) as error:
            print(f"| {name} | failed: {error} | | | | |", flush=True)
            failed = True
            continue
        value = out[f"{rate}_tokens_per_second"]
        whose, figures = published if published else ("", [])
        beside = f"{' / '.join(map(str, figures))} ({whose})" if figures else ""
        ratio = " / ".join(f"{value / figure:.2f}" for figure in figures)
        print(f"| {name} | {value:.0f} | {beside} | {ratio} | {out['seconds']:.1f} | {out['inter_token_ms_p50']:.2f} |", flush=True)
        results.append({"name": name, "command": command, "published": figures, "result": out})
        if args.json:
            with open(args.json, "w") as file:
                json.dump({"card": card(), "results": results}, file, indent=1)
    print()
    for result in results:
        print(result["command"])
    sys.exit(failed)


if __name__ == "__main__":
    main()
