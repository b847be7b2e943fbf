/* For end-to-end tests: checkpoints of tests/data become engines in a temporary folder, sequences become logits. Every
 * helper fails the running test when something goes wrong. */
#ifndef SPEY_TESTS_E2E_ENGINE_FIXTURE_H
#define SPEY_TESTS_E2E_ENGINE_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "build/build.h"
#include "engine/engine_file.h"
#include "runtime/runner.h"
#include "spey/spey.h"

/* Build and open an engine; its file is gone when this returns. dtype and disable_passes as in spey_build_options. */
spey_engine_file *e2e_build(const char *checkpoint, const char *dtype, const char *disable_passes);

/* The same with all options. */
spey_engine_file *e2e_build_with(const char *checkpoint, const spey_build_options *options);

/* NULL: the CPU. */
extern const char *e2e_device;
/* "[PATTERN] [--device DEVICE]": choose tests by name, and where they run. False when the arguments are others. */
bool e2e_read_arguments(int argc, char **argv);

/* The demo model in FP32, between setup and teardown of a group of tests. */
extern spey_engine *e2e_demo;
int e2e_open_demo(void **state);
int e2e_close_demo(void **state);

spey_runner *e2e_runner(const spey_engine_file *engine, const spey_limits_plan *limits);

/* Feed ids to an open sequence, `chunk` a step; `out` gets the logits of all of them, [n][vocab]. Steps run sealed: an
 * allocation aborts. */
void e2e_feed(spey_runner *runner, spey_seq_id seq, const int32_t *ids, int64_t n, int64_t chunk,
              int64_t vocab, float *out);

/* Open a sequence; with n_source > 0 the encoder's input is encoded, sealed too. */
spey_seq_id e2e_open(spey_runner *runner, const int32_t *source, int64_t n_source);
/* Check the cache's invariants and close. */
void e2e_close(spey_runner *runner, spey_seq_id seq);

/* Σ p (log p - log q) of the distributions whose logits these are: what q loses against p, in nats. */
double e2e_divergence(const float *p, const float *q, int64_t n);
/* Open, feed and close a sequence without an encoder. */
void e2e_logits(spey_runner *runner, const int32_t *ids, int64_t n, int64_t chunk, int64_t vocab,
                float *out);

/* sum((got - wanted)²) / sum(wanted²) */
double e2e_nmse(const float *got, const float *wanted, int64_t n);
int32_t e2e_argmax(const float *logits, int64_t n);

/* Fail the running test with Spey's error text unless ok. */
void e2e_ok(spey_status status, const char *what);

#endif
