#include "text/jinja_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/limits.h"

/* ---- UTF-8 ---- */

bool spey_jinja_utf8_is_valid(const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        utf8proc_int32_t code;
        size_t left = n - i;
        utf8proc_ssize_t size = utf8proc_iterate((const utf8proc_uint8_t *)text + i,
                                                 (utf8proc_ssize_t)(left < 4 ? left : 4), &code);
        if (size <= 0) return false;
        i += (size_t)size;
    }
    return true;
}

uint32_t spey_jinja_utf8_decode(const char *text, size_t *size)
{
    const unsigned char *s = (const unsigned char *)text;
    if (s[0] < 0x80) {
        *size = 1;
        return s[0];
    }
    if (s[0] < 0xe0) {
        *size = 2;
        return (uint32_t)(s[0] & 31) << 6 | (s[1] & 63);
    }
    if (s[0] < 0xf0) {
        *size = 3;
        return (uint32_t)(s[0] & 15) << 12 | (uint32_t)(s[1] & 63) << 6 | (s[2] & 63);
    }
    *size = 4;
    return (uint32_t)(s[0] & 7) << 18 | (uint32_t)(s[1] & 63) << 12 | (uint32_t)(s[2] & 63) << 6 |
           (s[3] & 63);
}

static bool continues(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

size_t spey_jinja_utf8_count(const char *text, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += !continues(text[i]);
    return count;
}

size_t spey_jinja_utf8_offset(const char *text, size_t n, size_t index)
{
    size_t i = 0;
    for (; index > 0 && i < n; index--) {
        i++;
        while (i < n && continues(text[i]))
            i++;
    }
    return i;
}

size_t spey_jinja_utf8_before(const char *text, size_t end)
{
    do
        end--;
    while (end > 0 && continues(text[end]));
    return end;
}

bool spey_jinja_is_space(uint32_t code)
{
    if (code <= 0x20)
        return code == 0x20 || (code >= 9 && code <= 13) || (code >= 28 && code <= 31);
    return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) ||
           code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

size_t spey_jinja_skip_space(const char *text, size_t n)
{
    size_t i = 0, size;
    while (i < n && spey_jinja_is_space(spey_jinja_utf8_decode(text + i, &size)))
        i += size;
    return i;
}

size_t spey_jinja_trim_end(const char *text, size_t n)
{
    while (n > 0) {
        size_t size, last = spey_jinja_utf8_before(text, n);
        if (!spey_jinja_is_space(spey_jinja_utf8_decode(text + last, &size))) break;
        n = last;
    }
    return n;
}

void spey_jinja_put_case(spey_strbuf *out, uint32_t code, jinja_case wanted)
{
    if (code == 0xdf && wanted != JINJA_LOWER) { /* ß: the one common letter that grows */
        spey_strbuf_puts(out, wanted == JINJA_UPPER ? "SS" : "Ss");
        return;
    }
    utf8proc_int32_t c = (utf8proc_int32_t)code;
    c = wanted == JINJA_UPPER   ? utf8proc_toupper(c)
        : wanted == JINJA_LOWER ? utf8proc_tolower(c)
                                : utf8proc_totitle(c);
    spey_strbuf_put_utf8(out, (uint32_t)c);
}

void spey_jinja_put_cased(spey_strbuf *out, const char *text, size_t n, jinja_case wanted)
{
    for (size_t i = 0; i < n;) {
        size_t size;
        spey_jinja_put_case(out, spey_jinja_utf8_decode(text + i, &size), wanted);
        i += size;
    }
}

bool spey_jinja_has_case(uint32_t code)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
           category == UTF8PROC_CATEGORY_LT;
}

static bool is_printable(uint32_t code)
{
    if (code == ' ') return true;
    switch (utf8proc_category((utf8proc_int32_t)code)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    default: return true;
    }
}

/* ---- str and repr ---- */

/* The shortest digits that read back as the same double, in Python's layout. */
void spey_jinja_put_float(spey_strbuf *out, double d)
{
    if (isnan(d) || isinf(d)) {
        spey_strbuf_puts(out, isnan(d) ? "nan" : d < 0 ? "-inf" : "inf");
        return;
    }
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*e", digits - 1, d);
        if (strtod(text, NULL) == d) break;
    }
    char *mark = strchr(text, 'e');
    int exponent = (int)strtol(mark + 1, NULL, 10);
    *mark = 0;
    if (exponent < -4 || exponent >= 16) {
        spey_strbuf_printf(out, "%se%c%02d", text, exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    int n_digits =
        (int)strlen(text) - (d < 0 || (d == 0 && signbit(d))) - (strchr(text, '.') != NULL);
    int decimals = n_digits - 1 - exponent;
    spey_strbuf_printf(out, "%.*f", decimals > 0 ? decimals : 1, d);
}

static void put_repr_text(spey_strbuf *out, const char *text, size_t n)
{
    char quote = memchr(text, '\'', n) && !memchr(text, '"', n) ? '"' : '\'';
    spey_strbuf_putc(out, quote);
    for (size_t i = 0; i < n;) {
        size_t size;
        uint32_t code = spey_jinja_utf8_decode(text + i, &size);
        if (code == '\\' || code == (uint32_t)(unsigned char)quote) {
            spey_strbuf_putc(out, '\\');
            spey_strbuf_putc(out, (char)code);
        } else if (code == '\n' || code == '\r' || code == '\t') {
            spey_strbuf_puts(out, code == '\n' ? "\\n" : code == '\r' ? "\\r" : "\\t");
        } else if (is_printable(code)) {
            spey_strbuf_append(out, text + i, size);
        } else {
            spey_strbuf_printf(out,
                               code < 0x100     ? "\\x%02x"
                               : code < 0x10000 ? "\\u%04x"
                                                : "\\U%08x",
                               code);
        }
        i += size;
    }
    spey_strbuf_putc(out, quote);
}

static spey_status put_list(jinja_render *render, const jinja_list *list, const char *open,
                            const char *close, spey_strbuf *out)
{
    spey_strbuf_puts(out, open);
    for (size_t i = 0; i < list->n; i++) {
        if (i) spey_strbuf_puts(out, ", ");
        SPEY_TRY(spey_jinja_put_repr(render, list->items[i], out));
    }
    spey_strbuf_puts(out, close);
    return SPEY_OK;
}

static spey_status put_dict(jinja_render *render, const jinja_dict *dict, spey_strbuf *out)
{
    spey_strbuf_putc(out, '{');
    for (size_t i = 0; i < dict->n; i++) {
        if (i) spey_strbuf_puts(out, ", ");
        SPEY_TRY(spey_jinja_put_repr(render, dict->keys[i], out));
        spey_strbuf_puts(out, ": ");
        SPEY_TRY(spey_jinja_put_repr(render, dict->values[i], out));
    }
    spey_strbuf_putc(out, '}');
    return SPEY_OK;
}

static spey_status put_view(jinja_render *render, jinja_value v, spey_strbuf *out)
{
    spey_strbuf_puts(out, spey_jinja_type(v));
    return put_list(render, v.list, "([", "])", out);
}

static void put_range(const int64_t *range, spey_strbuf *out)
{
    if (range[2] == 1)
        spey_strbuf_printf(out, "range(%" PRId64 ", %" PRId64 ")", range[0], range[1]);
    else
        spey_strbuf_printf(out, "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", range[0], range[1],
                           range[2]);
}

static spey_status put_repr(jinja_render *render, jinja_value v, spey_strbuf *out)
{
    switch (v.kind) {
    case JINJA_MISSING: break;
    case JINJA_UNDEFINED: spey_strbuf_puts(out, "Undefined"); break;
    case JINJA_NONE: spey_strbuf_puts(out, "None"); break;
    case JINJA_BOOL: spey_strbuf_puts(out, v.boolean ? "True" : "False"); break;
    case JINJA_INT: spey_strbuf_printf(out, "%" PRId64, v.integer); break;
    case JINJA_FLOAT: spey_jinja_put_float(out, v.real); break;
    case JINJA_STRING: put_repr_text(out, v.text, v.len); break;
    case JINJA_LIST: return put_list(render, v.list, "[", "]", out);
    case JINJA_TUPLE: return put_list(render, v.list, "(", v.list->n == 1 ? ",)" : ")", out);
    case JINJA_DICT: return put_dict(render, v.dict, out);
    case JINJA_VIEW: return put_view(render, v, out);
    case JINJA_RANGE: put_range(v.list->range, out); break;
    case JINJA_NAMESPACE:
        spey_strbuf_puts(out, "<Namespace ");
        SPEY_TRY(put_dict(render, v.dict, out));
        spey_strbuf_putc(out, '>');
        break;
    case JINJA_LOOP:
        spey_strbuf_printf(out, "<LoopContext %zu/%zu>", v.loop->index0 + 1, v.loop->items->n);
        break;
    case JINJA_GENERATOR:
    case JINJA_MACRO:
    case JINJA_FUNCTION:
    case JINJA_METHOD:
    case JINJA_JOINER:
    case JINJA_CYCLER: spey_strbuf_printf(out, "<%s>", spey_jinja_type(v)); break;
    }
    return SPEY_OK;
}

spey_status spey_jinja_put_repr(jinja_render *render, jinja_value v, spey_strbuf *out)
{
    size_t before = out->len;
    spey_status status = spey_jinja_enter(render);
    if (!status) status = put_repr(render, v, out);
    spey_jinja_leave(render);
    if (!status) status = spey_strbuf_status(out);
    if (!status) status = spey_jinja_work(render, 1 + (out->len - before) / JINJA_BYTES_PER_WORK);
    return status;
}

spey_status spey_jinja_put_str(jinja_render *render, jinja_value v, spey_strbuf *out)
{
    if (v.kind == JINJA_UNDEFINED) return SPEY_OK;
    if (v.kind != JINJA_STRING) return spey_jinja_put_repr(render, v, out);
    spey_strbuf_append(out, v.text, v.len);
    SPEY_TRY(spey_strbuf_status(out));
    return spey_jinja_work(render, v.len / JINJA_BYTES_PER_WORK);
}

spey_status spey_jinja_to_str(jinja_render *render, jinja_value v, jinja_value *out)
{
    if (v.kind == JINJA_STRING || v.kind == JINJA_UNDEFINED) {
        *out = v.kind == JINJA_STRING ? v : spey_jinja_literal("");
        return SPEY_OK;
    }
    spey_strbuf buf = spey_jinja_buffer();
    return spey_jinja_take_text(render, spey_jinja_put_str(render, v, &buf), &buf, out);
}

/* ---- JSON, as Python's json.dumps writes it ---- */

static void put_unicode_escape(spey_strbuf *out, uint32_t code)
{
    if (code < 0x10000) {
        spey_strbuf_printf(out, "\\u%04x", code);
    } else {
        code -= 0x10000;
        spey_strbuf_printf(out, "\\u%04x\\u%04x", 0xd800 | code >> 10, 0xdc00 | (code & 0x3ff));
    }
}

static void put_json_text(spey_strbuf *out, const char *text, size_t n, bool ensure_ascii)
{
    static const char named[] = "\"\\\n\r\t\f\b", letters[] = "\"\\nrtfb";
    spey_strbuf_putc(out, '"');
    for (size_t i = 0; i < n;) {
        size_t size;
        uint32_t code = spey_jinja_utf8_decode(text + i, &size);
        const char *name = code && code < 0x80 ? strchr(named, (int)code) : NULL;
        if (name) {
            spey_strbuf_putc(out, '\\');
            spey_strbuf_putc(out, letters[name - named]);
        } else if (code < 0x20 || (ensure_ascii && code >= 0x7f)) {
            put_unicode_escape(out, code);
        } else {
            spey_strbuf_append(out, text + i, size);
        }
        i += size;
    }
    spey_strbuf_putc(out, '"');
}

typedef struct json_writer {
    jinja_render *render;
    const jinja_json_style *style;
    spey_strbuf *out;
    size_t level;
} json_writer;

static spey_status put_json(json_writer *writer, jinja_value v);

static spey_status new_line(json_writer *writer)
{
    if (!writer->style->multi_line) return SPEY_OK;
    spey_strbuf_putc(writer->out, '\n');
    for (size_t i = 0; i < writer->level; i++)
        spey_strbuf_append(writer->out, writer->style->indent.text, writer->style->indent.len);
    return spey_strbuf_status(writer->out);
}

static void put_text_value(spey_strbuf *out, jinja_value v)
{
    spey_strbuf_append(out, v.text, v.len);
}

static spey_status put_json_list(json_writer *writer, const jinja_list *list)
{
    spey_strbuf_putc(writer->out, '[');
    writer->level++;
    for (size_t i = 0; i < list->n; i++) {
        if (i) put_text_value(writer->out, writer->style->item_separator);
        SPEY_TRY(new_line(writer));
        SPEY_TRY(put_json(writer, list->items[i]));
    }
    writer->level--;
    if (list->n) SPEY_TRY(new_line(writer));
    spey_strbuf_putc(writer->out, ']');
    return SPEY_OK;
}

static spey_status put_json_key(json_writer *writer, jinja_value key)
{
    switch (key.kind) {
    case JINJA_STRING: return put_json(writer, key);
    case JINJA_NONE:
    case JINJA_BOOL:
    case JINJA_INT:
    case JINJA_FLOAT:
        spey_strbuf_putc(writer->out, '"');
        SPEY_TRY(put_json(writer, key));
        spey_strbuf_putc(writer->out, '"');
        return SPEY_OK;
    default:
        return SPEY_FAIL(SPEY_INVALID, "keys must be str, int, float, bool or None, not %s",
                         spey_jinja_type(key));
    }
}

/* Order of the keys: *out[i] is the index of the i-th. */
static spey_status sort_keys(jinja_render *render, const jinja_dict *dict, size_t **out)
{
    size_t *index = spey_jinja_alloc(render, dict->n, sizeof *index);
    if (!index) return spey_jinja_no_memory(render);
    for (size_t i = 0; i < dict->n; i++) {
        size_t at = i;
        SPEY_TRY(spey_jinja_work(render, 1));
        for (; at > 0; at--) {
            int order;
            SPEY_TRY(spey_jinja_work(render, 1));
            SPEY_TRY(
                spey_jinja_order(render, "<", dict->keys[index[at - 1]], dict->keys[i], &order));
            if (order != 1) break;
            index[at] = index[at - 1];
        }
        index[at] = i;
    }
    *out = index;
    return SPEY_OK;
}

static spey_status put_json_dict(json_writer *writer, const jinja_dict *dict)
{
    size_t *index = NULL;
    if (writer->style->sort_keys) SPEY_TRY(sort_keys(writer->render, dict, &index));
    spey_strbuf_putc(writer->out, '{');
    writer->level++;
    for (size_t i = 0; i < dict->n; i++) {
        size_t at = index ? index[i] : i;
        if (i) put_text_value(writer->out, writer->style->item_separator);
        SPEY_TRY(new_line(writer));
        SPEY_TRY(put_json_key(writer, dict->keys[at]));
        put_text_value(writer->out, writer->style->key_separator);
        SPEY_TRY(put_json(writer, dict->values[at]));
    }
    writer->level--;
    if (dict->n) SPEY_TRY(new_line(writer));
    spey_strbuf_putc(writer->out, '}');
    return SPEY_OK;
}

static spey_status put_json_plain(json_writer *writer, jinja_value v)
{
    spey_strbuf *out = writer->out;
    switch (v.kind) {
    case JINJA_NONE: spey_strbuf_puts(out, "null"); return SPEY_OK;
    case JINJA_BOOL: spey_strbuf_puts(out, v.boolean ? "true" : "false"); return SPEY_OK;
    case JINJA_INT: spey_strbuf_printf(out, "%" PRId64, v.integer); return SPEY_OK;
    case JINJA_FLOAT:
        if (isfinite(v.real))
            spey_jinja_put_float(out, v.real);
        else
            spey_strbuf_puts(out, isnan(v.real) ? "NaN" : v.real < 0 ? "-Infinity" : "Infinity");
        return SPEY_OK;
    case JINJA_STRING:
        put_json_text(out, v.text, v.len, writer->style->ensure_ascii);
        return SPEY_OK;
    case JINJA_LIST:
    case JINJA_TUPLE: return put_json_list(writer, v.list);
    case JINJA_DICT: return put_json_dict(writer, v.dict);
    default:
        return SPEY_FAIL(SPEY_INVALID, "Object of type %s is not JSON serializable",
                         spey_jinja_type(v));
    }
}

static spey_status put_json(json_writer *writer, jinja_value v)
{
    size_t before = writer->out->len;
    spey_status status = spey_jinja_enter(writer->render);
    if (!status) status = put_json_plain(writer, v);
    spey_jinja_leave(writer->render);
    if (!status) status = spey_strbuf_status(writer->out);
    if (!status)
        status =
            spey_jinja_work(writer->render, 1 + (writer->out->len - before) / JINJA_BYTES_PER_WORK);
    return status;
}

spey_status spey_jinja_put_json(jinja_render *render, jinja_value v, const jinja_json_style *style,
                                spey_strbuf *out)
{
    json_writer writer = { .render = render, .style = style, .out = out };
    return put_json(&writer, v);
}
