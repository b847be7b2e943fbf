/* Checksums and digests, over well-kept libraries: XXH3 (xxHash) for corruption, SHA-256 (nettle) for identity. */
#ifndef SPEY_BASE_HASH_H
#define SPEY_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* XXH3-64 of the bytes. */
uint64_t spey_xxh3(const void *bytes, size_t n);

/* XXH3-64 in pieces. */
typedef struct spey_xxh3_state spey_xxh3_state;
spey_status spey_xxh3_new(spey_xxh3_state **out);
void spey_xxh3_update(spey_xxh3_state *state, const void *bytes, size_t n);
uint64_t spey_xxh3_digest(const spey_xxh3_state *state);
void spey_xxh3_free(spey_xxh3_state *state);

enum { SPEY_SHA256_HEX_BYTES = 65 };
typedef struct spey_sha256 spey_sha256;
spey_status spey_sha256_new(spey_sha256 **out);
void spey_sha256_update(spey_sha256 *state, const void *bytes, size_t n);
/* Lower-case hex with a final 0; the state is reset. */
void spey_sha256_hex(spey_sha256 *state, char out[SPEY_SHA256_HEX_BYTES]);
void spey_sha256_free(spey_sha256 *state);

#endif
