#!/usr/bin/env python3
"""Encoding speed beside Hugging Face `tokenizers` (or `sentencepiece`), one thread.

    tokenizers.py --tool build/DIR/tests/text/tokenize_main [--runs N] [--markdown]

For each tokenizer in tests/data/tokenizers, and each text in tests/data/text whole and in lines: megabytes per
second, median of N runs that alternate between the two. Spey's time is measured around the call; the
reference's too (encode_fast's cheapest public form: encode_batch_fast of one text).
"""
import argparse, os, statistics, sys, time

sys.path.pop(0)  # this file has the name of the package

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import sentencepiece
from tokenizers import Tokenizer

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "tools", "reference"))
from compare_tokenizers import Spey


def reference_for(path):
    if path.endswith(".model"):
        model = sentencepiece.SentencePieceProcessor(model_file=path)
        return lambda text: model.encode(text)
    tokenizer = Tokenizer.from_file(path)
    return lambda text: tokenizer.encode_batch_fast([text], add_special_tokens=False)[0]


def measure(spey, reference, texts, runs):
    """Seconds per run for both, over all texts."""
    size = sum(len(t.encode()) for t in texts)
    ours, theirs = [], []
    for _ in range(runs):
        total = 0
        for text in texts:
            spey.encode(text)
            total += spey.ns
        ours.append(total / 1e9)
        start = time.perf_counter()
        for text in texts:
            reference(text)
        theirs.append(time.perf_counter() - start)
    return size / 1e6 / statistics.median(ours), size / 1e6 / statistics.median(theirs)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    texts = {}
    for name in sorted(os.listdir(os.path.join(ROOT, "tests/data/text"))):
        if name.endswith(".txt"):
            with open(os.path.join(ROOT, "tests/data/text", name), encoding="utf-8") as f:
                text = f.read()
            texts[name] = [text]
            texts[name + " lines"] = [line for line in text.split("\n") if line][:2000]
    print("| tokenizer | text | Spey MB/s | reference MB/s | ratio |\n|---|---|---|---|---|")
    folder = os.path.join(ROOT, "tests/data/tokenizers")
    for name in sorted(os.listdir(folder)):
        for file in ("tokenizer.json", "tokenizer.model"):
            path = os.path.join(folder, name, file)
            if options.only not in name or not os.path.exists(path):
                continue
            spey, reference = Spey(options.tool, path), reference_for(path)
            for label, parts in texts.items():
                ours, theirs = measure(spey, reference, parts, options.runs)
                print(f"| {name} | {label} | {ours:.1f} | {theirs:.2f} | {ours / theirs:.1f} |", flush=True)
            spey.close()


if __name__ == "__main__":
    main()
