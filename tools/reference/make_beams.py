#!/usr/bin/env python3
"""Beam searches by Hugging Face's generate() over a model that is a hash function, for tests/runtime/test_beam.c.

    make_beams.py [--out tests/data/beams.json]

The logit of token t after the ids s is mix(hash(s), t) / 2^22, plus 1.5 for the end ids, exact in FP32: the test computes the
same ones. Id 0 pads groups that are done, which later groups are then penalized for: 20 less, so that it never counts. Diverse beams left transformers with version 5; with such a version only the ordinary cases are made, with an older
one (4.53) all of them. The file in the repository: ordinary cases by 5.23, diverse ones by 4.53.
Needs: pip install torch transformers.
"""
import argparse
import json
import pathlib
import random

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MASK = (1 << 64) - 1
VOCAB = 24


def mix(state, token):
    x = (state + (token + 1) * 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return (x ^ (x >> 31)) >> 40


def logits(ids, ends):
    state = 0xCBF29CE484222325
    for i in ids:
        state = ((state ^ (i + 1)) * 0x100000001B3) & MASK
    return [mix(state, t) / 2**22 + (1.5 if t in ends else 0 if t else -20) for t in range(VOCAB)]


def make_model():
    import torch
    import transformers

    class Fake(transformers.LlamaForCausalLM):
        def forward(self, input_ids, attention_mask=None, **_):
            rows = [[logits(row, self.ends)] for row in input_ids.tolist()]
            return transformers.modeling_outputs.CausalLMOutputWithPast(logits=torch.tensor(rows, dtype=torch.float32))

        def _update_model_kwargs_for_generation(self, outputs, model_kwargs, **_):
            return model_kwargs

        def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **_):
            return {"input_ids": input_ids}

    config = transformers.LlamaConfig(vocab_size=VOCAB, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                      num_attention_heads=1, num_key_value_heads=1)
    return torch, Fake(config)


def draw_cases(diverse):
    rng = random.Random(11 + diverse)
    for i in range(60):
        width = rng.choice([4, 6, 8]) if diverse else rng.choice([2, 3, 4, 5, 8])
        case = {"prompt": [rng.randrange(3, VOCAB) for _ in range(rng.randrange(1, 5))],
                "ends": [1] if i % 3 or diverse else [1, 2],  # the old scorer writes the first for any
                "num_beams": width,
                "max_new_tokens": rng.choice([1, 2, 5, 12, 24]),
                "length_penalty": rng.choice([1.0, 1.0, 0.0, 0.5, 2.0, -1.0]),
                "early_stopping": rng.choice([True, False, False, "never"]),
                "num_return_sequences": rng.randrange(1, min(width, 4) + 1)}
        if diverse:
            case["num_beam_groups"] = rng.choice([2, width // 2, width])
            case["diversity_penalty"] = rng.choice([0.25, 1.0, 3.0])
        yield case


def run(torch, model, case):
    options = {k: v for k, v in case.items() if k not in ("prompt", "ends")}
    model.ends = case["ends"]
    n = len(case["prompt"])
    out = model.generate(torch.tensor([case["prompt"]]), attention_mask=torch.ones(1, n, dtype=torch.int64),
                         eos_token_id=case["ends"], pad_token_id=0, do_sample=False, use_cache=False,
                         return_dict_in_generate=True, output_scores=True, **options)
    sequences = []
    for row in out.sequences[:, n:].tolist():
        end = next((i + 1 for i, t in enumerate(row) if t in case["ends"]), len(row))
        sequences.append(row[:end])
    return {**case, "outputs": sequences, "scores": out.sequences_scores.tolist()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/data/beams.json")
    out = parser.parse_args().out
    torch, model = make_model()
    can_diverse = "num_beam_groups" in model.generation_config.to_dict()
    can_diverse = can_diverse and hasattr(model, "_group_beam_search")
    old = json.loads(out.read_text()) if out.exists() else []
    kept = [case for case in old if ("num_beam_groups" in case) != can_diverse]
    made = [run(torch, model, case) for case in draw_cases(can_diverse)]
    cases = sorted(kept + made, key=lambda case: "num_beam_groups" in case)
    out.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
