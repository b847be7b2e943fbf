/* link: ids[places[i]] = found[numbers[i]], 0 for what is negative: ids that the step before found, where this step reads them.
 *
 *   places, numbers   int32 [rows], dense; no place twice
 *   found, ids        int32; they do not overlap
 * Exact. rows == 0 touches nothing. */
#ifndef SPEY_KERNELS_LINK_LINK_H
#define SPEY_KERNELS_LINK_LINK_H

#include <stdint.h>

typedef struct spey_link_args {
    int64_t rows;
    const int32_t *places, *numbers;
    const int32_t *found;
    int32_t *ids;
} spey_link_args;

#endif
