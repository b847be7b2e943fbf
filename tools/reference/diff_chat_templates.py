#!/usr/bin/env python3
"""Compare the chat template engine with Jinja2 on random templates.

usage: diff_chat_templates.py PROGRAM [SEED [COUNT]]

PROGRAM reads lines {"t": template, "v": variables} and answers {"ok": text} or {"err": message}
(test_chat_template --render does). Prints each difference; exit status 1 when there is one. Generators
print differently and integers beyond 64 bits are refused here, so both are left out.
"""

import json
import random
import warnings
import subprocess
import sys

import jinja_reference

VARIABLES = {
    "s": "Hello, World", "t": "  padded\n", "u": "héß ☃ Ünïcode", "e": "", "n": None, "i": 7, "j": -3,
    "f": 2.5, "b": True, "l": [3, 1, 2], "w": ["b", "A", "c", "a"], "z": [],
    "d": {"x": 1, "y": "two", "items": [1]},
    "r": [{"role": "user", "content": "hi", "n": 2}, {"role": "assistant", "content": "yo", "n": 1},
          {"role": "user", "content": None}],
}
ATOMS = ["s", "t", "u", "e", "n", "i", "j", "f", "b", "l", "w", "z", "d", "r", "missing", "1", "0", "2",
         "-1", "3.5", "''", "'a'", "'l'", "' x '", "'a,b,,c'", "true", "false", "none", "[]", "[1, 'a', none]",
         "(1, 2)", "{'k': 'v', 'a': [1]}", "range(3)", "d.x", "d['y']", "r[0]", "r[0].role", "r[-1]['content']",
         "d.items()", "d.keys()", "l[0]", "1e3", "10", "'%s-%d' % ('q', 4)", "'10'", "'3.7'", "' 5 '"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]
FILTERS = ["trim", "upper", "lower", "title", "capitalize", "length", "first", "last", "list", "string", "int",
           "float", "abs", "join", "join(', ')", "join('-', attribute='role')", "replace('l', 'L')",
           "replace('', '-')", "replace('o', '0', 1)", "default('dflt')", "default('x', true)", "sort|list",
           "sort(reverse=true)", "reverse|list", "unique|list", "tojson", "tojson(indent=2)",
           "tojson(ensure_ascii=true)", "tojson(sort_keys=true)", "map('upper')|list", "map('string')|list",
           "map(attribute='role')|list", "map(attribute='n', default=0)|list", "select|list",
           "select('string')|list", "reject('none')|list", "selectattr('role', 'equalto', 'user')|list",
           "rejectattr('n', 'defined')|list", "items|list", "dictsort", "dictsort(by='value')", "round", "round(1)",
           "round(method='floor')", "indent", "indent(2, true)", "sum", "min", "max", "batch(2)|list", "safe",
           "center(9)", "attr('x')", "escape", "trim('Hd ')", "count", "format(1)", "sum(attribute='n')",
           "sort(attribute='role')", "list|length", "tojson(separators=(',', ':'))"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "iterable",
         "sequence", "true", "false", "odd", "even", "divisibleby(3)", "divisibleby 2", "in [1, 'a', 7]",
         "eq 1", "equalto(7)", "sameas none", "lower", "upper", "callable", "gt 1", "ne 'a'", "lessthan 5"]
METHODS = ["strip()", "lstrip()", "rstrip()", "strip('Hd ')", "split()", "split(',')", "split(',', 1)", "rsplit(',', 1)",
           "split(None, 1)", "rsplit(None, 1)", "startswith('H')", "endswith('d')", "startswith(('a', 'H'))",
           "replace('o', '0')", "upper()", "lower()", "title()", "capitalize()", "find('o')", "rfind('o')",
           "find('o', 5)", "count('l')", "join(w)", "splitlines()", "get('x')", "get('q', 5)", "items()", "keys()",
           "values()", "append(1)", "isdigit()", "isalpha()", "isspace()", "islower()", "isupper()", "zfill(5)",
           "ljust(5)", "rjust(5, '*')", "center(6)", "index('l')", "partition(',')", "rpartition('o')",
           "removeprefix('He')", "removesuffix('ld')", "format(1, a=2)", "swapcase()", "isalnum()", "x", "copy()",
           "count(1)", "index(1)", "update({})", "__class__", "find('')", "find('x', 99)", "startswith('', 99)"]
SLICES = ["[0]", "[-1]", "[1:]", "[:-1]", "[::-1]", "[1:2]", "[:1]", "[::2]", "['x']", "['role']", "[5]", "[-2:]",
          "[5:1:-2]", "[:]", "[none:1]", "[-100:100]", "[1, 2]"]


def expression(rng, depth):
    kind = rng.randrange(9) if depth else 0
    sub = lambda: expression(rng, depth - 1)  # noqa: E731
    if kind <= 1:
        return rng.choice(ATOMS)
    if kind == 2:
        return f"({sub()} {rng.choice(BINARY)} {sub()})"
    if kind == 3:
        return f"({sub()}|{rng.choice(FILTERS)})"
    if kind == 4:
        return f"({sub()} is {rng.choice(['', 'not '])}{rng.choice(TESTS)})"
    if kind == 5:
        return f"({sub()}).{rng.choice(METHODS)}"
    if kind == 6:
        return f"({sub()}){rng.choice(SLICES)}"
    if kind == 7:
        return f"({sub()} if {sub()} else {sub()})" if rng.random() < 0.8 else f"({sub()} if {sub()})"
    return rng.choice([f"not {sub()}", f"(-{sub()})", f"[{sub()}, {sub()}]", f"{sub()} {rng.choice(BINARY)} {sub()}"
                       f" {rng.choice(BINARY)} {sub()}", f"{sub()}|{rng.choice(FILTERS)}"])


def space(rng):
    return rng.choice(["", "", " ", "\n", "  \n", "\n  ", "x", "\t"])


def tag(rng, text):
    return f"{{%{rng.choice(['', '', '-', '+'])} {text} {rng.choice(['', '', '-', '+'])}%}}"


def statement(rng, depth):
    body = lambda: template(rng, depth - 1)  # noqa: E731
    e = expression(rng, 2)
    kind = rng.randrange(12) if depth else 0
    if kind <= 2:
        return f"{{{{{rng.choice(['', '-'])} {e} {rng.choice(['', '-'])}}}}}"
    if kind == 3:
        return tag(rng, f"if {e}") + body() + rng.choice(["", tag(rng, "else") + body(),
                                                        tag(rng, f"elif {expression(rng, 1)}") + body()]) + tag(rng, "endif")
    if kind == 4:
        part = rng.choice(["", " if x", " if loop is defined", " if not x"])
        inner = rng.choice(["{{ loop.index }}/{{ loop.length }}{{ x }}", "{% if loop.last %}L{% endif %}{{ loop.previtem }}",
                            "{% break %}", "{% if loop.first %}{% continue %}{% endif %}{{ loop.revindex0 }}",
                            "{{ loop.cycle('a', 'b') }}{% set q = x %}{{ q }}", "{{ loop.nextitem is defined }}"])
        return tag(rng, f"for x in {e}{part}") + inner + body() + rng.choice(["", tag(rng, "else") + body()]) + tag(rng, "endfor")
    if kind == 5:
        return tag(rng, f"for k, v in {rng.choice(['d.items()', 'd|items', '[(1, 2), (3, 4)]', 'd|dictsort', 'w'])}") \
            + "{{ k }}={{ v }};" + body() + tag(rng, "endfor")
    if kind == 6:
        return tag(rng, f"set {rng.choice(['q', 's', 'l', 'ns.a', 'q, p'])} = {e}") + "{{ q }}"
    if kind == 7:
        return tag(rng, rng.choice(["set q", "set q | trim", "set q | upper | replace('A', 'b')"])) + body() \
            + tag(rng, "endset") + "[{{ q }}]"
    if kind == 8:
        return tag(rng, "macro m(a, b=1)") + "<{{ a }}{{ b }}" + body() + ">" + tag(rng, "endmacro") + \
            rng.choice(["{{ m(1) }}", "{{ m() }}", "{{ m(b=2, a=l) }}", "{{ m(1, 2, 3) }}", "{{ m(*w[:2]) }}", "{{ m(c=1) }}"])
    if kind == 9:
        return tag(rng, rng.choice(["filter upper", "filter trim | lower", "filter indent"])) + body() + tag(rng, "endfilter")
    if kind == 10:
        return rng.choice(["{# note #}", "{#- note -#}", "{% raw %}{{ raw }}{% endraw %}", "{%- raw -%} {% x {%- endraw -%}",
                           "{% set ns = namespace(a=1, b='c') %}{{ ns.a }}", "{% set ns.a = 5 %}{{ ns.a }}"])
    return tag(rng, f"with q = {e}, p = q") + body() + "{{ p }}" + tag(rng, "endwith")


def template(rng, depth):
    return "".join(space(rng) + statement(rng, depth) + space(rng) for _ in range(rng.randrange(1, 4)))


def skip(text):
    return any(mark in text for mark in ("<generator", "<list_reverseiterator", "<built-in", "<function", " at 0x", "<bound",
                                         "<reversed", "<dict_reverse", "<range_iterator", "Cycler", "<Macro", "<filter"))


def main():
    warnings.simplefilter("ignore")
    program, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 2000
    rng, env, differences, errors = random.Random(seed), jinja_reference.environment(), 0, 0
    with subprocess.Popen([program, "--render"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        for number in range(count):
            source = "{{ %s }}" % expression(rng, 3) if number % 2 else template(rng, 2)
            wanted, error = jinja_reference.render(env, source, VARIABLES)
            child.stdin.write(json.dumps({"t": source, "v": VARIABLES}) + "\n")
            child.stdin.flush()
            answer = json.loads(child.stdout.readline())
            errors += error is not None
            if (wanted is not None and skip(wanted)) or "too large to convert" in (error or ""):
                continue
            if wanted == answer.get("ok") or "cannot be sliced" in answer.get("err", ""):
                continue  # Jinja folds constant subscripts and forgives there what it does not at run time
            differences += 1
            print(f"--- {source!r}\n  jinja2: {wanted!r} {error or ''}\n  here:   {answer.get('ok')!r} {answer.get('err', '')}")
    print(f"seed {seed}: {count} templates ({errors} of them errors), {differences} differences")
    return differences != 0


if __name__ == "__main__":
    sys.exit(main())
