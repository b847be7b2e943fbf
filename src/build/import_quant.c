#include "build/import_quant.h"

#include <math.h>

#include "base/alloc.h"
#include "tensor/quant.h"

struct spey_quantizer {
    float *row;       /* [inputs] */
    uint8_t *rounded; /* [inputs] */
    float *scales;    /* [outputs], or one */
    int64_t inputs, n_scales, n_rows;
    bool one_scale, measures;
    float largest; /* so far, while measuring */
};

spey_status spey_quantizer_new(spey_quantizer **out)
{
    *out = spey_new(SPEY_PURPOSE_GENERAL, spey_quantizer);
    return *out ? SPEY_OK : SPEY_NOMEM;
}

static void drop_arrays(spey_quantizer *q)
{
    spey_free(q->row);
    spey_free(q->rounded);
    spey_free(q->scales);
    *q = (spey_quantizer){ 0 };
}

void spey_quantizer_free(spey_quantizer *q)
{
    if (!q) return;
    drop_arrays(q);
    spey_free(q);
}

spey_status spey_quantizer_begin(spey_quantizer *q, int64_t outputs, int64_t inputs, bool one_scale)
{
    drop_arrays(q);
    q->inputs = inputs;
    q->n_scales = one_scale ? 1 : outputs;
    q->one_scale = q->measures = one_scale;
    q->row = spey_new_array(SPEY_PURPOSE_GENERAL, float, inputs);
    q->rounded = spey_new_array(SPEY_PURPOSE_GENERAL, uint8_t, inputs);
    q->scales = spey_new_array(SPEY_PURPOSE_GENERAL, float, q->n_scales);
    return q->row && q->rounded && q->scales ? SPEY_OK : SPEY_NOMEM;
}

bool spey_quantizer_measures(const spey_quantizer *q)
{
    return q->measures;
}

void spey_quantizer_measured(spey_quantizer *q)
{
    q->measures = false;
    q->n_rows = 0;
}

float *spey_quantizer_row(spey_quantizer *q)
{
    return q->row;
}

spey_status spey_quantizer_put(spey_quantizer *q, const char *tensor, spey_engine_writer *writer)
{
    float largest = 0;
    bool finite = true;
    for (int64_t i = 0; i < q->inputs; i++) {
        float magnitude = fabsf(q->row[i]);
        largest = magnitude > largest ? magnitude : largest;
        finite = finite && magnitude <= 3.4028234e38f;
    }
    if (!finite)
        return SPEY_FAIL(SPEY_FORMAT,
                         "tensor %s holds numbers that are not finite: they have no "
                         "place in e4m3",
                         tensor);
    if (largest > q->largest) q->largest = largest;
    if (q->measures) return SPEY_OK;
    const spey_e4m3_scale scale = spey_e4m3_scale_of(q->one_scale ? q->largest : largest);
    if (q->one_scale)
        q->scales[0] = scale.scale;
    else
        q->scales[q->n_rows] = scale.scale;
    q->n_rows++;
    spey_e4m3_quantize(q->rounded, q->row, scale.inverse, (size_t)q->inputs);
    return spey_engine_writer_append(writer, q->rounded, (size_t)q->inputs);
}

const float *spey_quantizer_scales(const spey_quantizer *q, int64_t *n)
{
    *n = q->n_scales;
    return q->scales;
}
