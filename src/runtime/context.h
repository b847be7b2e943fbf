/* What commands may see inside a public spey_context. */
#ifndef SPEY_RUNTIME_CONTEXT_H
#define SPEY_RUNTIME_CONTEXT_H

#include "runtime/runner.h"
#include "spey/spey.h"

/* The runner of a context; it stays the context's. */
spey_runner *spey_context_runner(spey_context *context);

#endif
