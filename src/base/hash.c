#include "base/hash.h"

#include <nettle/sha2.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/alloc.h"

struct spey_xxh3_state {
    XXH3_state_t state;
};

struct spey_sha256 {
    struct sha256_ctx context;
};

uint64_t spey_xxh3(const void *bytes, size_t n)
{
    return XXH3_64bits(bytes, n);
}

spey_status spey_xxh3_new(spey_xxh3_state **out)
{
    *out = spey_new(SPEY_PURPOSE_GENERAL, spey_xxh3_state);
    if (!*out) return SPEY_NOMEM;
    XXH3_64bits_reset(&(*out)->state);
    return SPEY_OK;
}

void spey_xxh3_update(spey_xxh3_state *state, const void *bytes, size_t n)
{
    XXH3_64bits_update(&state->state, bytes, n);
}

uint64_t spey_xxh3_digest(const spey_xxh3_state *state)
{
    return XXH3_64bits_digest(&state->state);
}

void spey_xxh3_free(spey_xxh3_state *state)
{
    spey_free(state);
}

spey_status spey_sha256_new(spey_sha256 **out)
{
    *out = spey_new(SPEY_PURPOSE_GENERAL, spey_sha256);
    if (!*out) return SPEY_NOMEM;
    sha256_init(&(*out)->context);
    return SPEY_OK;
}

void spey_sha256_update(spey_sha256 *state, const void *bytes, size_t n)
{
    sha256_update(&state->context, n, bytes);
}

void spey_sha256_hex(spey_sha256 *state, char out[SPEY_SHA256_HEX_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_digest(&state->context, sizeof digest, digest);
    for (size_t i = 0; i < sizeof digest; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[2 * sizeof digest] = 0;
}

void spey_sha256_free(spey_sha256 *state)
{
    spey_free(state);
}
