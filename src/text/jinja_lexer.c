#include "text/jinja_lexer.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/strbuf.h"
#include "text/jinja_text.h"

void spey_jinja_lexer_init(jinja_lexer *lexer, spey_arena *arena, const char *source, size_t n)
{
    *lexer = (jinja_lexer){ .arena = arena, .source = source, .n = n, .line = 1, .column = 1 };
}

/* Positions are asked for in rising order, so counting is linear in total. */
static void locate(jinja_lexer *lexer, size_t pos)
{
    for (; lexer->counted < pos; lexer->counted++) {
        unsigned char c = (unsigned char)lexer->source[lexer->counted];
        if (c == '\n') {
            lexer->line++;
            lexer->column = 1;
        } else if ((c & 0xc0) != 0x80) {
            lexer->column++;
        }
    }
}

static void token_at(jinja_lexer *lexer, jinja_token_kind kind, size_t pos, jinja_token *out)
{
    locate(lexer, pos);
    *out = (jinja_token){ .kind = kind, .line = lexer->line, .column = lexer->column };
}

static bool starts(const jinja_lexer *lexer, size_t pos, const char *text)
{
    size_t n = strlen(text);
    return lexer->n - pos >= n && memcmp(lexer->source + pos, text, n) == 0;
}

static char byte_at(const jinja_lexer *lexer, size_t pos)
{
    return pos < lexer->n ? lexer->source[pos] : 0;
}

static size_t skip_space(const jinja_lexer *lexer, size_t pos)
{
    return pos + spey_jinja_skip_space(lexer->source + pos, lexer->n - pos);
}

static spey_status fail_at(jinja_lexer *lexer, size_t pos, const char *message)
{
    locate(lexer, pos);
    return SPEY_FAIL(SPEY_FORMAT, "chat template line %u, column %u: %s", lexer->line,
                     lexer->column, message);
}

/* ---- template text ---- */

static size_t find_tag(const jinja_lexer *lexer, size_t pos)
{
    for (; pos + 1 < lexer->n; pos++) {
        const char *brace = memchr(lexer->source + pos, '{', lexer->n - pos - 1);
        if (!brace) break;
        pos = (size_t)(brace - lexer->source);
        if (strchr("{%#", brace[1]) && brace[1]) return pos;
    }
    return lexer->n;
}

/* Where the text in front of the tag at `tag` ends after `{%-` or lstrip_blocks. */
static size_t text_end(const jinja_lexer *lexer, size_t begin, size_t tag)
{
    const char *text = lexer->source + begin;
    size_t n = tag - begin;
    char sign = byte_at(lexer, tag + 2);
    if (sign == '-') return begin + spey_jinja_trim_end(text, n);
    if (sign == '+' || lexer->source[tag + 1] == '{') return tag;
    size_t line = n;
    while (line > 0 && text[line - 1] != '\n')
        line--;
    bool at_line_start = line > 0 || begin == 0 || lexer->source[begin - 1] == '\n';
    if (at_line_start && line + spey_jinja_skip_space(text + line, n - line) == n)
        return begin + line;
    return tag;
}

/* Position after a block's or comment's end mark at `pos`, of which `-` or `+` is already seen as `sign`. */
static size_t after_end(const jinja_lexer *lexer, size_t pos, char sign)
{
    if (sign == '-') return skip_space(lexer, pos);
    if (sign != '+' && byte_at(lexer, pos) == '\n') return pos + 1; /* trim_blocks */
    return pos;
}

/* When `{% NAME %}` starts at `pos`: true, and where it ends; *sign is the one before its end mark. */
static bool bare_tag(const jinja_lexer *lexer, size_t pos, const char *name, size_t *end,
                     char *sign)
{
    if (!starts(lexer, pos, "{%")) return false;
    pos += 2;
    if (byte_at(lexer, pos) == '-' || byte_at(lexer, pos) == '+') pos++;
    pos = skip_space(lexer, pos);
    if (!starts(lexer, pos, name)) return false;
    pos = skip_space(lexer, pos + strlen(name));
    *sign = byte_at(lexer, pos);
    if (*sign == '-' || *sign == '+')
        pos++;
    else
        *sign = 0;
    if (!starts(lexer, pos, "%}")) return false;
    *end = pos + 2;
    return true;
}

static spey_status lex_raw(jinja_lexer *lexer, size_t tag, size_t begin, jinja_token *out)
{
    for (size_t pos = begin; pos < lexer->n; pos++) {
        size_t end;
        char sign;
        if (lexer->source[pos] != '{' || !bare_tag(lexer, pos, "endraw", &end, &sign)) continue;
        token_at(lexer, JINJA_TOKEN_DATA, begin, out);
        out->text = lexer->source + begin;
        out->len = text_end(lexer, begin, pos) - begin;
        lexer->pos = after_end(lexer, end, sign);
        return SPEY_OK;
    }
    return fail_at(lexer, tag, "raw block without endraw");
}

static spey_status skip_comment(jinja_lexer *lexer, size_t tag)
{
    char sign = byte_at(lexer, tag + 2);
    size_t body = sign == '-' || sign == '+' ? tag + 3 : tag + 2;
    for (size_t pos = body; pos + 1 < lexer->n; pos++) {
        if (!starts(lexer, pos, "#}")) continue;
        sign = pos > body ? lexer->source[pos - 1] : 0;
        lexer->pos = after_end(lexer, pos + 2, sign);
        return SPEY_OK;
    }
    return fail_at(lexer, tag, "comment without end");
}

static spey_status lex_tag(jinja_lexer *lexer, jinja_token *out, bool *found)
{
    size_t tag = lexer->pos, end;
    char sign;
    *found = true;
    lexer->state = JINJA_LEX_DATA;
    if (lexer->source[tag + 1] == '#') {
        *found = false;
        return skip_comment(lexer, tag);
    }
    if (bare_tag(lexer, tag, "raw", &end, &sign) && sign != '+')
        return lex_raw(lexer, tag, sign == '-' ? skip_space(lexer, end) : end, out);
    bool block = lexer->source[tag + 1] == '%';
    token_at(lexer, block ? JINJA_TOKEN_BLOCK_BEGIN : JINJA_TOKEN_VARIABLE_BEGIN, tag, out);
    lexer->state = block ? JINJA_LEX_BLOCK : JINJA_LEX_VARIABLE;
    lexer->pos = tag + 2;
    sign = byte_at(lexer, lexer->pos);
    if (sign == '-' || sign == '+') lexer->pos++;
    return SPEY_OK;
}

static spey_status lex_data(jinja_lexer *lexer, jinja_token *out, bool *found)
{
    size_t begin = lexer->pos, tag = find_tag(lexer, begin);
    bool at_end = tag == lexer->n;
    size_t end = at_end ? tag : text_end(lexer, begin, tag);
    lexer->pos = tag;
    lexer->state = at_end ? JINJA_LEX_DATA : JINJA_LEX_TAG;
    *found = end > begin || at_end;
    if (end > begin) {
        token_at(lexer, JINJA_TOKEN_DATA, begin, out);
        out->text = lexer->source + begin;
        out->len = end - begin;
    } else if (at_end) {
        token_at(lexer, JINJA_TOKEN_END, tag, out);
    }
    return SPEY_OK;
}

/* ---- inside tags ---- */

static bool lex_end(jinja_lexer *lexer, jinja_token *out)
{
    size_t pos = lexer->pos;
    char sign = byte_at(lexer, pos);
    bool block = lexer->state == JINJA_LEX_BLOCK;
    if (sign == '-' || (sign == '+' && block))
        pos++;
    else
        sign = 0;
    if (!starts(lexer, pos, block ? "%}" : "}}")) return false;
    token_at(lexer, block ? JINJA_TOKEN_BLOCK_END : JINJA_TOKEN_VARIABLE_END, lexer->pos, out);
    if (block)
        lexer->pos = after_end(lexer, pos + 2, sign);
    else
        lexer->pos = sign == '-' ? skip_space(lexer, pos + 2) : pos + 2;
    lexer->state = JINJA_LEX_DATA;
    return true;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Digits with single underscores between them. */
static size_t skip_digits(const jinja_lexer *lexer, size_t pos)
{
    while (is_digit(byte_at(lexer, pos)) ||
           (byte_at(lexer, pos) == '_' && is_digit(byte_at(lexer, pos + 1))))
        pos++;
    return pos;
}

/* Where the float at `pos` ends; `pos` when there is none. */
static size_t skip_float(const jinja_lexer *lexer, size_t pos)
{
    size_t end = skip_digits(lexer, pos);
    bool is_float = false;
    if (byte_at(lexer, end) == '.' && is_digit(byte_at(lexer, end + 1))) {
        is_float = true;
        end = skip_digits(lexer, end + 1);
    }
    if (byte_at(lexer, end) == 'e' || byte_at(lexer, end) == 'E') {
        size_t exponent = end + 1;
        if (byte_at(lexer, exponent) == '+' || byte_at(lexer, exponent) == '-') exponent++;
        if (is_digit(byte_at(lexer, exponent))) {
            is_float = true;
            end = skip_digits(lexer, exponent);
        }
    }
    bool after_dot = pos > 0 && lexer->source[pos - 1] == '.'; /* `x.0.1` is two integers */
    return is_float && !after_dot ? end : pos;
}

static int radix_at(const jinja_lexer *lexer, size_t pos)
{
    if (byte_at(lexer, pos) != '0') return 10;
    switch (byte_at(lexer, pos + 1)) {
    case 'x':
    case 'X': return 16;
    case 'o':
    case 'O': return 8;
    case 'b':
    case 'B': return 2;
    default: return 10;
    }
}

static spey_status lex_number(jinja_lexer *lexer, jinja_token *out)
{
    char digits[64];
    size_t begin = lexer->pos, n = 0, end = skip_float(lexer, begin);
    bool is_float = end > begin;
    int radix = is_float ? 10 : radix_at(lexer, begin);
    token_at(lexer, is_float ? JINJA_TOKEN_FLOAT : JINJA_TOKEN_INT, begin, out);
    size_t first = radix == 10 ? begin : begin + 2;
    if (!is_float) {
        end = skip_digits(lexer, first);
        while (radix == 16 && byte_at(lexer, end) &&
               strchr("_0123456789abcdefABCDEF", byte_at(lexer, end)))
            end++;
    }
    for (size_t i = first; i < end; i++) {
        if (lexer->source[i] == '_') continue;
        if (n + 1 >= sizeof digits) return fail_at(lexer, begin, "number too long");
        digits[n++] = lexer->source[i];
    }
    digits[n] = 0;
    char *stop;
    errno = 0;
    if (is_float)
        out->real = strtod(digits, &stop);
    else
        out->integer = strtoll(digits, &stop, radix);
    if (*stop || n == 0) return fail_at(lexer, begin, "malformed number");
    if (!is_float && errno) return fail_at(lexer, begin, "integer beyond 64 bits");
    if (!is_float && radix == 10 && n > 1 && digits[0] == '0' && out->integer)
        return fail_at(lexer, begin, "malformed number");
    lexer->pos = end;
    return SPEY_OK;
}

static int hex_value(char c)
{
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The `count` hex digits at `pos` as a character. */
static spey_status put_hex(jinja_lexer *lexer, size_t pos, size_t count, spey_strbuf *buf)
{
    uint32_t code = 0;
    for (size_t i = 0; i < count; i++) {
        int digit = hex_value(byte_at(lexer, pos + i));
        if (digit < 0) return fail_at(lexer, pos, "malformed \\x, \\u or \\U escape");
        code = code << 4 | (uint32_t)digit;
    }
    spey_strbuf_put_utf8(buf, code);
    return SPEY_OK;
}

/* Decode the escape whose backslash is at *pos and go behind it. Unknown escapes stay as they are. */
static spey_status put_escape(jinja_lexer *lexer, size_t *pos, spey_strbuf *buf)
{
    static const char plain[] = "\\'\"abfnrtv", meant[] = "\\'\"\a\b\f\n\r\t\v";
    char c = byte_at(lexer, *pos + 1);
    const char *known = c ? strchr(plain, c) : NULL;
    if (known) {
        spey_strbuf_putc(buf, meant[known - plain]);
        *pos += 2;
    } else if (c == '\n') {
        *pos += 2;
    } else if (c == 'x' || c == 'u' || c == 'U') {
        size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        SPEY_TRY(put_hex(lexer, *pos + 2, count, buf));
        *pos += 2 + count;
    } else if (c >= '0' && c <= '7') {
        uint32_t code = 0;
        size_t i = *pos + 1;
        for (; i < *pos + 4 && byte_at(lexer, i) >= '0' && byte_at(lexer, i) <= '7'; i++)
            code = code * 8 + (uint32_t)(byte_at(lexer, i) - '0');
        spey_strbuf_put_utf8(buf, code);
        *pos = i;
    } else {
        spey_strbuf_putc(buf, '\\');
        *pos += 1;
    }
    return SPEY_OK;
}

static spey_status decode_string(jinja_lexer *lexer, size_t begin, size_t end, spey_strbuf *buf)
{
    for (size_t pos = begin; pos < end;) {
        if (lexer->source[pos] == '\\')
            SPEY_TRY(put_escape(lexer, &pos, buf));
        else
            spey_strbuf_putc(buf, lexer->source[pos++]);
    }
    return spey_strbuf_status(buf);
}

static spey_status lex_string(jinja_lexer *lexer, jinja_token *out)
{
    size_t begin = lexer->pos, end = begin + 1;
    char quote = lexer->source[begin];
    bool escapes = false;
    token_at(lexer, JINJA_TOKEN_STRING, begin, out);
    while (end < lexer->n && lexer->source[end] != quote) {
        if (lexer->source[end] == '\\') {
            escapes = true;
            end++;
        }
        end++;
    }
    if (end >= lexer->n) return fail_at(lexer, begin, "string without end");
    lexer->pos = end + 1;
    out->text = lexer->source + begin + 1;
    out->len = end - begin - 1;
    if (!escapes) return SPEY_OK;

    spey_strbuf buf = { 0 };
    spey_status status = decode_string(lexer, begin + 1, end, &buf);
    out->text = status ? NULL : spey_arena_strndup(lexer->arena, buf.data ? buf.data : "", buf.len);
    if (!status && !out->text) status = SPEY_NOMEM;
    out->len = buf.len;
    spey_strbuf_deinit(&buf);
    return status;
}

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c) ||
           (unsigned char)c >= 0x80;
}

static spey_status lex_operator(jinja_lexer *lexer, jinja_token *out)
{
    static const char *const operators[] = { "//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                             "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                             ">",  "<",  "=",  ".",  ":",  "|",  ",", ";" };
    token_at(lexer, JINJA_TOKEN_OPERATOR, lexer->pos, out);
    size_t i = 0;
    while (i < sizeof operators / sizeof *operators && !starts(lexer, lexer->pos, operators[i]))
        i++;
    if (i == sizeof operators / sizeof *operators)
        return fail_at(lexer, lexer->pos, "unexpected character");
    char c = operators[i][0];
    if (c == '(' || c == '[' || c == '{') {
        if (lexer->n_brackets == JINJA_BRACKETS_MAX)
            return SPEY_FAIL(SPEY_LIMIT, "chat template line %u, column %u: nested too deeply",
                             out->line, out->column);
        lexer->brackets[lexer->n_brackets++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (lexer->n_brackets == 0 || lexer->brackets[--lexer->n_brackets] != c)
            return fail_at(lexer, lexer->pos, "closing bracket without its opening one");
    }
    out->text = operators[i];
    out->len = strlen(operators[i]);
    lexer->pos += out->len;
    return SPEY_OK;
}

static spey_status lex_inside(jinja_lexer *lexer, jinja_token *out)
{
    lexer->pos = skip_space(lexer, lexer->pos);
    if (lexer->n_brackets == 0 && lex_end(lexer, out)) return SPEY_OK;
    if (lexer->pos >= lexer->n) {
        token_at(lexer, JINJA_TOKEN_END, lexer->n, out);
        return SPEY_OK;
    }
    char c = lexer->source[lexer->pos];
    if (is_digit(c)) return lex_number(lexer, out);
    if (c == '\'' || c == '"') return lex_string(lexer, out);
    if (!is_name_byte(c)) return lex_operator(lexer, out);
    size_t begin = lexer->pos;
    token_at(lexer, JINJA_TOKEN_NAME, begin, out);
    while (is_name_byte(byte_at(lexer, lexer->pos)))
        lexer->pos++;
    out->text = lexer->source + begin;
    out->len = lexer->pos - begin;
    return SPEY_OK;
}

spey_status spey_jinja_lexer_next(jinja_lexer *lexer, jinja_token *out)
{
    bool found = false;
    while (!found) {
        switch (lexer->state) {
        case JINJA_LEX_DATA: SPEY_TRY(lex_data(lexer, out, &found)); break;
        case JINJA_LEX_TAG: SPEY_TRY(lex_tag(lexer, out, &found)); break;
        default: return lex_inside(lexer, out);
        }
    }
    return SPEY_OK;
}
