/* Direct-mapped cache of word -> ids, one cache line per word. It lives in the scratch of one call, so that
 * a tokenizer stays immutable; in running text most words come again. */
#include <string.h>

#include "base/alloc.h"
#include "base/map.h"
#include "text/tokenizer_run.h"

typedef struct cache_entry {
    uint32_t tag;
    uint8_t len; /* 0: empty */
    uint8_t n_ids;
    char text[SPEY_TOK_CACHE_TEXT_MAX];
    int32_t ids[SPEY_TOK_CACHE_IDS_MAX];
} cache_entry;

struct spey_tok_cache {
    uint64_t mask;
    cache_entry *entries;
};

enum { CACHE_TEXT_MIN = 4096, CACHE_ENTRIES_MAX = 1 << 13 };

spey_tok_cache *spey_tok_cache_new(size_t n)
{
    if (n < CACHE_TEXT_MIN) return NULL;
    size_t entries = 512;
    while (entries < n / 16 && entries < CACHE_ENTRIES_MAX)
        entries *= 2;
    spey_tok_cache *cache = spey_alloc(SPEY_PURPOSE_TEXT, sizeof(cache_entry) * (entries + 1));
    if (!cache) return NULL;
    cache->mask = entries - 1;
    cache->entries = (cache_entry *)cache + 1;
    return cache;
}

static cache_entry *slot(const spey_tok_cache *cache, const char *word, size_t n, uint32_t *tag)
{
    uint64_t hash = spey_hash_bytes(word, n, 0);
    *tag = (uint32_t)(hash >> 32);
    return &cache->entries[hash & cache->mask];
}

bool spey_tok_cache_get(const spey_tok_cache *cache, const char *word, size_t n, spey_ids *out,
                        spey_status *status)
{
    if (!cache || n > SPEY_TOK_CACHE_TEXT_MAX) return false;
    uint32_t tag;
    const cache_entry *entry = slot(cache, word, n, &tag);
    if (entry->tag != tag || entry->len != n || memcmp(entry->text, word, n)) return false;
    for (int i = 0; i < entry->n_ids && !*status; i++)
        *status = spey_ids_push(out, entry->ids[i]);
    return true;
}

void spey_tok_cache_put(spey_tok_cache *cache, const char *word, size_t n, const int32_t *ids,
                        size_t n_ids)
{
    if (!cache || n == 0 || n > SPEY_TOK_CACHE_TEXT_MAX || n_ids > SPEY_TOK_CACHE_IDS_MAX) return;
    uint32_t tag;
    cache_entry *entry = slot(cache, word, n, &tag);
    entry->tag = tag;
    entry->len = (uint8_t)n;
    entry->n_ids = (uint8_t)n_ids;
    memcpy(entry->text, word, n);
    memcpy(entry->ids, ids, n_ids * sizeof *ids);
}
