/* Spey's C API: open an engine, make a context with limits, submit requests, step, receive text.
 *
 *   spey_engine *engine;              immutable; share it between contexts and threads
 *   spey_context *context;            KV cache, activations, worker threads; one thread at a time
 *   request                           a prompt with its sampling options, known by its id
 *
 * Every fallible function returns spey_status; spey_last_error() explains the last failure on the thread. Option
 * structs are filled by their _init function, which also records their size, so that both sides may grow. */
#ifndef SPEY_SPEY_H
#define SPEY_SPEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "spey/status.h"

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

#define SPEY_VERSION_MAJOR 0
#define SPEY_VERSION_MINOR 1
#define SPEY_VERSION_PATCH 0

/* "0.1.0" */
const char *spey_version(void);

/* ---- engines ---- */

typedef struct spey_engine spey_engine;

/* Open an engine file. */
spey_status spey_engine_open(const char *path, spey_engine **out);
void spey_engine_close(spey_engine *engine);

/* Text to ids. `ids` receives up to ids_max; *n is the number there are (call again with room when larger). */
spey_status spey_engine_tokenize(const spey_engine *engine, const char *text, size_t text_bytes,
                                 bool add_special, int32_t *ids, size_t ids_max, size_t *n);
/* Ids to text, NUL-terminated; free with spey_text_free. */
spey_status spey_engine_detokenize(const spey_engine *engine, const int32_t *ids, size_t n,
                                   bool skip_special, char **out_text, size_t *out_bytes);
/* Render the chat template: `messages_json` is an array of {"role", "content"} objects. */
spey_status spey_engine_chat_prompt(const spey_engine *engine, const char *messages_json,
                                    bool add_generation_prompt, char **out_text, size_t *out_bytes);
bool spey_engine_has_tokenizer(const spey_engine *engine);
bool spey_engine_has_chat_template(const spey_engine *engine);
/* Has the model an encoder, whose input the prompt is? */
bool spey_engine_has_encoder(const spey_engine *engine);
void spey_text_free(char *text);

int64_t spey_engine_vocab_size(const spey_engine *engine);
int64_t spey_engine_hidden_size(const spey_engine *engine);
int64_t spey_engine_context_length(const spey_engine *engine);

/* ---- contexts ---- */

typedef struct spey_context spey_context;

/* Which requests run together when the KV cache cannot hold all at their longest. */
typedef enum spey_policy {
    /* A request begins when it can run to its end without being paused. */
    SPEY_GUARANTEED_NO_EVICT,
    /* It begins when there is room now; when there is none left, the newest is paused; its blocks go to host memory,
     * or are computed again later: docs/scheduling.md. */
    SPEY_MAX_UTILIZATION,
    /* A batch begins when the last one has ended: for comparison. */
    SPEY_STATIC_BATCH,
} spey_policy;

/* Requests of higher priority go first. */
enum { SPEY_PRIORITY_MIN = -4, SPEY_PRIORITY_MAX = 4 };

/* When a step is planned and begun before the results of the last one are there, so that the device waits for nobody. Results are
 * the same: docs/scheduling.md. */
typedef enum spey_ahead {
    SPEY_AHEAD_QUEUED, /* where the device queues steps, as CUDA does; not with an encoder */
    SPEY_AHEAD_ON,     /* on a CPU, too */
    SPEY_AHEAD_OFF,
} spey_ahead;

typedef struct spey_context_options {
    uint32_t struct_bytes;
    int32_t threads;             /* CPU worker threads; 0: one per core */
    int32_t sequences_max;       /* sequences running at once; 0: 1 */
    int64_t step_tokens_max;     /* tokens of one step; 0: 512 */
    int64_t sequence_tokens_max; /* prompt + output of a request; 0: the model's context length */
    uint64_t kv_bytes;           /* KV cache; 0: what sequences_max full sequences need */
    int32_t kv_block_tokens;     /* 0: 64 */
    const char *kv_dtype;        /* "f32", "f16", "bf16", "fp8", "int8"; NULL: the engine's */
    uint64_t kv_host_bytes;      /* host memory for evicted KV blocks that may be reused; 0: none */
    /* A file for KV blocks that leave memory, which outlives the context and the process; NULL: none. Another process's, or
     * another engine's, is SPEY_INVALID. */
    const char *kv_file;
    uint64_t kv_file_bytes; /* of it at most; 0: 4 GiB */
    bool no_kv_reuse;       /* forget what ended requests leave in the KV cache: docs/memory.md */
    const char *device;     /* "cpu", "cuda"; NULL: "cpu" */
    uint64_t memory_bytes_max; /* cap for everything; 0: what is free */
    /* Of the memory that weights and activations leave free, this part (0 to 1) is KV cache; 0: as kv_bytes says. */
    double kv_fraction;
    /* A request's log-probabilities have the same bits whatever runs beside it, on every device: kernels that cannot
     * promise it are not used. The CPU's always can. */
    bool batch_invariant;
    spey_policy policy;
    int32_t queue_max; /* requests that wait; 0: 1024 */
    /* Prompt tokens of a step beside running decodes, which bounds the time between tokens; 0: no bound. */
    int64_t step_prefill_max;
    spey_ahead ahead;
    int64_t prompt_table_tokens_max; /* rows of a request's prompt table; 0: requests bring none */
    uint64_t guide_bytes;            /* for guides, shared by requests; 0: 512 MiB */
    /* Measure first which of the device's algorithms is fastest for each product of the engine at each number of rows (some
     * seconds), and record it beside the engine, or in the cache folder. Contexts use a record where there is one. The CPU
     * has nothing to measure. */
    bool tune;
} spey_context_options;

void spey_context_options_init(spey_context_options *options);

/* Plans memory, then allocates all of it. SPEY_LIMIT when the plan does not fit: the text has the numbers and settings
 * that would fit. options may be NULL. Keeps `engine` until free. */
spey_status spey_context_new(const spey_engine *engine, const spey_context_options *options,
                             spey_context **out);
void spey_context_free(spey_context *context);

/* ---- requests ---- */

typedef struct spey_logit_bias {
    int32_t id;
    float bias;
} spey_logit_bias;

typedef struct spey_id_list {
    const int32_t *ids;
    size_t n;
} spey_id_list;

/* When a beam search may end before max_tokens, as early_stopping of Hugging Face's generate(). */
typedef enum spey_early_stopping {
    SPEY_EARLY_STOPPING_OFF,   /* False: as many hypotheses as beams, and no better one is likely */
    SPEY_EARLY_STOPPING_ON,    /* True: as many hypotheses as beams */
    SPEY_EARLY_STOPPING_NEVER, /* "never": no better one is possible */
} spey_early_stopping;

/* What the output must match: docs/guided-decoding.md. */
typedef enum spey_guide_format {
    SPEY_GUIDE_NONE,
    SPEY_GUIDE_REGEX,
    SPEY_GUIDE_GRAMMAR, /* llama.cpp's GBNF */
    SPEY_GUIDE_JSON_SCHEMA,
} spey_guide_format;

/* Every list is borrowed during spey_context_submit and copied. */
typedef struct spey_sampling {
    uint32_t struct_bytes;
    int32_t max_tokens;        /* new tokens at most; -1: until the sequence limit */
    int32_t min_tokens;        /* end-of-text is banned before */
    double temperature;        /* 0: greedy */
    int32_t top_k;             /* 0: off */
    double top_p;              /* 1: off */
    double min_p;              /* 0: off */
    double typical_p;          /* 1: off */
    double repetition_penalty; /* 1: off; over prompt and output (Keskar et al., 2019) */
    double presence_penalty;   /* 0: off; over the output, as OpenAI defines it */
    double frequency_penalty;
    int32_t no_repeat_ngram; /* 0: off; over prompt and output */
    uint64_t seed;           /* same seed, same text, whatever runs beside it */
    bool ignore_eos;
    int32_t
        logprobs; /* -1: none; n: the chosen token's and the n likeliest ones' log-probabilities */
    int32_t prompt_logprobs; /* -1: none; n: the same for every token of the prompt */
    const char *const *stop; /* stop strings; output ends before the first that appears */
    size_t n_stop;
    const spey_id_list *bad_words; /* id sequences that must not appear */
    size_t n_bad_words;
    const int32_t *suppress_ids; /* never drawn */
    size_t n_suppress_ids;
    const int32_t *begin_suppress_ids; /* not the first of the output */
    size_t n_begin_suppress_ids;
    /* What the last token is that max_tokens or the sequence limit has room for, whatever the logits say; -1: what they
     * say. A guide goes before. */
    int32_t forced_eos_id;
    const int32_t *stop_ids; /* end the output like end-of-text */
    size_t n_stop_ids;
    const spey_logit_bias *logit_bias;
    size_t n_logit_bias;
    /* Sequences of one prompt, whose KV blocks they share; sequence i draws as a request of its own with seed + i would.
     * With best_of > n that many are drawn, and the n with the highest mean log-probability are told when all have ended. */
    int32_t n;
    int32_t best_of; /* 0: n */
    /* Beam search as Hugging Face's generate(), when beams > 1: the n best hypotheses are told when it has ended. Needs
     * temperature 0; no stop strings, likeliest tokens or best_of. */
    int32_t beams;
    int32_t beam_groups;      /* divides beams; 1: off. Diverse beams (Vijayakumar et al., 2016) */
    double diversity_penalty; /* between groups */
    double length_penalty;    /* score = sum of log-probabilities / length^length_penalty */
    spey_early_stopping early_stopping;
    spey_guide_format guide;
    const char *guide_text;
} spey_sampling;

/* Greedy, 128 tokens, nothing else on. */
void spey_sampling_init(spey_sampling *sampling);

typedef enum spey_finish {
    SPEY_FINISH_NONE,   /* not finished */
    SPEY_FINISH_EOS,    /* end-of-text token */
    SPEY_FINISH_STOP,   /* stop string or stop id */
    SPEY_FINISH_LENGTH, /* max_tokens or the sequence limit */
    SPEY_FINISH_CANCELLED,
    SPEY_FINISH_ERROR,   /* see error in the output */
    SPEY_FINISH_TIMEOUT, /* its deadline passed */
} spey_finish;

const char *spey_finish_text(spey_finish finish); /* "eos", "stop", "length", … */

typedef struct spey_token_logprob {
    int32_t id;
    float logprob;
} spey_token_logprob;

/* One event of a request: a token (or none, at the end), the text that became certain, how it ended. Borrowed during the
 * callback. */
typedef struct spey_output {
    uint64_t request;
    int32_t token;    /* -1: none in this event */
    const char *text; /* may be empty while a character or a stop string is undecided */
    size_t text_bytes;
    float logprob;                 /* of token; NaN when not asked for */
    const spey_token_logprob *top; /* likeliest first */
    int32_t n_top;
    /* First event only, when asked for: [n_prompt] log-probability of each prompt token given those
     * before (NaN for the first, and for rows of a prompt table); [n_prompt][n_prompt_top] likeliest
     * successors of each. n_prompt is 0 otherwise. */
    const float *prompt_logprobs;
    const spey_token_logprob *prompt_top;
    int32_t n_prompt;
    int32_t n_prompt_top;
    spey_finish finish; /* of the sequence */
    const char *error;  /* SPEY_FINISH_ERROR: what happened */
    int32_t sequence;   /* 0 … n - 1; by rank with best_of */
    /* Sum of the log-probabilities of the output so far; NaN when nobody asked for them. */
    double cumulative_logprob;
    double score; /* beams: what the hypotheses are ordered by; NaN otherwise */
    bool last;    /* the request has ended: no event follows */
} spey_output;

/* Called on the thread that steps. Returning non-zero cancels the request. */
typedef int (*spey_output_fn)(void *user, const spey_output *output);

/* Queue a request. `prompt` of n ids (>= 1) is copied. The callback gets its events from spey_context_step on; the last one has
 * a finish. sampling may be NULL. Errors (too long, bad options) queue nothing. */
spey_status spey_context_submit(spey_context *context, const int32_t *prompt, size_t n,
                                const spey_sampling *sampling, spey_output_fn on_output, void *user,
                                uint64_t *out_request);

/* Change the logits [vocab_size] from which the next token of a sequence is drawn; ids: prompt and output so far (rows of a
 * prompt table are vocab_size or more). Called before penalties, on the thread that steps. Non-zero ends the request with SPEY_FINISH_ERROR. */
typedef int (*spey_process_logits_fn)(void *user, uint64_t request, int32_t sequence,
                                      const int32_t *ids, size_t n, float *logits,
                                      size_t vocab_size);

/* One row of the model's logits, before anything changes them: what it says of the token after `position`. Borrowed during
 * the call, on the thread that steps. */
typedef struct spey_logits_row {
    uint64_t request;
    int32_t sequence;
    bool generation; /* a token is chosen from it; otherwise it is one of the prompt's positions */
    size_t position;
    const float *logits; /* [vocab_size] */
    size_t vocab_size;
} spey_logits_row;
typedef void (*spey_logits_row_fn)(void *user, const spey_logits_row *row);

/* Embeddings that a request brings along (p-tuning). An id of the prompt from vocab_size on takes the place of a token's row
 * of the embedding table: id vocab_size + i is row i. All that the model does to a token's row (scale, learned
 * positions) it does to these. Copied during submit. */
typedef struct spey_prompt_table {
    const void *rows;     /* [n_rows][cols], dense, finite */
    int64_t n_rows, cols; /* cols: spey_engine_hidden_size */
    const char *dtype;    /* "f32", "f16", "bf16"; NULL: "f32" */
} spey_prompt_table;

/* How strongly and how long the KV blocks of a part of a sequence, prompt and output, are kept for requests that begin alike
 * when others need their room. A block is of the first range that has its first token; one of no range has priority 35. */
typedef struct spey_retention_range {
    int64_t begin, end; /* tokens; end 0: all from begin on */
    int32_t
        priority; /* 0 … 100: the lowest are evicted first, of equal ones the least recently used */
    int64_t
        duration_ms; /* from when the block was filled or last found by a request that says so, then it is 35 again;
                            0: for ever */
} spey_retention_range;

/* All that a request can ask for. Borrowed during submit. */
typedef struct spey_request_options {
    uint32_t struct_bytes;
    const int32_t *prompt; /* n_prompt >= 1 ids; of a model with an encoder, the encoder's input */
    size_t n_prompt;
    /* With an encoder: what the decoder begins with, in place of the model's own start; it counts as the prompt of the
     * output. n_decoder_ids 0: the model's. */
    const int32_t *decoder_ids;
    size_t n_decoder_ids;
    const spey_sampling *sampling; /* NULL: as spey_sampling_init says */
    spey_output_fn on_output;
    void *user;
    int32_t priority;    /* SPEY_PRIORITY_MIN … SPEY_PRIORITY_MAX */
    uint64_t tenant;     /* tenants get equal shares of tokens */
    uint64_t cache_salt; /* only requests of the same salt share cached prefixes */
    int64_t deadline_ms; /* from submit on, then it ends with SPEY_FINISH_TIMEOUT; 0: none */
    spey_process_logits_fn process_logits;
    void *process_user;
    /* Rows to be told: those of all positions of the prompt, in order (again from the first when the request was paused amid its
     * prompt); those that new tokens are chosen from, of each sequence. */
    bool context_logits, generation_logits;
    spey_logits_row_fn on_logits;
    void *logits_user;
    const spey_prompt_table *prompt_table; /* NULL: none. Not of a model with an encoder */
    const spey_retention_range *retention;
    size_t n_retention;
} spey_request_options;

void spey_request_options_init(spey_request_options *options);
/* As spey_context_submit. SPEY_LIMIT: too long, or the queue is full. */
spey_status spey_context_submit_request(spey_context *context, const spey_request_options *options,
                                        uint64_t *out_request);

/* The request ends with SPEY_FINISH_CANCELLED at the next step; an unknown id is SPEY_NOT_FOUND. */
spey_status spey_context_cancel(spey_context *context, uint64_t request);

/* Run one step of everything that is queued or running. *active: requests left. A fault of one request ends that
 * request; an error here means the context is unusable. */
spey_status spey_context_step(spey_context *context, int32_t *active);
/* Step until nothing is left. */
spey_status spey_context_run(spey_context *context);

/* The model's logits for n ids as one sequence from nothing, for evaluation: on_row gets each position's row
 * [vocab_size] in order, borrowed during the call, which it may change. Nothing may be running. */
typedef void (*spey_logits_fn)(void *user, size_t position, float *logits);
spey_status spey_context_logits(spey_context *context, const int32_t *ids, size_t n,
                                spey_logits_fn on_row, void *user);
/* The same for the decoder of a model with an encoder, whose input is `source`. */
spey_status spey_context_decoder_logits(spey_context *context, const spey_id_list *source,
                                        const spey_id_list *ids, spey_logits_fn on_row, void *user);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
