/* WordPiece: the longest piece first, from the left; a word that cannot be covered is unknown as a whole.
 * WordLevel: the whole word or unknown. */
#include <string.h>

#include "text/tokenizer_run.h"
#include "text/utf8.h"

static spey_status unknown(spey_tok_scratch *scratch)
{
    if (scratch->tokenizer->meta->unk_id < 0)
        return SPEY_FAIL(SPEY_INVALID, "the text has a word that the tokenizer does not know, and "
                                       "it has no unknown token");
    return spey_ids_push(scratch->out, scratch->tokenizer->meta->unk_id);
}

/* The longest piece that starts at text[0], with the prefix of continuing pieces when asked for. */
static uint32_t longest(const spey_tokenizer *t, const char *text, size_t n, bool continuing,
                        size_t *len)
{
    char piece[2 * SPEY_TOK_ADDED_BYTES_MAX];
    size_t prefix = continuing ? t->meta->prefix_len : 0;
    if (prefix) memcpy(piece, t->strings + t->meta->prefix, prefix);
    size_t end = n < sizeof piece - prefix ? n : sizeof piece - prefix;
    while (end < n && end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80)
        end--;
    memcpy(piece + prefix, text, end);
    for (; end > 0; end = spey_utf8_before(text, end)) {
        uint32_t id = spey_tok_find_piece(t, piece, prefix + end);
        if (id == SPEY_TOK_NO_SYMBOL) continue;
        *len = end;
        return id;
    }
    return SPEY_TOK_NO_SYMBOL;
}

spey_status spey_tok_encode_wordpiece(spey_tok_scratch *scratch, const char *word, size_t n)
{
    const spey_tokenizer *t = scratch->tokenizer;
    size_t chars = 0, before = scratch->out->len, len;
    if (t->meta->model == SPEY_TOK_WORDLEVEL) {
        uint32_t id = spey_tok_find_piece(t, word, n);
        return id == SPEY_TOK_NO_SYMBOL ? unknown(scratch)
                                        : spey_ids_push(scratch->out, (int32_t)id);
    }
    for (size_t i = 0; i < n; i += spey_utf8_lead_length(word[i]))
        chars++;
    if (chars > t->meta->word_chars_max) return unknown(scratch);
    for (size_t i = 0; i < n; i += len) {
        uint32_t id = longest(t, word + i, n - i, i > 0, &len);
        if (id == SPEY_TOK_NO_SYMBOL) {
            scratch->out->len = before;
            return unknown(scratch);
        }
        SPEY_TRY(spey_ids_push(scratch->out, (int32_t)id));
    }
    return SPEY_OK;
}
