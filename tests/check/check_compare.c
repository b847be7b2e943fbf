#include <math.h>
#include <stdio.h>
#include <string.h>

#include "check_impl.h"

/* Sums over the inexact outputs. */
typedef struct sums {
    double error, xx, rr, xr, worst;
} sums;

/* One output with a bound; true when it holds. */
static bool within(const check_buffer *b, int64_t i, sums *sum)
{
    if (isinf(b->bound[i])) return true;
    double x = check_scalar(b->result, b->dtype, i), r = check_scalar(b->reference, b->dtype, i);
    if (isnan(r) || isnan(x)) return isnan(r) && isnan(x);
    if (isinf(r) || isinf(x)) return x == r;
    double error = fabs(x - r);
    sum->error += error * error;
    sum->xx += x * x;
    sum->rr += r * r;
    sum->xr += x * r;
    if (b->bound[i] > 0 && error / b->bound[i] > sum->worst) sum->worst = error / b->bound[i];
    return error <= b->bound[i];
}

static bool compare_buffer(const check_buffer *b, sums *sum, char why[160])
{
    size_t size = spey_dtype_bytes(b->dtype);
    for (int64_t i = 0; i < b->n; i++) {
        const uint8_t *got = b->result + (size_t)i * size;
        bool is_output = b->bound && b->bound[i] >= 0;
        const uint8_t *want = (is_output ? b->reference : b->initial) + (size_t)i * size;
        bool equal = !memcmp(got, want, size);
        if (is_output && b->bound[i] > 0) {
            if (within(b, i, sum)) continue;
            snprintf(why, 160, "%s[%lld] is %.9g, reference %.9g, bound %.3g", b->name,
                     (long long)i, check_scalar(b->result, b->dtype, i),
                     check_scalar(b->reference, b->dtype, i), b->bound[i]);
            return false;
        }
        if (equal) continue;
        if (is_output) {
            /* Exact, but NaNs may differ in their payload. */
            double r = check_scalar(b->reference, b->dtype, i),
                   x = check_scalar(b->result, b->dtype, i);
            if (isnan(r) && isnan(x) && memcmp(got, b->initial + (size_t)i * size, size) != 0)
                continue;
            snprintf(why, 160, "%s[%lld] is %.9g, must be exactly %.9g", b->name, (long long)i, x,
                     r);
        } else {
            snprintf(why, 160, "%s[%lld] was changed to %.9g, it is no output", b->name,
                     (long long)i, check_scalar(b->result, b->dtype, i));
        }
        return false;
    }
    return true;
}

bool check_compare_reference(const check *c, check_error *error, char why[160])
{
    sums sum = { 0 };
    bool good = true;
    for (int i = 0; good && i < c->n_buffers; i++)
        good = compare_buffer(&c->buffers[i], &sum, why);
    *error = (check_error){
        .worst = sum.worst,
        .nmse = sum.rr > 0 ? sum.error / sum.rr : sum.error,
        .cosine = sum.xx + sum.rr > 0 ? 1 - 2 * sum.xr / (sum.xx + sum.rr) : 0,
    };
    return good;
}

bool check_compare_first(const check *c, const check *whole, char why[160])
{
    for (int k = 0; k < c->n_buffers; k++) {
        const check_buffer *b = &c->buffers[k], *first = &whole->buffers[k];
        size_t size = spey_dtype_bytes(b->dtype);
        for (int64_t i = 0; b->bound && i < b->n; i++) {
            size_t at = (size_t)i * size;
            if (b->bound[i] < 0 || !memcmp(b->result + at, first->first + at, size)) continue;
            snprintf(why, 160, "%s[%lld] is %.9g, was %.9g before", b->name, (long long)i,
                     check_scalar(b->result, b->dtype, i), check_scalar(first->first, b->dtype, i));
            return false;
        }
    }
    return true;
}
