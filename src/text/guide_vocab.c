#include "text/guide_vocab.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "text/guide_fold.h"
#include "text/tokenizer_run.h"

/* ---- the trie ---- */

typedef struct entry {
    const char *bytes;
    uint32_t n;
    int32_t id;
} entry;

static int compare_entries(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    int order = memcmp(x->bytes, y->bytes, x->n < y->n ? x->n : y->n);
    if (order) return order;
    if (x->n != y->n) return x->n < y->n ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static uint32_t common(const entry *a, const entry *b)
{
    uint32_t n = 0;
    while (n < a->n && n < b->n && a->bytes[n] == b->bytes[n])
        n++;
    return n;
}

static int32_t count_nodes(const entry *entries, int32_t n)
{
    int64_t nodes = 1;
    for (int32_t i = 0; i < n; i++)
        nodes += entries[i].n - (i ? common(&entries[i - 1], &entries[i]) : 0);
    return nodes < INT32_MAX ? (int32_t)nodes : -1;
}

/* Entries are sorted: each adds the nodes that it does not share with the one before it. */
static void fill_nodes(spey_guide_vocab *v, const entry *entries, int32_t n, int32_t *path)
{
    uint32_t depth = 0; /* of the path: open nodes, whose end is not known */
    v->n_nodes = 1;
    path[0] = 0;
    for (int32_t i = 0; i < n; i++) {
        uint32_t shared = i ? common(&entries[i - 1], &entries[i]) : 0;
        for (; depth > shared; depth--)
            v->nodes[path[depth]].end = v->n_nodes;
        for (; depth < entries[i].n; depth++) {
            path[depth + 1] = v->n_nodes;
            v->nodes[v->n_nodes++] = (spey_guide_vocab_node){
                .first = i, .byte = (uint8_t)entries[i].bytes[depth], .depth = depth + 1
            };
        }
        v->nodes[path[depth]].n_own++;
        v->ids[i] = entries[i].id;
    }
    for (int64_t d = depth; d >= 0; d--)
        v->nodes[path[d]].end = v->n_nodes;
    v->nodes[v->n_nodes].first = n;
}

static spey_status build(spey_guide_vocab *v)
{
    entry *entries = spey_new_array(SPEY_PURPOSE_TEXT, entry, v->vocab_size);
    if (!entries) return SPEY_NOMEM;
    int32_t n = 0;
    for (int32_t id = 0; id < v->vocab_size; id++) {
        if (!v->bytes[id]) continue;
        entries[n++] = (entry){ v->bytes[id], v->lengths[id], id };
        if (v->lengths[id] > v->depth_max) v->depth_max = v->lengths[id];
    }
    if (n) qsort(entries, (size_t)n, sizeof *entries, compare_entries);
    int32_t n_nodes = count_nodes(entries, n);
    int32_t *path = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, (int64_t)v->depth_max + 1);
    v->n_ids = n;
    v->ids = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, n);
    if (n_nodes > 0)
        v->nodes = spey_new_array(SPEY_PURPOSE_TEXT, spey_guide_vocab_node, (int64_t)n_nodes + 1);
    spey_status status = path && v->ids && v->nodes ? SPEY_OK : SPEY_NOMEM;
    if (!status) fill_nodes(v, entries, n, path);
    if (!status) status = spey_guide_folds_new(&v->folds);
    spey_free(path);
    spey_free(entries);
    return status;
}

static spey_status new_vocab(int32_t vocab_size, spey_guide_vocab **out)
{
    spey_guide_vocab *v = spey_new(SPEY_PURPOSE_TEXT, spey_guide_vocab);
    *out = v;
    if (!v) return SPEY_NOMEM;
    v->vocab_size = vocab_size;
    v->bytes = spey_new_array(SPEY_PURPOSE_TEXT, const char *, vocab_size);
    v->lengths = spey_new_array(SPEY_PURPOSE_TEXT, uint32_t, vocab_size);
    return v->bytes && v->lengths ? SPEY_OK : SPEY_NOMEM;
}

/* Take the text over and point each id's bytes into it. */
static spey_status finish(spey_guide_vocab *v, spey_strbuf *text)
{
    size_t n, at = 0;
    SPEY_TRY(spey_strbuf_take(text, &v->text, &n));
    for (int32_t id = 0; id < v->vocab_size; id++) {
        if (v->lengths[id]) v->bytes[id] = v->text + at;
        at += v->lengths[id];
    }
    return build(v);
}

spey_status spey_guide_vocab_from_bytes(const char *const *bytes, const uint32_t *lengths,
                                        int32_t vocab_size, spey_guide_vocab **out)
{
    spey_guide_vocab *v;
    spey_strbuf text = { 0 };
    *out = NULL;
    spey_status status = new_vocab(vocab_size, &v);
    for (int32_t id = 0; !status && id < vocab_size; id++) {
        v->lengths[id] = bytes[id] ? lengths[id] : 0;
        spey_strbuf_append(&text, bytes[id] ? bytes[id] : "", v->lengths[id]);
    }
    if (!status) status = finish(v, &text);
    spey_strbuf_deinit(&text);
    if (status)
        spey_guide_vocab_free(v);
    else
        *out = v;
    return status;
}

void spey_guide_vocab_free(spey_guide_vocab *v)
{
    if (!v) return;
    spey_guide_folds_free(v->folds);
    spey_free(v->nodes);
    spey_free(v->ids);
    spey_free(v->bytes);
    spey_free(v->lengths);
    spey_free(v->text);
    spey_free(v);
}

/* ---- what a tokenizer's tokens are ---- */

static bool has_decoder(const spey_tokenizer *t, uint32_t kind)
{
    for (uint32_t i = 0; i < t->meta->n_decoders; i++)
        if (t->decoders[i].op.kind == kind) return true;
    return false;
}

/* A token that renders as one letter: text before the token that is asked for. -1: there is none. */
static int32_t find_context(const spey_tokenizer *t)
{
    for (int32_t id = 0; id < (int32_t)t->meta->n_ids; id++) {
        const char *piece = t->pieces + t->piece_offsets[id];
        bool plain = (t->kinds[id] & SPEY_TOK_PRESENT) && !(t->kinds[id] & SPEY_TOK_ADDED);
        if (plain && t->piece_offsets[id + 1] - t->piece_offsets[id] == 1 && piece[0] >= 'a' &&
            piece[0] <= 'z')
            return id;
    }
    return -1;
}

typedef struct reader {
    const spey_tokenizer *t;
    spey_detokenizer *detokenizer;
    int32_t context;
    bool byte_level;
    int16_t *fallback; /* [n_ids]: byte of a byte-fallback token, -1 none */
} reader;

/* Append the bytes of a token. */
static spey_status read_token(const reader *r, int32_t id, spey_strbuf *out)
{
    const spey_tokenizer *t = r->t;
    uint8_t kind = t->kinds[id];
    if (!(kind & (SPEY_TOK_PRESENT | SPEY_TOK_ADDED)) ||
        (kind & (SPEY_TOK_SKIPPED | SPEY_TOK_CONTROL | SPEY_TOK_UNKNOWN)) || id == t->meta->unk_id)
        return SPEY_OK;
    if (r->fallback[id] >= 0) {
        spey_strbuf_putc(out, (char)r->fallback[id]);
        return SPEY_OK;
    }
    if (r->byte_level && !(kind & SPEY_TOK_ADDED)) {
        spey_strbuf_append(out, t->raw + t->raw_offsets[id],
                           t->raw_offsets[id + 1] - t->raw_offsets[id]);
        return SPEY_OK;
    }
    spey_detokenizer_reset(r->detokenizer);
    if (r->context >= 0) SPEY_TRY(spey_detokenizer_prime(r->detokenizer, &r->context, 1));
    SPEY_TRY(spey_detokenizer_push(r->detokenizer, id, out));
    return spey_detokenizer_flush(r->detokenizer, out);
}

static spey_status open_reader(reader *r, const spey_tokenizer *t)
{
    *r = (reader){ .t = t, .context = find_context(t) };
    r->byte_level = t->meta->n_decoders && t->decoders[0].op.kind == SPEY_TOK_DEC_BYTE_LEVEL;
    r->fallback = spey_new_array(SPEY_PURPOSE_TEXT, int16_t, t->meta->n_ids);
    if (!r->fallback) return SPEY_NOMEM;
    memset(r->fallback, -1, t->meta->n_ids * sizeof *r->fallback);
    if (has_decoder(t, SPEY_TOK_DEC_BYTE_FALLBACK) || has_decoder(t, SPEY_TOK_DEC_SENTENCEPIECE))
        for (int16_t byte = 0; byte < 256; byte++) {
            char piece[8] = {
                '<', '0', 'x', "0123456789ABCDEF"[byte >> 4], "0123456789ABCDEF"[byte & 15], '>'
            };
            int32_t id = spey_tokenizer_find(t, piece, 6);
            if (id >= 0) r->fallback[id] = byte;
        }
    return spey_detokenizer_new(t, true, &r->detokenizer);
}

spey_status spey_guide_vocab_new(const spey_tokenizer *tokenizer, int32_t vocab_size,
                                 spey_guide_vocab **out)
{
    *out = NULL;
    spey_guide_vocab *v;
    spey_strbuf text = { 0 };
    reader r = { 0 };
    spey_status status = new_vocab(vocab_size, &v);
    if (!status) status = open_reader(&r, tokenizer);
    int32_t n = spey_tokenizer_vocab_size(tokenizer);
    for (int32_t id = 0; !status && id < n && id < vocab_size; id++) {
        size_t before = text.len;
        status = read_token(&r, id, &text);
        v->lengths[id] = (uint32_t)(text.len - before);
    }
    if (!status) status = finish(v, &text);
    spey_detokenizer_free(r.detokenizer);
    spey_free(r.fallback);
    spey_strbuf_deinit(&text);
    if (status)
        spey_guide_vocab_free(v);
    else
        *out = v;
    return status;
}
