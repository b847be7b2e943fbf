/* A Llama-like virtual engine of any size, drawn by hand: for tests of planning and stepping. */
#ifndef SPEY_TESTS_RUNTIME_TINY_ENGINE_H
#define SPEY_TESTS_RUNTIME_TINY_ENGINE_H

#include "engine/engine_file.h"

/* What is wrong with the engine. */
typedef enum tiny_fault {
    TINY_OK,
    TINY_MISSING_WEIGHT, /* layer.0.k is not there */
    TINY_SHAPE,          /* layer.0.k has a column too many */
    TINY_DTYPE,          /* layer.0.k is I8 */
    TINY_NO_FREQUENCIES, /* inv_freq has no data */
    TINY_VOCAB,          /* info has another vocabulary than the graph */
    TINY_CONTEXT,        /* info has no context length */
    TINY_ENGINE_DTYPE,   /* info says I8 */
    TINY_EOS,            /* no fault: end of text are an id that the vocabulary has not, and 3 */
} tiny_fault;

typedef struct tiny_shape {
    int64_t layers, hidden, heads, kv_heads, head_dim, mlp, vocab, context;
    spey_dtype dtype;
    int64_t positions; /* rows of a table of learned positions, the first two unused; 0: none */
    bool
        scans; /* a selective_scan behind the embedding: a state group of one layer, hidden² elements */
    bool two_groups; /* odd layers: a second cache group, in which every head has its own K and V */
    int64_t window;  /* of the second group; 0: none */
    bool encodes; /* an encoder of two layers, and a decoder that attends to it in the beginning */
    bool fp8_cache; /* unless limits say otherwise; the first group has scales of 1 */
    bool halves;    /* gate and up are halves of one product */
    tiny_fault fault;
} tiny_shape;

/* 2 layers, hidden 32, 4 heads of 16 over 2, vocabulary 50, context 64, FP32. */
extern const tiny_shape tiny_default;

spey_status tiny_engine_new(const tiny_shape *shape, spey_engine_file **out);

#endif
