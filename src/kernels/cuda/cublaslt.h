/* cuBLASLt, opened at run time: it is 500 MB, so it stays with the CUDA installation, and a machine without it gets one
 * clear line instead of a program that does not start. */
#ifndef SPEY_KERNELS_CUDA_CUBLASLT_H
#define SPEY_KERNELS_CUDA_CUBLASLT_H

#include <cublasLt.h>

#include "kernels/cuda/cuda_device.h"

/* clang-format off */
#define SPEY_CUBLASLT_LIST(X)        \
    X(Create)                        \
    X(Destroy)                       \
    X(GetVersion)                    \
    X(GetStatusName)                 \
    X(Matmul)                        \
    X(MatmulAlgoCheck)               \
    X(MatmulAlgoGetHeuristic)        \
    X(MatmulDescInit_internal)       \
    X(MatmulDescSetAttribute)        \
    X(MatrixLayoutInit_internal)     \
    X(MatmulPreferenceInit_internal) \
    X(MatmulPreferenceSetAttribute)
/* clang-format on */

/* What decides which algorithm is best; pitches count by their alignment only. No padding: compared as bytes. */
typedef struct spey_cublaslt_key {
    int64_t n;
    int64_t k;
    int64_t rows;           /* a bucket, see gemm_plans.h */
    int32_t x_type, y_type; /* cudaDataType_t */
    int32_t epilogue;       /* cublasLtEpilogue_t */
    int32_t alignment;      /* bytes that divide every pointer and pitch, at most 16 */
    int32_t scale_mode;     /* of E4M3 matrices, see gemm_plans.h */
    int32_t fast;           /* E4M3: sums with few bits */
} spey_cublaslt_key;

typedef enum spey_plan_origin {
    SPEY_PLAN_GUESSED,  /* the library's heuristics */
    SPEY_PLAN_MEASURED, /* was the fastest */
    SPEY_PLAN_RECORDED, /* in a record; not yet checked */
} spey_plan_origin;

typedef struct spey_cublaslt_plan {
    spey_cublaslt_key key;
    cublasStatus_t status; /* SUCCESS: what follows can be used; NOT_SUPPORTED: nothing can */
    cublasLtMatmulAlgo_t algo;
    size_t workspace_bytes;
    spey_plan_origin origin;
    int32_t pieces;  /* a call for each: 1 for all at once */
    bool by_columns; /* pieces of outputs, not of rows */
    bool slow;       /* E4M3 scaled by rows and columns: better scaled afterwards */
} spey_cublaslt_plan;

enum {
    SPEY_CUBLASLT_PLANS = 4096
}; /* about 40 row buckets times the distinct GEMMs of a model, E4M3 in two ways; power of 2 */

/* A device's share: handle, workspace and the plans made so far (n == 0: free). */
struct spey_cublaslt {
#define SPEY_CUBLASLT_POINTER(name) __typeof__(cublasLt##name) *name;
    SPEY_CUBLASLT_LIST(SPEY_CUBLASLT_POINTER)
#undef SPEY_CUBLASLT_POINTER
    void *library;
    cublasLtHandle_t handle;
    void *workspace; /* SPEY_CUDA_GEMM_WORKSPACE bytes; users of the one stream share it */
    spey_cublaslt_plan plans[SPEY_CUBLASLT_PLANS];
};

/* SPEY_NOT_FOUND: no usable library; the text says where to get it. On failure call close all the same. */
spey_status spey_cublaslt_open(spey_device *device);
void spey_cublaslt_close(spey_device *device);

#endif
