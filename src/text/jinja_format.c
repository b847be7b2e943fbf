/* Python's two ways of formatting, as far as templates use them: '%s %d %.2f' % values and '{} {name}'.format. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "text/jinja_ops.h"
#include "text/jinja_text.h"

/* ---- % ---- */

typedef struct percent_spec {
    bool minus, zero, plus;
    int width, precision; /* precision < 0: not given */
    char conversion;
} percent_spec;

enum { PERCENT_WIDTH_MAX = 1000 };

static spey_status parse_number(const char *text, size_t n, size_t *pos, int *out)
{
    int value = 0;
    for (; *pos < n && text[*pos] >= '0' && text[*pos] <= '9'; (*pos)++) {
        value = value * 10 + (text[*pos] - '0');
        if (value > PERCENT_WIDTH_MAX)
            return SPEY_FAIL(SPEY_LIMIT, "width or precision above %d in a format",
                             PERCENT_WIDTH_MAX);
    }
    *out = value;
    return SPEY_OK;
}

static spey_status parse_spec(jinja_value format, size_t *pos, percent_spec *out)
{
    percent_spec spec = { .precision = -1 };
    size_t i = *pos;
    for (; i < format.len && strchr("-0+ #", format.text[i]) && format.text[i]; i++) {
        spec.minus |= format.text[i] == '-';
        spec.zero |= format.text[i] == '0';
        spec.plus |= format.text[i] == '+';
    }
    SPEY_TRY(parse_number(format.text, format.len, &i, &spec.width));
    if (i < format.len && format.text[i] == '.') {
        i++;
        SPEY_TRY(parse_number(format.text, format.len, &i, &spec.precision));
    }
    if (i >= format.len) return SPEY_FAIL(SPEY_INVALID, "incomplete format");
    spec.conversion = format.text[i];
    *pos = i + 1;
    *out = spec;
    return SPEY_OK;
}

static void put_padded(spey_strbuf *out, const percent_spec *spec, const char *text, size_t n)
{
    size_t count = spey_jinja_utf8_count(text, n), width = (size_t)spec->width;
    size_t pad = width > count ? width - count : 0;
    for (size_t i = 0; i < pad && !spec->minus; i++)
        spey_strbuf_putc(out, ' ');
    spey_strbuf_append(out, text, n);
    for (size_t i = 0; i < pad && spec->minus; i++)
        spey_strbuf_putc(out, ' ');
}

static spey_status put_percent_text(jinja_render *render, const percent_spec *spec, jinja_value v,
                                    spey_strbuf *out)
{
    spey_strbuf buf = spey_jinja_buffer();
    spey_status status = spec->conversion == 's' ? spey_jinja_put_str(render, v, &buf)
                                                 : spey_jinja_put_repr(render, v, &buf);
    size_t n = buf.len;
    if (spec->precision >= 0)
        n = spey_jinja_utf8_offset(buf.data ? buf.data : "", n, (size_t)spec->precision);
    if (!status) put_padded(out, spec, buf.data ? buf.data : "", n);
    spey_strbuf_deinit(&buf);
    return status;
}

static spey_status put_percent_number(const percent_spec *spec, jinja_value v, spey_strbuf *out)
{
    double real;
    int64_t whole;
    bool is_float = strchr("eEfFgG", spec->conversion) != NULL;
    if (v.kind == JINJA_UNDEFINED) return spey_jinja_fail_undefined(v);
    if (!spey_jinja_number(v, &real))
        return SPEY_FAIL(SPEY_INVALID, "%%%c format: a number is required, not %s",
                         spec->conversion, spey_jinja_type(v));
    if (!spey_jinja_whole(v, &whole)) {
        if (!is_float && !(real > -9.2e18 && real < 9.2e18))
            return SPEY_FAIL(SPEY_INVALID, "%%%c format: number out of range", spec->conversion);
        whole = is_float ? 0 : (int64_t)real;
    }
    char format[16] = "%";
    size_t n = 1;
    if (spec->minus) format[n++] = '-';
    if (spec->zero) format[n++] = '0';
    if (spec->plus) format[n++] = '+';
    memcpy(format + n, is_float ? "*.*" : "*", is_float ? 4 : 2);
    n += is_float ? 3 : 1;
    if (!is_float) {
        format[n++] = 'l';
        format[n++] = 'l';
    }
    format[n++] = spec->conversion == 'i' || spec->conversion == 'u' ? 'd' : spec->conversion;
    format[n] = 0;
    char text[2 * PERCENT_WIDTH_MAX + 400];
    int precision = spec->precision < 0 ? 6 : spec->precision;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    int written = is_float ? snprintf(text, sizeof text, format, spec->width, precision, real)
                           : snprintf(text, sizeof text, format, spec->width, (long long)whole);
#pragma GCC diagnostic pop
    if (written < 0 || (size_t)written >= sizeof text)
        return SPEY_FAIL(SPEY_LIMIT, "formatted number too long");
    spey_strbuf_append(out, text, (size_t)written);
    return SPEY_OK;
}

/* %(name)s: the value is looked up in a dict. */
static spey_status named_value(jinja_render *render, jinja_value format, size_t *pos,
                               jinja_value values, jinja_value *out)
{
    const char *name = format.text + *pos + 1;
    const char *end = memchr(name, ')', format.len - *pos - 1);
    if (!end || values.kind != JINJA_DICT)
        return SPEY_FAIL(SPEY_INVALID, "format requires a mapping");
    jinja_value *found;
    jinja_value key = spey_jinja_text(name, (size_t)(end - name));
    SPEY_TRY(spey_jinja_dict_find(render, values.dict, key, &found));
    if (!found)
        return SPEY_FAIL(SPEY_INVALID, "format: no key '%.*s'", (int)(key.len < 80 ? key.len : 80),
                         name);
    *out = *found;
    *pos += key.len + 2;
    return SPEY_OK;
}

static spey_status put_percent(jinja_render *render, jinja_value format, jinja_value values,
                               spey_strbuf *out)
{
    bool is_tuple = values.kind == JINJA_TUPLE;
    size_t used = 0, n = is_tuple ? values.list->n : 1;
    for (size_t i = 0; i < format.len;) {
        if (format.text[i] != '%') {
            spey_strbuf_putc(out, format.text[i++]);
            continue;
        }
        i++;
        jinja_value v = { .kind = JINJA_MISSING };
        percent_spec spec;
        if (i < format.len && format.text[i] == '(')
            SPEY_TRY(named_value(render, format, &i, values, &v));
        SPEY_TRY(parse_spec(format, &i, &spec));
        if (spec.conversion == '%') {
            spey_strbuf_putc(out, '%');
            continue;
        }
        if (v.kind == JINJA_MISSING) {
            if (used == n) return SPEY_FAIL(SPEY_INVALID, "not enough arguments for format string");
            v = is_tuple ? values.list->items[used] : values;
            used++;
        }
        if (strchr("sra", spec.conversion))
            SPEY_TRY(put_percent_text(render, &spec, v, out));
        else if (strchr("diuxXoeEfFgG", spec.conversion))
            SPEY_TRY(put_percent_number(&spec, v, out));
        else
            return SPEY_FAIL(SPEY_INVALID, "unsupported format character");
        SPEY_TRY(spey_strbuf_status(out));
    }
    bool subscribable = values.kind == JINJA_DICT || values.kind == JINJA_LIST ||
                        values.kind == JINJA_UNDEFINED || values.kind == JINJA_RANGE;
    if (used < n && !subscribable)
        return SPEY_FAIL(SPEY_INVALID, "not all arguments converted during string formatting");
    return SPEY_OK;
}

spey_status spey_jinja_percent(jinja_render *render, jinja_value format, jinja_value values,
                               jinja_value *out)
{
    spey_strbuf buf = spey_jinja_buffer();
    return spey_jinja_take_text(render, put_percent(render, format, values, &buf), &buf, out);
}

/* ---- str.format ---- */

static spey_status format_field(const char *name, size_t len, const jinja_args *args,
                                size_t *automatic, jinja_value *out)
{
    size_t index = *automatic;
    bool is_index = len == 0 || (name[0] >= '0' && name[0] <= '9');
    if (len == 0) {
        (*automatic)++;
    } else if (is_index) {
        index = 0;
        for (size_t i = 0; i < len; i++) {
            if (name[i] < '0' || name[i] > '9' || index > 10000)
                return SPEY_FAIL(SPEY_UNSUPPORTED, "format field '%.*s' is not supported",
                                 (int)(len < 80 ? len : 80), name);
            index = index * 10 + (size_t)(name[i] - '0');
        }
    }
    if (is_index) {
        if (index >= args->n)
            return SPEY_FAIL(SPEY_INVALID, "format: no argument number %zu", index);
        *out = args->items[index];
        return SPEY_OK;
    }
    for (size_t i = 0; i < args->n_named; i++) {
        if (args->named[i].len != len || memcmp(args->named[i].name, name, len) != 0) continue;
        *out = args->named[i].value;
        return SPEY_OK;
    }
    return SPEY_FAIL(SPEY_INVALID, "format: no argument '%.*s'", (int)(len < 80 ? len : 80), name);
}

static spey_status put_format(jinja_render *render, jinja_value format, const jinja_args *args,
                              spey_strbuf *out)
{
    size_t automatic = 0;
    for (size_t i = 0; i < format.len; i++) {
        char c = format.text[i];
        if (c != '{' && c != '}') {
            spey_strbuf_putc(out, c);
            continue;
        }
        if (i + 1 < format.len && format.text[i + 1] == c) {
            spey_strbuf_putc(out, c);
            i++;
            continue;
        }
        const char *name = format.text + i + 1;
        const char *end = c == '{' ? memchr(name, '}', format.len - i - 1) : NULL;
        if (!end) return SPEY_FAIL(SPEY_INVALID, "single '%c' encountered in format string", c);
        size_t len = (size_t)(end - name);
        if (memchr(name, ':', len) || memchr(name, '!', len) || memchr(name, '.', len) ||
            memchr(name, '[', len))
            return SPEY_FAIL(SPEY_UNSUPPORTED, "format field '%.*s' is not supported",
                             (int)(len < 80 ? len : 80), name);
        jinja_value v;
        SPEY_TRY(format_field(name, len, args, &automatic, &v));
        SPEY_TRY(spey_jinja_put_str(render, v, out));
        i += len + 1;
    }
    return SPEY_OK;
}

spey_status spey_jinja_format(jinja_render *render, jinja_value format, const jinja_args *args,
                              jinja_value *out)
{
    spey_strbuf buf = spey_jinja_buffer();
    return spey_jinja_take_text(render, put_format(render, format, args, &buf), &buf, out);
}
