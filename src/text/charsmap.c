/* SentencePiece's precompiled normalisation rules ("charsmap"): a Darts double array from character sequences
 * to offsets of replacement strings, and the strings, each ended by a 0 byte.
 *
 *     uint32 bytes of the array | units of 4 bytes | strings
 *
 * Every unit index and string offset is checked: a broken map gives no match, never a wild read. */
#include <string.h>
#include <utf8proc.h>

#include "text/tokenizer_run.h"
#include "text/utf8.h"

typedef struct charsmap {
    const char *units;
    uint32_t n_units;
    const char *strings;
    size_t n_strings;
} charsmap;

typedef struct replacement {
    const char *text;
    size_t len;
    size_t matched; /* bytes of the key; 0: no match */
} replacement;

static uint32_t load_u32(const char *p)
{
    uint32_t value;
    memcpy(&value, p, 4);
    return value;
}

static bool open_map(const char *map, size_t n, charsmap *out)
{
    *out = (charsmap){ 0 };
    if (n == 0) return true;
    if (n <= 4) return false;
    uint32_t bytes = load_u32(map);
    if (bytes > n - 4 || bytes % 4) return false;
    *out = (charsmap){ map + 4, bytes / 4, map + 4 + bytes, n - 4 - bytes };
    return true;
}

spey_status spey_tok_charsmap_check(const char *where, const char *map, size_t n)
{
    charsmap opened;
    if (!open_map(map, n, &opened))
        return SPEY_FAIL(SPEY_FORMAT, "%s: the precompiled charsmap of %zu bytes is broken", where,
                         n);
    return SPEY_OK;
}

/* Darts units: bit 31 marks a value; else bits 0-7 the label, bit 8 "has a leaf", bits 10-30 an offset that
 * bit 9 shifts by 8 more. */
static uint32_t unit_offset(uint32_t unit)
{
    return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

static bool unit_at(const charsmap *map, uint32_t index, uint32_t *unit)
{
    if (index >= map->n_units) return false;
    *unit = load_u32(map->units + (size_t)index * 4);
    return true;
}

static void take(const charsmap *map, uint32_t offset, size_t matched, replacement *out)
{
    if (offset >= map->n_strings) return;
    const char *text = map->strings + offset;
    const char *end = memchr(text, 0, map->n_strings - offset);
    size_t len = end ? (size_t)(end - text) : map->n_strings - offset;
    if (!spey_utf8_is_valid(text, len)) return;
    *out = (replacement){ text, len, matched };
}

/* The longest or the shortest rule that is a prefix of text. */
static replacement look_up(const charsmap *map, const char *text, size_t n, bool longest)
{
    replacement found = { 0 };
    uint32_t unit, node = 0;
    if (!unit_at(map, 0, &unit)) return found;
    node = unit_offset(unit);
    for (size_t i = 0; i < n && text[i]; i++) {
        unsigned char c = (unsigned char)text[i];
        node ^= c;
        if (!unit_at(map, node, &unit) || (unit & 0x800000ffu) != c) break;
        node ^= unit_offset(unit);
        uint32_t leaf;
        if ((unit >> 8 & 1) && unit_at(map, node, &leaf)) {
            take(map, leaf & 0x7fffffffu, i + 1, &found);
            if (!longest) break;
        }
    }
    return found;
}

/* Length of the grapheme cluster at text[0]. */
static size_t grapheme_length(const char *text, size_t n)
{
    size_t len, i;
    uint32_t c = spey_utf8_get(text, &len);
    utf8proc_int32_t state = 0;
    for (i = len; i < n; i += len) {
        uint32_t next = spey_utf8_get(text + i, &len);
        if (utf8proc_grapheme_break_stateful((int32_t)c, (int32_t)next, &state)) break;
        c = next;
    }
    return i;
}

/* Hugging Face's reading of the map: a grapheme cluster below 6 bytes is replaced as a whole when any rule is
 * a prefix of it (the shortest wins), else each of its characters is looked up alone. */
spey_status spey_tok_normalize_charsmap(const spey_tok_step *step, const char *text, size_t n,
                                        spey_strbuf *out)
{
    charsmap map;
    if (!open_map(step->a, step->op.a_len, &map)) map = (charsmap){ 0 };
    for (size_t i = 0; i < n;) {
        size_t cluster = grapheme_length(text + i, n - i);
        replacement whole = { 0 };
        if (cluster < 6) whole = look_up(&map, text + i, cluster, false);
        size_t end = i + cluster, len;
        if (whole.matched) spey_strbuf_append(out, whole.text, whole.len);
        for (; !whole.matched && i < end; i += len) {
            len = spey_utf8_lead_length(text[i]);
            replacement one = look_up(&map, text + i, len, false);
            if (one.matched)
                spey_strbuf_append(out, one.text, one.len);
            else
                spey_strbuf_append(out, text + i, len);
        }
        i = end;
    }
    return spey_strbuf_status(out);
}

/* ---- SentencePiece's own normalizer ---- */

#define SPACE_SYMBOL "\xe2\x96\x81"

/* What the next rule, user-defined symbol or character becomes. */
static replacement next_part(const spey_tokenizer *t, const charsmap *map, const char *text,
                             size_t n)
{
    int32_t id;
    size_t len = t->user.count ? spey_trie_longest(&t->user, text, n, &id) : 0;
    if (len == 0) {
        replacement rule = look_up(map, text, n, true);
        if (rule.matched) return rule;
        len = spey_utf8_lead_length(text[0]);
    }
    return (replacement){ text, len, len };
}

static void put_escaped(spey_strbuf *out, const char *text, size_t n, bool escape)
{
    size_t done = 0;
    for (size_t i = 0; escape && i < n; i++) {
        if (text[i] != ' ') continue;
        spey_strbuf_append(out, text + done, i - done);
        spey_strbuf_append(out, SPACE_SYMBOL, 3);
        done = i + 1;
    }
    spey_strbuf_append(out, text + done, n - done);
}

static void strip_trailing(spey_strbuf *out, const char *space)
{
    size_t len = strlen(space);
    while (out->len >= len && !memcmp(out->data + out->len - len, space, len))
        out->len -= len;
    if (out->data) out->data[out->len] = 0;
}

spey_status spey_tok_normalize_sentencepiece(const spey_tokenizer *t, const spey_tok_step *step,
                                             const char *text, size_t n, spey_strbuf *out)
{
    charsmap map;
    if (!open_map(step->a, step->op.a_len, &map)) map = (charsmap){ 0 };
    bool remove_extra = step->op.x & SPEY_TOK_SP_REMOVE_EXTRA;
    bool escape = step->op.x & SPEY_TOK_SP_ESCAPE;
    bool suffix = step->op.x & SPEY_TOK_SP_SUFFIX;
    bool dummy = step->op.x & SPEY_TOK_SP_DUMMY_PREFIX;
    const char *space = escape ? SPACE_SYMBOL : " ";
    size_t i = 0;
    while (remove_extra && i < n) {
        replacement part = next_part(t, &map, text + i, n - i);
        if (part.len != 1 || part.text[0] != ' ') break;
        i += part.matched;
    }
    if (i == n) return spey_strbuf_status(out);
    if (dummy && !suffix) spey_strbuf_puts(out, space);
    bool after_space = remove_extra;
    while (i < n) {
        replacement part = next_part(t, &map, text + i, n - i);
        i += part.matched;
        while (after_space && part.len && part.text[0] == ' ') {
            part.text++;
            part.len--;
        }
        if (part.len) {
            put_escaped(out, part.text, part.len, escape);
            after_space = remove_extra && part.text[part.len - 1] == ' ';
        }
    }
    if (remove_extra) strip_trailing(out, space);
    if (dummy && suffix) spey_strbuf_puts(out, space);
    return spey_strbuf_status(out);
}
