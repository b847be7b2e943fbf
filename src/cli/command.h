/* The subcommands of `spey`, and what they share. */
#ifndef SPEY_CLI_COMMAND_H
#define SPEY_CLI_COMMAND_H

#include "base/strbuf.h"
#include "cli/args.h"
#include "spey/spey.h"

/* Each parses its own arguments (argv[0] is the first after the command's name) and returns an exit code. */
enum { SPEY_EXIT_OK = 0, SPEY_EXIT_FAILURE = 1, SPEY_EXIT_USAGE = 2 };

/* clang-format off */
/* X(name, summary) */
#define SPEY_COMMAND_LIST(X)                                                             \
    X(build,    "compile a Hugging Face checkpoint into an engine file")                 \
    X(run,      "generate text, or chat, with an engine or a checkpoint")                \
    X(eval,     "measure perplexity, compare two models, or write logits")                 \
    X(bench,    "measure latency and throughput")                                        \
    X(inspect,  "show everything inside an engine or a checkpoint, and memory plans")    \
    X(tokenize, "turn text into token ids and back")
/* clang-format on */

#define SPEY_COMMAND_DECLARE(name, summary) int spey_cmd_##name(int argc, char **argv);
SPEY_COMMAND_LIST(SPEY_COMMAND_DECLARE)
#undef SPEY_COMMAND_DECLARE

/* When the process began, for times to first token. */
extern uint64_t spey_process_start_ns;

/* Print the last error as one line on stderr; returns the exit code for `status`. */
int spey_report(spey_status status);
/* The same for wrong usage. */
int spey_report_usage(void);
/* Parse a command's arguments. True: go on. False: return *exit_code; the help or the error was printed. */
bool spey_command_begin(const spey_command *command, int argc, char **argv, spey_args *args,
                        int *exit_code);

/* ---- options that several commands have ---- */

typedef struct spey_runtime_flags {
    int64_t threads, context, block, sequences, step_tokens, step_prefill;
    uint64_t kv_bytes, kv_host_bytes, kv_file_bytes, memory;
    const char *kv_file, *kv_dtype, *device, *dtype, *quant, *quant_scales;
    bool batch_invariant, tune;
    int ahead; /* spey_ahead */
} spey_runtime_flags;

/* clang-format off */
#define SPEY_RUNTIME_OPTIONS(f)                                                                              \
    { "threads", SPEY_OPTION_INT, &(f)->threads, "N", "worker threads (default: one per core)", 0, 512 },   \
    { "context", SPEY_OPTION_INT, &(f)->context, "N",                                                       \
      "tokens of one sequence, prompt and output\n(default: what the model was made for)", 0, 134217728 },  \
    { "kv-dtype", SPEY_OPTION_TEXT, &(f)->kv_dtype, "TYPE", "f32, f16, bf16, fp8 or int8 (default: the engine's)", 0, 0 }, \
    { "kv-block", SPEY_OPTION_INT, &(f)->block, "N", "tokens of a KV block (default: 64)", 0, 4096 },       \
    { "kv-memory", SPEY_OPTION_BYTES, &(f)->kv_bytes, "SIZE", "KV cache (default: what the limits need, if it fits)", 0, 0 }, \
    { "kv-host-memory", SPEY_OPTION_BYTES, &(f)->kv_host_bytes, "SIZE",                                     \
      "host memory for evicted KV blocks\n(default: none)", 0, 0 },                                         \
    { "kv-file", SPEY_OPTION_TEXT, &(f)->kv_file, "PATH",                                                   \
      "where KV blocks go that leave memory, from run to run\n(default: they are forgotten)", 0, 0 },       \
    { "kv-file-size", SPEY_OPTION_BYTES, &(f)->kv_file_bytes, "SIZE", "of that file at most (default: 4 GiB)", 0, 0 }, \
    { "memory", SPEY_OPTION_BYTES, &(f)->memory, "SIZE", "cap for everything (default: what is free)", 0, 0 }, \
    { "step-tokens", SPEY_OPTION_INT, &(f)->step_tokens, "N", "tokens of one step (default: 512)", 0, 1048576 }, \
    { "device", SPEY_OPTION_TEXT, &(f)->device, "NAME", "cpu or cuda (default: cpu)", 0, 0 },               \
    { "dtype", SPEY_OPTION_TEXT, &(f)->dtype, "TYPE",                                                       \
      "f32, f16 or bf16, when MODEL is a checkpoint\n(default: as its config says)", 0, 0 },                                          \
    { "quant", SPEY_OPTION_TEXT, &(f)->quant, "NAME", "fp8, when MODEL is a checkpoint or a shape (default: none)", 0, 0 }

/* Of commands that run requests. */
#define SPEY_STEP_OPTIONS(f)                                                                                 \
    { "step-prefill", SPEY_OPTION_INT, &(f)->step_prefill, "N",                                             \
      "prompt tokens of a step in which others decode: bounds\nthe time between tokens (default: no bound)", 0, 1048576 }, \
    { "ahead", SPEY_OPTION_CHOICE, &(f)->ahead, NULL,                                                       \
      "begin a step before the last one's results are there:\ndocs/scheduling.md (default on CUDA)", SPEY_AHEAD_ON, 0 }, \
    { "no-ahead", SPEY_OPTION_CHOICE, &(f)->ahead, NULL, "wait for them (default on the CPU)", SPEY_AHEAD_OFF, 0 }, \
    { "batch-invariant", SPEY_OPTION_FLAG, &(f)->batch_invariant, NULL,                                     \
      "the same bits whatever runs beside a request\n(the CPU always does that)", 0, 0 },                  \
    { "tune", SPEY_OPTION_FLAG, &(f)->tune, NULL,                                                           \
      "find the device's fastest products for this model first,\nand keep them beside the engine: docs/performance.md", 0, 0 }
/* clang-format on */

void spey_context_options_from(const spey_runtime_flags *flags, spey_context_options *out);

/* ---- models ---- */

/* MODEL as users give it: an engine file, or a checkpoint folder, which is built into the cache on first use. */
spey_status spey_open_model(const char *path, const spey_runtime_flags *flags, spey_engine **out);
/* A published shape with random weights. */
spey_status spey_open_shape(const char *name, const spey_runtime_flags *flags, spey_engine **out);

/* The whole of stdin, or of a file, as text. */
spey_status spey_read_input(const char *path_or_null, spey_strbuf *out);

#endif
