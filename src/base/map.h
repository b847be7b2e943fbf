/* Hash map from byte strings to int64_t. Keys are copied. Not thread-safe. */
#ifndef SPEY_BASE_MAP_H
#define SPEY_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"

typedef struct spey_map_entry {
    const char *key; /* NULL: free slot */
    size_t key_len;
    uint64_t hash;
    int64_t value;
} spey_map_entry;

typedef struct spey_map {
    spey_map_entry *entries;
    size_t capacity; /* a power of two, or 0 */
    size_t count;
    spey_arena keys;
} spey_map;

void spey_map_init(spey_map *map, spey_purpose purpose);
void spey_map_deinit(spey_map *map);
/* Insert or replace. */
spey_status spey_map_put(spey_map *map, const char *key, size_t key_len, int64_t value);
/* True and *value when the key is there. */
bool spey_map_get(const spey_map *map, const char *key, size_t key_len, int64_t *value);

/* 64-bit hash of bytes (wyhash-style mixing); the same on every machine, not for hostile keys at scale. */
uint64_t spey_hash_bytes(const void *bytes, size_t n, uint64_t seed);

#endif
