/* Calibration: run text through an engine and note the largest magnitudes that enter its linears and its KV cache. On the CPU, where
 * a step's operands can be read between one row and the next. One thread at a time. */
#ifndef SPEY_RUNTIME_CALIBRATE_H
#define SPEY_RUNTIME_CALIBRATE_H

#include <stdint.h>

#include "base/status.h"
#include "engine/engine_file.h"

typedef struct spey_calibrator spey_calibrator;

/* Keeps `engine` until free. Windows of at most `window` tokens, on `threads` (0: one per core). */
spey_status spey_calibrator_new(const spey_engine_file *engine, int64_t window, int threads,
                                spey_calibrator **out);
void spey_calibrator_free(spey_calibrator *calibrator);

/* One window of text, as a sequence from nothing. */
spey_status spey_calibrator_run(spey_calibrator *calibrator, const int32_t *ids, int64_t n);

/* What was seen before linear i, by the name of its matrix; NULL behind the last one. The text lives as long as the
 * calibrator. */
const char *spey_calibrator_range(const spey_calibrator *calibrator, int i, float *largest);
/* The largest magnitudes in K and V of a cache group of the graph, [layers, 2, heads]; NULL: there is no such group, or it keeps no
 * K and V of the decoder's. They live as long as the calibrator. */
const float *spey_calibrator_cache(const spey_calibrator *calibrator, int cache);

#endif
