#include "engine_fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "runtime/engine_handle.h"

void e2e_ok(spey_status status, const char *what)
{
    if (status != SPEY_OK) {
        spey_alloc_seal(false);
        fail_msg("%s: %s", what, spey_last_error());
    }
}

spey_engine_file *e2e_build(const char *checkpoint, const char *dtype, const char *disable_passes)
{
    const spey_build_options options = { .dtype = dtype,
                                         .disable_passes = disable_passes,
                                         .quiet = true };
    return e2e_build_with(checkpoint, &options);
}

spey_engine_file *e2e_build_with(const char *checkpoint, const spey_build_options *options)
{
    char folder[] = "/tmp/spey-e2e-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/engine.spey", folder);
    spey_engine_file *engine = NULL;
    spey_status status = spey_build_engine(checkpoint, path, options, NULL);
    if (status == SPEY_OK) status = spey_engine_file_open(path, NULL, &engine);
    unlink(path); /* the mapping stays */
    rmdir(folder);
    e2e_ok(status, checkpoint);
    return engine;
}

const char *e2e_device;

bool e2e_read_arguments(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--device") && i + 1 < argc)
            e2e_device = argv[++i];
        else if (argv[i][0] != '-')
            cmocka_set_test_filter(argv[i]);
        else
            return false;
    }
    return true;
}

spey_engine *e2e_demo;

int e2e_open_demo(void **state)
{
    (void)state;
    return spey_engine_from_file(e2e_build("models/demo", "f32", NULL), &e2e_demo) ? -1 : 0;
}

int e2e_close_demo(void **state)
{
    (void)state;
    spey_engine_close(e2e_demo);
    return 0;
}

spey_runner *e2e_runner(const spey_engine_file *engine, const spey_limits_plan *limits)
{
    spey_runner *runner;
    e2e_ok(spey_runner_new(engine, limits, &runner), "runner");
    return runner;
}

void e2e_feed(spey_runner *runner, spey_seq_id seq, const int32_t *ids, int64_t n, int64_t chunk,
              int64_t vocab, float *out)
{
    for (int64_t at = 0; at < n; at += chunk) {
        int32_t n_ids = (int32_t)(n - at < chunk ? n - at : chunk);
        const spey_step_seq s = { .seq = seq, .ids = ids + at, .n_ids = n_ids, .n_outputs = n_ids };
        float *logits;
        spey_alloc_seal(true);
        e2e_ok(spey_runner_step(runner, &s, 1, &logits), "step");
        spey_alloc_seal(false);
        memcpy(out + at * vocab, logits, (size_t)(n_ids * vocab) * sizeof(float));
    }
}

spey_seq_id e2e_open(spey_runner *runner, const int32_t *source, int64_t n_source)
{
    spey_seq_id seq;
    e2e_ok(spey_kv_open(spey_runner_kv(runner), &seq), "sequence");
    if (!n_source) return seq;
    const spey_step_seq input = { .seq = seq, .ids = source, .n_ids = (int32_t)n_source };
    spey_alloc_seal(true);
    e2e_ok(spey_runner_encode(runner, &input, 1), "encoder");
    spey_alloc_seal(false);
    return seq;
}

void e2e_close(spey_runner *runner, spey_seq_id seq)
{
    e2e_ok(spey_kv_check(spey_runner_kv(runner)), "kv cache");
    spey_kv_close(spey_runner_kv(runner), seq);
}

double e2e_divergence(const float *p, const float *q, int64_t n)
{
    double p_max = -(double)INFINITY, q_max = -(double)INFINITY, p_sum = 0, q_sum = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        p_max = fmax(p_max, (double)p[i]);
        q_max = fmax(q_max, (double)q[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        p_sum += exp((double)p[i] - p_max);
        q_sum += exp((double)q[i] - q_max);
    }
    const double shift = q_max + log(q_sum) - p_max - log(p_sum);
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)p[i] - p_max) / p_sum * ((double)p[i] - (double)q[i] + shift);
    return sum;
}

void e2e_logits(spey_runner *runner, const int32_t *ids, int64_t n, int64_t chunk, int64_t vocab,
                float *out)
{
    spey_seq_id seq = e2e_open(runner, NULL, 0);
    e2e_feed(runner, seq, ids, n, chunk, vocab, out);
    e2e_close(runner, seq);
}

double e2e_nmse(const float *got, const float *wanted, int64_t n)
{
    double error = 0, power = 0;
    for (int64_t i = 0; i < n; i++) {
        double difference = (double)got[i] - (double)wanted[i];
        error += difference * difference;
        power += (double)wanted[i] * (double)wanted[i];
    }
    return error / power;
}

int32_t e2e_argmax(const float *logits, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}
