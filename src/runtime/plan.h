/* The memory plan: every byte a context will use, known before anything is allocated. docs/memory.md explains the
 * lines and how defaults are found. */
#ifndef SPEY_RUNTIME_PLAN_H
#define SPEY_RUNTIME_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/status.h"
#include "base/strbuf.h"
#include "engine/engine_file.h"
#include "spey/spey.h"

/* What a context may do at most. Zero or NULL takes the default in brackets. Text is borrowed. */
typedef struct spey_limits_plan {
    const char *device;      /* "cpu", "cuda", "cuda:1" ["cpu"] */
    int threads;             /* CPU worker threads [one per core] */
    int32_t sequences_max;   /* sequences open at once and in one step [1] */
    int64_t step_tokens_max; /* tokens of one step, prefill and decode together [512, or all that
                                    can come if fewer; at least sequences_max]. An encoder takes
                                    its input in one step [1024, or the model's context length] */
    int64_t outputs_max;     /* rows of logits of one step [sequences_max]; more than
                                    step_tokens_max means that */
    int64_t sequence_tokens_max; /* prompt + output of one sequence [the model's context length, or
                                    what the KV pool holds if kv_bytes says less or is default] */
    uint64_t kv_bytes;       /* KV pool [what sequences_max full sequences need, at most a quarter
                                    of available memory, nine tenths of what is left of a
                                    device's own, at least one sequence of an asked-for
                                    sequence_tokens_max]. It always holds one full sequence */
    int32_t kv_block_tokens; /* [64, or the sequence if shorter] */
    const char *kv_dtype;    /* "f32", "f16", "bf16", "fp8", "int8" [the engine's; f32 if its model
                                is exact] */
    uint64_t kv_host_bytes;  /* host memory for blocks that are evicted from the pools [none] */
    uint64_t kv_file_bytes;  /* of a file for what leaves host memory, which is then 32 blocks if
                                    it would be none [no file] */
    bool no_kv_reuse;        /* forget the blocks of ended sequences */
    int64_t prompt_table_tokens_max; /* rows of a request's prompt table [none] */
    uint64_t memory_bytes_max;       /* cap for the counted lines [what is free] */
    spey_ahead ahead; /* ON: a step may be submitted while another is under way [where the device
                                    queues steps, and the model has no encoder; or OFF] */
    bool batch_invariant; /* no rows whose bits depend on what else is in the batch */
    bool tune;            /* measure which kernels are fastest, and record it */
    bool no_in_place;     /* activations never share memory: to bisect a wrong answer */
} spey_limits_plan;

/* Once defaults are filled in. */
static inline bool spey_limits_are_ahead(const spey_limits_plan *limits)
{
    return limits->ahead == SPEY_AHEAD_ON;
}

/* Of a KV file whose size was not told. */
#define SPEY_KV_FILE_BYTES ((uint64_t)4 << 30)

enum {
    SPEY_PROMPT_TABLE_TOKENS_MAX = 1 << 20,
    SPEY_SEQUENCES_MAX = 1 << 16,
    SPEY_STEP_TOKENS_MAX = 1 << 20,
    SPEY_KV_BLOCK_TOKENS_MAX = 1024,
};

typedef struct spey_plan_line {
    const char *
        what; /* "weights (mapped from the file)", "activations", "kv cache", "kv cache (host memory)",
                         "states", "encoder's kv cache",
                         "workspace", "logits", "prompt tables", "tables" */
    uint64_t bytes;
    bool counted; /* false: file pages that the kernel may drop */
} spey_plan_line;

enum { SPEY_PLAN_LINES_MAX = 16 };

typedef struct spey_plan_kv_group {
    int64_t n_blocks;
    uint64_t block_bytes;
    int64_t window; /* 0: none */
} spey_plan_kv_group;

typedef struct spey_plan {
    spey_limits_plan
        limits; /* all defaults filled in; memory_bytes_max stays 0 when there is none */
    spey_plan_line lines[SPEY_PLAN_LINES_MAX];
    int n_lines;
    uint64_t total_bytes; /* of counted lines */
    uint64_t available_bytes;
    int64_t kv_blocks; /* of each cache group without a window; those with one may have fewer */
    uint64_t kv_block_bytes; /* of one block in all cache groups together */
    int64_t
        kv_tokens; /* kv_blocks * kv_block_tokens: what sequences hold together, windows or not */
    spey_plan_kv_group kv_groups[SPEY_CACHE_GROUPS_MAX]; /* those of tokens */
    int n_kv_groups;
    uint64_t state_bytes; /* of one sequence, whatever its length */
    int64_t
        source_tokens_max; /* of an encoder's input: a step's, or what the model was made for; 0: no encoder */
    uint64_t source_bytes; /* keys and values of the encoder's tokens, of all sequences */
} spey_plan;

enum { SPEY_BYTES_TEXT = 24 };
/* "1.5 GiB" into `out`, which is returned. */
const char *spey_bytes_text(char out[SPEY_BYTES_TEXT], uint64_t bytes);

/* Print the table. */
void spey_plan_write(const spey_plan *plan, spey_strbuf *out);

#endif
