/* Decoder steps as a pipeline. Hugging Face's decoders map lists of tokens; each step here does the same as
 * tokens arrive one by one, and keeps what later tokens may still change. After ByteLevel or Fuse all text
 * is one token, which comes in parts: Strip can work on parts, other steps wait for the end. */
#include <string.h>

#include "base/alloc.h"
#include "text/tokenizer_run.h"
#include "text/utf8.h"

#define REPLACEMENT "\xef\xbf\xbd"
#define SPACE_SYMBOL "\xe2\x96\x81"

static void put_token(spey_tok_decoder *d, uint32_t stage, const char *text, size_t n);
static void put_part(spey_tok_decoder *d, uint32_t stage, const char *text, size_t n);

static const spey_tok_step *step_of(const spey_tok_decoder *d, uint32_t stage)
{
    return &d->tokenizer->decoders[stage];
}

static void fail(spey_tok_decoder *d, spey_status status)
{
    if (!d->status) d->status = status;
}

/* Append text with every `from` replaced by `to`. */
static void append_replaced(spey_strbuf *out, const char *text, size_t n, const char *from,
                            size_t from_len, const char *to, size_t to_len)
{
    size_t done = 0;
    while (from_len && n) {
        const char *found = memmem(text + done, n - done, from, from_len);
        if (!found) break;
        spey_strbuf_append(out, text + done, (size_t)(found - text) - done);
        spey_strbuf_append(out, to, to_len);
        done = (size_t)(found - text) + from_len;
    }
    if (n) spey_strbuf_append(out, text + done, n - done);
}

/* ---- ByteLevel ---- */

/* Bytes to text: whole characters go on, an incomplete one waits, what cannot become one is U+FFFD. */
static void put_bytes(spey_tok_decoder *d, uint32_t stage, const char *bytes, size_t n)
{
    spey_strbuf *pending = &d->states[stage].pending;
    if (pending->len == 0 && spey_utf8_is_valid(bytes, n)) {
        put_part(d, stage + 1, bytes, n);
        return;
    }
    spey_strbuf_append(pending, bytes, n);
    if (pending->status) return;
    spey_strbuf *work = &d->states[stage].work;
    spey_strbuf_reset(work);
    size_t at = 0, len;
    while (at < pending->len) {
        spey_utf8_kind kind = spey_utf8_classify(pending->data + at, pending->len - at, &len);
        if (kind == SPEY_UTF8_PARTIAL) break;
        if (kind == SPEY_UTF8_VALID)
            spey_strbuf_append(work, pending->data + at, len);
        else
            spey_strbuf_append(work, REPLACEMENT, 3);
        at += len;
    }
    memmove(pending->data, pending->data + at, pending->len - at);
    pending->len -= at;
    put_part(d, stage + 1, work->data, work->len);
}

static void byte_level(spey_tok_decoder *d, uint32_t stage, const char *text, size_t n)
{
    spey_strbuf bytes = d->states[stage].work;
    spey_strbuf_reset(&bytes);
    size_t len;
    bool mapped = true;
    for (size_t i = 0; i < n && mapped; i += len) {
        int byte = spey_tok_byte_of(spey_utf8_get(text + i, &len));
        mapped = byte >= 0;
        if (mapped) spey_strbuf_putc(&bytes, (char)byte);
    }
    /* put_bytes uses `work` too, so the bytes go by way of `pending`, which it reads. */
    d->states[stage].work = (spey_strbuf){ 0 };
    if (mapped)
        put_bytes(d, stage, bytes.data, bytes.len);
    else
        put_bytes(d, stage, text, n);
    fail(d, bytes.status);
    spey_strbuf_deinit(&d->states[stage].work);
    d->states[stage].work = bytes;
}

/* ---- ByteFallback ---- */

/* The byte of a token "<0xXX>", else -1. Rust's parser takes a plus sign for the first digit. */
static int fallback_byte(const char *text, size_t n)
{
    if (n != 6 || memcmp(text, "<0x", 3) || text[5] != '>') return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                    : c == '+' && i == 3   ? 0
                                           : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* A run of bytes is over: text if it is UTF-8 as a whole, else one U+FFFD per byte. */
static void end_bytes(spey_tok_decoder *d, uint32_t stage)
{
    spey_strbuf *pending = &d->states[stage].pending;
    if (pending->len == 0) return;
    if (spey_utf8_is_valid(pending->data, pending->len))
        put_token(d, stage + 1, pending->data, pending->len);
    else
        for (size_t i = 0; i < pending->len; i++)
            put_token(d, stage + 1, REPLACEMENT, 3);
    spey_strbuf_reset(pending);
}

static void byte_fallback(spey_tok_decoder *d, uint32_t stage, const char *text, size_t n)
{
    int byte = fallback_byte(text, n);
    if (byte >= 0) {
        spey_strbuf_putc(&d->states[stage].pending, (char)byte);
        return;
    }
    end_bytes(d, stage);
    put_token(d, stage + 1, text, n);
}

/* ---- Strip ---- */

static void strip(spey_tok_decoder *d, uint32_t stage, const char *text, size_t n)
{
    const spey_tok_op *op = &step_of(d, stage)->op;
    const char *c = step_of(d, stage)->a;
    size_t begin = 0, end = n;
    for (uint32_t i = 0; i < op->x && end - begin >= op->a_len; i++) {
        if (memcmp(text + begin, c, op->a_len)) break;
        begin += op->a_len;
    }
    for (uint32_t i = 0; i < op->y && end - begin >= op->a_len; i++) {
        if (memcmp(text + end - op->a_len, c, op->a_len)) break;
        end -= op->a_len;
    }
    put_token(d, stage + 1, text + begin, end - begin);
}

/* The same on parts: the last characters that Strip may yet take are kept back. */
static void strip_part(spey_tok_decoder *d, uint32_t stage, const char *text, size_t n)
{
    const spey_tok_op *op = &step_of(d, stage)->op;
    const char *c = step_of(d, stage)->a;
    spey_tok_decoder_state *state = &d->states[stage];
    while (n > 0 && !state->started) {
        state->started = state->cut == op->x || n < op->a_len || memcmp(text, c, op->a_len);
        if (state->started) break;
        text += op->a_len;
        n -= op->a_len;
        state->cut++;
    }
    if (n == 0) return;
    if (op->y == 0) {
        put_part(d, stage + 1, text, n);
        return;
    }
    spey_strbuf_append(&state->pending, text, n);
    if (state->pending.status) return;
    size_t end = state->pending.len;
    for (uint32_t i = 0; i < op->y && end >= op->a_len; i++) {
        if (memcmp(state->pending.data + end - op->a_len, c, op->a_len)) break;
        end -= op->a_len;
    }
    put_part(d, stage + 1, state->pending.data, end);
    memmove(state->pending.data, state->pending.data + end, state->pending.len - end);
    state->pending.len -= end;
}

/* ---- steps that map one token ---- */

static void replace_regex(spey_tok_decoder *d, uint32_t stage, const char *text, size_t n)
{
    const spey_tok_step *step = step_of(d, stage);
    spey_strbuf *work = &d->states[stage].work;
    spey_strbuf_reset(work);
    spey_regex_cursor cursor = { 0 };
    size_t done = 0, begin, end;
    for (bool found = n > 0; found;) {
        spey_status status =
            spey_regex_next(step->regex, d->regex, text, n, &cursor, &found, &begin, &end);
        if (status) {
            fail(d, status);
            return;
        }
        if (!found) break;
        spey_strbuf_append(work, text + done, begin - done);
        spey_strbuf_append(work, step->b, step->op.b_len);
        done = end;
    }
    if (n) spey_strbuf_append(work, text + done, n - done);
    put_token(d, stage + 1, work->data, work->len);
}

static void metaspace(spey_tok_decoder *d, uint32_t stage, const char *text, size_t n)
{
    const spey_tok_step *step = step_of(d, stage);
    bool drop = d->states[stage].count == 0 && step->op.x != SPEY_TOK_SCHEME_NEVER;
    spey_strbuf *work = &d->states[stage].work;
    spey_strbuf_reset(work);
    append_replaced(work, text, n, step->a, step->op.a_len, " ", drop ? 0 : 1);
    put_token(d, stage + 1, work->data, work->len);
}

/* "wordpiece::cleanup": these replacements one after the other. */
static void clean_up(spey_strbuf *text)
{
    static const char *const rules[][2] = {
        { " .", "." },   { " ?", "?" },     { " !", "!" },     { " ,", "," },
        { " ' ", "'" },  { " n't", "n't" }, { " 'm", "'m" },   { " do not", " don't" },
        { " 's", "'s" }, { " 've", "'ve" }, { " 're", "'re" },
    };
    spey_strbuf next = { 0 };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (!text->len || !memmem(text->data, text->len, rules[i][0], strlen(rules[i][0])))
            continue;
        spey_strbuf_reset(&next);
        append_replaced(&next, text->data, text->len, rules[i][0], strlen(rules[i][0]), rules[i][1],
                        strlen(rules[i][1]));
        spey_strbuf old = *text;
        *text = next;
        next = old;
        if (next.status && !text->status) text->status = next.status;
    }
    spey_strbuf_deinit(&next);
}

static void wordpiece(spey_tok_decoder *d, uint32_t stage, const char *text, size_t n)
{
    const spey_tok_step *step = step_of(d, stage);
    spey_strbuf *work = &d->states[stage].work;
    spey_strbuf_reset(work);
    if (d->states[stage].count > 0) {
        if (n >= step->op.a_len && !memcmp(text, step->a, step->op.a_len)) {
            text += step->op.a_len;
            n -= step->op.a_len;
        } else {
            spey_strbuf_putc(work, ' ');
        }
    }
    spey_strbuf_append(work, text, n);
    if (step->op.x) clean_up(work);
    put_token(d, stage + 1, work->data, work->len);
}

/* A token waits until it is known whether it is the last: only there the suffix is no space. */
static void end_held(spey_tok_decoder *d, uint32_t stage, bool last)
{
    const spey_tok_step *step = step_of(d, stage);
    spey_tok_decoder_state *state = &d->states[stage];
    if (!state->seen) return;
    spey_strbuf_reset(&state->work);
    append_replaced(&state->work, state->pending.data, state->pending.len, step->a, step->op.a_len,
                    " ", last ? 0 : 1);
    put_token(d, stage + 1, state->work.data, state->work.len);
    spey_strbuf_reset(&state->pending);
    state->seen = false;
}

static void bpe_suffix(spey_tok_decoder *d, uint32_t stage, const char *text, size_t n)
{
    end_held(d, stage, false);
    spey_strbuf_append(&d->states[stage].pending, text, n);
    d->states[stage].seen = true;
}

static void join(spey_tok_decoder *d, uint32_t stage, const char *text, size_t n)
{
    if (d->states[stage].count > 0) put_part(d, stage + 1, " ", 1);
    put_part(d, stage + 1, text, n);
}

/* ---- SentencePiece ---- */

static void sp_put(spey_tok_decoder *d, uint32_t stage, const char *text, size_t n)
{
    d->states[stage].any = d->states[stage].any || n > 0;
    put_part(d, stage + 1, text, n);
}

/* Characters among the bytes that arrived; each byte that cannot be part of one is U+FFFD. */
static void sp_bytes(spey_tok_decoder *d, uint32_t stage, bool end)
{
    spey_strbuf *pending = &d->states[stage].pending;
    size_t at = 0, len;
    while (at < pending->len) {
        spey_utf8_kind kind = spey_utf8_classify(pending->data + at, pending->len - at, &len);
        if (kind == SPEY_UTF8_PARTIAL && !end) break;
        if (kind == SPEY_UTF8_VALID) {
            sp_put(d, stage, pending->data + at, len);
            at += len;
        } else {
            sp_put(d, stage, REPLACEMENT, 3);
            at++;
        }
    }
    if (at) memmove(pending->data, pending->data + at, pending->len - at);
    pending->len -= at;
}

static void sentencepiece(spey_tok_decoder *d, uint32_t stage, int32_t id, const char *text,
                          size_t n)
{
    const spey_tok_step *step = step_of(d, stage);
    spey_tok_decoder_state *state = &d->states[stage];
    uint8_t kind = d->tokenizer->kinds[id];
    if (kind & SPEY_TOK_BYTE) {
        int byte = fallback_byte(text, n);
        spey_strbuf_putc(&state->pending, (char)(byte < 0 ? '?' : byte));
        sp_bytes(d, stage, false);
        return;
    }
    sp_bytes(d, stage, true);
    if (state->seen || state->any) state->started = true;
    state->seen = false;
    if (kind & SPEY_TOK_CONTROL) return;
    if (kind & SPEY_TOK_UNKNOWN) {
        sp_put(d, stage, step->a, step->op.a_len);
        return;
    }
    bool remove_extra = step->op.x & SPEY_TOK_SP_REMOVE_EXTRA;
    if (!state->started && (step->op.x & (SPEY_TOK_SP_DUMMY_PREFIX | SPEY_TOK_SP_REMOVE_EXTRA)) &&
        n >= 3 && !memcmp(text, SPACE_SYMBOL, 3)) {
        text += 3;
        n -= 3;
        state->seen = !remove_extra;
    }
    spey_strbuf_reset(&state->work);
    append_replaced(&state->work, text, n, SPACE_SYMBOL, 3, " ", 1);
    sp_put(d, stage, state->work.data, state->work.len);
}

/* ---- the pipeline ---- */

/* A part of the one long token reaches a step. */
static void put_part(spey_tok_decoder *d, uint32_t stage, const char *text, size_t n)
{
    if (n == 0) return;
    if (stage == d->tokenizer->meta->n_decoders) {
        spey_strbuf_append(d->out, text, n);
        fail(d, spey_strbuf_status(d->out));
        return;
    }
    switch ((spey_tok_op_kind)step_of(d, stage)->op.kind) {
    case SPEY_TOK_DEC_FUSE: put_part(d, stage + 1, text, n); break;
    case SPEY_TOK_DEC_STRIP: strip_part(d, stage, text, n); break;
    default: spey_strbuf_append(&d->states[stage].pending, text, n); break;
    }
}

static void put_token(spey_tok_decoder *d, uint32_t stage, const char *text, size_t n)
{
    if (stage == d->tokenizer->meta->n_decoders) {
        put_part(d, stage, text, n);
        return;
    }
    const spey_tok_step *step = step_of(d, stage);
    spey_strbuf *work = &d->states[stage].work;
    switch ((spey_tok_op_kind)step->op.kind) {
    case SPEY_TOK_DEC_BYTE_LEVEL: byte_level(d, stage, text, n); break;
    case SPEY_TOK_DEC_BYTE_FALLBACK: byte_fallback(d, stage, text, n); break;
    case SPEY_TOK_DEC_METASPACE: metaspace(d, stage, text, n); break;
    case SPEY_TOK_DEC_STRIP: strip(d, stage, text, n); break;
    case SPEY_TOK_DEC_REPLACE_REGEX: replace_regex(d, stage, text, n); break;
    case SPEY_TOK_DEC_WORDPIECE: wordpiece(d, stage, text, n); break;
    case SPEY_TOK_DEC_BPE: bpe_suffix(d, stage, text, n); break;
    case SPEY_TOK_DEC_JOIN: join(d, stage, text, n); break;
    case SPEY_TOK_DEC_REPLACE:
        spey_strbuf_reset(work);
        append_replaced(work, text, n, step->a, step->op.a_len, step->b, step->op.b_len);
        put_token(d, stage + 1, work->data, work->len);
        break;
    default: put_part(d, stage + 1, text, n); break; /* Fuse */
    }
    d->states[stage].count++;
}

/* The end reaches a step: what it keeps goes on. */
static void end_stage(spey_tok_decoder *d, uint32_t stage)
{
    spey_tok_decoder_state *state = &d->states[stage];
    uint32_t kind = step_of(d, stage)->op.kind;
    if (state->inside && kind != SPEY_TOK_DEC_FUSE && kind != SPEY_TOK_DEC_STRIP) {
        spey_strbuf whole = state->pending;
        state->pending = (spey_strbuf){ 0 };
        put_token(d, stage, whole.data ? whole.data : "", whole.len);
        fail(d, whole.status);
        spey_strbuf_deinit(&whole);
    }
    switch ((spey_tok_op_kind)kind) {
    case SPEY_TOK_DEC_BYTE_LEVEL:
        if (state->pending.len) put_part(d, stage + 1, REPLACEMENT, 3);
        break;
    case SPEY_TOK_DEC_BYTE_FALLBACK: end_bytes(d, stage); break;
    case SPEY_TOK_DEC_BPE: end_held(d, stage, true); break;
    case SPEY_TOK_DEC_SENTENCEPIECE: sp_bytes(d, stage, true); break;
    default: break;
    }
    spey_strbuf_reset(&state->pending);
}

/* Failures inside strbufs surface here. */
static spey_status status_of(spey_tok_decoder *d)
{
    for (uint32_t i = 0; i < d->tokenizer->meta->n_decoders; i++) {
        fail(d, d->states[i].pending.status);
        fail(d, d->states[i].work.status);
    }
    return d->status;
}

spey_status spey_tok_decoder_push(spey_tok_decoder *d, int32_t id, spey_strbuf *out)
{
    const spey_tokenizer *t = d->tokenizer;
    if (id < 0 || (uint32_t)id >= t->meta->n_ids)
        return SPEY_FAIL(SPEY_INVALID, "token id %d, the vocabulary has 0…%u", id,
                         t->meta->n_ids ? t->meta->n_ids - 1 : 0);
    uint8_t kind = t->kinds[id];
    if (d->skip_special && (kind & SPEY_TOK_SKIPPED)) return SPEY_OK;
    if (!(kind & (SPEY_TOK_PRESENT | SPEY_TOK_ADDED))) return SPEY_OK;
    d->out = out;
    const char *text = t->pieces + t->piece_offsets[id];
    size_t n = t->piece_offsets[id + 1] - t->piece_offsets[id];
    uint32_t first = t->meta->n_decoders ? t->decoders[0].op.kind : SPEY_TOK_OP_END;
    if (kind & SPEY_TOK_ADDED) {
        const spey_tok_added *added = spey_tok_find_added(t, id);
        text = t->strings + added->pattern;
        n = added->pattern_len;
    } else if (first == SPEY_TOK_DEC_BYTE_LEVEL) {
        put_bytes(d, 0, t->raw + t->raw_offsets[id], t->raw_offsets[id + 1] - t->raw_offsets[id]);
        return status_of(d);
    }
    if (first == SPEY_TOK_DEC_SENTENCEPIECE)
        sentencepiece(d, 0, id, text, n);
    else
        put_token(d, 0, text, n);
    return status_of(d);
}

spey_status spey_tok_decoder_flush(spey_tok_decoder *d, spey_strbuf *out)
{
    d->out = out;
    for (uint32_t i = 0; i < d->tokenizer->meta->n_decoders; i++)
        end_stage(d, i);
    spey_status status = status_of(d);
    spey_tok_decoder_reset(d);
    return status;
}

void spey_tok_decoder_reset(spey_tok_decoder *d)
{
    bool inside = false;
    for (uint32_t i = 0; i < d->tokenizer->meta->n_decoders; i++) {
        spey_tok_decoder_state *state = &d->states[i];
        spey_strbuf_reset(&state->pending);
        spey_strbuf_reset(&state->work);
        *state = (spey_tok_decoder_state){ .pending = state->pending,
                                           .work = state->work,
                                           .inside = inside };
        uint32_t kind = step_of(d, i)->op.kind;
        inside = inside || kind == SPEY_TOK_DEC_BYTE_LEVEL || kind == SPEY_TOK_DEC_FUSE;
    }
    d->status = SPEY_OK;
}

spey_status spey_tok_decoder_init(spey_tok_decoder *d, const spey_tokenizer *t, bool skip_special,
                                  size_t reserve)
{
    *d = (spey_tok_decoder){ .tokenizer = t, .skip_special = skip_special };
    uint32_t n = t->meta->n_decoders;
    d->states = spey_new_array(SPEY_PURPOSE_TEXT, spey_tok_decoder_state, n);
    if (!d->states) return SPEY_NOMEM;
    spey_status status = SPEY_OK;
    for (uint32_t i = 0; i < n && !status; i++) {
        status = spey_strbuf_reserve(&d->states[i].pending, reserve);
        if (!status) status = spey_strbuf_reserve(&d->states[i].work, reserve);
        if (!status && t->decoders[i].regex && !d->regex)
            status = spey_regex_scratch_new(&d->regex);
    }
    if (status)
        spey_tok_decoder_deinit(d);
    else
        spey_tok_decoder_reset(d);
    return status;
}

void spey_tok_decoder_deinit(spey_tok_decoder *d)
{
    for (uint32_t i = 0; d->states && i < d->tokenizer->meta->n_decoders; i++) {
        spey_strbuf_deinit(&d->states[i].pending);
        spey_strbuf_deinit(&d->states[i].work);
    }
    spey_free(d->states);
    spey_regex_scratch_free(d->regex);
    *d = (spey_tok_decoder){ .tokenizer = d->tokenizer };
}

spey_status spey_tokenizer_decode(const spey_tokenizer *tokenizer, const int32_t *ids, size_t n,
                                  bool skip_special, spey_strbuf *out)
{
    spey_tok_decoder decoder;
    size_t first = out->len;
    SPEY_TRY(spey_tok_decoder_init(&decoder, tokenizer, skip_special, 64));
    spey_status status = SPEY_OK;
    for (size_t i = 0; i < n && !status; i++)
        status = spey_tok_decoder_push(&decoder, ids[i], out);
    if (!status) status = spey_tok_decoder_flush(&decoder, out);
    spey_tok_decoder_deinit(&decoder);
    if (status && out->data) {
        out->len = first;
        out->data[first] = 0;
    }
    return status ? status : spey_strbuf_status(out);
}
