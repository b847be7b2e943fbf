/* The runner: an engine made ready for one device and stepped with ragged batches.
 *
 * Loading: partition → plan memory → choose kernels → bind. A step takes new tokens of several sequences (prefill and
 * decode mixed), runs the graph once and gives logits; nothing on the step path allocates. One thread at a time.
 *
 * A step has two halves. submit checks it, reserves its blocks and copies all that it needs; wait brings the results. With
 * `ahead` in the limits two may be under way: submit queues the second one behind the first where the device has a queue;
 * where it has none a thread of the runner's carries them out in their order. Otherwise submit carries the step out itself,
 * and one may be under way. */
#ifndef SPEY_RUNTIME_RUNNER_H
#define SPEY_RUNTIME_RUNNER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"
#include "device/kernel.h"
#include "engine/engine_file.h"
#include "kernels/sample/sample.h"
#include "runtime/kv_cache.h"
#include "runtime/plan.h"
#include "runtime/profile.h"
#include "runtime/prompt_table.h"

typedef struct spey_runner spey_runner;

/* Fill in defaults and lay out memory without allocating it; `out` keeps the text of `limits`. SPEY_LIMIT when it does not fit: the message has the
 * numbers and up to three settings that would fit. */
spey_status spey_runner_plan(const spey_engine_file *engine, const spey_limits_plan *limits,
                             spey_plan *out);

/* Keeps `engine` until free. A virtual engine's weights are filled with random numbers. */
spey_status spey_runner_new(const spey_engine_file *engine, const spey_limits_plan *limits,
                            spey_runner **out);
void spey_runner_free(spey_runner *runner);

const spey_plan *spey_runner_get_plan(const spey_runner *runner);
spey_kv_cache *spey_runner_kv(spey_runner *runner);
/* "gemm/avx512bf16 113×, norm/avx512 65×, …": which rows a step runs, in the order in which each comes first. */
void spey_runner_describe(const spey_runner *runner, spey_strbuf *out);

typedef struct spey_step_seq {
    spey_seq_id seq;               /* open in the KV cache */
    const int32_t *ids;            /* its next tokens, borrowed for the call */
    int32_t n_ids;                 /* >= 1 */
    int32_t n_outputs;             /* logits wanted for the last n_outputs of them; may be 0 */
    const spey_prompt_rows *table; /* what ids from the vocabulary's size on mean; NULL: nothing */
} spey_step_seq;

/* Run the encoder over the whole inputs `ids` of sequences that have no tokens and were not encoded before; n_outputs is
 * not read. A sequence of a model with an encoder takes steps only after this. An input of more than the plan's
 * source_tokens_max is SPEY_LIMIT; more tokens together than a step has, SPEY_INVALID, as is a model without an encoder.
 * After a failure close them. */
spey_status spey_runner_encode(spey_runner *runner, const spey_step_seq *seqs, int n_seqs);

/* Run one step. Reserves blocks, for all sequences or for none (SPEY_LIMIT as spey_kv_reserve says), and advances the
 * sequences. *logits: the rows, [sum of n_outputs][vocab_size] F32, in order, the caller's to change, valid until the
 * next step. More tokens, outputs or sequences than the limits, an id outside the vocabulary and the sequence's table, a
 * closed sequence or one that is there twice is SPEY_INVALID. On failure no sequence has advanced. */
spey_status spey_runner_step(spey_runner *runner, const spey_step_seq *seqs, int n_seqs,
                             float **logits);

/* How a sequence of a step hangs on the step that is under way. */
typedef struct spey_step_link {
    int32_t n_flying; /* tokens that it gives the sequence: submitted, and not advanced yet */
    int32_t
        row; /* n_ids is 1, and the id is what this row of it finds: ids is not read. -1: it is */
} spey_step_link;

/* How the ids of a step's rows are chosen on the device: what the next submit reads, filled in by its caller. */
typedef struct spey_rule_page {
    spey_sample_rule *rules; /* [outputs_max] by row; of kind NOTHING: the row itself is wanted */
    int32_t *ids;            /* [ids_max] what they point to */
    int64_t n_ids, ids_max;
    uint32_t *masks; /* [masks_max][mask_words] likewise */
    int32_t n_masks, masks_max;
    int64_t mask_words;       /* even, for words of 64 bits */
    int32_t n_tops, tops_max; /* likeliest tokens that rules ask for */
    int64_t vocab_size;
} spey_rule_page;

/* False: ids are not chosen on this device. */
bool spey_runner_rule_page(spey_runner *runner, spey_rule_page *out);

typedef struct spey_submission {
    const spey_step_seq *seqs;
    const spey_step_link *links; /* [n_seqs]; NULL: all zero tokens and rows -1 */
    int n_seqs;
    bool best;                  /* bring what spey_runner_step_best brings, not the rows */
    const spey_rule_page *page; /* bring what its rules choose; NULL: there are none */
} spey_submission;

enum {
    SPEY_ROW_NONE = -1,  /* of its logits no token can be chosen */
    SPEY_ROW_COMES = -2, /* its logits are there */
};

/* Rows of a step. */
typedef struct spey_step_rows {
    float *logits; /* valid until the next submit; NULL: there are none */
    const int32_t *
        ids; /* or one of the above; valid until the next but one submit. NULL: all rows are there */
    /* By rules, likewise; NULL: there are none. What they asked for: */
    const spey_sample_rule *rules; /* by row */
    const float *logprobs;         /* of the ids */
    const int32_t *top_ids;        /* a row's from rule.tops on */
    const float *top_logprobs;
} spey_step_rows;

/* Begin a step; errors as of spey_runner_step, but that the device's own may come with wait. Not behind a step under way that
 * brings logits, of whatever row. It advances nothing: whoever waits advances the sequences that are still there, before the next but one
 * submit. After an error of the device every later step fails too. */
spey_status spey_runner_submit(spey_runner *runner, const spey_submission *submission);
/* End the oldest step under way. */
spey_status spey_runner_wait(spey_runner *runner, spey_step_rows *out);
/* Steps under way. All that follows, and encode, are for when there is none. */
int spey_runner_under_way(const spey_runner *runner);

/* From now on steps run one row at a time, and `observer` sees each behind it, while its operands are there: in the device's
 * memory, which it may read and write with what follows. The number counts the graph's nodes but for slices. */
typedef void (*spey_observer)(void *user, int number, const spey_step *step);
void spey_runner_observe(spey_runner *runner, spey_observer observer, void *user);
spey_status spey_runner_download(const spey_runner *runner, void *host, const void *device,
                                 size_t bytes);
spey_status spey_runner_upload(const spey_runner *runner, void *device, const void *host,
                               size_t bytes);

/* From now on every kernel is timed (profile.h); again: from the beginning. */
spey_status spey_runner_profile(spey_runner *runner);
/* What the steps since spent; *out is the caller's (spey_free), the longest time first. */
spey_status spey_runner_read_profile(const spey_runner *runner, spey_profile_line **out, int *n);

/* As spey_runner_step, but of every row only the number of its largest logit comes back, of equal ones the lowest: the next
 * token of greedy decoding, without the rows' way to the host. -1: there is none (a NaN, or all are -infinity).
 * *best is valid until the next step. */
spey_status spey_runner_step_best(spey_runner *runner, const spey_step_seq *seqs, int n_seqs,
                                  const int32_t **best);
/* The rows of the last step after all, as spey_runner_step gives them. */
spey_status spey_runner_logits(spey_runner *runner, float **logits);

/* Give the KV cache a file of at most so many bytes, before the first step (kv_file.h): it is this engine's on such a device, or
 * SPEY_INVALID. SPEY_UNSUPPORTED: nothing is kept for reuse. */
spey_status spey_runner_open_kv_file(spey_runner *runner, const char *path, uint64_t bytes);
/* When there is nothing to compute: wait until the file has come on. */
spey_status spey_runner_await_kv(spey_runner *runner);
/* Close all sequences, write what is kept of them and was not yet, and close the file. Nothing without one. */
spey_status spey_runner_close_kv_file(spey_runner *runner);

/* Time that the steps which have ended spent in the model so far, transfers included; and that the device did nothing in before
 * them. */
uint64_t spey_runner_busy_ns(const spey_runner *runner);
uint64_t spey_runner_idle_ns(const spey_runner *runner);
/* Bytes of weights that a step of one token reads: for bandwidth figures. */
uint64_t spey_runner_weight_bytes(const spey_runner *runner);

#endif
