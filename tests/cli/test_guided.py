"""What the demo model writes under a guide is what the guide allows, judged by Python's re and by jsonschema.

SPEY_GUIDED_SAMPLES (default 4) outputs of each of the 20 schemas of tests/data/guide_schemas.json; 53 make the 1,060 of
docs/guided-decoding.md. The schemas need .venv (tools/install-deps check) or a python3 with jsonschema.
"""

import json
import os
import re
import sys
import unittest

from spey_cli import DATA, DEMO, ROOT, SpeyTest, run, run_json

PYTHON = os.path.join(ROOT, ".venv", "bin", "python")
try:
    import jsonschema
    import rfc3339_validator  # noqa: F401 (jsonschema checks times with it)
except ImportError:
    if os.path.exists(PYTHON) and not os.environ.get("SPEY_IN_VENV"):
        os.execve(PYTHON, [PYTHON, *sys.argv], {**os.environ, "SPEY_IN_VENV": "1"})
    jsonschema = None

SAMPLES = int(os.environ.get("SPEY_GUIDED_SAMPLES", "4"))
HOT = ("--temperature", 1.5)


class Guided(SpeyTest):
    def write(self, name, text):
        path = self.path(name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def sample(self, n, *args):
        """n outputs at temperature 1.5; those that the limit cut off are None."""
        prompts = self.write("prompts.jsonl", "".join(
            json.dumps({"prompt": "Once upon a time", "seed": i, "max_tokens": 900}) + "\n" for i in range(n)))
        out = run("run", DEMO, "--prompts", prompts, *HOT, *args, check=True).stdout
        lines = [json.loads(line) for line in out.rstrip("\n").split("\n")]
        self.assertEqual(len(lines), n)
        for line in lines:
            self.assertIn(line["finish_reason"], ("eos", "length"), line)
        return [line["text"] if line["finish_reason"] == "eos" else None for line in lines]

    def test_regexes_are_matched(self):
        for regex in (r"[A-Z][a-z]{2,10}, (yes|no)\.", r"\d{3}-\d{4}", "(é|ü|€){3,6}", r"(a|b)*abb"):
            for text in self.sample(6, "--regex", regex):
                self.assertTrue(text is None or re.fullmatch(regex, text), (regex, text))

    def test_grammars_are_matched(self):
        grammar = self.write("brackets.gbnf", 'root ::= "(" (root | [a-z]{1,3}){0,2} ")"')
        n_whole = 0
        for text in self.sample(12, "--grammar", grammar):
            if text is None:
                continue
            n_whole += 1
            while "(" in text:
                shorter = re.sub(r"\([a-z]{0,6}\)", "", text)
                self.assertLess(len(shorter), len(text), text)
                text = shorter
            self.assertEqual(text, "")
        self.assertGreater(n_whole, 6)

    @unittest.skipIf(jsonschema is None, "jsonschema is not installed: tools/install-deps check")
    def test_sampled_json_validates(self):
        with open(os.path.join(DATA, "guide_schemas.json")) as f:
            schemas = json.load(f)
        n_cut = 0
        for schema in schemas:
            validator = jsonschema.Draft202012Validator(
                schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
            for text in self.sample(SAMPLES, "--json-schema", self.write("schema.json", json.dumps(schema))):
                n_cut += text is None
                if text is not None:
                    self.assertIsNone(next(validator.iter_errors(json.loads(text)), None), (schema, text))
        self.assertLessEqual(n_cut, len(schemas) * SAMPLES // 20)  # of those that may go on for ever

    def test_a_guide_goes_with_beams_and_several_sequences(self):
        schema = json.dumps({"type": "object", "properties": {"a": {"enum": ["x", "yy", "zzz"]}, "b": {"type": "boolean"}},
                             "required": ["a", "b"]})
        for args in (("--beams", 4, "--n", 3), ("--n", 3, *HOT)):
            out = run_json("run", DEMO, "Once upon a time", "--json", "--json-schema", schema, *args)
            for one in [out, *out["others"]]:
                self.assertEqual(one["finish_reason"], "eos")
                value = json.loads(one["text"])
                self.assertIn(value["a"], ("x", "yy", "zzz"))
                self.assertIsInstance(value["b"], bool)
            if "--beams" in args:
                texts = [one["text"] for one in [out, *out["others"]]]
                self.assertEqual(len(set(texts)), 3)
                scores = [one["score"] for one in [out, *out["others"]]]
                self.assertEqual(scores, sorted(scores, reverse=True))

    def test_bans_do_not_keep_a_complete_output_from_ending(self):
        out = run_json("run", DEMO, "Once upon a time", "--json", "--regex", "ab", "--min-tokens", 20, "--ignore-eos")
        self.assertEqual((out["text"], out["finish_reason"]), ("ab", "eos"))

    def test_bad_guides_are_refused_before_anything_runs(self):
        for args, says in ((("--regex", "(a"), "a ) is missing"), (("--grammar", "root ::= root"), "can call itself"),
                           (("--json-schema", '{"not": {}}'), "/not"), (("--json-schema", "{}", "--regex", "a"), "only one"),
                           (("--beams", 2, "--n", 3), "n of a beam search"), (("--beams", 2, "--stop", "x"), "stop strings"),
                           (("--beams", 3, "--beam-groups", 2), "beam_groups"), (("--beams", 2, *HOT), "a temperature"),
                           (("--beams", 2, "--early-stopping", "soon"), "--early-stopping")):
            result = run("run", DEMO, "Hello", *args)
            self.assertNotEqual(result.returncode, 0, args)
            self.assertIn(says, result.stderr, args)


if __name__ == "__main__":
    unittest.main()
