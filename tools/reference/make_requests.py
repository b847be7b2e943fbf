#!/usr/bin/env python3
"""What transformers does with embeddings of a caller's own and with the rules of a generation config, for tests/cli/test_prompts.py.

    make_requests.py [--out tests/data/requests.json]

tables: prompts in which some ids (from the vocabulary's size on) are rows of a table; given to the model as inputs_embeds, with
the embedding layer's scale where it has one (`scale`: what it multiplies the matrix's rows by). rules: generate() with logits
processors, greedy and with beams, with and without an encoder. FP32. Needs: pip install torch transformers (made with 5.23).
"""
import argparse
import json
import pathlib
import random

import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FIXTURES = ROOT / "tests/data/architectures"
FAMILIES = ["llama2", "gpt2", "gemma", "gemma2", "gemma3", "opt", "bloom", "mpt", "phi", "granite", "mamba"]
ROWS, TOKENS = 3, 8


def table(hidden, scale):
    """The test makes the same numbers: exact in FP32. `scale` keeps them as large as the model's own."""
    return torch.tensor([[((i * 31 + j * 17) % 23 - 11) * scale for j in range(hidden)] for i in range(ROWS)])


def load(name, encoder=False):
    kind = transformers.AutoModelForSeq2SeqLM if encoder else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(FIXTURES / name, dtype=torch.float32, attn_implementation="eager").eval()
    model.generation_config = transformers.GenerationConfig()
    return model


@torch.no_grad()
def table_case(name):
    model = load(name)
    embed = model.get_input_embeddings()
    vocab, hidden = embed.weight.shape
    step = 2.0 ** round(torch.log2(embed.weight.std() / 6).item())
    rng = random.Random(name)
    ids = [rng.randrange(3, vocab) for _ in range(12)]
    for at, row in ((0, 1), (1, 2), (5, 0), (8, 1)):
        ids[at] = vocab + row
    one = torch.arange(3, 5)
    scale = (embed(one) / embed.weight[one]).nanmedian().item()
    rows = torch.cat([embed.weight, table(hidden, step)])
    embeds = (rows[torch.tensor(ids)] * scale)[None]
    rows = model(inputs_embeds=embeds).logits[0].log_softmax(-1)
    prompt = [None] + [rows[i - 1, token].item() if token < vocab else None for i, token in enumerate(ids) if i]
    output, logprobs = [], []
    for _ in range(TOKENS):
        row = model(inputs_embeds=embeds).logits[0, -1].log_softmax(-1)
        output.append(row.argmax().item())
        logprobs.append(row.max().item())
        embeds = torch.cat([embeds, embed(torch.tensor([[output[-1]]]))], 1)
    return {"model": name, "vocab": vocab, "hidden": hidden, "step": step, "scale": scale, "ids": ids, "output_ids": output,
            "logprobs": logprobs, "prompt_logprobs": prompt}


RULES = [
    {"forced_eos_token_id": 2},
    {"suppress_tokens": [5, 6, 7, 20, 21, 22, 100], "begin_suppress_tokens": []},
    {"begin_suppress_tokens": []},
    {"no_repeat_ngram_size": 2},
    {"min_new_tokens": 6},
    {"bad_words_ids": []},
    {"forced_eos_token_id": 2, "no_repeat_ngram_size": 3, "min_new_tokens": 4, "repetition_penalty": 1.3},
]


def fill(rule, plain):
    """Rules that the plain output breaks."""
    rule = dict(rule)
    if "begin_suppress_tokens" in rule:
        rule["begin_suppress_tokens"] = plain[:1]
    if "suppress_tokens" in rule:
        rule["suppress_tokens"] = sorted({*rule["suppress_tokens"], *plain[1:3]})
    if "bad_words_ids" in rule:
        rule["bad_words_ids"] = [plain[1:3], plain[4:5]]
    return rule


@torch.no_grad()
def rule_cases(name, encoder):
    model = load(name, encoder)
    rng = random.Random(name)
    ids = [rng.randrange(3, 200) for _ in range(9)]
    common = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, "eos_token_id": 2, "return_dict_in_generate": True,
              "output_scores": True}
    if encoder:
        common["decoder_start_token_id"] = model.config.decoder_start_token_id
    source = torch.tensor([ids])
    begin = 1 if encoder else len(ids)

    def run(**options):
        out = model.generate(source, attention_mask=torch.ones_like(source), **common, **options)
        outputs = []
        for row in out.sequences.tolist():
            row = row[begin:]
            outputs.append(row[:row.index(2) + 1] if 2 in row else row)
        scores = out.sequences_scores.tolist() if "num_beams" in options else None
        return outputs, scores
    plain = run()[0][0]
    for rule in map(lambda r: fill(r, plain), RULES):
        for beams in ({}, {"num_beams": 3, "num_return_sequences": 2}):
            outputs, scores = run(**rule, **beams)
            yield {"model": name, "ids": ids, "rule": rule, "beams": beams, "outputs": outputs, "scores": scores}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/data/requests.json")
    args = parser.parse_args()
    made = {"tables": [table_case(name) for name in FAMILIES],
            "rules": [case for name, encoder in (("bart", True), ("t5", True), ("gpt2", False), ("llama2", False))
                      for case in rule_cases(name, encoder)]}
    for case in made["tables"]:
        print(case["model"], case["vocab"], case["hidden"], case["step"], case["scale"], case["output_ids"])
    lines = [f'"{key}": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]" for key, cases in made.items()]
    args.out.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
