/* How far a model's distributions are from another's over a text. */
#ifndef SPEY_CLI_EVAL_COMPARE_H
#define SPEY_CLI_EVAL_COMPARE_H

#include "cli/command.h"

typedef struct spey_compare_options {
    const char *model, *against, *text; /* paths */
    int64_t window, windows;            /* as spey_windows_cut takes them */
    const spey_runtime_flags *runtime;  /* of both, but for quant: of `model` */
    bool json;
} spey_compare_options;

/* Measure and print: Kullback-Leibler divergence from `against` to `model` (mean, 99th percentile, largest, in nats), how
 * often their best tokens agree, and both perplexities. The logits of one window are kept. Models of different
 * vocabularies are SPEY_INVALID. */
spey_status spey_compare(const spey_compare_options *options);

#endif
