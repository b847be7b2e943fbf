/* Rows of floats become E4M3 on their way into the engine. One weight at a time: begin, with one scale for all outputs
 * once through the rows to measure them, then through them to write, and at the end the scales. */
#ifndef SPEY_BUILD_IMPORT_QUANT_H
#define SPEY_BUILD_IMPORT_QUANT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/engine_writer.h"

typedef struct spey_quantizer spey_quantizer;

spey_status spey_quantizer_new(spey_quantizer **out);
void spey_quantizer_free(spey_quantizer *quantizer);

/* The next weight: its outputs (of a stack, of all matrices) and inputs. */
spey_status spey_quantizer_begin(spey_quantizer *quantizer, int64_t outputs, int64_t inputs,
                                 bool one_scale);
/* True until spey_quantizer_measured, when there is one scale. */
bool spey_quantizer_measures(const spey_quantizer *quantizer);
void spey_quantizer_measured(spey_quantizer *quantizer);
/* Room for one row; fill it, then put it. `tensor` is for the message: a number that is not finite is SPEY_FORMAT. */
float *spey_quantizer_row(spey_quantizer *quantizer);
spey_status spey_quantizer_put(spey_quantizer *quantizer, const char *tensor,
                               spey_engine_writer *writer);
/* The scales, after the last row. */
const float *spey_quantizer_scales(const spey_quantizer *quantizer, int64_t *n);

#endif
