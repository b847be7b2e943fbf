/* Regexes: what JSON schemas use of ECMA-262, without what is not regular (back references, look-around, word boundaries).
 * Classes \d \w \s are ASCII's. */
#include <string.h>

#include "base/limits.h"
#include "text/guide_read.h"
#include "text/utf8.h"

typedef struct reader {
    spey_guide_builder *b;
    const char *where;
    const char *text;
    size_t n, at;
    int depth;
    bool search;
    spey_guide_write_fn write;
} reader;

static const spey_guide_expr *read_alternatives(reader *r);

static const spey_guide_expr *fail(reader *r, const char *what)
{
    if (r->b->status) return spey_guide_fail(r->b, r->b->status);
    return spey_guide_fail(r->b, SPEY_FAIL(SPEY_FORMAT, "%s: byte %zu: %s", r->where, r->at, what));
}

static bool more(const reader *r)
{
    return r->at < r->n && !r->b->status;
}

static bool next_is(const reader *r, const char *text)
{
    size_t n = strlen(text);
    return r->n - r->at >= n && !memcmp(r->text + r->at, text, n);
}

static bool take(reader *r, const char *text)
{
    if (!next_is(r, text)) return false;
    r->at += strlen(text);
    return true;
}

/* ---- characters and classes ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* `n` hex digits, or {…} when n is 0. */
static uint32_t read_hex(reader *r, int n)
{
    uint32_t code = 0;
    bool braces = n == 0 && take(r, "{");
    int digits = 0;
    for (; more(r) && digits < (braces ? 6 : n) && hex_digit(r->text[r->at]) >= 0; digits++)
        code = code << 4 | (uint32_t)hex_digit(r->text[r->at++]);
    bool whole = braces ? digits > 0 && take(r, "}") : n > 0 && digits == n;
    if (!whole || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        fail(r, "a hexadecimal character is expected");
    return code;
}

static uint32_t read_char(reader *r)
{
    size_t len = 1;
    uint32_t c = spey_utf8_get(r->text + r->at, &len);
    r->at += len;
    return c;
}

/* The ranges of \d, \w, \s, or their complements; false: `c` is none of these. */
static bool add_named_class(reader *r, char c, spey_guide_class *set)
{
    static const spey_guide_range digit[] = { { '0', '9' } };
    static const spey_guide_range word[] = {
        { '0', '9' }, { 'A', 'Z' }, { '_', '_' }, { 'a', 'z' }
    };
    static const spey_guide_range space[] = { { '\t', '\r' }, { ' ', ' ' } };
    const spey_guide_range *ranges = NULL;
    size_t n = 1;
    switch (c | 0x20) {
    case 'd': ranges = digit; break;
    case 'w': ranges = word, n = 4; break;
    case 's': ranges = space, n = 2; break;
    default: return false;
    }
    spey_guide_class named = { 0 };
    for (size_t i = 0; i < n; i++)
        spey_guide_class_add(r->b, &named, ranges[i].first, ranges[i].last);
    if (!(c & 0x20)) named = spey_guide_class_invert(r->b, &named);
    for (size_t i = 0; i < named.n; i++)
        spey_guide_class_add(r->b, set, named.ranges[i].first, named.ranges[i].last);
    return true;
}

/* After a backslash: one character, or -1 and a named class in `set`. */
static int64_t read_escape(reader *r, spey_guide_class *set)
{
    static const char plain[] = "tnrfv0ae", codes[] = "\t\n\r\f\v\0\a\x1b";
    if (!more(r)) {
        fail(r, "a backslash ends the regex");
        return 0;
    }
    char c = r->text[r->at];
    const char *found = strchr(plain, c);
    if (add_named_class(r, c, set)) {
        r->at++;
        return -1;
    }
    if (found && c) {
        r->at++;
        return (unsigned char)codes[found - plain];
    }
    if (c == 'x' || c == 'u') {
        r->at++;
        bool braces = next_is(r, "{");
        return read_hex(r, braces ? 0 : c == 'x' ? 2 : 4);
    }
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
        fail(r, "this escape is not supported");
        return 0;
    }
    return read_char(r);
}

/* One end of a range in brackets: a character, or -1 when a named class was added instead. */
static int64_t read_class_char(reader *r, spey_guide_class *set)
{
    if (take(r, "\\")) {
        if (take(r, "b")) return '\b';
        return read_escape(r, set);
    }
    return read_char(r);
}

static const spey_guide_expr *read_brackets(reader *r)
{
    spey_guide_class set = { 0 };
    bool inverted = take(r, "^");
    bool first = true;
    for (; more(r) && (first || !next_is(r, "]")); first = false) {
        if (first &&
            next_is(r, "]")) { /* ECMA: [] matches nothing; Python: a ]. Neither is meant. */
            fail(r, "an empty class, or a ] that needs a backslash");
            break;
        }
        int64_t low = read_class_char(r, &set), high = low;
        bool range = next_is(r, "-") && r->at + 1 < r->n && r->text[r->at + 1] != ']';
        if (range && low < 0) fail(r, "a range cannot begin with a class");
        if (range && take(r, "-")) high = read_class_char(r, &set);
        if (low < 0) continue;
        if (high < low) fail(r, "a range ends before it begins");
        spey_guide_class_add(r->b, &set, (uint32_t)low, (uint32_t)high);
    }
    if (!take(r, "]")) return fail(r, "a ] is missing");
    if (inverted) set = spey_guide_class_invert(r->b, &set);
    return r->write(r->b, &set);
}

static const spey_guide_expr *one_char(reader *r, uint32_t c)
{
    spey_guide_class set = { 0 };
    spey_guide_class_add(r->b, &set, c, c);
    return r->write(r->b, &set);
}

static const spey_guide_expr *any_char(reader *r, bool newline)
{
    spey_guide_class set = { 0 };
    if (!newline) spey_guide_class_add(r->b, &set, '\n', '\n');
    set = spey_guide_class_invert(r->b, &set);
    return r->write(r->b, &set);
}

/* ---- parts ---- */

static const spey_guide_expr *read_group(reader *r)
{
    bool named =
        next_is(r, "?P<") || (next_is(r, "?<") && !next_is(r, "?<=") && !next_is(r, "?<!"));
    while (named && more(r) && !next_is(r, ">"))
        r->at++;
    if (named) take(r, ">");
    if (!named && !take(r, "?:") && next_is(r, "?"))
        return fail(r, "groups of this kind are not supported");
    const spey_guide_expr *e = read_alternatives(r);
    return take(r, ")") ? e : fail(r, "a ) is missing");
}

static const spey_guide_expr *read_atom(reader *r)
{
    if (take(r, "(")) return read_group(r);
    if (take(r, "[")) return read_brackets(r);
    if (take(r, ".")) return any_char(r, false);
    if (next_is(r, "^") || next_is(r, "$"))
        return fail(r, "^ and $ are supported at the ends of the whole regex's alternatives only");
    if (next_is(r, "*") || next_is(r, "+") || next_is(r, "?") || next_is(r, "{"))
        return fail(r, "there is nothing to repeat here");
    if (take(r, "\\")) {
        spey_guide_class set = { 0 };
        int64_t c = read_escape(r, &set);
        return c < 0 ? r->write(r->b, &set) : one_char(r, (uint32_t)c);
    }
    return one_char(r, read_char(r));
}

/* A number of a {…}; -1: no digits. */
static int32_t read_count(reader *r)
{
    int32_t count = -1;
    for (; more(r) && r->text[r->at] >= '0' && r->text[r->at] <= '9'; r->at++) {
        count = (count < 0 ? 0 : count) * 10 + (r->text[r->at] - '0');
        if (count > SPEY_GUIDE_REPEAT_MAX) {
            fail(r, "a count is too large");
            return -1;
        }
    }
    return count;
}

static const spey_guide_expr *read_repeated(reader *r)
{
    const spey_guide_expr *e = read_atom(r);
    while (more(r)) {
        int32_t min = 0, max = SPEY_GUIDE_UNBOUNDED;
        if (take(r, "+")) {
            min = 1;
        } else if (take(r, "?")) {
            max = 1;
        } else if (take(r, "{")) {
            min = max = read_count(r);
            if (take(r, ",")) max = next_is(r, "}") ? SPEY_GUIDE_UNBOUNDED : read_count(r);
            if (min < 0) return fail(r, "a { begins a count such as {2} or {2,5}");
            if (!take(r, "}")) return fail(r, "a } is missing");
            if (max != SPEY_GUIDE_UNBOUNDED && max < min)
                return fail(r, "a count ends before it begins");
        } else if (!take(r, "*")) {
            return e;
        }
        take(r, "?"); /* lazy: the same texts */
        if (next_is(r, "+") || next_is(r, "*") || next_is(r, "?") || next_is(r, "{"))
            return fail(r, "a repetition of a repetition needs brackets");
        e = spey_guide_repeat(r->b, e, min, max);
    }
    return e;
}

/* One alternative of the whole regex begins or ends anywhere in a search, unless ^ or $ is there. */
static const spey_guide_expr *read_sequence(reader *r)
{
    bool top = r->depth == 1, from_start = false, to_end = false;
    spey_guide_list list = { 0 };
    if (top) from_start = take(r, "^");
    if (top && r->search && !from_start)
        spey_guide_list_push(r->b, &list,
                             spey_guide_repeat(r->b, any_char(r, true), 0, SPEY_GUIDE_UNBOUNDED));
    while (more(r) && !next_is(r, "|") && !next_is(r, ")")) {
        bool last = next_is(r, "$") && (r->at + 1 == r->n || r->text[r->at + 1] == '|');
        if (top && last) {
            take(r, "$");
            to_end = true;
            break;
        }
        spey_guide_list_push(r->b, &list, read_repeated(r));
    }
    if (top && r->search && !to_end)
        spey_guide_list_push(r->b, &list,
                             spey_guide_repeat(r->b, any_char(r, true), 0, SPEY_GUIDE_UNBOUNDED));
    return spey_guide_seq(r->b, list);
}

static const spey_guide_expr *read_alternatives(reader *r)
{
    if (++r->depth > SPEY_GUIDE_NESTING_MAX) return fail(r, "brackets are nested too deeply");
    spey_guide_list list = { 0 };
    do {
        spey_guide_list_push(r->b, &list, read_sequence(r));
    } while (take(r, "|"));
    r->depth--;
    return spey_guide_alt(r->b, list);
}

const spey_guide_expr *spey_guide_regex_expr(spey_guide_builder *b, const char *where,
                                             const char *text, size_t n, bool search,
                                             spey_guide_write_fn write)
{
    reader r = { .b = b, .where = where, .text = text, .n = n, .search = search, .write = write };
    if (!spey_utf8_is_valid(text, n)) return fail(&r, "this is not UTF-8");
    const spey_guide_expr *e = read_alternatives(&r);
    return r.at < n ? fail(&r, "a ) without a (") : e;
}

void spey_guide_read_regex(spey_guide_builder *b, const char *text, size_t n)
{
    int32_t rule = spey_guide_rule_declare(b, "the regex", 9);
    spey_guide_rule_define(
        b, rule, spey_guide_regex_expr(b, "regex", text, n, false, spey_guide_class_expr));
}
