/* Records of what tuning found: which of a device's algorithms are fastest for an engine (device/backend.h, "tune").
 *
 * A record lies beside the engine, ENGINE.tactics, or, where that cannot be (no place to write, an engine without a file), in
 * the cache folder. It is good for one device and version of its libraries. None is ever needed: what is wrong with
 * one is logged in a line, and kernels choose as they do without. */
#ifndef SPEY_RUNTIME_TACTICS_H
#define SPEY_RUNTIME_TACTICS_H

#include "base/strbuf.h"
#include "runtime/bind.h"
#include "runtime/program.h"

/* A record as a file, appended to `out`. */
void spey_tactics_wrap(const char *subject, const void *payload, size_t n, spey_strbuf *out);
/* The payload of a file, pointing into it. SPEY_FORMAT: it is damaged. SPEY_UNSUPPORTED: of another subject. */
spey_status spey_tactics_unwrap(const char *subject, const void *file, size_t n,
                                const void **payload, size_t *payload_bytes);

/* Tell the device what the engine's record says, if there is one that can be used. */
void spey_tactics_load(const spey_program *program);
/* Tune all steps, whose args are as they were bound, and record what was found; that it cannot be written is logged. Before
 * the first step: it leaves the activations undefined. */
spey_status spey_tactics_tune(const spey_program *program, const spey_binding *binding);

#endif
