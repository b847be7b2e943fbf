/* An executor: a context with a thread of its own, so that any thread may submit and cancel.
 *
 *   any thread ── submit, cancel ──► mailbox ──► engine thread: steps ──► on_output, on the engine thread
 *                                                                    └──► or events to await, on any thread
 *
 * What fails ends its own request: a callback that refuses, a NaN in its logits, everything banned. Queues are bounded:
 * what does not fit is refused at once. Names of statistics are TensorRT-LLM's, in our spelling. */
#ifndef SPEY_EXECUTOR_H
#define SPEY_EXECUTOR_H

#include "spey/spey.h"

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef struct spey_executor spey_executor;

typedef struct spey_executor_options {
    uint32_t struct_bytes;
    spey_context_options
        context; /* every limit: sequences, tokens of a step, KV memory, queue, policy */
    int32_t iteration_stats_max; /* iterations that are kept until they are read; 0: 1000 */
} spey_executor_options;

void spey_executor_options_init(spey_executor_options *options);

/* Plans and allocates as spey_context_new, then starts the thread. Keeps `engine` until free. options may be NULL. */
spey_status spey_executor_new(const spey_engine *engine, const spey_executor_options *options,
                              spey_executor **out);
/* Cancel all that has not ended, wait for the thread. Nobody may be inside another call. Events that nobody awaited are
 * lost. Not from a callback. */
void spey_executor_free(spey_executor *executor);

/* ---- requests: any thread ---- */

/* Queue a request. Events go to on_output, on the engine thread, or when that is NULL wait for spey_executor_await. SPEY_LIMIT:
 * the queue is full, or it could never run. SPEY_CANCELLED: the executor drains. */
spey_status spey_executor_submit(spey_executor *executor, const spey_request_options *options,
                                 uint64_t *out_request);
/* Ends it with SPEY_FINISH_CANCELLED soon, if it has not ended. SPEY_NOT_FOUND: there never was such a request. */
spey_status spey_executor_cancel(spey_executor *executor, uint64_t request);

/* The next event of a request without on_output, or of any such (request 0), waiting up to timeout_ms for one (0: not at all,
 * -1: for ever). *out: an event with its text and lists, to be freed by spey_output_free; NULL when time ran out.
 * SPEY_NOT_FOUND: no such request has events to come, or none at all does (request 0). */
spey_status spey_executor_await(spey_executor *executor, uint64_t request, int64_t timeout_ms,
                                spey_output **out);
void spey_output_free(spey_output *output);

/* Refuse new requests and wait until all have ended. SPEY_LIMIT: some are left after timeout_ms (-1: no limit); call again
 * or free. Events stay for await. Not from a callback. */
spey_status spey_executor_drain(spey_executor *executor, int64_t timeout_ms);

/* ---- statistics: any thread ---- */

typedef struct spey_kv_cache_stats {
    int64_t max_num_blocks, free_num_blocks, used_num_blocks, tokens_per_block;
    int64_t alloc_total_blocks, alloc_new_blocks, reused_blocks, missed_blocks;
    double cache_hit_rate;
    int64_t file_stored_blocks, file_loaded_blocks,
        file_discarded_blocks; /* kv_file: since the context began */
} spey_kv_cache_stats;

typedef struct spey_inflight_batching_stats {
    int32_t num_scheduled_requests, num_context_requests, num_gen_requests, num_paused_requests;
    int64_t num_ctx_tokens;
    double avg_num_decoded_tokens_per_iter; /* of a scheduled request */
} spey_inflight_batching_stats;

/* One step. */
typedef struct spey_iteration_stats {
    uint64_t timestamp_ns;  /* monotonic, when it ended */
    uint64_t iter;          /* from 1 */
    double iter_latency_ms; /* since the last step ended, or since this one was planned */
    double model_ms;        /* of the step on the device, transfers included */
    double host_ms;         /* planning, choosing, telling: since the last step ended */
    double hidden_host_ms;  /* of host_ms: what the device did not wait for */
    bool began_ahead;       /* before the results of the last step were there */
    double new_active_requests_queue_latency_ms; /* that those which began have waited, together */
    int32_t num_new_active_requests, num_active_requests, num_queued_requests;
    int32_t num_completed_requests; /* in this step */
    int32_t max_num_active_requests;
    int32_t max_batch_size_runtime;
    int64_t max_num_tokens_runtime;
    spey_kv_cache_stats kv_cache_stats;
    spey_inflight_batching_stats inflight_batching_stats;
} spey_iteration_stats;

/* Take the oldest kept iterations, at most `max`; returns how many there were. */
size_t spey_executor_read_iterations(spey_executor *executor, spey_iteration_stats *out,
                                     size_t max);

typedef enum spey_request_stage {
    SPEY_STAGE_QUEUED,
    SPEY_STAGE_CONTEXT, /* its prompt is computed, for the first time or again after a pause */
    SPEY_STAGE_GENERATION,
} spey_request_stage;

typedef struct spey_request_stats {
    uint64_t id;
    spey_request_stage stage;
    int64_t context_prefill_position; /* tokens of the prompt that are stored */
    int64_t num_generated_tokens;     /* of the longest sequence */
    bool scheduled;                   /* in the last step */
    bool paused;
} spey_request_stats;

/* What the requests that have not ended do between two steps, at most `max` of them, oldest first; *n: how many there are. Not
 * from a callback. */
spey_status spey_executor_read_requests(spey_executor *executor, spey_request_stats *out,
                                        size_t max, size_t *n);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
