/* The harness's own view of a problem, and its parts: problem (what to run), target (where and how), compare. */
#ifndef SPEY_TESTS_CHECK_CHECK_IMPL_H
#define SPEY_TESTS_CHECK_CHECK_IMPL_H

#include <setjmp.h>

#include "check.h"
#include "device/backend.h"
#include "device/pool.h"

enum { CHECK_BUFFERS_MAX = 32, CHECK_BINDS_MAX = 64, CHECK_KEEPS_MAX = 16, CHECK_THREADS_MAX = 8 };

struct check_buffer {
    const char *name;
    spey_dtype dtype;
    int64_t n;
    size_t bytes;
    uint8_t *initial;
    uint8_t *reference; /* after the reference ran */
    uint8_t *result;    /* after the row ran */
    uint8_t *first;     /* the result of the row's first run, which the others must repeat */
    double *bound;      /* per element: < 0 must not change; NULL: no outputs in this buffer */
    void *target;       /* where it lies for the running row */
    void *mapping;      /* CPU: mapping with its guard pages */
    size_t mapping_bytes;
    uint8_t *pages; /* what of it is accessible */
    size_t pages_bytes;
};

typedef struct check_binding {
    void *field;
    check_buffer *buffer;
    int64_t first;
} check_binding;

/* Which copy the bound pointers show. */
typedef enum check_copy { CHECK_INITIAL, CHECK_REFERENCE, CHECK_TARGET } check_copy;

typedef struct check_layout check_layout;

struct check {
    const char *op;
    int index;
    int part;
    char name[160];
    spey_rng rng;
    check_buffer buffers[CHECK_BUFFERS_MAX];
    int n_buffers;
    check_binding binds[CHECK_BINDS_MAX];
    int n_binds;
    void *keeps[CHECK_KEEPS_MAX];
    int n_keeps;
    const check_layout *cache_layout; /* of the one cache that a problem may have */
    void *workspace_field;
    check_buffer workspace; /* sized per row */
    void *args;
    size_t args_bytes;
    double bytes, flops; /* bench */
};

check *check_problem_new(const char *op, size_t args_bytes, uint64_t seed, int index, int part);
void check_problem_free(check *c);
/* Let every bound pointer show that copy. */
void check_problem_bind(check *c, check_copy copy);

/* ---- target: where rows run ---- */

typedef enum check_place {
    CHECK_PLACE_START, /* every buffer aligned, begins behind a guard */
    CHECK_PLACE_END    /* every buffer ends at a guard, aligned to its element only */
} check_place;

typedef struct check_target {
    const spey_backend *backend;
    spey_device *device; /* NULL: the CPU, with the pools below */
    spey_pool *pools[CHECK_THREADS_MAX + 1];
    uint8_t *arena; /* device: all buffers of the problem that is placed */
    size_t arena_bytes;
    uint8_t *image; /* its host image */
    size_t *offsets;
} check_target;

spey_status check_target_open(check_target *t, const char *backend);
void check_target_close(check_target *t);
/* Put the initial contents and `workspace_bytes` of scratch where the row can use them, and bind to them. */
void check_target_place(check_target *t, check *c, check_place place, size_t workspace_bytes);
/* Run the row on the placed problem. False: it crashed, with the text in `why`. */
bool check_target_run(check_target *t, check *c, const spey_kernel *row, int threads,
                      char why[160]);
/* Bring the buffers back into `result` and release the placement. False: a canary was overwritten. */
bool check_target_collect(check_target *t, check *c, char why[160]);
spey_pool *check_target_pool(check_target *t, int threads);

/* ---- compare ---- */

typedef struct check_error {
    double worst;  /* largest error / bound over the inexact outputs */
    double nmse;   /* Σ (x - ref)² / Σ ref² */
    double cosine; /* 1 - 2 <x, ref> / (<x, x> + <ref, ref>) */
} check_error;

/* Results against the reference. False with the text in `why`. */
bool check_compare_reference(const check *c, check_error *error, char why[160]);
/* Results against the row's first run: all elements; `part`: only the outputs of c, against those of the whole. */
bool check_compare_first(const check *c, const check *whole, char why[160]);

/* ---- ceilings of this machine ---- */

typedef struct check_ceiling {
    double read_bytes; /* per second, all threads */
    double fma_flops;  /* FP32, per second, all threads */
} check_ceiling;

void check_ceiling_measure(spey_pool *pool, check_ceiling *out);
/* n_loops rounds of independent FP32 FMAs; returns the operations done. In check_ceiling_ISA.c. */
double check_ceiling_fma_avx512(int64_t n_loops, float *sink);
double check_ceiling_fma_avx2(int64_t n_loops, float *sink);
double check_ceiling_fma_plain(int64_t n_loops, float *sink);

_Noreturn void check_die(const char *format, ...) SPEY_PRINTF(1, 2);

#endif
