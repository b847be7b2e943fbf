"""spey run --prompts: lines say all that the options of the command line say, and get the same; prompt tables and what a
checkpoint's generation_config asks for, as transformers has them (tools/reference/make_requests.py)."""

import json
import os
import struct
import unittest

from spey_cli import DATA, DEMO, SpeyTest, read_safetensors, run, run_json, write_safetensors

TEXT = "It was a dark night, and the captain"
VOCAB, HIDDEN = 8192, 256
TABLE = "prompt_embeddings"
with open(os.path.join(DATA, "requests.json")) as f:
    REFERENCE = json.load(f)


def fixture(name):
    return os.path.join(DATA, "architectures", name)


def ids_text(ids):
    return ",".join(map(str, ids))


class Prompts(SpeyTest):
    def write(self, name, lines):
        path = self.path(name)
        with open(path, "w") as f:
            f.write("".join(json.dumps(line) + "\n" for line in lines))
        return path

    def answers(self, lines, *flags, code=0):
        result = run("run", DEMO, "--prompts", self.write("lines.jsonl", lines), "--batch", 4, *flags)
        self.assertEqual(result.returncode, code, result.stderr)
        return [json.loads(line) for line in result.stdout.splitlines()]

    def assertSame(self, answer, alone, line):
        for key in ("prompt_ids", "output_ids", "text", "finish_reason", "score", "others"):
            self.assertEqual(answer.get(key), alone.get(key), (key, line))

    def test_a_line_says_what_the_options_say(self):
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
                  "additionalProperties": False}
        hot = {"temperature": 1, "seed": 3}
        cases = [
            {"n": 3, **hot}, {"n": 2, "best_of": 5, **hot}, {"beams": 4, "n": 4, "length_penalty": 0.5},
            {"beams": 4, "beam_groups": 2, "diversity_penalty": 0.7, "early_stopping": "never"},
            {"beams": 2, "early_stopping": True}, {"regex": "[0-9]{3}[a-z]"}, {"grammar": "root ::= \"yes\" | \"no\""},
            {"stop": ["the", "ship"]}, {"stop_ids": [263, 265]}, {"bad_words": ["of", "the"]},
            {"bad_ids": [[297], [265, 300]]}, {"suppress_ids": [263, 265, 16]}, {"begin_suppress_ids": [297, 285]},
            {"forced_eos": 17}, {"ignore_eos": True, "min_tokens": 6}, {"no_repeat_ngram": 2},
            {"repetition_penalty": 1.5}, {"presence_penalty": 1.5, "frequency_penalty": 0.5},
            {"top_k": 5, "top_p": 0.9, "min_p": 0.05, "typical_p": 0.9, **hot}, {"logprobs": 2, "prompt_logprobs": 1},
        ]
        lines = [{"prompt": TEXT, "max_tokens": 10, **case} for case in cases]
        answers = self.answers(lines)
        for line, answer in zip(lines, answers):
            flags = []
            for key, value in line.items():
                name = "--" + key.replace("_", "-")
                if key == "prompt":
                    continue
                if value is True and key != "early_stopping":
                    flags.append(name)
                elif key == "bad_ids":
                    flags += [x for ids in value for x in (name, ",".join(map(str, ids)))]
                elif key.endswith("_ids"):
                    flags += [name, ",".join(map(str, value))]
                elif isinstance(value, list):
                    flags += [x for text in value for x in (name, text)]
                else:
                    flags += [name, json.dumps(value) if value is True else value]
            alone = run_json("run", DEMO, TEXT, "--json", *flags)
            self.assertSame(answer, alone, line)
            for key in ("logprobs", "prompt_logprobs"):
                self.assertEqual(answer.get(key), alone.get(key), line)
        self.assertEqual([len(a.get("others", [])) for a in answers[:3]], [2, 1, 3])
        self.assertEqual(answers[13]["output_ids"][-1], 17)
        bias, text, parsed = self.answers([{"prompt": TEXT, "max_tokens": 3, "logit_bias": {"16": 100.5}},
                                           {"prompt": TEXT, "json_schema": json.dumps(schema), "max_tokens": 30},
                                           {"prompt": TEXT, "json_schema": schema, "max_tokens": 30}])
        self.assertEqual(bias["output_ids"], [16, 16, 16])
        self.assertEqual(text["text"], parsed["text"])
        self.assertEqual(list(json.loads(parsed["text"])), ["a"])

    def test_a_list_of_a_line_replaces_the_default(self):
        first, second = self.answers([{"prompt": TEXT}, {"prompt": TEXT, "suppress_ids": []}], "--max-tokens", 5,
                                     "--suppress-ids", "263,265,285,297")
        plain = run_json("run", DEMO, TEXT, "--json", "--max-tokens", 5)
        self.assertEqual(second["output_ids"], plain["output_ids"])
        self.assertNotEqual(first["output_ids"], plain["output_ids"])

    def test_scheduling_changes_no_text(self):
        more = {"priority": 3, "tenant": 7, "salt": 5, "deadline_ms": 600000,
                "retention": [{"begin": 0, "end": 4, "priority": 90}, {"priority": 0, "duration_ms": 1000}]}
        plain, told = self.answers([{"prompt": TEXT, "max_tokens": 5}, {"prompt": TEXT, "max_tokens": 5, **more}])
        self.assertSame(plain, told, more)

    def test_what_a_line_must_not_say(self):
        good = {"prompt": TEXT, "max_tokens": 2}
        bad = [
            ({"max_token": 3}, 'unknown key "max_token", the nearest is "max_tokens"'),
            ({"stop-ids": [3]}, '"stop_ids"'), ({"deadline": 3}, '"deadline_ms"'),
            ({"n": 0}, "n is 0"), ({"n": 300}, "n is 300"), ({"beams": 40}, "beams is 40"),
            ({"best_of": 1, "n": 2}, "best_of is 1"), ({"beams": 2, "stop": ["x"]}, "stop strings"),
            ({"stop_ids": 3}, "stop_ids is no array"), ({"stop_ids": [9999]}, "stop_ids holds the token id 9999"),
            ({"suppress_ids": ["a"]}, "suppress_ids[0]"), ({"begin_suppress_ids": [-1]}, "begin_suppress_ids[0]"),
            ({"bad_words": "x"}, "bad_words is no array"), ({"bad_words": [""]}, "bad word is empty"),
            ({"bad_ids": [3]}, "bad_ids is no array"), ({"bad_ids": [[]]}, "bad word 0 is empty"),
            ({"logit_bias": [1]}, "logit_bias is no object"), ({"logit_bias": {"x": 1}}, "logit_bias has"),
            ({"logit_bias": {"5": "x"}}, "logit_bias has"), ({"early_stopping": "maybe"}, "early_stopping is neither"),
            ({"regex": 5}, "regex is no string"), ({"regex": "("}, "regex"), ({"grammar": "x"}, "grammar"),
            ({"regex": "a", "grammar": "root ::= \"a\""}, "only one of"), ({"json_schema": 5}, "schema"),
            ({"priority": 9}, "priority is 9"), ({"deadline_ms": -1}, "deadline_ms is -1"), ({"salt": -1}, '"salt" is -1'),
            ({"retention": {}}, "retention is no array"), ({"retention": [{"begin": 1}]}, "retention[0] is no object"),
            ({"retention": [{"priority": 101}]}, "retention 0 has priority 101"),
            ({"retention": [{"priority": 1, "ends": 3}]}, "retention[0] is no object"),
            ({"forced_eos": 8192}, "forced_eos_id is 8192"), ({"decoder_ids": [1]}, "no encoder"),
            ({"prompt_table": 5}, "prompt_table is no path"), ({"prompt_table": self.path("none")}, "none"),
        ]
        answers = self.answers([x for line, _ in bad for x in ({**good, **line}, good)], code=1)
        for (line, words), answer in zip(bad, answers[::2]):
            self.assertIn(words, answer.get("error", ""), line)
        self.assertTrue(all(len(a["output_ids"]) == 2 for a in answers[1::2]))

    def table_of(self, ids, name="table.safetensors", tensor=TABLE):
        """The demo model's own rows of these tokens."""
        dtype, shape, data = read_safetensors(os.path.join(DEMO, "model.safetensors"))["model.embed_tokens.weight"]
        self.assertEqual((dtype, shape), ("BF16", [VOCAB, HIDDEN]))
        path = self.path(name)
        rows = b"".join(data[i * 2 * HIDDEN:(i + 1) * 2 * HIDDEN] for i in ids)
        write_safetensors(path, {tensor: ("BF16", [len(ids), HIDDEN], rows)})
        return path

    def test_rows_of_a_table_stand_for_tokens(self):
        plain = run_json("run", DEMO, TEXT, "--json", "--max-tokens", 12, "--logprobs", 1)
        ids = plain["prompt_ids"]
        path = self.table_of(ids[2:5])
        mixed = ids[:2] + [VOCAB, VOCAB + 1, VOCAB + 2] + ids[5:]
        flags = ["--max-tokens", 12, "--logprobs", 1]
        one = run_json("run", DEMO, "--ids", ",".join(map(str, mixed)), "--prompt-table", path, "--json", *flags)
        line, prefix, other, default = self.answers(
            [{"ids": mixed, "prompt_table": path}, {"prompt": TEXT, "prompt_table": self.table_of([5, 6], "b")},
             {"ids": mixed, "prompt_table": self.table_of(ids[3:6], "c")}, {"ids": mixed}], *flags, "--prompt-table", path)
        for answer in (one, line, default):
            self.assertEqual(answer["prompt_ids"], mixed)
            for key in ("output_ids", "text", "logprobs"):
                self.assertEqual(answer[key], plain[key])
        self.assertNotEqual(other["logprobs"], plain["logprobs"])
        self.assertEqual(prefix["prompt_ids"], [VOCAB, VOCAB + 1] + ids)
        self.assertEqual(prefix["output_ids"],
                         run_json("run", DEMO, "--ids", ",".join(map(str, [5, 6] + ids)), "--json", *flags)["output_ids"])
        told = run("run", DEMO, TEXT, "--prompt-table", self.path("b"), "--max-tokens", 3, check=True)
        self.assertTrue(told.stdout.strip())

    def test_tables_are_what_inputs_embeds_are(self):
        for case in REFERENCE["tables"]:
            path = self.path(case["model"])
            numbers = [((i * 31 + j * 17) % 23 - 11) * case["step"] for i in range(3) for j in range(case["hidden"])]
            write_safetensors(path, {TABLE: ("F32", [3, case["hidden"]], struct.pack(f"<{len(numbers)}f", *numbers))})
            out = run_json("run", fixture(case["model"]), "--dtype", "f32", "--ids", ids_text(case["ids"]), "--prompt-table",
                           path, "--max-tokens", len(case["output_ids"]), "--ignore-eos", "--logprobs", 0, "--prompt-logprobs", 0,
                           "--json")
            self.assertEqual(out["output_ids"], case["output_ids"], case["model"])
            told = out["prompt_logprobs"] + out["logprobs"]
            self.assertEqual(len(told), len(case["prompt_logprobs"] + case["logprobs"]))
            for got, wanted in zip(told, case["prompt_logprobs"] + case["logprobs"]):
                if wanted is None:
                    self.assertIsNone(got["logprob"])
                else:
                    self.assertAlmostEqual(got["logprob"], wanted, delta=1e-4, msg=case["model"])

    def test_rules_are_those_of_generate(self):
        flags = {"forced_eos_token_id": "--forced-eos", "no_repeat_ngram_size": "--no-repeat-ngram", "min_new_tokens":
                 "--min-tokens", "repetition_penalty": "--repetition-penalty", "suppress_tokens": "--suppress-ids",
                 "begin_suppress_tokens": "--begin-suppress-ids", "num_beams": "--beams", "num_return_sequences": "--n"}
        for case in REFERENCE["rules"]:
            args = []
            for key, value in {**case["rule"], **case["beams"]}.items():
                if key == "bad_words_ids":
                    args += [x for word in value for x in ("--bad-ids", ids_text(word))]
                else:
                    args += [flags[key], ids_text(value) if isinstance(value, list) else value]
            out = run_json("run", fixture(case["model"]), "--dtype", "f32", "--ids", ids_text(case["ids"]), "--max-tokens", 10,
                           "--ignore-eos", "--stop-ids", 2, "--json", *args)
            found = [out, *out.get("others", [])]
            self.assertEqual([one["output_ids"] for one in found], case["outputs"], case)
            for one, wanted in zip(found, case["scores"] or []):
                self.assertAlmostEqual(one["score"], wanted, delta=1e-4, msg=case)

    def test_what_is_no_prompt_table(self):
        wide = self.path("wide")
        write_safetensors(wide, {TABLE: ("F32", [1, 2 * HIDDEN], bytes(8 * HIDDEN))})
        nan = self.path("nan")
        write_safetensors(nan, {TABLE: ("F32", [1, HIDDEN], b"\x00\x00\xc0\x7f" * HIDDEN)})
        flat = self.path("flat")
        write_safetensors(flat, {TABLE: ("F32", [HIDDEN], bytes(4 * HIDDEN))})
        ints = self.path("ints")
        write_safetensors(ints, {TABLE: ("I32", [1, HIDDEN], bytes(4 * HIDDEN))})
        other = self.table_of([1], "other", tensor="rows")
        cases = [(wide, "512 numbers", "hidden size is 256"), (nan, "row 0", "nan at 0"), (flat, "[256]", "[rows,hidden]"),
                 (ints, "i32", "f32, f16 or bf16"), (other, "no tensor", TABLE), (self.path("none"), "none"),
                 (os.path.join(DEMO, "config.json"), "config.json")]
        for path, *words in cases:
            self.assertFails(run("run", DEMO, "--ids", VOCAB, "--prompt-table", path), *words)
        good = self.table_of([1])
        self.assertFails(run("run", DEMO, "--ids", VOCAB + 1, "--prompt-table", good), "8193", "1 rows")
        self.assertFails(run("run", DEMO, "--ids", VOCAB), "8192")
        lines = [{"ids": [VOCAB], "prompt_table": path} for path, *_ in cases] + [{"ids": [VOCAB], "prompt_table": good}]
        answers = self.answers(lines, "--max-tokens", 2, code=1)
        self.assertTrue(all("error" in a for a in answers[:-1]))
        self.assertEqual(len(answers[-1]["output_ids"]), 2)

    def test_the_models_rules_are_the_defaults(self):
        checkpoint = self.copy_checkpoint("rules")
        path = os.path.join(checkpoint, "generation_config.json")
        with open(path) as f:
            config = json.load(f)
        plain = run_json("run", DEMO, TEXT, "--json", "--max-tokens", 12)
        rules = {"suppress_tokens": [263], "begin_suppress_tokens": plain["output_ids"][:1], "forced_eos_token_id": 1,
                 "bad_words_ids": [[265], [16]], "no_repeat_ngram_size": 2, "min_new_tokens": 4, "num_beams": 5}
        with open(path, "w") as f:
            json.dump({**config, **rules}, f)
        flags = ["--suppress-ids", 263, "--begin-suppress-ids", plain["output_ids"][0], "--forced-eos", 1, "--bad-ids", 265,
                 "--bad-ids", 16, "--no-repeat-ngram", 2, "--min-tokens", 4]
        first = run("run", checkpoint, TEXT, "--json", "--max-tokens", 12, check=True)
        wanted = run_json("run", DEMO, TEXT, "--json", "--max-tokens", 12, *flags)
        self.assertSame(json.loads(first.stdout), wanted, rules)
        self.assertEqual(wanted["finish_reason"], "eos")
        self.assertNotEqual(wanted["output_ids"], plain["output_ids"])
        self.assertIn("num_beams is 5", first.stderr)
        off = run_json("run", checkpoint, TEXT, "--json", "--max-tokens", 12, "--forced-eos", -1)
        self.assertNotEqual(off["finish_reason"], "eos")


if __name__ == "__main__":
    unittest.main()
