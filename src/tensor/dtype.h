/* Element types and their scalar conversions. */
#ifndef SPEY_TENSOR_DTYPE_H
#define SPEY_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* clang-format off */
/* X(name, text, safetensors spelling, bytes per element). The order is ABI of the engine file: append only. */
#define SPEY_DTYPE_LIST(X)        \
    X(F32,  "f32",  "F32",  4)    \
    X(F16,  "f16",  "F16",  2)    \
    X(BF16, "bf16", "BF16", 2)    \
    X(I8,   "i8",   "I8",   1)    \
    X(U8,   "u8",   "U8",   1)    \
    X(I32,  "i32",  "I32",  4)    \
    X(I64,  "i64",  "I64",  8)    \
    X(F64,  "f64",  "F64",  8)    \
    X(BOOL, "bool", "BOOL", 1)    \
    X(E4M3, "e4m3", "F8_E4M3", 1) \
    X(E5M2, "e5m2", "F8_E5M2", 1) \
    X(I16,  "i16",  "I16",  2)    \
    X(U16,  "u16",  "U16",  2)    \
    X(U32,  "u32",  "U32",  4)    \
    X(U64,  "u64",  "U64",  8)
/* clang-format on */

typedef enum spey_dtype {
#define SPEY_DTYPE_ENUM(name, text, safetensors, bytes) SPEY_##name,
    SPEY_DTYPE_LIST(SPEY_DTYPE_ENUM)
#undef SPEY_DTYPE_ENUM
        SPEY_DTYPE_COUNT
} spey_dtype;

size_t spey_dtype_bytes(spey_dtype dtype);
const char *spey_dtype_name(spey_dtype dtype);
/* By our name ("bf16") or safetensors' ("BF16"). False: unknown. */
bool spey_dtype_from_name(const char *name, size_t n, spey_dtype *out);

/* F32, F16, BF16 or F64. */
bool spey_dtype_is_float(spey_dtype dtype);

/* Convert n elements; F32, F16, BF16, F64 in any combination, round to nearest even; NaN stays NaN. Neither side need
 * be aligned; they may not overlap. False: not supported. */
bool spey_convert(void *dst, spey_dtype dst_dtype, const void *src, spey_dtype src_dtype, size_t n);
/* The first element that became infinite though it was finite; -1 when there is none. */
int64_t spey_convert_find_overflow(const void *dst, spey_dtype dst_dtype, const void *src,
                                   spey_dtype src_dtype, size_t n);

/* F32 of E4M3 elements. */
void spey_e4m3_widen(float *dst, const uint8_t *src, size_t n);
/* dst = src · inverse in E4M3: round to nearest even, saturate at 448. NaN stays NaN. */
void spey_e4m3_quantize(uint8_t *dst, const float *src, float inverse, size_t n);

static inline uint32_t spey_f32_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static inline float spey_f32_from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static inline float spey_bf16_to_f32(uint16_t h)
{
    return spey_f32_from_bits((uint32_t)h << 16);
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t spey_f32_to_bf16(float x)
{
    uint32_t u = spey_f32_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

static inline float spey_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31u, mantissa = h & 0x3ffu;
    if (exponent == 31) return spey_f32_from_bits(sign | 0x7f800000u | mantissa << 13);
    if (exponent) return spey_f32_from_bits(sign | (exponent + 112u) << 23 | mantissa << 13);
    float magnitude = (float)mantissa * 0x1p-24f; /* subnormal or zero: exact */
    return sign ? -magnitude : magnitude;
}

/* Round to nearest even; beyond 65504 (after rounding) infinity; NaN stays NaN. */
static inline uint16_t spey_f32_to_f16(float x)
{
    uint32_t u = spey_f32_bits(x), sign = u >> 16 & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (u < 0x38800000u) { /* subnormal: let the FPU round at the right bit */
        float shifted = spey_f32_from_bits(u) + 0.5f;
        return (uint16_t)(sign | (spey_f32_bits(shifted) - 0x3f000000u));
    }
    return (uint16_t)(sign | ((u - 0x38000000u + 0xfffu + (u >> 13 & 1u)) >> 13));
}

/* E4M3 as the OCP 8-bit floating point specification has it: no infinities, one NaN of each sign, at most 448. */
#define SPEY_E4M3_MAX 448.0f
enum { SPEY_E4M3_NAN = 0x7f };

static inline float spey_e4m3_to_f32(uint8_t e)
{
    uint32_t sign = (uint32_t)(e & 0x80u) << 24, magnitude = e & 0x7fu;
    if (magnitude == SPEY_E4M3_NAN) return spey_f32_from_bits(sign | 0x7fc00000u);
    if (magnitude >= 8) return spey_f32_from_bits(sign | ((magnitude << 20) + (120u << 23)));
    float small = (float)magnitude * 0x1p-9f; /* subnormal or zero: exact */
    return sign ? -small : small;
}

/* Round to nearest even; beyond 448 stays 448, infinities too; NaN stays NaN. */
static inline uint8_t spey_f32_to_e4m3(float x)
{
    uint32_t u = spey_f32_bits(x), sign = u >> 24 & 0x80u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint8_t)(sign | SPEY_E4M3_NAN);
    if (u >= 0x43e00000u) return (uint8_t)(sign | 0x7eu);
    if (u < 0x3c800000u) { /* subnormal: let the FPU round at the right bit */
        float shifted = spey_f32_from_bits(u) + 16384.0f;
        return (uint8_t)(sign | (spey_f32_bits(shifted) - spey_f32_bits(16384.0f)));
    }
    return (uint8_t)(sign | ((u - (120u << 23) + 0x7ffffu + (u >> 20 & 1u)) >> 20));
}

#endif
