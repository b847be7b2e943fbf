#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "check_impl.h"

void check_die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("checkkernel: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(2);
}

static void *grab(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p) check_die("out of memory (%zu bytes)", bytes);
    return p;
}

check *check_problem_new(const char *op, size_t args_bytes, uint64_t seed, int index, int part)
{
    check *c = grab(sizeof *c);
    c->op = op;
    c->index = index;
    c->part = part;
    c->args = grab(args_bytes);
    c->args_bytes = args_bytes;
    c->rng.seed = spey_hash_bytes(op, strlen(op), seed + (uint64_t)index);
    snprintf(c->name, sizeof c->name, "case %d", index);
    return c;
}

void check_problem_free(check *c)
{
    if (!c) return;
    for (int i = 0; i < c->n_buffers; i++) {
        check_buffer *b = &c->buffers[i];
        free(b->initial);
        free(b->reference);
        free(b->result);
        free(b->first);
        free(b->bound);
    }
    for (int i = 0; i < c->n_keeps; i++)
        free(c->keeps[i]);
    free(c->args);
    free(c);
}

void check_problem_bind(check *c, check_copy copy)
{
    for (int i = 0; i < c->n_binds; i++) {
        const check_binding *bind = &c->binds[i];
        const check_buffer *b = bind->buffer;
        uint8_t *base = copy == CHECK_INITIAL     ? b->initial
                        : copy == CHECK_REFERENCE ? b->reference
                                                  : b->target;
        void *p = base + bind->first * (int64_t)spey_dtype_bytes(b->dtype);
        memcpy(bind->field, &p, sizeof p);
    }
}

/* ---- problem ---- */

void check_name(check *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(c->name, sizeof c->name, format, args);
    va_end(args);
}

spey_rng *check_rng(check *c)
{
    return &c->rng;
}

int check_part(const check *c)
{
    return c->part;
}

void check_work(check *c, double bytes, double flops)
{
    c->bytes = bytes;
    c->flops = flops;
}

/* ---- buffers ---- */

check_buffer *check_buffer_new(check *c, const char *name, spey_dtype dtype, int64_t n)
{
    if (c->n_buffers == CHECK_BUFFERS_MAX) check_die("%s: too many buffers", c->op);
    check_buffer *b = &c->buffers[c->n_buffers++];
    b->name = name;
    b->dtype = dtype;
    b->n = n;
    b->bytes = (size_t)n * spey_dtype_bytes(dtype);
    b->initial = grab(b->bytes);
    memset(b->initial, 0xff, b->bytes);
    return b;
}

void *check_host(check_buffer *b)
{
    return b->initial;
}

int64_t check_length(const check_buffer *b)
{
    return b->n;
}

double check_scalar(const void *array, spey_dtype dtype, int64_t i)
{
    switch (dtype) {
    case SPEY_F32: return (double)((const float *)array)[i];
    case SPEY_F16: return (double)spey_f16_to_f32(((const uint16_t *)array)[i]);
    case SPEY_BF16: return (double)spey_bf16_to_f32(((const uint16_t *)array)[i]);
    case SPEY_I32: return (double)((const int32_t *)array)[i];
    case SPEY_E4M3: return (double)spey_e4m3_to_f32(((const uint8_t *)array)[i]);
    case SPEY_I8: return (double)((const int8_t *)array)[i];
    default: check_die("no scalar access to %s", spey_dtype_name(dtype));
    }
}

void check_set(check_buffer *b, int64_t i, double value)
{
    if (i < 0 || i >= b->n) check_die("%s[%lld] of %lld", b->name, (long long)i, (long long)b->n);
    void *p = b->initial;
    switch (b->dtype) {
    case SPEY_F32: ((float *)p)[i] = (float)value; break;
    case SPEY_F16: ((uint16_t *)p)[i] = spey_f32_to_f16((float)value); break;
    case SPEY_BF16: ((uint16_t *)p)[i] = spey_f32_to_bf16((float)value); break;
    case SPEY_I32: ((int32_t *)p)[i] = (int32_t)value; break;
    case SPEY_E4M3: ((uint8_t *)p)[i] = spey_f32_to_e4m3((float)value); break;
    case SPEY_I8: ((int8_t *)p)[i] = (int8_t)value; break;
    default: check_die("no scalar access to %s", spey_dtype_name(b->dtype));
    }
}

double check_get(const check_buffer *b, int64_t i)
{
    return check_scalar(b->initial, b->dtype, i);
}

double check_reference(const check_buffer *b, int64_t i)
{
    return check_scalar(b->reference, b->dtype, i);
}

void check_bind(check *c, void *field, check_buffer *b, int64_t first)
{
    if (c->n_binds == CHECK_BINDS_MAX) check_die("%s: too many pointers", c->op);
    c->binds[c->n_binds++] = (check_binding){ field, b, first };
    /* So that make() can already read through it. */
    void *p = b->initial + first * (int64_t)spey_dtype_bytes(b->dtype);
    memcpy(field, &p, sizeof p);
}

check_buffer *check_bound_to(const check *c, const void *field)
{
    for (int i = 0; i < c->n_binds; i++)
        if (c->binds[i].field == field) return c->binds[i].buffer;
    check_die("%s: that field is not bound", c->name);
}

void check_workspace(check *c, void *field)
{
    c->workspace_field = field;
}

void *check_keep(check *c, size_t bytes)
{
    if (c->n_keeps == CHECK_KEEPS_MAX) check_die("%s: too many structs", c->op);
    return c->keeps[c->n_keeps++] = grab(bytes);
}

/* Benches have gigabytes of operands: beyond so many elements the numbers drawn first come again. */
enum { DRAWN_MAX = 1 << 22 };

static double draw_or_repeat(check *c, int64_t i)
{
    static double drawn[DRAWN_MAX];
    if (i < DRAWN_MAX) drawn[i] = spey_rng_normal(&c->rng);
    return drawn[i % DRAWN_MAX];
}

void check_fill(check *c, check_buffer *b, int64_t first, int64_t rows, int64_t cols, int64_t pitch,
                double center, double scale)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < cols; i++)
            check_set(b, first + r * pitch + i, center + scale * draw_or_repeat(c, r * cols + i));
}

check_buffer *check_matrix(check *c, const char *name, spey_dtype dtype, int64_t rows, int64_t cols,
                           int64_t pitch, double center, double scale)
{
    /* The last row ends with its last element: reading its padding is a fault. */
    check_buffer *b =
        check_buffer_new(c, name, dtype, rows > 0 && cols > 0 ? (rows - 1) * pitch + cols : 0);
    check_fill(c, b, 0, rows, cols, pitch, center, scale);
    return b;
}

/* ---- outputs ---- */

void check_output(check *c, check_buffer *b, int64_t first, int64_t rows, int64_t cols,
                  int64_t pitch)
{
    (void)c;
    if (!b->bound) {
        b->bound = grab((size_t)b->n * sizeof(double));
        for (int64_t i = 0; i < b->n; i++)
            b->bound[i] = -1;
    }
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < cols; i++) {
            int64_t at = first + r * pitch + i;
            if (at < 0 || at >= b->n)
                check_die("%s: output %s[%lld] of %lld", c->name, b->name, (long long)at,
                          (long long)b->n);
            b->bound[at] = 0;
        }
    }
}

void check_set_bound(check_buffer *b, int64_t i, double bound)
{
    if (!b->bound || b->bound[i] < 0) check_die("%s[%lld] is no output", b->name, (long long)i);
    b->bound[i] = bound;
}

double check_bound(const check_buffer *b, int64_t i)
{
    return b->bound[i];
}

double check_unit(spey_dtype dtype)
{
    switch (dtype) {
    case SPEY_F16: return 0x1p-11;
    case SPEY_BF16: return 0x1p-8;
    case SPEY_E4M3: return 0x1p-4;
    default: return 0x1p-24;
    }
}

double check_rounding(spey_dtype dtype, double reference)
{
    double step = dtype == SPEY_F16 ? 0x1p-24 : dtype == SPEY_BF16 ? 0x1p-133 : 0x1p-149;
    if (dtype == SPEY_I8) return 1; /* to the other side of a tie */
    if (dtype == SPEY_E4M3) step = 0x1p-9;
    return 2 * check_unit(dtype) * fabs(reference) + step;
}

void check_out_scale(check *c, void *field, spey_input_quant quant, int64_t rows, int64_t first,
                     int64_t n_rows, double size)
{
    const bool by_token = quant == SPEY_INPUT_TOKEN;
    check_buffer *b = check_buffer_new(c, "out_scale", SPEY_F32, by_token ? rows : 1);
    check_bind(c, field, b, by_token ? first : 0);
    if (by_token)
        check_output(c, b, first, n_rows, 1, 1);
    else
        check_set(b, 0, size * 2.5 / (double)SPEY_E4M3_MAX);
}

/* The scale is the largest magnitude over 448, divided once: two units; its inverse and the product are rounded too. */
double check_scale_error(double scale, double row_error)
{
    return row_error / (double)SPEY_E4M3_MAX + 2 * 0x1p-24 * scale;
}

double check_e4m3_error(double reference, double scale, double error, double row_error)
{
    const double relative = check_scale_error(scale, row_error) / scale + 4 * 0x1p-24;
    return error / scale + fabs(reference) * relative + check_rounding(SPEY_E4M3, reference);
}
