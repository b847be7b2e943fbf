/* The guides of a context: each text is compiled once, and all its requests share the automaton, its states and their masks.
 *
 *   any thread      get ──► guide ──► put        compiles when the text is new; a bad text is refused here
 *   engine thread   begin ──► matcher ──► end    around the choice of a request's tokens
 *
 * Memory is bounded by bytes: guides without users go first, the least recently used before others; then tables of states of
 * guides that are in use, which are made anew when they are wanted again. So a queue of many guides costs what their automata
 * take, and get refuses one that does not fit. */
#ifndef SPEY_TEXT_GUIDE_TABLE_H
#define SPEY_TEXT_GUIDE_TABLE_H

#include "text/guide.h"

typedef struct spey_guide_table spey_guide_table;
typedef struct spey_guide_entry spey_guide_entry;

/* bytes_max 0: SPEY_GUIDE_TABLE_BYTES. eos_ids are kept until free. */
spey_status spey_guide_table_new(uint64_t bytes_max, const int32_t *eos_ids, int32_t n_eos,
                                 spey_guide_table **out);
/* All guides were put back. */
void spey_guide_table_free(spey_guide_table *table);

/* The guide of a text over `vocab`, which is kept and the same for all. Failures are those of spey_guide_compile;
 * SPEY_LIMIT, too, when guides in use leave no room. */
spey_status spey_guide_table_get(spey_guide_table *table, const spey_guide_vocab *vocab,
                                 spey_guide_format format, const char *text,
                                 spey_guide_entry **out);
void spey_guide_table_put(spey_guide_table *table, spey_guide_entry *guide);

/* Its matcher until end; *generation, never 0, is another one when states of an earlier matcher mean nothing any more. It
 * allocates only when there are more guides in use than fit with their tables. */
spey_status spey_guide_table_begin(spey_guide_table *table, spey_guide_entry *guide,
                                   spey_guide_matcher **matcher, uint64_t *generation);
void spey_guide_table_end(spey_guide_table *table, spey_guide_entry *guide);
/* Drop a state that was held when the generation was this one. */
void spey_guide_table_drop(spey_guide_table *table, spey_guide_entry *guide, uint64_t generation,
                           spey_guide_state state);

/* Bytes that guides and their tables take now. */
uint64_t spey_guide_table_bytes(spey_guide_table *table);

#endif
