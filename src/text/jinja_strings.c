#include "text/jinja_strings.h"

#include <string.h>
#include <utf8proc.h>

#include "base/limits.h"
#include "text/jinja_ops.h"

/* ---- shared with filters ---- */

static bool strips(jinja_value chars, const char *at, size_t size)
{
    if (chars.kind == JINJA_STRING) return memmem(chars.text, chars.len, at, size) != NULL;
    size_t ignored;
    return spey_jinja_is_space(spey_jinja_utf8_decode(at, &ignored));
}

spey_status spey_jinja_str_strip(jinja_value s, jinja_value chars, int sides, jinja_value *out)
{
    if (chars.kind != JINJA_MISSING && chars.kind != JINJA_NONE && chars.kind != JINJA_STRING)
        return SPEY_FAIL(SPEY_INVALID, "strip arg must be None or str, not %s",
                         spey_jinja_type(chars));
    size_t begin = 0, end = s.len, size;
    while (sides & JINJA_STRIP_LEFT && begin < end) {
        spey_jinja_utf8_decode(s.text + begin, &size);
        if (!strips(chars, s.text + begin, size)) break;
        begin += size;
    }
    while (sides & JINJA_STRIP_RIGHT && begin < end) {
        size_t last = spey_jinja_utf8_before(s.text, end);
        if (!strips(chars, s.text + last, end - last)) break;
        end = last;
    }
    *out = spey_jinja_text(s.text + begin, end - begin);
    return SPEY_OK;
}

spey_status spey_jinja_str_case(jinja_render *render, jinja_value s, jinja_case wanted,
                                jinja_value *out)
{
    spey_strbuf buf = spey_jinja_buffer();
    spey_jinja_put_cased(&buf, s.text, s.len, wanted);
    return spey_jinja_take_text(render, SPEY_OK, &buf, out);
}

spey_status spey_jinja_str_capitalize(jinja_render *render, jinja_value s, jinja_value *out)
{
    spey_strbuf buf = spey_jinja_buffer();
    size_t first = spey_jinja_utf8_offset(s.text, s.len, 1);
    spey_jinja_put_cased(&buf, s.text, first, JINJA_TITLE);
    spey_jinja_put_cased(&buf, s.text + first, s.len - first, JINJA_LOWER);
    return spey_jinja_take_text(render, SPEY_OK, &buf, out);
}

/* An empty `from` matches before each character and at the end. */
static void replace_empty(jinja_value s, jinja_value to, int64_t count, spey_strbuf *buf)
{
    for (size_t i = 0;;) {
        if (count) spey_strbuf_append(buf, to.text, to.len);
        count -= count != 0;
        if (i >= s.len || spey_strbuf_status(buf)) break;
        size_t size;
        spey_jinja_utf8_decode(s.text + i, &size);
        spey_strbuf_append(buf, s.text + i, size);
        i += size;
    }
}

spey_status spey_jinja_str_replace(jinja_render *render, jinja_value s, jinja_value from,
                                   jinja_value to, int64_t count, jinja_value *out)
{
    spey_strbuf buf = spey_jinja_buffer();
    const char *at = s.text, *end = s.text + s.len;
    if (from.len == 0) {
        replace_empty(s, to, count, &buf);
        return spey_jinja_take_text(render, SPEY_OK, &buf, out);
    }
    while (count != 0 && !spey_strbuf_status(&buf)) {
        const char *found = memmem(at, (size_t)(end - at), from.text, from.len);
        if (!found) break;
        spey_strbuf_append(&buf, at, (size_t)(found - at));
        spey_strbuf_append(&buf, to.text, to.len);
        at = found + from.len;
        count--;
    }
    spey_strbuf_append(&buf, at, (size_t)(end - at));
    return spey_jinja_take_text(render, SPEY_OK, &buf, out);
}

static bool is_line_end(uint32_t code)
{
    return (code >= 10 && code <= 13) || (code >= 0x1c && code <= 0x1e) || code == 0x85 ||
           code == 0x2028 || code == 0x2029;
}

spey_status spey_jinja_str_split_lines(jinja_render *render, jinja_value s, bool keep_ends,
                                       jinja_list **out)
{
    SPEY_TRY(spey_jinja_list_new(render, 0, out));
    size_t begin = 0, size;
    for (size_t i = 0; i < s.len;) {
        uint32_t code = spey_jinja_utf8_decode(s.text + i, &size);
        size_t end = i;
        i += size;
        if (!is_line_end(code)) continue;
        if (code == '\r' && i < s.len && s.text[i] == '\n') i++;
        if (keep_ends) end = i;
        SPEY_TRY(spey_jinja_list_push(render, *out, spey_jinja_text(s.text + begin, end - begin)));
        begin = i;
    }
    if (begin == s.len) return SPEY_OK;
    return spey_jinja_list_push(render, *out, spey_jinja_text(s.text + begin, s.len - begin));
}

spey_status spey_jinja_str_pad(jinja_render *render, jinja_value s, int64_t width, jinja_value fill,
                               char side, jinja_value *out)
{
    size_t n = spey_jinja_utf8_count(s.text, s.len);
    if (fill.kind == JINJA_MISSING) fill = spey_jinja_literal(" ");
    if (fill.kind != JINJA_STRING || spey_jinja_utf8_count(fill.text, fill.len) != 1)
        return SPEY_FAIL(SPEY_INVALID, "the fill character must be exactly one character long");
    if (width <= 0 || (size_t)width <= n) {
        *out = s;
        return SPEY_OK;
    }
    size_t pad = (size_t)width - n, left = 0;
    if (side == 'r') left = pad;
    if (side == 'c') left = pad / 2 + (pad & (size_t)width & 1);
    spey_strbuf buf = spey_jinja_buffer();
    for (size_t i = 0; i < pad + 1 && !spey_strbuf_status(&buf); i++) {
        if (i == left) spey_strbuf_append(&buf, s.text, s.len);
        if (i < pad) spey_strbuf_append(&buf, fill.text, fill.len);
    }
    return spey_jinja_take_text(render, SPEY_OK, &buf, out);
}

/* ---- methods ---- */

#define METHOD(name)                                                                              \
    static spey_status str_##name(jinja_render *render, jinja_value self, const jinja_args *args, \
                                  jinja_value *out)

static spey_status need_text(jinja_value v)
{
    if (v.kind == JINJA_STRING) return SPEY_OK;
    if (v.kind == JINJA_UNDEFINED) return spey_jinja_fail_undefined(v);
    return SPEY_FAIL(SPEY_INVALID, "a string is required, not %s", spey_jinja_type(v));
}

METHOD(strip)
{
    (void)render;
    return spey_jinja_str_strip(self, args->items[0], JINJA_STRIP_LEFT | JINJA_STRIP_RIGHT, out);
}

METHOD(lstrip)
{
    (void)render;
    return spey_jinja_str_strip(self, args->items[0], JINJA_STRIP_LEFT, out);
}

METHOD(rstrip)
{
    (void)render;
    return spey_jinja_str_strip(self, args->items[0], JINJA_STRIP_RIGHT, out);
}

METHOD(upper)
{
    (void)args;
    return spey_jinja_str_case(render, self, JINJA_UPPER, out);
}

METHOD(lower)
{
    (void)args;
    return spey_jinja_str_case(render, self, JINJA_LOWER, out);
}

METHOD(capitalize)
{
    (void)args;
    return spey_jinja_str_capitalize(render, self, out);
}

/* A letter that follows a letter is lower, others are title case. */
METHOD(title)
{
    (void)args;
    spey_strbuf buf = spey_jinja_buffer();
    bool after_letter = false;
    for (size_t i = 0; i < self.len;) {
        size_t size;
        uint32_t code = spey_jinja_utf8_decode(self.text + i, &size);
        spey_jinja_put_case(&buf, code, after_letter ? JINJA_LOWER : JINJA_TITLE);
        after_letter = spey_jinja_has_case(code);
        i += size;
    }
    return spey_jinja_take_text(render, SPEY_OK, &buf, out);
}

METHOD(swapcase)
{
    (void)args;
    spey_strbuf buf = spey_jinja_buffer();
    for (size_t i = 0; i < self.len;) {
        size_t size;
        uint32_t code = spey_jinja_utf8_decode(self.text + i, &size);
        bool upper = utf8proc_category((utf8proc_int32_t)code) == UTF8PROC_CATEGORY_LU;
        spey_jinja_put_case(&buf, code, upper ? JINJA_LOWER : JINJA_UPPER);
        i += size;
    }
    return spey_jinja_take_text(render, SPEY_OK, &buf, out);
}

METHOD(replace)
{
    int64_t count;
    SPEY_TRY(need_text(args->items[0]));
    SPEY_TRY(need_text(args->items[1]));
    SPEY_TRY(spey_jinja_arg_int(NULL, args->items[2], -1, &count));
    return spey_jinja_str_replace(render, self, args->items[0], args->items[1], count, out);
}

/* The part of self that optional start and end leave; false when start is behind the end. */
static spey_status window(jinja_render *render, jinja_value *self, const jinja_args *args,
                          size_t *skipped, bool *valid)
{
    int64_t n = (int64_t)spey_jinja_utf8_count(self->text, self->len), start, end;
    *skipped = 0;
    *valid = true;
    jinja_value parts[2] = { args->items[1], args->items[2] };
    for (int i = 0; i < 2; i++)
        if (parts[i].kind == JINJA_NONE) parts[i].kind = JINJA_MISSING;
    SPEY_TRY(spey_jinja_arg_int(NULL, parts[0], 0, &start));
    SPEY_TRY(spey_jinja_arg_int(NULL, parts[1], n, &end));
    SPEY_TRY(spey_jinja_work(render, self->len / JINJA_BYTES_PER_WORK));
    if (start < 0) start = start < -n ? 0 : start + n;
    if (end < 0) end = end < -n ? 0 : end + n;
    if (end > n) end = n;
    if (start > end) {
        *valid = false;
        return SPEY_OK;
    }
    size_t begin = spey_jinja_utf8_offset(self->text, self->len, (size_t)start);
    size_t size =
        spey_jinja_utf8_offset(self->text + begin, self->len - begin, (size_t)(end - start));
    *self = spey_jinja_text(self->text + begin, size);
    *skipped = (size_t)start;
    return SPEY_OK;
}

static bool ends_match(jinja_value s, jinja_value part, bool at_end)
{
    if (part.len > s.len) return false;
    return memcmp(at_end ? s.text + s.len - part.len : s.text, part.text, part.len) == 0;
}

/* startswith and endswith: `args->items[0]` is a string or a tuple of strings. */
static spey_status match_ends(jinja_render *render, jinja_value self, const jinja_args *args,
                              bool at_end, jinja_value *out)
{
    jinja_value wanted = args->items[0];
    bool holds = false, valid;
    size_t skipped;
    SPEY_TRY(window(render, &self, args, &skipped, &valid));
    if (wanted.kind == JINJA_TUPLE) {
        for (size_t i = 0; i < wanted.list->n && !holds; i++) {
            SPEY_TRY(need_text(wanted.list->items[i]));
            holds = ends_match(self, wanted.list->items[i], at_end);
        }
    } else {
        SPEY_TRY(need_text(wanted));
        holds = ends_match(self, wanted, at_end);
    }
    *out = spey_jinja_bool(valid && holds);
    return SPEY_OK;
}

METHOD(startswith)
{
    return match_ends(render, self, args, false, out);
}

METHOD(endswith)
{
    return match_ends(render, self, args, true, out);
}

/* *out is the last place of `part` in `s` or NULL. The search is the plain one, so its work is counted. */
static spey_status find_last(jinja_render *render, jinja_value s, jinja_value part,
                             const char **out)
{
    enum { TURNS_PER_COUNT = 1024 };
    *out = NULL;
    if (part.len > s.len) return SPEY_OK;
    size_t work = TURNS_PER_COUNT / JINJA_BYTES_PER_WORK * (1 + part.len / JINJA_BYTES_PER_WORK);
    for (size_t i = s.len - part.len + 1, turns = 1; i-- > 0 && !*out; turns++) {
        if (memcmp(s.text + i, part.text, part.len) == 0) *out = s.text + i;
        if (turns % TURNS_PER_COUNT == 0) SPEY_TRY(spey_jinja_work(render, work));
    }
    return SPEY_OK;
}

static spey_status find_part(jinja_render *render, jinja_value s, jinja_value part, bool last,
                             const char **out)
{
    if (last) return find_last(render, s, part, out);
    *out = memmem(s.text, s.len, part.text, part.len);
    return SPEY_OK;
}

/* find, rfind, index, rindex. */
static spey_status search(jinja_render *render, jinja_value self, const jinja_args *args, bool last,
                          bool must, jinja_value *out)
{
    jinja_value part = args->items[0];
    size_t skipped;
    bool valid;
    SPEY_TRY(need_text(part));
    SPEY_TRY(window(render, &self, args, &skipped, &valid));
    const char *found = NULL;
    if (valid) SPEY_TRY(find_part(render, self, part, last, &found));
    if (!found && must) return SPEY_FAIL(SPEY_INVALID, "substring not found");
    *out = spey_jinja_int(-1);
    if (found)
        *out = spey_jinja_int(
            (int64_t)(skipped + spey_jinja_utf8_count(self.text, (size_t)(found - self.text))));
    return SPEY_OK;
}

METHOD(find)
{
    return search(render, self, args, false, false, out);
}

METHOD(rfind)
{
    return search(render, self, args, true, false, out);
}

METHOD(index)
{
    return search(render, self, args, false, true, out);
}

METHOD(rindex)
{
    return search(render, self, args, true, true, out);
}

METHOD(count)
{
    jinja_value part = args->items[0];
    size_t skipped;
    bool valid;
    int64_t n = 0;
    SPEY_TRY(need_text(part));
    SPEY_TRY(window(render, &self, args, &skipped, &valid));
    if (part.len == 0) {
        n = valid ? (int64_t)spey_jinja_utf8_count(self.text, self.len) + 1 : 0;
    } else if (valid) {
        const char *at = self.text, *end = self.text + self.len;
        while ((at = memmem(at, (size_t)(end - at), part.text, part.len))) {
            n++;
            at += part.len;
        }
    }
    *out = spey_jinja_int(n);
    return SPEY_OK;
}

METHOD(join)
{
    jinja_list *list;
    SPEY_TRY(spey_jinja_iterate(render, args->items[0], &list));
    spey_strbuf buf = spey_jinja_buffer();
    spey_status status = SPEY_OK;
    for (size_t i = 0; i < list->n && !status; i++) {
        if (i) spey_strbuf_append(&buf, self.text, self.len);
        status = need_text(list->items[i]);
        if (!status) status = spey_jinja_put_str(render, list->items[i], &buf);
    }
    return spey_jinja_take_text(render, status, &buf, out);
}

/* ---- split ---- */

/* The first (or last) word of *s, which starts (or ends) with it; *s becomes the rest. */
static jinja_value take_word(jinja_value *s, bool right)
{
    size_t size, cut = right ? s->len : 0;
    jinja_value word;
    if (right) {
        while (cut > 0) {
            size_t before = spey_jinja_utf8_before(s->text, cut);
            if (spey_jinja_is_space(spey_jinja_utf8_decode(s->text + before, &size))) break;
            cut = before;
        }
        word = spey_jinja_text(s->text + cut, s->len - cut);
        s->len = cut;
    } else {
        while (cut < s->len && !spey_jinja_is_space(spey_jinja_utf8_decode(s->text + cut, &size)))
            cut += size;
        word = spey_jinja_text(s->text, cut);
        *s = spey_jinja_text(s->text + cut, s->len - cut);
    }
    return word;
}

/* Runs of white space separate; from the left or the right, at most `limit` cuts, and what is left then
 * keeps the white space at its far end, as in Python. */
static spey_status split_space(jinja_render *render, jinja_value s, int64_t limit, bool right,
                               jinja_list *list)
{
    for (;;) {
        size_t skip = right ? 0 : spey_jinja_skip_space(s.text, s.len);
        s = spey_jinja_text(s.text + skip, s.len - skip);
        if (right) s.len = spey_jinja_trim_end(s.text, s.len);
        if (s.len == 0) return SPEY_OK;
        if (limit == 0) return spey_jinja_list_push(render, list, s);
        limit--;
        SPEY_TRY(spey_jinja_list_push(render, list, take_word(&s, right)));
    }
}

static spey_status split_at(jinja_render *render, jinja_value s, jinja_value separator,
                            int64_t limit, bool right, jinja_list *list)
{
    for (; limit != 0; limit--) {
        const char *found;
        SPEY_TRY(find_part(render, s, separator, right, &found));
        if (!found) break;
        size_t before = (size_t)(found - s.text), after = before + separator.len;
        jinja_value left_part = spey_jinja_text(s.text, before);
        jinja_value right_part = spey_jinja_text(s.text + after, s.len - after);
        SPEY_TRY(spey_jinja_list_push(render, list, right ? right_part : left_part));
        s = right ? left_part : right_part;
    }
    return spey_jinja_list_push(render, list, s);
}

static void reverse(jinja_list *list)
{
    for (size_t i = 0, j = list->n; i + 1 < j; i++) {
        j--;
        jinja_value held = list->items[i];
        list->items[i] = list->items[j];
        list->items[j] = held;
    }
}

static spey_status split(jinja_render *render, jinja_value self, const jinja_args *args, bool right,
                         jinja_value *out)
{
    jinja_value separator = args->items[0];
    int64_t limit;
    jinja_list *list;
    SPEY_TRY(spey_jinja_arg_int(NULL, args->items[1], -1, &limit));
    SPEY_TRY(spey_jinja_list_new(render, 0, &list));
    SPEY_TRY(spey_jinja_work(render, self.len / JINJA_BYTES_PER_WORK));
    if (separator.kind == JINJA_MISSING || separator.kind == JINJA_NONE) {
        SPEY_TRY(split_space(render, self, limit, right, list));
    } else {
        SPEY_TRY(need_text(separator));
        if (separator.len == 0) return SPEY_FAIL(SPEY_INVALID, "empty separator");
        SPEY_TRY(split_at(render, self, separator, limit, right, list));
    }
    if (right) reverse(list);
    *out = spey_jinja_of_list(JINJA_LIST, list);
    return SPEY_OK;
}

METHOD(split)
{
    return split(render, self, args, false, out);
}

METHOD(rsplit)
{
    return split(render, self, args, true, out);
}

METHOD(splitlines)
{
    jinja_list *list;
    bool keep = args->items[0].kind != JINJA_MISSING && spey_jinja_truth(args->items[0]);
    SPEY_TRY(spey_jinja_str_split_lines(render, self, keep, &list));
    *out = spey_jinja_of_list(JINJA_LIST, list);
    return SPEY_OK;
}

static spey_status partition(jinja_render *render, jinja_value self, const jinja_args *args,
                             bool last, jinja_value *out)
{
    jinja_value part = args->items[0], empty = spey_jinja_literal("");
    jinja_list *list;
    SPEY_TRY(need_text(part));
    if (part.len == 0) return SPEY_FAIL(SPEY_INVALID, "empty separator");
    SPEY_TRY(spey_jinja_list_new(render, 3, &list));
    const char *found;
    SPEY_TRY(find_part(render, self, part, last, &found));
    size_t before = found ? (size_t)(found - self.text) : last ? 0 : self.len;
    size_t after = found ? before + part.len : before;
    SPEY_TRY(spey_jinja_list_push(render, list, spey_jinja_text(self.text, before)));
    SPEY_TRY(spey_jinja_list_push(render, list, found ? part : empty));
    SPEY_TRY(
        spey_jinja_list_push(render, list, spey_jinja_text(self.text + after, self.len - after)));
    *out = spey_jinja_of_list(JINJA_TUPLE, list);
    return SPEY_OK;
}

METHOD(partition)
{
    return partition(render, self, args, false, out);
}

METHOD(rpartition)
{
    return partition(render, self, args, true, out);
}

METHOD(removeprefix)
{
    (void)render;
    jinja_value part = args->items[0];
    SPEY_TRY(need_text(part));
    size_t skip = ends_match(self, part, false) ? part.len : 0;
    *out = spey_jinja_text(self.text + skip, self.len - skip);
    return SPEY_OK;
}

METHOD(removesuffix)
{
    (void)render;
    jinja_value part = args->items[0];
    SPEY_TRY(need_text(part));
    *out = spey_jinja_text(self.text, self.len - (ends_match(self, part, true) ? part.len : 0));
    return SPEY_OK;
}

static spey_status pad(jinja_render *render, jinja_value self, const jinja_args *args, char side,
                       jinja_value *out)
{
    int64_t width;
    SPEY_TRY(spey_jinja_arg_int(NULL, args->items[0], 0, &width));
    return spey_jinja_str_pad(render, self, width, args->items[1], side, out);
}

METHOD(ljust)
{
    return pad(render, self, args, 'l', out);
}

METHOD(rjust)
{
    return pad(render, self, args, 'r', out);
}

METHOD(center)
{
    return pad(render, self, args, 'c', out);
}

METHOD(zfill)
{
    int64_t width;
    SPEY_TRY(spey_jinja_arg_int(NULL, args->items[0], 0, &width));
    bool sign = self.len && (self.text[0] == '-' || self.text[0] == '+');
    jinja_value digits = spey_jinja_text(self.text + sign, self.len - sign), padded;
    SPEY_TRY(
        spey_jinja_str_pad(render, digits, width - sign, spey_jinja_literal("0"), 'r', &padded));
    spey_strbuf buf = spey_jinja_buffer();
    spey_strbuf_append(&buf, self.text, sign);
    spey_strbuf_append(&buf, padded.text, padded.len);
    return spey_jinja_take_text(render, SPEY_OK, &buf, out);
}

METHOD(format)
{
    return spey_jinja_format(render, self, args, out);
}

/* ---- questions ---- */

static bool is_letter(uint32_t code)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

static bool is_decimal(uint32_t code)
{
    return utf8proc_category((utf8proc_int32_t)code) == UTF8PROC_CATEGORY_ND;
}

static bool is_letter_or_number(uint32_t code)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    return is_letter(code) || category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL;
}

static spey_status all_are(jinja_value self, bool (*holds)(uint32_t code), jinja_value *out)
{
    bool all = self.len > 0;
    for (size_t i = 0, size; i < self.len && all; i += size)
        all = holds(spey_jinja_utf8_decode(self.text + i, &size));
    *out = spey_jinja_bool(all);
    return SPEY_OK;
}

METHOD(isalpha)
{
    (void)render;
    (void)args;
    return all_are(self, is_letter, out);
}

METHOD(isdigit)
{
    (void)render;
    (void)args;
    return all_are(self, is_decimal, out);
}

METHOD(isalnum)
{
    (void)render;
    (void)args;
    return all_are(self, is_letter_or_number, out);
}

METHOD(isspace)
{
    (void)render;
    (void)args;
    return all_are(self, spey_jinja_is_space, out);
}

static spey_status ask_test(jinja_render *render, const char *test, jinja_value self,
                            jinja_value *out)
{
    const jinja_args none = { 0 };
    return spey_jinja_find_test(test, strlen(test))->call(render, self, &none, out);
}

METHOD(islower)
{
    (void)args;
    return ask_test(render, "lower", self, out);
}

METHOD(isupper)
{
    (void)args;
    return ask_test(render, "upper", self, out);
}

static const jinja_builtin methods[] = {
    { "strip", str_strip, "chars", 0 },
    { "lstrip", str_lstrip, "chars", 0 },
    { "rstrip", str_rstrip, "chars", 0 },
    { "split", str_split, "sep maxsplit", 0 },
    { "rsplit", str_rsplit, "sep maxsplit", 0 },
    { "splitlines", str_splitlines, "keepends", 0 },
    { "startswith", str_startswith, "prefix start end", 1 },
    { "endswith", str_endswith, "suffix start end", 1 },
    { "replace", str_replace, "old new count", 2 },
    { "upper", str_upper, "", 0 },
    { "lower", str_lower, "", 0 },
    { "casefold", str_lower, "", 0 },
    { "capitalize", str_capitalize, "", 0 },
    { "title", str_title, "", 0 },
    { "swapcase", str_swapcase, "", 0 },
    { "find", str_find, "sub start end", 1 },
    { "rfind", str_rfind, "sub start end", 1 },
    { "index", str_index, "sub start end", 1 },
    { "rindex", str_rindex, "sub start end", 1 },
    { "count", str_count, "sub start end", 1 },
    { "join", str_join, "iterable", 1 },
    { "partition", str_partition, "sep", 1 },
    { "rpartition", str_rpartition, "sep", 1 },
    { "removeprefix", str_removeprefix, "prefix", 1 },
    { "removesuffix", str_removesuffix, "suffix", 1 },
    { "ljust", str_ljust, "width fillchar", 1 },
    { "rjust", str_rjust, "width fillchar", 1 },
    { "center", str_center, "width fillchar", 1 },
    { "zfill", str_zfill, "width", 1 },
    { "format", str_format, NULL, 0 },
    { "isalpha", str_isalpha, "", 0 },
    { "isdigit", str_isdigit, "", 0 },
    { "isdecimal", str_isdigit, "", 0 },
    { "isnumeric", str_isdigit, "", 0 },
    { "isalnum", str_isalnum, "", 0 },
    { "isspace", str_isspace, "", 0 },
    { "islower", str_islower, "", 0 },
    { "isupper", str_isupper, "", 0 },
    { "encode", NULL, NULL, 0 },
    { "expandtabs", NULL, NULL, 0 },
    { "format_map", NULL, NULL, 0 },
    { "isascii", NULL, NULL, 0 },
    { "isidentifier", NULL, NULL, 0 },
    { "isprintable", NULL, NULL, 0 },
    { "istitle", NULL, NULL, 0 },
    { "maketrans", NULL, NULL, 0 },
    { "translate", NULL, NULL, 0 },
};

const jinja_builtin *spey_jinja_find_str_method(const char *name, size_t len)
{
    return spey_jinja_find_builtin(methods, sizeof methods / sizeof *methods, name, len);
}
