#include "base/arena.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { CHUNK_BYTES = 32 * 1024, ALIGN = 16 };

struct spey_arena_chunk {
    spey_arena_chunk *next;
    size_t used;
    size_t size;
    size_t pad;
};

void spey_arena_init(spey_arena *arena, spey_purpose purpose)
{
    arena->chunks = NULL;
    arena->purpose = purpose;
}

void spey_arena_deinit(spey_arena *arena)
{
    while (arena->chunks) {
        spey_arena_chunk *next = arena->chunks->next;
        spey_free(arena->chunks);
        arena->chunks = next;
    }
}

void *spey_arena_alloc(spey_arena *arena, size_t bytes)
{
    size_t need;
    if (!spey_add_size(bytes, ALIGN - 1, &need))
        need = SIZE_MAX - ALIGN; /* fails below with the usual message */
    need &= ~(size_t)(ALIGN - 1);
    spey_arena_chunk *chunk = arena->chunks;
    if (!chunk || chunk->size - chunk->used < need) {
        /* A large object gets a chunk of its own behind the open one, which may still have room. */
        bool alone = chunk && need > CHUNK_BYTES / 4;
        size_t size = alone || need > CHUNK_BYTES ? need : CHUNK_BYTES, total;
        if (!spey_add_size(size, sizeof *chunk, &total)) total = SIZE_MAX;
        chunk = spey_alloc(arena->purpose, total);
        if (!chunk) return NULL;
        chunk->size = size;
        spey_arena_chunk **link = alone ? &arena->chunks->next : &arena->chunks;
        chunk->next = *link;
        *link = chunk;
    }
    void *p = (char *)(chunk + 1) + chunk->used;
    chunk->used += need;
    return p;
}

void *spey_arena_array(spey_arena *arena, size_t n, size_t item_bytes)
{
    size_t bytes;
    if (!spey_mul_size(n, item_bytes, &bytes)) bytes = SIZE_MAX;
    return spey_arena_alloc(arena, bytes);
}

char *spey_arena_strndup(spey_arena *arena, const char *text, size_t n)
{
    char *copy = spey_arena_alloc(arena, n + 1);
    if (copy) memcpy(copy, text, n);
    return copy;
}

char *spey_arena_strdup(spey_arena *arena, const char *text)
{
    return spey_arena_strndup(arena, text, strlen(text));
}
