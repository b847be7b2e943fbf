/* The small kernels around a library GEMM on CUDA. Matrices are row-major, pitches in elements. */
#ifndef SPEY_KERNELS_GEMM_GEMM_FINISH_H
#define SPEY_KERNELS_GEMM_GEMM_FINISH_H

#include <cuda_runtime_api.h>
#include <stdbool.h>

#include "device/backend.h"
#include "kernels/gemm/gemm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct spey_gemm_finish {
    int64_t rows;
    int64_t cols;
    const void *sums;      /* NULL: all zero */
    spey_dtype sums_dtype; /* F32 or BF16 */
    int64_t sums_pitch;
    const float
        *row_scales; /* [rows] (row_scale_step 1), one for all (0), or NULL: sums are not scaled */
    int64_t row_scale_step;
    const float *col_scales; /* [cols] (col_scale_step 1), or one for all (0) */
    int64_t col_scale_step;
    const float *bias; /* or NULL */
    spey_activation activation;
    void *out; /* F32, F16, BF16; may be sums itself */
    spey_dtype out_dtype;
    int64_t out_pitch;
} spey_gemm_finish;

/* out = activation(sums · scales + bias), rounded once. rows, cols > 0. */
void spey_gemm_finish_launch(const spey_gemm_finish *finish, cudaStream_t stream);

/* out [rows, k] of w_dtype, without padding = x [rows, k], to nearest even. rows, k > 0. */
void spey_gemm_convert_launch(const spey_gemm_args *args, void *out, cudaStream_t stream);

/* out [rows, k] E4M3, without padding, and scales [rows]: x as x_quant says. rows > 0, k a multiple of 16. */
void spey_gemm_quantize_launch(const spey_gemm_args *args, void *out, float *scales,
                               cudaStream_t stream);

/* In place of the library for one or two rows, when it takes the args (of a row that supports them). rows, n > 0. */
bool spey_gemv_takes(const spey_gemm_args *args);
void spey_gemv_launch(const spey_gemm_args *args, cudaStream_t stream);

/* The same for up to 8 rows on sm_90, with weights of E4M3 too. */
bool spey_few_rows_takes(const spey_device *device, const spey_gemm_args *args);
void spey_few_rows_launch(const spey_device *device, const spey_gemm_args *args);
/* Whether it takes the args and does glu, too. */
bool spey_few_rows_gates(const spey_device *device, const spey_gemm_args *args);

/* And for weights of FP32 with few outputs. */
bool spey_narrow_takes(const spey_gemm_args *args);
void spey_narrow_launch(const spey_device *device, const spey_gemm_args *args);

#ifdef __cplusplus
}
#endif

#endif
