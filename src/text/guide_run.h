/* Running a guide's automaton: a deterministic automaton that is built as it is walked, and kept.
 *
 * A state is a set of places (node of the automaton, stack of nodes to come back to). States and stacks are stored once each;
 * a transition by a class of bytes is computed when it is first taken. Tables have a fixed size; when they are full,
 * collect forgets all states that nobody holds. Nothing allocates after new. One thread. */
#ifndef SPEY_TEXT_GUIDE_RUN_H
#define SPEY_TEXT_GUIDE_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "text/guide_automaton.h"

typedef struct spey_guide_run spey_guide_run;

enum {
    SPEY_GUIDE_DEAD = -1, /* nothing that matches begins so */
    SPEY_GUIDE_TOO_BIG =
        -2, /* the guide is at more places than limits allow, or the tables are full */
    SPEY_GUIDE_UNKNOWN = -3,
};

/* Keeps `automaton` until free. SPEY_LIMIT: its start is at too many places at once. */
spey_status spey_guide_run_new(const spey_guide_automaton *automaton, spey_guide_run **out);
void spey_guide_run_free(spey_guide_run *run);
size_t spey_guide_run_bytes(const spey_guide_automaton *automaton);

/* The state before the first byte. It is always held. */
int32_t spey_guide_run_start(const spey_guide_run *run);
/* The state after one more byte: a state, DEAD or TOO_BIG. States that are not held last until collect. */
static inline int32_t spey_guide_run_step(spey_guide_run *run, int32_t state, unsigned char byte);
/* May the text end here? */
bool spey_guide_run_can_end(const spey_guide_run *run, int32_t state);
/* Can it only end here? */
bool spey_guide_run_must_end(spey_guide_run *run, int32_t state);

/* One of these bytes. */
typedef struct spey_guide_choices {
    unsigned char bytes[64];
    int32_t n;
} spey_guide_choices;

/* Can it be seen without making states that whichever n bytes are chosen lead where `byte` does? */
bool spey_guide_run_agrees(const spey_guide_run *run, int32_t state, unsigned char byte,
                           const spey_guide_choices *choices, int32_t n);

void spey_guide_run_hold(spey_guide_run *run, int32_t state);
void spey_guide_run_drop(spey_guide_run *run, int32_t state);
/* Make room when less than half of the tables is left: states that are not held are forgotten. Returns whether it did. */
bool spey_guide_run_collect(spey_guide_run *run);
bool spey_guide_run_is_held(const spey_guide_run *run, int32_t state);

/* ---- the step that was taken before, inline: masks are made of millions ---- */

/* The beginning of a spey_guide_run. */
typedef struct spey_guide_edges {
    const uint8_t *class_of; /* of bytes */
    int32_t n_classes;
    int32_t *next; /* [states][n_classes]: a state, DEAD or UNKNOWN */
} spey_guide_edges;

int32_t spey_guide_run_step_first(spey_guide_run *run, int32_t state, unsigned char byte);

static inline int32_t spey_guide_run_step(spey_guide_run *run, int32_t state, unsigned char byte)
{
    const spey_guide_edges *edges = (const spey_guide_edges *)run;
    int32_t next = edges->next[(int64_t)state * edges->n_classes + edges->class_of[byte]];
    return next != SPEY_GUIDE_UNKNOWN ? next : spey_guide_run_step_first(run, state, byte);
}

#endif
