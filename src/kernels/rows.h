/* Declares the row of every line of rows.def. */
#ifndef SPEY_KERNELS_ROWS_H
#define SPEY_KERNELS_ROWS_H

#include "device/kernel.h"

#define SPEY_ROW(op, variant) extern const spey_kernel spey_##op##_##variant;
#include "kernels/rows.def"
#undef SPEY_ROW

#endif
