/* Runs a graph in double precision, one scalar at a time: what a graph means, apart from any kernel. KV lies contiguous per
 * sequence. With a memory plan all activations lie in one arena as the plan says, so that a plan that lets one value
 * destroy another gives other numbers.
 *
 * Failures of allocation or use end the test program. */
#ifndef SPEY_TESTS_GRAPH_INTERPRETER_H
#define SPEY_TESTS_GRAPH_INTERPRETER_H

#include "graph/graph.h"
#include "graph/memplan.h"

/* Fill out[] with the elements of leaf `weight`, rows one after the other. */
typedef void interpreter_read(void *context, const spey_weight *weight, float *out);

typedef struct interpreter_options {
    interpreter_read *read;
    void *context;
    int n_seqs;
    int64_t tokens_max;       /* per sequence, and per step over all */
    const spey_memplan *plan; /* for element_bytes 8; NULL: every value alone, slices copied */
} interpreter_options;

typedef struct interpreter interpreter;
interpreter *interpreter_new(const spey_graph *graph, const interpreter_options *options);
void interpreter_free(interpreter *in);

/* One step: token i is ids[i] of sequence seqs[i] (ascending), at that sequence's next position. logits: n_outputs rows. */
typedef struct interpreter_step_args {
    int n_tokens;
    const int64_t *ids;
    const int *seqs;
    int n_outputs;
    const int *output_rows;
    double *logits;
    bool encode; /* the encoder's whole inputs, in place of tokens; no outputs */
} interpreter_step_args;
void interpreter_step(interpreter *in, const interpreter_step_args *args);

/* Weights as a function of their names alone; matrices are scaled so that activations stay of one size. */
interpreter_read read_random_weight;

/* Elements of a weight. */
int64_t interpreter_elements(const spey_weight *weight);

#endif
