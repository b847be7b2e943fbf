/* SHA-256 of a checkpoint's weight files, computed on a thread beside the import so that the two share the reading of
 * each file. */
#ifndef SPEY_BUILD_SOURCE_DIGEST_H
#define SPEY_BUILD_SOURCE_DIGEST_H

#include "base/hash.h"
#include "base/status.h"
#include "tensor/safetensors.h"

typedef struct spey_source_digest spey_source_digest;

/* Keeps `tensors` until free. */
spey_status spey_source_digest_start(const spey_safetensors *tensors, spey_source_digest **out);
/* Wait for the end. */
void spey_source_digest_wait(spey_source_digest *digest);
/* Hex of a file of the set; after wait. */
const char *spey_source_digest_hex(const spey_source_digest *digest, int file);
/* Stops the thread if it still runs. */
void spey_source_digest_free(spey_source_digest *digest);

/* SHA-256 of bytes in memory. */
spey_status spey_bytes_digest(const void *bytes, size_t n, char out[SPEY_SHA256_HEX_BYTES]);

#endif
