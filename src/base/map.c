#include "base/map.h"

#include <string.h>

static uint64_t mix(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)(a ^ 0x9e3779b97f4a7c15u) * (b ^ 0xd1b54a32d192ed03u);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t spey_hash_bytes(const void *bytes, size_t n, uint64_t seed)
{
    const unsigned char *p = bytes;
    uint64_t h = seed ^ n * 0x9e3779b97f4a7c15u, word;
    for (; n >= 8; n -= 8, p += 8) {
        memcpy(&word, p, 8);
        h = mix(h, word);
    }
    word = 0;
    if (n) memcpy(&word, p, n);
    return mix(mix(h, word), 0x2545f4914f6cdd1du);
}

void spey_map_init(spey_map *map, spey_purpose purpose)
{
    *map = (spey_map){ 0 };
    spey_arena_init(&map->keys, purpose);
}

void spey_map_deinit(spey_map *map)
{
    spey_free(map->entries);
    spey_arena_deinit(&map->keys);
    map->entries = NULL;
    map->capacity = map->count = 0;
}

/* The entry that holds the key, or the free slot where it belongs. The table always has a free slot. */
static spey_map_entry *find(const spey_map *map, const char *key, size_t key_len, uint64_t hash)
{
    size_t mask = map->capacity - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        spey_map_entry *e = &map->entries[i];
        if (!e->key || (e->hash == hash && e->key_len == key_len && !memcmp(e->key, key, key_len)))
            return e;
    }
}

static spey_status grow(spey_map *map)
{
    size_t capacity = map->capacity ? map->capacity * 2 : 16;
    spey_map bigger = { .capacity = capacity };
    bigger.entries = spey_new_array(map->keys.purpose, spey_map_entry, capacity);
    if (!bigger.entries) return SPEY_NOMEM;
    for (size_t i = 0; i < map->capacity; i++) {
        const spey_map_entry *e = &map->entries[i];
        if (e->key) *find(&bigger, e->key, e->key_len, e->hash) = *e;
    }
    spey_free(map->entries);
    map->entries = bigger.entries;
    map->capacity = capacity;
    return SPEY_OK;
}

spey_status spey_map_put(spey_map *map, const char *key, size_t key_len, int64_t value)
{
    if (map->count + map->count / 2 >= map->capacity) SPEY_TRY(grow(map));
    uint64_t hash = spey_hash_bytes(key, key_len, 0);
    spey_map_entry *e = find(map, key, key_len, hash);
    if (!e->key) {
        char *copy = spey_arena_strndup(&map->keys, key, key_len);
        if (!copy) return SPEY_NOMEM;
        *e = (spey_map_entry){ .key = copy, .key_len = key_len, .hash = hash };
        map->count++;
    }
    e->value = value;
    return SPEY_OK;
}

bool spey_map_get(const spey_map *map, const char *key, size_t key_len, int64_t *value)
{
    if (!map->capacity) return false;
    const spey_map_entry *e = find(map, key, key_len, spey_hash_bytes(key, key_len, 0));
    if (!e->key) return false;
    *value = e->value;
    return true;
}
