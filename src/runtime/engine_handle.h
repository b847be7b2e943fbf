/* The body of the public spey_engine: an engine file with its tokenizer. */
#ifndef SPEY_RUNTIME_ENGINE_HANDLE_H
#define SPEY_RUNTIME_ENGINE_HANDLE_H

#include "engine/engine_file.h"
#include "spey/spey.h"
#include "text/guide_vocab.h"
#include "text/tokenizer.h"

struct spey_engine {
    spey_engine_file *file;
    spey_tokenizer *tokenizer;               /* NULL: the model takes ids only */
    _Atomic(spey_guide_vocab *) guide_vocab; /* made when it is first asked for */
};

/* What each token adds to a text, for guides. The engine's. Any thread. */
spey_status spey_engine_guide_vocab(const spey_engine *engine, const spey_guide_vocab **out);

/* Make an engine of an open file (a virtual one, say). Takes `file`. */
spey_status spey_engine_from_file(spey_engine_file *file, spey_engine **out);

#endif
