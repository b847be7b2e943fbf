/* Static scales for `spey build --calib`: the checkpoint is built as it is into a temporary engine beside the output, text
 * runs through it, and what entered its linears goes into the real build. It is here because build/ and runtime/ know nothing
 * of each other. */
#ifndef SPEY_CLI_BUILD_CALIBRATION_H
#define SPEY_CLI_BUILD_CALIBRATION_H

#include "base/hash.h"
#include "build/build.h"
#include "runtime/calibrate.h"
#include "spey/spey.h"

typedef struct spey_calibration_run {
    spey_calibration calibration; /* what the build takes; the rest is what it borrows */
    spey_input_range *ranges;
    char text_sha256[SPEY_SHA256_HEX_BYTES];
    spey_engine *engine;
    spey_calibrator *calibrator;
} spey_calibration_run;

/* Tokens that the model sees at once, or its context if that is shorter. */
enum { SPEY_CALIBRATION_WINDOW = 512 };

/* `options` as for the real build, `output` its engine; the first `windows` windows of the text (0: all of it). On failure
 * there is nothing to deinit. */
spey_status spey_calibration_run_make(const char *checkpoint, const spey_build_options *options,
                                      const char *output, const char *text, int64_t windows,
                                      spey_calibration_run *out);
void spey_calibration_run_deinit(spey_calibration_run *run);

#endif
