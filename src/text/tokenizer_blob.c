/* Reading a compiled tokenizer. Everything that encoding and decoding rely on is checked here, once and in linear
 * time, so that they need not. */
#include "text/tokenizer_blob.h"
#include "text/tokenizer_run.h"

#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"
#include "base/map.h"
#include "text/tokenizer_run.h"
#include "text/utf8.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "compiled tokenizers are little-endian");

typedef struct reader {
    const char *where;
    const uint8_t *blob;
    size_t n;
    const spey_tok_blob_header *header;
    spey_tokenizer *t;
} reader;

static spey_status bad(const reader *r, const char *what)
{
    return SPEY_FAIL(SPEY_FORMAT, "%s: compiled tokenizer: %s", r->where, what);
}

static size_t section_bytes(const reader *r, spey_tok_section section)
{
    return (size_t)r->header->sections[section].bytes;
}

static const void *section_data(const reader *r, spey_tok_section section)
{
    return r->blob + r->header->sections[section].offset;
}

static spey_status check_header(reader *r)
{
    if (r->n < sizeof *r->header) return bad(r, "too short");
    if ((uintptr_t)r->blob % 8) return bad(r, "not at a multiple of 8 bytes");
    r->header = (const spey_tok_blob_header *)(const void *)r->blob;
    if (memcmp(r->header->magic, SPEY_TOK_MAGIC, sizeof r->header->magic))
        return bad(r, "wrong magic");
    if (r->header->version != SPEY_TOK_VERSION || r->header->n_sections != SPEY_TOK_SEC_COUNT)
        return SPEY_FAIL(SPEY_UNSUPPORTED,
                         "%s: compiled tokenizer of version %u, this build reads version %d",
                         r->where, r->header->version, SPEY_TOK_VERSION);
    if (r->header->bytes != r->n) return bad(r, "wrong size");
    for (int i = 0; i < SPEY_TOK_SEC_COUNT; i++) {
        const spey_tok_blob_section *s = &r->header->sections[i];
        if (s->offset > r->n || s->bytes > r->n - s->offset || s->offset % 8)
            return bad(r, "a section lies outside");
    }
    return SPEY_OK;
}

static spey_status check_meta(reader *r)
{
    if (section_bytes(r, SPEY_TOK_SEC_META) != sizeof(spey_tok_meta)) return bad(r, "no header");
    const spey_tok_meta *m = section_data(r, SPEY_TOK_SEC_META);
    r->t->meta = m;
    if (m->model >= SPEY_TOK_MODEL_COUNT) return bad(r, "unknown model");
    if (m->n_ids > SPEY_VOCAB_MAX || m->n_symbols < m->n_ids || m->n_symbols > 2u * SPEY_VOCAB_MAX)
        return bad(r, "bad counts");
    if (m->unk_id < -1 || m->unk_id >= (int32_t)m->n_ids) return bad(r, "bad unknown token");
    for (int b = 0; b < 256; b++) {
        if (m->fallback_ids[b] < -1 || m->fallback_ids[b] >= (int32_t)m->n_ids ||
            m->byte_ids[b] < -1 || m->byte_ids[b] >= (int32_t)m->n_ids)
            return bad(r, "bad byte tokens");
        if ((m->flags & SPEY_TOK_RAW_BYTES) && m->byte_ids[b] < 0)
            return bad(r, "missing byte tokens");
    }
    if ((m->flags & SPEY_TOK_SENTENCEPIECE) && m->unk_id < 0) return bad(r, "no unknown token");
    return SPEY_OK;
}

static spey_status check_offsets(const reader *r, const uint32_t *offsets, size_t bytes, size_t n,
                                 size_t text_bytes)
{
    if (bytes != (n + 1) * sizeof *offsets || offsets[0] != 0 || offsets[n] != text_bytes)
        return bad(r, "bad piece offsets");
    uint32_t worst = 0;
    for (size_t i = 0; i < n; i++)
        worst |= (uint32_t)(offsets[i + 1] < offsets[i]);
    return worst ? bad(r, "bad piece offsets") : SPEY_OK;
}

static spey_status check_pieces(reader *r)
{
    spey_tokenizer *t = r->t;
    size_t n = t->meta->n_symbols, bytes = section_bytes(r, SPEY_TOK_SEC_PIECES);
    t->piece_offsets = section_data(r, SPEY_TOK_SEC_PIECE_OFFSETS);
    t->pieces = section_data(r, SPEY_TOK_SEC_PIECES);
    t->kinds = section_data(r, SPEY_TOK_SEC_KINDS);
    if (section_bytes(r, SPEY_TOK_SEC_KINDS) != n) return bad(r, "bad piece kinds");
    SPEY_TRY(
        check_offsets(r, t->piece_offsets, section_bytes(r, SPEY_TOK_SEC_PIECE_OFFSETS), n, bytes));
    if (!spey_utf8_is_valid(t->pieces, bytes)) return bad(r, "pieces are not UTF-8");
    for (size_t i = 0; i < n; i++)
        if (t->piece_offsets[i] < bytes &&
            ((unsigned char)t->pieces[t->piece_offsets[i]] & 0xc0) == 0x80)
            return bad(r, "a piece begins inside a character");
    if (section_bytes(r, SPEY_TOK_SEC_RAW_OFFSETS)) {
        t->raw_offsets = section_data(r, SPEY_TOK_SEC_RAW_OFFSETS);
        t->raw = section_data(r, SPEY_TOK_SEC_RAW);
        return check_offsets(r, t->raw_offsets, section_bytes(r, SPEY_TOK_SEC_RAW_OFFSETS),
                             t->meta->n_ids, section_bytes(r, SPEY_TOK_SEC_RAW));
    }
    return SPEY_OK;
}

/* A power of two of slots, each at most max, some free, no long run of used ones. */
static spey_status check_slots(const reader *r, spey_tok_section section, uint32_t max,
                               spey_tok_slots *out)
{
    size_t bytes = section_bytes(r, section), n = bytes / sizeof(uint32_t);
    if (bytes % sizeof(uint32_t) || n == 0 || (n & (n - 1)) || n > (1u << 30))
        return bad(r, "bad hash table");
    const uint32_t *slots = section_data(r, section);
    size_t run = 0, longest = 0;
    uint32_t highest = 0;
    for (size_t i = 0; i < n; i++) {
        run = slots[i] ? run + 1 : 0;
        if (run > longest) longest = run;
        if (slots[i] > highest) highest = slots[i];
    }
    if (highest > max || longest >= SPEY_TOK_PROBES_MAX || longest >= n)
        return bad(r, "bad hash table");
    *out = (spey_tok_slots){ slots, (uint32_t)n - 1 };
    return SPEY_OK;
}

static uint32_t piece_length(const spey_tokenizer *t, uint32_t id)
{
    return t->piece_offsets[id + 1] - t->piece_offsets[id];
}

static spey_status check_merges(reader *r)
{
    spey_tokenizer *t = r->t;
    size_t bytes = section_bytes(r, SPEY_TOK_SEC_MERGES), n = bytes / sizeof(spey_tok_merge);
    const spey_tok_merge *merges = section_data(r, SPEY_TOK_SEC_MERGES);
    if (bytes % sizeof(spey_tok_merge) || n == 0 || (n & (n - 1)) || n > (1u << 30))
        return bad(r, "bad merge table");
    uint32_t n_symbols = t->meta->n_symbols;
    size_t run = 0, longest = 0;
    for (size_t i = 0; i < n; i++) {
        const spey_tok_merge *m = &merges[i];
        run = m->left != SPEY_TOK_NO_SYMBOL ? run + 1 : 0;
        if (run > longest) longest = run;
        if (!run) continue;
        if (m->left >= n_symbols || m->right >= n_symbols || m->result >= n_symbols)
            return bad(r, "a merge names no token");
        /* Taking unused pieces apart ends because parts are shorter. */
        if ((t->meta->flags & SPEY_TOK_HAS_UNUSED) &&
            (!piece_length(t, m->left) || !piece_length(t, m->right) ||
             piece_length(t, m->result) != piece_length(t, m->left) + piece_length(t, m->right)))
            return bad(r, "a merge is not the sum of its parts");
    }
    if (longest >= SPEY_TOK_PROBES_MAX || longest >= n) return bad(r, "bad merge table");
    t->merges = merges;
    t->merge_mask = (uint32_t)n - 1;
    if (!(t->meta->flags & SPEY_TOK_USE_CUTS)) return SPEY_OK;
    size_t cuts = section_bytes(r, SPEY_TOK_SEC_CUTS);
    if (cuts == 0 || (cuts & (cuts - 1)) || cuts > (1u << 27)) return bad(r, "bad cuts");
    t->cuts = section_data(r, SPEY_TOK_SEC_CUTS);
    t->cut_mask = (uint32_t)(cuts * 8 - 1);
    return SPEY_OK;
}

static spey_status check_trie(const reader *r, spey_tok_section section, uint32_t n_values,
                              spey_trie *out)
{
    size_t bytes = section_bytes(r, section), n = bytes / sizeof(spey_trie_node);
    const spey_trie_node *nodes = section_data(r, section);
    if (bytes % sizeof *nodes || n == 0 || n > (1u << 30)) return bad(r, "bad trie");
    for (size_t i = 0; i < n; i++)
        if (nodes[i].value < SPEY_TRIE_NONE || nodes[i].value >= (int64_t)n_values)
            return bad(r, "bad trie value");
    *out = (spey_trie){ nodes, (uint32_t)n };
    return SPEY_OK;
}

static spey_status check_string(const reader *r, uint32_t offset, uint32_t len, bool text)
{
    size_t bytes = section_bytes(r, SPEY_TOK_SEC_STRINGS);
    if (offset > bytes || len > bytes - offset) return bad(r, "a string lies outside");
    if (text && !spey_utf8_is_valid(r->t->strings + offset, len))
        return bad(r, "a string is not UTF-8");
    return SPEY_OK;
}

static spey_status check_model(reader *r)
{
    spey_tokenizer *t = r->t;
    const spey_tok_meta *m = t->meta;
    t->strings = section_data(r, SPEY_TOK_SEC_STRINGS);
    SPEY_TRY(check_slots(r, SPEY_TOK_SEC_VOCAB_SLOTS, m->n_symbols, &t->vocab));
    if ((m->flags & SPEY_TOK_IGNORE_MERGES) && (m->flags & SPEY_TOK_RAW_BYTES)) {
        if (!t->raw_offsets) return bad(r, "no raw pieces");
        SPEY_TRY(check_slots(r, SPEY_TOK_SEC_RAW_SLOTS, m->n_ids, &t->raw_vocab));
    }
    SPEY_TRY(check_string(r, m->prefix, m->prefix_len, true));
    SPEY_TRY(check_string(r, m->suffix, m->suffix_len, true));
    if (m->prefix_len > SPEY_TOK_ADDED_BYTES_MAX || m->suffix_len > SPEY_TOK_ADDED_BYTES_MAX)
        return bad(r, "long prefix");
    if (m->model == SPEY_TOK_BPE) SPEY_TRY(check_merges(r));
    if (m->model == SPEY_TOK_UNIGRAM) {
        SPEY_TRY(check_trie(r, SPEY_TOK_SEC_TRIE, m->n_ids, &t->trie));
        if (section_bytes(r, SPEY_TOK_SEC_SCORES) != m->n_ids * sizeof(double))
            return bad(r, "bad scores");
        t->scores = section_data(r, SPEY_TOK_SEC_SCORES);
    }
    return check_trie(r, SPEY_TOK_SEC_USER, m->n_ids, &t->user);
}

static spey_status check_added(reader *r)
{
    spey_tokenizer *t = r->t;
    size_t bytes = section_bytes(r, SPEY_TOK_SEC_ADDED), n = bytes / sizeof(spey_tok_added);
    if (bytes % sizeof(spey_tok_added) || n > SPEY_VOCAB_MAX) return bad(r, "bad added tokens");
    t->added = section_data(r, SPEY_TOK_SEC_ADDED);
    t->n_added = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        const spey_tok_added *a = &t->added[i];
        if (a->id < 0 || (uint32_t)a->id >= t->meta->n_ids || (i && a[-1].id >= a->id) ||
            !a->content_len)
            return bad(r, "bad added token");
        SPEY_TRY(check_string(r, a->content, a->content_len, true));
        SPEY_TRY(check_string(r, a->pattern, a->pattern_len, true));
        if (!(t->kinds[a->id] & SPEY_TOK_ADDED)) return bad(r, "bad added token");
    }
    for (uint32_t i = 0, next = 0; i < t->meta->n_symbols; i++) {
        if (!(t->kinds[i] & SPEY_TOK_ADDED)) continue;
        if (next >= n || t->added[next++].id != (int32_t)i) return bad(r, "bad added token");
    }
    SPEY_TRY(check_slots(r, SPEY_TOK_SEC_ADDED_SLOTS, (uint32_t)n, &t->added_slots));
    SPEY_TRY(check_trie(r, SPEY_TOK_SEC_ADDED_RAW, (uint32_t)n, &t->added_raw));
    SPEY_TRY(check_trie(r, SPEY_TOK_SEC_ADDED_NORM, (uint32_t)n, &t->added_norm));
    for (uint32_t c = 0; c < 256; c++) {
        t->added_first[0][c] = spey_trie_step(&t->added_raw, 0, (unsigned char)c);
        t->added_first[1][c] = spey_trie_step(&t->added_norm, 0, (unsigned char)c);
    }
    return SPEY_OK;
}

/* ---- steps ---- */

static spey_status check_operands(const reader *r, const spey_tok_op *op)
{
    bool bytes = op->kind == SPEY_TOK_NORM_CHARSMAP || op->kind == SPEY_TOK_NORM_SENTENCEPIECE;
    SPEY_TRY(check_string(r, op->a, op->a_len, !bytes));
    SPEY_TRY(check_string(r, op->b, op->b_len, true));
    bool character = op->kind == SPEY_TOK_PRE_METASPACE || op->kind == SPEY_TOK_DEC_METASPACE ||
                     op->kind == SPEY_TOK_DEC_STRIP;
    const char *a = r->t->strings + op->a;
    if (character && (op->a_len == 0 || op->a_len != spey_utf8_lead_length(*a)))
        return bad(r, "an operand is not one character");
    if (bytes) SPEY_TRY(spey_tok_charsmap_check(r->where, a, op->a_len));
    if (op->kind == SPEY_TOK_PRE_FIXED_LENGTH && op->x == 0) return bad(r, "length 0");
    bool splits = op->kind == SPEY_TOK_PRE_SPLIT || op->kind == SPEY_TOK_PRE_SPLIT_REGEX ||
                  op->kind == SPEY_TOK_PRE_PUNCTUATION;
    if (splits && op->x >= SPEY_TOK_BEHAVIOR_COUNT) return bad(r, "bad behaviour");
    if (op->kind == SPEY_TOK_POST_TOKEN && op->x >= r->t->meta->n_ids)
        return bad(r, "the post-processor names no token");
    return SPEY_OK;
}

/* How a splitting step runs: by hand if its pattern is known, and each match is a word of its own. */
static spey_status prepare(const reader *r, spey_tok_step *step)
{
    const spey_tok_op *op = &step->op;
    switch ((spey_tok_op_kind)op->kind) {
    case SPEY_TOK_PRE_BYTE_LEVEL: step->scanner = SPEY_TOK_SCAN_GPT2; return SPEY_OK;
    case SPEY_TOK_PRE_SPLIT_REGEX:
        if ((op->x == SPEY_TOK_ISOLATED && !op->y) || (op->x == SPEY_TOK_REMOVED && op->y))
            step->scanner = spey_tok_scanner_of(step->a, op->a_len);
        if (step->scanner) return SPEY_OK;
        break;
    case SPEY_TOK_NORM_REPLACE_REGEX:
    case SPEY_TOK_DEC_REPLACE_REGEX: break;
    default: return SPEY_OK;
    }
    return spey_regex_new(r->where, step->a, op->a_len, &step->regex);
}

static spey_status load_steps(reader *r, uint32_t n, spey_tok_op_kind from, spey_tok_op_kind to,
                              size_t *at, const spey_tok_step **first)
{
    const spey_tok_op *ops = section_data(r, SPEY_TOK_SEC_OPS);
    *first = r->t->steps + *at;
    for (uint32_t i = 0; i < n; i++, (*at)++) {
        spey_tok_step *step = &r->t->steps[*at];
        step->op = ops[*at];
        if (step->op.kind < (uint32_t)from || step->op.kind > (uint32_t)to)
            return bad(r, "a step of the wrong kind");
        SPEY_TRY(check_operands(r, &step->op));
        step->a = r->t->strings + step->op.a;
        step->b = r->t->strings + step->op.b;
        SPEY_TRY(prepare(r, step));
    }
    return SPEY_OK;
}

static spey_status check_steps(reader *r)
{
    spey_tokenizer *t = r->t;
    const spey_tok_meta *m = t->meta;
    uint64_t n = (uint64_t)m->n_normalizers + m->n_pretokenizers + m->n_post + m->n_decoders;
    if (n > SPEY_TOK_OPS_MAX || section_bytes(r, SPEY_TOK_SEC_OPS) != n * sizeof(spey_tok_op))
        return bad(r, "bad steps");
    t->steps = spey_new_array(SPEY_PURPOSE_TEXT, spey_tok_step, n + 1);
    if (!t->steps) return SPEY_NOMEM;
    size_t at = 0;
    SPEY_TRY(load_steps(r, m->n_normalizers, SPEY_TOK_NORM_NFC, SPEY_TOK_NORM_SENTENCEPIECE, &at,
                        &t->normalizers));
    SPEY_TRY(load_steps(r, m->n_pretokenizers, SPEY_TOK_PRE_SPLIT, SPEY_TOK_PRE_FIXED_LENGTH, &at,
                        &t->pretokenizers));
    SPEY_TRY(load_steps(r, m->n_post, SPEY_TOK_POST_TOKEN, SPEY_TOK_POST_TEXT, &at, &t->post));
    SPEY_TRY(load_steps(r, m->n_decoders, SPEY_TOK_DEC_BYTE_LEVEL, SPEY_TOK_DEC_JOIN, &at,
                        &t->decoders));
    bool raw = m->flags & SPEY_TOK_RAW_BYTES;
    if (raw && (!m->n_pretokenizers ||
                t->pretokenizers[m->n_pretokenizers - 1].op.kind != SPEY_TOK_PRE_BYTE_LEVEL))
        return bad(r, "bytes without ByteLevel");
    if (m->n_decoders && t->decoders[0].op.kind == SPEY_TOK_DEC_BYTE_LEVEL && !t->raw_offsets)
        return bad(r, "no raw pieces");
    return SPEY_OK;
}

static spey_status read_all(reader *r)
{
    SPEY_TRY(check_header(r));
    r->t->blob = r->blob;
    r->t->blob_bytes = r->n;
    SPEY_TRY(check_meta(r));
    SPEY_TRY(check_pieces(r));
    SPEY_TRY(check_model(r));
    SPEY_TRY(check_added(r));
    SPEY_TRY(check_steps(r));
    for (uint32_t c = 0; c < 128; c++) {
        char text = (char)c;
        r->t->ascii_symbols[c] = spey_tok_find_piece(r->t, &text, 1);
    }
    return SPEY_OK;
}

spey_status spey_tokenizer_read(const char *where, const void *bytes, size_t n,
                                spey_tokenizer **out)
{
    *out = NULL;
    reader r = { .where = where, .blob = bytes, .n = n };
    r.t = spey_new(SPEY_PURPOSE_TEXT, spey_tokenizer);
    if (!r.t) return SPEY_NOMEM;
    spey_status status = read_all(&r);
    if (status)
        spey_tokenizer_free(r.t);
    else
        *out = r.t;
    return status;
}

spey_status spey_tokenizer_write(const spey_tokenizer *tokenizer, spey_strbuf *out)
{
    spey_strbuf_append(out, tokenizer->blob, tokenizer->blob_bytes);
    return spey_strbuf_status(out);
}

void spey_tokenizer_free(spey_tokenizer *t)
{
    if (!t) return;
    if (t->steps) {
        const spey_tok_meta *m = t->meta;
        size_t n = (size_t)m->n_normalizers + m->n_pretokenizers + m->n_post + m->n_decoders;
        for (size_t i = 0; i < n; i++)
            spey_regex_free(t->steps[i].regex);
    }
    spey_free(t->steps);
    spey_free(t->owned);
    spey_free(t);
}

/* ---- lookups ---- */

static uint32_t find_text(const spey_tok_slots *table, uint32_t seed, const uint32_t *offsets,
                          const char *texts, const char *text, size_t n)
{
    uint32_t i = (uint32_t)spey_hash_bytes(text, n, seed) & table->mask;
    for (; table->slots[i]; i = (i + 1) & table->mask) {
        uint32_t id = table->slots[i] - 1;
        size_t len = offsets[id + 1] - offsets[id];
        if (len == n && !memcmp(texts + offsets[id], text, n)) return id;
    }
    return SPEY_TOK_NO_SYMBOL;
}

uint32_t spey_tok_find_piece(const spey_tokenizer *t, const char *text, size_t n)
{
    return find_text(&t->vocab, t->meta->vocab_seed, t->piece_offsets, t->pieces, text, n);
}

uint32_t spey_tok_find_raw(const spey_tokenizer *t, const char *text, size_t n)
{
    return find_text(&t->raw_vocab, t->meta->raw_seed, t->raw_offsets, t->raw, text, n);
}

const spey_tok_added *spey_tok_find_added(const spey_tokenizer *t, int32_t id)
{
    uint32_t low = 0, high = t->n_added;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (t->added[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < t->n_added && t->added[low].id == id ? &t->added[low] : NULL;
}
