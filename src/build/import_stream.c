/* Bytes of a weight, in slices that stay in the cache: what bounds this is the disk, or the memory behind the page cache.
 * Slices of 1 MiB keep the copy, its checksum and the write to one pass over memory; what was consumed leaves our
 * mapping (not the page cache), so that resident memory stays bounded as well. */
#include <inttypes.h>

#include <string.h>

#include "base/alloc.h"
#include "build/import_plan.h"
#include "build/import_quant.h"

enum {
    SLICE_BYTES = 1 << 20,
    TRANSPOSE_BYTES = 16 << 20, /* larger: every pass over the source is strided */
    TILE = 32,
};

/* One matrix of a leaf on its way: n elements of the source's type become the weight's. */
typedef struct stream {
    const spey_weight *weight;
    const spey_safetensor *source;
    const spey_source_scale *scale; /* of an E4M3 source that must be widened; else NULL */
    spey_quantizer *quantizer;      /* of a weight that becomes E4M3; else NULL */
    size_t begin;                   /* byte of the source where the matrix begins */
    int64_t begin_row;              /* its row */
    spey_engine_writer *writer;
    uint8_t *converted; /* SLICE_BYTES */
    float *row;         /* room for one row, when it must be widened and not quantized */
} stream;

static spey_status fail_overflow(const stream *s, spey_dtype from, const uint8_t *src, int64_t at)
{
    double value = 0;
    spey_convert(&value, SPEY_F64, src + (size_t)at * spey_dtype_bytes(from), from, 1);
    return SPEY_FAIL(SPEY_FORMAT,
                     "tensor %s holds %g, which does not fit %s: build with --dtype %s",
                     s->source->name, value, spey_dtype_name(s->weight->dtype),
                     s->weight->dtype == SPEY_F16 ? "bf16" : "f32");
}

/* E4M3 elements that stay as they are; kernels count on there being no NaN. */
static spey_status check_e4m3(const stream *s, const uint8_t *src, size_t n)
{
    unsigned nan = 0;
    for (size_t i = 0; i < n; i++)
        nan |= (src[i] & 0x7fu) == SPEY_E4M3_NAN;
    return nan ? SPEY_FAIL(SPEY_FORMAT, "tensor %s holds NaN", s->source->name) : SPEY_OK;
}

/* n consecutive elements. */
static spey_status put_run(const stream *s, spey_dtype from, const uint8_t *src, size_t n)
{
    spey_dtype to = s->weight->dtype;
    size_t from_bytes = spey_dtype_bytes(from), to_bytes = spey_dtype_bytes(to);
    size_t step = SLICE_BYTES / (from_bytes > to_bytes ? from_bytes : to_bytes);
    for (size_t done = 0; done < n;) {
        size_t count = n - done < step ? n - done : step;
        const uint8_t *slice = src + done * from_bytes;
        const void *bytes = slice;
        if (from != to) {
            spey_convert(s->converted, to, slice, from, count);
            int64_t at = spey_convert_find_overflow(s->converted, to, slice, from, count);
            if (at >= 0) return fail_overflow(s, from, slice, at);
            bytes = s->converted;
        } else if (to == SPEY_E4M3) {
            SPEY_TRY(check_e4m3(s, slice, count));
        }
        SPEY_TRY(spey_engine_writer_append(s->writer, bytes, count * to_bytes));
        done += count;
    }
    return SPEY_OK;
}

/* A row of the weight in F32; it is row (transposed: column) `at` of the source's matrix. */
static void widen_row(const stream *s, const uint8_t *src, int64_t at, float *out)
{
    const int64_t n = spey_weight_shape(s->weight).cols;
    if (!s->scale) {
        spey_convert(out, SPEY_F32, src, s->source->dtype, (size_t)n);
        return;
    }
    const bool turned = s->weight->source.transpose;
    const int64_t step = turned ? s->scale->block_rows : s->scale->block_cols;
    spey_e4m3_widen(out, src, (size_t)n);
    /* Rows of a transposed matrix begin where its source does, so that blocks do too. */
    for (int64_t i = 0; i < n;) {
        int64_t along = (turned ? s->begin_row : 0) + i, end = i + step - along % step;
        float scale = turned ? spey_source_scale_at(s->scale, along, at)
                             : spey_source_scale_at(s->scale, s->begin_row + at, along);
        for (; i < end && i < n; i++)
            out[i] *= scale;
    }
}

/* n rows of the weight, from row (transposed: column) `first` of the source's matrix. */
static spey_status put_rows(const stream *s, const uint8_t *src, int64_t first, int64_t n)
{
    const size_t cols = (size_t)spey_weight_shape(s->weight).cols;
    const size_t row_bytes = cols * spey_dtype_bytes(s->source->dtype);
    if (!s->scale && !s->quantizer) return put_run(s, s->source->dtype, src, (size_t)n * cols);
    for (int64_t r = 0; r < n; r++) {
        float *row = s->quantizer ? spey_quantizer_row(s->quantizer) : s->row;
        widen_row(s, src + (size_t)r * row_bytes, first + r, row);
        if (s->quantizer)
            SPEY_TRY(spey_quantizer_put(s->quantizer, s->source->name, s->writer));
        else
            SPEY_TRY(put_run(s, SPEY_F32, (const uint8_t *)row, cols));
    }
    return SPEY_OK;
}

/* ---- transposition ---- */

/* dst[r][c] = src[c][r], tile by tile: dst rows are `cols` long, src rows `src_pitch`. */
#define TRANSPOSE_FUNCTION(name, bits)                                                        \
    static void name(uint8_t *dst, const uint8_t *src, int64_t rows, int64_t cols,            \
                     int64_t src_pitch)                                                       \
    {                                                                                         \
        const int64_t size = bits / 8;                                                        \
        for (int64_t r0 = 0; r0 < rows; r0 += TILE)                                           \
            for (int64_t c0 = 0; c0 < cols; c0 += TILE)                                       \
                for (int64_t r = r0; r < rows && r < r0 + TILE; r++)                          \
                    for (int64_t c = c0; c < cols && c < c0 + TILE; c++)                      \
                        memcpy(dst + (r * cols + c) * size, src + (c * src_pitch + r) * size, \
                               bits / 8);                                                     \
    }
TRANSPOSE_FUNCTION(transpose_8, 8)
TRANSPOSE_FUNCTION(transpose_16, 16)
TRANSPOSE_FUNCTION(transpose_32, 32)
TRANSPOSE_FUNCTION(transpose_64, 64)
#undef TRANSPOSE_FUNCTION

static void transpose(size_t element_bytes, uint8_t *dst, const uint8_t *src,
                      spey_matrix_shape shape, int64_t src_pitch)
{
    switch (element_bytes) {
    case 1: transpose_8(dst, src, shape.rows, shape.cols, src_pitch); break;
    case 2: transpose_16(dst, src, shape.rows, shape.cols, src_pitch); break;
    case 4: transpose_32(dst, src, shape.rows, shape.cols, src_pitch); break;
    default: transpose_64(dst, src, shape.rows, shape.cols, src_pitch); break;
    }
}

/* `rows` rows of the weight that are columns `first`… of the source. */
static spey_status put_columns(const stream *s, spey_import *import, int64_t first, int64_t rows)
{
    spey_matrix_shape shape = spey_weight_shape(s->weight);
    size_t element_bytes = spey_dtype_bytes(s->source->dtype);
    int64_t pitch = s->source->dims[s->source->n_dims - 1];
    const uint8_t *data = (const uint8_t *)s->source->data + s->begin;
    uint8_t *turned = import->buffer + SLICE_BYTES;
    const size_t row_bytes = s->row ? (size_t)shape.cols * sizeof *s->row : 0;
    int64_t step =
        (int64_t)((import->buffer_bytes - SLICE_BYTES - row_bytes) / element_bytes) / shape.cols;
    for (int64_t done = 0; done < rows;) {
        int64_t count = rows - done < step ? rows - done : step;
        transpose(element_bytes, turned, data + (size_t)(first + done) * element_bytes,
                  (spey_matrix_shape){ count, shape.cols }, pitch);
        SPEY_TRY(put_rows(s, turned, first + done, count));
        done += count;
    }
    return SPEY_OK;
}

/* ---- leaves ---- */

/* Room for a slice, for a transposed weight for TRANSPOSE_BYTES or one row, whichever is more, and at the end for a row of
 * F32. */
static spey_status reserve(spey_import *import, const spey_weight *weight,
                           const spey_safetensor *source)
{
    size_t need = SLICE_BYTES;
    if (source->dtype == SPEY_E4M3) need += (size_t)spey_weight_shape(weight).cols * sizeof(float);
    if (weight->source.transpose) {
        size_t row = (size_t)spey_weight_shape(weight).cols * spey_dtype_bytes(source->dtype);
        need += row > TRANSPOSE_BYTES ? row : TRANSPOSE_BYTES;
    }
    need = (need + 63) & ~(size_t)63; /* the row begins where an F32 may */
    if (need <= import->buffer_bytes) return SPEY_OK;
    spey_free(import->buffer);
    import->buffer_bytes = 0;
    import->buffer = spey_alloc(SPEY_PURPOSE_GENERAL, need);
    if (!import->buffer) return SPEY_NOMEM;
    import->buffer_bytes = need;
    return SPEY_OK;
}

/* A table that the model computed, as a tensor. */
static spey_safetensor as_tensor(const spey_weight *weight)
{
    spey_matrix_shape shape = spey_weight_shape(weight);
    return (spey_safetensor){ .name = weight->name,
                              .dtype = SPEY_F32,
                              .n_dims = 2,
                              .dims = { shape.rows, shape.cols },
                              .data = weight->source.values,
                              .bytes = (size_t)(shape.rows * shape.cols) * sizeof(float) };
}

static void drop(const spey_import *import, const spey_safetensor *source, size_t offset,
                 size_t bytes)
{
    const spey_file_map *map = spey_safetensors_file_map(import->tensors, source->file);
    spey_file_map_drop(map, (size_t)((const uint8_t *)source->data - map->data) + offset, bytes);
}

/* The rows that the leaf takes from one matrix. */
static spey_status stream_matrix(spey_import *import, const stream *s)
{
    const spey_weight *weight = s->weight;
    const bool is_mapped = weight->source.tensor != NULL;
    const spey_source_rows rows = spey_weight_rows(weight);
    const size_t row_elements = (size_t)spey_weight_shape(weight).cols;
    const size_t row_bytes = row_elements * spey_dtype_bytes(s->source->dtype);
    for (int64_t i = 0; i < rows.n_pieces; i++) {
        int64_t first = rows.begin + i * rows.stride;
        if (weight->source.transpose) {
            SPEY_TRY(put_columns(s, import, first, rows.piece));
            continue;
        }
        size_t offset = s->begin + (size_t)first * row_bytes;
        SPEY_TRY(put_rows(s, (const uint8_t *)s->source->data + offset, first, rows.piece));
        if (is_mapped) drop(import, s->source, offset, (size_t)rows.piece * row_bytes);
    }
    const size_t bytes = (size_t)spey_weight_shape(weight).rows * row_bytes;
    if (weight->source.transpose && is_mapped) drop(import, s->source, s->begin, bytes);
    return SPEY_OK;
}

/* Where matrix i of a stack begins in its tensor. */
static size_t begin_of(const spey_weight *weight, const spey_safetensor *tensor, int64_t i)
{
    const spey_weight_source *source = &weight->source;
    if (source->stack == SPEY_STACK_ONE)
        return tensor->bytes / (size_t)spey_weight_matrices(weight) * (size_t)i;
    if (source->stack == SPEY_STACK_PIECES)
        return (size_t)((source->row_begin + i * source->row_stride) * tensor->dims[1]) *
               spey_dtype_bytes(tensor->dtype);
    return 0;
}

/* The row of its tensor where matrix i of a stack begins. */
static int64_t begin_row_of(const spey_weight *weight, int64_t i)
{
    const spey_weight_source *source = &weight->source;
    return source->stack == SPEY_STACK_PIECES ? source->row_begin + i * source->row_stride : 0;
}

static spey_status stream_leaf(spey_import *import, int32_t index, spey_quantizer *quantizer,
                               spey_engine_writer *writer)
{
    const spey_weight *weight = &import->graph->weights[index];
    const spey_safetensor computed = as_tensor(weight);
    const int first = import->first_source[index];
    const bool many = weight->source.stack == SPEY_STACK_TENSORS;
    for (int64_t i = 0; i < spey_weight_matrices(weight); i++) {
        const int64_t at = first + (many ? i : 0);
        stream s = {
            .weight = weight, .source = &computed, .quantizer = quantizer, .writer = writer
        };
        if (weight->source.tensor) s.source = import->sources[at];
        const bool widen =
            s.source->dtype == SPEY_E4M3 && (quantizer || weight->dtype != SPEY_E4M3);
        if (widen) s.scale = &import->scales[at];
        s.begin = begin_of(weight, s.source, i);
        s.begin_row = begin_row_of(weight, i);
        SPEY_TRY(reserve(import, weight, s.source));
        s.converted = import->buffer;
        if (widen && !quantizer)
            s.row = (float *)(void *)(import->buffer + import->buffer_bytes) -
                    spey_weight_shape(weight).cols;
        SPEY_TRY(stream_matrix(import, &s));
    }
    return SPEY_OK;
}

/* A leaf, or all parts of a folded weight. */
static spey_status stream_parts(spey_import *import, int32_t index, spey_quantizer *quantizer,
                                spey_engine_writer *writer)
{
    const spey_weight *weight = &import->graph->weights[index];
    if (!weight->n_parts) return stream_leaf(import, index, quantizer, writer);
    for (int i = 0; i < weight->n_parts; i++)
        SPEY_TRY(stream_leaf(import, weight->parts[i], quantizer, writer));
    return SPEY_OK;
}

static spey_status stream_quantized(spey_import *import, int32_t index, spey_engine_writer *writer)
{
    const spey_weight *weight = &import->graph->weights[index];
    const spey_weight *scale = &import->graph->weights[weight->scale];
    const int last = weight->n_dims - 1;
    int64_t outputs = weight->dims[0] * (last == 2 ? weight->dims[1] : 1);
    if (!import->quantizer) SPEY_TRY(spey_quantizer_new(&import->quantizer));
    spey_quantizer *quantizer = import->quantizer;
    bool one_scale = last == 1 && scale->dims[0] != outputs;
    SPEY_TRY(spey_quantizer_begin(quantizer, outputs, weight->dims[last], one_scale));
    if (spey_quantizer_measures(quantizer)) {
        SPEY_TRY(stream_parts(import, index, quantizer, writer));
        spey_quantizer_measured(quantizer);
    }
    return stream_parts(import, index, quantizer, writer);
}

spey_status spey_import_stream(spey_import *import, int32_t index, spey_engine_writer *writer)
{
    const spey_weight *weight = &import->graph->weights[index];
    const spey_weight_source *source = &weight->source;
    if (!weight->n_parts && !source->tensor && !source->values) { /* scales of the last weight */
        int64_t n;
        const float *scales = spey_quantizer_scales(import->quantizer, &n);
        return spey_engine_writer_append(writer, scales, (size_t)n * sizeof *scales);
    }
    bool known = weight->dtype != SPEY_E4M3 || import->graph->weights[weight->scale].source.values;
    return known ? stream_parts(import, index, NULL, writer)
                 : stream_quantized(import, index, writer);
}
