/* Strings, keys and constants of JSON schemas. Strings are written with the escapes that JSON demands and no others, but any
 * string without a pattern may use them all. */
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "text/guide_read.h"
#include "text/guide_schema.h"
#include "text/utf8.h"

enum { KEY_BYTES_MAX = 1024 };

/* Formats as regexes. Days are those of the month; the 29th of February is left out. */
#define SCHEMA_DATE                              \
    "[1-9][0-9]{3}-("                            \
    "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|" \
    "(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
#define SCHEMA_TIME \
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define SCHEMA_LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
#define SCHEMA_OCTET "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
static const struct {
    const char *name, *regex;
} formats[] = {
    { "date", SCHEMA_DATE },
    { "time", SCHEMA_TIME },
    { "date-time", SCHEMA_DATE "T" SCHEMA_TIME },
    { "uuid", "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}" },
    { "email", "[A-Za-z0-9_+-]{1,24}(\\.[A-Za-z0-9_+-]{1,24}){0,2}@" SCHEMA_LABEL
               "(\\." SCHEMA_LABEL "){1,3}" },
    { "hostname", SCHEMA_LABEL "(\\." SCHEMA_LABEL "){0,4}" },
    { "ipv4", SCHEMA_OCTET "(\\." SCHEMA_OCTET "){3}" },
};

/* ---- characters ---- */

/* Characters of a string that need no escape. */
static spey_guide_class plain_chars(spey_guide_builder *b)
{
    spey_guide_class special = { 0 };
    spey_guide_class_add(b, &special, 0, 0x1f);
    spey_guide_class_add(b, &special, '"', '"');
    spey_guide_class_add(b, &special, '\\', '\\');
    return spey_guide_class_invert(b, &special);
}

/* A set of characters as they stand in a JSON string. */
static const spey_guide_expr *write_in_string(spey_guide_builder *b, spey_guide_class *set)
{
    static const char escapes[] = "\"\\\b\f\n\r\t", codes[] = "\"\\bfnrt";
    spey_guide_class plain = plain_chars(b);
    spey_guide_class direct = spey_guide_class_intersect(b, set, &plain);
    spey_guide_list list = { 0 };
    if (direct.n) spey_guide_list_push(b, &list, spey_guide_class_expr(b, &direct));
    for (uint32_t c = 0; c <= '\\' && set->n; c++) {
        if (!spey_guide_class_has(set, c) || spey_guide_class_has(&plain, c)) continue;
        char text[8] = "\\u00";
        const char *found = c ? strchr(escapes, (int)c) : NULL;
        if (found) {
            text[1] = codes[found - escapes];
            text[2] = 0;
        } else {
            text[4] = "0123456789abcdef"[c >> 4];
            text[5] = "0123456789abcdef"[c & 15];
        }
        spey_guide_list_push(b, &list, spey_guide_text(b, text));
    }
    return spey_guide_alt(b, list);
}

static const spey_guide_expr *one_char(spey_schema *s)
{
    spey_guide_builder *b = s->b;
    if (s->char_rule < 0) {
        s->char_rule = spey_guide_rule_declare(b, "character", 9);
        spey_guide_class plain = plain_chars(b);
        /* \u of half a character is left out. */
        const spey_guide_expr *escape = spey_guide_regex_expr(
            b, "escape",
            "\\\\([\"\\\\/bfnrt]|u([0-9a-cefA-CEF][0-9a-fA-F]|[dD][0-7])[0-9a-fA-F]{2})",
            strlen("\\\\([\"\\\\/bfnrt]|u([0-9a-cefA-CEF][0-9a-fA-F]|[dD][0-7])[0-9a-fA-F]{2})"),
            false, spey_guide_class_expr);
        const spey_guide_expr *direct = spey_guide_class_expr(b, &plain);
        if (s->char_rule >= 0)
            spey_guide_rule_define(b, s->char_rule, spey_guide_alt2(b, direct, escape));
    }
    return spey_guide_rule_ref(b, s->char_rule);
}

static const spey_guide_expr *quoted(spey_schema *s, const spey_guide_expr *inside)
{
    const spey_guide_expr *quote = spey_guide_text(s->b, "\"");
    return spey_guide_seq2(s->b, quote, spey_guide_seq2(s->b, inside, quote));
}

const spey_guide_expr *spey_schema_any_string(spey_schema *s)
{
    if (s->string_rule < 0) {
        s->string_rule = spey_guide_rule_declare(s->b, "string", 6);
        const spey_guide_expr *e =
            quoted(s, spey_guide_repeat(s->b, one_char(s), 0, SPEY_GUIDE_UNBOUNDED));
        if (s->string_rule >= 0) spey_guide_rule_define(s->b, s->string_rule, e);
    }
    return spey_guide_rule_ref(s->b, s->string_rule);
}

/* ---- strings ---- */

static const spey_guide_expr *with_format(spey_schema *s, const json_t *format)
{
    const char *name = json_string_value(format);
    for (size_t i = 0; name && i < sizeof formats / sizeof *formats; i++)
        if (!strcmp(formats[i].name, name))
            return quoted(s,
                          spey_guide_regex_expr(s->b, name, formats[i].regex,
                                                strlen(formats[i].regex), false, write_in_string));
    return spey_schema_fail(s, SPEY_UNSUPPORTED,
                            "this format is not supported: date, time, date-time, uuid, email, "
                            "hostname and ipv4 are");
}

static const spey_guide_expr *with_pattern(spey_schema *s, const json_t *pattern)
{
    if (!json_is_string(pattern)) return spey_schema_fail(s, SPEY_FORMAT, "a regex is expected");
    char where[256];
    snprintf(where, sizeof where, "JSON schema: %.200s", s->path.data ? s->path.data : "");
    return quoted(s, spey_guide_regex_expr(s->b, where, json_string_value(pattern),
                                           json_string_length(pattern), true, write_in_string));
}

const spey_guide_expr *spey_schema_string(spey_schema *s, const json_t *schema)
{
    const json_t *format = json_object_get(schema, "format");
    const json_t *pattern = json_object_get(schema, "pattern");
    bool counted = json_object_get(schema, "minLength") || json_object_get(schema, "maxLength");
    if ((format != NULL) + (pattern != NULL) + counted > 1)
        return spey_schema_fail(
            s, SPEY_UNSUPPORTED,
            "only one of format, pattern and minLength or maxLength is supported");
    if (format || pattern) {
        size_t before = spey_schema_enter(s, format ? "format" : "pattern");
        const spey_guide_expr *e = format ? with_format(s, format) : with_pattern(s, pattern);
        spey_schema_leave(s, before);
        return e;
    }
    if (!counted) return spey_schema_any_string(s);
    int32_t min = spey_schema_count(s, schema, "minLength", 0);
    int32_t max = spey_schema_count(s, schema, "maxLength", SPEY_GUIDE_UNBOUNDED);
    if (max != SPEY_GUIDE_UNBOUNDED && max < min)
        return spey_schema_fail(s, SPEY_FORMAT, "maxLength is less than minLength");
    return quoted(s, spey_guide_repeat(s->b, one_char(s), min, max));
}

const spey_guide_expr *spey_schema_constant(spey_schema *s, const json_t *value)
{
    spey_strbuf text = { 0 };
    spey_status status = spey_json_write(value, JSON_COMPACT | JSON_REAL_PRECISION(17), &text);
    const spey_guide_expr *e =
        status ? spey_guide_fail(s->b, status) : spey_guide_literal(s->b, text.data, text.len);
    spey_strbuf_deinit(&text);
    return e;
}

/* ---- keys that are not among the declared ones ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Strings that are none of names[first … last), all of which begin with the same `at` bytes, from there on. Names are sorted,
 * so those with the same next character are neighbours. `rest` is the rule of any characters. */
static const spey_guide_expr *none_of(spey_guide_builder *b, const char **names, size_t first,
                                      size_t last, size_t at, int32_t rest)
{
    spey_guide_class taken = { 0 };
    spey_guide_list list = { 0 };
    bool ends = first < last && !names[first][at];
    if (!ends) spey_guide_list_push(b, &list, spey_guide_empty());
    for (size_t i = first + ends; i < last && !b->status;) {
        size_t n, next = i, length;
        uint32_t c = spey_utf8_get(names[i] + at, &n);
        while (next < last && spey_utf8_get(names[next] + at, &length) == c)
            next++;
        spey_guide_class one = { 0 };
        spey_guide_class_add(b, &one, c, c);
        spey_guide_class_add(b, &taken, c, c);
        spey_guide_list_push(b, &list,
                             spey_guide_seq2(b, spey_guide_class_expr(b, &one),
                                             none_of(b, names, i, next, at + n, rest)));
        i = next;
    }
    spey_guide_class plain = plain_chars(b), others = spey_guide_class_invert(b, &taken);
    others = spey_guide_class_intersect(b, &others, &plain);
    spey_guide_list_push(
        b, &list,
        spey_guide_seq2(b, spey_guide_class_expr(b, &others), spey_guide_rule_ref(b, rest)));
    return spey_guide_alt(b, list);
}

/* A name that would need an escape is never made, as keys are made without. */
static bool can_be_made(const char *name)
{
    for (; *name; name++)
        if ((unsigned char)*name < 0x20 || *name == '"' || *name == '\\') return false;
    return true;
}

const spey_guide_expr *spey_schema_other_key(spey_schema *s, const json_t *properties)
{
    size_t n = 0;
    const char *key;
    json_t *value;
    const char **names =
        spey_arena_array(&s->b->arena, json_object_size(properties) + 1, sizeof *names);
    if (!names) return spey_guide_fail(s->b, SPEY_NOMEM);
    json_object_foreach((json_t *)(uintptr_t)properties, key, value)
    {
        (void)value;
        if (strlen(key) > KEY_BYTES_MAX)
            return spey_schema_fail(s, SPEY_LIMIT,
                                    "a property's name is too long beside additionalProperties");
        if (can_be_made(key)) names[n++] = key;
    }
    if (n) qsort(names, n, sizeof *names, compare_names);
    spey_guide_class plain = plain_chars(s->b);
    int32_t rest = spey_guide_rule_declare(s->b, "key", 3);
    if (rest < 0) return spey_guide_fail(s->b, s->b->status);
    spey_guide_rule_define(
        s->b, rest,
        spey_guide_repeat(s->b, spey_guide_class_expr(s->b, &plain), 0, SPEY_GUIDE_UNBOUNDED));
    return quoted(s, none_of(s->b, names, 0, n, 0, rest));
}
