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

static double load(const void *src, spey_dtype dtype, size_t i)
{
    switch (dtype) {
    case SPEY_F32: return (double)((const float *)src)[i];
    case SPEY_F64: return ((const double *)src)[i];
    case SPEY_F16: return (double)spey_f16_to_f32(((const uint16_t *)src)[i]);
    default: return (double)spey_bf16_to_f32(((const uint16_t *)src)[i]);
    }
}

static void store(void *dst, spey_dtype dtype, size_t i, double x)
{
    switch (dtype) {
    case SPEY_F32: ((float *)dst)[i] = (float)x; break;
    case SPEY_F64: ((double *)dst)[i] = x; break;
    case SPEY_F16: ((uint16_t *)dst)[i] = spey_f32_to_f16((float)x); break;
    default: ((uint16_t *)dst)[i] = spey_f32_to_bf16((float)x); break;
    }
}

static bool is_float(spey_dtype dtype)
{
    return dtype == SPEY_F32 || dtype == SPEY_F64 || dtype == SPEY_F16 || dtype == SPEY_BF16;
}

bool spey_convert(void *dst, spey_dtype dst_dtype, const void *src, spey_dtype src_dtype, size_t n)
{
    if (!is_float(dst_dtype) || !is_float(src_dtype)) return false;
    if (dst_dtype == src_dtype) {
        memcpy(dst, src, n * spey_dtype_bytes(dst_dtype));
        return true;
    }
    for (size_t i = 0; i < n; i++)
        store(dst, dst_dtype, i, load(src, src_dtype, i));
    return true;
}
