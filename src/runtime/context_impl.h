/* The body of a context, for its own sources. */
#ifndef SPEY_RUNTIME_CONTEXT_IMPL_H
#define SPEY_RUNTIME_CONTEXT_IMPL_H

#include "runtime/context.h"
#include "runtime/request.h"
#include "runtime/sampler.h"
#include "runtime/scheduler.h"

struct spey_context {
    char *kv_file; /* NULL: what the cache keeps is not saved */
    const spey_engine *engine;
    spey_runner *runner;
    spey_sampler *sampler;
    const spey_plan *plan;
    int64_t vocab_size;
    int32_t eos_ids[SPEY_EOS_IDS_MAX];
    spey_eos eos; /* of them */
    spey_scheduler *scheduler;
    spey_schedule schedule;
    spey_request *first, *last; /* all that have not ended, in order of submission */
    int32_t n_requests;
    bool any_cancelled;   /* the list is to be searched for such */
    spey_step_seq *step;  /* [sequences_max] */
    spey_row *rows;       /* [sequences_max] of one request */
    spey_growth *growths; /* [sequences_max] */
    uint64_t next_id;
    spey_iteration_stats iteration; /* of the last step; iter 0: none yet */
    int32_t n_grown;                /* tokens that it gave */
};

/* What the step is about to do, and what it did. */
void spey_context_note_schedule(spey_context *context, uint64_t start_ns);
void spey_context_note_step(spey_context *context, uint64_t start_ns);

#endif
