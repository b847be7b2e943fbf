#!/usr/bin/env python3
"""Spey beside llama.cpp's server under concurrent clients with mixed lengths, on this CPU, in one run.

    python3 bench/clients.py --shape tinyllama-1.1b --server PATH/llama-server --clients 8 16 32

Both get the same requests: prompt and output lengths log-normal (the 90th percentile 4 and 10 times the 10th), each
client sends its next request when it has its answer. Reported: output tokens per second over the whole time, and the
50th and 99th percentile of the time between tokens of a request. llama.cpp is measured through its HTTP stream, spey
through `spey bench throughput`. Needs numpy and gguf (pip), as bench/peers.py.
"""

import argparse
import asyncio
import json
import math
import os
import random
import socket
import statistics
import subprocess
import tempfile
import time

from peers import SHAPES, gguf_of


def draw(rng, median, ratio, most):
    deviation = math.log(ratio) / (2 * 1.2815515655446004)
    return min(most, max(1, round(median * math.exp(rng.gauss(0, deviation)))))


def workload(args, n):
    rng = random.Random(args.seed)
    return [{"isl": draw(rng, args.isl, 4, 4 * args.isl), "osl": draw(rng, args.osl, 10, 8 * args.osl)} for _ in range(n)]


def quantile(values, q):
    return sorted(values)[round(q * (len(values) - 1))]


# ---- llama.cpp's server ----

async def complete(port, prompt, n_tokens, gaps):
    """One streamed request; appends the milliseconds between its tokens and returns their number."""
    body = json.dumps({"prompt": prompt, "n_predict": n_tokens, "ignore_eos": True, "stream": True, "temperature": 0,
                       "cache_prompt": False}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /completion HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(status + await reader.read())
    n, last = 0, None
    while True:
        line = await reader.readline()
        if not line:
            break
        if not line.startswith(b"data: "):
            continue
        event = json.loads(line[6:])
        if event.get("stop"):
            n = event["tokens_predicted"]
            break
        now = time.perf_counter()
        if last is not None:
            gaps.append((now - last) * 1e3)
        last = now
    writer.close()
    return n


async def drive(port, requests, clients, vocab):
    rng, gaps, queue, total = random.Random(1), [], list(reversed(requests)), 0

    async def client():
        nonlocal total
        while queue:
            r = queue.pop()
            n = await complete(port, [rng.randrange(3, vocab) for _ in range(r["isl"])], r["osl"], gaps)
            total += n

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return {"rate": total / (time.perf_counter() - start), "p50": quantile(gaps, 0.5), "p99": quantile(gaps, 0.99)}


def run_server(args, gguf, requests, clients):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    room = max(r["isl"] + r["osl"] for r in requests) + 8
    server = subprocess.Popen([args.server, "-m", gguf, "-t", str(args.threads), "-tb", str(args.threads), "-np",
                               str(clients), "-c", str(room * clients), "--port", str(port), "--no-warmup"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as s:
                    s.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                    if b" 200 " in s.recv(64):
                        break
            except OSError:
                pass
            if server.poll() is not None:
                raise SystemExit("the server ended; run it by hand to see why")
            time.sleep(0.2)
        warm = [{"isl": 32, "osl": 4}] * clients
        asyncio.run(drive(port, warm, clients, SHAPES[args.shape][6]))
        return asyncio.run(drive(port, requests, clients, SHAPES[args.shape][6]))
    finally:
        server.terminate()
        server.wait()


# ---- spey ----

def run_spey(args, requests, clients):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as trace:
        trace.write("".join(json.dumps(r) + "\n" for r in requests))
        trace.flush()
        out = subprocess.run([args.spey, "bench", "throughput", "--shape", args.shape, "--dtype", args.dtype, "--threads",
                              str(args.threads), "--trace", trace.name, "--arrival", f"closed:{clients}", "--batch",
                              str(clients), "--json", *args.spey_options.split()], capture_output=True, text=True)
    if out.returncode:
        raise SystemExit(out.stderr)
    out = json.loads(out.stdout)
    return {"rate": out["output_tokens_per_second"], "p50": out["inter_token_ms_p50"], "p99": out["inter_token_ms_p99"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tinyllama-1.1b")
    parser.add_argument("--dtype", choices=["bf16", "f16"], default="bf16")
    parser.add_argument("--server", metavar="LLAMA_SERVER", help="without it spey runs alone")
    parser.add_argument("--spey", default="build/release/spey")
    parser.add_argument("--spey-options", default="", help="more options for spey bench throughput")
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--requests", type=int, default=4, help="per client")
    parser.add_argument("--isl", type=int, default=96, help="median")
    parser.add_argument("--osl", type=int, default=48, help="median")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    gguf = gguf_of(args.shape, args.dtype) if args.server else None
    print(f"{args.shape} {args.dtype}, {args.threads} threads, medians of {args.runs} alternating runs")
    print(f"{'clients':>7s} {'program':12s}{'tokens/s':>10s}{'p50 ms':>10s}{'p99 ms':>10s}")
    for clients in args.clients:
        requests, rows = workload(args, clients * args.requests), {}
        for _ in range(args.runs):
            rows.setdefault("spey", []).append(run_spey(args, requests, clients))
            if args.server:
                rows.setdefault("llama.cpp", []).append(run_server(args, gguf, requests, clients))
        for name, results in rows.items():
            median = {k: statistics.median(r[k] for r in results) for k in results[0]}
            print(f"{clients:7d} {name:12s}{median['rate']:10.1f}{median['p50']:10.1f}{median['p99']:10.1f}", flush=True)


if __name__ == "__main__":
    main()
