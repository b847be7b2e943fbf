/* Unigram: the segmentation with the highest sum of scores (Viterbi), one pass over the bytes. Hugging Face adds
 * doubles, SentencePiece floats (as release 0.2.3 does; it decides ties). Ties go to the earlier find. */
#include "base/alloc.h"
#include "text/tokenizer_run.h"
#include "text/utf8.h"

static spey_status reserve_best(spey_tok_scratch *scratch, size_t n)
{
    if (n + 1 > scratch->best_cap) {
        size_t cap = n + 1 < 256 ? 256 : n + 1;
        spey_tok_best *grown =
            spey_realloc(SPEY_PURPOSE_TEXT, scratch->best, cap * sizeof *scratch->best);
        if (!grown) return SPEY_NOMEM;
        scratch->best = grown;
        scratch->best_cap = cap;
    }
    for (size_t i = 0; i <= n; i++)
        scratch->best[i] = (spey_tok_best){ 0, 0, -1 };
    return SPEY_OK;
}

static void offer(spey_tok_best *best, double score, int32_t id, size_t begin, bool as_float)
{
    if (as_float) score = (double)(float)score;
    if (best->begin >= 0 && !(score > best->score)) return;
    *best = (spey_tok_best){ score, id, (int32_t)begin };
}

/* Offer every piece that starts at `at`; true when one of them is the single character there. */
static bool offer_pieces(const spey_tokenizer *t, spey_tok_best *best, const char *text, size_t n,
                         size_t at, size_t char_len)
{
    bool as_float = t->meta->flags & SPEY_TOK_SENTENCEPIECE;
    bool single = false;
    double here = best[at].score;
    uint32_t node = 0;
    for (size_t i = at; i < n; i++) {
        node = spey_trie_step(&t->trie, node, (unsigned char)text[i]);
        if (!node) break;
        int32_t id = t->trie.nodes[node].value;
        if (id == SPEY_TRIE_NONE || (t->kinds[id] & SPEY_TOK_UNUSED)) continue;
        size_t len = i + 1 - at;
        double score = t->scores[id];
        if (t->kinds[id] & SPEY_TOK_USER)
            score = (double)((float)len * (float)t->meta->user_bonus) - 0.1;
        offer(&best[i + 1], score + here, id, at, as_float);
        single = single || len == char_len;
    }
    return single;
}

static spey_status viterbi(spey_tok_scratch *scratch, const char *text, size_t n)
{
    const spey_tokenizer *t = scratch->tokenizer;
    bool as_float = t->meta->flags & SPEY_TOK_SENTENCEPIECE;
    SPEY_TRY(reserve_best(scratch, n));
    spey_tok_best *best = scratch->best;
    for (size_t at = 0, len; at < n; at += len) {
        len = spey_utf8_lead_length(text[at]);
        if (offer_pieces(t, best, text, n, at, len)) continue;
        if (t->meta->unk_id < 0)
            return SPEY_FAIL(SPEY_INVALID, "the text has a character that the tokenizer does not "
                                           "know, and it has no unknown token");
        double score = t->meta->unk_score + best[at].score;
        offer(&best[at + len], as_float ? (double)(float)score : score, t->meta->unk_id, at,
              as_float);
    }
    return SPEY_OK;
}

/* Turn the links around: best[i].begin becomes the start of the piece after the one that starts at i. */
static void reverse_path(spey_tok_best *best, size_t n)
{
    int32_t end = (int32_t)n;
    spey_tok_best piece = best[n];
    while (end > 0) {
        int32_t begin = piece.begin;
        spey_tok_best before = best[begin];
        best[begin] = (spey_tok_best){ 0, piece.id, end };
        end = begin;
        piece = before;
    }
}

/* Hugging Face: a run of unknown characters is one piece: its own id if it has one, its bytes, or unknown. */
static spey_status put_unknown(spey_tok_scratch *scratch, const char *text, size_t n)
{
    const spey_tokenizer *t = scratch->tokenizer;
    bool sentencepiece = t->meta->flags & SPEY_TOK_SENTENCEPIECE;
    uint32_t id = sentencepiece ? SPEY_TOK_NO_SYMBOL : spey_tok_find_piece(t, text, n);
    if (id != SPEY_TOK_NO_SYMBOL) return spey_ids_push(scratch->out, (int32_t)id);
    bool whole;
    SPEY_TRY(spey_tok_push_fallback(scratch, text, n, &whole));
    return whole ? SPEY_OK : spey_ids_push(scratch->out, t->meta->unk_id);
}

spey_status spey_tok_encode_unigram(spey_tok_scratch *scratch, const char *word, size_t n)
{
    spey_status status = SPEY_OK;
    if (spey_tok_cache_get(scratch->cache, word, n, scratch->out, &status)) return status;
    size_t before = scratch->out->len;
    SPEY_TRY(viterbi(scratch, word, n));
    reverse_path(scratch->best, n);
    int32_t unk = scratch->tokenizer->meta->unk_id;
    for (size_t i = 0; i < n;) {
        size_t begin = i;
        int32_t id = scratch->best[i].id;
        do
            i = (size_t)scratch->best[i].begin;
        while (i < n && id == unk && scratch->best[i].id == unk);
        if (id == unk)
            SPEY_TRY(put_unknown(scratch, word + begin, i - begin));
        else
            SPEY_TRY(spey_ids_push(scratch->out, id));
    }
    spey_tok_cache_put(scratch->cache, word, n, scratch->out->data + before,
                       scratch->out->len - before);
    return SPEY_OK;
}
