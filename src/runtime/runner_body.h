/* What is inside a runner, for the files that it is made of: runner.c loads and reads, runner_tables.c checks a step and
 * writes what the device gets of it, runner_upload.c has it sent there, runner_step.c has it carried out, runner_find.c has ids chosen. */
#ifndef SPEY_RUNTIME_RUNNER_BODY_H
#define SPEY_RUNTIME_RUNNER_BODY_H

#include "kernels/argmax/argmax.h"
#include "kernels/link/link.h"
#include "kernels/patch/patch.h"
#include "kernels/ragged.h"
#include "kernels/sample/sample.h"
#include "runtime/bind.h"
#include "runtime/driver.h"
#include "runtime/layout.h"
#include "runtime/profile.h"
#include "runtime/program.h"
#include "runtime/replay.h"
#include "runtime/runner.h"

/* A piece of device memory. */
typedef struct device_memory {
    void *data;
    size_t bytes;
} device_memory;

/* A step between submit and wait: all that the device gets. */
typedef struct step_flight {
    uint8_t *tables;    /* what the device's get; the same memory when it reads ours at once */
    float *prompt_rows; /* likewise; NULL: there are no prompt tables */
    int64_t n_prompt_rows;
    int32_t *spans; /* [n_groups][sequences_max][2] entries of each row of the block tables that
                       count, from and to; NULL: nobody asks */
    const spey_kv_copy *copies; /* to be carried out before it runs */
    int64_t n_copies;
    /* With a driver: */
    spey_kv_copy *own_copies;
    int32_t n_links; /* ids that the step before gives */
    int32_t n_tokens, n_seqs, n_outputs;
    bool wants_best, has_rules; /* neither: its logits */
    int64_t n_rule_ids, n_masks, n_tops;
    /* Its results: */
    spey_status status;
    char error[SPEY_ERROR_BYTES_MAX];
    uint64_t begin_ns, busy_ns, idle_ns; /* it took, after so long without a step */
} step_flight;

enum { FLIGHTS_MAX = 2 };

struct spey_runner {
    spey_program program; /* without its graph once loaded */
    spey_layout layout;   /* without its memory plan once loaded */
    char device_name[SPEY_NAME_BYTES_MAX];
    device_memory weights, activations, workspace, logits, tables, prompt_rows,
        kv_pools[SPEY_CACHE_GROUPS_MAX];
    uint8_t *kv_host[SPEY_CACHE_GROUPS_MAX]; /* blocks that were evicted from the pools */
    float *host_logits; /* what `logits` gives; the same memory when the device writes ours */
    step_flight flights[FLIGHTS_MAX];
    uint64_t n_submitted, n_waited;
    bool queues; /* steps are queued on the device, each behind the one under way */
    spey_driver
        *driver; /* has the device, the batch and the binding from submit to wait; NULL: none */
    spey_status failed; /* of the first step that failed; the driver's, if there is one, as its */
    uint64_t n_failed;  /* number is, counted from 1 */
    spey_ragged batch;  /* its arrays lie in `tables` */
    spey_kv_cache *kv;
    spey_binding binding;
    /* What finds ids, and puts those of the step before in place: */
    spey_argmax_args argmax;
    const spey_kernel *argmax_row;
    spey_sample_args sample;
    const spey_kernel *sample_row; /* NULL: the host samples */
    spey_link_args link;
    const spey_kernel *link_row;
    /* What sends tables: */
    uint8_t *mirror;  /* what the device's hold, up to the rules; NULL: tables go up whole */
    bool mirror_lost; /* they may not hold it */
    spey_patch_args patch;
    const spey_kernel *patch_row;
    spey_replay replay;
    uint64_t step;          /* number of the current step */
    spey_observer observer; /* NULL: none */
    void *observer_user;
    spey_profile *profile;     /* NULL: none */
    uint64_t busy_ns, idle_ns; /* of steps that have ended */
    uint64_t last_end_ns;      /* when the device was done with the last one; the driver's */
    uint64_t *seen_in;         /* [sequences_max] the last step that had this sequence */
};

static inline int runner_n_flights(const spey_runner *r)
{
    return spey_limits_are_ahead(&r->layout.plan.limits) ? FLIGHTS_MAX : 1;
}

/* The device reads what submit writes: nothing is under way when another step is submitted. */
static inline bool runner_shares_tables(const spey_runner *r)
{
    return r->program.device_info.host_memory && runner_n_flights(r) == 1;
}

static inline int32_t *runner_table(const step_flight *f, size_t at)
{
    return (int32_t *)(void *)(f->tables + at);
}

/* Of the block table of group g, row `row`. */
static inline int32_t *runner_span(const spey_runner *r, const step_flight *f, int g, int32_t row)
{
    return f->spans + 2 * ((int64_t)g * r->layout.plan.limits.sequences_max + row);
}

static inline spey_sample_rule *runner_rules(const spey_runner *r, const step_flight *f)
{
    return (spey_sample_rule *)(void *)(f->tables + r->layout.tables.rules);
}

/* The log-probabilities of the likeliest lie behind their ids. */
static inline int32_t *runner_top_ids(const spey_runner *r, uint8_t *tables)
{
    return (int32_t *)(void *)(tables + r->layout.tables.tops);
}

static inline float *runner_top_logprobs(const spey_runner *r, const step_flight *f,
                                         uint8_t *tables)
{
    return (float *)(void *)(runner_top_ids(r, tables) + f->n_tops);
}

/* The step brings this row of logits itself. */
static inline bool runner_brings_row(const spey_runner *r, const step_flight *f, int32_t row)
{
    return !f->wants_best && (!f->has_rules || runner_rules(r, f)[row].kind == SPEY_SAMPLE_NOTHING);
}

/* Tokens of sequence s when the step has ended. */
int64_t spey_runner_length_after(const spey_runner *r, const spey_submission *submission, int s);
/* The ids are of the vocabulary, or of the sequence's table. */
spey_status spey_runner_check_ids(const spey_runner *r, const spey_step_seq *s);
/* Check everything before anything changes; the flight gets its sizes. */
spey_status spey_runner_check_step(spey_runner *r, const spey_submission *submission,
                                   step_flight *f);
/* Write the flight's tables. `encodes`: a step of the encoder. */
void spey_runner_fill_tables(const spey_runner *r, step_flight *f,
                             const spey_submission *submission, bool encodes);
/* Choose what sends tables to this device. */
spey_status spey_runner_prepare_upload(spey_runner *r);
/* To the device, where it does not read ours. */
spey_status spey_runner_upload_tables(spey_runner *r, const step_flight *f);

/* Choose what finds ids on this device. */
spey_status spey_runner_prepare_find(spey_runner *r);
/* Queue what puts the ids of the step before in place. */
spey_status spey_runner_link(spey_runner *r, const step_flight *f);
/* Queue what chooses the ids of a step. */
spey_status spey_runner_find(spey_runner *r, const step_flight *f);
/* Bring them, and the rows that are wanted. Where steps are queued this waits for the step, and for it alone. */
spey_status spey_runner_bring(spey_runner *r, const step_flight *f);
/* Bring all rows. */
spey_status spey_runner_fetch_logits(spey_runner *r, const step_flight *f);

/* The flight gets what the cache has queued, and carries it out. */
void spey_runner_take_copies(const spey_runner *r, step_flight *f);
spey_status spey_runner_copy_blocks(spey_runner *r, const step_flight *f);
/* Run a submitted step on the driver's thread. */
void spey_runner_carry_out(void *user, uint64_t number);

#endif
