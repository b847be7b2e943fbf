/* checkkernel's harness, seen from a check file.
 *
 * One op has one check: check_NAME, an object of type check_op, in tests/check/check_NAME.c. It builds problems; the
 * harness runs every row of the chosen backend on them and compares with the row NAME/ref run on the host.
 *
 *   buffers    Operands are buffers, never raw memory: the harness copies them to where the row runs (between unmapped
 *              pages on a CPU, between canaries on a device) and patches the pointers that were bound to them. A new
 *              buffer is all NaN (all bits one); fill the elements that a row may read, leave padding and unused
 *              slots as they are.
 *   outputs    Elements declared as outputs must come back within their bound; every other element of every buffer,
 *              inputs included, must come back unchanged, bit for bit.
 *   bounds     0 (exact) unless the check's bound() sets others, derived in docs/numerics.md; infinity:
 *              what a row leaves there is undefined.
 *   parts      make() is called again with check_part() = 1, 2, … and builds the same problem with fewer tokens; the
 *              outputs of a part must have the bits that the whole gave: the result of a token does not depend on its
 *              batch.
 *
 * Every argument must be visible: for each one some case must fail when a row ignores it. Random numbers come from
 * check_rng(), which starts equal for the whole and its parts. Single-threaded. */
#ifndef SPEY_TESTS_CHECK_CHECK_H
#define SPEY_TESTS_CHECK_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/rng.h"
#include "base/status.h"
#include "kernels/ragged.h"
#include "tensor/dtype.h"
#include "tensor/quant.h"

typedef struct check check; /* one problem */
typedef struct check_buffer check_buffer;

typedef struct check_op {
    size_t args_bytes;
    /* Build problem `index` into zeroed *args; false: there is no such problem (or no such part of it). */
    bool (*make)(check *c, int index, void *args);
    /* Set the bounds of the outputs. The args are bound to the initial contents; NULL: all exact. */
    void (*bound)(check *c, const void *args);
    /* Build problem `index` of the bench, and call check_work. NULL: none. */
    bool (*bench)(check *c, int index, void *args);
} check_op;

/* ---- problem ---- */

/* Name this problem; for lists and failures. */
void check_name(check *c, const char *format, ...) SPEY_PRINTF(2, 3);
spey_rng *check_rng(check *c);
/* 0: the whole problem. */
int check_part(const check *c);
/* Bench: bytes that must move at least once, and floating-point operations. */
void check_work(check *c, double bytes, double flops);

/* ---- buffers ---- */

/* n elements, all NaN bits. The name is borrowed until the problem ends. */
check_buffer *check_buffer_new(check *c, const char *name, spey_dtype dtype, int64_t n);
/* Initial contents. */
void *check_host(check_buffer *b);
int64_t check_length(const check_buffer *b);
/* One element of the initial contents, rounded to the buffer's dtype. */
void check_set(check_buffer *b, int64_t i, double value);
double check_get(const check_buffer *b, int64_t i);
/* `field` is the address of a pointer in args (or in what args points to): it is set to element `first` of the buffer
 * wherever the row runs. */
void check_bind(check *c, void *field, check_buffer *b, int64_t first);
/* The field for scratch memory: as many bytes as the row asks for, 64-byte aligned, all NaN. */
void check_workspace(check *c, void *field);
/* Zeroed memory that lives as long as the problem, for structs that args points to. */
void *check_keep(check *c, size_t bytes);

/* Fill rows × cols elements, rows `pitch` apart, from element `first`, with center + scale · N(0, 1), of which the first
 * 4 million repeat in longer ones. */
void check_fill(check *c, check_buffer *b, int64_t first, int64_t rows, int64_t cols, int64_t pitch,
                double center, double scale);
/* A new buffer of rows × pitch elements with cols of each row filled so. */
check_buffer *check_matrix(check *c, const char *name, spey_dtype dtype, int64_t rows, int64_t cols,
                           int64_t pitch, double center, double scale);

/* ---- outputs ---- */

void check_output(check *c, check_buffer *b, int64_t first, int64_t rows, int64_t cols,
                  int64_t pitch);
/* The buffer that this field of args is bound to. */
check_buffer *check_bound_to(const check *c, const void *field);
/* Element i of an array of F32, F16, BF16, E4M3, I8 or I32. */
double check_scalar(const void *array, spey_dtype dtype, int64_t i);
/* In bound(): what the reference gave, and how far from it a row may be. */
double check_reference(const check_buffer *b, int64_t i);
void check_set_bound(check_buffer *b, int64_t i, double bound);
double check_bound(const check_buffer *b, int64_t i);
/* Half the distance between numbers near 1: 2^-24 for F32, 2^-11 for F16, 2^-8 for BF16, 2^-4 for E4M3. */
double check_unit(spey_dtype dtype);
/* What rounding the row's and the reference's result to dtype may add: 2 units, and the subnormal step. */
double check_rounding(spey_dtype dtype, double reference);

/* Rows that are rounded to E4M3 on their way out: a new buffer of scales bound to `field`, an output [rows] from `first` on
 * (by token), or one number for values of that size, a few of which saturate (static). */
void check_out_scale(check *c, void *field, spey_input_quant quant, int64_t rows, int64_t first,
                     int64_t n_rows, double size);
/* In bound(): what an element with that reference may be off when its value is off by `error`, and the largest of its row by
 * `row_error`; the scale at `scale`. */
double check_e4m3_error(double reference, double scale, double error, double row_error);
/* And what a row's scale may be off. */
double check_scale_error(double scale, double row_error);

/* ---- ragged batches and paged caches ---- */

typedef struct check_seq {
    int32_t n_tokens; /* in this step */
    int32_t kv_len;   /* after it */
} check_seq;

/* A step over these sequences; or, with seq >= 0, its part: tokens [from, to) of that sequence alone, at the cache
 * indices that they have in the whole. */
typedef struct check_step {
    const check_seq *seqs;
    int n_seqs;
    int seq; /* -1: the whole */
    int32_t from, to;
} check_step;

/* The step as check_part() says: 0 is the whole, 1 … n_seqs one sequence alone, then sequence 0 in chunks of 5 and token
 * by token (the first, the second, a middle and the last one). False: no such part. */
bool check_step_init(check_step *step, const check *c, const check_seq *seqs, int n_seqs);
int64_t check_step_tokens(const check_step *step);
/* The token of the whole that is the first of the part. */
int64_t check_step_first(const check_step *step);

/* A batch with every array filled: positions are cache indices + 3 (so that they are not the same thing), ids are below
 * `vocab`, no outputs. `args_batch` is the address of args->batch. */
spey_ragged *check_batch(check *c, void *args_batch, const check_step *step, int vocab);

typedef struct check_cache {
    spey_dtype dtype;
    int32_t group;
    int32_t block_tokens;
    int64_t n_heads, k_dim, v_dim;
    bool pad;    /* holes between tokens, heads and blocks */
    bool scaled; /* E4M3: with scales of the heads */
    int64_t
        window; /* > 0: blocks wholly before the window of the step's first token are not in use */
} check_cache;

/* A pool of two layers with shuffled blocks for the sequences, all NaN (I8: and its scales), and its table in batch->groups[cache.group];
 * entries that are not in use are absurd. `view` lies in args: its base is bound. */
check_buffer *check_cache_new(check *c, const check_cache *cache, const check_step *step,
                              spey_ragged *batch, spey_kv_view *view);
/* Element of the pool's buffer that holds K (or V) [0] of head h at cache index i of sequence `seq` of the whole. */
int64_t check_cache_k(const check *c, const spey_kv_view *view, int seq, int64_t h, int64_t i);
int64_t check_cache_v(const check *c, const spey_kv_view *view, int seq, int64_t h, int64_t i);
/* I8: the element of the buffer bound to view->token_scales that holds the scale of K (or V) there. */
int64_t check_cache_k_scale(const check *c, const spey_kv_view *view, int seq, int64_t h,
                            int64_t i);
int64_t check_cache_v_scale(const check *c, const spey_kv_view *view, int seq, int64_t h,
                            int64_t i);

/* A pool of two layers of states of `elements`, shuffled among the sequences; those of sequences that have tokens before
 * this step are filled with N(0, 1), the others are NaN. Those of the step's sequences are outputs, unless a sequence has
 * no tokens. `view` lies in args: its base is bound. */
check_buffer *check_states_new(check *c, int32_t group, int64_t elements, const check_step *step,
                               spey_ragged *batch, spey_state_view *view);

#endif
