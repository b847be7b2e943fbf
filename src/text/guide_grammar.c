/* Grammars in the notation of llama.cpp's GBNF:
 *
 *   root  ::= "answer: " (word | [0-9]+)        # a comment
 *   word  ::= [a-z] [a-z]* | "\u00e9" | .{2,3}
 *
 * A rule ends where the next `name ::=` begins; the text must match `root`. */
#include <string.h>

#include "base/limits.h"
#include "base/map.h"
#include "text/guide_read.h"
#include "text/utf8.h"

typedef struct reader {
    spey_guide_builder *b;
    const char *text;
    size_t n, at;
    int depth;
    spey_map rules; /* name → rule */
} reader;

static const spey_guide_expr *read_alternatives(reader *r);

static const spey_guide_expr *fail(reader *r, const char *what)
{
    if (r->b->status) return spey_guide_fail(r->b, r->b->status);
    int line = 1;
    for (size_t i = 0; i < r->at && i < r->n; i++)
        line += r->text[i] == '\n';
    return spey_guide_fail(r->b, SPEY_FAIL(SPEY_FORMAT, "grammar: line %d: %s", line, what));
}

static bool more(const reader *r)
{
    return r->at < r->n && !r->b->status;
}

/* The character at hand; 0 at the end. */
static char peek(const reader *r)
{
    return r->at < r->n ? r->text[r->at] : 0;
}

static bool take(reader *r, char c)
{
    if (peek(r) != c || r->at == r->n) return false;
    r->at++;
    return true;
}

static void skip_space(reader *r)
{
    while (more(r)) {
        char c = peek(r);
        if (c == '#')
            while (more(r) && peek(r) != '\n')
                r->at++;
        else if (c == ' ' || c == '\t' || c == '\n' || c == '\r')
            r->at++;
        else
            return;
    }
}

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

/* Length of the name at hand; 0: none. */
static size_t name_length(const reader *r)
{
    size_t n = 0;
    while (r->at + n < r->n && is_name_char(r->text[r->at + n]))
        n++;
    return n;
}

/* Does `name ::=` begin here? */
static bool at_rule(const reader *r)
{
    reader ahead = *r;
    ahead.at += name_length(r);
    if (ahead.at == r->at) return false;
    skip_space(&ahead);
    return ahead.n - ahead.at >= 3 && !memcmp(ahead.text + ahead.at, "::=", 3);
}

/* The rule of a name, declared when it is new. */
static int32_t rule_of(reader *r, const char *name, size_t n)
{
    int64_t rule;
    if (spey_map_get(&r->rules, name, n, &rule)) return (int32_t)rule;
    int32_t declared = spey_guide_rule_declare(r->b, name, n);
    spey_status status = declared < 0 ? SPEY_OK : spey_map_put(&r->rules, name, n, declared);
    if (status) spey_guide_fail(r->b, status);
    return declared;
}

/* ---- characters ---- */

static uint32_t read_hex(reader *r, int n)
{
    uint32_t code = 0;
    for (int i = 0; i < n; i++) {
        char c = peek(r);
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) {
            fail(r, "hexadecimal digits are expected");
            return 0;
        }
        code = code << 4 | (uint32_t)digit;
        r->at++;
    }
    if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) fail(r, "this is no character");
    return code;
}

/* A character of a literal or a class, escapes included. */
static uint32_t read_char(reader *r)
{
    static const char escapes[] = "nrt\\\"[]-^", codes[] = "\n\r\t\\\"[]-^";
    if (!take(r, '\\')) {
        size_t len;
        uint32_t c = spey_utf8_get(r->text + r->at, &len);
        r->at += len;
        return c;
    }
    char c = peek(r);
    const char *found = c ? strchr(escapes, c) : NULL;
    r->at += r->at < r->n;
    if (found) return (unsigned char)codes[found - escapes];
    if (c == 'x') return read_hex(r, 2);
    if (c == 'u') return read_hex(r, 4);
    if (c == 'U') return read_hex(r, 8);
    fail(r, "this escape is not known");
    return 0;
}

static const spey_guide_expr *read_literal(reader *r)
{
    spey_guide_list list = { 0 };
    while (more(r) && peek(r) != '"') {
        spey_guide_class set = { 0 };
        uint32_t c = read_char(r);
        spey_guide_class_add(r->b, &set, c, c);
        spey_guide_list_push(r->b, &list, spey_guide_class_expr(r->b, &set));
    }
    return take(r, '"') ? spey_guide_seq(r->b, list) : fail(r, "a \" is missing");
}

static const spey_guide_expr *read_class(reader *r)
{
    spey_guide_class set = { 0 };
    bool inverted = take(r, '^');
    while (more(r) && peek(r) != ']') {
        uint32_t first = read_char(r), last = first;
        if (peek(r) == '-' && r->at + 1 < r->n && r->text[r->at + 1] != ']') {
            r->at++;
            last = read_char(r);
        }
        if (last < first) fail(r, "a range ends before it begins");
        spey_guide_class_add(r->b, &set, first, last);
    }
    if (!take(r, ']')) return fail(r, "a ] is missing");
    if (inverted) set = spey_guide_class_invert(r->b, &set);
    return spey_guide_class_expr(r->b, &set);
}

static const spey_guide_expr *any_char(reader *r)
{
    spey_guide_class none = { 0 };
    spey_guide_class all = spey_guide_class_invert(r->b, &none);
    return spey_guide_class_expr(r->b, &all);
}

/* ---- parts ---- */

static int32_t read_count(reader *r)
{
    int32_t count = -1;
    skip_space(r);
    for (; more(r) && peek(r) >= '0' && peek(r) <= '9'; r->at++) {
        count = (count < 0 ? 0 : count) * 10 + (peek(r) - '0');
        if (count > SPEY_GUIDE_REPEAT_MAX) {
            fail(r, "a count is too large");
            return -1;
        }
    }
    skip_space(r);
    return count;
}

static const spey_guide_expr *read_counts(reader *r, const spey_guide_expr *e)
{
    int32_t min = read_count(r), max = min;
    if (take(r, ',')) {
        int32_t given = read_count(r);
        max = given < 0 ? SPEY_GUIDE_UNBOUNDED : given;
    }
    if (min < 0) return fail(r, "a number is expected after {");
    if (!take(r, '}')) return fail(r, "a } is missing");
    if (max != SPEY_GUIDE_UNBOUNDED && max < min) return fail(r, "a count ends before it begins");
    return spey_guide_repeat(r->b, e, min, max);
}

static const spey_guide_expr *read_atom(reader *r)
{
    size_t n = name_length(r);
    if (n) {
        const char *name = r->text + r->at;
        r->at += n;
        return spey_guide_rule_ref(r->b, rule_of(r, name, n));
    }
    if (take(r, '"')) return read_literal(r);
    if (take(r, '[')) return read_class(r);
    if (take(r, '.')) return any_char(r);
    if (!take(r, '(')) return fail(r, "a name, a \", a [, a ( or a . is expected");
    const spey_guide_expr *e = read_alternatives(r);
    return take(r, ')') ? e : fail(r, "a ) is missing");
}

static const spey_guide_expr *read_repeated(reader *r)
{
    const spey_guide_expr *e = read_atom(r);
    for (int turns = 0; !r->b->status; turns++) {
        skip_space(r);
        if (turns > SPEY_GUIDE_NESTING_MAX) return fail(r, "repetitions are nested too deeply");
        if (take(r, '*'))
            e = spey_guide_repeat(r->b, e, 0, SPEY_GUIDE_UNBOUNDED);
        else if (take(r, '+'))
            e = spey_guide_repeat(r->b, e, 1, SPEY_GUIDE_UNBOUNDED);
        else if (take(r, '?'))
            e = spey_guide_optional(r->b, e);
        else if (take(r, '{'))
            e = read_counts(r, e);
        else
            break;
    }
    return e;
}

static const spey_guide_expr *read_alternatives(reader *r)
{
    if (++r->depth > SPEY_GUIDE_NESTING_MAX) return fail(r, "brackets are nested too deeply");
    spey_guide_list alternatives = { 0 };
    do {
        spey_guide_list list = { 0 };
        for (skip_space(r); more(r) && peek(r) != '|' && peek(r) != ')' && !at_rule(r);
             skip_space(r))
            spey_guide_list_push(r->b, &list, read_repeated(r));
        spey_guide_list_push(r->b, &alternatives, spey_guide_seq(r->b, list));
    } while (take(r, '|'));
    r->depth--;
    return spey_guide_alt(r->b, alternatives);
}

static void read_rule(reader *r)
{
    if (!at_rule(r)) {
        fail(r, "`name ::=` is expected");
        return;
    }
    size_t n = name_length(r);
    int32_t rule = rule_of(r, r->text + r->at, n);
    if (rule >= 0 && r->b->rules[rule].body) {
        fail(r, "this rule is there already");
        return;
    }
    r->at += n;
    skip_space(r);
    r->at += strlen("::=");
    const spey_guide_expr *body = read_alternatives(r);
    if (rule >= 0) spey_guide_rule_define(r->b, rule, body);
}

void spey_guide_read_grammar(spey_guide_builder *b, const char *text, size_t n)
{
    reader r = { .b = b, .text = text, .n = n };
    spey_map_init(&r.rules, SPEY_PURPOSE_TEXT);
    if (!spey_utf8_is_valid(text, n)) fail(&r, "this is not UTF-8");
    rule_of(&r, "root", 4);
    for (skip_space(&r); more(&r); skip_space(&r))
        read_rule(&r);
    for (int32_t i = 0; i < b->n_rules && !b->status; i++)
        if (!b->rules[i].body)
            spey_guide_fail(
                b, SPEY_FAIL(SPEY_FORMAT, "grammar: the rule %.64s is missing", b->rules[i].name));
    spey_map_deinit(&r.rules);
}
