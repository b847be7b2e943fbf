#include "build/source_scale.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"

/* Rows and columns of the blocks of DeepSeek and Qwen. */
enum { BLOCK = 128 };

/* `tensor` with `ending` behind it, or instead of its last component. */
static const spey_safetensor *find_beside(const spey_safetensors *tensors, const char *tensor,
                                          const char *ending, bool instead)
{
    char name[SPEY_NAME_BYTES_MAX];
    const char *dot = strrchr(tensor, '.');
    int keep = (int)(instead && dot ? (size_t)(dot + 1 - tensor) : strlen(tensor));
    int n = snprintf(name, sizeof name, "%.*s%s", keep, tensor, ending);
    return n < (int)sizeof name ? spey_safetensors_find(tensors, name) : NULL;
}

static int64_t count(const spey_safetensor *tensor)
{
    int64_t n = 1;
    for (int i = 0; i < tensor->n_dims; i++)
        n *= tensor->dims[i];
    return n;
}

static float value_at(const spey_safetensor *tensor, int64_t i)
{
    float value = 0;
    spey_convert(&value, SPEY_F32,
                 (const uint8_t *)tensor->data + (size_t)i * spey_dtype_bytes(tensor->dtype),
                 tensor->dtype, 1);
    return value;
}

static spey_status check_values(const spey_safetensor *scale)
{
    if (!spey_dtype_is_float(scale->dtype))
        return SPEY_FAIL(SPEY_FORMAT, "tensor %s is %s, scales are f32, f16 or bf16", scale->name,
                         spey_dtype_name(scale->dtype));
    for (int64_t i = 0; i < count(scale); i++) {
        double value = (double)value_at(scale, i);
        if (!(value > 0 && isfinite(value)))
            return SPEY_FAIL(SPEY_FORMAT, "tensor %s holds the scale %g, expected positive numbers",
                             scale->name, value);
    }
    return SPEY_OK;
}

/* From the shape alone: one, one for each row, or one for each block of 128 × 128. */
static spey_status describe(const spey_safetensor *matrix, const spey_safetensor *scale,
                            spey_source_scale *out)
{
    const int64_t rows = matrix->dims[0], cols = matrix->dims[1];
    const int64_t across = (cols + BLOCK - 1) / BLOCK, down = (rows + BLOCK - 1) / BLOCK;
    const bool column =
        scale->n_dims == 1 || (scale->n_dims == 2 && scale->dims[scale->n_dims - 1] == 1);
    *out = (spey_source_scale){
        .tensor = scale, .block_rows = rows, .block_cols = cols, .pitch = 1, .by_rows = true
    };
    if (count(scale) == 1) return SPEY_OK;
    out->block_rows = 1;
    if (column && scale->dims[0] == rows) return SPEY_OK;
    out->block_rows = out->block_cols = BLOCK;
    out->pitch = across;
    out->by_rows = across == 1;
    if (scale->n_dims == 2 && scale->dims[0] == down && scale->dims[1] == across) return SPEY_OK;
    char found[SPEY_SHAPE_TEXT_BYTES], of[SPEY_SHAPE_TEXT_BYTES];
    return SPEY_FAIL(
        SPEY_FORMAT,
        "tensor %s is %s, expected one scale, one for each row or one for each block of "
        "128 by 128 of %s",
        scale->name, spey_shape_text(found, scale->n_dims, scale->dims),
        spey_shape_text(of, matrix->n_dims, matrix->dims));
}

spey_status spey_source_scale_find(const spey_safetensors *tensors, const spey_safetensor *matrix,
                                   spey_source_scale *out)
{
    const spey_safetensor *scale = find_beside(tensors, matrix->name, "_scale", false);
    if (!scale) scale = find_beside(tensors, matrix->name, "_scale_inv", false);
    if (!scale)
        return SPEY_FAIL(SPEY_FORMAT, "tensor %s is e4m3, and its scale %s_scale is missing",
                         matrix->name, matrix->name);
    if (matrix->n_dims != 2)
        return SPEY_FAIL(SPEY_UNSUPPORTED, "tensor %s is e4m3 with %d dims; matrices are read",
                         matrix->name, matrix->n_dims);
    SPEY_TRY(check_values(scale));
    return describe(matrix, scale, out);
}

float spey_source_scale_at(const spey_source_scale *scale, int64_t row, int64_t col)
{
    return value_at(scale->tensor,
                    row / scale->block_rows * scale->pitch + col / scale->block_cols);
}

spey_status spey_source_input_scale(const spey_safetensors *tensors, const spey_safetensor *matrix,
                                    float *out)
{
    *out = 0;
    const spey_safetensor *scale = find_beside(tensors, matrix->name, "input_scale", true);
    if (!scale) return SPEY_OK;
    if (count(scale) != 1)
        return SPEY_FAIL(SPEY_FORMAT, "tensor %s has %lld numbers, expected one scale", scale->name,
                         (long long)count(scale));
    SPEY_TRY(check_values(scale));
    *out = value_at(scale, 0);
    return SPEY_OK;
}

static bool ends_with(const char *text, const char *suffix)
{
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && !strcmp(text + n - m, suffix);
}

/* The first component that is a number; -1: none is. */
static int64_t layer_of(const char *name)
{
    for (const char *at = name; at; at = strchr(at, '.')) {
        at += *at == '.';
        size_t digits = strspn(at, "0123456789");
        if (digits && digits < 10 && at[digits] == '.') return strtoll(at, NULL, 10);
    }
    return -1;
}

bool spey_source_is_cache_scale(const char *name, int64_t *layer, bool *is_v)
{
    *is_v = ends_with(name, ".v_scale");
    *layer = layer_of(name);
    return *layer >= 0 && (*is_v || ends_with(name, ".k_scale"));
}

spey_status spey_source_cache_scales(const spey_safetensor *scales, int64_t heads, float *out)
{
    const int64_t n = count(scales);
    if (n != 1 && n != heads)
        return SPEY_FAIL(SPEY_FORMAT,
                         "tensor %s has %lld numbers, expected 1 or %lld: a head's each",
                         scales->name, (long long)n, (long long)heads);
    SPEY_TRY(check_values(scales));
    for (int64_t h = 0; h < heads; h++)
        out[h] = value_at(scales, n == 1 ? 0 : h);
    return SPEY_OK;
}

bool spey_source_is_scale(const spey_safetensors *tensors, const char *name)
{
    static const char *const cache[] = { ".k_scale", ".v_scale", ".q_scale", ".kv_scale",
                                         ".output_scale" };
    static const char *const matrix[] = { "_scale", "_scale_inv" };
    static const char *const input[] = { "input_scale", "input_scale_ub" };
    char of[SPEY_NAME_BYTES_MAX];
    const spey_safetensor *owner = NULL;
    for (size_t i = 0; i < sizeof cache / sizeof *cache; i++)
        if (ends_with(name, cache[i])) return true;
    for (size_t i = 0; i < 2 && !owner; i++) {
        if (ends_with(name, matrix[i])) {
            snprintf(of, sizeof of, "%.*s", (int)(strlen(name) - strlen(matrix[i])), name);
            owner = spey_safetensors_find(tensors, of);
        }
        if (!owner && ends_with(name, input[i])) owner = find_beside(tensors, name, "weight", true);
    }
    return owner && owner->dtype == SPEY_E4M3;
}
