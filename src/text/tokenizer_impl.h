/* Inside of the tokenizer: the compiled form, and the parts that work on it. Not for other folders.
 *
 * A tokenizer is one blob: a header, then sections of plain little-endian arrays. Readers of tokenizer.json and
 * of SentencePiece models fill a spey_tok_source; spey_tok_compile turns it into a blob (hash tables and tries
 * included); spey_tokenizer_read checks a blob and points into it. There is no other in-memory form. */
#ifndef SPEY_TEXT_TOKENIZER_IMPL_H
#define SPEY_TEXT_TOKENIZER_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"
#include "text/regex.h"
#include "text/tokenizer.h"
#include "text/trie.h"

enum {
    SPEY_TOK_TEXT_MAX = 1 << 30, /* bytes of one text to encode, before and after normalising */
    SPEY_TOK_PIECE_BYTES_MAX = 1 << 14, /* one vocabulary entry */
    SPEY_TOK_ADDED_BYTES_MAX =
        1 << 12,                /* one added token: bounds the cost per byte of looking for it */
    SPEY_TOK_OPS_MAX = 256,     /* steps of all four programs together */
    SPEY_TOK_PROBES_MAX = 1024, /* longest run of used slots of a hash table */
};

typedef enum spey_tok_model {
    SPEY_TOK_BPE,
    SPEY_TOK_UNIGRAM,
    SPEY_TOK_WORDPIECE,
    SPEY_TOK_WORDLEVEL,
    SPEY_TOK_MODEL_COUNT
} spey_tok_model;

/* Bits of spey_tok_meta.flags. */
enum {
    SPEY_TOK_FUSE_UNK = 1,
    SPEY_TOK_BYTE_FALLBACK = 2,
    SPEY_TOK_IGNORE_MERGES = 4,
    SPEY_TOK_RAW_BYTES = 8,      /* the model sees bytes: ByteLevel is the last step before it */
    SPEY_TOK_SENTENCEPIECE = 16, /* SentencePiece's arithmetic and unknown handling */
    SPEY_TOK_USE_CUTS = 32,      /* the cuts section tells which neighbours can never merge */
    SPEY_TOK_HAS_UNUSED = 64,    /* some SentencePiece pieces are UNUSED: BPE splits them again */
};

/* Bits of a symbol's kind. Symbols below n_ids are ids; those above only help BPE (characters without id). */
enum {
    SPEY_TOK_PRESENT = 1,
    SPEY_TOK_SKIPPED = 2, /* decoding with skip_special drops it */
    SPEY_TOK_ADDED = 4,   /* an added token has this id */
    SPEY_TOK_BYTE = 8,    /* SentencePiece byte piece */
    SPEY_TOK_CONTROL = 16,
    SPEY_TOK_UNKNOWN = 32,
    SPEY_TOK_UNUSED = 64,
    SPEY_TOK_USER = 128, /* SentencePiece user-defined symbol */
};

/* Steps of the four programs. The operands a, b are strings; x, y numbers. Stored in files: append only. */
typedef enum spey_tok_op_kind {
    SPEY_TOK_NORM_NFC = 1,
    SPEY_TOK_NORM_NFD,
    SPEY_TOK_NORM_NFKC,
    SPEY_TOK_NORM_NFKD,
    SPEY_TOK_NORM_LOWERCASE,
    SPEY_TOK_NORM_STRIP, /* x: 1 left, 2 right */
    SPEY_TOK_NORM_STRIP_ACCENTS,
    SPEY_TOK_NORM_REPLACE,       /* every a becomes b */
    SPEY_TOK_NORM_REPLACE_REGEX, /* every match of a becomes b */
    SPEY_TOK_NORM_PREPEND,       /* a */
    SPEY_TOK_NORM_APPEND,        /* a */
    SPEY_TOK_NORM_CHARSMAP,      /* a: precompiled charsmap, as Hugging Face applies it */
    SPEY_TOK_NORM_NMT,
    SPEY_TOK_NORM_BERT, /* x: 1 clean, 2 Chinese, 4 strip accents, 8 lowercase */
    SPEY_TOK_NORM_BYTE_LEVEL,
    SPEY_TOK_NORM_SENTENCEPIECE, /* a: charsmap or empty; x: SPEY_TOK_SP_* */
    SPEY_TOK_PRE_SPLIT = 32,     /* string a; x: behaviour; y: invert */
    SPEY_TOK_PRE_SPLIT_REGEX,    /* regex a; x: behaviour; y: invert */
    SPEY_TOK_PRE_BYTE_LEVEL,     /* x: 1 add_prefix_space, 2 use_regex */
    SPEY_TOK_PRE_METASPACE,      /* a: replacement; x: scheme; y: split */
    SPEY_TOK_PRE_PUNCTUATION,    /* x: behaviour */
    SPEY_TOK_PRE_DIGITS,         /* x: individual */
    SPEY_TOK_PRE_WHITESPACE,
    SPEY_TOK_PRE_WHITESPACE_SPLIT,
    SPEY_TOK_PRE_BERT,
    SPEY_TOK_PRE_FIXED_LENGTH, /* x: characters */
    SPEY_TOK_POST_TOKEN = 64,  /* x: id */
    SPEY_TOK_POST_TEXT,        /* the ids of the text */
    SPEY_TOK_DEC_BYTE_LEVEL = 96,
    SPEY_TOK_DEC_METASPACE, /* a: replacement; x: scheme */
    SPEY_TOK_DEC_BYTE_FALLBACK,
    SPEY_TOK_DEC_FUSE,
    SPEY_TOK_DEC_STRIP, /* a: character; x: start; y: stop */
    SPEY_TOK_DEC_REPLACE,
    SPEY_TOK_DEC_REPLACE_REGEX,
    SPEY_TOK_DEC_WORDPIECE,     /* a: prefix; x: cleanup */
    SPEY_TOK_DEC_BPE,           /* a: suffix */
    SPEY_TOK_DEC_SENTENCEPIECE, /* a: text of the unknown piece; x: SPEY_TOK_SP_* */
    SPEY_TOK_DEC_JOIN,          /* no decoder: pieces with spaces between */
    SPEY_TOK_OP_END
} spey_tok_op_kind;

enum { /* x of the SentencePiece steps */
       SPEY_TOK_SP_DUMMY_PREFIX = 1,
       SPEY_TOK_SP_REMOVE_EXTRA = 2,
       SPEY_TOK_SP_ESCAPE = 4,
       SPEY_TOK_SP_SUFFIX = 8, /* treat_whitespace_as_suffix */
};

typedef enum spey_tok_behavior {
    SPEY_TOK_REMOVED,
    SPEY_TOK_ISOLATED,
    SPEY_TOK_MERGED_WITH_PREVIOUS,
    SPEY_TOK_MERGED_WITH_NEXT,
    SPEY_TOK_CONTIGUOUS,
    SPEY_TOK_BEHAVIOR_COUNT
} spey_tok_behavior;

enum { SPEY_TOK_SCHEME_ALWAYS, SPEY_TOK_SCHEME_FIRST, SPEY_TOK_SCHEME_NEVER };

/* Offsets point into the strings section. */
typedef struct spey_tok_op {
    uint32_t kind;
    uint32_t a, a_len;
    uint32_t b, b_len;
    uint32_t x, y;
    uint32_t reserved;
} spey_tok_op;

/* Bits of spey_tok_added.flags. */
enum {
    SPEY_TOK_ADDED_LSTRIP = 1,
    SPEY_TOK_ADDED_RSTRIP = 2,
    SPEY_TOK_ADDED_SINGLE_WORD = 4,
    SPEY_TOK_ADDED_NORMALIZED = 8,
    SPEY_TOK_ADDED_SPECIAL = 16,
};

/* In order of ids. `pattern` is the content after normalising when the token is normalized, else the content;
 * decoding uses it too. */
typedef struct spey_tok_added {
    int32_t id;
    uint32_t flags;
    uint32_t content, content_len;
    uint32_t pattern, pattern_len;
} spey_tok_added;

typedef struct spey_tok_merge {
    uint32_t left, right; /* symbols; left SPEY_TOK_NO_SYMBOL: free slot */
    uint32_t rank, result;
} spey_tok_merge;

#define SPEY_TOK_NO_SYMBOL UINT32_MAX
/* Set in a symbol that must not merge (a user-defined symbol in the text). */
#define SPEY_TOK_FROZEN 0x80000000u

typedef struct spey_tok_meta {
    uint32_t model, flags;
    uint32_t n_ids, n_symbols;
    uint32_t n_normalizers, n_pretokenizers, n_post, n_decoders;
    int32_t unk_id; /* -1: none */
    uint32_t vocab_seed, merge_seed, raw_seed, added_seed;
    uint32_t word_chars_max; /* WordPiece */
    uint32_t prefix, prefix_len, suffix,
        suffix_len;            /* continuing_subword_prefix, end_of_word_suffix */
    double unk_score;          /* Unigram */
    double user_bonus;         /* SentencePiece Unigram: the highest score */
    int32_t byte_ids[256];     /* raw bytes: the symbol of each byte */
    int32_t fallback_ids[256]; /* byte fallback: the id of <0xXX>, -1 none */
} spey_tok_meta;

typedef enum spey_tok_section {
    SPEY_TOK_SEC_META,
    SPEY_TOK_SEC_PIECE_OFFSETS, /* uint32_t[n_symbols + 1] into PIECES */
    SPEY_TOK_SEC_PIECES,
    SPEY_TOK_SEC_KINDS,       /* uint8_t[n_symbols] */
    SPEY_TOK_SEC_VOCAB_SLOTS, /* uint32_t: symbol + 1, 0 free */
    SPEY_TOK_SEC_MERGES,      /* spey_tok_merge */
    SPEY_TOK_SEC_SCORES,      /* double[n_ids] */
    SPEY_TOK_SEC_TRIE,        /* Unigram pieces */
    SPEY_TOK_SEC_CUTS,        /* bits by spey_tok_pair_hash */
    SPEY_TOK_SEC_ADDED,       /* spey_tok_added */
    SPEY_TOK_SEC_ADDED_SLOTS, /* uint32_t: index + 1, 0 free */
    SPEY_TOK_SEC_ADDED_RAW,   /* trie of the patterns to find before normalising */
    SPEY_TOK_SEC_ADDED_NORM,  /* … after */
    SPEY_TOK_SEC_USER,        /* trie of user-defined symbols */
    SPEY_TOK_SEC_STRINGS,
    SPEY_TOK_SEC_OPS,         /* spey_tok_op: normalizers, pre-tokenizers, post, decoders */
    SPEY_TOK_SEC_RAW_OFFSETS, /* uint32_t[n_ids + 1] into RAW */
    SPEY_TOK_SEC_RAW,         /* pieces as the bytes that ByteLevel stands for */
    SPEY_TOK_SEC_RAW_SLOTS,   /* uint32_t: id + 1 by raw bytes, 0 free */
    SPEY_TOK_SEC_COUNT
} spey_tok_section;

typedef struct spey_tok_slots {
    const uint32_t *slots;
    uint32_t mask;
} spey_tok_slots;

/* How a step runs, decided at reading: a hand-written scanner or a compiled regex. */
typedef enum spey_tok_scanner {
    SPEY_TOK_SCAN_NONE,
    SPEY_TOK_SCAN_GPT2,
    SPEY_TOK_SCAN_LLAMA3, /* also cl100k; numbers of up to three digits */
    SPEY_TOK_SCAN_QWEN2,  /* the same with single digits */
} spey_tok_scanner;

typedef struct spey_tok_step {
    spey_tok_op op;
    const char *a, *b;
    spey_regex *regex;
    spey_tok_scanner scanner;
} spey_tok_step;

struct spey_tokenizer {
    void *owned; /* the blob when this tokenizer made it, else NULL */
    const uint8_t *blob;
    size_t blob_bytes;
    const spey_tok_meta *meta;
    const uint32_t *piece_offsets, *raw_offsets;
    const char *pieces, *raw, *strings;
    const uint8_t *kinds;
    spey_tok_slots vocab, raw_vocab, added_slots;
    const spey_tok_merge *merges;
    uint32_t merge_mask;
    const double *scores;
    spey_trie trie, added_raw, added_norm, user;
    const uint8_t *cuts;
    uint32_t cut_mask; /* bits - 1 */
    const spey_tok_added *added;
    uint32_t n_added;
    bool added_first[2][256]; /* bytes that start a raw or a normalized added token */
    spey_tok_step *steps;
    const spey_tok_step *normalizers, *pretokenizers, *post, *decoders;
    uint32_t ascii_symbols[128]; /* symbol of each ASCII character */
};

/* ---- growing arrays ---- */

/* Room for one more item; *data may move. */
spey_status spey_tok_grow(void **data, size_t *cap, size_t len, size_t item_bytes);

typedef struct spey_tok_span {
    uint32_t begin, end;
} spey_tok_span;

typedef struct spey_tok_spans {
    spey_tok_span *data;
    size_t len, cap;
} spey_tok_spans;

static inline spey_status spey_tok_spans_push(spey_tok_spans *spans, uint32_t begin, uint32_t end)
{
    if (spans->len == spans->cap) {
        void *data = spans->data;
        spey_status status = spey_tok_grow(&data, &spans->cap, spans->len, sizeof *spans->data);
        spans->data = data;
        if (status) return status;
    }
    spans->data[spans->len++] = (spey_tok_span){ begin, end };
    return SPEY_OK;
}

/* ---- compiling ---- */

typedef struct spey_tok_source_piece {
    uint32_t text, len; /* into spey_tok_source.text */
    double score;
    uint8_t kind; /* 0: no such id */
} spey_tok_source_piece;

typedef struct spey_tok_source_merge {
    uint32_t left, right, rank, result;
} spey_tok_source_merge;

/* What a reader knows. Zero-initialise with spey_tok_source_init; strings and text are offsets so that they
 * survive growing. */
typedef struct spey_tok_source {
    const char *where;
    spey_tok_meta meta;
    spey_strbuf text;    /* pieces */
    spey_strbuf strings; /* operands */
    spey_tok_source_piece *pieces;
    size_t n_pieces, pieces_cap;
    spey_tok_source_merge *merges;
    size_t n_merges, merges_cap;
    spey_tok_op *ops; /* in the order of the four programs */
    size_t n_ops, ops_cap;
    spey_tok_added *added; /* contents; patterns are filled when compiling */
    size_t n_added, added_cap;
    bool no_cuts; /* merges do not follow from the pieces' text */
} spey_tok_source;

void spey_tok_source_init(spey_tok_source *source, const char *where);
void spey_tok_source_deinit(spey_tok_source *source);
/* Define piece `id`; a second definition is an error. */
spey_status spey_tok_source_piece_put(spey_tok_source *source, uint32_t id, const char *text,
                                      size_t n, uint8_t kind);
spey_status spey_tok_source_merge_put(spey_tok_source *source, spey_tok_source_merge merge);
spey_status spey_tok_source_op_put(spey_tok_source *source, spey_tok_op op);
spey_status spey_tok_source_added_put(spey_tok_source *source, spey_tok_added added);
/* Keep a string operand. */
spey_status spey_tok_source_string(spey_tok_source *source, const char *text, size_t n,
                                   uint32_t *offset, uint32_t *len);
/* A tokenizer that owns its blob. */
spey_status spey_tok_open_source(spey_tok_source *source, spey_tokenizer **out);
/* Append the blob to `out`. */
spey_status spey_tok_compile(spey_tok_source *source, spey_strbuf *out);

/* ---- lookups ---- */

static inline uint64_t spey_tok_pair_hash(uint32_t left, uint32_t right, uint32_t seed)
{
    uint64_t h = (((uint64_t)left << 32) | right) ^ ((uint64_t)seed * 0xd6e8feb86659fd93u);
    h = (h ^ h >> 32) * 0x9e3779b97f4a7c15u;
    return h >> 20;
}
/* Symbol of the exact text, SPEY_TOK_NO_SYMBOL when there is none. */
uint32_t spey_tok_find_piece(const spey_tokenizer *t, const char *text, size_t n);
/* The same for a text of raw bytes. */
uint32_t spey_tok_find_raw(const spey_tokenizer *t, const char *text, size_t n);
const spey_tok_added *spey_tok_find_added(const spey_tokenizer *t, int32_t id);

static inline const spey_tok_merge *spey_tok_find_merge(const spey_tokenizer *t, uint32_t left,
                                                        uint32_t right)
{
    uint32_t i = (uint32_t)spey_tok_pair_hash(left, right, t->meta->merge_seed) & t->merge_mask;
    for (;; i = (i + 1) & t->merge_mask) {
        const spey_tok_merge *merge = &t->merges[i];
        if (merge->left == SPEY_TOK_NO_SYMBOL) return NULL;
        if (merge->left == left && merge->right == right) return merge;
    }
}

#endif
