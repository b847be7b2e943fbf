/* E4M3 (8 bits: sign, 4 of exponent, 3 of fraction; no infinities) as numbers of F16, which holds them all. */
#ifndef SPEY_KERNELS_CUDA_E4M3_CUH
#define SPEY_KERNELS_CUDA_E4M3_CUH

#include <cuda_fp16.h>
#include <stdint.h>

/* Two of four bytes, chosen by the low and the high digit of a selector of PRMT (0x10: the first two), as two F16. */
static __device__ __forceinline__ uint32_t widen_e4m3(uint32_t four, uint32_t selector)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
    /* Exponent and fraction one place lower are the number times 2^-8, subnormal ones too. The code that would be 480 is
     * NaN. What the toolkit does instead takes thousands of instructions in a kernel. */
    const uint32_t digits = (selector & 0xfu) << 4 | (selector & 0xf0u) << 8 | 0x0404u;
    const uint32_t two = __byte_perm(four, 0, digits);
    const uint32_t small = (two & 0x80008000u) | (two >> 1 & 0x3f803f80u);
    const __half2 x = __hmul2(*reinterpret_cast<const __half2 *>(&small), __float2half2_rn(256.0f));
    const uint32_t nan = __heq2_mask(__habs2(x), __float2half2_rn(480.0f));
    return *reinterpret_cast<const uint32_t *>(&x) | nan;
#else
    /* The upper half of a word needs no move. */
    const bool upper = selector == 0x32;
    if (!upper && selector != 0x10) four = __byte_perm(four, 0, selector | 0x4400u);
    uint32_t x;
    if (upper)
        asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.rn.f16x2.e4m3x2 %0, high;}"
            : "=r"(x)
            : "r"(four));
    else
        asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.rn.f16x2.e4m3x2 %0, low;}"
            : "=r"(x)
            : "r"(four));
    return x;
#endif
}

#endif
