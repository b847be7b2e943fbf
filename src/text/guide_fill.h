/* Which tokens a guide allows from a state: the automaton walked with a trie, a subtree whose first byte is dead skipped whole.
 *
 * Where most of the vocabulary may follow, the trie is a folded one (guide_fold.h), chosen for the state. At a FOLDED child the
 * characters of the class are tried: the state that most of them lead to goes on below it; for the others, the parts of the
 * vocabulary's own trie that begin with them are walked anew afterwards. Which trie it is changes only the time. */
#ifndef SPEY_TEXT_GUIDE_FILL_H
#define SPEY_TEXT_GUIDE_FILL_H

#include "text/guide_fold.h"
#include "text/guide_run.h"
#include "text/guide_vocab.h"

typedef struct spey_guide_filler spey_guide_filler;

/* Keeps run and vocab until free. `classes`, normalized, are those worth folding. */
spey_status spey_guide_filler_new(spey_guide_run *run, const spey_guide_vocab *vocab,
                                  const spey_guide_class *classes, int32_t n_classes,
                                  spey_guide_filler **out);
void spey_guide_filler_free(spey_guide_filler *filler);
/* At most; the folds are the vocabulary's. */
size_t spey_guide_filler_bytes(const spey_guide_vocab *vocab, int32_t n_classes);

/* Set the bits of allowed tokens, clear the others. SPEY_LIMIT: the guide is too complicated here. Makes states. */
spey_status spey_guide_filler_fill(spey_guide_filler *filler, int32_t state, uint64_t *mask);

#endif
