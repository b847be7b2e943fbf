/* The body of a context, for its own sources. */
#ifndef SPEY_RUNTIME_CONTEXT_IMPL_H
#define SPEY_RUNTIME_CONTEXT_IMPL_H

#include "runtime/context.h"
#include "runtime/request.h"
#include "runtime/runner.h"
#include "runtime/sampler.h"
#include "runtime/scheduler.h"

/* A turn of the scheduler from its plan to its results. */
typedef struct spey_context_turn {
    spey_schedule schedule;
    spey_iteration_stats iteration; /* what its plan says */
    uint64_t start_ns;
    bool may_be_followed; /* the next turn may be planned before its results are there */
} spey_context_turn;

enum { SPEY_TURNS_MAX = 2 }; /* under way */

struct spey_context {
    const spey_engine *engine;
    spey_runner *runner;
    spey_sampler *sampler;
    const spey_plan *plan;
    int64_t vocab_size;
    int32_t eos_ids[SPEY_EOS_IDS_MAX];
    spey_eos eos; /* of them */
    spey_guide_table *guides;
    spey_scheduler *scheduler;
    bool ahead;
    spey_context_turn turns[SPEY_TURNS_MAX]; /* turn i, counted from 0, is in i % SPEY_TURNS_MAX */
    uint64_t n_launched, n_delivered;
    spey_request *first, *last; /* all that have not ended, in order of submission */
    int32_t n_requests;
    bool any_cancelled;  /* the list is to be searched for such */
    spey_step_seq *step; /* [sequences_max] of the turn that is launched, with: */
    spey_step_link *links;
    spey_row *rows;       /* [sequences_max] of one request */
    spey_growth *growths; /* [sequences_max] */
    uint64_t next_id;
    spey_iteration_stats iteration; /* of the last turn that was delivered; iter 0: none yet */
    int32_t n_grown;                /* tokens that it gave */
    uint64_t n_noted;               /* turns that were planned and had something to do */
    int32_t n_completed;            /* requests since then */
    uint64_t busy_ns, idle_ns;      /* the runner's, then */
    uint64_t host_ns;               /* spent here since then, without waiting for the device, */
    uint64_t host_since_ns;         /* but for what began here */
};

/* What the turn is about to do, and what it did. */
void spey_context_note_schedule(spey_context *context, spey_context_turn *turn);
void spey_context_note_step(spey_context *context, const spey_context_turn *turn);

#endif
