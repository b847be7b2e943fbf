#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/alloc.h"
#include "base/strbuf.h"

enum {
    REGEX_PATTERN_MAX = 1 << 16,
    REGEX_DEPTH_MAX = 64,
    REGEX_STACK_MAX = 16 << 20, /* for backtracking of the JIT code */
    REGEX_MATCH_LIMIT = 50000000,
};

struct spey_regex {
    pcre2_general_context *memory;
    pcre2_code *code;
};

struct spey_regex_scratch {
    pcre2_general_context *memory;
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

/* ---- translation ---- */

/* clang-format off */
#define REGEX_SPACES "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}" \
                     "\\x{205f}\\x{3000}"
/* Alphabetic, M, Nd, Pc: PCRE2's own \w lacks marks and connectors. */
#define REGEX_WORDS "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}" \
                    "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
/* clang-format on */

typedef struct translation {
    const char *where, *pattern;
    size_t n, at;
    spey_strbuf out;
    size_t atom;                    /* where the last atom begins in out */
    size_t groups[REGEX_DEPTH_MAX]; /* where the open groups begin in out */
    size_t depth;
} translation;

static spey_status unsupported(const translation *t, const char *what)
{
    return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: regex \"%.*s\": %s at byte %zu", t->where,
                     (int)(t->n < 200 ? t->n : 200), t->pattern, what, t->at);
}

static char peek(const translation *t, size_t ahead)
{
    return t->at + ahead < t->n ? t->pattern[t->at + ahead] : 0;
}

static void copy(translation *t, size_t n)
{
    size_t left = t->n - t->at;
    if (n > left) n = left;
    spey_strbuf_append(&t->out, t->pattern + t->at, n);
    t->at += n;
}

/* \p{Name}: one- and two-letter names are categories in both engines; a script name means Script here and
 * Script_Extensions in PCRE2 unless it says so. */
static void translate_property(translation *t)
{
    static const char *const categories[][2] = {
        { "Letter", "L" }, { "Number", "N" }, { "Punctuation", "P" },
        { "Symbol", "S" }, { "Mark", "M" },   { "Separator", "Z" },
    };
    size_t begin = t->at + 3;
    const char *close = begin <= t->n ? memchr(t->pattern + begin, '}', t->n - begin) : NULL;
    if (peek(t, 2) != '{' || !close) {
        copy(t, 2);
        return;
    }
    copy(t, 3);
    if (peek(t, 0) == '^') copy(t, 1);
    size_t len = (size_t)(close - (t->pattern + t->at));
    for (size_t i = 0; i < sizeof categories / sizeof categories[0]; i++) {
        if (len == strlen(categories[i][0]) && !memcmp(t->pattern + t->at, categories[i][0], len)) {
            spey_strbuf_puts(&t->out, categories[i][1]);
            t->at += len;
            len = 0;
        }
    }
    bool any = len == 3 && !memcmp(t->pattern + t->at, "Any", 3);
    if (len > 2 && !any) spey_strbuf_puts(&t->out, "sc:");
    copy(t, len + 1);
}

/* An escape outside or inside [ ]. */
static spey_status translate_escape(translation *t, bool in_class)
{
    const char *set = NULL;
    char c = peek(t, 1);
    switch (c) {
    case 's':
    case 'S': set = REGEX_SPACES; break;
    case 'w':
    case 'W': set = REGEX_WORDS; break;
    case 'h':
    case 'H': set = "0-9a-fA-F"; break;
    case 'p':
    case 'P': translate_property(t); return SPEY_OK;
    case 0: return unsupported(t, "a lone backslash");
    default: copy(t, (unsigned char)c < 0x80 ? 2 : 1); return SPEY_OK;
    }
    bool negated = c < 'a';
    if (in_class && negated) {
        if (c == 'H') return unsupported(t, "\\H inside a class");
        copy(t, 2);
        return SPEY_OK;
    }
    if (in_class)
        spey_strbuf_puts(&t->out, set);
    else
        spey_strbuf_printf(&t->out, "[%s%s]", negated ? "^" : "", set);
    t->at += 2;
    return SPEY_OK;
}

static spey_status translate_class(translation *t)
{
    copy(t, 1);
    if (peek(t, 0) == '^') copy(t, 1);
    if (peek(t, 0) == ']') {
        spey_strbuf_puts(&t->out, "\\]");
        t->at++;
    }
    while (t->at < t->n && peek(t, 0) != ']') {
        char c = peek(t, 0);
        if (c == '\\') {
            SPEY_TRY(translate_escape(t, true));
        } else if (c == '[' && peek(t, 1) == ':') {
            do
                copy(t, 1);
            while (t->at < t->n && peek(t, 0) != ']');
            copy(t, 1);
        } else if (c == '[') {
            return unsupported(t, "a class inside a class");
        } else if (c == '&' && peek(t, 1) == '&') {
            return unsupported(t, "an intersection of classes");
        } else {
            copy(t, 1);
        }
    }
    copy(t, 1);
    return SPEY_OK;
}

/* "(?…": Ruby's flag m is PCRE2's s. */
static spey_status translate_group(translation *t)
{
    if (t->depth == REGEX_DEPTH_MAX) return unsupported(t, "too many nested groups");
    t->groups[t->depth++] = t->out.len;
    copy(t, 1);
    if (peek(t, 0) != '?') return SPEY_OK;
    copy(t, 1);
    if (peek(t, 0) == '~') return unsupported(t, "an absent operator");
    while (t->at < t->n && (strchr("imx-", peek(t, 0)))) {
        if (peek(t, 0) == 'm') {
            spey_strbuf_putc(&t->out, 's');
            t->at++;
        } else {
            copy(t, 1);
        }
    }
    return SPEY_OK;
}

/* "{n,m}": returns its length, 0 when `{` is literal. */
static size_t interval_length(const translation *t)
{
    size_t i = 1, digits = 0;
    for (; peek(t, i) >= '0' && peek(t, i) <= '9'; i++)
        digits++;
    if (peek(t, i) == ',')
        for (i++; peek(t, i) >= '0' && peek(t, i) <= '9'; i++)
            digits++;
    return digits && peek(t, i) == '}' ? i + 1 : 0;
}

/* In Ruby's syntax x{2,3}+ repeats x{2,3}, in PCRE2 it is possessive. */
static void translate_interval(translation *t, size_t len)
{
    size_t atom = t->atom;
    if (peek(t, 1) == ',') {
        spey_strbuf_puts(&t->out, "{0");
        t->at++;
        copy(t, len - 1);
    } else {
        copy(t, len);
    }
    if (peek(t, 0) != '+') return;
    spey_strbuf wrapped = { 0 };
    spey_strbuf_append(&wrapped, t->out.data, atom);
    spey_strbuf_puts(&wrapped, "(?:");
    spey_strbuf_append(&wrapped, t->out.data + atom, t->out.len - atom);
    spey_strbuf_putc(&wrapped, ')');
    if (wrapped.status) t->out.status = wrapped.status;
    spey_strbuf_deinit(&t->out);
    t->out = wrapped;
}

static spey_status translate(translation *t)
{
    while (t->at < t->n && !t->out.status) {
        char c = peek(t, 0);
        size_t interval = c == '{' ? interval_length(t) : 0;
        if (!strchr("*+?{", c) || c == 0) t->atom = t->out.len;
        if (c == '\\') {
            SPEY_TRY(translate_escape(t, false));
        } else if (c == '[') {
            SPEY_TRY(translate_class(t));
        } else if (c == '(') {
            SPEY_TRY(translate_group(t));
        } else if (interval) {
            translate_interval(t, interval);
        } else {
            if (c == ')' && t->depth) t->atom = t->groups[--t->depth];
            copy(t, 1);
        }
    }
    return spey_strbuf_status(&t->out);
}

/* ---- compiling ---- */

static void *regex_alloc(PCRE2_SIZE bytes, void *user)
{
    (void)user;
    return spey_alloc(SPEY_PURPOSE_TEXT, bytes);
}

static void regex_release(void *p, void *user)
{
    (void)user;
    spey_free(p);
}

static spey_status compile(spey_regex *regex, const char *where, const spey_strbuf *pattern)
{
    regex->memory = pcre2_general_context_create(regex_alloc, regex_release, NULL);
    pcre2_compile_context *context =
        regex->memory ? pcre2_compile_context_create(regex->memory) : NULL;
    if (!context) return SPEY_FAIL(SPEY_NOMEM, "%s: out of memory compiling a regex", where);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code = 0;
    PCRE2_SIZE offset = 0;
    regex->code = pcre2_compile((PCRE2_SPTR)(pattern->data ? pattern->data : ""), pattern->len,
                                PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                &code, &offset, context);
    pcre2_compile_context_free(context);
    if (regex->code) {
        /* Without JIT matching is slower and right: not an error. */
        (void)pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE);
        return SPEY_OK;
    }
    if (code == PCRE2_ERROR_HEAP_FAILED || code == PCRE2_ERROR_NOMEMORY)
        return SPEY_FAIL(SPEY_NOMEM, "%s: out of memory compiling a regex", where);
    PCRE2_UCHAR message[128];
    pcre2_get_error_message(code, message, sizeof message);
    return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: regex \"%.200s\": %s at byte %zu", where,
                     pattern->data ? pattern->data : "", (const char *)message, (size_t)offset);
}

spey_status spey_regex_new(const char *where, const char *pattern, size_t n, spey_regex **out)
{
    *out = NULL;
    if (n > REGEX_PATTERN_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%s: a regex of %zu bytes, at most %d are allowed", where, n,
                         REGEX_PATTERN_MAX);
    translation t = { .where = where, .pattern = pattern, .n = n };
    t.out.max = 64 * REGEX_PATTERN_MAX;
    spey_status status = translate(&t);
    spey_regex *regex = status ? NULL : spey_new(SPEY_PURPOSE_TEXT, spey_regex);
    if (!status) status = regex ? compile(regex, where, &t.out) : SPEY_NOMEM;
    spey_strbuf_deinit(&t.out);
    if (status)
        spey_regex_free(regex);
    else
        *out = regex;
    return status;
}

void spey_regex_free(spey_regex *regex)
{
    if (!regex) return;
    pcre2_code_free(regex->code);
    pcre2_general_context_free(regex->memory);
    spey_free(regex);
}

/* ---- matching ---- */

spey_status spey_regex_scratch_new(spey_regex_scratch **out)
{
    *out = NULL;
    spey_regex_scratch *scratch = spey_new(SPEY_PURPOSE_TEXT, spey_regex_scratch);
    if (!scratch) return SPEY_NOMEM;
    scratch->memory = pcre2_general_context_create(regex_alloc, regex_release, NULL);
    if (scratch->memory) {
        scratch->data = pcre2_match_data_create(1, scratch->memory);
        scratch->context = pcre2_match_context_create(scratch->memory);
        scratch->stack = pcre2_jit_stack_create(32 << 10, REGEX_STACK_MAX, scratch->memory);
    }
    if (!scratch->data || !scratch->context || !scratch->stack) {
        spey_regex_scratch_free(scratch);
        return SPEY_FAIL(SPEY_NOMEM, "out of memory for a regex match");
    }
    pcre2_set_match_limit(scratch->context, REGEX_MATCH_LIMIT);
    pcre2_jit_stack_assign(scratch->context, NULL, scratch->stack);
    *out = scratch;
    return SPEY_OK;
}

void spey_regex_scratch_free(spey_regex_scratch *scratch)
{
    if (!scratch) return;
    pcre2_match_data_free(scratch->data);
    pcre2_match_context_free(scratch->context);
    pcre2_jit_stack_free(scratch->stack);
    pcre2_general_context_free(scratch->memory);
    spey_free(scratch);
}

static spey_status match_failed(int code)
{
    if (code == PCRE2_ERROR_NOMEMORY)
        return SPEY_FAIL(SPEY_NOMEM, "out of memory in a regex match");
    PCRE2_UCHAR message[128];
    pcre2_get_error_message(code, message, sizeof message);
    return SPEY_FAIL(SPEY_LIMIT, "a pre-tokenizer regex cannot match this text: %s",
                     (const char *)message);
}

spey_status spey_regex_next(const spey_regex *regex, spey_regex_scratch *scratch, const char *text,
                            size_t n, spey_regex_cursor *cursor, bool *found, size_t *begin,
                            size_t *end)
{
    *found = false;
    while (cursor->from <= n) {
        int code = pcre2_match(regex->code, (PCRE2_SPTR)text, n, cursor->from, PCRE2_NO_UTF_CHECK,
                               scratch->data, scratch->context);
        if (code == PCRE2_ERROR_NOMATCH) break;
        if (code < 0) return match_failed(code);
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(scratch->data);
        /* \K can put the start after the end, or before the last match. */
        size_t floor = cursor->matched ? cursor->last_end : 0;
        if (at[0] > at[1] || at[0] < floor) return match_failed(PCRE2_ERROR_BADSUBSPATTERN);
        if (at[0] == at[1] && cursor->matched && cursor->last_end == at[1]) {
            cursor->from++;
            while (cursor->from < n && ((unsigned char)text[cursor->from] & 0xc0) == 0x80)
                cursor->from++;
            continue;
        }
        *begin = at[0];
        *end = cursor->from = cursor->last_end = at[1];
        cursor->matched = *found = true;
        return SPEY_OK;
    }
    cursor->from = n + 1;
    return SPEY_OK;
}
