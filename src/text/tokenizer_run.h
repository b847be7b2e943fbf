/* Inside the tokenizer: what encoding and decoding share. The compiled form itself is in tokenizer_impl.h. */
#ifndef SPEY_TEXT_TOKENIZER_RUN_H
#define SPEY_TEXT_TOKENIZER_RUN_H

#include "text/tokenizer_impl.h"

/* ---- encoding ---- */

typedef struct spey_tok_cache spey_tok_cache;
typedef struct spey_tok_heap_item {
    uint32_t rank, position, result;
} spey_tok_heap_item;
typedef struct spey_tok_symbol {
    uint32_t id;
    uint32_t begin, end; /* in the word; begin == end: merged away */
} spey_tok_symbol;
/* A node of the long-word merge: neighbours, and the merge with the next one. */
typedef struct spey_tok_node {
    uint32_t id;
    int32_t previous, next;
    uint32_t rank, result; /* rank SPEY_TOK_NO_SYMBOL: cannot merge */
} spey_tok_node;
typedef struct spey_tok_best {
    double score;
    int32_t id;
    int32_t begin; /* -1: not reached */
} spey_tok_best;

/* What one call of encode works with; one thread. */
typedef struct spey_tok_scratch {
    const spey_tokenizer *tokenizer;
    spey_ids *out;
    spey_strbuf text[2]; /* normalised text, and the other buffer of each step */
    spey_tok_spans words[2];
    spey_tok_spans spans; /* delimiters of one word */
    spey_tok_symbol *symbols;
    size_t symbols_cap;
    spey_tok_heap_item *heap;
    size_t heap_cap;
    spey_tok_node *nodes;
    size_t nodes_cap;
    spey_tok_best *best;
    size_t best_cap;
    uint32_t *last_split; /* two symbols per unused piece: what it was merged from */
    spey_tok_cache *cache;
    spey_regex_scratch *regex;
    bool from_start; /* the text at hand begins where the caller's text does */
} spey_tok_scratch;

/* Normalise `text` by all steps into scratch->text[0]. */
spey_status spey_tok_normalize(spey_tok_scratch *scratch, const char *text, size_t n);
/* One step, from `text` to `out` (emptied first). */
spey_status spey_tok_normalize_unicode(spey_tok_op_kind form, const char *text, size_t n,
                                       spey_strbuf *out);
spey_status spey_tok_charsmap_check(const char *where, const char *map, size_t n);
spey_status spey_tok_normalize_charsmap(const spey_tok_step *step, const char *text, size_t n,
                                        spey_strbuf *out);
spey_status spey_tok_normalize_sentencepiece(const spey_tokenizer *t, const spey_tok_step *step,
                                             const char *text, size_t n, spey_strbuf *out);
/* Append the characters that stand for bytes. */
void spey_tok_put_byte_level(spey_strbuf *out, const char *text, size_t n);
/* The byte a character stands for, -1 when none. */
int spey_tok_byte_of(uint32_t c);

/* Split scratch->text[0] into scratch->words[0] by all steps. */
spey_status spey_tok_pretokenize(spey_tok_scratch *scratch);
/* The matches of a published pattern, which cover the whole text: one word each. */
spey_status spey_tok_scan(spey_tok_scanner scanner, const char *text, uint32_t begin, uint32_t end,
                          spey_tok_spans *out);
spey_tok_scanner spey_tok_scanner_of(const char *pattern, size_t n);

/* Find the next added token at or after `from` in text: false when there is none. */
typedef struct spey_tok_match {
    const spey_tok_added *token;
    size_t begin, end;
} spey_tok_match;
bool spey_tok_next_added(const spey_tokenizer *t, bool normalized, const char *text, size_t n,
                         size_t *from, size_t done, spey_tok_match *match);

/* Append the ids of one word. */
spey_status spey_tok_encode_word(spey_tok_scratch *scratch, const char *word, size_t n);
spey_status spey_tok_encode_bpe(spey_tok_scratch *scratch, const char *word, size_t n);
spey_status spey_tok_encode_unigram(spey_tok_scratch *scratch, const char *word, size_t n);
spey_status spey_tok_encode_wordpiece(spey_tok_scratch *scratch, const char *word, size_t n);

/* Ids of short words that came before in the same call. */
enum { SPEY_TOK_CACHE_TEXT_MAX = 26, SPEY_TOK_CACHE_IDS_MAX = 8 };
/* A cache for a text of n bytes; NULL when it would not pay, or memory is short. */
spey_tok_cache *spey_tok_cache_new(size_t n);
/* Append the ids of the word if they are known. */
bool spey_tok_cache_get(const spey_tok_cache *cache, const char *word, size_t n, spey_ids *out,
                        spey_status *status);
void spey_tok_cache_put(spey_tok_cache *cache, const char *word, size_t n, const int32_t *ids,
                        size_t n_ids);
/* Append <0xXX> ids of every byte; *whole is false, and nothing appended, when some byte has none. */
spey_status spey_tok_push_fallback(spey_tok_scratch *scratch, const char *text, size_t n,
                                   bool *whole);

/* ---- decoding ---- */

typedef struct spey_tok_decoder_state {
    spey_strbuf pending; /* not certain yet */
    spey_strbuf work;
    uint64_t count; /* tokens that arrived */
    uint32_t cut;   /* Strip: characters taken from the start so far */
    bool inside;    /* parts of one long token arrive, not tokens */
    bool
        started; /* Strip: past the start. SentencePiece: a leading space may not be taken any more */
    bool seen;   /* SentencePiece: a leading space was taken. BPE: a token is held */
    bool any;    /* SentencePiece: something was put out */
} spey_tok_decoder_state;

/* A pipeline of decoder steps: ids in, text out as soon as it is certain. */
typedef struct spey_tok_decoder {
    const spey_tokenizer *tokenizer;
    spey_tok_decoder_state *states; /* one per decoder step */
    spey_strbuf *out;               /* during push and flush */
    spey_regex_scratch *regex;
    bool skip_special;
    spey_status status;
} spey_tok_decoder;

spey_status spey_tok_decoder_init(spey_tok_decoder *decoder, const spey_tokenizer *t,
                                  bool skip_special, size_t reserve);
void spey_tok_decoder_deinit(spey_tok_decoder *decoder);
void spey_tok_decoder_reset(spey_tok_decoder *decoder);
spey_status spey_tok_decoder_push(spey_tok_decoder *decoder, int32_t id, spey_strbuf *out);
spey_status spey_tok_decoder_flush(spey_tok_decoder *decoder, spey_strbuf *out);

#endif
