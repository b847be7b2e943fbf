"""What guides match, against enumerated languages and jsonschema; hostile ones are refused.

Needs .venv (tools/install-deps check) or a python3 with jsonschema for the schemas; without, those are skipped.
"""

import itertools
import json
import os
import random
import re
import subprocess
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PYTHON = os.path.join(ROOT, ".venv", "bin", "python")
try:
    import jsonschema
    import rfc3339_validator  # noqa: F401 (jsonschema checks times with it)
except ImportError:
    if os.path.exists(PYTHON) and not os.environ.get("SPEY_IN_VENV"):
        os.execve(PYTHON, [PYTHON, *sys.argv], {**os.environ, "SPEY_IN_VENV": "1"})
    jsonschema = None

GUIDE_MAIN = os.environ["SPEY_GUIDE_MAIN"]
SEED = 5
LENGTH = 4
TEXTS = ["".join(t) for n in range(LENGTH + 1) for t in itertools.product("ab0", repeat=n)]


def ask(requests):
    stdin = "".join(json.dumps(r) + "\n" for r in requests)
    out = subprocess.run([GUIDE_MAIN, "match"], input=stdin, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in out.stdout.rstrip("\n").split("\n")]


def matches(kind, guide, texts):
    reply = ask([{"format": kind, "guide": guide, "texts": texts}])[0]
    assert "error" not in reply, reply
    return reply["matches"]


# ---- random regexes with the language that they mean, up to LENGTH ----

CLASSES = {"[ab]": "ab", "[^a]": "b0", r"\d": "0", r"\D": "ab", ".": "ab0", r"\w": "ab0", "[a-b0]": "ab0", r"[\d]": "0"}
GRAMMAR_CLASSES = {r"\d": "[0-9]", r"\D": "[^0-9]", r"\w": "[a-z0-9]", r"[\d]": "[0-9]"}
REPEATS = {"*": (0, 9), "+": (1, 9), "?": (0, 1), "*?": (0, 9), "{2}": (2, 2), "{1,3}": (1, 3), "{2,}": (2, 9)}


def joined(x, y):
    return {a + b for a in x for b in y if len(a) + len(b) <= LENGTH}


def repeated(x, low, high):
    out, power = set(), {""}
    for i in range(high + 1):
        out |= power if i >= low else set()
        power = joined(power, x)
    return out


def draw(rng, depth):
    """A regex, the same as a grammar, and its language."""
    kind = rng.randrange(9) if depth else rng.randrange(2)
    if kind == 0:
        c = rng.choice("ab0")
        return c, f'"{c}"', {c}
    if kind in (1, 2):
        c = rng.choice(list(CLASSES))
        return c, GRAMMAR_CLASSES.get(c, c), set(CLASSES[c])
    text, grammar, language = draw(rng, depth - 1)
    if kind in (3, 4, 5):
        other, its_grammar, its = draw(rng, depth - 1)
        if kind == 5:
            return f"({text}|{other})", f"({grammar} | {its_grammar})", language | its
        return text + other, grammar + " " + its_grammar, joined(language, its)
    if kind in (6, 7):
        mark, (low, high) = rng.choice(list(REPEATS.items()))
        return f"(?:{text}){mark}", f"({grammar}){mark.replace('*?', '*')}", repeated(language, low, high)
    return f"({text}|)", f'({grammar} | "")', language | {""}


class Regexes(unittest.TestCase):
    def test_random_regexes_and_grammars_match_their_languages(self):
        rng = random.Random(SEED)
        drawn = [draw(rng, 5) for _ in range(800)]
        for kind, prefix, at in (("regex", "", 0), ("grammar", "root ::= ", 1)):
            replies = ask([{"format": kind, "guide": prefix + d[at], "texts": TEXTS} for d in drawn])
            for d, reply in zip(drawn, replies):
                self.assertEqual(reply.get("matches"), [t in d[2] for t in TEXTS], (SEED, d[at], reply.get("error")))

    def test_classes_and_characters_are_those_of_python(self):
        texts = [chr(c) for c in [*range(1, 0x180), 0x7ff, 0x800, 0xd7ff, 0xe000, 0xfffd, 0x10000, 0x10ffff]]
        for regex in (r"\w", r"\W", r"\s", r"\S", r"\d", r"\D", ".", r"[^\w]", r"[\s\d]", "[à-ÿ]", r"[^\u0100-\uffff]",
                      r"[a-z\-\]^]", r"\x41", r"\.", "é", r"[\n\t]", "(?i:a)"[4:5], r"[^\x00-\x7f]"):
            wanted = [bool(re.fullmatch(regex, t, re.ASCII)) for t in texts]
            # ECMA's and Python's \s differ from ours in U+001C to U+001F alone.
            got = matches("regex", regex, texts)
            for t, w, g in zip(texts, wanted, got):
                if not 0x1c <= ord(t) <= 0x1f:
                    self.assertEqual(g, w, (regex, t))


class Grammars(unittest.TestCase):
    def test_brackets_match_in_depth(self):
        grammar = 'root ::= ("(" root ")" | "a" "b"? | pair{1,2}) # comment\npair ::= "[" [^\\[\\]]* "]" | "\\u00e9"'
        for text, wanted in (("a", True), ("ab", True), ("((((ab))))", True), ("(((ab))))", False), ("[x][y z]", True),
                             ("[][][]", False), ("é", True), ("([é])", True), ("()", False), ("", False)):
            self.assertEqual(matches("grammar", grammar, [text]), [wanted], text)
        deep = "(" * 5000 + "a" + ")" * 5000
        self.assertEqual(matches("grammar", grammar, [deep, deep + ")", "(" + deep]), [True, False, False])


class Hostile(unittest.TestCase):
    def test_guides_that_would_explode_are_refused_or_stay_small(self):
        chain = "\n".join(["root ::= r0", *(f"r{i} ::= r{i + 1} r{i + 1} r{i + 1}" for i in range(60)), 'r60 ::= "a"?'])
        deep = {"type": "array", "maxItems": 60000,
                "items": {"type": "array", "maxItems": 60000, "items": {"type": "string", "maxLength": 60000}}}
        refused = [("regex", "((a?){1000}){1000}", "ways"), ("regex", "(" * 100000 + ")" * 100000, "nested"),
                   ("regex", "(a*)*" * 3000, "ways"), ("regex", "(.*.*.*.*.*)*x(a|b|ab|ba|aab)*(.{0,300}){0,300}", "ways"),
                   ("regex", "[^a]" * 60000, "more than"), ("regex", "a" * 2000000, "bytes"), ("grammar", chain, "ways"),
                   ("schema", "[" * 1000 + "]" * 1000, "levels"), ("schema", json.dumps(deep), "states"),
                   ("schema", json.dumps({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}), "nested"),
                   ("schema", json.dumps({"anyOf": [{"anyOf": [{"$ref": "#"}] * 50}] * 50}), "itself"),
                   ("schema", json.dumps({"oneOf": [{"const": i} for i in range(3000)]}), "too large"),
                   ("schema", json.dumps({"allOf": [{"properties": {f"k{i}": {}}} for i in range(2000)]}), "too large")]
        for (_, guide, why), reply in zip(refused, ask([{"format": k, "guide": g, "texts": []} for k, g, _ in refused])):
            self.assertIn(why, reply.get("error", ""), guide[:60])
        small = [("regex", "(((a{1000}){1000}){1000}){1000}"), ("regex", "(a|aa)+" * 20), ("regex", ".{0,60000}x")]
        for reply in ask([{"format": k, "guide": g, "texts": ["ax"]} for k, g in small]):
            self.assertIn("matches", reply)


@unittest.skipIf(jsonschema is None, "jsonschema is not installed: tools/install-deps check")
class Schemas(unittest.TestCase):
    def test_random_texts_of_schemas_validate(self):
        with open(os.path.join(ROOT, "tests", "data", "guide_schemas.json")) as f:
            schemas = json.load(f)
        replies = ask([{"format": "schema", "guide": json.dumps(s), "walks": 60, "seed": SEED + i}
                       for i, s in enumerate(schemas)])
        for schema, reply in zip(schemas, replies):
            self.assertGreaterEqual(len(reply.get("walks", [])), 55, (schema, reply.get("error")))
            validator = jsonschema.Draft202012Validator(
                schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
            for text in reply["walks"]:
                error = next(validator.iter_errors(json.loads(text)), None)
                self.assertIsNone(error, (SEED, schema, text))

    def test_bounds_are_exact(self):
        rng = random.Random(SEED)
        for _ in range(40):
            low = rng.randrange(-1200, 1200)
            high = low + rng.choice([0, 1, 7, 99, 1500])
            texts = [str(i) for i in range(-1300, 2800)] + ["-0", "00", "1.0", "+1"]
            wanted = [low <= int(t) <= high if re.fullmatch("-?[1-9][0-9]*|0", t) else False for t in texts]
            schema = json.dumps({"type": "integer", "minimum": low, "maximum": high})
            self.assertEqual(matches("schema", schema, texts), wanted, schema)

    def test_values_that_do_not_validate_do_not_match(self):
        with open(os.path.join(ROOT, "tests", "data", "guide_schemas.json")) as f:
            schemas = json.load(f)
        values = [None, True, 0, 3, 8, 9.5, 1000, "abc", "Abcd E.", "red", [], [1], [None], {}, {"a": True}, {"c": False},
                  {"name": "x", "age": 3}, {"name": "x", "age": 131}, {"value": 4, "children": [{"value": 100}]},
                  {"kind": "circle", "radius": 0}, {"kind": "a", "x": True}, {"kind": "b", "x": True}, {"items": None},
                  {"id": 1, "other": "abc", "id2": "x"}, {"id": 1, "other": "abcd"}, {"x": 12, "y": 0.5}, {"x": 13, "y": 0}]
        texts = [json.dumps(v) for v in values]
        replies = ask([{"format": "schema", "guide": json.dumps(s), "texts": texts} for s in schemas])
        n_matched = 0
        for schema, reply in zip(schemas, replies):
            validator = jsonschema.Draft202012Validator(schema)
            for value, matched in zip(values, reply["matches"]):
                n_matched += matched
                if matched:
                    self.assertTrue(validator.is_valid(value), (schema, value))
        self.assertGreater(n_matched, 15)


if __name__ == "__main__":
    unittest.main()
