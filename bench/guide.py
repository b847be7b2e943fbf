#!/usr/bin/env python3
"""What the masks of guides cost at a large vocabulary, one thread.

    guide.py --tool build/release/tests/text/guide_main [--before OTHER_GUIDE_MAIN] VOCABULARY

VOCABULARY is Mistral's Tekken (tekken_240911.json of the package mistral-common), cut to 128,000 tokens, or a
tokenizer.json. The guides: the 20 schemas of tests/data/guide_schemas.json, and the schemas, regexes and grammars
below. Each is walked at random by tokens that it allows, with a matcher of its own: the first time cold, then again.
With --before both tools take the same walks, alternating, and their masks must be equal.
"""
import argparse, base64, json, os, struct, subprocess, tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
N_TOKENS = 128000
WALKS = 12
STRING = {"type": "string"}
SCHEMAS = [
    {},
    STRING,
    {"type": "array", "items": STRING},
    {"type": "object", "additionalProperties": STRING},
    {"type": "object", "properties": {"title": STRING, "body": STRING, "tags": {"type": "array", "items": STRING}},
     "required": ["title", "body", "tags"]},
    {"type": "object", "properties": {f"field_{i}": {"type": "string", "maxLength": 10 + 20 * i} for i in range(12)}},
    {"type": "object", "properties": {"name": STRING, "note": STRING}, "additionalProperties": STRING},
    {"type": "string", "maxLength": 500},
    {"type": "string", "minLength": 30},
    {"anyOf": [{"enum": ["Paris", "London", "Parma"]}, {"type": "string", "maxLength": 30}]},
]
REGEXES = [".*", ".{1,200}", "[a-z]+", "[A-Z][a-z]+( [A-Z][a-z]+){0,3}", r"\w+(\s\w+)*", r"[^,\n]*(,[^,\n]*){3}",
           r"(yes|no|[a-z]{3,12})\.?", r"\d{3}-\d{4}", r"([^\x00-\x7f]|[a-z ])*", r"(Question: .*\nAnswer: .*\n)+"]
GRAMMARS = ['root ::= "(" (root | [a-z]{1,3}){0,2} ")"',
            'root ::= line+\nline ::= [^\\n]* "\\n"',
            'root ::= expr\nexpr ::= term (("+" | "-") term)*\nterm ::= [0-9]+ | name | "(" expr ")"\n'
            'name ::= [a-zA-Z_] [a-zA-Z0-9_]*',
            'root ::= "SELECT " word (", " word)* " FROM " word\nword ::= letter word | letter\nletter ::= [a-z]']


def vocabulary(path):
    with open(path) as f:
        data = json.load(f)
    if isinstance(data.get("vocab"), list):
        return [base64.b64decode(t["token_bytes"]) for t in data["vocab"]][:N_TOKENS]
    table = byte_table()
    tokens = sorted(data["model"]["vocab"].items(), key=lambda item: item[1])
    return [bytes(table[c] for c in t) if all(c in table for c in t) else b"" for t, _ in tokens]


def byte_table():
    """The characters of byte-level vocabularies."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}


def requests():
    with open(os.path.join(ROOT, "tests", "data", "guide_schemas.json")) as f:
        schemas = json.load(f) + SCHEMAS
    yield from (("schema", json.dumps(s)) for s in schemas)
    yield from (("regex", r) for r in REGEXES)
    yield from (("grammar", g) for g in GRAMMARS)


def line(name, ns):
    ns = sorted(ns)
    at = [ns[min(len(ns) - 1, int(len(ns) * q))] / 1000 for q in (0.5, 0.9, 0.99, 0.999)]
    print(f"  {name:6}" + "".join(f"{v:10.1f}" for v in at + [ns[-1] / 1000]) + f"   {len(ns)} tokens")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--before")
    parser.add_argument("--verbose", action="store_true", help="the worst mask of each guide")
    parser.add_argument("vocabulary")
    args = parser.parse_args()
    tools = [args.before] * bool(args.before) + [args.tool]
    with tempfile.NamedTemporaryFile() as file:
        for token in [*vocabulary(args.vocabulary), b""]:
            file.write(struct.pack("<I", len(token)) + token)
        file.flush()
        running = [subprocess.Popen([t, "bench", file.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                   for t in tools]
        sums = [{"cold_ns": [], "warm_ns": [], "apply_ns": []} for _ in tools]
        for kind, guide in requests():
            hashes = set()
            for process, total in zip(running, sums):
                process.stdin.write(json.dumps({"format": kind, "guide": guide, "walks": WALKS, "seed": 1}) + "\n")
                process.stdin.flush()
                reply = json.loads(process.stdout.readline())
                assert "error" not in reply, (guide, reply)
                hashes.add(reply["masks"])
                for key in total:
                    total[key] += reply[key]
                if args.verbose:
                    print(f"{max(reply['cold_ns']) / 1000:8.0f} {max(reply['warm_ns']) / 1000:8.0f} µs  {guide[:90]}")
            assert len(hashes) == 1, ("masks differ", guide)
        for process in running:
            process.stdin.close()
            process.wait()
    print("µs            p50       p90       p99     p99.9       max")
    for tool, total in zip(tools, sums):
        print(tool)
        for key, ns in total.items():
            line(key[:-3], ns)


if __name__ == "__main__":
    main()
