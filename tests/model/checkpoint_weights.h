/* Weights of a graph out of a checkpoint, for the interpreter; `context` is a spey_safetensors. Follows the source of a leaf:
 * transposition, row pieces, names with and without the model prefix. */
#ifndef SPEY_TESTS_MODEL_CHECKPOINT_WEIGHTS_H
#define SPEY_TESTS_MODEL_CHECKPOINT_WEIGHTS_H

#include "../graph/interpreter.h"

interpreter_read read_checkpoint_weight;

#endif
