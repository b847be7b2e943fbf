/* A Llama-like virtual engine of any size, drawn by hand: for tests of planning and stepping. */
#ifndef SPEY_TESTS_RUNTIME_TINY_ENGINE_H
#define SPEY_TESTS_RUNTIME_TINY_ENGINE_H

#include "engine/engine_file.h"

typedef struct tiny_shape {
    int64_t layers, hidden, heads, kv_heads, head_dim, mlp, vocab, context;
    spey_dtype dtype;
    bool two_groups; /* odd layers: a second cache group, in which every head has its own K and V */
} tiny_shape;

/* 2 layers, hidden 32, 4 heads of 16 over 2, vocabulary 50, context 64, FP32. */
extern const tiny_shape tiny_default;

spey_status tiny_engine_new(const tiny_shape *shape, spey_engine_file **out);

#endif
