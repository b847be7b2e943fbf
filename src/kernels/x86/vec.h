/* The vector type of the file that includes this: AVX-512 or AVX2, by the flags that its suffix stands for. */
#ifndef SPEY_KERNELS_X86_VEC_H
#define SPEY_KERNELS_X86_VEC_H

#if defined(__AVX512F__)
#include "kernels/x86/vec512.h"
#else
#include "kernels/x86/vec256.h"
#endif

#endif
