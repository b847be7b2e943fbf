/* What the KV cache keeps for reuse, in a file: written when a context ends, read when the next one begins.
 *
 *   header   magic, identity, bytes of a record, checksum
 *   records  checksum, place in the tree, ids, the bytes of the block in every TOKENS group; all of one size
 *
 * The file appears under its name when it is complete. Nothing in it is believed: a file of another identity (engine, device,
 * layout of blocks) is left alone, a record whose checksum or hash is wrong is skipped, with all that hang on it. */
#ifndef SPEY_RUNTIME_KV_STORE_H
#define SPEY_RUNTIME_KV_STORE_H

#include "runtime/kv_cache.h"

typedef struct spey_kv_store {
    const char *path;
    uint64_t identity; /* of everything that the numbers in a block depend on */
    size_t block_bytes[SPEY_CACHE_GROUPS_MAX];
    void *user;
    spey_status (*read)(void *user, int group, spey_kv_tier tier, int32_t block, void *bytes);
    spey_status (*write)(void *user, int group, int32_t block,
                         const void *bytes); /* to the device */
} spey_kv_store;

/* Write the whole blocks that can be found; all copies were carried out. *n: how many nodes. */
spey_status spey_kv_store_save(const spey_kv_store *store, const spey_kv_cache *kv, int64_t *n);
/* Keep what the file has, as far as there are free blocks. A file that is missing or another's is no error: *n is 0. */
spey_status spey_kv_store_load(const spey_kv_store *store, spey_kv_cache *kv, int64_t *n);

#endif
