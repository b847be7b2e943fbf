#include "text/trie.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

typedef struct trie_builder {
    spey_trie_node *nodes;
    uint32_t capacity;
    uint32_t count;      /* highest used index + 1 */
    uint32_t first_free; /* no free node below */
} trie_builder;

/* Keys [begin, end) share their first `depth` bytes and hang below `node`. */
typedef struct trie_range {
    uint32_t begin, end, depth, node;
} trie_range;

enum { TRIE_NODES_MAX = 1 << 28 };

static int compare_keys(const void *a, const void *b)
{
    const spey_trie_key *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->len < y->len ? x->len : y->len);
    if (order) return order;
    if (x->len != y->len) return x->len < y->len ? -1 : 1;
    return x->value < y->value ? -1 : x->value > y->value;
}

static spey_status reserve(trie_builder *builder, uint64_t need)
{
    if (need <= builder->capacity) return SPEY_OK;
    if (need > TRIE_NODES_MAX) return SPEY_FAIL(SPEY_LIMIT, "vocabulary trie is too large");
    uint64_t capacity = builder->capacity ? builder->capacity : 1024;
    while (capacity < need)
        capacity *= 2;
    spey_trie_node *grown =
        spey_realloc(SPEY_PURPOSE_TEXT, builder->nodes, (size_t)capacity * sizeof *grown);
    if (!grown) return SPEY_NOMEM;
    builder->nodes = grown;
    builder->capacity = (uint32_t)capacity;
    return SPEY_OK;
}

/* Smallest base at which all labels find a free node. Positions that were tried in vain `crowded` times are
 * given up for good, which keeps building linear in practice. */
static spey_status find_base(trie_builder *builder, const unsigned char *labels, size_t n,
                             uint32_t *base)
{
    uint32_t tries = 0;
    for (uint32_t at = builder->first_free;; at++) {
        SPEY_TRY(reserve(builder, (uint64_t)at + 260));
        if (builder->nodes[at].check) continue;
        if (at < labels[0] + 1u) continue;
        uint32_t candidate = at - labels[0] - 1;
        size_t i = 1;
        while (i < n && !builder->nodes[candidate + labels[i] + 1].check)
            i++;
        if (i == n) {
            *base = candidate;
            if (tries > 64) builder->first_free = at;
            return SPEY_OK;
        }
        tries++;
    }
}

/* The distinct next bytes of a range, and where each begins. Keys that end at this depth come first. */
static size_t collect_labels(const spey_trie_key *keys, const trie_range *range,
                             unsigned char *labels, uint32_t *starts, int32_t *value)
{
    size_t n = 0;
    *value = SPEY_TRIE_NONE;
    for (uint32_t i = range->begin; i < range->end; i++) {
        if (keys[i].len == range->depth) {
            *value = keys[i].value;
            continue;
        }
        unsigned char c = (unsigned char)keys[i].text[range->depth];
        if (n && labels[n - 1] == c) continue;
        labels[n] = c;
        starts[n++] = i;
    }
    return n;
}

/* Place the children of one range; their ranges go to `queue`. */
static spey_status place(trie_builder *builder, const spey_trie_key *keys, const trie_range *range,
                         trie_range *queue, size_t *queued)
{
    unsigned char labels[256];
    uint32_t starts[257];
    int32_t value;
    size_t n = collect_labels(keys, range, labels, starts, &value);
    builder->nodes[range->node].value = value;
    if (n == 0) return SPEY_OK;
    uint32_t base;
    SPEY_TRY(find_base(builder, labels, n, &base));
    builder->nodes[range->node].base = base;
    starts[n] = range->end;
    for (size_t i = 0; i < n; i++) {
        uint32_t child = base + labels[i] + 1;
        builder->nodes[child].check = range->node + 1;
        if (child >= builder->count) builder->count = child + 1;
        queue[(*queued)++] = (trie_range){ starts[i], starts[i + 1], range->depth + 1, child };
    }
    while (builder->nodes[builder->first_free].check)
        builder->first_free++;
    return SPEY_OK;
}

spey_status spey_trie_build(spey_trie_key *keys, size_t n, spey_trie_node **nodes, uint32_t *count)
{
    *nodes = NULL;
    *count = 0;
    trie_builder builder = { .count = 1, .first_free = 1 };
    /* Depth first: at most one range per pending sibling, so n ranges and 256 per level of one path. */
    size_t stack_max = n + 1;
    trie_range *stack = spey_new_array(SPEY_PURPOSE_TEXT, trie_range, stack_max + 256);
    spey_status status = stack ? reserve(&builder, 1024) : SPEY_NOMEM;
    if (n) qsort(keys, n, sizeof *keys, compare_keys);
    size_t depth = 0;
    if (!status) {
        builder.nodes[0].check = UINT32_MAX; /* used, and no node's child */
        stack[depth++] = (trie_range){ 0, (uint32_t)n, 0, 0 };
    }
    while (!status && depth > 0) {
        trie_range range = stack[--depth];
        status = place(&builder, keys, &range, stack, &depth);
    }
    spey_free(stack);
    if (status) {
        spey_free(builder.nodes);
        return status;
    }
    for (uint32_t i = 0; i < builder.count; i++)
        if (!builder.nodes[i].check) builder.nodes[i].value = SPEY_TRIE_NONE;
    *nodes = builder.nodes;
    *count = builder.count;
    return SPEY_OK;
}

size_t spey_trie_longest(const spey_trie *trie, const char *text, size_t n, int32_t *value)
{
    size_t longest = 0;
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        node = spey_trie_step(trie, node, (unsigned char)text[i]);
        if (!node) break;
        if (trie->nodes[node].value != SPEY_TRIE_NONE) {
            longest = i + 1;
            *value = trie->nodes[node].value;
        }
    }
    return longest;
}
