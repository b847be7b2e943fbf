/* What a request got, event by event, so that two runs of it can be compared byte by byte. */
#ifndef SPEY_TESTS_RUNTIME_RECORDER_H
#define SPEY_TESTS_RUNTIME_RECORDER_H

#include <stdint.h>

#include "spey/spey.h"

enum { RECORD_WIDTH = 3, RECORD_TOKENS = 40 };

typedef struct record {
    int32_t ids[RECORD_WIDTH][RECORD_TOKENS];
    float logprobs[RECORD_WIDTH][RECORD_TOKENS];
    int n[RECORD_WIDTH];
    spey_finish finish[RECORD_WIDTH];
    int n_ends, n_events, cancel_after; /* events; 0: never */
} record;

/* A spey_output_fn; `user` is a record. Fails the running test when something comes after the end. */
int record_output(void *user, const spey_output *event);

#endif
