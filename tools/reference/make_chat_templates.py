#!/usr/bin/env python3
"""Write tests/data/chat_templates/*.json: templates, variables and what Jinja2 makes of them.

usage: make_chat_templates.py   (needs jinja2; see jinja_reference.py for its settings)

A file is {"templates": {name: source}, "variables": {name: object}, "cases": [...]}. A case is {"name", "template",
"variables", "expected"}: a name or the source itself, a name, and the text. Where Jinja2 fails a case has "fails":
true instead of "expected", or "raises": the text of raise_exception.
"""

import json
import pathlib

import jinja_reference
from chat_template_models import TEMPLATES

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "chat_templates"

V = {"s": "Hello, World", "u": "héß ☃ Ünïcode 𝄞", "n": None, "i": 7, "f": 2.5, "big": 1e22, "small": 1e-7, "b": True,
     "l": [3, 1, 2], "w": ["b", "A", "c", "a"], "d": {"x": 1, "y": "two", "items": [1], "é": "\u2028\x7f\n"},
     "r": [{"role": "user", "content": "hi", "n": 2}, {"role": "assistant", "content": "yo", "n": 1},
           {"role": "user", "content": None, "n": 3}]}

# One construct per case: (name, template).
CONSTRUCTS = [
    ("text alone", "just text { } % # \n"),
    ("one trailing newline goes", "a\n\n"),
    ("line ends are unified", "a\r\nb\rc\r\n"),
    ("block takes its newline", "a\n{% if true %}\nb\n{% endif %}\nc"),
    ("block takes its indentation", "a\n   {% if true %}\n  b\n\t{% endif %}\nc"),
    ("indentation after text stays", "a {% if true %}b{% endif %} c"),
    ("variables keep white space", "  {{ 1 }}  \n  {{ 2 }}\n"),
    ("minus strips both sides", "a \n {%- if true -%} \n b \n {%- endif -%} \n c"),
    ("minus on variables", "a \n {{- 1 -}} \n b"),
    ("plus keeps newline and indentation", "a\n  {%+ if true +%}\n  b\n  {%+ endif +%}\n c"),
    ("comments", "a{# x {{ y }} {% z %} #}b\n  {# line #}\nc {#- d -#} e"),
    ("raw", "{% raw %}{{ x }} {% if %}{# #}{% endraw %}|{%- raw -%} a {%- endraw -%} b"),
    ("literals", "{{ 1 }} {{ 1_000 }} {{ 0x1f }} {{ 0b101 }} {{ 0o17 }} {{ 1.5 }} {{ 2e3 }} {{ 1_0.5e-1 }} {{ 'a' \"b\" }}"),
    ("escapes", r"{{ 'a\nb\t\'\"\\ \x41\u00e9\U0001F600 \d \101' }}"),
    ("constants in both spellings", "{{ true }}{{ True }}{{ false }}{{ none }}{{ None }}"),
    ("lists, tuples, dicts", "{{ [1, 'a', none, 2.0,] }} {{ (1,) }} {{ () }} {{ 1, 2 }} {{ {'a': 1, 2: [3], none: (4, 5)} }}"),
    ("repr quotes", "{{ ['it\\'s', 'say \"x\"', 'both \\' \"', 'tab\\t', 'back\\\\', 'é☃', '\\x07\\u200b'] }}"),
    ("floats", "{{ [0.1, 1.0, 100.0, 1e16, 1.5e300, 1e-5, 0.0001, 123456.789, 5e-324, 1e15, 2.5, 1/3, -0.0] }} {{ big }} {{ small }}"),
    ("arithmetic", "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1 - 2 - 3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}"),
    ("float division", "{{ 1.0 // 0.1 }} {{ 1.0 % 0.1 }} {{ -3.5 % 1 }} {{ 0 % -3.5 }} {{ -0.5 // 2 }} {{ 7.25 // -2 }} {{ range(5).count(1) }}"),
    ("precedence", "{{ 1 + 2 * 3 ** 2 }} {{ (1 + 2) * 3 }} {{ -2 ** 2 }} {{ 1 ~ 2 * 3 }} {{ not 1 == 2 and true }} {{ 2 * 3 ~ 4 }}"),
    ("bools are numbers", "{{ true + 1 }} {{ true == 1 }} {{ [1, 2][true] }} {{ 1.0 == 1 }} {{ {1: 'a'}[true] }}"),
    ("text and list arithmetic", "{{ 'a' + 'b' }} {{ 'ab' * 3 }} {{ [1] + [2] }} {{ [0] * 2 }} {{ (1,) + (2,) }} {{ 'x' * -1 }}|"),
    ("concat makes text", "{{ 1 ~ 'a' ~ none ~ [1] ~ missing ~ 2.0 }}"),
    ("comparison chains", "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 != 2 }} {{ 'a' < 'b' <= 'b' }} {{ [1, 2] < [1, 3] }}"),
    ("in", "{{ 'a' in 'cat' }} {{ 1 in l }} {{ 'x' in d }} {{ 5 not in l }} {{ 'z' not in 'abc' }} {{ 1 in missing }} {{ '' in '' }}"),
    ("and or give operands", "{{ 0 or 'x' }} {{ 1 and 'y' }} {{ '' or none }} {{ not '' }} {{ none and x.y.z }}"),
    ("inline if", "{{ 'a' if true else 'b' }} {{ 'a' if false }} {{ 1 if 0 else 2 if 0 else 3 }}"),
    ("attributes and items", "{{ d.x }} {{ d['y'] }} {{ r[0].role }} {{ r.1.role }} {{ r[-1]['n'] }} {{ d.missing }} {{ l[9] }} {{ s[0] }} {{ u[6] }}"),
    ("attribute prefers the method", "{{ d['items'] }} {{ d.items()|length }} {{ d.get('items') }} {{ d.get('q') }} {{ d.get('q', 5) }}"),
    ("slices", "{{ l[1:] }} {{ l[:-1] }} {{ l[::-1] }} {{ s[1:4] }} {{ s[::-1] }} {{ u[:3] }} {{ u[-2:] }} {{ l[::2] }} {{ l[5:] }} {{ s[-100:2] }} {{ (1, 2, 3)[1:] }} {{ range(9)[2:7:2]|list }}"),
    ("unpacking", "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% for k, (x, y) in [(1, (2, 3))] %}{{ k }}{{ x }}{{ y }}{% endfor %}"),
    ("for with loop", "{% for x in w %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }} {% endfor %}"),
    ("neighbours and cycle", "{% for x in w %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }}{{ loop.cycle('-', '+') }}{{ loop.nextitem is defined }} {% endfor %}"),
    ("for else", "{% for x in [] %}a{% else %}none{% endfor %}{% for x in missing %}a{% else %}undefined{% endfor %}"),
    ("for with a condition", "{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% else %}no{% endfor %}"),
    ("for over text, dicts, items", "{% for c in u[:4] %}{{ c }}.{% endfor %}{% for k in d %}{{ k }},{% endfor %}{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}"),
    ("break and continue", "{% for x in range(9) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}"),
    ("break makes the else run unless a turn ended", "{% for x in [1] %}{% break %}{% else %}e{% endfor %}{% for x in [1, 2] %}{% if x == 2 %}{% break %}{% endif %}{% else %}f{% endfor %}"),
    ("loop scope", "{% set x = 0 %}{% for i in l %}{{ x }}{% set x = i %}{{ x }}{% endfor %}{{ x }}"),
    ("if has no scope", "{% if true %}{% set y = 1 %}{% endif %}{{ y }}"),
    ("namespace", "{% set ns = namespace(a=1, found=false) %}{% for i in l %}{% if i == 1 %}{% set ns.found = true %}{% endif %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }} {{ ns.found }} {{ ns.q is defined }} {{ ns['a'] }}"),
    ("nested loops", "{% for a in l %}{% for b in w[:2] %}{{ loop.index }}{{ b }}{% endfor %}{{ loop.index }} {% endfor %}"),
    ("recursive loop", "{% for x in [{'n': 1, 'c': [{'n': 2, 'c': [{'n': 3}]}]}] recursive %}[{{ x.n }}@{{ loop.depth }}{{ loop(x.c) if x.c }}]{% endfor %}"),
    ("elif", "{% for x in range(4) %}{% if x == 0 %}zero{% elif x == 1 %}one{% elif x == 2 %}two{% else %}many{% endif %} {% endfor %}"),
    ("set block", "{% set t %} a {{ s }} {% endset %}[{{ t }}]{% set q | trim | upper %}  b  {% endset %}[{{ q }}]"),
    ("macro", "{% macro m(a, b='B', c=a) %}<{{ a }}{{ b }}{{ c }}>{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m(b=2, a=1) }}{{ m() }}{{ m|string|length > 0 }}"),
    ("macro with varargs and kwargs", "{% macro m(a) %}{{ a }}|{{ varargs }}|{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }} {{ m(*l, **{'k': 1}) }}"),
    ("recursive macro", "{% macro f(n) %}{{ n }}{% if n > 0 %},{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(4) }}"),
    ("macro sees globals set later", "{% macro m() %}{{ g }}{% endmacro %}{% set g = 5 %}{{ m() }}"),
    ("call block", "{% macro wrap(t) %}<{{ t }}>{{ caller('x') }}</{{ t }}>{% endmacro %}{% call(v) wrap('b') %}in {{ v }}{{ s }}{% endcall %}"),
    ("filter block", "{% filter upper | replace('L', '1') %}hello {{ s }}{% endfilter %}"),
    ("with", "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set a = 9 %}{% endwith %}{{ a is defined }}"),
    ("generation is a scope", "{% generation %}{% set q = 1 %}{{ q }}{{ s }}{% endgeneration %}{{ q is defined }}"),
    ("trim and strip", "[{{ '  a b \\n'|trim }}][{{ ' xax '.strip() }}][{{ 'xxaxx'.strip('x') }}][{{ 'abcba'.lstrip('ab') }}][{{ 'abc\\n'.rstrip('\\n') }}][{{ '\\u3000é\\u00a0'|trim }}]"),
    ("case", "{{ u|upper }} {{ u|lower }} {{ 'hELLO wORLD-foo (bar)'|title }} {{ 'hELLO'|capitalize }} {{ \"it's a test\".title() }} {{ 'ÀÉ'.lower() }} {{ 'straße'|upper }}"),
    ("length", "{{ u|length }} {{ l|length }} {{ d|count }} {{ missing|length }} {{ range(5)|length }} {{ 'x'.__len__ is defined }}"),
    ("split", "{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'x</think>y'.split('</think>')[-1] }} {{ ''.split(',') }} {{ ''.split() }}"),
    ("splitlines and partition", "{{ 'a\\nb\\r\\nc\\n'.splitlines() }} {{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }}"),
    ("find and friends", "{{ s.find('o') }} {{ s.rfind('o') }} {{ s.find('q') }} {{ u.find('☃') }} {{ s.startswith('He') }} {{ s.endswith(('x', 'ld')) }} {{ s.count('l') }} {{ s.index('W') }}"),
    ("replace", "{{ s.replace('l', 'L') }} {{ s|replace('o', '0', 1) }} {{ 'ab'|replace('', '-') }} {{ 5|replace(5, 6) }}"),
    ("join", "{{ w|join }} {{ l|join(', ') }} {{ r|join('-', attribute='role') }} {{ '.'.join(w) }} {{ [1, none, 2.5]|join('|') }}"),
    ("format", "{{ '%s is %d or %.2f, %5s|%-5s|%05d %%' % ('a', 3, 2.5, 'x', 'y', 42) }} {{ '%s'|format(l) }} {{ '{} {1} {a}'.format(1, 2, a=3) if false else '{} {}'.format(1, 2) }} {{ '%(k)s' % {'k': 'v'} }}"),
    ("default", "{{ missing|default('a') }} {{ ''|default('b') }} {{ ''|default('c', true) }} {{ none|d('e') }} {{ d.q|default(d.x) }}"),
    ("first and last", "{{ l|first }} {{ l|last }} {{ []|first is defined }} {{ s|first }} {{ d|first }} {{ u|last }}"),
    ("map", "{{ r|map(attribute='role')|list }} {{ w|map('upper')|join }} {{ r|map(attribute='q', default='-')|list }} {{ ['1', '2']|map('int')|sum }} {{ w|map('replace', 'a', 'z')|list }}"),
    ("select and reject", "{{ l|select('gt', 1)|list }} {{ l|reject('odd')|list }} {{ r|selectattr('content')|list|length }} {{ r|selectattr('role', 'equalto', 'user')|map(attribute='n')|list }} {{ r|rejectattr('role', 'in', ['user'])|list|length }} {{ [0, 1, '']|select|list }}"),
    ("generators are used up", "{% set g = w|map('upper') %}{{ g|first }}{{ g|join }}{{ g|join }}|{{ 'yes' if []|select else 'no' }}"),
    ("sort", "{{ l|sort }} {{ w|sort }} {{ w|sort(case_sensitive=true) }} {{ l|sort(reverse=true) }} {{ r|sort(attribute='n')|map(attribute='n')|list }} {{ r|sort(attribute='role,n')|map(attribute='n')|list }}"),
    ("unique, reverse, batch", "{{ ['a', 'A', 'b']|unique|list }} {{ l|reverse|list }} {{ s|reverse }} {{ range(5)|batch(2)|list }} {{ range(3)|batch(2, 'x')|list }}"),
    ("dictsort and items", "{{ {'b': 1, 'A': 2}|dictsort }} {{ {'b': 1, 'a': 2}|dictsort(by='value') }} {{ {'b': 1, 'a': 2}|dictsort(reverse=true) }} {{ d|items|list|length }} {{ d.keys()|list }} {{ d.values()|list|length }}"),
    ("numbers", "{{ '42'|int }} {{ 'x'|int }} {{ 'x'|int(5) }} {{ '3.9'|int }} {{ 3.9|int }} {{ '0x1f'|int(0, 16) }} {{ '2.5'|float }} {{ 'x'|float(1) }} {{ 2.5|round }} {{ 2.567|round(2) }} {{ 7|round }} {{ 2.1|round(method='ceil') }} {{ -3|abs }} {{ [1, 2.5]|sum }} {{ l|min }}{{ l|max }}"),
    ("string and safe", "{{ 5|string + 'a' }} {{ '<b>'|safe }} {{ '<b>&'|e }} {{ none|string }}"),
    ("indent", "{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'a\\n\\nb'|indent('> ', blank=true) }}"),
    ("tojson", "{{ d|tojson }} {{ [1, 2.0, none, true, 'é\"\\\\/<>&\\''] | tojson }} {{ {'a': {}, 'b': []}|tojson }} {{ (1, 2)|tojson }} {{ {1: 2, none: 3, true: 4}|tojson }} {{ 1e22|tojson }}"),
    ("tojson with options", "{{ d|tojson(indent=2) }}{{ {'b': [], 'a': {}, 'c': [1, {'k': 2}]}|tojson(indent=4, sort_keys=true) }}{{ u|tojson(ensure_ascii=true) }}{{ l|tojson(separators=(',', ':')) }}{{ l|tojson(indent=0) }}"),
    ("tests", "{{ missing is defined }}{{ s is defined }}{{ missing is undefined }}{{ n is none }}{{ s is string }}{{ 1 is number }}{{ true is number }}{{ true is integer }}{{ 1.0 is float }}{{ d is mapping }}{{ l is mapping }}{{ s is iterable }}{{ 1 is iterable }}{{ l is sequence }}{{ d is sequence }}{{ true is boolean }}{{ b is true }}{{ 1 is true }}{{ 'a' is lower }}"),
    ("tests with arguments", "{{ 3 is odd }}{{ 3 is even }}{{ 9 is divisibleby(3) }}{{ 9 is divisibleby 2 }}{{ 1 is eq 1 }}{{ 'a' is equalto('a') }}{{ 1 is in [1] }}{{ 1 is not in [1] }}{{ n is sameas none }}{{ s is not string }}{{ 1 is ne 2 }}{{ 2 is gt 1 }}{{ m is defined and m is not none }}"),
    ("undefined prints nothing", "[{{ missing }}][{{ d.q }}][{{ missing|upper }}][{{ missing|join }}][{{ missing|trim }}][{{ missing == other }}][{{ missing is none }}]"),
    ("unsafe attributes are undefined", "{{ l.append is defined }}{{ d.update is defined }}{{ s.__class__ is defined }}[{{ l.append }}]"),
    ("globals", "{{ range(3)|list }} {{ range(2, 8, 3)|list }} {{ range(3, 0, -1)|list }} {{ dict(a=1, b=2) }} {% set j = joiner(', ') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %} {% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }} {{ strftime_now('%Y')[:0] }}"),
    ("python spelling of values", "{{ l }} {{ d }} {{ b }} {{ n }} {{ r[0] }} {{ range(3) }} {{ d.keys() }} {{ {'a': 'b'}.items() }} {{ ns }}"),
    ("names shadow functions", "{% set range = 5 %}{{ range }}{% set items = [1] %}{{ items }}"),
    ("filters bind tighter than operators", "{{ 'a' + 'b'|upper }} {{ -3|abs }} {{ l|length + 1 }} {{ 'x' if l|length > 2 else 'y' }} {{ not missing|default(false) }} {{ 1 if s is string else 2 }}"),
    ("unicode", "{{ '☃'|length }}{{ '𝄞a'[1] }}{{ '日本語'[::-1] }}{% set 变量 = 1 %}{{ 变量 }}{{ u|title }}{{ 'é'.upper() }}{{ ['日', '\\u00ad'] }}"),
    ("trailing commas", "{{ [1, 2,] }}{{ {'a': 1,} }}{{ dict(a=1,) }}{{ (1, 2,) }}"),
    ("zfill and friends", "{{ '5'.zfill(3) }}{{ '-5'.zfill(4) }}[{{ 'a'.ljust(3) }}][{{ 'a'.rjust(3, '*') }}][{{ 'a'.center(4) }}][{{ 'ab'.center(5, '-') }}]{{ 'aXb'.swapcase() }}{{ '12'.isdigit() }}{{ 'a1'.isalnum() }}{{ 'prefix-x'.removeprefix('prefix-') }}{{ 'x.py'.removesuffix('.py') }}"),
]

# Templates that must fail: (name, template).
FAILURES = [
    ("undefined has no attributes", "{{ missing.a }}"), ("attribute of undefined attribute", "{{ d.q.r }}"),
    ("undefined does not add", "{{ missing + 'a' }}"), ("undefined is not called", "{{ missing() }}"),
    ("undefined is not compared", "{{ missing < 1 }}"), ("undefined is not JSON", "{{ missing|tojson }}"),
    ("text and number do not add", "{{ 'a' + 1 }}"), ("none does not add", "{{ none + 'a' }}"),
    ("types are not ordered", "{{ 1 < 'a' }}"), ("none is not iterable", "{% for x in none %}{% endfor %}"),
    ("number is not iterable", "{% for x in 5 %}{% endfor %}"), ("number in text", "{{ 1 in 'a' }}"),
    ("division by zero", "{{ 1 / 0 }}{{ 1 % 0 }}"), ("append is unsafe", "{{ l.append(1) }}"),
    ("update is unsafe", "{{ d.update({}) }}"), ("dunder is unsafe", "{{ s.__class__.__mro__ }}"),
    ("too few to unpack", "{% set a, b = [1] %}"), ("too many to unpack", "{% set a, b = [1, 2, 3] %}"),
    ("no attribute of non-namespace", "{% set d.x = 1 %}"), ("too many macro arguments", "{% macro m() %}{% endmacro %}{{ m(1) }}"),
    ("unknown macro keyword", "{% macro m() %}{% endmacro %}{{ m(a=1) }}"), ("filter argument missing", "{{ s|replace('a') }}"),
    ("unhashable key", "{{ {[]: 1} }}"), ("generator has no length", "{{ l|map('string')|length }}"),
    ("number not called", "{{ 5() }}"), ("index not found", "{{ s.index('q') }}"), ("range too big", "{{ range(1000000) }}"),
    ("empty separator", "{{ s.split('') }}"), ("not all converted", "{{ '%s' % (1, 2) }}"),
    ("unclosed if", "{% if true %}"), ("unclosed for", "{% for x in l %}"), ("unclosed variable", "{{ 1"),
    ("unclosed comment", "{# "), ("unclosed string", "{{ 'a }}"), ("unknown tag", "{% foo %}"), ("stray end", "{% endif %}"),
    ("missing in", "{% for x l %}{% endfor %}"), ("empty expression", "{{ }}"), ("operator without operand", "{{ 1 + }}"),
    ("unbalanced brackets", "{{ (1] }}"), ("two values", "{{ 1 2 }}"), ("assign to constant", "{% set none = 1 %}"),
    ("default before required", "{% macro m(a=1, b) %}{% endmacro %}"), ("unknown filter", "{{ s|nofilter }}"),
    ("unknown test", "{{ s is notest }}"), ("bad character", "{{ a ? b }}"), ("chained tests", "{{ 1 is number is true }}"),
    ("unknown filter in a branch that runs", "{% if true %}{{ s|nofilter }}{% endif %}"),
    ("positional after keyword", "{{ dict(a=1, 2) }}"), ("break outside", "{% break %}"), ("raw without end", "{% raw %}a"),
]

TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {
    "type": "object", "properties": {
        "city": {"type": "string", "description": "The city"},
        "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
        "days": {"type": "array", "items": {"type": "integer"}},
        "more": {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": ["string", "null"]}}, "required": ["a"]}},
    "required": ["city"]}}}
CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"type": "function", "id": "abc123def", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "unit": "C"}}}]}
CONVERSATIONS = [
    ("one question", {"messages": [{"role": "user", "content": " Hello\n"}], "add_generation_prompt": True}),
    ("several turns", {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2\n"},
                                    {"role": "user", "content": "☃ <b> \"quoted\""}], "add_generation_prompt": True}),
    ("system", {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
                             {"role": "assistant", "content": "Yo"}, {"role": "user", "content": "Bye"}],
                "add_generation_prompt": True, "enable_thinking": False, "reasoning_effort": "high"}),
    ("finished", {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYo"}],
                  "add_generation_prompt": False}),
    ("two users", {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}),
    ("tools", {"messages": [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "Weather?"}, CALL,
                            {"role": "tool", "content": "21 °C", "tool_call_id": "abc123def"}],
               "tools": [TOOL], "add_generation_prompt": True}),
    ("tools, answered", {"messages": [{"role": "user", "content": "Weather?"}, CALL | {"thinking": "Need it.", "reasoning_content": "Need it."},
                                      {"role": "tool", "content": "21 °C", "tool_call_id": "abc123def"},
                                      {"role": "tool", "content": "and sunny", "tool_call_id": "abc123def"},
                                      {"role": "assistant", "content": "21 degrees"}, {"role": "user", "content": "Thanks"}],
                         "tools": [TOOL, TOOL], "tools_in_user_message": False, "add_generation_prompt": True}),
    ("parts", {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What? "}]}],
               "add_generation_prompt": True}),
    ("documents", {"messages": [{"role": "user", "content": "Read"}], "documents": [{"text": "one"}, {"text": "two"}],
                   "controls": {"length": "long"}, "builtin_tools": ["brave_search", "code_interpreter"], "date_string": "01 Jan 2025",
                   "add_generation_prompt": True}),
]


def make(env, name, source, values, template=None, variables="all"):
    text, error = jinja_reference.render(env, source, values)
    case = {"name": name, "template": template or source, "variables": variables}
    if error is None:
        return case | {"expected": text}
    if error.startswith("TemplateError: "):
        return case | {"raises": error.removeprefix("TemplateError: ")}
    return case | {"fails": True}


def write(name, templates, variables, cases):
    OUT.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"templates": templates, "variables": variables, "cases": cases}, ensure_ascii=False, indent=1)
    (OUT / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(f"{name}: {len(cases)} cases, {sum('expected' in case for case in cases)} render")


def main():
    env = jinja_reference.environment()
    write("constructs", {}, {"all": V}, [make(env, name, source, V) for name, source in CONSTRUCTS])
    write("failures", {}, {"all": V}, [make(env, name, source, V) for name, source in FAILURES])
    common = {"bos_token": "<s>", "eos_token": "</s>"}
    conversations = {title: common | values for title, values in CONVERSATIONS}
    write("models", dict(TEMPLATES), conversations,
          [make(env, f"{model}: {title}", source, values, model, title)
           for model, source in TEMPLATES for title, values in conversations.items()])


if __name__ == "__main__":
    main()
