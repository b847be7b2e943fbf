/* Byte pair encoding: merge the neighbours whose merge has the lowest rank, leftmost first, until none can.
 *
 * Words of up to SHORT_MAX symbols are merged by looking for the minimum each time: quadratic in a small number
 * and without memory. Longer ones use a priority queue, O(n log n). Before that, a word is cut wherever two
 * neighbouring symbols stand side by side in no merge at all (the `cuts` filter), for nothing ever merges
 * across; so a text without pre-tokenizer becomes many short words too. */
#include <string.h>

#include "base/alloc.h"
#include "text/tokenizer_run.h"
#include "text/utf8.h"

enum { SHORT_MAX = 48 };

/* ---- merging ---- */

static void look_up(spey_tok_scratch *scratch, uint32_t left, uint32_t right, uint32_t *rank,
                    uint32_t *result)
{
    const spey_tok_merge *merge = spey_tok_find_merge(scratch->tokenizer, left, right);
    *rank = SPEY_TOK_NO_SYMBOL;
    if (!merge) return;
    *rank = merge->rank;
    *result = merge->result;
    if (scratch->last_split && (scratch->tokenizer->kinds[*result] & SPEY_TOK_UNUSED)) {
        scratch->last_split[2 * (size_t)*result] = left;
        scratch->last_split[2 * (size_t)*result + 1] = right;
    }
}

/* Merge n <= SHORT_MAX symbols in place; returns how many are left. */
static size_t merge_short(spey_tok_scratch *scratch, uint32_t *ids, size_t n)
{
    uint32_t ranks[SHORT_MAX], results[SHORT_MAX];
    for (size_t i = 0; i + 1 < n; i++)
        look_up(scratch, ids[i], ids[i + 1], &ranks[i], &results[i]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (ranks[i] < ranks[best]) best = i;
        if (ranks[best] == SPEY_TOK_NO_SYMBOL) break;
        ids[best] = results[best];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            ids[i] = ids[i + 1];
            ranks[i - 1] = ranks[i];
            results[i - 1] = results[i];
        }
        if (best > 0)
            look_up(scratch, ids[best - 1], ids[best], &ranks[best - 1], &results[best - 1]);
        if (best + 1 < n) look_up(scratch, ids[best], ids[best + 1], &ranks[best], &results[best]);
    }
    return n;
}

static bool heap_before(spey_tok_heap_item a, spey_tok_heap_item b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.position < b.position;
}

static spey_status heap_push(spey_tok_scratch *scratch, size_t *len, spey_tok_heap_item item)
{
    if (*len == scratch->heap_cap) {
        void *data = scratch->heap;
        spey_status status = spey_tok_grow(&data, &scratch->heap_cap, *len, sizeof item);
        scratch->heap = data;
        if (status) return status;
    }
    size_t i = (*len)++;
    for (; i > 0 && heap_before(item, scratch->heap[(i - 1) / 2]); i = (i - 1) / 2)
        scratch->heap[i] = scratch->heap[(i - 1) / 2];
    scratch->heap[i] = item;
    return SPEY_OK;
}

static spey_tok_heap_item heap_pop(spey_tok_heap_item *heap, size_t *len)
{
    spey_tok_heap_item top = heap[0], item = heap[--*len];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < *len; i = child) {
        if (child + 1 < *len && heap_before(heap[child + 1], heap[child])) child++;
        if (!heap_before(heap[child], item)) break;
        heap[i] = heap[child];
    }
    heap[i] = item;
    return top;
}

/* Look up the merge of node i with its successor, and queue it. */
static spey_status queue_pair(spey_tok_scratch *scratch, int32_t i, size_t *len)
{
    spey_tok_node *node = &scratch->nodes[i];
    node->rank = SPEY_TOK_NO_SYMBOL;
    if (node->next < 0) return SPEY_OK;
    look_up(scratch, node->id, scratch->nodes[node->next].id, &node->rank, &node->result);
    if (node->rank == SPEY_TOK_NO_SYMBOL) return SPEY_OK;
    return heap_push(scratch, len, (spey_tok_heap_item){ node->rank, (uint32_t)i, node->result });
}

static spey_status load_nodes(spey_tok_scratch *scratch, const spey_tok_symbol *symbols, size_t n)
{
    if (n > scratch->nodes_cap) {
        spey_tok_node *grown =
            spey_realloc(SPEY_PURPOSE_TEXT, scratch->nodes, n * sizeof *scratch->nodes);
        if (!grown) return SPEY_NOMEM;
        scratch->nodes = grown;
        scratch->nodes_cap = n;
    }
    for (size_t i = 0; i < n; i++)
        scratch->nodes[i] =
            (spey_tok_node){ symbols[i].id, (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1, 0, 0 };
    return SPEY_OK;
}

/* The same as merge_short for any n; the result is the list from node 0. */
static spey_status merge_long(spey_tok_scratch *scratch, const spey_tok_symbol *symbols, size_t n)
{
    SPEY_TRY(load_nodes(scratch, symbols, n));
    size_t len = 0;
    for (size_t i = 0; i < n; i++)
        SPEY_TRY(queue_pair(scratch, (int32_t)i, &len));
    while (len > 0) {
        spey_tok_heap_item top = heap_pop(scratch->heap, &len);
        spey_tok_node *node = &scratch->nodes[top.position];
        if (node->rank != top.rank || node->result != top.result) continue; /* out of date */
        spey_tok_node *right = &scratch->nodes[node->next];
        node->id = top.result;
        node->next = right->next;
        right->rank = SPEY_TOK_NO_SYMBOL;
        if (node->next >= 0) scratch->nodes[node->next].previous = (int32_t)top.position;
        if (node->previous >= 0) SPEY_TRY(queue_pair(scratch, node->previous, &len));
        SPEY_TRY(queue_pair(scratch, (int32_t)top.position, &len));
    }
    return SPEY_OK;
}

/* ---- symbols ---- */

static spey_status push_symbol(spey_tok_scratch *scratch, size_t *n, uint32_t id, size_t begin,
                               size_t end)
{
    if (*n == scratch->symbols_cap) {
        void *data = scratch->symbols;
        spey_status status =
            spey_tok_grow(&data, &scratch->symbols_cap, *n, sizeof *scratch->symbols);
        scratch->symbols = data;
        if (status) return status;
    }
    scratch->symbols[(*n)++] = (spey_tok_symbol){ id, (uint32_t)begin, (uint32_t)end };
    return SPEY_OK;
}

/* Symbol of one character, with the prefix of all but the first and the suffix of the last. */
static uint32_t character_symbol(const spey_tokenizer *t, const char *text, size_t len, bool first,
                                 bool last)
{
    const spey_tok_meta *meta = t->meta;
    if (!meta->prefix_len && !meta->suffix_len) {
        if (len == 1) return t->ascii_symbols[(unsigned char)text[0]];
        return spey_tok_find_piece(t, text, len);
    }
    char piece[2 * SPEY_TOK_ADDED_BYTES_MAX + 4];
    size_t n = 0;
    if (!first) {
        memcpy(piece, t->strings + meta->prefix, meta->prefix_len);
        n = meta->prefix_len;
    }
    memcpy(piece + n, text, len);
    n += len;
    if (last) {
        memcpy(piece + n, t->strings + meta->suffix, meta->suffix_len);
        n += meta->suffix_len;
    }
    return spey_tok_find_piece(t, piece, n);
}

/* An unknown character: its bytes, or the unknown token (joined with the one before), or nothing. A suffix or
 * prefix would be spelled in bytes too; no published tokenizer has both. */
static spey_status push_unknown(spey_tok_scratch *scratch, const char *word, size_t begin,
                                size_t end, size_t *n, bool *after_unknown)
{
    const spey_tok_meta *meta = scratch->tokenizer->meta;
    bool whole = meta->flags & SPEY_TOK_BYTE_FALLBACK;
    for (size_t i = begin; i < end && whole; i++)
        whole = meta->fallback_ids[(unsigned char)word[i]] >= 0;
    if (whole) {
        for (size_t i = begin; i < end; i++)
            SPEY_TRY(push_symbol(scratch, n, (uint32_t)meta->fallback_ids[(unsigned char)word[i]],
                                 i, i + 1));
        return SPEY_OK;
    }
    if (meta->unk_id < 0) return SPEY_OK;
    if (*after_unknown && (meta->flags & SPEY_TOK_FUSE_UNK)) {
        scratch->symbols[*n - 1].end = (uint32_t)end;
        return SPEY_OK;
    }
    *after_unknown = true;
    return push_symbol(scratch, n, (uint32_t)meta->unk_id, begin, end);
}

/* Hugging Face keeps an unknown token back until a known one comes, so with byte fallback in between it
 * can move behind bytes; that happens only when some bytes have no <0xXX> piece, and is not imitated. */
static spey_status symbolize(spey_tok_scratch *scratch, const char *word, size_t n, size_t *count)
{
    const spey_tokenizer *t = scratch->tokenizer;
    bool raw = t->meta->flags & SPEY_TOK_RAW_BYTES;
    bool sentencepiece = t->meta->flags & SPEY_TOK_SENTENCEPIECE;
    bool after_unknown = false;
    *count = 0;
    for (size_t i = 0, len; i < n; i += len) {
        len = raw ? 1 : spey_utf8_lead_length(word[i]);
        int32_t user;
        size_t user_len =
            t->user.count > 1 ? spey_trie_longest(&t->user, word + i, n - i, &user) : 0;
        uint32_t id;
        if (user_len) {
            len = user_len;
            id = (uint32_t)user | SPEY_TOK_FROZEN;
        } else if (raw) {
            id = (uint32_t)t->meta->byte_ids[(unsigned char)word[i]];
        } else {
            id = character_symbol(t, word + i, len, i == 0, i + len == n);
        }
        if (id == SPEY_TOK_NO_SYMBOL && !sentencepiece) {
            SPEY_TRY(push_unknown(scratch, word, i, i + len, count, &after_unknown));
        } else {
            after_unknown = false;
            SPEY_TRY(push_symbol(scratch, count, id, i, i + len));
        }
    }
    return SPEY_OK;
}

/* ---- output ---- */

spey_status spey_tok_push_fallback(spey_tok_scratch *scratch, const char *text, size_t n,
                                   bool *whole)
{
    const spey_tok_meta *meta = scratch->tokenizer->meta;
    *whole = meta->flags & SPEY_TOK_BYTE_FALLBACK;
    for (size_t i = 0; i < n && *whole; i++)
        *whole = meta->fallback_ids[(unsigned char)text[i]] >= 0;
    for (size_t i = 0; i < n && *whole; i++)
        SPEY_TRY(spey_ids_push(scratch->out, meta->fallback_ids[(unsigned char)text[i]]));
    return SPEY_OK;
}

/* SentencePiece: a character without id is spelled in bytes; else a run of them is one unknown token. */
static spey_status put_unknown(spey_tok_scratch *scratch, const char *text, size_t n, size_t first)
{
    bool whole;
    SPEY_TRY(spey_tok_push_fallback(scratch, text, n, &whole));
    const spey_ids *out = scratch->out;
    int32_t unk = scratch->tokenizer->meta->unk_id;
    if (whole || (out->len > first && out->data[out->len - 1] == unk)) return SPEY_OK;
    return spey_ids_push(scratch->out, unk);
}

/* An UNUSED piece comes out as the parts it was merged from last. Parts are shorter than the whole. */
static spey_status put_id(spey_tok_scratch *scratch, uint32_t id)
{
    const uint32_t *split = scratch->last_split ? scratch->last_split + 2 * (size_t)id : NULL;
    if (!split || !(scratch->tokenizer->kinds[id] & SPEY_TOK_UNUSED) || !(split[0] | split[1]))
        return spey_ids_push(scratch->out, (int32_t)id);
    SPEY_TRY(put_id(scratch, split[0]));
    return put_id(scratch, split[1]);
}

/* Ids of symbols [begin, end), which nothing outside can merge with. `first`: length of the output when the
 * word began. */
static spey_status put_part(spey_tok_scratch *scratch, const char *word, size_t begin, size_t end,
                            size_t first)
{
    const spey_tok_symbol *symbols = scratch->symbols + begin;
    size_t n = end - begin;
    const char *text = word + symbols[0].begin;
    size_t bytes = symbols[n - 1].end - symbols[0].begin;
    uint32_t n_ids = scratch->tokenizer->meta->n_ids;
    uint32_t id = symbols[0].id;
    if (n == 1 && (id == SPEY_TOK_NO_SYMBOL || (!(id & SPEY_TOK_FROZEN) && id >= n_ids)))
        return put_unknown(scratch, text, bytes, first);
    if (n == 1) return put_id(scratch, id & ~SPEY_TOK_FROZEN);
    spey_status status = SPEY_OK;
    if (spey_tok_cache_get(scratch->cache, text, bytes, scratch->out, &status)) return status;
    size_t before = scratch->out->len;
    bool known = true;
    if (n <= SHORT_MAX) {
        uint32_t ids[SHORT_MAX];
        for (size_t i = 0; i < n; i++)
            ids[i] = symbols[i].id;
        size_t left = merge_short(scratch, ids, n);
        /* Where a symbol without id stays, its text is needed: rare enough to start again. */
        for (size_t i = 0; i < left; i++)
            known = known && ids[i] < n_ids;
        for (size_t i = 0; i < left && known; i++)
            SPEY_TRY(put_id(scratch, ids[i]));
    }
    if (n > SHORT_MAX || !known) {
        SPEY_TRY(merge_long(scratch, symbols, n));
        for (int32_t i = 0; i >= 0; i = scratch->nodes[i].next) {
            int32_t next = scratch->nodes[i].next;
            size_t stop = next < 0 ? symbols[n - 1].end : symbols[next].begin;
            if (scratch->nodes[i].id < n_ids)
                SPEY_TRY(put_id(scratch, scratch->nodes[i].id));
            else
                SPEY_TRY(
                    put_unknown(scratch, word + symbols[i].begin, stop - symbols[i].begin, first));
        }
    }
    if (known)
        spey_tok_cache_put(scratch->cache, text, bytes, scratch->out->data + before,
                           scratch->out->len - before);
    return SPEY_OK;
}

static bool is_cut(const spey_tokenizer *t, uint32_t left, uint32_t right)
{
    if ((left | right) & SPEY_TOK_FROZEN) return true; /* NO_SYMBOL too */
    if (!(t->meta->flags & SPEY_TOK_USE_CUTS)) return false;
    uint32_t bit = (uint32_t)spey_tok_pair_hash(left, right, 0) & t->cut_mask;
    return !(t->cuts[bit >> 3] >> (bit & 7) & 1);
}

static spey_status encode_parts(spey_tok_scratch *scratch, const char *word, size_t n)
{
    size_t count, first = scratch->out->len;
    SPEY_TRY(symbolize(scratch, word, n, &count));
    for (size_t i = 0; i < count;) {
        size_t end = i + 1;
        while (end < count &&
               !is_cut(scratch->tokenizer, scratch->symbols[end - 1].id, scratch->symbols[end].id))
            end++;
        SPEY_TRY(put_part(scratch, word, i, end, first));
        i = end;
    }
    return SPEY_OK;
}

/* The common case: a short word of bytes, each of which has a symbol. */
static spey_status encode_short_bytes(spey_tok_scratch *scratch, const char *word, size_t n)
{
    const spey_tok_meta *meta = scratch->tokenizer->meta;
    uint32_t ids[SHORT_MAX];
    for (size_t i = 0; i < n; i++)
        ids[i] = (uint32_t)meta->byte_ids[(unsigned char)word[i]];
    size_t left = merge_short(scratch, ids, n);
    for (size_t i = 0; i < left; i++)
        SPEY_TRY(spey_ids_push(scratch->out, (int32_t)ids[i]));
    return SPEY_OK;
}

spey_status spey_tok_encode_bpe(spey_tok_scratch *scratch, const char *word, size_t n)
{
    const spey_tokenizer *t = scratch->tokenizer;
    spey_status status = SPEY_OK;
    /* Words with a prefix or suffix are cached whole, their parts cannot be. */
    if (spey_tok_cache_get(scratch->cache, word, n, scratch->out, &status)) return status;
    bool raw = t->meta->flags & SPEY_TOK_RAW_BYTES;
    size_t before = scratch->out->len;
    uint32_t whole = SPEY_TOK_NO_SYMBOL;
    if (t->meta->flags & SPEY_TOK_IGNORE_MERGES)
        whole = raw ? spey_tok_find_raw(t, word, n) : spey_tok_find_piece(t, word, n);
    if (whole != SPEY_TOK_NO_SYMBOL) {
        SPEY_TRY(spey_ids_push(scratch->out, (int32_t)whole));
    } else if (raw && n <= SHORT_MAX) {
        SPEY_TRY(encode_short_bytes(scratch, word, n));
    } else {
        return encode_parts(scratch, word, n);
    }
    spey_tok_cache_put(scratch->cache, word, n, scratch->out->data + before,
                       scratch->out->len - before);
    return SPEY_OK;
}
