#include "text/tokenizer.h"

#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/map.h"
#include "text/tokenizer_run.h"
#include "text/utf8.h"

/* ---- ids ---- */

void spey_ids_deinit(spey_ids *ids)
{
    spey_free(ids->data);
    *ids = (spey_ids){ 0 };
}

spey_status spey_ids_push(spey_ids *ids, int32_t id)
{
    if (ids->len == ids->cap) {
        size_t cap = ids->cap ? ids->cap * 2 : 64, bytes;
        if (!spey_mul_size(cap, sizeof id, &bytes)) return SPEY_FAIL(SPEY_NOMEM, "out of memory");
        int32_t *grown = spey_realloc(SPEY_PURPOSE_TEXT, ids->data, bytes);
        if (!grown) return SPEY_NOMEM;
        ids->data = grown;
        ids->cap = cap;
    }
    ids->data[ids->len++] = id;
    return SPEY_OK;
}

/* ---- opening ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), len = strlen(end);
    return n >= len && !strcmp(text + n - len, end);
}

static spey_status find_file(const char *path, char *found)
{
    static const char *const names[] = { "tokenizer.json", "tokenizer.model", "spiece.model",
                                         "sentencepiece.bpe.model" };
    if (!spey_file_is_dir(path)) {
        if (strlen(path) >= SPEY_PATH_BYTES_MAX)
            return SPEY_FAIL(SPEY_LIMIT, "%.64s…: the path is too long", path);
        memcpy(found, path, strlen(path) + 1);
        return SPEY_OK;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        SPEY_TRY(spey_path_join(found, path, names[i]));
        if (spey_file_exists(found)) return SPEY_OK;
    }
    return SPEY_FAIL(SPEY_NOT_FOUND, "%s: has neither tokenizer.json nor tokenizer.model", path);
}

spey_status spey_tokenizer_open(const char *path, spey_tokenizer **out)
{
    *out = NULL;
    char file[SPEY_PATH_BYTES_MAX];
    SPEY_TRY(find_file(path, file));
    spey_strbuf bytes = { 0 };
    spey_status status = spey_file_read(file, SPEY_JSON_BYTES_MAX, &bytes);
    if (!status)
        status = ends_with(file, ".model")
                     ? spey_tokenizer_from_sentencepiece(file, bytes.data, bytes.len, out)
                     : spey_tokenizer_from_json(file, bytes.data, bytes.len, out);
    spey_strbuf_deinit(&bytes);
    return status;
}

spey_status spey_tok_open_source(spey_tok_source *source, spey_tokenizer **out)
{
    spey_strbuf blob = { 0 };
    spey_status status = spey_tok_compile(source, &blob);
    if (!status) status = spey_tokenizer_read(source->where, blob.data, blob.len, out);
    if (status)
        spey_strbuf_deinit(&blob);
    else
        (*out)->owned = blob.data;
    return status;
}

/* ---- encoding ---- */

spey_status spey_tok_encode_word(spey_tok_scratch *scratch, const char *word, size_t n)
{
    switch ((spey_tok_model)scratch->tokenizer->meta->model) {
    case SPEY_TOK_BPE: return spey_tok_encode_bpe(scratch, word, n);
    case SPEY_TOK_UNIGRAM: return spey_tok_encode_unigram(scratch, word, n);
    default: return spey_tok_encode_wordpiece(scratch, word, n);
    }
}

/* Normalised text without added tokens. */
static spey_status encode_plain(spey_tok_scratch *scratch, const char *text, size_t n)
{
    if (n == 0) return SPEY_OK;
    spey_strbuf_reset(&scratch->text[0]);
    spey_strbuf_append(&scratch->text[0], text, n);
    SPEY_TRY(spey_strbuf_status(&scratch->text[0]));
    SPEY_TRY(spey_tok_pretokenize(scratch));
    const char *words = scratch->text[0].data;
    for (size_t i = 0; i < scratch->words[0].len; i++) {
        spey_tok_span word = scratch->words[0].data[i];
        SPEY_TRY(spey_tok_encode_word(scratch, words + word.begin, word.end - word.begin));
    }
    return SPEY_OK;
}

/* Text between added tokens that are found as they are. */
static spey_status encode_segment(spey_tok_scratch *scratch, spey_strbuf *normalized,
                                  const char *text, size_t n)
{
    if (n == 0) return SPEY_OK;
    SPEY_TRY(spey_tok_normalize(scratch, text, n));
    spey_strbuf other = *normalized;
    *normalized = scratch->text[0];
    scratch->text[0] = other;
    bool from_start = scratch->from_start;
    spey_tok_match match;
    size_t from = 0, done = 0;
    while (spey_tok_next_added(scratch->tokenizer, true, normalized->data, normalized->len, &from,
                               done, &match)) {
        scratch->from_start = from_start && done == 0;
        SPEY_TRY(encode_plain(scratch, normalized->data + done, match.begin - done));
        SPEY_TRY(spey_ids_push(scratch->out, match.token->id));
        done = match.end;
    }
    scratch->from_start = from_start && done == 0;
    return encode_plain(scratch, normalized->data + done, normalized->len - done);
}

static spey_status encode_text(spey_tok_scratch *scratch, spey_strbuf *normalized, const char *text,
                               size_t n)
{
    spey_tok_match match;
    size_t from = 0, done = 0;
    while (spey_tok_next_added(scratch->tokenizer, false, text, n, &from, done, &match)) {
        scratch->from_start = done == 0;
        SPEY_TRY(encode_segment(scratch, normalized, text + done, match.begin - done));
        SPEY_TRY(spey_ids_push(scratch->out, match.token->id));
        done = match.end;
    }
    scratch->from_start = done == 0;
    return encode_segment(scratch, normalized, text + done, n - done);
}

static spey_status scratch_init(spey_tok_scratch *scratch, const spey_tokenizer *t, size_t n,
                                spey_ids *out)
{
    *scratch = (spey_tok_scratch){ .tokenizer = t, .out = out };
    scratch->text[0].max = scratch->text[1].max = SPEY_TOK_TEXT_MAX;
    bool unused = t->meta->flags & SPEY_TOK_HAS_UNUSED;
    if (!unused && (t->meta->model == SPEY_TOK_BPE || t->meta->model == SPEY_TOK_UNIGRAM))
        scratch->cache = spey_tok_cache_new(n);
    if (unused) {
        scratch->last_split =
            spey_new_array(SPEY_PURPOSE_TEXT, uint32_t, 2 * (size_t)t->meta->n_symbols);
        if (!scratch->last_split) return SPEY_NOMEM;
    }
    uint32_t n_steps = t->meta->n_normalizers + t->meta->n_pretokenizers;
    for (uint32_t i = 0; i < n_steps; i++)
        if (t->steps[i].regex) return spey_regex_scratch_new(&scratch->regex);
    return SPEY_OK;
}

static void scratch_deinit(spey_tok_scratch *scratch)
{
    spey_strbuf_deinit(&scratch->text[0]);
    spey_strbuf_deinit(&scratch->text[1]);
    spey_free(scratch->words[0].data);
    spey_free(scratch->words[1].data);
    spey_free(scratch->symbols);
    spey_free(scratch->heap);
    spey_free(scratch->nodes);
    spey_free(scratch->best);
    spey_free(scratch->last_split);
    spey_free(scratch->cache);
    spey_regex_scratch_free(scratch->regex);
}

static spey_status encode_all(const spey_tokenizer *t, const char *text, size_t n, spey_ids *out)
{
    spey_tok_scratch scratch;
    spey_strbuf normalized = { .max = SPEY_TOK_TEXT_MAX }, clean = { 0 };
    spey_status status = scratch_init(&scratch, t, n, out);
    if (!status && !spey_utf8_is_valid(text, n)) {
        spey_utf8_append_lossy(&clean, text, n);
        status = spey_strbuf_status(&clean);
        text = clean.data;
        n = clean.len;
    }
    if (!status) status = encode_text(&scratch, &normalized, text, n);
    scratch_deinit(&scratch);
    spey_strbuf_deinit(&normalized);
    spey_strbuf_deinit(&clean);
    return status;
}

/* Put the post-processor's tokens around the ids of the text, out[first..]. */
static spey_status post_process(const spey_tokenizer *t, bool add_special, spey_ids *out,
                                size_t first)
{
    if (!t->meta->n_post) return SPEY_OK;
    spey_ids text = { 0 };
    spey_status status = SPEY_OK;
    for (size_t i = first; i < out->len && !status; i++)
        status = spey_ids_push(&text, out->data[i]);
    out->len = first;
    for (uint32_t i = 0; i < t->meta->n_post && !status; i++) {
        const spey_tok_op *op = &t->post[i].op;
        if (op->kind == SPEY_TOK_POST_TOKEN && add_special)
            status = spey_ids_push(out, (int32_t)op->x);
        for (size_t k = 0; op->kind == SPEY_TOK_POST_TEXT && k < text.len && !status; k++)
            status = spey_ids_push(out, text.data[k]);
    }
    spey_ids_deinit(&text);
    return status;
}

spey_status spey_tokenizer_encode(const spey_tokenizer *tokenizer, const char *text, size_t n,
                                  bool add_special, spey_ids *out)
{
    if (n > SPEY_TOK_TEXT_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "a text of %zu bytes, at most %d can be encoded", n,
                         SPEY_TOK_TEXT_MAX);
    size_t first = out->len;
    spey_status status = encode_all(tokenizer, n ? text : "", n, out);
    if (!status) status = post_process(tokenizer, add_special, out, first);
    if (status) out->len = first;
    return status;
}

/* ---- the vocabulary ---- */

int32_t spey_tokenizer_vocab_size(const spey_tokenizer *tokenizer)
{
    return (int32_t)tokenizer->meta->n_ids;
}

const char *spey_tokenizer_piece(const spey_tokenizer *t, int32_t id, size_t *n)
{
    *n = 0;
    if (id < 0 || (uint32_t)id >= t->meta->n_ids) return NULL;
    if (t->kinds[id] & SPEY_TOK_ADDED) {
        const spey_tok_added *added = spey_tok_find_added(t, id);
        *n = added->content_len;
        return t->strings + added->content;
    }
    if (!(t->kinds[id] & SPEY_TOK_PRESENT)) return NULL;
    *n = t->piece_offsets[id + 1] - t->piece_offsets[id];
    return t->pieces + t->piece_offsets[id];
}

int32_t spey_tokenizer_find(const spey_tokenizer *t, const char *piece, size_t n)
{
    uint32_t i = (uint32_t)spey_hash_bytes(piece, n, t->meta->added_seed) & t->added_slots.mask;
    for (; t->added_slots.slots[i]; i = (i + 1) & t->added_slots.mask) {
        const spey_tok_added *added = &t->added[t->added_slots.slots[i] - 1];
        if (added->content_len == n && !memcmp(t->strings + added->content, piece, n))
            return added->id;
    }
    uint32_t id = spey_tok_find_piece(t, piece, n);
    return id < t->meta->n_ids ? (int32_t)id : -1;
}

bool spey_tokenizer_is_special(const spey_tokenizer *t, int32_t id)
{
    if (id < 0 || (uint32_t)id >= t->meta->n_ids) return false;
    if (t->kinds[id] & SPEY_TOK_CONTROL) return true;
    const spey_tok_added *added = t->kinds[id] & SPEY_TOK_ADDED ? spey_tok_find_added(t, id) : NULL;
    return added && (added->flags & SPEY_TOK_ADDED_SPECIAL);
}
