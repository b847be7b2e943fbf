/* What commands may see inside a public spey_context. */
#ifndef SPEY_RUNTIME_CONTEXT_H
#define SPEY_RUNTIME_CONTEXT_H

#include "runtime/request.h"
#include "runtime/runner.h"
#include "spey/spey.h"

/* The runner of a context; it stays the context's. */
spey_runner *spey_context_runner(spey_context *context);
spey_scheduler_counts spey_context_counts(const spey_context *context);

/* Submit in two halves. prepare checks and makes the request; it reads what never changes, so any thread may call it. queue
 * takes it (SPEY_LIMIT: the queue is full), which needs the thread that steps; its id must be set. */
spey_status spey_context_prepare(const spey_context *context, const spey_request_options *options,
                                 spey_request **out);
spey_status spey_context_queue(spey_context *context, spey_request *request);

#endif
