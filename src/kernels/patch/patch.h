/* patch: words[patches[i].place] = patches[i].value: the numbers of a step's tables that are not those of the step before.
 *
 *   patches   [rows]; no place twice
 *   words     int32; they do not overlap
 * Exact. rows == 0 touches nothing. */
#ifndef SPEY_KERNELS_PATCH_PATCH_H
#define SPEY_KERNELS_PATCH_PATCH_H

#include <stdint.h>

typedef struct spey_patch {
    int32_t place, value;
} spey_patch;

typedef struct spey_patch_args {
    int64_t rows;
    const spey_patch *patches;
    int32_t *words;
} spey_patch_args;

#endif
