/* The scheduler: which sequences compute how many tokens in the next step.
 *
 *   submit ──► queued ──admit──► running ──────► end
 *                 paused ──admit──►  │
 *                    ▲───── pause ◄──┘     closed, its blocks are given back; what of them the cache has lost by
 *                                          then, host memory and file included, is computed again
 *
 * A turn is plan → commit → launch → (the step) → take. plan reads and decides; commit opens, matches, reserves and pauses;
 * launch counts the step's tokens as stored; take hears which sequences grew, from which parents, and which ended. The
 * scheduler knows sizes only: tokens, blocks, sequences, times.
 *
 * One step ahead. The next turn may plan, commit and launch before this one's take, where the step gives tokens to requests of
 * one sequence only: such a token is counted at launch, before anybody knows it, and a sequence at its limit gets nothing more
 * to compute. What ended by other means has one token too many under way: take ignores items of requests that have ended.
 * Turns are taken in the order in which they were launched, and after a launch comes a take before the next but one plan.
 *
 * Order. The queue is sorted by priority, then by self-clocked fair queueing over tokens (Golestani, "A self-clocked fair
 * queueing scheme", 1994), so that a tenant with a thousand requests delays another's one by about one request. Who runs is
 * ordered by priority, then by first admission: the first always progresses; the last is the first to be paused.
 *
 * Several sequences. All sequences of a request share the blocks of its prompt: one of them, the trunk, computes it, and
 * then the others are forked. From then on they get their tokens in the same steps, so that beams can be compared and
 * change hands. A paused request begins again with its trunk.
 *
 * Nothing allocates after new. Engine thread only. */
#ifndef SPEY_RUNTIME_SCHEDULER_H
#define SPEY_RUNTIME_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "runtime/kv_cache.h"
#include "spey/spey.h"

typedef struct spey_scheduler spey_scheduler;
typedef int32_t spey_ticket; /* a request's place in the scheduler's tables */

typedef struct spey_scheduler_limits {
    spey_policy policy;
    int32_t sequences_max;    /* running at once, those of all requests together */
    int32_t queue_max;        /* requests that wait */
    int64_t step_tokens_max;  /* >= sequences_max */
    int64_t step_outputs_max; /* >= sequences_max */
    int64_t
        step_prefill_max; /* prompt tokens beside running decodes; 0: what the step has room for */
    bool ahead;           /* turns are planned before the last one was taken */
    spey_kv_limits kv;    /* its step_tokens_max are those of all steps under way */
} spey_scheduler_limits;

/* SPEY_INVALID: limits that contradict each other. */
spey_status spey_scheduler_new(const spey_scheduler_limits *limits, spey_scheduler **out);
void spey_scheduler_free(spey_scheduler *scheduler);

/* ---- requests ---- */

typedef struct spey_job {
    void *owner; /* comes back in schedules */
    const int32_t *
        ids; /* of sequence 0, prompt and then output: kept until end, read by the KV cache alone */
    uint64_t salt;    /* what its blocks may be shared under */
    int64_t n_prompt; /* >= 1 */
    int64_t n_max;    /* tokens of a sequence at most; >= n_prompt */
    int64_t n_source; /* of an encoder's input, whose K and V all sequences share; 0: none */
    int32_t width;    /* sequences */
    bool all_rows; /* a row of logits for every token of the prompt; so nothing of it is reused */
    bool
        fetch; /* the KV cache's file has more of its prompt than memory: it begins when that has come */
    int32_t priority; /* SPEY_PRIORITY_MIN … SPEY_PRIORITY_MAX, higher goes first */
    uint64_t tenant;
    uint64_t deadline_ns;               /* 0: none */
    const spey_kv_retention *retention; /* [n_retention] of its blocks; kept until end */
    int n_retention;
} spey_job;

/* Queue it. SPEY_LIMIT: the queue is full, or even alone it would not fit the KV cache or the sequences. */
spey_status spey_scheduler_submit(spey_scheduler *scheduler, const spey_job *job, spey_ticket *out);
/* Forget it at any moment between turns, queued, running or paused; its sequences are closed. */
void spey_scheduler_end(spey_scheduler *scheduler, spey_kv_cache *kv, spey_ticket ticket);

/* ---- a turn ---- */

typedef struct spey_schedule_item {
    spey_ticket ticket;
    void *owner;
    int32_t index;   /* which of the request's sequences */
    spey_seq_id seq; /* known once committed */
    int64_t from;    /* tokens that are stored */
    int32_t n_tokens;
    int32_t n_outputs; /* rows of logits of the last of them */
    uint64_t request;  /* for spey_scheduler_serves: tickets are used again */
    bool counts_token; /* launch has counted what the last row will give */
} spey_schedule_item;

/* What a turn does. Fixed arrays of the caller's; the lists are valid until the next plan. */
typedef struct spey_schedule {
    spey_ticket *expired; /* past their deadlines: to be ended by the caller; not in this step */
    int32_t n_expired;
    spey_ticket fetch; /* whose blocks are to come from the KV cache's file next; -1: none */
    spey_ticket *pauses, *admits;
    int32_t n_pauses, n_admits;
    spey_schedule_item *items;
    int32_t n_items;
    int64_t n_tokens, n_prefill_tokens;
    struct spey_schedule_scratch *scratch;
} spey_schedule;

enum { SPEY_EXPIRED_MAX = 64 }; /* requests that one turn finds past their deadlines */

spey_status spey_schedule_init(spey_schedule *schedule, const spey_scheduler_limits *limits);
void spey_schedule_deinit(spey_schedule *schedule);

/* Decide the next step. Reads the scheduler and the cache, changes neither. */
void spey_scheduler_plan(const spey_scheduler *scheduler, const spey_kv_cache *kv, uint64_t now_ns,
                         spey_schedule *out);

/* Apply it. The items of a request whose blocks cannot be had after all leave the schedule, and it waits; when it is the
 * first that runs, the last are paused for it. An error is a broken invariant. */
spey_status spey_scheduler_commit(spey_scheduler *scheduler, spey_kv_cache *kv,
                                  spey_schedule *schedule);

/* The step is under way: its tokens count as stored, and those that it gives requests of one sequence as known. */
void spey_scheduler_launch(spey_scheduler *scheduler, spey_schedule *schedule);

/* The item's request has not ended since commit. */
bool spey_scheduler_serves(const spey_scheduler *scheduler, const spey_schedule_item *item);
/* It has the cache that the item is computed in: otherwise it ended, or was paused, since launch. Before take, whoever runs
 * the steps advances these caches. */
bool spey_scheduler_stores(const spey_scheduler *scheduler, const spey_schedule_item *item);

/* What the step gave one sequence. */
typedef struct spey_growth {
    spey_ticket ticket;
    int32_t index;
    int32_t
        parent; /* the sequence that it continues: itself, but for beams and the first token of several sequences */
    bool ended; /* its blocks are given back; otherwise it has one token more */
} spey_growth;

/* The step was done. `growths` has an entry for every live sequence of each request that got tokens or lost sequences, those
 * of a request together; of requests that it still serves. A request without live sequences is still to be ended. */
void spey_scheduler_take(spey_scheduler *scheduler, spey_kv_cache *kv,
                         const spey_schedule *schedule, const spey_growth *growths, int32_t n);

/* ---- reading ---- */

typedef struct spey_scheduler_counts {
    int32_t queued, running, paused; /* requests */
    int32_t sequences;               /* of running ones */
    uint64_t admissions, pauses;     /* so far */
    /* Tokens that the first sequences of paused requests had stored when they were paused: found again in the cache when they
     * resumed, or to be computed again. */
    uint64_t kept_tokens, repeated_tokens;
} spey_scheduler_counts;
spey_scheduler_counts spey_scheduler_count(const spey_scheduler *scheduler);
/* How far a request is. */
typedef struct spey_ticket_progress {
    bool begun, paused, generates; /* generates: nothing but its newest tokens is to be computed */
    int64_t
        n_done; /* tokens of its first live sequence that are stored, steps under way not counted */
} spey_ticket_progress;
spey_ticket_progress spey_scheduler_progress(const spey_scheduler *scheduler, spey_ticket ticket);
/* The caller's pointer, as submitted. */
void *spey_scheduler_owner(const spey_scheduler *scheduler, spey_ticket ticket);
/* Every invariant of the tables; for tests. */
spey_status spey_scheduler_check(const spey_scheduler *scheduler, const spey_kv_cache *kv);

#endif
