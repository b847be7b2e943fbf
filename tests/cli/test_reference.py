"""What HF transformers computed, computed by spey: greedy text, penalties, log-probabilities, perplexity, logits.

The continuations in demo.json and generation.json were generated with pad_token_id = 0, which is also the demo's
begin-of-text id: generate() then masks that token, so they continue the prompt without it (the log-probabilities in
generation.json were computed with it, and prefer another first token). The prompts here leave it out accordingly.
"""

import glob
import json
import os
import struct
import unittest

from spey_cli import DATA, DEMO, SpeyTest, read_safetensors, run, run_json

with open(os.path.join(DATA, "demo.json")) as f:
    DEMO_REFERENCE = json.load(f)
with open(os.path.join(DATA, "generation.json")) as f:
    GENERATION = json.load(f)


def ids(values):
    return ",".join(map(str, values))


TIE = 1e-3  # log-probabilities nearer than this may change places between two right FP32 implementations


class Reference(SpeyTest):
    def assertContinues(self, prompt_ids, output_ids, *args):
        """Greedy ids equal; a first difference only where the two likeliest tokens are a tie."""
        self.assertEqual(prompt_ids[0], 0)
        out = run_json("run", DEMO, "--ids", ids(prompt_ids[1:]), "--dtype", "f32", "--json", "--max-tokens",
                       len(output_ids), *args)
        for i, (got, wanted) in enumerate(zip(out["output_ids"], output_ids)):
            if got != wanted:
                again = run_json("run", DEMO, "--ids", ids(prompt_ids[1:] + output_ids[:i]), "--dtype", "f32", "--json",
                                 "--max-tokens", 1, "--logprobs", 2)
                top = again["logprobs"][0]["top"]
                self.assertEqual({t["id"] for t in top}, {got, wanted}, (args, i))
                self.assertLess(top[0]["logprob"] - top[1]["logprob"], TIE, (args, i))
                return False, out
        self.assertEqual(len(out["output_ids"]), len(output_ids))
        return True, out

    def test_greedy_text_equals_transformers_in_f32(self):
        equal = 0
        for case in DEMO_REFERENCE["greedy_fp32"]:
            prompt = run_json("tokenize", DEMO, "--jsonl", stdin=json.dumps({"text": case["prompt"]}))
            self.assertEqual(prompt["ids"], case["prompt_ids"])
            same, out = self.assertContinues(case["prompt_ids"], case["output_ids"])
            if same:
                self.assertEqual(out["text"], case["text"])
            equal += same
        self.assertGreaterEqual(equal, 2)

    def test_every_non_beam_case_equals_generate(self):
        flags = {"repetition_penalty": "--repetition-penalty", "no_repeat_ngram_size": "--no-repeat-ngram",
                 "min_new_tokens": "--min-tokens"}
        checked = 0
        for case in GENERATION:
            options = dict(case["options"])
            if "num_beams" in options or "prompt_logprobs" in options:
                continue
            args = []
            for word in options.pop("bad_words_ids", []) + [[i] for i in options.pop("suppress_tokens", [])]:
                args += ["--bad-ids", ids(word)]
            for key, value in options.items():
                args += [flags[key], value]
            same, out = self.assertContinues(case["prompt_ids"], case["outputs"][0], *args)
            self.assertTrue(same, case["options"])
            self.assertEqual(out["text"], case["text"], case["options"])
            checked += 1
        self.assertEqual(checked, 10)

    def test_every_beam_case_equals_generate(self):
        flags = {"num_beams": "--beams", "length_penalty": "--length-penalty", "num_return_sequences": "--n",
                 "no_repeat_ngram_size": "--no-repeat-ngram", "early_stopping": "--early-stopping"}
        checked = 0
        for case in GENERATION:
            if "num_beams" not in case["options"]:
                continue
            args = [x for key, value in case["options"].items() for x in (flags[key], str(value).lower())]
            out = run_json("run", DEMO, "--ids", ids(case["prompt_ids"][1:]), "--dtype", "f32", "--json", "--max-tokens", 40,
                           *args)
            found = [out, *out.get("others", [])]
            self.assertEqual([one["output_ids"] for one in found], case["outputs"], case["options"])
            self.assertEqual(out["text"], case["text"], case["options"])
            for one, wanted in zip(found, case["beam_scores"]):
                self.assertLess(abs(one["score"] - wanted), 1e-3, case["options"])
            checked += 1
        self.assertEqual(checked, 8)

    def test_prompt_log_probabilities_equal_transformers(self):
        checked = 0
        for case in GENERATION:
            n_top = case["options"].get("prompt_logprobs")
            if n_top is None:
                continue
            out = run_json("run", DEMO, "--ids", ids(case["prompt_ids"]), "--dtype", "f32", "--json", "--max-tokens", 0,
                           "--prompt-logprobs", n_top)
            self.assertEqual(len(out["prompt_logprobs"]), len(case["prompt_ids"]))
            for i, got in enumerate(out["prompt_logprobs"]):
                wanted = case["prompt_token_logprobs"][i]
                if wanted is None:
                    self.assertIsNone(got["logprob"])
                else:
                    self.assertAlmostEqual(got["logprob"], wanted, delta=1e-4)
                self.assertEqual([t["id"] for t in got["top_next"]], case["top_ids"][i])
                for t, logprob in zip(got["top_next"], case["top_logprobs"][i]):
                    self.assertAlmostEqual(t["logprob"], logprob, delta=1e-4)
            checked += 1
        self.assertGreaterEqual(checked, 2)

    def test_perplexity_equals_transformers(self):
        for dtype, tolerance in (("f32", 1e-3), ("bf16", 1e-2)):
            for name, wanted in DEMO_REFERENCE["ppl_target_fp32"].items():
                out = run_json("eval", DEMO, "--dtype", dtype, "--perplexity", os.path.join(DATA, "text", name + ".txt"),
                               "--window", 1024, "--windows", 120, "--json")
                self.assertGreater(out["tokens"], 90000)
                self.assertLess(abs(out["perplexity"] / wanted - 1), tolerance, (dtype, name, out))

    def test_caches_of_8_bits_keep_the_perplexity(self):
        def perplexity(kv_dtype):
            out = run_json("eval", DEMO, "--dtype", "bf16", "--kv-dtype", kv_dtype, "--perplexity",
                           os.path.join(DATA, "text", "eval1.txt"), "--window", 1024, "--windows", 6, "--json")
            return out["perplexity"]
        wanted = perplexity("bf16")
        for kv_dtype in ("int8", "fp8"):
            self.assertLess(abs(perplexity(kv_dtype) / wanted - 1), 1e-2, kv_dtype)

    def test_models_with_an_encoder_continue_as_transformers(self):
        for name in ("t5", "bart"):
            folder = os.path.join(DATA, "architectures", name)
            expected = read_safetensors(os.path.join(folder, "expected.safetensors"))
            rows = {}
            for key in ("input_ids", "sequence"):
                _, (batch, length), data = expected[key]
                ids = struct.unpack(f"<{batch * length}q", data)
                rows[key] = [list(ids[i * length:(i + 1) * length]) for i in range(batch)]
            for source, sequence in zip(rows["input_ids"], rows["sequence"]):
                ids = ",".join(map(str, source))
                for begin in (1, 4):
                    start = [] if begin == 1 else ["--decoder-ids", ",".join(map(str, sequence[:begin]))]
                    out = run_json("run", folder, "--dtype", "f32", "--ids", ids, *start, "--temperature", 0,
                                   "--max-tokens", len(sequence) - begin, "--json")
                    self.assertEqual(out["output_ids"], sequence[begin:], (name, begin))

    def test_logits_of_some_fixtures_equal_transformers(self):
        folders = [os.path.join(DATA, "architectures", name) for name in ("llama*", "t5", "bart")]
        for folder in sorted(sum(map(glob.glob, folders), [])):
            expected = os.path.join(folder, "expected.safetensors")
            wanted = read_safetensors(expected)["logits"]
            want = struct.unpack(f"<{len(wanted[2]) // 4}f", wanted[2])
            for dtype, bound in (("f32", 1e-9), ("bf16", 1e-4)):
                dump = self.path("logits.safetensors")
                run("eval", folder, "--dtype", dtype, "--input-ids", expected, "--dump-logits", dump, check=True)
                dtype_out, shape, data = read_safetensors(dump)["logits"]
                self.assertEqual((dtype_out, shape), ("F32", wanted[1]))
                got = struct.unpack(f"<{len(data) // 4}f", data)
                error = sum((g - w) ** 2 for g, w in zip(got, want)) / sum(w * w for w in want)
                self.assertLess(error, bound, (folder, dtype))


if __name__ == "__main__":
    unittest.main()
