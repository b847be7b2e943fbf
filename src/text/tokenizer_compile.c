/* From a spey_tok_source to the blob that tokenizers run on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"
#include "base/map.h"
#include "text/tokenizer_blob.h"
#include "text/tokenizer_run.h"
#include "text/utf8.h"

typedef struct compiler {
    spey_tok_source *source;
    spey_strbuf *out;
    size_t base; /* where the blob begins in out */
    spey_tok_blob_header header;
    /* the vocabulary hash, needed while compiling too */
    uint32_t *slots;
    uint32_t mask;
} compiler;

static void begin_section(compiler *c, spey_tok_section section)
{
    while ((c->out->len - c->base) % 8 && !c->out->status)
        spey_strbuf_putc(c->out, 0);
    c->header.sections[section].offset = c->out->len - c->base;
}

static void end_section(compiler *c, spey_tok_section section)
{
    c->header.sections[section].bytes = c->out->len - c->base - c->header.sections[section].offset;
}

static void put_section(compiler *c, spey_tok_section section, const void *data, size_t bytes)
{
    begin_section(c, section);
    spey_strbuf_append(c->out, data, bytes);
    end_section(c, section);
}

/* ---- hash tables ---- */

static size_t table_size(size_t n)
{
    size_t size = 8;
    while (size < n + n / 2 + 1)
        size *= 2;
    return size;
}

/* One item of a table of texts. */
typedef struct table_item {
    const char *text;
    size_t len;
    uint32_t value;
} table_item;

/* Insert; an equal text takes the new value. Returns the probes that it took. */
static uint32_t insert(uint32_t *slots, uint32_t mask, uint32_t seed, const table_item *items,
                       size_t index)
{
    const table_item *item = &items[index];
    uint32_t i = (uint32_t)spey_hash_bytes(item->text, item->len, seed) & mask, probes = 0;
    for (; slots[i]; i = (i + 1) & mask, probes++) {
        const table_item *other = &items[slots[i] - 1];
        if (other->len == item->len && !memcmp(other->text, item->text, item->len)) break;
        if (probes == SPEY_TOK_PROBES_MAX) return probes;
    }
    slots[i] = (uint32_t)index + 1;
    return probes;
}

static bool has_long_run(const uint32_t *slots, size_t n)
{
    size_t run = 0, longest = 0;
    for (size_t i = 0; i < 2 * n; i++) {
        run = slots[i & (n - 1)] ? run + 1 : 0;
        if (run > longest) longest = run;
    }
    return longest >= SPEY_TOK_PROBES_MAX || longest >= n;
}

/* Build a table of items; the slots hold value + 1. Bad luck with a seed is mended by the next one. */
static spey_status build_table(const char *where, const table_item *items, size_t n,
                               uint32_t **slots, size_t *size, uint32_t *seed)
{
    *size = table_size(n);
    *slots = spey_new_array(SPEY_PURPOSE_TEXT, uint32_t, *size);
    if (!*slots) return SPEY_NOMEM;
    for (uint32_t attempt = 1; attempt <= 8; attempt++) {
        uint32_t worst = 0;
        for (size_t i = 0; i < n && worst < SPEY_TOK_PROBES_MAX; i++) {
            uint32_t probes = insert(*slots, (uint32_t)*size - 1, attempt, items, i);
            if (probes > worst) worst = probes;
        }
        if (worst < SPEY_TOK_PROBES_MAX && !has_long_run(*slots, *size)) {
            for (size_t i = 0; i < *size; i++)
                if ((*slots)[i]) (*slots)[i] = items[(*slots)[i] - 1].value + 1;
            *seed = attempt;
            return SPEY_OK;
        }
        memset(*slots, 0, *size * sizeof **slots);
    }
    spey_free(*slots);
    *slots = NULL;
    return SPEY_FAIL(SPEY_LIMIT, "%s: the vocabulary defeats hashing", where);
}

static spey_status put_vocab(compiler *c)
{
    spey_tok_source *source = c->source;
    table_item *items = spey_new_array(SPEY_PURPOSE_TEXT, table_item, source->n_pieces);
    if (!items) return SPEY_NOMEM;
    size_t n = 0, size = 0;
    for (size_t i = 0; i < source->n_pieces; i++) {
        const spey_tok_source_piece *piece = &source->pieces[i];
        if (piece->kind & SPEY_TOK_PRESENT)
            items[n++] = (table_item){ source->text.data + piece->text, piece->len, (uint32_t)i };
    }
    spey_status status =
        build_table(source->where, items, n, &c->slots, &size, &source->meta.vocab_seed);
    spey_free(items);
    if (status) return status;
    c->mask = (uint32_t)size - 1;
    put_section(c, SPEY_TOK_SEC_VOCAB_SLOTS, c->slots, size * sizeof *c->slots);
    return SPEY_OK;
}

static uint32_t find(const compiler *c, const char *text, size_t n)
{
    const spey_tok_source *source = c->source;
    uint32_t i = (uint32_t)spey_hash_bytes(text, n, source->meta.vocab_seed) & c->mask;
    for (; c->slots[i]; i = (i + 1) & c->mask) {
        const spey_tok_source_piece *piece = &source->pieces[c->slots[i] - 1];
        if (piece->len == n && !memcmp(source->text.data + piece->text, text, n))
            return c->slots[i] - 1;
    }
    return SPEY_TOK_NO_SYMBOL;
}

/* ---- pieces ---- */

static void put_pieces(compiler *c)
{
    const spey_tok_source *source = c->source;
    begin_section(c, SPEY_TOK_SEC_PIECE_OFFSETS);
    uint32_t offset = 0;
    for (size_t i = 0; i <= source->n_pieces; i++) {
        spey_strbuf_append(c->out, &offset, sizeof offset);
        if (i < source->n_pieces) offset += source->pieces[i].len;
    }
    end_section(c, SPEY_TOK_SEC_PIECE_OFFSETS);
    begin_section(c, SPEY_TOK_SEC_PIECES);
    for (size_t i = 0; i < source->n_pieces; i++)
        spey_strbuf_append(c->out, source->text.data + source->pieces[i].text,
                           source->pieces[i].len);
    end_section(c, SPEY_TOK_SEC_PIECES);
    begin_section(c, SPEY_TOK_SEC_KINDS);
    for (size_t i = 0; i < source->n_pieces; i++)
        spey_strbuf_putc(c->out, (char)source->pieces[i].kind);
    end_section(c, SPEY_TOK_SEC_KINDS);
}

/* The bytes that a ByteLevel piece stands for, into out; false (and nothing) when it has other characters. */
static bool put_raw(spey_strbuf *out, const char *text, size_t n)
{
    size_t before = out->len, len;
    for (size_t i = 0; i < n; i += len) {
        int byte = spey_tok_byte_of(spey_utf8_get(text + i, &len));
        if (byte < 0) {
            out->len = before;
            return false;
        }
        spey_strbuf_putc(out, (char)byte);
    }
    return true;
}

/* Raw spellings, and the table that finds them when merges may be ignored. */
static spey_status put_raw_pieces(compiler *c)
{
    spey_tok_source *source = c->source;
    size_t n_ids = source->meta.n_ids, n = 0, size = 0;
    spey_strbuf raw = { 0 };
    uint32_t *offsets = spey_new_array(SPEY_PURPOSE_TEXT, uint32_t, n_ids + 1);
    table_item *items = spey_new_array(SPEY_PURPOSE_TEXT, table_item, n_ids);
    spey_status status = offsets && items ? SPEY_OK : SPEY_NOMEM;
    for (size_t i = 0; i < n_ids && !status; i++) {
        const spey_tok_source_piece *piece = &source->pieces[i];
        const char *text = source->text.data + piece->text;
        offsets[i] = (uint32_t)raw.len;
        if (!(piece->kind & SPEY_TOK_PRESENT)) continue;
        if (put_raw(&raw, text, piece->len))
            items[n++] = (table_item){ NULL, raw.len - offsets[i], (uint32_t)i };
        else
            spey_strbuf_append(&raw, text, piece->len);
    }
    if (!status) status = spey_strbuf_status(&raw);
    if (!status) {
        offsets[n_ids] = (uint32_t)raw.len;
        for (size_t i = 0; i < n; i++)
            items[i].text = raw.data + offsets[items[i].value];
        put_section(c, SPEY_TOK_SEC_RAW_OFFSETS, offsets, (n_ids + 1) * sizeof *offsets);
        put_section(c, SPEY_TOK_SEC_RAW, raw.data, raw.len);
    }
    uint32_t *slots = NULL;
    if (!status && (source->meta.flags & SPEY_TOK_IGNORE_MERGES) &&
        (source->meta.flags & SPEY_TOK_RAW_BYTES)) {
        status = build_table(source->where, items, n, &slots, &size, &source->meta.raw_seed);
        if (!status) put_section(c, SPEY_TOK_SEC_RAW_SLOTS, slots, size * sizeof *slots);
    }
    spey_free(slots);
    spey_free(items);
    spey_free(offsets);
    spey_strbuf_deinit(&raw);
    return status;
}

/* ---- merges ---- */

static uint32_t fill_merges(const spey_tok_source *source, spey_tok_merge *slots, size_t size,
                            uint32_t seed)
{
    uint32_t mask = (uint32_t)size - 1, worst = 0;
    for (size_t i = 0; i < size; i++)
        slots[i] = (spey_tok_merge){ SPEY_TOK_NO_SYMBOL, SPEY_TOK_NO_SYMBOL, 0, 0 };
    for (size_t k = 0; k < source->n_merges && worst < SPEY_TOK_PROBES_MAX; k++) {
        const spey_tok_source_merge *m = &source->merges[k];
        uint32_t i = (uint32_t)spey_tok_pair_hash(m->left, m->right, seed) & mask, probes = 0;
        for (; slots[i].left != SPEY_TOK_NO_SYMBOL; i = (i + 1) & mask, probes++)
            if (slots[i].left == m->left && slots[i].right == m->right) break;
        if (probes > worst) worst = probes;
        /* A pair that is listed twice has its later rank, as in a map that is filled in order. */
        slots[i] = (spey_tok_merge){ m->left, m->right, m->rank, m->result };
    }
    return worst;
}

static bool merges_run_long(const spey_tok_merge *slots, size_t n)
{
    size_t run = 0, longest = 0;
    for (size_t i = 0; i < 2 * n; i++) {
        run = slots[i & (n - 1)].left != SPEY_TOK_NO_SYMBOL ? run + 1 : 0;
        if (run > longest) longest = run;
    }
    return longest >= SPEY_TOK_PROBES_MAX || longest >= n;
}

static spey_status put_merges(compiler *c)
{
    spey_tok_source *source = c->source;
    size_t size = table_size(source->n_merges);
    spey_tok_merge *slots = spey_new_array(SPEY_PURPOSE_TEXT, spey_tok_merge, size);
    if (!slots) return SPEY_NOMEM;
    spey_status status = SPEY_FAIL(SPEY_LIMIT, "%s: the merges defeat hashing", source->where);
    for (uint32_t seed = 1; seed <= 8 && status; seed++) {
        if (fill_merges(source, slots, size, seed) >= SPEY_TOK_PROBES_MAX) continue;
        if (merges_run_long(slots, size)) continue;
        source->meta.merge_seed = seed;
        put_section(c, SPEY_TOK_SEC_MERGES, slots, size * sizeof *slots);
        status = SPEY_OK;
    }
    spey_free(slots);
    return status;
}

/* Symbol of the first or last character of a piece. */
static uint32_t end_symbol(const compiler *c, uint32_t id, bool last)
{
    const spey_tok_source_piece *piece = &c->source->pieces[id];
    const char *text = c->source->text.data + piece->text;
    if (piece->len == 0) return SPEY_TOK_NO_SYMBOL;
    size_t at = last ? spey_utf8_before(text, piece->len) : 0;
    return find(c, text + at, spey_utf8_lead_length(text[at]));
}

/* One bit for every pair of characters that stand side by side in some merge. */
static spey_status put_cuts(compiler *c)
{
    spey_tok_source *source = c->source;
    for (size_t i = 0; i < source->n_merges && !source->no_cuts; i++) {
        /* These symbols do not come from the characters of their names. */
        for (int b = 0; b < 256 && (source->meta.flags & SPEY_TOK_BYTE_FALLBACK); b++) {
            uint32_t id = (uint32_t)source->meta.fallback_ids[b];
            if (source->merges[i].left == id || source->merges[i].right == id)
                source->no_cuts = true;
        }
        uint32_t unk = (uint32_t)source->meta.unk_id;
        if (source->merges[i].left == unk || source->merges[i].right == unk) source->no_cuts = true;
    }
    if (source->no_cuts) return SPEY_OK;
    size_t bits = 1024;
    while (bits < 8 * source->n_merges && bits < (1u << 24))
        bits *= 2;
    uint8_t *cuts = spey_alloc(SPEY_PURPOSE_TEXT, bits / 8);
    if (!cuts) return SPEY_NOMEM;
    for (size_t i = 0; i < source->n_merges; i++) {
        uint32_t left = end_symbol(c, source->merges[i].left, true);
        uint32_t right = end_symbol(c, source->merges[i].right, false);
        if (left == SPEY_TOK_NO_SYMBOL || right == SPEY_TOK_NO_SYMBOL) continue;
        uint32_t bit = (uint32_t)spey_tok_pair_hash(left, right, 0) & ((uint32_t)bits - 1);
        cuts[bit >> 3] = (uint8_t)(cuts[bit >> 3] | 1u << (bit & 7));
    }
    source->meta.flags |= SPEY_TOK_USE_CUTS;
    put_section(c, SPEY_TOK_SEC_CUTS, cuts, bits / 8);
    spey_free(cuts);
    return SPEY_OK;
}

/* ---- byte symbols ---- */

static void find_bytes(compiler *c)
{
    spey_tok_meta *meta = &c->source->meta;
    bool whole = true;
    spey_strbuf spelled = { 0 };
    for (int b = 0; b < 256; b++) {
        char name[8], byte = (char)b;
        int n = snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        uint32_t id = find(c, name, (size_t)n);
        meta->fallback_ids[b] = id < meta->n_ids ? (int32_t)id : -1;
        spey_strbuf_reset(&spelled);
        spey_tok_put_byte_level(&spelled, &byte, 1);
        id = spelled.status ? SPEY_TOK_NO_SYMBOL : find(c, spelled.data, spelled.len);
        meta->byte_ids[b] = id < meta->n_ids ? (int32_t)id : -1;
        whole = whole && id < meta->n_ids;
    }
    spey_strbuf_deinit(&spelled);
    const spey_tok_op *last = meta->n_pretokenizers
                                  ? &c->source->ops[meta->n_normalizers + meta->n_pretokenizers - 1]
                                  : NULL;
    if (whole && last && last->kind == SPEY_TOK_PRE_BYTE_LEVEL && meta->model == SPEY_TOK_BPE &&
        !meta->prefix_len && !meta->suffix_len)
        meta->flags |= SPEY_TOK_RAW_BYTES;
}

/* ---- tries and added tokens ---- */

static spey_status put_trie(compiler *c, spey_tok_section section, spey_trie_key *keys, size_t n)
{
    spey_trie_node *nodes;
    uint32_t count;
    SPEY_TRY(spey_trie_build(keys, n, &nodes, &count));
    put_section(c, section, nodes, count * sizeof *nodes);
    spey_free(nodes);
    return SPEY_OK;
}

static spey_status put_piece_trie(compiler *c, spey_tok_section section, bool user_only)
{
    const spey_tok_source *source = c->source;
    spey_trie_key *keys = spey_new_array(SPEY_PURPOSE_TEXT, spey_trie_key, source->n_pieces);
    if (!keys) return SPEY_NOMEM;
    size_t n = 0;
    uint8_t reserved = source->meta.flags & SPEY_TOK_SENTENCEPIECE
                           ? SPEY_TOK_CONTROL | SPEY_TOK_UNKNOWN | SPEY_TOK_BYTE
                           : 0;
    for (size_t i = 0; i < source->n_pieces; i++) {
        const spey_tok_source_piece *piece = &source->pieces[i];
        if (!(piece->kind & SPEY_TOK_PRESENT) || (piece->kind & reserved) || !piece->len) continue;
        if (user_only && !(piece->kind & SPEY_TOK_USER)) continue;
        keys[n++] = (spey_trie_key){ source->text.data + piece->text, piece->len, (int32_t)i };
    }
    spey_status status = put_trie(c, section, keys, n);
    spey_free(keys);
    return status;
}

static spey_status put_added_trie(compiler *c, bool normalized)
{
    const spey_tok_source *source = c->source;
    spey_trie_key *keys = spey_new_array(SPEY_PURPOSE_TEXT, spey_trie_key, source->n_added);
    if (!keys) return SPEY_NOMEM;
    size_t n = 0;
    for (size_t i = 0; i < source->n_added; i++) {
        const spey_tok_added *added = &source->added[i];
        if (!(added->flags & SPEY_TOK_ADDED_NORMALIZED) == normalized || !added->pattern_len)
            continue;
        keys[n++] = (spey_trie_key){ source->strings.data + added->pattern, added->pattern_len,
                                     (int32_t)i };
    }
    spey_status status =
        put_trie(c, normalized ? SPEY_TOK_SEC_ADDED_NORM : SPEY_TOK_SEC_ADDED_RAW, keys, n);
    spey_free(keys);
    return status;
}

static int compare_added(const void *a, const void *b)
{
    const spey_tok_added *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* What the normalizer makes of the content of a normalized added token: it is looked for in normalised text.
 * A tokenizer with the same steps and no vocabulary does it. */
static spey_status normalize_added(spey_tok_source *source, const spey_tokenizer *steps)
{
    spey_tok_scratch scratch = { .tokenizer = steps };
    spey_status status = spey_regex_scratch_new(&scratch.regex);
    for (size_t i = 0; i < source->n_added && !status; i++) {
        spey_tok_added *added = &source->added[i];
        if (!(added->flags & SPEY_TOK_ADDED_NORMALIZED)) continue;
        status =
            spey_tok_normalize(&scratch, source->strings.data + added->content, added->content_len);
        if (!status && scratch.text[0].len > 4 * SPEY_TOK_ADDED_BYTES_MAX)
            status = SPEY_FAIL(SPEY_LIMIT, "%s: an added token grows to %zu bytes when normalised",
                               source->where, scratch.text[0].len);
        if (!status)
            status = spey_tok_source_string(source, scratch.text[0].data, scratch.text[0].len,
                                            &added->pattern, &added->pattern_len);
    }
    spey_regex_scratch_free(scratch.regex);
    spey_strbuf_deinit(&scratch.text[0]);
    spey_strbuf_deinit(&scratch.text[1]);
    return status;
}

static spey_status fill_patterns(spey_tok_source *source)
{
    bool normalized = false;
    for (size_t i = 0; i < source->n_added; i++) {
        spey_tok_added *added = &source->added[i];
        added->pattern = added->content;
        added->pattern_len = added->content_len;
        normalized = normalized || (added->flags & SPEY_TOK_ADDED_NORMALIZED);
    }
    if (!normalized || !source->meta.n_normalizers) return SPEY_OK;
    spey_tok_source steps;
    spey_tok_source_init(&steps, source->where);
    spey_strbuf blob = { 0 };
    spey_tokenizer *t = NULL;
    steps.meta.n_normalizers = source->meta.n_normalizers;
    steps.meta.model = SPEY_TOK_WORDLEVEL;
    spey_strbuf_append(&steps.strings, source->strings.data, source->strings.len);
    spey_status status = spey_strbuf_status(&steps.strings);
    for (uint32_t i = 0; i < source->meta.n_normalizers && !status; i++)
        status = spey_tok_source_op_put(&steps, source->ops[i]);
    if (!status) status = spey_tok_compile(&steps, &blob);
    if (!status) status = spey_tokenizer_read(source->where, blob.data, blob.len, &t);
    if (!status) status = normalize_added(source, t);
    spey_tokenizer_free(t);
    spey_strbuf_deinit(&blob);
    spey_tok_source_deinit(&steps);
    return status;
}

static spey_status put_added(compiler *c)
{
    spey_tok_source *source = c->source;
    SPEY_TRY(put_added_trie(c, false));
    SPEY_TRY(put_added_trie(c, true));
    put_section(c, SPEY_TOK_SEC_ADDED, source->added, source->n_added * sizeof *source->added);
    table_item *items = spey_new_array(SPEY_PURPOSE_TEXT, table_item, source->n_added);
    if (!items) return SPEY_NOMEM;
    for (size_t i = 0; i < source->n_added; i++)
        items[i] = (table_item){ source->strings.data + source->added[i].content,
                                 source->added[i].content_len, (uint32_t)i };
    uint32_t *slots;
    size_t size;
    spey_status status =
        build_table(source->where, items, source->n_added, &slots, &size, &source->meta.added_seed);
    spey_free(items);
    if (status) return status;
    put_section(c, SPEY_TOK_SEC_ADDED_SLOTS, slots, size * sizeof *slots);
    spey_free(slots);
    return SPEY_OK;
}

/* ---- the whole ---- */

/* decode drops an id when the text it stands for is the content of some special token. */
static void mark_added(spey_tok_source *source)
{
    for (size_t i = 0; i < source->n_added; i++) {
        const spey_tok_added *added = &source->added[i];
        spey_tok_source_piece *piece = &source->pieces[added->id];
        piece->kind |= SPEY_TOK_ADDED;
        bool same = added->content_len == added->pattern_len &&
                    !memcmp(source->strings.data + added->content,
                            source->strings.data + added->pattern, added->content_len);
        if ((added->flags & SPEY_TOK_ADDED_SPECIAL) && same) piece->kind |= SPEY_TOK_SKIPPED;
    }
}

static spey_status check_counts(spey_tok_source *source)
{
    spey_tok_meta *meta = &source->meta;
    if (!meta->n_ids) meta->n_ids = (uint32_t)source->n_pieces;
    for (size_t i = 0; i < source->n_added; i++)
        if ((uint32_t)source->added[i].id >= meta->n_ids)
            meta->n_ids = (uint32_t)source->added[i].id + 1;
    if (meta->n_ids > SPEY_VOCAB_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%s: %u tokens, at most %d are allowed", source->where,
                         meta->n_ids, SPEY_VOCAB_MAX);
    while (source->n_pieces < meta->n_ids) {
        void *data = source->pieces;
        spey_status status =
            spey_tok_grow(&data, &source->pieces_cap, source->n_pieces, sizeof *source->pieces);
        source->pieces = data;
        if (status) return status;
        source->pieces[source->n_pieces++] = (spey_tok_source_piece){ 0 };
    }
    meta->n_symbols = (uint32_t)source->n_pieces;
    return SPEY_OK;
}

static spey_status put_model(compiler *c)
{
    spey_tok_source *source = c->source;
    const spey_tok_meta *meta = &source->meta;
    if (meta->model == SPEY_TOK_BPE) {
        SPEY_TRY(put_merges(c));
        SPEY_TRY(put_cuts(c));
    }
    if (meta->model == SPEY_TOK_UNIGRAM) {
        SPEY_TRY(put_piece_trie(c, SPEY_TOK_SEC_TRIE, false));
        begin_section(c, SPEY_TOK_SEC_SCORES);
        for (size_t i = 0; i < meta->n_ids; i++)
            spey_strbuf_append(c->out, &source->pieces[i].score, sizeof(double));
        end_section(c, SPEY_TOK_SEC_SCORES);
    }
    SPEY_TRY(put_piece_trie(c, SPEY_TOK_SEC_USER, true));
    const spey_tok_op *decoder =
        source->ops + meta->n_normalizers + meta->n_pretokenizers + meta->n_post;
    bool byte_decoder = meta->n_decoders && decoder->kind == SPEY_TOK_DEC_BYTE_LEVEL;
    return byte_decoder || (meta->flags & SPEY_TOK_RAW_BYTES) ? put_raw_pieces(c) : SPEY_OK;
}

static spey_status put_all(compiler *c)
{
    spey_tok_source *source = c->source;
    SPEY_TRY(check_counts(source));
    SPEY_TRY(spey_strbuf_reserve(&source->text, 0));
    SPEY_TRY(spey_strbuf_reserve(&source->strings, 0));
    SPEY_TRY(fill_patterns(source));
    if (source->n_added)
        qsort(source->added, source->n_added, sizeof *source->added, compare_added);
    mark_added(source);
    spey_strbuf_append(c->out, &c->header, sizeof c->header);
    SPEY_TRY(put_vocab(c));
    find_bytes(c);
    put_pieces(c);
    SPEY_TRY(put_model(c));
    SPEY_TRY(put_added(c));
    put_section(c, SPEY_TOK_SEC_STRINGS, source->strings.data, source->strings.len);
    put_section(c, SPEY_TOK_SEC_OPS, source->ops, source->n_ops * sizeof *source->ops);
    put_section(c, SPEY_TOK_SEC_META, &source->meta, sizeof source->meta);
    return spey_strbuf_status(c->out);
}

spey_status spey_tok_compile(spey_tok_source *source, spey_strbuf *out)
{
    compiler c = { .source = source, .out = out, .base = out->len };
    spey_status status = put_all(&c);
    spey_free(c.slots);
    if (status) {
        out->len = c.base;
        return status;
    }
    memcpy(c.header.magic, SPEY_TOK_MAGIC, sizeof c.header.magic);
    c.header.version = SPEY_TOK_VERSION;
    c.header.n_sections = SPEY_TOK_SEC_COUNT;
    c.header.bytes = out->len - c.base;
    memcpy(out->data + c.base, &c.header, sizeof c.header);
    return SPEY_OK;
}
