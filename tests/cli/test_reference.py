"""What HF transformers computed, computed by spey: greedy text, penalties, log-probabilities, perplexity, logits."""

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


class Reference(SpeyTest):
    def test_greedy_text_equals_transformers_in_f32(self):
        for case in DEMO_REFERENCE["greedy_fp32"]:
            out = run_json("run", DEMO, case["prompt"], "--dtype", "f32", "--json", "--max-tokens",
                           len(case["output_ids"]))
            self.assertEqual(out["prompt_ids"], case["prompt_ids"])
            self.assertEqual(out["output_ids"], case["output_ids"])
            self.assertEqual(out["text"], case["text"])

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
            out = run_json("run", DEMO, "--ids", ids(case["prompt_ids"]), "--dtype", "f32", "--json", "--max-tokens",
                           len(case["outputs"][0]), *args)
            self.assertEqual(out["output_ids"], case["outputs"][0], case["options"])
            self.assertEqual(out["text"], case["text"], case["options"])
            checked += 1
        self.assertGreaterEqual(checked, 10)

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
                self.assertEqual(out["tokens"], 120 * 1024)
                self.assertLess(abs(out["perplexity"] / wanted - 1), tolerance, (dtype, name, out))

    def test_logits_of_the_llama_fixtures_equal_transformers(self):
        for folder in sorted(glob.glob(os.path.join(DATA, "architectures", "llama*"))):
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
