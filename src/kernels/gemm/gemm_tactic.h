/* What a check must know of a record of products (tactics_read of device/backend.h): its tactics have the same size, and end
 * with how the product is cut. */
#ifndef SPEY_KERNELS_GEMM_GEMM_TACTIC_H
#define SPEY_KERNELS_GEMM_GEMM_TACTIC_H

#include <stdint.h>

enum { SPEY_GEMM_TACTIC_BYTES = 128 };

enum {
    SPEY_GEMM_CUT_SLOW = 1,       /* scaling afterwards takes less time */
    SPEY_GEMM_CUT_BY_COLUMNS = 2, /* pieces are of outputs, not of rows */
};

typedef struct spey_gemm_cut {
    uint32_t pieces;
    uint32_t flags; /* SPEY_GEMM_CUT_* */
} spey_gemm_cut;

#endif
