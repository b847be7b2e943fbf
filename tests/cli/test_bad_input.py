"""Bad input: one clear line, the right exit code, nothing half-written, never a crash."""

import json
import os
import resource
import signal
import struct
import subprocess
import time
import unittest

from spey_cli import DATA, DEMO, SPEY, SpeyTest, read_safetensors, run, write_safetensors

LLAMA = os.path.join(DATA, "architectures", "llama2")


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()


def edit_json(path, **changes):
    with open(path) as f:
        values = json.load(f)
    for key, value in changes.items():
        if value is None:
            values.pop(key, None)
        else:
            values[key] = value
    with open(path, "w") as f:
        json.dump(values, f)


class BadCheckpoints(SpeyTest):
    def build(self, checkpoint, **more):
        self.output = self.path("out.spey")
        return run("build", checkpoint, "-o", self.output, **more)

    def refuse(self, checkpoint, *words):
        self.assertFails(self.build(checkpoint), *words)
        self.assertNothingLeft(self.output)

    def tensors(self, change):
        """The llama2 fixture with its tensors changed by change(dict)."""
        checkpoint = self.copy_checkpoint("changed", LLAMA)
        path = os.path.join(checkpoint, "model.safetensors")
        tensors = read_safetensors(path)
        change(tensors)
        write_safetensors(path, tensors)
        return checkpoint

    def header(self, text, data=b""):
        checkpoint = self.copy_checkpoint("header", LLAMA)
        with open(os.path.join(checkpoint, "model.safetensors"), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + data)
        return checkpoint

    def test_files_that_are_missing(self):
        self.refuse(self.path("nowhere"), "nowhere")
        checkpoint = self.copy_checkpoint("gone", LLAMA)
        os.remove(os.path.join(checkpoint, "model.safetensors"))
        self.refuse(checkpoint, "safetensors")
        with open(os.path.join(checkpoint, "pytorch_model.bin"), "wb") as f:
            f.write(b"x")
        self.refuse(checkpoint, "pytorch_model.bin", "convert", "save_pretrained")
        os.remove(os.path.join(checkpoint, "config.json"))
        self.refuse(checkpoint, "config.json")

    def test_safetensors_headers_that_lie(self):
        whole = read_bytes(os.path.join(LLAMA, "model.safetensors"))
        checkpoint = self.copy_checkpoint("cut", LLAMA)
        for size in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
            with open(os.path.join(checkpoint, "model.safetensors"), "wb") as f:
                f.write(whole[:size])
            self.refuse(checkpoint, "model.safetensors")
        with open(os.path.join(checkpoint, "model.safetensors"), "wb") as f:
            f.write(struct.pack("<Q", 1 << 62) + whole[8:])
        self.refuse(checkpoint, "model.safetensors")
        for text in (b"{", b"[]", b"", b"nonsense", b'{"a": 1}', b'{"a": {"dtype": "F32"}}',
                     b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
                     b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
                     b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
                     b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 4]}}',
                     b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
                     b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}'):
            self.refuse(self.header(text, b"\0" * 4), "model.safetensors")
        one = '"%s": {"dtype": "F32", "shape": [1], "data_offsets": [%d, %d]}'
        overlap = "{" + one % ("a", 0, 4) + "," + one % ("b", 2, 6) + "}"
        self.refuse(self.header(overlap.encode(), b"\0" * 6), "overlap")
        twice = "{" + one % ("a", 0, 4) + "," + one % ("a", 4, 8) + "}"
        self.refuse(self.header(twice.encode(), b"\0" * 8), "a")

    def test_tensors_that_do_not_fit_the_model(self):
        name = "model.layers.0.mlp.up_proj.weight"

        def missing(t):
            t["model.layers.0.mlp.up_prj.weight"] = t.pop(name)

        self.refuse(self.tensors(missing), name, "up_prj")

        def extra(t):
            t["model.layers.0.mlp.extra.weight"] = t[name]

        self.refuse(self.tensors(extra), "model.layers.0.mlp.extra.weight")

        def shape(t):
            dtype, shape, data = t[name]
            t[name] = (dtype, shape[::-1], data)

        self.refuse(self.tensors(shape), name, "[64,160]", "[160,64]")

        def dtype(t):
            _, shape, data = t[name]
            t[name] = ("I16", shape, data)

        self.refuse(self.tensors(dtype), name, "i16")

    def test_configs_that_make_no_sense(self):
        for key, value, words in (("hidden_size", 0, ["hidden_size"]), ("hidden_size", -4, ["hidden_size"]),
                                  ("hidden_size", 1 << 40, ["hidden_size"]), ("hidden_size", "many", ["hidden_size"]),
                                  ("num_hidden_layers", 100000000, ["num_hidden_layers"]),
                                  ("num_attention_heads", 0, ["num_attention_heads"]),
                                  ("num_key_value_heads", 3, ["num_key_value_heads"]),
                                  ("vocab_size", -1, ["vocab_size"]), ("rms_norm_eps", "x", ["rms_norm_eps"]),
                                  ("hidden_act", "zelu", ["zelu"]), ("max_position_embeddings", 0, ["max_position"]),
                                  ("architectures", ["LamaForCausalLM"], ["LamaForCausalLM", "LlamaForCausalLM"]),
                                  ("architectures", [], ["architectures"]), ("architectures", 7, ["architectures"])):
            checkpoint = self.copy_checkpoint("config", LLAMA)
            edit_json(os.path.join(checkpoint, "config.json"), **{key: value})
            self.refuse(checkpoint, *words)
        checkpoint = self.copy_checkpoint("config", LLAMA)
        with open(os.path.join(checkpoint, "config.json"), "w") as f:
            f.write('{"hidden_size": 64,')
        self.refuse(checkpoint, "config.json", "line 1")
        with open(os.path.join(checkpoint, "config.json"), "w") as f:
            f.write("[" * 100000)
        self.refuse(checkpoint, "config.json")

    def test_a_corrupt_tokenizer_is_refused_and_a_missing_one_leaves_ids(self):
        checkpoint = self.copy_checkpoint("corrupt")
        with open(os.path.join(checkpoint, "tokenizer.json"), "w") as f:
            f.write('{"model": {"type": "BPE"')
        self.refuse(checkpoint, "tokenizer.json")
        os.remove(os.path.join(checkpoint, "tokenizer.json"))
        engine = self.path("ids.spey")
        self.assertEqual(run("build", checkpoint, "-o", engine).returncode, 0)
        self.assertFails(run("run", engine, "Hello"), "no tokenizer", "ids")
        out = run("run", engine, "--ids", "0,51,1242", "--max-tokens", 3, "--json", check=True)
        self.assertIsNone(json.loads(out.stdout)["text"])

    def test_output_that_cannot_be_written(self):
        self.assertFails(run("build", DEMO, "-o", "/nonexistent/x.spey"), "/nonexistent/x.spey")
        self.assertFails(run("build", DEMO, "-o", self.folder), self.folder)

        def tiny_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

        full = self.path("full.spey")
        self.assertFails(run("build", DEMO, "-o", full, preexec_fn=tiny_files), full)
        self.assertNothingLeft(full)
        with open("/dev/full", "w") as out:
            result = subprocess.run([SPEY, "tokenize", DEMO, "Once"], stdout=out, stderr=subprocess.PIPE, text=True)
        self.assertEqual(result.returncode, 1)
        self.assertIn("cannot write", result.stderr)

    def test_a_failed_build_keeps_the_engine_that_was_there(self):
        engine = self.path("kept.spey")
        run("build", DEMO, "-o", engine, check=True)
        before = read_bytes(engine)
        checkpoint = self.copy_checkpoint("broken", LLAMA)
        edit_json(os.path.join(checkpoint, "config.json"), hidden_size=0)
        self.assertEqual(run("build", checkpoint, "-o", engine).returncode, 1)
        self.assertEqual(read_bytes(engine), before)

    def test_ctrl_c_in_a_build_leaves_nothing(self):
        checkpoint = self.copy_checkpoint("large", LLAMA)
        edit_json(os.path.join(checkpoint, "config.json"), vocab_size=4000000)
        path = os.path.join(checkpoint, "model.safetensors")
        tensors = read_safetensors(path)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = ("BF16", [4000000, 64], b"\1" * (4000000 * 128))
        write_safetensors(path, tensors)
        engine = self.path("interrupted.spey")
        process = subprocess.Popen([SPEY, "build", checkpoint, "-o", engine], stderr=subprocess.PIPE)
        deadline = time.time() + 30
        while time.time() < deadline and not any(f.startswith("interrupted") for f in os.listdir(self.folder)):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, -signal.SIGINT)
        self.assertNothingLeft(engine)


class BadEngines(SpeyTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.engine = os.path.join(cls.folder, "good.spey")
        run("build", LLAMA, "-o", cls.engine, check=True)
        cls.bytes = read_bytes(cls.engine)

    def refuse(self, data, *words):
        path = self.path("bad.spey")
        with open(path, "wb") as f:
            f.write(data)
        self.assertFails(run("inspect", path), "bad.spey", *words)
        self.assertFails(run("run", path, "--ids", "1"), "bad.spey", *words)

    def test_foreign_and_truncated_files(self):
        self.refuse(b"")
        self.refuse(b"GGUF" + b"\0" * 1000)
        self.refuse(os.urandom(5000))
        for part in (8, 63, 64, 200, len(self.bytes) // 2, len(self.bytes) - 1):
            self.refuse(self.bytes[:part])

    def test_every_section_is_guarded_by_a_checksum(self):
        sections = json.loads(run("inspect", self.engine, "--json", check=True).stdout)["sections"]
        self.assertGreaterEqual(len(sections), 4)
        for section in sections:
            if section["bytes"]:
                broken = bytearray(self.bytes)
                broken[section["offset"] + section["bytes"] // 2] ^= 1
                self.refuse(bytes(broken), section["name"])

    def test_a_newer_format_is_named(self):
        newer = bytearray(self.bytes)
        self.assertEqual(struct.unpack_from("<I", newer, 8)[0], 1)
        struct.pack_into("<I", newer, 8, 99)
        self.refuse(bytes(newer), "99", "newer")


class BadRequests(SpeyTest):
    def test_prompts_that_do_not_fit(self):
        self.assertFails(run("run", DEMO, "word " * 2000), "tokens")
        self.assertFails(run("run", DEMO, "--ids", "1,2,3,4,5", "--context", 4), "5 tokens", "4")
        self.assertFails(run("run", DEMO, "--ids", "9999"), "9999", "8191")

    def test_flags_that_are_wrong(self):
        usage = (["run"], ["run", DEMO, "x", "y"], ["run", DEMO, "--tempratur", "1"], ["run", DEMO, "--top-p", "2"],
                 ["run", DEMO, "--max-tokens", "many"], ["bench", "speed", DEMO], ["bench", "latency"], ["eval", DEMO],
                 ["build", DEMO], ["frobnicate"], ["build", DEMO, "-o", "/tmp/never.spey", "--calib", "x"],
                 ["build", DEMO, "-o", "/tmp/never.spey", "--quant", "fp8", "--calib-windows", "3"],
                 ["eval", DEMO, "--against", DEMO], ["eval", DEMO, "--text", "x"],
                 ["eval", DEMO, "--against", DEMO, "--text", "x", "--perplexity", "x"])
        for args in usage:
            self.assertFails(run(*args), code=2)
        self.assertIn("did you mean --temperature", run("run", DEMO, "--tempratur", "1").stderr)
        for args in (["run", DEMO, "x", "--dtype", "f8"], ["run", DEMO, "x", "--kv-dtype", "q4"],
                     ["run", DEMO, "x", "--device", "abacus"], ["run", DEMO, "--ids", "1,x"],
                     ["run", DEMO, "x", "--logit-bias", "5"], ["run", DEMO, "x", "--stop", ""],
                     ["run", DEMO, "x", "--system", "be nice"], ["run", DEMO + "/config.json", "x"],
                     ["build", DEMO, "-o", "/tmp/never.spey", "--dtype", "q8"],
                     ["build", DEMO, "-o", "/tmp/never.spey", "--disable-passes", "nonsense"],
                     ["build", DEMO, "-o", "/tmp/never.spey", "--quant", "fp4"],
                     ["build", DEMO, "-o", "/tmp/never.spey", "--quant-scales", "tensor"],
                     ["build", DEMO, "-o", "/tmp/never.spey", "--quant", "fp8", "--quant-scales", "row"],
                     ["build", DEMO, "-o", "/tmp/never.spey", "--quant", "fp8", "--calib", "/nonexistent"],
                     ["eval", DEMO, "--against", LLAMA, "--text", __file__],
                     ["eval", DEMO, "--against", DEMO, "--text", "/nonexistent"],
                     ["bench", "latency", "--shape", "llama-9-1b"], ["tokenize", DEMO + "/config.json", "x"],
                     ["eval", DEMO, "--perplexity", "/nonexistent"], ["inspect", "/nonexistent"],
                     ["inspect", DEMO, "--graph"], ["tokenize", DEMO, "--decode", "123456"]):
            self.assertFails(run(*args))

    def test_jsonl_that_is_wrong_names_the_line(self):
        self.assertIn("stdin:2", run("tokenize", DEMO, "--jsonl", stdin='{"text": "a"}\n{"text": 5}\n').stderr)
        self.assertIn("stdin:1", run("tokenize", DEMO, "--jsonl", stdin='{"text"\n').stderr)

    def test_eval_refuses_ids_outside_the_vocabulary(self):
        bad = self.path("bad.safetensors")
        write_safetensors(bad, {"sequence": ("I64", [1, 2], struct.pack("<2q", 1, 1 << 40))})
        out = self.path("out.safetensors")
        self.assertFails(run("eval", DEMO, "--input-ids", bad, "--dump-logits", out), str(1 << 40))
        self.assertNothingLeft(out)
        write_safetensors(bad, {"ids": ("I64", [1, 1], struct.pack("<q", 1))})
        self.assertFails(run("eval", DEMO, "--input-ids", bad, "--dump-logits", out), "sequence")


if __name__ == "__main__":
    unittest.main()
