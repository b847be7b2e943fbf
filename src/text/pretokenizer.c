#include <string.h>

#include "text/tokenizer_run.h"
#include "text/utf8.h"

/* The text being split, and what a step produces. */
typedef struct split_run {
    spey_tok_scratch *scratch;
    const spey_tok_step *step;
    const char *text;
    spey_tok_spans *out;
} split_run;

/* A span of a word and whether the pattern matched it: Hugging Face's find_matches, one at a time. `behavior`
 * decides how neighbours join. */
typedef struct joiner {
    spey_tok_spans *out;
    spey_tok_behavior behavior;
    bool inverted;
    bool previous; /* the last span was a match */
    bool any;      /* a span was put out for this word, so that the last one may grow */
    bool pending;  /* MergedWithNext: a match waits for what follows */
    spey_tok_span held;
} joiner;

static spey_status put(joiner *j, uint32_t begin, uint32_t end)
{
    /* Empty spans still count for joining, and are dropped when the step is done. */
    j->any = true;
    return spey_tok_spans_push(j->out, begin, end);
}

static spey_status flush_held(joiner *j)
{
    if (!j->pending) return SPEY_OK;
    j->pending = false;
    return put(j, j->held.begin, j->held.end);
}

/* MergedWithNext runs from the back in the original: a match joins the span after it unless that is a match
 * too. So a match is held until the next span is known. */
static spey_status join_next(joiner *j, uint32_t begin, uint32_t end, bool match)
{
    if (match) {
        SPEY_TRY(flush_held(j));
        j->held = (spey_tok_span){ begin, end };
        j->pending = true;
        return SPEY_OK;
    }
    if (j->pending) begin = j->held.begin;
    j->pending = false;
    return put(j, begin, end);
}

static spey_status join(joiner *j, uint32_t begin, uint32_t end, bool match)
{
    if (j->inverted) match = !match;
    bool grow = false;
    switch (j->behavior) {
    case SPEY_TOK_REMOVED: return match ? SPEY_OK : put(j, begin, end);
    case SPEY_TOK_MERGED_WITH_NEXT: return join_next(j, begin, end, match);
    case SPEY_TOK_MERGED_WITH_PREVIOUS: grow = match && !j->previous; break;
    case SPEY_TOK_CONTIGUOUS: grow = match == j->previous; break;
    default: break;
    }
    j->previous = match;
    if (!grow || !j->any) return put(j, begin, end);
    j->out->data[j->out->len - 1].end = end;
    return SPEY_OK;
}

static joiner joiner_for(const split_run *run, uint32_t behavior, bool inverted)
{
    return (
        joiner){ .out = run->out, .behavior = (spey_tok_behavior)behavior, .inverted = inverted };
}

/* ---- matches by string, by regex and by class ---- */

static spey_status split_string(const split_run *run, spey_tok_span word)
{
    joiner j = joiner_for(run, run->step->op.x, run->step->op.y);
    uint32_t done = word.begin;
    uint32_t len = run->step->op.a_len;
    while (len) {
        const char *found = memmem(run->text + done, word.end - done, run->step->a, len);
        if (!found) break;
        uint32_t at = (uint32_t)(found - run->text);
        if (at > done) SPEY_TRY(join(&j, done, at, false));
        SPEY_TRY(join(&j, at, at + len, true));
        done = at + len;
    }
    if (done < word.end) SPEY_TRY(join(&j, done, word.end, false));
    return flush_held(&j);
}

static spey_status split_regex(const split_run *run, spey_tok_span word)
{
    joiner j = joiner_for(run, run->step->op.x, run->step->op.y);
    const char *text = run->text + word.begin;
    size_t n = word.end - word.begin, begin, end;
    spey_regex_cursor cursor = { 0 };
    uint32_t done = word.begin;
    for (bool found = true; found;) {
        SPEY_TRY(spey_regex_next(run->step->regex, run->scratch->regex, text, n, &cursor, &found,
                                 &begin, &end));
        if (!found) break;
        uint32_t at = word.begin + (uint32_t)begin;
        if (at > done) SPEY_TRY(join(&j, done, at, false));
        done = word.begin + (uint32_t)end;
        SPEY_TRY(join(&j, at, done, true));
    }
    if (done < word.end) SPEY_TRY(join(&j, done, word.end, false));
    return flush_held(&j);
}

/* Characters with one of `classes` (and, with `also`, that byte) are matches of one character each. */
static spey_status split_class(const split_run *run, spey_tok_span word, unsigned classes,
                               spey_tok_behavior behavior)
{
    joiner j = joiner_for(run, behavior, false);
    uint32_t done = word.begin;
    size_t len;
    for (uint32_t i = word.begin; i < word.end; i += (uint32_t)len) {
        if (!(spey_char_class(spey_utf8_get(run->text + i, &len)) & classes)) continue;
        if (i > done) SPEY_TRY(join(&j, done, i, false));
        done = i + (uint32_t)len;
        SPEY_TRY(join(&j, i, done, true));
    }
    if (done < word.end) SPEY_TRY(join(&j, done, word.end, false));
    return flush_held(&j);
}

/* \w+|[^\w\s]+, the rest removed. */
static spey_status split_whitespace(const split_run *run, spey_tok_span word)
{
    size_t len;
    for (uint32_t i = word.begin; i < word.end;) {
        unsigned bits = spey_char_class(spey_utf8_get(run->text + i, &len)) &
                        (SPEY_CHAR_WORD | SPEY_CHAR_SPACE);
        uint32_t begin = i;
        for (; i < word.end; i += (uint32_t)len)
            if ((spey_char_class(spey_utf8_get(run->text + i, &len)) &
                 (SPEY_CHAR_WORD | SPEY_CHAR_SPACE)) != bits)
                break;
        if (bits != SPEY_CHAR_SPACE) SPEY_TRY(spey_tok_spans_push(run->out, begin, i));
    }
    return SPEY_OK;
}

static spey_status split_fixed(const split_run *run, spey_tok_span word)
{
    for (uint32_t i = word.begin; i < word.end;) {
        uint32_t begin = i;
        for (uint32_t k = 0; k < run->step->op.x && i < word.end; k++)
            i += (uint32_t)spey_utf8_lead_length(run->text[i]);
        SPEY_TRY(spey_tok_spans_push(run->out, begin, i));
    }
    return SPEY_OK;
}

static spey_status split_pattern(const split_run *run, spey_tok_span word)
{
    if (run->step->scanner)
        return spey_tok_scan(run->step->scanner, run->text, word.begin, word.end, run->out);
    return split_regex(run, word);
}

static spey_status split_word(const split_run *run, spey_tok_span word)
{
    const spey_tok_op *op = &run->step->op;
    switch ((spey_tok_op_kind)op->kind) {
    case SPEY_TOK_PRE_SPLIT: return split_string(run, word);
    case SPEY_TOK_PRE_BYTE_LEVEL:
    case SPEY_TOK_PRE_SPLIT_REGEX: return split_pattern(run, word);
    case SPEY_TOK_PRE_PUNCTUATION:
        return split_class(run, word, SPEY_CHAR_PUNCTUATION, (spey_tok_behavior)op->x);
    case SPEY_TOK_PRE_DIGITS:
        return split_class(run, word, SPEY_CHAR_NUMBER,
                           op->x ? SPEY_TOK_ISOLATED : SPEY_TOK_CONTIGUOUS);
    case SPEY_TOK_PRE_WHITESPACE: return split_whitespace(run, word);
    case SPEY_TOK_PRE_WHITESPACE_SPLIT:
        return split_class(run, word, SPEY_CHAR_SPACE, SPEY_TOK_REMOVED);
    case SPEY_TOK_PRE_FIXED_LENGTH: return split_fixed(run, word);
    default: return SPEY_FAIL(SPEY_INTERNAL, "pre-tokenizer step %u", op->kind);
    }
}

/* ---- steps ---- */

static void swap_words(spey_tok_scratch *scratch)
{
    spey_tok_spans other = scratch->words[0];
    scratch->words[0] = scratch->words[1];
    scratch->words[1] = other;
    scratch->words[1].len = 0;
}

static void swap_text(spey_tok_scratch *scratch)
{
    spey_strbuf other = scratch->text[0];
    scratch->text[0] = scratch->text[1];
    scratch->text[1] = other;
}

/* Split every word by the step; empty words vanish. */
static spey_status split_all(spey_tok_scratch *scratch, const spey_tok_step *step)
{
    split_run run = { scratch, step, scratch->text[0].data, &scratch->words[1] };
    for (size_t i = 0; i < scratch->words[0].len; i++)
        SPEY_TRY(split_word(&run, scratch->words[0].data[i]));
    spey_tok_spans *out = run.out;
    size_t kept = 0;
    for (size_t i = 0; i < out->len; i++)
        if (out->data[i].end > out->data[i].begin) out->data[kept++] = out->data[i];
    out->len = kept;
    swap_words(scratch);
    return SPEY_OK;
}

/* Rewrite every word into scratch->text[1]: `rewrite` appends one. */
static spey_status rewrite_all(spey_tok_scratch *scratch, const spey_tok_step *step,
                               void (*rewrite)(const spey_tok_step *step, const char *word,
                                               size_t n, bool first, spey_strbuf *out))
{
    spey_strbuf *out = &scratch->text[1];
    spey_strbuf_reset(out);
    for (size_t i = 0; i < scratch->words[0].len; i++) {
        spey_tok_span *word = &scratch->words[0].data[i];
        size_t begin = out->len;
        bool first = scratch->from_start && word->begin == 0;
        rewrite(step, scratch->text[0].data + word->begin, word->end - word->begin, first, out);
        *word = (spey_tok_span){ (uint32_t)begin, (uint32_t)out->len };
    }
    SPEY_TRY(spey_strbuf_status(out));
    SPEY_TRY(spey_strbuf_reserve(out, 0));
    swap_text(scratch);
    return SPEY_OK;
}

static void prefix_space(const spey_tok_step *step, const char *word, size_t n, bool first,
                         spey_strbuf *out)
{
    (void)step, (void)first;
    if (word[0] != ' ') spey_strbuf_putc(out, ' ');
    spey_strbuf_append(out, word, n);
}

static void to_byte_level(const spey_tok_step *step, const char *word, size_t n, bool first,
                          spey_strbuf *out)
{
    (void)step, (void)first;
    spey_tok_put_byte_level(out, word, n);
}

static void to_metaspace(const spey_tok_step *step, const char *word, size_t n, bool first,
                         spey_strbuf *out)
{
    size_t len = step->op.a_len;
    bool wanted =
        step->op.x == SPEY_TOK_SCHEME_ALWAYS || (step->op.x == SPEY_TOK_SCHEME_FIRST && first);
    bool there = word[0] == ' ' || (n >= len && !memcmp(word, step->a, len));
    if (wanted && !there) spey_strbuf_append(out, step->a, len);
    size_t done = 0;
    for (size_t i = 0; i < n; i++) {
        if (word[i] != ' ') continue;
        spey_strbuf_append(out, word + done, i - done);
        spey_strbuf_append(out, step->a, len);
        done = i + 1;
    }
    spey_strbuf_append(out, word + done, n - done);
}

static spey_status byte_level(spey_tok_scratch *scratch, const spey_tok_step *step, bool last)
{
    if (step->op.x & 1) SPEY_TRY(rewrite_all(scratch, step, prefix_space));
    if (step->op.x & 2) SPEY_TRY(split_all(scratch, step));
    /* The model reads bytes by itself when nothing comes between. */
    if (last && (scratch->tokenizer->meta->flags & SPEY_TOK_RAW_BYTES)) return SPEY_OK;
    return rewrite_all(scratch, step, to_byte_level);
}

static spey_status run_step(spey_tok_scratch *scratch, const spey_tok_step *step, bool last)
{
    spey_tok_step part = *step;
    switch ((spey_tok_op_kind)step->op.kind) {
    case SPEY_TOK_PRE_BYTE_LEVEL: return byte_level(scratch, step, last);
    case SPEY_TOK_PRE_METASPACE:
        SPEY_TRY(rewrite_all(scratch, step, to_metaspace));
        if (!step->op.y) return SPEY_OK;
        part.op.kind = SPEY_TOK_PRE_SPLIT;
        part.op.x = SPEY_TOK_MERGED_WITH_NEXT;
        part.op.y = false;
        return split_all(scratch, &part);
    case SPEY_TOK_PRE_BERT:
        part.op.kind = SPEY_TOK_PRE_WHITESPACE_SPLIT;
        SPEY_TRY(split_all(scratch, &part));
        part.op.kind = SPEY_TOK_PRE_PUNCTUATION;
        part.op.x = SPEY_TOK_ISOLATED;
        return split_all(scratch, &part);
    default: return split_all(scratch, step);
    }
}

spey_status spey_tok_pretokenize(spey_tok_scratch *scratch)
{
    const spey_tokenizer *t = scratch->tokenizer;
    scratch->words[0].len = scratch->words[1].len = 0;
    SPEY_TRY(spey_tok_spans_push(&scratch->words[0], 0, (uint32_t)scratch->text[0].len));
    for (uint32_t i = 0; i < t->meta->n_pretokenizers; i++)
        SPEY_TRY(run_step(scratch, &t->pretokenizers[i], i + 1 == t->meta->n_pretokenizers));
    return SPEY_OK;
}
