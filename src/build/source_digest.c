#include "build/source_digest.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/alloc.h"

enum { SLICE_BYTES = 4 << 20 };

struct spey_source_digest {
    const spey_safetensors *tensors;
    spey_sha256 *sha256;
    char (*hex)[SPEY_SHA256_HEX_BYTES]; /* written by the thread, read after it ended */
    pthread_t thread;
    bool running; /* to be joined; owner's thread */
    atomic_bool stop;
};

/* Allocates nothing and cannot fail: a slice was mapped before. */
static void *digest_files(void *arg)
{
    spey_source_digest *digest = arg;
    for (int i = 0; i < spey_safetensors_n_files(digest->tensors); i++) {
        const spey_file_map *map = spey_safetensors_file_map(digest->tensors, i);
        for (size_t done = 0; done < map->size && !atomic_load(&digest->stop);) {
            size_t n = map->size - done < SLICE_BYTES ? map->size - done : SLICE_BYTES;
            spey_sha256_update(digest->sha256, map->data + done, n);
            spey_file_map_drop(map, done, n);
            done += n;
        }
        spey_sha256_hex(digest->sha256, digest->hex[i]);
    }
    return NULL;
}

spey_status spey_source_digest_start(const spey_safetensors *tensors, spey_source_digest **out)
{
    *out = NULL;
    spey_source_digest *digest = spey_new(SPEY_PURPOSE_GENERAL, spey_source_digest);
    if (!digest) return SPEY_NOMEM;
    digest->tensors = tensors;
    digest->hex = spey_alloc_array(SPEY_PURPOSE_GENERAL, (size_t)spey_safetensors_n_files(tensors),
                                   sizeof *digest->hex);
    if (!digest->hex || spey_sha256_new(&digest->sha256)) {
        spey_source_digest_free(digest);
        return SPEY_NOMEM;
    }
    digest->running = pthread_create(&digest->thread, NULL, digest_files, digest) == 0;
    if (!digest->running) digest_files(digest); /* no thread to be had: take the time here */
    *out = digest;
    return SPEY_OK;
}

void spey_source_digest_wait(spey_source_digest *digest)
{
    if (digest->running) pthread_join(digest->thread, NULL);
    digest->running = false;
}

const char *spey_source_digest_hex(const spey_source_digest *digest, int file)
{
    SPEY_ASSERT(!digest->running && file < spey_safetensors_n_files(digest->tensors));
    return digest->hex[file];
}

void spey_source_digest_free(spey_source_digest *digest)
{
    if (!digest) return;
    atomic_store(&digest->stop, true);
    spey_source_digest_wait(digest);
    spey_sha256_free(digest->sha256);
    spey_free(digest->hex);
    spey_free(digest);
}

spey_status spey_bytes_digest(const void *bytes, size_t n, char out[SPEY_SHA256_HEX_BYTES])
{
    spey_sha256 *sha256;
    SPEY_TRY(spey_sha256_new(&sha256));
    spey_sha256_update(sha256, bytes, n);
    spey_sha256_hex(sha256, out);
    spey_sha256_free(sha256);
    return SPEY_OK;
}
