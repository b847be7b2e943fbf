/* Bump allocator: many small objects with one owner and one free. Not thread-safe. */
#ifndef SPEY_BASE_ARENA_H
#define SPEY_BASE_ARENA_H

#include <stddef.h>

#include "base/alloc.h"

typedef struct spey_arena_chunk spey_arena_chunk;

/* Embed by value; zero-initialise with spey_arena_init. */
typedef struct spey_arena {
    spey_arena_chunk *chunks;
    spey_purpose purpose;
} spey_arena;

void spey_arena_init(spey_arena *arena, spey_purpose purpose);
void spey_arena_deinit(spey_arena *arena);

/* Zeroed memory, 16-byte aligned, valid until deinit. NULL (with the error text set) when out of memory. */
void *spey_arena_alloc(spey_arena *arena, size_t bytes);
void *spey_arena_array(spey_arena *arena, size_t n, size_t item_bytes);
char *spey_arena_strndup(spey_arena *arena, const char *text, size_t n);
char *spey_arena_strdup(spey_arena *arena, const char *text);

#endif
