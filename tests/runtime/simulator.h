/* A simulated engine: the real scheduler over the real KV cache, with a fake clock and a fake model.
 *
 * The fake model's next token is a hash of all ids of the sequence, read back through the block tables from simulated
 * memory: a wrong block, a copy that was missed or a stale prefix changes it. What each request must put out follows from
 * its own ids alone.
 *
 * One step ahead, a step is computed at any time between its launch and the take of its results, from the block tables that
 * there were at its launch, while the scheduler and the cache are elsewhere already. */
#ifndef SPEY_TESTS_RUNTIME_SIMULATOR_H
#define SPEY_TESTS_RUNTIME_SIMULATOR_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/kv_cache.h"

/* ---- the fake model ---- */

typedef struct sim_memory {
    spey_kv_limits limits;
    uint64_t *cells[SPEY_CACHE_GROUPS_MAX]; /* [block][token of it]; states: [block] */
    uint64_t *host[SPEY_CACHE_GROUPS_MAX];  /* likewise */
} sim_memory;

bool sim_memory_init(sim_memory *memory, const spey_kv_limits *limits);
void sim_memory_deinit(sim_memory *memory);
/* Carry out what the cache has queued. */
void sim_memory_copy(sim_memory *memory, const spey_kv_copy *copies, int64_t n);

enum { SIM_GROUPS_MAX = 4, SIM_BLOCKS_MAX = 160 };
/* A sequence's blocks, as a step gets them. */
typedef struct sim_tables {
    int32_t blocks[SIM_GROUPS_MAX][SIM_BLOCKS_MAX];
    int64_t n_source;
} sim_tables;
void sim_tables_capture(const spey_kv_cache *kv, spey_seq_id seq, sim_tables *out);
/* Store one token at `position` of a sequence. */
void sim_memory_store(sim_memory *memory, const sim_tables *tables, int64_t position, uint64_t salt,
                      int32_t id);
/* The model's row behind that token: a hash of what a kernel would read. */
uint64_t sim_memory_read(const sim_memory *memory, const sim_tables *tables, int64_t position);
/* Store the encoder's input that the tables have blocks for. */
void sim_memory_encode(sim_memory *memory, const sim_tables *tables);
/* What rows depend on besides the ids. */
typedef struct sim_setting {
    uint64_t salt;
    int64_t n_source; /* an encoder's input, which is the same for all of this length */
} sim_setting;
/* The same from the ids themselves: what is right. */
uint64_t sim_row(const spey_kv_limits *limits, const sim_setting *setting, const int32_t *ids,
                 int64_t position);

uint64_t sim_hash(uint64_t a, uint64_t b);

/* ---- a whole run ---- */

typedef struct sim_totals {
    uint64_t runs, requests, steps, tokens, pauses, cancels, timeouts, refusals, forks, moves,
        reused, restored, stored, loaded, discarded;
    uint64_t ahead, superfluous; /* steps launched beside another, items of ended requests */
} sim_totals;

/* One world: everything in it depends on the seed, and on whether steps are planned ahead. False: `error` says what broke. */
bool sim_run(uint64_t seed, bool ahead, sim_totals *totals, char *error, int error_bytes);

/* Host time per step at n sequences, in microseconds, and steps per second beside a device that sleeps; printed. */
int sim_bench(int32_t n_sequences);

#endif
