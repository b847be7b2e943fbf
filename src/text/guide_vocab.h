/* What each token adds to the text, as a trie in preorder: the bytes that a guide's automaton is fed. Immutable.
 *
 * A token's bytes are what the detokenizer renders for it after other text: raw bytes of byte-level vocabularies, the byte of
 * <0xXX>, a space for SentencePiece's U+2581. Special tokens and those without text have none, and a guide never allows them. */
#ifndef SPEY_TEXT_GUIDE_VOCAB_H
#define SPEY_TEXT_GUIDE_VOCAB_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "text/tokenizer.h"

/* Nodes in the order of a walk that visits a node before its children, children by byte. Node 0 is the root; behind the last
 * is one whose `first` is n_ids. */
typedef struct spey_guide_vocab_node {
    int32_t end;    /* the node after this one's last descendant */
    int32_t first;  /* its own tokens in `ids`; those of its descendants follow */
    uint16_t n_own; /* tokens whose bytes end here */
    uint8_t byte;
    uint8_t unused;
    uint32_t depth; /* bytes up to here */
} spey_guide_vocab_node;

typedef struct spey_guide_vocab {
    spey_guide_vocab_node *nodes;
    int32_t n_nodes;
    int32_t *ids; /* in order of their bytes */
    int32_t n_ids;
    uint32_t depth_max;
    int32_t vocab_size;             /* of masks: ids beyond the tokenizer's have no bytes */
    const char **bytes;             /* [vocab_size], NULL: none */
    uint32_t *lengths;              /* [vocab_size] */
    char *text;                     /* what `bytes` points into */
    struct spey_guide_folds *folds; /* guide_fold.h; the one thing here that changes */
} spey_guide_vocab;

/* vocab_size: the model's, which may differ from the tokenizer's. Some tens of milliseconds for 128k tokens. */
spey_status spey_guide_vocab_new(const spey_tokenizer *tokenizer, int32_t vocab_size,
                                 spey_guide_vocab **out);
/* From the bytes of each id; NULL or length 0: none. They are copied. */
spey_status spey_guide_vocab_from_bytes(const char *const *bytes, const uint32_t *lengths,
                                        int32_t vocab_size, spey_guide_vocab **out);
void spey_guide_vocab_free(spey_guide_vocab *vocab);

#endif
