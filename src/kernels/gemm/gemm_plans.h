/* Products through cuBLASLt: how the library is told of one, and plans: which algorithm it is to use.
 *
 * A plan is for a shape and a bucket of rows. It comes from the library's heuristics, at the first use, on the host, in about
 * 100 µs, which is allowed while a graph is captured; from measurements (gemm_tune.c); or from a record of such. */
#ifndef SPEY_KERNELS_GEMM_GEMM_PLANS_H
#define SPEY_KERNELS_GEMM_GEMM_PLANS_H

#include "kernels/cuda/cublaslt.h"
#include "kernels/gemm/gemm.h"

/* How the library scales a product of E4M3 matrices. */
typedef enum spey_scale_mode {
    SPEY_SCALE_NOT,  /* it does not */
    SPEY_SCALE_ONE,  /* by one number of each matrix */
    SPEY_SCALE_EACH, /* by one of each row of x and of each output */
} spey_scale_mode;

/* One library call. */
typedef struct spey_matmul {
    int64_t rows, n, k;
    const void *x, *w;
    const float *bias;
    void *y;
    int64_t x_pitch, w_pitch, y_pitch;
    cudaDataType_t x_type, y_type;
    cublasLtEpilogue_t epilogue;
    spey_scale_mode scale_mode;
    const float *x_scale, *w_scale;
    bool fast;
} spey_matmul;

static inline size_t spey_element_bytes(cudaDataType_t type)
{
    return type == CUDA_R_32F ? 4 : type == CUDA_R_8F_E4M3 ? 1 : 2;
}

/* The most rows for which plans are as for this many. */
int64_t spey_matmul_bucket(int64_t rows);

/* NOT_SUPPORTED: nothing was launched. */
cublasStatus_t spey_matmul_run(spey_device *device, const spey_matmul *m);
/* Report that the library refused m. */
void spey_matmul_note(spey_device *device, const spey_matmul *m, cublasStatus_t status);

/* SPEY_SCALE_EACH: scaling afterwards takes less time, as measured or, before that, as a rule. */
bool spey_matmul_is_slow(spey_device *device, const spey_matmul *m);

/* ---- what gemm_tune.c needs ---- */

enum { SPEY_MATMUL_CANDIDATES = 8, SPEY_MATMUL_PIECES_MAX = 8 };

/* Plans that the library offers for m's bucket, its best guess first; how many. */
int spey_matmul_candidates(spey_device *device, const spey_matmul *m,
                           spey_cublaslt_plan out[SPEY_MATMUL_CANDIDATES]);
/* From now on. Its key is m's. */
void spey_matmul_use(spey_device *device, const spey_cublaslt_plan *plan);
/* Measured, or from a record. */
bool spey_matmul_is_known(spey_device *device, const spey_matmul *m);

/* The library calls that tuning may choose between for these args: how many of at most 2, the one that scales last. None for
 * products that own kernels take. */
int spey_gemm_matmuls(const spey_device *device, const spey_gemm_args *args, spey_matmul out[2]);
extern const spey_kernel spey_gemm_cublaslt;

/* The backend's tune, tactics_read and tactics_write (device/backend.h). */
spey_status spey_gemm_tune(spey_device *device, const spey_step *steps, int n_steps);
size_t spey_gemm_tactics_read(spey_device *device, void *out, size_t capacity);
bool spey_gemm_tactics_write(spey_device *device, const void *bytes, size_t n);

#endif
