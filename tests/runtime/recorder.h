/* What a request got, event by event, so that two runs of it can be compared byte by byte. */
#ifndef SPEY_TESTS_RUNTIME_RECORDER_H
#define SPEY_TESTS_RUNTIME_RECORDER_H

#include <stdbool.h>
#include <stdint.h>

#include "spey/spey.h"

enum { RECORD_WIDTH = 3, RECORD_TOKENS = 40 };

typedef struct record {
    int32_t ids[RECORD_WIDTH][RECORD_TOKENS];
    float logprobs[RECORD_WIDTH][RECORD_TOKENS];
    int n[RECORD_WIDTH];
    uint64_t tops[RECORD_WIDTH]; /* a hash of all lists of likeliest tokens */
    spey_finish finish[RECORD_WIDTH];
    int n_ends, n_events, cancel_after; /* events; 0: never */
} record;

/* Fail the running test unless n requests got what was wanted. Exactly: byte by byte. Otherwise, for devices whose products choose
 * their algorithm by the number of rows: log-probabilities may differ by 0.001, lists of likeliest tokens are not looked at, and one request in 16 may go astray where two
 * tokens were that near to each other. */
void record_compare(const record *got, const record *wanted, int n, bool exact);

/* A spey_output_fn; `user` is a record. Fails the running test when something comes after the end. */
int record_output(void *user, const spey_output *event);

#endif
