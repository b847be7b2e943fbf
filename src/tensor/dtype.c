#include "tensor/dtype.h"

static const struct {
    const char *name;
    const char *safetensors;
    size_t bytes;
} info[SPEY_DTYPE_COUNT] = {
#define DTYPE_INFO(name, text, safetensors, bytes) { text, safetensors, bytes },
    SPEY_DTYPE_LIST(DTYPE_INFO)
#undef DTYPE_INFO
};

size_t spey_dtype_bytes(spey_dtype dtype)
{
    return (unsigned)dtype < SPEY_DTYPE_COUNT ? info[dtype].bytes : 0;
}

const char *spey_dtype_name(spey_dtype dtype)
{
    return (unsigned)dtype < SPEY_DTYPE_COUNT ? info[dtype].name : "?";
}

bool spey_dtype_from_name(const char *name, size_t n, spey_dtype *out)
{
    for (int i = 0; i < SPEY_DTYPE_COUNT; i++) {
        if ((strlen(info[i].name) == n && !memcmp(info[i].name, name, n)) ||
            (strlen(info[i].safetensors) == n && !memcmp(info[i].safetensors, name, n))) {
            *out = (spey_dtype)i;
            return true;
        }
    }
    return false;
}

/* ---- conversion ----
 *
 * Elements are loaded and stored with memcpy, so that nothing need be aligned; compilers turn it into plain vector
 * moves. All go through f32, the one hub; the branch-free halves below exist because the inline ones of the header,
 * made for single values, do not vectorise. */

static inline uint32_t select_bits(uint32_t mask, uint32_t yes, uint32_t no)
{
    return (yes & mask) | (no & ~mask);
}

/* All ones when a > b; both below 2^31. */
static inline uint32_t above(uint32_t a, uint32_t b)
{
    return (uint32_t) - (int32_t)((int32_t)a > (int32_t)b);
}

static inline float f16_to_f32(uint16_t h)
{
    uint32_t magnitude = h & 0x7fffu, shifted = (magnitude << 13) + (112u << 23);
    uint32_t special = shifted + (112u << 23);
    uint32_t subnormal =
        spey_f32_bits(spey_f32_from_bits(shifted + (1u << 23)) - spey_f32_from_bits(113u << 23));
    uint32_t bits = select_bits(above(magnitude, 0x7bffu), special, shifted);
    bits = select_bits(above(0x400u, magnitude), subnormal, bits);
    return spey_f32_from_bits(bits | (uint32_t)(h & 0x8000u) << 16);
}

static inline uint16_t f32_to_f16(float x)
{
    uint32_t u = spey_f32_bits(x), sign = u >> 16 & 0x8000u;
    u &= 0x7fffffffu;
    uint32_t normal = (u - 0x38000000u + 0xfffu + (u >> 13 & 1u)) >> 13;
    /* A value for the subnormal case alone, lest a large one overflow and raise a flag. */
    uint32_t small = select_bits(above(0x38800000u, u), u, 0);
    uint32_t subnormal = spey_f32_bits(spey_f32_from_bits(small) + 0.5f) - 0x3f000000u;
    uint32_t bits = select_bits(above(0x38800000u, u), subnormal, normal);
    bits = select_bits(above(u, 0x477fefffu), 0x7c00u, bits);
    bits = select_bits(above(u, 0x7f800000u), 0x7e00u, bits);
    return (uint16_t)(sign | bits);
}

static inline uint16_t f32_to_bf16(float x)
{
    uint32_t u = spey_f32_bits(x), rounded = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    return (uint16_t)select_bits(above(u & 0x7fffffffu, 0x7f800000u), u >> 16 | 0x40u, rounded);
}

/* To f32 with the last bit set when anything was lost ("round to odd"): rounding that once more to 16 bits equals
 * rounding the f64 at once. */
static inline float f64_to_f32_odd(double x)
{
    float nearest = (float)x;
    uint32_t bits = spey_f32_bits(nearest);
    double back = (double)nearest;
    if (back == x || x != x) return nearest;
    double magnitude = x < 0 ? -x : x, back_magnitude = back < 0 ? -back : back;
    if (back_magnitude > magnitude) bits--; /* towards zero */
    return spey_f32_from_bits(bits | 1u);
}

static inline float same_f32(float x)
{
    return x;
}

static inline float from_f64(double x)
{
    return (float)x;
}

static inline double to_f64(float x)
{
    return (double)x;
}

/* clang-format off */
/* X(function, destination type, source type, expression of x) */
#define CONVERSION_LIST(X)                                                        \
    X(f32_f16,  float,    uint16_t, f16_to_f32(x))                                \
    X(f32_bf16, float,    uint16_t, spey_bf16_to_f32(x))                          \
    X(f32_f64,  float,    double,   from_f64(x))                                  \
    X(f16_f32,  uint16_t, float,    f32_to_f16(x))                                \
    X(f16_bf16, uint16_t, uint16_t, f32_to_f16(spey_bf16_to_f32(x)))              \
    X(f16_f64,  uint16_t, double,   f32_to_f16(f64_to_f32_odd(x)))                \
    X(bf16_f32, uint16_t, float,    f32_to_bf16(same_f32(x)))                     \
    X(bf16_f16, uint16_t, uint16_t, f32_to_bf16(f16_to_f32(x)))                   \
    X(bf16_f64, uint16_t, double,   f32_to_bf16(f64_to_f32_odd(x)))               \
    X(f64_f32,  double,   float,    to_f64(x))                                    \
    X(f64_f16,  double,   uint16_t, to_f64(f16_to_f32(x)))                        \
    X(f64_bf16, double,   uint16_t, to_f64(spey_bf16_to_f32(x)))
/* clang-format on */

#define CONVERSION_FUNCTION(name, to, from, expression)                                        \
    static void name(unsigned char *restrict dst, const unsigned char *restrict src, size_t n) \
    {                                                                                          \
        for (size_t i = 0; i < n; i++) {                                                       \
            from x;                                                                            \
            memcpy(&x, src + i * sizeof x, sizeof x);                                          \
            to y = expression;                                                                 \
            memcpy(dst + i * sizeof y, &y, sizeof y);                                          \
        }                                                                                      \
    }
CONVERSION_LIST(CONVERSION_FUNCTION)
#undef CONVERSION_FUNCTION

typedef void conversion(unsigned char *restrict dst, const unsigned char *restrict src, size_t n);

static const struct {
    spey_dtype dst, src;
    conversion *run;
} conversions[] = {
    { SPEY_F32, SPEY_F16, f32_f16 },   { SPEY_F32, SPEY_BF16, f32_bf16 },
    { SPEY_F32, SPEY_F64, f32_f64 },   { SPEY_F16, SPEY_F32, f16_f32 },
    { SPEY_F16, SPEY_BF16, f16_bf16 }, { SPEY_F16, SPEY_F64, f16_f64 },
    { SPEY_BF16, SPEY_F32, bf16_f32 }, { SPEY_BF16, SPEY_F16, bf16_f16 },
    { SPEY_BF16, SPEY_F64, bf16_f64 }, { SPEY_F64, SPEY_F32, f64_f32 },
    { SPEY_F64, SPEY_F16, f64_f16 },   { SPEY_F64, SPEY_BF16, f64_bf16 },
};

bool spey_dtype_is_float(spey_dtype dtype)
{
    return dtype == SPEY_F32 || dtype == SPEY_F64 || dtype == SPEY_F16 || dtype == SPEY_BF16;
}

bool spey_convert(void *dst, spey_dtype dst_dtype, const void *src, spey_dtype src_dtype, size_t n)
{
    if (!spey_dtype_is_float(dst_dtype) || !spey_dtype_is_float(src_dtype)) return false;
    if (dst_dtype == src_dtype) {
        memcpy(dst, src, n * spey_dtype_bytes(dst_dtype));
        return true;
    }
    for (size_t i = 0; i < sizeof conversions / sizeof *conversions; i++)
        if (conversions[i].dst == dst_dtype && conversions[i].src == src_dtype)
            conversions[i].run(dst, src, n);
    return true;
}

/* ---- E4M3 ---- */

void spey_e4m3_widen(float *dst, const uint8_t *src, size_t n)
{
    float table[256];
    for (int i = 0; i < 256; i++)
        table[i] = spey_e4m3_to_f32((uint8_t)i);
    for (size_t i = 0; i < n; i++)
        dst[i] = table[src[i]];
}

static inline uint8_t f32_to_e4m3(float x)
{
    uint32_t u = spey_f32_bits(x), sign = u >> 24 & 0x80u;
    u &= 0x7fffffffu;
    uint32_t normal = (u - (120u << 23) + 0x7ffffu + (u >> 20 & 1u)) >> 20;
    uint32_t small = select_bits(above(0x3c800000u, u), u, 0);
    uint32_t subnormal =
        spey_f32_bits(spey_f32_from_bits(small) + 16384.0f) - spey_f32_bits(16384.0f);
    uint32_t bits = select_bits(above(0x3c800000u, u), subnormal, normal);
    bits = select_bits(above(u, 0x43dfffffu), 0x7eu, bits);
    bits = select_bits(above(u, 0x7f800000u), SPEY_E4M3_NAN, bits);
    return (uint8_t)(sign | bits);
}

void spey_e4m3_quantize(uint8_t *dst, const float *src, float inverse, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = f32_to_e4m3(src[i] * inverse);
}

/* ---- overflow ---- */

/* Exponent all ones, mantissa zero. */
static bool is_infinite(const unsigned char *p, spey_dtype dtype)
{
    uint64_t u = 0;
    memcpy(&u, p, spey_dtype_bytes(dtype)); /* little-endian, as all the formats here */
    switch (dtype) {
    case SPEY_F32: return (u & 0x7fffffffu) == 0x7f800000u;
    case SPEY_F64: return (u & 0x7fffffffffffffffu) == 0x7ff0000000000000u;
    case SPEY_F16: return (u & 0x7fffu) == 0x7c00u;
    default: return (u & 0x7fffu) == 0x7f80u;
    }
}

static bool has_infinite_16(const unsigned char *p, size_t n, uint16_t infinity)
{
    uint32_t found = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        found |= (uint32_t)((h & 0x7fffu) == infinity);
    }
    return found != 0;
}

static bool has_infinite_32(const unsigned char *p, size_t n)
{
    uint32_t found = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, p + 4 * i, 4);
        found |= (uint32_t)((u & 0x7fffffffu) == 0x7f800000u);
    }
    return found != 0;
}

int64_t spey_convert_find_overflow(const void *dst, spey_dtype dst_dtype, const void *src,
                                   spey_dtype src_dtype, size_t n)
{
    /* A first look that the vectoriser likes; nearly always it is all. */
    if (dst_dtype == src_dtype) return -1;
    switch (dst_dtype) {
    case SPEY_F16:
        if (!has_infinite_16(dst, n, 0x7c00)) return -1;
        break;
    case SPEY_BF16:
        if (!has_infinite_16(dst, n, 0x7f80)) return -1;
        break;
    case SPEY_F32:
        if (src_dtype != SPEY_F64 || !has_infinite_32(dst, n)) return -1;
        break;
    default: return -1; /* nothing is wider */
    }
    size_t dst_bytes = spey_dtype_bytes(dst_dtype), src_bytes = spey_dtype_bytes(src_dtype);
    for (size_t i = 0; i < n; i++)
        if (is_infinite((const unsigned char *)dst + i * dst_bytes, dst_dtype) &&
            !is_infinite((const unsigned char *)src + i * src_bytes, src_dtype))
            return (int64_t)i;
    return -1;
}
