/* Byte trie as a double array (Aoe, "An Efficient Digital Search Algorithm by Using a Double-Array Structure",
 * 1989): one load and one compare per byte. The array is position-independent, so it lives in a blob as it
 * is; walking checks every index, so that hostile contents give wrong answers at worst. */
#ifndef SPEY_TEXT_TRIE_H
#define SPEY_TEXT_TRIE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { SPEY_TRIE_NONE = -1 };

typedef struct spey_trie_node {
    uint32_t base;  /* child of byte c is at base + c + 1 */
    uint32_t check; /* parent's index + 1; 0: free */
    int32_t value;  /* SPEY_TRIE_NONE: no key ends here */
} spey_trie_node;

typedef struct spey_trie {
    const spey_trie_node *nodes; /* node 0 is the root */
    uint32_t count;
} spey_trie;

typedef struct spey_trie_key {
    const char *text;
    uint32_t len;  /* > 0 */
    int32_t value; /* >= 0 */
} spey_trie_key;

/* Build from n keys, which are sorted in place. A key that occurs twice keeps the value of its later entry.
 * *nodes is yours (spey_free). */
spey_status spey_trie_build(spey_trie_key *keys, size_t n, spey_trie_node **nodes, uint32_t *count);

/* The child of `node` by byte c; 0 when there is none (the root is nobody's child). */
static inline uint32_t spey_trie_step(const spey_trie *trie, uint32_t node, unsigned char c)
{
    uint64_t next = (uint64_t)trie->nodes[node].base + c + 1u;
    return next < trie->count && trie->nodes[next].check == node + 1 ? (uint32_t)next : 0;
}

/* Length of the longest key that is a prefix of text, 0 when none; *value is its value. */
size_t spey_trie_longest(const spey_trie *trie, const char *text, size_t n, int32_t *value);

#endif
