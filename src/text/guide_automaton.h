/* The pushdown automaton of a guide, over bytes. Immutable; any number of threads may read one.
 *
 *   BYTE set, next      takes one byte of the set
 *   SPLIT next, other   goes both ways
 *   CALL rule, next     goes to the rule's first node and comes back to next
 *   RETURN              node 0: the end of every rule
 *
 * A call whose next is RETURN needs no place to come back to, so lists written as tail recursion keep the stack flat.
 * Nodes from which the end cannot be reached are not alive and never entered. */
#ifndef SPEY_TEXT_GUIDE_AUTOMATON_H
#define SPEY_TEXT_GUIDE_AUTOMATON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "text/guide_expr.h"

typedef enum spey_guide_node_kind {
    SPEY_GUIDE_NODE_RETURN,
    SPEY_GUIDE_NODE_BYTE,
    SPEY_GUIDE_NODE_SPLIT,
    SPEY_GUIDE_NODE_CALL,
} spey_guide_node_kind;

typedef struct spey_guide_node {
    uint8_t kind;
    bool alive;
    int32_t next;
    int32_t x; /* BYTE: set; SPLIT: the other next; CALL: the rule's first node */
} spey_guide_node;

typedef struct spey_guide_set {
    uint64_t bits[4]; /* of classes of bytes */
} spey_guide_set;

typedef struct spey_guide_automaton {
    spey_guide_node *nodes;
    int32_t n_nodes;
    int32_t first; /* of rule 0 */
    spey_guide_set *sets;
    int32_t n_sets;
    uint8_t class_of[256]; /* bytes that no set tells apart are one class */
    int32_t n_classes;
} spey_guide_automaton;

/* Compile a builder's rules. SPEY_FORMAT: a rule calls itself before it takes a byte, or nothing can match;
 * SPEY_LIMIT: too large. */
spey_status spey_guide_automaton_init(spey_guide_automaton *a, const spey_guide_builder *b);
void spey_guide_automaton_deinit(spey_guide_automaton *a);
static inline size_t spey_guide_automaton_bytes(const spey_guide_automaton *a)
{
    return (size_t)a->n_nodes * sizeof *a->nodes + (size_t)a->n_sets * sizeof *a->sets;
}

static inline bool spey_guide_set_has(const spey_guide_set *set, uint32_t c)
{
    return set->bits[c >> 6] >> (c & 63) & 1;
}

#endif
