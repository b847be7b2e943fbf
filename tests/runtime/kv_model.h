/* A plain model of the KV cache beside the real one: every sequence's ids, and memory in which each block holds the ids of
 * its tokens. Steps write what the cache reserves, copies are carried out before them; after every move the blocks of
 * every sequence must hold its ids. The running test fails when something is not so. */
#ifndef SPEY_TESTS_RUNTIME_KV_MODEL_H
#define SPEY_TESTS_RUNTIME_KV_MODEL_H

#include "base/rng.h"
#include "runtime/kv_cache.h"

enum { KV_MODEL_TOKENS_MAX = 128, KV_MODEL_SEQUENCES_MAX = 16, KV_MODEL_PAST = 8 };

typedef struct kv_model_sequence {
    bool open;
    int64_t n, n_most, n_reused; /* now, at most since it was empty, at its beginning */
    int32_t ids[KV_MODEL_TOKENS_MAX];
    int64_t n_cross;
    int32_t cross; /* what its cross blocks hold */
} kv_model_sequence;

typedef struct kv_model {
    spey_kv_limits limits;
    spey_kv_cache *kv;
    kv_model_sequence sequences[KV_MODEL_SEQUENCES_MAX];
    kv_model_sequence past[KV_MODEL_PAST];  /* some that have ended */
    int32_t *memory[SPEY_CACHE_GROUPS_MAX]; /* [n_blocks + host_blocks][block_tokens] */
    int32_t
        *later[SPEY_CACHE_GROUPS_MAX]; /* what memory will be once waiting copies are carried out */
    uint64_t n_copied, n_refused, n_reused, n_closed, now_ns;
    int64_t n_offloaded, n_restored;
} kv_model;

/* Takes at most KV_MODEL_TOKENS_MAX tokens and KV_MODEL_SEQUENCES_MAX sequences. */
void kv_model_init(kv_model *model, const spey_kv_limits *limits);
void kv_model_deinit(kv_model *model);

/* Give the cache a file: kv_file.h. */
spey_status kv_model_open_file(kv_model *model, const char *path, uint64_t bytes, bool no_thread);
/* What steps do with the file, until nothing is left to do. */
void kv_model_settle(kv_model *model);
/* Wait for what the file has of a key. */
void kv_model_fetch(kv_model *model, const spey_kv_key *key);
/* All that is kept goes to the file, as when a context is freed. */
void kv_model_write_all(kv_model *model);

/* Carry out waiting copies. */
void kv_model_carry_out(kv_model *model);
/* Likewise, then store n ids of `seq`: as a step does. False: the cache has no room. */
bool kv_model_store(kv_model *model, spey_seq_id seq, const int32_t *ids, int64_t n);
/* Open a sequence and match it with a key. KV_MODEL_SEQUENCES_MAX: no slot is free. */
spey_seq_id kv_model_open(kv_model *model, const spey_kv_key *key);
void kv_model_close(kv_model *model, spey_seq_id seq);
/* One of open, fork, store, truncate, close and reserve, of any sequence; sometimes time passes or all is forgotten. */
void kv_model_move(kv_model *model, spey_rng *rng);
/* Books and contents; seed and move are printed when they are wrong. */
void kv_model_check(kv_model *model, uint64_t seed, int move);

#endif
