/* What commands may see inside a public spey_context. */
#ifndef SPEY_RUNTIME_CONTEXT_H
#define SPEY_RUNTIME_CONTEXT_H

#include "runtime/request.h"
#include "runtime/runner.h"
#include "spey/executor.h"
#include "spey/spey.h"

/* The runner of a context; it stays the context's. */
spey_runner *spey_context_runner(spey_context *context);
spey_scheduler_counts spey_context_counts(const spey_context *context);
/* Requests that may wait, defaults filled in. */
int32_t spey_context_queue_max(const spey_context_options *options);
/* End everything at once. */
void spey_context_end_all(spey_context *context, spey_finish finish, const char *error);
/* The last step, if its number is higher than `after`. */
bool spey_context_read_iteration(const spey_context *context, uint64_t after,
                                 spey_iteration_stats *out);
/* As spey_executor_read_requests; returns how many there are. */
size_t spey_context_read_requests(const spey_context *context, spey_request_stats *out, size_t max);

/* Submit in two halves. prepare checks and makes the request; it reads what never changes, so any thread may call it. queue
 * takes it (SPEY_LIMIT: the queue is full), which needs the thread that steps; its id must be set. */
spey_status spey_context_prepare(const spey_context *context, const spey_request_options *options,
                                 spey_request **out);
spey_status spey_context_queue(spey_context *context, spey_request *request);

#endif
