/* One request inside a context: its tokens, settings and text so far. Everything it will ever need is allocated when it is
 * submitted; feeding it logits allocates nothing.
 *
 * A request has `width` sequences: n of them, best_of, or beams. They share the prompt and get their tokens in the same
 * steps: the context calls spey_request_grow with one row of logits for each that lives (for the first tokens, the prompt's
 * last row for all). grow gives every live sequence its next token and names the parent whose tokens, and so whose cache, it
 * continues; the context hands the parents to the scheduler, which forks, moves and closes caches accordingly
 * (spey_scheduler_take). Sequences that sample are their own parents; beams copy ids from their parents and say so.
 *
 * With best_of > n and with beams nobody knows whose text is wanted before all have ended: events are kept until then.
 *
 * Beams: sequence i is running beam i. While fewer run than there are sequences, the others repeat beam 0, so that there is a
 * place for each that comes later. */
#ifndef SPEY_RUNTIME_REQUEST_H
#define SPEY_RUNTIME_REQUEST_H

#include "base/arena.h"
#include "base/strbuf.h"
#include "runtime/beam.h"
#include "runtime/prompt_table.h"
#include "runtime/runner.h"
#include "runtime/sampler.h"
#include "runtime/scheduler.h"
#include "runtime/stop.h"
#include "spey/spey.h"
#include "text/guide_table.h"
#include "text/tokenizer.h"

/* What is told about one token, kept for later. */
typedef struct spey_kept_event {
    float logprob;
    size_t text_end; /* in `kept_text` */
} spey_kept_event;

typedef struct spey_choice {
    int32_t *ids; /* prompt, then output; room for ids_max */
    int64_t n;
    int32_t parent; /* whose tokens it continued with its newest one */
    spey_finish finish;
    double cumulative_logprob;     /* of the output; NaN when nobody asked */
    double score;                  /* of a hypothesis */
    spey_guide_state guide_state;  /* of guide_generation */
    spey_detokenizer *detokenizer; /* NULL: no tokenizer */
    spey_stop stop;
    spey_strbuf text; /* certain, for the next event */
    /* best_of > n: by token of the output. */
    spey_kept_event *kept;
    spey_token_logprob *kept_top; /* [tokens][sampling.logprobs] */
    spey_strbuf kept_text;
} spey_choice;

typedef struct spey_request {
    struct spey_request *next, *previous; /* among the context's */
    uint64_t id;
    spey_ticket ticket;
    spey_arena arena;       /* copies of all lists */
    spey_sampling sampling; /* points into the arena */
    int32_t width;          /* sequences */
    spey_choice *choices;   /* [width] */
    int64_t n_prompt, ids_max;
    const int32_t *source; /* the encoder's input */
    int32_t n_source;
    spey_prompt_rows table; /* n 0: none, or the prompt has no row of it */
    bool prompt_done;       /* the prompt's log-probabilities are complete */
    bool device_chooses;    /* but for tokens whose row the host wants */
    bool cancelled;         /* to be ended between steps */
    bool ended;             /* the last event was sent */
    int32_t n_told;         /* sequences whose kept events are told */

    spey_guide_table *guides;         /* the context's */
    spey_guide_entry *guide;          /* NULL: none */
    uint64_t guide_generation;        /* of the choices' states; 0: there are none yet */
    spey_guide_matcher *matcher;      /* while tokens are chosen */
    struct spey_request_beams *beams; /* NULL: none */

    spey_strbuf piece;              /* from a detokenizer, before the stop filter */
    float *prompt_logprobs;         /* [n_prompt] or NULL */
    spey_token_logprob *prompt_top; /* [n_prompt][sampling.prompt_logprobs] */
    spey_token_logprob *top;        /* [sampling.logprobs] */
    char error[256];

    uint64_t submitted_ns, scheduled_iter; /* when it came; the last step that it was in */
    int32_t row;                           /* where its last row is in that step */
    bool begun;
    int32_t priority;
    uint64_t tenant, cache_salt, deadline_ns;
    spey_kv_retention *retention; /* [n_retention] */
    int n_retention;
    spey_process_logits_fn process_logits;
    void *process_user;
    bool context_logits, generation_logits; /* for on_logits */
    spey_logits_row_fn on_logits;
    void *logits_user;
    spey_output_fn on_output;
    void *user;
} spey_request;

typedef struct spey_eos {
    const int32_t *ids;
    int32_t n;
} spey_eos;

typedef struct spey_request_setup {
    const spey_request_options *options; /* checked by the caller */
    const spey_sampling *sampling;       /* likewise */
    spey_id_list
        source; /* the encoder's input; the options' prompt is then what the decoder begins with */
    int64_t sequence_tokens_max;
    const spey_tokenizer *tokenizer;     /* NULL: ids only */
    const spey_guide_vocab *guide_vocab; /* when the sampling has a guide */
    spey_guide_table *guides;            /* likewise; kept */
    int64_t vocab_size;
    spey_eos eos;
    uint64_t now_ns;
} spey_request_setup;

/* SPEY_INVALID: the prompt leaves no room for output. Any thread. */
spey_status spey_request_new(const spey_request_setup *setup, spey_request **out);
void spey_request_free(spey_request *request);

/* What the model said at prompt position `at` (0-based): record log-probabilities if asked for. */
void spey_request_take_prompt_logits(spey_request *request, const float *logits, int64_t at,
                                     int64_t vocab_size);

/* What choosing needs of the context. */
typedef struct spey_choosing {
    spey_sampler *sampler;
    int64_t vocab_size;
    spey_eos eos;
} spey_choosing;

/* What a step said about the next token of a sequence. */
typedef struct spey_row {
    float *logits;          /* which may change; NULL: the token was chosen on the device */
    int32_t id;             /* it; SPEY_ROW_NONE: none can be */
    float logprob;          /* NAN unless the rule asked for it */
    const int32_t *top_ids; /* [sampling.logprobs] likewise: the likeliest tokens */
    const float *top_logprobs;
} spey_row;

/* Nothing but the largest logit of every row is asked for. */
bool spey_request_takes_best(const spey_request *request);

/* How a device chooses the token behind the first n of sequence `index`, of which the host may not know the last one yet but
 * for a request with a guide; the page gets what the rule points to. False, and nothing was added: the host must choose, or
 * the page is full. */
bool spey_request_rule(spey_request *request, int32_t index, int64_t n, spey_eos eos,
                       spey_rule_page *page, spey_sample_rule *out);

/* Choose the next token of every live sequence, decide which end, send their events. rows[i] is that of sequence i;
 * entries of ended ones are not read. A fault (a NaN, everything banned, a processor that fails) ends the
 * request with SPEY_FINISH_ERROR. */
void spey_request_grow(spey_request *request, const spey_choosing *choosing, const spey_row *rows);

/* Its events are kept until the best sequences are known. */
bool spey_request_keeps(const spey_request *request);
/* The log-probability of every token is computed. */
bool spey_request_scores(const spey_request *request);

/* End all live sequences without a token and send their last events. `error` only with SPEY_FINISH_ERROR; copied. */
void spey_request_end(spey_request *request, spey_finish finish, const char *error);

#endif
