/* Filters on text and numbers. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_ops.h"
#include "text/jinja_strings.h"

#define FILTER(name)                                                         \
    static spey_status filter_##name(jinja_render *render, jinja_value self, \
                                     const jinja_args *args, jinja_value *out)

static bool given(jinja_value v)
{
    return v.kind != JINJA_MISSING;
}

static bool flag(jinja_value v)
{
    return given(v) && spey_jinja_truth(v);
}

/* ---- text ---- */

FILTER(upper)
{
    (void)args;
    SPEY_TRY(spey_jinja_to_str(render, self, &self));
    return spey_jinja_str_case(render, self, JINJA_UPPER, out);
}

FILTER(lower)
{
    (void)args;
    SPEY_TRY(spey_jinja_to_str(render, self, &self));
    return spey_jinja_str_case(render, self, JINJA_LOWER, out);
}

FILTER(capitalize)
{
    (void)args;
    SPEY_TRY(spey_jinja_to_str(render, self, &self));
    return spey_jinja_str_capitalize(render, self, out);
}

/* Words start at the text's start and behind white space, hyphens and opening brackets. */
FILTER(title)
{
    (void)args;
    SPEY_TRY(spey_jinja_to_str(render, self, &self));
    spey_strbuf buf = spey_jinja_buffer();
    bool starts = true;
    for (size_t i = 0; i < self.len;) {
        size_t size;
        uint32_t code = spey_jinja_utf8_decode(self.text + i, &size);
        spey_jinja_put_case(&buf, code, starts ? JINJA_UPPER : JINJA_LOWER);
        starts = spey_jinja_is_space(code) || (code && code < 0x80 && strchr("-({[<", (int)code));
        i += size;
    }
    return spey_jinja_take_text(render, SPEY_OK, &buf, out);
}

FILTER(trim)
{
    SPEY_TRY(spey_jinja_to_str(render, self, &self));
    return spey_jinja_str_strip(self, args->items[0], JINJA_STRIP_LEFT | JINJA_STRIP_RIGHT, out);
}

FILTER(string)
{
    (void)args;
    return spey_jinja_to_str(render, self, out);
}

FILTER(replace)
{
    jinja_value from, to;
    int64_t count;
    jinja_value limit = args->items[2];
    if (limit.kind == JINJA_NONE) limit.kind = JINJA_MISSING;
    SPEY_TRY(spey_jinja_to_str(render, self, &self));
    SPEY_TRY(spey_jinja_to_str(render, args->items[0], &from));
    SPEY_TRY(spey_jinja_to_str(render, args->items[1], &to));
    SPEY_TRY(spey_jinja_arg_int(NULL, limit, -1, &count));
    return spey_jinja_str_replace(render, self, from, to, count, out);
}

FILTER(indent)
{
    jinja_value prefix = args->items[0];
    jinja_list *lines;
    if (self.kind == JINJA_UNDEFINED) return spey_jinja_fail_undefined(self);
    if (self.kind != JINJA_STRING)
        return SPEY_FAIL(SPEY_INVALID, "indent: a string is required, not %s",
                         spey_jinja_type(self));
    if (prefix.kind != JINJA_STRING) {
        int64_t width;
        SPEY_TRY(spey_jinja_arg_int(NULL, prefix, 4, &width));
        jinja_value blank = spey_jinja_literal(" ");
        SPEY_TRY(spey_jinja_binary(render, JINJA_OP_MUL, blank, spey_jinja_int(width), &prefix));
    }
    /* Jinja adds a line end first, so that the text's own last line end makes an empty line. */
    SPEY_TRY(spey_jinja_binary(render, JINJA_OP_ADD, self, spey_jinja_literal("\n"), &self));
    SPEY_TRY(spey_jinja_str_split_lines(render, self, false, &lines));
    spey_strbuf buf = spey_jinja_buffer();
    for (size_t i = 0; i < lines->n; i++) {
        jinja_value line = lines->items[i];
        if (i) spey_strbuf_putc(&buf, '\n');
        if (i == 0 ? flag(args->items[1]) : line.len || flag(args->items[2]))
            spey_strbuf_append(&buf, prefix.text, prefix.len);
        spey_strbuf_append(&buf, line.text, line.len);
    }
    return spey_jinja_take_text(render, SPEY_OK, &buf, out);
}

FILTER(escape)
{
    (void)args;
    SPEY_TRY(spey_jinja_to_str(render, self, &self));
    spey_strbuf buf = spey_jinja_buffer();
    for (size_t i = 0; i < self.len; i++) {
        switch (self.text[i]) {
        case '&': spey_strbuf_puts(&buf, "&amp;"); break;
        case '<': spey_strbuf_puts(&buf, "&lt;"); break;
        case '>': spey_strbuf_puts(&buf, "&gt;"); break;
        case '\'': spey_strbuf_puts(&buf, "&#39;"); break;
        case '"': spey_strbuf_puts(&buf, "&#34;"); break;
        default: spey_strbuf_putc(&buf, self.text[i]); break;
        }
    }
    return spey_jinja_take_text(render, SPEY_OK, &buf, out);
}

FILTER(format)
{
    jinja_list *values;
    SPEY_TRY(spey_jinja_to_str(render, self, &self));
    if (args->n && args->n_named)
        return SPEY_FAIL(SPEY_INVALID, "format: either positional or keyword arguments");
    if (args->n_named) {
        jinja_dict *dict;
        SPEY_TRY(spey_jinja_dict_new(render, args->n_named, &dict));
        for (size_t i = 0; i < args->n_named; i++)
            SPEY_TRY(spey_jinja_dict_add(render, dict,
                                         spey_jinja_text(args->named[i].name, args->named[i].len),
                                         args->named[i].value));
        return spey_jinja_percent(render, self, (jinja_value){ .kind = JINJA_DICT, .dict = dict },
                                  out);
    }
    SPEY_TRY(spey_jinja_list_new(render, args->n, &values));
    for (size_t i = 0; i < args->n; i++)
        SPEY_TRY(spey_jinja_list_push(render, values, args->items[i]));
    return spey_jinja_percent(render, self, spey_jinja_of_list(JINJA_TUPLE, values), out);
}

FILTER(center)
{
    int64_t width;
    SPEY_TRY(spey_jinja_arg_int(NULL, args->items[0], 80, &width));
    SPEY_TRY(spey_jinja_to_str(render, self, &self));
    return spey_jinja_str_pad(render, self, width, (jinja_value){ .kind = JINJA_MISSING }, 'c',
                              out);
}

/* ---- tojson ---- */

static spey_status set_separators(jinja_render *render, jinja_value given_separators,
                                  jinja_json_style *style)
{
    style->item_separator = spey_jinja_literal(style->multi_line ? "," : ", ");
    style->key_separator = spey_jinja_literal(": ");
    if (!given(given_separators) || given_separators.kind == JINJA_NONE) return SPEY_OK;
    jinja_list *pair;
    SPEY_TRY(spey_jinja_iterate(render, given_separators, &pair));
    if (pair->n != 2 || pair->items[0].kind != JINJA_STRING || pair->items[1].kind != JINJA_STRING)
        return SPEY_FAIL(SPEY_INVALID, "tojson: separators must be two strings");
    style->item_separator = pair->items[0];
    style->key_separator = pair->items[1];
    return SPEY_OK;
}

FILTER(tojson)
{
    jinja_json_style style = { .ensure_ascii = flag(args->items[0]),
                               .sort_keys = flag(args->items[3]) };
    jinja_value indent = args->items[1];
    int64_t width;
    if (given(indent) && indent.kind != JINJA_NONE) {
        style.multi_line = true;
        style.indent = indent;
        if (indent.kind != JINJA_STRING) {
            SPEY_TRY(spey_jinja_arg_int(NULL, indent, 0, &width));
            SPEY_TRY(spey_jinja_binary(render, JINJA_OP_MUL, spey_jinja_literal(" "),
                                       spey_jinja_int(width), &style.indent));
        }
    }
    SPEY_TRY(set_separators(render, args->items[2], &style));
    spey_strbuf buf = spey_jinja_buffer();
    return spey_jinja_take_text(render, spey_jinja_put_json(render, self, &style, &buf), &buf, out);
}

/* ---- numbers ---- */

/* Python's int(text, base) or float(text): true when all of it is a number. Underscores may stand between
 * digits. */
static bool clean_number(jinja_value v, char *digits, size_t size)
{
    size_t begin = spey_jinja_skip_space(v.text, v.len), n = 0;
    size_t end = spey_jinja_trim_end(v.text, v.len);
    for (size_t i = begin; i < end; i++) {
        char c = v.text[i];
        if (c == '_' && i > begin && i + 1 < end && v.text[i - 1] != '_') continue;
        if (c == '_' || c == 0 || n + 1 == size) return false;
        digits[n++] = c;
    }
    digits[n] = 0;
    return n > 0;
}

static bool parse_int(const char *digits, int base, int64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoll(digits, &end, base);
    return !errno && *end == 0 && end != digits;
}

static bool parse_float(const char *digits, double *out)
{
    char *end;
    if (strpbrk(digits, "xXpP(")) return false; /* strtod reads more than Python */
    *out = strtod(digits, &end);
    return *end == 0 && end != digits;
}

FILTER(int)
{
    (void)render;
    char digits[512];
    int64_t base, whole;
    double real;
    if (self.kind == JINJA_UNDEFINED) return spey_jinja_fail_undefined(self);
    SPEY_TRY(spey_jinja_arg_int(NULL, args->items[1], 10, &base));
    if (base != 0 && (base < 2 || base > 36))
        return SPEY_FAIL(SPEY_INVALID, "int: base must be 0 or 2 to 36");
    *out = given(args->items[0]) ? args->items[0] : spey_jinja_int(0);
    if (spey_jinja_whole(self, &whole)) {
        *out = spey_jinja_int(whole);
        return SPEY_OK;
    }
    real = self.kind == JINJA_FLOAT ? self.real : (double)NAN;
    if (self.kind == JINJA_STRING && clean_number(self, digits, sizeof digits)) {
        if (parse_int(digits, (int)base, &whole)) {
            *out = spey_jinja_int(whole);
            return SPEY_OK;
        }
        if (!parse_float(digits, &real)) real = (double)NAN;
    }
    if (isnan(real) || isinf(real)) return SPEY_OK; /* the default */
    if (!(real >= -0x1p63 && real < 0x1p63)) return SPEY_FAIL(SPEY_LIMIT, "integer beyond 64 bits");
    *out = spey_jinja_int((int64_t)real);
    return SPEY_OK;
}

FILTER(float)
{
    (void)render;
    char digits[512];
    double real;
    if (self.kind == JINJA_UNDEFINED) return spey_jinja_fail_undefined(self);
    bool known = spey_jinja_number(self, &real);
    if (self.kind == JINJA_STRING)
        known = clean_number(self, digits, sizeof digits) && parse_float(digits, &real);
    *out = known                   ? spey_jinja_float(real)
           : given(args->items[0]) ? args->items[0]
                                   : spey_jinja_float(0);
    return SPEY_OK;
}

/* Python's round: the decimal expansion decides, ties go to even. */
static double round_to(double x, int64_t digits)
{
    char text[512];
    if (digits < 0) {
        double scale = pow(10, (double)-digits);
        return rint(x / scale) * scale;
    }
    if (digits > 100) return x;
    snprintf(text, sizeof text, "%.*f", (int)digits, x);
    return strtod(text, NULL);
}

FILTER(round)
{
    (void)render;
    int64_t precision, whole;
    double x;
    jinja_value method = args->items[1];
    SPEY_TRY(spey_jinja_arg_int(NULL, args->items[0], 0, &precision));
    bool common = !given(method) || spey_jinja_is_text(method, "common");
    bool up = spey_jinja_is_text(method, "ceil");
    if (!common && !up && !spey_jinja_is_text(method, "floor"))
        return SPEY_FAIL(SPEY_INVALID, "method must be common, ceil or floor");
    if (self.kind == JINJA_UNDEFINED) return spey_jinja_fail_undefined(self);
    if (!spey_jinja_number(self, &x))
        return SPEY_FAIL(SPEY_INVALID, "round: a number is required, not %s",
                         spey_jinja_type(self));
    if (common && precision >= 0 && spey_jinja_whole(self, &whole)) {
        *out = spey_jinja_int(whole);
        return SPEY_OK;
    }
    double scale = pow(10, (double)precision);
    double rounded =
        common ? round_to(x, precision) : (up ? ceil(x * scale) : floor(x * scale)) / scale;
    *out = spey_jinja_float(rounded);
    if (common && spey_jinja_whole(self, &whole)) *out = spey_jinja_int((int64_t)rounded);
    return SPEY_OK;
}

FILTER(abs)
{
    double x;
    (void)args;
    if (spey_jinja_number(self, &x) && x < 0) return spey_jinja_negate(render, self, true, out);
    return spey_jinja_negate(render, self, false, out);
}

static const jinja_builtin filters[] = {
    { "upper", filter_upper, "", 0 },
    { "lower", filter_lower, "", 0 },
    { "capitalize", filter_capitalize, "", 0 },
    { "title", filter_title, "", 0 },
    { "trim", filter_trim, "chars", 0 },
    { "string", filter_string, "", 0 },
    { "safe", filter_string, "", 0 },
    { "replace", filter_replace, "old new count", 2 },
    { "indent", filter_indent, "width first blank", 0 },
    { "escape", filter_escape, "", 0 },
    { "e", filter_escape, "", 0 },
    { "forceescape", filter_escape, "", 0 },
    { "format", filter_format, NULL, 0 },
    { "center", filter_center, "width", 0 },
    { "tojson", filter_tojson, "ensure_ascii indent separators sort_keys", 0 },
    { "int", filter_int, "default base", 0 },
    { "float", filter_float, "default", 0 },
    { "round", filter_round, "precision method", 0 },
    { "abs", filter_abs, "", 0 },
};

const jinja_builtin *spey_jinja_find_text_filter(const char *name, size_t len)
{
    return spey_jinja_find_builtin(filters, sizeof filters / sizeof *filters, name, len);
}
