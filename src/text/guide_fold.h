/* The trie of a vocabulary in which the characters of one class are folded into one.
 *
 * Inside a JSON string a guide does not tell letters apart: all of them lead to one state. Where it is so, " hello", " world" and
 * thousands of others are one path of this trie, and 128k tokens are some thousand nodes. Where it is not (the walk finds out,
 * see guide_fill.h), the nodes of the vocabulary's own trie that a folded one stands for are listed:
 *
 *   token    bytes          class a to z        node: its own tokens; members
 *   7        Hello   ─────► H FOLDED×4  ──────► 7, 8;  the nodes of "Hello" and "Hands" in the vocabulary's trie
 *   8        Hands
 *
 * There are two of each class: in one, the first character of a token is left as it is, for states that take one of several and
 * are all alike after it. Only the first 16 characters of a run are folded, so that a walk meets few states. Folds are made when
 * a guide first has use for them, some ten milliseconds each, and kept with the vocabulary; when there are too many, the least
 * recently used one without users goes. */
#ifndef SPEY_TEXT_GUIDE_FOLD_H
#define SPEY_TEXT_GUIDE_FOLD_H

#include "text/guide_expr.h"
#include "text/guide_vocab.h"

enum { SPEY_GUIDE_FOLDED = 256, SPEY_GUIDE_FOLD_PARTS_MAX = 48 };

/* In preorder, as those of the vocabulary; behind the last is one more that ends the lists. */
typedef struct spey_guide_fold_node {
    int32_t end;    /* the node after this one's last descendant */
    int32_t depth;  /* symbols up to here */
    int32_t first;  /* its own tokens in `ids`, up to the next node's */
    int32_t member; /* of a FOLDED one: what it stands for, in `members`, up to the next node's */
    int32_t bitmap; /* its own tokens, when they are many: in `bitmaps`; else -1 */
    int32_t symbol; /* a byte, or FOLDED */
} spey_guide_fold_node;

typedef struct spey_guide_fold {
    spey_guide_class chars;
    bool after_first;  /* the first character of a token is not folded */
    uint64_t ascii[2]; /* those of one byte */
    spey_guide_bytes parts[SPEY_GUIDE_FOLD_PARTS_MAX]; /* the others */
    int32_t n_parts;
    spey_guide_fold_node *nodes;
    int32_t n_nodes;
    int32_t *ids;
    int32_t *members;  /* nodes of the vocabulary's trie */
    uint64_t *bitmaps; /* [][(vocab_size + 63) / 64] */
} spey_guide_fold;

typedef struct spey_guide_folds spey_guide_folds;

spey_status spey_guide_folds_new(spey_guide_folds **out);
void spey_guide_folds_free(spey_guide_folds *folds);

/* The vocabulary's fold of a normalized class, to be given back; any thread. NULL: too many are in use, or the class is too
 * ragged. SPEY_NOMEM. */
spey_status spey_guide_fold_get(const spey_guide_vocab *vocab, const spey_guide_class *chars,
                                bool after_first, const spey_guide_fold **out);
void spey_guide_fold_put(const spey_guide_vocab *vocab, const spey_guide_fold *fold);

#endif
