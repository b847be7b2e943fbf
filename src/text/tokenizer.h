/* Tokenizers: text to ids and back, exactly as Hugging Face `tokenizers` (tokenizer.json) and SentencePiece
 * (tokenizer.model) do it.
 *
 * A tokenizer is immutable after opening: any number of threads may encode and decode with one. Ids are
 * non-negative and below spey_tokenizer_vocab_size. Text is bytes with a length; it may hold 0 bytes.
 *
 * Bytes that are not UTF-8 count as U+FFFD, one per maximal ill-formed part (Python's errors="replace").
 * "truncation" and "padding" of tokenizer.json are the caller's business and ignored. Classes of characters are
 * those of Unicode 16 in the known patterns and 14 in other regexes. Not supported, each with one clear error:
 * BPE dropout, CTC, UnicodeScripts, set operations in regexes, two post-processors that add tokens,
 * SentencePiece word and char models and denormalisers. */
#ifndef SPEY_TEXT_TOKENIZER_H
#define SPEY_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"

typedef struct spey_tokenizer spey_tokenizer;

/* Growing array of ids. Zero-initialise; failure as for spey_strbuf. */
typedef struct spey_ids {
    int32_t *data;
    size_t len;
    size_t cap;
} spey_ids;
void spey_ids_deinit(spey_ids *ids);
spey_status spey_ids_push(spey_ids *ids, int32_t id);

/* From the bytes of tokenizer.json. `where` names the source in errors. */
spey_status spey_tokenizer_from_json(const char *where, const char *text, size_t n,
                                     spey_tokenizer **out);
/* From the bytes of a SentencePiece model (protobuf ModelProto: BPE or Unigram). Such a file names no template, so
 * add_special adds nothing; control pieces (<s>) are not recognised in text, as SentencePiece has it. */
spey_status spey_tokenizer_from_sentencepiece(const char *where, const void *bytes, size_t n,
                                              spey_tokenizer **out);
/* From a path: tokenizer.json, *.model, or a folder that holds one (tokenizer.json first). */
spey_status spey_tokenizer_open(const char *path, spey_tokenizer **out);
/* The compiled form that engine files hold: append it to `out`; read it back. Reading 128k entries takes
 * milliseconds: the blob is borrowed, not copied, must outlive the tokenizer and begin at a multiple of 8 bytes.
 * Hostile bytes are an error. */
spey_status spey_tokenizer_write(const spey_tokenizer *tokenizer, spey_strbuf *out);
spey_status spey_tokenizer_read(const char *where, const void *bytes, size_t n,
                                spey_tokenizer **out);
void spey_tokenizer_free(spey_tokenizer *tokenizer);

/* Append the ids of `text` to `out`. add_special: run the post-processor (BOS/EOS templates). Special tokens
 * written out in the text are recognised as HF does. Linear time. */
spey_status spey_tokenizer_encode(const spey_tokenizer *tokenizer, const char *text, size_t n,
                                  bool add_special, spey_ids *out);

/* Append the text of n ids. skip_special drops special added tokens. An id out of range is SPEY_INVALID. */
spey_status spey_tokenizer_decode(const spey_tokenizer *tokenizer, const int32_t *ids, size_t n,
                                  bool skip_special, spey_strbuf *out);

int32_t spey_tokenizer_vocab_size(const spey_tokenizer *tokenizer); /* highest id + 1 */
/* The piece of an id as the vocabulary spells it; NULL for a hole. Borrowed. *n: its length. */
const char *spey_tokenizer_piece(const spey_tokenizer *tokenizer, int32_t id, size_t *n);
/* The id of an exact piece or added token; -1 when there is none. */
int32_t spey_tokenizer_find(const spey_tokenizer *tokenizer, const char *piece, size_t n);
bool spey_tokenizer_is_special(const spey_tokenizer *tokenizer, int32_t id);

/* ---- incremental decoding ----
 *
 * The pieces of text that arrive as ids arrive. The concatenation of all pieces and the flush equals the
 * decoding of all ids at once; a piece never ends inside a UTF-8 character and never loses a space. */
typedef struct spey_detokenizer spey_detokenizer;
/* Keeps `tokenizer` until free. After new, pushing allocates only when the pending text outgrows 4 KiB. */
spey_status spey_detokenizer_new(const spey_tokenizer *tokenizer, bool skip_special,
                                 spey_detokenizer **out);
void spey_detokenizer_free(spey_detokenizer *detokenizer);
/* Forget everything. */
void spey_detokenizer_reset(spey_detokenizer *detokenizer);
/* Ids that precede the text (a prompt): they set the context (so that no leading space is lost), no text comes. */
spey_status spey_detokenizer_prime(spey_detokenizer *detokenizer, const int32_t *ids, size_t n);
/* Push one id; append what is now certain to `out` (may be nothing). */
spey_status spey_detokenizer_push(spey_detokenizer *detokenizer, int32_t id, spey_strbuf *out);
/* The end: append what is pending (an incomplete character as U+FFFD). */
spey_status spey_detokenizer_flush(spey_detokenizer *detokenizer, spey_strbuf *out);

#endif
