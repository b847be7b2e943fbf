"""What users rely on: the same text whatever the threads and steps, stop strings, limits, every command's --json."""

import json
import os
import subprocess
import time
import unittest

from spey_cli import DATA, DEMO, SPEY, SpeyTest, run, run_json

PROMPT = "It was a dark night, and the captain"


class Behaviour(SpeyTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.engine = os.path.join(cls.folder, "demo.spey")
        run("build", DEMO, "-o", cls.engine, check=True)

    def test_the_same_seed_gives_the_same_text_whatever_threads_and_steps(self):
        sampling = ["--temperature", 0.9, "--top-p", 0.95, "--seed", 42, "--max-tokens", 60, "--json"]
        first = run_json("run", self.engine, PROMPT, *sampling)
        for more in (["--threads", 1], ["--threads", 2], ["--step-tokens", 3], ["--step-prefill", 3], ["--batch-invariant"],
                     ["--kv-block", 16]):
            self.assertEqual(run_json("run", self.engine, PROMPT, *sampling, *more)["output_ids"], first["output_ids"],
                             more)
        sampling[5] = 43
        self.assertNotEqual(run_json("run", self.engine, PROMPT, *sampling)["output_ids"], first["output_ids"])

    def test_a_checkpoint_folder_is_built_once_and_again_when_it_changes(self):
        checkpoint = self.copy_checkpoint("changing")
        cache = os.path.join(os.environ["XDG_CACHE_HOME"], "spey")
        before = set(os.listdir(cache)) if os.path.isdir(cache) else set()
        a = run_json("run", checkpoint, PROMPT, "--json", "--max-tokens", 5)
        b = run_json("run", checkpoint, PROMPT, "--json", "--max-tokens", 5)
        self.assertEqual(a["output_ids"], b["output_ids"])
        self.assertEqual(len(set(os.listdir(cache)) - before), 1)
        with open(os.path.join(checkpoint, "generation_config.json")) as f:
            config = json.load(f)
        config["eos_token_id"] = a["output_ids"][2]
        with open(os.path.join(checkpoint, "generation_config.json"), "w") as f:
            json.dump(config, f)
        c = run_json("run", checkpoint, PROMPT, "--json", "--max-tokens", 5)
        self.assertEqual(c["output_ids"], a["output_ids"][:3])
        self.assertEqual(c["finish_reason"], "eos")
        self.assertEqual(len(set(os.listdir(cache)) - before), 2)

    def test_quant_builds_a_folder_as_build_does_and_fits_no_engine(self):
        engine = os.path.join(self.folder, "demo-fp8.spey")
        run("build", DEMO, "--quant", "fp8", "-o", engine, check=True)
        flags = ["--json", "--max-tokens", 20, "--logprobs", 0]
        quantized = run_json("run", DEMO, PROMPT, "--quant", "fp8", *flags)
        self.assertEqual(quantized["logprobs"], run_json("run", engine, PROMPT, *flags)["logprobs"])
        self.assertNotEqual(quantized["logprobs"], run_json("run", DEMO, PROMPT, *flags)["logprobs"])
        self.assertIn("--quant", run("run", engine, PROMPT, "--quant", "fp8").stderr)
        out = run_json("bench", "latency", "--shape", "demo", "--quant", "fp8", "--isl", 8, "--osl", 2, "--iterations", 1,
                       "--json")
        whole = run_json("bench", "latency", "--shape", "demo", "--isl", 8, "--osl", 2, "--iterations", 1, "--json")
        self.assertLess(out["weight_bytes_per_step"], 0.8 * whole["weight_bytes_per_step"])
        one = run_json("bench", "latency", "--shape", "demo", "--quant", "fp8", "--quant-scales", "tensor", "--isl", 8,
                       "--osl", 2, "--iterations", 1, "--json")
        self.assertLess(one["weight_bytes_per_step"], out["weight_bytes_per_step"])

    def test_stop_strings_end_the_text_before_them(self):
        whole = run_json("run", self.engine, PROMPT, "--json", "--max-tokens", 40)["text"]
        stop = whole[20:26]
        out = run_json("run", self.engine, PROMPT, "--json", "--max-tokens", 40, "--stop", stop, "--stop", "never this")
        self.assertEqual(out["finish_reason"], "stop")
        self.assertEqual(out["text"], whole[:whole.index(stop)])
        streamed = run("run", self.engine, PROMPT, "--max-tokens", 40, "--stop", stop, check=True).stdout
        self.assertEqual(streamed, out["text"] + "\n")

    def test_streamed_text_is_the_text_of_json(self):
        out = run_json("run", self.engine, PROMPT, "--json", "--max-tokens", 50)
        self.assertEqual(run("run", self.engine, PROMPT, "--max-tokens", 50, check=True).stdout, out["text"] + "\n")

    def test_limits_of_tokens_are_kept(self):
        out = run_json("run", self.engine, PROMPT, "--json", "--max-tokens", 7)
        self.assertEqual((len(out["output_ids"]), out["finish_reason"]), (7, "length"))
        out = run_json("run", self.engine, PROMPT, "--json", "--max-tokens", -1, "--context", 40, "--ignore-eos")
        self.assertEqual((len(out["output_ids"]) + len(out["prompt_ids"]), out["finish_reason"]), (40, "length"))
        eos = run_json("run", self.engine, PROMPT, "--json", "--max-tokens", 9, "--logit-bias", "1=1000")
        self.assertEqual((eos["output_ids"], eos["finish_reason"], eos["text"]), ([1], "eos", ""))
        late = run_json("run", self.engine, PROMPT, "--json", "--max-tokens", 9, "--logit-bias", "1=1000",
                        "--min-tokens", 4)
        self.assertEqual((len(late["output_ids"]), late["output_ids"][4]), (5, 1))
        ignored = run_json("run", self.engine, PROMPT, "--json", "--max-tokens", 3, "--logit-bias", "1=1000",
                           "--ignore-eos")
        self.assertEqual((ignored["output_ids"], ignored["finish_reason"]), ([1, 1, 1], "length"))

    def test_bad_words_never_appear(self):
        whole = run_json("run", self.engine, PROMPT, "--json", "--max-tokens", 40)["text"]
        word = max(whole.replace(",", "").replace(".", "").split(), key=len)
        self.assertNotIn(word, run_json("run", self.engine, PROMPT, "--json", "--max-tokens", 40, "--bad-words",
                                        word)["text"])

    def test_log_probabilities_come_with_every_token(self):
        out = run_json("run", self.engine, PROMPT, "--json", "--max-tokens", 5, "--logprobs", 3,
                       "--repetition-penalty", 1.5)
        self.assertEqual([t["id"] for t in out["logprobs"]], out["output_ids"])
        for token in out["logprobs"]:
            self.assertEqual(len(token["top"]), 3)
            self.assertLess(token["logprob"], 0)
            self.assertLessEqual(token["logprob"], token["top"][0]["logprob"])
            self.assertGreaterEqual(token["top"][0]["logprob"], token["top"][2]["logprob"])

    def test_the_prompt_may_come_from_stdin_or_as_ids(self):
        a = run_json("run", self.engine, PROMPT, "--json", "--max-tokens", 5)
        b = run_json("run", self.engine, "--json", "--max-tokens", 5, stdin=PROMPT)
        c = run_json("run", self.engine, "--ids", ",".join(map(str, a["prompt_ids"])), "--json", "--max-tokens", 5)
        for other in (b, c):
            self.assertEqual((other["prompt_ids"], other["output_ids"]), (a["prompt_ids"], a["output_ids"]))

    def test_a_chat_template_is_applied_and_raw_leaves_it_out(self):
        checkpoint = self.copy_checkpoint("chatty")
        config = os.path.join(checkpoint, "tokenizer_config.json")
        with open(config) as f:
            values = json.load(f)
        values["chat_template"] = ("{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}"
                                   "<|end_header_id|>{{ m.content }}<|eot_id|>{% endfor %}"
                                   "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>"
                                   "{% endif %}")
        with open(config, "w") as f:
            json.dump(values, f)
        chat = run_json("run", checkpoint, "Hello", "--json", "--max-tokens", 1, "--system", "Be brief")["prompt_ids"]
        raw = run_json("run", checkpoint, "Hello", "--json", "--max-tokens", 1, "--raw")["prompt_ids"]
        expected = run_json("tokenize", checkpoint, "--jsonl", "--no-special", stdin=json.dumps(
            {"text": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>Be brief<|eot_id|>"
                     "<|start_header_id|>user<|end_header_id|>Hello<|eot_id|>"
                     "<|start_header_id|>assistant<|end_header_id|>"}))["ids"]
        self.assertEqual(chat, expected)
        self.assertEqual(raw, run_json("tokenize", checkpoint, "--jsonl", stdin='{"text": "Hello"}')["ids"])

    def test_interactive_chat_remembers_the_conversation(self):
        checkpoint = self.copy_checkpoint("talk")
        with open(os.path.join(checkpoint, "tokenizer_config.json")) as f:
            values = json.load(f)
        values["chat_template"] = "{% for m in messages %}{{ m.content }} {% endfor %}"
        with open(os.path.join(checkpoint, "tokenizer_config.json"), "w") as f:
            json.dump(values, f)
        master, slave = os.openpty()
        process = subprocess.Popen([SPEY, "run", checkpoint, "--max-tokens", "4"], stdin=slave, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        os.close(slave)
        os.write(master, b"Once upon a time\nAnd then\n")
        time.sleep(1)
        os.write(master, b"\x04")  # Ctrl-D
        stdout, stderr = process.communicate(timeout=60)
        os.close(master)
        self.assertEqual(process.returncode, 0, stderr)
        answers = stdout.splitlines()
        first = run_json("run", checkpoint, "Once upon a time", "--max-tokens", 4, "--json")["text"]
        self.assertEqual(answers[0], first)
        second = run_json("run", checkpoint, "--raw", "--max-tokens", 4, "--json",
                          stdin=f"Once upon a time {first} And then ")
        self.assertEqual(answers[1], second["text"])

    def test_every_way_to_a_tokenizer_gives_the_same_ids(self):
        line = json.dumps({"text": "Once upon a time … naïve 北京\n\n  two"})
        ways = [run_json("tokenize", path, "--jsonl", stdin=line)
                for path in (self.engine, DEMO, os.path.join(DEMO, "tokenizer.json"))]
        self.assertEqual(ways[0], ways[1])
        self.assertEqual(ways[0], ways[2])
        self.assertEqual(ways[0]["decoded"], json.loads(line)["text"])
        text = run("tokenize", self.engine, "--decode", ",".join(map(str, ways[0]["ids"][1:])), check=True).stdout
        self.assertEqual(text, ways[0]["decoded"] + "\n")

    def test_inspect_shows_graph_tensors_and_plan(self):
        plain = run("inspect", self.engine, check=True).stdout
        for word in ("llama", "8.4 M parameters", "sections", "provenance"):
            self.assertIn(word, plain)
        graph = run("inspect", self.engine, "--graph", check=True).stdout
        self.assertTrue(graph.startswith("spey-graph 1\n"))
        self.assertIn("rope_append", graph)
        everything = run_json("inspect", self.engine, "--json", "--tensors", "--graph", "--plan", "--sequences", 8)
        self.assertEqual(everything["graph"], graph)
        self.assertEqual(everything["info"]["arch"], "llama")
        self.assertEqual(everything["plan"]["sequences"], 8)
        self.assertGreater(len(everything["tensors"]), 30)
        self.assertIn("all checksums are right", run("inspect", self.engine, "--verify", check=True).stdout)
        checkpoint = run_json("inspect", DEMO, "--json")
        self.assertEqual(checkpoint["config"]["model_type"], "llama")

    def test_a_plan_that_does_not_fit_is_refused_with_settings_that_do(self):
        result = run("inspect", self.engine, "--plan", "--memory", "8M", "--sequences", 64)
        self.assertFails(result, "8", "MiB")
        result = run("run", self.engine, PROMPT, "--memory", "1M")
        self.assertFails(result, "MiB")

    def test_passes_change_the_graph_and_not_the_text(self):
        plain = self.path("plain.spey")
        run("build", DEMO, "-o", plain, "--disable-passes", "all", "--dtype", "f32", check=True)
        fused = self.path("fused.spey")
        run("build", DEMO, "-o", fused, "--dtype", "f32", check=True)
        self.assertNotIn("rope_append", run("inspect", plain, "--graph", check=True).stdout)
        texts = [run_json("run", e, PROMPT, "--json", "--max-tokens", 40)["text"] for e in (plain, fused)]
        self.assertEqual(texts[0], texts[1])

    def test_a_quantized_engine_is_compared_with_its_original(self):
        text = os.path.join(DATA, "text", sorted(os.listdir(os.path.join(DATA, "text")))[0])
        compare = ["--against", self.engine, "--text", text, "--window", 128, "--windows", 2, "--json"]
        for name, flags in (("channel", []), ("tensor", ["--quant-scales", "tensor"]),
                            ("static", ["--calib", text, "--calib-windows", 1])):
            engine = self.path("fp8.spey")
            run("build", DEMO, "-o", engine, "--quant", "fp8", *flags, check=True)
            self.assertLess(os.path.getsize(engine), 0.7 * os.path.getsize(self.engine))
            out = run_json("eval", engine, *compare)
            self.assertEqual(out["tokens"], 256)
            self.assertTrue(1e-5 < out["kl_mean"] < 0.02 and out["kl_mean"] < out["kl_p99"] <= out["kl_max"], (name, out))
            self.assertGreater(out["top1_agreement"], 0.9)
            self.assertLess(abs(out["perplexity"] / out["perplexity_against"] - 1), 0.02)
            made = run_json("inspect", engine, "--json")["provenance"]["quantization"]
            self.assertEqual((made["method"], made["e4m3_matrices"]), ("fp8", 32))
            self.assertEqual(made["static_inputs"], 32 if name == "static" else 0)
            self.assertIsNone(run_json("inspect", engine, "--json")["provenance"]["kv_cache"])
            if name == "static":
                self.assertEqual((made["calibration"]["tokens"], made["calibration"]["window"]), (512, 512))
        self.assertEqual(os.listdir(os.path.dirname(self.path("x"))).count("fp8.spey.calibration"), 0)
        same = run_json("eval", self.engine, *compare)
        self.assertEqual((same["kl_max"], same["top1_agreement"]), (0, 1))
        self.assertAlmostEqual(same["perplexity"], run_json(
            "eval", self.engine, "--perplexity", text, "--window", 128, "--windows", 2, "--json")["perplexity"], places=5)

    def test_an_engine_may_have_an_fp8_cache(self):
        text = os.path.join(DATA, "text", sorted(os.listdir(os.path.join(DATA, "text")))[0])
        compare = ["--against", self.engine, "--text", text, "--window", 128, "--windows", 2, "--json"]
        for flags, scales in (([], "none"), (["--calib", text, "--calib-windows", 1], "calibrated")):
            engine = self.path("kv8.spey")
            run("build", DEMO, "-o", engine, "--kv-dtype", "fp8", *flags, check=True)
            self.assertIn("KV cache fp8", run("inspect", engine, check=True).stdout)
            made = run_json("inspect", engine, "--json")["provenance"]["kv_cache"]
            self.assertEqual((made["dtype"], made["scales"]), ("fp8", scales))
            out = run_json("eval", engine, *compare)
            self.assertTrue(1e-5 < out["kl_mean"] < 0.02, out)
            self.assertEqual(run_json("eval", engine, "--kv-dtype", "bf16", *compare)["kl_max"], 0)
            self.assertIn("fp8", run("inspect", engine, "--plan", check=True).stdout)
        result = run("build", DEMO, "-o", self.path("x.spey"), "--calib", text)
        self.assertIn("--quant fp8 and --kv-dtype fp8: both are missing", result.stderr)
        result = run("build", DEMO, "-o", self.path("x.spey"), "--kv-dtype", "int4")
        self.assertIn("expected auto, f32, f16, bf16, fp8 or int8", result.stderr)

    def test_many_prompts_give_what_each_gives_alone_in_their_order(self):
        lines = [{"prompt": PROMPT, "max_tokens": 30}, {"prompt": "Once", "max_tokens": 3, "temperature": 0.8, "seed": 5},
                 {"ids": [0, 51, 1242]}, {"prompt": PROMPT, "max_tokens": 30, "stop": ["the"]}]
        lines += [{"prompt": f"Chapter {i}.", "max_tokens": 1 + i % 7} for i in range(20)]
        path = os.path.join(self.folder, "prompts.jsonl")
        with open(path, "w") as f:
            f.write("".join(json.dumps(line) + "\n" for line in lines))
        out = run("run", self.engine, "--prompts", path, "--max-tokens", 5, "--batch", 4, check=True).stdout
        answers = [json.loads(line) for line in out.splitlines()]
        self.assertEqual(len(answers), len(lines))
        for line, answer in zip(lines, answers):
            prompt = ["--ids", ",".join(map(str, line["ids"]))] if "ids" in line else [line["prompt"]]
            flags = ["--max-tokens", line.get("max_tokens", 5), "--temperature", line.get("temperature", 0), "--seed",
                     line.get("seed", 0)] + [x for stop in line.get("stop", []) for x in ("--stop", stop)]
            alone = run_json("run", self.engine, *prompt, "--json", *flags)
            for key in ("prompt_ids", "output_ids", "text", "finish_reason"):
                self.assertEqual(answer[key], alone[key], line)
        self.assertEqual(answers[3]["finish_reason"], "stop")

    def test_a_prompt_that_cannot_run_does_not_stop_the_others(self):
        good = {"prompt": "Once", "max_tokens": 2}
        bad = [{"prompt": 5}, {"ids": []}, {"ids": [99999999]}, {"ids": [0.5]}, {"prompt": "x", "temperatur": 1},
               {"prompt": "x", "temperature": -1}, {"prompt": "x", "stop": "the"}, {"prompt": "x", "ids": [1]}, ["x"],
               {"prompt": "x " * 5000}, {"prompt": "x", "max_tokens": 1e9}, {"messages": []}]
        path = os.path.join(self.folder, "bad.jsonl")
        with open(path, "w") as f:
            f.write("".join(json.dumps(line) + "\n" for b in bad for line in (b, good)))
        result = run("run", self.engine, "--prompts", path)
        self.assertEqual(result.returncode, 1)
        self.assertIn(f"{len(bad)} of {2 * len(bad)} prompts failed", result.stderr)
        answers = [json.loads(line) for line in result.stdout.splitlines()]
        for i, (b, answer) in enumerate(zip(bad, answers[::2])):
            self.assertIn("error", answer, b)
            self.assertEqual(answer["index"], 2 * i)
        self.assertTrue(all(len(a["output_ids"]) == 2 for a in answers[1::2]))
        with open(path, "a") as f:
            f.write("{nonsense\n")
        self.assertIn(f"bad.jsonl:{2 * len(bad) + 1}", run("run", self.engine, "--prompts", path).stderr)
        self.assertEqual(run("run", self.engine, "Once", "--prompts", path).returncode, 2)

    def test_bench_reports_every_figure(self):
        out = run_json("bench", "latency", self.engine, "--isl", 32, "--osl", 8, "--batch", 2, "--iterations", 1,
                       "--warmup", 0, "--json")
        for key in ("output_tokens_per_second", "prefill_tokens_per_second", "first_token_ms_p50",
                    "inter_token_ms_p99", "read_bandwidth_bytes_per_second"):
            self.assertGreater(out[key], 0, key)
        out = run_json("bench", "throughput", "--shape", "demo", "--isl", 16, "--osl", 4, "--batch", 2, "--requests", 5,
                       "--warmup", 0, "--json")
        self.assertEqual(out["requests"], 5)
        self.assertEqual(out["output_tokens"], 20)

    def test_a_step_ahead_says_the_same(self):
        plain, ahead = (run_json("run", self.engine, PROMPT, "--json", "--max-tokens", 40, *flags)
                        for flags in (["--no-ahead"], ["--ahead"]))
        self.assertEqual((ahead["output_ids"], ahead["text"], ahead["finish_reason"]),
                         (plain["output_ids"], plain["text"], plain["finish_reason"]))
        common = ["--isl", 8, "--osl", 16, "--batch", 2, "--requests", 4, "--warmup", 0, "--json"]
        for flags, is_ahead in (([], False), (["--ahead"], True), (["--ahead", "--no-ahead"], False)):
            out = run_json("bench", "throughput", self.engine, *common, *flags)
            self.assertEqual(out["output_tokens"], 64)
            self.assertEqual(out["steps_ahead"] > 0, is_ahead)
            self.assertLessEqual(out["host_hidden_per_step_us_mean"], out["host_per_step_us_mean"])

    def test_bench_profile_times_every_kernel_that_ran(self):
        out = run_json("bench", "latency", self.engine, "--isl", 32, "--osl", 8, "--iterations", 2, "--profile", "--json")
        lines = {line["kernel"]: line for line in out["profile"]}
        self.assertEqual({name.split()[0] for name in lines}, {row.rsplit(" ", 1)[0] for row in out["kernels"].split(", ")})
        products = [line for name, line in lines.items() if name.startswith("gemm/")]
        self.assertTrue(all(line["operations"] > 0 and line["weight_bytes"] > 0 for line in products))
        self.assertEqual({line["runs"] % (2 * out["steps"]) for line in products}, {0})
        self.assertGreater(sum(line["ms"] for line in lines.values()), 0)

    def test_bench_runs_drawn_lengths_and_arrivals_and_traces(self):
        trace = os.path.join(self.folder, "trace.jsonl")
        with open(trace, "w") as f:
            for i in range(6):
                f.write(json.dumps({"isl": 5 + i, "osl": 1 + i, "arrival_ms": 10 * (6 - i)}) + "\n")
        common = ["--batch", 2, "--warmup", 0, "--json"]
        out = run_json("bench", "throughput", self.engine, "--trace", trace, *common)
        self.assertEqual((out["requests"], out["output_tokens"], out["failed"]), (6, 21, 0))
        self.assertGreater(out["seconds"], 0.045)  # the last comes after 60 ms, and time begins before the first
        out = run_json("bench", "throughput", self.engine, "--osl", "lognormal:10:10", "--requests", 12, *common)
        again = run_json("bench", "throughput", self.engine, "--osl", "lognormal:10:10", "--requests", 12,
                         "--arrival", "closed:1", *common)
        self.assertEqual(out["output_tokens"], again["output_tokens"])
        # One client at a time: half the slots stay empty, so more steps for the same tokens.
        self.assertGreater(again["steps"], out["steps"])
        self.assertLess(again["kv_occupancy_max"], out["kv_occupancy_max"])
        self.assertEqual(again["kv_reused_tokens"], 0)
        # Neither does a run find the prompts of the warm-up; within a run a common beginning is found.
        shared = [run_json("bench", "throughput", self.engine, "--isl", 200, "--osl", 2, "--requests", 6, "--batch", 2,
                           "--shared-prefix", n, "--json")["kv_reused_tokens"] for n in (0, 128)]
        self.assertEqual(shared[0], 0)
        self.assertGreaterEqual(shared[1], 4 * 128)
        for wrong in (["--osl", "long"], ["--arrival", "soon"], ["--trace", trace + ".missing"]):
            self.assertNotEqual(run("bench", "throughput", self.engine, *wrong).returncode, 0)
        self.assertEqual(run("bench", "latency", self.engine, "--arrival", "poisson:3").returncode, 2)

    @unittest.skipUnless(os.environ.get("SPEY_RELEASE"), "sanitizers need more")
    def test_the_binary_is_small_and_needs_libc_alone(self):
        self.assertLess(os.path.getsize(SPEY), 6 << 20)
        needed = subprocess.run(["ldd", SPEY], capture_output=True, text=True, check=True).stdout
        for line in needed.splitlines():
            self.assertRegex(line.strip(), r"^(linux-vdso|libc\.so|libm\.so|/lib.*/ld-linux)", needed)

    @unittest.skipUnless(os.environ.get("SPEY_RELEASE"), "sanitizers need more")
    def test_resident_memory_is_what_the_plan_says_and_little_more(self):
        plan = run_json("inspect", self.engine, "--json", "--plan")["plan"]
        planned = sum(line["bytes"] for line in plan["lines"])  # weights and the engine's pages too
        process = subprocess.Popen([SPEY, "run", self.engine, PROMPT, "--max-tokens", "20"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        self.assertEqual(status, 0)
        self.assertLess(usage.ru_maxrss * 1024 - planned, 32 << 20)

    def test_every_command_explains_itself(self):
        for command in ("build", "run", "eval", "bench", "inspect", "tokenize"):
            text = run(command, "--help", check=True).stdout
            self.assertIn(f"Usage: spey {command}", text)
            self.assertIn("Examples:", text)
        self.assertIn("Commands:", run("--help", check=True).stdout)
        self.assertRegex(run("--version", check=True).stdout, r"^spey \d+\.\d+\.\d+\n$")


if __name__ == "__main__":
    unittest.main()
