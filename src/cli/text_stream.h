/* A text file as one stream of tokens, for evaluation and calibration. */
#ifndef SPEY_CLI_TEXT_STREAM_H
#define SPEY_CLI_TEXT_STREAM_H

#include "runtime/engine_handle.h"
#include "spey/spey.h"

/* Begin-of-text, text, end-of-text: appended to `out`, which has at least two tokens then. The engine needs a tokenizer. */
spey_status spey_text_stream(const char *path, const spey_engine *engine, spey_ids *out);

/* The stream cut into windows that do not overlap: in window w the model sees `len` tokens from `begin` on, and the one
 * behind each of them is there too. */
typedef struct spey_windows {
    int64_t n_tokens, window, n; /* of the stream; tokens of a window; windows */
} spey_windows;

/* At most `windows_max` of them; 0: all. */
spey_windows spey_windows_cut(int64_t n_tokens, int64_t window, int64_t windows_max);
void spey_windows_at(const spey_windows *windows, int64_t w, int64_t *begin, int64_t *len);

#endif
