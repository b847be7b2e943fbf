#include "base/json.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/limits.h"

/* jansson recurses per level, up to 2048; a file this deep is hostile, so it is refused before parsing. */
static bool too_deep(const char *text, size_t n)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > SPEY_JSON_DEPTH_MAX) return true;
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return false;
}

spey_status spey_json_parse(const char *where, const char *text, size_t n, json_t **out)
{
    *out = NULL;
    if (too_deep(text, n))
        return SPEY_FAIL(SPEY_LIMIT, "%s: JSON nested deeper than %d levels", where,
                         SPEY_JSON_DEPTH_MAX);
    json_error_t error;
    *out = json_loadb(text ? text : "", n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!*out) {
        if (json_error_code(&error) == json_error_out_of_memory)
            return SPEY_FAIL(SPEY_NOMEM, "%s: out of memory while reading JSON", where);
        return SPEY_FAIL(SPEY_FORMAT, "%s: bad JSON at line %d, column %d: %s", where, error.line,
                         error.column, error.text);
    }
    return SPEY_OK;
}

spey_status spey_json_read(const char *path, json_t **out)
{
    *out = NULL;
    spey_strbuf text = { 0 };
    spey_status status = spey_file_read(path, SPEY_JSON_BYTES_MAX, &text);
    if (!status) status = spey_json_parse(path, text.data, text.len, out);
    spey_strbuf_deinit(&text);
    return status;
}

static const char *kind_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    case JSON_NULL: break;
    }
    return "null";
}

static const json_t *get(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return value && !json_is_null(value) ? value : NULL;
}

spey_status spey_json_int(const json_t *object, const char *where, const char *key, int64_t min,
                          int64_t max, int64_t missing, int64_t *out)
{
    const json_t *value = get(object, key);
    if (!value) {
        if (missing < min || missing > max)
            return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" is missing, expected an integer in %lld…%lld",
                             where, key, (long long)min, (long long)max);
        *out = missing;
        return SPEY_OK;
    }
    double real = json_is_real(value) ? json_real_value(value) : 0.5;
    if (!json_is_integer(value) && real != floor(real))
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" is %s, expected an integer", where, key,
                         kind_name(value));
    /* 1e6 is an integer to most JSON writers. */
    if (json_is_real(value) && fabs(real) > 9e15)
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" is %g, expected an integer in %lld…%lld", where,
                         key, real, (long long)min, (long long)max);
    int64_t i = json_is_integer(value) ? json_integer_value(value) : (int64_t)real;
    if (i < min || i > max)
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" is %lld, expected %lld…%lld", where, key,
                         (long long)i, (long long)min, (long long)max);
    *out = i;
    return SPEY_OK;
}

spey_status spey_json_number(const json_t *object, const char *where, const char *key, double min,
                             double max, double missing, double *out)
{
    const json_t *value = get(object, key);
    if (!value) {
        if (isnan(missing))
            return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" is missing, expected a number in %g…%g",
                             where, key, min, max);
        *out = missing;
        return SPEY_OK;
    }
    if (!json_is_number(value))
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" is %s, expected a number", where, key,
                         kind_name(value));
    double number = json_number_value(value);
    if (!(number >= min && number <= max))
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" is %g, expected %g…%g", where, key, number, min,
                         max);
    *out = number;
    return SPEY_OK;
}

spey_status spey_json_bool(const json_t *object, const char *where, const char *key, bool missing,
                           bool *out)
{
    const json_t *value = get(object, key);
    if (value && !json_is_boolean(value))
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" is %s, expected true or false", where, key,
                         kind_name(value));
    *out = value ? json_is_true(value) : missing;
    return SPEY_OK;
}

spey_status spey_json_string(const json_t *object, const char *where, const char *key,
                             const char *missing, const char **out)
{
    const json_t *value = get(object, key);
    if (value && !json_is_string(value))
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" is %s, expected a string", where, key,
                         kind_name(value));
    *out = value ? json_string_value(value) : missing;
    return SPEY_OK;
}

static int append_text(const char *text, size_t n, void *out)
{
    spey_strbuf_append(out, text, n);
    return 0;
}

spey_status spey_json_write(const json_t *value, size_t flags, spey_strbuf *out)
{
    if (json_dump_callback(value, append_text, out, flags | JSON_ENCODE_ANY))
        return SPEY_FAIL(SPEY_NOMEM, "out of memory while writing JSON");
    return spey_strbuf_status(out);
}

/* Length of the UTF-8 sequence at p, or 0 when it is invalid (RFC 3629, section 4). */
static size_t utf8_length(const unsigned char *p, size_t n)
{
    if (p[0] < 0x80) return 1;
    size_t len = p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : p[0] >= 0xe0 ? 3 : p[0] >= 0xc2 ? 2 : 0;
    if (len == 0 || p[0] >= 0xf5 || len > n) return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return len;
}

void spey_json_quote(spey_strbuf *out, const char *text, size_t n)
{
    const unsigned char *p = (const unsigned char *)text;
    spey_strbuf_putc(out, '"');
    for (size_t i = 0; i < n;) {
        size_t len = utf8_length(p + i, n - i);
        if (len == 0) {
            spey_strbuf_puts(out, "\xef\xbf\xbd");
            i++;
        } else if (p[i] == '"' || p[i] == '\\') {
            spey_strbuf_printf(out, "\\%c", p[i++]);
        } else if (p[i] == '\n') {
            spey_strbuf_puts(out, "\\n");
            i++;
        } else if (p[i] < 0x20 || p[i] == 0x7f) {
            spey_strbuf_printf(out, "\\u%04x", (unsigned)p[i++]);
        } else {
            spey_strbuf_append(out, p + i, len);
            i += len;
        }
    }
    spey_strbuf_putc(out, '"');
}

spey_status spey_jsonl_each(const char *where, const char *text, size_t n, spey_jsonl_fn on_value,
                            void *user)
{
    const char *end = text + n, *next;
    int64_t line = 1;
    for (const char *p = text; p < end; p = next, line++) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        next = newline ? newline + 1 : end;
        size_t len = (size_t)((newline ? newline : end) - p);
        if (len > 0 && p[len - 1] == '\r') len--;
        if (len == 0) continue;
        char at[SPEY_PATH_BYTES_MAX];
        snprintf(at, sizeof at, "%.4000s:%lld", where, (long long)line);
        json_t *value;
        SPEY_TRY(spey_json_parse(at, p, len, &value));
        spey_status status = on_value(user, at, value);
        json_decref(value);
        SPEY_TRY(status);
    }
    return SPEY_OK;
}
