/* A program's weights: used where the engine has them when the device reads host memory, copied to the device
 * otherwise, made up when the engine is virtual. */
#ifndef SPEY_RUNTIME_WEIGHTS_H
#define SPEY_RUNTIME_WEIGHTS_H

#include "runtime/program.h"

/* Bytes of all weights that nodes read. */
uint64_t spey_weights_bytes(const spey_program *program);
/* Bytes of device memory for those that cannot be used where they are. */
uint64_t spey_weights_copied_bytes(const spey_program *program);

/* Fill `memory` (of spey_weights_copied_bytes); pointers[i] gets the device address of weight i of the graph (NULL:
 * unused). Made-up numbers depend on the weight's name alone: about normal with a deviation of 0.019, norms' weights what
 * leaves x as it is. SPEY_FORMAT: a virtual engine left out a weight that cannot be made up (RoPE frequencies). */
spey_status spey_weights_load(const spey_program *program, void *memory, const void **pointers);

#endif
